//! An axum router as a handler of the core, which serves the connections.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{Method, Request, header};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use schwann::{Call, Error, Finished, Handler, RequestBody};
use tower_service::Service as _;

use crate::signed_in::Peer;

/// A router as a handler.
///
/// A body whose length is known leaves in one piece. Any other is a stream: an error in it is a truncated answer for the client, and
/// a client that leaves drops it.
#[derive(Clone, Debug)]
pub(crate) struct Served(Router);

impl Served {
    pub(crate) fn new(router: Router) -> Self {
        Self(router)
    }
}

impl Handler for Served {
    async fn call(&self, call: Call) -> Result<Finished, Error> {
        let peer = Peer(call.peer());
        let (head, body, reply) = call.into_parts();
        let is_head = head.method == Method::HEAD;
        let mut request = Request::from_parts(head, Body::new(Arriving::new(body)));
        request.extensions_mut().insert(peer);
        let mut router = self.0.clone();
        let Ok(response) = router.call(request).await;
        let (mut head, mut body) = response.into_parts();
        // What is sent in one piece gets its length again.
        head.headers.remove(header::CONTENT_LENGTH);
        head.headers.remove(header::TRANSFER_ENCODING);
        let head = http::Response::from_parts(head, ());
        if is_head {
            return Ok(reply.send(head, Bytes::new()));
        }
        if body.size_hint().exact().is_some() {
            let whole = body.collect().await.map_err(in_body)?.to_bytes();
            return Ok(reply.send(head, whole));
        }
        let mut stream = reply.start(head);
        while let Some(frame) = body.frame().await {
            // Trailers are not used here.
            if let Ok(data) = frame.map_err(in_body)?.into_data() {
                stream.write(data).await?;
            }
        }
        Ok(stream.finish())
    }
}

fn in_body(error: axum::Error) -> Error {
    match error.into_inner().downcast::<Error>() {
        Ok(error) => *error,
        Err(error) => Error::server(error),
    }
}

/// A request's body as axum takes it: a chunk is asked for when the router asks.
struct Arriving {
    state: State,
}

/// The body again, and the next of it.
type Chunk = (RequestBody, Result<Option<Bytes>, Error>);

enum State {
    Idle(RequestBody),
    Waiting(Pin<Box<dyn Future<Output = Chunk> + Send>>),
    Ended,
}

impl Arriving {
    fn new(body: RequestBody) -> Self {
        Self { state: State::Idle(body) }
    }
}

impl http_body::Body for Arriving {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            match std::mem::replace(&mut self.state, State::Ended) {
                State::Idle(mut body) => {
                    self.state = State::Waiting(Box::pin(async move {
                        let chunk = body.chunk().await;
                        (body, chunk)
                    }));
                }
                State::Waiting(mut waiting) => {
                    let Poll::Ready((body, chunk)) = waiting.as_mut().poll(cx) else {
                        self.state = State::Waiting(waiting);
                        return Poll::Pending;
                    };
                    return Poll::Ready(match chunk {
                        Ok(Some(chunk)) => {
                            self.state = State::Idle(body);
                            Some(Ok(Frame::data(chunk)))
                        }
                        Ok(None) => None,
                        Err(error) => Some(Err(error)),
                    });
                }
                State::Ended => return Poll::Ready(None),
            }
        }
    }
}
