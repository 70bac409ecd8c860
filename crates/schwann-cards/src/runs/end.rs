//! How the ends of runs are noted, what becomes of runs when a server is lost or stops, and what is kept too long.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use schwann_process::{Signal, Span};
use tracing::{error, info, warn};
use uuid::Uuid;

use super::{Inner, Runs, lock, queue::Waiting};
use crate::{
    moment::Moment,
    record::{Exit, Reason},
    run_log::Recovered,
    runner::{self, Outcome},
    store::{RunEnd, StoreError},
};

impl Runs {
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
    pub(super) async fn recover(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
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
}

impl Inner {
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

    /// Ends the runs that wait, because their turn will not come.
    pub(super) async fn abandon(&self) {
        let waiting = std::mem::take(&mut lock(&self.state).waiting);
        for Waiting { run, writer, .. } in waiting {
            let exit = Exit::without_program(Reason::ServerRestart);
            let outcome = runner::finish(writer, exit, false).await;
            self.settle(run.id, &outcome).await;
        }
    }

    /// Notes how a run ended, now or as soon as the database takes it. One
    /// whose log could not take it is noted when that was mended.
    pub(super) async fn settle(&self, run: Uuid, outcome: &Outcome) {
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

    /// Notes the end of a run whose log has it, and the database perhaps not yet. False if there is none here.
    pub(crate) async fn settle_if_ended(&self, run: Uuid) -> bool {
        let Ok(Some(ended)) = self.logs.ended(run).await else { return false };
        self.settle_ended(&ended).await;
        true
    }

    /// Whether a run has not left its place here yet, so that its end need not be noted.
    pub(crate) fn is_under_way(&self, run: Uuid) -> bool {
        lock(&self.state).active.contains_key(&run)
    }

    async fn settle_ended(&self, ended: &Recovered) {
        let truncated = ended.exit.reason == Reason::OutputLimit;
        let exit = ended.exit.clone();
        let outcome = Outcome { exit, last_seq: Some(ended.last_seq), truncated };
        self.settle(ended.run, &outcome).await;
    }

    pub(super) async fn tend(self: &Arc<Self>) {
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
        self.store.forget_keys(Moment::now()).await?;
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
