//! A call whose handler runs.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use schwann::{Call, Error, Finished};
use tokio::time::Instant;

use super::{
    Inner,
    deadline::{Late, Within},
    pipeline::Exchange,
    refusal::Refusal,
};
use crate::{
    admission::Pass,
    route::{Boxed, Outcome, SynapseError},
    synapse::Envelope,
};

/// How much longer than its deadline a stream may go on whose caller has not left by then.
pub(super) const GRACE: Duration = Duration::from_millis(500);

/// What a request came to once it was admitted.
pub(super) struct Admitted {
    pub(super) run: Boxed<Result<Outcome, SynapseError>>,
    pub(super) deadline: Instant,
    pub(super) timeout: Duration,
    pub(super) envelope: Option<Envelope>,
    pub(super) pass: Pass,
}

/// A call whose handler runs, until it is answered.
///
/// A stream is this for most of its life, and is polled for each of its tokens; thousands of them are waited for by memory
/// and not by instructions. So what came before it is gone by then, and what each poll looks at stands together.
#[repr(C)]
pub(super) struct UnderWay<'a> {
    run: Within<Boxed<Result<Outcome, SynapseError>>>,
    /// The caller was given more time than it has.
    graced: bool,
    exchange: Exchange<'a>,
    timeout: Duration,
    envelope: Option<Envelope>,
    _pass: Pass,
}

impl<'a> UnderWay<'a> {
    pub(super) fn new(exchange: Exchange<'a>, admitted: Admitted) -> Self {
        let Admitted { run, deadline, timeout, envelope, pass } = admitted;
        let run = Within::new(deadline, run);
        Self { run, graced: false, exchange, timeout, envelope, _pass: pass }
    }
}

impl Future for UnderWay<'_> {
    type Output = Result<Finished, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            let outcome = match this.run.poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(outcome)) => {
                    outcome.map_err(|error| Refusal::of(error, this.timeout))
                }
                Poll::Ready(Err(Late)) if !this.graced && this.exchange.has_begun() => {
                    // The caller counts from before the request, and leaves on its own. Cut at the same moment, its
                    // stream would seem broken to it, and not late.
                    this.graced = true;
                    this.run.until(this.exchange.started + this.timeout + GRACE);
                    continue;
                }
                Poll::Ready(Err(Late)) => Err(Refusal::late(this.timeout)),
            };
            let envelope = this.envelope.take().unwrap_or_default();
            let answered = outcome.and_then(|outcome| this.exchange.answer(outcome, &envelope));
            return Poll::Ready(answered.map_err(|refusal| this.exchange.refuse(refusal)));
        }
    }
}

/// One call, from its head to its answer.
pub(super) enum Serving<'a> {
    Admitting(Pin<Box<dyn Future<Output = Result<Begun<'a>, Error>> + Send + 'a>>),
    UnderWay(Box<UnderWay<'a>>),
}

/// What comes of a request before anything is waited for by its handler.
pub(super) enum Begun<'a> {
    Answered(Finished),
    UnderWay(Box<UnderWay<'a>>),
}

impl<'a> Serving<'a> {
    pub(super) fn new(axon: &'a Inner, call: Call) -> Self {
        Self::Admitting(Box::pin(axon.begin(call)))
    }
}

impl Future for Serving<'_> {
    type Output = Result<Finished, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        match this {
            Self::UnderWay(under_way) => Pin::new(&mut **under_way).poll(cx),
            Self::Admitting(begin) => match ready!(begin.as_mut().poll(cx))? {
                Begun::Answered(finished) => Poll::Ready(Ok(finished)),
                Begun::UnderWay(under_way) => {
                    *this = Self::UnderWay(under_way);
                    // It was polled once, and knows whom to wake.
                    Poll::Pending
                }
            },
        }
    }
}
