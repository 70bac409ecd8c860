//! Typed and untyped synapses.
//!
//! A synapse travels twice: as headers and as a JSON body of seven base fields and its own (specification §1, §4).

use serde::{Serialize, de::DeserializeOwned};

pub use crate::python::ConvertError;
pub use schwann_synapse_derive::Synapse;

use crate::{
    hash::{BodyHash, BodyHasher},
    json::CompactObject,
    kind::{Kind, each_field, kind_of_type},
    python::{Dict, Int, NotJson, Value},
    terminal::{TerminalInfo, float_of, int_of},
};

/// The fields every synapse has, in the order of the reference's model. A class may declare one again.
pub const BASE_FIELDS: [&str; 7] =
    ["name", "timeout", "total_size", "header_size", "dendrite", "axon", "computed_body_hash"];

/// The timeout of a synapse that was told none, in seconds.
pub const DEFAULT_TIMEOUT: f64 = 12.0;

/// What stands for a required field in the headers: an empty value of its type (specification §3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Placeholder {
    /// `""`
    Str,
    /// `0`
    Int,
    /// `0.0`
    Float,
    /// `false`
    Bool,
    /// `[]`, for lists and tuples.
    List,
    /// `{}`, for dicts and nested models.
    Dict,
}

impl Placeholder {
    /// The header's text: base64 of the JSON of the empty value.
    pub fn base64(self) -> &'static str {
        match self {
            Self::Str => "IiI=",
            Self::Int => "MA==",
            Self::Float => "MC4w",
            Self::Bool => "ZmFsc2U=",
            Self::List => "W10=",
            Self::Dict => "e30=",
        }
    }

    /// The placeholder of a value; none for `None`, which gets no header.
    pub fn of(value: &Value) -> Option<Self> {
        Some(match value {
            Value::None => return None,
            Value::Bool(_) => Self::Bool,
            Value::Int(_) => Self::Int,
            Value::Float(_) => Self::Float,
            Value::Str(_) => Self::Str,
            Value::List(_) | Value::Tuple(_) => Self::List,
            Value::Dict(_) => Self::Dict,
        })
    }

    fn of_kind(kind: Kind) -> Option<Self> {
        Some(match kind {
            Kind::Null => return None,
            Kind::Bool => Self::Bool,
            Kind::Int => Self::Int,
            Kind::Float => Self::Float,
            Kind::Str => Self::Str,
            Kind::List => Self::List,
            Kind::Dict | Kind::Unknown => Self::Dict,
        })
    }

    /// The placeholder of what a type serializes to, for `#[derive(Synapse)]`. A type that takes anything gets `Dict`.
    #[doc(hidden)]
    pub fn of_type<T: DeserializeOwned>() -> Self {
        Self::of_kind(kind_of_type::<T>()).unwrap_or(Self::Dict)
    }
}

/// A typed synapse: what `#[derive(Synapse)]` makes of a serde struct.
///
/// The struct holds the class's own fields. `#[synapse(name = "..")]` names the route, the struct's own name otherwise.
/// `#[synapse(hash)]` on a field adds it to the body hash. A field without `#[serde(default)]` that is no `Option` counts
/// as required, for which a placeholder is sent; `#[synapse(required)]` and `#[synapse(optional)]` say otherwise. Names on
/// the wire are serde's, and `#[serde(alias = "..")]` takes both names of an aliased field.
///
/// ```
/// use schwann_synapse::synapse::Synapse;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Serialize, Deserialize, Synapse)]
/// #[synapse(name = "Translate")]
/// struct Translate {
///     #[synapse(hash)]
///     text: String,
///     #[serde(default)]
///     translation: Option<String>,
/// }
///
/// assert_eq!(Translate::NAME, "Translate");
/// ```
pub trait Synapse: Sized + Send + Sync + 'static {
    /// The route, which is the peer's class name.
    const NAME: &'static str;

    /// The base fields that this class declares again, such as `timeout`.
    const REDEFINED: &'static [&'static str] = &[];

    /// The required fields by their names on the wire, each with the placeholder of its type.
    fn required() -> &'static [(&'static str, Placeholder)];

    /// Adds the hashed fields in their order.
    fn hash_fields(&self, hasher: &mut BodyHasher);

    /// The class's own fields, in order.
    ///
    /// # Errors
    /// Fails if a field has no JSON form.
    fn to_fields(&self) -> Result<Dict, ConvertError>;

    /// Makes the synapse of its own fields; others are ignored.
    ///
    /// # Errors
    /// Names the field that is missing or does not fit.
    fn from_fields(fields: Dict) -> Result<Self, ConvertError>;

    /// The required fields that are not `None` in this synapse, each with its placeholder.
    fn placeholders(&self) -> Vec<(String, &'static str)> {
        let required = Self::required();
        if required.is_empty() {
            return Vec::new();
        }
        required
            .iter()
            .map(|(field, placeholder)| ((*field).to_owned(), placeholder.base64()))
            .collect()
    }
}

/// What a dendrite can send: every [`Synapse`], and [`Untyped`].
pub trait Ask: Sized + Send + Sync + 'static {
    /// The route, which is the peer's class name.
    fn name(&self) -> &str;

    /// The body hash to send and to sign.
    fn body_hash(&self) -> BodyHash;

    /// Required fields that are not `None`, each with the base64 text that stands for it in the headers.
    fn placeholders(&self) -> Vec<(String, &'static str)>;

    /// The class's own fields, in order.
    ///
    /// # Errors
    /// Fails if a field has no JSON form.
    fn to_fields(&self) -> Result<Dict, ConvertError>;

    /// Whether the class declares this base field again, so that it is one of its own.
    fn redefines(&self, base: &str) -> bool;

    /// Makes the answered synapse of the own fields in the response.
    ///
    /// # Errors
    /// Names the field that is missing or does not fit.
    fn answered(&self, fields: Dict) -> Result<Self, ConvertError>;
}

impl<S: Synapse> Ask for S {
    fn name(&self) -> &str {
        S::NAME
    }
    fn body_hash(&self) -> BodyHash {
        BodyHash::of(|hasher| self.hash_fields(hasher))
    }
    fn placeholders(&self) -> Vec<(String, &'static str)> {
        Synapse::placeholders(self)
    }
    fn to_fields(&self) -> Result<Dict, ConvertError> {
        Synapse::to_fields(self)
    }
    fn redefines(&self, base: &str) -> bool {
        S::REDEFINED.contains(&base)
    }
    fn answered(&self, fields: Dict) -> Result<Self, ConvertError> {
        S::from_fields(fields)
    }
}

/// A synapse known only by its name and fields, for programs and gateways.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Untyped {
    /// The route, which is the peer's class name.
    pub name: String,
    /// The own fields in the order of the peer's class; a base field among them counts as declared again.
    pub fields: Dict,
    /// The hashed fields, in the order of the peer's `required_hash_fields`. One that is missing hashes as `None`.
    pub hash: Vec<String>,
    /// The fields the peer's class gives no default.
    pub required: Vec<String>,
}

impl Untyped {
    /// A synapse of this name with these fields, none of them hashed or required.
    pub fn new(name: impl Into<String>, fields: Dict) -> Self {
        Self { name: name.into(), fields, ..Self::default() }
    }

    /// Hashes these fields, in this order.
    #[must_use]
    pub fn hash<S: Into<String>>(mut self, fields: impl IntoIterator<Item = S>) -> Self {
        self.hash = fields.into_iter().map(Into::into).collect();
        self
    }

    /// Sends placeholders for these fields.
    #[must_use]
    pub fn required<S: Into<String>>(mut self, fields: impl IntoIterator<Item = S>) -> Self {
        self.required = fields.into_iter().map(Into::into).collect();
        self
    }

    /// Adds the hashed fields in their order.
    pub fn hash_fields(&self, hasher: &mut BodyHasher) {
        for field in &self.hash {
            hasher.value(self.fields.get(field).unwrap_or(&Value::None));
        }
    }
}

impl Ask for Untyped {
    fn name(&self) -> &str {
        &self.name
    }
    fn body_hash(&self) -> BodyHash {
        BodyHash::of(|hasher| self.hash_fields(hasher))
    }
    fn placeholders(&self) -> Vec<(String, &'static str)> {
        // The reference goes through the dumped fields, so theirs is the order.
        let required =
            self.fields.iter().filter(|(field, _)| self.required.iter().any(|name| name == field));
        required
            .filter_map(|(field, value)| Some((field.to_owned(), Placeholder::of(value)?.base64())))
            .collect()
    }
    fn to_fields(&self) -> Result<Dict, ConvertError> {
        Ok(self.fields.clone())
    }
    fn redefines(&self, base: &str) -> bool {
        self.fields.contains_key(base)
    }
    /// The answer's fields, and those of the question that the answer does not have.
    fn answered(&self, fields: Dict) -> Result<Self, ConvertError> {
        let mut answered = self.clone();
        answered.fields.extend(fields);
        Ok(answered)
    }
}

/// The base fields of a body, apart from `name`: the route decides what it is called.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// Seconds.
    pub timeout: Option<f64>,
    /// A size that nobody checks (specification §3.5).
    pub total_size: i64,
    /// A size that nobody checks (specification §3.5).
    pub header_size: i64,
    /// The dendrite's end.
    pub dendrite: TerminalInfo,
    /// The axon's end.
    pub axon: TerminalInfo,
    /// Empty in requests from the SDK; the header counts.
    pub computed_body_hash: String,
}

impl Default for Envelope {
    fn default() -> Self {
        Self {
            timeout: Some(DEFAULT_TIMEOUT),
            total_size: 0,
            header_size: 0,
            dendrite: TerminalInfo::default(),
            axon: TerminalInfo::default(),
            computed_body_hash: String::new(),
        }
    }
}

impl Envelope {
    /// Takes a body apart into its base fields and the class's own. `redefines` tells which base fields the class
    /// declares again: those stay among the own ones, and the envelope takes of them what it can.
    ///
    /// # Errors
    /// Names the base field that does not fit.
    pub fn split(
        body: Dict,
        redefines: impl Fn(&str) -> bool,
    ) -> Result<(Self, Dict), ConvertError> {
        let mut envelope = Self::default();
        let mut own = Dict::new();
        for (field, value) in body.into_entries() {
            if !BASE_FIELDS.contains(&&*field) {
                own.insert_key(field, value);
                continue;
            }
            if redefines(&field) {
                // What fits the envelope is taken, and what does not is the class's own business.
                let _ = envelope.take(&field, value.clone());
                own.insert_key(field, value);
            } else {
                envelope.take(&field, value).map_err(|error| error.within(&*field))?;
            }
        }
        Ok((envelope, own))
    }

    fn take(&mut self, field: &str, value: Value) -> Result<(), ConvertError> {
        let size = || match &value {
            Value::None => Ok(0),
            value => int_of(value)?
                .to_i64()
                .ok_or_else(|| ConvertError::new("an integer beyond 64 bits")),
        };
        match field {
            "timeout" if value.is_none() => self.timeout = None,
            "timeout" => self.timeout = Some(float_of(&value)?),
            "total_size" => self.total_size = size()?,
            "header_size" => self.header_size = size()?,
            "dendrite" => self.dendrite = TerminalInfo::of_value(value)?,
            "axon" => self.axon = TerminalInfo::of_value(value)?,
            "computed_body_hash" => match value {
                Value::None => self.computed_body_hash.clear(),
                Value::Str(text) => self.computed_body_hash = text,
                other => {
                    return Err(ConvertError::new(format_args!(
                        "expected a str, found a {}",
                        other.type_name()
                    )));
                }
            },
            // The route decides the name, whatever stands here.
            _ => {}
        }
        Ok(())
    }

    /// The compact JSON of [`Envelope::join`], with other ends than its own.
    pub(crate) fn write_json(
        &self,
        name: &str,
        dendrite: &TerminalInfo,
        axon: &TerminalInfo,
        own: Dict,
    ) -> Result<String, NotJson> {
        if own.iter().any(|(field, _)| BASE_FIELDS.contains(&field)) {
            let envelope = Self { dendrite: dendrite.clone(), axon: axon.clone(), ..self.clone() };
            return envelope.join(name, own).to_json();
        }
        // Two ends with a key and a signature, and some room for the own fields: the most that malloc keeps at hand.
        let mut out = String::with_capacity(1024);
        let mut body = CompactObject::begin(&mut out);
        body.text("name", Some(name));
        body.float("timeout", self.timeout)?;
        body.int("total_size", Some(&Int::from(self.total_size)));
        body.int("header_size", Some(&Int::from(self.header_size)));
        dendrite.write_json(body.key("dendrite"))?;
        axon.write_json(body.key("axon"))?;
        body.text("computed_body_hash", Some(&self.computed_body_hash));
        body.dict(&own)?;
        body.end();
        Ok(out)
    }

    /// Puts a body together: the base fields in the reference's order and the own ones after them. An own field that is
    /// a base field declared again stands in the base field's place.
    pub fn join(&self, name: &str, own: Dict) -> Dict {
        let mut body = Dict::new();
        body.insert("name", name);
        body.insert("timeout", self.timeout);
        body.insert("total_size", self.total_size);
        body.insert("header_size", self.header_size);
        body.insert("dendrite", self.dendrite.to_dict());
        body.insert("axon", self.axon.to_dict());
        body.insert("computed_body_hash", self.computed_body_hash.as_str());
        body.extend(own);
        body
    }
}

/// The required fields that are not `None` in `synapse`, each with the placeholder of what it holds, for
/// `#[derive(Synapse)]`.
#[doc(hidden)]
pub fn placeholders_of<T: Serialize>(
    synapse: &T,
    required: &[(&str, Placeholder)],
) -> Vec<(String, &'static str)> {
    let mut found = Vec::with_capacity(required.len());
    each_field(synapse, |field, kind| {
        if required.iter().any(|(name, _)| *name == field)
            && let Some(placeholder) = Placeholder::of_kind(kind)
        {
            found.push((field.to_owned(), placeholder.base64()));
        }
    });
    found
}

/// What a synapse's serde serialization says its fields are, for `#[derive(Synapse)]`.
///
/// # Errors
/// Fails if a field has no JSON form.
#[doc(hidden)]
pub fn fields_of<T: Serialize>(synapse: &T) -> Result<Dict, ConvertError> {
    match crate::python::to_value(synapse)? {
        Value::Dict(fields) => Ok(fields),
        Value::None => Ok(Dict::new()),
        other => Err(ConvertError::new(format_args!(
            "a synapse serializes as a dict, not as a {}",
            other.type_name()
        ))),
    }
}

/// Makes a synapse of its fields, for `#[derive(Synapse)]`.
///
/// # Errors
/// Names the field that is missing or does not fit.
#[doc(hidden)]
pub fn of_fields<T: DeserializeOwned>(fields: Dict) -> Result<T, ConvertError> {
    // A unit struct has no fields, and serde makes it of nothing else than a unit.
    if std::mem::size_of::<T>() == 0
        && let Ok(unit) = crate::python::from_value(Value::None)
    {
        return Ok(unit);
    }
    crate::python::from_value(Value::Dict(fields))
}
