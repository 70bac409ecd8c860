//! A program that runs, as its reader sees it.

use std::{io, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;
use schwann::RequestBody;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe,
    time::Instant,
};

use crate::{
    ByteSize, Exit, Span,
    supervisor::{Outcome, Supervised},
};

/// Room for one read of stdout, in bytes: what a pipe holds.
const CHUNK: usize = 64 * 1024;

/// A program that runs. Dropping it kills the program's process group.
#[derive(Debug)]
pub struct Running {
    stdout: pipe::Receiver,
    /// Closed when all input was written, or the program wants no more.
    stdin: Option<pipe::Sender>,
    /// What is to be written next.
    input: Bytes,
    /// Where the rest comes from, until it has ended.
    source: Option<RequestBody>,
    buffer: BytesMut,
    supervised: Supervised,
    /// Stdout has ended.
    ended: bool,
    /// Bytes handed out.
    taken: u64,
    max_output: ByteSize,
    /// The program wrote more than that.
    over_limit: bool,
    /// Its input was cut.
    cut: bool,
    timeout: Span,
    started: Instant,
}

/// What a program said, all of it.
#[derive(Clone, Debug)]
pub struct Output {
    /// Everything it wrote.
    pub stdout: Bytes,
    /// The last lines it wrote to stderr, for the log and never for a caller.
    pub stderr: String,
    /// From its start to its end.
    pub took: Duration,
}

/// Why there is no output, or no more of it.
///
/// The text is for the log: it may quote what the program said on stderr.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Too many were running already, and none ended in time.
    #[error("{running} are running already, which is all that may at once")]
    Busy {
        /// How many were running.
        running: u32,
    },
    /// The program could not be started.
    #[error("cannot start `{program}`")]
    Start {
        /// As configured.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// The program ended by itself, and not with code 0.
    #[error("program {exit} after {output} of output{}", quoted(.stderr))]
    Failed {
        /// How.
        exit: Exit,
        /// How much output was handed out before.
        output: ByteSize,
        /// The last lines it wrote to stderr.
        stderr: String,
    },
    /// The deadline passed, and the program was killed.
    #[error("program was killed after {limit} and {output} of output{}", quoted(.stderr))]
    TimedOut {
        /// How long it had.
        limit: Span,
        /// How much output was handed out before.
        output: ByteSize,
        /// The last lines it wrote to stderr.
        stderr: String,
    },
    /// The program wrote more than it may, and was killed.
    #[error("program was killed because it wrote more than {limit}")]
    TooMuchOutput {
        /// How much it may write.
        limit: ByteSize,
    },
    /// Its input could not be read to the end, and it was killed before it
    /// could take what it had for all.
    #[error("program was killed after {output} of output because its input was cut")]
    Input {
        /// How much output was handed out before.
        output: ByteSize,
        /// What became of the input.
        source: schwann::Error,
    },
    /// The program cannot be followed any more, and was killed.
    #[error("lost touch with the program")]
    Lost(#[source] io::Error),
}

impl RunError {
    /// The program had written something before. An answer that was started
    /// with it must be cut: an error status is no longer possible.
    pub fn after_output(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::Start { .. } => false,
            Self::Failed { output, .. }
            | Self::TimedOut { output, .. }
            | Self::Input { output, .. } => output.bytes() > 0,
            Self::TooMuchOutput { .. } | Self::Lost(_) => true,
        }
    }
}

fn quoted(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!("; its last words: {stderr}") }
}

/// 503 if busy, 504 past the deadline, what was wrong with the input, else 500. The caller is told no more.
impl From<RunError> for schwann::Error {
    fn from(error: RunError) -> Self {
        let status = match error {
            RunError::Input { source, .. } => return source,
            RunError::Busy { .. } => StatusCode::SERVICE_UNAVAILABLE,
            RunError::TimedOut { .. } => StatusCode::GATEWAY_TIMEOUT,
            RunError::Start { .. }
            | RunError::Failed { .. }
            | RunError::TooMuchOutput { .. }
            | RunError::Lost(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::server(error).with_status(status)
    }
}

impl Running {
    pub(crate) fn new(
        stdin: pipe::Sender,
        stdout: pipe::Receiver,
        supervised: Supervised,
        max_output: ByteSize,
        timeout: Span,
        started: Instant,
    ) -> Self {
        Self {
            stdout,
            stdin: Some(stdin),
            input: Bytes::new(),
            source: None,
            buffer: BytesMut::new(),
            supervised,
            ended: false,
            taken: 0,
            max_output,
            over_limit: false,
            cut: false,
            timeout,
            started,
        }
    }

    /// Sets what is written to stdin, which is closed after it.
    pub(crate) fn feed(&mut self, input: Bytes) {
        self.input = input;
    }

    /// Sets where more of it comes from. It is read when there is room in the
    /// pipe, and only while [`chunk`](Self::chunk) is awaited.
    pub(crate) fn feed_from(&mut self, source: RequestBody) {
        self.source = Some(source);
    }

    /// The next piece of output as it was written, or `None` once all of it
    /// was seen and the program has exited with code 0.
    ///
    /// Nothing is read ahead: a program whose output is not asked for soon
    /// waits in its own write, until its deadline at the latest.
    ///
    /// # Errors
    ///
    /// See [`RunError`]. What was written before the failure is handed out
    /// first; afterwards every call fails again.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before completing, no output is lost.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, RunError> {
        loop {
            if self.over_limit {
                return Err(RunError::TooMuchOutput { limit: self.max_output });
            }
            if self.cut {
                return Err(self.lost(io::Error::other("its input was cut")));
            }
            let bad_end = match *self.supervised.outcome.borrow() {
                Outcome::Running => false,
                Outcome::Done { .. } if self.ended => {
                    // Whoever is left has closed stdout and has nothing to add.
                    self.supervised.kill();
                    return Ok(None);
                }
                Outcome::Done { .. } => false,
                Outcome::Failed { .. } | Outcome::TimedOut { .. } => true,
            };
            self.make_room();
            if bad_end {
                // Its group is dead: what is in the pipe is all there will be.
                // Not awaited, as a descendant outside the group may hold it.
                if !self.ended && self.read_now()? > 0 {
                    return Ok(Some(self.take()));
                }
                return Err(self.failure());
            }
            // Each branch is cancel-safe: `read_buf` and `write` lose nothing.
            tokio::select! {
                biased;
                read = self.stdout.read_buf(&mut self.buffer), if !self.ended => match read {
                    Ok(0) => self.ended = true,
                    Ok(_) => return Ok(Some(self.take())),
                    Err(error) => return Err(self.lost(error)),
                },
                fed = feed(&mut self.stdin, &mut self.input, &mut self.source),
                    if self.stdin.is_some() =>
                {
                    if let Err(source) = fed {
                        // Before stdin is closed: what it has read is not all.
                        self.supervised.kill();
                        self.cut = true;
                        let output = ByteSize::new(self.taken);
                        return Err(RunError::Input { output, source });
                    }
                }
                changed = self.supervised.outcome.changed() => {
                    if changed.is_err() {
                        return Err(self.lost(io::Error::other("its supervisor is gone")));
                    }
                }
            }
        }
    }

    /// Everything that is left, and what was said on stderr.
    ///
    /// # Errors
    ///
    /// As [`chunk`](Self::chunk).
    pub async fn collect(mut self) -> Result<Output, RunError> {
        let mut whole = BytesMut::new();
        let mut only = Bytes::new();
        while let Some(chunk) = self.chunk().await? {
            // Most answers are one piece, and are not copied.
            if only.is_empty() && whole.is_empty() {
                only = chunk;
                continue;
            }
            whole.extend_from_slice(&std::mem::take(&mut only));
            whole.extend_from_slice(&chunk);
        }
        let stdout = if whole.is_empty() { only } else { whole.freeze() };
        let stderr = match &*self.supervised.outcome.borrow() {
            Outcome::Done { stderr } => stderr.clone(),
            Outcome::Running | Outcome::Failed { .. } | Outcome::TimedOut { .. } => String::new(),
        };
        Ok(Output { stdout, stderr, took: self.started.elapsed() })
    }

    fn make_room(&mut self) {
        if self.buffer.capacity() < CHUNK / 8 {
            self.buffer.reserve(CHUNK);
        }
    }

    /// Takes what was read, as much of it as the limit allows.
    fn take(&mut self) -> Bytes {
        let left = self.max_output.bytes() - self.taken;
        if self.buffer.len() as u64 > left {
            self.over_limit = true;
            self.supervised.kill();
            self.buffer.truncate(left as usize);
        }
        self.taken += self.buffer.len() as u64;
        self.buffer.split().freeze()
    }

    /// Reads what is in the pipe without waiting; 0 if there is nothing.
    fn read_now(&mut self) -> Result<usize, RunError> {
        let mut piece = [0; CHUNK];
        loop {
            match rustix::io::read(&self.stdout, &mut piece) {
                Ok(n) => {
                    self.ended = n == 0;
                    self.buffer.extend_from_slice(&piece[..n]);
                    return Ok(n);
                }
                Err(rustix::io::Errno::AGAIN) => return Ok(0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(self.lost(error.into())),
            }
        }
    }

    fn failure(&self) -> RunError {
        let output = ByteSize::new(self.taken);
        match self.supervised.outcome.borrow().clone() {
            Outcome::Failed { exit, stderr } => RunError::Failed { exit, output, stderr },
            Outcome::TimedOut { stderr } => {
                RunError::TimedOut { limit: self.timeout, output, stderr }
            }
            Outcome::Running | Outcome::Done { .. } => {
                RunError::Lost(io::Error::other("its end was not noticed"))
            }
        }
    }

    fn lost(&self, error: io::Error) -> RunError {
        self.supervised.kill();
        RunError::Lost(error)
    }
}

/// Brings the input a step further, and closes stdin after all of it, or when
/// the program reads no more: it may stop early and still succeed.
///
/// Cancel-safe: what was taken from the source is in `input`.
async fn feed(
    stdin: &mut Option<pipe::Sender>,
    input: &mut Bytes,
    source: &mut Option<RequestBody>,
) -> Result<(), schwann::Error> {
    let Some(pipe) = stdin else { return Ok(()) };
    if input.is_empty() {
        let next = match source {
            Some(source) => source.chunk().await?,
            None => None,
        };
        match next {
            Some(chunk) => *input = chunk,
            None => {
                *stdin = None;
                *source = None;
                return Ok(());
            }
        }
    }
    match pipe.write(input).await {
        Ok(n) => input.advance(n),
        Err(_) => {
            *stdin = None;
            *source = None;
        }
    }
    Ok(())
}
