//! What no server of ours has written is neither kept nor shown: frames that are made here, whole and with right checksums.

use std::{
    fs::{File, FileTimes, OpenOptions},
    os::unix::fs::FileExt as _,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use schwann_cards::{
    reader::Reader,
    record::{Channel, Entry, MAX_DATA, Reason, Record},
    run_log::{LogError, Retention, RunLogs},
};
use tempfile::TempDir;
use uuid::Uuid;

use crate::support::*;

/// What stands before the first frame.
const MAGIC: &[u8] = b"schwrun1";
/// Kinds of records.
const STDOUT: u8 = 2;
const EXIT: u8 = 5;

/// A frame whose checksum is right.
fn frame(kind: u8, at_ms: u32, seq: u64, body: &[u8]) -> Vec<u8> {
    let payload = [&[kind][..], &at_ms.to_le_bytes(), &seq.to_le_bytes(), body].concat();
    sealed(&payload)
}

fn sealed(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
    [&length, &crc32fast::hash(payload).to_le_bytes(), payload].concat()
}

/// A record that says its own id. All are of one length.
fn line(seq: u64) -> Vec<u8> {
    frame(STDOUT, seq as u32, seq, format!("<{seq}>").as_bytes())
}

fn last(seq: u64) -> Vec<u8> {
    let exit = r#"{"reason":"exit","code":7,"signal":null,"elapsed_ms":5,"cpu_ms":0,"max_rss_bytes":0,"stdout_bytes":3,"stderr_bytes":0}"#;
    frame(EXIT, 99, seq, exit.as_bytes())
}

fn file(frames: &[Vec<u8>]) -> Vec<u8> {
    [MAGIC, &frames.concat()].concat()
}

/// A folder with one log in it, which no server writes.
fn left(bytes: &[u8], extension: &str) -> (TempDir, RunLogs, Uuid) {
    let (folder, logs) = logs();
    let run = Uuid::new_v4();
    std::fs::write(file_of(&folder, run, extension), bytes).unwrap();
    (folder, logs, run)
}

/// Everything in a log, ended by now.
async fn ended(bytes: &[u8]) -> (Vec<Entry>, Vec<u8>) {
    let (folder, logs, run) = left(bytes, "open");
    assert_eq!(logs.tend().await.unwrap().recovered.len(), 1);
    let all = soon(rest(&mut logs.read(run, 0, true).await.unwrap())).await.unwrap();
    (all, std::fs::read(file_of(&folder, run, "log")).unwrap())
}

/// Of these frames the first `kept` are the log, and nothing is left of the others.
async fn is_cut_after(kept: usize, frames: &[Vec<u8>], why: &str) {
    let (all, bytes) = ended(&file(frames)).await;
    let (end, before) = all.split_last().unwrap();
    assert_eq!(before.len(), kept, "{why}");
    dense(before, 1);
    let Record::Exit(exit) = &end.record else { panic!("{why}: not ended") };
    assert_eq!(exit.reason, Reason::ServerRestart, "{why}");
    let begin = file(&frames[..kept]);
    assert_eq!(bytes[..begin.len()], begin, "{why}");
    // As if the others had never been there.
    assert_eq!(bytes, ended(&begin).await.1, "{why}");
}

#[tokio::test]
async fn a_record_out_of_its_order_is_cut_off_with_all_after_it() {
    is_cut_after(0, &[line(2), line(3)], "the first is missing").await;
    is_cut_after(0, &[line(0), line(1)], "before the first").await;
    is_cut_after(2, &[line(1), line(2), line(4), line(5)], "one is missing").await;
    is_cut_after(2, &[line(1), line(2), line(2), line(3)], "one is there twice").await;
    is_cut_after(3, &[line(1), line(2), line(3), line(1), line(4)], "back to the first").await;
    is_cut_after(1, &[line(1), line(u64::MAX), line(2)], "far away").await;
}

#[tokio::test]
async fn a_frame_of_a_length_that_we_never_write_is_cut_off() {
    let long = |length| frame(STDOUT, 20, 2, &vec![b'x'; length]);
    is_cut_after(2, &[line(1), long(MAX_DATA), line(2)], "as long as may be, and a repetition")
        .await;
    is_cut_after(1, &[line(1), long(MAX_DATA + 1), line(3)], "one byte longer").await;
    is_cut_after(1, &[line(1), long(7 * MAX_DATA), line(3)], "much longer").await;
    is_cut_after(1, &[line(1), sealed(&[STDOUT]), line(2)], "too short for an id").await;
    // A file system may leave zeros; the checksum of nothing is zero.
    is_cut_after(1, &[line(1), vec![0; 5000], line(2)], "zeros").await;
    is_cut_after(1, &[line(1), frame(77, 20, 2, b"x"), line(3)], "no kind of record").await;
}

#[tokio::test]
async fn what_stands_after_the_last_record_belongs_to_no_run() {
    let whole = [line(1), last(2)];
    for more in [line(3), last(3), line(2), last(2), b"garbage".to_vec()] {
        let bytes = file(&[&whole[..], &[more]].concat());
        let (all, after) = ended(&bytes).await;
        assert_eq!(all.len(), 2, "{all:?}");
        assert!(all[1].is_last());
        assert_eq!(after, file(&whole), "it is left in the log");
        // Nor is it shown where nobody has cut it off.
        let (_folder, logs, run) = left(&bytes, "log");
        let shown = soon(rest(&mut logs.read(run, 0, true).await.unwrap())).await.unwrap();
        assert_eq!(shown, all);
        let end = logs.ended(run).await.unwrap().unwrap();
        assert_eq!((end.last_seq, end.exit.code), (2, Some(7)));
    }
}

#[tokio::test]
async fn a_lost_run_took_as_long_as_its_last_record_says() {
    let (all, _) = ended(&file(&[line(1), frame(STDOUT, 4_321, 2, b"x")])).await;
    let Record::Exit(exit) = &all[2].record else { panic!("not ended") };
    assert_eq!((exit.elapsed_ms, all[2].at_ms), (4_321, 4_321));
}

#[tokio::test]
async fn a_log_without_its_last_record_never_looks_whole() {
    let (_folder, logs, run) = left(&file(&[line(1), line(2)]), "open");
    for (after, follow) in [(0, true), (0, false), (2, true), (2, false)] {
        let mut reader = logs.read(run, after, follow).await.unwrap();
        if after == 0 {
            assert_eq!(reader.next().await.unwrap().unwrap().count(), 2);
        }
        let error = soon(reader.next()).await.unwrap_err();
        assert!(matches!(error, LogError::Failed), "{error:?}");
    }
}

/// Reads until the end or an error, in no more steps than there can be records.
async fn read_on(reader: &mut Reader) -> (Vec<u64>, Option<LogError>) {
    let mut seen = Vec::new();
    for _ in 0..20 {
        match reader.next().await {
            Ok(Some(entries)) => seen.extend(entries.map(|entry| entry.seq)),
            Ok(None) => return (seen, None),
            Err(error) => return (seen, Some(error)),
        }
    }
    panic!("it never ends: {seen:?}");
}

/// A log that is being read when something else writes these frames over it.
async fn overwritten(frames: &[Vec<u8>]) -> (Vec<u64>, Option<LogError>) {
    let whole = file(&[line(1), line(2), line(3), line(4), last(5)]);
    let (folder, logs, run) = left(&whole, "log");
    let mut reader = logs.read(run, 0, true).await.unwrap();
    let other = OpenOptions::new().write(true).open(file_of(&folder, run, "log")).unwrap();
    other.set_len(0).unwrap();
    other.write_all_at(&file(frames), 0).unwrap();
    soon(read_on(&mut reader)).await
}

#[tokio::test]
async fn readers_are_shown_no_record_that_is_not_the_next() {
    for (frames, seen, at) in [
        (vec![line(1), line(2), line(4), line(3), last(5)], vec![1, 2], 2),
        (vec![line(2), line(3), line(4), line(1), last(5)], vec![], 0),
        (vec![line(1), line(2), line(3), line(4), last(6)], vec![1, 2, 3, 4], 4),
        // Cut off under its reader, between two records.
        (vec![line(1), line(2)], vec![1, 2], 2),
    ] {
        let place = file(&vec![line(1); at]).len() as u64;
        let (shown, error) = overwritten(&frames).await;
        assert_eq!(shown, seen);
        let is_told = matches!(error, Some(LogError::Damaged(told)) if told == place);
        assert!(is_told, "after {shown:?}: {error:?}, and it is damaged at {place}");
    }
    // One that was given is not given again.
    let (shown, _) = overwritten(&[line(1), line(2), line(2), line(1), last(3)]).await;
    assert_eq!(shown, [1, 2, 3]);
}

#[tokio::test]
async fn both_outputs_stay_what_they_are_however_they_alternate() {
    let (_folder, logs) = logs();
    let run = Uuid::new_v4();
    let writer = logs.create(run).await.unwrap();
    for (number, channel) in (0..40).zip([Channel::Stdout, Channel::Stderr].iter().cycle()) {
        writer.output(*channel, bytes(format!("{number} "))).await.unwrap();
    }
    writer.end(exit(0)).await.unwrap();
    let all = rest(&mut logs.read(run, 0, true).await.unwrap()).await.unwrap();
    for (wanted, first) in [(Channel::Stdout, 0), (Channel::Stderr, 1)] {
        let own: Vec<_> = all
            .iter()
            .filter(|entry| matches!(entry.record, Record::Output(of, _) if of == wanted))
            .cloned()
            .collect();
        let expected: String = (0..40).skip(first).step_by(2).map(|n| format!("{n} ")).collect();
        assert_eq!(String::from_utf8(output(&own)).unwrap(), expected);
    }
}

/// With one thread, the disk does nothing until the writer waits.
#[tokio::test]
async fn a_run_that_is_faster_than_the_disk_waits_for_it() {
    let (_folder, logs) = logs();
    let run = Uuid::new_v4();
    let writer = logs.create(run).await.unwrap();
    let large = Bytes::from(vec![b'x'; 1 << 20]);
    let all_at_once = writer.output(Channel::Stdout, large).now_or_never();
    assert!(all_at_once.is_none(), "a megabyte is kept in memory");
    assert!(writer.size() < 100_000, "{} bytes are", writer.size());
    writer.end(exit(0)).await.unwrap();
}

#[tokio::test]
async fn a_log_is_kept_for_its_time_and_no_longer() {
    let folder = tempfile::tempdir().unwrap();
    let hour = Duration::from_secs(3600);
    let logs = RunLogs::open(folder.path(), Retention { age: hour, ..keeping() }).unwrap();
    let now = SystemTime::now();
    let runs = [now, now - hour / 2, now - hour * 2].map(|modified| {
        let run = Uuid::new_v4();
        let path = file_of(&folder, run, "log");
        std::fs::write(&path, file(&[last(1)])).unwrap();
        let log = File::options().write(true).open(path).unwrap();
        log.set_times(FileTimes::new().set_modified(modified)).unwrap();
        run
    });
    assert_eq!(logs.tend().await.unwrap().removed, runs[2..]);
    for (run, is_kept) in runs.into_iter().zip([true, true, false]) {
        assert_eq!(logs.read(run, 0, true).await.is_ok(), is_kept);
    }
}
