//! Addresses: ss58 text and the public key in it.

use std::fmt;
use std::str::FromStr;

use blake2::digest::consts::U64;
use blake2::{Blake2b, Digest};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The network prefix of every Bittensor address: the leading `5`.
pub const BITTENSOR_PREFIX: u16 = 42;

/// The largest prefix two bytes can carry.
const LARGEST_PREFIX: u16 = 16_383;

/// No valid address is longer: 36 bytes in base 58 take at most 50 letters.
const LONGEST_TEXT: usize = 50;

const CHECKSUM_BYTES: usize = 2;

/// Who signs on this wire: the 32 bytes of a public key.
///
/// Two hotkeys are equal when their public keys are, whatever network prefix the text carried (W13).
/// `Display` and serde write the address with prefix 42; reading accepts any prefix.
/// The bytes need not be a point of the curve: [`crate::keys::PublicKey`] decides that.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hotkey([u8; 32]);

impl Hotkey {
    /// The hotkey with these public key bytes.
    pub const fn from_bytes(key: [u8; 32]) -> Hotkey {
        Hotkey(key)
    }

    /// The public key bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether this is the all-zero key, for which anybody can sign (W10).
    pub fn is_identity(&self) -> bool {
        self.0 == [0; 32]
    }
}

impl From<[u8; 32]> for Hotkey {
    fn from(key: [u8; 32]) -> Hotkey {
        Hotkey(key)
    }
}

impl FromStr for Hotkey {
    type Err = Ss58Error;

    /// Reads an address with any network prefix.
    fn from_str(text: &str) -> Result<Hotkey, Ss58Error> {
        Ss58::parse(text).map(|address| Hotkey(address.key))
    }
}

impl fmt::Display for Hotkey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ss58 { prefix: BITTENSOR_PREFIX, key: self.0 }.fmt(out)
    }
}

impl fmt::Debug for Hotkey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Hotkey({self})")
    }
}

impl Serialize for Hotkey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hotkey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Hotkey, D::Error> {
        struct Text;
        impl serde::de::Visitor<'_> for Text {
            type Value = Hotkey;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an ss58 address")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Hotkey, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// An address as written: the key and the network prefix it was written with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ss58 {
    /// Which network the address was written for; 42 on Bittensor.
    pub prefix: u16,
    /// The public key bytes.
    pub key: [u8; 32],
}

impl Ss58 {
    /// Reads an address with a prefix of one or two bytes.
    ///
    /// # Errors
    ///
    /// Distinguishes what SDK 8 to 10 distinguish (§9.4), in their order: alphabet, length, checksum.
    /// Text longer than any address is refused without decoding it.
    pub fn parse(text: &str) -> Result<Ss58, Ss58Error> {
        let mut bytes = [0u8; LONGEST_TEXT];
        if text.len() > LONGEST_TEXT {
            // Base 58 takes quadratic time, so only the letters of a long text are looked at.
            let letters = text.bytes().all(is_letter);
            return Err(if letters { Ss58Error::Length } else { Ss58Error::Alphabet });
        }
        let length = bs58::decode(text).onto(&mut bytes).map_err(|_| Ss58Error::Alphabet)?;
        let bytes = &bytes[..length];
        if bytes.len() < 2 {
            return Err(Ss58Error::Length);
        }
        let (prefix_bytes, prefix) = match bytes[0] {
            one @ 0..=63 => (1, u16::from(one)),
            first @ 64..=127 => {
                // The six low bits of the first byte are bits 2 to 7 of the prefix, the two high
                // bits of the second are bits 0 and 1, and the rest of it bits 8 to 13.
                let second = bytes[1];
                let low = (first << 2) | (second >> 6);
                (2, u16::from(low) | (u16::from(second & 0b0011_1111) << 8))
            }
            _ => return Err(Ss58Error::Prefix),
        };
        if bytes.len() != prefix_bytes + 32 + CHECKSUM_BYTES {
            return Err(Ss58Error::Length);
        }
        if prefix == 46 || prefix == 47 {
            return Err(Ss58Error::Reserved);
        }
        let (payload, written) = bytes.split_at(prefix_bytes + 32);
        if checksum(payload) != written {
            return Err(Ss58Error::Checksum);
        }
        let mut key = [0; 32];
        key.copy_from_slice(&payload[prefix_bytes..]);
        Ok(Ss58 { prefix, key })
    }

    /// The hotkey, without the prefix.
    pub fn hotkey(&self) -> Hotkey {
        Hotkey(self.key)
    }
}

impl fmt::Display for Ss58 {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0u8; 2 + 32 + CHECKSUM_BYTES];
        let prefix = self.prefix & LARGEST_PREFIX;
        let prefix_bytes = match u8::try_from(prefix) {
            Ok(one @ 0..=63) => {
                bytes[0] = one;
                1
            }
            _ => {
                bytes[0] = ((prefix & 0b1111_1100) >> 2) as u8 | 0b0100_0000;
                bytes[1] = (prefix >> 8) as u8 | ((prefix & 0b11) << 6) as u8;
                2
            }
        };
        bytes[prefix_bytes..prefix_bytes + 32].copy_from_slice(&self.key);
        let sum = checksum(&bytes[..prefix_bytes + 32]);
        bytes[prefix_bytes + 32..][..CHECKSUM_BYTES].copy_from_slice(&sum);
        let mut text = [0u8; LONGEST_TEXT];
        let length = bs58::encode(&bytes[..prefix_bytes + 32 + CHECKSUM_BYTES])
            .onto(&mut text[..])
            .map_err(|_| fmt::Error)?;
        out.pad(std::str::from_utf8(&text[..length]).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Ss58 {
    type Err = Ss58Error;

    fn from_str(text: &str) -> Result<Ss58, Ss58Error> {
        Ss58::parse(text)
    }
}

/// Why a text is no address.
///
/// The texts are those of SDK 8 to 10 after `Not Verified with error: ` (§9.4), hence the capitals.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Ss58Error {
    /// A character outside the base 58 alphabet: also for hex, spaces and the empty prefix `0x`.
    #[error("Invalid SS58 address: Base 58 requirement is violated")]
    Alphabet,
    /// Not a prefix, 32 bytes and a checksum of two bytes.
    #[error("Invalid SS58 address: Length is bad")]
    Length,
    /// The checksum is of another text: a letter is wrong.
    #[error("Invalid SS58 address: Invalid checksum")]
    Checksum,
    /// The first byte announces a prefix longer than two bytes, which nobody defines.
    #[error("Invalid SS58 address: Invalid SS58 prefix byte.")]
    Prefix,
    /// Prefixes 46 and 47, set aside by the registry.
    #[error("Invalid SS58 address: Disallowed SS58 Address Format for this datatype.")]
    Reserved,
}

fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() && !matches!(byte, b'0' | b'O' | b'I' | b'l')
}

fn checksum(payload: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = Blake2b::<U64>::new();
    hasher.update(b"SS58PRE");
    hasher.update(payload);
    let hash = hasher.finalize();
    [hash[0], hash[1]]
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";

    #[track_caller]
    fn refused(text: &str, expected: Ss58Error) {
        assert_eq!(Ss58::parse(text), Err(expected), "{text:?}");
    }

    #[test]
    fn an_address_reads_and_writes_itself() {
        let hotkey: Hotkey = ALICE.parse().unwrap();
        assert_eq!(hotkey.to_string(), ALICE);
        assert_eq!(
            hex::encode(hotkey.as_bytes()),
            "d43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d"
        );
        assert_eq!(serde_json::to_string(&hotkey).unwrap(), format!("\"{ALICE}\""));
        assert_eq!(serde_json::from_str::<Hotkey>(&format!("\"{ALICE}\"")).unwrap(), hotkey);
    }

    #[test]
    fn one_key_under_any_prefix_is_one_hotkey() {
        let key = *ALICE.parse::<Hotkey>().unwrap().as_bytes();
        for prefix in (0..=LARGEST_PREFIX).filter(|prefix| !matches!(prefix, 46 | 47)) {
            let text = Ss58 { prefix, key }.to_string();
            assert_eq!(Ss58::parse(&text), Ok(Ss58 { prefix, key }), "{text}");
            assert_eq!(text.parse::<Hotkey>().unwrap().to_string(), ALICE);
        }
    }

    #[test]
    fn each_way_to_be_wrong_has_its_name() {
        refused("", Ss58Error::Length);
        refused("5", Ss58Error::Length);
        refused("xoTFzto4hcpjY2UedHgGGtrJZHS7AdJho8airAmkEDrc1n", Ss58Error::Length);
        refused(&ALICE.repeat(2), Ss58Error::Length);
        refused(&"1".repeat(60_000), Ss58Error::Length);
        refused(&format!("{}0", ALICE.repeat(2)), Ss58Error::Alphabet);
        refused(&format!(" {ALICE}"), Ss58Error::Alphabet);
        refused(&format!("0x{}", "8e".repeat(32)), Ss58Error::Alphabet);
        refused("é", Ss58Error::Alphabet);
        refused(&ALICE.replace("QY", "QZ"), Ss58Error::Checksum);
        let key = [7; 32];
        refused(&Ss58 { prefix: 46, key }.to_string(), Ss58Error::Reserved);
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in ".{0,80}") {
            let _ = Ss58::parse(&text);
        }

        #[test]
        fn no_letters_panic(text in "[1-9A-HJ-NP-Za-km-z]{0,60}") {
            let _ = Ss58::parse(&text);
        }
    }
}
