//! What happens where there is no sandbox.

use std::process::Command;

use schwann_process::{Program, ProgramSpec, Sandbox, StartError};

use crate::soon;

/// A sandbox that this machine does not have is an error that names what is
/// missing, and nothing runs.
pub(crate) async fn refused(sandbox: Sandbox) {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("ran");
    let script = format!("touch {}", mark.display());
    let spec = ProgramSpec::new(["/bin/sh", "-c", &script], folder.path(), sandbox);
    let error = soon(Program::start(spec)).await.unwrap_err();
    assert!(error.is_sandbox(), "{error:?}");
    let StartError::Sandbox { missing, .. } = &error else { unreachable!() };
    assert!(!missing.is_empty());
    assert!(!mark.exists(), "it ran all the same");
}

/// Runs one test of this file alone, in a process of its own, whose `PATH`
/// has no bubblewrap.
#[tokio::test]
async fn without_bubblewrap_nothing_runs_and_it_is_said_what_to_install() {
    let empty = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "refusal::in_a_process_without_bubblewrap", "--nocapture"])
        .env("PATH", empty.path())
        .env("EXPECT_NO_BUBBLEWRAP", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("`bwrap` is not installed"), "{text}");
    assert!(text.contains("apt-get install bubblewrap"), "{text}");
}

#[tokio::test]
async fn in_a_process_without_bubblewrap() {
    if std::env::var_os("EXPECT_NO_BUBBLEWRAP").is_none() {
        return;
    }
    eprintln!("{}", schwann_process::Sandboxes::probe().await);
    refused(Sandbox::Bubblewrap).await;
}
