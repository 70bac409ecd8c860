//! The HTTP interface: routes below `/api/v1`, their OpenAPI document, and its page at `/docs`.
//!
//! Paths, shapes and errors are those that users of the FastAPI full-stack template know. A function here has the name that stands
//! in its `operation_id`, after the tag.

pub(crate) mod books;
mod cards;
mod events;
mod health;
mod login;
mod notebooks;
mod openapi;
mod publications;
mod run_shapes;
mod run_start;
mod run_streams;
mod runs;
mod shares;
mod site;
mod tokens;
mod users;

use std::sync::Arc;

use axum::{
    Json, Router,
    response::{IntoResponse as _, Response},
    routing::get,
};
use http::{HeaderMap, Method, StatusCode, Uri, header};
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::{
    app::App,
    input::{Fields, Read, id, text},
    page,
    problem::Problem,
};

/// Where the interface is.
pub(crate) const PREFIX: &str = "/api/v1";

/// Everything that is served.
pub(crate) fn router(app: Arc<App>) -> Router {
    let (router, document) = documented();
    let document: Arc<str> = written(&document).into();
    let json = move || async move {
        ([(header::CONTENT_TYPE, "application/json")], document.to_string()).into_response()
    };
    router
        .route("/api/v1/openapi.json", get(json))
        .merge(openapi::swagger())
        .fallback(otherwise)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(app)
}

/// The OpenAPI document, as JSON.
pub(crate) fn openapi_text() -> String {
    written(&documented().1)
}

fn written(document: &OpenApi) -> String {
    document.to_pretty_json().expect("a document of ours can be written")
}

fn documented() -> (Router<Arc<App>>, OpenApi) {
    let routes = OpenApiRouter::new()
        .routes(routes!(health::health_check))
        .routes(routes!(health::ready))
        .routes(routes!(site::read_site))
        .routes(routes!(login::login_access_token))
        .routes(routes!(login::test_token))
        .routes(routes!(login::logout))
        .routes(routes!(users::read_users, users::create_user))
        .routes(routes!(users::register_user))
        .routes(routes!(users::read_user_me, users::update_user_me, users::delete_user_me))
        .routes(routes!(users::update_password_me))
        .routes(routes!(users::read_user_by_id, users::update_user, users::delete_user))
        .routes(routes!(tokens::read_tokens, tokens::create_token))
        .routes(routes!(tokens::delete_token))
        .routes(routes!(books::read_books, books::create_book))
        .routes(routes!(notebooks::import_book))
        .routes(routes!(notebooks::export_book))
        .routes(routes!(books::read_book, books::update_book, books::delete_book))
        .routes(routes!(cards::read_cards, cards::create_card))
        .routes(routes!(cards::reorder_cards))
        .routes(routes!(cards::read_card, cards::update_card, cards::delete_card))
        .routes(routes!(
            publications::read_publication,
            publications::publish_card,
            publications::unpublish_card
        ))
        .routes(routes!(shares::read_shares, shares::create_share))
        .routes(routes!(shares::delete_share))
        .routes(routes!(shares::read_shared_book))
        .merge(runs::routes())
        .merge(events::routes());
    let (router, mut document) =
        OpenApiRouter::with_openapi(openapi::base()).nest(PREFIX, routes).split_for_parts();
    openapi::complete(&mut document);
    (router, document)
}

/// What no route is for: the page, if that is what is asked for.
async fn otherwise(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    page::answer(&method, uri.path(), &headers).unwrap_or_else(|| {
        Problem::new(StatusCode::NOT_FOUND, "not_found", "Not Found").into_response()
    })
}

async fn method_not_allowed() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method Not Allowed")
}

/// `{"message": …}`: what is answered where there is nothing else to say.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(crate) struct Message {
    pub(crate) message: String,
}

impl Message {
    pub(crate) fn new(message: impl Into<String>) -> Json<Self> {
        Json(Self { message: message.into() })
    }
}

/// What stands in a path.
macro_rules! path {
    ($name:ident { $($field:ident: $type:ty = $read:expr),+ }) => {
        #[derive(Clone, Debug)]
        pub(crate) struct $name {
            $(pub(crate) $field: $type,)+
        }

        impl Read for $name {
            fn read(fields: &mut Fields<'_>) -> Option<Self> {
                $(let $field = fields.required(stringify!($field), $read);)+
                Some(Self { $($field: $field?,)+ })
            }
        }
    };
}

path!(IdPath { id: Uuid = id });
path!(UserPath { user_id: Uuid = id });
path!(BookPath { book_id: Uuid = id });
path!(CardPath { book_id: Uuid = id, id: Uuid = id });
path!(SharePath { book_id: Uuid = id, share_id: Uuid = id });
path!(SlugPath { slug: String = text(1, 100) });
