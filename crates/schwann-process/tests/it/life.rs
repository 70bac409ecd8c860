//! How programs end.

use std::time::{Duration, Instant};

use schwann_process::{Job, RunError, Running, Span};

use crate::{Lifeline, Watched, command, exists, reaped, sh, soon};

/// The first line of output, which is expected to be a process id.
async fn pid(running: &mut Running) -> String {
    let chunk = soon(running.chunk()).await.unwrap().unwrap();
    let line = chunk.split(|byte| *byte == b'\n').next().unwrap();
    std::str::from_utf8(line).unwrap().to_owned()
}

#[tokio::test]
async fn dropping_it_kills_the_program_within_100_ms() {
    let spec = sh("echo $$; exec sleep 60");
    let mut running = soon(command(spec).stream(Job::default())).await.unwrap();
    let pid = pid(&mut running).await;
    let watched = Watched::new(&pid);
    let dropped = Instant::now();
    drop(running);
    watched.gone().await;
    assert!(dropped.elapsed() < Duration::from_millis(100), "took {:?}", dropped.elapsed());
    reaped(&pid).await;
}

#[tokio::test]
async fn a_runtime_that_is_stuck_does_not_keep_a_dropped_program_alive() {
    let spec = sh("echo $$; exec sleep 60");
    let mut running = soon(command(spec).stream(Job::default())).await.unwrap();
    let watched = Watched::new(&pid(&mut running).await);
    drop(running);
    // Nothing else can run on this runtime's only thread in the meantime.
    watched.gone_while_blocking();
}

#[tokio::test]
async fn a_program_that_ignores_signals_is_killed_as_well() {
    let spec = sh("trap '' TERM INT HUP; echo $$; while :; do sleep 1; done");
    let mut running = soon(command(spec).stream(Job::default())).await.unwrap();
    let watched = Watched::new(&pid(&mut running).await);
    drop(running);
    watched.gone().await;
}

#[tokio::test]
async fn everybody_it_started_is_killed_with_it() {
    let mut line = Lifeline::new();
    // Children and grandchildren that go on starting others; bounded, so that
    // a kill that fails does not take the machine along.
    let script = format!(
        "{} breed() {{ for i in $(seq 100); do sleep 60 & (sleep 60 & sleep 60) & sleep 0.01; done; }}
         breed & breed & (breed &) ; echo ready >&9; wait",
        line.hold()
    );
    let running = soon(command(sh(&script)).stream(Job::default())).await.unwrap();
    line.reached("ready").await;
    drop(running);
    line.cut().await;
}

#[tokio::test]
async fn who_stays_behind_after_a_good_end_is_killed() {
    let mut line = Lifeline::new();
    let script = format!("{} sleep 60 >/dev/null 2>&1 & echo ready", line.hold());
    let output = soon(command(sh(&script)).run(Job::default())).await.unwrap();
    assert_eq!(output.stdout, "ready\n");
    line.cut().await;
}

#[tokio::test]
async fn who_stays_behind_after_a_bad_end_is_killed() {
    let mut line = Lifeline::new();
    // Holds stdout, which must not delay the error.
    let script = format!("{} sleep 60 & exit 7", line.hold());
    let error = soon(command(sh(&script)).run(Job::default())).await.unwrap_err();
    assert!(matches!(error, RunError::Failed { .. }), "{error}");
    line.cut().await;
}

#[tokio::test]
async fn a_dropped_run_kills_its_program() {
    let mut line = Lifeline::new();
    let command = command(sh(&format!("{} echo ready >&9; sleep 60; true", line.hold())));
    {
        let mut run = std::pin::pin!(command.run(Job::default()));
        tokio::select! {
            result = &mut run => panic!("ended: {result:?}"),
            _ = line.reached("ready") => {}
        }
    }
    line.cut().await;
}

#[tokio::test]
async fn a_deadline_kills_while_nobody_reads() {
    let mut spec = sh("echo $$; exec yes");
    spec.timeout = Span::from_millis(300);
    let mut running = soon(command(spec).stream(Job::default())).await.unwrap();
    let pid = pid(&mut running).await;
    reaped(&pid).await;
    // What the pipe still holds comes first, and then never a clean end.
    let error = loop {
        match soon(running.chunk()).await {
            Ok(chunk) => assert!(chunk.is_some(), "a clean end"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, RunError::TimedOut { .. }) && error.after_output(), "{error}");
}

#[tokio::test]
async fn a_program_that_closed_its_output_still_has_a_deadline() {
    let mut spec = sh("exec >&-; sleep 60; true");
    spec.timeout = Span::from_millis(100);
    let error = soon(command(spec).run(Job::default())).await.unwrap_err();
    assert!(matches!(error, RunError::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn an_output_that_is_held_open_from_outside_the_group_ends_at_the_deadline() {
    // Out of reach for killpg, and kept from outliving the test by itself.
    let mut spec = sh("setsid sh -c 'sleep 3; true' & echo x");
    spec.timeout = Span::from_millis(500);
    let began = Instant::now();
    let error = soon(command(spec).run(Job::default())).await.unwrap_err();
    assert!(matches!(error, RunError::TimedOut { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(2), "waited for it: {:?}", began.elapsed());
}

#[tokio::test]
async fn a_reader_that_stalls_stops_the_program() {
    let mut line = Lifeline::new();
    let script = format!("{} while head -c 65536 /dev/zero; do printf . >&9; done", line.hold());
    let mut running = soon(command(sh(&script)).stream(Job::default())).await.unwrap();
    let first = soon(running.chunk()).await.unwrap().unwrap().len();
    // What was read and what a pipe holds make one mark or two. A program that
    // was not stopped would make hundreds in this time.
    let mut marks = line.reached(".").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    marks += &line.waiting();
    assert!(marks.len() <= 2, "went on with nobody reading: {marks}");
    let mut seen = first;
    while seen < 40 * 65536 {
        seen += soon(running.chunk()).await.unwrap().unwrap().len();
    }
    assert!(line.waiting().len() >= 30, "goes on when it is read");
}

#[tokio::test]
async fn an_ended_program_leaves_no_zombie() {
    let output = soon(command(sh("echo $$")).run(Job::default())).await.unwrap();
    reaped(std::str::from_utf8(&output.stdout).unwrap()).await;
}

#[test]
fn a_runtime_that_stops_takes_its_programs_along() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (pid, running) = runtime.block_on(async {
        let spec = sh("echo $$; exec sleep 60");
        let mut running = soon(command(spec).stream(Job::default())).await.unwrap();
        (pid(&mut running).await, running)
    });
    runtime.shutdown_background();
    let began = Instant::now();
    // As in `reaped`, without a runtime.
    while exists(&pid) {
        assert!(began.elapsed() < crate::PATIENCE, "{pid} outlived its runtime");
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(running);
}

#[tokio::test]
async fn so_many_run_at_once_and_the_next_is_told_so() {
    let mut line = Lifeline::new();
    let mut spec = sh(&format!("{} echo ready; cat", line.hold()));
    spec.max_running = 2;
    spec.max_wait = Span::from_millis(50);
    let command = command(spec);
    let first = soon(command.stream(Job::default())).await.unwrap();
    let _second = soon(command.clone().stream(Job::default())).await.unwrap();
    let error = soon(command.stream(Job::default())).await.unwrap_err();
    assert!(matches!(error, RunError::Busy { running: 2 }), "{error}");
    assert_eq!(schwann::Error::from(error).status(), 503);
    // There is room again once one of them is gone.
    drop(first);
    line.reached("").await;
    soon(async { while command.stream(Job::default()).await.is_err() {} }).await;
}

#[tokio::test]
async fn the_wait_for_a_turn_counts_towards_the_deadline() {
    let mut spec = sh("sleep 60");
    spec.max_running = 1;
    let command = command(spec);
    let _first = soon(command.stream(Job::default())).await.unwrap();
    let soon_after = tokio::time::Instant::now() + Duration::from_millis(50);
    let job = Job { deadline: Some(soon_after), ..Job::default() };
    let began = Instant::now();
    let error = soon(command.run(job)).await.unwrap_err();
    assert!(matches!(error, RunError::Busy { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(3), "waited past its deadline");
}
