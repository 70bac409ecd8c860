//! The conformance client of `interop/etl` against our server in every role, and with the feature `sdk-servers` against
//! the web servers of AIStore's own SDK, so that the checks themselves stay honest.

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use schwann_testkit::peer;

/// How many checks there are.
const CHECKS: usize = 172;

/// The whole client takes a minute and a half where nothing else runs.
const AT_MOST: Duration = Duration::from_secs(540);

fn client() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../interop/etl/run.py").display().to_string()
}

/// The example that serves every role. Cargo builds examples beside the tests.
fn roles() -> PathBuf {
    let test = env::current_exe().expect("a test has a path");
    let folder = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
    let path = folder.join("examples/conformance");
    assert!(path.exists(), "{} is missing: cargo build -p schwann-etl --examples", path.display());
    path
}

/// Most of the time is spent waiting, so three parts run beside each other.
#[tokio::test]
async fn our_server_passes_every_check_of_the_conformance_client() {
    let python = peer::interpreter("SCHWANN_PYTHON");
    let roles = roles().display().to_string();
    let args = [client(), "program".into(), "--program".into(), roles];
    peer::run_in_parts(python, args, 3, AT_MOST).await.expect_all(CHECKS);
}

/// Known deviations are in `interop/etl/known.json`; any other fails.
#[cfg(feature = "sdk-servers")]
mod sdk {
    use super::*;

    async fn passes(family: &str) {
        let python = peer::interpreter("SCHWANN_PEER_AISTORE");
        peer::run(&python, [client(), family.to_owned()], AT_MOST).await.expect_all(CHECKS);
    }

    #[tokio::test]
    async fn the_fastapi_server_is_as_recorded() {
        passes("fastapi").await;
    }

    #[tokio::test]
    async fn the_flask_server_under_gunicorn_is_as_recorded() {
        passes("flask").await;
    }

    #[tokio::test]
    async fn the_flask_development_server_is_as_recorded() {
        passes("flaskdev").await;
    }

    #[tokio::test]
    async fn the_threaded_server_is_as_recorded() {
        passes("http").await;
    }
}
