//! Cards of a book.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Json,
    extract::State,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    api::{BookPath, CardPath, Message, publications::PublicationPublic, run_shapes::seq_number},
    app::App,
    input::{
        Complaint, Fields, Input, Json as Body, Page, Read, any_object, choice, id, integer, text,
        text_of_bytes,
    },
    moment::Moment,
    problem::{Fault, Problem, Step},
    published::Publishing,
    runs::Runs,
    signed_in::SignedIn,
    store::{Access, Card, CardChange, CardError, CardKind, NewCard, Publication, Run, RunStatus},
};

/// A card.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CardPublic {
    id: Uuid,
    book_id: Uuid,
    kind: CardKind,
    title: String,
    /// Of code cards.
    language: Option<String>,
    /// Code, or Markdown.
    code: String,
    settings: Map<String, Value>,
    /// From 0 on.
    position: i64,
    /// For `If-Match`.
    version: i64,
    created_at: Moment,
    updated_at: Moment,
    last_run: Option<LastRun>,
    /// How it is published, if it is.
    publication: Option<PublicationPublic>,
}

/// What is known about the newest run of a card.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LastRun {
    id: Uuid,
    status: RunStatus,
    reason: Option<String>,
    exit_code: Option<i64>,
    signal: Option<i64>,
    queued_at: Moment,
    started_at: Option<Moment>,
    finished_at: Option<Moment>,
    elapsed_ms: Option<i64>,
    last_seq: i64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CardsPublic {
    data: Vec<CardPublic>,
    /// Of all, not only of these.
    count: i64,
}

#[derive(Debug, ToSchema)]
pub(crate) struct CardCreate {
    #[schema(required = false, default = "code")]
    kind: CardKind,
    #[schema(required = false, max_length = 255)]
    title: String,
    /// Of code cards; `python` if left out.
    #[schema(pattern = "^[a-z0-9_+#.-]{1,32}$")]
    language: Option<String>,
    #[schema(required = false)]
    code: String,
    #[schema(required = false)]
    settings: Map<String, Value>,
    /// Where it is put, 0 being the first place; at the end if left out.
    #[schema(minimum = 0)]
    position: Option<i64>,
}

#[derive(Debug, ToSchema)]
pub(crate) struct CardUpdate {
    /// May be said, and must be that of the path then.
    pub(crate) id: Option<Uuid>,
    /// May be said, and must be that of the path then.
    pub(crate) book_id: Option<Uuid>,
    #[schema(max_length = 255)]
    title: Option<String>,
    #[schema(pattern = "^[a-z0-9_+#.-]{1,32}$")]
    language: Option<String>,
    code: Option<String>,
    settings: Option<Map<String, Value>>,
}

#[derive(Debug, ToSchema)]
pub(crate) struct CardsReorder {
    /// Every card of the book, once.
    ids: Vec<Uuid>,
}

/// Largest settings of a card, in bytes of JSON.
const MAX_SETTINGS: usize = 16 * 1024;
/// Largest code that is read at all. The server's own limit is lower, and named when it is passed.
const MAX_CODE_READ: u64 = 64 << 20;

/// A language's name, such as `python` or `c++`.
pub(crate) fn language(value: &Value) -> Result<String, Complaint> {
    let name = text(1, 32)(value)?;
    let good =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_+#.-".contains(&byte);
    match name.bytes().all(good) {
        true => Ok(name),
        false => Err(Complaint::new(
            "string_pattern_mismatch",
            "String should match pattern '^[a-z0-9_+#.-]{1,32}$'",
        )),
    }
}

const KINDS: &[(&str, CardKind)] = &[("code", CardKind::Code), ("markdown", CardKind::Markdown)];

impl Read for CardCreate {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let kind = fields.optional("kind", choice(KINDS));
        let title = fields.optional("title", text(0, 255));
        let language = fields.optional("language", language);
        let code = fields.optional("code", text_of_bytes(MAX_CODE_READ));
        let settings = fields.optional("settings", any_object(MAX_SETTINGS));
        let position = fields.optional("position", integer(0, 1_000_000));
        Some(Self {
            kind: kind?.unwrap_or(CardKind::Code),
            title: title?.unwrap_or_default(),
            language: language?,
            code: code?.unwrap_or_default(),
            settings: settings?.unwrap_or_default(),
            position: position?,
        })
    }
}

impl Read for CardUpdate {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let own_id = fields.optional("id", id);
        let book_id = fields.optional("book_id", id);
        let title = fields.optional("title", text(0, 255));
        let language = fields.optional("language", language);
        let code = fields.optional("code", text_of_bytes(MAX_CODE_READ));
        let settings = fields.optional("settings", any_object(MAX_SETTINGS));
        Some(Self {
            id: own_id?,
            book_id: book_id?,
            title: title?,
            language: language?,
            code: code?,
            settings: settings?,
        })
    }
}

impl Read for CardsReorder {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self { ids: fields.required_list("ids", 100_000, id)? })
    }
}

impl CardUpdate {
    /// The change that it asks for, once it is clear that it is of this card.
    pub(crate) fn change(self, path: &CardPath, app: &App) -> Result<CardChange, Problem> {
        let mut faults = Vec::new();
        for (name, said, real) in
            [("id", self.id, path.id), ("book_id", self.book_id, path.book_id)]
        {
            if let Some(said) = said
                && said != real
            {
                faults.push(Fault {
                    kind: "value_error",
                    loc: vec![Step::Name("body".to_owned()), Step::Name(name.to_owned())],
                    msg: format!("Value error, `{name}` must be that of the path"),
                    input: Value::from(said.to_string()),
                    ctx: None,
                });
            }
        }
        if !faults.is_empty() {
            return Err(Problem::faults(faults));
        }
        app.code_fits(self.code.as_deref().unwrap_or_default())?;
        Ok(CardChange {
            title: self.title,
            language: self.language,
            code: self.code,
            settings: self.settings,
        })
    }
}

impl App {
    /// Refuses code that is too large.
    pub(crate) fn code_fits(&self, code: &str) -> Result<(), Problem> {
        let max = self.settings.max_code;
        match code.len() as u64 > max.bytes() {
            true => Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "code_too_large",
                format!("The code of a card has at most {max} here"),
            )),
            false => Ok(()),
        }
    }

    /// A card as its clients see it.
    async fn public(&self, card: Card) -> Result<CardPublic, Problem> {
        let run = self.store.last_run(card.id).await?;
        let run = last_runs(&self.runs, run.into_iter().collect()).await?.into_values().next();
        let publication = self.store.publication(card.id).await?;
        Ok(CardPublic::new(card, run).published(&self.publishing, publication))
    }
}

impl CardPublic {
    pub(crate) fn new(card: Card, last_run: Option<LastRun>) -> Self {
        Self {
            id: card.id,
            book_id: card.book_id,
            kind: card.kind,
            title: card.title,
            language: card.language,
            code: card.code,
            settings: card.settings,
            position: card.position,
            version: card.version,
            created_at: card.created_at,
            updated_at: card.updated_at,
            last_run,
            publication: None,
        }
    }

    fn published(mut self, publishing: &Publishing, publication: Option<Publication>) -> Self {
        self.publication =
            publication.map(|publication| PublicationPublic::new(publishing, publication));
        self
    }
}

/// The last runs of cards, by card.
async fn last_runs(runs: &Runs, rows: Vec<Run>) -> Result<HashMap<Uuid, LastRun>, Problem> {
    let asked = rows.iter().map(|run| (run.id, run.server.clone(), run.status));
    let standings = runs.standings(asked.collect()).await?;
    let last_run = |run: Run| {
        let known = standings.get(&run.id).and_then(|standing| standing.last_seq);
        Some((run.card_id?, LastRun::new(run, known)))
    };
    Ok(rows.into_iter().filter_map(last_run).collect())
}

impl LastRun {
    fn new(run: Run, last_seq: Option<u64>) -> Self {
        Self {
            last_seq: last_seq.map_or(run.last_seq, seq_number),
            id: run.id,
            status: run.status,
            reason: run.reason,
            exit_code: run.exit_code,
            signal: run.signal,
            queued_at: run.queued_at,
            started_at: run.started_at,
            finished_at: run.finished_at,
            elapsed_ms: run.elapsed_ms,
        }
    }
}

/// The version of `If-Match`. `None` if it does not matter.
pub(crate) fn if_match(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let text = text.strip_prefix("W/").unwrap_or(text);
    match text.trim_matches('"').parse() {
        Ok(version) => Ok(Some(version)),
        Err(_) => Err(Problem::bad_request(
            "bad_if_match",
            "If-Match must be the version of the card, as `\"3\"`",
        )),
    }
}

fn with_etag(card: CardPublic) -> Response {
    let etag = HeaderValue::try_from(format!("\"{}\"", card.version)).expect("digits");
    ([(header::ETAG, etag)], Json(card)).into_response()
}

/// The cards of a book, in their order.
#[utoipa::path(
    get,
    path = "/books/{book_id}/cards/",
    tag = "cards",
    operation_id = "cards-read_cards",
    params(("book_id" = Uuid, Path), Page),
    responses((status = 200, body = CardsPublic))
)]
pub(crate) async fn read_cards(
    State(app): State<Arc<App>>,
    me: SignedIn,
    Input { path, query: page, .. }: Input<BookPath, Page>,
) -> Result<Json<CardsPublic>, Problem> {
    app.book(&me, path.book_id, Access::View).await?;
    Ok(Json(list(&app, path.book_id, page).await?))
}

pub(crate) async fn list(app: &App, book_id: Uuid, page: Page) -> Result<CardsPublic, Problem> {
    let (cards, count) = app.store.cards(book_id, page.skip, page.limit).await?;
    let mut runs = last_runs(&app.runs, app.store.last_runs(book_id).await?).await?;
    let mut publications = app.store.publications(book_id).await?;
    let public = cards.into_iter().map(|card| {
        let (run, publication) = (runs.remove(&card.id), publications.remove(&card.id));
        CardPublic::new(card, run).published(&app.publishing, publication)
    });
    Ok(CardsPublic { data: public.collect(), count })
}

/// Adds a card.
#[utoipa::path(
    post,
    path = "/books/{book_id}/cards/",
    tag = "cards",
    operation_id = "cards-create_card",
    params(("book_id" = Uuid, Path)),
    request_body = CardCreate,
    responses(
        (status = 200, body = CardPublic),
        (status = 409, body = crate::problem::ProblemBody, description = "The book has as many cards as it may."),
    )
)]
pub(crate) async fn create_card(
    State(app): State<Arc<App>>,
    me: SignedIn,
    Input { path, body: Body(new), .. }: Input<BookPath, (), Body<CardCreate>>,
) -> Result<Response, Problem> {
    app.book(&me, path.book_id, Access::Edit).await?;
    app.code_fits(&new.code)?;
    let language = match new.kind {
        CardKind::Code => Some(new.language.unwrap_or_else(|| "python".to_owned())),
        CardKind::Markdown => None,
    };
    let card = NewCard {
        kind: new.kind,
        title: new.title,
        language,
        code: new.code,
        settings: new.settings,
    };
    let max = app.settings.max_cards_per_book;
    let card = app.store.add_card(path.book_id, card, new.position, max, Moment::now()).await?;
    Ok(with_etag(CardPublic::new(card, None)))
}

/// A card.
#[utoipa::path(
    get,
    path = "/books/{book_id}/cards/{id}",
    tag = "cards",
    operation_id = "cards-read_card",
    params(("book_id" = Uuid, Path), ("id" = Uuid, Path)),
    responses((status = 200, body = CardPublic))
)]
pub(crate) async fn read_card(
    State(app): State<Arc<App>>,
    me: SignedIn,
    Input { path, .. }: Input<CardPath>,
) -> Result<Response, Problem> {
    app.book(&me, path.book_id, Access::View).await?;
    let card = app.store.card(path.book_id, path.id).await?;
    let card = card.ok_or_else(|| Problem::not_found("Card"))?;
    Ok(with_etag(app.public(card).await?))
}

/// Changes what is set, if the card is at the version of `If-Match` or that is left out.
#[utoipa::path(
    put,
    path = "/books/{book_id}/cards/{id}",
    tag = "cards",
    operation_id = "cards-update_card",
    params(
        ("book_id" = Uuid, Path),
        ("id" = Uuid, Path),
        ("If-Match" = Option<String>, Header, description = "The version that is to be changed, as `\"3\"`")
    ),
    request_body = CardUpdate,
    responses(
        (status = 200, body = CardPublic),
        (status = 412, body = crate::problem::ProblemBody, description = "The card is at another version."),
    )
)]
pub(crate) async fn update_card(
    State(app): State<Arc<App>>,
    me: SignedIn,
    headers: HeaderMap,
    Input { path, body: Body(new), .. }: Input<CardPath, (), Body<CardUpdate>>,
) -> Result<Response, Problem> {
    app.book(&me, path.book_id, Access::Edit).await?;
    let version = if_match(&headers)?;
    let change = new.change(&path, &app)?;
    let (book_id, id, now) = (path.book_id, path.id, Moment::now());
    let card = app.store.change_card(book_id, id, &change, version, now).await?;
    Ok(with_etag(app.public(card).await?))
}

/// Removes a card, if it is at the version of `If-Match` or that is left out. Its runs stay.
#[utoipa::path(
    delete,
    path = "/books/{book_id}/cards/{id}",
    tag = "cards",
    operation_id = "cards-delete_card",
    params(
        ("book_id" = Uuid, Path),
        ("id" = Uuid, Path),
        ("If-Match" = Option<String>, Header, description = "The version that is to be removed, as `\"3\"`")
    ),
    responses(
        (status = 200, body = Message),
        (status = 412, body = crate::problem::ProblemBody, description = "The card is at another version."),
    )
)]
pub(crate) async fn delete_card(
    State(app): State<Arc<App>>,
    me: SignedIn,
    headers: HeaderMap,
    Input { path, .. }: Input<CardPath>,
) -> Result<Json<Message>, Problem> {
    app.book(&me, path.book_id, Access::Edit).await?;
    let version = if_match(&headers)?;
    app.store.delete_card(path.book_id, path.id, version, Moment::now()).await?;
    Ok(Message::new("Card deleted successfully"))
}

/// Puts the cards of a book in another order.
#[utoipa::path(
    post,
    path = "/books/{book_id}/cards/reorder",
    tag = "cards",
    operation_id = "cards-reorder_cards",
    params(("book_id" = Uuid, Path)),
    request_body = CardsReorder,
    responses(
        (status = 200, body = CardsPublic),
        (status = 409, body = crate::problem::ProblemBody, description = "These are not the cards of the book."),
    )
)]
pub(crate) async fn reorder_cards(
    State(app): State<Arc<App>>,
    me: SignedIn,
    Input { path, body: Body(order), .. }: Input<BookPath, (), Body<CardsReorder>>,
) -> Result<Json<CardsPublic>, Problem> {
    app.book(&me, path.book_id, Access::Edit).await?;
    app.store.reorder_cards(path.book_id, &order.ids, Moment::now()).await?;
    let all = Page { skip: 0, limit: i64::from(app.settings.max_cards_per_book) };
    Ok(Json(list(&app, path.book_id, all).await?))
}

impl From<CardError> for Problem {
    fn from(error: CardError) -> Self {
        match error {
            CardError::NotFound => Self::not_found("Card"),
            CardError::OtherVersion(version) => other_version(version),
            CardError::Full => Self::conflict("cards_full", "The book has as many cards as it may"),
            CardError::OtherCards => Self::conflict(
                "other_cards",
                "The list must name every card of the book once; read the cards again",
            ),
            CardError::Store(error) => error.into(),
        }
    }
}

/// 412: somebody changed the card meanwhile.
pub(crate) fn other_version(version: i64) -> Problem {
    Problem::new(
        StatusCode::PRECONDITION_FAILED,
        "version",
        format!("The card was changed meanwhile: it is at version {version}"),
    )
}
