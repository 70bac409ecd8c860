//! The synapse classes of public subnets: each with plausible values, through the whole codec and back.

use schwann_synapse::{
    headers::{self, HeaderParts, parse_like_reference, parse_strict},
    python::{Dict, Int, Value, from_value},
    synapse::{Ask as _, BASE_FIELDS, Envelope, Untyped},
    terminal::TerminalInfo,
};
use serde::Deserialize;

use crate::{annotation::Annotation, numbers::Numbers, set};

#[derive(Deserialize)]
pub(crate) struct Shape {
    repo: String,
    pub(crate) class: String,
    pub(crate) bases: Vec<String>,
    required_hash_fields: Option<Vec<String>>,
    rhf_style: Option<String>,
    fields: Vec<Field>,
    #[serde(default)]
    custom_types: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Field {
    name: String,
    #[serde(rename = "type")]
    annotation: String,
    required: bool,
}

pub(crate) fn shapes() -> Vec<Shape> {
    let path = set::path("SCHWANN_SHAPES", "vectors/synapse_shapes.json");
    let bytes = std::fs::read(&path)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    let shapes: Vec<Shape> = from_value(Value::parse_json(&bytes).unwrap()).unwrap();
    assert!(!shapes.is_empty());
    shapes
}

const TEXTS: [&str; 9] = [
    "",
    "gpt-4o",
    "Why is the sky blue?",
    "it's \"quoted\"",
    "naïve 東京 🦀",
    "line\nbreak\ttab\\",
    "\u{7f}\u{a0}\u{200b}\u{e000}",
    "None",
    "2025-10-21T12:00:00Z",
];
const FLOATS: [f64; 8] = [0.0, 1.0, 0.7, 1e-7, 1e16, 123_456.789, -2.5, 5e-324];

fn value(of: &Annotation, shape: &Shape, numbers: &mut Numbers, depth: usize) -> Value {
    let few = if depth > 3 { 1 } else { 4 };
    match of {
        Annotation::Any => {
            let of = numbers.pick(&[
                Annotation::Str,
                Annotation::Int,
                Annotation::Float,
                Annotation::None,
            ]);
            value(&of, shape, numbers, depth + 1)
        }
        Annotation::None => Value::None,
        Annotation::Str => Value::from(numbers.pick(&TEXTS)),
        Annotation::Int => match numbers.below(6) {
            0 => Value::Int(Int::from(u128::MAX)),
            1 => Value::from(-7_i64),
            _ => Value::from(numbers.below(1 << 40)),
        },
        Annotation::Float => Value::Float(numbers.pick(&FLOATS)),
        Annotation::Bool => Value::Bool(numbers.below(2) == 1),
        Annotation::List(of) => Value::List(
            (0..numbers.below(few)).map(|_| value(of, shape, numbers, depth + 1)).collect(),
        ),
        // What JSON makes of it.
        Annotation::Tuple(of, _) => {
            Value::List(of.iter().map(|of| value(of, shape, numbers, depth + 1)).collect())
        }
        Annotation::Dict(keys, values) => {
            let mut dict = Dict::new();
            for at in 0..numbers.below(few) {
                let key = match &**keys {
                    Annotation::Int => at.to_string(),
                    _ => format!("{}{at}", numbers.pick(&TEXTS)),
                };
                dict.insert(key, value(values, shape, numbers, depth + 1));
            }
            Value::Dict(dict)
        }
        Annotation::Union(alternatives) => {
            let of = numbers.pick(alternatives);
            value(&of, shape, numbers, depth + 1)
        }
        Annotation::Literal(values) => numbers.pick(values).value().unwrap(),
        Annotation::Class(name) => class(name, shape, numbers, depth),
    }
}

fn class(name: &str, shape: &Shape, numbers: &mut Numbers, depth: usize) -> Value {
    let bases = shape.custom_types.get(name).map_or("", String::as_str);
    if name == "datetime" || bases.contains("str, Enum") {
        return Value::from("2025-10-21T12:00:00Z");
    }
    if bases.contains("IntEnum") {
        return Value::from(3_i64);
    }
    // A nested model, whose fields the file does not tell.
    let dict = Annotation::Dict(Box::new(Annotation::Str), Box::new(Annotation::Any));
    value(&dict, shape, numbers, depth + 1)
}

pub(crate) fn synapse(shape: &Shape, numbers: &mut Numbers) -> Untyped {
    let mut fields = Dict::new();
    for field in &shape.fields {
        let of = Annotation::parse(&field.annotation)
            .unwrap_or_else(|why| panic!("{}: {why}", shape.class));
        fields.insert(field.name.as_str(), value(&of, shape, numbers, 0));
    }
    let mut hash = shape.required_hash_fields.clone().unwrap_or_default();
    if shape.rhf_style.as_deref().is_some_and(|style| style.contains("Field")) {
        // The old way to declare them hashes in the order of the model (specification §5).
        hash.sort_by_key(|name| shape.fields.iter().position(|field| field.name == *name));
    }
    let required =
        shape.fields.iter().filter(|field| field.required).map(|field| field.name.as_str());
    Untyped::new(&shape.class, fields).hash(hash).required(required)
}

#[test]
fn every_shape_survives_the_wire() {
    let mut numbers = Numbers(20_251_021);
    for shape in &shapes() {
        for _ in 0..20 {
            survive(&synapse(shape, &mut numbers), shape);
        }
    }
}

fn survive(sent: &Untyped, shape: &Shape) {
    let label = format!("{} {}", shape.repo, shape.class);
    let envelope = Envelope {
        timeout: Some(3.5),
        total_size: 2900,
        axon: TerminalInfo {
            ip: Some("127.0.0.1".into()),
            port: Some(8091),
            hotkey: Some("5A".into()),
            ..Default::default()
        },
        dendrite: TerminalInfo {
            nonce: Some(Int::from(1_795_219_399_075_121_210_u64)),
            version: Some(10_005_000),
            uuid: Some("f5431f40-e53e-11f1-aa65-02fc00000001".into()),
            ..Default::default()
        },
        ..Default::default()
    };

    // The dendrite writes.
    let body = envelope.join(sent.name(), sent.to_fields().unwrap());
    let positions = body.keys().take(BASE_FIELDS.len()).collect::<Vec<_>>();
    assert_eq!(positions, BASE_FIELDS, "{label}");
    let hash = sent.body_hash().to_string();
    let placeholders = sent.placeholders();
    let mut written = Vec::new();
    let parts = HeaderParts {
        name: sent.name(),
        timeout: envelope.timeout,
        axon: &envelope.axon,
        dendrite: &envelope.dendrite,
        inputs: placeholders.iter().map(|(field, text)| (field.as_str(), *text)),
        header_size: Some(Int::from(464)),
        total_size: Some(Int::from(envelope.total_size)),
        computed_body_hash: Some(&hash),
    };
    headers::write(parts, &mut |name, value| written.push((name.to_owned(), value.to_owned())));

    // The axon reads.
    for json in [body.to_python_json(), body.to_json().unwrap()] {
        let Value::Dict(read) = Value::parse_json(json.as_bytes()).unwrap() else {
            panic!("{label}: no object")
        };
        assert_eq!(read, body, "{label}");
        let (read_envelope, fields) = Envelope::split(read, |base| sent.redefines(base)).unwrap();
        assert_eq!(fields.len(), sent.fields.len(), "{label}");
        for (field, value) in sent.fields.iter() {
            assert_eq!(fields.get(field), Some(value), "{label}: {field}");
        }
        assert_eq!(
            (&read_envelope.axon, &read_envelope.dendrite),
            (&envelope.axon, &envelope.dendrite),
            "{label}"
        );
        if !sent.redefines("timeout") {
            assert_eq!(read_envelope.timeout, envelope.timeout, "{label}");
        }
        let received = Untyped { fields, ..sent.clone() };
        assert_eq!(received.body_hash(), sent.body_hash(), "{label}");
        assert_eq!(
            received.answered(sent.to_fields().unwrap()).unwrap().body_hash(),
            sent.body_hash(),
            "{label}"
        );
    }
    let pairs = || written.iter().map(|(name, value)| (name, value));
    let parsed = parse_strict(pairs()).unwrap();
    assert_eq!(parsed, parse_like_reference(pairs()).unwrap(), "{label}");
    assert_eq!((&parsed.axon, &parsed.dendrite), (&envelope.axon, &envelope.dendrite), "{label}");
    assert_eq!(parsed.computed_body_hash.as_deref(), Some(hash.as_str()), "{label}");
    let declared =
        |name: &&str| shape.fields.iter().any(|field| field.required && field.name == *name);
    assert!(parsed.inputs.iter().all(|(field, _)| declared(&field.as_str())), "{label}");
    let present = sent
        .required
        .iter()
        .filter(|name| sent.fields.get(name).is_some_and(|value| !value.is_none()));
    assert_eq!(parsed.inputs.len(), present.count(), "{label}");
}
