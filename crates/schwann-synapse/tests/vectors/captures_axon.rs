//! Recorded exchanges of the Python axon, with our axon in its place: the same bytes get the same answer, apart from
//! what [`axon_differences`](crate::axon_differences) lists. By what a request is and what was answered, never by its name, so that further recordings
//! are judged alike.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use schwann_synapse::{
    axon::Axon,
    caller::Verify,
    keys::Keypair,
    python::{Dict, Value},
};

use crate::{
    answers_alike::{compare, message},
    asked::Asked,
    axon_differences::Case,
    exchange::{Reply, ask, headers, replies, split_head},
    recorded_routes::routes,
    set::{self, Kind, get, maybe, only_for_people, same, text},
};

/// The same files as the dendrite's, read from the other end.
const KIND: Kind = Kind {
    name: "captures",
    sections: &[
        ("sdk", only_for_people),
        ("version_as_int", only_for_people),
        ("python", only_for_people),
        ("libs", only_for_people),
        ("axon_hotkey", recorded_axon),
        ("axon_uuid", only_for_people),
        ("dendrite_hotkey", only_for_people),
        ("axon_port", only_for_people),
        ("proxy_port", only_for_people),
        ("exchanges", exchange),
    ],
};

#[test]
fn our_axon_answers_as_the_recorded_one() {
    set::check(&KIND);
}

/// The hotkey of `//interop-axon`.
pub(crate) const AXON: &str = "5CcX9gSfabdgTwKAXapgUMcoVTzRSNGXE8o2iCAWxo4hYTxp";

static SIGNER: LazyLock<Arc<Keypair>> =
    LazyLock::new(|| Arc::new(Keypair::from_uri("//interop-axon").unwrap()));

fn recorded_axon(hotkey: &Value, _: &Dict) -> Result<(), String> {
    same("axon hotkey", hotkey.as_str(), Some(AXON))
}

// --- replaying ---

/// What one connection sent and got.
struct Talk {
    requests: Vec<Asked>,
    answers: Vec<Reply>,
    /// Whether the axon closed it, and without an answer.
    dropped: bool,
    now: u64,
}

fn talks(entry: &Value) -> Result<Vec<Talk>, String> {
    let Value::List(connections) = get(entry, "connections")? else {
        return Err("no connections".into());
    };
    let mut talks = Vec::new();
    for connection in connections {
        let bytes = |key: &str| match maybe(connection, key) {
            Some(Value::Str(text)) => STANDARD.decode(text).map_err(|why| why.to_string()),
            _ => Ok(Vec::new()),
        };
        let (request, response) = (bytes("request_b64")?, bytes("response_b64")?);
        let requests = match maybe(connection, "request_len") {
            Some(length) => {
                vec![left_out(length.py_str().parse().map_err(|_| "no length")?, entry)?]
            }
            // It closed before it asked.
            None if request.is_empty() => continue,
            None => requests(request),
        };
        let methods: Vec<&str> = requests.iter().map(|asked| asked.method.as_str()).collect();
        let answers = replies(&response, &methods, true);
        let closed_by = maybe(connection, "closed_by").and_then(Value::as_list).unwrap_or_default();
        let by_axon = closed_by.first().and_then(Value::as_str) == Some("s2c");
        let now = moment(&requests, &answers)?;
        talks.push(Talk { dropped: answers.is_empty() && by_axon, requests, answers, now });
    }
    Ok(talks)
}

/// The requests of one connection. What has no end is one request.
fn requests(bytes: Vec<u8>) -> Vec<Asked> {
    let mut all = Vec::new();
    let mut rest = bytes.as_slice();
    while let Some((head, body)) = split_head(rest) {
        let length = headers(&head).into_iter().rev().find(|(name, _)| name == "content-length");
        let Some(length) = length.and_then(|(_, value)| value.parse::<usize>().ok()) else { break };
        let end = rest.len() - body.len() + length.min(body.len());
        all.push(Asked::parse(rest[..end].to_vec()));
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        all.push(Asked::parse(rest.to_vec()));
    }
    all
}

/// A request like one that was too long for the file: its head is what made it long.
fn left_out(length: usize, entry: &Value) -> Result<Asked, String> {
    let mut bytes =
        b"POST /PlainSynapse HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n".to_vec();
    let end = b"\r\n\r\n{\"x\": 21}";
    let room = length.saturating_sub(bytes.len() + end.len());
    if text(entry, "note")?.ends_with("headers") {
        // 300 of them were recorded.
        for at in 0..300 {
            bytes.extend(format!("x-pad-{at:04}: a\r\n").bytes());
        }
        bytes.truncate(bytes.len() - 2);
    } else {
        bytes.extend_from_slice(b"x-pad: ");
        bytes.extend(std::iter::repeat_n(b'a', room - 7));
    }
    bytes.extend_from_slice(end);
    Ok(Asked::parse(bytes))
}

/// When the axon saw it: as it signed, or else by the date of its answer, which has no fractions.
fn moment(requests: &[Asked], answers: &[Reply]) -> Result<u64, String> {
    let number = |text: &str| text.parse::<u64>().ok();
    let nonce = requests.last().and_then(|asked| asked.last("bt_header_dendrite_nonce"));
    let nonce = nonce.and_then(number);
    if let Some(signed) =
        answers.iter().rev().find_map(|reply| reply.header("bt_header_axon_nonce"))
    {
        return number(signed).ok_or_else(|| "no nonce".into());
    }
    let Some(date) = answers.iter().rev().find_map(|reply| reply.header("date")) else {
        // Not even a date: a client that left, or a server that failed.
        return Ok(nonce.unwrap_or(1_795_219_400_000_000_000));
    };
    let date = seconds(date).ok_or("no date")? * 1_000_000_000;
    // Dates may be a second old.
    Ok(nonce.filter(|nonce| (date..date + 2_000_000_000).contains(nonce)).unwrap_or(date))
}

/// Seconds since 1970 of an HTTP date: RFC 9110 §5.6.7, the first form.
fn seconds(date: &str) -> Option<u64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let words: Vec<&str> = date.split([' ', ':']).collect();
    let number = |at: usize| words.get(at)?.parse::<u64>().ok();
    let month = MONTHS.find(words.get(2)?)? as u64 / 3;
    // Years begin in March, so that a leap day is a year's last.
    let (year, month) =
        if month < 2 { (number(3)? - 1, month + 10) } else { (number(3)?, month - 2) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + number(1)?;
    Some((days - 719_469) * 86_400 + number(4)? * 3600 + number(5)? * 60 + number(6)?)
}

/// An axon like the recorded one, that has been running for two hours.
struct Ours {
    axon: Axon,
    clock: Arc<AtomicU64>,
}

impl Ours {
    fn start(verify: Verify, now: u64, reason: &str) -> Self {
        let clock = Arc::new(AtomicU64::new(now - 7_200_000_000_000));
        let told = Arc::clone(&clock);
        let mut axon = Axon::builder(Arc::clone(&SIGNER))
            .verify(verify)
            .clock(move || told.load(Ordering::Relaxed));
        for route in routes(reason) {
            axon = axon.attach(route);
        }
        Self { axon: axon.build().unwrap(), clock }
    }

    async fn replay(&self, talk: &Talk) -> (Vec<Reply>, bool) {
        self.clock.store(talk.now, Ordering::Relaxed);
        let bytes =
            talk.requests.iter().map(|asked| asked.bytes.as_slice()).collect::<Vec<_>>().concat();
        let methods: Vec<&str> = talk.requests.iter().map(|asked| asked.method.as_str()).collect();
        let last = talk.answers.last();
        // A client that left in the middle of a stream leaves here too.
        let left = last.filter(|reply| !reply.whole).and_then(|reply| reply.chunks.as_ref());
        let left = left.filter(|_| !talk.requests.iter().any(Asked::fails_midway));
        let left = left.map(|chunks| chunks.concat().len());
        let enough = |seen: &[u8]| {
            let ours = replies(seen, &methods, false);
            let Some(last) = ours.last().filter(|_| ours.len() >= talk.requests.len()) else {
                return false;
            };
            last.whole || left.is_some_and(|left| last.body.len() >= left)
        };
        let patience = match (talk.answers.is_empty() && !talk.dropped, &talk.requests[..]) {
            // It gave up, and so do we.
            (true, [asked, ..]) => {
                asked.header("timeout").and_then(|text| text.parse().ok()).unwrap_or(1.0)
            }
            _ => 60.0,
        };
        let patience = Duration::from_secs_f64(patience);
        let (seen, closed) = ask(&self.axon, &bytes, patience, enough).await;
        (replies(&seen, &methods, closed), closed)
    }
}

fn exchange(entry: &Value, file: &Dict) -> Result<(), String> {
    let group = text(entry, "group")?;
    if group == "sdk_dendrite_to_fake" {
        return Ok(());
    }
    let talks = talks(entry)?;
    for verify in [Verify::LikeReference, Verify::Hardened] {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let judged =
            runtime.map_err(|why| why.to_string())?.block_on(judge(entry, file, &talks, verify));
        judged.map_err(|why| format!("{verify:?}: {why}"))?;
    }
    Ok(())
}

async fn judge(entry: &Value, file: &Dict, talks: &[Talk], verify: Verify) -> Result<(), String> {
    let Some(first) = talks.first() else { return Ok(()) };
    let ours = Ours::start(verify, first.now, &reason(talks));
    let mut replayed = false;
    if talks
        .iter()
        .flat_map(|talk| &talk.answers)
        .filter_map(message)
        .any(|text| text.contains("newer one"))
    {
        let before = before(entry, file, &first.requests[0])?;
        replayed = before.requests[0].bytes == first.requests[0].bytes;
        let (answers, _) = ours.replay(&before).await;
        same("the request before", answers.first().map(|reply| reply.status), Some(200))?;
    }
    for talk in talks {
        let (answers, closed) = ours.replay(talk).await;
        if talk.answers.is_empty() && !talk.dropped {
            same("answers before the client gives up", answers.len(), 0)?;
            continue;
        }
        // Where one request was answered by closing, we answer.
        let count = if talk.dropped { 1 } else { talk.answers.len() };
        same("answers", answers.len(), count).map_err(|why| format!("{why} (closed: {closed})"))?;
        for (at, answer) in answers.iter().enumerate() {
            let asked = talk.requests.get(at).ok_or("an answer without a request")?;
            let recorded = talk.answers.get(at);
            let case = Case { asked, recorded, verify, now: talk.now, replayed };
            compare(&case, answer, file)?;
        }
    }
    Ok(())
}

/// Why the recorded blacklist refused. What could not be said was something that no header can carry.
fn reason(talks: &[Talk]) -> String {
    for talk in talks {
        if talk.dropped {
            return "first line\r\nsecond: line".to_owned();
        }
        for text in talk.answers.iter().filter_map(message) {
            if let Some(reason) = text.strip_prefix("Forbidden. Key is blacklisted: ") {
                return reason.strip_suffix('.').unwrap_or(reason).to_owned();
            }
        }
    }
    "no more than 5 € a day".to_owned()
}

/// The nearest request before this one, of the same lane, that was served.
fn before(entry: &Value, file: &Dict, asked: &Asked) -> Result<Talk, String> {
    let all = file.get("exchanges").and_then(Value::as_list).ok_or("no exchanges")?;
    let at = all.iter().position(|other| other == entry).ok_or("not in its own file")?;
    for other in all[..at].iter().rev() {
        let talks = talks(other)?;
        let served = |talk: &Talk| {
            talk.requests.first().is_some_and(|other| other.lane() == asked.lane())
                && talk.answers.first().is_some_and(|reply| reply.status == 200)
        };
        if let Some(talk) = talks.into_iter().find(served) {
            return Ok(talk);
        }
    }
    Err("nothing came before it".into())
}
