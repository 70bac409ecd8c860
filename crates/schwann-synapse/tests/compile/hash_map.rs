use std::collections::HashMap;

use schwann_synapse::{hash::PyStr, synapse::Synapse};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Synapse)]
struct NoOrder {
    #[synapse(hash)]
    table: HashMap<String, i64>,
}

#[derive(Serialize, Deserialize, Synapse)]
struct OtherDigits {
    #[synapse(hash)]
    ratios: Vec<f32>,
}

#[derive(Serialize, Deserialize, PyStr)]
enum Color {
    Red,
}

#[derive(Serialize, Deserialize)]
struct NotDerived;

#[derive(Serialize, Deserialize, Synapse)]
struct Nested {
    #[synapse(hash)]
    inner: NotDerived,
}

fn main() {}
