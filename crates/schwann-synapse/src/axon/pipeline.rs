//! One request on its way: every step from its head to its answer.

use std::{
    borrow::Cow,
    future::poll_fn,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::pin,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header, request::Parts,
};
use schwann::{Error, Finished, Reply, RequestBody};
use sha2::{Digest, Sha256};
use tokio::{
    task::unconstrained,
    time::{Instant, sleep_until},
};
use tracing::{Level, debug, error, event_enabled};
use uuid::Uuid;

use super::{
    Attached, Inner, PING,
    refusal::{Refusal, chain, for_header},
    reply::{Face, StreamReply, write_headers},
};
use crate::{
    btauth,
    caller::{BOUND_SIGNATURE_HEADER, Bound, Caller, Protocol, Verdict, Verify, bound_message},
    hash::BodyHash,
    headers::{HeaderParts, parse_like_reference, parse_strict},
    keys::{BytesWrapping, Scheme, parse_signature_hex},
    memory::{Full, Memory, Taken, weight},
    metrics::{RouteMetrics, Spoken},
    nonce::{Fresh, NonceError},
    python::{Dict, Int, Value},
    route::{Answer, BodyFault, Outcome, Route, Running},
    ss58::Hotkey,
    synapse::{DEFAULT_TIMEOUT, Envelope},
    terminal::TerminalInfo,
};

/// How much longer than its deadline a stream may go on whose caller has not left by then.
const GRACE: Duration = Duration::from_millis(500);

/// A deadline passed.
struct Late;

/// As [`tokio::time::timeout_at`], for what is mostly ready at once or polled many times: the timer is made when there is
/// something to wait for, and polled when it does not know whom to wake.
async fn within<F: Future>(deadline: Instant, future: F) -> Result<F::Output, Late> {
    let mut future = pin!(future);
    let mut timer = None;
    let mut woken: Option<Waker> = None;
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if Instant::now() >= deadline {
            return Poll::Ready(Err(Late));
        }
        if woken.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            // Out of budget a timer would be pending without knowing whom to wake.
            let timer = timer.get_or_insert_with(|| Box::pin(unconstrained(sleep_until(deadline))));
            if timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(Late));
            }
            woken = Some(cx.waker().clone());
        }
        Poll::Pending
    })
    .await
}

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
    pub(super) name: &'a str,
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

/// What is known of a v10 request once it is verified.
struct Signed {
    caller: Caller,
    /// The hash that was signed, if the body is to be compared with it.
    hash: Option<String>,
    /// A bound signature that waits for the body.
    bound: Option<BoundClaim>,
}

struct BoundClaim {
    message: String,
    signature: [u8; 64],
    timeout: String,
}

impl BoundClaim {
    /// The bound signature of these headers, if there is one. Its v10 message is not known yet.
    fn of(head: &Parts, verify: Verify) -> Result<Option<Self>, Refusal> {
        let mut claims = head.headers.get_all(BOUND_SIGNATURE_HEADER).iter();
        let Some(claim) = claims.next() else { return Ok(None) };
        // What is signed is one timeout, and the reference takes the first or the last of several.
        let mut timeouts = head.headers.get_all("timeout").iter();
        let timeout = timeouts.next().map_or(&b""[..], HeaderValue::as_bytes);
        if claims.next().is_some() || timeouts.next().is_some() {
            let text = format!("`{BOUND_SIGNATURE_HEADER}` and `timeout` may come once only");
            return Err(Refusal::malformed(verify, format!("Malformed request: {text}")));
        }
        let signature = claim.to_str().ok().and_then(|text| parse_signature_hex(text).ok());
        let signature = signature.ok_or_else(|| Refusal::unverified("Signature mismatch"))?;
        let timeout = String::from_utf8_lossy(timeout).into_owned();
        Ok(Some(Self { message: String::new(), signature, timeout }))
    }
}

/// What a v10 caller signs (specification §6.1).
fn v10_message(
    nonce: &str,
    caller: &str,
    axon: &str,
    uuid: Option<&str>,
    hash: Option<&str>,
) -> String {
    format!("{nonce}.{caller}.{axon}.{}.{}", uuid.unwrap_or("None"), hash.unwrap_or("None"))
}

impl Exchange<'_> {
    pub(super) async fn serve(
        &mut self,
        attached: &Attached,
        head: &Parts,
        body: RequestBody,
        reply: Reply,
        peer: Option<SocketAddr>,
    ) -> Result<Finished, Refusal> {
        let axon = self.axon;
        let route = &attached.route;
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
        let _pass = match within(deadline, axon.admission.enter(priority)).await {
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
                name: self.name.to_owned(),
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
        let mut run = (prepared.run)(running);
        let mut outcome = within(deadline, &mut run).await;
        if outcome.is_err() && self.tally.status().is_some() {
            // The caller counts from before the request, and leaves on its own. Cut at the same moment, its stream would
            // seem broken to it, and not late.
            outcome = within(deadline + GRACE, run).await;
        }
        match outcome {
            Err(_) => Err(Refusal::late(timeout)),
            Ok(Err(error)) => Err(Refusal::of(error, timeout)),
            Ok(Ok(Outcome::Streamed(finished))) => {
                self.ended(self.tally.status().unwrap_or(200));
                Ok(finished)
            }
            Ok(Ok(Outcome::Filled(answer))) => {
                let Answer { fields, hash, status, message, reply } = *answer;
                let StreamReply { reply, mut face, .. } = reply;
                face.hash = hash;
                let took = self.started.elapsed().as_secs_f64();
                let (response, body) = face
                    .whole(status, &message, took, fields, &envelope.unwrap_or_default())
                    .map_err(|_| Refusal::internal("the filled synapse has no JSON form"))?;
                self.tally.sent.store(body.len() as u64, Ordering::Relaxed);
                self.ended(status.as_u16());
                Ok(reply.send(response, body))
            }
        }
    }

    /// v10, up to the point where the caller is proven and admitted (specification §7, §8).
    async fn verify_v10(
        &mut self,
        route: &Route,
        verify: Verify,
        head: &Parts,
        ip: IpAddr,
        port: u16,
        limit: Duration,
    ) -> Result<Signed, Refusal> {
        let axon = self.axon;
        let pairs = head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let reference = verify == Verify::LikeReference;
        let parsed = if reference { parse_like_reference(pairs) } else { parse_strict(pairs) };
        let parsed = parsed
            .map_err(|error| Refusal::malformed(verify, format!("Malformed request: {error}")))?;
        self.timeout = parsed.timeout;
        self.read = true;
        let now = (axon.clock)();
        let headers = Arc::new(parsed);
        let dendrite = &headers.dendrite;

        let claimed = dendrite.hotkey.as_deref();
        // Cheap and before any cryptography: naming a refused hotkey is enough to be refused.
        let hotkey = match claimed {
            Some(text) => axon.keys.resolve(Scheme::Sr25519, text),
            None => {
                return Err(Refusal::unverified(
                    "No SS58 formatted address or public key provided.",
                ));
            }
        };
        let key = match hotkey {
            Ok(key) => key,
            Err(error) => return Err(Refusal::unverified(&error.to_string())),
        };
        let text = claimed.unwrap_or_default();
        self.caller = Some(key.hotkey());
        listed(route, &key.hotkey())?;

        let timeout = headers.timeout.filter(|timeout| timeout.is_finite() && *timeout > 0.0);
        let timeout = timeout.map_or(limit, |timeout| {
            Duration::try_from_secs_f64(timeout).map_or(limit, |timeout| timeout.min(limit))
        });
        let mut caller = Caller {
            hotkey: key.hotkey(),
            verified: false,
            ip,
            port,
            protocol: Protocol::V10,
            timeout,
            version: dendrite.version,
            uuid: dendrite.uuid.clone(),
            nonce: dendrite.nonce.as_ref().and_then(Int::to_u64).unwrap_or_default(),
            body_covered: false,
            headers: Arc::clone(&headers),
            exchange: Arc::clone(&self.tally),
        };
        if reference {
            self.blacklist(route, &caller).await?;
        }
        if verify == Verify::BtAuth1 && route.verify_with.is_none() {
            return Err(Refusal::unverified("this axon takes btauth/1 only"));
        }
        // Whatever else verifies, or a hook instead.
        let mut bound = match (&route.verify_with, verify) {
            (None, Verify::Nothing) => None,
            _ => BoundClaim::of(head, verify)?,
        };
        if bound.is_none() && route.bound.unwrap_or(axon.bound) == Bound::Required {
            return Err(Refusal::unverified("a bound signature is required here"));
        }
        let uuid = dendrite.uuid.as_deref();
        let hash = headers.computed_body_hash.as_deref();
        if let Some(claim) = &mut bound {
            let nonce = dendrite.nonce.as_ref().map_or_else(|| "None".to_owned(), Int::to_string);
            claim.message = v10_message(&nonce, text, &axon.address, uuid, hash);
        }
        match (&route.verify_with, verify) {
            (Some(_), _) => {
                self.verify_with(route, &caller).await?;
                caller.verified = true;
            }
            (None, Verify::Nothing) => {}
            (None, _) => {
                let nonce = dendrite.nonce.as_ref();
                let nonce = nonce.ok_or_else(|| Refusal::unverified("Missing Nonce"))?;
                let count = nonce.to_i128();
                let far = || Refusal::unverified("Nonce is out of range");
                let count = count.ok_or_else(far)?;
                let fresh = if reference {
                    let version = dendrite.version.map(i128::from);
                    axon.reference_nonces
                        .check(text, uuid, count, headers.timeout, version, now)
                        .map_err(|error| Refusal::unverified(&error.to_string()))?;
                    None
                } else {
                    let fresh = axon.freshness.check(count, headers.timeout, now);
                    Some(fresh.map_err(|error| Refusal::unverified(&error.to_string()))?)
                };
                let signature = dendrite.signature.as_deref().filter(|text| !text.is_empty());
                let signature =
                    signature.ok_or_else(|| Refusal::unverified("Missing Signature"))?;
                let signature = parse_signature_hex(signature)
                    .map_err(|error| Refusal::unverified(&error.to_string()))?;
                let message = v10_message(&nonce.to_string(), text, &axon.address, uuid, hash);
                // What a wallet in a browser signs for people, no neuron sends. To look for it would make a forged
                // signature twice as dear as a good one.
                let wrapping =
                    if reference { BytesWrapping::Accept } else { BytesWrapping::Refuse };
                let mismatch = || Refusal::unverified("Signature mismatch");
                if !key.verify_wrapped(message.as_bytes(), &signature, wrapping) {
                    return Err(mismatch());
                }
                axon.keys.keep(text, &key);
                let admit = |fresh: Fresh| {
                    let lane = uuid.unwrap_or("None");
                    axon.nonces.admit(&key.hotkey(), lane, fresh.nonce, now, fresh.expires_ns)
                };
                let admitted = match fresh {
                    Some(fresh) if axon.mixed => {
                        admit(fresh).and_then(|()| axon.reference_nonces.raise(text, uuid, count))
                    }
                    Some(fresh) => admit(fresh),
                    // What one kind of route admitted must be used up for the other kind too (W6): the hardened ones
                    // take no nonce that is old, and here, beside them, none is taken that is fresh to them later.
                    None if axon.mixed => match axon.freshness.check(count, headers.timeout, now) {
                        Ok(fresh) => admit(fresh),
                        Err(error @ NonceError::FromFuture { .. }) => Err(error),
                        Err(_) => Ok(()),
                    }
                    .and_then(|()| axon.reference_nonces.store(text, uuid, count)),
                    None => axon.reference_nonces.store(text, uuid, count),
                };
                admitted.map_err(|error| match error {
                    NonceError::Unavailable(_) => {
                        error!(target: "schwann::axon", %error, "nonces cannot be kept: nothing is served");
                        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
                    }
                    error => Refusal::unverified(&error.to_string()),
                })?;
                caller.verified = true;
            }
        }
        if !reference {
            self.blacklist(route, &caller).await?;
        }
        if caller.verified && route.verify_with.is_none() {
            axon.keys.served(&key);
        }
        // A hash that was not signed, or that no one sent, is compared all the same: an honest caller's agrees.
        let hash = match (&headers.computed_body_hash, verify) {
            (Some(hash), _) => Some(hash.clone()),
            (None, Verify::Nothing) => None,
            (None, _) => Some(String::new()),
        };
        // A hook of the route's own may have proven anything; that the hash was signed is only known of a signature.
        caller.body_covered = caller.verified
            && route.verify_with.is_none()
            && hash.as_deref().is_some_and(|hash| hash != *EMPTY_HASH);
        Ok(Signed { caller, hash, bound })
    }

    async fn verify_with(&self, route: &Route, caller: &Caller) -> Result<(), Refusal> {
        let Some(verify) = &route.verify_with else { return Ok(()) };
        match within(self.started + caller.timeout, verify(caller)).await {
            Err(_) => Err(Refusal::late(caller.timeout)),
            Ok(verdict) => verdict.map_err(|error| {
                debug!(target: "schwann::axon", %error, "verify hook refused");
                Refusal::unverified(&error.to_string())
            }),
        }
    }

    async fn blacklist(&self, route: &Route, caller: &Caller) -> Result<(), Refusal> {
        let Some(blacklist) = &route.blacklist else { return Ok(()) };
        let verdict = within(self.started + caller.timeout, blacklist(caller)).await;
        match verdict {
            Err(_) => Err(Refusal::late(caller.timeout)),
            Ok(Err(error)) => Err(Refusal::internal(error)),
            Ok(Ok(Verdict::Admit)) => Ok(()),
            Ok(Ok(Verdict::Refuse(reason))) => Err(Refusal::blacklisted(&reason)),
        }
    }

    async fn read_v10(
        &mut self,
        route: &Route,
        verify: Verify,
        head: &Parts,
        body: RequestBody,
        signed: Signed,
    ) -> Result<(Caller, Dict, Option<String>, Option<Envelope>), Refusal> {
        let Signed { mut caller, mut hash, bound } = signed;
        json_type(&head.headers, verify)?;
        let deadline = self.started + caller.timeout;
        let bytes = self.read(body, &self.axon.arriving, deadline, caller.timeout).await?;
        if let Some(claim) = bound {
            let sha256: [u8; 32] = Sha256::digest(&bytes).into();
            let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
            let message = bound_message(
                &claim.message,
                head.method.as_str(),
                target,
                &claim.timeout,
                &sha256,
            );
            let text = caller.headers.dendrite.hotkey.as_deref().unwrap_or_default();
            let key = self.axon.keys.resolve(Scheme::Sr25519, text);
            let good = key.is_ok_and(|key| key.verify(message.as_bytes(), &claim.signature));
            if !good {
                return Err(Refusal::unverified("Signature mismatch"));
            }
            caller.body_covered = true;
        }
        let body = parse_object(&bytes, verify)?;
        let redefines = |base: &str| route.endpoint.redefines(base);
        let (envelope, own) = Envelope::split(body, redefines).map_err(|error| {
            Refusal::malformed(verify, format!("The body does not fit a synapse: {error}"))
        })?;
        if verify == Verify::Nothing && caller.headers.computed_body_hash.is_none() {
            hash = None;
        }
        // W1: the body's terminals are anybody's writing. What the headers proved takes their place in the answer.
        let said = envelope.dendrite.hotkey.as_deref();
        if said.is_some() && said != caller.headers.dendrite.hotkey.as_deref() {
            self.axon.metrics.spoofed();
            debug!(target: "schwann::axon", synapse = self.name, caller = %caller.hotkey, "the body names another hotkey");
        }
        Ok((caller, own, hash, Some(envelope)))
    }

    /// `btauth/1`, whole: its signature covers the body, so the body comes first (specification §17).
    #[allow(clippy::too_many_arguments, reason = "they are the request, taken apart once")]
    async fn open_btauth(
        &mut self,
        route: &Route,
        verify: Verify,
        head: &Parts,
        body: RequestBody,
        ip: IpAddr,
        port: u16,
        limit: Duration,
    ) -> Result<(Caller, Dict, Option<String>, Option<Envelope>), Refusal> {
        let axon = self.axon;
        let now = (axon.clock)();
        if let Some(twice) =
            BTAUTH_HEADERS.iter().find(|name| head.headers.get_all(*name).iter().count() > 1)
        {
            return Err(Refusal::twice(twice.as_str()));
        }
        let pairs = head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let refused = |error: btauth::AuthError| match error {
            btauth::AuthError::Refused(NonceError::Unavailable(_)) => {
                error!(target: "schwann::axon", %error, "nonces cannot be kept: nothing is served");
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            }
            error => Refusal::new(StatusCode::UNAUTHORIZED, format!("{}: {error}", error.name())),
        };
        let claim = axon.btauth.open(pairs, &axon.address, now).map_err(refused)?;
        if let Some(hotkey) = claim.hotkey() {
            self.caller = Some(hotkey);
            self.read = true;
            listed(route, &hotkey)?;
        }
        json_type(&head.headers, verify)?;
        let timeout = head.headers.get("timeout").and_then(|text| text.to_str().ok());
        let timeout = timeout.and_then(crate::python::parse_python_float);
        let timeout = timeout.filter(|timeout| timeout.is_finite() && *timeout > 0.0);
        let timeout = timeout.map_or(limit, |timeout| {
            Duration::try_from_secs_f64(timeout).map_or(limit, |timeout| timeout.min(limit))
        });
        let bytes = self.read(body, &axon.unproven, self.started + timeout, timeout).await?;
        let sha256 = btauth::body_sha256(&bytes);
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        // The body took its time: freshness was judged when the head came, the nonce is used up now.
        let now = (axon.clock)();
        let verified = axon
            .btauth
            .admit(&claim, head.method.as_str(), target, &sha256, &axon.address, now)
            .map_err(refused)?;
        let caller = Caller {
            hotkey: verified.hotkey,
            verified: true,
            ip,
            port,
            protocol: Protocol::BtAuth1,
            timeout,
            version: None,
            uuid: None,
            nonce: verified.nonce,
            body_covered: true,
            headers: Arc::default(),
            exchange: Arc::clone(&self.tally),
        };
        // A signature is no way around what the route itself asks of its callers.
        self.verify_with(route, &caller).await?;
        self.blacklist(route, &caller).await?;
        if let Some(key) = claim.key() {
            axon.keys.served(key);
        }
        let mut body = parse_object(&bytes, verify)?;
        // W1, as with v10: a handler that looks for its caller here must not find what anybody wrote.
        let terminal =
            |field: &str| matches!(field, "dendrite" | "axon") && !route.endpoint.redefines(field);
        if body.keys().any(terminal) {
            self.axon.metrics.spoofed();
            body.retain(|field, _| !terminal(field));
        }
        Ok((caller, body, None, None))
    }

    /// The body, in time and within what bodies may take together.
    async fn read(
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
            debug!(target: "schwann::axon", synapse = self.name, message = %refusal.message, "stream cut");
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
                error!(target: "schwann::axon", synapse = self.name, error_id = %id, error = source, "call failed");
                format!("Internal Server Error #{id}")
            }
            _ => {
                if let Some(source) = &refusal.source {
                    debug!(target: "schwann::axon", synapse = self.name, error = chain(source), "call refused");
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
            name: if self.read { self.name } else { PING },
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
                synapse = self.name,
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
fn listed(route: &Route, hotkey: &Hotkey) -> Result<(), Refusal> {
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
fn json_type(headers: &HeaderMap, verify: Verify) -> Result<(), Refusal> {
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

fn parse_object(bytes: &[u8], verify: Verify) -> Result<Dict, Refusal> {
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

static EMPTY_HASH: LazyLock<String> = LazyLock::new(|| BodyHash::EMPTY.to_string());

const BTAUTH_VERSION: HeaderName = HeaderName::from_static("x-bittensor-version");

const BTAUTH_HEADERS: [HeaderName; 6] = [
    BTAUTH_VERSION,
    HeaderName::from_static("x-bittensor-hotkey"),
    HeaderName::from_static("x-bittensor-nonce"),
    HeaderName::from_static("x-bittensor-signature"),
    HeaderName::from_static("x-bittensor-receiver"),
    HeaderName::from_static("x-bittensor-crypto"),
];
