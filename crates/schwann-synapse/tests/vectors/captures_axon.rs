//! Recorded exchanges of the Python axon, with our axon in its place: the same bytes get the same answer, apart from
//! what [`DIFFERENT`] lists. By what a request is and what was answered, never by its name, so that further recordings
//! are judged alike.

use std::{
    collections::{BTreeMap, BTreeSet},
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
    headers::{parse_like_reference, parse_strict},
    keys::{BytesWrapping, KeyCache, Keypair, Scheme, parse_signature_hex},
    python::{Dict, Value},
    synapse::BASE_FIELDS,
};

use crate::{
    exchange::{Reply, ask, headers, method, replies, split_head},
    recorded_routes::routes,
    set::{self, Kind, get, holds, maybe, only_for_people, same, text},
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

// --- where we differ ---

/// Everything a difference may depend on.
struct Case<'a> {
    asked: &'a Asked,
    /// Nothing if the axon closed the connection instead.
    recorded: Option<&'a Reply>,
    verify: Verify,
    /// Nanoseconds since 1970.
    now: u64,
    /// Whether another request used the same nonce before.
    replayed: bool,
}

struct Difference {
    applies: fn(&Case<'_>) -> bool,
    status: u16,
    /// The row of the specification's §16, and why.
    why: &'static str,
}

const DIFFERENT: &[Difference] = &[
    // --- however it verifies ---
    Difference {
        applies: |case| case.asked.method != "POST" && case.asked.method != "GET",
        status: 405,
        why: "the method is looked at first: refusing it costs no signature",
    },
    Difference {
        applies: |case| case.asked.target.starts_with("http://"),
        status: 200,
        why: "RFC 9112 §3.2.2: a server accepts the absolute form",
    },
    Difference {
        applies: |case| case.asked.path().trim_start_matches('/').contains('/'),
        status: 404,
        why: "a path that goes on after the route's name names no route, and nothing redirects",
    },
    Difference {
        applies: |case| case.status() == 200 && case.asked.unsigned(),
        status: 401,
        why: "W8: a signature is always required",
    },
    Difference {
        applies: |case| {
            let hotkey = case.asked.last("bt_header_dendrite_hotkey");
            case.status() == 200 && hotkey.is_some_and(|hotkey| hotkey.starts_with("0x"))
        },
        status: 401,
        why: "W13: a hotkey is written as ss58; SDK 7 took hexadecimal too, SDK 8 no longer does",
    },
    Difference {
        applies: |case| {
            case.recorded.is_none_or(|reply| {
                reply.status == 500 && reply.content_type() == Some("text/plain")
            })
        },
        status: 403,
        why: "W20: a reason that no header can carry still arrives in the body",
    },
    Difference {
        applies: |case| case.blank() && case.parses(),
        status: 200,
        why: "W21: placeholders are not made into a synapse",
    },
    Difference {
        applies: |case| case.status() == 500 && case.asked.header("content-type").is_none(),
        status: 200,
        why: "no content type is taken for JSON, as SDK 7 to 9 take it",
    },
    Difference {
        applies: |case| {
            let axon = case.asked.body().and_then(|body| body.get("axon").cloned());
            axon.is_some_and(|axon| maybe(&axon, "status_code").is_some_and(|code| !code.is_none()))
        },
        status: 200,
        why: "W9: the status is the handler's, not the caller's",
    },
    Difference {
        applies: |case| case.status() == 500 && case.unreadable(),
        status: 422,
        why: "W17: what no JSON parser reads is the caller's fault",
    },
    // --- hardened ---
    Difference {
        applies: |case| case.hardened() && !case.strict(),
        status: 400,
        why: "W17, W32, W3: headers twice, numbers not plain and times not finite are malformed",
    },
    Difference {
        applies: |case| case.hardened() && case.reads_otherwise(),
        status: 200,
        why: "W19, W32: headers have exact names, and what they say of the axon's status is nothing to us",
    },
    Difference {
        applies: |case| {
            let timeout = case.asked.header("timeout").and_then(|text| text.parse().ok());
            case.hardened() && case.status() == 401 && case.asked.well_signed() && {
                case.age() < 4.0 && timeout.is_some_and(|timeout: f64| timeout < 0.0)
            }
        },
        status: 200,
        why: "W3: a timeout below nothing counts as none, and so does not close the window",
    },
    Difference {
        applies: |case| case.hardened() && case.status() == 200 && case.age() > 64.0,
        status: 401,
        why: "W3: the window follows neither an unsigned version nor an unsigned timeout",
    },
    Difference {
        applies: |case| case.hardened() && case.status() == 200 && case.age() < -60.0,
        status: 401,
        why: "W5: nonces from the future are refused",
    },
    Difference {
        applies: |case| case.hardened() && case.status() == 403 && !case.asked.well_signed(),
        status: 401,
        why: "W11: blacklists see proven callers only",
    },
    Difference {
        applies: |case| {
            case.hardened() && case.message().ends_with("a newer one was last processed") && {
                !case.replayed && case.asked.well_signed()
            }
        },
        status: 200,
        why: "W12: an unused nonce within the window is fresh, whatever came before it",
    },
    Difference {
        applies: |case| {
            case.hardened()
                && case.asked.well_signed()
                && !case.asked.signed(BytesWrapping::Refuse)
                && case.status() != 401
        },
        status: 401,
        why: "a signature over the wrapped message is none, and costs no second look",
    },
    Difference {
        applies: |case| case.hardened() && case.status() == 500 && case.malformed(),
        status: 400,
        why: "W17: a malformed body is the caller's fault",
    },
];

impl Case<'_> {
    fn status(&self) -> u16 {
        self.recorded.map_or(0, |reply| reply.status)
    }

    fn hardened(&self) -> bool {
        self.verify == Verify::Hardened
    }

    fn message(&self) -> String {
        self.recorded.and_then(message).unwrap_or_default()
    }

    /// Whether the recorded axon failed while it made a synapse of the headers.
    fn blank(&self) -> bool {
        let view = self.recorded.is_some_and(|reply| {
            reply.header("name") == Some("Synapse")
                && reply.header("bt_header_axon_version").is_none()
        });
        self.status() == 500 && view
    }

    fn parses(&self) -> bool {
        parse_like_reference(self.asked.pairs()).is_ok() && (!self.hardened() || self.strict())
    }

    fn strict(&self) -> bool {
        parse_strict(self.asked.pairs()).is_ok()
    }

    /// Whether exact names say something else than names that merely contain those.
    fn reads_otherwise(&self) -> bool {
        match (parse_like_reference(self.asked.pairs()), parse_strict(self.asked.pairs())) {
            (Err(_), Ok(_)) => true,
            (Ok(loose), Ok(strict)) => loose.dendrite != strict.dendrite,
            _ => false,
        }
    }

    /// Seconds, negative for the future.
    fn age(&self) -> f64 {
        let nonce =
            self.asked.last("bt_header_dendrite_nonce").and_then(|nonce| nonce.parse().ok());
        nonce.map_or(0.0, |nonce: i128| (i128::from(self.now) - nonce) as f64 / 1e9)
    }

    /// A body that the reference's parsers disagree about, or that holds text which is no Unicode.
    fn unreadable(&self) -> bool {
        !self.asked.body.is_empty() && Value::parse_json(&self.asked.body).is_err()
    }

    /// Whether the recorded axon failed before the handler, at the body.
    fn malformed(&self) -> bool {
        let json = self.asked.header("content-type").is_none_or(|kind| kind.contains("json"));
        let Some(body) = self.asked.body().filter(|_| json) else { return true };
        let Some(hash) = self.asked.header("computed_body_hash") else { return true };
        let fits = match self.asked.route() {
            "PlainSynapse" => body.get("x").is_none_or(|x| matches!(x, Value::Int(_))),
            "EchoSynapse" => ["text", "count"].iter().all(|field| body.contains_key(field)),
            _ => true,
        };
        // A hash of other text than the body's: signed, so nothing else could be wrong with it.
        let hashed: &[&str] = match self.asked.route() {
            "EchoSynapse" => &["text", "count"],
            "IntKeySynapse" => &["d"],
            "NanSynapse" => &["v"],
            "PlainSynapse" => &[],
            _ => return !fits,
        };
        let computed = schwann_synapse::hash::BodyHash::of(|hasher| {
            for field in hashed {
                hasher.value(body.get(field).unwrap_or(&Value::None));
            }
        });
        !fits || hash != computed.to_string()
    }
}

// --- a recorded request ---

#[derive(Debug, Default)]
struct Asked {
    bytes: Vec<u8>,
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Asked {
    fn parse(bytes: Vec<u8>) -> Self {
        let method = method(&bytes);
        let Some((head, body)) = split_head(&bytes) else {
            return Self { bytes, method, ..Self::default() };
        };
        let target = head[0].split(' ').nth(1).unwrap_or_default().to_owned();
        let headers = headers(&head);
        let length = headers.iter().rev().find(|(name, _)| name == "content-length");
        let length = length.and_then(|(_, value)| value.parse().ok()).unwrap_or(body.len());
        let body = body[..length.min(body.len())].to_vec();
        Self { method, target, headers, body, bytes }
    }

    /// The first of this name.
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The last of this name, which is the one that counts for terminals.
    fn last(&self, name: &str) -> Option<&str> {
        self.headers.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    fn route(&self) -> &str {
        self.path().trim_start_matches('/')
    }

    fn body(&self) -> Option<Dict> {
        match Value::parse_json(&self.body) {
            Ok(Value::Dict(body)) => Some(body),
            _ => None,
        }
    }

    fn unsigned(&self) -> bool {
        self.last("bt_header_dendrite_signature").is_none_or(str::is_empty)
    }

    /// Whether the signature is the hotkey's, over what it should be over.
    fn well_signed(&self) -> bool {
        self.signed(BytesWrapping::Accept)
    }

    fn signed(&self, wrapping: BytesWrapping) -> bool {
        let headers = parse_like_reference(self.pairs()).unwrap_or_default();
        let dendrite = &headers.dendrite;
        let (Some(hotkey), Some(nonce), Some(signature)) =
            (&dendrite.hotkey, &dendrite.nonce, &dendrite.signature)
        else {
            return false;
        };
        let key = KeyCache::default().resolve(Scheme::Sr25519, hotkey);
        let (Ok(key), Ok(signature)) = (key, parse_signature_hex(signature)) else { return false };
        let uuid = dendrite.uuid.as_deref().unwrap_or("None");
        let hash = headers.computed_body_hash.as_deref().unwrap_or("None");
        let message = format!("{nonce}.{hotkey}.{AXON}.{uuid}.{hash}");
        key.verify_wrapped(message.as_bytes(), &signature, wrapping)
    }

    /// Who and which lane: the key under which the reference remembers nonces.
    fn lane(&self) -> (Option<&str>, Option<&str>) {
        (self.last("bt_header_dendrite_hotkey"), self.last("bt_header_dendrite_uuid"))
    }

    /// Whether the handler streams, and fails on the way.
    fn fails_midway(&self) -> bool {
        let body = self.body().unwrap_or_default();
        let number = |field| body.get(field).and_then(|value| value.py_str().parse::<i64>().ok());
        number("fail_at").is_some_and(|at| at < number("n_tokens").unwrap_or(5))
    }
}

/// The hotkey of `//interop-axon`.
const AXON: &str = "5CcX9gSfabdgTwKAXapgUMcoVTzRSNGXE8o2iCAWxo4hYTxp";

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

// --- comparing ---

/// A body that is `{"message": ..}` and nothing else.
fn message(reply: &Reply) -> Option<String> {
    match Value::parse_json(&reply.body) {
        Ok(Value::Dict(body)) if body.len() == 1 => {
            body.get("message")?.as_str().map(str::to_owned)
        }
        _ => None,
    }
}

/// The synapse headers of an answer. What the reference sends back of placeholders is left out: nobody reads it.
fn synapse_headers(reply: &Reply) -> BTreeMap<&str, &str> {
    const PLAIN: [&str; 5] = ["name", "timeout", "header_size", "total_size", "computed_body_hash"];
    let all = reply.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    all.filter(|(name, _)| {
        PLAIN.contains(name)
            || (name.starts_with("bt_header_") && !name.starts_with("bt_header_input_obj_"))
    })
    .collect()
}

/// Headers that measure.
const MEASURED: [&str; 3] = ["bt_header_axon_process_time", "header_size", "total_size"];

fn compare(case: &Case<'_>, ours: &Reply, file: &Dict) -> Result<(), String> {
    let long = case.asked.bytes.len() > 32 * 1024 || case.asked.headers.len() > 100;
    let different = DIFFERENT.iter().find(|difference| (difference.applies)(case));
    // What is no HTTP to the reference's server is refused by ours in its own words.
    let no_http = case
        .recorded
        .is_some_and(|reply| reply.status == 400 && reply.content_type() == Some("text/plain"));
    if long || no_http {
        // The server refuses heads as long as that, whoever sends them (W30).
        return same("status", ours.status, if long { 431 } else { 400 });
    }
    let mut expected = different.map_or(case.status(), |different| different.status);
    // W17 for classes that `Case::malformed` does not know: what says that the body is at fault is the caller's.
    let blames_body = || message(ours).is_some_and(|text| text.starts_with("The body "));
    if case.hardened() && expected == 500 && ours.status == 400 && blames_body() {
        expected = 400;
    }
    let why = different.map_or("as recorded", |different| different.why);
    same("status", ours.status, expected)
        .map_err(|wrong| format!("{wrong} ({why}); {}", String::from_utf8_lossy(&ours.body)))?;
    let streams = ours.content_type() == Some("text/event-stream");
    let filled = ours.body.is_empty() || message(ours).is_none();
    if streams {
        succeeded(case, ours)?;
        return stream(case, ours);
    }
    if ours.status == 405 {
        // Answered before anything was looked at.
        return same("allow", ours.header("allow"), Some("POST, GET"));
    }
    holds(ours.whole, || "the answer is cut".into())?;
    if ours.status != 204 {
        same("content type", ours.content_type(), Some("application/json"))?;
    }
    if filled {
        succeeded(case, ours)?;
        match case.recorded {
            Some(recorded) if recorded.status == ours.status => filled_alike(case, ours, recorded),
            _ => Ok(()),
        }
    } else {
        refused(case, ours, file)
    }
}

/// What is said by every answer that holds a synapse: what the request's headers proved, and how it went.
fn succeeded(case: &Case<'_>, ours: &Reply) -> Result<(), String> {
    let said = synapse_headers(ours);
    let mut expected: BTreeSet<String> = [
        "name",
        "timeout",
        "bt_header_axon_status_code",
        "bt_header_axon_status_message",
        "bt_header_axon_process_time",
        "bt_header_axon_hotkey",
        "header_size",
        "total_size",
        "computed_body_hash",
    ]
    .map(str::to_owned)
    .into();
    // W1: a handler's dendrite is the one of the headers, so its answer's is too.
    const PROVEN: [&str; 7] = ["ip", "port", "version", "nonce", "uuid", "hotkey", "signature"];
    let asked = match case.verify {
        Verify::Hardened => parse_strict(case.asked.pairs()),
        _ => parse_like_reference(case.asked.pairs()),
    };
    let asked = asked.map_err(|why| why.to_string())?;
    let of_dendrite = asked.dendrite.to_dict();
    let of_axon = asked.axon.to_dict();
    for (end, terminal, attributes) in
        [("dendrite", &of_dendrite, &PROVEN[..]), ("axon", &of_axon, &PROVEN[..2])]
    {
        for attribute in attributes {
            let Some(value) = terminal.get(attribute).filter(|value| !value.is_none()) else {
                continue;
            };
            let name = format!("bt_header_{end}_{attribute}");
            same(&name, said.get(name.as_str()).copied(), Some(value.py_str().as_str()))?;
            expected.insert(name);
        }
    }
    same("header names", said.keys().map(|name| (*name).to_owned()).collect(), expected)?;
    same("hotkey", said.get("bt_header_axon_hotkey").copied(), Some(AXON))?;
    let status = ours.status.to_string();
    same("status header", said.get("bt_header_axon_status_code").copied(), Some(status.as_str()))?;
    let Some(recorded) = case.recorded.filter(|recorded| recorded.status == ours.status) else {
        return Ok(());
    };
    // Every header of the recorded answer is in ours, with the same value unless the body said otherwise.
    let body = case.asked.body().unwrap_or_default();
    for (name, value) in synapse_headers(recorded) {
        let got = said.get(name).copied();
        let spoofed = || {
            let (end, attribute) = name.strip_prefix("bt_header_")?.split_once('_')?;
            let said = body.get(end)?.as_dict()?.get(attribute)?.py_str();
            (said == value && case.asked.last(name) != Some(value)).then_some(())
        };
        if !MEASURED.contains(&name) && got != Some(value) && spoofed().is_none() {
            same(name, got, Some(value))?;
        }
    }
    Ok(())
}

/// The same fields in the same order, but for what is measured and what W1 puts in.
fn filled_alike(case: &Case<'_>, ours: &Reply, recorded: &Reply) -> Result<(), String> {
    if recorded.body.is_empty() {
        return holds(ours.body.is_empty(), || "a body where there was none".into());
    }
    let fields = |reply: &Reply| match Value::parse_json(&reply.body) {
        Ok(Value::Dict(fields)) => Ok(fields),
        _ => Err(format!("no object: {}", String::from_utf8_lossy(&reply.body))),
    };
    let (ours, recorded) = (fields(ours)?, fields(recorded)?);
    same("fields", ours.keys().collect::<Vec<_>>(), recorded.keys().collect())?;
    for (field, value) in ours.iter() {
        let expected = recorded.get(field).ok_or("a field that was not recorded")?;
        match (field, value, expected) {
            ("dendrite" | "axon", Value::Dict(ours), Value::Dict(recorded)) => {
                let body = case.asked.body().unwrap_or_default();
                let said = body.get(field).cloned().unwrap_or(Value::None);
                for (attribute, value) in recorded.iter() {
                    // What the caller's body said of itself, or did not say, is not repeated.
                    let of_body = maybe(&said, attribute).unwrap_or(&Value::None) == value;
                    if attribute != "process_time" && !of_body {
                        same(attribute, ours.get(attribute), Some(value))?;
                    }
                }
            }
            ("dendrite" | "axon", Value::Dict(_), Value::None) => {}
            // W22: the reference loses the value of a field with an alias.
            ("myVal", value, _) if case.asked.route() == "AliasSynapse" => {
                let body = case.asked.body().unwrap_or_default();
                same(field, Some(value), body.get("my_val").or(body.get("myVal")))?;
            }
            // What the recorded handler reported about the call.
            ("out", Value::Dict(ours), Value::Dict(recorded)) => {
                for (key, value) in recorded.iter() {
                    same(key, ours.get(key), Some(value))?;
                }
            }
            _ => same(field, value, expected)?,
        }
    }
    let base: Vec<&str> = ours.keys().take(BASE_FIELDS.len()).collect();
    same("base fields", &base[..], &BASE_FIELDS[..])
}

/// Chunk for chunk; cut where the handler failed.
fn stream(case: &Case<'_>, ours: &Reply) -> Result<(), String> {
    let recorded = case.recorded.ok_or("a stream where the connection was closed")?;
    same("content type", ours.content_type(), recorded.content_type())?;
    let fails = case.asked.fails_midway();
    let (Some(chunks), Some(expected)) = (&ours.chunks, &recorded.chunks) else {
        // HTTP/1.0 has no chunks, and no other end than closing.
        return same("body", &ours.body, &recorded.body);
    };
    let left = !recorded.whole && !fails;
    // Writes that follow each other at once may share a chunk: theirs are ours, or ours joined.
    let mut pieces = expected.iter();
    for chunk in chunks {
        let mut joined = Vec::new();
        while joined.len() < chunk.len()
            && let Some(piece) = pieces.next()
        {
            joined.extend_from_slice(piece);
        }
        holds(joined == *chunk || left, || {
            format!("a chunk {:?}", String::from_utf8_lossy(chunk))
        })?;
    }
    let ours_whole =
        if left { &ours.body[..recorded.body.len().min(ours.body.len())] } else { &ours.body };
    same("body", ours_whole, &recorded.body)?;
    // W26: a failure never looks whole, whichever server framework it runs in.
    same("whole", ours.whole, !fails && !left)
}

/// `{"message": ..}`, and headers that say who refuses and why, of a size that does not depend on the request.
fn refused(case: &Case<'_>, ours: &Reply, file: &Dict) -> Result<(), String> {
    let said = synapse_headers(ours);
    let told = message(ours).ok_or("no message")?;
    let names: BTreeSet<&str> = said.keys().copied().collect();
    let expected = [
        "name",
        "timeout",
        "bt_header_axon_status_code",
        "bt_header_axon_status_message",
        "bt_header_axon_process_time",
        "bt_header_axon_version",
        "bt_header_axon_uuid",
        "bt_header_axon_hotkey",
        "header_size",
        "total_size",
        "computed_body_hash",
    ];
    same("header names", names, expected.into())?;
    let status = ours.status.to_string();
    same("status header", said.get("bt_header_axon_status_code").copied(), Some(status.as_str()))?;
    let Some(recorded) = case.recorded.filter(|recorded| recorded.status == ours.status) else {
        return Ok(());
    };
    // FastAPI's own answers are `{"detail": ..}` without synapse headers; the dendrite makes no message of them.
    let Some(expected) = message(recorded) else { return Ok(()) };
    same("content type", ours.content_type(), recorded.content_type())?;
    // W7, W29: nothing unverified is signed or sent back.
    const LEFT_OUT: [&str; 4] = ["axon_ip", "axon_port", "axon_nonce", "axon_signature"];
    for (name, value) in synapse_headers(recorded) {
        let bare = name.strip_prefix("bt_header_").unwrap_or_default();
        if LEFT_OUT.contains(&bare) || bare.starts_with("dendrite_") || MEASURED.contains(&name) {
            continue;
        }
        let volatile =
            ["bt_header_axon_uuid", "bt_header_axon_version", "bt_header_axon_status_message"];
        let got = said.get(name).copied();
        if name == "bt_header_axon_hotkey" {
            same(name, got, Some(AXON))?;
        } else if name == "computed_body_hash" {
            // The reference hashes what it made of placeholders; ours is the hash of nothing, always.
            let nothing = schwann_synapse::hash::BodyHash::EMPTY.to_string();
            same(name, got, Some(nothing.as_str()))?;
        } else if volatile.contains(&name) {
            holds(got.is_some(), || format!("no {name}"))?;
        } else {
            same(name, got, Some(value))?;
        }
    }
    // Words of the libraries below differ between versions (specification §9.4); ours are those of 10.5.
    let same_words =
        file.get("sdk").and_then(Value::as_str).is_some_and(|sdk| sdk.starts_with("10.5"));
    // Ours names all of a path that is no route's name.
    let nameless = case.asked.path().starts_with("//");
    let class = |text: &str| -> String {
        const OWN: [&str; 2] =
            ["Internal Server Error #", "Not Verified with error: Signature mismatch"];
        const VERIFY: &str = "Not Verified with error:";
        // A key of another scheme is no sr25519 key; the reference finds out when the signature does not fit.
        if text.ends_with("the address is not a point of the curve") {
            return OWN[1].to_owned();
        }
        if nameless && text.starts_with("Synapse name '") {
            return "Synapse name".to_owned();
        }
        if let Some(own) = OWN.iter().find(|own| text.starts_with(**own)) {
            return (*own).to_owned();
        }
        if text.starts_with(VERIFY) && (!same_words || case.hardened()) {
            return VERIFY.to_owned();
        }
        // A moment passes between signing and looking at the clock.
        let text = text.split(" but request was ").next().unwrap_or_default();
        match (case.hardened(), text.split_once(" Available synapses ")) {
            (true, Some((first, _))) => first.to_owned(),
            _ => text.to_owned(),
        }
    };
    same("message", class(&told), class(&expected))
}
