//! Runs, as who starts, follows and ends them sees it.

use http::{Method, header};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::desk::{Desk, Following, alone, dense, joined, records};

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
    desk.stdin_soon(&id, "", "sent\n").await;
    run.until("sent\n").await;
    assert_eq!(desk.stdin(&id, "?eof=true", "last\n").await.status, 202);
    assert_eq!(desk.stdin(&id, "", "more").await.refusal(409), "stdin_closed");
    assert_eq!(run.rest().await, "sent\nlast\nend\n");
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
async fn characters_in_single_bytes_and_bytes_that_are_none_arrive_as_they_are() {
    let desk = Desk::new().await;
    let code = "import os\nfor b in ('第🦀行\\n' * 40).encode():\n  os.write(1, bytes([b]))\nos.write(1, b'\\xff\\xfe\\xe7')";
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
        [&b"\xe7\xac\xac\xf0\x9f\xa6\x80\xe8\xa1\x8c\n".repeat(40)[..], b"\xff\xfe\xe7"].concat()
    );
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

#[tokio::test]
async fn nothing_is_left_on_disk_of_a_run_that_is_forgotten() {
    let desk = Desk::at(alone().await).await;
    let card = desk.card("echo a secret").await;
    let run = desk.run(&card, "text/plain").await;
    let id = run.run();
    run.rest().await;
    desk.ended(&id).await;
    let log = desk.site.data().join(format!("data/runs/{id}.log"));
    assert!(log.exists());
    desk.site.delete(&format!("/runs/{id}"), &desk.token).await.expect(200);
    assert!(!log.exists(), "it is there still");
}
