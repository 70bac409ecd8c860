//! Books from files and to files.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{FromRequest as _, Multipart, Request, State},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use http::{HeaderValue, header};
use utoipa::{IntoParams, ToSchema};

use crate::{
    api::{
        BookPath,
        books::{BookPublic, books_full, new_book},
    },
    app::App,
    input::{Fields, Input, Read, choice, collect, media_type, unsupported},
    moment::Moment,
    notebook::{self, Bounds, Format},
    problem::Problem,
    signed_in::SignedIn,
    store::Access,
};

/// A file, as a form of the page sends it.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "only its shape is used, in the OpenAPI document")]
pub(crate) struct BookFile {
    /// Its name says what it is: `.ipynb`, `.md` or `.json`.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
}

/// In which form a book is wanted.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its shape is used, in the OpenAPI document")]
pub(crate) struct ExportParams {
    /// `ipynb` (nbformat 4.5), `md` or `json`.
    #[param(required = false, inline, pattern = "^(ipynb|md|json)$", default = "ipynb")]
    format: String,
}

/// What is read of it.
pub(crate) struct ExportQuery(Format);

const FORMATS: &[(&str, Format)] =
    &[("ipynb", Format::Ipynb), ("md", Format::Markdown), ("json", Format::Json)];

impl Read for ExportQuery {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self(fields.optional("format", choice(FORMATS))?.unwrap_or(Format::Ipynb)))
    }
}

/// Makes a book of a file: a Jupyter notebook, Markdown, or an export of ours. As the part `file` of a form, or as the body itself.
/// Outputs of a notebook are left out.
#[utoipa::path(
    post,
    path = "/books/import",
    tag = "books",
    operation_id = "books-import_book",
    request_body(content(
        (BookFile = "multipart/form-data"),
        (serde_json::Value = "application/json"),
        (String = "text/markdown"),
    )),
    responses(
        (status = 200, body = BookPublic),
        (status = 400, body = crate::problem::ProblemBody, description = "The file is not a good notebook: `bad_notebook`."),
        (status = 409, body = crate::problem::ProblemBody, description = "You have as many books as you may."),
    )
)]
pub(crate) async fn import_book(
    State(app): State<Arc<App>>,
    me: SignedIn,
    request: Request,
) -> Result<Json<BookPublic>, Problem> {
    let (bytes, is_markdown, name) = match media_type(request.headers()).as_str() {
        "multipart/form-data" => part(request).await?,
        "application/json" | "application/x-ipynb+json" => {
            (collect(request.into_body()).await?, false, None)
        }
        "text/markdown" | "text/plain" => (collect(request.into_body()).await?, true, None),
        _ => return Err(unsupported("multipart/form-data, application/json or text/markdown")),
    };
    let bounds = Bounds {
        cards: app.settings.max_cards_per_book as usize,
        code_bytes: usize::try_from(app.settings.max_code.bytes()).unwrap_or(usize::MAX),
    };
    let bad =
        |error: notebook::NotebookError| Problem::bad_request("bad_notebook", error.to_string());
    // Megabytes of JSON take a while.
    let draft = tokio::task::spawn_blocking(move || notebook::read(&bytes, is_markdown, bounds));
    let draft = draft.await.map_err(Problem::internal)?.map_err(bad)?;
    let title = draft.title.or_else(|| name.as_deref().and_then(notebook::title_of));
    let title = title.unwrap_or_else(|| "Imported book".to_owned());
    let mut book = new_book(me.user.id, title, draft.description);
    let now = Moment::now();
    let cards =
        draft.cards.into_iter().zip(0..).map(|(card, place)| card.into_card(book.id, place, now));
    let cards: Vec<_> = cards.collect();
    if !app.store.add_book(&book, &cards, app.settings.max_books_per_user).await? {
        return Err(books_full());
    }
    book.card_count = cards.len() as i64;
    Ok(Json(book.into()))
}

/// The part `file` of a form: its bytes, whether it is Markdown, and its name.
async fn part(request: Request) -> Result<(Bytes, bool, Option<String>), Problem> {
    let broken = |error: axum::extract::multipart::MultipartError| match error.status() {
        status if status == http::StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(status, "too_large", "The request body is too large")
        }
        _ => Problem::bad_request(
            "bad_form",
            format!("The form cannot be read: {}", error.body_text()),
        ),
    };
    // The whole is here before it is taken apart, so that what is too large is told from what is broken.
    let (head, body) = request.into_parts();
    let whole = collect(body).await?;
    let request = Request::from_parts(head, Body::from(whole));
    let form = Multipart::from_request(request, &()).await;
    let mut form = form.map_err(|error| Problem::bad_request("bad_form", error.body_text()))?;
    while let Some(field) = form.next_field().await.map_err(broken)? {
        if field.name() != Some("file") {
            continue;
        }
        let name = field.file_name().map(str::to_owned);
        let kind = field.content_type().unwrap_or_default().to_owned();
        let ending = name
            .as_deref()
            .and_then(|name| name.rsplit_once('.'))
            .map(|(_, end)| end.to_ascii_lowercase());
        let is_markdown = match ending.as_deref() {
            Some("md" | "markdown" | "txt") => true,
            Some("ipynb" | "json") => false,
            _ => kind.starts_with("text/"),
        };
        return Ok((field.bytes().await.map_err(broken)?, is_markdown, name));
    }
    Err(Problem::bad_request("bad_form", "The form has no part `file`"))
}

/// A book as a file.
#[utoipa::path(
    get,
    path = "/books/{book_id}/export",
    tag = "books",
    operation_id = "books-export_book",
    params(("book_id" = uuid::Uuid, Path), ExportParams),
    responses((
        status = 200,
        description = "The file.",
        content(
            (serde_json::Value = "application/x-ipynb+json"),
            (serde_json::Value = "application/json"),
            (String = "text/markdown"),
        )
    ))
)]
pub(crate) async fn export_book(
    State(app): State<Arc<App>>,
    me: SignedIn,
    Input { path, query: ExportQuery(format), .. }: Input<BookPath, ExportQuery>,
) -> Result<Response, Problem> {
    let book = app.book(&me, path.book_id, Access::View).await?;
    let (cards, _) = app.store.cards(path.book_id, 0, i64::MAX).await?;
    let name = file_name(&book.title, format.extension());
    let written = tokio::task::spawn_blocking(move || notebook::write(&book, &cards, format));
    let text = written.await.map_err(Problem::internal)?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(format.media_type())),
        (header::CONTENT_DISPOSITION, name),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    Ok((headers, text).into_response())
}

/// `Content-Disposition` for a download: a plain name for all, and the real one as RFC 5987 writes it.
fn file_name(title: &str, extension: &str) -> HeaderValue {
    let plain: String =
        title
            .chars()
            .map(|letter| {
                if letter.is_ascii_alphanumeric() || "-_ ".contains(letter) { letter } else { '_' }
            })
            .take(100)
            .collect();
    let mut real = String::new();
    let title: String = title
        .chars()
        .filter(|letter| !"/\\".contains(*letter) && !letter.is_control())
        .take(100)
        .collect();
    for byte in title.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => real.push(char::from(byte)),
            _ => real.push_str(&format!("%{byte:02X}")),
        }
    }
    let text = format!(
        "attachment; filename=\"{plain}.{extension}\"; filename*=UTF-8''{real}.{extension}"
    );
    HeaderValue::try_from(text).expect("plain ASCII")
}
