//! Routes of an axon: what is attached to it, and under which conditions it runs.

use std::{
    borrow::Cow, collections::HashSet, fmt, future::Future, marker::PhantomData, pin::Pin,
    sync::Arc, time::Duration,
};

use http::StatusCode;
use schwann::{BlockingPool, BoxError, Fault, Finished};

use crate::{
    axon::StreamReply,
    caller::{Bound, Caller, Verdict, Verify},
    hash::{BodyHash, BodyHasher},
    python::{ConvertError, Dict},
    ss58::Hotkey,
    synapse::{Synapse, Untyped},
};

/// Why a handler or a hook did not do what it was asked.
///
/// Any error becomes one with `?`: the caller then sees `Internal Server Error #id`, and the log the error under that id.
/// [`SynapseError::new`] chooses what the caller sees.
pub struct SynapseError {
    pub(crate) status: StatusCode,
    pub(crate) message: Option<Cow<'static, str>>,
    pub(crate) source: Option<BoxError>,
}

impl SynapseError {
    /// An answer with this status and message, both of which the caller sees.
    pub fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, message: Some(message.into()), source: None }
    }

    /// The call took too long: 408, worded as the reference words it.
    pub fn timeout() -> Self {
        Self { status: StatusCode::REQUEST_TIMEOUT, message: None, source: None }
    }

    /// The server failed. The caller sees `Internal Server Error #id`; the log has `source` under that id.
    pub fn internal(source: impl Into<BoxError>) -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            message: None,
            source: Some(source.into()),
        }
    }

    /// Adds the cause, for the log.
    #[must_use]
    pub fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The status the caller sees, if nothing was sent yet.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn of(error: BoxError) -> Self {
        match error.downcast::<schwann::Error>() {
            Ok(error) => {
                let message = match error.fault() {
                    Fault::Caller => Some(Cow::Owned(error.public_message().to_owned())),
                    Fault::Server if error.status() != StatusCode::INTERNAL_SERVER_ERROR => {
                        Some(Cow::Owned(error.public_message().to_owned()))
                    }
                    Fault::Server | Fault::Disconnected => None,
                };
                Self { status: error.status(), message, source: Some(error) }
            }
            Err(error) => Self::internal(error),
        }
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for SynapseError {
    fn from(error: E) -> Self {
        Self::of(Box::new(error))
    }
}

impl fmt::Debug for SynapseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SynapseError")
            .field("status", &self.status)
            .field("message", &self.message)
            .field("source", &self.source)
            .finish()
    }
}

impl fmt::Display for SynapseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.message, &self.source) {
            (Some(message), _) => f.write_str(message),
            (None, Some(source)) => source.fmt(f),
            (None, None) => write!(f, "{}", self.status),
        }
    }
}

/// A synapse as a handler filled it, and the status of its answer.
///
/// A handler may return the synapse itself, which is a 200.
#[derive(Clone, Debug)]
pub struct Filled<S> {
    /// The synapse.
    pub synapse: S,
    /// The status of the answer. Its body is the synapse whatever the status is.
    pub status: StatusCode,
    /// What the status says.
    pub message: Cow<'static, str>,
}

impl<S> Filled<S> {
    /// A synapse with a status other than 200.
    pub fn with_status(
        synapse: S,
        status: StatusCode,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { synapse, status, message: message.into() }
    }
}

impl<S> From<S> for Filled<S> {
    fn from(synapse: S) -> Self {
        Self { synapse, status: StatusCode::OK, message: Cow::Borrowed("Success") }
    }
}

pub(crate) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a handler is run with.
pub(crate) struct Running {
    pub(crate) caller: Caller,
    pub(crate) reply: StreamReply,
    pub(crate) pool: BlockingPool,
}

/// What a handler made.
pub(crate) enum Outcome {
    Filled(Box<Answer>),
    Streamed(Finished),
}

/// An answer that is not streamed.
pub(crate) struct Answer {
    pub(crate) fields: Dict,
    pub(crate) hash: BodyHash,
    pub(crate) status: StatusCode,
    pub(crate) message: Cow<'static, str>,
    pub(crate) reply: StreamReply,
}

/// A body that became a synapse whose hash agrees, ready to run.
pub(crate) struct Prepared {
    pub(crate) run: Box<dyn FnOnce(Running) -> Boxed<Result<Outcome, SynapseError>> + Send>,
}

/// Why a body did not become a synapse.
pub(crate) enum BodyFault {
    Fields(ConvertError),
    Hash,
}

/// A handler without its type.
pub(crate) trait Endpoint: Send + Sync + 'static {
    fn redefines(&self, base: &str) -> bool;
    /// Makes a synapse of `own`, and compares its hash with the one that was signed, unless the signature covers the body
    /// otherwise.
    fn prepare(&self, own: Dict, signed_hash: Option<&str>) -> Result<Prepared, BodyFault>;
}

type Hook<T> = Arc<dyn Fn(&Caller) -> Boxed<Result<T, SynapseError>> + Send + Sync>;

/// A handler under a name, with its hooks and limits. Made by [`unary`], [`streaming`], [`unary_blocking`] and
/// [`untyped`]; attached by [`AxonBuilder::attach`](crate::axon::AxonBuilder::attach).
pub struct Route {
    pub(crate) name: String,
    pub(crate) endpoint: Arc<dyn Endpoint>,
    pub(crate) blacklist: Option<Hook<Verdict>>,
    pub(crate) verify_with: Option<Hook<()>>,
    pub(crate) priority: Option<Hook<f64>>,
    pub(crate) verify: Option<Verify>,
    pub(crate) bound: Option<Bound>,
    pub(crate) max_body: Option<u64>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) allow: Option<HashSet<Hotkey>>,
    pub(crate) deny: HashSet<Hotkey>,
}

impl Route {
    fn new(name: String, endpoint: impl Endpoint) -> Self {
        Self {
            name,
            endpoint: Arc::new(endpoint),
            blacklist: None,
            verify_with: None,
            priority: None,
            verify: None,
            bound: None,
            max_body: None,
            timeout: None,
            allow: None,
            deny: HashSet::new(),
        }
    }

    /// Asks `blacklist` of every caller; a refusal is a 403.
    ///
    /// It runs on verified callers, after the signature was checked; under [`Verify::LikeReference`] before that.
    #[must_use]
    pub fn blacklist(
        mut self,
        blacklist: impl Fn(&Caller) -> Verdict + Send + Sync + 'static,
    ) -> Self {
        self.blacklist = Some(Arc::new(move |caller| {
            let verdict = blacklist(caller);
            Box::pin(async move { Ok(verdict) })
        }));
        self
    }

    /// The same, asking something that takes its time. An error is a 500.
    #[must_use]
    pub fn blacklist_with<F, Fut, E>(mut self, blacklist: F) -> Self
    where
        F: Fn(Caller) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Verdict, E>> + Send + 'static,
        E: Into<SynapseError>,
    {
        self.blacklist = Some(hook(blacklist));
        self
    }

    /// Verifies v10 callers in a way of its own **instead of** checking their signatures: the reference's `verify_fn`. An
    /// error is a 401 that tells its text. [`Caller::verified`] is false in it, and true after it.
    ///
    /// It does not replace [`bound`](Self::bound): a v10 request that carries a bound signature, or must, is checked for
    /// that as well, by the key of the hotkey it names. But whether a nonce is fresh and unused is the hook's to judge.
    ///
    /// A `btauth/1` caller's signature is checked first, and then it is asked of them too, with `verified` true: speaking
    /// another protocol is no way around it.
    #[must_use]
    pub fn verify_with<F, Fut, E>(mut self, verify: F) -> Self
    where
        F: Fn(Caller) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<SynapseError>,
    {
        self.verify_with = Some(hook(verify));
        self
    }

    /// Orders callers when the axon is busy: higher goes first.
    #[must_use]
    pub fn priority(mut self, priority: impl Fn(&Caller) -> f64 + Send + Sync + 'static) -> Self {
        self.priority = Some(Arc::new(move |caller| {
            let priority = priority(caller);
            Box::pin(async move { Ok(priority) })
        }));
        self
    }

    /// The same, asking something that takes its time. [`SynapseError::timeout`] is a 408, any other error a 500.
    #[must_use]
    pub fn priority_with<F, Fut, E>(mut self, priority: F) -> Self
    where
        F: Fn(Caller) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<f64, E>> + Send + 'static,
        E: Into<SynapseError>,
    {
        self.priority = Some(hook(priority));
        self
    }

    /// How requests to this route are verified. Default: as the axon says.
    #[must_use]
    pub fn verify(mut self, verify: Verify) -> Self {
        self.verify = Some(verify);
        self
    }

    /// Whether v10 callers must sign their whole requests. Default: as the axon says.
    #[must_use]
    pub fn bound(mut self, bound: Bound) -> Self {
        self.bound = Some(bound);
        self
    }

    /// The largest body of this route, in bytes. Default: as the axon says.
    #[must_use]
    pub fn max_body(mut self, bytes: u64) -> Self {
        self.max_body = Some(bytes);
        self
    }

    /// The longest a call may take. Default: as the axon says.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Serves these hotkeys only. Others are refused with 403 before any signature is looked at, whoever they claim to be.
    #[must_use]
    pub fn allow(mut self, hotkeys: impl IntoIterator<Item = Hotkey>) -> Self {
        self.allow.get_or_insert_default().extend(hotkeys);
        self
    }

    /// Refuses these hotkeys with 403, before any signature is looked at, under whatever network prefix (W13).
    #[must_use]
    pub fn deny(mut self, hotkeys: impl IntoIterator<Item = Hotkey>) -> Self {
        self.deny.extend(hotkeys);
        self
    }

    /// The route.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("name", &self.name).finish_non_exhaustive()
    }
}

fn hook<F, Fut, T, E>(ask: F) -> Hook<T>
where
    F: Fn(Caller) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, E>> + Send + 'static,
    E: Into<SynapseError>,
{
    Arc::new(move |caller| {
        let asked = ask(caller.clone());
        Box::pin(async move { asked.await.map_err(Into::into) })
    })
}

/// A route whose handler fills a synapse.
///
/// ```
/// # use schwann_synapse::{axon::unary, caller::Caller, route::SynapseError, synapse::Synapse};
/// # #[derive(Clone, serde::Serialize, serde::Deserialize, Synapse)]
/// # struct Greet { name: String, #[serde(default)] greeting: Option<String> }
/// async fn greet(mut ask: Greet, from: Caller) -> Result<Greet, SynapseError> {
///     ask.greeting = Some(format!("hello {}, or should I say {}", ask.name, from.hotkey));
///     Ok(ask)
/// }
/// let route = unary(greet).priority(|from| if from.verified { 1.0 } else { 0.0 });
/// ```
pub fn unary<S, F, Fut, R, E>(handler: F) -> Route
where
    S: Synapse,
    F: Fn(S, Caller) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, E>> + Send + 'static,
    R: Into<Filled<S>>,
    E: Into<SynapseError>,
{
    let handler = Arc::new(handler);
    typed(move |synapse: S, running| {
        let filling = handler(synapse, running.caller);
        let reply = running.reply;
        Box::pin(async move { outcome(filling.await.map_err(Into::into)?.into(), reply) })
    })
}

/// A route whose handler is synchronous: it runs on a thread of the axon's pool, where it may block (W18).
///
/// Nothing stops it from outside: when its caller leaves, or gets 408 at the deadline, it runs on to its end and holds its
/// thread, unless it asks [`Caller::gave_up`] now and then. One that still waits for a thread then never runs.
pub fn unary_blocking<S, F, R, E>(handler: F) -> Route
where
    S: Synapse,
    F: Fn(S, Caller) -> Result<R, E> + Send + Sync + 'static,
    R: Into<Filled<S>> + Send + 'static,
    E: Into<SynapseError> + Send + 'static,
{
    let handler = Arc::new(handler);
    typed(move |synapse: S, running| {
        let handler = Arc::clone(&handler);
        let Running { caller, reply, pool } = running;
        Box::pin(async move {
            let filled = pool.run(move || handler(synapse, caller)).await?;
            outcome(filled.map_err(Into::into)?.into(), reply)
        })
    })
}

/// A route whose handler streams its answer.
///
/// The handler starts the reply when it has something to say; until then an error of it is a status like any other.
/// Afterwards an error cuts the stream, which callers see: it never looks whole.
pub fn streaming<S, F, Fut, E>(handler: F) -> Route
where
    S: Synapse,
    F: Fn(S, Caller, StreamReply) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Finished, E>> + Send + 'static,
    E: Into<SynapseError>,
{
    let handler = Arc::new(handler);
    typed(move |synapse: S, running| {
        let hash = BodyHash::of(|hasher| synapse.hash_fields(hasher));
        let streaming = handler(synapse, running.caller, running.reply.hashed(hash));
        Box::pin(async move { streaming.await.map(Outcome::Streamed).map_err(Into::into) })
    })
}

fn outcome<S: Synapse>(filled: Filled<S>, reply: StreamReply) -> Result<Outcome, SynapseError> {
    let Filled { synapse, status, message } = filled;
    let fields = synapse.to_fields()?;
    let hash = BodyHash::of(|hasher| synapse.hash_fields(hasher));
    Ok(Outcome::Filled(Box::new(Answer { fields, hash, status, message, reply })))
}

type Run<S> = dyn Fn(S, Running) -> Boxed<Result<Outcome, SynapseError>> + Send + Sync;

struct Typed<S> {
    run: Arc<Run<S>>,
    _synapse: PhantomData<fn(S)>,
}

fn typed<S: Synapse>(
    run: impl Fn(S, Running) -> Boxed<Result<Outcome, SynapseError>> + Send + Sync + 'static,
) -> Route {
    Route::new(S::NAME.to_owned(), Typed::<S> { run: Arc::new(run), _synapse: PhantomData })
}

impl<S: Synapse> Endpoint for Typed<S> {
    fn redefines(&self, base: &str) -> bool {
        S::REDEFINED.contains(&base)
    }

    fn prepare(&self, own: Dict, signed_hash: Option<&str>) -> Result<Prepared, BodyFault> {
        let synapse = S::from_fields(own).map_err(BodyFault::Fields)?;
        check_hash(signed_hash, |hasher| synapse.hash_fields(hasher))?;
        let run = Arc::clone(&self.run);
        Ok(Prepared { run: Box::new(move |running| run(synapse, running)) })
    }
}

fn check_hash(
    signed_hash: Option<&str>,
    fields: impl Fn(&mut BodyHasher),
) -> Result<(), BodyFault> {
    match signed_hash {
        Some(signed) if !BodyHash::agrees(signed, fields) => Err(BodyFault::Hash),
        _ => Ok(()),
    }
}

/// Begins a route whose class is known only by its name: for programs and gateways.
///
/// ```
/// # use schwann_synapse::{axon::untyped, caller::Caller, route::SynapseError, synapse::Untyped};
/// let route = untyped("Echo").hash(["text"]).unary(async |mut ask: Untyped, _from: Caller| {
///     let text = ask.fields.get("text").cloned();
///     ask.fields.insert("echo", text.unwrap_or(schwann_synapse::python::Value::None));
///     Ok::<_, SynapseError>(ask)
/// });
/// ```
pub fn untyped(name: impl Into<String>) -> UntypedRoute {
    UntypedRoute { name: name.into(), hash: Vec::new(), redefines: Vec::new() }
}

/// An untyped route before it has a handler.
#[derive(Clone, Debug)]
pub struct UntypedRoute {
    name: String,
    hash: Vec<String>,
    redefines: Vec<String>,
}

impl UntypedRoute {
    /// The hashed fields, in the order of the callers' `required_hash_fields`.
    #[must_use]
    pub fn hash<F: Into<String>>(mut self, fields: impl IntoIterator<Item = F>) -> Self {
        self.hash = fields.into_iter().map(Into::into).collect();
        self
    }

    /// The base fields that the callers' class declares again, such as `timeout`: they are fields of the synapse then.
    #[must_use]
    pub fn redefines<F: Into<String>>(mut self, fields: impl IntoIterator<Item = F>) -> Self {
        self.redefines = fields.into_iter().map(Into::into).collect();
        self
    }

    /// The route, with a handler that fills the synapse.
    pub fn unary<F, Fut, R, E>(self, handler: F) -> Route
    where
        F: Fn(Untyped, Caller) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
        R: Into<Filled<Untyped>>,
        E: Into<SynapseError>,
    {
        self.route(move |synapse, running| {
            let filling = handler(synapse, running.caller);
            let reply = running.reply;
            Box::pin(async move {
                let filled: Filled<Untyped> = filling.await.map_err(Into::into)?.into();
                let Filled { synapse, status, message } = filled;
                let hash = BodyHash::of(|hasher| synapse.hash_fields(hasher));
                let fields = synapse.fields;
                Ok(Outcome::Filled(Box::new(Answer { fields, hash, status, message, reply })))
            })
        })
    }

    /// The route, with a handler that streams its answer: see [`streaming`].
    pub fn streaming<F, Fut, E>(self, handler: F) -> Route
    where
        F: Fn(Untyped, Caller, StreamReply) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Finished, E>> + Send + 'static,
        E: Into<SynapseError>,
    {
        self.route(move |synapse, running| {
            let hash = BodyHash::of(|hasher| synapse.hash_fields(hasher));
            let streaming = handler(synapse, running.caller, running.reply.hashed(hash));
            Box::pin(async move { streaming.await.map(Outcome::Streamed).map_err(Into::into) })
        })
    }

    fn route(
        self,
        run: impl Fn(Untyped, Running) -> Boxed<Result<Outcome, SynapseError>> + Send + Sync + 'static,
    ) -> Route {
        let name = self.name.clone();
        Route::new(name, AnyClass { class: self, run: Arc::new(run) })
    }
}

struct AnyClass {
    class: UntypedRoute,
    run: Arc<Run<Untyped>>,
}

impl Endpoint for AnyClass {
    fn redefines(&self, base: &str) -> bool {
        self.class.redefines.iter().any(|field| field == base)
    }

    fn prepare(&self, own: Dict, signed_hash: Option<&str>) -> Result<Prepared, BodyFault> {
        let synapse =
            Untyped::new(self.class.name.as_str(), own).hash(self.class.hash.iter().cloned());
        check_hash(signed_hash, |hasher| synapse.hash_fields(hasher))?;
        let run = Arc::clone(&self.run);
        Ok(Prepared { run: Box::new(move |running| run(synapse, running)) })
    }
}
