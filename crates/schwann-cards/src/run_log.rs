//! The durable logs of runs: what a reader sees is on disk.
//!
//! A run writes into memory (bounded, and waiting when full), one task for
//! each log puts what has gathered on disk with one `fdatasync`, and only then
//! do readers learn of it. A log is `ID.open` until its last record is on disk
//! and `ID.log` from then on. An `ID.open` that nobody writes was lost, with
//! its server or with its disk; [`RunLogs::tend`] gives it its last record.

mod folder;
mod tail;
mod writer;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use rustix::fs::{FlockOperation, flock, statvfs};
use uuid::Uuid;

use self::folder::{Folder, Making};
pub use self::{
    folder::{Recovered, Retention, Tended},
    tail::{RunLog, Tail, TailState},
    writer::LogWriter,
};
use crate::{
    in_place::InPlace,
    log_file::{self, FIRST, LogFile},
    metrics::Counters,
    reader::Reader,
};

/// Why a log cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// There is no room for it.
    #[error("no room left for the output of runs")]
    NoSpace(#[source] Option<io::Error>),
    /// The disk failed.
    #[error("the output of runs cannot be kept")]
    Disk(#[source] io::Error),
    /// Its output was removed, or there never was such a run.
    #[error("no output is kept of this run")]
    Gone,
    /// The log was given up, by a failing disk or by a server that stops.
    #[error("the output of this run is not kept from here on")]
    Failed,
    /// Another server has it, which cannot be reached.
    #[error("the server that has the output of this run cannot be reached")]
    Unreachable(#[source] Option<Box<dyn std::error::Error + Send + Sync>>),
    /// Something else wrote into the file.
    #[error("the log is damaged at byte {0}")]
    Damaged(u64),
    /// Another server uses this folder.
    #[error("{} is in use by another server", .0.display())]
    InUse(PathBuf),
}

impl LogError {
    pub(crate) fn unreachable() -> Self {
        Self::Unreachable(None)
    }
}

impl From<io::Error> for LogError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Self::NoSpace(Some(error)),
            _ => Self::Disk(error),
        }
    }
}

/// All logs of a folder. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RunLogs(Arc<Folder>);

impl RunLogs {
    /// Opens the logs in `path`, making the folder if it is missing. Blocks.
    ///
    /// # Errors
    ///
    /// Fails if the folder cannot be made, or if another server uses it.
    pub fn open(path: impl Into<PathBuf>, retention: Retention) -> Result<Self, LogError> {
        let path = path.into();
        fs::create_dir_all(&path)?;
        let guard = path.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(guard)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(LogError::InUse(path)),
            Err(errno) => return Err(LogError::Disk(errno.into())),
        }
        let (live, stored, owed) = (Mutex::default(), Mutex::default(), Mutex::default());
        let lock = Mutex::new(Some(lock));
        let (counters, in_place) = (Counters::default(), InPlace::default());
        let folder = Folder { path, retention, counters, in_place, live, stored, owed, lock };
        Ok(Self(Arc::new(folder)))
    }

    /// Leaves the folder to another server. From here on nothing is made and
    /// nothing is tended; what is being read can be read to its end.
    pub fn close(&self) {
        lock(&self.0.lock).take();
    }

    /// Makes a log, which is on disk when this returns.
    ///
    /// # Errors
    ///
    /// [`LogError::NoSpace`] if there is no room, [`LogError::Disk`] if the
    /// disk fails otherwise.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the log may have been made; [`tend`](Self::tend) ends it.
    pub async fn create(&self, run: Uuid) -> Result<LogWriter, LogError> {
        if lock(&self.0.lock).is_none() {
            return Err(LogError::Failed);
        }
        let making = Making { folder: Arc::clone(&self.0), run };
        lock(&self.0.live).insert(run, None);
        // Dropped with the closure, wherever that ends.
        let (file, making) = blocking(move || {
            let folder = &making.folder;
            let space = statvfs(&folder.path)?;
            if space.f_bavail.saturating_mul(space.f_frsize) < folder.retention.min_free_bytes {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let file = LogFile::create(&folder.path, run)?;
            Ok((file, making))
        })
        .await?;
        let tail = Tail { seq: 0, offset: FIRST, state: TailState::Open };
        let log = Arc::new(RunLog::new(file, tail, &self.0.counters));
        lock(&self.0.live).insert(run, Some(Arc::clone(&log)));
        Ok(LogWriter::new(log, making))
    }

    /// Reads a run's log from the record after `after`.
    ///
    /// # Errors
    ///
    /// [`LogError::Gone`] if nothing is kept of this run.
    pub async fn read(&self, run: Uuid, after: u64, follow: bool) -> Result<Reader, LogError> {
        Ok(Reader::new(self.log(run).await?, after, follow))
    }

    /// A run's log, live or stored.
    ///
    /// # Errors
    ///
    /// [`LogError::Gone`] if nothing is kept of this run.
    pub async fn log(&self, run: Uuid) -> Result<Arc<RunLog>, LogError> {
        if let Some(Some(log)) = lock(&self.0.live).get(&run) {
            return Ok(Arc::clone(log));
        }
        if let Some(log) = lock(&self.0.stored).get(&run).and_then(Weak::upgrade) {
            return Ok(log);
        }
        let folder = Arc::clone(&self.0);
        blocking(move || folder.stored(run)).await?.ok_or(LogError::Gone)
    }

    /// Removes a run's log, if it has ended. Readers that have it open go on.
    ///
    /// # Errors
    ///
    /// Fails if the disk does.
    pub async fn remove(&self, run: Uuid) -> Result<(), LogError> {
        let path = log_file::ended_path(&self.0.path, run);
        lock(&self.0.stored).remove(&run);
        let removed = blocking(move || match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        });
        Ok(removed.await?)
    }

    /// Removes a log that was made for a run that will not be.
    ///
    /// # Errors
    ///
    /// Fails if the disk does; then [`tend`](Self::tend) ends it.
    pub async fn discard(&self, writer: LogWriter) -> Result<(), LogError> {
        let path = log_file::open_path(&self.0.path, writer.making.run);
        blocking(move || fs::remove_file(path)).await?;
        drop(writer);
        Ok(())
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// How a run ended, if its log has its last record.
    ///
    /// # Errors
    ///
    /// Fails if the disk does.
    pub async fn ended(&self, run: Uuid) -> Result<Option<Recovered>, LogError> {
        let path = log_file::ended_path(&self.0.path, run);
        let scan = blocking(move || match LogFile::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            file => file?.scan().map(Some),
        });
        let scan = scan.await?;
        Ok(scan.and_then(|scan| scan.exit.map(|exit| Recovered { run, exit, last_seq: scan.seq })))
    }

    /// Ends the logs that were lost, and removes those that are kept no longer.
    /// To be called at the start and again and again.
    ///
    /// # Errors
    ///
    /// Fails if the folder cannot be read. A log that cannot be ended now is
    /// tried again by the next call.
    pub async fn tend(&self) -> Result<Tended, LogError> {
        let folder = Arc::clone(&self.0);
        Ok(blocking(move || folder.tend()).await?)
    }
}

/// The folder of logs below a data folder.
pub fn folder_in(data: &Path) -> PathBuf {
    data.join("runs")
}

/// No data is half changed while a lock is held, so one that a panic left is good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
