//! What is counted.

use schwann_etl::{EtlServer, Object, transform};

use crate::{
    client::ask,
    scripted::{Act, Scripted},
    served::{serve_etl, settings},
    to,
};

#[tokio::test]
async fn objects_bytes_deliveries_retries_and_errors_are_counted() {
    let target = Scripted::start().await;
    target.on("again", [Act::ResetAfter(0), Act::reply(200, "")]);
    let twice = transform::buffered(|object: &Object, data: bytes::Bytes| {
        if object.etl_args() == "fail" {
            return Err(schwann::Error::server("on purpose"));
        }
        Ok([&data[..], &data[..]].concat())
    });
    let etl = EtlServer::new(settings(&target.url()), twice).unwrap();
    let metrics = etl.metrics().clone();
    let etl = serve_etl(etl).await;
    let put = async |path: &str, headers: &str| {
        ask(etl.address, "PUT", path, headers, b"abc").await.status
    };
    assert_eq!(put("/b/o", "").await, 200);
    assert_eq!(put("/b/o", &to(&target, "again")).await, 204);
    assert_eq!(put("/b/o?etl_args=fail", "").await, 500);
    assert_eq!(put("/b/o?etl_fqn=/no/such", "").await, 404);
    assert_eq!(put("/b/o", "Ais-Node-Url: ,\r\n").await, 400);
    target.on("refusing", [Act::reply(507, "full")]);
    assert_eq!(put("/b/o", &to(&target, "refusing")).await, 507);
    let text = metrics.render();
    for line in [
        "schwann_etl_objects_total 2",
        "schwann_etl_bytes_out_total 12",
        "schwann_etl_direct_puts_total 1",
        "schwann_etl_retries_total 1",
        "schwann_etl_in_flight 0",
        "schwann_etl_errors_total{stage=\"transform\"} 1",
        "schwann_etl_errors_total{stage=\"source\"} 1",
        "schwann_etl_errors_total{stage=\"request\"} 1",
        "schwann_etl_errors_total{stage=\"delivery\"} 1",
        "schwann_etl_bytes_in_total 12",
    ] {
        assert!(text.lines().any(|there| there == line), "no {line} in\n{text}");
    }
}
