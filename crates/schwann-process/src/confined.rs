//! The task that owns a program of a [`Command`](crate::Command) in a sandbox.

use tokio::{
    net::unix::pipe,
    sync::{oneshot, watch},
    time::{Instant, sleep_until},
};

use crate::{
    Exit, Limits, Reason,
    supervisor::{Outcome, Tail, Terms},
    tree::{Finished, Tree},
};

/// What the task needs.
pub(crate) struct Confined {
    pub(crate) tree: Tree,
    pub(crate) stderr: pipe::Receiver,
    pub(crate) limits: Limits,
    pub(crate) terms: Terms,
    /// Copied into the sandbox, and gone with it.
    pub(crate) folder: tempfile::TempDir,
}

/// Follows a sandbox to its end, and ends it when it is told to, at its
/// deadline and at a limit.
pub(crate) async fn supervise(
    confined: Confined,
    tell: watch::Sender<Outcome>,
    mut over: oneshot::Receiver<()>,
    mut killed: watch::Receiver<bool>,
) {
    let Confined { mut tree, mut stderr, limits, terms, folder } = confined;
    let Terms { deadline, stderr_tail, permit } = terms;
    let mut tail = Tail::new(stderr_tail);
    let mut check = std::pin::pin!(sleep_until(Instant::now() + tree.pace(&limits)));
    let mut reason = None;
    loop {
        // Every branch is cancel-safe: `fill` loses nothing that it has read.
        tokio::select! {
            biased;
            _ = &mut over => break,
            Ok(_) = killed.wait_for(|killed| *killed) => break,
            () = tree.exited() => break,
            () = sleep_until(deadline) => {
                reason = Some(Reason::Timeout);
                break;
            }
            () = tree.listen(), if tree.is_starting() => {}
            () = &mut check => {
                reason = tree.breach(&limits);
                if reason.is_some() {
                    break;
                }
                check.as_mut().reset(Instant::now() + tree.pace(&limits));
            }
            () = tail.fill(&mut stderr), if !tail.ended => {}
        }
    }
    tree.begun().await;
    tree.kill();
    let Finished { exit, out_of_memory, folder_is_full, .. } = tree.finish().await;
    tail.fill_now(&stderr);
    if reason.is_none() && out_of_memory {
        reason = Some(Reason::MemoryLimit);
    } else if reason.is_none() && folder_is_full && exit != Exit::Code(0) {
        reason = Some(Reason::FolderLimit);
    }
    let mut stderr = tail.text();
    let limit = match reason {
        Some(Reason::MemoryLimit) => Some(format!("more memory than {}", limits.memory)),
        Some(Reason::CpuLimit) => Some(format!("more processor time than {}", limits.cpu)),
        Some(Reason::ProcessLimit) => Some(format!("more processes than {}", limits.processes)),
        Some(Reason::FolderLimit) => Some(format!("a larger folder than {}", limits.folder)),
        _ => None,
    };
    if let Some(limit) = &limit {
        stderr.push_str("\nit took ");
        stderr.push_str(limit);
    }
    tell.send_replace(match (reason, exit) {
        (Some(Reason::Timeout), _) => Outcome::TimedOut { stderr },
        (None, Exit::Code(0)) => Outcome::Done { stderr },
        (_, exit) => Outcome::Failed { exit, stderr },
    });
    drop((permit, folder));
}
