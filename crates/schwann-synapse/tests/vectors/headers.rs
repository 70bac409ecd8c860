//! `headers.json`: header texts, written and parsed.

use schwann_synapse::{
    hash::PyStr,
    headers::{self, SynapseHeaders, parse_like_reference, sanitise},
    python::{Dict, Int, Value, from_value},
    synapse::{BASE_FIELDS, Placeholder},
};
use serde::de::DeserializeOwned;

use crate::{
    literal::Literal,
    set::{self, Kind, get, holds, maybe, same, text},
};

pub(crate) const KIND: Kind = Kind {
    name: "headers",
    sections: &[("to_headers", to_headers), ("from_headers", from_headers), ("scalars", scalar)],
};

#[test]
fn headers_are_those_of_the_sdk() {
    set::check(&KIND);
}

fn scalar(entry: &Value, _: &Dict) -> Result<(), String> {
    let mut shown = String::new();
    Literal::parse(text(entry, "python")?)?.py_str(&mut shown);
    same("str()", shown.as_str(), text(entry, "str")?)
}

fn pairs(value: &Value) -> Result<Vec<(String, String)>, String> {
    from_value(value.clone()).map_err(|error| error.to_string())
}

/// What the SDK wrote is read, and written again to the same headers in the same order.
fn to_headers(entry: &Value, _: &Dict) -> Result<(), String> {
    let Some(headers) = maybe(entry, "headers") else {
        // A value that cannot be written at all; ours are all JSON.
        return text(entry, "error").map(|_| ());
    };
    let given = pairs(headers)?;
    let without_none = given.iter().filter(|(name, value)| !(name == "timeout" && value == "None"));
    let parsed = parse_like_reference(without_none.map(|(name, value)| (name, value)))
        .map_err(|e| e.to_string())?;
    let mut written = Vec::new();
    headers::write(parsed.parts(), &mut |name, value| {
        written.push((name.to_owned(), value.to_owned()))
    });
    // The volatile ones are sizes, which we carry as they are.
    let carried: Vec<_> =
        given.into_iter().map(|(name, value)| (name, sanitise(&value).into_owned())).collect();
    same("written", &written, &carried)?;
    for (field, text) in &parsed.inputs {
        let value = parsed
            .input_values()
            .get(field)
            .cloned()
            .ok_or_else(|| format!("no JSON in {field}"))?;
        let placeholder = Placeholder::of(&value).ok_or("a placeholder for None")?;
        same("the placeholder", text.as_str(), placeholder.base64())?;
    }
    Ok(())
}

fn from_headers(entry: &Value, _: &Dict) -> Result<(), String> {
    let given: Vec<(String, String)> = match get(entry, "headers")? {
        Value::Dict(dict) => {
            dict.iter().map(|(name, value)| (name.to_owned(), value.py_str())).collect()
        }
        list => pairs(list)?,
    };
    let parsed = parse_like_reference(given.iter().map(|(name, value)| (name, value)));
    match maybe(entry, "result") {
        Some(result) => expected(&parsed.map_err(|error| error.to_string())?, result),
        None => refused(parsed, text(entry, "error")?),
    }
}

fn expected(parsed: &SynapseHeaders, result: &Value) -> Result<(), String> {
    let result = result.as_dict().ok_or("the result is no dict")?;
    let float = |value: Option<f64>| match value {
        // The vectors are JSON, and show what JSON has no number for as text.
        Some(value) if value.is_nan() => Value::from("NaN"),
        Some(value) if value.is_infinite() => {
            Value::from(if value > 0.0 { "Infinity" } else { "-Infinity" })
        }
        value => Value::from(value),
    };
    let terminal = |terminal: &schwann_synapse::terminal::TerminalInfo| {
        let mut dict = terminal.to_dict();
        dict.insert("process_time", float(terminal.process_time));
        Value::Dict(dict)
    };
    let inputs = parsed.input_values();
    for (field, wanted) in result.iter() {
        let got = match field {
            // Not the header's, but the class's.
            "name" => continue,
            "timeout" => float(parsed.timeout),
            "total_size" => Value::from(parsed.total_size.clone()),
            "header_size" => Value::from(parsed.header_size.clone()),
            "computed_body_hash" => Value::from(parsed.computed_body_hash.clone()),
            "axon" => terminal(&parsed.axon),
            "dendrite" => terminal(&parsed.dendrite),
            own => match inputs.get(own) {
                Some(value) => value.clone(),
                // A default of the class.
                None => continue,
            },
        };
        // Pydantic makes `0` of a float field `0.0`, which is the class's affair.
        if let (Value::Float(wanted), Value::Int(got)) = (wanted, &got)
            && got.to_f64() == Some(*wanted)
        {
            continue;
        }
        same(field, &got, wanted)?;
    }
    Ok(())
}

/// The reference builds a typed object of the headers, and fails for reasons of two kinds: a header that is wrong, where
/// we fail as well, or a placeholder that does not suit the class, of which we build nothing.
fn refused(
    parsed: Result<SynapseHeaders, headers::HeaderError>,
    error: &str,
) -> Result<(), String> {
    let mut lines = error.lines();
    let problems = if lines.next().is_some_and(|first| first.contains("validation error")) {
        let lines: Vec<&str> = lines.collect();
        let places = lines.chunks(3).filter_map(|lines| Some((*lines.first()?, *lines.get(1)?)));
        places
            .map(|(place, why)| {
                (place.split('.').next().unwrap_or_default().to_owned(), why.to_owned())
            })
            .collect()
    } else {
        vec![(String::new(), error.to_owned())]
    };
    if problems.iter().any(|(field, _)| field.is_empty() || BASE_FIELDS.contains(&field.as_str())) {
        return holds(parsed.is_err(), || format!("the reference fails with {error:?}, we do not"));
    }
    let inputs = parsed.map_err(|error| error.to_string())?.input_values();
    for (field, why) in problems {
        let value = inputs.get(&field);
        let wrong = if why.contains("Field required") {
            value.is_none()
        } else {
            let value = value.cloned().unwrap_or_default();
            let unfit = |wanted: &str| why.contains(wanted);
            unfit("valid string") && fails::<String>(&value)
                || unfit("valid integer") && fails::<Int>(&value)
                || unfit("valid number") && fails::<f64>(&value)
                || unfit("valid boolean") && fails::<bool>(&value)
                || unfit("valid list") && fails::<Vec<Value>>(&value)
                || unfit("valid dictionary") && fails::<Dict>(&value)
                || unfit("at least")
                || unfit("at most")
                || unfit("greater")
                || unfit("less")
                || unfit("Input should be '")
        };
        holds(wrong, || format!("`{field}` is {value:?}, of which the reference says: {why}"))?;
    }
    Ok(())
}

fn fails<T: DeserializeOwned>(value: &Value) -> bool {
    from_value::<T>(value.clone()).is_err()
}
