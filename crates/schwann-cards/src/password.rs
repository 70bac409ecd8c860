//! Passwords and the secrets of tokens.

use std::{io, sync::Arc};

use argon2::{
    Argon2,
    password_hash::{PasswordHash, PasswordHasher as _, PasswordVerifier as _, SaltString},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use crate::problem::Problem;

/// Hashes and compares passwords with Argon2id, a few at a time: each takes 19 MiB and tens of milliseconds of a core.
#[derive(Debug)]
pub(crate) struct Passwords {
    room: Arc<Semaphore>,
    /// A hash of nothing anybody knows, so that an email that does not exist costs the same time.
    dummy: String,
}

/// Shortest and longest password, in characters.
pub(crate) const LENGTH: (usize, usize) = (8, 128);

impl Passwords {
    /// # Errors
    ///
    /// Fails if the system gives no random bytes.
    pub(crate) fn new() -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let dummy = hash(&random_secret("")?)?;
        Ok(Self { room: Arc::new(Semaphore::new(cores)), dummy })
    }

    /// The hash to store.
    pub(crate) async fn hash(&self, password: String) -> Result<String, Problem> {
        self.work(move || hash(&password)).await?.map_err(Problem::internal)
    }

    /// Whether this is the password of this hash. Without a hash: no, after the same time.
    pub(crate) async fn matches(
        &self,
        password: String,
        stored: Option<String>,
    ) -> Result<bool, Problem> {
        let known = stored.is_some();
        let stored = stored.unwrap_or_else(|| self.dummy.clone());
        let same = move || {
            let hash = PasswordHash::new(&stored)?;
            match Argon2::default().verify_password(password.as_bytes(), &hash) {
                Ok(()) => Ok(true),
                Err(argon2::password_hash::Error::Password) => Ok(false),
                Err(error) => Err(error),
            }
        };
        let same = self.work(same).await?.map_err(|error| Problem::internal(error.to_string()))?;
        Ok(same && known)
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let permit = Arc::clone(&self.room).acquire_owned().await.map_err(Problem::internal)?;
        let work = move || {
            let done = work();
            drop(permit);
            done
        };
        tokio::task::spawn_blocking(work).await.map_err(Problem::internal)
    }
}

fn hash(password: &str) -> io::Result<String> {
    let mut salt = [0; 16];
    fill(&mut salt)?;
    let salt = SaltString::encode_b64(&salt).expect("16 bytes are a salt");
    let hash = Argon2::default().hash_password(password.as_bytes(), &salt);
    Ok(hash.expect("the default parameters are good, and passwords are short").to_string())
}

fn fill(bytes: &mut [u8]) -> io::Result<()> {
    getrandom::fill(bytes).map_err(|error| io::Error::other(error.to_string()))
}

/// 256 random bits as text, after `prefix`.
///
/// # Errors
///
/// Fails if the system gives no random bytes.
pub(crate) fn random_secret(prefix: &str) -> io::Result<String> {
    let mut bytes = [0; 32];
    fill(&mut bytes)?;
    Ok(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// A password that a person can type: 100 bits, in five groups.
///
/// # Errors
///
/// Fails if the system gives no random bytes.
pub(crate) fn random_password() -> io::Result<String> {
    // 32 signs, none of which looks like another.
    const SIGNS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bytes = [0; 20];
    fill(&mut bytes)?;
    let signs: String =
        bytes.iter().map(|byte| char::from(SIGNS[usize::from(byte % 32)])).collect();
    let groups: Vec<_> = (0..5).map(|group| &signs[4 * group..4 * group + 4]).collect();
    Ok(groups.join("-"))
}

/// What is stored of a token. Tokens have 256 random bits, so a plain hash cannot be guessed back.
pub(crate) fn token_hash(secret: &str) -> String {
    hex::encode(Sha256::digest(secret.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_matches_its_own_hash_only() {
        let passwords = Passwords::new().unwrap();
        let hash = passwords.hash("correct horse".to_owned()).await.unwrap();
        assert!(hash.starts_with("$argon2id$"));
        assert!(passwords.matches("correct horse".to_owned(), Some(hash.clone())).await.unwrap());
        assert!(!passwords.matches("correct Horse".to_owned(), Some(hash)).await.unwrap());
        assert!(!passwords.matches("correct horse".to_owned(), None).await.unwrap());
    }

    #[test]
    fn secrets_differ() {
        assert_ne!(random_secret("a").unwrap(), random_secret("a").unwrap());
        let password = random_password().unwrap();
        assert_eq!(password.len(), 24);
        assert_ne!(password, random_password().unwrap());
    }
}
