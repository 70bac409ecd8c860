//! Why a request is not served, and what its caller is told.

use std::time::Duration;

use http::StatusCode;
use schwann::Error;

use super::Inner;
use crate::{caller::Verify, python::Value, route::SynapseError};

/// Why a request is not served.
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// Empty for a server's fault, whose caller gets an id instead.
    pub(super) message: String,
    pub(super) source: Option<schwann::BoxError>,
    pub(super) allow: Option<&'static str>,
    pub(super) left: bool,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, message: String) -> Self {
        Self { status, message, source: None, allow: None, left: false }
    }

    pub(super) fn internal(source: impl Into<Source>) -> Self {
        Self {
            source: Some(source.into().0),
            ..Self::new(StatusCode::INTERNAL_SERVER_ERROR, String::new())
        }
    }

    /// 404, worded as the reference words it; which routes there are is told only where the reference must be matched.
    pub(super) fn unknown(axon: &Inner, name: &str) -> Self {
        let name: String = name.chars().take(64).collect();
        let mut text = format!("Synapse name '{name}' not found.");
        if axon.verify == Verify::LikeReference {
            let names: Vec<Value> =
                axon.names.iter().map(|name| Value::Str(name.clone())).collect();
            text += " Available synapses ";
            text += &Value::List(names).py_str();
        }
        Self::new(StatusCode::NOT_FOUND, text)
    }

    pub(super) fn method() -> Self {
        Self {
            allow: Some("POST, GET"),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed".to_owned())
        }
    }

    /// 400, or what the reference makes of it (W17).
    pub(super) fn malformed(verify: Verify, mut message: String) -> Self {
        // It may quote the request, and no request chooses how long its answer is.
        shorten(&mut message, 300);
        match verify {
            Verify::LikeReference => Self::internal(message),
            _ => Self::new(StatusCode::BAD_REQUEST, message),
        }
    }

    pub(super) fn twice(header: &str) -> Self {
        let text = format!("Malformed request: header `{header}` came more than once");
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    pub(super) fn unverified(why: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, format!("Not Verified with error: {why}"))
    }

    pub(super) fn blacklisted(reason: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, format!("Forbidden. Key is blacklisted: {reason}."))
    }

    pub(super) fn crowded() -> Self {
        let text = "Service busy: too many large bodies at a time".to_owned();
        Self::new(StatusCode::SERVICE_UNAVAILABLE, text)
    }

    pub(super) fn late(timeout: Duration) -> Self {
        let seconds = crate::python::float_repr(timeout.as_secs_f64());
        Self::new(StatusCode::REQUEST_TIMEOUT, format!("Response timeout after: {seconds}s"))
    }

    pub(super) fn of(error: SynapseError, timeout: Duration) -> Self {
        let SynapseError { status, message, source } = error;
        match message {
            Some(message) => Self { source, ..Self::new(status, message.into_owned()) },
            None if status == StatusCode::REQUEST_TIMEOUT => Self { source, ..Self::late(timeout) },
            None if status.as_u16() == 499 => {
                Self { source, left: true, ..Self::new(status, String::new()) }
            }
            None => Self { source, ..Self::new(StatusCode::INTERNAL_SERVER_ERROR, String::new()) },
        }
    }

    pub(super) fn of_core(error: Error) -> Self {
        let left = error.fault() == schwann::Fault::Disconnected;
        let message = error.public_message().to_owned();
        Self { left, source: Some(error.into()), ..Self::new(StatusCode::BAD_REQUEST, message) }
            .with_status_of_source()
    }

    pub(super) fn with_status_of_source(mut self) -> Self {
        if let Some(error) = self.source.as_ref().and_then(|error| error.downcast_ref::<Error>()) {
            self.status = error.status();
        }
        self
    }
}

/// The copy of a message that goes into a header: the Python SDK refuses header lines beyond 8,190 bytes, and with them the
/// answer. The body has all of it.
pub(super) fn for_header(mut message: String) -> String {
    shorten(&mut message, 1000);
    message
}

/// Cuts a text to at most so many bytes and three dots.
pub(super) fn shorten(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        let end = (0..=bytes).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
    }
}

/// What a server's fault came from.
pub(super) struct Source(schwann::BoxError);

impl From<&str> for Source {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<String> for Source {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<SynapseError> for Source {
    fn from(error: SynapseError) -> Self {
        let text = error.to_string();
        Self(error.source.unwrap_or_else(|| text.into()))
    }
}

/// An error and its causes, in one line for the log.
pub(super) fn chain(error: &schwann::BoxError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
