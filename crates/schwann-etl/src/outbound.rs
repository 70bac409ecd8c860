//! Requests to targets and stages.
//!
//! A connection has no task: whoever waits for its answer drives it. So nothing is read or written that nobody waits
//! for, and giving an exchange up closes its connection. Bytes go both ways at the same time, because a stage may answer
//! while it is still being fed.

use std::{
    collections::HashMap,
    future::{Future as _, poll_fn},
    io,
    os::fd::AsFd as _,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, Version, header, uri::Authority};
use http_body::{Body, Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::http1,
    rt::{Read, ReadBufCursor, Write},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use schwann::{BodyWatch, Error, ExchangeBody};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep},
};
use tower_service::Service as _;

use crate::{
    EtlSettings,
    failure::{boxed_chain, chain},
    tls,
};

pub use crate::tls::TlsError;

/// Most headers of an answer, and how long they may be in all.
const MAX_HEADERS: usize = 128;
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// An idle connection is asked whether it still lives after this long without a byte, and as often.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// What a connection is for. Reading and delivering have a number of connections each, so that objects that are being
/// read never wait for those that wait to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Source,
    Delivery,
    /// Of a body that can be had only once: a connection that may have been closed meanwhile is not good enough.
    DeliveryOnce,
}

/// How long a connection must have been unused to carry a body that can be had only once: by then we know if the other
/// end closed it after its answer.
const RESTED: Duration = Duration::from_millis(20);
/// And for how long at most, since common servers close connections after 5 s.
const FRESH: Duration = Duration::from_secs(4);

/// The connection failed before there was a whole answer.
#[derive(Debug)]
pub(crate) struct Broken {
    /// What can be said about it.
    pub(crate) why: String,
    /// It had been used before, so its other end may have closed it long ago.
    pub(crate) stale: bool,
}

impl Broken {
    fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), stale: false }
    }
}

/// Where a request can be sent from.
pub(crate) struct Outbound {
    http: HttpConnector,
    https: OnceLock<Result<HttpsConnector<HttpConnector>, String>>,
    settings: EtlSettings,
    pool: Arc<Pool>,
    sources: Arc<Semaphore>,
    deliveries: Arc<Semaphore>,
}

impl Outbound {
    pub(crate) fn new(settings: &EtlSettings) -> Result<Self, TlsError> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(settings.connect_timeout));
        http.set_keepalive(Some(KEEPALIVE));
        http.set_keepalive_interval(Some(KEEPALIVE));
        http.set_keepalive_retries(Some(3));
        let https = OnceLock::new();
        if *settings.target.scheme() == http::uri::Scheme::HTTPS {
            // What is wrong with certificates is said at the start.
            let config = tls::client(&settings.tls)?;
            let _ = https.set(Ok(over_tls(config, http.clone())));
        }
        Ok(Self {
            http,
            https,
            pool: Arc::new(Pool {
                idle: Mutex::default(),
                most: settings.max_idle_connections,
                expiry: settings.idle_expiry,
            }),
            sources: Arc::new(Semaphore::new(settings.max_connections)),
            deliveries: Arc::new(Semaphore::new(settings.max_connections)),
            settings: settings.clone(),
        })
    }

    /// Sends a request to the host of its address, and returns when the head of the answer is there.
    ///
    /// Never sends anything of a body twice: whoever can make the request again has to do so.
    pub(crate) async fn send(
        &self,
        purpose: Use,
        mut request: Request<OutBody>,
    ) -> Result<Response<HopBody>, Broken> {
        let uri = std::mem::take(request.uri_mut());
        let Some(authority) = uri.authority().cloned() else {
            return Err(Broken::new("the address has no host"));
        };
        let secure = uri.scheme_str() == Some("https");
        *request.uri_mut() = match uri.path_and_query() {
            Some(line) => Uri::from(line.clone()),
            None => Uri::from_static("/"),
        };
        let host = HeaderValue::from_str(authority.as_str());
        let host = host.map_err(|_| Broken::new("the host cannot stand in a header"))?;
        request.headers_mut().insert(header::HOST, host);
        let room = match purpose {
            Use::Source => &self.sources,
            Use::Delivery | Use::DeliveryOnce => &self.deliveries,
        };
        let permit = Arc::clone(room).acquire_owned().await.expect("never closed");
        let sent = request.body().sent();
        let place = Place { secure, authority };
        if let Some(mut wire) = self.pool.take(&place, purpose == Use::DeliveryOnce) {
            sent.leave_by(&wire.seen);
            match exchange(&mut wire, request).await {
                Ok(answer) => return Ok(self.answer(answer, wire, sent, permit)),
                // Nothing of the request was looked at.
                Err((_, Some(unsent))) => request = *unsent,
                Err((why, None)) => return Err(Broken { why, stale: true }),
            }
        }
        let mut wire = self.connect(&uri, &place).await?;
        sent.leave_by(&wire.seen);
        match exchange(&mut wire, request).await {
            Ok(answer) => Ok(self.answer(answer, wire, sent, permit)),
            Err((why, _)) => Err(Broken { why, stale: false }),
        }
    }

    fn answer(
        &self,
        answer: Response<Incoming>,
        wire: Wire,
        sent: Arc<Sent>,
        permit: OwnedSemaphorePermit,
    ) -> Response<HopBody> {
        let (head, incoming) = answer.into_parts();
        // Without either, the end of the connection would be the end of the body, and a cut looked the same.
        let chunked = head.version == Version::HTTP_11
            && head.headers.contains_key(header::TRANSFER_ENCODING);
        let framed = chunked
            || head.headers.contains_key(header::CONTENT_LENGTH)
            || matches!(head.status.as_u16(), 204 | 304);
        let body = HopBody {
            incoming: Some(incoming),
            wire: Some(wire),
            sent,
            framed,
            needs_whole: head.status.is_success(),
            empty: true,
            pool: Arc::clone(&self.pool),
            _permit: permit,
        };
        Response::from_parts(head, body)
    }

    async fn connect(&self, uri: &Uri, place: &Place) -> Result<Wire, Broken> {
        let connecting = async {
            if !place.secure {
                let stream = self.http.clone().call(uri.clone()).await;
                return stream.map(MaybeHttpsStream::Http).map_err(|error| chain(&error));
            }
            let https = self.https.get_or_init(|| {
                let config = tls::client(&self.settings.tls).map_err(|error| error.to_string())?;
                Ok(over_tls(config, self.http.clone()))
            });
            let mut https = https.clone()?;
            https.call(uri.clone()).await.map_err(|error| boxed_chain(&error))
        };
        let connected = tokio::time::timeout(self.settings.connect_timeout, connecting).await;
        let stream = match connected {
            Ok(stream) => stream.map_err(Broken::new)?,
            Err(_) => {
                return Err(Broken::new(format!("{} did not answer in time", place.authority)));
            }
        };
        let seen = Arc::new(Seen::default());
        seen.flushed.store(true, Ordering::Release);
        let stall = self.settings.stall_timeout;
        let io = Observed { io: stream, seen: Arc::clone(&seen), stall, blocked: None };
        let handshake = http1::Builder::new()
            .max_headers(MAX_HEADERS)
            .max_header_size(MAX_HEAD_BYTES)
            .handshake(io)
            .await;
        let (sender, driver) = handshake.map_err(|error| Broken::new(chain(&error)))?;
        Ok(Wire { sender, driver: Some(Box::pin(driver)), seen, place: place.clone() })
    }
}

fn over_tls(config: rustls::ClientConfig, http: HttpConnector) -> HttpsConnector<HttpConnector> {
    HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_or_http()
        .enable_http1()
        .wrap_connector(http)
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Place {
    secure: bool,
    authority: Authority,
}

type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;
type Driver = http1::Connection<Observed, OutBody>;

/// A connection. Dropping it closes it.
struct Wire {
    sender: http1::SendRequest<OutBody>,
    /// Until it came to its end.
    driver: Option<Pin<Box<Driver>>>,
    seen: Arc<Seen>,
    place: Place,
}

impl Wire {
    /// Reads and writes what there is. An error is also the answer's.
    fn drive(&mut self, cx: &mut Context<'_>) -> Option<hyper::Error> {
        let driver = self.driver.as_mut()?;
        match driver.as_mut().poll(cx) {
            Poll::Pending => None,
            Poll::Ready(end) => {
                self.driver = None;
                end.err()
            }
        }
    }

    fn is_usable(&self) -> bool {
        self.driver.is_some() && self.sender.is_ready() && self.seen.flushed.load(Ordering::Acquire)
    }
}

type Unsent = Option<Box<Request<OutBody>>>;

/// Sends a request until the head of its answer is there. What was not looked at comes back.
async fn exchange(
    wire: &mut Wire,
    request: Request<OutBody>,
) -> Result<Response<Incoming>, (String, Unsent)> {
    let mut answer = pin!(wire.sender.try_send_request(request));
    let mut why = None;
    let driver = &mut wire.driver;
    poll_fn(|cx| {
        if let Some(open) = driver
            && let Poll::Ready(end) = open.as_mut().poll(cx)
        {
            *driver = None;
            why = end.err();
        }
        answer.as_mut().poll(cx)
    })
    .await
    .map_err(|mut failed| {
        let unsent = failed.take_message().map(Box::new);
        // What the connection says is nearer to the cause.
        let error = why.as_ref().map_or_else(|| chain(failed.error()), |why| chain(why));
        (error, unsent)
    })
}

/// What is sent, and how far it got. Shared by the body, which hyper owns, and whoever waits for the answer.
#[derive(Default)]
pub(crate) struct Sent {
    bytes: AtomicU64,
    ended: AtomicBool,
    failed: Mutex<Option<Error>>,
    connection: Mutex<Option<Arc<Seen>>>,
}

impl Sent {
    /// How many bytes were handed to the connection.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Why the body broke off on our side, if it did.
    pub(crate) fn take_failure(&self) -> Option<Error> {
        lock(&self.failed).take()
    }

    /// Whether the answer began before the end of a streamed body was sent. Who says then that it stored the whole has not
    /// seen it.
    pub(crate) fn was_answered_early(&self) -> bool {
        let connection = lock(&self.connection);
        connection.as_ref().is_some_and(|seen| seen.early.load(Ordering::Acquire))
    }

    /// Before a request is sent by a connection.
    fn leave_by(&self, seen: &Arc<Seen>) {
        for mark in [&seen.heard, &seen.ending, &seen.early] {
            mark.store(false, Ordering::Release);
        }
        *lock(&self.connection) = Some(Arc::clone(seen));
    }

    fn is_whole(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is held here can be torn by a panic: the transform's own are caught in its body.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The body of a request.
pub(crate) struct OutBody {
    what: What,
    sent: Arc<Sent>,
}

enum What {
    Bytes(Bytes),
    /// Driven by the connection, as by any other; with what became of its object.
    Stream(ExchangeBody, BodyWatch),
}

impl OutBody {
    pub(crate) fn empty() -> Self {
        Self::bytes(Bytes::new())
    }

    pub(crate) fn bytes(bytes: Bytes) -> Self {
        let sent = Sent { ended: AtomicBool::new(bytes.is_empty()), ..Sent::default() };
        Self { what: What::Bytes(bytes), sent: Arc::new(sent) }
    }

    /// A transform's answer. It is whole only if its object was.
    pub(crate) fn stream(body: ExchangeBody, object: BodyWatch) -> Self {
        Self { what: What::Stream(body, object), sent: Arc::default() }
    }

    pub(crate) fn sent(&self) -> Arc<Sent> {
        Arc::clone(&self.sent)
    }
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let Self { what, sent } = &mut *self;
        let (body, object) = match what {
            What::Bytes(bytes) if bytes.is_empty() => return Poll::Ready(None),
            What::Bytes(bytes) => {
                let bytes = std::mem::take(bytes);
                sent.bytes.store(bytes.len() as u64, Ordering::Relaxed);
                sent.ended.store(true, Ordering::Release);
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            What::Stream(body, object) => (body, object),
        };
        let cut = |error| {
            *lock(&sent.failed) = Some(error);
            Poll::Ready(Some(Err(Cut)))
        };
        match ready!(Pin::new(body).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    sent.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => cut(error),
            None if object.failed().is_some() => {
                cut(Error::server("the transform took a failed read for the end"))
            }
            None => {
                if let Some(seen) = &*lock(&sent.connection) {
                    seen.ending.store(true, Ordering::Release);
                }
                sent.ended.store(true, Ordering::Release);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        // A stream's end is looked at, not taken for granted.
        matches!(&self.what, What::Bytes(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.what {
            What::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            What::Stream(..) => SizeHint::default(),
        }
    }
}

/// A body broke off; [`Sent::take_failure`] has the reason.
#[derive(Debug, thiserror::Error)]
#[error("the result broke off")]
pub(crate) struct Cut;

/// The body of an answer. Reading it drives the connection; dropping it before its end closes that.
pub(crate) struct HopBody {
    incoming: Option<Incoming>,
    wire: Option<Wire>,
    sent: Arc<Sent>,
    framed: bool,
    /// A success counts only if our request was whole.
    needs_whole: bool,
    /// Nothing came of it.
    empty: bool,
    pool: Arc<Pool>,
    _permit: OwnedSemaphorePermit,
}

impl HopBody {
    /// Whether its end can be told from a cut.
    pub(crate) fn is_framed(&self) -> bool {
        self.framed
    }

    /// What became of the request's body.
    pub(crate) fn sent(&self) -> &Sent {
        &self.sent
    }

    /// The end of the answer was seen: whether the request ended as well.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let Some(wire) = &mut self.wire else { return Poll::Ready(Ok(())) };
        let early = !self.sent.is_whole() || self.sent.was_answered_early();
        if early && self.needs_whole && self.empty {
            // Without content, it says that the object was stored: of which it had seen a part.
            self.wire = None;
            return Poll::Ready(Err(Broken::new("answered before the whole object was sent")));
        }
        let error = wire.drive(cx);
        let whole = self.sent.is_whole() && wire.seen.flushed.load(Ordering::Acquire);
        if whole || !self.needs_whole {
            let wire = self.wire.take().expect("looked at above");
            if whole && wire.is_usable() {
                self.pool.keep(wire);
            }
            return Poll::Ready(Ok(()));
        }
        if wire.driver.is_some() {
            return Poll::Pending;
        }
        self.wire = None;
        let why = error.map_or_else(|| "the connection ended".to_owned(), |error| chain(&error));
        Poll::Ready(Err(Broken::new(format!("answered before the whole object was sent: {why}"))))
    }
}

impl Body for HopBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        let mut driven = false;
        while let Some(incoming) = &mut this.incoming {
            match Pin::new(incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    this.empty &= frame.data_ref().is_none_or(Bytes::is_empty);
                    return Poll::Ready(Some(Ok(frame)));
                }
                Poll::Ready(Some(Err(error))) => {
                    this.incoming = None;
                    this.wire = None;
                    return Poll::Ready(Some(Err(Broken::new(chain(&error)))));
                }
                Poll::Ready(None) => this.incoming = None,
                Poll::Pending if driven => return Poll::Pending,
                Poll::Pending => {
                    driven = true;
                    if let Some(wire) = &mut this.wire {
                        // What went wrong with it is the body's error, too.
                        let _ = wire.drive(cx);
                    }
                }
            }
        }
        match ready!(this.poll_end(cx)) {
            Ok(()) => Poll::Ready(None),
            Err(broken) => Poll::Ready(Some(Err(broken))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// Unused connections.
struct Pool {
    idle: Mutex<Idle>,
    most: usize,
    expiry: Duration,
}

#[derive(Default)]
struct Idle {
    by_place: HashMap<Place, Vec<(Wire, Instant)>>,
    count: usize,
    sweeping: bool,
}

impl Pool {
    /// An unused connection, if there is one that looks alive. The one used last is the likeliest to be.
    /// `surely` wants one of which that is better known.
    fn take(&self, place: &Place, surely: bool) -> Option<Wire> {
        loop {
            let (mut wire, since) = {
                let mut idle = self.lock();
                let stack = idle.by_place.get_mut(place)?;
                let taken = if surely {
                    let good = |since: &Instant| (RESTED..FRESH).contains(&since.elapsed());
                    stack.remove(stack.iter().position(|(_, since)| good(since))?)
                } else {
                    stack.pop()?
                };
                idle.count -= 1;
                taken
            };
            // Notices what the other end has sent or closed meanwhile.
            let _ = wire.drive(&mut Context::from_waker(Waker::noop()));
            if wire.is_usable() && since.elapsed() < self.expiry {
                return Some(wire);
            }
        }
    }

    fn keep(self: &Arc<Self>, wire: Wire) {
        let mut idle = self.lock();
        if idle.count >= self.most || self.expiry.is_zero() {
            drop(idle);
            return;
        }
        idle.count += 1;
        let stack = match idle.by_place.get_mut(&wire.place) {
            Some(stack) => stack,
            None => idle.by_place.entry(wire.place.clone()).or_default(),
        };
        stack.push((wire, Instant::now()));
        if !idle.sweeping {
            idle.sweeping = true;
            tokio::spawn(sweep(Arc::downgrade(self), self.expiry));
        }
    }

    /// Closes what was unused for too long. `false` if nothing is left to watch.
    fn close_stale(&self) -> bool {
        let mut stale = Vec::new();
        let mut idle = self.lock();
        idle.by_place.retain(|_, stack| {
            // Oldest first, since the last used is used first.
            let fresh = stack.partition_point(|(_, since)| since.elapsed() >= self.expiry);
            stale.extend(stack.drain(..fresh));
            !stack.is_empty()
        });
        idle.count -= stale.len();
        idle.sweeping = idle.count > 0;
        let more = idle.sweeping;
        drop(idle);
        drop(stale);
        more
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        lock(&self.idle)
    }
}

/// Runs while there is something to close.
async fn sweep(pool: Weak<Pool>, expiry: Duration) {
    let mut often = tokio::time::interval(expiry.max(Duration::from_millis(100)));
    often.tick().await;
    loop {
        often.tick().await;
        match pool.upgrade() {
            Some(pool) if pool.close_stale() => {}
            _ => return,
        }
    }
}

/// What was seen of a connection.
#[derive(Debug, Default)]
struct Seen {
    /// All that was written is on its way: hyper flushes when its own buffer is empty.
    flushed: AtomicBool,
    /// Something came, or the end, since the request began.
    heard: AtomicBool,
    /// The end of a streamed body is about to be written.
    ending: AtomicBool,
    /// Something had come before that was.
    early: AtomicBool,
}

/// A stream that notes what is seen of it, and fails when the other end takes nothing for too long.
struct Observed {
    io: Stream,
    seen: Arc<Seen>,
    stall: Duration,
    /// Armed while a write is blocked.
    blocked: Option<Pin<Box<Sleep>>>,
}

impl Observed {
    /// Looks at what has come, if the end of a body is what is written next. The runtime may not have noticed it yet.
    fn before_write(&self) {
        self.seen.flushed.store(false, Ordering::Release);
        if !self.seen.ending.load(Ordering::Acquire) || self.seen.early.load(Ordering::Acquire) {
            return;
        }
        let heard = self.seen.heard.load(Ordering::Acquire)
            || match &self.io {
                MaybeHttpsStream::Http(io) => {
                    let mut socket = [PollFd::from_borrowed_fd(io.inner().as_fd(), PollFlags::IN)];
                    matches!(poll(&mut socket, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1))
                }
                // What has come may be no answer, but a word of TLS itself.
                MaybeHttpsStream::Https(_) => false,
            };
        self.seen.early.store(heard, Ordering::Release);
    }

    fn written(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.blocked = None;
            return written;
        }
        let stall = self.stall;
        let blocked = self.blocked.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        ready!(blocked.as_mut().poll(cx));
        let text = "the other end takes nothing any more";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
    }
}

impl Read for Observed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if read.is_ready() {
            self.seen.heard.store(true, Ordering::Release);
        }
        read
    }
}

impl Write for Observed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.before_write();
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.written(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        if let Poll::Ready(Ok(())) = flushed {
            self.seen.flushed.store(true, Ordering::Release);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.before_write();
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.written(cx, written)
    }
}
