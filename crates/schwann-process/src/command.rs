//! A program, ready to be run once per call.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::Arc,
};

use bytes::Bytes;
use http::StatusCode;
use rustix::pipe::{PipeFlags, pipe_with};
use schwann::{Call, Error, Finished, Handler, RequestBody};
use serde::{Deserialize, Serialize};
use tokio::{net::unix::pipe, sync::OwnedSemaphorePermit, time::Instant};

use crate::{
    ByteSize, Limits, Output, ProgramSpec, RunError, Running, Sandbox, Sandboxes, Span,
    confined::Confined,
    environment,
    program::confine,
    slots::{Busy, Slots},
    supervisor::{Supervised, Terms},
    terminal::Ends,
};

/// A program to run once per call, as written in a configuration file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CommandSpec {
    /// The program and its arguments. No shell is involved.
    pub command: Vec<String>,
    /// What the program may touch. There is no default: `"none"` says that no
    /// isolation at all is meant.
    pub sandbox: Sandbox,
    /// Longest run, including the wait for its turn and for whoever reads its
    /// output. Then the program is killed.
    #[serde(default = "defaults::timeout")]
    pub timeout: Span,
    /// Most that it may write to stdout.
    #[serde(default = "defaults::max_output")]
    pub max_output: ByteSize,
    /// How much of the end of its stderr is kept for the log.
    #[serde(default = "defaults::stderr_tail")]
    pub stderr_tail: ByteSize,
    /// The folder it runs in, and from which a program with a slash in its
    /// name is found. This process's, if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<PathBuf>,
    /// Folders and files that it may read in a sandbox, besides the system's
    /// and its working directory. Without a sandbox it means nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read_only: Vec<PathBuf>,
    /// What it may use in a sandbox. `wall` and `output` are not looked at:
    /// they are `timeout` and `max_output`. Without a sandbox none is held.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: Limits,
    /// Variables set for it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// Names of variables it gets from this process, besides `PATH`, `HOME`,
    /// `LANG`, `LC_ALL`, `LC_CTYPE`, `TZ` and `TMPDIR`. It gets no others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inherit: Vec<String>,
    /// How many may run at once.
    #[serde(default = "defaults::max_running")]
    pub max_running: u32,
    /// How long the next one waits for its turn.
    #[serde(default = "defaults::max_wait")]
    pub max_wait: Span,
}

fn is_default(limits: &Limits) -> bool {
    *limits == Limits::default()
}

mod defaults {
    use super::{ByteSize, Span};

    pub(super) const fn timeout() -> Span {
        Span::from_secs(60)
    }

    pub(super) const fn max_output() -> ByteSize {
        ByteSize::new(64 << 20)
    }

    pub(super) const fn stderr_tail() -> ByteSize {
        ByteSize::new(4 << 10)
    }

    pub(super) const fn max_running() -> u32 {
        32
    }

    pub(super) const fn max_wait() -> Span {
        Span::from_secs(5)
    }
}

impl CommandSpec {
    /// A program with the defaults: 60 s, 64 MiB of output, 4 KiB of stderr,
    /// 32 at once with a wait of 5 s.
    pub fn new<I>(command: I, sandbox: Sandbox) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            sandbox,
            timeout: defaults::timeout(),
            max_output: defaults::max_output(),
            stderr_tail: defaults::stderr_tail(),
            working_directory: None,
            read_only: Vec::new(),
            limits: Limits::default(),
            environment: BTreeMap::new(),
            inherit: Vec::new(),
            max_running: defaults::max_running(),
            max_wait: defaults::max_wait(),
        }
    }
}

/// Why a [`CommandSpec`] cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// `command` was an empty list, or began with an empty name.
    #[error("`command` names no program; write one like `[\"python3\", \"translate.py\"]`")]
    NoProgram,
    /// The program is not there, or may not be executed.
    #[error("program `{program}` cannot be run")]
    Program {
        /// As configured.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// The folder to run in is not there.
    #[error("working directory `{}` cannot be used", .folder.display())]
    Folder {
        /// As configured.
        folder: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// This machine does not provide the sandbox. Never downgraded.
    #[error(
        "sandbox `{sandbox}` is not available: {missing}; `sandbox = \"none\"` runs the program \
         with no isolation at all"
    )]
    SandboxUnavailable {
        /// The one asked for.
        sandbox: Sandbox,
        /// What is missing, and how to get it.
        missing: String,
    },
    /// A setting of zero would let nothing run.
    #[error("`{0}` must not be zero")]
    Zero(&'static str),
    /// A name or value that cannot be part of an environment.
    #[error("`{0}` cannot be the name of an environment variable")]
    Variable(String),
}

/// A program, found and checked. Cheap to clone; clones share one limit of how
/// many run at once.
#[derive(Clone, Debug)]
pub struct Command(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    spec: CommandSpec,
    /// Where the program was found.
    program: PathBuf,
    folder: PathBuf,
    environment: BTreeMap<OsString, OsString>,
    slots: Slots,
}

/// One run of a program: what it is given.
#[derive(Clone, Debug, Default)]
pub struct Job {
    /// Everything it can read from stdin.
    pub input: Bytes,
    /// Variables set for this run, over those of the configuration.
    pub environment: Vec<(String, String)>,
    /// When it is killed at the latest. The configured timeout holds as well.
    pub deadline: Option<Instant>,
}

impl Job {
    /// A run with this input and nothing else.
    pub fn new(input: impl Into<Bytes>) -> Self {
        Self { input: input.into(), ..Self::default() }
    }
}

impl Command {
    /// Checks a spec and finds its program, so that a mistake is found at
    /// start-up and not by the first caller. The environment that the program
    /// will see is taken now.
    ///
    /// # Errors
    ///
    /// See [`SpecError`].
    pub fn from_spec(spec: CommandSpec) -> Result<Self, SpecError> {
        let program = spec.command.first().filter(|program| !program.is_empty());
        let program = program.ok_or(SpecError::NoProgram)?;
        if spec.max_running == 0 {
            return Err(SpecError::Zero("max_running"));
        }
        if let Some(name) = spec.limits.zero() {
            return Err(SpecError::Zero(name));
        }
        if spec.timeout == Span::from_millis(0) {
            return Err(SpecError::Zero("timeout"));
        }
        for name in spec.environment.keys().chain(&spec.inherit) {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(SpecError::Variable(name.clone()));
            }
        }
        let folder = folder(spec.working_directory.as_deref())?;
        let environment = environment::clean(&spec.inherit, &spec.environment);
        let path = environment.get(&OsString::from("PATH")).cloned().unwrap_or_default();
        let program = environment::find(program, &folder, &path)
            .map_err(|source| SpecError::Program { program: program.clone(), source })?;
        let slots = Slots::new(spec.max_running, spec.max_wait.into());
        Ok(Self(Arc::new(Inner { spec, program, folder, environment, slots })))
    }

    /// Finds out whether this machine has the sandbox that it asks for, so
    /// that a server can refuse to start instead of failing each call.
    ///
    /// # Errors
    ///
    /// [`SpecError::SandboxUnavailable`].
    pub async fn check_sandbox(&self) -> Result<(), SpecError> {
        let sandbox = self.0.spec.sandbox;
        if sandbox == Sandbox::None {
            return Ok(());
        }
        let found = Sandboxes::probe().await.resolve(sandbox);
        let missing = |missing| SpecError::SandboxUnavailable { sandbox, missing };
        found.map(|_| ()).map_err(missing)
    }

    /// What it was made from.
    pub fn spec(&self) -> &CommandSpec {
        &self.0.spec
    }

    /// Runs the program to its end: whole input in, whole output out.
    ///
    /// # Errors
    ///
    /// See [`RunError`]. Any exit but code 0 is one.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, the program's process group is killed.
    pub async fn run(&self, job: Job) -> Result<Output, RunError> {
        self.stream(job).await?.collect().await
    }

    /// Starts the program, to read its output as it is written.
    ///
    /// # Errors
    ///
    /// Fails if too many are running, or if it cannot be started.
    pub async fn stream(&self, job: Job) -> Result<Running, RunError> {
        let mut running = self.start(&job.environment, job.deadline).await?;
        running.feed(job.input);
        Ok(running)
    }

    /// Starts the program with `input` written to its stdin as it arrives,
    /// after the job's own, and as the program takes it.
    ///
    /// If the input fails, so does the run, and the program never sees an end
    /// of its input: [`RunError::Input`].
    ///
    /// # Errors
    ///
    /// As [`stream`](Self::stream).
    pub async fn stream_from(&self, job: Job, input: RequestBody) -> Result<Running, RunError> {
        let mut running = self.stream(job).await?;
        running.feed_from(input);
        Ok(running)
    }

    async fn start(
        &self,
        extra: &[(String, String)],
        deadline: Option<Instant>,
    ) -> Result<Running, RunError> {
        let Inner { spec, slots, .. } = &*self.0;
        let started = Instant::now();
        let own = started + spec.timeout.duration();
        let deadline = deadline.map_or(own, |deadline| deadline.min(own));
        let permit = slots.take(deadline).await;
        let permit = permit.map_err(|Busy { most }| RunError::Busy { running: most })?;
        if spec.sandbox != Sandbox::None {
            return self.confine(extra, deadline, started, permit).await;
        }
        let begin = || {
            let mut child = self.spawn(extra)?;
            let pipes = child.stdin.take().zip(child.stdout.take());
            let (stdin, stdout) = pipes.expect("piped, and not taken before");
            let stderr_tail = usize::try_from(spec.stderr_tail.bytes()).unwrap_or(usize::MAX);
            // From here on the child is killed and reaped whatever happens.
            let supervised = Supervised::start(child, Terms { deadline, stderr_tail, permit })?;
            let stdin = pipe::Sender::from_owned_fd(OwnedFd::from(stdin))?;
            let stdout = pipe::Receiver::from_owned_fd(OwnedFd::from(stdout))?;
            let limit = Span::new(deadline.saturating_duration_since(started));
            Ok(Running::new(stdin, stdout, supervised, spec.max_output, limit, started))
        };
        begin().map_err(|source| RunError::Start { program: spec.command[0].clone(), source })
    }

    /// Starts the program in its sandbox.
    async fn confine(
        &self,
        extra: &[(String, String)],
        deadline: Instant,
        started: Instant,
        permit: OwnedSemaphorePermit,
    ) -> Result<Running, RunError> {
        let Inner { spec, folder, .. } = &*self.0;
        let fail = |source| RunError::Start { program: spec.command[0].clone(), source };
        let work = tempfile::tempdir().map_err(fail)?;
        let mut program = ProgramSpec::new(spec.command.iter().cloned(), work.path(), spec.sandbox);
        program.environment = spec.environment.clone();
        program.environment.extend(environment::named(&spec.inherit));
        program.environment.extend(extra.iter().cloned());
        program.read_only = spec.read_only.clone();
        if spec.working_directory.is_some() {
            program.start_in = Some(folder.clone());
            program.read_only.push(folder.clone());
        }
        program.limits = Limits { wall: spec.timeout, output: spec.max_output, ..spec.limits };
        let pipes = || {
            let (theirs_in, stdin) = pipe_with(PipeFlags::CLOEXEC)?;
            let (stdout, theirs_out) = pipe_with(PipeFlags::CLOEXEC)?;
            let (stderr, theirs_err) = pipe_with(PipeFlags::CLOEXEC)?;
            let theirs = Ends { stdin: theirs_in, stdout: theirs_out, stderr: theirs_err };
            let ours = (
                pipe::Sender::from_owned_fd(stdin)?,
                pipe::Receiver::from_owned_fd(stdout)?,
                pipe::Receiver::from_owned_fd(stderr)?,
            );
            Ok((ours, theirs))
        };
        let ((stdin, stdout, stderr), theirs) = pipes().map_err(fail)?;
        let tree = confine(&program, theirs).await;
        let tree = tree.map_err(|error| fail(io::Error::other(error)))?;
        let stderr_tail = usize::try_from(spec.stderr_tail.bytes()).unwrap_or(usize::MAX);
        let terms = Terms { deadline, stderr_tail, permit };
        let limits = program.limits;
        let confined = Confined { tree, stderr, limits, terms, folder: work };
        let supervised = Supervised::confined(confined);
        let limit = Span::new(deadline.saturating_duration_since(started));
        Ok(Running::new(stdin, stdout, supervised, spec.max_output, limit, started))
    }

    /// Starts the program as the leader of a process group of its own.
    ///
    /// Without `pre_exec`, which would make the standard library fork this
    /// process and its page tables instead of using `posix_spawn`: 20 ms with
    /// a heap of 1 GB, instead of 0.04 ms.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that starts programs")]
    fn spawn(&self, extra: &[(String, String)]) -> io::Result<Child> {
        let inner = &*self.0;
        std::process::Command::new(&inner.program)
            .arg0(&inner.spec.command[0])
            .args(&inner.spec.command[1..])
            .current_dir(&inner.folder)
            .env_clear()
            .envs(&inner.environment)
            .envs(extra.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
    }
}

/// The folder to run in, as an absolute path that exists.
fn folder(configured: Option<&Path>) -> Result<PathBuf, SpecError> {
    let shown = configured.unwrap_or(Path::new("."));
    let fail = |source| SpecError::Folder { folder: shown.to_owned(), source };
    let folder = env::current_dir().map_err(fail)?.join(configured.unwrap_or(Path::new("")));
    match folder.metadata().map_err(fail)?.is_dir() {
        true => Ok(folder),
        false => Err(fail(io::ErrorKind::NotADirectory.into())),
    }
}

/// Plain HTTP: the request's body is stdin as it arrives, stdout is the
/// response's, and both move at once. The response starts with the first
/// output, or with a good exit; a failure before is an error status, and a
/// failure after it cuts the response.
impl Handler for Command {
    async fn call(&self, call: Call) -> Result<Finished, Error> {
        let (_head, body, reply) = call.into_parts();
        let mut running = self.stream_from(Job::default(), body).await?;
        let Some(first) = running.chunk().await? else {
            return Ok(reply.send(StatusCode::OK, Bytes::new()));
        };
        let mut out = reply.start(StatusCode::OK);
        out.write(first).await?;
        while let Some(chunk) = running.chunk().await? {
            out.write(chunk).await?;
        }
        Ok(out.finish())
    }
}
