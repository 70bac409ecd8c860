//! One request and its answer, under its time limits.

use std::{borrow::Cow, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, Version, header};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Instant, timeout_at},
};

use crate::{
    answer::Timings,
    ask::{Asked, Particulars, Prepared},
    call_error::{AnswerError, CallError, Phase},
    connections::{Connection, DialError},
    dendrite::{CallOptions, Protocol, Shared},
    history::Record,
    lanes::Lane,
    synapse::Ask,
    target::Target,
    terminal::TerminalInfo,
};

/// An answer whose head has arrived.
pub(crate) struct Exchange {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// The two ends as the request said them.
    pub(crate) axon: TerminalInfo,
    pub(crate) dendrite: TerminalInfo,
    pub(crate) body: Body,
    shared: Arc<Shared>,
    name: String,
}

/// The rest of an answer. Dropping it gives the call up and closes its connection.
pub(crate) struct Body {
    incoming: Incoming,
    received: u64,
    limit: u64,
    clock: Clock,
    idle: Duration,
    closed: watch::Receiver<bool>,
    keep_alive: bool,
    delimited: bool,
    ended: bool,
    connection: Option<Connection>,
    // Given back after the connection is closed or kept.
    _lane: Lane,
    _permit: OwnedSemaphorePermit,
}

/// When the phases of a call began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    called: Instant,
    begun: Instant,
    connected: Instant,
    answered: Instant,
    total: Duration,
}

/// Sends `asked` to `target` and waits for the head of the answer.
///
/// Cancel-safe in the sense that counts: given up, its connection is closed and
/// its lane is free.
pub(crate) async fn exchange<S: Ask>(
    shared: &Arc<Shared>,
    target: &Target,
    asked: &Asked<S>,
    options: &CallOptions,
) -> Result<Exchange, CallError> {
    let called = Instant::now();
    let prepared = asked.prepared()?;
    let mut closed = shared.closed.subscribe();
    let opened = unless_closed(&mut closed, open(shared, target, prepared, options, called)).await;
    let result = opened.map(|mut exchange| {
        exchange.body.closed = closed;
        exchange
    });
    if let Err(error) = &result {
        shared.failed(target, &prepared.name, error, called.elapsed());
    }
    result
}

async fn open(
    shared: &Arc<Shared>,
    target: &Target,
    prepared: &Prepared,
    options: &CallOptions,
    called: Instant,
) -> Result<Exchange, CallError> {
    let queued = timeout_at(called + options.queue, async {
        let lane = shared.lanes.take(target).await;
        let permit = Arc::clone(&shared.in_flight).acquire_owned().await.expect("never closed");
        (lane, permit)
    });
    let (lane, permit) = queued.await.map_err(|_| CallError::Timeout {
        phase: Phase::Queue,
        limit: options.queue,
        received: 0,
    })?;

    // The deadline counts from here: what waits in our own queue was not sent (W24).
    let begun = Instant::now();
    let mut clock =
        Clock { called, begun, connected: begun, answered: begun, total: options.total };

    let mut connection = match shared.pool.kept(target) {
        Some(connection) => connection,
        None => dial(shared, target, prepared, options, &clock).await?,
    };
    clock.connected = Instant::now();

    let particulars = Particulars {
        target,
        signer: &*shared.signer,
        hotkey: &shared.hotkey,
        external_ip: shared.external_ip.as_deref(),
        version: shared.version,
        uuid: lane.uuid(),
        nonce: shared.nonces.next(),
        timeout: options.total,
        bound: options.bound,
    };
    let signed = match options.protocol {
        Protocol::V10 => prepared.v10(&particulars),
        Protocol::BtAuth1 => prepared.btauth(&particulars),
    }
    .map_err(CallError::Ask)?;
    tracing::debug!(
        target: "schwann::dendrite", axon = %target, name = %prepared.name, bytes = signed.bytes, "sending"
    );

    let (until, phase, limit) = clock.limit(Instant::now(), options.first_byte, Phase::FirstByte);
    let sending = async {
        let refused = match connection.send(signed.request).await {
            Ok(response) => return Ok((response, connection)),
            Err(refused) => refused,
        };
        let reused = connection.reused();
        let mut refused = refused;
        match refused.take_message() {
            // A kept connection that had gone: nothing of the request was sent, so once more, anew.
            Some(request) if reused => {
                drop(connection);
                let mut connection = dial(shared, target, prepared, options, &clock).await?;
                match connection.send(request).await {
                    Ok(response) => Ok((response, connection)),
                    Err(refused) => Err(CallError::before_head(refused.into_error())),
                }
            }
            _ => Err(CallError::before_head(refused.into_error())),
        }
    };
    let (response, connection): (Response<Incoming>, Connection) = timeout_at(until, sending)
        .await
        .map_err(|_| CallError::Timeout { phase, limit, received: 0 })??;
    clock.answered = Instant::now();

    let (head, incoming) = response.into_parts();
    // RFC 9112 §6.3: neither a length nor chunks means that the body ends where the connection does.
    let delimited = incoming.size_hint().exact().is_some() || is_chunked(&head.headers);
    let keep_alive = head.version == Version::HTTP_11 && delimited && !says_close(&head.headers);
    let exchange = Exchange {
        status: head.status,
        headers: head.headers,
        axon: signed.axon,
        dendrite: signed.dendrite,
        body: Body {
            incoming,
            received: 0,
            limit: options.max_answer_bytes,
            clock,
            idle: options.idle,
            closed: shared.closed.subscribe(),
            keep_alive,
            delimited,
            ended: false,
            connection: Some(connection),
            _lane: lane,
            _permit: permit,
        },
        shared: Arc::clone(shared),
        name: prepared.name.clone(),
    };
    exchange.refuse_what_cannot_be_read()?;
    Ok(exchange)
}

async fn dial(
    shared: &Shared,
    target: &Target,
    prepared: &Prepared,
    options: &CallOptions,
    clock: &Clock,
) -> Result<Connection, CallError> {
    let (until, phase, limit) = clock.limit(Instant::now(), options.connect, Phase::Connect);
    let dialled = timeout_at(until, shared.pool.dial(target)).await;
    let dialled = dialled.map_err(|_| CallError::Timeout { phase, limit, received: 0 })?;
    dialled.map_err(|error| match error {
        DialError::Lookup(source) => CallError::unresolvable(target, &prepared.name, source),
        DialError::Connect(source) => CallError::unreachable(target, &prepared.name, source),
        DialError::Refused(what) => {
            let source = std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                format!("{what} is not dialled"),
            );
            CallError::unreachable(target, &prepared.name, source)
        }
    })
}

/// What `future` gives, or that the dendrite was closed meanwhile.
async fn unless_closed<T>(
    closed: &mut watch::Receiver<bool>,
    future: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    if *closed.borrow() {
        return Err(CallError::Closed);
    }
    let ended = tokio::select! {
        biased;
        result = future => Some(result),
        _ = closed.wait_for(|closed| *closed) => None,
    };
    match ended {
        // Closing cuts the connections, and either may be noticed first.
        None => Err(CallError::Closed),
        Some(Err(_)) if *closed.borrow() => Err(CallError::Closed),
        Some(result) => result,
    }
}

impl Exchange {
    /// Reads the whole body.
    pub(crate) async fn read_all(&mut self) -> Result<Bytes, CallError> {
        let Some(first) = self.body.next().await? else { return Ok(Bytes::new()) };
        let Some(second) = self.body.next().await? else { return Ok(first) };
        // Grows with what arrives, never by what a header claims.
        let mut all = Vec::from(first);
        all.extend_from_slice(&second);
        while let Some(more) = self.body.next().await? {
            all.extend_from_slice(&more);
        }
        Ok(all.into())
    }

    /// The answer's body is JSON by its label, or why not.
    pub(crate) fn expect_json(&self) -> Result<(), CallError> {
        let found = self.header(&header::CONTENT_TYPE);
        let essence = found.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if essence == "application/json"
            || (essence.starts_with("application/") && essence.ends_with("+json"))
        {
            return Ok(());
        }
        let http_status = self.status.as_u16();
        Err(self.unparsable(AnswerError::ContentType { http_status, found: found.into_owned() }))
    }

    pub(crate) fn unparsable(&self, source: impl Into<AnswerError>) -> CallError {
        CallError::Unparsable { http_status: self.status.as_u16(), source: source.into() }
    }

    /// Writes a failure after the head down, where it ends.
    pub(crate) fn failed(&self, error: &CallError) {
        let mut dendrite = self.dendrite.clone();
        dendrite.status_code = Some(error.status_code());
        dendrite.status_message = error.status_message().map(Cow::into_owned);
        self.shared.ended(
            self.record(self.axon.clone(), dendrite),
            self.body.received,
            Some(error),
        );
    }

    /// Writes a success down.
    pub(crate) fn succeeded(&self, axon: &TerminalInfo, dendrite: &TerminalInfo) {
        if self.shared.history.is_some()
            || tracing::enabled!(target: "schwann::dendrite", tracing::Level::DEBUG)
        {
            self.shared.ended(
                self.record(axon.clone(), dendrite.clone()),
                self.body.received,
                None,
            );
        }
    }

    fn record(&self, axon: TerminalInfo, dendrite: TerminalInfo) -> Record {
        Record { name: self.name.clone(), axon, dendrite, took: self.body.clock.called.elapsed() }
    }

    fn header(&self, name: &header::HeaderName) -> Cow<'_, str> {
        self.headers
            .get(name)
            .map_or(Cow::Borrowed(""), |value| String::from_utf8_lossy(value.as_bytes()))
    }

    fn refuse_what_cannot_be_read(&self) -> Result<(), CallError> {
        let coding = self.header(&header::CONTENT_ENCODING);
        if !coding.is_empty() && !coding.eq_ignore_ascii_case("identity") {
            return Err(self.unparsable(AnswerError::ContentEncoding(coding.into_owned())));
        }
        if let Some(length) = self.body.incoming.size_hint().exact()
            && length > self.body.limit
        {
            return Err(CallError::TooLarge { limit: self.body.limit });
        }
        Ok(())
    }
}

impl Body {
    /// The next piece as it arrived; `None` at the end of a body that is whole.
    ///
    /// Cancel-safe: a piece is given to the caller or still there.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, CallError> {
        if self.ended {
            return Ok(None);
        }
        let (until, phase, limit) = self.clock.limit(Instant::now(), self.idle, Phase::Idle);
        let incoming = &mut self.incoming;
        let received = self.received;
        let reading = async {
            loop {
                match timeout_at(until, incoming.frame()).await {
                    Err(_) => return Err(CallError::Timeout { phase, limit, received }),
                    Ok(None) => return Ok(None),
                    // An axon whose clock runs with ours gives up at the same moment. What
                    // counts is that the time is over.
                    Ok(Some(Err(_))) if Instant::now() >= until => {
                        return Err(CallError::Timeout { phase, limit, received });
                    }
                    Ok(Some(Err(error))) => return Err(CallError::in_body(error, received)),
                    // Trailers say nothing in either protocol.
                    Ok(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) if !data.is_empty() => return Ok(Some(data)),
                        _ => continue,
                    },
                }
            }
        };
        match unless_closed(&mut self.closed, reading).await {
            Ok(Some(data)) => {
                self.received += data.len() as u64;
                if self.received > self.limit {
                    self.connection = None;
                    return Err(CallError::TooLarge { limit: self.limit });
                }
                Ok(Some(data))
            }
            Ok(None) => {
                self.ended = true;
                Ok(None)
            }
            Err(error) => {
                // Nothing comes after a failure, and nobody else shall have this connection.
                self.connection = None;
                Err(error)
            }
        }
    }

    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    pub(crate) fn delimited(&self) -> bool {
        self.delimited
    }

    pub(crate) fn timings(&self) -> Timings {
        let clock = &self.clock;
        Timings {
            queued: clock.begun - clock.called,
            connected: clock.connected - clock.begun,
            first_byte: clock.answered - clock.connected,
            total: clock.called.elapsed(),
        }
    }

    /// The connection, if the answer was read to its end and another may follow.
    pub(crate) fn reusable(&mut self) -> Option<Connection> {
        self.connection.take().filter(|_| self.ended && self.keep_alive)
    }
}

impl Clock {
    /// The nearer of a phase's own limit, counted from `from`, and the total one.
    fn limit(&self, from: Instant, limit: Duration, phase: Phase) -> (Instant, Phase, Duration) {
        let (own, total) = (from + limit, self.begun + self.total);
        if own < total { (own, phase, limit) } else { (total, Phase::Total, self.total) }
    }
}

fn is_chunked(headers: &HeaderMap) -> bool {
    headers.contains_key(header::TRANSFER_ENCODING)
}

fn says_close(headers: &HeaderMap) -> bool {
    let close = |value: &header::HeaderValue| {
        value
            .as_bytes()
            .split(|b| *b == b',')
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"))
    };
    headers.get_all(header::CONNECTION).iter().any(close)
}
