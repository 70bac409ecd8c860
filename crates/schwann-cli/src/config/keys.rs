//! What can be set, by its key: a good value of each, which are paths, which are secret; and tables read by key.

use toml::{Table, Value};

/// What can be set besides synapses: the key, and a good value as TOML.
pub(super) const EXAMPLES: &[(&str, &str)] = &[
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
pub(super) const PATHS: &[&str] =
    &["key.wallet_path", "axon.nonces", "etl.working_directory", "cards.data"];

/// Keys whose value is shown to nobody.
pub(super) const SECRET: &[&str] =
    &["key.uri", "key.password", "cards.database", "cards.redis", "cards.first_superuser_password"];

pub(super) fn get<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        Some((section, leaf)) => table.get(section)?.as_table()?.get(leaf),
        None => table.get(key),
    }
}

pub(super) fn insert(table: &mut Table, key: &str, value: Value) {
    let Some((section, leaf)) = key.split_once('.') else {
        table.insert(key.to_owned(), value);
        return;
    };
    let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(section) = section {
        section.insert(leaf.to_owned(), value);
    }
}

pub(super) fn remove(table: &mut Table, key: &str) {
    if let Some((section, leaf)) = key.split_once('.')
        && let Some(Value::Table(section)) = table.get_mut(section)
    {
        section.remove(leaf);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Settings, routes};

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
        let text = include_str!("../../../../docs/configuration.md");
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
}
