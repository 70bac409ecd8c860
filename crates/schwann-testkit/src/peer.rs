//! Programs that a test talks to: another implementation of a protocol, or our
//! own in a process of its own.
//!
//! A program that serves says that it is ready with one JSON line on stdout,
//! which has `"ready": true`. A program that calls prints a JSON line for each
//! case, with `"ok"`, and ends. Nothing here sleeps: both are awaited.

use std::{
    ffi::{OsStr, OsString},
    net::{Ipv4Addr, TcpListener},
    panic::resume_unwind,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    task::{JoinHandle, JoinSet},
};

/// How long a program may take to say that it is ready. Importing an SDK takes
/// seconds, and more on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// How much of the end of a program's stderr is kept for a failing test.
const STDERR_BYTES: usize = 16 * 1024;

/// The interpreter that this variable names.
///
/// # Panics
///
/// If it is not set, saying what sets it.
#[track_caller]
pub fn interpreter(variable: &str) -> PathBuf {
    match std::env::var_os(variable) {
        Some(path) => path.into(),
        None => panic!("{variable} is not set: `cargo xtask test` prepares the peers and sets it"),
    }
}

/// A port of the loopback address on which nothing listens.
///
/// Outside the range from which the system takes ports for outgoing
/// connections, so that none of these can take it before the program does.
///
/// # Panics
///
/// If there is none.
pub fn free_port() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    // Each test process begins elsewhere, since two may run at once.
    let start = u16::try_from(std::process::id() % 11_000).expect("below 11000");
    for _ in 0..11_000 {
        let step = TAKEN.fetch_add(1, Ordering::Relaxed) % 11_000;
        let port = 20_000 + (start + step) % 11_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no port between 20000 and 31000 is free");
}

/// A program that runs until this is dropped. It and all that it started are
/// killed then.
#[derive(Debug)]
pub struct Peer {
    ready: Value,
    program: Program,
}

impl Peer {
    /// Starts a program and waits until it says that it is ready.
    ///
    /// # Panics
    ///
    /// If it does not start, ends, or is not ready in time, with its stderr.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the program is killed.
    pub async fn start<A: AsRef<OsStr>>(
        path: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        let (mut program, mut stdout) = Program::start(path.as_ref(), args);
        let Ok(ready) = tokio::time::timeout(READY_WITHIN, ready_line(&mut stdout)).await else {
            panic!("{} is not ready in time; {}", program.name, program.last_words());
        };
        let Some(ready) = ready else {
            let status = program.ended().await;
            panic!("{} ended ({status}) and was not ready; {}", program.name, program.last_words());
        };
        // A full pipe would stop the program.
        let rest = async move { while let Ok(Some(_)) = stdout.next_line().await {} };
        program.readers.push(tokio::spawn(rest));
        Self { ready, program }
    }

    /// What it said of itself when it was ready.
    pub fn ready(&self) -> &Value {
        &self.ready
    }

    /// A text from what it said of itself.
    ///
    /// # Panics
    ///
    /// If it said no such text.
    #[track_caller]
    pub fn said(&self, key: &str) -> &str {
        let text = self.ready[key].as_str();
        text.unwrap_or_else(|| panic!("{} said no {key}: {}", self.program.name, self.ready))
    }

    /// The end of what it has written to stderr.
    pub fn stderr(&self) -> String {
        self.program.stderr()
    }
}

async fn ready_line(stdout: &mut Lines<BufReader<ChildStdout>>) -> Option<Value> {
    // Some SDKs log to stdout.
    while let Ok(Some(line)) = stdout.next_line().await {
        if let Ok(said) = serde_json::from_str::<Value>(&line)
            && said["ready"] == true
        {
            return Some(said);
        }
    }
    None
}

/// What a program that calls has printed.
#[derive(Debug)]
pub struct Report {
    /// The lines with a `case`.
    pub cases: Vec<Value>,
    /// How it ended.
    pub status: ExitStatus,
    /// The end of its stderr.
    pub stderr: String,
}

impl Report {
    fn and(mut self, other: Self) -> Self {
        self.cases.extend(other.cases);
        self.stderr.push_str(&other.stderr);
        let status = if self.status.success() { other.status } else { self.status };
        Self { status, ..self }
    }

    /// Checks that so many cases ran, and all were as expected.
    ///
    /// # Panics
    ///
    /// Otherwise, with the lines of those that were not.
    #[track_caller]
    pub fn expect_all(&self, cases: usize) {
        let (passed, bad): (Vec<_>, Vec<_>) =
            self.cases.iter().partition(|case| case["ok"] == true);
        let (passed, bad) = (passed.len(), lines(&bad));
        assert!(
            passed == cases && bad.is_empty() && self.status.success(),
            "{passed} of {cases} cases, {}\n{bad}stderr:\n{}",
            self.status,
            self.stderr
        );
    }
}

fn lines(cases: &[&Value]) -> String {
    cases.iter().map(|case| format!("{case}\n")).collect()
}

/// Runs a program that calls until it ends, at most this long.
///
/// # Panics
///
/// If it does not start or takes longer, with its stderr.
///
/// # Cancel safety
///
/// If the future is dropped, the program is killed.
pub async fn run<A: AsRef<OsStr>>(
    path: impl AsRef<OsStr>,
    args: impl IntoIterator<Item = A>,
    at_most: Duration,
) -> Report {
    let (mut program, mut stdout) = Program::start(path.as_ref(), args);
    let mut cases = Vec::new();
    let all = async {
        while let Ok(Some(line)) = stdout.next_line().await {
            match serde_json::from_str::<Value>(&line) {
                Ok(said) if said.get("case").is_some() => cases.push(said),
                _ => (),
            }
        }
        program.ended().await
    };
    match tokio::time::timeout(at_most, all).await {
        Ok(status) => Report { cases, status, stderr: program.stderr() },
        Err(_) => {
            panic!("{} takes longer than {at_most:?}; {}", program.name, program.last_words())
        }
    }
}

/// Runs a program that calls so many times beside itself, for programs that mostly wait. Each is told by `--part 2/3` which
/// cases are its own. What all of them printed is one report, which ended as the first that failed, if one did.
///
/// # Panics
///
/// If there are no parts, and as [`run`] for each.
///
/// # Cancel safety
///
/// If the future is dropped, the programs are killed.
pub async fn run_in_parts<A: AsRef<OsStr>>(
    path: impl AsRef<OsStr>,
    args: impl IntoIterator<Item = A>,
    parts: usize,
    at_most: Duration,
) -> Report {
    let path = path.as_ref().to_owned();
    let args: Vec<OsString> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
    let mut running: JoinSet<Report> = (1..=parts)
        .map(|part| {
            let own = ["--part".into(), format!("{part}/{parts}").into()];
            let args: Vec<OsString> = args.iter().cloned().chain(own).collect();
            let path = path.clone();
            async move { run(path, args, at_most).await }
        })
        .collect();
    let mut all: Option<Report> = None;
    while let Some(ended) = running.join_next().await {
        let part = ended.unwrap_or_else(|error| resume_unwind(error.into_panic()));
        all = Some(match all {
            None => part,
            Some(all) => all.and(part),
        });
    }
    all.expect("at least one part")
}

/// A running program, the leader of a process group of its own.
#[derive(Debug)]
struct Program {
    name: String,
    child: Child,
    group: Pid,
    stderr: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Program {
    fn start<A: AsRef<OsStr>>(
        path: &OsStr,
        args: impl IntoIterator<Item = A>,
    ) -> (Self, Lines<BufReader<ChildStdout>>) {
        #[expect(clippy::disallowed_methods, reason = "a test's peer is a program")]
        let mut command = Command::new(path);
        command.args(args).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let name = format!("{:?}", command.as_std());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("cannot start {name}: {error}"),
        };
        let pid = child.id().expect("not yet waited for");
        let stdout = child.stdout.take().expect("piped, and not taken before");
        let from = child.stderr.take().expect("piped, and not taken before");
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let readers = vec![tokio::spawn(keep_the_end(from, stderr.clone()))];
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let group = pid.expect("a process number");
        (Self { name, child, group, stderr, readers }, BufReader::new(stdout).lines())
    }

    /// Waits for its end, and until all of its stderr was read.
    async fn ended(&mut self) -> ExitStatus {
        let status = self.child.wait().await.expect("can be waited for");
        for reader in self.readers.drain(..) {
            reader.await.expect("does not panic");
        }
        status
    }

    fn stderr(&self) -> String {
        let kept = self.stderr.lock().expect("no reader panics");
        String::from_utf8_lossy(&kept).into_owned()
    }

    fn last_words(&self) -> String {
        format!("its stderr ends:\n{}", self.stderr())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // By number, which is its own as long as it has not been waited for.
        if self.child.id().is_some() {
            // It may have ended by itself.
            let _ = kill_process_group(self.group, Signal::KILL);
        }
        for reader in &self.readers {
            reader.abort();
        }
    }
}

async fn keep_the_end(mut from: impl AsyncRead + Unpin, kept: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0; 4096];
    while let Ok(n) = from.read(&mut buffer).await {
        if n == 0 {
            return;
        }
        let mut kept = kept.lock().expect("no reader panics");
        kept.extend_from_slice(&buffer[..n]);
        let over = kept.len().saturating_sub(STDERR_BYTES);
        kept.drain(..over);
    }
}
