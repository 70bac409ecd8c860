//! The OpenAPI document, and the interface, against tools that others made.

#![expect(clippy::unwrap_used, reason = "also outside of functions marked as tests")]

use std::{path::Path, time::Duration};

use schwann_testkit::peer::{self, Report};

use crate::client::Site;

#[allow(dead_code, reason = "one client for several programs")]
#[path = "api/client.rs"]
mod client;

pub(crate) const DATABASE: client::Database = client::Database::Sqlite;

/// Operations that a program which makes up requests must not use: one would end its own session, the other's answer never ends.
const LEFT_OUT: &[&str] = &["login-logout", "runs-read_events"];

async fn run(args: &[&str]) -> Report {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../interop/openapi_peer.py");
    let script = script.to_str().unwrap();
    let args = std::iter::once(script).chain(args.iter().copied());
    peer::run(peer::interpreter("SCHWANN_PEER_OPENAPI"), args, Duration::from_secs(500)).await
}

#[tokio::test]
async fn the_document_passes_a_validator() {
    let site = Site::start().await;
    let url = format!("http://{}/api/v1/openapi.json", site.address());
    run(&["validate", &url]).await.expect_all(2);
}

#[tokio::test]
async fn no_request_makes_the_server_fail() {
    let site = Site::start().await;
    let url = format!("http://{}/api/v1/openapi.json", site.address());
    let token = site.superuser().await;
    let mut args = vec!["fuzz", &url, &token];
    args.extend(LEFT_OUT);
    run(&args).await.expect_all(1);
    // It is as well as before.
    site.get("/users/me", &token).await.expect(200);
}
