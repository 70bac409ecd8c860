//! Between [`Value`] and serde types, as lax about numbers as pydantic is.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, DeserializeOwned, Visitor},
    ser,
};

use crate::python::{Dict, Int, Value};

mod deserializer;
mod lax;
mod serializer;

use deserializer::ValueDeserializer;
use lax::lax_int;
use serializer::ValueSerializer;

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
