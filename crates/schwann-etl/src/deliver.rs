//! The one path of every object: its source is opened, its transform runs, and the result goes where it belongs.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
    request::Parts,
};
use http_body::Body;
use http_body_util::BodyExt as _;
use schwann::{BodyWatch, Call, Error, ExchangeBody, Finished, Handler as _, Reply, RequestBody};
use tracing::{debug, info};

use crate::{
    EtlServer,
    content::{Content, Outcome},
    failure::{Failure, RETRY_REASON, Stage},
    outbound::{Broken, OutBody, Use},
    pipeline::Pipeline,
    question::{Input, NODE_URL, Question},
    source,
};

/// How many bytes were delivered.
const LENGTH: HeaderName = HeaderName::from_static("ais-direct-put-length");
/// A target's own word for having stored an object.
const COMPLETE: HeaderName = HeaderName::from_static("ais-direct-put-complete");

/// An answer of a hop up to this size is read before it is passed on, so that one that is cut can be asked for again.
const SMALL: u64 = 64 * 1024;

/// Longest wait between two attempts.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Answers an HTTP request for an object.
pub(crate) async fn to_caller(
    server: &EtlServer,
    call: Call,
    question: Question,
) -> Result<Finished, Failure> {
    let (head, body, reply) = call.into_parts();
    if question.pipeline.is_none() {
        return inline(server, head, body, reply, question).await;
    }
    match run(server, head, body, &question).await {
        Outcome::Content(answer) => answer_with(answer, reply).await,
        Outcome::Delivered { length, headers } => {
            let mut answer = Response::new(());
            *answer.status_mut() = StatusCode::NO_CONTENT;
            *answer.headers_mut() = headers;
            if length > 0 {
                answer.headers_mut().insert(LENGTH, HeaderValue::from(length));
            }
            Ok(reply.send(answer, Bytes::new()))
        }
        Outcome::Failed(failure) => Err(failure),
    }
}

/// The shortest way: the transform answers the caller itself.
async fn inline(
    server: &EtlServer,
    mut head: Parts,
    body: RequestBody,
    reply: Reply,
    question: Question,
) -> Result<Finished, Failure> {
    let (object, mut body) = source::open(server, &question, Some(body)).await?;
    let watch = body.watch();
    head.extensions.insert(object.clone());
    let call = Call::from_parts(head, body, reply.amend_head(with_content_type));
    let answered = unless_panicked(server.0.transform.call(call)).await;
    server.0.metrics.bytes_in.inc_by(watch.bytes());
    if let Some(failed) = watch.failed() {
        return Err(Failure { cause: answered.err(), ..Failure::source(failed) });
    }
    let finished = answered.map_err(|error| Failure::transform(&object, question.file(), error))?;
    server.0.metrics.objects.inc();
    server.0.metrics.bytes_out.inc_by(finished.bytes());
    Ok(finished)
}

/// Sends what was made elsewhere.
async fn answer_with(answer: Response<Content>, reply: Reply) -> Result<Finished, Failure> {
    let (parts, content) = answer.into_parts();
    let mut head = Response::from_parts(parts, ());
    with_content_type(&mut head);
    let mut content = match content {
        Content::Whole(bytes) => return Ok(reply.send(head, bytes)),
        content => content,
    };
    let passed = async {
        let mut out = reply.start(head);
        while let Some(frame) = content.frame().await {
            if let Ok(data) = frame?.into_data() {
                out.write(data).await?;
            }
        }
        Ok(out.finish())
    };
    passed.await.map_err(|error: Error| Failure {
        cause: Some(error),
        ..Failure::new(Stage::Delivery, StatusCode::BAD_GATEWAY, "the answer broke off")
    })
}

fn with_content_type(head: &mut Response<()>) {
    let octets = || HeaderValue::from_static("application/octet-stream");
    head.headers_mut().entry(header::CONTENT_TYPE).or_insert_with(octets);
}

/// Transforms an object, and delivers it if its question has somewhere to deliver it to.
///
/// `head` is what the transform sees of the request; `body` is the object, unless the question says that it is elsewhere.
///
/// # Cancel safety
///
/// If the future is dropped, so are the transform and the connections, and nothing whole is delivered.
pub(crate) async fn run(
    server: &EtlServer,
    head: Parts,
    body: RequestBody,
    question: &Question,
) -> Outcome {
    let outcome = match &question.pipeline {
        None => transformed(server, head, Some(body), question).await.map(|made| match made {
            Made::Whole(answer) => Outcome::Content(answer.map(Content::Whole)),
            Made::Stream(answer, watch) => {
                Outcome::Content(answer.map(|body| Content::Transform(body, watch)))
            }
        }),
        Some(pipeline) => put(server, head, body, question, pipeline).await,
    };
    outcome.unwrap_or_else(Outcome::Failed)
}

/// A transform's answer.
enum Made {
    Whole(Response<Bytes>),
    Stream(Response<ExchangeBody>, BodyWatch),
}

async fn transformed(
    server: &EtlServer,
    mut head: Parts,
    body: Option<RequestBody>,
    question: &Question,
) -> Result<Made, Failure> {
    let (object, mut body) = source::open(server, question, body).await?;
    let watch = body.watch();
    head.extensions.insert(object.clone());
    let failure = |error: Error| match watch.failed() {
        Some(failed) => Failure { cause: Some(error), ..Failure::source(failed) },
        None => Failure::transform(&object, question.file(), error),
    };
    let answer = schwann::answer(server.0.transform.clone(), head, body).await.map_err(failure)?;
    if answer.body().size_hint().exact().is_none() {
        return Ok(Made::Stream(answer, watch));
    }
    let (parts, mut body) = answer.into_parts();
    let mut whole = Bytes::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(failure)?.into_data() {
            whole = joined(whole, data);
        }
    }
    server.0.metrics.bytes_in.inc_by(watch.bytes());
    match watch.failed() {
        Some(failed) => Err(Failure::source(failed)),
        None => Ok(Made::Whole(Response::from_parts(parts, whole))),
    }
}

/// Two pieces as one; most often there is only one.
fn joined(first: Bytes, second: Bytes) -> Bytes {
    if first.is_empty() {
        return second;
    }
    let mut both = BytesMut::from(first);
    both.extend_from_slice(&second);
    both.freeze()
}

/// Why one attempt at a delivery came to nothing.
enum Attempt {
    /// The hop's connection failed: another attempt may succeed.
    Transient(Broken),
    /// Not for the hop's sake.
    Failed(Failure),
}

/// Delivers to the next hop, again if that broke and the object can be had again.
async fn put(
    server: &EtlServer,
    head: Parts,
    body: RequestBody,
    question: &Question,
    pipeline: &Pipeline,
) -> Result<Outcome, Failure> {
    let url = pipeline.url(&server.0.settings.target, question)?;
    let one_shot = matches!(question.input, Input::Body);
    let again = (!one_shot).then(|| head.clone());
    let (mut head, mut body) = (Some(head), Some(body));
    // A result in one piece is kept, and sent again without the transform.
    let mut kept: Option<Bytes> = None;
    let mut attempt = 0;
    loop {
        let (out, watch) = match &kept {
            Some(bytes) => (OutBody::bytes(bytes.clone()), None),
            None => {
                let head =
                    head.take().or_else(|| again.clone()).expect("kept, or can be had again");
                match transformed(server, head, body.take(), question).await? {
                    Made::Whole(answer) if answer.status().is_success() => {
                        let bytes = answer.into_body();
                        kept = Some(bytes.clone());
                        (OutBody::bytes(bytes), None)
                    }
                    Made::Stream(answer, watch) if answer.status().is_success() => {
                        let body = OutBody::stream(answer.into_body(), watch.clone());
                        (body, Some(watch))
                    }
                    // The transform says itself that this is no result.
                    Made::Whole(answer) => {
                        return Ok(Outcome::Content(answer.map(Content::Whole)));
                    }
                    Made::Stream(answer, watch) => {
                        return Ok(Outcome::Content(
                            answer.map(|body| Content::Transform(body, watch)),
                        ));
                    }
                }
            }
        };
        let put = put_once(server, &url, pipeline, question, out, watch.as_ref()).await;
        let Broken { why, stale } = match put {
            Ok(outcome) => return Ok(outcome),
            Err(Attempt::Failed(failure)) => return Err(failure),
            Err(Attempt::Transient(broken)) => broken,
        };
        if one_shot && kept.is_none() {
            let detail = format!("Direct put bailed (one-shot body): {why}");
            let failure = Failure::new(Stage::Delivery, StatusCode::SERVICE_UNAVAILABLE, detail);
            return Err(Failure { replay: true, ..failure });
        }
        // Even who wants no attempt repeated does not mean one that met an old connection.
        let most = server.0.settings.direct_put_retries.max(u32::from(stale && attempt == 0));
        if attempt >= most {
            let detail = format!("Direct put failed after retries: {why}");
            return Err(Failure::new(Stage::Delivery, StatusCode::BAD_GATEWAY, detail));
        }
        // An old connection that turned out to be closed says nothing about the hop.
        let wait = match attempt {
            0 if stale => Duration::ZERO,
            attempt => Duration::from_secs(1 << attempt.min(5)).min(MAX_WAIT),
        };
        info!(object = %question.path, attempt, ?wait, %why, "direct put failed; trying again");
        server.0.metrics.retries.inc();
        tokio::time::sleep(wait).await;
        attempt += 1;
    }
}

/// One PUT, and what its answer means.
async fn put_once(
    server: &EtlServer,
    url: &Uri,
    pipeline: &Pipeline,
    question: &Question,
    out: OutBody,
    watch: Option<&BodyWatch>,
) -> Result<Outcome, Attempt> {
    let sent = out.sent();
    // A hop that lost its connection because our side broke off is not to blame.
    let blame = |broken: Broken| match sent.take_failure() {
        None => Attempt::Transient(broken),
        Some(error) => Attempt::Failed(match watch.and_then(BodyWatch::failed) {
            Some(failed) => Failure { cause: Some(error), ..Failure::source(failed) },
            None => {
                let object = crate::Object::new(question.path.clone(), String::new());
                Failure::transform(&object, question.file(), error)
            }
        }),
    };
    let length = out.size_hint().exact();
    let mut request = Request::new(out);
    *request.method_mut() = Method::PUT;
    *request.uri_mut() = url.clone();
    let headers = request.headers_mut();
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    if let Some(token) = &server.0.settings.token {
        headers.insert(header::AUTHORIZATION, token.header());
    }
    if let Some(rest) = &pipeline.rest {
        headers.insert(NODE_URL, rest.clone());
    }
    let purpose = match question.input {
        Input::Body if length.is_none() => Use::DeliveryOnce,
        _ => Use::Delivery,
    };
    let answer = server.0.outbound.send(purpose, request).await;
    let (mut head, mut body) = answer.map_err(blame)?.into_parts();
    keep_headers(&mut head.headers);
    if !body.is_framed() {
        return Err(blame(Broken {
            why: "the answer says neither its length nor where it ends".to_owned(),
            stale: false,
        }));
    }
    // Up to the first byte of the answer, the whole of it may still be asked for again.
    let small = body.size_hint().exact().is_some_and(|length| length <= SMALL);
    let mut first = Bytes::new();
    let mut ended = false;
    while small || first.is_empty() {
        match body.frame().await {
            None => {
                ended = true;
                break;
            }
            Some(Err(broken)) => return Err(blame(broken)),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    first = joined(first, data);
                }
            }
        }
    }
    let metrics = &server.0.metrics;
    if let Some(watch) = watch {
        metrics.bytes_in.inc_by(watch.bytes());
    }
    let delivered = match head.status {
        StatusCode::NO_CONTENT => {
            let said = head.headers.remove(LENGTH);
            let said = said.and_then(|value| value.to_str().ok()?.parse().ok());
            Some(said.unwrap_or(0))
        }
        StatusCode::OK if ended && first.is_empty() => Some(body.sent().bytes()),
        _ => None,
    };
    head.headers.remove(LENGTH);
    if let Some(length) = delivered {
        metrics.objects.inc();
        metrics.direct_puts.inc();
        metrics.bytes_out.inc_by(body.sent().bytes());
        debug!(length, "delivered");
        head.headers.remove(header::CONTENT_TYPE);
        return Ok(Outcome::Delivered { length, headers: head.headers });
    }
    if head.status == StatusCode::OK {
        metrics.objects.inc();
    } else {
        metrics.failed(Stage::Delivery);
        info!(object = %question.path, status = head.status.as_u16(), "the hop refused");
    }
    let content =
        if ended { Content::Whole(first) } else { Content::Hop(Some(first), Box::new(body)) };
    Ok(Outcome::Content(Response::from_parts(head, content)))
}

/// Leaves of a hop's headers those that are meant for the caller.
fn keep_headers(headers: &mut HeaderMap) {
    let mut kept = HeaderMap::new();
    let retry = HeaderName::from_static(RETRY_REASON);
    for name in [header::CONTENT_TYPE, LENGTH, COMPLETE, retry] {
        if let Some(value) = headers.remove(&name) {
            kept.insert(name, value);
        }
    }
    *headers = kept;
}

/// A panic of a transform is an error of it.
async fn unless_panicked<F>(future: F) -> Result<Finished, Error>
where
    F: Future<Output = Result<Finished, Error>>,
{
    let mut future = pin!(future);
    poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        polled.unwrap_or_else(|_| Poll::Ready(Err(Error::server("the transform panicked"))))
    })
    .await
}
