//! The routes of `interop/py_axon.py`, ours: served to real dendrites by the example, and to recorded ones by a test.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use schwann::Finished;
use schwann_synapse::{
    axon::{Filled, Route, StreamReply, SynapseError, streaming, unary, unary_blocking},
    caller::{Caller, Verdict},
    hash::{BodyHash, PyStr},
    python::{Dict, Int, Value, to_value},
    synapse::Synapse,
    tensor::Tensor,
};
use serde::{Deserialize, Serialize};

#[path = "echo.rs"]
pub(crate) mod echo;

use echo::echo;

/// The routes, in the order in which the Python axon attaches them after its ping. `reason` is why
/// `BlacklistedSynapse` is refused.
pub(crate) fn routes(reason: &str) -> Vec<Route> {
    let reason = reason.to_owned();
    let counter = Arc::new(AtomicI64::new(0));
    let order = move |mut ask: PrioritySynapse, _from: Caller| {
        ask.order = Some(counter.fetch_add(1, Ordering::Relaxed) + 1);
        async move { Ok::<_, SynapseError>(ask) }
    };
    vec![
        unary(echo),
        unary(all_types),
        unary_blocking(plain),
        unary(tensor),
        unary(slow),
        unary(fail),
        unary(never).blacklist(move |_| Verdict::Refuse(reason.clone())),
        unary(order).priority(|_| 1.0),
        streaming(stream),
    ]
}

#[derive(Clone, Debug, Serialize, Deserialize, PyStr)]
pub(crate) struct Inner {
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

async fn fail(mut ask: FailSynapse, _from: Caller) -> Result<Filled<FailSynapse>, SynapseError> {
    match ask.mode.as_str() {
        "raise" => Err(SynapseError::internal("boom: secret detail")),
        "synapse500" => {
            Err(SynapseError::new(StatusCode::INTERNAL_SERVER_ERROR, "run exception text"))
        }
        "timeout" => Err(SynapseError::internal("a time limit of the handler's own")),
        "httpexc" => Err(SynapseError::new(StatusCode::TOO_MANY_REQUESTS, "slow down")),
        // In Python a handler can return anything; here it would not compile.
        "none" | "dict" | "jsonresp" => Err(SynapseError::internal("returned no synapse")),
        "set_status" => Ok(Filled::with_status(ask, StatusCode::IM_A_TEAPOT, "teapot")),
        "set_204" => Ok(Filled::with_status(ask, StatusCode::NO_CONTENT, "no content")),
        "nan" => {
            ask.mode = "ok".to_owned();
            Ok(ask.into())
        }
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
