use std::{fmt, path::PathBuf, time::Duration};

use crate::{Target, target::TargetError};

/// How an ETL server reads, transforms and delivers. Every limit has a default; none is unlimited.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EtlSettings {
    /// The target that this server belongs to.
    pub target: Target,
    /// Give file names instead of their bytes to a transform that
    /// [accepts](crate::EtlServer::accepts_files) them. Default: no.
    pub direct_fqn: bool,
    /// How often a direct put is repeated whose connection failed, after 1 s, 2 s, 4 s and so on up to 30 s. Default: 3.
    pub direct_put_retries: u32,
    /// Most connections to targets and stages at a time; objects wait for one. Default: 256.
    pub max_connections: usize,
    /// Most unused connections that are kept. Default: 128.
    pub max_idle_connections: usize,
    /// How long an unused connection is kept. Default: 30 s.
    pub idle_expiry: Duration,
    /// Longest wait for a connection to be made. Default: 10 s.
    pub connect_timeout: Duration,
    /// Longest wait for a target or stage that takes nothing of a result. How long one may think about its answer is the
    /// caller's to limit. Default: 5 min.
    pub stall_timeout: Duration,
    /// Sent as `Authorization: Bearer …` to targets and stages.
    pub token: Option<Token>,
    /// TLS towards an https target.
    pub tls: TlsSettings,
    /// Folders whose files may be named by `etl_fqn`. Without any, every regular file that the process can read may be,
    /// except below `/proc`, `/sys` and `/dev`.
    pub fqn_roots: Vec<PathBuf>,
}

/// How an https target is verified, and what it is shown.
#[derive(Clone, Debug, Default)]
pub struct TlsSettings {
    /// Accept any certificate. For clusters whose certificates nobody signed.
    pub skip_verify: bool,
    /// Certificates to trust, as PEM; the system's if absent.
    pub ca: Option<PathBuf>,
    /// Our certificate chain and its key, as PEM.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// A bearer token. Its `Debug` form does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Takes a token that can stand in a header.
    ///
    /// # Errors
    ///
    /// Fails with the text if that is empty or has characters that a header cannot hold.
    pub fn new(token: impl Into<String>) -> Result<Self, BadToken> {
        let token = token.into();
        let fine = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
        if fine { Ok(Self(token)) } else { Err(BadToken(())) }
    }

    pub(crate) fn header(&self) -> http::HeaderValue {
        let mut value = http::HeaderValue::try_from(format!("Bearer {}", self.0))
            .expect("visible ASCII, as was checked");
        value.set_sensitive(true);
        value
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// A token that cannot stand in a header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token must be visible ASCII characters without spaces")]
pub struct BadToken(());

/// Why environment variables are no settings. Never quotes a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The one that is needed.
    #[error("AIS_TARGET_URL is not set; AIStore sets it in the pods that it starts")]
    NoTarget,
    /// It is no address.
    #[error("AIS_TARGET_URL is not a target's address: {0}")]
    Target(#[from] TargetError),
    /// A number that is none.
    #[error("{name}: `{value}` is not {expected}")]
    Number {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The token is not usable.
    #[error("AIS_AUTHN_TOKEN: {0}")]
    Token(BadToken),
    /// One of a certificate and its key.
    #[error("AIS_CRT and AIS_CRT_KEY go together; {0} is missing")]
    HalfCertificate(&'static str),
    /// A root that is not absolute.
    #[error("ETL_FQN_ROOTS: `{0}` is not an absolute path")]
    Root(String),
}

impl From<Target> for EtlSettings {
    fn from(target: Target) -> Self {
        Self {
            target,
            direct_fqn: false,
            direct_put_retries: 3,
            max_connections: 256,
            max_idle_connections: 128,
            idle_expiry: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(300),
            token: None,
            tls: TlsSettings::default(),
            fqn_roots: Vec::new(),
        }
    }
}

impl EtlSettings {
    /// Reads the contract's environment variables, through `variable`. An empty one counts as absent.
    ///
    /// `AIS_TARGET_URL`, `ETL_DIRECT_FQN`, `AIS_DIRECT_PUT_RETRIES`, `MAX_CONN`, `MAX_KEEPALIVE_CONN`,
    /// `KEEPALIVE_EXPIRY` (seconds), `AIS_AUTHN_TOKEN`, `AIS_SKIP_VERIFY_CRT` (or `AIS_SKIP_VERIFY`), `AIS_CLIENT_CA`,
    /// `AIS_CRT`, `AIS_CRT_KEY`, and of our own `ETL_FQN_ROOTS`, a list divided by colons. `DIRECT_PUT` and
    /// `AIS_DIRECT_PUT_CHUNK_SIZE` change nothing: a direct put is made when a request asks for it, in the pieces of the
    /// transform.
    ///
    /// # Errors
    ///
    /// As the variants of [`SettingsError`].
    pub fn from_variables(
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let url = variable("AIS_TARGET_URL").ok_or(SettingsError::NoTarget)?;
        let mut settings = Self::from(Target::parse(&url)?);
        let truthy = |name: &str| variable(name).is_some_and(|value| is_true(&value));
        settings.direct_fqn = truthy("ETL_DIRECT_FQN");
        let number = |name: &'static str, default: u64, at_least: u64| match variable(name) {
            None => Ok(default),
            Some(value) => value.trim().parse().ok().filter(|n| *n >= at_least).ok_or_else(|| {
                let expected = if at_least == 0 { "a whole number" } else { "a number from 1 up" };
                SettingsError::Number { name, value, expected }
            }),
        };
        let retries = number("AIS_DIRECT_PUT_RETRIES", settings.direct_put_retries.into(), 0)?;
        settings.direct_put_retries = u32::try_from(retries).unwrap_or(u32::MAX);
        let whole = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        settings.max_connections = whole(number("MAX_CONN", 256, 1)?);
        settings.max_idle_connections = whole(number("MAX_KEEPALIVE_CONN", 128, 0)?);
        if let Some(value) = variable("KEEPALIVE_EXPIRY") {
            let seconds = value.trim().parse().ok();
            let expiry = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            settings.idle_expiry = expiry.ok_or(SettingsError::Number {
                name: "KEEPALIVE_EXPIRY",
                value,
                expected: "a number of seconds",
            })?;
        }
        let token = variable("AIS_AUTHN_TOKEN").map(|token| Token::new(token.trim()));
        settings.token = token.transpose().map_err(SettingsError::Token)?;
        settings.tls.skip_verify = truthy("AIS_SKIP_VERIFY_CRT") || truthy("AIS_SKIP_VERIFY");
        settings.tls.ca = variable("AIS_CLIENT_CA").map(PathBuf::from);
        settings.tls.certificate = match (variable("AIS_CRT"), variable("AIS_CRT_KEY")) {
            (None, None) => None,
            (Some(chain), Some(key)) => Some((chain.into(), key.into())),
            (Some(_), None) => return Err(SettingsError::HalfCertificate("AIS_CRT_KEY")),
            (None, Some(_)) => return Err(SettingsError::HalfCertificate("AIS_CRT")),
        };
        for root in variable("ETL_FQN_ROOTS").unwrap_or_default().split(':') {
            match root.trim() {
                "" => {}
                root if root.starts_with('/') => settings.fqn_roots.push(root.into()),
                root => return Err(SettingsError::Root(root.to_owned())),
            }
        }
        Ok(settings)
    }
}

/// What the SDK takes for yes.
fn is_true(value: &str) -> bool {
    ["1", "t", "true", "y", "yes", "on"].iter().any(|yes| value.trim().eq_ignore_ascii_case(yes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: (&str, &str) = ("AIS_TARGET_URL", "http://t:1/v1/etl/_object/x/s3cr3t");

    fn read(variables: &[(&str, &str)]) -> Result<EtlSettings, SettingsError> {
        EtlSettings::from_variables(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_target_is_needed_and_nothing_else() {
        assert_eq!(read(&[]).unwrap_err(), SettingsError::NoTarget);
        assert_eq!(read(&[("AIS_TARGET_URL", " ")]).unwrap_err(), SettingsError::NoTarget);
        let settings = read(&[URL]).unwrap();
        assert_eq!((settings.direct_put_retries, settings.max_connections), (3, 256));
        assert!(!settings.direct_fqn && settings.token.is_none());
    }

    #[test]
    fn variables_are_read_as_the_contract_writes_them() {
        let settings = read(&[
            URL,
            ("ETL_DIRECT_FQN", "Yes"),
            ("AIS_DIRECT_PUT_RETRIES", "0"),
            ("MAX_CONN", "7"),
            ("KEEPALIVE_EXPIRY", "2.5"),
            ("AIS_AUTHN_TOKEN", "tok-123"),
            ("AIS_SKIP_VERIFY", "on"),
            ("AIS_CRT", "/c"),
            ("AIS_CRT_KEY", "/k"),
            ("ETL_FQN_ROOTS", "/a::/b"),
        ])
        .unwrap();
        assert!(settings.direct_fqn && settings.tls.skip_verify);
        assert_eq!((settings.direct_put_retries, settings.max_connections), (0, 7));
        assert_eq!(settings.idle_expiry, Duration::from_millis(2500));
        assert_eq!(settings.fqn_roots, [PathBuf::from("/a"), PathBuf::from("/b")]);
        let shown = format!("{settings:?}");
        assert!(!shown.contains("tok-123") && !shown.contains("s3cr3t"), "{shown}");
    }

    #[track_caller]
    fn refused(name: &str, value: &str) {
        let error = read(&[URL, (name, value)]).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }

    #[test]
    fn a_mistake_is_named() {
        refused("AIS_DIRECT_PUT_RETRIES", "three");
        refused("AIS_DIRECT_PUT_RETRIES", "-1");
        refused("MAX_CONN", "0");
        refused("KEEPALIVE_EXPIRY", "-1");
        refused("KEEPALIVE_EXPIRY", "soon");
        refused("AIS_AUTHN_TOKEN", "a b");
        refused("AIS_CRT", "/c");
        refused("ETL_FQN_ROOTS", "here");
        let error = read(&[("AIS_TARGET_URL", "s3cr3t")]).unwrap_err().to_string();
        assert!(error.contains("AIS_TARGET_URL") && !error.contains("s3cr3t"), "{error}");
    }
}
