//! A disk that is full, and one that fails: seen by a process of its own, in a
//! file system of its own or under a limit of its own.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Command, ExitCode},
};

use bytes::Bytes;
use schwann_cards::{
    record::{Channel, Exit, Reason, Record},
    run_log::{LogError, RunLogs},
};
use uuid::Uuid;

use crate::writer;

/// In a mount namespace of its own, so that nobody else sees the small disk.
pub(crate) fn full() {
    let folder = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=256k small \"$2\" && exec \"$1\" --fill \"$2\"";
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .arg(folder.path())
        .status()
        .expect("`unshare` of util-linux is installed");
    assert!(status.success(), "{status}; does this machine allow user namespaces?");
}

/// No file may become longer than 128 KiB; the signal for it is ignored, so the write fails.
pub(crate) fn failing() {
    let folder = tempfile::tempdir().unwrap();
    let script = "trap '' XFSZ; ulimit -f 256; exec \"$1\" --fill \"$2\"";
    let status = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .arg(folder.path())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

/// Writes a run until that fails, and then goes on with the next.
pub(crate) fn fill(folder: &Path) -> ExitCode {
    writer::runtime().block_on(async {
        let logs = RunLogs::open(folder, writer::keeping()).unwrap();
        let small_disk = fs::metadata(folder).unwrap().dev()
            != fs::metadata(folder.parent().unwrap()).unwrap().dev();

        // Room that is there again when this is removed. The log alone may take all the rest.
        let reserve = folder.join("reserve");
        if small_disk {
            fs::write(&reserve, vec![0; 32 << 10]).unwrap();
        }

        // A run that prints more than there is room for.
        let run = Uuid::new_v4();
        let writer = logs.create(run).await.unwrap();
        let mut reader = logs.read(run, 0, true).await.unwrap();
        let following = tokio::spawn(async move {
            let mut shown = Vec::new();
            loop {
                match reader.next().await {
                    Ok(Some(entries)) => shown.extend(entries),
                    Ok(None) => panic!("it looked whole"),
                    Err(error) => return (shown, error),
                }
            }
        });
        let piece = Bytes::from("x".repeat(1000));
        while writer.output(Channel::Stdout, piece.clone()).await.is_ok() {}
        let (shown, error) = following.await.unwrap();
        assert!(matches!(error, LogError::Failed), "{error:?}");
        assert!(!shown.is_empty());
        let exit = Exit { elapsed_ms: 5, ..Exit::without_program(Reason::Exit) };
        assert!(matches!(writer.end(exit.clone()).await, Err(LogError::Failed)));
        let exit = Exit { reason: Reason::LogFailed, ..exit };

        let mut recovered = Vec::new();
        if small_disk {
            // The rest of the room, so that nothing at all fits.
            let rest = folder.join("rest");
            let mut length = 4096;
            while fs::write(&rest, vec![0; length]).is_ok() {
                length += 4096;
            }
            let error = logs.create(Uuid::new_v4()).await.unwrap_err();
            assert!(matches!(error, LogError::NoSpace(_)), "{error:?}");
            // Its end may fit into the last page that it has, or not.
            recovered.extend(logs.tend().await.unwrap().recovered);
            fs::remove_file(&rest).unwrap();
            fs::remove_file(&reserve).unwrap();
        }

        // With room again, the run gets its end, and the next one runs.
        recovered.extend(logs.tend().await.unwrap().recovered);
        assert_eq!(recovered.len(), 1, "{recovered:?}");
        assert_eq!(recovered[0].exit, exit);
        let mut kept = Vec::new();
        let mut reader = logs.read(run, 0, true).await.unwrap();
        while let Some(entries) = reader.next().await.unwrap() {
            kept.extend(entries);
        }
        assert_eq!(kept[..shown.len()], shown[..], "something that was shown is lost");
        assert_eq!(kept.last().unwrap().record, Record::Exit(exit));

        // Whoever has it open keeps its room.
        drop(reader);
        logs.remove(run).await.unwrap();
        let next = Uuid::new_v4();
        let writer = logs.create(next).await.unwrap();
        writer.output(Channel::Stdout, piece).await.unwrap();
        writer.end(Exit::without_program(Reason::Exit)).await.unwrap();
    });
    ExitCode::SUCCESS
}
