//! All runs of this server: what they share, how it is opened, and what is new.
//! Runs of other servers are reached through [`Elsewhere`].

mod end;
mod job;
mod queue;
mod reach;
mod start;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use schwann_process::{Limits, Sandbox, Sandboxes, remove_run_folder};
use tokio::sync::{Notify, broadcast};
use tracing::{error, info, warn};
use uuid::Uuid;

use self::queue::State;
pub(crate) use self::{
    end::run_end,
    job::RunRequest,
    reach::{Sent, log_problem},
    start::Wanted,
};
use crate::{
    elsewhere::Elsewhere,
    exchange::Exchange,
    language::Languages,
    live::Live,
    metrics::Counters,
    outlet::Outlet,
    problem::Problem,
    record::Of,
    run_log::{LogError, Retention, RunLogs, folder_in},
    settings::CardsSettings,
    store::{Run, Store},
};

/// Between two looks at what was lost, what is owed and what is kept too long.
const TENDING: Duration = Duration::from_secs(5);
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
                _ => fs::create_dir_all(made.join(job::EMPTY))?,
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
        let (sandbox, held_by) = held(settings).await;
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

    pub(crate) fn counters(&self) -> &Counters {
        self.0.logs.counters()
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

    async fn ready(&self) -> Result<(), Problem> {
        let Some(elsewhere) = &self.elsewhere else { return Ok(()) };
        elsewhere.ready().await.map_err(|error| {
            let detail = "Redis does not answer, so other servers would not see a run";
            Problem::unavailable("live_logs_unavailable", detail).retry_after(2).because(error)
        })
    }
}

/// The sandbox that programs get, and its name; found by really using it.
async fn held(settings: &CardsSettings) -> (Result<Sandbox, String>, String) {
    let asked = settings.sandbox.unwrap_or(match settings.is_private() {
        true => Sandbox::Auto,
        // Strangers' programs, which landlock is too weak for unless somebody says so.
        false => Sandbox::Bubblewrap,
    });
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
            let why = match settings.sandbox {
                None if asked == Sandbox::Bubblewrap => format!(
                    "{missing}; others can reach this server, so that it takes another sandbox only if `[cards] sandbox` names it"
                ),
                _ => missing.clone(),
            };
            (Err(why), asked.to_string())
        }
    }
}

/// As a stream says whose event it is.
pub(crate) fn of(run: &Run) -> Of {
    Of { run_id: run.id, card_id: run.card_id }
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

impl fmt::Debug for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runs").field("server", &self.0.server).finish_non_exhaustive()
    }
}
