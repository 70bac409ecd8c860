//! `cargo xtask ci`: everything `test` runs, and what only a change needs.

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    Choice, instructions,
    steps::{Steps, cargo},
    test,
};

/// Runs every check that can run without a network.
pub(crate) fn run() -> Result<ExitCode> {
    let mut steps = Steps::default();
    test::tests(&Choice::default(), &mut steps)?;
    let mut docs = cargo(&["doc", "--workspace", "--no-deps", "--document-private-items"]);
    steps.run("documentation", docs.env("RUSTDOCFLAGS", "-D warnings"));
    let have_deny = cargo(&["deny", "--version"]).output().is_ok_and(|out| out.status.success());
    if have_deny {
        // Advisories are fetched from a network; the rest is not.
        let checks = ["deny", "--offline", "check", "bans", "licenses", "sources"];
        steps.run("dependencies", &mut cargo(&checks));
    } else {
        // xtask/src/deny.rs has checked the same file, in the tests above.
        steps.leave("dependencies by cargo-deny", "not installed: cargo install cargo-deny");
    }
    instructions::check(&mut steps);
    Ok(steps.finish())
}
