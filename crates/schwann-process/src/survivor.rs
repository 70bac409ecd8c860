//! Who ends a program if this process dies before it can.

use std::{fs, io, os::fd::OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};

use crate::{
    ProgramSpec, StartError,
    launch::{Child, Confinement, Exposed, Launch, LaunchError, Step, launch},
    program::text,
};

/// What the shell does: the group's number is its first line, and our death the end of its input.
const SCRIPT: &str = "trap '' TERM INT HUP; read group; read end; kill -s KILL -- \"-$group\"";

/// A shell that kills a process group when this process has died.
///
/// The kernel's own signal for that (`PR_SET_PDEATHSIG`) reaches one process, and only from when that one has asked for it: a
/// bubblewrap that is killed between making its sandbox and being heard in it would leave a process that waits for it forever.
#[derive(Debug)]
pub(crate) struct Survivor {
    shell: Child,
    /// Nobody else has this end of its input.
    alive: OwnedFd,
}

impl Survivor {
    /// Starts the shell, which must be before what it watches.
    pub(crate) async fn start(spec: &ProgramSpec) -> Result<Self, StartError> {
        let (stdin, alive) = pipe_with(PipeFlags::CLOEXEC)
            .map_err(|error| StartError::system(spec, "it cannot be watched", error.into()))?;
        let shell = shell(stdin).await.map_err(|error| StartError::launch(spec, error))?;
        Ok(Self { shell, alive })
    }

    /// For [`Launch::watched_by`]: the program itself says which group is to be killed. If we did once it has started, it
    /// would live on when we died just before.
    pub(crate) fn watch(&self) -> io::Result<OwnedFd> {
        self.alive.try_clone()
    }

    /// Ends the watch over a group that is gone; its number may be another's soon.
    pub(crate) fn end(mut self) {
        self.shell.kill();
        self.shell.reap();
    }
}

async fn shell(stdin: OwnedFd) -> Result<Child, LaunchError> {
    let null = || {
        let file = fs::OpenOptions::new().write(true).open("/dev/null");
        file.map(OwnedFd::from).map_err(|source| LaunchError { step: Step::Streams, source })
    };
    launch(Launch {
        program: c"/bin/sh".to_owned(),
        arguments: vec![c"sh".to_owned(), c"-c".to_owned(), text(SCRIPT.as_bytes())],
        environment: Vec::new(),
        folder: Some(c"/".to_owned()),
        stdin,
        stdout: null()?,
        stderr: null()?,
        keep: Vec::new(),
        gate: None,
        terminal: false,
        identity: None,
        limits: Vec::new(),
        join: Vec::new(),
        exposed: Exposed::default(),
        outlives: true,
        watched_by: None,
        confinement: Confinement::default(),
    })
    .await
}
