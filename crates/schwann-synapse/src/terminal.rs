//! `TerminalInfo`: one end of an exchange, as ten optional attributes.

use crate::{
    json::CompactObject,
    python::{ConvertError, Dict, Int, NotJson, Value, float_repr, parse_python_float},
};

/// What is said of one end, the axon or the dendrite (specification §1). Unauthenticated unless the signature covers it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TerminalInfo {
    /// HTTP-like status, such as 200 or 403.
    pub status_code: Option<i64>,
    /// What the status says.
    pub status_message: Option<String>,
    /// Seconds it took.
    pub process_time: Option<f64>,
    /// The address in text.
    pub ip: Option<String>,
    /// The port.
    pub port: Option<i64>,
    /// The SDK's version as an integer: 10.5.0 is 10005000.
    pub version: Option<i64>,
    /// The nonce: Unix time in nanoseconds.
    pub nonce: Option<Int>,
    /// Names the process or the object that calls or answers.
    pub uuid: Option<String>,
    /// The hotkey, ss58.
    pub hotkey: Option<String>,
    /// The signature, `0x` and hexadecimal digits.
    pub signature: Option<String>,
}

/// The attributes in the order of the reference's model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Attribute {
    StatusCode,
    StatusMessage,
    ProcessTime,
    Ip,
    Port,
    Version,
    Nonce,
    Uuid,
    Hotkey,
    Signature,
}

impl Attribute {
    pub(crate) const ALL: [Self; 10] = [
        Self::StatusCode,
        Self::StatusMessage,
        Self::ProcessTime,
        Self::Ip,
        Self::Port,
        Self::Version,
        Self::Nonce,
        Self::Uuid,
        Self::Hotkey,
        Self::Signature,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::StatusCode => "status_code",
            Self::StatusMessage => "status_message",
            Self::ProcessTime => "process_time",
            Self::Ip => "ip",
            Self::Port => "port",
            Self::Version => "version",
            Self::Nonce => "nonce",
            Self::Uuid => "uuid",
            Self::Hotkey => "hotkey",
            Self::Signature => "signature",
        }
    }

    pub(crate) fn of_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|attribute| attribute.name().as_bytes() == name)
    }
}

/// Why a text cannot be an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misfit {
    NotAnInteger,
    NotAFloat,
    OutOfRange,
}

impl TerminalInfo {
    /// Sets an attribute from a header's text, read as Python reads it.
    pub(crate) fn set(&mut self, attribute: Attribute, text: &str) -> Result<(), Misfit> {
        let int = || Int::parse_python(text).ok_or(Misfit::NotAnInteger);
        let small = || int()?.to_i64().ok_or(Misfit::OutOfRange).map(Some);
        match attribute {
            Attribute::StatusCode => self.status_code = small()?,
            Attribute::StatusMessage => self.status_message = Some(text.to_owned()),
            Attribute::ProcessTime => {
                self.process_time = Some(parse_python_float(text).ok_or(Misfit::NotAFloat)?);
            }
            Attribute::Ip => self.ip = Some(text.to_owned()),
            Attribute::Port => self.port = small()?,
            Attribute::Version => self.version = small()?,
            Attribute::Nonce => self.nonce = Some(int()?),
            Attribute::Uuid => self.uuid = Some(text.to_owned()),
            Attribute::Hotkey => self.hotkey = Some(text.to_owned()),
            Attribute::Signature => self.signature = Some(text.to_owned()),
        }
        Ok(())
    }

    /// Calls `each` with the name and the text of every attribute that is set, in order.
    pub(crate) fn texts(&self, mut each: impl FnMut(Attribute, &str)) {
        let mut number = String::new();
        for attribute in Attribute::ALL {
            number.clear();
            let text = match attribute {
                Attribute::StatusCode => int_text(self.status_code, &mut number),
                Attribute::StatusMessage => self.status_message.as_deref(),
                Attribute::ProcessTime => self.process_time.map(|seconds| {
                    number.push_str(&float_repr(seconds));
                    number.as_str()
                }),
                Attribute::Ip => self.ip.as_deref(),
                Attribute::Port => int_text(self.port, &mut number),
                Attribute::Version => int_text(self.version, &mut number),
                Attribute::Nonce => self.nonce.as_ref().map(|nonce| {
                    nonce.write(&mut number);
                    number.as_str()
                }),
                Attribute::Uuid => self.uuid.as_deref(),
                Attribute::Hotkey => self.hotkey.as_deref(),
                Attribute::Signature => self.signature.as_deref(),
            };
            if let Some(text) = text {
                each(attribute, text);
            }
        }
    }

    /// The dict a body carries: all ten attributes in order, those not set as `None`.
    pub fn to_dict(&self) -> Dict {
        let text = |text: &Option<String>| Value::from(text.clone());
        let mut dict = Dict::new();
        dict.insert("status_code", self.status_code);
        dict.insert("status_message", text(&self.status_message));
        dict.insert("process_time", self.process_time);
        dict.insert("ip", text(&self.ip));
        dict.insert("port", self.port);
        dict.insert("version", self.version);
        dict.insert("nonce", self.nonce.clone());
        dict.insert("uuid", text(&self.uuid));
        dict.insert("hotkey", text(&self.hotkey));
        dict.insert("signature", text(&self.signature));
        dict
    }

    /// As the JSON of [`TerminalInfo::to_dict`], compact.
    pub(crate) fn write_json(&self, out: &mut String) -> Result<(), NotJson> {
        let mut object = CompactObject::begin(out);
        let small = |number: Option<i64>| number.map(Int::from);
        object.int("status_code", small(self.status_code).as_ref());
        object.text("status_message", self.status_message.as_deref());
        object.float("process_time", self.process_time)?;
        object.text("ip", self.ip.as_deref());
        object.int("port", small(self.port).as_ref());
        object.int("version", small(self.version).as_ref());
        object.int("nonce", self.nonce.as_ref());
        object.text("uuid", self.uuid.as_deref());
        object.text("hotkey", self.hotkey.as_deref());
        object.text("signature", self.signature.as_deref());
        object.end();
        Ok(())
    }

    /// Reads a terminal out of a body: a dict, or `None` for one with nothing set. Unknown attributes are ignored, and
    /// numbers are read as the reference reads them: texts through `int()` and `float()`.
    ///
    /// # Errors
    /// Names the attribute that does not fit; integers other than the nonce must fit 64 bits.
    pub fn from_value(value: &Value) -> Result<Self, ConvertError> {
        match value {
            Value::None => Ok(Self::default()),
            Value::Dict(dict) => Self::from_dict(dict),
            other => Err(ConvertError::new(format_args!(
                "expected a dict, found a {}",
                other.type_name()
            ))),
        }
    }

    /// As [`TerminalInfo::from_value`], with the texts taken over instead of copied.
    pub(crate) fn of_value(value: Value) -> Result<Self, ConvertError> {
        let Value::Dict(dict) = value else { return Self::from_value(&value) };
        let mut terminal = Self::default();
        let mut values = [const { Value::None }; 10];
        for (name, value) in dict.into_entries() {
            if let Some(attribute) = Attribute::of_name(name.as_bytes()) {
                values[attribute as usize] = value;
            }
        }
        for (attribute, value) in Attribute::ALL.into_iter().zip(values) {
            match (attribute, value) {
                (_, Value::None) => {}
                (Attribute::StatusMessage, Value::Str(text)) => {
                    terminal.status_message = Some(text)
                }
                (Attribute::Ip, Value::Str(text)) => terminal.ip = Some(text),
                (Attribute::Uuid, Value::Str(text)) => terminal.uuid = Some(text),
                (Attribute::Hotkey, Value::Str(text)) => terminal.hotkey = Some(text),
                (Attribute::Signature, Value::Str(text)) => terminal.signature = Some(text),
                (attribute, value) => {
                    let taken = terminal.take(attribute, &value);
                    taken.map_err(|error| error.within(attribute.name()))?;
                }
            }
        }
        Ok(terminal)
    }

    /// As [`TerminalInfo::from_value`], for a dict.
    ///
    /// # Errors
    /// See [`TerminalInfo::from_value`].
    pub fn from_dict(dict: &Dict) -> Result<Self, ConvertError> {
        let mut terminal = Self::default();
        for attribute in Attribute::ALL {
            let Some(value) = dict.get(attribute.name()).filter(|value| !value.is_none()) else {
                continue;
            };
            terminal.take(attribute, value).map_err(|error| error.within(attribute.name()))?;
        }
        Ok(terminal)
    }

    fn take(&mut self, attribute: Attribute, value: &Value) -> Result<(), ConvertError> {
        match attribute {
            Attribute::StatusCode => self.status_code = Some(small(value)?),
            Attribute::StatusMessage => self.status_message = Some(text(value)?),
            Attribute::ProcessTime => self.process_time = Some(float_of(value)?),
            Attribute::Ip => self.ip = Some(text(value)?),
            Attribute::Port => self.port = Some(small(value)?),
            Attribute::Version => self.version = Some(small(value)?),
            Attribute::Nonce => self.nonce = Some(int_of(value)?),
            Attribute::Uuid => self.uuid = Some(text(value)?),
            Attribute::Hotkey => self.hotkey = Some(text(value)?),
            Attribute::Signature => self.signature = Some(text(value)?),
        }
        Ok(())
    }

    /// Takes over every attribute that `newer` has (specification §10.3).
    pub fn overlay(&mut self, newer: &TerminalInfo) {
        fn take<T: Clone>(old: &mut Option<T>, newer: &Option<T>) {
            if newer.is_some() {
                old.clone_from(newer);
            }
        }
        take(&mut self.status_code, &newer.status_code);
        take(&mut self.status_message, &newer.status_message);
        take(&mut self.process_time, &newer.process_time);
        take(&mut self.ip, &newer.ip);
        take(&mut self.port, &newer.port);
        take(&mut self.version, &newer.version);
        take(&mut self.nonce, &newer.nonce);
        take(&mut self.uuid, &newer.uuid);
        take(&mut self.hotkey, &newer.hotkey);
        take(&mut self.signature, &newer.signature);
    }
}

fn int_text(value: Option<i64>, number: &mut String) -> Option<&str> {
    Int::from(value?).write(number);
    Some(number)
}

fn small(value: &Value) -> Result<i64, ConvertError> {
    int_of(value)?.to_i64().ok_or_else(|| ConvertError::new("an integer beyond 64 bits"))
}

/// Python's `int(value)`, which cuts fractions off, unlike pydantic.
pub(crate) fn int_of(value: &Value) -> Result<Int, ConvertError> {
    let int = match value {
        Value::Int(value) => Some(value.clone()),
        Value::Bool(value) => Some(Int::from(u8::from(*value))),
        Value::Float(value) if value.abs() < 1e38 => Some(Int::from(value.trunc() as i128)),
        Value::Str(text) => Int::parse_python(text),
        _ => None,
    };
    int.ok_or_else(|| {
        ConvertError::new(format_args!("expected an integer, found a {}", value.type_name()))
    })
}

/// Python's `float(value)`.
pub(crate) fn float_of(value: &Value) -> Result<f64, ConvertError> {
    let float = match value {
        Value::Float(value) => Some(*value),
        Value::Int(value) => value.to_f64(),
        Value::Bool(value) => Some(f64::from(u8::from(*value))),
        Value::Str(text) => parse_python_float(text),
        _ => None,
    };
    float.ok_or_else(|| {
        ConvertError::new(format_args!("expected a float, found a {}", value.type_name()))
    })
}

fn text(value: &Value) -> Result<String, ConvertError> {
    match value {
        Value::Str(text) => Ok(text.clone()),
        other => {
            Err(ConvertError::new(format_args!("expected a str, found a {}", other.type_name())))
        }
    }
}
