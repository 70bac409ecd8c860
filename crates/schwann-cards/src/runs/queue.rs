//! Whose turn it is: the runs that wait, those that run, and what takes one from the first to the second.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use schwann_process::{Signal, Span};
use tokio::sync::oneshot;
use tracing::error;
use uuid::Uuid;

use super::{Inner, Runs, lock};
use crate::{
    moment::Moment,
    record::{Exit, Reason},
    run_log::{LogWriter, RunLog},
    runner::{self, Handle},
    store::{Run, RunEnd},
};

#[derive(Default)]
pub(super) struct State {
    /// In the order in which they came.
    pub(super) waiting: VecDeque<Waiting>,
    pub(super) active: HashMap<Uuid, Active>,
    /// The last that have left `active`, and the ids of their last records.
    pub(super) left: VecDeque<(Uuid, u64)>,
    /// Ends that the database could not take yet.
    pub(super) unsettled: Vec<(Uuid, RunEnd)>,
}

pub(super) struct Waiting {
    pub(super) run: Run,
    pub(super) writer: LogWriter,
    /// Who gives it its input, if that is not for anybody else.
    pub(super) feeder: Option<oneshot::Sender<Handle>>,
}

pub(super) struct Active {
    pub(super) owner: Uuid,
    pub(super) log: Arc<RunLog>,
    /// None while its program is being started.
    pub(super) handle: Option<Handle>,
    /// What its program is told, at once or as soon as it has started.
    pub(super) cancel: Option<(Signal, Span)>,
    pub(super) input_closed: bool,
    /// Set if it ends because this server does.
    pub(super) stopping: Arc<AtomicBool>,
}

impl Runs {
    /// How many runs run now, and how many wait.
    pub(crate) fn load(&self) -> (usize, usize) {
        let state = lock(&self.0.state);
        (state.active.len(), state.waiting.len())
    }

    /// How many runs will have their turn before this one, if it waits.
    pub(crate) fn position(&self, run: Uuid) -> Option<usize> {
        lock(&self.0.state).waiting.iter().position(|waiting| waiting.run.id == run)
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
    /// Starts as many runs as there is room for: first those of whoever has
    /// the fewest, then those that came first.
    pub(super) fn dispatch(self: &Arc<Self>) {
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
}
