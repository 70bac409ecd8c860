//! Everything that can be set: one file, then `SCHWANN_*`, then flags.
//!
//! This is the only place that reads the environment for settings. Each layer
//! is checked by itself, so that a mistake is blamed on where it was made.

use std::{
    collections::BTreeMap,
    env, fmt, fs,
    io::{self, Read},
    net::{IpAddr, SocketAddr},
    ops::Range,
    path::{Path, PathBuf},
};

use schwann_cards::CardsSettings;
use schwann_process::{ByteSize, Span};
use schwann_synapse::{
    dendrite::Protocol,
    wallet::{Wallet, WalletError, password_variable, reveal_password},
};
use serde::{Deserialize, Deserializer, Serialize, de};
use toml::{Spanned, Table, Value};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::{
    etl_settings::EtlSettings,
    problem::{Problem, chain, one_line, print, print_line},
    routes::{self, Bound, Route, RouteError, Server, Verify},
};

/// The file that is read if none is named and this one is there.
const USUAL_FILE: &str = "schwann.toml";

/// Largest file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// What can be set besides synapses: the key, and a good value as TOML.
const EXAMPLES: &[(&str, &str)] = &[
    ("log", "\"info\""),
    ("key.uri", "\"//Alice\""),
    ("key.wallet", "\"default\""),
    ("key.hotkey", "\"default\""),
    ("key.wallet_path", "\"~/.bittensor/wallets\""),
    ("key.password", "\"open sesame\""),
    ("axon.listen", "\"127.0.0.1:8091\""),
    ("axon.metrics", "\"127.0.0.1:9091\""),
    ("axon.verify", "\"hardened\""),
    ("axon.bound", "\"optional\""),
    ("axon.trusted_proxies", "[\"10.0.0.1\"]"),
    ("axon.timeout", "\"60s\""),
    ("axon.max_body", "\"16MiB\""),
    ("axon.max_bodies", "\"256MiB\""),
    ("axon.max_connections", "4096"),
    ("axon.max_running", "1024"),
    ("axon.max_waiting", "1024"),
    ("axon.nonces", "\"/var/lib/schwann/nonces\""),
    ("axon.stall_timeout", "\"60s\""),
    ("axon.drain_timeout", "\"30s\""),
    ("etl.listen", "\"0.0.0.0:8000\""),
    ("etl.metrics", "\"127.0.0.1:9092\""),
    ("etl.builtin", "\"gzip\""),
    ("etl.command", "[\"tr\", \"a-z\", \"A-Z\"]"),
    ("etl.sandbox", "\"none\""),
    ("etl.max_cpu", "\"10m\""),
    ("etl.max_memory", "\"512MiB\""),
    ("etl.max_processes", "64"),
    ("etl.max_open_files", "256"),
    ("etl.max_folder", "\"64MiB\""),
    ("etl.read_only", "[\"/srv/model\"]"),
    ("etl.timeout", "\"10m\""),
    ("etl.max_output", "\"16GiB\""),
    ("etl.max_running", "32"),
    ("etl.max_wait", "\"30s\""),
    ("etl.stderr_tail", "\"4KiB\""),
    ("etl.working_directory", "\"/srv/transform\""),
    ("etl.environment", "{ LEVEL = \"9\" }"),
    ("etl.inherit", "[\"CUDA_VISIBLE_DEVICES\"]"),
    ("etl.fqn_roots", "[\"/ais\"]"),
    ("etl.direct_put_retries", "3"),
    ("etl.max_connections", "16384"),
    ("etl.stall_timeout", "\"60s\""),
    ("etl.drain_timeout", "\"25s\""),
    ("cards.listen", "\"127.0.0.1:8080\""),
    ("cards.metrics", "\"127.0.0.1:9093\""),
    ("cards.data", "\"/var/lib/schwann/cards\""),
    ("cards.database", "\"postgres://schwann@localhost/schwann\""),
    ("cards.redis", "\"redis://localhost\""),
    ("cards.lease", "\"15s\""),
    ("cards.first_superuser", "\"admin@example.com\""),
    ("cards.first_superuser_password", "\"open sesame\""),
    ("cards.signup", "false"),
    ("cards.sample_book", "true"),
    ("cards.sandbox", "\"none\""),
    ("cards.trusted_proxies", "[\"10.0.0.1\"]"),
    ("cards.session", "\"192h\""),
    ("cards.max_wall", "\"10m\""),
    ("cards.max_cpu", "\"5m\""),
    ("cards.max_memory", "\"512MiB\""),
    ("cards.max_processes", "64"),
    ("cards.max_open_files", "256"),
    ("cards.max_output", "\"128MiB\""),
    ("cards.max_folder", "\"64MiB\""),
    ("cards.max_running", "0"),
    ("cards.max_queued", "1000"),
    ("cards.max_queued_per_user", "100"),
    ("cards.keep_runs", "\"720h\""),
    ("cards.keep_runs_per_card", "100"),
    ("cards.keep_output", "\"10GiB\""),
    ("cards.max_body", "\"16MiB\""),
    ("cards.max_code", "\"1MiB\""),
    ("cards.max_users", "10000"),
    ("cards.max_books_per_user", "1000"),
    ("cards.max_cards_per_book", "500"),
    ("cards.logins_per_minute", "10"),
    ("cards.requests_per_minute", "1200"),
    ("cards.max_connections", "4096"),
    ("cards.stall_timeout", "\"60s\""),
    ("cards.drain_timeout", "\"10s\""),
    ("cards.publish", "true"),
    ("cards.etl_listen", "\"127.0.0.1:8000\""),
    ("cards.max_publications", "100"),
    ("cards.max_published_running", "32"),
    ("cards.call_axon", "true"),
    ("call.timeout", "\"12s\""),
    ("call.protocol", "\"v10\""),
    ("call.bound", "false"),
    ("call.max_answer", "\"64MiB\""),
];

/// Keys whose value is a path. In a file it is relative to that file, so that
/// it means the same wherever it is read.
const PATHS: &[&str] = &["key.wallet_path", "axon.nonces", "etl.working_directory", "cards.data"];

/// Keys whose value is shown to nobody.
const SECRET: &[&str] =
    &["key.uri", "key.password", "cards.database", "cards.redis", "cards.first_superuser_password"];

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
    synapse: Vec<Spanned<Route>>,
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
        match env::var_os(&variable).and_then(|value| value.into_string().ok()) {
            Some(value) => reveal_password(&variable, &value).map(Some),
            None => Ok(None),
        }
    }
}

/// A password, wiped when it is dropped.
pub(crate) type Password = zeroize::Zeroizing<String>;

/// `~` is for shells, but everybody writes it.
fn from_home(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

/// A path that a file in `folder` has.
fn from_file(folder: &Path, path: &str) -> String {
    match path.starts_with('~') || folder.as_os_str().is_empty() {
        true => path.to_owned(),
        false => folder.join(path).to_string_lossy().into_owned(),
    }
}

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

/// Where a setting was made.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Default,
    File,
    Variable(String),
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File => f.write_str("file"),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// A setting made by a flag.
#[derive(Clone, Debug)]
pub(crate) struct Flag {
    /// The setting's key, such as `axon.listen`.
    pub(crate) key: &'static str,
    /// The flag, such as `--listen`.
    pub(crate) name: &'static str,
    /// What was given.
    pub(crate) text: String,
}

/// All that is set, and where each setting comes from.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) settings: Settings,
    /// The file that was read, if any.
    pub(crate) file: Option<PathBuf>,
    text: String,
    merged: Table,
    origins: BTreeMap<String, Origin>,
}

impl Config {
    /// Reads all layers. `file` is what `--config` named.
    pub(crate) fn load(file: Option<PathBuf>, flags: Vec<Flag>) -> Result<Self, Problem> {
        Self::from_layers(file, env::vars_os().filter_map(variable), flags)
    }

    fn from_layers(
        file: Option<PathBuf>,
        variables: impl Iterator<Item = (String, Option<String>)>,
        flags: Vec<Flag>,
    ) -> Result<Self, Problem> {
        let mut set = Vec::new();
        let mut file = file;
        for (name, text) in variables {
            let text = text.ok_or_else(|| Problem::usage(format!("{name} is not UTF-8")))?;
            if name == "SCHWANN_CONFIG" {
                file = file.or(Some(PathBuf::from(text)));
            } else if let Some(key) = key_of(&name)? {
                set.push((key, Origin::Variable(name), text));
            }
        }
        set.extend(flags.into_iter().map(|flag| (flag.key, Origin::Flag(flag.name), flag.text)));

        let mut config = Self::of_file(file)?;
        // Who one is, is one setting: a higher layer's wallet hides a lower
        // layer's URI, and not only its wallet.
        let rank = |origin: &Origin| u8::from(matches!(origin, Origin::Flag(_)));
        for layer in [0, 1] {
            let here = set.iter().filter(|(_, origin, _)| rank(origin) == layer);
            let keys: Vec<_> = here.map(|(key, _, _)| *key).collect();
            if keys.contains(&"key.uri") || keys.contains(&"key.wallet") {
                for key in ["key.uri", "key.wallet", "key.hotkey"] {
                    remove(&mut config.merged, key);
                    config.origins.remove(key);
                }
            }
            // So is what objects go through.
            if keys.contains(&"etl.builtin") || keys.contains(&"etl.command") {
                for key in ["etl.builtin", "etl.command"] {
                    remove(&mut config.merged, key);
                    config.origins.remove(key);
                }
            }
            for (key, origin, text) in set.iter().filter(|(_, origin, _)| rank(origin) == layer) {
                let value = check(key, text).map_err(|message| {
                    mistake(&format!("{origin}: {}", hide(key, text, &message)), key, &message)
                })?;
                insert(&mut config.merged, key, value);
                config.origins.insert((*key).to_owned(), origin.clone());
            }
        }
        let synapse = std::mem::take(&mut config.settings.synapse);
        let languages = std::mem::take(&mut config.settings.cards.languages);
        // Every part was read before, alone.
        config.settings = config
            .merged
            .clone()
            .try_into()
            .map_err(|error: toml::de::Error| Problem::usage(one_line(error.message())))?;
        config.settings.synapse = synapse;
        config.settings.cards.languages = languages;
        config.consistent()?;
        Ok(config)
    }

    /// The file's layer over the defaults.
    fn of_file(file: Option<PathBuf>) -> Result<Self, Problem> {
        let usual = Path::new(USUAL_FILE);
        let file = file.or_else(|| usual.exists().then(|| usual.to_owned()));
        let merged = Table::try_from(Settings::default());
        let mut merged = merged.map_err(|error| Problem::failed(chain(&error)))?;
        let mut origins = BTreeMap::new();
        let Some(path) = file else {
            return Ok(Self {
                settings: Settings::default(),
                file: None,
                text: String::new(),
                merged,
                origins,
            });
        };
        let shown = path.display();
        let text = read(&path).map_err(|error| {
            Problem::usage(format!("cannot read {shown}: {error}"))
                .hint("--config FILE names another file")
        })?;
        let blame = |error: toml::de::Error| in_file(&path, &text, &error);
        let settings: Settings = toml::from_str(&text).map_err(blame)?;
        let written: Table = toml::from_str(&text).map_err(blame)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for (key, _) in EXAMPLES {
            if let Some(value) = get(&written, key) {
                let value = match (PATHS.contains(key), value.as_str()) {
                    (true, Some(text)) => Value::from(from_file(folder, text)),
                    _ => value.clone(),
                };
                insert(&mut merged, key, value);
                origins.insert((*key).to_owned(), Origin::File);
            }
        }
        Ok(Self { settings, file: Some(path), text, merged, origins })
    }

    /// What no layer can know alone.
    fn consistent(&self) -> Result<(), Problem> {
        let Settings { key, axon, etl, cards, call, log, .. } = &self.settings;
        if key.uri.is_some() && key.wallet.is_some() {
            return Err(Problem::usage("both `key.uri` and `key.wallet` are set")
                .hint("a key is either a URI or a wallet's hotkey"));
        }
        if key.wallet.is_some() && key.hotkey_file().is_none() {
            return Err(self.blame("key.wallet", "a wallet's name is the name of one folder"));
        }
        if key.hotkey.is_some() && key.wallet.is_none() {
            return Err(Problem::usage(
                "`key.hotkey` names a wallet's hotkey, but no wallet is set",
            )
            .hint("--wallet NAME, or `wallet = \"NAME\"` beside it"));
        }
        if let Some(filter) = log {
            if let Err(error) = EnvFilter::try_new(filter) {
                return Err(self.blame("log", &error.to_string()));
            }
            // A word alone is a level to a person, and a module to `tracing`.
            if !filter.contains(['=', ',', '[']) && filter.parse::<LevelFilter>().is_err() {
                let error = format!("`{filter}` is not one of error, warn, info, debug, trace");
                return Err(self.blame("log", &error));
            }
        }
        if axon.verify == Verify::Nothing && axon.bound != Bound::Optional {
            return Err(self.blame(
                "axon.bound",
                "signed bodies are demanded, and `axon.verify = \"nothing\"` verifies nothing",
            ));
        }
        if etl.builtin.is_some() && !etl.command.is_empty() {
            let both = "`etl.builtin` is set too, and objects go through one of them";
            return Err(self.blame("etl.command", both));
        }
        let spans = [
            ("etl.timeout", etl.timeout),
            ("etl.stall_timeout", etl.stall_timeout),
            ("axon.timeout", axon.timeout),
            ("axon.stall_timeout", axon.stall_timeout),
            ("cards.lease", cards.lease),
            ("cards.session", cards.session),
            ("cards.max_wall", cards.max_wall),
            ("cards.max_cpu", cards.max_cpu),
            ("cards.keep_runs", cards.keep_runs),
            ("cards.stall_timeout", cards.stall_timeout),
            ("call.timeout", call.timeout),
        ];
        if let Some((key, _)) = spans.iter().find(|(_, span)| span.duration().is_zero()) {
            return Err(self.blame(key, "must not be zero"));
        }
        if cards.redis.is_some() && cards.database.is_none() {
            let alone =
                "servers that share Redis share a database, too: `cards.database` is not set";
            return Err(self.blame("cards.redis", alone));
        }
        let numbers = [
            ("etl.max_connections", etl.max_connections),
            ("etl.max_running", etl.max_running),
            ("axon.max_connections", axon.max_connections),
            ("axon.max_running", axon.max_running),
            ("cards.max_processes", cards.max_processes),
            ("cards.max_open_files", cards.max_open_files),
            ("cards.max_queued", cards.max_queued),
            ("cards.max_queued_per_user", cards.max_queued_per_user),
            ("cards.max_users", cards.max_users),
            ("cards.max_books_per_user", cards.max_books_per_user),
            ("cards.max_cards_per_book", cards.max_cards_per_book),
            ("cards.logins_per_minute", cards.logins_per_minute),
            ("cards.requests_per_minute", cards.requests_per_minute),
            ("cards.max_connections", cards.max_connections),
            ("cards.max_publications", cards.max_publications),
            ("cards.max_published_running", cards.max_published_running),
        ];
        if let Some((key, _)) = numbers.iter().find(|(_, number)| *number == 0) {
            return Err(self.blame(key, "must not be zero"));
        }
        let mut names = BTreeMap::new();
        for route in &self.settings.synapse {
            if names.insert(&route.get_ref().name, ()).is_some() {
                let error = format!("there are two synapses named `{}`", route.get_ref().name);
                return Err(Problem::usage(format!("{}: {error}", self.place(&route.span()))));
            }
        }
        Ok(())
    }

    /// Whether the file has synapses.
    pub(crate) fn has_synapses(&self) -> bool {
        !self.settings.synapse.is_empty()
    }

    /// The synapses of the file, each checked, with what serves it.
    pub(crate) fn servers(&self) -> Result<Vec<(Route, Server)>, Problem> {
        let folder = self.file.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        let mut servers = Vec::new();
        for route in &self.settings.synapse {
            let axon = &self.settings.axon;
            let server = route.get_ref().server(folder, axon.timeout).and_then(|server| {
                route.get_ref().verifiable(axon.verify, axon.bound).map(|()| server)
            });
            let server = server.map_err(|error: RouteError| {
                let (place, name) = (self.place(&route.span()), &route.get_ref().name);
                Problem::usage(format!("{place}: synapse `{name}`: {}", chain(&error)))
            })?;
            servers.push((route.get_ref().clone(), server));
        }
        Ok(servers)
    }

    /// File and line of a part of the file.
    fn place(&self, span: &Range<usize>) -> String {
        let file = self.file.as_deref().unwrap_or(Path::new(USUAL_FILE));
        format!("{}:{}", file.display(), line_of(&self.text, span.start))
    }

    /// A mistake in a setting, blamed on the layer it comes from.
    pub(crate) fn blame(&self, key: &str, message: &str) -> Problem {
        let place = match self.origins.get(key) {
            Some(Origin::File) => {
                let file = self.file.as_deref().unwrap_or(Path::new(USUAL_FILE));
                format!("{}: {key}", file.display())
            }
            Some(origin) => origin.to_string(),
            None => key.to_owned(),
        };
        mistake(&format!("{place}: {message}"), key, message)
    }

    /// `config show`: every setting, its value and where it comes from.
    pub(crate) fn show(&self, json: bool) -> Result<(), Problem> {
        if json {
            let mut all = serde_json::Map::new();
            for (key, _) in EXAMPLES {
                let value = serde_json::to_value(self.shown(key)).map_err(Problem::failed)?;
                let origin = self.origin(key).to_string();
                all.insert((*key).to_owned(), serde_json::json!({"value": value, "from": origin}));
            }
            let routes: Vec<_> = self.settings.synapse.iter().map(Spanned::get_ref).collect();
            let shown = serde_json::json!({
                "file": self.file,
                "settings": all,
                "synapse": routes,
            });
            return print_line(shown);
        }
        let mut out = String::new();
        if let Some(file) = &self.file {
            out.push_str(&format!("# file: {}\n", file.display()));
        }
        let mut section = "";
        for (key, _) in EXAMPLES {
            let (here, leaf) = key.rsplit_once('.').unwrap_or(("", key));
            if here != section {
                out.push_str(&format!("\n[{here}]\n"));
                section = here;
            }
            let line = match self.shown(key) {
                Some(value) => format!("{leaf} = {value}"),
                None => format!("# {leaf} is not set"),
            };
            match self.origin(key) {
                Origin::Default => out.push_str(&format!("{line}\n")),
                origin => out.push_str(&format!("{line:<40} # {origin}\n")),
            }
        }
        for (name, language) in &self.settings.cards.languages {
            let language = toml::to_string(language).map_err(Problem::failed)?;
            out.push_str(&format!("\n[cards.languages.{name}]\n{language}"));
        }
        for route in &self.settings.synapse {
            let route = toml::to_string(route.get_ref()).map_err(Problem::failed)?;
            out.push_str(&format!("\n[[synapse]]\n{route}"));
        }
        print(out)
    }

    fn shown(&self, key: &str) -> Option<Value> {
        let value = get(&self.merged, key)?;
        let dev = value.as_str().is_some_and(|uri| uri.starts_with("//"));
        if SECRET.contains(&key) && !dev {
            return Some(Value::from("(not shown)"));
        }
        Some(value.clone())
    }

    fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }
}

/// A variable of ours; `None` as its value if that is not UTF-8.
fn variable(
    (name, text): (std::ffi::OsString, std::ffi::OsString),
) -> Option<(String, Option<String>)> {
    let name = name.into_string().ok()?;
    name.starts_with("SCHWANN_").then(|| (name, text.into_string().ok()))
}

/// A variable that AIStore sets in the pods of an ETL, or that its users do.
pub(crate) fn contract_variable(name: &str) -> Option<String> {
    env::var_os(name)?.into_string().ok()
}

/// The setting that a variable is for. Not every `SCHWANN_` is one, but one
/// that is nearly one is a mistake.
fn key_of(name: &str) -> Result<Option<&'static str>, Problem> {
    let known = || EXAMPLES.iter().map(|(key, _)| (*key, variable_of(key)));
    if let Some((key, _)) = known().find(|(_, variable)| variable == name) {
        return Ok(Some(key));
    }
    let sections =
        ["SCHWANN_KEY_", "SCHWANN_AXON_", "SCHWANN_ETL_", "SCHWANN_CARDS_", "SCHWANN_CALL_"];
    let rest = name.trim_start_matches("SCHWANN_").to_ascii_lowercase();
    let leaf = |key: &str| key.rsplit('.').next() == Some(rest.as_str());
    let of_section = sections.iter().any(|section| name.starts_with(section));
    if !of_section && !known().any(|(key, _)| leaf(key)) {
        return Ok(None);
    }
    let problem = Problem::usage(format!("{name}: there is no such setting"));
    Err(match nearest(name, known().map(|(_, variable)| variable)) {
        Some(variable) => problem.hint(format!("did you mean {variable}?")),
        None => problem.hint("`schwann config show` lists all settings"),
    })
}

fn variable_of(key: &str) -> String {
    format!("SCHWANN_{}", key.replace('.', "_").to_ascii_uppercase())
}

/// Reads the text of one setting, alone.
fn check(key: &str, text: &str) -> Result<Value, String> {
    let alone = |value: Value| {
        let mut table = Table::new();
        insert(&mut table, key, value.clone());
        let read: Result<Settings, toml::de::Error> = table.try_into();
        read.map(|_| value).map_err(|error| one_line(error.message()))
    };
    alone(Value::from(text)).or_else(|as_text| {
        // A number is one without quotes, and so are `true` and `false`. What it
        // says of text is the better message, unless it wanted one of these.
        let number = text.parse::<i64>().map(Value::from);
        let bare = number.or_else(|_| text.parse::<bool>().map(Value::from));
        alone(bare.map_err(|_| as_text.clone())?).map_err(|_| as_text)
    })
}

/// Takes a secret out of a message about it.
fn hide(key: &str, text: &str, message: &str) -> String {
    match SECRET.contains(&key) && !text.is_empty() {
        true => message.replace(text, "(not shown)"),
        false => message.to_owned(),
    }
}

/// A mistake, with a good value as a hint if the message has none.
fn mistake(text: &str, key: &str, message: &str) -> Problem {
    let problem = Problem::usage(text);
    let leaf = key.rsplit('.').next().unwrap_or(key);
    let mut all = EXAMPLES.iter().chain(routes::EXAMPLES);
    match all.find(|(known, _)| *known == key || *known == leaf) {
        Some((_, example)) if !message.contains("write ") => {
            problem.hint(format!("write it like `{leaf} = {example}`"))
        }
        _ => problem,
    }
}

/// What is wrong in a file: where, which key, and what would be right.
fn in_file(path: &Path, text: &str, error: &toml::de::Error) -> Problem {
    let span = error.span().unwrap_or(0..0);
    let key = key_at(text, span.start);
    let (file, line) = (path.display(), line_of(text, span.start));
    let message = one_line(error.message());
    if key == "synapse" && message.ends_with("invalid type: map, expected a sequence") {
        return Problem::usage(format!("{file}:{line}: `[synapse]` is one synapse, not a list"))
            .hint("write [[synapse]], with two brackets");
    }
    let Some(rest) = message.strip_prefix("unknown field `") else {
        return match key.is_empty() {
            true => Problem::usage(format!("{file}:{line}: {message}")),
            false => mistake(&format!("{file}:{line}: {key}: {message}"), &key, &message),
        };
    };
    let unknown = rest.split('`').next().unwrap_or_default();
    // serde lists what there is: "expected one of `a`, `b`".
    let known: Vec<String> = rest.split('`').skip(2).step_by(2).map(str::to_owned).collect();
    let problem = Problem::usage(format!("{file}:{line}: `{unknown}` is not a setting here"));
    match nearest(unknown, known.iter().cloned()) {
        Some(near) => problem.hint(format!("did you mean `{near}`?")),
        None => problem.hint(format!("there are: {}", known.join(", "))),
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// The key that is set on the line, with its section.
fn key_at(text: &str, at: usize) -> String {
    let mut section = "";
    let mut begin = 0;
    for line in text.split_inclusive('\n') {
        let end = begin + line.len();
        let trimmed = line.trim();
        let here = at < end || end == text.len();
        if trimmed.starts_with('[') && !trimmed.contains('=') {
            section = trimmed.split('#').next().unwrap_or("").trim().trim_matches(['[', ']']);
        }
        if here {
            let key = match trimmed.split_once('=') {
                Some((key, _)) => key.trim(),
                None => "",
            };
            let both = !section.is_empty() && !key.is_empty();
            return format!("{section}{}{key}", if both { "." } else { "" });
        }
        begin = end;
    }
    String::new()
}

/// The known word that `word` was probably meant to be.
fn nearest(word: &str, known: impl Iterator<Item = String>) -> Option<String> {
    let scored = known.map(|known| (distance(word, &known), known));
    let (distance, known) = scored.min()?;
    (distance <= 1 + word.len() / 3).then_some(known)
}

/// How many letters differ (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = before + usize::from(from != *to);
            before = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(before + 1);
        }
    }
    row[b.len()]
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("it is larger than {}", ByteSize::new(MAX_FILE))));
    }
    Ok(text)
}

fn get<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        Some((section, leaf)) => table.get(section)?.as_table()?.get(leaf),
        None => table.get(key),
    }
}

fn insert(table: &mut Table, key: &str, value: Value) {
    let Some((section, leaf)) = key.split_once('.') else {
        table.insert(key.to_owned(), value);
        return;
    };
    let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(section) = section {
        section.insert(leaf.to_owned(), value);
    }
}

fn remove(table: &mut Table, key: &str) {
    if let Some((section, leaf)) = key.split_once('.')
        && let Some(Value::Table(section)) = table.get_mut(section)
    {
        section.remove(leaf);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_a_good_value() {
        for (key, example) in EXAMPLES {
            let (section, leaf) = key.split_once('.').unwrap_or(("", key));
            let header = if section.is_empty() { String::new() } else { format!("[{section}]\n") };
            toml::from_str::<Settings>(&format!("{header}{leaf} = {example}"))
                .unwrap_or_else(|error| panic!("{key}: {error}"));
        }
        for (key, example) in routes::EXAMPLES {
            let name = if *key == "name" { "" } else { "name = \"A\"\n" };
            toml::from_str::<Settings>(&format!("[[synapse]]\n{name}{key} = {example}"))
                .unwrap_or_else(|error| panic!("{key}: {error}"));
        }
    }

    #[test]
    fn every_setting_is_documented() {
        let text = include_str!("../../../docs/configuration.md");
        // Each begins a row of the table of its section.
        let part = |heading: &str| {
            let from = text.split_once(&format!("\n## `{heading}`")).map(|(_, rest)| rest);
            let part = from.unwrap_or_else(|| panic!("no section {heading}"));
            part.split("\n## ").next().unwrap_or_default()
        };
        let in_part = |heading: &str, leaf: &str| {
            assert!(part(heading).contains(&format!("\n| `{leaf}` | ")), "{heading}: {leaf}");
        };
        for (key, _) in EXAMPLES {
            match key.split_once('.') {
                Some((section, leaf)) => in_part(&format!("[{section}]"), leaf),
                None => assert!(text.contains(&format!("\n| `{key}` | ")), "{key}"),
            }
        }
        for (key, _) in routes::EXAMPLES {
            in_part("[[synapse]]", key);
        }
    }

    #[test]
    fn every_default_is_listed() {
        let defaults = Table::try_from(Settings::default()).unwrap();
        for (section, leaves) in &defaults {
            for leaf in leaves.as_table().unwrap().keys() {
                let key = format!("{section}.{leaf}");
                assert!(EXAMPLES.iter().any(|(known, _)| *known == key), "{key}");
            }
        }
    }

    #[track_caller]
    fn near(word: &str, expected: Option<&str>) {
        let known = ["listen", "max_body", "timeout"].map(str::to_owned);
        assert_eq!(nearest(word, known.into_iter()).as_deref(), expected, "{word}");
    }

    #[test]
    fn a_slip_is_recognised_and_nonsense_is_not() {
        near("listn", Some("listen"));
        near("maxbody", Some("max_body"));
        near("time_out", Some("timeout"));
        near("colour", None);
    }

    #[test]
    fn a_key_is_found_by_its_place() {
        let text = "log = 1\n[axon] # here\nlisten = \"x\"\n\n[[synapse]]\nname = 3\n";
        for (needle, key) in [("1", "log"), ("\"x\"", "axon.listen"), ("3", "synapse.name")] {
            assert_eq!(key_at(text, text.find(needle).unwrap()), key);
        }
    }
}
