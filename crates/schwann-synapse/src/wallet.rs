//! Wallet files of the Python wallet, read and written.
//!
//! A [`Keyfile`] is the content of one file, in any of the forms the Python wallet has had; a [`Wallet`]
//! is the folder of a wallet, `<path>/<name>`, with its coldkey and hotkeys. Nothing here looks at the
//! environment: paths and passwords are arguments.
//!
//! **Reading and writing encrypted files is slow on purpose**: a second and 512 MiB for `$NACL`, many
//! seconds for Fernet. Call those from a thread that may block (`tokio::task::spawn_blocking`); however
//! many threads do, one at a time gets the 512 MiB.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use aes::cipher::{BlockDecryptMut, KeyIvInit, StreamCipher, block_padding::Pkcs7};
use base64::Engine;
use crypto_secretbox::aead::{AeadInPlace, KeyInit};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::keys::{KeyError, Keypair, Scheme, Signer};
use crate::python::{Dict, Value};
use crate::ss58::Hotkey;

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

/// No keyfile comes near this.
const LARGEST_FILE: u64 = 64 * 1024;

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
}

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
        let decrypt: Decrypt = match Encryption::of(bytes) {
            Encryption::Plain => return Keyfile::parse_plain(bytes),
            Encryption::Nacl => decrypt_nacl,
            Encryption::Ansible => decrypt_ansible,
            Encryption::Fernet => decrypt_fernet,
        };
        Keyfile::parse_plain(&decrypt(bytes, password.ok_or(WalletError::PasswordNeeded)?)?)
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
        let mut nonce = [0; NACL_NONCE];
        getrandom::fill(&mut nonce).map_err(|_| KeyError::NoRandomness)?;
        let key = nacl_key(password)?;
        let cipher = crypto_secretbox::XSalsa20Poly1305::new(key.as_slice().into());
        let mut text = Zeroizing::new(self.to_plain().as_bytes().to_vec());
        let tag = cipher
            .encrypt_in_place_detached(&nonce.into(), b"", &mut text)
            .map_err(|_| WalletError::Damaged)?;
        Ok([NACL, &nonce, &tag, &text].concat())
    }
}

impl fmt::Debug for Keyfile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.pair.is_some() { "secret not shown" } else { "public" };
        write!(out, "Keyfile({} {}, {kind})", self.scheme, self.hotkey)
    }
}

/// How a key is written.
#[derive(Clone, Copy)]
pub enum Protection<'p> {
    /// Readable by whoever can read the file.
    Plain,
    /// Encrypted with a password, as `$NACL`.
    Password(&'p str),
}

impl fmt::Debug for Protection<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Protection::Plain => "Plain",
            Protection::Password(_) => "Password(not shown)",
        })
    }
}

/// What to do with a file that is there already.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Overwrite {
    /// Fail with [`WalletError::Exists`]: a key that is lost is lost.
    #[default]
    Refuse,
    /// Replace it.
    Replace,
}

/// The folder of one wallet: `coldkey`, `coldkeypub.txt` and `hotkeys/`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wallet {
    folder: PathBuf,
}

impl Wallet {
    /// The wallet of this name under a folder of wallets; Python's default is `~/.bittensor/wallets` and
    /// `default`. Touches no file.
    ///
    /// # Errors
    ///
    /// Fails if the name is not the name of a folder.
    pub fn at(wallets: &Path, name: &str) -> Result<Wallet, WalletError> {
        Ok(Wallet { folder: wallets.join(plain_name(name)?) })
    }

    /// Where the coldkey is.
    pub fn coldkey_path(&self) -> PathBuf {
        self.folder.join("coldkey")
    }

    /// Where the public half of the coldkey is.
    pub fn coldkeypub_path(&self) -> PathBuf {
        self.folder.join("coldkeypub.txt")
    }

    /// Where a hotkey is.
    ///
    /// # Errors
    ///
    /// Fails if the name is not the name of a file.
    pub fn hotkey_path(&self, name: &str) -> Result<PathBuf, WalletError> {
        Ok(self.folder.join("hotkeys").join(plain_name(name)?))
    }

    /// Where the public half of a hotkey is.
    ///
    /// # Errors
    ///
    /// Fails if the name is not the name of a file.
    pub fn hotkeypub_path(&self, name: &str) -> Result<PathBuf, WalletError> {
        Ok(self.folder.join("hotkeys").join(format!("{}pub.txt", plain_name(name)?)))
    }

    /// Reads a hotkey. Blocks: see the module.
    ///
    /// # Errors
    ///
    /// As [`read_keyfile`].
    pub fn hotkey(&self, name: &str, password: Option<&str>) -> Result<Keyfile, WalletError> {
        read_keyfile(&self.hotkey_path(name)?, password)
    }

    /// Reads the coldkey. Blocks: see the module.
    ///
    /// # Errors
    ///
    /// As [`read_keyfile`].
    pub fn coldkey(&self, password: Option<&str>) -> Result<Keyfile, WalletError> {
        read_keyfile(&self.coldkey_path(), password)
    }

    /// Reads the public half of the coldkey.
    ///
    /// # Errors
    ///
    /// As [`read_keyfile`].
    pub fn coldkeypub(&self) -> Result<Keyfile, WalletError> {
        read_keyfile(&self.coldkeypub_path(), None)
    }

    /// Writes a hotkey and its public half. Blocks: see the module.
    ///
    /// # Errors
    ///
    /// As [`write_keyfile`].
    pub fn write_hotkey(
        &self,
        name: &str,
        key: &Keyfile,
        protection: Protection<'_>,
        overwrite: Overwrite,
    ) -> Result<(), WalletError> {
        write_keyfile(&self.hotkey_path(name)?, key, protection, overwrite)?;
        // The secret is there, so its public half may replace another.
        write_keyfile(
            &self.hotkeypub_path(name)?,
            &key.to_public(),
            Protection::Plain,
            Overwrite::Replace,
        )
    }

    /// Writes the coldkey and its public half. Blocks: see the module.
    ///
    /// # Errors
    ///
    /// As [`write_keyfile`].
    pub fn write_coldkey(
        &self,
        key: &Keyfile,
        protection: Protection<'_>,
        overwrite: Overwrite,
    ) -> Result<(), WalletError> {
        write_keyfile(&self.coldkey_path(), key, protection, overwrite)?;
        write_keyfile(
            &self.coldkeypub_path(),
            &key.to_public(),
            Protection::Plain,
            Overwrite::Replace,
        )
    }
}

/// Reads one keyfile, at most 64 KiB. Blocks: see the module.
///
/// # Errors
///
/// As [`Keyfile::parse`], and if the file cannot be read.
pub fn read_keyfile(path: &Path, password: Option<&str>) -> Result<Keyfile, WalletError> {
    let failed = |source| WalletError::File { path: path.to_owned(), source };
    let mut bytes = Zeroizing::new(Vec::with_capacity(LARGEST_FILE as usize + 1));
    let file = File::open(path).map_err(failed)?;
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(WalletError::NotAKeyfile);
    }
    Keyfile::parse(&bytes, password)
}

/// Writes one keyfile (0600), making its folders (0700). Blocks: see the module.
///
/// After a crash the file is the old one or the new one, whole.
///
/// # Errors
///
/// [`WalletError::Exists`] unless told to replace, and if the file cannot be written.
pub fn write_keyfile(
    path: &Path,
    key: &Keyfile,
    protection: Protection<'_>,
    overwrite: Overwrite,
) -> Result<(), WalletError> {
    // Asked again below, without a gap; here it spares the wait for the encryption.
    if overwrite == Overwrite::Refuse && path.symlink_metadata().is_ok() {
        return Err(WalletError::Exists { path: path.to_owned() });
    }
    match protection {
        Protection::Plain => write_file(path, key.to_plain().as_bytes(), overwrite),
        Protection::Password(password) => write_file(path, &key.to_nacl(password)?, overwrite),
    }
}

/// Whether only its owner can read or write a file. The Python wallet writes keys so; a file that was
/// copied about may have lost it.
///
/// # Errors
///
/// Fails if there is no such file.
pub fn is_private(path: &Path) -> Result<bool, WalletError> {
    match fs::metadata(path) {
        Ok(meta) => Ok(meta.permissions().mode() & 0o077 == 0),
        Err(source) => Err(WalletError::File { path: path.to_owned(), source }),
    }
}

fn write_file(path: &Path, bytes: &[u8], overwrite: Overwrite) -> Result<(), WalletError> {
    let failed = |source: io::Error| WalletError::File { path: path.to_owned(), source };
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|_| KeyError::NoRandomness)?;
    let temporary = folder.join(format!(".{}.new", hex::encode(random)));
    let placed = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| match overwrite {
            Overwrite::Replace => fs::rename(&temporary, path),
            // A link fails if the name is taken, in one step with taking it.
            Overwrite::Refuse => fs::hard_link(&temporary, path),
        });
    if overwrite == Overwrite::Refuse || placed.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    match placed {
        Ok(()) => {}
        Err(why) if why.kind() == io::ErrorKind::AlreadyExists => {
            return Err(WalletError::Exists { path: path.to_owned() });
        }
        Err(why) => return Err(failed(why)),
    }
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

fn plain_name(name: &str) -> Result<&str, WalletError> {
    let harmless = !matches!(name, "" | "." | "..") && !name.contains(['/', '\\', '\0']);
    if harmless { Ok(name) } else { Err(WalletError::Name) }
}

/// The environment variable in which the Python wallet looks for the password of a file: `BT_PW_` and
/// the path in capitals, with `_` for slashes and dots.
pub fn password_variable(path: &str) -> String {
    format!("BT_PW_{}", path.to_uppercase().replace(['/', '.'], "_"))
}

/// Reads a password as the Python wallet hides it in such a variable: base64 of its bytes, each combined
/// with the next of the variable's name. This hides it from a glance, not from a reader.
///
/// # Errors
///
/// Fails if the value is not base64 of UTF-8 text so combined.
pub fn reveal_password(variable: &str, value: &str) -> Result<Zeroizing<String>, WalletError> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(value.trim());
    let bytes = Zeroizing::new(bytes.map_err(|_| WalletError::HiddenPassword)?);
    let bytes = Zeroizing::new(combined(variable, &bytes));
    std::str::from_utf8(&bytes)
        .map(|text| Zeroizing::new(text.to_owned()))
        .map_err(|_| WalletError::HiddenPassword)
}

/// Hides a password as [`reveal_password`] reads it.
pub fn hide_password(variable: &str, password: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(combined(variable, password.as_bytes()))
}

fn combined(variable: &str, bytes: &[u8]) -> Vec<u8> {
    bytes.iter().zip(variable.bytes().cycle()).map(|(byte, mask)| byte ^ mask).collect()
}

/// Why a keyfile was not read or written. Never contains a secret or a password.
#[derive(Debug, thiserror::Error)]
pub enum WalletError {
    /// The system refused.
    #[error("cannot use the keyfile {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is one already, and it was not to be replaced.
    #[error("the keyfile {} exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A name that would lead elsewhere.
    #[error("a wallet or hotkey name is the name of one file, without slashes")]
    Name,
    /// Neither a known encryption nor JSON with a key.
    #[error("not a keyfile")]
    NotAKeyfile,
    /// `cryptoType` is neither 0 nor 1.
    #[error("the keyfile is of an unknown cryptoType")]
    UnknownScheme,
    /// There is a secret, but in no form that makes a key.
    #[error("the keyfile's secret is damaged")]
    BadSecret,
    /// The file names one address and holds the key of another.
    #[error("the keyfile names {named} but holds the key of {found}")]
    WrongAddress {
        /// The address named.
        named: Hotkey,
        /// The address of the key.
        found: Hotkey,
    },
    /// Encrypted, and no password was given.
    #[error("the keyfile is encrypted, and no password was given")]
    PasswordNeeded,
    /// The password is wrong, or the file was changed: the two cannot be told apart.
    #[error("the password is wrong, or the keyfile was changed")]
    WrongPassword,
    /// Encrypted, but not in its form.
    #[error("the encrypted keyfile is damaged")]
    Damaged,
    /// A public file has no key to sign with.
    #[error("the keyfile is public: it holds no key to sign with")]
    PublicOnly,
    /// 512 MiB were not to be had.
    #[error("not enough memory: this takes 512 MiB")]
    NotEnoughMemory,
    /// The environment variable is not what the Python wallet writes.
    #[error("not a password as the Python wallet hides it")]
    HiddenPassword,
    /// No key could be made.
    #[error(transparent)]
    Key(#[from] KeyError),
}

type Decrypt = fn(&[u8], &str) -> Result<Zeroizing<Vec<u8>>, WalletError>;

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
    use crate::keys::DEV_PHRASE;

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
    fn encrypted_files_open_with_their_password_only() {
        let sealed = alice().to_nacl("pässword").unwrap();
        assert_eq!(Encryption::of(&sealed), Encryption::Nacl);
        assert_eq!(Keyfile::parse(&sealed, Some("pässword")).unwrap().hotkey().to_string(), ALICE);
        assert!(matches!(Keyfile::parse(&sealed, Some("other")), Err(WalletError::WrongPassword)));
        assert!(matches!(Keyfile::parse(&sealed, None), Err(WalletError::PasswordNeeded)));
        assert!(matches!(Keyfile::parse(&sealed[..30], Some("x")), Err(WalletError::Damaged)));
    }

    /// Made with Ansible's own recipe over `{"ss58Address": ...}`; a fixed salt, and the password `hunter2`.
    #[test]
    fn ansible_files_are_authenticated_and_unpadded() {
        let sealed = include_bytes!("../tests/data/ansible.vault");
        assert_eq!(Encryption::of(sealed), Encryption::Ansible);
        assert_eq!(Keyfile::parse(sealed, Some("hunter2")).unwrap().hotkey().to_string(), ALICE);
        assert!(matches!(Keyfile::parse(sealed, Some("hunter3")), Err(WalletError::WrongPassword)));
        let cut = &sealed[..sealed.len() - 9];
        assert!(matches!(
            Keyfile::parse(cut, Some("hunter2")),
            Err(WalletError::WrongPassword | WalletError::Damaged)
        ));
    }

    #[test]
    fn files_are_private_whole_and_not_overwritten() {
        let root = tempfile::tempdir().unwrap();
        let wallet = Wallet::at(&root.path().join("wallets"), "w").unwrap();
        let other = Keyfile::new(Keypair::from_uri("//Bob").unwrap());
        wallet.write_hotkey("h", &alice(), Protection::Plain, Overwrite::Refuse).unwrap();
        let again = wallet.write_hotkey("h", &other, Protection::Plain, Overwrite::Refuse);
        assert!(matches!(again, Err(WalletError::Exists { .. })));
        assert_eq!(wallet.hotkey("h", None).unwrap().hotkey().to_string(), ALICE);
        let path = wallet.hotkey_path("h").unwrap();
        assert!(matches!(
            write_file(&path, b"x", Overwrite::Refuse),
            Err(WalletError::Exists { .. })
        ));
        assert!(is_private(&path).unwrap());
        let folder = fs::metadata(path.parent().unwrap()).unwrap();
        assert_eq!(folder.permissions().mode() & 0o777, 0o700);
        wallet.write_hotkey("h", &other, Protection::Plain, Overwrite::Replace).unwrap();
        assert_eq!(wallet.hotkey("h", None).unwrap().hotkey(), other.hotkey());
        let public = read_keyfile(&wallet.hotkeypub_path("h").unwrap(), None).unwrap();
        assert_eq!(public.hotkey(), other.hotkey());
        assert!(matches!(public.into_keypair(), Err(WalletError::PublicOnly)));
        wallet.write_coldkey(&alice(), Protection::Plain, Overwrite::Refuse).unwrap();
        assert_eq!(wallet.coldkeypub().unwrap().hotkey(), wallet.coldkey(None).unwrap().hotkey());
        let left = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(left, 2, "temporary files were left behind");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(!is_private(&path).unwrap());
    }

    #[test]
    fn names_cannot_lead_elsewhere() {
        let root = Path::new("wallets");
        for name in ["", ".", "..", "a/b", "../a", "a\0b", "a\\b"] {
            assert!(matches!(Wallet::at(root, name), Err(WalletError::Name)), "{name:?}");
            assert!(Wallet::at(root, "w").unwrap().hotkey_path(name).is_err(), "{name:?}");
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

    #[test]
    fn hidden_passwords_come_back() {
        let variable = password_variable("/home/a b/.bittensor/wallets/w/coldkey");
        assert_eq!(variable, "BT_PW__HOME_A B__BITTENSOR_WALLETS_W_COLDKEY");
        let hidden = hide_password(&variable, "hunter2 é");
        assert!(!hidden.contains("hunter2"));
        assert_eq!(reveal_password(&variable, &hidden).unwrap().as_str(), "hunter2 é");
        assert!(reveal_password(&variable, "no base64!").is_err());
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

        #[test]
        fn no_damaged_token_panics(body in "[A-Za-z0-9_=-]{0,60}") {
            // Shorter than any token: what is long enough takes seconds each.
            let _ = decrypt_fernet(format!("gAAAAA{body}").as_bytes(), "x");
        }
    }
}
