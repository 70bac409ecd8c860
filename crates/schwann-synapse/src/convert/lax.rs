//! What pydantic's lax mode takes for a number or a bool.

use super::ConvertError;
use crate::python::{Int, Value, parse_python_float};

/// The integer that pydantic's lax mode makes of a value.
pub(crate) fn lax_int(value: &Value) -> Result<Int, ConvertError> {
    match value {
        Value::Int(value) => Ok(value.clone()),
        Value::Bool(value) => Ok(Int::from(u8::from(*value))),
        // pydantic takes no float beyond 64 bits for an integer.
        Value::Float(value)
            if value.fract() == 0.0 && value.abs() < 9_223_372_036_854_775_808.0 =>
        {
            Ok(Int::from(*value as i64))
        }
        Value::Str(text) => {
            lax_int_text(text).ok_or_else(|| ConvertError::new("not the text of an integer"))
        }
        other => {
            Err(ConvertError::new(format_args!("expected an integer, found {}", shown(other))))
        }
    }
}

/// pydantic takes a fraction of zeros, unlike `int()`.
fn lax_int_text(text: &str) -> Option<Int> {
    let text = text.trim();
    if !text.is_ascii() {
        return None;
    }
    let whole = match text.split_once('.') {
        Some((whole, zeros)) if !zeros.is_empty() && zeros.bytes().all(|byte| byte == b'0') => {
            whole
        }
        Some(_) => return None,
        None => text,
    };
    Int::parse_python(whole).filter(|_| whole.ends_with(|c: char| c.is_ascii_digit()))
}

/// The float that pydantic's lax mode makes of a value.
pub(crate) fn lax_float(value: &Value) -> Result<f64, ConvertError> {
    match value {
        Value::Float(value) => Ok(*value),
        Value::Int(value) => {
            value.to_f64().ok_or_else(|| ConvertError::new("too large for a float"))
        }
        Value::Bool(value) => Ok(f64::from(u8::from(*value))),
        Value::Str(text) if text.is_ascii() => {
            parse_python_float(text).ok_or_else(|| ConvertError::new("not the text of a float"))
        }
        other => Err(ConvertError::new(format_args!("expected a float, found {}", shown(other)))),
    }
}

/// The bool that pydantic's lax mode makes of a value.
pub(crate) fn lax_bool(value: &Value) -> Result<bool, ConvertError> {
    let known = match value {
        Value::Bool(value) => Some(*value),
        Value::Int(value) => match value.to_i64() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        },
        Value::Float(value) if *value == 0.0 => Some(false),
        Value::Float(value) if *value == 1.0 => Some(true),
        Value::Str(text) if text.len() <= 5 => match text.to_ascii_lowercase().as_str() {
            "0" | "off" | "f" | "false" | "n" | "no" => Some(false),
            "1" | "on" | "t" | "true" | "y" | "yes" => Some(true),
            _ => None,
        },
        _ => None,
    };
    known.ok_or_else(|| ConvertError::new(format_args!("expected a bool, found {}", shown(value))))
}

/// A value for a message: its type, and itself where that is short.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::None => "None".into(),
        Value::Str(text) if text.len() > 40 => "a str".into(),
        Value::List(_) | Value::Tuple(_) | Value::Dict(_) => format!("a {}", value.type_name()),
        other => {
            let text = other.py_repr();
            if text.len() > 60 { format!("a long {}", other.type_name()) } else { text }
        }
    }
}
