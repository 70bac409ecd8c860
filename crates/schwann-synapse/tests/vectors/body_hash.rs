//! `body_hash.json`: the texts of Python values and the hashes of fields.

use schwann_synapse::{
    hash::{BodyHash, PyStr},
    python::{Dict, JsonErrorKind, Value},
};
use sha3::{Digest as _, Sha3_256};

use crate::{
    annotation::Annotation,
    literal::Literal,
    set::{self, Kind, get, holds, maybe, same, text},
};

pub(crate) const KIND: Kind = Kind {
    name: "body_hash",
    sections: &[
        ("about", set::only_for_people),
        ("empty_body_hash", empty),
        ("values", value),
        ("multi_field", fields),
        ("typed_fields", typed),
    ],
};

#[test]
fn texts_and_hashes_are_those_of_python() {
    set::check(&KIND);
}

fn empty(entry: &Value, _: &Dict) -> Result<(), String> {
    same("the empty hash", Some(BodyHash::EMPTY.to_string().as_str()), entry.as_str())?;
    same("the hash of nothing", BodyHash::of(|_| {}), BodyHash::EMPTY)
}

fn value(entry: &Value, _: &Dict) -> Result<(), String> {
    let wire = maybe(entry, "wire_json").and_then(Value::as_str);
    let parsed = wire.map(|wire| Value::parse_json(wire.as_bytes()));
    let Some(expected) = get(entry, "str")?.as_str() else {
        // Python cannot hash it: half a surrogate pair has no UTF-8. We do not let it in.
        text(entry, "error")?;
        return match parsed {
            Some(Err(error)) if error.kind() == JsonErrorKind::LoneSurrogate => Ok(()),
            None => Ok(()),
            other => Err(format!("Python cannot hash this, but we read {other:?}")),
        };
    };
    let stable = get(entry, "same_after_json_roundtrip")? == &Value::Bool(true);
    match (stable, parsed) {
        (true, parsed) => {
            let parsed =
                parsed.ok_or("nothing is on the wire")?.map_err(|error| error.to_string())?;
            hashes(&parsed, expected, entry)?;
            same("json.dumps", parsed.to_python_json().as_str(), wire.unwrap_or_default())?;
            match parsed.to_json() {
                Ok(json) => {
                    let again =
                        Value::parse_json(json.as_bytes()).map_err(|error| error.to_string())?;
                    same("str() of our own JSON", again.py_str().as_str(), expected)?;
                }
                Err(_) => holds(expected.contains("nan") || expected.contains("inf"), || {
                    "no JSON of it".into()
                })?,
            }
            // The literal is `repr()` with everything beyond ASCII escaped.
            let literal = Literal::parse(text(entry, "python_literal")?)?;
            let mut shown = String::new();
            literal.py_str(&mut shown);
            same("str() of the literal", shown.as_str(), expected)
        }
        // JSON turns it into something else, so the receiver's text is another: only a typed field can carry it.
        (false, parsed) => {
            if let Some(Ok(parsed)) = parsed {
                holds(parsed.py_str() != expected, || "JSON does carry this".into())?;
            }
            let literal = Literal::parse(text(entry, "python_literal")?)?;
            if literal.is_foreign() { Ok(()) } else { hashes(&literal, expected, entry) }
        }
    }
}

/// The value's text, the hash of it, and the body hash of a synapse with it alone.
fn hashes(value: &impl PyStr, expected: &str, entry: &Value) -> Result<(), String> {
    let mut shown = String::new();
    value.py_str(&mut shown);
    same("str()", shown.as_str(), expected)?;
    same("the field's hash", field_hash(&shown).as_str(), text(entry, "field_hash")?)?;
    if let Some(body) = maybe(entry, "body_hash_single_field").and_then(Value::as_str) {
        same(
            "the body's hash",
            BodyHash::of(|hasher| hasher.field(value)).to_string().as_str(),
            body,
        )?;
        holds(BodyHash::agrees(body, |hasher| hasher.field(value)), || "does not agree".into())?;
    }
    Ok(())
}

fn field_hash(shown: &str) -> String {
    hex::encode(Sha3_256::digest(shown.as_bytes()))
}

fn fields(entry: &Value, file: &Dict) -> Result<(), String> {
    let list = |key| get(entry, key)?.as_list().ok_or_else(|| format!("`{key}` is no list"));
    let (names, shown, hashed) = (list("fields_in_order")?, list("strs")?, list("field_hashes")?);
    same("how many", (names.len(), shown.len()), (hashed.len(), hashed.len()))?;
    for (shown, hashed) in shown.iter().zip(hashed) {
        same("a field's hash", Some(field_hash(&shown.py_str()).as_str()), hashed.as_str())?;
    }
    let hash = BodyHash::of(|hasher| shown.iter().for_each(|shown| hasher.value(shown)));
    same("the body's hash", hash.to_string().as_str(), text(entry, "body_hash")?)?;
    holds(!names.is_empty() || file.get("empty_body_hash") == maybe(entry, "body_hash"), || {
        "not empty".into()
    })
}

fn typed(entry: &Value, _: &Dict) -> Result<(), String> {
    let Some(annotation) = maybe(entry, "annotation").and_then(Value::as_str) else {
        return unsupported_type(entry);
    };
    let annotation = Annotation::parse(annotation)?;
    let made = annotation.coerce(Literal::parse(text(entry, "input")?)?);
    if maybe(entry, "str_hashed").is_none_or(Value::is_none) {
        text(entry, "error")?;
        return made.map_or(Ok(()), |made| Err(format!("pydantic refuses this, we made {made:?}")));
    }
    hashes(&made?, text(entry, "str_hashed")?, entry)
}

/// Enums: what JSON carries of a member never shows as the member does, so they cannot be hashed fields.
fn unsupported_type(entry: &Value) -> Result<(), String> {
    let in_list = text(entry, "in_list")?;
    let alone = text(entry, "str_hashed")?;
    match Value::parse_json(text(entry, "wire_json")?.as_bytes()) {
        Ok(carried) => holds(
            carried.py_str() != alone || Value::List(vec![carried]).py_str() != in_list,
            || "JSON does carry this".into(),
        ),
        Err(_) => Ok(()),
    }
}
