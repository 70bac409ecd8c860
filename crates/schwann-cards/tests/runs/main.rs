//! The durable log, its readers and what they send, over real files.

mod cuts;
mod following;
mod resuming;
mod support;
