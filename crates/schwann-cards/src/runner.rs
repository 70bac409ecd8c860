//! One run of a program, from its start to its last record.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use schwann_process::{
    self as process, Control, Ending, Input, OutputStream, Program, ProgramSpec, Sandbox, Session,
    Span, remove_run_folder,
};
use tokio::time::Instant;
use tracing::warn;

use crate::{
    outlet::{Opened, Outlet},
    record::{Channel, Exit, Reason, Record, Start, Whole},
    run_log::{LogError, LogWriter},
};

/// A program that writes in small pieces is read at most this often in a while.
const READS: u32 = 16;
/// The while. What gathers in the pipe meanwhile is read in one go.
const WHILE: Duration = Duration::from_millis(2);

/// What is run.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) start: Start,
    pub(crate) spec: ProgramSpec,
    /// All of its input, after which it is closed. `None`: whatever is sent while it runs.
    pub(crate) stdin: Option<Bytes>,
    /// Set once the server stops, which is why runs are cancelled then.
    pub(crate) stopping: Arc<AtomicBool>,
    /// What it may call, and the folder for that.
    pub(crate) outlet: Option<(Outlet, PathBuf)>,
}

/// How others reach a program that runs.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub(crate) control: Control,
    pub(crate) input: Input,
}

/// What became of a run.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) exit: Exit,
    /// Id of the last record; `None` if the log could not take it yet.
    pub(crate) last_seq: Option<u64>,
    pub(crate) truncated: bool,
}

/// Runs it to its end. `started` is told how to reach it.
pub(crate) async fn run(
    mut job: Job,
    mut writer: LogWriter,
    started: impl FnOnce(Handle),
) -> Outcome {
    writer.start_clock();
    let began = Instant::now();
    let written = writer.append(Record::Start(job.start.clone())).await;
    let (mut exit, truncated) = match (written, prepare(&mut job).await) {
        (Err(_), _) => (Exit::without_program(Reason::LogFailed), false),
        (Ok(()), Err(error)) => (not_started(&writer, &error).await, false),
        (Ok(()), Ok(_opened)) => within(&job, &writer, started).await,
    };
    if exit.elapsed_ms == 0 {
        exit.elapsed_ms = began.elapsed().as_millis() as u64;
    }
    finish(writer, exit, truncated).await
}

/// Writes the last record.
pub(crate) async fn finish(writer: LogWriter, exit: Exit, truncated: bool) -> Outcome {
    let last_seq = writer.end(exit.clone()).await.ok();
    Outcome { exit, last_seq, truncated }
}

async fn within(job: &Job, writer: &LogWriter, started: impl FnOnce(Handle)) -> (Exit, bool) {
    let mut session = match Program::start(job.spec.clone()).await {
        Ok(session) => session,
        Err(error) => return (not_started(writer, &error).await, false),
    };
    started(Handle { control: session.control(), input: session.input() });
    let feeding = job.stdin.clone().map(|stdin| {
        let input = session.input();
        tokio::spawn(async move {
            // A program need not read what it is given.
            let _ = input.write(stdin).await;
            input.close().await;
        })
    });
    let kept = follow(&mut session, writer).await;
    if kept.is_err() {
        session.control().cancel(Span::from_millis(0));
    }
    let ending = session.end().await;
    if let Some(feeding) = feeding {
        feeding.abort();
    }
    let mut exit = exit_of(&ending);
    let truncated = exit.reason == Reason::OutputLimit;
    if kept.is_err() {
        exit.reason = Reason::LogFailed;
    } else if exit.reason == Reason::Cancelled && job.stopping.load(Ordering::Relaxed) {
        exit.reason = Reason::ServerRestart;
    } else if truncated {
        let limit_bytes = job.spec.limits.output.bytes();
        // If it fails, so does the last record, which is seen to.
        let _ = writer.append(Record::Truncated { limit_bytes }).await;
    }
    (exit, truncated)
}

/// Writes down all that it prints.
async fn follow(session: &mut Session, writer: &LogWriter) -> Result<(), LogError> {
    let mut held = [Whole::default(), Whole::default()];
    let mut since = Instant::now();
    let mut reads = 0;
    while let Some(piece) = session.output().await {
        let (channel, whole) = match piece.stream {
            OutputStream::Stdout => (Channel::Stdout, &mut held[0]),
            OutputStream::Stderr => (Channel::Stderr, &mut held[1]),
        };
        let large = piece.bytes.len() >= 16 * 1024;
        let (first, rest) = whole.take(piece.bytes);
        writer.output(channel, first).await?;
        writer.output(channel, rest).await?;
        reads += 1;
        // To be woken for each line would cost more than the line. The first lines
        // are not held back, so that what comes together keeps its order.
        if reads >= READS {
            let next = since + WHILE;
            if !large && Instant::now() < next {
                session.rest(next.into_std()).await;
            }
            reads = 0;
            since = Instant::now();
        } else if since.elapsed() > WHILE {
            reads = 1;
            since = Instant::now();
        }
    }
    for (channel, whole) in [Channel::Stdout, Channel::Stderr].into_iter().zip(&mut held) {
        writer.output(channel, whole.rest()).await?;
    }
    Ok(())
}

fn exit_of(ending: &Ending) -> Exit {
    use process::Reason as R;
    Exit {
        reason: match ending.reason {
            R::Exit => Reason::Exit,
            R::Signal => Reason::Signal,
            R::Timeout => Reason::Timeout,
            R::CpuLimit => Reason::CpuLimit,
            R::MemoryLimit => Reason::MemoryLimit,
            R::ProcessLimit => Reason::PidsLimit,
            R::OutputLimit => Reason::OutputLimit,
            R::FolderLimit => Reason::FolderLimit,
            R::Cancelled => Reason::Cancelled,
            R::StartFailed => Reason::StartFailed,
            other => {
                warn!(reason = ?other, "an end that is not known here");
                Reason::Signal
            }
        },
        code: ending.code,
        signal: ending.signal,
        elapsed_ms: ending.elapsed.as_millis() as u64,
        cpu_ms: ending.cpu.as_millis() as u64,
        max_rss_bytes: ending.max_rss,
        stdout_bytes: ending.stdout_bytes,
        stderr_bytes: ending.stderr_bytes,
    }
}

/// Says on the run's stderr why there is no program.
async fn not_started(writer: &LogWriter, error: &(dyn std::error::Error + Sync)) -> Exit {
    let mut text = format!("cannot start: {error}");
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text.push('\n');
    let stderr_bytes = text.len() as u64;
    // If it fails, so does the last record, which is seen to.
    let _ = writer.output(Channel::Stderr, text.into()).await;
    Exit { stderr_bytes, ..Exit::without_program(Reason::StartFailed) }
}

/// A run's work folder. Removed with it.
#[derive(Debug)]
struct WorkFolder(PathBuf);

impl Drop for WorkFolder {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.0);
        // It may hold many files, and nobody waits for that.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = remove_run_folder(&path) {
                warn!(path = %path.display(), %error, "a work folder is left behind");
            }
        });
    }
}

/// Makes the work folder, if it is to have one, and opens the outlet likewise.
async fn prepare(job: &mut Job) -> io::Result<(Option<WorkFolder>, Option<Opened>)> {
    let mut folder = None;
    let path = job.spec.work_folder.clone();
    if job.spec.sandbox == Sandbox::None {
        let made =
            tokio::task::spawn_blocking(move || make_folder(&path).map(|()| WorkFolder(path)));
        folder = Some(made.await.map_err(io::Error::other)??);
    } else if !path.exists() {
        // It is all runs', and made at the start. Somebody who tidied up has removed it.
        tokio::task::spawn_blocking(move || make_folder(&path))
            .await
            .map_err(io::Error::other)??;
    }
    let opened = match job.outlet.take() {
        Some((outlet, path)) => Some(outlet.open(path, job.start.run_id, &mut job.spec).await?),
        None => None,
    };
    Ok((folder, opened))
}

fn make_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}
