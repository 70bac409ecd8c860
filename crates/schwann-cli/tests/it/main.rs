//! The binary, as it is typed.

#![expect(clippy::unwrap_used, reason = "also outside of functions marked as tests")]

mod calls;
mod deploy;
mod etl;
mod faces;
mod keys;
mod serve;
mod settings;
mod wrong;

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

/// Well known: the keys of `//Alice` and `//Bob`.
const ALICE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";
const BOB: &str = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty";

/// What a command said.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

/// Runs `schwann` in an empty folder with no settings.
fn schwann(args: &[&str]) -> Said {
    schwann_in(tempfile::tempdir().unwrap().path(), args, &[])
}

fn schwann_in(folder: &Path, args: &[&str], variables: &[(&str, &str)]) -> Said {
    said(command(folder, args, variables).output().unwrap())
}

/// The same with something on stdin.
fn schwann_with(args: &[&str], stdin: &str) -> Said {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path(), args, &[]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Not every command reads it.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    said(child.wait_with_output().unwrap())
}

#[expect(clippy::disallowed_methods, reason = "the binary under test")]
fn command(folder: &Path, args: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_schwann"));
    let ours = std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("SCHWANN_"));
    ours.for_each(|name| {
        command.env_remove(name);
    });
    command.current_dir(folder).args(args).envs(variables.iter().copied()).stdin(Stdio::null());
    command
}

fn said(output: Output) -> Said {
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Said {
    /// Data, and nothing else.
    #[track_caller]
    fn good(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{self:?}");
        self.out
    }

    /// One line that has `expected`, no data, and a code.
    #[track_caller]
    fn bad(&self, code: i32, expected: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert_eq!(self.out, "", "{self:?}");
        let mut lines = self.err.lines();
        let first = lines.next().unwrap_or_default();
        assert!(first.starts_with("error: "), "{self:?}");
        assert!(self.err.contains(expected), "no {expected:?} in {}", self.err);
        assert!(lines.all(|line| line.starts_with("hint: ")), "{self:?}");
    }
}
