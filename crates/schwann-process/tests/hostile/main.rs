//! Programs that want out, and what becomes of them.
//!
//! Each is named for what it tries, and runs in every sandbox that this
//! machine has. It says `OUT:` for each deed that succeeded, and `held:` for
//! each that did not. Where there is no sandbox the same tests check that the
//! program is refused, and say so.

#![expect(clippy::unwrap_used, reason = "also outside of functions marked as tests")]
#![expect(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "what was not tested, and lines to wait for"
)]
#![expect(clippy::disallowed_methods, reason = "victims are programs that nobody follows")]

mod another_user;
mod bombs;
mod calls;
mod command;
mod escapes;
mod floods;
mod kernel;
mod limits;
mod neighbours;
mod network;
mod processes;
mod refusal;
mod traps;

use std::{
    collections::BTreeMap,
    net::TcpListener,
    os::unix::net::UnixListener,
    path::PathBuf,
    process::{Child, Stdio},
    time::Duration,
};

use schwann_process::{
    ByteSize, Ending, Limits, Program, ProgramSpec, Sandbox, Sandboxes, Session, Span,
};
use schwann_testkit::watch;
use tempfile::TempDir;

/// Longer than anything here takes on a busy machine; a test that needs it fails.
const PATIENCE: Duration = Duration::from_secs(60);

const MIB: u64 = 1 << 20;

/// A place to be hostile in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    sandbox: Sandbox,
    cgroups: bool,
}

/// Fails instead of hanging.
async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("still waiting")
}

/// Every sandbox of this machine. If one is missing that is said aloud, and
/// that it is refused is what is tested in its place.
async fn places() -> Vec<Place> {
    let report = Sandboxes::probe().await;
    let mut places = Vec::new();
    for sandbox in [Sandbox::Bubblewrap, Sandbox::Landlock] {
        match report.resolve(sandbox) {
            Ok(_) => {
                if report.has_cgroups() {
                    places.push(Place { sandbox, cgroups: true });
                }
                places.push(Place { sandbox, cgroups: false });
            }
            Err(missing) => {
                eprintln!("NOT TESTED IN `{sandbox}`, WHICH THIS MACHINE DOES NOT HAVE: {missing}");
                refusal::refused(sandbox).await;
            }
        }
    }
    places
}

/// What the host has that a program in a sandbox must not get at.
struct Host {
    folder: TempDir,
    tcp: TcpListener,
    _path_socket: UnixListener,
    _abstract_socket: UnixListener,
    abstract_name: String,
    victim: Child,
}

impl Host {
    fn new() -> Self {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        // As open as can be: only a sandbox is in the way.
        let open = |path: PathBuf, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        std::fs::write(folder.path().join("database"), "secret").unwrap();
        open(folder.path().join("database"), 0o666);
        std::fs::create_dir(folder.path().join("open")).unwrap();
        open(folder.path().join("open"), 0o777);
        let path_socket = UnixListener::bind(folder.path().join("socket")).unwrap();
        open(folder.path().join("socket"), 0o777);
        open(folder.path().to_owned(), 0o755);
        let abstract_name = folder.path().file_name().unwrap().to_str().unwrap().to_owned();
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let victim = std::process::Command::new("sleep").arg("600").stdin(Stdio::null()).spawn();
        Self {
            tcp: TcpListener::bind("127.0.0.1:0").unwrap(),
            _path_socket: path_socket,
            _abstract_socket: UnixListener::bind_addr(&address).unwrap(),
            abstract_name,
            victim: victim.unwrap(),
            folder,
        }
    }

    fn variables(&self) -> BTreeMap<String, String> {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        BTreeMap::from(
            [
                ("FOLDER", self.folder.path().display().to_string()),
                ("DATABASE", path("database")),
                ("OPEN", path("open")),
                ("SOCKET", path("socket")),
                ("ABSTRACT", self.abstract_name.clone()),
                ("PORT", self.tcp.local_addr().unwrap().port().to_string()),
                ("VICTIM", self.victim.id().to_string()),
                ("SERVER", std::process::id().to_string()),
            ]
            .map(|(name, value)| (format!("HOST_{name}"), value)),
        )
    }

    /// Everything is as it was.
    fn check(&mut self) {
        assert!(self.victim.try_wait().unwrap().is_none(), "the victim is dead");
        let database = std::fs::read_to_string(self.folder.path().join("database"));
        assert_eq!(database.unwrap(), "secret");
        let open = std::fs::read_dir(self.folder.path().join("open")).unwrap();
        assert_eq!(open.count(), 0, "something was left there");
        self.tcp.set_nonblocking(true).unwrap();
        assert!(self.tcp.accept().is_err(), "somebody connected");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.victim.kill().unwrap();
        self.victim.wait().unwrap();
    }
}

fn tight() -> Limits {
    Limits {
        wall: Span::from_secs(20),
        cpu: Span::from_secs(10),
        memory: ByteSize::new(128 * MIB),
        processes: 32,
        open_files: 64,
        output: ByteSize::new(MIB),
        folder: ByteSize::new(8 * MIB),
        file: ByteSize::new(16 * MIB),
    }
}

/// A program that was started, and what it stands on.
struct Run {
    session: Session,
    _folder: TempDir,
}

struct Done {
    output: String,
    ending: Ending,
}

async fn start(place: Place, script: &str, change: impl FnOnce(&mut ProgramSpec)) -> Run {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("attempt.py"), include_str!("attempt.py")).unwrap();
    let whole = format!("from attempt import *\n{script}");
    std::fs::write(folder.path().join("main.py"), whole).unwrap();
    let command = ["/usr/bin/python3", "main.py"];
    let mut spec = ProgramSpec::new(command, folder.path(), place.sandbox);
    spec.cgroups = place.cgroups;
    spec.limits = tight();
    change(&mut spec);
    let session = soon(Program::start(spec)).await.unwrap();
    Run { session, _folder: folder }
}

impl Run {
    async fn finish(mut self) -> Done {
        let mut output = Vec::new();
        while let Some(piece) = soon(self.session.output()).await {
            output.extend_from_slice(&piece.bytes);
        }
        let ending = soon(self.session.end()).await;
        Done { output: String::from_utf8_lossy(&output).into_owned(), ending }
    }

    /// Reads until there is a line that contains this.
    async fn reached(&mut self, mark: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(mark) {
            let Some(piece) = soon(self.session.output()).await else {
                let ending = soon(self.session.end()).await;
                panic!("ended before `{mark}`: {seen} {ending:?}");
            };
            seen.push_str(&String::from_utf8_lossy(&piece.bytes));
        }
        seen
    }
}

/// Runs it everywhere; none of its deeds may succeed, and it must have tried.
async fn held(script: &str) {
    held_in(&places().await, script).await;
}

async fn held_in(places: &[Place], script: &str) {
    for place in places {
        let mut host = Host::new();
        let variables = host.variables();
        let run = start(*place, script, |spec| spec.environment = variables).await;
        let Done { output, ending } = run.finish().await;
        assert!(!output.contains("OUT:"), "{place:?}: {output}");
        assert!(output.contains("held:"), "{place:?}: it tried nothing: {output} {ending:?}");
        host.check();
    }
}

/// Whether a command line has this word; the words of a line end with a NUL.
fn has(line: &[u8], word: &str) -> bool {
    line.windows(word.len()).any(|found| found == word.as_bytes())
}

/// Waits until no process of this machine has this word on its command line.
async fn none_is_left(at_most: Duration, word: String) {
    let looked_for = word.clone();
    let gone = move || watch::none_is_left(at_most, |line| has(line, &looked_for));
    let gone = tokio::task::spawn_blocking(gone).await;
    gone.unwrap_or_else(|_| panic!("{word:?} is left after {at_most:?}"));
}

/// The number that a program printed after a word.
#[track_caller]
fn number(output: &str, word: &str) -> u64 {
    let line = output.lines().rev().find_map(|line| line.strip_prefix(word));
    let line = line.unwrap_or_else(|| panic!("no `{word}` in: {output}"));
    line.trim().parse().unwrap()
}

/// A program that counts beside a hostile one, and must go on meanwhile.
struct Innocent(Run);

impl Innocent {
    async fn new(place: Place) -> Self {
        let script = "import time\nn = 0\nwhile True:\n    n += 1\n    print('count', n, flush=True)\n    time.sleep(0.02)";
        let mut run = start(place, script, |_| {}).await;
        run.reached("count").await;
        Self(run)
    }

    async fn goes_on(mut self) {
        // A whole line, and then three more, whichever these are by now.
        let mut seen = self.0.reached("\n").await;
        let lines = seen.matches('\n').count();
        while seen.matches('\n').count() < lines + 3 {
            seen.push_str(&self.0.reached("\n").await);
        }
        self.0.session.control().cancel(Span::from_millis(0));
        self.0.finish().await;
    }
}
