//! What no layer can know alone: settings that contradict each other, and limits of zero.

use std::collections::BTreeMap;

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use super::{Config, Settings};
use crate::{
    problem::Problem,
    routes::{Bound, Verify},
};

impl Config {
    /// What no layer can know alone.
    pub(super) fn consistent(&self) -> Result<(), Problem> {
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
}
