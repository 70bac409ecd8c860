//! Our axon with the routes of `interop/py_axon.py`, so that real dendrites can be run against it.
//!
//! Prints one JSON line with its hotkey when it accepts connections, and stops on SIGTERM or Ctrl-C.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use schwann::{Finished, Server};
use schwann_synapse::{
    axon::{Axon, Filled, StreamReply, SynapseError, streaming, unary, unary_blocking},
    caller::{Caller, Verdict, Verify},
    hash::{BodyHash, PyStr},
    keys::Keypair,
    python::{Dict, Int, Value, float_repr, to_value},
    ss58::Hotkey,
    synapse::Synapse,
    tensor::Tensor,
};
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

#[derive(Clone, Debug, Serialize, Deserialize, Synapse)]
struct EchoSynapse {
    #[synapse(hash)]
    text: String,
    #[synapse(hash)]
    count: Int,
    #[serde(default = "half")]
    ratio: f64,
    #[serde(default)]
    flag: bool,
    #[serde(default)]
    note: Option<String>,
    #[serde(default)]
    items: Vec<Value>,
    #[serde(default)]
    table: Dict,
    #[serde(default)]
    reply: Option<String>,
}

fn half() -> f64 {
    0.5
}

async fn echo(mut ask: EchoSynapse, _from: Caller) -> Result<EchoSynapse, SynapseError> {
    ask.reply = Some(format!(
        "{}|{}|{}|{}|{}",
        ask.text,
        ask.count,
        float_repr(ask.ratio),
        if ask.flag { "True" } else { "False" },
        ask.note.as_deref().unwrap_or("None"),
    ));
    Ok(ask)
}

#[derive(Clone, Debug, Serialize, Deserialize, PyStr)]
struct Inner {
    #[serde(default = "one")]
    a: Int,
    #[serde(default)]
    b: Option<String>,
    #[serde(default)]
    c: Vec<f64>,
}

fn one() -> Int {
    Int::from(1)
}

impl Default for Inner {
    fn default() -> Self {
        Self { a: one(), b: None, c: Vec::new() }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, Synapse)]
struct AllTypesSynapse {
    #[synapse(hash)]
    s: String,
    #[synapse(hash)]
    i: Int,
    #[synapse(hash)]
    f: f64,
    #[synapse(hash)]
    b: bool,
    #[synapse(hash)]
    l: Vec<Value>,
    #[synapse(hash)]
    d: Dict,
    #[serde(default)]
    #[synapse(hash)]
    n: Option<String>,
    #[serde(default)]
    #[synapse(hash)]
    nested: Inner,
    #[serde(default)]
    #[synapse(hash)]
    blob_b64: String,
    #[serde(default)]
    out: Option<Dict>,
}

async fn all_types(
    mut ask: AllTypesSynapse,
    from: Caller,
) -> Result<AllTypesSynapse, SynapseError> {
    let hash = BodyHash::of(|hasher| ask.hash_fields(hasher));
    let mut out = Dict::new();
    out.insert("s", ask.s.as_str());
    out.insert("i", ask.i.clone());
    out.insert("f", ask.f);
    out.insert("b", ask.b);
    out.insert("l", Value::List(ask.l.clone()));
    out.insert("d", Value::Dict(ask.d.clone()));
    out.insert("n", ask.n.clone());
    out.insert("nested", to_value(&ask.nested)?);
    out.insert("hash", hash.to_string());
    out.insert("caller", from.hotkey.to_string());
    ask.out = Some(out);
    Ok(ask)
}

#[derive(Clone, Debug, Serialize, Deserialize, Synapse)]
struct PlainSynapse {
    #[serde(default)]
    x: i64,
    #[serde(default)]
    y: Option<i64>,
}

fn plain(mut ask: PlainSynapse, _from: Caller) -> Result<PlainSynapse, SynapseError> {
    ask.y = Some(ask.x.checked_mul(2).ok_or_else(|| {
        SynapseError::new(StatusCode::BAD_REQUEST, "twice x does not fit 64 bits")
    })?);
    Ok(ask)
}

#[derive(Clone, Debug, Serialize, Deserialize, Synapse)]
struct TensorSynapse {
    #[serde(default)]
    t: Option<Tensor>,
    #[serde(default)]
    back: Option<Tensor>,
}

async fn tensor(mut ask: TensorSynapse, _from: Caller) -> Result<TensorSynapse, SynapseError> {
    if let Some(tensor) = &ask.t {
        ask.back = Some(tensor.decode()?.to_tensor());
    }
    Ok(ask)
}

#[derive(Clone, Debug, Serialize, Deserialize, Synapse)]
struct SlowSynapse {
    #[serde(default = "second")]
    delay: f64,
    #[serde(default)]
    done: bool,
}

fn second() -> f64 {
    1.0
}

async fn slow(mut ask: SlowSynapse, _from: Caller) -> Result<SlowSynapse, SynapseError> {
    tokio::time::sleep(Duration::try_from_secs_f64(ask.delay)?).await;
    ask.done = true;
    Ok(ask)
}

#[derive(Clone, Debug, Serialize, Deserialize, Synapse)]
struct FailSynapse {
    #[serde(default = "raise")]
    mode: String,
}

fn raise() -> String {
    "raise".to_owned()
}

async fn fail(ask: FailSynapse, _from: Caller) -> Result<Filled<FailSynapse>, SynapseError> {
    match ask.mode.as_str() {
        "raise" => Err(SynapseError::internal("boom: secret detail")),
        "synapse500" => Err(SynapseError::new(StatusCode::INTERNAL_SERVER_ERROR, "run exception")),
        "set_status" => Ok(Filled::with_status(ask, StatusCode::IM_A_TEAPOT, "teapot")),
        _ => Ok(ask.into()),
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, Synapse)]
struct BlacklistedSynapse {
    #[serde(default)]
    x: i64,
}

async fn never(ask: BlacklistedSynapse, _from: Caller) -> Result<BlacklistedSynapse, SynapseError> {
    Ok(ask)
}

#[derive(Clone, Debug, Serialize, Deserialize, Synapse)]
struct PrioritySynapse {
    #[serde(default = "second")]
    prio: f64,
    #[serde(default)]
    order: Option<i64>,
}

#[derive(Clone, Debug, Serialize, Deserialize, Synapse)]
struct StreamSynapse {
    #[serde(default)]
    #[synapse(hash)]
    prompt: String,
    #[serde(default = "five")]
    n_tokens: u32,
    #[serde(default)]
    delay: f64,
    #[serde(default)]
    fail_at: Option<u32>,
    #[serde(default)]
    completion: Option<String>,
}

fn five() -> u32 {
    5
}

async fn stream(
    ask: StreamSynapse,
    _from: Caller,
    reply: StreamReply,
) -> Result<Finished, SynapseError> {
    let delay = Duration::try_from_secs_f64(ask.delay)?;
    let mut out = reply.start();
    for token in 0..ask.n_tokens {
        if ask.fail_at == Some(token) {
            return Err(SynapseError::internal("boom in the stream"));
        }
        out.write(format!("tok{token} ")).await?;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }
    Ok(out.finish())
}

const USAGE: &str = "usage: interop_axon --port PORT [--uri URI] [--no-verify] [--like-reference] [--deny-hotkey SS58]..";

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Args {
    port: u16,
    uri: String,
    verify: Verify,
    deny: Vec<Hotkey>,
}

impl Args {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mut port = None;
        let mut parsed = Self {
            port: 0,
            uri: "//interop-axon".to_owned(),
            verify: Verify::default(),
            deny: Vec::new(),
        };
        while let Some(flag) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{flag} takes a value\n{USAGE}"));
            match flag.as_str() {
                "--port" => port = Some(value()?.parse()?),
                "--uri" => parsed.uri = value()?,
                "--deny-hotkey" => parsed.deny.push(value()?.parse()?),
                "--no-verify" => parsed.verify = Verify::Nothing,
                "--like-reference" => parsed.verify = Verify::LikeReference,
                _ => return Err(format!("unknown argument {flag}\n{USAGE}").into()),
            }
        }
        parsed.port = port.ok_or(USAGE)?;
        Ok(parsed)
    }
}

fn main() -> ExitCode {
    let served = Args::parse(std::env::args().skip(1)).and_then(|args| {
        tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(args))
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::from(2)
        }
    }
}

async fn serve(args: Args) -> Result<(), Failure> {
    let counter = Arc::new(AtomicI64::new(0));
    let order = move |mut ask: PrioritySynapse, _from: Caller| {
        ask.order = Some(counter.fetch_add(1, Ordering::Relaxed) + 1);
        async move { Ok::<_, SynapseError>(ask) }
    };
    let routes = [
        unary(echo),
        unary(all_types),
        unary_blocking(plain),
        unary(tensor),
        unary(slow),
        unary(fail),
        unary(never).blacklist(|_| Verdict::Refuse("not today".to_owned())),
        unary(order).priority(|_| 1.0),
        streaming(stream),
    ];
    let mut axon = Axon::builder(Keypair::from_uri(&args.uri)?).verify(args.verify);
    for route in routes {
        axon = axon.attach(route.deny(args.deny.iter().copied()));
    }
    let axon = axon.build()?;
    let listener = TcpListener::bind(("127.0.0.1", args.port)).await?;
    let mut ready = Dict::new();
    ready.insert("ready", true);
    ready.insert("hotkey", axon.hotkey().to_string());
    ready.insert("port", i64::from(listener.local_addr()?.port()));
    ready.insert("pid", i64::from(std::process::id()));
    ready.insert(
        "synapses",
        Value::List(axon.routes().iter().map(|name| name.as_str().into()).collect()),
    );
    writeln!(io::stdout(), "{}", ready.to_json()?)?;

    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    let server = Server { drain_timeout: Duration::from_secs(1), ..Server::default() };
    server.run(listener, axon, stop).await;
    Ok(())
}
