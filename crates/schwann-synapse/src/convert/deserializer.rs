//! What serde deserializes out of values.

use serde::de::{
    self, DeserializeSeed, Deserializer, IntoDeserializer, Visitor, value::StrDeserializer,
};

use super::{
    BIG_INT, ConvertError, TUPLE, VALUE,
    lax::{lax_bool, lax_float, lax_int, shown},
};
use crate::python::{Dict, Int, Key, Value};

pub(super) struct ValueDeserializer(pub(super) Value);

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
    visitor.visit_map(Entries { entries: dict.into_entries(), value: None })
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
    entries: std::vec::IntoIter<(Key, Value)>,
    value: Option<(Key, Value)>,
}

impl<'de> de::MapAccess<'de> for Entries {
    type Error = ConvertError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ConvertError> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        let made = seed
            .deserialize(ValueDeserializer(Value::Str(key.clone().into_owned())))
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
        seed.deserialize(ValueDeserializer(value)).map_err(|error| error.within(&*key))
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
