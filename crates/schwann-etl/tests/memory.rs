//! 1 GiB goes through a transform in flat memory, whether who takes it is fast or stands still in the middle.
//!
//! The server is a process of its own, so that what is read of it is its memory alone.

use std::{env, fs, net::SocketAddr, path::PathBuf, time::Duration};

use bytes::Bytes;
use schwann_testkit::peer::Peer;
use tokio::{
    io::{
        AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
        BufReader,
    },
    net::{TcpListener, TcpStream},
    sync::{Mutex, oneshot},
};

const PREFIX: &str = "/v1/etl/_object/etl-x/s3cr3t";

/// How much goes through.
const OBJECT: u64 = 1 << 30;

/// How much more memory the server may take for it, in KiB.
const GROWTH: u64 = 8 * 1024;

/// An upload that makes no progress for so long has come to a stand. Only then is memory looked at; nothing is concluded
/// from it being longer or shorter.
const STANDS: Duration = Duration::from_millis(400);

const PATIENCE: Duration = Duration::from_secs(240);

/// Two of these at once would only be slower.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// Looks like text: gzip makes about a third of it.
fn block() -> Bytes {
    let words =
        ["object ", "target ", "shard ", "bucket ", "stream ", "cluster\n", "proxy ", "node "];
    let mut state = 7u32;
    let mut block = Vec::with_capacity(1 << 20);
    while block.len() < 1 << 20 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        block.extend(words[(state >> 29) as usize].bytes());
        block.extend(format!("{:x} ", state >> 16).bytes());
    }
    block.truncate(1 << 20);
    block.into()
}

struct Server {
    peer: Peer,
    address: SocketAddr,
}

impl Server {
    async fn start(role: &str, target: SocketAddr) -> Self {
        let test = env::current_exe().expect("a test has a path");
        let folder = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
        let program: PathBuf = folder.join("examples/conformance");
        assert!(program.exists(), "missing: cargo build -p schwann-etl --examples");
        let url = format!("http://{target}{PREFIX}");
        let args = ["--role", role, "--listen", "127.0.0.1:0", "--target", &url];
        let peer = Peer::start(program, args).await;
        let address = peer.said("listen").parse().expect("an address");
        let server = Self { peer, address };
        // What every process needs once is not growth.
        let mut warm = TcpStream::connect(address).await.expect("it listens");
        let body = block();
        let head = format!(
            "PUT /b/warm HTTP/1.1\r\nHost: e\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let (mut read, mut write) = warm.split();
        let mut answer = Vec::new();
        let (sent, answered) = tokio::join!(
            async {
                write.write_all(head.as_bytes()).await?;
                write.write_all(&body).await
            },
            read.read_to_end(&mut answer)
        );
        sent.expect("it is taken");
        answered.expect("it is answered");
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..100]));
        server
    }

    /// In KiB: what is resident now, and the most that ever was since the last reset.
    fn memory(&self) -> (u64, u64) {
        let pid = &self.peer.ready()["pid"];
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).expect("a field");
            let number = line.split_whitespace().nth(1).and_then(|number| number.parse().ok());
            number.expect("a number")
        };
        (field("VmRSS:"), field("VmHWM:"))
    }

    /// Forgets the most that ever was.
    fn begin(&self) -> u64 {
        let pid = &self.peer.ready()["pid"];
        fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("it is ours");
        self.memory().0
    }

    #[track_caller]
    fn is_flat(&self, before: u64, what: &str) {
        let (now, most) = self.memory();
        let grown = most.max(now).saturating_sub(before);
        assert!(grown <= GROWTH, "{what}: {grown} KiB more than the {before} KiB before");
    }
}

/// Sends the object, and says when it stands still. Gives the connection back: whoever closes its half has left.
async fn upload<W: AsyncWrite + Unpin>(
    mut write: W,
    headers: String,
    stands: oneshot::Sender<u64>,
) -> W {
    let head = format!(
        "PUT /b/o HTTP/1.1\r\nHost: e\r\nConnection: close\r\n{headers}Content-Length: {OBJECT}\r\n\r\n"
    );
    write.write_all(head.as_bytes()).await.expect("a head is taken");
    pour(&mut write, &block(), stands).await;
    write
}

/// Sends blocks until they make up the object.
async fn pour<W: AsyncWrite + Unpin>(write: &mut W, block: &[u8], stands: oneshot::Sender<u64>) {
    let mut stands = Some(stands);
    let mut sent = 0;
    while sent < OBJECT {
        let mut rest = block;
        while !rest.is_empty() {
            let step = write.write(rest);
            tokio::pin!(step);
            let n = match tokio::time::timeout(STANDS, &mut step).await {
                Ok(n) => n,
                Err(_) => {
                    if let Some(stands) = stands.take() {
                        let _ = stands.send(sent);
                    }
                    tokio::time::timeout(PATIENCE, step).await.expect("it goes on")
                }
            };
            let n = n.expect("it is taken");
            rest = &rest[n..];
        }
        sent += block.len() as u64;
    }
}

/// Reads to the end of the connection. Returns how many bytes there were, and the last of them.
async fn drain(mut read: impl AsyncRead + Unpin) -> (u64, Vec<u8>) {
    let mut buffer = vec![0; 256 * 1024];
    let (mut all, mut last) = (0, Vec::new());
    loop {
        let n = tokio::time::timeout(PATIENCE, read.read(&mut buffer)).await.expect("it goes on");
        let n = n.expect("it is not reset");
        if n == 0 {
            return (all, last);
        }
        all += n as u64;
        last.extend_from_slice(&buffer[..n]);
        let over = last.len().saturating_sub(8);
        last.drain(..over);
    }
}

#[track_caller]
fn whole(role: &str, all: u64, last: &[u8]) {
    assert!(last.ends_with(b"0\r\n\r\n"), "it was cut");
    let least = if role == "gzip" { OBJECT / 20 } else { OBJECT };
    assert!(all >= least, "{all} bytes");
}

/// The result goes to the caller, who reads at once, or only once nothing moves any more.
async fn to_the_caller(role: &str, stalls: bool) {
    let _one = ONE_AT_A_TIME.lock().await;
    let server = Server::start(role, ([127, 0, 0, 1], 9).into()).await;
    let before = server.begin();
    let stream = TcpStream::connect(server.address).await.expect("it listens");
    let (read, write) = stream.into_split();
    let (stands, standing) = oneshot::channel();
    let uploading = tokio::spawn(upload(write, String::new(), stands));
    if stalls {
        let sent = standing.await.expect("back-pressure reaches the caller");
        assert!(sent < OBJECT / 2, "{sent} bytes were taken, and nothing of the result was read");
        server.is_flat(before, "while its caller stands still");
    }
    let (all, last) = drain(read).await;
    uploading.await.expect("it was taken");
    whole(role, all, &last);
    server.is_flat(before, "when all was read");
}

/// The result goes to a destination.
async fn to_a_destination(role: &str, stalls: bool) {
    let _one = ONE_AT_A_TIME.lock().await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let destination = listener.local_addr().expect("bound");
    let server = Server::start(role, destination).await;
    let before = server.begin();
    let (go, going) = oneshot::channel::<()>();
    let storing = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a delivery");
        if stalls {
            going.await.expect("the test goes on");
        }
        // To the final chunk.
        let (mut all, mut last) = (0, Vec::<u8>::new());
        let mut buffer = vec![0; 256 * 1024];
        while !last.ends_with(b"\r\n0\r\n\r\n") {
            let n = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await;
            let n = n.expect("it goes on").expect("it is not reset");
            assert_ne!(n, 0, "it was cut after {all} bytes");
            all += n as u64;
            last.extend_from_slice(&buffer[..n]);
            let over = last.len().saturating_sub(8);
            last.drain(..over);
        }
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(answer).await.expect("the answer is taken");
        all
    });
    let stream = TcpStream::connect(server.address).await.expect("it listens");
    let (read, write) = stream.into_split();
    let (stands, standing) = oneshot::channel();
    let headers = format!("Ais-Node-Url: http://{destination}/dst\r\n");
    let uploading = tokio::spawn(upload(write, headers, stands));
    if stalls {
        let sent = standing.await.expect("back-pressure reaches the caller");
        assert!(sent < OBJECT / 2, "{sent} bytes were taken, and nothing was stored");
        server.is_flat(before, "while the destination stands still");
        go.send(()).expect("the destination waits");
    }
    let mut answer = Vec::new();
    let mut read = read;
    read.read_to_end(&mut answer).await.expect("an answer");
    uploading.await.expect("it was taken");
    let stored = storing.await.expect("it was stored");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    let length = if role == "gzip" { OBJECT / 20 } else { OBJECT };
    assert!(stored >= length, "{stored} bytes");
    server.is_flat(before, "when all was stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_to_a_caller_that_reads() {
    to_the_caller("upper", false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_to_a_caller_that_stands_still() {
    to_the_caller("upper", true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_to_a_destination_that_reads() {
    to_a_destination("upper", false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_to_a_destination_that_stands_still() {
    to_a_destination("upper", true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_compressed_to_a_caller_that_stands_still() {
    to_the_caller("gzip", true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_compressed_to_a_destination_that_reads() {
    to_a_destination("gzip", false).await;
}

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A client's frame up to its payload.
fn frame_head(length: u64) -> Vec<u8> {
    let mut head = match u8::try_from(length) {
        Ok(short @ ..126) => vec![0x82, 0x80 | short],
        _ => [&[0x82, 0xff], length.to_be_bytes().as_slice()].concat(),
    };
    head.extend(MASK);
    head
}

fn masked(payload: &[u8]) -> Vec<u8> {
    payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()
}

/// An object of one frame, and its result, byte by byte.
async fn over_a_web_socket(stalls: bool) {
    let _one = ONE_AT_A_TIME.lock().await;
    let server = Server::start("upper", ([127, 0, 0, 1], 9).into()).await;
    let mut stream = TcpStream::connect(server.address).await.expect("it listens");
    let handshake = "GET /ws HTTP/1.1\r\nHost: e\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(handshake.as_bytes()).await.expect("a handshake is taken");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.expect("an answer"));
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    let before = server.begin();
    let (read, mut write) = stream.into_split();
    let (stands, standing) = oneshot::channel();
    let uploading = tokio::spawn(async move {
        let control = br#"{"path":"o"}"#;
        let head = [frame_head(control.len() as u64), masked(control), frame_head(OBJECT)].concat();
        write.write_all(&head).await.expect("a head is taken");
        pour(&mut write, &masked(&block()), stands).await;
        write
    });
    if stalls {
        let sent = standing.await.expect("back-pressure reaches the caller");
        assert!(sent < OBJECT / 2, "{sent} bytes were taken, and nothing of the result was read");
        server.is_flat(before, "while its caller stands still");
    }
    let mut read = BufReader::with_capacity(256 * 1024, read);
    let expected = block().to_ascii_uppercase();
    let (mut all, mut last) = (0, false);
    while !last {
        let first = tokio::time::timeout(PATIENCE, read.read_u8()).await.expect("it goes on");
        let first = first.expect("it does not end within the message");
        assert_eq!(first & 0x7f, if all == 0 { 2 } else { 0 }, "not a piece of the message");
        last = first & 0x80 != 0;
        let mut left = match read.read_u8().await.expect("a length") {
            126 => u64::from(read.read_u16().await.expect("a length")),
            127 => read.read_u64().await.expect("a length"),
            short => u64::from(short),
        };
        while left > 0 {
            let there = read.fill_buf().await.expect("it is not reset");
            assert!(!there.is_empty(), "cut after {all} bytes");
            let at = usize::try_from(all % expected.len() as u64).expect("within a block");
            let n = there.len().min(expected.len() - at);
            let n = n.min(usize::try_from(left).unwrap_or(n));
            assert!(there[..n] == expected[at..at + n], "other bytes, after {all}");
            read.consume(n);
            (all, left) = (all + n as u64, left - n as u64);
        }
    }
    assert_eq!(all, OBJECT);
    uploading.await.expect("it was taken");
    server.is_flat(before, "when all was read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_over_a_web_socket_to_a_client_that_reads() {
    over_a_web_socket(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_over_a_web_socket_to_a_client_that_stands_still() {
    over_a_web_socket(true).await;
}

/// Of idle connections; half of them have had an answer before.
const IDLE: usize = 8000;

/// What one of them may cost, in KiB.
const IDLE_COST: u64 = 24;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_idle_connections_cost_little_and_keep_nobody_waiting() {
    let _one = ONE_AT_A_TIME.lock().await;
    assert!(schwann_etl::raise_open_files() > IDLE as u64 + 100, "files may not be opened");
    let server = Server::start("echo", ([127, 0, 0, 1], 9).into()).await;
    let before = server.begin();
    let mut idle = Vec::new();
    for n in 0..IDLE {
        let mut stream = TcpStream::connect(server.address).await.expect("there is room");
        if n % 2 == 0 {
            let head = b"PUT /b/o HTTP/1.1\r\nHost: e\r\nContent-Length: 4\r\n\r\nbody";
            stream.write_all(head).await.expect("it is taken");
            let mut answer = Vec::new();
            while !answer.ends_with(b"body") {
                answer.push(stream.read_u8().await.expect("it is answered"));
            }
        }
        idle.push(stream);
    }
    let mut asking = TcpStream::connect(server.address).await.expect("there is room");
    let health = b"GET /health HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n";
    asking.write_all(health).await.expect("it is taken");
    let mut answer = Vec::new();
    asking.read_to_end(&mut answer).await.expect("it is answered");
    assert!(answer.ends_with(b"Running"), "{}", String::from_utf8_lossy(&answer));
    let (now, _) = server.memory();
    let each = now.saturating_sub(before) / IDLE as u64;
    assert!(each <= IDLE_COST, "{each} KiB for each");
}
