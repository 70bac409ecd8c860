//! The server: 8 writers, each with a reader that says what it was shown.

use std::{io::Write as _, path::Path, process::ExitCode};

use bytes::Bytes;
use schwann_cards::{
    record::{Channel, Entry, Exit, Reason, Record, Start},
    run_log::{Retention, RunLogs},
};
use uuid::Uuid;

use crate::Random;

pub(crate) const WRITERS: u64 = 8;

pub(crate) fn keeping() -> Retention {
    Retention { min_free_bytes: 0, count: 1_000_000, ..Retention::default() }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// What is said of a record that a reader was shown.
pub(crate) fn line(run: Uuid, entry: &Entry) -> String {
    let mut json = Vec::new();
    entry.write_json(None, &mut json);
    format!("{run} {}\n", String::from_utf8(json).unwrap())
}

pub(crate) fn serve(folder: &Path) -> ExitCode {
    runtime().block_on(async {
        let logs = RunLogs::open(folder, keeping()).unwrap();
        logs.tend().await.unwrap();
        let mut writers = tokio::task::JoinSet::new();
        for number in 0..WRITERS {
            writers.spawn(write(logs.clone(), number));
        }
        while writers.join_next().await.is_some() {}
    });
    ExitCode::FAILURE
}

/// Runs one after the other, until this process is killed.
async fn write(logs: RunLogs, number: u64) {
    let mut random = Random(number ^ u64::from(std::process::id()));
    loop {
        let run = Uuid::new_v4();
        let mut writer = logs.create(run).await.unwrap();
        let mut reader = logs.read(run, 0, true).await.unwrap();
        let shown = tokio::spawn(async move {
            while let Some(entries) = reader.next().await.unwrap() {
                let lines: String = entries.map(|entry| line(run, &entry)).collect();
                // One write, so that what was said was said as a whole.
                std::io::stdout().lock().write_all(lines.as_bytes()).unwrap();
            }
        });
        writer.start_clock();
        let start =
            Start { run_id: run, card_id: None, language: "sh".into(), sandbox: "none".into() };
        writer.append(Record::Start(start)).await.unwrap();
        for line in 0..random.below(60) {
            let channel = if random.below(3) == 0 { Channel::Stderr } else { Channel::Stdout };
            let text = format!("第 {line} 行 {}\n", "x".repeat(random.below(3000) as usize));
            writer.output(channel, Bytes::from(text)).await.unwrap();
            if random.below(4) == 0 {
                tokio::task::yield_now().await;
            }
        }
        writer.end(Exit::without_program(Reason::Exit)).await.unwrap();
        shown.await.unwrap();
    }
}
