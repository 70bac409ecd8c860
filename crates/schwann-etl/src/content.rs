//! What comes of an object.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body, Frame};
use schwann::{BodyWatch, Error, ExchangeBody};

use crate::{
    failure::{Failure, Stage},
    outbound::{Broken, HopBody},
};

/// What came of an object.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// A result for the caller: the transform's, or what a hop answered. Its status is another than 200 if the hop's was.
    Content(Response<Content>),
    /// It is where it belongs.
    Delivered {
        /// In bytes, as far as that is known; 0 otherwise.
        length: u64,
        /// What the destination said of it, for the caller.
        headers: HeaderMap,
    },
    /// Neither.
    Failed(Failure),
}

/// The bytes of a result.
pub(crate) enum Content {
    /// All of it.
    Whole(Bytes),
    /// As the transform makes it; with what its object came to.
    Transform(ExchangeBody, BodyWatch),
    /// As a hop sends it, after the bytes that came first.
    Hop(Option<Bytes>, Box<HopBody>),
}

impl Body for Content {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match &mut *self {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Transform(body, object) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                let failed = if frame.is_none() { object.failed() } else { None };
                Poll::Ready(match failed {
                    Some(failed) => Some(Err(Failure::source(failed).into_error())),
                    None => frame,
                })
            }
            Self::Hop(first, _) if first.is_some() => {
                Poll::Ready(first.take().map(|first| Ok(Frame::data(first))))
            }
            Self::Hop(_, body) => {
                let frame = ready!(Pin::new(&mut **body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| {
                    frame.map_err(|Broken { why, .. }| {
                        let detail = format!("Direct put broke off: {why}");
                        Failure::new(Stage::Delivery, StatusCode::BAD_GATEWAY, detail).into_error()
                    })
                }))
            }
        }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Whole(_) => "Whole",
            Self::Transform(..) => "Transform",
            Self::Hop(..) => "Hop",
        })
    }
}
