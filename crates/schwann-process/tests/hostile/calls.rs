//! System calls that reach past their own process, by every way there is to make one.

use schwann_process::TerminalSize;

use crate::{Done, held, places, start};

macro_rules! tries {
    ($($name:ident: $script:literal)*) => {
        $(#[tokio::test]
        async fn $name() {
            held($script).await;
        })*
    };
}

tries! {
    writes_into_another_process: r#"
local = ctypes.create_string_buffer(16)
for pid in [1, int(host("SERVER")), int(host("VICTIM"))]:
    attempt(pid, lambda: call("process_vm_writev", pid, ctypes.addressof(local), 1, 0, 0, 0))
    attempt(pid, lambda: call("process_madvise", call("pidfd_open", pid, 0), ctypes.addressof(local), 1, 21, 0))
    attempt(pid, lambda: call("kcmp", os.getpid(), pid, 1, 0, 0))
"#
    uses_io_uring_without_having_made_one: r#"
attempt("enter", lambda: call("io_uring_enter", 0, 1, 1, 0, 0, 0))
attempt("register", lambda: call("io_uring_register", -1, 23, 0, 0))
"#
    mounts_by_the_newer_calls: r#"
path = ctypes.create_string_buffer(4096)
attempt("fsconfig", lambda: call("fsconfig", 0, 6, 0, 0, 0))
attempt("fsmount", lambda: call("fsmount", 0, 0, 0))
attempt("fspick", lambda: call("fspick", -100, b"/usr", 0))
attempt("move", lambda: call("move_mount", -100, b"/usr", -100, b"/work", 0))
attempt("tree", lambda: call("open_tree_attr", -100, b"/usr", 1, 0, 0))
attempt("quota", lambda: call("quotactl_fd", 0, 0, 0, 0))
# What is mounted on the host is the host's business.
request = (ctypes.c_uint64 * 4)(24 | 0 << 32, 0xffffffffffffffff, 0, 0)
attempt("list", lambda: call("listmount", ctypes.addressof(request), ctypes.addressof(path), 16, 0))
attempt("stat", lambda: call("statmount", ctypes.addressof(request), ctypes.addressof(path), 4096, 0))
"#
    joins_namespaces_by_a_pidfd: r#"
for pid in [1, int(host("SERVER")), os.getppid()]:
    for flags in [0x10000000, 0x20000, 0x40000000, 0x10020000]:
        attempt(pid, lambda: call("setns", call("pidfd_open", pid, 0), flags))
"#
    changes_its_personality: r#"
attempt("no random addresses", lambda: call("personality", 0x0040000))
attempt("what is read is executed", lambda: call("personality", 0x0400000))
attempt("page zero", lambda: call("personality", 0x0100000))
"#
    raises_itself_by_prctl: r#"
def prctl(*arguments):
    if libc.prctl(*[ctypes.c_ulong(a) for a in arguments]) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
attempt("new privileges", lambda: prctl(38, 0, 0, 0, 0))
attempt("ambient", lambda: prctl(47, 2, 21, 0, 0))
attempt("bounding set", lambda: prctl(24, 21, 0, 0, 0))
attempt("secure bits", lambda: prctl(28, 1, 0, 0, 0))
attempt("memory map", lambda: prctl(35, 1, 0, 0, 0))
attempt("filter off", lambda: prctl(22, 0, 0, 0, 0))
header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[0xffffffff] * 6)
def capset():
    if libc.capset(header, data) < 0:
        raise OSError(ctypes.get_errno(), "capset")
attempt("capset", capset)
"#
    hides_memory_even_from_the_kernel: r#"
import mmap
def hide():
    fd = call("memfd_secret", 0)
    os.ftruncate(fd, 1 << 20)
    secret = mmap.mmap(fd, 1 << 20)
    for page in range(0, len(secret), 4096):
        secret[page] = 1
attempt("secret", hide)
"#
    asks_for_a_mailbox_of_the_kernel: r#"
attempt("queue", lambda: call("mq_open", b"mine", 0o102, 0o600, 0))
attempt("segment", lambda: call("shmget", 7, 4096, 0o1600))
attempt("semaphore", lambda: call("semget", 7, 1, 0o1600))
attempt("messages", lambda: call("msgget", 7, 0o1600))
"#
    watches_who_uses_the_runtime: r#"
import fcntl
def watch():
    fd = call("inotify_init1", 0)
    return call("inotify_add_watch", fd, b"/usr/bin", 0x20)
attempt("inotify", watch)
attempt("dnotify", lambda: fcntl.fcntl(os.open("/usr/bin", os.O_RDONLY), 1026, 1))
attempt("lease", lambda: fcntl.fcntl(os.open("/usr/bin/env", os.O_RDONLY), 1024, 0))
"#
}

/// As in CVE-2016-5195 (Dirty COW) and CVE-2022-0847 (Dirty Pipe).
#[tokio::test]
async fn writes_to_the_runtime_through_the_page_cache() {
    held(
        r#"
import mmap
path = "/usr/lib/os-release"
before = open(path, "rb").read()
def pipe():
    fd = os.open(path, os.O_RDONLY)
    r, w = os.pipe()
    os.write(w, b"x" * 65536)
    os.read(r, 65536)
    os.splice(fd, w, 1, offset_src=0)
    os.write(w, b"owned")
    if open(path, "rb").read() == before:
        raise OSError("it is as it was")
attempt("pipe", pipe)
def private():
    fd = os.open(path, os.O_RDONLY)
    own = mmap.mmap(fd, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ)
    address = next(int(line.split("-")[0], 16) for line in open("/proc/self/maps") if "os-release" in line)
    memory = os.open("/proc/self/mem", os.O_RDWR)
    for n in range(200):
        os.pwrite(memory, b"owned", address)
        own.madvise(mmap.MADV_DONTNEED)
    if open(path, "rb").read() == before:
        raise OSError("it is as it was")
attempt("private", private)
def shared():
    mmap.mmap(os.open(path, os.O_RDONLY), 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
attempt("shared", shared)
"#,
    )
    .await;
}

/// By the door of 32-bit programs, which a 64-bit one may use as well.
#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn calls_through_the_door_of_another_architecture() {
    held(
        r#"
import mmap, signal
# mov eax, NUMBER; xor ebx, ebx; int 0x80; ret
def door(number):
    page = mmap.mmap(-1, 4096, prot=7)
    page.write(b"\xb8" + number.to_bytes(4, "little") + b"\x31\xdb\xcd\x80\xc3")
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    child = os.fork()
    if child == 0:
        os._exit(ctypes.CFUNCTYPE(ctypes.c_int)(address)() & 0x7f)
    how = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if how == -signal.SIGSYS:
        raise OSError("killed for it")
    return how
for name, number in [("getpid", 20), ("ptrace", 26), ("mount", 21), ("unshare", 310), ("keyctl", 288)]:
    attempt(name, lambda: door(number))
"#,
    )
    .await;
}

/// With a terminal of its own, so that nothing fails for want of one.
#[tokio::test]
async fn turns_its_terminal_into_something_else() {
    let script = r#"
import fcntl, struct, termios
assert os.isatty(0) and os.isatty(1)
# N_SLIP, N_PPP, N_HDLC, N_GSM0710 and others, each a module of its own.
for discipline in [1, 3, 4, 5, 13, 15, 17, 19, 21, 29]:
    attempt(f"discipline {discipline}", lambda: fcntl.ioctl(0, termios.TIOCSETD, struct.pack("i", discipline)))
attempt("type", lambda: fcntl.ioctl(0, termios.TIOCSTI, b"x"))
attempt("paste", lambda: fcntl.ioctl(0, 0x541C, b"\x03"))
attempt("console", lambda: fcntl.ioctl(0, termios.TIOCCONS))
attempt("lock", lambda: fcntl.ioctl(0, 0x5457, bytes(60)))
attempt("hang up", lambda: fcntl.ioctl(0, 0x5437))
for path in ["/dev/tty1", "/dev/tty0", "/dev/vcs", "/dev/ttyS0"]:
    attempt(path, lambda: os.open(path, os.O_RDWR | os.O_NOCTTY))
"#;
    for place in places().await {
        let run = start(place, script, |spec| spec.terminal = Some(TerminalSize::default())).await;
        let Done { output, ending } = run.finish().await;
        assert!(!output.contains("OUT:"), "{place:?}: {output}");
        assert!(output.matches("held:").count() >= 15, "{place:?}: {output} {ending:?}");
    }
}

/// A child of its parent would be one that nobody here waits for, and a zombie of the server for good.
#[tokio::test]
async fn makes_children_for_its_parent() {
    let script = r#"
# CLONE_PARENT | SIGCHLD
for n in range(5):
    def clone():
        pid = call("clone", 0x8000 | 17, 0, 0, 0, 0)
        if pid == 0:
            os._exit(0)
        return pid
    attempt(n, clone)
"#;
    for place in places().await {
        let Done { output, .. } = start(place, script, |_| {}).await.finish().await;
        assert!(!output.contains("OUT:") && output.contains("held:"), "{place:?}: {output}");
    }
}
