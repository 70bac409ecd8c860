//! Reading a run's log from a cursor. A reader holds a place in the log and
//! nothing of what stands there, so any number of them, however slow, cost the
//! run nothing.

use std::{fmt, sync::Arc};

use bytes::{Buf as _, Bytes};
use tokio::sync::watch;

use crate::{
    metrics::ReaderGuard,
    record::{self, Entry, Framed},
    run_log::{LogError, RunLog, Tail, TailState},
};

/// Gives the records after a cursor, each once and in order.
pub struct Reader {
    log: Arc<RunLog>,
    tail: watch::Receiver<Tail>,
    /// Id of the last record that was given.
    after: u64,
    offset: u64,
    follow: bool,
    beyond_end: bool,
    _counted: ReaderGuard,
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
        let mut tail = log.tail();
        let seen = *tail.borrow_and_update();
        let beyond_end = after > seen.seq;
        let after = if beyond_end { 0 } else { after };
        let offset = if after == seen.seq { seen.offset } else { log.place(after) };
        let _counted = log.counters().reader();
        Self { log, tail, after, offset, follow, beyond_end, _counted }
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
    /// read is not the whole of it. Others if the disk fails.
    ///
    /// # Cancel safety
    ///
    /// Safe: a record counts as given when it was taken from [`Entries`].
    pub async fn next(&mut self) -> Result<Option<Entries<'_>>, LogError> {
        loop {
            let tail = *self.tail.borrow_and_update();
            if self.offset < tail.offset {
                let mut frames = self.log.frames(self.offset, tail.offset).await?;
                self.skip(&mut frames)?;
                if frames.is_empty() {
                    continue;
                }
                return Ok(Some(Entries { frames, reader: self }));
            }
            match tail.state {
                TailState::Ended => return Ok(None),
                TailState::Failed => return Err(LogError::Failed),
                TailState::Open if !self.follow => return Ok(None),
                TailState::Open => {
                    self.tail.changed().await.expect("the log is held by `self`");
                }
            }
        }
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
        // What is damaged further on is reported by the next `Reader::next`.
        let Framed::Entry(entry, length) = record::read_frame(&self.frames) else { return None };
        if entry.seq != self.reader.after + 1 {
            return None;
        }
        self.frames.advance(length);
        self.reader.offset += length as u64;
        self.reader.after = entry.seq;
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
