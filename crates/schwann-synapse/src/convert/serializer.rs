//! Values out of what serde serializes.

use serde::{Serialize, Serializer, ser};

use super::{BIG_INT, ConvertError, TUPLE, to_value};
use crate::python::{Dict, Int, Value, float_repr};

pub(super) struct ValueSerializer;

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

pub(super) struct ListSerializer {
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

pub(super) struct DictSerializer {
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
