use schwann_synapse::synapse::Synapse;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Synapse)]
struct NotSent {
    #[serde(skip)]
    #[synapse(hash)]
    field: String,
}

#[derive(Serialize, Deserialize, Synapse)]
#[synapse(hash = ["tixt"])]
struct Misspelt {
    text: String,
}

#[derive(Serialize, Deserialize, Synapse)]
struct Half {
    #[synapse(hash = 1)]
    a: String,
    #[synapse(hash)]
    b: String,
}

#[derive(Serialize, Deserialize, Synapse)]
#[synapse(name = "a/b")]
struct TwoSegments {}

#[derive(Serialize, Deserialize, Synapse)]
struct Unknown {
    #[synapse(hashed)]
    field: String,
}

#[derive(Serialize, Deserialize, Synapse)]
struct Tuple(String);

fn main() {}
