//! Drives a server: the same signed requests, whoever serves them, on connections that are kept.
//!
//! Told a job, it signs and connects, says that it is prepared, and starts when told to. So whoever measures the server
//! measures nothing else.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use schwann_synapse::keys::{Keypair, Signer as _, signature_hex};
use serde::Deserialize;
use serde_json::{Value, json};
use sha3::{Digest as _, Sha3_256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

use crate::{Failure, hear, say};

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// Requests one after the other on each connection.
    Unary,
    /// A stream on each connection, read to its end.
    Stream,
    /// Streams that have all begun, watched for a while.
    Paced,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Good,
    BadSignature,
    UnknownRoute,
    DeniedCaller,
}

#[derive(Deserialize)]
struct Job {
    port: u16,
    hotkey: String,
    mode: Mode,
    synapse: String,
    kind: Kind,
    connections: usize,
    #[serde(default)]
    requests: usize,
    #[serde(default)]
    tokens: u64,
    #[serde(default)]
    delay: f64,
    /// Seconds that paced streams are watched.
    #[serde(default)]
    window: f64,
}

/// Nonces of one hotkey are remembered for a minute and limited in number, so there are several.
const CALLERS: usize = 16;

pub(crate) fn run() -> Result<(), Failure> {
    let callers = (0..CALLERS).map(|n| Keypair::from_uri(&format!("//bench-load-{n}")));
    let callers: Vec<_> = callers.collect::<Result<_, _>>()?;
    let denied = Keypair::from_uri("//bench-denied")?;
    // One thread: the other cores are the server's.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    say(&json!({ "ready": true, "denied": denied.hotkey().to_string() }))?;
    let mut run = 0;
    let mut paced = JoinSet::new();
    while let Some(job) = hear()? {
        // Not before: to be left costs a server time that is no token's.
        runtime.block_on(paced.shutdown());
        let job: Job = serde_json::from_value(job)?;
        run += 1;
        let signing = Signing { callers: &callers, denied: &denied, job: &job, run };
        let prepared = runtime.block_on(prepare(&job, &signing))?;
        say(&json!({ "prepared": true }))?;
        if hear()?.is_none() {
            return Ok(());
        }
        let result = runtime.block_on(prepared.go(&job, &mut paced))?;
        say(&result)?;
    }
    Ok(())
}

struct Signing<'a> {
    callers: &'a [Keypair],
    denied: &'a Keypair,
    job: &'a Job,
    run: u32,
}

impl Signing<'_> {
    /// Requests for one connection, with rising nonces.
    fn requests(&self, connection: usize, count: usize) -> Vec<Vec<u8>> {
        let caller = match self.job.kind {
            Kind::DeniedCaller => self.denied,
            _ => &self.callers[(connection + self.run as usize) % CALLERS],
        };
        let hotkey = caller.hotkey().to_string();
        let uuid = format!("bench-{}-{}-{connection}", std::process::id(), self.run);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let base = u64::try_from(since.as_nanos()).unwrap_or_default();
        (0..count as u64).map(|n| self.request(caller, &hotkey, &uuid, base + n)).collect()
    }

    fn request(&self, caller: &Keypair, hotkey: &str, uuid: &str, nonce: u64) -> Vec<u8> {
        let job = self.job;
        let (own, hashed, inputs) = self.own();
        let hash = match hashed.as_slice() {
            [] => sha3(""),
            fields => sha3(&fields.iter().map(|field| sha3(field)).collect::<String>()),
        };
        let message = format!("{nonce}.{hotkey}.{}.{uuid}.{hash}", job.hotkey);
        let mut signature = caller.sign(message.as_bytes());
        if job.kind == Kind::BadSignature {
            // The commitment, not the scalar: the arithmetic is done and comes to nothing.
            let message = format!("{message} and more");
            signature[32..].copy_from_slice(&caller.sign(message.as_bytes())[32..]);
        }
        let signature = signature_hex(&signature);
        let terminal = |ip: &str, hotkey: &str| {
            json!({
                "status_code": null, "status_message": null, "process_time": null, "ip": ip, "port": null,
                "version": null, "nonce": null, "uuid": null, "hotkey": hotkey, "signature": null,
            })
        };
        let mut dendrite = terminal("203.0.113.7", hotkey);
        dendrite["version"] = json!(10_005_000);
        dendrite["nonce"] = json!(nonce);
        dendrite["uuid"] = json!(uuid);
        dendrite["signature"] = json!(signature);
        let mut axon = terminal("127.0.0.1", &job.hotkey);
        axon["port"] = json!(job.port);
        let mut body = json!({
            "name": job.synapse, "timeout": 60.0, "total_size": 3000, "header_size": 0, "dendrite": dendrite,
            "axon": axon, "computed_body_hash": "",
        });
        if let (Value::Object(body), Value::Object(own)) = (&mut body, own) {
            body.extend(own);
        }
        let body = body.to_string();
        let route = match job.kind {
            Kind::UnknownRoute => "NoSuchSynapse",
            _ => &job.synapse,
        };
        let (port, size) = (job.port, body.len());
        let mut request = format!(
            "POST /{route} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nname: {}\r\ntimeout: 60.0\r\n\
             bt_header_axon_ip: 127.0.0.1\r\nbt_header_axon_port: {port}\r\nbt_header_axon_hotkey: {}\r\n\
             bt_header_dendrite_ip: 203.0.113.7\r\nbt_header_dendrite_version: 10005000\r\n\
             bt_header_dendrite_nonce: {nonce}\r\nbt_header_dendrite_uuid: {uuid}\r\n\
             bt_header_dendrite_hotkey: {hotkey}\r\nbt_header_dendrite_signature: {signature}\r\n",
            job.synapse, job.hotkey,
        );
        for (field, placeholder) in inputs {
            request += &format!("bt_header_input_obj_{field}: {placeholder}\r\n");
        }
        request += &format!(
            "header_size: 464\r\ntotal_size: 3000\r\ncomputed_body_hash: {hash}\r\nAccept: */*\r\n\
             Accept-Encoding: gzip, deflate\r\nUser-Agent: Python/3.11 aiohttp/3.11\r\nContent-Length: {size}\r\n\
             Content-Type: application/json\r\n\r\n{body}",
        );
        request.into_bytes()
    }

    /// Own fields, the texts that are hashed, and placeholders.
    fn own(&self) -> (Value, Vec<&'static str>, &'static [(&'static str, &'static str)]) {
        match self.job.synapse.as_str() {
            "EchoSynapse" => (
                json!({
                    "text": "hello", "count": 3, "ratio": 0.5, "flag": false, "note": "n",
                    "items": [1, "two"], "table": { "k": 1 }, "reply": null,
                }),
                vec!["hello", "3"],
                &[("text", "IiI="), ("count", "MA==")],
            ),
            "StreamSynapse" => (
                json!({
                    "prompt": "go", "n_tokens": self.job.tokens, "delay": self.job.delay, "completion": null,
                }),
                vec!["go"],
                &[],
            ),
            _ => (json!({ "x": 21, "y": null }), Vec::new(), &[]),
        }
    }
}

fn sha3(text: &str) -> String {
    hex::encode(Sha3_256::digest(text.as_bytes()))
}

enum Prepared {
    Unary(Vec<(Client, Vec<Vec<u8>>)>),
    Streams(Vec<(Client, Vec<u8>)>),
    Paced { begun: Arc<AtomicU64>, streams: JoinSet<io::Result<()>> },
}

/// Requests that each connection makes before it is measured.
const WARM_UP: usize = 5;

async fn prepare(job: &Job, signing: &Signing<'_>) -> Result<Prepared, Failure> {
    if job.mode == Mode::Unary {
        let each = job.requests.div_ceil(job.connections);
        let mut clients = Vec::new();
        for connection in 0..job.connections {
            let mut requests = signing.requests(connection, WARM_UP + each);
            let rest = requests.split_off(WARM_UP);
            let mut client = Client::connect(job.port).await?;
            for request in requests {
                client.ask(&request).await?;
            }
            clients.push((client, rest));
        }
        return Ok(Prepared::Unary(clients));
    }
    let mut clients = Vec::new();
    for connection in 0..job.connections {
        let request = signing.requests(connection, 1).swap_remove(0);
        clients.push((Client::connect(job.port).await?, request));
    }
    if job.mode == Mode::Stream {
        return Ok(Prepared::Streams(clients));
    }
    let tokens = Arc::new(AtomicU64::new(0));
    let mut streams = JoinSet::new();
    let (begun, mut begins) = tokio::sync::mpsc::channel(job.connections);
    for (mut client, request) in clients {
        let (tokens, begun) = (Arc::clone(&tokens), begun.clone());
        streams.spawn(async move {
            client.begin(&request).await?;
            let mut first = Some(begun);
            while let Some(more) = client.tokens().await? {
                tokens.fetch_add(more, Ordering::Relaxed);
                if more > 0
                    && let Some(begun) = first.take()
                {
                    let _ = begun.send(()).await;
                }
            }
            Err(io::Error::other("a paced stream ended"))
        });
    }
    drop(begun);
    for _ in 0..job.connections {
        tokio::select! {
            begun = begins.recv() => begun.ok_or("a paced stream did not begin")?,
            Some(ended) = streams.join_next() => ended??,
        }
    }
    Ok(Prepared::Paced { begun: tokens, streams })
}

impl Prepared {
    /// Streams that have not ended are left in `paced`.
    async fn go(self, job: &Job, paced: &mut JoinSet<io::Result<()>>) -> Result<Value, Failure> {
        let started = Instant::now();
        match self {
            Self::Unary(clients) => {
                let mut running = JoinSet::new();
                for (mut client, requests) in clients {
                    running.spawn(async move {
                        let mut seen = Vec::with_capacity(requests.len());
                        for request in requests {
                            let sent = Instant::now();
                            seen.push((client.ask(&request).await?, sent.elapsed()));
                        }
                        Ok::<_, io::Error>(seen)
                    });
                }
                let mut codes = BTreeMap::new();
                let mut waits = Vec::new();
                while let Some(done) = running.join_next().await {
                    for (code, wait) in done?? {
                        *codes.entry(code.to_string()).or_insert(0) += 1;
                        waits.push(wait);
                    }
                }
                waits.sort_unstable();
                let micros =
                    |part: usize| waits[(waits.len() - 1) * part / 100].as_secs_f64() * 1e6;
                Ok(json!({
                    "operations": waits.len(), "codes": codes, "seconds": started.elapsed().as_secs_f64(),
                    "p50_us": micros(50), "p99_us": micros(99),
                }))
            }
            Self::Streams(clients) => {
                let wanted = job.tokens;
                let mut running = JoinSet::new();
                for (mut client, request) in clients {
                    running.spawn(async move {
                        client.begin(&request).await?;
                        let mut seen = 0;
                        while seen < wanted {
                            match client.tokens().await? {
                                Some(more) => seen += more,
                                None => return Err(io::Error::other("a stream was cut")),
                            }
                        }
                        Ok(seen)
                    });
                }
                let mut tokens = 0;
                while let Some(done) = running.join_next().await {
                    tokens += done??;
                }
                Ok(json!({ "operations": tokens, "seconds": started.elapsed().as_secs_f64() }))
            }
            Self::Paced { begun, mut streams } => {
                let before = begun.load(Ordering::Relaxed);
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs_f64(job.window)) => {}
                    Some(ended) = streams.join_next() => ended??,
                }
                let tokens = begun.load(Ordering::Relaxed) - before;
                let seconds = started.elapsed().as_secs_f64();
                *paced = streams;
                Ok(json!({ "operations": tokens, "seconds": seconds }))
            }
        }
    }
}

/// A connection without an HTTP library, so that it costs little.
struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    async fn connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(64 * 1024) })
    }

    /// Sends a request and reads the whole answer. Returns its status.
    async fn ask(&mut self, request: &[u8]) -> io::Result<u16> {
        let (status, at, length) = self.head(request).await?;
        let length = length.ok_or_else(|| io::Error::other("an answer without a length"))?;
        while self.buffer.len() < at + length {
            self.more().await?;
        }
        self.buffer.drain(..at + length);
        Ok(status)
    }

    /// Sends a request and reads the head of a stream.
    async fn begin(&mut self, request: &[u8]) -> io::Result<()> {
        let (status, at, _) = self.head(request).await?;
        if status != 200 {
            let text = String::from_utf8_lossy(&self.buffer).into_owned();
            return Err(io::Error::other(format!("a stream was refused: {text}")));
        }
        self.buffer.drain(..at);
        Ok(())
    }

    /// How many tokens came next; `None` at the end of the connection. Each token has one `k`, and chunk sizes have none.
    async fn tokens(&mut self) -> io::Result<Option<u64>> {
        if self.buffer.is_empty() && self.stream.read_buf(&mut self.buffer).await? == 0 {
            return Ok(None);
        }
        let tokens = self.buffer.iter().filter(|byte| **byte == b'k').count() as u64;
        self.buffer.clear();
        Ok(Some(tokens))
    }

    async fn head(&mut self, request: &[u8]) -> io::Result<(u16, usize, Option<usize>)> {
        self.stream.write_all(request).await?;
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            self.more().await?;
        };
        let bad = || io::Error::other("not an HTTP answer");
        let head = std::str::from_utf8(&self.buffer[..end]).map_err(|_| bad())?;
        let status = head.get(9..12).and_then(|code| code.parse().ok()).ok_or_else(bad)?;
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        Ok((status, end + 4, length))
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::Error::other("the server closed the connection")),
            _ => Ok(()),
        }
    }
}
