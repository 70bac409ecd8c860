//! Listening, draining, and what a server survives.

use std::{future::poll_fn, io::Read, net::SocketAddr, pin::Pin, task::Poll, time::Duration};

use http::StatusCode;
use schwann::{BlockingPool, Call, Drained, Error, Finished, Handler, Server};
use schwann_testkit::{Gate, Probe, gate, probe};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
};

use crate::{GET, connect};

async fn listen(
    server: Server,
    handler: impl Handler,
) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<Drained>) {
    let listener = Server::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(server.run(listener, handler, async move {
        let _ = stopped.await;
    }));
    (address, stop, task)
}

async fn ask(address: SocketAddr, request: &str) -> Result<String, std::io::Error> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut seen = Vec::new();
    stream.read_to_end(&mut seen).await?;
    Ok(String::from_utf8_lossy(&seen).into_owned())
}

#[tokio::test]
async fn a_truncated_close_delimited_body_ends_with_a_reset() {
    let (address, _stop, _task) = listen(Server::default(), async |call: Call| {
        let (head, _, reply) = call.into_parts();
        let mut out = reply.start(StatusCode::OK);
        out.write("half").await?;
        if head.uri.path() == "/whole" {
            return Ok(out.finish());
        }
        Err::<Finished, _>(Error::server("disk on fire"))
    })
    .await;
    let whole = ask(address, "GET /whole HTTP/1.0\r\n\r\n").await.unwrap();
    assert!(whole.ends_with("half"), "{whole}");
    // Without a length or chunks an orderly end would say: this is all.
    let cut = ask(address, "GET /cut HTTP/1.0\r\n\r\n").await;
    assert!(cut.is_err(), "ended as if whole: {cut:?}");
}

#[tokio::test]
async fn a_handler_that_panics_is_a_500_and_harms_nobody() {
    let (mut client, _server) = connect(1024, async |call: Call| {
        assert!(call.head().uri.path() != "/panic", "as asked");
        let (_, _, reply) = call.into_parts();
        Ok::<Finished, Error>(reply.send(StatusCode::OK, "fine"))
    });
    client.write("GET /panic HTTP/1.1\r\nhost: t\r\n\r\n").await;
    let seen = client.read_until("internal error").await;
    assert!(seen.starts_with("HTTP/1.1 500") && !seen.contains("as asked"), "{seen}");
    client.write(GET).await;
    client.read_until("fine").await;
}

#[tokio::test]
async fn shutdown_waits_for_calls_in_flight_and_takes_no_new_ones() {
    let (entered, gate) = (probe(), gate());
    let (address, stop, task) = listen(Server::default(), {
        let (entered, gate) = (entered.clone(), gate.clone());
        move |call: Call| {
            let (entered, gate) = (entered.clone(), gate.clone());
            async move {
                let (_, _, reply) = call.into_parts();
                let mut out = reply.start(StatusCode::OK);
                out.write("first,").await?;
                entered.hit();
                gate.pass().await;
                out.write("second").await?;
                Ok::<Finished, Error>(out.finish())
            }
        }
    })
    .await;
    let idle = TcpStream::connect(address).await.unwrap();
    let asked = tokio::spawn(async move { ask(address, GET).await });
    entered.reached(1).await;
    stop.send(()).unwrap();
    // Refused, or reset by a listener that is going: never served.
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let mut task = task;
    let early = tokio::time::timeout(Duration::from_millis(50), &mut task).await;
    assert!(early.is_err(), "did not wait");
    gate.open();
    let seen = asked.await.unwrap().unwrap();
    assert!(seen.contains("second") && seen.ends_with("0\r\n\r\n"), "{seen}");
    assert_eq!(task.await.unwrap(), Drained { dropped: 0 });
    drop(idle);
}

#[tokio::test]
async fn shutdown_does_not_wait_for_ever() {
    let entered = probe();
    let server = Server { drain_timeout: Duration::from_millis(20), ..Server::default() };
    let (address, stop, task) = listen(server, {
        let entered = entered.clone();
        move |_call: Call| {
            entered.hit();
            std::future::pending::<Result<Finished, Error>>()
        }
    })
    .await;
    let asked = tokio::spawn(async move { ask(address, GET).await });
    entered.reached(1).await;
    stop.send(()).unwrap();
    assert_eq!(task.await.unwrap(), Drained { dropped: 1 });
    let seen = asked.await.unwrap().unwrap_or_default();
    assert_eq!(seen, "");
}

#[tokio::test]
async fn connections_over_the_limit_wait_their_turn() {
    let (entered, gate) = (probe(), gate());
    let server = Server { max_connections: 1, ..Server::default() };
    let (address, _stop, _task) = listen(server, {
        let (entered, gate) = (entered.clone(), gate.clone());
        move |call: Call| {
            let (entered, gate) = (entered.clone(), gate.clone());
            async move {
                entered.hit();
                gate.pass().await;
                let (_, _, reply) = call.into_parts();
                Ok::<Finished, Error>(reply.send(StatusCode::OK, "done"))
            }
        }
    })
    .await;
    let close = "GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n";
    let first = tokio::spawn(async move { ask(address, close).await });
    entered.reached(1).await;
    let second = tokio::spawn(async move { ask(address, close).await });
    // Nothing says that a connection is not accepted; it has had its chance.
    let two = tokio::time::timeout(Duration::from_millis(100), entered.reached(2)).await;
    assert!(two.is_err(), "served over the limit");
    gate.open();
    assert!(first.await.unwrap().unwrap().contains("done"));
    entered.reached(2).await;
    gate.open();
    assert!(second.await.unwrap().unwrap().contains("done"));
}

/// Answers `done`; at `/hold`, when the gate lets it.
fn holding(entered: Probe, gate: Gate) -> impl Handler {
    move |call: Call| {
        let (entered, gate) = (entered.clone(), gate.clone());
        async move {
            let (head, _, reply) = call.into_parts();
            if head.uri.path() == "/hold" {
                entered.hit();
                gate.pass().await;
            }
            Ok::<Finished, Error>(reply.send(StatusCode::OK, "done"))
        }
    }
}

const CLOSE: &str = "GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn idle_connections_make_room_when_there_is_no_more() {
    let (entered, gate) = (probe(), gate());
    // Whatever ends here, no other limit ended it.
    let far = Duration::from_secs(3600);
    let server =
        Server { max_connections: 5, head_timeout: far, stall_timeout: far, ..Server::default() };
    let (address, _stop, _task) = listen(server, holding(entered.clone(), gate.clone())).await;
    let hold = "GET /hold HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n";
    let held = tokio::spawn(async move { ask(address, hold).await });
    entered.reached(1).await;
    let begun = [
        "",
        "GET / HTTP/1.1\r\nhost",
        "GET / HTTP/1.1\r\nhost: t\r\n\r\nGET / HT",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    ];
    let mut idle = Vec::new();
    for bytes in begun {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        idle.push(stream);
    }
    // More than twice as many as there is room for, one after the other: each finds some.
    for _ in 0..12 {
        let next = TcpStream::connect(address).await.unwrap();
        idle.push(next);
    }
    let patience = Duration::from_secs(60);
    let seen = tokio::time::timeout(patience, ask(address, CLOSE)).await.expect("no room");
    assert!(seen.unwrap().ends_with("done"));
    for mut stream in idle.drain(..4) {
        let mut seen = Vec::new();
        let ended = tokio::time::timeout(patience, stream.read_to_end(&mut seen)).await;
        assert!(ended.is_ok(), "an idle connection was kept");
    }
    // Whoever is served was not asked to leave.
    gate.open();
    assert!(held.await.unwrap().unwrap().ends_with("done"));
}

#[tokio::test]
async fn the_callers_address_is_known() {
    let (address, _stop, _task) = listen(Server::default(), async |call: Call| {
        let peer = call.peer().expect("a TCP connection").to_string();
        let (_, _, reply) = call.into_parts();
        Ok::<Finished, Error>(reply.send(StatusCode::OK, peer))
    })
    .await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let own = stream.local_addr().unwrap().to_string();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut seen = String::new();
    stream.read_to_string(&mut seen).await.unwrap();
    assert!(seen.ends_with(&own), "{seen}");
}

#[tokio::test]
async fn a_pool_refuses_what_it_has_no_room_for() {
    let pool = BlockingPool::new(1, 1);
    let (release, held) = std::sync::mpsc::channel::<()>();
    let mut running = Box::pin(pool.run(move || held.recv().is_ok()));
    let mut waiting = Box::pin(pool.run(|| 7));
    assert!(poll_once(&mut running).await.is_pending());
    assert!(poll_once(&mut waiting).await.is_pending());
    let refused = tokio::time::timeout(Duration::from_secs(60), pool.run(|| ())).await;
    let refused = refused.expect("at once").unwrap_err();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    release.send(()).unwrap();
    assert!(running.await.unwrap());
    assert_eq!(waiting.await.unwrap(), 7);
}

async fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx))).await
}

#[tokio::test]
async fn a_synchronous_reader_learns_that_its_client_left() {
    let learnt = probe();
    let (mut client, server) = connect(1024, {
        let learnt = learnt.clone();
        move |call: Call| {
            let learnt = learnt.clone();
            schwann::blocking(call, move |_head, mut reader, _reply| {
                let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
                learnt.hit();
                Err::<Finished, _>(error.into())
            })
        }
    });
    client.write("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 50\r\n\r\nhello").await;
    drop(client);
    learnt.reached(1).await;
    let _ = server.await;
}

#[tokio::test]
async fn a_request_that_does_not_name_its_host_once_is_refused_unserved() {
    for hosts in ["", "host: a\r\nhost: b\r\n"] {
        let (mut client, _server) =
            connect(1024, async |_: schwann::Call| -> Result<_, schwann::Error> {
                panic!("served")
            });
        client.write(format!("GET / HTTP/1.1\r\n{hosts}connection: close\r\n\r\n")).await;
        let seen = client.read_to_end().await;
        assert!(seen.starts_with("HTTP/1.1 400 "), "{hosts:?}: {seen}");
    }
}
