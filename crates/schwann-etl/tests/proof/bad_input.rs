//! What nobody should send: each thing gets its documented status and a clear `detail`, and the server goes on.

use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use schwann_etl::{EtlServer, Object, transform};
use serde_json::json;

use crate::support::{
    client::{Answer, Caller, Message, Socket, UPGRADE, ask},
    scripted::Scripted,
    served::{Served, serve_etl, settings},
};

/// A server whose transform says what it was asked, and a folder of files.
struct Scene {
    etl: Served,
    target: Scripted,
    folder: tempfile::TempDir,
    inside: std::path::PathBuf,
}

impl Scene {
    /// Files may be read below `folder/inside` if `confined`, and anywhere otherwise.
    async fn new(confined: bool) -> Self {
        let target = Scripted::start().await;
        let folder = tempfile::tempdir().expect("a folder");
        let inside = folder.path().join("inside");
        fs::create_dir_all(inside.join("sub")).expect("room for a folder");
        fs::write(inside.join("file"), "inside").expect("room for a file");
        fs::write(folder.path().join("outside"), "outside").expect("room for a file");
        symlink(folder.path().join("outside"), inside.join("out")).expect("a link");
        symlink("../outside", inside.join("relative-out")).expect("a link");
        symlink("file", inside.join("in")).expect("a link");
        symlink("loop", inside.join("loop")).expect("a link");
        symlink("/proc/self/environ", inside.join("environ")).expect("a link");
        mknodat(CWD, inside.join("pipe"), FileType::Fifo, Mode::from(0o600), 0).expect("a pipe");
        let mut settings = settings(&target.url());
        if confined {
            settings.fqn_roots = vec![inside.clone()];
        }
        let echo = transform::buffered(|object: &Object, data| {
            if object.etl_args() == "args" {
                Ok(object.etl_args().to_owned().into())
            } else {
                Ok(data)
            }
        });
        let etl = EtlServer::new(settings, echo).expect("settings that can be kept");
        Self { etl: serve_etl(etl).await, target, folder, inside }
    }

    async fn put(&self, query: &str, headers: &str) -> Answer {
        ask(self.etl.address, "PUT", &format!("/b/o{query}"), headers, b"body").await
    }

    async fn file(&self, file: &Path) -> Answer {
        let fqn = file.display().to_string().replace('%', "%25").replace('/', "%252F");
        self.put(&format!("?etl_fqn={fqn}"), "").await
    }

    /// It serves as if nothing had been.
    async fn goes_on(&self) {
        let answer = self.put("", "").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "body"));
    }

    #[track_caller]
    fn is(&self, what: &str, answer: &Answer, status: u16, detail: &str) {
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/json"), "{what}");
        let said = answer.detail();
        assert!(said.contains(detail), "{what}: {said}");
        assert!(!said.contains("s3cr3t"), "{what}: {said}");
    }
}

#[tokio::test]
async fn queries_that_mean_nothing_are_passed_over() {
    let scene = Scene::new(false).await;
    for query in [
        "?",
        "?&&&",
        "?=",
        "?foo",
        "?foo=bar&foo",
        "?%zz=%zz",
        "?etl_fqn",
        "?etl_fqn=&etl_fqn=%20",
        "?etl_argsx=1",
        "?ETL_FQN=/etc/hostname",
        "?etl_args=%FF%FE",
        "?a=%00",
    ] {
        let answer = scene.put(query, "").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "body"), "{query}");
    }
    let answer = scene.put("?etl_args=%zz&etl_args=args", "").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "args"));
}

#[tokio::test]
async fn file_names_that_are_none_are_refused() {
    let scene = Scene::new(false).await;
    for (query, status, detail) in [
        ("?etl_fqn=%2500", 400, "NUL"),
        ("?etl_fqn=/", 400, "names no file"),
        ("?etl_fqn=/..", 400, "names no file"),
        ("?etl_fqn=%2F%2E%2E%2F%2E", 400, "names no file"),
        ("?etl_fqn=%252Fno%25zzsuch", 404, "file not found at '/no%zzsuch'"),
        ("?etl_fqn=/no/such", 404, "Error processing object 'b/o': file not found at '/no/such'."),
        ("?etl_fqn=%25FF%25FE", 404, "file not found"),
        ("?etl_fqn=%zz", 404, "file not found at '/%zz'"),
    ] {
        scene.is(query, &scene.put(query, "").await, status, detail);
    }
    let long = scene.put(&format!("?etl_fqn=/{}", "n".repeat(5000)), "").await;
    scene.is("a name of 5,000 characters", &long, 400, "'/nnnn");
    scene.goes_on().await;
}

#[tokio::test]
async fn what_is_not_a_regular_file_is_refused_without_waiting_for_it() {
    let scene = Scene::new(false).await;
    let inside = &scene.inside;
    for (file, detail) in [
        (inside.clone(), "a directory"),
        (inside.join("pipe"), "a pipe"),
        (inside.join("loop"), "cannot be followed"),
        ("/proc/self/environ".into(), "a part of the system"),
        ("/proc/1/root/etc/hostname".into(), "a part of the system"),
        ("/sys/kernel/notes".into(), "a part of the system"),
        ("/dev/zero".into(), "a part of the system"),
        ("/dev/../proc/version".into(), "a part of the system"),
        (inside.join("environ"), "a part of the system"),
    ] {
        let what = file.display().to_string();
        scene.is(&what, &scene.file(&file).await, 400, detail);
    }
    // Without roots, links are followed, as the contract has it.
    let answer = scene.file(&inside.join("out")).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "outside"));
    scene.goes_on().await;
}

#[tokio::test]
async fn with_roots_nothing_outside_them_is_read() {
    let scene = Scene::new(true).await;
    let (inside, outside) = (&scene.inside, scene.folder.path().join("outside"));
    for file in [inside.join("file"), inside.join("in"), inside.join("sub/../file")] {
        let answer = scene.file(&file).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "inside"), "{}", file.display());
    }
    for file in [
        outside.clone(),
        inside.join("../outside"),
        inside.join("out"),
        inside.join("relative-out"),
        inside.join("sub/../../outside"),
        "/etc/hostname".into(),
        format!("{}x/file", inside.display()).into(),
    ] {
        let answer = scene.file(&file).await;
        scene.is(&file.display().to_string(), &answer, 403, "outside the folders that may be read");
    }
    for file in ["/proc/self/environ", "/proc/self/root/etc/hostname", "/dev/stdin"] {
        let answer = scene.file(Path::new(file)).await;
        scene.is(file, &answer, 403, "outside the folders that may be read");
    }
    let environ = scene.file(&inside.join("environ")).await;
    scene.is("a link to /proc", &environ, 403, "outside the folders that may be read");
    scene.goes_on().await;
}

#[tokio::test]
async fn pipelines_that_lead_nowhere_are_refused_before_the_transform_runs() {
    let scene = Scene::new(false).await;
    for hop in [
        "nowhere",
        "http://",
        "http:///path",
        "ftp://h/x",
        "//h/x",
        "http://u:p@h/x",
        "http://h:99999/x",
        "http://h:0/x",
        "http://h:port/x",
        "http://[::1/x",
        "http://h/a b",
        "http://h\\x/",
        "http://?x",
        "https://",
        "http://h:/x",
    ] {
        let answer = scene.put("", &format!("Ais-Node-Url: {hop}\r\n")).await;
        scene.is(hop, &answer, 400, "Invalid pipeline header: ");
    }
    for header in [
        ",",
        ",,,,",
        "http://h:1,",
        ",http://h:1",
        "http://a:1,,http://b:2",
        "http://a:1, ,http://b:2",
    ] {
        let answer = scene.put("", &format!("Ais-Node-Url: {header}\r\n")).await;
        let detail = "Invalid pipeline header: Pipeline header contains empty entry";
        scene.is(header, &answer, 400, detail);
    }
    let twice = scene.put("", "Ais-Node-Url: http://a:1\r\nAis-Node-Url: http://b:1\r\n").await;
    scene.is("a header twice", &twice, 400, "given twice");
    let bytes = scene.put("", "Ais-Node-Url: http://h/\u{e9}\r\n").await;
    scene.is("a header that is not ASCII", &bytes, 400, "Invalid pipeline header: ");
    assert!(scene.target.seen("").is_empty(), "something was asked");
    scene.goes_on().await;
}

#[tokio::test]
async fn a_host_that_does_not_exist_is_a_failed_delivery() {
    let scene = Scene::new(false).await;
    let answer = scene.put("", "Ais-Node-Url: http://no-such-host.invalid:1/x\r\n").await;
    scene.is("no such host", &answer, 502, "Direct put failed after retries: ");
    scene.goes_on().await;
}

#[tokio::test]
async fn methods_and_downloads_that_are_wrong_are_refused() {
    let scene = Scene::new(false).await;
    let address = scene.etl.address;
    for (method, path, allow) in [
        ("DELETE", "/b/o", "GET, PUT"),
        ("POST", "/b/o", "GET, PUT"),
        ("PATCH", "/b/o", "GET, PUT"),
        ("BREW", "/b/o", "GET, PUT"),
        ("PUT", "/health", "GET, HEAD"),
    ] {
        let answer = ask(address, method, path, "", b"").await;
        scene.is(method, &answer, 405, "Method Not Allowed");
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
    }
    for (query, detail) in [
        ("", "original_url is missing"),
        ("?original_url=http://h/x", "object_to is missing"),
        ("?original_url=file:///etc/passwd&object_to=o", "original_url is not an http://"),
        ("?original_url=nowhere&object_to=o", "original_url is not an http://"),
        ("?original_url=http://u:p@h/&object_to=o", "original_url is not an http://"),
    ] {
        let answer = ask(address, "POST", &format!("/download{query}"), "", b"").await;
        scene.is(query, &answer, 400, detail);
    }
    scene.goes_on().await;
}

/// Refused by the HTTP layer, which knows no JSON: the status is what counts.
#[tokio::test]
async fn requests_that_are_none_or_too_long_are_refused_and_end_only_themselves() {
    let scene = Scene::new(false).await;
    let address = scene.etl.address;
    let long = "h".repeat(300 * 1024);
    let many: String = (0..200).map(|n| format!("h{n}: x\r\n")).collect();
    for (request, statuses) in [
        (format!("PUT /b/o?etl_args={long} HTTP/1.1\r\nHost: e\r\n\r\n"), [414, 431]),
        (format!("PUT /b/o HTTP/1.1\r\nHost: e\r\nX: {long}\r\n\r\n"), [431, 431]),
        (format!("PUT /b/o HTTP/1.1\r\nHost: e\r\n{many}\r\n"), [431, 431]),
        ("PUT /b/o HTTP/1.1\r\n\r\n".to_owned(), [400, 400]),
        ("PUT /b/o HTTP/1.1\r\nHost: e\r\nHost: f\r\n\r\n".to_owned(), [400, 400]),
        (
            "PUT /b/o HTTP/1.1\r\nHost: e\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"
                .to_owned(),
            [400, 400],
        ),
        ("PUT /b/o HTTP/1.1\r\nHost: e\r\nContent-Length: -1\r\n\r\n".to_owned(), [400, 400]),
        ("PUT /b/o HTTP/1.1\r\nHost: e\r\nTransfer-Encoding: gzip\r\n\r\n".to_owned(), [400, 400]),
        ("PUT /b/o\x01 HTTP/1.1\r\nHost: e\r\n\r\n".to_owned(), [400, 400]),
        ("\x16\x03\x01 nonsense\r\n\r\n".to_owned(), [400, 400]),
        ("PUT /b/o HTTP/1.1\r\nHost: e\r\n bad: folded\r\n\r\n".to_owned(), [400, 400]),
    ] {
        let mut caller = Caller::connect(address).await;
        caller.send(&request).await;
        let status = caller.answer_head().await.status;
        let what: String = request.chars().take(60).collect();
        assert!(statuses.contains(&status), "{what:?}: {status}");
        scene.goes_on().await;
    }
    // What the contract asks for goes through.
    let (line, header) = ("a".repeat(65_000), "a".repeat(65_536));
    let answer = scene.put(&format!("?x={line}"), &format!("X-Long: {header}\r\n")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn handshakes_that_are_wrong_are_refused() {
    let scene = Scene::new(false).await;
    let address = scene.etl.address;
    for (change, to, status) in [
        ("Sec-WebSocket-Version: 13\r\n", "Sec-WebSocket-Version: 8\r\n", 426),
        ("Sec-WebSocket-Version: 13\r\n", "", 426),
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", 400),
        ("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=", 400),
        ("dGhlIHNhbXBsZSBub25jZQ==", "!!!", 400),
        ("Upgrade: websocket\r\n", "", 426),
        ("Upgrade: websocket\r\n", "Upgrade: h2c\r\n", 426),
        ("Connection: Upgrade\r\n", "Connection: close\r\n", 426),
    ] {
        let headers = UPGRADE.replace(change, to);
        let mut caller = Caller::connect(address).await;
        caller.head("GET", "/ws", &headers).await;
        let answer = caller.answer().await;
        assert_eq!(answer.status, status, "{to:?}: {}", answer.text());
        assert!(!answer.detail().is_empty());
    }
    scene.goes_on().await;
}

/// Sends frames and expects the connection to be closed with this code.
async fn closes(scene: &Scene, what: &str, frames: &[Vec<u8>], code: u16) {
    let mut socket = Socket::open(scene.etl.address).await;
    for frame in frames {
        if !socket.caller.send(frame).await {
            break;
        }
    }
    loop {
        let next = tokio::time::timeout(Duration::from_secs(20), socket.next()).await;
        match next.unwrap_or_else(|_| panic!("{what}: nothing comes of it")) {
            Message::Close(seen) => {
                assert_eq!(seen, code, "{what}");
                break;
            }
            Message::Gone => panic!("{what}: gone without a word"),
            Message::Text(_) | Message::Binary(_) | Message::Pong(_) => {}
        }
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn frames_that_break_the_protocol_close_their_connection_with_its_code() {
    let scene = Scene::new(false).await;
    let frame = Socket::frame;
    let control = || frame(0x82, json!({ "path": "o" }).to_string().as_bytes());
    let mut unmasked = frame(0x82, b"{}");
    unmasked[1] &= 0x7f;
    unmasked.drain(2..6);
    closes(&scene, "an unmasked frame", &[unmasked], 1002).await;
    for bits in [0x40, 0x20, 0x10] {
        closes(&scene, "a reserved bit", &[frame(0x82 | bits, b"{}")], 1002).await;
    }
    for opcode in [3, 4, 7, 11, 15] {
        closes(&scene, "an unknown opcode", &[frame(0x80 | opcode, b"x")], 1002).await;
    }
    closes(&scene, "a continuation of nothing", &[frame(0x80, b"x")], 1002).await;
    closes(
        &scene,
        "a message inside a message",
        &[control(), frame(0x02, b"half"), frame(0x82, b"other")],
        1002,
    )
    .await;
    closes(&scene, "a control frame in pieces", &[frame(0x09, b"x")], 1002).await;
    closes(&scene, "a control frame too long", &[frame(0x89, &[b'x'; 126])], 1002).await;
    closes(&scene, "a close code that is none", &[frame(0x88, &1005u16.to_be_bytes())], 1002).await;
    closes(&scene, "half a close code", &[frame(0x88, &[3])], 1002).await;
    closes(&scene, "a reason that is no text", &[frame(0x88, b"\x03\xe8\xff\xfe")], 1007).await;
    let length = Socket::frame_head(0x82, 1 << 63);
    closes(&scene, "a length with its highest bit", &[length], 1002).await;
    // 16 GiB is the limit of the contract.
    let over = Socket::frame_head(0x82, (16 << 30) + 1);
    closes(&scene, "an object over 16 GiB", &[control(), over], 1009).await;
    let big = Socket::frame_head(0x82, 64 << 20);
    let some = vec![b' '; 2 << 20];
    closes(&scene, "a control message of 64 MiB", &[big, some], 1009).await;
}

#[tokio::test]
async fn control_messages_that_are_wrong_close_their_connection() {
    let scene = Scene::new(false).await;
    let frame = Socket::frame;
    for (what, control) in [
        ("no JSON", "{not json"),
        ("no object", "[1]"),
        ("a number for a text", r#"{"path": 7}"#),
        ("a file that is not there", r#"{"path": "o", "fqn": "%2Fno%2Fsuch"}"#),
        ("an empty message", ""),
    ] {
        closes(&scene, what, &[frame(0x82, control.as_bytes())], 1000).await;
    }
    closes(&scene, "text in place of binary", &[frame(0x81, br#"{"path":"o"}"#)], 1000).await;
}
