//! `schwann call`.

use std::{
    fs::File,
    io::{self, IsTerminal, Read},
    num::NonZeroU16,
    path::Path,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use schwann_synapse::{
    call_error::{AnswerError, CallError},
    dendrite::{Answer, Dendrite},
    python::{Dict, Int, Value},
    synapse::Untyped,
    target::Target,
};
use serde_json::value::RawValue;

use crate::{
    args::CallArgs,
    config::{Config, Settings},
    key,
    problem::{Problem, chain, one_line, print, print_line},
};

/// Largest JSON that is sent, and largest list of axons, in bytes.
const MAX_JSON: u64 = 64 << 20;

pub(crate) async fn run(args: CallArgs, config: &Config, json: bool) -> Result<(), Problem> {
    let (url, name, text) = match (&args.third, &args.many) {
        (None, Some(_)) => (None, &args.first, &args.second),
        (Some(text), None) => (Some(&args.first), &args.second, text),
        (Some(_), Some(_)) => {
            return Err(Problem::usage("--many gives the axons, so there is no URL")
                .hint("schwann call NAME JSON --many FILE"));
        }
        (None, None) => {
            return Err(Problem::usage("URL, NAME and JSON are needed").hint(
                "schwann call http://127.0.0.1:8091 Echo '{\"text\":\"hi\"}' --hotkey SS58",
            ));
        }
    };
    named("--hash", &args.hash)?;
    named("--required", &args.required)?;
    let ask = ask(name, text)?.hash(args.hash).required(args.required);
    if let Some(file) = &args.many {
        let axons = axons(file)?;
        let dendrite = dendrite(&config.settings)?;
        return many(&dendrite, axons, ask, json).await;
    }
    let target = target(url.map_or("", String::as_str), args.hotkey.as_deref())?;
    let dendrite = dendrite(&config.settings)?;
    match args.stream {
        true => stream(&dendrite, &target, ask, json).await,
        false => unary(&dendrite, &target, ask, json).await,
    }
}

/// Fields, each with a name.
pub(crate) fn named(flag: &str, fields: &[String]) -> Result<(), Problem> {
    match fields.iter().any(String::is_empty) {
        true => Err(Problem::usage(format!("{flag}: a field without a name"))
            .hint(format!("write it like `{flag} text,target`"))),
        false => Ok(()),
    }
}

/// A dendrite with what is set.
pub(crate) fn dendrite(settings: &Settings) -> Result<Dendrite, Problem> {
    let signer = key::load(&settings.key)?;
    let timeout = settings.call.timeout.duration();
    Ok(Dendrite::builder(signer)
        .timeout(timeout)
        .connect_timeout(timeout.min(Duration::from_secs(5)))
        .first_byte_timeout(timeout)
        .idle_timeout(timeout)
        .protocol(settings.call.protocol.into())
        .bound(settings.call.bound)
        .max_answer_bytes(settings.call.max_answer.bytes())
        // Typed by a person, it is meant.
        .dial_unspecified(true)
        .build())
}

/// The synapse to send.
pub(crate) fn ask(name: &str, text: &str) -> Result<Untyped, Problem> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if name.is_empty() || !name.bytes().all(good) {
        return Err(Problem::usage(format!("`{name}` cannot be a synapse's name"))
            .hint("write it like `Translate`"));
    }
    let bytes = match text {
        "-" => bounded(io::stdin().lock(), "stdin")?,
        text => text.as_bytes().to_vec(),
    };
    let example = "write an object of the synapse's fields, like '{\"text\":\"hi\"}'";
    let value = Value::parse_json(&bytes).map_err(|error| {
        Problem::usage(format!("the synapse is not JSON: {}", chain(&error))).hint(example)
    })?;
    match value {
        Value::Dict(fields) => Ok(Untyped::new(name, fields)),
        other => Err(Problem::usage(format!(
            "the synapse must be a JSON object, and this is a {}",
            other.type_name()
        ))
        .hint(example)),
    }
}

/// The axon that a URL names.
pub(crate) fn target(url: &str, hotkey: Option<&str>) -> Result<Target, Problem> {
    let example = "write it like http://127.0.0.1:8091";
    let wrong = |what: &str| Problem::usage(format!("`{url}` {what}")).hint(example);
    let Some(rest) = url.strip_prefix("http://") else {
        return Err(match url.starts_with("https://") {
            true => wrong("is https, which axons do not speak"),
            false => wrong("is not an axon's address"),
        });
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#', '@']) {
        return Err(wrong("has more than host and port; the synapse's name stands by itself"));
    }
    let (host, port) = rest.rsplit_once(':').ok_or_else(|| wrong("has no port"))?;
    let port: NonZeroU16 = port.parse().map_err(|_| wrong("has no port from 1 to 65535"))?;
    let hotkey = hotkey.ok_or_else(|| {
        Problem::usage("the axon's hotkey is needed, because the call is signed for it")
            .hint("--hotkey SS58; `schwann key show --key-uri URI` shows a key's")
    })?;
    key::hotkey(hotkey)?;
    Target::new(host, port.get(), hotkey)
        .map_err(|error| wrong(&format!("is not an axon's address: {}", chain(&error))))
}

async fn unary(
    dendrite: &Dendrite,
    target: &Target,
    ask: Untyped,
    json: bool,
) -> Result<(), Problem> {
    let result = dendrite.call(target, ask).await;
    if json {
        print_line(summary(&result, None, None)?)?;
    }
    let answer = result.map_err(|error| failed(&error, target))?;
    if !json {
        print_line(fields(&answer.synapse.fields))?;
    }
    succeeded(&answer)
}

async fn stream(
    dendrite: &Dendrite,
    target: &Target,
    ask: Untyped,
    json: bool,
) -> Result<(), Problem> {
    let mut whole = Vec::new();
    let result = async {
        let mut stream = dendrite.stream(target, ask).await?;
        while let Some(piece) = stream.chunk().await? {
            if json {
                whole.extend_from_slice(&piece);
            } else if let Err(unread) = print(&piece) {
                // Dropping the stream tells the axon.
                return Ok(Err(unread));
            }
        }
        stream.finish().await.map(Ok)
    };
    let result = match result.await {
        Ok(Err(unread)) => return Err(unread),
        Ok(Ok(answer)) => Ok(answer),
        Err(error) => Err(error),
    };
    if json {
        print_line(summary(&result, Some(&String::from_utf8_lossy(&whole)), None)?)?;
    }
    succeeded(&result.map_err(|error| failed(&error, target))?)
}

/// What `--many` reads for each axon.
#[derive(Debug, serde::Deserialize)]
struct Listed {
    ip: serde_json::Value,
    port: i64,
    hotkey: String,
}

/// The axons of a file. What cannot be called is an error of the file.
fn axons(file: &Path) -> Result<Vec<Target>, Problem> {
    let shown = file.display();
    let example =
        "it holds a list like [{\"ip\": \"10.0.0.1\", \"port\": 8091, \"hotkey\": \"5F…\"}]";
    let read = File::open(file)
        .map_err(|error| Problem::usage(format!("cannot read {shown}: {error}")).hint(example))?;
    let bytes = bounded(read, &shown.to_string())?;
    let listed: Vec<Listed> = serde_json::from_slice(&bytes).map_err(|error| {
        Problem::usage(format!("{shown}: not a list of axons: {error}")).hint(example)
    })?;
    if listed.is_empty() {
        return Err(Problem::usage(format!("{shown}: the list is empty")).hint(example));
    }
    let target = |(at, axon): (usize, &Listed)| {
        let wrong = |what: String| Problem::usage(format!("{shown}: axon {at}: {what}"));
        let ip = match &axon.ip {
            serde_json::Value::String(ip) => ip.clone(),
            // As the chain writes it.
            serde_json::Value::Number(number) => ip_of(&number.to_string())
                .ok_or_else(|| wrong(format!("{number} is not an address")).hint(example))?,
            other => return Err(wrong(format!("{other} is not an address")).hint(example)),
        };
        let port = u16::try_from(axon.port)
            .map_err(|_| wrong(format!("{} is not a port", axon.port)).hint(example))?;
        key::hotkey(&axon.hotkey)
            .map_err(|_| wrong(format!("`{}` is not a hotkey", axon.hotkey)).hint(example))?;
        Target::new(&ip, port, &axon.hotkey).map_err(|error| wrong(chain(&error)).hint(example))
    };
    listed.iter().enumerate().map(target).collect()
}

/// An address written as one number.
fn ip_of(number: &str) -> Option<String> {
    let number = Int::parse_python(number)?.to_u128()?;
    Some(match u32::try_from(number) {
        Ok(four) => std::net::Ipv4Addr::from(four).to_string(),
        Err(_) => std::net::Ipv6Addr::from(number).to_string(),
    })
}

async fn many(
    dendrite: &Dendrite,
    axons: Vec<Target>,
    ask: Untyped,
    json: bool,
) -> Result<(), Problem> {
    let bar = progress(axons.len());
    let mut answers = dendrite.fan_out(axons.iter(), ask);
    let mut failed = 0;
    while let Some((at, result)) = answers.next().await {
        let axon = &axons[at];
        let line = line(at, axon, &result, json)?;
        failed += usize::from(!matches!(&result, Ok(answer) if answer.is_success()));
        // The bar is out of the way while a line is printed.
        bar.suspend(|| print_line(line))?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    match failed {
        0 => Ok(()),
        _ => Err(Problem::failed(format!("{failed} of {} calls failed", axons.len()))),
    }
}

fn progress(many: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(many as u64), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} axons, {elapsed}") {
        bar.set_style(style);
    }
    if !io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar
}

type Called = Result<Answer<Untyped>, CallError>;

fn line(at: usize, axon: &Target, called: &Called, json: bool) -> Result<String, Problem> {
    if json {
        return summary(called, None, Some((at, axon)));
    }
    let (code, text) = match called {
        Ok(answer) => (answer.status_code(), fields(&answer.synapse.fields)),
        Err(error) => (Some(error.status_code()), one_line(&reason(error))),
    };
    let code = code.map_or_else(|| "-".to_owned(), |code| code.to_string());
    Ok(format!("{} {} {code} {text}", axon.hotkey(), axon.authority()))
}

/// What `--json` prints of a call.
#[derive(serde::Serialize)]
struct Summary<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hotkey: Option<&'a str>,
    status_code: Option<i64>,
    status_message: Option<&'a str>,
    process_time: Option<f64>,
    /// As it came: a number may be larger than any type here.
    synapse: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    streamed: Option<&'a str>,
}

fn summary(
    called: &Called,
    streamed: Option<&str>,
    axon: Option<(usize, &Target)>,
) -> Result<String, Problem> {
    let (code, message, time, synapse) = match called {
        Ok(answer) => {
            let fields = RawValue::from_string(fields(&answer.synapse.fields));
            let message = answer.status_message().map(str::to_owned);
            (answer.status_code(), message, answer.dendrite.process_time, Some(fields))
        }
        Err(error) => {
            let message = error.status_message().map(|message| message.into_owned());
            (Some(error.status_code()), message, None, None)
        }
    };
    let synapse = synapse.transpose().map_err(Problem::failed)?;
    let summary = Summary {
        index: axon.map(|(at, _)| at),
        ip: axon.map(|(_, axon)| axon.host()),
        port: axon.map(|(_, axon)| axon.port()),
        hotkey: axon.map(|(_, axon)| axon.hotkey()),
        status_code: code,
        status_message: message.as_deref(),
        process_time: time,
        synapse: synapse.as_deref(),
        streamed,
    };
    serde_json::to_string(&summary).map_err(Problem::failed)
}

/// The own fields as JSON. NaN and infinities, which JSON has not, are null.
pub(crate) fn fields(fields: &Dict) -> String {
    fields.to_json().unwrap_or_else(|_| {
        let finite = fields.iter().map(|(name, value)| (name.to_owned(), finite(value)));
        finite.collect::<Dict>().to_json().unwrap_or_else(|_| "{}".to_owned())
    })
}

fn finite(value: &Value) -> Value {
    match value {
        Value::Float(number) if !number.is_finite() => Value::None,
        Value::List(items) => Value::List(items.iter().map(finite).collect()),
        Value::Tuple(items) => Value::Tuple(items.iter().map(finite).collect()),
        Value::Dict(items) => Value::Dict(
            items.iter().map(|(name, value)| (name.to_owned(), finite(value))).collect(),
        ),
        other => other.clone(),
    }
}

fn succeeded(answer: &Answer<Untyped>) -> Result<(), Problem> {
    match answer.is_success() {
        true => Ok(()),
        false => Err(Problem::failed("the axon answered without saying whether it succeeded")),
    }
}

/// What a person needs to know of a failed call.
pub(crate) fn reason(error: &CallError) -> String {
    match error {
        CallError::Refused(refusal) => match &refusal.message {
            Some(message) => format!("{}: {message}", refusal.status),
            None => format!("{} without a reason", refusal.status),
        },
        other => chain(other),
    }
}

fn failed(error: &CallError, target: &Target) -> Problem {
    let text = reason(error);
    let problem = match error {
        CallError::Target(_) | CallError::Ask(_) => return Problem::usage(text),
        CallError::Refused(_) => Problem::failed(format!("the axon refused with {text}")),
        _ => Problem::failed(text),
    };
    match error {
        CallError::Refused(refusal) if matches!(refusal.status, 400..=499) => problem
            .hint("`schwann doctor` with the same address, name and keys tries to find out why"),
        CallError::Unreachable { .. } => {
            problem.hint(format!("is an axon listening on {}?", target.authority()))
        }
        CallError::Timeout { .. } => problem.hint("--timeout 60s waits longer"),
        CallError::Truncated { .. } => problem.hint(
            "what serves it failed after it had begun, or the call took longer than its --timeout",
        ),
        CallError::Unparsable { source: AnswerError::ContentType { .. }, .. } => {
            problem.hint("--stream prints an answer that is no JSON as it comes")
        }
        _ => problem,
    }
}

fn bounded(from: impl Read, name: &str) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    from.take(MAX_JSON + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Problem::usage(format!("cannot read {name}: {error}")))?;
    match bytes.len() as u64 > MAX_JSON {
        true => Err(Problem::usage(format!("{name} holds more than 64MiB"))),
        false => Ok(bytes),
    }
}
