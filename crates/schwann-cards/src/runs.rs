//! All runs of this server: who may start one, whose turn it is, how a run is
//! reached, and what becomes of it when the server is lost. Runs of other
//! servers are reached through [`Elsewhere`].

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use schwann_process::{
    Limits, ProgramSpec, Sandbox, Sandboxes, Signal, Span, TerminalSize, remove_run_folder,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::{Notify, broadcast, oneshot};
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::{
    elsewhere::Elsewhere,
    exchange::{Answer, Exchange},
    language::Languages,
    live::Live,
    metrics::Counters,
    moment::Moment,
    outlet::Outlet,
    problem::Problem,
    reader::Reader,
    record::{Exit, Of, Reason, Start},
    run_log::{LogError, LogWriter, Recovered, Retention, RunLog, RunLogs, TailState, folder_in},
    runner::{self, Handle, Job, Outcome},
    settings::CardsSettings,
    store::{
        CardChange, Face, KeyUse, NewRun, OnBusy, Run, RunEnd, RunStatus, SaveAndRun,
        SaveAndRunError, Store, StoreError,
    },
};

/// Between two looks at what was lost, what is owed and what is kept too long.
const TENDING: Duration = Duration::from_secs(5);
/// How long the same key means the same run.
const KEYS: Duration = Duration::from_secs(24 * 3600);
/// News of new runs that a slow stream of events may be behind with.
const NEWS: usize = 1024;

/// All runs of this server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Runs(Arc<Inner>);

pub(crate) struct Inner {
    store: Store,
    logs: RunLogs,
    languages: Languages,
    server: String,
    /// The other servers of the installation, if there can be any.
    elsewhere: Option<Elsewhere>,
    /// By which this server goes on among them.
    epoch: AtomicI64,
    work: PathBuf,
    /// What holds programs, or why nothing does.
    sandbox: Result<Sandbox, String>,
    /// The same, as runs say it.
    held_by: String,
    /// What programs may call, or why they may not.
    outlet: Result<Outlet, String>,
    limits: Limits,
    max_code: u64,
    max_running: usize,
    max_queued: u32,
    max_unfinished: u32,
    keep: Duration,
    keep_per_card: u32,
    state: Mutex<State>,
    stopping: AtomicBool,
    /// Told when a run has left `active`.
    left: Notify,
    news: broadcast::Sender<News>,
}

/// What is new.
#[derive(Clone, Copy, Debug)]
pub(crate) enum News {
    /// A run was accepted.
    Run { owner: Uuid, run: Uuid },
    /// There may have been something that was not heard.
    LookAgain,
}

#[derive(Default)]
struct State {
    /// In the order in which they came.
    waiting: VecDeque<Waiting>,
    active: HashMap<Uuid, Active>,
    /// The last that have left `active`, and the ids of their last records.
    left: VecDeque<(Uuid, u64)>,
    /// Ends that the database could not take yet.
    unsettled: Vec<(Uuid, RunEnd)>,
}

struct Waiting {
    run: Run,
    writer: LogWriter,
    /// Who gives it its input, if that is not for anybody else.
    feeder: Option<oneshot::Sender<Handle>>,
}

struct Active {
    owner: Uuid,
    log: Arc<RunLog>,
    /// None while its program is being started.
    handle: Option<Handle>,
    /// What its program is told, at once or as soon as it has started.
    cancel: Option<(Signal, Span)>,
    input_closed: bool,
    /// Set if it ends because this server does.
    stopping: Arc<AtomicBool>,
}

/// What a request says about how a run is run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct RunRequest {
    pub(crate) stdin: Option<String>,
    pub(crate) args: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) terminal: Option<TerminalSize>,
    pub(crate) wall_ms: Option<u64>,
    pub(crate) cpu_ms: Option<u64>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) output_bytes: Option<u64>,
    /// By what it is called, if as published.
    pub(crate) face: Option<Face>,
    /// Who calls it then.
    pub(crate) caller: Option<String>,
    /// Whether its program gets the outlet. Said by the card, and not by the request.
    pub(crate) outlet: bool,
}

/// A card to be saved and run.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) user_id: Uuid,
    pub(crate) book_id: Uuid,
    pub(crate) card_id: Uuid,
    pub(crate) change: CardChange,
    pub(crate) save: bool,
    pub(crate) version: Option<i64>,
    pub(crate) key: Option<KeyUse>,
    pub(crate) on_busy: OnBusy,
    pub(crate) batch_id: Option<Uuid>,
    pub(crate) request: RunRequest,
}

/// What came of sending to a run's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Taken,
    /// The run has ended, does not read any more, or its input was closed.
    Closed,
    /// It waits for its turn.
    NotYet,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Runs {
    /// Opens the folder of logs, ends what was lost, and looks for languages.
    ///
    /// # Errors
    ///
    /// Fails if the folder cannot be used, or the database does not answer.
    pub(crate) async fn open(
        settings: &CardsSettings,
        store: Store,
        outlet: Result<Outlet, String>,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let data = settings.data.clone();
        let work = data.join("work");
        let retention = Retention {
            age: settings.keep_runs.duration(),
            total_bytes: settings.keep_output.bytes(),
            ..Retention::default()
        };
        let made = work.clone();
        let (logs, server) = tokio::task::spawn_blocking(move || {
            let logs = RunLogs::open(folder_in(&data), retention)?;
            // Since the logs are ours alone, so are the work folders; their programs are gone.
            match remove_run_folder(&made) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => fs::create_dir_all(&made)?,
            }
            Ok::<_, LogError>((logs, server_id(&data)?))
        })
        .await??;
        let news = broadcast::Sender::new(NEWS);
        let mut incoming = None;
        let mut epoch = 0;
        let elsewhere = match &settings.redis {
            None => None,
            Some(_) if settings.database.is_none() => {
                return Err("servers that share Redis share a database, too: set `database`".into());
            }
            Some(url) => {
                let live = Live::connect(url, store.installation().await?, &server).await?;
                epoch = store.register_server(&server).await?;
                let (exchange, asked) = Exchange::start(live, &server, news.clone());
                incoming = Some(asked);
                Some(Elsewhere::new(exchange, settings.lease.duration()))
            }
        };
        let languages = Languages::find(&settings.languages, &work).await;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let max_running = match settings.max_running {
            0 => (2 * cores).max(2),
            set => set as usize,
        };
        let asked = settings.sandbox.unwrap_or(Sandbox::Auto);
        let (sandbox, held_by) = held(asked).await;
        let inner = Inner {
            store,
            logs,
            languages,
            server,
            elsewhere,
            epoch: AtomicI64::new(epoch),
            work,
            outlet: match &sandbox {
                Ok(Sandbox::Landlock) => {
                    Err("the sandbox `landlock` allows no sockets; bubblewrap does".to_owned())
                }
                _ => outlet,
            },
            sandbox,
            held_by,
            limits: Limits {
                wall: settings.max_wall,
                cpu: settings.max_cpu,
                memory: settings.max_memory,
                processes: settings.max_processes,
                open_files: settings.max_open_files,
                output: settings.max_output,
                folder: settings.max_folder,
                file: settings.max_folder,
            },
            max_code: settings.max_code.bytes(),
            max_running,
            max_queued: settings.max_queued,
            max_unfinished: settings.max_queued_per_user,
            keep: settings.keep_runs.duration(),
            keep_per_card: settings.keep_runs_per_card,
            state: Mutex::default(),
            stopping: AtomicBool::new(false),
            left: Notify::new(),
            news,
        };
        let runs = Self(Arc::new(inner));
        runs.recover().await?;
        runs.0.reclaim().await?;
        if let Some(incoming) = incoming {
            runs.0.attend(incoming);
            runs.0.live(epoch);
        }
        let weak = Arc::downgrade(&runs.0);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(TENDING).await;
                let Some(inner) = weak.upgrade() else { return };
                inner.tend().await;
            }
        });
        Ok(runs)
    }

    pub(crate) fn languages(&self) -> &Languages {
        &self.0.languages
    }

    /// What holds programs, as runs say it, or why none can be run.
    pub(crate) fn sandbox(&self) -> Result<&str, &str> {
        self.0.sandbox.as_ref().map(|_| &*self.0.held_by).map_err(|missing| &**missing)
    }

    /// Whether programs may call what is beside, or why not.
    pub(crate) fn outlet(&self) -> Result<(), &str> {
        self.0.outlet.as_ref().map(drop).map_err(|why| &**why)
    }

    /// Whether this server can do its work: what runs here can be seen by the others.
    pub(crate) async fn ready(&self) -> Result<(), Problem> {
        self.0.ready().await
    }

    /// News of runs that are accepted from now on.
    pub(crate) fn news(&self) -> broadcast::Receiver<News> {
        self.0.news.subscribe()
    }

    /// Ends all runs, and leaves the folder to another server. To be called
    /// when the server stops, while the database still answers. What is not
    /// ended within a few seconds is ended by the next server.
    pub(crate) async fn close(&self) {
        let inner = &self.0;
        inner.stopping.store(true, Ordering::Relaxed);
        inner.abandon().await;
        for active in lock(&inner.state).active.values_mut() {
            let now = Span::from_millis(0);
            active.stopping.store(true, Ordering::Relaxed);
            active.cancel = Some((Signal::Kill, now));
            if let Some(handle) = &active.handle {
                handle.control.cancel_by(Signal::Kill, now);
            }
        }
        let idle = async {
            loop {
                let left = inner.left.notified();
                if lock(&inner.state).active.is_empty() {
                    return;
                }
                left.await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(5), idle).await.is_err() {
            warn!("runs are still under way; they will be ended by the next server");
        }
        if let Some(elsewhere) = &inner.elsewhere {
            let published = elsewhere.published();
            if tokio::time::timeout(Duration::from_secs(2), published).await.is_err() {
                warn!("other servers have not seen the end of all runs of this one");
            }
            let epoch = inner.epoch.load(Ordering::Relaxed);
            if let Err(error) = inner.store.leave(&inner.server, epoch).await {
                warn!(%error, "the other servers are not told that this one stops");
            }
        }
        inner.logs.close();
    }

    /// Gives every run that was lost with this server its end.
    async fn recover(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let inner = &self.0;
        let tended = inner.logs.tend().await?;
        for lost in &tended.recovered {
            info!(run = %lost.run, "a run was lost with the server");
        }
        inner.settle_recovered(tended.recovered).await;
        for run in inner.store.unfinished_runs(Some(&inner.server)).await? {
            // Its log has ended, but this was not noted; or it has none, because that was lost.
            let end = match inner.logs.ended(run.id).await? {
                Some(ended) => run_end(&ended.exit, ended.last_seq, false),
                None => run_end(&Exit::without_program(Reason::ServerRestart), 0, false),
            };
            inner.note_end(run.id, &end).await?;
            inner.publish_ended(run.id).await;
        }
        Ok(())
    }

    /// Saves a card and accepts a run of it, both or neither. Done to its end
    /// even if the future is dropped.
    pub(crate) async fn start(&self, wanted: Wanted) -> Result<(Run, bool), Problem> {
        let inner = Arc::clone(&self.0);
        let started = tokio::spawn(async move { inner.start(wanted, None).await });
        let started = started.await.map_err(Problem::internal)?;
        started.inspect_err(|problem| self.counters().refused(problem.code()))
    }

    /// Id of the last record that readers of this run can have by now, if it is written here.
    pub(crate) fn last_seq(&self, run: Uuid) -> Option<u64> {
        let state = lock(&self.0.state);
        let waiting = || state.waiting.iter().find(|waiting| waiting.run.id == run);
        let written = state.active.get(&run).map(|active| &active.log);
        match written.or_else(|| waiting().map(|waiting| waiting.writer.log())) {
            Some(log) => Some(log.last_seq()),
            // Between two looks of whoever asks, at the row and here, it may have ended.
            None => state.left.iter().find(|(left, _)| *left == run).map(|(_, seq)| *seq),
        }
    }

    /// How many runs run now, and how many wait.
    pub(crate) fn load(&self) -> (usize, usize) {
        let state = lock(&self.0.state);
        (state.active.len(), state.waiting.len())
    }

    pub(crate) fn counters(&self) -> &Counters {
        self.0.logs.counters()
    }

    /// As [`start`](Self::start), of a run whose input is for the caller to give: the receiver gets its program once it has started.
    /// Without a receiver by then the run is killed.
    pub(crate) async fn start_fed(
        &self,
        wanted: Wanted,
    ) -> Result<(Run, oneshot::Receiver<Handle>), Problem> {
        let inner = Arc::clone(&self.0);
        let (feeder, started) = oneshot::channel();
        let accepted = tokio::spawn(async move { inner.start(wanted, Some(feeder)).await });
        let accepted = accepted.await.map_err(Problem::internal)?;
        let (run, _) = accepted.inspect_err(|problem| self.counters().refused(problem.code()))?;
        Ok((run, started))
    }

    /// Kills a run at once, because nobody waits for it any more.
    pub(crate) fn abandon(&self, run: Uuid) {
        self.0.cancel(run, Signal::Kill, Span::from_millis(0));
    }

    /// How many runs will have their turn before this one, if it waits.
    pub(crate) fn position(&self, run: Uuid) -> Option<usize> {
        lock(&self.0.state).waiting.iter().position(|waiting| waiting.run.id == run)
    }

    /// Reads what a run left, from a cursor on.
    ///
    /// # Errors
    ///
    /// [`LogError::Gone`] if its output is not kept, [`LogError::Unreachable`] if another server has it that does not answer.
    pub(crate) async fn read(
        &self,
        run: &Run,
        after: u64,
        follow: bool,
    ) -> Result<Reader, LogError> {
        match self.0.of_another(run) {
            Some(elsewhere) => elsewhere.read(run, after, follow, self.counters()).await,
            None => self.0.logs.read(run.id, after, follow).await,
        }
    }

    /// Waits for a run's end; true if it exited with code 0.
    pub(crate) async fn succeeded(&self, run: Uuid) -> bool {
        let Ok(log) = self.0.logs.log(run).await else { return false };
        let mut tail = log.tail();
        // An error means that it was given up.
        let _ = tail.wait_for(|tail| tail.state != TailState::Open).await;
        let ended = self.0.logs.ended(run).await.ok().flatten();
        ended.is_some_and(|ended| ended.exit.code == Some(0))
    }

    /// Asks a run to end, and kills it after `grace`. Any number of times.
    pub(crate) async fn cancel(
        &self,
        run: &Run,
        signal: Signal,
        grace: Span,
    ) -> Result<(), Problem> {
        self.0.store.request_cancel(run.id).await?;
        match self.0.of_another(run) {
            Some(elsewhere) => elsewhere.cancel(run, signal, grace).await.map_err(log_problem),
            None => {
                self.0.cancel(run.id, signal, grace);
                Ok(())
            }
        }
    }

    /// Writes to a run's input, waiting until the program takes it, and closes it if asked to.
    pub(crate) async fn send_input(
        &self,
        run: &Run,
        bytes: Bytes,
        close: bool,
    ) -> Result<Sent, Problem> {
        match self.0.of_another(run) {
            Some(_) if run.status.is_finished() => Ok(Sent::Closed),
            Some(elsewhere) => elsewhere.send_input(run, &bytes, close).await.map_err(log_problem),
            None => Ok(self.0.send_input(run.id, bytes, close).await),
        }
    }

    /// Tells a run the size of its terminal. False if it does not run.
    pub(crate) async fn resize(&self, run: &Run, size: TerminalSize) -> Result<bool, Problem> {
        match self.0.of_another(run) {
            Some(_) if run.status.is_finished() => Ok(false),
            Some(elsewhere) => elsewhere.resize(run, size).await.map_err(log_problem),
            None => Ok(self.0.resize(run.id, size)),
        }
    }

    /// Forgets a finished run and its output. False if it is not finished.
    pub(crate) async fn delete(&self, run: &Run) -> Result<bool, Problem> {
        if !self.0.store.delete_run(run.id).await? {
            return Ok(false);
        }
        self.0.remove(run.id, &run.server).await.map_err(log_problem)?;
        Ok(true)
    }
}

impl State {
    fn leave(&mut self, run: Uuid) {
        /// Far more than can end between two looks.
        const MANY: usize = 256;
        let Some(active) = self.active.remove(&run) else { return };
        if self.left.len() == MANY {
            self.left.pop_front();
        }
        self.left.push_back((run, active.log.last_seq()));
    }
}

impl Inner {
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn logs(&self) -> &RunLogs {
        &self.logs
    }

    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    pub(crate) fn elsewhere(&self) -> Option<&Elsewhere> {
        self.elsewhere.as_ref()
    }

    pub(crate) fn has_closed(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    pub(crate) fn set_epoch(&self, epoch: i64) {
        self.epoch.store(epoch, Ordering::Relaxed);
    }

    /// The other servers, if one of them has the run.
    fn of_another(&self, run: &Run) -> Option<&Elsewhere> {
        self.elsewhere.as_ref().filter(|_| run.server != self.server)
    }

    async fn ready(&self) -> Result<(), Problem> {
        let Some(elsewhere) = &self.elsewhere else { return Ok(()) };
        elsewhere.ready().await.map_err(|error| {
            let detail = "Redis does not answer, so other servers would not see a run";
            Problem::unavailable("live_logs_unavailable", detail).retry_after(2).because(error)
        })
    }

    /// Removes the output of a run that is forgotten, here or where it is.
    async fn remove(&self, run: Uuid, server: &str) -> Result<(), LogError> {
        match &self.elsewhere {
            Some(elsewhere) if server != self.server => {
                elsewhere.remove(run, server).await;
                Ok(())
            }
            Some(elsewhere) => {
                elsewhere.forget(run).await;
                self.logs.remove(run).await
            }
            None => self.logs.remove(run).await,
        }
    }

    /// Ends a run because another server ended it in place of this one.
    pub(crate) fn lose(self: &Arc<Self>, run: Uuid) {
        if let Some(active) = lock(&self.state).active.get(&run) {
            active.stopping.store(true, Ordering::Relaxed);
        }
        self.cancel(run, Signal::Kill, Span::from_millis(0));
    }

    /// The same for all that run or wait here.
    pub(crate) async fn lose_all(self: &Arc<Self>) {
        self.abandon().await;
        let active: Vec<_> = lock(&self.state).active.keys().copied().collect();
        for run in active {
            self.lose(run);
        }
    }

    async fn start(
        self: Arc<Self>,
        mut wanted: Wanted,
        feeder: Option<oneshot::Sender<Handle>>,
    ) -> Result<(Run, bool), Problem> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(Problem::unavailable("stopping", "The server stops").retry_after(5));
        }
        if let Err(missing) = &self.sandbox {
            let detail = format!("Sandbox unavailable: {missing}");
            return Err(Problem::unavailable("sandbox_unavailable", detail));
        }
        self.ready().await?;
        let card = self.store.card(wanted.book_id, wanted.card_id).await?;
        let card = card.ok_or_else(|| Problem::not_found("Card"))?;
        let language = wanted.change.language.as_ref().or(card.language.as_ref());
        if let Some(language) = language {
            self.check_language(language)?;
        }
        if let Some(name) =
            self.asks_for_outlet(wanted.change.settings.as_ref().unwrap_or(&card.settings))
        {
            if let Err(why) = &self.outlet {
                let detail =
                    format!("The card has the setting `{name}`, which cannot be had: {why}");
                return Err(Problem::conflict("outlet_unavailable", detail));
            }
            wanted.request.outlet = true;
        }
        let id = Uuid::new_v4();
        // First of all, so that without room nothing is saved and nothing is promised.
        let writer = self.logs.create(id).await.map_err(log_problem)?;
        let saving = SaveAndRun {
            user_id: wanted.user_id,
            book_id: wanted.book_id,
            card_id: wanted.card_id,
            change: wanted.change,
            save: wanted.save,
            version: wanted.version,
            run: NewRun {
                id,
                server: self.server.clone(),
                batch_id: wanted.batch_id,
                request: serde_json::to_value(&wanted.request).map_err(Problem::internal)?,
                sandbox: self.held_by.clone(),
            },
            key: wanted.key,
            on_busy: wanted.on_busy,
            max_unfinished: self.max_unfinished,
            max_queued: self.max_queued,
        };
        let mut saved = self.store.save_and_run(&saving, Moment::now()).await;
        // A client can see a run's end in its log a moment before the database has it.
        if let Err(SaveAndRunError::Busy(busy)) = &saved
            && let Ok(Some(ended)) = self.logs.ended(*busy).await
        {
            self.settle_ended(&ended).await;
            saved = self.store.save_and_run(&saving, Moment::now()).await;
        }
        let started = match saved {
            Ok(started) if !started.repeated => started,
            other => {
                if let Err(error) = self.logs.discard(writer).await {
                    warn!(run = %id, %error, "a log without a run is left to be tended");
                }
                return other.map(|started| (started.run, true)).map_err(refusal);
            }
        };
        for replaced in started.replaced {
            self.store.request_cancel(replaced).await?;
            self.cancel_anywhere(replaced).await?;
        }
        let run = started.run;
        let news = News::Run { owner: run.owner_id, run: run.id };
        self.publish(run.id, Arc::clone(writer.log()));
        lock(&self.state).waiting.push_back(Waiting { run: run.clone(), writer, feeder });
        if self.stopping.load(Ordering::Relaxed) {
            self.abandon().await;
        }
        // An error means that nobody listens.
        let _ = self.news.send(news);
        self.dispatch();
        if let Some(elsewhere) = &self.elsewhere {
            elsewhere.tell(&run).await;
        }
        Ok((run, false))
    }

    /// Cancels a run to make room for another.
    async fn cancel_anywhere(self: &Arc<Self>, run: Uuid) -> Result<(), Problem> {
        let (signal, grace) = (Signal::Interrupt, Span::from_secs(2));
        if self.cancel(run, signal, grace) == Answer::Closed
            && let Some(elsewhere) = &self.elsewhere
            && let Some(row) = self.store.run(run).await?
            && row.server != self.server
            && let Err(error) = elsewhere.cancel(&row, signal, grace).await
        {
            // It finds in the database that it is to end.
            warn!(%run, %error, "another server is not told to cancel a run");
        }
        Ok(())
    }

    /// Ends the runs that wait, because their turn will not come.
    async fn abandon(&self) {
        let waiting = std::mem::take(&mut lock(&self.state).waiting);
        for Waiting { run, writer, .. } in waiting {
            let exit = Exit::without_program(Reason::ServerRestart);
            let outcome = runner::finish(writer, exit, false).await;
            self.settle(run.id, &outcome).await;
        }
    }

    /// The setting by which a card asks for the outlet, if it does.
    fn asks_for_outlet(&self, settings: &Map<String, Value>) -> Option<&'static str> {
        let name = self.outlet.as_ref().map_or("axon", Outlet::name);
        (settings.get(name) == Some(&Value::Bool(true))).then_some(name)
    }

    fn check_language(&self, id: &str) -> Result<(), Problem> {
        let Some(language) = self.languages.get(id) else {
            let known: Vec<_> = self.languages.all().map(|language| &*language.id).collect();
            let detail = format!("No language `{id}`; there are: {}", known.join(", "));
            return Err(Problem::bad_request("language_unknown", detail));
        };
        if language.available {
            return Ok(());
        }
        let reason = language.reason.as_deref().unwrap_or("not found");
        let detail = format!("{} cannot be run here: {reason}", language.name);
        Err(Problem::unavailable("language_unavailable", detail))
    }

    /// Starts as many runs as there is room for: first those of whoever has
    /// the fewest, then those that came first.
    fn dispatch(self: &Arc<Self>) {
        loop {
            let Waiting { run, writer, feeder } = {
                let mut state = lock(&self.state);
                let stopping = self.stopping.load(Ordering::Relaxed);
                if stopping || state.active.len() >= self.max_running {
                    return;
                }
                let mut of_owner: HashMap<Uuid, usize> = HashMap::new();
                for active in state.active.values() {
                    *of_owner.entry(active.owner).or_default() += 1;
                }
                let running =
                    |waiting: &Waiting| of_owner.get(&waiting.run.owner_id).copied().unwrap_or(0);
                let next = (0..state.waiting.len()).min_by_key(|at| running(&state.waiting[*at]));
                let Some(waiting) = next.and_then(|at| state.waiting.remove(at)) else { return };
                let owner = waiting.run.owner_id;
                let log = Arc::clone(waiting.writer.log());
                let active = Active {
                    owner,
                    log,
                    handle: None,
                    cancel: None,
                    input_closed: false,
                    stopping: Arc::default(),
                };
                state.active.insert(waiting.run.id, active);
                waiting
            };
            tokio::spawn(Arc::clone(self).run(run, writer, feeder));
        }
    }

    async fn run(
        self: Arc<Self>,
        run: Run,
        writer: LogWriter,
        feeder: Option<oneshot::Sender<Handle>>,
    ) {
        let begun = self.store.begin_run(run.id, Moment::now()).await;
        let outcome = match begun {
            Ok(true) => match self.job(&run) {
                Ok(job) => {
                    self.logs.counters().started();
                    let registered = Arc::clone(&self);
                    let id = run.id;
                    let closed = job.stdin.is_some() || feeder.is_some();
                    runner::run(job, writer, move |handle| {
                        registered.register(id, handle.clone(), closed);
                        if feeder.is_some_and(|feeder| feeder.send(handle).is_err()) {
                            registered.cancel(id, Signal::Kill, Span::from_millis(0));
                        }
                    })
                    .await
                }
                Err(reason) => {
                    let exit = Exit::without_program(reason);
                    runner::finish(writer, exit, false).await
                }
            },
            begun => {
                if let Err(error) = begun {
                    error!(run = %run.id, %error, "a run cannot be noted as begun");
                }
                let exit = Exit::without_program(Reason::StartFailed);
                runner::finish(writer, exit, false).await
            }
        };
        self.settle(run.id, &outcome).await;
        lock(&self.state).leave(run.id);
        self.left.notify_waiters();
        self.dispatch();
    }

    fn register(&self, run: Uuid, handle: Handle, input_closed: bool) {
        let mut state = lock(&self.state);
        let Some(active) = state.active.get_mut(&run) else { return };
        if let Some((signal, grace)) = active.cancel {
            handle.control.cancel_by(signal, grace);
        }
        active.handle = Some(handle);
        active.input_closed = input_closed;
    }

    fn job(&self, run: &Run) -> Result<Job, Reason> {
        let language = self.languages.get(&run.language).ok_or(Reason::StartFailed)?;
        let request: RunRequest =
            serde_json::from_value(run.request.clone()).map_err(|_| Reason::StartFailed)?;
        if run.code.len() as u64 > self.max_code {
            return Err(Reason::StartFailed);
        }
        let file = format!("main.{}", language.extension);
        let command = language.command_for(&file, &request.args);
        let sandbox = *self.sandbox.as_ref().map_err(|_| Reason::StartFailed)?;
        let mut spec = ProgramSpec::new(command, self.work.join(run.id.to_string()), sandbox);
        spec.environment.clone_from(&language.environment);
        let outlet = match &self.outlet {
            Ok(outlet) if request.outlet => {
                Some((outlet.clone(), self.work.join(format!("{}.outlet", run.id))))
            }
            // Refused when it was started, if it was asked for.
            _ => None,
        };
        spec.environment.extend(request.env);
        spec.read_only.clone_from(&language.read_only);
        spec.terminal = request.terminal;
        let least = |own: Option<u64>, most: u64| own.unwrap_or(most).clamp(1, most);
        let most = &self.limits;
        let span =
            |own, most: Span| Span::from_millis(least(own, most.duration().as_millis() as u64));
        let size = |own, most: schwann_process::ByteSize| {
            schwann_process::ByteSize::new(least(own, most.bytes()))
        };
        spec.limits = Limits {
            wall: span(request.wall_ms, most.wall),
            cpu: span(request.cpu_ms, most.cpu),
            memory: size(request.memory_bytes, most.memory),
            output: size(request.output_bytes, most.output),
            ..*most
        };
        Ok(Job {
            outlet,
            start: Start {
                run_id: run.id,
                card_id: run.card_id,
                language: run.language.clone(),
                sandbox: run.sandbox.clone(),
            },
            spec,
            file: (file, run.code.clone()),
            stdin: request.stdin.map(Bytes::from),
            stopping: lock(&self.state)
                .active
                .get(&run.id)
                .map(|active| Arc::clone(&active.stopping))
                .unwrap_or_default(),
        })
    }

    /// Asks a run of this server to end. [`Answer::Closed`] if there is none.
    pub(crate) fn cancel(self: &Arc<Self>, run: Uuid, signal: Signal, grace: Span) -> Answer {
        let waiting = {
            let mut state = lock(&self.state);
            if let Some(active) = state.active.get_mut(&run) {
                active.cancel = Some((signal, grace));
                if let Some(handle) = &active.handle {
                    handle.control.cancel_by(signal, grace);
                }
                return Answer::Done;
            }
            let at = state.waiting.iter().position(|waiting| waiting.run.id == run);
            at.and_then(|at| state.waiting.remove(at))
        };
        let Some(Waiting { run, writer, .. }) = waiting else { return Answer::Closed };
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            let exit = Exit::without_program(Reason::Cancelled);
            let outcome = runner::finish(writer, exit, false).await;
            inner.settle(run.id, &outcome).await;
        });
        Answer::Done
    }

    pub(crate) async fn send_input(&self, run: Uuid, bytes: Bytes, close: bool) -> Sent {
        let input = {
            let mut state = lock(&self.state);
            let waits = state.waiting.iter().any(|waiting| waiting.run.id == run);
            match state.active.get_mut(&run) {
                None if waits => return Sent::NotYet,
                Some(Active { handle: None, .. }) => return Sent::NotYet,
                None | Some(Active { input_closed: true, .. }) => return Sent::Closed,
                Some(Active { handle: Some(handle), input_closed, .. }) => {
                    *input_closed = close;
                    handle.input.clone()
                }
            }
        };
        if !bytes.is_empty() && input.write(bytes).await.is_err() {
            return Sent::Closed;
        }
        if close {
            input.close().await;
        }
        Sent::Taken
    }

    pub(crate) fn resize(&self, run: Uuid, size: TerminalSize) -> bool {
        let state = lock(&self.state);
        let handle = state.active.get(&run).and_then(|active| active.handle.as_ref());
        handle.is_some_and(|handle| {
            handle.control.resize(size);
            true
        })
    }

    /// Notes how a run ended, now or as soon as the database takes it. One
    /// whose log could not take it is noted when that was mended.
    async fn settle(&self, run: Uuid, outcome: &Outcome) {
        let Some(last_seq) = outcome.last_seq else { return };
        let end = run_end(&outcome.exit, last_seq, outcome.truncated);
        if let Err(error) = self.note_end(run, &end).await {
            error!(%run, %error, "the end of a run cannot be noted yet");
            lock(&self.state).unsettled.push((run, end));
        } else if let Some(elsewhere) = &self.elsewhere {
            elsewhere.noted(run);
        }
    }

    pub(crate) async fn note_end(&self, run: Uuid, end: &RunEnd) -> Result<(), StoreError> {
        // One that was noted before is not counted again.
        if self.store.finish_run(run, end, Moment::now()).await? {
            self.logs.counters().ended(end.reason);
        }
        Ok(())
    }

    async fn settle_recovered(self: &Arc<Self>, recovered: Vec<Recovered>) {
        for ended in recovered {
            self.settle_ended(&ended).await;
            self.publish_ended(ended.run).await;
        }
    }

    async fn settle_ended(&self, ended: &Recovered) {
        let truncated = ended.exit.reason == Reason::OutputLimit;
        let exit = ended.exit.clone();
        let outcome = Outcome { exit, last_seq: Some(ended.last_seq), truncated };
        self.settle(ended.run, &outcome).await;
    }

    async fn tend(self: &Arc<Self>) {
        let unsettled = std::mem::take(&mut lock(&self.state).unsettled);
        for (run, end) in unsettled {
            if let Err(error) = self.note_end(run, &end).await {
                warn!(%run, %error, "the end of a run cannot be noted yet");
                lock(&self.state).unsettled.push((run, end));
            }
        }
        match self.logs.tend().await {
            Ok(tended) => self.settle_recovered(tended.recovered).await,
            Err(error) => warn!(%error, "the logs of runs cannot be tended"),
        }
        if let Err(error) = self.expire().await {
            warn!(%error, "old runs cannot be forgotten");
        }
    }

    async fn expire(self: &Arc<Self>) -> Result<(), StoreError> {
        let before = Moment::now().before(self.keep);
        for (run, server) in self.store.expired_runs(before, self.keep_per_card, 1000).await? {
            if self.store.delete_run(run).await?
                && let Err(error) = self.remove(run, &server).await
            {
                warn!(%run, %error, "the output of a forgotten run is left behind");
            }
        }
        self.store.forget_keys(Moment::now().before(KEYS)).await?;
        // Asked for through another server that shares the database.
        for run in self.store.unfinished_runs(Some(&self.server)).await? {
            if run.cancel_requested && self.is_left_alone(run.id) {
                self.cancel(run.id, Signal::Interrupt, Span::from_secs(2));
            }
        }
        Ok(())
    }

    /// Whether a run waits or runs here and nothing was done yet to end it.
    fn is_left_alone(&self, run: Uuid) -> bool {
        let state = lock(&self.state);
        let active = state.active.get(&run).is_some_and(|active| active.cancel.is_none());
        active || state.waiting.iter().any(|waiting| waiting.run.id == run)
    }
}

/// The sandbox that programs get, and its name; found by really using it.
async fn held(asked: Sandbox) -> (Result<Sandbox, String>, String) {
    if asked == Sandbox::None {
        warn!(
            "programs run without a sandbox, as the settings say: they can do what the server can"
        );
        return (Ok(asked), asked.to_string());
    }
    let report = Sandboxes::probe().await;
    let found = report.resolve(asked);
    match &found {
        Ok(sandbox) => {
            info!(%sandbox, %report, "programs run in a sandbox");
            let cgroups = if report.has_cgroups() { "+cgroups" } else { "" };
            let name = format!("{sandbox}{cgroups}");
            (found, name)
        }
        Err(missing) => {
            error!(%asked, missing, "no program will be run: there is no sandbox");
            (found, asked.to_string())
        }
    }
}

/// As a stream says whose event it is.
pub(crate) fn of(run: &Run) -> Of {
    Of { run_id: run.id, card_id: run.card_id }
}

pub(crate) fn run_end(exit: &Exit, last_seq: u64, truncated: bool) -> RunEnd {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    RunEnd {
        reason: exit.reason.as_str(),
        exit_code: exit.code.map(i64::from),
        signal: exit.signal.map(i64::from),
        elapsed_ms: Some(number(exit.elapsed_ms)),
        cpu_ms: Some(number(exit.cpu_ms)),
        max_rss_bytes: Some(number(exit.max_rss_bytes)),
        stdout_bytes: number(exit.stdout_bytes),
        stderr_bytes: number(exit.stderr_bytes),
        truncated,
        last_seq: number(last_seq),
    }
}

/// What a client is told where a log cannot be written or read.
pub(crate) fn log_problem(error: LogError) -> Problem {
    match error {
        LogError::NoSpace(_) => Problem::storage_full().because(error),
        LogError::Gone => {
            let detail = "The output of this run is not kept any more";
            Problem::new(StatusCode::GONE, "output_expired", detail)
        }
        LogError::Unreachable(source) => {
            let detail = "The server that has this run does not answer";
            let problem = Problem::unavailable("owner_unreachable", detail).retry_after(2);
            match source {
                Some(source) => problem.because(source),
                None => problem,
            }
        }
        LogError::Disk(_) | LogError::Failed | LogError::Damaged(_) | LogError::InUse(_) => {
            Problem::unavailable("storage_failed", "The output of runs cannot be kept now")
                .retry_after(5)
                .because(error)
        }
    }
}

fn refusal(error: SaveAndRunError) -> Problem {
    let detail = error.to_string();
    match error {
        SaveAndRunError::NotFound => Problem::not_found("Card"),
        SaveAndRunError::NotCode => Problem::bad_request("not_code", "Text cannot be run"),
        SaveAndRunError::OtherVersion(version) => Problem::new(
            StatusCode::PRECONDITION_FAILED,
            "version",
            format!("The card was changed meanwhile; it is at version {version}"),
        ),
        SaveAndRunError::Busy(run) => Problem::conflict(
            "card_running",
            format!("The card is running already, as {run}; `on_busy` may be `queue` or `replace`"),
        ),
        SaveAndRunError::KeyReused => Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "key_reused",
            "This Idempotency-Key was used for another request",
        ),
        SaveAndRunError::Quota => Problem::too_many("quota", detail, 5),
        SaveAndRunError::QueueFull => Problem::too_many("queue_full", detail, 5),
        SaveAndRunError::Store(error) => error.into(),
    }
}

/// The name under which this folder's server is known, made the first time.
fn server_id(data: &Path) -> io::Result<String> {
    let path = data.join("server-id");
    match fs::read_to_string(&path) {
        Ok(id) if !id.trim().is_empty() => return Ok(id.trim().to_owned()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let id = Uuid::new_v4().to_string();
    let new = path.with_extension("new");
    fs::write(&new, &id)?;
    fs::rename(new, path)?;
    Ok(id)
}

impl RunStatus {
    /// Whether nothing more will happen.
    pub(crate) fn is_finished(self) -> bool {
        self == Self::Finished
    }
}

impl fmt::Debug for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runs").field("server", &self.0.server).finish_non_exhaustive()
    }
}
