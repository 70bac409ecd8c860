//! What an axon does besides its routes: ping, counters, and an orderly end.

use std::time::Duration;

use schwann::{Drained, Server};
use schwann_synapse::{
    axon::{Route, SynapseError, untyped},
    dendrite::Protocol,
    metrics::Metrics,
    python::{Dict, Value},
    synapse::Untyped,
};
use schwann_testkit::{Gate, Probe, gate, probe};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

use crate::running::{builder, empty, rest, serve, serve_with};

fn held(entered: &Probe, hold: &Gate) -> Route {
    let (entered, hold) = (entered.clone(), hold.clone());
    untyped("Held").unary(move |ask: Untyped, _| {
        let (entered, hold) = (entered.clone(), hold.clone());
        async move {
            entered.hit();
            hold.pass().await;
            Ok::<_, SynapseError>(ask)
        }
    })
}

#[tokio::test]
async fn every_axon_answers_a_ping_with_what_it_was_asked() {
    let axon = serve(builder()).await;
    for protocol in [Protocol::V10, Protocol::BtAuth1] {
        let mut fields = Dict::new();
        fields.insert("anything", Value::from(7));
        let ask = Untyped::new("Synapse", fields);
        let answer = axon.dendrite.call(axon.target(), ask).protocol(protocol).await.unwrap();
        assert_eq!(answer.synapse.fields.get("anything"), Some(&Value::from(7)));
        assert_eq!(answer.axon.status_code, Some(200));
    }
}

#[tokio::test]
async fn counters_are_told_on_a_listener_of_their_own() {
    let metrics = Metrics::new();
    let failing = untyped("Failing").unary(async |_: Untyped, _| {
        Err::<Untyped, _>(SynapseError::new(http::StatusCode::TOO_MANY_REQUESTS, "not now"))
    });
    let axon = serve(builder().attach(failing).metrics(metrics.clone())).await;
    axon.call("Synapse").await.unwrap();
    axon.call("Synapse").await.unwrap();
    assert_eq!(axon.refusal("Failing").await.0, 429);
    assert_eq!(axon.refusal("Unknown").await.0, 404);

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let served = tokio::spawn(Server::default().run(listener, metrics, std::future::pending()));
    let get = |path: &'static str, at| async move {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        rest(&mut stream).await
    };
    let text = get("/metrics", at).await;
    for line in [
        "schwann_axon_requests_total{synapse=\"Synapse\",status=\"200\",protocol=\"v10\"} 2",
        "schwann_axon_requests_total{synapse=\"Failing\",status=\"429\",protocol=\"v10\"} 1",
        "schwann_axon_requests_total{synapse=\"(unknown)\",status=\"404\",protocol=\"v10\"} 1",
        "schwann_axon_seconds_count{synapse=\"Synapse\"} 2",
        "schwann_axon_running 0",
        "# EOF",
    ] {
        assert!(text.contains(line), "no {line} in {text}");
    }
    assert!(get("/", at).await.starts_with("HTTP/1.1 404"));
    // The axon itself tells strangers nothing of it.
    assert!(get("/metrics", axon.at).await.starts_with("HTTP/1.1 404"));
    served.abort();
}

#[tokio::test]
async fn an_axon_that_stops_finishes_what_it_began() {
    let (entered, hold) = (probe(), gate());
    let mut axon = serve(builder().attach(held(&entered, &hold))).await;
    let call = tokio::spawn(axon.dendrite.call(axon.target(), empty("Held")).into_future());
    entered.reached(1).await;
    axon.stop();
    // It listens no more.
    while TcpStream::connect(axon.at).await.is_ok() {
        tokio::task::yield_now().await;
    }
    hold.open();
    call.await.unwrap().unwrap();
    assert_eq!(axon.stopped().await, Drained { dropped: 0 });
}

#[tokio::test]
async fn an_axon_that_stops_does_not_wait_for_ever() {
    let (entered, hold) = (probe(), gate());
    let server = Server { drain_timeout: Duration::from_millis(50), ..Server::default() };
    let axon = serve_with(builder().attach(held(&entered, &hold)), server).await;
    let mut stream = axon.begin("Held", "12.0").await;
    entered.reached(1).await;
    assert_eq!(axon.stopped().await, Drained { dropped: 1 });
    assert_eq!(rest(&mut stream).await, "");
}
