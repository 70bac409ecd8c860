//! Who may start a run: a card is saved and its run accepted, both or neither.

use std::sync::{Arc, atomic::Ordering};

use http::StatusCode;
use schwann_process::{Signal, Span};
use serde_json::{Map, Value};
use tokio::sync::oneshot;
use tracing::warn;
use uuid::Uuid;

use super::{Inner, News, RunRequest, Runs, lock, log_problem, queue::Waiting};
use crate::{
    exchange::Answer,
    moment::Moment,
    outlet::Outlet,
    problem::Problem,
    runner::Handle,
    store::{CardChange, KeyUse, NewRun, OnBusy, Run, SaveAndRun, SaveAndRunError},
};

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

impl Runs {
    /// Saves a card and accepts a run of it, both or neither. Done to its end
    /// even if the future is dropped.
    pub(crate) async fn start(&self, wanted: Wanted) -> Result<(Run, bool), Problem> {
        let inner = Arc::clone(&self.0);
        let started = tokio::spawn(async move { inner.start(wanted, None).await });
        let started = started.await.map_err(Problem::internal)?;
        started.inspect_err(|problem| self.counters().refused(problem.code()))
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
}

impl Inner {
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
            && self.has_ended(*busy).await
        {
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

    /// Whether a run's log has ended, here or on another server; then the database has that by now.
    async fn has_ended(&self, run: Uuid) -> bool {
        if self.settle_if_ended(run).await {
            return true;
        }
        let Some(elsewhere) = &self.elsewhere else { return false };
        match self.store.run(run).await {
            Ok(Some(row)) if row.server != self.server => elsewhere.has_ended(&row).await,
            _ => false,
        }
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
