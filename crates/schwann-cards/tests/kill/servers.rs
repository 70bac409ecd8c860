//! One of two servers that share their work is killed, or stands still: the other ends its runs, once.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use redis::aio::MultiplexedConnection;
use rustix::process::{Pid, Signal, kill_process};
use schwann_testkit::{postgres::Postgres, redis::Redis, watch};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tempfile::TempDir;

use crate::{
    application::{Site, has, processes},
    writer,
};

/// What both servers share.
pub(crate) struct Shared {
    _postgres: Arc<Postgres>,
    redis: Redis,
    database: String,
}

impl Shared {
    pub(crate) async fn new() -> Self {
        let (postgres, database) = Postgres::database().await;
        Self { _postgres: postgres, redis: Redis::start().await, database }
    }

    pub(crate) async fn server(&self, data: &Path) -> Site {
        self.server_with(data, 8, 2).await
    }

    /// Two servers, and the folder of each.
    pub(crate) async fn two(&self) -> ([TempDir; 2], Site, Site) {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let one = self.server(folders[0].path()).await;
        let two = self.server(folders[1].path()).await;
        (folders, one, two)
    }

    /// A server that runs so many at a time, and may be silent for so many seconds.
    async fn server_with(&self, data: &Path, running: usize, lease: u64) -> Site {
        let (redis, lease) = (self.redis.url(), lease.to_string());
        Site::start_with(data, "none", running, &[&self.database, &redis, &lease]).await
    }

    /// A connection with what the servers share.
    async fn asked(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.redis.url()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }
}

/// A run's row, held so that nobody can note its end.
struct Held(PgConnection);

impl Held {
    async fn new(shared: &Shared, run: &str) -> Self {
        let mut held = PgConnection::connect(&shared.database).await.unwrap();
        sqlx::raw_sql("BEGIN").execute(&mut held).await.unwrap();
        let run = sqlx::query("SELECT id FROM runs WHERE id = $1 FOR UPDATE").bind(run);
        run.execute(&mut held).await.unwrap();
        Self(held)
    }

    /// Lets go of it when so many wait for it.
    async fn release_to(mut self, waiting: i64) {
        let waits = "SELECT COUNT(*) FROM pg_locks WHERE NOT granted \
                     AND pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database())";
        soon(async {
            loop {
                let all = sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut self.0).await;
                if all.unwrap() >= waiting {
                    return;
                }
                sqlx::raw_sql("SELECT pg_stat_clear_snapshot()")
                    .execute(&mut self.0)
                    .await
                    .unwrap();
            }
        })
        .await;
        self.0.close().await.unwrap();
    }

    /// Lets go of it, with nobody left who waited for it: the database would carry out what a killed server has asked.
    async fn release(mut self) {
        let others = "pid <> pg_backend_pid() AND datname = current_database()";
        let known = format!("SELECT pid FROM pg_stat_activity WHERE {others}");
        let known: Vec<(i32,)> =
            sqlx::query_as(AssertSqlSafe(known)).fetch_all(&mut self.0).await.unwrap();
        let known: Vec<String> = known.iter().map(|(pid,)| pid.to_string()).collect();
        let those = format!("FROM pg_stat_activity WHERE pid IN ({})", known.join(", "));
        let end = format!("SELECT pg_terminate_backend(pid) {those}");
        sqlx::raw_sql(AssertSqlSafe(end)).execute(&mut self.0).await.unwrap();
        soon(async {
            let left = format!("SELECT COUNT(*) {those}");
            while sqlx::query_scalar::<_, i64>(AssertSqlSafe(&*left))
                .fetch_one(&mut self.0)
                .await
                .unwrap()
                > 0
            {
                // A transaction sees who is there as it was when it first looked.
                let again = "SELECT pg_stat_clear_snapshot()";
                sqlx::raw_sql(again).execute(&mut self.0).await.unwrap();
            }
        })
        .await;
        self.0.close().await.unwrap();
    }
}

async fn finished(site: &Site, run: &str) -> Value {
    soon(async {
        loop {
            let row = known(site, run).await;
            if row["status"] == "finished" {
                return row;
            }
        }
    })
    .await
}

/// What must happen, within a time that only a hang exceeds.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(90), what).await.expect("within 90 s")
}

/// The channel on which readers hear that a run has grown.
async fn channel(redis: &mut MultiplexedConnection, run: &str) -> String {
    let pattern = format!("*:run:{}", run.replace('-', ""));
    let ask = redis::cmd("PUBSUB").arg("CHANNELS").arg(pattern).query_async(redis).await;
    let channels: Vec<String> = ask.unwrap();
    assert_eq!(channels.len(), 1, "{channels:?}");
    channels.into_iter().next().unwrap()
}

fn signal(site: &Site, signal: Signal) {
    kill_process(Pid::from_raw(site.process() as i32).unwrap(), signal).unwrap();
}

/// Sends to a run's input, and gives the status and what was said.
async fn send(site: &Site, run: &str, query: &str, text: &'static str) -> (u16, Value) {
    let path = format!("/runs/{run}/stdin{query}");
    let kind = "application/octet-stream";
    let answer = soon(site.answer_to(Method::POST, &path, kind, text)).await;
    (answer.status, answer.body)
}

/// A run of a shell's code.
async fn run(site: &Site, code: &str) -> String {
    site.run(&site.book().await, code).await
}

/// The rest of a stream that has begun, as lines, with how long it took.
async fn rest(body: Incoming) -> Vec<String> {
    rest_of((body, Vec::new())).await
}

async fn rest_of((mut body, mut text): (Incoming, Vec<u8>)) -> Vec<String> {
    let end = async {
        while let Some(frame) = body.frame().await {
            text.extend_from_slice(&frame.expect("it ends whole").into_data().unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(60), end).await.expect("it ends");
    let text = String::from_utf8(text).unwrap();
    text.lines().filter(|line| !line.contains("heartbeat")).map(str::to_owned).collect()
}

#[track_caller]
fn ended_once(lines: &[String]) {
    for (line, seq) in lines.iter().zip(1_u64..) {
        assert!(line.starts_with(&format!("{{\"seq\":{seq},")), "{seq}: {line}");
    }
    let ends = lines.iter().filter(|line| line.contains("\"type\":\"exit\"")).count();
    assert_eq!(ends, 1);
    let last = lines.last().unwrap();
    assert!(last.contains("\"reason\":\"server_restart\""), "{last}");
}

/// A reader that has this word and reads on: nothing of what comes before it is read later.
async fn following(site: &Site, run: &str, word: &str) -> (Incoming, Vec<u8>) {
    let (mut body, mut text) = (site.stream(run).await, Vec::new());
    while !text.windows(word.len()).any(|found| found == word.as_bytes()) {
        let frame = soon(body.frame()).await.expect("it goes on").unwrap();
        text.extend_from_slice(&frame.into_data().unwrap());
    }
    (body, text)
}

/// How many bytes a record has of standard output.
fn printed(line: &str) -> usize {
    let record: Value = serde_json::from_str(line).unwrap();
    if record["type"] == "stdout" { record["data"].as_str().unwrap().len() } else { 0 }
}

fn word() -> String {
    format!("marked-{}-{:?}", std::process::id(), Instant::now()).replace(' ', "")
}

/// A run that prints for ever, and can be found among the processes.
async fn counting(site: &Site, marker: &str) -> String {
    let book = site.book().await;
    let code = "n=0; while :; do n=$((n+1)); echo line $n; done";
    let card = serde_json::json!({"code": code, "language": "sh"});
    let card = site.ask(Method::POST, &format!("{book}/cards/"), card).await;
    let path = format!("{book}/cards/{}/run", card["id"].as_str().unwrap());
    let run = site.ask(Method::POST, &path, serde_json::json!({"args": [marker]})).await;
    run["id"].as_str().unwrap().to_owned()
}

async fn known(site: &Site, run: &str) -> Value {
    site.ask(Method::GET, &format!("/runs/{run}"), Value::Null).await
}

pub(crate) fn killed() {
    writer::runtime().block_on(async {
        let shared = Shared::new().await;
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let mut one = shared.server_with(folders[0].path(), 2, 2).await;
        let two = shared.server(folders[1].path()).await;
        let marker = word();
        let run = counting(&one, &marker).await;
        let waiting: Vec<_> = [counting(&one, &marker).await, counting(&one, &marker).await].into();
        two.shown(&run, 100).await;
        two.shown(&waiting[0], 2).await;
        assert_eq!(known(&two, &waiting[1]).await["status"], "queued");
        let following = tokio::spawn(rest(two.stream(&run).await));
        let shown = one.shown(&run, 200).await;
        one.kill();
        let killed = Instant::now();
        let elsewhere = following.await.unwrap();
        println!(
            "readers elsewhere have the end {:?} after the server was killed",
            killed.elapsed()
        );
        ended_once(&elsewhere);
        for run in waiting.iter().chain([&run]) {
            while known(&two, run).await["status"] != "finished" {
                assert!(killed.elapsed() < Duration::from_secs(60), "not ended");
            }
            assert_eq!(known(&two, run).await["reason"], "server_restart");
        }
        let lost = known(&two, &run).await;
        assert_eq!(lost["last_seq"], elsewhere.len());
        let printed: usize = elsewhere.iter().map(|line| printed(line)).sum();
        assert_eq!(lost["stdout_bytes"], printed, "not what its readers have seen");
        assert!(elsewhere == two.lines(&run).await, "another reader sees something else");

        // What was on the killed server's disk counts again when it is back.
        let one = shared.server(folders[0].path()).await;
        assert_eq!(processes(&marker), 0, "a program lives on, or runs again");
        let there = one.lines(&run).await;
        ended_once(&there);
        assert!(shown[..] == there[..shown.len()], "what was shown is lost");
        let common = elsewhere.len() - 1;
        assert!(elsewhere[..common] == there[..common], "not the same beginning");
        assert!(two.lines(&run).await == there, "not the same through both servers");
        assert_eq!(known(&two, &run).await["last_seq"], there.len());
        let listed = two.ask(Method::GET, "/runs/?limit=1000", Value::Null).await;
        assert_eq!(listed["count"], 3, "run again");
    });
}

pub(crate) fn stopped() {
    writer::runtime().block_on(async {
        let shared = Shared::new().await;
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let one = shared.server_with(folders[0].path(), 2, 2).await;
        let two = shared.server(folders[1].path()).await;
        let marker = word();
        let run = counting(&one, &marker).await;
        // One that says nothing, and one that waits for its turn.
        let quiet = self::run(&one, "echo on; exec sleep 1000").await;
        let waiting = self::run(&one, "echo never").await;
        two.until(&quiet, "\"on\\n").await;
        two.shown(&run, 100).await;
        let following = tokio::spawn(rest(two.stream(&run).await));
        let process = Pid::from_raw(one.process() as i32).unwrap();
        kill_process(process, Signal::STOP).unwrap();
        let elsewhere = following.await.unwrap();
        ended_once(&elsewhere);
        // Its row follows at once.
        let stopped = Instant::now();
        while known(&two, &run).await["status"] != "finished" {
            assert!(stopped.elapsed() < Duration::from_secs(60), "its row has no end");
        }
        // Its program was not held, and is ended as soon as its server sees what has become of it.
        kill_process(process, Signal::CONT).unwrap();
        let resumed = Instant::now();
        let there = rest(one.stream(&run).await).await;
        ended_once(&there);
        watch::none_is_left(Duration::from_secs(30), |line| has(line, &marker));
        println!("its program is gone {:?} after the server went on", resumed.elapsed());
        for (run, records) in [(&quiet, 3), (&waiting, 1)] {
            let end = soon(async { rest(one.stream(run).await).await }).await;
            ended_once(&end);
            assert_eq!(end.len(), records, "{end:?}");
            assert_eq!(finished(&two, run).await["reason"], "server_restart");
        }
        let common = elsewhere.len() - 1;
        assert!(elsewhere[..common] == there[..common], "not the same beginning");
        // Row and stream follow each other at once, in either order.
        while known(&two, &run).await["last_seq"] != there.len() || two.lines(&run).await != there {
            assert!(resumed.elapsed() < Duration::from_secs(30), "not the same through both");
        }
        // It takes part again.
        let next = counting(&one, &marker).await;
        two.shown(&next, 10).await;
        two.ask(Method::POST, &format!("/runs/{next}/cancel"), serde_json::json!({})).await;
        let end = rest(one.stream(&next).await).await;
        assert!(end.last().unwrap().contains("\"reason\":\"cancelled\""), "{end:?}");
    });
}

pub(crate) fn within_its_lease() {
    writer::runtime().block_on(async {
        let shared = Shared::new().await;
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let one = shared.server_with(folders[0].path(), 8, 600).await;
        let two = shared.server_with(folders[1].path(), 8, 600).await;
        let run = run(&one, "echo on; while read x; do echo got $x; done").await;
        let following = tokio::spawn(rest_of(following(&two, &run, "\"on\\n").await));
        let mut redis = shared.asked().await;
        let client = redis::Client::open(shared.redis.url()).unwrap();
        let mut said = client.get_async_pubsub().await.unwrap();
        let one_id = std::fs::read_to_string(folders[0].path().join("server-id")).unwrap();
        said.psubscribe(format!("*:server:{}", one_id.trim())).await.unwrap();
        let mut said = said.into_on_message();
        let hints = channel(&mut redis, &run).await;

        signal(&one, Signal::STOP);
        // Redis forgets all, and the other server asks the one that stands still, more than once.
        let () = redis::cmd("FLUSHALL").query_async(&mut redis).await.unwrap();
        let hint = redis::cmd("PUBLISH").arg(&hints).arg("").clone();
        for _ in 0..2 {
            let () = hint.query_async(&mut redis).await.unwrap();
        }
        let (status, refused) = send(&two, &run, "", "never\n").await;
        assert_eq!((status, &refused["code"]), (503, &"owner_unreachable".into()));
        let mut given_up = 0;
        soon(async {
            while given_up < 3 {
                let message = said.next().await.unwrap();
                // This it says when it has waited in vain: once for the input, and then for how far the run is.
                if message.get_payload_bytes().is_empty() {
                    given_up += 1;
                    for _ in 0..2 {
                        let () = hint.query_async(&mut redis).await.unwrap();
                    }
                }
            }
        })
        .await;
        assert_eq!(known(&two, &run).await["status"], "running");

        signal(&one, Signal::CONT);
        assert_eq!(send(&two, &run, "", "once\n").await.0, 202);
        assert_eq!(send(&two, &run, "?eof=true", "twice\n").await.0, 202);
        let seen = soon(following).await.unwrap();
        let text: String = seen.concat();
        assert!(!text.contains("never"), "done though it was said that it had not been: {text}");
        assert!(text.contains("got once") && text.contains("got twice"), "{text}");
        assert!(seen.last().unwrap().contains("\"reason\":\"exit\""), "{text}");
        assert!(one.lines(&run).await == seen && two.lines(&run).await == seen);

        // Of a cancel the database knows, so it is not lost with the question.
        let run = self::run(&one, "echo on; exec sleep 1000").await;
        let following = tokio::spawn(rest_of(self::following(&two, &run, "\"on\\n").await));
        signal(&one, Signal::STOP);
        let path = format!("/runs/{run}/cancel");
        let refused = soon(two.answer(Method::POST, &path, serde_json::json!({}))).await;
        assert_eq!((refused.status, &refused.body["code"]), (503, &"owner_unreachable".into()));
        signal(&one, Signal::CONT);
        let seen = soon(following).await.unwrap();
        assert!(seen.last().unwrap().contains("\"reason\":\"cancelled\""), "{seen:?}");
    });
}

pub(crate) fn noted() {
    writer::runtime().block_on(async {
        let mut shared = Shared::new().await;
        let (folders, mut one, two) = shared.two().await;
        let run = run(&one, "echo on; read x; exit 7").await;
        two.until(&run, "\"on\\n").await;
        // Redis is away while the run ends, and its server does not live to tell.
        shared.redis.kill();
        assert_eq!(send(&one, &run, "?eof=true", "\n").await.0, 202);
        let there = rest(one.stream(&run).await).await;
        assert!(there.last().unwrap().contains("\"code\":7"), "{there:?}");
        finished(&two, &run).await;
        one.kill();
        shared.redis.resume();
        soon(async {
            while two.answer(Method::GET, "/utils/ready", Value::Null).await.status != 200 {}
        })
        .await;
        let following = tokio::spawn(rest(two.stream(&run).await));
        let mut redis = shared.asked().await;
        let hints = channel(&mut redis, &run).await;
        let hinting = async {
            while !following.is_finished() {
                // So that it looks without waiting for long.
                let hint = redis::cmd("PUBLISH").arg(&hints).arg("").clone();
                let () = hint.query_async(&mut redis).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        soon(hinting).await;
        let seen = following.await.unwrap();
        let (last, before) = seen.split_last().unwrap();
        assert!(before == &there[..before.len()], "{seen:?}");
        assert!(last.contains("\"reason\":\"exit\"") && last.contains("\"code\":7"), "{last}");
        let row = known(&two, &run).await;
        assert_eq!((&row["reason"], &row["exit_code"]), (&"exit".into(), &7.into()), "{row}");
        let one = shared.server(folders[0].path()).await;
        assert_eq!(one.lines(&run).await, there);
        assert_eq!(two.lines(&run).await, there);
        assert_eq!(known(&two, &run).await["exit_code"], 7);
    });
}

pub(crate) fn unnoted() {
    writer::runtime().block_on(async {
        let mut shared = Shared::new().await;
        let (folders, mut one, two) = shared.two().await;
        let run = run(&one, "echo on; read x; exit 7").await;
        two.until(&run, "\"on\\n").await;
        // Neither Redis nor the database hears of its end.
        let held = Held::new(&shared, &run).await;
        shared.redis.kill();
        assert_eq!(send(&one, &run, "?eof=true", "\n").await.0, 202);
        let there = rest(one.stream(&run).await).await;
        assert!(there.last().unwrap().contains("\"code\":7"), "{there:?}");
        one.kill();
        shared.redis.resume();
        held.release().await;
        assert_eq!(finished(&two, &run).await["reason"], "server_restart");
        let elsewhere = two.lines(&run).await;
        ended_once(&elsewhere);

        let one = shared.server(folders[0].path()).await;
        let row = known(&two, &run).await;
        assert_eq!((&row["reason"], &row["exit_code"]), (&"exit".into(), &7.into()), "{row}");
        assert_eq!(row["last_seq"], there.len());
        assert_eq!(one.lines(&run).await, there);
        assert_eq!(two.lines(&run).await, there);
    });
}

pub(crate) fn shown_only() {
    writer::runtime().block_on(async {
        let shared = Shared::new().await;
        let (_folders, mut one, two) = shared.two().await;
        let run = run(&one, "echo on; read x; exit 7").await;
        two.until(&run, "\"on\\n").await;
        // The database does not hear of its end. It is waited for, so that whoever sees the end finds the run finished, but not for
        // ever.
        let held = Held::new(&shared, &run).await;
        let sent = Instant::now();
        assert_eq!(send(&one, &run, "?eof=true", "\n").await.0, 202);
        let elsewhere = soon(async { rest(two.stream(&run).await).await }).await;
        assert!(sent.elapsed() >= Duration::from_secs(2), "shown before it was noted");
        assert!(elsewhere.last().unwrap().contains("\"code\":7"), "{elsewhere:?}");
        one.kill();
        held.release().await;
        let row = finished(&two, &run).await;
        assert_eq!((&row["reason"], &row["exit_code"]), (&"exit".into(), &7.into()), "{row}");
        assert_eq!(row["last_seq"], elsewhere.len());
        assert_eq!(two.lines(&run).await, elsewhere);
    });
}

pub(crate) fn living() {
    const LEASE: u64 = 6;
    writer::runtime().block_on(async {
        let shared = Shared::new().await;
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let one = shared.server_with(folders[0].path(), 1, LEASE).await;
        let two = shared.server_with(folders[1].path(), 1, LEASE).await;
        let quiet = run(&one, "echo on; read x; echo off").await;
        let waiting = run(&one, "echo next").await;
        two.until(&quiet, "\"on\\n").await;
        let mut database = PgConnection::connect(&shared.database).await.unwrap();
        // Five beats are a lease.
        soon(async {
            loop {
                let servers = sqlx::query_as("SELECT beat, alive FROM servers");
                let servers: Vec<(i64, i64)> = servers.fetch_all(&mut database).await.unwrap();
                assert_eq!(servers.len(), 2);
                assert!(servers.iter().all(|(_, alive)| *alive == 1), "given up: {servers:?}");
                if servers.iter().all(|(beat, _)| *beat >= 8) {
                    return;
                }
            }
        })
        .await;
        assert_eq!(known(&two, &quiet).await["status"], "running");
        assert_eq!(known(&two, &waiting).await["status"], "queued");
        assert_eq!(send(&two, &quiet, "?eof=true", "\n").await.0, 202);
        for run in [&quiet, &waiting] {
            let end = soon(async { rest(two.stream(run).await).await }).await;
            assert!(end.last().unwrap().contains("\"reason\":\"exit\""), "{end:?}");
        }
    });
}

pub(crate) fn emptied() {
    writer::runtime().block_on(async {
        let shared = Shared::new().await;
        let (folders, mut one, two) = shared.two().await;
        let run = run(&one, "echo on; exec sleep 1000").await;
        let (mut body, text) = following(&two, &run, "\"on\\n").await;
        let shown = String::from_utf8(text).unwrap();
        let shown: Vec<_> = shown.lines().filter(|line| !line.contains("heartbeat")).collect();
        one.kill();
        let mut redis = shared.asked().await;
        let () = redis::cmd("FLUSHALL").query_async(&mut redis).await.unwrap();
        // What it has read is nowhere any more, so it is not told that this was all.
        soon(async {
            loop {
                match body.frame().await {
                    Some(Ok(frame)) => {
                        let text = frame.into_data().unwrap().to_vec();
                        let text = String::from_utf8(text).unwrap();
                        assert!(text.contains("heartbeat") && !text.contains("exit"), "{text}");
                    }
                    Some(Err(_)) => return,
                    None => panic!("ended as if whole"),
                }
            }
        })
        .await;
        assert_eq!(finished(&two, &run).await["reason"], "server_restart");
        let left = two.lines(&run).await;
        ended_once(&left);
        assert_eq!(left.len(), 1, "{left:?}");
        // Whoever comes back to where it was is told that there is another beginning.
        let path = format!("/runs/{run}/events?after={}", shown.len());
        let again = two.ask_lines(&path).await;
        assert!(again[0].contains("\"type\":\"reset\""), "{again:?}");
        assert_eq!(again[1..], left);

        let one = shared.server(folders[0].path()).await;
        let there = one.lines(&run).await;
        ended_once(&there);
        assert!(there[..shown.len()] == shown, "what was shown is lost: {there:?}");
        assert_eq!(two.lines(&run).await, there);
        assert_eq!(known(&two, &run).await["last_seq"], there.len());
    });
}

pub(crate) fn again() {
    writer::runtime().block_on(async {
        let shared = Shared::new().await;
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let one = shared.server_with(folders[0].path(), 8, 600).await;
        let two = shared.server_with(folders[1].path(), 8, 600).await;
        let run = run(&one, "echo on; read x; exit 7").await;
        two.until(&run, "\"on\\n").await;
        let row = known(&two, &run).await;
        let card = row["card_id"].as_str().unwrap();
        let path = format!("/books/{}/cards/{card}/run", row["book_id"].as_str().unwrap());
        // Seen where it ran, and not yet in the database.
        let held = Held::new(&shared, &run).await;
        assert_eq!(send(&one, &run, "?eof=true", "\n").await.0, 202);
        let there = rest(one.stream(&run).await).await;
        assert!(there.last().unwrap().contains("\"code\":7"), "{there:?}");
        // Its own server waits to note it, and again for whoever asks.
        let again = soon(async {
            let again = two.answer(Method::POST, &path, serde_json::json!({}));
            tokio::join!(again, held.release_to(2)).0
        })
        .await;
        assert_eq!(again.status, 202, "{}", again.body);
        let row = finished(&two, &run).await;
        assert_eq!((&row["reason"], &row["exit_code"]), (&"exit".into(), &7.into()), "{row}");
    });
}
