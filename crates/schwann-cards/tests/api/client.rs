//! A server of the application on a port of its own, or two that share their work, and a client.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client as HyperClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use schwann::Server;
use schwann_cards::{Application, Beside, CardsSettings};
use schwann_testkit::{postgres::Postgres, redis::Redis};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const EMAIL: &str = "admin@example.com";
pub(crate) const PASSWORD: &str = "correct horse";

/// Where the tests of this program keep their state.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "each program has one of them")]
pub(crate) enum Database {
    Sqlite,
    Postgres,
    PostgresAndRedis,
    /// With PostgreSQL and Redis, and two servers that are asked in turn.
    Several,
}

/// Running servers of one installation, mostly one. They end when this is dropped.
pub(crate) struct Site {
    client: HyperClient<HttpConnector, Full<Bytes>>,
    data: TempDir,
    _postgres: Option<Arc<Postgres>>,
    #[allow(dead_code, reason = "held, and in one of the programs killed")]
    pub(crate) redis: Option<Redis>,
    settings: CardsSettings,
    beside: Beside,
    pub(crate) servers: Vec<Serving>,
    /// Which is asked next.
    turn: AtomicUsize,
}

/// One server.
pub(crate) struct Serving {
    pub(crate) address: SocketAddr,
    application: Arc<Application>,
    task: Task,
}

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {text}", self.status))
    }

    /// The body as JSON, of an answer with this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{text}");
        self.json()
    }

    /// The code of a refusal with this status.
    #[track_caller]
    pub(crate) fn refusal(self, status: u16) -> String {
        let body = self.expect(status);
        assert!(!body["detail"].is_null(), "no detail: {body}");
        body["code"].as_str().unwrap_or_else(|| panic!("no code: {body}")).to_owned()
    }
}

impl Site {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut CardsSettings)) -> Self {
        let servers = if matches!(crate::DATABASE, Database::Several) { 2 } else { 1 };
        Self::start_several(servers, Beside::nothing(), change).await
    }

    /// One server, also where there are several otherwise.
    pub(crate) async fn start_alone(change: impl FnOnce(&mut CardsSettings)) -> Self {
        Self::start_beside(Beside::nothing(), change).await
    }

    /// The same, with what is beside it.
    pub(crate) async fn start_beside(
        beside: Beside,
        change: impl FnOnce(&mut CardsSettings),
    ) -> Self {
        Self::start_several(1, beside, change).await
    }

    async fn start_several(
        servers: usize,
        beside: Beside,
        change: impl FnOnce(&mut CardsSettings),
    ) -> Self {
        let data = TempDir::new().unwrap();
        let mut settings = CardsSettings {
            data: data.path().join("data"),
            first_superuser: EMAIL.to_owned(),
            first_superuser_password: Some(PASSWORD.to_owned()),
            logins_per_minute: 10_000,
            requests_per_minute: 1_000_000,
            ..CardsSettings::default()
        };
        let (mut postgres, mut redis) = (None, None);
        if !matches!(crate::DATABASE, Database::Sqlite) {
            let (server, url) = Postgres::database().await;
            settings.database = Some(url);
            postgres = Some(server);
        }
        if matches!(crate::DATABASE, Database::PostgresAndRedis | Database::Several) {
            let server = Redis::start().await;
            settings.redis = Some(server.url());
            redis = Some(server);
        }
        change(&mut settings);
        let client = HyperClient::builder(TokioExecutor::new()).build_http();
        let turn = AtomicUsize::new(0);
        let started = Vec::new();
        let mut site = Self {
            client,
            data,
            _postgres: postgres,
            redis,
            settings,
            beside,
            servers: started,
            turn,
        };
        site.serve(servers).await;
        site
    }

    async fn serve(&mut self, servers: usize) {
        for number in 0..servers {
            let mut settings = self.settings.clone();
            if number > 0 {
                settings.data = self.data.path().join(format!("data-{number}"));
            }
            self.servers.push(Serving::start(settings, self.beside.clone()).await);
        }
    }

    /// Ends the servers, and starts others with the same data.
    pub(crate) async fn restart(mut self) -> Self {
        let servers = std::mem::take(&mut self.servers);
        let count = servers.len();
        for server in servers {
            server.stop().await;
        }
        self.serve(count).await;
        self
    }

    /// Where the first server is.
    #[allow(dead_code, reason = "not every program of tests asks for it")]
    pub(crate) fn address(&self) -> SocketAddr {
        self.servers[0].address
    }

    /// What is counted, in text form.
    pub(crate) fn metrics(&self) -> String {
        self.servers[0].application.metrics().text()
    }

    /// The data folder.
    pub(crate) fn data(&self) -> &Path {
        self.data.path()
    }

    /// Logs in; the answer as it is.
    pub(crate) async fn log_in(&self, email: &str, password: &str) -> Answer {
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("username", email)
            .append_pair("password", password)
            .finish();
        let request = self
            .request(Method::POST, "/login/access-token")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.send(request.body(Full::from(form)).unwrap()).await
    }

    /// The token of the first superuser.
    pub(crate) async fn superuser(&self) -> String {
        self.token(EMAIL, PASSWORD).await
    }

    pub(crate) async fn token(&self, email: &str, password: &str) -> String {
        let token = self.log_in(email, password).await.expect(200);
        token["access_token"].as_str().unwrap().to_owned()
    }

    /// Adds a user, and logs in as that one.
    pub(crate) async fn user(&self, email: &str) -> String {
        let superuser = self.superuser().await;
        let user = json!({"email": email, "password": PASSWORD});
        self.post("/users/", &superuser, user).await.expect(200);
        self.token(email, PASSWORD).await
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> Answer {
        self.ask(Method::GET, path, Some(token), None).await
    }

    pub(crate) async fn post(&self, path: &str, token: &str, body: Value) -> Answer {
        self.ask(Method::POST, path, Some(token), Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, token: &str, body: Value) -> Answer {
        self.ask(Method::PUT, path, Some(token), Some(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, token: &str, body: Value) -> Answer {
        self.ask(Method::PATCH, path, Some(token), Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str, token: &str) -> Answer {
        self.ask(Method::DELETE, path, Some(token), None).await
    }

    /// A new book's path, as `/books/…`.
    pub(crate) async fn book(&self, token: &str, title: &str) -> String {
        let book = self.post("/books/", token, json!({"title": title})).await.expect(200);
        format!("/books/{}", book["id"].as_str().unwrap())
    }

    /// A new code card's path, as `/books/…/cards/…`.
    pub(crate) async fn card(&self, token: &str, book: &str, code: &str) -> String {
        let card = self.post(&format!("{book}/cards/"), token, json!({"code": code})).await;
        format!("{book}/cards/{}", card.expect(200)["id"].as_str().unwrap())
    }

    /// Sends a request, whose answer's body is read as it comes.
    pub(crate) async fn open(
        &self,
        request: Request<Full<Bytes>>,
    ) -> http::Response<hyper::body::Incoming> {
        self.client.request(request).await.unwrap()
    }

    /// Sends a request as it is.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let (head, body) = self.client.request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: head.status, headers: head.headers, body }
    }

    /// A request to a path below `/api/v1`, to be completed.
    pub(crate) fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        self.request_to(turn % self.servers.len(), method, path)
    }

    /// A request to one of the servers, to be completed.
    pub(crate) fn request_to(
        &self,
        server: usize,
        method: Method,
        path: &str,
    ) -> http::request::Builder {
        let address = self.servers[server].address;
        Request::builder().method(method).uri(format!("http://{address}/api/v1{path}"))
    }

    /// Asks as nobody, or with a token, with a JSON body or none.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
    ) -> Answer {
        let mut request = self.request(method, path);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = match body {
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Bytes::from(body.to_string())
            }
            None => Bytes::new(),
        };
        self.send(request.body(Full::new(body)).unwrap()).await
    }
}

impl Serving {
    async fn start(settings: CardsSettings, beside: Beside) -> Self {
        let server = Server { max_request_bytes: settings.max_body.bytes(), ..Server::default() };
        let application = Application::start_beside(settings, beside).await;
        let application = Arc::new(application.unwrap());
        let listener = Server::listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let handler = application.handler();
        let task = Task(tokio::spawn(async move {
            server.run(listener, handler, std::future::pending()).await;
        }));
        Self { address, application, task }
    }

    pub(crate) async fn stop(self) {
        self.task.0.abort();
        self.application.close().await;
    }
}

/// A task that ends when this is dropped.
struct Task(tokio::task::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
