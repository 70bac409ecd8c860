//! What goes in and what comes out.

use std::time::Duration;

use bytes::Bytes;
use schwann_process::{ByteSize, Exit, Job, RunError, Span};

use crate::{Lifeline, Watched, command, reaped, sh, soon};

#[tokio::test]
async fn whole_input_in_and_whole_output_out() {
    let output = soon(command(sh("tr a-z A-Z; echo noted >&2")).run(Job::new("hello"))).await;
    let output = output.unwrap();
    assert_eq!(output.stdout, "HELLO");
    assert_eq!(output.stderr, "noted");
}

#[tokio::test]
async fn a_megabyte_goes_through_both_pipes_at_once() {
    let input: Bytes = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect::<Vec<_>>().into();
    let output = soon(command(sh("cat")).run(Job::new(input.clone()))).await.unwrap();
    assert!(output.stdout == input, "{} bytes came back", output.stdout.len());
}

#[tokio::test]
async fn no_output_is_an_answer() {
    assert_eq!(soon(command(sh("cat >/dev/null")).run(Job::new("x"))).await.unwrap().stdout, "");
}

#[tokio::test]
async fn a_program_need_not_read_its_input() {
    let input = Bytes::from(vec![b'x'; 1 << 20]);
    let output = soon(command(sh("echo done")).run(Job::new(input.clone()))).await.unwrap();
    assert_eq!(output.stdout, "done\n");
    let output = soon(command(sh("head -c 3; exec <&-; echo")).run(Job::new(input))).await;
    assert_eq!(output.unwrap().stdout, "xxx\n");
}

#[tokio::test]
async fn output_comes_as_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = sh("mkfifo b c; printf a; read x <b; printf b; read x <c; printf c");
    spec.working_directory = Some(folder.path().to_owned());
    let mut running = soon(command(spec).stream(Job::default())).await.unwrap();
    assert_eq!(soon(running.chunk()).await.unwrap().unwrap(), "a");
    for expected in ["b", "c"] {
        // Opening blocks until the program reads, and lets it go on.
        let gate = folder.path().join(expected);
        tokio::task::spawn_blocking(move || std::fs::write(gate, "\n").unwrap()).await.unwrap();
        assert_eq!(soon(running.chunk()).await.unwrap().unwrap(), expected);
    }
    assert!(soon(running.chunk()).await.unwrap().is_none());
    assert!(soon(running.chunk()).await.unwrap().is_none(), "the end stays the end");
}

#[tokio::test]
async fn single_bytes_arrive_whole_and_in_order() {
    let script = "i=0; while [ $i -lt 2000 ]; do printf é; i=$((i+1)); done";
    let output = soon(command(sh(script)).run(Job::default())).await.unwrap();
    assert_eq!(output.stdout, "é".repeat(2000));
}

#[tokio::test]
async fn failing_before_output_tells_the_log_why() {
    let script = "cat >/dev/null; echo first >&2; echo 'no such language' >&2; exit 3";
    let error = soon(command(sh(script)).run(Job::new("x"))).await.unwrap_err();
    assert!(!error.after_output());
    assert_eq!(
        error.to_string(),
        "program exited with code 3 after 0B of output; its last words: first\nno such language"
    );
    let public = schwann::Error::from(error);
    assert_eq!(public.status(), 500);
    assert!(!public.public_message().contains("language"), "{}", public.public_message());
}

#[tokio::test]
async fn failing_after_output_comes_after_all_of_it() {
    let mut running = soon(command(sh("echo half; exit 4")).stream(Job::default())).await.unwrap();
    assert_eq!(soon(running.chunk()).await.unwrap().unwrap(), "half\n");
    for _ in 0..2 {
        let error = soon(running.chunk()).await.unwrap_err();
        assert!(error.after_output());
        assert!(matches!(error, RunError::Failed { exit: Exit::Code(4), .. }), "{error}");
    }
}

#[tokio::test]
async fn much_output_before_a_failure_is_not_lost() {
    // More than the pipe holds, so that the program fails while it is read.
    let script = "head -c 300000 /dev/zero; exit 4";
    let mut running = soon(command(sh(script)).stream(Job::default())).await.unwrap();
    let mut seen = 0;
    let error = loop {
        match soon(running.chunk()).await {
            Ok(chunk) => seen += chunk.expect("not a clean end").len(),
            Err(error) => break error,
        }
    };
    assert_eq!(seen, 300_000, "{error}");
}

#[tokio::test]
async fn what_waits_in_the_pipe_when_a_program_fails_is_not_lost() {
    let mut line = Lifeline::new();
    let script = format!("{} head -c 60000 /dev/zero; echo $$ >&9; exit 4", line.hold());
    let mut running = soon(command(sh(&script)).stream(Job::default())).await.unwrap();
    let pid = line.reached("\n").await;
    reaped(&pid).await;
    let mut seen = 0;
    let error = loop {
        match soon(running.chunk()).await {
            Ok(chunk) => seen += chunk.expect("not a clean end").len(),
            Err(error) => break error,
        }
    };
    assert_eq!(seen, 60_000, "{error}");
}

#[tokio::test]
async fn a_signal_is_a_failure() {
    let error = soon(command(sh("kill -TERM $$")).run(Job::default())).await.unwrap_err();
    assert!(matches!(error, RunError::Failed { exit: Exit::Signal(15), .. }), "{error}");
}

#[tokio::test]
async fn a_noisy_program_does_not_block_on_stderr() {
    let script = "head -c 4000000 /dev/zero >&2; echo last line >&2; cat";
    let output = soon(command(sh(script)).run(Job::new("fine"))).await.unwrap();
    assert_eq!(output.stdout, "fine");
    assert_eq!(output.stderr.len(), "\u{fffd}".len() * (4096 - 10) + 9, "{}", &output.stderr[..9]);
}

#[tokio::test]
async fn a_program_that_writes_too_much_is_killed() {
    let mut spec = sh("echo $$ >&2; exec yes");
    spec.max_output = ByteSize::new(100_000);
    let command = command(spec);
    let error = soon(command.run(Job::default())).await.unwrap_err();
    assert!(matches!(error, RunError::TooMuchOutput { .. }), "{error}");
    assert_eq!(error.to_string(), "program was killed because it wrote more than 100000B");

    let mut running = soon(command.stream(Job::default())).await.unwrap();
    let mut seen = 0;
    while let Ok(chunk) = soon(running.chunk()).await {
        seen += chunk.expect("not a clean end").len();
    }
    assert_eq!(seen, 100_000, "everything that it may write is handed out");
}

#[tokio::test]
async fn output_of_exactly_the_limit_is_whole() {
    let mut spec = sh("head -c 100000 /dev/zero");
    spec.max_output = ByteSize::new(100_000);
    assert_eq!(soon(command(spec).run(Job::default())).await.unwrap().stdout.len(), 100_000);
}

#[tokio::test]
async fn what_a_descendant_writes_after_its_parent_is_part_of_the_output() {
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("gate");
    let script = format!("mkfifo '{0}'; (read x <'{0}'; echo late) & echo $$", gate.display());
    let mut running = soon(command(sh(&script)).stream(Job::default())).await.unwrap();
    let leader = soon(running.chunk()).await.unwrap().unwrap();
    Watched::new(std::str::from_utf8(&leader).unwrap()).gone().await;
    tokio::task::spawn_blocking(move || std::fs::write(gate, "\n").unwrap()).await.unwrap();
    assert_eq!(soon(running.chunk()).await.unwrap().unwrap(), "late\n");
    assert!(soon(running.chunk()).await.unwrap().is_none());
}

#[tokio::test]
async fn dropping_a_wait_for_output_loses_none() {
    let mut line = Lifeline::new();
    let script = format!("{} printf one; echo mark >&9; cat; printf two", line.hold());
    let mut running = soon(command(sh(&script)).stream(Job::default())).await.unwrap();
    let mut seen = Vec::new();
    let mut ended = false;
    line.reached("mark").await;
    while !ended {
        // Polled once each time, and dropped unless something was there.
        tokio::select! {
            biased;
            chunk = running.chunk() => match chunk.unwrap() {
                Some(chunk) => seen.extend_from_slice(&chunk),
                None => ended = true,
            },
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(seen, b"onetwo");
}

#[tokio::test]
async fn a_deadline_of_the_call_is_kept_before_the_configured_one() {
    let soon_after = tokio::time::Instant::now() + Duration::from_millis(50);
    let job = Job { deadline: Some(soon_after), ..Job::default() };
    let error = soon(command(sh("sleep 60")).run(job)).await.unwrap_err();
    assert!(matches!(error, RunError::TimedOut { limit, .. } if limit <= Span::from_millis(50)));
    assert_eq!(schwann::Error::from(error).status(), 504);
}

#[tokio::test]
async fn variables_can_be_set_for_one_run() {
    let mut spec = sh("printf '%s %s' \"$CALLER\" \"$FIXED\"");
    spec.environment.insert("FIXED".into(), "by configuration".into());
    spec.environment.insert("CALLER".into(), "nobody".into());
    let mut job = Job::default();
    job.environment.push(("CALLER".into(), "5Grw".into()));
    let output = soon(command(spec).run(job)).await.unwrap();
    assert_eq!(output.stdout, "5Grw by configuration");
}

#[tokio::test]
async fn a_program_sees_a_clean_environment() {
    // CARGO_PKG_NAME stands for everything that this process knows.
    assert!(std::env::var_os("CARGO_PKG_NAME").is_some());
    let printed = |spec| async { soon(command(spec).run(Job::default())).await.unwrap().stdout };
    let seen = printed(sh("env")).await;
    let seen = std::str::from_utf8(&seen).unwrap();
    assert!(!seen.contains("CARGO_PKG_NAME"), "{seen}");
    assert!(seen.contains("PATH=") && seen.contains("PYTHONUNBUFFERED=1"), "{seen}");

    let mut spec = sh("env");
    spec.inherit.push("CARGO_PKG_NAME".into());
    let seen = printed(spec).await;
    let seen = std::str::from_utf8(&seen).unwrap();
    assert!(seen.contains("CARGO_PKG_NAME=schwann-process"), "{seen}");
}

#[tokio::test]
async fn it_runs_in_its_working_directory() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("note"), "found").unwrap();
    let mut spec = sh("cat note");
    spec.working_directory = Some(folder.path().to_owned());
    assert_eq!(soon(command(spec).run(Job::default())).await.unwrap().stdout, "found");
}
