//! A run's log that another server has, as readers of this one see it.
//!
//! One follower for each run, however many read it: it knows how far the log is and keeps the newest of it, as a log of this server
//! does. What a reader needs beyond that is in Redis, or else with the run's server, which is asked for it.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use tracing::debug;
use uuid::Uuid;

use crate::{
    exchange::{Answer, Exchange, Hints, Question},
    live::{Block, LiveError},
    run_log::{LogError, Tail, TailState},
};

/// What each log keeps in memory for readers that are not behind, in bytes.
const RECENT: usize = 64 * 1024;
/// Blocks that a follower takes at a time.
const AT_ONCE: usize = 4;
/// Without a hint for this long, it is looked all the same.
const SILENCE: Duration = Duration::from_secs(3);
/// So many looks that found nothing new, and the run's server is asked.
const LOOKS: u32 = 5;

/// A log that another server has.
pub(crate) struct RemoteLog {
    run: Uuid,
    server: String,
    exchange: Exchange,
    tail: watch::Sender<Tail>,
    recent: Mutex<Recent>,
}

#[derive(Default)]
struct Recent {
    /// One after the other, up to the tail.
    blocks: VecDeque<Block>,
    bytes: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RemoteLog {
    /// Finds out how far it is, and follows it as long as somebody reads it: whoever holds the second of what is given, or has a
    /// later [`tail`](Self::tail).
    ///
    /// # Errors
    ///
    /// [`LogError::Gone`] if nothing is kept of the run, [`LogError::Unreachable`] if that cannot be found out.
    pub(crate) async fn open(
        exchange: &Exchange,
        run: Uuid,
        server: &str,
    ) -> Result<(Arc<Self>, watch::Receiver<Tail>), LogError> {
        // First, so that nothing falls between the look and the first hint.
        let hints = exchange.follow(run).await?;
        let head = exchange.live().head(run).await.map_err(lost)?;
        let (seq, ended) = match head {
            Some(head) => (head.at, head.ended),
            None => ask_how_far(exchange, run, server).await?,
        };
        let state = if ended { TailState::Ended } else { TailState::Open };
        let log = Arc::new(Self {
            run,
            server: server.to_owned(),
            exchange: exchange.clone(),
            tail: watch::Sender::new(Tail { seq, offset: 0, state }),
            recent: Mutex::default(),
        });
        let tail = log.tail();
        if !ended {
            tokio::spawn(follow(Arc::clone(&log), hints));
        }
        Ok((log, tail))
    }

    /// How far it is, now and from now on.
    pub(crate) fn tail(&self) -> watch::Receiver<Tail> {
        self.tail.subscribe()
    }

    /// Whole frames, among which is the record after `after`. There must be one.
    pub(crate) async fn fetch(&self, after: u64) -> Result<bytes::Bytes, LogError> {
        if let Some(block) = lock(&self.recent).find(after) {
            return Ok(block.frames.clone());
        }
        let blocks = self.exchange.live().blocks(self.run, after, 1).await.map_err(lost)?;
        if let Some(block) = blocks.into_iter().next().filter(|block| block.first <= after + 1) {
            return Ok(block.frames);
        }
        // Redis has it no longer, or not yet again.
        let question = Question::Read { run: self.run, after };
        match self.exchange.ask(&self.server, &question, b"").await? {
            (Answer::Records { .. }, frames) if !frames.is_empty() => Ok(frames),
            (Answer::Gone, _) => Err(LogError::Gone),
            _ => Err(LogError::unreachable()),
        }
    }

    /// Looks for what is new. True if there was something.
    async fn look(&self) -> Result<bool, LogError> {
        let before = self.tail.borrow().seq;
        let mut seq = before;
        loop {
            let blocks = self.exchange.live().blocks(self.run, seq, AT_ONCE).await.map_err(lost)?;
            let more = blocks.len() == AT_ONCE;
            for block in blocks {
                seq = block.last;
                let state = if block.ended { TailState::Ended } else { TailState::Open };
                lock(&self.recent).push(block);
                self.tail.send_replace(Tail { seq, offset: 0, state });
                if state == TailState::Ended {
                    return Ok(true);
                }
            }
            if !more {
                return Ok(seq > before);
            }
        }
    }

    /// What a look at the stream does not show: that Redis has lost it, or the run's server its way to it.
    async fn doubt(&self, looks: u32) -> Result<(), LogError> {
        let tail = *self.tail.borrow();
        let head = self.exchange.live().head(self.run).await.map_err(lost)?;
        let behind = head.as_ref().is_none_or(|head| head.at < tail.seq);
        if behind && head.is_some_and(|head| head.ended) {
            // It was ended in its server's place where Redis did not have all of it: its readers come back to a new beginning.
            return Err(LogError::unreachable());
        }
        if behind || looks.is_multiple_of(LOOKS) {
            let asked = ask_how_far(&self.exchange, self.run, &self.server).await;
            match asked {
                Ok((seq, ended)) if seq > tail.seq => {
                    let state = if ended { TailState::Ended } else { TailState::Open };
                    *lock(&self.recent) = Recent::default();
                    self.tail.send_replace(Tail { seq, offset: 0, state });
                }
                Ok(_) => {}
                Err(error) => {
                    debug!(run = %self.run, %error, "its server does not answer");
                    self.exchange.suspect(self.run);
                }
            }
        }
        Ok(())
    }
}

/// How far a log is, as its server says, and whether it has ended.
pub(crate) async fn ask_how_far(
    exchange: &Exchange,
    run: Uuid,
    server: &str,
) -> Result<(u64, bool), LogError> {
    let question = Question::Read { run, after: u64::MAX };
    match exchange.ask(server, &question, b"").await? {
        (Answer::Records { last, ended }, _) => Ok((last, ended)),
        (Answer::Gone, _) => Err(LogError::Gone),
        _ => Err(LogError::unreachable()),
    }
}

/// Follows a log until it ends, nobody reads it, or Redis does not answer.
async fn follow(log: Arc<RemoteLog>, mut hints: Hints) {
    let mut looks = 0;
    loop {
        let found = async {
            if log.look().await? {
                looks = 0;
            } else {
                looks += 1;
                // Not at the first look, which follows the opening.
                if looks > 1 {
                    log.doubt(looks).await?;
                }
            }
            Ok::<_, LogError>(())
        };
        if let Err(error) = found.await {
            debug!(run = %log.run, %error, "a run of another server is not followed");
            log.tail.send_modify(|tail| tail.state = TailState::Unreachable);
            return;
        }
        if log.tail.borrow().state != TailState::Open {
            return;
        }
        tokio::select! {
            () = hints.next() => {}
            () = tokio::time::sleep(SILENCE) => {}
            () = log.tail.closed() => {
                let left = log.tail.send_if_modified(|tail| {
                    // Whoever comes to read it from here on sees this, and begins anew.
                    let left = log.tail.receiver_count() == 0;
                    if left {
                        tail.state = TailState::Unreachable;
                    }
                    left
                });
                if left {
                    return;
                }
            }
        }
    }
}

impl Recent {
    fn push(&mut self, block: Block) {
        if self.blocks.back().is_some_and(|last| last.last + 1 != block.first) {
            *self = Self::default();
        }
        self.bytes += block.frames.len();
        self.blocks.push_back(block);
        while self.bytes > RECENT && self.blocks.len() > 1 {
            let oldest = self.blocks.pop_front().expect("there are two");
            self.bytes -= oldest.frames.len();
        }
    }

    fn find(&self, after: u64) -> Option<&Block> {
        let at = self.blocks.partition_point(|block| block.last <= after);
        self.blocks.get(at).filter(|block| block.first <= after + 1)
    }
}

fn lost(error: LiveError) -> LogError {
    LogError::Unreachable(Some(error.into()))
}

impl fmt::Debug for RemoteLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteLog").field("run", &self.run).finish_non_exhaustive()
    }
}
