//! The dendrite: calls axons.
//!
//! ```no_run
//! # use schwann_synapse::{dendrite::Dendrite, keys::Keypair, synapse::Untyped, target::Target, python::Dict};
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! # let ask = || Untyped::new("Translate", Dict::default());
//! let dendrite = Dendrite::new(Keypair::from_uri("//Alice")?);
//! let axon = Target::new("127.0.0.1", 8091, "5CcX9gSfabdgTwKAXapgUMcoVTzRSNGXE8o2iCAWxo4hYTxp")?;
//!
//! let answer = dendrite.call(&axon, ask()).timeout(std::time::Duration::from_secs(5)).await?;
//! println!("{:?}", answer.synapse);
//!
//! let mut stream = dendrite.stream(&axon, ask()).await?;
//! while let Some(text) = stream.text_chunk().await? {
//!     print!("{text}");
//! }
//! let answer = stream.finish().await?;
//! # Ok(())
//! # }
//! ```

use std::{
    borrow::Cow,
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Duration,
};

use tokio::{
    runtime::{self, Runtime},
    sync::{Semaphore, watch},
    time::timeout,
};

use crate::{
    answer::call,
    ask::Asked,
    call_error::CallError,
    connections::{Pool, PoolLimits},
    fan_out::Many,
    history::History,
    keys::Signer,
    lanes::{Lanes, NonceClock},
    stream::stream,
    synapse::Ask,
    target::{Target, TargetError},
    terminal::TerminalInfo,
};
pub use crate::{
    answer::{Answer, Timings},
    fan_out::{FanOut, Forward, ForwardStreams},
    history::Record,
    stream::{
        AnswerHead, AnswerStream, AsItComes, CollectText, HookError, Lines, StreamHooks, Utf8,
    },
};

/// Calls axons: signs, sends, reads, and says why when it fails.
///
/// A clone is another handle to the same connections and lanes. When the last
/// handle is dropped the dendrite closes: its connections close, and calls and
/// streams still under way end with [`CallError::Closed`].
#[derive(Clone)]
pub struct Dendrite {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
}

/// What calls share. They hold it, but not the handle: they must not keep a
/// dendrite open that nobody else has.
pub(crate) struct Shared {
    pub(crate) signer: Arc<dyn Signer>,
    pub(crate) hotkey: String,
    pub(crate) external_ip: Option<String>,
    pub(crate) version: i64,
    pub(crate) lanes: Lanes<Target>,
    pub(crate) nonces: NonceClock,
    pub(crate) pool: Arc<Pool>,
    pub(crate) in_flight: Arc<Semaphore>,
    pub(crate) closed: watch::Sender<bool>,
    pub(crate) history: Option<History>,
    defaults: CallOptions,
    max_in_flight: usize,
    blocking: Mutex<Option<Runtime>>,
}

/// How a call is made; a dendrite has defaults, each call may differ.
#[derive(Clone, Debug)]
pub(crate) struct CallOptions {
    pub(crate) queue: Duration,
    pub(crate) connect: Duration,
    pub(crate) first_byte: Duration,
    pub(crate) idle: Duration,
    pub(crate) total: Duration,
    pub(crate) max_answer_bytes: u64,
    pub(crate) protocol: Protocol,
    pub(crate) bound: bool,
    pub(crate) inputs: Inputs,
}

/// How a request says who it is from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// The synapse protocol of the Python SDK 7 to 10.
    #[default]
    V10,
    /// Signed headers of SDK 11 over a body that is the synapse's own fields.
    BtAuth1,
}

/// Whose value a required field has in an answer, if it said something in the
/// request and the axon answers another value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Inputs {
    /// The request's. [`Answer::altered`] names the fields that differed.
    #[default]
    Asked,
    /// The axon's, as in the reference.
    Answered,
}

/// A dendrite being set up.
#[derive(Clone)]
#[must_use]
pub struct DendriteBuilder {
    signer: Arc<dyn Signer>,
    external_ip: Option<String>,
    version: i64,
    options: CallOptions,
    pool: PoolLimits,
    lanes_per_axon: usize,
    max_in_flight: usize,
    history: usize,
}

impl Dendrite {
    /// A dendrite with the defaults of [`builder`](Self::builder).
    pub fn new(signer: impl Signer) -> Self {
        Self::builder(signer).build()
    }

    /// Sets a dendrite up that signs with `signer`. Nothing is looked up or
    /// dialled before the first call.
    pub fn builder(signer: impl Signer) -> DendriteBuilder {
        DendriteBuilder {
            signer: Arc::new(signer),
            external_ip: None,
            version: 10_005_000,
            options: CallOptions {
                queue: Duration::from_secs(60),
                connect: Duration::from_secs(5),
                first_byte: Duration::from_secs(60),
                idle: Duration::from_secs(60),
                total: Duration::from_secs(12),
                max_answer_bytes: 64 << 20,
                protocol: Protocol::V10,
                bound: false,
                inputs: Inputs::Asked,
            },
            pool: PoolLimits {
                // uvicorn closes after 5 s of silence: let go first, rather than send into a closing door.
                idle: Duration::from_secs(4),
                idle_per_target: 64,
                idle_in_all: 1024,
                max_head_bytes: 64 << 10,
                max_headers: 256,
                dial_unspecified: false,
            },
            lanes_per_axon: 64,
            max_in_flight: 512,
            history: 0,
        }
    }

    /// Calls one axon: `dendrite.call(&axon, ask).timeout(t).await?`.
    pub fn call<S: Ask>(
        &self,
        axon: impl TryInto<Target, Error = impl Into<TargetError>>,
        ask: S,
    ) -> Call<S> {
        Call {
            shared: Arc::clone(&self.handle.shared),
            target: axon.try_into().map_err(Into::into),
            asked: Arc::new(Asked::new(ask)),
            options: self.handle.shared.defaults.clone(),
        }
    }

    /// Calls one axon and gives its answer piece by piece as it arrives.
    pub fn stream<S: Ask>(
        &self,
        axon: impl TryInto<Target, Error = impl Into<TargetError>>,
        ask: S,
    ) -> StreamCall<S> {
        StreamCall { call: self.call(axon, ask), hooks: Box::new(AsItComes) }
    }

    /// Calls several axons, at the same time unless
    /// [`sequential`](Forward::sequential), and gives the results in the order of
    /// the targets. One that fails does not disturb the others.
    pub fn forward<S: Ask, T>(&self, axons: impl IntoIterator<Item = T>, ask: S) -> Forward<S>
    where
        T: TryInto<Target, Error: Into<TargetError>>,
    {
        Forward { many: self.many(axons, ask), sequential: false }
    }

    /// Calls several axons and gives each result as it completes, with the
    /// target's index.
    pub fn fan_out<S: Ask, T>(&self, axons: impl IntoIterator<Item = T>, ask: S) -> FanOut<S>
    where
        T: TryInto<Target, Error: Into<TargetError>>,
    {
        FanOut::new(self.many(axons, ask))
    }

    /// Calls several axons and blocks until all have ended: [`forward`](Self::forward)
    /// for code that is not async. [`Forward::wait`] and [`Call::wait`] do the same
    /// with options.
    pub fn query<S: Ask, T>(
        &self,
        axons: impl IntoIterator<Item = T>,
        ask: S,
    ) -> Vec<Result<Answer<S>, CallError>>
    where
        T: TryInto<Target, Error: Into<TargetError>>,
    {
        self.forward(axons, ask).wait()
    }

    /// The ss58 text of the hotkey that signs.
    pub fn hotkey(&self) -> &str {
        &self.handle.shared.hotkey
    }

    /// The last calls, oldest first. Empty unless the builder asked for a
    /// [`history`](DendriteBuilder::history).
    pub fn history(&self) -> Vec<Record> {
        self.handle.shared.history.as_ref().map(History::records).unwrap_or_default()
    }

    /// How many connections are open, in use or kept.
    pub fn open_connections(&self) -> usize {
        self.handle.shared.pool.open()
    }

    /// Closes all connections and waits until they are closed, at most 5 s. Calls
    /// and streams under way end with [`CallError::Closed`], and so does every
    /// later call. To close twice is harmless.
    ///
    /// # Cancel safety
    ///
    /// The dendrite is closed as soon as the future is polled; dropping it only
    /// stops the waiting.
    pub async fn close(&self) {
        self.handle.shared.shut();
        // Bounded: a connection whose runtime stands still closes when that moves again.
        let _ = timeout(Duration::from_secs(5), self.handle.shared.pool.all_closed()).await;
    }

    fn many<S: Ask, T>(&self, axons: impl IntoIterator<Item = T>, ask: S) -> Many<S>
    where
        T: TryInto<Target, Error: Into<TargetError>>,
    {
        let shared = Arc::clone(&self.handle.shared);
        Many {
            targets: axons.into_iter().map(|axon| axon.try_into().map_err(Into::into)).collect(),
            asked: Arc::new(Asked::new(ask)),
            options: shared.defaults.clone(),
            concurrency: shared.max_in_flight,
            shared,
        }
    }
}

impl fmt::Display for Dendrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dendrite({})", self.hotkey())
    }
}

impl fmt::Debug for Dendrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dendrite").field("hotkey", &self.hotkey()).finish_non_exhaustive()
    }
}

impl fmt::Debug for DendriteBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DendriteBuilder").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.shut();
        // Its own worker may be the one dropping the handle: never wait for it here.
        if let Some(runtime) = self.shared.blocking().take() {
            runtime.shutdown_background();
        }
    }
}

impl DendriteBuilder {
    /// What the request says the caller's address is. Axons overwrite it with
    /// what they see. Not sent by default, and never looked up (W34).
    pub fn external_ip(mut self, ip: impl Into<String>) -> Self {
        self.external_ip = Some(ip.into());
        self
    }

    /// The SDK version to speak as: `major * 1_000_000 + minor * 1_000 + patch`.
    /// Default 10005000; below 7002000 old axons apply weaker rules to nonces.
    pub fn version(mut self, version: i64) -> Self {
        self.version = version;
        self
    }

    /// The time for a call, counted from when it is sent. Default 12 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.total = timeout;
        self
    }

    /// The time for look-up and connecting, within the whole. Default 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.connect = timeout;
        self
    }

    /// The longest wait for the head of an answer, within the whole. Default 60 s.
    pub fn first_byte_timeout(mut self, timeout: Duration) -> Self {
        self.options.first_byte = timeout;
        self
    }

    /// The longest wait for the next piece of an answer, within the whole. Default 60 s.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.options.idle = timeout;
        self
    }

    /// The longest wait for a lane and a place in flight, before a call is sent. Default 60 s.
    pub fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.options.queue = timeout;
        self
    }

    /// The protocol of calls. Default [`Protocol::V10`].
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.options.protocol = protocol;
        self
    }

    /// Whether v10 calls also carry a signature over the whole request: see
    /// [`Bound`](crate::caller::Bound). SDK axons ignore it. By default they do not;
    /// `btauth/1` needs none.
    pub fn bound(mut self, bound: bool) -> Self {
        self.options.bound = bound;
        self
    }

    /// The largest body of an answer, in bytes; of a stream, all of it. Default 64 MiB.
    pub fn max_answer_bytes(mut self, bytes: u64) -> Self {
        self.options.max_answer_bytes = bytes;
        self
    }

    /// The largest head of an answer, in bytes. Default 64 KiB.
    pub fn max_head_bytes(mut self, bytes: usize) -> Self {
        self.pool.max_head_bytes = bytes;
        self
    }

    /// How long an unused connection is kept; zero keeps none. Default 4 s.
    pub fn keep_alive(mut self, idle: Duration) -> Self {
        self.pool.idle = idle;
        self
    }

    /// How many unused connections are kept: to one axon, and in all. Default 64 and 1024.
    pub fn max_idle(mut self, per_axon: usize, in_all: usize) -> Self {
        self.pool.idle_per_target = per_axon;
        self.pool.idle_in_all = in_all;
        self
    }

    /// How many requests are in flight at one axon. Each has a uuid of its own,
    /// which a v10 axon never forgets. Default 64.
    pub fn lanes_per_axon(mut self, lanes: usize) -> Self {
        self.lanes_per_axon = lanes.max(1);
        self
    }

    /// How many requests are in flight in all. Default 512.
    pub fn max_in_flight(mut self, calls: usize) -> Self {
        self.max_in_flight = calls.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// Whether `0.0.0.0` and `::` are dialled, which reaches this machine. By
    /// default they are unreachable: on the chain they say that a neuron does not serve.
    pub fn dial_unspecified(mut self, dial: bool) -> Self {
        self.pool.dial_unspecified = dial;
        self
    }

    /// Remembers the last `calls`. By default none.
    pub fn history(mut self, calls: usize) -> Self {
        self.history = calls;
        self
    }

    /// The dendrite.
    pub fn build(self) -> Dendrite {
        let closed = watch::Sender::new(false);
        let shared = Arc::new(Shared {
            hotkey: self.signer.hotkey().to_string(),
            signer: self.signer,
            external_ip: self.external_ip,
            version: self.version,
            lanes: Lanes::new(self.lanes_per_axon, 16_384),
            nonces: NonceClock::default(),
            pool: Pool::new(self.pool, closed.subscribe()),
            in_flight: Arc::new(Semaphore::new(self.max_in_flight)),
            closed,
            history: (self.history > 0).then(|| History::new(self.history)),
            defaults: self.options,
            max_in_flight: self.max_in_flight,
            blocking: Mutex::default(),
        });
        Dendrite { handle: Arc::new(Handle { shared }) }
    }
}

impl Shared {
    fn shut(&self) {
        self.closed.send_replace(true);
        self.pool.close();
    }

    fn blocking(&self) -> std::sync::MutexGuard<'_, Option<Runtime>> {
        // A runtime is there or it is not.
        self.blocking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `future` on a thread of the dendrite's own and blocks this one.
    pub(crate) fn block_on<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, CallError> {
        if *self.closed.borrow() {
            return Err(CallError::Closed);
        }
        let runtime = {
            let mut blocking = self.blocking();
            match &*blocking {
                Some(runtime) => runtime.handle().clone(),
                None => {
                    let new = runtime::Builder::new_multi_thread()
                        .worker_threads(1)
                        .thread_name("dendrite")
                        .enable_all()
                        .build()
                        .map_err(CallError::Thread)?;
                    blocking.insert(new).handle().clone()
                }
            }
        };
        let (result, done) = mpsc::sync_channel(1);
        runtime.spawn(async move {
            // The receiver waits below; it is gone only if this thread died.
            let _ = result.send(future.await);
        });
        // A panic in the future, or a runtime shut down by the last handle, drops the sender.
        done.recv().map_err(|_| CallError::Closed)
    }

    /// Writes down a call that failed before an answer.
    pub(crate) fn failed(&self, target: &Target, name: &str, error: &CallError, took: Duration) {
        let axon = target.terminal();
        let dendrite = TerminalInfo {
            hotkey: Some(self.hotkey.clone()),
            status_code: Some(error.status_code()),
            status_message: error.status_message().map(Cow::into_owned),
            ..TerminalInfo::default()
        };
        self.ended(Record { name: name.to_owned(), axon, dendrite, took }, 0, Some(error));
    }

    pub(crate) fn ended(&self, record: Record, received: u64, error: Option<&CallError>) {
        tracing::debug!(
            target: "schwann::dendrite",
            axon = record.axon.hotkey.as_deref(),
            ip = record.axon.ip.as_deref(),
            port = record.axon.port,
            name = %record.name,
            bytes = received,
            status = record.dendrite.status_code,
            message = record.dendrite.status_message.as_deref(),
            error = error.map(tracing::field::display),
            took = ?record.took,
            "received"
        );
        if let Some(history) = &self.history {
            history.push(record);
        }
    }
}

/// A call, not yet made: see [`Dendrite::call`].
#[must_use = "nothing is sent before it is awaited"]
pub struct Call<S> {
    shared: Arc<Shared>,
    target: Result<Target, TargetError>,
    asked: Arc<Asked<S>>,
    options: CallOptions,
}

/// A streaming call, not yet made: see [`Dendrite::stream`].
#[must_use = "nothing is sent before it is awaited"]
pub struct StreamCall<S> {
    call: Call<S>,
    hooks: Box<dyn StreamHooks>,
}

macro_rules! options {
    ($builder:ident, $($call:ident)?) => {
        impl<S> $builder<S> {
            /// The time for the call, counted from when it is sent: connecting is
            /// in it, waiting for a lane is not. The axon is told.
            pub fn timeout(mut self, timeout: Duration) -> Self {
                self.$($call.)?options.total = timeout;
                self
            }

            /// The time for look-up and connecting, within the whole.
            pub fn connect_timeout(mut self, timeout: Duration) -> Self {
                self.$($call.)?options.connect = timeout;
                self
            }

            /// The longest wait for the head of the answer, within the whole.
            pub fn first_byte_timeout(mut self, timeout: Duration) -> Self {
                self.$($call.)?options.first_byte = timeout;
                self
            }

            /// The longest wait for the next piece of the answer, within the whole.
            pub fn idle_timeout(mut self, timeout: Duration) -> Self {
                self.$($call.)?options.idle = timeout;
                self
            }

            /// The largest body, in bytes.
            pub fn max_answer_bytes(mut self, bytes: u64) -> Self {
                self.$($call.)?options.max_answer_bytes = bytes;
                self
            }

            /// The protocol.
            pub fn protocol(mut self, protocol: Protocol) -> Self {
                self.$($call.)?options.protocol = protocol;
                self
            }

            /// Whether the call, if it is v10, also carries a signature over the
            /// whole request: see [`DendriteBuilder::bound`].
            pub fn bound(mut self, bound: bool) -> Self {
                self.$($call.)?options.bound = bound;
                self
            }

            /// Whose value a required field has in the answer.
            pub fn inputs(mut self, inputs: Inputs) -> Self {
                self.$($call.)?options.inputs = inputs;
                self
            }
        }

        impl<S> fmt::Debug for $builder<S> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let call = &self$(.$call)?;
                f.debug_struct(stringify!($builder))
                    .field("target", &call.target)
                    .field("options", &call.options)
                    .finish_non_exhaustive()
            }
        }
    };
}

options!(Call,);
options!(StreamCall, call);

impl<S: Ask> Call<S> {
    /// Makes the call and blocks this thread until it has ended: see
    /// [`Forward::wait`].
    ///
    /// # Errors
    ///
    /// As for awaiting it.
    pub fn wait(self) -> Result<Answer<S>, CallError> {
        let shared = Arc::clone(&self.shared);
        shared.block_on(self.into_future())?
    }
}

impl<S> StreamCall<S> {
    /// What becomes of the bytes that arrive, and of the synapse after them.
    pub fn hooks(mut self, hooks: impl StreamHooks) -> Self {
        self.hooks = Box::new(hooks);
        self
    }
}

impl<S: Ask> IntoFuture for Call<S> {
    type Output = Result<Answer<S>, CallError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    /// Dropping the future gives the call up and closes its connection.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { call(&self.shared, &self.target?, &self.asked, &self.options).await })
    }
}

impl<S: Ask> IntoFuture for StreamCall<S> {
    type Output = Result<AnswerStream<S>, CallError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    /// Completes when the head of the answer has arrived and says 200.
    fn into_future(self) -> Self::IntoFuture {
        let Self { call, hooks } = self;
        Box::pin(async move {
            stream(&call.shared, &call.target?, call.asked, call.options, hooks).await
        })
    }
}
