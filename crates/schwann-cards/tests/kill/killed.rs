//! `kill -9` after a random number of records shown.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Stdio},
};

use schwann_cards::{
    record::{Entry, Record},
    run_log::RunLogs,
};
use uuid::Uuid;

use crate::{Random, writer};

const POINTS: u64 = 200;

pub(crate) fn at_random_points() {
    let folder = tempfile::tempdir().unwrap();
    let seed = u64::from(std::process::id());
    let mut random = Random(seed);
    let runtime = writer::runtime();
    let (mut shown_in_all, mut torn) = (0, 0);
    for point in 0..POINTS {
        let shown = until_killed(folder.path(), 1 + random.below(400));
        shown_in_all += shown.values().map(Vec::len).sum::<usize>();
        torn += runtime.block_on(check(folder.path(), &shown, point));
    }
    // Otherwise nothing was tried.
    assert!(shown_in_all as u64 > 10 * POINTS, "seed {seed}: {shown_in_all} records");
    assert!(torn > 0, "seed {seed}: no run was under way at any point");
    println!("{POINTS} points, {shown_in_all} records shown, {torn} runs under way (seed {seed})");
}

/// What was shown of each run, in the order in which it was.
fn until_killed(folder: &std::path::Path, records: u64) -> HashMap<Uuid, Vec<String>> {
    let mut server = Command::new(std::env::current_exe().unwrap())
        .arg("--serve")
        .arg(folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(server.stdout.take().unwrap());
    let mut text = String::new();
    for _ in 0..records {
        assert!(out.read_line(&mut text).unwrap() > 0, "the server ended by itself");
    }
    server.kill().unwrap();
    server.wait().unwrap();
    // What was in the pipe was shown as well, but for a line that was cut.
    let mut rest = Vec::new();
    out.read_to_end(&mut rest).unwrap();
    let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    text.push_str(std::str::from_utf8(&rest[..whole]).unwrap());
    let mut shown: HashMap<Uuid, Vec<String>> = HashMap::new();
    for line in text.lines() {
        let (run, record) = line.split_once(' ').unwrap();
        shown.entry(run.parse().unwrap()).or_default().push(record.to_owned());
    }
    shown
}

/// Starts anew in the folder, and compares. Gives how many runs were lost with the server.
async fn check(folder: &std::path::Path, shown: &HashMap<Uuid, Vec<String>>, point: u64) -> usize {
    let logs = RunLogs::open(folder, writer::keeping()).unwrap();
    let recovered = logs.tend().await.unwrap().recovered;
    assert!(recovered.len() as u64 <= writer::WRITERS, "point {point}: {recovered:?}");
    assert_eq!(logs.tend().await.unwrap().recovered, [], "point {point}: ended twice");
    for (run, records) in shown {
        let kept = all(&logs, *run).await;
        let lines: Vec<String> = kept.iter().map(json).collect();
        // Each that was shown is there once, in its place, with the same bytes.
        assert_eq!(lines[..records.len()], records[..], "point {point}, run {run}");
    }
    let mut runs: Vec<Uuid> = shown.keys().copied().collect();
    runs.extend(recovered.iter().map(|recovered| recovered.run));
    runs.sort_unstable();
    runs.dedup();
    for run in runs {
        let kept = all(&logs, run).await;
        let ends = kept.iter().filter(|entry| matches!(entry.record, Record::Exit(_))).count();
        assert_eq!(ends, 1, "point {point}, run {run}");
        assert!(kept.last().unwrap().is_last());
        for (entry, seq) in kept.iter().zip(1..) {
            assert_eq!(entry.seq, seq, "point {point}, run {run}");
        }
        assert_eq!(all(&logs, run).await, kept, "point {point}: another replay");
        logs.remove(run).await.unwrap();
    }
    recovered.len()
}

async fn all(logs: &RunLogs, run: Uuid) -> Vec<Entry> {
    let mut reader = logs.read(run, 0, true).await.unwrap();
    let mut kept = Vec::new();
    while let Some(entries) = reader.next().await.unwrap() {
        kept.extend(entries);
    }
    kept
}

fn json(entry: &Entry) -> String {
    let mut json = Vec::new();
    entry.write_json(None, &mut json);
    String::from_utf8(json).unwrap()
}
