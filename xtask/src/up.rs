//! `cargo xtask up`: builds page and binary and becomes the binary.

use std::{os::unix::process::CommandExt as _, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    steps::{cargo, program},
    web,
};

/// Builds `schwann` and runs `schwann up` in this process's place, so that
/// Ctrl-C and the exit code are its own.
pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    web::build()?;
    let built = cargo(&["build", "--package", "schwann-cli", "--bin", "schwann"])
        .status()
        .context("cannot run cargo")?;
    if !built.success() {
        bail!("the binary does not build; the compiler's message is above");
    }
    let out = cargo(&["metadata", "--no-deps", "--format-version=1"]).output()?;
    let meta: Value = serde_json::from_slice(&out.stdout).context("cargo metadata")?;
    let target = meta["target_directory"].as_str().context("cargo names no target directory")?;
    let binary = format!("{target}/debug/schwann");
    let error = program(&binary).arg("up").args(args).exec();
    Err(error).with_context(|| format!("cannot run {binary}"))
}
