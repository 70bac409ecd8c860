//! Other processes, and staying alive.

use std::time::{Duration, Instant};

use schwann_process::{Reason, Sandbox, Signal, Span};

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
    reads_the_environment_of_the_server: r#"
for pid in ["1", host("SERVER"), str(os.getppid())]:
    def read():
        text = open(f"/proc/{pid}/environ").read()
        if not text or "HOST_" in text and "CARGO" not in text:
            raise ValueError("nothing but its own")
        return text
    attempt(pid, read)
"#
    sees_what_others_run: r#"
for name in ["SERVER", "VICTIM"]:
    for what in ["cmdline", "comm", "stat", "status", "cgroup"]:
        attempt(what, lambda: open(f"/proc/{host(name)}/{what}").read())
"#
    kills_the_server: r#"
for pid in [host("SERVER"), host("VICTIM")]:
    if os.getpid() < 1000 and not os.path.exists(f"/proc/{pid}"):
        attempt(pid, lambda: os.kill(int(pid), 9))
    else:
        attempt(pid, lambda: os.kill(int(pid), 9))
"#
    traces_another_process: r#"
for pid in [1, os.getppid(), int(host("SERVER")), int(host("VICTIM"))]:
    attempt(pid, lambda: call("ptrace", 16, pid, 0, 0))
    attempt(pid, lambda: call("ptrace", 0x4206, pid, 0, 0))
"#
    reads_memory_of_another_process: r#"
local = ctypes.create_string_buffer(16)
for pid in [1, int(host("SERVER")), int(host("VICTIM"))]:
    attempt(pid, lambda: call("process_vm_readv", pid, ctypes.addressof(local), 1, 0, 0, 0))
    attempt(pid, lambda: open(f"/proc/{pid}/mem", "rb").read(1))
"#
    takes_a_descriptor_of_another_process: r#"
for pid in [1, int(host("SERVER"))]:
    attempt(pid, lambda: call("pidfd_getfd", call("pidfd_open", pid, 0), 0, 0))
    attempt(pid, lambda: os.open(f"/proc/{pid}/fd/3", os.O_RDONLY))
"#
}

/// `kill(-1)` reaches whoever it may, so that it had better be few.
#[tokio::test]
async fn kills_everybody_it_can() {
    held(
        r#"
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child == 0:
    try:
        os.kill(-1, signal.SIGTERM)
    except OSError as error:
        pass
    os._exit(0)
os.waitpid(child, 0)
attempt("and lives", lambda: 1 / 0)
"#,
    )
    .await;
}

/// What a program leaves running is gone with it, whatever it did to stay.
async fn leaves_nobody(script: &str, expected: Option<Reason>) {
    for place in places().await {
        let name = format!("stays-{}-{:?}", std::process::id(), Instant::now())
            .replace([' ', '{', '}', ':'], "");
        let script = script.replace("NAME", &name);
        let mut run = start(place, &script, |spec| spec.limits.wall = Span::from_secs(3)).await;
        run.reached("ready").await;
        let asked = Instant::now();
        if expected == Some(Reason::Cancelled) {
            run.session.control().cancel(Span::from_millis(100));
        }
        let Done { ending, output } = run.finish().await;
        if let Some(expected) = expected {
            assert_eq!(ending.reason, expected, "{place:?}: {ending:?} {output}");
        }
        if expected == Some(Reason::Cancelled) {
            assert!(asked.elapsed() < Duration::from_secs(2), "{place:?}: {:?}", asked.elapsed());
        }
        assert_eq!(named(&name), Vec::<String>::new(), "{place:?}");
    }
}

/// Processes of this machine with this word on their command line.
fn named(word: &str) -> Vec<String> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(word)).collect()
}

const STAY: &str = "['sh', '-c', 'trap \"\" TERM INT HUP; while :; do sleep 0.1; done', 'NAME']";

#[tokio::test]
async fn leaves_a_daemon_behind() {
    let script = format!(
        "import subprocess\n\
         subprocess.Popen({STAY}, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n\
         print('ready', flush=True)"
    );
    leaves_nobody(&script, Some(Reason::Exit)).await;
}

#[tokio::test]
async fn forks_twice_into_a_session_of_its_own_and_is_cancelled() {
    let script = format!(
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        \
         print('ready', flush=True)\n        os.execvp('sh', {STAY})\n    os._exit(0)\n\
         import time\ntime.sleep(60)"
    );
    leaves_nobody(&script, Some(Reason::Cancelled)).await;
}

#[tokio::test]
async fn ignores_every_signal() {
    let script = "import signal, time\n\
                  for number in range(1, 65):\n    \
                      try: signal.signal(number, signal.SIG_IGN)\n    \
                      except (OSError, ValueError): pass\n\
                  print('ready', flush=True)\n\
                  while True: time.sleep(1)";
    leaves_nobody(script, Some(Reason::Cancelled)).await;
    leaves_nobody(script, Some(Reason::Timeout)).await;
}

#[tokio::test]
async fn stops_itself() {
    let script = "import signal\nprint('ready', flush=True)\nos.kill(os.getpid(), signal.SIGSTOP)";
    leaves_nobody(script, Some(Reason::Timeout)).await;
    leaves_nobody(script, Some(Reason::Cancelled)).await;
}

#[tokio::test]
async fn closes_its_output_and_runs_on() {
    let script =
        format!("print('ready', flush=True)\nos.close(1)\nos.close(2)\nos.execvp('sh', {STAY})");
    leaves_nobody(&script, Some(Reason::Timeout)).await;
}

#[tokio::test]
async fn changes_its_process_group_and_ignores_interrupts() {
    let script = format!("os.setpgid(0, 0)\nprint('ready', flush=True)\nos.execvp('sh', {STAY})");
    leaves_nobody(&script, Some(Reason::Cancelled)).await;
}

/// It forks faster than anybody can be counted, and it is cancelled.
#[tokio::test]
async fn runs_away_by_forking() {
    let script = "print('ready', flush=True)\n\
                  while True:\n    \
                      try:\n        \
                          if os.fork(): os._exit(0)\n    \
                      except OSError: pass";
    for place in places().await {
        // Where the first one's end is the run's, there is nothing to cancel.
        let mut run = start(place, script, |_| {}).await;
        run.reached("ready").await;
        run.session.control().cancel_by(Signal::Kill, Span::from_millis(0));
        let asked = Instant::now();
        run.finish().await;
        assert!(asked.elapsed() < Duration::from_secs(2), "{place:?}: {:?}", asked.elapsed());
    }
    assert!(Sandbox::Bubblewrap != Sandbox::None);
}
