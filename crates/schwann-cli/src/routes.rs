//! A `[[synapse]]` of the configuration, and what serves it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use schwann_cards::PublishedCard;
use schwann_process::{
    ByteSize, Command, CommandSpec, Sandbox, Span, SpecError, Upstream, UpstreamSpec,
    UpstreamSpecError,
};
use schwann_synapse::{caller, ss58::Hotkey, synapse::BASE_FIELDS};
use serde::{Deserialize, Serialize};

use crate::held::{Held, HeldError};

/// One synapse, as written.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Route {
    /// The route, which is the class name that callers use.
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    builtin: Option<Builtin>,
    /// Whether the answer is streamed. What a builtin does is its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stream: Option<bool>,
    /// Fields that are hashed, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) hash: Vec<String>,
    /// Fields that a request must have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) required: Vec<String>,
    /// The only callers that are served, if given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) allow: Option<Vec<Hotkey>>,
    /// Callers that are refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) deny: Vec<Hotkey>,
    /// Callers that go first: higher before lower, and 0 for everybody else.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) priority: BTreeMap<Hotkey, f64>,
    /// How callers are verified; `[axon] verify` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) verify: Option<Verify>,
    /// Whether v10 callers must sign their whole requests; `[axon] bound` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bound: Option<Bound>,
    /// Largest request body; `[axon] max_body` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max_body: Option<ByteSize>,
    /// Longest run; `[axon] timeout` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<Span>,

    // Of commands and upstreams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_output: Option<ByteSize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_running: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_wait: Option<Span>,

    // Of commands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sandbox: Option<Sandbox>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_cpu: Option<Span>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_memory: Option<ByteSize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_processes: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_open_files: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_folder: Option<ByteSize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    read_only: Option<Vec<PathBuf>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stderr_tail: Option<ByteSize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    working_directory: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    environment: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inherit: Option<Vec<String>>,

    // Of upstreams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    connect_timeout: Option<Span>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_byte_timeout: Option<Span>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idle_timeout: Option<Span>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    allow_unframed: Option<bool>,
}

/// The keys of a `[[synapse]]`, each with a good value.
pub(crate) const EXAMPLES: &[(&str, &str)] = &[
    ("name", "\"Translate\""),
    ("command", "[\"python3\", \"translate.py\"]"),
    ("upstream", "\"http://127.0.0.1:9000/translate\""),
    ("builtin", "\"echo\""),
    ("stream", "true"),
    ("hash", "[\"text\", \"target\"]"),
    ("required", "[\"text\"]"),
    ("allow", "[\"5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY\"]"),
    ("deny", "[\"5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY\"]"),
    ("priority", "{ 5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY = 10.0 }"),
    ("verify", "\"hardened\""),
    ("bound", "\"required\""),
    ("max_body", "\"1MiB\""),
    ("timeout", "\"20s\""),
    ("max_output", "\"64MiB\""),
    ("max_running", "32"),
    ("max_wait", "\"5s\""),
    ("sandbox", "\"strict\""),
    ("max_cpu", "\"20s\""),
    ("max_memory", "\"512MiB\""),
    ("max_processes", "64"),
    ("max_open_files", "256"),
    ("max_folder", "\"64MiB\""),
    ("read_only", "[\"/srv/model\"]"),
    ("stderr_tail", "\"4KiB\""),
    ("working_directory", "\"/srv/translate\""),
    ("environment", "{ MODEL = \"small\" }"),
    ("inherit", "[\"CUDA_VISIBLE_DEVICES\"]"),
    ("connect_timeout", "\"5s\""),
    ("first_byte_timeout", "\"60s\""),
    ("idle_timeout", "\"60s\""),
    ("allow_unframed", "true"),
];

/// How strictly callers are verified, as written.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verify {
    /// With the weaknesses of the reference closed.
    #[default]
    Hardened,
    /// As the Python SDK does, weaknesses included.
    LikeReference,
    /// Only requests that speak `btauth/1`.
    Btauth,
    /// Not at all.
    Nothing,
}

impl From<Verify> for caller::Verify {
    fn from(verify: Verify) -> Self {
        match verify {
            Verify::Hardened => Self::Hardened,
            Verify::LikeReference => Self::LikeReference,
            Verify::Btauth => Self::BtAuth1,
            Verify::Nothing => Self::Nothing,
        }
    }
}

/// Whether v10 callers must sign their whole requests, as written.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Bound {
    /// They may.
    #[default]
    Optional,
    /// If nothing else signs the body.
    BodyCovered,
    /// All of them.
    Required,
}

impl From<Bound> for caller::Bound {
    fn from(bound: Bound) -> Self {
        match bound {
            Bound::Optional => Self::Optional,
            Bound::BodyCovered => Self::BodyCovered,
            Bound::Required => Self::Required,
        }
    }
}

/// What comes with the binary.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Builtin {
    /// Answers with what it was asked.
    Echo,
    /// Streams the numbers up to the field `to`, one line every 100 ms.
    Count,
    /// Streams the words of the field `text`, one every 100 ms.
    Words,
}

/// What serves a synapse, checked and ready.
#[derive(Clone, Debug)]
pub(crate) enum Server {
    Command(Command),
    Upstream(Upstream),
    Builtin(Builtin),
    Card(PublishedCard),
}

/// Why a `[[synapse]]` cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RouteError {
    #[error("`{0}` cannot be a synapse's name; write one like `Translate`: letters, digits and _")]
    Name(String),
    #[error("needs exactly one of `command`, `upstream` and `builtin`, and has {0}")]
    OneServer(&'static str),
    #[error(
        "a command needs to say what it may touch; `sandbox = \"none\"` runs it with no isolation \
         at all"
    )]
    NoSandbox,
    #[error("`{setting}` means nothing for {server}")]
    Misplaced { setting: &'static str, server: &'static str },
    #[error("`{0}` is a field of every synapse and cannot be hashed or required")]
    BaseField(String),
    #[error("`{field}` stands twice in `{list}`")]
    Twice { field: String, list: &'static str },
    #[error("`{0}` is both in `allow` and in `deny`")]
    AllowedAndDenied(Hotkey),
    #[error("signed bodies are demanded by `bound`, and `verify = \"nothing\"` verifies nothing")]
    Unverifiable,
    #[error("a priority must be a number")]
    Priority,
    #[error(transparent)]
    Held(#[from] HeldError),
    #[error(transparent)]
    Command(#[from] SpecError),
    #[error(transparent)]
    Upstream(#[from] UpstreamSpecError),
}

impl Route {
    /// A synapse that comes with the binary.
    pub(crate) fn of_builtin(name: &str, builtin: Builtin) -> Self {
        let text = format!("name = \"{name}\"");
        let mut route: Self = toml::from_str(&text).expect("a name is all that must be there");
        route.builtin = Some(builtin);
        route
    }

    /// A published card, under the axon's own conditions.
    pub(crate) fn of_card(card: &PublishedCard) -> Self {
        let text = format!("name = \"{}\"\nstream = {}", card.name(), card.streams());
        let mut route: Self = toml::from_str(&text).expect("a name is all that must be there");
        route.hash = card.hash().to_vec();
        if !card.allow().is_empty() {
            // What cannot be read is nobody, and not everybody.
            route.allow = Some(card.allow().iter().filter_map(|one| one.parse().ok()).collect());
        }
        route
    }

    /// Whether the answer is streamed.
    pub(crate) fn streams(&self) -> bool {
        match self.builtin {
            Some(Builtin::Echo) | None => self.stream.unwrap_or(false),
            Some(Builtin::Count | Builtin::Words) => true,
        }
    }

    /// Checks everything that can be checked without serving, and finds
    /// programs, from `folder` on. `timeout` holds if there is no other.
    pub(crate) fn server(&self, folder: &Path, timeout: Span) -> Result<Server, RouteError> {
        if !good_name(&self.name) {
            return Err(RouteError::Name(self.name.clone()));
        }
        for (list, fields) in [("hash", &self.hash), ("required", &self.required)] {
            for (at, field) in fields.iter().enumerate() {
                if BASE_FIELDS.contains(&field.as_str()) {
                    return Err(RouteError::BaseField(field.clone()));
                }
                if fields[..at].contains(field) {
                    return Err(RouteError::Twice { field: field.clone(), list });
                }
            }
        }
        let mut allowed = self.allow.iter().flatten();
        if let Some(hotkey) = allowed.find(|hotkey| self.deny.contains(hotkey)) {
            return Err(RouteError::AllowedAndDenied(*hotkey));
        }
        if self.priority.values().any(|priority| !priority.is_finite()) {
            return Err(RouteError::Priority);
        }
        match (&self.command, &self.upstream, self.builtin) {
            (Some(command), None, None) => self.command(command, folder, timeout),
            (None, Some(upstream), None) => self.upstream(upstream, timeout),
            (None, None, Some(builtin)) => self.builtin(builtin),
            (None, None, None) => Err(RouteError::OneServer("none")),
            _ => Err(RouteError::OneServer("several")),
        }
    }

    /// What is demanded of callers can be seen. `verify` and `bound` hold if there are no others.
    pub(crate) fn verifiable(&self, verify: Verify, bound: Bound) -> Result<(), RouteError> {
        let nothing = self.verify.unwrap_or(verify) == Verify::Nothing;
        match nothing && self.bound.unwrap_or(bound) != Bound::Optional {
            true => Err(RouteError::Unverifiable),
            false => Ok(()),
        }
    }

    fn command(
        &self,
        command: &[String],
        folder: &Path,
        timeout: Span,
    ) -> Result<Server, RouteError> {
        self.refuse("a command", &self.of_upstreams())?;
        let sandbox = self.sandbox.ok_or(RouteError::NoSandbox)?;
        let mut spec = CommandSpec::new(command.iter(), sandbox);
        spec.timeout = self.timeout.unwrap_or(timeout);
        // Relative to the file, so that it means the same wherever it is read.
        spec.working_directory = match (&self.working_directory, sandbox) {
            (Some(written), _) => Some(folder.join(written)),
            (None, Sandbox::None) => Some(folder.to_owned()),
            // What lies beside the file, a key maybe, is shown only if asked for.
            (None, _) => None,
        };
        put(&mut spec.max_output, &self.max_output);
        put(&mut spec.max_running, &self.max_running);
        put(&mut spec.max_wait, &self.max_wait);
        put(&mut spec.stderr_tail, &self.stderr_tail);
        put(&mut spec.environment, &self.environment);
        put(&mut spec.inherit, &self.inherit);
        self.held().apply(folder, &mut spec)?;
        Ok(Server::Command(Command::from_spec(spec)?))
    }

    fn held(&self) -> Held {
        Held {
            max_cpu: self.max_cpu,
            max_memory: self.max_memory,
            max_processes: self.max_processes,
            max_open_files: self.max_open_files,
            max_folder: self.max_folder,
            read_only: self.read_only.clone(),
        }
    }

    fn upstream(&self, upstream: &str, timeout: Span) -> Result<Server, RouteError> {
        self.refuse("an upstream", &self.of_commands())?;
        self.refuse("an upstream", &self.held().settings())?;
        let mut spec = UpstreamSpec::new(upstream);
        spec.timeout = self.timeout.unwrap_or(timeout);
        put(&mut spec.max_output, &self.max_output);
        put(&mut spec.max_running, &self.max_running);
        put(&mut spec.max_wait, &self.max_wait);
        put(&mut spec.connect_timeout, &self.connect_timeout);
        put(&mut spec.first_byte_timeout, &self.first_byte_timeout);
        put(&mut spec.idle_timeout, &self.idle_timeout);
        put(&mut spec.allow_unframed, &self.allow_unframed);
        Ok(Server::Upstream(Upstream::from_spec(spec)?))
    }

    fn builtin(&self, builtin: Builtin) -> Result<Server, RouteError> {
        self.refuse("a builtin", &self.of_commands())?;
        self.refuse("a builtin", &self.held().settings())?;
        self.refuse("a builtin", &self.of_upstreams())?;
        let of_both = [
            ("max_output", self.max_output.is_some()),
            ("max_running", self.max_running.is_some()),
            ("max_wait", self.max_wait.is_some()),
            ("stream", self.stream.is_some()),
        ];
        self.refuse("a builtin", &of_both)?;
        Ok(Server::Builtin(builtin))
    }

    fn of_commands(&self) -> [(&'static str, bool); 5] {
        [
            ("sandbox", self.sandbox.is_some()),
            ("stderr_tail", self.stderr_tail.is_some()),
            ("working_directory", self.working_directory.is_some()),
            ("environment", self.environment.is_some()),
            ("inherit", self.inherit.is_some()),
        ]
    }

    fn of_upstreams(&self) -> [(&'static str, bool); 4] {
        [
            ("connect_timeout", self.connect_timeout.is_some()),
            ("first_byte_timeout", self.first_byte_timeout.is_some()),
            ("idle_timeout", self.idle_timeout.is_some()),
            ("allow_unframed", self.allow_unframed.is_some()),
        ]
    }

    /// A setting that would be ignored is a mistake.
    fn refuse(
        &self,
        server: &'static str,
        settings: &[(&'static str, bool)],
    ) -> Result<(), RouteError> {
        match settings.iter().find(|(_, given)| *given) {
            Some((setting, _)) => Err(RouteError::Misplaced { setting, server }),
            None => Ok(()),
        }
    }
}

fn put<T: Clone>(default: &mut T, given: &Option<T>) {
    if let Some(given) = given {
        default.clone_from(given);
    }
}

pub(crate) fn good_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
