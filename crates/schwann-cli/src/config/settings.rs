//! The settings of the key, the axon and its calls, with their defaults, and how addresses are read.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use schwann_cards::CardsSettings;
use schwann_process::{ByteSize, Span};
use schwann_synapse::{
    dendrite::Protocol,
    wallet::{Wallet, WalletError, password_variable, reveal_password},
};
use serde::{Deserialize, Deserializer, Serialize, de};
use toml::{Spanned, Value};

use super::variables::{from_home, text_of};
use crate::{
    etl_settings::EtlSettings,
    routes::{Bound, Route, Verify},
};

/// All settings, from all layers.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// What is logged to stderr: `error` to `trace`, or a filter of `tracing`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) log: Option<String>,
    pub(crate) key: KeySettings,
    pub(crate) axon: AxonSettings,
    pub(crate) etl: EtlSettings,
    pub(crate) cards: CardsSettings,
    pub(crate) call: CallSettings,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) synapse: Vec<Spanned<Route>>,
}

/// Who this is: a secret URI, or a wallet's hotkey.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct KeySettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) uri: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) wallet: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hotkey: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) wallet_path: Option<PathBuf>,
    /// The password of the wallet's hotkey, if that is encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) password: Option<String>,
}

impl KeySettings {
    /// Whether any key is set.
    pub(crate) fn is_set(&self) -> bool {
        self.uri.is_some() || self.wallet.is_some()
    }

    /// The wallet's folder of wallets, and its hotkey's name.
    pub(crate) fn hotkey_file(&self) -> Option<(Wallet, &str)> {
        let wallet = self.wallet.as_deref()?;
        let wallets = self.wallet_path.as_deref().unwrap_or(Path::new("~/.bittensor/wallets"));
        let wallet = Wallet::at(&from_home(wallets), wallet).ok()?;
        Some((wallet, self.hotkey.as_deref().unwrap_or("default")))
    }

    /// The password of a keyfile: the one that is set, or the one in the
    /// variable in which the Python wallet looks for it.
    pub(crate) fn password_of(&self, file: &Path) -> Result<Option<Password>, WalletError> {
        if let Some(password) = &self.password {
            return Ok(Some(Password::from(password.clone())));
        }
        let variable = password_variable(&file.to_string_lossy());
        match text_of(&variable) {
            Some(value) => reveal_password(&variable, &value).map(Some),
            None => Ok(None),
        }
    }
}

/// A password, wiped when it is dropped.
pub(crate) type Password = zeroize::Zeroizing<String>;

/// How synapses are served.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AxonSettings {
    /// Where it listens.
    #[serde(deserialize_with = "address")]
    pub(crate) listen: SocketAddr,
    /// Where its metrics are read, if anywhere.
    #[serde(deserialize_with = "some_address", skip_serializing_if = "Option::is_none")]
    pub(crate) metrics: Option<SocketAddr>,
    /// How callers are verified.
    pub(crate) verify: Verify,
    /// Whether v10 callers must sign their whole requests.
    pub(crate) bound: Bound,
    /// The addresses whose `X-Forwarded-For` is believed.
    #[serde(deserialize_with = "addresses")]
    pub(crate) trusted_proxies: Vec<IpAddr>,
    /// Longest call, whatever the caller wishes.
    pub(crate) timeout: Span,
    /// Largest request body.
    pub(crate) max_body: ByteSize,
    /// Most that request bodies may take together while they arrive.
    pub(crate) max_bodies: ByteSize,
    /// Most connections at a time.
    pub(crate) max_connections: u32,
    /// Most calls at a time.
    pub(crate) max_running: u32,
    /// Most calls that wait for their turn.
    pub(crate) max_waiting: u32,
    /// The folder in which used nonces are remembered over a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nonces: Option<PathBuf>,
    /// Longest wait for a client that neither sends nor takes.
    pub(crate) stall_timeout: Span,
    /// Longest wait for calls under way when it is told to stop.
    pub(crate) drain_timeout: Span,
}

impl Default for AxonSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8091)),
            metrics: None,
            verify: Verify::Hardened,
            bound: Bound::Optional,
            trusted_proxies: Vec::new(),
            timeout: Span::from_secs(60),
            max_body: ByteSize::new(16 << 20),
            max_bodies: ByteSize::new(256 << 20),
            max_connections: 4096,
            max_running: 1024,
            max_waiting: 1024,
            nonces: None,
            stall_timeout: Span::from_secs(60),
            drain_timeout: Span::from_secs(30),
        }
    }
}

/// How synapses are called.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CallSettings {
    /// Longest call.
    pub(crate) timeout: Span,
    /// How a request says who it is from.
    pub(crate) protocol: CallProtocol,
    /// Whether v10 calls carry a signature over the whole request.
    pub(crate) bound: bool,
    /// Largest answer.
    pub(crate) max_answer: ByteSize,
}

impl Default for CallSettings {
    fn default() -> Self {
        Self {
            timeout: Span::from_secs(12),
            protocol: CallProtocol::V10,
            bound: false,
            max_answer: ByteSize::new(64 << 20),
        }
    }
}

/// The protocol of a call, as written.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CallProtocol {
    V10,
    BtAuth,
}

impl From<CallProtocol> for Protocol {
    fn from(protocol: CallProtocol) -> Self {
        match protocol {
            CallProtocol::V10 => Self::V10,
            CallProtocol::BtAuth => Self::BtAuth1,
        }
    }
}

pub(crate) fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    text.parse().map_err(|_| {
        de::Error::custom(format!(
            "`{text}` is not an address and a port; write them like `127.0.0.1:8091`"
        ))
    })
}

pub(crate) fn some_address<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SocketAddr>, D::Error> {
    address(deserializer).map(Some)
}

/// A list; in a variable, which has no lists, with commas between.
fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpAddr>, D::Error> {
    let wrong = |text: &str| {
        let example = "write a list like `[\"10.0.0.1\"]`";
        de::Error::custom(format!("`{text}` is not an address; {example}"))
    };
    let one = |text: &str| text.trim().parse().map_err(|_| wrong(text));
    match Value::deserialize(deserializer)? {
        Value::String(text) if text.is_empty() => Ok(Vec::new()),
        Value::String(text) => text.split(',').map(one).collect(),
        Value::Array(items) => {
            let text = |item: &Value| match item.as_str() {
                Some(text) => one(text),
                None => Err(wrong(&item.to_string())),
            };
            items.iter().map(text).collect()
        }
        other => Err(wrong(&other.to_string())),
    }
}
