//! One test for each weakness of the reference that concerns a server, by its number in docs/protocol/synapse.md.
//!
//! Those that concern only a client are tested where the dendrite is, in tests/dendrite:
//! W9 (`what_is_ours_stays_ours`, `success_needs_both_http_and_header`), W14 (`redirects_are_never_followed`), W24
//! (`axons_of_one_second_all_answer_within_two_and_a_half`, `waiting_for_a_place_is_not_in_the_timeout`), W25
//! (`a_name_without_address_is_422_like_the_reference_but_told_apart`), W31 (`query_blocks_inside_and_outside_a_runtime_and_again`,
//! `finishing_early_reads_the_rest_and_notices_a_cut`). W34 has no test: there is no code that asks anybody for an address.
//! W18, W23 and W26 are about time and order, and are in tests/axon.

use std::{
    io::Write,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use schwann::Server;
use schwann_synapse::{
    axon::{SynapseError, unary},
    caller::{BOUND_SIGNATURE_HEADER, Caller, Verdict, Verify},
    keys::Signer,
    nonce::now_ns,
    python::Value,
    synapse::Synapse,
};
use serde::{Deserialize, Serialize};

use crate::{
    bodies::covered_by_a_bound_signature,
    world::{
        ALICE, BtAuth, CLOCK, HOTKEY, MALFORMED, MALLORY, Must, NONCE, SIGNATURE, TIMEOUT,
        UNVERIFIED, UUID, V10, VERSION, VICTIM, World, connect, foreign, impatient, read,
        resident_bytes, send,
    },
};

const HOUR: u64 = 3_600_000_000_000;

#[test]
fn w01_the_handler_sees_who_signed_and_not_whom_the_body_names() {
    let world = World::new();
    let body = format!(r#"{{"dendrite": {{"hotkey": "{}"}}}}"#, VICTIM.hotkey());
    let request = V10::new(&world.axon, "Free").body(body).request();
    let answer = world.expect_at(&world.axon, Must::Serve, &request).unwrap();
    let (caller, fields) = world.seen.last();
    assert_eq!((caller.hotkey, fields.as_str()), (ALICE.hotkey(), "{}"));
    assert!(!answer.text().contains(&VICTIM.hotkey().to_string()), "{}", answer.text());
}

#[test]
fn w02_a_route_may_require_that_the_whole_request_is_signed() {
    let world = World::new();
    let (v10, request) = covered_by_a_bound_signature(&world);
    world.expect(Must::Serve, &request).unwrap();
    assert!(world.seen.last().0.body_covered);
    // Without it, with another's, with another body, route, method or timeout, and twice.
    let again = || covered_by_a_bound_signature(&world).1;
    world.expect(UNVERIFIED, &v10.clone().nonce(CLOCK.next()).request()).unwrap();
    world.expect(UNVERIFIED, &again().body(r#"{"text": "evil"}"#)).unwrap();
    world.expect(UNVERIFIED, &again().target("/Bound?x=1")).unwrap();
    world.expect(UNVERIFIED, &again().target("/Free")).unwrap();
    world.expect(UNVERIFIED, &again().method("GET")).unwrap();
    world.expect(UNVERIFIED, &again().set(TIMEOUT, "12.00")).unwrap();
    let (_, fresh) = covered_by_a_bound_signature(&world);
    world
        .expect(
            UNVERIFIED,
            &again().set(BOUND_SIGNATURE_HEADER, fresh.value(BOUND_SIGNATURE_HEADER)),
        )
        .unwrap();
    let twice = again();
    let value = twice.value(BOUND_SIGNATURE_HEADER);
    world.expect(MALFORMED, &twice.add(BOUND_SIGNATURE_HEADER, value)).unwrap();
}

#[test]
fn w03_unsigned_headers_do_not_widen_the_window() {
    let world = World::new();
    let old = || V10::new(&world.lasting, "Echo").nonce(now_ns() - HOUR).request();
    world.expect_at(&world.lasting, UNVERIFIED, &old().set(TIMEOUT, "4000")).unwrap();
    world.expect_at(&world.lasting, UNVERIFIED, &old().without(VERSION)).unwrap();
    world.expect_at(&world.lasting, UNVERIFIED, &old().set(VERSION, "7001000")).unwrap();
    // As old as an honest caller may be.
    let recent = V10::new(&world.lasting, "Echo").nonce(now_ns() - HOUR / 360).request();
    world.expect_at(&world.lasting, Must::Serve, &recent).unwrap();
    for timeout in ["nan", "inf", "-inf"] {
        world.expect_at(&world.lasting, MALFORMED, &old().set(TIMEOUT, timeout)).unwrap();
    }
}

#[test]
fn w04_what_was_signed_before_the_start_is_refused() {
    let world = World::new();
    let request = V10::new(&world.axon, "Echo").request();
    let later = world.serve(World::routes(&world.seen), Server::default());
    world.expect_at(&later, UNVERIFIED, &request).unwrap();
    world.expect_at(&later, Must::Serve, &V10::new(&later, "Echo").request()).unwrap();
}

#[test]
fn w05_nonces_have_an_upper_bound() {
    let world = World::new();
    let ahead = V10::new(&world.axon, "Echo").nonce(now_ns() + 5_000_000_000).request();
    world.expect(UNVERIFIED, &ahead).unwrap();
}

#[test]
fn w06_a_request_used_on_one_route_is_used_on_all() {
    let world = World::new();
    let good = world.good();
    world.expect(Must::Serve, &good).unwrap();
    world.expect(UNVERIFIED, &good.target("/Other")).unwrap();
    // And what nobody used cannot be taken elsewhere at all, if it carries a bound signature.
    let (_, bound) = covered_by_a_bound_signature(&world);
    world.expect(UNVERIFIED, &bound.target("/Free")).unwrap();
}

#[test]
fn w07_the_axon_signs_nothing() {
    let world = World::new();
    // What the reference signs for anybody who asks.
    let oracle = world.good().set(HOTKEY, format!("{}.x.y", VICTIM.hotkey())).without(SIGNATURE);
    let bad = world.good().set(NONCE, "1");
    let unknown = world.good().target("/Unknown");
    let good = world.good();
    for request in [oracle, bad, unknown, good.clone()] {
        let answer = send(world.axon.at, &request.bytes());
        let own = good.value(SIGNATURE);
        let text = answer.text().replace(&own, "");
        assert!(!text.contains("axon_signature") && !text.contains("0x"), "{text}");
    }
}

#[test]
fn w08_a_signature_is_always_required() {
    for verify in [Verify::Hardened, Verify::LikeReference] {
        let world = World::new();
        let axon = world.serve(World::routes(&world.seen).verify(verify), Server::default());
        let good = || V10::new(&axon, "Echo").request();
        world.expect_at(&axon, UNVERIFIED, &good().without(SIGNATURE)).unwrap();
        world.expect_at(&axon, UNVERIFIED, &good().set(SIGNATURE, "")).unwrap();
    }
}

#[test]
fn w10_the_identity_key_signs_nothing() {
    for verify in [Verify::Hardened, Verify::LikeReference] {
        let world = World::new();
        let axon = world.serve(World::routes(&world.seen).verify(verify), Server::default());
        let mut v10 = V10::new(&axon, "Echo");
        v10.hotkey = "5C4hrfjw9DjXZTzV3MwzrrAr9P1MJhSrvWGWqi1eSuyUpnhM".to_owned();
        let request = v10.with(&format!("0x{}80", "00".repeat(63)));
        world.expect_at(&axon, UNVERIFIED, &request).unwrap();
    }
}

#[test]
fn w11_blacklists_see_proven_callers_and_size_is_looked_at_first() {
    let world = World::new();
    for (verify, asked_of_strangers) in [(Verify::Hardened, false), (Verify::LikeReference, true)] {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let ask = Arc::clone(&asked);
        let route = world.seen.route("Listed", &["text"]).max_body(100).blacklist(move |caller| {
            ask.lock().unwrap().push(caller.verified);
            Verdict::Admit
        });
        let axon = world.serve(World::builder().verify(verify).attach(route), Server::default());
        let unsigned = V10::new(&axon, "Listed").signed("wrong");
        world.expect_at(&axon, UNVERIFIED, &unsigned).unwrap();
        assert_eq!(!asked.lock().unwrap().is_empty(), asked_of_strangers);
        asked.lock().unwrap().clear();
        let large = V10::new(&axon, "Listed").body(vec![b' '; 200]).request();
        world.expect_at(&axon, Must::Refuse(&[413]), &large).unwrap();
        assert!(asked.lock().unwrap().is_empty());
        world.expect_at(&axon, Must::Serve, &V10::new(&axon, "Listed").request()).unwrap();
        assert_eq!(*asked.lock().unwrap(), [verify == Verify::Hardened]);
    }
}

#[test]
fn w12_nonces_may_arrive_in_any_order() {
    let world = World::new();
    let requests: Vec<_> = (0..10).map(|_| world.good()).collect();
    for request in requests.iter().rev() {
        world.expect(Must::Serve, request).unwrap();
    }
}

#[test]
fn w13_a_key_is_the_same_under_every_prefix() {
    let world = World::new();
    let mut v10 = V10::new(&world.axon, "Denying").by(&MALLORY);
    v10.hotkey = foreign(MALLORY.hotkey(), 2032);
    world.expect(Must::Refuse(&[403]), &v10.request()).unwrap();
    // A caller under another prefix is told to the handler as the key that it is.
    let mut v10 = V10::new(&world.axon, "Echo");
    v10.hotkey = foreign(ALICE.hotkey(), 2032);
    world.expect(Must::Serve, &v10.request()).unwrap();
    assert_eq!(world.seen.last().0.hotkey, ALICE.hotkey());
}

#[test]
fn w15_what_is_remembered_has_a_bound() {
    let world = World::alone();
    let before = resident_bytes();
    for at in 0..500 {
        let mut v10 = V10::new(&world.axon, "Echo");
        v10.uuid = format!("{at}{}", "u".repeat(20_000));
        world.expect(Must::Serve, &v10.request()).unwrap();
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 20 << 20, "grew by {grown}");
}

#[test]
fn w16_forwarded_addresses_are_believed_of_trusted_proxies_only() {
    let world = World::new();
    let routes = || World::routes(&world.seen);
    let trusting = routes().trusted_proxies(["127.0.0.1".parse::<IpAddr>().unwrap()]);
    for (axon, ip) in [(routes(), "127.0.0.1"), (trusting, "203.0.113.9")] {
        let axon = world.serve(axon, Server::default());
        let request = V10::new(&axon, "Echo").request();
        // What the client wrote itself comes first, and is not believed of anybody.
        let request = request.add("x-forwarded-for", "198.51.100.1, 203.0.113.9, 127.0.0.1");
        world.expect_at(&axon, Must::Serve, &request).unwrap();
        assert_eq!(world.seen.last().0.ip.to_string(), ip);
    }
}

#[test]
fn w17_a_malformed_request_is_the_callers_fault() {
    let world = World::new();
    let malformed = |axon: &crate::world::Running| {
        let good = || V10::new(axon, "Echo").request();
        [
            good().set(NONCE, "x"),
            good().set("total_size", "x"),
            good().body(r#"{"text": "evil"}"#),
            good().body("[]"),
            good().body(""),
            good().set("content-type", "text/plain"),
        ]
    };
    for request in malformed(&world.axon) {
        world.expect(MALFORMED, &request).unwrap();
    }
    let routes = World::routes(&world.seen).verify(Verify::LikeReference);
    let reference = world.serve(routes, Server::default());
    for request in malformed(&reference) {
        world.expect_at(&reference, Must::Refuse(&[500]), &request).unwrap();
    }
}

#[test]
fn w19_the_axons_own_status_is_not_taken_from_a_request() {
    let world = World::new();
    let bent = |request: crate::world::Request| {
        request
            .add("bt_header_axon_status_code", "200")
            .add("bt_header_axon_status_message", "chosen")
    };
    for request in [world.good(), world.good().without(SIGNATURE), world.good().target("/Unknown")]
    {
        let answer = send(world.axon.at, &bent(request).bytes());
        assert!(!answer.text().contains("chosen"), "{}", answer.text());
    }
}

#[test]
fn w20_a_message_that_no_header_can_carry_is_whole_in_the_body() {
    let world = World::new();
    let request = V10::new(&world.axon, "Splitting").request();
    let answer = send(world.axon.at, &request.bytes());
    let text = answer.text();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(answer.status == 403 && !head.to_lowercase().contains("\r\nset-cookie"), "{text}");
    // Its copy in the header is made fit for one.
    let copy = "bt_header_axon_status_message: Forbidden. Key is blacklisted: no  set-cookie";
    assert!(head.contains(copy) && head.contains("200 OK?"), "{head}");
    assert!(body.contains('\u{20ac}') && body.contains("\\r\\n"), "{text}");
}

#[derive(Clone, Debug, Serialize, Deserialize, Synapse)]
#[allow(non_snake_case, reason = "fields of real classes are written so")]
struct OddlyNamed {
    UpperCase: String,
    #[serde(rename = "wire", alias = "aliased")]
    aliased: i64,
}

#[test]
fn w21_and_w22_fields_are_taken_from_the_body_under_either_name() {
    let world = World::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let saw = Arc::clone(&seen);
    let route = unary(move |ask: OddlyNamed, _: Caller| {
        saw.lock().unwrap().push((ask.UpperCase.clone(), ask.aliased));
        async move { Ok::<_, SynapseError>(ask) }
    });
    let axon = world.serve(World::builder().attach(route), Server::default());
    for field in ["wire", "aliased"] {
        let body = format!(r#"{{"UpperCase": "x", "{field}": 7}}"#);
        let request = V10::new(&axon, "OddlyNamed").hash(&[]).body(body).request();
        // The placeholder's name arrives in lower case, as that of no field.
        let answer = send(axon.at, &request.add("bt_header_input_obj_UpperCase", "IiI=").bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(*seen.lock().unwrap(), [("x".to_owned(), 7), ("x".to_owned(), 7)]);
}

#[test]
fn w27_sizes_are_byte_counts() {
    let world = World::new();
    let answer = world.expect_at(&world.axon, Must::Serve, &world.good()).unwrap();
    let text = answer.text();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("total_size: {}", body.len())), "{text}");
}

/// W28 is about CPU time: a body is parsed once, and nothing of it twice. That it is one parser shows here too (W33).
#[test]
fn w28_and_w33_a_body_has_one_meaning() {
    let world = World::new();
    for (body, must) in [
        (r#"{"text": "hello", "text": "evil"}"#, MALFORMED),
        (r#"{"text": "evil", "text": "hello"}"#, Must::Serve),
    ] {
        world.expect(must, &world.good().body(body)).unwrap();
    }
    // The signed text is that of the whole number, and so is what the handler gets.
    let digits = "9".repeat(400);
    let number = Value::parse_json(digits.as_bytes()).unwrap();
    let body = format!(r#"{{"text": {digits}}}"#);
    let request = V10::new(&world.axon, "Echo").hash(&[number]).body(body).request();
    world.expect(Must::Serve, &request).unwrap();
    assert_eq!(world.seen.last().1, format!("{{'text': {digits}}}"));
}

#[test]
fn w29_refusals_tell_nothing_that_was_not_asked() {
    let world = World::new();
    let v10 = V10::new(&world.axon, "Echo");
    let answer = world.expect_at(&world.axon, UNVERIFIED, &v10.signed("wrong")).unwrap();
    assert!(!answer.text().contains(&v10.hash) && !answer.text().contains(&v10.nonce));
    let unknown = world.good().target("/Unknown");
    let answer = world.expect_at(&world.axon, Must::Refuse(&[404]), &unknown).unwrap();
    assert!(!answer.text().contains("Denying"), "{}", answer.text());
    let routes =
        World::builder().attach(world.seen.route("Told", &[])).verify(Verify::LikeReference);
    let reference = world.serve(routes, Server::default());
    let unknown = V10::new(&reference, "Free").request().target("/Unknown");
    let answer = world.expect_at(&reference, Must::Refuse(&[404]), &unknown).unwrap();
    assert!(answer.text().contains("Available synapses ['Synapse', 'Told']"), "{}", answer.text());
}

#[test]
fn w30_slow_and_large_requests_have_limits() {
    let world = World::new();
    let axon = world.serve(World::routes(&world.seen).max_body(1000), impatient());
    assert!(axon.at.ip().is_loopback(), "bound as told");
    let mut silent = connect(axon.at);
    silent.write_all(b"POST /Echo").unwrap();
    read(silent);
    let large = V10::new(&axon, "Echo").body(vec![b' '; 1001]).request();
    world.expect_at(&axon, Must::Refuse(&[413]), &large).unwrap();
    let head = V10::new(&axon, "Echo").request().set("x", vec![b'x'; 100_000]);
    world.expect_at(&axon, Must::Refuse(&[431]), &head).unwrap();
}

#[test]
fn w32_a_protocol_header_is_taken_once_and_by_its_whole_name() {
    let world = World::new();
    for header in [HOTKEY, NONCE, UUID, SIGNATURE, TIMEOUT, "computed_body_hash"] {
        let good = world.good();
        let value = good.value(header);
        world.expect(MALFORMED, &good.add(header, value)).unwrap();
        let inside = world.good().add(format!("x-{header}"), VICTIM.hotkey().to_string());
        world.expect(Must::Serve, &inside).unwrap();
    }
}

#[test]
fn a_verify_hook_is_asked_of_callers_of_either_protocol() {
    let world = World::new();
    let hooked = || {
        world.seen.route("Hooked", &["text"]).verify_with(async |caller: Caller| {
            let told = caller.headers.name.as_deref() == Some("open sesame");
            if told { Ok(()) } else { Err(SynapseError::new(http::StatusCode::IM_A_TEAPOT, "no")) }
        })
    };
    let axon = world.serve(World::builder().attach(hooked()), Server::default());
    let v10 = || V10::new(&axon, "Hooked").request();
    world.expect_at(&axon, Must::Serve, &v10().set("name", "open sesame")).unwrap();
    world.expect_at(&axon, UNVERIFIED, &v10()).unwrap();
    world.expect_at(&axon, UNVERIFIED, &BtAuth::new(&axon, "Hooked").request()).unwrap();
}
