//! What several servers show that one cannot.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::StreamExt as _;
use http::{Method, header};
use http_body_util::{BodyExt as _, Full};
use redis::aio::MultiplexedConnection;
use schwann_process::Sandbox;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
};

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
    let mut redis = asked(&desk).await;
    let key = stream(&run, &mut redis).await;
    let kept = redis::cmd("XRANGE").arg(&key).arg("-").arg("+").clone();
    let kept: Vec<(String, Vec<Vec<u8>>)> = kept.query_async(&mut redis).await.unwrap();
    let kept: usize = kept.iter().map(|(_, fields)| fields[1].len()).sum();
    assert!((3 << 20..5 << 20).contains(&kept), "Redis keeps {kept} bytes");
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

/// A connection with what the servers share.
async fn asked(desk: &Desk) -> MultiplexedConnection {
    let client = redis::Client::open(desk.site.redis.as_ref().unwrap().url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

/// The key of a run's stream.
async fn stream(run: &str, redis: &mut MultiplexedConnection) -> String {
    let pattern = format!("*:run:{}", run.replace('-', ""));
    let keys: Vec<String> = redis::cmd("KEYS").arg(pattern).query_async(redis).await.unwrap();
    assert_eq!(keys.len(), 1, "{keys:?}");
    keys.into_iter().next().unwrap()
}

#[tokio::test]
async fn what_redis_forgets_under_way_is_put_there_again_or_asked_for() {
    let desk = desk().await;
    // What was there takes more than one block.
    let code = "printf '%060000d\\n' 0; echo line 0; while read x; do echo line $x; done";
    let card = desk.card(code).await;
    let run = start(&desk, 0, &card).await;
    let path = format!("/runs/{run}/events");
    let mut here = follow(&desk, 0, &path, LINES).await;
    let mut other = follow(&desk, 1, &path, LINES).await;
    here.until("line 0").await;
    other.until("line 0").await;
    let mut redis = asked(&desk).await;
    let key = stream(&run, &mut redis).await;
    let head = format!("{key}:head");
    // All that there is, or one of the two that belong together.
    let forgotten = ["FLUSHALL".to_owned(), format!("DEL {head}"), format!("DEL {key}")];
    for (n, what) in forgotten.iter().enumerate() {
        let mut words = what.split(' ');
        let mut forget = redis::cmd(words.next().unwrap());
        let () = forget.arg(words.collect::<Vec<_>>()).query_async(&mut redis).await.unwrap();
        // Whoever comes now has it from where it is.
        let mut late = follow(&desk, 1, &path, LINES).await;
        late.until(&format!("line {n}\\n")).await;
        assert_eq!(stdin(&desk, 0, &run, "", &format!("{}\n", n + 1)).await.status, 202);
        for reader in [&mut here, &mut other, &mut late] {
            reader.until(&format!("line {}\\n", n + 1)).await;
        }
        assert_eq!(records(&late.text), records(&other.text));
        let at = redis::cmd("HGET").arg(&[&*head, "at"]).query_async(&mut redis).await;
        let shown = records(&other.text).last().unwrap()["seq"].as_u64();
        assert_eq!(at, Ok(shown), "it is not there again after {what}");
    }
    assert_eq!(stdin(&desk, 1, &run, "?eof=true", "4\n").await.status, 202);
    let seen = records(&other.rest().await);
    dense(&seen);
    assert_eq!(seen, records(&here.rest().await));
    let printed = joined(&seen, "stdout");
    assert!(printed.ends_with("0\nline 0\nline 1\nline 2\nline 3\nline 4\n"), "{printed}");
    desk.ended(&run).await;
    let () = redis::cmd("FLUSHALL").query_async(&mut redis).await.unwrap();
    assert_eq!(lines(&desk, 1, &run, 0).await, seen);
    assert_eq!(lines(&desk, 1, &run, 2).await, seen[2..]);
}

/// Stands between servers and their Redis, and cuts a connection once when `cut` is set: what appends to a stream is handed on, and
/// its answer is not.
fn between(redis: &str, socket: &Path, cut: Arc<AtomicBool>) -> String {
    let redis = redis.strip_prefix("unix://").unwrap().to_owned();
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = UnixStream::connect(&redis).await.unwrap();
            let cut = Arc::clone(&cut);
            tokio::spawn(async move {
                let (mut asked, mut said) = (vec![0; 65_536], vec![0; 65_536]);
                let mut cutting = false;
                loop {
                    tokio::select! {
                        read = client.read(&mut asked) => {
                            let Ok(length @ 1..) = read else { return };
                            cutting |= asked[..length].windows(4).any(|word| word == b"EVAL")
                                && cut.swap(false, Ordering::Relaxed);
                            if server.write_all(&asked[..length]).await.is_err() {
                                return;
                            }
                        }
                        read = server.read(&mut said) => {
                            let Ok(length @ 1..) = read else { return };
                            if cutting || client.write_all(&said[..length]).await.is_err() {
                                return;
                            }
                        }
                    }
                }
            });
        }
    });
    format!("unix://{}", socket.display())
}

#[tokio::test]
async fn what_was_appended_and_not_answered_is_not_appended_again() {
    let folder = tempfile::tempdir().unwrap();
    let cut = Arc::new(AtomicBool::new(false));
    let site = Site::start_with(|settings| {
        settings.sandbox = Some(Sandbox::None);
        let redis = settings.redis.take().unwrap();
        let socket = folder.path().join("between");
        settings.redis = Some(between(&redis, &socket, Arc::clone(&cut)));
    });
    let desk = Desk::at(site.await).await;
    let card = desk.card("echo line 0; while read x; do echo line $x; done").await;
    let run = start(&desk, 0, &card).await;
    let mut other = follow(&desk, 1, &format!("/runs/{run}/events"), LINES).await;
    other.until("line 0").await;
    for n in 1..=3 {
        cut.store(true, Ordering::Relaxed);
        let query = if n == 3 { "?eof=true" } else { "" };
        assert_eq!(stdin(&desk, 0, &run, query, &format!("{n}\n")).await.status, 202);
        other.until(&format!("line {n}")).await;
    }
    let seen = records(&other.rest().await);
    dense(&seen);
    assert!(!cut.load(Ordering::Relaxed), "nothing was cut");
    assert_eq!(joined(&seen, "stdout"), "line 0\nline 1\nline 2\nline 3\n");
    let mut redis = asked(&desk).await;
    let entries =
        redis::cmd("XRANGE").arg(stream(&run, &mut redis).await).arg("-").arg("+").clone();
    let entries: Vec<(String, Vec<Vec<u8>>)> = entries.query_async(&mut redis).await.unwrap();
    let last = entries.iter().map(|(id, _)| id.trim_end_matches("-0").parse().unwrap());
    assert!(last.is_sorted_by(|one: &usize, next| one < next), "{entries:?}");
    assert_eq!(entries.last().unwrap().0, format!("{}-0", seen.len()));
}

#[tokio::test]
async fn redis_is_told_how_long_to_keep_a_run_and_tells_who_follows_it() {
    let desk = desk().await;
    let card = desk.card("echo on; read x; echo off").await;
    let run = start(&desk, 0, &card).await;
    let mut other = follow(&desk, 1, &format!("/runs/{run}/events"), LINES).await;
    other.until("\"on\\n").await;
    let mut redis = asked(&desk).await;
    let key = stream(&run, &mut redis).await;
    let left = async |redis: &mut MultiplexedConnection| {
        let mut left: Vec<i64> = Vec::new();
        for key in [key.clone(), format!("{key}:head")] {
            left.push(redis::cmd("PTTL").arg(key).query_async(redis).await.unwrap());
        }
        left
    };
    let day = 24 * 3600 * 1000;
    for left in left(&mut redis).await {
        assert!((600_001..=day).contains(&left), "{left} ms");
    }
    let client = redis::Client::open(desk.site.redis.as_ref().unwrap().url()).unwrap();
    let mut hints = client.get_async_pubsub().await.unwrap();
    hints.subscribe(&key).await.unwrap();
    assert_eq!(stdin(&desk, 1, &run, "?eof=true", "\n").await.status, 202);
    let seen = records(&other.rest().await);
    dense(&seen);
    let mut hints = hints.into_on_message();
    soon(async {
        let last = seen.len().to_string();
        while hints.next().await.unwrap().get_payload_bytes() != last.as_bytes() {}
    })
    .await;
    for left in left(&mut redis).await {
        assert!((1..=600_000).contains(&left), "{left} ms after its end");
    }
}

#[tokio::test]
async fn input_that_its_program_does_not_read_yet_waits_for_it_and_is_given_once() {
    let desk = desk().await;
    let gate = desk.site.data().join("gate");
    let code = format!(
        "import os, sys\nos.mkfifo({0:?})\nprint('on', flush=True)\nopen({0:?}).read()\nprint(len(sys.stdin.read()))\n",
        gate.to_str().unwrap()
    );
    let card = desk.card_in("python", &code).await;
    let run = start(&desk, 0, &card).await;
    let mut other = follow(&desk, 1, &format!("/runs/{run}/events"), LINES).await;
    other.until("\"on").await;
    let client = redis::Client::open(desk.site.redis.as_ref().unwrap().url()).unwrap();
    let mut said = client.get_async_pubsub().await.unwrap();
    let id = std::fs::read_to_string(desk.site.data().join("data/server-id")).unwrap();
    said.psubscribe(format!("*:server:{}", id.trim())).await.unwrap();
    let mut said = said.into_on_message();
    // More than a pipe holds.
    let (first, second) = ("x".repeat(65_536), "y".repeat(65_536));
    assert_eq!(stdin(&desk, 1, &run, "", &first).await.status, 202);
    let sent = async { stdin(&desk, 1, &run, "?eof=true", &second).await };
    let opened = async {
        // So the other server makes sure, after a while, that it is still waited for.
        soon(async { while !said.next().await.unwrap().get_payload_bytes().is_empty() {} }).await;
        tokio::task::spawn_blocking(move || std::fs::write(gate, "")).await.unwrap().unwrap();
    };
    let (sent, ()) = tokio::join!(sent, opened);
    assert_eq!(sent.status, 202);
    let seen = records(&other.rest().await);
    dense(&seen);
    assert_eq!(joined(&seen, "stdout"), "on\n131072\n");
}

#[tokio::test]
async fn users_and_the_queue_have_as_much_as_may_be_on_all_servers_together() {
    for (per_user, queued, code) in [(4, 1000, "quota"), (1000, 2, "queue_full")] {
        let site = Site::start_with(|settings| {
            settings.sandbox = Some(Sandbox::None);
            settings.max_running = 1;
            settings.max_queued = queued;
            settings.max_queued_per_user = per_user;
        });
        let desk = Desk::at(site.await).await;
        // One on each server that runs, and one that waits.
        for server in [0, 1] {
            let run = start(&desk, server, &desk.card("echo on; exec sleep 1000").await).await;
            follow(&desk, server, &format!("/runs/{run}/events"), LINES)
                .await
                .until("\"on\\n")
                .await;
            start(&desk, server, &desk.card("echo never").await).await;
        }
        for server in [0, 1] {
            let card = desk.card("echo too many").await;
            let refused = ask(&desk, server, Method::POST, &format!("{card}/run"), json!({})).await;
            assert_eq!(refused.refusal(429), code);
        }
    }
}

#[tokio::test]
async fn a_run_of_another_server_is_cancelled_as_it_is_asked_for() {
    let desk = desk().await;
    // Blocked, so that none is lost which comes before it is waited for.
    let code = "import signal\n\
                asked = {signal.SIGINT, signal.SIGTERM}\n\
                signal.pthread_sigmask(signal.SIG_BLOCK, asked)\n\
                print('on', flush=True)\n\
                while signal.sigwait(asked) != signal.SIGTERM:\n  print('interrupted', flush=True)\n\
                print('told', flush=True)\nraise SystemExit(3)\n";
    let card = desk.card_in("python", code).await;
    let run = start(&desk, 0, &card).await;
    let mut other = follow(&desk, 1, &format!("/runs/{run}/events"), LINES).await;
    other.until("\"on").await;
    let how = json!({"signal": "TERM", "grace_ms": 60_000});
    let path = format!("/runs/{run}/cancel");
    let told = ask(&desk, 1, Method::POST, &path, how).await;
    assert_eq!(told.status, 202);
    let seen = records(&other.rest().await);
    dense(&seen);
    assert_eq!(joined(&seen, "stdout"), "on\ntold\n");
    let end = seen.last().unwrap();
    assert_eq!((&end["reason"], &end["code"]), (&json!("cancelled"), &json!(3)));
}
