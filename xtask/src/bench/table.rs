//! Medians, ratios pair by pair, and the table.

use std::fmt::{self, Write as _};

use serde_json::{Value, json};

use super::Subject;

/// What is measured, of one program after the other.
#[derive(Clone, Debug)]
pub(crate) struct Measure {
    pub(crate) name: &'static str,
    pub(crate) title: String,
    /// What one operation is.
    pub(crate) unit: &'static str,
    /// The label that others are compared with.
    pub(crate) base: &'static str,
}

/// What one program took.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) measure: &'static str,
    title: String,
    unit: &'static str,
    pub(crate) label: String,
    pub(crate) is_base: bool,
    /// CPU microseconds per operation, in the order they were taken.
    samples: Vec<f64>,
    /// The median of the ratios to the samples of the base in the same turns.
    pub(crate) to_base: Option<f64>,
    /// The same, to ours.
    pub(crate) to_ours: Option<f64>,
    seen: Vec<Value>,
}

pub(crate) fn rows(
    measure: &Measure,
    labels: Vec<(Subject, String)>,
    samples: Vec<Vec<Option<f64>>>,
    seen: Vec<Vec<Value>>,
) -> Vec<Row> {
    let base = labels.iter().position(|(_, label)| *label == measure.base);
    let ours = labels.iter().position(|(subject, _)| *subject == Subject::Schwann);
    let ratio = |at: usize, to: Option<usize>| {
        let pairs = samples[at].iter().zip(&samples[to?]);
        median(pairs.filter_map(|(a, b)| Some((*a)? / (*b)?)).collect())
    };
    let described = labels.iter().zip(seen).enumerate();
    described
        .map(|(at, ((_, label), seen))| Row {
            measure: measure.name,
            title: measure.title.clone(),
            unit: measure.unit,
            label: label.clone(),
            is_base: base == Some(at),
            samples: samples[at].iter().filter_map(|sample| *sample).collect(),
            to_base: ratio(at, base),
            to_ours: ratio(at, ours),
            seen,
        })
        .collect()
}

pub(super) fn median(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() {
        0 => None,
        count if count % 2 == 1 => Some(numbers[middle]),
        _ => Some((numbers[middle - 1] + numbers[middle]) / 2.0),
    }
}

impl Row {
    pub(crate) fn micros(&self) -> f64 {
        median(self.samples.clone()).unwrap_or(f64::NAN)
    }

    /// The share of operations that ended with this status, over all samples.
    pub(crate) fn share_of(&self, code: &str) -> f64 {
        let count = |value: &Value| value.as_f64().unwrap_or_default();
        let all: f64 = self.seen.iter().map(|seen| count(&seen["operations"])).sum();
        let these: f64 = self.seen.iter().map(|seen| count(&seen["codes"][code])).sum();
        these / all
    }

    /// The most that was seen of this, over all samples.
    pub(crate) fn most(&self, what: &str) -> f64 {
        self.seen.iter().filter_map(|seen| seen[what].as_f64()).fold(0.0, f64::max)
    }

    /// The median of what the samples saw of this, if they looked at it.
    pub(crate) fn typical(&self, what: &str) -> Option<f64> {
        median(self.seen.iter().filter_map(|seen| seen[what].as_f64()).collect())
    }

    /// What is to be said besides numbers: statuses, where not all are the same.
    fn remark(&self) -> String {
        if self.measure == super::etl::PARALLEL {
            let middle = self.seen.iter().filter_map(|seen| seen["health_p50_ms"].as_f64());
            let middle = median(middle.collect()).unwrap_or(f64::NAN);
            let most = self.most("health_ms");
            return format!("/health within {most:.1} ms, most often {middle:.1}");
        }
        if self.measure != "fan-out-slow" {
            return super::cards::remark(self).unwrap_or_default();
        }
        format!("{:.0} % in time", self.share_of("200") * 100.0)
    }

    fn cells(&self) -> [String; 8] {
        let times = |ratio: Option<f64>| match ratio {
            Some(ratio) if ratio >= 10.0 => format!("{ratio:.0}"),
            Some(ratio) => format!("{ratio:.2}"),
            None => String::new(),
        };
        let least = self.samples.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.samples.iter().copied().fold(0.0, f64::max);
        [
            self.title.clone(),
            self.label.clone(),
            micros(self.micros()),
            format!("{} to {}", micros(least), micros(most)),
            format!("{:.0}", 1e6 / self.micros()),
            times(self.to_base),
            times(self.to_ours),
            self.remark(),
        ]
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "measure": self.measure, "title": self.title, "program": self.label, "per": self.unit,
            "cpu_us_median": self.micros(), "cpu_us": self.samples, "times_reference": self.to_base,
            "times_schwann": self.to_ours, "seen": self.seen,
        })
    }
}

fn micros(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.3}"),
    }
}

const HEADS: [&str; 8] = [
    "measured",
    "program",
    "CPU µs each",
    "least to most",
    "per CPU second",
    "× reference",
    "× schwann",
    "",
];

/// The table as people read it on a terminal, which is Markdown too.
pub(crate) fn text(rows: &[Row]) -> String {
    let mut cells = Vec::new();
    let mut last = "";
    for row in rows {
        let mut line = row.cells();
        line[0] = format!("{}, per {}", line[0], row.unit);
        if row.title == last {
            line[0].clear();
        }
        last = &row.title;
        cells.push(line);
    }
    let mut widths = HEADS.map(|head| head.chars().count());
    for line in &cells {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let mut write = |line: &[String; 8]| {
        for (at, (cell, width)) in line.iter().zip(widths).enumerate() {
            let pad = " ".repeat(width - cell.chars().count());
            let numeric = (2..7).contains(&at);
            let (before, after) = if numeric { (pad.as_str(), "") } else { ("", pad.as_str()) };
            // Writing to a String does not fail.
            let _ = write!(out, "| {before}{cell}{after} ");
        }
        out.push_str("|\n");
    };
    write(&HEADS.map(str::to_owned));
    let mut rule = widths.map(|width| "-".repeat(width));
    for cell in &mut rule[2..7] {
        cell.pop();
        cell.push(':');
    }
    write(&rule);
    cells.iter().for_each(write);
    out
}

/// Something to reach.
#[derive(Clone, Debug)]
pub(crate) struct Goal {
    pub(crate) text: String,
    pub(crate) limit: f64,
    pub(crate) seen: f64,
    pub(crate) at_least: bool,
}

impl Goal {
    fn is_met(&self) -> bool {
        if self.at_least { self.seen >= self.limit } else { self.seen <= self.limit }
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "goal": self.text, "seen": self.seen, "met": self.is_met() })
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.is_met() { "met" } else { "MISSED" };
        write!(f, "{word:>6}  {:>7.2}  {}", self.seen, self.text)
    }
}

/// docs/BENCHMARKS.md.
pub(crate) fn document(machine: &Value, rows: &[Row], goals: &[Goal]) -> String {
    let fact = |name: &str| match &machine[name] {
        Value::String(text) => text.clone(),
        Value::Null => "unknown".to_owned(),
        other => other.to_string(),
    };
    let mut met = String::new();
    for goal in goals {
        let word = if goal.is_met() { "met" } else { "**missed**" };
        let _ = writeln!(met, "| {} | {:.2} | {word} |", goal.text, goal.seen);
    }
    format!(
        "# What an operation costs

Written by `cargo xtask bench --write`; do not edit. Every number below was measured in one run.

| | |
| --- | --- |
| date | {date} |
| commit | {commit} |
| machine | {cpu}, {cores} cores, Linux {kernel} |
| load average | {before} before, {after} after |
| built with | {rustc}, release profile |
| libraries | hyper {hyper}, tokio {tokio}, schnorrkel {schnorrkel} |

## Table

CPU time is user and system of the process under measurement, all threads, from its process clock. Each program is a
process of its own on the loopback interface, driven from another process with the same bytes. Samples of the programs
alternate; the middle column is their median, and the ratios are medians of ratios of samples taken in the same turn.
The programs of cards are run by the Python of an environment in which nothing is installed.

{table}
## Goals

| goal | seen | |
| --- | ---: | --- |
{met}
## What stands behind the names

* **bare hyper**, as a server: hyper's HTTP/1.1 with TCP_NODELAY, the same 13 synapse headers read, one sr25519
  signature verified with a cached public key, the body parsed by serde_json into a struct and answered with 17
  synapse headers. It remembers no nonce, compares no hash, and keeps no limit or deadline. Streams: a body that drives
  its producer, one chunk per token.
* **bare hyper**, as a client: hyper-util's pool, the same headers, one signature, serde_json both ways.
* **schwann**: the axon and the dendrite with default settings.
* **Python**: the real SDK, `interop/py_axon.py` and `interop/py_fanout.py`, on the interpreter and the packages that
  `cargo xtask peers` pins. It gets fewer operations per sample, for it takes longer.
* *Streaming at full speed* counts from the first request to the last token. *A token each N ms* counts from when all
  streams have begun, for three seconds.
* **ETL**: our server with a builtin transform and default settings; a hyper server that sends each body back; and the
  FastAPI and the threaded server of AIStore's SDK 2.0.0 with the same transforms (`interop/etl/reference_app.py`). Per MB
  is per million bytes of the object: 1000 µs per MB is 1 s per GB. Python's 1 GiB is 256 MiB.
* **Cards**: our application with default settings, room for 256 runs at once, the sandbox that this machine has, SQLite and
  a log on disk; a hyper server that sends what the program prints, read from a pipe; and FastAPI's `StreamingResponse` over
  an asyncio subprocess, or over a thread's (`interop/cards/naive_server.py`). The last three have no account, no sandbox and no log. All
  run the same program with the same interpreter, and send plain text; *events* are server-sent events. What is counted is the server's own
  process, for all of them; the program's time is said beside it, with ours that of the sandbox's processes as well. Python gets fewer lines.
  *Write to read* is from the program's `write` to the client's `read` by the same clock, with ours the log's `fdatasync` between them; each
  number is the median of the samples'. *The disk alone* is what a short append and its `fdatasync` take in a file beside the logs,
  measured before each of our samples, when a `sync` has put everything else on disk.
* *Junk* is what must not cost more than a good request: the ratio is to that.

`cargo xtask bench --only axon --quick` for a first look; `--json` has every sample.
",
        date = fact("date"),
        commit = fact("commit"),
        cpu = fact("cpu"),
        cores = fact("cores"),
        kernel = fact("kernel"),
        before = fact("load_average_before"),
        after = fact("load_average_after"),
        rustc = fact("rustc"),
        hyper = fact("hyper"),
        tokio = fact("tokio"),
        schnorrkel = fact("schnorrkel"),
        table = text(rows),
    )
}
