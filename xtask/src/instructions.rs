//! `cargo xtask instructions`: how many instructions the parts of the codec take, held to a baseline.
//!
//! Time on a busy machine tells little; instructions are the same each time, up to what a compiler makes of the code.

use std::{collections::BTreeMap, fs, path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context as _, Result, bail};

use crate::{
    steps::{Steps, cargo, program, say},
    top,
};

/// What the example `codec_instructions` can run.
const PARTS: [&str; 6] =
    ["parse_strict", "body_hash", "json_parse", "json_write", "signed_messages", "answer_headers"];

/// How often each part runs; a count is the mean.
const TIMES: u32 = 200;

/// A part may take this much more than in the baseline, in percent.
const TOLERANCE: u64 = 5;

/// The same for another compiler than the baseline's, which makes other code of the same source.
const TOLERANCE_ELSEWHERE: u64 = 25;

const NAME: &str = "instruction counts of the codec";

/// Counts, and compares with the baseline or replaces it.
pub(crate) fn run(update: bool) -> Result<ExitCode> {
    let mut steps = Steps::default();
    if update {
        let counts = count()?;
        fs::write(path(), text(&counts)?).context("cannot write the baseline")?;
        say(format_args!("wrote {}", path().display()));
        return Ok(ExitCode::SUCCESS);
    }
    check(&mut steps);
    Ok(steps.finish())
}

/// The same as a step of `ci`. Without valgrind it is left out, and that is said.
pub(crate) fn check(steps: &mut Steps) {
    let have = program("valgrind").arg("--version").output().is_ok_and(|out| out.status.success());
    if !have {
        steps.leave(NAME, "valgrind is not installed: apt-get install valgrind");
        return;
    }
    say(format_args!("\n== {NAME}"));
    let started = Instant::now();
    let within = count().and_then(|counts| compare(&counts));
    let within = within.unwrap_or_else(|error| {
        say(format_args!("error: {error:#}"));
        false
    });
    steps.note(NAME, within, started.elapsed());
}

fn path() -> PathBuf {
    top().join("crates/schwann-synapse/benches/instructions.toml")
}

/// Each part with its instructions.
type Counts = BTreeMap<String, u64>;

fn count() -> Result<Counts> {
    let build = ["build", "--release", "-p", "schwann-synapse", "--example", "codec_instructions"];
    let messages = cargo(&build).arg("--message-format=json").output()?;
    if !messages.status.success() {
        bail!("the example does not build: {}", String::from_utf8_lossy(&messages.stderr));
    }
    let example = executable(&messages.stdout).context("cargo names no executable")?;
    let of = |part: &str, times: u32| -> Result<u64> {
        let mut valgrind = program("valgrind");
        valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
        let out = valgrind.arg(&example).args([part, &times.to_string()]).output()?;
        let said = String::from_utf8_lossy(&out.stderr);
        let collected = said.lines().find_map(|line| line.split("Collected : ").nth(1));
        let collected = collected.and_then(|number| number.trim().parse().ok());
        match collected {
            Some(collected) if out.status.success() => Ok(collected),
            _ => bail!("valgrind with {part}: {said}"),
        }
    };
    let mut counts = Counts::new();
    for part in PARTS {
        // Two runs, so that what comes before and after does not count.
        let each = of(part, TIMES)?.saturating_sub(of(part, 0)?) / u64::from(TIMES);
        counts.insert(part.to_owned(), each);
    }
    Ok(counts)
}

/// The executable among cargo's messages.
fn executable(messages: &[u8]) -> Option<PathBuf> {
    let lines = messages.split(|byte| *byte == b'\n');
    let built = lines.filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok());
    built.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back()
}

fn compiler() -> Result<String> {
    let out = program("rustc").arg("--version").output().context("cannot ask rustc")?;
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

fn text(counts: &Counts) -> Result<String> {
    let mut text = format!(
        "# Instructions per call, made by `cargo xtask instructions --update`.\ncompiler = \"{}\"\n\n[counts]\n",
        compiler()?
    );
    for (part, count) in counts {
        text.push_str(&format!("{part} = {count}\n"));
    }
    Ok(text)
}

/// Says each part's count; whether all are within the tolerance.
fn compare(counts: &Counts) -> Result<bool> {
    let baseline =
        fs::read_to_string(path()).context("no baseline: `cargo xtask instructions --update`")?;
    let entries = baseline.lines().filter_map(|line| line.split_once(" = "));
    let before: BTreeMap<&str, &str> = entries.collect();
    let compiler = compiler()?;
    let same = before.get("compiler").is_some_and(|with| with.trim_matches('"') == compiler);
    let tolerance = if same { TOLERANCE } else { TOLERANCE_ELSEWHERE };
    if !same {
        say(format_args!(
            "the baseline is another compiler's: up to {tolerance} % more is tolerated"
        ));
    }
    let mut within = true;
    for (part, now) in counts {
        let known = before.get(part.as_str()).and_then(|count| count.parse::<u64>().ok());
        let Some(known) = known else {
            say(format_args!("{part:>16} {now:>9}  not in the baseline"));
            within = false;
            continue;
        };
        let good = now * 100 <= known * (100 + tolerance);
        within &= good;
        let percent = (*now as f64 / known as f64 - 1.0) * 100.0;
        let word = if good { "" } else { "  too many" };
        say(format_args!("{part:>16} {now:>9}  {percent:+.1} %{word}"));
    }
    if !within {
        say(format_args!("if that is meant: cargo xtask instructions --update"));
    }
    Ok(within)
}
