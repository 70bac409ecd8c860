//! The durable log, its readers and what they send, over real files.

#![expect(clippy::unwrap_used, reason = "also outside of functions marked as tests")]

mod cuts;
mod damage;
mod following;
mod resuming;
mod support;
