//! A server of the application on a port of its own, and a client.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client as HyperClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use schwann::Server;
use schwann_cards::{Application, CardsSettings};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const EMAIL: &str = "admin@example.com";
pub(crate) const PASSWORD: &str = "correct horse";

/// A running server. It ends when this is dropped.
pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    client: HyperClient<HttpConnector, Full<Bytes>>,
    _data: TempDir,
    server: tokio::task::JoinHandle<()>,
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
        let data = TempDir::new().unwrap();
        let mut settings = CardsSettings {
            data: data.path().join("data"),
            first_superuser: EMAIL.to_owned(),
            first_superuser_password: Some(PASSWORD.to_owned()),
            logins_per_minute: 10_000,
            requests_per_minute: 1_000_000,
            ..CardsSettings::default()
        };
        change(&mut settings);
        let server = Server { max_request_bytes: settings.max_body.bytes(), ..Server::default() };
        let application = Application::start(settings).await.unwrap();
        let listener = Server::listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            server.run(listener, application.handler(), std::future::pending()).await;
        });
        let client = HyperClient::builder(TokioExecutor::new()).build_http();
        Self { address, client, _data: data, server }
    }

    /// Sends a request as it is.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let (head, body) = self.client.request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: head.status, headers: head.headers, body }
    }

    /// A request to a path below `/api/v1`, to be completed.
    pub(crate) fn request(&self, method: Method, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(format!("http://{}/api/v1{path}", self.address))
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

impl Drop for Site {
    fn drop(&mut self) {
        self.server.abort();
    }
}
