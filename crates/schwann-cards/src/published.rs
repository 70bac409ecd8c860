//! Cards behind other faces: what a face is given to call them by, and one call of one.
//!
//! The application knows the names of the faces and nothing else of them. Whoever knows a face [mounts](Mount) it: there a
//! [`PublishedCard`] is a program that reads its request on stdin and writes its answer on stdout, as a run of the card like any other.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use schwann::RequestBody;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot};
use uuid::Uuid;

use crate::{
    outlet::Outlet,
    problem::Problem,
    reader::Reader,
    record::{Channel, Exit, Reason, Record},
    run_log::LogError,
    runner::Handle,
    runs::{RunRequest, Runs, Wanted},
    store::{CardChange, Face, OnBusy, Store},
};

/// How much of the end of a call's stderr is kept for the log, in bytes.
const LAST_WORDS: usize = 4 << 10;
/// Largest value of a variable that comes with a call, in bytes: what the system takes is little more.
const MAX_VALUE: usize = 64 << 10;

/// What the application is served beside.
#[derive(Clone, Debug)]
pub struct Beside {
    /// Where cards are published as synapses.
    pub synapse: Place,
    /// Where cards are published as transforms.
    pub etl: Place,
    /// What programs of cards may call, or why they may not.
    pub outlet: Result<Outlet, String>,
}

/// Where the cards of a face are called.
#[derive(Clone)]
pub enum Place {
    /// Here.
    Open(Arc<dyn Mount>),
    /// Nowhere. The reason is told to whoever wants to publish a card: it names the setting that would change it.
    Closed(String),
}

/// A face, as the application sees it.
pub trait Mount: Send + Sync + 'static {
    /// Whether a card may be called by this name here.
    ///
    /// # Errors
    ///
    /// Why not.
    fn check(&self, name: &str) -> Result<(), Refused>;

    /// The caller that somebody names, as this face writes its callers.
    ///
    /// # Errors
    ///
    /// Why there is none of this name, or that callers here are not asked who they are.
    fn caller(&self, named: &str) -> Result<String, String>;

    /// Serves these cards from now on, and no others. What runs goes on.
    fn serve(&self, cards: Vec<PublishedCard>);

    /// Where a card of this name is called.
    fn url(&self, name: &str) -> String;

    /// A command that calls it, to be pasted into a shell.
    fn command(&self, name: &str, streams: bool) -> String;
}

/// Why a card cannot have a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Something else has it.
    Taken(String),
    /// It cannot be one.
    Unfit(String),
}

/// A card that callers of a face may call. Cheap to clone.
#[derive(Clone)]
pub struct PublishedCard {
    shared: Arc<Shared>,
    face: Face,
    name: Arc<str>,
    streams: bool,
    hash: Arc<[String]>,
    allow: Arc<[String]>,
}

/// What all published cards need.
struct Shared {
    store: Store,
    runs: Runs,
    calls: Arc<Semaphore>,
}

/// One call of a card: what it is given besides its input.
#[derive(Clone, Debug, Default)]
pub struct PublishedCall {
    /// Who calls, as the card's history shows it.
    pub caller: String,
    /// The same, as [`Mount::caller`] writes it, if it is proven: without it only cards that everybody may call can be called.
    pub proven: Option<String>,
    /// Variables set for it.
    pub environment: Vec<(String, String)>,
}

/// A call under way. Dropping it kills the program.
pub struct PublishedRun {
    runs: Runs,
    run: Uuid,
    reader: Reader,
    feeding: Option<Feeding>,
    end: Option<Exit>,
    last_words: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

type Feeding = Pin<Box<dyn Future<Output = Result<(), schwann::Error>> + Send>>;

/// Why a call gives no answer, or no more of it. The text is for the log: it may quote what the program said on stderr.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishedError {
    /// It is not published any more.
    #[error("no card is published as `{0}` any more")]
    Gone(String),
    /// Only others may call it.
    #[error("`{name}` may only be called by whom its owner named, and not by {caller}")]
    NotAllowed {
        /// What was called.
        name: String,
        /// By whom.
        caller: String,
    },
    /// Too many calls or runs are under way.
    #[error("{0}")]
    Busy(String),
    /// It cannot be run now: there is no sandbox, no room on the disk, or the database does not answer.
    #[error("the card cannot be run: {0}")]
    Unavailable(String),
    /// The call gives it something that no program can take.
    #[error("{0}")]
    Unfit(String),
    /// Its input broke off, and it was killed before it could take what it had for all.
    #[error("its input was cut")]
    Input(#[source] schwann::Error),
    /// It ended, and not with code 0.
    #[error("run {run} ended with {}{}", said(.exit), quoted(.last_words))]
    Failed {
        /// The run in the card's history.
        run: Uuid,
        /// How.
        exit: Exit,
        /// The last lines it wrote to stderr.
        last_words: String,
    },
    /// Its output cannot be read.
    #[error("the output of run {run} cannot be read")]
    Lost {
        /// The run in the card's history.
        run: Uuid,
        /// Why not.
        source: LogError,
    },
}

fn said(exit: &Exit) -> String {
    match (exit.reason, exit.code) {
        (Reason::Exit, Some(code)) => format!("code {code}"),
        (reason, _) => reason.as_str().to_owned(),
    }
}

fn quoted(last_words: &str) -> String {
    if last_words.is_empty() { String::new() } else { format!("; its last words: {last_words}") }
}

impl PublishedError {
    /// What a caller may be told: a status, and a sentence without anything of the program's own.
    pub fn public(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Gone(_) => (StatusCode::NOT_FOUND, "this card is not published any more"),
            Self::NotAllowed { .. } => (StatusCode::FORBIDDEN, "you may not call this card"),
            Self::Busy(_) => (StatusCode::SERVICE_UNAVAILABLE, "too many calls are under way"),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "the card cannot be run now"),
            Self::Unfit(_) => (StatusCode::BAD_REQUEST, "a value cannot be passed to a program"),
            Self::Input(error) => (error.status(), "the request broke off"),
            Self::Failed { exit: Exit { reason: Reason::Timeout, .. }, .. } => {
                (StatusCode::GATEWAY_TIMEOUT, "the card ran out of time")
            }
            Self::Failed { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "the card failed"),
            Self::Lost { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "the card was lost"),
        }
    }
}

/// The source of what it was, so that a client that left stays one that left.
impl From<PublishedError> for schwann::Error {
    fn from(error: PublishedError) -> Self {
        let (status, message) = error.public();
        match error {
            PublishedError::Input(error) => error,
            PublishedError::Busy(_) => Self::busy(message),
            PublishedError::Unfit(_) | PublishedError::NotAllowed { .. } => {
                Self::caller(status, message)
            }
            error => {
                tracing::warn!(%error, "a published card failed");
                Self::server(message).with_status(status)
            }
        }
    }
}

impl PublishedCard {
    /// The face it is called by.
    pub fn face(&self) -> Face {
        self.face
    }

    /// The name it is called by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether its answer is to be passed on as it is written.
    pub fn streams(&self) -> bool {
        self.streams
    }

    /// The fields of a synapse that its callers hash, in order.
    pub fn hash(&self) -> &[String] {
        &self.hash
    }

    /// The only callers that may call it, as [`Mount::caller`] writes them; empty if everybody may. A face that knows who calls may
    /// refuse others early: whoever it lets through is held against the list as it is then.
    pub fn allow(&self) -> &[String] {
        &self.allow
    }

    /// Starts the program with `input` on its stdin as it arrives. It is a run of the card: in the same queue and sandbox, within the
    /// same limits, in the history of its owner, and its output is on disk before it is handed out.
    ///
    /// # Errors
    ///
    /// See [`PublishedError`]. Also where the card was taken back since it was mounted.
    pub async fn start(
        &self,
        call: PublishedCall,
        input: RequestBody,
    ) -> Result<PublishedRun, PublishedError> {
        let Shared { store, runs, calls } = &*self.shared;
        let permit = Arc::clone(calls).try_acquire_owned().map_err(|error| match error {
            TryAcquireError::NoPermits => {
                PublishedError::Busy("as many calls of cards are under way as may be".to_owned())
            }
            TryAcquireError::Closed => PublishedError::Gone(self.name.to_string()),
        })?;
        for (name, value) in &call.environment {
            if value.contains('\0') || value.len() > MAX_VALUE {
                let text = format!("{name} has a NUL, or more than {MAX_VALUE} bytes");
                return Err(PublishedError::Unfit(text));
            }
        }
        let called = store.called(self.face, &self.name).await.map_err(unavailable)?;
        let called = called.ok_or_else(|| PublishedError::Gone(self.name.to_string()))?;
        let allow = &called.publication.allow;
        if !allow.is_empty() && !call.proven.is_some_and(|proven| allow.contains(&proven)) {
            let (name, caller) = (self.name.to_string(), call.caller);
            return Err(PublishedError::NotAllowed { name, caller });
        }
        let change = called.publication.fixed.map(|fixed| CardChange {
            title: None,
            language: Some(fixed.language),
            code: Some(fixed.code),
            settings: Some(fixed.settings),
        });
        let wanted = Wanted {
            user_id: called.owner_id,
            book_id: called.book_id,
            card_id: called.publication.card_id,
            change: change.unwrap_or_default(),
            save: false,
            version: None,
            key: None,
            on_busy: OnBusy::Queue,
            batch_id: None,
            request: RunRequest {
                env: call.environment.into_iter().collect(),
                face: Some(self.face),
                caller: Some(call.caller),
                ..RunRequest::default()
            },
        };
        let (run, started) = runs.start_fed(wanted).await.map_err(refused)?;
        let mut running = PublishedRun {
            runs: runs.clone(),
            run: run.id,
            // Replaced below, once there is somebody who kills the run.
            reader: match runs.read(&run, 0, true).await {
                Ok(reader) => reader,
                Err(source) => {
                    runs.abandon(run.id);
                    return Err(PublishedError::Lost { run: run.id, source });
                }
            },
            feeding: None,
            end: None,
            last_words: Vec::new(),
            _permit: permit,
        };
        running.feeding = Some(Box::pin(feed(started, input)));
        Ok(running)
    }
}

/// Gives a program its input as it takes it, and closes it after all of it.
async fn feed(
    started: oneshot::Receiver<Handle>,
    mut body: RequestBody,
) -> Result<(), schwann::Error> {
    // Without a program there is an end, which is read from the log.
    let Ok(Handle { input, .. }) = started.await else { return Ok(()) };
    while let Some(piece) = body.chunk().await? {
        if input.write(piece).await.is_err() {
            // It reads no more, and may succeed all the same.
            return Ok(());
        }
    }
    input.close().await;
    Ok(())
}

fn unavailable(error: impl fmt::Display) -> PublishedError {
    PublishedError::Unavailable(error.to_string())
}

fn refused(problem: Problem) -> PublishedError {
    let text = problem.to_string();
    match problem.status() {
        StatusCode::NOT_FOUND => PublishedError::Gone(text),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::CONFLICT => PublishedError::Busy(text),
        _ => PublishedError::Unavailable(text),
    }
}

impl PublishedRun {
    /// The run in the card's history.
    pub fn id(&self) -> Uuid {
        self.run
    }

    /// The next of what it wrote to stdout, or `None` once it has exited with code 0 and all was handed out. Its input is read
    /// only while this is awaited.
    ///
    /// # Errors
    ///
    /// See [`PublishedError`]. What was written before a failure is handed out first; afterwards every call fails again.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before completing, no output is lost.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, PublishedError> {
        loop {
            if let Some(exit) = &self.end {
                if exit.reason == Reason::Exit && exit.code == Some(0) {
                    return Ok(None);
                }
                return Err(PublishedError::Failed {
                    run: self.run,
                    exit: exit.clone(),
                    last_words: String::from_utf8_lossy(&self.last_words).trim().to_owned(),
                });
            }
            let Self { reader, feeding, end, last_words, run, .. } = self;
            let fed = std::future::poll_fn(|cx| match feeding.as_mut() {
                Some(feed) => feed.as_mut().poll(cx),
                None => Poll::Pending,
            });
            // Both are cancel-safe: the feeding is kept, and records count as read when they are taken.
            tokio::select! {
                fed = fed => {
                    *feeding = None;
                    if let Err(error) = fed {
                        self.runs.abandon(self.run);
                        return Err(PublishedError::Input(error));
                    }
                }
                entries = reader.next() => {
                    let entries = match entries {
                        Ok(Some(entries)) => entries,
                        Ok(None) => return Err(PublishedError::Lost { run: *run, source: LogError::Failed }),
                        Err(source) => return Err(PublishedError::Lost { run: *run, source }),
                    };
                    let mut output = BytesMut::new();
                    for entry in entries {
                        match entry.record {
                            Record::Output(Channel::Stdout, bytes) => output.extend_from_slice(&bytes),
                            Record::Output(Channel::Stderr, bytes) => keep(last_words, &bytes),
                            Record::Exit(exit) => *end = Some(exit),
                            Record::Start(_) | Record::Truncated { .. } => {}
                        }
                    }
                    if !output.is_empty() {
                        return Ok(Some(output.freeze()));
                    }
                }
            }
        }
    }

    /// Everything that is left.
    ///
    /// # Errors
    ///
    /// As [`chunk`](Self::chunk).
    pub async fn collect(mut self) -> Result<Bytes, PublishedError> {
        let mut whole = BytesMut::new();
        while let Some(piece) = self.chunk().await? {
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }
}

/// Keeps the end of what was said.
fn keep(last_words: &mut Vec<u8>, bytes: &[u8]) {
    last_words.extend_from_slice(bytes);
    let beyond = last_words.len().saturating_sub(LAST_WORDS);
    last_words.drain(..beyond);
}

impl Drop for PublishedRun {
    fn drop(&mut self) {
        if self.end.is_none() {
            self.runs.abandon(self.run);
        }
    }
}

/// What is published, as the mounts of the faces are told.
#[derive(Clone)]
pub(crate) struct Publishing {
    shared: Arc<Shared>,
    beside: Arc<Beside>,
    /// Counts who asked to renew, and whose answer the mounts have.
    asked: Arc<AtomicU64>,
    told: Arc<Mutex<u64>>,
}

impl Publishing {
    pub(crate) fn new(store: Store, runs: Runs, most: u32, beside: Beside) -> Self {
        let calls = Arc::new(Semaphore::new(most as usize));
        Self {
            shared: Arc::new(Shared { store, runs, calls }),
            beside: Arc::new(beside),
            asked: Arc::default(),
            told: Arc::default(),
        }
    }

    pub(crate) fn place(&self, face: Face) -> &Place {
        match face {
            Face::Synapse => &self.beside.synapse,
            Face::Etl => &self.beside.etl,
        }
    }

    fn places(&self) -> impl Iterator<Item = (Face, &Arc<dyn Mount>)> {
        [Face::Synapse, Face::Etl].into_iter().filter_map(|face| match self.place(face) {
            Place::Open(mount) => Some((face, mount)),
            Place::Closed(_) => None,
        })
    }

    /// Tells the mounts what is published now. What another server published is known after the next call.
    pub(crate) async fn renew(&self) -> Result<(), crate::store::StoreError> {
        if self.places().next().is_none() {
            return Ok(());
        }
        let turn = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        let all = self.shared.store.all_called().await?;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever asked later knows at least as much.
        if *told > turn {
            return Ok(());
        }
        *told = turn;
        for (face, mount) in self.places() {
            let cards = all.iter().filter(|by| by.face == face && mount.check(&by.name).is_ok());
            let cards = cards.map(|by| PublishedCard {
                shared: Arc::clone(&self.shared),
                face,
                name: by.name.as_str().into(),
                streams: by.stream,
                hash: by.hash.clone().into(),
                allow: by.allow.clone().into(),
            });
            mount.serve(cards.collect());
        }
        Ok(())
    }

    /// Takes no more calls, for good.
    pub(crate) fn close(&self) {
        self.shared.calls.close();
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = u64::MAX;
        for (_, mount) in self.places() {
            mount.serve(Vec::new());
        }
    }
}

impl Beside {
    /// Nothing: cards are neither published nor can they call anything.
    pub fn nothing() -> Self {
        let why = "there is nothing beside this application".to_owned();
        Self {
            synapse: Place::Closed(why.clone()),
            etl: Place::Closed(why.clone()),
            outlet: Err(why),
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(_) => f.write_str("Open"),
            Self::Closed(why) => f.debug_tuple("Closed").field(why).finish(),
        }
    }
}

impl fmt::Debug for PublishedCard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishedCard")
            .field("face", &self.face)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for PublishedRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishedRun").field("run", &self.run).finish_non_exhaustive()
    }
}

impl fmt::Debug for Publishing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publishing").field("beside", &self.beside).finish_non_exhaustive()
    }
}
