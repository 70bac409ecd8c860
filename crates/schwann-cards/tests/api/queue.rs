//! Which runs are started, and when: turns, busy cards, keys, books.

use std::time::Duration;

use http::{Method, header};
use http_body_util::Full;
use schwann_process::Sandbox;
use serde_json::{Value, json};

use crate::{
    client::Site,
    desk::{Desk, Following, joined, records, soon},
};

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

/// In a sandbox, where there is one, whose making takes longer than a request.
#[tokio::test]
async fn a_run_that_is_cancelled_while_it_starts_does_not_go_on() {
    let desk = Desk::at(Site::start_alone(|_| {}).await).await;
    let held = desk.site.get("/utils/sandbox", &desk.token).await.expect(200);
    let desk = if held["available"] == true { desk } else { Desk::new().await };
    let card = desk.card("echo on; sleep 600").await;
    for _ in 0..10 {
        let run = desk.accept(&card, json!({})).await.expect(202);
        let id = run["id"].as_str().unwrap();
        assert_eq!(desk.cancel(id, json!({"signal": "KILL"})).await.status, 202);
        assert_eq!(soon(desk.ended(id)).await["reason"], "cancelled");
    }
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
    desk.stdin_soon(instead, "?eof=true", "\n").await;
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
