//! An axon that does what a test says, on a loopback port.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use schwann_synapse::{
    dendrite::{Dendrite, DendriteBuilder},
    keys::Keypair,
    python::{Dict, Value},
    synapse::{Synapse, Untyped},
    target::Target,
};
use schwann_testkit::{Probe, probe};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
};

pub(crate) const AXON: &str = "5CcX9gSfabdgTwKAXapgUMcoVTzRSNGXE8o2iCAWxo4hYTxp";

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Synapse)]
pub(crate) struct PlainSynapse {
    #[serde(default)]
    pub(crate) x: i64,
    #[serde(default)]
    pub(crate) y: Option<i64>,
}

pub(crate) fn plain() -> PlainSynapse {
    PlainSynapse { x: 3, y: None }
}

pub(crate) fn untyped(name: &str, fields: &str) -> Untyped {
    match Value::parse_json(fields.as_bytes()).unwrap() {
        Value::Dict(fields) => Untyped::new(name, fields),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn builder() -> DendriteBuilder {
    Dendrite::builder(Keypair::from_uri("//interop-dendrite").unwrap())
}

pub(crate) fn dendrite() -> Dendrite {
    builder().build()
}

/// A fake axon; it stops when dropped.
pub(crate) struct Axon {
    pub(crate) target: Target,
    /// Connections taken.
    pub(crate) connections: Probe,
    /// Requests read.
    pub(crate) requests: Probe,
    /// Connections the client has closed, noticed by [`Wire::closed`].
    pub(crate) closed: Probe,
    seen: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Axon {
    /// Everything that was asked, in the order it arrived.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Axon {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection, from the axon's end.
pub(crate) struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
    requests: Probe,
    closed: Probe,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Wire {
    /// The next request, whole; `None` if the client closed instead.
    pub(crate) async fn request(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.read[..end]).into_owned();
                let length: usize =
                    header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
                if self.read.len() >= end + 4 + length {
                    let rest = self.read.split_off(end + 4 + length);
                    let request =
                        String::from_utf8(std::mem::replace(&mut self.read, rest)).unwrap();
                    self.seen.lock().unwrap().push(request.clone());
                    self.requests.hit();
                    return Some(request);
                }
            }
            let mut more = [0; 4096];
            match self.stream.read(&mut more).await {
                Ok(0) | Err(_) => return None,
                Ok(n) => self.read.extend_from_slice(&more[..n]),
            }
        }
    }

    /// Writes bytes as they are. A client that has gone does not mind.
    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
        let _ = self.stream.flush().await;
    }

    /// Waits until the client closes.
    pub(crate) async fn closed(&mut self) {
        let mut rest = [0; 1024];
        while !matches!(self.stream.read(&mut rest).await, Ok(0) | Err(_)) {}
        self.closed.hit();
    }

    /// Closes with a reset.
    pub(crate) fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }
}

/// An axon that does with each connection what `each` says.
pub(crate) async fn axon<F>(each: impl Fn(usize, Wire) -> F + Send + 'static) -> Axon
where
    F: Future<Output = ()> + Send + 'static,
{
    axon_at("127.0.0.1", each).await
}

pub(crate) async fn axon_at<F>(host: &str, each: impl Fn(usize, Wire) -> F + Send + 'static) -> Axon
where
    F: Future<Output = ()> + Send + 'static,
{
    let address: SocketAddr = (host.parse::<IpAddr>().unwrap(), 0).into();
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
    socket.bind(address).unwrap();
    // tokio's own listener has room for 128: the rest of a fan-out would wait for a second SYN.
    let listener = socket.listen(1024).unwrap();
    let target = Target::new(host, listener.local_addr().unwrap().port(), AXON).unwrap();
    let (connections, requests, closed) = (probe(), probe(), probe());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let task = tokio::spawn({
        let (connections, requests, closed, seen) =
            (connections.clone(), requests.clone(), closed.clone(), Arc::clone(&seen));
        async move {
            let mut number = 0;
            while let Ok((stream, _)) = listener.accept().await {
                connections.hit();
                let wire = Wire {
                    stream,
                    read: Vec::new(),
                    requests: requests.clone(),
                    closed: closed.clone(),
                    seen: Arc::clone(&seen),
                };
                tokio::spawn(each(number, wire));
                number += 1;
            }
        }
    });
    Axon { target, connections, requests, closed, seen, task }
}

/// An axon that answers every request with the same bytes and then closes.
pub(crate) async fn saying(answer: impl AsRef<[u8]>) -> Axon {
    let answer = answer.as_ref().to_vec();
    axon(move |_, mut wire| {
        let answer = answer.clone();
        async move {
            wire.request().await;
            wire.write(answer).await;
        }
    })
    .await
}

/// An axon that answers every request on every connection with the same bytes.
pub(crate) async fn always_saying(answer: impl AsRef<[u8]>) -> Axon {
    let answer = answer.as_ref().to_vec();
    axon(move |_, mut wire| {
        let answer = answer.clone();
        async move {
            while wire.request().await.is_some() {
                wire.write(&answer).await;
            }
        }
    })
    .await
}

/// An answer with a length and these extra header lines.
pub(crate) fn json(status: u16, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

pub(crate) const SUCCESS: &str =
    "bt_header_axon_status_code: 200\r\nbt_header_axon_status_message: Success\r\n";

/// A unary answer that says 200 everywhere.
pub(crate) fn fine() -> String {
    json(200, SUCCESS, r#"{"x": 3, "y": 6}"#)
}

/// The head of a streaming answer.
pub(crate) fn stream_head() -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nname: StreamSynapse\r\ntimeout: 12.0\r\n{SUCCESS}\
         transfer-encoding: chunked\r\n\r\n"
    )
}

pub(crate) fn chunk(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

pub(crate) fn stream_ask() -> Untyped {
    let mut fields = Dict::new();
    fields.insert("prompt", "go");
    fields.insert("completion", Value::None);
    Untyped::new("StreamSynapse", fields).hash(["prompt"])
}

/// A header of a request, by its lower-case name.
pub(crate) fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let head = request.split("\r\n\r\n").next()?;
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
