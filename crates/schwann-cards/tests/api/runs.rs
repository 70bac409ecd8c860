//! Runs, as who starts, follows and ends them sees it.

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
async fn alone() -> Site {
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
    async fn new() -> Self {
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
        // The stream ends with the log; the row follows at once.
        loop {
            let run = self.site.get(&format!("/runs/{run}"), &self.token).await.expect(200);
            if run["status"] == "finished" {
                return run;
            }
            tokio::task::yield_now().await;
        }
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

#[tokio::test]
async fn running_a_card_saves_it_and_streams_its_output_as_it_is() {
    let desk = Desk::new().await;
    let card = desk.card("echo old").await;
    let code = "printf 'one\\n'; printf 'two\\n' >&2; printf '\\033[1m50%%\\r100%%\\n'; exit 3";
    let run = desk.run_with(&card, "*/*", json!({"code": code})).await;
    assert_eq!(run.status, 200);
    assert_eq!(run.headers[header::CONTENT_TYPE], "text/plain; charset=utf-8");
    assert_eq!(run.headers[header::CACHE_CONTROL], "no-store");
    assert_eq!(run.headers["x-accel-buffering"], "no");
    assert_eq!(run.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    let id = run.run();
    assert_eq!(run.headers[header::LOCATION], format!("/api/v1/runs/{id}"));
    let text = run.rest().await;
    assert!(text.contains("one\n") && text.contains("two\n"), "{text:?}");
    assert!(text.contains("\u{1b}[1m50%\r100%\n"), "{text:?}");
    let saved = desk.site.get(&card, &desk.token).await.expect(200);
    assert_eq!(saved["code"], code);
    let known = desk.ended(&id).await;
    assert_eq!((&known["reason"], &known["exit_code"]), (&json!("exit"), &json!(3)));
    assert_eq!((&known["stdout_bytes"], &known["stderr_bytes"]), (&json!(17), &json!(4)));
    assert_eq!((&known["code"], &known["sandbox"]), (&json!(code), &json!("none")));
}

#[tokio::test]
async fn lists_of_runs_have_all_of_them_but_their_code_which_each_run_has() {
    let desk = Desk::new().await;
    let card = desk.card("echo first").await;
    let code = format!("cat\n# {}", "long ".repeat(20_000));
    let first = desk.accept(&card, json!({})).await.expect(202);
    assert_eq!(first["code"], "echo first");
    desk.ended(first["id"].as_str().unwrap()).await;
    let second = desk.accept(&card, json!({"code": code, "stdin": "in"})).await.expect(202);
    assert_eq!(second["code"], code);
    let second = desk.ended(second["id"].as_str().unwrap()).await;
    assert_eq!(second["code"], code);
    for path in [format!("{card}/runs/"), "/runs/".to_owned()] {
        let listed = desk.site.get(&path, &desk.token).await;
        assert!(listed.body.len() < 4096, "{path}: {} bytes", listed.body.len());
        let listed = listed.expect(200);
        assert_eq!((&listed["count"], listed["data"].as_array().unwrap().len()), (&json!(2), 2));
        let mut alone = second.clone();
        alone.as_object_mut().unwrap().remove("code");
        assert_eq!(listed["data"][0], alone, "{path}");
        assert_eq!(listed["data"][1]["id"], first["id"]);
    }
}

#[tokio::test]
async fn each_framing_tells_channels_and_the_end_apart() {
    let desk = Desk::new().await;
    let card = desk.card("echo out; echo err >&2; kill -9 $$").await;
    let lines = desk.run(&card, "application/x-ndjson").await.rest().await;
    let seen = records(&lines);
    dense(&seen);
    assert_eq!(seen[0]["type"], "start");
    assert_eq!(
        (seen[0]["language"].as_str(), seen[0]["sandbox"].as_str()),
        (Some("sh"), Some("none"))
    );
    assert_eq!(
        (joined(&seen, "stdout"), joined(&seen, "stderr")),
        ("out\n".into(), "err\n".into())
    );
    let exit = seen.last().unwrap();
    assert_eq!(
        (&exit["reason"], &exit["signal"], &exit["code"]),
        (&json!("signal"), &json!(9), &Value::Null)
    );

    let events = desk.run(&card, "text/event-stream").await.rest().await;
    assert!(
        events.starts_with("retry: 1000\n\nid: 1\nevent: start\ndata: {\"seq\":1,"),
        "{events}"
    );
    assert!(events.contains("event: exit\ndata: {"), "{events}");
    let request = desk.request(Method::POST, &format!("{card}/run?footer=true"), "text/plain");
    let text = Following::start(&desk.site, request.body(Full::default()).unwrap()).await;
    assert!(text.rest().await.contains("\n[signal 9, "));
    let request = desk.request(Method::POST, &format!("{card}/run"), "image/png");
    let refused = desk.site.send(request.body(Full::default()).unwrap()).await;
    assert_eq!(refused.refusal(406), "not_acceptable");
}

#[tokio::test]
async fn lines_arrive_one_at_a_time_and_stdin_goes_the_other_way() {
    let desk = Desk::new().await;
    let card = desk
        .card_in("python", "for n in range(3):\n  print('line', n)\n  print('got', input())")
        .await;
    let mut run = desk.run(&card, "text/plain").await;
    let id = run.run();
    for n in 0..3 {
        // The next line is only written after this one was answered.
        let seen = run.until(&format!("line {n}\n")).await;
        assert!(!seen.contains(&format!("line {}", n + 1)), "{seen}");
        assert_eq!(desk.stdin(&id, "", format!("第{n}\n")).await.status, 202);
        run.until(&format!("got 第{n}\n")).await;
    }
    assert_eq!(run.rest().await.lines().count(), 6);
    desk.ended(&id).await;
    assert_eq!(desk.stdin(&id, "", "late").await.refusal(409), "stdin_closed");
    let large = vec![b'x'; 64 * 1024 + 1];
    assert_eq!(desk.stdin(&id, "", large).await.refusal(413), "stdin_too_large");
}

#[tokio::test]
async fn input_ends_where_it_is_said_to_or_comes_with_the_run() {
    let desk = Desk::new().await;
    let card = desk.card("cat; echo end").await;
    let given = desk.run_with(&card, "text/plain", json!({"stdin": "all of it\n"})).await;
    assert_eq!(given.rest().await, "all of it\nend\n");
    let mut run = desk.run(&card, "text/plain").await;
    let id = run.run();
    // It may not have started yet.
    while desk.stdin(&id, "", "sent\n").await.status != 202 {
        tokio::task::yield_now().await;
    }
    run.until("sent\n").await;
    assert_eq!(desk.stdin(&id, "?eof=true", "last\n").await.status, 202);
    assert_eq!(desk.stdin(&id, "", "more").await.refusal(409), "stdin_closed");
    assert_eq!(run.rest().await, "sent\nlast\nend\n");
}

#[tokio::test]
async fn whoever_leaves_comes_back_to_the_rest_and_two_see_the_same() {
    let desk = Desk::new().await;
    let card = desk.card("for n in 1 2 3 4; do echo line $n; read x; done").await;
    let mut first = desk.run(&card, "application/x-ndjson").await;
    let id = first.run();
    first.until("line 1\\n").await;
    let seen = records(&first.text);
    drop(first);
    // It goes on without anybody.
    assert_eq!(desk.stdin(&id, "", "\n").await.status, 202);
    let after = seen.last().unwrap()["seq"].as_u64().unwrap();
    let events = format!("/runs/{id}/events");
    let mut later = desk.get(&format!("{events}?after={after}"), "application/x-ndjson").await;
    later.until("line 2\\n").await;
    let tab = desk.get(&events, "text/plain").await;
    assert_eq!(desk.stdin(&id, "?eof=true", "\n\n").await.status, 202);
    let all: Vec<Value> = seen.into_iter().chain(records(&later.rest().await)).collect();
    dense(&all);
    assert_eq!(joined(&all, "stdout"), "line 1\nline 2\nline 3\nline 4\n");
    assert_eq!(tab.rest().await, "line 1\nline 2\nline 3\nline 4\n");

    // Also where the cursor is a header, and where there is none.
    let request = desk.request(Method::GET, &events, "application/x-ndjson");
    let request = request.header("last-event-id", (all.len() - 1).to_string());
    let last = Following::start(&desk.site, request.body(Full::default()).unwrap()).await;
    assert_eq!(records(&last.rest().await), all[all.len() - 1..]);
    let again = desk.get(&events, "application/x-ndjson").await.rest().await;
    assert_eq!(records(&again), all);
}

#[tokio::test]
async fn bad_cursors_are_refused_or_a_reset() {
    let desk = Desk::at(alone().await).await;
    let card = desk.card("echo hello").await;
    let run = desk.run(&card, "text/plain").await;
    let id = run.run();
    run.rest().await;
    let events = format!("/runs/{id}/events");
    let reset = desk.get(&format!("{events}?after=99"), "application/x-ndjson").await.rest().await;
    let seen = records(&reset);
    assert_eq!(seen[0], json!({"type": "reset", "reason": "cursor"}));
    dense(&seen[1..]);
    let text = desk.request(Method::GET, &format!("{events}?after=99"), "text/plain");
    assert_eq!(desk.site.send(text.body(Full::default()).unwrap()).await.refusal(416), "reset");
    for bad in ["-1", "x", "1.5", "99999999999999999999"] {
        let answer = desk.site.get(&format!("{events}?after={bad}"), &desk.token).await;
        assert_eq!(answer.refusal(422), "validation", "{bad}");
        let request = desk.request(Method::GET, &events, "text/plain").header("last-event-id", bad);
        let answer = desk.site.send(request.body(Full::default()).unwrap()).await;
        assert_eq!(answer.refusal(422), "validation", "{bad}");
    }
    let none = uuid::Uuid::new_v4();
    assert_eq!(
        desk.site.get(&format!("/runs/{none}/events"), &desk.token).await.refusal(404),
        "not_found"
    );
    // Output that is not kept any more.
    desk.ended(&id).await;
    std::fs::remove_file(desk.site.data().join(format!("data/runs/{id}.log"))).unwrap();
    let gone = desk.get(&events, "text/event-stream").await.rest().await;
    assert!(
        gone.contains("event: reset\ndata: {\"type\":\"reset\",\"reason\":\"expired\"}"),
        "{gone}"
    );
    assert_eq!(desk.site.get(&events, &desk.token).await.refusal(410), "output_expired");
}

#[tokio::test]
async fn a_run_is_cancelled_however_often_and_keeps_what_it_said() {
    let desk = Desk::new().await;
    let code = "import time\ntry:\n  print('begun')\n  time.sleep(1000)\nexcept KeyboardInterrupt:\n  print('bye')\n";
    let card = desk.card_in("python", code).await;
    let mut run = desk.run(&card, "application/x-ndjson").await;
    let id = run.run();
    run.until("\\n\"").await;
    let told = desk.cancel(&id, json!({"grace_ms": 30_000})).await;
    assert_eq!(told.status, 202);
    let seen = records(&run.rest().await);
    dense(&seen);
    assert_eq!(joined(&seen, "stdout"), "begun\nbye\n");
    assert_eq!(seen.last().unwrap()["reason"], "cancelled");
    desk.ended(&id).await;
    assert_eq!(desk.cancel(&id, json!({})).await.expect(200)["reason"], "cancelled");

    // One that does not listen is killed.
    let card = desk.card("trap '' INT TERM; echo deaf; while :; do sleep 1; done").await;
    let mut run = desk.run(&card, "application/x-ndjson").await;
    let id = run.run();
    run.until("deaf").await;
    assert_eq!(desk.cancel(&id, json!({"grace_ms": 1})).await.status, 202);
    let seen = records(&run.rest().await);
    assert_eq!(seen.last().unwrap()["reason"], "cancelled");
    assert_eq!(seen.last().unwrap()["signal"], 9);
}

#[tokio::test]
async fn runs_wait_their_turn_and_can_be_cancelled_there() {
    let site = Site::start_alone(|settings| {
        settings.sandbox = Some(Sandbox::None);
        settings.max_running = 1;
        settings.max_queued = 2;
    })
    .await;
    let desk = Desk::at(site).await;
    let first = desk.card("echo on; read x").await;
    let mut running = desk.run(&first, "text/plain").await;
    running.until("on\n").await;
    let (second, third) = (desk.card("echo second").await, desk.card("echo third").await);
    let two = desk.accept(&second, json!({})).await.expect(202);
    let three = desk.accept(&third, json!({})).await.expect(202);
    assert_eq!((&two["queue_position"], &three["queue_position"]), (&json!(0), &json!(1)));
    assert_eq!(two["status"], "queued");
    let fourth = desk.card("echo fourth").await;
    let full = desk.accept(&fourth, json!({})).await;
    assert!(full.headers.contains_key(header::RETRY_AFTER));
    assert_eq!(full.refusal(429), "queue_full");
    let (two, three) = (two["id"].as_str().unwrap(), three["id"].as_str().unwrap());
    assert_eq!(desk.stdin(two, "", "x").await.refusal(409), "run_queued");
    assert_eq!(desk.cancel(two, json!({})).await.status, 202);
    assert_eq!(desk.ended(two).await["reason"], "cancelled");
    assert_eq!(desk.stdin(&running.run(), "?eof=true", "\n").await.status, 202);
    assert_eq!(desk.ended(three).await["reason"], "exit");
}

#[tokio::test]
async fn how_far_a_run_has_come_is_told_while_it_goes_on() {
    let desk = Desk::at(alone().await).await;
    let card = desk.card("echo ready; while read x; do echo $x; done").await;
    let mut run = desk.run(&card, "application/x-ndjson").await;
    let id = run.run();
    // Its first record is there before it takes input.
    run.until("\"ready\\n\"").await;
    let mut seen = 2;
    for line in ["one", "two", "three"] {
        assert_eq!(desk.stdin(&id, "", format!("{line}\n")).await.status, 202);
        let text = run.until(&format!("\"{line}\\n\"")).await;
        let shown = records(text).last().unwrap()["seq"].as_u64().unwrap();
        let known = desk.site.get(&format!("/runs/{id}"), &desk.token).await.expect(200);
        assert_eq!((&known["status"], &known["last_seq"]), (&json!("running"), &json!(shown)));
        let list = desk.site.get("/runs/?status=running", &desk.token).await.expect(200);
        assert_eq!(list["data"][0]["last_seq"], shown);
        let card = desk.site.get(&card, &desk.token).await.expect(200);
        assert_eq!(card["last_run"]["last_seq"], shown);
        assert!(shown > seen);
        seen = shown;
    }
    assert_eq!(desk.stdin(&id, "?eof=true", "").await.status, 202);
    let last = records(&run.rest().await).last().unwrap()["seq"].clone();
    // Before the row has it as well as after.
    let known = desk.site.get(&format!("/runs/{id}"), &desk.token).await.expect(200);
    assert_eq!(known["last_seq"], last);
    assert_eq!(desk.ended(&id).await["last_seq"], last);
}

#[tokio::test]
async fn what_runs_do_is_counted() {
    let site = Site::start_alone(|settings| {
        settings.sandbox = Some(Sandbox::None);
        settings.max_running = 1;
        settings.max_queued = 1;
    })
    .await;
    let desk = Desk::at(site).await;
    let first = desk.card("echo one; echo two >&2; printf three; read x").await;
    let mut running = desk.run(&first, "text/plain").await;
    running.until("three").await;
    let second = desk.card("exit 3").await;
    let waiting = desk.accept(&second, json!({})).await.expect(202);
    desk.accept(&desk.card("true").await, json!({})).await.refusal(429);
    let counted = desk.site.metrics();
    for (name, value) in [
        ("running", 1),
        ("queued", 1),
        ("readers", 1),
        ("runs_started_total", 1),
        ("runs_refused_total{code=\"queue_full\"}", 1),
        ("output_bytes_total", 13),
        ("output_lines_total", 2),
    ] {
        let line = format!("\nschwann_cards_{name} {value}\n");
        assert!(counted.contains(&line), "no {line:?} in {counted}");
    }
    desk.cancel(&running.run(), json!({"signal": "KILL"})).await.expect(202);
    running.rest().await;
    desk.ended(waiting["id"].as_str().unwrap()).await;
    for (name, value) in [
        ("running", 0),
        ("queued", 0),
        ("readers", 0),
        ("runs_started_total", 2),
        ("runs_ended_total{reason=\"cancelled\"}", 1),
        ("runs_ended_total{reason=\"exit\"}", 1),
    ] {
        let line = format!("\nschwann_cards_{name} {value}\n");
        // A run leaves its place a moment after its row is written.
        let told = async {
            while !desk.site.metrics().contains(&line) {
                tokio::task::yield_now().await;
            }
        };
        let told = tokio::time::timeout(Duration::from_secs(60), told).await;
        told.unwrap_or_else(|_| panic!("no {line:?} in {}", desk.site.metrics()));
    }
    let counted = desk.site.metrics();
    let of = |name: &str| -> u64 {
        let line = counted.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().parse().unwrap()
    };
    assert!(of("schwann_cards_log_syncs_total") >= 4);
    assert!(of("schwann_cards_log_bytes_total") > 13);
}

#[tokio::test]
async fn a_card_that_runs_is_not_run_twice_unless_it_is_asked_for() {
    let desk = Desk::new().await;
    let card = desk.card("echo on; read x").await;
    let mut run = desk.run(&card, "application/x-ndjson").await;
    let first = run.run();
    run.until("on").await;
    assert_eq!(desk.accept(&card, json!({})).await.refusal(409), "card_running");
    let beside = desk.accept(&card, json!({"on_busy": "queue"})).await.expect(202);
    let instead = desk.accept(&card, json!({"on_busy": "replace"})).await.expect(202);
    for replaced in [&first, beside["id"].as_str().unwrap()] {
        assert_eq!(desk.ended(replaced).await["reason"], "cancelled");
    }
    let instead = instead["id"].as_str().unwrap();
    while desk.stdin(instead, "?eof=true", "\n").await.status != 202 {
        tokio::task::yield_now().await;
    }
    assert_eq!(desk.ended(instead).await["exit_code"], 0);
}

#[tokio::test]
async fn the_same_key_is_the_same_run() {
    let desk = Desk::new().await;
    let card = desk.card("echo once").await;
    let start = async |body: Value| {
        let request = desk
            .request(Method::POST, &format!("{card}/run"), "application/x-ndjson")
            .header("idempotency-key", "k1")
            .header(header::CONTENT_TYPE, "application/json");
        Following::start(&desk.site, request.body(Full::from(body.to_string())).unwrap()).await
    };
    let first = start(json!({})).await;
    let id = first.run();
    let first = first.rest().await;
    let again = start(json!({})).await;
    assert_eq!(again.run(), id);
    assert_eq!(again.rest().await, first);
    assert_eq!(start(json!({"code": "echo other"})).await.status, 422);
    let runs = desk.site.get(&format!("{card}/runs/"), &desk.token).await.expect(200);
    assert_eq!(runs["count"], 1);
}

#[tokio::test]
async fn characters_in_single_bytes_and_bytes_that_are_none_arrive_as_they_are() {
    let desk = Desk::new().await;
    let code = "import os\nfor b in ('第🦀行\\n' * 40).encode():\n  os.write(1, bytes([b]))\nos.write(1, b'\\xff\\xfe')";
    let card = desk.card_in("python", code).await;
    let seen = records(&desk.run(&card, "application/x-ndjson").await.rest().await);
    dense(&seen);
    let mut bytes = Vec::new();
    for record in seen.iter().filter(|record| record["type"] == "stdout") {
        match record["data"].as_str() {
            Some(text) => {
                assert!(!text.contains('\u{FFFD}'));
                bytes.extend_from_slice(text.as_bytes());
            }
            None => {
                use base64::Engine as _;
                let text = record["b64"].as_str().unwrap();
                bytes.extend(base64::engine::general_purpose::STANDARD.decode(text).unwrap());
            }
        }
    }
    assert_eq!(
        bytes,
        [&b"\xe7\xac\xac\xf0\x9f\xa6\x80\xe8\xa1\x8c\n".repeat(40)[..], b"\xff\xfe"].concat()
    );
}

#[tokio::test]
async fn too_much_output_is_cut_and_says_so() {
    let desk = Desk::new().await;
    let card = desk.card("while :; do echo 0123456789; done").await;
    let body = json!({"limits": {"output_bytes": 100_000}});
    let seen = records(&desk.run_with(&card, "application/x-ndjson", body).await.rest().await);
    dense(&seen);
    assert_eq!(joined(&seen, "stdout").len(), 100_000);
    assert_eq!(seen[seen.len() - 2]["type"], "truncated");
    assert_eq!(seen[seen.len() - 2]["limit_bytes"], 100_000);
    assert_eq!(seen.last().unwrap()["reason"], "output_limit");
    let card = desk.card("sleep 1000").await;
    let body = json!({"limits": {"wall_ms": 50}});
    let seen = records(&desk.run_with(&card, "application/x-ndjson", body).await.rest().await);
    assert_eq!(seen.last().unwrap()["reason"], "timeout");
}

#[tokio::test]
async fn stored_output_is_given_by_channel_and_in_parts() {
    let desk = Desk::new().await;
    let card = desk.card("printf 0123456789; printf error >&2").await;
    let run = desk.run(&card, "text/plain").await;
    let id = run.run();
    run.rest().await;
    desk.ended(&id).await;
    let path = format!("/runs/{id}/output?stream=stdout");
    let whole = desk.get(&path, "*/*").await;
    assert!(whole.headers[header::CONTENT_DISPOSITION].to_str().unwrap().contains(&id));
    assert_eq!(whole.rest().await, "0123456789");
    assert_eq!(
        desk.get(&format!("/runs/{id}/output?stream=stderr"), "*/*").await.rest().await,
        "error"
    );
    for (range, expected) in
        [("bytes=2-4", "234"), ("bytes=7-", "789"), ("bytes=-3", "789"), ("bytes=9-99", "9")]
    {
        let request = desk.request(Method::GET, &path, "*/*").header(header::RANGE, range);
        let answer = desk.site.send(request.body(Full::default()).unwrap()).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body[..]),
            (206, expected.as_bytes()),
            "{range}"
        );
    }
    let request = desk.request(Method::GET, &path, "*/*").header(header::RANGE, "bytes=10-");
    assert_eq!(desk.site.send(request.body(Full::default()).unwrap()).await.refusal(416), "range");
}

#[tokio::test]
async fn a_run_that_was_under_way_when_the_server_stopped_has_an_end() {
    let desk = Desk::at(alone().await).await;
    let card = desk.card("echo before; sleep 1000").await;
    let mut run = desk.run(&card, "text/plain").await;
    let id = run.run();
    run.until("before\n").await;
    let Desk { site, token, book } = desk;
    let desk = Desk { site: soon(site.restart()).await, token, book };
    let known = desk.ended(&id).await;
    assert_eq!((&known["reason"], &known["stdout_bytes"]), (&json!("server_restart"), &json!(7)));
    let seen = desk.get(&format!("/runs/{id}/events"), "application/x-ndjson").await.rest().await;
    dense(&records(&seen));
    assert_eq!(joined(&records(&seen), "stdout"), "before\n");
    let runs = desk.site.get(&format!("{card}/runs/"), &desk.token).await.expect(200);
    assert_eq!(runs["count"], 1, "it was run again");
}

#[tokio::test]
async fn one_stream_has_the_runs_of_a_tab_and_goes_on_where_it_was_cut() {
    let desk = Desk::new().await;
    let mut stream = desk.get("/events", "text/event-stream").await;
    let mut runs = Vec::new();
    for n in 0..8 {
        let card = desk.card(&format!("echo first {n}; read x; echo second {n}")).await;
        let body = json!({});
        runs.push(desk.accept(&card, body).await.expect(202)["id"].as_str().unwrap().to_owned());
    }
    // As many as may run at once say their first word; others wait.
    stream.until("first 0\\n").await;
    stream.until("first 1\\n").await;
    let whole = stream.text.rfind("\n\n").unwrap() + 2;
    let first = stream.text[..whole].to_owned();
    drop(stream);
    let id = first.lines().rev().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();
    let request =
        desk.request(Method::GET, "/events", "text/event-stream").header("last-event-id", id);
    let mut later = Following::start(&desk.site, request.body(Full::default()).unwrap()).await;
    for run in &runs {
        while desk.stdin(run, "?eof=true", "\n").await.status != 202 {
            tokio::task::yield_now().await;
        }
    }
    for run in &runs {
        desk.ended(run).await;
    }
    for n in 0..8 {
        later.until(&format!("second {n}\\n")).await;
    }
    while later.text.matches("event: exit").count() < 8 {
        let frame = soon(later.body.frame()).await.unwrap().unwrap().into_data().unwrap();
        later.take(&frame);
    }
    let all = first + &later.text;
    let mut of_run = std::collections::BTreeMap::<String, Vec<Value>>::new();
    for data in all.lines().filter_map(|line| line.strip_prefix("data: ")) {
        let record: Value = serde_json::from_str(data).unwrap();
        of_run.entry(record["run_id"].as_str().unwrap().to_owned()).or_default().push(record);
    }
    assert_eq!(of_run.len(), 8);
    for records in of_run.values() {
        dense(records);
    }
    let answer = desk.site.get("/events?after=x", &desk.token).await;
    assert_eq!(answer.refusal(422), "validation");
}

#[tokio::test]
async fn a_book_runs_in_order_until_a_card_fails() {
    let desk = Desk::new().await;
    for code in ["echo a", "echo b", "echo c; exit 1", "echo d"] {
        desk.card(code).await;
    }
    let body = json!({"kind": "markdown", "code": "# text"});
    desk.site.post(&format!("{}/cards/", desk.book), &desk.token, body).await.expect(200);
    let path = format!("{}/run", desk.book);
    let request = desk.request(Method::POST, &path, "application/x-ndjson");
    let seen = Following::start(&desk.site, request.body(Full::default()).unwrap()).await;
    let seen = records(&seen.rest().await);
    assert_eq!(joined(&seen, "stdout"), "a\nb\nc\n");
    let cards: std::collections::BTreeSet<_> =
        seen.iter().map(|record| record["card_id"].as_str().unwrap()).collect();
    assert_eq!(cards.len(), 3);
}

#[tokio::test]
async fn what_cannot_run_is_refused_before_it_is_saved() {
    let desk = Desk::new().await;
    let card = desk.card("echo kept").await;
    let unknown = json!({"code": "echo lost", "language": "cobol"});
    assert_eq!(desk.accept(&card, unknown).await.refusal(400), "language_unknown");
    let other = json!({"id": uuid::Uuid::new_v4(), "book_id": uuid::Uuid::new_v4()});
    let faults = desk.accept(&card, other).await.expect(422);
    assert_eq!(faults["detail"].as_array().unwrap().len(), 2);
    let wrong = json!({"stdin": 1, "args": "x", "env": {"A=B": "c"}, "on_busy": "never", "limits": {"wall_ms": 0}});
    let faults = desk.accept(&card, wrong).await.expect(422);
    assert_eq!(faults["detail"].as_array().unwrap().len(), 5, "{faults}");
    let saved = desk.site.get(&card, &desk.token).await.expect(200);
    assert_eq!(saved["code"], "echo kept");
    let runs = desk.site.get("/runs/", &desk.token).await.expect(200);
    assert_eq!(runs["count"], 0);
    let languages = desk.site.get("/languages/", &desk.token).await.expect(200);
    let ids: Vec<_> =
        languages["data"].as_array().unwrap().iter().map(|l| l["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["bash", "javascript", "python", "sh"]);
}

#[tokio::test]
async fn arguments_environment_and_a_terminal_reach_the_program() {
    let desk = Desk::new().await;
    let code = "import os, sys\nprint(sys.argv[1:], os.environ['A'], sys.stdout.isatty(), tuple(os.get_terminal_size()) if sys.stdout.isatty() else None)";
    let card = desk.card_in("python", code).await;
    let body = json!({"args": ["x y", "z"], "env": {"A": "b"}});
    let said = desk.run_with(&card, "text/plain", body.clone()).await.rest().await;
    assert_eq!(said, "['x y', 'z'] b False None\n");
    let mut body = body;
    body["tty"] = json!(true);
    body["cols"] = json!(99);
    let said = desk.run_with(&card, "text/plain", body).await.rest().await;
    assert_eq!(said.trim_end(), "['x y', 'z'] b True (99, 24)");
}

#[tokio::test]
async fn a_terminal_changes_its_size_while_the_program_runs() {
    let desk = Desk::new().await;
    let code = "import os, signal\nsignal.signal(signal.SIGWINCH, lambda *_: print('size', *os.get_terminal_size()))\nprint('ready')\nwhile True:\n  signal.pause()\n";
    let card = desk.card_in("python", code).await;
    let mut run = desk.run_with(&card, "text/plain", json!({"tty": true})).await;
    let id = run.run();
    run.until("ready").await;
    let resize = async |cols: u16, rows: u16| {
        let size = json!({"cols": cols, "rows": rows});
        soon(desk.site.post(&format!("/runs/{id}/resize"), &desk.token, size)).await
    };
    assert_eq!(resize(100, 30).await.status, 200);
    run.until("size 100 30").await;
    assert_eq!(resize(81, 25).await.status, 200);
    run.until("size 81 25").await;
    assert_eq!(resize(0, 25).await.refusal(422), "validation");
    assert_eq!(desk.cancel(&id, json!({"signal": "KILL"})).await.status, 202);
    desk.ended(&id).await;
    assert_eq!(resize(80, 24).await.refusal(409), "run_finished");
}

#[tokio::test]
async fn runs_of_others_are_not_there() {
    let desk = Desk::new().await;
    let card = desk.card("echo on; read x").await;
    let mut run = desk.run(&card, "text/plain").await;
    let id = run.run();
    run.until("on\n").await;
    let other = desk.site.user("other@example.com").await;
    let ask = async |method: Method, path: String, body: Option<Value>| {
        desk.site.ask(method, &path, Some(&other), body).await.refusal(404)
    };
    for path in ["", "/events", "/output"] {
        assert_eq!(ask(Method::GET, format!("/runs/{id}{path}"), None).await, "not_found");
    }
    assert_eq!(ask(Method::DELETE, format!("/runs/{id}"), None).await, "not_found");
    assert_eq!(ask(Method::POST, format!("/runs/{id}/cancel"), Some(json!({}))).await, "not_found");
    assert_eq!(ask(Method::POST, format!("/runs/{id}/stdin"), None).await, "not_found");
    let size = json!({"cols": 1, "rows": 1});
    assert_eq!(ask(Method::POST, format!("/runs/{id}/resize"), Some(size)).await, "not_found");
    assert_eq!(ask(Method::GET, format!("{card}/runs/"), None).await, "not_found");
    assert_eq!(ask(Method::POST, format!("{card}/run"), None).await, "not_found");
    assert_eq!(ask(Method::POST, format!("{}/run", desk.book), None).await, "not_found");
    assert_eq!(desk.site.get("/runs/", &other).await.expect(200)["count"], 0);
    assert_eq!(
        desk.site.delete(&format!("/runs/{id}"), &desk.token).await.refusal(409),
        "run_unfinished"
    );
    assert_eq!(desk.cancel(&id, json!({"signal": "KILL"})).await.status, 202);
    desk.ended(&id).await;
    desk.site.delete(&format!("/runs/{id}"), &desk.token).await.expect(200);
    assert_eq!(desk.site.get(&format!("/runs/{id}"), &desk.token).await.refusal(404), "not_found");
}

/// Programs that show what they can reach, in the sandbox that this machine has. Without one, running is refused.
#[expect(clippy::print_stdout, reason = "what is not tested is said")]
#[tokio::test]
async fn programs_are_held_by_a_sandbox_or_not_run() {
    let desk = Desk::at(Site::start().await).await;
    let code = "import os\nprint(os.getcwd(), os.path.exists('main.py'))\ntry:\n  open('/etc/shadow')\n  print('READ')\nexcept OSError as e:\n  print('kept out')\nprint('第', flush=True)\ninput()\n";
    let card = desk.card_in("python", code).await;
    let held = desk.site.get("/utils/sandbox", &desk.token).await.expect(200);
    if held["available"] == json!(false) {
        println!("NO SANDBOX HERE, so only the refusal is tested: {}", held["reason"]);
        assert_eq!(desk.accept(&card, json!({})).await.refusal(503), "sandbox_unavailable");
        return;
    }
    // Somebody has tidied up.
    std::fs::remove_dir_all(desk.site.data().join("data/work")).unwrap();
    let mut run = desk.run(&card, "application/x-ndjson").await;
    let id = run.run();
    run.until("第").await;
    assert_eq!(desk.stdin(&id, "?eof=true", "\n").await.status, 202);
    let seen = records(&run.rest().await);
    dense(&seen);
    let said = joined(&seen, "stdout");
    assert!(said.contains("True\nkept out\n") && !said.contains("READ"), "{said} {seen:?}");
    assert_eq!(seen.last().unwrap()["code"], 0, "{seen:?}");
    assert_ne!(seen[0]["sandbox"], "none");

    // The program hears of it, and what it says then is kept.
    let code = "import time\ntry:\n  print('on', end='')\n  time.sleep(1000)\nexcept KeyboardInterrupt:\n  print('bye')\n  exit(7)\n";
    let card = desk.card_in("python", code).await;
    let mut run = desk.run(&card, "application/x-ndjson").await;
    let id = run.run();
    run.until("\"data\":\"on").await;
    assert_eq!(desk.cancel(&id, json!({"grace_ms": 30_000})).await.status, 202);
    let seen = records(&run.rest().await);
    assert_eq!(joined(&seen, "stdout"), "onbye\n");
    let last = seen.last().unwrap();
    assert_eq!((&last["reason"], &last["code"]), (&json!("cancelled"), &json!(7)), "{last}");

    // One that does not listen is killed after the grace.
    let card = desk.card("trap '' INT; echo deaf; while :; do sleep 1; done").await;
    let mut run = desk.run(&card, "application/x-ndjson").await;
    let id = run.run();
    run.until("deaf").await;
    assert_eq!(desk.cancel(&id, json!({"grace_ms": 50})).await.status, 202);
    let last = records(&run.rest().await).pop().unwrap();
    assert_eq!((&last["reason"], &last["signal"]), (&json!("cancelled"), &json!(9)), "{last}");
}
