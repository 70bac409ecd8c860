//! `kill -9` of the whole application while programs run: none of them
//! outlives it, none runs again, and each run has one end.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use schwann::Server;
use schwann_cards::{Application, CardsSettings};
use schwann_process::{Sandbox, Sandboxes, Span};
use schwann_testkit::watch::{self, Watched};
use serde_json::{Value, json};

use crate::{Random, writer};

const ROUNDS: u64 = 4;
const RUNS: usize = 8;

/// Serves until it is killed, and says where.
pub(crate) fn serve(
    data: &Path,
    sandbox: &str,
    max_running: u32,
    shared: Option<(&str, &str, Span)>,
) -> ExitCode {
    let sandbox = if sandbox == "none" { Sandbox::None } else { Sandbox::Bubblewrap };
    writer::runtime().block_on(async {
        let settings = CardsSettings {
            data: data.to_owned(),
            first_superuser_password: Some("correct horse".to_owned()),
            sandbox: Some(sandbox),
            max_running,
            max_queued_per_user: 1000,
            requests_per_minute: 1_000_000,
            database: shared.map(|(database, ..)| database.to_owned()),
            redis: shared.map(|(_, redis, _)| redis.to_owned()),
            lease: shared.map_or(Span::from_secs(2), |(.., lease)| lease),
            ..CardsSettings::default()
        };
        let application = Application::start(settings).await.unwrap();
        let listener = Server::listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        println!("{}", listener.local_addr().unwrap());
        let handler = application.handler();
        Server::default().run(listener, handler, std::future::pending()).await;
    });
    ExitCode::FAILURE
}

pub(crate) fn killed() {
    writer::runtime().block_on(async {
        let report = Sandboxes::probe().await;
        let mut sandboxes = vec!["none"];
        match report.resolve(Sandbox::Bubblewrap) {
            Ok(_) => sandboxes.push("bubblewrap"),
            Err(missing) => println!("NOT TESTED IN A SANDBOX, WHICH THERE IS NONE OF: {missing}"),
        }
        for sandbox in sandboxes {
            rounds(sandbox).await;
        }
    });
}

async fn rounds(sandbox: &str) {
    let data = tempfile::tempdir().unwrap();
    let seed = u64::from(std::process::id());
    let mut random = Random(seed);
    let mut site = Site::start_for(data.path(), sandbox, RUNS).await;
    let book = site.book().await;
    for round in 0..ROUNDS {
        // By this its processes are found, wherever they are.
        let marker = format!("marked-{}-{round}", random.below(u64::MAX));
        // What a program without a sandbox starts beside itself is out of reach.
        let beside = if sandbox == "none" { "" } else { "setsid sh -c 'sleep 1000; :' $1 & " };
        let code = format!("{beside}n=0; while :; do n=$((n+1)); echo line $n; done");
        let mut runs = Vec::new();
        for _ in 0..=RUNS {
            let card = json!({"code": code, "language": "sh"});
            let how = json!({"args": [marker]});
            let card = site.ask(Method::POST, &format!("{book}/cards/"), card).await;
            let path = format!("{book}/cards/{}/run", card["id"].as_str().unwrap());
            let run = site.ask(Method::POST, &path, how).await;
            runs.push(run["id"].as_str().unwrap().to_owned());
        }
        let shown = site.shown(&runs[0], 1 + random.below(200) as usize).await;
        assert!(processes(&marker) >= 1, "round {round}: nothing runs");
        site.kill();
        let killed = Instant::now();
        watch::none_is_left(Duration::from_secs(5), |line| has(line, &marker));
        println!("{sandbox}: all programs gone {:?} after the server", killed.elapsed());
        site = Site::start_for(data.path(), sandbox, RUNS).await;
        assert_eq!(processes(&marker), 0, "round {round}: run again");
        for run in &runs {
            let known = site.ask(Method::GET, &format!("/runs/{run}"), Value::Null).await;
            assert_eq!(known["status"], "finished", "seed {seed}, round {round}: {known}");
            assert_eq!(known["reason"], "server_restart", "{known}");
            let replay = site.lines(run).await;
            assert_eq!(replay, site.lines(run).await);
            let ends = replay.iter().filter(|line| line.contains("\"type\":\"exit\"")).count();
            assert_eq!(ends, 1, "{replay:?}");
            assert_eq!(known["last_seq"], replay.len());
            if *run == runs[0] {
                assert_eq!(replay[..shown.len()], shown[..], "what was shown is lost");
            }
        }
        let listed = site.ask(Method::GET, "/runs/?limit=1000", Value::Null).await;
        assert_eq!(listed["count"], (round + 1) * (RUNS as u64 + 1));
    }
    site.kill();
}

/// Processes, zombies aside, that have this word among their arguments.
pub(crate) fn processes(word: &str) -> usize {
    Watched::all(|line| has(line, word)).len()
}

/// Whether a command line has this word, and not only as a part of one.
pub(crate) fn has(line: &[u8], word: &str) -> bool {
    line.split(|byte| *byte == 0).any(|found| found == word.as_bytes())
}

/// An answer, whose body must be JSON.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

pub(crate) struct Site {
    server: Child,
    pub(crate) address: String,
    pub(crate) token: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Site {
    pub(crate) async fn start(data: &Path, sandbox: &str) -> Self {
        Self::start_for(data, sandbox, 200).await
    }

    async fn start_for(data: &Path, sandbox: &str, running: usize) -> Self {
        Self::start_with(data, sandbox, running, &[]).await
    }

    /// `shared` is a database, a Redis and a lease in seconds, if there are any.
    pub(crate) async fn start_with(
        data: &Path,
        sandbox: &str,
        running: usize,
        shared: &[&str],
    ) -> Self {
        let running = running.to_string();
        let mut server = Command::new(std::env::current_exe().unwrap());
        server.args(["--application".as_ref(), data.as_os_str(), sandbox.as_ref()]);
        server.arg(running).args(shared);
        Self::started_by(server).await
    }

    /// The application, as this command starts it.
    pub(crate) async fn started_by(mut server: Command) -> Self {
        let mut server = server.stdout(Stdio::piped()).spawn().unwrap();
        let mut address = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut address).unwrap();
        let client = Client::builder(TokioExecutor::new()).build_http();
        let address = address.trim().to_owned();
        let mut site = Self { server, address, token: String::new(), client };
        let form = "username=admin%40example.com&password=correct+horse";
        let request = site
            .request(Method::POST, "/login/access-token")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        let token = site.json(request.body(Full::from(form)).unwrap()).await;
        site.token = format!("Bearer {}", token["access_token"].as_str().expect("a token"));
        site
    }

    pub(crate) fn process(&self) -> u32 {
        self.server.id()
    }

    /// The path of a new book.
    pub(crate) async fn book(&self) -> String {
        let book = self.ask(Method::POST, "/books/", json!({"title": "killed"})).await;
        format!("/books/{}", book["id"].as_str().unwrap())
    }

    /// The id of a run of a new card.
    pub(crate) async fn run(&self, book: &str, code: &str) -> String {
        let card = json!({"code": code, "language": "sh"});
        let card = self.ask(Method::POST, &format!("{book}/cards/"), card).await;
        let path = format!("{book}/cards/{}/run", card["id"].as_str().unwrap());
        let run = self.ask(Method::POST, &path, json!({})).await;
        run["id"].as_str().unwrap().to_owned()
    }

    /// Reads a run until something was said.
    pub(crate) async fn until(&self, run: &str, word: &str) {
        let mut body = self.stream(run).await;
        let mut text = Vec::new();
        loop {
            let frame = body.frame().await.expect("it goes on").unwrap();
            let looked_at = text.len().saturating_sub(word.len());
            text.extend_from_slice(&frame.into_data().unwrap());
            if text[looked_at..].windows(word.len()).any(|found| found == word.as_bytes()) {
                return;
            }
        }
    }

    pub(crate) fn kill(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }

    /// What is answered, whatever it is.
    pub(crate) async fn answer(&self, method: Method, path: &str, body: Value) -> Answer {
        self.answer_to(method, path, "application/json", body.to_string()).await
    }

    pub(crate) async fn answer_to(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: impl Into<Bytes>,
    ) -> Answer {
        let request = self.request(method, path).header("prefer", "respond-async");
        let request = request.header(header::CONTENT_TYPE, kind);
        let body = body.into();
        let response = self.client.request(request.body(Full::from(body)).unwrap()).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&body);
        let body = serde_json::from_slice(&body).unwrap_or_else(|_| panic!("{status} {text}"));
        Answer { status, headers, body }
    }

    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let uri = format!("http://{}/api/v1{path}", self.address);
        Request::builder().method(method).uri(uri).header(header::AUTHORIZATION, &self.token)
    }

    async fn json(&self, request: Request<Full<Bytes>>) -> Value {
        let response = self.client.request(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(status.is_success(), "{status} {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, body: Value) -> Value {
        let request = self.request(method, path).header("prefer", "respond-async");
        let request = request.header(header::CONTENT_TYPE, "application/json");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.json(request.body(Full::from(body)).unwrap()).await
    }

    pub(crate) async fn stream(&self, run: &str) -> hyper::body::Incoming {
        self.stream_of(&format!("/runs/{run}/events")).await
    }

    async fn stream_of(&self, path: &str) -> hyper::body::Incoming {
        let request = self.request(Method::GET, path);
        let request = request.header(header::ACCEPT, "application/x-ndjson");
        self.client.request(request.body(Full::default()).unwrap()).await.unwrap().into_body()
    }

    /// The first whole lines of a run that goes on.
    pub(crate) async fn shown(&self, run: &str, least: usize) -> Vec<String> {
        let mut body = self.stream(run).await;
        let mut text = Vec::new();
        while text.iter().filter(|byte| **byte == b'\n').count() < least {
            let frame = body.frame().await.expect("it goes on").unwrap();
            text.extend_from_slice(&frame.into_data().unwrap());
        }
        let whole = text.iter().rposition(|byte| *byte == b'\n').unwrap();
        String::from_utf8(text[..whole].to_vec()).unwrap().lines().map(str::to_owned).collect()
    }

    /// All lines of a run that has ended.
    pub(crate) async fn lines(&self, run: &str) -> Vec<String> {
        self.ask_lines(&format!("/runs/{run}/events")).await
    }

    /// The same from where a path says.
    pub(crate) async fn ask_lines(&self, path: &str) -> Vec<String> {
        let text = self.stream_of(path).await.collect().await.unwrap().to_bytes();
        std::str::from_utf8(&text).unwrap().lines().map(str::to_owned).collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Also after a failure.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
