//! Hotkeys, signers and signatures: sr25519, and ed25519 for `btauth/1`.
//!
//! Signatures of v10 are sr25519 only; `btauth/1` names its scheme in a header and in what it signs.
//! Verification is strict: the identity and small-order keys are no keys (W10), encodings must be
//! canonical, and `<Bytes>` wrapping counts only where [`BytesWrapping::Accept`] says so.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, PoisonError, RwLock};

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest};
use ed25519_dalek::Signer as _;
use schnorrkel::derive::{ChainCode, Derivation};
use schnorrkel::{ExpansionMode, MiniSecretKey};
use zeroize::{Zeroize, Zeroizing};

use crate::ss58::{Hotkey, Ss58, Ss58Error};
use crate::verification::{SUBSTRATE, Sr25519, Tables};

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

struct SecretUri<'a> {
    phrase: &'a str,
    junctions: Vec<Junction>,
    password: Option<&'a str>,
}

struct Junction {
    hard: bool,
    code: [u8; 32],
}

impl<'a> SecretUri<'a> {
    fn parse(text: &'a str) -> Result<SecretUri<'a>, KeyError> {
        let path_at = text
            .find(|letter: char| !(letter.is_ascii_alphanumeric() || letter == ' '))
            .unwrap_or(text.len());
        let (phrase, mut rest) = text.split_at(path_at);
        let mut junctions = Vec::new();
        let mut password = None;
        while !rest.is_empty() {
            if let Some(secret) = rest.strip_prefix("///") {
                // The password is whatever follows, slashes too, but one line.
                if secret.contains('\n') {
                    return Err(KeyError::Uri);
                }
                password = Some(secret);
                break;
            }
            let (hard, after) = match (rest.strip_prefix("//"), rest.strip_prefix('/')) {
                (Some(after), _) => (true, after),
                (None, Some(after)) => (false, after),
                (None, None) => return Err(KeyError::Uri),
            };
            let end = after.find('/').unwrap_or(after.len());
            let (name, after) = after.split_at(end);
            if name.is_empty() {
                return Err(KeyError::Uri);
            }
            junctions.push(Junction { hard, code: chain_code(name) });
            rest = after;
        }
        Ok(SecretUri { phrase, junctions, password })
    }
}

/// A number becomes its 8 bytes, other text its SCALE form; padded with zeros to 32, or hashed if longer.
fn chain_code(name: &str) -> [u8; 32] {
    let encoded = match name.parse::<u64>() {
        Ok(number) => number.to_le_bytes().to_vec(),
        Err(_) => {
            let mut encoded = scale_length(name.len());
            encoded.extend_from_slice(name.as_bytes());
            encoded
        }
    };
    let mut code = [0; 32];
    match code.get_mut(..encoded.len()) {
        Some(start) => start.copy_from_slice(&encoded),
        None => code = Blake2b::<U32>::digest(&encoded).into(),
    }
    code
}

/// SCALE's compact form of a length: the two low bits of the first byte tell how many bytes follow.
fn scale_length(length: usize) -> Vec<u8> {
    let length = length as u64;
    match length {
        0..0x40 => vec![(length as u8) << 2],
        0x40..0x4000 => (((length as u16) << 2) | 0b01).to_le_bytes().to_vec(),
        0x4000..0x4000_0000 => (((length as u32) << 2) | 0b10).to_le_bytes().to_vec(),
        _ => {
            let bytes = length.to_le_bytes();
            let used = 8 - (length.leading_zeros() / 8) as usize;
            let mut encoded = vec![(((used - 4) as u8) << 2) | 0b11];
            encoded.extend_from_slice(&bytes[..used]);
            encoded
        }
    }
}

fn seed_from_hex(digits: &str) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let mut seed = Zeroizing::new([0; 32]);
    hex::decode_to_slice(digits, seed.as_mut()).map_err(|_| KeyError::Seed)?;
    Ok(seed)
}

fn seed_from_phrase(phrase: &str, password: Option<&str>) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let words = bip39::Mnemonic::parse_in_normalized(bip39::Language::English, phrase)
        .map_err(|_| KeyError::Mnemonic)?;
    let (mut entropy, length) = words.to_entropy_array();
    let salt = Zeroizing::new(format!("mnemonic{}", password.unwrap_or("")));
    let mut stretched = Zeroizing::new([0u8; 64]);
    pbkdf2::pbkdf2_hmac::<sha2::Sha512>(
        &entropy[..length],
        salt.as_bytes(),
        2048,
        stretched.as_mut(),
    );
    entropy.zeroize();
    let mut seed = Zeroizing::new([0; 32]);
    seed.copy_from_slice(&stretched[..32]);
    Ok(seed)
}

/// A public key decoded once, to verify with many times. Clones are one key.
#[derive(Clone)]
pub struct PublicKey {
    hotkey: Hotkey,
    point: Point,
}

#[derive(Clone)]
enum Point {
    Sr25519(Arc<Sr25519>),
    Ed25519(Box<ed25519_dalek::VerifyingKey>),
}

impl PublicKey {
    /// Decodes the sr25519 key of a hotkey.
    ///
    /// # Errors
    ///
    /// Refuses bytes that are no point, and the identity point (W10), which verifies anything.
    pub fn sr25519(hotkey: &Hotkey) -> Result<PublicKey, KeyError> {
        if hotkey.is_identity() {
            return Err(KeyError::Identity);
        }
        // Ristretto decodes canonical encodings only.
        let point = schnorrkel::PublicKey::from_bytes(hotkey.as_bytes())
            .map_err(|_| KeyError::NotAPoint)?;
        Ok(PublicKey { hotkey: *hotkey, point: Point::Sr25519(Arc::new(Sr25519::new(point))) })
    }

    /// Decodes the ed25519 key of a hotkey.
    ///
    /// # Errors
    ///
    /// Refuses bytes that are no point or not its canonical encoding, and points of small order.
    pub fn ed25519(hotkey: &Hotkey) -> Result<PublicKey, KeyError> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(hotkey.as_bytes())
            .map_err(|_| KeyError::NotAPoint)?;
        if key.is_weak() {
            return Err(KeyError::Identity);
        }
        // RFC 8032 §5.1.3 wants y below the prime, which decompression does not check.
        if key.to_edwards().compress().as_bytes() != hotkey.as_bytes() {
            return Err(KeyError::NotAPoint);
        }
        Ok(PublicKey { hotkey: *hotkey, point: Point::Ed25519(Box::new(key)) })
    }

    /// Decodes a key of the given scheme.
    ///
    /// # Errors
    ///
    /// As [`PublicKey::sr25519`] and [`PublicKey::ed25519`].
    pub fn of(scheme: Scheme, hotkey: &Hotkey) -> Result<PublicKey, KeyError> {
        match scheme {
            Scheme::Sr25519 => PublicKey::sr25519(hotkey),
            Scheme::Ed25519 => PublicKey::ed25519(hotkey),
        }
    }

    /// Whose key this is.
    pub fn hotkey(&self) -> Hotkey {
        self.hotkey
    }

    /// The scheme it verifies.
    pub fn scheme(&self) -> Scheme {
        match self.point {
            Point::Sr25519(_) => Scheme::Sr25519,
            Point::Ed25519(_) => Scheme::Ed25519,
        }
    }

    /// Whether this key signed exactly this message. `<Bytes>` wrapping is refused.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        match &self.point {
            Point::Sr25519(key) => key.verify(message, signature),
            Point::Ed25519(key) => {
                key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature)).is_ok()
            }
        }
    }

    /// As [`PublicKey::verify`], and a second attempt over the wrapped message where that is accepted.
    #[must_use]
    pub fn verify_wrapped(
        &self,
        message: &[u8],
        signature: &[u8; 64],
        wrapping: BytesWrapping,
    ) -> bool {
        self.verify(message, signature)
            || match wrapping {
                BytesWrapping::Refuse => false,
                BytesWrapping::Accept => {
                    self.verify(&[b"<Bytes>", message, b"</Bytes>"].concat(), signature)
                }
            }
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "PublicKey({} {})", self.scheme(), self.hotkey)
    }
}

/// What to do with signatures over `<Bytes>` + message + `</Bytes>`, which browser wallets make and
/// SDK 8 to 11 accept in a second attempt (§6.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum BytesWrapping {
    /// Only the message itself may have been signed.
    #[default]
    Refuse,
    /// As the reference: a failed verification costs a second one.
    Accept,
}

/// Reads `0x` and 128 hexadecimal digits in either case, as SDK 8 to 10 do (§6.2).
///
/// # Errors
///
/// With the texts of the reference (§9.4).
pub fn parse_signature_hex(text: &str) -> Result<[u8; 64], SignatureError> {
    // The wallet strips the prefix as often as it is there.
    let digits =
        text.strip_prefix("0x").ok_or(SignatureError::NotHexText)?.trim_start_matches("0x");
    let mut signature = [0; 64];
    let mut wrong = digits.len() != 2 * signature.len();
    for (byte, [high, low]) in signature.iter_mut().zip(digits.as_bytes().as_chunks().0) {
        let (high, low) = (DIGITS[usize::from(*high)], DIGITS[usize::from(*low)]);
        wrong |= (high | low) > 0xf;
        *byte = high << 4 | low & 0xf;
    }
    if wrong {
        // Of the wrong length, or a bad digit, which would be named first.
        let named = hex::decode(digits).err();
        return Err(named.map_or(SignatureError::Length, SignatureError::Hex));
    }
    Ok(signature)
}

/// What a byte means as a hexadecimal digit; 0xff if it is none.
static DIGITS: [u8; 256] = {
    let mut digits = [0xff; 256];
    let mut digit = 0;
    while digit < 16 {
        digits[b"0123456789abcdef"[digit] as usize] = digit as u8;
        digits[b"0123456789ABCDEF"[digit] as usize] = digit as u8;
        digit += 1;
    }
    digits
};

/// Writes a signature as the wire wants it: `0x` and 128 lower-case digits.
pub fn signature_hex(signature: &[u8; 64]) -> String {
    let mut text = String::with_capacity(130);
    text.push_str("0x");
    text.push_str(&hex::encode(signature));
    text
}

/// Why a text is no signature. The texts are those of SDK 8 to 10 (§9.4), hence the capitals.
#[derive(Clone, Copy, PartialEq, Debug, thiserror::Error)]
pub enum SignatureError {
    /// Does not begin with `0x`.
    #[error("Invalid signature format. Expected hex string.")]
    NotHexText,
    /// Not hexadecimal, or an odd number of digits.
    #[error("Invalid hex string: {0:?}")]
    Hex(hex::FromHexError),
    /// Not 64 bytes.
    #[error("Invalid SR25519 signature.")]
    Length,
}

/// The bytes the Python wallet signs for a text: of one that begins with `0x`, the bytes it spells
/// (§6.2). No message of the wire begins so; for command lines.
///
/// # Errors
///
/// Fails where the wallet does: `0x` and then no hexadecimal.
pub fn wallet_message(text: &str) -> Result<Cow<'_, [u8]>, SignatureError> {
    match text.strip_prefix("0x") {
        Some(digits) => hex::decode(digits).map(Cow::Owned).map_err(SignatureError::Hex),
        None => Ok(Cow::Borrowed(text.as_bytes())),
    }
}

/// Which network prefixes an address may carry (W13).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Networks {
    /// Any, as the reference does. Keys are compared, not texts, so this is harmless here.
    #[default]
    Any,
    /// Only this one.
    Only(u16),
}

/// Keys of known callers, decoded: the cost of address and point is paid once per caller.
///
/// Bounded: about `capacity` keys are kept, those not met for the longest are forgotten first. Only
/// keys for which a signature verified are kept, so strangers cannot push callers out by naming keys.
pub struct KeyCache {
    shards: Box<[RwLock<Generations>]>,
    hasher: RandomState,
    per_generation: usize,
    networks: Networks,
    tables: Tables,
}

type Known = HashMap<Box<str>, Arc<PublicKey>>;

/// A full young generation becomes the old one, and the old one is forgotten.
#[derive(Default)]
struct Generations {
    young: [Known; 2],
    old: [Known; 2],
}

impl KeyCache {
    /// How many keys are kept unless told otherwise: some 6 MB.
    pub const DEFAULT_CAPACITY: usize = 16_384;

    /// How many requests of a key are served before it is verified at half the cost.
    pub const OFTEN: u32 = crate::verification::OFTEN;

    const SHARDS: usize = 16;

    /// A cache for about this many keys.
    pub fn new(capacity: usize) -> KeyCache {
        KeyCache {
            shards: (0..Self::SHARDS).map(|_| RwLock::default()).collect(),
            hasher: RandomState::new(),
            per_generation: (capacity / (2 * Self::SHARDS)).max(1),
            networks: Networks::Any,
            tables: Tables::new(Tables::LIMIT),
        }
    }

    /// How many keys that are served often may have a table of 655 KB, with which to verify costs half: 64 unless told
    /// otherwise.
    #[must_use]
    pub fn tables(mut self, limit: usize) -> KeyCache {
        self.tables = Tables::new(limit);
        self
    }

    /// Refuses addresses of other networks.
    #[must_use]
    pub fn networks(mut self, networks: Networks) -> KeyCache {
        self.networks = networks;
        self
    }

    /// The key of an address: the kept one, or decoded now and not kept.
    ///
    /// # Errors
    ///
    /// As [`PublicKey::of`], and for text that is no address of an accepted network.
    pub fn resolve(&self, scheme: Scheme, address: &str) -> Result<Arc<PublicKey>, KeyError> {
        if let Some(known) = self.known(scheme, address) {
            return Ok(known);
        }
        let parsed = Ss58::parse(address)?;
        if let Networks::Only(wanted) = self.networks
            && wanted != parsed.prefix
        {
            return Err(KeyError::Network { found: parsed.prefix, wanted });
        }
        PublicKey::of(scheme, &parsed.hotkey()).map(Arc::new)
    }

    /// Verifies a signature by the key of an address, and keeps the key if it is good.
    ///
    /// # Errors
    ///
    /// Tells an address that is no key from a signature that is not of this key and message.
    pub fn verify(
        &self,
        scheme: Scheme,
        address: &str,
        message: &[u8],
        signature: &[u8; 64],
        wrapping: BytesWrapping,
    ) -> Result<Arc<PublicKey>, VerifyError> {
        let key = self.resolve(scheme, address)?;
        if !key.verify_wrapped(message, signature, wrapping) {
            return Err(VerifyError::Mismatch);
        }
        self.keep(address, &key);
        Ok(key)
    }

    /// Keeps the key of an address for which a signature verified.
    pub fn keep(&self, address: &str, key: &Arc<PublicKey>) {
        let scheme = generation_of(key.scheme());
        let shard = self.shard(address);
        {
            let kept = shard.read().unwrap_or_else(PoisonError::into_inner);
            if kept.young[scheme].contains_key(address) {
                return;
            }
        }
        let mut kept = shard.write().unwrap_or_else(PoisonError::into_inner);
        if kept.young.iter().map(HashMap::len).sum::<usize>() >= self.per_generation {
            kept.old = std::mem::take(&mut kept.young);
        }
        kept.young[scheme].insert(address.into(), Arc::clone(key));
    }

    /// Counts that a request of this key was served. One that is served [`OFTEN`](Self::OFTEN) is verified at half the
    /// cost from then on, if it is sr25519; the call that makes it so takes a millisecond.
    pub fn served(&self, key: &PublicKey) {
        if let Point::Sr25519(key) = &key.point {
            self.tables.served(key);
        }
    }

    /// How many keys are kept now.
    pub fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| {
                let kept = shard.read().unwrap_or_else(PoisonError::into_inner);
                kept.young.iter().chain(&kept.old).map(HashMap::len).sum::<usize>()
            })
            .sum()
    }

    /// Whether no key is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn known(&self, scheme: Scheme, address: &str) -> Option<Arc<PublicKey>> {
        let scheme = generation_of(scheme);
        let kept = self.shard(address).read().unwrap_or_else(PoisonError::into_inner);
        kept.young[scheme].get(address).or_else(|| kept.old[scheme].get(address)).map(Arc::clone)
    }

    fn shard(&self, address: &str) -> &RwLock<Generations> {
        &self.shards[self.hasher.hash_one(address) as usize % Self::SHARDS]
    }
}

impl Default for KeyCache {
    fn default() -> KeyCache {
        KeyCache::new(Self::DEFAULT_CAPACITY)
    }
}

impl fmt::Debug for KeyCache {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("KeyCache").field("networks", &self.networks).finish_non_exhaustive()
    }
}

fn generation_of(scheme: Scheme) -> usize {
    match scheme {
        Scheme::Sr25519 => 0,
        Scheme::Ed25519 => 1,
    }
}

/// Why a signature was not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum VerifyError {
    /// The address is no key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The signature is not of this key over this message.
    #[error("the signature does not match the message and the key")]
    Mismatch,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ss58::BITTENSOR_PREFIX;

    const ALICE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";

    #[track_caller]
    fn makes(uri: &str, address: &str) {
        let pair = Keypair::from_uri(uri).unwrap();
        assert_eq!(pair.hotkey().to_string(), address, "{uri:?}");
    }

    #[track_caller]
    fn refuses(uri: &str, why: KeyError) {
        assert_eq!(Keypair::from_uri(uri).unwrap_err(), why, "{uri:?}");
    }

    /// Addresses as bittensor-wallet 4.1.1 makes them.
    #[test]
    fn secret_uris_make_the_keys_of_the_python_wallet() {
        makes("//Alice", ALICE);
        makes("", "5DfhGyQdFobKM8NsWvEeAKk5EQQgYe9AydgJ7rMB6E1EqRzV");
        makes("///", "5DfhGyQdFobKM8NsWvEeAKk5EQQgYe9AydgJ7rMB6E1EqRzV");
        makes(
            &format!(" {} ", DEV_PHRASE.replace(' ', "  ")),
            "5DfhGyQdFobKM8NsWvEeAKk5EQQgYe9AydgJ7rMB6E1EqRzV",
        );
        makes("//Alice/soft", "5C8PhJPLE54x23RjmqBcEEnALryCDWdTJM5xLaoL9W8XEpnt");
        makes("/1", "5DCyihKprMsGj3vNzmhnCpx827jCTd4fHQzZAxyyNy7dBRnA");
        makes("//1", "5GBNeWRhZc2jXu7D55rBimKYDk8PGk8itRYFTPfC8RJLKG5o");
        makes("//+01", "5GBNeWRhZc2jXu7D55rBimKYDk8PGk8itRYFTPfC8RJLKG5o");
        makes("//18446744073709551616", "5EpxyqTWXnWapSa55fXrq8JtqD41YREqn7qJobZ69D7833f8");
        makes("//Alice///pw", "5CVNhgaHCEe41RKB2QgscUnzJmfZScb6EgYdXrJshoCY8CjY");
        makes("///pw", "5HVquMWVR2cemSfuHeWupmEEgiTDjdNpCrPk4iKeBmL9qnKD");
        makes("//a////x", "5GHeR8WxriSgGSijvMWEp6D8Lcz1EpT3vLP5UZscZY3CVi8Y");
        makes("//a?b=1", "5HpXSnGxYak1sgDi4ctMLpbbBZHssRWj4n1CPUdiqqwNVWP6");
        makes("//a\nb", "5Eo5dNMDhAAsYaLkS5Gz7g3VzLzxrcrzvQScnHcjcVz1d6PT");
        makes("//é", "5EsaQAJQh19PWKMtYN2YrWYTRKsUmHicgAyBMiAFuRwFA4zf");
        makes(&format!("//{}", "x".repeat(31)), "5Gn9oerVjtkTNy94rpXHni5KkEpWFbJQ3ZKCw4TxWEvpLwf4");
        makes(&format!("//{}", "x".repeat(32)), "5FTjSQoXSVixz6qxTdmArc185F91THV2TquMDuee5bCES13o");
        makes(&format!("//{}", "x".repeat(64)), "5Dqc1NM9Q3GH5KZpDvkLXhFEGGuoTkhWbAhMBA1wSdmZBSsF");
        makes(
            &format!("//{}", "x".repeat(100)),
            "5HN7XiufPsmMoiikb2y5FqEtDicMMkMRYi2cXNPqASVDSgGR",
        );
        makes(
            &format!("0x{}", "11".repeat(32)),
            "5DtDLm5rQHShDqojQpsvcN8tRXHVFaecfDoRet1SU6BFD9Fi",
        );
        makes(
            &format!("0x{}//x", "11".repeat(32)),
            "5GdiExV7ZvG3VkCDCjgXTCnrkZ754JedtdLC57ZLbCt6oUbD",
        );
        makes(
            &format!("0x{}", "00".repeat(32)),
            "5H728gLgx4yuCSVEwGCAfLo3RtzTau9F6cTNqNJtrqqjACWq",
        );
    }

    #[test]
    fn wrong_uris_are_refused_without_repeating_them() {
        for uri in ["//", "/", "//a//", "//a/", "//a///p\nq", "word_x//a"] {
            refuses(uri, KeyError::Uri);
        }
        for phrase in ["Alice", ALICE, " //Alice", "0X11", "Bottom drive"] {
            refuses(phrase, KeyError::Mnemonic);
        }
        refuses("0x11", KeyError::Seed);
        refuses(&format!("0x{}", "1g".repeat(32)), KeyError::Seed);
        let secret = "zebra zebra zebra";
        let error = Keypair::from_uri(secret).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("zebra"));
    }

    #[test]
    fn ed25519_uris_have_hard_junctions_only() {
        let pair = Keypair::from_uri_with(Scheme::Ed25519, "//Alice").unwrap();
        assert_eq!(pair.hotkey().to_string(), "5FA9nQDVg267DEd8m1ZypXLBnvN7SFxYwV7ndqSYGiN9TTpu");
        assert_eq!(
            Keypair::from_uri_with(Scheme::Ed25519, "/Alice").unwrap_err(),
            KeyError::SoftJunction
        );
    }

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

    #[test]
    fn both_schemes_verify_what_they_signed_and_nothing_else() {
        for scheme in [Scheme::Sr25519, Scheme::Ed25519] {
            let pair = Keypair::from_uri_with(scheme, "//Alice").unwrap();
            let key = PublicKey::of(scheme, &pair.hotkey()).unwrap();
            let signature = pair.sign(b"message");
            assert!(key.verify(b"message", &signature));
            assert!(!key.verify(b"messagf", &signature));
            for bit in [0, 7, 255, 256, 500, 511] {
                let mut flipped = signature;
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(!key.verify(b"message", &flipped), "{scheme} bit {bit}");
            }
            let wrapped = pair.sign(b"<Bytes>message</Bytes>");
            assert!(!key.verify_wrapped(b"message", &wrapped, BytesWrapping::Refuse));
            assert!(key.verify_wrapped(b"message", &wrapped, BytesWrapping::Accept));
        }
    }

    #[test]
    fn keys_for_which_anybody_can_sign_are_refused() {
        let zero = Hotkey::from_bytes([0; 32]);
        assert_eq!(PublicKey::sr25519(&zero).unwrap_err(), KeyError::Identity);
        // The eight points of small order on the Edwards curve, as their encodings, and the identity
        // with y written as p + 1.
        let small = [
            "0100000000000000000000000000000000000000000000000000000000000000",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0000000000000000000000000000000000000000000000000000000000000080",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ];
        for encoding in small {
            let mut bytes = [0; 32];
            hex::decode_to_slice(encoding, &mut bytes).unwrap();
            assert!(PublicKey::ed25519(&Hotkey::from_bytes(bytes)).is_err(), "{encoding}");
        }
        // y = p + 3 is a point, and 3 its only right encoding.
        let mut alias = [0xff; 32];
        alias[0] = 0xf0;
        alias[31] = 0x7f;
        assert_eq!(
            PublicKey::ed25519(&Hotkey::from_bytes(alias)).unwrap_err(),
            KeyError::NotAPoint
        );
        assert_eq!(
            PublicKey::sr25519(&Hotkey::from_bytes(alias)).unwrap_err(),
            KeyError::NotAPoint
        );
    }

    #[track_caller]
    fn unreadable(text: &str, expected: &str) {
        assert_eq!(parse_signature_hex(text).unwrap_err().to_string(), expected, "{text:?}");
    }

    #[test]
    fn signature_text_is_refused_in_the_words_of_the_sdk() {
        assert_eq!(parse_signature_hex(&format!("0x{}", "Ab".repeat(64))), Ok([0xab; 64]));
        assert_eq!(signature_hex(&[0xab; 64]), format!("0x{}", "ab".repeat(64)));
        unreadable("", "Invalid signature format. Expected hex string.");
        unreadable(&"ab".repeat(64), "Invalid signature format. Expected hex string.");
        unreadable(
            &format!("0X{}", "ab".repeat(64)),
            "Invalid signature format. Expected hex string.",
        );
        unreadable("0xzz", "Invalid hex string: InvalidHexCharacter { c: 'z', index: 0 }");
        unreadable(
            &format!("0x{}", "zz".repeat(64)),
            "Invalid hex string: InvalidHexCharacter { c: 'z', index: 0 }",
        );
        unreadable("0xabc", "Invalid hex string: OddLength");
        unreadable("0x", "Invalid SR25519 signature.");
        unreadable(&format!("0x{}", "ab".repeat(65)), "Invalid SR25519 signature.");
    }

    #[test]
    fn the_cache_keeps_proven_callers_only_and_stays_small() {
        let cache = KeyCache::new(64);
        let alice = Keypair::from_uri("//Alice").unwrap();
        let signature = alice.sign(b"message");
        let verify = |message: &[u8]| {
            cache.verify(Scheme::Sr25519, ALICE, message, &signature, BytesWrapping::Refuse)
        };
        assert_eq!(verify(b"other").unwrap_err(), VerifyError::Mismatch);
        assert!(cache.is_empty());
        assert_eq!(verify(b"message").unwrap().hotkey(), alice.hotkey());
        assert_eq!(cache.len(), 1);
        let kept = cache.resolve(Scheme::Sr25519, ALICE).unwrap();
        assert!(Arc::ptr_eq(&kept, &cache.resolve(Scheme::Sr25519, ALICE).unwrap()));
        for number in 0..500u16 {
            let mut seed = [0; 32];
            seed[..2].copy_from_slice(&number.to_le_bytes());
            let stranger = Keypair::from_seed(seed).unwrap();
            cache.keep(&stranger.hotkey().to_string(), &Arc::new(stranger.public()));
        }
        assert!(cache.len() <= 64 + 2 * KeyCache::SHARDS, "{} kept", cache.len());
    }

    #[test]
    fn one_network_only_where_asked() {
        let key = *ALICE.parse::<Hotkey>().unwrap().as_bytes();
        let polkadot = Ss58 { prefix: 0, key }.to_string();
        let open = KeyCache::default();
        assert_eq!(open.resolve(Scheme::Sr25519, &polkadot).unwrap().hotkey().to_string(), ALICE);
        let closed = KeyCache::default().networks(Networks::Only(BITTENSOR_PREFIX));
        let refused = closed.resolve(Scheme::Sr25519, &polkadot).unwrap_err();
        assert_eq!(refused, KeyError::Network { found: 0, wanted: 42 });
        assert!(closed.resolve(Scheme::Sr25519, ALICE).is_ok());
    }

    #[test]
    fn lengths_are_written_as_scale_does() {
        assert_eq!(scale_length(1), [4]);
        assert_eq!(scale_length(63), [252]);
        assert_eq!(scale_length(64), [1, 1]);
        assert_eq!(scale_length(16_383), [253, 255]);
        assert_eq!(scale_length(16_384), [2, 0, 1, 0]);
        assert_eq!(scale_length(1 << 30), [3, 0, 0, 0, 64]);
    }

    proptest::proptest! {
        #[test]
        fn no_signature_text_panics(text in "(0x)?[0-9a-fA-Fxyz é]{0,140}") {
            let _ = parse_signature_hex(&text);
        }

        #[test]
        fn no_uri_panics(uri in "(0x)?[a-z0-9/ é\n]{0,40}") {
            let _ = SecretUri::parse(&uri);
        }

        #[test]
        fn no_key_or_signature_bytes_panic(
            key in proptest::array::uniform32(0u8..),
            half in proptest::array::uniform32(0u8..),
        ) {
            let mut signature = [0; 64];
            signature[..32].copy_from_slice(&half);
            signature[32..].copy_from_slice(&key);
            for scheme in [Scheme::Sr25519, Scheme::Ed25519] {
                if let Ok(key) = PublicKey::of(scheme, &Hotkey::from_bytes(key)) {
                    proptest::prop_assert!(!key.verify(b"message", &signature));
                }
            }
        }
    }
}
