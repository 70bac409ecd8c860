//! The real Python wallet against this crate: each reads what the other wrote, derives the same keys and
//! verifies the other's signatures.
//!
//! `SCHWANN_PEER_WALLET_4_1` and `SCHWANN_PEER_WALLET_4_0` name Python interpreters that have
//! `interop/requirements-wallet-*.txt`; `cargo xtask test` prepares them.
#![cfg(feature = "peers")]
#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use schwann_synapse::keys::{
    DEV_PHRASE, KeyError, Keypair, PublicKey, Scheme, Signer, parse_signature_hex, signature_hex,
};
use schwann_synapse::ss58::Hotkey;
use schwann_synapse::wallet::{
    Encryption, Keyfile, Overwrite, Protection, Wallet, WalletError, hide_password,
    password_variable, read_keyfile, reveal_password, write_keyfile,
};
use serde_json::{Value, json};

const WALLET_4_1: &str = "SCHWANN_PEER_WALLET_4_1";
const WALLET_4_0: &str = "SCHWANN_PEER_WALLET_4_0";
const MESSAGE: &[u8] = b"1795219399075121210.a.b.c.d";

/// One Python process with one version of the wallet.
struct Peer {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    #[expect(clippy::disallowed_methods, reason = "a test finds and starts its peer")]
    fn start(variable: &str) -> Peer {
        let python = std::env::var(variable).unwrap_or_else(|_| {
            panic!(
                "{variable} is not set: it names a Python with the packages of interop/requirements-wallet-*.txt; \
                 `cargo xtask test` prepares one"
            )
        });
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../interop/wallet_peer.py");
        let mut child = Command::new(&python)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|why| panic!("{variable}={python}: {why}"));
        let ask = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Peer { child, ask, answers }
    }

    /// The answer, or the wallet's error.
    fn try_ask(&mut self, request: &Value) -> Result<Value, String> {
        writeln!(self.ask, "{request}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let answer: Value =
            serde_json::from_str(&line).unwrap_or_else(|why| panic!("{request}: {line:?}: {why}"));
        match answer.get("error").and_then(Value::as_str) {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer),
        }
    }

    #[track_caller]
    fn ask(&mut self, request: &Value) -> Value {
        self.try_ask(request).unwrap_or_else(|why| panic!("{request}: {why}"))
    }

    #[track_caller]
    fn address(&mut self, kind: &str, value: &str) -> String {
        text(&self.ask(&json!({"op": "derive", "kind": kind, "value": value})), "address")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn text(answer: &Value, name: &str) -> String {
    answer[name].as_str().unwrap_or_else(|| panic!("no {name} in {answer}")).to_owned()
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % sides
    }

    fn pick<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[self.roll(from.len())]
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.roll(256) as u8)
    }
}

fn random_uri(dice: &mut Dice) -> String {
    let mut uri = match dice.roll(4) {
        0 => String::new(),
        1 => format!("0x{}", hex::encode(dice.bytes::<32>())),
        2 => DEV_PHRASE.to_owned(),
        _ => Keypair::generate().unwrap().1.to_string(),
    };
    let names = [
        "Alice",
        "0",
        "7",
        "+5",
        "18446744073709551615",
        "18446744073709551616",
        "-1",
        "a b",
        "é",
        "x?y",
        "",
    ];
    for _ in 0..dice.roll(4) {
        uri.push_str(if dice.roll(2) == 0 { "/" } else { "//" });
        match dice.roll(4) {
            0 => uri.push_str(&"long".repeat(1 + dice.roll(40))),
            _ => uri.push_str(dice.pick::<&str>(&names)),
        }
    }
    match dice.roll(4) {
        0 => uri.push_str("///"),
        1 => uri.push_str("///pass word/é//x"),
        _ => {}
    }
    uri
}

#[test]
fn random_secrets_make_the_same_keys() {
    let mut peer = Peer::start(WALLET_4_1);
    let mut dice = Dice(7);
    let mut refused = 0;
    for _ in 0..400 {
        let uri = random_uri(&mut dice);
        let theirs = peer.try_ask(&json!({"op": "derive", "kind": "uri", "value": uri}));
        match (Keypair::from_uri(&uri), theirs) {
            (Ok(ours), Ok(theirs)) => {
                assert_eq!(ours.hotkey().to_string(), text(&theirs, "address"), "{uri:?}")
            }
            (Err(KeyError::Uri | KeyError::Mnemonic | KeyError::Seed), Err(_)) => refused += 1,
            (ours, theirs) => panic!("{uri:?}: {ours:?}, the wallet {theirs:?}"),
        }
    }
    assert!((1..200).contains(&refused), "{refused} refused");
    for words in [12, 15, 18, 21, 24] {
        for _ in 0..10 {
            let phrase = text(&peer.ask(&json!({"op": "mnemonic", "words": words})), "phrase");
            let ours = Keypair::from_mnemonic(&phrase, "").unwrap();
            assert_eq!(ours.hotkey().to_string(), peer.address("mnemonic", &phrase));
        }
        let (_, phrase) = Keypair::generate().unwrap();
        let ours = Keypair::from_mnemonic(&phrase, "").unwrap();
        assert_eq!(ours.hotkey().to_string(), peer.address("mnemonic", &phrase));
    }
    for _ in 0..30 {
        let seed = dice.bytes::<32>();
        let ours = Keypair::from_seed(seed).unwrap();
        assert_eq!(
            ours.hotkey().to_string(),
            peer.address("seed", &format!("0x{}", hex::encode(seed)))
        );
        let private = format!("0x{}", hex::encode(ours.private_bytes().as_slice()));
        assert_eq!(ours.hotkey().to_string(), peer.address("private", &private));
    }
}

#[test]
fn each_verifies_what_the_other_signed() {
    let mut peer = Peer::start(WALLET_4_1);
    let mut dice = Dice(8);
    for round in 0..60 {
        let scheme = if round % 3 == 0 { Scheme::Ed25519 } else { Scheme::Sr25519 };
        let seed = dice.bytes::<32>();
        let ours = Keypair::from_seed_with(scheme, seed).unwrap();
        let message: Vec<u8> = (0..dice.roll(300)).map(|_| dice.roll(256) as u8).collect();
        let mut request = json!({
            "op": "verify", "kind": "public", "value": ours.hotkey().to_string(), "message": hex::encode(&message),
            "signature": signature_hex(&ours.sign(&message)), "ed25519": scheme == Scheme::Ed25519,
        });
        assert_eq!(peer.ask(&request)["valid"], true, "{scheme}");
        request["op"] = "sign".into();
        request["kind"] = "seed".into();
        request["value"] = format!("0x{}", hex::encode(seed)).into();
        let theirs = parse_signature_hex(&text(&peer.ask(&request), "signature")).unwrap();
        let key = PublicKey::of(scheme, &ours.hotkey()).unwrap();
        assert!(key.verify(&message, &theirs), "{scheme}");
        assert!(!key.verify(b"other", &theirs), "{scheme}");
    }
}

#[track_caller]
fn signs_for_its_address(peer: &mut Peer, file: &Keyfile) {
    let pair = file.keypair().expect("a secret");
    let request = json!({
        "op": "verify", "kind": "public", "value": file.hotkey().to_string(), "message": hex::encode(MESSAGE),
        "signature": signature_hex(&pair.sign(MESSAGE)), "ed25519": file.scheme() == Scheme::Ed25519,
    });
    assert_eq!(peer.ask(&request)["valid"], true);
}

fn rust_reads_what_python_writes(variable: &str, knows_ed25519: bool) {
    let mut peer = Peer::start(variable);
    let folder = tempfile::tempdir().unwrap();
    let alice = Keypair::from_uri("//Alice").unwrap();
    let private = format!("0x{}", hex::encode(alice.private_bytes().as_slice()));
    // Seeds whose bytes are text are written by the wallet as that text.
    let textual = format!("0x{}", "11".repeat(32));
    let seed = format!("0x{}", "ab".repeat(32));
    let kinds = [
        ("uri", "//Alice"),
        ("uri", "//Alice/soft"),
        ("mnemonic", DEV_PHRASE),
        ("seed", &seed),
        ("seed", &textual),
        ("private", &private),
        ("public", "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"),
    ];
    let mut number = 0;
    for ed25519 in [false, true] {
        for (kind, value) in kinds {
            // Ed25519 has no soft junctions, and these public and private values are of sr25519.
            let same_in_both = kind != "public" && kind != "private" && value != "//Alice/soft";
            if ed25519 && !(knows_ed25519 && same_in_both) {
                continue;
            }
            // One encrypted file of each scheme: each takes seconds.
            let encrypted = (kind == "mnemonic").then_some(Some("pässword"));
            for password in [None].into_iter().chain(encrypted) {
                number += 1;
                let path = folder.path().join(format!("key{number}"));
                let key = json!({"kind": kind, "value": value, "ed25519": ed25519});
                let mut request = key.clone();
                request["op"] = "write".into();
                request["path"] = path.to_str().unwrap().into();
                request["password"] = password.into();
                peer.ask(&request);
                let mut request = key;
                request["op"] = "derive".into();
                let address = text(&peer.ask(&request), "address");
                let file =
                    read_keyfile(&path, password).unwrap_or_else(|why| panic!("{request}: {why}"));
                assert_eq!(file.hotkey().to_string(), address, "{request}");
                assert_eq!(file.keypair().is_none(), kind == "public");
                if file.keypair().is_some() {
                    signs_for_its_address(&mut peer, &file);
                }
                assert_eq!(file.phrase().is_some(), kind == "mnemonic");
                if password.is_some() {
                    assert!(matches!(read_keyfile(&path, None), Err(WalletError::PasswordNeeded)));
                    assert!(matches!(
                        read_keyfile(&path, Some("password")),
                        Err(WalletError::WrongPassword)
                    ));
                }
            }
        }
    }
}

#[test]
fn rust_reads_what_wallet_4_1_writes() {
    rust_reads_what_python_writes(WALLET_4_1, true);
}

#[test]
fn rust_reads_what_wallet_4_0_writes() {
    rust_reads_what_python_writes(WALLET_4_0, false);
}

fn python_reads_what_rust_writes(variable: &str, knows_ed25519: bool) {
    let mut peer = Peer::start(variable);
    let folder = tempfile::tempdir().unwrap();
    let wallet = Wallet::at(folder.path(), "rust").unwrap();
    let keys = [
        (Keyfile::new(Keypair::from_uri("//Alice").unwrap()), None),
        (Keyfile::new(Keypair::from_uri("//Alice/soft").unwrap()), None),
        (Keyfile::new(Keypair::from_seed([0xab; 32]).unwrap()), None),
        (Keyfile::new(Keypair::from_seed([0x11; 32]).unwrap()), None),
        (Keyfile::from_mnemonic(DEV_PHRASE).unwrap(), None),
        (Keyfile::from_mnemonic(&Keypair::generate().unwrap().1).unwrap(), Some("pässword")),
        (Keyfile::new(Keypair::from_uri_with(Scheme::Ed25519, "//Alice").unwrap()), None),
        (Keyfile::from_mnemonic_with(Scheme::Ed25519, DEV_PHRASE).unwrap(), None),
    ];
    for (at, (key, password)) in keys.iter().enumerate() {
        let name = format!("hot{at}");
        let protection = password.map_or(Protection::Plain, Protection::Password);
        wallet.write_hotkey(&name, key, protection, Overwrite::Refuse).unwrap();
        let mut request = json!({
            "op": "read", "path": wallet.hotkey_path(&name).unwrap(), "password": password,
            "message": hex::encode(MESSAGE),
        });
        if key.scheme() == Scheme::Ed25519 && !knows_ed25519 {
            assert!(
                peer.try_ask(&request).is_err(),
                "a wallet that does not know the scheme must not take it for another"
            );
            continue;
        }
        let answer = peer.ask(&request);
        let address = text(&answer, "address");
        assert_eq!(address, key.hotkey().to_string(), "key {at}");
        let signature = parse_signature_hex(&text(&answer, "signature")).unwrap();
        let public = PublicKey::of(key.scheme(), &address.parse::<Hotkey>().unwrap()).unwrap();
        assert!(public.verify(MESSAGE, &signature), "key {at}");
        if password.is_some() {
            request["password"] = "wrong".into();
            assert!(peer.try_ask(&request).is_err());
        }
        let request = json!({"op": "read", "path": wallet.hotkeypub_path(&name).unwrap()});
        assert_eq!(text(&peer.ask(&request), "address"), key.hotkey().to_string());
    }
}

#[test]
fn wallet_4_1_reads_what_rust_writes() {
    python_reads_what_rust_writes(WALLET_4_1, true);
}

#[test]
fn wallet_4_0_reads_what_rust_writes() {
    python_reads_what_rust_writes(WALLET_4_0, false);
}

#[test]
fn files_of_early_wallets_are_read() {
    let mut peer = Peer::start(WALLET_4_1);
    let folder = tempfile::tempdir().unwrap();
    let key = Keyfile::from_mnemonic(DEV_PHRASE).unwrap();
    for (op, encryption) in [("ansible", Encryption::Ansible), ("fernet", Encryption::Fernet)] {
        let path = folder.path().join(op);
        let password = "hunter2 é";
        peer.ask(
            &json!({"op": op, "path": path, "password": password, "text": key.to_plain().as_str()}),
        );
        assert_eq!(Encryption::of(&std::fs::read(&path).unwrap()), encryption);
        let file = read_keyfile(&path, Some(password)).unwrap();
        assert_eq!(file.hotkey(), key.hotkey(), "{op}");
        assert_eq!(file.phrase(), Some(DEV_PHRASE));
        signs_for_its_address(&mut peer, &file);
        if op == "ansible" {
            assert!(matches!(read_keyfile(&path, Some("wrong")), Err(WalletError::WrongPassword)));
            // What we read and wrote again is no longer in the old form, and Python reads it.
            write_keyfile(&path, &file, Protection::Password(password), Overwrite::Replace)
                .unwrap();
            let answer = peer.ask(&json!({"op": "read", "path": path, "password": password}));
            assert_eq!(text(&answer, "address"), key.hotkey().to_string());
        }
    }
}

#[test]
fn passwords_are_hidden_alike() {
    let mut peer = Peer::start(WALLET_4_1);
    for path in ["/tmp/a b.c-d/wallets/x/coldkey", "relative/./key", "/home/ü/k"] {
        let answer = peer.ask(&json!({"op": "hide", "path": path, "password": "hunter2 é"}));
        let (name, value) = (text(&answer, "name"), text(&answer, "value"));
        assert_eq!(password_variable(path), name);
        assert_eq!(reveal_password(&name, &value).unwrap().as_str(), "hunter2 é", "{path}");
        assert_eq!(hide_password(&name, "hunter2 é"), value, "{path}");
    }
}
