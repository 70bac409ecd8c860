//! The axon on real connections: who is asked in which order, who waits for whom, and who stops when.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod busy;
mod leaving;
mod order;
mod running;
mod serving;
mod table;
