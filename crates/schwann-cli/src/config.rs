//! Everything that can be set: one file, then `SCHWANN_*`, then flags.
//!
//! Each layer is checked by itself, so that a mistake is blamed on where it
//! was made.

mod consistent;
mod keys;
mod mistakes;
mod settings;
mod show;
mod variables;

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Read},
    ops::Range,
    path::{Path, PathBuf},
};

use schwann_process::ByteSize;
use toml::{Table, Value};

use self::{
    keys::{EXAMPLES, PATHS, get, insert, remove},
    mistakes::{hide, in_file, line_of, mistake},
    variables::key_of,
};
pub(crate) use self::{
    settings::{AxonSettings, CallProtocol, KeySettings, Settings, address, some_address},
    variables::contract_variable,
};
use crate::{
    problem::{Problem, chain, one_line},
    routes::{Route, RouteError, Server},
};

/// The file that is read if none is named and this one is there.
const USUAL_FILE: &str = "schwann.toml";

/// Largest file, in bytes.
const MAX_FILE: u64 = 1 << 20;

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
        Self::from_layers(file, variables::ours(), flags)
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

/// A path that a file in `folder` has.
fn from_file(folder: &Path, path: &str) -> String {
    match path.starts_with('~') || folder.as_os_str().is_empty() {
        true => path.to_owned(),
        false => folder.join(path).to_string_lossy().into_owned(),
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("it is larger than {}", ByteSize::new(MAX_FILE))));
    }
    Ok(text)
}
