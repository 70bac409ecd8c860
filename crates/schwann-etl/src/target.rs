use std::fmt;

use http::uri::{Authority, Scheme};

/// Where the AIStore target is, with the secret that lets this ETL read and write there.
///
/// Its `Debug` form has no secret, and no error of this crate quotes the address.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    scheme: Scheme,
    authority: Authority,
    /// As written, without a slash at its end.
    path: String,
}

/// Why an address is none of a target. Says nothing of the address itself, which holds a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// It begins with neither scheme.
    #[error("it must begin with http:// or https://")]
    Scheme,
    /// No host, a user name, or a port that is no number.
    #[error("it must name a host, as in http://10.0.0.7:51081/v1/etl/_object/NAME/SECRET")]
    Host,
    /// The path has characters that must be escaped, or a query.
    #[error("its path must be escaped and have no query")]
    Path,
}

impl Target {
    /// Reads an address like `http://10.0.0.7:51081/v1/etl/_object/NAME/SECRET`.
    ///
    /// # Errors
    ///
    /// As the variants of [`TargetError`].
    pub fn parse(url: &str) -> Result<Self, TargetError> {
        let url = url.trim();
        let (scheme, rest) = if let Some(rest) = strip_scheme(url, "http://") {
            (Scheme::HTTP, rest)
        } else if let Some(rest) = strip_scheme(url, "https://") {
            (Scheme::HTTPS, rest)
        } else {
            return Err(TargetError::Scheme);
        };
        let split = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(split);
        let authority = host(authority).ok_or(TargetError::Host)?;
        let path = path.trim_end_matches('/');
        let fine = path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'"'));
        if !fine || (!path.is_empty() && path.parse::<http::Uri>().is_err()) {
            return Err(TargetError::Path);
        }
        Ok(Self { scheme, authority, path: path.to_owned() })
    }

    /// `http` or `https`: of every request of this server, whatever the header of a pipeline says.
    pub fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }
}

fn strip_scheme<'a>(url: &'a str, scheme: &str) -> Option<&'a str> {
    let (start, rest) = url.split_at_checked(scheme.len())?;
    start.eq_ignore_ascii_case(scheme).then_some(rest)
}

/// An authority that can be dialled: a host, perhaps a port, and no user name.
pub(crate) fn host(text: &str) -> Option<Authority> {
    let authority: Authority = text.parse().ok()?;
    let port_is_a_number = text.rsplit_once(':').is_none_or(|(_, port)| {
        port.ends_with(']') || authority.port_u16().is_some_and(|port| port != 0)
    });
    let fine = !authority.host().is_empty() && !text.contains('@') && port_is_a_number;
    fine.then_some(authority)
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({}://{}/…)", self.scheme, self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_its_secret_is_never_shown() {
        let target = Target::parse(" HTTP://10.0.0.7:51081/v1/etl/_object/x/s3cr3t/ ").unwrap();
        assert_eq!(target.path(), "/v1/etl/_object/x/s3cr3t");
        assert_eq!(target.authority(), "10.0.0.7:51081");
        let shown = format!("{target:?}");
        assert!(!shown.contains("s3cr3t") && shown.contains("10.0.0.7"), "{shown}");
    }

    #[track_caller]
    fn refused(url: &str, why: TargetError) {
        assert_eq!(Target::parse(url), Err(why), "{url}");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        refused("", TargetError::Scheme);
        refused("10.0.0.7:51081/x", TargetError::Scheme);
        refused("ftp://h/x", TargetError::Scheme);
        refused("http:///x", TargetError::Host);
        refused("http://u:p@h/x", TargetError::Host);
        refused("http://h:port/x", TargetError::Host);
        refused("http://h:0/x", TargetError::Host);
        refused("http://h:/x", TargetError::Host);
        refused("http://h/a b", TargetError::Path);
        refused("http://h/a?b", TargetError::Path);
    }

    #[test]
    fn a_host_may_be_an_ipv6_address_and_needs_no_port() {
        for fine in ["http://[::1]:80/x", "http://[::1]/x", "http://target/x", "http://target"] {
            assert!(Target::parse(fine).is_ok(), "{fine}");
        }
    }
}
