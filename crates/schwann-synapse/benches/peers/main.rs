//! What `cargo xtask bench` starts: the servers and clients that are measured, and those that drive them.
//!
//! Each is a process of its own. It prints one JSON line when it is ready, and ends when its input does.

use std::{
    io::{self, Read as _, Write as _},
    process::ExitCode,
};

use serde_json::Value;

mod axon;
#[path = "../../tests/support/echo.rs"]
mod echo;
mod fan_out;
mod load;
mod reference;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const USAGE: &str = "these are parts of a measurement: run `cargo xtask bench`";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let part = args.next().unwrap_or_default();
    let done = match (part.as_str(), args.next()) {
        ("axon", Some(denied)) => axon::run(&denied),
        ("reference", None) => reference::run(),
        ("load", None) => load::run(),
        ("axons", Some(count)) => fan_out::axons(&count),
        ("fan-out", None) => fan_out::ours(),
        ("fan-out-reference", None) => fan_out::reference(),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{part}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One line to the process that started this one.
fn say(line: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// The next line of the process that started this one; `None` when it is gone.
fn hear() -> Result<Option<Value>, Failure> {
    let mut line = String::new();
    match io::stdin().read_line(&mut line)? {
        0 => Ok(None),
        _ => Ok(Some(serde_json::from_str(&line)?)),
    }
}

/// Completes when the process that started this one is gone, or wants this one gone.
async fn dismissed() {
    let (gone, wait) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        let _ = gone.send(());
    });
    let _ = wait.await;
}

/// As programs run by default: a thread per core.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}
