use schwann_synapse::{hash::PyStr, python::{Dict, Int, Value}, synapse::Synapse};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, PyStr)]
struct Message {
    role: String,
    #[serde(rename = "content")]
    text: Option<Box<str>>,
}

#[derive(Serialize, Deserialize, Synapse)]
#[synapse(name = "Chat")]
struct Chat {
    #[synapse(hash)]
    messages: Vec<Message>,
    #[synapse(hash)]
    nested: std::collections::BTreeMap<u64, [(bool, f64); 2]>,
    #[synapse(hash)]
    seed: Int,
    #[synapse(hash)]
    any: Value,
    #[synapse(hash)]
    dict: Dict,
    unhashed: std::collections::HashMap<String, f32>,
}

fn main() {
    assert_eq!(Chat::NAME, "Chat");
}
