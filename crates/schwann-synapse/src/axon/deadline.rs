//! Waiting no longer than until a deadline.

use std::{
    future::poll_fn,
    pin::pin,
    task::{Poll, Waker},
};

use tokio::{
    task::unconstrained,
    time::{Instant, sleep_until},
};

/// A deadline passed.
pub(super) struct Late;

/// As [`tokio::time::timeout_at`], for what is mostly ready at once or polled many times: the timer is made when there is
/// something to wait for, and polled when it does not know whom to wake.
pub(super) async fn within<F: Future>(deadline: Instant, future: F) -> Result<F::Output, Late> {
    let mut future = pin!(future);
    let mut timer = None;
    let mut woken: Option<Waker> = None;
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if Instant::now() >= deadline {
            return Poll::Ready(Err(Late));
        }
        if woken.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            // Out of budget a timer would be pending without knowing whom to wake.
            let timer = timer.get_or_insert_with(|| Box::pin(unconstrained(sleep_until(deadline))));
            if timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(Late));
            }
            woken = Some(cx.waker().clone());
        }
        Poll::Pending
    })
    .await
}
