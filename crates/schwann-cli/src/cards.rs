//! `schwann cards`, and the cards of `schwann up`.

use std::net::{Ipv4Addr, SocketAddr};

use schwann::Server;
use schwann_cards::{Application, Beside, CardsSettings, Place};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    axon::{Stop, bind},
    config::Config,
    faces::ServingTransforms,
    problem::{Problem, chain, print_line, say},
};

/// Serves books of cards until it is told to stop.
pub(crate) async fn run(config: &Config, json: bool) -> Result<(), Problem> {
    let (beside, transforms) = beside(config).await?;
    let serving = Serving::begin(config, "--listen", beside, transforms).await?;
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
    transforms: Option<ServingTransforms>,
}

impl Serving {
    /// `flag` is what sets the address.
    pub(crate) async fn begin(
        config: &Config,
        flag: &str,
        beside: Beside,
        transforms: Option<ServingTransforms>,
    ) -> Result<Self, Problem> {
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
        let mut application = Application::start_beside(settings, beside).await.map_err(|error| {
            Problem::failed(chain(&error)).hint(format!(
                "`[cards]` of the configuration says where data ({data}) and database are; `schwann config show` shows it"
            ))
        })?;
        let password = application.first_password();
        Ok(Self {
            application,
            listener,
            address,
            metrics,
            email,
            password,
            server,
            stop,
            transforms,
        })
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
        if let Some(transforms) = &self.transforms {
            said["transforms"] = Value::from(format!("http://{}", transforms.address()));
        }
        if let Some(password) = &self.password {
            said["first_superuser"] = json!({"email": self.email, "password": password});
        }
        said
    }

    /// What is said to a person. The password is in it, this once.
    pub(crate) fn welcome(&self) -> String {
        let mut text = format!("cards: http://{}  (API: /docs)", self.address);
        if let Some(transforms) = &self.transforms {
            text.push_str(&format!("\npublished transforms: http://{}", transforms.address()));
        }
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
        let Self { application, listener, metrics, server, stop, transforms, .. } = self;
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
        let transforms = async {
            match transforms {
                Some(transforms) => transforms.until_stopped().await,
                None => Ok(()),
            }
        };
        let both = async {
            // Streams that follow a run are cut without harm: their clients go on from where they were.
            let (_drained, cut) =
                tokio::join!(server.run(listener, application.handler(), stopping), transforms);
            cut
        };
        let done = tokio::select! {
            done = both => done,
            () = stop.reached(2) => return Err(Problem::failed("stopped at once")),
        };
        application.close().await;
        done
    }
}

/// What the application is served beside when there is no axon.
async fn beside(config: &Config) -> Result<(Beside, Option<ServingTransforms>), Problem> {
    let alone = "there is no axon beside this server; `schwann up` serves both".to_owned();
    let cards = &config.settings.cards;
    let (etl, transforms) = transforms(config, cards.publish.unwrap_or(false), false).await?;
    Ok((Beside { synapse: Place::Closed(alone.clone()), etl, outlet: Err(alone) }, transforms))
}

/// Where transforms are published. Where nothing is said and all is `private`, at the usual place if that is free.
pub(crate) async fn transforms(
    config: &Config,
    publish: bool,
    private: bool,
) -> Result<(Place, Option<ServingTransforms>), Problem> {
    if !publish {
        return Ok((Place::Closed(PUBLISHING_OFF.to_owned()), None));
    }
    let serving = match config.settings.cards.etl_listen {
        Some(listen) => ServingTransforms::begin(config, listen).await?,
        None if private => match ServingTransforms::begin(config, usual(config)).await {
            Ok(serving) => serving,
            Err(problem) => {
                say(format!("note: cards are not published as transforms: {}", problem.message()));
                let why =
                    format!("{}; `[cards] etl_listen` sets another address", problem.message());
                return Ok((Place::Closed(why), None));
            }
        },
        None => {
            let why = "`[cards] etl_listen` is not set, which says where transforms are served";
            return Ok((Place::Closed(why.to_owned()), None));
        }
    };
    Ok((Place::Open(serving.mount()), Some(serving)))
}

/// The port on which AIStore expects a transform, or a free one if the cards have one, too.
fn usual(config: &Config) -> SocketAddr {
    let port = if config.settings.cards.listen.port() == 0 { 0 } else { 8000 };
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Why no card can be published.
pub(crate) const PUBLISHING_OFF: &str =
    "publishing is off here; `[cards] publish = true` turns it on";

fn server(settings: &CardsSettings) -> Server {
    Server {
        max_request_bytes: settings.max_body.bytes(),
        stall_timeout: settings.stall_timeout.duration(),
        max_connections: settings.max_connections as usize,
        drain_timeout: settings.drain_timeout.duration(),
        ..Server::default()
    }
}
