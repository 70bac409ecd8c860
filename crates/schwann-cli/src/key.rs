//! `schwann key`, and the key that other commands sign with.

use std::{
    io::{self, Read},
    path::PathBuf,
    sync::Arc,
};

use schwann_synapse::{
    keys::{Keypair, PublicKey, Signer, parse_signature_hex, signature_hex},
    ss58::{Hotkey, Ss58},
    wallet::{Keyfile, Overwrite, Protection, Wallet, WalletError},
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
    if let Some((wallet, name)) = settings.hotkey_file() {
        return of_wallet(settings, &wallet, name)
            .map(|key| -> Arc<dyn Signer> { Arc::new(key) })
            .map_err(|error| in_wallet(&error));
    }
    Err(Problem::usage("there is no key to sign with").hint(
        "--key-uri //Alice signs with a key for tests; SCHWANN_KEY_URI keeps a real one out of \
         the list of processes",
    ))
}

fn of_wallet(settings: &KeySettings, wallet: &Wallet, name: &str) -> Result<Keypair, WalletError> {
    let password = settings.password_of(&wallet.hotkey_path(name)?)?;
    wallet.hotkey(name, password.as_ref().map(|password| password.as_str()))?.into_keypair()
}

fn in_wallet(error: &WalletError) -> Problem {
    let problem = Problem::usage(chain(error));
    match error {
        WalletError::PasswordNeeded => problem.hint("SCHWANN_KEY_PASSWORD gives the password"),
        WalletError::Exists { .. } => {
            problem.hint("a key that is lost is lost: remove it yourself")
        }
        WalletError::File { .. } => {
            problem.hint("--wallet NAME, --hotkey NAME and --wallet-path DIR name the file")
        }
        _ => problem,
    }
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
        KeyCommand::New => new(&config.settings.key, json),
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
        KeyCommand::Verify { message, signature, whose: address } => {
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

fn new(settings: &KeySettings, json: bool) -> Result<(), Problem> {
    if settings.uri.is_some() {
        return Err(Problem::usage("a new key is not made of a URI")
            .hint("--wallet NAME --hotkey NAME stores it; without, nothing is stored"));
    }
    let (key, phrase) = Keypair::generate().map_err(|error| Problem::failed(chain(&error)))?;
    let mut stored = None;
    if let Some((wallet, name)) = settings.hotkey_file() {
        stored = Some(store(settings, &wallet, name, &phrase).map_err(|error| in_wallet(&error))?);
    }
    say(match &stored {
        Some(file) => format!(
            "note: stored in {}. These words are the key: whoever has them signs as you.",
            file.display()
        ),
        None => "note: these words are the key. Whoever has them signs as you; nothing was stored."
            .to_owned(),
    });
    match json {
        true => print_line(json!({
            "hotkey": key.hotkey().to_string(),
            "phrase": phrase.as_str(),
            "file": stored,
        })),
        false => print_line(format!("hotkey: {}\nphrase: {}", key.hotkey(), phrase.as_str())),
    }
}

fn store(
    settings: &KeySettings,
    wallet: &Wallet,
    name: &str,
    phrase: &str,
) -> Result<PathBuf, WalletError> {
    let file = wallet.hotkey_path(name)?;
    let password = settings.password_of(&file)?;
    let protection = match &password {
        Some(password) => Protection::Password(password),
        // As the Python wallet does with hotkeys: servers sign with nobody there.
        None => Protection::Plain,
    };
    wallet.write_hotkey(name, &Keyfile::from_mnemonic(phrase)?, protection, Overwrite::Refuse)?;
    Ok(file)
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
