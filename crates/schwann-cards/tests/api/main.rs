//! The application over HTTP, as its clients see it.

mod client;
mod health;
