//! `#[derive(Synapse)]`.
