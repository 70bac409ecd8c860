//! Readers of a run that goes on.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use schwann_cards::{
    framing::{Framing, HEARTBEAT, Stream},
    record::Channel,
    run_log::{LogError, Retention, RunLogs, TailState},
};
use schwann_testkit::probe;
use tempfile::TempDir;
use uuid::Uuid;

use crate::support::*;

#[tokio::test]
async fn two_tabs_see_the_same_and_one_that_stands_still_harms_nobody() {
    let (_folder, logs) = logs();
    let run = Uuid::new_v4();
    let writer = logs.create(run).await.unwrap();
    writer.append(start()).await.unwrap();
    let mut still = logs.read(run, 0, true).await.unwrap();
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let logs = logs.clone();
            tokio::spawn(
                async move { rest(&mut logs.read(run, 0, true).await.unwrap()).await.unwrap() },
            )
        })
        .collect();
    // Far more than is kept in memory, while one reader takes nothing.
    let mut expected = Vec::new();
    for line in 0..60_000 {
        let text = format!("line {line}\n");
        expected.extend_from_slice(text.as_bytes());
        soon(writer.output(Channel::Stdout, bytes(text))).await.unwrap();
    }
    let last = soon(writer.end(exit(0))).await.unwrap();
    for reader in readers {
        let all = soon(reader).await.unwrap();
        dense(&all, 1);
        assert_eq!(all.len() as u64, last);
        assert_eq!(output(&all), expected);
    }
    let all = soon(rest(&mut still)).await.unwrap();
    assert_eq!(output(&all), expected);
}

#[tokio::test]
async fn output_is_merged_into_few_records_while_the_disk_is_busy() {
    let (_folder, logs) = logs();
    let run = Uuid::new_v4();
    let writer = logs.create(run).await.unwrap();
    for line in 0..100_000 {
        writer.output(Channel::Stdout, bytes(format!("{line}\n"))).await.unwrap();
    }
    let last = writer.end(exit(0)).await.unwrap();
    assert!(last < 5_000, "{last} records");
}

#[tokio::test]
async fn what_a_reader_sees_is_on_disk() {
    each_line_is_on_disk_before_it_is_seen().await;
}

/// Here, small writes are done by the runtime's own threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_reader_sees_is_on_disk_with_several_threads() {
    tokio::spawn(each_line_is_on_disk_before_it_is_seen()).await.unwrap();
}

async fn each_line_is_on_disk_before_it_is_seen() {
    let (folder, logs) = logs();
    let run = Uuid::new_v4();
    let writer = logs.create(run).await.unwrap();
    let mut reader = logs.read(run, 0, true).await.unwrap();
    for line in 0..50 {
        writer.output(Channel::Stdout, bytes(format!("<{line}>"))).await.unwrap();
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&output(&seen)).contains(&format!("<{line}>")) {
            seen.extend(soon(reader.next()).await.unwrap().expect("it goes on"));
        }
        let file = std::fs::read(file_of(&folder, run, "open")).unwrap();
        let needle = format!("<{line}>");
        assert!(file.windows(needle.len()).any(|bytes| bytes == needle.as_bytes()));
    }
}

#[tokio::test]
async fn without_following_it_ends_where_the_log_ends_now() {
    let (_folder, logs) = logs();
    let run = Uuid::new_v4();
    let writer = logs.create(run).await.unwrap();
    writer.append(start()).await.unwrap();
    durable(&writer, 1).await;
    let now = rest(&mut logs.read(run, 0, false).await.unwrap()).await.unwrap();
    assert_eq!(now.len(), 1);
    writer.end(exit(0)).await.unwrap();
}

#[tokio::test]
async fn a_log_that_is_given_up_ends_in_an_error_and_is_ended_later() {
    let (_folder, logs) = logs();
    let run = Uuid::new_v4();
    let writer = logs.create(run).await.unwrap();
    writer.append(start()).await.unwrap();
    writer.output(Channel::Stdout, bytes("before")).await.unwrap();
    let mut reader = logs.read(run, 0, true).await.unwrap();
    drop(writer);
    let error = soon(rest(&mut reader)).await.unwrap_err();
    assert!(matches!(error, LogError::Failed), "{error:?}");
    let recovered = logs.tend().await.unwrap().recovered.remove(0);
    assert_eq!((recovered.run, recovered.exit.stdout_bytes, recovered.last_seq), (run, 6, 3));
    let all = rest(&mut logs.read(run, 0, true).await.unwrap()).await.unwrap();
    assert!(all.last().unwrap().is_last());
    assert_eq!(output(&all), b"before");
}

#[tokio::test]
async fn a_run_that_is_written_is_not_tended() {
    let (_folder, logs) = logs();
    let run = Uuid::new_v4();
    let writer = logs.create(run).await.unwrap();
    writer.append(start()).await.unwrap();
    assert_eq!(logs.tend().await.unwrap().recovered, []);
    writer.end(exit(0)).await.unwrap();
    assert_eq!(logs.tend().await.unwrap().recovered, []);
    assert_eq!(logs.log(run).await.unwrap().tail().borrow().state, TailState::Ended);
}

#[tokio::test]
async fn a_second_server_is_kept_out_of_the_folder() {
    let (folder, _logs) = logs();
    let error = RunLogs::open(folder.path(), keeping()).unwrap_err();
    assert!(matches!(error, LogError::InUse(_)), "{error:?}");
}

#[tokio::test]
async fn the_oldest_logs_are_removed_when_there_are_too_many_or_too_much() {
    let folder = tempfile::tempdir().unwrap();
    let kept = Retention { count: 3, ..keeping() };
    let logs = RunLogs::open(folder.path(), kept).unwrap();
    let mut runs = Vec::new();
    for minutes in [5, 4, 3, 2, 1] {
        runs.push(ended_ago(&folder, &logs, Duration::from_secs(60 * minutes)).await);
    }
    let mut removed = logs.tend().await.unwrap().removed;
    removed.sort_by_key(|run| runs.iter().position(|known| known == run));
    assert_eq!(removed, runs[..2]);
    assert!(matches!(logs.read(runs[0], 0, true).await, Err(LogError::Gone)));
    assert!(logs.read(runs[4], 0, true).await.is_ok());
    drop(logs);
    let size = std::fs::metadata(file_of(&folder, runs[4], "log")).unwrap().len();
    let kept = Retention { total_bytes: size, ..keeping() };
    let logs = RunLogs::open(folder.path(), kept).unwrap();
    assert_eq!(logs.tend().await.unwrap().removed.len(), 2);
}

#[tokio::test]
async fn logs_are_removed_when_they_are_too_old() {
    let folder = tempfile::tempdir().unwrap();
    let age = Duration::from_secs(3600);
    let logs = RunLogs::open(folder.path(), Retention { age, ..keeping() }).unwrap();
    let minute = Duration::from_secs(60);
    let old = ended_ago(&folder, &logs, age + minute).await;
    let young = ended_ago(&folder, &logs, age - minute).await;
    assert_eq!(logs.tend().await.unwrap().removed, [old]);
    assert!(matches!(logs.read(old, 0, true).await, Err(LogError::Gone)));
    assert!(logs.read(young, 0, true).await.is_ok());
}

/// The log of a run that ended so long ago; times of files are so coarse that two which end now may have the same.
async fn ended_ago(folder: &TempDir, logs: &RunLogs, ago: Duration) -> Uuid {
    let run = Uuid::new_v4();
    sample(logs, run).await;
    let log = std::fs::File::options().append(true).open(file_of(folder, run, "log")).unwrap();
    log.set_modified(SystemTime::now() - ago).unwrap();
    run
}

#[tokio::test]
async fn a_reader_goes_on_while_its_log_is_removed() {
    let (_folder, logs) = logs();
    let run = Uuid::new_v4();
    let last = sample(&logs, run).await;
    let mut reader = logs.read(run, 0, true).await.unwrap();
    logs.remove(run).await.unwrap();
    assert_eq!(rest(&mut reader).await.unwrap().len() as u64, last);
    assert!(matches!(logs.read(run, 0, true).await, Err(LogError::Gone)));
}

#[tokio::test]
async fn a_disk_with_too_little_left_refuses_new_runs() {
    let folder = tempfile::tempdir().unwrap();
    let kept = Retention { min_free_bytes: u64::MAX, ..keeping() };
    let logs = RunLogs::open(folder.path(), kept).unwrap();
    let error = logs.create(Uuid::new_v4()).await.unwrap_err();
    assert!(matches!(error, LogError::NoSpace(_)), "{error:?}");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "only the lock: {left:?}");
}

#[tokio::test(start_paused = true)]
async fn silence_is_broken_before_the_first_record_and_between_records() {
    let (_folder, logs) = logs();
    let run = Uuid::new_v4();
    let writer = logs.create(run).await.unwrap();
    let reader = logs.read(run, 0, true).await.unwrap();
    let mut stream = Stream::new(reader, Framing::Events);
    let began = tokio::time::Instant::now();
    assert_eq!(stream.piece().await.unwrap().unwrap(), "retry: 1000\n\n");
    assert_eq!(stream.piece().await.unwrap().unwrap(), ":\n\n");
    assert_eq!(began.elapsed().as_secs(), HEARTBEAT.as_secs());
    writer.append(start()).await.unwrap();
    let piece = stream.piece().await.unwrap().unwrap();
    assert!(piece.starts_with(b"id: 1\nevent: start\ndata: {\"seq\":1,"), "{piece:?}");
    assert_eq!(stream.piece().await.unwrap().unwrap(), ":\n\n");
}

#[tokio::test]
async fn a_thousand_readers_follow_one_run() {
    let (_folder, logs) = logs();
    let run = Uuid::new_v4();
    let writer = logs.create(run).await.unwrap();
    let ready = probe();
    let log = Arc::clone(writer.log());
    let readers: Vec<_> = (0..1000)
        .map(|_| {
            let (log, ready) = (Arc::clone(&log), ready.clone());
            tokio::spawn(async move {
                let mut reader = schwann_cards::reader::Reader::new(log, 0, true);
                ready.hit();
                output(&rest(&mut reader).await.unwrap()).len()
            })
        })
        .collect();
    soon(ready.reached(1000)).await;
    for line in 0..200 {
        writer.output(Channel::Stdout, bytes(format!("{line:07}\n"))).await.unwrap();
    }
    writer.end(exit(0)).await.unwrap();
    for reader in readers {
        assert_eq!(soon(reader).await.unwrap(), 1600);
    }
}
