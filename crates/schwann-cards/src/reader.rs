//! Reading a run's log from a cursor. A reader holds a place in the log and, of
//! what stands there, at most one block of a log that another server has; so
//! any number of them, however slow, cost the run nothing.

use std::{fmt, sync::Arc};

use bytes::{Buf as _, Bytes};
use tokio::sync::watch;

use crate::{
    live::Block,
    metrics::{Counters, ReaderGuard},
    record::{self, Entry, Framed},
    remote_log::RemoteLog,
    run_log::{LogError, RunLog, Tail, TailState},
};

/// Gives the records after a cursor, each once and in order.
pub struct Reader {
    source: Source,
    tail: watch::Receiver<Tail>,
    /// Id of the last record that was given.
    after: u64,
    /// Where the next is, in a log of this server.
    offset: u64,
    /// What is being given of a log of another server: frames from the next record on.
    held: Bytes,
    follow: bool,
    beyond_end: bool,
    /// Whether what was given so far could not be all of a log that has ended.
    unfinished: bool,
    /// None if nobody's stream reads.
    _counted: Option<ReaderGuard>,
}

enum Source {
    Local(Arc<RunLog>),
    Remote(Arc<RemoteLog>),
}

/// Some records. Those that are not taken are given again by the next
/// [`Reader::next`].
#[derive(Debug)]
pub struct Entries<'a> {
    frames: Bytes,
    reader: &'a mut Reader,
}

impl Reader {
    /// From the record after `after`. Ends after the last record, and unless
    /// it is to `follow` the log, also where the log ends now.
    ///
    /// A cursor that this log never gave belongs to something else; then
    /// [`is_reset`](Self::is_reset), and reading begins at the first record.
    pub fn new(log: Arc<RunLog>, after: u64, follow: bool) -> Self {
        let tail = log.tail();
        let source = Source::Local(Arc::clone(&log));
        let mut reader = Self::of(source, tail, after, follow, log.counters());
        let seen = *reader.tail.borrow();
        reader.offset =
            if reader.after == seen.seq { seen.offset } else { log.place(reader.after) };
        reader
    }

    /// The same for a log that another server has.
    pub(crate) fn remote(
        log: Arc<RemoteLog>,
        after: u64,
        follow: bool,
        counters: &Counters,
    ) -> Self {
        let tail = log.tail();
        Self::of(Source::Remote(log), tail, after, follow, counters)
    }

    /// For the server itself: not counted among the streams.
    pub(crate) fn uncounted(self) -> Self {
        Self { _counted: None, ..self }
    }

    fn of(
        source: Source,
        mut tail: watch::Receiver<Tail>,
        after: u64,
        follow: bool,
        counters: &Counters,
    ) -> Self {
        let seen = *tail.borrow_and_update();
        let beyond_end = after > seen.seq;
        let after = if beyond_end { 0 } else { after };
        let (offset, held, unfinished) = (0, Bytes::new(), false);
        let _counted = Some(counters.reader());
        Self { source, tail, after, offset, held, follow, beyond_end, unfinished, _counted }
    }

    /// True if the cursor was beyond the end of the log, so that what the
    /// client has is not of this log.
    pub fn is_reset(&self) -> bool {
        self.beyond_end
    }

    /// Id of the last record that was given, for a later reader.
    pub fn cursor(&self) -> u64 {
        self.after
    }

    /// The records that come next, at least one; none at the end.
    ///
    /// # Errors
    ///
    /// [`LogError::Failed`] where a log ends without its last record: what was
    /// read is not the whole of it. [`LogError::Unreachable`] where another
    /// server has the log. Others if the disk fails.
    ///
    /// # Cancel safety
    ///
    /// Safe: a record counts as given when it was taken from [`Entries`].
    pub async fn next(&mut self) -> Result<Option<Entries<'_>>, LogError> {
        loop {
            if let Framed::Entry(..) = record::read_frame(&self.held) {
                return Ok(Some(Entries { frames: self.held.clone(), reader: self }));
            }
            self.held = Bytes::new();
            let tail = *self.tail.borrow_and_update();
            match &self.source {
                Source::Local(log) if self.offset < tail.offset => {
                    let mut frames = log.frames(self.offset, tail.offset).await?;
                    self.skip(&mut frames)?;
                    if frames.is_empty() {
                        continue;
                    }
                    // It is found again at once, so nothing need be held.
                    return Ok(Some(Entries { frames, reader: self }));
                }
                Source::Remote(log) if self.after < tail.seq => {
                    let mut frames = log.fetch(self.after).await?;
                    self.skip(&mut frames)?;
                    self.held = frames;
                    continue;
                }
                Source::Local(_) | Source::Remote(_) => {}
            }
            match tail.state {
                // What Redis has of a lost run can be less than its own server has, if that comes back.
                TailState::Ended if self.unfinished => return Err(LogError::Failed),
                TailState::Ended => return Ok(None),
                TailState::Failed => return Err(LogError::Failed),
                TailState::Unreachable => return Err(LogError::unreachable()),
                TailState::Open if !self.follow => return Ok(None),
                TailState::Open => {
                    self.tail.changed().await.expect("the log is held by `self`");
                }
            }
        }
    }

    /// What comes next, as [`next`](Self::next), in the form in which it is handed on to other servers.
    ///
    /// # Cancel safety
    ///
    /// Safe: nothing was given if it did not complete.
    pub(crate) async fn block(&mut self) -> Result<Option<Block>, LogError> {
        let Some(mut entries) = self.next().await? else { return Ok(None) };
        let mut block = Block::of(entries.frames.clone());
        for entry in entries.by_ref() {
            block.count(&entry);
        }
        let left = entries.frames.len();
        block.frames.truncate(block.frames.len() - left);
        Ok(Some(block))
    }

    /// Steps over records up to the cursor, which stand before it where the
    /// log's index is coarse, and over a frame that was not read to its end.
    fn skip(&mut self, frames: &mut Bytes) -> Result<(), LogError> {
        let began = self.offset;
        loop {
            match record::read_frame(frames) {
                Framed::Entry(entry, length) if entry.seq <= self.after => {
                    frames.advance(length);
                    self.offset += length as u64;
                }
                Framed::Entry(entry, _) if entry.seq == self.after + 1 => return Ok(()),
                Framed::Partial if self.offset > began => {
                    frames.clear();
                    return Ok(());
                }
                _ => return Err(LogError::Damaged(self.offset)),
            }
        }
    }
}

impl Iterator for Entries<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        let reader = &mut *self.reader;
        // What is damaged further on is reported by the next `Reader::next`.
        let Framed::Entry(entry, length) = record::read_frame(&self.frames) else { return None };
        if entry.seq != reader.after + 1 {
            return None;
        }
        self.frames.advance(length);
        if !reader.held.is_empty() {
            reader.held.advance(length);
        }
        reader.offset += length as u64;
        reader.after = entry.seq;
        reader.unfinished = !entry.is_last();
        Some(entry)
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("after", &self.after)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}
