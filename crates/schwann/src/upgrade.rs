//! A connection that goes on as something else than HTTP.

use std::{
    any::Any,
    fmt,
    future::{Future, poll_fn},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
};

use crate::BoxError;

/// A connection that has left HTTP by [`Reply::upgrade`](crate::Reply::upgrade).
///
/// What the peer sent ahead is read first. A write that the peer does not take
/// for the server's stall time fails; a read waits for as long as its reader
/// does, so a protocol needs limits of its own for a peer that owes it bytes.
/// Closing it by `shutdown` waits a little for the peer's own end, so that the
/// last bytes are not lost to a reset.
pub struct Upgraded {
    io: Pin<Box<dyn Stream>>,
    draining: watch::Receiver<bool>,
}

impl Upgraded {
    pub(crate) fn new(
        io: impl AsyncRead + AsyncWrite + Send + 'static,
        draining: watch::Receiver<bool>,
    ) -> Self {
        Self { io: Box::pin(io), draining }
    }

    /// Completes when the server is told to stop. What is under way may be
    /// brought to an end then, for the server's drain timeout at most; new work
    /// should not begin.
    pub fn draining(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut draining = self.draining.clone();
        async move {
            // An error says that the server is gone, which is a stop too.
            let _ = draining.wait_for(|draining| *draining).await;
        }
    }
}

impl fmt::Debug for Upgraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Upgraded")
    }
}

trait Stream: AsyncRead + AsyncWrite + Send {}

impl<I: AsyncRead + AsyncWrite + Send> Stream for I {}

impl AsyncRead for Upgraded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_read(cx, buf)
    }
}

impl AsyncWrite for Upgraded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io.as_mut().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io.as_mut().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_shutdown(cx)
    }
}

type Running = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// What a connection does after HTTP.
pub(crate) struct Session(Box<dyn FnOnce(Upgraded) -> Running + Send>);

impl Session {
    pub(crate) fn new<F, Fut>(session: F) -> Self
    where
        F: FnOnce(Upgraded) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        Self(Box::new(|io| Box::pin(session(io))))
    }

    /// Runs it in the connection's own task, which is what the server counts,
    /// drains and drops. `stop` completes when the server stops, and is not
    /// polled again if it has (`stopped`).
    pub(crate) async fn run(
        self,
        io: impl AsyncRead + AsyncWrite + Send + 'static,
        stop: impl Future<Output = ()>,
        stopped: bool,
    ) -> Result<(), BoxError> {
        let (tell, draining) = watch::channel(stopped);
        let io = Upgraded::new(io, draining);
        let mut session = (self.0)(io);
        let mut session = poll_fn(move |cx| {
            let polled = catch_unwind(AssertUnwindSafe(|| session.as_mut().poll(cx)));
            polled.unwrap_or_else(|panic| Poll::Ready(Err(said(&*panic))))
        });
        if !stopped {
            tokio::select! {
                ended = &mut session => return ended,
                () = stop => tell.send_replace(true),
            };
        }
        session.await
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session")
    }
}

fn said(panic: &(dyn Any + Send)) -> BoxError {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("an upgraded connection panicked: {}", text.unwrap_or("no message")).into()
}
