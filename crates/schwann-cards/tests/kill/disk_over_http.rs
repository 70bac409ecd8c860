//! The whole application on a disk that is full, or fails, as its clients see
//! it: what is refused, how a stream ends, and that all of it goes on without
//! a restart once there is room.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use http::Method;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};

use crate::{
    application::{Answer, Site},
    writer,
};

/// Room enough for new runs, which are refused while less than 64 MiB is free.
const SIZE: &str = "96m";

/// A server on a small disk of its own.
struct Small {
    site: Site,
    /// The disk, as this process sees it.
    disk: PathBuf,
    book: String,
    card: String,
}

/// A run, and a client that is shown what it prints.
struct Talker {
    run: String,
    client: TcpStream,
    /// Everything that the client was sent.
    seen: Vec<u8>,
}

impl Talker {
    /// Reads on; 0 at the end.
    fn read(&mut self) -> usize {
        let mut piece = vec![0; 64 << 10];
        let read = self.client.read(&mut piece).unwrap_or(0);
        self.seen.extend_from_slice(&piece[..read]);
        read
    }

    /// Reads to the end, which must be visibly none.
    fn is_cut(&mut self) {
        while self.read() > 0 {}
        assert!(!contains(&self.seen, b"\r\n0\r\n\r\n"), "it looks whole");
        assert!(!contains(&self.seen, b"\"type\":\"exit\""), "it has an end");
    }
}

impl Small {
    async fn start(folder: &Path) -> Self {
        // The signal for a file that grows too large is ignored, so that the write fails.
        let script = "mount -t tmpfs -o size=$1 small \"$2\" && trap '' XFSZ && \
                      exec \"$0\" --application \"$2\" none 10";
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]);
        command.arg(std::env::current_exe().unwrap()).arg(SIZE).arg(folder);
        let site = Site::started_by(command).await;
        let disk = format!("/proc/{}/root{}", site.process(), folder.display());
        let book = site.book().await;
        let card = json!({"code": "echo before", "language": "sh"});
        let card = site.ask(Method::POST, &format!("{book}/cards/"), card).await;
        let card = format!("{book}/cards/{}", card["id"].as_str().unwrap());
        Self { site, disk: disk.into(), book, card }
    }

    /// A run that prints 100 KB for each line that it is sent, and a client that reads it.
    async fn talker(&self) -> Talker {
        let code = "echo begun; while read x; do head -c 100000 /dev/zero | tr '\\0' x; echo; done";
        let run = self.site.run(&self.book, code).await;
        let mut client = TcpStream::connect(&self.site.address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let head = format!(
            "GET /api/v1/runs/{run}/events HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\n\
             Accept: application/x-ndjson\r\n\r\n",
            self.site.token
        );
        client.write_all(head.as_bytes()).unwrap();
        let mut talker = Talker { run, client, seen: Vec::new() };
        while !contains(&talker.seen, b"begun") {
            assert!(talker.read() > 0, "it was cut at its beginning");
        }
        talker
    }

    async fn say(&self, talker: &Talker) -> Answer {
        let path = format!("/runs/{}/stdin", talker.run);
        self.site.answer_to(Method::POST, &path, "application/octet-stream", "x\n").await
    }

    async fn new_run(&self) -> Answer {
        self.site.answer(Method::POST, &format!("{}/run", self.card), json!({})).await
    }

    /// Saves the card, and checks that it is saved or refused, and never half.
    async fn save(&self, code: &str) -> u16 {
        let before = self.site.ask(Method::GET, &self.card, Value::Null).await;
        let saved = self.site.answer(Method::PUT, &self.card, json!({"code": code})).await;
        let after = self.site.ask(Method::GET, &self.card, Value::Null).await;
        if saved.status == 200 {
            assert_eq!(after["code"], code);
        } else {
            assert_eq!(saved.status, 507, "{saved:?}");
            assert_eq!(saved.body["code"], "storage_full");
            assert_eq!(after, before);
        }
        saved.status
    }

    /// Waits until a run has its end. A log that failed is seen to every few seconds, and until then whoever reads it is cut at
    /// once, so that there is nothing to be awaited but its row.
    async fn ended(&self, run: &str) -> Value {
        let end = async {
            loop {
                let known = self.site.ask(Method::GET, &format!("/runs/{run}"), Value::Null).await;
                if known["status"] == "finished" {
                    return known;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let end = tokio::time::timeout(Duration::from_secs(60), end).await;
        end.unwrap_or_else(|_| panic!("{run} has no end after a minute"))
    }

    /// What a run left is what was shown of it, and one end.
    async fn has_all_of(&self, talker: &Talker) {
        let (run, shown) = (&talker.run, &talker.seen);
        let known = self.ended(run).await;
        assert_eq!(known["reason"], "log_failed", "{known}");
        let lines = self.site.lines(run).await;
        let shown = String::from_utf8(dechunked(shown)).unwrap();
        let whole = shown.rfind('\n').unwrap();
        // Said when nothing was printed for a while, and not kept.
        let is_beat = |line: &&str| line.contains("\"type\":\"heartbeat\"");
        let (beats, shown): (Vec<_>, Vec<_>) = shown[..whole].lines().partition(is_beat);
        if !beats.is_empty() {
            println!("its reader was shown nothing for a while: {} heartbeats", beats.len());
        }
        let lost = shown.iter().zip(&lines).position(|(shown, kept)| shown != kept);
        let (shown, kept) = (shown.len(), lines.len());
        assert!(lost.is_none() && shown < kept, "of {shown} records {kept} are kept, not {lost:?}");
        let ends = lines.iter().filter(|line| line.contains("\"type\":\"exit\"")).count();
        assert_eq!(ends, 1);
        assert!(lines.last().unwrap().contains("\"reason\":\"log_failed\""));
    }

    /// Everything works, in the server that it was before.
    async fn is_well(&self, process: u32) {
        assert_eq!(self.site.process(), process);
        assert_eq!(self.save("echo after").await, 200);
        let run = self.new_run().await;
        assert_eq!(run.status, 202, "{run:?}");
        let run = run.body["id"].as_str().unwrap();
        assert_eq!(self.ended(run).await["reason"], "exit");
        assert!(self.site.lines(run).await.iter().any(|line| line.contains("after")));
    }
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|found| found == word)
}

/// The body of a chunked response as far as it came.
fn dechunked(response: &[u8]) -> Vec<u8> {
    let at = response.windows(4).position(|found| found == b"\r\n\r\n").unwrap() + 4;
    let (mut rest, mut body) = (&response[at..], Vec::new());
    while let Some(line) = rest.windows(2).position(|found| found == b"\r\n") {
        let length =
            usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        let data = &rest[line + 2..];
        body.extend_from_slice(&data[..length.min(data.len())]);
        rest = data.get(length + 2..).unwrap_or_default();
    }
    body
}

pub(crate) fn full() {
    let folder = tempfile::tempdir().unwrap();
    writer::runtime().block_on(async {
        let small = Small::start(folder.path()).await;
        let process = small.site.process();
        let mut talker = small.talker().await;

        // Too little for new runs, and enough for those that are under way.
        let ballast = small.disk.join("ballast");
        fs::write(&ballast, vec![0; 50 << 20]).unwrap();
        let refused = small.new_run().await;
        assert_eq!((refused.status, &refused.body["code"]), (507, &json!("storage_full")));
        assert!(refused.body["detail"].is_string(), "{refused:?}");
        assert_eq!(small.say(&talker).await.status, 202);
        while talker.seen.len() < 100_000 {
            assert!(talker.read() > 0, "a run under way was cut");
        }
        assert_eq!(small.save("echo while there is little room").await, 200);

        // Nothing at all.
        let rest = small.disk.join("rest");
        let mut file = fs::File::create(&rest).unwrap();
        for length in [1 << 20, 4096] {
            while file.write_all(&vec![0; length]).is_ok() {}
        }
        while small.say(&talker).await.status == 202 {}
        talker.is_cut();
        assert_eq!(small.new_run().await.status, 507);
        // Both may happen: the database may have a page left.
        let large = format!("echo large # {}", "x".repeat(60_000));
        let mut refusals = 0;
        for number in 0..20 {
            refusals += usize::from(small.save(&format!("{large} {number}")).await == 507);
        }
        assert!(refusals > 0, "the disk is not full");
        // Whoever only reads notices nothing.
        let runs = small.site.ask(Method::GET, "/runs/", Value::Null).await;
        assert_eq!(runs["count"], 1);

        drop(file);
        fs::remove_file(&rest).unwrap();
        fs::remove_file(&ballast).unwrap();
        small.has_all_of(&talker).await;
        small.is_well(process).await;
    });
}

pub(crate) fn failing() {
    let folder = tempfile::tempdir().unwrap();
    writer::runtime().block_on(async {
        let small = Small::start(folder.path()).await;
        let process = small.site.process();
        let mut talker = small.talker().await;
        let server = Pid::from_raw(i32::try_from(process).unwrap()).unwrap();
        let limit = |current| {
            let new = Rlimit { current, maximum: None };
            prlimit(Some(server), Resource::Fsize, new).unwrap();
        };
        // No file may grow any more; the database has written more than this long ago.
        limit(Some(32 << 10));
        while small.say(&talker).await.status == 202 {}
        talker.is_cut();
        limit(None);
        small.has_all_of(&talker).await;
        small.is_well(process).await;

        // A folder of logs in which nothing can be made.
        let runs = folder.path().join("runs");
        let inside = |script: &str| {
            let mut nsenter = Command::new("nsenter");
            let target = format!("--target={process}");
            nsenter.args([&target, "--user", "--mount", "--preserve-credentials"]);
            let status = nsenter.args(["sh", "-c", script, "sh"]).arg(&runs).status().unwrap();
            assert!(status.success(), "{status}");
        };
        inside("mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\"");
        let refused = small.new_run().await;
        assert_eq!((refused.status, &refused.body["code"]), (503, &json!("storage_failed")));
        assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
        assert_eq!(small.save("echo saved all the same").await, 200);
        inside("umount \"$1\"");
        small.is_well(process).await;
    });
}
