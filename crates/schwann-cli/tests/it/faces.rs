//! Cards of `schwann up` behind the other faces, and what they may call themselves.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use schwann_testkit::watch::{self, Watched};
use serde_json::{Value, json};

use crate::{ALICE, command, schwann_in, serve::Axon};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What came back over a connection.
#[derive(Debug)]
struct Answer {
    status: u16,
    body: String,
    /// Whether it has its end.
    whole: bool,
}

impl Answer {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    #[track_caller]
    fn good(self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()
    }

    #[track_caller]
    fn refused(self, status: u16, code: &str) -> String {
        assert_eq!((self.status, self.json()["code"].as_str()), (status, Some(code)), "{self:?}");
        self.json()["detail"].as_str().unwrap().to_owned()
    }
}

fn ask(port: &Value, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
    let port = u16::try_from(port.as_u64().unwrap()).unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut seen = Vec::new();
    let until = Instant::now() + PATIENCE;
    let mut piece = vec![0; 64 << 10];
    // A reset is an end as well, and what it cuts is seen below.
    while let Ok(read @ 1..) = stream.read(&mut piece) {
        seen.extend_from_slice(&piece[..read]);
        assert!(Instant::now() < until, "no end of it: {}", String::from_utf8_lossy(&seen));
    }
    let seen = String::from_utf8(seen).unwrap();
    let (head, rest) = seen.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{seen:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return Answer { status, body: rest.to_owned(), whole: true };
    }
    let (mut body, mut rest) = (String::new(), rest);
    loop {
        let Some((size, after)) = rest.split_once("\r\n") else {
            return Answer { status, body, whole: false };
        };
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return Answer { status, body, whole: true };
        }
        let Some(chunk) = after.get(..size) else {
            return Answer { status, body, whole: false };
        };
        body.push_str(chunk);
        rest = after.get(size + 2..).unwrap_or_default();
    }
}

/// `schwann up` and its first user.
struct Up {
    up: Axon,
    token: String,
    book: String,
}

impl Up {
    fn start() -> Self {
        Self::with("", &[])
    }

    fn with(file: &str, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        if !file.is_empty() {
            fs::write(folder.path().join("schwann.toml"), file).unwrap();
        }
        let args = ["up", "--cards", "127.0.0.1:0", "--key-uri", "//Alice", "--json"];
        let listen = ["--listen", "127.0.0.1:0"];
        let listen = if flags.contains(&"--listen") { &[][..] } else { &listen };
        let up = Axon::run(folder, &[&args, listen, flags].concat());
        let password = up.ready["cards"]["first_superuser"]["password"].as_str().unwrap();
        let form = format!("username=admin@example.com&password={password}");
        let kind = "content-type: application/x-www-form-urlencoded\r\n";
        let port = &up.ready["cards"]["port"];
        let path = "/api/v1/login/access-token";
        let token = ask(port, "POST", path, kind, form.as_bytes()).good();
        let token = token["access_token"].as_str().unwrap().to_owned();
        let mut this = Self { up, token, book: String::new() };
        let book = this.api("POST", "/books/", json!({"title": "faces"})).good();
        this.book = format!("/books/{}", book["id"].as_str().unwrap());
        this
    }

    fn api(&self, method: &str, path: &str, body: Value) -> Answer {
        let headers =
            format!("authorization: Bearer {}\r\ncontent-type: application/json\r\n", self.token);
        let (path, body) = (format!("/api/v1{path}"), body.to_string());
        let body = if method == "GET" { &[][..] } else { body.as_bytes() };
        ask(&self.up.ready["cards"]["port"], method, &path, &headers, body)
    }

    fn card(&self, language: &str, code: &str, settings: Value) -> String {
        let body = json!({"language": language, "code": code, "settings": settings});
        let card = self.api("POST", &format!("{}/cards/", self.book), body).good();
        format!("{}/cards/{}", self.book, card["id"].as_str().unwrap())
    }

    fn publish(&self, card: &str, face: &str, name: &str, stream: bool) -> Value {
        let body = json!({"face": face, "name": name, "stream": stream});
        self.api("PUT", &format!("{card}/publication"), body).good()
    }

    /// What a card prints when it is run here.
    fn run(&self, card: &str) -> Answer {
        self.api("POST", &format!("{card}/run"), json!({}))
    }

    fn put(&self, path: &str, headers: &str, object: &[u8]) -> Answer {
        ask(&self.transforms(), "PUT", path, headers, object)
    }

    fn transforms(&self) -> Value {
        let url = self.up.ready["cards"]["transforms"].as_str().unwrap();
        json!(url.rsplit(':').next().unwrap().parse::<u16>().unwrap())
    }

    /// The newest run of a card, and the `exit` that its log ends with, once it has ended.
    fn ended(&self, card: &str) -> (Value, Value) {
        let runs = self.api("GET", &format!("{card}/runs/"), Value::Null).good();
        let run = runs["data"][0].clone();
        let headers =
            format!("authorization: Bearer {}\r\naccept: application/x-ndjson\r\n", self.token);
        let path = format!("/api/v1/runs/{}/events", run["id"].as_str().unwrap());
        let events = ask(&self.up.ready["cards"]["port"], "GET", &path, &headers, b"");
        assert!(events.status == 200 && events.whole, "{events:?}");
        let last: Value = serde_json::from_str(events.body.lines().last().unwrap()).unwrap();
        assert_eq!(last["type"], "exit", "{events:?}");
        (run, last)
    }
}

const SHOUT: &str = "import json, os, sys
ask = json.load(sys.stdin)
if ask['text'] == 'fail':
    sys.exit('a secret reason')
print(json.dumps({'said': ask['text'].upper(), 'by': os.environ['SYNAPSE_CALLER'], 'axon': 'forged'}))
";

const WORDS: &str = "import json, sys, time
ask = json.load(sys.stdin)
if ask.get('first'):
    sys.exit('before it began')
for word in ask['text'].split():
    print(word, flush=True)
if ask.get('half'):
    sys.exit('lost the rest')
";

#[test]
fn a_published_card_is_a_synapse_for_whoever_calls() {
    let up = Up::start();
    let card = up.card("python", SHOUT, json!({}));
    let said = up.publish(&card, "synapse", "Shout", false);
    assert_eq!(said["url"].as_str(), Some(format!("{}/Shout", up.up.url()).as_str()));
    assert!(said["command"].as_str().unwrap().contains(ALICE), "{said}");
    let filled = up.up.call("Shout", "{\"text\": \"hi\", \"kept\": 1}", &[]).good();
    let filled: Value = serde_json::from_str(&filled).unwrap();
    assert_eq!(filled, json!({"text": "hi", "kept": 1, "said": "HI", "by": crate::BOB}));
    let (run, _) = up.ended(&card);
    assert_eq!((&run["face"], &run["caller"]), (&json!("synapse"), &json!(crate::BOB)));
    assert!(run["sandbox"].as_str().unwrap().starts_with("bubblewrap"), "{run}");
    let failed = up.up.call("Shout", "{\"text\": \"fail\"}", &[]);
    failed.bad(1, "refused with 500");
    assert!(!failed.err.contains("secret"), "{failed:?}");
    assert!(up.up.log().contains("a secret reason"));

    let stream = up.card("python", WORDS, json!({}));
    let said = up.publish(&stream, "synapse", "Say", true);
    assert!(said["command"].as_str().unwrap().ends_with("--stream"), "{said}");
    let say = |fields: &str| up.up.call("Say", fields, &["--stream"]);
    assert_eq!(say("{\"text\": \"a b\"}").good(), "a\nb\n");
    say("{\"text\": \"a b\", \"first\": true}").bad(1, "refused with 500");
    let cut = say("{\"text\": \"a b\", \"half\": true}");
    assert_eq!((cut.code, cut.out.as_str()), (1, "a\nb\n"), "{cut:?}");
    assert!(cut.err.contains("cut"), "{cut:?}");

    up.api("DELETE", &format!("{card}/publication"), json!({})).good();
    up.up.call("Shout", "{\"text\": \"hi\"}", &[]).bad(1, "refused with 404");
    up.api("DELETE", &stream, json!({})).good();
    say("{\"text\": \"a\"}").bad(1, "refused with 404");
}

#[test]
fn a_published_card_answers_only_the_hotkeys_that_its_owner_named() {
    let up = Up::start();
    let card = up.card("python", SHOUT, json!({}));
    let publish = |face: &str, allow: Value| {
        let body = json!({"face": face, "name": "Shout", "allow": allow});
        up.api("PUT", &format!("{card}/publication"), body)
    };
    let call = |key: &str| {
        let args = ["call", up.up.url(), "Shout", "{\"text\": \"hi\"}", "--hotkey", ALICE];
        crate::schwann_in(Path::new("/"), &[&args[..], &["--key-uri", key]].concat(), &[])
    };
    let count = || up.api("GET", &format!("{card}/runs/"), Value::Null).good()["count"].clone();
    // With another network's prefix it is the same key.
    let bob = "14E5nqKAp3oAJcmzgZhUD2RcptBeUBScxKHgJKU4HPNcKVf3";
    let said = publish("synapse", json!([bob, crate::BOB])).good();
    assert_eq!(said["allow"], json!([crate::BOB]));
    call("//Eve").bad(1, "refused with 403");
    assert_eq!(count(), 0);
    assert!(call("//Bob").good().contains("HI"));
    assert_eq!(up.ended(&card).0["caller"], crate::BOB);
    publish("synapse", json!([ALICE])).good();
    call("//Bob").bad(1, "refused with 403");
    assert_eq!(count(), 1);

    let wrong = publish("synapse", json!([crate::BOB, format!("{}x", &crate::BOB[..47])]));
    assert_eq!(wrong.status, 422, "{wrong:?}");
    assert!(
        wrong.body.contains("is no hotkey: Invalid SS58 address: Invalid checksum"),
        "{wrong:?}"
    );
    let wrong = publish("etl", json!([crate::BOB]));
    assert_eq!(wrong.status, 422, "{wrong:?}");
    assert!(wrong.body.contains("callers of a transform are not asked who they are"), "{wrong:?}");
    publish("synapse", json!([])).good();
    assert!(call("//Eve").good().contains("HI"));
}

#[test]
fn a_list_of_hotkeys_means_nobody_where_none_is_proven() {
    let up = Up::with("[axon]\nverify = \"nothing\"\n", &[]);
    let card = up.card("python", SHOUT, json!({}));
    up.publish(&card, "synapse", "Shout", false);
    let call = || up.up.call("Shout", "{\"text\": \"hi\"}", &[]);
    assert!(call().good().contains("HI"));
    let body = json!({"face": "synapse", "name": "Shout", "allow": [crate::BOB]});
    up.api("PUT", &format!("{card}/publication"), body).good();
    call().bad(1, "refused with 403");
    assert_eq!(up.api("GET", &format!("{card}/runs/"), Value::Null).good()["count"], 1);
}

/// A server that is started by a line for a shell, killed when dropped.
struct Pod(Child);

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a line for a shell")]
fn a_pod_passes_its_objects_on_to_a_card_as_the_documentation_says() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cards.md");
    let docs = fs::read_to_string(docs).unwrap();
    let line = docs.lines().find_map(|line| line.strip_prefix("schwann etl -- ")).unwrap();
    let up = Up::with("[cards]\netl_listen = \"127.0.0.1:0\"\n", &[]);
    let code = "import os, sys
args = os.environ['ETL_ARGS']
if args == 'before': sys.exit(1)
for line in sys.stdin:
    print(line.strip().upper(), args, flush=True)
if args == 'after': sys.exit(1)
";
    let card = up.card("python", code, json!({}));
    up.publish(&card, "etl", "resize", true);
    let line = line.replace("cards:8000", &format!("127.0.0.1:{}", up.transforms()));
    // As a shell reads it.
    let start = format!("exec \"$0\" --json etl --listen 127.0.0.1:0 -- {line}");
    let folder = tempfile::tempdir().unwrap();
    let pod = Command::new("sh")
        .args(["-c", &start, env!("CARGO_BIN_EXE_schwann")])
        .current_dir(folder.path())
        .env("AIS_TARGET_URL", "http://127.0.0.1:9/v1/etl/_object/etl-x/s3cr3t")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut pod = Pod(pod);
    let mut ready = String::new();
    BufReader::new(pod.0.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    let port = serde_json::from_str::<Value>(&ready).unwrap()["port"].clone();
    let put = |args: &str| ask(&port, "PUT", &format!("/b/o?etl_args={args}"), "", b"one\ntwo\n");
    let (plain, strange) = (put("64x64"), put("a%20b%26c%3Dd"));
    let (before, after) = (put("before"), put("after"));
    assert_eq!((plain.status, plain.body.as_str()), (200, "ONE 64x64\nTWO 64x64\n"));
    assert_eq!((strange.status, strange.body.as_str()), (200, "ONE a b&c=d\nTWO a b&c=d\n"));
    assert!(plain.whole && strange.whole);
    assert_eq!(before.status, 500, "{before:?}");
    assert!(!(after.status == 200 && after.whole), "cut, and taken for whole: {after:?}");
}

#[test]
fn names_of_the_axon_are_its_own_and_what_is_published_outlives_a_restart() {
    let up = Up::start();
    let card = up.card("python", SHOUT, json!({}));
    let path = format!("{card}/publication");
    for (name, status, code) in [
        ("Echo", 409, "name_taken"),
        ("Synapse", 409, "name_taken"),
        ("with-dash", 400, "bad_name"),
    ] {
        let body = json!({"face": "synapse", "name": name});
        up.api("PUT", &path, body).refused(status, code);
    }
    let body = json!({"face": "etl", "name": "health"});
    up.api("PUT", &path, body).refused(409, "name_taken");
    up.publish(&card, "synapse", "Shout", false);
    let data = up.up.path("schwann-data");
    let data = data.to_str().unwrap().to_owned();
    let Up { up, .. } = up;
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("data");
    up.signal(Signal::INT);
    // Its folder goes with it, so its data is taken along first.
    fs::rename(&data, &kept).unwrap();
    assert_eq!(up.ended().0, Some(0));
    let args = ["up", "--cards", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--key-uri", "//Alice"];
    let args = [&args[..], &["--data", kept.to_str().unwrap(), "--json"]].concat();
    let again = Axon::run(tempfile::tempdir().unwrap(), &args);
    assert!(again.call("Shout", "{\"text\": \"hi\"}", &[]).good().contains("\"HI\""));
}

#[test]
fn a_caller_that_leaves_ends_the_card() {
    let up = Up::start();
    let code = "echo begun; sleep 600";
    let card = up.card("sh", code, json!({}));
    up.publish(&card, "synapse", "Long", true);
    let args = ["call", up.up.url(), "Long", "{}", "--hotkey", ALICE, "--key-uri", "//Bob"];
    let mut caller =
        command(Path::new("/"), &[&args[..], &["--stream", "--timeout", "50s"]].concat(), &[])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
    let mut begun = [0; 6];
    caller.stdout.take().unwrap().read_exact(&mut begun).unwrap();
    caller.kill().unwrap();
    caller.wait().unwrap();
    assert_eq!(up.ended(&card).1["reason"], "cancelled");
}

const TRANSFORM: &str = "import os, sys
data = sys.stdin.buffer.read()
if data == b'first':
    sys.exit('before it began')
sys.stdout.buffer.write(data[::-1])
sys.stdout.flush()
print(' of', os.environ['ETL_OBJECT'], os.environ['ETL_ARGS'], flush=True)
if data == b'half':
    sys.exit('lost the rest')
";

#[test]
fn a_published_card_is_a_transform_of_objects() {
    let up = Up::start();
    let card = up.card("python", TRANSFORM, json!({}));
    let said = up.publish(&card, "etl", "reverse-it", false);
    assert_eq!((&said["stream"], &said["unavailable"]), (&json!(true), &Value::Null));
    assert!(said["url"].as_str().unwrap().ends_with("/reverse-it"), "{said}");
    let answer = up.put("/reverse-it/bucket/a%20name?etl_args=x%3D1", "", "hello".as_bytes());
    assert_eq!((answer.status, answer.whole), (200, true));
    assert_eq!(answer.body, "olleh of bucket/a name x=1\n");
    let (run, _) = up.ended(&card);
    assert_eq!((&run["face"], &run["caller"]), (&json!("etl"), &json!("etl: bucket/a name")));
    let failed = up.put("/reverse-it/b/o", "", b"first");
    assert_eq!(failed.status, 500);
    assert!(!failed.body.contains("before it began"), "{failed:?}");
    let cut = up.put("/reverse-it/b/o", "", b"half");
    assert!(!cut.whole && cut.body.starts_with("flah"), "{cut:?}");
    let large = vec![b'x'; 3 << 20];
    let answer = up.put("/reverse-it/b/large", "", &large);
    assert!(answer.whole && answer.body.len() > large.len(), "{}", answer.body.len());

    assert_eq!(ask(&up.transforms(), "GET", "/health", "", b"").body, "Running");
    assert_eq!(up.put("/unknown/b/o", "", b"x").status, 404);
    // Nothing is fetched, read or sent elsewhere where there is no cluster.
    let secret = up.up.path("schwann-data/server-id");
    for (method, path, headers) in [
        ("GET", "/reverse-it/b/o".to_owned(), ""),
        ("PUT", format!("/reverse-it/b/o?etl_fqn={}", secret.display()), ""),
        ("PUT", "/reverse-it/b/o".to_owned(), "ais-node-url: http://127.0.0.1:9/x\r\n"),
        (
            "POST",
            "/reverse-it/download?original_url=http://127.0.0.1:9/&object_to=x".to_owned(),
            "",
        ),
        ("GET", "/reverse-it/ws".to_owned(), "upgrade: websocket\r\n"),
    ] {
        let refused = ask(&up.transforms(), method, &path, headers, b"");
        assert_eq!(refused.status, 400, "{method} {path}: {refused:?}");
    }
    let browser = up.put("/reverse-it/b/o", "origin: http://evil.example\r\n", b"x");
    assert_eq!(browser.status, 403);
    up.api("DELETE", &format!("{card}/publication"), json!({})).good();
    assert_eq!(up.put("/reverse-it/b/o", "", b"x").status, 404);
}

const CALLS: &str = "from axon import AxonError, call, names, stream
print(call('Echo', text='hi'))
print(''.join(stream('Count', to=3)), end='')
print('Echo' in names())
for name in ['Nothing', 'Shout', 'a/b']:
    try:
        call(name)
    except AxonError as error:
        print(name, error.status)
";

#[test]
fn a_card_calls_the_axon_from_its_sandbox_if_it_is_allowed() {
    let up = Up::start();
    let published = up.card("python", SHOUT, json!({}));
    up.publish(&published, "synapse", "Shout", false);
    let axon = json!({"axon": true});
    let card = up.card("python", CALLS, axon.clone());
    let said = up.run(&card).body;
    assert_eq!(said, "{'text': 'hi'}\n1\n2\n3\nTrue\nNothing 404\nShout 403\na/b 404\n");
    let code = "const { call, stream } = require('axon');
(async () => {
  console.log(JSON.stringify(await call('Echo', { text: 'hi' })));
  for await (const piece of stream('Count', { to: 2 })) process.stdout.write(piece);
  await call('Nothing').catch((error) => console.log(error.name, error.status));
})();";
    let card = up.card("javascript", code, axon.clone());
    assert_eq!(up.run(&card).body, "{\"text\":\"hi\"}\n1\n2\nAxonError 404\n");
    let code = "axon call Echo '{\"text\": \"hi\"}'; axon stream Count '{\"to\": 2}'
axon call Nothing >/dev/null; echo $?; axon; echo $?
ls /run/schwann; touch /run/schwann/x || rm /run/schwann/socket || echo held";
    let card = up.card("sh", code, axon);
    let said = up.run(&card).body;
    for line in
        ["{\"text\":\"hi\"}\n1\n2\n", "usage: axon", "axon.js\naxon.py\nbin\nsocket\n", "held\n"]
    {
        assert!(said.contains(line), "no {line:?} in {said}");
    }
    // One without the setting has nothing to call with, and nowhere to call.
    let code = "import os
print(os.environ.get('SCHWANN_AXON'), os.path.exists('/run/schwann'))
try:
    import axon
except ModuleNotFoundError as error:
    print(error)";
    let silent = up.card("python", code, json!({}));
    assert_eq!(up.run(&silent).body, "None False\nNo module named 'axon'\n");
    let site = up.api("GET", "/utils/site", Value::Null).good();
    assert_eq!(site["axon"], true);
}

#[test]
fn the_sample_book_has_a_card_that_calls_the_axon() {
    let up = Up::start();
    let books = up.api("GET", "/books/", Value::Null).good();
    let book = books["data"].as_array().unwrap().iter().find(|book| book["title"] == "Welcome");
    let path = format!("/books/{}/cards/", book.unwrap()["id"].as_str().unwrap());
    let cards = up.api("GET", &path, Value::Null).good();
    let cards = cards["data"].as_array().unwrap();
    let card = cards.iter().find(|card| card["settings"]["axon"] == true).unwrap();
    let said = up.run(&format!("{path}{}", card["id"].as_str().unwrap())).body;
    assert_eq!(said, "{'text': 'hello from a card'}\nevery word of this arrives by itself\n");
}

#[test]
fn a_card_that_is_cancelled_ends_its_calls() {
    let folder = tempfile::tempdir().unwrap();
    let pid = folder.path().join("pid");
    let script = format!("echo $$ > {}; exec sleep 600", pid.display());
    let synapse = json!(["sh", "-c", script]);
    let file = format!("[[synapse]]\nname = \"Slow\"\ncommand = {synapse}\nsandbox = \"none\"\n");
    let up = Up::with(&file, &[]);
    let code = "from axon import call\nprint('calling', flush=True)\ncall('Slow')";
    let card = up.card("python", code, json!({"axon": true}));
    let headers = "prefer: respond-async\r\ncontent-type: application/json\r\n";
    let headers = format!("{headers}authorization: Bearer {}\r\n", up.token);
    let port = &up.up.ready["cards"]["port"];
    let run = ask(port, "POST", &format!("/api/v1{card}/run"), &headers, b"{}").json();
    let number = watch::written(&pid, PATIENCE, |number| number.ends_with('\n'));
    let program = Watched::number(&number);
    let path = format!("/runs/{}/cancel", run["id"].as_str().unwrap());
    let cancel = json!({"signal": "KILL", "grace_ms": 0});
    assert_eq!(up.api("POST", &path, cancel).status, 202);
    // The synapse's program.
    program.ends_within(PATIENCE);
    assert_eq!(up.ended(&card).1["reason"], "cancelled");
}

#[test]
fn what_others_can_reach_publishes_and_calls_only_if_told_to() {
    let up = Up::with("", &["--listen", "0.0.0.0:0"]);
    assert!(up.up.ready["cards"].get("transforms").is_none());
    let card = up.card("python", SHOUT, json!({"axon": true}));
    for face in ["synapse", "etl"] {
        let body = json!({"face": face, "name": "Shout"});
        let refused = up.api("PUT", &format!("{card}/publication"), body);
        let why = refused.refused(409, "publishing_off");
        assert!(why.contains("[cards] publish = true"), "{why}");
    }
    let why = up.run(&card).refused(409, "outlet_unavailable");
    assert!(why.contains("[cards] call_axon = true"), "{why}");

    let told = "[cards]\npublish = true\ncall_axon = true\netl_listen = \"127.0.0.1:0\"\n";
    let up = Up::with(told, &["--listen", "0.0.0.0:0"]);
    let card =
        up.card("python", "from axon import call\nprint(call('Echo', n=1))", json!({"axon": true}));
    up.publish(&card, "etl", "told", true);
    assert_eq!(up.put("/told/b/o", "", b"").body, "{'n': 1}\n");

    // Without an axon there are transforms, and no synapses.
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("schwann.toml"), told).unwrap();
    let alone = Axon::run(folder, &["cards", "--listen", "127.0.0.1:0", "--json"]);
    let site = ask(&alone.ready["port"], "GET", "/api/v1/utils/site", "", b"").good();
    assert_eq!(site["faces"][0]["available"], false);
    assert!(site["faces"][0]["reason"].as_str().unwrap().contains("schwann up"), "{site}");
    assert_eq!((&site["faces"][1]["available"], &site["axon"]), (&json!(true), &json!(false)));
    schwann_in(
        Path::new("/"),
        &["cards", "--listen", "127.0.0.1:0", "--data", "/dev/null/x"],
        &[("SCHWANN_CARDS_ETL_LISTEN", "nowhere")],
    )
    .bad(2, "SCHWANN_CARDS_ETL_LISTEN");
}

#[test]
fn a_synapse_in_a_sandbox_sees_what_it_is_shown_and_no_more_than_it_may_have() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("model")).unwrap();
    fs::write(folder.path().join("model/size"), "small").unwrap();
    fs::write(folder.path().join("key"), "secret").unwrap();
    let path = folder.path().display().to_string();
    let script = format!(
        "shown=$(cat {path}/model/size); hidden=$(cat {path}/key 2>&1); \
         files=$(ulimit -n); head -c 3000000 /dev/zero > big 2>/dev/null && big=kept || big=refused; \
         printf '{{\"shown\":\"%s\",\"files\":%s,\"big\":\"%s\",\"hidden\":%s}}' \
         $shown $files $big $(echo $hidden | grep -q secret && echo false || echo true)"
    );
    let command = json!(["sh", "-c", script]);
    let file = format!(
        "[[synapse]]\nname = \"Held\"\ncommand = {command}\nsandbox = \"strict\"\nread_only = [\"model\"]\n\
         max_open_files = 33\nmax_folder = \"1MiB\"\n"
    );
    fs::write(folder.path().join("schwann.toml"), file).unwrap();
    let args = ["axon", "--listen", "127.0.0.1:0", "--key-uri", "//Alice", "--json"];
    let axon = Axon::run(folder, &args);
    let said: Value = serde_json::from_str(&axon.call("Held", "{}", &[]).good()).unwrap();
    assert_eq!(said, json!({"shown": "small", "files": 33, "big": "refused", "hidden": true}));
}
