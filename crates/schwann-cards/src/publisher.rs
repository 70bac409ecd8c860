//! Shows the other servers a run's log as it grows. What they see is on disk here: a publisher is one more reader of the log.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tracing::{debug, warn};
use uuid::Uuid;

use crate::{
    live::{Block, Head, KEPT, Live},
    reader::Reader,
    record::{Framed, read_frame},
    run_log::RunLog,
};

/// Between attempts while Redis does not answer, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// What an entry takes beyond its block, about.
const OVERHEAD: u64 = 64;

/// Another server ended the log in place of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GivenUp;

/// Publishes a log up to its end, or to where it is given up here, however often Redis is lost meanwhile. The last record waits for
/// `noted`: who sees it finds that the database has it, too.
///
/// # Errors
///
/// [`GivenUp`] if another server has ended it.
pub(crate) async fn publish(
    live: &Live,
    server: &str,
    run: Uuid,
    log: Arc<RunLog>,
    noted: impl Future<Output = ()>,
) -> Result<(), GivenUp> {
    let mut noted = std::pin::pin!(noted);
    let mut noting = true;
    let mut reader = Reader::new(Arc::clone(&log), 0, true).uncounted();
    let mut totals = Totals::default();
    let mut kept = Kept::default();
    // The last record that Redis has, as far as is known.
    let mut head = 0;
    loop {
        let block = match reader.block().await {
            Ok(Some(block)) => block,
            Ok(None) => return Ok(()),
            Err(error) => {
                // When it was mended, it is published to its end.
                debug!(%run, %error, "a log is not shown to other servers any more");
                return Ok(());
            }
        };
        totals.count(&block);
        if block.ended && std::mem::take(&mut noting) {
            noted.as_mut().await;
        }
        if block.last <= head {
            if !block.ended {
                continue;
            }
            // What Redis has is not of this log, which is the one that counts.
            forget(live, run).await;
            head = 0;
        }
        let kept_from = kept.count(&block);
        match append(live, run, head, &block, kept_from, totals.bytes).await {
            Ok(()) => head = block.last,
            Err(found) if found.ended && found.by != server => return Err(GivenUp),
            Err(found) if found.ended => return Ok(()),
            Err(found) => {
                // The answer to an append was lost, or Redis lost what it had.
                head = found.at;
                let from = found.at.max(log.before_last(KEPT));
                if from < block.last {
                    reader = Reader::new(Arc::clone(&log), from, true).uncounted();
                }
            }
        }
        if block.ended && head == block.last {
            return Ok(());
        }
    }
}

/// Forgets what Redis has of a run, as soon as Redis answers.
pub(crate) async fn forget(live: &Live, run: Uuid) {
    patiently(|| live.forget(run)).await;
}

async fn append(
    live: &Live,
    run: Uuid,
    head: u64,
    block: &Block,
    kept_from: u64,
    totals: (u64, u64),
) -> Result<(), Head> {
    patiently(|| live.append(run, head, block, kept_from, totals)).await
}

/// Tries until it is done.
async fn patiently<T, F>(what: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, crate::live::LiveError>>,
{
    let mut pause = PAUSES.0;
    let mut said = false;
    loop {
        match what().await {
            Ok(done) => return done,
            Err(error) if said => debug!(%error, "Redis is not there yet"),
            Err(error) => {
                warn!(%error, "other servers do not see this run until Redis is there again");
                said = true;
            }
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(PAUSES.1);
    }
}

/// Bytes of all records, each counted once.
#[derive(Default)]
struct Totals {
    /// Standard output and standard error.
    bytes: (u64, u64),
    upto: u64,
}

impl Totals {
    fn count(&mut self, block: &Block) {
        if block.last <= self.upto {
            return;
        }
        let mut new = block.clone();
        if block.first <= self.upto {
            // Read again, from another place on.
            while let Framed::Entry(entry, length) = read_frame(&new.frames)
                && entry.seq <= self.upto
            {
                let _ = new.frames.split_to(length);
            }
            let Some(rest) = Block::read(new.frames) else { return };
            new = rest;
        }
        self.bytes.0 += new.stdout_bytes;
        self.bytes.1 += new.stderr_bytes;
        self.upto = block.last;
    }
}

/// From which record on Redis keeps blocks.
#[derive(Default)]
struct Kept {
    /// Some last records, each with the size of what was appended up to there.
    marks: VecDeque<(u64, u64)>,
    size: u64,
    from: u64,
}

impl Kept {
    fn count(&mut self, block: &Block) -> u64 {
        const STEP: u64 = KEPT / 64;
        self.size += block.frames.len() as u64 + OVERHEAD;
        if self.marks.back().is_none_or(|(_, size)| self.size - size >= STEP) {
            self.marks.push_back((block.last, self.size));
        }
        while let Some((last, size)) = self.marks.front().copied()
            && self.size - size > KEPT
        {
            self.from = last + 1;
            self.marks.pop_front();
        }
        self.from
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::record::{Channel, Entry, Record};

    fn block(seq: u64, length: usize) -> Block {
        let data = Bytes::from(vec![b'x'; length]);
        Block::single(&Entry { seq, at_ms: 0, record: Record::Output(Channel::Stdout, data) })
    }

    #[test]
    fn what_is_read_again_is_not_counted_again() {
        let mut totals = Totals::default();
        for seq in [1, 2, 3, 2, 3, 4] {
            totals.count(&block(seq, 10));
        }
        assert_eq!(totals.bytes, (40, 0));
    }

    #[test]
    fn no_more_is_kept_in_redis_than_a_limit() {
        let mut kept = Kept::default();
        let mut from = 0;
        for seq in 1..=4096 {
            from = kept.count(&block(seq, 4096));
        }
        let left = 4096 - from + 1;
        assert!((900..=1100).contains(&left), "{left} blocks of 4 KiB");
        assert!(kept.marks.len() <= 66, "{}", kept.marks.len());
    }
}
