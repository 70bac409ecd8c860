//! What kind of JSON a type or a field serializes to, found out by asking serde and not by making a value.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
    forward_to_deserialize_any, ser,
};

use crate::{
    convert::{BIG_INT, VALUE},
    python::{Value, to_value},
};

/// Which of JSON's kinds a serializable thing is, found without looking deeper than its first call.
pub(crate) struct KindProbe;

/// What [`KindProbe`] found; it travels as an error, so that nothing is visited further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Bool,
    Int,
    Float,
    Str,
    List,
    Dict,
    Unknown,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
impl std::error::Error for Kind {}
impl ser::Error for Kind {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self::Unknown
    }
}
impl de::Error for Kind {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self::Unknown
    }
}

/// The kind of JSON value that `value` is.
pub(crate) fn kind_of<T: Serialize + ?Sized>(value: &T) -> Kind {
    value.serialize(KindProbe).err().unwrap_or(Kind::Unknown)
}

/// The kind of JSON value that `T` is made of, if it makes up its mind before seeing one.
pub(crate) fn kind_of_type<'de, T: Deserialize<'de>>() -> Kind {
    T::deserialize(KindProbe).err().unwrap_or(Kind::Unknown)
}

macro_rules! probe_scalars {
    ($($method:ident($of:ty) $kind:ident)*) => {$(
        fn $method(self, _: $of) -> Result<(), Kind> {
            Err(Kind::$kind)
        }
    )*};
}

impl Serializer for KindProbe {
    type Ok = ();
    type Error = Kind;
    type SerializeSeq = ser::Impossible<(), Kind>;
    type SerializeTuple = ser::Impossible<(), Kind>;
    type SerializeTupleStruct = ser::Impossible<(), Kind>;
    type SerializeTupleVariant = ser::Impossible<(), Kind>;
    type SerializeMap = ser::Impossible<(), Kind>;
    type SerializeStruct = ser::Impossible<(), Kind>;
    type SerializeStructVariant = ser::Impossible<(), Kind>;

    probe_scalars! {
        serialize_bool(bool) Bool
        serialize_i8(i8) Int serialize_i16(i16) Int serialize_i32(i32) Int serialize_i64(i64) Int
        serialize_u8(u8) Int serialize_u16(u16) Int serialize_u32(u32) Int serialize_u64(u64) Int
        serialize_i128(i128) Int serialize_u128(u128) Int
        serialize_f32(f32) Float serialize_f64(f64) Float
        serialize_char(char) Str serialize_str(&str) Str serialize_bytes(&[u8]) List
    }
    fn serialize_none(self) -> Result<(), Kind> {
        Err(Kind::Null)
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Kind> {
        value.serialize(self)
    }
    fn serialize_unit(self) -> Result<(), Kind> {
        Err(Kind::Null)
    }
    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Kind> {
        Err(Kind::Null)
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Result<(), Kind> {
        Err(Kind::Str)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Kind> {
        if name == BIG_INT { Err(Kind::Int) } else { value.serialize(self) }
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), Kind> {
        Err(Kind::Dict)
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, Kind> {
        Err(Kind::List)
    }
    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Kind> {
        Err(Kind::List)
    }
    fn serialize_tuple_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleStruct, Kind> {
        Err(Kind::List)
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Kind> {
        Err(Kind::Dict)
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Kind> {
        Err(Kind::Dict)
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, Kind> {
        Err(Kind::Dict)
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Kind> {
        Err(Kind::Dict)
    }
}

macro_rules! probe_types {
    ($($method:ident $kind:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Kind> {
            Err(Kind::$kind)
        }
    )*};
}

impl<'de> Deserializer<'de> for KindProbe {
    type Error = Kind;

    probe_types! {
        deserialize_any Unknown deserialize_bool Bool
        deserialize_i8 Int deserialize_i16 Int deserialize_i32 Int deserialize_i64 Int deserialize_i128 Int
        deserialize_u8 Int deserialize_u16 Int deserialize_u32 Int deserialize_u64 Int deserialize_u128 Int
        deserialize_f32 Float deserialize_f64 Float
        deserialize_char Str deserialize_str Str deserialize_string Str
        deserialize_bytes List deserialize_byte_buf List deserialize_seq List deserialize_map Dict
    }
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Kind> {
        visitor.visit_some(self)
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Kind> {
        if name == VALUE { Err(Kind::Unknown) } else { visitor.visit_newtype_struct(self) }
    }
    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Kind> {
        Err(Kind::List)
    }
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        _: V,
    ) -> Result<V::Value, Kind> {
        Err(Kind::List)
    }
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Kind> {
        Err(Kind::Dict)
    }
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Kind> {
        Err(Kind::Str)
    }
    forward_to_deserialize_any! { unit unit_struct identifier ignored_any }
}

/// Calls `each` with the name and the kind of every field of a struct, without looking into the fields.
pub(crate) fn each_field<T: Serialize + ?Sized>(value: &T, each: impl FnMut(&str, Kind)) {
    // A thing that is no struct has no fields.
    let _ = value.serialize(FieldProbe(each));
}

struct FieldProbe<F>(F);

impl<F: FnMut(&str, Kind)> ser::SerializeStruct for FieldProbe<F> {
    type Ok = ();
    type Error = Kind;
    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), Kind> {
        (self.0)(key, kind_of(value));
        Ok(())
    }
    fn end(self) -> Result<(), Kind> {
        Ok(())
    }
}

/// A struct with a flattened field serializes as a map.
impl<F: FnMut(&str, Kind)> ser::SerializeMap for FieldProbe<F> {
    type Ok = ();
    type Error = Kind;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, _: &T) -> Result<(), Kind> {
        Ok(())
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, _: &T) -> Result<(), Kind> {
        Ok(())
    }
    fn serialize_entry<K: Serialize + ?Sized, T: Serialize + ?Sized>(
        &mut self,
        key: &K,
        value: &T,
    ) -> Result<(), Kind> {
        if let Ok(Value::Str(key)) = to_value(key) {
            (self.0)(&key, kind_of(value));
        }
        Ok(())
    }
    fn end(self) -> Result<(), Kind> {
        Ok(())
    }
}

macro_rules! no_fields {
    ($($method:ident($of:ty))*) => {$(
        fn $method(self, _: $of) -> Result<(), Kind> {
            Err(Kind::Unknown)
        }
    )*};
}

impl<F: FnMut(&str, Kind)> Serializer for FieldProbe<F> {
    type Ok = ();
    type Error = Kind;
    type SerializeSeq = ser::Impossible<(), Kind>;
    type SerializeTuple = ser::Impossible<(), Kind>;
    type SerializeTupleStruct = ser::Impossible<(), Kind>;
    type SerializeTupleVariant = ser::Impossible<(), Kind>;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = ser::Impossible<(), Kind>;

    no_fields! {
        serialize_bool(bool) serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64)
        serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64) serialize_f32(f32)
        serialize_f64(f64) serialize_char(char) serialize_str(&str) serialize_bytes(&[u8])
        serialize_unit_struct(&'static str)
    }
    fn serialize_none(self) -> Result<(), Kind> {
        Err(Kind::Unknown)
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Kind> {
        value.serialize(self)
    }
    fn serialize_unit(self) -> Result<(), Kind> {
        Err(Kind::Unknown)
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Result<(), Kind> {
        Err(Kind::Unknown)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Kind> {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), Kind> {
        Err(Kind::Unknown)
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, Kind> {
        Err(Kind::Unknown)
    }
    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Kind> {
        Err(Kind::Unknown)
    }
    fn serialize_tuple_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleStruct, Kind> {
        Err(Kind::Unknown)
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Kind> {
        Err(Kind::Unknown)
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Self, Kind> {
        Ok(self)
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Kind> {
        Ok(self)
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Kind> {
        Err(Kind::Unknown)
    }
}
