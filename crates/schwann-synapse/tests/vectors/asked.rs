//! A recorded request, read.

use schwann_synapse::{
    headers::parse_like_reference,
    keys::{BytesWrapping, KeyCache, Scheme, parse_signature_hex},
    python::{Dict, Value},
};

use crate::captures_axon::AXON;
use crate::exchange::{headers, method, split_head};

#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) bytes: Vec<u8>,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    pub(crate) fn parse(bytes: Vec<u8>) -> Self {
        let method = method(&bytes);
        let Some((head, body)) = split_head(&bytes) else {
            return Self { bytes, method, ..Self::default() };
        };
        let target = head[0].split(' ').nth(1).unwrap_or_default().to_owned();
        let headers = headers(&head);
        let length = headers.iter().rev().find(|(name, _)| name == "content-length");
        let length = length.and_then(|(_, value)| value.parse().ok()).unwrap_or(body.len());
        let body = body[..length.min(body.len())].to_vec();
        Self { method, target, headers, body, bytes }
    }

    /// The first of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The last of this name, which is the one that counts for terminals.
    pub(crate) fn last(&self, name: &str) -> Option<&str> {
        self.headers.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    pub(crate) fn route(&self) -> &str {
        self.path().trim_start_matches('/')
    }

    pub(crate) fn body(&self) -> Option<Dict> {
        match Value::parse_json(&self.body) {
            Ok(Value::Dict(body)) => Some(body),
            _ => None,
        }
    }

    pub(crate) fn unsigned(&self) -> bool {
        self.last("bt_header_dendrite_signature").is_none_or(str::is_empty)
    }

    /// Whether the signature is the hotkey's, over what it should be over.
    pub(crate) fn well_signed(&self) -> bool {
        self.signed(BytesWrapping::Accept)
    }

    pub(crate) fn signed(&self, wrapping: BytesWrapping) -> bool {
        let headers = parse_like_reference(self.pairs()).unwrap_or_default();
        let dendrite = &headers.dendrite;
        let (Some(hotkey), Some(nonce), Some(signature)) =
            (&dendrite.hotkey, &dendrite.nonce, &dendrite.signature)
        else {
            return false;
        };
        let key = KeyCache::default().resolve(Scheme::Sr25519, hotkey);
        let (Ok(key), Ok(signature)) = (key, parse_signature_hex(signature)) else { return false };
        let uuid = dendrite.uuid.as_deref().unwrap_or("None");
        let hash = headers.computed_body_hash.as_deref().unwrap_or("None");
        let message = format!("{nonce}.{hotkey}.{AXON}.{uuid}.{hash}");
        key.verify_wrapped(message.as_bytes(), &signature, wrapping)
    }

    /// Who and which lane: the key under which the reference remembers nonces.
    pub(crate) fn lane(&self) -> (Option<&str>, Option<&str>) {
        (self.last("bt_header_dendrite_hotkey"), self.last("bt_header_dendrite_uuid"))
    }

    /// Whether the handler streams, and fails on the way.
    pub(crate) fn fails_midway(&self) -> bool {
        let body = self.body().unwrap_or_default();
        let number = |field| body.get(field).and_then(|value| value.py_str().parse::<i64>().ok());
        number("fail_at").is_some_and(|at| at < number("n_tokens").unwrap_or(5))
    }
}
