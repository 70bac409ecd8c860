//! The same promises on HTTP/2.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use schwann::{Call, Error, Finished, Handler, Server, serve_connection};
use schwann_testkit::probe;

async fn connect(handler: impl Handler) -> SendRequest<Empty<Bytes>> {
    let (client, server) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move { serve_connection(&Server::default(), server, handler).await });
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(64 * 1024);
    let (sender, connection) = builder.handshake(TokioIo::new(client)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn get() -> Request<Empty<Bytes>> {
    Request::get("http://t/").body(Empty::new()).unwrap()
}

#[tokio::test]
async fn a_whole_answer_is_whole() {
    let mut sender = connect(async |call: Call| {
        let (_, _, reply) = call.into_parts();
        let mut out = reply.start(StatusCode::OK);
        out.write("a").await?;
        out.write("b").await?;
        Ok(out.finish())
    })
    .await;
    let answer = sender.send_request(get()).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "ab");
}

#[tokio::test]
async fn failing_after_the_start_resets_the_stream() {
    let mut sender = connect(async |call: Call| {
        let (_, _, reply) = call.into_parts();
        let mut out = reply.start(StatusCode::OK);
        out.write("half").await?;
        Err::<Finished, _>(Error::server("disk on fire"))
    })
    .await;
    let mut body = sender.send_request(get()).await.unwrap().into_body();
    let mut seen = Vec::new();
    let end = loop {
        match body.frame().await {
            Some(Ok(frame)) => seen.extend_from_slice(&frame.into_data().unwrap()),
            end => break end,
        }
    };
    assert!(matches!(end, Some(Err(_))), "ended as if whole, after {seen:?}");
}

#[tokio::test]
async fn a_reset_drops_the_handler_and_not_its_neighbour() {
    let (entered, dropped) = (probe(), probe());
    let mut sender = connect({
        let (entered, dropped) = (entered.clone(), dropped.clone());
        move |call: Call| {
            let (entered, dropped) = (entered.clone(), dropped.clone());
            async move {
                if call.head().uri.path() == "/quick" {
                    let (_, _, reply) = call.into_parts();
                    return Ok(reply.send(StatusCode::OK, "quick"));
                }
                let _guard = dropped.on_drop();
                entered.hit();
                std::future::pending().await
            }
        }
    })
    .await;
    let mut slow = Box::pin(sender.send_request(get()));
    tokio::select! {
        _ = &mut slow => panic!("answered"),
        () = entered.reached(1) => {}
    }
    drop(slow);
    dropped.reached(1).await;
    let quick = Request::get("http://t/quick").body(Empty::new()).unwrap();
    let answer = sender.send_request(quick).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "quick");
}

/// The connection stays healthy, so only the stream's own watchdog can do it.
#[tokio::test(start_paused = true)]
async fn a_stream_whose_window_stays_shut_is_dropped() {
    let dropped = probe();
    let mut sender = connect({
        let dropped = dropped.clone();
        move |call: Call| {
            let guard = dropped.on_drop();
            async move {
                let _guard = guard;
                let (_, _, reply) = call.into_parts();
                let mut out = reply.start(StatusCode::OK);
                loop {
                    out.write(vec![b'x'; 64 * 1024]).await?;
                }
            }
        }
    })
    .await;
    let started = tokio::time::Instant::now();
    let _unread = sender.send_request(get()).await.unwrap();
    dropped.reached(1).await;
    let stall = Server::default().stall_timeout;
    assert!(started.elapsed() < stall + stall + Duration::from_secs(1), "{:?}", started.elapsed());
}
