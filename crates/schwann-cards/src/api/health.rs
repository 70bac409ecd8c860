//! Whether the server is well.

use std::sync::Arc;

use axum::{Json, extract::State};

use crate::{app::App, problem::Problem};

/// Whether the server answers.
#[utoipa::path(
    get,
    path = "/utils/health-check/",
    tag = "utils",
    operation_id = "utils-health_check",
    security(()),
    responses((status = 200, body = bool, content_type = "application/json", description = "`true`"))
)]
pub(crate) async fn health_check() -> Json<bool> {
    Json(true)
}

/// Whether the server can do its work: 503 while its database, or the Redis that it shares with others, does not answer.
#[utoipa::path(
    get,
    path = "/utils/ready",
    tag = "utils",
    operation_id = "utils-ready",
    security(()),
    responses((status = 200, body = bool, content_type = "application/json", description = "`true`"))
)]
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Result<Json<bool>, Problem> {
    app.store.ping().await?;
    app.runs.ready().await?;
    Ok(Json(true))
}
