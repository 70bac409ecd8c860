//! The axon: serves synapses to v10 and `btauth/1` callers on one port.
//!
//! An [`Axon`] is a [`Handler`]: it runs in a [`schwann::Server`], with that server's limits. Requests pass these steps,
//! each cheaper than the next, and are refused at the first that fails:
//!
//! 1. the route exists (404), the method is POST or GET (405), the announced body is not too large (413);
//! 2. the headers are well-formed (400);
//! 3. the claimed hotkey is not on a deny list and on the allow list, if there is one (403);
//! 4. the nonce is fresh, the signature good, the nonce unused (401);
//! 5. the blacklist admits the caller (403);
//! 6. the body arrives in time (408), is JSON (422) of the synapse's shape (400), and has the signed hash (400);
//! 7. there is room, in the order of priorities (503, 408);
//! 8. the handler runs, until its deadline (408).
//!
//! Follows SDK 10.5.0 on the wire, and the specification of the differences in docs/protocol/synapse.md.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    fmt,
    future::poll_fn,
    net::{IpAddr, Ipv4Addr},
    pin::pin,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Poll, Waker},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header, request::Parts,
};
use schwann::{BlockingPool, Call, Error, Finished, Handler, Reply, ReplyStream, RequestBody};
use sha2::{Digest, Sha256};
use tokio::{
    task::unconstrained,
    time::{Instant, sleep_until},
};
use tracing::{Level, debug, error, event_enabled};
use uuid::Uuid;

pub use crate::route::{
    Filled, Route, SynapseError, UntypedRoute, streaming, unary, unary_blocking, untyped,
};
use crate::{
    admission::Admission,
    btauth,
    caller::{BOUND_SIGNATURE_HEADER, Bound, Caller, Protocol, Verdict, Verify, bound_message},
    hash::BodyHash,
    headers::{self, HeaderParts, Known, SynapseHeaders, parse_like_reference, parse_strict},
    keys::{BytesWrapping, KeyCache, Scheme, Signer, parse_signature_hex},
    memory::{Full, Memory, Taken, weight},
    metrics::{Metrics, RouteMetrics, Spoken, UNKNOWN},
    nonce::{Fresh, Freshness, MemoryNonceStore, NonceError, NonceStore, ReferenceNonces, now_ns},
    python::{Dict, Int, Value},
    route::{Answer, BodyFault, Outcome, Running},
    ss58::Hotkey,
    synapse::{DEFAULT_TIMEOUT, Envelope},
    terminal::TerminalInfo,
};

/// Serves synapses. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Axon(Arc<Inner>);

struct Inner {
    hotkey: Hotkey,
    /// The hotkey as callers must write it.
    address: String,
    uuid: String,
    version: i64,
    routes: HashMap<String, Attached>,
    unknown: RouteMetrics,
    /// Attach order, for the reference's 404.
    names: Vec<String>,
    verify: Verify,
    bound: Bound,
    max_body: u64,
    max_timeout: Duration,
    trusted_proxies: HashSet<IpAddr>,
    keys: Arc<KeyCache>,
    freshness: Freshness,
    nonces: Arc<dyn NonceStore>,
    reference_nonces: ReferenceNonces,
    /// Whether some routes verify like the reference and others do not.
    mixed: bool,
    btauth: btauth::Verifier,
    admission: Admission,
    pool: BlockingPool,
    /// Room for bodies on their way in, and for what becomes of them.
    arriving: Memory,
    held: Memory,
    /// For bodies of callers who are not proven yet: they cannot take the room of those who are.
    unproven: Memory,
    metrics: Metrics,
    clock: Clock,
}

struct Attached {
    route: Route,
    metrics: RouteMetrics,
}

type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// An [`Axon`] that is being put together.
pub struct AxonBuilder {
    hotkey: Hotkey,
    version: i64,
    routes: Vec<Route>,
    verify: Verify,
    bound: Bound,
    max_body: u64,
    max_bodies: u64,
    max_timeout: Duration,
    trusted_proxies: HashSet<IpAddr>,
    nonces: Option<Arc<dyn NonceStore>>,
    freshness: Option<Freshness>,
    keys: Option<KeyCache>,
    admission: Admission,
    pool: BlockingPool,
    metrics: Metrics,
    clock: Clock,
}

/// Why an axon cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Two routes have the same name.
    #[error("two routes are called `{0}`")]
    Duplicate(String),
    /// A route's name cannot be the first segment of a path.
    #[error("`{0}` cannot be the name of a route: it is empty or has a `/` in it")]
    Name(String),
    /// A route demands signed bodies and has [`Verify::Nothing`], which checks no signature.
    #[error("route `{0}` demands signed bodies, and verifies nothing")]
    Unverifiable(String),
    /// The system gave no random bytes, without which nonces cannot be kept.
    #[error("no random bytes for the nonce store")]
    Random(#[from] crate::keys::KeyError),
}

/// The SDK version this axon says it has, as an integer: 10.5.0.
const VERSION: i64 = 10_005_000;

impl Axon {
    /// An axon without routes, but for the ping that every axon has: `Synapse`, which echoes.
    pub fn builder(signer: impl Signer) -> AxonBuilder {
        AxonBuilder {
            hotkey: signer.hotkey(),
            version: VERSION,
            routes: Vec::new(),
            verify: Verify::default(),
            bound: Bound::default(),
            max_body: 16 * 1024 * 1024,
            max_bodies: 256 * 1024 * 1024,
            max_timeout: Duration::from_secs(300),
            trusted_proxies: HashSet::new(),
            nonces: None,
            freshness: None,
            keys: None,
            admission: Admission::new(1024, 1024),
            pool: BlockingPool::default(),
            metrics: Metrics::new(),
            clock: Arc::new(now_ns),
        }
    }

    /// The hotkey that callers sign for.
    pub fn hotkey(&self) -> Hotkey {
        self.0.hotkey
    }

    /// The routes, in the order they were attached.
    pub fn routes(&self) -> &[String] {
        &self.0.names
    }

    /// The counters, to be served on a listener of their own.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }
}

impl AxonBuilder {
    /// Adds a route.
    #[must_use]
    pub fn attach(mut self, route: Route) -> Self {
        self.routes.push(route);
        self
    }

    /// How requests are verified, unless a route says otherwise. Default: [`Verify::Hardened`].
    #[must_use]
    pub fn verify(mut self, verify: Verify) -> Self {
        self.verify = verify;
        self
    }

    /// Whether v10 callers must sign their whole requests, unless a route says otherwise. Default: [`Bound::Optional`].
    #[must_use]
    pub fn bound(mut self, bound: Bound) -> Self {
        self.bound = bound;
        self
    }

    /// The largest body, in bytes, unless a route says otherwise. Default: 16 MiB.
    #[must_use]
    pub fn max_body(mut self, bytes: u64) -> Self {
        self.max_body = bytes;
        self
    }

    /// The most memory that bodies on their way in may take together, in bytes, and the most that all calls under way may
    /// take for what their JSON becomes, which can be thirty times its text. Small bodies need no room. Default: 256 MiB
    /// each. Callers beyond it wait, and get 503 after 5 s. Bodies of `btauth/1`, which come before their caller is proven,
    /// have a quarter of that for themselves and no more.
    #[must_use]
    pub fn max_bodies(mut self, bytes: u64) -> Self {
        self.max_bodies = bytes;
        self
    }

    /// The longest a call may take, unless a route says otherwise; callers may ask for less. Default: 300 s.
    #[must_use]
    pub fn max_timeout(mut self, timeout: Duration) -> Self {
        self.max_timeout = timeout;
        self
    }

    /// How many calls run at a time, and how many wait for that in the order of their priorities. Default: 1,024 each.
    ///
    /// # Panics
    /// Panics if `running` is 0.
    #[must_use]
    pub fn room(mut self, running: usize, waiting: usize) -> Self {
        self.admission = Admission::new(running, waiting);
        self
    }

    /// The threads of synchronous handlers. Default: 32.
    #[must_use]
    pub fn pool(mut self, pool: BlockingPool) -> Self {
        self.pool = pool;
        self
    }

    /// Believes `X-Forwarded-For` of these addresses. Default: of none (W16).
    #[must_use]
    pub fn trusted_proxies(mut self, proxies: impl IntoIterator<Item = IpAddr>) -> Self {
        self.trusted_proxies.extend(proxies);
        self
    }

    /// Where nonces are remembered. Default: in memory, and then nonces from before this axon was built are refused.
    #[must_use]
    pub fn nonce_store(mut self, store: impl NonceStore) -> Self {
        self.nonces = Some(Arc::new(store));
        self
    }

    /// Which nonces are fresh. Default: as [`Freshness::since`] now, or without its floor if the store survives restarts.
    #[must_use]
    pub fn freshness(mut self, freshness: Freshness) -> Self {
        self.freshness = Some(freshness);
        self
    }

    /// Keeps the keys of known callers. Default: 16,384 of any network.
    #[must_use]
    pub fn keys(mut self, keys: KeyCache) -> Self {
        self.keys = Some(keys);
        self
    }

    /// Counts here, together with whatever else does. Default: counters of its own.
    #[must_use]
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// Tells the time, in nanoseconds since 1970. Default: the system's clock. For recorded requests.
    #[must_use]
    pub fn clock(mut self, clock: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The axon.
    ///
    /// # Errors
    /// Names the route that cannot be.
    pub fn build(mut self) -> Result<Axon, BuildError> {
        if !self.routes.iter().any(|route| route.name() == PING) {
            self.routes.insert(0, untyped(PING).unary(async |ask, _| Ok::<_, SynapseError>(ask)));
        }
        let nonces = match self.nonces {
            Some(nonces) => nonces,
            None => Arc::new(MemoryNonceStore::new()?),
        };
        let start = (self.clock)();
        let freshness = self.freshness.unwrap_or_else(|| {
            if nonces.survives_restart() {
                Freshness::without_floor()
            } else {
                Freshness::since(start)
            }
        });
        let keys = Arc::new(self.keys.unwrap_or_default());
        let btauth = btauth::Verifier::new(Arc::clone(&keys), Arc::clone(&nonces))
            .not_before(freshness.floor_ns());
        let mut modes = self.routes.iter().map(|route| route.verify.unwrap_or(self.verify));
        let mixed = modes.clone().any(|mode| mode == Verify::LikeReference)
            && modes.any(|mode| mode != Verify::LikeReference);
        let mut routes = HashMap::with_capacity(self.routes.len());
        let mut names = Vec::with_capacity(self.routes.len());
        for route in self.routes {
            let name = route.name().to_owned();
            if name.is_empty() || name.contains('/') {
                return Err(BuildError::Name(name));
            }
            let nothing = route.verify.unwrap_or(self.verify) == Verify::Nothing;
            let bound = route.bound.unwrap_or(self.bound);
            if nothing && route.verify_with.is_none() && bound != Bound::Optional {
                return Err(BuildError::Unverifiable(name));
            }
            let metrics = self.metrics.route(&name);
            names.push(name.clone());
            if routes.insert(name.clone(), Attached { route, metrics }).is_some() {
                return Err(BuildError::Duplicate(name));
            }
        }
        Ok(Axon(Arc::new(Inner {
            address: self.hotkey.to_string(),
            hotkey: self.hotkey,
            uuid: Uuid::new_v4().to_string(),
            version: self.version,
            routes,
            unknown: self.metrics.route(UNKNOWN),
            names,
            verify: self.verify,
            bound: self.bound,
            max_body: self.max_body,
            max_timeout: self.max_timeout,
            trusted_proxies: self.trusted_proxies,
            keys,
            freshness,
            nonces,
            reference_nonces: ReferenceNonces::default(),
            mixed,
            btauth,
            admission: self.admission,
            pool: self.pool,
            arriving: Memory::new(self.max_bodies),
            held: Memory::new(self.max_bodies),
            unproven: Memory::new(self.max_bodies / 4),
            metrics: self.metrics,
            clock: self.clock,
        })))
    }
}

/// How much longer than its deadline a stream may go on whose caller has not left by then.
const GRACE: Duration = Duration::from_millis(500);

/// The route every axon has.
const PING: &str = "Synapse";

impl Handler for Axon {
    async fn call(&self, call: Call) -> Result<Finished, Error> {
        let started = Instant::now();
        let axon = &*self.0;
        let peer = call.peer();
        let (head, body, reply) = call.into_parts();
        let name = route_name(head.uri.path());
        let attached = axon.routes.get(&*name);
        let metrics = attached.map_or(&axon.unknown, |attached| &attached.metrics);
        let mut exchange = Exchange {
            axon,
            metrics,
            name: &name,
            started,
            spoken: Spoken::v10,
            caller: None,
            read: false,
            tally: Arc::default(),
            status: None,
            timeout: None,
            room: Taken::default(),
        };
        let served = match attached {
            Some(attached) => exchange.serve(attached, &head, body, reply, peer).await,
            None => Err(Refusal::unknown(axon, &name)),
        };
        match served {
            Ok(finished) => Ok(finished),
            Err(refusal) => Err(exchange.refuse(refusal)),
        }
    }
}

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
fn route_name(path: &str) -> Cow<'_, str> {
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
struct Exchange<'a> {
    axon: &'a Inner,
    metrics: &'a RouteMetrics,
    name: &'a str,
    started: Instant,
    spoken: Spoken,
    caller: Option<Hotkey>,
    /// Whether the headers were well-formed. Until then the reference answers as a synapse of no class.
    read: bool,
    tally: Arc<Tally>,
    /// Set once the exchange has an end; without one, the client left.
    status: Option<u16>,
    timeout: Option<f64>,
    /// What this call takes of the room for what bodies become.
    room: Taken,
}

/// Bytes that went either way, and whether a reply was begun.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    received: AtomicU64,
    sent: AtomicU64,
    /// The status the reply started with, or 0.
    started: AtomicU64,
    /// Whether nobody waits for the answer any more.
    over: AtomicBool,
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
    async fn serve(
        &mut self,
        attached: &Attached,
        head: &Parts,
        body: RequestBody,
        reply: Reply,
        peer: Option<std::net::SocketAddr>,
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
    fn refuse(&mut self, refusal: Refusal) -> Error {
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
    fn origin(&self, headers: &HeaderMap, peer: Option<std::net::SocketAddr>) -> (IpAddr, u16) {
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

/// Why a request is not served.
struct Refusal {
    status: StatusCode,
    /// Empty for a server's fault, whose caller gets an id instead.
    message: String,
    source: Option<schwann::BoxError>,
    allow: Option<&'static str>,
    left: bool,
}

impl Refusal {
    fn new(status: StatusCode, message: String) -> Self {
        Self { status, message, source: None, allow: None, left: false }
    }

    fn internal(source: impl Into<Source>) -> Self {
        Self {
            source: Some(source.into().0),
            ..Self::new(StatusCode::INTERNAL_SERVER_ERROR, String::new())
        }
    }

    /// 404, worded as the reference words it; which routes there are is told only where the reference must be matched.
    fn unknown(axon: &Inner, name: &str) -> Self {
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

    fn method() -> Self {
        Self {
            allow: Some("POST, GET"),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed".to_owned())
        }
    }

    /// 400, or what the reference makes of it (W17).
    fn malformed(verify: Verify, mut message: String) -> Self {
        // It may quote the request, and no request chooses how long its answer is.
        shorten(&mut message, 300);
        match verify {
            Verify::LikeReference => Self::internal(message),
            _ => Self::new(StatusCode::BAD_REQUEST, message),
        }
    }

    fn twice(header: &str) -> Self {
        let text = format!("Malformed request: header `{header}` came more than once");
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    fn unverified(why: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, format!("Not Verified with error: {why}"))
    }

    fn blacklisted(reason: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, format!("Forbidden. Key is blacklisted: {reason}."))
    }

    fn crowded() -> Self {
        let text = "Service busy: too many large bodies at a time".to_owned();
        Self::new(StatusCode::SERVICE_UNAVAILABLE, text)
    }

    fn late(timeout: Duration) -> Self {
        let seconds = crate::python::float_repr(timeout.as_secs_f64());
        Self::new(StatusCode::REQUEST_TIMEOUT, format!("Response timeout after: {seconds}s"))
    }

    fn of(error: SynapseError, timeout: Duration) -> Self {
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

    fn of_core(error: Error) -> Self {
        let left = error.fault() == schwann::Fault::Disconnected;
        let message = error.public_message().to_owned();
        Self { left, source: Some(error.into()), ..Self::new(StatusCode::BAD_REQUEST, message) }
            .with_status_of_source()
    }

    fn with_status_of_source(mut self) -> Self {
        if let Some(error) = self.source.as_ref().and_then(|error| error.downcast_ref::<Error>()) {
            self.status = error.status();
        }
        self
    }
}

/// The copy of a message that goes into a header: the Python SDK refuses header lines beyond 8,190 bytes, and with them the
/// answer. The body has all of it.
fn for_header(mut message: String) -> String {
    shorten(&mut message, 1000);
    message
}

/// Cuts a text to at most so many bytes and three dots.
fn shorten(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        let end = (0..=bytes).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
    }
}

/// What a server's fault came from.
struct Source(schwann::BoxError);

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
fn chain(error: &schwann::BoxError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// What an answer says besides its body.
struct Face {
    name: String,
    axon: TerminalInfo,
    headers: Arc<SynapseHeaders>,
    protocol: Protocol,
    timeout: Option<f64>,
    hash: BodyHash,
}

impl Face {
    /// The head and the body of an answer that is not streamed (specification §9.1).
    fn whole(
        mut self,
        status: StatusCode,
        message: &str,
        took: f64,
        fields: Dict,
        envelope: &Envelope,
    ) -> Result<(Response<()>, Bytes), crate::python::NotJson> {
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
    fn stream(mut self, took: f64) -> Response<()> {
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
    reply: Reply,
    face: Face,
    started: Instant,
    tally: Arc<Tally>,
}

impl StreamReply {
    /// Sends status 200 and the synapse headers. What is written next follows as it comes; writes within a fraction of a
    /// millisecond may share a chunk.
    pub fn start(self) -> SynapseStream {
        let head = self.face.stream(self.started.elapsed().as_secs_f64());
        self.tally.started.store(200, Ordering::Relaxed);
        SynapseStream { stream: self.reply.start(head), tally: self.tally }
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
    tally: Arc<Tally>,
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
        self.tally.sent.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }

    /// Ends the answer.
    pub fn finish(self) -> Finished {
        self.stream.finish()
    }
}

fn write_headers<'a>(
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

impl fmt::Debug for Axon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Axon")
            .field("hotkey", &self.0.address)
            .field("routes", &self.0.names)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Axon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "axon({})", self.0.address)
    }
}

impl fmt::Debug for AxonBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AxonBuilder").field("routes", &self.routes).finish_non_exhaustive()
    }
}

impl fmt::Debug for Face {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Face").field("name", &self.name).finish_non_exhaustive()
    }
}
