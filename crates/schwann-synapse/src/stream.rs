//! A streaming call: pieces as they arrive, then the filled synapse.

use std::{collections::VecDeque, error::Error as StdError, fmt, sync::Arc};

use bytes::Bytes;
use http::HeaderMap;

use crate::{
    answer::{Answer, refusal, streamed},
    ask::Asked,
    call_error::{AnswerError, CallError},
    dendrite::{CallOptions, Shared},
    exchange::{Exchange, exchange},
    python::{Dict, Value},
    synapse::Ask,
    target::Target,
};

/// A boxed error of a hook.
pub type HookError = Box<dyn StdError + Send + Sync>;

/// What a streaming synapse does with what arrives: the reference's
/// `process_streaming_response` and `extract_response_json`.
///
/// The defaults pass bytes on as they come and add no field.
pub trait StreamHooks: Send + 'static {
    /// Takes bytes as they arrived and pushes the pieces that are complete.
    /// Boundaries of `arrived` mean nothing: they may lie within a character.
    ///
    /// # Errors
    ///
    /// A failure ends the stream as [`CallError::Unparsable`].
    fn process(&mut self, arrived: Bytes, pieces: &mut VecDeque<Bytes>) -> Result<(), HookError> {
        pieces.push_back(arrived);
        Ok(())
    }

    /// The stream ended whole: pushes what was held back.
    ///
    /// # Errors
    ///
    /// As for [`process`](Self::process).
    fn end(&mut self, pieces: &mut VecDeque<Bytes>) -> Result<(), HookError> {
        let _ = pieces;
        Ok(())
    }

    /// Own fields to lay over those of the request, after the end.
    ///
    /// # Errors
    ///
    /// As for [`process`](Self::process).
    fn extract(&mut self, head: &AnswerHead<'_>) -> Result<Dict, HookError> {
        let _ = head;
        Ok(Dict::default())
    }
}

/// Status and headers of an answer, for [`StreamHooks::extract`].
#[derive(Clone, Copy, Debug)]
pub struct AnswerHead<'a> {
    status: u16,
    headers: &'a HeaderMap,
}

impl<'a> AnswerHead<'a> {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// A header's value by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers.get(name).map(http::HeaderValue::as_bytes)
    }

    /// All headers, names in lower case.
    pub fn raw_headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()))
    }
}

/// The hooks of a stream that has none: bytes as they come.
#[derive(Clone, Copy, Debug, Default)]
pub struct AsItComes;

impl StreamHooks for AsItComes {}

/// Collects the whole stream as text into one field of the synapse.
///
/// Bytes that are not UTF-8 become U+FFFD, as in most synapses' own hooks, but a
/// character split over two chunks stays whole.
#[derive(Clone, Debug)]
pub struct CollectText {
    field: String,
    text: String,
    held: Utf8,
}

impl CollectText {
    /// Collects into `field`.
    pub fn into_field(field: impl Into<String>) -> Self {
        Self { field: field.into(), text: String::new(), held: Utf8::default() }
    }
}

impl StreamHooks for CollectText {
    fn process(&mut self, arrived: Bytes, pieces: &mut VecDeque<Bytes>) -> Result<(), HookError> {
        self.held.push(&arrived, &mut self.text);
        pieces.push_back(arrived);
        Ok(())
    }

    fn end(&mut self, _: &mut VecDeque<Bytes>) -> Result<(), HookError> {
        self.held.end(&mut self.text);
        Ok(())
    }

    fn extract(&mut self, _: &AnswerHead<'_>) -> Result<Dict, HookError> {
        let text = std::mem::take(&mut self.text);
        Ok([(self.field.clone(), Value::Str(text))].into_iter().collect())
    }
}

/// Cuts the stream into lines, each with its `\n`; the last may lack it.
///
/// For JSON lines and server-sent events, whose meaning is per line.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    begun: Vec<u8>,
}

impl StreamHooks for Lines {
    fn process(&mut self, arrived: Bytes, pieces: &mut VecDeque<Bytes>) -> Result<(), HookError> {
        let mut rest = arrived;
        while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
            let line = rest.split_to(at + 1);
            if self.begun.is_empty() {
                pieces.push_back(line);
            } else {
                self.begun.extend_from_slice(&line);
                pieces.push_back(std::mem::take(&mut self.begun).into());
            }
        }
        // Bounded by the limit of the answer.
        self.begun.extend_from_slice(&rest);
        Ok(())
    }

    fn end(&mut self, pieces: &mut VecDeque<Bytes>) -> Result<(), HookError> {
        if !self.begun.is_empty() {
            pieces.push_back(std::mem::take(&mut self.begun).into());
        }
        Ok(())
    }
}

/// A streaming answer whose head has arrived and said 200.
///
/// Dropping it gives the call up and closes its connection, by which the axon
/// learns that nobody listens.
pub struct AnswerStream<S> {
    exchange: Exchange,
    asked: Arc<Asked<S>>,
    options: CallOptions,
    hooks: Box<dyn StreamHooks>,
    pieces: VecDeque<Bytes>,
    text: Utf8,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Ended,
    Failed,
}

pub(crate) async fn stream<S: Ask>(
    shared: &Arc<Shared>,
    target: &Target,
    asked: Arc<Asked<S>>,
    options: CallOptions,
    hooks: Box<dyn StreamHooks>,
) -> Result<AnswerStream<S>, CallError> {
    let mut exchange = exchange(shared, target, &asked, &options).await?;
    if let Err(error) = refusal(&mut exchange, &options).await {
        exchange.failed(&error);
        if let Some(connection) = exchange.body.reusable() {
            shared.pool.keep(connection);
        }
        return Err(error);
    }
    let (pieces, text) = (VecDeque::new(), Utf8::default());
    Ok(AnswerStream { exchange, asked, options, hooks, pieces, text, state: State::Open })
}

impl<S: Ask> AnswerStream<S> {
    /// The next piece: bytes as they arrived, or what the hooks make of them.
    /// `None` when the stream ended whole, and from then on.
    ///
    /// # Errors
    ///
    /// Fails if the stream was cut ([`CallError::Truncated`], with the bytes that
    /// came), if a time limit passed, or if the dendrite was closed. After a
    /// failure there is nothing more: the next piece is `None`, but
    /// [`finish`](Self::finish) does not give an answer.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before completing, no piece is lost.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, CallError> {
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                return Ok(Some(piece));
            }
            if self.state != State::Open {
                return Ok(None);
            }
            let hooked = match self.exchange.body.next().await {
                Ok(Some(arrived)) => self.hooks.process(arrived, &mut self.pieces),
                Ok(None) => {
                    self.state = State::Ended;
                    self.hooks.end(&mut self.pieces)
                }
                Err(error) => return Err(self.fail(error)),
            };
            if let Err(source) = hooked {
                let error = self.exchange.unparsable(AnswerError::Hook(source));
                return Err(self.fail(error));
            }
        }
    }

    /// The next piece as text. A character that is not yet whole is held back
    /// (up to 3 bytes); bytes that cannot become one are U+FFFD.
    ///
    /// # Errors
    ///
    /// As for [`chunk`](Self::chunk).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before completing, no text is lost.
    pub async fn text_chunk(&mut self) -> Result<Option<String>, CallError> {
        let mut text = String::new();
        while let Some(piece) = self.chunk().await? {
            self.text.push(&piece, &mut text);
            if !text.is_empty() {
                return Ok(Some(text));
            }
        }
        self.text.end(&mut text);
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    /// Reads what is left and gives the filled synapse.
    ///
    /// # Errors
    ///
    /// Fails as [`chunk`](Self::chunk), also if it failed before: a stream that
    /// was cut has no answer.
    pub async fn finish(mut self) -> Result<Answer<S>, CallError> {
        while self.chunk().await?.is_some() {}
        if self.state == State::Failed {
            let received = self.received();
            return Err(CallError::Broken { received });
        }
        let head =
            AnswerHead { status: self.exchange.status.as_u16(), headers: &self.exchange.headers };
        let extracted = self.hooks.extract(&head);
        let extracted =
            extracted.map_err(|source| self.exchange.unparsable(AnswerError::Hook(source)));
        let answer = extracted
            .and_then(|fields| streamed(&self.exchange, &self.asked, &self.options, fields));
        match &answer {
            Ok(answer) => self.exchange.succeeded(&answer.axon, &answer.dendrite),
            Err(error) => self.exchange.failed(error),
        }
        // The connection is not used again: axons have been seen to end a stream twice,
        // and the second end would be read as the next answer's beginning.
        answer
    }

    /// Bytes of the stream that have arrived so far.
    pub fn received(&self) -> u64 {
        self.exchange.body.received()
    }

    fn fail(&mut self, error: CallError) -> CallError {
        self.state = State::Failed;
        self.pieces.clear();
        self.exchange.failed(&error);
        error
    }
}

impl<S> fmt::Debug for AnswerStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerStream")
            .field("received", &self.exchange.body.received())
            .field("state", &self.state)
            .finish()
    }
}

/// Bytes to text, however they are cut: up to 3 bytes of an unfinished
/// character are held back.
#[derive(Clone, Debug, Default)]
pub struct Utf8 {
    held: Vec<u8>,
}

impl Utf8 {
    /// Appends what is whole in `bytes` to `text`. What cannot become a character
    /// is U+FFFD.
    pub fn push(&mut self, bytes: &[u8], text: &mut String) {
        let joined;
        let mut rest = if self.held.is_empty() {
            bytes
        } else {
            self.held.extend_from_slice(bytes);
            joined = std::mem::take(&mut self.held);
            &joined[..]
        };
        loop {
            match std::str::from_utf8(rest) {
                Ok(whole) => return text.push_str(whole),
                Err(error) => {
                    let (whole, after) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(whole).expect("valid up to here"));
                    let Some(bad) = error.error_len() else {
                        // Unfinished, not wrong: at most 3 bytes.
                        self.held = after.to_vec();
                        return;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &after[bad..];
                }
            }
        }
    }

    /// Nothing follows: what is held back can no longer become a character.
    pub fn end(&mut self, text: &mut String) {
        if !std::mem::take(&mut self.held).is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&str]) -> Vec<String> {
        let (mut lines, mut pieces) = (Lines::default(), VecDeque::new());
        for chunk in chunks {
            lines.process(Bytes::copy_from_slice(chunk.as_bytes()), &mut pieces).unwrap();
        }
        lines.end(&mut pieces).unwrap();
        pieces.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect()
    }

    #[test]
    fn lines_are_whole_however_they_are_cut() {
        assert_eq!(lines(&["a\nb\n"]), ["a\n", "b\n"]);
        assert_eq!(lines(&["a", "b\nc", "", "\n\nd"]), ["ab\n", "c\n", "\n", "d"]);
        assert!(lines(&[]).is_empty());
    }

    #[test]
    fn text_is_the_same_however_it_is_cut() {
        let source = "aé€😀\u{fffd}z"
            .as_bytes()
            .iter()
            .copied()
            .chain(*b"\xff\xe2\x82!\xf0\x9f")
            .collect::<Vec<_>>();
        let expected = String::from_utf8_lossy(&source).into_owned();
        for step in 1..=source.len() {
            let (mut utf8, mut text) = (Utf8::default(), String::new());
            for chunk in source.chunks(step) {
                utf8.push(chunk, &mut text);
                assert!(utf8.held.len() <= 3, "held {:?}", utf8.held);
            }
            utf8.end(&mut text);
            assert_eq!(text, expected, "in steps of {step}");
        }
    }
}
