//! Runs as things: finding them, reaching them while they run, forgetting them.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{FromRequest as _, Request, State},
    response::{IntoResponse as _, Response},
};
use http::StatusCode;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use schwann_process::{Signal, Span, TerminalSize};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    CardPath, IdPath, Message,
    run_shapes::{
        Eof, LanguagesPublic, RunCancel, RunPublic, RunResize, RunsPublic, SandboxPublic, Which,
        complete, public, summary,
    },
    run_start, run_streams,
};
use crate::{
    app::App,
    input::{Input, Json as JsonBody, OptionalJson, Page, body_problem},
    problem::Problem,
    runs::Sent,
    signed_in::{MayRun, SignedIn, Superuser},
    store::{Run, RunFilter, RunStatus},
};

/// Largest piece of standard input that is sent while it runs, in bytes.
const MAX_PIECE: usize = 64 * 1024;

/// The routes of runs.
pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(run_start::run_card))
        .routes(routes!(run_start::run_book))
        .routes(routes!(read_runs_of_card))
        .routes(routes!(read_runs))
        .routes(routes!(read_run, delete_run))
        .routes(routes!(run_streams::read_run_events))
        .routes(routes!(run_streams::read_run_output))
        .routes(routes!(cancel_run))
        .routes(routes!(send_stdin))
        .routes(routes!(resize_run))
        .routes(routes!(read_languages))
        .routes(routes!(read_sandbox))
}

/// The run, if the user may see it.
pub(super) async fn visible(app: &App, signed_in: &SignedIn, id: Uuid) -> Result<Run, Problem> {
    let run = app.store.run_for(signed_in.user.id, id).await?;
    run.ok_or_else(|| Problem::not_found("Run"))
}

/// Runs that the user may see, newest first.
#[utoipa::path(
    get,
    path = "/runs/",
    tag = "runs",
    operation_id = "runs-read_runs",
    params(
        ("skip" = Option<i64>, Query), ("limit" = Option<i64>, Query), ("book_id" = Option<Uuid>, Query),
        ("card_id" = Option<Uuid>, Query), ("batch_id" = Option<Uuid>, Query), ("status" = Option<RunStatus>, Query),
    ),
    responses((status = 200, body = RunsPublic))
)]
pub(crate) async fn read_runs(
    State(app): State<Arc<App>>,
    signed_in: SignedIn,
    Input { query: Which { filter }, .. }: Input<(), Which>,
) -> Result<Json<RunsPublic>, Problem> {
    let (mut data, count) = app.store.runs(signed_in.user.id, &filter, summary).await?;
    complete(&app.runs, &mut data).await?;
    Ok(Json(RunsPublic { data, count }))
}

/// Runs of a card, newest first.
#[utoipa::path(
    get,
    path = "/books/{book_id}/cards/{id}/runs/",
    tag = "runs",
    operation_id = "runs-read_runs_of_card",
    params(
        ("book_id" = Uuid, Path), ("id" = Uuid, Path), ("skip" = Option<i64>, Query), ("limit" = Option<i64>, Query),
    ),
    responses((status = 200, body = RunsPublic))
)]
pub(crate) async fn read_runs_of_card(
    State(app): State<Arc<App>>,
    signed_in: SignedIn,
    Input { path, query: page, .. }: Input<CardPath, Page>,
) -> Result<Json<RunsPublic>, Problem> {
    let book = app.store.book(signed_in.user.id, path.book_id).await?;
    book.ok_or_else(|| Problem::not_found("Book"))?;
    let card = app.store.card(path.book_id, path.id).await?;
    card.ok_or_else(|| Problem::not_found("Card"))?;
    let filter = RunFilter {
        book_id: Some(path.book_id),
        card_id: Some(path.id),
        skip: page.skip,
        limit: page.limit,
        ..RunFilter::default()
    };
    let (mut data, count) = app.store.runs(signed_in.user.id, &filter, summary).await?;
    complete(&app.runs, &mut data).await?;
    Ok(Json(RunsPublic { data, count }))
}

/// What is known about a run.
#[utoipa::path(
    get,
    path = "/runs/{id}",
    tag = "runs",
    operation_id = "runs-read_run",
    params(("id" = Uuid, Path)),
    responses((status = 200, body = RunPublic))
)]
pub(crate) async fn read_run(
    State(app): State<Arc<App>>,
    signed_in: SignedIn,
    Input { path, .. }: Input<IdPath>,
) -> Result<Json<RunPublic>, Problem> {
    let run = visible(&app, &signed_in, path.id).await?;
    Ok(Json(public(&app.runs, run).await?))
}

/// Forgets a finished run and its output.
#[utoipa::path(
    delete,
    path = "/runs/{id}",
    tag = "runs",
    operation_id = "runs-delete_run",
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, body = Message),
        (status = 409, description = "It is not finished.", body = crate::problem::ProblemBody),
    )
)]
pub(crate) async fn delete_run(
    State(app): State<Arc<App>>,
    signed_in: SignedIn,
    Input { path, .. }: Input<IdPath>,
) -> Result<Json<Message>, Problem> {
    let run = visible(&app, &signed_in, path.id).await?;
    if !app.runs.delete(&run).await? {
        return Err(Problem::conflict(
            "run_unfinished",
            "The run is not finished; cancel it first",
        ));
    }
    Ok(Message::new("Run deleted successfully"))
}

/// Asks a run to end, and kills it if it has not ended in time. May be repeated.
#[utoipa::path(
    post,
    path = "/runs/{id}/cancel",
    tag = "runs",
    operation_id = "runs-cancel_run",
    params(("id" = Uuid, Path)),
    request_body(content = Option<RunCancel>),
    responses(
        (status = 200, description = "It was finished already.", body = RunPublic),
        (status = 202, description = "It was told.", body = RunPublic),
    )
)]
pub(crate) async fn cancel_run(
    State(app): State<Arc<App>>,
    MayRun(signed_in): MayRun,
    Input { path, body: OptionalJson(body), .. }: Input<IdPath, (), OptionalJson<RunCancel>>,
) -> Result<Response, Problem> {
    let run = visible(&app, &signed_in, path.id).await?;
    if run.status.is_finished() {
        return Ok(Json(public(&app.runs, run).await?).into_response());
    }
    let signal = body.signal.unwrap_or(Signal::Interrupt);
    let grace = match signal {
        Signal::Kill => 0,
        _ => body.grace_ms.unwrap_or(2000) as u64,
    };
    app.runs.cancel(&run, signal, Span::from_millis(grace)).await?;
    let run = visible(&app, &signed_in, path.id).await?;
    Ok((StatusCode::ACCEPTED, Json(public(&app.runs, run).await?)).into_response())
}

/// Sends bytes to a run's standard input, and ends it with `eof=true`.
#[utoipa::path(
    post,
    path = "/runs/{id}/stdin",
    tag = "runs",
    operation_id = "runs-send_stdin",
    params(("id" = Uuid, Path), ("eof" = Option<bool>, Query)),
    request_body(content = String, content_type = "application/octet-stream"),
    responses(
        (status = 202, body = Message),
        (status = 409, description = "It takes no input.", body = crate::problem::ProblemBody),
    )
)]
pub(crate) async fn send_stdin(
    State(app): State<Arc<App>>,
    MayRun(signed_in): MayRun,
    request: Request,
) -> Result<(StatusCode, Json<Message>), Problem> {
    let (parts, body) = request.into_parts();
    let bare = Request::from_parts(parts, Body::empty());
    let Input { path, query: Eof(eof), .. } =
        Input::<IdPath, Eof>::from_request(bare, &app).await?;
    let run = visible(&app, &signed_in, path.id).await?;
    if run.owner_id != signed_in.user.id {
        return Err(Problem::not_found("Run"));
    }
    let bytes = Limited::new(body, MAX_PIECE);
    let bytes = bytes.collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            let detail = format!("Input may be sent in pieces of {MAX_PIECE} bytes");
            return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "stdin_too_large", detail);
        }
        body_problem(error)
    })?;
    match app.runs.send_input(&run, bytes.to_bytes(), eof).await? {
        Sent::Taken => Ok((StatusCode::ACCEPTED, Message::new("Taken"))),
        Sent::NotYet => Err(Problem::conflict("run_queued", "The run has not started yet")),
        Sent::Closed => Err(Problem::conflict("stdin_closed", "The run takes no input any more")),
    }
}

/// Tells a run with a terminal its new size.
#[utoipa::path(
    post,
    path = "/runs/{id}/resize",
    tag = "runs",
    operation_id = "runs-resize_run",
    params(("id" = Uuid, Path)),
    request_body(content = RunResize),
    responses(
        (status = 200, body = Message),
        (status = 409, description = "It does not run.", body = crate::problem::ProblemBody),
    )
)]
pub(crate) async fn resize_run(
    State(app): State<Arc<App>>,
    MayRun(signed_in): MayRun,
    Input { path, body: JsonBody(body), .. }: Input<IdPath, (), JsonBody<RunResize>>,
) -> Result<Json<Message>, Problem> {
    let run = visible(&app, &signed_in, path.id).await?;
    let size = TerminalSize { columns: body.cols, rows: body.rows };
    if !app.runs.resize(&run, size).await? {
        return Err(Problem::conflict("run_finished", "The run does not run"));
    }
    Ok(Message::new("Resized"))
}

/// What holds programs on this server, for superusers.
#[utoipa::path(
    get,
    path = "/utils/sandbox",
    tag = "utils",
    operation_id = "utils-read_sandbox",
    responses((status = 200, body = SandboxPublic))
)]
pub(crate) async fn read_sandbox(State(app): State<Arc<App>>, _: Superuser) -> Json<SandboxPublic> {
    let found = app.runs.sandbox();
    Json(SandboxPublic {
        available: found.is_ok(),
        sandbox: found.ok().map(str::to_owned),
        reason: found.err().map(str::to_owned),
    })
}

/// The languages in which cards can be written, and which of them can be run here.
#[utoipa::path(
    get,
    path = "/languages/",
    tag = "runs",
    operation_id = "runs-read_languages",
    responses((status = 200, body = LanguagesPublic))
)]
pub(crate) async fn read_languages(
    State(app): State<Arc<App>>,
    _: SignedIn,
) -> Json<LanguagesPublic> {
    let data: Vec<_> = app.runs.languages().all().cloned().collect();
    Json(LanguagesPublic { count: data.len(), data })
}
