//! A user with a book whose cards are run, and what comes of that.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use schwann_process::Sandbox;
use serde_json::{Value, json};

use crate::client::{Answer, Site};

/// What must happen, within a time that only a hang exceeds.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("within a minute")
}

/// A server that runs programs as they are: what holds them is tested elsewhere.
async fn site() -> Site {
    Site::start_with(|settings| settings.sandbox = Some(Sandbox::None)).await
}

/// The same, one server also where there are several: for what is of one server.
pub(crate) async fn alone() -> Site {
    Site::start_alone(|settings| settings.sandbox = Some(Sandbox::None)).await
}

/// A response that is read as it comes.
pub(crate) struct Following {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Incoming,
    pub(crate) text: String,
    /// The beginning of a character, the rest of which is in the next frame.
    torn: Vec<u8>,
}

impl Following {
    pub(crate) async fn start(site: &Site, request: Request<Full<Bytes>>) -> Self {
        let (head, body) = soon(site.open(request)).await.into_parts();
        Self {
            status: head.status,
            headers: head.headers,
            body,
            text: String::new(),
            torn: Vec::new(),
        }
    }

    /// Reads until `needle` has come.
    pub(crate) async fn until(&mut self, needle: &str) -> &str {
        while !self.text.contains(needle) {
            let frame = soon(self.body.frame()).await;
            let frame = frame.unwrap_or_else(|| panic!("no {needle:?} in {:?}", self.text));
            self.take(&frame.unwrap().into_data().unwrap());
        }
        &self.text
    }

    pub(crate) async fn rest(mut self) -> String {
        while let Some(frame) = soon(self.body.frame()).await {
            self.take(&frame.unwrap().into_data().unwrap());
        }
        assert_eq!(self.torn, b"");
        self.text
    }

    /// Adds a frame, which may end anywhere.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.torn.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.torn) {
            Ok(text) => text.len(),
            Err(error) => {
                assert_eq!(error.error_len(), None, "no text: {:?}", self.torn);
                error.valid_up_to()
            }
        };
        self.text.push_str(std::str::from_utf8(&self.torn[..whole]).unwrap());
        self.torn.drain(..whole);
    }

    pub(crate) fn run(&self) -> String {
        self.headers["run-id"].to_str().unwrap().to_owned()
    }
}

/// One user with one book.
pub(crate) struct Desk {
    pub(crate) site: Site,
    pub(crate) token: String,
    pub(crate) book: String,
}

impl Desk {
    pub(crate) async fn new() -> Self {
        Self::at(site().await).await
    }

    pub(crate) async fn at(site: Site) -> Self {
        let token = site.superuser().await;
        let book = site.book(&token, "runs").await;
        Self { site, token, book }
    }

    /// A card in `sh`.
    pub(crate) async fn card(&self, code: &str) -> String {
        self.card_in("sh", code).await
    }

    pub(crate) async fn card_in(&self, language: &str, code: &str) -> String {
        let body = json!({"code": code, "language": language});
        let card = self.site.post(&format!("{}/cards/", self.book), &self.token, body).await;
        format!("{}/cards/{}", self.book, card.expect(200)["id"].as_str().unwrap())
    }

    pub(crate) fn request(
        &self,
        method: Method,
        path: &str,
        accept: &str,
    ) -> http::request::Builder {
        self.site
            .request(method, path)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::ACCEPT, accept)
    }

    pub(crate) async fn run_with(&self, card: &str, accept: &str, body: Value) -> Following {
        let request = self
            .request(Method::POST, &format!("{card}/run"), accept)
            .header(header::CONTENT_TYPE, "application/json");
        let request = request.body(Full::from(body.to_string())).unwrap();
        Following::start(&self.site, request).await
    }

    pub(crate) async fn run(&self, card: &str, accept: &str) -> Following {
        self.run_with(card, accept, json!({})).await
    }

    /// Starts it without following it.
    pub(crate) async fn accept(&self, card: &str, body: Value) -> Answer {
        let request = self
            .request(Method::POST, &format!("{card}/run"), "application/json")
            .header("prefer", "respond-async")
            .header(header::CONTENT_TYPE, "application/json");
        self.site.send(request.body(Full::from(body.to_string())).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str, accept: &str) -> Following {
        let request = self.request(Method::GET, path, accept).body(Full::default()).unwrap();
        Following::start(&self.site, request).await
    }

    pub(crate) async fn ended(&self, run: &str) -> Value {
        self.get(&format!("/runs/{run}/events"), "application/x-ndjson").await.rest().await;
        // The stream ends with the log; the row follows at once, and nothing tells of that.
        soon(async {
            loop {
                let run = self.site.get(&format!("/runs/{run}"), &self.token).await.expect(200);
                if run["status"] == "finished" {
                    return run;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }

    pub(crate) async fn cancel(&self, run: &str, body: Value) -> Answer {
        self.site.post(&format!("/runs/{run}/cancel"), &self.token, body).await
    }

    pub(crate) async fn stdin(&self, run: &str, query: &str, bytes: impl Into<Bytes>) -> Answer {
        let path = format!("/runs/{run}/stdin{query}");
        let request = self.request(Method::POST, &path, "application/json");
        let request = request.header(header::CONTENT_TYPE, "application/octet-stream");
        soon(self.site.send(request.body(Full::new(bytes.into())).unwrap())).await
    }

    /// The same for a run that may not have started yet: its first record comes before its program.
    pub(crate) async fn stdin_soon(&self, run: &str, query: &str, bytes: &'static str) {
        soon(async {
            while self.stdin(run, query, bytes).await.status != 202 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

pub(crate) fn records(text: &str) -> Vec<Value> {
    let lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    lines.into_iter().filter(|record| record["type"] != "heartbeat").collect()
}

#[track_caller]
pub(crate) fn dense(records: &[Value]) {
    for (record, seq) in records.iter().zip(1_u64..) {
        assert_eq!(record["seq"], seq, "{records:?}");
    }
    let ends = records.iter().filter(|record| record["type"] == "exit").count();
    assert_eq!(ends, 1, "{records:?}");
    assert_eq!(records.last().unwrap()["type"], "exit");
}

pub(crate) fn joined(records: &[Value], kind: &str) -> String {
    let of_kind = records.iter().filter(|record| record["type"] == kind);
    of_kind.map(|record| record["data"].as_str().expect("text")).collect()
}
