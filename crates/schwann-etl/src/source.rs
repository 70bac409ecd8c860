//! The bytes of an object, opened before its transform runs, so that what is wrong with them is still a status.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body::{Body, Frame, SizeHint};
use schwann::{Error, RequestBody};

use crate::{
    EtlServer, Object,
    failure::{Failure, Stage},
    outbound::{Broken, HopBody, OutBody, Use},
    pipeline,
    question::{Input, Question},
};

/// Most that is read of a body where the object is elsewhere, in bytes.
const UNWANTED: u64 = 64 * 1024;

/// The object of a question and its bytes. `body` is the request's, which is what may be asked for.
pub(crate) async fn open(
    server: &EtlServer,
    question: &Question,
    body: Option<RequestBody>,
) -> Result<(Object, RequestBody), Failure> {
    let mut body = body;
    if !matches!(question.input, Input::Body)
        && let Some(unwanted) = body.take()
    {
        pass_over(unwanted).await;
    }
    let object = |file: Option<&std::path::Path>| {
        let file = file.map(std::path::Path::to_owned);
        Object::with_file(question.path.clone(), question.etl_args.clone(), file)
    };
    match &question.input {
        Input::Body => {
            let body = body.expect("a question for the request's body is asked once");
            Ok((object(None), body))
        }
        Input::File(name) => {
            let inner = &server.0;
            let by_name = inner.accepts_files && inner.settings.direct_fqn;
            // Without roots, the transform is the first to open it, as the contract has it.
            if by_name && inner.settings.fqn_roots.is_empty() {
                return Ok((object(Some(name)), RequestBody::from_bytes(Bytes::new())));
            }
            let file = inner.roots.open(&question.path, name).await?;
            if by_name {
                return Ok((object(Some(name)), RequestBody::from_bytes(Bytes::new())));
            }
            Ok((object(None), RequestBody::from_body(file)))
        }
        Input::Target => {
            let target = &server.0.settings.target;
            let line = format!("{}/{}", target.path(), question.path_for_target());
            let uri = pipeline::uri(target.scheme(), target.authority(), &line)
                .ok_or_else(|| Failure::request("the object's name is too long"))?;
            Ok((object(None), fetch(server, uri, true).await?))
        }
        Input::Url(url) => Ok((object(None), fetch(server, url.clone(), false).await?)),
    }
}

/// Reads a small body that nobody wants, so that its connection can be used again. A larger one costs the connection.
async fn pass_over(mut body: RequestBody) {
    if body.announced().is_some_and(|length| length <= UNWANTED) {
        // One that breaks off takes its connection along, and the object is not in it.
        while let Ok(Some(_)) = body.chunk().await {}
    }
}

/// Asks for an object. Redirects are not followed.
async fn fetch(server: &EtlServer, uri: Uri, with_token: bool) -> Result<RequestBody, Failure> {
    let ask = async || {
        let mut request = Request::new(OutBody::empty());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = uri.clone();
        if with_token && let Some(token) = &server.0.settings.token {
            request.headers_mut().insert(header::AUTHORIZATION, token.header());
        }
        server.0.outbound.send(Use::Source, request).await
    };
    let mut asked = ask().await;
    // A connection that had been closed meanwhile says nothing about the target; asking twice does no harm.
    while matches!(asked, Err(Broken { stale: true, .. })) {
        asked = ask().await;
    }
    let answer = asked
        .map_err(|hop| Failure::new(Stage::Source, StatusCode::BAD_GATEWAY, broken(&hop.why)))?;
    let status = answer.status();
    if !status.is_success() {
        return Err(Failure::new(Stage::Source, status, "Target request failed"));
    }
    let body = answer.into_body();
    if !body.is_framed() {
        let why = "the answer says neither its length nor where it ends";
        return Err(Failure::new(Stage::Source, StatusCode::BAD_GATEWAY, broken(why)));
    }
    Ok(RequestBody::from_body(Fetched(body)))
}

fn broken(why: &str) -> String {
    format!("Network error: {why}")
}

/// An object as it comes from the target.
struct Fetched(HopBody);

impl Body for Fetched {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.0).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            frame.map_err(|hop| Error::busy(broken(&hop.why)).with_status(StatusCode::BAD_GATEWAY))
        }))
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
