//! The body of a request.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use schwann::{BodyWatch, Error, ExchangeBody};

use super::{lock, wire::Seen};

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
    pub(super) fn leave_by(&self, seen: &Arc<Seen>) {
        for mark in [&seen.heard, &seen.ending, &seen.early] {
            mark.store(false, Ordering::Release);
        }
        *lock(&self.connection) = Some(Arc::clone(seen));
    }

    pub(super) fn is_whole(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
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
