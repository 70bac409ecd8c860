//! Every limit has a default, and each holds.

use std::time::Duration;

use http::StatusCode;
use schwann::{Call, Error, Finished, Server};
use schwann_testkit::probe;
use tokio::time::Instant;

use crate::{GET, connect, connect_with};

async fn hello(call: Call) -> Result<Finished, Error> {
    let (_, _, reply) = call.into_parts();
    Ok(reply.send(StatusCode::OK, "hello"))
}

async fn swallow(call: Call) -> Result<Finished, Error> {
    let (_, body, reply) = call.into_parts();
    let whole = body.collect().await?;
    Ok(reply.send(StatusCode::OK, whole.len().to_string()))
}

async fn pour(call: Call) -> Result<Finished, Error> {
    let (_, _, reply) = call.into_parts();
    let mut out = reply.start(StatusCode::OK);
    loop {
        out.write(vec![b'x'; 64 * 1024]).await?;
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_says_nothing_is_closed() {
    let (mut client, server) = connect(1024, hello);
    let before = Instant::now();
    assert_eq!(client.read_to_end().await, "");
    assert!(server.await.unwrap().is_err());
    assert_eq!(before.elapsed().as_secs(), Server::default().head_timeout.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_head_that_drips_is_not_waited_for() {
    let (mut client, server) = connect(1024, hello);
    let before = Instant::now();
    client.write("GET / HT").await;
    let seen = client.read_to_end().await;
    assert!(!seen.contains("200"), "{seen}");
    let _ = server.await.unwrap();
    assert!(before.elapsed() <= 2 * Server::default().head_timeout);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_after_its_answer() {
    let (mut client, server) = connect(1024, hello);
    client.write(GET).await;
    client.read_until("hello").await;
    client.read_to_end().await;
    let _ = server.await.unwrap();
}

#[tokio::test]
async fn a_head_over_the_limit_is_431() {
    let (mut client, _server) = connect(128 * 1024, hello);
    let filler = "x".repeat(33 * 1024);
    client.write(format!("GET / HTTP/1.1\r\nhost: t\r\nfiller: {filler}\r\n\r\n")).await;
    let seen = client.read_until("\r\n\r\n").await;
    assert!(seen.starts_with("HTTP/1.1 431"), "{seen}");
}

#[tokio::test]
async fn a_head_without_end_is_431_before_it_fills_memory() {
    let (mut client, server) = connect(1024, hello);
    client.write("GET / HTTP/1.1\r\nhost: t\r\nfiller: ").await;
    let mut sent = 0;
    while !server.is_finished() && sent < 4 * 1024 * 1024 {
        if !client.try_write("x".repeat(512)).await {
            break;
        }
        sent += 512;
    }
    assert!(sent < 1024 * 1024, "took {sent} bytes of head");
    let seen = client.read_to_end().await;
    assert!(seen.is_empty() || seen.starts_with("HTTP/1.1 431"), "{seen}");
}

#[tokio::test]
async fn too_many_headers_are_431() {
    let (mut client, _server) = connect(128 * 1024, hello);
    let many: String = (0..200).map(|i| format!("x-{i}: 1\r\n")).collect();
    client.write(format!("GET / HTTP/1.1\r\nhost: t\r\n{many}\r\n")).await;
    let seen = client.read_until("\r\n\r\n").await;
    assert!(seen.starts_with("HTTP/1.1 431"), "{seen}");
}

#[tokio::test]
async fn an_announced_body_over_the_limit_is_refused_before_it_is_sent() {
    let server = Server { max_request_bytes: 10, ..Server::default() };
    let (mut client, _server) = connect_with(server, 1024, swallow);
    client.write("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 99999999999\r\n\r\n").await;
    let seen = client.read_until("too large").await;
    assert!(seen.starts_with("HTTP/1.1 413"), "{seen}");
}

#[tokio::test]
async fn a_chunked_body_over_the_limit_is_refused_when_it_passes_it() {
    let server = Server { max_request_bytes: 10, ..Server::default() };
    let (mut client, _server) = connect_with(server, 1024, swallow);
    client.write("POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n").await;
    client.write("8\r\n12345678\r\n8\r\n12345678\r\n").await;
    let seen = client.read_until("too large").await;
    assert!(seen.starts_with("HTTP/1.1 413"), "{seen}");
}

#[tokio::test]
async fn a_body_that_is_not_chunked_as_it_says_is_400() {
    let (mut client, _server) = connect(1024, swallow);
    client.write("POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n").await;
    let seen = client.read_until("not well formed").await;
    assert!(seen.starts_with("HTTP/1.1 400"), "{seen}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stops_arriving_is_408() {
    let (mut client, _server) = connect(1024, swallow);
    let before = Instant::now();
    client.write("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\n\r\nhe").await;
    let seen = client.read_until("stopped arriving").await;
    assert!(seen.starts_with("HTTP/1.1 408"), "{seen}");
    assert_eq!(before.elapsed().as_secs(), Server::default().stall_timeout.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_reads_again_is_dropped() {
    let dropped = probe();
    let (mut client, server) = connect(4096, {
        let dropped = dropped.clone();
        move |call: Call| {
            let guard = dropped.on_drop();
            async move {
                let _guard = guard;
                pour(call).await
            }
        }
    });
    let before = Instant::now();
    client.write(GET).await;
    client.read_until("200 OK").await;
    dropped.reached(1).await;
    assert!(server.await.unwrap().is_err());
    let waited = before.elapsed();
    let stall = Server::default().stall_timeout;
    assert!(waited >= stall && waited < stall + Duration::from_secs(2), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_holds_while_the_client_is_not_reading() {
    let (mut client, server) = connect(4096, |call: Call| {
        call.set_deadline(Instant::now() + Duration::from_secs(5));
        pour(call)
    });
    let before = Instant::now();
    client.write(GET).await;
    client.read_until("200 OK").await;
    assert!(server.await.unwrap().is_err());
    assert!(before.elapsed() < Duration::from_secs(7), "{:?}", before.elapsed());
}

#[tokio::test]
async fn a_refused_body_does_not_cost_the_client_its_answer() {
    // The client is still sending when the refusal comes: it must be readable.
    let (mut client, server) = connect(1024, async |_call: Call| {
        Err::<Finished, _>(Error::caller(StatusCode::UNAUTHORIZED, "who are you"))
    });
    client.write("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 100000\r\n\r\n").await;
    for _ in 0..50 {
        assert!(client.try_write("x".repeat(512)).await, "closed before the client was done");
    }
    let seen = client.read_until("who are you").await;
    assert!(seen.starts_with("HTTP/1.1 401"), "{seen}");
    drop(client);
    let _ = server.await;
}

#[tokio::test]
async fn a_client_that_sends_a_body_nobody_reads_gets_its_answer_if_the_server_may_linger() {
    let ignoring = |call: Call| async move {
        let (_, _, reply) = call.into_parts();
        Ok(reply.send(StatusCode::OK, "ignored"))
    };
    let upload = vec![b'x'; 1 << 20];
    for (bytes, all_sent) in [(2 << 20, true), (64 * 1024, false)] {
        let server = Server { max_linger_bytes: bytes, ..Server::default() };
        let (mut client, _server) = connect_with(server, 16 * 1024, ignoring);
        client.write("PUT / HTTP/1.1\r\nhost: t\r\ncontent-length: 1048576\r\n\r\n").await;
        assert_eq!(client.try_write(&upload).await, all_sent, "{bytes}");
        let seen = client.read_to_end().await;
        assert!(seen.ends_with("ignored"), "{seen}");
    }
}
