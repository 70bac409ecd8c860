//! `schwann axon`.

use std::{net::SocketAddr, sync::Arc};

use schwann::Server;
use schwann_synapse::{
    axon::{Axon, RouteTable},
    keys::Signer,
    nonce::{Durability, PersistentNonceStore},
};
use serde_json::json;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{
    config::{AxonSettings, Config},
    key,
    problem::{Problem, chain, print_line, say},
    program, routes,
};

/// Serves the synapses of the file until it is told to stop.
pub(crate) async fn run(config: &Config, json: bool) -> Result<(), Problem> {
    let servers = config.servers()?;
    if servers.is_empty() {
        return Err(Problem::usage("there is no synapse to serve").hint(
            "--config FILE names a file with [[synapse]] in it; `schwann up` serves samples",
        ));
    }
    let serving = Serving::begin(config, key::load(&config.settings.key)?, servers, None).await?;
    serving.announce(json)?;
    serving.until_stopped().await
}

/// An axon that listens.
pub(crate) struct Serving {
    axon: Axon,
    listener: TcpListener,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    metrics: Option<(TcpListener, SocketAddr)>,
    server: Server,
    stop: Stop,
}

impl Serving {
    pub(crate) async fn begin(
        config: &Config,
        signer: Arc<dyn Signer>,
        servers: Vec<(routes::Route, routes::Server)>,
        table: Option<RouteTable>,
    ) -> Result<Self, Problem> {
        let settings = &config.settings.axon;
        let bodies = servers.iter().filter_map(|(route, _)| route.max_body);
        let largest = bodies.fold(settings.max_body, Ord::max);
        let mut axon = Axon::builder(signer)
            .verify(settings.verify.into())
            .bound(settings.bound.into())
            .trusted_proxies(settings.trusted_proxies.iter().copied())
            .max_body(settings.max_body.bytes())
            .max_bodies(settings.max_bodies.bytes())
            .max_timeout(settings.timeout.duration())
            .room(settings.max_running as usize, settings.max_waiting as usize);
        if let Some(folder) = &settings.nonces {
            let store = PersistentNonceStore::open(folder, Durability::default());
            axon = axon.nonce_store(store.map_err(|error| {
                Problem::usage(chain(&error)).hint("`nonces` is a folder that can be written to")
            })?);
        }
        for (route, server) in servers {
            if let routes::Server::Command(command) = &server {
                let missing = command.check_sandbox().await;
                missing.map_err(|error| {
                    Problem::usage(format_args!("synapse `{}`: {}", route.name, chain(&error)))
                })?;
            }
            axon = axon.attach(program::route(&route, server));
        }
        if let Some(table) = table {
            axon = axon.table(table);
        }
        let axon = axon.build().map_err(|error| Problem::usage(chain(&error)))?;
        let stop = Stop::listen()?;
        let (listener, address) = bind(settings.listen, "--listen").await?;
        let metrics = match settings.metrics {
            Some(address) => Some(bind(address, "--metrics").await?),
            None => None,
        };
        let server = server(settings, largest.bytes());
        Ok(Self { axon, listener, address, metrics, server, stop })
    }

    pub(crate) fn hotkey(&self) -> String {
        self.axon.hotkey().to_string()
    }

    /// The names of its own synapses.
    pub(crate) fn names(&self) -> &[String] {
        self.axon.routes()
    }

    /// Says where it is and who, now that callers are welcome.
    fn announce(&self, json: bool) -> Result<(), Problem> {
        let (url, hotkey) = (format!("http://{}", self.address), self.hotkey());
        let metrics = self.metrics.as_ref().map(|(_, at)| format!("http://{at}/metrics"));
        if json {
            return print_line(json!({
                "ready": true,
                "url": url,
                "port": self.address.port(),
                "hotkey": hotkey,
                "synapses": self.axon.routes(),
                "metrics": metrics,
            }));
        }
        print_line(format!(
            "listening on {url}\nhotkey: {hotkey}\nsynapses: {}",
            self.axon.routes().join(", ")
        ))?;
        metrics.map_or(Ok(()), |metrics| print_line(format!("metrics: {metrics}")))
    }

    /// Serves until SIGTERM or Ctrl-C, and then until the calls under way have
    /// ended. A second signal does not wait for them.
    pub(crate) async fn until_stopped(self) -> Result<(), Problem> {
        let Self { axon, listener, metrics, server, stop, .. } = self;
        if let Some((listener, _)) = metrics {
            let (metrics, stopping) = (axon.metrics().clone(), stop.clone());
            let server = Server { max_connections: 16, ..Server::default() };
            tokio::spawn(async move { server.run(listener, metrics, stopping.reached(1)).await });
        }
        let wait = server.drain_timeout;
        let first = stop.clone();
        let stopping = async move {
            first.reached(1).await;
            say(format!("stopping: calls under way have {} s to end", wait.as_secs()));
        };
        tokio::select! {
            drained = server.run(listener, axon, stopping) => match drained.dropped {
                0 => Ok(()),
                many => Err(Problem::failed(format!("{many} connections were cut while stopping"))),
            },
            () = stop.clone().reached(2) => Err(Problem::failed("stopped at once, calls were cut")),
        }
    }
}

fn server(settings: &AxonSettings, largest: u64) -> Server {
    Server {
        max_request_bytes: largest,
        stall_timeout: settings.stall_timeout.duration(),
        max_connections: settings.max_connections as usize,
        drain_timeout: settings.drain_timeout.duration(),
        ..Server::default()
    }
}

pub(crate) async fn bind(
    address: SocketAddr,
    flag: &str,
) -> Result<(TcpListener, SocketAddr), Problem> {
    let fail = |error| {
        Problem::usage(format!("cannot listen on {address}: {error}"))
            .hint(format!("{flag} {} picks a free port", SocketAddr::new(address.ip(), 0)))
    };
    let listener = Server::listen(address).map_err(fail)?;
    let address = listener.local_addr().map_err(fail)?;
    Ok((listener, address))
}

/// How often this process was told to stop.
#[derive(Clone)]
pub(crate) struct Stop(watch::Receiver<usize>);

impl Stop {
    /// From now on a signal is counted instead of ending the process.
    pub(crate) fn listen() -> Result<Self, Problem> {
        let fail = |error| Problem::failed(format!("cannot listen for signals: {error}"));
        let mut terminate = signal(SignalKind::terminate()).map_err(fail)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(fail)?;
        let (count, counted) = watch::channel(0);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                count.send_modify(|count| *count += 1);
            }
        });
        Ok(Self(counted))
    }

    pub(crate) async fn reached(mut self, times: usize) {
        // An error says that the runtime is ending, which is a stop as well.
        let _ = self.0.wait_for(|count| *count >= times).await;
    }
}
