//! A server in one of the roles of the conformance client (`interop/etl`).
//!
//! Reads the contract's environment variables, prints one JSON line with its address and process id when it accepts
//! connections, and drains at SIGTERM.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    process::ExitCode,
};

use schwann::Server;
use schwann_etl::{EtlServer, EtlSettings, raise_open_files};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

#[path = "../tests/support/roles.rs"]
mod roles;

const USAGE: &str = "usage: conformance --role \
    echo|echo-stream|md5|upper|gzip|probe|probe-stream|fqn --listen ADDRESS [--target URL]";

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Args {
    role: String,
    listen: SocketAddr,
    /// In place of AIS_TARGET_URL.
    target: Option<String>,
}

fn main() -> ExitCode {
    let served = args(std::env::args().skip(1)).and_then(|args| {
        tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(args))
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn args(mut args: impl Iterator<Item = String>) -> Result<Args, Failure> {
    let (mut role, mut listen, mut target) = (None, None, None);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or(USAGE)?;
        match flag.as_str() {
            "--role" => role = Some(value),
            "--listen" => listen = Some(value.parse()?),
            "--target" => target = Some(value),
            _ => return Err(USAGE.into()),
        }
    }
    let (role, listen) = (role.ok_or(USAGE)?, listen.ok_or(USAGE)?);
    Ok(Args { role, listen, target })
}

#[expect(clippy::disallowed_methods, reason = "a program that reads the contract's variables")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

async fn serve(args: Args) -> Result<(), Failure> {
    let Args { role, listen, target } = args;
    let transform = roles::role(&role).ok_or_else(|| format!("no role is called {role}"))?;
    let settings = EtlSettings::from_variables(|name| match &target {
        Some(url) if name == "AIS_TARGET_URL" => Some(url.clone()),
        _ => variable(name),
    })?;
    raise_open_files();
    let mut etl = EtlServer::new(settings, transform)?;
    if role == "fqn" {
        etl = etl.accepts_files();
    }
    let listener = Server::listen(listen)?;
    let listen = listener.local_addr()?.to_string();
    let ready = json!({ "ready": true, "listen": listen, "pid": std::process::id() });
    writeln!(io::stdout(), "{ready}")?;
    let mut end = signal(SignalKind::terminate())?;
    let shutdown = async move {
        end.recv().await;
    };
    EtlServer::http().run(listener, etl, shutdown).await;
    Ok(())
}
