//! `schwann axon` and `schwann up`, called as a person would.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use schwann_testkit::watch::{self, Watched};
use serde_json::{Value, json};

use crate::{ALICE, BOB, Said, command, schwann_in};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running axon, stopped when dropped.
pub(crate) struct Axon {
    folder: tempfile::TempDir,
    child: Child,
    pub(crate) ready: Value,
}

impl Axon {
    /// Serves these `[[synapse]]`s in a folder of its own, as Alice.
    fn serve(synapses: &str) -> Self {
        Self::in_folder(tempfile::tempdir().unwrap(), synapses, &[])
    }

    fn in_folder(folder: tempfile::TempDir, synapses: &str, flags: &[&str]) -> Self {
        fs::write(folder.path().join("schwann.toml"), synapses).unwrap();
        let args = ["axon", "--listen", "127.0.0.1:0", "--key-uri", "//Alice", "--json"];
        Self::run(folder, &[&args, flags].concat())
    }

    pub(crate) fn run(folder: tempfile::TempDir, args: &[&str]) -> Self {
        let log = File::create(folder.path().join("log")).unwrap();
        let mut command = command(folder.path(), args, &[]);
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|_| {
            panic!("{line:?}: {}", fs::read_to_string(folder.path().join("log")).unwrap())
        });
        Self { folder, child, ready }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn url(&self) -> &str {
        self.ready["url"].as_str().unwrap()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    /// Waits until it has logged this.
    #[track_caller]
    fn logs(&self, word: &str) {
        watch::written(&self.path("log"), PATIENCE, |log| log.contains(word));
    }

    pub(crate) fn call(&self, name: &str, fields: &str, rest: &[&str]) -> Said {
        let args = ["call", self.url(), name, fields, "--hotkey", ALICE, "--key-uri", "//Bob"];
        // Not in the axon's folder, whose file is the axon's.
        schwann_in(Path::new("/"), &[&args, rest].concat(), &[])
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The exit code, and what it logged.
    pub(crate) fn ended(mut self) -> (Option<i32>, String) {
        Watched::of(Pid::from_child(&self.child)).ends_within(PATIENCE);
        (self.child.wait().unwrap().code(), self.log())
    }
}

impl Drop for Axon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn sh(name: &str, script: &str, rest: &str) -> String {
    let command = json!(["sh", "-c", script]);
    format!("[[synapse]]\nname = \"{name}\"\ncommand = {command}\nsandbox = \"none\"\n{rest}\n")
}

#[test]
fn a_program_fills_a_synapse() {
    let script = r#"read input; printf '{"caller":"%s","input":%s,"timeout":1,"axon":{"hotkey":"x"}}' \
        "$SYNAPSE_CALLER" "$input""#;
    let axon = Axon::serve(&sh("Fill", script, "hash = [\"text\"]"));
    let out = axon.call("Fill", "{\"text\":\"hé\"}", &["--hash", "text"]).good();
    let filled: Value = serde_json::from_str(&out).unwrap();
    // The request's fields, and the program's over them; not what is no field.
    let expected = json!({"text": "hé", "caller": BOB, "input": {"text": "hé"}});
    assert_eq!(filled, expected);
    // The same by the other protocol, on the same port.
    let btauth = ["--hash", "text", "--protocol", "btauth", "--json"];
    let answer: Value =
        serde_json::from_str(&axon.call("Fill", "{\"text\":\"hé\"}", &btauth).good()).unwrap();
    assert_eq!((&answer["status_code"], &answer["synapse"]["caller"]), (&json!(200), &json!(BOB)));
}

#[test]
fn the_example_of_a_python_program_works() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("translate.py"),
        "import json, sys\nask = json.load(sys.stdin)\n\
         print(json.dumps({'translated': ask['text'][::-1], 'target': ask['target'].upper()}))\n",
    )
    .unwrap();
    let axon = Axon::in_folder(
        folder,
        "[[synapse]]\nname = \"Translate\"\ncommand = [\"python3\", \"translate.py\"]\n\
         hash = [\"text\", \"target\"]\nrequired = [\"text\", \"target\"]\nsandbox = \"none\"\n",
        &[],
    );
    let rest = ["--hash", "text,target", "--required", "text"];
    let out = axon.call("Translate", "{\"text\":\"abc\",\"target\":\"de\"}", &rest).good();
    assert_eq!(out, "{\"text\":\"abc\",\"target\":\"DE\",\"translated\":\"cba\"}\n");
    axon.call("Translate", "{\"target\":\"de\"}", &rest).bad(1, "the field `text` is missing");
}

#[test]
fn a_program_streams_as_it_writes() {
    let axon =
        Axon::serve(&sh("Say", "mkfifo go; printf one; read x <go; printf two", "stream = true"));
    let args =
        ["call", axon.url(), "Say", "{}", "--hotkey", ALICE, "--key-uri", "//Bob", "--stream"];
    let mut command = command(Path::new("/"), &args, &[]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut first = [0; 3];
    out.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"one");
    fs::write(axon.path("go"), "\n").unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), child.wait().unwrap().code()), ("two", Some(0)));
}

#[test]
fn a_program_that_fails_is_an_error_whose_reason_is_in_the_log() {
    let fails = "echo 'model file is missing' >&2; exit 3";
    let all = [
        sh("Before", fails, ""),
        sh("Streamed", fails, "stream = true"),
        sh("After", "echo half; exit 3", "stream = true"),
        sh("Text", "echo not json", ""),
        sh("Silent", "true", ""),
        sh("Slow", "sleep 60", "timeout = \"100ms\""),
    ];
    let axon = Axon::serve(&all.concat());
    for (name, rest) in [("Before", &[][..]), ("Streamed", &["--stream"])] {
        let said = axon.call(name, "{}", rest);
        said.bad(1, "refused with 500: Internal Server Error #");
        assert!(!said.err.contains("missing"), "told the caller: {said:?}");
        let id = said.err.split('#').nth(1).unwrap().split_whitespace().next().unwrap();
        let log = axon.log();
        let line = log.lines().find(|line| line.contains(id)).unwrap_or_else(|| panic!("{log}"));
        assert!(
            line.contains("exited with code 3") && log.contains("model file is missing"),
            "{log}"
        );
    }
    let said = axon.call("After", "{}", &["--stream"]);
    assert_eq!((said.code, said.out.as_str()), (1, "half\n"), "{said:?}");
    assert!(said.err.contains("the answer was cut after 5 bytes"), "{said:?}");
    axon.call("Text", "{}", &[]).bad(1, "refused with 500");
    axon.call("Silent", "{}", &[]).bad(1, "refused with 500");
    axon.call("Slow", "{}", &[]).bad(1, "refused with 408");
    let log = axon.log();
    assert!(log.contains("not one JSON object") && log.contains("nothing came out"), "{log}");
}

#[test]
fn a_caller_that_leaves_ends_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let script = "mkfifo held; exec 9<>held; echo $$; exec sleep 60";
    let axon = Axon::in_folder(folder, &sh("Long", script, "stream = true"), &[]);
    let args =
        ["call", axon.url(), "Long", "{}", "--hotkey", ALICE, "--key-uri", "//Bob", "--stream"];
    let mut command = command(Path::new("/"), &args, &[]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut pid = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut pid).unwrap();
    let program = Watched::number(&pid);
    child.kill().unwrap();
    child.wait().unwrap();
    let began = Instant::now();
    program.ends_within(PATIENCE);
    assert!(began.elapsed() < Duration::from_millis(500), "took {:?}", began.elapsed());
}

#[test]
fn who_may_not_call_is_refused() {
    let axon = Axon::serve(&format!(
        "[[synapse]]\nname = \"Denied\"\nbuiltin = \"echo\"\ndeny = [\"{BOB}\"]\n\
         [[synapse]]\nname = \"Allowed\"\nbuiltin = \"echo\"\nallow = [\"{BOB}\"]\n\
         [[synapse]]\nname = \"Others\"\nbuiltin = \"echo\"\nallow = [\"{ALICE}\"]\n\
         [[synapse]]\nname = \"Small\"\nbuiltin = \"echo\"\nmax_body = \"1KiB\"\n\
         [[synapse]]\nname = \"Hashed\"\nbuiltin = \"echo\"\nhash = [\"text\"]\n"
    ));
    axon.call("Denied", "{}", &[]).bad(1, "refused with 403");
    axon.call("Others", "{}", &[]).bad(1, "refused with 403");
    assert_eq!(axon.call("Allowed", "{\"a\":1}", &[]).good(), "{\"a\":1}\n");
    axon.call("Nobody", "{}", &[]).bad(1, "refused with 404");
    let big = format!("{{\"text\":\"{}\"}}", "x".repeat(2000));
    axon.call("Small", &big, &[]).bad(1, "413");
    axon.call("Hashed", "{\"text\":\"a\"}", &[]).bad(1, "hint: `schwann doctor`");
    // And the doctor knows why.
    let args = ["doctor", axon.url(), "Hashed", "{\"text\":\"a\"}", "--hotkey", ALICE];
    let said = schwann_in(Path::new("/"), &[&args[..], &["--key-uri", "//Bob"]].concat(), &[]);
    assert!(said.code == 1 && said.out.contains("-> --hash text"), "{said:?}");
    let said = schwann_in(
        Path::new("/"),
        &["doctor", axon.url(), "Allowed", "--hotkey", ALICE, "--key-uri", "//Bob"],
        &[],
    );
    assert!(said.code == 0 && said.out.contains("ok  call"), "{said:?}");
    let said = schwann_in(
        Path::new("/"),
        &["doctor", axon.url(), "Allowed", "--hotkey", BOB, "--key-uri", "//Bob"],
        &[],
    );
    assert!(said.code == 1 && said.out.contains("BAD hotkey"), "{said:?}");
}

#[test]
fn what_must_be_signed_is_said_in_the_file() {
    let axon = Axon::serve(
        "[axon]\nbound = \"body-covered\"\n\
         [[synapse]]\nname = \"Covered\"\nbuiltin = \"echo\"\n\
         [[synapse]]\nname = \"Hashed\"\nbuiltin = \"echo\"\nhash = [\"a\"]\n\
         [[synapse]]\nname = \"Open\"\nbuiltin = \"echo\"\nbound = \"optional\"\n\
         [[synapse]]\nname = \"Strict\"\nbuiltin = \"echo\"\nbound = \"required\"\nhash = [\"a\"]\n",
    );
    let fields = "{\"a\":1}";
    let good = format!("{fields}\n");
    let hash = ["--hash", "a"];
    assert_eq!(axon.call("Open", fields, &[]).good(), good);
    assert_eq!(axon.call("Hashed", fields, &hash).good(), good);
    axon.call("Covered", fields, &[]).bad(1, "the signature must cover the body here");
    axon.call("Strict", fields, &hash).bad(1, "a bound signature is required here");
    for how in [&["--bound"][..], &["--protocol", "btauth"]] {
        assert_eq!(axon.call("Covered", fields, how).good(), good);
        assert_eq!(axon.call("Strict", fields, &[&hash, how].concat()).good(), good);
    }
    let args = ["call", axon.url(), "Covered", fields, "--hotkey", ALICE, "--key-uri", "//Bob"];
    let said = schwann_in(Path::new("/"), &args, &[("SCHWANN_CALL_BOUND", "true")]);
    assert_eq!(said.good(), good);
}

#[test]
fn a_proxy_is_believed_if_the_file_says_so() {
    for (trusted, expected) in [("", "127.0.0.1"), ("\"127.0.0.1\"", "203.0.113.9")] {
        let tells = sh("Tell", r#"printf '{"ip":"%s"}' "$SYNAPSE_CALLER_IP""#, "");
        let axon = Axon::serve(&format!("[axon]\ntrusted_proxies = [{trusted}]\n{tells}"));
        let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", proxy.local_addr().unwrap());
        let address = axon.url().strip_prefix("http://").unwrap().to_owned();
        let forwarding = std::thread::spawn(move || {
            let (mut client, _) = proxy.accept().unwrap();
            let added = "\r\nx-forwarded-for: 198.51.100.1, 203.0.113.9\r\nconnection: close\r\n";
            let request = read_request(&mut client).replacen("\r\n", added, 1);
            let mut server = TcpStream::connect(address).unwrap();
            server.write_all(request.as_bytes()).unwrap();
            std::io::copy(&mut server, &mut client).unwrap();
        });
        let args = ["call", &url, "Tell", "{}", "--hotkey", ALICE, "--key-uri", "//Bob"];
        let said = schwann_in(Path::new("/"), &args, &[]);
        assert_eq!(said.good(), format!("{{\"ip\":\"{expected}\"}}\n"));
        forwarding.join().unwrap();
    }
}

#[test]
fn an_upstream_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = format!("http://{}/work", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let mut requests = Vec::new();
        for answer in [
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 12\r\n\r\n{\"done\":true}",
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 13\r\n\r\n{\"done\":true}",
            "HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n\
             9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n\
             9\r\ndata: 1\n\n\r\n",
        ] {
            let (mut stream, _) = listener.accept().unwrap();
            requests.push(read_request(&mut stream));
            stream.write_all(answer.as_bytes()).unwrap();
        }
        requests
    });
    let axon = Axon::serve(&format!(
        "[[synapse]]\nname = \"Work\"\nupstream = \"{upstream}\"\n\
         [[synapse]]\nname = \"Feed\"\nupstream = \"{upstream}\"\nstream = true\n"
    ));
    axon.call("Work", "{\"a\":1}", &[]).bad(1, "refused with 500");
    assert_eq!(axon.call("Work", "{\"a\":1}", &[]).good(), "{\"a\":1,\"done\":true}\n");
    assert_eq!(axon.call("Feed", "{}", &["--stream"]).good(), "data: 1\n\ndata: 2\n\n");
    let said = axon.call("Feed", "{}", &["--stream"]);
    assert_eq!((said.code, said.out.as_str()), (1, "data: 1\n\n"), "{said:?}");
    let requests = server.join().unwrap();
    assert!(requests[1].starts_with("POST /work HTTP/1.1\r\n"), "{}", requests[1]);
    assert!(requests[1].contains(&format!("synapse-caller: {BOB}")), "{}", requests[1]);
    assert!(requests[1].ends_with("{\"a\":1}"), "{}", requests[1]);
}

fn read_request(stream: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(b"}") {
        let mut piece = [0; 4096];
        let n = stream.read(&mut piece).unwrap();
        assert_ne!(n, 0);
        seen.extend_from_slice(&piece[..n]);
    }
    String::from_utf8(seen).unwrap()
}

#[test]
fn told_to_stop_it_lets_calls_end() {
    for signal in [Signal::TERM, Signal::INT] {
        let axon = Axon::serve(&sh(
            "Say",
            "mkfifo go; printf one; read x <go; printf two",
            "stream = true",
        ));
        let args =
            ["call", axon.url(), "Say", "{}", "--hotkey", ALICE, "--key-uri", "//Bob", "--stream"];
        let mut command = command(Path::new("/"), &args, &[]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut [0; 3]).unwrap();
        axon.signal(signal);
        axon.logs("stopping:");
        fs::write(axon.path("go"), "\n").unwrap();
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        assert_eq!((rest.as_str(), child.wait().unwrap().code()), ("two", Some(0)));
        let (code, log) = axon.ended();
        assert_eq!(code, Some(0), "{log}");
    }
}

#[test]
fn a_second_signal_does_not_wait() {
    let axon = Axon::serve(&sh("Long", "echo begun; exec sleep 60", "stream = true"));
    let args =
        ["call", axon.url(), "Long", "{}", "--hotkey", ALICE, "--key-uri", "//Bob", "--stream"];
    let mut command = command(Path::new("/"), &args, &[]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut begun = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
    axon.signal(Signal::INT);
    axon.logs("stopping:");
    axon.signal(Signal::INT);
    let (code, log) = axon.ended();
    assert!(code == Some(1) && log.contains("error: stopped at once"), "{log}");
    let said = crate::said(child.wait_with_output().unwrap());
    assert!(said.code == 1 && said.err.contains("the answer was cut"), "{said:?}");
}

#[test]
fn an_address_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let said =
        schwann_in(folder.path(), &["up", "--listen", &address, "--key-uri", "//Alice"], &[]);
    said.bad(2, &format!("cannot listen on {address}: "));
    assert!(said.err.contains("hint: --listen 127.0.0.1:0 picks a free port"), "{said:?}");
}

#[test]
fn metrics_are_on_a_port_of_their_own() {
    let axon = Axon::in_folder(
        tempfile::tempdir().unwrap(),
        "[[synapse]]\nname = \"Echo\"\nbuiltin = \"echo\"\n",
        &["--metrics", "127.0.0.1:0"],
    );
    axon.call("Echo", "{}", &[]).good();
    let url = axon.ready["metrics"].as_str().unwrap();
    let address = url.strip_prefix("http://").unwrap().strip_suffix("/metrics").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.contains("synapse=\"Echo\""), "{text}");
}

#[test]
fn used_nonces_are_remembered_where_it_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let synapses =
        "[axon]\nnonces = \"nonces\"\n[[synapse]]\nname = \"Echo\"\nbuiltin = \"echo\"\n";
    let axon = Axon::in_folder(folder, synapses, &[]);
    axon.call("Echo", "{}", &[]).good();
    assert!(fs::read_dir(axon.path("nonces")).unwrap().next().is_some());

    // Beside the file, wherever it is served from.
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("etc")).unwrap();
    fs::write(folder.path().join("etc/axon.toml"), synapses).unwrap();
    let args = ["axon", "--config", "etc/axon.toml", "--listen", "127.0.0.1:0", "--json"];
    let axon = Axon::run(folder, &[&args[..], &["--key-uri", "//Alice"]].concat());
    assert!(axon.path("etc/nonces").is_dir() && !axon.path("nonces").exists());
}

#[test]
fn a_log_that_is_no_terminal_has_no_colours() {
    let axon = Axon::serve(&sh("Text", "echo not json", ""));
    axon.call("Text", "{}", &[]).bad(1, "refused with 500");
    let log = axon.log();
    assert!(log.contains("ERROR") && !log.contains('\x1b'), "{log:?}");
}

#[test]
fn up_serves_samples_and_says_how_to_try_them() {
    let folder = tempfile::tempdir().unwrap();
    let up =
        Axon::run(folder, &["up", "--listen", "127.0.0.1:0", "--cards", "127.0.0.1:0", "--json"]);
    let commands = up.ready["commands"].as_array().unwrap().clone();
    assert_eq!(commands.len(), 3);
    let expected = [
        "{\"text\":\"hello\"}\n",
        "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n",
        "every word of this arrives by itself",
    ];
    for (line, expected) in commands.iter().zip(expected) {
        assert_eq!(pasted(line.as_str().unwrap()).good(), expected);
    }
    let log = up.log();
    assert!(log.contains("note: no key is set, so this axon has a throw-away one"), "{log}");
    up.signal(Signal::INT);
    assert_eq!(up.ended().0, Some(0));
}

/// Typed as it was printed.
#[expect(clippy::disallowed_methods, reason = "a person's shell")]
fn pasted(line: &str) -> Said {
    let mut shell = std::process::Command::new("sh");
    crate::said(shell.args(["-c", line]).current_dir("/").output().unwrap())
}

#[test]
fn up_says_how_to_try_the_synapses_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = "[[synapse]]\nname = \"Hashed\"\nbuiltin = \"echo\"\nhash = [\"text\", \"it's\"]\n\
                required = [\"more\"]\n";
    fs::write(folder.path().join("schwann.toml"), file).unwrap();
    let up = Axon::run(
        folder,
        &[
            "up",
            "--listen",
            "127.0.0.1:0",
            "--cards",
            "127.0.0.1:0",
            "--key-uri",
            "//Alice",
            "--json",
        ],
    );
    let out = pasted(up.ready["commands"][0].as_str().unwrap()).good();
    let filled: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(filled, json!({"text": "hello", "it's": "hello", "more": "hello"}));
    assert!(!up.log().contains("note:"), "a note about a key that is set: {}", up.log());
}

#[test]
fn up_streams_its_samples_piece_by_piece() {
    let folder = tempfile::tempdir().unwrap();
    let up = Axon::run(
        folder,
        &[
            "up",
            "--listen",
            "127.0.0.1:0",
            "--cards",
            "127.0.0.1:0",
            "--key-uri",
            "//Alice",
            "--json",
        ],
    );
    let args = ["doctor", up.url(), "Count", "--hotkey", ALICE, "--key-uri", "//Bob", "--stream"];
    let said = schwann_in(Path::new("/"), &args, &[]);
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
    assert!(said.out.contains("ok  stream    10 pieces"), "{said:?}");
    up.call("Count", "{\"to\":-1}", &["--stream"]).bad(1, "refused with 400: the field `to`");
    up.call("Count", "{}", &[]).bad(1, "hint: --stream prints an answer that is no JSON");
}

/// What a server of cards answers to a form that logs in.
fn log_in(served: &Value, email: &str, password: &str) -> String {
    use std::io::{Read as _, Write as _};
    let port = served["port"].as_u64().unwrap();
    let mut connection =
        std::net::TcpStream::connect(("127.0.0.1", u16::try_from(port).unwrap())).unwrap();
    let form = format!("username={email}&password={password}");
    let request = format!(
        "POST /api/v1/login/access-token HTTP/1.1\r\nHost: cards\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    );
    connection.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn cards_say_the_first_password_once_and_keep_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("kept");
    let args = ["cards", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap(), "--json"];
    let first = Axon::run(tempfile::tempdir().unwrap(), &args);
    let superuser = first.ready["first_superuser"].clone();
    let (email, password) =
        (superuser["email"].as_str().unwrap(), superuser["password"].as_str().unwrap());
    let answer = log_in(&first.ready, email, password);
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("access_token"), "{answer}");
    assert!(!first.log().contains(password), "the log is not for passwords");
    first.signal(Signal::INT);
    assert_eq!(first.ended().0, Some(0));

    let second = Axon::run(tempfile::tempdir().unwrap(), &args);
    assert!(second.ready.get("first_superuser").is_none(), "{}", second.ready);
    assert!(log_in(&second.ready, email, password).starts_with("HTTP/1.1 200 "));
    assert!(log_in(&second.ready, email, "not the password").starts_with("HTTP/1.1 400 "));
}

#[test]
fn cards_are_counted_on_a_port_of_their_own() {
    let args = ["cards", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--json"];
    let cards = Axon::run(tempfile::tempdir().unwrap(), &args);
    let url = cards.ready["metrics"].as_str().unwrap();
    let address = url.strip_prefix("http://").unwrap().strip_suffix("/metrics").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    assert!(text.contains("\nschwann_cards_running 0\n") && text.contains("# EOF"), "{text}");
}

#[test]
fn up_serves_cards_beside_the_axon() {
    let folder = tempfile::tempdir().unwrap();
    let up =
        Axon::run(folder, &["up", "--listen", "127.0.0.1:0", "--cards", "127.0.0.1:0", "--json"]);
    let cards = &up.ready["cards"];
    let password = cards["first_superuser"]["password"].as_str().unwrap();
    let answer = log_in(cards, "admin@example.com", password);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(up.path("schwann-data/cards.sqlite").exists());
}

#[test]
fn cards_without_a_place_for_their_data_say_so() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let args = ["cards", "--listen", "127.0.0.1:0", "--data", "file/data"];
    schwann_in(folder.path(), &args, &[]).bad(1, "cannot use the data folder file/data");
}
