//! Results that go elsewhere, and what their caller is told.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use schwann::Handler;
use schwann_etl::transform;

use crate::{
    client::{Caller, ask},
    scripted::{Act, Reply, Scripted},
    served::{Served, serve, settings},
    to,
};

fn piecewise() -> impl Handler {
    transform::streaming(|_, input, output| {
        while let Some(piece) = input.chunk()? {
            output.write_bytes(piece)?;
        }
        Ok(())
    })
}

async fn scene(transform: impl Handler) -> (Scripted, Served) {
    let target = Scripted::start().await;
    let etl = serve(transform, settings(&target.url())).await;
    (target, etl)
}

fn with(status: u16, name: &str, value: &str) -> Act {
    let headers = vec![(name.to_owned(), value.to_owned())];
    Act::Answer(Reply { status, headers, ..Reply::default() })
}

#[tokio::test]
async fn what_a_hop_says_of_its_delivery_is_passed_on() {
    let (target, etl) = scene(transform::buffered(|_, data| Ok(data))).await;
    target.on("retry", [with(503, "Ais-Etl-Retry-Reason", "direct-put-transient")]);
    target.on("done", [with(204, "Ais-Direct-Put-Complete", "true")]);
    target.on("long", [with(204, "Ais-Direct-Put-Length", "77")]);
    target.on("none", [with(204, "Ais-Direct-Put-Length", "0")]);
    target.on("other", [with(200, "X-Other", "1")]);
    let put = async |name: &str| ask(etl.address, "PUT", "/b/o", &to(&target, name), b"abc").await;
    let answer = put("retry").await;
    assert_eq!(
        (answer.status, answer.header("ais-etl-retry-reason")),
        (503, Some("direct-put-transient"))
    );
    let answer = put("done").await;
    assert_eq!((answer.status, answer.header("ais-direct-put-complete")), (204, Some("true")));
    assert_eq!(put("long").await.header("ais-direct-put-length"), Some("77"));
    assert_eq!(put("none").await.header("ais-direct-put-length"), None);
    let answer = put("other").await;
    assert_eq!((answer.status, answer.header("x-other")), (204, None));
    assert_eq!(answer.header("ais-direct-put-length"), Some("3"));
}

#[tokio::test]
async fn who_says_it_stored_the_object_before_it_had_it_is_not_believed() {
    let (target, etl) = scene(piecewise()).await;
    target.on("early", [Act::AnswerEarly(3, Reply { status: 200, ..Reply::default() })]);
    let mut caller = Caller::connect(etl.address).await;
    caller.head("PUT", "/b/o", &format!("{}Content-Length: 6\r\n", to(&target, "early"))).await;
    caller.send("abc").await;
    let answer = caller.answer().await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.detail().ends_with("answered before the whole object was sent"));
    let seen = target.quiet("early").await;
    assert!(seen.len() == 1 && !seen[0].complete, "{seen:?}");
}

#[tokio::test]
async fn a_stage_may_have_its_result_early_if_it_takes_the_rest_of_the_object() {
    let (target, etl) = scene(piecewise()).await;
    let reply = Reply { status: 200, body: "result".into(), ..Reply::default() };
    target.on("early", [Act::AnswerEarly(3, reply)]);
    let mut caller = Caller::connect(etl.address).await;
    let stage = format!("Ais-Node-Url: http://{}\r\nContent-Length: 6\r\n", target.address);
    caller.head("PUT", "/b/early", &stage).await;
    caller.send("abc").await;
    target.until("early", "the start", |seen| seen.iter().any(|seen| seen.length == 3)).await;
    caller.send("def").await;
    let answer = caller.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "result"));
    let seen = target.quiet("early").await;
    assert!(seen.len() == 1 && seen[0].complete, "{seen:?}");
}

#[tokio::test]
async fn a_caller_that_leaves_after_an_early_answer_has_delivered_nothing() {
    let (target, etl) = scene(piecewise()).await;
    target.on("early", [Act::AnswerEarly(3, Reply { status: 200, ..Reply::default() })]);
    let mut caller = Caller::connect(etl.address).await;
    let headers = format!("{}Content-Length: 6\r\n", to(&target, "early"));
    caller.head("PUT", "/b/o", &headers).await;
    caller.send("abc").await;
    target.until("early", "the answer", |seen| seen.iter().any(|seen| seen.length == 3)).await;
    drop(caller);
    let seen = target.quiet("early").await;
    assert!(seen.iter().all(|seen| !seen.complete), "{seen:?}");
}

#[tokio::test]
async fn an_answer_before_the_end_and_a_close_are_the_targets_to_repeat() {
    let (target, etl) = scene(piecewise()).await;
    target.on("early", [Act::AnswerAfter(3, Reply { status: 200, ..Reply::default() })]);
    let mut caller = Caller::connect(etl.address).await;
    let headers = format!("{}Content-Length: 1000000\r\n", to(&target, "early"));
    caller.head("PUT", "/b/o", &headers).await;
    caller.send("abc").await;
    target.quiet("early").await;
    caller.send(vec![b'x'; 999_997]).await;
    let answer = caller.answer().await;
    assert_eq!(
        (answer.status, answer.header("ais-etl-retry-reason")),
        (503, Some("direct-put-transient"))
    );
    assert!(
        answer.detail().starts_with("Direct put bailed (one-shot body): "),
        "{}",
        answer.detail()
    );
    assert_eq!(target.seen("early").len(), 1);
}

#[tokio::test]
async fn a_refusal_before_the_end_is_passed_on_at_once() {
    let (target, etl) = scene(piecewise()).await;
    let reply = Reply { status: 507, body: "full".into(), ..Reply::default() };
    target.on("early", [Act::AnswerEarly(3, reply)]);
    let mut caller = Caller::connect(etl.address).await;
    let headers = format!("{}Content-Length: 6\r\n", to(&target, "early"));
    caller.head("PUT", "/b/o", &headers).await;
    caller.send("abc").await;
    let answer = caller.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (507, "full"));
    let seen = target.quiet("early").await;
    assert!(!seen[0].complete);
}

/// Counts how often a transform runs.
fn counted() -> (impl Fn(Bytes) -> Bytes + Send + Sync, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&count);
    let counted = move |data| {
        counts.fetch_add(1, Ordering::SeqCst);
        data
    };
    (counted, count)
}

#[tokio::test]
async fn a_result_in_one_piece_is_kept_and_sent_again() {
    let (run, count) = counted();
    let (target, etl) = scene(transform::buffered(move |_, data| Ok(run(data)))).await;
    target.on("again", [Act::ResetAfter(2), Act::reply(200, "")]);
    let answer = ask(etl.address, "PUT", "/b/o", &to(&target, "again"), b"once").await;
    assert_eq!((answer.status, answer.header("ais-direct-put-length")), (204, Some("4")));
    assert_eq!((count.load(Ordering::SeqCst), target.seen("again").len()), (1, 2));
    assert_eq!(target.seen("again")[1].body, b"once");
}

#[tokio::test]
async fn a_streamed_result_of_a_file_is_made_again() {
    let (run, count) = counted();
    let copy = transform::streaming(move |_, input, output| {
        while let Some(piece) = input.chunk()? {
            output.write_bytes(run(piece))?;
        }
        Ok(())
    });
    let (target, etl) = scene(copy).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f");
    std::fs::write(&file, "of a file").unwrap();
    target.on("again", [Act::CloseAfter(usize::MAX), Act::reply(200, "")]);
    let path = format!("/b/o?etl_fqn={}", file.display());
    let answer = ask(etl.address, "PUT", &path, &to(&target, "again"), b"").await;
    assert_eq!((answer.status, answer.header("ais-direct-put-length")), (204, Some("9")));
    assert_eq!((count.load(Ordering::SeqCst), target.seen("again").len()), (2, 2));
    assert_eq!(target.seen("again")[1].body, b"of a file");
}

#[tokio::test]
async fn a_hop_that_closes_after_each_answer_loses_nothing() {
    let (target, etl) = scene(piecewise()).await;
    target.on("closing", [Act::AnswerAfter(1000, Reply { status: 200, ..Reply::default() })]);
    for round in 0..20 {
        let answer = ask(etl.address, "PUT", "/b/o", &to(&target, "closing"), b"abc").await;
        assert_eq!(answer.status, 204, "{round}: {}", answer.text());
    }
    assert_eq!(target.seen("closing").len(), 20);
}

#[tokio::test]
async fn a_source_whose_kept_connection_breaks_is_asked_again() {
    let (target, etl) = scene(piecewise()).await;
    let acts = [Act::reply(200, "data"), Act::ResetAfter(0), Act::reply(200, "data")];
    target.on("kept", acts);
    for round in 0..2 {
        let answer = ask(etl.address, "GET", "/ais%2F@%23%2Fsrc%2Fkept", "", b"").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "data"), "{round}");
    }
    assert_eq!(target.seen("kept").len(), 3);
}

#[tokio::test]
async fn a_source_that_does_not_say_where_it_ends_is_refused() {
    let (target, etl) = scene(piecewise()).await;
    target.on("unframed", [Act::GarbageAfter(0)]);
    let answer = ask(etl.address, "GET", "/ais%2F@%23%2Fsrc%2Funframed", "", b"").await;
    assert_eq!(answer.status, 502);
    assert!(answer.detail().starts_with("Network error: "), "{}", answer.detail());
}

#[tokio::test]
async fn a_stage_is_fed_and_read_at_the_same_time_and_slow_callers_hold_it_back() {
    let (target, etl) = scene(piecewise()).await;
    target.on("/b/o", [Act::Echo]);
    let stage = format!("Ais-Node-Url: http://{}\r\n", target.address);
    let body = vec![b'e'; 16 << 20];
    let answer = ask(etl.address, "PUT", "/b/o", &stage, &body).await;
    assert_eq!((answer.status, answer.complete), (200, true));
    assert!(answer.body == body, "{} bytes", answer.body.len());
}

#[tokio::test]
async fn the_answer_of_a_stage_is_whole_only_if_what_it_was_fed_was() {
    let (target, etl) = scene(piecewise()).await;
    target.on("/b/o", [Act::Echo]);
    let mut caller = Caller::connect(etl.address).await;
    let headers =
        format!("Ais-Node-Url: http://{}\r\nTransfer-Encoding: chunked\r\n", target.address);
    caller.head("PUT", "/b/o", &headers).await;
    caller.send("3\r\nabc\r\n").await;
    let answer = caller.answer_until(3).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "abc"));
    // What follows is no chunk.
    caller.send("xyz\r\n").await;
    let seen = target.quiet("/b/o").await;
    assert!(!seen[0].complete, "{seen:?}");
    let mut rest = String::new();
    let _ = tokio::io::AsyncReadExt::read_to_string(&mut caller.stream, &mut rest).await;
    assert!(!rest.contains("0\r\n\r\n"), "ended as if whole: {rest:?}");
}

#[tokio::test]
async fn a_hop_that_takes_nothing_any_more_is_given_up() {
    let target = Scripted::start().await;
    let mut settings = settings(&target.url());
    settings.stall_timeout = std::time::Duration::from_millis(50);
    let etl = serve(piecewise(), settings).await;
    target.on("stalled", [Act::StallAfter(1)]);
    let body = vec![b'x'; 32 << 20];
    let answer = ask(etl.address, "PUT", "/b/o", &to(&target, "stalled"), &body).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.detail().contains("takes nothing any more"), "{}", answer.detail());
}

#[tokio::test]
async fn an_old_connection_is_no_attempt_that_counts() {
    let target = Scripted::start().await;
    let mut settings = settings(&target.url());
    settings.direct_put_retries = 0;
    let etl = serve(transform::buffered(|_, data| Ok(data)), settings).await;
    target.on("kept", [Act::reply(200, ""), Act::ResetAfter(0), Act::reply(200, "")]);
    for round in 0..2 {
        let answer = ask(etl.address, "PUT", "/b/o", &to(&target, "kept"), b"abc").await;
        assert_eq!(answer.status, 204, "{round}: {}", answer.text());
    }
    target.on("new", [Act::ResetAfter(0), Act::reply(200, "")]);
    let answer = ask(etl.address, "PUT", "/b/o", &to(&target, "new"), b"abc").await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    target.on("gone", [Act::ResetAfter(0)]);
    let answer = ask(etl.address, "PUT", "/b/o", &to(&target, "gone"), b"abc").await;
    assert_eq!((answer.status, target.seen("gone").len()), (502, 2), "{}", answer.text());
}

#[tokio::test]
async fn objects_wait_for_a_connection_and_never_for_each_other() {
    let target = Scripted::start().await;
    let mut settings = settings(&target.url());
    settings.max_connections = 1;
    let etl = serve(piecewise(), settings).await;
    // So much that it is still being read while it is delivered.
    target.on("src", [Act::reply(200, vec![b'x'; 3 << 20])]);
    let mut all = tokio::task::JoinSet::new();
    for n in 0..4 {
        let (address, to) = (etl.address, to(&target, &format!("dst-{n}")));
        all.spawn(async move { ask(address, "GET", "/ais%2F@%23%2Fsrc%2Fo", &to, b"").await });
    }
    for answer in all.join_all().await {
        assert_eq!((answer.status, answer.header("ais-direct-put-length")), (204, Some("3145728")));
    }
    assert_eq!(target.seen("dst-").len(), 4);
}
