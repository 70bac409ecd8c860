//! What runs print, as it comes and as it is kept.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use uuid::Uuid;

use super::{
    IdPath,
    run_shapes::{Cursor, OutputOf, RunEvent},
    runs::visible,
};
use crate::{
    app::App,
    framing::{self, Framing, Stream},
    input::Input,
    problem::{Fault, Problem, Step},
    record::{Channel, Record},
    run_log::LogError,
    runs::log_problem,
    signed_in::SignedIn,
    store::Run,
};

/// The framing that the request asks for.
pub(super) fn negotiated(headers: &HeaderMap, footer: bool) -> Result<Framing, Problem> {
    Framing::negotiate(headers, footer).ok_or_else(|| {
        let detail = "There are text/plain, application/x-ndjson and text/event-stream; \
                      with `Prefer: respond-async` there is JSON";
        Problem::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", detail)
    })
}

/// A stream of one run's records.
fn streamed(run: Uuid, framing: Framing, body: Body) -> Response {
    let mut response = (framing.headers(), body).into_response();
    name_run(run, &mut response);
    response
}

pub(super) fn name_run(run: Uuid, response: &mut Response) {
    let value = |text: String| HeaderValue::from_str(&text).expect("an id is text");
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, value(format!("/api/v1/runs/{run}")));
    headers.insert(HeaderName::from_static("run-id"), value(run.to_string()));
}

/// A stream from the record after `after`.
pub(super) async fn read(
    app: &App,
    run: &Run,
    after: u64,
    follow: bool,
    framing: Framing,
) -> Result<Response, Problem> {
    let reader = match app.runs.read(run, after, follow).await {
        Ok(reader) => reader,
        Err(LogError::Gone) if framing == Framing::Events || framing == Framing::Lines => {
            // Nothing can be given; what the client has is all that it will have.
            return Ok(streamed(run.id, framing, Body::from(framing.expired())));
        }
        Err(error) => return Err(log_problem(error)),
    };
    if reader.is_reset() && matches!(framing, Framing::Text { .. }) {
        let detail = format!("This run has no record {after}; read from the beginning");
        return Err(Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, "reset", detail));
    }
    Ok(streamed(run.id, framing, Stream::new(reader, framing).into_body()))
}

/// What a run prints, from a cursor on: what there is, and then what comes.
///
/// The cursor is `Last-Event-ID` or `after`: the `seq` of the last record that the client has. A cursor that is not of this run, or
/// output that is not kept any more, is answered by a `reset` in place of records.
#[utoipa::path(
    get,
    path = "/runs/{id}/events",
    tag = "runs",
    operation_id = "runs-read_run_events",
    params(
        ("id" = Uuid, Path), ("after" = Option<u64>, Query), ("footer" = Option<bool>, Query),
        ("follow" = Option<bool>, Query, description = "`false`: only what there is now. Default: true."),
        ("Last-Event-ID" = Option<String>, Header),
    ),
    responses(
        (status = 200, description = "The records, one a line or one an event; or the output.", content(
            (String = "text/plain"), (RunEvent = "application/x-ndjson"), (RunEvent = "text/event-stream"))),
        (status = 406, description = "No such framing.", body = crate::problem::ProblemBody),
        (status = 410, description = "The output is not kept any more (plain text).", body = crate::problem::ProblemBody),
        (status = 416, description = "The cursor is beyond the end (plain text).", body = crate::problem::ProblemBody),
    )
)]
pub(crate) async fn read_run_events(
    State(app): State<Arc<App>>,
    signed_in: SignedIn,
    headers: HeaderMap,
    Input { path, query, .. }: Input<IdPath, Cursor>,
) -> Result<Response, Problem> {
    let framing = negotiated(&headers, query.footer)?;
    let run = visible(&app, &signed_in, path.id).await?;
    let after = framing::cursor(&headers, query.after).map_err(|text| {
        Problem::faults(vec![Fault {
            kind: "int_parsing",
            loc: vec![Step::Name("header".to_owned()), Step::Name("Last-Event-ID".to_owned())],
            msg: "Input should be a valid integer, unable to parse string as an integer".to_owned(),
            input: text.into(),
            ctx: None,
        }])
    })?;
    read(&app, &run, after, query.follow, framing).await
}

/// The output that a run has left so far, as bytes; of a finished run also a part of it (`Range`).
#[utoipa::path(
    get,
    path = "/runs/{id}/output",
    tag = "runs",
    operation_id = "runs-read_run_output",
    params(
        ("id" = Uuid, Path),
        ("stream" = Option<String>, Query, description = "`all`, `stdout` or `stderr`. Default: `all`."),
        ("Range" = Option<String>, Header),
    ),
    responses(
        (status = 200, description = "The output.", content((String = "text/plain"))),
        (status = 206, description = "A part of it.", content((String = "text/plain"))),
        (status = 410, description = "The output is not kept any more.", body = crate::problem::ProblemBody),
        (status = 416, description = "There is no such part.", body = crate::problem::ProblemBody),
    )
)]
pub(crate) async fn read_run_output(
    State(app): State<Arc<App>>,
    signed_in: SignedIn,
    headers: HeaderMap,
    Input { path, query: OutputOf(channel), .. }: Input<IdPath, OutputOf>,
) -> Result<Response, Problem> {
    let run = visible(&app, &signed_in, path.id).await?;
    let total = match channel {
        None => run.stdout_bytes + run.stderr_bytes,
        Some(Channel::Stdout) => run.stdout_bytes,
        Some(Channel::Stderr) => run.stderr_bytes,
    } as u64;
    let finished = run.status.is_finished();
    let range = headers.get(header::RANGE).filter(|_| finished);
    let range = match range.and_then(|value| part(value.to_str().ok()?, total)) {
        Some(Ok(range)) => Some(range),
        Some(Err(())) => {
            let detail = format!("The output has {total} bytes");
            let status = StatusCode::RANGE_NOT_SATISFIABLE;
            return Err(Problem::new(status, "range", detail));
        }
        None => None,
    };
    let (from, length) = range.unwrap_or((0, u64::MAX));
    let reader = app.runs.read(&run, 0, false).await.map_err(log_problem)?;
    let state = (reader, from, length);
    let body = stream::try_unfold(state, move |(mut reader, mut skip, mut left)| async move {
        while left > 0 {
            let Some(entries) = reader.next().await? else { break };
            let mut out = Vec::new();
            for entry in entries {
                let Record::Output(of, mut data) = entry.record else { continue };
                if channel.is_some_and(|channel| channel != of) {
                    continue;
                }
                let before = skip.min(data.len() as u64);
                let _ = data.split_to(before as usize);
                skip -= before;
                out.extend_from_slice(&data[..left.min(data.len() as u64) as usize]);
                left -= left.min(data.len() as u64);
            }
            if !out.is_empty() {
                return Ok(Some((Bytes::from(out), (reader, skip, left))));
            }
        }
        Ok::<_, LogError>(None)
    });
    let mut response = Body::from_stream(body).into_response();
    let value = |text: String| HeaderValue::from_str(&text).expect("made of ids and numbers");
    let headers = response.headers_mut();
    for (name, value) in (Framing::Text { footer: false }).headers() {
        headers.insert(name, value);
    }
    let name = format!("attachment; filename=\"run-{}.txt\"", run.id);
    headers.insert(header::CONTENT_DISPOSITION, value(name));
    if finished {
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    if let Some((from, length)) = range {
        let last = from + length - 1;
        headers.insert(header::CONTENT_RANGE, value(format!("bytes {from}-{last}/{total}")));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// The one part that a `Range` asks for (RFC 9110, section 14.1.2): its
/// beginning and length. None if it is not understood, which is then ignored.
fn part(text: &str, total: u64) -> Option<Result<(u64, u64), ()>> {
    let range = text.strip_prefix("bytes=")?;
    let (from, to) = range.split_once('-').filter(|_| !range.contains(','))?;
    let (from, to) = match (from.trim(), to.trim()) {
        ("", last) => {
            let last: u64 = last.parse().ok()?;
            if last == 0 {
                return Some(Err(()));
            }
            (total.saturating_sub(last), total.saturating_sub(1))
        }
        (from, "") => (from.parse().ok()?, total.saturating_sub(1)),
        (from, to) => {
            let (from, to): (u64, u64) = (from.parse().ok()?, to.parse().ok()?);
            if to < from {
                return None;
            }
            (from, to.min(total.saturating_sub(1)))
        }
    };
    if from >= total { Some(Err(())) } else { Some(Ok((from, to - from + 1))) }
}
