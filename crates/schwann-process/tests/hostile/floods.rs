//! More than its share, by ways that are easily forgotten.

use std::{path::PathBuf, time::Duration};

use schwann_process::{Reason, Span, TerminalSize};
use schwann_testkit::watch;

use crate::{Done, Innocent, MIB, PATIENCE, number, places, start};

#[tokio::test]
async fn arms_timers_and_queues_signals_without_end() {
    let script = r#"
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
timers = 0
event, identity = (ctypes.c_int * 16)(0, 0, 34, 0), ctypes.c_int()
try:
    while timers < 50000:
        call("timer_create", 1, ctypes.addressof(event), ctypes.addressof(identity))
        timers += 1
except OSError as error:
    print("held:", error)
info = (ctypes.c_int * 32)(40, 0, -1)
signals = 0
try:
    while signals < 50000:
        call("rt_sigqueueinfo", os.getpid(), 40, ctypes.addressof(info))
        signals += 1
except OSError as error:
    print("held:", error)
print("timers", timers)
print("signals", signals)
"#;
    for place in places().await {
        let innocent = Innocent::new(place).await;
        let Done { output, ending } = start(place, script, |_| {}).await.finish().await;
        let all = number(&output, "timers") + number(&output, "signals");
        assert!(all <= 1100, "{place:?}: {output} {ending:?}");
        innocent.goes_on().await;
    }
}

#[tokio::test]
async fn leaves_zombies_that_nobody_buries() {
    let script = r#"
import time
count = 1
try:
    while count < 1000:
        if os.fork() == 0:
            os._exit(0)
        count += 1
except OSError as error:
    print("held:", error)
print("processes", count, flush=True)
if count > 35:
    # So many for as long as it takes until somebody looks.
    time.sleep(60)
os._exit(0)
"#;
    for place in places().await {
        let innocent = Innocent::new(place).await;
        let Done { output, ending } = start(place, script, |_| {}).await.finish().await;
        if ending.reason != Reason::ProcessLimit {
            let count = number(&output, "processes");
            // Where nobody counts, what has ended does until the next look.
            assert!((28..=35).contains(&count), "{place:?}: {count} of 32: {ending:?}");
        }
        innocent.goes_on().await;
    }
}

/// Each child is gone before its time is worth mentioning, and nobody waits for it.
#[tokio::test]
async fn computes_in_many_short_lives() {
    let script = r#"
import signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
alive = []
def lives(pid):
    try:
        os.kill(pid, 0)
        return True
    except OSError:
        return False
while True:
    alive = [pid for pid in alive if lives(pid)]
    if len(alive) > 4:
        time.sleep(0.02)
        continue
    pid = os.fork()
    if pid == 0:
        end = time.process_time() + 0.15
        while time.process_time() < end:
            pass
        os._exit(0)
    alive.append(pid)
"#;
    for place in places().await {
        let innocent = Innocent::new(place).await;
        let run = start(place, script, |spec| {
            spec.limits.cpu = Span::from_secs(2);
            // On a busy machine it gets a tenth of a processor.
            spec.limits.wall = Span::from_secs(50);
        });
        let Done { ending, .. } = run.await.finish().await;
        assert_eq!(ending.reason, Reason::CpuLimit, "{place:?}: {ending:?}");
        if place.cgroups {
            assert!(ending.cpu <= Duration::from_millis(2400), "{place:?}: {ending:?}");
        }
        innocent.goes_on().await;
    }
}

/// Files that have no name any more take room all the same.
#[tokio::test]
async fn fills_the_disk_with_files_that_it_has_removed() {
    let script = r#"
import time
total, kept = 0, []
try:
    for n in range(40):
        fd = os.open("x", os.O_CREAT | os.O_RDWR)
        os.unlink("x")
        kept.append(fd)
        total += os.write(fd, bytes(4 << 20))
except OSError as error:
    print("held:", error, flush=True)
print("bytes", total, flush=True)
time.sleep(3)
"#;
    for place in places().await {
        let Done { output, ending } = start(place, script, |_| {}).await.finish().await;
        let is_held = matches!(ending.reason, Reason::FolderLimit | Reason::MemoryLimit)
            || number(&output, "bytes") <= 8 * MIB * 11 / 10;
        assert!(is_held, "{place:?}: {output} {ending:?}");
    }
}

/// Why it failed is told, even if it took no longer than it takes to fill its folder.
#[tokio::test]
async fn fails_for_want_of_room() {
    let script = "\
import time
for name in ['one', 'two']:
    with open(name, 'wb', buffering=0) as file:
        for n in range(6):
            file.write(bytes(1 << 20))
# Where somebody has to look.
time.sleep(3)";
    for place in places().await {
        let Done { output, ending } = start(place, script, |_| {}).await.finish().await;
        assert_eq!(ending.reason, Reason::FolderLimit, "{place:?}: {output} {ending:?}");
        let enough = "open('big', 'wb').write(bytes(4 << 20))\nsys.exit(3)";
        let Done { ending, .. } = start(place, enough, |_| {}).await.finish().await;
        assert_eq!((ending.reason, ending.code), (Reason::Exit, Some(3)), "{place:?}");
    }
}

/// Waits until nothing is left of a folder of the host.
async fn removed(folder: &str) {
    if folder == "/work" {
        return;
    }
    let folder = PathBuf::from(folder);
    let gone = move || {
        let parent = folder.parent().expect("it is not the root");
        watch::folder(parent, PATIENCE, || (!folder.exists()).then_some(()));
    };
    tokio::task::spawn_blocking(gone).await.unwrap();
}

/// Deeper than any path can name.
#[tokio::test]
async fn digs_itself_in() {
    let script = r#"
import time
print("folder", os.getcwd(), flush=True)
total = 0
try:
    for n in range(2500):
        os.mkdir("d")
        os.chdir("d")
    for n in range(8):
        fd = os.open(str(n), os.O_CREAT | os.O_RDWR)
        total += os.write(fd, bytes(4 << 20))
        os.close(fd)
except OSError as error:
    print("held:", error, flush=True)
print("bytes", total, flush=True)
time.sleep(3)
"#;
    for place in places().await {
        let Done { output, ending } = start(place, script, |_| {}).await.finish().await;
        let is_held = matches!(ending.reason, Reason::FolderLimit | Reason::MemoryLimit)
            || number(&output, "bytes") <= 8 * MIB * 11 / 10;
        assert!(is_held, "{place:?}: {output} {ending:?}");
        let folder = output.lines().find_map(|line| line.strip_prefix("folder ")).unwrap();
        removed(folder).await;
    }
}

/// What cannot be looked into cannot be measured, and cannot be removed.
#[tokio::test]
async fn locks_its_folders() {
    let script = r#"
import time
print("folder", os.getcwd(), flush=True)
os.mkdir("closed")
total = 0
try:
    for n in range(8):
        with open(f"closed/{n}", "wb") as file:
            total += file.write(bytes(4 << 20))
except OSError as error:
    print("held:", error, flush=True)
os.chmod("closed", 0)
print("bytes", total, flush=True)
time.sleep(3)
"#;
    for place in places().await {
        let Done { output, ending } = start(place, script, |_| {}).await.finish().await;
        let is_held = matches!(ending.reason, Reason::FolderLimit | Reason::MemoryLimit)
            || output.contains("PermissionError")
            || number(&output, "bytes") <= 8 * MIB * 11 / 10;
        assert!(is_held, "{place:?}: {output} {ending:?}");
        let folder = output.lines().find_map(|line| line.strip_prefix("folder ")).unwrap();
        removed(folder).await;
    }
}

#[tokio::test]
async fn hides_descriptors_in_sockets() {
    let script = r#"
import array, socket
hidden = 0
try:
    while hidden < 100000:
        one, other = socket.socketpair()
        fds = array.array("i", [os.open("/dev/null", os.O_RDONLY) for n in range(4)])
        one.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        for fd in fds: os.close(fd)
        # The socket itself goes into the next one.
        kept = other.detach()
        hidden += 4
except OSError as error:
    print("held:", error)
print("hidden", hidden)
"#;
    for place in places().await {
        let Done { output, .. } = start(place, script, |_| {}).await.finish().await;
        assert!(number(&output, "hidden") <= 256, "{place:?}: {output}");
    }
}

#[tokio::test]
async fn fills_shared_memory_by_maps() {
    let script = r#"
import mmap
total = 0
try:
    for n in range(64):
        fd = os.open(f"/dev/shm/{n}", os.O_CREAT | os.O_RDWR)
        for m in range(4):
            total += os.write(fd, bytes(1 << 20))
except OSError as error:
    print("held:", error, flush=True)
print("bytes", total)
"#;
    for place in places().await {
        let Done { output, ending } = start(place, script, |_| {}).await.finish().await;
        if ending.reason != Reason::MemoryLimit {
            assert!(number(&output, "bytes") <= 16 * MIB, "{place:?}: {output}");
        }
    }
}

/// Orders to a terminal are bytes like any others, and as many count.
#[tokio::test]
async fn floods_its_terminal_with_orders() {
    let script = "\
import itertools\n\
for n in itertools.count():\n    \
    os.write(1, b'\\x1b[2J\\x1b[?1049h\\x1b]0;title\\x07\\x1b[6n\\x1b[c\\x1bP+q\\x1b\\\\' * 50)";
    for place in places().await {
        let innocent = Innocent::new(place).await;
        let run = start(place, script, |spec| spec.terminal = Some(TerminalSize::default())).await;
        let Done { output, ending } = run.finish().await;
        assert_eq!(ending.reason, Reason::OutputLimit, "{place:?}: {ending:?}");
        assert_eq!(output.len() as u64, MIB, "{place:?}");
        innocent.goes_on().await;
    }
}

/// It stops the flow of its own terminal, and waits.
#[tokio::test]
async fn freezes_its_terminal() {
    let script = "\
import termios\n\
print('ready', flush=True)\n\
termios.tcflow(1, termios.TCOOFF)\n\
print('never seen', flush=True)\n\
while True: os.write(1, b'x' * 4096)";
    for place in places().await {
        let run = start(place, script, |spec| {
            spec.terminal = Some(TerminalSize::default());
            spec.limits.wall = Span::from_millis(1000);
        })
        .await;
        let Done { output, ending } = run.finish().await;
        assert_eq!(ending.reason, Reason::Timeout, "{place:?}: {ending:?}");
        assert!(output.contains("ready"), "{place:?}: {output}");
        assert!(ending.elapsed < Duration::from_secs(3), "{place:?}: {ending:?}");
    }
}

/// What the kernel tells everybody of the machine is not for whoever is in namespaces of their own.
#[tokio::test]
async fn reads_what_proc_tells_of_the_machine() {
    let script = r#"
for name in ["keys", "key-users", "kallsyms", "interrupts", "timer_list", "sched_debug", "cmdline", "modules",
             "diskstats", "slabinfo", "vmallocinfo", "kcore", "kmsg", "latency_stats", "pagetypeinfo"]:
    def read():
        text = open("/proc/" + name, "rb").read(4096)
        if not text:
            raise OSError("nothing in it")
        return text
    attempt(name, read)
"#;
    for place in places().await {
        let Done { output, .. } = start(place, script, |_| {}).await.finish().await;
        assert!(output.contains("held:"), "{place:?}: {output}");
        assert!(!output.contains("OUT:"), "{place:?}: {output}");
    }
}
