//! What can be set for the application, with a default for all of it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use schwann_process::{ByteSize, Sandbox, Span};
use serde::{Deserialize, Deserializer, Serialize, de};

/// Settings of the application, as `[cards]` of the configuration file has them.
///
/// Every limit has a default, and none is unlimited.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CardsSettings {
    /// Where it listens. Default: `127.0.0.1:8080`.
    pub listen: SocketAddr,
    /// Where its metrics are read, if anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SocketAddr>,
    /// The folder of the database and of what runs print. Default: `schwann-data`.
    pub data: PathBuf,
    /// A PostgreSQL database, as `postgres://…`. Without one: SQLite in the data folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// A Redis (6.2 or later) or Valkey, as `redis://…`, by which servers that share the database share their runs. Without one:
    /// what runs print is read where they run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<String>,
    /// How long a server may be silent before another ends its runs. Default: 15 s.
    pub lease: Span,
    /// The email of the superuser that is made if there is none. Default: `admin@example.com`.
    pub first_superuser: String,
    /// Its password. Without one, a random one is made and said once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_superuser_password: Option<String>,
    /// Whether people may sign up by themselves. Default: false.
    pub signup: bool,
    /// Whether the first superuser gets a sample book. Default: true.
    pub sample_book: bool,
    /// What holds programs. Without one: bubblewrap, and refusal to run where that does not work; a server that only this machine can
    /// reach takes landlock then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Sandbox>,
    /// Proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed. Default: none.
    #[serde(deserialize_with = "addresses")]
    pub trusted_proxies: Vec<IpAddr>,
    /// How long a log-in lasts. Default: 192 h, which is 8 days.
    pub session: Span,

    /// Longest run. Default: 10 min.
    pub max_wall: Span,
    /// Most processor time of a run. Default: 5 min.
    pub max_cpu: Span,
    /// Most memory of a run. Default: 512 MiB.
    pub max_memory: ByteSize,
    /// Most processes and threads of a run. Default: 64.
    pub max_processes: u32,
    /// Most open files of each process. Default: 256.
    pub max_open_files: u32,
    /// Most output of a run. Default: 128 MiB.
    pub max_output: ByteSize,
    /// Most that a run may put into its work folder. Default: 64 MiB.
    pub max_folder: ByteSize,
    /// Most runs at a time; 0 means twice the number of cores, and 2 at least. Default: 0.
    pub max_running: u32,
    /// Most runs that wait for their turn. Default: 1,000.
    pub max_queued: u32,
    /// Most runs of one user that wait or run. Default: 100.
    pub max_queued_per_user: u32,

    /// How long finished runs are kept. Default: 720 h, which is 30 days.
    pub keep_runs: Span,
    /// Most finished runs that are kept of one card. Default: 100.
    pub keep_runs_per_card: u32,
    /// Most that the output of all runs may take on disk. Default: 10 GiB.
    pub keep_output: ByteSize,

    /// Largest request body, a notebook to import included. Default: 16 MiB.
    pub max_body: ByteSize,
    /// Largest code of a card. Default: 1 MiB.
    pub max_code: ByteSize,
    /// Most users. Default: 10,000.
    pub max_users: u32,
    /// Most books of one user. Default: 1,000.
    pub max_books_per_user: u32,
    /// Most cards of one book. Default: 500.
    pub max_cards_per_book: u32,
    /// Most log-in attempts a minute, for one address and for one email. Default: 10.
    pub logins_per_minute: u32,
    /// Most requests a minute, for one user or, without a user, one address. Default: 1,200.
    pub requests_per_minute: u32,
    /// Most connections at a time. Default: 4,096.
    pub max_connections: u32,
    /// Longest wait for a client that neither sends nor takes. Default: 60 s.
    pub stall_timeout: Span,
    /// Longest wait for requests under way when it is told to stop. Default: 10 s.
    pub drain_timeout: Span,

    /// Whether cards may be published: then callers of the axon and of `etl_listen` run them. Without it: yes if everything that is
    /// served here is for this machine only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish: Option<bool>,
    /// Where published transforms are served. Without one they are not; but see `schwann up`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etl_listen: Option<SocketAddr>,
    /// Most cards that are published. Default: 100.
    pub max_publications: u32,
    /// Most calls of published cards that wait or run. Default: 32.
    pub max_published_running: u32,
    /// Whether cards may call the axon beside the application. Without it: yes if everything that is served here is for this machine
    /// only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call_axon: Option<bool>,

    /// Languages beyond those that are found, or in their place, by name.
    /// A name has 1 to 64 bytes: it stands in the first record of each run.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "languages")]
    pub languages: BTreeMap<String, LanguageSettings>,
}

/// A language in which cards can be written.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct LanguageSettings {
    /// What is run; `{file}` stands for the file with the card's code.
    pub command: Vec<String>,
    /// How that file's name ends, without the dot.
    pub extension: String,
    /// What prints the version, as `["python3", "--version"]`.
    #[serde(default)]
    pub version: Vec<String>,
    /// Folders that it needs to read, beyond `/usr` and `/lib`.
    #[serde(default)]
    pub read_only: Vec<PathBuf>,
    /// Variables of its environment.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
}

impl Default for CardsSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            metrics: None,
            data: PathBuf::from("schwann-data"),
            database: None,
            redis: None,
            lease: Span::from_secs(15),
            first_superuser: "admin@example.com".to_owned(),
            first_superuser_password: None,
            signup: false,
            sample_book: true,
            sandbox: None,
            trusted_proxies: Vec::new(),
            session: Span::from_secs(8 * 24 * 3600),
            max_wall: Span::from_secs(600),
            max_cpu: Span::from_secs(300),
            max_memory: ByteSize::new(512 << 20),
            max_processes: 64,
            max_open_files: 256,
            max_output: ByteSize::new(128 << 20),
            max_folder: ByteSize::new(64 << 20),
            max_running: 0,
            max_queued: 1000,
            max_queued_per_user: 100,
            keep_runs: Span::from_secs(30 * 24 * 3600),
            keep_runs_per_card: 100,
            keep_output: ByteSize::new(10 << 30),
            max_body: ByteSize::new(16 << 20),
            max_code: ByteSize::new(1 << 20),
            max_users: 10_000,
            max_books_per_user: 1000,
            max_cards_per_book: 500,
            logins_per_minute: 10,
            requests_per_minute: 1200,
            max_connections: 4096,
            stall_timeout: Span::from_secs(60),
            drain_timeout: Span::from_secs(10),
            publish: None,
            etl_listen: None,
            max_publications: 100,
            max_published_running: 32,
            call_axon: None,
            languages: BTreeMap::new(),
        }
    }
}

impl CardsSettings {
    /// Whether only this machine can reach it, as far as is known: a proxy that is not named here is not known.
    pub(crate) fn is_private(&self) -> bool {
        self.listen.ip().to_canonical().is_loopback() && self.trusted_proxies.is_empty()
    }
}

/// A list; in a variable, which has no lists, with commas between.
fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpAddr>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Text(String),
        List(Vec<String>),
    }
    let texts = match Written::deserialize(deserializer)? {
        Written::Text(text) if text.is_empty() => Vec::new(),
        Written::Text(text) => text.split(',').map(|one| one.trim().to_owned()).collect(),
        Written::List(texts) => texts,
    };
    let one = |text: &String| {
        text.parse().map_err(|_| {
            let example = "write a list like `[\"10.0.0.1\"]`";
            de::Error::custom(format!("`{text}` is not an address; {example}"))
        })
    };
    texts.iter().map(one).collect()
}

/// Longest name of a language, in bytes.
const MAX_LANGUAGE: usize = 64;

fn languages<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, LanguageSettings>, D::Error> {
    let languages = BTreeMap::<String, LanguageSettings>::deserialize(deserializer)?;
    match languages.keys().find(|name| name.is_empty() || name.len() > MAX_LANGUAGE) {
        Some(name) => {
            let begins: String = name.chars().take(16).collect();
            let length = name.len();
            Err(de::Error::custom(format!(
                "the name of the language `{begins}…` has {length} bytes; give it 1 to {MAX_LANGUAGE}"
            )))
        }
        None => Ok(languages),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_language_has_its_length() {
        let named = |name: &str| {
            let settings = serde_json::json!({"languages": {name: {"command": ["ruby", "{file}"], "extension": "rb"}}});
            serde_json::from_value::<CardsSettings>(settings)
        };
        for name in ["r", &"r".repeat(64)] {
            assert!(named(name).unwrap().languages.contains_key(name));
        }
        for name in ["", &"r".repeat(65), &"é".repeat(33), &"r".repeat(5000)] {
            let said = named(name).unwrap_err().to_string();
            let length = format!("has {} bytes; give it 1 to 64", name.len());
            assert!(said.contains(&length) && said.len() < 120, "{said}");
        }
    }

    #[track_caller]
    fn check(listen: &str, proxies: &[&str], expected: bool) {
        let settings = CardsSettings {
            listen: listen.parse().unwrap(),
            trusted_proxies: proxies.iter().map(|proxy| proxy.parse().unwrap()).collect(),
            ..CardsSettings::default()
        };
        assert_eq!(settings.is_private(), expected, "{listen} {proxies:?}");
    }

    #[test]
    fn a_server_is_private_if_only_this_machine_can_reach_it() {
        assert!(CardsSettings::default().is_private());
        check("127.0.0.9:0", &[], true);
        check("[::1]:80", &[], true);
        check("[::ffff:127.0.0.1]:80", &[], true);
        check("0.0.0.0:80", &[], false);
        check("[::]:80", &[], false);
        check("192.168.0.7:80", &[], false);
        // Whoever trusts a proxy is behind one, which others reach.
        check("127.0.0.1:80", &["127.0.0.1"], false);
    }
}
