//! How a run is reached, here or on the server that has it: read, cancelled, fed, resized, deleted.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use http::StatusCode;
use schwann_process::{Signal, Span, TerminalSize};
use uuid::Uuid;

use super::{
    Inner, Runs, lock,
    queue::{Active, Waiting},
};
use crate::{
    elsewhere::Elsewhere,
    exchange::Answer,
    problem::Problem,
    reader::Reader,
    record::{Exit, Reason},
    run_log::{LogError, TailState},
    runner,
    store::{Run, RunStatus, StoreError},
};

/// What came of sending to a run's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Taken,
    /// The run has ended, does not read any more, or its input was closed.
    Closed,
    /// It waits for its turn.
    NotYet,
}

/// What is known of a run that is not finished beside its row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// How many runs came before it and wait as it does, if it waits.
    pub(crate) position: Option<usize>,
    /// Id of its last record so far, if that can be found out.
    pub(crate) last_seq: Option<u64>,
}

impl Runs {
    /// How these runs stand, those that are finished left out: each by its id, its server and how it is by its row.
    pub(crate) async fn standings(
        &self,
        runs: Vec<(Uuid, String, RunStatus)>,
    ) -> Result<HashMap<Uuid, Standing>, StoreError> {
        let mut all = HashMap::new();
        let (mut waiting, mut running) = (HashSet::new(), Vec::new());
        for (id, server, status) in runs {
            let is_elsewhere = self.0.elsewhere.is_some() && server != self.0.server;
            match status {
                RunStatus::Finished => continue,
                RunStatus::Queued if is_elsewhere => drop(waiting.insert(server)),
                RunStatus::Running if is_elsewhere => running.push((id, server)),
                RunStatus::Queued | RunStatus::Running => {
                    let position = self.position(id).filter(|_| status == RunStatus::Queued);
                    let last_seq = self.last_seq(id);
                    all.insert(id, Standing { position, last_seq });
                    continue;
                }
            }
            // Before it runs it has no record.
            let last_seq = (status == RunStatus::Queued).then_some(0);
            all.insert(id, Standing { position: None, last_seq });
        }
        for server in waiting {
            let line = self.0.store.waiting_runs(&server).await?;
            for (position, id) in line.into_iter().enumerate() {
                if let Some(standing) = all.get_mut(&id) {
                    standing.position = Some(position);
                }
            }
        }
        if let Some(elsewhere) = self.0.elsewhere.as_ref().filter(|_| !running.is_empty()) {
            for (id, seq) in elsewhere.how_far(running).await {
                if let Some(standing) = all.get_mut(&id) {
                    standing.last_seq = Some(seq);
                }
            }
        }
        Ok(all)
    }

    /// Id of the last record that readers of this run can have by now, if it is written here.
    fn last_seq(&self, run: Uuid) -> Option<u64> {
        let state = lock(&self.0.state);
        let waiting = || state.waiting.iter().find(|waiting| waiting.run.id == run);
        let written = state.active.get(&run).map(|active| &active.log);
        match written.or_else(|| waiting().map(|waiting| waiting.writer.log())) {
            Some(log) => Some(log.last_seq()),
            // Between two looks of whoever asks, at the row and here, it may have ended.
            None => state.left.iter().find(|(left, _)| *left == run).map(|(_, seq)| *seq),
        }
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

    /// Kills a run at once, because nobody waits for it any more.
    pub(crate) fn abandon(&self, run: Uuid) {
        self.0.cancel(run, Signal::Kill, Span::from_millis(0));
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

impl Inner {
    /// The other servers, if one of them has the run.
    fn of_another(&self, run: &Run) -> Option<&Elsewhere> {
        self.elsewhere.as_ref().filter(|_| run.server != self.server)
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

    /// Removes the output of a run that is forgotten, here or where it is.
    pub(super) async fn remove(&self, run: Uuid, server: &str) -> Result<(), LogError> {
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
