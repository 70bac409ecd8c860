//! A Redis server of the system's packages, for as long as a test needs it.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
};

use tempfile::TempDir;

/// A server without a port: it is reached by a socket in a folder of its own. It ends when this is dropped, and with the test's process.
#[derive(Debug)]
pub struct Redis {
    folder: TempDir,
    running: Option<(Child, ChildStdin)>,
}

/// Runs the server until nobody holds the other end of stdin any more, and then ends it as a failure would: without a word.
const SCRIPT: &str = "redis-server --port 0 --unixsocket \"$DIR/socket\" --dir \"$DIR\" --save '' \
--appendonly yes --appendfsync always --daemonize no --logfile '' &
server=$!
cat >/dev/null || true
kill -9 $server
wait $server 2>/dev/null
exit 0";

impl Redis {
    /// Starts a server that has nothing.
    ///
    /// # Panics
    ///
    /// If Redis is not installed, or does not start.
    pub async fn start() -> Self {
        tokio::task::spawn_blocking(|| {
            let folder = tempfile::Builder::new().prefix("redis").tempdir().expect("a folder");
            let mut redis = Self { folder, running: None };
            redis.run();
            redis
        })
        .await
        .expect("Redis starts")
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("unix://{}", self.folder.path().join("socket").display())
    }

    /// Ends it at once. What it had said that it has is on its disk.
    pub fn kill(&mut self) {
        if let Some((mut shell, stdin)) = self.running.take() {
            drop(stdin);
            // An error means that it is gone.
            let _ = shell.wait();
        }
        let _ = std::fs::remove_file(self.folder.path().join("socket"));
    }

    /// Starts it again, after [`kill`](Self::kill).
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn resume(&mut self) {
        assert!(self.running.is_none(), "it runs");
        self.run();
    }

    /// Starts it again, after [`kill`](Self::kill), without what it had.
    ///
    /// # Panics
    ///
    /// If its files cannot be removed, or it does not start.
    pub fn resume_empty(&mut self) {
        let files: PathBuf = self.folder.path().join("appendonlydir");
        std::fs::remove_dir_all(files).expect("its files are there");
        self.resume();
    }

    #[expect(clippy::disallowed_methods, reason = "starting programs is what it is for")]
    fn run(&mut self) {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", SCRIPT]).env("DIR", self.folder.path());
        shell.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = shell.spawn().expect("a shell starts");
        let stdin = shell.stdin.take().expect("piped");
        let mut said = String::new();
        let mut out = BufReader::new(shell.stdout.take().expect("piped"));
        // It says this only when it can be reached.
        while !said.contains("eady to accept connections") {
            let read = out.read_line(&mut said).expect("its output can be read");
            assert!(
                read > 0,
                "redis-server does not start (apt-get install redis-server):\n{said}"
            );
        }
        // Nobody reads on, and it must not stand still for that.
        std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
        self.running = Some((shell, stdin));
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
