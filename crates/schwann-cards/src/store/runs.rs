//! What is known about runs. What they print is in their logs.

use std::time::Duration;

use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{Any, Transaction, any::AnyRow};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    CardChange, CardKind, Columns, Store, StoreError,
    cards::{self, CardError},
    read_all, strange,
};
use crate::moment::Moment;

/// A run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Run {
    pub(crate) id: Uuid,
    pub(crate) owner_id: Uuid,
    /// `None` once the book is gone.
    pub(crate) book_id: Option<Uuid>,
    /// `None` once the card is gone.
    pub(crate) card_id: Option<Uuid>,
    /// The server that has it.
    pub(crate) server: String,
    /// The same for runs that were started together.
    pub(crate) batch_id: Option<Uuid>,
    pub(crate) status: RunStatus,
    /// What was run.
    pub(crate) code: String,
    pub(crate) language: String,
    /// Standard input, arguments, environment, terminal and limits, as the runner wrote them.
    pub(crate) request: Value,
    pub(crate) sandbox: String,
    pub(crate) cancel_requested: bool,
    pub(crate) queued_at: Moment,
    pub(crate) started_at: Option<Moment>,
    pub(crate) finished_at: Option<Moment>,
    /// Why it ended, if it did.
    pub(crate) reason: Option<String>,
    pub(crate) exit_code: Option<i64>,
    pub(crate) signal: Option<i64>,
    pub(crate) elapsed_ms: Option<i64>,
    pub(crate) cpu_ms: Option<i64>,
    pub(crate) max_rss_bytes: Option<i64>,
    pub(crate) stdout_bytes: i64,
    pub(crate) stderr_bytes: i64,
    pub(crate) truncated: bool,
    pub(crate) last_seq: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RunStatus {
    /// It waits for its turn.
    Queued,
    /// It runs.
    Running,
    /// It ended, for better or worse.
    Finished,
}

/// A run to be, as the runner describes it.
#[derive(Clone, Debug)]
pub(crate) struct NewRun {
    pub(crate) id: Uuid,
    pub(crate) server: String,
    pub(crate) batch_id: Option<Uuid>,
    pub(crate) request: Value,
    pub(crate) sandbox: String,
}

/// What happens if the card runs already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OnBusy {
    /// The new run is refused.
    #[default]
    Reject,
    /// It is added beside the others.
    Queue,
    /// The others are cancelled.
    Replace,
}

/// How long the same key means the same run.
const KEYS: Duration = Duration::from_secs(24 * 3600);

/// A key under which a request may be repeated, and what the request was.
#[derive(Clone, Debug)]
pub(crate) struct KeyUse {
    pub(crate) key: String,
    /// Of everything in the request that counts.
    pub(crate) request_hash: String,
}

/// Saving a card and inserting a run of it, in one transaction.
///
/// Whether the user may do so is decided before, with [`Store::book`].
#[derive(Clone, Debug)]
pub(crate) struct SaveAndRun {
    pub(crate) user_id: Uuid,
    pub(crate) book_id: Uuid,
    pub(crate) card_id: Uuid,
    /// What the request says of the card.
    pub(crate) change: CardChange,
    /// Whether that is saved, or only run.
    pub(crate) save: bool,
    /// The version that the card must be at.
    pub(crate) version: Option<i64>,
    pub(crate) run: NewRun,
    pub(crate) key: Option<KeyUse>,
    pub(crate) on_busy: OnBusy,
    /// Most runs of this user that are not finished.
    pub(crate) max_unfinished: u32,
    /// Most runs of all users that wait.
    pub(crate) max_queued: u32,
}

/// What came of [`Store::save_and_run`].
#[derive(Clone, Debug)]
pub(crate) struct Started {
    pub(crate) run: Run,
    /// Whether the run was there already, under the same key.
    pub(crate) repeated: bool,
    /// Runs of the same card that are to be cancelled now.
    pub(crate) replaced: Vec<Uuid>,
}

/// Why nothing was saved and nothing will run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SaveAndRunError {
    #[error("there is no such card in this book")]
    NotFound,
    #[error("the card is text, which cannot be run")]
    NotCode,
    #[error("the card is at version {0}")]
    OtherVersion(i64),
    #[error("the card is running already")]
    Busy(Uuid),
    #[error("the key was used for another request")]
    KeyReused,
    #[error("too many runs of this user wait or run")]
    Quota,
    #[error("too many runs wait")]
    QueueFull,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RunEnd {
    pub(crate) reason: &'static str,
    pub(crate) exit_code: Option<i64>,
    pub(crate) signal: Option<i64>,
    pub(crate) elapsed_ms: Option<i64>,
    pub(crate) cpu_ms: Option<i64>,
    pub(crate) max_rss_bytes: Option<i64>,
    pub(crate) stdout_bytes: i64,
    pub(crate) stderr_bytes: i64,
    pub(crate) truncated: bool,
    pub(crate) last_seq: i64,
}

/// Which runs are wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunFilter {
    pub(crate) book_id: Option<Uuid>,
    pub(crate) card_id: Option<Uuid>,
    pub(crate) batch_id: Option<Uuid>,
    pub(crate) status: Option<RunStatus>,
    pub(crate) skip: i64,
    pub(crate) limit: i64,
}

impl From<sqlx::Error> for SaveAndRunError {
    fn from(error: sqlx::Error) -> Self {
        StoreError(error).into()
    }
}

impl From<CardError> for SaveAndRunError {
    fn from(error: CardError) -> Self {
        match error {
            CardError::OtherVersion(version) => Self::OtherVersion(version),
            CardError::Store(error) => Self::Store(error),
            CardError::NotFound | CardError::Full | CardError::OtherCards => Self::NotFound,
        }
    }
}

impl RunStatus {
    /// Whether nothing more will happen.
    pub(crate) fn is_finished(self) -> bool {
        self == Self::Finished
    }

    fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Finished => "finished",
        }
    }

    fn parse(word: &str) -> Result<Self, sqlx::Error> {
        match word {
            "queued" => Ok(Self::Queued),
            "running" => Ok(Self::Running),
            "finished" => Ok(Self::Finished),
            other => Err(strange("status", other)),
        }
    }
}

pub(super) fn run(row: &AnyRow) -> Result<Run, sqlx::Error> {
    Ok(Run {
        id: row.id("id")?,
        owner_id: row.id("owner_id")?,
        book_id: row.maybe_id("book_id")?,
        card_id: row.maybe_id("card_id")?,
        server: row.text("server")?,
        batch_id: row.maybe_id("batch_id")?,
        status: RunStatus::parse(&row.text("status")?)?,
        code: row.text("code")?,
        language: row.text("language")?,
        request: serde_json::from_str(&row.text("request")?).map_err(|error| {
            sqlx::Error::ColumnDecode { index: "request".to_owned(), source: Box::new(error) }
        })?,
        sandbox: row.text("sandbox")?,
        cancel_requested: row.flag("cancel_requested")?,
        queued_at: row.moment("queued_at")?,
        started_at: row.maybe_moment("started_at")?,
        finished_at: row.maybe_moment("finished_at")?,
        reason: row.maybe_text("reason")?,
        exit_code: row.maybe_number("exit_code")?,
        signal: row.maybe_number("signal")?,
        elapsed_ms: row.maybe_number("elapsed_ms")?,
        cpu_ms: row.maybe_number("cpu_ms")?,
        max_rss_bytes: row.maybe_number("max_rss_bytes")?,
        stdout_bytes: row.number("stdout_bytes")?,
        stderr_bytes: row.number("stderr_bytes")?,
        truncated: row.flag("truncated")?,
        last_seq: row.number("last_seq")?,
    })
}

/// Runs that user `$1` may see: their own, and those of their books.
const VISIBLE: &str =
    "(r.owner_id = $1 OR r.book_id IN (SELECT b.id FROM books b WHERE b.owner_id = $1))";

/// A row of `runs r` without what was run, which may be a megabyte: for lists.
const LISTED: &str = "r.id, r.owner_id, r.book_id, r.card_id, r.server, r.batch_id, r.status, CAST('' AS TEXT) AS code, \
     r.language, r.request, r.sandbox, r.cancel_requested, r.queued_at, r.started_at, r.finished_at, r.reason, r.exit_code, \
     r.signal, r.elapsed_ms, r.cpu_ms, r.max_rss_bytes, r.stdout_bytes, r.stderr_bytes, r.truncated, r.last_seq";

impl Store {
    /// Saves a card and inserts a queued run of it, both or neither.
    pub(crate) async fn save_and_run(
        &self,
        wanted: &SaveAndRun,
        now: Moment,
    ) -> Result<Started, SaveAndRunError> {
        let mut transaction = self.begin().await?;
        let before = cards::lock(&mut transaction, wanted.book_id, wanted.card_id, now).await?;
        if let Some(key) = &wanted.key
            && let Some(run) = repeated(&mut transaction, wanted.user_id, key, now).await?
        {
            return Ok(Started { run, repeated: true, replaced: Vec::new() });
        }
        if before.kind != CardKind::Code {
            return Err(SaveAndRunError::NotCode);
        }
        let mut card = before.clone();
        let changed = cards::change(&mut card, &wanted.change, wanted.version, now)?;
        let language = card.language.clone().ok_or(SaveAndRunError::NotCode)?;

        let unfinished = unfinished_of_card(&mut transaction, wanted.card_id).await?;
        let replaced = match (wanted.on_busy, unfinished.first()) {
            (OnBusy::Reject, Some(busy)) => return Err(SaveAndRunError::Busy(*busy)),
            (OnBusy::Replace, Some(_)) => unfinished,
            (OnBusy::Queue, _) | (_, None) => Vec::new(),
        };
        let (own,): (i64,) = sqlx::query_as(
            "SELECT COUNT(*) FROM runs WHERE owner_id = $1 AND status <> 'finished'",
        )
        .bind(wanted.user_id.to_string())
        .fetch_one(&mut *transaction)
        .await?;
        if own - replaced.len() as i64 >= i64::from(wanted.max_unfinished) {
            return Err(SaveAndRunError::Quota);
        }
        let (queued,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM runs WHERE status = 'queued'")
            .fetch_one(&mut *transaction)
            .await?;
        if queued >= i64::from(wanted.max_queued) {
            return Err(SaveAndRunError::QueueFull);
        }

        let run = Run {
            id: wanted.run.id,
            owner_id: wanted.user_id,
            book_id: Some(wanted.book_id),
            card_id: Some(wanted.card_id),
            server: wanted.run.server.clone(),
            batch_id: wanted.run.batch_id,
            status: RunStatus::Queued,
            code: card.code.clone(),
            language,
            request: wanted.run.request.clone(),
            sandbox: wanted.run.sandbox.clone(),
            cancel_requested: false,
            queued_at: now,
            started_at: None,
            finished_at: None,
            reason: None,
            exit_code: None,
            signal: None,
            elapsed_ms: None,
            cpu_ms: None,
            max_rss_bytes: None,
            stdout_bytes: 0,
            stderr_bytes: 0,
            truncated: false,
            last_seq: 0,
        };
        if changed && wanted.save {
            cards::save(&mut transaction, &card).await?;
        }
        insert(&mut transaction, &run).await?;
        if let Some(key) = &wanted.key {
            let kept = sqlx::query(
                "INSERT INTO idempotency_keys (user_id, key, request_hash, run_id, created_at) \
                 VALUES ($1, $2, $3, $4, $5) ON CONFLICT (user_id, key) DO UPDATE SET \
                 request_hash = excluded.request_hash, run_id = excluded.run_id, created_at = excluded.created_at \
                 WHERE idempotency_keys.created_at <= $6",
            )
            .bind(wanted.user_id.to_string())
            .bind(&key.key)
            .bind(&key.request_hash)
            .bind(run.id.to_string())
            .bind(now.millis())
            .bind(now.before(KEYS).millis())
            .execute(&mut *transaction)
            .await?;
            if kept.rows_affected() == 0 {
                // Only where two cards are run with one key at the same moment.
                return Err(SaveAndRunError::KeyReused);
            }
        }
        transaction.commit().await?;
        Ok(Started { run, repeated: false, replaced })
    }

    /// The run, whoever's it is.
    pub(crate) async fn run(&self, id: Uuid) -> Result<Option<Run>, StoreError> {
        let row = sqlx::query("SELECT * FROM runs WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.as_ref().map(run).transpose()?)
    }

    /// The run, if it is the user's or of one of the user's books.
    pub(crate) async fn run_for(&self, user_id: Uuid, id: Uuid) -> Result<Option<Run>, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT r.* FROM runs r WHERE {VISIBLE} AND r.id = $2"
        )))
        .bind(user_id.to_string())
        .bind(id.to_string())
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.as_ref().map(run).transpose()?)
    }

    /// Runs that a user may see, newest first, and how many there are. Their code is empty here, and each is let go before the next
    /// is read: a run may have a megabyte of input.
    pub(crate) async fn runs<T>(
        &self,
        user_id: Uuid,
        filter: &RunFilter,
        each: impl Fn(Run) -> T,
    ) -> Result<(Vec<T>, i64), StoreError> {
        // Casts, because PostgreSQL wants to know the type of a value that is compared to nothing but NULL.
        let which = format!(
            "FROM runs r WHERE {VISIBLE} \
             AND (CAST($2 AS TEXT) IS NULL OR r.book_id = $2) \
             AND (CAST($3 AS TEXT) IS NULL OR r.card_id = $3) \
             AND (CAST($4 AS TEXT) IS NULL OR r.batch_id = $4) \
             AND (CAST($5 AS TEXT) IS NULL OR r.status = $5)"
        );
        let words = [
            filter.book_id.map(|id| id.to_string()),
            filter.card_id.map(|id| id.to_string()),
            filter.batch_id.map(|id| id.to_string()),
            filter.status.map(|status| status.word().to_owned()),
        ];
        let mut rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT {LISTED} {which} ORDER BY r.queued_at DESC, r.id DESC LIMIT $6 OFFSET $7"
        )))
        .bind(user_id.to_string());
        let mut count = sqlx::query_as(sqlx::AssertSqlSafe(format!("SELECT COUNT(*) {which}")))
            .bind(user_id.to_string());
        for word in &words {
            rows = rows.bind(word);
            count = count.bind(word);
        }
        let mut rows = rows.bind(filter.limit).bind(filter.skip).fetch(&self.pool);
        let mut found = Vec::new();
        while let Some(row) = rows.try_next().await? {
            found.push(each(run(&row)?));
        }
        // Its connection may be the only one.
        drop(rows);
        let (count,): (i64,) = count.fetch_one(&self.pool).await?;
        Ok((found, count))
    }

    /// The newest run of a card. Its code is empty here.
    pub(crate) async fn last_run(&self, card_id: Uuid) -> Result<Option<Run>, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT {LISTED} FROM runs r WHERE r.card_id = $1 ORDER BY r.queued_at DESC, r.id DESC LIMIT 1"
        )))
        .bind(card_id.to_string())
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.as_ref().map(run).transpose()?)
    }

    /// The newest run of each card of a book. Their code is empty here.
    pub(crate) async fn last_runs(&self, book_id: Uuid) -> Result<Vec<Run>, StoreError> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT {LISTED} FROM runs r WHERE r.id IN (SELECT (SELECT n.id FROM runs n WHERE n.card_id = c.id \
             ORDER BY n.queued_at DESC, n.id DESC LIMIT 1) FROM cards c WHERE c.book_id = $1)"
        )))
        .bind(book_id.to_string())
        .fetch_all(&self.pool)
        .await?;
        read_all(&rows, run)
    }

    /// All runs that are not finished, oldest first: of one server, or of all.
    pub(crate) async fn unfinished_runs(
        &self,
        server: Option<&str>,
    ) -> Result<Vec<Run>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM runs WHERE status <> 'finished' AND (CAST($1 AS TEXT) IS NULL OR server = $1) \
             ORDER BY queued_at, id",
        )
        .bind(server)
        .fetch_all(&self.pool)
        .await?;
        read_all(&rows, run)
    }

    /// The runs that wait on a server, in the order in which they came.
    pub(crate) async fn waiting_runs(&self, server: &str) -> Result<Vec<Uuid>, StoreError> {
        let rows = sqlx::query(
            "SELECT id FROM runs WHERE status = 'queued' AND server = $1 ORDER BY queued_at, id",
        )
        .bind(server)
        .fetch_all(&self.pool)
        .await?;
        read_all(&rows, |row| row.id("id"))
    }

    /// Notes that a queued run begins. False if it is not queued any more.
    pub(crate) async fn begin_run(&self, id: Uuid, at: Moment) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE runs SET status = 'running', started_at = $1 WHERE id = $2 AND status = 'queued'",
        )
        .bind(at.millis())
        .bind(id.to_string())
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Notes how a run ended, as its own server says: in place of what another server said meanwhile, but not of what itself did.
    /// False if there was nothing to note.
    pub(crate) async fn finish_run(
        &self,
        id: Uuid,
        end: &RunEnd,
        at: Moment,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE runs SET status = 'finished', finished_at = COALESCE(finished_at, $1), reason = $2, exit_code = $3, \
             signal = $4, elapsed_ms = $5, cpu_ms = $6, max_rss_bytes = $7, stdout_bytes = $8, stderr_bytes = $9, \
             truncated = $10, last_seq = $11, ended_by = NULL \
             WHERE id = $12 AND (status <> 'finished' OR ended_by IS NOT NULL)",
        )
        .bind(at.millis())
        .bind(end.reason)
        .bind(end.exit_code)
        .bind(end.signal)
        .bind(end.elapsed_ms)
        .bind(end.cpu_ms)
        .bind(end.max_rss_bytes)
        .bind(end.stdout_bytes)
        .bind(end.stderr_bytes)
        .bind(i64::from(end.truncated))
        .bind(end.last_seq)
        .bind(id.to_string())
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Notes that a run is to be cancelled. False if it is finished.
    pub(crate) async fn request_cancel(&self, id: Uuid) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE runs SET cancel_requested = 1 WHERE id = $1 AND status <> 'finished'",
        )
        .bind(id.to_string())
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Forgets a finished run. False if there is none, or it is not finished.
    pub(crate) async fn delete_run(&self, id: Uuid) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM runs WHERE id = $1 AND status = 'finished'")
            .bind(id.to_string())
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Finished runs that need not be kept: those that ended before `before`, and of each card all but the newest `per_card`.
    /// At most `limit`, oldest first, each with its server.
    pub(crate) async fn expired_runs(
        &self,
        before: Moment,
        per_card: u32,
        limit: i64,
    ) -> Result<Vec<(Uuid, String)>, StoreError> {
        let rows = sqlx::query(
            "SELECT r.id, r.server FROM (SELECT id, server, queued_at, finished_at, card_id, \
             ROW_NUMBER() OVER (PARTITION BY card_id ORDER BY queued_at DESC, id DESC) AS place \
             FROM runs WHERE status = 'finished') r \
             WHERE r.finished_at < $1 OR (r.card_id IS NOT NULL AND r.place > $2) \
             ORDER BY r.queued_at, r.id LIMIT $3",
        )
        .bind(before.millis())
        .bind(i64::from(per_card))
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        read_all(&rows, |row| Ok((row.id("id")?, row.text("server")?)))
    }

    /// Forgets idempotency keys that mean nothing any more.
    pub(crate) async fn forget_keys(&self, now: Moment) -> Result<u64, StoreError> {
        let done = sqlx::query("DELETE FROM idempotency_keys WHERE created_at <= $1")
            .bind(now.before(KEYS).millis())
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected())
    }
}

/// The run that was started with this key before, if that is not too long ago.
async fn repeated(
    transaction: &mut Transaction<'static, Any>,
    user_id: Uuid,
    key: &KeyUse,
    now: Moment,
) -> Result<Option<Run>, SaveAndRunError> {
    let row = sqlx::query(
        "SELECT r.*, k.request_hash FROM idempotency_keys k JOIN runs r ON r.id = k.run_id \
         WHERE k.user_id = $1 AND k.key = $2 AND k.created_at > $3",
    )
    .bind(user_id.to_string())
    .bind(&key.key)
    .bind(now.before(KEYS).millis())
    .fetch_optional(&mut **transaction)
    .await?;
    let Some(row) = row else { return Ok(None) };
    if row.text("request_hash")? != key.request_hash {
        return Err(SaveAndRunError::KeyReused);
    }
    Ok(Some(run(&row)?))
}

async fn unfinished_of_card(
    transaction: &mut Transaction<'static, Any>,
    card_id: Uuid,
) -> Result<Vec<Uuid>, StoreError> {
    let rows = sqlx::query(
        "SELECT id FROM runs WHERE card_id = $1 AND status <> 'finished' ORDER BY queued_at, id",
    )
    .bind(card_id.to_string())
    .fetch_all(&mut **transaction)
    .await?;
    read_all(&rows, |row| row.id("id"))
}

async fn insert(transaction: &mut Transaction<'static, Any>, run: &Run) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO runs (id, owner_id, book_id, card_id, server, batch_id, status, code, language, request, \
         sandbox, cancel_requested, queued_at, stdout_bytes, stderr_bytes, truncated, last_seq) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 0, $12, 0, 0, 0, 0)",
    )
    .bind(run.id.to_string())
    .bind(run.owner_id.to_string())
    .bind(run.book_id.map(|id| id.to_string()))
    .bind(run.card_id.map(|id| id.to_string()))
    .bind(&run.server)
    .bind(run.batch_id.map(|id| id.to_string()))
    .bind(run.status.word())
    .bind(&run.code)
    .bind(&run.language)
    .bind(run.request.to_string())
    .bind(&run.sandbox)
    .bind(run.queued_at.millis())
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
