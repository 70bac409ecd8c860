//! HTTP upstreams: a server that the test plays byte by byte.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use schwann::{Server, serve_connection};
use schwann_process::{Answer, AnswerError, ByteSize, Phase, Post, Span, Upstream, UpstreamSpec};
use schwann_testkit::pipe;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::soon;

/// A listener, and the spec of an upstream that asks it.
async fn server() -> (TcpListener, UpstreamSpec) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, UpstreamSpec::new(format!("http://{address}/path?query=1")))
}

#[track_caller]
fn upstream(spec: UpstreamSpec) -> Upstream {
    Upstream::from_spec(spec).unwrap()
}

/// The server's end of one connection.
struct Peer(TcpStream);

impl Peer {
    async fn accept(listener: &TcpListener) -> Self {
        Self(soon(listener.accept()).await.unwrap().0)
    }

    /// Reads a request, whose body ends with `end`.
    async fn read(&mut self, end: &str) -> String {
        let mut seen = Vec::new();
        while !seen.ends_with(end.as_bytes()) {
            let n = soon(self.0.read_buf(&mut seen)).await.unwrap();
            assert_ne!(n, 0, "closed after {:?}", String::from_utf8_lossy(&seen));
        }
        String::from_utf8(seen).unwrap()
    }

    async fn write(&mut self, text: &str) {
        soon(self.0.write_all(text.as_bytes())).await.unwrap();
    }

    /// Waits until the other side has closed.
    async fn left(&mut self) {
        // A reset is an end too.
        let _ = soon(self.0.read_to_end(&mut Vec::new())).await;
    }
}

/// Asks with `{}`, and lets the peer answer with `bytes` and close.
async fn answered(spec: impl FnOnce(&mut UpstreamSpec), bytes: &str) -> Result<Bytes, AnswerError> {
    let (listener, mut own) = server().await;
    spec(&mut own);
    let upstream = upstream(own);
    let (answer, ()) = tokio::join!(soon(upstream.run(Post::json("{}"))), async {
        let mut peer = Peer::accept(&listener).await;
        peer.read("{}").await;
        peer.write(bytes).await;
    });
    answer.map(|whole| whole.body)
}

/// Starts an answer with the given head and first bytes.
async fn begun(spec: UpstreamSpec, listener: &TcpListener, bytes: &str) -> (Answer, Peer) {
    let upstream = upstream(spec);
    let (answer, peer) = tokio::join!(soon(upstream.stream(Post::json("{}"))), async {
        let mut peer = Peer::accept(listener).await;
        peer.read("{}").await;
        peer.write(bytes).await;
        peer
    });
    (answer.unwrap(), peer)
}

const STREAM: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

#[tokio::test]
async fn a_body_is_posted_as_it_is() {
    let (listener, spec) = server().await;
    let upstream = upstream(spec);
    let mut post = Post::json(r#"{"text":"hé"}"#);
    post.headers.insert(HeaderName::from_static("x-caller"), HeaderValue::from_static("5Grw"));
    post.headers.insert("content-length", HeaderValue::from_static("99"));
    post.headers.insert("transfer-encoding", HeaderValue::from_static("chunked"));
    let (answer, request) = tokio::join!(soon(upstream.run(post)), async {
        let mut peer = Peer::accept(&listener).await;
        let request = peer.read("}").await;
        peer.write("HTTP/1.1 200 OK\r\ncontent-type: text/x\r\ncontent-length: 4\r\n\r\ndone")
            .await;
        request
    });
    let whole = answer.unwrap();
    assert_eq!(whole.body, "done");
    assert_eq!(whole.content_type.unwrap(), "text/x");
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, r#"{"text":"hé"}"#);
    assert!(head.starts_with("POST /path?query=1 HTTP/1.1\r\n"), "{head}");
    for expected in ["content-type: application/json", "content-length: 14", "x-caller: 5Grw"] {
        assert!(head.contains(expected), "{expected} in {head}");
    }
    assert!(!head.contains("chunked"), "{head}");
}

#[tokio::test]
async fn an_event_stream_comes_event_by_event() {
    let (listener, spec) = server().await;
    let (mut answer, mut peer) = begun(spec, &listener, STREAM).await;
    assert_eq!(answer.content_type().unwrap(), "text/event-stream");
    for n in 0..20 {
        // Nothing more is sent before this one was seen.
        peer.write(&format!("A\r\ndata: {n:02}\n\n\r\n")).await;
        assert_eq!(soon(answer.chunk()).await.unwrap().unwrap(), format!("data: {n:02}\n\n"));
    }
    peer.write("0\r\n\r\n").await;
    assert!(soon(answer.chunk()).await.unwrap().is_none());
    assert!(soon(answer.chunk()).await.unwrap().is_none(), "the end stays the end");
}

#[tokio::test]
async fn a_cut_is_an_error() {
    for (sent, output) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", 4),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", 4),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\nhalf", 4),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n", 4),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", 0),
    ] {
        let error = answered(|_| {}, sent).await.unwrap_err();
        assert!(
            matches!(&error, AnswerError::Cut { output: seen, .. } if seen.bytes() == output),
            "{sent:?}: {error}"
        );
        assert_eq!(error.after_output(), output > 0);
    }
}

#[tokio::test]
async fn a_cut_stays_an_error() {
    let (listener, spec) = server().await;
    let (mut answer, peer) = begun(spec, &listener, &format!("{STREAM}4\r\nhalf\r\n")).await;
    assert_eq!(soon(answer.chunk()).await.unwrap().unwrap(), "half");
    drop(peer);
    for _ in 0..2 {
        let error = soon(answer.chunk()).await.unwrap_err();
        assert!(matches!(error, AnswerError::Cut { .. }), "{error}");
    }
}

#[tokio::test]
async fn an_answer_whose_end_would_be_a_guess_is_refused() {
    let sent = "HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\nperhaps all";
    let error = answered(|_| {}, sent).await.unwrap_err();
    assert!(error.to_string().contains("allow_unframed = true"), "{error}");
    let body = answered(|spec| spec.allow_unframed = true, sent).await.unwrap();
    assert_eq!(body, "perhaps all");
}

#[tokio::test]
async fn an_empty_answer_is_an_answer() {
    for sent in ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"]
    {
        assert_eq!(answered(|_| {}, sent).await.unwrap(), "");
    }
}

#[tokio::test]
async fn an_error_status_is_kept_for_the_log() {
    let sent = "HTTP/1.1 503 Overloaded\r\ncontent-length: 13\r\n\r\nno gpu\x07 today";
    let error = answered(|_| {}, sent).await.unwrap_err();
    assert!(matches!(&error, AnswerError::Status { status, .. } if status.as_u16() == 503));
    assert_eq!(
        error.to_string(),
        "upstream answered 503 Service Unavailable and said: no gpu  today"
    );
    let public = schwann::Error::from(error);
    assert_eq!(public.status(), 502);
    assert!(!public.public_message().contains("gpu"));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let sent = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    let error = answered(|_| {}, sent).await.unwrap_err();
    assert!(matches!(&error, AnswerError::Status { status, .. } if status.as_u16() == 302));
}

#[tokio::test]
async fn a_compressed_answer_is_refused() {
    let sent = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 1\r\n\r\nx";
    let error = answered(|_| {}, sent).await.unwrap_err();
    assert_eq!(error.to_string(), "upstream's answer is encoded as gzip, which was not asked for");
}

#[tokio::test]
async fn an_answer_over_the_limit_is_an_error() {
    let sent = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789";
    let limit = |bytes| move |spec: &mut UpstreamSpec| spec.max_output = ByteSize::new(bytes);
    assert_eq!(answered(limit(10), sent).await.unwrap(), "0123456789");
    let error = answered(limit(9), sent).await.unwrap_err();
    assert!(matches!(error, AnswerError::TooMuchOutput { .. }), "{error}");
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let (listener, spec) = server().await;
    drop(listener);
    let error = soon(upstream(spec).run(Post::json("{}"))).await.unwrap_err();
    assert!(matches!(error, AnswerError::Unreachable { .. }), "{error}");
    assert_eq!(schwann::Error::from(error).status(), 502);
}

#[tokio::test]
async fn a_connection_that_ends_unanswered_is_an_error() {
    let error = answered(|_| {}, "").await.unwrap_err();
    assert!(matches!(error, AnswerError::NoAnswer { .. }), "{error}");
    let error = answered(|_| {}, "not http\r\n\r\n").await.unwrap_err();
    assert!(matches!(error, AnswerError::NoAnswer { .. }), "{error}");
}

#[track_caller]
fn timed_out(error: &AnswerError, expected: Phase) {
    assert!(matches!(error, AnswerError::TimedOut { phase, .. } if *phase == expected), "{error}");
}

#[tokio::test]
async fn each_part_has_its_own_limit_of_time() {
    let (listener, mut spec) = server().await;
    spec.first_byte_timeout = Span::from_millis(50);
    spec.connect_timeout = Span::from_millis(50);
    let error = soon(upstream(spec).run(Post::json("{}"))).await.unwrap_err();
    timed_out(&error, Phase::FirstByte);
    drop(listener);

    let (listener, mut spec) = server().await;
    spec.idle_timeout = Span::from_millis(50);
    let (mut answer, mut peer) = begun(spec, &listener, &format!("{STREAM}1\r\nx\r\n")).await;
    assert!(soon(answer.chunk()).await.unwrap().is_some());
    let error = soon(answer.chunk()).await.unwrap_err();
    timed_out(&error, Phase::Silence);
    assert!(error.after_output());
    peer.left().await;

    let (listener, mut spec) = server().await;
    spec.timeout = Span::from_millis(50);
    let error = soon(upstream(spec).run(Post::json("{}"))).await.unwrap_err();
    timed_out(&error, Phase::Total);
    assert_eq!(schwann::Error::from(error).status(), 504);
    drop(listener);
}

#[tokio::test]
async fn a_reader_that_stalls_does_not_hold_the_upstream_past_the_deadline() {
    let (listener, mut spec) = server().await;
    spec.timeout = Span::from_millis(200);
    let (mut answer, mut peer) = begun(spec, &listener, &format!("{STREAM}1\r\nx\r\n")).await;
    peer.left().await;
    let error = soon(answer.chunk()).await.unwrap_err();
    timed_out(&error, Phase::Total);
}

#[tokio::test]
async fn a_reader_that_stalls_stops_the_upstream() {
    let (listener, spec) = server().await;
    let (mut answer, mut peer) = begun(spec, &listener, STREAM).await;
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(65536));
    let mut sent = 0;
    // Until the kernel's buffers are full: there is no event for "never".
    while tokio::time::timeout(Duration::from_millis(300), peer.0.write_all(chunk.as_bytes()))
        .await
        .is_ok()
    {
        sent += 65536;
        assert!(sent < 64 << 20, "an answer that nobody reads was taken in");
    }
    assert!(soon(answer.chunk()).await.unwrap().is_some());
}

#[tokio::test]
async fn dropping_an_answer_closes_its_connection() {
    let (listener, spec) = server().await;
    let (answer, mut peer) = begun(spec, &listener, &format!("{STREAM}1\r\nx\r\n")).await;
    drop(answer);
    peer.left().await;
}

#[tokio::test]
async fn connections_are_kept_and_limits_are_shared() {
    let (listener, mut spec) = server().await;
    spec.max_running = 1;
    spec.max_wait = Span::from_millis(50);
    let upstream = upstream(spec);
    let (first, mut peer) = tokio::join!(soon(upstream.stream(Post::json("{}"))), async {
        let mut peer = Peer::accept(&listener).await;
        peer.read("{}").await;
        peer.write(STREAM).await;
        peer
    });
    let mut first = first.unwrap();
    let error = soon(upstream.clone().run(Post::json("{}"))).await.unwrap_err();
    assert!(matches!(error, AnswerError::Busy { running: 1 }), "{error}");
    peer.write("0\r\n\r\n").await;
    assert!(soon(first.chunk()).await.unwrap().is_none());
    // At its end, though it still exists, it takes up no room.
    let (second, ()) = tokio::join!(soon(upstream.run(Post::json("{}"))), async {
        peer.read("{}").await;
        peer.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    });
    second.unwrap();
}

#[tokio::test]
async fn as_a_handler_it_passes_an_answer_on_as_it_comes() {
    let (listener, spec) = server().await;
    let (mut client, io) = pipe(4096);
    let handler = upstream(spec);
    tokio::spawn(async move { serve_connection(&Server::default(), io, handler).await });
    client.write("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 2\r\n\r\n{}").await;
    let mut peer = Peer::accept(&listener).await;
    peer.read("{}").await;
    peer.write(&format!("{STREAM}9\r\ndata: 1\n\n\r\n")).await;
    let seen = soon(client.read_until("data: 1")).await;
    assert!(seen.contains("content-type: text/event-stream"), "{seen}");
    // Cut here, so the client must see a cut.
    drop(peer);
    let seen = soon(client.read_to_end()).await;
    assert!(!seen.ends_with("0\r\n\r\n"), "ended as if whole: {seen}");
}

#[tokio::test]
async fn an_address_that_does_not_answer_is_given_up() {
    // A listener with a full queue: the kernel drops what comes after.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await
    {
        waiting.push(stream);
    }
    let mut spec = UpstreamSpec::new(format!("http://{address}/"));
    spec.connect_timeout = Span::from_millis(50);
    let error = soon(upstream(spec).run(Post::json("{}"))).await.unwrap_err();
    assert!(matches!(error, AnswerError::Unreachable { .. }), "{error}");
}
