//! The processes of one run, whichever way they were started.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use rustix::process::Signal;
use tokio::io::unix::AsyncFd;
use tracing::warn;

use crate::{
    Exit, Limits, Reason,
    launch::Child,
    supervisor::watch_fd,
    watchdog::{self, Usage},
};

/// All processes of one run. Dropping it kills them.
#[derive(Debug)]
pub(crate) struct Tree {
    child: Child,
    exited: AsyncFd<OwnedFd>,
    /// The folder whose size nobody but us holds to a limit.
    folder: Option<PathBuf>,
    /// What was seen last.
    seen: Usage,
}

/// How it went, once nobody is left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finished {
    pub(crate) exit: Exit,
    pub(crate) cpu: Duration,
    pub(crate) max_rss: u64,
    /// The sandbox ended before the program began.
    pub(crate) failed_to_start: bool,
    /// The kernel killed some of it for want of memory.
    pub(crate) out_of_memory: bool,
    /// The kernel refused it a process.
    pub(crate) out_of_processes: bool,
}

impl Tree {
    /// A program without a sandbox, and the folder it writes to.
    pub(crate) fn plain(child: Child, folder: PathBuf) -> io::Result<Self> {
        let exited = watch_fd(child.as_fd().try_clone_to_owned()?)?;
        Ok(Self { child, exited, folder: Some(folder), seen: Usage::default() })
    }

    /// Resolves when the program has ended. Cancel-safe.
    pub(crate) async fn exited(&self) {
        if let Err(error) = self.exited.readable().await {
            warn!(%error, "cannot wait for a program's end");
        }
    }

    /// Kills all of it, at once.
    pub(crate) fn kill(&self) {
        self.child.kill();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.child.signal_group(signal);
    }

    /// How long until it is looked at again.
    pub(crate) fn pace(&self) -> Duration {
        Duration::from_millis(50)
    }

    /// The first limit that it exceeds now.
    pub(crate) fn breach(&mut self, limits: &Limits) -> Option<Reason> {
        self.seen = watchdog::usage(self.child.pid());
        if self.seen.memory > limits.memory.bytes() {
            return Some(Reason::MemoryLimit);
        }
        if self.seen.cpu > limits.cpu.duration() {
            return Some(Reason::CpuLimit);
        }
        if self.seen.processes > limits.processes {
            return Some(Reason::ProcessLimit);
        }
        let folder = self.folder.as_deref()?;
        watchdog::is_larger(folder, limits.folder.bytes()).then_some(Reason::FolderLimit)
    }

    /// Waits until nobody is left, having been killed.
    pub(crate) async fn finish(mut self) -> Finished {
        self.exited().await;
        let reaped = self.child.reap();
        Finished {
            exit: reaped.exit,
            cpu: reaped.cpu.max(self.seen.cpu),
            max_rss: reaped.max_rss,
            failed_to_start: false,
            out_of_memory: false,
            out_of_processes: false,
        }
    }
}
