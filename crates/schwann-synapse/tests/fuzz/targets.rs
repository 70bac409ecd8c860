//! What is fuzzed: each target takes bytes, does with them what a peer could make us do, and panics if that goes wrong.
//! Included by `main.rs`, which runs them in every test run, and by the workspace's `fuzz/`, for cargo-fuzz.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use schwann::{Server, serve_connection};
use schwann_synapse::{
    axon::{Axon, StreamReply, SynapseError, untyped},
    btauth::{self, AuthError, Verifier},
    caller::{Caller, Protocol, Verify},
    dendrite::Dendrite,
    hash::BodyHash,
    headers::{self, parse_answer, parse_like_reference, parse_strict},
    keys::{BytesWrapping, KeyCache, Keypair, Scheme, parse_signature_hex},
    nonce::MemoryNonceStore,
    python::{Dict, Value, from_value},
    synapse::{Ask as _, Envelope, Untyped},
    target::Target,
    tensor::{Tensor, TensorLimits},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    runtime::Runtime,
};

/// `Name: value` lines.
fn lines(data: &[u8]) -> Vec<(&[u8], &[u8])> {
    let pair = |line: &[u8]| line.iter().position(|byte| *byte == b':');
    let trim = |line: &[u8]| line.len() - usize::from(line.ends_with(b"\r"));
    data.split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let at = pair(line)?;
            Some((&line[..at], line[at + 1..trim(line).max(at + 1)].trim_ascii()))
        })
        .collect()
}

/// Header lines, read in every way there is. What was read strictly is written again, and then read alike.
pub(crate) fn headers(data: &[u8]) {
    let pairs = lines(data);
    let _ = parse_answer(pairs.iter().copied());
    let _ = parse_like_reference(pairs.iter().copied()).map(|parsed| parsed.input_values());
    let Ok(parsed) = parse_strict(pairs.iter().copied()) else { return };
    if parsed.timeout.is_none() {
        // Written as `None`, as the reference does, which nobody reads back.
        return;
    }
    let mut written = Vec::new();
    headers::write(parsed.parts(), &mut |name, value| {
        assert!(value.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{name}: {value:?}");
        written.push((name.to_owned(), value.to_owned()));
    });
    let again = parse_strict(written.iter().map(|(name, value)| (name, value)));
    let again = again.expect("what we write, we read");
    let ends =
        |headers: &headers::SynapseHeaders| (headers.axon.to_dict(), headers.dendrite.to_dict());
    // A text may have been sanitised on its way out; numbers may not.
    let numbers = |(axon, dendrite): (Dict, Dict)| -> Vec<Value> {
        let all = axon.into_iter().chain(dendrite);
        all.map(|(_, value)| value).filter(|value| matches!(value, Value::Int(_))).collect()
    };
    assert_eq!(numbers(ends(&again)), numbers(ends(&parsed)));
}

/// JSON, read and written in both forms, and read again to the same value.
pub(crate) fn json(data: &[u8]) {
    let Ok(value) = Value::parse_json(data) else { return };
    // A number that is not equal to itself has no equal text either.
    let same = value == value.clone();
    let python =
        Value::parse_json(value.to_python_json().as_bytes()).expect("what we write, we read");
    assert!(!same || python == value);
    if let Ok(compact) = value.to_json() {
        assert_eq!(Value::parse_json(compact.as_bytes()).expect("what we write, we read"), value);
    }
    if let Value::Dict(body) = value {
        let _ = Envelope::split(body.clone(), |_| false);
        let _ = Envelope::split(body, |base| base == "timeout" || base == "axon");
    }
}

/// JSON, whose fields are hashed: alike after a trip over the wire.
pub(crate) fn body_hash(data: &[u8]) {
    let fields = match Value::parse_json(data) {
        Ok(Value::Dict(fields)) => fields,
        Ok(other) => Dict::from_iter([("value", other)]),
        Err(_) => return,
    };
    let names: Vec<String> = fields.keys().map(str::to_owned).collect();
    let synapse = Untyped::new("Any", fields.clone()).hash(names.clone());
    let hash = synapse.body_hash();
    assert!(BodyHash::agrees(&hash.to_string(), |hasher| synapse.hash_fields(hasher)));
    assert!(
        !BodyHash::agrees(&hash.to_string().to_uppercase(), |hasher| synapse.hash_fields(hasher))
            || hash.to_string().bytes().all(|digit| digit.is_ascii_digit())
    );
    let wire = fields.to_python_json();
    let Ok(Value::Dict(arrived)) = Value::parse_json(wire.as_bytes()) else {
        panic!("no object: {wire}")
    };
    assert_eq!(Untyped::new("Any", arrived).hash(names).body_hash(), hash);
    let _ = synapse.placeholders();
}

/// JSON of a tensor, or else bytes as the buffer of one. What can be decoded can be encoded, and that decoded alike.
pub(crate) fn tensor(data: &[u8]) {
    let value = Value::parse_json(data).unwrap_or_else(|_| {
        Value::Dict(Dict::from_iter([
            ("buffer", Value::from(STANDARD.encode(data))),
            ("dtype", Value::from("float32")),
            ("shape", Value::List(vec![Value::from(0_i64)])),
        ]))
    });
    let Ok(tensor) = from_value::<Tensor>(value) else { return };
    let limits = TensorLimits::default();
    let Ok(array) = tensor.decode_within(&limits) else { return };
    let again = array.to_tensor().decode_within(&limits).expect("what we encode, we decode");
    assert_eq!(again.as_bytes(), array.as_bytes());
    assert_eq!(again.dtype(), array.dtype());
}

/// When and for whom the recorded `btauth/1` requests were signed.
const BTAUTH_NOW: u64 = 1_795_219_399_075_121_210;
const BTAUTH_RECEIVER: &str = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty";

/// `METHOD target`, header lines, an empty line, a body. What is accepted is accepted once.
pub(crate) fn btauth(data: &[u8]) {
    static KEYS: LazyLock<Arc<KeyCache>> = LazyLock::new(Arc::default);
    static NONCES: LazyLock<Arc<MemoryNonceStore>> =
        LazyLock::new(|| Arc::new(MemoryNonceStore::new().expect("random bytes")));
    let nonces: Arc<MemoryNonceStore> = Arc::clone(&NONCES);
    let verifier = Verifier::new(Arc::clone(&KEYS), nonces);
    let end = data.windows(2).position(|two| two == b"\n\n").unwrap_or(data.len());
    let (head, body) = data.split_at(end);
    let body = btauth::body_sha256(body.get(2..).unwrap_or_default());
    let first = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let first = String::from_utf8_lossy(first);
    let (method, target) = first.split_once(' ').unwrap_or((&first, ""));
    let pairs: Vec<_> = lines(head)
        .into_iter()
        .filter_map(|(name, value)| Some((std::str::from_utf8(name).ok()?, value)))
        .collect();
    let verify = || {
        let pairs = pairs.iter().copied();
        verifier.verify(method, target, pairs, &body, BTAUTH_RECEIVER, BTAUTH_NOW)
    };
    if verify().is_ok() {
        assert!(matches!(verify(), Err(AuthError::ReplayedRequest)), "accepted twice");
    }
}

// --- connections ---

/// Where a connection's bytes are cut apart: after one, some or many.
struct Cuts(u64);

impl Cuts {
    fn next(&mut self, left: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let random = (self.0 >> 33) as usize;
        let size = match random % 4 {
            0 => 1,
            1 => 1 + random / 4 % 64,
            2 => 1 + random / 4 % 1024,
            _ => left,
        };
        size.min(left)
    }
}

async fn write_in_pieces(mut out: impl AsyncWriteExt + Unpin, mut bytes: &[u8], seed: u64) {
    let mut cuts = Cuts(seed);
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at(cuts.next(bytes.len()));
        if out.write_all(piece).await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
        bytes = rest;
    }
}

thread_local! {
    static RUNTIME: Runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
}

/// Nothing a peer sends may take longer than this to be dealt with, once it has closed.
const HANGS: Duration = Duration::from_secs(20);

/// The first eight bytes say where the connection is cut apart, the others are what a peer sends: to an axon, or as
/// the answer to a dendrite's call.
pub(crate) fn chunks(data: &[u8]) {
    let Some((seed, data)) = data.split_first_chunk::<8>() else { return };
    let seed = u64::from_le_bytes(*seed);
    if seed.is_multiple_of(8) { answers(data, seed) } else { requests(data, seed) }
}

/// A connection to an axon: no panic, no hang, and no handler that runs without a valid signature over what it gets.
pub(crate) fn requests(data: &[u8], seed: u64) {
    static SIGNER: LazyLock<Arc<Keypair>> =
        LazyLock::new(|| Arc::new(Keypair::from_uri("//interop-axon").expect("a key")));
    let forged = Arc::new(AtomicBool::new(false));
    let now = nonce_in(data).unwrap_or(BTAUTH_NOW);
    let verify =
        if (seed / 8).is_multiple_of(2) { Verify::LikeReference } else { Verify::Hardened };
    let judge = |forged: &Arc<AtomicBool>| {
        let forged = Arc::clone(forged);
        move |ask: &Untyped, from: &Caller| {
            if !proven(ask, from) {
                forged.store(true, Ordering::Relaxed);
            }
        }
    };
    let (unary, streaming) = (judge(&forged), judge(&forged));
    let echo = move |ask: Untyped, from: Caller| {
        unary(&ask, &from);
        async move { Ok::<_, SynapseError>(ask) }
    };
    let stream = move |ask: Untyped, from: Caller, reply: StreamReply| {
        streaming(&ask, &from);
        async move {
            let mut out = reply.start();
            out.write("token").await?;
            Ok::<_, SynapseError>(out.finish())
        }
    };
    let axon = Axon::builder(Arc::clone(&SIGNER))
        .verify(verify)
        // It has been running for a while.
        .freshness(schwann_synapse::nonce::Freshness::without_floor())
        .clock(move || now)
        .attach(untyped("PlainSynapse").unary(echo.clone()))
        .attach(untyped("EchoSynapse").hash(["text", "count"]).unary(echo))
        .attach(untyped("StreamSynapse").hash(["prompt"]).streaming(stream))
        .build()
        .expect("routes with names of their own");
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let (client, server) = tokio::io::duplex(4096);
            let limits = Server::default();
            let serve = async { drop(serve_connection(&limits, server, axon).await) };
            let (mut from, mut to) = tokio::io::split(client);
            let speak = async {
                write_in_pieces(&mut to, data, seed).await;
                let _ = to.shutdown().await;
            };
            let listen = async {
                let mut seen = Vec::new();
                let _ = from.read_to_end(&mut seen).await;
                seen
            };
            let all = async { tokio::join!(serve, speak, listen) };
            let (_, _, seen) =
                tokio::time::timeout(HANGS, all).await.expect("a connection that hangs");
            assert!(
                seen.is_empty() || seen.starts_with(b"HTTP/1."),
                "{}",
                String::from_utf8_lossy(&seen)
            );
        });
    });
    assert!(!forged.load(Ordering::Relaxed), "a handler ran for what nobody signed");
}

/// The nonce in a request, so that the axon's clock can be that of the recording.
fn nonce_in(data: &[u8]) -> Option<u64> {
    const NAME: &[u8] = b"bt_header_dendrite_nonce: ";
    let at = data.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    let digits = data[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&data[at..at + digits]).ok()?.parse().ok()
}

/// Judges what a handler got, without the axon's help.
fn proven(ask: &Untyped, from: &Caller) -> bool {
    if from.protocol != Protocol::V10 {
        return from.verified;
    }
    let said = &from.headers.dendrite;
    let (Some(hotkey), Some(nonce), Some(signature)) = (&said.hotkey, &said.nonce, &said.signature)
    else {
        return false;
    };
    let Ok(key) = KeyCache::default().resolve(Scheme::Sr25519, hotkey) else { return false };
    let Some(hash) = &from.headers.computed_body_hash else { return false };
    let Ok(signature) = parse_signature_hex(signature) else { return false };
    let uuid = said.uuid.as_deref().unwrap_or("None");
    const AXON: &str = "5CcX9gSfabdgTwKAXapgUMcoVTzRSNGXE8o2iCAWxo4hYTxp";
    let message = format!("{nonce}.{hotkey}.{AXON}.{uuid}.{hash}");
    from.verified
        && key.hotkey() == from.hotkey
        && *hash == ask.body_hash().to_string()
        && key.verify_wrapped(message.as_bytes(), &signature, BytesWrapping::Accept)
}

/// An answer to a dendrite: no panic, no hang, and no success that HTTP knows nothing of.
pub(crate) fn answers(data: &[u8], seed: u64) {
    static DENDRITE: LazyLock<Dendrite> = LazyLock::new(|| {
        let signer = Keypair::from_uri("//interop-dendrite").expect("a key");
        Dendrite::builder(signer).max_idle(0, 0).build()
    });
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let port = listener.local_addr().expect("a port").port();
            let axon = Target::new("127.0.0.1", port, BTAUTH_RECEIVER).expect("a target");
            let answer = async {
                let (mut client, _) = listener.accept().await.expect("a connection");
                let mut request = Vec::new();
                let mut buffer = [0; 4096];
                while !request.ends_with(b"\"x\": 1}") {
                    match client.read(&mut buffer).await {
                        Ok(0) | Err(_) => return,
                        Ok(n) => request.extend_from_slice(&buffer[..n]),
                    }
                }
                write_in_pieces(&mut client, data, seed).await;
            };
            let ask = Untyped::new("PlainSynapse", Dict::from_iter([("x", 1_i64)]));
            let call = async {
                if seed.is_multiple_of(16) {
                    return DENDRITE.call(&axon, ask).await;
                }
                let mut stream = DENDRITE.stream(&axon, ask).await?;
                while stream.chunk().await?.is_some() {}
                stream.finish().await
            };
            let both = async { tokio::join!(answer, call) };
            let (_, ended) = tokio::time::timeout(HANGS, both).await.expect("a call that hangs");
            if ended.is_ok_and(|answer| answer.is_success()) {
                let ok = data.windows(4).any(|four| four == b" 200");
                assert!(ok, "a success: {}", String::from_utf8_lossy(data));
            }
        });
    });
}
