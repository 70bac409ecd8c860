//! Python's data model as it crosses the wire: JSON as Python reads and writes it, and `str()`.
//!
//! Follows CPython 3.9 to 3.13 as the SDK 7.4.0 to 10.5.0 uses it: `json.loads`, `json.dumps`, `str`, `repr`, `int` and
//! `float`. The body hash is taken over the texts made here, so they are exact, not similar.

use std::{borrow::Cow, cmp::Ordering, collections::HashMap, fmt, fmt::Write as _};

use crate::nonprintable::decimal_digit;
pub use crate::{
    convert::{ConvertError, from_value, to_value},
    json::{DEFAULT_DEPTH, JsonError, JsonErrorKind, NotJson},
    nonprintable::UnicodeVersion,
};

/// A Python value of the kinds that a synapse can carry.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// `None`, JSON `null`.
    #[default]
    None,
    /// `True` or `False`.
    Bool(bool),
    /// `int`, of any size.
    Int(Int),
    /// `float`: JSON numbers with a point or an exponent, and `NaN`, `Infinity`, `-Infinity`.
    Float(f64),
    /// `str`. Python's lone surrogates cannot be held: what has them cannot be hashed either.
    Str(String),
    /// `list`, a JSON array.
    List(Vec<Value>),
    /// `tuple`, which JSON turns into a list; only a typed field gives one back.
    Tuple(Vec<Value>),
    /// `dict` with text keys, a JSON object, in insertion order.
    Dict(Dict),
}

impl Value {
    /// `str(value)`: text as it is, everything else as [`Value::py_repr`].
    pub fn py_str(&self) -> String {
        let mut out = String::new();
        self.py_str_into(&mut out);
        out
    }

    /// `repr(value)` as CPython 3.11 writes it.
    pub fn py_repr(&self) -> String {
        let mut out = String::new();
        self.write_repr(&mut out, UnicodeVersion::default());
        out
    }

    /// Appends `str(value)` to `out`.
    pub fn py_str_into(&self, out: &mut String) {
        self.write_str(out, UnicodeVersion::default());
    }

    /// Appends `str(value)` as a Python with this Unicode version writes it.
    pub fn write_str(&self, out: &mut String, unicode: UnicodeVersion) {
        match self {
            Self::Str(text) => out.push_str(text),
            other => other.write_repr(out, unicode),
        }
    }

    /// Appends `repr(value)` as a Python with this Unicode version writes it.
    pub fn write_repr(&self, out: &mut String, unicode: UnicodeVersion) {
        match self {
            Self::None => out.push_str("None"),
            Self::Bool(value) => out.push_str(bool_text(*value)),
            Self::Int(value) => value.write(out),
            Self::Float(value) => write_float(*value, out),
            Self::Str(text) => write_str_repr(text, out, unicode),
            Self::List(items) => {
                out.push('[');
                write_items(items, out, unicode);
                out.push(']');
            }
            Self::Tuple(items) => {
                out.push('(');
                write_items(items, out, unicode);
                out.push_str(if items.len() == 1 { ",)" } else { ")" });
            }
            Self::Dict(dict) => dict.write_repr(out, unicode),
        }
    }

    /// Whether this is `None`.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// The text, if this is a `str`.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The dict, if this is one.
    pub fn as_dict(&self) -> Option<&Dict> {
        match self {
            Self::Dict(dict) => Some(dict),
            _ => None,
        }
    }

    /// The items, if this is a list or a tuple.
    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Self::List(items) | Self::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// Python's name of the type, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
        }
    }
}

fn write_items(items: &[Value], out: &mut String, unicode: UnicodeVersion) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        item.write_repr(out, unicode);
    }
}

macro_rules! value_from {
    ($($from:ty => $make:expr;)*) => {$(
        impl From<$from> for Value {
            fn from(value: $from) -> Self {
                ($make)(value)
            }
        }
    )*};
}
value_from! {
    bool => Value::Bool;
    i32 => |n| Value::Int(Int::from(n));
    u32 => |n| Value::Int(Int::from(n));
    i64 => |n| Value::Int(Int::from(n));
    u64 => |n| Value::Int(Int::from(n));
    i128 => |n| Value::Int(Int::from(n));
    u128 => |n| Value::Int(Int::from(n));
    usize => |n| Value::Int(Int::from(n));
    Int => Value::Int;
    f64 => Value::Float;
    &str => |text: &str| Value::Str(text.to_owned());
    String => Value::Str;
    Vec<Value> => Value::List;
    Dict => Value::Dict;
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::None, Into::into)
    }
}

/// The longest integer text that `int()` accepts: CPython refuses more than 4300 digits since 3.10.7.
pub const MAX_INT_DIGITS: usize = 4300;

/// A Python `int`: any size, compared and shown by its decimal digits.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Int(Repr);

/// Canonical: what fits an `i64` is `Small`, anything else `Big` with its decimal text.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Repr {
    Small(i64),
    Big(Box<str>),
}

impl Int {
    /// Zero.
    pub const ZERO: Self = Self(Repr::Small(0));

    /// Reads an integer as Python's `int()` does: spaces around, a sign, leading zeros, `_` between digits, and the
    /// decimal digits of every script. `None` for anything `int()` refuses, and beyond [`MAX_INT_DIGITS`].
    pub fn parse_python(text: &str) -> Option<Self> {
        let plain = python_number_text(text)?;
        let (negative, digits) = split_sign(&plain);
        if digits.is_empty()
            || !digits.bytes().all(|b| b.is_ascii_digit())
            || digits.len() > MAX_INT_DIGITS
        {
            return None;
        }
        Some(Self::from_digits(negative, digits))
    }

    /// From ASCII digits, leading zeros allowed.
    pub(crate) fn from_digits(negative: bool, digits: &str) -> Self {
        // Eighteen digits always fit an `i64`.
        if digits.len() <= 18 {
            let value =
                digits.bytes().fold(0_i64, |value, digit| value * 10 + i64::from(digit - b'0'));
            return Self(Repr::Small(if negative { -value } else { value }));
        }
        let digits = digits.trim_start_matches('0');
        if digits.is_empty() {
            return Self::ZERO;
        }
        // As nonces are, and never more than an `i128`.
        if digits.len() <= 19 {
            let value =
                digits.bytes().fold(0, |value, digit| value * 10 + i128::from(digit - b'0'));
            return Self::from(if negative { -value } else { value });
        }
        let text = if negative { format!("-{digits}") } else { digits.to_owned() };
        Self(Repr::Big(text.into()))
    }

    /// The value as `i64`, if it fits.
    pub fn to_i64(&self) -> Option<i64> {
        match &self.0 {
            Repr::Small(value) => Some(*value),
            Repr::Big(_) => None,
        }
    }

    /// The value as `u64`, if it fits.
    pub fn to_u64(&self) -> Option<u64> {
        match &self.0 {
            Repr::Small(value) => u64::try_from(*value).ok(),
            Repr::Big(text) => text.parse().ok(),
        }
    }

    /// The value as `i128`, if it fits.
    pub fn to_i128(&self) -> Option<i128> {
        match &self.0 {
            Repr::Small(value) => Some(i128::from(*value)),
            Repr::Big(text) => text.parse().ok(),
        }
    }

    /// The value as `u128`, if it fits.
    pub fn to_u128(&self) -> Option<u128> {
        match &self.0 {
            Repr::Small(value) => u128::try_from(*value).ok(),
            Repr::Big(text) => text.parse().ok(),
        }
    }

    /// `float(value)`: the nearest double, or `None` where Python raises `OverflowError`.
    pub fn to_f64(&self) -> Option<f64> {
        let value = match &self.0 {
            Repr::Small(value) => *value as f64,
            Repr::Big(text) => text.parse().ok()?,
        };
        value.is_finite().then_some(value)
    }

    /// Whether the value is below zero.
    pub fn is_negative(&self) -> bool {
        match &self.0 {
            Repr::Small(value) => *value < 0,
            Repr::Big(text) => text.starts_with('-'),
        }
    }

    pub(crate) fn write(&self, out: &mut String) {
        match &self.0 {
            Repr::Small(value) => out.push_str(itoa::Buffer::new().format(*value)),
            Repr::Big(text) => out.push_str(text),
        }
    }
}

macro_rules! int_from {
    ($($small:ty)*; $($wide:ty)*) => {
        $(impl From<$small> for Int {
            fn from(value: $small) -> Self {
                Self(Repr::Small(i64::from(value)))
            }
        })*
        $(impl From<$wide> for Int {
            fn from(value: $wide) -> Self {
                Self(i64::try_from(value).map_or_else(|_| Repr::Big(value.to_string().into()), Repr::Small))
            }
        })*
    };
}
int_from!(i8 i16 i32 i64 u8 u16 u32; u64 i128 u128 usize isize);

impl fmt::Display for Int {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Small(value) => fmt::Display::fmt(value, f),
            Repr::Big(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for Int {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Ord for Int {
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            (Repr::Small(a), Repr::Small(b)) => a.cmp(b),
            // What is not small is farther from zero than anything small.
            (Repr::Small(_), Repr::Big(b)) => {
                if b.starts_with('-') {
                    Ordering::Greater
                } else {
                    Ordering::Less
                }
            }
            (Repr::Big(_), Repr::Small(_)) => other.cmp(self).reverse(),
            (Repr::Big(a), Repr::Big(b)) => match (a.strip_prefix('-'), b.strip_prefix('-')) {
                (None, None) => a.len().cmp(&b.len()).then_with(|| a.cmp(b)),
                (Some(a), Some(b)) => b.len().cmp(&a.len()).then_with(|| b.cmp(a)),
                (None, Some(_)) => Ordering::Greater,
                (Some(_), None) => Ordering::Less,
            },
        }
    }
}

impl PartialOrd for Int {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A Python `dict` with text keys: insertion order is kept, and a key given again overwrites in place.
#[derive(Clone, Default)]
pub struct Dict {
    entries: Vec<(Key, Value)>,
    /// Only once there are many entries, so that a hostile object of a million keys costs no square. Few dicts have one, and
    /// every value is as large as a dict.
    index: Option<Box<Index>>,
}

/// Where each key is.
#[derive(Clone)]
struct Index(HashMap<Box<str>, usize>);

/// A dict's key. Those of the protocol are not copied for every body.
pub(crate) type Key = Cow<'static, str>;

/// Beyond this many entries a dict is looked up through its index.
const INDEX_FROM: usize = 24;

impl Dict {
    /// An empty dict.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty dict with room for so many entries.
    pub(crate) fn with_capacity(entries: usize) -> Self {
        Self { entries: Vec::with_capacity(entries), index: None }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.position(key).map(|at| &self.entries[at].1)
    }

    /// The value of `key`, to change.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        self.position(key).map(|at| &mut self.entries[at].1)
    }

    /// Whether `key` is there.
    pub fn contains_key(&self, key: &str) -> bool {
        self.position(key).is_some()
    }

    /// Sets `key`, at the end if it is new and in its old place otherwise; returns the value it had.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        self.insert_key(Cow::Owned(key.into()), value.into())
    }

    pub(crate) fn insert_key(&mut self, key: Key, value: Value) -> Option<Value> {
        if let Some(at) = self.position(&key) {
            return Some(std::mem::replace(&mut self.entries[at].1, value));
        }
        if let Some(index) = &mut self.index {
            index.0.insert((&*key).into(), self.entries.len());
        }
        self.entries.push((key, value));
        if self.index.is_none() && self.entries.len() > INDEX_FROM {
            self.index_entries();
        }
        None
    }

    /// Takes `key` out; the others keep their order.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.position(key)?;
        let (_, value) = self.entries.remove(at);
        if self.index.is_some() {
            self.index_entries();
        }
        Some(value)
    }

    /// Keeps the entries for which `keep` holds, in their order.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &Value) -> bool) {
        self.entries.retain(|(key, value)| keep(key, value));
        if self.index.is_some() {
            self.index_entries();
        }
    }

    /// The entries in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> + Clone {
        self.entries.iter().map(|(key, value)| (&**key, value))
    }

    /// The entries in order, taken out.
    pub(crate) fn into_entries(self) -> std::vec::IntoIter<(Key, Value)> {
        self.entries.into_iter()
    }

    /// The keys in order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        self.entries.iter().map(|(key, _)| &**key)
    }

    /// Appends `repr(dict)`.
    pub(crate) fn write_repr(&self, out: &mut String, unicode: UnicodeVersion) {
        out.push('{');
        for (position, (key, value)) in self.entries.iter().enumerate() {
            if position > 0 {
                out.push_str(", ");
            }
            write_str_repr(key, out, unicode);
            out.push_str(": ");
            value.write_repr(out, unicode);
        }
        out.push('}');
    }

    fn position(&self, key: &str) -> Option<usize> {
        match &self.index {
            Some(index) => index.0.get(key).copied(),
            None => self.entries.iter().position(|(name, _)| name == key),
        }
    }

    fn index_entries(&mut self) {
        let index =
            self.entries.iter().enumerate().map(|(at, (key, _))| ((&**key).into(), at)).collect();
        self.index = Some(Box::new(Index(index)));
    }
}

/// Equal entries in equal order: unlike Python's `==`, because order is hashed.
impl PartialEq for Dict {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl fmt::Debug for Dict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Into<String>, V: Into<Value>> FromIterator<(K, V)> for Dict {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut dict = Self::new();
        dict.extend(entries);
        dict
    }
}

impl<K: Into<String>, V: Into<Value>> Extend<(K, V)> for Dict {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl IntoIterator for Dict {
    type Item = (String, Value);
    type IntoIter = IntoEntries;

    fn into_iter(self) -> Self::IntoIter {
        IntoEntries(self.into_entries())
    }
}

/// The entries of a [`Dict`] in order.
#[derive(Clone, Debug)]
pub struct IntoEntries(std::vec::IntoIter<(Key, Value)>);

impl Iterator for IntoEntries {
    type Item = (String, Value);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(key, value)| (key.into_owned(), value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for IntoEntries {}

/// Reads a float as Python's `float()` does: spaces around, a sign, `_` between digits, an exponent, `nan`, `inf`,
/// `infinity` in any case, and the decimal digits of every script. `None` for anything `float()` refuses.
pub fn parse_python_float(text: &str) -> Option<f64> {
    let plain = python_number_text(text)?;
    // Rust reads the same grammar: signs, a point with digits on one side at least, exponents, and the three words.
    plain.parse().ok()
}

/// `repr(float)`: the shortest digits that read back as the same double, laid out as Python does.
pub fn float_repr(value: f64) -> String {
    let mut out = String::new();
    write_float(value, &mut out);
    out
}

pub(crate) fn bool_text(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

pub(crate) fn write_float(value: f64, out: &mut String) {
    if value.is_nan() {
        return out.push_str("nan");
    }
    if value.is_sign_negative() {
        out.push('-');
    }
    if value.is_infinite() {
        return out.push_str("inf");
    }
    if value == 0.0 {
        return out.push_str("0.0");
    }
    // Only the digits and the exponent are taken from the shortest text, never its layout.
    let mut buffer = zmij::Buffer::new();
    let shortest = buffer.format_finite(value.abs());
    let (mantissa, exponent) = shortest.split_once(['e', 'E']).unwrap_or((shortest, "0"));
    let exponent: i32 = exponent.parse().expect("the exponent of a double");
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits = [0_u8; 40];
    let mut count = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        digits[count] = digit;
        count += 1;
    }
    let leading = digits[..count].iter().take_while(|&&digit| digit == b'0').count();
    let trailing = digits[..count].iter().rev().take_while(|&&digit| digit == b'0').count();
    // The decimal exponent of the first digit that is not zero.
    let first = exponent + whole.len() as i32 - 1 - leading as i32;
    let digits = std::str::from_utf8(&digits[leading..count - trailing]).expect("ASCII digits");
    if !(-4..16).contains(&first) {
        out.push_str(&digits[..1]);
        if digits.len() > 1 {
            out.push('.');
            out.push_str(&digits[1..]);
        }
        let sign = if first < 0 { '-' } else { '+' };
        write!(out, "e{sign}{:02}", first.abs()).expect("a `String` takes any text");
    } else if first < 0 {
        out.push_str("0.");
        out.extend(std::iter::repeat_n('0', (-first - 1) as usize));
        out.push_str(digits);
    } else {
        let whole = first as usize + 1;
        if digits.len() <= whole {
            out.push_str(digits);
            out.extend(std::iter::repeat_n('0', whole - digits.len()));
            out.push_str(".0");
        } else {
            out.push_str(&digits[..whole]);
            out.push('.');
            out.push_str(&digits[whole..]);
        }
    }
}

/// `repr(str)`: quoted, and what Python calls not printable escaped.
pub(crate) fn write_str_repr(text: &str, out: &mut String, unicode: UnicodeVersion) {
    let bytes = text.as_bytes();
    let quote = if bytes.contains(&b'\'') && !bytes.contains(&b'"') { '"' } else { '\'' };
    out.reserve(text.len() + 2);
    out.push(quote);
    // Runs of characters that stand for themselves are copied at once.
    let mut copied = 0;
    for (at, c) in text.char_indices() {
        let plain = if c.is_ascii() {
            (' '..='~').contains(&c) && c != '\\' && c != quote
        } else {
            unicode.is_printable(c)
        };
        if plain {
            continue;
        }
        out.push_str(&text[copied..at]);
        copied = at + c.len_utf8();
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if c == quote => out.extend(['\\', c]),
            _ => match u32::from(c) {
                code @ ..0x100 => write!(out, "\\x{code:02x}"),
                code @ 0x100..0x1_0000 => write!(out, "\\u{code:04x}"),
                code => write!(out, "\\U{code:08x}"),
            }
            .expect("a `String` takes any text"),
        }
    }
    out.push_str(&text[copied..]);
    out.push(quote);
}

/// What `int()` and `float()` read in `text`: spaces stripped, digits of other scripts made ASCII, `_` between digits
/// taken out. `None` where an underscore or a character stands that neither accepts.
fn python_number_text(text: &str) -> Option<std::borrow::Cow<'_, str>> {
    // CPython makes every space beyond ASCII one of ASCII, and then strips what C calls spaces.
    let c_space = |c: char| matches!(c, ' ' | '\t'..='\r');
    if text.is_ascii() {
        let stripped = text.trim_matches(c_space);
        return if stripped.contains('_') {
            without_underscores(stripped).map(Into::into)
        } else {
            Some(stripped.into())
        };
    }
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match decimal_digit(c) {
            Some(digit) => plain.push(char::from(b'0' + digit)),
            None if c.is_ascii() => plain.push(c),
            None if c.is_whitespace() => plain.push(' '),
            None => return None,
        }
    }
    let stripped = plain.trim_matches(c_space);
    if stripped.contains('_') {
        without_underscores(stripped).map(Into::into)
    } else {
        Some(stripped.to_owned().into())
    }
}

/// Takes `_` out where it stands between two digits; `None` where it stands elsewhere.
fn without_underscores(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    for (at, &byte) in bytes.iter().enumerate() {
        if byte == b'_' && !(digit(at.checked_sub(1)) && digit(Some(at + 1))) {
            return None;
        }
    }
    Some(text.replace('_', ""))
}

fn split_sign(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

/// Base64 as Python's `base64.b64decode` reads it: characters outside the alphabet are skipped, a missing padding is an
/// error, and whatever follows a complete padding is not read.
pub(crate) fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 3);
    let (mut group, mut in_group, mut pads) = (0_u32, 0_u32, 0_u32);
    for &byte in text {
        let sextet = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' if in_group >= 2 => {
                pads += 1;
                if in_group + pads >= 4 {
                    in_group = 0;
                    break;
                }
                continue;
            }
            _ => continue,
        };
        pads = 0;
        group = group << 6 | u32::from(sextet);
        in_group += 1;
        match in_group {
            1 => continue,
            2 => out.push((group >> 4) as u8),
            3 => out.push((group >> 2) as u8),
            _ => {
                out.push(group as u8);
                (group, in_group) = (0, 0);
            }
        }
    }
    (in_group == 0).then_some(out)
}
