//! An HTTP server elsewhere that does the work.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body::{Body, Frame};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{self, Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use schwann::{BoxError, Call, Error, Finished, Handler};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::{Instant, sleep_until, timeout_at},
};

use crate::{
    ByteSize, Span,
    slots::{Busy, Slots},
};

/// How much of an error answer is kept for the log, in bytes.
const QUOTED: usize = 1024;

/// Connections are closed when unused for this long: below the 5 s at which
/// common servers close them, so that a request does not meet a closing one.
const POOL_IDLE: Duration = Duration::from_secs(4);

/// An HTTP server to ask once per call, as written in a configuration file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamSpec {
    /// Where to POST to, such as `http://127.0.0.1:9000/translate`.
    pub upstream: String,
    /// Longest call in all, including the wait for its turn and for whoever
    /// reads the answer.
    #[serde(default = "defaults::timeout")]
    pub timeout: Span,
    /// Longest wait for a connection.
    #[serde(default = "defaults::connect_timeout")]
    pub connect_timeout: Span,
    /// Longest wait for the head of the answer, once the request is on its way.
    #[serde(default = "defaults::first_byte_timeout")]
    pub first_byte_timeout: Span,
    /// Longest silence within the answer.
    #[serde(default = "defaults::idle_timeout")]
    pub idle_timeout: Span,
    /// Longest answer.
    #[serde(default = "defaults::max_output")]
    pub max_output: ByteSize,
    /// Take answers that neither say their length nor are chunked, and so end
    /// where the connection ends. A cut cannot be told from the end of those.
    #[serde(default)]
    pub allow_unframed: bool,
    /// How many may be asked at once.
    #[serde(default = "defaults::max_running")]
    pub max_running: u32,
    /// How long the next one waits for its turn.
    #[serde(default = "defaults::max_wait")]
    pub max_wait: Span,
}

mod defaults {
    use super::{ByteSize, Span};

    pub(super) const fn timeout() -> Span {
        Span::from_secs(60)
    }

    pub(super) const fn connect_timeout() -> Span {
        Span::from_secs(5)
    }

    pub(super) const fn first_byte_timeout() -> Span {
        Span::from_secs(60)
    }

    pub(super) const fn idle_timeout() -> Span {
        Span::from_secs(60)
    }

    pub(super) const fn max_output() -> ByteSize {
        ByteSize::new(64 << 20)
    }

    pub(super) const fn max_running() -> u32 {
        256
    }

    pub(super) const fn max_wait() -> Span {
        Span::from_secs(5)
    }
}

impl UpstreamSpec {
    /// An address with the defaults: 60 s in all, 5 s to connect, 64 MiB of
    /// answer, 256 at once with a wait of 5 s.
    pub fn new(upstream: impl Into<String>) -> Self {
        Self {
            upstream: upstream.into(),
            timeout: defaults::timeout(),
            connect_timeout: defaults::connect_timeout(),
            first_byte_timeout: defaults::first_byte_timeout(),
            idle_timeout: defaults::idle_timeout(),
            max_output: defaults::max_output(),
            allow_unframed: false,
            max_running: defaults::max_running(),
            max_wait: defaults::max_wait(),
        }
    }
}

/// Why an [`UpstreamSpec`] cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum UpstreamSpecError {
    /// Not an absolute `http://` address.
    #[error("`{0}` is not an address; write one like `http://127.0.0.1:9000/path`")]
    NotAnAddress(String),
    /// There is no TLS here.
    #[error(
        "`{0}`: https is not supported; put a proxy that speaks TLS in front of the upstream and \
         give its http:// address"
    )]
    Tls(String),
    /// The address holds a user name or password, which would be ignored.
    #[error("the upstream's address must not hold a user name or password")]
    Credentials,
    /// A setting of zero would let nothing through.
    #[error("`{0}` must not be zero")]
    Zero(&'static str),
}

/// An HTTP server to be asked. Cheap to clone; clones share connections and
/// one limit of how many are asked at once.
///
/// Redirects are not followed, and no proxy is used.
#[derive(Clone)]
pub struct Upstream(Arc<Inner>);

struct Inner {
    spec: UpstreamSpec,
    address: Uri,
    client: Client<HttpConnector, Full<Bytes>>,
    slots: Slots,
}

/// One request to an upstream.
#[derive(Clone, Debug)]
pub struct Post {
    /// The whole body.
    pub body: Bytes,
    /// What the body is.
    pub content_type: HeaderValue,
    /// Further headers. Those that frame the message are replaced.
    pub headers: HeaderMap,
    /// When it is given up at the latest. The configured timeout holds as well.
    pub deadline: Option<Instant>,
}

impl Post {
    /// A JSON body and nothing else.
    pub fn json(body: impl Into<Bytes>) -> Self {
        Self {
            body: body.into(),
            content_type: HeaderValue::from_static("application/json"),
            headers: HeaderMap::new(),
            deadline: None,
        }
    }
}

/// An upstream's whole answer.
#[derive(Clone, Debug)]
pub struct Whole {
    /// What it says the body is.
    pub content_type: Option<HeaderValue>,
    /// The body.
    pub body: Bytes,
    /// From the call to the end of the answer.
    pub took: Duration,
}

/// Why there is no answer, or no more of it.
///
/// The text is for the log: it may quote what the upstream said.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// Too many were being asked already, and none ended in time.
    #[error("{running} calls are under way already, which is all that may at once")]
    Busy {
        /// How many.
        running: u32,
    },
    /// There was no connection.
    #[error("cannot connect to upstream {address}")]
    Unreachable {
        /// The upstream.
        address: String,
        /// Why not.
        source: BoxError,
    },
    /// The connection ended before the head of an answer.
    #[error("upstream {address} ended the connection without an answer")]
    NoAnswer {
        /// The upstream.
        address: String,
        /// How.
        source: BoxError,
    },
    /// It answered with a status that is not a success, or with a redirect.
    #[error("upstream answered {status}{}", said(.body))]
    Status {
        /// What it answered.
        status: StatusCode,
        /// The beginning of what it said, up to 1 KiB.
        body: String,
    },
    /// A part of the call took too long.
    #[error("upstream took more than {limit} {phase}")]
    TimedOut {
        /// Which part.
        phase: Phase,
        /// How long it may take.
        limit: Span,
        /// Some of the answer had been handed out.
        after_output: bool,
    },
    /// The answer is longer than it may be.
    #[error("upstream answered with more than {limit}")]
    TooMuchOutput {
        /// How long it may be.
        limit: ByteSize,
    },
    /// The answer's connection ended before the answer did.
    #[error("upstream's answer was cut after {output}")]
    Cut {
        /// How much of it was handed out.
        output: ByteSize,
        /// How.
        source: BoxError,
    },
    /// The answer has neither a length nor chunks, so its end would be a guess.
    #[error(
        "upstream's answer has neither content-length nor chunks, so a cut could not be told from \
         its end; `allow_unframed = true` takes it nevertheless"
    )]
    Unframed,
    /// The answer is compressed, which was not asked for.
    #[error("upstream's answer is encoded as {0}, which was not asked for")]
    Encoded(String),
}

/// A part of a call that has a limit of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Up to the head of the answer.
    FirstByte,
    /// Between two pieces of the answer.
    Silence,
    /// All of it.
    Total,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FirstByte => "to begin its answer",
            Self::Silence => "between two pieces of its answer",
            Self::Total => "in all",
        })
    }
}

fn said(body: &str) -> String {
    if body.is_empty() { String::new() } else { format!(" and said: {body}") }
}

impl AnswerError {
    /// Some of the answer had been handed out, so that it must be cut, and an
    /// error status is no longer possible.
    pub fn after_output(&self) -> bool {
        match self {
            Self::Busy { .. }
            | Self::Unreachable { .. }
            | Self::NoAnswer { .. }
            | Self::Status { .. }
            | Self::Unframed
            | Self::Encoded(_) => false,
            Self::TimedOut { after_output, .. } => *after_output,
            Self::Cut { output, .. } => output.bytes() > 0,
            Self::TooMuchOutput { .. } => true,
        }
    }
}

/// 503 if busy, 504 for a limit of time, else 502. The caller is told no more.
impl From<AnswerError> for Error {
    fn from(error: AnswerError) -> Self {
        let status = match error {
            AnswerError::Busy { .. } => StatusCode::SERVICE_UNAVAILABLE,
            AnswerError::TimedOut { .. } => StatusCode::GATEWAY_TIMEOUT,
            AnswerError::Unreachable { .. }
            | AnswerError::NoAnswer { .. }
            | AnswerError::Status { .. }
            | AnswerError::TooMuchOutput { .. }
            | AnswerError::Cut { .. }
            | AnswerError::Unframed
            | AnswerError::Encoded(_) => StatusCode::BAD_GATEWAY,
        };
        Self::server(error).with_status(status)
    }
}

impl Upstream {
    /// Checks a spec. The address is looked up at each connection, not here.
    ///
    /// # Errors
    ///
    /// See [`UpstreamSpecError`].
    pub fn from_spec(spec: UpstreamSpec) -> Result<Self, UpstreamSpecError> {
        let address = address(&spec.upstream)?;
        let times = [
            ("timeout", spec.timeout),
            ("connect_timeout", spec.connect_timeout),
            ("first_byte_timeout", spec.first_byte_timeout),
            ("idle_timeout", spec.idle_timeout),
        ];
        if let Some((name, _)) = times.iter().find(|(_, span)| *span == Span::from_millis(0)) {
            return Err(UpstreamSpecError::Zero(name));
        }
        if spec.max_running == 0 {
            return Err(UpstreamSpecError::Zero("max_running"));
        }
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(spec.connect_timeout.duration()));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(spec.max_running as usize)
            .build(connector);
        let slots = Slots::new(spec.max_running, spec.max_wait.duration());
        Ok(Self(Arc::new(Inner { spec, address, client, slots })))
    }

    /// What it was made from.
    pub fn spec(&self) -> &UpstreamSpec {
        &self.0.spec
    }

    /// Asks, and takes the whole answer.
    ///
    /// # Errors
    ///
    /// See [`AnswerError`]. Any status but a success is one.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, the upstream's connection is closed.
    pub async fn run(&self, post: Post) -> Result<Whole, AnswerError> {
        let started = Instant::now();
        let mut answer = self.stream(post).await?;
        let mut body = BytesMut::new();
        while let Some(chunk) = answer.chunk().await? {
            body.extend_from_slice(&chunk);
        }
        let content_type = answer.content_type().cloned();
        Ok(Whole { content_type, body: body.freeze(), took: started.elapsed() })
    }

    /// Asks, waits for the head of the answer, and leaves its body to be read
    /// as it comes.
    ///
    /// # Errors
    ///
    /// See [`AnswerError`]. Any status but a success is one.
    pub async fn stream(&self, post: Post) -> Result<Answer, AnswerError> {
        let Inner { spec, client, slots, .. } = &*self.0;
        let started = Instant::now();
        let own = started + spec.timeout.duration();
        let deadline = post.deadline.map_or(own, |deadline| deadline.min(own));
        let total = Span::new(deadline.saturating_duration_since(started));
        let permit = slots.take(deadline).await;
        let permit = permit.map_err(|Busy { most }| AnswerError::Busy { running: most })?;

        // A connection has its own limit of time, so the two add up.
        let first_byte =
            Instant::now() + spec.first_byte_timeout.duration() + spec.connect_timeout.duration();
        let wait = timeout_at(deadline.min(first_byte), client.request(self.request(post)));
        let response = match wait.await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(self.failed(error)),
            Err(_) => {
                let (phase, limit) = match deadline <= first_byte {
                    true => (Phase::Total, total),
                    false => (Phase::FirstByte, spec.first_byte_timeout),
                };
                return Err(AnswerError::TimedOut { phase, limit, after_output: false });
            }
        };
        let answer = Answer::new(response, spec, deadline, total, permit);
        if !answer.head.status.is_success() {
            let status = answer.head.status;
            return Err(AnswerError::Status { status, body: answer.quote().await });
        }
        if let Some(encoding) = answer.head.headers.get(header::CONTENT_ENCODING)
            && encoding.as_bytes() != b"identity"
        {
            let encoding = String::from_utf8_lossy(encoding.as_bytes()).into_owned();
            return Err(AnswerError::Encoded(encoding));
        }
        if !answer.framed && !spec.allow_unframed {
            return Err(AnswerError::Unframed);
        }
        Ok(answer)
    }

    fn request(&self, post: Post) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(post.body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.0.address.clone();
        let headers = request.headers_mut();
        *headers = post.headers;
        for name in HOP_BY_HOP {
            headers.remove(name);
        }
        headers.insert(header::CONTENT_TYPE, post.content_type);
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        request
    }

    fn failed(&self, error: legacy::Error) -> AnswerError {
        let address = self.0.spec.upstream.clone();
        match error.is_connect() {
            true => AnswerError::Unreachable { address, source: error.into() },
            false => AnswerError::NoAnswer { address, source: error.into() },
        }
    }
}

/// What belongs to one connection, and the length, which belongs to the body.
const HOP_BY_HOP: [header::HeaderName; 7] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::HOST,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

fn address(text: &str) -> Result<Uri, UpstreamSpecError> {
    let not = || UpstreamSpecError::NotAnAddress(text.to_owned());
    let address: Uri = text.parse().map_err(|_| not())?;
    let authority = address.authority().ok_or_else(not)?;
    if authority.as_str().contains('@') {
        return Err(UpstreamSpecError::Credentials);
    }
    match address.scheme_str() {
        Some("http") if !authority.host().is_empty() => Ok(address),
        Some("https") => Err(UpstreamSpecError::Tls(text.to_owned())),
        _ => Err(not()),
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("spec", &self.0.spec).finish()
    }
}

/// An upstream's answer, as it comes. Dropping it closes the connection if
/// the answer is not at its end.
#[derive(Debug)]
pub struct Answer {
    head: http::response::Parts,
    framed: bool,
    body: Arc<Shared>,
    /// Tells the deadline's task that nobody reads any more.
    _over: oneshot::Sender<()>,
    deadline: Instant,
    total: Span,
    idle: Span,
    max_output: ByteSize,
    taken: u64,
    ending: Ending,
}

/// The body, where the deadline can take it away from a reader that stalls.
#[derive(Debug)]
struct Shared(Mutex<Option<(Incoming, OwnedSemaphorePermit)>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<(Incoming, OwnedSemaphorePermit)>> {
        // The body is polled under this lock; if that panics, what is left is
        // dropped below and never polled again.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How an answer ended, so that asking again says the same.
#[derive(Clone, Copy, Debug)]
enum Ending {
    NotYet,
    Clean,
    TooMuch,
    Cut,
    TimedOut(Phase),
}

impl Answer {
    fn new(
        response: Response<Incoming>,
        spec: &UpstreamSpec,
        deadline: Instant,
        total: Span,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let (head, body) = response.into_parts();
        // RFC 9112 §6.3: without either, the body ends where the connection does.
        let framed = body.is_end_stream()
            || body.size_hint().exact().is_some()
            || head.headers.contains_key(header::TRANSFER_ENCODING);
        let body = Arc::new(Shared(Mutex::new(Some((body, permit)))));
        let (over, is_over) = oneshot::channel::<()>();
        let held = Arc::clone(&body);
        tokio::spawn(async move {
            tokio::select! {
                () = sleep_until(deadline) => drop(held.lock().take()),
                _ = is_over => {}
            }
        });
        Self {
            head,
            framed,
            body,
            _over: over,
            deadline,
            total,
            idle: spec.idle_timeout,
            max_output: spec.max_output,
            taken: 0,
            ending: Ending::NotYet,
        }
    }

    /// The status, which is a success.
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    /// What the upstream says the body is.
    pub fn content_type(&self) -> Option<&HeaderValue> {
        self.head.headers.get(header::CONTENT_TYPE)
    }

    /// The next piece as it came, or `None` at the end of the whole answer.
    ///
    /// Nothing is read ahead of what the connection holds: an upstream whose
    /// answer is not asked for soon waits in its own write.
    ///
    /// # Errors
    ///
    /// See [`AnswerError`]; afterwards every call fails again.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before completing, nothing is lost.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, AnswerError> {
        loop {
            match self.ending {
                Ending::NotYet => {}
                Ending::Clean => return Ok(None),
                Ending::TooMuch => {
                    return Err(AnswerError::TooMuchOutput { limit: self.max_output });
                }
                Ending::Cut => return Err(self.cut("it was cut before".into())),
                Ending::TimedOut(phase) => return Err(self.timed_out(phase)),
            }
            let silent = Instant::now() + self.idle.duration();
            let until = self.deadline.min(silent);
            let frame = match timeout_at(until, next(&self.body)).await {
                Ok(Next::Frame(Ok(frame))) => frame,
                Ok(Next::Frame(Err(error))) => {
                    self.end(Ending::Cut);
                    return Err(self.cut(error.into()));
                }
                Ok(Next::End) => {
                    self.end(Ending::Clean);
                    continue;
                }
                Ok(Next::TakenAway) => {
                    self.end(Ending::TimedOut(Phase::Total));
                    continue;
                }
                Err(_) => {
                    let total = self.deadline <= silent;
                    self.end(Ending::TimedOut(if total { Phase::Total } else { Phase::Silence }));
                    continue;
                }
            };
            // Trailers are not part of the answer.
            let Ok(mut chunk) = frame.into_data() else { continue };
            let left = self.max_output.bytes() - self.taken;
            if chunk.len() as u64 > left {
                chunk.truncate(left as usize);
                self.end(Ending::TooMuch);
            }
            self.taken += chunk.len() as u64;
            if !chunk.is_empty() {
                return Ok(Some(chunk));
            }
        }
    }

    /// Lets go of the connection, and of the place among those asked.
    fn end(&mut self, ending: Ending) {
        self.ending = ending;
        drop(self.body.lock().take());
    }

    fn cut(&self, source: BoxError) -> AnswerError {
        AnswerError::Cut { output: ByteSize::new(self.taken), source }
    }

    fn timed_out(&self, phase: Phase) -> AnswerError {
        let limit = match phase {
            Phase::Silence | Phase::FirstByte => self.idle,
            Phase::Total => self.total,
        };
        AnswerError::TimedOut { phase, limit, after_output: self.taken > 0 }
    }

    /// The beginning of an error's body, for the log, if it comes soon.
    async fn quote(mut self) -> String {
        let soon = Instant::now() + Duration::from_secs(1);
        self.deadline = self.deadline.min(soon);
        let mut quoted = Vec::new();
        while let Ok(Some(chunk)) = self.chunk().await {
            quoted.extend_from_slice(&chunk);
            if quoted.len() >= QUOTED {
                quoted.truncate(QUOTED);
                break;
            }
        }
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        String::from_utf8_lossy(quoted.trim_ascii()).chars().map(plain).collect()
    }
}

enum Next {
    Frame(Result<Frame<Bytes>, hyper::Error>),
    End,
    TakenAway,
}

async fn next(body: &Shared) -> Next {
    poll_fn(|cx| {
        let mut held = body.lock();
        let Some((body, _permit)) = &mut *held else {
            return Poll::Ready(Next::TakenAway);
        };
        Pin::new(body).poll_frame(cx).map(|frame| frame.map_or(Next::End, Next::Frame))
    })
    .await
}

/// Plain HTTP: the request's body is forwarded whole, and the answer comes
/// back as it arrives, with the upstream's content type.
impl Handler for Upstream {
    async fn call(&self, call: Call) -> Result<Finished, Error> {
        let (head, body, reply) = call.into_parts();
        let mut post = Post::json(body.collect().await?);
        if let Some(content_type) = head.headers.get(header::CONTENT_TYPE) {
            post.content_type = content_type.clone();
        }
        let mut answer = self.stream(post).await?;
        let mut head = Response::new(());
        if let Some(content_type) = answer.content_type() {
            head.headers_mut().insert(header::CONTENT_TYPE, content_type.clone());
        }
        let mut out = reply.start(head);
        while let Some(chunk) = answer.chunk().await? {
            out.write(chunk).await?;
        }
        Ok(out.finish())
    }
}
