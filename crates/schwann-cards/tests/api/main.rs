//! The application over HTTP, as its clients see it, with SQLite. `tests/postgres.rs` is the same with PostgreSQL.

#![expect(clippy::unwrap_used, reason = "also outside of functions marked as tests")]

mod accounts;
mod bad_input;
mod books;
mod client;
mod cursors;
mod desk;
mod failing_log;
mod health;
mod notebooks;
mod ownership;
mod protection;
mod publishing;
mod queue;
mod refusal;
mod runners;
mod runs;
mod sandbox;

pub(crate) const DATABASE: client::Database = client::Database::Sqlite;
