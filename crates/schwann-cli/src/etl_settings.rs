//! `[etl]`: how objects are transformed.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use schwann_process::{ByteSize, CommandSpec, Sandbox, Span};
use serde::{Deserialize, Deserializer, Serialize, de};
use toml::Value;

use crate::{
    config::{address, some_address},
    held::{Held, HeldError},
};

/// How an ETL server is run.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EtlSettings {
    /// Where it listens.
    #[serde(deserialize_with = "address")]
    pub(crate) listen: SocketAddr,
    /// Where its metrics are read, if anywhere.
    #[serde(deserialize_with = "some_address", skip_serializing_if = "Option::is_none")]
    pub(crate) metrics: Option<SocketAddr>,
    /// A transform with a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) builtin: Option<String>,
    /// A program as the transform.
    #[serde(deserialize_with = "words", skip_serializing_if = "Vec::is_empty")]
    pub(crate) command: Vec<String>,
    /// What the program may touch.
    pub(crate) sandbox: Sandbox,
    /// Most processor time of one run; `timeout` if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_cpu: Option<Span>,
    /// Most memory of one run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_memory: Option<ByteSize>,
    /// Most processes and threads of one run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_processes: Option<u32>,
    /// Most open files of each process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_open_files: Option<u32>,
    /// Most that one run may put into its folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_folder: Option<ByteSize>,
    /// What of the machine it may read in a sandbox, besides the system's folders.
    #[serde(deserialize_with = "some_folders", skip_serializing_if = "Option::is_none")]
    pub(crate) read_only: Option<Vec<PathBuf>>,
    /// Longest run of the program.
    pub(crate) timeout: Span,
    /// Most that the program may write.
    pub(crate) max_output: ByteSize,
    /// How many of it run at once.
    pub(crate) max_running: u32,
    /// How long the next object waits for its turn.
    pub(crate) max_wait: Span,
    /// How much of the end of its stderr is kept for the log.
    pub(crate) stderr_tail: ByteSize,
    /// The folder it runs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) working_directory: Option<PathBuf>,
    /// Variables set for it.
    pub(crate) environment: BTreeMap<String, String>,
    /// Names of variables it gets from this process.
    #[serde(deserialize_with = "words")]
    pub(crate) inherit: Vec<String>,
    /// The only folders whose files may be named. Of the contract's variables, if not set.
    #[serde(deserialize_with = "some_folders", skip_serializing_if = "Option::is_none")]
    pub(crate) fqn_roots: Option<Vec<PathBuf>>,
    /// How often a delivery is repeated. Of the contract's variables, if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) direct_put_retries: Option<u32>,
    /// Most connections at a time.
    pub(crate) max_connections: u32,
    /// Longest wait for a peer that neither sends nor takes.
    pub(crate) stall_timeout: Span,
    /// Longest wait for objects under way when it is told to stop.
    pub(crate) drain_timeout: Span,
}

impl Default for EtlSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 8000)),
            metrics: None,
            builtin: None,
            command: Vec::new(),
            sandbox: Sandbox::None,
            max_cpu: None,
            max_memory: None,
            max_processes: None,
            max_open_files: None,
            max_folder: None,
            read_only: None,
            timeout: Span::from_secs(600),
            max_output: ByteSize::new(16 << 30),
            max_running: 32,
            max_wait: Span::from_secs(30),
            stderr_tail: ByteSize::new(4 << 10),
            working_directory: None,
            environment: BTreeMap::new(),
            inherit: Vec::new(),
            fqn_roots: None,
            direct_put_retries: None,
            max_connections: 16 * 1024,
            stall_timeout: Span::from_secs(60),
            drain_timeout: Span::from_secs(25),
        }
    }
}

impl EtlSettings {
    /// The program, if that is the transform.
    pub(crate) fn program(&self) -> Result<Option<CommandSpec>, HeldError> {
        if self.command.is_empty() {
            return Ok(None);
        }
        let mut spec = CommandSpec {
            timeout: self.timeout,
            max_output: self.max_output,
            max_running: self.max_running,
            max_wait: self.max_wait,
            stderr_tail: self.stderr_tail,
            working_directory: self.working_directory.clone(),
            environment: self.environment.clone(),
            inherit: self.inherit.clone(),
            ..CommandSpec::new(self.command.iter().cloned(), self.sandbox)
        };
        let held = Held {
            max_cpu: self.max_cpu,
            max_memory: self.max_memory,
            max_processes: self.max_processes,
            max_open_files: self.max_open_files,
            max_folder: self.max_folder,
            read_only: self.read_only.clone(),
        };
        held.apply(Path::new("/"), &mut spec)?;
        Ok(Some(spec))
    }
}

/// A list of words; in a variable, which has no lists, the same in one text.
fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let wrong =
        || de::Error::custom("not a list of words; write one like `[\"tr\", \"a-z\", \"A-Z\"]`");
    match Value::deserialize(deserializer)? {
        Value::String(text) => serde_json::from_str(&text).map_err(|_| wrong()),
        Value::Array(items) => {
            let word = |item: Value| match item {
                Value::String(word) => Ok(word),
                _ => Err(wrong()),
            };
            items.into_iter().map(word).collect()
        }
        _ => Err(wrong()),
    }
}

/// Folders; in a variable with colons between, as in the contract's own.
fn some_folders<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<PathBuf>>, D::Error> {
    let one = |text: &str| match text.starts_with('/') {
        true => Ok(PathBuf::from(text)),
        false => Err(de::Error::custom(format!(
            "`{text}` is not an absolute path; write a list like `[\"/ais\"]`"
        ))),
    };
    match Value::deserialize(deserializer)? {
        Value::String(text) => text
            .split(':')
            .filter(|one| !one.is_empty())
            .map(one)
            .collect::<Result<_, _>>()
            .map(Some),
        Value::Array(items) => {
            let text = |item: &Value| one(item.as_str().unwrap_or_default());
            items.iter().map(text).collect::<Result<_, _>>().map(Some)
        }
        other => one(&other.to_string()).map(|one| Some(vec![one])),
    }
}
