//! The two ends of a call, ours and the SDK's. All four take the same flags.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use schwann_testkit::peer::{self, Peer, Report, free_port, interpreter};

/// Twenty cases take 4 seconds alone, and longer where a machine is busy.
const CASES_WITHIN: Duration = Duration::from_secs(180);

/// A program, and what comes before its own arguments.
pub(crate) struct End {
    program: PathBuf,
    script: Option<PathBuf>,
}

impl End {
    /// A script run by the SDK in the environment that this variable names.
    pub(crate) fn python(variable: &str, script: &str) -> Self {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../interop");
        Self { program: interpreter(variable), script: Some(scripts.join(script)) }
    }

    /// One of our examples: what the variable names, or what cargo has built
    /// beside this test.
    pub(crate) fn ours(variable: &str, example: &str) -> Self {
        if let Some(program) = std::env::var_os(variable) {
            return Self { program: program.into(), script: None };
        }
        let test = std::env::current_exe().expect("this test has a path");
        // target/debug/deps/interop-1234 -> target/debug/examples/NAME
        let profile = test.ancestors().nth(2).expect("two folders above a test");
        let program = profile.join("examples").join(example);
        let hint = "`cargo build -p schwann-synapse --examples` makes it";
        assert!(program.exists(), "no {}: {hint}", program.display());
        Self { program, script: None }
    }

    fn arguments(&self, own: &[&str]) -> Vec<PathBuf> {
        self.script.iter().cloned().chain(own.iter().map(PathBuf::from)).collect()
    }

    /// Starts this end as an axon.
    pub(crate) async fn serve(&self) -> Peer {
        self.serve_with(&[]).await
    }

    /// The same, with these flags before the others.
    pub(crate) async fn serve_with(&self, first: &[&str]) -> Peer {
        let port = free_port().to_string();
        let own = [first, &["--port", &port, "--uri", "//interop-axon"]].concat();
        let axon = Peer::start(&self.program, self.arguments(&own)).await;
        assert_eq!(axon.ready()["port"].to_string(), port, "told to listen there");
        axon
    }

    /// Runs this end as a dendrite against that axon, with all cases.
    pub(crate) async fn call(&self, axon: &Peer) -> Report {
        self.call_with(&[], axon).await
    }

    /// The same, with these flags before the others.
    pub(crate) async fn call_with(&self, first: &[&str], axon: &Peer) -> Report {
        let port = axon.ready()["port"].to_string();
        let own = ["--port", &port, "--axon-hotkey", axon.said("hotkey"), "--cases", "all"];
        self.run(&[first, &own].concat()).await
    }

    /// Runs this end to its end.
    pub(crate) async fn run(&self, own: &[&str]) -> Report {
        peer::run(&self.program, self.arguments(own), CASES_WITHIN).await
    }
}

pub(crate) fn our_axon() -> End {
    End::ours("SCHWANN_INTEROP_AXON", "interop_axon")
}

pub(crate) fn our_dendrite() -> End {
    End::ours("SCHWANN_INTEROP_DENDRITE", "interop_dendrite")
}
