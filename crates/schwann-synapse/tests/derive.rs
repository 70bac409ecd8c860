//! What `#[derive(Synapse)]` and `#[derive(PyStr)]` make.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use schwann_synapse::{
    hash::{BodyHash, PyStr},
    python::{Dict, Value, to_value},
    synapse::{Ask, Placeholder, Synapse},
    tensor::Tensor,
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, PyStr)]
struct Inner {
    #[serde(default)]
    a: i64,
    #[serde(default)]
    b: Option<String>,
    #[serde(default)]
    c: Vec<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Synapse)]
#[synapse(name = "AllTypesSynapse")]
struct AllTypes {
    #[synapse(hash)]
    s: String,
    #[synapse(hash)]
    i: i64,
    #[synapse(hash)]
    f: f64,
    #[synapse(hash)]
    b: bool,
    #[synapse(hash)]
    l: Vec<Value>,
    #[synapse(hash)]
    d: Dict,
    #[synapse(hash)]
    #[serde(default)]
    n: Option<String>,
    #[synapse(hash)]
    nested: Option<Inner>,
    #[serde(default)]
    blob_b64: String,
}

fn all_types() -> AllTypes {
    AllTypes {
        s: "it's".into(),
        i: -3,
        f: 1e16,
        b: true,
        l: vec![Value::from(1_i64), Value::from("x"), Value::None],
        d: Dict::from_iter([("k", Value::from(2.5))]),
        n: None,
        nested: Some(Inner { a: 1, b: Some("é".into()), c: vec![1.0] }),
        blob_b64: String::new(),
    }
}

#[test]
fn hashed_fields_are_those_of_the_reference_in_their_order() {
    let texts = [
        "it's",
        "-3",
        "1e+16",
        "True",
        "[1, 'x', None]",
        "{'k': 2.5}",
        "None",
        "{'a': 1, 'b': 'é', 'c': [1.0]}",
    ];
    let expected = BodyHash::of(|hasher| texts.iter().for_each(|text| hasher.field(*text)));
    assert_eq!(all_types().body_hash(), expected);
}

#[test]
fn required_fields_get_the_placeholder_of_what_they_hold() {
    let kinds = [
        Placeholder::Str,
        Placeholder::Int,
        Placeholder::Float,
        Placeholder::Bool,
        Placeholder::List,
        Placeholder::Dict,
    ];
    let required: Vec<_> = ["s", "i", "f", "b", "l", "d"].into_iter().zip(kinds).collect();
    // What a `Value` will hold is not known before: of an own type of list it is.
    assert_eq!(AllTypes::required(), required);
    let sent: Vec<_> =
        required.iter().map(|(field, kind)| ((*field).to_owned(), kind.base64())).collect();
    assert_eq!(Ask::placeholders(&all_types()), sent);
}

#[test]
fn fields_go_there_and_back() {
    let fields = Ask::to_fields(&all_types()).unwrap();
    assert_eq!(
        fields.keys().collect::<Vec<_>>(),
        ["s", "i", "f", "b", "l", "d", "n", "nested", "blob_b64"]
    );
    assert_eq!(AllTypes::from_fields(fields).unwrap(), all_types());
}

#[test]
fn numbers_are_taken_as_pydantic_takes_them() {
    let json = br#"{"s": "", "i": "3.0", "f": 2, "b": "yes", "l": [], "d": {}, "nested": {"a": 4.0, "c": ["1", 2]}, "x": 1}"#;
    let Value::Dict(fields) = Value::parse_json(json).unwrap() else { unreachable!() };
    let made = AllTypes::from_fields(fields).unwrap();
    assert_eq!((made.i, made.f, made.b), (3, 2.0, true));
    assert_eq!(made.nested, Some(Inner { a: 4, b: None, c: vec![1.0, 2.0] }));
}

#[test]
fn an_error_names_the_place() {
    let json =
        br#"{"s": "", "i": 1, "f": 2, "b": true, "l": [], "d": {}, "nested": {"c": [1, "one"]}}"#;
    let Value::Dict(fields) = Value::parse_json(json).unwrap() else { unreachable!() };
    let error = AllTypes::from_fields(fields).unwrap_err();
    assert_eq!(error.to_string(), "`nested.c[1]`: not the text of a float");
    assert!(
        AllTypes::from_fields(Dict::new()).unwrap_err().to_string().contains("missing field `s`")
    );
}

#[derive(Clone, Debug, Serialize, Deserialize, Synapse)]
#[synapse(hash = ["second", "first"])]
#[serde(rename_all = "camelCase")]
struct Named {
    first: u8,
    #[serde(rename = "2nd", alias = "second")]
    second: (i32, String),
    /// The reference declares it again, as an integer.
    timeout: i64,
    #[synapse(required)]
    maybe_text: Option<String>,
    #[synapse(optional)]
    has_default_there: bool,
    by_height: BTreeMap<u64, Vec<bool>>,
    tensor: Tensor,
}

fn named() -> Named {
    Named {
        first: 1,
        second: (2, "x".into()),
        timeout: 30,
        maybe_text: None,
        has_default_there: true,
        by_height: BTreeMap::new(),
        tensor: Tensor::from_f32(&[1.0], &[1]).unwrap(),
    }
}

#[test]
fn names_on_the_wire_are_serdes() {
    let fields = Ask::to_fields(&named()).unwrap();
    let names = ["first", "2nd", "timeout", "maybeText", "hasDefaultThere", "byHeight", "tensor"];
    assert_eq!(fields.keys().collect::<Vec<_>>(), names);
    let required = ["first", "2nd", "timeout", "maybeText", "byHeight", "tensor"];
    assert_eq!(Named::required().iter().map(|(field, _)| *field).collect::<Vec<_>>(), required);
    assert_eq!(Named::NAME, "Named");
    assert!(Ask::redefines(&named(), "timeout") && !Ask::redefines(&named(), "axon"));
    let expected =
        BodyHash::of(|hasher| ["(2, 'x')", "1"].iter().for_each(|text| hasher.field(*text)));
    assert_eq!(named().body_hash(), expected);
}

#[test]
fn a_required_field_that_is_none_gets_no_placeholder() {
    let sent = |synapse: &Named| {
        Ask::placeholders(synapse).into_iter().map(|(field, _)| field).collect::<Vec<_>>()
    };
    assert!(!sent(&named()).contains(&"maybeText".to_owned()));
    assert!(
        sent(&Named { maybe_text: Some(String::new()), ..named() })
            .contains(&"maybeText".to_owned())
    );
}

#[test]
fn both_names_of_an_aliased_field_are_taken() {
    let Value::Dict(mut fields) = to_value(&named()).unwrap() else { unreachable!() };
    let second = fields.remove("2nd").unwrap();
    fields.insert("second", second);
    assert_eq!(Named::from_fields(fields).unwrap().second, (2, "x".into()));
}

#[derive(Clone, Serialize, Deserialize, Synapse)]
struct Numbered {
    #[synapse(hash = 2)]
    a: String,
    #[synapse(hash = 1)]
    b: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Synapse)]
struct Ping {}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Synapse)]
struct Unit;

#[test]
fn numbers_order_the_hash() {
    let hash = Numbered { a: "a".into(), b: "b".into() }.body_hash();
    assert_eq!(hash, BodyHash::of(|hasher| ["b", "a"].iter().for_each(|text| hasher.field(*text))));
}

#[test]
fn a_synapse_may_have_no_field_at_all() {
    assert_eq!((Ping {}.body_hash(), Unit.body_hash()), (BodyHash::EMPTY, BodyHash::EMPTY));
    assert!(
        Ask::to_fields(&Ping {}).unwrap().is_empty() && Ask::to_fields(&Unit).unwrap().is_empty()
    );
    assert_eq!(Ping::from_fields(Dict::from_iter([("x", 1_i64)])).unwrap(), Ping {});
    assert_eq!(Unit::from_fields(Dict::from_iter([("x", 1_i64)])).unwrap(), Unit);
}

#[derive(Serialize, Deserialize, PyStr)]
#[serde(transparent)]
struct Meters(f64);

#[derive(Serialize, Deserialize, PyStr)]
struct Pair<T> {
    left: T,
    #[serde(rename = "Right")]
    right: Vec<(T, u8)>,
}

#[test]
fn nested_models_show_as_dicts_and_wrappers_as_what_is_inside() {
    #[track_caller]
    fn check(value: &impl PyStr, expected: &str) {
        let mut shown = String::new();
        value.py_str(&mut shown);
        assert_eq!(shown, expected);
    }
    check(&Meters(2.0), "2.0");
    check(&Pair { left: "a", right: vec![("b'", 1)] }, "{'left': 'a', 'Right': [(\"b'\", 1)]}");
    check(&Some([1.5, f64::NAN]), "[1.5, nan]");
    check(&BTreeMap::from([(1_u64, Some("x")), (2, None)]), "{1: 'x', 2: None}");
    check(&u128::MAX, "340282366920938463463374607431768211455");
}
