//! The writing end of a log: what gathers in memory, and the task that puts it on disk before readers learn of it.

use std::{
    fmt, io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::Notify, time::Instant};

use super::{LogError, RunLog, Tail, TailState, blocking, folder::Making, lock};
use crate::{
    log_file::{self, FIRST},
    record::{self, Channel, Entry, Exit, MAX_DATA, Reason, Record},
};

/// A log is put on disk at most this often, unless much has gathered.
const GAP: Duration = Duration::from_millis(2);
/// What has gathered by then goes to disk at once.
const MUCH: usize = 32 * 1024;
/// A run that has written this much waits until it is on disk.
const MAX_PENDING: usize = 64 * 1024;

/// The writing end of a log. Dropping it before [`end`](Self::end) gives the
/// log up: its readers see an error, and [`RunLogs::tend`](super::RunLogs::tend) ends it.
pub struct LogWriter {
    shared: Arc<Writing>,
    started: Instant,
    /// So that nobody ends the log before its writer has said how.
    pub(super) making: Arc<Making>,
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

impl LogWriter {
    /// The writing end of a new log, and the task that puts it on disk.
    pub(super) fn new(log: Arc<RunLog>, making: Making) -> Self {
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
        Self { shared, started: Instant::now(), making }
    }

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
    /// [`LogError::Failed`] if it cannot be kept. Then [`RunLogs::tend`](super::RunLogs::tend) writes it, with
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

impl fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogWriter").field("log", &self.shared.log).finish_non_exhaustive()
    }
}
