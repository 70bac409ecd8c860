//! The body of an answer.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Response, Version, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;

use super::{Broken, Sent, pool::Pool, wire::Wire};
use crate::failure::chain;

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
    /// Takes over the connection that an answer comes by.
    pub(super) fn of(
        answer: Response<Incoming>,
        wire: Wire,
        sent: Arc<Sent>,
        pool: Arc<Pool>,
        permit: OwnedSemaphorePermit,
    ) -> Response<Self> {
        let (head, incoming) = answer.into_parts();
        // Without either, the end of the connection would be the end of the body, and a cut looked the same.
        let chunked = head.version == Version::HTTP_11
            && head.headers.contains_key(header::TRANSFER_ENCODING);
        let framed = chunked
            || head.headers.contains_key(header::CONTENT_LENGTH)
            || matches!(head.status.as_u16(), 204 | 304);
        let body = Self {
            incoming: Some(incoming),
            wire: Some(wire),
            sent,
            framed,
            needs_whole: head.status.is_success(),
            empty: true,
            pool,
            _permit: permit,
        };
        Response::from_parts(head, body)
    }

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
        if wire.is_open() {
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
