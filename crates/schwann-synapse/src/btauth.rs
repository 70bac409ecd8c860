//! `btauth/1`: signed headers on any HTTP request (SDK 11).
//!
//! [`sign`] makes the headers. A server checks them in two steps: [`Verifier::open`] as soon as it has
//! the head, which is cheap and refuses what is malformed, meant for others or stale; and
//! [`Verifier::admit`] when it has the hash of the body, which checks the signature and then the nonce.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::keys::{BytesWrapping, KeyCache, KeyError, PublicKey, Scheme, Signer, signature_hex};
use crate::nonce::{BTAUTH_LANE, NonceError, NonceStore, nanoseconds};
use crate::python::Int;
use crate::ss58::Hotkey;

/// The first line of what is signed.
pub const PROTOCOL: &str = "btauth/1";
/// The header whose presence selects this protocol; its value is `1`.
pub const VERSION_HEADER: &str = "X-Bittensor-Version";
/// Who signed: an ss58 address.
pub const HOTKEY_HEADER: &str = "X-Bittensor-Hotkey";
/// Nanoseconds since 1970, in decimal.
pub const NONCE_HEADER: &str = "X-Bittensor-Nonce";
/// `0x` and the signature in hexadecimal.
pub const SIGNATURE_HEADER: &str = "X-Bittensor-Signature";
/// For whom it was signed: an ss58 address; absent when for anybody.
pub const RECEIVER_HEADER: &str = "X-Bittensor-Receiver";
/// The scheme, if it is not sr25519.
pub const CRYPTO_HEADER: &str = "X-Bittensor-Crypto";

/// The hash of a body that was read in one piece.
pub fn body_sha256(body: &[u8]) -> [u8; 32] {
    Sha256::digest(body).into()
}

/// What is signed: eight lines without a newline at the end (§17).
///
/// `target` is the path with its query exactly as sent; `sender` and `receiver` are addresses as sent.
pub fn payload(
    scheme: Scheme,
    method: &str,
    target: &str,
    body_sha256: &[u8; 32],
    nonce: i128,
    sender: &str,
    receiver: Option<&str>,
) -> Vec<u8> {
    format!(
        "{PROTOCOL}\n{scheme}\n{}\n{target}\n{}\n{nonce}\n{sender}\n{}",
        method.to_uppercase(),
        hex::encode(body_sha256),
        receiver.unwrap_or("-"),
    )
    .into_bytes()
}

/// Signs a request: the headers to add to it, in the SDK's order.
///
/// Without a receiver any server that does not demand one accepts it, and can pass it on to others.
pub fn sign(
    signer: &(impl Signer + ?Sized),
    method: &str,
    target: &str,
    body_sha256: &[u8; 32],
    receiver: Option<&Hotkey>,
    nonce: u64,
) -> Vec<(&'static str, String)> {
    let scheme = signer.scheme();
    let sender = signer.hotkey().to_string();
    let receiver = receiver.map(Hotkey::to_string);
    let message = payload(
        scheme,
        method,
        target,
        body_sha256,
        i128::from(nonce),
        &sender,
        receiver.as_deref(),
    );
    let mut headers = vec![
        (VERSION_HEADER, "1".to_owned()),
        (HOTKEY_HEADER, sender),
        (NONCE_HEADER, nonce.to_string()),
        (SIGNATURE_HEADER, signature_hex(&signer.sign(&message))),
    ];
    if scheme != Scheme::Sr25519 {
        headers.push((CRYPTO_HEADER, scheme.name().to_owned()));
    }
    headers.extend(receiver.map(|receiver| (RECEIVER_HEADER, receiver)));
    headers
}

/// Checks requests of `btauth/1`.
///
/// Defaults are the SDK's: 10 s old, 2 s ahead, receiver required, nonces remembered for 60 s.
/// Stricter than the SDK: keys for which anybody can sign are refused (W10), one key under several
/// network prefixes shares its nonces (W13), `<Bytes>` wrapping is refused unless accepted here, and
/// requests signed before [`Verifier::not_before`] are stale (W4).
#[derive(Clone)]
pub struct Verifier {
    max_age: Duration,
    allowed_skew: Duration,
    retention: Duration,
    require_receiver: bool,
    wrapping: BytesWrapping,
    not_before_ns: u64,
    keys: Arc<KeyCache>,
    nonces: Arc<dyn NonceStore>,
}

impl Verifier {
    /// A verifier with the SDK's limits.
    pub fn new(keys: Arc<KeyCache>, nonces: Arc<dyn NonceStore>) -> Verifier {
        Verifier {
            max_age: Duration::from_secs(10),
            allowed_skew: Duration::from_secs(2),
            retention: Duration::from_secs(60),
            require_receiver: true,
            wrapping: BytesWrapping::Refuse,
            not_before_ns: 0,
            keys,
            nonces,
        }
    }

    /// Sets how old a request may be, how far its clock may be ahead, and how long nonces are kept.
    ///
    /// # Errors
    ///
    /// Fails if nonces would be forgotten while they are still fresh.
    pub fn window(
        mut self,
        max_age: Duration,
        allowed_skew: Duration,
        retention: Duration,
    ) -> Result<Verifier, RetentionTooShort> {
        let window = max_age.saturating_add(allowed_skew);
        if window > retention {
            return Err(RetentionTooShort { retention, window });
        }
        (self.max_age, self.allowed_skew, self.retention) = (max_age, allowed_skew, retention);
        Ok(self)
    }

    /// Whether requests signed for nobody in particular are refused; they are by default.
    #[must_use]
    pub fn require_receiver(mut self, require: bool) -> Verifier {
        self.require_receiver = require;
        self
    }

    /// Whether signatures over the `<Bytes>` form count, as they do in the SDK.
    #[must_use]
    pub fn bytes_wrapping(mut self, wrapping: BytesWrapping) -> Verifier {
        self.wrapping = wrapping;
        self
    }

    /// Refuses requests signed before this moment: the start of a server whose store forgets.
    #[must_use]
    pub fn not_before(mut self, ns: u64) -> Verifier {
        self.not_before_ns = ns;
        self
    }

    /// Checks everything that needs no body: shape, receiver, freshness, in the SDK's order (§17).
    ///
    /// Header names are compared without case; of several spellings the last wins, as in the SDK.
    /// `receiver` is one's own address as text.
    ///
    /// # Errors
    ///
    /// [`AuthError::MalformedAuth`], [`AuthError::WrongReceiver`] or [`AuthError::StaleRequest`].
    pub fn open<'h>(
        &self,
        headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
        receiver: &str,
        now_ns: u64,
    ) -> Result<Claim, AuthError> {
        let raw = Raw::collect(headers);
        if raw.version != Some(b"1") {
            return Err(Malformed::Version.into());
        }
        let address = raw.hotkey.filter(|hotkey| !hotkey.is_empty()).ok_or(Malformed::NoHotkey)?;
        let nonce = raw.nonce.ok_or(Malformed::NoNonce)?;
        let nonce = std::str::from_utf8(nonce).ok().and_then(parse_int).ok_or(Malformed::Nonce)?;
        let scheme =
            raw.crypto.map_or(Some(Scheme::Sr25519), scheme_named).ok_or(Malformed::Crypto)?;
        let signature = raw.signature.ok_or(Malformed::NoSignature)?;
        let signature = bytes_from_hex(signature).ok_or(Malformed::SignatureHex)?;
        match raw.receiver {
            None if self.require_receiver => return Err(WrongReceiver::Missing.into()),
            None => {}
            Some(named) if named == receiver.as_bytes() => {}
            Some(_) => return Err(WrongReceiver::Other.into()),
        }
        let age = i128::from(now_ns).saturating_sub(nonce);
        if age > i128::from(nanoseconds(self.max_age)) {
            return Err(Stale::Old { max_age: self.max_age }.into());
        }
        if age.saturating_neg() > i128::from(nanoseconds(self.allowed_skew)) {
            return Err(Stale::Ahead { allowed_skew: self.allowed_skew }.into());
        }
        if nonce < i128::from(self.not_before_ns) {
            return Err(Stale::BeforeStart.into());
        }
        let nonce = u64::try_from(nonce).map_err(|_| Stale::Old { max_age: self.max_age })?;
        let address = std::str::from_utf8(address).map_err(|_| Malformed::Encoding)?;
        let key = match self.keys.resolve(scheme, address) {
            Ok(key) => Some(key),
            // An address, but of no key that could have signed: told apart only by the signature check.
            Err(KeyError::NotAPoint | KeyError::Identity) => None,
            Err(_) => return Err(Malformed::Encoding.into()),
        };
        let signature = signature.try_into().map_err(|_| Malformed::Encoding)?;
        Ok(Claim {
            address: address.to_owned(),
            key,
            nonce,
            scheme,
            signature,
            bound: raw.receiver.is_some(),
        })
    }

    /// Checks the signature of an opened request over its method, target and body, and then uses up its
    /// nonce.
    ///
    /// # Errors
    ///
    /// [`AuthError::BadSignature`]; then [`AuthError::ReplayedRequest`], [`AuthError::StaleRequest`] for
    /// a body that came so late that nonces of its time are forgotten, or [`AuthError::Refused`].
    pub fn admit(
        &self,
        claim: &Claim,
        method: &str,
        target: &str,
        body_sha256: &[u8; 32],
        receiver: &str,
        now_ns: u64,
    ) -> Result<Verified, AuthError> {
        let key = claim.key.as_ref().ok_or(AuthError::BadSignature)?;
        let message = payload(
            claim.scheme,
            method,
            target,
            body_sha256,
            i128::from(claim.nonce),
            &claim.address,
            claim.bound.then_some(receiver),
        );
        if !key.verify_wrapped(&message, &claim.signature, self.wrapping) {
            return Err(AuthError::BadSignature);
        }
        self.keys.keep(&claim.address, key);
        let expires_ns = claim.nonce.saturating_add(nanoseconds(self.retention));
        let hotkey = key.hotkey();
        match self.nonces.admit(&hotkey, BTAUTH_LANE, claim.nonce, now_ns, expires_ns) {
            Ok(()) => Ok(Verified {
                hotkey,
                address: claim.address.clone(),
                nonce: claim.nonce,
                scheme: claim.scheme,
            }),
            Err(NonceError::Replayed | NonceError::Superseded) => Err(AuthError::ReplayedRequest),
            Err(NonceError::TooOld { .. }) => Err(Stale::Old { max_age: self.max_age }.into()),
            Err(why) => Err(AuthError::Refused(why)),
        }
    }

    /// Both steps at once, for a body that was already read.
    ///
    /// # Errors
    ///
    /// As [`Verifier::open`] and [`Verifier::admit`].
    pub fn verify<'h>(
        &self,
        method: &str,
        target: &str,
        headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
        body_sha256: &[u8; 32],
        receiver: &str,
        now_ns: u64,
    ) -> Result<Verified, AuthError> {
        let claim = self.open(headers, receiver, now_ns)?;
        self.admit(&claim, method, target, body_sha256, receiver, now_ns)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Verifier")
            .field("max_age", &self.max_age)
            .field("allowed_skew", &self.allowed_skew)
            .field("require_receiver", &self.require_receiver)
            .field("wrapping", &self.wrapping)
            .finish_non_exhaustive()
    }
}

/// A request that is well-formed, fresh and meant for this server, and not yet proven to be anybody's.
#[derive(Clone, Debug)]
pub struct Claim {
    address: String,
    key: Option<Arc<PublicKey>>,
    nonce: u64,
    scheme: Scheme,
    signature: [u8; 64],
    bound: bool,
}

impl Claim {
    /// Who claims to have signed. Unproven: good for cheap refusals only.
    pub fn hotkey(&self) -> Option<Hotkey> {
        self.key.as_ref().map(|key| key.hotkey())
    }

    pub(crate) fn key(&self) -> Option<&PublicKey> {
        self.key.as_deref()
    }

    /// The nonce.
    pub fn nonce(&self) -> u64 {
        self.nonce
    }
}

/// A request that its caller did sign, for the first time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified {
    /// Who signed.
    pub hotkey: Hotkey,
    /// The address as sent, which may carry another network prefix.
    pub address: String,
    /// When, in nanoseconds since 1970 by the caller's clock.
    pub nonce: u64,
    /// With which scheme.
    pub scheme: Scheme,
}

/// Why a request was refused, with the texts of SDK 11.3. Answer all with 401.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum AuthError {
    /// Headers missing or not in their form.
    #[error(transparent)]
    MalformedAuth(#[from] Malformed),
    /// Signed for another server, or for nobody where somebody is required.
    #[error(transparent)]
    WrongReceiver(#[from] WrongReceiver),
    /// Outside the window.
    #[error(transparent)]
    StaleRequest(#[from] Stale),
    /// Not signed by the claimed hotkey over this request.
    #[error("signature does not verify against the claimed hotkey")]
    BadSignature,
    /// The nonce was used before.
    #[error("this nonce was already accepted from this hotkey")]
    ReplayedRequest,
    /// The nonce could not be remembered, so the request cannot be admitted.
    #[error(transparent)]
    Refused(NonceError),
}

impl AuthError {
    /// The name of the SDK's exception.
    pub fn name(&self) -> &'static str {
        match self {
            AuthError::MalformedAuth(_) => "MalformedAuth",
            AuthError::WrongReceiver(_) => "WrongReceiver",
            AuthError::StaleRequest(_) => "StaleRequest",
            AuthError::BadSignature => "BadSignature",
            AuthError::ReplayedRequest => "ReplayedRequest",
            AuthError::Refused(_) => "Refused",
        }
    }
}

/// Which header is missing or wrong, in the order they are looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    /// The version is not exactly `1`.
    #[error("missing or unsupported X-Bittensor-Version (expected '1')")]
    Version,
    /// No hotkey, or an empty one.
    #[error("missing X-Bittensor-Hotkey")]
    NoHotkey,
    /// No nonce.
    #[error("missing X-Bittensor-Nonce")]
    NoNonce,
    /// Not what Python's `int()` reads.
    #[error("X-Bittensor-Nonce is not a decimal integer")]
    Nonce,
    /// No scheme of that name.
    #[error("unsupported X-Bittensor-Crypto")]
    Crypto,
    /// No signature.
    #[error("missing X-Bittensor-Signature")]
    NoSignature,
    /// Not hexadecimal.
    #[error("X-Bittensor-Signature is not hex")]
    SignatureHex,
    /// The hotkey is no address, or the signature not of 64 bytes.
    #[error("invalid hotkey address or signature encoding")]
    Encoding,
}

/// Why this server is not the one meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WrongReceiver {
    /// Signed for nobody in particular.
    #[error("missing X-Bittensor-Receiver: this server requires receiver-bound requests")]
    Missing,
    /// Signed for another.
    #[error("request was signed for a different receiving hotkey")]
    Other,
}

/// In which direction a nonce is outside the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Stale {
    /// Too old.
    #[error("nonce is older than the {}s freshness window", general(.max_age.as_secs_f64()))]
    Old {
        /// How old it may be.
        max_age: Duration,
    },
    /// From the future.
    #[error("nonce is more than {}s in the future", general(.allowed_skew.as_secs_f64()))]
    Ahead {
        /// How far ahead it may be.
        allowed_skew: Duration,
    },
    /// From before this server's start.
    #[error("nonce is older than the start of this server")]
    BeforeStart,
}

/// Nonces would be forgotten while they are still fresh.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "nonce store retains entries for {}s but the freshness window is {}s — replays inside the gap would be accepted; \
     use a store with retention >= max_age + allowed_skew",
    general(.retention.as_secs_f64()),
    general(.window.as_secs_f64())
)]
pub struct RetentionTooShort {
    /// How long nonces are kept.
    pub retention: Duration,
    /// How long they are fresh.
    pub window: Duration,
}

#[derive(Default)]
struct Raw<'h> {
    version: Option<&'h [u8]>,
    hotkey: Option<&'h [u8]>,
    nonce: Option<&'h [u8]>,
    signature: Option<&'h [u8]>,
    receiver: Option<&'h [u8]>,
    crypto: Option<&'h [u8]>,
}

impl<'h> Raw<'h> {
    fn collect(headers: impl IntoIterator<Item = (&'h str, &'h [u8])>) -> Raw<'h> {
        let mut raw = Raw::default();
        for (name, value) in headers {
            let place = match name {
                name if name.eq_ignore_ascii_case(VERSION_HEADER) => &mut raw.version,
                name if name.eq_ignore_ascii_case(HOTKEY_HEADER) => &mut raw.hotkey,
                name if name.eq_ignore_ascii_case(NONCE_HEADER) => &mut raw.nonce,
                name if name.eq_ignore_ascii_case(SIGNATURE_HEADER) => &mut raw.signature,
                name if name.eq_ignore_ascii_case(RECEIVER_HEADER) => &mut raw.receiver,
                name if name.eq_ignore_ascii_case(CRYPTO_HEADER) => &mut raw.crypto,
                _ => continue,
            };
            *place = Some(value);
        }
        raw
    }
}

/// Names in any case, and the numbers SDK 11 gives them, in any digits but without a sign.
fn scheme_named(name: &[u8]) -> Option<Scheme> {
    let name = std::str::from_utf8(name).ok()?.trim_matches(is_python_space);
    if name.eq_ignore_ascii_case("sr25519") {
        return Some(Scheme::Sr25519);
    }
    if name.eq_ignore_ascii_case("ed25519") {
        return Some(Scheme::Ed25519);
    }
    if name.contains(['+', '-', '_']) {
        return None;
    }
    match Int::parse_python(name)?.to_u64()? {
        0 => Some(Scheme::Ed25519),
        1 => Some(Scheme::Sr25519),
        _ => None,
    }
}

/// What `str.strip` removes: Unicode's white space and the four separators of ASCII.
fn is_python_space(letter: char) -> bool {
    letter.is_whitespace() || matches!(letter, '\u{1c}'..='\u{1f}')
}

/// `bytes.fromhex` after an optional `0x`: white space may stand between bytes, not within one.
fn bytes_from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.strip_prefix(b"0x").unwrap_or(text);
    let mut bytes = Vec::with_capacity(64);
    let mut rest = text.iter();
    while let Some(first) = rest.next() {
        if matches!(first, b' ' | b'\t'..=b'\r') {
            continue;
        }
        let high = char::from(*first).to_digit(16)?;
        let low = char::from(*rest.next()?).to_digit(16)?;
        bytes.push((high * 16 + low) as u8);
    }
    Some(bytes)
}

/// Python's `int()`, saturating: no nonce that large is fresh.
fn parse_int(text: &str) -> Option<i128> {
    let number = Int::parse_python(text)?;
    Some(number.to_i128().unwrap_or(if number.is_negative() { i128::MIN } else { i128::MAX }))
}

/// Python's `:g`: six significant digits, without trailing zeros.
fn general(number: f64) -> String {
    let scientific = format!("{number:.5e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if (-4..6).contains(&exponent) {
        trim(&format!("{number:.*}", (5 - exponent) as usize))
    } else {
        format!("{}e{}{:02}", trim(digits), if exponent < 0 { '-' } else { '+' }, exponent.abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Keypair;
    use crate::nonce::{MemoryNonceStore, Room};

    const NOW: u64 = 1_795_219_399_075_121_210;
    const TARGET: &str = "/generate?a=1";

    fn verifier() -> Verifier {
        Verifier::new(Arc::default(), Arc::new(MemoryNonceStore::new().unwrap()))
    }

    fn bob() -> Hotkey {
        Keypair::from_uri("//Bob").unwrap().hotkey()
    }

    fn headers(uri: &str, nonce: u64) -> Vec<(&'static str, String)> {
        sign(
            &Keypair::from_uri(uri).unwrap(),
            "POST",
            TARGET,
            &body_sha256(b"body"),
            Some(&bob()),
            nonce,
        )
    }

    fn borrowed<'h>(headers: &'h [(&'h str, String)]) -> impl Iterator<Item = (&'h str, &'h [u8])> {
        headers.iter().map(|(name, value)| (*name, value.as_bytes()))
    }

    fn verify(
        verifier: &Verifier,
        headers: &[(&str, String)],
        now_ns: u64,
    ) -> Result<Verified, AuthError> {
        let hash = body_sha256(b"body");
        verifier.verify("POST", TARGET, borrowed(headers), &hash, &bob().to_string(), now_ns)
    }

    #[test]
    fn a_request_that_was_not_its_hotkeys_uses_up_no_nonce() {
        let verifier = verifier();
        let good = headers("//Alice", NOW);
        let mut forged = good.clone();
        forged[3].1.replace_range(4..6, "00");
        assert_eq!(verify(&verifier, &forged, NOW), Err(AuthError::BadSignature));
        assert!(verify(&verifier, &good, NOW).is_ok());
        assert_eq!(verify(&verifier, &good, NOW), Err(AuthError::ReplayedRequest));
    }

    #[test]
    fn one_key_under_two_networks_shares_its_nonces() {
        // Signed for the address it names, so that only the key is the same.
        let alice = Keypair::from_uri("//Alice").unwrap();
        let verifier = verifier();
        let polkadot = crate::ss58::Ss58 { prefix: 0, key: *alice.hotkey().as_bytes() }.to_string();
        let hash = body_sha256(b"body");
        let receiver = bob().to_string();
        let message = payload(
            Scheme::Sr25519,
            "POST",
            TARGET,
            &hash,
            i128::from(NOW),
            &polkadot,
            Some(&receiver),
        );
        let mut other = headers("//Alice", NOW);
        other[1].1 = polkadot.clone();
        other[3].1 = signature_hex(&alice.sign(&message));
        assert_eq!(verify(&verifier, &other, NOW).unwrap().address, polkadot);
        assert_eq!(
            verify(&verifier, &headers("//Alice", NOW), NOW),
            Err(AuthError::ReplayedRequest)
        );
    }

    #[test]
    fn a_body_that_takes_long_is_still_accepted_once() {
        let verifier = verifier();
        let headers = headers("//Alice", NOW);
        let receiver = bob().to_string();
        let claims: Vec<_> =
            (0..2).map(|_| verifier.open(borrowed(&headers), &receiver, NOW).unwrap()).collect();
        let late = NOW + 40_000_000_000;
        let hash = body_sha256(b"body");
        let admit = |claim| verifier.admit(claim, "POST", TARGET, &hash, &receiver, late);
        assert!(admit(&claims[0]).is_ok());
        assert_eq!(admit(&claims[1]), Err(AuthError::ReplayedRequest));
        assert!(verifier.open(borrowed(&headers), &receiver, late).is_err());
    }

    #[test]
    fn a_late_body_cannot_reuse_a_forgotten_nonce() {
        let verifier = verifier();
        let receiver = bob().to_string();
        let hash = body_sha256(b"body");
        let first = headers("//Alice", NOW);
        let held = verifier.open(borrowed(&first), &receiver, NOW).unwrap();
        assert!(verify(&verifier, &first, NOW).is_ok());
        let later = NOW + 90_000_000_000;
        assert!(verify(&verifier, &headers("//Alice", later), later).is_ok());
        let refused = verifier.admit(&held, "POST", TARGET, &hash, &receiver, later);
        assert_eq!(refused.unwrap_err().name(), "StaleRequest");
    }

    #[test]
    fn requests_from_before_the_start_are_stale() {
        let verifier = verifier().not_before(NOW);
        let refused = verify(&verifier, &headers("//Alice", NOW - 1), NOW);
        assert_eq!(refused, Err(AuthError::StaleRequest(Stale::BeforeStart)));
        assert!(verify(&verifier, &headers("//Alice", NOW), NOW).is_ok());
    }

    #[test]
    fn a_full_store_refuses_by_name() {
        let room = Room { nonces: 8, per_hotkey: 1 };
        let store = Arc::new(MemoryNonceStore::with_room(room).unwrap());
        let verifier = Verifier::new(Arc::default(), store);
        assert!(verify(&verifier, &headers("//Alice", NOW), NOW).is_ok());
        let refused = verify(&verifier, &headers("//Alice", NOW + 1), NOW);
        assert_eq!(refused, Err(AuthError::Refused(NonceError::HotkeyFull)));
    }

    #[test]
    fn numbers_are_written_as_python_does() {
        let cases =
            [(10.0, "10"), (2.5, "2.5"), (1.0 / 3.0, "0.333333"), (0.0, "0"), (1e9, "1e+09")];
        for (number, text) in
            cases.into_iter().chain([(123_459.0, "123459"), (1e-7, "1e-07"), (60.000_000_01, "60")])
        {
            assert_eq!(general(number), text);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_headers_panic(
            values in proptest::collection::vec((0..7usize, proptest::collection::vec(0u8.., 0..150)), 0..10),
            start in 0..3usize,
        ) {
            let verifier = verifier();
            let names =
                [VERSION_HEADER, HOTKEY_HEADER, NONCE_HEADER, SIGNATURE_HEADER, RECEIVER_HEADER, CRYPTO_HEADER, ""];
            let good = headers("//Alice", NOW);
            let good = good.iter().skip(start).map(|(name, value)| (*name, value.as_bytes()));
            let random = values.iter().map(|(name, value)| (names[*name], value.as_slice()));
            let hash = body_sha256(b"body");
            let _ = verifier.verify("POST", TARGET, good.chain(random), &hash, &bob().to_string(), NOW);
        }

        #[test]
        fn no_hexadecimal_panics(text in proptest::collection::vec(0u8.., 0..200)) {
            let _ = bytes_from_hex(&text);
        }
    }
}
