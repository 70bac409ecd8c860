//! `schwann etl`.

use std::net::SocketAddr;

use http::{HeaderValue, Response, StatusCode, header};
use schwann::{BoxHandler, Call, Error, Finished, Handler, Server};
use schwann_etl::{EtlMetrics, EtlServer, EtlSettings, Object, SettingsError, builtin};
use schwann_process::{Command, Job, RunError};
use serde_json::json;
use tracing::warn;

use crate::{
    axon::{Stop, bind},
    config::{Config, contract_variable},
    etl_settings,
    problem::{Problem, chain, print_line, say},
};

/// Transforms objects until it is told to stop.
pub(crate) async fn run(config: &Config, json: bool) -> Result<(), Problem> {
    let transform = Transform::of(config)?.ok_or_else(|| {
        Problem::usage("there is nothing to transform with").hint(format!(
            "--builtin NAME (one of {}), or a program after `--`",
            builtin::NAMES.join(", ")
        ))
    })?;
    let server = EtlServer::new(contract(config)?, transform.handler)
        .map_err(|error| Problem::usage(chain(&error)))?;
    let server = if transform.program { server.accepts_files() } else { server };
    schwann_etl::raise_open_files();
    let settings = &config.settings.etl;
    let stop = Stop::listen()?;
    let (listener, address) = bind(settings.listen, "--listen").await?;
    let metrics = match settings.metrics {
        Some(address) => Some(bind(address, "--metrics").await?),
        None => None,
    };
    announce(address, &transform.name, metrics.as_ref().map(|(_, at)| *at), json)?;
    if let Some((listener, _)) = metrics {
        let (counted, stopping) = (counts(server.metrics().clone()), stop.clone());
        let server = Server { max_connections: 16, ..Server::default() };
        tokio::spawn(async move { server.run(listener, counted, stopping.reached(1)).await });
    }
    let http = Server {
        stall_timeout: settings.stall_timeout.duration(),
        max_connections: settings.max_connections as usize,
        drain_timeout: settings.drain_timeout.duration(),
        ..EtlServer::http()
    };
    let (wait, first) = (http.drain_timeout, stop.clone());
    let stopping = async move {
        first.reached(1).await;
        say(format!("stopping: objects under way have {} s to end", wait.as_secs()));
    };
    tokio::select! {
        drained = http.run(listener, server, stopping) => match drained.dropped {
            0 => Ok(()),
            many => Err(Problem::failed(format!("{many} connections were cut while stopping"))),
        },
        () = stop.clone().reached(2) => Err(Problem::failed("stopped at once, objects were cut")),
    }
}

/// The variables that AIStore sets in a pod, and what the settings say over them.
fn contract(config: &Config) -> Result<EtlSettings, Problem> {
    let settings = EtlSettings::from_variables(contract_variable);
    let mut settings = settings.map_err(|error| match error {
        // The contract's servers end with code 1 without it.
        SettingsError::NoTarget => Problem::failed(error),
        error => Problem::usage(error),
    })?;
    over_the_contract(&mut settings, &config.settings.etl);
    Ok(settings)
}

/// Puts our settings over those of the contract.
pub(crate) fn over_the_contract(settings: &mut EtlSettings, ours: &etl_settings::EtlSettings) {
    if let Some(roots) = &ours.fqn_roots {
        settings.fqn_roots.clone_from(roots);
    }
    if let Some(retries) = ours.direct_put_retries {
        settings.direct_put_retries = retries;
    }
}

fn announce(
    address: SocketAddr,
    transform: &str,
    metrics: Option<SocketAddr>,
    json: bool,
) -> Result<(), Problem> {
    let url = format!("http://{address}");
    let metrics = metrics.map(|at| format!("http://{at}/metrics"));
    if json {
        return print_line(json!({
            "ready": true,
            "url": url,
            "port": address.port(),
            "transform": transform,
            "metrics": metrics,
        }));
    }
    print_line(format!("listening on {url}\ntransform: {transform}"))?;
    metrics.map_or(Ok(()), |metrics| print_line(format!("metrics: {metrics}")))
}

fn counts(metrics: EtlMetrics) -> impl Handler {
    move |call: Call| {
        let text = metrics.render();
        async move {
            let (_, _, reply) = call.into_parts();
            let mut head = Response::new(());
            let form = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            head.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(form));
            Ok::<Finished, Error>(reply.send(head, text))
        }
    }
}

/// What objects go through.
pub(crate) struct Transform {
    handler: BoxHandler,
    name: String,
    program: bool,
}

impl Transform {
    /// The one that is set, checked.
    pub(crate) fn of(config: &Config) -> Result<Option<Self>, Problem> {
        let settings = &config.settings.etl;
        if let Some(name) = &settings.builtin {
            let handler = builtin::named(name).ok_or_else(|| {
                config
                    .blame("etl.builtin", &format!("there is no builtin `{name}`"))
                    .hint(format!("there are: {}", builtin::NAMES.join(", ")))
            })?;
            return Ok(Some(Self { handler, name: name.clone(), program: false }));
        }
        let program = settings
            .program()
            .map_err(|error| config.blame(&format!("etl.{}", error.setting()), &chain(&error)))?;
        let Some(spec) = program else { return Ok(None) };
        let name = spec.command.join(" ");
        let program = Command::from_spec(spec)
            .map_err(|error| config.blame("etl.command", &chain(&error)))?;
        Ok(Some(Self { handler: Program(program).boxed(), name, program: true }))
    }
}

/// A program as a transform: the object on its stdin as it arrives, the result from its stdout as it comes.
struct Program(Command);

impl Handler for Program {
    async fn call(&self, call: Call) -> Result<Finished, Error> {
        let (head, body, reply) = call.into_parts();
        let object = Object::of(&head);
        let failed = |error: RunError| told(object, error);
        let mut environment = vec![
            ("ETL_OBJECT".to_owned(), fit(object.path())?),
            ("ETL_ARGS".to_owned(), fit(object.etl_args())?),
        ];
        if let Some(file) = object.file() {
            let name = file.to_str().ok_or_else(|| unfit("the file's name is not UTF-8"))?;
            environment.push(("ETL_FILE".to_owned(), name.to_owned()));
        }
        let job = Job { environment, ..Job::default() };
        let mut running = self.0.stream_from(job, body).await.map_err(failed)?;
        let Some(first) = running.chunk().await.map_err(failed)? else {
            return Ok(reply.start(StatusCode::OK).finish());
        };
        let mut out = reply.start(StatusCode::OK);
        out.write(first).await?;
        while let Some(piece) = running.chunk().await.map_err(failed)? {
            out.write(piece).await?;
        }
        Ok(out.finish())
    }
}

/// A text as a variable's value.
fn fit(text: &str) -> Result<String, Error> {
    match text.contains('\0') {
        true => Err(unfit("a NUL byte cannot be passed to a program")),
        false => Ok(text.to_owned()),
    }
}

fn unfit(why: &'static str) -> Error {
    Error::caller(StatusCode::BAD_REQUEST, why)
}

/// What a caller is told of a failed run. What the program said is for the log.
fn told(object: &Object, error: RunError) -> Error {
    let (status, short) = match error {
        // Not the program's fault, and told as what it is.
        RunError::Input { source, .. } => return source,
        RunError::Busy { .. } => return Error::busy("too many programs are running"),
        RunError::TimedOut { limit, .. } => {
            (StatusCode::GATEWAY_TIMEOUT, format!("the program was killed after {limit}"))
        }
        RunError::Failed { exit, .. } => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("the program {exit}"))
        }
        RunError::TooMuchOutput { limit } => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("the program wrote more than {limit}"))
        }
        RunError::Start { .. } => {
            (StatusCode::INTERNAL_SERVER_ERROR, "the program cannot be started".to_owned())
        }
        RunError::Lost(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the program was lost".to_owned()),
    };
    warn!(object = object.path(), error = %chain(&error), "the program failed");
    Error::server(short).with_status(status)
}
