//! What a program is given, and what it is held to.

use serde_json::json;

use crate::{
    client::Site,
    desk::{Desk, dense, joined, records, soon},
};

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
async fn a_request_can_ask_for_less_than_the_settings_allow_and_not_for_more() {
    let site = Site::start_with(|settings| {
        settings.sandbox = Some(schwann_process::Sandbox::None);
        settings.max_output = schwann_process::ByteSize::new(1000);
        settings.max_wall = schwann_process::Span::from_secs(2);
    })
    .await;
    let desk = Desk::at(site).await;
    let card = desk.card("head -c 5000 /dev/zero; sleep 60").await;
    let sleeps = desk.card("sleep 60").await;
    for (card, limits, reason, bytes) in [
        (&card, json!({"output_bytes": 4000}), "output_limit", 1000),
        (&card, json!({"output_bytes": 100}), "output_limit", 100),
        (&sleeps, json!({"wall_ms": 60_000}), "timeout", 0),
    ] {
        let run = desk.accept(card, json!({"limits": limits})).await.expect(202);
        let ended = desk.ended(run["id"].as_str().unwrap()).await;
        assert_eq!((&ended["reason"], &ended["stdout_bytes"]), (&json!(reason), &json!(bytes)));
    }
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
    // Blocked, so that none is lost which comes between two waits.
    let code = "import os, signal\n\
                asked = {signal.SIGWINCH}\n\
                signal.pthread_sigmask(signal.SIG_BLOCK, asked)\n\
                print('ready')\n\
                while signal.sigwait(asked):\n  print('size', *os.get_terminal_size())\n";
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
