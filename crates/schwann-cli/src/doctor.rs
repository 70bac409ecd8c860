//! `schwann doctor`: why was I refused?

use std::{
    io,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use schwann_synapse::{
    call_error::CallError,
    dendrite::{Dendrite, Protocol},
    synapse::Untyped,
    target::Target,
};
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    args::DoctorArgs,
    call,
    config::{CallProtocol, Config},
    problem::{Problem, one_line, print_line},
};

/// Longest wait for a connection or a plain answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Largest answer head that is looked at, in bytes.
const MAX_HEAD: usize = 64 << 10;

/// How far the Python SDK lets a nonce lie in the past, besides the timeout.
const ALLOWED_DELTA: f64 = 4.0;

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    result: Verdict,
    said: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Good,
    Suspect,
    Bad,
}

/// What was found, told as it is found.
struct Report {
    json: bool,
    findings: Vec<Finding>,
}

impl Report {
    fn add(
        &mut self,
        check: &'static str,
        result: Verdict,
        said: impl Into<String>,
        hint: Option<String>,
    ) -> Result<(), Problem> {
        let finding = Finding { check, result, said: one_line(&said.into()), hint };
        if !self.json {
            let sign = match result {
                Verdict::Good => "ok ",
                Verdict::Suspect => "?? ",
                Verdict::Bad => "BAD",
            };
            let mut line = format!("{sign} {:<9} {}", finding.check, finding.said);
            if let Some(hint) = &finding.hint {
                line.push_str(&format!("\n    {:<9} -> {}", "", one_line(hint)));
            }
            print_line(line)?;
        }
        self.findings.push(finding);
        Ok(())
    }
}

pub(crate) async fn run(args: DoctorArgs, config: &Config, json: bool) -> Result<(), Problem> {
    let target = call::target(&args.url, Some(&args.hotkey))?;
    call::named("--hash", &args.hash)?;
    let ask = call::ask(&args.name, &args.fields)?.hash(args.hash.clone());
    let dendrite = call::dendrite(&config.settings)?;
    let mut report = Report { json, findings: Vec::new() };
    let accepted = match look(&target, config, &mut report).await? {
        true => {
            let accepted = ask_it(&dendrite, &target, &ask, config, &mut report).await?;
            if accepted && args.stream {
                spread(&dendrite, &target, &ask, &mut report).await?;
            }
            accepted
        }
        false => false,
    };
    if json {
        print_line(serde_json::json!({ "accepted": accepted, "findings": report.findings }))?;
    }
    match accepted {
        true => Ok(()),
        false => Err(Problem::failed(format!("{} does not serve this call", target.authority()))),
    }
}

/// The way there, without any signature. Whether to go on.
async fn look(target: &Target, config: &Config, report: &mut Report) -> Result<bool, Problem> {
    let place = (target.host().to_owned(), target.port());
    let began = Instant::now();
    let mut stream = match timeout(PATIENCE, TcpStream::connect(place)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            let hint = match error.kind() {
                io::ErrorKind::ConnectionRefused => "nothing listens there: is the axon running?",
                _ => "are address and port right?",
            };
            report.add("connect", Verdict::Bad, error.to_string(), Some(hint.into()))?;
            return Ok(false);
        }
        Err(_) => {
            let hint = "packets vanish: a firewall, or an address that nobody has";
            report.add("connect", Verdict::Bad, "no connection in 5s", Some(hint.into()))?;
            return Ok(false);
        }
    };
    let took = began.elapsed().as_secs_f64() * 1000.0;
    report.add("connect", Verdict::Good, format!("connected in {took:.1} ms"), None)?;

    let sent = SystemTime::now();
    let head = match timeout(PATIENCE, head(&mut stream, target)).await {
        Ok(Ok(head)) => head,
        Ok(Err(error)) => {
            let hint = "something listens there, but it does not speak HTTP";
            report.add("http", Verdict::Bad, error.to_string(), Some(hint.into()))?;
            return Ok(false);
        }
        Err(_) => {
            let hint = "something listens there, but does not answer HTTP";
            report.add("http", Verdict::Bad, "no answer in 5s", Some(hint.into()))?;
            return Ok(false);
        }
    };
    let middle = sent + sent.elapsed().unwrap_or_default() / 2;
    let via = header(&head, "via").or_else(|| header(&head, "x-cache"));
    let server = header(&head, "server").unwrap_or("a server that does not name itself");
    report.add("http", Verdict::Good, format!("answered by {server}"), None)?;
    if let Some(via) = via {
        let hint = "it must pass bt_header_* headers and streams on unchanged";
        report.add("proxy", Verdict::Suspect, format!("there is one: {via}"), Some(hint.into()))?;
    }
    clock(&head, middle, config, report)?;
    Ok(true)
}

fn clock(
    head: &str,
    middle: SystemTime,
    config: &Config,
    report: &mut Report,
) -> Result<(), Problem> {
    let Some(theirs) = header(head, "date").and_then(http_date) else {
        let said = "the server does not say its time";
        return report.add("clock", Verdict::Suspect, said, None);
    };
    let ours = middle.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    // The header is cut to whole seconds.
    let behind = theirs as f64 + 0.5 - ours;
    let window = ALLOWED_DELTA + config.settings.call.timeout.duration().as_secs_f64();
    let set = Some("set this machine's clock by NTP: nonces are times".to_owned());
    match behind {
        b if b.abs() <= 1.5 => {
            report.add("clock", Verdict::Good, "the two clocks agree to a second", None)
        }
        b if b > window => {
            let said = format!("ours is {b:.0} s behind: nonces are too old");
            report.add("clock", Verdict::Bad, said, set)
        }
        b if b > 0.0 => {
            let said = format!("ours is {b:.0} s behind, and {window:.0} s are allowed");
            report.add("clock", Verdict::Suspect, said, set)
        }
        b => {
            let said = format!("ours is {:.0} s ahead: a strict axon refuses that", -b);
            report.add("clock", Verdict::Suspect, said, set)
        }
    }
}

/// A request without meaning, for the head of its answer.
async fn head(stream: &mut TcpStream, target: &Target) -> io::Result<String> {
    let request =
        format!("GET / HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", target.authority());
    stream.write_all(request.as_bytes()).await?;
    let mut seen = Vec::new();
    while !seen.windows(4).any(|four| four == b"\r\n\r\n") {
        if seen.len() > MAX_HEAD {
            return Err(io::Error::other("the answer's head has no end"));
        }
        if stream.read_buf(&mut seen).await? == 0 {
            return Err(io::Error::other("the connection was closed without an answer"));
        }
    }
    let head = String::from_utf8_lossy(&seen).into_owned();
    match head.starts_with("HTTP/1.") {
        true => Ok(head),
        false => Err(io::Error::other("the answer is not HTTP/1")),
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.split("\r\n\r\n").next()?.split("\r\n").skip(1);
    lines.find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 §5.6.7).
fn http_date(text: &str) -> Option<i64> {
    let mut parts = text.strip_suffix(" GMT")?.split_once(", ")?.1.split(' ');
    let day: i64 = parts.next()?.parse().ok()?;
    let months =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let name = parts.next()?;
    let month = months.iter().position(|month| *month == name)? as i64 + 1;
    let year: i64 = parts.next()?.parse().ok()?;
    let mut clock = parts.next()?.split(':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    // Days from civil, with the year beginning in March.
    let year = year - i64::from(month <= 2);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let of_era = year.rem_euclid(400) * 365 + year.rem_euclid(400) / 4 - year.rem_euclid(400) / 100
        + of_year;
    let days = year.div_euclid(400) * 146_097 + of_era - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

/// The call itself, and if it is refused, what would not be. Whether it was
/// accepted.
async fn ask_it(
    dendrite: &Dendrite,
    target: &Target,
    ask: &Untyped,
    config: &Config,
    report: &mut Report,
) -> Result<bool, Problem> {
    let protocol = config.settings.call.protocol;
    let error = match probe(dendrite, target, ask, protocol.into()).await {
        Ok(()) => {
            report.add("call", Verdict::Good, "the axon serves it", None)?;
            return Ok(true);
        }
        Err(error) => error,
    };
    let CallError::Refused(refusal) = &error else {
        report.add("call", Verdict::Bad, call::reason(&error), None)?;
        return Ok(false);
    };
    let message = refusal.message.as_deref().unwrap_or("");
    let (said, hint) = (call::reason(&error), explain(refusal.status, message));
    report.add("call", Verdict::Bad, said, hint)?;

    if let Some(theirs) = own_hotkey(message)
        && theirs != target.hotkey()
    {
        let said = format!("the axon verified the call as one to {theirs}");
        report.add("hotkey", Verdict::Bad, said, Some(format!("--hotkey {theirs}")))?;
        return Ok(false);
    }
    // v10 says 500 if the hash of the body is another than the one signed.
    if matches!(refusal.status, 400 | 401 | 500) {
        hashes(dendrite, target, ask, protocol, report).await?;
    }
    let (other, name) = match protocol {
        CallProtocol::V10 => (Protocol::BtAuth1, "btauth"),
        CallProtocol::BtAuth => (Protocol::V10, "v10"),
    };
    match probe(dendrite, target, ask, other).await {
        Ok(()) => {
            let said = format!("the same call in {name} is served");
            report.add("protocol", Verdict::Bad, said, Some(format!("--protocol {name}")))?;
        }
        // It checks the receiver before anything else, and says so.
        Err(CallError::Refused(refusal)) if names_receiver(refusal.message.as_deref()) => {
            let said = "the axon has another hotkey than --hotkey says";
            let hint = "its owner, or the chain's metagraph, knows its hotkey";
            report.add("hotkey", Verdict::Bad, said, Some(hint.to_owned()))?;
        }
        Err(_) => {
            let said = format!("refused by {name} as well, so the protocol is not the reason");
            report.add("protocol", Verdict::Good, said, None)?;
        }
    }
    Ok(false)
}

/// Sees whether the axon wants other fields hashed than were.
async fn hashes(
    dendrite: &Dendrite,
    target: &Target,
    ask: &Untyped,
    protocol: CallProtocol,
    report: &mut Report,
) -> Result<(), Problem> {
    let fields: Vec<String> = ask.fields.keys().take(8).map(str::to_owned).collect();
    let mut choices: Vec<Vec<String>> = vec![Vec::new()];
    choices.extend(fields.iter().map(|field| vec![field.clone()]));
    if fields.len() > 1 {
        choices.push(fields);
    }
    choices.retain(|choice| *choice != ask.hash);
    for choice in choices {
        let ask = Untyped { hash: choice.clone(), ..ask.clone() };
        if probe(dendrite, target, &ask, protocol.into()).await.is_ok() {
            let (said, hint) = match choice.is_empty() {
                true => ("it is served if no field is hashed".to_owned(), "leave --hash out"),
                false => ("it is served if other fields are hashed".to_owned(), "--hash"),
            };
            let hint = format!("{hint} {}", choice.join(","));
            return report.add("hash", Verdict::Bad, said, Some(hint.trim().to_owned()));
        }
    }
    let said = "no simple choice of hashed fields changes it";
    report.add("hash", Verdict::Good, said, None)
}

/// Calls and throws the answer away. An answer that cannot be read as one
/// piece was accepted nevertheless.
async fn probe(
    dendrite: &Dendrite,
    target: &Target,
    ask: &Untyped,
    protocol: Protocol,
) -> Result<(), CallError> {
    // The head says whether it is served; the rest may be long.
    dendrite.stream(target, ask.clone()).protocol(protocol).await.map(drop)
}

/// The axon's own hotkey, which is part of the message that it verified:
/// `nonce.caller.axon.uuid.hash`. Its headers only repeat what was sent.
fn own_hotkey(message: &str) -> Option<&str> {
    let verified = message.split_once("mismatch with ")?.1;
    let hotkey = verified.split('.').nth(2)?;
    hotkey.bytes().all(|byte| byte.is_ascii_alphanumeric()).then_some(hotkey)
}

fn names_receiver(message: Option<&str>) -> bool {
    message.is_some_and(|message| message.to_ascii_lowercase().contains("receiver"))
}

/// What a refusal usually means.
fn explain(status: i64, message: &str) -> Option<String> {
    let has = |text: &str| message.to_ascii_lowercase().contains(text);
    let text = match status {
        401 if has("too old") && has("newer") => {
            "another process calls with the same key and uuid; each needs its own"
        }
        401 if has("too old") || has("future") || has("stale") => {
            "the clocks differ, or the request was long on its way"
        }
        401 if has("mismatch") || has("bad signature") => {
            "the axon computed another message: another hotkey, other hashed fields (--hash), or \
             a proxy that changed a header"
        }
        401 if has("missing nonce") || has("missing signature") => {
            "headers were lost on the way: a proxy drops those with an underscore in their name \
             (nginx: underscores_in_headers on)"
        }
        401 if has("receiver") => "the axon has another hotkey than --hotkey says",
        401 => "the axon does not accept the signature",
        403 => "the axon's blacklist has this key, or its subnet does not know it",
        404 => "the axon has no synapse of this name; names are case-sensitive",
        408 | 504 => "the axon took it, but did not answer in time",
        413 => "the body is larger than the axon takes",
        422 => "the fields are not those that the axon's class has",
        429 => "too many calls from this key",
        503 => "the axon is busy and prefers others",
        500 => "the axon failed, which its log explains, or the wrong fields were hashed (--hash)",
        501..=599 => "the axon took it, but failed: its log says why",
        400 => "the axon cannot read the fields or the headers",
        _ => return None,
    };
    Some(text.to_owned())
}

/// Whether the pieces of a stream arrive one by one.
async fn spread(
    dendrite: &Dendrite,
    target: &Target,
    ask: &Untyped,
    report: &mut Report,
) -> Result<(), Problem> {
    let began = Instant::now();
    let mut times = Vec::new();
    let result = async {
        let mut stream = dendrite.stream(target, ask.clone()).await?;
        while stream.chunk().await?.is_some() {
            times.push(began.elapsed());
        }
        Ok::<_, CallError>(began.elapsed())
    };
    let whole = match result.await {
        Ok(whole) => whole,
        Err(error) => {
            let said = format!("{} after {} pieces", call::reason(&error), times.len());
            return report.add("stream", Verdict::Bad, said, None);
        }
    };
    let (Some(first), Some(last)) = (times.first(), times.last()) else {
        return report.add("stream", Verdict::Suspect, "it is empty", None);
    };
    let ms = |time: &Duration| time.as_secs_f64() * 1000.0;
    let said = format!(
        "{} pieces, the first after {:.0} ms, the last after {:.0} ms",
        times.len(),
        ms(first),
        ms(last)
    );
    // Everything at once, and late: somebody on the way kept it back.
    let late = whole > Duration::from_millis(200);
    let at_once = last.saturating_sub(*first) < whole / 10;
    match late && at_once {
        true => report.add(
            "stream",
            Verdict::Suspect,
            format!("{said}: all at once"),
            Some(
                "something on the way keeps the answer back (nginx: proxy_buffering off), or the \
                 synapse does not stream"
                    .to_owned(),
            ),
        ),
        false => report.add("stream", Verdict::Good, said, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn date(text: &str, expected: Option<i64>) {
        assert_eq!(http_date(text), expected, "{text}");
    }

    #[test]
    fn dates_of_http() {
        date("Thu, 01 Jan 1970 00:00:00 GMT", Some(0));
        date("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777));
        date("Thu, 29 Feb 2024 12:00:00 GMT", Some(1_709_208_000));
        date("Sat, 01 Mar 2025 00:00:00 GMT", Some(1_740_787_200));
        date("Sun, 06 Nov 1994 08:49:37", None);
        date("", None);
    }

    #[test]
    fn a_header_is_found_by_its_name() {
        let head = "HTTP/1.1 200 OK\r\nDate: now\r\nserver:uvicorn\r\n\r\nvia: body";
        assert_eq!(header(head, "date"), Some("now"));
        assert_eq!(header(head, "Server"), Some("uvicorn"));
        assert_eq!(header(head, "via"), None);
    }
}
