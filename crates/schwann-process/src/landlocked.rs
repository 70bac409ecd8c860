//! A sandbox without namespaces, for machines that do not allow them: the
//! kernel's landlock rules, a filter of system calls, and limits.
//!
//! The program is in the host's namespaces, where it may touch its own folder
//! and read the system's. It cannot leave its process group, as the filter
//! only feigns `setsid` and `setpgid`, so that killing the group kills all of it.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt,
            fs::{MetadataExt, PermissionsExt, lchown},
        },
    },
    path::Path,
};

use crate::{
    ProgramSpec, StartError,
    bubblewrap::{give, is_open, limits, take_identity, variables},
    cgroup::{Cgroup, Cgroups},
    filter::{self, Strictness},
    identity::Identity,
    launch::{Confinement, Exposed, Launch, Resource, launch},
    program::{find, put, text, variables as lines},
    run_folder::{RunFolder, is_larger},
    terminal::Ends,
    tree::Tree,
};
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
};
use rustix::process::geteuid;

/// The first version that keeps signals and abstract sockets in. Linux 6.12.
const VERSION: ABI = ABI::V6;

/// What of the host everybody may read and execute.
const SYSTEM: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/localtime",
    "/etc/mime.types",
];

/// Devices that are nobody's.
const DEVICES: &[&str] = &["/dev/full", "/dev/null", "/dev/random", "/dev/urandom", "/dev/zero"];

/// How many processes more a user may have than when a program began.
const SLACK: u64 = 512;

/// What belongs to a program in this sandbox besides its processes.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) folder: RunFolder,
    pub(crate) cgroup: Option<Cgroup>,
    pub(crate) identity: Option<Identity>,
}

/// Whether the kernel has all that is needed.
///
/// # Errors
///
/// What is missing, for people.
pub(crate) fn available() -> Result<String, String> {
    let empty = tempfile::tempdir().map_err(|error| error.to_string())?;
    match rules(empty.path(), &[]) {
        Ok(_) => Ok("landlock".to_owned()),
        Err(error) => {
            Err(format!("the kernel's landlock is too old or off, Linux 6.12 is needed: {error}"))
        }
    }
}

/// A ruleset that allows to write below `folder`, and to read the system and
/// `read_only`.
fn rules(folder: &Path, read_only: &[&Path]) -> Result<Option<OwnedFd>, RulesetError> {
    let all = AccessFs::from_all(VERSION);
    let read = AccessFs::Execute | AccessFs::ReadFile | AccessFs::ReadDir;
    let file = AccessFs::Execute | AccessFs::ReadFile;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(all)?
        .handle_access(AccessNet::from_all(VERSION))?
        .scope(Scope::from_all(VERSION))?
        .create()?
        .add_rule(PathBeneath::new(open(folder), all & !devices()))?;
    let system = SYSTEM.iter().map(Path::new).chain(read_only.iter().copied());
    for path in system.filter(|path| path.exists()) {
        let access = if path.is_dir() { read } else { file };
        rules = rules.add_rule(PathBeneath::new(open(path), access))?;
    }
    let device = AccessFs::ReadFile | AccessFs::WriteFile;
    for path in DEVICES.iter().map(Path::new).filter(|path| path.exists()) {
        rules = rules.add_rule(PathBeneath::new(open(path), device))?;
    }
    Ok(rules.into())
}

fn devices() -> landlock::BitFlags<AccessFs> {
    AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev
}

/// A path that was there a moment ago; one that is gone is an empty folder's.
fn open(path: &Path) -> PathFd {
    PathFd::new(path).or_else(|_| PathFd::new("/proc/self/fdinfo")).expect("/proc is mounted")
}

/// Starts a program under rules.
pub(crate) async fn start(
    spec: &ProgramSpec,
    streams: Ends,
    cgroups: Option<&Cgroups>,
) -> Result<Tree, StartError> {
    let system = |step: &'static str| move |e| StartError::system(spec, step, e);
    let identity = take_identity(spec)?;
    let cgroup = cgroups.map(|cgroups| cgroups.make(&spec.limits)).transpose();
    let cgroup = cgroup.map_err(system("its cgroup cannot be made"))?;
    let doors = cgroup.as_ref().map(Cgroup::doors).transpose();
    let join = doors.map_err(system("its cgroup cannot be opened"))?.unwrap_or_default();
    let folder = RunFolder::make().map_err(system("its folder cannot be made"))?;
    let owner = identity.as_ref().map(Identity::id);
    copy(&spec.work_folder, folder.path(), owner)
        .and_then(|()| put(folder.path(), &spec.files, owner))
        .map_err(system("its folder cannot be filled"))?;
    if is_larger(folder.path(), spec.limits.folder.bytes(), None) {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        return Err(StartError::Folder { folder: spec.work_folder.clone(), source: full });
    }
    let closed = spec.read_only.iter().find(|path| owner.is_some() && !is_open(path));
    if let Some(path) = closed {
        let missing = format!(
            "`{}` is behind a folder that only root may enter; bubblewrap can show it all the same",
            path.display()
        );
        return Err(StartError::Sandbox { sandbox: spec.sandbox, missing });
    }
    if let Some(id) = owner {
        give(&streams, id).map_err(system("its streams cannot be given to it"))?;
    }
    let environment = environment(spec, folder.path());
    let mut found = spec.clone();
    found.start_in.get_or_insert_with(|| folder.path().to_owned());
    let program = find(&found, &environment)?;
    let read_only: Vec<_> = spec.read_only.iter().map(AsRef::as_ref).collect();
    let ruleset = rules(folder.path(), &read_only).map_err(|error| {
        StartError::system(spec, "its rules cannot be made", io::Error::other(error))
    })?;
    let strictness =
        Strictness { namespaces: false, user: owner.is_some(), shared_memory: cgroup.is_some() };
    let filters = filter::filters(strictness).map_err(|error| {
        StartError::system(spec, "its filter cannot be made", io::Error::other(error))
    })?;
    let mut limits = limits(spec, cgroup.is_some(), owner.is_some());
    if owner.is_none() && cgroup.is_none() {
        // Shared with all other processes of this user, so that it can only
        // keep a bomb small until the watch has seen it.
        let most = u64::from(spec.limits.processes) + running() + SLACK;
        limits.push((Resource::Processes, most));
    }
    let child = launch(Launch {
        program: text(program.as_os_str().as_bytes()),
        arguments: spec.command.iter().map(|word| text(word.as_bytes())).collect(),
        environment: lines(&environment),
        folder: Some(text(found.folder().as_os_str().as_bytes())),
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
        keep: Vec::new(),
        gate: None,
        terminal: spec.terminal.is_some(),
        identity: owner,
        limits,
        join,
        exposed: Exposed::default(),
        outlives: false,
        watched: true,
        confinement: Confinement { ruleset, filters },
    });
    let child = child.await.map_err(|error| StartError::launch(spec, error))?;
    let cell = Cell { folder, cgroup, identity };
    Tree::ruled(child, cell).map_err(system("it cannot be followed"))
}

fn environment(spec: &ProgramSpec, folder: &Path) -> BTreeMap<OsString, OsString> {
    let mut all: BTreeMap<OsString, OsString> =
        variables(spec).into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    for name in ["HOME", "TMPDIR"] {
        if !spec.environment.contains_key(name) {
            all.insert(name.into(), folder.into());
        }
    }
    all
}

/// Threads of this user.
fn running() -> u64 {
    let own = geteuid().as_raw();
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mine = all.filter(|entry| entry.metadata().is_ok_and(|metadata| metadata.uid() == own));
    mine.map(|entry| fs::read_dir(entry.path().join("task")).map_or(0, Iterator::count) as u64)
        .sum()
}

/// Copies what the caller has put in the work folder, for another user.
fn copy(from: &Path, to: &Path, owner: Option<u32>) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            fs::create_dir(&target)?;
            copy(&entry.path(), &target, owner)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &target)?;
            let mode = entry.metadata()?.permissions().mode() & 0o111 | 0o644;
            fs::set_permissions(&target, fs::Permissions::from_mode(mode))?;
            lchown(&target, owner, owner)?;
        } else {
            let name = entry.file_name();
            return Err(io::Error::other(format!(
                "{} in the work folder is neither a file nor a folder",
                name.display()
            )));
        }
    }
    lchown(to, owner, owner)
}
