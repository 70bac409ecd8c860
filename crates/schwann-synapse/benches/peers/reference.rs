//! The least an axon can do on hyper: read the headers, verify one signature with a key it knows, parse the body, answer.
//!
//! No nonce is remembered, no hash compared, no limit kept: what our axon does besides is what the ratio shows.

use std::{
    collections::HashMap,
    convert::Infallible,
    pin::Pin,
    sync::{Arc, LazyLock, PoisonError, RwLock},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Either, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use schnorrkel::{PublicKey, Signature, context::SigningContext};
use schwann_synapse::{
    keys::{Keypair, Signer as _},
    ss58::Hotkey,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    time::{Sleep, sleep},
};

use crate::{Failure, dismissed, runtime, say};

static SUBSTRATE: LazyLock<SigningContext> = LazyLock::new(|| SigningContext::new(b"substrate"));

struct Server {
    hotkey: String,
    keys: RwLock<HashMap<String, PublicKey>>,
}

#[derive(Deserialize, Serialize)]
struct Terminal {
    status_code: Option<i64>,
    status_message: Option<String>,
    process_time: Option<f64>,
    ip: Option<String>,
    port: Option<u16>,
    version: Option<i64>,
    nonce: Option<u64>,
    uuid: Option<String>,
    hotkey: Option<String>,
    signature: Option<String>,
}

/// Written out whole: `#[serde(flatten)]` would buffer what it reads.
#[derive(Deserialize, Serialize)]
struct Plain {
    name: String,
    timeout: f64,
    total_size: i64,
    header_size: i64,
    dendrite: Terminal,
    axon: Terminal,
    computed_body_hash: String,
    x: i64,
    y: Option<i64>,
}

#[derive(Deserialize, Serialize)]
struct Echo {
    name: String,
    timeout: f64,
    total_size: i64,
    header_size: i64,
    dendrite: Terminal,
    axon: Terminal,
    computed_body_hash: String,
    text: String,
    count: i64,
    #[serde(default)]
    ratio: f64,
    #[serde(default)]
    flag: bool,
    note: Option<String>,
    items: Vec<Value>,
    table: Value,
    reply: Option<String>,
}

#[derive(Deserialize)]
struct Stream {
    n_tokens: u32,
    delay: f64,
}

/// What the headers of a request say; all of them are read.
struct Head<'a> {
    name: &'a str,
    timeout: f64,
    nonce: u64,
    version: i64,
    uuid: &'a str,
    hotkey: &'a str,
    signature: &'a str,
    hash: &'a str,
    dendrite_ip: &'a str,
    axon_ip: &'a str,
    axon_port: u16,
    _axon_hotkey: &'a str,
    _total_size: i64,
    _header_size: i64,
}

impl<'a> Head<'a> {
    fn of(headers: &'a HeaderMap) -> Option<Self> {
        let text = |name: &'static str| headers.get(name).and_then(|value| value.to_str().ok());
        Some(Self {
            name: text("name")?,
            timeout: text("timeout")?.parse().ok()?,
            nonce: text("bt_header_dendrite_nonce")?.parse().ok()?,
            version: text("bt_header_dendrite_version")?.parse().ok()?,
            uuid: text("bt_header_dendrite_uuid")?,
            hotkey: text("bt_header_dendrite_hotkey")?,
            signature: text("bt_header_dendrite_signature")?,
            hash: text("computed_body_hash")?,
            dendrite_ip: text("bt_header_dendrite_ip")?,
            axon_ip: text("bt_header_axon_ip")?,
            axon_port: text("bt_header_axon_port")?.parse().ok()?,
            _axon_hotkey: text("bt_header_axon_hotkey")?,
            _total_size: text("total_size")?.parse().ok()?,
            _header_size: text("header_size")?.parse().ok()?,
        })
    }
}

impl Server {
    fn verify(&self, head: &Head<'_>) -> bool {
        let mut bytes = [0; 64];
        let Some(digits) = head.signature.strip_prefix("0x") else { return false };
        if hex::decode_to_slice(digits, &mut bytes).is_err() {
            return false;
        }
        let Ok(signature) = Signature::from_bytes(&bytes) else { return false };
        let Some(key) = self.key(head.hotkey) else { return false };
        let (nonce, uuid, hash) = (head.nonce, head.uuid, head.hash);
        let message = format!("{nonce}.{}.{}.{uuid}.{hash}", head.hotkey, self.hotkey);
        key.verify(SUBSTRATE.bytes(message.as_bytes()), &signature).is_ok()
    }

    fn key(&self, address: &str) -> Option<PublicKey> {
        let known = self.keys.read().unwrap_or_else(PoisonError::into_inner).get(address).copied();
        if known.is_some() {
            return known;
        }
        let hotkey: Hotkey = address.parse().ok()?;
        let key = PublicKey::from_bytes(hotkey.as_bytes()).ok()?;
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.insert(address.to_owned(), key);
        Some(key)
    }

    /// As many headers as a v10 axon answers.
    fn answer_headers(&self, head: &Head<'_>, took: f64, size: usize, headers: &mut HeaderMap) {
        headers.reserve(20);
        let mut add = |name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        add("name", head.name);
        add("timeout", &head.timeout.to_string());
        add("bt_header_axon_status_code", "200");
        add("bt_header_axon_status_message", "Success");
        add("bt_header_axon_process_time", &took.to_string());
        add("bt_header_axon_ip", head.axon_ip);
        add("bt_header_axon_port", &head.axon_port.to_string());
        add("bt_header_axon_hotkey", &self.hotkey);
        add("bt_header_dendrite_ip", head.dendrite_ip);
        add("bt_header_dendrite_version", &head.version.to_string());
        add("bt_header_dendrite_nonce", &head.nonce.to_string());
        add("bt_header_dendrite_uuid", head.uuid);
        add("bt_header_dendrite_hotkey", head.hotkey);
        add("bt_header_dendrite_signature", head.signature);
        add("header_size", "0");
        add("total_size", &size.to_string());
        add("computed_body_hash", head.hash);
    }

    async fn answer(&self, request: Request<Incoming>) -> Option<Response<Answer>> {
        let started = Instant::now();
        let (parts, body) = request.into_parts();
        let head = Head::of(&parts.headers)?;
        if !self.verify(&head) {
            return None;
        }
        let body = body.collect().await.ok()?.to_bytes();
        let path = parts.uri.path();
        if path == "/StreamSynapse" {
            let ask: Stream = serde_json::from_slice(&body).ok()?;
            let tokens = Tokens {
                next: 0,
                count: ask.n_tokens,
                delay: Duration::try_from_secs_f64(ask.delay).ok()?,
                wait: None,
            };
            let mut response = Response::new(Either::Right(tokens));
            let headers = response.headers_mut();
            let kind = HeaderValue::from_static("text/event-stream");
            headers.insert(header::CONTENT_TYPE, kind);
            self.answer_headers(&head, started.elapsed().as_secs_f64(), 0, headers);
            return Some(response);
        }
        let body = match path {
            "/PlainSynapse" => {
                let mut plain: Plain = serde_json::from_slice(&body).ok()?;
                plain.y = Some(plain.x * 2);
                serde_json::to_vec(&plain).ok()?
            }
            "/EchoSynapse" => {
                let mut echo: Echo = serde_json::from_slice(&body).ok()?;
                let note = echo.note.as_deref().unwrap_or("None");
                let (count, ratio, flag) = (echo.count, echo.ratio, echo.flag);
                echo.reply = Some(format!("{}|{count}|{ratio}|{flag}|{note}", echo.text));
                serde_json::to_vec(&echo).ok()?
            }
            _ => return None,
        };
        let mut response = Response::new(Either::Left(Full::new(Bytes::new())));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.answer_headers(&head, started.elapsed().as_secs_f64(), body.len(), headers);
        *response.body_mut() = Either::Left(Full::new(Bytes::from(body)));
        Some(response)
    }
}

type Answer = Either<Full<Bytes>, Tokens>;

/// A body that makes its tokens when the connection asks for them.
struct Tokens {
    next: u32,
    count: u32,
    delay: Duration,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Body for Tokens {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        if let Some(wait) = &mut this.wait {
            ready!(wait.as_mut().poll(cx));
            this.wait = None;
        }
        if this.next == this.count {
            return Poll::Ready(None);
        }
        let token = Bytes::from(format!("tok{} ", this.next));
        this.next += 1;
        if !this.delay.is_zero() {
            this.wait = Some(Box::pin(sleep(this.delay)));
        }
        Poll::Ready(Some(Ok(Frame::data(token))))
    }
}

/// Serves until dismissed.
pub(crate) fn run() -> Result<(), Failure> {
    runtime()?.block_on(async {
        let hotkey = Keypair::from_uri("//bench-reference")?.hotkey().to_string();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        say(&json!({ "ready": true, "port": port, "hotkey": hotkey }))?;
        let server = Arc::new(Server { hotkey, keys: RwLock::default() });
        tokio::select! {
            served = serve(listener, server) => served,
            () = dismissed() => Ok(()),
        }
    })
}

async fn serve(listener: TcpListener, server: Arc<Server>) -> Result<(), Failure> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let server = Arc::clone(&server);
                async move {
                    let refused = || {
                        let mut refused = Response::new(Either::Left(Full::new(Bytes::new())));
                        *refused.status_mut() = StatusCode::UNAUTHORIZED;
                        refused
                    };
                    Ok::<_, Infallible>(server.answer(request).await.unwrap_or_else(refused))
                }
            });
            // A client that leaves is an error here, and means nothing.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
