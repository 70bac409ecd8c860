//! An axon on a loopback port, and ways to call it.

use std::net::SocketAddr;

use schwann::{Drained, Server};
use schwann_synapse::{
    axon::{Axon, AxonBuilder},
    btauth,
    call_error::CallError,
    dendrite::{Answer, Dendrite},
    keys::{Keypair, Signer},
    nonce::NonceClock,
    python::Dict,
    ss58::Hotkey,
    synapse::Untyped,
    target::Target,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

static CLOCK: NonceClock = NonceClock::new();

/// An axon that listens until dropped.
pub(crate) struct Running {
    pub(crate) at: SocketAddr,
    pub(crate) hotkey: Hotkey,
    /// Calls it. Its calls end with it, so it is kept here.
    pub(crate) dendrite: Dendrite,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Drained>,
}

pub(crate) fn builder() -> AxonBuilder {
    Axon::builder(Keypair::from_uri("//Axon").unwrap())
}

pub(crate) async fn serve(builder: AxonBuilder) -> Running {
    serve_with(builder, Server::default()).await
}

pub(crate) async fn serve_with(builder: AxonBuilder, server: Server) -> Running {
    let axon = builder.build().unwrap();
    let hotkey = axon.hotkey();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(server.run(listener, axon, async move { drop(stopped.await) }));
    Running { at, hotkey, dendrite: dendrite(), stop: Some(stop), task }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    pub(crate) fn target(&self) -> Target {
        Target::new("127.0.0.1", self.at.port(), &self.hotkey.to_string()).unwrap()
    }

    /// Calls a route with no fields.
    pub(crate) async fn call(&self, route: &str) -> Result<Answer<Untyped>, CallError> {
        self.dendrite.call(self.target(), empty(route)).await
    }

    /// The status and the message of a call that fails.
    pub(crate) async fn refusal(&self, route: &str) -> (i64, String) {
        told(self.call(route).await)
    }

    /// Begins to stop it.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
    }

    pub(crate) async fn stopped(mut self) -> Drained {
        self.stop();
        (&mut self.task).await.unwrap()
    }

    /// A signed request as headers, for clients that leave in the middle.
    pub(crate) fn headers(&self, route: &str, timeout: &str) -> Vec<(&'static str, String)> {
        let key = Keypair::from_uri("//Alice").unwrap();
        let sha256 = btauth::body_sha256(b"{}");
        let target = format!("/{route}");
        let nonce = CLOCK.next();
        let mut headers = btauth::sign(&key, "POST", &target, &sha256, Some(&self.hotkey), nonce);
        headers.push(("timeout", timeout.to_owned()));
        headers
    }

    /// Sends a request and leaves its answer to be read.
    pub(crate) async fn begin(&self, route: &str, timeout: &str) -> TcpStream {
        let mut text = format!("POST /{route} HTTP/1.1\r\nhost: t\r\ncontent-length: 2\r\n");
        for (name, value) in self.headers(route, timeout) {
            text += &format!("{name}: {value}\r\n");
        }
        let mut stream = TcpStream::connect(self.at).await.unwrap();
        stream.write_all(format!("{text}\r\n{{}}").as_bytes()).await.unwrap();
        stream
    }
}

/// What comes until the other end closes.
pub(crate) async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What comes until this was seen.
pub(crate) async fn until(stream: &mut TcpStream, needle: &str) -> String {
    let mut bytes = Vec::new();
    loop {
        let seen = String::from_utf8_lossy(&bytes).into_owned();
        if seen.contains(needle) {
            return seen;
        }
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "closed after {seen}");
    }
}

fn dendrite() -> Dendrite {
    Dendrite::builder(Keypair::from_uri("//Alice").unwrap()).build()
}

pub(crate) fn empty(route: &str) -> Untyped {
    Untyped::new(route, Dict::new())
}

/// The status and the message that a caller gets.
pub(crate) fn told(result: Result<Answer<Untyped>, CallError>) -> (i64, String) {
    let error = result.unwrap_err();
    (error.status_code(), error.status_message().unwrap_or_default().into_owned())
}

/// Whom the requests of [`Running::begin`] and [`dendrite`] are signed by.
pub(crate) fn alice() -> Hotkey {
    Keypair::from_uri("//Alice").unwrap().hotkey()
}
