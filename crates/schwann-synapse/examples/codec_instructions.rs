//! One part of the codec, run so many times: for counting its instructions. `cargo xtask instructions` runs it.

use std::{env, hint::black_box, process::ExitCode};

use schwann_synapse::{
    btauth,
    caller::bound_message,
    headers::{self, SynapseHeaders, parse_strict},
    keys::Scheme,
    python::{Dict, Int, Value},
    synapse::{Ask as _, Envelope, Untyped},
};

/// A request as the SDK sends it.
const HEADERS: [(&str, &str); 20] = [
    ("host", "127.0.0.1:8091"),
    ("name", "Translate"),
    ("timeout", "12.0"),
    ("bt_header_axon_ip", "127.0.0.1"),
    ("bt_header_axon_port", "8091"),
    ("bt_header_axon_hotkey", "5CcX9gSfabdgTwKAXapgUMcoVTzRSNGXE8o2iCAWxo4hYTxp"),
    ("bt_header_dendrite_ip", "203.0.113.7"),
    ("bt_header_dendrite_version", "10005000"),
    ("bt_header_dendrite_nonce", "1795219399075121210"),
    ("bt_header_dendrite_uuid", "f5431f40-e53e-11f1-aa65-02fc00000001"),
    ("bt_header_dendrite_hotkey", "5HTsR7yDDnP9VhTfkUYbtbxbkXXWxbBES1GfTL5gWMZx4y9L"),
    (
        "bt_header_dendrite_signature",
        "0x9631a1dbc593e77a732d97276720a6fe3a9167fb6753f6a0b476af0452d45121e1daaf8a5a88682b33812bf52addaa598cef3c6fca26696f4a8ee5dd701c0a87",
    ),
    ("bt_header_input_obj_text", "IiI="),
    ("header_size", "464"),
    ("total_size", "2894"),
    ("computed_body_hash", "a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a"),
    ("accept", "*/*"),
    ("user-agent", "Python/3.11 aiohttp/3.14.5"),
    ("content-length", "800"),
    ("content-type", "application/json"),
];

const OWN: &str = r#"{"text": "Why is the sky blue, and not gr\u00fcn?", "count": 3, "ratio": 0.7,
    "messages": [{"role": "user", "content": "it's \"quoted\""}, {"role": "assistant", "content": "so be it"}],
    "table": {"k": [1, 2.5, null, true]}, "reply": null}"#;

fn main() -> ExitCode {
    let mut args = env::args().skip(1);
    let (Some(part), Some(Ok(times))) = (args.next(), args.next().map(|n| n.parse::<u32>())) else {
        return ExitCode::from(2);
    };
    let headers = parse_strict(HEADERS).unwrap_or_default();
    let Ok(Value::Dict(own)) = Value::parse_json(OWN.as_bytes()) else { return ExitCode::FAILURE };
    let synapse = Untyped::new("Translate", own.clone()).hash(["text", "count", "messages"]);
    let body = body(&headers, own);
    let json = body.to_python_json();
    let sha256 = btauth::body_sha256(json.as_bytes());
    // One more than asked for, so that what is made once is made whenever it is counted.
    for _ in 0..=times {
        match part.as_str() {
            "parse_strict" => drop(black_box(parse_strict(black_box(HEADERS)))),
            "body_hash" => drop(black_box(black_box(&synapse).body_hash().to_string())),
            "json_parse" => drop(black_box(Value::parse_json(black_box(json.as_bytes())))),
            "json_write" => drop(black_box(black_box(&body).to_json())),
            "signed_messages" => drop(black_box(messages(black_box(&headers), &sha256))),
            "answer_headers" => drop(black_box(written(black_box(&headers)))),
            _ => return ExitCode::from(2),
        }
    }
    ExitCode::SUCCESS
}

fn body(headers: &SynapseHeaders, own: Dict) -> Dict {
    let envelope = Envelope {
        dendrite: headers.dendrite.clone(),
        axon: headers.axon.clone(),
        ..Envelope::default()
    };
    envelope.join("Translate", own)
}

/// What `btauth/1` signs, and what a bound signature adds to v10's.
fn messages(headers: &SynapseHeaders, sha256: &[u8; 32]) -> (Vec<u8>, String) {
    let sender = headers.dendrite.hotkey.as_deref().unwrap_or_default();
    let receiver = headers.axon.hotkey.as_deref().unwrap_or_default();
    let nonce = headers.dendrite.nonce.as_ref().and_then(Int::to_i128).unwrap_or_default();
    let payload = btauth::payload(
        Scheme::Sr25519,
        "POST",
        "/Translate",
        sha256,
        nonce,
        sender,
        Some(receiver),
    );
    let uuid = headers.dendrite.uuid.as_deref().unwrap_or_default();
    let v10 = format!("{nonce}.{sender}.{receiver}.{uuid}");
    (payload, bound_message(&v10, "POST", "/Translate", "12.0", sha256))
}

fn written(headers: &SynapseHeaders) -> usize {
    let mut bytes = 0;
    headers::write(headers.parts(), &mut |name, value| bytes += name.len() + value.len());
    bytes
}
