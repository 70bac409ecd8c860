//! `cargo xtask bench`: what an operation costs in CPU time, ours beside bare hyper and Python, in one run.
//!
//! Every program under measurement is a process of its own, driven from another one. Its CPU time, user and system, is
//! read from its process clock before and after. Samples of the programs alternate, so that whatever else the machine
//! does meets all of them, and ratios are of samples taken next to each other.

use std::{fs, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::{
    peers,
    steps::{cargo, program, say},
    top,
};

mod cards;
mod etl;
mod part;
mod table;

use part::Part;
use table::{Goal, Measure, Row};

/// What to measure, and what to do with it.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Wish {
    /// Fewer and shorter samples: to see that it works, not for numbers
    #[arg(long)]
    quick: bool,
    /// Only measures whose name contains this
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Leave out the programs that need Python and the real SDKs
    #[arg(long)]
    no_peers: bool,
    /// How many samples of each program to take (default: 7, or 3 with --quick)
    #[arg(long, value_name = "COUNT")]
    samples: Option<usize>,
    /// Print JSON with every sample in place of the table
    #[arg(long)]
    json: bool,
    /// Write docs/BENCHMARKS.md
    #[arg(long, conflicts_with_all = ["quick", "only", "no_peers"])]
    write: bool,
}

/// What is measured against what.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Subject {
    Schwann,
    Hyper,
    Sdk10,
    Sdk7,
    FastApi,
    Threaded,
}

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Self::Schwann => "schwann",
            Self::Hyper => "bare hyper",
            Self::Sdk10 => "Python SDK 10.5.0",
            Self::Sdk7 => "Python SDK 7.4.0",
            Self::FastApi => "Python, FastAPI",
            Self::Threaded => "Python, threaded",
        }
    }

    fn is_python(self) -> bool {
        !matches!(self, Self::Schwann | Self::Hyper)
    }
}

const NATIVE: [Subject; 2] = [Subject::Schwann, Subject::Hyper];
const ALL: [Subject; 4] = [Subject::Schwann, Subject::Hyper, Subject::Sdk10, Subject::Sdk7];

/// Measures, prints, and writes if wished.
///
/// # Errors
///
/// Fails if something does not build or start, or answers otherwise than it should: a number that was not seen is not
/// printed.
pub(crate) fn run(wish: &Wish) -> Result<ExitCode> {
    let before = load_average();
    let mut bench = Bench::new(wish)?;
    if bench.synapse.is_some() {
        bench.axon()?;
        bench.junk()?;
        bench.streams()?;
        bench.fan_out()?;
    }
    bench.etl()?;
    bench.cards()?;
    if bench.rows.is_empty() {
        bail!("nothing is called {}", wish.only.as_deref().unwrap_or_default());
    }
    let goals = goals(&bench.rows);
    let machine = machine(&before)?;
    let mut out = std::io::stdout().lock();
    use std::io::Write as _;
    if wish.json {
        let rows: Vec<_> = bench.rows.iter().map(Row::json).collect();
        let goals: Vec<_> = goals.iter().map(Goal::json).collect();
        let all = json!({ "machine": machine, "rows": rows, "goals": goals });
        writeln!(out, "{all:#}")?;
    } else {
        writeln!(out, "{}", table::text(&bench.rows))?;
        for goal in &goals {
            writeln!(out, "{goal}")?;
        }
    }
    if wish.write {
        let path = top().join("docs/BENCHMARKS.md");
        fs::create_dir_all(top().join("docs")).context("cannot make docs")?;
        fs::write(&path, table::document(&machine, &bench.rows, &goals))
            .with_context(|| format!("cannot write {}", path.display()))?;
        say(format_args!("wrote docs/BENCHMARKS.md"));
    }
    Ok(ExitCode::SUCCESS)
}

struct Bench<'a> {
    wish: &'a Wish,
    samples: usize,
    synapse: Option<Synapse>,
    rows: Vec<Row>,
}

/// What measures of synapses need. Made when the first is wanted.
struct Synapse {
    peers: Option<peers::Peers>,
    binary: String,
    load: Part,
}

impl Synapse {
    fn new(wish: &Wish) -> Result<Self> {
        let peers = if wish.no_peers {
            None
        } else {
            Some(peers::prepare_those(|name| matches!(name, "sdk-10.5.0" | "sdk-7.4.0"))?)
        };
        let binary = built("schwann-synapse", "peers")?;
        let load = Part::start("load", program(&binary).arg("load"))?;
        Ok(Self { peers, binary, load })
    }
}

/// One sample: CPU seconds of the program under measurement, and what its driver saw.
struct Sample {
    cpu: f64,
    operations: f64,
    result: Value,
}

impl Sample {
    fn micros(&self) -> f64 {
        self.cpu / self.operations * 1e6
    }
}

impl<'a> Bench<'a> {
    fn new(wish: &'a Wish) -> Result<Self> {
        let samples = wish.samples.unwrap_or(if wish.quick { 3 } else { 7 }).max(1);
        let other = |only: &String| only.starts_with("etl") || only.starts_with("cards");
        let synapse =
            if wish.only.as_ref().is_some_and(other) { None } else { Some(Synapse::new(wish)?) };
        Ok(Self { wish, samples, synapse, rows: Vec::new() })
    }

    fn synapse(&self) -> &Synapse {
        self.synapse.as_ref().expect("measures of synapses run only if it is there")
    }

    fn is_wanted(&self, name: &str) -> bool {
        self.wish.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
    }

    fn wanted(&self, name: &str) -> bool {
        let wanted = self.is_wanted(name);
        if wanted {
            say(format_args!("measuring: {name}"));
        }
        wanted
    }

    fn scaled(&self, full: usize) -> usize {
        if self.wish.quick { (full / 4).max(1) } else { full }
    }

    /// The interpreter of an SDK, if Python is to be measured.
    fn python(&self, subject: Subject) -> Option<std::path::PathBuf> {
        let variable = match subject {
            Subject::Sdk10 => "SCHWANN_PEER_SDK_10_5",
            Subject::Sdk7 => "SCHWANN_PEER_SDK_7_4",
            _ => return None,
        };
        Some(self.synapse().peers.as_ref()?.interpreter(variable)?.to_owned())
    }

    /// A script of ours under an SDK.
    fn script(&self, subject: Subject, script: &str) -> Option<std::process::Command> {
        let mut python = program(self.python(subject)?);
        // What the SDK writes into its home is kept out of the real one.
        let home = top().join("target/bench-home").join(script);
        python.arg(format!("interop/{script}.py")).env("BT_INTEROP_HOME", home);
        Some(python)
    }

    fn axon_of(&self, subject: Subject) -> Result<Option<Part>> {
        let name = subject.name();
        let denied =
            self.synapse().load.ready()["denied"].as_str().context("no denied hotkey")?.to_owned();
        Ok(Some(match subject {
            Subject::Schwann => {
                Part::start(name, program(&self.synapse().binary).args(["axon", denied.as_str()]))?
            }
            Subject::Hyper => Part::start(name, program(&self.synapse().binary).arg("reference"))?,
            _ => {
                let Some(mut python) = self.script(subject, "py_axon") else { return Ok(None) };
                let port = part::free_port()?.to_string();
                let flags = ["--exit-on-stdin-close", "--deny-hotkey", denied.as_str()];
                Part::start(name, python.args(["--port", port.as_str()]).args(flags))?
            }
        }))
    }

    fn axons(&self, subjects: &[Subject]) -> Result<Vec<(Subject, Part)>> {
        let mut axons = Vec::new();
        for subject in subjects {
            if let Some(axon) = self.axon_of(*subject)? {
                axons.push((*subject, axon));
            }
        }
        Ok(axons)
    }

    /// Takes the samples of all programs in turn, forwards and backwards.
    fn alternate<T>(
        &mut self,
        measure: Measure,
        programs: &mut [T],
        label: impl Fn(&T) -> (Subject, String),
        mut sample: impl FnMut(&mut Self, &mut T, usize) -> Result<Option<Sample>>,
    ) -> Result<()> {
        let mut samples: Vec<Vec<Option<f64>>> = vec![Vec::new(); programs.len()];
        let mut notes: Vec<Vec<Value>> = vec![Vec::new(); programs.len()];
        for turn in 0..self.samples {
            let mut order: Vec<_> = (0..programs.len()).collect();
            if turn % 2 == 1 {
                order.reverse();
            }
            for at in order {
                let (_, name) = label(&programs[at]);
                let taken = sample(self, &mut programs[at], turn)
                    .with_context(|| format!("{}: {name}", measure.title))?;
                samples[at].push(taken.as_ref().map(Sample::micros));
                notes[at].extend(taken.map(|sample| sample.result));
            }
        }
        let labels: Vec<_> = programs.iter().map(&label).collect();
        self.rows.extend(table::rows(&measure, labels, samples, notes));
        Ok(())
    }

    /// Has the load generator do a job against one server.
    fn drive(&mut self, server: &Part, mut job: Value, expected: &str) -> Result<Sample> {
        job["port"] = server.ready()["port"].clone();
        job["hotkey"] = server.ready()["hotkey"].clone();
        let synapse = self.synapse.as_mut().context("no load generator")?;
        synapse.load.say(&job)?;
        synapse.load.hear()?;
        let before = server.cpu()?;
        synapse.load.say(&json!("go"))?;
        let result = synapse.load.hear()?;
        let cpu = (server.cpu()? - before).as_secs_f64();
        sampled(cpu, result, expected)
    }

    fn axon(&mut self) -> Result<()> {
        let cases = [
            ("axon-plain-1", "PlainSynapse", 1, 3000, 500),
            ("axon-plain-64", "PlainSynapse", 64, 8000, 1024),
            ("axon-echo-64", "EchoSynapse", 64, 8000, 512),
        ];
        let mut axons = None;
        for (name, synapse, connections, many, few) in cases {
            if !self.wanted(name) {
                continue;
            }
            let mut running = match axons.take() {
                Some(running) => running,
                None => self.axons(&ALL)?,
            };
            let plural = if connections == 1 { "" } else { "s" };
            let measure = Measure {
                name,
                title: format!("axon, {synapse}, {connections} connection{plural}"),
                unit: "request",
                base: Subject::Hyper.name(),
            };
            let (many, few) = (self.scaled(many), self.scaled(few).max(connections));
            self.alternate(
                measure,
                &mut running,
                |(subject, _)| (*subject, subject.name().to_owned()),
                |bench, (subject, axon), _| {
                    let requests = if subject.is_python() { few } else { many };
                    let job = json!({
                        "mode": "unary", "synapse": synapse, "kind": "good", "connections": connections,
                        "requests": requests,
                    });
                    bench.drive(axon, job, "200").map(Some)
                },
            )?;
            axons = Some(running);
        }
        Ok(())
    }

    fn junk(&mut self) -> Result<()> {
        let name = "junk";
        if !self.wanted(name) {
            return Ok(());
        }
        let axon = self.axon_of(Subject::Schwann)?.context("ours always starts")?;
        let mut kinds = [
            ("a good request", "good", "200"),
            ("a bad signature", "bad-signature", "401"),
            ("an unknown route", "unknown-route", "404"),
            ("a denied caller", "denied-caller", "403"),
        ];
        let requests = self.scaled(4000);
        let measure = Measure {
            name,
            title: "junk, PlainSynapse, 16 connections".to_owned(),
            unit: "request",
            base: "schwann, a good request",
        };
        self.alternate(
            measure,
            &mut kinds,
            |(text, _, _)| (Subject::Schwann, format!("schwann, {text}")),
            |bench, (_, kind, expected), _| {
                let job = json!({
                    "mode": "unary", "synapse": "PlainSynapse", "kind": kind, "connections": 16,
                    "requests": requests,
                });
                bench.drive(&axon, job, expected).map(Some)
            },
        )
    }

    fn streams(&mut self) -> Result<()> {
        // As fast as the clients read, set-up of the streams included.
        for (name, clients, tokens) in [
            ("stream-full-1", 1, 400_000),
            ("stream-full-100", 100, 10_000),
            ("stream-full-1000", 1000, 2000),
        ] {
            if !self.wanted(name) {
                continue;
            }
            let measure = Measure {
                name,
                title: format!("streaming at full speed, {}", clients_text(clients)),
                unit: "token",
                base: Subject::Hyper.name(),
            };
            let tokens = self.scaled(tokens);
            let mut axons = self.axons(&NATIVE)?;
            self.alternate(
                measure,
                &mut axons,
                |(subject, _)| (*subject, subject.name().to_owned()),
                |bench, (_, axon), _| {
                    let job = json!({
                        "mode": "stream", "synapse": "StreamSynapse", "kind": "good", "connections": clients,
                        "tokens": tokens,
                    });
                    bench.drive(axon, job, "").map(Some)
                },
            )?;
        }
        // A token each time a timer says so; counted from when all streams have begun.
        for (name, clients, delay) in [
            ("stream-paced-1", 1, 0.005),
            ("stream-paced-100", 100, 0.02),
            ("stream-paced-1000", 1000, 0.2),
        ] {
            if !self.wanted(name) {
                continue;
            }
            let millis = delay * 1e3;
            let measure = Measure {
                name,
                title: format!("streaming, a token each {millis} ms, {}", clients_text(clients)),
                unit: "token",
                base: Subject::Hyper.name(),
            };
            let window = if self.wish.quick { 1.0 } else { 3.0 };
            // More than the longest start and the window take, and no more than Python can make a list of.
            let tokens = (50.0 / delay) as u64;
            let mut axons: Vec<_> =
                self.axons(&NATIVE)?.into_iter().map(|(s, a)| (s, Some(a))).collect();
            for subject in [Subject::Sdk10, Subject::Sdk7] {
                if self.python(subject).is_some() {
                    axons.push((subject, None));
                }
            }
            self.alternate(
                measure,
                &mut axons,
                |(subject, _)| (*subject, subject.name().to_owned()),
                |bench, (subject, axon), turn| {
                    // Not even Python's own streams survive this one: its process is new each time, and three are enough.
                    let fresh;
                    let axon = match axon {
                        Some(axon) => axon,
                        None if turn >= 3 => return Ok(None),
                        None => {
                            fresh = bench.axon_of(*subject)?.context("looked for before")?;
                            &fresh
                        }
                    };
                    let job = json!({
                        "mode": "paced", "synapse": "StreamSynapse", "kind": "good", "connections": clients,
                        "tokens": tokens, "delay": delay, "window": window,
                    });
                    bench.drive(axon, job, "").map(Some)
                },
            )?;
        }
        Ok(())
    }

    fn fan_out(&mut self) -> Result<()> {
        let cases = [
            ("fan-out-kept", "fan-out to 256 axons, connections kept", false, true),
            ("fan-out-new", "fan-out to 256 axons, a new dendrite each time", false, false),
            ("fan-out-slow", "fan-out to 256 axons that take 1 s, timeout 2.5 s", true, true),
        ];
        let mut started = None;
        for (name, title, slow, kept) in cases {
            if !self.wanted(name) {
                continue;
            }
            let (axons, mut callers) = match started.take() {
                Some(started) => started,
                None => {
                    let axons = Part::start(
                        "axons",
                        program(&self.synapse().binary).args(["axons", "256"]),
                    )?;
                    (axons, self.callers()?)
                }
            };
            let measure = Measure {
                name,
                title: title.to_owned(),
                unit: "call",
                base: Subject::Hyper.name(),
            };
            let many = if slow { 1 } else { self.scaled(8) };
            let timeout = if slow { 2.5 } else { 60.0 };
            self.alternate(
                measure,
                &mut callers,
                |(subject, _)| (*subject, subject.name().to_owned()),
                |_, (subject, caller), turn| {
                    if subject.is_python() && turn >= 3 {
                        return Ok(None);
                    }
                    let job = |rounds: usize| {
                        json!({
                            "ports": axons.ready()["ports"], "hotkey": axons.ready()["hotkey"], "slow": slow,
                            "rounds": rounds, "timeout": timeout, "kept": kept,
                        })
                    };
                    if turn == 0 && !subject.is_python() {
                        // Connections are made, and memory is.
                        once(caller, &job(1))?;
                    }
                    let rounds = if subject.is_python() { 1 } else { many };
                    let (cpu, result) = once(caller, &job(rounds))?;
                    // Within a timeout is what this one is about.
                    sampled(cpu, result, if slow { "" } else { "200" }).map(Some)
                },
            )?;
            started = Some((axons, callers));
        }
        Ok(())
    }

    fn callers(&self) -> Result<Vec<(Subject, Part)>> {
        let mut callers = vec![
            (
                Subject::Schwann,
                Part::start("fan-out", program(&self.synapse().binary).arg("fan-out"))?,
            ),
            (
                Subject::Hyper,
                Part::start(
                    "fan-out-reference",
                    program(&self.synapse().binary).arg("fan-out-reference"),
                )?,
            ),
        ];
        for subject in [Subject::Sdk10, Subject::Sdk7] {
            if let Some(mut python) = self.script(subject, "py_fanout") {
                callers.push((subject, Part::start(subject.name(), &mut python)?));
            }
        }
        Ok(callers)
    }
}

/// Has a caller do a job, and says what CPU time it took.
fn once(caller: &mut Part, job: &Value) -> Result<(f64, Value)> {
    caller.say(job)?;
    caller.hear()?;
    let before = caller.cpu()?;
    caller.say(&json!("go"))?;
    let result = caller.hear()?;
    Ok(((caller.cpu()? - before).as_secs_f64(), result))
}

/// Fails if an operation ended otherwise than `expected`: what was meant to be measured was not.
fn sampled(cpu: f64, result: Value, expected: &str) -> Result<Sample> {
    let operations = result["operations"].as_f64().filter(|count| *count > 0.0);
    let operations = operations.with_context(|| format!("nothing was done: {result}"))?;
    if let Some(codes) = result["codes"].as_object()
        && !expected.is_empty()
        && codes.keys().any(|code| code != expected)
    {
        bail!("expected {expected} only: {result}");
    }
    Ok(Sample { cpu, operations, result })
}

fn clients_text(clients: usize) -> String {
    match clients {
        1 => "1 client".to_owned(),
        _ => format!("{clients} clients"),
    }
}

/// Builds the programs of a crate that are measured, and says where they are.
fn built(package: &str, bench: &str) -> Result<String> {
    say(format_args!("building what is measured"));
    let out = cargo(&["build", "--release", "--package", package, "--bench", bench])
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !out.status.success() {
        bail!("what is to be measured does not build; the compiler's message is above");
    }
    let built = String::from_utf8_lossy(&out.stdout);
    let binary = built
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|message| {
            let ours = message["target"]["name"] == bench;
            ours.then(|| message["executable"].as_str().map(str::to_owned))?
        });
    binary.context("cargo names no executable")
}

/// What the issue asks for, and whether it was seen. A goal that was not measured is not listed.
fn goals(rows: &[Row]) -> Vec<Goal> {
    let mut goals = Vec::new();
    let mut most = |text: &str, limit: f64, seen: Option<f64>| {
        goals.extend(seen.map(|seen| Goal { text: text.to_owned(), limit, seen, at_least: false }));
    };
    for name in ["axon-plain-1", "axon-plain-64", "axon-echo-64"] {
        most(
            &format!("{name}: at most 1.2 × bare hyper"),
            1.2,
            ratio(rows, name, Subject::Schwann),
        );
    }
    for row in rows.iter().filter(|row| row.measure == "junk" && !row.is_base) {
        most(&format!("junk: {} costs no more than a good one", row.label), 1.0, row.to_base);
    }
    for name in [
        "stream-full-1",
        "stream-full-100",
        "stream-full-1000",
        "stream-paced-1",
        "stream-paced-100",
        "stream-paced-1000",
    ] {
        most(
            &format!("{name}: at most 1.3 × bare hyper"),
            1.3,
            ratio(rows, name, Subject::Schwann),
        );
    }
    for (name, subject, limit) in [
        ("axon-plain-64", Subject::Sdk10, 60.0),
        ("axon-plain-64", Subject::Sdk7, 30.0),
        ("fan-out-new", Subject::Sdk10, 50.0),
        ("fan-out-kept", Subject::Sdk10, 50.0),
    ] {
        let row = rows.iter().find(|row| row.measure == name && row.label == subject.name());
        goals.extend(row.and_then(|row| row.to_ours).map(|seen| Goal {
            text: format!("{name}: at least {limit} times less CPU than {}", subject.name()),
            limit,
            seen,
            at_least: true,
        }));
    }
    goals.extend(etl::goals(rows));
    goals.extend(cards::goals(rows));
    if let Some(row) = rows
        .iter()
        .find(|row| row.measure == "fan-out-slow" && row.label == Subject::Schwann.name())
    {
        let all = row.share_of("200");
        goals.push(Goal {
            text: "fan-out-slow: all calls return within their timeout".to_owned(),
            limit: 1.0,
            seen: all,
            at_least: true,
        });
    }
    goals
}

fn ratio(rows: &[Row], name: &str, subject: Subject) -> Option<f64> {
    rows.iter().find(|row| row.measure == name && row.label == subject.name())?.to_base
}

/// Where and with what it was measured.
fn machine(before: &str) -> Result<Value> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let kernel =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel")?;
    let asked = |name: &str, args: &[&str]| {
        let out = program(name).args(args).output().ok().filter(|out| out.status.success());
        out.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    let lock = fs::read_to_string(top().join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let version = |name: &str| {
        let entry = lock
            .split("[[package]]")
            .find(|entry| entry.lines().any(|line| line == format!("name = \"{name}\"")))?;
        entry.lines().find_map(|line| Some(line.strip_prefix("version = ")?.replace('"', "")))
    };
    Ok(json!({
        "date": asked("date", &["-u", "+%Y-%m-%d"]),
        "cpu": field("model name"),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "kernel": kernel.trim(),
        "rustc": asked("rustc", &["--version"]),
        "commit": asked("git", &["rev-parse", "--short", "HEAD"]),
        "hyper": version("hyper"),
        "tokio": version("tokio"),
        "schnorrkel": version("schnorrkel"),
        "load_average_before": before,
        "load_average_after": load_average(),
    }))
}

fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}
