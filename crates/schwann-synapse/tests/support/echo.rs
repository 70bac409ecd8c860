//! `EchoSynapse` of `interop/py_axon.py`, as tests, examples and measurements have it.

use schwann_synapse::{
    axon::SynapseError,
    caller::Caller,
    python::{Dict, Int, Value, float_repr},
    synapse::Synapse,
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize, Synapse)]
pub(crate) struct EchoSynapse {
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

/// Fills `reply` with what the other fields are to Python.
pub(crate) async fn echo(mut ask: EchoSynapse, _from: Caller) -> Result<EchoSynapse, SynapseError> {
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
