//! Hotkeys, signers and signatures: sr25519, and ed25519 for `btauth/1`.
//!
//! Signatures of v10 are sr25519 only; `btauth/1` names its scheme in a header and in what it signs.
//! Verification is strict: the identity and small-order keys are no keys (W10), encodings must be
//! canonical, and `<Bytes>` wrapping counts only where [`BytesWrapping::Accept`] says so.

use std::fmt;
use std::sync::Arc;

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest};
use ed25519_dalek::Signer as _;
use schnorrkel::derive::{ChainCode, Derivation};
use schnorrkel::{ExpansionMode, MiniSecretKey};
use zeroize::Zeroizing;

use crate::ss58::{Hotkey, Ss58Error};
use crate::verification::{SUBSTRATE, Sr25519};

mod key_cache;
mod public_key;
mod secret_uri;
mod signature_text;

pub use key_cache::{KeyCache, Networks, VerifyError};
pub use public_key::{BytesWrapping, PublicKey};
pub use signature_text::{SignatureError, parse_signature_hex, signature_hex, wallet_message};

use public_key::Point;
use secret_uri::{Junction, SecretUri, seed_from_hex, seed_from_phrase};

/// The phrase that `//Alice` and its friends are derived from: worthless keys that everybody has.
pub const DEV_PHRASE: &str =
    "bottom drive obey lake curtain smoke basket hold race lonely fit walk";

/// Which signature scheme a key is of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scheme {
    /// Schnorr signatures on Ristretto: every v10 hotkey, and the default everywhere.
    Sr25519,
    /// Ed25519 as in RFC 8032: `btauth/1` only.
    Ed25519,
}

impl Scheme {
    /// The name on the wire of `btauth/1`: `sr25519` or `ed25519`.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Sr25519 => "sr25519",
            Scheme::Ed25519 => "ed25519",
        }
    }

    /// The number wallet files and SDK 11 use: 1 for sr25519, 0 for ed25519.
    pub fn crypto_type(self) -> u8 {
        match self {
            Scheme::Sr25519 => 1,
            Scheme::Ed25519 => 0,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// Whatever can sign for a hotkey: a key pair in this process, or one elsewhere.
pub trait Signer: Send + Sync + 'static {
    /// Whose signatures these are.
    fn hotkey(&self) -> Hotkey;

    /// The scheme the signatures are of. The v10 protocol knows only sr25519.
    fn scheme(&self) -> Scheme;

    /// Signs the message as it is. Never blocks.
    fn sign(&self, message: &[u8]) -> [u8; 64];
}

impl<S: Signer + ?Sized> Signer for Arc<S> {
    fn hotkey(&self) -> Hotkey {
        (**self).hotkey()
    }

    fn scheme(&self) -> Scheme {
        (**self).scheme()
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        (**self).sign(message)
    }
}

/// A secret key and its hotkey. `Debug` shows the hotkey only; the secret is wiped when dropped.
#[derive(Clone)]
pub struct Keypair {
    secret: Secret,
    hotkey: Hotkey,
    seed: Option<Zeroizing<[u8; 32]>>,
}

#[derive(Clone)]
enum Secret {
    // The prepared pair: no point multiplication per signature but the nonce's own.
    Sr25519(Box<schnorrkel::Keypair>),
    Ed25519(Box<ed25519_dalek::SigningKey>),
}

impl Keypair {
    /// Makes a new random sr25519 key and the 12 words that make it again.
    ///
    /// # Errors
    ///
    /// Fails if the operating system gives no random bytes.
    pub fn generate() -> Result<(Keypair, Zeroizing<String>), KeyError> {
        let mut entropy = Zeroizing::new([0u8; 16]);
        getrandom::fill(entropy.as_mut()).map_err(|_| KeyError::NoRandomness)?;
        let words = bip39::Mnemonic::from_entropy_in(bip39::Language::English, entropy.as_ref())
            .map_err(|_| KeyError::Mnemonic)?;
        let phrase = Zeroizing::new(words.to_string());
        Ok((Keypair::from_mnemonic(&phrase, "")?, phrase))
    }

    /// Makes the sr25519 key of a Substrate secret URI:
    /// `[phrase | 0xseed][//hard | /soft]...[///password]`, as in `//Alice`.
    ///
    /// Without a phrase, [`DEV_PHRASE`] is used: such keys are for tests only.
    ///
    /// # Errors
    ///
    /// Says which part is wrong, never what it contained.
    pub fn from_uri(uri: &str) -> Result<Keypair, KeyError> {
        Keypair::from_uri_with(Scheme::Sr25519, uri)
    }

    /// As [`Keypair::from_uri`], for either scheme.
    ///
    /// # Errors
    ///
    /// Also fails for soft junctions with ed25519, which has none.
    pub fn from_uri_with(scheme: Scheme, uri: &str) -> Result<Keypair, KeyError> {
        let uri = SecretUri::parse(uri)?;
        let seed = match uri.phrase.strip_prefix("0x") {
            Some(digits) => seed_from_hex(digits)?,
            None if uri.phrase.is_empty() => seed_from_phrase(DEV_PHRASE, uri.password)?,
            None => seed_from_phrase(uri.phrase, uri.password)?,
        };
        let root = Keypair::from_seed_with(scheme, *seed)?;
        uri.junctions.iter().try_fold(root, |pair, junction| pair.derive(junction))
    }

    /// Makes the sr25519 key of 12 to 24 English words, with Substrate's rule: the entropy is
    /// stretched, not the words. An empty password is no password.
    ///
    /// # Errors
    ///
    /// Fails if a word is unknown, the number of words wrong, or the checksum.
    pub fn from_mnemonic(phrase: &str, password: &str) -> Result<Keypair, KeyError> {
        Keypair::from_mnemonic_with(Scheme::Sr25519, phrase, password)
    }

    /// As [`Keypair::from_mnemonic`], for either scheme.
    ///
    /// # Errors
    ///
    /// As [`Keypair::from_mnemonic`].
    pub fn from_mnemonic_with(
        scheme: Scheme,
        phrase: &str,
        password: &str,
    ) -> Result<Keypair, KeyError> {
        let seed = seed_from_phrase(phrase, Some(password))?;
        Keypair::from_seed_with(scheme, *seed)
    }

    /// Makes the sr25519 key of a raw seed of 32 bytes.
    ///
    /// # Errors
    ///
    /// Fails only for a seed whose public key would be the identity, which nobody has found.
    pub fn from_seed(seed: [u8; 32]) -> Result<Keypair, KeyError> {
        Keypair::from_seed_with(Scheme::Sr25519, seed)
    }

    /// As [`Keypair::from_seed`], for either scheme.
    ///
    /// # Errors
    ///
    /// As [`Keypair::from_seed`].
    pub fn from_seed_with(scheme: Scheme, seed: [u8; 32]) -> Result<Keypair, KeyError> {
        let seed = Zeroizing::new(seed);
        let mut pair = match scheme {
            Scheme::Sr25519 => {
                let mini = MiniSecretKey::from_bytes(seed.as_ref()).map_err(|_| KeyError::Seed)?;
                Keypair::of_sr25519(mini.expand_to_keypair(ExpansionMode::Ed25519))?
            }
            Scheme::Ed25519 => {
                let key = ed25519_dalek::SigningKey::from_bytes(&seed);
                let hotkey = Hotkey::from_bytes(key.verifying_key().to_bytes());
                Keypair { secret: Secret::Ed25519(Box::new(key)), hotkey, seed: None }
            }
        };
        pair.seed = Some(seed);
        Ok(pair)
    }

    /// Makes the sr25519 key of the 64 bytes wallet files call `privateKey`: the canonical scalar
    /// and the nonce seed. (The 64 bytes polkadot-js prints are scaled by 8 and mean another key:
    /// compare the address.)
    ///
    /// # Errors
    ///
    /// Fails if the scalar is not canonical or is zero.
    pub fn from_private(private: &[u8; 64]) -> Result<Keypair, KeyError> {
        let secret =
            schnorrkel::SecretKey::from_bytes(private).map_err(|_| KeyError::PrivateKey)?;
        Keypair::of_sr25519(secret.to_keypair())
    }

    fn of_sr25519(pair: schnorrkel::Keypair) -> Result<Keypair, KeyError> {
        let hotkey = Hotkey::from_bytes(pair.public.to_bytes());
        if hotkey.is_identity() {
            return Err(KeyError::Identity);
        }
        Ok(Keypair { secret: Secret::Sr25519(Box::new(pair)), hotkey, seed: None })
    }

    /// The seed this key was made from; none after a soft junction or from 64 private bytes.
    pub fn seed(&self) -> Option<&[u8; 32]> {
        self.seed.as_deref()
    }

    /// The private bytes as wallet files write them: 64 for sr25519, the seed's 32 for ed25519.
    pub fn private_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(match &self.secret {
            Secret::Sr25519(pair) => Zeroizing::new(pair.secret.to_bytes()).to_vec(),
            Secret::Ed25519(key) => Zeroizing::new(key.to_bytes()).to_vec(),
        })
    }

    /// The decoded public half.
    pub fn public(&self) -> PublicKey {
        let point = match &self.secret {
            Secret::Sr25519(pair) => Point::Sr25519(Arc::new(Sr25519::new(pair.public))),
            Secret::Ed25519(key) => Point::Ed25519(Box::new(key.verifying_key())),
        };
        PublicKey { hotkey: self.hotkey, point }
    }

    fn derive(self, junction: &Junction) -> Result<Keypair, KeyError> {
        match (&self.secret, junction.hard) {
            (Secret::Sr25519(pair), true) => {
                let code = ChainCode(junction.code);
                let (mini, _) = pair.secret.hard_derive_mini_secret_key(Some(code), b"");
                let seed = Zeroizing::new(mini.to_bytes());
                let mut derived = Keypair::from_seed(*seed)?;
                if self.seed.is_none() {
                    // After a soft junction the reference no longer speaks of a seed.
                    derived.seed = None;
                }
                Ok(derived)
            }
            (Secret::Sr25519(pair), false) => {
                let (derived, _) = pair.derived_key_simple(ChainCode(junction.code), b"");
                Keypair::of_sr25519(derived)
            }
            (Secret::Ed25519(key), true) => {
                let mut hasher = Blake2b::<U32>::new();
                // SCALE: a text is its length times four, then its bytes.
                hasher.update([11 << 2]);
                hasher.update(b"Ed25519HDKD");
                hasher.update(Zeroizing::new(key.to_bytes()).as_ref());
                hasher.update(junction.code);
                let seed: Zeroizing<[u8; 32]> = Zeroizing::new(hasher.finalize().into());
                Keypair::from_seed_with(Scheme::Ed25519, *seed)
            }
            (Secret::Ed25519(_), false) => Err(KeyError::SoftJunction),
        }
    }
}

impl Signer for Keypair {
    fn hotkey(&self) -> Hotkey {
        self.hotkey
    }

    fn scheme(&self) -> Scheme {
        match self.secret {
            Secret::Sr25519(_) => Scheme::Sr25519,
            Secret::Ed25519(_) => Scheme::Ed25519,
        }
    }

    /// Signs with context `substrate` (sr25519, randomised) or plainly (ed25519, deterministic).
    ///
    /// # Panics
    ///
    /// If the operating system gives no random bytes: a signature without them could betray the key.
    fn sign(&self, message: &[u8]) -> [u8; 64] {
        match &self.secret {
            Secret::Sr25519(pair) => pair.sign(SUBSTRATE.bytes(message)).to_bytes(),
            Secret::Ed25519(key) => key.sign(message).to_bytes(),
        }
    }
}

impl fmt::Debug for Keypair {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Keypair({} {}, secret not shown)", self.scheme(), self.hotkey)
    }
}

/// Why no key could be made. Never contains what was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyError {
    /// Not 12, 15, 18, 21 or 24 English words with a right checksum.
    #[error("not a phrase of 12 to 24 English words with a right checksum")]
    Mnemonic,
    /// Not 32 bytes, or not hexadecimal.
    #[error("not a seed of 32 bytes in hexadecimal")]
    Seed,
    /// Not a canonical scalar and a nonce seed.
    #[error("not a private key of 64 bytes")]
    PrivateKey,
    /// Not `[phrase][//hard | /soft]...[///password]`.
    #[error("not a secret URI such as `//Alice` or `<words>//path///password`")]
    Uri,
    /// Ed25519 has no soft junctions.
    #[error("an ed25519 key has no soft junctions: write `//` instead of `/`")]
    SoftJunction,
    /// The all-zero public key or one of small order, for which anybody can sign (W10).
    #[error("the identity is no key: anybody can sign for it")]
    Identity,
    /// The bytes are no public key in canonical form.
    #[error("the address is not a point of the curve")]
    NotAPoint,
    /// The text is no address.
    #[error(transparent)]
    Address(#[from] Ss58Error),
    /// The address is written for another network than the one demanded.
    #[error("the address has network prefix {found}, and only {wanted} is accepted")]
    Network {
        /// The prefix of the address.
        found: u16,
        /// The one that is accepted.
        wanted: u16,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes")]
    NoRandomness,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";

    #[test]
    fn private_bytes_make_the_same_key() {
        for uri in ["//Alice", "//Alice/soft"] {
            let pair = Keypair::from_uri(uri).unwrap();
            let private: [u8; 64] = pair.private_bytes().as_slice().try_into().unwrap();
            let again = Keypair::from_private(&private).unwrap();
            assert_eq!(again.hotkey(), pair.hotkey());
            let signature = again.sign(b"message");
            assert!(pair.public().verify(b"message", &signature));
        }
        assert_eq!(Keypair::from_private(&[0; 64]).unwrap_err(), KeyError::Identity);
        assert_eq!(Keypair::from_private(&[255; 64]).unwrap_err(), KeyError::PrivateKey);
    }

    #[test]
    fn a_generated_key_comes_back_from_its_words() {
        let (pair, phrase) = Keypair::generate().unwrap();
        assert_eq!(phrase.split(' ').count(), 12);
        assert_eq!(Keypair::from_mnemonic(&phrase, "").unwrap().hotkey(), pair.hotkey());
        assert_ne!(Keypair::from_mnemonic(&phrase, "pw").unwrap().hotkey(), pair.hotkey());
        assert_ne!(Keypair::generate().unwrap().0.hotkey(), pair.hotkey());
    }

    #[test]
    fn debug_shows_no_secret() {
        let pair = Keypair::from_uri("//Alice").unwrap();
        let shown = format!("{pair:?} {:?}", pair.public());
        assert!(shown.contains(ALICE));
        assert!(!shown.contains(&hex::encode(&pair.private_bytes()[..8])));
        assert!(!shown.contains(&hex::encode(pair.seed().unwrap())));
    }
}
