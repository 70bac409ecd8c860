//! Drives a server: the same requests, whoever serves them. Also the target that results are put to.
//!
//! Told a job, it connects and warms up, says that it is prepared, and starts when told to. So whoever measures the server
//! measures nothing else.

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
};

use crate::{Failure, hear, message, say};

const BUFFER: usize = 256 * 1024;

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// Requests one after the other on each connection.
    Put,
    /// Objects one after the other on each WebSocket.
    WebSocket,
    /// The same as `put`, while `/health` is asked all the time.
    PutAndHealth,
}

#[derive(Clone, Deserialize)]
struct Job {
    port: u16,
    mode: Mode,
    /// Path and query.
    target: String,
    /// Further header lines, each with its end.
    headers: String,
    /// Bytes of each body.
    size: u64,
    connections: usize,
    /// On all connections together.
    requests: usize,
    /// Count megabytes instead of requests.
    by_size: bool,
    /// Bytes of an object that is not in the request.
    #[serde(default)]
    object: u64,
}

pub(crate) fn run() -> Result<(), Failure> {
    // One thread: the other cores are the server's.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let port = runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        tokio::spawn(store(listener));
        io::Result::Ok(port)
    })?;
    say(&json!({ "ready": true, "port": port }))?;
    while let Some(job) = hear()? {
        let job: Job = serde_json::from_value(job)?;
        let clients = runtime.block_on(prepare(&job))?;
        say(&json!({ "prepared": true }))?;
        if hear()?.is_none() {
            return Ok(());
        }
        say(&runtime.block_on(go(&job, clients))?)?;
    }
    Ok(())
}

/// A target that takes every object.
async fn store(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let (read, mut write) = stream.into_split();
            let mut read = BufReader::with_capacity(BUFFER, read);
            while let Ok(Some(_)) = message::read(&mut read).await {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                if write.write_all(answer).await.is_err() {
                    return;
                }
            }
        });
    }
}

async fn prepare(job: &Job) -> Result<Vec<Client>, Failure> {
    let mut clients = Vec::new();
    for _ in 0..job.connections {
        let mut client = Client::connect(job).await?;
        // A large object warms up by itself.
        if job.size < 1 << 20 {
            for _ in 0..5 {
                client.ask().await?;
            }
        }
        clients.push(client);
    }
    Ok(clients)
}

async fn go(job: &Job, clients: Vec<Client>) -> Result<Value, Failure> {
    let each = job.requests.div_ceil(job.connections);
    let started = Instant::now();
    let mut running = JoinSet::new();
    for mut client in clients {
        running.spawn(async move {
            let mut seen = Vec::with_capacity(each);
            for _ in 0..each {
                let sent = Instant::now();
                seen.push((client.ask().await?, sent.elapsed()));
            }
            Ok::<_, io::Error>(seen)
        });
    }
    let health = (job.mode == Mode::PutAndHealth).then(|| Health::ask(job.port));
    let mut codes = BTreeMap::new();
    let mut waits = Vec::new();
    while let Some(done) = running.join_next().await {
        for (code, wait) in done?? {
            *codes.entry(code.to_string()).or_insert(0) += 1;
            waits.push(wait);
        }
    }
    waits.sort_unstable();
    let bytes = waits.len() as f64 * (job.size + job.object) as f64;
    let operations = if job.by_size { bytes / 1e6 } else { waits.len() as f64 };
    let mut result = json!({
        "operations": operations, "codes": codes, "seconds": started.elapsed().as_secs_f64(),
        "p50_us": micros(&waits, 50), "p99_us": micros(&waits, 99),
    });
    if let Some(health) = health {
        let (waits, failed) = health.seen()?;
        result["health_failed"] = json!(failed);
        for (name, part) in [("health_p50_ms", 50), ("health_p99_ms", 99), ("health_ms", 100)] {
            result[name] = json!(micros(&waits, part) / 1e3);
        }
    }
    Ok(result)
}

/// The wait that so many in a hundred do not exceed.
fn micros(sorted: &[Duration], percent: usize) -> f64 {
    let at = sorted.len().saturating_sub(1) * percent / 100;
    sorted.get(at).map_or(f64::NAN, Duration::as_secs_f64) * 1e6
}

/// Asks `/health` again and again, from a thread of its own: it waits for the server, and not for the load's turn.
struct Health {
    enough: Arc<AtomicBool>,
    asking: thread::JoinHandle<(Vec<Duration>, u64)>,
}

impl Health {
    fn ask(port: u16) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&enough);
        let asking = thread::spawn(move || {
            let (mut waits, mut failed) = (Vec::new(), 0);
            while !until.load(Ordering::Relaxed) {
                let sent = Instant::now();
                match is_well(port) {
                    Ok(true) => waits.push(sent.elapsed()),
                    // The threaded server has room for five in waiting, and resets others.
                    Ok(false) | Err(_) => failed += 1,
                }
                thread::sleep(Duration::from_millis(5));
            }
            (waits, failed)
        });
        Self { enough, asking }
    }

    /// The waits, shortest first, and how many had no answer.
    fn seen(self) -> io::Result<(Vec<Duration>, u64)> {
        self.enough.store(true, Ordering::Relaxed);
        let seen = self.asking.join().map_err(|_| io::Error::other("asking /health panicked"));
        let (mut waits, failed) = seen?;
        waits.sort_unstable();
        Ok((waits, failed))
    }
}

fn is_well(port: u16) -> io::Result<bool> {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer.get(9..12) == Some(b"200"))
}

struct Client {
    job: Job,
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    /// A request's head, or a whole object for a WebSocket.
    head: Bytes,
    block: Bytes,
    kept: bool,
}

impl Client {
    async fn connect(job: &Job) -> io::Result<Self> {
        let (read, write) = connected(job.port).await?;
        let block: Bytes = vec![b'a'; usize::try_from(job.size.min(1 << 20)).unwrap_or(0)].into();
        let head = match job.mode {
            Mode::WebSocket => object(&block),
            Mode::Put | Mode::PutAndHealth => format!(
                "PUT {} HTTP/1.1\r\nHost: etl\r\n{}Content-Length: {}\r\n\r\n",
                job.target, job.headers, job.size
            )
            .into(),
        };
        let mut client = Self { job: job.clone(), read, write, head, block, kept: true };
        if job.mode == Mode::WebSocket {
            let upgrade =
                b"GET /ws HTTP/1.1\r\nHost: etl\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
            client.write.write_all(upgrade).await?;
            loop {
                let mut line = String::new();
                tokio::io::AsyncBufReadExt::read_line(&mut client.read, &mut line).await?;
                if line.starts_with("HTTP/") && !line.contains(" 101") {
                    return Err(io::Error::other(line));
                }
                if line.trim().is_empty() {
                    break;
                }
            }
        }
        Ok(client)
    }

    /// Sends a request and reads the whole answer. Returns its status.
    async fn ask(&mut self) -> io::Result<u16> {
        if self.job.mode == Mode::WebSocket {
            self.write.write_all(&self.head).await?;
            return self.reply().await;
        }
        if !self.kept {
            (self.read, self.write) = connected(self.job.port).await?;
        }
        let Self { job, read, write, head, block, .. } = self;
        let send = async {
            if block.len() < 64 * 1024 {
                // In one piece, as a client would.
                let mut whole = Vec::with_capacity(head.len() + block.len());
                whole.extend_from_slice(head);
                whole.extend_from_slice(block);
                return write.write_all(&whole).await;
            }
            write.write_all(head).await?;
            let mut left = job.size;
            while left > 0 {
                let n = left.min(block.len() as u64);
                write.write_all(&block[..usize::try_from(n).unwrap_or(block.len())]).await?;
                left -= n;
            }
            Ok(())
        };
        let (sent, answer) = tokio::join!(send, message::read(read));
        sent?;
        let answer = answer?.ok_or_else(|| io::Error::other("no answer"))?;
        self.kept = answer.kept;
        let status = answer.status().ok_or_else(|| io::Error::other("not an answer"))?;
        if status == 200 && answer.body == 0 {
            return Err(io::Error::other("an empty answer"));
        }
        Ok(status)
    }

    /// Reads a message of the server, whatever its fragments.
    async fn reply(&mut self) -> io::Result<u16> {
        loop {
            let first = self.read.read_u8().await?;
            let length = match self.read.read_u8().await? {
                126 => u64::from(self.read.read_u16().await?),
                127 => self.read.read_u64().await?,
                length => u64::from(length),
            };
            message::skip(&mut self.read, length).await?;
            if first & 0x0f > 2 {
                return Err(io::Error::other("the server closed"));
            }
            if first & 0x80 != 0 {
                return Ok(200);
            }
        }
    }
}

async fn connected(port: u16) -> io::Result<(BufReader<OwnedReadHalf>, OwnedWriteHalf)> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let (read, write) = stream.into_split();
    Ok((BufReader::with_capacity(BUFFER, read), write))
}

/// A control message and an object, as a client masks them.
fn object(block: &[u8]) -> Bytes {
    let mut frames = Vec::new();
    for payload in [br#"{"path":"o"}"#.as_slice(), block] {
        frames.push(0x82);
        match payload.len() {
            length @ 0..126 => frames.push(0x80 | u8::try_from(length).unwrap_or(0)),
            length @ 126..65536 => {
                frames.push(0x80 | 126);
                frames.extend(u16::try_from(length).unwrap_or(0).to_be_bytes());
            }
            length => {
                frames.push(0x80 | 127);
                frames.extend((length as u64).to_be_bytes());
            }
        }
        // A mask that is not nothing, so that unmasking cannot be skipped.
        let mask = [1, 2, 3, 4];
        frames.extend(mask);
        frames.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    }
    frames.into()
}
