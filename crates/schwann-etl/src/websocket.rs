//! Objects over a WebSocket (`GET /ws`): a control message of JSON, then the object, then one reply; in order.
//!
//! Everything of a connection happens in the one task that serves it. While an object is worked on, its bytes are handed
//! to the transform as that takes them, pings are answered, and the peer's leaving is noticed, which drops the transform.

mod feed;
mod frame;
mod reader;
mod writer;

use std::{
    future::pending,
    pin::{Pin, pin},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::BodyExt as _;
use schwann::{BoxError, Call, Error, Finished, RequestBody, Upgraded};
use serde::Deserialize;
use sha1::{Digest as _, Sha1};
use tokio::{
    io::{ReadHalf, WriteHalf},
    time::{Instant, Sleep, sleep_until},
};
use tracing::{Instrument as _, debug, debug_span};

use self::{
    feed::Feed,
    frame::{Close, Opcode, code},
    reader::{Reader, Step},
    writer::Writer,
};
use crate::{
    EtlServer,
    content::{Content, Outcome},
    deliver,
    failure::{Failure, Stage},
    pipeline::Pipeline,
    question::Question,
};

/// Largest object. AIStore's own end has the same limit.
const MAX_OBJECT: u64 = 16 << 30;
/// Largest control message.
const MAX_CONTROL: usize = 1 << 20;
/// Longest wait for a peer that owes bytes of a message. Between objects it may be silent.
const STALL: Duration = Duration::from_secs(60);
/// RFC 6455 §1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Serves `GET /ws`.
pub(crate) async fn serve(server: &EtlServer, call: Call) -> Result<Finished, Error> {
    let accept = accept(call.head()).inspect_err(|_| server.0.metrics.failed(Stage::Request))?;
    let mut head = Response::new(());
    head.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    head.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    let server = server.clone();
    let (_, _, reply) = call.into_parts();
    reply.upgrade(head, move |io| Connection::new(server, io).serve())
}

/// The answer to a client's key (RFC 6455 §4.2).
fn accept(head: &Parts) -> Result<HeaderValue, Error> {
    let lists = |name, token: &str| {
        let values = head.headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case(token))
    };
    let upgrade = |detail: &'static str| {
        let mut answer = Response::new(Bytes::from(format!("{{\"detail\":\"{detail}\"}}")));
        *answer.status_mut() = StatusCode::UPGRADE_REQUIRED;
        for (name, value) in [
            (header::CONTENT_TYPE, "application/json"),
            (header::UPGRADE, "websocket"),
            (header::SEC_WEBSOCKET_VERSION, "13"),
        ] {
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        Error::caller(StatusCode::UPGRADE_REQUIRED, detail).with_answer(answer)
    };
    let asked = head.version == http::Version::HTTP_11
        && lists(header::UPGRADE, "websocket")
        && lists(header::CONNECTION, "upgrade");
    if !asked {
        return Err(upgrade("/ws is a WebSocket"));
    }
    if head.headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(upgrade("only version 13 of WebSocket is spoken"));
    }
    let mut keys = head.headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let key = keys.next().filter(|_| keys.next().is_none()).map(HeaderValue::as_bytes);
    let key = key.filter(|key| STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16));
    let key = key.ok_or_else(|| {
        Failure::request("Sec-WebSocket-Key must be 16 bytes in base64").into_error()
    })?;
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    Ok(HeaderValue::try_from(STANDARD.encode(digest)).expect("base64 is visible ASCII"))
}

/// What is asked for one object. Read anew for each, so that nothing of the last one's is left.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Control {
    pipeline: Option<String>,
    etl_args: Option<String>,
    fqn: Option<String>,
    path: Option<String>,
}

/// Why a connection ends.
#[derive(Debug)]
enum End {
    /// It is closed with these words.
    Close(Close),
    /// The peer has left, in order or not.
    Gone,
    /// The socket failed.
    Io(std::io::Error),
}

impl From<Close> for End {
    fn from(close: Close) -> Self {
        Self::Close(close)
    }
}

impl From<std::io::Error> for End {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

struct Connection {
    server: EtlServer,
    socket: Socket,
    draining: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Connection {
    fn new(server: EtlServer, io: Upgraded) -> Self {
        let draining = Box::pin(io.draining());
        let (read, write) = tokio::io::split(io);
        let socket = Socket {
            reader: Reader::new(read, MAX_OBJECT),
            writer: Writer::new(write),
            begun: None,
            closing: None,
            owed: Box::pin(sleep_until(Instant::now() + STALL)),
            heard: Instant::now(),
        };
        Self { server, socket, draining }
    }

    async fn serve(mut self) -> Result<(), BoxError> {
        let end = loop {
            if let Err(end) = self.object().await {
                break end;
            }
        };
        match end {
            End::Close(close) => {
                debug!(code = close.code, reason = %close.reason, "closing a WebSocket");
                Ok(self.socket.writer.close(&close).await?)
            }
            End::Gone => Ok(()),
            End::Io(error) => Err(error.into()),
        }
    }

    /// Serves the next object.
    async fn object(&mut self) -> Result<(), End> {
        let mut feed = Feed::none();
        tokio::select! {
            biased;
            () = &mut self.draining => {
                return Err(Close::new(code::GOING_AWAY, "the server is stopping").into());
            }
            begun = self.socket.until_begun(&mut feed, false) => begun?,
        }
        let control = self.socket.control().await?;
        let inline = control.fqn.as_deref().is_none_or(|fqn| fqn.trim().is_empty());
        let mut body = RequestBody::from_bytes(Bytes::new());
        if inline {
            self.socket.until_begun(&mut feed, true).await?;
            if self.socket.begun.take() == Some(Opcode::Text) {
                let why = "an object is a binary message";
                return Err(Close::new(code::UNSUPPORTED, why).into());
            }
            body = match self.socket.reader.whole() {
                Some(whole) => RequestBody::from_bytes(whole),
                None => {
                    let (source, tube) = Feed::new();
                    feed = source;
                    RequestBody::from_body(tube)
                }
            };
        }
        let server = self.server.clone();
        let mut guard = server.0.metrics.begin();
        let done = match question(control) {
            Ok(question) => {
                let span = debug_span!("object", name = %question.path);
                self.answer(&mut feed, &question, body).instrument(span).await
            }
            Err(failure) => {
                drop(body);
                self.failed(&mut feed, failure).await
            }
        };
        guard.ended();
        done?;
        // What the transform did not want of its object is not the next one's.
        self.socket.until_ended(&mut feed).await
    }

    async fn answer(
        &mut self,
        feed: &mut Feed,
        question: &Question,
        body: RequestBody,
    ) -> Result<(), End> {
        let server = self.server.clone();
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = Method::PUT;
        let outcome = {
            let mut work = pin!(deliver::run(&server, head, body, question));
            self.socket.attend(feed, work.as_mut()).await?
        };
        let content = match outcome {
            Outcome::Content(content) => content,
            Outcome::Delivered { length, .. } => {
                self.socket.say(feed, length.to_string()).await?;
                return Ok(());
            }
            Outcome::Failed(failure) => return self.failed(feed, failure).await,
        };
        let status = content.status();
        if question.pipeline.is_some() && status != StatusCode::OK {
            // Counted and logged where the hop refused.
            return self.socket.say(feed, "0".to_owned()).await;
        }
        if !status.is_success() {
            let detail = format!("the transform answered {status}");
            let failure = Failure::new(Stage::Transform, status, detail);
            return self.failed(feed, failure).await;
        }
        let sent = self.pass_on(feed, content.into_body(), question).await?;
        if question.pipeline.is_none() {
            server.0.metrics.objects.inc();
            server.0.metrics.bytes_out.inc_by(sent);
        }
        Ok(())
    }

    /// Sends a result as one message, in the pieces in which it is made. How many bytes that were.
    async fn pass_on(
        &mut self,
        feed: &mut Feed,
        mut content: Content,
        question: &Question,
    ) -> Result<u64, End> {
        if let Content::Whole(bytes) = content {
            let sent = bytes.len() as u64;
            self.socket.frame(feed, Opcode::Binary, true, bytes).await?;
            return Ok(sent);
        }
        let mut opcode = Opcode::Binary;
        let mut sent = 0;
        loop {
            let frame = {
                let mut next = pin!(content.frame());
                self.socket.attend(feed, next.as_mut()).await?
            };
            match frame {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    sent += data.len() as u64;
                    self.socket.frame(feed, opcode, false, data).await?;
                    opcode = Opcode::Continuation;
                }
                None => {
                    if let Content::Transform(_, watch) = &content {
                        self.server.0.metrics.bytes_in.inc_by(watch.bytes());
                    }
                    self.socket.frame(feed, opcode, true, Bytes::new()).await?;
                    return Ok(sent);
                }
                Some(Err(error)) => {
                    let failure = match question.pipeline {
                        None => {
                            let object = crate::Object::new(question.path.clone(), String::new());
                            Failure::transform(&object, question.file(), error)
                        }
                        Some(_) => {
                            let why = "the answer broke off";
                            let status = StatusCode::BAD_GATEWAY;
                            let failure = Failure::new(Stage::Delivery, status, why);
                            Failure { cause: Some(error), ..failure }
                        }
                    };
                    if opcode == Opcode::Binary {
                        self.failed(feed, failure).await?;
                        return Ok(0);
                    }
                    self.server.failed(failure);
                    // No end is ever sent for what has begun: that would say that it is whole.
                    return Err(Close::new(code::INTERNAL, "the result broke off").into());
                }
            }
        }
    }

    /// Tells the peer of a failure in the way that the contract has for it. There is no way to say it well: AIStore takes
    /// any text for success, and a closed connection for the end of everything on it.
    async fn failed(&mut self, feed: &mut Feed, failure: Failure) -> Result<(), End> {
        let detail = failure.detail.to_string();
        let text = match failure.stage {
            Stage::Request => Ok(detail),
            Stage::Transform => {
                let detail = detail.strip_prefix("Processing error: ").unwrap_or(&detail);
                Ok(format!("Transform error: {detail}"))
            }
            Stage::Delivery => Ok("0".to_owned()),
            Stage::Source => Err(Close::new(code::NORMAL, detail).into()),
            Stage::Caller => Err(End::Gone),
        };
        self.server.failed(failure);
        self.socket.say(feed, text?).await
    }
}

fn question(control: Control) -> Result<Question, Failure> {
    let pipeline = Pipeline::parse(control.pipeline.as_deref().unwrap_or_default())?;
    let etl_args = control.etl_args.unwrap_or_default().trim().to_owned();
    let path = control.path.unwrap_or_default();
    Question::named(path, etl_args, control.fqn.as_deref(), pipeline)
}

/// Both directions of a connection, and where its reader stands.
struct Socket {
    reader: Reader<ReadHalf<Upgraded>>,
    writer: Writer<WriteHalf<Upgraded>>,
    /// A message has begun that nobody has asked for yet.
    begun: Option<Opcode>,
    /// The peer has said that it will send no more.
    closing: Option<Close>,
    owed: Pin<Box<Sleep>>,
    /// When the peer last sent something.
    heard: Instant,
}

impl Socket {
    /// Takes steps until one has to wait for something.
    fn advance(&mut self, feed: &mut Feed) -> Result<(), End> {
        while self.begun.is_none() && !feed.is_full() {
            let Some(step) = self.reader.next()? else { return Ok(()) };
            match step {
                Step::Begin(opcode) => self.begun = Some(opcode),
                Step::Data(piece) => feed.offer(piece),
                Step::End => feed.end(),
                Step::Ping(payload) => self.writer.pong(payload),
                Step::Pong => {}
                Step::Close(code) => {
                    let close = Close::new(code.unwrap_or(code::NORMAL), "");
                    if self.reader.in_message() {
                        return Err(close.into());
                    }
                    // What came whole before is still answered.
                    self.closing = Some(close);
                }
            }
        }
        Ok(())
    }

    /// Waits for something to happen on the connection.
    ///
    /// Cancel-safe: what was read or written is in the reader, the feed or the writer.
    async fn turn(&mut self, feed: &mut Feed, owed: bool) -> Result<(), End> {
        let starved = (owed || self.reader.in_message()) && !feed.is_full() && self.begun.is_none();
        tokio::select! {
            biased;
            () = feed.hand_on(), if feed.is_full() => self.heard = Instant::now(),
            read = self.reader.fill(), if self.reader.has_room() => {
                if read? == 0 {
                    return Err(End::Gone);
                }
                self.heard = Instant::now();
            }
            written = self.writer.flush(), if self.writer.is_pending() => written?,
            () = &mut self.owed, if starved => {
                let until = self.heard + STALL;
                if Instant::now() >= until {
                    let why = "the message stopped arriving";
                    return Err(Close::new(code::POLICY, why).into());
                }
                self.owed.as_mut().reset(until);
            }
            // The peer owes nothing, and sends more than is read ahead.
            () = pending() => {}
        }
        Ok(())
    }

    /// Does `work` and keeps the connection going meanwhile.
    async fn attend<F: Future>(
        &mut self,
        feed: &mut Feed,
        mut work: Pin<&mut F>,
    ) -> Result<F::Output, End> {
        loop {
            self.advance(feed)?;
            tokio::select! {
                biased;
                done = work.as_mut() => return Ok(done),
                turned = self.turn(feed, false) => turned?,
            }
        }
    }

    /// Waits for the next message; `owed` if it may not take long.
    async fn until_begun(&mut self, feed: &mut Feed, owed: bool) -> Result<(), End> {
        if owed {
            self.heard = Instant::now();
        }
        loop {
            self.advance(feed)?;
            if self.begun.is_some() {
                return Ok(());
            }
            if let Some(close) = self.closing.take() {
                return Err(close.into());
            }
            self.turn(feed, owed).await?;
        }
    }

    /// Waits until the message that feeds `feed` has ended.
    async fn until_ended(&mut self, feed: &mut Feed) -> Result<(), End> {
        feed.discard();
        loop {
            self.advance(feed)?;
            if feed.has_ended() {
                return Ok(());
            }
            self.turn(feed, false).await?;
        }
    }

    /// Reads the control message that has begun.
    async fn control(&mut self) -> Result<Control, End> {
        self.heard = Instant::now();
        let opcode = self.begun.take();
        let json = match self.reader.whole() {
            Some(whole) if whole.len() <= MAX_CONTROL => whole,
            Some(_) => return Err(too_big().into()),
            None => {
                let mut collected = BytesMut::new();
                loop {
                    match self.reader.next()? {
                        Some(Step::Data(piece)) => {
                            if collected.len() + piece.len() > MAX_CONTROL {
                                return Err(too_big().into());
                            }
                            collected.extend_from_slice(&piece);
                        }
                        Some(Step::End) => break collected.freeze(),
                        Some(Step::Ping(payload)) => self.writer.pong(payload),
                        Some(Step::Close(code)) => {
                            return Err(Close::new(code.unwrap_or(code::NORMAL), "").into());
                        }
                        Some(Step::Pong | Step::Begin(_)) => {}
                        None => self.turn(&mut Feed::none(), true).await?,
                    }
                }
            }
        };
        if opcode == Some(Opcode::Text) {
            return Err(match std::str::from_utf8(&json) {
                Ok(_) => Close::new(code::NORMAL, "a control message is a binary message"),
                Err(_) => Close::new(code::NOT_UTF8, "the text is not UTF-8"),
            }
            .into());
        }
        // A list would do for serde, but not for us.
        let object = json.trim_ascii_start().starts_with(b"{");
        let control = object.then(|| serde_json::from_slice(&json).ok()).flatten();
        let why = "the control message is not a JSON object as expected";
        control.ok_or_else(|| Close::new(code::NORMAL, why).into())
    }

    /// Puts a frame behind those that wait, once there is room for it.
    async fn frame(
        &mut self,
        feed: &mut Feed,
        opcode: Opcode,
        last: bool,
        payload: Bytes,
    ) -> Result<(), End> {
        while self.writer.is_full() {
            self.advance(feed)?;
            self.turn(feed, false).await?;
        }
        self.writer.frame(opcode, last, payload);
        Ok(())
    }

    async fn say(&mut self, feed: &mut Feed, text: String) -> Result<(), End> {
        self.frame(feed, Opcode::Text, true, text.into()).await
    }
}

fn too_big() -> Close {
    Close::new(code::TOO_BIG, "the control message is larger than 1 MiB")
}
