//! What a call gives: the synapse as the axon filled it, and both ends.

use std::{sync::Arc, time::Duration};

use http::StatusCode;

use crate::{
    ask::{Asked, Prepared},
    call_error::{AnswerError, CallError, Refusal},
    dendrite::{CallOptions, Inputs, Protocol, Shared},
    exchange::{Exchange, exchange},
    headers::parse_answer,
    python::{Dict, Value},
    synapse::{Ask, Envelope},
    target::Target,
    terminal::TerminalInfo,
};

/// A synapse as an axon filled it.
///
/// Nothing in it is authenticated: v10 and `btauth/1` sign requests, not answers.
#[derive(Clone, Debug)]
pub struct Answer<S> {
    /// The synapse.
    pub synapse: S,
    /// The axon's end: address and hotkey as called, the rest as it said.
    pub axon: TerminalInfo,
    /// The caller's end as it was sent, with status and `process_time` (seconds).
    /// The axon cannot change it.
    pub dendrite: TerminalInfo,
    /// From the call to the end of the answer.
    pub took: Duration,
    /// Where that time went.
    pub timings: Timings,
    /// Required fields that the axon answered differently from how they were
    /// asked. They have the asked value, unless the call said
    /// [`Inputs::Answered`].
    pub altered: Vec<String>,
    /// Whether HTTP said where the answer ends. `false` for an answer that ends
    /// with its connection: if such a one is cut, nobody can tell.
    pub delimited: bool,
}

/// Where the time of a call went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Waiting for a lane and a place among the calls in flight.
    pub queued: Duration,
    /// Connecting; next to nothing on a kept connection.
    pub connected: Duration,
    /// From then, through signing and sending, to the head of the answer.
    pub first_byte: Duration,
    /// From the call to the end of the answer.
    pub total: Duration,
}

impl<S> Answer<S> {
    /// The status the axon gave: 200, or `None` if it gave none (the reference
    /// then reports neither success nor failure). Any other status is a
    /// [`CallError`].
    pub fn status_code(&self) -> Option<i64> {
        self.dendrite.status_code
    }

    /// The message the axon gave.
    pub fn status_message(&self) -> Option<&str> {
        self.dendrite.status_message.as_deref()
    }

    /// Whether the axon said 200, as the reference's `is_success`.
    pub fn is_success(&self) -> bool {
        self.status_code() == Some(200)
    }

    /// Another view of the synapse, with the same two ends.
    pub fn map<T>(self, view: impl FnOnce(S) -> T) -> Answer<T> {
        Answer {
            synapse: view(self.synapse),
            axon: self.axon,
            dendrite: self.dendrite,
            took: self.took,
            timings: self.timings,
            altered: self.altered,
            delimited: self.delimited,
        }
    }
}

/// A unary call, from asking to answer.
pub(crate) async fn call<S: Ask>(
    shared: &Arc<Shared>,
    target: &Target,
    asked: &Asked<S>,
    options: &CallOptions,
) -> Result<Answer<S>, CallError> {
    let mut exchange = exchange(shared, target, asked, options).await?;
    let result = read(&mut exchange, asked, options).await;
    match &result {
        Ok(answer) => exchange.succeeded(&answer.axon, &answer.dendrite),
        Err(error) => exchange.failed(error),
    }
    if let Some(connection) = exchange.body.reusable() {
        shared.pool.keep(connection);
    }
    result
}

async fn read<S: Ask>(
    exchange: &mut Exchange,
    asked: &Asked<S>,
    options: &CallOptions,
) -> Result<Answer<S>, CallError> {
    if exchange.status.is_redirection() {
        return Err(redirected(exchange));
    }
    let body = exchange.read_all().await?;
    exchange.expect_json()?;
    if exchange.status != StatusCode::OK {
        return Err(refused(exchange, &body)?);
    }
    let (mut fields, said) = success(exchange, asked.prepared()?, &body)?;
    let altered = restore_inputs(asked.prepared()?, &mut fields, options.inputs);
    let (axon, dendrite) = ends(exchange, said, options)?;
    let synapse = asked.ask.answered(fields).map_err(|error| exchange.unparsable(error))?;
    Ok(answer(exchange, synapse, axon, dendrite, altered))
}

/// A refusal on a streaming call, or `None` if the stream is to be read.
pub(crate) async fn refusal(
    exchange: &mut Exchange,
    options: &CallOptions,
) -> Result<(), CallError> {
    if exchange.status.is_redirection() {
        return Err(redirected(exchange));
    }
    if exchange.status != StatusCode::OK {
        // Never delivered as tokens, as the reference does.
        let body = exchange.read_all().await?;
        exchange.expect_json()?;
        return Err(refused(exchange, &body)?);
    }
    ends(exchange, TerminalInfo::default(), options).map(drop)
}

/// The answer of a stream that was read to its end.
pub(crate) fn streamed<S: Ask>(
    exchange: &Exchange,
    asked: &Asked<S>,
    options: &CallOptions,
    extracted: Dict,
) -> Result<Answer<S>, CallError> {
    let prepared = asked.prepared()?;
    let mut fields = prepared.own.clone();
    for (name, value) in extracted {
        fields.insert(name, value);
    }
    let altered = restore_inputs(prepared, &mut fields, options.inputs);
    let (axon, dendrite) = ends(exchange, TerminalInfo::default(), options)?;
    let synapse = asked.ask.answered(fields).map_err(|error| exchange.unparsable(error))?;
    Ok(answer(exchange, synapse, axon, dendrite, altered))
}

fn answer<S>(
    exchange: &Exchange,
    synapse: S,
    axon: TerminalInfo,
    mut dendrite: TerminalInfo,
    altered: Vec<String>,
) -> Answer<S> {
    let timings = exchange.body.timings();
    dendrite.process_time = Some(timings.total.as_secs_f64());
    let delimited = exchange.body.delimited();
    Answer { synapse, axon, dendrite, took: timings.total, timings, altered, delimited }
}

/// The own fields of a 200's body, and what the axon said about itself there.
fn success(
    exchange: &Exchange,
    prepared: &Prepared,
    body: &[u8],
) -> Result<(Dict, TerminalInfo), CallError> {
    let fields = object(exchange, body)?;
    let split = Envelope::split(fields, |base| prepared.redefined.contains(&base));
    let (envelope, own) = split.map_err(|error| exchange.unparsable(error))?;
    Ok((own, envelope.axon))
}

fn object(exchange: &Exchange, body: &[u8]) -> Result<Dict, CallError> {
    let value = if body.trim_ascii().is_empty() {
        Value::None
    } else {
        Value::parse_json(body).map_err(|error| exchange.unparsable(error))?
    };
    match value {
        Value::Dict(fields) => Ok(fields),
        other => Err(exchange.unparsable(AnswerError::NotAnObject(other.type_name()))),
    }
}

/// Both ends: what the body said, overlaid by what the headers say, and nothing
/// of what is ours (W9). Fails if the axon said anything but 200.
fn ends(
    exchange: &Exchange,
    said: TerminalInfo,
    options: &CallOptions,
) -> Result<(TerminalInfo, TerminalInfo), CallError> {
    let mut axon = exchange.axon.clone();
    axon.overlay(&said);
    axon.overlay(&said_in_headers(exchange)?);
    keep_address(&mut axon, &exchange.axon);
    if options.protocol == Protocol::BtAuth1 && axon.status_code.is_none() {
        // HTTP's own status is the only one this protocol has.
        axon.status_code = Some(200);
    }
    if axon.status_code.is_some_and(|status| status != 200) {
        return Err(CallError::Refused(Box::new(Refusal {
            status: axon.status_code.unwrap_or_default(),
            message: axon.status_message.clone(),
            axon,
            took: exchange.body.timings().total,
        })));
    }
    let mut dendrite = exchange.dendrite.clone();
    dendrite.status_code = axon.status_code;
    dendrite.status_message.clone_from(&axon.status_message);
    Ok((axon, dendrite))
}

/// An answer with another status than 200.
fn refused(exchange: &Exchange, body: &[u8]) -> Result<CallError, CallError> {
    let fields = object(exchange, body)?;
    let message = match fields.get("message") {
        Some(Value::Str(message)) => Some(message.clone()),
        Some(Value::None) | None => None,
        Some(other) => Some(other.py_str()),
    };
    let http_status = i64::from(exchange.status.as_u16());
    let mut axon = exchange.axon.clone();
    axon.status_code = Some(http_status);
    axon.status_message = message.clone();
    axon.overlay(&said_in_headers(exchange)?);
    keep_address(&mut axon, &exchange.axon);
    if axon.status_code == Some(200) {
        // The reference believes the header and reports success.
        axon.status_code = Some(http_status);
        axon.status_message = message;
    }
    Ok(CallError::Refused(Box::new(Refusal {
        status: axon.status_code.unwrap_or(http_status),
        message: axon.status_message.clone(),
        axon,
        took: exchange.body.timings().total,
    })))
}

/// A redirect is an answer like any other that is not 200: following it would
/// carry a signature to whomever the axon names (W14).
fn redirected(exchange: &Exchange) -> CallError {
    let mut axon = exchange.axon.clone();
    let status = i64::from(exchange.status.as_u16());
    axon.status_code = Some(status);
    axon.status_message = Some("redirects are not followed".to_owned());
    let message = axon.status_message.clone();
    CallError::Refused(Box::new(Refusal {
        status,
        message,
        axon,
        took: exchange.body.timings().total,
    }))
}

fn said_in_headers(exchange: &Exchange) -> Result<TerminalInfo, CallError> {
    let headers =
        exchange.headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
    Ok(parse_answer(headers).map_err(|error| exchange.unparsable(error))?.axon)
}

fn keep_address(axon: &mut TerminalInfo, called: &TerminalInfo) {
    axon.ip.clone_from(&called.ip);
    axon.port = called.port;
    axon.hotkey.clone_from(&called.hotkey);
}

/// Required fields that said something in the request are the request's. Returns
/// those that came back otherwise.
fn restore_inputs(prepared: &Prepared, fields: &mut Dict, inputs: Inputs) -> Vec<String> {
    let mut altered = Vec::new();
    for name in &prepared.inputs {
        let (Some(asked), Some(answered)) = (prepared.own.get(name), fields.get(name)) else {
            continue;
        };
        if asked != answered {
            altered.push(name.clone());
            match inputs {
                Inputs::Asked => drop(fields.insert(name.clone(), asked.clone())),
                Inputs::Answered => {}
            }
        }
    }
    altered
}
