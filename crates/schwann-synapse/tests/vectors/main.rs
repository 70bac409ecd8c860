//! What the SDK was recorded to do, and we must do alike: every vector of every file, or the test fails.
//!
//! `SCHWANN_VECTORS` names the folder, `vectors/synapse` of the workspace otherwise; `SCHWANN_SHAPES` the file of synapse
//! classes. A file, section or entry that no module checks fails; see `set`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod annotation;
mod answers_alike;
mod asked;
mod axon_differences;
mod axon_info;
mod body_hash;
mod btauth1;
mod captures_axon;
mod captures_client;
mod headers;
mod literal;
mod nonce_window;
mod nonprintable;
#[path = "../numbers/mod.rs"]
mod numbers;
mod recorded_routes;
mod set;
mod shapes;
mod shapes_wire;
mod signatures;
mod tensors;

#[path = "../support/exchange.rs"]
mod exchange;
#[path = "../support/routes.rs"]
mod routes;

/// Every kind of file there is a module for.
const KINDS: &[&set::Kind] = &[
    &body_hash::KIND,
    &headers::KIND,
    &tensors::KIND,
    &axon_info::KIND,
    &nonprintable::KIND,
    &captures_client::KIND,
    &captures_client::INDEX,
];

/// Files that a module reads whole as a `set::Set`.
const SETS: &[&str] = &["signatures", "nonce_window", "btauth1"];

/// Kinds whose modules are still being written. A name goes when its module comes.
const TO_COME: &[&str] = &[];

#[test]
fn every_file_and_every_section_has_a_check() {
    set::check_that_all_is_covered();
}
