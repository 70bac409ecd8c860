//! One run's log, as readers see it: how far it has come, and its newest frames in memory.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex},
};

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;

use super::{LogError, blocking, lock};
use crate::{
    log_file::{FIRST, LogFile, STRIDE},
    metrics::Counters,
    record,
};

/// What each log keeps in memory for readers that are not behind.
const RECENT: usize = 64 * 1024;

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
    pub(super) file: Arc<LogFile>,
    pub(super) counters: Counters,
    pub(super) tail: watch::Sender<Tail>,
    pub(super) recent: Mutex<Recent>,
}

#[derive(Default)]
pub(super) struct Recent {
    /// Frames that follow each other up to the tail, each with its place.
    blocks: VecDeque<(u64, Bytes)>,
    bytes: usize,
    /// Ids and places of some frames, in order.
    pub(super) index: Vec<(u64, u64)>,
}

impl RunLog {
    pub(super) fn new(file: LogFile, tail: Tail, counters: &Counters) -> Self {
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
        // Not made by the thread that reads: the allocator keeps memory for each thread, and of those there are many.
        let bytes = BytesMut::zeroed(length);
        Ok(blocking(move || file.read(offset, bytes)).await?)
    }

    pub(super) fn publish(&self, first_seq: u64, frames: Bytes, tail: Tail) {
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

impl fmt::Debug for RunLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunLog").field("tail", &*self.tail.borrow()).finish_non_exhaustive()
    }
}
