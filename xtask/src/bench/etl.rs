//! The ETL face beside bare hyper and the Python servers of AIStore's SDK.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{
    Bench, Subject, built,
    part::Part,
    sampled,
    table::{Goal, Measure, Row},
};
use crate::{
    peers,
    steps::{program, say},
    top,
};

const SUBJECTS: [Subject; 4] =
    [Subject::Schwann, Subject::Hyper, Subject::FastApi, Subject::Threaded];
const PYTHON: [Subject; 3] = [Subject::Schwann, Subject::FastApi, Subject::Threaded];
const SOCKETS: [Subject; 2] = [Subject::Schwann, Subject::FastApi];

/// Python takes longer, so it gets this share of the work, and so many samples.
const SHARE: usize = 8;
const SAMPLES: usize = 3;

const MIB: u64 = 1 << 20;

/// One measure.
struct Case {
    name: &'static str,
    title: &'static str,
    subjects: &'static [Subject],
    /// Of our builtins; of the SDK's transforms, which may be buffered.
    ours: &'static str,
    theirs: &'static str,
    mode: &'static str,
    size: u64,
    connections: usize,
    requests: usize,
    /// The object is a file of this size.
    file: Option<u64>,
    delivers: bool,
}

const CASE: Case = Case {
    name: "",
    title: "",
    subjects: &SUBJECTS,
    ours: "echo",
    theirs: "echo",
    mode: "put",
    size: 1024,
    connections: 32,
    requests: 0,
    file: None,
    delivers: false,
};

const CASES: &[Case] = &[
    Case { name: "etl-put-1k", title: "echo, 1 KiB, 32 connections", requests: 16_000, ..CASE },
    Case {
        name: "etl-fqn-1k",
        title: "echo, file of 1 KiB, 32 connections",
        subjects: &PYTHON,
        requests: 16_000,
        size: 0,
        file: Some(1024),
        ..CASE
    },
    Case {
        name: "etl-fqn-put-1k",
        title: "echo, file of 1 KiB to a destination, 8 connections",
        subjects: &PYTHON,
        requests: 6000,
        connections: 8,
        size: 0,
        file: Some(1024),
        delivers: true,
        ..CASE
    },
    Case {
        name: "etl-ws-1k",
        title: "echo over WebSocket, 1 KiB, 4 connections",
        subjects: &SOCKETS,
        mode: "web-socket",
        connections: 4,
        requests: 32_000,
        ..CASE
    },
    Case {
        name: "etl-echo-1m",
        title: "streaming echo, 1 MiB, 4 connections",
        theirs: "echo_stream",
        size: MIB,
        connections: 4,
        requests: 512,
        ..CASE
    },
    Case {
        name: "etl-md5-1m",
        title: "md5, 1 MiB, 4 connections",
        subjects: &PYTHON,
        ours: "md5",
        theirs: "md5",
        size: MIB,
        connections: 4,
        requests: 256,
        ..CASE
    },
    Case {
        name: "etl-upper-1m",
        title: "upper, 1 MiB, 4 connections",
        subjects: &PYTHON,
        ours: "upper",
        theirs: "upper",
        size: MIB,
        connections: 4,
        requests: 512,
        ..CASE
    },
    Case {
        name: "etl-echo-1g",
        title: "streaming echo, 1 GiB",
        theirs: "echo_stream",
        size: 1024 * MIB,
        connections: 1,
        requests: 1,
        ..CASE
    },
    Case {
        name: "etl-md5-1g",
        title: "md5, 1 GiB",
        subjects: &PYTHON,
        ours: "md5",
        theirs: "md5_stream",
        size: 1024 * MIB,
        connections: 1,
        requests: 1,
        ..CASE
    },
    Case {
        name: "etl-upper-1g",
        title: "upper, 1 GiB",
        subjects: &PYTHON,
        ours: "upper",
        theirs: "upper",
        size: 1024 * MIB,
        connections: 1,
        requests: 1,
        ..CASE
    },
    Case {
        name: "etl-fqn-256m",
        title: "streaming echo, file of 256 MiB",
        subjects: &PYTHON,
        theirs: "echo_stream",
        size: 0,
        file: Some(256 * MIB),
        connections: 1,
        requests: 4,
        ..CASE
    },
    Case {
        name: PARALLEL,
        title: "streaming echo, 8 MiB, 32 connections, /health meanwhile",
        theirs: "echo_stream",
        mode: "put-and-health",
        size: 8 * MIB,
        requests: 128,
        ..CASE
    },
];

/// The one that looks at `/health`.
pub(super) const PARALLEL: &str = "etl-parallel";

impl Case {
    fn counts_bytes(&self) -> bool {
        self.size >= MIB || self.file.is_some_and(|file| file >= MIB)
    }
}

impl Bench<'_> {
    /// All of them that are wanted.
    pub(super) fn etl(&mut self) -> Result<()> {
        let wanted: Vec<_> = CASES.iter().filter(|case| self.is_wanted(case.name)).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let python = if self.wish.no_peers {
            None
        } else {
            let peers = peers::prepare_those(|name| name == peers::ETL_SERVERS)?;
            peers.interpreter("SCHWANN_PEER_AISTORE").map(std::path::Path::to_owned)
        };
        let binary = built("schwann-etl", "etl")?;
        let mut load = Part::start("etl load", program(&binary).arg("load"))?;
        for case in wanted {
            say(format_args!("measuring: {}", case.name));
            self.etl_case(case, &binary, python.as_ref(), &mut load)?;
        }
        Ok(())
    }

    fn etl_case(
        &mut self,
        case: &Case,
        binary: &str,
        python: Option<&PathBuf>,
        load: &mut Part,
    ) -> Result<()> {
        let destination = format!("http://127.0.0.1:{}/v1/etl/_object/x/s", load.ready()["port"]);
        let mut servers = Vec::new();
        for subject in case.subjects {
            let mut command = match subject {
                Subject::Hyper => {
                    let mut command = program(binary);
                    command.arg("reference");
                    command
                }
                Subject::FastApi | Subject::Threaded => {
                    let Some(python) = python else { continue };
                    let family = if *subject == Subject::FastApi { "fastapi" } else { "http" };
                    let mut command = program(python);
                    command.args(["interop/etl/bench_server.py", family, case.theirs]);
                    command.arg(&destination);
                    command
                }
                _ => {
                    let mut command = program(binary);
                    command.args(["server", case.ours, &destination]);
                    command
                }
            };
            servers.push((*subject, Part::start(subject.name(), &mut command)?));
        }
        let folder = top().join("target/bench-etl");
        let mut target = "/bucket/object".to_owned();
        if let Some(size) = case.file {
            fs::create_dir_all(&folder).context("cannot make a folder for files")?;
            let file = folder.join("object");
            let bytes = vec![b'a'; usize::try_from(size).context("a size")?];
            fs::write(&file, bytes).context("cannot write a file")?;
            let name = file.display().to_string().replace('%', "%25").replace('/', "%252F");
            target += &format!("?etl_fqn={name}");
        }
        let headers = match case.delivers {
            true => format!("Ais-Node-Url: http://127.0.0.1:{}/o\r\n", load.ready()["port"]),
            false => String::new(),
        };
        let measure = Measure {
            name: case.name,
            title: format!("ETL: {}", case.title),
            unit: if case.counts_bytes() { "MB" } else { "request" },
            base: if case.subjects.contains(&Subject::Hyper) {
                Subject::Hyper.name()
            } else {
                Subject::Schwann.name()
            },
        };
        let expected = if case.delivers { "204" } else { "200" };
        let many = self.scaled(case.requests);
        let smaller = if self.wish.quick { 4 } else { 1 };
        self.alternate(
            measure,
            &mut servers,
            |(subject, _)| (*subject, subject.name().to_owned()),
            |_, (subject, server), turn| {
                let slow = subject.is_python();
                if slow && turn >= SAMPLES {
                    return Ok(None);
                }
                let share = if slow { SHARE } else { 1 };
                // A single object is made smaller in place of fewer.
                let cut = if case.requests == 1 { smaller * if slow { 4 } else { 1 } } else { 1 };
                let job = json!({
                    "port": server.ready()["port"], "mode": case.mode, "target": target, "headers": headers,
                    "size": case.size / cut, "connections": case.connections,
                    "requests": (many / share).max(case.connections), "by_size": case.counts_bytes(),
                    "object": case.file.unwrap_or(0),
                });
                load.say(&job)?;
                load.hear()?;
                let before = server.cpu()?;
                load.say(&json!("go"))?;
                let result: Value = load.hear()?;
                let cpu = (server.cpu()? - before).as_secs_f64();
                sampled(cpu, result, expected).map(Some)
            },
        )
    }
}

/// What is to be reached. The figures of Go's web server were measured once, on a machine like this one.
pub(super) fn goals(rows: &[Row]) -> Vec<Goal> {
    let row = |name: &str, subject: Subject| {
        rows.iter().find(|row| row.measure == name && row.label == subject.name())
    };
    let mut goals = Vec::new();
    let mut add = |text: String, limit: f64, seen: Option<f64>, at_least: bool| {
        goals.extend(seen.map(|seen| Goal { text, limit, seen, at_least }));
    };
    let ours = |name| row(name, Subject::Schwann);
    let times = |name, subject| row(name, subject).and_then(|row| row.to_ours);
    for name in ["etl-echo-1m", "etl-echo-1g"] {
        let seen = ours(name).and_then(|row| row.to_base);
        add(format!("{name}: at most 1.15 × bare hyper"), 1.15, seen, false);
    }
    for (name, limit) in
        [("etl-put-1k", 36.0), ("etl-fqn-1k", 39.0), ("etl-fqn-put-1k", 126.0), ("etl-ws-1k", 15.0)]
    {
        let seen = ours(name).map(Row::micros);
        add(format!("{name}: at most {limit} µs, as Go's web server"), limit, seen, false);
    }
    for name in ["etl-put-1k", "etl-fqn-1k", "etl-fqn-put-1k"] {
        let seen = times(name, Subject::FastApi);
        add(format!("{name}: at least 7 times less CPU than FastAPI"), 7.0, seen, true);
    }
    let seen = times("etl-echo-1g", Subject::FastApi);
    add("etl-echo-1g: at least 6 times less CPU than FastAPI".to_owned(), 6.0, seen, true);
    for name in ["etl-echo-1g", "etl-md5-1g", "etl-upper-1g"] {
        let seen = times(name, Subject::Threaded);
        add(format!("{name}: no more CPU than the threaded server"), 1.0, seen, true);
    }
    let seen = ours(PARALLEL).map(|row| row.most("health_ms"));
    add(format!("{PARALLEL}: /health within 50 ms"), 50.0, seen, false);
    goals
}
