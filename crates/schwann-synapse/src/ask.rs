//! A synapse as a request: headers, signature and body, as the reference writes them.

use std::{sync::OnceLock, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, USER_AGENT},
};
use http_body_util::Full;

use crate::{
    btauth,
    call_error::{AskError, CallError},
    caller::{BOUND_SIGNATURE_HEADER, bound_message},
    hash::BodyHash,
    keys::{Scheme, Signer, signature_hex},
    python::{Dict, Int, Value, float_repr},
    synapse::{Ask, BASE_FIELDS, Envelope},
    target::{Target, TargetError},
    terminal::TerminalInfo,
};

/// A synapse and what of its request is the same for every target.
pub(crate) struct Asked<S> {
    pub(crate) ask: S,
    prepared: OnceLock<Prepared>,
}

/// Everything that depends on the synapse alone.
pub(crate) struct Prepared {
    pub(crate) name: String,
    path: String,
    hash: BodyHash,
    placeholders: Vec<(HeaderName, HeaderValue)>,
    /// Names of the required fields that say something: the request's, not the answer's.
    pub(crate) inputs: Vec<String>,
    pub(crate) own: Dict,
    own_json: String,
    /// The base fields that the class declares again.
    pub(crate) redefined: Vec<&'static str>,
}

/// What only this call knows.
pub(crate) struct Particulars<'a> {
    pub(crate) target: &'a Target,
    pub(crate) signer: &'a dyn Signer,
    pub(crate) hotkey: &'a str,
    pub(crate) external_ip: Option<&'a str>,
    pub(crate) version: i64,
    pub(crate) uuid: &'a str,
    pub(crate) nonce: u64,
    pub(crate) timeout: Duration,
    pub(crate) bound: bool,
}

/// A request and the two ends as they were written into it.
pub(crate) struct Signed {
    pub(crate) request: Request<Full<Bytes>>,
    pub(crate) axon: TerminalInfo,
    pub(crate) dendrite: TerminalInfo,
    pub(crate) bytes: usize,
}

impl<S: Ask> Asked<S> {
    pub(crate) fn new(ask: S) -> Self {
        Self { ask, prepared: OnceLock::new() }
    }

    /// Fails again for each caller, since an error has one owner.
    pub(crate) fn prepared(&self) -> Result<&Prepared, CallError> {
        if let Some(prepared) = self.prepared.get() {
            return Ok(prepared);
        }
        let prepared = Prepared::of(&self.ask)?;
        Ok(self.prepared.get_or_init(|| prepared))
    }
}

impl Prepared {
    fn of(ask: &impl Ask) -> Result<Self, CallError> {
        let name = ask.name().to_owned();
        if name.is_empty()
            || name.len() > 255
            || name.contains('/')
            || name.chars().any(char::is_control)
        {
            return Err(TargetError::Route(name).into());
        }
        let own = ask.to_fields().map_err(|source| CallError::Ask(source.into()))?;
        let mut placeholders = Vec::new();
        let mut inputs = Vec::new();
        for (field, text) in ask.placeholders() {
            let header = HeaderName::from_bytes(format!("bt_header_input_obj_{field}").as_bytes())
                .map_err(|_| CallError::Ask(AskError::FieldName(field.clone())))?;
            let value = HeaderValue::from_str(text)
                .map_err(|_| CallError::Ask(AskError::HeaderValue("placeholder")))?;
            placeholders.push((header, value));
            if own.get(&field).is_some_and(says_something) {
                inputs.push(field);
            }
        }
        let redefined = BASE_FIELDS.into_iter().filter(|base| ask.redefines(base)).collect();
        let own_json = own.to_python_json();
        Ok(Self {
            path: path(&name),
            hash: ask.body_hash(),
            name,
            placeholders,
            inputs,
            own,
            own_json,
            redefined,
        })
    }

    /// The v10 request (§3, §4, §6).
    pub(crate) fn v10(&self, call: &Particulars<'_>) -> Result<Signed, AskError> {
        if call.signer.scheme() != Scheme::Sr25519 {
            return Err(AskError::Scheme);
        }
        let hash = self.hash.to_string();
        let target = call.target;
        let message =
            format!("{}.{}.{}.{}.{hash}", call.nonce, call.hotkey, target.hotkey(), call.uuid);
        let signature = signature_hex(&call.signer.sign(message.as_bytes()));
        let axon = target.terminal();
        let dendrite = TerminalInfo {
            ip: call.external_ip.map(str::to_owned),
            version: Some(call.version),
            nonce: Some(Int::from(call.nonce)),
            uuid: Some(call.uuid.to_owned()),
            hotkey: Some(call.hotkey.to_owned()),
            signature: Some(signature.clone()),
            ..TerminalInfo::default()
        };
        let timeout = float_repr(call.timeout.as_secs_f64());

        let mut head = Head::new(self.placeholders.len() + 24);
        head.add(HOST, &target.authority())?;
        let synapse_headers = head.bytes;
        head.add("name", &self.name)?;
        head.add("timeout", &timeout)?;
        head.add("bt_header_axon_ip", target.host())?;
        head.add("bt_header_axon_port", &target.port().to_string())?;
        head.add("bt_header_axon_hotkey", target.hotkey())?;
        if let Some(ip) = call.external_ip {
            head.add("bt_header_dendrite_ip", ip)?;
        }
        head.add("bt_header_dendrite_version", &call.version.to_string())?;
        head.add("bt_header_dendrite_nonce", &call.nonce.to_string())?;
        head.add("bt_header_dendrite_uuid", call.uuid)?;
        head.add("bt_header_dendrite_hotkey", call.hotkey)?;
        head.add("bt_header_dendrite_signature", &signature)?;
        for (name, value) in &self.placeholders {
            head.bytes += name.as_str().len() + value.len() + 4;
            head.headers.insert(name.clone(), value.clone());
        }
        // Real byte counts; nobody checks them. The reference sends sizes of Python objects (W27).
        let header_size = head.bytes - synapse_headers;
        let (body, total_size) = self.v10_body(call.timeout, header_size, &dendrite, &axon);
        head.add("header_size", &header_size.to_string())?;
        head.add("total_size", &total_size.to_string())?;
        head.add("computed_body_hash", &hash)?;
        if call.bound {
            let digest = btauth::body_sha256(body.as_bytes());
            let whole = bound_message(&message, "POST", &self.path, &timeout, &digest);
            let signature = signature_hex(&call.signer.sign(whole.as_bytes()));
            head.add(BOUND_SIGNATURE_HEADER, &signature)?;
        }
        head.finish(body.len())?;
        let (request, bytes) = head.request(&self.path, body);
        Ok(Signed { request, axon, dendrite, bytes })
    }

    /// The `btauth/1` request: the own fields as body, everything about the caller
    /// in signed headers (§17).
    pub(crate) fn btauth(&self, call: &Particulars<'_>) -> Result<Signed, AskError> {
        let target = call.target;
        let body = self.own_json.clone();
        let axon = TerminalInfo {
            ip: Some(target.host().to_owned()),
            port: Some(i64::from(target.port())),
            hotkey: Some(target.hotkey().to_owned()),
            ..TerminalInfo::default()
        };
        let mut dendrite = TerminalInfo {
            ip: call.external_ip.map(str::to_owned),
            version: Some(call.version),
            nonce: Some(Int::from(call.nonce)),
            hotkey: Some(call.hotkey.to_owned()),
            ..TerminalInfo::default()
        };
        let mut head = Head::new(16);
        head.add(HOST, &target.authority())?;
        // Not signed, as in v10: how long the caller will wait, for the axon's own deadline.
        head.add("timeout", &float_repr(call.timeout.as_secs_f64()))?;
        let receiver = target.hotkey().parse().map_err(AskError::Receiver)?;
        let digest = btauth::body_sha256(body.as_bytes());
        for (name, value) in
            btauth::sign(call.signer, "POST", &self.path, &digest, Some(&receiver), call.nonce)
        {
            if name == btauth::SIGNATURE_HEADER {
                dendrite.signature = Some(value.clone());
            }
            let header =
                HeaderName::from_bytes(name.as_bytes()).map_err(|_| AskError::HeaderValue(name))?;
            head.add(SentName(header, name), &value)?;
        }
        head.finish(body.len())?;
        let (request, bytes) = head.request(&self.path, body);
        Ok(Signed { request, axon, dendrite, bytes })
    }

    /// The whole synapse as Python's `json.dumps` writes it, and the size it states.
    fn v10_body(
        &self,
        timeout: Duration,
        header_size: usize,
        dendrite: &TerminalInfo,
        axon: &TerminalInfo,
    ) -> (String, usize) {
        let (before, after) = if self.redefined.is_empty() {
            // The own object without its opening brace closes the whole one.
            let (comma, own) =
                if self.own.is_empty() { ("", "}") } else { (", ", &self.own_json[1..]) };
            (
                format!(
                    "{{\"name\": {}, \"timeout\": {}, \"total_size\": ",
                    Value::from(self.name.as_str()).to_python_json(),
                    float_repr(timeout.as_secs_f64()),
                ),
                format!(
                    ", \"header_size\": 0, \"dendrite\": {}, \"axon\": {}, \"computed_body_hash\": \"\"{comma}{own}",
                    dendrite.to_dict().to_python_json(),
                    axon.to_dict().to_python_json(),
                ),
            )
        } else {
            let envelope = Envelope {
                timeout: Some(timeout.as_secs_f64()),
                dendrite: dendrite.clone(),
                axon: axon.clone(),
                ..Envelope::default()
            };
            let body = envelope.join(&self.name, self.own.clone()).to_python_json();
            // The base fields come first, so this is ours even if a value says the same.
            let size = "\"total_size\": 0,";
            match body.find(size).filter(|_| !self.redefined.contains(&"total_size")) {
                Some(at) => {
                    let at = at + size.len() - 2;
                    (body[..at].to_owned(), body[at + 1..].to_owned())
                }
                None => {
                    let size = header_size + body.len();
                    return (body, size);
                }
            }
        };
        // The size counts its own digits, which may add a digit once.
        let rest = header_size + before.len() + after.len();
        let total = rest + decimal_digits(rest + decimal_digits(rest));
        (format!("{before}{total}{after}"), total)
    }
}

/// Headers in the order they are sent, and their size on the wire.
struct Head {
    headers: HeaderMap,
    bytes: usize,
}

impl Head {
    fn new(capacity: usize) -> Self {
        Self { headers: HeaderMap::with_capacity(capacity), bytes: 0 }
    }

    fn add(&mut self, name: impl Into<SentName>, value: &str) -> Result<(), AskError> {
        let SentName(name, shown) = name.into();
        let value = HeaderValue::from_str(value)
            .or_else(|_| HeaderValue::from_bytes(value.as_bytes()))
            .map_err(|_| AskError::HeaderValue(shown))?;
        self.bytes += name.as_str().len() + value.len() + 4;
        self.headers.insert(name, value);
        Ok(())
    }

    fn finish(&mut self, body: usize) -> Result<(), AskError> {
        self.add(ACCEPT, "*/*")?;
        // A compressed stream arrives when its compressor pleases. And nothing here unpacks one.
        self.add(ACCEPT_ENCODING, "identity")?;
        self.add(USER_AGENT, concat!("schwann/", env!("CARGO_PKG_VERSION")))?;
        self.add(CONTENT_LENGTH, &body.to_string())?;
        self.add(CONTENT_TYPE, "application/json")
    }

    fn request(self, path: &str, body: String) -> (Request<Full<Bytes>>, usize) {
        let bytes = self.bytes + body.len();
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.parse().expect("percent-encoded when the synapse was prepared");
        *request.headers_mut() = self.headers;
        (request, bytes)
    }
}

struct SentName(HeaderName, &'static str);

impl From<&'static str> for SentName {
    fn from(name: &'static str) -> Self {
        SentName(HeaderName::from_static(name), name)
    }
}

impl From<HeaderName> for SentName {
    fn from(name: HeaderName) -> Self {
        SentName(name, "a standard header")
    }
}

fn says_something(value: &Value) -> bool {
    match value {
        Value::None => false,
        Value::Str(text) => !text.is_empty(),
        Value::List(items) | Value::Tuple(items) => !items.is_empty(),
        Value::Dict(fields) => !fields.is_empty(),
        Value::Bool(_) | Value::Int(_) | Value::Float(_) => true,
    }
}

/// `/Name`, percent-encoded where RFC 3986 §3.3 asks for it.
fn path(name: &str) -> String {
    let mut path = String::with_capacity(name.len() + 1);
    path.push('/');
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    path
}

fn decimal_digits(number: usize) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}
