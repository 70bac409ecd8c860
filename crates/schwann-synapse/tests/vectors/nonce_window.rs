//! `nonce_window.json`: the reference's freshness rule with a frozen clock, by SDK 10.5.0 (§8).

use schwann_synapse::nonce::reference::{self, Window};
use schwann_synapse::nonce::{NonceError, ReferenceNonces};
use schwann_synapse::python::{Value, float_repr};

use crate::set::Set;

#[test]
fn the_window_its_messages_and_its_memory_are_the_references() {
    Set::all("nonce_window")
        .iter()
        .for_each(check_the_window_its_messages_and_its_memory_are_the_references);
}

fn check_the_window_its_messages_and_its_memory_are_the_references(set: &Set) {
    for vector in set.list("window") {
        let now = vector.integer("now_ns").unwrap();
        let (kind, text) = match Window::at(now, vector.float("timeout")) {
            Window::Int(end) => ("int", end.to_string()),
            Window::Float(end) => ("float", float_repr(end)),
        };
        assert_eq!(
            (kind, text.as_str()),
            (vector.text("type").as_str(), vector.text("window").as_str()),
            "{}",
            vector.label
        );
    }
    for vector in set.list("diff_seconds") {
        let now = vector.integer("now").unwrap();
        let (age, allowed) =
            reference::diff_seconds(now, vector.float("timeout"), vector.integer("nonce").unwrap());
        let pair = |first: String, second: String| {
            Value::List(vec![Value::Str(first), Value::Str(second)])
        };
        assert_eq!(
            pair(float_repr(age), float_repr(allowed)),
            vector.get("diff_allowed"),
            "{}",
            vector.label
        );
        let texts = pair(reference::two_decimals(age), reference::two_decimals(allowed));
        assert_eq!(texts, vector.get("fmt"), "{}", vector.label);
    }
    for vector in set.list("verify") {
        let now = u64::try_from(vector.integer("now_ns").unwrap()).unwrap();
        let nonce = vector.integer("nonce");
        let nonces = ReferenceNonces::default();
        if let Some(stored) = vector.integer("stored_nonce") {
            nonces.store("hotkey", Some("uuid"), stored).unwrap();
        }
        let outcome = nonce.ok_or(NonceError::Missing).and_then(|nonce| {
            let (timeout, version) = (vector.float("timeout"), vector.integer("version"));
            nonces.check("hotkey", Some("uuid"), nonce, timeout, version, now)?;
            nonces.store("hotkey", Some("uuid"), nonce)
        });
        // Looked at either way, so that a message beside an acceptance would not go unnoticed.
        let message = vector.opt_text("message");
        vector.float("timeout");
        vector.integer("version");
        assert_eq!(outcome.is_ok(), vector.flag("accept"), "{}", vector.label);
        assert_eq!(outcome.err().map(|why| why.to_string()), message, "{}", vector.label);
        assert_eq!(
            nonces.newest("hotkey", Some("uuid")),
            vector.integer("stored_after"),
            "{}",
            vector.label
        );
    }
}
