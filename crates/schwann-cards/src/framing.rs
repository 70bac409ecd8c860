//! Records as the client asked for them: plain text, a JSON object a line, or
//! server-sent events.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio::time::Instant;

use crate::{
    reader::Reader,
    record::{Entry, Exit, Of, Record},
    run_log::LogError,
};

/// Silence after which an idle connection is shown to be alive. Proxies cut at
/// 60 seconds, some at 30.
pub const HEARTBEAT: Duration = Duration::from_secs(15);

/// A piece of a body is sent when it is this long, or when there is no more.
/// For a client that stands still, hyper holds some five of them.
pub(crate) const PIECE: usize = 4 * 1024;

/// How records are written to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Standard output and standard error as they came, and nothing else.
    Text {
        /// One more line at the end, saying how the run ended.
        footer: bool,
    },
    /// A JSON object and a newline for each record.
    Lines,
    /// Server-sent events (WHATWG HTML, section 9.2) whose ids are the records'.
    Events,
}

impl Framing {
    /// What an `Accept` header asks for (RFC 9110, section 12.5.1): the first
    /// of the highest weight. Plain text if there is none, or if all is accepted.
    pub fn negotiate(headers: &HeaderMap, footer: bool) -> Option<Self> {
        let text = Self::Text { footer };
        let mut best: Option<(u16, Self)> = None;
        let mut any = false;
        for value in headers.get_all(header::ACCEPT) {
            for range in value.to_str().ok()?.split(',').filter(|range| !range.trim().is_empty()) {
                any = true;
                let mut parts = range.split(';').map(str::trim);
                let framing = match parts.next()?.to_ascii_lowercase().as_str() {
                    "text/plain" | "text/*" | "*/*" => text,
                    "application/x-ndjson"
                    | "application/ndjson"
                    | "application/jsonl"
                    | "application/x-jsonlines" => Self::Lines,
                    "text/event-stream" => Self::Events,
                    _ => continue,
                };
                let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(1000, weight);
                if weight > best.map_or(0, |(best, _)| best) {
                    best = Some((weight, framing));
                }
            }
        }
        if any { best.map(|(_, framing)| framing) } else { Some(text) }
    }

    /// The body's media type.
    pub fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Text { .. } => "text/plain; charset=utf-8",
            Self::Lines => "application/x-ndjson",
            Self::Events => "text/event-stream",
        })
    }

    /// The headers of a stream that nothing on its way may hold back or keep.
    pub fn headers(self) -> [(HeaderName, HeaderValue); 4] {
        [
            (header::CONTENT_TYPE, self.content_type()),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
            (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
        ]
    }

    /// What is sent before any record: how soon to reconnect, and whether the
    /// client has to forget what it has.
    pub fn opening(self, reset: bool) -> Bytes {
        const RESET: &str = r#"{"type":"reset","reason":"cursor"}"#;
        match (self, reset) {
            (Self::Events, false) => "retry: 1000\n\n".into(),
            (Self::Events, true) => format!("retry: 1000\nevent: reset\ndata: {RESET}\n\n").into(),
            (Self::Lines, true) => format!("{RESET}\n").into(),
            _ => Bytes::new(),
        }
    }

    /// All that is sent where nothing is kept: the client has to live with what it has.
    pub fn expired(self) -> Bytes {
        const RESET: &str = r#"{"type":"reset","reason":"expired"}"#;
        match self {
            Self::Events => format!("event: reset\ndata: {RESET}\n\n").into(),
            Self::Lines => format!("{RESET}\n").into(),
            Self::Text { .. } => Bytes::new(),
        }
    }

    /// What is sent in silence; empty where the framing has nothing for it.
    pub fn heartbeat(self) -> &'static [u8] {
        match self {
            Self::Text { .. } => b"",
            Self::Lines => b"{\"type\":\"heartbeat\"}\n",
            Self::Events => b":\n\n",
        }
    }

    /// Appends one record.
    pub fn write(self, entry: &Entry, of: Option<&Of>, out: &mut Vec<u8>) {
        match self {
            Self::Text { footer } => match &entry.record {
                Record::Output(_, data) => out.extend_from_slice(data),
                Record::Exit(exit) if footer => out.extend_from_slice(line(exit).as_bytes()),
                _ => {}
            },
            Self::Lines => {
                entry.write_json(of, out);
                out.push(b'\n');
            }
            Self::Events => {
                let head = format!("id: {}\nevent: {}\ndata: ", entry.seq, entry.kind());
                out.extend_from_slice(head.as_bytes());
                // JSON has no newline within, so it is one line of data.
                entry.write_json(of, out);
                out.extend_from_slice(b"\n\n");
            }
        }
    }
}

/// A weight in thousandths; one that cannot be read counts as none.
fn weight(text: &str) -> u16 {
    let weight: f32 = text.trim().parse().unwrap_or(0.0);
    (weight.clamp(0.0, 1.0) * 1000.0) as u16
}

/// The last line of a text with a footer.
fn line(exit: &Exit) -> String {
    let seconds = exit.elapsed_ms as f64 / 1000.0;
    let how = match (exit.code, exit.signal) {
        (Some(code), _) => format!(" {code}"),
        (None, Some(signal)) => format!(" {signal}"),
        (None, None) => String::new(),
    };
    format!("\n[{}{how}, {seconds:.3} s]\n", exit.reason.as_str())
}

/// The cursor of a request: `Last-Event-ID`, or else `after`.
///
/// # Errors
///
/// Gives back what is no cursor.
pub fn cursor(headers: &HeaderMap, after: Option<u64>) -> Result<u64, String> {
    match headers.get("last-event-id") {
        Some(value) if !value.is_empty() => {
            let text = String::from_utf8_lossy(value.as_bytes());
            text.parse().map_err(|_| text.into_owned())
        }
        _ => Ok(after.unwrap_or(0)),
    }
}

/// A run's records as a response body.
#[derive(Debug)]
pub struct Stream {
    reader: Reader,
    framing: Framing,
    of: Option<Of>,
    opening: Bytes,
    /// When the client last got something.
    last: Instant,
}

impl Stream {
    /// Writes what `reader` gives.
    pub fn new(reader: Reader, framing: Framing) -> Self {
        let opening = framing.opening(reader.is_reset());
        Self { reader, framing, of: None, opening, last: Instant::now() }
    }

    /// Adds the run's and the card's id to each record.
    #[must_use]
    pub fn of(mut self, of: Of) -> Self {
        self.of = Some(of);
        self
    }

    /// For a body that has begun.
    #[must_use]
    pub fn without_opening(mut self) -> Self {
        self.opening = Bytes::new();
        self
    }

    /// The next piece of the body; none at its end.
    ///
    /// # Errors
    ///
    /// As [`Reader::next`]: the body must not look whole then.
    ///
    /// # Cancel safety
    ///
    /// Safe: nothing is lost.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, LogError> {
        if !self.opening.is_empty() {
            self.last = Instant::now();
            return Ok(Some(std::mem::take(&mut self.opening)));
        }
        loop {
            let beat = async {
                if self.framing.heartbeat().is_empty() {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep_until(self.last + HEARTBEAT).await;
            };
            let entries = tokio::select! {
                biased;
                entries = self.reader.next() => entries?,
                () = beat => {
                    self.last = Instant::now();
                    return Ok(Some(Bytes::from_static(self.framing.heartbeat())));
                }
            };
            let Some(entries) = entries else { return Ok(None) };
            let mut out = Vec::new();
            for entry in entries {
                self.framing.write(&entry, self.of.as_ref(), &mut out);
                if out.len() >= PIECE {
                    break;
                }
            }
            if !out.is_empty() {
                out.shrink_to_fit();
                self.last = Instant::now();
                return Ok(Some(out.into()));
            }
        }
    }

    /// The body of a response. If the log fails, so does the body.
    pub fn into_body(self) -> Body {
        Body::from_stream(stream::try_unfold(self, |mut stream| async move {
            Ok::<_, LogError>(stream.piece().await?.map(|piece| (piece, stream)))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn accepts(accept: &'static str, expected: Option<Framing>) {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        assert_eq!(Framing::negotiate(&headers, false), expected, "{accept}");
    }

    #[test]
    fn the_client_chooses_the_framing() {
        let text = Framing::Text { footer: false };
        assert_eq!(Framing::negotiate(&HeaderMap::new(), false), Some(text));
        accepts("*/*", Some(text));
        accepts("text/plain", Some(text));
        accepts("Application/X-NDJSON", Some(Framing::Lines));
        accepts("application/jsonl", Some(Framing::Lines));
        accepts("text/event-stream", Some(Framing::Events));
        accepts("text/event-stream, */*;q=0.1", Some(Framing::Events));
        accepts("text/plain;q=0.5, application/x-ndjson;q=0.9", Some(Framing::Lines));
        accepts("image/png, */*;q=0.8", Some(text));
        accepts("image/png", None);
        accepts("text/event-stream;q=0", None);
    }

    #[test]
    fn a_cursor_is_a_number_and_the_header_rules() {
        let mut headers = HeaderMap::new();
        assert_eq!(cursor(&headers, None), Ok(0));
        assert_eq!(cursor(&headers, Some(4)), Ok(4));
        headers.insert("last-event-id", HeaderValue::from_static("7"));
        assert_eq!(cursor(&headers, Some(4)), Ok(7));
        headers.insert("last-event-id", HeaderValue::from_static("7x"));
        assert_eq!(cursor(&headers, None), Err("7x".into()));
        headers.insert("last-event-id", HeaderValue::from_static("-1"));
        assert_eq!(cursor(&headers, None), Err("-1".into()));
    }

    #[test]
    fn the_footer_says_how_it_ended() {
        use crate::record::Reason;
        let exit = Exit { code: Some(3), elapsed_ms: 3151, ..Exit::without_program(Reason::Exit) };
        assert_eq!(line(&exit), "\n[exit 3, 3.151 s]\n");
        assert_eq!(line(&Exit::without_program(Reason::Timeout)), "\n[timeout, 0.000 s]\n");
    }
}
