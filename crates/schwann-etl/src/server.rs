use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderValue, Method, Response, StatusCode, header};
use schwann::{BoxHandler, Call, Error, Finished, Handler, Server};
use tracing::{Instrument as _, debug_span};

use crate::{
    EtlMetrics, EtlSettings, deliver,
    failure::Failure,
    fqn::{self, Roots},
    outbound::{Outbound, TlsError},
    question::Question,
    websocket,
};

/// AIStore's ETL contract around one transform. Cheap to clone.
///
/// It is a [`Handler`]: serve it with [`EtlServer::http`].
#[derive(Clone)]
pub struct EtlServer(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) settings: EtlSettings,
    pub(crate) transform: BoxHandler,
    pub(crate) accepts_files: bool,
    pub(crate) roots: Roots,
    pub(crate) outbound: Outbound,
    pub(crate) metrics: EtlMetrics,
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A root of files is not there.
    #[error("`{}`, below which files may be read, is not a folder", .0.display())]
    Root(PathBuf),
    /// TLS towards the target cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl EtlServer {
    /// A server for the target of `settings`, which may be a [`Target`](crate::Target) alone.
    ///
    /// # Errors
    ///
    /// Fails if a folder or a certificate that the settings name is not there.
    pub fn new(
        settings: impl Into<EtlSettings>,
        transform: impl Handler,
    ) -> Result<Self, SetupError> {
        let settings = settings.into();
        if let Some(root) = settings.fqn_roots.iter().find(|root| !fqn::is_folder(root)) {
            return Err(SetupError::Root(root.clone()));
        }
        Ok(Self(Arc::new(Inner {
            transform: transform.boxed(),
            accepts_files: false,
            roots: Roots::new(settings.fqn_roots.clone()),
            outbound: Outbound::new(&settings)?,
            metrics: EtlMetrics::default(),
            settings,
        })))
    }

    /// Says that the transform reads files itself: if [`EtlSettings::direct_fqn`] is set too, it gets
    /// [`Object::file`](crate::Object::file) and an empty body for an object that is named as a file.
    ///
    /// # Panics
    ///
    /// Panics if the server was cloned before.
    #[must_use]
    pub fn accepts_files(mut self) -> Self {
        let inner = Arc::get_mut(&mut self.0).expect("not cloned while it is set up");
        inner.accepts_files = true;
        self
    }

    /// What was counted so far.
    pub fn metrics(&self) -> &EtlMetrics {
        &self.0.metrics
    }

    /// How connections of targets are to be served: as the contract asks for, and otherwise as [`Server::default`].
    ///
    /// Request heads up to 256 KiB, bodies of any size, unused connections kept for 60 s, 16,384 connections, and
    /// 60 s of nothing at all before a peer that owes or is owed bytes is given up.
    pub fn http() -> Server {
        Server {
            max_request_bytes: u64::MAX,
            max_head_bytes: 256 * 1024,
            head_timeout: Duration::from_secs(60),
            // A transform need not read its object to the end.
            linger_timeout: Duration::from_secs(10),
            max_linger_bytes: 1 << 30,
            max_connections: 16 * 1024,
            drain_timeout: Duration::from_secs(25),
            ..Server::default()
        }
    }

    async fn object(
        &self,
        call: Call,
        question: Result<Question, Failure>,
    ) -> Result<Finished, Error> {
        let mut guard = self.0.metrics.begin();
        let done = match question {
            Ok(question) => {
                let span = debug_span!("object", name = %question.path);
                let work = async {
                    let done = deliver::to_caller(self, call, question).await;
                    done.map_err(|failure| self.failed(failure))
                };
                work.instrument(span).await
            }
            Err(failure) => Err(self.failed(failure)),
        };
        guard.ended();
        done
    }

    /// Counts and logs a failure, and makes it the call's error.
    pub(crate) fn failed(&self, failure: Failure) -> Error {
        self.0.metrics.failed(failure.stage);
        failure.log();
        failure.into_error()
    }
}

impl Handler for EtlServer {
    async fn call(&self, call: Call) -> Result<Finished, Error> {
        let head = call.head();
        match (head.uri.path(), &head.method) {
            ("/health", &Method::GET | &Method::HEAD) => {
                let (_, _, reply) = call.into_parts();
                let mut answer = Response::new(());
                let text = HeaderValue::from_static("text/plain; charset=utf-8");
                answer.headers_mut().insert(header::CONTENT_TYPE, text);
                Ok(reply.send(answer, "Running"))
            }
            ("/health", _) => not_allowed(call, "GET, HEAD"),
            ("/ws", &Method::GET) => websocket::serve(self, call).await,
            ("/download", &Method::POST) => {
                let question = Question::download(head);
                self.object(call, question).await
            }
            (_, &Method::PUT | &Method::GET) => {
                let question = Question::of(head);
                self.object(call, question).await
            }
            ("/download", _) => not_allowed(call, "GET, PUT, POST"),
            _ => not_allowed(call, "GET, PUT"),
        }
    }
}

/// Refuses a method, with the ones that are served there.
fn not_allowed(call: Call, allowed: &'static str) -> Result<Finished, Error> {
    let (_, _, reply) = call.into_parts();
    let mut answer = Response::new(());
    *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    let headers = answer.headers_mut();
    headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(reply.send(answer, r#"{"detail":"Method Not Allowed"}"#))
}

impl fmt::Debug for EtlServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtlServer").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

/// Lets this process open as many files as the system permits it: each connection is one.
///
/// Returns the new limit. A limit that cannot be raised stays as it was.
pub fn raise_open_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: now.maximum, maximum: now.maximum };
    let limit = if setrlimit(Resource::Nofile, raised).is_ok() { now.maximum } else { now.current };
    limit.unwrap_or(u64::MAX)
}
