//! Connections that go on as another protocol.

use std::time::Duration;

use http::{Response, StatusCode};
use schwann::{BoxError, Call, Drained, Error, Finished, Handler, Server, Upgraded};
use schwann_testkit::probe;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
};

use crate::{GET, connect, connect_with};

const ASK: &str = "GET /up HTTP/1.1\r\nhost: t\r\nconnection: upgrade\r\nupgrade: shout\r\n\r\n";

fn shout() -> Response<()> {
    Response::builder().header("upgrade", "shout").body(()).unwrap()
}

/// Upper-cases what it reads until the peer's end.
async fn shouting(mut io: Upgraded) -> Result<(), BoxError> {
    let mut buf = [0; 64];
    loop {
        let n = io.read(&mut buf).await?;
        if n == 0 {
            io.shutdown().await?;
            return Ok(());
        }
        io.write_all(&buf[..n].to_ascii_uppercase()).await?;
        io.flush().await?;
    }
}

fn shouter() -> impl Handler {
    async |call: Call| {
        let path = call.head().uri.path().to_owned();
        let (_, _, reply) = call.into_parts();
        if path == "/up" {
            return reply.upgrade(shout(), shouting);
        }
        Ok::<Finished, Error>(reply.send(StatusCode::OK, "plain"))
    }
}

#[tokio::test]
async fn what_was_sent_ahead_is_read_by_the_new_protocol() {
    let (mut client, server) = connect(4096, shouter());
    client.write(format!("{GET}{ASK}early ")).await;
    let seen = client.read_until("EARLY ").await;
    assert!(seen.contains("plain"), "{seen}");
    assert!(seen.contains("HTTP/1.1 101 Switching Protocols\r\n"), "{seen}");
    let head = seen.split("101").nth(1).unwrap();
    assert!(head.contains("upgrade: shout\r\n") && head.contains("connection: upgrade\r\n"));
    assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
    client.write("late").await;
    client.read_until("EARLY LATE").await;
    drop(client);
    server.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_the_peer_takes_slowly_is_whole() {
    // Seven bytes of room: hyper hands the connection over before its answer was taken.
    let (mut client, _server) = connect(7, shouter());
    client.write(ASK).await;
    // Nothing is read until everything that can happen has happened.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let seen = client.read_until("\r\n\r\n").await;
    assert!(seen.starts_with("HTTP/1.1 101 ") && seen.contains("upgrade: shout\r\n"), "{seen}");
    client.write("x").await;
    client.read_until("X").await;
}

#[tokio::test]
async fn who_did_not_ask_for_it_is_told_so() {
    for ask in [
        "GET /up HTTP/1.1\r\nhost: t\r\n\r\n",
        "GET /up HTTP/1.0\r\nconnection: upgrade\r\nupgrade: shout\r\n\r\n",
        "PUT /up HTTP/1.1\r\nhost: t\r\nconnection: upgrade\r\nupgrade: shout\r\ncontent-length: 1\r\n\r\nx",
    ] {
        let (mut client, _server) = connect(4096, shouter());
        client.write(ask).await;
        let seen = client.read_until("\r\n\r\n").await;
        assert!(seen.contains(" 426 "), "{ask}: {seen}");
    }
}

#[tokio::test(start_paused = true)]
async fn time_limits_of_http_do_not_hit_it() {
    let server = Server {
        head_timeout: Duration::from_secs(1),
        stall_timeout: Duration::from_secs(5),
        ..Server::default()
    };
    let (mut client, _server) = connect_with(server, 256, async |call: Call| {
        call.set_deadline(tokio::time::Instant::now() + Duration::from_secs(2));
        let (_, _, reply) = call.into_parts();
        reply.upgrade(shout(), shouting)
    });
    client.write(ASK).await;
    client.read_until("\r\n\r\n").await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    client.write("still here").await;
    client.read_until("STILL HERE").await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_is_let_go_after_the_stall_time() {
    let (mut client, server) = connect(256, async |call: Call| {
        let (_, _, reply) = call.into_parts();
        reply.upgrade(shout(), async |mut io: Upgraded| {
            loop {
                io.write_all(&[b'x'; 64]).await?;
            }
        })
    });
    client.write(ASK).await;
    let before = tokio::time::Instant::now();
    let ended = server.await.unwrap().unwrap_err();
    assert!(ended.to_string().contains("stopped reading"), "{ended}");
    assert_eq!(before.elapsed().as_secs(), 60);
}

#[tokio::test]
async fn one_that_panics_harms_nobody() {
    let (mut client, server) = connect(256, async |call: Call| {
        let (_, _, reply) = call.into_parts();
        reply.upgrade(shout(), async |_: Upgraded| -> Result<(), BoxError> { panic!("as asked") })
    });
    client.write(ASK).await;
    client.read_to_end().await;
    let ended = server.await.expect("the panic stays inside").unwrap_err();
    assert!(ended.to_string().contains("as asked"), "{ended}");
}

#[tokio::test]
async fn shutdown_tells_it_waits_for_it_and_drops_it_at_last() {
    for obeys in [true, false] {
        let (begun, dropped) = (probe(), probe());
        let handler = {
            let (begun, dropped) = (begun.clone(), dropped.clone());
            move |call: Call| {
                let (begun, dropped) = (begun.clone(), dropped.clone());
                async move {
                    let (_, _, reply) = call.into_parts();
                    reply.upgrade(shout(), move |mut io: Upgraded| async move {
                        let _guard = dropped.on_drop();
                        begun.hit();
                        io.draining().await;
                        if !obeys {
                            std::future::pending::<()>().await;
                        }
                        io.write_all(b"bye").await?;
                        Ok(io.shutdown().await?)
                    })
                }
            }
        };
        let drain_timeout = Duration::from_millis(if obeys { 60_000 } else { 20 });
        let server = Server { drain_timeout, max_connections: 1, ..Server::default() };
        let listener = Server::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(server.run(listener, handler, async move {
            let _ = stopped.await;
        }));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(ASK.as_bytes()).await.unwrap();
        begun.reached(1).await;
        // It counts as a connection: the next one finds no room.
        let mut next = TcpStream::connect(address).await.unwrap();
        next.write_all(GET.as_bytes()).await.unwrap();
        let served = tokio::time::timeout(Duration::from_millis(50), next.read_u8()).await;
        assert!(served.is_err(), "served over the limit");
        stop.send(()).unwrap();
        let mut seen = String::new();
        let _ = stream.read_to_string(&mut seen).await;
        drop(stream);
        assert_eq!(seen.ends_with("bye"), obeys, "{seen}");
        assert_eq!(task.await.unwrap(), Drained { dropped: usize::from(!obeys) });
        dropped.reached(1).await;
    }
}
