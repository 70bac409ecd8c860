//! Published cards as synapses and as transforms: where the faces meet.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Response, StatusCode, Uri, header,
    uri::{Parts as UriParts, PathAndQuery},
};
use schwann::{BoxHandler, Call, Error, Finished, Handler, Server as HttpServer};
use schwann_cards::{Mount, PublishedCall, PublishedCard, Refused};
use schwann_etl::{EtlServer, EtlSettings, Object, SettingsError, Target};
use schwann_synapse::{axon::RouteTable, ss58::Hotkey};
use tokio::net::TcpListener;
use tracing::error;

use crate::{
    axon::{Stop, bind},
    config::{Config, contract_variable},
    etl,
    problem::{Problem, chain},
    program,
    routes::{Route, Server, good_name},
};

/// The synapses that are cards.
pub(crate) struct Synapses {
    table: RouteTable,
    /// Names of the axon's own.
    taken: BTreeSet<String>,
    url: String,
    hotkey: String,
}

impl Synapses {
    pub(crate) fn new(
        table: RouteTable,
        taken: &[String],
        address: SocketAddr,
        hotkey: String,
    ) -> Self {
        let taken = taken.iter().cloned().collect();
        Self { table, taken, url: format!("http://{address}"), hotkey }
    }
}

impl Mount for Synapses {
    fn check(&self, name: &str) -> Result<(), Refused> {
        if !good_name(name) {
            let text = "The name of a synapse has letters, digits and _".to_owned();
            return Err(Refused::Unfit(text));
        }
        match self.taken.contains(name) {
            true => Err(Refused::Taken(format!("The axon has a synapse `{name}` of its own"))),
            false => Ok(()),
        }
    }

    fn caller(&self, named: &str) -> Result<String, String> {
        match named.trim().parse::<Hotkey>() {
            Ok(hotkey) => Ok(hotkey.to_string()),
            Err(error) => Err(format!("`{named}` is no hotkey: {error}")),
        }
    }

    fn serve(&self, cards: Vec<PublishedCard>) {
        self.table.set(cards.into_iter().map(|card| {
            let route = Route::of_card(&card);
            program::route(&route, Server::Card(card))
        }));
    }

    fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.url)
    }

    fn command(&self, name: &str, streams: bool) -> String {
        // Hashed fields are the callers' to name, with --hash.
        let stream = if streams { " --stream" } else { "" };
        format!(
            "schwann call {} {name} '{{}}' --hotkey {} --key-uri //Bob{stream}",
            self.url, self.hotkey
        )
    }
}

/// The transforms that are cards: an ETL server for each, below its name.
pub(crate) struct Transforms {
    settings: EtlSettings,
    /// Whether there is a target to fetch objects from and to deliver results to.
    has_target: bool,
    address: SocketAddr,
    servers: RwLock<BTreeMap<String, EtlServer>>,
}

/// Transforms, listening.
pub(crate) struct ServingTransforms {
    transforms: Arc<Transforms>,
    listener: TcpListener,
    server: HttpServer,
    stop: Stop,
}

/// Paths that are not cards'.
const RESERVED: [&str; 2] = ["health", "metrics"];

impl ServingTransforms {
    pub(crate) async fn begin(config: &Config, listen: SocketAddr) -> Result<Self, Problem> {
        let (settings, has_target) = settings(config)?;
        let nothing = |call: Call| async move {
            let (_, _, reply) = call.into_parts();
            Ok::<_, Error>(reply.send(StatusCode::OK, Bytes::new()))
        };
        // What would be wrong with each is found now.
        EtlServer::new(settings.clone(), nothing).map_err(|error| Problem::usage(chain(&error)))?;
        let stop = Stop::listen()?;
        let (listener, address) = bind(listen, "SCHWANN_CARDS_ETL_LISTEN=").await?;
        let transforms =
            Arc::new(Transforms { settings, has_target, address, servers: RwLock::default() });
        let etl = &config.settings.etl;
        let server = HttpServer {
            stall_timeout: etl.stall_timeout.duration(),
            max_connections: etl.max_connections as usize,
            drain_timeout: etl.drain_timeout.duration(),
            ..EtlServer::http()
        };
        Ok(Self { transforms, listener, server, stop })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.transforms.address
    }

    /// As the application sees it.
    pub(crate) fn mount(&self) -> Arc<dyn Mount> {
        Arc::clone(&self.transforms) as Arc<dyn Mount>
    }

    pub(crate) async fn until_stopped(self) -> Result<(), Problem> {
        let Self { transforms, listener, server, stop } = self;
        let handler: BoxHandler = ByName(transforms).boxed();
        tokio::select! {
            _drained = server.run(listener, handler, stop.clone().reached(1)) => Ok(()),
            () = stop.reached(2) => Err(Problem::failed("stopped at once, objects were cut")),
        }
    }
}

/// The contract's variables, if this is run where AIStore sets them. Files may only be named below roots that somebody wrote: this
/// server's own are not for its callers.
fn settings(config: &Config) -> Result<(EtlSettings, bool), Problem> {
    let (mut settings, has_target) = match EtlSettings::from_variables(contract_variable) {
        Ok(settings) => (settings, true),
        Err(SettingsError::NoTarget) => {
            let nowhere = Target::parse("http://127.0.0.1:9").expect("an address");
            (EtlSettings::from(nowhere), false)
        }
        Err(error) => return Err(Problem::usage(error)),
    };
    etl::over_the_contract(&mut settings, &config.settings.etl);
    if settings.fqn_roots.is_empty() {
        let none = config.settings.cards.data.join("no-files");
        let fail = |error| Problem::failed(format!("cannot make {}: {error}", none.display()));
        std::fs::create_dir_all(&none).map_err(fail)?;
        settings.fqn_roots.push(none.canonicalize().map_err(fail)?);
    }
    Ok((settings, has_target))
}

impl Transforms {
    fn server(&self, name: &str) -> Option<EtlServer> {
        self.servers.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

impl Mount for Transforms {
    fn check(&self, name: &str) -> Result<(), Refused> {
        match RESERVED.contains(&name) {
            true => Err(Refused::Taken(format!("`{name}` is the server's own"))),
            false => Ok(()),
        }
    }

    fn caller(&self, _named: &str) -> Result<String, String> {
        Err("callers of a transform are not asked who they are, so that none can be named"
            .to_owned())
    }

    fn serve(&self, cards: Vec<PublishedCard>) {
        let mut servers = self.servers.write().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *servers);
        for card in cards {
            let name = card.name().to_owned();
            // With its connections: what a card is, is looked up by each call.
            let server = match before.remove(&name) {
                Some(server) => Ok(server),
                None => EtlServer::new(self.settings.clone(), Transform(card)),
            };
            match server {
                Ok(server) => drop(servers.insert(name, server)),
                Err(error) => error!(name, error = %chain(&error), "a card cannot be served"),
            }
        }
    }

    fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    fn command(&self, name: &str, _streams: bool) -> String {
        format!("curl -sSf -T FILE {}/bucket/object", self.url(name))
    }
}

/// The transform that the first segment of a path names, given the rest of the path.
struct ByName(Arc<Transforms>);

impl Handler for ByName {
    async fn call(&self, call: Call) -> Result<Finished, Error> {
        let head = call.head();
        let path = head.uri.path();
        if path == "/health" && head.method == Method::GET {
            let (_, _, reply) = call.into_parts();
            return Ok(reply.send(StatusCode::OK, "Running"));
        }
        // What browsers send with requests that another site made them make. No target does.
        if head.headers.contains_key(header::ORIGIN) || head.headers.contains_key("sec-fetch-site")
        {
            return refuse(call, StatusCode::FORBIDDEN, "browsers are not served here");
        }
        let name = path.strip_prefix('/').unwrap_or(path);
        let (name, rest) = name.split_once('/').unwrap_or((name, ""));
        let Some(server) = self.0.server(name) else {
            return refuse(call, StatusCode::NOT_FOUND, "no card is published by this name");
        };
        if !self.0.has_target && (head.method != Method::PUT || elsewhere(call.head())) {
            let text = "objects are only taken by PUT and results only given back: AIS_TARGET_URL is not set here";
            return refuse(call, StatusCode::BAD_REQUEST, text);
        }
        let query = head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let rest = PathAndQuery::try_from(format!("/{rest}{query}"));
        let rest = rest.map_err(|_| Error::caller(StatusCode::BAD_REQUEST, "not a path"))?;
        let (mut head, body, reply) = call.into_parts();
        let mut uri = UriParts::default();
        uri.path_and_query = Some(rest);
        head.uri = Uri::from_parts(uri)
            .map_err(|_| Error::caller(StatusCode::BAD_REQUEST, "not a path"))?;
        server.call(Call::from_parts(head, body, reply)).await
    }
}

/// Whether the object or its result is anywhere but in the request and its answer.
fn elsewhere(head: &http::request::Parts) -> bool {
    let query = head.uri.query().unwrap_or_default();
    let names_file = query.split('&').any(|pair| pair.split('=').next() == Some("etl_fqn"));
    names_file || head.headers.contains_key("ais-node-url")
}

fn refuse(call: Call, status: StatusCode, why: &str) -> Result<Finished, Error> {
    let (_, _, reply) = call.into_parts();
    let mut head = Response::new(());
    *head.status_mut() = status;
    head.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(reply.send(head, serde_json::json!({"detail": why}).to_string()))
}

/// A card as the transform of objects.
struct Transform(PublishedCard);

impl Handler for Transform {
    async fn call(&self, call: Call) -> Result<Finished, Error> {
        let (head, body, reply) = call.into_parts();
        let object = Object::of(&head);
        let call = PublishedCall {
            // Targets do not say who asked them.
            caller: format!("etl: {}", shortened(object.path())),
            proven: None,
            environment: vec![
                ("ETL_OBJECT".to_owned(), object.path().to_owned()),
                ("ETL_ARGS".to_owned(), object.etl_args().to_owned()),
            ],
        };
        let mut run = self.0.start(call, body).await?;
        let Some(first) = run.chunk().await? else {
            return Ok(reply.start(StatusCode::OK).finish());
        };
        let mut out = reply.start(StatusCode::OK);
        out.write(first).await?;
        while let Some(piece) = run.chunk().await? {
            out.write(piece).await?;
        }
        Ok(out.finish())
    }
}

fn shortened(path: &str) -> String {
    path.chars().take(200).collect()
}
