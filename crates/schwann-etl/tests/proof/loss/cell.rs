//! One cell: an object is asked for, a fault strikes, and what came of it is looked at.

use std::{fmt, net::SocketAddr};

use bytes::Bytes;
use serde_json::json;

use super::transform::{Faulty, Stop, transformed};
use crate::support::{
    client::{Answer, Caller, Message, Socket},
    scripted::{Act, Reply, Scripted, Seen},
    served::{Served, serve, settings},
};

/// Bytes of an object. More than a connection of loopback takes in one go, so that a middle exists.
pub(crate) const SIZE: usize = 3 << 20;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    TransformError,
    ClientGone,
    SourceCut,
    Refused,
    Reset,
    Garbage,
    EarlyAnswer,
    /// The answer of a destination or stage breaks off.
    AnswerCut,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Source {
    Put,
    Fqn,
    Get,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mode {
    Inline,
    DirectPut,
    /// To a further stage.
    Pipeline,
    /// The result comes back over the socket.
    WebSocket,
    /// The result goes to a destination, and the socket says so.
    WebSocketPut,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Point {
    First,
    Middle,
    Last,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Streamed,
    Buffered,
}

impl Mode {
    pub(crate) fn delivers(self) -> bool {
        matches!(self, Self::DirectPut | Self::Pipeline | Self::WebSocketPut)
    }

    pub(crate) fn is_socket(self) -> bool {
        matches!(self, Self::WebSocket | Self::WebSocketPut)
    }
}

impl Point {
    /// In bytes of the object.
    pub(crate) fn at(self) -> usize {
        match self {
            Self::First => 0,
            Self::Middle => SIZE / 2,
            Self::Last => SIZE,
        }
    }

    /// The same, before the object's end.
    pub(crate) fn short(self) -> usize {
        self.at().min(SIZE - 1)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cell {
    pub(crate) fault: Fault,
    pub(crate) source: Source,
    pub(crate) mode: Mode,
    pub(crate) point: Point,
    pub(crate) kind: Kind,
    /// The fault strikes once only, where a second attempt is possible.
    pub(crate) once: bool,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault, source, mode, point, kind, once } = self;
        let once = if *once { "once" } else { "always" };
        write!(f, "{fault:?} {source:?} {mode:?} {point:?} {kind:?} {once}")
    }
}

/// What whoever asked has learnt.
#[derive(Debug)]
pub(crate) enum Told {
    /// The result, whole.
    Content(Vec<u8>),
    /// That it was delivered.
    Delivered,
    /// That it failed, before any of it came.
    Failed { status: u16, retry: bool, text: String },
    /// Some of it, and that the rest is missing.
    Cut,
    /// Nothing, for it has left or was left.
    Nothing,
}

impl Told {
    fn of_answer(answer: Answer) -> Self {
        match answer.status {
            0 => Self::Nothing,
            _ if !answer.complete => Self::Cut,
            204 => Self::Delivered,
            200..300 => Self::Content(answer.body),
            status => {
                let retry = answer.header("ais-etl-retry-reason") == Some("direct-put-transient");
                Self::Failed { status, retry, text: answer.text() }
            }
        }
    }

    fn of_message(message: Message) -> Self {
        match message {
            Message::Binary(data) => Self::Content(data),
            Message::Text(text) if text == SIZE.to_string() => Self::Delivered,
            Message::Text(text) => Self::Failed { status: 0, retry: false, text },
            Message::Close(_) => Self::Cut,
            Message::Pong(_) | Message::Gone => Self::Nothing,
        }
    }
}

/// The server and the target of some cells.
pub(crate) struct Scene {
    pub(crate) target: Scripted,
    pub(crate) etl: Served,
    pub(crate) transform: Faulty,
    pub(crate) object: Vec<u8>,
    pub(crate) result: Bytes,
    pub(crate) folder: tempfile::TempDir,
    /// Refuses connections.
    refusing: SocketAddr,
    _bound: tokio::net::TcpSocket,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        let target = Scripted::start().await;
        let transform = Faulty::default();
        let etl = serve(transform.clone(), settings(&target.url())).await;
        // No two places look alike.
        let mut state = 1u32;
        let object: Vec<u8> = (0..SIZE)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        let bound = tokio::net::TcpSocket::new_v4().expect("a socket");
        bound.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        let refusing = bound.local_addr().expect("bound");
        Self {
            result: transformed(&object).into(),
            target,
            etl,
            transform,
            object,
            folder: tempfile::tempdir().expect("a folder"),
            refusing,
            _bound: bound,
        }
    }
}

/// A cell while it runs.
pub(crate) struct Run<'a> {
    pub(crate) scene: &'a Scene,
    pub(crate) cell: Cell,
    /// The object's name, here and at the destination.
    pub(crate) name: String,
}

enum Asking {
    Http(Caller),
    Socket(Socket),
}

/// What came of a cell.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) told: Told,
    pub(crate) delivered: Vec<Seen>,
}

impl Run<'_> {
    fn file(&self) -> std::path::PathBuf {
        self.scene.folder.path().join(&self.name)
    }

    fn destination(&self) -> String {
        let Self { scene, cell, name } = self;
        let host = match cell.fault {
            Fault::Refused => scene.refusing,
            _ => scene.target.address,
        };
        match cell.mode {
            // The path of a stage is that of the request.
            Mode::Pipeline => format!("http://{host},http://10.9.9.9:1/ais%2Fdst?owt=3"),
            _ => format!("http://{host}/ais%2F@%23%2Fdst%2F{name}-at?owt=3&uuid=x"),
        }
    }

    /// How requests to the destination can be told from others.
    fn mark(&self) -> String {
        match self.cell.mode {
            Mode::Pipeline => format!("/{}-at", self.name),
            _ => format!("dst%2F{}-at", self.name),
        }
    }

    fn fail(&self) -> Option<usize> {
        (self.cell.fault == Fault::TransformError).then(|| self.cell.point.at())
    }

    fn pause(&self) -> Option<usize> {
        let Cell { fault, source, mode, point, .. } = self.cell;
        match fault {
            Fault::ClientGone => Some(point.short()),
            Fault::Reset if !mode.delivers() => Some(point.short()),
            // Where the rest has not been read ahead.
            Fault::SourceCut if source == Source::Fqn => Some(point.at().min(SIZE - (1 << 20))),
            // Once there is something to send, so that there is a connection.
            Fault::EarlyAnswer if mode.delivers() => Some(point.at().max(1)),
            _ => None,
        }
    }

    fn args(&self) -> String {
        let kind = match self.cell.kind {
            Kind::Streamed => "streamed",
            Kind::Buffered => "buffered",
        };
        let word = |n: Option<usize>| n.map_or("-".to_owned(), |n| n.to_string());
        format!("{kind} {} {}", word(self.fail()), word(self.pause()))
    }

    /// What the destination, the next stage or the source is to do.
    fn script(&self) {
        let Self { scene, cell, name } = self;
        let at = cell.point.at();
        if cell.source == Source::Get {
            let cut = |count| Reply {
                status: 200,
                body: scene.object.clone().into(),
                cut: Some(count),
                ..Reply::default()
            };
            let act = match cell.fault {
                Fault::SourceCut => Act::Answer(cut(cell.point.short())),
                Fault::Garbage if !cell.mode.delivers() => match cell.point {
                    Point::First => Act::GarbageAfter(0),
                    // In the middle of a chunked body.
                    _ => Act::Answer(Reply { chunked: true, ..cut(cell.point.short()) }),
                },
                Fault::Reset if !cell.mode.delivers() => Act::reply(200, scene.object.clone()),
                _ => Act::reply(200, scene.object.clone()),
            };
            scene.target.on(&format!("src%2F{name}-at"), [act]);
        }
        if !cell.mode.delivers() {
            return;
        }
        let good = match cell.mode {
            Mode::Pipeline => Act::reply(200, "made by the next stage"),
            _ => Act::reply(200, ""),
        };
        let mut acts = match cell.fault {
            Fault::Reset => vec![Act::ResetAfter(at)],
            Fault::Garbage => vec![Act::GarbageAfter(at)],
            Fault::EarlyAnswer => vec![self.early()],
            // That of a destination is short.
            Fault::AnswerCut if cell.mode != Mode::Pipeline => vec![Act::Answer(Reply {
                status: 200,
                body: scene.result.slice(..100),
                cut: Some(10),
                chunked: cell.kind == Kind::Streamed,
                ..Reply::default()
            })],
            Fault::AnswerCut => vec![Act::Answer(Reply {
                status: 200,
                body: scene.result.clone(),
                cut: Some(cell.point.short()),
                chunked: cell.kind == Kind::Streamed,
                ..Reply::default()
            })],
            _ => Vec::new(),
        };
        if cell.once || acts.is_empty() {
            acts.push(good);
        }
        scene.target.on(&self.mark(), acts);
    }

    /// Half of what was written by then has certainly come.
    fn early(&self) -> Act {
        let body = if self.cell.mode == Mode::Pipeline { "too early" } else { "" };
        let reply = |status| Reply { status, body: body.into(), ..Reply::default() };
        let count = self.cell.point.at() / 2;
        match self.cell.kind {
            // A buffered result is in the kernel's hands at once; this one is heard to its end.
            Kind::Buffered => Act::AnswerEarly(count, reply(200)),
            Kind::Streamed if self.cell.point == Point::Last => Act::AnswerAfter(count, reply(507)),
            Kind::Streamed => Act::AnswerAfter(count, reply(200)),
        }
    }

    /// Asks, and sends as much of the object as the fault lets through.
    async fn ask(&self) -> Asking {
        let Self { scene, cell, name } = self;
        let sent: &[u8] = match (cell.source, cell.fault) {
            (Source::Put, Fault::SourceCut | Fault::ClientGone) => {
                &scene.object[..cell.point.short()]
            }
            (Source::Put, Fault::Garbage | Fault::Reset) if !cell.mode.delivers() => {
                &scene.object[..cell.point.short()]
            }
            (Source::Put, _) => &scene.object,
            _ => &[],
        };
        let cut = sent.len() < SIZE && cell.source == Source::Put;
        if cell.mode.is_socket() {
            let mut socket = Socket::open(scene.etl.address).await;
            let mut control = json!({ "path": format!("{name}-at"), "etl_args": self.args() });
            if cell.mode == Mode::WebSocketPut {
                control["pipeline"] = self.destination().into();
            }
            if cell.source == Source::Fqn {
                let fqn = self.file().display().to_string();
                control["fqn"] = fqn.replace('/', "%2F").into();
            }
            socket.control(control).await;
            if cell.source == Source::Put {
                let pieces: Vec<_> = sent.chunks(100_000).collect();
                for (at, piece) in pieces.iter().enumerate() {
                    let first = if at == 0 { 0x02 } else { 0x00 };
                    let last = if at + 1 == pieces.len() && !cut { 0x80 } else { 0 };
                    if !socket.caller.send(Socket::frame(first | last, piece)).await {
                        break;
                    }
                }
            }
            return Asking::Socket(socket);
        }
        let args = self.args().replace(' ', "+");
        let mut headers = String::new();
        if cell.mode.delivers() {
            headers += &format!("Ais-Node-Url: {}\r\n", self.destination());
        }
        let (method, target) = match cell.source {
            Source::Put => ("PUT", format!("/src/{name}-at?etl_args={args}")),
            Source::Fqn => {
                let fqn = self.file().display().to_string().replace('/', "%252F");
                ("PUT", format!("/src/{name}-at?etl_args={args}&etl_fqn={fqn}"))
            }
            Source::Get => ("GET", format!("/ais%2F@%23%2Fsrc%2F{name}-at?etl_args={args}")),
        };
        let garbage = cell.fault == Fault::Garbage && !cell.mode.delivers();
        if cell.source == Source::Put && garbage {
            headers += "Transfer-Encoding: chunked\r\n";
        } else if cell.source == Source::Put {
            headers += &format!("Content-Length: {SIZE}\r\n");
        }
        let mut caller = Caller::connect(scene.etl.address).await;
        caller.head(method, &target, &headers).await;
        if cell.source == Source::Put {
            for piece in sent.chunks(100_000) {
                let sent = if garbage {
                    let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
                    chunk.extend(piece);
                    chunk.extend(b"\r\n");
                    caller.send(&chunk).await
                } else {
                    caller.send(piece).await
                };
                if !sent {
                    break;
                }
            }
        }
        Asking::Http(caller)
    }

    /// Lets the fault strike and says what came of it.
    pub(crate) async fn run(&self) -> Outcome {
        let Self { scene, cell, name } = self;
        if cell.source == Source::Fqn {
            std::fs::write(self.file(), &scene.object).expect("room for a file");
        }
        self.script();
        let stop = scene.transform.stop(&format!("{name}-at"));
        let asking = async { self.hear(self.ask().await, &stop).await };
        let told = tokio::select! {
            told = asking => told,
            () = self.strike(&stop) => unreachable!("it goes on as long as it is waited for"),
        };
        let mark = self.mark();
        let delivered = scene.target.quiet(&mark).await;
        Outcome { told, delivered }
    }

    /// What happens while the object is on its way.
    async fn strike(&self, stop: &Stop) {
        let Self { scene, cell, .. } = self;
        match (cell.fault, self.pause()) {
            (Fault::SourceCut, Some(_)) => {
                stop.reached.reached(1).await;
                let file = std::fs::File::options().write(true).open(self.file());
                let cut = file.and_then(|file| file.set_len(cell.point.short() as u64));
                cut.expect("the file can be cut");
                stop.released.hit();
            }
            (Fault::EarlyAnswer, Some(_)) => {
                for waiting in 1..=2 {
                    stop.reached.reached(waiting).await;
                    // An attempt may be answered, and given up, before it comes to its stop.
                    let attempt = stop.begun.count();
                    let early = cell.kind == Kind::Streamed && !(cell.once && attempt == 2);
                    if early {
                        let over =
                            |seen: &[Seen]| seen.iter().filter(|s| s.over).count() >= attempt;
                        scene.target.until(&self.mark(), "an early answer", over).await;
                    }
                    stop.released.hit();
                }
            }
            _ => {}
        }
        std::future::pending().await
    }

    /// The end of what was asked.
    async fn hear(&self, mut asked: Asking, stop: &Stop) -> Told {
        let Self { cell, .. } = self;
        let leaves =
            cell.fault == Fault::ClientGone || cell.fault == Fault::Reset && !cell.mode.delivers();
        if leaves {
            // An upload that stopped short never brings the transform to its stop.
            if cell.source != Source::Put {
                // Until then it takes what comes.
                let taking = async {
                    match &mut asked {
                        Asking::Http(caller) => drop(caller.answer().await),
                        Asking::Socket(socket) => drop(socket.next().await),
                    }
                };
                tokio::select! {
                    () = stop.reached.reached(1) => {}
                    () = taking => return Told::Nothing,
                }
            }
            let caller = match asked {
                Asking::Http(caller) => caller,
                Asking::Socket(socket) => socket.caller,
            };
            if cell.fault == Fault::Reset {
                caller.reset();
            } else {
                drop(caller);
            }
            if cell.source == Source::Put {
                // Nobody sees that a client left whose bytes nobody reads.
                stop.released.hit();
            }
            return Told::Nothing;
        }
        match asked {
            Asking::Http(mut caller) => {
                match (cell.fault, cell.source) {
                    (Fault::SourceCut, Source::Put) => caller.end().await,
                    (Fault::Garbage, Source::Put) if !cell.mode.delivers() => {
                        caller.send(b"this is no chunk\r\n").await;
                    }
                    _ => {}
                }
                Told::of_answer(caller.answer().await)
            }
            Asking::Socket(mut socket) => {
                match (cell.fault, cell.source) {
                    (Fault::SourceCut, Source::Put) => {
                        socket.caller.end().await;
                    }
                    (Fault::Garbage, Source::Put) if !cell.mode.delivers() => {
                        // Reserved bits, and no continuation.
                        socket.caller.send(Socket::frame(0x72, b"garbage")).await;
                    }
                    _ => {}
                }
                Told::of_message(socket.next().await)
            }
        }
    }
}

/// For messages.
pub(crate) fn brief(seen: &[Seen]) -> String {
    let one = |s: &Seen| {
        let (complete, acknowledged) = (s.complete, s.acknowledged);
        format!("{} bytes, complete {complete}, acknowledged {acknowledged}", s.length)
    };
    seen.iter().map(one).collect::<Vec<_>>().join("; ")
}
