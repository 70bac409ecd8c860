//! What the proofs share.

/// The path of `AIS_TARGET_URL`.
pub(crate) const PREFIX: &str = "/v1/etl/_object/etl-x/s3cr3t";

#[path = "../support/client.rs"]
pub(crate) mod client;
#[path = "../support/roles.rs"]
pub(crate) mod roles;
#[path = "../support/scripted.rs"]
pub(crate) mod scripted;
#[path = "../support/served.rs"]
pub(crate) mod served;
