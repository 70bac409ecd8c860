//! Logs in a folder of their own.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use schwann_cards::{
    reader::Reader,
    record::{Channel, Entry, Exit, Reason, Record, Start},
    run_log::{LogError, LogWriter, Retention, RunLogs},
};
use tempfile::TempDir;
use uuid::Uuid;

/// A folder that keeps everything, on whatever disk.
pub(crate) fn keeping() -> Retention {
    Retention { min_free_bytes: 0, ..Retention::default() }
}

pub(crate) fn logs() -> (TempDir, RunLogs) {
    let folder = tempfile::tempdir().unwrap();
    let logs = RunLogs::open(folder.path(), keeping()).unwrap();
    (folder, logs)
}

pub(crate) fn start() -> Record {
    Record::Start(Start {
        run_id: Uuid::nil(),
        card_id: None,
        language: "python".into(),
        sandbox: "none".into(),
    })
}

pub(crate) fn exit(code: i32) -> Exit {
    Exit { code: Some(code), ..Exit::without_program(Reason::Exit) }
}

pub(crate) fn bytes(text: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref())
}

/// Waits until `seq` is on disk.
pub(crate) async fn durable(writer: &LogWriter, seq: u64) {
    let mut tail = writer.log().tail();
    tail.wait_for(|tail| tail.seq >= seq).await.unwrap();
}

/// What is left to read.
pub(crate) async fn rest(reader: &mut Reader) -> Result<Vec<Entry>, LogError> {
    let mut all = Vec::new();
    while let Some(entries) = reader.next().await? {
        all.extend(entries);
    }
    Ok(all)
}

/// The output in `entries`, both channels as they came.
pub(crate) fn output(entries: &[Entry]) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in entries {
        if let Record::Output(_, data) = &entry.record {
            all.extend_from_slice(data);
        }
    }
    all
}

#[track_caller]
pub(crate) fn dense(entries: &[Entry], first: u64) {
    for (entry, seq) in entries.iter().zip(first..) {
        assert_eq!(entry.seq, seq, "a gap or a repetition");
    }
}

/// A run with records of many kinds and sizes, written to its end.
pub(crate) async fn sample(logs: &RunLogs, run: Uuid) -> u64 {
    let writer = logs.create(run).await.unwrap();
    writer.append(start()).await.unwrap();
    for line in 0..40_u32 {
        let channel = if line % 3 == 0 { Channel::Stderr } else { Channel::Stdout };
        let text = format!("第 {line} 行 {}\n", "🦀".repeat(line as usize * 20));
        writer.output(channel, bytes(text)).await.unwrap();
    }
    writer.output(Channel::Stdout, bytes(b"\xff\xfe\x00")).await.unwrap();
    writer.append(Record::Truncated { limit_bytes: 77 }).await.unwrap();
    writer.end(exit(3)).await.unwrap()
}

pub(crate) fn file_of(folder: &TempDir, run: Uuid, extension: &str) -> PathBuf {
    folder.path().join(format!("{run}.{extension}"))
}

/// What must happen, within a time that only a hang exceeds.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("within a minute")
}
