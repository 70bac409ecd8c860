//! Where a call goes: host, port and the hotkey it is signed for.

use std::{convert::Infallible, fmt, net::IpAddr, sync::Arc};

use crate::{axon_info::AxonInfo, terminal::TerminalInfo};

/// The axon a call is made to.
///
/// Cheap to clone. Made from an [`AxonInfo`], or from its parts with [`Target::new`]. Nothing is looked up or dialled here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    host: Arc<str>,
    port: u16,
    hotkey: Arc<str>,
}

impl Target {
    /// A target from its parts. `host` is an address (IPv6 with or without
    /// brackets) or a host name; `hotkey` is the ss58 text the axon knows itself
    /// by, since it becomes part of the signed message.
    ///
    /// # Errors
    ///
    /// Fails if the host or the hotkey cannot be written into a request.
    pub fn new(host: &str, port: u16, hotkey: &str) -> Result<Self, TargetError> {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let clean = |text: &str| {
            !text.is_empty()
                && text.len() <= 255
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':'))
        };
        // A colon is an IPv6 address or it is a mistake (`host:port` as host).
        if !clean(bare) || (bare.contains(':') && bare.parse::<IpAddr>().is_err()) {
            return Err(TargetError::Host(host.to_owned()));
        }
        if hotkey.is_empty()
            || hotkey.len() > 128
            || !hotkey.bytes().all(|b| b.is_ascii_alphanumeric())
        {
            return Err(TargetError::Hotkey);
        }
        Ok(Self { host: bare.into(), port, hotkey: hotkey.into() })
    }

    /// The host as given, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The ss58 text of the axon's hotkey.
    pub fn hotkey(&self) -> &str {
        &self.hotkey
    }

    /// The axon's end of a call that it has not answered.
    pub(crate) fn terminal(&self) -> TerminalInfo {
        TerminalInfo {
            ip: Some(self.host.as_ref().to_owned()),
            port: Some(i64::from(self.port)),
            hotkey: Some(self.hotkey.as_ref().to_owned()),
            ..TerminalInfo::default()
        }
    }

    /// What tells two connections apart.
    pub(crate) fn place(&self) -> (Arc<str>, u16) {
        (Arc::clone(&self.host), self.port)
    }

    /// The host's address, if it is written as one.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// `host:port` as it stands in a URL: IPv6 in brackets.
    pub fn authority(&self) -> String {
        // RFC 3986 §3.2.2: an IPv6 literal is bracketed. The reference forgets it.
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl From<&Target> for Target {
    fn from(target: &Target) -> Self {
        target.clone()
    }
}

impl TryFrom<&AxonInfo> for Target {
    type Error = TargetError;

    fn try_from(axon: &AxonInfo) -> Result<Self, TargetError> {
        Self::new(&axon.ip.to_string(), axon.port, &axon.hotkey)
    }
}

impl TryFrom<AxonInfo> for Target {
    type Error = TargetError;

    fn try_from(axon: AxonInfo) -> Result<Self, TargetError> {
        Self::try_from(&axon)
    }
}

impl From<Infallible> for TargetError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.authority(), self.hotkey)
    }
}

/// Why something is not a place to call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// The host is neither an address nor a name.
    #[error("{0:?} is not a host")]
    Host(String),
    /// The hotkey is not ss58 text.
    #[error("the axon's hotkey is not ss58 text")]
    Hotkey,
    /// The synapse's name cannot be a route.
    #[error("{0:?} cannot be a route")]
    Route(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOTKEY: &str = "5CcX9gSfabdgTwKAXapgUMcoVTzRSNGXE8o2iCAWxo4hYTxp";

    #[test]
    fn ipv6_is_bracketed_once() {
        for host in ["::1", "[::1]"] {
            let target = Target::new(host, 8091, HOTKEY).unwrap();
            assert_eq!((target.host(), target.authority().as_str()), ("::1", "[::1]:8091"));
        }
        assert_eq!(Target::new("10.0.0.1", 1, HOTKEY).unwrap().authority(), "10.0.0.1:1");
    }

    #[test]
    fn what_could_split_a_request_is_refused() {
        for host in ["", "a b", "a\r\nx: y", "a/b", "a@b", "host:80", "[::1", "é.com"] {
            assert_eq!(
                Target::new(host, 1, HOTKEY),
                Err(TargetError::Host(host.into())),
                "{host:?}"
            );
        }
        for hotkey in ["", "5C\r\n", "5C.x", "é"] {
            assert_eq!(Target::new("h", 1, hotkey), Err(TargetError::Hotkey), "{hotkey:?}");
        }
    }
}
