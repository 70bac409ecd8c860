//! What a key is derived from: a phrase or a seed, a path and a password.

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest};
use zeroize::{Zeroize, Zeroizing};

use super::KeyError;

pub(super) struct SecretUri<'a> {
    pub(super) phrase: &'a str,
    pub(super) junctions: Vec<Junction>,
    pub(super) password: Option<&'a str>,
}

pub(super) struct Junction {
    pub(super) hard: bool,
    pub(super) code: [u8; 32],
}

impl<'a> SecretUri<'a> {
    pub(super) fn parse(text: &'a str) -> Result<SecretUri<'a>, KeyError> {
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

pub(super) fn seed_from_hex(digits: &str) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let mut seed = Zeroizing::new([0; 32]);
    hex::decode_to_slice(digits, seed.as_mut()).map_err(|_| KeyError::Seed)?;
    Ok(seed)
}

pub(super) fn seed_from_phrase(
    phrase: &str,
    password: Option<&str>,
) -> Result<Zeroizing<[u8; 32]>, KeyError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{DEV_PHRASE, Keypair, Scheme, Signer};

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
        fn no_uri_panics(uri in "(0x)?[a-z0-9/ é\n]{0,40}") {
            let _ = SecretUri::parse(&uri);
        }
    }
}
