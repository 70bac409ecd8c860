//! Why an object was not transformed or not delivered, and how its caller is told.

use std::{borrow::Cow, error::Error as StdError, io, path::Path};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use schwann::{BodyFailure, BoxError, Error, Fault};
use tracing::{debug, warn};

use crate::Object;

/// Asks the target to send the object again.
pub(crate) const RETRY_REASON: &str = "ais-etl-retry-reason";
pub(crate) const TRANSIENT: &str = "direct-put-transient";

/// Longest text of an answer, in bytes: the target keeps up to 128 of them for each job.
const MAX_DETAIL: usize = 1024;

/// Where it went wrong; also a label of the error counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    /// The request itself.
    Request,
    /// Reading the object.
    Source,
    /// The transform.
    Transform,
    /// Bringing the result to the destination or the next stage.
    Delivery,
    /// The caller left.
    Caller,
}

/// An object that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) stage: Stage,
    pub(crate) status: StatusCode,
    /// What the caller is told, as `{"detail": …}` over HTTP.
    pub(crate) detail: Cow<'static, str>,
    /// Whether the target should send the object again.
    pub(crate) replay: bool,
    /// For the log.
    pub(crate) cause: Option<Error>,
}

impl Failure {
    pub(crate) fn new(
        stage: Stage,
        status: StatusCode,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { stage, status, detail: shortened(detail.into()), replay: false, cause: None }
    }

    /// The request cannot be served as it was sent.
    pub(crate) fn request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Stage::Request, StatusCode::BAD_REQUEST, detail)
    }

    pub(crate) fn pipeline(why: &str) -> Self {
        Self::request(format!("Invalid pipeline header: {why}"))
    }

    /// The file of an object is not there.
    pub(crate) fn file_not_found(stage: Stage, object: &str, file: Option<&Path>) -> Self {
        let file = file.map(|file| file.display().to_string()).unwrap_or_default();
        let detail = format!("Error processing object '{object}': file not found at '{file}'.");
        Self::new(stage, StatusCode::NOT_FOUND, detail)
    }

    /// The source broke off while it was read.
    pub(crate) fn source(failure: &BodyFailure) -> Self {
        let stage =
            if failure.fault == Fault::Disconnected { Stage::Caller } else { Stage::Source };
        Self::new(stage, failure.status, failure.public_message.clone())
    }

    /// What a transform returned. `file` is the object's, if it has one.
    pub(crate) fn transform(object: &Object, file: Option<&Path>, error: Error) -> Self {
        let stage = Stage::Transform;
        let mut failure = match (error.fault(), error.source()) {
            (Fault::Disconnected, _) => {
                Self::new(Stage::Caller, error.status(), "client disconnected")
            }
            (Fault::Server, Some(source)) => match not_found(source) {
                Some(named) => Self::file_not_found(stage, object.path(), named.or(file)),
                None => {
                    let detail = format!("Processing error: {}", chain(source));
                    Self::new(stage, error.status(), detail)
                }
            },
            _ => Self::new(stage, error.status(), error.public_message().to_owned()),
        };
        failure.cause = Some(error);
        failure
    }

    /// For the log, once, where it stops.
    pub(crate) fn log(&self) {
        let Self { stage, status, detail, cause, .. } = self;
        let status = status.as_u16();
        if self.stage == Stage::Caller || self.status.is_client_error() {
            debug!(?stage, status, %detail, ?cause, "object refused");
        } else {
            warn!(?stage, status, %detail, ?cause, "object failed");
        }
    }

    /// As the answer to an HTTP request.
    pub(crate) fn into_error(self) -> Error {
        let body = serde_json::json!({ "detail": self.detail }).to_string();
        let mut answer = Response::new(Bytes::from(body));
        *answer.status_mut() = self.status;
        let json = HeaderValue::from_static("application/json");
        answer.headers_mut().insert(header::CONTENT_TYPE, json);
        if self.replay {
            answer.headers_mut().insert(RETRY_REASON, HeaderValue::from_static(TRANSIENT));
        }
        let error = match self.cause {
            Some(cause) => cause,
            None if self.status.is_client_error() => Error::caller(self.status, self.detail),
            None => Error::busy(self.detail),
        };
        error.with_answer(answer)
    }
}

/// A file that a transform did not find. Returned from one, it becomes the contract's 404.
#[derive(Clone, Debug, thiserror::Error)]
#[error("file not found at '{}'", .0.display())]
pub struct FileNotFound(pub std::path::PathBuf);

impl From<FileNotFound> for Error {
    fn from(error: FileNotFound) -> Self {
        Error::server(error)
    }
}

/// Whether the chain of `error` says that a file is not there, and perhaps which.
fn not_found<'a>(error: &'a (dyn StdError + 'static)) -> Option<Option<&'a Path>> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(FileNotFound(file)) = error.downcast_ref() {
            return Some(Some(file));
        }
        if let Some(io) = error.downcast_ref::<io::Error>() {
            // One that was made of another error passes its kind on, and may know the name.
            let inner = io.get_ref().and_then(|inner| inner.downcast_ref::<FileNotFound>());
            if let Some(FileNotFound(file)) = inner {
                return Some(Some(file));
            }
            if io.kind() == io::ErrorKind::NotFound {
                return Some(None);
            }
        }
        next = error.source();
    }
    None
}

/// An error and what caused it, in one line.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = error.source();
    }
    text
}

pub(crate) fn boxed_chain(error: &BoxError) -> String {
    chain(error.as_ref())
}

fn shortened(text: Cow<'static, str>) -> Cow<'static, str> {
    if text.len() <= MAX_DETAIL {
        return text;
    }
    let end = text.floor_char_boundary(MAX_DETAIL);
    Cow::Owned(format!("{}…", &text[..end]))
}
