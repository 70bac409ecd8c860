//! Objects over a WebSocket.

use http::StatusCode;
use schwann::{Call, Error, Finished};

use crate::{
    EtlServer,
    failure::{Failure, Stage},
};

/// Serves `GET /ws`.
pub(crate) async fn serve(_server: &EtlServer, _call: Call) -> Result<Finished, Error> {
    let status = StatusCode::NOT_IMPLEMENTED;
    let detail = "WebSocket is not served by this version";
    Err(Failure::new(Stage::Request, status, detail).into_error())
}
