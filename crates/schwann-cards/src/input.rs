//! What a request says, read and checked: all faults at once, in the form that FastAPI gives them.
//!
//! A type says how it is read from named values ([`Read`]). [`Input`] reads path, query and JSON body so, and answers 422 with every
//! fault of the three, 413 for a body that is too large, and 415 for one that is not JSON. What a type does not ask for is ignored.

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts as _, RawPathParams, Request},
};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::{Map, Value, json};
use utoipa::IntoParams;
use uuid::Uuid;

use crate::problem::{Fault, Problem, Step};

/// Path, query and body of a request, each as its type says. `()` is not looked at.
#[derive(Debug)]
pub(crate) struct Input<P = (), Q = (), B = ()> {
    pub(crate) path: P,
    pub(crate) query: Q,
    pub(crate) body: B,
}

/// A body as a form sends it, as the log-in has it.
#[derive(Debug)]
pub(crate) struct Form<B>(pub(crate) B);

/// A type that can be read from named values.
pub(crate) trait Read: Sized + Send {
    /// Reads it, or leaves at least one fault behind.
    fn read(fields: &mut Fields<'_>) -> Option<Self>;
}

/// A type that can be a request's body.
pub(crate) trait BodyShape: Sized + Send {
    /// Whether there is one at all.
    const PRESENT: bool = true;
    /// Whether no bytes at all are as good as `{}`.
    const OPTIONAL: bool = false;

    fn read_body(fields: &mut Fields<'_>) -> Option<Self>;
}

impl Read for () {
    fn read(_: &mut Fields<'_>) -> Option<Self> {
        Some(())
    }
}

impl BodyShape for () {
    const PRESENT: bool = false;

    fn read_body(_: &mut Fields<'_>) -> Option<Self> {
        Some(())
    }
}

/// A body that must be there.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

/// A body that may be left out, which means that nothing in it is set.
#[derive(Debug)]
pub(crate) struct OptionalJson<T>(pub(crate) T);

impl<T: Read> BodyShape for Json<T> {
    fn read_body(fields: &mut Fields<'_>) -> Option<Self> {
        T::read(fields).map(Self)
    }
}

impl<T: Read> BodyShape for OptionalJson<T> {
    const OPTIONAL: bool = true;

    fn read_body(fields: &mut Fields<'_>) -> Option<Self> {
        T::read(fields).map(Self)
    }
}

/// Named values, and what is wrong with them so far.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    values: &'a Map<String, Value>,
    place: Vec<Step>,
    faults: &'a mut Vec<Fault>,
}

/// What is wrong with one value.
#[derive(Debug)]
pub(crate) struct Complaint {
    kind: &'static str,
    msg: String,
    ctx: Option<Value>,
}

impl Complaint {
    pub(crate) fn new(kind: &'static str, msg: impl Into<String>) -> Self {
        Self { kind, msg: msg.into(), ctx: None }
    }

    /// Of a value that breaks a rule of ours.
    pub(crate) fn value(msg: impl Into<String>) -> Self {
        let msg: String = msg.into();
        Self { kind: "value_error", msg: format!("Value error, {msg}"), ctx: None }
    }

    fn with(mut self, ctx: Value) -> Self {
        self.ctx = Some(ctx);
        self
    }
}

impl<'a> Fields<'a> {
    fn new(part: &str, values: &'a Map<String, Value>, faults: &'a mut Vec<Fault>) -> Self {
        Self { values, place: vec![Step::Name(part.to_owned())], faults }
    }

    /// A value that must be there. `None` after a fault.
    pub(crate) fn required<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&Value) -> Result<T, Complaint>,
    ) -> Option<T> {
        match self.values.get(name) {
            Some(value) => self.read(name, value, read),
            None => {
                let missing = Complaint::new("missing", "Field required");
                let input = Value::Object(self.values.clone());
                self.fault(Some(name), &input, missing);
                None
            }
        }
    }

    /// A value that may be left out or null. The outer `None` is a fault.
    pub(crate) fn optional<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&Value) -> Result<T, Complaint>,
    ) -> Option<Option<T>> {
        match self.values.get(name) {
            None | Some(Value::Null) => Some(None),
            Some(value) => self.read(name, value, read).map(Some),
        }
    }

    /// A list whose every item is read. `None` after a fault.
    pub(crate) fn list<T>(
        &mut self,
        name: &str,
        max: usize,
        read: impl Fn(&Value) -> Result<T, Complaint>,
    ) -> Option<Option<Vec<T>>> {
        let items = match self.values.get(name) {
            None | Some(Value::Null) => return Some(None),
            Some(Value::Array(items)) => items,
            Some(other) => {
                let complaint = Complaint::new("list_type", "Input should be a valid list");
                self.fault(Some(name), other, complaint);
                return None;
            }
        };
        if items.len() > max {
            let msg = format!("List should have at most {max} items, not {}", items.len());
            let complaint = Complaint::new("too_long", msg).with(json!({"max_length": max}));
            self.fault(Some(name), &Value::Null, complaint);
            return None;
        }
        let mut read_items = Some(Vec::new());
        for (place, item) in items.iter().enumerate() {
            match read(item) {
                Ok(item) => {
                    if let Some(items) = &mut read_items {
                        items.push(item);
                    }
                }
                Err(complaint) => {
                    self.place.push(Step::Name(name.to_owned()));
                    self.place.push(Step::Place(place));
                    self.fault(None, item, complaint);
                    self.place.truncate(self.place.len() - 2);
                    read_items = None;
                }
            }
        }
        read_items.map(Some)
    }

    /// A list that must be there.
    pub(crate) fn required_list<T>(
        &mut self,
        name: &str,
        max: usize,
        read: impl Fn(&Value) -> Result<T, Complaint>,
    ) -> Option<Vec<T>> {
        match self.values.get(name) {
            None | Some(Value::Null) => {
                self.required(name, |_| {
                    Err::<T, _>(Complaint::new("list_type", "Input should be a valid list"))
                });
                None
            }
            Some(_) => self.list(name, max, read).flatten(),
        }
    }

    /// An object with named values of its own. The outer `None` is a fault.
    pub(crate) fn object<T: Read>(&mut self, name: &str) -> Option<Option<T>> {
        match self.values.get(name) {
            None | Some(Value::Null) => Some(None),
            Some(Value::Object(values)) => {
                let mut place = self.place.clone();
                place.push(Step::Name(name.to_owned()));
                let mut inner = Fields { values, place, faults: self.faults };
                T::read(&mut inner).map(Some)
            }
            Some(other) => {
                let msg = "Input should be a valid dictionary or object to extract fields from";
                self.fault(Some(name), other, Complaint::new("model_attributes_type", msg));
                None
            }
        }
    }

    /// A fault of the value with this name that shows only beside others.
    pub(crate) fn refuse(&mut self, name: &str, complaint: Complaint) {
        let input = self.values.get(name).cloned().unwrap_or(Value::Null);
        self.fault(Some(name), &input, complaint);
    }

    fn read<T>(
        &mut self,
        name: &str,
        value: &Value,
        read: impl FnOnce(&Value) -> Result<T, Complaint>,
    ) -> Option<T> {
        match read(value) {
            Ok(value) => Some(value),
            Err(complaint) => {
                self.fault(Some(name), value, complaint);
                None
            }
        }
    }

    fn fault(&mut self, name: Option<&str>, input: &Value, complaint: Complaint) {
        let mut loc = self.place.clone();
        loc.extend(name.map(|name| Step::Name(name.to_owned())));
        // A million faults help nobody.
        if self.faults.len() < 100 {
            let Complaint { kind, msg, ctx } = complaint;
            self.faults.push(Fault { kind, loc, msg, input: shown(input), ctx });
        }
    }
}

/// What was sent, unless that is long.
fn shown(input: &Value) -> Value {
    let text = input.to_string();
    if text.len() <= 500 {
        return input.clone();
    }
    let cut: String = text.chars().take(200).collect();
    Value::String(format!("{cut}…"))
}

/// Text of so many characters.
pub(crate) fn text(min: usize, max: usize) -> impl Fn(&Value) -> Result<String, Complaint> {
    move |value| {
        let Value::String(text) = value else {
            return Err(Complaint::new("string_type", "Input should be a valid string"));
        };
        if text.contains('\0') {
            return Err(Complaint::value("text must not contain the character NUL"));
        }
        // Bytes first: they need no counting, and there are no fewer of them than characters.
        let count = if text.len() <= max && min <= 1 { text.len() } else { text.chars().count() };
        if count < min {
            let msg = format!("String should have at least {min} character{}", plural(min));
            return Err(Complaint::new("string_too_short", msg).with(json!({"min_length": min})));
        }
        if count > max {
            let msg = format!("String should have at most {max} character{}", plural(max));
            return Err(Complaint::new("string_too_long", msg).with(json!({"max_length": max})));
        }
        Ok(text.clone())
    }
}

/// Text of at most so many bytes.
pub(crate) fn text_of_bytes(max: u64) -> impl Fn(&Value) -> Result<String, Complaint> {
    move |value| {
        let all = text(0, usize::MAX)(value)?;
        if all.len() as u64 > max {
            let msg = format!("String should have at most {max} bytes in UTF-8");
            return Err(Complaint::new("string_too_long", msg).with(json!({"max_bytes": max})));
        }
        Ok(all)
    }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// A whole number between these; also as text, which is what paths and queries have.
pub(crate) fn integer(min: i64, max: i64) -> impl Fn(&Value) -> Result<i64, Complaint> {
    move |value| {
        let number = match value {
            Value::Number(number) => {
                let whole = number.as_f64().filter(|number| number.fract() == 0.0);
                number
                    .as_i64()
                    .or(whole.filter(|n| n.abs() < 9e15).map(|n| n as i64))
                    .ok_or_else(|| Complaint::new("int_type", "Input should be a valid integer"))?
            }
            Value::String(text) => text.trim().parse().map_err(|_| {
                let msg = "Input should be a valid integer, unable to parse string as an integer";
                Complaint::new("int_parsing", msg)
            })?,
            _ => return Err(Complaint::new("int_type", "Input should be a valid integer")),
        };
        if number < min {
            let msg = format!("Input should be greater than or equal to {min}");
            return Err(Complaint::new("greater_than_equal", msg).with(json!({"ge": min})));
        }
        if number > max {
            let msg = format!("Input should be less than or equal to {max}");
            return Err(Complaint::new("less_than_equal", msg).with(json!({"le": max})));
        }
        Ok(number)
    }
}

/// Yes or no; also as the words that pydantic takes.
pub(crate) fn flag(value: &Value) -> Result<bool, Complaint> {
    match value {
        Value::Bool(flag) => Ok(*flag),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "t" | "yes" | "y" | "on" | "1" => Ok(true),
            "false" | "f" | "no" | "n" | "off" | "0" => Ok(false),
            _ => {
                let msg = "Input should be a valid boolean, unable to interpret input";
                Err(Complaint::new("bool_parsing", msg))
            }
        },
        _ => Err(Complaint::new("bool_type", "Input should be a valid boolean")),
    }
}

/// A UUID.
pub(crate) fn id(value: &Value) -> Result<Uuid, Complaint> {
    let Value::String(text) = value else {
        return Err(Complaint::new(
            "uuid_type",
            "UUID input should be a string, bytes or UUID object",
        ));
    };
    Uuid::parse_str(text).map_err(|error| {
        Complaint::new("uuid_parsing", format!("Input should be a valid UUID, {error}"))
    })
}

/// One of these words.
pub(crate) fn choice<T: Copy>(
    choices: &'static [(&'static str, T)],
) -> impl Fn(&Value) -> Result<T, Complaint> {
    move |value| {
        let found = value.as_str().and_then(|text| choices.iter().find(|(word, _)| *word == text));
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let words: Vec<_> = choices.iter().map(|(word, _)| format!("'{word}'")).collect();
            let expected = words.join(" or ");
            Complaint::new("enum", format!("Input should be {expected}"))
                .with(json!({"expected": expected}))
        })
    }
}

/// An object of at most so many bytes, whatever is in it.
pub(crate) fn any_object(max: usize) -> impl Fn(&Value) -> Result<Map<String, Value>, Complaint> {
    move |value| {
        let Value::Object(object) = value else {
            return Err(Complaint::new("dict_type", "Input should be a valid dictionary"));
        };
        if value.to_string().len() > max {
            return Err(Complaint::value(format!("an object here has at most {max} bytes")));
        }
        if has_nul(value) {
            return Err(Complaint::value("text must not contain the character NUL"));
        }
        Ok(object.clone())
    }
}

/// Whether there is a NUL in any text within, which PostgreSQL cannot store.
fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(object) => {
            object.iter().any(|(key, value)| key.contains('\0') || has_nul(value))
        }
        _ => false,
    }
}

/// An email address, in lower case.
pub(crate) fn email(value: &Value) -> Result<String, Complaint> {
    let text = text(3, 255)(value)?;
    let wrong = |why: &str| {
        let msg = format!("value is not a valid email address: {why}");
        Err(Complaint::new("value_error", msg).with(json!({"reason": why})))
    };
    let Some((name, domain)) = text.rsplit_once('@') else {
        return wrong("An email address must have an @-sign.");
    };
    let plain = |letter: char| {
        letter.is_control() || letter.is_whitespace() || "<>()[]\\,;:\"@".contains(letter)
    };
    if name.is_empty() || name.len() > 64 || name.contains(plain) {
        return wrong("The part before the @-sign is not one.");
    }
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|letter| letter.is_alphanumeric() || letter == '-')
    };
    if !domain.contains('.') && domain != "localhost" || !domain.split('.').all(label) {
        return wrong("The part after the @-sign is not a domain.");
    }
    Ok(text.to_lowercase())
}

/// How much of a list is wanted: `skip` and `limit`.
#[derive(Clone, Copy, Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Page {
    /// How many to leave out at the beginning.
    #[param(required = false, minimum = 0, default = 0)]
    pub(crate) skip: i64,
    /// How many to show at most.
    #[param(required = false, minimum = 1, maximum = 1000, default = 100)]
    pub(crate) limit: i64,
}

impl Read for Page {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let skip = fields.optional("skip", integer(0, i64::MAX));
        let limit = fields.optional("limit", integer(1, 1000));
        Some(Self { skip: skip?.unwrap_or(0), limit: limit?.unwrap_or(100) })
    }
}

impl<S, P, Q, B> FromRequest<S> for Input<P, Q, B>
where
    S: Send + Sync,
    P: Read,
    Q: Read,
    B: BodyShape,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        let mut faults = Vec::new();

        let mut values = Map::new();
        let params = RawPathParams::from_request_parts(&mut parts, state).await;
        for (name, value) in &params.map_err(|_| Problem::not_found("Page"))? {
            values.insert(name.to_owned(), Value::from(value));
        }
        let path = P::read(&mut Fields::new("path", &values, &mut faults));

        let query = parts.uri.query().unwrap_or_default();
        let values = pairs(query.as_bytes());
        let query = Q::read(&mut Fields::new("query", &values, &mut faults));

        let body = match B::PRESENT {
            true => read_json::<B>(&parts.headers, body, &mut faults).await?,
            false => B::read_body(&mut Fields::new("body", &Map::new(), &mut faults)),
        };
        match (path, query, body) {
            (Some(path), Some(query), Some(body)) if faults.is_empty() => {
                Ok(Self { path, query, body })
            }
            _ => Err(Problem::faults(faults)),
        }
    }
}

impl<S: Send + Sync, B: Read> FromRequest<S> for Form<B> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        if media_type(&parts.headers) != "application/x-www-form-urlencoded" {
            return Err(unsupported("application/x-www-form-urlencoded"));
        }
        let bytes = collect(body).await?;
        let mut faults = Vec::new();
        let values = pairs(&bytes);
        match B::read(&mut Fields::new("body", &values, &mut faults)) {
            Some(body) if faults.is_empty() => Ok(Self(body)),
            _ => Err(Problem::faults(faults)),
        }
    }
}

async fn read_json<B: BodyShape>(
    headers: &HeaderMap,
    body: Body,
    faults: &mut Vec<Fault>,
) -> Result<Option<B>, Problem> {
    let bytes = collect(body).await?;
    if bytes.is_empty() && B::OPTIONAL {
        return Ok(B::read_body(&mut Fields::new("body", &Map::new(), faults)));
    }
    let whole = |kind, msg: String, input, ctx| Fault {
        kind,
        loc: vec![Step::Name("body".to_owned())],
        msg,
        input,
        ctx,
    };
    if bytes.is_empty() {
        faults.push(whole("missing", "Field required".to_owned(), Value::Null, None));
        return Ok(None);
    }
    let media_type = media_type(headers);
    if media_type != "application/json"
        && !(media_type.starts_with("application/") && media_type.ends_with("+json"))
    {
        return Err(unsupported("application/json"));
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(values)) => Ok(B::read_body(&mut Fields::new("body", &values, faults))),
        Ok(other) => {
            let msg = "Input should be a valid dictionary or object to extract fields from";
            faults.push(whole("model_attributes_type", msg.to_owned(), shown(&other), None));
            Ok(None)
        }
        Err(error) => {
            let ctx = Some(json!({"error": error.to_string()}));
            faults.push(whole("json_invalid", "JSON decode error".to_owned(), json!({}), ctx));
            Ok(None)
        }
    }
}

/// The whole body. The server's limit holds for it.
pub(crate) async fn collect(body: Body) -> Result<Bytes, Problem> {
    let mut body = body;
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| body_problem(error.into_inner()))?;
        if let Ok(data) = frame.into_data() {
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.freeze())
}

/// What became of a body that could not be read.
pub(crate) fn body_problem(error: schwann::BoxError) -> Problem {
    match error.downcast::<schwann::Error>() {
        Ok(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            "The request body is too large",
        ),
        Ok(error) if error.status() == StatusCode::REQUEST_TIMEOUT => Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "body_timeout",
            "The request body stopped arriving",
        ),
        _ => Problem::bad_request("body_broken", "The request body broke off"),
    }
}

pub(crate) fn unsupported(wanted: &'static str) -> Problem {
    Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        format!("The body must be {wanted}; say so in Content-Type"),
    )
}

/// The media type without its parameters, in lower case.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = value.unwrap_or_default().split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

/// `a=1&b=2`. Of several values with one name the last counts.
fn pairs(text: &[u8]) -> Map<String, Value> {
    form_urlencoded::parse(text)
        .map(|(name, value)| (name.into_owned(), Value::from(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn is_email(text: &str, expected: bool) {
        assert_eq!(email(&Value::from(text)).is_ok(), expected, "{text}");
    }

    #[test]
    fn emails_are_told_from_what_is_none() {
        for good in ["a@b.c", "Ann.Lee+x@example.org", "用户@例子.公司", "root@localhost"] {
            is_email(good, true);
        }
        for bad in [
            "", "a", "@", "a@", "@b.c", "a@b", "a b@c.d", "a@b..c", "a@-b.c", "a@b.c\n", "<a@b.c>",
            "a@b@c.d",
        ] {
            is_email(bad, false);
        }
    }

    #[test]
    fn every_fault_is_reported_where_it_is() {
        struct Two;
        impl Read for Two {
            fn read(fields: &mut Fields<'_>) -> Option<Self> {
                let a = fields.required("a", text(1, 3));
                let b = fields.required("b", integer(0, 9));
                let c = fields.list("c", 5, flag);
                a.and(b).and(c).map(|_| Self)
            }
        }
        let values = json!({"b": "x", "c": [true, 7]});
        let mut faults = Vec::new();
        let read = Two::read(&mut Fields::new("body", values.as_object().unwrap(), &mut faults));
        assert!(read.is_none());
        let found: Vec<_> = faults.iter().map(|f| (f.kind, json!(f.loc))).collect();
        assert_eq!(
            found,
            [
                ("missing", json!(["body", "a"])),
                ("int_parsing", json!(["body", "b"])),
                ("bool_type", json!(["body", "c", 1])),
            ]
        );
    }
}
