//! Mistakes that are easy to make around a sandbox, each of which was a hole.

use std::{
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use schwann_process::{
    Interpreter, Program, ProgramSpec, Reason, Sandbox, Sandboxes, Signal, Span, TerminalSize,
};
use schwann_testkit::watch::Watched;

use crate::{Done, Place, has, none_is_left, number, places, soon, start};

#[tokio::test]
async fn nobody_in_a_sandbox_is_root_outside_of_it() {
    for place in places().await {
        let word = format!("who-am-i-{}-{}", std::process::id(), place.cgroups);
        // The shell says so itself, and stays what it is.
        let script = format!(
            "os.execvp('sh', ['sh', '-c', 'echo ready; while :; do sleep 60; done', '{word}'])"
        );
        let mut run = start(place, &script, |_| {}).await;
        run.reached("ready").await;
        let found = std::fs::read_dir("/proc").unwrap().flatten().find(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            line.starts_with(b"sh\0") && String::from_utf8_lossy(&line).contains(&word)
        });
        let found = found.expect("it is there").path();
        let status = std::fs::read_to_string(found.join("status")).unwrap();
        let line = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().to_owned()
        };
        let ids: Vec<_> = line("Uid:").split_whitespace().map(str::to_owned).collect();
        assert!(ids.iter().all(|id| id != "0"), "{place:?}: {ids:?}");
        assert!(line("Gid:").split_whitespace().all(|id| id != "0"), "{place:?}");
        assert_eq!(line("CapEff:"), "0000000000000000", "{place:?}");
        assert_eq!(line("NoNewPrivs:"), "1", "{place:?}");
        assert_eq!(line("Seccomp:"), "2", "{place:?}");
        run.session.control().cancel(Span::from_millis(0));
        run.finish().await;
    }
}

#[tokio::test]
async fn process_1_of_a_sandbox_has_an_empty_environment() {
    for place in places().await.into_iter().filter(|place| place.sandbox == Sandbox::Bubblewrap) {
        let script = "print('environ', len(open('/proc/1/environ', 'rb').read()))\n\
                      print('line', open('/proc/1/cmdline').read().split(chr(0)))";
        let Done { output, .. } = start(place, script, |_| {}).await.finish().await;
        assert_eq!(number(&output, "environ"), 0, "{output}");
        // Nor do its arguments tell of the host's folders.
        assert!(!output.contains("bind") && !output.contains("/tmp/."), "{output}");
    }
}

#[tokio::test]
async fn the_environment_is_one_of_its_own() {
    for place in places().await {
        let script = "print(sorted(os.environ))";
        let Done { output, .. } = start(place, script, |spec| {
            spec.environment.insert("MINE".into(), "yes".into());
        })
        .await
        .finish()
        .await;
        assert!(output.contains("'MINE'") && output.contains("'HOME'"), "{place:?}: {output}");
        assert!(!output.contains("CARGO") && !output.contains("RUST"), "{place:?}: {output}");
    }
}

#[tokio::test]
async fn a_descriptor_that_somebody_left_open_does_not_get_in() {
    // As a library might: without close-on-exec.
    let open = std::fs::File::open("/etc/passwd").unwrap();
    let leaked = rustix::io::dup(&open).unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    for place in places().await {
        let script =
            "print('open', len(os.listdir('/proc/self/fd')))\nprint(os.listdir('/proc/self/fd'))";
        // Three, and the folder that is being listed.
        let script = if place.sandbox == Sandbox::Landlock {
            "n = 0\nfor fd in range(1000):\n    try: os.fstat(fd); n += 1\n    except OSError: pass\nprint('open', n + 1)"
        } else {
            script
        };
        let Done { output, .. } = start(place, script, |_| {}).await.finish().await;
        assert_eq!(number(&output, "open"), 4, "{place:?}: {output}");
    }
}

#[tokio::test]
async fn five_runs_have_their_processes_each_for_itself() {
    let script = "\
import time
count = 0
for n in range(30):
    try:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        count += 1
    except OSError as error:
        print(error)
print('count', count, flush=True)
sys.stdin.read(1)";
    for place in places().await {
        let mut runs = Vec::new();
        for _ in 0..5 {
            runs.push(start(place, script, |_| {}).await);
        }
        // All at once: each has its 30 while the others have theirs.
        for run in &mut runs {
            run.reached("count 30").await;
        }
        for run in runs {
            run.session.control().cancel(Span::from_millis(0));
            run.finish().await;
        }
    }
}

#[test]
fn a_program_outlives_the_thread_that_asked_for_it() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for place in runtime.block_on(places()) {
        let handle = runtime.handle().clone();
        let asked = std::thread::spawn(move || {
            handle.block_on(async {
                let script = "print('ready', flush=True)\nsys.stdin.read(1)\nprint('still here')";
                start(place, script, |_| {}).await
            })
        });
        // The thread is gone after this.
        let mut run = asked.join().unwrap();
        runtime.block_on(async {
            run.reached("ready").await;
            soon(run.session.input().write("x")).await.unwrap();
            let Done { output, ending } = run.finish().await;
            assert!(output.contains("still here"), "{place:?}: {ending:?}");
        });
    }
}

/// A process with programs, of which each has a child in a session of its own.
struct Server {
    process: std::process::Child,
    lines: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
    /// What the children are called.
    word: String,
}

impl Server {
    fn start(place: Place, test: &str) -> Self {
        let word = format!("{test}-{}-{:?}-{}", std::process::id(), place.sandbox, place.cgroups);
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "traps::in_a_process_to_be_killed", "--nocapture"])
            .env("OUTLIVES", &word)
            .env("OUTLIVES_IN", format!("{:?} {}", place.sandbox, place.cgroups))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let lines = process.stdout.take().unwrap();
        let lines = std::io::BufRead::lines(std::io::BufReader::new(lines));
        let mut server = Self { process, lines, word };
        server.reached("all are ready");
        let children = Watched::all(|line| has(line, &server.children()));
        assert!(!children.is_empty(), "nothing runs");
        server
    }

    fn reached(&mut self, word: &str) {
        let found = self.lines.find(|line| line.as_ref().unwrap().contains(word));
        assert!(found.is_some(), "not reached: {word}");
    }

    /// Starts one more program, and waits until it runs.
    fn start_another(&mut self) {
        std::io::Write::write_all(self.process.stdin.as_mut().unwrap(), b"\n").unwrap();
        self.reached("another is ready");
    }

    fn children(&self) -> String {
        format!("{}-child", self.word)
    }

    /// The shell that is to kill its programs after its death.
    fn survivor(&self) -> Option<rustix::process::Pid> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let children = tasks
            .flatten()
            .map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
        let children: Vec<i32> = children
            .flat_map(|line| line.split_whitespace().flat_map(str::parse).collect::<Vec<_>>())
            .collect();
        let is_it = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.starts_with(b"sh\0-c\0trap")
        };
        children.into_iter().find(is_it).and_then(rustix::process::Pid::from_raw)
    }

    /// Kills it, and waits until none of its programs is left.
    async fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        none_is_left(Duration::from_secs(2), self.children()).await;
    }
}

#[tokio::test]
async fn a_server_that_is_killed_takes_its_programs_along() {
    for place in places().await {
        Server::start(place, "outlives").kill().await;
    }
}

#[tokio::test]
async fn a_server_whose_watching_shell_was_killed_takes_its_programs_along() {
    for place in places().await {
        let mut server = Server::start(place, "unwatched");
        let first = server.survivor().expect("a shell that watches");
        rustix::process::kill_process(first, rustix::process::Signal::KILL).unwrap();
        // It is replaced though nothing else happens. What another process starts is no event for us, and its new shell writes to nobody.
        let began = Instant::now();
        while server.survivor().is_none_or(|now| now == first) {
            assert!(began.elapsed() < Duration::from_secs(10), "{place:?}: not replaced");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // By then it knows of all that ran before.
        server.start_another();
        server.kill().await;
    }
}

#[tokio::test]
async fn a_server_whose_watching_shell_was_killed_a_moment_ago_starts_programs() {
    for place in places().await {
        let mut server = Server::start(place, "sudden");
        let first = server.survivor().expect("a shell that watches");
        rustix::process::kill_process(first, rustix::process::Signal::KILL).unwrap();
        server.start_another();
        server.kill().await;
    }
}

#[tokio::test]
async fn in_a_process_to_be_killed() {
    let (Ok(word), Ok(wanted)) = (std::env::var("OUTLIVES"), std::env::var("OUTLIVES_IN")) else {
        return;
    };
    let mut all = places().await.into_iter();
    let place = all.find(|place| format!("{:?} {}", place.sandbox, place.cgroups) == wanted);
    let script = format!(
        "import subprocess, time\n\
         stay = ['sh', '-c', 'while :; do sleep 0.1; done', '{word}-child']\n\
         subprocess.Popen(stay, start_new_session=True)\n\
         print('ready', flush=True)\ntime.sleep(60)"
    );
    let mut runs = Vec::new();
    for number in 0.. {
        if number >= 3 {
            println!("{}", if number == 3 { "all are ready" } else { "another is ready" });
            let asked =
                tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
            assert_eq!(asked.await.unwrap().unwrap(), 1, "nobody is there any more");
        }
        let mut run = start(place.unwrap(), &script, |spec| {
            spec.limits.wall = Span::from_secs(60);
        })
        .await;
        run.reached("ready").await;
        runs.push(run);
    }
}

#[tokio::test]
async fn an_interrupt_reaches_the_program_and_its_last_words_arrive() {
    let script = "\
import time
try:
    print('ready', flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print('last words')
    sys.exit(5)";
    for place in places().await {
        for terminal in [None, Some(TerminalSize::default())] {
            let mut run = start(place, script, |spec| spec.terminal = terminal).await;
            run.reached("ready").await;
            run.session.control().cancel_by(Signal::Interrupt, Span::from_secs(30));
            let Done { output, ending } = run.finish().await;
            assert!(output.contains("last words"), "{place:?}: {output} {ending:?}");
            assert_eq!((ending.reason, ending.code), (Reason::Cancelled, Some(5)), "{place:?}");
        }
    }
}

#[tokio::test]
async fn a_signal_and_an_exit_code_are_told_apart() {
    for place in places().await {
        let done = start(place, "os.kill(os.getpid(), 11)", |_| {}).await.finish().await;
        assert_eq!(
            (done.ending.reason, done.ending.signal),
            (Reason::Signal, Some(11)),
            "{place:?}"
        );
        for code in [3, 128, 129, 137, 143, 192, 255] {
            // Older kernels do not tell who is not the parent, and bubblewrap says what shells say.
            let is_told = place.sandbox == Sandbox::Landlock || kernel() >= (6, 15);
            let expected = match code {
                129..=192 if !is_told => (Reason::Signal, None, Some(code - 128)),
                _ => (Reason::Exit, Some(code), None),
            };
            let script = format!("os._exit({code})");
            let ending = start(place, &script, |_| {}).await.finish().await.ending;
            assert_eq!((ending.reason, ending.code, ending.signal), expected, "{place:?}");
        }
    }
}

/// Version of the kernel.
fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// A machine that forbids namespaces, as its bubblewrap tells of it.
#[tokio::test]
async fn a_bubblewrap_that_cannot_make_namespaces_is_quoted() {
    let folder = tempfile::tempdir().unwrap();
    let fake = folder.path().join("bwrap");
    let script = "#!/bin/sh\n\
                  case $1 in\n\
                  --version) echo bubblewrap 0.8.0;;\n\
                  --help) echo help;;\n\
                  *) echo 'bwrap: No permissions to create new namespace' >&2; exit 1;;\n\
                  esac\n";
    std::fs::write(&fake, script).unwrap();
    std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "refusal::in_a_process_without_bubblewrap", "--nocapture"])
        .env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()))
        .env("EXPECT_NO_BUBBLEWRAP", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("No permissions to create new namespace"), "{text}");
    assert!(text.contains("docs/sandbox.md"), "{text}");
}

/// As a Python in a home that only its user may enter.
#[tokio::test]
async fn a_runtime_in_a_closed_home_is_there_once_it_is_named() {
    let home = tempfile::tempdir().unwrap();
    let prefix = home.path().join("versions/1");
    std::fs::create_dir_all(prefix.join("bin")).unwrap();
    let program = prefix.join("bin/interpreter");
    std::fs::write(&program, "#!/bin/sh\necho \"it interprets $1\"\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    for place in places().await {
        for named in [false, true] {
            let work = tempfile::tempdir().unwrap();
            let command = [program.to_str().unwrap(), "this"];
            let mut spec = ProgramSpec::new(command, work.path(), place.sandbox);
            spec.cgroups = place.cgroups;
            if named {
                spec.read_only.push(prefix.clone());
            }
            let mut session = match soon(Program::start(spec)).await {
                Ok(session) => session,
                Err(error) if !named => {
                    assert!(error.to_string().contains("interpreter"), "{error}");
                    continue;
                }
                // Without namespaces there is nothing to mount it with.
                Err(error) if place.sandbox == Sandbox::Landlock => {
                    assert!(error.is_sandbox(), "{error:?}");
                    assert!(error.to_string().contains("only root may enter"), "{error}");
                    continue;
                }
                Err(error) => panic!("{place:?}: {error}"),
            };
            let mut output = String::new();
            while let Some(piece) = soon(session.output()).await {
                output.push_str(&String::from_utf8_lossy(&piece.bytes));
            }
            let ending = soon(session.end()).await;
            if named {
                assert_eq!(output, "it interprets this\n", "{place:?}: {ending:?}");
            } else {
                // Where processes are counted inside, it is a shell that fails.
                let failed = ending.reason == Reason::StartFailed || ending.code == Some(127);
                assert!(failed, "{place:?}: {output} {ending:?}");
                assert!(output.contains("interpreter"), "{place:?}: {output}");
            }
        }
    }
}

/// The Python of this machine's `PATH`, wherever it is: in a home, too.
#[tokio::test]
async fn a_python_is_found_and_runs_with_what_it_says_it_needs() {
    let python = soon(Interpreter::locate("python3")).await.unwrap();
    assert!(python.program.is_absolute(), "{python:?}");
    for place in places().await.into_iter().filter(|place| place.sandbox == Sandbox::Bubblewrap) {
        let folder = tempfile::tempdir().unwrap();
        let script = "import sys, json, ctypes; print(sys.executable)";
        let command = [python.program.to_str().unwrap(), "-c", script];
        let mut spec = ProgramSpec::new(command, folder.path(), place.sandbox);
        spec.read_only = python.read_only.clone();
        let mut session = soon(Program::start(spec)).await.unwrap();
        let mut output = String::new();
        while let Some(piece) = soon(session.output()).await {
            output.push_str(&String::from_utf8_lossy(&piece.bytes));
        }
        assert_eq!(output.trim(), python.program.to_str().unwrap(), "{place:?}");
    }
    let shell = soon(Interpreter::locate("/bin/sh")).await.unwrap();
    assert_eq!(shell.read_only, Vec::<std::path::PathBuf>::new(), "it came with the system");
    assert!(soon(Interpreter::locate("no-such-language")).await.is_err());
}

#[tokio::test]
async fn a_report_is_one_line() {
    let text = Sandboxes::probe().await.to_string();
    assert!(!text.is_empty() && !text.contains('\n'), "{text}");
}

#[tokio::test]
async fn files_that_are_no_files_of_the_host_are_there_and_are_its_own() {
    for place in places().await {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("below")).unwrap();
        std::fs::write(folder.path().join("below/data"), "brought").unwrap();
        let script = "cat below/data below/more new/deep/file main; echo changed >main; \
                      echo more >>new/deep/file; mkdir new/other && ls -l main | cut -c 1-10; cat main";
        let mut spec = ProgramSpec::new(["sh", "-c", script], folder.path(), place.sandbox);
        for (path, text) in
            [("main", "main "), ("below/more", " more "), ("new/deep/file", "deep ")]
        {
            spec.files.push((path.into(), text.as_bytes().into()));
        }
        let mut session = soon(Program::start(spec)).await.unwrap();
        let mut output = String::new();
        while let Some(piece) = soon(session.output()).await {
            output.push_str(&String::from_utf8_lossy(&piece.bytes));
        }
        assert_eq!(
            output,
            "brought more deep main -rw-r--r--\nchanged\n",
            "{place:?}: {:?}",
            soon(session.end()).await
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "{place:?}");
        assert_eq!(std::fs::read_dir(folder.path().join("below")).unwrap().count(), 1, "{place:?}");
    }
}

#[tokio::test]
async fn what_is_in_the_work_folder_is_there_and_nothing_is_written_back() {
    for place in places().await {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("below")).unwrap();
        std::fs::write(folder.path().join("below/data"), "brought").unwrap();
        let script = "cat below/data; echo changed >below/data; echo new >new; ls";
        let spec = ProgramSpec::new(["sh", "-c", script], folder.path(), place.sandbox);
        let mut session = soon(Program::start(spec)).await.unwrap();
        let mut output = String::new();
        while let Some(piece) = soon(session.output()).await {
            output.push_str(&String::from_utf8_lossy(&piece.bytes));
        }
        let ending = soon(session.end()).await;
        assert_eq!(ending.code, Some(0), "{place:?}: {output} {ending:?}");
        assert_eq!(output, "broughtbelow\nnew\n", "{place:?}");
        let kept = std::fs::read_to_string(folder.path().join("below/data")).unwrap();
        assert_eq!(kept, "brought", "{place:?}");
        assert!(!folder.path().join("new").exists(), "{place:?}");
    }
}
