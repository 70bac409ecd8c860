//! The folder of logs: which are written and which are read, how a lost one gets its end, what is kept and how long.

use std::{
    collections::HashMap,
    fmt,
    fs::{self, File},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, Weak},
    time::{Duration, SystemTime},
};

use uuid::Uuid;

use super::{RunLog, Tail, TailState, lock};
use crate::{
    in_place::InPlace,
    log_file::{self, LogFile},
    metrics::Counters,
    record::{Exit, Reason},
};

/// What is kept, and for how long.
#[derive(Clone, Debug)]
pub struct Retention {
    /// Older logs are removed.
    pub age: Duration,
    /// The oldest are removed until there are no more than this.
    pub count: usize,
    /// The oldest are removed until they take no more than this, in bytes.
    pub total_bytes: u64,
    /// New runs are refused while the disk has less free, in bytes.
    pub min_free_bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            age: Duration::from_secs(30 * 24 * 3600),
            count: 10_000,
            total_bytes: 10 << 30,
            min_free_bytes: 64 << 20,
        }
    }
}

/// A run whose log was given its last record after it was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The run.
    pub run: Uuid,
    /// How it ended.
    pub exit: Exit,
    /// Id of the last record.
    pub last_seq: u64,
}

/// What [`RunLogs::tend`](super::RunLogs::tend) did.
#[derive(Debug, Default)]
pub struct Tended {
    /// Logs that have a last record now.
    pub recovered: Vec<Recovered>,
    /// Logs that were removed.
    pub removed: Vec<Uuid>,
}

pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) retention: Retention,
    pub(super) counters: Counters,
    pub(super) in_place: InPlace,
    /// Logs that are written by this server; none while one is being made.
    pub(super) live: Mutex<HashMap<Uuid, Option<Arc<RunLog>>>>,
    /// Logs that have ended and are being read.
    pub(super) stored: Mutex<HashMap<Uuid, Weak<RunLog>>>,
    /// Ends of runs that their logs could not take.
    pub(super) owed: Mutex<HashMap<Uuid, Exit>>,
    /// Held until the server ends, however it ends. None once it is closed.
    pub(super) lock: Mutex<Option<File>>,
}

/// Frees the run's place among the live logs.
pub(super) struct Making {
    pub(super) folder: Arc<Folder>,
    pub(super) run: Uuid,
}

impl Drop for Making {
    fn drop(&mut self) {
        lock(&self.folder.live).remove(&self.run);
    }
}

impl Folder {
    pub(super) fn tend(&self) -> io::Result<Tended> {
        let mut tended = Tended::default();
        if lock(&self.lock).is_none() {
            return Ok(tended);
        }
        for run in log_file::open_runs(&self.path)? {
            if lock(&self.live).contains_key(&run) {
                continue;
            }
            match self.recover(run) {
                Ok(recovered) => tended.recovered.push(recovered),
                // It has ended between the listing and now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::error!(%run, %error, "a lost run cannot be ended yet"),
            }
        }
        self.expire(&mut tended)?;
        Ok(tended)
    }

    pub(super) fn stored(&self, run: Uuid) -> io::Result<Option<Arc<RunLog>>> {
        /// Names of logs that nobody reads any more are forgotten beyond this.
        const MANY: usize = 256;
        let ended = log_file::ended_path(&self.path, run);
        // Between the first two looks it may have ended.
        for path in [&ended, &log_file::open_path(&self.path, run), &ended] {
            let file = match LogFile::open(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened?,
            };
            let scan = file.scan()?;
            let ended = scan.exit.is_some();
            let state = if ended { TailState::Ended } else { TailState::Failed };
            let log = {
                let tail = Tail { seq: scan.seq, offset: scan.offset, state };
                RunLog::new(file, tail, &self.counters)
            };
            lock(&log.recent).index = scan.index;
            let log = Arc::new(log);
            if ended {
                let mut stored = lock(&self.stored);
                if stored.len() >= MANY {
                    stored.retain(|_, log| log.strong_count() > 0);
                }
                stored.insert(run, Arc::downgrade(&log));
            }
            return Ok(Some(log));
        }
        Ok(None)
    }

    fn recover(&self, run: Uuid) -> io::Result<Recovered> {
        let file = LogFile::open(&log_file::open_path(&self.path, run))?;
        let scan = file.scan()?;
        if scan.torn > 0 {
            tracing::warn!(%run, bytes = scan.torn, "cut an unfinished record off a log");
        }
        let owed = lock(&self.owed).get(&run).cloned();
        let exit = owed.unwrap_or_else(|| scan.lost(Reason::ServerRestart));
        let last_seq = scan.seq + u64::from(scan.exit.is_none());
        let exit = file.end(&scan, exit)?;
        log_file::rename_ended(&self.path, run)?;
        lock(&self.owed).remove(&run);
        Ok(Recovered { run, exit, last_seq })
    }

    fn expire(&self, tended: &mut Tended) -> io::Result<()> {
        let mut logs = Vec::new();
        for run in log_file::ended_runs(&self.path)? {
            let path = log_file::ended_path(&self.path, run);
            // One that was removed meanwhile needs no removing.
            if let Ok(meta) = fs::metadata(&path) {
                logs.push((meta.modified()?, meta.len(), run, path));
            }
        }
        logs.sort_unstable_by(|a, b| b.cmp(a));
        let now = SystemTime::now();
        let mut total = 0;
        for (number, (modified, length, run, path)) in logs.into_iter().enumerate() {
            total += length;
            let age = now.duration_since(modified).unwrap_or_default();
            let kept = &self.retention;
            if age > kept.age || number >= kept.count || total > kept.total_bytes {
                fs::remove_file(path)?;
                lock(&self.stored).remove(&run);
                tended.removed.push(run);
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunLogs").field("path", &self.path).finish_non_exhaustive()
    }
}
