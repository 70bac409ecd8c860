//! `AxonInfo`: where a neuron is served, as the chain and the SDK say it.
//!
//! Specification §13; SDK 7.4.0 to 10.5.0 agree.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::{
    python::{ConvertError, Dict, JsonError, Value},
    terminal::int_of,
};

/// Where a neuron is served and by whom.
#[derive(Clone, Debug)]
pub struct AxonInfo {
    /// The SDK's version as an integer, see [`version_as_int`].
    pub version: i64,
    /// The address. `0.0.0.0` stands for a neuron that is not served.
    pub ip: IpAddr,
    /// The port.
    pub port: u16,
    /// The hotkey, ss58: who answers.
    pub hotkey: String,
    /// The coldkey, ss58: who owns the hotkey; empty if it is not known.
    pub coldkey: String,
    /// 4 from every SDK.
    pub protocol: i64,
    /// On chain, and without use.
    pub placeholder1: i64,
    /// On chain, and without use.
    pub placeholder2: i64,
}

impl AxonInfo {
    /// An axon of which only what is needed to call it is known.
    pub fn new(ip: IpAddr, port: u16, hotkey: impl Into<String>) -> Self {
        Self {
            version: 0,
            ip,
            port,
            hotkey: hotkey.into(),
            coldkey: String::new(),
            protocol: 4,
            placeholder1: 0,
            placeholder2: 0,
        }
    }

    /// 4 or 6.
    pub fn ip_type(&self) -> u8 {
        if self.ip.is_ipv4() { 4 } else { 6 }
    }

    /// Whether the neuron is served at all.
    pub fn is_serving(&self) -> bool {
        self.ip != IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    }

    /// The address as the SDK shows it, such as `/ipv4/127.0.0.1:8091`.
    pub fn ip_str(&self) -> String {
        format!("/ipv{}/{}:{}", self.ip_type(), self.ip, self.port)
    }

    /// The JSON that the SDK's `to_string` makes.
    pub fn to_json(&self) -> String {
        let mut dict = Dict::new();
        dict.insert("version", self.version);
        dict.insert("ip", self.ip.to_string());
        dict.insert("port", u32::from(self.port));
        dict.insert("ip_type", u32::from(self.ip_type()));
        dict.insert("hotkey", self.hotkey.as_str());
        dict.insert("coldkey", self.coldkey.as_str());
        dict.insert("protocol", self.protocol);
        dict.insert("placeholder1", self.placeholder1);
        dict.insert("placeholder2", self.placeholder2);
        dict.to_python_json()
    }

    /// Reads JSON: what [`AxonInfo::to_json`] makes, or as little as `{"ip": .., "port": .., "hotkey": ..}`. The address
    /// may be the chain's integer. Unknown names are ignored.
    ///
    /// # Errors
    /// Says which field is missing or does not fit.
    pub fn parse_json(text: &str) -> Result<Self, AxonInfoError> {
        Self::from_value(&Value::parse_json(text.as_bytes())?)
    }

    /// As [`AxonInfo::parse_json`], for a value.
    ///
    /// # Errors
    /// Says which field is missing or does not fit.
    pub fn from_value(value: &Value) -> Result<Self, AxonInfoError> {
        let dict = value.as_dict().ok_or(AxonInfoError::NotADict)?;
        let int = |field: &'static str, default: Option<i64>| match (dict.get(field), default) {
            (None | Some(Value::None), Some(default)) => Ok(default),
            (None | Some(Value::None), None) => Err(AxonInfoError::Missing { field }),
            (Some(value), _) => int_of(value)
                .and_then(|int| {
                    int.to_i64().ok_or_else(|| ConvertError::new("an integer beyond 64 bits"))
                })
                .map_err(|source| AxonInfoError::Field { field, source }),
        };
        let text = |field: &'static str, default: Option<&str>| match (dict.get(field), default) {
            (Some(Value::Str(text)), _) => Ok(text.clone()),
            (None | Some(Value::None), Some(default)) => Ok(default.to_owned()),
            (None | Some(Value::None), None) => Err(AxonInfoError::Missing { field }),
            (Some(other), _) => Err(AxonInfoError::Field {
                field,
                source: ConvertError::new(format_args!(
                    "expected a str, found a {}",
                    other.type_name()
                )),
            }),
        };
        let ip = match dict.get("ip") {
            None | Some(Value::None) => return Err(AxonInfoError::Missing { field: "ip" }),
            Some(Value::Str(ip)) => parse_ip(ip)?,
            Some(Value::Int(ip)) => ip_from_int(ip.to_u128().ok_or(IpError)?),
            Some(_) => return Err(IpError.into()),
        };
        let port = int("port", None)?;
        Ok(Self {
            version: int("version", Some(0))?,
            ip,
            port: u16::try_from(port).map_err(|_| AxonInfoError::Port(port))?,
            hotkey: text("hotkey", None)?,
            coldkey: text("coldkey", Some(""))?,
            protocol: int("protocol", Some(4))?,
            placeholder1: int("placeholder1", Some(0))?,
            placeholder2: int("placeholder2", Some(0))?,
        })
    }
}

/// Equal as in the SDK: the protocol and the placeholders do not count.
impl PartialEq for AxonInfo {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version
            && self.ip == other.ip
            && self.port == other.port
            && self.hotkey == other.hotkey
            && self.coldkey == other.coldkey
    }
}

impl Eq for AxonInfo {}

/// As the SDK's `str()`.
impl fmt::Display for AxonInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "AxonInfo( {}, {}, {}, {} )",
            self.ip_str(),
            self.hotkey,
            self.coldkey,
            self.version
        )
    }
}

impl std::str::FromStr for AxonInfo {
    type Err = AxonInfoError;

    fn from_str(text: &str) -> Result<Self, AxonInfoError> {
        Self::parse_json(text)
    }
}

/// Why something is no [`AxonInfo`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AxonInfoError {
    /// The text is not JSON.
    #[error("not JSON")]
    Json(#[from] JsonError),
    /// The JSON is not an object.
    #[error("not an object with `ip`, `port` and `hotkey`")]
    NotADict,
    /// A field without which the axon cannot be called is not there.
    #[error("`{field}` is missing")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// A field holds something else than it should.
    #[error("`{field}` does not fit")]
    Field {
        /// The field.
        field: &'static str,
        /// What stands there.
        source: ConvertError,
    },
    /// The address is none.
    #[error("`ip` does not fit")]
    Ip(#[from] IpError),
    /// The port does not exist.
    #[error("there is no port {0}")]
    Port(i64),
}

/// A text or number that is no IP address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither a dotted quad nor an IPv6 address")]
pub struct IpError;

/// Reads an address: a strict dotted quad or IPv6. No short or hexadecimal forms, no zone, no brackets, no spaces.
///
/// # Errors
/// Fails for anything else.
pub fn parse_ip(text: &str) -> Result<IpAddr, IpError> {
    text.parse().map_err(|_| IpError)
}

/// The address as the chain stores it.
pub fn ip_to_int(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

/// The address that the chain stores as this integer. What fits 32 bits is IPv4, so `::1` does not come back.
pub fn ip_from_int(ip: u128) -> IpAddr {
    match u32::try_from(ip) {
        Ok(ip) => IpAddr::V4(Ipv4Addr::from(ip)),
        Err(_) => IpAddr::V6(Ipv6Addr::from(ip)),
    }
}

/// The integer of a version `major.minor.patch`: 10.5.0 is 10005000. `None` unless there are three numbers below 1000.
pub fn version_as_int(version: &str) -> Option<i64> {
    let mut parts = version.split('.');
    let mut whole = 0;
    for _ in 0..3 {
        let part = parts.next()?;
        if part.is_empty() || part.len() > 3 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        whole = whole * 1000 + part.parse::<i64>().ok()?;
    }
    parts.next().is_none().then_some(whole)
}
