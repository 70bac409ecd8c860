//! What `cargo xtask bench` starts for cards: the servers that are measured, and what drives them.
//!
//! Each is a process of its own. It prints one JSON line when it is ready, and ends when its input does.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use schwann_testkit::part::{dismissed, hear, say};

mod client;
mod load;
mod servers;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const USAGE: &str = "these are parts of a measurement: run `cargo xtask bench`";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let part = args.next().unwrap_or_default();
    let done = match (part.as_str(), args.next(), args.next()) {
        ("server", Some(folder), None) => servers::ours(&folder),
        ("reference", Some(python), None) => servers::reference(&python),
        ("load", None, None) => load::run(),
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

/// As programs run by default: a thread per core.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}
