//! Routes that come and go while the axon serves.

use schwann_synapse::{
    axon::{BuildError, Route, RouteTable, SynapseError, untyped},
    caller::{Bound, Verify},
    metrics::Metrics,
    python::Value,
    synapse::Untyped,
};
use schwann_testkit::{gate, probe};
use tokio::io::AsyncWriteExt;

use crate::running::{builder, rest, serve};

fn says(name: &str, text: &'static str) -> Route {
    untyped(name).unary(move |mut ask: Untyped, _| async move {
        ask.fields.insert("said", Value::from(text));
        Ok::<_, SynapseError>(ask)
    })
}

#[tokio::test]
async fn routes_of_a_table_are_served_as_they_come_and_go() {
    let (table, metrics) = (RouteTable::new(), Metrics::new());
    let axon = builder().attach(says("Attached", "first")).table(table.clone());
    let axon = serve(axon.metrics(metrics.clone())).await;
    assert_eq!(axon.refusal("Comes").await.0, 404);
    table.set([says("Comes", "here"), says("Attached", "second")]);
    let said = |name: &'static str| {
        let axon = &axon;
        async move { axon.call(name).await.unwrap().synapse.fields.get("said").cloned() }
    };
    assert_eq!(said("Comes").await, Some(Value::from("here")));
    assert_eq!(said("Attached").await, Some(Value::from("first")), "what is attached goes first");
    table.set([says("Comes", "changed")]);
    assert_eq!(said("Comes").await, Some(Value::from("changed")));
    let (hold, entered) = (gate(), probe());
    let (opener, seen) = (hold.clone(), entered.clone());
    table.set([untyped("Comes").unary(move |ask: Untyped, _| {
        let (entered, hold) = (entered.clone(), hold.clone());
        async move {
            entered.hit();
            hold.pass().await;
            Ok::<_, SynapseError>(ask)
        }
    })]);
    let under_way = axon.dendrite.call(axon.target(), crate::running::empty("Comes"));
    let under_way = tokio::spawn(async move { under_way.await });
    seen.reached(1).await;
    table.set([]);
    assert_eq!(axon.refusal("Comes").await.0, 404);
    opener.open();
    assert!(under_way.await.unwrap().is_ok(), "what runs goes on");
    let text = metrics.text();
    let counted =
        "schwann_axon_requests_total{synapse=\"(table)\",status=\"200\",protocol=\"v10\"} 3";
    assert!(text.contains(counted) && !text.contains("Comes"), "{text}");
}

#[tokio::test]
async fn no_route_of_a_table_is_served_unverified() {
    let table = RouteTable::new();
    let axon = serve(builder().table(table.clone())).await;
    table.set([
        says("Open", "x").verify(Verify::Nothing),
        says("Hook", "x").verify_with(async |_| Ok::<_, SynapseError>(())),
        says("Loose", "x").bound(Bound::Optional),
        says("Good", "x"),
    ]);
    for name in ["Open", "Hook", "Loose"] {
        assert_eq!(axon.refusal(name).await.0, 404, "{name}");
    }
    let mut stream = tokio::net::TcpStream::connect(axon.at).await.unwrap();
    let request =
        "POST /Good HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";
    stream.write_all(request.as_bytes()).await.unwrap();
    let said = rest(&mut stream).await;
    assert!(said.starts_with("HTTP/1.1 401"), "{said}");
    let unverifiable = builder().verify(Verify::Nothing).bound(Bound::Required).table(table);
    assert!(matches!(unverifiable.build(), Err(BuildError::Unverifiable(_))));
}

#[tokio::test]
async fn a_request_is_not_replayed_to_another_route_of_the_table() {
    let table = RouteTable::new();
    let axon = serve(builder().table(table.clone())).await;
    table.set([says("Good", "x")]);
    let mut text = String::from(
        "POST /Good HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: 2\r\n",
    );
    for (name, value) in axon.headers("Good", "5") {
        text += &format!("{name}: {value}\r\n");
    }
    let text = format!("{text}\r\n{{}}");
    for expected in ["HTTP/1.1 200", "HTTP/1.1 401"] {
        let mut stream = tokio::net::TcpStream::connect(axon.at).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let said = rest(&mut stream).await;
        assert!(said.starts_with(expected), "{said}");
        // Another table does not forget what the first has seen.
        table.set([says("Good", "y")]);
    }
}
