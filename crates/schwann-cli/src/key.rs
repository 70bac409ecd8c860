//! `schwann key`, and the key that other commands sign with.

use std::{
    io::{self, Read},
    sync::Arc,
};

use schwann_synapse::{
    keys::{Keypair, PublicKey, Signer, parse_signature_hex, signature_hex},
    ss58::{Hotkey, Ss58},
};
use serde_json::json;

use crate::{
    args::KeyCommand,
    config::{Config, KeySettings},
    problem::{Problem, chain, print_line, say},
};

/// Largest message that is signed, in bytes.
const MAX_MESSAGE: u64 = 64 << 20;

/// The key that is set.
pub(crate) fn load(settings: &KeySettings) -> Result<Arc<dyn Signer>, Problem> {
    if let Some(uri) = &settings.uri {
        return Ok(Arc::new(of_uri(uri)?));
    }
    if settings.wallet.is_some() {
        return Err(Problem::usage("wallet files cannot be read yet")
            .hint("--key-uri gives a key as a secret URI"));
    }
    Err(Problem::usage("there is no key to sign with").hint(
        "--key-uri //Alice signs with a key for tests; SCHWANN_KEY_URI keeps a real one out of \
         the list of processes",
    ))
}

/// The key of a secret URI, which is never repeated in a message.
pub(crate) fn of_uri(uri: &str) -> Result<Keypair, Problem> {
    let wrong = |why: &str| {
        Problem::usage(format!("the key URI cannot be used: {why}"))
            .hint("write one like `//Alice`, or the 12 words of a key in quotes")
    };
    // It would be the root of the keys for tests, which nobody means by nothing.
    if uri.trim().is_empty() {
        return Err(wrong("it is empty"));
    }
    Keypair::from_uri(uri).map_err(|error| wrong(&chain(&error)))
}

/// Reads an address, and says what is wrong with it.
pub(crate) fn hotkey(text: &str) -> Result<Hotkey, Problem> {
    Ss58::parse(text).map(|address| address.hotkey()).map_err(|error| {
        Problem::usage(format!("`{text}` is not a hotkey: {}", chain(&error))).hint(
            "write its ss58 address, such as 5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY",
        )
    })
}

pub(crate) fn run(command: KeyCommand, config: &Config, json: bool) -> Result<(), Problem> {
    match command {
        KeyCommand::New => new(json),
        KeyCommand::Show => show(&*load(&config.settings.key)?, json),
        KeyCommand::Sign { message } => {
            let key = load(&config.settings.key)?;
            let signature = signature_hex(&key.sign(&bytes(&message)?));
            match json {
                true => print_line(json!({
                    "hotkey": key.hotkey().to_string(),
                    "scheme": key.scheme().name(),
                    "signature": signature,
                })),
                false => print_line(signature),
            }
        }
        KeyCommand::Verify { message, signature, hotkey: address } => {
            let hotkey = hotkey(&address)?;
            let signature = parse_signature_hex(&signature).map_err(|error| {
                Problem::usage(format!("the signature cannot be read: {error}"))
                    .hint("write it as 0x and 128 hexadecimal digits")
            })?;
            let key = PublicKey::sr25519(&hotkey)
                .map_err(|error| Problem::usage(format!("`{address}`: {}", chain(&error))))?;
            let valid = key.verify(&bytes(&message)?, &signature);
            match json {
                true => print_line(json!({ "valid": valid }))?,
                false => print_line(if valid { "valid" } else { "not valid" })?,
            }
            match valid {
                true => Ok(()),
                false => Err(Problem::failed(format!("{address} did not sign this message"))),
            }
        }
    }
}

fn new(json: bool) -> Result<(), Problem> {
    let (key, phrase) = Keypair::generate().map_err(|error| Problem::failed(chain(&error)))?;
    say("note: these words are the key. Whoever has them signs as you; nothing was stored.");
    match json {
        true => print_line(json!({
            "hotkey": key.hotkey().to_string(),
            "phrase": phrase.as_str(),
        })),
        false => print_line(format!("hotkey: {}\nphrase: {}", key.hotkey(), phrase.as_str())),
    }
}

fn show(key: &dyn Signer, json: bool) -> Result<(), Problem> {
    let hotkey = key.hotkey();
    let public: String = hotkey.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    match json {
        true => print_line(json!({
            "hotkey": hotkey.to_string(),
            "public_key": format!("0x{public}"),
            "scheme": key.scheme().name(),
        })),
        false => print_line(format!(
            "hotkey: {hotkey}\npublic key: 0x{public}\nscheme: {}",
            key.scheme().name()
        )),
    }
}

/// The message as given, or what stdin holds if it is `-`.
fn bytes(message: &str) -> Result<Vec<u8>, Problem> {
    if message != "-" {
        return Ok(message.as_bytes().to_vec());
    }
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .take(MAX_MESSAGE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Problem::failed(format!("cannot read stdin: {error}")))?;
    match bytes.len() as u64 > MAX_MESSAGE {
        true => Err(Problem::usage("the message on stdin is larger than 64MiB")),
        false => Ok(bytes),
    }
}
