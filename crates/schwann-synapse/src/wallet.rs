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

use zeroize::Zeroizing;

use crate::keys::KeyError;
use crate::ss58::Hotkey;

mod encryption;
mod hidden_password;
mod keyfile;

pub use encryption::Encryption;
pub use hidden_password::{hide_password, password_variable, reveal_password};
pub use keyfile::Keyfile;

/// No keyfile comes near this.
const LARGEST_FILE: u64 = 64 * 1024;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Keypair;

    const ALICE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";

    fn alice() -> Keyfile {
        Keyfile::new(Keypair::from_uri("//Alice").unwrap())
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
}
