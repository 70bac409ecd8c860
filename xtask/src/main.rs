//! The workspace's own chores. `cargo xtask help` lists them.
//!
//! Each command prepares what it needs, so that `cargo xtask up` and
//! `cargo xtask test` are all that a fresh clone asks for.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

mod bench;
mod ci;
mod instructions;
mod peers;
mod steps;
mod test;
mod up;
mod web;

#[cfg(test)]
mod arrows;
#[cfg(test)]
mod deny;
#[cfg(test)]
mod rules;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "The workspace's own chores")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Builds page and binary and runs `schwann up`; further arguments are handed on to it
    Up {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Prepares what is missing (Python environments with the real SDKs) and runs every test
    Test(Choice),
    /// `test`, and the checks of documentation, dependencies and instruction counts
    Ci,
    /// Measures CPU time per operation, side by side with bare hyper and with Python, and prints one table
    Bench(bench::Wish),
    /// Counts the codec's instructions with valgrind and compares them with the baseline
    Instructions {
        /// Make these counts the baseline
        #[arg(long)]
        update: bool,
    },
    /// Only prepares the Python environments, and prints lines that a shell can read
    Peers,
}

/// Which tests to run.
#[derive(Args, Clone, Debug, Default)]
struct Choice {
    /// Leave out the tests that need Python and the real SDKs
    #[arg(long)]
    no_peers: bool,
    /// Run the ETL conformance client against the real Python servers as well (some minutes)
    #[arg(long, conflicts_with = "no_peers")]
    peers: bool,
    /// Leave out the page: its build, and its tests in a browser
    #[arg(long)]
    no_page: bool,
    /// Only tests whose name contains this, without formatting and lint checks
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().chore {
        Chore::Up { args } => up::run(&args),
        Chore::Test(choice) => test::run(&choice),
        Chore::Ci => ci::run(),
        Chore::Instructions { update } => instructions::run(update),
        Chore::Bench(wish) => bench::run(&wish),
        Chore::Peers => peers::print(),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            steps::say(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The folder of the workspace.
fn top() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask is a folder in the workspace").to_owned()
}
