//! What requests say about runs, and what is said about them.

use std::collections::BTreeMap;

use schwann_process::{Signal, TerminalSize};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{CardPath, cards::language};
use crate::{
    input::{
        Complaint, Fields, Page, Read, any_object, choice, flag, id, integer, text, text_of_bytes,
    },
    language::Language,
    moment::Moment,
    problem::{Fault, Problem, Step},
    record::Channel,
    runs::{RunRequest, Runs},
    store::{CardChange, Face, OnBusy, Run, RunFilter, RunStatus},
};

/// Largest standard input that comes with a run, in bytes.
const MAX_STDIN: u64 = 1 << 20;
/// Largest environment, in bytes of JSON.
const MAX_ENVIRONMENT: usize = 32 * 1024;
/// Longest time that a run may take to end by itself once it is cancelled.
const MAX_GRACE: i64 = 60_000;

/// A run.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RunPublic {
    #[serde(flatten)]
    summary: RunSummary,
    /// What was run.
    code: String,
}

/// A run, as lists have it: without its code, which may be a megabyte.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RunSummary {
    /// The server that has it, which is nobody else's concern.
    #[serde(skip)]
    #[schema(ignore)]
    server: String,
    id: Uuid,
    book_id: Option<Uuid>,
    card_id: Option<Uuid>,
    /// The same for runs that were started together.
    batch_id: Option<Uuid>,
    status: RunStatus,
    /// How many runs came before it and wait for their turn on the same server, while it is queued.
    queue_position: Option<usize>,
    /// Why it ended: `exit`, `signal`, `timeout`, `cpu_limit`, `memory_limit`, `pids_limit`, `output_limit`, `folder_limit`,
    /// `cancelled`, `server_restart`, `start_failed` or `log_failed`.
    reason: Option<String>,
    exit_code: Option<i64>,
    signal: Option<i64>,
    queued_at: Moment,
    started_at: Option<Moment>,
    finished_at: Option<Moment>,
    elapsed_ms: Option<i64>,
    cpu_ms: Option<i64>,
    max_rss_bytes: Option<i64>,
    stdout_bytes: i64,
    stderr_bytes: i64,
    /// Whether it printed more than is kept.
    truncated: bool,
    /// Id of its last record so far, and of the last of all once it is finished. Of a run that another server has: as far as that
    /// can be found out at once, else 0.
    last_seq: i64,
    language: String,
    /// What held the program; `none` if nothing did.
    sandbox: String,
    /// By what it was called, if the card was called as published.
    face: Option<Face>,
    /// Who called it then.
    caller: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RunsPublic {
    pub(super) data: Vec<RunSummary>,
    /// Of all, not only of these.
    pub(super) count: i64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LanguagesPublic {
    pub(super) data: Vec<Language>,
    pub(super) count: usize,
}

/// What holds programs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SandboxPublic {
    /// Whether programs are run at all.
    pub(super) available: bool,
    /// In what: `none` if in nothing, as the settings say.
    pub(super) sandbox: Option<String>,
    /// What is missing, and how to get it.
    pub(super) reason: Option<String>,
}

/// What is said of the card, which is saved before it is run, and of how it is run. All of it may be left out.
#[derive(Debug, Default, ToSchema)]
pub(crate) struct CardRun {
    /// May be said, and must be that of the path then.
    id: Option<Uuid>,
    /// May be said, and must be that of the path then.
    book_id: Option<Uuid>,
    #[schema(max_length = 255)]
    title: Option<String>,
    code: Option<String>,
    language: Option<String>,
    settings: Option<Map<String, Value>>,
    /// All of its standard input. Without it, what is sent to `/runs/{id}/stdin` while it runs.
    stdin: Option<String>,
    args: Option<Vec<String>>,
    env: Option<BTreeMap<String, String>>,
    /// Gives it a terminal in place of pipes.
    tty: Option<bool>,
    #[schema(minimum = 1, maximum = 1000)]
    cols: Option<u16>,
    #[schema(minimum = 1, maximum = 1000)]
    rows: Option<u16>,
    /// Whether the card is saved. Default: true.
    save: Option<bool>,
    /// If the card is running already. Default: `reject`.
    on_busy: Option<OnBusy>,
    limits: Option<RunLimits>,
}

/// Limits below those of the server.
#[derive(Debug, Default, ToSchema)]
pub(crate) struct RunLimits {
    #[schema(minimum = 1)]
    wall_ms: Option<u64>,
    #[schema(minimum = 1)]
    cpu_ms: Option<u64>,
    #[schema(minimum = 1)]
    memory_mb: Option<u64>,
    #[schema(minimum = 1)]
    output_bytes: Option<u64>,
}

/// One record of a run: a line of `application/x-ndjson`, or the data of an event. `seq` begins at 1 and has no gap; the record with
/// type `exit` is the last. `heartbeat` and `reset` are no records and have no `seq`; after a `reset` the records begin at 1 again.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "only its shape is used, in the OpenAPI document")]
pub(crate) struct RunEvent {
    seq: Option<u64>,
    /// `start`, `stdout`, `stderr`, `truncated`, `exit`; `heartbeat`, `reset`.
    r#type: String,
    /// In streams of several runs, and with `start`.
    run_id: Option<Uuid>,
    /// In streams of several runs, and with `start`.
    card_id: Option<Uuid>,
    language: Option<String>,
    sandbox: Option<String>,
    /// Milliseconds since the start.
    t: Option<u32>,
    /// What was printed.
    data: Option<String>,
    /// What was printed, in base 64, if it is no UTF-8.
    b64: Option<String>,
    limit_bytes: Option<u64>,
    reason: Option<String>,
    code: Option<i32>,
    signal: Option<i32>,
    elapsed_ms: Option<u64>,
    cpu_ms: Option<u64>,
    max_rss_bytes: Option<u64>,
    stdout_bytes: Option<u64>,
    stderr_bytes: Option<u64>,
}

/// How a run is cancelled. All of it may be left out.
#[derive(Debug, ToSchema)]
pub(crate) struct RunCancel {
    /// `INT`, `TERM` or `KILL`. Default: `INT`.
    #[schema(value_type = Option<String>)]
    pub(super) signal: Option<Signal>,
    /// After this time it is killed. Default: 2000.
    #[schema(minimum = 0, maximum = 60000, value_type = Option<i64>)]
    pub(super) grace_ms: Option<i64>,
}

/// The size of a terminal, in characters.
#[derive(Debug, ToSchema)]
pub(crate) struct RunResize {
    #[schema(minimum = 1, maximum = 1000)]
    pub(super) cols: u16,
    #[schema(minimum = 1, maximum = 1000)]
    pub(super) rows: u16,
}

#[derive(Debug)]
pub(crate) struct Footer(pub(super) bool);

#[derive(Debug)]
pub(crate) struct Cursor {
    pub(super) after: Option<u64>,
    pub(super) follow: bool,
    pub(super) footer: bool,
}

#[derive(Debug)]
pub(crate) struct Which {
    pub(super) filter: RunFilter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutputOf(pub(super) Option<Channel>);

#[derive(Debug)]
pub(crate) struct Eof(pub(super) bool);

const ON_BUSY: &[(&str, OnBusy)] =
    &[("reject", OnBusy::Reject), ("queue", OnBusy::Queue), ("replace", OnBusy::Replace)];
const SIGNALS: &[(&str, Signal)] =
    &[("INT", Signal::Interrupt), ("TERM", Signal::Terminate), ("KILL", Signal::Kill)];
const STATUSES: &[(&str, RunStatus)] = &[
    ("queued", RunStatus::Queued),
    ("running", RunStatus::Running),
    ("finished", RunStatus::Finished),
];
const CHANNELS: &[(&str, OutputOf)] = &[
    ("all", OutputOf(None)),
    ("stdout", OutputOf(Some(Channel::Stdout))),
    ("stderr", OutputOf(Some(Channel::Stderr))),
];

impl Read for Footer {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self(fields.optional("footer", flag)?.unwrap_or(false)))
    }
}

impl Read for Cursor {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let after = fields.optional("after", integer(0, i64::MAX));
        let follow = fields.optional("follow", flag);
        let footer = fields.optional("footer", flag);
        Some(Self {
            after: after?.map(|after| after as u64),
            follow: follow?.unwrap_or(true),
            footer: footer?.unwrap_or(false),
        })
    }
}

impl Read for Which {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let page = Page::read(fields);
        let book_id = fields.optional("book_id", id);
        let card_id = fields.optional("card_id", id);
        let batch_id = fields.optional("batch_id", id);
        let status = fields.optional("status", choice(STATUSES));
        let page = page?;
        let filter = RunFilter {
            book_id: book_id?,
            card_id: card_id?,
            batch_id: batch_id?,
            status: status?,
            skip: page.skip,
            limit: page.limit,
        };
        Some(Self { filter })
    }
}

impl Read for OutputOf {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(fields.optional("stream", choice(CHANNELS))?.unwrap_or(Self(None)))
    }
}

impl Read for Eof {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self(fields.optional("eof", flag)?.unwrap_or(false)))
    }
}

impl Read for RunCancel {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let signal = fields.optional("signal", choice(SIGNALS));
        let grace_ms = fields.optional("grace_ms", integer(0, MAX_GRACE));
        Some(Self { signal: signal?, grace_ms: grace_ms? })
    }
}

impl Read for RunResize {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let cols = fields.required("cols", characters);
        let rows = fields.required("rows", characters);
        Some(Self { cols: cols?, rows: rows? })
    }
}

impl Read for RunLimits {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let mut some = |name| Some(fields.optional(name, integer(1, 1 << 40))?.map(|n| n as u64));
        let (wall_ms, cpu_ms) = (some("wall_ms"), some("cpu_ms"));
        let (memory_mb, output_bytes) = (some("memory_mb"), some("output_bytes"));
        Some(Self {
            wall_ms: wall_ms?,
            cpu_ms: cpu_ms?,
            memory_mb: memory_mb?,
            output_bytes: output_bytes?,
        })
    }
}

impl Read for CardRun {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let card = fields.optional("id", id);
        let book_id = fields.optional("book_id", id);
        let title = fields.optional("title", text(0, 255));
        let code = fields.optional("code", text_of_bytes(64 << 20));
        let language = fields.optional("language", language);
        let settings = fields.optional("settings", any_object(16 * 1024));
        let stdin = fields.optional("stdin", text_of_bytes(MAX_STDIN));
        let args = fields.list("args", 256, text(0, 4096));
        let env = fields.optional("env", environment);
        let tty = fields.optional("tty", flag);
        let cols = fields.optional("cols", characters);
        let rows = fields.optional("rows", characters);
        let save = fields.optional("save", flag);
        let on_busy = fields.optional("on_busy", choice(ON_BUSY));
        let limits = fields.object("limits");
        Some(Self {
            id: card?,
            book_id: book_id?,
            title: title?,
            code: code?,
            language: language?,
            settings: settings?,
            stdin: stdin?,
            args: args?,
            env: env?,
            tty: tty?,
            cols: cols?,
            rows: rows?,
            save: save?,
            on_busy: on_busy?,
            limits: limits?,
        })
    }
}

/// A size of a terminal.
fn characters(value: &Value) -> Result<u16, Complaint> {
    integer(1, 1000)(value).map(|number| number as u16)
}

/// Names and values that an environment can hold.
fn environment(value: &Value) -> Result<BTreeMap<String, String>, Complaint> {
    let mut variables = BTreeMap::new();
    for (name, value) in any_object(MAX_ENVIRONMENT)(value)? {
        let good = !name.is_empty() && !name.contains(['=', '\0']);
        let Value::String(value) = value else {
            return Err(Complaint::value("each variable is a string"));
        };
        if !good || value.contains('\0') {
            return Err(Complaint::value("a variable has a name without `=`, and no NUL"));
        }
        variables.insert(name, value);
    }
    Ok(variables)
}

impl CardRun {
    /// A body may have the ids of the path, and no others.
    pub(super) fn check_ids(&self, path: &CardPath) -> Result<(), Problem> {
        let faults: Vec<_> = [("id", self.id, path.id), ("book_id", self.book_id, path.book_id)]
            .into_iter()
            .filter_map(|(name, said, right)| Some((name, said.filter(|said| *said != right)?)))
            .map(|(name, said)| Fault {
                kind: "value_error",
                loc: vec![Step::Name("body".to_owned()), Step::Name(name.to_owned())],
                msg: format!("Value error, {name} must be that of the path"),
                input: said.to_string().into(),
                ctx: None,
            })
            .collect();
        if faults.is_empty() { Ok(()) } else { Err(Problem::faults(faults)) }
    }

    pub(super) fn split(self) -> (CardChange, RunRequest, bool, OnBusy) {
        let change = CardChange {
            title: self.title,
            language: self.language,
            code: self.code,
            settings: self.settings,
        };
        let size = TerminalSize::default();
        let limits = self.limits.unwrap_or_default();
        let request = RunRequest {
            stdin: self.stdin,
            args: self.args.unwrap_or_default(),
            env: self.env.unwrap_or_default(),
            terminal: self.tty.unwrap_or(false).then(|| TerminalSize {
                columns: self.cols.unwrap_or(size.columns),
                rows: self.rows.unwrap_or(size.rows),
            }),
            wall_ms: limits.wall_ms,
            cpu_ms: limits.cpu_ms,
            memory_bytes: limits.memory_mb.map(|mb| mb << 20),
            output_bytes: limits.output_bytes,
            ..RunRequest::default()
        };
        (change, request, self.save.unwrap_or(true), self.on_busy.unwrap_or_default())
    }
}

pub(super) async fn public(runs: &Runs, mut run: Run) -> Result<RunPublic, Problem> {
    let code = std::mem::take(&mut run.code);
    let mut one = [summary(run)];
    complete(runs, &mut one).await?;
    let [summary] = one;
    Ok(RunPublic { summary, code })
}

/// Adds what the rows do not have.
pub(super) async fn complete(runs: &Runs, summaries: &mut [RunSummary]) -> Result<(), Problem> {
    let asked = summaries.iter().map(|run| (run.id, run.server.clone(), run.status));
    let standings = runs.standings(asked.collect()).await?;
    for run in summaries {
        if let Some(standing) = standings.get(&run.id) {
            run.queue_position = standing.position;
            run.last_seq = standing.last_seq.map_or(run.last_seq, seq_number);
        }
    }
    Ok(())
}

/// As JSON has it.
pub(super) fn seq_number(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

/// What the row has; [`complete`] adds the rest.
pub(super) fn summary(run: Run) -> RunSummary {
    let request: RunRequest = serde_json::from_value(run.request).unwrap_or_default();
    RunSummary {
        face: request.face,
        caller: request.caller,
        last_seq: run.last_seq,
        queue_position: None,
        server: run.server,
        id: run.id,
        book_id: run.book_id,
        card_id: run.card_id,
        batch_id: run.batch_id,
        status: run.status,
        reason: run.reason,
        exit_code: run.exit_code,
        signal: run.signal,
        queued_at: run.queued_at,
        started_at: run.started_at,
        finished_at: run.finished_at,
        elapsed_ms: run.elapsed_ms,
        cpu_ms: run.cpu_ms,
        max_rss_bytes: run.max_rss_bytes,
        stdout_bytes: run.stdout_bytes,
        stderr_bytes: run.stderr_bytes,
        truncated: run.truncated,
        language: run.language,
        sandbox: run.sandbox,
    }
}
