//! Answers: their heads, their bodies, and the streams that handlers write.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use schwann::{Error, Finished, Reply, ReplyStream};
use tokio::time::Instant;

use super::{pipeline::Tally, refusal::for_header};
use crate::{
    caller::Protocol,
    hash::BodyHash,
    headers::{self, HeaderParts, Known, SynapseHeaders},
    python::{Dict, Int, NotJson},
    synapse::Envelope,
    terminal::TerminalInfo,
};

/// What an answer says besides its body.
pub(super) struct Face {
    pub(super) name: String,
    pub(super) axon: TerminalInfo,
    pub(super) headers: Arc<SynapseHeaders>,
    pub(super) protocol: Protocol,
    pub(super) timeout: Option<f64>,
    pub(super) hash: BodyHash,
}

impl Face {
    /// The head and the body of an answer that is not streamed (specification §9.1).
    pub(super) fn whole(
        mut self,
        status: StatusCode,
        message: &str,
        took: f64,
        fields: Dict,
        envelope: &Envelope,
    ) -> Result<(Response<()>, Bytes), NotJson> {
        self.axon.status_code = Some(i64::from(status.as_u16()));
        self.axon.status_message = Some(message.to_owned());
        self.axon.process_time = Some(took);
        let body = match self.protocol {
            Protocol::V10 => {
                envelope.write_json(&self.name, &self.headers.dendrite, &self.axon, fields)?
            }
            Protocol::BtAuth1 => fields.to_json()?,
        };
        self.axon.status_message = self.axon.status_message.map(for_header);
        let mut response = Response::new(());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.reserve(20);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.write(body.len(), headers);
        Ok((response, Bytes::from(body)))
    }

    /// The head of an answer that is streamed (specification §11.1).
    pub(super) fn stream(mut self, took: f64) -> Response<()> {
        self.axon.status_code = Some(200);
        self.axon.status_message = Some("Success".to_owned());
        self.axon.process_time = Some(took);
        let mut response = Response::new(());
        let headers = response.headers_mut();
        headers.reserve(24);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        // Caches and proxies that gather before they pass on would turn a stream into a lump.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        self.write(0, headers);
        response
    }

    fn write(&self, body: usize, headers: &mut HeaderMap) {
        let hash = self.hash.to_string();
        let parts = HeaderParts {
            name: &self.name,
            timeout: self.timeout,
            axon: &self.axon,
            dendrite: &self.headers.dendrite,
            inputs: [],
            header_size: Some(Int::ZERO),
            total_size: Some(Int::from(body)),
            computed_body_hash: Some(&hash),
        };
        write_headers(parts, headers);
    }
}

/// The reply to a streaming synapse, not yet started.
///
/// Dropping it without an answer is an error, reported as a 500.
#[derive(Debug)]
pub struct StreamReply {
    pub(super) reply: Reply,
    pub(super) face: Face,
    pub(super) started: Instant,
    pub(super) tally: Arc<Tally>,
}

impl StreamReply {
    /// Sends status 200 and the synapse headers. What is written next follows as it comes; writes within a fraction of a
    /// millisecond may share a chunk.
    pub fn start(self) -> SynapseStream {
        let head = self.face.stream(self.started.elapsed().as_secs_f64());
        self.tally.started.store(200, Ordering::Relaxed);
        SynapseStream { stream: self.reply.start(head), sent: Sent { bytes: 0, tally: self.tally } }
    }

    pub(crate) fn hashed(mut self, hash: BodyHash) -> Self {
        self.face.hash = hash;
        self
    }
}

/// A started answer of a streaming synapse. It looks whole only after [`finish`](Self::finish).
#[derive(Debug)]
pub struct SynapseStream {
    stream: ReplyStream,
    sent: Sent,
}

/// Bytes of a stream, which are told when it has ended, one way or the other.
#[derive(Debug)]
struct Sent {
    bytes: u64,
    tally: Arc<Tally>,
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.tally.sent.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

impl SynapseStream {
    /// Queues one chunk, waiting until the one before it was taken.
    ///
    /// # Errors
    /// Fails if the caller has disconnected.
    ///
    /// # Cancel safety
    /// If the future is dropped before completing, the chunk was not queued.
    pub async fn write(&mut self, chunk: impl Into<Bytes>) -> Result<(), Error> {
        let chunk = chunk.into();
        let length = chunk.len() as u64;
        self.stream.write(chunk).await?;
        self.sent.bytes += length;
        Ok(())
    }

    /// Ends the answer.
    pub fn finish(self) -> Finished {
        self.stream.finish()
    }
}

pub(super) fn write_headers<'a>(
    parts: HeaderParts<'a, impl IntoIterator<Item = (&'a str, &'a str)>>,
    headers: &mut HeaderMap,
) {
    // All values in one piece of memory, which each of them shares.
    let mut values = BytesMut::with_capacity(768);
    headers::write_each(parts, &mut |header, text| {
        let name = match header {
            Known::Plain(plain) => PLAIN_NAMES[plain as usize].clone(),
            Known::Axon(attribute) => AXON_NAMES[attribute as usize].clone(),
            Known::Dendrite(attribute) => DENDRITE_NAMES[attribute as usize].clone(),
            // Answers have none.
            Known::Input(_) => return,
        };
        values.extend_from_slice(text.as_bytes());
        // Sanitised already, so this holds for every text.
        if let Ok(value) = HeaderValue::from_maybe_shared(values.split().freeze()) {
            headers.insert(name, value);
        }
    });
}

macro_rules! names {
    ($($name:literal)*) => { [$(HeaderName::from_static($name)),*] };
}

// The names that answers have, in the order of `Plain` and of `Attribute`.
static PLAIN_NAMES: [HeaderName; 5] =
    names!("name" "timeout" "header_size" "total_size" "computed_body_hash");

static AXON_NAMES: [HeaderName; 10] = names!(
    "bt_header_axon_status_code"
    "bt_header_axon_status_message"
    "bt_header_axon_process_time"
    "bt_header_axon_ip"
    "bt_header_axon_port"
    "bt_header_axon_version"
    "bt_header_axon_nonce"
    "bt_header_axon_uuid"
    "bt_header_axon_hotkey"
    "bt_header_axon_signature"
);

static DENDRITE_NAMES: [HeaderName; 10] = names!(
    "bt_header_dendrite_status_code"
    "bt_header_dendrite_status_message"
    "bt_header_dendrite_process_time"
    "bt_header_dendrite_ip"
    "bt_header_dendrite_port"
    "bt_header_dendrite_version"
    "bt_header_dendrite_nonce"
    "bt_header_dendrite_uuid"
    "bt_header_dendrite_hotkey"
    "bt_header_dendrite_signature"
);

impl fmt::Debug for Face {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Face").field("name", &self.name).finish_non_exhaustive()
    }
}
