//! What a connection does while others wait for its place.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Poll, Waker},
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
pub(crate) struct Seat {
    taken: Instant,
    calls: AtomicUsize,
    /// Milliseconds after `taken`.
    quiet_since: AtomicU64,
    asked: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Default for Seat {
    /// Taken now, and quiet.
    fn default() -> Self {
        Self {
            taken: Instant::now(),
            calls: AtomicUsize::new(0),
            quiet_since: AtomicU64::new(0),
            asked: AtomicBool::new(false),
            task: Mutex::default(),
        }
    }
}

impl Seat {
    /// Counts a call until what is returned is dropped.
    pub(crate) fn call(self: &Arc<Self>) -> UnderWay {
        self.calls.fetch_add(1, Ordering::AcqRel);
        UnderWay(Arc::clone(self))
    }

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

    /// Completes when the connection was asked to leave and is quiet. To be polled in its own task.
    pub(crate) async fn asked_to_leave(&self, link: &Link) {
        let mut known: Option<Waker> = None;
        poll_fn(|cx| {
            // First whom to wake and then the mark: what is asked between the two is seen here or wakes the task.
            if !known.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                known = Some(cx.waker().clone());
                *self.task.lock().unwrap_or_else(PoisonError::into_inner) = known.clone();
            }
            if !self.asked.load(Ordering::Acquire) {
                return Poll::Pending;
            }
            self.asked.store(false, Ordering::Release);
            if self.calls.load(Ordering::Acquire) > 0 || link.is_held_back() {
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }
}

/// A call that is under way: from its head to the last of its answer.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<Seat>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let now = u64::try_from(self.0.taken.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.quiet_since.store(now, Ordering::Release);
        self.0.calls.fetch_sub(1, Ordering::AcqRel);
    }
}
