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

mod btauth_request;
mod deadline;
mod pipeline;
mod refusal;
mod reply;
mod table;
mod under_way;
mod v10_request;

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    fmt,
    future::poll_fn,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use schwann::{BlockingPool, Call, Error, Finished, Handler};
use tokio::time::Instant;
use uuid::Uuid;

pub(crate) use self::pipeline::Tally;
pub use self::reply::{StreamReply, SynapseStream};
pub use self::table::RouteTable;
use self::{
    pipeline::{Exchange, route_name},
    refusal::Refusal,
    under_way::{Begun, Serving, UnderWay},
};
pub use crate::route::{
    Filled, Route, SynapseError, UntypedRoute, streaming, unary, unary_blocking, untyped,
};
use crate::{
    admission::Admission,
    btauth,
    caller::{Bound, Verify},
    keys::{KeyCache, Signer},
    memory::{Memory, Taken},
    metrics::{Metrics, RouteMetrics, Spoken, UNKNOWN},
    nonce::{Freshness, MemoryNonceStore, NonceStore, ReferenceNonces, now_ns},
    ss58::Hotkey,
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
    /// Routes that come and go, and the counters of all of them.
    table: RouteTable,
    of_table: RouteMetrics,
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
    table: Option<RouteTable>,
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
            table: None,
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

    /// Serves the routes of this table, too, as they come and go. Default: there is none.
    #[must_use]
    pub fn table(mut self, table: RouteTable) -> Self {
        self.table = Some(table);
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
        if self.table.is_some() && self.verify == Verify::Nothing && self.bound != Bound::Optional {
            return Err(BuildError::Unverifiable(TABLE.to_owned()));
        }
        let modes = self.routes.iter().map(|route| route.verify.unwrap_or(self.verify));
        let mut modes = modes.chain(self.table.is_some().then_some(self.verify));
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
            of_table: self.metrics.route(if self.table.is_some() { TABLE } else { UNKNOWN }),
            table: self.table.unwrap_or_default(),
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

/// The route every axon has.
const PING: &str = "Synapse";

/// The label of all routes of a table.
const TABLE: &str = "(table)";

impl Handler for Axon {
    fn call(&self, call: Call) -> impl Future<Output = Result<Finished, Error>> + Send {
        Serving::new(&self.0, call)
    }
}

impl Inner {
    /// Takes a call as far as it gets without waiting for its handler.
    async fn begin(&self, call: Call) -> Result<Begun<'_>, Error> {
        let started = Instant::now();
        let peer = call.peer();
        let (head, body, reply) = call.into_parts();
        let name = route_name(head.uri.path());
        let attached = self.routes.get_key_value(&*name);
        let of_table = if attached.is_none() { self.table.get(&name) } else { None };
        let (name, route, metrics) = match (attached, &of_table) {
            (Some((name, it)), _) => (Cow::Borrowed(&**name), Some(&it.route), &it.metrics),
            (None, Some(route)) => (name.into_owned().into(), Some(&**route), &self.of_table),
            (None, None) => (name.into_owned().into(), None, &self.unknown),
        };
        let mut exchange = Exchange {
            axon: self,
            metrics,
            name,
            started,
            spoken: Spoken::v10,
            caller: None,
            read: false,
            tally: Arc::default(),
            status: None,
            timeout: None,
            room: Taken::default(),
        };
        let admitted = match route {
            Some(route) => exchange.admit(route, &head, body, reply, peer).await,
            None => Err(Refusal::unknown(self, &exchange.name)),
        };
        let mut under_way = match admitted {
            Ok(admitted) => UnderWay::new(exchange, admitted),
            Err(refusal) => return Err(exchange.refuse(refusal)),
        };
        // Most handlers wait for nothing.
        match poll_fn(|cx| Poll::Ready(Pin::new(&mut under_way).poll(cx))).await {
            Poll::Ready(answered) => answered.map(Begun::Answered),
            Poll::Pending => Ok(Begun::UnderWay(Box::new(under_way))),
        }
    }
}

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
