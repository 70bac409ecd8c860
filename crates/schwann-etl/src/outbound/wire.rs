//! One connection, and what was seen of it.

use std::{
    future::{Future as _, poll_fn},
    io,
    os::fd::AsFd as _,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response, uri::Authority};
use hyper::{
    body::Incoming,
    client::conn::http1,
    rt::{Read, ReadBufCursor, Write},
};
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{net::TcpStream, time::Sleep};

use super::OutBody;
use crate::failure::chain;

/// Most headers of an answer, and how long they may be in all.
const MAX_HEADERS: usize = 128;
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Where a connection leads.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) secure: bool,
    pub(super) authority: Authority,
}

pub(super) type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;
type Driver = http1::Connection<Observed, OutBody>;

/// A connection. Dropping it closes it.
pub(super) struct Wire {
    sender: http1::SendRequest<OutBody>,
    /// Until it came to its end.
    driver: Option<Pin<Box<Driver>>>,
    pub(super) seen: Arc<Seen>,
    pub(super) place: Place,
}

impl Wire {
    /// Begins to speak HTTP over `stream`, which may take nothing for as long as `stall`.
    pub(super) async fn begin(
        stream: Stream,
        place: Place,
        stall: Duration,
    ) -> Result<Self, hyper::Error> {
        let seen = Arc::new(Seen::default());
        seen.flushed.store(true, Ordering::Release);
        let io = Observed { io: stream, seen: Arc::clone(&seen), stall, blocked: None };
        let handshake = http1::Builder::new()
            .max_headers(MAX_HEADERS)
            .max_header_size(MAX_HEAD_BYTES)
            .handshake(io)
            .await;
        let (sender, driver) = handshake?;
        Ok(Self { sender, driver: Some(Box::pin(driver)), seen, place })
    }

    /// Reads and writes what there is. An error is also the answer's.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) -> Option<hyper::Error> {
        let driver = self.driver.as_mut()?;
        match driver.as_mut().poll(cx) {
            Poll::Pending => None,
            Poll::Ready(end) => {
                self.driver = None;
                end.err()
            }
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.driver.is_some()
    }

    pub(super) fn is_usable(&self) -> bool {
        self.driver.is_some() && self.sender.is_ready() && self.seen.flushed.load(Ordering::Acquire)
    }
}

pub(super) type Unsent = Option<Box<Request<OutBody>>>;

/// Sends a request until the head of its answer is there. What was not looked at comes back.
pub(super) async fn exchange(
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

/// What was seen of a connection.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// All that was written is on its way: hyper flushes when its own buffer is empty.
    pub(super) flushed: AtomicBool,
    /// Something came, or the end, since the request began.
    pub(super) heard: AtomicBool,
    /// The end of a streamed body is about to be written.
    pub(super) ending: AtomicBool,
    /// Something had come before that was.
    pub(super) early: AtomicBool,
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
