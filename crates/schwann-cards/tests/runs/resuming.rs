//! A later cursor gives exactly what an earlier reader had not seen.

use schwann_cards::{
    framing::{Framing, Stream},
    record::{Channel, Entry},
    run_log::{LogError, RunLogs, TailState},
};
use uuid::Uuid;

use crate::support::*;

async fn framed(logs: &RunLogs, run: Uuid, after: u64, framing: Framing) -> Vec<u8> {
    let mut stream = Stream::new(logs.read(run, after, true).await.unwrap(), framing);
    let mut all = Vec::new();
    while let Some(piece) = stream.piece().await.unwrap() {
        all.extend_from_slice(&piece);
    }
    all
}

#[tokio::test]
async fn every_cursor_gives_the_rest_byte_for_byte_also_after_a_restart() {
    let (folder, logs) = logs();
    let run = Uuid::new_v4();
    let last = sample(&logs, run).await;
    let all = rest(&mut logs.read(run, 0, true).await.unwrap()).await.unwrap();
    dense(&all, 1);
    assert_eq!(all.len() as u64, last);
    drop(logs);
    let logs = RunLogs::open(folder.path(), keeping()).unwrap();
    for after in 0..=last {
        let later = rest(&mut logs.read(run, after, true).await.unwrap()).await.unwrap();
        assert_eq!(later, all[after as usize..], "after {after}");
    }
}

#[tokio::test]
async fn every_framing_continues_where_it_was_cut() {
    let (_folder, logs) = logs();
    let run = Uuid::new_v4();
    let last = sample(&logs, run).await;
    for framing in [Framing::Text { footer: true }, Framing::Lines, Framing::Events] {
        let whole = framed(&logs, run, 0, framing).await;
        let opening = framing.opening(false);
        for after in 0..=last {
            let mut first = opening.to_vec();
            let mut reader = logs.read(run, 0, true).await.unwrap();
            while let Some(entries) = reader.next().await.unwrap() {
                for entry in entries.take_while(|entry| entry.seq <= after) {
                    framing.write(&entry, None, &mut first);
                }
                if reader.cursor() > after {
                    break;
                }
            }
            let later = framed(&logs, run, after, framing).await;
            first.extend_from_slice(later.strip_prefix(&opening[..]).unwrap());
            assert_eq!(first, whole, "{framing:?} after {after}");
        }
    }
}

#[tokio::test]
async fn a_reader_that_takes_one_record_at_a_time_gets_each_once() {
    let (_folder, logs) = logs();
    let run = Uuid::new_v4();
    sample(&logs, run).await;
    let all = rest(&mut logs.read(run, 0, true).await.unwrap()).await.unwrap();
    let mut reader = logs.read(run, 0, true).await.unwrap();
    let mut seen: Vec<Entry> = Vec::new();
    while let Some(mut entries) = reader.next().await.unwrap() {
        seen.extend(entries.next());
    }
    assert_eq!(seen, all);
}

#[tokio::test]
async fn a_cursor_beyond_the_end_is_a_reset_and_begins_at_the_first_record() {
    let (_folder, logs) = logs();
    let run = Uuid::new_v4();
    let last = sample(&logs, run).await;
    let mut reader = logs.read(run, last + 1, true).await.unwrap();
    assert!(reader.is_reset());
    assert_eq!(rest(&mut reader).await.unwrap().len() as u64, last);
    assert!(!logs.read(run, last, true).await.unwrap().is_reset());
    let lines = framed(&logs, run, u64::MAX, Framing::Lines).await;
    assert!(lines.starts_with(b"{\"type\":\"reset\",\"reason\":\"cursor\"}\n{\"seq\":1,"));
    let events = framed(&logs, run, last + 9, Framing::Events).await;
    assert!(events.starts_with(b"retry: 1000\nevent: reset\ndata: {\"type\":\"reset\""));
}

#[tokio::test]
async fn nothing_is_kept_of_an_unknown_run() {
    let (_folder, logs) = logs();
    let error = logs.read(Uuid::new_v4(), 0, true).await.unwrap_err();
    assert!(matches!(error, LogError::Gone), "{error:?}");
}

#[tokio::test]
async fn a_stored_log_is_opened_once_for_all_its_readers() {
    let (_folder, logs) = logs();
    let run = Uuid::new_v4();
    sample(&logs, run).await;
    let (one, two) = (logs.log(run).await.unwrap(), logs.log(run).await.unwrap());
    assert!(std::sync::Arc::ptr_eq(&one, &two));
    assert_eq!(one.tail().borrow().state, TailState::Ended);
}

#[tokio::test]
async fn a_character_in_pieces_is_never_two_records() {
    let (_folder, logs) = logs();
    let run = Uuid::new_v4();
    let writer = logs.create(run).await.unwrap();
    // Records are cut at a size that is no multiple of these characters'.
    let text = "第🦀é".repeat(20_000);
    writer.output(Channel::Stdout, bytes(&text)).await.unwrap();
    writer.end(exit(0)).await.unwrap();
    let all = rest(&mut logs.read(run, 0, true).await.unwrap()).await.unwrap();
    assert!(all.len() > 10, "{}", all.len());
    for entry in &all {
        if let schwann_cards::record::Record::Output(_, data) = &entry.record {
            assert!(std::str::from_utf8(data).is_ok());
        }
    }
    assert_eq!(output(&all), text.as_bytes());
}
