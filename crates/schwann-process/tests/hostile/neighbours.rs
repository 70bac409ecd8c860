//! What else is on the machine: daemons of the same user, and other runs.

use std::{
    io::{BufRead, BufReader},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use schwann_process::Span;

use crate::{Done, Host, places, start};

/// A daemon that a program may not reach, whatever it has left open.
struct Neighbour {
    host: Host,
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    numbers: Vec<String>,
}

impl Neighbour {
    fn new() -> Self {
        let host = Host::new();
        let folder = host.folder.path().to_owned();
        let mut process = Command::new("/usr/bin/python3")
            .args(["-c", include_str!("neighbour.py")])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let mut words = line.split_whitespace().map(str::to_owned);
        assert_eq!(words.next().as_deref(), Some("ready"), "{line}");
        let input = process.stdin.take();
        Self { host, process, input, output, numbers: words.collect() }
    }

    /// Everything is as it was.
    fn check(mut self) {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", self.process.id()));
        let own = std::fs::read_to_string("/proc/self/limits").unwrap();
        assert_eq!(limits.unwrap(), own, "its limits were changed");
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        assert_eq!(fields.split_whitespace().nth(16), Some("0"), "its priority was changed");
        drop(self.input.take());
        let mut rest = String::new();
        while self.output.read_line(&mut rest).unwrap() > 0 {}
        assert_eq!(rest, "done\n", "somebody wrote to it");
        assert!(self.process.wait().unwrap().success());
        let database = self.host.folder.path().join("database");
        let metadata = std::fs::metadata(database).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o666);
        assert!(metadata.mtime() > 1_000_000_000, "its times were changed");
        self.host.check();
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // At the end of its input it takes away what it has, which a killed one would leave to the machine for good.
        drop(self.input.take());
        // It may have ended, and a failure is told already.
        let _ = self.process.wait();
    }
}

/// Runs it everywhere beside a neighbour that must not notice.
async fn unnoticed(script: &str) {
    for place in places().await {
        let neighbour = Neighbour::new();
        let mut variables = neighbour.host.variables();
        variables.insert("HOST_NEIGHBOUR".into(), neighbour.process.id().to_string());
        for (name, value) in ["SEGMENT", "SEMAPHORE", "MESSAGES"].iter().zip(&neighbour.numbers) {
            variables.insert(format!("HOST_{name}"), value.clone());
        }
        let run = start(place, script, |spec| spec.environment = variables).await;
        let Done { output, ending } = run.finish().await;
        assert!(!output.contains("OUT:"), "{place:?}: {output}");
        assert!(output.contains("held:"), "{place:?}: it tried nothing: {output} {ending:?}");
        neighbour.check();
    }
}

macro_rules! tries {
    ($($name:ident: $script:literal)*) => {
        $(#[tokio::test]
        async fn $name() {
            unnoticed($script).await;
        })*
    };
}

tries! {
    reads_shared_memory_by_its_number: r#"
libc.syscall.restype = ctypes.c_long
attempt("attach", lambda: call("shmat", int(host("SEGMENT")), 0, 0))
attempt("remove", lambda: call("shmctl", int(host("SEGMENT")), 0, 0))
"#
    looks_for_what_others_share_in_lists_of_the_kernel: r#"
def listed(kind, number):
    lines = open("/proc/sysvipc/" + kind).read().splitlines()
    return 1 / len([line for line in lines if line.split()[1] == number])
for kind, what in [("shm", "SEGMENT"), ("sem", "SEMAPHORE"), ("msg", "MESSAGES")]:
    attempt(kind, lambda: listed(kind, host(what)))
"#
    uses_semaphores_and_messages_of_others: r#"
operation = (ctypes.c_short * 3)(0, 1, 0)
buffer = ctypes.create_string_buffer(64)
attempt("semaphore", lambda: call("semop", int(host("SEMAPHORE")), ctypes.addressof(operation), 1))
attempt("value", lambda: call("semctl", int(host("SEMAPHORE")), 0, 12, 0))
attempt("receive", lambda: call("msgrcv", int(host("MESSAGES")), ctypes.addressof(buffer), 8, 0, 0o4000))
"#
    opens_a_queue_of_another: r#"
name = os.path.basename(host("FOLDER")).encode()
attempt("open", lambda: call("mq_open", name, 2, 0, 0))
attempt("unlink", lambda: call("mq_unlink", name))
"#
    changes_limits_of_another: r#"
none = (ctypes.c_uint64 * 2)(0, 0)
for who in ["NEIGHBOUR", "SERVER"]:
    for which in [0, 1, 4, 7]:
        attempt(which, lambda: call("prlimit64", int(host(who)), which, ctypes.addressof(none), 0))
"#
    slows_others_down: r#"
one = ctypes.create_string_buffer(b"\x01" + bytes(7))
for who in ["NEIGHBOUR", "SERVER"]:
    attempt("priority", lambda: call("setpriority", 0, int(host(who)), 19))
    attempt("affinity", lambda: call("sched_setaffinity", int(host(who)), 8, ctypes.addressof(one)))
"#
    signals_others_by_other_ways: r#"
import fcntl, signal
info = (ctypes.c_int * 32)(15, 0, -1)
for who in ["NEIGHBOUR", "SERVER", "VICTIM"]:
    pid = int(host(who))
    attempt("pidfd", lambda: call("pidfd_send_signal", call("pidfd_open", pid, 0), 15, 0, 0))
    attempt("queue", lambda: call("rt_sigqueueinfo", pid, 15, ctypes.addressof(info)))
    attempt("thread", lambda: libc.tgkill(pid, pid, 15) and 1 / 0)
    attempt("group", lambda: os.killpg(os.getpgid(pid), 15))
# Told by a pipe that it can be read, whoever was named for it.
r, w = os.pipe()
def named():
    fcntl.fcntl(r, fcntl.F_SETOWN, int(host("NEIGHBOUR")))
    fcntl.fcntl(r, 10, 15)
    fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    os.write(w, b"x")
    raise OSError("the neighbour is asked")
attempt("owner", named)
"#
    sends_datagrams_to_a_mailbox_by_a_pair: r#"
import socket
for kind in [socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_SEQPACKET]:
    for address in [host("FOLDER") + "/mailbox", "\0" + host("FOLDER"), host("SOCKET")]:
        def connect():
            one, other = socket.socketpair(socket.AF_UNIX, kind)
            one.connect(address)
            return one.send(b"hello")
        attempt("connect", connect)
        # To a pair of packets an address is nothing that would be looked at.
        if kind == socket.SOCK_SEQPACKET:
            continue
        def send():
            one, other = socket.socketpair(socket.AF_UNIX, kind)
            return one.sendto(b"hello", address)
        attempt("send", send)
        def message():
            one, other = socket.socketpair(socket.AF_UNIX, kind)
            return one.sendmsg([b"hello"], [], 0, address)
        attempt("message", message)
"#
    changes_modes_times_and_owners_of_files: r#"
for path in [host("DATABASE"), host("OPEN"), host("FOLDER")]:
    raw = path.encode()
    attempt("mode", lambda: os.chmod(path, 0))
    attempt("raw", lambda: call("chmod", raw, 0))
    attempt("at", lambda: call("fchmodat", -100, raw, 0, 0))
    attempt("at 2", lambda: call("fchmodat2", -100, raw, 0, 0))
    attempt("handle", lambda: call("fchmodat2", os.open(path, os.O_PATH), b"", 0, 0x1000))
    attempt("times", lambda: os.utime(path, (0, 0)))
    attempt("owner", lambda: os.chown(path, os.getuid(), os.getgid()))
    attempt("attribute", lambda: os.setxattr(path, "user.owned", b"x"))
    attempt("attribute", lambda: os.getxattr(path, "user.mark"))
    arguments = (ctypes.c_uint64 * 3)()
    attempt("at", lambda: call("setxattrat", -100, raw, 0, b"user.owned", ctypes.addressof(arguments), 16))
    attempt("flags", lambda: call("file_setattr", -100, raw, ctypes.addressof(arguments), 24, 0))
"#
}

/// Two programs of strangers, who try to find each other.
#[tokio::test]
async fn two_runs_do_not_meet() {
    let first = r#"
import socket
try:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("\0meet-here")
    listener.listen()
except OSError as error:
    print("held: no socket", error)
for path in ["/tmp/meet-here", "/dev/shm/meet-here", "/var/tmp/meet-here"]:
    try:
        with open(path, "w") as file:
            file.write("here")
    except OSError as error:
        print("held:", error)
print("pid", os.getpid(), "in", os.getcwd(), flush=True)
print("ready", flush=True)
sys.stdin.read(1)
"#;
    let second = r#"
import socket
def connect():
    with socket.socket(socket.AF_UNIX) as unix:
        unix.connect("\0meet-here")
attempt("socket", connect)
for path in ["/tmp/meet-here", "/dev/shm/meet-here", "/var/tmp/meet-here"]:
    attempt(path, lambda: open(path).read())
if host("FOLDER") != "/work":
    attempt("folder", lambda: os.listdir(host("FOLDER")))
    attempt("code", lambda: open(host("FOLDER") + "/main.py").read())
"#;
    for place in places().await {
        let mut one = start(place, first, |_| {}).await;
        let seen = one.reached("ready").await;
        let folder = seen.lines().find_map(|line| line.split_once(" in ")).unwrap().1;
        let two = start(place, second, |spec| {
            spec.environment.insert("HOST_FOLDER".into(), folder.to_owned());
        })
        .await;
        let Done { output, ending } = two.finish().await;
        assert!(!output.contains("OUT:"), "{place:?}: {output}");
        assert!(output.contains("held:"), "{place:?}: {output} {ending:?}");
        one.session.control().cancel(Span::from_millis(0));
        one.finish().await;
        assert!(!Path::new("/tmp/meet-here").exists());
    }
}
