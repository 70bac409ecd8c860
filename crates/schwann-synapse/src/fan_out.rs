//! One synapse to many axons.

use std::{
    future::{Future, IntoFuture},
    panic::resume_unwind,
    pin::Pin,
    sync::Arc,
    time::Duration,
    vec,
};

use tokio::task::{JoinError, JoinSet};

use crate::{
    answer::{Answer, call},
    ask::Asked,
    call_error::CallError,
    dendrite::{CallOptions, Inputs, Protocol, Shared},
    stream::{AnswerStream, AsItComes, stream},
    synapse::Ask,
    target::{Target, TargetError},
};

type Targets = Vec<Result<Target, TargetError>>;
type Indexed<T> = (usize, Result<T, CallError>);

/// Calls to several axons, not yet made: see
/// [`Dendrite::forward`](crate::dendrite::Dendrite::forward).
#[must_use = "nothing is sent before it is awaited"]
pub struct Forward<S> {
    pub(crate) many: Many<S>,
    pub(crate) sequential: bool,
}

/// Streaming calls to several axons, not yet made: see [`Forward::streaming`].
#[must_use = "nothing is sent before it is awaited"]
pub struct ForwardStreams<S>(Forward<S>);

/// Calls to several axons, given as they complete: see
/// [`Dendrite::fan_out`](crate::dendrite::Dendrite::fan_out).
#[must_use = "nothing is sent before the first `next`"]
pub struct FanOut<S: Ask> {
    many: Many<S>,
    waiting: Option<vec::IntoIter<(usize, Result<Target, TargetError>)>>,
    running: JoinSet<Indexed<Answer<S>>>,
}

pub(crate) struct Many<S> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) targets: Targets,
    pub(crate) asked: Arc<Asked<S>>,
    pub(crate) options: CallOptions,
    pub(crate) concurrency: usize,
}

impl<S> Clone for Many<S> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            targets: Vec::new(),
            asked: Arc::clone(&self.asked),
            options: self.options.clone(),
            concurrency: self.concurrency,
        }
    }
}

macro_rules! options {
    ($builder:ident<S $(: $bound:path)?>, $($many:tt).+) => {
        impl<S $(: $bound)?> $builder<S> {
            /// The time for each call, counted from when it is sent.
            pub fn timeout(mut self, timeout: Duration) -> Self {
                self.$($many).+.options.total = timeout;
                self
            }

            /// The longest wait for the next piece of an answer.
            pub fn idle_timeout(mut self, timeout: Duration) -> Self {
                self.$($many).+.options.idle = timeout;
                self
            }

            /// The protocol of the calls.
            pub fn protocol(mut self, protocol: Protocol) -> Self {
                self.$($many).+.options.protocol = protocol;
                self
            }

            /// Whether v10 calls also carry a signature over the whole request: see
            /// [`DendriteBuilder::bound`](crate::dendrite::DendriteBuilder::bound).
            pub fn bound(mut self, bound: bool) -> Self {
                self.$($many).+.options.bound = bound;
                self
            }

            /// Whose value a required field has in the answers.
            pub fn inputs(mut self, inputs: Inputs) -> Self {
                self.$($many).+.options.inputs = inputs;
                self
            }

            /// How many calls are made at a time; by default as many as the
            /// dendrite has places in flight.
            pub fn concurrency(mut self, calls: usize) -> Self {
                self.$($many).+.concurrency = calls.max(1);
                self
            }
        }

        impl<S $(: $bound)?> std::fmt::Debug for $builder<S> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($builder)).field("targets", &self.$($many).+.targets).finish_non_exhaustive()
            }
        }
    };
}

options!(Forward<S>, many);
options!(ForwardStreams<S>, 0.many);
options!(FanOut<S: Ask>, many);

impl<S> Forward<S> {
    /// One after the other, each sent when the one before it has ended.
    pub fn sequential(mut self) -> Self {
        self.sequential = true;
        self
    }

    /// Streaming calls: the results are streams whose heads have arrived.
    pub fn streaming(self) -> ForwardStreams<S> {
        ForwardStreams(self)
    }
}

impl<S: Ask> Forward<S> {
    /// Makes the calls and blocks this thread until all have ended. They run on a
    /// thread of the dendrite's own, so this works inside and outside a runtime,
    /// any number of times. Inside one it keeps its thread from other tasks.
    pub fn wait(self) -> Vec<Result<Answer<S>, CallError>> {
        let shared = Arc::clone(&self.many.shared);
        let count = self.many.targets.len();
        match shared.block_on(self.into_future()) {
            Ok(results) => results,
            Err(error) => {
                let rest = (1..count).map(|_| Err(CallError::Closed));
                std::iter::once(Err(error)).chain(rest).take(count).collect()
            }
        }
    }
}

impl<S: Ask> IntoFuture for Forward<S> {
    type Output = Vec<Result<Answer<S>, CallError>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    /// Results in the order of the targets. Dropping the future gives up every
    /// call that has not ended.
    fn into_future(self) -> Self::IntoFuture {
        let concurrency = if self.sequential { 1 } else { self.many.concurrency };
        Box::pin(in_order(self.many, concurrency, |many: Many<S>, target| async move {
            call(&many.shared, &target?, &many.asked, &many.options).await
        }))
    }
}

impl<S: Ask> IntoFuture for ForwardStreams<S> {
    type Output = Vec<Result<AnswerStream<S>, CallError>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let concurrency = if self.0.sequential { 1 } else { self.0.many.concurrency };
        Box::pin(in_order(self.0.many, concurrency, |many: Many<S>, target| async move {
            stream(&many.shared, &target?, many.asked, many.options, Box::new(AsItComes)).await
        }))
    }
}

impl<S: Ask> FanOut<S> {
    pub(crate) fn new(many: Many<S>) -> Self {
        Self { many, waiting: None, running: JoinSet::new() }
    }

    /// The next call that has ended, with its target's index; `None` after the
    /// last. Calls run on while nobody asks; new ones begin when one is taken.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before completing, no result is lost.
    pub async fn next(&mut self) -> Option<(usize, Result<Answer<S>, CallError>)> {
        let waiting = self.waiting.get_or_insert_with(|| {
            std::mem::take(&mut self.many.targets)
                .into_iter()
                .enumerate()
                .collect::<Vec<_>>()
                .into_iter()
        });
        while self.running.len() < self.many.concurrency
            && let Some((index, target)) = waiting.next()
        {
            let many = self.many.clone();
            self.running.spawn(async move {
                let one = async { call(&many.shared, &target?, &many.asked, &many.options).await };
                (index, one.await)
            });
        }
        self.running.join_next().await.map(joined)
    }

    /// How many results are still to come.
    pub fn remaining(&self) -> usize {
        let waiting = self.waiting.as_ref().map_or(self.many.targets.len(), ExactSizeIterator::len);
        self.running.len() + waiting
    }
}

async fn in_order<S, T, F>(
    mut many: Many<S>,
    concurrency: usize,
    one: fn(Many<S>, Result<Target, TargetError>) -> F,
) -> Vec<Result<T, CallError>>
where
    S: Ask,
    T: Send + 'static,
    F: Future<Output = Result<T, CallError>> + Send + 'static,
{
    let targets = std::mem::take(&mut many.targets);
    let mut results: Vec<Option<Result<T, CallError>>> = Vec::new();
    results.resize_with(targets.len(), || None);
    // A drop of the set is a drop of every call in it.
    let mut running = JoinSet::new();
    for (index, target) in targets.into_iter().enumerate() {
        if running.len() >= concurrency
            && let Some(ended) = running.join_next().await
        {
            let (index, result) = joined(ended);
            results[index] = Some(result);
        }
        let call = one(many.clone(), target);
        running.spawn(async move { (index, call.await) });
    }
    while let Some(ended) = running.join_next().await {
        let (index, result) = joined(ended);
        results[index] = Some(result);
    }
    results.into_iter().map(|result| result.unwrap_or(Err(CallError::Closed))).collect()
}

fn joined<T>(ended: Result<T, JoinError>) -> T {
    match ended {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            // A hook or a `Deserialize` of the synapse's own panicked: the caller's panic.
            Ok(panic) => resume_unwind(panic),
            Err(_) => unreachable!("nobody else can abort these tasks"),
        },
    }
}
