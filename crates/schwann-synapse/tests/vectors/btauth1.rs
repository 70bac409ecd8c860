//! `btauth1.json`: payloads, headers and verification of SDK 11.3.0 (§17).
//!
//! Two differences are deliberate: keys for which anybody can sign are refused (W10), and `<Bytes>`
//! wrapping unless it was asked for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use schwann_synapse::btauth::{self, AuthError, Verifier};
use schwann_synapse::keys::{BytesWrapping, KeyCache, Keypair, Scheme, Signer};
use schwann_synapse::nonce::{BTAUTH_LANE, MemoryNonceStore, NonceStore};
use schwann_synapse::python::{Dict, Int, Value};
use schwann_synapse::ss58::Hotkey;

use crate::set::{Entry, Set};

fn headers_of(value: &Value) -> Vec<(String, String)> {
    let Value::Dict(headers) = value else { panic!("headers") };
    headers
        .iter()
        .map(|(name, value)| (name.to_owned(), value.as_str().expect("text").to_owned()))
        .collect()
}

fn header<'h>(headers: &'h [(String, String)], name: &str) -> Option<&'h str> {
    headers
        .iter()
        .rfind(|(other, _)| other.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

fn seconds(params: &Dict, name: &str, default: u64) -> Duration {
    match params.get(name) {
        None => Duration::from_secs(default),
        // Python's int(seconds * 1e9): towards zero, as the cast does.
        Some(Value::Float(seconds)) => Duration::from_nanos((seconds * 1e9) as u64),
        Some(Value::Int(seconds)) => Duration::from_secs(seconds.to_u64().expect("seconds")),
        Some(other) => panic!("{name}: {other:?}"),
    }
}

#[test]
fn what_is_signed_is_the_same_to_the_byte_and_verifies_both_ways() {
    Set::all("btauth1")
        .iter()
        .for_each(check_what_is_signed_is_the_same_to_the_byte_and_verifies_both_ways);
}

fn check_what_is_signed_is_the_same_to_the_byte_and_verifies_both_ways(set: &Set) {
    for part in ["sdk", "protocol", "verify"] {
        set.part(part);
    }
    let mut signers = HashMap::new();
    let Value::Dict(keys) = set.part("keys") else { panic!("keys") };
    for (name, address) in keys.iter() {
        let (uri, scheme) = name.rsplit_once(' ').expect("uri and scheme");
        let scheme = if scheme == "ed25519" { Scheme::Ed25519 } else { Scheme::Sr25519 };
        let pair = Keypair::from_uri_with(scheme, uri).unwrap();
        assert_eq!(Some(pair.hotkey().to_string().as_str()), address.as_str(), "{name}");
        signers.insert(pair.hotkey().to_string(), pair);
    }
    for vector in set.list("sign") {
        let headers = headers_of(&vector.get("headers"));
        let (method, path) = (vector.text("method"), vector.text("path"));
        let hash = btauth::body_sha256(&vector.hex("body_hex"));
        let receiver = vector.opt_text("receiver");
        let nonce = vector.integer("nonce_ns").unwrap();
        let signer = &signers[header(&headers, btauth::HOTKEY_HEADER).unwrap()];
        let sender = signer.hotkey().to_string();
        let payload = btauth::payload(
            signer.scheme(),
            &method,
            &path,
            &hash,
            nonce,
            &sender,
            receiver.as_deref(),
        );
        assert_eq!(hex::encode(&payload), vector.text("payload_hex"), "{}", vector.label);
        assert_eq!(
            String::from_utf8(payload).unwrap(),
            vector.text("payload_text"),
            "{}",
            vector.label
        );

        let receiver: Option<Hotkey> = receiver.map(|receiver| receiver.parse().unwrap());
        let nonce = u64::try_from(nonce).unwrap();
        let ours = btauth::sign(signer, &method, &path, &hash, receiver.as_ref(), nonce);
        let without_signature = |headers: &[(String, String)]| -> Vec<(String, String)> {
            headers.iter().filter(|(name, _)| name != btauth::SIGNATURE_HEADER).cloned().collect()
        };
        let ours: Vec<_> = ours.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        assert_eq!(without_signature(&ours), without_signature(&headers), "{}", vector.label);

        // Theirs verifies here, and ours does: ed25519 even has one signature only.
        for headers in [&headers, &ours] {
            let own = receiver.map_or_else(String::new, |receiver| receiver.to_string());
            let verifier =
                verifier(&Dict::new(), BytesWrapping::Refuse).unwrap().require_receiver(false);
            let verified = verifier.verify(&method, &path, borrowed(headers), &hash, &own, nonce);
            assert_eq!(verified.unwrap().hotkey, signer.hotkey(), "{}", vector.label);
        }
        if signer.scheme() == Scheme::Ed25519 {
            assert_eq!(ours, headers, "{}", vector.label);
        }
    }
}

fn borrowed(headers: &[(String, String)]) -> impl Iterator<Item = (&str, &[u8])> {
    headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()))
}

/// Parameters of the SDK's `verify`, and its defaults.
fn verifier(params: &Dict, wrapping: BytesWrapping) -> Result<Verifier, btauth::RetentionTooShort> {
    verifier_with(Arc::new(MemoryNonceStore::new().unwrap()), params, wrapping)
}

fn verifier_with(
    store: Arc<MemoryNonceStore>,
    params: &Dict,
    wrapping: BytesWrapping,
) -> Result<Verifier, btauth::RetentionTooShort> {
    for (name, _) in params.iter() {
        let known = ["max_age", "allowed_skew", "require_receiver", "retention"];
        assert!(known.contains(&name), "the parameter {name} is not known to this test");
    }
    let require = !matches!(params.get("require_receiver"), Some(Value::Bool(false)));
    Verifier::new(Arc::new(KeyCache::default()), store)
        .require_receiver(require)
        .bytes_wrapping(wrapping)
        .window(
            seconds(params, "max_age", 10),
            seconds(params, "allowed_skew", 2),
            seconds(params, "retention", 60),
        )
}

/// What the SDK answered, or what this crate does.
#[derive(Debug, PartialEq)]
enum Outcome {
    Accepted { hotkey: String, nonce: i128, crypto_type: i128 },
    Refused { error: String, message: String },
}

/// The request of one case.
struct Request {
    headers: Vec<(String, String)>,
    method: String,
    path: String,
    hash: [u8; 32],
    own: String,
    now_ns: u64,
}

impl Request {
    fn of(vector: &Entry) -> Request {
        Request {
            headers: headers_of(&vector.get("headers")),
            method: vector.text("method"),
            path: vector.text("path"),
            hash: btauth::body_sha256(&vector.hex("body_hex")),
            own: vector.text("self_hotkey"),
            now_ns: u64::try_from(vector.integer("now_ns").unwrap()).unwrap(),
        }
    }

    fn judge(&self, verifier: &Result<Verifier, btauth::RetentionTooShort>) -> Outcome {
        let refused =
            |error: &str, why: String| Outcome::Refused { error: error.to_owned(), message: why };
        let verifier = match verifier {
            Ok(verifier) => verifier,
            Err(why) => return refused("!ValueError", why.to_string()),
        };
        match verifier.verify(
            &self.method,
            &self.path,
            borrowed(&self.headers),
            &self.hash,
            &self.own,
            self.now_ns,
        ) {
            Ok(verified) => Outcome::Accepted {
                hotkey: verified.address,
                nonce: i128::from(verified.nonce),
                crypto_type: i128::from(verified.scheme.crypto_type()),
            },
            Err(why) => refused(why.name(), why.to_string()),
        }
    }

    fn hotkey(&self) -> Option<Hotkey> {
        header(&self.headers, btauth::HOTKEY_HEADER).and_then(|address| address.parse().ok())
    }

    /// Uses up the nonce, as the case before this one did.
    fn use_up_nonce(&self, store: &MemoryNonceStore) {
        let nonce = header(&self.headers, btauth::NONCE_HEADER)
            .and_then(Int::parse_python)
            .and_then(|nonce| nonce.to_u64());
        let (hotkey, nonce) = (self.hotkey().expect("a hotkey"), nonce.expect("a nonce"));
        // Already used if that case is in the set as well.
        let _ = store.admit(&hotkey, BTAUTH_LANE, nonce, self.now_ns, nonce + 60_000_000_000);
    }
}

#[test]
fn requests_are_judged_as_by_the_sdk_but_for_what_is_refused_on_purpose() {
    Set::all("btauth1")
        .iter()
        .for_each(check_requests_are_judged_as_by_the_sdk_but_for_what_is_refused_on_purpose);
}

fn check_requests_are_judged_as_by_the_sdk_but_for_what_is_refused_on_purpose(set: &Set) {
    for part in ["sdk", "protocol", "keys", "sign"] {
        set.part(part);
    }
    let mut wrong = Vec::new();
    for vector in set.list("verify") {
        let label = vector.text("label");
        let request = Request::of(&vector);
        let Value::Dict(params) = vector.get("params") else { panic!("params") };
        let sdk = expected(&vector.get("result"));
        // Of the cases that tell a story with one store only the last is of interest: that a used
        // nonce is refused and another is not, whatever came first.
        let replayed = matches!(&sdk, Outcome::Refused { error, .. } if error == "ReplayedRequest");
        let judge = |wrapping: BytesWrapping| {
            let store = Arc::new(MemoryNonceStore::new().unwrap());
            if replayed {
                let fresh = request.judge(&verifier(&params, wrapping));
                assert!(
                    matches!(fresh, Outcome::Accepted { .. }),
                    "{label}: {fresh:?} without the first"
                );
                request.use_up_nonce(&store);
            }
            request.judge(&verifier_with(store, &params, wrapping))
        };
        let compatible = judge(BytesWrapping::Accept);
        if request.hotkey().is_some_and(|hotkey| hotkey.is_identity())
            && matches!(sdk, Outcome::Accepted { .. })
        {
            let why = AuthError::BadSignature;
            let refused =
                Outcome::Refused { error: why.name().to_owned(), message: why.to_string() };
            assert_eq!(compatible, refused, "{label}: W10");
            continue;
        }
        if verifier(&params, BytesWrapping::Accept).is_err() && compatible != sdk {
            // The SDK notices a window longer than its memory only when a request gets that far; here
            // such a verifier cannot be made.
            assert!(matches!(sdk, Outcome::Refused { .. }), "{label}");
            continue;
        }
        if compatible != sdk {
            wrong.push(format!("{}: {label}: {compatible:?}, the SDK {sdk:?}", vector.label));
        }
        if !replayed {
            let strict = judge(BytesWrapping::Refuse);
            assert!(strict == compatible || label.contains("Bytes"), "{label}: {strict:?}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn expected(result: &Value) -> Outcome {
    let Value::Dict(result) = result else { panic!("result") };
    let field =
        |name: &str| result.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    match result.get("ok") {
        Some(Value::Bool(true)) => Outcome::Accepted {
            hotkey: field("hotkey"),
            nonce: field("nonce_ns").parse().expect("a nonce"),
            crypto_type: match result.get("crypto_type") {
                Some(Value::Int(number)) => number.to_i128().expect("0 or 1"),
                other => panic!("{other:?}"),
            },
        },
        Some(Value::Bool(false)) => {
            Outcome::Refused { error: field("error"), message: field("message") }
        }
        other => panic!("ok is {other:?}"),
    }
}

/// Several requests and one store, as a server sees them.
#[test]
fn each_nonce_is_good_once_in_any_order() {
    let alice = Keypair::from_uri("//Alice").unwrap();
    let bob = Keypair::from_uri("//Bob").unwrap().hotkey();
    let verifier = verifier(&Dict::new(), BytesWrapping::Refuse).unwrap();
    let now = 1_795_219_399_075_121_210;
    let ask = |nonce: u64, body: &[u8]| {
        let hash = btauth::body_sha256(body);
        let headers = btauth::sign(&alice, "POST", "/generate", &hash, Some(&bob), nonce);
        let headers: Vec<_> =
            headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        verifier.verify("POST", "/generate", borrowed(&headers), &hash, &bob.to_string(), now)
    };
    assert!(ask(now, b"body").is_ok());
    assert!(ask(now - 1_000_000_000, b"body").is_ok(), "older, and later");
    assert_eq!(ask(now, b"body"), Err(AuthError::ReplayedRequest));
    assert_eq!(ask(now, b"another body"), Err(AuthError::ReplayedRequest));
    assert!(ask(now + 1, b"body").is_ok());
}
