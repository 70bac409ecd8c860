//! Programs, upstreams and builtins as routes of an axon.
//!
//! Unary: the synapse's own fields go in as one JSON object, one JSON object
//! comes out, and its fields are laid over those of the request. Streaming:
//! the bytes that come out are passed on as they are.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use schwann::{Finished, RequestBody};
use schwann_cards::{PublishedCall, PublishedError};
use schwann_process::{AnswerError, Job, Post, RunError};
use schwann_synapse::{
    axon::{Route, StreamReply, SynapseError, untyped},
    caller::Caller,
    python::Value,
    synapse::{BASE_FIELDS, Untyped},
};
use tokio::time::Instant;

use crate::{
    problem::one_line,
    routes::{self, Builtin, Server},
};

/// Between two pieces of what the builtins stream.
const PACE: Duration = Duration::from_millis(100);

/// Most that `count` counts to.
const MOST: i64 = 100_000;

/// How much of an answer that cannot be read is quoted in the log, in characters.
const QUOTED: usize = 200;

/// A synapse of the configuration, as an axon takes it.
pub(crate) fn route(written: &routes::Route, server: Server) -> Route {
    let worker = Arc::new(Worker { server, required: written.required.clone() });
    let class = untyped(written.name.as_str()).hash(written.hash.iter().cloned());
    let mut route = match written.streams() {
        true => class.streaming(move |ask, from, reply| {
            let worker = Arc::clone(&worker);
            async move { worker.stream(ask, from, reply).await }
        }),
        false => class.unary(move |ask, from| {
            let worker = Arc::clone(&worker);
            async move { worker.fill(ask, from).await }
        }),
    };
    if let Some(allow) = &written.allow {
        route = route.allow(allow.iter().copied());
    }
    if let Some(verify) = written.verify {
        route = route.verify(verify.into());
    }
    if let Some(bound) = written.bound {
        route = route.bound(bound.into());
    }
    if let Some(max_body) = written.max_body {
        route = route.max_body(max_body.bytes());
    }
    if let Some(timeout) = written.timeout {
        route = route.timeout(timeout.duration());
    }
    let priority = written.priority.clone();
    route
        .deny(written.deny.iter().copied())
        .priority(move |caller| priority.get(&caller.hotkey).copied().unwrap_or(0.0))
}

/// What does a synapse's work.
struct Worker {
    server: Server,
    required: Vec<String>,
}

impl Worker {
    async fn fill(&self, mut ask: Untyped, from: Caller) -> Result<Untyped, SynapseError> {
        self.check(&ask)?;
        let answer = match &self.server {
            Server::Command(command) => {
                let output = command.run(job(&ask, &from)?).await.map_err(of_program)?;
                output.stdout
            }
            Server::Upstream(upstream) => {
                upstream.run(post(&ask, &from)?).await.map_err(of_upstream)?.body
            }
            Server::Card(card) => {
                let run = card.start(card_call(&ask, &from), card_input(&ask)?).await;
                run.map_err(of_card)?.collect().await.map_err(of_card)?
            }
            // An echo; the others stream.
            Server::Builtin(_) => return Ok(ask),
        };
        match Value::parse_json(&answer) {
            Ok(Value::Dict(fields)) => {
                // Who calls and who answers is not for a program to say.
                let own = fields.iter().filter(|(name, _)| !BASE_FIELDS.contains(name));
                for (name, value) in own {
                    ask.fields.insert(name, value.clone());
                }
                Ok(ask)
            }
            Ok(other) => Err(unreadable(&answer, &format!("it is a {}", other.type_name()))),
            Err(error) => Err(unreadable(&answer, &error.to_string())),
        }
    }

    async fn stream(
        &self,
        ask: Untyped,
        from: Caller,
        reply: StreamReply,
    ) -> Result<Finished, SynapseError> {
        self.check(&ask)?;
        match &self.server {
            Server::Command(command) => {
                let mut running = command.stream(job(&ask, &from)?).await.map_err(of_program)?;
                // A failure before the first output is a status.
                let mut next = running.chunk().await.map_err(of_program)?;
                let mut out = reply.start();
                while let Some(chunk) = next {
                    out.write(chunk).await?;
                    next = running.chunk().await.map_err(of_program)?;
                }
                Ok(out.finish())
            }
            Server::Upstream(upstream) => {
                let mut answer = upstream.stream(post(&ask, &from)?).await.map_err(of_upstream)?;
                // Its head is here, so that the rest can only be a cut.
                let mut out = reply.start();
                while let Some(chunk) = answer.chunk().await.map_err(of_upstream)? {
                    out.write(chunk).await?;
                }
                Ok(out.finish())
            }
            Server::Card(card) => {
                let run = card.start(card_call(&ask, &from), card_input(&ask)?).await;
                let mut run = run.map_err(of_card)?;
                let mut next = run.chunk().await.map_err(of_card)?;
                let mut out = reply.start();
                while let Some(chunk) = next {
                    out.write(chunk).await?;
                    next = run.chunk().await.map_err(of_card)?;
                }
                Ok(out.finish())
            }
            Server::Builtin(builtin) => paced(pieces(*builtin, &ask)?, reply).await,
        }
    }

    fn check(&self, ask: &Untyped) -> Result<(), SynapseError> {
        match self.required.iter().find(|field| ask.fields.get(field).is_none_or(Value::is_none)) {
            Some(field) => Err(bad_request(format!("the field `{field}` is missing"))),
            None => Ok(()),
        }
    }
}

fn bad_request(message: String) -> SynapseError {
    SynapseError::new(StatusCode::BAD_REQUEST, message)
}

/// A run for a call: who calls is in its environment.
fn job(ask: &Untyped, from: &Caller) -> Result<Job, SynapseError> {
    Ok(Job {
        input: json(ask)?,
        environment: environment(ask, from),
        deadline: Some(Instant::now() + from.timeout),
    })
}

/// The same for a card. Its deadline is the call's, which drops it.
fn card_call(ask: &Untyped, from: &Caller) -> PublishedCall {
    let caller = from.hotkey.to_string();
    let proven = from.verified.then(|| caller.clone());
    PublishedCall { caller, proven, environment: environment(ask, from) }
}

fn card_input(ask: &Untyped) -> Result<RequestBody, SynapseError> {
    Ok(RequestBody::from_bytes(json(ask)?))
}

fn environment(ask: &Untyped, from: &Caller) -> Vec<(String, String)> {
    let environment = [
        ("SYNAPSE_NAME", ask.name.clone()),
        ("SYNAPSE_CALLER", from.hotkey.to_string()),
        ("SYNAPSE_CALLER_VERIFIED", from.verified.to_string()),
        ("SYNAPSE_CALLER_IP", from.ip.to_string()),
        ("SYNAPSE_TIMEOUT", from.timeout.as_secs_f64().to_string()),
    ];
    environment.map(|(name, value)| (name.to_owned(), value)).to_vec()
}

/// A request for a call: who calls is in its headers.
fn post(ask: &Untyped, from: &Caller) -> Result<Post, SynapseError> {
    let said = [
        ("synapse-name", ask.name.clone()),
        ("synapse-caller", from.hotkey.to_string()),
        ("synapse-caller-verified", from.verified.to_string()),
        ("synapse-caller-ip", from.ip.to_string()),
        ("synapse-timeout", from.timeout.as_secs_f64().to_string()),
    ];
    let mut headers = HeaderMap::with_capacity(said.len());
    for (name, value) in said {
        headers.insert(HeaderName::from_static(name), HeaderValue::try_from(value)?);
    }
    let deadline = Some(Instant::now() + from.timeout);
    Ok(Post { headers, deadline, ..Post::json(json(ask)?) })
}

/// The own fields. A number that JSON does not have is the caller's mistake.
fn json(ask: &Untyped) -> Result<Bytes, SynapseError> {
    match ask.fields.to_json() {
        Ok(json) => Ok(Bytes::from(json)),
        Err(error) => Err(bad_request(error.to_string())),
    }
}

/// Nothing of a program's failure is for its caller but that it failed.
fn of_program(error: RunError) -> SynapseError {
    match &error {
        RunError::Busy { .. } => busy().because(error),
        RunError::TimedOut { .. } => SynapseError::timeout().because(error),
        RunError::Start { .. }
        | RunError::Failed { .. }
        | RunError::TooMuchOutput { .. }
        | RunError::Input { .. }
        | RunError::Lost(_) => SynapseError::internal(error),
    }
}

fn of_card(error: PublishedError) -> SynapseError {
    let (status, message) = error.public();
    match status {
        StatusCode::INTERNAL_SERVER_ERROR => SynapseError::internal(error),
        StatusCode::GATEWAY_TIMEOUT => SynapseError::timeout().because(error),
        _ => SynapseError::new(status, message).because(error),
    }
}

fn of_upstream(error: AnswerError) -> SynapseError {
    match &error {
        AnswerError::Busy { .. } => busy().because(error),
        AnswerError::TimedOut { .. } => SynapseError::timeout().because(error),
        AnswerError::Unreachable { .. }
        | AnswerError::NoAnswer { .. }
        | AnswerError::Status { .. }
        | AnswerError::TooMuchOutput { .. }
        | AnswerError::Cut { .. }
        | AnswerError::Unframed
        | AnswerError::Encoded(_) => SynapseError::internal(error),
    }
}

fn busy() -> SynapseError {
    SynapseError::new(StatusCode::SERVICE_UNAVAILABLE, "too many calls are under way")
}

/// What came out is not a JSON object.
fn unreadable(answer: &[u8], why: &str) -> SynapseError {
    let begin: String = String::from_utf8_lossy(answer).chars().take(QUOTED).collect();
    SynapseError::internal(match answer.is_empty() {
        true => "nothing came out, where one JSON object should".to_owned(),
        false => {
            format!("what came out is not one JSON object ({why}); it begins: {}", one_line(&begin))
        }
    })
}

fn pieces(
    builtin: Builtin,
    ask: &Untyped,
) -> Result<Box<dyn Iterator<Item = String> + Send>, SynapseError> {
    let field = |name: &str| ask.fields.get(name);
    match builtin {
        // It is never streamed, and would be one piece.
        Builtin::Echo => Ok(Box::new(ask.fields.to_json().into_iter())),
        Builtin::Count => {
            let to = match field("to") {
                None | Some(Value::None) => Some(10),
                Some(Value::Int(to)) => to.to_i64().filter(|to| (0..=MOST).contains(to)),
                Some(_) => None,
            };
            let to = to.ok_or_else(|| {
                bad_request(format!("the field `to` must be a number from 0 to {MOST}"))
            })?;
            Ok(Box::new((1..=to).map(|number| format!("{number}\n"))))
        }
        Builtin::Words => {
            let text = match field("text") {
                None | Some(Value::None) => "every word of this arrives by itself".to_owned(),
                Some(Value::Str(text)) => text.clone(),
                Some(_) => return Err(bad_request("the field `text` must be a text".to_owned())),
            };
            let words: Vec<_> =
                text.split_inclusive(char::is_whitespace).map(str::to_owned).collect();
            Ok(Box::new(words.into_iter()))
        }
    }
}

async fn paced(
    pieces: impl Iterator<Item = String>,
    reply: StreamReply,
) -> Result<Finished, SynapseError> {
    let mut out = reply.start();
    for (at, piece) in pieces.enumerate() {
        if at > 0 {
            tokio::time::sleep(PACE).await;
        }
        out.write(piece).await?;
    }
    Ok(out.finish())
}
