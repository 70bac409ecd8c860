//! The durable logs of runs: what a reader sees is on disk.
//!
//! A run writes into memory (bounded, and waiting when full), one task for
//! each log puts what has gathered on disk with one `fdatasync`, and only then
//! do readers learn of it. A log is `ID.open` until its last record is on disk
//! and `ID.log` from then on. An `ID.open` that nobody writes was lost, with
//! its server or with its disk; [`RunLogs::tend`] gives it its last record.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use rustix::fs::{FlockOperation, flock, statvfs};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use uuid::Uuid;

use crate::{
    in_place::InPlace,
    log_file::{self, FIRST, LogFile, STRIDE},
    metrics::Counters,
    reader::Reader,
    record::{self, Channel, Entry, Exit, MAX_DATA, Reason, Record},
};

/// A log is put on disk at most this often, unless much has gathered.
const GAP: Duration = Duration::from_millis(2);
/// What has gathered by then goes to disk at once.
const MUCH: usize = 32 * 1024;
/// A run that has written this much waits until it is on disk.
const MAX_PENDING: usize = 64 * 1024;
/// What each log keeps in memory for readers that are not behind.
const RECENT: usize = 64 * 1024;

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

/// What [`RunLogs::tend`] did.
#[derive(Debug, Default)]
pub struct Tended {
    /// Logs that have a last record now.
    pub recovered: Vec<Recovered>,
    /// Logs that were removed.
    pub removed: Vec<Uuid>,
}

/// All logs of a folder. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RunLogs(Arc<Folder>);

struct Folder {
    path: PathBuf,
    retention: Retention,
    counters: Counters,
    in_place: InPlace,
    /// Logs that are written by this server; none while one is being made.
    live: Mutex<HashMap<Uuid, Option<Arc<RunLog>>>>,
    /// Logs that have ended and are being read.
    stored: Mutex<HashMap<Uuid, Weak<RunLog>>>,
    /// Ends of runs that their logs could not take.
    owed: Mutex<HashMap<Uuid, Exit>>,
    /// Held until the server ends, however it ends. None once it is closed.
    lock: Mutex<Option<File>>,
}

/// How far a log has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Id of the last record that is on disk.
    pub seq: u64,
    /// Where the next frame will be.
    pub(crate) offset: u64,
    /// What may be expected of it.
    pub state: TailState,
}

/// What may be expected of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TailState {
    /// More records.
    Open,
    /// Nothing: its last record is on disk.
    Ended,
    /// Nothing, and its last record is missing.
    Failed,
    /// Nothing for now: another server has it, and cannot be reached.
    Unreachable,
}

/// One run's log, as readers see it.
pub struct RunLog {
    file: Arc<LogFile>,
    counters: Counters,
    tail: watch::Sender<Tail>,
    recent: Mutex<Recent>,
}

#[derive(Default)]
struct Recent {
    /// Frames that follow each other up to the tail, each with its place.
    blocks: VecDeque<(u64, Bytes)>,
    bytes: usize,
    /// Ids and places of some frames, in order.
    index: Vec<(u64, u64)>,
}

/// The writing end of a log. Dropping it before [`end`](Self::end) gives the
/// log up: its readers see an error, and [`RunLogs::tend`] ends it.
pub struct LogWriter {
    shared: Arc<Writing>,
    started: Instant,
    /// So that nobody ends the log before its writer has said how.
    making: Arc<Making>,
}

struct Writing {
    log: Arc<RunLog>,
    pending: Mutex<Pending>,
    /// Something has gathered.
    gathered: Notify,
    /// Much has gathered, or the last record.
    urgent: Notify,
    /// There is room again.
    room: Notify,
}

struct Pending {
    frames: Vec<u8>,
    first_seq: u64,
    next_seq: u64,
    /// The last frame, while more of the same output may be added to it.
    open: Option<(usize, Channel)>,
    /// Bytes of all frames so far.
    size: u64,
    ended: bool,
    given_up: bool,
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
        let shared = Arc::new(Writing {
            log,
            pending: Mutex::new(Pending {
                frames: Vec::new(),
                first_seq: 1,
                next_seq: 1,
                open: None,
                size: FIRST,
                ended: false,
                given_up: false,
            }),
            gathered: Notify::new(),
            urgent: Notify::new(),
            room: Notify::new(),
        });
        let making = Arc::new(making);
        tokio::spawn(commit(Arc::clone(&shared), Arc::clone(&making)));
        Ok(LogWriter { shared, started: Instant::now(), making })
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

/// Frees the run's place among the live logs.
struct Making {
    folder: Arc<Folder>,
    run: Uuid,
}

impl Drop for Making {
    fn drop(&mut self) {
        lock(&self.folder.live).remove(&self.run);
    }
}

impl Folder {
    fn tend(&self) -> io::Result<Tended> {
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

    fn stored(&self, run: Uuid) -> io::Result<Option<Arc<RunLog>>> {
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

impl RunLog {
    fn new(file: LogFile, tail: Tail, counters: &Counters) -> Self {
        let (file, tail, counters) = (Arc::new(file), watch::Sender::new(tail), counters.clone());
        Self { file, counters, tail, recent: Mutex::default() }
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Id of the last record that is on disk; 0 if there is none.
    pub fn last_seq(&self) -> u64 {
        self.tail.borrow().seq
    }

    /// How far it has come, now and from now on.
    pub fn tail(&self) -> watch::Receiver<Tail> {
        self.tail.subscribe()
    }

    /// Where to begin reading for records after `after`.
    pub(crate) fn place(&self, after: u64) -> u64 {
        let recent = lock(&self.recent);
        let at = recent.index.partition_point(|(seq, _)| *seq <= after + 1);
        at.checked_sub(1).map_or(FIRST, |at| recent.index[at].1)
    }

    /// The last record before those that end in the log's last `bytes`, or a little more.
    pub(crate) fn before_last(&self, bytes: u64) -> u64 {
        let begin = self.tail.borrow().offset.saturating_sub(bytes);
        let recent = lock(&self.recent);
        let at = recent.index.partition_point(|(_, offset)| *offset <= begin);
        at.checked_sub(1).map_or(0, |at| recent.index[at].0 - 1)
    }

    /// Frames from `offset` on, from memory if they are there. `limit` is the
    /// tail's offset or less.
    pub(crate) async fn frames(&self, offset: u64, limit: u64) -> Result<Bytes, LogError> {
        /// A few frames of any size, or many.
        const PIECE: u64 = 4 * record::MAX_FRAME as u64;
        let length = (limit - offset).min(PIECE) as usize;
        if let Some(bytes) = lock(&self.recent).find(offset, length) {
            return Ok(bytes);
        }
        let file = Arc::clone(&self.file);
        Ok(blocking(move || file.read(offset, length)).await?)
    }

    fn publish(&self, first_seq: u64, frames: Bytes, tail: Tail) {
        if frames.is_empty() {
            self.tail.send_replace(tail);
            return;
        }
        let mut recent = lock(&self.recent);
        let offset = tail.offset - frames.len() as u64;
        if recent.index.last().is_none_or(|(_, last)| offset - last >= STRIDE) {
            recent.index.push((first_seq, offset));
        }
        recent.bytes += frames.len();
        recent.blocks.push_back((offset, frames));
        while recent.bytes > RECENT && recent.blocks.len() > 1 {
            let (_, oldest) = recent.blocks.pop_front().expect("there are two");
            recent.bytes -= oldest.len();
        }
        drop(recent);
        self.tail.send_replace(tail);
    }
}

impl Recent {
    fn find(&self, offset: u64, length: usize) -> Option<Bytes> {
        let at = self.blocks.partition_point(|(start, _)| *start <= offset).checked_sub(1)?;
        let (start, bytes) = &self.blocks[at];
        let from = (offset - start) as usize;
        (from < bytes.len()).then(|| bytes.slice(from..bytes.len().min(from + length)))
    }
}

impl LogWriter {
    /// The log that is written.
    pub fn log(&self) -> &Arc<RunLog> {
        &self.shared.log
    }

    /// Bytes of the log so far.
    pub fn size(&self) -> u64 {
        lock(&self.shared.pending).size
    }

    /// From here on is the time of its records counted.
    pub fn start_clock(&mut self) {
        self.started = Instant::now();
    }

    /// Adds output, in as few records as possible and none longer than
    /// [`MAX_DATA`]. Waits while more is in memory than a log may keep there.
    ///
    /// # Errors
    ///
    /// [`LogError::Failed`] if the log cannot be kept.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, some of the output may have been added.
    pub async fn output(&self, channel: Channel, mut bytes: Bytes) -> Result<(), LogError> {
        self.shared.log.counters.output(&bytes);
        while !bytes.is_empty() {
            self.wait_for_room().await?;
            let at_ms = self.at_ms();
            let mut pending = lock(&self.shared.pending);
            while !bytes.is_empty() && pending.frames.len() < MAX_PENDING {
                let taken = pending.add_output(channel, &bytes, at_ms);
                let _ = bytes.split_to(taken);
            }
            self.shared.wake(pending);
        }
        Ok(())
    }

    /// Adds a record.
    ///
    /// # Errors
    ///
    /// [`LogError::Failed`] if the log cannot be kept.
    ///
    /// # Cancel safety
    ///
    /// Safe: the record is added at the end or not at all.
    pub async fn append(&self, record: Record) -> Result<(), LogError> {
        self.wait_for_room().await?;
        let mut pending = lock(&self.shared.pending);
        pending.add(self.at_ms(), record);
        self.shared.wake(pending);
        Ok(())
    }

    /// Ends the log, waits until that is on disk, and gives the last id.
    ///
    /// # Errors
    ///
    /// [`LogError::Failed`] if it cannot be kept. Then [`RunLogs::tend`] writes it, with
    /// [`Reason::LogFailed`], as soon as that is possible.
    pub async fn end(self, exit: Exit) -> Result<u64, LogError> {
        let Making { folder, run } = &*self.making;
        let owed = Exit { reason: Reason::LogFailed, ..exit.clone() };
        lock(&folder.owed).insert(*run, owed);
        self.append(Record::Exit(exit)).await?;
        let mut tail = self.shared.log.tail();
        let last = tail.wait_for(|tail| tail.state != TailState::Open).await;
        let last = *last.expect("the log is held by `self`");
        if last.state != TailState::Ended {
            return Err(LogError::Failed);
        }
        lock(&folder.owed).remove(run);
        Ok(last.seq)
    }

    fn at_ms(&self) -> u32 {
        u32::try_from(self.started.elapsed().as_millis()).unwrap_or(u32::MAX)
    }

    async fn wait_for_room(&self) -> Result<(), LogError> {
        loop {
            let room = self.shared.room.notified();
            {
                let pending = lock(&self.shared.pending);
                if pending.given_up {
                    return Err(LogError::Failed);
                }
                if pending.frames.len() < MAX_PENDING {
                    return Ok(());
                }
            }
            room.await;
        }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        let mut pending = lock(&self.shared.pending);
        pending.given_up |= !pending.ended;
        drop(pending);
        self.shared.gathered.notify_one();
        self.shared.urgent.notify_one();
    }
}

impl Writing {
    fn wake(&self, pending: MutexGuard<'_, Pending>) {
        let urgent = pending.ended || pending.frames.len() >= MUCH;
        drop(pending);
        self.gathered.notify_one();
        if urgent {
            self.urgent.notify_one();
        }
    }
}

impl Pending {
    fn add(&mut self, at_ms: u32, record: Record) {
        self.seal();
        self.ended |= matches!(record, Record::Exit(_));
        let before = self.frames.len();
        let entry = Entry { seq: self.next_seq, at_ms, record };
        record::push_frame(&mut self.frames, &entry);
        self.next_seq += 1;
        self.size += (self.frames.len() - before) as u64;
    }

    /// Adds what fits into one record, and says how much that was.
    fn add_output(&mut self, channel: Channel, bytes: &[u8], at_ms: u32) -> usize {
        let before = self.frames.len();
        let room = match self.open {
            Some((place, open)) if open == channel => place + record::MAX_FRAME - before,
            _ => 0,
        };
        let fits = record::fitting(bytes, room);
        let taken = if fits > 0 {
            fits
        } else {
            self.seal();
            let kind = record::channel_kind(channel);
            let place = record::open_frame(&mut self.frames, kind, at_ms, self.next_seq);
            self.next_seq += 1;
            self.open = Some((place, channel));
            record::fitting(bytes, MAX_DATA)
        };
        self.frames.extend_from_slice(&bytes[..taken]);
        self.size += (self.frames.len() - before) as u64;
        taken
    }

    fn seal(&mut self) {
        if let Some((place, _)) = self.open.take() {
            record::seal(&mut self.frames, place);
        }
    }
}

/// Puts on disk what a log has gathered, until it has ended or failed.
async fn commit(writing: Arc<Writing>, making: Arc<Making>) {
    let mut tail = Tail { seq: 0, offset: FIRST, state: TailState::Open };
    let mut last: Option<Instant> = None;
    while tail.state == TailState::Open {
        writing.gathered.notified().await;
        if let Some(due) = last.map(|last| last + GAP).filter(|due| *due > Instant::now()) {
            let little = {
                let pending = lock(&writing.pending);
                !pending.ended && !pending.given_up && pending.frames.len() < MUCH
            };
            if little {
                tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = writing.urgent.notified() => {}
                }
            }
        }
        let (frames, first_seq, state) = {
            let mut pending = lock(&writing.pending);
            pending.seal();
            let state = match (pending.ended, pending.given_up) {
                (true, _) => TailState::Ended,
                (false, true) => TailState::Failed,
                (false, false) => TailState::Open,
            };
            let first_seq = pending.first_seq;
            pending.first_seq = pending.next_seq;
            tail.seq = pending.next_seq - 1;
            (Bytes::from(std::mem::take(&mut pending.frames)), first_seq, state)
        };
        if frames.is_empty() && state == TailState::Open {
            continue;
        }
        let written = put(&writing, &making, frames.clone(), tail.offset, state).await;
        tail.state = match written {
            Ok(()) => {
                writing.log.counters.synced(frames.len());
                tail.offset += frames.len() as u64;
                state
            }
            Err(error) => {
                tracing::error!(run = %making.run, %error, "a run's output cannot be kept");
                lock(&writing.pending).given_up = true;
                TailState::Failed
            }
        };
        last = Some(Instant::now());
        match tail.state {
            TailState::Open => writing.log.publish(first_seq, frames, tail),
            // Who is told of the end may look for the log on disk at once.
            TailState::Ended => {
                lock(&making.folder.live).remove(&making.run);
                writing.log.publish(first_seq, frames, tail);
            }
            TailState::Failed | TailState::Unreachable => {
                let written = tail.offset > writing.log.tail.borrow().offset;
                drop(making);
                if written {
                    writing.log.publish(first_seq, frames, tail);
                } else {
                    writing.log.tail.send_modify(|tail| tail.state = TailState::Failed);
                }
                writing.room.notify_waiters();
                return;
            }
        }
        writing.room.notify_waiters();
    }
}

/// Puts frames on disk, and ends the log's file after its last.
async fn put(
    writing: &Writing,
    making: &Making,
    frames: Bytes,
    offset: u64,
    state: TailState,
) -> io::Result<()> {
    if state == TailState::Open && frames.len() < MUCH {
        // First whatever else waits for this thread.
        tokio::task::yield_now().await;
        if let Some(_place) = making.folder.in_place.take() {
            return writing.log.file.write(&frames, offset);
        }
    }
    let (file, folder, run) =
        (Arc::clone(&writing.log.file), Arc::clone(&making.folder), making.run);
    blocking(move || {
        if !frames.is_empty() {
            let began = std::time::Instant::now();
            file.write(&frames, offset)?;
            folder.in_place.note(began.elapsed());
        }
        if state == TailState::Ended {
            log_file::rename_ended(&folder.path, run)?;
        }
        Ok(())
    })
    .await
}

impl fmt::Debug for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunLogs").field("path", &self.path).finish_non_exhaustive()
    }
}

impl fmt::Debug for RunLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunLog").field("tail", &*self.tail.borrow()).finish_non_exhaustive()
    }
}

impl fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogWriter").field("log", &self.shared.log).finish_non_exhaustive()
    }
}

/// The folder of logs below a data folder.
pub fn folder_in(data: &Path) -> PathBuf {
    data.join("runs")
}
