//! Coming back to a run: cursors, what is kept of it, one stream for all.

use http::{Method, header};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};

use crate::desk::{Desk, Following, alone, dense, joined, records, soon};

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
        desk.stdin_soon(run, "?eof=true", "\n").await;
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
async fn a_tab_that_was_away_is_given_the_runs_that_came_and_went_meanwhile() {
    let desk = Desk::new().await;
    let mut tab = desk.get("/events", "text/event-stream").await;
    let before = desk.run(&desk.card("echo before").await, "text/plain").await;
    let seen = before.run();
    tab.until("event: exit").await;
    while !tab.text.ends_with("\n\n") {
        let frame = soon(tab.body.frame()).await.unwrap().unwrap().into_data().unwrap();
        tab.take(&frame);
    }
    let id = tab.text.lines().rev().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();
    drop(tab);
    let meanwhile = desk.run(&desk.card("echo meanwhile").await, "text/plain").await;
    let missed = meanwhile.run();
    desk.ended(&missed).await;
    for path in ["/events".to_owned(), format!("/events?after={id}")] {
        let mut request = desk.request(Method::GET, &path, "text/event-stream");
        if path == "/events" {
            request = request.header("last-event-id", &id);
        }
        let mut tab = Following::start(&desk.site, request.body(Full::default()).unwrap()).await;
        tab.until("event: exit").await;
        assert!(tab.text.contains("meanwhile\\n") && tab.text.contains(&missed), "{}", tab.text);
        assert!(!tab.text.contains("before\\n"), "{seen} is given again: {}", tab.text);
    }
}

/// Proxies cut what is silent for long: the events of a tab without a run show that they are alive.
#[tokio::test]
async fn a_tab_in_which_nothing_happens_hears_that_it_is_alive() {
    let desk = Desk::new().await;
    let mut tab = desk.get("/events", "text/event-stream").await;
    assert!(tab.until(":\n\n").await.starts_with("retry: "));
}
