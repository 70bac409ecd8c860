//! A list of things to run, each timed, all of them run even if one fails.

use std::{
    ffi::OsStr,
    fmt,
    io::Write,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use crate::top;

/// Writes one line to stderr.
pub(crate) fn say(line: fmt::Arguments<'_>) {
    // Nothing can be said if stderr is closed.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// A program to run in the workspace's folder.
#[expect(clippy::disallowed_methods, reason = "chores are programs that start programs")]
pub(crate) fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command.current_dir(top());
    command
}

/// The cargo that runs this.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = program(env!("CARGO"));
    command.args(args);
    command
}

/// What ran, how it ended, and how long it took.
#[derive(Debug, Default)]
pub(crate) struct Steps(Vec<(String, Outcome, Duration)>);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Passed,
    Failed,
    Left,
}

impl Steps {
    /// Runs one step and remembers how it ended. Returns whether it passed.
    pub(crate) fn run(&mut self, name: &str, command: &mut Command) -> bool {
        say(format_args!("\n== {name}"));
        let started = Instant::now();
        let passed = match command.status() {
            Ok(status) => status.success(),
            Err(error) => {
                say(format_args!("error: cannot run {command:?}: {error}"));
                false
            }
        };
        self.note(name, passed, started.elapsed());
        passed
    }

    /// Remembers a step that was not a program.
    pub(crate) fn note(&mut self, name: &str, passed: bool, took: Duration) {
        let outcome = if passed { Outcome::Passed } else { Outcome::Failed };
        self.0.push((name.to_owned(), outcome, took));
    }

    /// Remembers a step that was left out, and why.
    pub(crate) fn leave(&mut self, name: &str, why: &str) {
        self.0.push((format!("{name} ({why})"), Outcome::Left, Duration::ZERO));
    }

    /// Says what ran; fails if a step did.
    pub(crate) fn finish(self) -> ExitCode {
        let all: Duration = self.0.iter().map(|(_, _, took)| *took).sum();
        say(format_args!("\n== what ran"));
        for (name, outcome, took) in &self.0 {
            let word = match outcome {
                Outcome::Passed => "passed",
                Outcome::Failed => "FAILED",
                Outcome::Left => "left out",
            };
            say(format_args!("{word:>8}  {:>7.1} s  {name}", took.as_secs_f64()));
        }
        let failed = self.0.iter().filter(|(_, outcome, _)| *outcome == Outcome::Failed).count();
        if failed > 0 {
            say(format_args!("{failed} of {} steps failed", self.0.len()));
            return ExitCode::FAILURE;
        }
        say(format_args!("all steps passed in {:.0} s", all.as_secs_f64()));
        ExitCode::SUCCESS
    }
}
