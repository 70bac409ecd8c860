//! Our dendrite against an axon, case by case: the same cases, flags and lines of
//! output as `interop/py_dendrite.py` has for the Python dendrite.
//!
//! One JSON line per case (`case`, `ok`, `ms` and what came back) and a summary.
//! Exit code 1 if a case did not meet its expectation, 2 for bad arguments.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::{Duration, Instant},
};

use schwann_synapse::{
    call_error::CallError,
    dendrite::{Answer, CollectText, Dendrite},
    hash::BodyHash,
    keys::{Keypair, Signer as _},
    python::{Dict, Int, Value},
    synapse::{Ask, Untyped},
    target::Target,
    terminal::TerminalInfo,
};

const CASES: [&str; 20] = [
    "ping",
    "echo",
    "alltypes",
    "plain",
    "tensor",
    "raise",
    "runexception",
    "teapot",
    "blacklist",
    "priority",
    "timeout",
    "refused",
    "unknown",
    "wronghotkey",
    "stream",
    "stream_slow",
    "stream_error",
    "stream_timeout",
    "gather",
    "sequential",
];

const USAGE: &str = "usage: interop_dendrite --port PORT --axon-hotkey SS58 [--host ADDRESS] [--uri URI] \
                     [--cases all|NAME,..] [--timeout SECONDS] [--dead-port PORT] [--external-ip ADDRESS] [--bound] [--list]";

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Args {
    host: String,
    port: u16,
    axon_hotkey: String,
    uri: String,
    external_ip: String,
    timeout: Duration,
    cases: Vec<String>,
    dead_port: u16,
    bound: bool,
}

/// What a case ended with: whether as expected, and what to show of it.
type Outcome = Result<(bool, Dict), Failure>;

struct Bench {
    dendrite: Dendrite,
    axon: Target,
    dead: Target,
    stranger: Target,
    timeout: Duration,
}

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(Some(args)) => args,
        Ok(None) => {
            let listed = writeln!(io::stdout(), "{}", CASES.join("\n"));
            return if listed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        Err(problem) => {
            let _ = writeln!(io::stderr(), "error: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime.map_err(Failure::from).and_then(|runtime| runtime.block_on(run(args))) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(problem) => {
            let _ = writeln!(io::stderr(), "error: {problem}");
            ExitCode::from(2)
        }
    }
}

async fn run(args: Args) -> Result<usize, Failure> {
    let dendrite = Dendrite::builder(Keypair::from_uri(&args.uri)?)
        .external_ip(args.external_ip)
        .bound(args.bound)
        .build();
    let stranger = Keypair::from_uri("//not-the-axon")?.hotkey().to_string();
    let bench = Bench {
        dendrite,
        axon: Target::new(&args.host, args.port, &args.axon_hotkey)?,
        dead: Target::new(&args.host, args.dead_port, &args.axon_hotkey)?,
        stranger: Target::new(&args.host, args.port, &stranger)?,
        timeout: args.timeout,
    };
    let mut failed = 0;
    for case in &args.cases {
        let began = Instant::now();
        let (ok, shown) = bench.case(case).await.unwrap_or_else(|problem| {
            (false, Dict::from_iter([("exception".to_owned(), Value::from(problem.to_string()))]))
        });
        failed += usize::from(!ok);
        let mut line = Dict::new();
        line.insert("case", case.as_str());
        line.insert("ok", ok);
        line.insert("ms", (began.elapsed().as_secs_f64() * 10_000.0).round() / 10.0);
        line.extend(shown);
        writeln!(io::stdout(), "{}", line.to_python_json())?;
    }
    bench.dendrite.close().await;
    let mut line = Dict::new();
    line.insert("summary", true);
    line.insert("sdk", concat!("schwann ", env!("CARGO_PKG_VERSION")));
    line.insert("cases", Int::from(args.cases.len() as u64));
    line.insert("failed", Int::from(failed as u64));
    writeln!(io::stdout(), "{}", line.to_python_json())?;
    Ok(failed)
}

impl Bench {
    async fn case(&self, name: &str) -> Outcome {
        match name {
            "ping" => self.expect(ask("Synapse", "{}")?, 200).await,
            "echo" => {
                let echo = ask(
                    "EchoSynapse",
                    r#"{"text": "hi", "count": 3, "ratio": 0.5, "flag": false, "note": "n",
                        "items": [1, "two", null], "table": {"k": [1, 2]}, "reply": null}"#,
                )?;
                let echo = echo.hash(["text", "count"]).required(["text", "count"]);
                self.expect_field(echo, "reply", &Value::from("hi|3|0.5|False|n")).await
            }
            "alltypes" => self.all_types().await,
            "plain" => self.expect_field(plain(21)?, "y", &Value::from(42)).await,
            "tensor" => self.tensor().await,
            "raise" => {
                let result = self.call(ask("FailSynapse", r#"{"mode": "raise"}"#)?).await;
                let message = result.as_ref().err().and_then(|error| error.status_message());
                let told =
                    message.is_some_and(|message| message.starts_with("Internal Server Error #"));
                Ok((status(&result) == Some(500) && told, show(&result)))
            }
            "runexception" => {
                self.expect(ask("FailSynapse", r#"{"mode": "synapse500"}"#)?, 500).await
            }
            "teapot" => self.expect(ask("FailSynapse", r#"{"mode": "set_status"}"#)?, 418).await,
            "blacklist" => self.expect(ask("BlacklistedSynapse", r#"{"x": 0}"#)?, 403).await,
            "priority" => {
                self.expect(ask("PrioritySynapse", r#"{"prio": 1.0, "order": null}"#)?, 200).await
            }
            "timeout" => {
                let slow = ask("SlowSynapse", r#"{"delay": 3.0, "done": false}"#)?;
                let result =
                    self.dendrite.call(&self.axon, slow).timeout(Duration::from_millis(500)).await;
                Ok((status(&result) == Some(408), show(&result)))
            }
            "refused" => {
                let result = self.dendrite.call(&self.dead, plain(0)?).timeout(self.timeout).await;
                Ok((status(&result) == Some(503), show(&result)))
            }
            "unknown" => self.expect(ask("UnknownSynapse", r#"{"x": 0}"#)?, 404).await,
            "wronghotkey" => {
                let result =
                    self.dendrite.call(&self.stranger, plain(1)?).timeout(self.timeout).await;
                Ok((status(&result) == Some(401), show(&result)))
            }
            "stream" => {
                let (chunks, result) = self.stream(5, 0.0, None, self.timeout).await?;
                let whole = chunks.concat() == "tok0 tok1 tok2 tok3 tok4 ";
                Ok((whole && status(&result) == Some(200), show_stream(&chunks, &result)))
            }
            "stream_slow" => {
                let (chunks, result) = self.stream(4, 0.15, None, self.timeout).await?;
                let whole = chunks.len() >= 3 && chunks.concat() == "tok0 tok1 tok2 tok3 ";
                Ok((whole && status(&result) == Some(200), show_stream(&chunks, &result)))
            }
            "stream_error" => {
                // SDK axons of the 10 line end the stream as if it were whole. Others cut it.
                let (chunks, result) = self.stream(5, 0.05, Some(2), self.timeout).await?;
                Ok((chunks.concat() == "tok0 tok1 ", show_stream(&chunks, &result)))
            }
            "stream_timeout" => {
                let (chunks, result) =
                    self.stream(50, 0.2, None, Duration::from_millis(700)).await?;
                Ok((status(&result) == Some(408), show_stream(&chunks, &result)))
            }
            "gather" => {
                let axons = [&self.axon, &self.dead, &self.axon];
                let results = self.dendrite.forward(axons, plain(5)?).timeout(self.timeout).await;
                let statuses: Vec<_> = results.iter().map(status).collect();
                Ok((statuses == [Some(200), Some(503), Some(200)], show_all(&results)))
            }
            "sequential" => {
                let axons = [&self.axon, &self.axon];
                let results = self
                    .dendrite
                    .forward(axons, plain(6)?)
                    .sequential()
                    .timeout(self.timeout)
                    .await;
                let twelve = |result: &Result<Answer<Untyped>, CallError>| {
                    field(result, "y") == Some(&Value::from(12))
                };
                Ok((results.iter().all(twelve), show_all(&results)))
            }
            other => Err(format!("no case is called {other}").into()),
        }
    }

    async fn call(&self, ask: Untyped) -> Result<Answer<Untyped>, CallError> {
        self.dendrite.call(&self.axon, ask).timeout(self.timeout).await
    }

    async fn expect(&self, ask: Untyped, expected: i64) -> Outcome {
        let result = self.call(ask).await;
        Ok((status(&result) == Some(expected), show(&result)))
    }

    async fn expect_field(&self, ask: Untyped, name: &str, expected: &Value) -> Outcome {
        let result = self.call(ask).await;
        Ok((status(&result) == Some(200) && field(&result, name) == Some(expected), show(&result)))
    }

    async fn all_types(&self) -> Outcome {
        let hashed = ["s", "i", "f", "b", "l", "d", "n", "nested", "blob_b64"];
        let ask = ask(
            "AllTypesSynapse",
            r#"{"s": "h\u00e9llo 'x' \"y\"\n\t\\ \ud83d\ude00 ok", "i": -12345678901234567890, "f": 1e-07, "b": true,
                "l": [1, 2.5, "a'b", null, true, [1, [2]], {"k": "v"}],
                "d": {"a": 1, "z": [1.0, null], "\u00fc": {"n": false}}, "n": null,
                "nested": {"a": 7, "b": "q", "c": [0.1, 1e+22]}, "blob_b64": "AAECAwQF/+8=", "out": null}"#,
        )?;
        let ask = ask.hash(hashed).required(["s", "i", "f", "b", "l", "d"]);
        let expected: BodyHash = ask.body_hash();
        let result = self.call(ask).await;
        let hash = field(&result, "out").and_then(Value::as_dict).and_then(|out| out.get("hash"));
        let same = hash == Some(&Value::from(expected.to_string()));
        Ok((status(&result) == Some(200) && same, show(&result)))
    }

    async fn tensor(&self) -> Outcome {
        // float32, 0 to 5 in two rows, as the SDK serializes it.
        let tensor = r#"{"buffer": "hcQCbmTDxAR0eXBlozxmNMQEa2luZMQAxAVzaGFwZZICA8QEZGF0YcQYAAAAAAAAgD8AAABAAABAQAAAgEAAAKBA",
                         "dtype": "float32", "shape": [2, 3]}"#;
        let ask = ask("TensorSynapse", &format!(r#"{{"t": {tensor}, "back": null}}"#))?;
        let sent = Value::parse_json(tensor.as_bytes())?;
        self.expect_field(ask, "back", &sent).await
    }

    async fn stream(
        &self,
        tokens: u64,
        delay: f64,
        fail_at: Option<u64>,
        timeout: Duration,
    ) -> Result<(Vec<String>, Result<Answer<Untyped>, CallError>), Failure> {
        let mut fields = Dict::new();
        fields.insert("prompt", "go");
        fields.insert("n_tokens", Int::from(tokens));
        fields.insert("delay", delay);
        fields.insert("fail_at", fail_at.map_or(Value::None, |at| Value::from(Int::from(at))));
        fields.insert("completion", Value::None);
        let ask = Untyped::new("StreamSynapse", fields).hash(["prompt"]);
        let call = self
            .dendrite
            .stream(&self.axon, ask)
            .timeout(timeout)
            .hooks(CollectText::into_field("completion"));
        let mut stream = match call.await {
            Ok(stream) => stream,
            Err(error) => return Ok((Vec::new(), Err(error))),
        };
        let mut chunks = Vec::new();
        loop {
            match stream.text_chunk().await {
                Ok(Some(text)) => chunks.push(text),
                Ok(None) => return Ok((chunks, stream.finish().await)),
                Err(error) => return Ok((chunks, Err(error))),
            }
        }
    }
}

fn ask(name: &str, fields: &str) -> Result<Untyped, Failure> {
    match Value::parse_json(fields.as_bytes())? {
        Value::Dict(fields) => Ok(Untyped::new(name, fields)),
        other => Err(format!("fields are a dict, not a {}", other.type_name()).into()),
    }
}

fn plain(x: i64) -> Result<Untyped, Failure> {
    ask("PlainSynapse", &format!(r#"{{"x": {x}, "y": null}}"#))
}

fn status(result: &Result<Answer<Untyped>, CallError>) -> Option<i64> {
    match result {
        Ok(answer) => answer.status_code(),
        Err(error) => Some(error.status_code()),
    }
}

fn field<'a>(result: &'a Result<Answer<Untyped>, CallError>, name: &str) -> Option<&'a Value> {
    result.as_ref().ok().and_then(|answer| answer.synapse.fields.get(name))
}

fn show(result: &Result<Answer<Untyped>, CallError>) -> Dict {
    let mut shown = Dict::new();
    match result {
        Ok(answer) => {
            shown.insert("fields", answer.synapse.fields.clone());
            shown.insert("dendrite", answer.dendrite.to_dict());
            shown.insert("axon", answer.axon.to_dict());
        }
        Err(error) => {
            let dendrite = TerminalInfo {
                status_code: Some(error.status_code()),
                status_message: error.status_message().map(Into::into),
                ..TerminalInfo::default()
            };
            shown.insert("dendrite", dendrite.to_dict());
            shown.insert("error", error.to_string());
        }
    }
    shown
}

fn show_stream(chunks: &[String], result: &Result<Answer<Untyped>, CallError>) -> Dict {
    let mut shown = show(result);
    shown.insert(
        "chunks",
        Value::List(chunks.iter().map(|chunk| Value::from(chunk.as_str())).collect()),
    );
    shown
}

fn show_all(results: &[Result<Answer<Untyped>, CallError>]) -> Dict {
    let results = results.iter().map(|result| Value::Dict(show(result))).collect();
    Dict::from_iter([("results".to_owned(), Value::List(results))])
}

impl Args {
    /// `None` if only the names of the cases are asked for.
    fn parse(mut given: impl Iterator<Item = String>) -> Result<Option<Self>, Failure> {
        let (mut port, mut axon_hotkey) = (None, None);
        let mut args = Args {
            host: "127.0.0.1".to_owned(),
            port: 0,
            axon_hotkey: String::new(),
            uri: "//interop-dendrite".to_owned(),
            external_ip: "203.0.113.7".to_owned(),
            timeout: Duration::from_secs(12),
            cases: CASES.map(str::to_owned).to_vec(),
            dead_port: 1,
            bound: false,
        };
        while let Some(flag) = given.next() {
            if flag == "--list" {
                return Ok(None);
            }
            if flag == "--bound" {
                args.bound = true;
                continue;
            }
            let (flag, value) = match flag.split_once('=') {
                Some((flag, value)) => (flag.to_owned(), value.to_owned()),
                None => {
                    let value = given.next().ok_or_else(|| format!("{flag} needs a value"))?;
                    (flag, value)
                }
            };
            match flag.as_str() {
                "--host" => args.host = value,
                "--port" => {
                    port = Some(value.parse().map_err(|_| format!("{value} is not a port"))?)
                }
                "--axon-hotkey" => axon_hotkey = Some(value),
                "--uri" => args.uri = value,
                "--external-ip" => args.external_ip = value,
                "--timeout" => {
                    let seconds =
                        value.parse().map_err(|_| format!("{value} is not a number of seconds"))?;
                    args.timeout = Duration::try_from_secs_f64(seconds)?;
                }
                "--dead-port" => {
                    args.dead_port = value.parse().map_err(|_| format!("{value} is not a port"))?
                }
                "--cases" if value == "all" => {}
                "--cases" => {
                    args.cases = value.split(',').map(str::to_owned).collect();
                    if let Some(unknown) =
                        args.cases.iter().find(|case| !CASES.contains(&case.as_str()))
                    {
                        return Err(format!("no case is called {unknown}; see --list").into());
                    }
                }
                _ => return Err(format!("unknown flag {flag}").into()),
            }
        }
        args.port = port.ok_or("--port is missing")?;
        args.axon_hotkey = axon_hotkey.ok_or("--axon-hotkey is missing")?;
        Ok(Some(args))
    }
}
