//! An interactive program: started once, followed to its end.

use std::{
    collections::BTreeMap,
    ffi::{CString, OsString},
    fs, io,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, lchown},
    },
    path::{Component, Path, PathBuf},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use crate::{
    Limits, Sandbox, Sandboxes, Session, environment, landlocked,
    launch::{Confinement, Exposed, Launch, LaunchError, launch},
    session::Started,
    terminal::{self, Ends},
    tree::Tree,
};

/// One run of a program: what is run, where, and within which limits.
#[derive(Clone, Debug)]
pub struct ProgramSpec {
    /// The program and its arguments. No shell is involved.
    pub command: Vec<String>,
    /// Variables set for it. Besides these it gets a `PATH`, a `HOME`, a
    /// locale and little more.
    pub environment: BTreeMap<String, String>,
    /// A folder made for this run alone. In a sandbox the program starts in a
    /// copy of it, of limited size, and nothing is written back, so that
    /// there many runs may have the same. With [`Sandbox::None`] it starts in
    /// the folder itself.
    pub work_folder: PathBuf,
    /// Files that it finds in its work folder besides: their paths below it,
    /// and what is in them.
    pub files: Vec<(PathBuf, Bytes)>,
    /// The folder it starts in, if not its work folder. In a sandbox it must
    /// be one that it may read.
    pub start_in: Option<PathBuf>,
    /// How far it is isolated from the host.
    pub sandbox: Sandbox,
    /// What it may use.
    pub limits: Limits,
    /// Gives it a terminal of this size in place of pipes, so that programs
    /// of every language write line by line. Its stdout and stderr are one
    /// then.
    pub terminal: Option<TerminalSize>,
    /// Folders and files of the host that it may read, under their own paths,
    /// besides the system's programs and libraries.
    pub read_only: Vec<PathBuf>,
    /// Folders and files of the host that it may read under other paths:
    /// here, and inside. In bubblewrap only; it may connect to sockets in them.
    pub shown: Vec<(PathBuf, PathBuf)>,
    /// Holds memory and processes by cgroups where there are any. On if not
    /// turned off.
    pub cgroups: bool,
}

impl ProgramSpec {
    /// A program with the default limits and pipes.
    pub fn new<I>(command: I, work_folder: impl Into<PathBuf>, sandbox: Sandbox) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            environment: BTreeMap::new(),
            work_folder: work_folder.into(),
            files: Vec::new(),
            start_in: None,
            sandbox,
            limits: Limits::default(),
            terminal: None,
            read_only: Vec::new(),
            shown: Vec::new(),
            cgroups: true,
        }
    }
}

impl ProgramSpec {
    /// The folder it starts in.
    pub(crate) fn folder(&self) -> &Path {
        self.start_in.as_deref().unwrap_or(&self.work_folder)
    }
}

/// How many characters a terminal has.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct TerminalSize {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

impl Default for TerminalSize {
    /// 80 by 24.
    fn default() -> Self {
        Self { columns: 80, rows: 24 }
    }
}

/// Why a program was not started. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// `command` was an empty list, or began with an empty name.
    #[error("the command names no program; write one like `[\"python3\", \"main.py\"]`")]
    NoProgram,
    /// The program is not there, or may not be executed.
    #[error("program `{program}` cannot be run")]
    Program {
        /// As it was asked for.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// The work folder cannot be used.
    #[error("work folder `{}` cannot be used", .folder.display())]
    Folder {
        /// As it was asked for.
        folder: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file that is not to be in the work folder.
    #[error("`{}` is not a path below the work folder", .0.display())]
    File(PathBuf),
    /// A limit of zero would let nothing run.
    #[error("the limit `{0}` must not be zero")]
    Zero(&'static str),
    /// A name or value that cannot be part of a command line or environment.
    #[error("`{0}` has a character that a command line or environment cannot hold")]
    Text(String),
    /// This machine does not provide the sandbox. Never downgraded.
    #[error("sandbox `{sandbox}` is not available: {missing}")]
    Sandbox {
        /// The one asked for.
        sandbox: Sandbox,
        /// What is missing, and how to get it.
        missing: String,
    },
    /// The system refused.
    #[error("cannot start `{program}`: {step}")]
    System {
        /// As it was asked for.
        program: String,
        /// What failed.
        step: String,
        /// Why.
        source: io::Error,
    },
}

impl StartError {
    /// Whether this machine cannot run programs of this kind at all, so that
    /// trying again is of no use until somebody has changed something.
    pub fn is_sandbox(&self) -> bool {
        matches!(self, Self::Sandbox { .. })
    }

    pub(crate) fn launch(spec: &ProgramSpec, error: LaunchError) -> Self {
        let LaunchError { step, source } = error;
        Self::system(spec, &step.to_string(), source)
    }

    pub(crate) fn system(spec: &ProgramSpec, step: &str, source: io::Error) -> Self {
        let program = spec.command.first().cloned().unwrap_or_default();
        Self::System { program, step: step.to_owned(), source }
    }
}

/// Where programs are started.
#[derive(Debug)]
pub struct Program;

impl Program {
    /// Starts a program, which runs until it ends, a limit ends it, or the
    /// session is dropped.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, the program is killed as soon as it was
    /// started.
    pub async fn start(spec: ProgramSpec) -> Result<Session, StartError> {
        if spec.sandbox == Sandbox::None {
            return start_plain(&spec).await;
        }
        let (streams, theirs) = terminal::open(spec.terminal)
            .map_err(|e| StartError::system(&spec, "it gets no streams", e))?;
        let tree = confine(&spec, theirs).await?;
        Ok(Session::new(Started { tree, streams, limits: spec.limits }))
    }
}

fn check(spec: &ProgramSpec) -> Result<(), StartError> {
    if spec.command.first().is_none_or(String::is_empty) {
        return Err(StartError::NoProgram);
    }
    if let Some(name) = spec.limits.zero() {
        return Err(StartError::Zero(name));
    }
    if let Some(text) = spec.command.iter().find(|text| text.contains('\0')) {
        return Err(StartError::Text(text.clone()));
    }
    for (name, value) in &spec.environment {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(StartError::Text(name.clone()));
        }
    }
    for (path, _) in &spec.files {
        let is_below = path.components().all(|part| matches!(part, Component::Normal(_)));
        if !is_below || path.file_name().is_none() || path.as_os_str().as_bytes().contains(&0) {
            return Err(StartError::File(path.clone()));
        }
    }
    let fail = |source| StartError::Folder { folder: spec.work_folder.clone(), source };
    match spec.work_folder.metadata().map_err(fail)?.is_dir() {
        true => Ok(()),
        false => Err(fail(io::ErrorKind::NotADirectory.into())),
    }
}

/// Starts a program in the sandbox it asks for.
pub(crate) async fn confine(spec: &ProgramSpec, streams: Ends) -> Result<Tree, StartError> {
    check(spec)?;
    let missing = |missing| StartError::Sandbox { sandbox: spec.sandbox, missing };
    let report = Sandboxes::probe().await;
    let cgroups = report.cgroups.as_ref().ok().filter(|_| spec.cgroups);
    match (report.resolve(spec.sandbox).map_err(missing)?, &report.bubblewrap) {
        (Sandbox::Bubblewrap, Ok(found)) => found.start(spec, streams, cgroups).await,
        _ => landlocked::start(spec, streams, cgroups).await,
    }
}

/// Starts a program without a sandbox.
pub(crate) async fn start_plain(spec: &ProgramSpec) -> Result<Session, StartError> {
    check(spec)?;
    let (streams, theirs) = terminal::open(spec.terminal)
        .map_err(|e| StartError::system(spec, "it gets no streams", e))?;
    let tree = plain(spec, theirs).await?;
    Ok(Session::new(Started { tree, streams, limits: spec.limits }))
}

/// Starts it as a process of this user like any other.
async fn plain(spec: &ProgramSpec, streams: Ends) -> Result<Tree, StartError> {
    if !spec.files.is_empty() {
        let (folder, files) = (spec.work_folder.clone(), spec.files.clone());
        let put = spawn_blocking(move || put(&folder, &files, None)).await;
        put.map_err(io::Error::other)
            .flatten()
            .map_err(|e| StartError::system(spec, "its work folder cannot be filled", e))?;
    }
    let environment = environment::clean(&[], &spec.environment);
    let program = find(spec, &environment)?;
    let started = launch(Launch {
        program: text(program.as_os_str().as_bytes()),
        arguments: spec.command.iter().map(|word| text(word.as_bytes())).collect(),
        environment: variables(&environment),
        folder: Some(text(spec.folder().as_os_str().as_bytes())),
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
        keep: Vec::new(),
        gate: None,
        terminal: spec.terminal.is_some(),
        identity: None,
        limits: Vec::new(),
        join: Vec::new(),
        exposed: Exposed::default(),
        outlives: false,
        watched: false,
        confinement: Confinement::default(),
    });
    let child = started.await.map_err(|error| StartError::launch(spec, error))?;
    Tree::plain(child, spec.work_folder.clone())
        .map_err(|error| StartError::system(spec, "it cannot be followed", error))
}

/// Puts files into its work folder, for another user if there is one.
pub(crate) fn put(folder: &Path, files: &[(PathBuf, Bytes)], owner: Option<u32>) -> io::Result<()> {
    for (path, bytes) in files {
        let path = folder.join(path);
        let above: Vec<_> = path.ancestors().skip(1).take_while(|path| *path != folder).collect();
        for folder in above.into_iter().rev() {
            match fs::create_dir(folder) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.and_then(|()| lchown(folder, owner, owner))?,
            }
        }
        fs::write(&path, bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        lchown(&path, owner, owner)?;
    }
    Ok(())
}

pub(crate) fn find(
    spec: &ProgramSpec,
    environment: &BTreeMap<OsString, OsString>,
) -> Result<PathBuf, StartError> {
    let path = environment.get(&OsString::from("PATH")).cloned().unwrap_or_default();
    environment::find(&spec.command[0], spec.folder(), &path)
        .map_err(|source| StartError::Program { program: spec.command[0].clone(), source })
}

/// For `exec`. What has a null in it was refused before, or is cut there.
pub(crate) fn text(bytes: &[u8]) -> CString {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    CString::new(&bytes[..end]).expect("cut before the first null")
}

pub(crate) fn variables(environment: &BTreeMap<OsString, OsString>) -> Vec<CString> {
    let line = |(name, value): (&OsString, &OsString)| {
        text(&[name.as_bytes(), b"=", value.as_bytes()].concat())
    };
    environment.iter().map(line).collect()
}
