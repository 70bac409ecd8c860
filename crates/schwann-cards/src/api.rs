//! The HTTP interface: routes below `/api/v1`, their OpenAPI document, and its page at `/docs`.
//!
//! Paths, shapes and errors are those that users of the FastAPI full-stack template know. A function here has the name that stands
//! in its `operation_id`, after the tag.

mod health;
mod openapi;

use std::sync::Arc;

use axum::{
    Json, Router,
    response::{IntoResponse as _, Response},
    routing::get,
};
use http::{HeaderMap, Method, StatusCode, Uri, header};
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{app::App, page, problem::Problem};

/// Where the interface is.
pub(crate) const PREFIX: &str = "/api/v1";

/// Everything that is served.
pub(crate) fn router(app: Arc<App>) -> Router {
    let (router, document) = documented();
    let document: Arc<str> = text(&document).into();
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
    text(&documented().1)
}

fn text(document: &OpenApi) -> String {
    document.to_pretty_json().expect("a document of ours can be written")
}

fn documented() -> (Router<Arc<App>>, OpenApi) {
    let routes =
        OpenApiRouter::new().routes(routes!(health::health_check)).routes(routes!(health::ready));
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
