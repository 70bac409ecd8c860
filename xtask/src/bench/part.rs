//! A process that takes part in a measurement.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{time::ClockId, unistd::Pid};
use serde_json::Value;

/// Longer than anything that is measured takes.
const PATIENCE: Duration = Duration::from_secs(180);

/// A process that says one JSON line when it is ready, and one for each it is told. Killed when dropped.
pub(crate) struct Part {
    name: String,
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    ready: Value,
    clock: ClockId,
}

impl Part {
    /// Starts it and waits until it is ready.
    pub(crate) fn start(name: &str, command: &mut Command) -> Result<Self> {
        // The SDKs log there, and what they log is not about this.
        let quiet = command.get_args().any(|arg| arg.to_string_lossy().ends_with(".py"));
        let stderr = if quiet { Stdio::null() } else { Stdio::inherit() };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let input = child.stdin.take().expect("piped above");
        let output = child.stdout.take().expect("piped above");
        let (sender, lines) = sync_channel(16);
        thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let pid = Pid::from_raw(i32::try_from(child.id()).context("a process id")?);
        let clock = ClockId::pid_cpu_clock_id(pid).context("no clock of that process")?;
        let name = name.to_owned();
        let mut part = Self { name, child, input, lines, ready: Value::Null, clock };
        part.ready = part.hear()?;
        Ok(part)
    }

    /// What it said when it was ready.
    pub(crate) fn ready(&self) -> &Value {
        &self.ready
    }

    pub(crate) fn say(&mut self, line: &Value) -> Result<()> {
        writeln!(self.input, "{line}").with_context(|| format!("{} is gone", self.name))?;
        self.input.flush().with_context(|| format!("{} is gone", self.name))
    }

    /// Its next line.
    pub(crate) fn hear(&mut self) -> Result<Value> {
        let line = match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => bail!("{} does not answer", self.name),
            Err(RecvTimeoutError::Disconnected) => bail!("{} ended", self.name),
        };
        serde_json::from_str(&line).with_context(|| format!("{} said: {line}", self.name))
    }

    /// The CPU time it has taken so far, user and system, all threads.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let now = self.clock.now().with_context(|| format!("{} is gone", self.name))?;
        Ok(now.into())
    }

    /// The CPU time of those of its children that have ended, and of theirs.
    pub(crate) fn children(&self) -> Result<Duration> {
        // proc_pid_stat(5): fields 16 and 17, in ticks, of which Linux shows 100 a second everywhere.
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let (_, fields) = stat.rsplit_once(')').context("no name in it")?;
        let ticks = |at: usize| fields.split_whitespace().nth(at - 3)?.parse::<u64>().ok();
        let ticks = ticks(16).zip(ticks(17)).context("no times of children in it")?;
        Ok(Duration::from_millis((ticks.0 + ticks.1) * 10))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody listens on at this moment, for programs that must be told one.
pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("no free port")?;
    Ok(listener.local_addr()?.port())
}
