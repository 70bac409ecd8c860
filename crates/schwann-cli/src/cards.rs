//! `schwann cards`, and the cards of `schwann up`.

use std::net::SocketAddr;

use schwann::Server;
use schwann_cards::{Application, CardsSettings};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    axon::{Stop, bind},
    config::Config,
    problem::{Problem, chain, print_line, say},
};

/// Serves books of cards until it is told to stop.
pub(crate) async fn run(config: &Config, json: bool) -> Result<(), Problem> {
    let serving = Serving::begin(config, "--listen").await?;
    match json {
        true => {
            let mut said = serving.ready();
            said["ready"] = Value::from(true);
            print_line(said)?;
        }
        false => print_line(serving.welcome())?,
    }
    serving.until_stopped().await
}

/// The application, listening.
pub(crate) struct Serving {
    application: Application,
    listener: TcpListener,
    address: SocketAddr,
    metrics: Option<(TcpListener, SocketAddr)>,
    email: String,
    password: Option<String>,
    server: Server,
    stop: Stop,
}

impl Serving {
    /// `flag` is what sets the address.
    pub(crate) async fn begin(config: &Config, flag: &str) -> Result<Self, Problem> {
        let settings = config.settings.cards.clone();
        let email = settings.first_superuser.clone();
        let server = server(&settings);
        let stop = Stop::listen()?;
        // First, so that a second server does not touch the data of the first.
        let (listener, address) = bind(settings.listen, flag).await?;
        let metrics = match settings.metrics {
            Some(address) => Some(bind(address, "--metrics").await?),
            None => None,
        };
        let data = settings.data.display().to_string();
        let mut application = Application::start(settings).await.map_err(|error| {
            Problem::failed(chain(&error)).hint(format!(
                "`[cards]` of the configuration says where data ({data}) and database are; `schwann config show` shows it"
            ))
        })?;
        let password = application.first_password();
        Ok(Self { application, listener, address, metrics, email, password, server, stop })
    }

    /// What is said as JSON.
    pub(crate) fn ready(&self) -> Value {
        let mut said = json!({
            "url": format!("http://{}", self.address),
            "port": self.address.port(),
        });
        if let Some(metrics) = self.metrics() {
            said["metrics"] = metrics.into();
        }
        if let Some(password) = &self.password {
            said["first_superuser"] = json!({"email": self.email, "password": password});
        }
        said
    }

    /// What is said to a person. The password is in it, this once.
    pub(crate) fn welcome(&self) -> String {
        let mut text = format!("cards: http://{}  (API: /docs)", self.address);
        if let Some(password) = &self.password {
            text.push_str(&format!(
                "\nlog in as {} with the password {password}\nit is not shown again; change it in the settings",
                self.email
            ));
        }
        if let Some(metrics) = self.metrics() {
            text.push_str(&format!("\nmetrics of cards: {metrics}"));
        }
        text
    }

    fn metrics(&self) -> Option<String> {
        self.metrics.as_ref().map(|(_, at)| format!("http://{at}/metrics"))
    }

    /// Serves until SIGTERM or Ctrl-C, and then until the requests under way have ended. A second signal does not wait for them.
    pub(crate) async fn until_stopped(self) -> Result<(), Problem> {
        let Self { application, listener, metrics, server, stop, .. } = self;
        if let Some((listener, _)) = metrics {
            let (metrics, stopping) = (application.metrics(), stop.clone());
            let server = Server { max_connections: 16, ..Server::default() };
            tokio::spawn(async move { server.run(listener, metrics, stopping.reached(1)).await });
        }
        let wait = server.drain_timeout;
        let first = stop.clone();
        let stopping = async move {
            first.reached(1).await;
            say(format!("stopping: requests under way have {} s to end", wait.as_secs()));
        };
        tokio::select! {
            // Streams that follow a run are cut without harm: their clients go on from where they were.
            _drained = server.run(listener, application.handler(), stopping) => {}
            () = stop.reached(2) => return Err(Problem::failed("stopped at once")),
        }
        application.close().await;
        Ok(())
    }
}

fn server(settings: &CardsSettings) -> Server {
    Server {
        max_request_bytes: settings.max_body.bytes(),
        stall_timeout: settings.stall_timeout.duration(),
        max_connections: settings.max_connections as usize,
        drain_timeout: settings.drain_timeout.duration(),
        ..Server::default()
    }
}
