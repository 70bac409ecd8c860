//! Every refusal and failure, as the client sees it: `{"detail": …, "code": …}`.

use std::{borrow::Cow, error::Error as StdError, fmt};

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::Value;
use tracing::error;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::store::StoreError;

/// Why a request is not done. Becomes its answer.
///
/// `detail` is for people, `code` for programs: it is stable. Where something here failed, `detail` says only that, with an id that
/// stands in the log beside the reason.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: Detail,
    retry_after: Option<u64>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Detail {
    Text(Cow<'static, str>),
    Faults(Vec<Fault>),
}

/// One thing that is wrong with what was sent, in the form that FastAPI gives it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = ValidationError)]
pub(crate) struct Fault {
    /// What kind of fault, such as `missing` or `int_parsing`.
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    /// Where: `path`, `query` or `body`, and the names and places that lead to it.
    #[schema(value_type = Vec<Value>)]
    pub(crate) loc: Vec<Step>,
    /// For people.
    pub(crate) msg: String,
    /// What was sent there; cut short if it is long.
    pub(crate) input: Value,
    /// The limits that it is beyond.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ctx: Option<Value>,
}

/// One step of the way to a fault.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Step {
    Name(String),
    Place(usize),
}

/// The body of a refusal.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody {
    /// For people.
    detail: String,
    /// For programs: stable.
    code: String,
}

/// The body of a refusal of what was sent: all faults at once.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HTTPValidationError)]
pub(crate) struct FaultsBody {
    detail: Vec<Fault>,
    /// `validation`
    code: String,
}

impl Problem {
    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { status, code, detail: Detail::Text(detail.into()), retry_after: None, source: None }
    }

    /// 404, which is also the answer for what belongs to others.
    pub(crate) fn not_found(what: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("{what} not found"))
    }

    pub(crate) fn bad_request(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    pub(crate) fn forbidden(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, detail)
    }

    pub(crate) fn conflict(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    /// 401: nobody is signed in.
    pub(crate) fn not_authenticated() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "not_authenticated", "Not authenticated")
    }

    /// 429. `seconds` is when it may be tried again.
    pub(crate) fn too_many(
        code: &'static str,
        detail: impl Into<Cow<'static, str>>,
        seconds: u64,
    ) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, code, detail).retry_after(seconds)
    }

    /// 503: something that is needed is not there.
    pub(crate) fn unavailable(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
    }

    /// 507: there is no room on the disk.
    pub(crate) fn storage_full() -> Self {
        let text = "There is no room left to store this; nothing was lost";
        Self::new(StatusCode::INSUFFICIENT_STORAGE, "storage_full", text)
    }

    /// 422, in FastAPI's form.
    pub(crate) fn faults(faults: Vec<Fault>) -> Self {
        Self {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            code: "validation",
            detail: Detail::Faults(faults),
            retry_after: None,
            source: None,
        }
    }

    /// 500. The reason is for the log.
    pub(crate) fn internal(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal server error")
            .because(source)
    }

    /// Adds `Retry-After`, in seconds.
    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds.max(1));
        self
    }

    /// Adds what the log should say.
    pub(crate) fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn code(&self) -> &'static str {
        self.code
    }
}

/// For the log: with what is behind it.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.detail {
            Detail::Text(text) => f.write_str(text)?,
            Detail::Faults(_) => f.write_str(self.code)?,
        }
        match &self.source {
            Some(source) => write!(f, ": {}", chain(&**source)),
            None => Ok(()),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body {
            detail: Detail,
            code: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            error_id: Option<Uuid>,
        }
        let error_id = self.source.as_deref().map(|source| {
            let id = Uuid::new_v4();
            error!(error_id = %id, status = self.status.as_u16(), code = self.code, error = chain(source), "request failed");
            id
        });
        let body = Body { detail: self.detail, code: self.code, error_id };
        let mut response = (self.status, axum::Json(body)).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        headers.insert(
            HeaderName::from_static("x-content-type-options"),
            HeaderValue::from_static("nosniff"),
        );
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        if error.is_full() {
            return Self::storage_full().because(error);
        }
        if error.is_unavailable() {
            return Self::unavailable("store_unavailable", "The database does not answer")
                .retry_after(1)
                .because(error);
        }
        Self::internal(error)
    }
}

/// The text of an error and of what is behind it.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}
