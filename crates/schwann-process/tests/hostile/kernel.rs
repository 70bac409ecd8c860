//! Parts of the kernel that have let programs out before.

use crate::held;

macro_rules! tries {
    ($($name:ident: $script:literal)*) => {
        $(#[tokio::test]
        async fn $name() {
            held($script).await;
        })*
    };
}

tries! {
    uses_io_uring: r#"attempt("io_uring", lambda: call("io_uring_setup", 8, ctypes.addressof(ctypes.create_string_buffer(256))))"#
    uses_the_keyring: r#"
attempt("keyctl", lambda: call("keyctl", 0, -3, 1))
attempt("add_key", lambda: call("add_key", b"user", b"x", b"y", 1, -3))
attempt("request_key", lambda: call("request_key", b"user", b"x", 0, -3))
"#
    uses_userfaultfd: r#"attempt("userfaultfd", lambda: call("userfaultfd", 1))"#
    loads_a_bpf_program: r#"
attr = ctypes.create_string_buffer(128)
attempt("map", lambda: call("bpf", 0, ctypes.addressof(attr), 128))
attempt("program", lambda: call("bpf", 5, ctypes.addressof(attr), 128))
"#
    watches_performance_counters: r#"
attr = ctypes.create_string_buffer(128)
attr[4] = b"\x80"
attempt("perf", lambda: call("perf_event_open", ctypes.addressof(attr), 0, -1, -1, 0))
"#
    makes_user_namespaces_by_unshare: r#"
for flag in [0x10000000, 0x20000, 0x40000000, 0x20000000, 0x4000000, 0x8000000, 0x2000000, 0x80]:
    attempt(hex(flag), lambda: call("unshare", flag))
"#
    makes_user_namespaces_by_clone: r#"
def clone(flag):
    pid = call("clone", flag | 17, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid
for flag in [0x10000000, 0x20000, 0x40000000, 0x20000000, 0x4000000, 0x8000000, 0x2000000]:
    attempt(hex(flag), lambda: clone(flag))
# With more bits than an int has, which the kernel cuts off.
attempt("wide", lambda: clone(0x10000000 | 1 << 40))
"#
    makes_user_namespaces_by_clone3: r#"
arguments = (ctypes.c_uint64 * 11)(0x10000000)
attempt("clone3", lambda: call("clone3", ctypes.addressof(arguments), 88))
"#
    joins_other_namespaces: r#"
for name in ["user", "mnt", "net", "pid"]:
    for pid in ["1", host("SERVER")]:
        attempt(name, lambda: call("setns", os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY), 0))
attempt("raw", lambda: call("setns", 0, 0))
"#
    types_into_its_terminal: r#"
import fcntl, termios
attempt("TIOCSTI", lambda: fcntl.ioctl(0, termios.TIOCSTI, b"x"))
attempt("wide", lambda: call_ioctl())
def call_ioctl():
    done = libc.ioctl(0, ctypes.c_ulong(termios.TIOCSTI | 1 << 40), b"x")
    if done < 0:
        raise OSError(ctypes.get_errno(), "ioctl")
attempt("wide", call_ioctl)
attempt("TIOCLINUX", lambda: fcntl.ioctl(0, 0x541C, b"\x02"))
"#
    sets_the_clock: r#"
import time
attempt("python", lambda: time.clock_settime(time.CLOCK_REALTIME, 0))
when = (ctypes.c_long * 2)(0, 0)
attempt("raw", lambda: call("clock_settime", 0, ctypes.addressof(when)))
"#
    reboots: r#"
attempt("reboot", lambda: call("reboot", 0xfee1dead, 0x28121969, 0, 0))
attempt("kexec", lambda: call("kexec_load", 0, 0, 0, 0))
"#
    loads_a_module: r#"attempt("module", lambda: call("init_module", b"x", 1, b""))"#
    names_the_machine: r#"
attempt("host", lambda: call("sethostname", b"owned", 5))
attempt("domain", lambda: call("setdomainname", b"owned", 5))
"#
    uses_swap_and_accounting: r#"
open("swap", "w").write("x" * 4096)
attempt("swap", lambda: call("swapon", b"swap", 0))
attempt("acct", lambda: call("acct", b"swap"))
attempt("fanotify", lambda: call("fanotify_init", 0, 0))
"#
    reads_the_log_of_the_kernel: r#"
buffer = ctypes.create_string_buffer(4096)
attempt("syslog", lambda: call("syslog", 3, ctypes.addressof(buffer), 4096))
"#
    takes_more_than_its_share_of_the_processor: r#"
attempt("nice", lambda: os.nice(-10))
attempt("realtime", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50)))
one = (ctypes.c_int * 1)(50)
attempt("raw", lambda: call("sched_setscheduler", 0, 1, ctypes.addressof(one)))
attempt("ioprio", lambda: call("ioprio_set", 1, 0, 1 << 13))
"#
    raises_its_own_limits: r#"
import resource
for name in ["RLIMIT_NOFILE", "RLIMIT_CORE", "RLIMIT_FSIZE", "RLIMIT_CPU", "RLIMIT_MEMLOCK"]:
    which = getattr(resource, name)
    attempt(name, lambda: resource.setrlimit(which, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)))
"#
    shares_memory_that_nobody_counts: r#"
attempt("shmget", lambda: call("shmget", 0, 1 << 30, 0o1600))
"#
}

/// Numbers of the x32 ABI name the same calls to the same architecture.
#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn calls_by_another_number() {
    held(
        r#"
def raw(number, *arguments):
    done = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) for a in arguments])
    if done < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return done
attempt("x32 getpid", lambda: raw(0x40000000 | 39))
attempt("x32 unshare", lambda: raw(0x40000000 | 272, 0x10000000))
"#,
    )
    .await;
}
