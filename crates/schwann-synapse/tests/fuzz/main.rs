//! The fuzz targets as bounded tests, for every run and every toolchain: the recorded vectors, mutated, and any bytes.
//! The same inputs each time. `fuzz/README.md` says how to run them without bounds.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../numbers/mod.rs"]
mod numbers;
mod targets;

use std::{fs, panic, path::PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use numbers::Numbers;
use proptest::{prelude::*, test_runner::TestRunner};
use schwann_synapse::python::Value;

type Target = fn(&[u8]);

/// Runs a target with each seed of the corpus, `runs` mutations of them, and a tenth of that of any bytes.
#[track_caller]
fn run(target: Target, corpus: &[Vec<u8>], runs: usize) {
    assert!(!corpus.is_empty());
    let check = |input: &[u8]| {
        if panic::catch_unwind(|| target(input)).is_err() {
            panic!("with {} bytes: {}", input.len(), STANDARD.encode(input));
        }
    };
    for seed in corpus {
        check(seed);
    }
    let mut numbers = Numbers(20_260_101);
    for _ in 0..runs {
        check(&mutated(corpus, &mut numbers));
    }
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let rng = proptest::test_runner::TestRng::deterministic_rng(config.rng_algorithm);
    let config = ProptestConfig { cases: u32::try_from(runs / 10).unwrap(), ..config };
    let bytes = prop::collection::vec(any::<u8>(), 0..400);
    let any = TestRunner::new_with_rng(config, rng).run(&bytes, |bytes| {
        target(&bytes);
        Ok(())
    });
    any.unwrap();
}

/// Texts on which parsers turn.
const TOKENS: &[&str] = &[
    "0",
    "-1",
    "1e400",
    "NaN",
    "Infinity",
    "null",
    "\"",
    "\\ud800",
    "\\u0000",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\r\n",
    "\r\n\r\n",
    "\n\n",
    "0\r\n\r\n",
    "ffffffffffffffff",
    "18446744073709551616",
    "-9223372036854775809",
    "_",
    "+",
    "0x",
    " ",
    "\u{0}",
    "é",
    "\u{202e}",
    "Transfer-Encoding: chunked\r\n",
    "Content-Length: 0\r\n",
    "timeout: nan\r\n",
    "name: \r\n",
    "bt_header_dendrite_nonce: 1\r\n",
    "bt_header_axon_status_code: 200\r\n",
    "Connection: close\r\n",
    "HTTP/1.0",
    "[[[[[[[[",
];

/// One input of the corpus, changed in a few places.
fn mutated(corpus: &[Vec<u8>], numbers: &mut Numbers) -> Vec<u8> {
    let mut input = corpus[numbers.below(corpus.len() as u64) as usize].clone();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(input.len() as u64 + 1) as usize;
        let end = at + numbers.below((input.len() - at).min(40) as u64 + 1) as usize;
        match numbers.below(8) {
            0 | 1 if at < input.len() => input[at] ^= 1 << numbers.below(8),
            2 if at < input.len() => input[at] = numbers.below(256) as u8,
            3 => input.truncate(at),
            4 => drop(input.drain(at..end)),
            5 => {
                let twice = input[at..end].to_vec();
                input.splice(at..at, twice);
            }
            6 => {
                let other = &corpus[numbers.below(corpus.len() as u64) as usize];
                let from = numbers.below(other.len() as u64 + 1) as usize;
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => {
                let token = numbers.pick(TOKENS);
                input.splice(at..end.min(at + 4), token.bytes());
            }
        }
    }
    input
}

// --- the corpus ---

/// One of the project's own files: other sets are to be judged, and these only to begin from.
fn file(name: &str) -> Value {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors/synapse");
    Value::parse_json(&fs::read(PathBuf::from(folder).join(name)).unwrap()).unwrap()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.as_dict().and_then(|dict| dict.get(key)).and_then(Value::as_list).unwrap()
}

fn field<'a>(value: &'a Value, key: &str) -> &'a str {
    value.as_dict().and_then(|dict| dict.get(key)).and_then(Value::as_str).unwrap_or_default()
}

/// The bytes of every recorded connection: what was asked, and what was answered.
fn captured() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let captures = file("captures-10.5.0.json");
    let connections =
        list(&captures, "exchanges").iter().flat_map(|entry| list(entry, "connections"));
    let mut sides = (Vec::new(), Vec::new());
    for connection in connections {
        for (side, key) in [(&mut sides.0, "request_b64"), (&mut sides.1, "response_b64")] {
            let bytes = STANDARD.decode(field(connection, key)).unwrap();
            if !bytes.is_empty() && bytes.len() < 8192 {
                side.push(bytes);
            }
        }
        if let Some(Value::List(script)) = connection.as_dict().unwrap().get("response_script") {
            let texts = script.iter().filter_map(Value::as_str);
            let bytes: Vec<u8> =
                texts.flat_map(str::chars).filter_map(|c| u8::try_from(c).ok()).collect();
            if bytes.len() < 8192 {
                sides.1.push(bytes);
            }
        }
    }
    sides
}

fn split(bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(bytes.len());
    (bytes[..end].to_vec(), bytes.get(end + 4..).unwrap_or_default().to_vec())
}

fn texts(name: &str, keys: &[&str]) -> Vec<Vec<u8>> {
    let whole = file(name);
    let entries = keys.iter().flat_map(|key| list(&whole, key));
    entries.map(|entry| entry.to_python_json().into_bytes()).collect()
}

fn bodies() -> Vec<Vec<u8>> {
    let (requests, answers) = captured();
    let mut bodies: Vec<_> = requests.iter().chain(&answers).map(|bytes| split(bytes).1).collect();
    bodies.sort();
    bodies.dedup();
    bodies
}

fn values() -> Vec<Vec<u8>> {
    let whole = file("body_hash.json");
    let values = list(&whole, "values").iter();
    let mut all: Vec<_> =
        values.map(|entry| field(entry, "wire_json").as_bytes().to_vec()).collect();
    all.extend(texts("body_hash.json", &["multi_field", "typed_fields"]));
    all
}

/// With eight bytes before them, which the target takes for its seed.
fn seeded(inputs: &[Vec<u8>], seeds: impl Fn(u64) -> u64) -> Vec<Vec<u8>> {
    let numbered = inputs.iter().zip(1..);
    numbered.map(|(input, n)| [&seeds(n).to_le_bytes()[..], input].concat()).collect()
}

// --- the targets ---

#[test]
fn headers() {
    let (requests, answers) = captured();
    let mut corpus: Vec<_> = requests.iter().chain(&answers).map(|bytes| split(bytes).0).collect();
    corpus.dedup();
    run(targets::headers, &corpus, 30_000);
}

#[test]
fn json() {
    run(targets::json, &[values(), bodies()].concat(), 60_000);
}

#[test]
fn body_hash() {
    run(targets::body_hash, &values(), 50_000);
}

#[test]
fn tensor() {
    let whole = file("tensors.json");
    let tensors = list(&whole, "serialize").iter().map(|entry| ("tensor_json", entry));
    let tensors = tensors.chain(list(&whole, "deserialize").iter().map(|entry| ("input", entry)));
    let json = tensors.filter_map(|(key, entry)| entry.as_dict()?.get(key));
    let mut corpus: Vec<_> = json.clone().map(|json| json.to_python_json().into_bytes()).collect();
    // And the bytes within, where mutations meet msgpack and not base64.
    corpus.extend(json.filter_map(|json| STANDARD.decode(field(json, "buffer")).ok()));
    run(targets::tensor, &corpus, 35_000);
}

#[test]
fn btauth() {
    let whole = file("btauth1.json");
    let mut corpus = Vec::new();
    for entry in list(&whole, "verify").iter().chain(list(&whole, "sign")) {
        let Some(Value::Dict(headers)) = entry.as_dict().unwrap().get("headers") else { continue };
        let mut input = format!("{} {}\n", field(entry, "method"), field(entry, "path"));
        for (name, value) in headers.iter() {
            input.push_str(&format!("{name}: {}\n", value.py_str()));
        }
        let mut input = input.into_bytes();
        input.push(b'\n');
        input.extend(hex::decode(field(entry, "body_hex")).unwrap_or_default());
        corpus.push(input);
    }
    run(targets::btauth, &corpus, 20_000);
}

#[test]
fn requests_in_pieces() {
    let (requests, _) = captured();
    run(targets::chunks, &seeded(&requests, |n| n | 1), 6_000);
}

#[test]
fn answers_in_pieces() {
    let (_, answers) = captured();
    run(targets::chunks, &seeded(&answers, |n| n * 8), 1_500);
}
