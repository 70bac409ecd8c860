//! Waiting no longer than until a deadline.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use tokio::{
    task::{Unconstrained, unconstrained},
    time::{Instant, Sleep, sleep_until},
};

/// A deadline passed.
pub(super) struct Late;

/// As [`tokio::time::Timeout`], for what is mostly ready at once or polled many times: the timer is made when there is
/// something to wait for, and polled when it does not know whom to wake.
#[repr(C)] // A stream looks at all of it for each token.
pub(super) struct Within<F> {
    future: F,
    woken: Option<Waker>,
    deadline: Instant,
    timer: Option<Pin<Box<Unconstrained<Sleep>>>>,
}

impl<F: Future + Unpin> Within<F> {
    pub(super) fn new(deadline: Instant, future: F) -> Self {
        Self { future, woken: None, deadline, timer: None }
    }

    /// Moves the deadline, even if it has passed.
    pub(super) fn until(&mut self, deadline: Instant) {
        (self.deadline, self.woken, self.timer) = (deadline, None, None);
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<F::Output, Late>> {
        if let Poll::Ready(output) = Pin::new(&mut self.future).poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if Instant::now() >= self.deadline {
            return Poll::Ready(Err(Late));
        }
        if self.woken.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            // Out of budget a timer would be pending without knowing whom to wake.
            let timer = || Box::pin(unconstrained(sleep_until(self.deadline)));
            if self.timer.get_or_insert_with(timer).as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(Late));
            }
            self.woken = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// What a future comes to, if it does before the deadline.
pub(super) async fn within<F: Future>(deadline: Instant, future: F) -> Result<F::Output, Late> {
    let future = pin!(future);
    let mut within = Within::new(deadline, future);
    poll_fn(|cx| within.poll(cx)).await
}
