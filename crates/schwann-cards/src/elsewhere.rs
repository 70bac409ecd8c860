//! The other servers of an installation: reading and reaching what runs there, and answering them for what runs here.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use schwann_process::{Signal, Span, TerminalSize};
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::Instant,
};
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use crate::{
    exchange::{Answer, Asked, Exchange, Incoming, Question},
    live::{Block, Head, LiveError},
    metrics::Counters,
    moment::Moment,
    publisher::{self, GivenUp},
    reader::Reader,
    record::{Entry, Exit, Framed, Reason, Record, read_frame},
    remote_log::{RemoteLog, ask_how_far},
    run_log::{LogError, RunLog, TailState},
    runs::{Inner, Sent, run_end},
    store::{Run, ServerRow, StoreError},
};

/// Runs of other servers that are read at a time.
const FOLLOWED: usize = 1024;
/// Logs that have ended and are kept open because they were asked for.
const KEPT: usize = 16;
/// Input for programs that do not read it may wait for so many at a time; so many other questions may be under way.
const INPUTS: usize = 64;
const QUESTIONS: usize = 64;
/// Longest wait for what is only said of a run beside all else, and how many runs are asked after at a time.
const SOON: Duration = Duration::from_secs(1);
const ASKED: usize = 16;
/// Longest wait for another server's word that a run has ended which the database has as running.
const ENDING: Duration = Duration::from_secs(5);
/// Longest wait of a last record for the database.
const NOTING: Duration = Duration::from_secs(2);
/// Runs of lost servers that are ended at a time.
const AT_ONCE: i64 = 1000;
/// A server beats so many times in the time after which it is given up.
const BEATS: u32 = 5;

/// The other servers, as this one knows them.
pub(crate) struct Elsewhere {
    exchange: Exchange,
    followed: Mutex<HashMap<Uuid, Weak<RemoteLog>>>,
    kept: Mutex<VecDeque<(Uuid, Arc<RunLog>)>>,
    /// Last records wait until the database has the end.
    noting: Mutex<HashMap<Uuid, oneshot::Sender<()>>>,
    publishing: watch::Sender<usize>,
    inputs: Semaphore,
    questions: Arc<Semaphore>,
    lease: Duration,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Elsewhere {
    pub(crate) fn new(exchange: Exchange, lease: Duration) -> Self {
        Self {
            exchange,
            followed: Mutex::default(),
            kept: Mutex::default(),
            noting: Mutex::default(),
            publishing: watch::Sender::new(0),
            inputs: Semaphore::new(INPUTS),
            questions: Arc::new(Semaphore::new(QUESTIONS)),
            lease,
        }
    }

    /// Whether what runs here can be seen by the other servers.
    pub(crate) async fn ready(&self) -> Result<(), LiveError> {
        self.exchange.ready().await
    }

    /// Tells the other servers of a new run. If that fails, they find it when they hear again.
    pub(crate) async fn tell(&self, run: &Run) {
        if let Err(error) = self.exchange.tell(run.owner_id, run.id).await {
            warn!(run = %run.id, %error, "other servers are not told of a run");
        }
    }

    /// Reads a log of another server.
    pub(crate) async fn read(
        &self,
        run: &Run,
        after: u64,
        follow: bool,
        counters: &Counters,
    ) -> Result<Reader, LogError> {
        if let Some(log) = lock(&self.followed).get(&run.id).and_then(Weak::upgrade) {
            let tail = log.tail();
            // It may have been left a moment ago, or have lost its way.
            if tail.borrow().state != TailState::Unreachable {
                return Ok(Reader::remote(log, after, follow, counters));
            }
        }
        if lock(&self.followed).len() >= FOLLOWED {
            lock(&self.followed).retain(|_, log| log.strong_count() > 0);
            if lock(&self.followed).len() >= FOLLOWED {
                return Err(LogError::unreachable());
            }
        }
        // The second is held until the reader has its own.
        let (log, _tail) = RemoteLog::open(&self.exchange, run.id, &run.server).await?;
        lock(&self.followed).insert(run.id, Arc::downgrade(&log));
        Ok(Reader::remote(log, after, follow, counters))
    }

    /// Ids of the last records that readers here can have of these runs, each with its server: as Redis says, and where it says
    /// nothing, as the run's server does. What neither says soon is left out.
    pub(crate) async fn how_far(&self, runs: Vec<(Uuid, String)>) -> HashMap<Uuid, u64> {
        let ids: Vec<Uuid> = runs.iter().map(|(run, _)| *run).collect();
        let heads = match tokio::time::timeout(SOON, self.exchange.live().heads_at(&ids)).await {
            Ok(Ok(heads)) => heads,
            Ok(Err(error)) => {
                debug!(%error, "Redis does not say how far runs are");
                return HashMap::new();
            }
            Err(_) => return HashMap::new(),
        };
        let mut known = HashMap::new();
        let mut unknown = Vec::new();
        for ((run, server), head) in runs.into_iter().zip(heads) {
            match head {
                Some(seq) => drop(known.insert(run, seq)),
                // Redis has lost its data, or the run has begun just now.
                None => unknown.push(asked(self.exchange.clone(), run, server)),
            }
        }
        let mut answers = stream::iter(unknown).buffer_unordered(ASKED);
        let deadline = Instant::now() + SOON;
        while let Ok(Some(answer)) = tokio::time::timeout_at(deadline, answers.next()).await {
            known.extend(answer);
        }
        known
    }

    pub(crate) async fn cancel(
        &self,
        run: &Run,
        signal: Signal,
        grace: Span,
    ) -> Result<(), LogError> {
        let grace_ms = grace.duration().as_millis() as u64;
        let question = Question::Cancel { run: run.id, signal, grace_ms };
        match self.exchange.ask(&run.server, &question, b"").await?.0 {
            Answer::Done | Answer::Closed => Ok(()),
            _ => Err(LogError::unreachable()),
        }
    }

    pub(crate) async fn send_input(
        &self,
        run: &Run,
        bytes: &Bytes,
        close: bool,
    ) -> Result<Sent, LogError> {
        let question = Question::Input { run: run.id, close };
        match self.exchange.ask(&run.server, &question, bytes).await?.0 {
            Answer::Done => Ok(Sent::Taken),
            Answer::Closed => Ok(Sent::Closed),
            Answer::NotYet => Ok(Sent::NotYet),
            _ => Err(LogError::unreachable()),
        }
    }

    pub(crate) async fn resize(&self, run: &Run, size: TerminalSize) -> Result<bool, LogError> {
        let question = Question::Resize { run: run.id, columns: size.columns, rows: size.rows };
        match self.exchange.ask(&run.server, &question, b"").await?.0 {
            Answer::Done => Ok(true),
            Answer::Closed | Answer::NotYet => Ok(false),
            _ => Err(LogError::unreachable()),
        }
    }

    /// Whether a run has ended, as its server says, which has noted it then.
    pub(crate) async fn has_ended(&self, run: &Run) -> bool {
        let asked = ask_how_far(&self.exchange, run.id, &run.server);
        matches!(tokio::time::timeout(ENDING, asked).await, Ok(Ok((_, true))))
    }

    /// Has the output of a run removed that is forgotten. What cannot be removed now goes when it is old.
    pub(crate) async fn remove(&self, run: Uuid, server: &str) {
        self.forget(run).await;
        if let Err(error) = self.exchange.ask(server, &Question::Remove { run }, b"").await {
            warn!(%run, %error, "the output of a forgotten run is left behind on another server");
        }
    }

    /// Forgets what Redis has of a run of this server that is forgotten.
    pub(crate) async fn forget(&self, run: Uuid) {
        if let Err(error) = self.exchange.live().forget(run).await {
            warn!(%run, %error, "Redis keeps the output of a forgotten run for a while");
        }
    }

    /// Notes that the database has a run's end.
    pub(crate) fn noted(&self, run: Uuid) {
        lock(&self.noting).remove(&run);
    }

    /// Waits for what is still to be published.
    pub(crate) async fn published(&self) {
        // The sender is this.
        let _ = self.publishing.subscribe().wait_for(|count| *count == 0).await;
    }

    /// A log that has ended and was asked for before.
    fn kept(&self, run: Uuid) -> Option<Arc<RunLog>> {
        lock(&self.kept).iter().find(|(id, _)| *id == run).map(|(_, log)| Arc::clone(log))
    }

    fn keep(&self, run: Uuid, log: &Arc<RunLog>) {
        let mut kept = lock(&self.kept);
        kept.push_back((run, Arc::clone(log)));
        if kept.len() > KEPT {
            kept.pop_front();
        }
    }
}

/// How far a run is, as its server says, if it does.
async fn asked(exchange: Exchange, run: Uuid, server: String) -> Option<(Uuid, u64)> {
    let (seq, _ended) = ask_how_far(&exchange, run, &server).await.ok()?;
    Some((run, seq))
}

/// Counts a log that is being published.
struct Publishing(Arc<Inner>);

impl Publishing {
    fn begin(inner: &Arc<Inner>) -> Self {
        if let Some(elsewhere) = inner.elsewhere() {
            elsewhere.publishing.send_modify(|count| *count += 1);
        }
        Self(Arc::clone(inner))
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        if let Some(elsewhere) = self.0.elsewhere() {
            elsewhere.publishing.send_modify(|count| *count -= 1);
        }
    }
}

impl Inner {
    /// Shows the other servers a log of this one, from here on and to its end.
    pub(crate) fn publish(self: &Arc<Self>, run: Uuid, log: Arc<RunLog>) {
        let Some(elsewhere) = self.elsewhere() else { return };
        let (sender, noted) = oneshot::channel::<()>();
        lock(&elsewhere.noting).insert(run, sender);
        let publishing = Publishing::begin(self);
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            let Some(elsewhere) = inner.elsewhere() else { return };
            let live = elsewhere.exchange.live();
            let noted = async {
                // Sent or dropped: it was noted. Otherwise the database does not answer.
                let _ = tokio::time::timeout(NOTING, noted).await;
            };
            let published = publisher::publish(live, inner.server(), run, Arc::clone(&log), noted);
            if published.await == Err(GivenUp) {
                warn!(%run, "another server ended this run in place of this one, which it took for lost");
                inner.lose(run);
                let mut tail = log.tail();
                let _ = tail.wait_for(|tail| tail.state != TailState::Open).await;
                // What is on this disk counts, and is asked for from now on.
                publisher::forget(live, run).await;
            }
            lock(&elsewhere.noting).remove(&run);
            drop(publishing);
        });
    }

    /// Shows the other servers the end of a log that was mended.
    pub(crate) async fn publish_ended(self: &Arc<Self>, run: Uuid) {
        if self.elsewhere().is_none() {
            return;
        }
        match self.logs().log(run).await {
            Ok(log) => {
                self.publish(run, log);
                if let Some(elsewhere) = self.elsewhere() {
                    elsewhere.noted(run);
                }
            }
            Err(error) => warn!(%run, %error, "the end of a run is not shown to other servers"),
        }
    }

    /// Takes up what was ended in this server's place while it was away: its own word counts.
    pub(crate) async fn reclaim(self: &Arc<Self>) -> Result<(), StoreError> {
        let Some(elsewhere) = self.elsewhere() else { return Ok(()) };
        for run in self.store().runs_ended_by_others(self.server()).await? {
            match self.logs().ended(run).await {
                Ok(Some(ended)) => {
                    let truncated = ended.exit.reason == Reason::OutputLimit;
                    let end = run_end(&ended.exit, ended.last_seq, truncated);
                    publisher::forget(elsewhere.exchange.live(), run).await;
                    self.note_end(run, &end).await?;
                    info!(%run, "this server has the output of a run that was ended in its place");
                }
                // Nothing is left here; what the other server said remains.
                Ok(None) => {}
                Err(error) => warn!(%run, %error, "the log of a run cannot be read"),
            }
        }
        Ok(())
    }

    /// Answers what other servers ask, as long as this one is there.
    pub(crate) fn attend(self: &Arc<Self>, mut incoming: mpsc::Receiver<Incoming>) {
        let weak = Arc::downgrade(self);
        tokio::spawn(async move {
            while let Some(incoming) = incoming.recv().await {
                let Some(inner) = weak.upgrade() else { return };
                let Some(elsewhere) = inner.elsewhere() else { return };
                // Questions that wait meanwhile can be taken back.
                let permit = Arc::clone(&elsewhere.questions).acquire_owned().await;
                tokio::spawn(async move {
                    match incoming {
                        Incoming::Asked(asked) => inner.attend_to(&asked, permit.ok()).await,
                        Incoming::Suspect(run) => {
                            if let Err(error) = inner.end_lost(run).await {
                                warn!(%run, %error, "a run of a lost server cannot be ended yet");
                            }
                        }
                    }
                });
            }
        });
    }

    async fn attend_to(
        self: &Arc<Self>,
        asked: &Asked,
        permit: Option<tokio::sync::OwnedSemaphorePermit>,
    ) {
        let Some(elsewhere) = self.elsewhere() else { return };
        let Some((question, bytes)) = elsewhere.exchange.take(asked).await else { return };
        let (answer, beside) = match question {
            Question::Cancel { run, signal, grace_ms } => {
                (self.cancel(run, signal, Span::from_millis(grace_ms)), Bytes::new())
            }
            Question::Input { run, close } => {
                // A program need not read, and that must not be in the way of other questions.
                drop(permit);
                let answer = match elsewhere.inputs.try_acquire() {
                    Ok(_permit) => match self.send_input(run, bytes, close).await {
                        Sent::Taken => Answer::Done,
                        Sent::Closed => Answer::Closed,
                        Sent::NotYet => Answer::NotYet,
                    },
                    Err(_) => Answer::Failed,
                };
                (answer, Bytes::new())
            }
            Question::Resize { run, columns, rows } => {
                let resized = self.resize(run, TerminalSize { columns, rows });
                (if resized { Answer::Done } else { Answer::Closed }, Bytes::new())
            }
            Question::Read { run, after } => self.records(run, after).await.unwrap_or_else(|error| {
                let answer = match error {
                    LogError::Gone => Answer::Gone,
                    error => {
                        warn!(%run, %error, "another server cannot be given the output of a run");
                        Answer::Failed
                    }
                };
                (answer, Bytes::new())
            }),
            Question::Remove { run } => {
                let forgotten = matches!(self.store().run(run).await, Ok(None));
                let removed = forgotten && self.logs().remove(run).await.is_ok();
                (if removed { Answer::Done } else { Answer::Failed }, Bytes::new())
            }
        };
        elsewhere.exchange.answer(asked, answer, &beside).await;
    }

    /// Records of a log of this server, and how far it is.
    async fn records(&self, run: Uuid, after: u64) -> Result<(Answer, Bytes), LogError> {
        let Some(elsewhere) = self.elsewhere() else { return Err(LogError::Gone) };
        let log = match elsewhere.kept(run) {
            Some(log) => log,
            None => {
                let log = self.logs().log(run).await?;
                if log.tail().borrow().state == TailState::Ended {
                    elsewhere.keep(run, &log);
                }
                log
            }
        };
        let tail = *log.tail().borrow();
        if tail.state == TailState::Failed {
            return Err(LogError::Failed);
        }
        let ended = tail.state == TailState::Ended;
        if ended && self.is_under_way(run) {
            // Who is told so finds it in the database.
            self.settle_if_ended(run).await;
        }
        let answer = Answer::Records { last: tail.seq, ended };
        if after >= tail.seq {
            return Ok((answer, Bytes::new()));
        }
        let block = Reader::new(log, after, false).uncounted().block().await?;
        Ok((answer, block.map(|block| block.frames).unwrap_or_default()))
    }

    /// Shows that this server lives, and ends the runs of those that do not.
    pub(crate) fn live(self: &Arc<Self>, epoch: i64) {
        let Some(elsewhere) = self.elsewhere() else { return };
        let between = elsewhere.lease / BEATS;
        let weak = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut epoch = epoch;
            let mut others = Others::default();
            loop {
                tokio::time::sleep(between).await;
                let Some(inner) = weak.upgrade() else { return };
                if inner.has_closed() {
                    return;
                }
                match inner.beat(epoch, &mut others).await {
                    Ok(now) => epoch = now,
                    Err(error) => {
                        warn!(%error, "the database does not answer");
                        // Whoever could not beat either is given time to.
                        others = Others::default();
                    }
                }
            }
        });
    }

    async fn beat(
        self: &Arc<Self>,
        mut epoch: i64,
        others: &mut Others,
    ) -> Result<i64, StoreError> {
        let store = self.store();
        if !store.beat(self.server(), epoch).await? {
            if self.has_closed() {
                return Ok(epoch);
            }
            error!("another server took this one for lost; what runs here is ended");
            self.lose_all().await;
            epoch = store.register_server(self.server()).await?;
            self.set_epoch(epoch);
        }
        let lease = self.elsewhere().map_or(Duration::MAX, |elsewhere| elsewhere.lease);
        let servers = store.servers().await?;
        for seen in others.silent(&servers, self.server(), lease) {
            if store.give_up_server(&seen).await? {
                warn!(server = %seen.id, "a server is silent; its runs are ended");
            }
        }
        for run in store.lost_runs(AT_ONCE).await? {
            if let Err(error) = self.end_lost(run.id).await {
                warn!(run = %run.id, %error, "a run of a lost server cannot be ended yet");
            }
        }
        Ok(epoch)
    }

    /// Gives a run its end whose server is lost: in Redis first, where its readers are, and then in the database.
    async fn end_lost(&self, run: Uuid) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let Some(elsewhere) = self.elsewhere() else { return Ok(()) };
        let Some(row) = self.store().run(run).await? else { return Ok(()) };
        if row.server == self.server() || self.store().is_alive(&row.server).await? {
            return Ok(());
        }
        let live = elsewhere.exchange.live();
        loop {
            let head = live.head(run).await?.unwrap_or_default();
            if head.ended {
                let Some(exit) = self.last_of(run, &head).await? else { break };
                self.note_lost(&row, &exit, head.at).await?;
                break;
            }
            let exit = if row.status.is_finished() {
                exit_of(&row)
            } else {
                Exit {
                    elapsed_ms: head.at_ms.into(),
                    stdout_bytes: head.stdout_bytes,
                    stderr_bytes: head.stderr_bytes,
                    ..Exit::without_program(Reason::ServerRestart)
                }
            };
            let record = Record::Exit(exit.clone());
            let end = Block::single(&Entry { seq: head.at + 1, at_ms: head.at_ms, record });
            if live.append_lost(run, &head, &end).await?.is_ok() {
                info!(%run, server = %row.server, "a run was lost with its server");
                self.note_lost(&row, &exit, head.at + 1).await?;
                break;
            }
            // Somebody was faster; that is looked at.
        }
        Ok(())
    }

    async fn note_lost(&self, row: &Run, exit: &Exit, last_seq: u64) -> Result<(), StoreError> {
        let end = run_end(exit, last_seq, exit.reason == Reason::OutputLimit);
        if row.status.is_finished() {
            return self.store().note_ended_by(row.id, self.server()).await;
        }
        if self.store().end_lost_run(row.id, self.server(), &end, Moment::now()).await? {
            self.logs().counters().ended(end.reason);
        }
        Ok(())
    }

    /// The last record of a log that has ended in Redis.
    async fn last_of(&self, run: Uuid, head: &Head) -> Result<Option<Exit>, LiveError> {
        let Some(elsewhere) = self.elsewhere() else { return Ok(None) };
        let blocks = elsewhere.exchange.live().blocks(run, head.at.saturating_sub(1), 1).await?;
        let Some(block) = blocks.into_iter().next() else { return Ok(None) };
        let mut frames = block.frames;
        while let Framed::Entry(entry, length) = read_frame(&frames) {
            if let Record::Exit(exit) = entry.record {
                return Ok(Some(exit));
            }
            let _ = frames.split_to(length);
        }
        Ok(None)
    }
}

/// How a finished run ended, as the database says.
fn exit_of(row: &Run) -> Exit {
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    let small = |value: Option<i64>| value.and_then(|value| i32::try_from(value).ok());
    Exit {
        reason: row.reason.as_deref().and_then(Reason::parse).unwrap_or(Reason::ServerRestart),
        code: small(row.exit_code),
        signal: small(row.signal),
        elapsed_ms: number(row.elapsed_ms.unwrap_or(0)),
        cpu_ms: number(row.cpu_ms.unwrap_or(0)),
        max_rss_bytes: number(row.max_rss_bytes.unwrap_or(0)),
        stdout_bytes: number(row.stdout_bytes),
        stderr_bytes: number(row.stderr_bytes),
    }
}

/// Since when the other servers are silent, by this server's clock: no clock is compared with another.
#[derive(Default)]
struct Others {
    seen: HashMap<String, (ServerRow, Instant)>,
    looked: Option<Instant>,
}

impl Others {
    /// Those that were silent for longer than the lease, all of which this server looked.
    fn silent(&mut self, servers: &[ServerRow], own: &str, lease: Duration) -> Vec<ServerRow> {
        let now = Instant::now();
        if self.looked.is_some_and(|looked| now - looked > lease / 2) {
            // This server stood still, and perhaps the others did with it.
            self.seen.clear();
        }
        self.looked = Some(now);
        self.seen.retain(|id, _| servers.iter().any(|server| server.id == *id));
        let mut silent = Vec::new();
        for server in servers.iter().filter(|server| server.alive && server.id != own) {
            match self.seen.get(&server.id) {
                Some((seen, since)) if seen == server => {
                    if now - *since > lease {
                        silent.push(server.clone());
                    }
                }
                _ => {
                    self.seen.insert(server.id.clone(), (server.clone(), now));
                }
            }
        }
        silent
    }
}

impl fmt::Debug for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Elsewhere").field("exchange", &self.exchange).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(beat: i64) -> ServerRow {
        ServerRow { id: "a".to_owned(), epoch: 1, beat, alive: true }
    }

    async fn after(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_is_silent_when_nothing_of_it_changes_for_longer_than_its_lease() {
        let lease = Duration::from_secs(10);
        let mut others = Others::default();
        for beat in [1, 2, 2, 2, 2] {
            assert!(others.silent(&[server(beat)], "b", lease).is_empty());
            after(3).await;
        }
        assert_eq!(others.silent(&[server(2)], "b", lease), [server(2)]);
        assert!(others.silent(&[server(2)], "a", lease).is_empty(), "itself");
        let gone = ServerRow { alive: false, ..server(2) };
        assert!(others.silent(&[gone], "b", lease).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_stood_still_gives_the_others_time_anew() {
        let lease = Duration::from_secs(10);
        let mut others = Others::default();
        assert!(others.silent(&[server(1)], "b", lease).is_empty());
        after(60).await;
        for _ in 0..4 {
            assert!(others.silent(&[server(1)], "b", lease).is_empty());
            after(3).await;
        }
        assert_eq!(others.silent(&[server(1)], "b", lease), [server(1)]);
    }
}
