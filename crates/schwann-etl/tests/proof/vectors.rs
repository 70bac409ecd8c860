//! What was on the wire between the conformance client, the SDK's FastAPI server and a target, played again to our server.
//!
//! Statuses, the headers that mean something, bodies, and what the target saw must be the same, but for the differences
//! that are listed here with their reasons. Every recording is played, and every difference in the list must be there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use schwann_etl::{EtlServer, Token};
use serde::Deserialize;
use serde_json::Value;
use tokio::task::{JoinError, JoinSet};

use crate::support::{
    PREFIX,
    client::{Answer, Caller, Message, Socket},
    roles,
    scripted::{Act, Reply, Scripted, Seen},
    served::{Served, serve_etl, settings},
};

/// Such a body has a length if its transform ends before the head has left, which is a matter of moments.
const NOTHING: &str = "nothing has a length";

/// Where we differ on purpose: check, what differs, why.
const DIFFERENCES: &[(&str, &str, &str)] = &[
    (
        "",
        r#"content-type: Some("application/octet-stream"), and was None"#,
        "what comes from another stage says what it is, too",
    ),
    ("", r#"content-type: Some("text/plain; charset=utf-8"), and was None"#, "`Running` is text"),
    ("a03_head_health", "status: 200", "a probe by HEAD is a probe"),
    ("a04_put_health", "status: 405", "`/health` is no object"),
    ("b27_unread_garbage", "", "what is no HTTP is refused with 400 and nothing else"),
    ("c12_direct_fqn", "answer", "the length of the name of another folder"),
    ("c13_direct_fqn", "answer", "the length of the name of another folder"),
    ("c07_fqn_directory", "status: 400", "whoever asked is wrong, not the server"),
    ("d09_upstream_truncated", "status: 502", "the transform had said nothing yet"),
    ("d10_query_not_forwarded", "target", "`latest-ver` reaches the target that asked for it"),
    ("w17_ws_streaming", "message", "streaming transforms are served over WebSocket, too"),
    ("d17_upstream_gzip", "", "an object's bytes are passed on as they are"),
    ("e09_dest_200_chunked", "framing", "a stage's answer is passed on as it comes"),
    (
        "e14_dest_retry_reason",
        "ais-etl-retry-reason",
        "so that the target of stage 1 replays as well",
    ),
    ("e27_stream_error_mid", "", "the documented form of an error, for streams as well"),
    ("e50_stream_oserror", "", "the documented form of an error, for streams as well"),
    (
        "e51_stream_get_source_truncated",
        "",
        "it is the source's fault, and nothing had been sent yet",
    ),
    ("e52_next_stage_full_duplex", "", "the recorded server stands still here"),
    ("e53_next_stage_full_duplex", "", "the recorded server stands still here"),
    ("f04_stream_empty_input", "framing", NOTHING),
    ("f07_error_before_first", "", "the documented form of an error, for streams as well"),
    ("f09_stream_no_output", "framing", NOTHING),
    (
        "e28_stream_error_before",
        "",
        "the same; and nothing is opened before there is something to send",
    ),
];

/// How many recordings there are.
const RECORDINGS: usize = 172;

/// How many are played at once. Most wait for a second attempt.
const AT_ONCE: usize = 8;

#[derive(Deserialize)]
struct Recording {
    check: String,
    folder: String,
    target: String,
    refused: String,
    files: BTreeMap<String, Data>,
    exchanges: Vec<Exchange>,
    websockets: Vec<Session>,
    target_saw: Vec<Saw>,
}

#[derive(Deserialize)]
struct Data {
    length: usize,
    start: String,
}

#[derive(Deserialize)]
struct Exchange {
    role: String,
    sent: String,
    sent_bytes: usize,
    answers: Vec<Got>,
}

#[derive(Deserialize)]
struct Got {
    status: u16,
    headers: Vec<(String, String)>,
    framing: String,
    complete: bool,
    body_len: usize,
    body: String,
}

#[derive(Deserialize)]
struct Session {
    role: String,
    messages: Vec<(String, usize, String)>,
}

#[derive(Deserialize)]
struct Saw {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    framing: String,
    body_len: usize,
    body_md5: String,
    complete: bool,
    error: String,
    did: Value,
}

/// Text in which a character is a byte.
fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).expect("a byte")).collect()
}

/// A body of this length that begins so. Says whether the rest is known, because it goes on as it began.
fn grown(start: &[u8], length: usize) -> (Vec<u8>, bool) {
    if start.len() >= length {
        return (start[..length].to_vec(), true);
    }
    let repeats = |period: &usize| start.iter().zip(&start[*period..]).all(|(a, b)| a == b);
    let period = (1..=(start.len() / 2).min(300)).find(repeats);
    match period {
        Some(period) => (start[..period].iter().copied().cycle().take(length).collect(), true),
        None => {
            let mut body = start.to_vec();
            body.resize(length, b'?');
            (body, false)
        }
    }
}

/// One request of an exchange, as it is to be sent.
struct Request {
    method: String,
    bytes: Vec<u8>,
    /// Its body is the recorded one.
    exact: bool,
}

/// Takes what a connection sent apart, and makes what was not kept.
fn requests(exchange: &Exchange, subst: &dyn Fn(&str) -> String) -> Vec<Request> {
    let sent = latin1(&exchange.sent);
    let mut at = 0;
    let mut all = Vec::new();
    while at < sent.len() {
        let Some(end) = sent[at..].windows(4).position(|four| four == b"\r\n\r\n") else {
            let bytes = sent[at..].to_vec();
            all.push(Request { method: String::new(), bytes, exact: true });
            break;
        };
        let head = String::from_utf8_lossy(&sent[at..at + end + 4]).into_owned();
        at += end + 4;
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let rest = exchange.sent_bytes - at;
        let (body, exact) = if header("transfer-encoding").is_some() {
            let first = sent[at..].windows(2).position(|two| two == b"\r\n").unwrap_or(0) + 2;
            let body = chunked(&sent[(at + first).min(sent.len())..], rest);
            at = sent.len();
            body
        } else {
            let announced = header("content-length").and_then(|length| length.parse().ok());
            let length = announced.unwrap_or(0).min(rest);
            let kept = &sent[at..(at + length).min(sent.len())];
            at = (at + length).min(sent.len());
            grown(kept, length)
        };
        let method = head.split(' ').next().unwrap_or_default().to_owned();
        let mut bytes = subst(&head).into_bytes();
        bytes.extend(body);
        all.push(Request { method, bytes, exact });
    }
    all
}

/// A chunked body of so many bytes on the wire, in chunks of 64 KiB, that begins so.
fn chunked(start: &[u8], wire: usize) -> (Vec<u8>, bool) {
    const WHOLE: usize = 65536;
    let mut sizes = vec![WHOLE; wire / (WHOLE + 9)];
    let left = wire % (WHOLE + 9);
    let last = (1..left).find(|n| format!("{n:x}").len() + 4 + n + 5 == left);
    sizes.extend(last);
    let (data, exact) = grown(&start[..start.len().min(WHOLE)], sizes.iter().sum());
    let (mut body, mut at) = (Vec::new(), 0);
    for size in sizes {
        body.extend(format!("{size:x}\r\n").bytes());
        body.extend(&data[at..at + size]);
        body.extend(b"\r\n");
        at += size;
    }
    if left > 0 {
        body.extend(b"0\r\n\r\n");
    }
    (body, exact)
}

/// The part of a request's target that names its object: what the client made up for it.
fn mark(target: &str) -> String {
    let target = percent_encoding::percent_decode_str(target).decode_utf8_lossy();
    let pieces = target.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '-');
    let made_up = |piece: &&str| {
        let mut parts = piece.split('-');
        parts.any(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
            && parts.next().is_some_and(|end| end.len() == 5)
    };
    pieces.clone().find(made_up).map_or_else(|| target.clone().into_owned(), str::to_owned)
}

/// What the target did then; and whether all of what it sent is known.
fn act(did: &Value) -> (Act, bool) {
    let act = match did.as_str() {
        Some("reset-before-body") => Act::ResetAfter(0),
        Some("reset-mid-body") => Act::ResetAfter(1),
        Some("close-no-response") => Act::CloseAfter(usize::MAX),
        Some("garbage-response") => Act::GarbageAfter(usize::MAX),
        Some("stall") => Act::StallAfter(0),
        Some("echo-stream") => Act::Echo,
        Some("truncated-response") => Act::Answer(Reply {
            status: 200,
            body: vec![b'0'; 100].into(),
            cut: Some(10),
            ..Reply::default()
        }),
        Some(other) => panic!("the target never does {other}"),
        None => {
            let start = latin1(did["body"].as_str().expect("a body"));
            let length = did["body_len"].as_u64().expect("a length");
            let (body, exact) = grown(&start, usize::try_from(length).expect("small"));
            let act = Act::Answer(Reply {
                status: u16::try_from(did["status"].as_u64().expect("a status")).expect("small"),
                headers: serde_json::from_value(did["headers"].clone()).expect("headers"),
                body: body.into(),
                chunked: did["chunked"] == true,
                cut: None,
            });
            return (act, exact);
        }
    };
    (act, true)
}

/// The JSON object that these bytes are, if they are one. Of an error, what the contract says of its text.
fn json(bytes: &[u8]) -> Option<Value> {
    let mut value: Value = serde_json::from_slice(bytes).ok().filter(Value::is_object)?;
    if let Some(detail) = value["detail"].as_str() {
        let known = [
            "Network error: ",
            "Direct put failed after retries: ",
            "Direct put bailed (one-shot body): ",
        ];
        // What follows is in the words of whatever library is used.
        if let Some(known) = known.iter().find(|known| detail.starts_with(**known)) {
            value["detail"] = (*known).into();
        }
    }
    Some(value)
}

struct Stage<'a> {
    recording: &'a Recording,
    target: Scripted,
    folder: tempfile::TempDir,
    refused: String,
    servers: BTreeMap<String, Served>,
    differences: Vec<String>,
    /// All that was sent.
    played: String,
    /// Every byte that then went in is known.
    exact: bool,
}

impl Stage<'_> {
    /// Puts our addresses and folder in place of those of then.
    fn subst(&self, text: &str) -> String {
        let recording = self.recording;
        let ours = self.folder.path().display().to_string();
        let mut text = text
            .replace(&recording.target, &self.target.address.to_string())
            .replace(&recording.refused, &self.refused);
        for slash in ["/", "%2F", "%252F"] {
            let escaped = |path: &str| path.replace('/', slash);
            text = text.replace(&escaped(&recording.folder), &escaped(&ours));
        }
        // An absolute path without its first slash.
        text.replace(&recording.folder.replace('/', "%252F")[5..], &ours.replace('/', "%252F")[5..])
    }

    async fn server(&mut self, role: &str) -> SocketAddr {
        if let Some(server) = self.servers.get(role) {
            return server.address;
        }
        let mut settings = settings(&self.target.url());
        let transform = match role {
            "auth" => {
                settings.token = Some(Token::new("tok-123").expect("a token"));
                "echo"
            }
            "down" => {
                let url = format!("http://{}{PREFIX}", self.refused);
                settings = self::settings(&url);
                "echo"
            }
            _ => role,
        };
        settings.direct_fqn = role == "fqn";
        let handler = roles::role(transform).expect("a role");
        let mut etl = EtlServer::new(settings, handler).expect("settings that can be kept");
        if role == "fqn" {
            etl = etl.accepts_files();
        }
        let served = serve_etl(etl).await;
        let address = served.address;
        self.servers.insert(role.to_owned(), served);
        address
    }

    fn differs(&mut self, what: impl Into<String>) {
        self.differences.push(what.into());
    }

    fn same<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, ours: T, then: T) {
        if ours != then {
            self.differs(format!("{what}: {ours:?}, and was {then:?}"));
        }
    }

    fn compare(&mut self, ours: &Answer, then: &Got) {
        self.same("status", ours.status, then.status);
        if ours.status != then.status {
            return;
        }
        let was = |name: &str| {
            let found = then.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.as_str())
        };
        for name in ["content-type", "ais-direct-put-length", "ais-etl-retry-reason"] {
            self.same(name, ours.header(name), was(name));
        }
        let framing = match (ours.header("content-length"), ours.header("transfer-encoding")) {
            _ if matches!(ours.status, 204 | 304 | 101) => "none",
            (Some(_), _) => "content-length",
            (None, Some(_)) => "chunked",
            (None, None) => "close",
        };
        if then.framing != "none" {
            self.same("framing", framing, &then.framing);
        }
        self.same("complete", ours.complete, then.complete);
        let was = latin1(&self.subst(&then.body));
        if then.body.chars().count() == then.body_len
            && let (Some(ours), Some(was)) = (json(&ours.body), json(&was))
        {
            // How JSON is spaced, and in which order its keys stand, is nobody's business.
            self.same("answer", ours, was);
            return;
        }
        if then.complete && was.len() == then.body.chars().count() {
            self.same("length", ours.body.len(), then.body_len);
        }
        let start = &ours.body[..ours.body.len().min(was.len())];
        if self.exact && start != was && then.complete {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            self.same("body", text(start), text(&was));
        }
    }

    async fn exchange(&mut self, exchange: &Exchange) {
        let address = self.server(&exchange.role).await;
        let requests = requests(exchange, &|text| self.subst(text));
        self.played += &percent_encoding::percent_decode_str(&exchange.sent).decode_utf8_lossy();
        let mut caller = Caller::connect(address).await;
        let mut answers = exchange.answers.iter();
        for request in requests {
            caller.send(&request.bytes).await;
            // Whoever was not answered had left.
            let Some(then) = answers.next() else { return };
            let ours = match request.method.as_str() {
                "HEAD" => {
                    let head = caller.answer_head().await;
                    Answer { complete: true, ..head }
                }
                _ => caller.answer().await,
            };
            self.compare(&ours, then);
            let closing = ours.header("connection").is_some_and(|c| c.contains("close"));
            if !ours.complete || closing {
                return;
            }
        }
    }

    async fn session(&mut self, session: &Session) {
        let mut socket = Socket::open(self.server(&session.role).await).await;
        let mut exact = true;
        // Ours, and those of then.
        let mut pongs = (Vec::new(), Vec::new());
        for (kind, length, start) in &session.messages {
            let text = self.subst(start);
            let changed = text.len() as i64 - start.len() as i64;
            let whole = usize::try_from(*length as i64 + changed).expect("a length");
            let (payload, known) = grown(&latin1(&text), whole);
            match kind.as_str() {
                sent if sent.starts_with('>') => {
                    self.played += &percent_encoding::percent_decode_str(&text).decode_utf8_lossy();
                    exact = known;
                    let first = u8::from_str_radix(&sent[1..], 16).expect("a first byte");
                    socket.caller.send(Socket::frame(first, &payload)).await;
                }
                // A pong may come before or after what was under way.
                "<pong" => pongs.1.push(payload),
                _ => {
                    let mut ours = socket.next().await;
                    while let Message::Pong(pong) = ours {
                        pongs.0.push(pong);
                        ours = socket.next().await;
                    }
                    let then = match kind.as_str() {
                        "<binary" => Message::Binary(payload),
                        "<text" => Message::Text(String::from_utf8(payload).expect("text")),
                        "<close" => Message::Close(
                            payload.get(..2).map_or(1005, |c| u16::from_be_bytes([c[0], c[1]])),
                        ),
                        "<eof" | "<reset" => Message::Gone,
                        other => panic!("nothing is called {other}"),
                    };
                    match (&ours, &then) {
                        (Message::Binary(a), Message::Binary(b)) if !exact => {
                            self.same("message", a.len(), b.len());
                        }
                        (Message::Binary(a), Message::Binary(b))
                            if json(a).is_some() && json(a) == json(b) => {}
                        _ if ours == then => {}
                        _ => {
                            let brief = |message: &Message| {
                                format!("{message:?}").chars().take(160).collect::<String>()
                            };
                            self.same("message", brief(&ours), brief(&then));
                        }
                    }
                }
            }
        }
        while pongs.0.len() < pongs.1.len() {
            match socket.next().await {
                Message::Pong(pong) => pongs.0.push(pong),
                other => return self.differs(format!("pong: {other:?}")),
            }
        }
        self.same("pongs", pongs.0, pongs.1);
    }

    /// What the target saw, object by object.
    async fn deliveries(&mut self) {
        let mut marks = BTreeMap::<String, Vec<&Saw>>::new();
        for saw in &self.recording.target_saw {
            marks.entry(mark(&saw.target)).or_default().push(saw);
        }
        for (mark, then) in marks {
            // Of many connections at once, not all were kept.
            if !self.played.contains(&mark) {
                continue;
            }
            let mut seen = self.target.quiet(&mark).await;
            seen.retain(|seen| self::mark(&seen.target) == mark);
            // Whoever leaves at once may do so before anything was asked of the target.
            let left = self.recording.exchanges.iter().any(|exchange| exchange.answers.is_empty());
            if !left {
                self.same("requests to the target", seen.len(), then.len());
            }
            if then.iter().any(|saw| saw.method == "GET") {
                // A source may be fetched again at another moment.
                seen.sort_by_key(|seen| seen.method.clone());
            }
            for (ours, then) in seen.iter().zip(then) {
                self.delivery(ours, then);
            }
        }
    }

    fn delivery(&mut self, ours: &Seen, then: &Saw) {
        let decoded = |target: &str| {
            percent_encoding::percent_decode_str(target).decode_utf8_lossy().into_owned()
        };
        self.same("method", &ours.method, &then.method);
        self.same("target", decoded(&ours.target), decoded(&self.subst(&then.target)));
        let was = |name: &str| {
            let found = then.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| self.subst(value))
        };
        let names = ["ais-node-url", "authorization"];
        let thens = names.map(was);
        for (name, then) in names.iter().zip(thens) {
            self.same(name, ours.header(name), then.as_deref());
        }
        if then.method == "PUT" {
            let chunked = ours.header("transfer-encoding").is_some();
            let framing = if chunked { "chunked" } else { "content-length" };
            self.same("framing towards the target", framing, &then.framing);
        }
        // How much of a request arrived before it was cut is a matter of moments.
        if then.did.is_object() && then.error.is_empty() && then.complete {
            self.same("complete at the target", ours.complete, true);
            self.same("length at the target", ours.length, then.body_len);
            if self.exact {
                self.same("content at the target", &ours.md5, &then.body_md5);
            }
        } else if ours.complete && !then.complete {
            self.differs("complete at the target");
        }
    }
}

/// Plays one recording. Returns what differed.
async fn play(recording: &Recording) -> Vec<String> {
    let bound = tokio::net::TcpSocket::new_v4().expect("a socket");
    bound.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    let refused = bound.local_addr().expect("bound").to_string();
    let mut stage = Stage {
        recording,
        target: Scripted::start().await,
        folder: tempfile::tempdir().expect("a folder"),
        refused,
        servers: BTreeMap::new(),
        differences: Vec::new(),
        played: String::new(),
        exact: true,
    };
    let mut exact = true;
    for (name, data) in &recording.files {
        let file = stage.folder.path().join(name);
        let parent = file.parent().expect("it has one");
        fs::create_dir_all(parent).expect("room for a folder");
        let (data, known) = grown(&latin1(&data.start), data.length);
        exact &= known;
        fs::write(file, data).expect("room for a file");
    }
    if recording.check.ends_with("_symlink") {
        let folder = stage.folder.path();
        std::os::unix::fs::symlink(folder.join("real.bin"), folder.join("link.bin"))
            .expect("a link");
    }
    let mut scripts = Vec::<(String, Vec<Act>)>::new();
    for saw in &recording.target_saw {
        let mark = mark(&saw.target);
        let at = scripts.iter().position(|(known, _)| *known == mark).unwrap_or_else(|| {
            scripts.push((mark, Vec::new()));
            scripts.len() - 1
        });
        let (act, known) = act(&saw.did);
        exact &= known;
        scripts[at].1.push(act);
    }
    for (mark, acts) in scripts {
        stage.target.on(&mark, acts);
    }
    for exchange in &recording.exchanges {
        exact &= requests(exchange, &str::to_owned).iter().all(|request| request.exact);
    }
    stage.exact = exact;
    for exchange in &recording.exchanges {
        stage.exchange(exchange).await;
    }
    for session in &recording.websockets {
        stage.session(session).await;
    }
    stage.deliveries().await;
    assert!(
        !recording.exchanges.is_empty() || !recording.websockets.is_empty(),
        "{} has nothing to play",
        recording.check
    );
    stage.differences
}

fn outcome(done: Result<(String, Vec<String>), JoinError>) -> (String, Vec<String>) {
    done.unwrap_or_else(|panic| ("a recording".to_owned(), vec![panic.to_string()]))
}

fn recordings() -> Vec<(PathBuf, Recording)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors/etl");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("vectors/etl") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("text");
        let recording = match serde_json::from_str(&text) {
            Ok(recording) => recording,
            Err(error) => panic!("{}: {error}", path.display()),
        };
        found.push((path, recording));
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_recorded_exchange_is_answered_as_then_or_differs_for_a_reason() {
    let recordings = recordings();
    assert_eq!(recordings.len(), RECORDINGS);
    let mut running = JoinSet::new();
    let mut seen = Vec::new();
    for (path, recording) in recordings {
        let stem = path.file_stem().expect("a name").to_string_lossy().into_owned();
        assert_eq!(stem, recording.check, "a file is called as its check");
        if running.len() == AT_ONCE {
            seen.push(outcome(running.join_next().await.expect("there are some")));
        }
        let recording = Arc::new(recording);
        running.spawn(async move { (recording.check.clone(), play(&recording).await) });
    }
    while let Some(done) = running.join_next().await {
        seen.push(outcome(done));
    }
    seen.sort();
    let mut used = BTreeSet::new();
    let mut wrong = Vec::new();
    for (check, differences) in seen {
        for difference in differences {
            let listed = DIFFERENCES.iter().position(|(name, what, _)| {
                check.starts_with(name) && difference.starts_with(what)
            });
            match listed {
                Some(at) => drop(used.insert(at)),
                None => wrong.push(format!("{check}: {difference}")),
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differences without a reason:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    let always = |at: &usize| DIFFERENCES[*at].2 != NOTHING;
    let unused: Vec<_> =
        (0..DIFFERENCES.len()).filter(always).filter(|at| !used.contains(at)).collect();
    assert!(unused.is_empty(), "differences that are none: {unused:?}");
}
