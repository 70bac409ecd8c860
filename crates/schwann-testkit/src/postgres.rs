//! A PostgreSQL server of the system's packages, for as long as a test needs it.

use std::{
    fs,
    io::{self, BufRead as _, BufReader},
    os::unix::{fs::chown, process::CommandExt as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

use tempfile::TempDir;

/// A server without a port: it is reached by a socket in a folder of its own. It ends when this is dropped, and with the test's process.
#[derive(Debug)]
pub struct Postgres {
    folder: TempDir,
    shell: Child,
}

/// Makes the server, says that it is ready, and ends it when nobody holds the other end of stdin any more.
const SCRIPT: &str = "set -e
\"$BIN/initdb\" -D \"$DIR/data\" -U postgres --auth=trust --no-sync -E UTF8 --locale=C >\"$DIR/log\" 2>&1
\"$BIN/pg_ctl\" -D \"$DIR/data\" -s -w -t 90 -l \"$DIR/log\" -o \"-k $DIR -c listen_addresses= -c fsync=off -c max_connections=400\" start
echo ready
cat >/dev/null || true
\"$BIN/pg_ctl\" -D \"$DIR/data\" -s -w -m immediate stop";

static RUNNING: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
static DATABASES: AtomicU32 = AtomicU32::new(0);

impl Postgres {
    /// An empty database on the server that the tests of this process share, as a URL. The server lives as long as any of these.
    ///
    /// # Panics
    ///
    /// If PostgreSQL is not installed, or does not start.
    #[expect(clippy::disallowed_methods, reason = "starting programs is what it is for")]
    pub async fn database() -> (Arc<Self>, String) {
        tokio::task::spawn_blocking(|| {
            let server = {
                let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
                running.upgrade().unwrap_or_else(|| {
                    let server = Arc::new(Self::start());
                    *running = Arc::downgrade(&server);
                    server
                })
            };
            let name = format!("t{}", DATABASES.fetch_add(1, Ordering::Relaxed));
            let folder = server.folder.path().display().to_string();
            let made = Command::new(programs().expect("found before").join("createdb"))
                .args(["-h", &folder, "-U", "postgres", &name])
                .output()
                .expect("createdb starts");
            assert!(made.status.success(), "createdb: {}", String::from_utf8_lossy(&made.stderr));
            let url = format!("postgres://postgres@localhost/{name}?host={folder}");
            (server, url)
        })
        .await
        .expect("PostgreSQL starts")
    }

    #[expect(clippy::disallowed_methods, reason = "starting programs is what it is for")]
    fn start() -> Self {
        let bin = programs().expect("PostgreSQL is not installed: apt-get install postgresql");
        let folder = tempfile::Builder::new().prefix("pg").tempdir().expect("a folder");
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", SCRIPT]).env("BIN", bin).env("DIR", folder.path());
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).current_dir("/");
        if rustix::process::getuid().is_root() {
            // It refuses to run as root. This is `nobody`.
            shell.uid(65534).gid(65534);
            chown(folder.path(), Some(65534), Some(65534)).expect("root may do that");
        }
        let mut shell = shell.spawn().expect("a shell starts");
        let mut line = String::new();
        let out = shell.stdout.take().expect("piped");
        let read = BufReader::new(out).read_line(&mut line);
        if read.is_err() || line != "ready\n" {
            let log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
            panic!("PostgreSQL does not start:\n{log}");
        }
        Self { folder, shell }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let ended: io::Result<_> = self.shell.wait();
        drop(ended);
    }
}

/// The folder of the newest server's programs.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(Result::ok);
    let newest = versions.max_by_key(|entry| {
        entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()).unwrap_or(0)
    })?;
    let folder = newest.path().join("bin");
    folder.join("initdb").exists().then_some(folder)
}
