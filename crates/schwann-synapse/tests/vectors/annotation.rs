//! Python annotations, and what pydantic's lax mode makes of a value under them.

use schwann_synapse::python::{Int, Value, from_value};
use serde::de::DeserializeOwned;

use crate::literal::Literal;

/// A Python annotation, as far as synapses use them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Annotation {
    Any,
    None,
    Str,
    Int,
    Float,
    Bool,
    List(Box<Annotation>),
    /// Of items of their own annotations, or of any number of one.
    Tuple(Vec<Annotation>, bool),
    Dict(Box<Annotation>, Box<Annotation>),
    Union(Vec<Annotation>),
    /// Values themselves, as Python writes them.
    Literal(Vec<Literal>),
    /// A class, by its last name.
    Class(String),
}

impl Annotation {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Some(name) = text.strip_prefix("<class '").and_then(|text| text.strip_suffix("'>")) {
            return Self::parse(name);
        }
        let alternatives = split(text, '|');
        if alternatives.len() > 1 {
            let alternatives =
                alternatives.into_iter().map(Self::parse).collect::<Result<_, _>>()?;
            return Ok(Self::Union(alternatives));
        }
        let (name, arguments) = match text.split_once('[') {
            Some((name, rest)) => {
                (name, rest.strip_suffix(']').ok_or_else(|| format!("{text} has no end"))?)
            }
            None => (text, ""),
        };
        let bare = arguments.is_empty();
        let name = name.rsplit('.').next().unwrap();
        if name == "Literal" {
            return Ok(Self::Literal(
                split(arguments, ',').into_iter().map(Literal::parse).collect::<Result<_, _>>()?,
            ));
        }
        let of = |text: &str| Self::parse(text).map(Box::new);
        let parts = split(arguments, ',');
        Ok(match name {
            "Any" | "object" => Self::Any,
            "None" | "NoneType" => Self::None,
            "str" | "AnyStr" => Self::Str,
            "int" => Self::Int,
            "float" => Self::Float,
            "bool" => Self::Bool,
            "List" | "list" | "Sequence" | "Iterable" if bare => Self::List(Box::new(Self::Any)),
            "List" | "list" | "Sequence" | "Iterable" => Self::List(of(arguments)?),
            "Tuple" | "tuple" if bare => Self::Tuple(vec![Self::Any], true),
            "Tuple" | "tuple" if parts.len() == 2 && parts[1] == "..." => {
                Self::Tuple(vec![Self::parse(parts[0])?], true)
            }
            "Tuple" | "tuple" => {
                Self::Tuple(parts.into_iter().map(Self::parse).collect::<Result<_, _>>()?, false)
            }
            "Dict" | "dict" | "Mapping" | "OrderedDict" if bare => {
                Self::Dict(Box::new(Self::Any), Box::new(Self::Any))
            }
            "Dict" | "dict" | "Mapping" | "OrderedDict" if parts.len() == 2 => {
                Self::Dict(of(parts[0])?, of(parts[1])?)
            }
            "Optional" => Self::Union(vec![Self::parse(arguments)?, Self::None]),
            "Annotated" => Self::parse(parts[0])?,
            "Union" => Self::Union(parts.into_iter().map(Self::parse).collect::<Result<_, _>>()?),
            name if bare && name.starts_with(|c: char| c.is_alphabetic()) => {
                Self::Class(name.to_owned())
            }
            _ => return Err(format!("no idea what {text} annotates")),
        })
    }

    /// The value of a field of this annotation, or an error where pydantic says one.
    pub(crate) fn coerce(&self, given: Literal) -> Result<Literal, String> {
        let scalar = |given: &Literal| match given {
            Literal::Plain(value) => Ok(value.clone()),
            other => Err(format!("{other:?} is no scalar")),
        };
        match self {
            Self::Any => Ok(given),
            Self::None => match given {
                Literal::Plain(Value::None) => Ok(given),
                other => Err(format!("{other:?} is not None")),
            },
            Self::Str => lax::<String>(scalar(&given)?),
            Self::Int => lax::<Int>(scalar(&given)?),
            Self::Float => lax::<f64>(scalar(&given)?),
            Self::Bool => lax::<bool>(scalar(&given)?),
            Self::List(of) => {
                let (Literal::List(items) | Literal::Tuple(items)) = given else {
                    return Err("no list".into());
                };
                Ok(Literal::List(
                    items.into_iter().map(|item| of.coerce(item)).collect::<Result<_, _>>()?,
                ))
            }
            Self::Tuple(of, any_number) => {
                let (Literal::List(items) | Literal::Tuple(items)) = given else {
                    return Err("no tuple".into());
                };
                if !any_number && items.len() != of.len() {
                    return Err(format!("{} items instead of {}", items.len(), of.len()));
                }
                let of = of.iter().cycle();
                let items = items
                    .into_iter()
                    .zip(of)
                    .map(|(item, of)| of.coerce(item))
                    .collect::<Result<_, _>>()?;
                Ok(Literal::Tuple(items))
            }
            Self::Dict(keys, values) => {
                let Literal::Dict(entries) = given else { return Err("no dict".into()) };
                let entries = entries
                    .into_iter()
                    .map(|(key, value)| Ok((keys.coerce(key)?, values.coerce(value)?)));
                Ok(Literal::Dict(entries.collect::<Result<_, String>>()?))
            }
            Self::Union(alternatives) => {
                // pydantic's smart mode: what fits as it is comes before what must be made to fit.
                if let Some(exact) =
                    alternatives.iter().find(|of| of.coerce(given.clone()).as_ref() == Ok(&given))
                {
                    return exact.coerce(given);
                }
                let mut fitting =
                    alternatives.iter().filter_map(|of| of.coerce(given.clone()).ok());
                fitting.next().ok_or_else(|| format!("{given:?} fits none of {alternatives:?}"))
            }
            Self::Literal(values) => values
                .iter()
                .find(|value| **value == given)
                .cloned()
                .ok_or_else(|| format!("{given:?} is not listed")),
            Self::Class(name) => model(name, given),
        }
    }
}

/// What the library's own lax conversion makes of it.
fn lax<T: DeserializeOwned + Into<Value>>(value: Value) -> Result<Literal, String> {
    from_value::<T>(value)
        .map(|made| Literal::Plain(made.into()))
        .map_err(|error| error.to_string())
}

/// A class and its fields.
type Model = (&'static str, &'static [(&'static str, &'static str, &'static str)]);

/// The nested models of the recorded classes: names, annotations and defaults of their fields.
const MODELS: &[Model] =
    &[("Inner", &[("a", "int", "1"), ("b", "Optional[str]", "None"), ("c", "List[float]", "[]")])];

fn model(name: &str, given: Literal) -> Result<Literal, String> {
    let (_, fields) = MODELS
        .iter()
        .find(|(known, _)| *known == name)
        .ok_or_else(|| format!("unknown class {name}"))?;
    let Literal::Dict(entries) = given else { return Err(format!("no {name}")) };
    let mut made = Vec::new();
    for (field, annotation, default) in *fields {
        let key = Literal::Plain(Value::from(*field));
        let value = match entries.iter().find(|(known, _)| *known == key) {
            Some((_, value)) => Annotation::parse(annotation)?.coerce(value.clone())?,
            None => Literal::parse(default)?,
        };
        made.push((key, value));
    }
    Ok(Literal::Dict(made))
}

/// Splits at `mark` outside of brackets and quotes.
fn split(text: &str, mark: char) -> Vec<&str> {
    let (mut parts, mut from, mut depth, mut quote) = (Vec::new(), 0, 0, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[' | '(') => depth += 1,
            (None, ']' | ')') => depth -= 1,
            (None, _) if c == mark && depth == 0 => {
                parts.push(text[from..at].trim());
                from = at + c.len_utf8();
            }
            _ => {}
        }
    }
    if !text[from..].trim().is_empty() {
        parts.push(text[from..].trim());
    }
    parts
}

#[test]
fn annotations_of_every_spelling_are_understood() {
    #[track_caller]
    fn check(annotation: &str, given: &str, made: &str) {
        let annotation = Annotation::parse(annotation).unwrap();
        assert_eq!(annotation.coerce(Literal::parse(given).unwrap()), Literal::parse(made));
    }
    check("<class 'int'>", "'3'", "3");
    check("int | None", "3.0", "3");
    check("typing.Optional[typing.List[float]]", "[1, '2.5', True]", "[1.0, 2.5, 1.0]");
    check("typing.Tuple[int, str]", "['1', 'a']", "(1, 'a')");
    check("typing.Tuple[int, ...]", "[1, 2, 3]", "(1, 2, 3)");
    check("Dict[int, list[str]]", "{'1': ['a']}", "{1: ['a']}");
    check("typing.Union[int, str]", "'5'", "'5'");
    check("typing.Union[int, float]", "'5.5'", "5.5");
    check("typing.Literal['a', 'b']", "'b'", "'b'");
    check("<class 'synapses.Inner'>", "{'c': [1]}", "{'a': 1, 'b': None, 'c': [1.0]}");
    check("bool", "'yes'", "True");
    assert!(Annotation::Int.coerce(Literal::parse("1.5").unwrap()).is_err());
    assert!(Annotation::Str.coerce(Literal::parse("1").unwrap()).is_err());
}
