//! Comparing our axon's answer with the recorded one.

use std::collections::{BTreeMap, BTreeSet};

use schwann_synapse::{
    caller::Verify,
    headers::{parse_like_reference, parse_strict},
    python::{Dict, Value},
    synapse::BASE_FIELDS,
};

use crate::{
    axon_differences::{Case, DIFFERENT},
    captures_axon::AXON,
    exchange::Reply,
    set::{holds, maybe, same},
};

/// A body that is `{"message": ..}` and nothing else.
pub(crate) fn message(reply: &Reply) -> Option<String> {
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

pub(crate) fn compare(case: &Case<'_>, ours: &Reply, file: &Dict) -> Result<(), String> {
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
