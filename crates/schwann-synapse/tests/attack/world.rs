//! The axon under attack, and the bytes to attack it with.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, LazyLock, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use schwann::Server;
use schwann_synapse::{
    axon::{Axon, AxonBuilder, Filled, Route, SynapseError, unary, untyped},
    btauth,
    caller::{Bound, Caller, Verdict},
    hash::BodyHash,
    keys::{KeyCache, Keypair, Signer, signature_hex},
    nonce::{Freshness, NonceClock},
    python::Value,
    ss58::Hotkey,
    synapse::{Synapse, Untyped},
};
use serde::{Deserialize, Serialize};
use tokio::{runtime::Runtime, sync::oneshot, task::JoinHandle};

pub(crate) const NONCE: &str = "bt_header_dendrite_nonce";
pub(crate) const UUID: &str = "bt_header_dendrite_uuid";
pub(crate) const HOTKEY: &str = "bt_header_dendrite_hotkey";
pub(crate) const VERSION: &str = "bt_header_dendrite_version";
pub(crate) const SIGNATURE: &str = "bt_header_dendrite_signature";
pub(crate) const HASH: &str = "computed_body_hash";
pub(crate) const TIMEOUT: &str = "timeout";

/// The honest caller.
pub(crate) static ALICE: LazyLock<Keypair> =
    LazyLock::new(|| Keypair::from_uri("//Alice").unwrap());
/// Whom attackers would like to be.
pub(crate) static VICTIM: LazyLock<Keypair> =
    LazyLock::new(|| Keypair::from_uri("//Victim").unwrap());
/// On the deny list of `Denying`.
pub(crate) static MALLORY: LazyLock<Keypair> =
    LazyLock::new(|| Keypair::from_uri("//Mallory").unwrap());
pub(crate) static CLOCK: NonceClock = NonceClock::new();

/// One attack.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) tries: String,
    pub(crate) play: Play,
}

type Play = Box<dyn Fn(&World) -> Result<(), String>>;

/// What must happen to a request.
#[derive(Clone, Copy)]
pub(crate) enum Must {
    /// It is refused with one of these statuses; 0 stands for a connection closed without an answer.
    Refuse(&'static [u16]),
    /// It is an honest request, however odd: the handler runs once, for Alice.
    Serve,
}

pub(crate) const MALFORMED: Must = Must::Refuse(&[400]);
pub(crate) const UNVERIFIED: Must = Must::Refuse(&[401]);

/// An attack of one request.
pub(crate) fn case(
    name: impl Into<String>,
    tries: impl Into<String>,
    must: Must,
    request: impl Fn(&World) -> Request + 'static,
) -> Case {
    play(name, tries, move |world| world.expect(must, &request(world)))
}

/// The same on the axon that has always run.
pub(crate) fn case_of_old(
    name: impl Into<String>,
    tries: impl Into<String>,
    must: Must,
    request: impl Fn(&World) -> Request + 'static,
) -> Case {
    play(name, tries, move |world| world.expect_at(&world.lasting, must, &request(world)).map(drop))
}

/// An attack that takes more than one request.
pub(crate) fn play(
    name: impl Into<String>,
    tries: impl Into<String>,
    play: impl Fn(&World) -> Result<(), String> + 'static,
) -> Case {
    Case { name: name.into(), tries: tries.into(), play: Box::new(play) }
}

pub(crate) fn check(holds: bool, why: impl Into<String>) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why.into()) }
}

/// What the handlers saw.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    runs: Arc<AtomicUsize>,
    last: Arc<Mutex<Option<(Caller, String)>>>,
}

impl Seen {
    pub(crate) fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }

    pub(crate) fn last(&self) -> (Caller, String) {
        self.last.lock().unwrap().clone().expect("a handler ran")
    }

    fn saw(&self, caller: &Caller, fields: String) {
        *self.last.lock().unwrap() = Some((caller.clone(), fields));
        self.runs.fetch_add(1, Ordering::SeqCst);
    }

    /// An untyped handler that tells what it was given.
    pub(crate) fn route(&self, name: &str, hash: &[&str]) -> Route {
        let seen = self.clone();
        untyped(name).hash(hash.iter().copied()).unary(move |ask: Untyped, caller: Caller| {
            seen.saw(&caller, Value::Dict(ask.fields.clone()).py_repr());
            async move { Ok::<_, SynapseError>(ask) }
        })
    }
}

/// Every type that a class may hash.
#[derive(Clone, Debug, Serialize, Deserialize, Synapse)]
pub(crate) struct Typed {
    #[synapse(hash)]
    text: String,
    #[synapse(hash)]
    count: i64,
    #[synapse(hash)]
    ratio: f64,
    #[synapse(hash)]
    flag: bool,
}

/// An axon that listens until dropped.
pub(crate) struct Running {
    pub(crate) at: SocketAddr,
    pub(crate) address: String,
    task: JoinHandle<()>,
    shutdown: Option<oneshot::Sender<()>>,
}

impl Running {
    /// Ends it, and waits until it has let go of everything.
    pub(crate) fn stop(mut self, world: &World) {
        drop(self.shutdown.take());
        world.runtime.block_on(&mut self.task).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) struct World {
    _with: With,
    runtime: Runtime,
    pub(crate) axon: Running,
    /// As if it had always run: what is old is refused for its age, and not for being from before the start.
    pub(crate) lasting: Running,
    pub(crate) seen: Seen,
}

/// Limits short enough for a test of slow clients.
pub(crate) fn impatient() -> Server {
    Server {
        head_timeout: Duration::from_millis(300),
        stall_timeout: Duration::from_millis(300),
        ..Server::default()
    }
}

/// Tests that measure the memory of this process run alone in it.
static MEMORY: RwLock<()> = RwLock::new(());

#[expect(dead_code, reason = "held, not read")]
enum With {
    Others(RwLockReadGuard<'static, ()>),
    /// One of those others, which lives longer.
    Other,
    Nobody(RwLockWriteGuard<'static, ()>),
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(With::Others(MEMORY.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// With no other world beside it.
    pub(crate) fn alone() -> Self {
        Self::with(With::Nobody(MEMORY.write().unwrap_or_else(PoisonError::into_inner)))
    }

    /// For a while beside another world of the same test: to wait for a second turn could be for ever.
    pub(crate) fn beside(_other: &Self) -> Self {
        Self::with(With::Other)
    }

    fn with(with: With) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let seen = Seen::default();
        let axon = serve(&runtime, Self::routes(&seen), Server::default());
        let lasting = Self::routes(&seen).freshness(Freshness::without_floor());
        let lasting = serve(&runtime, lasting, Server::default());
        Self { _with: with, runtime, axon, lasting, seen }
    }

    /// The axon as it is by default, with a route for each thing to try.
    pub(crate) fn routes(seen: &Seen) -> AxonBuilder {
        let typed = seen.clone();
        Self::builder()
            .attach(seen.route("Echo", &["text"]))
            .attach(seen.route("Other", &["text"]))
            .attach(seen.route("Free", &[]))
            .attach(seen.route("Denying", &["text"]).deny([MALLORY.hotkey()]))
            .attach(seen.route("Allowing", &["text"]).allow([ALICE.hotkey()]))
            .attach(seen.route("Covered", &["text"]).bound(Bound::BodyCovered))
            .attach(seen.route("CoveredFree", &[]).bound(Bound::BodyCovered))
            .attach(seen.route("Bound", &[]).bound(Bound::Required))
            .attach(seen.route("Small", &["text"]).max_body(1000))
            .attach(seen.route("Splitting", &["text"]).blacklist(|_| {
                Verdict::Refuse("no\r\nset-cookie: stolen=1\r\n\r\nHTTP/1.1 200 OK\u{20ac}".into())
            }))
            .attach(untyped("SplittingStatus").unary(async |ask: Untyped, _| {
                let message = "odd\r\nset-cookie: stolen=1\r\n\r\n\u{1f600}".to_owned();
                let status = http::StatusCode::IM_A_TEAPOT;
                Ok::<_, SynapseError>(Filled::with_status(ask, status, message))
            }))
            .attach(untyped("Wordy").unary(async |_: Untyped, _| {
                Err::<Untyped, _>(SynapseError::new(http::StatusCode::CONFLICT, "w".repeat(50_000)))
            }))
            .attach(untyped("Panicking").unary(async |ask: Untyped, _| {
                assert!(ask.fields.is_empty(), "a handler that panics, on purpose");
                Ok::<_, SynapseError>(ask)
            }))
            .attach(unary(move |ask: Typed, caller: Caller| {
                typed.saw(&caller, format!("{ask:?}"));
                async move { Ok::<_, SynapseError>(ask) }
            }))
    }

    pub(crate) fn builder() -> AxonBuilder {
        Axon::builder(Keypair::from_uri("//Axon").unwrap())
    }

    /// Another axon in this process.
    pub(crate) fn serve(&self, builder: AxonBuilder, server: Server) -> Running {
        serve(&self.runtime, builder, server)
    }

    /// Serves Alice so often that her signatures are verified with a table.
    pub(crate) fn regular(&self) -> Result<(), String> {
        (0..KeyCache::OFTEN).try_for_each(|_| {
            let lasting = V10::new(&self.lasting, "Echo").request();
            self.expect_at(&self.lasting, Must::Serve, &lasting)?;
            self.serves_an_honest_caller()
        })
    }

    /// Waits for something that happens in a handler.
    pub(crate) fn wait(&self, event: impl Future<Output = ()>) {
        self.runtime.block_on(event);
    }

    /// A request that the axon serves.
    pub(crate) fn good(&self) -> Request {
        V10::new(&self.axon, "Echo").request()
    }

    pub(crate) fn expect(&self, must: Must, request: &Request) -> Result<(), String> {
        self.expect_at(&self.axon, must, request).map(drop)
    }

    pub(crate) fn expect_at(
        &self,
        axon: &Running,
        must: Must,
        request: &Request,
    ) -> Result<Answer, String> {
        self.expect_bytes(axon, must, &request.bytes())
    }

    pub(crate) fn expect_bytes(
        &self,
        axon: &Running,
        must: Must,
        bytes: &[u8],
    ) -> Result<Answer, String> {
        let before = self.seen.runs();
        let answer = send(axon.at, bytes);
        let ran = self.seen.runs() - before;
        let seen = format!("status {}, {ran} runs: {}", answer.status, answer.text());
        match must {
            Must::Refuse(statuses) => {
                check(ran == 0, format!("FALSE ACCEPT: {seen}"))?;
                check(statuses.contains(&answer.status), format!("not {statuses:?}: {seen}"))?;
                check(answer.bytes.len() < 3000, format!("a long answer: {}", answer.bytes.len()))?;
            }
            Must::Serve => {
                check(answer.status == 200 && ran == 1, format!("not served: {seen}"))?;
                let (caller, _) = self.seen.last();
                let honest = caller.hotkey == ALICE.hotkey() && caller.verified;
                check(honest, format!("the handler saw {caller:?}"))?;
            }
        }
        check(
            !answer.text().contains("bt_header_axon_signature"),
            "W7: the axon signed something",
        )?;
        Ok(answer)
    }

    /// The axon lives, and runs the handler once for one request.
    pub(crate) fn serves_an_honest_caller(&self) -> Result<(), String> {
        self.expect(Must::Serve, &self.good()).map_err(|why| format!("an honest caller: {why}"))
    }
}

fn serve(runtime: &Runtime, builder: AxonBuilder, server: Server) -> Running {
    let axon = builder.build().unwrap();
    let address = axon.hotkey().to_string();
    let listener = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        socket.listen(1024).unwrap()
    });
    let at = listener.local_addr().unwrap();
    let (shutdown, stopped) = oneshot::channel();
    let task = runtime.spawn(async move {
        server.run(listener, axon, async move { drop(stopped.await) }).await;
    });
    Running { at, address, task, shutdown: Some(shutdown) }
}

/// A v10 request before it is signed.
#[derive(Clone)]
pub(crate) struct V10 {
    pub(crate) key: Keypair,
    pub(crate) hotkey: String,
    pub(crate) receiver: String,
    pub(crate) nonce: String,
    pub(crate) uuid: String,
    pub(crate) hash: String,
    pub(crate) route: String,
    pub(crate) body: Vec<u8>,
}

pub(crate) const BODY: &str = r#"{"text": "hello"}"#;

impl V10 {
    pub(crate) fn new(axon: &Running, route: &str) -> Self {
        let hash = match route {
            "Free" | "Bound" | "CoveredFree" | "Synapse" | "SplittingStatus" | "Wordy"
            | "Panicking" => hash_of(&[]),
            _ => hash_of(&[Value::from("hello")]),
        };
        Self {
            key: ALICE.clone(),
            hotkey: ALICE.hotkey().to_string(),
            receiver: axon.address.clone(),
            nonce: CLOCK.next().to_string(),
            uuid: "a1b2c3-lane".to_owned(),
            hash,
            route: route.to_owned(),
            body: BODY.as_bytes().to_vec(),
        }
    }

    pub(crate) fn by(mut self, key: &Keypair) -> Self {
        self.key = key.clone();
        self.hotkey = key.hotkey().to_string();
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn hash(mut self, values: &[Value]) -> Self {
        self.hash = hash_of(values);
        self
    }

    pub(crate) fn nonce(mut self, nonce: impl ToString) -> Self {
        self.nonce = nonce.to_string();
        self
    }

    pub(crate) fn message(&self) -> String {
        let Self { nonce, hotkey, receiver, uuid, hash, .. } = self;
        format!("{nonce}.{hotkey}.{receiver}.{uuid}.{hash}")
    }

    /// With the right signature.
    pub(crate) fn request(&self) -> Request {
        self.signed(&self.message())
    }

    /// With a signature over another message.
    pub(crate) fn signed(&self, message: &str) -> Request {
        self.with(&signature_hex(&self.key.sign(message.as_bytes())))
    }

    /// With this for a signature.
    pub(crate) fn with(&self, signature: &str) -> Request {
        let headers = [
            ("host", "127.0.0.1"),
            ("name", &self.route),
            ("timeout", "12.0"),
            ("bt_header_axon_ip", "127.0.0.1"),
            ("bt_header_axon_port", "8091"),
            ("bt_header_axon_hotkey", &self.receiver),
            ("bt_header_dendrite_ip", "10.0.0.1"),
            (VERSION, "10005000"),
            (NONCE, &self.nonce),
            (UUID, &self.uuid),
            (HOTKEY, &self.hotkey),
            (SIGNATURE, signature),
            ("header_size", "464"),
            ("total_size", "2900"),
            (HASH, &self.hash),
            ("content-type", "application/json"),
        ];
        Request {
            method: "POST".to_owned(),
            target: format!("/{}", self.route),
            headers: headers.map(|(name, value)| (name.into(), value.into())).into(),
            body: self.body.clone(),
        }
    }
}

/// A `btauth/1` request before it is signed.
#[derive(Clone)]
pub(crate) struct BtAuth {
    pub(crate) key: Keypair,
    pub(crate) hotkey: String,
    pub(crate) receiver: Option<String>,
    pub(crate) nonce: i128,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) body: Vec<u8>,
}

impl BtAuth {
    pub(crate) fn new(axon: &Running, route: &str) -> Self {
        Self {
            key: ALICE.clone(),
            hotkey: ALICE.hotkey().to_string(),
            receiver: Some(axon.address.clone()),
            nonce: CLOCK.next().into(),
            method: "POST".to_owned(),
            target: format!("/{route}"),
            body: BODY.as_bytes().to_vec(),
        }
    }

    pub(crate) fn message(&self) -> Vec<u8> {
        btauth::payload(
            self.key.scheme(),
            &self.method,
            &self.target,
            &btauth::body_sha256(&self.body),
            self.nonce,
            &self.hotkey,
            self.receiver.as_deref(),
        )
    }

    pub(crate) fn request(&self) -> Request {
        self.with(&signature_hex(&self.key.sign(&self.message())))
    }

    pub(crate) fn with(&self, signature: &str) -> Request {
        let mut headers: Vec<(Vec<u8>, Vec<u8>)> = [
            ("host", "127.0.0.1"),
            ("X-Bittensor-Version", "1"),
            ("X-Bittensor-Hotkey", &self.hotkey),
            ("X-Bittensor-Nonce", &self.nonce.to_string()),
            ("X-Bittensor-Signature", signature),
            ("content-type", "application/json"),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .into();
        if let Some(receiver) = &self.receiver {
            headers.push((b"X-Bittensor-Receiver".into(), receiver.clone().into()));
        }
        Request {
            method: self.method.clone(),
            target: self.target.clone(),
            headers,
            body: self.body.clone(),
        }
    }
}

/// The hash of these fields.
pub(crate) fn hash_of(values: &[Value]) -> String {
    BodyHash::of(|hasher| values.iter().for_each(|value| hasher.value(value))).to_string()
}

/// A key's address on another network.
pub(crate) fn foreign(hotkey: Hotkey, prefix: u16) -> String {
    schwann_synapse::ss58::Ss58 { prefix, key: *hotkey.as_bytes() }.to_string()
}

/// A request as it will be written, to be bent first.
#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    fn is(name: &[u8], header: &str) -> bool {
        name.eq_ignore_ascii_case(header.as_bytes())
    }

    pub(crate) fn value(&self, name: &str) -> String {
        let found = self.headers.iter().find(|(header, _)| Self::is(header, name));
        String::from_utf8(found.expect("a header of that name").1.clone()).unwrap()
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        let before = self.headers.len();
        self.headers.retain(|(header, _)| !Self::is(header, name));
        assert_ne!(before, self.headers.len(), "no header {name} to take out");
        self
    }

    /// Replaces a header where it is, or adds it.
    pub(crate) fn set(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref().to_vec();
        match self.headers.iter_mut().find(|(header, _)| Self::is(header, name)) {
            Some((_, old)) => *old = value,
            None => self.headers.push((name.into(), value)),
        }
        self
    }

    pub(crate) fn map(self, name: &str, change: impl Fn(String) -> Vec<u8>) -> Self {
        let value = change(self.value(name));
        self.set(name, value)
    }

    /// Adds a header, whatever there is already.
    pub(crate) fn add(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    pub(crate) fn rename(mut self, name: &str, to: &str) -> Self {
        for (header, _) in &mut self.headers {
            if Self::is(header, name) {
                *header = to.into();
            }
        }
        self
    }

    pub(crate) fn target(mut self, target: &str) -> Self {
        self.target = target.to_owned();
        self
    }

    pub(crate) fn method(mut self, method: &str) -> Self {
        self.method = method.to_owned();
        self
    }

    pub(crate) fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self
    }

    /// The head without its length and its last line.
    pub(crate) fn head(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    }

    /// The head with these lines at its end, and then these bytes.
    pub(crate) fn framed(&self, lines: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
        [&self.head(), lines.as_bytes(), b"\r\n", body.as_ref()].concat()
    }

    /// All of it, on a connection of its own.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let lines = format!("connection: close\r\ncontent-length: {}\r\n", self.body.len());
        self.framed(&lines, &self.body)
    }
}

/// What came back until the axon closed.
pub(crate) struct Answer {
    /// 0 if there was none.
    pub(crate) status: u16,
    pub(crate) bytes: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The statuses of all answers in it. No body here looks like a status line.
    pub(crate) fn statuses(&self) -> Vec<u16> {
        let text = self.text();
        let heads = text.match_indices("HTTP/1.1 ").chain(text.match_indices("HTTP/1.0 "));
        heads.map(|(at, _)| text[at + 9..at + 12].parse().unwrap_or(0)).collect()
    }
}

/// Sends bytes and reads until the axon closes.
pub(crate) fn send(at: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = connect(at);
    // An axon that refuses early does not read the rest.
    let _ = stream.write_all(bytes);
    read(stream)
}

pub(crate) fn connect(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(at).unwrap();
    // No measure: the largest bodies take long where tests are not optimized and the machine is busy.
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

pub(crate) fn read(mut stream: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                bytes.extend_from_slice(b"(and then nothing, without an end)");
                break;
            }
            Err(_) => break,
        }
    }
    let status = match bytes.get(..12) {
        Some(line) if line.starts_with(b"HTTP/1.") => {
            std::str::from_utf8(&line[9..]).unwrap().parse().unwrap()
        }
        _ => 0,
    };
    Answer { status, bytes }
}

/// What this process holds in memory.
pub(crate) fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}
