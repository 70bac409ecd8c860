//! What a connection does while others wait for its place.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::Waker,
    time::Duration,
};

use tokio::time::Instant;

use crate::transport::Link;

/// A connection without a call for this long may be ended when there is no room for another.
pub(crate) const QUIET: Duration = Duration::from_secs(1);

/// One connection's place among those that a server has room for.
///
/// A connection is quiet if it has no call under way and none of an answer to write: it is idle, or its peer takes its
/// time over a request's head. When others wait for room, quiet ones are asked to leave. They look in their own task, in
/// which calls begin as well, so that no call is ever lost to this.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Seat {
    asked: AtomicBool,
    calls: AtomicUsize,
    taken: Instant,
    /// Milliseconds after `taken`.
    quiet_since: AtomicU64,
    task: Mutex<Option<Waker>>,
}

impl Default for Seat {
    /// Taken now, and quiet.
    fn default() -> Self {
        Self {
            asked: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            taken: Instant::now(),
            quiet_since: AtomicU64::new(0),
            task: Mutex::default(),
        }
    }
}

impl Seat {
    /// Asks the connection to leave if it is quiet, and has been for [`QUIET`].
    pub(crate) fn ask_to_leave(&self) {
        let since = Duration::from_millis(self.quiet_since.load(Ordering::Acquire));
        let quiet = self.taken.elapsed().saturating_sub(since);
        if self.calls.load(Ordering::Acquire) > 0 || quiet < QUIET {
            return;
        }
        self.asked.store(true, Ordering::Release);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = &*task {
            task.wake_by_ref();
        }
    }

    /// Names the connection's task, which is woken when the connection is asked to leave. What was asked before is seen
    /// by looking after this.
    pub(crate) fn wakes(&self, task: &Waker) {
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.clone());
    }

    /// Whether the connection was asked to leave since somebody last looked.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }
}

impl Link {
    /// Counts a call until what is returned is dropped.
    pub(crate) fn call(self: &Arc<Self>) -> UnderWay {
        self.seat.calls.fetch_add(1, Ordering::AcqRel);
        UnderWay(Arc::clone(self))
    }

    /// Whether the connection, which was asked to, leaves: it does if it is quiet. For its own task.
    pub(crate) fn leaves(&self) -> bool {
        self.seat.asked.store(false, Ordering::Release);
        self.seat.calls.load(Ordering::Acquire) == 0 && !self.is_held_back()
    }
}

/// A call that is under way: from its head to the last of its answer.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<Link>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let seat = &self.0.seat;
        let now = u64::try_from(seat.taken.elapsed().as_millis()).unwrap_or(u64::MAX);
        seat.quiet_since.store(now, Ordering::Release);
        seat.calls.fetch_sub(1, Ordering::AcqRel);
    }
}
