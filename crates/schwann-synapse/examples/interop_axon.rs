//! Our axon with the routes of `interop/py_axon.py`, so that real dendrites can be run against it.
//!
//! Prints one JSON line with its hotkey when it accepts connections, and stops on SIGTERM or Ctrl-C.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use schwann::Server;
use schwann_synapse::{
    axon::Axon,
    caller::Verify,
    keys::Keypair,
    python::{Dict, Value},
    ss58::Hotkey,
};
use tokio::signal::unix::{SignalKind, signal};

#[path = "../tests/support/routes.rs"]
mod routes;

const USAGE: &str = "usage: interop_axon --port PORT [--uri URI] [--no-verify] [--like-reference] [--deny-hotkey SS58]..";

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Args {
    port: u16,
    uri: String,
    verify: Verify,
    deny: Vec<Hotkey>,
}

impl Args {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mut port = None;
        let mut parsed = Self {
            port: 0,
            uri: "//interop-axon".to_owned(),
            verify: Verify::default(),
            deny: Vec::new(),
        };
        while let Some(flag) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{flag} takes a value\n{USAGE}"));
            match flag.as_str() {
                "--port" => port = Some(value()?.parse()?),
                "--uri" => parsed.uri = value()?,
                "--deny-hotkey" => parsed.deny.push(value()?.parse()?),
                "--no-verify" => parsed.verify = Verify::Nothing,
                "--like-reference" => parsed.verify = Verify::LikeReference,
                _ => return Err(format!("unknown argument {flag}\n{USAGE}").into()),
            }
        }
        parsed.port = port.ok_or(USAGE)?;
        Ok(parsed)
    }
}

fn main() -> ExitCode {
    let served = Args::parse(std::env::args().skip(1)).and_then(|args| {
        tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(args))
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::from(2)
        }
    }
}

async fn serve(args: Args) -> Result<(), Failure> {
    let mut axon = Axon::builder(Keypair::from_uri(&args.uri)?).verify(args.verify);
    for route in routes::routes("not today") {
        axon = axon.attach(route.deny(args.deny.iter().copied()));
    }
    let axon = axon.build()?;
    let listener = Server::listen(([127, 0, 0, 1], args.port).into())?;
    let mut ready = Dict::new();
    ready.insert("ready", true);
    ready.insert("hotkey", axon.hotkey().to_string());
    ready.insert("port", i64::from(listener.local_addr()?.port()));
    ready.insert("pid", i64::from(std::process::id()));
    ready.insert(
        "synapses",
        Value::List(axon.routes().iter().map(|name| name.as_str().into()).collect()),
    );
    writeln!(io::stdout(), "{}", ready.to_json()?)?;

    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    let server = Server { drain_timeout: Duration::from_secs(1), ..Server::default() };
    server.run(listener, axon, stop).await;
    Ok(())
}
