//! Several people who run the same book: what each may do, sees and gets.

use http::{Method, header};
use http_body_util::Full;
use schwann_process::Sandbox;
use serde_json::json;

use crate::{
    client::{Answer, Site},
    desk::{Desk, Following},
};

/// Somebody with whom the desk's book is shared.
async fn shared_with(desk: &Desk, role: &str) -> String {
    let email = format!("{role}@example.com");
    let token = desk.site.user(&email).await;
    let share = json!({"role": role, "email": email});
    desk.site.post(&format!("{}/shares/", desk.book), &desk.token, share).await.expect(200);
    token
}

async fn runner(desk: &Desk) -> String {
    shared_with(desk, "runner").await
}

#[tokio::test]
async fn a_viewer_runs_nothing_and_a_runner_saves_nothing() {
    let desk = Desk::new().await;
    let card = desk.card("echo as it was").await;
    let (path, book) = (format!("{card}/run"), format!("{}/run", desk.book));
    let viewer = shared_with(&desk, "viewer").await;
    for path in [&path, &book] {
        assert_eq!(desk.site.post(path, &viewer, json!({})).await.refusal(403), "read_only");
    }
    let runner = runner(&desk).await;
    let said = |answer: Answer| (answer.status.as_u16(), answer.body);
    assert_eq!(said(desk.site.post(&path, &runner, json!({})).await), (200, "as it was\n".into()));
    let changed = json!({"code": "echo changed"});
    assert_eq!(desk.site.post(&path, &runner, changed.clone()).await.refusal(403), "read_only");
    assert_eq!(desk.site.put(&card, &runner, changed.clone()).await.refusal(403), "role");
    let once = json!({"code": "echo once", "save": false});
    assert_eq!(said(desk.site.post(&path, &runner, once).await), (200, "once\n".into()));
    let kept = desk.site.get(&card, &desk.token).await.expect(200);
    assert_eq!((&kept["code"], &kept["version"]), (&json!("echo as it was"), &json!(1)));
    let runs = desk.site.get("/runs/", &desk.token).await.expect(200);
    assert_eq!(runs["count"], 2, "what was refused is no run: {runs}");
    let editor = shared_with(&desk, "editor").await;
    assert_eq!(said(desk.site.post(&path, &editor, changed).await), (200, "changed\n".into()));
    let saved = desk.site.get(&card, &desk.token).await.expect(200);
    assert_eq!((&saved["code"], &saved["version"]), (&json!("echo changed"), &json!(2)));
}

#[tokio::test]
async fn a_run_of_another_in_ones_book_is_seen_and_neither_fed_nor_among_ones_own() {
    let desk = Desk::new().await;
    let runner = runner(&desk).await;
    let card = desk.card("echo on; read x; echo \"got $x\"").await;
    let theirs = |path: String, body: &'static str| {
        let request = desk.site.request(Method::POST, &path);
        let request = request.header(header::AUTHORIZATION, format!("Bearer {runner}"));
        request.body(Full::from(body)).unwrap()
    };
    let mut run = Following::start(&desk.site, theirs(format!("{card}/run"), "")).await;
    run.until("on\n").await;
    let id = run.run();
    desk.site.get(&format!("/runs/{id}"), &desk.token).await.expect(200);
    assert_eq!(desk.stdin(&id, "", "forged\n").await.refusal(404), "not_found");

    let mut events = desk.get("/events", "text/event-stream").await;
    let card = desk.card("echo mine").await;
    let own = desk.accept(&card, json!({})).await.expect(202);
    events.until("event: exit").await;
    assert!(events.text.contains(own["id"].as_str().unwrap()), "{}", events.text);
    assert!(!events.text.contains(&id), "{}", events.text);
    let input = theirs(format!("/runs/{id}/stdin?eof=true"), "theirs\n");
    assert_eq!(desk.site.send(input).await.status, 202);
    assert_eq!(run.rest().await, "on\ngot theirs\n");
}

#[tokio::test]
async fn a_key_is_of_one_user() {
    let desk = Desk::new().await;
    let runner = runner(&desk).await;
    let card = desk.card("echo once").await;
    let mut runs = Vec::new();
    for token in [&desk.token, &runner, &desk.token, &runner] {
        let request = desk
            .site
            .request(Method::POST, &format!("{card}/run"))
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header("idempotency-key", "k1");
        let run = Following::start(&desk.site, request.body(Full::default()).unwrap()).await;
        assert_eq!(run.status, 200);
        runs.push(run.run());
        desk.ended(&runs[runs.len() - 1]).await;
    }
    assert_ne!(runs[0], runs[1], "another's run is given away");
    assert_eq!(runs[..2], runs[2..], "one's own is repeated");
}

#[tokio::test]
async fn who_has_fewest_runs_is_next_and_nobody_has_more_than_may_be() {
    let site = Site::start_alone(|settings| {
        settings.sandbox = Some(Sandbox::None);
        settings.max_running = 2;
        settings.max_queued_per_user = 4;
    })
    .await;
    let desk = Desk::at(site).await;
    let runner = runner(&desk).await;
    let mut cards = Vec::new();
    for _ in 0..5 {
        cards.push(desk.card("echo on; read x").await);
    }
    let mut own = Vec::new();
    for card in &cards[..4] {
        own.push(desk.accept(card, json!({})).await.expect(202)["id"].as_str().unwrap().to_owned());
    }
    let fifth = desk.accept(&cards[4], json!({})).await;
    assert!(fifth.headers.contains_key(header::RETRY_AFTER));
    assert_eq!(fifth.refusal(429), "quota");
    // Last to come, and with the fewest.
    let request = desk
        .site
        .request(Method::POST, &format!("{}/run", cards[4]))
        .header(header::AUTHORIZATION, format!("Bearer {runner}"));
    let mut theirs = Following::start(&desk.site, request.body(Full::default()).unwrap()).await;
    desk.get(&format!("/runs/{}/events", own[0]), "text/plain").await.until("on\n").await;
    let status = async |run: &str| {
        desk.site.get(&format!("/runs/{run}"), &desk.token).await.expect(200)["status"].clone()
    };
    for waiting in [&own[2], &own[3], &theirs.run()] {
        assert_eq!(status(waiting).await, "queued");
    }
    assert_eq!(desk.stdin(&own[0], "?eof=true", "\n").await.status, 202);
    theirs.until("on\n").await;
    assert_eq!((status(&own[2]).await, status(&own[3]).await), (json!("queued"), json!("queued")));
    for run in [&own[1], &own[2], &own[3]] {
        assert_eq!(desk.cancel(run, json!({"signal": "KILL"})).await.status, 202);
    }
}
