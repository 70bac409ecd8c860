//! Starting runs: of a card, and of all cards of a book.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tracing::warn;
use uuid::Uuid;

use super::{
    BookPath, CardPath,
    run_shapes::{CardRun, Footer, RunEvent, RunPublic, public},
    run_streams::{name_run, negotiated, read},
};
use crate::{
    app::App,
    framing::{Framing, Stream},
    input::{Input, OptionalJson},
    problem::Problem,
    run_log::LogError,
    runs::{RunRequest, Wanted, of},
    signed_in::{MayRun, SignedIn},
    store::{Access, CardChange, CardKind, KeyUse, OnBusy, Run, Scope},
};

/// Whether the client wants an answer before the work is done (RFC 7240, section 4.1).
fn wants_no_stream(headers: &HeaderMap) -> bool {
    headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|word| word.trim().eq_ignore_ascii_case("respond-async"))
}

/// The key under which this request may be repeated.
fn key_use(
    headers: &HeaderMap,
    user: Uuid,
    path: &CardPath,
    body: &str,
) -> Result<Option<KeyUse>, Problem> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let key = key.to_str().ok().filter(|key| (1..=255).contains(&key.len())).ok_or_else(|| {
        Problem::bad_request("idempotency_key", "An Idempotency-Key has 1 to 255 ASCII characters")
    })?;
    let said = format!("{user} {} {} {body}", path.book_id, path.id);
    let request_hash = hex::encode(Sha256::digest(said.as_bytes()));
    Ok(Some(KeyUse { key: key.to_owned(), request_hash }))
}

/// The version in `If-Match`.
fn if_match(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let version = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    version.and_then(|version| version.parse().ok()).map(Some).ok_or_else(|| {
        Problem::bad_request("if_match", "If-Match is a card's version in quotes, as `\"3\"`")
    })
}

/// The book's access, which must be enough to run it.
async fn may_run(app: &App, signed_in: &SignedIn, book: Uuid) -> Result<Access, Problem> {
    let book = app.store.book(signed_in.user.id, book).await?;
    let access = book.ok_or_else(|| Problem::not_found("Book"))?.access;
    if access < Access::Run {
        return Err(Problem::forbidden("read_only", "This book is shared with you for reading"));
    }
    Ok(access)
}

/// Saves the card as the body says, runs it, and streams what it prints.
///
/// The run goes on if the client leaves: `Run-Id` names it, and `/runs/{id}/events` gives the rest. With `Prefer: respond-async`
/// the answer is 202 and the run, without a stream. With an `Idempotency-Key` a repeated request is answered with the same run.
#[utoipa::path(
    post,
    path = "/books/{book_id}/cards/{id}/run",
    tag = "runs",
    operation_id = "runs-run_card",
    params(
        ("book_id" = Uuid, Path), ("id" = Uuid, Path),
        ("footer" = Option<bool>, Query, description = "Ends plain text with a line about how the run ended."),
        ("Idempotency-Key" = Option<String>, Header), ("If-Match" = Option<String>, Header),
        ("Prefer" = Option<String>, Header, description = "`respond-async`: no stream."),
    ),
    request_body(content = Option<CardRun>),
    responses(
        (status = 200, description = "The records, one a line or one an event; or the output.", content(
            (String = "text/plain"), (RunEvent = "application/x-ndjson"), (RunEvent = "text/event-stream"))),
        (status = 202, description = "Accepted, with `Prefer: respond-async`.", body = RunPublic),
        (status = 406, description = "No such framing.", body = crate::problem::ProblemBody),
        (status = 409, description = "The card is running already.", body = crate::problem::ProblemBody),
        (status = 412, description = "The card was changed meanwhile.", body = crate::problem::ProblemBody),
    )
)]
pub(crate) async fn run_card(
    State(app): State<Arc<App>>,
    MayRun(signed_in): MayRun,
    headers: HeaderMap,
    Input { path, query: Footer(footer), body: OptionalJson(body) }: Input<
        CardPath,
        Footer,
        OptionalJson<CardRun>,
    >,
) -> Result<Response, Problem> {
    let no_stream = wants_no_stream(&headers);
    let framing = if no_stream { Framing::Lines } else { negotiated(&headers, footer)? };
    body.check_ids(&path)?;
    let access = may_run(&app, &signed_in, path.book_id).await?;
    let key = key_use(&headers, signed_in.user.id, &path, &format!("{body:?}"))?;
    let (change, request, save, on_busy) = body.split();
    if change.code.as_ref().is_some_and(|code| code.len() as u64 > app.settings.max_code.bytes()) {
        let detail = format!("Code may have {}", app.settings.max_code);
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "code_too_large", detail));
    }
    if change != CardChange::default() && save {
        if access < Access::Edit {
            let detail = "This book is shared with you for running; `save` must be false";
            return Err(Problem::forbidden("read_only", detail));
        }
        if !signed_in.token.scopes.has(Scope::Write) {
            let detail = "This token lacks the scope `write`; `save` must be false";
            return Err(Problem::forbidden("scope", detail));
        }
    }
    let version = if_match(&headers)?;
    let wanted = Wanted {
        user_id: signed_in.user.id,
        book_id: path.book_id,
        card_id: path.id,
        change,
        save,
        version,
        key,
        on_busy,
        batch_id: None,
        request,
    };
    let (run, _repeated) = app.runs.start(wanted).await?;
    if no_stream {
        let id = run.id;
        let mut response =
            (StatusCode::ACCEPTED, Json(public(&app.runs, run).await?)).into_response();
        name_run(id, &mut response);
        let applied = HeaderValue::from_static("respond-async");
        response.headers_mut().insert("preference-applied", applied);
        return Ok(response);
    }
    read(&app, &run, 0, true, framing).await
}

/// Runs the code cards of a book in their order, one after the other, until one fails, and streams what they print. Each record says
/// of which run and card it is. It goes on if the client leaves.
#[utoipa::path(
    post,
    path = "/books/{book_id}/run",
    tag = "runs",
    operation_id = "runs-run_book",
    params(("book_id" = Uuid, Path)),
    responses(
        (status = 200, description = "The records of all runs.", content(
            (String = "text/plain"), (RunEvent = "application/x-ndjson"), (RunEvent = "text/event-stream"))),
        (status = 406, description = "No such framing.", body = crate::problem::ProblemBody),
        (status = 409, description = "A card is running already.", body = crate::problem::ProblemBody),
    )
)]
pub(crate) async fn run_book(
    State(app): State<Arc<App>>,
    MayRun(signed_in): MayRun,
    headers: HeaderMap,
    Input { path, .. }: Input<BookPath>,
) -> Result<Response, Problem> {
    let framing = negotiated(&headers, false)?;
    may_run(&app, &signed_in, path.book_id).await?;
    let (cards, _) = app.store.cards(path.book_id, 0, i64::from(u32::MAX)).await?;
    let cards = cards.into_iter().filter(|card| card.kind == CardKind::Code);
    let batch = Uuid::new_v4();
    let mut wanted = cards.map(|card| Wanted {
        user_id: signed_in.user.id,
        book_id: path.book_id,
        card_id: card.id,
        change: CardChange::default(),
        save: false,
        version: None,
        key: None,
        on_busy: OnBusy::Reject,
        batch_id: Some(batch),
        request: RunRequest::default(),
    });
    let Some(first) = wanted.next() else {
        return Err(Problem::bad_request("no_code", "This book has no code"));
    };
    // What can be refused before anything has started is.
    let (first, _) = app.runs.start(first).await?;
    let rest: Vec<_> = wanted.collect();
    let (begun, mut runs) = mpsc::channel::<Run>(rest.len() + 1);
    let mut run = first;
    let owned = Arc::clone(&app);
    tokio::spawn(async move {
        let mut rest = rest.into_iter();
        loop {
            // There is room for all of them, and a client that has left is no reason to stop.
            let _ = begun.try_send(run.clone());
            if !owned.runs.succeeded(run.id).await {
                return;
            }
            let Some(next) = rest.next() else { return };
            run = match owned.runs.start(next).await {
                Ok((run, _)) => run,
                Err(problem) => {
                    warn!(code = problem.code(), "the rest of a book is not run");
                    return;
                }
            };
        }
    });
    let app = Arc::clone(&app);
    let body = one_after_the_other(app, framing, move |cx| runs.poll_recv(cx));
    let mut response = (framing.headers(), body).into_response();
    let batch = HeaderValue::from_str(&batch.to_string()).expect("an id is text");
    response.headers_mut().insert("batch-id", batch);
    Ok(response)
}

/// The records of runs, one run after the other, as `next` names them.
fn one_after_the_other(
    app: Arc<App>,
    framing: Framing,
    mut next: impl FnMut(&mut Context<'_>) -> Poll<Option<Run>> + Send + 'static,
) -> Body {
    let runs = stream::poll_fn(move |cx| next(cx));
    let state = (app, Box::pin(runs), None::<Stream>, framing.opening(false));
    let body = stream::try_unfold(state, move |(app, mut runs, mut now, opening)| async move {
        if !opening.is_empty() {
            return Ok(Some((opening, (app, runs, now, Bytes::new()))));
        }
        loop {
            if let Some(stream) = &mut now
                && let Some(piece) = stream.piece().await?
            {
                return Ok(Some((piece, (app, runs, now, opening))));
            }
            let Some(run) = runs.next().await else { return Ok::<_, LogError>(None) };
            let reader = app.runs.read(&run, 0, true).await?;
            now = Some(Stream::new(reader, framing).without_opening().of(of(&run)));
        }
    });
    Body::from_stream(body)
}
