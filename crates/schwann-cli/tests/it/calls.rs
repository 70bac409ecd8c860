//! `schwann call` and `schwann doctor`, against a server that the test plays.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    thread,
};

use serde_json::{Value, json};

use crate::{ALICE, BOB, Said, command, schwann};

/// Answers every request with what `answer` writes; the URL, and the requests.
fn server(
    answer: impl Fn(&str, &mut TcpStream) + Send + 'static,
) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (seen, requests) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let Some(request) = request(&stream) else { continue };
            let _ = seen.send(request.clone());
            answer(&request, &mut stream);
        }
    });
    (url, requests)
}

fn request(stream: &TcpStream) -> Option<String> {
    let mut reader = BufReader::new(stream);
    let (mut text, mut length) = (String::new(), 0);
    loop {
        let begin = text.len();
        reader.read_line(&mut text).ok().filter(|n| *n > 0)?;
        let line = text[begin..].to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(text + std::str::from_utf8(&body).unwrap())
}

fn respond(stream: &mut TcpStream, status: &str, headers: &str, body: &str) {
    let code = &status[..3];
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n\
         bt_header_axon_status_code: {code}\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.write_all(text.as_bytes());
}

const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\
     bt_header_axon_status_code: 200\r\ntransfer-encoding: chunked\r\n\r\n";

fn call(url: &str, rest: &[&str]) -> Said {
    let mut args = vec!["call", url, "Echo", "{\"text\":\"hi\",\"n\":1}", "--hotkey", ALICE];
    args.extend(["--key-uri", "//Bob"]);
    args.extend(rest);
    schwann(&args)
}

#[test]
fn a_call_prints_the_returned_object() {
    let big = "123456789012345678901234567890";
    let (url, requests) = server(move |_, stream| {
        let body = format!("{{\"text\":\"hé\",\"n\":{big}}}");
        respond(stream, "200 OK", "bt_header_axon_process_time: 0.5\r\n", &body);
    });
    let out = call(&url, &["--hash", "text,n", "--required", "n"]).good();
    // The required field has the value that was asked.
    assert_eq!(out, "{\"text\":\"hé\",\"n\":1}\n");
    let request = requests.recv().unwrap();
    assert!(request.starts_with("POST /Echo HTTP/1.1\r\n"), "{request}");
    for part in [BOB, ALICE, "bt_header_input_obj_n: ", "\"text\": \"hi\""] {
        assert!(request.contains(part), "no {part} in {request}");
    }
    assert!(!request.contains("bt_header_input_obj_text"), "{request}");
    let out = call(&url, &["--json"]).good();
    assert!(out.contains(&format!("\"n\":{big}")), "a number lost digits: {out}");
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(answer["status_code"], 200);
    assert_eq!(answer["synapse"]["text"], "hé");
    assert!(answer["process_time"].is_number() && answer.get("status_message").is_some(), "{out}");
}

#[test]
fn a_refusal_is_said_on_stderr_and_as_json() {
    let (url, _requests) = server(|_, stream| {
        let message = "bt_header_axon_status_message: Blacklisted\\x1b[2J\r\n";
        respond(stream, "403 Forbidden", message, "{\"message\":\"Blacklisted\"}");
    });
    let said = call(&url, &[]);
    said.bad(1, "error: the axon refused with 403: ");
    assert!(said.err.contains("hint: `schwann doctor`"), "{said:?}");
    let said = call(&url, &["--json"]);
    assert_eq!(said.code, 1);
    let answer: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&answer["status_code"], &answer["synapse"]), (&json!(403), &Value::Null));
}

#[test]
fn nobody_there() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    call(&url, &[]).bad(1, "cannot connect to 127.0.0.1:");
}

#[test]
fn a_stream_is_printed_as_it_arrives() {
    let (go, wait) = mpsc::channel::<()>();
    let (url, _requests) = server(move |_, stream| {
        stream.write_all(STREAM.as_bytes()).unwrap();
        stream.write_all(b"4\r\none \r\n").unwrap();
        wait.recv().unwrap();
        stream.write_all(b"3\r\ntwo\r\n0\r\n\r\n").unwrap();
    });
    let folder = tempfile::tempdir().unwrap();
    let args = ["call", &url, "S", "{}", "--hotkey", ALICE, "--key-uri", "//Bob", "--stream"];
    let mut command = command(folder.path(), &args, &[]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut first = [0; 4];
    out.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"one ");
    go.send(()).unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), child.wait().unwrap().code()), ("two", Some(0)));
}

#[test]
fn a_stream_that_was_cut_is_an_error_after_what_came() {
    let (url, _requests) = server(|_, stream| {
        stream.write_all(STREAM.as_bytes()).unwrap();
        stream.write_all(b"4\r\nhalf\r\n").unwrap();
    });
    let said = call(&url, &["--stream"]);
    assert_eq!((said.code, said.out.as_str()), (1, "half"), "{said:?}");
    assert!(said.err.contains("error: the answer was cut after 4 bytes"), "{said:?}");
    let said = call(&url, &["--stream", "--json"]);
    let answer: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((said.code, &answer["streamed"]), (1, &json!("half")), "{said:?}");
}

#[test]
fn a_stream_that_nobody_reads_any_more_ends_the_call() {
    let (url, _requests) = server(|_, stream| {
        let _ = stream.write_all(STREAM.as_bytes());
        while stream.write_all(b"4\r\nmore\r\n").is_ok() {}
    });
    let folder = tempfile::tempdir().unwrap();
    let args = ["call", &url, "S", "{}", "--hotkey", ALICE, "--key-uri", "//Bob", "--stream"];
    let mut command = command(folder.path(), &args, &[]);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut first = [0; 4];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let said = crate::said(child.wait_with_output().unwrap());
    assert_eq!((said.code, said.err.as_str()), (1, ""), "as `| head` expects it");
}

#[test]
fn many_axons_print_a_line_each() {
    let (good, _g) = server(|_, stream| respond(stream, "200 OK", "", "{\"text\":\"there\"}"));
    let (bad, _b) = server(|_, stream| respond(stream, "500 Oops", "", "{\"message\":\"no\"}"));
    let folder = tempfile::tempdir().unwrap();
    let port = |url: &str| url.rsplit_once(':').unwrap().1.parse::<u16>().unwrap();
    let list = json!([
        {"ip": "127.0.0.1", "port": port(&good), "hotkey": ALICE},
        {"ip": 2_130_706_433, "port": port(&bad), "hotkey": BOB},
    ]);
    std::fs::write(folder.path().join("axons"), list.to_string()).unwrap();
    let many = |rest: &[&str]| {
        let mut args = vec!["call", "Echo", "{}", "--key-uri", "//Bob", "--many", "axons"];
        args.extend(rest);
        crate::schwann_in(folder.path(), &args, &[])
    };
    let said = many(&[]);
    let mut lines: Vec<_> = said.out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines.len(), 2, "{said:?}");
    assert_eq!(lines[0], format!("{BOB} 127.0.0.1:{} 500 500: no", port(&bad)));
    assert_eq!(lines[1], format!("{ALICE} 127.0.0.1:{} 200 {{\"text\":\"there\"}}", port(&good)));
    assert_eq!((said.code, said.err.as_str()), (1, "error: 1 of 2 calls failed\n"));

    let said = many(&["--json"]);
    let mut lines: Vec<Value> =
        said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.sort_by_key(|line| line["index"].as_u64());
    assert_eq!(lines[0]["synapse"]["text"], "there");
    assert_eq!((&lines[1]["hotkey"], &lines[1]["status_code"]), (&json!(BOB), &json!(500)));
}

fn doctor(url: &str, rest: &[&str]) -> (Said, Value) {
    let mut args = vec!["doctor", url, "Echo", "{\"text\":\"hi\"}", "--hotkey", ALICE, "--json"];
    args.extend(["--key-uri", "//Bob"]);
    args.extend(rest);
    let said = schwann(&args);
    let report = serde_json::from_str(&said.out).unwrap_or_else(|_| panic!("{said:?}"));
    (said, report)
}

#[track_caller]
fn found<'a>(report: &'a Value, check: &str, result: &str) -> &'a Value {
    let findings = report["findings"].as_array().unwrap();
    let found = findings.iter().find(|found| found["check"] == check && found["result"] == result);
    found.unwrap_or_else(|| panic!("no {check} {result} in {report}"))
}

#[test]
fn a_call_that_is_served_has_no_illness() {
    let (url, _requests) = server(|_, stream| respond(stream, "200 OK", "", "{}"));
    let (said, report) = doctor(&url, &[]);
    assert_eq!((said.code, &report["accepted"]), (0, &json!(true)), "{report}");
    found(&report, "connect", "good");
}

#[test]
fn a_clock_that_is_off_is_found() {
    let (url, _requests) = server(|_, stream| {
        let date = "date: Sun, 06 Nov 2094 08:49:37 GMT\r\n";
        let message =
            "bt_header_axon_status_message: Not Verified with error: Nonce is too old\r\n";
        respond(stream, "401 Unauthorized", &format!("{date}{message}"), "{\"message\":\"x\"}");
    });
    let (said, report) = doctor(&url, &[]);
    assert_eq!(said.code, 1);
    assert!(found(&report, "clock", "bad")["said"].as_str().unwrap().contains("behind"));
    let call = found(&report, "call", "bad");
    assert!(call["hint"].as_str().unwrap().contains("clocks differ"), "{call}");
}

#[test]
fn a_field_that_should_be_hashed_is_found() {
    // The hash of "hi" alone; nothing else is accepted.
    let hashed = "bt_header_dendrite_signature";
    let (url, _requests) = server(move |request, stream| {
        let empty = "a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a";
        match request.contains(hashed) && !request.contains(empty) {
            true => respond(stream, "200 OK", "", "{}"),
            false => {
                respond(stream, "500 Internal Server Error", "", "{\"message\":\"x\"}");
            }
        }
    });
    let (said, report) = doctor(&url, &[]);
    assert_eq!(said.code, 1);
    assert_eq!(found(&report, "hash", "bad")["hint"], "--hash text");
}

#[test]
fn another_hotkey_is_found() {
    let (url, _requests) = server(|_, stream| {
        let verified = format!("17.{BOB}.{BOB}.uuid.hash and 0x12");
        let body = json!({ "message": format!("Not Verified with error: Signature mismatch with {verified}") });
        respond(stream, "401 Unauthorized", "", &body.to_string());
    });
    let (_, report) = doctor(&url, &[]);
    assert_eq!(found(&report, "hotkey", "bad")["hint"], format!("--hotkey {BOB}"));
}

#[test]
fn another_protocol_is_found() {
    let (url, _requests) = server(|request, stream| match request.contains("bt_header_") {
        true => respond(stream, "404 Not Found", "", "{\"message\":\"no\"}"),
        false => respond(stream, "200 OK", "", "{}"),
    });
    let (_, report) = doctor(&url, &[]);
    assert_eq!(found(&report, "protocol", "bad")["hint"], "--protocol btauth");
}

#[test]
fn a_stream_that_is_kept_back_is_found() {
    let kept_back = |request: &str, stream: &mut TcpStream| {
        if request.starts_with("GET") {
            return respond(stream, "404 Not Found", "", "{}");
        }
        stream.write_all(STREAM.as_bytes()).unwrap();
        // Somebody on the way collects for a while.
        thread::sleep(std::time::Duration::from_millis(400));
        let _ = stream.write_all(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n");
    };
    let (url, _requests) = server(kept_back);
    let (said, report) = doctor(&url, &["--stream"]);
    assert_eq!(said.code, 0);
    let hint = found(&report, "stream", "suspect")["hint"].as_str().unwrap();
    assert!(hint.contains("proxy_buffering off"), "{hint}");
}
