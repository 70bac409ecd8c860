//! Between [`Value`] and serde types, as lax about numbers as pydantic is.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{
        self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor, value::StrDeserializer,
    },
    ser,
};

use crate::python::{Dict, Int, Value, float_repr, parse_python_float};

/// Turns anything that serde can serialize into a value.
///
/// Integers keep their size up to 128 bits, and [`Int`] and [`Value`] pass unchanged. An `f32` is widened exactly. Keys
/// become text as `json.dumps` makes them; arrays and tuples become lists, which is what JSON carries.
///
/// # Errors
/// Fails if a map key has no text form in JSON, or if the type itself refuses.
pub fn to_value<T: Serialize + ?Sized>(from: &T) -> Result<Value, ConvertError> {
    from.serialize(ValueSerializer)
}

/// Makes a `T` of a value, taking what pydantic's lax mode takes: `"3"`, `3.0` and `true` for an integer, `"2.5"`, `1`
/// and `true` for a float, `"yes"`, `"off"`, `0` and `1` for a bool. Unknown keys are ignored unless `T` refuses them.
///
/// # Errors
/// Names the field, down to the item, and what stood there instead.
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, ConvertError> {
    T::deserialize(ValueDeserializer(value))
}

/// A value that does not fit the type asked for, or a type that has no JSON form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvertError {
    message: String,
    /// From the inside out.
    path: Vec<String>,
}

impl ConvertError {
    pub(crate) fn new(message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), path: Vec::new() }
    }

    /// Where it is wrong, such as `messages[0].role`; empty for the value itself.
    pub fn field(&self) -> String {
        let mut path = String::new();
        for step in self.path.iter().rev() {
            if !path.is_empty() && !step.starts_with('[') {
                path.push('.');
            }
            path.push_str(step);
        }
        path
    }

    pub(crate) fn within(mut self, field: impl Into<String>) -> Self {
        self.path.push(field.into());
        self
    }
}

impl fmt::Display for ConvertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "`{}`: ", self.field())?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConvertError {}

impl de::Error for ConvertError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message)
    }
}

impl ser::Error for ConvertError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message)
    }
}

// Names by which a `Value` finds itself again on the other side of serde. Other formats see only what is inside.
pub(crate) const VALUE: &str = "$schwann_synapse::Value";
pub(crate) const BIG_INT: &str = "$schwann_synapse::Int";
const TUPLE: &str = "$schwann_synapse::Tuple";

impl Serialize for Value {
    /// Other formats see numbers up to 128 bits as numbers and larger ones as text, and tuples as sequences.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Int(value) => value.serialize(serializer),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Str(text) => serializer.serialize_str(text),
            Self::List(items) => items.serialize(serializer),
            Self::Tuple(items) => serializer.serialize_newtype_struct(TUPLE, items),
            Self::Dict(dict) => dict.serialize(serializer),
        }
    }
}

impl Serialize for Int {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Some(value) = self.to_i64() {
            serializer.serialize_i64(value)
        } else if let Some(value) = self.to_u64() {
            serializer.serialize_u64(value)
        } else if let Some(value) = self.to_i128() {
            serializer.serialize_i128(value)
        } else {
            serializer.serialize_newtype_struct(BIG_INT, &self.to_string())
        }
    }
}

impl Serialize for Dict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(VALUE, ValueVisitor)
    }
}

impl<'de> Deserialize<'de> for Int {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        lax_int(&value)
            .map_err(|_| de::Error::custom(format_args!("{} is not an integer", value.type_name())))
    }
}

impl<'de> Deserialize<'de> for Dict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DictVisitor;
        impl<'de> Visitor<'de> for DictVisitor {
            type Value = Dict;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a dict")
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Dict, A::Error> {
                let mut dict = Dict::new();
                while let Some((key, value)) = map.next_entry::<String, Value>()? {
                    dict.insert(key, value);
                }
                Ok(dict)
            }
        }
        deserializer.deserialize_map(DictVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::None)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::None)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }
    fn visit_newtype_struct<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }
    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Str(text.to_owned()))
    }
    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Str(text))
    }
    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }
    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut dict = Dict::new();
        while let Some((key, value)) = map.next_entry::<String, Value>()? {
            dict.insert(key, value);
        }
        Ok(Value::Dict(dict))
    }
    /// Only [`ValueDeserializer`] comes here, with what serde's data model cannot tell.
    fn visit_enum<A: de::EnumAccess<'de>>(self, data: A) -> Result<Value, A::Error> {
        use de::VariantAccess as _;
        let (kind, variant) = data.variant::<String>()?;
        if kind == BIG_INT {
            let text = variant.newtype_variant::<String>()?;
            let (negative, digits) =
                text.strip_prefix('-').map_or((false, text.as_str()), |digits| (true, digits));
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(de::Error::custom("not an integer"));
            }
            Ok(Value::Int(Int::from_digits(negative, digits)))
        } else {
            variant.newtype_variant::<Vec<Value>>().map(Value::Tuple)
        }
    }
}

struct ValueSerializer;

impl Serializer for ValueSerializer {
    type Ok = Value;
    type Error = ConvertError;
    type SerializeSeq = ListSerializer;
    type SerializeTuple = ListSerializer;
    type SerializeTupleStruct = ListSerializer;
    type SerializeTupleVariant = ListSerializer;
    type SerializeMap = DictSerializer;
    type SerializeStruct = DictSerializer;
    type SerializeStructVariant = DictSerializer;

    fn serialize_bool(self, value: bool) -> Result<Value, ConvertError> {
        Ok(Value::Bool(value))
    }
    fn serialize_i8(self, value: i8) -> Result<Value, ConvertError> {
        Ok(Value::Int(value.into()))
    }
    fn serialize_i16(self, value: i16) -> Result<Value, ConvertError> {
        Ok(Value::Int(value.into()))
    }
    fn serialize_i32(self, value: i32) -> Result<Value, ConvertError> {
        Ok(value.into())
    }
    fn serialize_i64(self, value: i64) -> Result<Value, ConvertError> {
        Ok(value.into())
    }
    fn serialize_i128(self, value: i128) -> Result<Value, ConvertError> {
        Ok(value.into())
    }
    fn serialize_u8(self, value: u8) -> Result<Value, ConvertError> {
        Ok(Value::Int(value.into()))
    }
    fn serialize_u16(self, value: u16) -> Result<Value, ConvertError> {
        Ok(Value::Int(value.into()))
    }
    fn serialize_u32(self, value: u32) -> Result<Value, ConvertError> {
        Ok(value.into())
    }
    fn serialize_u64(self, value: u64) -> Result<Value, ConvertError> {
        Ok(value.into())
    }
    fn serialize_u128(self, value: u128) -> Result<Value, ConvertError> {
        Ok(value.into())
    }
    fn serialize_f32(self, value: f32) -> Result<Value, ConvertError> {
        Ok(Value::Float(value.into()))
    }
    fn serialize_f64(self, value: f64) -> Result<Value, ConvertError> {
        Ok(Value::Float(value))
    }
    fn serialize_char(self, value: char) -> Result<Value, ConvertError> {
        Ok(Value::Str(value.to_string()))
    }
    fn serialize_str(self, text: &str) -> Result<Value, ConvertError> {
        Ok(Value::Str(text.to_owned()))
    }
    fn serialize_bytes(self, bytes: &[u8]) -> Result<Value, ConvertError> {
        Ok(Value::List(bytes.iter().map(|&byte| Value::Int(byte.into())).collect()))
    }
    fn serialize_none(self) -> Result<Value, ConvertError> {
        Ok(Value::None)
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Value, ConvertError> {
        value.serialize(self)
    }
    fn serialize_unit(self) -> Result<Value, ConvertError> {
        Ok(Value::None)
    }
    fn serialize_unit_struct(self, _: &'static str) -> Result<Value, ConvertError> {
        Ok(Value::None)
    }
    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<Value, ConvertError> {
        Ok(variant.into())
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<Value, ConvertError> {
        let inner = value.serialize(self)?;
        Ok(match (name, inner) {
            (TUPLE, Value::List(items)) => Value::Tuple(items),
            (BIG_INT, Value::Str(text)) => {
                let (negative, digits) =
                    text.strip_prefix('-').map_or((false, text.as_str()), |rest| (true, rest));
                Value::Int(Int::from_digits(negative, digits))
            }
            (_, inner) => inner,
        })
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Value, ConvertError> {
        Ok(Value::Dict(Dict::from_iter([(variant, value.serialize(self)?)])))
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<ListSerializer, ConvertError> {
        Ok(ListSerializer { items: Vec::new(), variant: None })
    }
    fn serialize_tuple(self, _: usize) -> Result<ListSerializer, ConvertError> {
        self.serialize_seq(None)
    }
    fn serialize_tuple_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> Result<ListSerializer, ConvertError> {
        self.serialize_seq(None)
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<ListSerializer, ConvertError> {
        Ok(ListSerializer { items: Vec::new(), variant: Some(variant) })
    }
    fn serialize_map(self, _: Option<usize>) -> Result<DictSerializer, ConvertError> {
        Ok(DictSerializer { dict: Dict::new(), key: None, variant: None })
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<DictSerializer, ConvertError> {
        self.serialize_map(None)
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<DictSerializer, ConvertError> {
        Ok(DictSerializer { dict: Dict::new(), key: None, variant: Some(variant) })
    }
}

struct ListSerializer {
    items: Vec<Value>,
    variant: Option<&'static str>,
}

impl ListSerializer {
    fn push<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), ConvertError> {
        let item =
            to_value(item).map_err(|error| error.within(format!("[{}]", self.items.len())))?;
        self.items.push(item);
        Ok(())
    }
    fn finish(self) -> Result<Value, ConvertError> {
        let list = Value::List(self.items);
        Ok(match self.variant {
            Some(variant) => Value::Dict(Dict::from_iter([(variant, list)])),
            None => list,
        })
    }
}

macro_rules! serialize_items {
    ($($trait:ident $method:ident),*) => {$(
        impl ser::$trait for ListSerializer {
            type Ok = Value;
            type Error = ConvertError;
            fn $method<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), ConvertError> {
                self.push(item)
            }
            fn end(self) -> Result<Value, ConvertError> {
                self.finish()
            }
        }
    )*};
}
serialize_items!(
    SerializeSeq serialize_element,
    SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field,
    SerializeTupleVariant serialize_field
);

struct DictSerializer {
    dict: Dict,
    key: Option<String>,
    variant: Option<&'static str>,
}

impl DictSerializer {
    fn put<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) -> Result<(), ConvertError> {
        let value = to_value(value).map_err(|error| error.within(key))?;
        self.dict.insert(key, value);
        Ok(())
    }
    fn finish(self) -> Result<Value, ConvertError> {
        let dict = Value::Dict(self.dict);
        Ok(match self.variant {
            Some(variant) => Value::Dict(Dict::from_iter([(variant, dict)])),
            None => dict,
        })
    }
}

impl ser::SerializeMap for DictSerializer {
    type Ok = Value;
    type Error = ConvertError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), ConvertError> {
        // What `json.dumps` makes of keys.
        self.key = Some(match to_value(key)? {
            Value::Str(text) => text,
            Value::Int(value) => value.to_string(),
            Value::Float(value) => float_repr(value),
            Value::Bool(true) => "true".into(),
            Value::Bool(false) => "false".into(),
            Value::None => "null".into(),
            other => {
                return Err(ConvertError::new(format_args!(
                    "a {} cannot be a key",
                    other.type_name()
                )));
            }
        });
        Ok(())
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ConvertError> {
        let key = self.key.take().ok_or_else(|| ConvertError::new("a value without a key"))?;
        self.put(&key, value)
    }
    fn end(self) -> Result<Value, ConvertError> {
        self.finish()
    }
}

macro_rules! serialize_fields {
    ($($trait:ident),*) => {$(
        impl ser::$trait for DictSerializer {
            type Ok = Value;
            type Error = ConvertError;
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                key: &'static str,
                value: &T,
            ) -> Result<(), ConvertError> {
                self.put(key, value)
            }
            fn end(self) -> Result<Value, ConvertError> {
                self.finish()
            }
        }
    )*};
}
serialize_fields!(SerializeStruct, SerializeStructVariant);

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
fn shown(value: &Value) -> String {
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

struct ValueDeserializer(Value);

impl<'de> ValueDeserializer {
    fn int<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConvertError> {
        visit_int(&lax_int(&self.0)?, visitor)
    }
    fn mismatch<T>(self, expected: &str) -> Result<T, ConvertError> {
        Err(ConvertError::new(format_args!("expected {expected}, found {}", shown(&self.0))))
    }
}

fn visit_int<'de, V: Visitor<'de>>(value: &Int, visitor: V) -> Result<V::Value, ConvertError> {
    if let Some(value) = value.to_i64() {
        visitor.visit_i64(value)
    } else if let Some(value) = value.to_u64() {
        visitor.visit_u64(value)
    } else if let Some(value) = value.to_i128() {
        visitor.visit_i128(value)
    } else if let Some(value) = value.to_u128() {
        visitor.visit_u128(value)
    } else {
        Err(ConvertError::new("an integer beyond 128 bits"))
    }
}

macro_rules! deserialize_ints {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConvertError> {
            self.int(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for ValueDeserializer {
    type Error = ConvertError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConvertError> {
        match self.0 {
            Value::None => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Int(value) => visit_int(&value, visitor),
            Value::Float(value) => visitor.visit_f64(value),
            Value::Str(text) => visitor.visit_string(text),
            Value::List(items) | Value::Tuple(items) => visit_items(items, visitor),
            Value::Dict(dict) => visit_dict(dict, visitor),
        }
    }

    deserialize_ints!(deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128);
    deserialize_ints!(deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128);

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConvertError> {
        visitor.visit_bool(lax_bool(&self.0)?)
    }
    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConvertError> {
        visitor.visit_f64(lax_float(&self.0)?)
    }
    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConvertError> {
        visitor.visit_f64(lax_float(&self.0)?)
    }
    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConvertError> {
        self.deserialize_string(visitor)
    }
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConvertError> {
        self.deserialize_string(visitor)
    }
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConvertError> {
        match self.0 {
            Value::Str(text) => visitor.visit_string(text),
            _ => self.mismatch("a str"),
        }
    }
    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConvertError> {
        self.deserialize_byte_buf(visitor)
    }
    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConvertError> {
        match self.0 {
            Value::Str(text) => visitor.visit_byte_buf(text.into_bytes()),
            _ => self.deserialize_seq(visitor),
        }
    }
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConvertError> {
        if self.0.is_none() { visitor.visit_none() } else { visitor.visit_some(self) }
    }
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConvertError> {
        if self.0.is_none() { visitor.visit_unit() } else { self.mismatch("None") }
    }
    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, ConvertError> {
        self.deserialize_unit(visitor)
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ConvertError> {
        match self.0 {
            Value::Int(value) if name == VALUE && value.to_i128().is_none() => {
                visitor.visit_enum(Itself { kind: BIG_INT, value: Value::Str(value.to_string()) })
            }
            Value::Tuple(items) if name == VALUE => {
                visitor.visit_enum(Itself { kind: TUPLE, value: Value::List(items) })
            }
            _ => visitor.visit_newtype_struct(self),
        }
    }
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConvertError> {
        match self.0 {
            Value::List(items) | Value::Tuple(items) => visit_items(items, visitor),
            _ => self.mismatch("a list"),
        }
    }
    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, ConvertError> {
        self.deserialize_seq(visitor)
    }
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, ConvertError> {
        self.deserialize_seq(visitor)
    }
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConvertError> {
        match self.0 {
            Value::Dict(dict) => visit_dict(dict, visitor),
            _ => self.mismatch("a dict"),
        }
    }
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ConvertError> {
        self.deserialize_map(visitor)
    }
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ConvertError> {
        match self.0 {
            Value::Str(variant) => visitor.visit_enum(Variant { variant, value: None }),
            Value::Dict(dict) if dict.len() == 1 => {
                let (variant, value) = dict.into_iter().next().expect("one entry");
                visitor.visit_enum(Variant { variant, value: Some(value) })
            }
            _ => self.mismatch("a str or a dict of one entry"),
        }
    }
    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConvertError> {
        self.deserialize_string(visitor)
    }
    fn deserialize_ignored_any<V: Visitor<'de>>(
        self,
        visitor: V,
    ) -> Result<V::Value, ConvertError> {
        visitor.visit_unit()
    }
}

fn visit_items<'de, V: Visitor<'de>>(
    items: Vec<Value>,
    visitor: V,
) -> Result<V::Value, ConvertError> {
    let mut items = Items { items: items.into_iter(), taken: 0 };
    let made = visitor.visit_seq(&mut items)?;
    if items.items.len() > 0 {
        return Err(ConvertError::new(format_args!("{} items too many", items.items.len())));
    }
    Ok(made)
}

fn visit_dict<'de, V: Visitor<'de>>(dict: Dict, visitor: V) -> Result<V::Value, ConvertError> {
    visitor.visit_map(Entries { entries: dict.into_iter(), value: None })
}

struct Items {
    items: std::vec::IntoIter<Value>,
    taken: usize,
}

impl<'de> de::SeqAccess<'de> for &mut Items {
    type Error = ConvertError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ConvertError> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let at = self.taken;
        self.taken += 1;
        seed.deserialize(ValueDeserializer(item))
            .map(Some)
            .map_err(|error| error.within(format!("[{at}]")))
    }
    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Entries {
    entries: std::vec::IntoIter<(String, Value)>,
    value: Option<(String, Value)>,
}

impl<'de> de::MapAccess<'de> for Entries {
    type Error = ConvertError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ConvertError> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        let made = seed
            .deserialize(ValueDeserializer(Value::Str(key.clone())))
            .map_err(|error| error.within(&*key))?;
        self.value = Some((key, value));
        Ok(Some(made))
    }
    fn next_value_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<T::Value, ConvertError> {
        let (key, value) = self
            .value
            .take()
            .ok_or_else(|| ConvertError::new("a value asked for before its key"))?;
        seed.deserialize(ValueDeserializer(value)).map_err(|error| error.within(key))
    }
    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len())
    }
}

struct Variant {
    variant: String,
    value: Option<Value>,
}

impl<'de> de::EnumAccess<'de> for Variant {
    type Error = ConvertError;
    type Variant = Content;

    fn variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<(T::Value, Content), ConvertError> {
        let variant = seed.deserialize(ValueDeserializer(Value::Str(self.variant)))?;
        Ok((variant, Content(self.value)))
    }
}

/// What serde's data model cannot tell, for [`ValueVisitor`] alone.
struct Itself {
    kind: &'static str,
    value: Value,
}

impl<'de> de::EnumAccess<'de> for Itself {
    type Error = ConvertError;
    type Variant = Content;

    fn variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<(T::Value, Content), ConvertError> {
        let kind: StrDeserializer<'_, ConvertError> = self.kind.into_deserializer();
        Ok((seed.deserialize(kind)?, Content(Some(self.value))))
    }
}

struct Content(Option<Value>);

impl<'de> de::VariantAccess<'de> for Content {
    type Error = ConvertError;

    fn unit_variant(self) -> Result<(), ConvertError> {
        match self.0 {
            None | Some(Value::None) => Ok(()),
            Some(value) => ValueDeserializer(value).mismatch("nothing"),
        }
    }
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<T::Value, ConvertError> {
        seed.deserialize(ValueDeserializer(self.0.unwrap_or_default()))
    }
    fn tuple_variant<V: Visitor<'de>>(
        self,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, ConvertError> {
        ValueDeserializer(self.0.unwrap_or_default()).deserialize_seq(visitor)
    }
    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ConvertError> {
        ValueDeserializer(self.0.unwrap_or_default()).deserialize_map(visitor)
    }
}
