//! Cards beside a bare pipe and what one would write in Python.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{
    Bench, Subject, built,
    part::Part,
    sampled,
    table::{self, Goal, Measure, Row},
};
use crate::{
    peers,
    steps::{program, say},
    top,
};

/// One line each, and no pause between them. Python writes a line and its end by two system calls.
const LINES: &str = "for i in range(COUNT): print(f'this is line {i}')";
/// Everything in few large pieces, as a program does that buffers its output.
const BLOCKS: &str = "import sys
out = open(1, 'w', buffering=65536, closefd=False)
for i in range(COUNT): out.write(f'this is line {i}\\n')
out.flush()";
/// What the clock says at the moment of the write. No pace that a timer of the server could fall in with.
const CLOCK: &str = "import os, random, time
for i in range(COUNT):
    os.write(1, b'%d\\n' % time.monotonic_ns())
    time.sleep(random.uniform(0.002, 0.008))";
const STAY: &str = "import time
print('first')
time.sleep(100)";
const READY: &str = "import time
print('ready')
time.sleep(100)";

const TEXT: &str = "text/plain";
const EVENTS: &str = "text/event-stream";

/// One measure.
struct Case {
    name: &'static str,
    title: &'static str,
    unit: &'static str,
    mode: &'static str,
    code: &'static str,
    /// Whose, and as what they send it.
    subjects: &'static [(Subject, &'static str)],
    count: usize,
    /// No more samples than this.
    samples: usize,
}

const ALL: &[(Subject, &str)] = &[
    (Subject::Schwann, TEXT),
    (Subject::Schwann, EVENTS),
    (Subject::Hyper, TEXT),
    (Subject::FastApi, TEXT),
    (Subject::Threaded, TEXT),
];
const OURS: &[(Subject, &str)] = &[(Subject::Schwann, TEXT)];

const CASES: &[Case] = &[
    Case {
        name: "cards-lines",
        title: "one run, a line after the other",
        unit: "line",
        mode: "lines",
        code: LINES,
        subjects: ALL,
        count: 1_000_000,
        samples: 5,
    },
    Case {
        name: "cards-blocks",
        title: "one run, lines in large pieces",
        unit: "line",
        mode: "lines",
        code: BLOCKS,
        subjects: &[ALL[0], ALL[2], ALL[3]],
        count: 1_000_000,
        samples: 5,
    },
    Case {
        name: CLOCK_NAME,
        title: "one run, a line every 5 ms",
        unit: "line",
        mode: "clock",
        code: CLOCK,
        subjects: &[ALL[0], ALL[2], ALL[3], ALL[4]],
        count: 400,
        samples: 5,
    },
    Case {
        name: "cards-start",
        title: "200 runs at once, ended when all have printed",
        unit: "run",
        mode: "start",
        code: STAY,
        subjects: OURS,
        count: 200,
        samples: 3,
    },
    Case {
        name: "cards-cancel",
        title: "runs that are cancelled",
        unit: "run",
        mode: "cancel",
        code: READY,
        subjects: &[(Subject::Schwann, EVENTS)],
        count: 20,
        samples: 3,
    },
];

const CLOCK_NAME: &str = "cards-clock";

/// Python takes longer, so it gets less of the work, and fewer samples.
const PYTHON_SAMPLES: usize = 3;

impl Case {
    fn count_for(&self, subject: Subject) -> usize {
        match (self.mode, subject) {
            ("lines", Subject::FastApi) => self.count / 8,
            ("lines", Subject::Threaded) => self.count / 100,
            _ => self.count,
        }
    }
}

impl Bench<'_> {
    /// All of them that are wanted.
    pub(super) fn cards(&mut self) -> Result<()> {
        let wanted: Vec<_> = CASES.iter().filter(|case| self.is_wanted(case.name)).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        // The environment of AIStore's servers has the same FastAPI and uvicorn.
        let peers = match self.wish.no_peers {
            true => None,
            false => Some(peers::prepare_those(|name| name == peers::ETL_SERVERS)?),
        };
        let fast_api = peers.as_ref().and_then(|peers| peers.interpreter("SCHWANN_PEER_AISTORE"));
        let python = interpreter()?;
        let binary = built("schwann-cards", "cards")?;
        let folder = log_folder();
        if folder.exists() {
            fs::remove_dir_all(&folder).context("cannot remove the last measure's folder")?;
        }
        let mut load = Part::start("cards load", program(&binary).arg("load"))?;
        let mut servers = Vec::new();
        for subject in [Subject::Schwann, Subject::Hyper, Subject::FastApi, Subject::Threaded] {
            let mut command = match (subject, fast_api) {
                (Subject::Schwann, _) => {
                    let mut command = program(&binary);
                    command.arg("server").arg(&folder);
                    // It takes the first `python3` there.
                    let own = Path::new(&python).parent().context("a Python without a folder")?;
                    command.env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", own.display()));
                    command
                }
                (Subject::Hyper, _) => {
                    let mut command = program(&binary);
                    command.args(["reference", &python]);
                    command
                }
                (_, None) => continue,
                (_, Some(interpreter)) => {
                    let kind = if subject == Subject::FastApi { "async" } else { "threaded" };
                    let mut command = program(interpreter);
                    command.args(["interop/cards/naive_server.py", kind, &python]);
                    command
                }
            };
            servers.push((subject, Part::start(subject.name(), &mut command)?));
        }
        for case in wanted {
            say(format_args!("measuring: {}", case.name));
            self.cards_case(case, &servers, &mut load)?;
        }
        drop(servers);
        fs::remove_dir_all(&folder).context("cannot remove the measure's folder")
    }

    fn cards_case(
        &mut self,
        case: &Case,
        servers: &[(Subject, Part)],
        load: &mut Part,
    ) -> Result<()> {
        let named = |wanted: Subject| servers.iter().find(|(subject, _)| *subject == wanted);
        let mut subjects: Vec<_> = case
            .subjects
            .iter()
            .filter_map(|(subject, accept)| Some((*subject, *accept, &named(*subject)?.1)))
            .collect();
        let has_hyper = case.subjects.iter().any(|(subject, _)| *subject == Subject::Hyper);
        let measure = Measure {
            name: case.name,
            title: format!("cards: {}", case.title),
            unit: case.unit,
            base: if has_hyper { Subject::Hyper.name() } else { Subject::Schwann.name() },
        };
        let alone = case.subjects.len() == 1;
        self.alternate(
            measure,
            &mut subjects,
            |(subject, accept, _)| {
                let events = *accept == EVENTS && !alone;
                (*subject, format!("{}{}", subject.name(), if events { ", events" } else { "" }))
            },
            |bench, (subject, accept, server), turn| {
                let most = if subject.is_python() { PYTHON_SAMPLES } else { case.samples };
                if turn >= most {
                    return Ok(None);
                }
                let count = bench.scaled(case.count_for(*subject));
                let job = json!({
                    "port": server.ready()["port"], "api": server.ready()["api"], "mode": case.mode,
                    "accept": accept, "code": case.code.replace("COUNT", &count.to_string()), "count": count,
                });
                let disk = match case.name == CLOCK_NAME && *subject == Subject::Schwann {
                    true => Some(disk(&log_folder())?),
                    false => None,
                };
                load.say(&job)?;
                load.hear()?;
                let (before, children) = (server.cpu()?, server.children()?);
                load.say(&json!("go"))?;
                let mut result: Value = load.hear()?;
                let cpu = (server.cpu()? - before).as_secs_f64();
                let children = (server.children()? - children).as_secs_f64();
                let mut sample = sampled(cpu, result.take(), "")?;
                sample.result["children_us"] = json!(children / sample.operations * 1e6);
                sample.result["disk_us"] = json!(disk);
                Ok(Some(sample))
            },
        )
    }
}

/// Where our server keeps its logs.
fn log_folder() -> PathBuf {
    top().join("target/bench-cards")
}

/// How long the disk itself takes for a line, in microseconds: half of a hundred short appends and their `fdatasync` took no
/// longer. Everything else that waits for the disk is on it when this begins.
fn disk(folder: &Path) -> Result<f64> {
    const LINE: [u8; 64] = [b'-'; 64];
    let done = program("sync").status().context("cannot run sync")?;
    anyhow::ensure!(done.success(), "sync failed");
    let path = folder.join("disk");
    let file = File::create(&path).context("cannot make a file beside the logs")?;
    let mut took = Vec::new();
    for at in 0..100 {
        // As far apart as the lines that are measured.
        thread::park_timeout(Duration::from_millis(5));
        let began = Instant::now();
        file.write_all_at(&LINE, at * LINE.len() as u64)?;
        file.sync_data()?;
        took.push(began.elapsed().as_secs_f64() * 1e6);
    }
    fs::remove_file(&path)?;
    table::median(took).context("no time was taken")
}

/// The Python that programs are run with: in an environment in which nothing is installed. What a machine's own Python imports
/// at each start (`.pth` files of its packages can be any code) is not what is measured.
fn interpreter() -> Result<String> {
    let folder = top().join("target/bench-python");
    let made =
        program("python3").args(["-m", "venv", "--clear", "--without-pip"]).arg(&folder).output();
    let made = made.context("cannot run python3, in which the programs of cards are written")?;
    anyhow::ensure!(
        made.status.success(),
        "python3 cannot make an environment: {}",
        String::from_utf8_lossy(&made.stderr).trim()
    );
    Ok(folder.join("bin/python3").display().to_string())
}

/// What is to be said of a row besides its CPU time.
pub(super) fn remark(row: &Row) -> Option<String> {
    let said = |name: &str| row.typical(name);
    Some(match row.measure {
        "cards-lines" | "cards-blocks" => {
            format!("{:.2} µs of its program besides", said("children_us")?)
        }
        CLOCK_NAME => {
            let times =
                format!("write to read: {:.0} µs, p99 {:.0} µs", said("p50_us")?, said("p99_us")?);
            match said("disk_us") {
                Some(disk) => format!("{times}; the disk alone: {disk:.0} µs"),
                None => times,
            }
        }
        "cards-start" => format!("first line of the last after {:.0} ms", said("first_most_ms")?),
        "cards-cancel" => {
            let (half, most) = (said("cancel_p50_ms")?, said("cancel_most_ms")?);
            format!("to the last record: {half:.1} ms, at most {most:.1} ms")
        }
        _ => return None,
    })
}

/// What the issue asks for.
pub(super) fn goals(rows: &[Row]) -> Vec<Goal> {
    let row = |name: &str, subject: Subject| {
        rows.iter().find(|row| row.measure == name && row.label == subject.name())
    };
    let mut goals = Vec::new();
    let mut add = |text: &str, limit: f64, seen: Option<f64>, at_least: bool| {
        goals.extend(seen.map(|seen| Goal { text: text.to_owned(), limit, seen, at_least }));
    };
    let ours = |name| row(name, Subject::Schwann);
    let seen = ours("cards-lines").map(Row::micros);
    add("cards-lines: at most 0.6 s for a million, sandbox and log included", 0.6, seen, false);
    let seen = row("cards-lines", Subject::FastApi).and_then(|row| row.to_ours);
    add("cards-lines: at least 10 times less CPU than FastAPI", 10.0, seen, true);
    let clock = |what| ours(CLOCK_NAME).and_then(|row| row.typical(what)).map(|us| us / 1e3);
    add("cards-clock: half of the lines within 0.25 ms", 0.25, clock("p50_us"), false);
    add("cards-clock: 99 % of the lines within 2 ms", 2.0, clock("p99_us"), false);
    let seen = ours("cards-start").and_then(|row| row.typical("first_most_ms"));
    add(
        "cards-start: the first line of the last of 200 within 3 s",
        3.0,
        seen.map(|ms| ms / 1e3),
        false,
    );
    let seen = ours("cards-cancel").and_then(|row| row.typical("cancel_most_ms"));
    add("cards-cancel: the last record within 50 ms", 50.0, seen, false);
    goals
}
