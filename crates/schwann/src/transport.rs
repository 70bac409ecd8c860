//! A connection that knows how long its peer may keep it waiting.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

/// What a call may tell its connection.
#[derive(Debug, Default)]
pub(crate) struct Link {
    abort: AtomicBool,
    deadline: Mutex<Option<Instant>>,
}

impl Link {
    /// The connection ends with a reset and not as if all had been said.
    pub(crate) fn abort(&self) {
        self.abort.store(true, Ordering::Release);
    }

    pub(crate) fn set_deadline(&self, deadline: Option<Instant>) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
    }

    fn deadline(&self) -> Option<Instant> {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wraps a byte stream: gives back what was read ahead of it, fails when the
/// peer takes nothing for too long, and closes so that the last answer is not
/// lost to bytes that were never read.
pub(crate) struct Transport<I> {
    io: I,
    read_ahead: Bytes,
    link: Arc<Link>,
    stall: Duration,
    /// Armed while a write is blocked.
    blocked: Option<Pin<Box<Sleep>>>,
    closing: Closing,
    reset: fn(&I),
}

enum Closing {
    Open,
    /// Our direction is closed; reading what the peer still sends.
    Lingering {
        until: Pin<Box<Sleep>>,
        left: usize,
    },
    Done,
}

/// Longest wait for a peer to stop sending after our side was closed.
const LINGER_TIME: Duration = Duration::from_secs(1);
/// Most bytes read and dropped in that time.
const LINGER_BYTES: usize = 256 * 1024;

/// What an HTTP/2 client sends first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Which protocol a connection begins with.
pub(crate) enum Opening {
    Http1,
    Http2,
    /// Nothing came before the end.
    Nothing,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Transport<I> {
    pub(crate) fn new(io: I, link: Arc<Link>, stall: Duration, reset: fn(&I)) -> Self {
        Self {
            io,
            read_ahead: Bytes::new(),
            link,
            stall,
            blocked: None,
            closing: Closing::Open,
            reset,
        }
    }

    /// Reads until it is clear whether the peer speaks HTTP/2.
    pub(crate) async fn opening(&mut self) -> io::Result<Opening> {
        let mut seen = [0; PREFACE.len()];
        let mut n = 0;
        let opening = loop {
            match self.io.read(&mut seen[n..]).await? {
                0 if n == 0 => return Ok(Opening::Nothing),
                0 => break Opening::Http1,
                more => n += more,
            }
            if seen[..n] != PREFACE[..n] {
                break Opening::Http1;
            }
            if n == PREFACE.len() {
                break Opening::Http2;
            }
        };
        self.read_ahead = Bytes::copy_from_slice(&seen[..n]);
        Ok(opening)
    }

    /// What to say of a write that the peer does not take: nothing yet, or
    /// that it has taken too long.
    fn held_back<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let (stall, link) = (self.stall, &self.link);
        let blocked = self.blocked.get_or_insert_with(|| {
            let stalled = Instant::now() + stall;
            let at = link.deadline().map_or(stalled, |deadline| deadline.min(stalled));
            Box::pin(sleep_until(at))
        });
        ready!(blocked.as_mut().poll(cx));
        let text = "the client stopped reading";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Transport<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read_ahead.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let n = self.read_ahead.len().min(buf.remaining());
        buf.put_slice(&self.read_ahead[..n]);
        self.read_ahead.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Transport<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.io).poll_write(cx, buf) {
            Poll::Pending => self.held_back(cx),
            ready => {
                self.blocked = None;
                ready
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.io).poll_write_vectored(cx, bufs) {
            Poll::Pending => self.held_back(cx),
            ready => {
                self.blocked = None;
                ready
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.io).poll_flush(cx) {
            Poll::Pending => self.held_back(cx),
            ready => ready,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match &mut this.closing {
                Closing::Open => {
                    match Pin::new(&mut this.io).poll_shutdown(cx) {
                        Poll::Pending => return this.held_back(cx),
                        Poll::Ready(result) => result?,
                    }
                    let until = Box::pin(sleep_until(Instant::now() + LINGER_TIME));
                    this.closing = Closing::Lingering { until, left: LINGER_BYTES };
                }
                // Closing a socket with unread bytes makes the kernel send a
                // reset, which may overtake the answer just written (an early
                // 413, for instance). RFC 9112 §9.6 asks for this instead.
                Closing::Lingering { until, left } => {
                    let mut buf = [std::mem::MaybeUninit::uninit(); 4096];
                    let mut buf = ReadBuf::uninit(&mut buf);
                    let read = Pin::new(&mut this.io).poll_read(cx, &mut buf);
                    let over = match read {
                        Poll::Pending => until.as_mut().poll(cx).is_ready(),
                        Poll::Ready(Err(_)) => true,
                        Poll::Ready(Ok(())) => {
                            let n = buf.filled().len();
                            *left = left.saturating_sub(n);
                            n == 0 || *left == 0
                        }
                    };
                    if over {
                        this.closing = Closing::Done;
                    } else if read.is_pending() {
                        return Poll::Pending;
                    }
                }
                Closing::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl<I> Drop for Transport<I> {
    fn drop(&mut self) {
        if self.link.abort.load(Ordering::Acquire) {
            (self.reset)(&self.io);
        }
    }
}
