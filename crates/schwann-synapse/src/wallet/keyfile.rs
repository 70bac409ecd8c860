//! The content of one keyfile.

use std::fmt;
use std::str::FromStr;

use zeroize::{Zeroize, Zeroizing};

use super::WalletError;
use super::encryption::{Encryption, encrypt_nacl};
use crate::keys::{KeyError, Keypair, Scheme, Signer};
use crate::python::{Dict, Value};
use crate::ss58::Hotkey;

/// Whose key a file holds, and the key itself unless it is a public file.
///
/// `Debug` shows the address only.
#[derive(Clone)]
pub struct Keyfile {
    hotkey: Hotkey,
    scheme: Scheme,
    pair: Option<Keypair>,
    phrase: Option<Zeroizing<String>>,
}

impl Keyfile {
    /// The file of a key without its words.
    pub fn new(pair: Keypair) -> Keyfile {
        Keyfile { hotkey: pair.hotkey(), scheme: pair.scheme(), pair: Some(pair), phrase: None }
    }

    /// The file of the sr25519 key of 12 to 24 words, words included. (There is no place in a file for
    /// a password of the words themselves.)
    ///
    /// # Errors
    ///
    /// As [`Keypair::from_mnemonic`].
    pub fn from_mnemonic(phrase: &str) -> Result<Keyfile, KeyError> {
        Keyfile::from_mnemonic_with(Scheme::Sr25519, phrase)
    }

    /// As [`Keyfile::from_mnemonic`], for either scheme.
    ///
    /// # Errors
    ///
    /// As [`Keypair::from_mnemonic`].
    pub fn from_mnemonic_with(scheme: Scheme, phrase: &str) -> Result<Keyfile, KeyError> {
        let mut file = Keyfile::new(Keypair::from_mnemonic_with(scheme, phrase, "")?);
        file.phrase = Some(Zeroizing::new(phrase.split_whitespace().collect::<Vec<_>>().join(" ")));
        Ok(file)
    }

    /// The file of a public key: `coldkeypub.txt` and the like.
    pub fn public(hotkey: Hotkey, scheme: Scheme) -> Keyfile {
        Keyfile { hotkey, scheme, pair: None, phrase: None }
    }

    /// The same without the secret.
    #[must_use]
    pub fn to_public(&self) -> Keyfile {
        Keyfile::public(self.hotkey, self.scheme)
    }

    /// Reads the content of a keyfile, encrypted or not. Blocks: see the module.
    ///
    /// The secret is taken from the words, the seed or the private key, the first that makes the address
    /// the file names. The Python wallet does not compare, and signs as somebody else.
    ///
    /// # Errors
    ///
    /// Tells a missing password from a wrong one, damage, and a file that contradicts itself. Never
    /// contains anything of the content but addresses.
    pub fn parse(bytes: &[u8], password: Option<&str>) -> Result<Keyfile, WalletError> {
        match Encryption::of(bytes).decrypt(bytes, password)? {
            Some(text) => Keyfile::parse_plain(&text),
            None => Keyfile::parse_plain(bytes),
        }
    }

    fn parse_plain(bytes: &[u8]) -> Result<Keyfile, WalletError> {
        let Ok(Value::Dict(mut fields)) = Value::parse_json(bytes) else {
            return Err(WalletError::NotAKeyfile);
        };
        let read = Keyfile::from_fields(&fields);
        wipe(&mut fields);
        read
    }

    fn from_fields(fields: &Dict) -> Result<Keyfile, WalletError> {
        let text =
            |name: &str| fields.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let scheme = match fields.get("cryptoType") {
            Some(Value::Int(number)) => match number.to_i64() {
                Some(0) => Scheme::Ed25519,
                Some(1) => Scheme::Sr25519,
                _ => return Err(WalletError::UnknownScheme),
            },
            // Text and null are no types to the Python wallet either; the address is compared anyway.
            _ => Scheme::Sr25519,
        };
        let mut named = text("ss58Address")
            .map(|address| Hotkey::from_str(address).map_err(|why| WalletError::Key(why.into())))
            .transpose()?;
        for name in ["publicKey", "accountId"] {
            let Some(key) = text(name).and_then(bytes_of::<32>) else { continue };
            let hotkey = Hotkey::from_bytes(*key);
            match named {
                Some(named) if named != hotkey => {
                    return Err(WalletError::WrongAddress { named, found: hotkey });
                }
                _ => named = Some(hotkey),
            }
        }

        let mut found = None;
        let mut consider = |file: Option<Keyfile>| match (file, named) {
            (Some(file), Some(named)) if file.hotkey != named => {
                found.get_or_insert(Err(WalletError::WrongAddress { named, found: file.hotkey }));
                false
            }
            (Some(file), _) => {
                found = Some(Ok(file));
                true
            }
            (None, _) => false,
        };
        let secrets = ["secretPhrase", "secretSeed", "privateKey"].map(text);
        let [phrase, seed, private] = secrets;
        let done = consider(phrase.and_then(|phrase| Keyfile::from_mnemonic_with(scheme, phrase).ok()))
            // Wallet 4.1 writes seeds whose bytes are UTF-8 as those bytes: no seed to anybody.
            || consider(seed.and_then(bytes_of::<32>).and_then(|seed| Keyfile::of_seed(scheme, &seed)))
            || consider(private.and_then(|private| Keyfile::of_private(scheme, private)));
        match (found, named) {
            (Some(Ok(file)), _) if done => Ok(file),
            (Some(Err(why)), _) => Err(why),
            (_, _) if secrets.iter().any(Option::is_some) => Err(WalletError::BadSecret),
            (_, Some(hotkey)) => Ok(Keyfile::public(hotkey, scheme)),
            (_, None) => Err(WalletError::NotAKeyfile),
        }
    }

    fn of_seed(scheme: Scheme, seed: &[u8; 32]) -> Option<Keyfile> {
        Keypair::from_seed_with(scheme, *seed).ok().map(Keyfile::new)
    }

    fn of_private(scheme: Scheme, private: &str) -> Option<Keyfile> {
        match scheme {
            Scheme::Sr25519 => {
                Keypair::from_private(&*bytes_of::<64>(private)?).ok().map(Keyfile::new)
            }
            Scheme::Ed25519 => Keyfile::of_seed(scheme, &*bytes_of::<32>(private)?),
        }
    }

    /// Whose key it is.
    pub fn hotkey(&self) -> Hotkey {
        self.hotkey
    }

    /// The scheme of the key.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The key that signs; none in a public file.
    pub fn keypair(&self) -> Option<&Keypair> {
        self.pair.as_ref()
    }

    /// Takes the key that signs.
    ///
    /// # Errors
    ///
    /// Fails for a public file.
    pub fn into_keypair(self) -> Result<Keypair, WalletError> {
        self.pair.ok_or(WalletError::PublicOnly)
    }

    /// The words, if the file has them.
    pub fn phrase(&self) -> Option<&str> {
        self.phrase.as_ref().map(|phrase| phrase.as_str())
    }

    /// The content of an unencrypted file. Wallets 4.0 and 4.1 read it; wallet 4.0 refuses the
    /// `cryptoType` that 4.1 writes and so there is none, but for ed25519, which 4.0 does not know.
    pub fn to_plain(&self) -> Zeroizing<String> {
        let public = hex::encode(self.hotkey.as_bytes());
        // Room for all fields at once: growing would leave copies of secrets behind.
        let mut json = Zeroizing::new(String::with_capacity(1024));
        json.push_str("{\"accountId\":\"0x");
        json.push_str(&public);
        json.push_str("\",\"publicKey\":\"0x");
        json.push_str(&public);
        if let Some(pair) = &self.pair {
            json.push_str("\",\"privateKey\":\"0x");
            json.push_str(&Zeroizing::new(hex::encode(pair.private_bytes().as_slice())));
            if let Some(phrase) = &self.phrase {
                // Words are letters: nothing to escape.
                json.push_str("\",\"secretPhrase\":\"");
                json.push_str(phrase);
            }
            if let Some(seed) = pair.seed() {
                json.push_str("\",\"secretSeed\":\"0x");
                json.push_str(&Zeroizing::new(hex::encode(seed)));
            }
        }
        json.push_str("\",\"ss58Address\":\"");
        json.push_str(&self.hotkey.to_string());
        json.push('"');
        if self.scheme == Scheme::Ed25519 {
            json.push_str(",\"cryptoType\":0");
        }
        json.push('}');
        json
    }

    /// The content of a `$NACL` file. Blocks for a second and takes 512 MiB: see the module.
    ///
    /// # Errors
    ///
    /// Fails for want of memory or random bytes.
    pub fn to_nacl(&self, password: &str) -> Result<Vec<u8>, WalletError> {
        encrypt_nacl(&self.to_plain(), password)
    }
}

impl fmt::Debug for Keyfile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.pair.is_some() { "secret not shown" } else { "public" };
        write!(out, "Keyfile({} {}, {kind})", self.scheme, self.hotkey)
    }
}

fn wipe(fields: &mut Dict) {
    for name in ["secretPhrase", "secretSeed", "privateKey"] {
        if let Some(Value::Str(text)) = fields.get_mut(name) {
            text.zeroize();
        }
    }
}

fn bytes_of<const N: usize>(text: &str) -> Option<Zeroizing<[u8; N]>> {
    let mut bytes = Zeroizing::new([0; N]);
    hex::decode_to_slice(text.strip_prefix("0x").unwrap_or(text), bytes.as_mut()).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::DEV_PHRASE;
    use crate::wallet::Protection;

    const ALICE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";
    const DEV: &str = "5DfhGyQdFobKM8NsWvEeAKk5EQQgYe9AydgJ7rMB6E1EqRzV";

    fn alice() -> Keyfile {
        Keyfile::new(Keypair::from_uri("//Alice").unwrap())
    }

    #[track_caller]
    fn reads(json: &str, address: &str) -> Keyfile {
        let file = Keyfile::parse(json.as_bytes(), None).unwrap();
        assert_eq!(file.hotkey().to_string(), address);
        file
    }

    #[track_caller]
    fn refuses(json: &str, expected: &str) {
        let error = Keyfile::parse(json.as_bytes(), None).unwrap_err();
        assert_eq!(error.to_string(), expected, "{json}");
    }

    #[test]
    fn what_was_written_reads_back_with_all_its_parts() {
        for file in [
            alice(),
            Keyfile::from_mnemonic(&format!("  {}", DEV_PHRASE.replace(' ', "  "))).unwrap(),
            Keyfile::new(Keypair::from_seed([0x11; 32]).unwrap()),
            Keyfile::new(Keypair::from_uri("//Alice/soft").unwrap()),
            Keyfile::new(Keypair::from_uri_with(Scheme::Ed25519, "//Alice").unwrap()),
            Keyfile::from_mnemonic_with(Scheme::Ed25519, DEV_PHRASE).unwrap(),
            alice().to_public(),
        ] {
            let again = Keyfile::parse(file.to_plain().as_bytes(), None).unwrap();
            assert_eq!(again.hotkey(), file.hotkey());
            assert_eq!(again.scheme(), file.scheme());
            assert_eq!(again.phrase(), file.phrase());
            let seed = |file: &Keyfile| file.keypair().map(|pair| pair.seed().copied());
            assert_eq!(seed(&again), seed(&file));
            assert_eq!(again.to_plain(), file.to_plain());
        }
    }

    #[test]
    fn a_secret_is_taken_from_whatever_makes_the_named_address() {
        let seed = "22".repeat(32);
        let of_seed = "5Fpfx4iDtrrY99VGkQnLXASytC2y9Z3o8KUyTtD4w7o5SZcA";
        reads(&format!(r#"{{"secretSeed":"0x{seed}","x":[1],"secretPhrase":null}}"#), of_seed);
        reads(&format!(r#"{{"secretSeed":"{seed}", "ss58Address":"{of_seed}"}}"#), of_seed);
        reads(&format!(r#"{{"secretPhrase":"{DEV_PHRASE}","cryptoType":1}}"#), DEV);
        // Wallet 4.1 writes the seed of 32 times 0x11 as these characters.
        let private =
            hex::encode(Keypair::from_seed([0x11; 32]).unwrap().private_bytes().as_slice());
        let broken = "\\u0011".repeat(32);
        let file = reads(
            &format!(r#"{{"secretSeed":"0x{broken}","privateKey":"0x{private}"}}"#),
            "5DtDLm5rQHShDqojQpsvcN8tRXHVFaecfDoRet1SU6BFD9Fi",
        );
        assert!(file.keypair().is_some());
        assert!(reads(&format!(r#"{{"ss58Address":"{ALICE}"}}"#), ALICE).keypair().is_none());
    }

    #[test]
    fn files_that_contradict_themselves_are_refused() {
        let seed = "22".repeat(32);
        let found = "5Fpfx4iDtrrY99VGkQnLXASytC2y9Z3o8KUyTtD4w7o5SZcA";
        let wrong = format!("the keyfile names {ALICE} but holds the key of {found}");
        refuses(&format!(r#"{{"secretSeed":"0x{seed}","ss58Address":"{ALICE}"}}"#), &wrong);
        let public = hex::encode(found.parse::<Hotkey>().unwrap().as_bytes());
        refuses(&format!(r#"{{"publicKey":"0x{public}","ss58Address":"{ALICE}"}}"#), &wrong);
        refuses(
            &format!(r#"{{"secretSeed":"0xzz","ss58Address":"{ALICE}"}}"#),
            "the keyfile's secret is damaged",
        );
        refuses(r#"{"cryptoType":2}"#, "the keyfile is of an unknown cryptoType");
        for other in ["", "{}", "[]", "null", "0x11", "\u{feff}{}", r#"{"ss58Address":7}"#] {
            refuses(other, "not a keyfile");
        }
    }

    #[test]
    fn an_error_shows_no_secret() {
        let secret = "deadbeef".repeat(7);
        let error = Keyfile::parse(format!(r#"{{"secretSeed":"0x{secret}"}}"#).as_bytes(), None)
            .unwrap_err();
        assert!(!format!("{error} {error:?}").contains("deadbeef"));
        let shown = format!(
            "{:?} {:?}",
            Keyfile::from_mnemonic(DEV_PHRASE).unwrap(),
            Protection::Password("hunter2")
        );
        assert!(shown.contains(DEV) && !shown.contains("bottom") && !shown.contains("hunter2"));
    }

    proptest::proptest! {
        #[test]
        fn no_plain_bytes_panic(bytes in proptest::collection::vec(0u8.., 0..200)) {
            let _ = Keyfile::parse(&bytes, None);
        }

        #[test]
        fn no_fields_panic(
            address in "5?[A-Za-z0-9]{0,50}", seed in "(0x)?[0-9a-f]{0,70}", phrase in "[a-z ]{0,40}", kind in -1i64..3,
        ) {
            let _ = Keyfile::parse(format!(
                r#"{{"ss58Address":"{address}","secretSeed":"{seed}","privateKey":"{seed}","secretPhrase":"{phrase}","cryptoType":{kind}}}"#
            ).as_bytes(), None);
        }

        #[test]
        fn no_vault_panics(body in "[0-9a-f\\n]{0,200}") {
            let _ = Keyfile::parse(format!("$ANSIBLE_VAULT;1.1;AES256\n{body}").as_bytes(), Some("x"));
        }
    }
}
