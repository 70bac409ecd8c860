//! `schwann up`: everything on this machine, with nothing written before.

use std::{env, path::Path, sync::Arc};

use schwann_cards::{Beside, Place};
use schwann_synapse::{
    axon::RouteTable,
    keys::{Keypair, Signer},
};
use serde_json::json;

use crate::{
    axon::Serving,
    cards::{self, PUBLISHING_OFF},
    config::Config,
    faces::{ServingTransforms, Synapses},
    key, outlet,
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
    let routes: Vec<_> = servers.iter().map(|(route, _)| route.clone()).collect();
    let lasting = config.settings.key.is_set();
    let signer: Arc<dyn Signer> = match lasting {
        true => key::load(&config.settings.key)?,
        false => {
            let (key, _words) =
                Keypair::generate().map_err(|error| Problem::failed(chain(&error)))?;
            Arc::new(key)
        }
    };
    let table = RouteTable::new();
    let serving = Serving::begin(config, Arc::clone(&signer), servers, Some(table.clone())).await?;
    let (beside, transforms) = beside(config, &serving, signer, table).await?;
    let cards = cards::Serving::begin(config, "--cards", beside, transforms).await?;
    if !lasting {
        say("note: no key is set, so this axon has a throw-away one until it stops");
    }
    let url = format!("http://{}", serving.address);
    let hotkey = serving.hotkey();
    let schwann = program();
    let commands: Vec<_> = routes
        .iter()
        .map(|route| {
            let (name, fields, flags) = attempt(route);
            format!("{schwann} call {url} {name} {fields} --hotkey {hotkey} --key-uri //Bob{flags}")
        })
        .collect();
    if json {
        print_line(json!({
            "ready": true,
            "url": url,
            "port": serving.address.port(),
            "hotkey": hotkey,
            "commands": commands,
            "cards": cards.ready(),
        }))?;
    } else {
        print_line(format!("{}\n", cards.welcome()))?;
        print_line(format!("listening on {url}\nhotkey: {hotkey}\n\ntry:\n"))?;
        for command in &commands {
            print_line(format!("  {command}"))?;
        }
        print_line("")?;
        say("Ctrl-C stops it");
    }
    let (axon, cards) = tokio::join!(serving.until_stopped(), cards.until_stopped());
    axon.and(cards)
}

/// What the cards are beside. What only this machine can reach, publishes and calls without being told to.
async fn beside(
    config: &Config,
    serving: &Serving,
    signer: Arc<dyn Signer>,
    table: RouteTable,
) -> Result<(Beside, Option<ServingTransforms>), Problem> {
    let (axon, cards) = (&config.settings.axon, &config.settings.cards);
    let private = serving.address.ip().is_loopback() && cards.listen.ip().is_loopback();
    let publish = cards.publish.unwrap_or(private);
    let (etl, transforms) = cards::transforms(config, publish, private).await?;
    let synapse = match publish {
        true => Place::Open(Arc::new(Synapses::new(
            table.clone(),
            serving.names(),
            serving.address,
            serving.hotkey(),
        ))),
        false => Place::Closed(PUBLISHING_OFF.to_owned()),
    };
    let outlet = match cards.call_axon.unwrap_or(private) {
        true => Ok(outlet::outlet(
            signer,
            serving.address,
            serving.names(),
            table,
            axon.verify,
            axon.timeout.duration(),
        )?),
        false => Err("`[cards] call_axon = true` allows it".to_owned()),
    };
    Ok((Beside { synapse, etl, outlet }, transforms))
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

/// A synapse's name, fields to try it with, and the flags that takes.
fn attempt(route: &Route) -> (&str, String, String) {
    let sample = SAMPLES.iter().find(|(name, _, _)| *name == route.name);
    let fields = match sample {
        Some((_, _, fields)) => (*fields).to_owned(),
        None => {
            let needed = route.hash.iter().chain(&route.required);
            let filled = needed.map(|field| (field.clone(), json!("hello")));
            json!(filled.collect::<serde_json::Map<_, _>>()).to_string()
        }
    };
    let mut flags = String::new();
    if route.streams() {
        flags.push_str(" --stream");
    }
    if !route.hash.is_empty() {
        flags.push_str(&format!(" --hash {}", quoted(&route.hash.join(","))));
    }
    (&route.name, quoted(&fields), flags)
}

/// How this program is called: by its name where a shell found it by that, and
/// otherwise by where it is, so that the command works in any folder.
fn program() -> String {
    let typed = env::args_os().next().unwrap_or_default();
    let by_name = Path::new(&typed).components().count() == 1;
    let path = match env::current_exe() {
        Ok(path) if !by_name => path,
        _ => typed.into(),
    };
    quoted(&path.to_string_lossy())
}

/// As one word of a shell.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-,".contains(&byte);
    match !text.is_empty() && text.bytes().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}
