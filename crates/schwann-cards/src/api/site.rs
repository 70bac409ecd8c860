//! What a client may know before anybody is signed in.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use super::publications::FacePublic;
use crate::app::App;

/// What this server is like.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SitePublic {
    /// Whether people may sign up.
    signup: bool,
    /// Largest code of a card, in bytes.
    max_code_bytes: u64,
    /// Largest request body, in bytes.
    max_body_bytes: u64,
    version: &'static str,
    /// What holds programs, such as `bubblewrap`, or `none` if the operator turned it off. Null if nothing can, and so none runs.
    #[schema(example = "bubblewrap")]
    sandbox: Option<String>,
    /// As what cards can be published here.
    faces: Vec<FacePublic>,
    /// Whether a card whose setting `axon` is true can call the axon beside this application.
    axon: bool,
}

/// What this server is like, for anybody.
#[utoipa::path(
    get,
    path = "/utils/site",
    tag = "utils",
    operation_id = "utils-read_site",
    security(()),
    responses((status = 200, body = SitePublic))
)]
pub(crate) async fn read_site(State(app): State<Arc<App>>) -> Json<SitePublic> {
    Json(SitePublic {
        signup: app.settings.signup,
        max_code_bytes: app.settings.max_code.bytes(),
        max_body_bytes: app.settings.max_body.bytes(),
        version: env!("CARGO_PKG_VERSION"),
        sandbox: app.runs.sandbox().ok().map(str::to_owned),
        faces: FacePublic::all(&app.publishing),
        axon: app.runs.outlet().is_ok(),
    })
}
