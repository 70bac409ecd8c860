//! What is remembered: users, tokens, books, cards, shares and what is known about runs.
//!
//! One code base for SQLite, in the data folder, and PostgreSQL: the same statements, with `$1` for values and only text and 64-bit
//! numbers in columns. Transactions are short and never wait for a client; a stream holds none.

mod books;
mod cards;
mod publications;
mod runs;
mod servers;
mod shares;
mod tokens;
mod users;

use std::{path::Path, time::Duration};

use sqlx::{
    Any, AnyPool, Connection as _, Row as _, Transaction,
    any::{AnyPoolOptions, AnyRow, install_default_drivers},
    migrate::Migrator,
};
use uuid::Uuid;

pub use self::publications::Face;
pub(crate) use self::{
    books::{Access, Book, BookChange},
    cards::{Card, CardChange, CardError, CardKind, NewCard},
    publications::{NewPublication, Publication, PublishError},
    runs::{
        KeyUse, NewRun, OnBusy, Run, RunEnd, RunFilter, RunStatus, SaveAndRun, SaveAndRunError,
    },
    servers::ServerRow,
    shares::{Role, Share, ShareError},
    tokens::{Scope, Scopes, Token, TokenKind},
    users::{User, UserChange, UserError},
};
use crate::moment::Moment;

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// The database. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pool: AnyPool,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sqlite,
    Postgres,
}

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("database: {0}")]
pub(crate) struct StoreError(#[source] sqlx::Error);

/// Most connections to PostgreSQL of one server. SQLite has one writer at a time, so fewer do.
const POSTGRES_CONNECTIONS: u32 = 16;
const SQLITE_CONNECTIONS: u32 = 4;
/// Longest wait for a connection, or for another's transaction.
const BUSY: Duration = Duration::from_secs(10);

impl Store {
    /// Opens the database of this folder, or the PostgreSQL at `url`, and brings its tables up to date.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be reached or written, or was made by a newer version.
    pub(crate) async fn open(data: &Path, url: Option<&str>) -> Result<Self, StoreError> {
        install_default_drivers();
        let kind = if url.is_some() { Kind::Postgres } else { Kind::Sqlite };
        let connections = match kind {
            Kind::Sqlite => SQLITE_CONNECTIONS,
            Kind::Postgres => POSTGRES_CONNECTIONS,
        };
        let options = AnyPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(BUSY)
            // SQLite rolls back by itself when there is no room. The driver is told that there is nothing to roll back, takes it
            // that the transaction is still there, and could never begin another.
            .before_acquire(|connection, _| {
                Box::pin(async move { Ok(!connection.is_in_transaction()) })
            })
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    if kind == Kind::Sqlite {
                        // FULL: what was committed survives a loss of power.
                        for pragma in [
                            "PRAGMA busy_timeout = 10000",
                            "PRAGMA journal_mode = WAL",
                            "PRAGMA synchronous = FULL",
                            "PRAGMA foreign_keys = ON",
                        ] {
                            sqlx::raw_sql(pragma).execute(&mut *connection).await?;
                        }
                    }
                    Ok(())
                })
            });
        let url = match url {
            Some(url) => url.to_owned(),
            None => sqlite_url(&data.join("cards.sqlite")),
        };
        let pool = options.connect(&url).await.map_err(StoreError)?;
        MIGRATIONS
            .run(&pool)
            .await
            .map_err(|error| StoreError(sqlx::Error::Migrate(Box::new(error))))?;
        Ok(Self { pool, kind })
    }

    /// Whether the database answers.
    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.pool).await.map(drop).map_err(StoreError)
    }

    /// Closes all connections. For an orderly end; nothing is lost without it.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }

    /// A transaction that will write. Rolled back if it is dropped.
    ///
    /// SQLite is told so at its start: a transaction that reads first and then wants to write fails at once when another writes.
    async fn begin(&self) -> Result<Transaction<'static, Any>, StoreError> {
        let begin = match self.kind {
            Kind::Sqlite => "BEGIN IMMEDIATE",
            Kind::Postgres => "BEGIN",
        };
        self.pool.begin_with(begin).await.map_err(StoreError)
    }
}

impl StoreError {
    /// Whether there was no room.
    pub(crate) fn is_full(&self) -> bool {
        // SQLite: SQLITE_FULL (13). PostgreSQL: class 53, insufficient resources, disk_full.
        self.code().is_some_and(|code| code == "13" || code == "53100")
    }

    /// Whether it cannot be reached, so that the same may succeed later.
    pub(crate) fn is_unavailable(&self) -> bool {
        match &self.0 {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => true,
            // SQLITE_BUSY, SQLITE_LOCKED, SQLITE_IOERR and their extended codes, whose low byte is the code.
            // PostgreSQL: serialization, deadlock, connections, shutting down.
            sqlx::Error::Database(_) => self.code().is_some_and(|code| {
                let number = code.parse::<u32>().ok().filter(|_| code.len() < 5);
                number.is_some_and(|number| matches!(number & 0xff, 5 | 6 | 10))
                    || code.starts_with("08")
                    || code.starts_with("40")
                    || code.starts_with("53")
                    || code.starts_with("57P")
            }),
            _ => false,
        }
    }

    /// Whether something with this name is there already.
    fn is_duplicate(&self) -> bool {
        self.0.as_database_error().is_some_and(|error| error.is_unique_violation())
    }

    fn code(&self) -> Option<String> {
        self.0.as_database_error()?.code().map(|code| code.into_owned())
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self(error)
    }
}

/// The characters that mean something in a URL, escaped.
fn sqlite_url(path: &Path) -> String {
    let mut url = String::from("sqlite://");
    for byte in path.to_string_lossy().bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' => {
                url.push(char::from(byte))
            }
            _ => url.push_str(&format!("%{byte:02X}")),
        }
    }
    url.push_str("?mode=rwc");
    url
}

/// Values out of a row, in the types that are stored.
trait Columns {
    fn text(&self, name: &str) -> Result<String, sqlx::Error>;
    fn maybe_text(&self, name: &str) -> Result<Option<String>, sqlx::Error>;
    fn number(&self, name: &str) -> Result<i64, sqlx::Error>;
    fn maybe_number(&self, name: &str) -> Result<Option<i64>, sqlx::Error>;

    fn id(&self, name: &str) -> Result<Uuid, sqlx::Error> {
        parse_id(name, &self.text(name)?)
    }

    fn maybe_id(&self, name: &str) -> Result<Option<Uuid>, sqlx::Error> {
        self.maybe_text(name)?.map(|text| parse_id(name, &text)).transpose()
    }

    fn flag(&self, name: &str) -> Result<bool, sqlx::Error> {
        Ok(self.number(name)? != 0)
    }

    fn moment(&self, name: &str) -> Result<Moment, sqlx::Error> {
        self.number(name).map(Moment::from_millis)
    }

    fn maybe_moment(&self, name: &str) -> Result<Option<Moment>, sqlx::Error> {
        Ok(self.maybe_number(name)?.map(Moment::from_millis))
    }
}

impl Columns for AnyRow {
    fn text(&self, name: &str) -> Result<String, sqlx::Error> {
        self.try_get(name)
    }

    fn maybe_text(&self, name: &str) -> Result<Option<String>, sqlx::Error> {
        self.try_get(name)
    }

    fn number(&self, name: &str) -> Result<i64, sqlx::Error> {
        self.try_get(name)
    }

    fn maybe_number(&self, name: &str) -> Result<Option<i64>, sqlx::Error> {
        self.try_get(name)
    }
}

fn parse_id(name: &str, text: &str) -> Result<Uuid, sqlx::Error> {
    Uuid::parse_str(text).map_err(|error| sqlx::Error::ColumnDecode {
        index: name.to_owned(),
        source: Box::new(error),
    })
}

/// A word of a column that is none of those it can be.
fn strange(name: &str, word: &str) -> sqlx::Error {
    sqlx::Error::ColumnDecode {
        index: name.to_owned(),
        source: format!("`{word}` is not known").into(),
    }
}

/// All rows, each read by `read`.
fn read_all<T>(
    rows: &[AnyRow],
    read: impl Fn(&AnyRow) -> Result<T, sqlx::Error>,
) -> Result<Vec<T>, StoreError> {
    rows.iter().map(read).collect::<Result<_, _>>().map_err(StoreError)
}

/// `%text%` for a `LIKE … ESCAPE '\'`, in lower case.
fn containing(text: &str) -> String {
    let mut pattern = String::from("%");
    for letter in text.to_lowercase().chars() {
        if matches!(letter, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern.push('%');
    pattern
}
