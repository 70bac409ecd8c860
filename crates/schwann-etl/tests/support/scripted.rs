//! An AIStore target that does what a test tells it to: source, destination, or next stage of a pipeline.
//!
//! It records each request, and above all whether its body came to its proper end.

use std::{
    collections::VecDeque,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use md5::{Digest as _, Md5};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};

/// Bodies up to this size are kept as they came.
const KEPT: usize = 1 << 20;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer with a body.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
    pub(crate) chunked: bool,
    /// Send only so many bytes of the body, in place of the next chunk what is none, and then close.
    pub(crate) cut: Option<usize>,
}

/// What the target does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Reads the body, then answers.
    Answer(Reply),
    /// Reads this many bytes of the body, and resets the connection.
    ResetAfter(usize),
    /// Reads this many bytes of the body, and closes the connection.
    CloseAfter(usize),
    /// Reads this many bytes of the body, sends what is not HTTP, and closes.
    GarbageAfter(usize),
    /// Reads this many bytes of the body, answers, and closes.
    AnswerAfter(usize, Reply),
    /// Reads this many bytes of the body, answers, and reads on to the end.
    AnswerEarly(usize, Reply),
    /// Reads this many bytes of the body, and nothing more until the other end leaves.
    StallAfter(usize),
    /// Begins an answer of this length with these bytes, and sends nothing more until the other end leaves.
    Begin(Bytes, usize),
    /// A streaming next stage: sends back each piece as it comes.
    Echo,
}

impl Act {
    /// Reads the body and answers this status, with this body.
    pub(crate) fn reply(status: u16, body: impl Into<Bytes>) -> Self {
        Self::Answer(Reply { status, body: body.into(), ..Reply::default() })
    }
}

/// One request, as far as it came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) length: usize,
    pub md5: String,
    /// The body came to its proper end.
    pub(crate) complete: bool,
    /// It was answered with 2xx after its body was complete.
    pub(crate) acknowledged: bool,
    /// Nothing more will come of it.
    pub(crate) over: bool,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    rules: Vec<(String, VecDeque<Act>)>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, at: usize, change: impl FnOnce(&mut Seen)) {
        change(&mut self.lock().seen[at]);
        self.changed.notify_waiters();
    }
}

/// A target on the loopback interface, until it is dropped.
pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scripted {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared::default());
        let served = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&served);
                tokio::spawn(async move {
                    let stream = BufReader::new(stream);
                    let mut connection = Connection { stream, shared, last: None };
                    while let Ok(true) = connection.one().await {}
                    let Connection { stream, shared, last } = connection;
                    // Only who is gone reads nothing more for sure.
                    drop(stream);
                    if let Some(at) = last {
                        shared.note(at, |seen| seen.over = true);
                    }
                });
            }
        });
        Self { address, shared, task }
    }

    /// `AIS_TARGET_URL` of this target.
    pub(crate) fn url(&self) -> String {
        format!("http://{}{}", self.address, super::PREFIX)
    }

    /// Requests whose target contains `part` meet these acts in turn, and the last one ever after.
    pub(crate) fn on(&self, part: &str, acts: impl IntoIterator<Item = Act>) {
        self.shared.lock().rules.insert(0, (part.to_owned(), acts.into_iter().collect()));
    }

    /// The requests whose target contains `part`.
    pub(crate) fn seen(&self, part: &str) -> Vec<Seen> {
        let state = self.shared.lock();
        state.seen.iter().filter(|seen| seen.target.contains(part)).cloned().collect()
    }

    /// Waits until what is true of the requests whose target contains `part`.
    pub(crate) async fn until(
        &self,
        part: &str,
        what: &str,
        is: impl Fn(&[Seen]) -> bool,
    ) -> Vec<Seen> {
        let wait = async {
            loop {
                let changed = self.shared.changed.notified();
                let seen = self.seen(part);
                if is(&seen) {
                    return seen;
                }
                changed.await;
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(seen) => seen,
            Err(_) => panic!("{what} never came true of {part}: {:?}", self.seen(part)),
        }
    }

    /// Waits until nothing more can come of the requests whose target contains `part`.
    pub(crate) async fn quiet(&self, part: &str) -> Vec<Seen> {
        self.until(part, "an end", |seen| seen.iter().all(|seen| seen.over)).await
    }
}

struct Connection {
    stream: BufReader<TcpStream>,
    shared: Arc<Shared>,
    /// The request with which it ended.
    last: Option<usize>,
}

fn broken(why: &'static str) -> io::Error {
    io::Error::other(why)
}

impl Connection {
    /// Serves one request; says whether there may be another.
    async fn one(&mut self) -> io::Result<bool> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await? == 0 {
            return Ok(false);
        }
        let mut words = line.split_whitespace();
        let method = words.next().ok_or(broken("no method"))?.to_owned();
        let target = words.next().ok_or(broken("no target"))?.to_owned();
        let mut seen = Seen { method, target, ..Seen::default() };
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).await?;
            if line.trim().is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or(broken("no header"))?;
            seen.headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let (at, act) = {
            let mut state = self.shared.lock();
            let act = next_act(&mut state, &seen);
            state.seen.push(seen.clone());
            (state.seen.len() - 1, act)
        };
        self.shared.changed.notify_waiters();
        let mut body = Incoming::of(&seen);
        let served = self.act(at, &mut body, act).await;
        let (shared, digest) = (&self.shared, body.digest);
        let goes_on = matches!(served, Ok(true));
        shared.note(at, |seen| {
            seen.md5 = format!("{:x}", digest.finalize());
            seen.over = goes_on;
        });
        self.last = (!goes_on).then_some(at);
        served
    }

    async fn act(&mut self, at: usize, body: &mut Incoming, act: Act) -> io::Result<bool> {
        match act {
            Act::Answer(reply) => {
                self.read(at, body, usize::MAX).await?;
                self.answer(at, &reply).await
            }
            Act::ResetAfter(count) => {
                self.read(at, body, count).await?;
                self.stream.get_ref().set_zero_linger()?;
                Ok(false)
            }
            Act::CloseAfter(count) => {
                self.read(at, body, count).await?;
                Ok(false)
            }
            Act::GarbageAfter(count) => {
                self.read(at, body, count).await?;
                self.stream.write_all(b"\x00\x01garbage, not http\r\n\r\n").await?;
                self.leave().await;
                Ok(false)
            }
            Act::AnswerAfter(count, reply) => {
                self.read(at, body, count).await?;
                self.answer(at, &reply).await?;
                Ok(false)
            }
            Act::AnswerEarly(count, reply) => {
                self.read(at, body, count).await?;
                self.answer(at, &reply).await?;
                self.read(at, body, usize::MAX).await?;
                self.shared.note(at, |seen| seen.acknowledged = (200..300).contains(&reply.status));
                Ok(true)
            }
            Act::StallAfter(count) => {
                self.read(at, body, count).await?;
                // Readable only when bytes are waiting or the peer has left; the bytes stay where they are.
                let gone = async {
                    loop {
                        let stream = self.stream.get_ref();
                        let ready = stream.ready(tokio::io::Interest::ERROR).await;
                        if ready.is_err() || stream.take_error()?.is_some() {
                            return io::Result::Ok(());
                        }
                    }
                };
                let _ = tokio::time::timeout(PATIENCE, gone).await;
                Ok(false)
            }
            Act::Begin(bytes, length) => {
                self.read(at, body, usize::MAX).await?;
                let head = format!("HTTP/1.1 200 X\r\nContent-Length: {length}\r\n\r\n");
                self.stream.write_all(head.as_bytes()).await?;
                self.stream.write_all(&bytes).await?;
                // Whatever comes is no longer looked at, but its end is.
                let mut rest = Vec::new();
                let _ = tokio::time::timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await;
                Ok(false)
            }
            Act::Echo => {
                self.stream
                    .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    .await?;
                while let Some(piece) = body.piece(&mut self.stream).await? {
                    self.took(at, body, &piece);
                    let head = format!("{:x}\r\n", piece.len());
                    self.stream.write_all(head.as_bytes()).await?;
                    self.stream.write_all(&piece).await?;
                    self.stream.write_all(b"\r\n").await?;
                }
                self.shared.note(at, |seen| {
                    seen.complete = true;
                    seen.acknowledged = true;
                });
                self.stream.write_all(b"0\r\n\r\n").await?;
                Ok(true)
            }
        }
    }

    /// Gives the answer a chance to be read before the close: unread bytes would turn it into a reset.
    async fn leave(&mut self) {
        let _ = self.stream.shutdown().await;
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await;
    }

    /// Reads the body to its end, or until this many bytes have come.
    async fn read(&mut self, at: usize, body: &mut Incoming, count: usize) -> io::Result<()> {
        while body.length < count {
            let Some(piece) = body.piece(&mut self.stream).await? else {
                self.shared.note(at, |seen| seen.complete = true);
                return Ok(());
            };
            self.took(at, body, &piece);
        }
        Ok(())
    }

    fn took(&self, at: usize, body: &mut Incoming, piece: &[u8]) {
        body.digest.update(piece);
        body.length += piece.len();
        self.shared.note(at, |seen| {
            seen.length += piece.len();
            let room = KEPT.saturating_sub(seen.body.len()).min(piece.len());
            seen.body.extend_from_slice(&piece[..room]);
        });
    }

    async fn answer(&mut self, at: usize, reply: &Reply) -> io::Result<bool> {
        let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
        for (name, value) in &reply.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let bodiless = matches!(reply.status, 204 | 304);
        if reply.chunked {
            head += "Transfer-Encoding: chunked\r\n";
        } else if !bodiless {
            head += &format!("Content-Length: {}\r\n", reply.body.len());
        }
        head += "\r\n";
        let good = (200..300).contains(&reply.status) && reply.cut.is_none();
        self.shared.note(at, |seen| seen.acknowledged = good && seen.complete);
        self.stream.write_all(head.as_bytes()).await?;
        if bodiless {
            return Ok(true);
        }
        let end = reply.cut.unwrap_or(reply.body.len());
        for piece in reply.body[..end].chunks(64 * 1024) {
            if reply.chunked {
                self.stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
            }
            self.stream.write_all(piece).await?;
            if reply.chunked {
                self.stream.write_all(b"\r\n").await?;
            }
        }
        if reply.cut.is_some() {
            if reply.chunked {
                self.stream.write_all(b"this is no chunk\r\n").await?;
            }
            return Ok(false);
        }
        if reply.chunked {
            self.stream.write_all(b"0\r\n\r\n").await?;
        }
        Ok(true)
    }
}

fn next_act(state: &mut State, seen: &Seen) -> Act {
    let found = state.rules.iter_mut().find(|(part, _)| seen.target.contains(part.as_str()));
    if let Some((_, acts)) = found {
        let act = if acts.len() > 1 { acts.pop_front() } else { acts.front().cloned() };
        return act.expect("a rule has an act");
    }
    if seen.method != "GET" {
        // What a real target answers to a direct PUT.
        return Act::reply(200, "");
    }
    Act::reply(404, "object not found")
}

/// A request's body on the wire.
struct Incoming {
    framing: Framing,
    length: usize,
    digest: Md5,
}

enum Framing {
    Length(usize),
    /// Bytes left of this chunk.
    Chunked(usize),
}

impl Incoming {
    fn of(seen: &Seen) -> Self {
        let chunked = seen.header("transfer-encoding").is_some_and(|te| te.contains("chunked"));
        let length = seen.header("content-length").and_then(|length| length.parse().ok());
        let framing =
            if chunked { Framing::Chunked(0) } else { Framing::Length(length.unwrap_or(0)) };
        Self { framing, length: 0, digest: Md5::new() }
    }

    /// The next bytes; `None` at the proper end only.
    async fn piece(&mut self, from: &mut BufReader<TcpStream>) -> io::Result<Option<Vec<u8>>> {
        let left = match &mut self.framing {
            Framing::Length(0) => return Ok(None),
            Framing::Length(left) => left,
            Framing::Chunked(left) => {
                if *left == 0 {
                    let mut line = String::new();
                    from.read_line(&mut line).await?;
                    if !line.ends_with('\n') {
                        return Err(broken("the body is cut"));
                    }
                    let size = line.split(';').next().unwrap_or_default().trim();
                    *left = usize::from_str_radix(size, 16).map_err(|_| broken("no chunk"))?;
                    if *left == 0 {
                        let mut end = String::new();
                        from.read_line(&mut end).await?;
                        return if end.ends_with('\n') {
                            Ok(None)
                        } else {
                            Err(broken("the body is cut"))
                        };
                    }
                }
                left
            }
        };
        let mut piece = vec![0; (*left).min(256 * 1024)];
        let n = from.read(&mut piece).await?;
        if n == 0 {
            return Err(broken("the body is cut"));
        }
        piece.truncate(n);
        *left -= n;
        if *left == 0 && matches!(self.framing, Framing::Chunked(_)) {
            let mut end = [0; 2];
            from.read_exact(&mut end).await?;
        }
        Ok(Some(piece))
    }
}
