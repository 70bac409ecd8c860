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
            "UPDATE runs SET status = 'finished', finished_at = $1, reason = $2, exit_code = $3, signal = $4, \
             elapsed_ms = $5, cpu_ms = $6, max_rss_bytes = $7, stdout_bytes = $8, stderr_bytes = $9, truncated = $10, \
             last_seq = $11, ended_by = $12 \
             WHERE id = $13 AND status <> 'finished' AND server NOT IN (SELECT id FROM servers WHERE alive = 1)",
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

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    async fn store() -> (Store, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), None).await.unwrap();
        (store, folder)
    }

    async fn seen(store: &Store, id: &str) -> ServerRow {
        let servers = store.servers().await.unwrap();
        servers.into_iter().find(|server| server.id == id).unwrap()
    }

    /// A run that a server has.
    async fn run_of(store: &Store, server: &str, status: &str) -> Uuid {
        sqlx::query(
            "INSERT INTO users (id, email, password_hash, is_active, is_superuser, created_at) \
             VALUES ($1, 'owner', '', 1, 0, 0) ON CONFLICT DO NOTHING",
        )
        .bind(Uuid::nil().to_string())
        .execute(&store.pool)
        .await
        .unwrap();
        let id = Uuid::new_v4();
        sqlx::query(
            "INSERT INTO runs (id, owner_id, server, status, code, language, request, sandbox, cancel_requested, \
             queued_at, stdout_bytes, stderr_bytes, truncated, last_seq) \
             VALUES ($1, $2, $3, $4, '', 'sh', '{}', 'none', 0, 0, 0, 0, 0, 0)",
        )
        .bind(id.to_string())
        .bind(Uuid::nil().to_string())
        .bind(server)
        .bind(status)
        .execute(&store.pool)
        .await
        .unwrap();
        id
    }

    fn end(reason: &'static str, last_seq: i64) -> RunEnd {
        RunEnd {
            reason,
            exit_code: None,
            signal: None,
            elapsed_ms: None,
            cpu_ms: None,
            max_rss_bytes: None,
            stdout_bytes: 0,
            stderr_bytes: 0,
            truncated: false,
            last_seq,
        }
    }

    #[tokio::test]
    async fn who_was_given_up_beats_no_more_until_it_begins_anew() {
        let (store, _folder) = store().await;
        let epoch = store.register_server("a").await.unwrap();
        assert!(store.beat("a", epoch).await.unwrap());
        assert!(store.is_alive("a").await.unwrap());
        let silent = seen(&store, "a").await;
        assert!(store.give_up_server(&silent).await.unwrap());
        assert!(!store.give_up_server(&silent).await.unwrap(), "twice");
        assert!(!store.is_alive("a").await.unwrap());
        let given_up = seen(&store, "a").await;
        assert!(!store.beat("a", epoch).await.unwrap());
        // Not by a guess at the number either.
        assert!(!store.beat("a", given_up.epoch).await.unwrap());
        let anew = store.register_server("a").await.unwrap();
        assert!(store.beat("a", anew).await.unwrap());
        assert!(store.is_alive("a").await.unwrap());
        assert!(!store.beat("a", epoch).await.unwrap(), "it goes on as what was given up");
    }

    #[tokio::test]
    async fn who_beat_or_began_anew_since_it_was_seen_is_not_given_up() {
        let (store, _folder) = store().await;
        let epoch = store.register_server("a").await.unwrap();
        let before = seen(&store, "a").await;
        assert!(store.beat("a", epoch).await.unwrap());
        assert!(!store.give_up_server(&before).await.unwrap(), "it beat");
        store.register_server("a").await.unwrap();
        let anew = seen(&store, "a").await;
        assert_eq!(anew.beat, before.beat);
        assert!(!store.give_up_server(&before).await.unwrap(), "it began anew");
        assert!(store.is_alive("a").await.unwrap());
    }

    #[tokio::test]
    async fn runs_of_a_lost_server_are_ended_by_one_and_those_of_a_living_one_by_nobody() {
        let (store, _folder) = store().await;
        for server in ["a", "b"] {
            store.register_server(server).await.unwrap();
        }
        let running = run_of(&store, "a", "running").await;
        let queued = run_of(&store, "a", "queued").await;
        let other = run_of(&store, "b", "running").await;
        let now = Moment::now();
        let lost = end("server_restart", 7);
        for run in [running, queued, other] {
            assert!(!store.end_lost_run(run, "b", &lost, now).await.unwrap(), "its server lives");
        }
        assert_eq!(store.lost_runs(10).await.unwrap(), []);

        assert!(store.give_up_server(&seen(&store, "a").await).await.unwrap());
        let mut found: Vec<_> =
            store.lost_runs(10).await.unwrap().iter().map(|run| run.id).collect();
        found.sort();
        let mut all = [running, queued];
        all.sort();
        assert_eq!(found, all);
        for run in all {
            assert!(store.end_lost_run(run, "b", &lost, now).await.unwrap());
            let again = end("exit", 9);
            assert!(!store.end_lost_run(run, "c", &again, now).await.unwrap(), "ended twice");
            let row = store.run(run).await.unwrap().unwrap();
            assert_eq!((row.reason.as_deref(), row.last_seq), (Some("server_restart"), 7));
        }
        assert_eq!(store.lost_runs(10).await.unwrap(), []);
        assert!(!store.end_lost_run(other, "c", &lost, now).await.unwrap());

        // What waited there does not begin, and its own server's word counts, once.
        assert!(!store.begin_run(queued, now).await.unwrap(), "begun after its end");
        let mut theirs = store.runs_ended_by_others("a").await.unwrap();
        theirs.sort();
        assert_eq!(theirs, all);
        assert!(store.finish_run(running, &end("cancelled", 8), now).await.unwrap());
        assert!(!store.finish_run(running, &end("exit", 9), now).await.unwrap());
        let row = store.run(running).await.unwrap().unwrap();
        assert_eq!((row.reason.as_deref(), row.last_seq), (Some("cancelled"), 8));
        assert_eq!(store.runs_ended_by_others("a").await.unwrap(), [queued]);
    }

    #[tokio::test]
    async fn who_stops_forgets_those_that_have_stopped_and_left_nothing() {
        let (store, _folder) = store().await;
        let mut epochs = Vec::new();
        for server in ["living", "stopped", "with a run", "a"] {
            epochs.push(store.register_server(server).await.unwrap());
        }
        run_of(&store, "with a run", "finished").await;
        for (server, epoch) in [("with a run", epochs[2]), ("stopped", epochs[1]), ("a", epochs[3])]
        {
            store.leave(server, epoch).await.unwrap();
        }
        let mut left: Vec<_> = store.servers().await.unwrap();
        left.sort_by(|one, other| one.id.cmp(&other.id));
        let left: Vec<_> = left.iter().map(|server| (&*server.id, server.alive)).collect();
        assert_eq!(left, [("a", false), ("living", true), ("with a run", false)]);
        // Who was given up does not end what it has begun since.
        let anew = store.register_server("a").await.unwrap();
        store.leave("a", epochs[3]).await.unwrap();
        assert!(store.beat("a", anew).await.unwrap());
    }
}
