//! The processes of one run, whichever way they were started.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags, fstatvfs, open},
    process::{
        Pid, PidfdFlags, Resource, Rlimit, Signal, kill_process_group, pidfd_open,
        pidfd_send_signal, prlimit, test_kill_process_group,
    },
};
use tokio::{
    io::unix::AsyncFd,
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use crate::{
    Exit, Limits, Reason,
    bubblewrap::WORK,
    cgroup::Cgroup,
    exit_status::exit_status,
    identity::Identity,
    landlocked::Cell,
    launch::Child,
    run_folder::{MOST_ENTRIES, is_larger},
    supervisor::watch_fd,
    terminal::Stream,
    watchdog::{self, Usage, Who},
};

/// All processes of one run. Dropping it kills them.
#[derive(Debug)]
pub(crate) struct Tree {
    child: Child,
    exited: Arc<AsyncFd<OwnedFd>>,
    /// The folder whose size nobody but us holds to a limit.
    folder: Option<PathBuf>,
    /// What was seen last.
    seen: Usage,
    /// Time on processors of those who ended unseen, with nobody to wait for
    /// them: it is in no account any more.
    lost: Duration,
    jail: Option<Jail>,
    /// Dropped after the processes: the cgroup is empty then, and the user
    /// is nobody's.
    cgroup: Option<Cgroup>,
    _identity: Option<Identity>,
    /// Kept until all of it is gone.
    cell: Option<Cell>,
}

/// What is particular to a bubblewrap.
#[derive(Debug)]
pub(crate) struct Jail {
    /// What it says of its state, as JSON.
    status: Arc<Stream>,
    said: Vec<u8>,
    /// It says no more.
    silent: bool,
    /// The sandbox's process 1. With it everybody inside dies.
    init: Option<Init>,
    /// Where the program waits, until it was let through.
    gate: Option<Gate>,
    /// The program itself, and its work folder.
    held: Option<Held>,
    cgroup: Option<Cgroup>,
    identity: Option<Identity>,
}

/// What the program says and hears before it begins.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) stream: Arc<Stream>,
    /// How many processes there may be in the sandbox, if nobody else counts.
    pub(crate) processes: Option<u64>,
}

/// What tells how a program ended, though somebody else waits for it.
#[derive(Debug)]
struct Held {
    pidfd: OwnedFd,
    /// Its file system is there as long as this is.
    folder: OwnedFd,
}

#[derive(Debug)]
struct Init {
    pid: Pid,
    pidfd: OwnedFd,
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
    /// There was no room left in its folder.
    pub(crate) folder_is_full: bool,
}

/// Longest wait for a sandbox to begin, or to be gone after it was killed.
const PATIENCE: Duration = Duration::from_secs(5);

impl Jail {
    pub(crate) fn new(
        status: Arc<Stream>,
        gate: Gate,
        cgroup: Option<Cgroup>,
        identity: Option<Identity>,
    ) -> Self {
        Self {
            status,
            said: Vec::new(),
            silent: false,
            init: None,
            gate: Some(gate),
            held: None,
            cgroup,
            identity,
        }
    }

    /// Listens to what the sandbox says of its beginning. Cancel-safe.
    async fn listen(&mut self) {
        let (init, Some(gate)) = (&self.init, &self.gate) else { return };
        let Some(init) = init else {
            self.said.reserve(1024);
            match self.status.read(&mut self.said).await {
                Ok(1..) => self.look(),
                Ok(0) | Err(_) => self.silent = true,
            }
            return;
        };
        let mut knock = Vec::with_capacity(8);
        match gate.stream.read(&mut knock).await {
            Ok(1..) => {
                match Held::take(init, gate.processes) {
                    Ok(held) => self.held = Some(held),
                    // Then there is less to tell of its end.
                    Err(error) => warn!(%error, "cannot take hold of a program in its sandbox"),
                }
                // It never has more than this to read, so there is room.
                if let Err(error) = gate.stream.write_now(b"\n") {
                    debug!(%error, "a program ended before it began");
                }
                self.gate = None;
            }
            Ok(0) | Err(_) => self.silent = true,
        }
    }

    /// The number after a name in what it said.
    fn said(&self, name: &str) -> Option<i32> {
        let text = std::str::from_utf8(&self.said).ok()?;
        let (_, rest) = text.split_once(&format!("\"{name}\":"))?;
        let rest = rest.trim_start();
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        rest[..end].parse().ok()
    }

    /// Takes note of its process 1, once it was named. It comes in several
    /// writes.
    fn look(&mut self) {
        if self.init.is_none()
            && let Some(pid) = self.said("child-pid").and_then(Pid::from_raw)
        {
            match pidfd_open(pid, PidfdFlags::NONBLOCK) {
                Ok(pidfd) => self.init = Some(Init { pid, pidfd }),
                // It has ended already.
                Err(_) => self.silent = true,
            }
        }
    }
}

impl Held {
    /// The one child of process 1, which waits for us.
    fn take(init: &Init, processes: Option<u64>) -> io::Result<Self> {
        let pid = init.pid.as_raw_nonzero();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let child = children.split_ascii_whitespace().next().and_then(|pid| pid.parse().ok());
        let child = child.and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
        let pidfd = pidfd_open(child, PidfdFlags::NONBLOCK)?;
        let inside = format!("/proc/{}/root{WORK}", child.as_raw_nonzero());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = open(inside, flags, Mode::empty())?;
        if let Some(most) = processes {
            let most = Rlimit { current: Some(most), maximum: Some(most) };
            prlimit(Some(child), Resource::Nproc, most)?;
        }
        Ok(Self { pidfd, folder })
    }

    /// Whether there is no room left in its folder.
    fn is_full(&self) -> bool {
        fstatvfs(&self.folder).is_ok_and(|all| all.f_bavail == 0)
    }

    /// Whether there are more files than may be: its size is the file system's
    /// own limit, but they take the kernel's memory.
    fn has_too_many(&self) -> bool {
        fstatvfs(&self.folder)
            .is_ok_and(|all| all.f_files.saturating_sub(all.f_ffree) > MOST_ENTRIES as u64)
    }
}

impl Tree {
    /// A program without a sandbox, and the folder it writes to.
    pub(crate) fn plain(child: Child, folder: PathBuf) -> io::Result<Self> {
        let exited = Arc::new(watch_fd(child.as_fd().try_clone_to_owned()?)?);
        Ok(Self {
            child,
            exited,
            folder: Some(folder),
            seen: Usage::default(),
            lost: Duration::ZERO,
            jail: None,
            cgroup: None,
            _identity: None,
            cell: None,
        })
    }

    /// A program in a sandbox of its own.
    pub(crate) fn jailed(child: Child, mut jail: Jail) -> io::Result<Self> {
        let exited = Arc::new(watch_fd(child.as_fd().try_clone_to_owned()?)?);
        let (cgroup, identity) = (jail.cgroup.take(), jail.identity.take());
        Ok(Self {
            child,
            exited,
            folder: None,
            seen: Usage::default(),
            lost: Duration::ZERO,
            jail: Some(jail),
            cgroup,
            _identity: identity,
            cell: None,
        })
    }

    /// A program under rules of landlock.
    pub(crate) fn ruled(child: Child, mut cell: Cell) -> io::Result<Self> {
        let mut tree = Self::plain(child, cell.folder.path().to_owned())?;
        tree.cgroup = cell.cgroup.take();
        tree._identity = cell.identity.take();
        tree.cell = Some(cell);
        Ok(tree)
    }

    /// Whether the program has not begun yet.
    pub(crate) fn is_starting(&self) -> bool {
        self.jail.as_ref().is_some_and(|jail| jail.gate.is_some() && !jail.silent)
    }

    /// Listens to what the sandbox says of its beginning. Cancel-safe.
    pub(crate) async fn listen(&mut self) {
        if let Some(jail) = &mut self.jail {
            jail.listen().await;
        }
    }

    /// Waits until the sandbox can be killed for sure, which is once its first
    /// process is known.
    pub(crate) async fn begun(&mut self) {
        let known = async {
            while self.is_starting() && self.init().is_none() {
                self.listen().await;
            }
        };
        if timeout(Duration::from_secs(1), known).await.is_err() {
            warn!("a sandbox that is to be killed has not begun within 1 s");
        }
    }

    /// Resolves when the program has ended. Cancel-safe.
    pub(crate) fn exited(&self) -> impl Future<Output = ()> + use<> {
        let exited = Arc::clone(&self.exited);
        async move {
            if let Err(error) = exited.readable().await {
                warn!(%error, "cannot wait for a program's end");
            }
        }
    }

    /// Kills all of it, at once.
    pub(crate) fn kill(&self) {
        if let Some(Init { pidfd, .. }) = self.init() {
            // ESRCH if it has ended.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
        self.child.kill();
    }

    fn init(&self) -> Option<&Init> {
        self.jail.as_ref()?.init.as_ref()
    }

    /// Sends a signal to the program and its process group.
    pub(crate) fn signal(&self, signal: Signal) {
        match (&self.jail, self.init()) {
            (None, _) => self.child.signal_group(signal),
            // Bubblewrap itself would die of it and pass nothing on. Inside,
            // process 1 leads the session that the program is in; signals of
            // this kind do not reach a process 1 that has no handler.
            (Some(_), Some(Init { pid, pidfd })) => {
                if pidfd_send_signal(pidfd, Signal::CONT).is_ok() {
                    let _ = kill_process_group(*pid, signal);
                }
            }
            (Some(_), None) => {}
        }
    }

    /// How long until it is looked at again.
    pub(crate) fn pace(&self, limits: &Limits) -> Duration {
        if self.cgroup.is_none() {
            return Duration::from_millis(50);
        }
        // The kernel holds the memory. Time on processors is left for so long
        // at the earliest.
        let cores = thread::available_parallelism().map_or(1, usize::from) as u32;
        let left = limits.cpu.duration().saturating_sub(self.seen.cpu) / cores;
        left.clamp(Duration::from_millis(10), Duration::from_millis(250))
    }

    /// The first limit that it exceeds now.
    pub(crate) fn breach(&mut self, limits: &Limits) -> Option<Reason> {
        let who = match self.cell {
            Some(_) => Who::Group(self.child.pid()),
            None => Who::Descendants(self.child.pid()),
        };
        if let Some(cgroup) = &self.cgroup
            && let Some(cpu) = cgroup.cpu()
        {
            self.seen.cpu = cpu;
            if cgroup.out_of_memory() {
                return Some(Reason::MemoryLimit);
            }
        } else {
            let mut seen = watchdog::usage(who);
            let before = self.seen.cpu.saturating_sub(self.lost);
            self.lost += before.saturating_sub(seen.cpu);
            seen.cpu += self.lost;
            self.seen = seen;
            // Two of them are bubblewrap's own.
            let own = if self.jail.is_some() { 2 } else { 0 };
            if self.seen.processes.saturating_sub(own) > limits.processes {
                return Some(Reason::ProcessLimit);
            }
            let most = limits.memory.bytes();
            if self.cgroup.is_none() && self.seen.memory > most {
                // What forked processes share was counted for each of them.
                let memory = watchdog::exact_memory(who);
                if memory.unwrap_or(self.seen.memory) > most {
                    return Some(Reason::MemoryLimit);
                }
            }
        }
        if self.seen.cpu > limits.cpu.duration() {
            return Some(Reason::CpuLimit);
        }
        let held = self.jail.as_ref().and_then(|jail| jail.held.as_ref());
        let too_large = match &self.folder {
            Some(folder) => is_larger(folder, limits.folder.bytes(), Some(who)),
            None => held.is_some_and(Held::has_too_many),
        };
        too_large.then_some(Reason::FolderLimit)
    }

    /// Waits until nobody is left, having been killed.
    pub(crate) async fn finish(mut self) -> Finished {
        self.exited().await;
        let (mut failed_to_start, mut folder_is_full) = (false, false);
        let mut exit = None;
        if let Some(jail) = &mut self.jail {
            jail.said.reserve(1024);
            while let Ok(Some(1..)) = jail.status.read_now(&mut jail.said) {
                jail.said.reserve(1024);
            }
            jail.look();
            // Only a program that began has one.
            let code = jail.said("exit-code");
            failed_to_start = code.is_none();
            let known = jail.held.as_ref().and_then(|held| exit_status(&held.pidfd));
            // A shell's convention, which bubblewrap follows.
            let told = |code| match code {
                129..=192 => Exit::Signal(code - 128),
                _ => Exit::Code(code),
            };
            exit = known.or(code.map(told));
            folder_is_full = jail.held.as_ref().is_some_and(Held::is_full);
            if let Some(Init { pidfd, .. }) = jail.init.take() {
                let _ = pidfd_send_signal(&pidfd, Signal::KILL);
                gone(pidfd).await;
            }
        }
        let group = self.child.pid();
        let reaped = self.child.reap();
        if self.cell.is_some() {
            scattered(group).await;
        }
        if let Some(Cell { folder, .. }) = self.cell.take() {
            // It may hold many files, and nobody waits for that.
            spawn_blocking(move || drop(folder));
        }
        let cgroup = self.cgroup.as_ref();
        Finished {
            exit: exit.unwrap_or(reaped.exit),
            folder_is_full,
            cpu: cgroup.and_then(Cgroup::cpu).unwrap_or(reaped.cpu.max(self.seen.cpu)),
            max_rss: cgroup.and_then(Cgroup::peak).unwrap_or(reaped.max_rss),
            failed_to_start,
            out_of_memory: cgroup.is_some_and(Cgroup::out_of_memory),
            out_of_processes: cgroup.is_some_and(Cgroup::out_of_processes),
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until a process, and so everybody in its namespace, is gone.
async fn gone(pidfd: OwnedFd) {
    let Ok(watched) = watch_fd(pidfd) else { return };
    if timeout(PATIENCE, watched.readable()).await.is_err() {
        warn!("a sandbox is still there 5 s after it was killed");
    }
}

/// Waits until nobody is left of a process group that was killed.
async fn scattered(group: Pid) {
    // There is no event for the end of a group.
    for _ in 0..400 {
        if test_kill_process_group(group).is_err() || !watchdog::runs(group) {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
    warn!("a process group is still there 2 s after it was killed");
}
