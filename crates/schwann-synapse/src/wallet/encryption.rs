//! The encryptions that keyfiles have had.

use std::sync::{Mutex, PoisonError};

use aes::cipher::{BlockDecryptMut, KeyIvInit, StreamCipher, block_padding::Pkcs7};
use base64::Engine;
use crypto_secretbox::aead::{AeadInPlace, KeyInit};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::WalletError;
use crate::keys::KeyError;

const NACL: &[u8] = b"$NACL";
const ANSIBLE: &[u8] = b"$ANSIBLE_VAULT;1.1;AES256";
const FERNET: &[u8] = b"gAAAAA";

/// The salt of every `$NACL` file ever written: the wallet has only this one.
const NACL_SALT: [u8; 16] = [
    0x13, 0x71, 0x83, 0xdf, 0xf1, 0x5a, 0x09, 0xbc, 0x9c, 0x90, 0xb5, 0x51, 0x87, 0x39, 0xe9, 0xb1,
];
/// The salt of every Fernet file, likewise.
const FERNET_SALT: &[u8] = b"Iguesscyborgslikemyselfhaveatendencytobeparanoidaboutourorigins";
const FERNET_ROUNDS: u32 = 10_000_000;
const ANSIBLE_ROUNDS: u32 = 10_000;
/// Argon2's memory in KiB, and its passes.
const NACL_MEMORY: u32 = 512 * 1024;
const NACL_PASSES: u32 = 8;
const NACL_NONCE: usize = 24;
const NACL_TAG: usize = 16;

/// How the bytes of a keyfile are protected, told by how they begin.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Encryption {
    /// Not at all: JSON.
    Plain,
    /// `$NACL`: Argon2i and a secret box. The only encryption that is written.
    Nacl,
    /// `$ANSIBLE_VAULT;1.1;AES256`, of early wallets.
    Ansible,
    /// A Fernet token, of the earliest. Wallets 4.0 and 4.1 cannot read it any more.
    Fernet,
}

impl Encryption {
    /// Looks at the first bytes of a keyfile.
    pub fn of(bytes: &[u8]) -> Encryption {
        match bytes {
            bytes if bytes.starts_with(NACL) => Encryption::Nacl,
            bytes if bytes.starts_with(ANSIBLE) => Encryption::Ansible,
            bytes if bytes.starts_with(FERNET) => Encryption::Fernet,
            _ => Encryption::Plain,
        }
    }

    /// The text of a file of this kind; `None` if it is one as it stands.
    pub(super) fn decrypt(
        self,
        bytes: &[u8],
        password: Option<&str>,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, WalletError> {
        let decrypt = match self {
            Encryption::Plain => return Ok(None),
            Encryption::Nacl => decrypt_nacl,
            Encryption::Ansible => decrypt_ansible,
            Encryption::Fernet => decrypt_fernet,
        };
        decrypt(bytes, password.ok_or(WalletError::PasswordNeeded)?).map(Some)
    }
}

/// The content of a `$NACL` file.
pub(super) fn encrypt_nacl(text: &str, password: &str) -> Result<Vec<u8>, WalletError> {
    let mut nonce = [0; NACL_NONCE];
    getrandom::fill(&mut nonce).map_err(|_| KeyError::NoRandomness)?;
    let key = nacl_key(password)?;
    let cipher = crypto_secretbox::XSalsa20Poly1305::new(key.as_slice().into());
    let mut text = Zeroizing::new(text.as_bytes().to_vec());
    let tag = cipher
        .encrypt_in_place_detached(&nonce.into(), b"", &mut text)
        .map_err(|_| WalletError::Damaged)?;
    Ok([NACL, &nonce, &tag, &text].concat())
}

/// Only one at a time: four threads would take 2 GiB.
static STRETCHING: Mutex<()> = Mutex::new(());

fn nacl_key(password: &str) -> Result<Zeroizing<[u8; 32]>, WalletError> {
    let _turn = STRETCHING.lock().unwrap_or_else(PoisonError::into_inner);
    let params = argon2::Params::new(NACL_MEMORY, NACL_PASSES, 1, Some(32))
        .map_err(|_| WalletError::Damaged)?;
    let mut blocks = Vec::new();
    blocks.try_reserve_exact(params.block_count()).map_err(|_| WalletError::NotEnoughMemory)?;
    blocks.resize(params.block_count(), argon2::Block::new());
    let mut key = Zeroizing::new([0; 32]);
    argon2::Argon2::new(argon2::Algorithm::Argon2i, argon2::Version::V0x13, params)
        .hash_password_into_with_memory(password.as_bytes(), &NACL_SALT, key.as_mut(), &mut blocks)
        .map_err(|_| WalletError::Damaged)?;
    Ok(key)
}

fn decrypt_nacl(bytes: &[u8], password: &str) -> Result<Zeroizing<Vec<u8>>, WalletError> {
    let sealed = &bytes[NACL.len()..];
    if sealed.len() < NACL_NONCE + NACL_TAG {
        return Err(WalletError::Damaged);
    }
    let (nonce, sealed) = sealed.split_at(NACL_NONCE);
    let (tag, sealed) = sealed.split_at(NACL_TAG);
    let mut text = Zeroizing::new(sealed.to_vec());
    crypto_secretbox::XSalsa20Poly1305::new(nacl_key(password)?.as_slice().into())
        .decrypt_in_place_detached(nonce.into(), b"", &mut text, tag.into())
        .map_err(|_| WalletError::WrongPassword)?;
    Ok(text)
}

fn decrypt_ansible(bytes: &[u8], password: &str) -> Result<Zeroizing<Vec<u8>>, WalletError> {
    let digits: Vec<u8> =
        bytes[ANSIBLE.len()..].iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let inner = hex::decode(digits).map_err(|_| WalletError::Damaged)?;
    let mut parts = inner.splitn(3, |byte| *byte == b'\n').map(hex::decode);
    let mut part = || parts.next().and_then(Result::ok).ok_or(WalletError::Damaged);
    let (salt, tag, sealed) = (part()?, part()?, part()?);
    let mut keys = Zeroizing::new([0; 80]);
    pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), &salt, ANSIBLE_ROUNDS, keys.as_mut());
    let (key, rest) = keys.split_at(32);
    let (mac_key, counter) = rest.split_at(32);
    authenticate(mac_key, &sealed, &tag)?;
    let mut text = Zeroizing::new(sealed);
    ctr::Ctr128BE::<aes::Aes256>::new(key.into(), counter.into()).apply_keystream(&mut text);
    let padding = usize::from(*text.last().ok_or(WalletError::Damaged)?);
    let length = text.len().checked_sub(padding).filter(|_| (1..=16).contains(&padding));
    text.truncate(length.ok_or(WalletError::Damaged)?);
    Ok(text)
}

fn decrypt_fernet(bytes: &[u8], password: &str) -> Result<Zeroizing<Vec<u8>>, WalletError> {
    let url_safe = base64::engine::GeneralPurpose::new(
        &base64::alphabet::URL_SAFE,
        base64::engine::GeneralPurposeConfig::new()
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
    );
    let token = url_safe.decode(bytes.trim_ascii()).map_err(|_| WalletError::Damaged)?;
    // A version, eight bytes of time, the first block, whole blocks, and the tag.
    if token.len() < 1 + 8 + 16 + 16 + 32 || token[0] != 0x80 {
        return Err(WalletError::Damaged);
    }
    let (signed, tag) = token.split_at(token.len() - 32);
    let mut keys = Zeroizing::new([0; 32]);
    pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), FERNET_SALT, FERNET_ROUNDS, keys.as_mut());
    let (mac_key, key) = keys.split_at(16);
    authenticate(mac_key, signed, tag)?;
    let (head, sealed) = signed.split_at(1 + 8 + 16);
    let mut text = Zeroizing::new(sealed.to_vec());
    let length = cbc::Decryptor::<aes::Aes128>::new(key.into(), head[9..].into())
        .decrypt_padded_mut::<Pkcs7>(&mut text)
        .map_err(|_| WalletError::Damaged)?
        .len();
    text.truncate(length);
    Ok(text)
}

fn authenticate(key: &[u8], sealed: &[u8], tag: &[u8]) -> Result<(), WalletError> {
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).map_err(|_| WalletError::Damaged)?;
    mac.update(sealed);
    mac.verify_slice(tag).map_err(|_| WalletError::WrongPassword)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Keypair;
    use crate::wallet::Keyfile;

    const ALICE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";

    #[test]
    fn encrypted_files_open_with_their_password_only() {
        let sealed =
            Keyfile::new(Keypair::from_uri("//Alice").unwrap()).to_nacl("pässword").unwrap();
        assert_eq!(Encryption::of(&sealed), Encryption::Nacl);
        assert_eq!(Keyfile::parse(&sealed, Some("pässword")).unwrap().hotkey().to_string(), ALICE);
        assert!(matches!(Keyfile::parse(&sealed, Some("other")), Err(WalletError::WrongPassword)));
        assert!(matches!(Keyfile::parse(&sealed, None), Err(WalletError::PasswordNeeded)));
        assert!(matches!(Keyfile::parse(&sealed[..30], Some("x")), Err(WalletError::Damaged)));
    }

    /// Made with Ansible's own recipe over `{"ss58Address": ...}`; a fixed salt, and the password `hunter2`.
    #[test]
    fn ansible_files_are_authenticated_and_unpadded() {
        let sealed = include_bytes!("../../tests/data/ansible.vault");
        assert_eq!(Encryption::of(sealed), Encryption::Ansible);
        assert_eq!(Keyfile::parse(sealed, Some("hunter2")).unwrap().hotkey().to_string(), ALICE);
        assert!(matches!(Keyfile::parse(sealed, Some("hunter3")), Err(WalletError::WrongPassword)));
        let cut = &sealed[..sealed.len() - 9];
        assert!(matches!(
            Keyfile::parse(cut, Some("hunter2")),
            Err(WalletError::WrongPassword | WalletError::Damaged)
        ));
    }

    proptest::proptest! {
        #[test]
        fn no_damaged_token_panics(body in "[A-Za-z0-9_=-]{0,60}") {
            // Shorter than any token: what is long enough takes seconds each.
            let _ = decrypt_fernet(format!("gAAAAA{body}").as_bytes(), "x");
        }
    }
}
