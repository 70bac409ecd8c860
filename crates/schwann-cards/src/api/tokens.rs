//! API tokens of a user.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    response::{IntoResponse as _, Response},
};
use http::{HeaderValue, header};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    api::{IdPath, Message},
    app::App,
    input::{Complaint, Fields, Input, Json as Body, Page, Read, choice, integer, text},
    moment::Moment,
    password::{random_secret, token_hash},
    problem::Problem,
    signed_in::LoggedIn,
    store::{Scope, Token, TokenKind},
};

/// An API token, without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenPublic {
    id: Uuid,
    name: String,
    scopes: Vec<Scope>,
    created_at: Moment,
    expires_at: Option<Moment>,
    /// To the minute.
    last_used_at: Option<Moment>,
}

/// An API token just made. The secret is shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenCreated {
    /// Begins with `cc_`.
    token: String,
    #[serde(flatten)]
    public: TokenPublic,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokensPublic {
    data: Vec<TokenPublic>,
    /// Of all, not only of these.
    count: i64,
}

#[derive(Debug, ToSchema)]
pub(crate) struct TokenCreate {
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    /// All, if left out.
    #[schema(required = false, min_items = 1)]
    scopes: Vec<Scope>,
    /// How long it is good. For ever, if left out.
    #[schema(minimum = 1, maximum = 3650)]
    expires_in_days: Option<i64>,
}

const SCOPES: &[(&str, Scope)] =
    &[("read", Scope::Read), ("run", Scope::Run), ("write", Scope::Write)];

impl Read for TokenCreate {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let name = fields.required("name", text(1, 100));
        let scopes = fields.list("scopes", 10, choice(SCOPES));
        let expires_in_days = fields.optional("expires_in_days", integer(1, 3650));
        if let Some(Some(scopes)) = &scopes
            && scopes.is_empty()
        {
            fields.refuse("scopes", Complaint::value("a token without a scope can do nothing"));
        }
        Some(Self {
            name: name?,
            scopes: scopes?.unwrap_or_else(|| SCOPES.iter().map(|(_, scope)| *scope).collect()),
            expires_in_days: expires_in_days?,
        })
    }
}

impl From<Token> for TokenPublic {
    fn from(token: Token) -> Self {
        Self {
            id: token.id,
            name: token.name,
            scopes: token.scopes.list(),
            created_at: token.created_at,
            expires_at: token.expires_at,
            last_used_at: token.last_used_at,
        }
    }
}

/// One's API tokens, newest first.
#[utoipa::path(
    get,
    path = "/users/me/tokens/",
    tag = "tokens",
    operation_id = "tokens-read_tokens",
    params(Page),
    responses((status = 200, body = TokensPublic))
)]
pub(crate) async fn read_tokens(
    State(app): State<Arc<App>>,
    LoggedIn(me): LoggedIn,
    Input { query: page, .. }: Input<(), Page>,
) -> Result<Json<TokensPublic>, Problem> {
    let (tokens, count) = app.store.api_tokens(me.user.id, page.skip, page.limit).await?;
    Ok(Json(TokensPublic { data: tokens.into_iter().map(Into::into).collect(), count }))
}

/// Makes an API token. Its secret is in this answer and nowhere else.
#[utoipa::path(
    post,
    path = "/users/me/tokens/",
    tag = "tokens",
    operation_id = "tokens-create_token",
    request_body = TokenCreate,
    responses(
        (status = 200, body = TokenCreated),
        (status = 409, body = crate::problem::ProblemBody, description = "There are as many tokens as may be."),
    )
)]
pub(crate) async fn create_token(
    State(app): State<Arc<App>>,
    LoggedIn(me): LoggedIn,
    Input { body: Body(new), .. }: Input<(), (), Body<TokenCreate>>,
) -> Result<Response, Problem> {
    let secret = random_secret("cc_").map_err(Problem::internal)?;
    let now = Moment::now();
    let days = |days: i64| Duration::from_secs(days.unsigned_abs() * 24 * 3600);
    let token = Token {
        id: Uuid::new_v4(),
        user_id: me.user.id,
        kind: TokenKind::Api,
        name: new.name,
        scopes: new.scopes.into_iter().collect(),
        created_at: now,
        expires_at: new.expires_in_days.map(|count| now.after(days(count))),
        last_used_at: None,
    };
    if !app.store.add_token(&token, &token_hash(&secret)).await? {
        return Err(Problem::conflict("tokens_full", "You have as many API tokens as you may"));
    }
    let created = TokenCreated { token: secret, public: token.into() };
    let no_store = HeaderValue::from_static("no-store");
    Ok(([(header::CACHE_CONTROL, no_store)], Json(created)).into_response())
}

/// Ends an API token.
#[utoipa::path(
    delete,
    path = "/users/me/tokens/{id}",
    tag = "tokens",
    operation_id = "tokens-delete_token",
    params(("id" = Uuid, Path)),
    responses((status = 200, body = Message))
)]
pub(crate) async fn delete_token(
    State(app): State<Arc<App>>,
    LoggedIn(me): LoggedIn,
    Input { path, .. }: Input<IdPath>,
) -> Result<Json<Message>, Problem> {
    match app.store.delete_token(me.user.id, path.id).await? {
        true => Ok(Message::new("Token deleted successfully")),
        false => Err(Problem::not_found("Token")),
    }
}
