//! Bittensor synapses in Rust: the wire of the Python SDK 7 to 10, and `btauth/1` of SDK 11.

pub mod admission;
pub mod axon;
pub mod axon_info;
pub mod btauth;
pub mod call_error;
mod convert;
pub mod dendrite;
pub mod hash;
pub mod headers;
mod json;
pub mod keys;
pub mod metrics;
pub mod nonce;
mod nonprintable;
pub mod python;
pub mod ss58;
pub mod synapse;
pub mod tensor;
pub mod terminal;
pub mod wallet;
