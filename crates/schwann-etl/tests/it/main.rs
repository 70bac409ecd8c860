//! The ETL server at the wire, between a caller and a target of the test's own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "shared with the other test programs, which use the rest")]

mod careless;
mod delivery;
mod files;
mod routes;
mod tls;
mod watching;

/// The path of `AIS_TARGET_URL`.
pub(crate) const PREFIX: &str = "/v1/etl/_object/etl-x/s3cr3t";

#[path = "../support/client.rs"]
mod client;
#[path = "../support/scripted.rs"]
mod scripted;
#[path = "../support/served.rs"]
mod served;

/// The header that sends a result to `name` at `target`.
fn to(target: &scripted::Scripted, name: &str) -> String {
    format!("Ais-Node-Url: http://{}/ais%2F@%23%2Fdst%2F{name}?owt=3&uuid=x\r\n", target.address)
}
