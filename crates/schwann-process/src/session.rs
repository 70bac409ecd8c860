//! A program that runs, as whoever follows it sees it.
//!
//! The session's own task owns the processes. It waits for the first of their
//! end, a limit, an order and abandonment, and never for a reader: a reader
//! that stalls stops the program by a full pipe, and not its deadline.

use std::{
    io,
    os::fd::OwnedFd,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustix::process::Signal as RawSignal;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant as Due, sleep_until},
};
use tracing::debug;

use crate::{
    Exit, Limits, Span, TerminalSize,
    terminal::{Stream, Streams},
    tree::Tree,
};

/// When to listen to a stream again that could not be listened to.
const AGAIN: Duration = Duration::from_millis(2);

/// Room for one read, in bytes: what a pipe holds.
const PIECE: usize = 64 << 10;

/// A program that runs. Dropping it kills all its processes.
#[derive(Debug)]
pub struct Session {
    stdout: Source,
    /// Ended from the start with a terminal.
    stderr: Source,
    control: Control,
    input: Input,
    ended: watch::Receiver<Option<Ended>>,
    /// Bytes that may still be handed out.
    left: u64,
    /// Nobody else has this, so its end is the session's.
    _alive: mpsc::Sender<()>,
}

#[derive(Debug)]
struct Source {
    stream: Option<Arc<Stream>>,
    /// The stream, while nobody wants to hear of it.
    muted: Option<OwnedFd>,
    buffer: Vec<u8>,
    taken: u64,
}

/// Which stream a piece of output came from.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
#[serde(rename_all = "lowercase")]
pub enum OutputStream {
    /// Standard output; with a terminal, all output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Some of a program's output, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it was written to.
    pub stream: OutputStream,
    /// At least one byte. It may begin and end within a line or a character.
    pub bytes: Bytes,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// It exited by itself, with the code that is told.
    Exit,
    /// A signal that nobody asked for killed it.
    Signal,
    /// [`Limits::wall`].
    Timeout,
    /// [`Limits::cpu`].
    CpuLimit,
    /// [`Limits::memory`].
    MemoryLimit,
    /// It failed, and [`Limits::processes`] had kept it from starting one more.
    ProcessLimit,
    /// [`Limits::output`].
    OutputLimit,
    /// [`Limits::folder`]: it held more, or it failed and there was no room left in it.
    FolderLimit,
    /// It was cancelled, or its session was dropped.
    Cancelled,
    /// The sandbox could not start it. What the sandbox said is its stderr.
    StartFailed,
}

/// How a run ended. None of its processes is left.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Ending {
    /// Why.
    pub reason: Reason,
    /// Its exit code, if it exited.
    pub code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// From its start to the end of the last process.
    pub elapsed: Duration,
    /// Time on processors, of all its processes.
    pub cpu: Duration,
    /// The most memory it held, in bytes: of all its processes together where
    /// there are cgroups, else of the largest.
    pub max_rss: u64,
    /// Bytes of stdout that were handed out.
    pub stdout_bytes: u64,
    /// Bytes of stderr that were handed out.
    pub stderr_bytes: u64,
}

/// A signal that can be sent to a program.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
#[serde(rename_all = "UPPERCASE")]
pub enum Signal {
    /// `SIGINT`, as Ctrl+C sends it. In Python it is `KeyboardInterrupt`.
    #[serde(rename = "INT")]
    Interrupt,
    /// `SIGTERM`.
    #[serde(rename = "TERM")]
    Terminate,
    /// `SIGHUP`.
    #[serde(rename = "HUP")]
    Hangup,
    /// `SIGQUIT`.
    #[serde(rename = "QUIT")]
    Quit,
    /// `SIGUSR1`.
    #[serde(rename = "USR1")]
    User1,
    /// `SIGUSR2`.
    #[serde(rename = "USR2")]
    User2,
    /// `SIGKILL`, which cannot be refused.
    #[serde(rename = "KILL")]
    Kill,
}

impl Signal {
    const fn raw(self) -> RawSignal {
        match self {
            Self::Interrupt => RawSignal::INT,
            Self::Terminate => RawSignal::TERM,
            Self::Hangup => RawSignal::HUP,
            Self::Quit => RawSignal::QUIT,
            Self::User1 => RawSignal::USR1,
            Self::User2 => RawSignal::USR2,
            Self::Kill => RawSignal::KILL,
        }
    }
}

/// What the session's task saw of the end.
#[derive(Clone, Copy, Debug)]
struct Ended {
    reason: Reason,
    exit: Exit,
    elapsed: Duration,
    cpu: Duration,
    max_rss: u64,
}

/// A program that was just started.
pub(crate) struct Started {
    pub(crate) tree: Tree,
    pub(crate) streams: Streams,
    pub(crate) limits: Limits,
}

/// When it is killed, and why, at the latest.
type Doom = Option<(Instant, Reason)>;

impl Session {
    pub(crate) fn new(started: Started) -> Self {
        let Started { tree, streams, limits } = started;
        let (signals, orders) = mpsc::channel(16);
        let (doom, doomed) = watch::channel(None);
        let (alive, abandoned) = mpsc::channel(1);
        let (tell, ended) = watch::channel(None);
        let Streams { input, stdout, stderr, is_terminal } = streams;
        let screen = is_terminal.then(|| Arc::clone(&stdout));
        let watch = Watch { tree, limits, began: Instant::now() };
        tokio::spawn(follow(watch, orders, doomed, abandoned, tell));
        let control = Control { signals, doom: Arc::new(doom), screen };
        let (writes, written) = mpsc::channel(1);
        tokio::spawn(feed(input, written, is_terminal, ended.clone()));
        let source = |stream| Source { stream, muted: None, buffer: Vec::new(), taken: 0 };
        Self {
            stdout: source(Some(stdout)),
            stderr: source(stderr),
            control,
            input: Input { writes },
            ended,
            left: limits.output.bytes(),
            _alive: alive,
        }
    }

    /// The next piece of output as it was written, or `None` after the last.
    /// Everything that was written before the end is handed out before
    /// [`end`](Self::end) tells of it, up to [`Limits::output`].
    ///
    /// Nothing is read ahead: a program whose output is not asked for soon
    /// waits in its own write, until [`Limits::wall`] at the latest. After
    /// `None` the program may run on, having closed its output.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before completing, no output is lost.
    pub async fn output(&mut self) -> Option<Piece> {
        use OutputStream::{Stderr, Stdout};
        loop {
            // Both, whatever the first one says.
            if !(self.stdout.listen() & self.stderr.listen()) {
                sleep_until(Due::now() + AGAIN).await;
                continue;
            }
            if self.left == 0 && self.control.is_doomed(Reason::OutputLimit) {
                return None;
            }
            if self.ended.borrow().is_some() {
                // Nobody is left to write, so what the pipes hold is all.
                for which in [Stdout, Stderr] {
                    if self.source(which).read_now() {
                        return self.take(which);
                    }
                }
                return None;
            }
            let Self { stdout, stderr, ended, .. } = self;
            if stdout.stream.is_none() && stderr.stream.is_none() {
                return None;
            }
            // Each branch is cancel-safe: a read that is given up took nothing.
            let which = tokio::select! {
                read = stdout.read(), if stdout.stream.is_some() => read.then_some(Stdout),
                read = stderr.read(), if stderr.stream.is_some() => read.then_some(Stderr),
                // Its task only ends by telling, or with the whole runtime.
                changed = ended.changed() => match changed {
                    Ok(()) => None,
                    Err(_) => return None,
                },
            };
            if let Some(which) = which
                && let Some(piece) = self.take(which)
            {
                return Some(piece);
            }
        }
    }

    /// Waits until then, or until the program has ended, and hears nothing of what it writes. A program that writes a line
    /// after the other would wake this process for each; now they gather in its pipe, and when that is full, it waits.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before completing, no output is lost.
    pub async fn rest(&mut self, until: Instant) {
        self.stdout.mute();
        self.stderr.mute();
        let mut ended = self.ended.clone();
        tokio::select! {
            () = sleep_until(until.into()) => {}
            _ = ended.wait_for(Option::is_some) => {}
        }
    }

    /// A handle to write to its stdin. Clones write to the same.
    pub fn input(&self) -> Input {
        self.input.clone()
    }

    /// A handle to end or signal it, usable from anywhere.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Waits until nothing of it runs any more. Output that was not read is
    /// read and dropped, so that a program cannot wait for its reader.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before completing, only output is lost.
    pub async fn end(&mut self) -> Ending {
        while self.output().await.is_some() {}
        let ended = match self.ended.wait_for(Option::is_some).await {
            Ok(ended) => *ended,
            Err(_) => None,
        };
        // Without a task there is no runtime, and its processes are killed.
        let ended = ended.unwrap_or(Ended {
            reason: Reason::Cancelled,
            exit: Exit::Signal(libc::SIGKILL),
            elapsed: Duration::ZERO,
            cpu: Duration::ZERO,
            max_rss: 0,
        });
        let (code, signal) = match ended.exit {
            Exit::Code(code) => (Some(code), None),
            Exit::Signal(signal) => (None, Some(signal)),
        };
        Ending {
            reason: ended.reason,
            code,
            signal,
            elapsed: ended.elapsed,
            cpu: ended.cpu,
            max_rss: ended.max_rss,
            stdout_bytes: self.stdout.taken,
            stderr_bytes: self.stderr.taken,
        }
    }

    fn source(&mut self, which: OutputStream) -> &mut Source {
        match which {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        }
    }

    /// What was read, as much of it as the limit allows.
    fn take(&mut self, which: OutputStream) -> Option<Piece> {
        let left = self.left;
        let source = self.source(which);
        let over = source.buffer.len() as u64 > left;
        if over {
            source.buffer.truncate(left as usize);
        }
        let taken = source.buffer.len() as u64;
        source.taken += taken;
        // Pieces are mostly much smaller than the room for them.
        let bytes = Bytes::copy_from_slice(&source.buffer);
        source.buffer.clear();
        self.left -= taken;
        if over {
            self.control.doom(Instant::now(), Reason::OutputLimit);
        }
        (!bytes.is_empty()).then_some(Piece { stream: which, bytes })
    }
}

impl Source {
    /// A terminal stays heard: others have it as well.
    fn mute(&mut self) {
        match self.stream.take().map(Arc::try_unwrap) {
            Some(Ok(stream)) => self.muted = Some(stream.mute()),
            Some(Err(shared)) => self.stream = Some(shared),
            None => {}
        }
    }

    /// Ends that. False if it is not possible now.
    fn listen(&mut self) -> bool {
        match self.muted.take().map(Stream::listen) {
            Some(Ok(stream)) => self.stream = Some(stream),
            Some(Err(fd)) => self.muted = Some(fd),
            None => {}
        }
        self.muted.is_none()
    }

    /// Whether there is something in the buffer. Cancel-safe.
    async fn read(&mut self) -> bool {
        let Some(stream) = &self.stream else { return false };
        self.buffer.reserve(PIECE);
        match stream.read(&mut self.buffer).await {
            Ok(1..) => true,
            Ok(0) | Err(_) => {
                self.stream = None;
                false
            }
        }
    }

    /// The same, without waiting.
    fn read_now(&mut self) -> bool {
        let Some(stream) = &self.stream else { return false };
        self.buffer.reserve(PIECE);
        match stream.read_now(&mut self.buffer) {
            Ok(Some(1..)) => true,
            Ok(Some(0) | None) | Err(_) => {
                self.stream = None;
                false
            }
        }
    }
}

/// Ends or signals a program. Clones do the same; all of it may be done at
/// any time and any number of times, and does nothing once the run has ended.
#[derive(Clone, Debug)]
pub struct Control {
    signals: mpsc::Sender<Signal>,
    doom: Arc<watch::Sender<Doom>>,
    screen: Option<Arc<Stream>>,
}

impl Control {
    /// Sends a signal to the program and whatever is in its process group.
    /// False if it has ended, or has 16 signals waiting for it.
    pub fn signal(&self, signal: Signal) -> bool {
        self.signals.try_send(signal).is_ok()
    }

    /// Asks it to end by `SIGTERM`, and kills all of it after `grace`.
    pub fn cancel(&self, grace: Span) {
        self.cancel_by(Signal::Terminate, grace);
    }

    /// Asks it to end by a signal of choice, and kills all of it after
    /// `grace`. A shorter grace than that of a cancellation before holds.
    pub fn cancel_by(&self, signal: Signal, grace: Span) {
        let at = Instant::now() + grace.duration();
        self.doom(at, Reason::Cancelled);
        if grace.duration() > Duration::ZERO {
            // If there is no room for it, it is killed after the grace.
            let _ = self.signals.try_send(signal);
        }
    }

    /// Tells it the new size of its terminal. Nothing happens without one.
    pub fn resize(&self, size: TerminalSize) {
        let Some(screen) = &self.screen else { return };
        match screen.resize(size) {
            Ok(()) => {}
            Err(error) => debug!(%error, "cannot resize a terminal"),
        }
    }

    fn doom(&self, at: Instant, reason: Reason) {
        self.doom.send_if_modified(|doom| {
            let sooner = doom.is_none_or(|(before, _)| at < before);
            if sooner {
                // What was first to doom it is why it ends.
                let first = doom.map_or(reason, |(_, first)| first);
                *doom = Some((at, first));
            }
            sooner
        });
    }

    fn is_doomed(&self, by: Reason) -> bool {
        self.doom.borrow().is_some_and(|(_, reason)| reason == by)
    }
}

/// Writes to a program's stdin. Clones write to the same, each write whole.
#[derive(Clone, Debug)]
pub struct Input {
    writes: mpsc::Sender<Write>,
}

#[derive(Debug)]
enum Write {
    Bytes(Bytes, oneshot::Sender<io::Result<()>>),
    Close,
}

impl Input {
    /// Writes all of it, waiting while the program does not read.
    ///
    /// # Errors
    ///
    /// `BrokenPipe` if the program has ended, or does not read any more, or
    /// its input was closed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before completing, all of it may be written or
    /// nothing. What is written later comes after it.
    pub async fn write(&self, bytes: impl Into<Bytes>) -> io::Result<()> {
        let closed = || io::Error::from(io::ErrorKind::BrokenPipe);
        let (done, written) = oneshot::channel();
        self.writes.send(Write::Bytes(bytes.into(), done)).await.map_err(|_| closed())?;
        written.await.map_err(|_| closed())?
    }

    /// Ends its input, after everything that is being written.
    pub async fn close(&self) {
        // An error means that it is closed.
        let _ = self.writes.send(Write::Close).await;
    }
}

/// Does what inputs ask for, one after the other, until the program has ended.
async fn feed(
    stream: Arc<Stream>,
    mut writes: mpsc::Receiver<Write>,
    is_terminal: bool,
    mut ended: watch::Receiver<Option<Ended>>,
) {
    let serve = async {
        let mut in_line = false;
        while let Some(write) = writes.recv().await {
            match write {
                Write::Bytes(bytes, done) => {
                    in_line = bytes.last().map_or(in_line, |last| *last != b'\n');
                    let written = write_all(&stream, &bytes).await;
                    let failed = written.is_err();
                    // Whoever asked may have left.
                    let _ = done.send(written);
                    if failed {
                        return;
                    }
                }
                Write::Close if is_terminal => {
                    // Within a line the first one only hands out the line.
                    if let Some(end) = stream.end_of_input() {
                        let twice = [end, end];
                        let bytes = if in_line { &twice[..] } else { &twice[..1] };
                        // An error means that nobody reads.
                        let _ = write_all(&stream, bytes).await;
                    }
                    return;
                }
                Write::Close => return,
            }
        }
    };
    tokio::select! {
        () = serve => {}
        _ = ended.wait_for(Option::is_some) => {}
    }
}

async fn write_all(stream: &Stream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = stream.write(bytes).await?;
        bytes = &bytes[written..];
    }
    Ok(())
}

/// What the session's task owns.
struct Watch {
    tree: Tree,
    limits: Limits,
    began: Instant,
}

async fn follow(
    watch: Watch,
    mut orders: mpsc::Receiver<Signal>,
    mut doomed: watch::Receiver<Doom>,
    mut abandoned: mpsc::Receiver<()>,
    tell: watch::Sender<Option<Ended>>,
) {
    let Watch { mut tree, limits, began } = watch;
    let wall = (began + limits.wall.duration(), Reason::Timeout);
    let mut check = pin!(sleep_until(Due::now() + tree.pace(&limits)));
    let mut reason = None;
    loop {
        let asked = *doomed.borrow_and_update();
        let (at, why) = asked.filter(|(at, _)| *at < wall.0).unwrap_or(wall);
        // Each branch is cancel-safe: none takes anything before it resolves.
        tokio::select! {
            biased;
            () = tree.exited() => break,
            () = sleep_until(at.into()) => {
                reason = Some(why);
                break;
            }
            // It is never sent to, so this is the session's end.
            _ = abandoned.recv() => {
                reason = Some(Reason::Cancelled);
                break;
            }
            Ok(()) = doomed.changed() => {}
            () = tree.listen(), if tree.is_starting() => {}
            Some(signal) = orders.recv(), if !tree.is_starting() => tree.signal(signal.raw()),
            () = &mut check => {
                reason = tree.breach(&limits);
                if reason.is_some() {
                    break;
                }
                check.as_mut().reset(Due::now() + tree.pace(&limits));
            }
        }
    }
    tree.begun().await;
    tree.kill();
    let finished = tree.finish().await;
    let asked = doomed.borrow().map(|(_, why)| why);
    let by_itself = match finished.exit {
        _ if finished.out_of_memory => Reason::MemoryLimit,
        _ if finished.failed_to_start => Reason::StartFailed,
        Exit::Signal(libc::SIGXCPU) => Reason::CpuLimit,
        Exit::Code(0) => Reason::Exit,
        _ if finished.out_of_processes => Reason::ProcessLimit,
        _ if finished.folder_is_full => Reason::FolderLimit,
        Exit::Code(_) => Reason::Exit,
        Exit::Signal(_) => Reason::Signal,
    };
    tell.send_replace(Some(Ended {
        reason: reason.or(asked).unwrap_or(by_itself),
        exit: finished.exit,
        elapsed: began.elapsed(),
        cpu: finished.cpu,
        max_rss: finished.max_rss,
    }));
}
