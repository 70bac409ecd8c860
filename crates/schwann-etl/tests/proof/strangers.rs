//! Strangers who mean no good: none of them has a hidden request served, a part of an object stored, or anybody else kept
//! waiting.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::StatusCode;
use schwann::{Call, Error, Finished, Server};
use schwann_etl::{EtlServer, Object};
use tokio::{io::AsyncReadExt as _, task::JoinSet, time::interval};

use crate::support::{
    client::{Caller, ask},
    scripted::{Act, Scripted},
    served::{Served, serve_with, settings},
};

/// A server that sends objects back, and keeps the names of those that it was asked for.
struct Scene {
    etl: Served,
    target: Scripted,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Scene {
    async fn new() -> Self {
        Self::served(EtlServer::http()).await
    }

    async fn served(http: Server) -> Self {
        let target = Scripted::start().await;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&asked);
        let transform = move |call: Call| {
            let kept = Arc::clone(&kept);
            async move {
                let (head, mut body, reply) = call.into_parts();
                let object = Object::of(&head).clone();
                kept.lock().unwrap().push(object.path().to_owned());
                if object.etl_args() == "deaf" {
                    return Ok::<Finished, Error>(reply.send(StatusCode::OK, "deaf"));
                }
                let first = body.chunk().await?.unwrap_or_default();
                let mut out = reply.start(StatusCode::OK);
                out.write(first).await?;
                while let Some(piece) = body.chunk().await? {
                    out.write(piece).await?;
                }
                Ok(out.finish())
            }
        };
        let etl = EtlServer::new(settings(&target.url()), transform).unwrap();
        Self { etl: serve_with(etl, http).await, target, asked }
    }

    fn address(&self) -> SocketAddr {
        self.etl.address
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    async fn goes_on(&self) {
        let answer = ask(self.address(), "PUT", "/b/o", "", b"body").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "body"));
    }
}

/// Everything that comes until the server closes, and the statuses in it.
async fn all_of(address: SocketAddr, bytes: &[u8]) -> (Vec<u16>, String) {
    let mut caller = Caller::connect(address).await;
    caller.send(bytes).await;
    let mut seen = Vec::new();
    let reading = caller.stream.read_to_end(&mut seen);
    let read = tokio::time::timeout(Duration::from_secs(30), reading).await;
    assert!(read.is_ok(), "never closed: {}", String::from_utf8_lossy(&seen));
    let text = String::from_utf8_lossy(&seen).into_owned();
    // An answer's first line may follow the body before it without a line's end.
    let statuses = text
        .match_indices("HTTP/1.1 ")
        .filter_map(|(at, found)| text.get(at + found.len()..at + found.len() + 3)?.parse().ok());
    (statuses.collect(), text)
}

/// What one reader of a message may take for its end, and another for the middle of it.
const FORMS: &[(&str, &str, &str)] = &[
    ("two lengths", "Content-Length: 1\r\nContent-Length: 2\r\n", "a"),
    ("a list of lengths", "Content-Length: 1, 1\r\n", "a"),
    ("a length with a sign", "Content-Length: +1\r\n", "a"),
    ("a hexadecimal length", "Content-Length: 0x1\r\n", "a"),
    ("an empty length", "Content-Length: \r\n", ""),
    ("a length beyond 64 bits", "Content-Length: 18446744073709551616\r\n", "a"),
    ("an unknown coding", "Transfer-Encoding: xchunked\r\nContent-Length: 1\r\n", "a"),
    ("chunks that are not last", "Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"),
    ("a vertical tab", "Transfer-Encoding: \x0bchunked\r\nContent-Length: 1\r\n", "a"),
    ("a space before the colon", "Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
    ("a folded line", "X: a\r\n b\r\nContent-Length: 1\r\n", "a"),
    ("a folded coding", "Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"),
    ("a lone CR", "X: a\rContent-Length: 5\r\nContent-Length: 1\r\n", "a"),
    ("a NUL", "X: a\0b\r\nContent-Length: 1\r\n", "a"),
    ("a hexadecimal mark", "Transfer-Encoding: chunked\r\n", "0x1\r\na\r\n0\r\n\r\n"),
    ("a chunk with a sign", "Transfer-Encoding: chunked\r\n", "+1\r\na\r\n0\r\n\r\n"),
    ("a negative chunk", "Transfer-Encoding: chunked\r\n", "-1\r\na\r\n0\r\n\r\n"),
    ("chunks by LF alone", "Transfer-Encoding: chunked\r\n", "1\na\n0\n\n"),
    ("an LF in an extension", "Transfer-Encoding: chunked\r\n", "1;a\nb\r\na\r\n0\r\n\r\n"),
    (
        "a chunk beyond 64 bits",
        "Transfer-Encoding: chunked\r\n",
        "ffffffffffffffff0\r\na\r\n0\r\n\r\n",
    ),
];

#[tokio::test]
async fn no_message_that_two_readers_may_end_differently_is_taken() {
    let scene = Scene::new().await;
    for (what, headers, body) in FORMS {
        let hidden = "PUT /hidden HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n";
        let request = format!("PUT /b/o HTTP/1.1\r\nHost: e\r\n{headers}\r\n{body}{hidden}");
        let (statuses, text) = all_of(scene.address(), request.as_bytes()).await;
        let asked = scene.asked();
        assert_eq!(statuses, [400], "{what}: {text}");
        assert!(!asked.iter().any(|path| path.contains("hidden")), "{what}: {asked:?}");
        scene.goes_on().await;
        scene.asked();
    }
}

#[tokio::test]
async fn a_body_in_chunks_with_a_length_besides_ends_its_connection() {
    let scene = Scene::new().await;
    for headers in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
    ] {
        let request = format!(
            "PUT /b/o HTTP/1.1\r\nHost: e\r\n{headers}\r\n1\r\na\r\n0\r\n\r\nPUT /hidden HTTP/1.1\r\nHost: e\r\n\r\n"
        );
        // RFC 9112 §6.3: the chunks count, and nothing after them.
        let (statuses, text) = all_of(scene.address(), request.as_bytes()).await;
        assert_eq!(statuses, [200], "{text}");
        assert_eq!(scene.asked(), ["b/o"]);
    }
}

#[tokio::test]
async fn an_object_in_a_coding_that_nobody_undoes_is_refused() {
    let scene = Scene::new().await;
    for coding in ["gzip, chunked", "identity, chunked", "chunked, chunked"] {
        let mut caller = Caller::connect(scene.address()).await;
        caller.head("PUT", "/b/o", &format!("Transfer-Encoding: {coding}\r\n")).await;
        caller.send("3\r\nabc\r\n0\r\n\r\n").await;
        let answer = caller.answer().await;
        assert_eq!(answer.status, 400, "{coding}");
    }
    assert!(scene.asked().is_empty(), "a transform ran");
    for coding in ["chunked", "Chunked", " chunked "] {
        let mut caller = Caller::connect(scene.address()).await;
        caller.head("PUT", "/b/o", &format!("Transfer-Encoding: {coding}\r\n")).await;
        caller.send("3\r\nabc\r\n0\r\n\r\n").await;
        assert_eq!(caller.answer().await.text(), "abc", "{coding}");
    }
}

#[tokio::test]
async fn what_an_early_answer_left_of_a_body_is_never_a_request() {
    let scene = Scene::new().await;
    let hidden = "PUT /hidden HTTP/1.1\r\nHost: e\r\nContent-Length: 0\r\n\r\n".repeat(2000);
    let last = "PUT /last HTTP/1.1\r\nHost: e\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    let request = format!(
        "PUT /b/o?etl_args=deaf HTTP/1.1\r\nHost: e\r\nContent-Length: {}\r\n\r\n{hidden}{last}",
        hidden.len()
    );
    let (statuses, text) = all_of(scene.address(), request.as_bytes()).await;
    assert!(statuses == [200] || statuses == [200, 200], "{text}");
    let asked = scene.asked();
    assert!(!asked.iter().any(|path| path == "hidden"), "{asked:?}");
    assert_eq!(asked.len(), statuses.len());
}

#[tokio::test]
async fn extensions_and_trailers_without_an_end_deliver_nothing() {
    let scene = Scene::new().await;
    let one = format!("1;{}\r\na\r\n", "x".repeat(1 << 20));
    let many = format!("1;{}\r\na\r\n", "x".repeat(100)).repeat(10_000);
    let trailers = format!("1\r\na\r\n0\r\n{}", "X: y\r\n".repeat(100_000));
    for (n, (what, body)) in
        [("one extension", one), ("many extensions", many), ("trailers", trailers)]
            .iter()
            .enumerate()
    {
        let to = format!("Ais-Node-Url: http://{}/ais%2Fd{n}\r\n", scene.target.address);
        let mut caller = Caller::connect(scene.address()).await;
        caller.head("PUT", "/b/o", &format!("{to}Transfer-Encoding: chunked\r\n")).await;
        caller.send(body).await;
        // Who has not been refused by now owes the end, and leaves.
        caller.end().await;
        let answer = caller.answer().await;
        assert!(!(200..300).contains(&answer.status), "{what}: {answer:?}");
        let seen = scene.target.quiet(&format!("d{n}")).await;
        assert!(seen.iter().all(|seen| !seen.complete), "{what}: {seen:?}");
        scene.goes_on().await;
    }
}

#[tokio::test]
async fn heads_that_drip_are_cut_off_and_keep_nobody_waiting() {
    let head_timeout = Duration::from_millis(500);
    let scene = Scene::served(Server { head_timeout, ..EtlServer::http() }).await;
    let mut dripping = JoinSet::new();
    for _ in 0..200 {
        let mut caller = Caller::connect(scene.address()).await;
        dripping.spawn(async move {
            caller.send("PUT /b/o HTTP/1.1\r\nHost: e\r\n").await;
            let mut drops = interval(Duration::from_millis(20));
            let mut rest = Vec::new();
            loop {
                tokio::select! {
                    _ = caller.stream.read_to_end(&mut rest) => return rest,
                    _ = drops.tick() => {}
                }
                caller.send("X: y\r\n").await;
            }
        });
    }
    scene.goes_on().await;
    while let Some(rest) = dripping.join_next().await {
        let rest = rest.unwrap();
        assert!(!rest.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&rest));
    }
    assert_eq!(scene.asked(), ["b/o"]);
}

#[tokio::test]
async fn a_source_that_trickles_ends_with_its_caller_and_holds_nobody_up() {
    let scene = Scene::new().await;
    // A head, a piece of the object, and nothing more.
    scene.target.on("slow", [Act::Begin(b"part".as_slice().into(), 1000)]);
    let mut callers = Vec::new();
    for _ in 0..20 {
        let mut caller = Caller::connect(scene.address()).await;
        caller.head("GET", "/ais%2F@%23%2Fsrc%2Fslow", "").await;
        let answer = caller.answer_until(4).await;
        assert_eq!((answer.status, answer.text().as_str(), answer.complete), (200, "part", false));
        callers.push(caller);
    }
    scene.goes_on().await;
    assert_eq!(scene.target.seen("slow").iter().filter(|seen| seen.over).count(), 0);
    drop(callers);
    let left = scene.target.quiet("slow").await;
    assert_eq!(left.len(), 20);
}
