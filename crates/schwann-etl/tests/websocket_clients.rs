//! WebSocket clients that others wrote.

use std::{path::Path, time::Duration};

use schwann_etl::{EtlServer, Target, builtin};
use schwann_testkit::peer;

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_python_are_understood() {
    let target = Target::parse("http://127.0.0.1:9/v1/etl/_object/etl-x/s3cr3t").expect("a target");
    let echo = builtin::named("echo").expect("it has this name");
    let server = EtlServer::new(target, echo).expect("nothing to be missing");
    let any = "127.0.0.1:0".parse().expect("an address");
    let listener = schwann::Server::listen(any).expect("a free port");
    let port = listener.local_addr().expect("it listens").port().to_string();
    tokio::spawn(EtlServer::http().run(listener, server, std::future::pending()));
    let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../interop/websocket_client.py");
    let client = client.display().to_string();
    let python = peer::interpreter("SCHWANN_PEER_SDK_10_5");
    peer::run(python, [client.as_str(), &port], Duration::from_secs(200)).await.expect_all(3);
}
