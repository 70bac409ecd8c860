//! `schwann up`: everything on this machine, with nothing written before.

use std::{path::Path, sync::Arc};

use schwann_synapse::keys::{Keypair, Signer};
use serde_json::json;

use crate::{
    axon::Serving,
    config::Config,
    key,
    problem::{Problem, chain, print_line, say},
    routes::{Builtin, Route, Server},
};

/// The samples, each with fields to try it with.
const SAMPLES: [(&str, Builtin, &str); 3] = [
    ("Echo", Builtin::Echo, "{\"text\":\"hello\"}"),
    ("Count", Builtin::Count, "{\"to\":10}"),
    ("Words", Builtin::Words, "{\"text\":\"every word of this arrives by itself\"}"),
];

pub(crate) async fn run(config: &Config, json: bool) -> Result<(), Problem> {
    let servers = match config.has_synapses() {
        true => config.servers()?,
        false => samples(config)?,
    };
    let tries: Vec<_> = servers.iter().map(|(route, _)| attempt(route)).collect();
    let signer: Arc<dyn Signer> = match config.settings.key.is_set() {
        true => key::load(&config.settings.key)?,
        false => {
            let (key, _words) =
                Keypair::generate().map_err(|error| Problem::failed(chain(&error)))?;
            say("note: no key is set, so this axon has a throw-away one until it stops");
            Arc::new(key)
        }
    };
    let serving = Serving::begin(config, signer, servers).await?;
    let url = format!("http://{}", serving.address);
    let hotkey = serving.hotkey();
    let commands: Vec<_> = tries
        .iter()
        .map(|(name, fields, streams)| {
            let stream = if *streams { " --stream" } else { "" };
            format!(
                "schwann call {url} {name} '{fields}' --hotkey {hotkey} --key-uri //Bob{stream}"
            )
        })
        .collect();
    if json {
        print_line(json!({
            "ready": true,
            "url": url,
            "port": serving.address.port(),
            "hotkey": hotkey,
            "commands": commands,
        }))?;
    } else {
        print_line(format!("listening on {url}\nhotkey: {hotkey}\n\ntry:\n"))?;
        for command in &commands {
            print_line(format!("  {command}"))?;
        }
        print_line("")?;
        say("Ctrl-C stops it");
    }
    serving.until_stopped().await
}

fn samples(config: &Config) -> Result<Vec<(Route, Server)>, Problem> {
    let timeout = config.settings.axon.timeout;
    let sample = |(name, builtin, _): (&str, Builtin, &str)| {
        let route = Route::of_builtin(name, builtin);
        let server = route.server(Path::new(""), timeout);
        server.map(|server| (route, server)).map_err(|error| Problem::failed(chain(&error)))
    };
    SAMPLES.into_iter().map(sample).collect()
}

/// A synapse's name, fields to try it with, and whether it streams.
fn attempt(route: &Route) -> (String, &'static str, bool) {
    let sample = SAMPLES.iter().find(|(name, _, _)| *name == route.name);
    let fields = sample.map_or("{}", |(_, _, fields)| fields);
    (route.name.clone(), fields, route.streams())
}
