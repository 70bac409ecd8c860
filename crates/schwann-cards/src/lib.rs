//! Books of code cards: run a program safely, stream its output, lose nothing.
//!
//! [`Application`] is the whole: it opens its folder and database and is a [`Handler`](schwann::Handler) that the core serves. The
//! API and its reasons are in `docs/cards.md` of the project, and at `/docs` of a running server.

mod api;
mod app;
mod elsewhere;
mod exchange;
pub mod framing;
mod in_place;
mod input;
mod language;
mod live;
mod log_file;
mod metrics;
mod moment;
mod notebook;
mod outlet;
mod page;
mod password;
mod problem;
mod published;
mod publisher;
mod rate;
pub mod reader;
pub mod record;
mod remote_log;
pub mod run_log;
mod runner;
mod runs;
mod sample;
mod serve;
mod settings;
mod signed_in;
mod store;

pub use self::app::{Application, StartError};
pub use self::metrics::CardsMetrics;
pub use self::outlet::{CallingRun, Outlet};
pub use self::published::{
    Beside, Mount, Place, PublishedCall, PublishedCard, PublishedError, PublishedRun, Refused,
};
pub use self::settings::{CardsSettings, LanguageSettings};
pub use self::store::Face;
