//! Recorded exchanges of the Python dendrite, with our dendrite in its place: the same synapse gives the same request,
//! byte for byte but for clocks and keys, and the same answer gives the same result.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use schwann_synapse::{
    call_error::CallError,
    dendrite::{Answer, CollectText, Dendrite, DendriteBuilder},
    keys::Keypair,
    python::{Dict, Value, from_value},
    synapse::{Ask, BASE_FIELDS, Untyped},
    target::Target,
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};

use crate::{
    routes::echo::EchoSynapse,
    set::{Kind, get, holds, maybe, only_for_people, same, text},
};

pub(crate) const KIND: Kind = Kind {
    name: "captures",
    sections: &[
        ("sdk", only_for_people),
        ("version_as_int", only_for_people),
        ("python", only_for_people),
        ("libs", only_for_people),
        ("axon_hotkey", only_for_people),
        ("axon_uuid", only_for_people),
        ("dendrite_hotkey", only_for_people),
        ("axon_port", only_for_people),
        ("proxy_port", only_for_people),
        ("exchanges", exchange),
    ],
};

/// The table of contents of one file of captures.
pub(crate) const INDEX: Kind = Kind { name: "captures-index", sections: &[("", indexed)] };

/// What our result is instead of the recorded one.
enum Instead {
    /// This status and how its message begins.
    Status(i64, &'static str),
    /// The same status; this text instead of the recorded pieces of the stream.
    Text(&'static str),
    /// Success without a status of the axon's.
    NoStatus,
    /// The same status, other fields.
    Fields,
    /// Cannot be replayed.
    NotReplayed,
}

/// Where we differ, and why. By the exchange's name.
const DIFFERENT: &[(&str, Instead, &str)] = &[
    ("http500_header200", Instead::Status(500, "x"), "W9: success needs HTTP and header to agree"),
    (
        "http307",
        Instead::Status(307, "redirects are not followed"),
        "W14: redirects are never followed",
    ),
    (
        "gzip",
        Instead::Status(422, "Failed to parse response: content-encoding"),
        "no compression is offered",
    ),
    (
        "http200_utf16",
        Instead::Status(422, "Failed to parse response"),
        "RFC 8259 §8.1: JSON is UTF-8",
    ),
    (
        "ipv6_axon",
        Instead::Status(503, "Service unavailable at [::1]:1/PlainSynapse"),
        "IPv6 literals are bracketed",
    ),
    ("port_70000", Instead::NotReplayed, "a `Target` has no such port"),
    (
        "huge_header",
        Instead::NotReplayed,
        "the recording left the answer out; ours has a limit for the whole head",
    ),
    ("stream_500_json", Instead::Text(""), "an error's body is no token"),
    ("stream_wrong_hotkey", Instead::Text(""), "an error's body is no token"),
    ("stream_utf8_split", Instead::Text("€"), "a character split over two chunks stays whole"),
    ("stream_flag_on_plain_synapse", Instead::NoStatus, "any synapse can be streamed"),
    (
        "bytes_field",
        Instead::NotReplayed,
        "Python's bytes have no counterpart in a synapse of ours",
    ),
    (
        "field_alias",
        Instead::Fields,
        "W22: an answer under the field's own name counts; the reference loses it",
    ),
];

/// Classes of the recordings that list `required_hash_fields`.
const HASHED: &[(&str, &[&str])] = &[
    ("EchoSynapse", &["text", "count"]),
    ("AllTypesSynapse", &["s", "i", "f", "b", "l", "d", "n", "nested", "blob_b64"]),
    ("StreamSynapse", &["prompt"]),
    ("NanSynapse", &["v"]),
    ("IntKeySynapse", &["d"]),
    ("TupleSynapse", &["t"]),
];

/// Hashes over what Python had before JSON; the body we start from no longer has it.
const LOST_IN_JSON: &[&str] = &["hash_int_keys", "hash_any_tuple", "hash_typed_tuple"];

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
});

fn exchange(entry: &Value, file: &Dict) -> Result<(), String> {
    match text(entry, "group")? {
        "sdk_dendrite_to_fake" | "sdk_to_sdk" => RUNTIME.block_on(client(entry, file)),
        // The other end's: `captures_axon`.
        "raw_to_sdk_axon" => Ok(()),
        other => Err(format!("nothing checks the group {other}")),
    }
}

/// An entry of the table of contents says what the exchange it names says.
fn indexed(entry: &Value, _: &Dict) -> Result<(), String> {
    static FULL: LazyLock<Value> = LazyLock::new(|| {
        let folder = crate::set::path("SCHWANN_VECTORS", "vectors/synapse");
        let ours = crate::set::own("vectors/synapse");
        let name = "captures-10.5.0.json";
        let bytes = std::fs::read(folder.join(name)).or_else(|_| std::fs::read(ours.join(name)));
        Value::parse_json(&bytes.unwrap()).unwrap()
    });
    let id = |entry: &Value| Some((maybe(entry, "group")?.clone(), maybe(entry, "name")?.clone()));
    let Value::List(exchanges) = get(&FULL, "exchanges")? else {
        return Err("no exchanges".into());
    };
    let full = exchanges.iter().find(|full| id(full) == id(entry)).ok_or("no such exchange")?;
    same("note", get(entry, "note")?, get(full, "note")?)?;
    let Value::Dict(outcome) = get(full, "client_result")? else { return Ok(()) };
    if let (Some(listed @ Value::Dict(_)), Some(result @ Value::Dict(_))) =
        (maybe(entry, "client"), outcome.get("result"))
    {
        let dendrite = get(result, "dendrite")?;
        for field in ["status_code", "status_message"] {
            same(field, maybe(listed, field), maybe(dendrite, field))?;
        }
    }
    same(
        "chunks",
        maybe(entry, "stream_chunks").filter(|chunks| !chunks.is_none()),
        outcome.get("chunks"),
    )
}

async fn client(entry: &Value, file: &Dict) -> Result<(), String> {
    let name = text(entry, "name")?;
    let Value::List(connections) = get(entry, "connections")? else {
        return Err("no connections".into());
    };
    let mut requests = Vec::new();
    for connection in connections {
        if maybe(connection, "request_b64").is_some() {
            requests.extend(split_requests(&decoded(connection, "request_b64")?)?);
        }
    }
    for request in &requests {
        same_request(name, request, file).await.map_err(|why| format!("request: {why}"))?;
    }
    let one = match get(entry, "client_result")? {
        Value::Dict(result) => {
            result.get("result").is_some_and(|result| matches!(result, Value::Dict(_)))
        }
        _ => false,
    };
    if one && requests.len() <= 1 {
        return replay(name, entry, connections.first(), requests.first(), file).await;
    }
    // Several calls: each result is that of the request with its nonce, or of none where nobody listened.
    let mut answers = Vec::new();
    for connection in connections {
        answers.extend(split_answers(&decoded(connection, "response_b64")?)?);
    }
    for result in results(get(entry, "client_result")?) {
        let nonce = get(get(result, "dendrite")?, "nonce")?.py_str();
        let at = requests.iter().position(|request| {
            Recorded::parse(request)
                .is_ok_and(|asked| asked.header("bt_header_dendrite_nonce") == Some(&nonce))
        });
        let connection = at.map(|at| {
            let answer = answers.get(at).cloned().unwrap_or_default();
            Value::Dict(Dict::from_iter([("response_b64", Value::from(STANDARD.encode(answer)))]))
        });
        let outcome = Dict::from_iter([("result", result.clone())]);
        let entry = Value::Dict(Dict::from_iter([("client_result", Value::Dict(outcome))]));
        replay(name, &entry, connection.as_ref(), at.map(|at| &requests[at]), file).await?;
    }
    Ok(())
}

/// The synapses that calls ended with, of one call or of many.
fn results(outcome: &Value) -> Vec<&Value> {
    match outcome {
        Value::List(outcomes) => outcomes.iter().flat_map(results).collect(),
        Value::Dict(fields) if fields.contains_key("dendrite") => vec![outcome],
        Value::Dict(fields) => fields.get("result").map(results).unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// The answers of one connection, each with its body.
fn split_answers(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    // With a length they are framed as requests are; one without is the connection's only one.
    split_requests(bytes).or_else(|_| Ok(vec![bytes.to_vec()]))
}

// --- requests ---

/// A recorded request, taken apart.
struct Recorded {
    route: String,
    headers: Vec<(String, String)>,
    body_text: String,
    body: Dict,
}

impl Recorded {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let (head, body) = split_head(bytes).ok_or("no end of the head")?;
        let mut lines = head.lines();
        let route =
            lines.next().and_then(|line| line.split(' ').nth(1)).ok_or("no request line")?;
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(k, v)| (k.to_owned(), v.to_owned()));
        let Value::Dict(fields) = Value::parse_json(body).map_err(|why| why.to_string())? else {
            return Err("the body is no object".into());
        };
        let body_text = String::from_utf8_lossy(body).into_owned();
        Ok(Self {
            route: route[1..].to_owned(),
            headers: headers.collect(),
            body_text,
            body: fields,
        })
    }

    /// The synapse it was made of.
    fn ask(&self) -> Untyped {
        let own = self.body.iter().filter(|(name, _)| !BASE_FIELDS.contains(name));
        let fields: Dict = own.map(|(name, value)| (name.to_owned(), value.clone())).collect();
        let required =
            self.headers.iter().filter_map(|(name, _)| name.strip_prefix("bt_header_input_obj_"));
        let hashed = HASHED
            .iter()
            .find(|(class, _)| *class == self.route)
            .map_or(&[][..], |(_, fields)| fields);
        Untyped::new(&self.route, fields).hash(hashed.iter().copied()).required(required)
    }

    fn timeout(&self) -> Result<Duration, String> {
        let seconds =
            self.header("timeout").and_then(|text| text.parse().ok()).ok_or("no timeout")?;
        Duration::try_from_secs_f64(seconds).map_err(|why| why.to_string())
    }
}

/// Headers whose values are clocks, keys, ports and sizes, or who we are.
const VOLATILE: &[&str] = &[
    "host",
    "bt_header_axon_ip",
    "bt_header_axon_port",
    "bt_header_dendrite_nonce",
    "bt_header_dendrite_uuid",
    "bt_header_dendrite_signature",
    "header_size",
    "total_size",
    "accept-encoding",
    "user-agent",
    "content-length",
];

/// Asks with the same synapse and compares what we send.
async fn same_request(name: &str, recorded: &[u8], file: &Dict) -> Result<(), String> {
    let recorded = Recorded::parse(recorded)?;
    let axon = Scripted::start(vec![Step::Hold]).await;
    let hotkey = recorded.header("bt_header_axon_hotkey").ok_or("no axon hotkey")?;
    let target = Target::new("127.0.0.1", axon.port, hotkey).map_err(|why| why.to_string())?;
    let dendrite = builder(file)?
        .external_ip(recorded.header("bt_header_dendrite_ip").unwrap_or_default())
        .build();
    let timeout = recorded.timeout()?;
    // Only the request counts, and a limit of 10 µs would let none be sent.
    let call =
        dendrite.call(&target, recorded.ask()).timeout(timeout.max(Duration::from_millis(100)));
    let sent = tokio::select! {
        sent = axon.request() => sent,
        result = call => return Err(format!("no request but {:?}", result.map(|answer| answer.took))),
    };
    let sent = Recorded::parse(&sent)?;
    same("route", &sent.route, &recorded.route)?;
    let names = |request: &Recorded| -> Vec<String> {
        request.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect()
    };
    same("header names", names(&sent), names(&recorded))?;
    for (header, value) in &recorded.headers {
        let volatile = VOLATILE.iter().any(|name| name.eq_ignore_ascii_case(header))
            || (header == "computed_body_hash" && LOST_IN_JSON.contains(&name))
            || (header == "timeout" && timeout < Duration::from_millis(100));
        if !volatile {
            same(header, sent.header(header), Some(value))?;
        }
    }
    // The body as text, with what is volatile replaced by what was recorded.
    let mut expected = recorded.body_text.clone();
    for (end, field) in [
        ("dendrite", "nonce"),
        ("dendrite", "uuid"),
        ("dendrite", "signature"),
        ("axon", "port"),
        ("axon", "ip"),
    ] {
        let of = |request: &Recorded| -> Option<String> {
            let value = request.body.get(end)?.as_dict()?.get(field)?;
            Some(format!("\"{field}\": {}", value.to_python_json()))
        };
        if let (Some(theirs), Some(ours)) = (of(&recorded), of(&sent)) {
            // The axon's end comes after the dendrite's, which has an address of its own.
            let at = if end == "axon" { expected.find("\"axon\": {").unwrap_or(0) } else { 0 };
            expected = format!("{}{}", &expected[..at], expected[at..].replacen(&theirs, &ours, 1));
        }
    }
    let size = |request: &Recorded| {
        request
            .body
            .get("total_size")
            .map(|size| format!("\"total_size\": {},", size.to_python_json()))
    };
    if let (Some(theirs), Some(ours)) = (size(&recorded), size(&sent)) {
        expected = expected.replacen(&theirs, &ours, 1);
    }
    same("body", sent.body_text, expected)
}

// --- answers ---

/// The synapses of the recordings whose types the Python class enforces.
#[derive(Clone, Debug, Serialize, Deserialize, schwann_synapse::synapse::Synapse)]
struct PlainSynapse {
    #[serde(default)]
    x: i64,
    #[serde(default)]
    y: Option<i64>,
}

/// What a call ended with.
struct Ended {
    status: Option<i64>,
    message: Option<String>,
    pieces: String,
    fields: Option<Dict>,
}

async fn replay(
    name: &str,
    entry: &Value,
    connection: Option<&Value>,
    request: Option<&Vec<u8>>,
    file: &Dict,
) -> Result<(), String> {
    let different =
        DIFFERENT.iter().find(|(which, _, _)| *which == name).map(|(_, instead, _)| instead);
    if matches!(different, Some(Instead::NotReplayed)) {
        return Ok(());
    }
    let outcome = get(entry, "client_result")?;
    let recorded = get(outcome, "result")?;
    let chunks = maybe(outcome, "chunks");
    let expected_status = get(get(recorded, "dendrite")?, "status_code")?.clone();
    let expected_message =
        get(get(recorded, "dendrite")?, "status_message")?.as_str().map(str::to_owned);

    let steps = script(connection, &expected_status)?;
    let axon = Scripted::start(steps).await;
    let host = get(get(recorded, "axon")?, "ip")?.as_str().unwrap_or("127.0.0.1").to_owned();
    // Without a connection there was nothing to replay: then the target itself is the test.
    let target = match connection {
        Some(_) => Target::new("127.0.0.1", axon.port, AXON),
        None => {
            let port =
                get(get(recorded, "axon")?, "port")?.py_str().parse().map_err(|_| "no port")?;
            Target::new(&host, port, AXON)
        }
    }
    .map_err(|why| why.to_string())?;

    let ask = match request {
        Some(request) => Recorded::parse(request)?.ask(),
        None => {
            let own = recorded
                .as_dict()
                .ok_or("no result")?
                .iter()
                .filter(|(name, _)| !BASE_FIELDS.contains(name));
            Untyped::new(
                text(recorded, "name")?,
                own.map(|(k, v)| (k.to_owned(), v.clone())).collect(),
            )
        }
    };
    let timeout = match request {
        Some(request) => Recorded::parse(request)?.timeout()?,
        None => get(recorded, "timeout")?
            .py_str()
            .parse()
            .map(Duration::from_secs_f64)
            .map_err(|_| "no timeout")?,
    };
    let dendrite = builder(file)?.build();
    let ended = if chunks.is_some() {
        streamed(&dendrite, &target, ask, timeout).await
    } else {
        called(&dendrite, &target, ask, timeout).await?
    };

    // Where the recorded address was another, so is the one in the message.
    let moved = |message: &str| {
        let recorded_port = get(get(recorded, "axon").ok()?, "port").ok()?.py_str();
        connection.map(|_| message.replace(&format!("{host}:{recorded_port}"), &target.authority()))
    };
    let expected_message = expected_message.map(|message| moved(&message).unwrap_or(message));
    match different {
        Some(Instead::Status(status, message)) => {
            same("status", ended.status, Some(*status))?;
            let recorded =
                (status_text(&expected_status), expected_message.as_deref().unwrap_or_default());
            let different =
                recorded.0 != Some(status.to_string()) || !recorded.1.starts_with(message);
            holds(different, || "listed as different, and is not".into())?;
            let told = ended.message.unwrap_or_default();
            return holds(told.starts_with(message), || {
                format!("message {told:?}, expected {message:?}")
            });
        }
        Some(Instead::NoStatus) => return same("status", ended.status, None),
        Some(Instead::Text(pieces)) => same("pieces", ended.pieces.as_str(), pieces)?,
        Some(Instead::NotReplayed | Instead::Fields) | None => {
            if let Some(Value::List(chunks)) = chunks {
                let whole: String = chunks.iter().filter_map(Value::as_str).collect();
                same("pieces", ended.pieces.as_str(), whole.as_str())?;
            }
        }
    }
    same("status", ended.status.map(|status| status.to_string()), status_text(&expected_status))?;
    same("message", ended.message.as_deref().map(class), expected_message.as_deref().map(class))?;
    let Some(fields) = ended.fields else { return Ok(()) };
    let recorded = |field: &str| recorded.as_dict().and_then(|recorded| recorded.get(field));
    let differs = fields.iter().find(|(field, value)| Some(*value) != recorded(field));
    match (different, differs) {
        (None | Some(Instead::Text(_)), Some((field, value)))
            if different.is_none() || field != "completion" =>
        {
            same(field, Some(value), recorded(field))
        }
        (Some(Instead::Fields), None) => Err("listed as different, and is not".into()),
        _ => Ok(()),
    }
}

async fn called(
    dendrite: &Dendrite,
    target: &Target,
    ask: Untyped,
    timeout: Duration,
) -> Result<Ended, String> {
    let fields = Value::Dict(ask.fields.clone());
    Ok(match ask.name.as_str() {
        "PlainSynapse" => {
            let ask: PlainSynapse = from_value(fields).map_err(|why| why.to_string())?;
            ended(dendrite.call(target, ask).timeout(timeout).await)
        }
        "EchoSynapse" => {
            let ask: EchoSynapse = from_value(fields).map_err(|why| why.to_string())?;
            ended(dendrite.call(target, ask).timeout(timeout).await)
        }
        _ => ended(dendrite.call(target, ask).timeout(timeout).await),
    })
}

async fn streamed(dendrite: &Dendrite, target: &Target, ask: Untyped, timeout: Duration) -> Ended {
    let call =
        dendrite.stream(target, ask).timeout(timeout).hooks(CollectText::into_field("completion"));
    let mut stream = match call.await {
        Ok(stream) => stream,
        Err(error) => return ended(Err::<Answer<Untyped>, _>(error)),
    };
    let mut pieces = String::new();
    let result = loop {
        match stream.text_chunk().await {
            Ok(Some(text)) => pieces.push_str(&text),
            Ok(None) => break stream.finish().await,
            Err(error) => break Err(error),
        }
    };
    Ended { pieces, ..ended(result) }
}

fn ended<S: Ask>(result: Result<Answer<S>, CallError>) -> Ended {
    let pieces = String::new();
    match result {
        Ok(answer) => Ended {
            status: answer.status_code(),
            message: answer.status_message().map(str::to_owned),
            pieces,
            fields: answer.synapse.to_fields().ok(),
        },
        Err(error) => Ended {
            status: Some(error.status_code()),
            message: error.status_message().map(Into::into),
            pieces,
            fields: None,
        },
    }
}

/// A message up to where the words are the library's own.
fn class(message: &str) -> &str {
    let own = [
        "Failed to parse response:",
        "Payload error:",
        "Client response error:",
        "Service disconnected:",
        "Client error:",
    ];
    own.into_iter().find(|class| message.starts_with(class)).unwrap_or(message)
}

fn status_text(status: &Value) -> Option<String> {
    (!status.is_none()).then(|| status.py_str())
}

// --- the axon's end ---

const AXON: &str = "5CcX9gSfabdgTwKAXapgUMcoVTzRSNGXE8o2iCAWxo4hYTxp";

enum Step {
    Send(Vec<u8>),
    Sleep(Duration),
    Reset,
    /// Waits until the client closes.
    Hold,
}

fn script(connection: Option<&Value>, status: &Value) -> Result<Vec<Step>, String> {
    let Some(connection) = connection else { return Ok(Vec::new()) };
    let Some(steps) = maybe(connection, "response_script") else {
        // Recorded between two SDKs: the bytes, and whether the axon kept the connection.
        let answer = decoded(connection, "response_b64")?;
        let timed_out =
            status_text(status).as_deref() == Some("408") && !answer.starts_with(b"HTTP/1.1 408");
        let mut steps = vec![Step::Send(answer)];
        steps.extend(timed_out.then_some(Step::Hold));
        return Ok(steps);
    };
    let Value::List(steps) = steps else { return Err("no script".into()) };
    let step = |step: &Value| match step {
        Value::Str(word) if word == "rst" => Ok(Step::Reset),
        // One character for each byte.
        Value::Str(bytes) => {
            Ok(Step::Send(bytes.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()))
        }
        number => number
            .py_str()
            .parse()
            .map(|seconds| Step::Sleep(Duration::from_secs_f64(seconds)))
            .map_err(|_| format!("no step: {number:?}")),
    };
    steps.iter().map(step).collect()
}

/// Reads one request, then does as the script says, then closes.
struct Scripted {
    port: u16,
    requests: tokio::sync::Mutex<tokio::sync::mpsc::Receiver<Vec<u8>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Scripted {
    async fn start(steps: Vec<Step>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (seen, requests) = tokio::sync::mpsc::channel(1);
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let request = read_request(&mut stream).await;
            let _ = seen.try_send(request);
            for step in steps {
                match step {
                    Step::Send(bytes) => drop(stream.write_all(&bytes).await),
                    // A recorded pace: without it two chunks would arrive as one.
                    Step::Sleep(time) => tokio::time::sleep(time).await,
                    Step::Reset => stream.set_zero_linger().unwrap(),
                    Step::Hold => drop(stream.read_to_end(&mut Vec::new()).await),
                }
            }
        });
        Self { port, requests: tokio::sync::Mutex::new(requests), task }
    }

    async fn request(&self) -> Vec<u8> {
        self.requests.lock().await.recv().await.unwrap_or_default()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read_request(stream: &mut TcpStream) -> Vec<u8> {
    let mut seen = Vec::new();
    loop {
        if let Ok(requests) = split_requests(&seen)
            && let Some(first) = requests.into_iter().next()
        {
            return first;
        }
        let mut more = [0; 4096];
        match stream.read(&mut more).await {
            Ok(0) | Err(_) => return seen,
            Ok(n) => seen.extend_from_slice(&more[..n]),
        }
    }
}

// --- bytes ---

fn split_head(bytes: &[u8]) -> Option<(String, &[u8])> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some((String::from_utf8_lossy(&bytes[..end]).into_owned(), &bytes[end + 4..]))
}

/// The requests of one connection, each with its body.
fn split_requests(mut bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut requests = Vec::new();
    while !bytes.is_empty() {
        let (head, body) = split_head(bytes).ok_or("an unfinished head")?;
        let lengths = head.lines().filter_map(|line| line.split_once(": "));
        let mut length = lengths
            .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .map(|(_, value)| value);
        let length: usize =
            length.next_back().and_then(|value| value.parse().ok()).ok_or("no length")?;
        if body.len() < length {
            return Err("an unfinished body".into());
        }
        let size = bytes.len() - body.len() + length;
        requests.push(bytes[..size].to_vec());
        bytes = &bytes[size..];
    }
    Ok(requests)
}

fn decoded(entry: &Value, key: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(text(entry, key)?).map_err(|why| why.to_string())
}

/// A dendrite with the recorded key and version; keys are derived once.
fn builder(file: &Dict) -> Result<DendriteBuilder, String> {
    static SIGNERS: LazyLock<Mutex<HashMap<&'static str, Arc<Keypair>>>> =
        LazyLock::new(Mutex::default);
    let signer = Arc::clone(
        SIGNERS
            .lock()
            .unwrap()
            .entry("//interop-dendrite")
            .or_insert_with(|| Arc::new(Keypair::from_uri("//interop-dendrite").unwrap())),
    );
    let version =
        file.get("version_as_int").map(Value::py_str).and_then(|version| version.parse().ok());
    let dendrite = Dendrite::builder(signer).version(version.ok_or("no version")?);
    same(
        "hotkey",
        Some(dendrite.clone().build().hotkey()),
        file.get("dendrite_hotkey").and_then(Value::as_str),
    )?;
    Ok(dendrite)
}

#[test]
fn the_index_says_what_is_in_the_file() {
    crate::set::check(&INDEX);
}

#[test]
fn our_dendrite_asks_and_understands_as_the_recorded_one() {
    crate::set::check(&KIND);
}
