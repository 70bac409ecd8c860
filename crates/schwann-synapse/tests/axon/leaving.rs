//! Clients that leave, and streams that break.

use std::{
    future::pending,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use schwann::{BlockingPool, Finished};
use schwann_synapse::{
    Synapse,
    axon::{Route, StreamReply, SynapseError, unary_blocking, untyped},
    caller::Caller,
    synapse::Untyped,
};
use schwann_testkit::{Probe, gate, probe};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use crate::running::{Running, builder, empty, rest, serve, until};

/// What is promised is 100 ms. A test may run on a machine that has other things to do.
const SOON: Duration = Duration::from_secs(1);

#[derive(Clone, Serialize, Deserialize, Synapse)]
struct Blocking {}

/// A handler of each kind that never ends by itself, hitting the first probe when it runs and the second when it stops.
fn endless(kind: &str, entered: &Probe, stopped: &Probe) -> Route {
    let (entered, stopped) = (entered.clone(), stopped.clone());
    match kind {
        "Unary" => untyped(kind).unary(move |_: Untyped, _: Caller| {
            let (entered, guard) = (entered.clone(), stopped.on_drop());
            async move {
                let _guard = guard;
                entered.hit();
                pending::<Result<Untyped, SynapseError>>().await
            }
        }),
        "Silent" => untyped(kind).streaming(move |_: Untyped, _: Caller, reply: StreamReply| {
            let (entered, guard) = (entered.clone(), stopped.on_drop());
            async move {
                let _guard = guard;
                let mut stream = reply.start();
                stream.write("token").await?;
                entered.hit();
                pending::<()>().await;
                Ok::<_, SynapseError>(stream.finish())
            }
        }),
        "Writing" => untyped(kind).streaming(move |_: Untyped, _: Caller, reply: StreamReply| {
            let (entered, guard) = (entered.clone(), stopped.on_drop());
            async move {
                let _guard = guard;
                let mut stream = reply.start();
                entered.hit();
                loop {
                    if let Err(error) = stream.write("token").await {
                        return Err::<Finished, SynapseError>(error.into());
                    }
                }
            }
        }),
        "Blocking" => unary_blocking(move |ask: Blocking, caller: Caller| {
            entered.hit();
            while !caller.gave_up() {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            stopped.hit();
            Ok::<_, SynapseError>(ask)
        }),
        other => panic!("{other}"),
    }
}

const KINDS: [&str; 4] = ["Unary", "Silent", "Writing", "Blocking"];

async fn http2(axon: &Running) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(axon.at).await.unwrap();
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    sender
}

fn request(axon: &Running, route: &str) -> Request<Full<Bytes>> {
    let mut request = Request::post(format!("http://t/{route}"));
    for (name, value) in axon.headers(route, "12.0") {
        request = request.header(name, value);
    }
    request.body(Full::new(Bytes::from_static(b"{}"))).unwrap()
}

async fn soon(kind: &str, stopped: &Probe) {
    let left = Instant::now();
    let stop = tokio::time::timeout(SOON, stopped.reached(1)).await;
    assert!(stop.is_ok(), "{kind}: still running {:?} after its client left", left.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_stops_its_handler_on_http1() {
    for kind in KINDS {
        let (entered, stopped) = (probe(), probe());
        let axon = serve(builder().attach(endless(kind, &entered, &stopped))).await;
        let stream = axon.begin(kind, "12.0").await;
        entered.reached(1).await;
        assert_eq!(stopped.count(), 0);
        drop(stream);
        soon(kind, &stopped).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_stops_its_handler_on_http2() {
    for kind in KINDS {
        let (entered, stopped) = (probe(), probe());
        let axon =
            serve(builder().attach(endless(kind, &entered, &stopped)).attach(
                untyped("Quick").unary(async |ask: Untyped, _| Ok::<_, SynapseError>(ask)),
            ))
            .await;
        let mut sender = http2(&axon).await;
        // The answer may have begun; leaving is dropping what is left of it.
        let mut calling = Box::pin(sender.send_request(request(&axon, kind)));
        let answer = tokio::select! {
            answer = &mut calling => Some(answer.unwrap()),
            () = entered.reached(1) => None,
        };
        entered.reached(1).await;
        assert_eq!(stopped.count(), 0);
        drop((calling, answer));
        soon(kind, &stopped).await;
        // The connection's other streams go on.
        let answer = sender.send_request(request(&axon, "Quick")).await.unwrap();
        assert_eq!(answer.status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_ends_stops_all_handlers_of_its_streams() {
    let (entered, stopped) = (probe(), probe());
    let axon = serve(builder().attach(endless("Unary", &entered, &stopped))).await;
    let stream = TcpStream::connect(axon.at).await.unwrap().into_std().unwrap();
    let socket = stream.try_clone().unwrap();
    let stream = TcpStream::from_std(stream).unwrap();
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let mut calls = Vec::new();
    for _ in 0..10 {
        calls.push(tokio::spawn(sender.send_request(request(&axon, "Unary"))));
    }
    entered.reached(10).await;
    socket.shutdown(std::net::Shutdown::Both).unwrap();
    tokio::time::timeout(SOON, stopped.reached(10)).await.unwrap();
}

#[tokio::test]
async fn a_call_that_waits_for_a_thread_never_runs_if_its_client_leaves() {
    let (entered, stopped) = (probe(), probe());
    let pool = BlockingPool::new(1, 10);
    let routes = builder().attach(endless("Blocking", &entered, &stopped)).pool(pool);
    let metrics = schwann_synapse::metrics::Metrics::new();
    let axon = serve(routes.metrics(metrics.clone())).await;
    let first = axon.begin("Blocking", "12.0").await;
    entered.reached(1).await;
    let second = axon.begin("Blocking", "12.0").await;
    drop(second);
    left(&metrics, "Blocking", 1).await;
    drop(first);
    soon("the first", &stopped).await;
    left(&metrics, "Blocking", 2).await;
    assert_eq!(entered.count(), 1, "the second ran for nobody");
}

/// Waits until so many clients were noticed to have left.
async fn left(metrics: &schwann_synapse::metrics::Metrics, route: &str, count: usize) {
    let line = format!("schwann_axon_clients_left_total{{synapse=\"{route}\"}} {count}");
    let noticed = async {
        while !metrics.text().contains(&line) {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(SOON, noticed).await.is_ok(), "not {line}: {}", metrics.text());
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_gives_its_place_up() {
    let hold = gate();
    let (entered, ran) = (probe(), probe());
    let held = {
        let (hold, entered, ran) = (hold.clone(), entered.clone(), ran.clone());
        untyped("Held").unary(move |ask: Untyped, _: Caller| {
            let (hold, entered, ran) = (hold.clone(), entered.clone(), ran.clone());
            async move {
                entered.hit();
                hold.pass().await;
                ran.hit();
                Ok::<_, SynapseError>(ask)
            }
        })
    };
    let metrics = schwann_synapse::metrics::Metrics::new();
    let axon = serve(builder().attach(held).room(1, 1).metrics(metrics.clone())).await;
    let mut first = axon.begin("Held", "12.0").await;
    entered.reached(1).await;
    drop(axon.begin("Held", "12.0").await);
    left(&metrics, "Held", 1).await;
    // Its place is free: this one waits and is served.
    let third = tokio::spawn(axon.dendrite.call(axon.target(), empty("Held")).into_future());
    hold.open();
    until(&mut first, "200 OK").await;
    hold.open();
    third.await.unwrap().unwrap();
    assert_eq!((entered.count(), ran.count()), (2, 2));
}

fn breaking() -> Route {
    untyped("Breaking").streaming(async |_: Untyped, _, reply: StreamReply| {
        let mut stream = reply.start();
        stream.write("half").await?;
        Err(SynapseError::internal("the model ran out of memory"))
    })
}

#[tokio::test]
async fn w26_a_stream_that_breaks_never_looks_whole() {
    let metrics = schwann_synapse::metrics::Metrics::new();
    let axon = serve(builder().attach(breaking()).metrics(metrics.clone())).await;
    let seen = rest(&mut axon.begin("Breaking", "12.0").await).await;
    assert!(seen.contains("200 OK") && seen.contains("half"), "{seen}");
    assert!(!seen.contains("0\r\n\r\n"), "ended as if whole: {seen}");
    assert!(!seen.contains("memory"), "told why: {seen}");

    let answer = http2(&axon).await.send_request(request(&axon, "Breaking")).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.into_body().collect().await.is_err(), "ended as if whole");

    let mut stream = axon.dendrite.stream(axon.target(), empty("Breaking")).await.unwrap();
    assert_eq!(stream.chunk().await.unwrap().as_deref(), Some(&b"half"[..]));
    assert!(stream.chunk().await.is_err());
    let truncated = "schwann_axon_truncated_total{synapse=\"Breaking\"} 3";
    assert!(metrics.text().contains(truncated), "{}", metrics.text());
}

#[tokio::test]
async fn a_stream_that_fails_before_its_start_has_a_status() {
    let early = untyped("Early").streaming(async |_: Untyped, _, _: StreamReply| {
        Err(SynapseError::new(http::StatusCode::TOO_MANY_REQUESTS, "not now"))
    });
    let axon = serve(builder().attach(early)).await;
    assert_eq!(axon.refusal("Early").await, (429, "not now".to_owned()));
}

#[tokio::test]
async fn a_deadline_in_the_middle_of_a_stream_cuts_it() {
    let (entered, stopped) = (probe(), probe());
    for kind in ["Silent", "Writing"] {
        let route = endless(kind, &entered, &stopped).timeout(Duration::from_millis(100));
        let axon = serve(builder().attach(route)).await;
        let seen = rest(&mut axon.begin(kind, "12.0").await).await;
        assert!(seen.contains("token") && !seen.contains("\r\n0\r\n"), "{}", seen.len());
    }
    assert_eq!(stopped.count(), 2);
}
