//! Namespaces of its own for a program, by bubblewrap (`bwrap`, 0.8 or later).
//!
//! It never runs as the host's root: root in the sandbox would be root outside
//! it for much of `/proc`. A server that is root becomes a user that nobody is
//! before bubblewrap begins. Its own environment is empty, because its init is
//! the sandbox's process 1, whose environment the program can read.

use std::{
    collections::BTreeMap,
    ffi::{CString, OsStr},
    fs::{self, File},
    io::{self, Seek, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::PermissionsExt, net::UnixStream},
    },
    path::{Path, PathBuf},
};

use bytes::Bytes;
use rustix::{
    fs::{MemfdFlags, Mode, OFlags, fchown, memfd_create, open},
    param::page_size,
    pipe::{PipeFlags, pipe_with},
    process::{Gid, Uid, geteuid},
};

use crate::{
    Limits, ProgramSpec, StartError,
    cgroup::{Cgroup, Cgroups},
    filter::{self, Strictness},
    identity::Identity,
    launch::{Confinement, Exposed, Launch, Resource, launch},
    program::text,
    terminal::{Ends, Stream},
    tree::{Gate, Jail, Tree},
};

/// Where a program in the sandbox starts.
pub(crate) const WORK: &str = "/work";

/// Nobody, inside.
const NOBODY: &str = "65534";

/// Most files that a work folder may bring along: each is a descriptor.
const MOST_FILES: usize = 200;

/// What shared memory may take, in bytes. It counts as memory as well.
const SHARED_MEMORY: u64 = 16 << 20;

/// Signals and timers that wait for their time; each takes the kernel's memory.
const PENDING_SIGNALS: u64 = 1024;

/// What the kernel tells everybody of the machine, and of what others do there.
const SECRETS: &[&str] =
    &["/proc/cmdline", "/proc/diskstats", "/proc/interrupts", "/proc/kallsyms", "/proc/modules"];

/// What of the host's `/etc` programs need and anybody may know.
const SETTINGS: &[&str] = &[
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/localtime",
    "/etc/mime.types",
];

/// The size of a work folder's file system, in bytes: whole pages, and room
/// for its own folders.
pub(crate) fn folder_size(limits: &Limits) -> u64 {
    let page = page_size() as u64;
    limits.folder.bytes().max(1 << 16).next_multiple_of(page)
}

/// An installed bubblewrap.
#[derive(Clone, Debug)]
pub(crate) struct Bubblewrap {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
}

/// Arguments, and the descriptors that they name.
struct Arguments {
    text: Vec<u8>,
    keep: Vec<OwnedFd>,
    exposed: Exposed,
}

impl Arguments {
    fn add<T: AsRef<OsStr>>(&mut self, words: impl IntoIterator<Item = T>) {
        for word in words {
            self.text.extend_from_slice(word.as_ref().as_bytes());
            self.text.push(0);
        }
    }

    /// Keeps a descriptor open for it; its number, as an argument.
    fn keep(&mut self, fd: OwnedFd) -> io::Result<String> {
        // Away from the program's own streams.
        let fd = rustix::io::fcntl_dupfd_cloexec(fd, 10)?;
        let number = fd.as_raw_fd().to_string();
        self.keep.push(fd);
        Ok(number)
    }

    fn data(&mut self, bytes: &[u8]) -> io::Result<String> {
        let fd = memory_file(bytes)?;
        self.keep(fd)
    }
}

/// A file in memory, ready to be read from its beginning.
fn memory_file(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("sandbox", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

impl Bubblewrap {
    /// Starts a program in a sandbox of its own.
    pub(crate) async fn start(
        &self,
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
        let (ours, status) = pipe_with(PipeFlags::CLOEXEC)
            .map_err(|e| StartError::system(spec, "it cannot be followed", e.into()))?;
        let status_stream = Stream::new(ours).map_err(system("it cannot be followed"))?;
        let (gate, theirs) = UnixStream::pair().map_err(system("it cannot be followed"))?;
        let gate = Stream::new(gate.into()).map_err(system("it cannot be followed"))?;
        // Only where nothing else counts processes: a limit that is set here
        // would be shared by every run of this user, one that is set inside is
        // its sandbox's own. Process 1 counts as well.
        let count_inside = identity.is_none() && cgroup.is_none();
        let processes = count_inside.then_some(u64::from(spec.limits.processes) + 1);
        let arguments = Self::arguments(spec, status, cgroup.is_some())
            .map_err(system("its sandbox cannot be described"))?;
        let Arguments { text: words, mut keep, exposed } = arguments;
        let words = memory_file(&words).map_err(system("its sandbox cannot be described"))?;
        let words = rustix::io::fcntl_dupfd_cloexec(words, 10)
            .map_err(|e| StartError::system(spec, "its sandbox cannot be described", e.into()))?;
        let number = words.as_raw_fd().to_string();
        keep.push(words);
        if let Some(identity) = &identity {
            give(&streams, identity.id()).map_err(system("its streams cannot be given to it"))?;
        }
        let own = ["bwrap", "--args", &number, "--"];
        let command: Vec<CString> = own
            .into_iter()
            .chain(WAIT_INSIDE)
            .map(|word| text(word.as_bytes()))
            .chain(spec.command.iter().map(|word| text(word.as_bytes())))
            .collect();
        let child = launch(Launch {
            program: text(self.path.as_os_str().as_bytes()),
            arguments: command,
            environment: Vec::new(),
            folder: Some(c"/".to_owned()),
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
            keep,
            gate: Some(theirs.into()),
            terminal: false,
            identity: identity.as_ref().map(Identity::id),
            limits: limits(spec, cgroup.is_some(), identity.is_some()),
            join,
            exposed,
            outlives: false,
            watched: true,
            confinement: Confinement::default(),
        });
        let child = child.await.map_err(|error| StartError::launch(spec, error))?;
        let gate = Gate { stream: gate, processes };
        let jail = Jail::new(status_stream, gate, cgroup, identity);
        Tree::jailed(child, jail).map_err(system("it cannot be followed"))
    }

    fn arguments(spec: &ProgramSpec, status: OwnedFd, has_cgroup: bool) -> io::Result<Arguments> {
        let mut all = Arguments { text: Vec::new(), keep: Vec::new(), exposed: Exposed::default() };
        let status = all.keep(status)?;
        all.add(["--json-status-fd", &status]);
        all.add(["--unshare-user", "--unshare-all", "--disable-userns"]);
        all.add(["--die-with-parent", "--new-session", "--clearenv"]);
        all.add(["--uid", NOBODY, "--gid", NOBODY, "--hostname", "sandbox"]);
        system(&mut all)?;
        let users = "root:x:0:0:root:/:/bin/false\nnobody:x:65534:65534:nobody:/work:/bin/sh\n";
        for (path, lines) in [
            ("/etc/passwd", users),
            ("/etc/group", "root:x:0:\nnogroup:x:65534:\n"),
            ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
            ("/etc/hosts", "127.0.0.1 localhost sandbox\n"),
        ] {
            // A file of the root, which nobody can write to in the end: a mount for each would take longer.
            let data = all.data(lines.as_bytes())?;
            all.add(["--perms", "0644", "--file", &data, path]);
        }
        all.add(["--proc", "/proc", "--dev", "/dev"]);
        for path in SECRETS.iter().filter(|path| Path::new(path).exists()) {
            // A device that cannot be opened there.
            all.add(["--ro-bind", "/dev/null", path]);
        }
        // Else `/dev` and `/dev/shm` could be filled until the host is.
        all.add(["--size", &SHARED_MEMORY.to_string(), "--tmpfs", "/dev/shm"]);
        all.add(["--remount-ro", "/dev"]);
        let size = folder_size(&spec.limits).to_string();
        all.add(["--perms", "0700", "--size", &size, "--tmpfs", WORK]);
        // One limit for all places that programs write to.
        let scratch = format!("{WORK}/.tmp");
        all.add(["--dir", &scratch, "--dir", "/var", "--symlink", &scratch, "/var/tmp"]);
        match spec.read_only.iter().any(|path| path.starts_with("/tmp")) {
            false => all.add(["--symlink", &scratch, "/tmp"]),
            // Then it must be a folder, and has the same limit for itself.
            true => all.add(["--perms", "0700", "--size", &size, "--tmpfs", "/tmp"]),
        }
        for path in &spec.read_only {
            bind(&mut all, path, path)?;
        }
        for (path, inside) in &spec.shown {
            bind(&mut all, path, inside)?;
        }
        bring(&mut all, &spec.work_folder, &spec.files)?;
        let folder = spec.start_in.as_deref().unwrap_or(Path::new(WORK));
        all.add([OsStr::new("--chdir"), folder.as_os_str()]);
        all.add(["--remount-ro", "/"]);
        for (name, value) in variables(spec) {
            all.add(["--setenv", &name, &value]);
        }
        let strictness = Strictness { namespaces: true, user: true, shared_memory: has_cgroup };
        let filters = filter::filters(strictness).map_err(io::Error::other)?;
        for filter in &filters {
            let data = all.data(&filter::bytes(filter))?;
            all.add(["--add-seccomp-fd", &data]);
        }
        Ok(all)
    }
}

/// Shows it something of the host.
fn bind(all: &mut Arguments, path: &Path, inside: &Path) -> io::Result<()> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    if path.starts_with("/usr") {
        return Ok(());
    }
    if !path.is_absolute() || path.parent().is_none() {
        let text = format!("`{}` is not a path that can be shown to it", path.display());
        return Err(io::Error::other(text));
    }
    let is_folder = path.metadata().map_err(named)?.is_dir();
    if !geteuid().is_root() || is_open(path) {
        all.add([OsStr::new("--ro-bind"), path.as_os_str(), inside.as_os_str()]);
        return Ok(());
    }
    // Root can read it, and who bubblewrap runs as cannot get there.
    let stage = STAGES.iter().find(|stage| Path::new(stage).is_dir() && !path.starts_with(stage));
    let stage = *stage.ok_or_else(|| io::Error::other("no folder to mount a runtime over"))?;
    let target = format!("{stage}/{}", all.exposed.mounts.len());
    all.exposed.stage = Some(text(stage.as_bytes()));
    let mount = (text(path.as_os_str().as_bytes()), text(target.as_bytes()), is_folder);
    all.exposed.mounts.push(mount);
    all.add([OsStr::new("--ro-bind"), OsStr::new(&target), inside.as_os_str()]);
    Ok(())
}

/// Folders that nothing a program needs is below, one of which is there.
const STAGES: [&str; 3] = ["/mnt", "/media", "/srv"];

/// Whether everybody may enter every folder above it.
pub(crate) fn is_open(path: &Path) -> bool {
    path.ancestors().skip(1).all(|folder| {
        folder.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0)
    })
}

/// Waits inside until we have taken hold of it: says so, and goes on when it is
/// answered. Nothing of the program's was executed before.
const WAIT_INSIDE: [&str; 4] =
    ["/bin/sh", "-c", "echo >&3; read -r go <&3; exec 3>&-; exec \"$@\"", "sh"];

/// The user it becomes, if this process is root.
pub(crate) fn take_identity(spec: &ProgramSpec) -> Result<Option<Identity>, StartError> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let full = || io::Error::other("606 programs are running, each as a user of its own");
    let taken = Identity::take().ok_or_else(full);
    taken.map(Some).map_err(|e| StartError::system(spec, "no user is left for it", e))
}

/// Lets that user open its own streams by `/dev/stdout` and the like.
pub(crate) fn give(streams: &Ends, id: u32) -> io::Result<()> {
    for fd in [&streams.stdin, &streams.stdout, &streams.stderr] {
        fchown(fd, Some(Uid::from_raw(id)), Some(Gid::from_raw(id)))?;
    }
    Ok(())
}

/// What each of its processes is held to.
pub(crate) fn limits(spec: &ProgramSpec, has_cgroup: bool, own_user: bool) -> Vec<(Resource, u64)> {
    let limits = &spec.limits;
    let seconds = limits.cpu.duration().as_secs() + 2;
    let mut all = vec![
        (Resource::Core, 0),
        // Only if nobody watches any more: it would be one signal too many.
        (Resource::Cpu, seconds),
        (Resource::FileSize, limits.file.min(limits.folder).bytes()),
        (Resource::LockedMemory, 64 << 10),
        (Resource::MessageQueues, 0),
        (Resource::OpenFiles, limits.open_files.into()),
        // Of all runs of one user together, if they have the same; timers, too.
        (Resource::PendingSignals, PENDING_SIGNALS),
    ];
    if own_user {
        // Bubblewrap's two are among them. A cgroup counts as well, and says
        // when it refused one, so that it shall be the first to.
        let room = if has_cgroup { 4 } else { 2 };
        all.push((Resource::Processes, u64::from(limits.processes) + room));
    }
    if !has_cgroup {
        all.push((Resource::Data, limits.memory.bytes()));
    }
    all
}

/// The system's programs and libraries, laid out as they are outside.
fn system(all: &mut Arguments) -> io::Result<()> {
    all.add(["--ro-bind", "/usr", "/usr"]);
    for folder in ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"] {
        let path = Path::new(folder);
        match fs::read_link(path) {
            Ok(target) => {
                all.add([OsStr::new("--symlink"), target.as_os_str(), path.as_os_str()]);
            }
            Err(_) if path.is_dir() => all.add(["--ro-bind", folder, folder]),
            Err(_) => {}
        }
    }
    for path in SETTINGS {
        all.add(["--ro-bind-try", path, path]);
    }
    Ok(())
}

/// Copies what the caller has put in the work folder.
fn bring(all: &mut Arguments, folder: &Path, besides: &[(PathBuf, Bytes)]) -> io::Result<()> {
    let mut waiting = vec![PathBuf::new()];
    let mut files = besides.len();
    while let Some(below) = waiting.pop() {
        for entry in fs::read_dir(folder.join(&below))? {
            let entry = entry?;
            let name = below.join(entry.file_name());
            let inside = Path::new(WORK).join(&name);
            let kind = entry.file_type()?;
            if kind.is_dir() {
                all.add([OsStr::new("--dir"), inside.as_os_str()]);
                waiting.push(name);
                continue;
            }
            if !kind.is_file() {
                return Err(io::Error::other(format!(
                    "{} in the work folder is neither a file nor a folder",
                    name.display()
                )));
            }
            files += 1;
            if files > MOST_FILES {
                let text = format!("the work folder has more than {MOST_FILES} files");
                return Err(io::Error::other(text));
            }
            // Whoever wrote the file may not swap it for a link meanwhile.
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = open(entry.path(), flags, Mode::empty())?;
            let mode = entry.metadata()?.permissions().mode() & 0o111 | 0o644;
            let number = all.keep(file)?;
            all.add(["--perms", &format!("{mode:04o}"), "--file", &number]);
            all.add([inside.as_os_str()]);
        }
    }
    if files > MOST_FILES {
        let text = format!("the work folder has more than {MOST_FILES} files");
        return Err(io::Error::other(text));
    }
    for (path, bytes) in besides {
        let number = all.data(bytes)?;
        all.add(["--perms", "0644", "--file", &number]);
        all.add([Path::new(WORK).join(path).as_os_str()]);
    }
    Ok(())
}

/// The environment inside: nothing of this process's.
pub(crate) fn variables(spec: &ProgramSpec) -> BTreeMap<String, String> {
    let own = [
        ("HOME", WORK),
        ("LANG", "C.UTF-8"),
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("PYTHONUNBUFFERED", "1"),
        ("TMPDIR", "/tmp"),
        ("USER", "nobody"),
    ];
    let mut all: BTreeMap<String, String> =
        own.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    if spec.terminal.is_some() {
        all.insert("TERM".to_owned(), "xterm-256color".to_owned());
    }
    all.extend(spec.environment.clone());
    all
}
