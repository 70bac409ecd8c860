//! Public keys, and what they verify.

use std::fmt;
use std::sync::Arc;

use super::{KeyError, Scheme};
use crate::ss58::Hotkey;
use crate::verification::Sr25519;

/// A public key decoded once, to verify with many times. Clones are one key.
#[derive(Clone)]
pub struct PublicKey {
    pub(super) hotkey: Hotkey,
    pub(super) point: Point,
}

#[derive(Clone)]
pub(super) enum Point {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{Keypair, Signer};

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

    proptest::proptest! {
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
