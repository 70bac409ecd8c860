use std::{
    collections::HashMap,
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use http::HeaderMap;
use http_body::Body as _;
use hyper::{
    Request, Response, body::Incoming, server::conn, service::Service, upgrade::OnUpgrade,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::{Id, JoinSet},
    time::timeout,
};
use tracing::{debug, warn};

use crate::{
    BoxError, Call, Error, ExchangeBody, Handler, Reply, RequestBody, StartFuture,
    attended::{Attended, Connection, Left, Stop},
    exchange::Exchange,
    seat::QUIET,
    transport::{Linger, Link, Opening, Transport},
};

/// How connections are served. Every limit has a default; none is unlimited.
///
/// HTTP/1.0, HTTP/1.1 and HTTP/2 with prior knowledge are served on the same
/// port, in cleartext.
#[derive(Clone, Debug)]
pub struct Server {
    /// Largest request body accepted, in bytes. Over it, reading fails with
    /// 413. Default: 64 MiB.
    pub max_request_bytes: u64,
    /// Largest request head accepted, in bytes. Over it: 431. Default: 32 KiB.
    pub max_head_bytes: usize,
    /// Most header lines accepted. Over it: 431. Default: 100, the most that need no memory of their own.
    pub max_headers: usize,
    /// Longest wait for a complete request head, from the connection's start or
    /// the end of the answer before; so it also ends idle connections.
    /// Default: 15 s.
    pub head_timeout: Duration,
    /// Longest wait for a client that owes body bytes, or does not take any.
    /// Default: 60 s.
    pub stall_timeout: Duration,
    /// Longest wait for a client that goes on sending a body nobody wanted, after it was answered: a close before that
    /// could cost it the answer. Default: 1 s.
    pub linger_timeout: Duration,
    /// Most bytes that are read and dropped in that time. Default: 256 KiB.
    pub max_linger_bytes: u64,
    /// Most connections at a time. When there are more, those are ended that
    /// have had no call for a second; without such, the next waits for room,
    /// and further ones in the kernel's queue. Default: 4,096.
    pub max_connections: usize,
    /// Most streams of one HTTP/2 connection at a time. Default: 100.
    pub max_streams: u32,
    /// Longest wait for calls in flight once shutdown begins. Then they are
    /// dropped. Default: 30 s.
    pub drain_timeout: Duration,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            max_request_bytes: 64 * 1024 * 1024,
            max_head_bytes: 32 * 1024,
            max_headers: 100,
            head_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(60),
            linger_timeout: Duration::from_secs(1),
            max_linger_bytes: 256 * 1024,
            max_connections: 4096,
            max_streams: 100,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that had to be dropped with calls in flight.
    pub dropped: usize,
}

/// Most connections the kernel keeps for a server that has not accepted them
/// yet. Fan-outs arrive in bursts, and what is over this waits a second or more
/// for its next attempt; the kernel may lower it (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;

/// After how many turns of its tasks a runtime that serves objects should look at its sockets, for
/// [`event_interval`](tokio::runtime::Builder::event_interval).
///
/// A turn of a connection that moves megabytes is some hundred microseconds. Of tokio's 61 such turns come tens of
/// milliseconds in which a busy server notices no new connection; a look costs less than one of them.
pub const EVENT_INTERVAL: u32 = 16;

impl Server {
    /// Listens at `address`, with room for bursts of connections. `TcpListener::bind`
    /// would do, but keeps only 128 in waiting.
    ///
    /// # Errors
    ///
    /// Fails if the address is in use, not this machine's, or not permitted.
    pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // Connections of a predecessor may linger in the kernel.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    }

    /// Serves until `shutdown` resolves, then waits for calls in flight, for
    /// [`drain_timeout`](Self::drain_timeout) at most.
    ///
    /// A failing `accept` does not end it: when descriptors run out, idle
    /// connections are ended, and new ones wait until there are some again.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, so are all connections and their handlers.
    pub async fn run<H: Handler>(
        self,
        listener: TcpListener,
        handler: H,
        shutdown: impl Future<Output = ()>,
    ) -> Drained {
        let handler = Arc::new(handler);
        let server = Arc::new(self);
        let room = Arc::new(Semaphore::new(server.max_connections));
        let (stop, stopping) = watch::channel(false);
        let mut connections = JoinSet::new();
        let mut seats = HashMap::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            // Reaping is what keeps the sets' size that of the open connections.
            while let Some(ended) = connections.try_join_next_with_id() {
                let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                seats.remove(&id);
            }
            let accepted = async {
                let (stream, peer) = accept(&listener, &seats).await;
                (stream, peer, make_room(&room, &seats).await)
            };
            let (stream, peer, permit) = tokio::select! {
                () = &mut shutdown => break,
                accepted = accepted => accepted,
            };
            let (server, handler) = (Arc::clone(&server), Arc::clone(&handler));
            let stopping = stopping.clone();
            let link = Arc::<Link>::default();
            let own = Arc::clone(&link);
            let task = connections.spawn(async move {
                // A stream's tokens are small and each is awaited by somebody.
                let _ = stream.set_nodelay(true);
                let stop = Stop::of(stopping);
                // On the heap, for what a task has to wait for shall be near its beginning.
                let served = serve(&server, stream, Some(peer), handler, TCP, own, stop);
                let served = Box::pin(served).await;
                if let Err(error) = served {
                    debug!(%peer, error, "connection ended");
                }
                drop(permit);
            });
            seats.insert(task.id(), link);
        }
        drop(listener);
        let _ = stop.send(true);
        let all = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(server.drain_timeout, all).await.is_err() {
            warn!(dropped = connections.len(), "drain timeout passed with calls in flight");
        }
        Drained { dropped: connections.len() }
    }
}

/// The places of all connections.
type Seats = HashMap<Id, Arc<Link>>;

/// Room for one connection more: what is free, or what quiet ones leave.
///
/// Without this whoever opens as many connections as are served could keep all
/// others out, for as long as an idle connection may stay.
async fn make_room(room: &Arc<Semaphore>, seats: &Seats) -> OwnedSemaphorePermit {
    if let Ok(permit) = Arc::clone(room).try_acquire_owned() {
        return permit;
    }
    loop {
        seats.values().for_each(|link| link.seat.ask_to_leave());
        let free = Arc::clone(room).acquire_owned();
        if let Ok(permit) = timeout(QUIET / 4, free).await {
            return permit.expect("never closed");
        }
    }
}

/// Waits for a connection. Never fails: what can be waited out is waited out.
async fn accept(listener: &TcpListener, seats: &Seats) -> (TcpStream, SocketAddr) {
    let mut wait = Duration::from_millis(5);
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            // The connection that was to be accepted is gone: a matter of its
            // own, and the next one may be fine.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::Interrupted
                ) => {}
            // Descriptors or memory ran out. accept(2) fails at once for as
            // long as that lasts, so there is no event to wait for.
            Err(error) => {
                warn!(%error, "cannot accept connections for the moment");
                seats.values().for_each(|link| link.seat.ask_to_leave());
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_millis(500));
            }
        }
    }
}

/// What only a socket of its kind can do.
struct Socket<I> {
    /// The next close sends a reset.
    reset: fn(&I),
    /// A peer that is silent is probed from now on, and the connection fails if it is gone.
    probe: fn(&I),
}

const TCP: Socket<TcpStream> = Socket {
    reset: |stream| {
        let _ = stream.set_zero_linger();
    },
    probe: |stream| {
        let probes = TcpKeepalive::new()
            .with_time(Duration::from_secs(60))
            .with_interval(Duration::from_secs(20))
            .with_retries(3);
        let _ = SockRef::from(stream).set_tcp_keepalive(&probes);
    },
};

/// Serves one connection over any transport, such as an in-memory pipe.
///
/// # Errors
///
/// Fails if the connection ends in the middle of a message.
///
/// # Cancel safety
///
/// If the future is dropped, so are the connection and its handlers.
pub async fn serve_connection<H, I>(server: &Server, io: I, handler: H) -> Result<(), BoxError>
where
    H: Handler,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let socket = Socket { reset: |_: &I| {}, probe: |_: &I| {} };
    serve(server, io, None, Arc::new(handler), socket, Arc::default(), Stop::NEVER).await
}

async fn serve<H, I>(
    server: &Server,
    io: I,
    peer: Option<SocketAddr>,
    handler: Arc<H>,
    socket: Socket<I>,
    link: Arc<Link>,
    mut stop: Stop,
) -> Result<(), BoxError>
where
    H: Handler,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let linger = Linger { time: server.linger_timeout, bytes: server.max_linger_bytes };
    let stall = server.stall_timeout;
    let mut io = Transport::new(io, Arc::clone(&link), stall, linger, socket.reset);
    let opening = tokio::select! {
        opening = timeout(server.head_timeout, io.opening()) => opening,
        () = stop.come() => return Ok(()),
        () = asked_to_leave(&link) => return Ok(()),
    };
    let calls = |http1| Calls {
        handler,
        peer,
        link: Arc::clone(&link),
        http1,
        max_request_bytes: server.max_request_bytes,
        stall,
    };
    match opening.map_err(|_| "no request came in time")?? {
        Opening::Nothing => Ok(()),
        Opening::Http1 => {
            let connection = conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(server.head_timeout)
                .max_headers(server.max_headers)
                .max_header_size(server.max_head_bytes)
                .serve_connection(TokioIo::new(io), calls(true));
            let mut attended = Box::new(Attended::new(connection, Arc::clone(&link), stop));
            match attended.over().await {
                Left::Done(done) => done?,
                Left::MadeRoom => return Ok(()),
            }
            let Some(session) = link.take_session() else { return Ok(()) };
            let Attended { connection, mut stop, stopped, .. } = *attended;
            let parts = connection.into_parts();
            let mut io = parts.io.into_inner();
            io.give_back(parts.read_buf);
            // A protocol may be silent for as long as it likes, but not dead.
            let _under_way = link.call();
            (socket.probe)(io.get_ref());
            let goes_on = async {
                // What is left of the answer, before anything else is said.
                io.flush().await?;
                session.run(io, stop.come(), stopped).await
            };
            link.in_turns(goes_on).await
        }
        Opening::Http2 => {
            let connection = conn::http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .keep_alive_interval(Duration::from_secs(20))
                .max_concurrent_streams(server.max_streams)
                .max_header_list_size(u32::try_from(server.max_head_bytes).unwrap_or(u32::MAX))
                .max_send_buf_size(64 * 1024)
                .serve_connection(TokioIo::new(io), calls(false));
            let connection = Box::pin(connection);
            match Attended::new(connection, link, stop).over().await {
                Left::Done(done) => Ok(done?),
                Left::MadeRoom => Ok(()),
            }
        }
    }
}

/// Completes when the connection makes room for others.
async fn asked_to_leave(link: &Link) {
    poll_fn(|cx| {
        link.seat.wakes(cx.waker());
        let leaves = link.seat.is_asked() && link.leaves();
        if leaves { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

impl<H: Handler, I> Connection for Http1<H, I>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    fn drain(&mut self) {
        Pin::new(self).graceful_shutdown();
    }
}

impl<H: Handler, I> Connection for Pin<Box<Http2<H, I>>>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    fn drain(&mut self) {
        self.as_mut().graceful_shutdown();
    }
}

type Http1<H, I> = conn::http1::Connection<TokioIo<Transport<I>>, Calls<H>>;
type Http2<H, I> = conn::http2::Connection<TokioIo<Transport<I>>, Calls<H>, TokioExecutor>;

/// The calls of one connection.
struct Calls<H> {
    handler: Arc<H>,
    peer: Option<SocketAddr>,
    link: Arc<Link>,
    /// There one call at a time has the connection to itself, and may tell it something.
    http1: bool,
    max_request_bytes: u64,
    stall: Duration,
}

impl<H: Handler> Service<Request<Incoming>> for Calls<H> {
    type Response = Response<ExchangeBody>;
    type Error = Infallible;
    type Future = StartFuture;

    fn call(&self, request: Request<Incoming>) -> StartFuture {
        let link = self.http1.then(|| Arc::clone(&self.link));
        let exchange = Arc::new(Exchange::new(link));
        let (head, body) = request.into_parts();
        let version = head.version;
        if self.http1 {
            // hyper puts this there if the request asks for another protocol in the way of HTTP/1.1 (RFC 9110 §7.8).
            let asked = head.extensions.get::<OnUpgrade>().is_some();
            self.link.set_upgradable(asked && body.is_end_stream());
        }
        // RFC 9112 §3.2: a request of HTTP/1.1 that does not name its host once is refused with 400.
        let hosts = head.headers.get_all(http::header::HOST).iter().count();
        let unclear = hosts > 1 || (hosts == 0 && version == http::Version::HTTP_11);
        let coded = is_coded(&head.headers);
        let call = Call {
            head,
            body: RequestBody::new(body, self.max_request_bytes, self.stall),
            reply: Reply::new(Arc::clone(&exchange)),
            peer: self.peer,
        };
        let handler = Arc::clone(&self.handler);
        let running = Box::pin(async move {
            if unclear {
                let why = "the request must have exactly one Host header";
                return Err(Error::caller(http::StatusCode::BAD_REQUEST, why));
            }
            if coded {
                let why = "chunked is the only transfer coding that is understood";
                return Err(Error::caller(http::StatusCode::BAD_REQUEST, why));
            }
            handler.call(call).await
        });
        StartFuture::new(exchange, running, version, self.stall, Some(self.link.call()))
    }
}

/// Whether a body is coded in another way than in chunks (RFC 9112 §6.1). hyper undoes those and hands out what is inside
/// as it is, so that somebody would take a compressed body for the object itself. It refuses other forms with 400, too.
fn is_coded(headers: &HeaderMap) -> bool {
    let values = headers.get_all(http::header::TRANSFER_ENCODING);
    values.iter().enumerate().any(|(at, value)| {
        at > 0 || !value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked")
    })
}
