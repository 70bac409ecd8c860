//! One of two servers that share their work is killed, or stands still: the other ends its runs, once.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use http::Method;
use http_body_util::BodyExt as _;
use rustix::process::{Pid, Signal, kill_process};
use schwann_testkit::{postgres::Postgres, redis::Redis, watch};
use serde_json::Value;

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
        Site::start_with(data, "none", 8, &[&self.database, &self.redis.url()]).await
    }
}

/// The rest of a stream that has begun, as lines, with how long it took.
async fn rest(mut body: hyper::body::Incoming) -> Vec<String> {
    let mut text = Vec::new();
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
        let mut one = shared.server(folders[0].path()).await;
        let two = shared.server(folders[1].path()).await;
        let marker = word();
        let run = counting(&one, &marker).await;
        let waiting: Vec<_> = [counting(&one, &marker).await, counting(&one, &marker).await].into();
        two.shown(&run, 100).await;
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
        assert_eq!(known(&two, &run).await["last_seq"], elsewhere.len());
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
        let one = shared.server(folders[0].path()).await;
        let two = shared.server(folders[1].path()).await;
        let marker = word();
        let run = counting(&one, &marker).await;
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
