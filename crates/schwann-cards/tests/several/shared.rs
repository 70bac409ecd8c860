//! What several servers show that one cannot.

use http::{Method, header};
use http_body_util::{BodyExt as _, Full};
use schwann_process::Sandbox;
use serde_json::{Value, json};

use crate::{
    client::{Answer, Site},
    desk::{Desk, Following, dense, joined, records, soon},
};

const LINES: &str = "application/x-ndjson";

async fn desk() -> Desk {
    let site = Site::start_with(|settings| settings.sandbox = Some(Sandbox::None)).await;
    Desk::at(site).await
}

async fn ask(desk: &Desk, server: usize, method: Method, path: &str, body: Value) -> Answer {
    let request = desk
        .site
        .request_to(server, method, path)
        .header(header::AUTHORIZATION, format!("Bearer {}", desk.token))
        .header("prefer", "respond-async")
        .header(header::CONTENT_TYPE, "application/json");
    soon(desk.site.send(request.body(Full::from(body.to_string())).unwrap())).await
}

/// Starts a run on a server, and gives its id.
async fn start(desk: &Desk, server: usize, card: &str) -> String {
    let run = ask(desk, server, Method::POST, &format!("{card}/run"), json!({})).await.expect(202);
    run["id"].as_str().unwrap().to_owned()
}

async fn stdin(desk: &Desk, server: usize, run: &str, query: &str, text: &str) -> Answer {
    let request = desk
        .site
        .request_to(server, Method::POST, &format!("/runs/{run}/stdin{query}"))
        .header(header::AUTHORIZATION, format!("Bearer {}", desk.token))
        .header(header::CONTENT_TYPE, "application/octet-stream");
    soon(desk.site.send(request.body(Full::from(text.to_owned())).unwrap())).await
}

async fn follow(desk: &Desk, server: usize, path: &str, accept: &str) -> Following {
    let request = desk
        .site
        .request_to(server, Method::GET, path)
        .header(header::AUTHORIZATION, format!("Bearer {}", desk.token))
        .header(header::ACCEPT, accept);
    Following::start(&desk.site, request.body(Full::default()).unwrap()).await
}

async fn lines(desk: &Desk, server: usize, run: &str, after: u64) -> Vec<Value> {
    let path = format!("/runs/{run}/events?after={after}");
    records(&follow(desk, server, &path, LINES).await.rest().await)
}

#[tokio::test]
async fn a_run_of_another_server_is_read_from_any_cursor_as_where_it_runs() {
    let desk = desk().await;
    let code = "import sys\nfor n in range(300):\n  print('第', n, '🦀' * n)\n  print('!', n, file=sys.stderr, flush=True)\n  sys.stdout.flush()\n";
    let card = desk.card_in("python", code).await;
    let run = start(&desk, 0, &card).await;
    // From its beginning while it runs, and later from everywhere.
    let while_it_ran = lines(&desk, 1, &run, 0).await;
    let there = lines(&desk, 0, &run, 0).await;
    dense(&there);
    assert_eq!(while_it_ran, there);
    for after in 0..there.len() {
        let rest = lines(&desk, 1, &run, after as u64).await;
        assert!(rest == there[after..], "after {after}: {} records", rest.len());
    }
    assert_eq!(lines(&desk, 1, &run, there.len() as u64).await, Vec::<Value>::new());
    let reset = lines(&desk, 1, &run, 9999).await;
    assert_eq!(reset[0], json!({"type": "reset", "reason": "cursor"}));
    assert_eq!(reset[1..], there);
    let path = format!("/runs/{run}/output?stream=stdout");
    assert_eq!(
        follow(&desk, 1, &path, "*/*").await.rest().await,
        follow(&desk, 0, &path, "*/*").await.rest().await
    );
}

#[tokio::test]
async fn what_redis_keeps_no_longer_comes_from_where_the_run_is() {
    let desk = desk().await;
    let code = "import os\nfor n in range(700):\n  os.write(1, (b'%d ' % n) * 2500)\nos.write(1, b'begun')\ninput()\n";
    let card = desk.card_in("python", code).await;
    let run = start(&desk, 0, &card).await;
    let mut other = follow(&desk, 1, &format!("/runs/{run}/events"), "text/plain").await;
    other.until("begun").await;
    assert_eq!(stdin(&desk, 1, &run, "?eof=true", "\n").await.status, 202);
    let there = lines(&desk, 0, &run, 0).await;
    dense(&there);
    let printed = joined(&there, "stdout");
    assert!(printed.len() > 6_000_000, "{}", printed.len());
    assert!(other.rest().await == printed);
    assert!(lines(&desk, 1, &run, 0).await == there, "a reader from the beginning, later");
    // Its server forgets it, and so do the others.
    desk.ended(&run).await;
    ask(&desk, 1, Method::DELETE, &format!("/runs/{run}"), Value::Null).await.expect(200);
    let left = desk.site.data().join(format!("data/runs/{run}.log"));
    assert!(!left.exists(), "its output is left behind");
}

#[tokio::test]
async fn a_stream_of_events_has_the_runs_of_all_servers() {
    let desk = desk().await;
    let mut streams = Vec::new();
    for server in 0..2 {
        streams.push(follow(&desk, server, "/events", "text/event-stream").await);
    }
    let mut runs = Vec::new();
    for server in [0, 1, 0, 1] {
        let card = desk.card(&format!("echo on {server}; read x; echo off")).await;
        runs.push((server, start(&desk, server, &card).await));
    }
    for (server, run) in &runs {
        // Through the other one, as soon as it has begun.
        soon(async {
            while stdin(&desk, 1 - server, run, "?eof=true", "\n").await.status != 202 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    for mut stream in streams {
        while stream.text.matches("event: exit").count() < runs.len() {
            let frame = soon(stream.body.frame()).await.unwrap().unwrap().into_data().unwrap();
            stream.take(&frame);
        }
        for (server, run) in &runs {
            let data = stream.text.lines().filter_map(|line| line.strip_prefix("data: "));
            let of_run: Vec<Value> = data
                .map(|data| serde_json::from_str(data).unwrap())
                .filter(|record: &Value| record["run_id"] == **run)
                .collect();
            dense(&of_run);
            assert_eq!(joined(&of_run, "stdout"), format!("on {server}\noff\n"));
        }
    }
}

#[tokio::test]
async fn a_server_that_stops_tells_readers_elsewhere_how_its_runs_ended() {
    let mut desk = desk().await;
    let card = desk.card("echo before; sleep 1000").await;
    let run = start(&desk, 0, &card).await;
    let mut other = follow(&desk, 1, &format!("/runs/{run}/events"), LINES).await;
    other.until("before").await;
    soon(desk.site.servers.remove(0).stop()).await;
    let seen = records(&other.rest().await);
    dense(&seen);
    assert_eq!(seen.last().unwrap()["reason"], "server_restart");
    let known = ask(&desk, 0, Method::GET, &format!("/runs/{run}"), Value::Null).await.expect(200);
    assert_eq!(known["reason"], "server_restart");
    assert_eq!(known["last_seq"], seen.len());
}

#[tokio::test]
async fn where_a_run_of_another_server_stands_is_told_as_where_it_is() {
    let site = Site::start_with(|settings| {
        settings.sandbox = Some(Sandbox::None);
        settings.max_running = 1;
    });
    let mut desk = Desk::at(site.await).await;
    let card = desk.card("echo ready; while read x; do echo line $x; done").await;
    let run = start(&desk, 0, &card).await;
    let mut other = follow(&desk, 1, &format!("/runs/{run}/events"), LINES).await;
    other.until("ready").await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(start(&desk, 0, &desk.card("echo next").await).await);
    }
    let known = async |desk: &Desk, server: usize, path: String| {
        ask(desk, server, Method::GET, &path, Value::Null).await.expect(200)
    };
    for (place, run) in waiting.iter().enumerate() {
        for server in [0, 1] {
            let one = known(&desk, server, format!("/runs/{run}")).await;
            let seen = (&one["status"], &one["queue_position"], &one["last_seq"]);
            assert_eq!(seen, (&json!("queued"), &json!(place), &json!(0)), "server {server}");
        }
    }
    assert_eq!(
        known(&desk, 0, "/runs/".to_owned()).await,
        known(&desk, 1, "/runs/".to_owned()).await
    );
    // Whoever was before it is gone.
    ask(&desk, 1, Method::POST, &format!("/runs/{}/cancel", waiting[0]), json!({})).await;
    soon(async {
        while known(&desk, 1, format!("/runs/{}", waiting[1])).await["queue_position"] != 0 {}
    })
    .await;

    for n in 1..=3 {
        assert_eq!(stdin(&desk, 0, &run, "", &format!("{n}\n")).await.status, 202);
        other.until(&format!("line {n}")).await;
        let shown = records(&other.text).last().unwrap()["seq"].clone();
        for server in [0, 1] {
            let one = known(&desk, server, format!("/runs/{run}")).await;
            assert_eq!((&one["last_seq"], &one["queue_position"]), (&shown, &Value::Null));
            let list = known(&desk, server, "/runs/?status=running".to_owned()).await;
            assert_eq!(list["data"][0]["last_seq"], shown, "server {server}");
            let card = known(&desk, server, card.clone()).await;
            assert_eq!(card["last_run"]["last_seq"], shown, "server {server}");
        }
    }

    // Without Redis nobody can have anything of it there, and all else is known.
    desk.site.redis.as_mut().unwrap().kill();
    let there = known(&desk, 0, format!("/runs/{run}")).await;
    let here = known(&desk, 1, format!("/runs/{run}")).await;
    assert_eq!((&here["status"], &here["last_seq"]), (&json!("running"), &json!(0)));
    assert_eq!(known(&desk, 1, format!("/runs/{}", waiting[2])).await["queue_position"], 1);
    // Where Redis has lost what it had, the run's server is asked.
    desk.site.redis.as_mut().unwrap().resume_empty();
    soon(async {
        while known(&desk, 1, format!("/runs/{run}")).await["last_seq"] != there["last_seq"] {}
    })
    .await;
}

/// Redis is lost while a run goes on, with what it had or without.
async fn redis_is_lost(empty: bool) {
    let mut desk = desk().await;
    let card = desk.card("n=0; while read x; do n=$((n+1)); echo line $n; done").await;
    let run = start(&desk, 0, &card).await;
    soon(async {
        while stdin(&desk, 1, &run, "", "\n").await.status != 202 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let events = format!("/runs/{run}/events");
    let mut here = follow(&desk, 0, &events, LINES).await;
    let mut other = follow(&desk, 1, &events, LINES).await;
    here.until("line 1").await;
    other.until("line 1").await;
    desk.site.redis.as_mut().unwrap().kill();

    // Where it runs, it goes on.
    assert_eq!(stdin(&desk, 0, &run, "", "\n").await.status, 202);
    here.until("line 2").await;
    // Elsewhere the stream is cut, for all to see.
    let seen = loop {
        match soon(other.body.frame()).await {
            Some(Ok(frame)) => {
                other.take(&frame.into_data().unwrap());
            }
            Some(Err(_)) => break records(&other.text),
            None => panic!("ended as if whole: {}", other.text),
        }
    };
    let refused = ask(&desk, 1, Method::GET, &events, Value::Null).await;
    assert_eq!(refused.refusal(503), "owner_unreachable");
    assert_eq!(stdin(&desk, 1, &run, "", "\n").await.refusal(503), "owner_unreachable");
    let another = desk.card("echo never").await;
    let refused = ask(&desk, 0, Method::POST, &format!("{another}/run"), json!({})).await;
    assert!(refused.headers.contains_key(header::RETRY_AFTER));
    assert_eq!(refused.refusal(503), "live_logs_unavailable");
    assert_eq!(
        ask(&desk, 1, Method::GET, "/utils/ready", Value::Null).await.refusal(503),
        "live_logs_unavailable"
    );

    let redis = desk.site.redis.as_mut().unwrap();
    if empty {
        redis.resume_empty()
    } else {
        redis.resume()
    }
    for server in 0..2 {
        soon(async {
            while ask(&desk, server, Method::GET, "/utils/ready", Value::Null).await.status != 200 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    // And goes on from where it was.
    let after = seen.last().unwrap()["seq"].as_u64().unwrap();
    let mut later = follow(&desk, 1, &format!("{events}?after={after}"), LINES).await;
    assert_eq!(later.status, 200);
    later.until("line 2").await;
    assert_eq!(stdin(&desk, 1, &run, "?eof=true", "\n").await.status, 202);
    let all: Vec<Value> = seen.into_iter().chain(records(&later.rest().await)).collect();
    dense(&all);
    assert_eq!(all, records(&here.rest().await));
    assert_eq!(joined(&all, "stdout"), "line 1\nline 2\nline 3\n");
    desk.ended(&run).await;
    let run = start(&desk, 1, &another).await;
    assert_eq!(joined(&lines(&desk, 0, &run, 0).await, "stdout"), "never\n");
}

#[tokio::test]
async fn a_redis_that_is_killed_and_comes_back_costs_nothing_but_a_cut() {
    redis_is_lost(false).await;
}

#[tokio::test]
async fn a_redis_that_comes_back_with_nothing_costs_nothing_but_a_cut() {
    redis_is_lost(true).await;
}

#[tokio::test]
async fn many_readers_elsewhere_see_the_same() {
    let desk = desk().await;
    let code = "n=0; while [ $n -lt 2000 ]; do n=$((n+1)); echo line $n; done";
    let card = desk.card(&format!("read x; {code}")).await;
    let run = start(&desk, 0, &card).await;
    let path = format!("/runs/{run}/events");
    let mut readers = Vec::new();
    for _ in 0..100 {
        readers.push(follow(&desk, 1, &path, LINES).await);
    }
    soon(async {
        while stdin(&desk, 1, &run, "?eof=true", "\n").await.status != 202 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let there = lines(&desk, 0, &run, 0).await;
    dense(&there);
    for reader in readers {
        assert!(records(&reader.rest().await) == there);
    }
}
