//! What servers say to each other: questions and answers, hints that a log has grown, and news of runs.
//!
//! One connection of each server listens. What it hears is small and may be lost with the connection: a hint means only that it is
//! worth looking at the stream, and after each new connection everything that is followed is looked at. A question lies in Redis until
//! it is taken, by the server that then answers it or by the one that asked and will wait no longer: so what a client was told had not
//! been done is not done later.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use redis::aio::PubSubSink;
use schwann_process::Signal;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior},
};
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    live::{Live, LiveError},
    run_log::LogError,
    runs::News,
};

/// How long a question waits to be taken, and how often it is seen to after that.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the connection that listens is tried.
const PULSE: Duration = Duration::from_secs(2);
/// Between attempts to connect, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Changes of what is followed that may wait, and questions.
const WAITING: usize = 1024;

/// What one server asks another of a run that this has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Question {
    Cancel {
        run: Uuid,
        signal: Signal,
        grace_ms: u64,
    },
    /// With the bytes beside it.
    Input {
        run: Uuid,
        close: bool,
    },
    Resize {
        run: Uuid,
        columns: u16,
        rows: u16,
    },
    /// For records after one, and how far the log is.
    Read {
        run: Uuid,
        after: u64,
    },
    /// That its output be removed.
    Remove {
        run: Uuid,
    },
}

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Done,
    /// The run has ended, or its input was closed.
    Closed,
    /// It waits for its turn.
    NotYet,
    /// There is no such output.
    Gone,
    /// It could not be done.
    Failed,
    /// The log's last record, and whether it has ended; with records beside it.
    Records {
        last: u64,
        ended: bool,
    },
}

/// What is to be seen to.
#[derive(Clone, Debug)]
pub(crate) enum Incoming {
    Asked(Asked),
    /// A run's server does not answer, and perhaps nobody ends the run's log in its place.
    Suspect(Uuid),
}

/// A question that came in.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) question: Uuid,
    /// The server that waits for the answer.
    pub(crate) by: String,
}

/// Speaking with the other servers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Exchange {
    shared: Arc<Shared>,
    orders: mpsc::Sender<Order>,
}

struct Shared {
    live: Live,
    server: String,
    connected: AtomicBool,
    /// Whom a hint is for.
    followed: Mutex<HashMap<Uuid, watch::Sender<u64>>>,
    /// Who waits for an answer.
    waiting: Mutex<HashMap<Uuid, oneshot::Sender<Bytes>>>,
    news: broadcast::Sender<News>,
    incoming: mpsc::Sender<Incoming>,
}

enum Order {
    /// Hints of this run are wanted, and when that is so.
    Follow(Uuid, oneshot::Sender<()>),
    Leave(Uuid),
}

/// Hints that a run's log has grown. They end when this is dropped.
pub(crate) struct Hints {
    exchange: Exchange,
    run: Uuid,
    receiver: watch::Receiver<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Exchange {
    /// Begins to listen, and gives what comes in.
    pub(crate) fn start(
        live: Live,
        server: &str,
        news: broadcast::Sender<News>,
    ) -> (Self, mpsc::Receiver<Incoming>) {
        let (orders, ordered) = mpsc::channel(WAITING);
        let (incoming, questions) = mpsc::channel(WAITING);
        let shared = Arc::new(Shared {
            live,
            server: server.to_owned(),
            connected: AtomicBool::new(false),
            followed: Mutex::default(),
            waiting: Mutex::default(),
            news,
            incoming,
        });
        tokio::spawn(listen(Arc::clone(&shared), ordered));
        (Self { shared, orders }, questions)
    }

    /// Redis itself.
    pub(crate) fn live(&self) -> &Live {
        &self.shared.live
    }

    /// Whether this server hears and is heard.
    pub(crate) async fn ready(&self) -> Result<(), LiveError> {
        if !self.shared.connected.load(Ordering::Relaxed) {
            return Err(LiveError::Silent);
        }
        self.live().ping().await
    }

    /// Has it looked after that a run whose server does not answer gets its end.
    pub(crate) fn suspect(&self, run: Uuid) {
        // Without room: the next time.
        let _ = self.shared.incoming.try_send(Incoming::Suspect(run));
    }

    /// Tells the others of a new run.
    pub(crate) async fn tell(&self, owner: Uuid, run: Uuid) -> Result<(), LiveError> {
        let news = [owner.as_bytes().as_slice(), run.as_bytes(), self.shared.server.as_bytes()];
        let channel = self.live().news_channel();
        self.live().publish(&channel, &news.concat()).await.map(drop)
    }

    /// Follows a run. When this returns, no hint is missed any more.
    pub(crate) async fn follow(&self, run: Uuid) -> Result<Hints, LogError> {
        let receiver = {
            let mut followed = lock(&self.shared.followed);
            followed.entry(run).or_insert_with(|| watch::Sender::new(0)).subscribe()
        };
        let hints = Hints { exchange: self.clone(), run, receiver };
        let (done, known) = oneshot::channel();
        self.orders.send(Order::Follow(run, done)).await.map_err(|_| LogError::unreachable())?;
        match tokio::time::timeout(PATIENCE, known).await {
            Ok(Ok(())) => Ok(hints),
            _ => Err(LogError::unreachable()),
        }
    }

    /// Asks a server, and waits for its answer.
    ///
    /// # Errors
    ///
    /// [`LogError::Unreachable`] if it does not take the question in a few seconds, which then is not done later either; or if it or
    /// Redis is lost before it has answered.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, what was asked may be done or not.
    pub(crate) async fn ask(
        &self,
        server: &str,
        question: &Question,
        bytes: &[u8],
    ) -> Result<(Answer, Bytes), LogError> {
        let lost = |error: LiveError| LogError::Unreachable(Some(error.into()));
        let id = Uuid::new_v4();
        let (answered, mut answer) = oneshot::channel();
        lock(&self.shared.waiting).insert(id, answered);
        let _waiting = Waiting { shared: &self.shared, id };
        let mut text = serde_json::to_vec(question).map_err(|_| LogError::unreachable())?;
        text.push(b'\n');
        text.extend_from_slice(bytes);
        let announced = [&b"?"[..], id.as_bytes(), self.shared.server.as_bytes()].concat();
        if !self.live().put_question(server, id, &text, &announced).await.map_err(lost)? {
            return Err(LogError::unreachable());
        }
        loop {
            match tokio::time::timeout(PATIENCE, &mut answer).await {
                Ok(Ok(answer)) => return parted(&answer).ok_or_else(LogError::unreachable),
                // The connection by which the answer would have come was lost.
                Ok(Err(_)) => return Err(LogError::unreachable()),
                Err(_) => {
                    let untaken = self.live().take_question(id).await.map_err(lost)?.is_some();
                    let channel = self.live().server_channel(server);
                    let heard = self.live().publish(&channel, b"").await.map_err(lost)?;
                    if untaken || heard == 0 {
                        return Err(LogError::unreachable());
                    }
                    // It was taken, and whoever took it is there: a program need not read its input soon.
                }
            }
        }
    }

    /// Takes a question that came in; `None` if nobody waits for it any more.
    pub(crate) async fn take(&self, asked: &Asked) -> Option<(Question, Bytes)> {
        match self.live().take_question(asked.question).await {
            Ok(text) => parted(&text?),
            Err(error) => {
                warn!(%error, "a question of another server cannot be taken");
                None
            }
        }
    }

    /// Answers a question.
    pub(crate) async fn answer(&self, asked: &Asked, answer: Answer, bytes: &[u8]) {
        let mut text = [&b"!"[..], asked.question.as_bytes()].concat();
        text.extend_from_slice(&serde_json::to_vec(&answer).expect("plain members into memory"));
        text.push(b'\n');
        text.extend_from_slice(bytes);
        let channel = self.live().server_channel(&asked.by);
        if let Err(error) = self.live().publish(&channel, &text).await {
            warn!(%error, "another server cannot be answered");
        }
    }
}

/// What stands before the first newline, read, and what stands after it.
fn parted<T: serde::de::DeserializeOwned>(text: &Bytes) -> Option<(T, Bytes)> {
    let end = text.iter().position(|byte| *byte == b'\n')?;
    let head = serde_json::from_slice(&text[..end]).ok()?;
    Some((head, text.slice(end + 1..)))
}

struct Waiting<'a> {
    shared: &'a Shared,
    id: Uuid,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(&self.shared.waiting).remove(&self.id);
    }
}

impl Hints {
    /// Waits until it is worth looking at the log.
    pub(crate) async fn next(&mut self) {
        // The sender is kept as long as there is a receiver.
        let _ = self.receiver.changed().await;
    }
}

impl Drop for Hints {
    fn drop(&mut self) {
        let mut followed = lock(&self.exchange.shared.followed);
        // This receiver is still counted.
        if followed.get(&self.run).is_some_and(|sender| sender.receiver_count() <= 1) {
            followed.remove(&self.run);
            drop(followed);
            // If there is no room, hints come that nobody waits for, until the next connection.
            let _ = self.exchange.orders.try_send(Order::Leave(self.run));
        }
    }
}

/// Listens until nobody is left who would want to know.
async fn listen(shared: Arc<Shared>, mut orders: mpsc::Receiver<Order>) {
    let mut pause = PAUSES.0;
    loop {
        let began = Instant::now();
        let ended = connection(&shared, &mut orders).await;
        let was_connected = shared.connected.swap(false, Ordering::Relaxed);
        // Answers to these will not come, and what was followed may have grown.
        lock(&shared.waiting).clear();
        shared.look_again();
        let Err(error) = ended else { return };
        if was_connected {
            warn!(%error, "what other servers say is not heard; trying again");
        }
        if began.elapsed() > PAUSES.1 {
            pause = PAUSES.0;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // Whoever wants to follow now is told at once that this is not possible: the order is dropped.
            order = orders.recv() => if order.is_none() { return },
        }
        pause = (2 * pause).min(PAUSES.1);
    }
}

/// One connection, until it is lost. `Ok` if nobody is left.
async fn connection(
    shared: &Arc<Shared>,
    orders: &mut mpsc::Receiver<Order>,
) -> Result<(), LiveError> {
    let (mut sink, mut messages) = shared.live.listen().await?.split();
    let mut channels = vec![shared.live.server_channel(&shared.server), shared.live.news_channel()];
    channels.extend(lock(&shared.followed).keys().map(|run| shared.live.run_channel(*run)));
    soon(sink.subscribe(&channels[..])).await?;
    if !shared.connected.swap(true, Ordering::Relaxed) {
        info!("connected with the other servers");
    }
    // Of what was said meanwhile nothing is known.
    shared.look_again();
    let mut pulse = tokio::time::interval(PULSE);
    pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = messages.next() => {
                let Some(message) = message else { return Err(LiveError::Silent) };
                shared.heard(message.get_channel_name(), message.get_payload_bytes());
            }
            order = orders.recv() => {
                let Some(order) = order else { return Ok(()) };
                carry_out(shared, &mut sink, order).await?;
            }
            _ = pulse.tick() => soon(sink.ping::<redis::Value>()).await.map(drop)?,
        }
    }
}

async fn carry_out(shared: &Shared, sink: &mut PubSubSink, order: Order) -> Result<(), LiveError> {
    match order {
        Order::Follow(run, done) => {
            soon(sink.subscribe(shared.live.run_channel(run))).await?;
            // Whoever waited may have left.
            let _ = done.send(());
        }
        Order::Leave(run) => {
            let followed = lock(&shared.followed).contains_key(&run);
            if !followed {
                soon(sink.unsubscribe(shared.live.run_channel(run))).await?;
            }
        }
    }
    Ok(())
}

async fn soon<T>(what: impl Future<Output = redis::RedisResult<T>>) -> Result<T, LiveError> {
    let done = tokio::time::timeout(PULSE, what).await;
    done.map_err(|_| LiveError::Silent)?.map_err(LiveError::Redis)
}

impl Shared {
    fn look_again(&self) {
        for follower in lock(&self.followed).values() {
            follower.send_modify(|_| {});
        }
        // An error means that nobody listens.
        let _ = self.news.send(News::LookAgain);
    }

    fn heard(&self, channel: &str, message: &[u8]) {
        if channel == self.live.news_channel() {
            let Some((owner, rest)) = id(message) else { return };
            let Some((run, server)) = id(rest) else { return };
            if server != self.server.as_bytes() {
                let _ = self.news.send(News::Run { owner, run });
            }
        } else if channel == self.live.server_channel(&self.server) {
            let Some((mark, rest)) = message.split_first() else { return };
            let Some((question, rest)) = id(rest) else { return };
            match mark {
                b'?' => {
                    let by = String::from_utf8_lossy(rest).into_owned();
                    // Without room it is not taken, and who asked is told so.
                    let _ = self.incoming.try_send(Incoming::Asked(Asked { question, by }));
                }
                b'!' => {
                    if let Some(waiting) = lock(&self.waiting).remove(&question) {
                        let _ = waiting.send(Bytes::copy_from_slice(rest));
                    }
                }
                _ => {}
            }
        } else if let Some(run) = channel.rsplit(':').next().and_then(|id| id.parse().ok())
            && let Some(follower) = lock(&self.followed).get(&run)
        {
            follower.send_modify(|_| {});
        }
    }
}

/// The id at the beginning, and the rest.
fn id(bytes: &[u8]) -> Option<(Uuid, &[u8])> {
    let (id, rest) = bytes.split_first_chunk::<16>()?;
    Some((Uuid::from_bytes(*id), rest))
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("server", &self.shared.server).finish_non_exhaustive()
    }
}
