//! One stream for all runs of a user: a browser has six connections to a
//! server, and a stream for each run would use them up.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    pin::Pin,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, FuturesUnordered},
};
use http::HeaderMap;
use serde_json::Value;
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::Instant,
};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::run_shapes::RunEvent;
use crate::{
    app::App,
    framing::{Framing, HEARTBEAT, PIECE},
    input::{Complaint, Fields, Input, Read, text},
    moment::Moment,
    problem::{Fault, Problem, Step},
    reader::Reader,
    record::Of,
    run_log::LogError,
    runs::{News, log_problem, of},
    signed_in::SignedIn,
    store::{Run, RunFilter, StoreError},
};

/// How far back a cursor looks for runs that were accepted just before it was made.
const MARGIN: Duration = Duration::from_secs(30);
/// Runs that a stream looks at when it begins.
const MOST: i64 = 1000;

/// How far a client has come: a time, and the runs after it with the last
/// record of each that the client has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Position {
    since: i64,
    runs: BTreeMap<Uuid, u64>,
}

#[derive(Debug)]
pub(crate) struct Which {
    after: Option<Position>,
    runs: Option<BTreeSet<Uuid>>,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.since)?;
        self.runs.iter().try_for_each(|(run, seq)| write!(f, ".{}:{seq}", run.simple()))
    }
}

impl FromStr for Position {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('.');
        let since = parts.next().and_then(|since| since.parse().ok()).ok_or(())?;
        let mut runs = BTreeMap::new();
        for part in parts {
            let (run, seq) = part.split_once(':').ok_or(())?;
            runs.insert(Uuid::parse_str(run).map_err(drop)?, seq.parse().map_err(drop)?);
        }
        if runs.len() as i64 > MOST { Err(()) } else { Ok(Self { since, runs }) }
    }
}

impl Read for Which {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let after = fields.optional("after", |value| {
            let text = text(1, 64 * 1024)(value)?;
            text.parse::<Position>().map_err(|()| not_a_cursor())
        });
        let runs = fields.optional("runs", |value: &Value| {
            let text = text(0, 64 * 1024)(value)?;
            let runs = text.split(',').filter(|text| !text.is_empty()).map(Uuid::parse_str);
            runs.collect::<Result<BTreeSet<_>, _>>()
                .map_err(|error| Complaint::new("uuid_parsing", error.to_string()))
        });
        Some(Self { after: after?, runs: runs? })
    }
}

fn not_a_cursor() -> Complaint {
    Complaint::value("a cursor is the id of an event of this stream")
}

/// The route of the events.
pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(read_events))
}

/// All that the user's runs print, in one stream: of the runs that are not finished, from their first record on, and of those that
/// are accepted later.
///
/// Each event says of which run and card it is. The id of an event is a cursor: with it, as `Last-Event-ID` or `after`, a later
/// stream gives what this one had not given, finished runs included.
#[utoipa::path(
    get,
    path = "/events",
    tag = "runs",
    operation_id = "runs-read_events",
    params(
        ("after" = Option<String>, Query, description = "The id of an event."),
        ("runs" = Option<String>, Query, description = "Ids of runs, with commas between: only these."),
        ("Last-Event-ID" = Option<String>, Header),
    ),
    responses((status = 200, description = "The records as events.", content((RunEvent = "text/event-stream"))))
)]
pub(crate) async fn read_events(
    State(app): State<Arc<App>>,
    signed_in: SignedIn,
    headers: HeaderMap,
    Input { query, .. }: Input<(), Which>,
) -> Result<Response, Problem> {
    let position = match headers.get("last-event-id").filter(|value| !value.is_empty()) {
        Some(value) => {
            let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
            let position = text.parse().map_err(|()| {
                Problem::faults(vec![Fault {
                    kind: "value_error",
                    loc: vec![
                        Step::Name("header".to_owned()),
                        Step::Name("Last-Event-ID".to_owned()),
                    ],
                    msg: "Value error, a cursor is the id of an event of this stream".to_owned(),
                    input: text.into(),
                    ctx: None,
                }])
            })?;
            Some(position)
        }
        None => query.after,
    };
    let tab = Tab::open(app, signed_in.user.id, position, query.runs).await?;
    let body = stream::try_unfold(tab, |mut tab| async move {
        let piece = tab.piece().await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(Some((piece, tab)))
    });
    Ok((Framing::Events.headers(), Body::from_stream(body)).into_response())
}

/// Why a stream cannot have all that belongs to it.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Log(#[from] LogError),
}

impl From<LookError> for Problem {
    fn from(error: LookError) -> Self {
        match error {
            LookError::Store(error) => error.into(),
            LookError::Log(error) => log_problem(error),
        }
    }
}

/// One run in the stream.
struct Watched {
    of: Of,
    reader: Reader,
}

/// A run that has something new, or has ended.
type Turn = Pin<Box<dyn Future<Output = (Watched, Result<Piece, LogError>)> + Send>>;

/// Some events of a run, without ids, and how far they reach.
struct Piece {
    text: Vec<u8>,
    seq: u64,
    ended: bool,
}

/// The stream of one client.
struct Tab {
    app: Arc<App>,
    user: Uuid,
    only: Option<BTreeSet<Uuid>>,
    news: broadcast::Receiver<News>,
    turns: FuturesUnordered<Turn>,
    position: Position,
    /// When runs ended that a cursor still has to name.
    ended: Vec<(Instant, Uuid)>,
    /// What was accepted before, and had ended, is not in the stream.
    began: i64,
    opening: Bytes,
    last: Instant,
}

impl Tab {
    async fn open(
        app: Arc<App>,
        user: Uuid,
        position: Option<Position>,
        only: Option<BTreeSet<Uuid>>,
    ) -> Result<Self, Problem> {
        // Before the look at the database, so that no run falls between the two.
        let news = app.runs.news();
        let mut tab = Self {
            app,
            user,
            only,
            news,
            turns: FuturesUnordered::new(),
            position: Position::default(),
            ended: Vec::new(),
            began: Moment::now().before(MARGIN).millis(),
            opening: Framing::Events.opening(false),
            last: Instant::now(),
        };
        tab.look(position.as_ref()).await?;
        Ok(tab)
    }

    /// Adds the runs that belong to the stream and are not in it.
    async fn look(&mut self, position: Option<&Position>) -> Result<(), LookError> {
        let filter = RunFilter { limit: MOST, ..RunFilter::default() };
        // What was run, and with which input, is not asked for here.
        let light = |run| Run { request: Value::Null, ..run };
        let (runs, _) = self.app.store.runs(self.user, &filter, light).await?;
        for run in runs.iter().rev() {
            let known = position.and_then(|position| position.runs.get(&run.id));
            let since = position
                .is_some_and(|position| run.queued_at >= Moment::from_millis(position.since));
            if known.is_some() || since || !run.status.is_finished() {
                self.watch(run, known.copied().unwrap_or(0)).await?;
            }
        }
        Ok(())
    }

    async fn watch(&mut self, run: &Run, after: u64) -> Result<(), LogError> {
        let wanted = self.only.as_ref().is_none_or(|only| only.contains(&run.id));
        if !wanted || run.owner_id != self.user || self.position.runs.contains_key(&run.id) {
            return Ok(());
        }
        match self.app.runs.read(run, after, true).await {
            Ok(reader) => {
                self.position.runs.insert(run.id, after);
                self.turns.push(turn(Watched { of: of(run), reader }));
            }
            // Without it the stream would look as if nothing happened there.
            Err(error @ LogError::Unreachable(_)) if !run.status.is_finished() => {
                return Err(error);
            }
            // What is not kept is not in the stream.
            Err(error) => tracing::debug!(run = %run.id, %error, "not in the stream of events"),
        }
        Ok(())
    }

    /// The next piece of the body. It has no end.
    async fn piece(&mut self) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
        if !self.opening.is_empty() {
            return Ok(std::mem::take(&mut self.opening));
        }
        loop {
            tokio::select! {
                news = self.news.recv() => match news {
                    Ok(News::Run { owner, run }) if owner == self.user => {
                        if let Some(run) = self.app.store.run(run).await? {
                            self.watch(&run, 0).await?;
                        }
                    }
                    Ok(News::Run { .. }) => {}
                    Ok(News::LookAgain) | Err(RecvError::Lagged(_)) => {
                        // Runs that came and ended meanwhile, too.
                        let since = self.position.since.max(self.began);
                        self.look(Some(&Position { since, ..Position::default() })).await?;
                    }
                    Err(RecvError::Closed) => return Err("the server stops".into()),
                },
                Some((watched, piece)) = self.turns.next(), if !self.turns.is_empty() => {
                    let piece = match piece {
                        Ok(piece) => piece,
                        // Its end is missing, so the stream must not look as if all were well:
                        // the client asks again, and has the end as soon as there is one.
                        Err(error) => return Err(error.into()),
                    };
                    if let Some(bytes) = self.given(watched, piece) {
                        self.last = Instant::now();
                        return Ok(bytes);
                    }
                }
                () = tokio::time::sleep_until(self.last + HEARTBEAT) => {
                    self.last = Instant::now();
                    return Ok(Bytes::from_static(Framing::Events.heartbeat()));
                }
            }
        }
    }

    fn given(&mut self, watched: Watched, piece: Piece) -> Option<Bytes> {
        let run = watched.of.run_id;
        self.position.runs.insert(run, piece.seq);
        if piece.ended {
            self.ended.push((Instant::now(), run));
        } else {
            self.turns.push(turn(watched));
        }
        if piece.text.is_empty() {
            return None;
        }
        self.position.since = Moment::now().before(MARGIN).millis();
        let position = &mut self.position;
        self.ended.retain(|(at, run)| {
            let named = at.elapsed() < 2 * MARGIN;
            if !named {
                position.runs.remove(run);
            }
            named
        });
        // An event's id holds for what comes before it too. The last event is
        // still open, so that the id is a field of it.
        let mut text = piece.text;
        text.extend_from_slice(format!("id: {}\n\n", self.position).as_bytes());
        Some(text.into())
    }
}

/// Waits until the run has something new.
fn turn(mut watched: Watched) -> Turn {
    Box::pin(async move {
        let piece = next(&mut watched).await;
        (watched, piece)
    })
}

async fn next(watched: &mut Watched) -> Result<Piece, LogError> {
    let mut text = Vec::new();
    let mut ended = false;
    match watched.reader.next().await? {
        None => ended = true,
        Some(entries) => {
            for entry in entries {
                if !text.is_empty() {
                    text.push(b'\n');
                }
                text.extend_from_slice(format!("event: {}\ndata: ", entry.kind()).as_bytes());
                entry.write_json(Some(&watched.of), &mut text);
                text.push(b'\n');
                ended = entry.is_last();
                if text.len() >= PIECE {
                    break;
                }
            }
        }
    }
    Ok(Piece { text, seq: watched.reader.cursor(), ended })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_was_written() {
        let runs = (1..4).map(|seq| (Uuid::new_v4(), seq)).collect();
        let position = Position { since: 1_760_000_000_123, runs };
        assert_eq!(position.to_string().parse(), Ok(position));
        for bad in ["", "x", "1.", "1.2", "1.2:3", "-", "1.00000000000000000000000000000000:"] {
            assert_eq!(bad.parse::<Position>(), Err(()), "{bad}");
        }
    }
}
