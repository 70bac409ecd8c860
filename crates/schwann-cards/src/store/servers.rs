//! The servers that share a database, and the runs of those that were lost.

use uuid::Uuid;

use super::{Columns as _, Run, RunEnd, Store, StoreError, read_all, runs::run};
use crate::moment::Moment;

/// A server, as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerRow {
    pub(crate) id: String,
    pub(crate) epoch: i64,
    pub(crate) beat: i64,
    pub(crate) alive: bool,
}

impl Store {
    /// The id of this installation, which all servers of the database share.
    pub(crate) async fn installation(&self) -> Result<Uuid, StoreError> {
        sqlx::query(
            "INSERT INTO installation (place, id) VALUES (1, $1) ON CONFLICT (place) DO NOTHING",
        )
        .bind(Uuid::new_v4().to_string())
        .execute(&self.pool)
        .await?;
        let row = sqlx::query("SELECT id FROM installation WHERE place = 1")
            .fetch_one(&self.pool)
            .await?;
        Ok(row.id("id")?)
    }

    /// Notes that a server begins, and gives the number by which it may go on.
    pub(crate) async fn register_server(&self, id: &str) -> Result<i64, StoreError> {
        let row = sqlx::query(
            "INSERT INTO servers (id, epoch, beat, alive) VALUES ($1, 1, 0, 1) \
             ON CONFLICT (id) DO UPDATE SET epoch = servers.epoch + 1, beat = 0, alive = 1 RETURNING epoch",
        )
        .bind(id)
        .fetch_one(&self.pool)
        .await?;
        Ok(row.number("epoch")?)
    }

    /// Shows others that a server lives. False if it was given up.
    pub(crate) async fn beat(&self, id: &str, epoch: i64) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE servers SET beat = beat + 1 WHERE id = $1 AND epoch = $2 AND alive = 1",
        )
        .bind(id)
        .bind(epoch)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// All servers that are known.
    pub(crate) async fn servers(&self) -> Result<Vec<ServerRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM servers").fetch_all(&self.pool).await?;
        read_all(&rows, |row| {
            Ok(ServerRow {
                id: row.text("id")?,
                epoch: row.number("epoch")?,
                beat: row.number("beat")?,
                alive: row.flag("alive")?,
            })
        })
    }

    /// Gives up a server that is still as it was seen. False if it is not: then it lives, or was given up by another.
    pub(crate) async fn give_up_server(&self, seen: &ServerRow) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE servers SET alive = 0, epoch = epoch + 1 \
             WHERE id = $1 AND epoch = $2 AND beat = $3 AND alive = 1",
        )
        .bind(&seen.id)
        .bind(seen.epoch)
        .bind(seen.beat)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Notes that a server stops, and forgets the servers of which nothing is left.
    pub(crate) async fn leave(&self, id: &str, epoch: i64) -> Result<(), StoreError> {
        sqlx::query("UPDATE servers SET alive = 0 WHERE id = $1 AND epoch = $2")
            .bind(id)
            .bind(epoch)
            .execute(&self.pool)
            .await?;
        sqlx::query(
            "DELETE FROM servers WHERE alive = 0 AND id <> $1 \
             AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.server = servers.id)",
        )
        .bind(id)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Unfinished runs of servers that were given up or have stopped, oldest first.
    pub(crate) async fn lost_runs(&self, limit: i64) -> Result<Vec<Run>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM runs WHERE status <> 'finished' \
             AND server NOT IN (SELECT id FROM servers WHERE alive = 1) ORDER BY queued_at, id LIMIT $1",
        )
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        read_all(&rows, run)
    }

    /// Whether a server lives, as far as is known.
    pub(crate) async fn is_alive(&self, server: &str) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT alive FROM servers WHERE id = $1")
            .bind(server)
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.map(|row| row.flag("alive")).transpose()?.unwrap_or(false))
    }

    /// Ends a run in place of its server. False if it has ended, or its server is back.
    pub(crate) async fn end_lost_run(
        &self,
        run: Uuid,
        by: &str,
        end: &RunEnd,
        at: Moment,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE runs SET status = 'finished', finished_at = $1, reason = $2, elapsed_ms = $3, \
             stdout_bytes = $4, stderr_bytes = $5, last_seq = $6, ended_by = $7 \
             WHERE id = $8 AND status <> 'finished' AND server NOT IN (SELECT id FROM servers WHERE alive = 1)",
        )
        .bind(at.millis())
        .bind(end.reason)
        .bind(end.elapsed_ms)
        .bind(end.stdout_bytes)
        .bind(end.stderr_bytes)
        .bind(end.last_seq)
        .bind(by)
        .bind(run.to_string())
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Notes that another server ended the log of a finished run, whose own server could not.
    pub(crate) async fn note_ended_by(&self, run: Uuid, by: &str) -> Result<(), StoreError> {
        sqlx::query("UPDATE runs SET ended_by = $1 WHERE id = $2 AND status = 'finished'")
            .bind(by)
            .bind(run.to_string())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Runs of a server that another ended in its place.
    pub(crate) async fn runs_ended_by_others(&self, server: &str) -> Result<Vec<Uuid>, StoreError> {
        let rows = sqlx::query("SELECT id FROM runs WHERE server = $1 AND ended_by IS NOT NULL")
            .bind(server)
            .fetch_all(&self.pool)
            .await?;
        read_all(&rows, |row| row.id("id"))
    }
}
