//! A connection in its task, and what else that task is woken for.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use tokio::{sync::watch, task::unconstrained};

use crate::transport::Link;

/// When a server stops, as one of its connections hears of it.
///
/// A connection looks whenever anything happens on it, and every poll of a watch takes a lock that all connections share.
/// So the watch is polled once for each task that is to be woken, and else only looked at.
pub(crate) struct Stop {
    stopping: Option<watch::Receiver<bool>>,
    wait: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Stop {
    pub(crate) const NEVER: Self = Self { stopping: None, wait: None };

    /// Told by the server's watch; its end is a stop, too.
    pub(crate) fn of(stopping: watch::Receiver<bool>) -> Self {
        Self { stopping: Some(stopping), wait: None }
    }

    /// Whether there is something to be polled for.
    fn may_have_come(&self) -> bool {
        self.stopping.as_ref().is_some_and(|watch| !matches!(watch.has_changed(), Ok(false)))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(stopping) = &self.stopping else { return Poll::Pending };
        let wait = self.wait.get_or_insert_with(|| {
            let mut stopping = stopping.clone();
            // Out of budget a watch would be pending without knowing whom to wake.
            Box::pin(unconstrained(async move {
                // An error says the server is gone.
                let _ = stopping.wait_for(|stop| *stop).await;
            }))
        });
        wait.as_mut().poll(cx)
    }

    /// Completes when the server stops. Not to be awaited again then.
    pub(crate) async fn come(&mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stop")
    }
}

/// A connection whose protocol is known.
pub(crate) trait Connection: Future + Unpin {
    /// Ends it after the call under way.
    fn drain(&mut self);
}

/// How a connection's time in its task ended.
pub(crate) enum Left<T> {
    /// By itself.
    Done(T),
    /// It was quiet, and others needed its place.
    MadeRoom,
}

/// Polls a connection, and sees to it that it leaves when it is asked to, or ends when the server stops.
///
/// Thousands of these are polled one after the other, for a token each, and what is then waited for is memory. So what every
/// poll looks at stands together, and everything else elsewhere.
#[repr(C)]
pub(crate) struct Attended<C> {
    /// Whom stop and seat wake.
    task: Option<Waker>,
    link: Arc<Link>,
    pub(crate) stop: Stop,
    /// It has drained since.
    pub(crate) stopped: bool,
    pub(crate) connection: C,
}

impl<C: Connection> Attended<C> {
    pub(crate) fn new(connection: C, link: Arc<Link>, stop: Stop) -> Self {
        Self { task: None, link, stop, stopped: false, connection }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Left<C::Output>> {
        loop {
            self.link.next_turn();
            if let Poll::Ready(done) = Pin::new(&mut self.connection).poll(cx) {
                return Poll::Ready(Left::Done(done));
            }
            let known = self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker()));
            if self.stopped || (known && !self.link.seat.is_asked() && !self.stop.may_have_come()) {
                return Poll::Pending;
            }
            if !known {
                self.link.seat.wakes(cx.waker());
                self.task = Some(cx.waker().clone());
            }
            if self.link.seat.is_asked() && self.link.leaves() {
                return Poll::Ready(Left::MadeRoom);
            }
            if self.stop.poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.stopped = true;
            self.connection.drain();
        }
    }

    /// Completes when the connection is over, or makes room.
    pub(crate) async fn over(&mut self) -> Left<C::Output> {
        poll_fn(|cx| self.poll(cx)).await
    }
}
