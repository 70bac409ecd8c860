//! `signatures.json`: what bittensor-wallet verifies, by SDK 10.5.0 (§6.2, §6.3).
//!
//! `accept` is what the SDK accepts. Strict verification differs in two things, each deliberate: keys for
//! which anybody can sign are refused always (W10), and `<Bytes>` wrapping unless it was asked for.

use schwann_synapse::keys::{
    BytesWrapping, KeyCache, KeyError, Keypair, Scheme, SignatureError, Signer, VerifyError,
    parse_signature_hex, wallet_message,
};
use schwann_synapse::python::Value;
use schwann_synapse::ss58::{Hotkey, Ss58};

use crate::set::{Set, elsewhere};

/// How one vector fared, in terms of the SDK's result.
#[derive(Debug, PartialEq)]
enum Outcome {
    Accepted,
    Mismatch,
    Error(String),
}

fn verify(ss58: &str, message: &[u8], signature: &str, wrapping: BytesWrapping) -> Outcome {
    let signature = match Ss58::parse(ss58)
        .map_err(|why| why.to_string())
        .and_then(|_| parse_signature_hex(signature).map_err(|why: SignatureError| why.to_string()))
    {
        Ok(signature) => signature,
        Err(why) => return Outcome::Error(why),
    };
    let keys = KeyCache::default();
    let judged = keys.verify(Scheme::Sr25519, ss58, message, &signature, wrapping);
    // Of a key that is served often, signatures are verified in another way.
    if let Ok(key) = keys.resolve(Scheme::Sr25519, ss58) {
        (0..KeyCache::OFTEN).for_each(|_| keys.served(&key));
        let regular = key.verify_wrapped(message, &signature, wrapping);
        assert_eq!(regular, judged.is_ok(), "{ss58}: a regular is judged otherwise");
    }
    match judged {
        Ok(key) => {
            assert_eq!(key.hotkey(), ss58.parse::<Hotkey>().unwrap());
            Outcome::Accepted
        }
        // To the SDK an address that is no key is one whose signatures never match.
        Err(VerifyError::Mismatch | VerifyError::Key(KeyError::NotAPoint | KeyError::Identity)) => {
            Outcome::Mismatch
        }
        Err(VerifyError::Key(why)) => Outcome::Error(why.to_string()),
    }
}

#[test]
fn signatures_are_judged_as_by_the_sdk_but_for_what_is_refused_on_purpose() {
    Set::all("signatures")
        .iter()
        .for_each(check_signatures_are_judged_as_by_the_sdk_but_for_what_is_refused_on_purpose);
}

fn check_signatures_are_judged_as_by_the_sdk_but_for_what_is_refused_on_purpose(set: &Set) {
    for fact in ["library", "signing_context"] {
        set.part(fact);
    }
    let (mut wrapped_only, mut identities) = (0, 0);
    let mut wrong = Vec::new();
    for vector in set.list("vectors") {
        let (label, text) = (vector.text("label"), vector.text("message"));
        if vector.opt_text("sign_error").is_some() {
            // The wallet takes text that begins with 0x for hexadecimal, and signs nothing else of it.
            assert!(wallet_message(&text).is_err(), "{label}");
            continue;
        }
        let (ss58, signature) = (vector.text("ss58"), vector.text("signature"));
        let accept = vector.flag("accept");
        let sdk = match (vector.get("sdk_valid"), vector.opt_text("sdk_error")) {
            (Value::Bool(true), None) => Outcome::Accepted,
            (Value::Bool(false), None) => Outcome::Mismatch,
            (Value::None, Some(error)) => {
                Outcome::Error(error.split_once(": ").expect("class: text").1.to_owned())
            }
            other => panic!("{}: {other:?}", vector.label),
        };
        assert_eq!(accept, sdk == Outcome::Accepted, "{label}");
        let message = wallet_message(&text).unwrap();
        let compatible = verify(&ss58, &message, &signature, BytesWrapping::Accept);
        if ss58.parse::<Hotkey>().is_ok_and(|hotkey| hotkey.is_identity()) {
            assert_ne!(compatible, Outcome::Accepted, "{label}: W10");
            identities += 1;
            continue;
        }
        if compatible != sdk {
            wrong.push(format!("{}: {label}: {compatible:?}, the SDK {sdk:?}", vector.label));
        }
        let strict = verify(&ss58, &message, &signature, BytesWrapping::Refuse);
        if strict != compatible {
            assert_eq!(strict, Outcome::Mismatch, "{label}");
            assert!(label.contains("<Bytes>"), "{label}: only the wrapping may make a difference");
            wrapped_only += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        (wrapped_only > 0 && identities > 0) || elsewhere(),
        "the set lost its two interesting cases"
    );

    let Value::Dict(uris) = set.part("uris") else { panic!("uris") };
    for (uri, ss58) in uris.iter() {
        assert_eq!(
            Some(Keypair::from_uri(uri).unwrap().hotkey().to_string().as_str()),
            ss58.as_str(),
            "{uri}"
        );
    }
    let Value::Dict(keys) = set.part("public_keys") else { panic!("public_keys") };
    for (ss58, key) in keys.iter() {
        let hotkey: Hotkey = ss58.parse().unwrap();
        assert_eq!(Some(hex::encode(hotkey.as_bytes()).as_str()), key.as_str(), "{ss58}");
    }
}
