//! The dendrite, at the wire: against axons that say exactly what a test tells them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod closing;
mod errors;
mod fake;
mod many;
mod requests;
mod streams;
mod transport;
