//! `tensors.json`: arrays as the SDK serializes them.

use half::f16;
use schwann_synapse::{
    python::{Dict, Value, from_value, to_value},
    tensor::{Array, DType, Tensor, TensorError},
};

use crate::set::{self, Kind, get, holds, maybe, same, text};

pub(crate) const KIND: Kind = Kind {
    name: "tensors",
    sections: &[
        ("serialize", serialize),
        ("deserialize", deserialize),
        ("note", set::only_for_people),
    ],
};

#[test]
fn tensors_are_those_of_the_sdk() {
    set::check(&KIND);
}

fn serialize(entry: &Value, _: &Dict) -> Result<(), String> {
    if let Some(error) = maybe(entry, "error") {
        return refused(text(entry, "label")?, &error.py_str());
    }
    let expected = get(entry, "tensor_json")?;
    let dtype = DType::of_name(text(entry, "numpy_dtype")?).ok_or("unknown element type")?;
    let shape = sizes(get(entry, "numpy_shape")?)?;
    let tensor: Tensor = from_value(expected.clone()).map_err(|error| error.to_string())?;
    let array = tensor.decode().map_err(|error| error.to_string())?;
    same("decoded", (array.dtype(), array.shape()), (dtype, shape.as_slice()))?;
    match get(entry, "values")? {
        // Too many to list.
        Value::None => same("encoded again", to_value(&array.to_tensor()), Ok(expected.clone()))?,
        values => {
            let made = encode(dtype, &flat(values), &shape)?;
            same("encoded", to_value(&made), Ok(expected.clone()))?;
            same_numbers(&array, &flat(values))?;
        }
    }
    let packed = schwann_packed(&array.to_tensor());
    same(
        "msgpack",
        hex::encode(&packed).as_str(),
        text(entry, "msgpack_hex").unwrap_or(hex::encode(&packed).as_str()),
    )?;
    same("length", &Value::from(packed.len()), get(entry, "msgpack_len")?)?;
    same("type after a round trip", array.dtype().name(), text(entry, "roundtrip_dtype")?)?;
    same("shape after a round trip", array.shape().to_vec(), sizes(get(entry, "roundtrip_shape")?)?)
}

fn schwann_packed(tensor: &Tensor) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(&tensor.buffer).unwrap()
}

/// What the SDK refuses to make: no type of ours has the name it complains about.
fn refused(label: &str, error: &str) -> Result<(), String> {
    let named = error
        .split_once("Assertion failed, ")
        .and_then(|(_, rest)| rest.split_once(" not a valid"));
    let unknown =
        |name: &str| holds(DType::of_name(name).is_none(), || format!("we do have {name}"));
    match named {
        Some((name, _)) => unknown(name),
        // numpy's own refusals name only a letter, or objects in general.
        None => label.split_whitespace().try_for_each(unknown),
    }
}

fn deserialize(entry: &Value, _: &Dict) -> Result<(), String> {
    let input = get(entry, "input")?.clone();
    let decoded = from_value::<Tensor>(input)
        .map_err(|error| error.to_string())
        .and_then(|tensor| tensor.decode().map_err(|error| error.to_string()));
    if maybe(entry, "error").is_some() {
        return decoded
            .map_or(Ok(()), |array| Err(format!("the SDK refuses this, we decoded {array:?}")));
    }
    let array = decoded?;
    same("the type", array.dtype().name(), text(entry, "dtype")?)?;
    same("the shape", array.shape().to_vec(), sizes(get(entry, "shape")?)?)?;
    match get(entry, "values")? {
        Value::None => Ok(()),
        values => same_numbers(&array, &flat(values)),
    }
}

fn sizes(shape: &Value) -> Result<Vec<usize>, String> {
    from_value(shape.clone()).map_err(|error| error.to_string())
}

/// The numbers in nested lists.
fn flat(values: &Value) -> Vec<Value> {
    match values {
        Value::List(items) => items.iter().flat_map(flat).collect(),
        one => vec![one.clone()],
    }
}

fn encode(dtype: DType, values: &[Value], shape: &[usize]) -> Result<Tensor, String> {
    fn of<T: schwann_synapse::tensor::Element>(
        values: &[Value],
        shape: &[usize],
        convert: impl Fn(&Value) -> T,
    ) -> Result<Tensor, TensorError> {
        Tensor::from_slice(&values.iter().map(convert).collect::<Vec<T>>(), shape)
    }
    let float = |value: &Value| from_value::<f64>(value.clone()).unwrap_or(f64::NAN);
    let int = |value: &Value| from_value::<i64>(value.clone()).unwrap();
    match dtype {
        DType::Float16 => of(values, shape, |value| f16::from_f64(float(value))),
        DType::Float32 => of(values, shape, |value| float(value) as f32),
        DType::Float64 => of(values, shape, float),
        DType::UInt8 => of(values, shape, |value| int(value) as u8),
        DType::Int8 => of(values, shape, |value| int(value) as i8),
        DType::Int16 => of(values, shape, |value| int(value) as i16),
        DType::Int32 => of(values, shape, |value| int(value) as i32),
        DType::Int64 => of(values, shape, int),
        DType::Bool => of(values, shape, |value| *value == Value::Bool(true)),
    }
    .map_err(|error| error.to_string())
}

fn same_numbers(array: &Array, values: &[Value]) -> Result<(), String> {
    let got: Vec<Value> = match array.dtype() {
        DType::Float16 | DType::Float32 | DType::Float64 => {
            array.to_vec::<f64>().into_iter().map(Value::Float).collect()
        }
        DType::Bool => array.to_vec::<bool>().into_iter().map(Value::Bool).collect(),
        _ => array.to_vec::<i64>().into_iter().map(Value::from).collect(),
    };
    let shown = |values: &[Value]| values.iter().map(Value::py_str).collect::<Vec<_>>();
    // By their texts, as NaN equals nothing.
    same("the numbers", shown(&got), shown(values))
}
