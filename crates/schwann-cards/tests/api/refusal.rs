//! What runs where there is no bubblewrap, by who can reach the server.

use std::process::Command;

use schwann_cards::CardsSettings;
use schwann_process::{Sandbox, Sandboxes};
use serde_json::{Value, json};

use crate::{client::Site, desk::Desk};

/// Runs one test of this file alone, in a process of its own, whose `PATH` has no bubblewrap.
#[expect(clippy::disallowed_methods, reason = "this program itself, which ends by itself")]
#[tokio::test]
async fn without_bubblewrap_a_server_that_others_reach_runs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/bin/sh", folder.path().join("sh")).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "refusal::in_a_process_without_bubblewrap"])
        .env("PATH", folder.path())
        .env("EXPECT_NO_BUBBLEWRAP", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// What holds programs, and what comes of running a card.
async fn held(change: impl FnOnce(&mut CardsSettings)) -> (Value, u16, Value) {
    let desk = Desk::at(Site::start_with(change).await).await;
    let held = desk.site.get("/utils/sandbox", &desk.token).await.expect(200);
    let card = desk.card("echo ran").await;
    let answer = desk.accept(&card, json!({})).await;
    let status = answer.status.as_u16();
    let said = answer.json();
    if status == 202 {
        desk.ended(said["id"].as_str().unwrap()).await;
    }
    (held, status, said)
}

#[tokio::test]
async fn in_a_process_without_bubblewrap() {
    if std::env::var_os("EXPECT_NO_BUBBLEWRAP").is_none() {
        return;
    }
    let public = |settings: &mut CardsSettings| settings.listen = ([0, 0, 0, 0], 8080).into();
    let proxied =
        |settings: &mut CardsSettings| settings.trusted_proxies = vec![[127, 0, 0, 1].into()];
    for (held, status, said) in [held(public).await, held(proxied).await] {
        assert_eq!((status, &said["code"]), (503, &json!("sandbox_unavailable")), "{held}");
        let reason = held["reason"].as_str().unwrap_or_else(|| panic!("{held}"));
        for part in ["`bwrap` is not installed", "others can reach", "`[cards] sandbox`"] {
            assert!(reason.contains(part) && said.to_string().contains(part), "{reason} {said}");
        }
    }

    // What only this machine reaches, and whatever the operator wrote, has the weaker one if the kernel does.
    let landlock = Sandboxes::probe().await.resolve(Sandbox::Landlock).is_ok();
    let written = |settings: &mut CardsSettings| {
        public(settings);
        settings.sandbox = Some(Sandbox::Auto);
    };
    for (held, status, said) in [held(|_| {}).await, held(written).await] {
        assert_eq!(held["available"], landlock, "{held}");
        assert_eq!(status, if landlock { 202 } else { 503 }, "{said}");
        if landlock {
            assert!(held["sandbox"].as_str().unwrap().starts_with("landlock"), "{held}");
        }
    }
}
