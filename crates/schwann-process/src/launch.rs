//! How a program is started: what happens between this process and its `exec`.
//!
//! The standard library would fork as soon as a user, a session or a closed
//! descriptor is asked for, and a fork copies the page tables: 20 ms with a
//! heap of 1 GB. Here the child shares this process's memory until it execs,
//! as `posix_spawn` does it, and makes nothing but system calls.
//!
//! All programs are started by one thread that never ends. `PR_SET_PDEATHSIG`
//! means the death of the *thread* that started a child (prctl(2)), so a child
//! of a pool's thread would be killed when the pool shrinks.

#![expect(unsafe_code, reason = "between clone and exec there is nothing safe")]

use std::{
    ffi::{CString, c_char, c_int, c_void},
    fmt, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
    sync::OnceLock,
    thread,
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_send_signal, waitid},
};
use seccompiler::{BpfProgram, sock_filter};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use crate::{Exit, survivor};

/// A program that is to be started. It leads a session of its own, with every
/// signal at its default, and nothing of this process's but what is named here.
#[derive(Debug)]
pub(crate) struct Launch {
    /// What is executed.
    pub(crate) program: CString,
    /// Its arguments, its own name first.
    pub(crate) arguments: Vec<CString>,
    /// Its whole environment, as `NAME=value`.
    pub(crate) environment: Vec<CString>,
    /// The folder it starts in.
    pub(crate) folder: Option<CString>,
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    /// Descriptors that it keeps, under the numbers they have here.
    pub(crate) keep: Vec<OwnedFd>,
    /// A descriptor that it has as its number 3.
    pub(crate) gate: Option<OwnedFd>,
    /// Stdin is a terminal, and shall control its session.
    pub(crate) terminal: bool,
    /// User and group it runs as, without further groups.
    pub(crate) identity: Option<u32>,
    /// Resource limits, soft and hard alike.
    pub(crate) limits: Vec<(Resource, u64)>,
    /// Open `cgroup.procs` files that it writes itself into.
    pub(crate) join: Vec<OwnedFd>,
    /// Folders behind one that only root may enter, made reachable for it.
    pub(crate) exposed: Exposed,
    /// It goes on when this process dies.
    pub(crate) outlives: bool,
    /// All of its process group is killed when this process dies, however that
    /// is, and from before it is another program.
    pub(crate) watched: bool,
    /// Restrictions that it puts on itself at last.
    pub(crate) confinement: Confinement,
}

/// What a program can never again get rid of.
#[derive(Debug, Default)]
pub(crate) struct Confinement {
    /// A landlock ruleset.
    pub(crate) ruleset: Option<OwnedFd>,
    /// System call filters.
    pub(crate) filters: Vec<BpfProgram>,
}

/// Folders and files that are mounted elsewhere for a program that is not root
/// any more. Nobody but it sees these mounts.
#[derive(Debug, Default)]
pub(crate) struct Exposed {
    /// A folder that an empty one is mounted over.
    pub(crate) stage: Option<CString>,
    /// What is mounted below it, where, and whether it is a folder.
    pub(crate) mounts: Vec<(CString, CString, bool)>,
}

/// A limit of setrlimit(2).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Resource {
    Core,
    Cpu,
    Data,
    FileSize,
    LockedMemory,
    MessageQueues,
    OpenFiles,
    PendingSignals,
    Processes,
}

impl Resource {
    const fn raw(self) -> c_int {
        (match self {
            Self::Core => libc::RLIMIT_CORE,
            Self::Cpu => libc::RLIMIT_CPU,
            Self::Data => libc::RLIMIT_DATA,
            Self::FileSize => libc::RLIMIT_FSIZE,
            Self::LockedMemory => libc::RLIMIT_MEMLOCK,
            Self::MessageQueues => libc::RLIMIT_MSGQUEUE,
            Self::OpenFiles => libc::RLIMIT_NOFILE,
            Self::PendingSignals => libc::RLIMIT_SIGPENDING,
            Self::Processes => libc::RLIMIT_NPROC,
        }) as c_int
    }
}

/// What a child was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Clone,
    Session,
    Folder,
    Streams,
    Descriptors,
    Cgroup,
    Runtime,
    Limits,
    Identity,
    Lifeline,
    Landlock,
    Filter,
    Exec,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clone => "no process can be made",
            Self::Session => "it gets no session of its own",
            Self::Folder => "its folder cannot be entered",
            Self::Streams => "its streams cannot be set up",
            Self::Descriptors => "this process's descriptors cannot be kept from it",
            Self::Cgroup => "it cannot join its cgroup",
            Self::Runtime => "the folders of its runtime cannot be mounted for it",
            Self::Limits => "its resource limits cannot be set",
            Self::Identity => "it cannot become another user",
            Self::Lifeline => "its life cannot be bound to this process",
            Self::Landlock => "landlock cannot be put on it",
            Self::Filter => "its system calls cannot be filtered",
            Self::Exec => "it cannot be executed",
        })
    }
}

/// Why a program was not started.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub(crate) struct LaunchError {
    pub(crate) step: Step,
    pub(crate) source: io::Error,
}

/// A program that was started. Dropping it kills its process group and reaps it.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    reaped: bool,
    watched: bool,
}

/// How a program ended, and what it took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reaped {
    pub(crate) exit: Exit,
    /// Time on a processor, of it and of every descendant that was waited for.
    pub(crate) cpu: Duration,
    /// The most memory that any one of them held, in bytes.
    pub(crate) max_rss: u64,
}

impl Child {
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Kills it and its process group.
    pub(crate) fn kill(&self) {
        if !self.reaped {
            // Errors would be ESRCH, and then there is nobody left. The number
            // of the group is its own until it was reaped.
            let _ = kill_process_group(self.pid, Signal::KILL);
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        }
    }

    /// Sends a signal to its process group.
    pub(crate) fn signal_group(&self, signal: Signal) {
        if !self.reaped {
            let _ = kill_process_group(self.pid, signal);
        }
    }

    /// Takes note of its end, waiting for it if need be. The group's number
    /// is not its own any more.
    pub(crate) fn reap(&mut self) -> Reaped {
        if self.watched && !self.reaped {
            // Until it is reaped, nobody else can have the number. Who was
            // started by it and is left has nobody to watch it after this.
            let mine = WaitId::PidFd(self.pidfd.as_fd());
            let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while matches!(waitid(mine.clone(), ended), Err(Errno::INTR)) {}
            self.kill();
            survivor::remove(self.pid.as_raw_nonzero().get());
        }
        self.reaped = true;
        let mut status = 0;
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        loop {
            // SAFETY: both pointers are to places that live through the call.
            let done = unsafe {
                libc::wait4(self.pid.as_raw_nonzero().get(), &mut status, 0, usage.as_mut_ptr())
            };
            if done >= 0 {
                break;
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                warn!(%error, "cannot reap a program");
                let exit = Exit::Signal(libc::SIGKILL);
                return Reaped { exit, cpu: Duration::ZERO, max_rss: 0 };
            }
        }
        // SAFETY: a `rusage` is integers, and was zeroed.
        let usage = unsafe { usage.assume_init() };
        let exit = Exit::from_status(status);
        let time = |time: libc::timeval| {
            Duration::new(time.tv_sec.unsigned_abs(), time.tv_usec.unsigned_abs() as u32 * 1000)
        };
        let cpu = time(usage.ru_utime) + time(usage.ru_stime);
        Reaped { exit, cpu, max_rss: usage.ru_maxrss.unsigned_abs() << 10 }
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        self.kill();
        self.reaped = true;
        let (pid, pidfd, watched) = (self.pid, self.pidfd.try_clone(), self.watched);
        // SIGKILL is certain but not instant, and whoever drops this may be
        // the one thread that everything else waits for.
        if let Ok(pidfd) = pidfd {
            thread::spawn(move || Self { pid, pidfd, reaped: false, watched }.reap());
        }
    }
}

/// What the thread that starts programs is told.
enum Order {
    Start(Box<Launch>, oneshot::Sender<Result<Child, LaunchError>>),
    LookAfterSurvivor,
}

/// Starts a program.
///
/// # Cancellation
///
/// If the future is dropped, the program is killed as soon as it was started.
pub(crate) async fn launch(launch: Launch) -> Result<Child, LaunchError> {
    let gone = || LaunchError { step: Step::Clone, source: io::Error::other("no starter") };
    let (reply, started) = oneshot::channel();
    starter().send(Order::Start(Box::new(launch), reply)).await.map_err(|_| gone())?;
    started.await.map_err(|_| gone())?
}

/// Has somebody watch the programs that run, if nobody does any more.
pub(crate) fn look_after_survivor() {
    // Without room in the queue there are programs to be started, and that looks after it as well.
    let _ = starter().try_send(Order::LookAfterSurvivor);
}

fn starter() -> &'static mpsc::Sender<Order> {
    static STARTER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    STARTER.get_or_init(|| {
        let (orders, mut queue) = mpsc::channel::<Order>(64);
        let serve = move || {
            block_signals();
            while let Some(order) = queue.blocking_recv() {
                match order {
                    // A child that nobody takes is killed by being dropped.
                    Order::Start(launch, reply) => drop(reply.send(start(&launch))),
                    Order::LookAfterSurvivor => survivor::revive(),
                }
            }
        };
        let thread = thread::Builder::new().name("starts-programs".into()).spawn(serve);
        if let Err(error) = thread {
            warn!(%error, "cannot start the thread that starts programs");
        }
        orders
    })
}

/// Keeps signals from this thread, and so from a child that is not yet itself.
fn block_signals() {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: a set of signals on this stack, filled before it is used.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), ptr::null_mut());
    }
}

/// Room for the child until it execs, in bytes.
const STACK: usize = 64 << 10;

/// Everything the child needs, in the form that system calls take. It lives
/// in memory that parent and child share, so nothing is allocated after.
struct Plan {
    program: *const c_char,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    folder: *const c_char,
    streams: [c_int; 3],
    keep: *const [c_int],
    gate: c_int,
    terminal: bool,
    identity: Option<u32>,
    limits: *const [(Resource, u64)],
    join: *const [c_int],
    stage: *const c_char,
    mounts: *const [(CString, CString, bool)],
    outlives: bool,
    watched_by: c_int,
    ruleset: c_int,
    filters: *const [FilterProgram],
    parent: libc::pid_t,
    /// Where it failed and why, if it did.
    failed: Option<(Step, c_int)>,
}

/// `struct sock_fprog` of linux/filter.h.
#[repr(C)]
struct FilterProgram {
    len: u16,
    filter: *const sock_filter,
}

/// Array of C strings with the null at its end.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
}

/// A copy of a descriptor with a number out of the way of 0, 1 and 2.
fn aside(fd: &OwnedFd) -> Result<OwnedFd, LaunchError> {
    rustix::io::fcntl_dupfd_cloexec(fd, 10)
        .map_err(|source| LaunchError { step: Step::Streams, source: source.into() })
}

/// Starts a program, by this thread, whose end would be the program's.
pub(crate) fn start(launch: &Launch) -> Result<Child, LaunchError> {
    match try_start(launch) {
        // Who watches ended, or was stopped, a moment ago.
        Err(LaunchError { step: Step::Lifeline, source })
            if launch.watched
                && matches!(source.raw_os_error(), Some(libc::EPIPE | libc::EAGAIN)) =>
        {
            try_start(launch)
        }
        done => done,
    }
}

fn try_start(launch: &Launch) -> Result<Child, LaunchError> {
    let watched_by = if launch.watched { survivor::ready()? } else { -1 };
    let streams = [aside(&launch.stdin)?, aside(&launch.stdout)?, aside(&launch.stderr)?];
    let gate = launch.gate.as_ref().map(aside).transpose()?;
    let arguments = pointers(&launch.arguments);
    let environment = pointers(&launch.environment);
    let keep: Vec<c_int> = launch.keep.iter().map(AsRawFd::as_raw_fd).collect();
    let join: Vec<c_int> = launch.join.iter().map(AsRawFd::as_raw_fd).collect();
    let filters: Vec<FilterProgram> = launch
        .confinement
        .filters
        .iter()
        .map(|filter| FilterProgram { len: filter.len() as u16, filter: filter.as_ptr() })
        .collect();
    let mut plan = Plan {
        program: launch.program.as_ptr(),
        arguments: arguments.as_ptr(),
        environment: environment.as_ptr(),
        folder: launch.folder.as_ref().map_or(ptr::null(), |folder| folder.as_ptr()),
        streams: [streams[0].as_raw_fd(), streams[1].as_raw_fd(), streams[2].as_raw_fd()],
        keep: &raw const *keep,
        gate: gate.as_ref().map_or(-1, AsRawFd::as_raw_fd),
        terminal: launch.terminal,
        identity: launch.identity,
        limits: &raw const *launch.limits,
        join: &raw const *join,
        stage: launch.exposed.stage.as_ref().map_or(ptr::null(), |stage| stage.as_ptr()),
        mounts: &raw const *launch.exposed.mounts,
        outlives: launch.outlives,
        watched_by,
        ruleset: launch.confinement.ruleset.as_ref().map_or(-1, AsRawFd::as_raw_fd),
        filters: &raw const *filters,
        parent: std::process::id() as libc::pid_t,
        failed: None,
    };
    // In 16-byte units, as the ABI wants the top of a stack aligned.
    let mut stack = vec![0_u128; STACK / 16];
    let mut pidfd: c_int = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    // CLONE_VFORK keeps this thread here until the child has exec'd or exited,
    // so that the stack, `plan` and all it points to outlive the child's use of
    // them, and nobody else refers to them. With CLONE_PIDFD the fifth argument
    // is where the descriptor is put (clone(2)).
    // SAFETY: `child` runs on `stack`, of which this is the end, as stacks grow
    // down on all architectures of this crate; see above for how long it lives.
    let pid = unsafe {
        libc::clone(
            child,
            stack.as_mut_ptr().add(stack.len()).cast(),
            flags,
            (&raw mut plan).cast::<c_void>(),
            &raw mut pidfd,
        )
    };
    let fail = |step, source| Err(LaunchError { step, source });
    if pid < 0 {
        return fail(Step::Clone, io::Error::last_os_error());
    }
    let pid = Pid::from_raw(pid).expect("a child has a number");
    // SAFETY: the kernel has just opened it for this process, and it is
    // written down nowhere else.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let mut child = Child { pid, pidfd, reaped: false, watched: launch.watched };
    // SAFETY: a live local; read as what another process may have written.
    match unsafe { ptr::read_volatile(&raw const plan.failed) } {
        None => {
            if launch.watched {
                survivor::add(pid.as_raw_nonzero().get());
            }
            Ok(child)
        }
        Some((step, errno)) => {
            child.reap();
            fail(step, io::Error::from_raw_os_error(errno))
        }
    }
}

/// The child's life until it is another program. It shares all memory with
/// the parent, whose starting thread stands still: it must not allocate, lock
/// or panic, and calls the kernel directly wherever glibc would do more than
/// that (for `setresuid` glibc asks all threads to do the same).
extern "C" fn child(plan: *mut c_void) -> c_int {
    // SAFETY: `start` gave a `Plan` that nobody else touches meanwhile.
    let plan = unsafe { &mut *plan.cast::<Plan>() };
    let Err(step) = become_program(plan);
    plan.failed = Some((step, errno()));
    127
}

fn errno() -> c_int {
    // SAFETY: glibc and musl give a pointer that is good in this thread.
    unsafe { *libc::__errno_location() }
}

/// A system call's result as ours.
fn done(result: impl Into<i64>, step: Step) -> Result<(), Step> {
    if result.into() < 0 { Err(step) } else { Ok(()) }
}

/// What says that a group is to be watched, from this place on.
fn line_of(mut number: u32) -> ([u8; 13], usize) {
    let mut line = [b'\n'; 13];
    let mut from = line.len() - 1;
    loop {
        from -= 1;
        line[from] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            from -= 2;
            line[from..from + 2].copy_from_slice(b"+ ");
            return (line, from);
        }
    }
}

fn become_program(plan: &Plan) -> Result<std::convert::Infallible, Step> {
    // SAFETY: for the whole function: every pointer is into memory that
    // `start` keeps alive, every descriptor number is open in the parent and
    // so in this copy of its table, and the calls change this process only.
    unsafe {
        // Handlers of the parent must not run here, and ignored signals must
        // not stay ignored. The numbers that libc keeps for itself fail.
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        done(libc::setsid(), Step::Session)?;
        if plan.watched_by >= 0 {
            let (line, from) = line_of(libc::getpid().unsigned_abs());
            let line = &line[from..];
            let wrote = libc::write(plan.watched_by, line.as_ptr().cast(), line.len());
            done(wrote as i64, Step::Lifeline)?;
        }
        if !plan.folder.is_null() {
            done(libc::chdir(plan.folder), Step::Folder)?;
        }
        for (number, fd) in (0..).zip(plan.streams) {
            done(libc::dup2(fd, number), Step::Streams)?;
        }
        if plan.terminal {
            done(libc::ioctl(0, libc::TIOCSCTTY, 0), Step::Session)?;
        }
        for fd in &*plan.join {
            // "0" is whoever writes it (cgroups(7)).
            done(libc::write(*fd, c"0".as_ptr().cast(), 1) as i64, Step::Cgroup)?;
        }
        if !plan.stage.is_null() {
            expose(plan)?;
        }
        let closed =
            libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        done(closed, Step::Descriptors)?;
        for fd in &*plan.keep {
            done(libc::fcntl(*fd, libc::F_SETFD, 0), Step::Descriptors)?;
        }
        // Nothing else is needed by that number any more: what is kept is
        // above it, and the ruleset belongs to a sandbox without a gate.
        if plan.gate >= 0 {
            done(libc::dup2(plan.gate, 3), Step::Descriptors)?;
        }
        for (resource, most) in &*plan.limits {
            let limit = libc::rlimit64 { rlim_cur: *most, rlim_max: *most };
            let set = libc::syscall(
                libc::SYS_prlimit64,
                0,
                resource.raw(),
                &raw const limit,
                ptr::null::<c_void>(),
            );
            done(set, Step::Limits)?;
        }
        // Capabilities of a service that is not root would be passed on.
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        if let Some(id) = plan.identity {
            let none = ptr::null::<libc::gid_t>();
            done(libc::syscall(libc::SYS_setgroups, 0_usize, none), Step::Identity)?;
            done(libc::syscall(libc::SYS_setresgid, id, id, id), Step::Identity)?;
            done(libc::syscall(libc::SYS_setresuid, id, id, id), Step::Identity)?;
        }
        // After the change of user, which would undo it (prctl(2)).
        let signal = if plan.outlives { 0 } else { libc::SIGKILL };
        done(libc::prctl(libc::PR_SET_PDEATHSIG, signal, 0, 0, 0), Step::Lifeline)?;
        if libc::getppid() != plan.parent {
            *libc::__errno_location() = libc::ESRCH;
            return Err(Step::Lifeline);
        }
        if plan.ruleset >= 0 || !(&*plan.filters).is_empty() {
            done(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), Step::Landlock)?;
        }
        if plan.ruleset >= 0 {
            let on = libc::syscall(libc::SYS_landlock_restrict_self, plan.ruleset, 0);
            done(on, Step::Landlock)?;
        }
        let mut none = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
        libc::sigemptyset(none.as_mut_ptr());
        let unblocked = libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
        done(unblocked, Step::Session)?;
        for filter in &*plan.filters {
            let on = libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                0,
                ptr::from_ref(filter),
            );
            done(on, Step::Filter)?;
        }
        libc::execve(plan.program, plan.arguments, plan.environment);
    }
    Err(Step::Exec)
}

/// Mounts folders where another user can reach them, for this process alone.
///
/// # Safety
///
/// As in `become_program`, which calls it.
unsafe fn expose(plan: &Plan) -> Result<(), Step> {
    let none = ptr::null::<c_char>();
    // SAFETY: the strings live in the parent, which waits.
    unsafe {
        done(libc::unshare(libc::CLONE_NEWNS), Step::Runtime)?;
        let private = libc::MS_REC | libc::MS_PRIVATE;
        done(libc::mount(none, c"/".as_ptr(), none, private, ptr::null()), Step::Runtime)?;
        let plain = libc::MS_NOSUID | libc::MS_NODEV;
        let (kind, options) = (c"tmpfs".as_ptr(), c"mode=755,size=64k".as_ptr().cast());
        done(libc::mount(kind, plan.stage, kind, plain, options), Step::Runtime)?;
        for (source, target, is_folder) in &*plan.mounts {
            if *is_folder {
                done(libc::mkdir(target.as_ptr(), 0o755), Step::Runtime)?;
            } else {
                let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_CLOEXEC;
                done(libc::open(target.as_ptr(), flags, 0o644), Step::Runtime)?;
            }
            let bind = libc::MS_BIND | libc::MS_REC;
            let mounted = libc::mount(source.as_ptr(), target.as_ptr(), none, bind, ptr::null());
            done(mounted, Step::Runtime)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_lines() {
        for number in [0, 7, 10, 4_194_304, u32::MAX] {
            let (line, from) = line_of(number);
            assert_eq!(line[from..], *format!("+ {number}\n").as_bytes());
        }
    }
}
