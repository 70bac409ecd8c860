//! `schwann etl`, called as AIStore would start it.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::TcpStream,
    process::{Child, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use schwann_testkit::watch::{self, Watched};
use serde_json::Value;

use crate::{command, schwann, schwann_in};

const TARGET: (&str, &str) = ("AIS_TARGET_URL", "http://127.0.0.1:9/v1/etl/_object/etl-x/s3cr3t");

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server, killed when dropped.
struct Etl {
    folder: tempfile::TempDir,
    child: Child,
    ready: Value,
}

impl Drop for Etl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Etl {
    fn run(args: &[&str]) -> Self {
        Self::with(args, "", &[])
    }

    fn with(args: &[&str], file: &str, variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        if !file.is_empty() {
            fs::write(folder.path().join("schwann.toml"), file).unwrap();
        }
        let log = File::create(folder.path().join("log")).unwrap();
        let args = [&["--json", "etl", "--listen", "127.0.0.1:0"], args].concat();
        let mut command = command(folder.path(), &args, &[&[TARGET], variables].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|_| {
            panic!("{line:?}: {}", fs::read_to_string(folder.path().join("log")).unwrap())
        });
        Self { folder, child, ready }
    }

    fn connect(&self) -> TcpStream {
        let port = u16::try_from(self.ready["port"].as_u64().unwrap()).unwrap();
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// All that is answered, as text.
    fn put(&self, path: &str, object: &str) -> String {
        let mut stream = self.connect();
        let length = object.len();
        write!(
            stream,
            "PUT {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{object}"
        )
        .unwrap();
        let mut seen = Vec::new();
        stream.read_to_end(&mut seen).unwrap();
        String::from_utf8(seen).unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn ended(&mut self) -> Option<i32> {
        Watched::of(Pid::from_child(&self.child)).ends_within(PATIENCE);
        self.child.wait().unwrap().code()
    }

    /// A line of `/proc/PID/status`, in KiB.
    fn memory(&self, line: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let value = status.lines().find_map(|found| found.strip_prefix(line)).unwrap();
        value.trim_matches([':', '\t', ' ']).split(' ').next().unwrap().parse().unwrap()
    }
}

#[test]
fn without_its_target_it_says_so_in_one_line_and_ends_with_1() {
    for url in [None, Some(("AIS_TARGET_URL", ""))] {
        let folder = tempfile::tempdir().unwrap();
        let variables: Vec<_> = url.into_iter().collect();
        let said = schwann_in(folder.path(), &["etl", "--builtin", "echo"], &variables);
        said.bad(1, "AIS_TARGET_URL is not set");
        assert_eq!(said.err.lines().count(), 1, "{said:?}");
    }
}

#[test]
fn mistakes_are_named_before_anything_is_served() {
    schwann(&["etl"]).bad(2, "--builtin NAME");
    schwann(&["etl", "--builtin", "rot13"]).bad(2, "there is no builtin `rot13`");
    schwann(&["etl", "--", "/no/such/program"]).bad(2, "`/no/such/program` cannot be run");
    schwann(&["etl", "--builtin", "echo", "--", "cat"]).bad(2, "cannot be used with");
    let folder = tempfile::tempdir().unwrap();
    let with = |variables: &[(&str, &str)]| {
        schwann_in(folder.path(), &["etl", "--builtin", "echo"], variables)
    };
    with(&[("AIS_TARGET_URL", "not a url s3cr3t")]).bad(2, "AIS_TARGET_URL");
    with(&[TARGET, ("AIS_DIRECT_PUT_RETRIES", "three")]).bad(2, "AIS_DIRECT_PUT_RETRIES");
    with(&[TARGET, ("SCHWANN_ETL_FQN_ROOTS", "here")]).bad(2, "not an absolute path");
    with(&[TARGET, ("SCHWANN_ETL_FQN_ROOTS", "/no/such/folder")]).bad(2, "/no/such/folder");
    with(&[TARGET, ("SCHWANN_ETL_LISTN", "1")]).bad(2, "SCHWANN_ETL_LISTEN?");
    fs::write(
        folder.path().join("schwann.toml"),
        "[etl]\nbuiltin = \"echo\"\ncommand = [\"cat\"]\n",
    )
    .unwrap();
    schwann_in(folder.path(), &["config", "check"], &[]).bad(2, "etl.command");
    fs::write(folder.path().join("schwann.toml"), "[etl]\nbuiltin = \"rot13\"\n").unwrap();
    schwann_in(folder.path(), &["config", "check"], &[]).bad(2, "there are: echo");
}

#[test]
fn a_builtin_serves_until_it_is_told_to_stop() {
    let mut etl = Etl::run(&["--builtin", "upper", "--metrics", "127.0.0.1:0"]);
    assert_eq!(etl.ready["transform"], "upper");
    let seen = etl.put("/b/o", "some object");
    assert!(seen.starts_with("HTTP/1.1 200 ") && seen.ends_with("SOME OBJECT"), "{seen}");
    let metrics = etl.ready["metrics"].as_str().unwrap().to_owned();
    let address = metrics.trim_start_matches("http://").trim_end_matches("/metrics");
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").unwrap();
    let mut counted = String::new();
    stream.read_to_string(&mut counted).unwrap();
    assert!(counted.contains("schwann_etl_objects_total 1"), "{counted}");
    kill_process(Pid::from_child(&etl.child), Signal::TERM).unwrap();
    assert_eq!(etl.ended(), Some(0), "{}", etl.log());
    assert!(!etl.log().contains("s3cr3t"));
}

#[test]
fn a_program_gets_the_object_and_what_it_is() {
    let script = "printf '%s|%s|' \"$ETL_OBJECT\" \"$ETL_ARGS\"; tr a-z A-Z";
    let etl = Etl::run(&["--", "sh", "-c", script]);
    let seen = etl.put("/b/dir/o%20x?etl_args=%7B%22n%22%3A+1%7D", "object");
    assert!(seen.starts_with("HTTP/1.1 200 "), "{seen}");
    assert!(seen.contains("b/dir/o x|{\"n\": 1}|"), "{seen}");
    assert!(seen.contains("OBJECT"), "{seen}");
    // A text in a variable cannot have a NUL.
    let seen = etl.put("/b/o%00", "object");
    assert!(seen.starts_with("HTTP/1.1 400 ") && seen.contains("{\"detail\":"), "{seen}");
}

#[test]
fn a_program_that_fails_is_a_500_before_its_output_and_a_cut_after_it() {
    let script = "case $ETL_ARGS in late) printf begun;; esac; echo disk /secret/path >&2; exit 3";
    let etl = Etl::run(&["--", "sh", "-c", script]);
    let seen = etl.put("/b/o", "object");
    assert!(seen.starts_with("HTTP/1.1 500 "), "{seen}");
    let detail = "{\"detail\":\"Processing error: the program exited with code 3\"}";
    assert!(seen.ends_with(detail), "{seen}");
    assert!(etl.log().contains("disk /secret/path"), "{}", etl.log());
    let seen = etl.put("/b/o?etl_args=late", "object");
    assert!(seen.starts_with("HTTP/1.1 200 ") && seen.contains("begun"), "{seen}");
    assert!(!seen.ends_with("0\r\n\r\n"), "looks whole: {seen}");
    // It goes on.
    assert!(etl.put("/health", "").contains("405") || etl.put("/b/o", "").contains("500"));
}

#[test]
fn an_upload_that_breaks_off_never_looks_whole_to_a_program() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("whole");
    let begun = folder.path().join("begun");
    let script =
        format!("echo $$ > {}; cat > /dev/null; touch {}", begun.display(), mark.display());
    let etl = Etl::run(&["--", "sh", "-c", &script]);
    let mut stream = etl.connect();
    stream.write_all(b"PUT /b/o HTTP/1.1\r\nhost: t\r\ncontent-length: 9\r\n\r\nhalf").unwrap();
    let number = watch::written(&begun, PATIENCE, |number| number.ends_with('\n'));
    let program = Watched::number(&number);
    drop(stream);
    program.ends_within(PATIENCE);
    assert!(!mark.exists(), "half an object was taken for whole");
    // A whole one is.
    etl.put("/b/o?etl_args=x", "");
    assert!(mark.exists());
}

#[test]
fn settings_come_from_the_file_and_the_contracts_variables() {
    let file = "[etl]\ncommand = [\"sh\", \"-c\", \"cat $ETL_FILE; echo $LEVEL\"]\n\
                environment = { LEVEL = \"nine\" }\n";
    let folder = tempfile::tempdir().unwrap();
    let object = folder.path().join("object");
    fs::write(&object, "in a file").unwrap();
    let roots = folder.path().display().to_string();
    let etl = Etl::with(&[], file, &[("ETL_DIRECT_FQN", "1"), ("ETL_FQN_ROOTS", &roots)]);
    let seen = etl.put(&format!("/b/o?etl_fqn={}", object.display()), "");
    assert!(seen.contains("in a file") && seen.contains("nine"), "{seen}");
    let seen = etl.put("/b/o?etl_fqn=/etc/hostname", "");
    assert!(!seen.starts_with("HTTP/1.1 200 "), "{seen}");
    // A flag replaces what the file says of the transform.
    let etl = Etl::with(&["--builtin", "upper"], file, &[]);
    assert!(etl.put("/b/o", "flag").ends_with("FLAG"));
}

#[test]
fn a_gibibyte_goes_through_a_program_in_flat_memory() {
    const PIECE: usize = 1 << 20;
    let etl = Etl::run(&["--", "cat"]);
    assert!(etl.put("/b/warm", "up").contains("up"));
    let before = etl.memory("VmRSS");
    let mut stream = etl.connect();
    let mut reading = stream.try_clone().unwrap();
    write!(stream, "PUT /b/o HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n", 1 << 30).unwrap();
    let piece = vec![7; PIECE];
    // Nobody reads: it must stop taking, and hold no more than pipes and sockets do.
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut sent = 0;
    let stalled = loop {
        match stream.write(&piece) {
            Ok(n) => sent += n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break etl.memory("VmRSS"),
            Err(error) => panic!("{error}"),
        }
    };
    assert!(sent < 64 << 20, "{sent} bytes were taken for nobody");
    let writing = std::thread::spawn(move || {
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        while sent < 1 << 30 {
            sent += stream.write(&piece[..PIECE.min((1 << 30) - sent)]).unwrap();
        }
    });
    let mut seen = vec![0; PIECE];
    let mut got = 0;
    while got < 1 << 30 {
        let n = reading.read(&mut seen).unwrap();
        assert_ne!(n, 0, "cut after {got} bytes");
        got += n;
    }
    writing.join().unwrap();
    let most = etl.memory("VmHWM");
    assert!(stalled.saturating_sub(before) <= 8 << 10, "stalled: {before} to {stalled} KiB");
    assert!(most.saturating_sub(before) <= 8 << 10, "{before} to {most} KiB");
}
