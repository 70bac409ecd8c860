//! One request on its way: every step from its head to its answer.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request::Parts};
use schwann::{Error, Finished, Reply, RequestBody};
use tokio::time::Instant;
use tracing::{Level, debug, error, event_enabled};
use uuid::Uuid;

use super::{
    Inner, PING,
    btauth_request::BTAUTH_VERSION,
    deadline::within,
    refusal::{Refusal, chain, for_header},
    reply::{Face, StreamReply, write_headers},
    under_way::{Admitted, GRACE},
};
use crate::{
    caller::{Bound, Caller, Verdict, Verify},
    hash::BodyHash,
    headers::HeaderParts,
    memory::{Full, Memory, Taken, weight},
    metrics::{RouteMetrics, Spoken},
    python::{Dict, Int, Value},
    route::{Answer, BodyFault, Outcome, Route, Running},
    ss58::Hotkey,
    synapse::{DEFAULT_TIMEOUT, Envelope},
    terminal::TerminalInfo,
};

/// The first segment of a path, decoded (specification §2). A path that goes on after it names no route.
pub(super) fn route_name(path: &str) -> Cow<'_, str> {
    let first = path.strip_prefix('/').unwrap_or(path);
    if !first.contains('%') {
        return Cow::Borrowed(first);
    }
    let mut bytes = Vec::with_capacity(first.len());
    let mut rest = first.as_bytes();
    while let [byte, after @ ..] = rest {
        let decoded = match (byte, after) {
            (b'%', [high, low, ..]) => {
                let digit = |c: &u8| char::from(*c).to_digit(16);
                digit(high).zip(digit(low)).map(|(high, low)| (high * 16 + low) as u8)
            }
            _ => None,
        };
        match decoded {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

/// One request on its way.
pub(super) struct Exchange<'a> {
    pub(super) axon: &'a Inner,
    pub(super) metrics: &'a RouteMetrics,
    pub(super) name: Cow<'a, str>,
    pub(super) started: Instant,
    pub(super) spoken: Spoken,
    pub(super) caller: Option<Hotkey>,
    /// Whether the headers were well-formed. Until then the reference answers as a synapse of no class.
    pub(super) read: bool,
    pub(super) tally: Arc<Tally>,
    /// Set once the exchange has an end; without one, the client left.
    pub(super) status: Option<u16>,
    pub(super) timeout: Option<f64>,
    /// What this call takes of the room for what bodies become.
    pub(super) room: Taken,
}

/// Bytes that went either way, and whether a reply was begun.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(super) received: AtomicU64,
    pub(super) sent: AtomicU64,
    /// The status the reply started with, or 0.
    pub(super) started: AtomicU64,
    /// Whether nobody waits for the answer any more.
    pub(super) over: AtomicBool,
}

impl Exchange<'_> {
    /// Every step until its handler runs.
    pub(super) async fn admit(
        &mut self,
        route: &Route,
        head: &Parts,
        body: RequestBody,
        reply: Reply,
        peer: Option<SocketAddr>,
    ) -> Result<Admitted, Refusal> {
        let axon = self.axon;
        if head.method != Method::POST && head.method != Method::GET {
            return Err(Refusal::method());
        }
        let max_body = route.max_body.unwrap_or(axon.max_body);
        let mut body = body;
        body.limit(max_body);
        if body.announced().is_some_and(|announced| announced > max_body) {
            return Err(Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("The body is larger than the {max_body} bytes this route takes"),
            ));
        }
        let verify = route.verify.unwrap_or(axon.verify);
        let (ip, port) = axon.origin(&head.headers, peer);
        let limit = route.timeout.unwrap_or(axon.max_timeout);
        let (caller, own, signed_hash, envelope) = if head.headers.contains_key(&BTAUTH_VERSION) {
            self.spoken = Spoken::btauth;
            self.open_btauth(route, verify, head, body, ip, port, limit).await?
        } else {
            let signed = self.verify_v10(route, verify, head, ip, port, limit).await?;
            self.read_v10(route, verify, head, body, signed).await?
        };
        let deadline = self.started + caller.timeout;

        // A class without hashed fields signs the hash of nothing, and its body may be anything.
        if !caller.body_covered && route.bound.unwrap_or(axon.bound) != Bound::Optional {
            return Err(Refusal::unverified(
                "the signature must cover the body here: use btauth/1, or a bound signature",
            ));
        }
        let prepared = route.endpoint.prepare(own, signed_hash.as_deref());
        let prepared = prepared.map_err(|fault| match fault {
            BodyFault::Fields(error) => {
                Refusal::malformed(verify, format!("The body does not fit the synapse: {error}"))
            }
            BodyFault::Hash => {
                Refusal::malformed(verify, "The body does not have the signed hash".to_owned())
            }
        })?;

        let priority = match &route.priority {
            Some(priority) => match within(deadline, priority(&caller)).await {
                Ok(priority) => priority.map_err(|error| Refusal::of(error, caller.timeout))?,
                Err(_) => return Err(Refusal::late(caller.timeout)),
            },
            None => 0.0,
        };
        let pass = match within(deadline, axon.admission.enter(priority)).await {
            Ok(Ok(pass)) => pass,
            Ok(Err(busy)) => {
                let text = format!("Service busy: {busy}");
                return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text));
            }
            Err(_) => return Err(Refusal::late(caller.timeout)),
        };
        let timeout = caller.timeout;
        reply.set_deadline(deadline + GRACE);
        let reply = StreamReply {
            reply,
            face: Face {
                name: self.name.clone().into_owned(),
                axon: TerminalInfo {
                    ip: caller.headers.axon.ip.clone(),
                    port: caller.headers.axon.port,
                    hotkey: Some(axon.address.clone()),
                    ..TerminalInfo::default()
                },
                headers: Arc::clone(&caller.headers),
                protocol: caller.protocol,
                timeout: envelope
                    .as_ref()
                    .map_or(caller.headers.timeout, |envelope| envelope.timeout),
                hash: BodyHash::EMPTY,
            },
            started: self.started,
            tally: Arc::clone(&self.tally),
        };
        let running = Running { caller, reply, pool: axon.pool.clone() };
        let run = (prepared.run)(running);
        Ok(Admitted { run, deadline, timeout, envelope, pass })
    }

    /// Whether a reply was begun.
    pub(super) fn has_begun(&self) -> bool {
        self.tally.status().is_some()
    }

    /// Says what the handler came to.
    pub(super) fn answer(
        &mut self,
        outcome: Outcome,
        envelope: &Envelope,
    ) -> Result<Finished, Refusal> {
        match outcome {
            Outcome::Streamed(finished) => {
                self.ended(self.tally.status().unwrap_or(200));
                Ok(finished)
            }
            Outcome::Filled(answer) => {
                let Answer { fields, hash, status, message, reply } = *answer;
                let StreamReply { reply, mut face, .. } = reply;
                face.hash = hash;
                let took = self.started.elapsed().as_secs_f64();
                let (response, body) = face
                    .whole(status, &message, took, fields, envelope)
                    .map_err(|_| Refusal::internal("the filled synapse has no JSON form"))?;
                self.tally.sent.store(body.len() as u64, Ordering::Relaxed);
                self.ended(status.as_u16());
                Ok(reply.send(response, body))
            }
        }
    }

    pub(super) async fn verify_with(&self, route: &Route, caller: &Caller) -> Result<(), Refusal> {
        let Some(verify) = &route.verify_with else { return Ok(()) };
        match within(self.started + caller.timeout, verify(caller)).await {
            Err(_) => Err(Refusal::late(caller.timeout)),
            Ok(verdict) => verdict.map_err(|error| {
                debug!(target: "schwann::axon", %error, "verify hook refused");
                Refusal::unverified(&error.to_string())
            }),
        }
    }

    pub(super) async fn blacklist(&self, route: &Route, caller: &Caller) -> Result<(), Refusal> {
        let Some(blacklist) = &route.blacklist else { return Ok(()) };
        let verdict = within(self.started + caller.timeout, blacklist(caller)).await;
        match verdict {
            Err(_) => Err(Refusal::late(caller.timeout)),
            Ok(Err(error)) => Err(Refusal::internal(error)),
            Ok(Ok(Verdict::Admit)) => Ok(()),
            Ok(Ok(Verdict::Refuse(reason))) => Err(Refusal::blacklisted(&reason)),
        }
    }

    /// The body, in time and within what bodies may take together.
    pub(super) async fn read(
        &mut self,
        body: RequestBody,
        arriving: &Memory,
        deadline: Instant,
        timeout: Duration,
    ) -> Result<Bytes, Refusal> {
        match within(deadline, self.read_within_room(body, arriving)).await {
            Ok(read) => read,
            Err(_) => Err(Refusal::late(timeout)),
        }
    }

    async fn read_within_room(
        &mut self,
        mut body: RequestBody,
        arriving: &Memory,
    ) -> Result<Bytes, Refusal> {
        let mut whole = Vec::new();
        let mut first = Bytes::new();
        let mut length = 0;
        let mut taken = Taken::default();
        while let Some(chunk) = body.chunk().await.map_err(Refusal::of_core)? {
            length += chunk.len() as u64;
            self.tally.received.store(length, Ordering::Relaxed);
            arriving.take(length, &mut taken).await.map_err(|Full| Refusal::crowded())?;
            if first.is_empty() {
                first = chunk;
                continue;
            }
            if whole.is_empty() {
                whole.extend_from_slice(&first);
            }
            whole.extend_from_slice(&chunk);
        }
        let bytes = if whole.is_empty() { first } else { whole.into() };
        // What is held from here on is what the text becomes, not the text.
        let room = self.axon.held.take(weight(&bytes), &mut self.room);
        room.await.map_err(|Full| Refusal::crowded())?;
        Ok(bytes)
    }

    fn ended(&mut self, status: u16) {
        self.status = Some(status);
    }

    /// The answer to a request that is not served. Of constant size, whatever was asked.
    pub(super) fn refuse(&mut self, refusal: Refusal) -> Error {
        if let Some(status) = self.tally.status() {
            // The reply has begun: all that is left to say is that it is not whole.
            self.metrics.truncated();
            self.ended(status);
            debug!(target: "schwann::axon", synapse = &*self.name, message = %refusal.message, "stream cut");
            return Error::server(refusal.source.unwrap_or_else(|| refusal.message.into()));
        }
        if refusal.left {
            return Error::server(refusal.source.unwrap_or_else(|| "the client left".into()));
        }
        self.ended(refusal.status.as_u16());
        let message = match refusal.status {
            StatusCode::INTERNAL_SERVER_ERROR if refusal.message.is_empty() => {
                let id = Uuid::new_v4();
                let source = refusal.source.as_ref().map_or_else(String::new, chain);
                error!(target: "schwann::axon", synapse = &*self.name, error_id = %id, error = source, "call failed");
                format!("Internal Server Error #{id}")
            }
            _ => {
                if let Some(source) = &refusal.source {
                    debug!(target: "schwann::axon", synapse = &*self.name, error = chain(source), "call refused");
                }
                refusal.message
            }
        };
        let mut body = Dict::new();
        body.insert("message", message.as_str());
        let body = Bytes::from(body.to_json().unwrap_or_else(|_| r#"{"message":""}"#.to_owned()));
        self.tally.sent.store(body.len() as u64, Ordering::Relaxed);
        let mut response = Response::new(body);
        *response.status_mut() = refusal.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(allow) = refusal.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        let axon = TerminalInfo {
            status_code: Some(i64::from(refusal.status.as_u16())),
            status_message: Some(for_header(message)),
            process_time: Some(self.started.elapsed().as_secs_f64()),
            version: Some(self.axon.version),
            uuid: Some(self.axon.uuid.clone()),
            hotkey: Some(self.axon.address.clone()),
            ..TerminalInfo::default()
        };
        let parts = HeaderParts {
            name: if self.read { &self.name } else { PING },
            timeout: if self.read { self.timeout } else { Some(DEFAULT_TIMEOUT) },
            axon: &axon,
            dendrite: &TerminalInfo::default(),
            inputs: [],
            header_size: Some(Int::ZERO),
            total_size: Some(Int::ZERO),
            computed_body_hash: Some(&EMPTY_HASH),
        };
        write_headers(parts, headers);
        Error::server("refused").with_answer(response)
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        self.tally.over.store(true, Ordering::Relaxed);
        let took = self.started.elapsed();
        let received = self.tally.received.load(Ordering::Relaxed);
        let sent = self.tally.sent.load(Ordering::Relaxed);
        match self.status {
            Some(status) => self.metrics.answered(status, self.spoken, received, sent, took),
            None => self.metrics.left(),
        }
        let admission = &self.axon.admission;
        self.axon.metrics.load(admission.running(), admission.waiting());
        if event_enabled!(target: "schwann::axon", Level::DEBUG) {
            let caller = self.caller.map(|hotkey| hotkey.to_string());
            debug!(
                target: "schwann::axon",
                synapse = &*self.name,
                status = self.status,
                caller,
                received,
                sent,
                took_ms = took.as_secs_f64() * 1e3,
                "{}", if self.status.is_some() { "exchange" } else { "the client left" }
            );
        }
    }
}

impl Tally {
    pub(crate) fn over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn status(&self) -> Option<u16> {
        match self.started.load(Ordering::Relaxed) {
            0 => None,
            status => u16::try_from(status).ok(),
        }
    }
}

impl Inner {
    /// Where a request comes from: the connection's other end, or what a trusted proxy says of it.
    fn origin(&self, headers: &HeaderMap, peer: Option<SocketAddr>) -> (IpAddr, u16) {
        let Some(peer) = peer else { return (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0) };
        if !self.trusted_proxies.contains(&peer.ip()) {
            return (peer.ip(), peer.port());
        }
        // The last address that no trusted proxy added is the one a trusted proxy saw.
        let named = headers.get_all("x-forwarded-for").iter().rev();
        let named = named.filter_map(|value| value.to_str().ok());
        let named = named.flat_map(|value| value.rsplit(','));
        for address in named.map(|text| text.trim().parse::<IpAddr>()) {
            match address {
                Ok(address) if self.trusted_proxies.contains(&address) => {}
                Ok(address) => return (address, 0),
                Err(_) => break,
            }
        }
        (peer.ip(), peer.port())
    }
}

/// Refuses hotkeys by the route's lists. Whoever names a denied hotkey is refused, whether it is theirs or not; whoever
/// names an allowed one has yet to prove it.
pub(super) fn listed(route: &Route, hotkey: &Hotkey) -> Result<(), Refusal> {
    if route.deny.contains(hotkey) {
        return Err(Refusal::blacklisted("on the deny list"));
    }
    match &route.allow {
        Some(allow) if !allow.contains(hotkey) => {
            Err(Refusal::blacklisted("not on the allow list"))
        }
        _ => Ok(()),
    }
}

/// `application/json`, `application/*+json`, or nothing said.
pub(super) fn json_type(headers: &HeaderMap, verify: Verify) -> Result<(), Refusal> {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let essence = kind.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    let essence = essence.trim_ascii().to_ascii_lowercase();
    let json = essence == b"application/json"
        || (essence.starts_with(b"application/") && essence.ends_with(b"+json"));
    if json {
        return Ok(());
    }
    Err(Refusal::malformed(verify, "The body must be application/json".to_owned()))
}

pub(super) fn parse_object(bytes: &[u8], verify: Verify) -> Result<Dict, Refusal> {
    match Value::parse_json(bytes) {
        Ok(Value::Dict(body)) => Ok(body),
        Ok(other) => {
            let text = format!("The body must be a JSON object, not a {}", other.type_name());
            Err(Refusal::malformed(verify, text))
        }
        Err(_) if bytes.is_empty() => {
            Err(Refusal::malformed(verify, "The body is empty".to_owned()))
        }
        Err(_) if std::str::from_utf8(bytes).is_err() => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "There was an error parsing the body".to_owned(),
        )),
        Err(error) => Err(Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("JSON decode error: {error}"),
        )),
    }
}

pub(super) static EMPTY_HASH: LazyLock<String> = LazyLock::new(|| BodyHash::EMPTY.to_string());
