//! A control group for each run: the one thing that bounds a tree of processes.
//!
//! Version 2 where the server's own group may have children with the memory
//! and pids controllers (systemd: `Delegate=yes`), else version 1 where its
//! trees are mounted and may be written, which is as root.

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tracing::{debug, warn};

use crate::Limits;

/// Where groups of runs can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cgroups {
    /// One tree for all.
    Two {
        /// The folder that our groups are made in.
        folder: PathBuf,
    },
    /// A tree for each controller.
    One {
        memory: PathBuf,
        pids: PathBuf,
        /// Not everywhere, and not needed to hold a limit.
        cpu: Option<PathBuf>,
    },
}

/// A run's group. Dropping it removes it, once it is empty.
#[derive(Debug)]
pub(crate) struct Cgroup {
    kind: Kind,
    /// Every folder that was made for it.
    folders: Vec<PathBuf>,
}

#[derive(Debug)]
enum Kind {
    Two { folder: PathBuf },
    One { memory: PathBuf, pids: PathBuf, cpu: Option<PathBuf> },
}

impl Cgroups {
    /// Finds out where groups can be made, by making one.
    ///
    /// # Errors
    ///
    /// What was in the way, for people.
    pub(crate) fn find() -> Result<Self, String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|e| e.to_string())?;
        let own = fs::read_to_string("/proc/self/cgroup").map_err(|e| e.to_string())?;
        let two = Self::two(&mounts, &own);
        let reason = match two {
            Ok(found) => return Ok(found),
            Err(reason) => reason,
        };
        Self::one(&mounts, &own).map_err(|other| match other {
            // Without version 1 the reason is version 2's.
            None => reason,
            Some(other) => format!("{reason}, and {other}"),
        })
    }

    fn two(mounts: &str, own: &str) -> Result<Self, String> {
        let mount = mount(mounts, "cgroup2", None).ok_or("no cgroup version 2 is mounted")?;
        let path = own.lines().find_map(|line| line.strip_prefix("0::"));
        let here = below(&mount, path.unwrap_or("/"));
        let offered = fs::read_to_string(here.join("cgroup.controllers")).unwrap_or_default();
        for controller in ["memory", "pids"] {
            if !offered.split_ascii_whitespace().any(|name| name == controller) {
                return Err(format!(
                    "cgroup version 2 offers no {controller} controller here (systemd: set \
                     Delegate=yes)"
                ));
            }
        }
        // A group that holds processes cannot hand controllers to children,
        // so the server moves into one of its own first.
        let not_ours = |error: io::Error| {
            format!(
                "cgroup {} is not ours to divide: {error} (systemd: set Delegate=yes)",
                here.display()
            )
        };
        let server = here.join("schwann-server");
        if !enable(&here) {
            fs::create_dir_all(&server).map_err(not_ours)?;
            for pid in fs::read_to_string(here.join("cgroup.procs")).unwrap_or_default().lines() {
                // Those that ended meanwhile do not matter.
                let _ = fs::write(server.join("cgroup.procs"), pid);
            }
            if !enable(&here) {
                return Err(not_ours(io::Error::last_os_error()));
            }
        }
        let folder = here.join(format!("schwann-runs-{}", std::process::id()));
        fs::create_dir_all(&folder).map_err(not_ours)?;
        if !enable(&folder) {
            return Err(not_ours(io::Error::last_os_error()));
        }
        remove_old(&here);
        Ok(Self::Two { folder })
    }

    /// None if there is no version 1 here.
    fn one(mounts: &str, own: &str) -> Result<Self, Option<String>> {
        let find = |controller: &str| {
            let mount = mount(mounts, "cgroup", Some(controller))?;
            let path = own.lines().find_map(|line| {
                let (_, rest) = line.split_once(':')?;
                let (controllers, path) = rest.split_once(':')?;
                controllers.split(',').any(|name| name == controller).then_some(path)
            });
            Some(below(&mount, path.unwrap_or("/")))
        };
        let (memory, pids) = find("memory").zip(find("pids")).ok_or(None)?;
        let make = |folder: PathBuf| {
            let ours = folder.join(format!("schwann-runs-{}", std::process::id()));
            remove_old(&folder);
            fs::create_dir_all(&ours)
                .map_err(|error| format!("cgroup {} cannot be made: {error}", ours.display()))
                .map(|()| ours)
        };
        let memory = make(memory)?;
        // So that a run's limit holds for what it may put below it.
        let _ = fs::write(memory.join("memory.use_hierarchy"), "1");
        let cpu = find("cpuacct").and_then(|folder| make(folder).ok());
        Ok(Self::One { memory, pids: make(pids)?, cpu })
    }

    /// Makes a group that holds a run to its limits.
    pub(crate) fn make(&self, limits: &Limits) -> io::Result<Cgroup> {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let name = format!("run-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        // Bubblewrap is in it with two processes of its own.
        let most = (limits.processes + 2).to_string();
        let memory_most = limits.memory.bytes().to_string();
        match self {
            Self::Two { folder } => {
                let folder = folder.join(name);
                fs::create_dir(&folder)?;
                let group = Cgroup {
                    kind: Kind::Two { folder: folder.clone() },
                    folders: vec![folder.clone()],
                };
                fs::write(folder.join("memory.max"), memory_most)?;
                // Absent where there is no swap.
                let _ = fs::write(folder.join("memory.swap.max"), "0");
                // One for all: half a program is of no use.
                fs::write(folder.join("memory.oom.group"), "1")?;
                fs::write(folder.join("pids.max"), most)?;
                Ok(group)
            }
            Self::One { memory, pids, cpu } => {
                let mut group = Cgroup {
                    kind: Kind::One {
                        memory: memory.join(&name),
                        pids: pids.join(&name),
                        cpu: cpu.as_ref().map(|cpu| cpu.join(&name)),
                    },
                    folders: Vec::new(),
                };
                for folder in [Some(memory), Some(pids), cpu.as_ref()].into_iter().flatten() {
                    let folder = folder.join(&name);
                    fs::create_dir(&folder)?;
                    group.folders.push(folder);
                }
                let memory = memory.join(&name);
                fs::write(memory.join("memory.limit_in_bytes"), &memory_most)?;
                // Absent where the kernel does not count swap.
                let _ = fs::write(memory.join("memory.memsw.limit_in_bytes"), memory_most);
                fs::write(pids.join(&name).join("pids.max"), most)?;
                Ok(group)
            }
        }
    }

    /// For people.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Two { .. } => "cgroup v2",
            Self::One { .. } => "cgroup v1",
        }
    }
}

/// Lets children of a group have the controllers; whether they may.
fn enable(folder: &Path) -> bool {
    // The cpu controller is for accounts; without it there are none.
    let _ = fs::write(folder.join("cgroup.subtree_control"), "+cpu");
    fs::write(folder.join("cgroup.subtree_control"), "+memory +pids").is_ok()
}

/// Removes what servers left that were killed.
fn remove_old(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.strip_prefix("schwann-runs-")) else {
            continue;
        };
        if pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists() {
            for run in fs::read_dir(entry.path()).into_iter().flatten().flatten() {
                kill_all(&run.path());
                let _ = fs::remove_dir(run.path());
            }
            if let Err(error) = fs::remove_dir(entry.path()) {
                debug!(%error, folder = %entry.path().display(), "an old cgroup is still there");
            }
        }
    }
}

/// Where a cgroup file system of this type, and with this controller, is mounted.
fn mount(mounts: &str, kind: &str, controller: Option<&str>) -> Option<(PathBuf, String)> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let (found, options) = (after.next()?, after.nth(1)?);
        let has = controller.is_none_or(|name| options.split(',').any(|option| option == name));
        let mut before = before.split(' ');
        let (root, point) = (before.nth(3)?, before.next()?);
        (found == kind && has).then(|| (point.into(), root.to_owned()))
    })
}

/// The folder of a group in a mount that may begin at a group itself, as it
/// does in containers.
fn below((point, root): &(PathBuf, String), path: &str) -> PathBuf {
    let path = path.strip_prefix(root.as_str()).unwrap_or(path);
    point.join(path.trim_start_matches('/'))
}

fn kill_all(folder: &Path) {
    if fs::write(folder.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    // Who forks meanwhile is met in the next round. Who was killed cannot any more, and takes its time to be gone.
    let mut killed = BTreeSet::new();
    for _ in 0..100 {
        let members = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        let mut any = false;
        for pid in members.lines().flat_map(str::parse).filter_map(rustix::process::Pid::from_raw) {
            if killed.insert(pid.as_raw_nonzero()) {
                any |= rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok();
            }
        }
        if !any {
            return;
        }
    }
}

/// The number after a word at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

fn number(file: PathBuf) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

impl Cgroup {
    /// Files that a process writes `0` to in order to join it.
    pub(crate) fn doors(&self) -> io::Result<Vec<OwnedFd>> {
        let open = |folder: &PathBuf| {
            let file = fs::OpenOptions::new().write(true).open(folder.join("cgroup.procs"))?;
            Ok(OwnedFd::from(file))
        };
        self.folders.iter().map(open).collect()
    }

    /// Kills everybody in it.
    pub(crate) fn kill(&self) {
        match &self.kind {
            Kind::Two { folder } => kill_all(folder),
            Kind::One { pids, .. } => kill_all(pids),
        }
    }

    /// Whether the kernel killed one of them for want of memory.
    pub(crate) fn out_of_memory(&self) -> bool {
        let killed = match &self.kind {
            Kind::Two { folder } => fs::read_to_string(folder.join("memory.events")),
            Kind::One { memory, .. } => fs::read_to_string(memory.join("memory.oom_control")),
        };
        killed.is_ok_and(|text| field(&text, "oom_kill ").is_some_and(|count| count > 0))
    }

    /// Whether the kernel refused one of them a process.
    pub(crate) fn out_of_processes(&self) -> bool {
        let folder = match &self.kind {
            Kind::Two { folder } => folder,
            Kind::One { pids, .. } => pids,
        };
        let events = fs::read_to_string(folder.join("pids.events"));
        events.is_ok_and(|text| field(&text, "max ").is_some_and(|count| count > 0))
    }

    /// Time on processors, if it is counted.
    pub(crate) fn cpu(&self) -> Option<Duration> {
        match &self.kind {
            Kind::Two { folder } => {
                let text = fs::read_to_string(folder.join("cpu.stat")).ok()?;
                field(&text, "usage_usec ").map(Duration::from_micros)
            }
            Kind::One { cpu, .. } => {
                number(cpu.as_ref()?.join("cpuacct.usage")).map(Duration::from_nanos)
            }
        }
    }

    /// The most memory that all of them held at once, in bytes.
    pub(crate) fn peak(&self) -> Option<u64> {
        match &self.kind {
            // Since Linux 5.19.
            Kind::Two { folder } => number(folder.join("memory.peak")),
            Kind::One { memory, .. } => number(memory.join("memory.max_usage_in_bytes")),
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.kill();
        let left: Vec<_> =
            self.folders.drain(..).filter(|folder| fs::remove_dir(folder).is_err()).collect();
        if left.is_empty() {
            return;
        }
        // Whoever was just killed is still on its way out, and there is no
        // event for the end of that in version 1.
        std::thread::spawn(move || {
            let patience = rustix::time::Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
            for folder in left {
                for _ in 0..500 {
                    if fs::remove_dir(&folder).is_ok() {
                        break;
                    }
                    kill_all(&folder);
                    let _ = rustix::event::poll(&mut [], Some(&patience));
                }
                if folder.exists() {
                    warn!(folder = %folder.display(), "a cgroup cannot be removed");
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate";

    #[track_caller]
    fn check(kind: &str, controller: Option<&str>, path: &str, expected: Option<&str>) {
        let found = mount(MOUNTS, kind, controller).map(|mount| below(&mount, path));
        assert_eq!(found.as_deref(), expected.map(Path::new));
    }

    #[test]
    fn a_group_is_found_where_its_tree_is_mounted() {
        check("cgroup2", None, "/user.slice/me", Some("/sys/fs/cgroup/unified/user.slice/me"));
        check("cgroup", Some("cpuacct"), "/", Some("/sys/fs/cgroup/cpu,cpuacct/"));
        check("cgroup", Some("memory"), "/docker/abc/x", Some("/sys/fs/cgroup/memory/x"));
        check("cgroup", Some("memory"), "/elsewhere", Some("/sys/fs/cgroup/memory/elsewhere"));
        check("cgroup", Some("pids"), "/", None);
    }

    /// The files of version 2 as a kernel that has delegated them lays them out.
    fn delegated(folder: &Path, controllers: &str) -> String {
        let here = folder.join("service");
        fs::create_dir(&here).unwrap();
        fs::write(here.join("cgroup.controllers"), controllers).unwrap();
        fs::write(here.join("cgroup.procs"), "").unwrap();
        format!("41 31 0:38 / {} rw - cgroup2 cgroup2 rw,nsdelegate", folder.display())
    }

    #[test]
    fn a_run_has_a_group_of_version_2_with_its_limits() {
        let folder = tempfile::tempdir().unwrap();
        let mounts = delegated(folder.path(), "cpu io memory pids\n");
        let groups = Cgroups::two(&mounts, "1:name=systemd:/x\n0::/service\n").unwrap();
        let Cgroups::Two { folder: ours } = &groups else { panic!("{groups:?}") };
        let read = |path: PathBuf| fs::read_to_string(path).unwrap();
        // Both levels hand down what is needed, and the server's own is left as it was.
        for level in [ours, ours.parent().unwrap()] {
            assert_eq!(read(level.join("cgroup.subtree_control")), "+memory +pids");
        }
        let limits = Limits::default();
        let group = groups.make(&limits).unwrap();
        let Kind::Two { folder: run } = &group.kind else { panic!("{group:?}") };
        assert_eq!(run.parent(), Some(&**ours));
        assert_eq!(read(run.join("memory.max")), limits.memory.bytes().to_string());
        assert_eq!(read(run.join("memory.swap.max")), "0");
        assert_eq!(read(run.join("memory.oom.group")), "1");
        assert_eq!(read(run.join("pids.max")), "66");
        let second = groups.make(&limits).unwrap();
        assert_ne!(second.folders, group.folders);

        assert!(!group.out_of_memory() && !group.out_of_processes());
        assert_eq!((group.cpu(), group.peak()), (None, None));
        fs::write(run.join("memory.events"), "max 3\noom 1\noom_kill 1\n").unwrap();
        fs::write(run.join("pids.events"), "max 1\n").unwrap();
        fs::write(run.join("cpu.stat"), "usage_usec 2500000\nuser_usec 1\n").unwrap();
        fs::write(run.join("memory.peak"), "4096\n").unwrap();
        assert!(group.out_of_memory() && group.out_of_processes());
        assert_eq!((group.cpu(), group.peak()), (Some(Duration::from_millis(2500)), Some(4096)));
        for group in [&group, &second] {
            // What a kernel would take along with the folder.
            for folder in &group.folders {
                fs::remove_dir_all(folder).unwrap();
                fs::create_dir(folder).unwrap();
            }
        }
        let folders = [group.folders.clone(), second.folders.clone()].concat();
        drop((group, second));
        for folder in folders {
            let began = std::time::Instant::now();
            while folder.exists() {
                assert!(began.elapsed() < Duration::from_secs(30), "{} is left", folder.display());
                // It wrote its order to kill there, which is no file of a kernel's here.
                let _ = fs::remove_file(folder.join("cgroup.kill"));
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn what_is_missing_of_version_2_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mounts = delegated(folder.path(), "cpu memory");
        let error = Cgroups::two(&mounts, "0::/service").unwrap_err();
        assert!(error.contains("no pids controller") && error.contains("Delegate=yes"), "{error}");
        let error = Cgroups::two(MOUNTS, "0::/nowhere").unwrap_err();
        assert!(error.contains("no memory controller"), "{error}");
        assert_eq!(Cgroups::two("", "").unwrap_err(), "no cgroup version 2 is mounted");
    }

    /// Version 2 as it is, where one is mounted that we may write to, whatever its controllers.
    #[test]
    #[expect(clippy::print_stdout, reason = "what is not tested is said")]
    #[expect(clippy::disallowed_methods, reason = "somebody to be killed, whom nobody follows")]
    fn everybody_in_a_real_group_is_killed_at_once() {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let point = mount(&mounts, "cgroup2", None).map(|(point, _)| point);
        let name = format!("schwann-test-{}", std::process::id());
        let made = point.map(|point| point.join(name)).filter(|path| fs::create_dir(path).is_ok());
        let Some(folder) = made else {
            println!("NOT TESTED: there is no cgroup version 2 that can be written to");
            return;
        };
        let kind = Kind::Two { folder: folder.clone() };
        let group = Cgroup { kind, folders: vec![folder.clone()] };
        let script = "while :; do sleep 100 & sleep 0.01; done";
        let start = || std::process::Command::new("sh").args(["-c", script]).spawn().unwrap();
        let mut all = [start(), start()];
        for child in &all {
            fs::write(folder.join("cgroup.procs"), child.id().to_string()).unwrap();
        }
        let members = || fs::read_to_string(folder.join("cgroup.procs")).unwrap().lines().count();
        while members() < 6 {
            std::thread::yield_now();
        }
        assert!(group.cpu().is_some_and(|cpu| cpu > Duration::ZERO), "{:?}", group.cpu());
        assert_eq!(group.doors().unwrap().len(), 1);
        group.kill();
        for child in &mut all {
            use std::os::unix::process::ExitStatusExt;
            assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        }
        drop(group);
        let began = std::time::Instant::now();
        while folder.exists() {
            assert!(began.elapsed() < Duration::from_secs(30), "{} is left", folder.display());
            std::thread::yield_now();
        }
    }

    #[test]
    fn counters_are_read_by_name() {
        let events = "low 0\nhigh 3\nmax 17\noom 0\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(field(events, "oom_kill "), Some(2));
        assert_eq!(field(events, "max "), Some(17));
        assert_eq!(field("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n", "oom_kill "), Some(4));
        assert_eq!(field(events, "none "), None);
    }
}
