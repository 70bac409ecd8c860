//! `schwann key`.

use serde_json::Value;

use crate::{ALICE, BOB, schwann, schwann_in, schwann_with};

#[test]
fn a_key_is_shown() {
    let out = schwann(&["key", "show", "--key-uri", "//Alice"]).good();
    assert!(out.starts_with(&format!("hotkey: {ALICE}\npublic key: 0xd43593c7")), "{out}");
    let out = schwann(&["--json", "key", "show", "--key-uri", "//Alice"]).good();
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&shown["hotkey"], &shown["scheme"]), (&ALICE.into(), &"sr25519".into()));
}

#[test]
fn a_new_key_is_the_key_of_its_words() {
    let said = schwann(&["key", "new", "--json"]);
    assert!(said.err.starts_with("note: these words are the key"), "{said:?}");
    let new: Value = serde_json::from_str(&said.out).unwrap();
    let phrase = new["phrase"].as_str().unwrap();
    assert_eq!(phrase.split(' ').count(), 12);
    let shown = schwann(&["key", "show", "--json", "--key-uri", phrase]).good();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["hotkey"], new["hotkey"]);
}

#[test]
fn what_is_signed_is_verified() {
    for (message, stdin) in [("hello", ""), ("", ""), ("-", "from stdin\n")] {
        let sign = ["key", "sign", message, "--key-uri", "//Alice"];
        let signature = schwann_with(&sign, stdin).good();
        let signature = signature.trim();
        assert!(signature.starts_with("0x") && signature.len() == 130, "{signature}");
        let verify =
            |message, whose| schwann_with(&["key", "verify", message, signature, whose], stdin);
        assert_eq!(verify(message, ALICE).good(), "valid\n");
        for said in [verify("other", ALICE), verify(message, BOB)] {
            assert_eq!((said.code, said.out.as_str()), (1, "not valid\n"), "{said:?}");
            assert!(said.err.contains("did not sign this message"), "{said:?}");
        }
    }
    let said = schwann(&["key", "verify", "hello", "0x12", ALICE]);
    said.bad(2, "hint: write it as 0x and 128 hexadecimal digits");
}

#[test]
fn a_wallet_keeps_a_key() {
    let folder = tempfile::tempdir().unwrap();
    let wallet = ["--wallet", "w", "--hotkey", "h", "--wallet-path", "wallets", "--json"];
    let key = |verb: &str, variables: &[(&str, &str)]| {
        schwann_in(folder.path(), &[&["key", verb][..], &wallet].concat(), variables)
    };
    let hotkey = |said: &crate::Said| {
        let shown: Value = serde_json::from_str(&said.out).unwrap_or_else(|_| panic!("{said:?}"));
        shown["hotkey"].as_str().unwrap().to_owned()
    };
    let new = key("new", &[]);
    assert!(new.err.starts_with("note: stored in wallets/w/hotkeys/h."), "{new:?}");
    assert_eq!(hotkey(&key("show", &[])), hotkey(&new));
    key("new", &[]).bad(2, "exists already");
    // With a password it is not readable without.
    std::fs::remove_file(folder.path().join("wallets/w/hotkeys/h")).unwrap();
    let password = [("SCHWANN_KEY_PASSWORD", "open sesame")];
    let new = key("new", &password);
    assert_eq!(hotkey(&key("show", &password)), hotkey(&new));
    key("show", &[]).bad(2, "hint: SCHWANN_KEY_PASSWORD gives the password");
}

#[test]
fn a_key_comes_from_any_layer_and_later_wins() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("schwann.toml"), "[key]\nwallet = \"w\"\nhotkey = \"h\"")
        .unwrap();
    let show = ["key", "show"];
    schwann_in(folder.path(), &show, &[]).bad(2, "wallet");
    // A URI hides a lower layer's wallet.
    let out = schwann_in(folder.path(), &show, &[("SCHWANN_KEY_URI", "//Bob")]).good();
    assert!(out.contains(BOB), "{out}");
    let flags = ["key", "show", "--key-uri", "//Alice"];
    let out = schwann_in(folder.path(), &flags, &[("SCHWANN_KEY_URI", "//Bob")]).good();
    assert!(out.contains(ALICE), "{out}");
}
