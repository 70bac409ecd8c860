//! What a dendrite sends, and what it believes of what comes back.

use std::{sync::Arc, time::Duration};

use schwann_synapse::{
    axon_info::AxonInfo,
    btauth::{Verifier, body_sha256},
    call_error::CallError,
    dendrite::{Inputs, Protocol},
    keys::{BytesWrapping, KeyCache, PublicKey, parse_signature_hex},
    nonce::MemoryNonceStore,
    python::{Dict, Value},
    ss58::Hotkey,
    synapse::Ask as _,
    target::TargetError,
};

use crate::fake::{
    AXON, SUCCESS, always_saying, builder, dendrite, fine, header, json, plain, untyped,
};

const DENDRITE: &str = "5HTsR7yDDnP9VhTfkUYbtbxbkXXWxbBES1GfTL5gWMZx4y9L";

fn body(request: &str) -> Dict {
    let (_, body) = request.split_once("\r\n\r\n").unwrap();
    match Value::parse_json(body.as_bytes()).unwrap() {
        Value::Dict(body) => body,
        other => panic!("{other:?}"),
    }
}

fn names(request: &str) -> Vec<String> {
    let head = request.split("\r\n\r\n").next().unwrap();
    head.lines().skip(1).map(|line| line.split_once(':').unwrap().0.to_owned()).collect()
}

#[tokio::test]
async fn headers_are_in_the_order_of_the_reference() {
    let axon = always_saying(fine()).await;
    let ask = untyped("EchoSynapse", r#"{"text": "hi", "count": 3, "note": null}"#);
    let ask = ask.hash(["text", "count"]).required(["text", "count", "note"]);
    let dendrite = builder().external_ip("203.0.113.7").build();
    dendrite.call(&axon.target, ask).timeout(Duration::from_millis(1500)).await.unwrap();
    let seen = axon.seen();
    assert!(seen[0].starts_with("POST /EchoSynapse HTTP/1.1\r\n"));
    let expected = "host name timeout bt_header_axon_ip bt_header_axon_port bt_header_axon_hotkey bt_header_dendrite_ip \
                    bt_header_dendrite_version bt_header_dendrite_nonce bt_header_dendrite_uuid \
                    bt_header_dendrite_hotkey bt_header_dendrite_signature bt_header_input_obj_text \
                    bt_header_input_obj_count header_size total_size computed_body_hash accept accept-encoding \
                    user-agent content-length content-type";
    assert_eq!(names(&seen[0]).join(" "), expected);
    for (name, value) in [
        ("timeout", "1.5"),
        ("bt_header_dendrite_version", "10005000"),
        ("bt_header_input_obj_text", "IiI="),
        ("bt_header_input_obj_count", "MA=="),
        ("bt_header_axon_hotkey", AXON),
        ("bt_header_dendrite_hotkey", DENDRITE),
    ] {
        assert_eq!(header(&seen[0], name), Some(value), "{name}");
    }
}

#[tokio::test]
async fn an_axon_is_called_by_what_the_chain_says_of_it() {
    let axon = always_saying(fine()).await;
    let info = AxonInfo::new([127, 0, 0, 1].into(), axon.target.port(), AXON);
    assert!(dendrite().call(&info, plain()).await.unwrap().is_success());
    let nobody = AxonInfo::new([127, 0, 0, 1].into(), axon.target.port(), "");
    let error = dendrite().call(nobody, plain()).await.unwrap_err();
    assert!(matches!(error, CallError::Target(TargetError::Hotkey)));
}

#[tokio::test]
async fn the_signature_covers_what_the_reference_signs() {
    let axon = always_saying(fine()).await;
    let ask = untyped("EchoSynapse", r#"{"text": "hi", "count": 3}"#).hash(["text", "count"]);
    let hash = ask.body_hash().to_string();
    dendrite().call(&axon.target, ask).await.unwrap();
    let seen = axon.seen();
    let get = |name: &str| header(&seen[0], &format!("bt_header_dendrite_{name}")).unwrap();
    assert_eq!(header(&seen[0], "computed_body_hash"), Some(hash.as_str()));
    let message = format!("{}.{DENDRITE}.{AXON}.{}.{hash}", get("nonce"), get("uuid"));
    let key = PublicKey::sr25519(&DENDRITE.parse::<Hotkey>().unwrap()).unwrap();
    assert!(key.verify(message.as_bytes(), &parse_signature_hex(get("signature")).unwrap()));
    // The body repeats both ends.
    let body = body(&seen[0]);
    let dendrite = body.get("dendrite").and_then(Value::as_dict).unwrap();
    assert_eq!(dendrite.get("signature"), Some(&Value::from(get("signature"))));
    assert_eq!(dendrite.get("nonce").map(Value::py_str).as_deref(), Some(get("nonce")));
    assert_eq!(header(&seen[0], "bt_header_dendrite_ip"), None, "an address nobody gave");
}

#[tokio::test]
async fn sizes_are_byte_counts() {
    let axon = always_saying(fine()).await;
    for text in ["", "x", &"y".repeat(700), &"é".repeat(5000)] {
        let mut fields = Dict::new();
        fields.insert("text", text);
        let ask = schwann_synapse::synapse::Untyped::new("Sized", fields).required(["text"]);
        dendrite().call(&axon.target, ask).await.unwrap();
    }
    for request in axon.seen() {
        let (head, content) = request.split_once("\r\n\r\n").unwrap();
        let from = head.find("name: ").unwrap();
        let to = head.find("header_size: ").unwrap();
        let header_size: usize = header(&request, "header_size").unwrap().parse().unwrap();
        assert_eq!(header_size, to - from);
        let total = header(&request, "total_size").unwrap();
        assert_eq!(total.parse::<usize>().unwrap(), header_size + content.len());
        assert_eq!(body(&request).get("total_size").map(Value::py_str).as_deref(), Some(total));
        assert_eq!(header(&request, "content-length"), Some(content.len().to_string().as_str()));
    }
}

#[tokio::test]
async fn a_name_is_encoded_in_the_path_and_plain_in_the_header() {
    let axon = always_saying(fine()).await;
    dendrite().call(&axon.target, untyped("a b%é?", "{}")).await.unwrap();
    let seen = axon.seen();
    assert!(seen[0].starts_with("POST /a%20b%25%C3%A9%3F HTTP/1.1\r\n"), "{}", seen[0]);
    assert_eq!(header(&seen[0], "name"), Some("a b%é?"));
}

#[tokio::test]
async fn a_class_that_redefines_base_fields_has_them_in_their_place() {
    let axon = always_saying(json(200, SUCCESS, r#"{"name": "ours", "timeout": 5, "x": 2}"#)).await;
    let ask = untyped("chunkSynapse", r#"{"x": 1, "name": "ours", "timeout": 99.5}"#);
    let answer = dendrite().call(&axon.target, ask).await.unwrap();
    let seen = axon.seen();
    let sent = body(&seen[0]);
    let order: Vec<_> = sent.keys().collect();
    let base =
        ["name", "timeout", "total_size", "header_size", "dendrite", "axon", "computed_body_hash"];
    assert_eq!(order, [&base[..], &["x"]].concat());
    assert_eq!(
        (sent.get("name"), sent.get("timeout")),
        (Some(&Value::from("ours")), Some(&Value::from(99.5)))
    );
    assert_eq!(
        sent.get("total_size").map(Value::py_str).as_deref(),
        header(&seen[0], "total_size")
    );
    assert_eq!(header(&seen[0], "timeout"), Some("12.0"), "the header is the call's own");
    // And they come back as its own.
    assert_eq!(answer.synapse.fields.get("timeout"), Some(&Value::from(5)));
}

#[tokio::test]
async fn what_is_ours_stays_ours() {
    let headers = format!(
        "{SUCCESS}bt_header_dendrite_hotkey: evil\r\nbt_header_dendrite_nonce: 1\r\nbt_header_axon_hotkey: evil2\r\n\
         bt_header_axon_ip: 6.6.6.6\r\nbt_header_axon_version: 1234\r\nbt_header_axon_process_time: 0.25\r\n"
    );
    let content = r#"{"x": 3, "y": 6, "zzz": 1, "name": "Other", "timeout": 99, "computed_body_hash": "evil",
                      "dendrite": {"hotkey": "evil", "uuid": "evil"}, "axon": {"hotkey": "evil2", "port": 7}}"#;
    let axon = always_saying(json(200, &headers, content)).await;
    let answer = dendrite().call(&axon.target, plain()).await.unwrap();
    let seen = axon.seen();
    let sent =
        |name: &str| header(&seen[0], &format!("bt_header_dendrite_{name}")).map(str::to_owned);
    assert_eq!(answer.dendrite.hotkey.as_deref(), Some(DENDRITE));
    assert_eq!(answer.dendrite.uuid, sent("uuid"));
    assert_eq!(answer.dendrite.nonce.as_ref().map(ToString::to_string), sent("nonce"));
    assert_eq!(answer.dendrite.status_code, Some(200));
    assert_eq!(answer.axon.hotkey.as_deref(), Some(AXON));
    assert_eq!(answer.axon.ip.as_deref(), Some("127.0.0.1"));
    assert_eq!(answer.axon.port, Some(i64::from(axon.target.port())));
    assert_eq!((answer.axon.version, answer.axon.process_time), (Some(1234), Some(0.25)));
    let process_time = answer.dendrite.process_time.unwrap();
    assert!(
        (process_time - answer.took.as_secs_f64()).abs() < 1e-6
            && answer.took >= answer.timings.first_byte
    );
}

#[tokio::test]
async fn required_fields_keep_the_value_they_were_asked_with() {
    let axon =
        always_saying(json(200, SUCCESS, r#"{"q": "theirs", "empty": "filled", "free": 9}"#)).await;
    let ask =
        || untyped("Ask", r#"{"q": "ours", "empty": "", "free": 1}"#).required(["q", "empty"]);
    let answer = dendrite().call(&axon.target, ask()).await.unwrap();
    let shown = |answer: &schwann_synapse::dendrite::Answer<schwann_synapse::synapse::Untyped>| {
        ["q", "empty", "free"]
            .map(|field| answer.synapse.fields.get(field).unwrap().py_str())
            .join(" ")
    };
    assert_eq!(shown(&answer), "ours filled 9");
    assert_eq!(answer.altered, ["q"]);
    let answer = dendrite().call(&axon.target, ask()).inputs(Inputs::Answered).await.unwrap();
    assert_eq!(shown(&answer), "theirs filled 9");
    assert_eq!(answer.altered, ["q"]);
}

#[tokio::test]
async fn btauth_requests_verify_and_carry_only_the_own_fields() {
    let axon = always_saying(json(200, "", r#"{"x": 3, "y": 6}"#)).await;
    let dendrite = builder().protocol(Protocol::BtAuth1).build();
    let answer = dendrite.call(&axon.target, plain()).await.unwrap();
    // HTTP's status is the only one this protocol has.
    assert!(answer.is_success());
    assert_eq!(answer.synapse.y, Some(6));

    let seen = axon.seen();
    let (_, content) = seen[0].split_once("\r\n\r\n").unwrap();
    assert_eq!(content, r#"{"x": 3, "y": null}"#);
    assert!(!seen[0].contains("bt_header"));
    let verifier =
        Verifier::new(Arc::new(KeyCache::new(16)), Arc::new(MemoryNonceStore::new().unwrap()))
            .bytes_wrapping(BytesWrapping::Refuse);
    let headers: Vec<(&str, &[u8])> = seen[0]
        .split("\r\n\r\n")
        .next()
        .unwrap()
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name, value.as_bytes()))
        .collect();
    let now = header(&seen[0], "x-bittensor-nonce").unwrap().parse().unwrap();
    let digest = body_sha256(content.as_bytes());
    let verified =
        verifier.verify("POST", "/PlainSynapse", headers.iter().copied(), &digest, AXON, now);
    assert_eq!(verified.unwrap().hotkey.to_string(), DENDRITE);
}
