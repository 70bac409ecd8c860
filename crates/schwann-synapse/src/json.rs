//! JSON as Python's `json` module reads and writes it.

use std::fmt::Write as _;

use crate::{
    python::{Dict, Int, Key, Value, write_float},
    synapse::BASE_FIELDS,
    terminal::Attribute,
};

/// How deep JSON may nest unless told otherwise. Python's own limit is its recursion limit, about 1000.
pub const DEFAULT_DEPTH: usize = 128;

/// Why a text is not JSON as `json.loads` takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: at character {position}")]
pub struct JsonError {
    kind: JsonErrorKind,
    position: usize,
}

impl JsonError {
    /// What is wrong.
    pub fn kind(&self) -> JsonErrorKind {
        self.kind
    }

    /// Where, in characters from the start, as Python counts; in bytes if the text is not UTF-8.
    pub fn position(&self) -> usize {
        self.position
    }
}

/// What is wrong with a JSON text. The messages are those of Python's `json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum JsonErrorKind {
    /// The bytes are not UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
    /// The text begins with a byte order mark.
    #[error("Unexpected UTF-8 BOM (decode using utf-8-sig)")]
    ByteOrderMark,
    /// A value should stand here.
    #[error("Expecting value")]
    ExpectingValue,
    /// A name in quotes should stand here.
    #[error("Expecting property name enclosed in double quotes")]
    ExpectingName,
    /// A colon should stand here.
    #[error("Expecting ':' delimiter")]
    ExpectingColon,
    /// A comma or the end of the list or object should stand here.
    #[error("Expecting ',' delimiter")]
    ExpectingComma,
    /// Something follows the value.
    #[error("Extra data")]
    ExtraData,
    /// A text that begins here does not end.
    #[error("Unterminated string starting at")]
    Unterminated,
    /// A control character stands in a text.
    #[error("Invalid control character at")]
    ControlCharacter,
    /// A backslash before something that is not an escape.
    #[error("Invalid \\escape")]
    Escape,
    /// `\u` without four hexadecimal digits.
    #[error("Invalid \\uXXXX escape")]
    UnicodeEscape,
    /// Half a surrogate pair: Python takes it, and fails later when it hashes or writes it.
    #[error("lone surrogate")]
    LoneSurrogate,
    /// Nested deeper than allowed.
    #[error("nested too deeply")]
    TooDeep,
}

/// A value with a float that JSON has no number for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("out of range float values are not JSON compliant")]
pub struct NotJson;

impl Value {
    /// Reads JSON as Python's `json.loads` does: `NaN` and the infinities, integers of any size, `1` apart from `1.0`;
    /// of equal keys the last value wins in the first place. Nesting is limited to [`DEFAULT_DEPTH`].
    ///
    /// # Errors
    /// Whatever `json.loads` refuses, and besides: lone surrogates, and deeper nesting.
    pub fn parse_json(bytes: &[u8]) -> Result<Self, JsonError> {
        Self::parse_json_within(bytes, DEFAULT_DEPTH)
    }

    /// As [`Value::parse_json`], with another limit on nesting. Each level costs the stack a few hundred bytes.
    ///
    /// # Errors
    /// See [`Value::parse_json`].
    pub fn parse_json_within(bytes: &[u8], depth: usize) -> Result<Self, JsonError> {
        let text = std::str::from_utf8(bytes).map_err(|error| JsonError {
            kind: JsonErrorKind::NotUtf8,
            position: error.valid_up_to(),
        })?;
        let mut scanner = Scanner { text, at: 0, depth, roomy: 3 };
        scanner.document().map_err(|Fault { kind, at }| JsonError {
            kind,
            position: text.as_bytes()[..at].iter().filter(|&&byte| byte & 0xc0 != 0x80).count(),
        })
    }

    /// Compact JSON with everything beyond ASCII as it is: what an axon answers (specification §9.1).
    ///
    /// # Errors
    /// [`NotJson`] if there is a NaN or an infinity in it.
    pub fn to_json(&self) -> Result<String, NotJson> {
        let mut out = String::new();
        write_value(self, &mut out, &COMPACT)?;
        Ok(out)
    }

    /// JSON as `json.dumps` writes it by default: spaces after `,` and `:`, everything beyond ASCII escaped, `NaN` and
    /// `Infinity` as they are: what a dendrite sends (specification §4).
    pub fn to_python_json(&self) -> String {
        let mut out = String::new();
        write_value(self, &mut out, &DUMPS).expect("only the compact form refuses floats");
        out
    }
}

impl Dict {
    /// As [`Value::to_json`].
    ///
    /// # Errors
    /// [`NotJson`] if there is a NaN or an infinity in it.
    pub fn to_json(&self) -> Result<String, NotJson> {
        let mut out = String::new();
        write_dict(self, &mut out, &COMPACT)?;
        Ok(out)
    }

    /// As [`Value::to_python_json`].
    pub fn to_python_json(&self) -> String {
        let mut out = String::new();
        write_dict(self, &mut out, &DUMPS).expect("only the compact form refuses floats");
        out
    }
}

struct Layout {
    comma: &'static str,
    colon: &'static str,
    ascii: bool,
    nonfinite: bool,
}
const COMPACT: Layout = Layout { comma: ",", colon: ":", ascii: false, nonfinite: false };
const DUMPS: Layout = Layout { comma: ", ", colon: ": ", ascii: true, nonfinite: true };

fn write_value(value: &Value, out: &mut String, layout: &Layout) -> Result<(), NotJson> {
    match value {
        Value::None => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Int(value) => value.write(out),
        Value::Float(value) if value.is_finite() => write_float(*value, out),
        Value::Float(_) if !layout.nonfinite => return Err(NotJson),
        Value::Float(value) if value.is_nan() => out.push_str("NaN"),
        Value::Float(value) => out.push_str(if *value < 0.0 { "-Infinity" } else { "Infinity" }),
        Value::Str(text) => write_text(text, out, layout),
        Value::List(items) | Value::Tuple(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push_str(layout.comma);
                }
                write_value(item, out, layout)?;
            }
            out.push(']');
        }
        Value::Dict(dict) => write_dict(dict, out, layout)?,
    }
    Ok(())
}

fn write_dict(dict: &Dict, out: &mut String, layout: &Layout) -> Result<(), NotJson> {
    out.push('{');
    for (index, (key, value)) in dict.iter().enumerate() {
        if index > 0 {
            out.push_str(layout.comma);
        }
        write_text(key, out, layout);
        out.push_str(layout.colon);
        write_value(value, out, layout)?;
    }
    out.push('}');
    Ok(())
}

/// Writes what an axon answers piece by piece, without a [`Dict`] of it.
pub(crate) struct CompactObject<'a> {
    out: &'a mut String,
    empty: bool,
}

impl<'a> CompactObject<'a> {
    pub(crate) fn begin(out: &'a mut String) -> Self {
        out.push('{');
        Self { out, empty: true }
    }

    /// Writes a key that needs no escapes, and hands out where its value goes.
    pub(crate) fn key(&mut self, key: &'static str) -> &mut String {
        if !std::mem::take(&mut self.empty) {
            self.out.push(',');
        }
        self.out.push('"');
        self.out.push_str(key);
        self.out.push_str("\":");
        self.out
    }

    pub(crate) fn text(&mut self, key: &'static str, text: Option<&str>) {
        let out = self.key(key);
        match text {
            Some(text) => write_text(text, out, &COMPACT),
            None => out.push_str("null"),
        }
    }

    pub(crate) fn int(&mut self, key: &'static str, int: Option<&Int>) {
        let out = self.key(key);
        match int {
            Some(int) => int.write(out),
            None => out.push_str("null"),
        }
    }

    pub(crate) fn float(&mut self, key: &'static str, float: Option<f64>) -> Result<(), NotJson> {
        let out = self.key(key);
        match float {
            Some(float) if float.is_finite() => write_float(float, out),
            Some(_) => return Err(NotJson),
            None => out.push_str("null"),
        }
        Ok(())
    }

    pub(crate) fn dict(&mut self, dict: &Dict) -> Result<(), NotJson> {
        for (key, value) in dict.iter() {
            if !std::mem::take(&mut self.empty) {
                self.out.push(',');
            }
            write_text(key, self.out, &COMPACT);
            self.out.push(':');
            write_value(value, self.out, &COMPACT)?;
        }
        Ok(())
    }

    pub(crate) fn end(self) {
        self.out.push('}');
    }
}

fn write_text(text: &str, out: &mut String, layout: &Layout) {
    out.reserve(text.len() + 2);
    out.push('"');
    // Most texts have nothing to escape, and this loop looks at many bytes at a time.
    let escaped = text.bytes().fold(false, |escaped, byte| {
        escaped | (byte < b' ') | (byte == b'"') | (byte == b'\\') | (byte >= 0x7f && layout.ascii)
    });
    if !escaped {
        out.push_str(text);
        out.push('"');
        return;
    }
    let mut copied = 0;
    for (at, c) in text.char_indices() {
        let plain = match c {
            '"' | '\\' | '\0'..='\x1f' => false,
            ' '..='~' => true,
            _ => !layout.ascii,
        };
        if plain {
            continue;
        }
        out.push_str(&text[copied..at]);
        copied = at + c.len_utf8();
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}").expect("a `String` takes any text");
                }
            }
        }
    }
    out.push_str(&text[copied..]);
    out.push('"');
}

/// How many bytes there are before a quote, a backslash or a control character.
fn plain_length(bytes: &[u8]) -> usize {
    let special = |byte: &u8| *byte < b' ' || *byte == b'"' || *byte == b'\\';
    // Without an early exit the compiler looks at a whole block at once.
    let block = |block: &[u8]| block.iter().fold(false, |found, byte| found | special(byte));
    let whole = bytes.chunks_exact(16).take_while(|bytes| !block(bytes)).count() * 16;
    whole + bytes[whole..].iter().position(special).unwrap_or(bytes.len() - whole)
}

/// The keys of a body's own objects (specification §4).
fn known_key(text: &str) -> Option<&'static str> {
    let known = BASE_FIELDS.into_iter().chain(Attribute::ALL.into_iter().map(Attribute::name));
    known.into_iter().find(|known| *known == text)
}

struct Fault {
    kind: JsonErrorKind,
    at: usize,
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    /// How many objects still get room for many fields at once. A synapse has three that need it; were it all of them, a
    /// body of small objects would take several times its memory.
    roomy: u8,
}

impl Scanner<'_> {
    fn document(&mut self) -> Result<Value, Fault> {
        if self.text.starts_with('\u{feff}') {
            return Err(self.fault(JsonErrorKind::ByteOrderMark));
        }
        self.spaces();
        let value = self.value()?;
        self.spaces();
        if self.at < self.text.len() {
            Err(self.fault(JsonErrorKind::ExtraData))
        } else {
            Ok(value)
        }
    }

    fn value(&mut self) -> Result<Value, Fault> {
        match self.peek() {
            Some(b'"') => self.string().map(Value::Str),
            Some(b'{') => self.deeper(Self::object),
            Some(b'[') => self.deeper(Self::array),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'n') => self.word("null", Value::None),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'N') => self.word("NaN", Value::Float(f64::NAN)),
            Some(b'I') => self.word("Infinity", Value::Float(f64::INFINITY)),
            _ => Err(self.fault(JsonErrorKind::ExpectingValue)),
        }
    }

    fn deeper(&mut self, scan: fn(&mut Self) -> Result<Value, Fault>) -> Result<Value, Fault> {
        let Some(depth) = self.depth.checked_sub(1) else {
            return Err(self.fault(JsonErrorKind::TooDeep));
        };
        self.depth = depth;
        self.at += 1;
        self.spaces();
        let value = scan(self)?;
        self.depth += 1;
        Ok(value)
    }

    fn array(&mut self) -> Result<Value, Fault> {
        let mut items = Vec::new();
        if self.take(b']') {
            return Ok(Value::List(items));
        }
        loop {
            items.push(self.value()?);
            self.spaces();
            if self.take(b']') {
                return Ok(Value::List(items));
            }
            if !self.take(b',') {
                return Err(self.fault(JsonErrorKind::ExpectingComma));
            }
            self.spaces();
        }
    }

    fn object(&mut self) -> Result<Value, Fault> {
        let mut dict = Dict::new();
        if self.take(b'}') {
            return Ok(Value::Dict(dict));
        }
        if let Some(roomy) = self.roomy.checked_sub(1) {
            self.roomy = roomy;
            dict = Dict::with_capacity(16);
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.fault(JsonErrorKind::ExpectingName));
            }
            let key = self.key()?;
            self.spaces();
            if !self.take(b':') {
                return Err(self.fault(JsonErrorKind::ExpectingColon));
            }
            self.spaces();
            let value = self.value()?;
            dict.insert_key(key, value);
            self.spaces();
            if self.take(b'}') {
                return Ok(Value::Dict(dict));
            }
            if !self.take(b',') {
                return Err(self.fault(JsonErrorKind::ExpectingComma));
            }
            self.spaces();
        }
    }

    /// The text that begins here, not copied if every body has it.
    fn key(&mut self) -> Result<Key, Fault> {
        let plain = self.at + 1;
        let end = plain + plain_length(&self.text.as_bytes()[plain..]);
        if self.text.as_bytes().get(end) == Some(&b'"')
            && let Some(known) = known_key(&self.text[plain..end])
        {
            self.at = end + 1;
            return Ok(Key::Borrowed(known));
        }
        self.string().map(Key::Owned)
    }

    fn string(&mut self) -> Result<String, Fault> {
        let start = self.at;
        self.at += 1;
        let mut out = String::new();
        loop {
            let plain = self.at;
            self.at += plain_length(&self.text.as_bytes()[plain..]);
            match self.text.as_bytes().get(self.at) {
                None => return Err(Fault { kind: JsonErrorKind::Unterminated, at: start }),
                Some(b'"') => {
                    let plain = &self.text[plain..self.at];
                    self.at += 1;
                    if out.is_empty() {
                        return Ok(plain.to_owned());
                    }
                    out.push_str(plain);
                    return Ok(out);
                }
                Some(b'\\') => {
                    out.push_str(&self.text[plain..self.at]);
                    out.push(self.escape(start)?);
                }
                Some(_) => return Err(self.fault(JsonErrorKind::ControlCharacter)),
            }
        }
    }

    /// The character of the escape that begins here with a backslash.
    fn escape(&mut self, start: usize) -> Result<char, Fault> {
        let at = self.at;
        let Some(&letter) = self.text.as_bytes().get(at + 1) else {
            return Err(Fault { kind: JsonErrorKind::Unterminated, at: start });
        };
        self.at += 2;
        Ok(match letter {
            b'"' | b'\\' | b'/' => char::from(letter),
            b'b' => '\x08',
            b'f' => '\x0c',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first =
                    self.unit().ok_or(Fault { kind: JsonErrorKind::UnicodeEscape, at: at + 1 })?;
                let lone = Fault { kind: JsonErrorKind::LoneSurrogate, at };
                match first {
                    0xd800..0xdc00 => {
                        if !self.text[self.at..].starts_with("\\u") {
                            return Err(lone);
                        }
                        let second_at = self.at + 1;
                        self.at += 2;
                        let second = self
                            .unit()
                            .ok_or(Fault { kind: JsonErrorKind::UnicodeEscape, at: second_at })?;
                        if !(0xdc00..0xe000).contains(&second) {
                            return Err(lone);
                        }
                        char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00))
                            .ok_or(lone)?
                    }
                    _ => char::from_u32(first).ok_or(lone)?,
                }
            }
            _ => return Err(Fault { kind: JsonErrorKind::Escape, at }),
        })
    }

    fn unit(&mut self) -> Option<u32> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4)?;
        let mut unit = 0;
        for &digit in digits {
            unit = unit << 4 | char::from(digit).to_digit(16)?;
        }
        self.at += 4;
        Some(unit)
    }

    fn number(&mut self) -> Result<Value, Fault> {
        let start = self.at;
        let negative = self.take(b'-');
        let whole = self.at;
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            Some(b'I') if negative => {
                return self.word("Infinity", Value::Float(f64::NEG_INFINITY));
            }
            _ => return Err(Fault { kind: JsonErrorKind::ExpectingValue, at: start }),
        }
        let end = self.at;
        let mut float = false;
        // A point or an `e` without digits belongs to what follows, as in Python, and is refused there.
        if self.peek() == Some(b'.') && self.digit_at(self.at + 1) {
            float = true;
            self.at += 1;
            self.digits();
        }
        if let Some(b'e' | b'E') = self.peek() {
            let sign = matches!(self.text.as_bytes().get(self.at + 1), Some(b'+' | b'-'));
            let first = self.at + 1 + usize::from(sign);
            if self.digit_at(first) {
                float = true;
                self.at = first;
                self.digits();
            }
        }
        if float {
            let value =
                self.text[start..self.at].parse().expect("the JSON grammar is within Rust's");
            return Ok(Value::Float(value));
        }
        Ok(Value::Int(Int::from_digits(negative, &self.text[whole..end])))
    }

    fn digits(&mut self) {
        while self.digit_at(self.at) {
            self.at += 1;
        }
    }

    fn digit_at(&self, at: usize) -> bool {
        self.text.as_bytes().get(at).is_some_and(u8::is_ascii_digit)
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, Fault> {
        if self.text[self.at..].starts_with(word) {
            self.at += word.len();
            return Ok(value);
        }
        Err(self.fault(JsonErrorKind::ExpectingValue))
    }

    fn spaces(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn fault(&self, kind: JsonErrorKind) -> Fault {
        Fault { kind, at: self.at }
    }
}
