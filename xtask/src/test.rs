//! `cargo xtask test`: prepares what is missing and runs every test.

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::Result;

use crate::{
    Choice, peers,
    peers::Peers,
    steps::{Steps, cargo, say},
    web,
};

/// Turns on the tests that meet the real SDKs.
const PEERS: &str = "schwann-synapse/peers,schwann-cli/peers,schwann-etl/peers,schwann-cards/peers";

/// Turns on the runs of the ETL conformance client against the SDK's own servers, which take minutes and test its checks.
const ETL_SERVERS: &str = "schwann-etl/sdk-servers";

/// Turns on the tests that start a PostgreSQL server.
const POSTGRES: &str = "schwann-cards/postgres";

/// Turns on the tests that start a Redis server.
const REDIS: &str = "schwann-cards/redis";

/// Runs the tests. A failing step does not keep the next from running.
///
/// # Errors
///
/// Fails before any test if the Python environments or the page cannot be made.
pub(crate) fn run(choice: &Choice) -> Result<ExitCode> {
    let mut steps = Steps::default();
    tests(choice, &mut steps)?;
    Ok(steps.finish())
}

pub(crate) fn tests(choice: &Choice, steps: &mut Steps) -> Result<()> {
    let peers = if choice.no_peers {
        steps.leave("Python environments with the real SDKs", "--no-peers");
        None
    } else {
        let started = Instant::now();
        say(format_args!("== Python environments with the real SDKs"));
        let peers = peers::prepare_those(|name| choice.peers || name != peers::ETL_SERVERS)?;
        steps.note("Python environments with the real SDKs", true, started.elapsed());
        Some(peers)
    };
    let peers = peers.as_ref();
    if !has_postgres() {
        steps.leave(
            "cards with PostgreSQL",
            "there is no server below /usr/lib/postgresql; apt-get install postgresql",
        );
    }
    if !has_redis() {
        steps.leave(
            "cards of several servers",
            "there is no /usr/bin/redis-server; apt-get install redis-server",
        );
    }
    // Rust's own tests look at the built page too.
    if choice.no_page {
        steps.leave("the page", "--no-page");
    } else {
        let started = Instant::now();
        say(format_args!("\n== the page"));
        web::build()?;
        steps.note("the page", true, started.elapsed());
    }
    if choice.filter.is_none() {
        steps.run("formatting", &mut cargo(&["fmt", "--all", "--check"]));
        let mut lints = with(choice, &["clippy", "--workspace", "--all-targets"], peers);
        steps.run("lints", lints.args(["--", "-D", "warnings"]));
    }
    // The interop tests start the examples, so these come first. `cargo test`
    // with `--tests` would not build them.
    let mut examples = with(choice, &["build", "--workspace", "--examples"], peers);
    steps.run("examples", &mut examples);
    let filter = choice.filter.as_deref();
    let targets = ["test", "--workspace", "--no-fail-fast", "--lib", "--bins", "--tests"];
    steps.run("unit, integration and interop tests", with(choice, &targets, peers).args(filter));
    let docs = ["test", "--workspace", "--no-fail-fast", "--doc"];
    steps.run("examples in the documentation", with(choice, &docs, peers).args(filter));
    if !choice.no_page && choice.filter.is_none() {
        // With the features of the other steps, so that it is there already.
        web::tests(steps, with(choice, &["build", "--workspace", "--bins"], peers));
    }
    Ok(())
}

/// Cargo with the same features in every step, so that nothing is built twice.
fn with(choice: &Choice, args: &[&str], peers: Option<&Peers>) -> Command {
    let mut command = cargo(args);
    if let Some(peers) = peers {
        command.args(["--features", PEERS]).envs(peers.environment());
        if choice.peers {
            command.args(["--features", ETL_SERVERS]);
        }
    }
    if has_postgres() {
        command.args(["--features", POSTGRES]);
    }
    if has_redis() {
        command.args(["--features", REDIS]);
    }
    command
}

/// Whether the system's packages have brought a PostgreSQL server.
fn has_postgres() -> bool {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
    versions.map(|version| version.path().join("bin/initdb")).any(|program| program.exists())
}

/// Whether the system's packages have brought a Redis server.
fn has_redis() -> bool {
    Path::new("/usr/bin/redis-server").exists()
}
