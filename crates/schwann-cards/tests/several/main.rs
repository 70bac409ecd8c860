//! Several servers that share PostgreSQL and Redis: the tests of runs again, each request of which goes to another server than the
//! one before, and what only several can show.

#![expect(clippy::unwrap_used, reason = "also outside of functions marked as tests")]

#[path = "../api/client.rs"]
#[allow(dead_code, reason = "not all of it is asked for here")]
mod client;
#[path = "../api/cursors.rs"]
mod cursors;
#[path = "../api/desk.rs"]
mod desk;
#[path = "../api/queue.rs"]
mod queue;
#[path = "../api/runners.rs"]
mod runners;
#[path = "../api/runs.rs"]
mod runs;
#[path = "../api/sandbox.rs"]
mod sandbox;
mod shared;

pub(crate) const DATABASE: client::Database = client::Database::Several;
