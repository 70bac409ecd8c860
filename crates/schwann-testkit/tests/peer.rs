//! Peers of a test, with the shell as the program.

use std::{os::fd::AsRawFd as _, time::Duration};

use schwann_testkit::peer::{self, Peer};
use tokio::{io::AsyncReadExt as _, net::unix::pipe};

const LONG: Duration = Duration::from_secs(60);

/// What the future panics with.
async fn panics<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> String {
    let error = match tokio::spawn(future).await {
        Ok(_) => panic!("did not panic"),
        Err(error) => error.into_panic(),
    };
    error.downcast_ref::<String>().expect("a text").clone()
}

#[tokio::test]
async fn a_peer_is_ready_when_it_says_so() {
    let script = r#"echo chatter; echo '{"ready": true, "hotkey": "5abc"}'; exec cat /dev/zero"#;
    let peer = Peer::start("sh", ["-c", script]).await;
    assert_eq!(peer.said("hotkey"), "5abc");
}

#[tokio::test]
async fn a_dropped_peer_takes_along_what_it_started() {
    // The grandchild holds the write end of a pipe that we read.
    let (writer, mut reader) = pipe::pipe().expect("a pipe");
    let held = format!("/proc/{}/fd/{}", std::process::id(), writer.as_raw_fd());
    let script = format!(r#"exec 3>{held}; sleep 1000 & echo '{{"ready": true}}'; wait"#);
    let peer = Peer::start("sh", ["-c", &script]).await;
    drop((writer, peer));
    // Ends only when no process holds the pipe any more.
    let read = tokio::time::timeout(LONG, reader.read(&mut [0])).await;
    assert_eq!(read.expect("the grandchild is gone").expect("read"), 0);
}

#[tokio::test]
async fn a_peer_that_fails_to_start_shows_its_stderr() {
    let said = panics(Peer::start("sh", ["-c", "echo no such module >&2; exit 3"])).await;
    assert!(said.contains("exit status: 3") && said.contains("no such module"), "{said}");
}

#[tokio::test]
async fn every_case_counts() {
    let script =
        r#"echo '{"case": "ping", "ok": true}'; echo log; echo '{"case": "echo", "ok": true}'"#;
    let report = peer::run("sh", ["-c", script], LONG).await;
    report.expect_all(2);
    let said = panics(async move { report.expect_all(3) }).await;
    assert!(said.contains("2 of 3"), "{said}");

    let script = r#"echo '{"case": "ping", "ok": false, "why": "late"}'; echo oops >&2; exit 1"#;
    let report = peer::run("sh", ["-c", script], LONG).await;
    let said = panics(async move { report.expect_all(1) }).await;
    assert!(said.contains("0 of 1") && said.contains("late") && said.contains("oops"), "{said}");
}

#[tokio::test]
async fn parts_make_one_report_and_one_that_fails_is_seen() {
    let script = r#"echo "{\"case\": \"$1 $2\", \"ok\": true}""#;
    let report = peer::run_in_parts("sh", ["-c", script, "sh"], 3, LONG).await;
    report.expect_all(3);
    let mut cases: Vec<_> = report.cases.iter().map(|case| case["case"].as_str()).collect();
    cases.sort_unstable();
    assert_eq!(cases, [Some("--part 1/3"), Some("--part 2/3"), Some("--part 3/3")]);

    for failing in ["1/3", "3/3"] {
        let script = format!("{script}; echo of $2 >&2; test $2 != {failing}");
        let report = peer::run_in_parts("sh", ["-c", &script, "sh"], 3, LONG).await;
        let said = panics(async move { report.expect_all(3) }).await;
        assert!(said.contains("3 of 3") && said.contains("exit status: 1"), "{said}");
        assert!(said.contains(&format!("of {failing}")), "{said}");
    }
}

#[test]
fn ports_are_not_handed_out_twice() {
    let ports: std::collections::BTreeSet<_> = (0..100).map(|_| peer::free_port()).collect();
    assert_eq!(ports.len(), 100);
}
