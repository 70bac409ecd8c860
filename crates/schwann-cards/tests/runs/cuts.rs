//! Whatever a crash leaves of a log, its whole records are kept and it ends.

use std::fs;

use proptest::prelude::*;
use schwann_cards::{
    record::{Channel, Reason, Record},
    run_log::RunLogs,
};
use uuid::Uuid;

use crate::support::*;

/// Some records in a file, and where each of them ends.
async fn recorded() -> (Vec<u8>, Vec<schwann_cards::record::Entry>) {
    let (folder, logs) = logs();
    let run = Uuid::new_v4();
    let writer = logs.create(run).await.unwrap();
    writer.append(start()).await.unwrap();
    for line in 0..6 {
        let channel = if line % 2 == 0 { Channel::Stdout } else { Channel::Stderr };
        writer.output(channel, bytes(format!("第 {line} 行\n"))).await.unwrap();
    }
    writer.end(exit(0)).await.unwrap();
    let all = rest(&mut logs.read(run, 0, true).await.unwrap()).await.unwrap();
    (fs::read(file_of(&folder, run, "log")).unwrap(), all)
}

/// Recovers a log from `file` and gives what can be read of it then.
async fn recovered(file: &[u8]) -> (Vec<schwann_cards::record::Entry>, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let run = Uuid::new_v4();
    fs::write(file_of(&folder, run, "open"), file).unwrap();
    let logs = RunLogs::open(folder.path(), keeping()).unwrap();
    let tended = logs.tend().await.unwrap();
    assert_eq!(tended.recovered.len(), 1);
    let all = rest(&mut logs.read(run, 0, true).await.unwrap()).await.unwrap();
    assert_eq!(tended.recovered[0].last_seq, all.len() as u64);
    let Record::Exit(exit) = &all.last().unwrap().record else { panic!("not ended") };
    assert_eq!(&tended.recovered[0].exit, exit);
    assert_eq!(logs.tend().await.unwrap().recovered, [], "ended twice");
    (all, fs::read(file_of(&folder, run, "log")).unwrap())
}

#[tokio::test]
async fn a_log_cut_at_any_byte_keeps_its_whole_records_and_gets_an_end() {
    let (file, all) = recorded().await;
    let mut lengths = Vec::new();
    for length in 0..file.len() {
        let (kept, after) = recovered(&file[..length]).await;
        dense(&kept, 1);
        let (last, before) = kept.split_last().unwrap();
        assert_eq!(before, &all[..before.len()], "cut at {length}");
        let Record::Exit(exit) = &last.record else { panic!("not ended") };
        assert_eq!(exit.reason, Reason::ServerRestart);
        assert_eq!(exit.stdout_bytes + exit.stderr_bytes, output(before).len() as u64);
        // Whole records are kept: the kept bytes are a prefix, and all of it that is whole.
        lengths.push(before.len());
        assert!(after.len() > 8);
    }
    assert!(lengths.is_sorted());
    assert_eq!(lengths[0], 0);
    assert_eq!(*lengths.last().unwrap(), all.len() - 1);
    let (kept, after) = recovered(&file).await;
    assert_eq!((kept, after), (all, file), "a log that had ended was changed");
}

#[tokio::test]
async fn every_record_is_kept_from_the_byte_on_at_which_it_is_whole() {
    let (file, all) = recorded().await;
    let mut whole = 0;
    for length in 8..=file.len() {
        let (kept, _) = recovered(&file[..length]).await;
        let records = kept.iter().zip(&all).take_while(|(kept, all)| kept == all).count();
        assert!(records == whole || records == whole + 1, "at {length}");
        whole = records;
    }
    assert_eq!(whole, all.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn garbage_after_a_log_is_cut_off(garbage in proptest::collection::vec(any::<u8>(), 1..200), keep in 0.0..1.0_f64) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (file, all) = recorded().await;
            let clean = &file[..(file.len() as f64 * keep) as usize];
            let (kept, after) = recovered(&[clean, &garbage].concat()).await;
            assert_eq!(after, recovered(clean).await.1, "something of it is left");
            dense(&kept, 1);
            let (last, before) = kept.split_last().unwrap();
            assert!(last.is_last());
            assert_eq!(before, &all[..before.len()]);
        });
    }

    #[test]
    fn a_changed_byte_is_never_served(at in 8_usize..600, bit in 0..8_u8) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut file, all) = recorded().await;
            let at = 8 + at % (file.len() - 8);
            file[at] ^= 1_u8 << bit;
            let (kept, _) = recovered(&file).await;
            let (_, before) = kept.split_last().unwrap();
            assert_eq!(before, &all[..before.len()]);
            assert!(before.len() < all.len());
        });
    }
}
