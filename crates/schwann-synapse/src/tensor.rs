//! `Tensor`: an array as the SDK serializes it.
//!
//! Specification §12, SDK 7.4.0 to 10.5.0: base64 of msgpack of the raw little-endian bytes, with a type and a shape
//! inside and another type and shape beside it.

use std::fmt;

use base64::Engine as _;
use half::f16;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    hash::{Form, PyStr},
    python::{Value, decode_base64, from_value},
};

/// A tensor as it stands in a synapse. It is checked when it is decoded, not when it arrives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tensor {
    /// Base64 of msgpack of the data.
    pub buffer: String,
    /// The element type, such as `float32`; `torch.float32` from a process that uses torch.
    pub dtype: String,
    /// The shape to give the data; `[0]` leaves the one it has.
    #[serde(deserialize_with = "shape_or_text")]
    pub shape: Vec<i64>,
}

/// The reference also takes a text such as `[2,3]`.
fn shape_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<i64>, D::Error> {
    let wrong = || serde::de::Error::custom("a shape is a list of integers, and not empty");
    let shape = match Value::deserialize(deserializer)? {
        Value::Str(text) => Value::parse_json_within(text.as_bytes(), 1).map_err(|_| wrong())?,
        shape => shape,
    };
    match shape.as_list() {
        Some([]) | None => Err(wrong()),
        Some(_) => from_value(shape).map_err(|_| wrong()),
    }
}

/// The text of the nested model that the peer dumps.
impl PyStr for Tensor {
    fn write_python(&self, out: &mut String, form: Form) {
        let form = form.inside();
        out.push_str("{'buffer': ");
        self.buffer.write_python(out, form);
        out.push_str(", 'dtype': ");
        self.dtype.write_python(out, form);
        out.push_str(", 'shape': ");
        self.shape.write_python(out, form);
        out.push('}');
    }
}

/// The element types a tensor can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names of numpy's types say it")]
pub enum DType {
    Float16,
    Float32,
    Float64,
    UInt8,
    Int8,
    Int16,
    Int32,
    Int64,
    Bool,
}

impl DType {
    /// Every element type.
    pub const ALL: [Self; 9] = [
        Self::Float16,
        Self::Float32,
        Self::Float64,
        Self::UInt8,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Bool,
    ];

    /// numpy's name, such as `float32`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float16 => "float16",
            Self::Float32 => "float32",
            Self::Float64 => "float64",
            Self::UInt8 => "uint8",
            Self::Int8 => "int8",
            Self::Int16 => "int16",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Bool => "bool",
        }
    }

    /// The type of this name. Names of the other types that numpy has are not known: the SDK refuses them.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// Bytes for one element.
    pub fn size(self) -> usize {
        match self {
            Self::UInt8 | Self::Int8 | Self::Bool => 1,
            Self::Float16 | Self::Int16 => 2,
            Self::Float32 | Self::Int32 => 4,
            Self::Float64 | Self::Int64 => 8,
        }
    }

    /// numpy's type string.
    fn type_string(self) -> &'static str {
        match self {
            Self::Float16 => "<f2",
            Self::Float32 => "<f4",
            Self::Float64 => "<f8",
            Self::UInt8 => "|u1",
            Self::Int8 => "|i1",
            Self::Int16 => "<i2",
            Self::Int32 => "<i4",
            Self::Int64 => "<i8",
            Self::Bool => "|b1",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a tensor from outside may be.
#[derive(Clone, Copy, Debug)]
pub struct TensorLimits {
    /// Bytes of data, after a cast as well as before.
    pub max_bytes: usize,
    /// Dimensions.
    pub max_dimensions: usize,
    /// Takes `torch.float32` for `float32`: what a peer with `USE_TORCH=1` sends.
    pub accept_torch: bool,
}

impl Default for TensorLimits {
    /// 64 MiB, 32 dimensions as in numpy, no torch.
    fn default() -> Self {
        Self { max_bytes: 64 << 20, max_dimensions: 32, accept_torch: false }
    }
}

/// Why a tensor cannot be decoded or made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// The `dtype` is none the SDK takes.
    #[error("`{0}` is no element type of a tensor")]
    DType(String),
    /// The `dtype` is torch's, and that was not asked for.
    #[error("`{0}` is a type of torch, which is not accepted")]
    Torch(String),
    /// The buffer is not base64.
    #[error("the buffer is not base64")]
    Base64,
    /// The buffer is not msgpack, or not that of an array.
    #[error("the buffer holds no array")]
    Buffer,
    /// The array in the buffer is of a kind that is not supported, such as pickled objects.
    #[error("the buffer holds an array of type `{0}`")]
    Unsupported(String),
    /// The shape does not go with the amount of data.
    #[error("{elements} elements do not fit the shape")]
    Shape {
        /// How many there are.
        elements: usize,
    },
    /// Larger than the limits allow.
    #[error("the tensor is too large")]
    TooLarge,
}

impl Tensor {
    /// Serializes an array. No dimension at all is a scalar, of one element.
    ///
    /// # Errors
    /// Fails if the number of elements is not the product of the shape.
    pub fn from_slice<T: Element>(data: &[T], shape: &[usize]) -> Result<Self, TensorError> {
        let mut bytes = Vec::with_capacity(data.len() * T::DTYPE.size());
        for &element in data {
            element.put(&mut bytes);
        }
        Array::new(T::DTYPE, shape.to_vec(), bytes).map(|array| array.to_tensor())
    }

    /// Serializes an array of `float32`.
    ///
    /// # Errors
    /// Fails if the number of elements is not the product of the shape.
    pub fn from_f32(data: &[f32], shape: &[usize]) -> Result<Self, TensorError> {
        Self::from_slice(data, shape)
    }

    /// Decodes the data, reshapes it and casts it to `dtype`, as the SDK's `deserialize` does, within default limits.
    ///
    /// # Errors
    /// Says what is wrong with the tensor.
    pub fn decode(&self) -> Result<Array, TensorError> {
        self.decode_within(&TensorLimits::default())
    }

    /// As [`Tensor::decode`], within these limits.
    ///
    /// # Errors
    /// Says what is wrong with the tensor. Nothing is allocated by a size that is only claimed.
    pub fn decode_within(&self, limits: &TensorLimits) -> Result<Array, TensorError> {
        let dtype = match self.dtype.strip_prefix("torch.") {
            Some(name) if limits.accept_torch => DType::of_name(name),
            Some(name) if DType::of_name(name).is_some() => {
                return Err(TensorError::Torch(self.dtype.clone()));
            }
            _ => DType::of_name(&self.dtype),
        };
        let dtype = dtype.ok_or_else(|| TensorError::DType(self.dtype.clone()))?;
        // Base64 grows by a third, and the rest of the buffer is small.
        if self.buffer.len() / 4 * 3 > limits.max_bytes.saturating_add(4096) {
            return Err(TensorError::TooLarge);
        }
        let packed = decode_base64(self.buffer.as_bytes()).ok_or(TensorError::Base64)?;
        let (source, shape, data) = unpack(&packed, limits)?;
        let elements = data.len() / source.size;
        if data.len() > limits.max_bytes || elements.saturating_mul(dtype.size()) > limits.max_bytes
        {
            return Err(TensorError::TooLarge);
        }
        let shape = match self.shape.as_slice() {
            [0] => shape,
            wanted => reshape(wanted, elements, limits)?,
        };
        let mut cast = Vec::with_capacity(elements * dtype.size());
        for element in data.chunks_exact(source.size) {
            put_as(dtype, source.number(element), &mut cast);
        }
        Array::new(dtype, shape, cast)
    }

    /// Decodes the data as elements of this type, in C order.
    ///
    /// # Errors
    /// Says what is wrong with the tensor.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, TensorError> {
        Ok(self.decode()?.to_vec())
    }
}

/// A decoded array: elements in C order, little-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    dtype: DType,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl Array {
    /// An array of these bytes, little-endian and in C order.
    ///
    /// # Errors
    /// Fails if the bytes are not as many as the shape needs, from 4 GiB on, and beyond 64 dimensions.
    pub fn new(dtype: DType, shape: Vec<usize>, data: Vec<u8>) -> Result<Self, TensorError> {
        let elements = data.len() / dtype.size();
        // What msgpack can say, and numpy can have.
        if shape.len() > 64 || u32::try_from(data.len()).is_err() {
            return Err(TensorError::TooLarge);
        }
        if count(&shape) != Some(elements) || !data.len().is_multiple_of(dtype.size()) {
            return Err(TensorError::Shape { elements });
        }
        Ok(Self { dtype, shape, data })
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The shape; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The bytes, little-endian and in C order.
    pub fn as_bytes(&self) -> &[u8] {
        &self.data
    }

    /// The elements cast as numpy's `astype` casts: floats lose their fraction, integers their upper bits, and anything
    /// but zero is true.
    pub fn to_vec<T: Element>(&self) -> Vec<T> {
        let source = Source::of(self.dtype);
        self.data.chunks_exact(source.size).map(|element| T::of(source.number(element))).collect()
    }

    /// Serializes the array as the SDK's `serialize` does.
    pub fn to_tensor(&self) -> Tensor {
        let buffer = base64::engine::general_purpose::STANDARD.encode(self.pack());
        // A scalar's shape is written `[0]`, which the reader takes for "as it is".
        let shape = if self.shape.is_empty() {
            vec![0]
        } else {
            self.shape.iter().map(|&n| n as i64).collect()
        };
        Tensor { buffer, dtype: self.dtype.name().to_owned(), shape }
    }

    fn pack(&self) -> Vec<u8> {
        let mut packed = Vec::with_capacity(self.data.len() + 64 + 9 * self.shape.len());
        packed.push(0x85);
        pack_bytes(b"nd", &mut packed);
        packed.push(0xc3);
        pack_bytes(b"type", &mut packed);
        let type_string = self.dtype.type_string();
        packed.push(0xa0 | type_string.len() as u8);
        packed.extend_from_slice(type_string.as_bytes());
        pack_bytes(b"kind", &mut packed);
        pack_bytes(b"", &mut packed);
        pack_bytes(b"shape", &mut packed);
        match self.shape.len() {
            few @ 0..16 => packed.push(0x90 | few as u8),
            many => {
                packed.push(0xdc);
                packed.extend_from_slice(&(many as u16).to_be_bytes());
            }
        }
        for &dimension in &self.shape {
            pack_uint(dimension as u64, &mut packed);
        }
        pack_bytes(b"data", &mut packed);
        pack_bytes(&self.data, &mut packed);
        packed
    }
}

fn pack_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    match bytes.len() {
        short @ 0..0x100 => out.extend_from_slice(&[0xc4, short as u8]),
        medium @ 0x100..0x1_0000 => {
            out.push(0xc5);
            out.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            out.push(0xc6);
            out.extend_from_slice(&(long as u32).to_be_bytes());
        }
    }
    out.extend_from_slice(bytes);
}

fn pack_uint(value: u64, out: &mut Vec<u8>) {
    match value {
        0..0x80 => out.push(value as u8),
        0x80..0x100 => out.extend_from_slice(&[0xcc, value as u8]),
        0x100..0x1_0000 => {
            out.push(0xcd);
            out.extend_from_slice(&(value as u16).to_be_bytes());
        }
        0x1_0000..0x1_0000_0000 => {
            out.push(0xce);
            out.extend_from_slice(&(value as u32).to_be_bytes());
        }
        _ => {
            out.push(0xcf);
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
}

/// How many elements a shape has; none if that overflows.
fn count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |product, &n| product.checked_mul(n))
}

/// numpy's `reshape`, where one dimension may be -1.
fn reshape(
    wanted: &[i64],
    elements: usize,
    limits: &TensorLimits,
) -> Result<Vec<usize>, TensorError> {
    let misfit = TensorError::Shape { elements };
    if wanted.len() > limits.max_dimensions {
        return Err(TensorError::TooLarge);
    }
    let mut shape = Vec::with_capacity(wanted.len());
    let mut open = None;
    for (at, &n) in wanted.iter().enumerate() {
        match usize::try_from(n) {
            Ok(n) => shape.push(n),
            Err(_) if n == -1 && open.is_none() => {
                open = Some(at);
                shape.push(1);
            }
            Err(_) => return Err(misfit),
        }
    }
    let product = count(&shape).ok_or_else(|| misfit.clone())?;
    if let Some(at) = open {
        if product == 0 || !elements.is_multiple_of(product) {
            return Err(misfit);
        }
        shape[at] = elements / product;
    } else if product != elements {
        return Err(misfit);
    }
    Ok(shape)
}

/// Takes the msgpack of an array or a scalar apart, without copying the data.
fn unpack<'a>(
    packed: &'a [u8],
    limits: &TensorLimits,
) -> Result<(Source, Vec<usize>, &'a [u8]), TensorError> {
    let mut reader = Unpacker { rest: packed };
    let (mut nd, mut kind, mut type_string, mut shape, mut data) = (None, None, None, None, None);
    for _ in 0..reader.map().ok_or(TensorError::Buffer)? {
        // Only keys of bytes are taken, as in the reference.
        let Some(Item::Bytes(key)) = reader.item() else { return Err(TensorError::Buffer) };
        if key == b"shape" {
            shape = Some(reader.shape(limits)?);
            continue;
        }
        let item = reader.item().ok_or(TensorError::Buffer)?;
        match (key, item) {
            (b"nd", Item::Bool(value)) => nd = Some(value),
            (b"kind", Item::Bytes(value) | Item::Text(value)) => kind = Some(value),
            (b"type", Item::Bytes(value) | Item::Text(value)) => type_string = Some(value),
            (b"data", Item::Bytes(value)) => data = Some(value),
            (b"nd" | b"kind" | b"type" | b"data", _) => return Err(TensorError::Buffer),
            _ => {}
        }
    }
    let (Some(nd), Some(type_string), Some(data), true) =
        (nd, type_string, data, reader.rest.is_empty())
    else {
        return Err(TensorError::Buffer);
    };
    let shown = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(32)]).into_owned();
    if let Some(kind) = kind.filter(|kind| nd && !kind.is_empty()) {
        return Err(TensorError::Unsupported(shown(kind)));
    }
    let source = Source::of_string(type_string)
        .ok_or_else(|| TensorError::Unsupported(shown(type_string)))?;
    let shape = match (nd, shape) {
        (true, Some(shape)) => shape,
        (true, None) => return Err(TensorError::Buffer),
        (false, _) => Vec::new(),
    };
    let elements = data.len() / source.size;
    if !data.len().is_multiple_of(source.size) || count(&shape) != Some(elements) {
        return Err(TensorError::Shape { elements });
    }
    Ok((source, shape, data))
}

/// Reads as much msgpack as an array needs. It borrows and never allocates by a length that stands in the input: a
/// general reader makes a tree of it first, many times as large as a hostile buffer.
struct Unpacker<'a> {
    rest: &'a [u8],
}

enum Item<'a> {
    Bool(bool),
    Text(&'a [u8]),
    Bytes(&'a [u8]),
    UInt(u64),
    Other,
}

impl<'a> Unpacker<'a> {
    fn map(&mut self) -> Option<u64> {
        match self.byte()? {
            short @ 0x80..=0x8f => Some(u64::from(short & 0x0f)),
            0xde => self.uint(2),
            0xdf => self.uint(4),
            _ => None,
        }
    }

    fn shape(&mut self, limits: &TensorLimits) -> Result<Vec<usize>, TensorError> {
        let dimensions = match self.byte().ok_or(TensorError::Buffer)? {
            short @ 0x90..=0x9f => Some(u64::from(short & 0x0f)),
            0xdc => self.uint(2),
            0xdd => self.uint(4),
            _ => None,
        };
        let dimensions = dimensions.ok_or(TensorError::Buffer)?;
        if dimensions > limits.max_dimensions as u64 {
            return Err(TensorError::TooLarge);
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            match self.item() {
                Some(Item::UInt(n)) => {
                    shape.push(usize::try_from(n).map_err(|_| TensorError::TooLarge)?)
                }
                _ => return Err(TensorError::Buffer),
            }
        }
        Ok(shape)
    }

    /// The next scalar.
    fn item(&mut self) -> Option<Item<'a>> {
        Some(match self.byte()? {
            small @ 0x00..=0x7f => Item::UInt(u64::from(small)),
            short @ 0xa0..=0xbf => Item::Text(self.bytes(u64::from(short & 0x1f))?),
            0xc2 => Item::Bool(false),
            0xc3 => Item::Bool(true),
            marker @ 0xc4..=0xc6 => {
                let length = self.uint(1 << (marker - 0xc4))?;
                Item::Bytes(self.bytes(length)?)
            }
            marker @ 0xcc..=0xcf => Item::UInt(self.uint(1 << (marker - 0xcc))?),
            marker @ 0xd9..=0xdb => {
                let length = self.uint(1 << (marker - 0xd9))?;
                Item::Text(self.bytes(length)?)
            }
            0xc0 | 0xe0..=0xff => Item::Other,
            0xca => self.bytes(4).map(|_| Item::Other)?,
            0xcb => self.bytes(8).map(|_| Item::Other)?,
            // A dimension may come as a signed integer too.
            marker @ 0xd0..=0xd3 => {
                let size = 1 << (marker - 0xd0);
                match self.uint(size)? {
                    value if value >> (8 * size - 1) == 0 => Item::UInt(value),
                    _ => Item::Other,
                }
            }
            _ => return None,
        })
    }

    fn uint(&mut self, size: usize) -> Option<u64> {
        let bytes = self.bytes(size as u64)?;
        Some(bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    fn byte(&mut self) -> Option<u8> {
        self.bytes(1).map(|byte| byte[0])
    }

    fn bytes(&mut self, length: u64) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(usize::try_from(length).ok()?)?;
        self.rest = rest;
        Some(bytes)
    }
}

/// An element type as it may stand in a buffer: more than a tensor may have, as it is cast anyway.
#[derive(Clone, Copy)]
struct Source {
    kind: u8,
    size: usize,
    big_endian: bool,
}

impl Source {
    fn of(dtype: DType) -> Self {
        Self::of_string(dtype.type_string().as_bytes()).expect("our own types are among those read")
    }

    fn of_string(text: &[u8]) -> Option<Self> {
        let (big_endian, rest) = match text {
            [b'<' | b'|' | b'=', rest @ ..] => (false, rest),
            [b'>', rest @ ..] => (true, rest),
            rest => (false, rest),
        };
        let (kind, size) = match rest {
            b"f2" => (b'f', 2),
            b"f4" => (b'f', 4),
            b"f8" => (b'f', 8),
            b"u1" => (b'u', 1),
            b"u2" => (b'u', 2),
            b"u4" => (b'u', 4),
            b"u8" => (b'u', 8),
            b"i1" => (b'i', 1),
            b"i2" => (b'i', 2),
            b"i4" => (b'i', 4),
            b"i8" => (b'i', 8),
            b"b1" => (b'b', 1),
            _ => return None,
        };
        Some(Self { kind, size, big_endian })
    }

    /// The number in exactly `size` bytes.
    fn number(self, element: &[u8]) -> Number {
        let mut wide = [0; 8];
        for (at, &byte) in element.iter().enumerate() {
            wide[if self.big_endian { self.size - 1 - at } else { at }] = byte;
        }
        let bits = u64::from_le_bytes(wide);
        // Each cast below keeps just the bytes that there are.
        match (self.kind, self.size) {
            (b'f', 2) => Number::Float(f16::from_bits(bits as u16).to_f64()),
            (b'f', 4) => Number::Float(f64::from(f32::from_bits(bits as u32))),
            (b'f', _) => Number::Float(f64::from_bits(bits)),
            (b'i', 1) => Number::Int(i64::from(bits as i8)),
            (b'i', 2) => Number::Int(i64::from(bits as i16)),
            (b'i', 4) => Number::Int(i64::from(bits as i32)),
            (b'i', _) => Number::Int(bits as i64),
            (b'b', _) => Number::Int(i64::from(bits != 0)),
            _ => Number::UInt(bits),
        }
    }
}

/// A number out of an array, wide enough for every type.
#[derive(Clone, Copy, Debug)]
#[doc(hidden)]
pub enum Number {
    Float(f64),
    Int(i64),
    UInt(u64),
}

impl Number {
    fn to_f64(self) -> f64 {
        match self {
            Self::Float(value) => value,
            Self::Int(value) => value as f64,
            Self::UInt(value) => value as f64,
        }
    }

    fn to_f32(self) -> f32 {
        match self {
            Self::Float(value) => value as f32,
            Self::Int(value) => value as f32,
            Self::UInt(value) => value as f32,
        }
    }

    /// Cut off, and modulo 2^64. What no integer is, a processor makes the smallest.
    fn to_i64(self) -> i64 {
        match self {
            Self::Float(value) if value.abs() < 9_223_372_036_854_775_808.0 => value as i64,
            Self::Float(_) => i64::MIN,
            Self::Int(value) => value,
            Self::UInt(value) => value as i64,
        }
    }

    fn is_true(self) -> bool {
        match self {
            Self::Float(value) => value != 0.0,
            Self::Int(value) => value != 0,
            Self::UInt(value) => value != 0,
        }
    }
}

fn put_as(dtype: DType, number: Number, out: &mut Vec<u8>) {
    match dtype {
        DType::Float16 => f16::of(number).put(out),
        DType::Float32 => f32::of(number).put(out),
        DType::Float64 => f64::of(number).put(out),
        DType::UInt8 => u8::of(number).put(out),
        DType::Int8 => i8::of(number).put(out),
        DType::Int16 => i16::of(number).put(out),
        DType::Int32 => i32::of(number).put(out),
        DType::Int64 => i64::of(number).put(out),
        DType::Bool => bool::of(number).put(out),
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that is an element of tensors: `f16` of the crate `half`, `f32`, `f64`, `u8`, `i8` to `i64`, `bool`.
pub trait Element: Copy + sealed::Sealed {
    /// The element type.
    const DTYPE: DType;
    #[doc(hidden)]
    fn of(number: Number) -> Self;
    #[doc(hidden)]
    fn put(self, out: &mut Vec<u8>);
}

macro_rules! elements {
    ($($rust:ty = $dtype:ident, $number:ident => $cast:expr;)*) => {$(
        impl sealed::Sealed for $rust {}
        impl Element for $rust {
            const DTYPE: DType = DType::$dtype;
            fn of($number: Number) -> Self {
                $cast
            }
            fn put(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
elements! {
    f16 = Float16, number => f16::from_f64(number.to_f64());
    f32 = Float32, number => number.to_f32();
    f64 = Float64, number => number.to_f64();
    u8 = UInt8, number => number.to_i64() as u8;
    i8 = Int8, number => number.to_i64() as i8;
    i16 = Int16, number => number.to_i64() as i16;
    i32 = Int32, number => number.to_i64() as i32;
    i64 = Int64, number => number.to_i64();
}

impl sealed::Sealed for bool {}
impl Element for bool {
    const DTYPE: DType = DType::Bool;
    fn of(number: Number) -> Self {
        number.is_true()
    }
    fn put(self, out: &mut Vec<u8>) {
        out.push(u8::from(self));
    }
}
