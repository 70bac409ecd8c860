//! Which requests there are, and that `/health` answers whatever else is going on.

use std::sync::{Arc, Mutex, mpsc};

use bytes::Bytes;
use schwann::{BlockingPool, Server};
use schwann_etl::{EtlServer, Token, transform};
use tokio::sync::oneshot;

use crate::{
    client::{Caller, ask},
    scripted::{Act, Reply, Scripted},
    served::{serve, settings},
};

#[tokio::test]
async fn methods_that_are_not_served_are_refused_with_those_that_are() {
    let target = Scripted::start().await;
    let etl = serve(transform::buffered(|_, data| Ok(data)), settings(&target.url())).await;
    for (method, path, status, allow) in [
        ("GET", "/health", 200, None),
        ("PUT", "/health", 405, Some("GET, HEAD")),
        ("DELETE", "/b/o", 405, Some("GET, PUT")),
        ("POST", "/b/o", 405, Some("GET, PUT")),
        ("PATCH", "/download", 405, Some("GET, PUT, POST")),
        ("PUT", "/", 200, None),
        ("PUT", "/download", 200, None),
    ] {
        let answer = ask(etl.address, method, path, "", b"x").await;
        assert_eq!(answer.status, status, "{method} {path}");
        assert_eq!(answer.header("allow"), allow, "{method} {path}");
    }
    let mut caller = Caller::connect(etl.address).await;
    caller.head("HEAD", "/health", "").await;
    assert_eq!(caller.answer_head().await.status, 200);
}

/// A transform that says when it begins, and waits to be let go.
fn held() -> (impl Fn(&schwann_etl::Object, Bytes) -> Result<Bytes, schwann::Error>, Hold) {
    let (begun, began) = mpsc::channel();
    let (go, let_go) = mpsc::channel::<()>();
    let let_go = Mutex::new(let_go);
    let held = move |_: &schwann_etl::Object, data: Bytes| {
        begun.send(()).unwrap();
        let_go.lock().unwrap().recv().unwrap();
        Ok(data)
    };
    (held, Hold { began, go })
}

struct Hold {
    began: mpsc::Receiver<()>,
    go: mpsc::Sender<()>,
}

#[tokio::test(flavor = "multi_thread")]
async fn health_answers_while_every_thread_is_taken_and_one_object_too_many_is_told_so() {
    let target = Scripted::start().await;
    let (transform, hold) = held();
    let transform = transform::buffered(transform).on(BlockingPool::new(1, 0));
    let etl = serve(transform, settings(&target.url())).await;
    let mut first = Caller::connect(etl.address).await;
    first.request("PUT", "/b/o", "", b"first").await;
    tokio::task::block_in_place(|| hold.began.recv().unwrap());
    assert_eq!(ask(etl.address, "GET", "/health", "", b"").await.text(), "Running");
    let refused = ask(etl.address, "PUT", "/b/o", "", b"second").await;
    assert_eq!((refused.status, refused.detail().as_str()), (503, "too many calls are waiting"));
    assert_eq!(refused.header("ais-etl-retry-reason"), None);
    hold.go.send(()).unwrap();
    assert_eq!(first.answer().await.text(), "first");
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_have_not_begun_take_no_thread() {
    let target = Scripted::start().await;
    let copy = transform::streaming(|_, input, output| {
        while let Some(piece) = input.chunk()? {
            output.write_bytes(piece)?;
        }
        Ok(())
    });
    let etl = serve(copy.on(BlockingPool::new(1, 0)), settings(&target.url())).await;
    let mut waiting = Vec::new();
    for _ in 0..64 {
        let mut caller = Caller::connect(etl.address).await;
        caller.head("PUT", "/b/slow", "Content-Length: 4\r\n").await;
        waiting.push(caller);
    }
    assert_eq!(ask(etl.address, "PUT", "/b/o", "", b"body").await.text(), "body");
    for mut caller in waiting {
        caller.send("late").await;
        // One at a time has the thread; the one before may not have left it yet.
        let answer = caller.answer().await;
        assert!(answer.text() == "late" || answer.status == 503, "{answer:?}");
    }
}

#[tokio::test]
async fn a_download_fetches_transforms_and_answers_without_the_token() {
    let target = Scripted::start().await;
    target.on("/file.bin", [Act::reply(200, "from afar")]);
    target.on("/none", [Act::reply(404, "no such thing")]);
    target.on(
        "/moved",
        [Act::Answer(Reply {
            status: 302,
            headers: vec![("Location".to_owned(), "/file.bin".to_owned())],
            ..Reply::default()
        })],
    );
    let mut settings = settings(&target.url());
    settings.token = Some(Token::new("tok-123").unwrap());
    let shout = transform::buffered(|object: &schwann_etl::Object, data: Bytes| {
        let text = String::from_utf8_lossy(&data).to_uppercase();
        Ok(format!("{} {} {text}", object.path(), object.etl_args()))
    });
    let etl = serve(shout, settings).await;
    let download = async |url: &str, rest: &str| {
        let query = format!("/download?original_url=http%3A%2F%2F{}{url}{rest}", target.address);
        ask(etl.address, "POST", &query, "", b"").await
    };
    let answer = download("/file.bin%3Fa%3Db", "&object_to=dir/obj&etl_args=x").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "dir/obj x FROM AFAR"));
    let seen = target.seen("/file.bin");
    assert_eq!((seen[0].target.as_str(), seen[0].header("authorization")), ("/file.bin?a=b", None));
    let answer = download("/none", "&object_to=o").await;
    assert_eq!((answer.status, answer.detail().as_str()), (404, "Target request failed"));
    assert_eq!(download("/moved", "&object_to=o").await.status, 302);
    assert_eq!(target.seen("/file.bin").len(), 1, "a redirect was followed");
    let answer = download("/file.bin", "").await;
    assert_eq!(answer.detail(), "the query parameter object_to is missing");
    let bad = "/download?object_to=o&original_url=file%3A%2F%2F%2Fetc%2Fpasswd";
    let answer = ask(etl.address, "POST", bad, "", b"").await;
    let detail = "original_url is not an http:// or https:// URL";
    assert_eq!((answer.status, answer.detail().as_str()), (400, detail));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_ends_well_when_the_server_stops() {
    let target = Scripted::start().await;
    let (transform, hold) = held();
    let etl = EtlServer::new(settings(&target.url()), transform::buffered(transform)).unwrap();
    let listener = Server::listen(([127, 0, 0, 1], 0).into()).unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopping) = oneshot::channel::<()>();
    let served = tokio::spawn(EtlServer::http().run(listener, etl, async {
        let _ = stopping.await;
    }));
    let mut caller = Caller::connect(address).await;
    caller.request("PUT", "/b/o", "", b"body").await;
    tokio::task::block_in_place(|| hold.began.recv().unwrap());
    stop.send(()).unwrap();
    hold.go.send(()).unwrap();
    assert_eq!(caller.answer().await.text(), "body");
    assert_eq!(served.await.unwrap().dropped, 0);
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "still accepting");
}

#[tokio::test]
async fn a_transform_that_panics_is_a_500_and_harms_nobody() {
    let target = Scripted::start().await;
    let count = Arc::new(());
    let shared = Arc::clone(&count);
    let panics = move |call: schwann::Call| {
        let held = Arc::clone(&shared);
        async move {
            let _held = held;
            assert_eq!(call.head().uri.path(), "/b/fine", "on purpose");
            let (_, _, reply) = call.into_parts();
            Ok(reply.send(http::StatusCode::OK, "fine"))
        }
    };
    let etl = serve(panics, settings(&target.url())).await;
    let answer = ask(etl.address, "PUT", "/b/o", "", b"").await;
    assert_eq!(answer.detail(), "Processing error: the transform panicked");
    assert_eq!(ask(etl.address, "PUT", "/b/fine", "", b"").await.text(), "fine");
    assert_eq!(Arc::strong_count(&count), 2);
}
