//! Why a call failed, as the reference numbers it and as Rust tells it.
//!
//! The Python dendrite writes every failure as a status code and a message into
//! the synapse it returns. [`CallError`] is the same table as an enum:
//! [`status_code`](CallError::status_code) and
//! [`status_message`](CallError::status_message) give what the reference reports,
//! the variant says what happened.

use std::{borrow::Cow, error::Error as StdError, fmt, io, time::Duration};

use crate::{
    headers::HeaderError,
    python::{JsonError, float_repr},
    ss58::Ss58Error,
    synapse::ConvertError,
    target::{Target, TargetError},
    terminal::TerminalInfo,
};

/// Why a call, or a stream after it had begun, failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// That is not a place to call; nothing was sent.
    #[error("not a place to call")]
    Target(#[from] TargetError),
    /// The synapse cannot be written as a request; nothing was sent.
    #[error("the synapse cannot be sent")]
    Ask(#[source] AskError),
    /// The dendrite was closed before or during the call.
    #[error("the dendrite is closed")]
    Closed,
    /// The host name has no address.
    #[error("no address for {address}")]
    Unresolvable {
        /// Host and port as they were to be called.
        address: String,
        /// The route.
        name: String,
        /// What the look-up said.
        source: io::Error,
    },
    /// Nobody answers there, or it is an address that is never dialled
    /// (`0.0.0.0`, `::`, port 0).
    #[error("cannot connect to {address}")]
    Unreachable {
        /// Host and port as they were called.
        address: String,
        /// The route.
        name: String,
        /// What the connection attempt said.
        source: io::Error,
    },
    /// A time limit of the call passed.
    #[error("{phase} took longer than {limit:?}")]
    Timeout {
        /// Which limit.
        phase: Phase,
        /// How long that limit is.
        limit: Duration,
        /// Bytes of the answer's body that had arrived.
        received: u64,
    },
    /// There is no thread for blocking calls.
    #[error("no thread for blocking calls")]
    Thread(#[source] io::Error),
    /// The answer is not HTTP.
    #[error("the answer is not HTTP")]
    Response(#[source] TransportError),
    /// The answer's body is larger than the dendrite takes.
    #[error("the answer is larger than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
    /// The answer, or the stream, was cut.
    #[error("the answer was cut after {received} bytes")]
    Truncated {
        /// Bytes of the body that had arrived.
        received: u64,
        /// How it ended.
        source: TransportError,
    },
    /// The stream had failed before it was finished; that failure was reported then.
    #[error("the stream failed after {received} bytes")]
    Broken {
        /// Bytes of the stream that had arrived.
        received: u64,
    },
    /// The axon closed the connection without an answer.
    #[error("the axon closed the connection without an answer")]
    Disconnected(#[source] TransportError),
    /// The axon answered, and it was no.
    #[error("the axon refused with {}", .0.status)]
    Refused(Box<Refusal>),
    /// The answer is HTTP but not an answer to this call.
    #[error("the answer ({http_status}) cannot be read")]
    Unparsable {
        /// The HTTP status it came with.
        http_status: u16,
        /// What is wrong with it.
        source: AnswerError,
    },
}

/// What an axon said when it refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// The status: 401 not verified, 403 blacklisted, 404 unknown synapse, 429,
    /// 500, 503, …. From the axon's header unless HTTP and header disagree about
    /// success, in which case the one that says failure counts.
    pub status: i64,
    /// The axon's message.
    pub message: Option<String>,
    /// The axon's end, as it described itself. Not authenticated.
    pub axon: TerminalInfo,
    /// From the call to the end of the answer.
    pub took: Duration,
}

/// Why a synapse cannot be written as a request.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// A field's value has no JSON form.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// A required field's name cannot be part of a header name.
    #[error("the field name {0:?} cannot stand in a header")]
    FieldName(String),
    /// v10 knows only sr25519, and the signer is another.
    #[error("the v10 protocol knows only sr25519 signatures")]
    Scheme,
    /// `btauth/1` signs for a receiver, whose hotkey this is not.
    #[error("the axon's hotkey is no ss58 address")]
    Receiver(#[source] Ss58Error),
    /// A value cannot stand in a header.
    #[error("the value of {0} cannot stand in a header")]
    HeaderValue(&'static str),
}

/// What is wrong with an answer.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// It is not labelled as JSON.
    #[error("{http_status}, message='Attempt to decode JSON with unexpected mimetype: {found}'")]
    ContentType {
        /// The HTTP status.
        http_status: u16,
        /// The label, empty if there is none.
        found: String,
    },
    /// It is compressed although no compression was offered.
    #[error("content-encoding {0:?} was not asked for")]
    ContentEncoding(String),
    /// It is not JSON.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// It is JSON, but not an object.
    #[error("argument must be a mapping, not {0}")]
    NotAnObject(&'static str),
    /// Its fields do not fit the synapse.
    #[error(transparent)]
    Fields(#[from] ConvertError),
    /// Its synapse headers cannot be read.
    #[error(transparent)]
    Headers(#[from] HeaderError),
    /// The synapse's own hook could not read it.
    #[error("{0}")]
    Hook(#[source] Box<dyn StdError + Send + Sync>),
}

/// A failure below HTTP's meaning: on the connection, or in its framing.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct TransportError(pub(crate) hyper::Error);

/// A phase of a call that has its own time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Waiting for a lane to the axon, before anything was sent.
    Queue,
    /// Looking up and connecting.
    Connect,
    /// From the request to the head of the answer.
    FirstByte,
    /// From one piece of the answer to the next.
    Idle,
    /// The whole, from connecting to the end of the answer.
    Total,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Queue => "waiting for a lane",
            Phase::Connect => "connecting",
            Phase::FirstByte => "waiting for the answer",
            Phase::Idle => "waiting for the next piece",
            Phase::Total => "the call",
        })
    }
}

impl CallError {
    /// The status code the reference reports for this failure.
    pub fn status_code(&self) -> i64 {
        match self {
            CallError::Unreachable { .. } | CallError::Disconnected(_) => 503,
            CallError::Timeout { .. } => 408,
            CallError::Response(_)
            | CallError::Truncated { .. }
            | CallError::TooLarge { .. }
            | CallError::Broken { .. } => 400,
            CallError::Refused(refusal) => refusal.status,
            CallError::Thread(_) => 500,
            // The reference looks its table up by exact class and sends the rest here.
            CallError::Target(_)
            | CallError::Ask(_)
            | CallError::Closed
            | CallError::Unresolvable { .. }
            | CallError::Unparsable { .. } => 422,
        }
    }

    /// The status message the reference reports. After the colon the words are
    /// ours. `None` if an axon refused without one.
    pub fn status_message(&self) -> Option<Cow<'_, str>> {
        let text = match self {
            CallError::Refused(refusal) => return refusal.message.as_deref().map(Cow::Borrowed),
            CallError::Target(source) => format!("Failed to parse response: {source}"),
            CallError::Ask(source) => format!("Failed to parse response: {source}"),
            CallError::Closed => {
                return Some(Cow::Borrowed("Failed to parse response: Session is closed"));
            }
            CallError::Unresolvable { address, name, .. } => {
                format!("Failed to parse response at {address}/{name}")
            }
            CallError::Unreachable { address, name, .. } => {
                format!("Service unavailable at {address}/{name}")
            }
            CallError::Timeout { limit, .. } => {
                format!("Request timeout after {} seconds", float_repr(limit.as_secs_f64()))
            }
            CallError::Thread(source) => format!("Client error: {source}"),
            CallError::Response(source) => format!("Client response error: {source}"),
            CallError::TooLarge { .. } | CallError::Truncated { .. } | CallError::Broken { .. } => {
                format!("Payload error: {self}")
            }
            CallError::Disconnected(_) => {
                return Some(Cow::Borrowed("Service disconnected: Server disconnected"));
            }
            CallError::Unparsable { source, .. } => format!("Failed to parse response: {source}"),
        };
        Some(Cow::Owned(text))
    }

    /// Whether a time limit passed.
    pub fn is_timeout(&self) -> bool {
        self.status_code() == 408
    }

    /// Whether the axon has this caller on its blacklist.
    pub fn is_blacklisted(&self) -> bool {
        self.status_code() == 403
    }

    /// Whether the axon did not accept the signature or the nonce.
    pub fn is_not_verified(&self) -> bool {
        self.status_code() == 401
    }

    /// The failure of an exchange that ended before an answer's head was there.
    pub(crate) fn before_head(error: hyper::Error) -> Self {
        if error.is_parse() || error.is_user() {
            CallError::Response(TransportError(error))
        } else {
            CallError::Disconnected(TransportError(error))
        }
    }

    /// The failure of an exchange whose body had begun.
    pub(crate) fn in_body(error: hyper::Error, received: u64) -> Self {
        // hyper reports bad framing as invalid input, and an end or a reset as what it is.
        let framing = io_kind(&error).is_some_and(|kind| {
            matches!(kind, io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData)
        });
        if framing {
            CallError::Response(TransportError(error))
        } else {
            CallError::Truncated { received, source: TransportError(error) }
        }
    }

    pub(crate) fn unreachable(target: &Target, name: &str, source: io::Error) -> Self {
        CallError::Unreachable { address: target.authority(), name: name.to_owned(), source }
    }

    pub(crate) fn unresolvable(target: &Target, name: &str, source: io::Error) -> Self {
        CallError::Unresolvable { address: target.authority(), name: name.to_owned(), source }
    }
}

impl TransportError {
    /// The kind of the input or output error below, if there is one.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        io_kind(&self.0)
    }
}

fn io_kind(error: &hyper::Error) -> Option<io::ErrorKind> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        source = error.source();
    }
    None
}
