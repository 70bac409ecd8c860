//! A connection that knows how long its peer may keep it waiting.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use crate::{seat::Seat, upgrade::Session};

/// What a call and a server may tell a connection.
#[derive(Debug, Default)]
#[repr(C)] // First what every poll of the connection looks at.
pub(crate) struct Link {
    /// Bytes read and written in the poll of its task that is under way.
    moved: AtomicUsize,
    /// An upgrade is granted: the answer under way is the last of HTTP.
    leaving: AtomicBool,
    /// The peer takes nothing of what is to be written.
    held_back: AtomicBool,
    /// The request under way asks for another protocol.
    upgradable: AtomicBool,
    abort: AtomicBool,
    pub(crate) seat: Seat,
    deadline: Mutex<Option<Instant>>,
    session: Mutex<Option<Session>>,
}

/// A connection that has moved so many bytes lets all others have their turn: some hundred microseconds' worth. A runtime
/// counts operations for that, and one of those may be half a megabyte.
const TURN: usize = 512 * 1024;

impl Link {
    /// The connection's task is polled anew.
    pub(crate) fn next_turn(&self) {
        self.moved.store(0, Ordering::Relaxed);
    }

    /// Polls `task`, which has the connection, with a new turn each time.
    pub(crate) async fn in_turns<F: Future>(&self, task: F) -> F::Output {
        let mut task = pin!(task);
        poll_fn(|cx| {
            self.next_turn();
            task.as_mut().poll(cx)
        })
        .await
    }

    fn has_moved(&self, bytes: usize) {
        // Only the connection's task comes here.
        self.moved.store(self.moved.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
    }

    /// Whether the turn goes on. If not, the task is woken for its next.
    fn poll_turn(&self, cx: &Context<'_>) -> Poll<()> {
        if self.moved.load(Ordering::Relaxed) < TURN {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The connection ends with a reset and not as if all had been said.
    pub(crate) fn abort(&self) {
        self.abort.store(true, Ordering::Release);
    }

    pub(crate) fn set_deadline(&self, deadline: Option<Instant>) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
    }

    pub(crate) fn set_upgradable(&self, upgradable: bool) {
        self.upgradable.store(upgradable, Ordering::Release);
    }

    /// Lets the connection go on as `session` after the answer under way, or
    /// gives it back if its request did not ask for that.
    pub(crate) fn upgrade(&self, session: Session) -> Result<(), Session> {
        if !self.upgradable.swap(false, Ordering::AcqRel) {
            return Err(session);
        }
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
        self.leaving.store(true, Ordering::Release);
        Ok(())
    }

    pub(crate) fn take_session(&self) -> Option<Session> {
        self.leaving.store(false, Ordering::Release);
        self.session.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(crate) fn is_held_back(&self) -> bool {
        self.held_back.load(Ordering::Acquire)
    }

    fn deadline(&self) -> Option<Instant> {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wraps a byte stream: gives back what was read ahead of it, fails when the
/// peer takes nothing for too long, and closes so that the last answer is not
/// lost to bytes that were never read.
#[repr(C)] // First what every read and write looks at.
pub(crate) struct Transport<I> {
    io: I,
    link: Arc<Link>,
    /// Armed while a write is blocked.
    blocked: Option<Pin<Box<Sleep>>>,
    kept: Option<Box<Kept>>,
    closing: Closing,
    reset: fn(&I),
    stall: Duration,
    linger: Linger,
}

/// Bytes that go another way than straight through.
#[derive(Default)]
struct Kept {
    /// Read before HTTP began, or after it ended.
    read_ahead: Bytes,
    /// The end of HTTP that the peer has not taken yet: hyper hands an upgraded
    /// connection over without waiting for that, and would lose it.
    unsent: BytesMut,
}

/// What a peer may still send after our side was closed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linger {
    pub(crate) time: Duration,
    pub(crate) bytes: u64,
}

/// A peer that sends nothing for this long has nothing more to send, though it keeps the connection.
const QUIET: Duration = Duration::from_secs(1);

enum Closing {
    Open,
    /// Our direction is closed; reading what the peer still sends.
    Lingering(Box<Lingering>),
    Done,
}

struct Lingering {
    until: Pin<Box<Sleep>>,
    end: Instant,
    left: u64,
}

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
    pub(crate) fn new(
        io: I,
        link: Arc<Link>,
        stall: Duration,
        linger: Linger,
        reset: fn(&I),
    ) -> Self {
        Self { io, link, blocked: None, kept: None, closing: Closing::Open, reset, stall, linger }
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
        self.give_back(Bytes::copy_from_slice(&seen[..n]));
        Ok(opening)
    }

    fn kept(&mut self) -> &mut Kept {
        self.kept.get_or_insert_default()
    }

    /// Gives back what was read beyond the end of HTTP.
    pub(crate) fn give_back(&mut self, read_ahead: Bytes) {
        if read_ahead.is_empty() {
            return;
        }
        let kept = self.kept();
        kept.read_ahead = match std::mem::take(&mut kept.read_ahead) {
            after if after.is_empty() => read_ahead,
            after => [read_ahead, after].concat().into(),
        };
    }

    /// The byte stream itself.
    pub(crate) fn get_ref(&self) -> &I {
        &self.io
    }

    /// Writes what was kept of the end of HTTP.
    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(kept) = &mut self.kept
            && !kept.unsent.is_empty()
        {
            match Pin::new(&mut self.io).poll_write(cx, &kept.unsent) {
                Poll::Pending => return self.held_back(cx),
                Poll::Ready(written) => {
                    match written? {
                        0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                        n => kept.unsent.advance(n),
                    }
                    self.moves_on();
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes after what was kept. The end of HTTP itself never waits: what the peer does not take of it is kept.
    fn poll_write_by(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut I>, &mut Context<'_>) -> Poll<io::Result<usize>>,
        keep: impl FnOnce(&mut BytesMut) -> usize,
    ) -> Poll<io::Result<usize>> {
        let leaving = self.link.leaving.load(Ordering::Acquire);
        if !leaving {
            ready!(self.link.poll_turn(cx));
        }
        let clear = self.poll_unsent(cx)?;
        let written = match clear {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => write(Pin::new(&mut self.io), cx),
        };
        match written {
            Poll::Pending if leaving => Poll::Ready(Ok(keep(&mut self.kept().unsent))),
            Poll::Pending if clear.is_pending() => Poll::Pending,
            Poll::Pending => self.held_back(cx),
            ready => {
                self.moves_on();
                if let Poll::Ready(Ok(n)) = ready {
                    self.link.has_moved(n);
                }
                ready
            }
        }
    }

    /// The peer took something.
    fn moves_on(&mut self) {
        if self.blocked.take().is_some() {
            self.link.held_back.store(false, Ordering::Release);
        }
    }

    /// What to say of a write that the peer does not take: nothing yet, or
    /// that it has taken too long.
    fn held_back<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let (stall, link) = (self.stall, &self.link);
        let blocked = self.blocked.get_or_insert_with(|| {
            let stalled = Instant::now() + stall;
            let at = link.deadline().map_or(stalled, |deadline| deadline.min(stalled));
            link.held_back.store(true, Ordering::Release);
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
        if let Some(kept) = &mut self.kept
            && !kept.read_ahead.is_empty()
        {
            let n = kept.read_ahead.len().min(buf.remaining());
            buf.put_slice(&kept.read_ahead[..n]);
            kept.read_ahead.advance(n);
            if kept.read_ahead.is_empty() && kept.unsent.is_empty() {
                self.kept = None;
            }
            return Poll::Ready(Ok(()));
        }
        ready!(self.link.poll_turn(cx));
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        self.link.has_moved(buf.filled().len() - before);
        read
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Transport<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let keep = |kept: &mut BytesMut| {
            kept.extend_from_slice(buf);
            buf.len()
        };
        self.poll_write_by(cx, |io, cx| io.poll_write(cx, buf), keep)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let keep = |kept: &mut BytesMut| {
            bufs.iter().for_each(|buf| kept.extend_from_slice(buf));
            bufs.iter().map(|buf| buf.len()).sum()
        };
        self.poll_write_by(cx, |io, cx| io.poll_write_vectored(cx, bufs), keep)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.link.leaving.load(Ordering::Acquire) {
            ready!(self.poll_unsent(cx))?;
        }
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
                    ready!(this.poll_unsent(cx))?;
                    match Pin::new(&mut this.io).poll_shutdown(cx) {
                        Poll::Pending => return this.held_back(cx),
                        Poll::Ready(result) => result?,
                    }
                    let now = Instant::now();
                    let end = now + this.linger.time;
                    let until = Box::pin(sleep_until(end.min(now + QUIET)));
                    let lingering = Lingering { until, end, left: this.linger.bytes };
                    this.closing = Closing::Lingering(Box::new(lingering));
                }
                // Closing a socket with unread bytes makes the kernel send a
                // reset, which may overtake the answer just written (an early
                // 413, for instance). RFC 9112 §9.6 asks for this instead.
                Closing::Lingering(lingering) => {
                    let Lingering { until, end, left } = &mut **lingering;
                    let mut buf = [std::mem::MaybeUninit::uninit(); 16 * 1024];
                    let mut buf = ReadBuf::uninit(&mut buf);
                    let read = Pin::new(&mut this.io).poll_read(cx, &mut buf);
                    let over = match read {
                        Poll::Pending => until.as_mut().poll(cx).is_ready(),
                        Poll::Ready(Err(_)) => true,
                        Poll::Ready(Ok(())) => {
                            let n = buf.filled().len();
                            *left = left.saturating_sub(n as u64);
                            until.as_mut().reset((*end).min(Instant::now() + QUIET));
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
