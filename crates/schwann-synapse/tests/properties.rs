//! What holds for any input: nothing panics, and what is written is read again.

use proptest::prelude::*;
use schwann_synapse::{
    hash::{BodyHash, PyStr as _},
    headers::{self, parse_answer, parse_like_reference, parse_strict},
    python::{
        Dict, Int, UnicodeVersion, Value, float_repr, from_value, parse_python_float, to_value,
    },
    synapse::{Ask as _, Envelope, Untyped},
    tensor::{Tensor, TensorLimits},
    terminal::TerminalInfo,
};

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::from),
        any::<u128>().prop_map(Value::from),
        "-?[1-9][0-9]{30,80}"
            .prop_map(|text| Value::Int(Int::parse_python(&text).unwrap_or(Int::ZERO))),
        any::<f64>().prop_filter("equal to itself", |float| !float.is_nan()).prop_map(Value::Float),
        any::<String>().prop_map(Value::Str),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::List),
            prop::collection::vec((any::<String>(), inner), 0..6)
                .prop_map(|entries| Value::Dict(Dict::from_iter(entries))),
        ]
    })
}

fn header_names() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        "name",
        "timeout",
        "header_size",
        "total_size",
        "computed_body_hash",
        "bt_header_axon_status_code",
        "bt_header_axon_ip",
        "bt_header_dendrite_nonce",
        "bt_header_dendrite_version",
        "bt_header_dendrite_bt_header_dendrite_hotkey",
        "x-bt_header_axon_port",
        "bt_header_input_obj",
        "bt_header_input_obj_text",
    ]);
    prop_oneof![
        known.prop_map(|name| name.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..40)
    ]
}

proptest! {
    #[test]
    fn any_bytes_as_json(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(value) = Value::parse_json(&bytes) {
            prop_assert_eq!(Value::parse_json(value.to_python_json().as_bytes()).map(|v| v.py_repr()), Ok(value.py_repr()));
        }
    }

    #[test]
    fn almost_json(text in "[\\[\\]{}\":,0-9eE.+\\-\\\\unltrfasNIiy \\n]{0,60}") {
        if let Ok(value) = Value::parse_json(text.as_bytes()) {
            prop_assert_eq!(Value::parse_json(value.to_python_json().as_bytes()).map(|v| v.py_repr()), Ok(value.py_repr()));
        }
    }

    #[test]
    fn json_keeps_every_value(value in values()) {
        prop_assert_eq!(Value::parse_json(value.to_python_json().as_bytes()), Ok(value.clone()));
        if let Ok(json) = value.to_json() {
            prop_assert_eq!(Value::parse_json(json.as_bytes()), Ok(value.clone()));
        }
        // serde keeps it as well, to itself and, numbers apart, to another format.
        prop_assert_eq!(to_value(&value), Ok(value.clone()));
        prop_assert_eq!(from_value::<Value>(value.clone()), Ok(value.clone()));
        prop_assert!(serde_json::to_string(&value).is_ok());
    }

    #[test]
    fn a_text_grows_by_ten_at_most(text in any::<String>()) {
        for unicode in UnicodeVersion::ALL {
            let mut shown = String::new();
            Value::from(text.as_str()).write_repr(&mut shown, unicode);
            prop_assert!(shown.len() <= 2 + 10 * text.len());
            prop_assert!(shown.chars().all(|c| unicode.is_printable(c)));
        }
        let mut shown = String::new();
        text.py_str(&mut shown);
        prop_assert_eq!(shown, text);
    }

    #[test]
    fn the_text_of_a_float_is_short_and_reads_back(bits in any::<u64>()) {
        let float = f64::from_bits(bits);
        let text = float_repr(float);
        prop_assert!(text.len() <= 24, "{}", text);
        prop_assert_eq!(parse_python_float(&text).map(f64::to_bits), Some(if float.is_nan() { f64::NAN.to_bits() } else { bits }));
    }

    #[test]
    fn integers_order_and_show_as_they_should(a in any::<i128>(), b in any::<i128>()) {
        let (x, y) = (Int::from(a), Int::from(b));
        prop_assert_eq!(x.cmp(&y), a.cmp(&b));
        prop_assert_eq!(x.to_string(), a.to_string());
        prop_assert_eq!(Int::parse_python(&a.to_string()), Some(x.clone()));
        prop_assert_eq!((x.to_i128(), x.to_i64()), (Some(a), i64::try_from(a).ok()));
        prop_assert_eq!((x.to_u64(), x.to_u128()), (u64::try_from(a).ok(), u128::try_from(a).ok()));
    }

    #[test]
    fn any_headers(given in prop::collection::vec((header_names(), prop::collection::vec(any::<u8>(), 0..30)), 0..30)) {
        let pairs = || given.iter().map(|(name, value)| (name, value));
        let _ = parse_strict(pairs());
        let _ = parse_answer(pairs());
        if let Ok(parsed) = parse_like_reference(pairs()) {
            let _ = parsed.input_values();
            headers::write(parsed.parts(), &mut |name, value| {
                assert!(value.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{name}: {value:?}");
                assert!(!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?}");
            });
        }
    }

    #[test]
    fn terminals_survive_headers_and_bodies(
        (status_code, port, version) in (any::<Option<i64>>(), any::<Option<i64>>(), any::<Option<i64>>()),
        process_time in prop::option::of(prop::num::f64::NORMAL),
        nonce in prop::option::of(any::<u128>()),
        texts in prop::collection::vec(prop::option::of("[!-~]{0,20}"), 5),
    ) {
        let text = |at: usize| texts[at].clone();
        let axon = TerminalInfo {
            status_code, port, version, process_time, nonce: nonce.map(Int::from),
            status_message: text(0), ip: text(1), uuid: text(2), hotkey: text(3), signature: text(4),
        };
        prop_assert_eq!(TerminalInfo::from_dict(&axon.to_dict()), Ok(axon.clone()));
        let mut written = Vec::new();
        let parsed = headers::SynapseHeaders { axon: axon.clone(), timeout: Some(1.0), ..Default::default() };
        headers::write(parsed.parts(), &mut |name, value| written.push((name.to_owned(), value.to_owned())));
        prop_assert_eq!(parse_like_reference(written).map(|headers| headers.axon), Ok(axon));
    }

    #[test]
    fn any_object_as_a_body(value in values()) {
        let Value::Dict(body) = value else { return Ok(()) };
        if let Ok((envelope, own)) = Envelope::split(body, |_| false) {
            let joined = envelope.join("Any", own.clone());
            prop_assert_eq!(Envelope::split(joined, |_| false), Ok((envelope, own)));
        }
    }

    #[test]
    fn any_fields_hash(value in values()) {
        let fields = Dict::from_iter([("value", value)]);
        let untyped = Untyped::new("Any", fields).hash(["value", "missing"]);
        let hash = untyped.body_hash().to_string();
        prop_assert!(BodyHash::agrees(&hash, |hasher| untyped.hash_fields(hasher)));
        prop_assert!(!BodyHash::agrees(&hash.to_uppercase(), |hasher| untyped.hash_fields(hasher)) || !hash.contains(|c: char| c.is_alphabetic()));
    }

    #[test]
    fn any_bytes_as_a_tensor(bytes in prop::collection::vec(any::<u8>(), 0..100), shape in prop::collection::vec(any::<i64>(), 0..4)) {
        let tensor = Tensor { buffer: hex_free_base64(&bytes), dtype: "float32".into(), shape };
        let _ = tensor.decode();
    }

    #[test]
    fn a_damaged_tensor(data in prop::collection::vec(any::<f32>(), 0..20), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let tensor = Tensor::from_f32(&data, &[data.len()]);
        prop_assert!(tensor.is_ok());
        let Ok(tensor) = tensor else { return Ok(()) };
        prop_assert_eq!(tensor.to_vec::<f32>().map(|back| back.iter().map(|f| f.to_bits()).collect::<Vec<_>>()), Ok(data.iter().map(|f| f.to_bits()).collect()));
        let mut buffer = tensor.buffer.clone().into_bytes();
        let at = at.index(buffer.len());
        buffer[at] = byte & 0x7f;
        let damaged = Tensor { buffer: String::from_utf8_lossy(&buffer).into_owned(), ..tensor };
        let limits = TensorLimits { max_bytes: 1000, ..Default::default() };
        if let Ok(array) = damaged.decode_within(&limits) {
            prop_assert!(array.as_bytes().len() <= 1000);
        }
    }
}

fn hex_free_base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[test]
fn deep_nesting_is_refused_before_the_stack_ends() {
    for open in ["[", "{\"a\":", "[{\"a\":"] {
        let json = open.repeat(1_000_000);
        assert!(Value::parse_json(json.as_bytes()).is_err());
    }
    let json = format!("{}{}", "[".repeat(128), "]".repeat(128));
    assert!(Value::parse_json(json.as_bytes()).is_ok());
    assert!(Value::parse_json(format!("[{json}]").as_bytes()).is_err());
}

#[test]
fn an_object_of_many_names_costs_no_square() {
    let mut json = String::from("{\"0\":0");
    for at in 1..200_000 {
        json.push_str(&format!(",\"{at}\":{at}"));
    }
    json.push_str(",\"0\":\"again\"}");
    let value = Value::parse_json(json.as_bytes());
    let Ok(Value::Dict(dict)) = value else { panic!("no object: {value:?}") };
    assert_eq!(dict.len(), 200_000);
    assert_eq!(dict.iter().next(), Some(("0", &Value::from("again"))));
}
