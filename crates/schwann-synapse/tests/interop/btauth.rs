//! `btauth/1` with the real SDK 11: it signs and we verify, we sign and it
//! verifies; and v10 callers beside it on the same port and route.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

use schwann::Server;
use schwann_synapse::{
    axon::{Axon, SynapseError, untyped},
    call_error::CallError,
    caller::{Caller, Protocol},
    dendrite::{Answer, Dendrite},
    keys::{Keypair, Scheme, Signer as _},
    python::{Dict, Int, Value},
    synapse::Untyped,
    target::Target,
};
use schwann_testkit::peer::{Peer, Report};
use tokio::{net::TcpListener, sync::Barrier};

use crate::ends::{End, our_axon};

/// What `btauth_peer.py call` has.
const CASES: usize = 36;

const URI: &str = "//interop-dendrite";

fn sdk() -> End {
    End::python("SCHWANN_PEER_SDK_11", "btauth_peer.py")
}

#[tokio::test]
async fn the_sdk_signs_and_our_axon_verifies() {
    let axon = our_axon().serve().await;
    let port = axon.ready()["port"].to_string();
    let args = ["call", "--port", &port, "--axon-hotkey", axon.said("hotkey")];
    sdk().run(&args).await.expect_all(CASES);
}

async fn server() -> (Peer, Target) {
    let server = sdk().serve_with(&["serve"]).await;
    let port = server.ready()["port"].as_u64().and_then(|port| u16::try_from(port).ok());
    let target = Target::new("127.0.0.1", port.expect("a port"), server.said("hotkey"));
    (server, target.expect("a target"))
}

fn dendrite(scheme: Scheme) -> (Dendrite, String) {
    let key = Keypair::from_uri_with(scheme, URI).expect("a good URI");
    let hotkey = key.hotkey().to_string();
    // As long as an SDK may take on a busy machine.
    let patience = Duration::from_secs(60);
    let dendrite = Dendrite::builder(key).protocol(Protocol::BtAuth1).timeout(patience);
    (dendrite.build(), hotkey)
}

fn echo() -> Untyped {
    let mut fields = Dict::new();
    fields.insert("text", "h\u{e9} \u{1f600}");
    fields.insert("ratio", 1e-7);
    Untyped::new("EchoSynapse", fields).hash(["text"]).required(["text"])
}

fn tokens(number: u64) -> Untyped {
    let mut fields = Dict::new();
    fields.insert("n_tokens", Int::from(number));
    Untyped::new("StreamSynapse", fields)
}

fn text<'a>(answer: &'a Answer<Untyped>, field: &str) -> Option<&'a str> {
    match answer.synapse.fields.get(field) {
        Some(Value::Str(text)) => Some(text),
        _ => None,
    }
}

async fn is_verified(scheme: Scheme) {
    let (_server, axon) = server().await;
    let (dendrite, hotkey) = dendrite(scheme);
    let answer = dendrite.call(&axon, echo()).await.expect("verified");
    assert_eq!(text(&answer, "caller"), Some(&*hotkey), "{answer:?}");
    assert_eq!(text(&answer, "crypto"), Some(scheme.name()));
    assert_eq!(text(&answer, "text"), Some("h\u{e9} \u{1f600}"));
    assert_eq!(answer.status_code(), Some(200));

    let mut stream = dendrite.stream(&axon, tokens(3)).await.expect("verified");
    let mut whole = String::new();
    while let Some(piece) = stream.text_chunk().await.expect("whole") {
        whole += &piece;
    }
    assert_eq!(whole, format!("tok0 tok1 tok2 {hotkey} {scheme}"));
    assert_eq!(stream.finish().await.expect("whole").status_code(), Some(200));
}

#[tokio::test]
async fn our_dendrite_signs_and_the_sdk_verifies() {
    is_verified(Scheme::Sr25519).await;
}

#[tokio::test]
async fn with_an_ed25519_key_as_well() {
    is_verified(Scheme::Ed25519).await;
}

#[tokio::test]
async fn a_stream_that_the_server_cuts_is_no_success() {
    let (_server, axon) = server().await;
    let (dendrite, _) = dendrite(Scheme::Sr25519);
    let mut ask = tokens(5);
    ask.fields.insert("fail_at", Int::from(2u64));
    let mut stream = dendrite.stream(&axon, ask).await.expect("verified");
    let mut seen = String::new();
    let end = loop {
        match stream.text_chunk().await {
            Ok(Some(piece)) => seen += &piece,
            other => break other,
        }
    };
    assert!(matches!(end, Err(CallError::Truncated { .. })), "{end:?}");
    assert_eq!(seen, "tok0 tok1 ");
}

#[tokio::test]
async fn what_the_sdk_refuses_is_told() {
    let (_server, axon) = server().await;
    let (dendrite, _) = dendrite(Scheme::Sr25519);
    let stranger = Keypair::from_uri("//not-the-axon").expect("a good URI").hotkey();
    let other = Target::new("127.0.0.1", axon.port(), &stranger.to_string()).expect("a target");
    for refused in [
        dendrite.call(&other, echo()).await.map(drop),
        dendrite.stream(&other, tokens(1)).await.map(drop),
    ] {
        let Err(CallError::Refused(refusal)) = refused else { panic!("{refused:?}") };
        assert_eq!(refusal.status, 401);
        let message = refusal.message.unwrap_or_default();
        assert!(message.starts_with("WrongReceiver:"), "{message}");
    }
}

#[tokio::test]
async fn many_at_once_are_all_accepted() {
    let (_server, axon) = server().await;
    let (dendrite, _) = dendrite(Scheme::Sr25519);
    let answers = dendrite.forward(vec![&axon; 64], echo()).await;
    let refused: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert!(refused.is_empty(), "{refused:?}");
}

/// How often each of the two SDKs calls.
const ROUNDS: usize = 5;

/// The SDK 10.5 and the SDK 11 with one key, on one port and one route. A call of
/// one is answered only when one of the other is there, so each pair is served at
/// the same time, whichever is the faster.
#[tokio::test]
async fn both_protocols_at_once_are_one_caller_to_a_handler() {
    let callers: Arc<Mutex<Vec<Caller>>> = Arc::default();
    let pair = Arc::new(Barrier::new(2));
    let seen = Arc::clone(&callers);
    let echo = untyped("EchoSynapse").hash(["text", "count"]).unary(
        move |mut ask: Untyped, from: Caller| {
            seen.lock().expect("nobody panics").push(from);
            let pair = Arc::clone(&pair);
            async move {
                pair.wait().await;
                ask.fields.insert("reply", "hi|3|0.5|False|n");
                Ok::<_, SynapseError>(ask)
            }
        },
    );
    let key = Keypair::from_uri("//interop-axon").expect("a good URI");
    let axon = Axon::builder(key).attach(echo).build().expect("one route");
    let hotkey = axon.hotkey().to_string();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("bound").port().to_string();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let served = tokio::spawn(async move {
        Server::default().run(listener, axon, async move { drop(stopped.await) }).await
    });

    let common = ["--port", &port, "--axon-hotkey", &hotkey, "--uri", URI, "--timeout", "90"];
    let (v10, v11) = (["echo"; ROUNDS].join(","), ["unary"; ROUNDS].join(","));
    let old = [&common[..], &["--cases", &v10]].concat();
    let new = [&["call"], &common[..], &["--cases", &v11]].concat();
    let (ten, eleven) = (End::python("SCHWANN_PEER_SDK_10_5", "py_dendrite.py"), sdk());
    let reports: (Report, Report) = tokio::join!(ten.run(&old), eleven.run(&new));
    reports.0.expect_all(ROUNDS);
    reports.1.expect_all(ROUNDS);
    drop(stop);
    served.await.expect("the server does not panic");

    let callers = callers.lock().expect("nobody panics");
    let expected = Keypair::from_uri(URI).expect("a good URI").hotkey();
    assert_eq!(callers.len(), 2 * ROUNDS);
    for pair in callers.chunks(2) {
        assert_ne!(pair[0].protocol, pair[1].protocol, "one of each");
        for caller in pair {
            assert_eq!(caller.hotkey, expected);
            assert!(caller.verified && caller.body_covered && caller.nonce > 0, "{caller:?}");
            assert_eq!(caller.ip, Ipv4Addr::LOCALHOST);
        }
    }
}
