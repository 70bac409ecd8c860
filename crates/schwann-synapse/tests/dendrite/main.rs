//! The dendrite, at the wire: against axons that say exactly what a test tells them.

mod closing;
mod errors;
mod fake;
mod many;
mod requests;
mod streams;
mod transport;
