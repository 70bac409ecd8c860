//! A log that fails while its program runs, in a process of its own, whose files cannot grow for a while.

#![expect(clippy::disallowed_methods, reason = "it starts itself, and no program")]

use std::{process::Command, time::Duration};

use http::{Method, header};
use http_body_util::{BodyExt as _, Full};
use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
use schwann_process::Sandbox;
use schwann_testkit::watch::{Watched, folder};
use serde_json::json;

use crate::{
    client::Site,
    desk::{Desk, dense, records, soon},
};

/// Set in that process.
const OWN: &str = "FILES_CANNOT_GROW";

#[test]
fn a_program_whose_log_fails_is_killed_and_its_run_says_so() {
    // The signal for a file that grows too large is ignored, so that the write fails.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "failing_log::in_a_process_whose_files_cannot_grow", "--nocapture"])
        .env(OWN, "1")
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn limit_files(most: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    prlimit(None, Resource::Fsize, Rlimit { current: most.or(maximum), maximum }).unwrap();
}

#[tokio::test]
async fn in_a_process_whose_files_cannot_grow() {
    if std::env::var_os(OWN).is_none() {
        return;
    }
    let site = Site::start_alone(|settings| settings.sandbox = Some(Sandbox::None)).await;
    let desk = Desk::at(site).await;
    // It writes more than its log can take, and then stays whatever becomes of that.
    let code = "echo $$; read x; head -c 300000 /dev/zero; exec sleep 1000";
    let mut run = desk.run(&desk.card(code).await, "text/plain").await;
    let id = run.run();
    let program = Watched::number(run.until("\n").await);
    limit_files(Some(32 << 10));
    assert_eq!(desk.stdin(&id, "", "go\n").await.status, 202);
    let killed = move || program.ends_within(Duration::from_secs(60));
    tokio::task::spawn_blocking(killed).await.expect("killed though its log still fails");
    // What was shown is visibly not all.
    let cut = soon(async {
        while let Some(frame) = run.body.frame().await {
            if frame.is_err() {
                return true;
            }
        }
        false
    });
    assert!(cut.await, "it looks whole");
    limit_files(None);
    // It is seen to every few seconds; then its log stands beside under another name, whole.
    let logs = desk.site.data().join("data/runs");
    let log = logs.join(&id).with_extension("log");
    let whole = move || folder(&logs, Duration::from_secs(60), || log.exists().then_some(()));
    tokio::task::spawn_blocking(whole).await.expect("it has an end");
    assert_eq!(desk.ended(&id).await["reason"], json!("log_failed"));
    let request = desk
        .site
        .request(Method::GET, &format!("/runs/{id}/events"))
        .header(header::AUTHORIZATION, format!("Bearer {}", desk.token))
        .header(header::ACCEPT, "application/x-ndjson");
    let kept = desk.site.send(request.body(Full::default()).unwrap()).await;
    let kept = records(std::str::from_utf8(&kept.body).unwrap());
    dense(&kept);
    assert_eq!(kept.last().unwrap()["reason"], "log_failed");
}
