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

/// A disk that takes what is written and fails when it is to keep it: by a filter that bubblewrap puts on a process of its own, in
/// which `fdatasync`, or `fsync`, answers EIO. What is not on disk is neither a run that was accepted nor an end.
pub(crate) fn unkept() {
    let folder = tempfile::tempdir().unwrap();
    let logs = folder.path().join("runs");
    let lost = writer::runtime().block_on(async {
        let logs = RunLogs::open(&logs, writer::keeping()).unwrap();
        let run = Uuid::new_v4();
        let writer = logs.create(run).await.unwrap();
        let mut reader = logs.read(run, 0, true).await.unwrap();
        writer.output(Channel::Stdout, "shown".into()).await.unwrap();
        assert!(reader.next().await.unwrap().is_some());
        drop(writer);
        while let Ok(Some(entries)) = reader.next().await {
            entries.for_each(drop);
        }
        logs.close();
        run
    });
    let numbers = if cfg!(target_arch = "x86_64") { [75, 74] } else { [83, 82] };
    for (name, number) in ["fdatasync", "fsync"].into_iter().zip(numbers) {
        let filter = folder.path().join(name);
        fs::write(&filter, answering_eio(number)).unwrap();
        let script =
            "exec 9<\"$2\"; exec bwrap --dev-bind / / --seccomp 9 \"$1\" --unkept \"$3\" \"$4\"";
        let status = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(std::env::current_exe().unwrap())
            .arg(&filter)
            .arg(&logs)
            .arg(name)
            .status()
            .unwrap();
        assert!(status.success(), "{name}: {status}");
        // It has its end as soon as that can be kept, and nothing else was left behind.
        assert_eq!(logs.join(lost.to_string()).with_extension("log").exists(), name == "fsync");
        assert_eq!(fs::read_dir(&logs).unwrap().count(), 2, "the log, and the lock");
    }
}

/// A program of seccomp(2) that looks at a call's number, and lets all others through.
fn answering_eio(number: u32) -> Vec<u8> {
    const EIO: u32 = 5;
    // Load the number; if it is this, EIO, else leave.
    let lines =
        [(0x20, 0, 0), (0x15, 1, number), (0x06, 0, 0x0005_0000 | EIO), (0x06, 0, 0x7fff_0000)];
    let mut bytes = Vec::new();
    for (code, otherwise, value) in lines {
        bytes.extend_from_slice(&u16::to_ne_bytes(code));
        bytes.extend_from_slice(&[0, otherwise]);
        bytes.extend_from_slice(&u32::to_ne_bytes(value));
    }
    bytes
}

/// Makes a log, and ends one that was lost, where that cannot be kept.
pub(crate) fn keep_nothing(folder: &Path, failing: &str) -> ExitCode {
    writer::runtime().block_on(async {
        let logs = RunLogs::open(folder, writer::keeping()).unwrap();
        let error = logs.create(Uuid::new_v4()).await.expect_err("it was accepted");
        assert!(matches!(error, LogError::Disk(_)), "{error:?}");
        // The name of a log that has its end need not be on disk: it is found by either.
        let recovered = logs.tend().await.unwrap().recovered;
        assert_eq!(recovered.len(), usize::from(failing == "fsync"), "{recovered:?}");
    });
    ExitCode::SUCCESS
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
