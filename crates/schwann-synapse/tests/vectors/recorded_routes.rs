//! The routes of the axon that was recorded, which has more than `interop/py_axon.py`.

use schwann_synapse::{
    axon::{Route, SynapseError, unary, untyped},
    caller::{Caller, Verdict},
    python::Value,
    synapse::{Synapse, Untyped},
};
use serde::{Deserialize, Serialize};

use crate::routes;

#[derive(Clone, Debug, Serialize, Deserialize, Synapse)]
struct UpperSynapse {
    #[serde(rename = "MyField")]
    my_field: String,
}

#[derive(Clone, Debug, Serialize, Deserialize, Synapse)]
struct NestedReqSynapse {
    inner: routes::Inner,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Strict {
    must: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize, Synapse)]
struct NestedStrictSynapse {
    inner: Strict,
}

#[derive(Clone, Debug, Serialize, Deserialize, Synapse)]
struct NanSynapse {
    #[synapse(hash)]
    v: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize, Synapse)]
struct TupleSynapse {
    #[synapse(hash)]
    t: (i64, String),
}

#[derive(Clone, Debug, Serialize, Deserialize, Synapse)]
struct AliasSynapse {
    #[serde(default, rename = "myVal", alias = "my_val")]
    my_val: i64,
}

async fn echo<S>(ask: S, _from: Caller) -> Result<S, SynapseError> {
    Ok(ask)
}

/// A class of one optional field, `x`.
fn small(name: &str) -> Route {
    untyped(name).unary(async |mut ask: Untyped, _| {
        if !ask.fields.contains_key("x") {
            ask.fields.insert("x", 0_i64);
        }
        Ok::<_, SynapseError>(ask)
    })
}

fn crash() -> SynapseError {
    SynapseError::internal("a hook that fails")
}

/// All of them, in the order of the recorded 404's list. `reason` is why the blacklists refuse.
pub(crate) fn routes(reason: &str) -> Vec<Route> {
    let refuse = reason.to_owned();
    let mut all = routes::routes(reason);
    // The recorded one does not count.
    let silent = untyped("PrioritySynapse").unary(async |mut ask: Untyped, _| {
        ask.fields.insert("order", Value::None);
        Ok::<_, SynapseError>(ask)
    });
    for route in &mut all {
        if route.name() == "PrioritySynapse" {
            *route = silent.priority(|_| 1.0);
            break;
        }
    }
    all.extend([
        unary(echo::<UpperSynapse>),
        unary(echo::<NestedReqSynapse>),
        unary(echo::<NestedStrictSynapse>),
        untyped("ConstrainedSynapse").unary(async |ask: Untyped, _| {
            match ask.fields.get("name_").and_then(Value::as_str) {
                Some(text) if text.chars().count() >= 3 => Ok(ask),
                _ => Err(SynapseError::internal("name_ has fewer than three characters")),
            }
        }),
        unary(echo::<NanSynapse>),
        untyped("IntKeySynapse").hash(["d"]).unary(echo),
        unary(echo::<TupleSynapse>),
        unary(echo::<AliasSynapse>),
        small("BlReason").blacklist(move |_| Verdict::Refuse(refuse.clone())),
        small("BlCrash").blacklist_with(async |_| Err::<Verdict, _>(crash())),
        small("PrioTimeout").priority_with(async |_| Err::<f64, _>(SynapseError::timeout())),
        small("PrioCrash").priority_with(async |_| Err::<f64, _>(crash())),
        small("VerifyCustom").verify_with(async |_| {
            Err::<(), _>(SynapseError::new(http::StatusCode::UNAUTHORIZED, "custom says no"))
        }),
    ]);
    all
}
