//! The application over HTTP, as its clients see it, with PostgreSQL and, where it is installed, Redis: the tests
//! of `tests/api`.

#![expect(clippy::unwrap_used, reason = "also outside of functions marked as tests")]

#[path = "api/accounts.rs"]
mod accounts;
#[path = "api/bad_input.rs"]
mod bad_input;
#[path = "api/books.rs"]
mod books;
#[path = "api/client.rs"]
mod client;
#[path = "api/cursors.rs"]
mod cursors;
#[path = "api/desk.rs"]
mod desk;
#[path = "api/health.rs"]
mod health;
#[path = "api/notebooks.rs"]
mod notebooks;
#[path = "api/ownership.rs"]
mod ownership;
#[path = "api/protection.rs"]
mod protection;
#[path = "api/publishing.rs"]
mod publishing;
#[path = "api/queue.rs"]
mod queue;
#[path = "api/runners.rs"]
mod runners;
#[path = "api/runs.rs"]
mod runs;
#[path = "api/sandbox.rs"]
mod sandbox;

pub(crate) const DATABASE: client::Database = match cfg!(feature = "redis") {
    true => client::Database::PostgresAndRedis,
    false => client::Database::Postgres,
};
