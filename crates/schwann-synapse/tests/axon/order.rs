//! What is asked in which order, and what is answered.

use std::sync::{Arc, Mutex};

use http::StatusCode;
use schwann_synapse::{
    axon::{Filled, Route, SynapseError, untyped},
    caller::{Caller, Protocol, Verdict, Verify},
    keys::{Keypair, Signer},
    python::Value,
    synapse::Untyped,
};

use crate::running::{alice, builder, empty, serve, told, until};

type Asked = Arc<Mutex<Vec<String>>>;

/// A route that writes down what is asked of it, and whether the caller was proven by then.
fn hooked(asked: &Asked) -> Route {
    let note = |what: &'static str| {
        let asked = Arc::clone(asked);
        move |caller: &Caller| {
            let proven = if caller.verified { "proven" } else { "claimed" };
            asked.lock().unwrap().push(format!("{what} {proven}"));
        }
    };
    let (blacklist, priority, handler) = (note("blacklist"), note("priority"), note("handler"));
    untyped("Hooked")
        .unary(move |ask: Untyped, caller: Caller| {
            handler(&caller);
            async move { Ok::<_, SynapseError>(ask) }
        })
        .blacklist(move |caller| {
            blacklist(caller);
            Verdict::Admit
        })
        .priority(move |caller| {
            priority(caller);
            0.0
        })
}

#[tokio::test]
async fn hooks_are_asked_in_their_order() {
    let asked = Asked::default();
    let seen = || std::mem::take(&mut *asked.lock().unwrap());

    let axon = serve(builder().attach(hooked(&asked))).await;
    axon.call("Hooked").await.unwrap();
    assert_eq!(seen(), ["blacklist proven", "priority proven", "handler proven"]);

    let axon = serve(builder().attach(hooked(&asked)).verify(Verify::LikeReference)).await;
    axon.call("Hooked").await.unwrap();
    assert_eq!(seen(), ["blacklist claimed", "priority proven", "handler proven"]);

    let verify = {
        let asked = Arc::clone(&asked);
        move |caller: Caller| {
            let proven = if caller.verified { "proven" } else { "claimed" };
            asked.lock().unwrap().push(format!("verify {proven}"));
            async { Ok::<_, SynapseError>(()) }
        }
    };
    let axon = serve(builder().attach(hooked(&asked).verify_with(verify))).await;
    axon.call("Hooked").await.unwrap();
    let expected = ["verify claimed", "blacklist proven", "priority proven", "handler proven"];
    assert_eq!(seen(), expected);
    let call = axon.dendrite.call(axon.target(), empty("Hooked")).protocol(Protocol::BtAuth1);
    call.await.unwrap();
    let expected = ["verify proven", "blacklist proven", "priority proven", "handler proven"];
    assert_eq!(seen(), expected);
}

#[tokio::test]
async fn every_refusal_has_the_references_status_and_words() {
    let plain =
        |name: &str| untyped(name).unary(async |ask: Untyped, _| Ok::<_, SynapseError>(ask));
    let failing = |name: &str, error: fn() -> SynapseError| {
        untyped(name).unary(move |_: Untyped, _| async move { Err::<Untyped, _>(error()) })
    };
    let axon = serve(
        builder()
            .attach(plain("Denied").deny([alice()]))
            .attach(plain("Allowed").allow([Keypair::from_uri("//Bob").unwrap().hotkey()]))
            .attach(plain("Black").blacklist(|_| Verdict::Refuse("no stake".to_owned())))
            .attach(plain("BlackFails").blacklist_with(async |_| {
                Err::<Verdict, _>(SynapseError::internal("the chain is down"))
            }))
            .attach(plain("Unproven").verify_with(async |_| {
                Err::<(), _>(SynapseError::new(StatusCode::IM_A_TEAPOT, "who are you"))
            }))
            .attach(
                plain("LatePriority")
                    .priority_with(async |_| Err::<f64, _>(SynapseError::timeout())),
            )
            .attach(plain("NoPriority").priority_with(async |_| {
                Err::<f64, _>(SynapseError::internal("the chain is down"))
            }))
            .attach(failing("Busy", || SynapseError::new(StatusCode::TOO_MANY_REQUESTS, "not now")))
            .attach(failing("Broken", || SynapseError::internal("disk on fire")))
            .attach(failing("Late", SynapseError::timeout))
            .attach(plain("Old").verify(Verify::BtAuth1)),
    )
    .await;
    for (route, status, message) in [
        ("Denied", 403, "Forbidden. Key is blacklisted: on the deny list."),
        ("Allowed", 403, "Forbidden. Key is blacklisted: not on the allow list."),
        ("Black", 403, "Forbidden. Key is blacklisted: no stake."),
        ("BlackFails", 500, "Internal Server Error #"),
        ("Unproven", 401, "Not Verified with error: who are you"),
        ("LatePriority", 408, "Response timeout after: 12.0s"),
        ("NoPriority", 500, "Internal Server Error #"),
        ("Busy", 429, "not now"),
        ("Broken", 500, "Internal Server Error #"),
        ("Late", 408, "Response timeout after: 12.0s"),
        ("Old", 401, "Not Verified with error: this axon takes btauth/1 only"),
        ("Missing", 404, "Synapse name 'Missing' not found."),
    ] {
        let told = axon.refusal(route).await;
        assert!(told.0 == status && told.1.starts_with(message), "{route}: {told:?}");
        assert!(!told.1.contains("fire") && !told.1.contains("chain"), "{route}: {told:?}");
    }
}

#[tokio::test]
async fn a_handler_may_choose_its_status_and_the_body_is_the_synapse() {
    let route = untyped("Teapot").unary(async |mut ask: Untyped, _| {
        ask.fields.insert("brewed", Value::from(true));
        let status = StatusCode::IM_A_TEAPOT;
        Ok::<_, SynapseError>(Filled::with_status(ask, status, "short and stout"))
    });
    let axon = serve(builder().attach(route)).await;
    assert_eq!(axon.refusal("Teapot").await, (418, "short and stout".to_owned()));
    let seen = until(&mut axon.begin("Teapot", "12.0").await, "}").await;
    assert!(seen.contains("418") && seen.ends_with(r#"{"brewed":true}"#), "{seen}");
}

#[tokio::test]
async fn a_handler_sees_one_caller_whichever_protocol_was_spoken() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let saw = Arc::clone(&seen);
    let route = untyped("Who").unary(move |ask: Untyped, caller: Caller| {
        saw.lock().unwrap().push(caller);
        async move { Ok::<_, SynapseError>(ask) }
    });
    let axon = serve(builder().attach(route)).await;
    for protocol in [Protocol::V10, Protocol::BtAuth1] {
        let call = axon.dendrite.call(axon.target(), empty("Who")).protocol(protocol);
        call.await.unwrap();
        let caller = seen.lock().unwrap().pop().unwrap();
        assert_eq!((caller.hotkey, caller.protocol), (alice(), protocol));
        assert!(caller.verified && caller.ip.is_loopback() && caller.nonce > 0);
        assert_eq!(caller.body_covered, protocol == Protocol::BtAuth1);
    }
    let stranger = schwann_synapse::dendrite::Dendrite::new(Keypair::from_uri("//Bob").unwrap());
    let wrong =
        schwann_synapse::target::Target::new("127.0.0.1", axon.at.port(), &alice().to_string());
    let refused = told(stranger.call(wrong.unwrap(), empty("Who")).await);
    assert_eq!(refused, (401, "Not Verified with error: Signature mismatch".to_owned()));
}
