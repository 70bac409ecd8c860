//! Drives a server: the same program, whoever runs it.
//!
//! Told a job, it prepares what the server needs for it, says that it is prepared, and starts when told to. So whoever
//! measures the server measures nothing else.

use std::{
    collections::HashMap,
    io,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    Failure,
    client::{Answer, ask},
    hear, say,
    servers::PASSWORD,
};

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// One run, whose lines are counted.
    Lines,
    /// One run that prints what its clock says.
    Clock,
    /// Many runs at once.
    Start,
    /// Runs that are cancelled, one after the other.
    Cancel,
}

#[derive(Clone, Deserialize)]
struct Job {
    port: u16,
    /// Whether there are accounts, books and cards.
    api: bool,
    mode: Mode,
    accept: String,
    code: String,
    /// Lines of one run, or runs.
    count: usize,
}

/// Where runs are started on one server.
#[derive(Clone, Default)]
struct Account {
    headers: String,
    book: String,
    cards: Vec<String>,
}

pub(crate) fn run() -> Result<(), Failure> {
    // One thread: the other cores are the server's.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    say(&json!({ "ready": true }))?;
    let mut accounts = HashMap::new();
    while let Some(job) = hear()? {
        let job: Job = serde_json::from_value(job)?;
        let account = accounts.entry(job.port).or_insert_with(Account::default);
        runtime.block_on(account.prepare(&job))?;
        say(&json!({ "prepared": true }))?;
        if hear()?.is_none() {
            return Ok(());
        }
        let result = runtime.block_on(async {
            match job.mode {
                Mode::Lines => lines(&job, account).await,
                Mode::Clock => clock(&job, account).await,
                Mode::Start => start(&job, account).await,
                Mode::Cancel => cancel(&job, account).await,
            }
        });
        say(&result?)?;
    }
    Ok(())
}

impl Account {
    /// Logs in, and makes as many cards as there will be runs at once.
    async fn prepare(&mut self, job: &Job) -> io::Result<()> {
        let cards = if job.mode == Mode::Start { job.count } else { 1 };
        if !job.api {
            // Paths that nobody looks at.
            self.book = "/api/v1/books/1".to_owned();
            self.cards = (1..=cards).map(|card| card.to_string()).collect();
            self.headers = "Content-Type: application/json\r\n".to_owned();
            return Ok(());
        }
        if self.book.is_empty() {
            let form =
                format!("username=admin%40example.com&password={}", PASSWORD.replace(' ', "+"));
            let headers = "Content-Type: application/x-www-form-urlencoded\r\n";
            let path = "/api/v1/login/access-token";
            let token = ask(job.port, "POST", path, headers, form.as_bytes()).await?.json().await?;
            let token = token["access_token"].as_str().unwrap_or_default();
            self.headers =
                format!("Authorization: Bearer {token}\r\nContent-Type: application/json\r\n");
            let book =
                self.post(job.port, "/api/v1/books/", &json!({ "title": "measured" })).await?;
            self.book = format!("/api/v1/books/{}", book["id"].as_str().unwrap_or_default());
        }
        while self.cards.len() < cards {
            let card = json!({ "code": "pass", "language": "python" });
            let card = self.post(job.port, &format!("{}/cards/", self.book), &card).await?;
            self.cards.push(card["id"].as_str().unwrap_or_default().to_owned());
        }
        Ok(())
    }

    async fn post(&self, port: u16, path: &str, body: &Value) -> io::Result<Value> {
        ask(port, "POST", path, &self.headers, body.to_string().as_bytes()).await?.json().await
    }

    /// Saves and runs a card: the answer's head.
    async fn run(&self, job: &Job, card: usize) -> io::Result<Answer> {
        let path = format!("{}/cards/{}/run", self.book, self.cards[card]);
        let headers = format!("{}Accept: {}\r\n", self.headers, job.accept);
        let body = match job.api {
            // A run that was seen to end may be settled a moment later.
            true => json!({ "code": job.code, "on_busy": "queue" }),
            false => json!({ "code": job.code }),
        };
        let answer = ask(job.port, "POST", &path, &headers, body.to_string().as_bytes()).await?;
        match answer.is_good() {
            true => Ok(answer),
            false => Err(answer.json().await.err().unwrap_or_else(|| io::Error::other("refused"))),
        }
    }

    async fn cancel(&self, port: u16, run: &str, signal: &str) -> io::Result<Value> {
        self.post(port, &format!("/api/v1/runs/{run}/cancel"), &json!({ "signal": signal })).await
    }
}

async fn lines(job: &Job, account: &Account) -> Result<Value, Failure> {
    let started = Instant::now();
    let mut answer = account.run(job, 0).await?;
    let (mut lines, mut bytes) = (0, 0);
    // In JSON the ends of lines are two characters.
    let mark = if job.accept == "text/plain" { &b"\n"[..] } else { &b"\\n"[..] };
    let mut last = 0;
    let count = |piece: &[u8]| {
        bytes += piece.len();
        for byte in piece {
            lines +=
                usize::from(*byte == mark[mark.len() - 1] && (mark.len() == 1 || last == mark[0]));
            last = *byte;
        }
    };
    let mut count = count;
    while answer.piece(&mut count).await? {}
    if lines != job.count {
        return Err(format!("{lines} lines in place of {}", job.count).into());
    }
    let seconds = started.elapsed().as_secs_f64();
    Ok(json!({ "operations": lines, "seconds": seconds, "bytes": bytes }))
}

async fn clock(job: &Job, account: &Account) -> Result<Value, Failure> {
    let mut answer = account.run(job, 0).await?;
    let mut waits = Vec::with_capacity(job.count);
    let mut line = Vec::new();
    let look = |piece: &[u8]| {
        let now = clock_gettime(ClockId::Monotonic);
        let now = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
        for byte in piece {
            if *byte != b'\n' {
                line.push(*byte);
                continue;
            }
            let then = std::str::from_utf8(&line).ok().and_then(|text| text.parse::<i128>().ok());
            waits.extend(then.map(|then| (now - then) as f64 / 1e3));
            line.clear();
        }
    };
    let mut look = look;
    while answer.piece(&mut look).await? {}
    if waits.len() != job.count {
        return Err(format!("{} lines in place of {}", waits.len(), job.count).into());
    }
    let mut result = json!({ "operations": waits.len() });
    spread(&mut result, "", waits);
    Ok(result)
}

/// All runs are asked for at once; each prints a line and stays. Counted until the last line came and all are ended.
async fn start(job: &Job, account: &Account) -> Result<Value, Failure> {
    let started = Instant::now();
    let mut running = JoinSet::new();
    for card in 0..job.count {
        let (job, account) = (job.clone(), account.clone());
        running.spawn(async move {
            let mut answer = account.run(&job, card).await?;
            let mut seen = false;
            while !seen && answer.piece(|piece| seen = !piece.is_empty()).await? {}
            let first = started.elapsed();
            if !seen {
                return Err(io::Error::other("a run without a line"));
            }
            Ok((answer, first))
        });
    }
    let mut firsts = Vec::new();
    let mut answers = Vec::new();
    while let Some(done) = running.join_next().await {
        let (answer, first) = done??;
        firsts.push(millis(first));
        answers.push(answer);
    }
    for answer in &answers {
        let run = answer.header("run-id").ok_or("no id of a run")?;
        account.cancel(job.port, run, "KILL").await?;
    }
    for answer in &mut answers {
        while answer.piece(|_| {}).await? {}
    }
    let mut result = json!({ "operations": answers.len() });
    spread(&mut result, "first_", firsts);
    Ok(result)
}

/// From the request to cancel, to the last record where the output is read.
async fn cancel(job: &Job, account: &Account) -> Result<Value, Failure> {
    let mut waits = Vec::new();
    for _ in 0..job.count {
        let mut answer = account.run(job, 0).await?;
        let mut text = Vec::new();
        while !holds(&text, b"ready") && answer.piece(|piece| text.extend_from_slice(piece)).await?
        {
        }
        let run = answer.header("run-id").ok_or("no id of a run")?.to_owned();
        let asked = Instant::now();
        let told = account.cancel(job.port, &run, "INT");
        let read = async {
            text.clear();
            while !holds(&text, br#""type":"exit""#) {
                if !answer.piece(|piece| text.extend_from_slice(piece)).await? {
                    return Err(io::Error::other("no last record"));
                }
            }
            Ok(asked.elapsed())
        };
        let (told, took) = tokio::join!(told, read);
        told?;
        waits.push(millis(took?));
        if !holds(&text, br#""reason":"cancelled""#) {
            return Err(format!("not cancelled: {}", String::from_utf8_lossy(&text)).into());
        }
    }
    let mut result = json!({ "operations": waits.len() });
    spread(&mut result, "cancel_", waits);
    Ok(result)
}

fn holds(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|found| found == word)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Adds median, 99th percentile and maximum.
fn spread(result: &mut Value, name: &str, mut numbers: Vec<f64>) {
    numbers.sort_by(f64::total_cmp);
    let at = |part: usize| numbers[(numbers.len() - 1) * part / 100];
    let unit = if name.is_empty() { "us" } else { "ms" };
    for (word, part) in [("p50", 50), ("p99", 99), ("most", 100)] {
        result[format!("{name}{word}_{unit}")] = json!(at(part));
    }
}
