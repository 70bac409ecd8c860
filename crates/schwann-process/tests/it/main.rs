//! Programs and upstreams, as those who run them see them.

#![expect(clippy::unwrap_used, reason = "also outside of functions marked as tests")]

mod input;
mod life;
mod plain;
mod program;
mod session;
mod spec;
mod upstream;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use schwann_process::{Command, CommandSpec, Sandbox};
use schwann_testkit::watch;
use tokio::{io::AsyncReadExt, net::unix::pipe};

/// Longer than anything here takes on a busy machine; a test that needs it fails.
const PATIENCE: Duration = Duration::from_secs(20);

fn sh(script: &str) -> CommandSpec {
    CommandSpec::new(["sh", "-c", script], Sandbox::None)
}

#[track_caller]
fn command(spec: CommandSpec) -> Command {
    Command::from_spec(spec).unwrap()
}

/// Fails instead of hanging.
async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("still waiting")
}

/// A fifo that a program and its descendants hold open for writing. Its end
/// is theirs: it comes when the last of them is gone, and not before.
struct Lifeline {
    _folder: tempfile::TempDir,
    path: PathBuf,
    reader: pipe::Receiver,
}

impl Lifeline {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lifeline");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let reader = pipe::OpenOptions::new().open_receiver(&path).unwrap();
        Self { _folder: folder, path, reader }
    }

    /// Holds the line as well, so that its end comes even if no program ever opened it.
    fn hold_too(&self) -> pipe::Sender {
        pipe::OpenOptions::new().open_sender(&self.path).unwrap()
    }

    /// Shell that holds the line for the rest of the script, and of all it starts.
    fn hold(&self) -> String {
        format!("exec 9>'{}';", self.path.display())
    }

    /// Waits until a program has written `mark` to descriptor 9; all it wrote.
    async fn reached(&mut self, mark: &str) -> String {
        // A fifo without writers reads as ended, and there may be none yet.
        let _held = self.hold_too();
        let mut seen = String::new();
        while !seen.contains(mark) {
            let mut piece = [0; 64];
            let n = soon(self.reader.read(&mut piece)).await.unwrap();
            seen.push_str(std::str::from_utf8(&piece[..n]).unwrap());
        }
        seen
    }

    /// What was written to descriptor 9 and not read yet, without waiting.
    fn waiting(&mut self) -> String {
        let mut piece = [0; 4096];
        match rustix::io::read(&self.reader, &mut piece) {
            Ok(n) => String::from_utf8_lossy(&piece[..n]).into_owned(),
            Err(error) => {
                assert_eq!(error, rustix::io::Errno::AGAIN);
                String::new()
            }
        }
    }

    /// Waits until everybody is gone.
    async fn cut(&mut self) {
        let mut rest = Vec::new();
        soon(self.reader.read_to_end(&mut rest)).await.unwrap();
    }
}

/// A process whose end can be awaited, and be it as a zombie.
struct Watched(watch::Watched);

impl Watched {
    #[track_caller]
    fn new(pid: &str) -> Self {
        Self(watch::Watched::number(pid))
    }

    async fn gone(self) {
        tokio::task::spawn_blocking(|| self.gone_while_blocking()).await.unwrap();
    }

    /// The same, letting nothing else run on this thread.
    fn gone_while_blocking(self) {
        self.0.ends_within(PATIENCE);
    }
}

/// Whether a process exists, be it only as a zombie.
fn exists(pid: &str) -> bool {
    Path::new("/proc").join(pid.trim()).exists()
}

/// Waits until a process was reaped. There is no event for that before Linux 6.9, whose pidfds then hang up.
async fn reaped(pid: &str) {
    soon(async {
        while exists(pid) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}
