//! Synapse headers, both ways, without I/O.
//!
//! Specification §3 and §9. [`parse_strict`] is for an axon's requests; [`parse_like_reference`] reads what the SDK
//! 7.4 to 10.5 reads, with its substring matching; [`parse_answer`] reads an answer's two ends, as the SDK's dendrite
//! merges them. Names are given as an HTTP library gives them, in lower case.

use std::borrow::Cow;

use crate::{
    python::{Dict, Int, Value, decode_base64, float_repr, parse_python_float},
    terminal::{Attribute, Misfit, TerminalInfo},
};

/// Begins the headers of the axon's attributes.
pub const PREFIX_AXON: &str = "bt_header_axon_";
/// Begins the headers of the dendrite's attributes.
pub const PREFIX_DENDRITE: &str = "bt_header_dendrite_";
/// Begins the headers of placeholders for required fields.
pub const PREFIX_INPUT: &str = "bt_header_input_obj_";
/// The reference recognises placeholders by this, which lacks the last underscore.
const PREFIX_INPUT_SHORT: &str = "bt_header_input_obj";

/// The synapse headers of one message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SynapseHeaders {
    /// The class name. The route decides, not this.
    pub name: Option<String>,
    /// How long the caller waits, in seconds.
    pub timeout: Option<f64>,
    /// The axon's end.
    pub axon: TerminalInfo,
    /// The dendrite's end.
    pub dendrite: TerminalInfo,
    /// A size that nobody checks (specification §3.5).
    pub header_size: Option<Int>,
    /// A size that nobody checks (specification §3.5).
    pub total_size: Option<Int>,
    /// The body hash, as the peer computed it.
    pub computed_body_hash: Option<String>,
    /// Placeholders of required fields: the field's name and the base64 text, in the order they came.
    pub inputs: Vec<(String, String)>,
}

impl SynapseHeaders {
    /// The placeholders decoded: for each field the first text that is base64 of JSON. Texts that are not are left out,
    /// and so are fields that other headers own (SDK 10.5.0, `parse_headers_to_inputs`).
    pub fn input_values(&self) -> Dict {
        let mut values = Dict::new();
        for (field, text) in &self.inputs {
            if OWNED.contains(&field.as_str()) || values.contains_key(field) {
                continue;
            }
            if let Some(value) =
                decode_base64(text.as_bytes()).and_then(|json| Value::parse_json(&json).ok())
            {
                values.insert(field.as_str(), value);
            }
        }
        values
    }

    /// These headers as the parts that [`write()`] takes.
    pub fn parts(&self) -> HeaderParts<'_, impl Iterator<Item = (&str, &str)> + Clone> {
        HeaderParts {
            name: self.name.as_deref().unwrap_or("Synapse"),
            timeout: self.timeout,
            axon: &self.axon,
            dendrite: &self.dendrite,
            inputs: self.inputs.iter().map(|(field, text)| (field.as_str(), text.as_str())),
            header_size: self.header_size.clone(),
            total_size: self.total_size.clone(),
            computed_body_hash: self.computed_body_hash.as_deref(),
        }
    }
}

/// Base fields that have headers of their own.
const OWNED: [&str; 7] = crate::synapse::BASE_FIELDS;

/// Why headers are refused: a malformed request, which is the client's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// A header that takes an integer holds something else.
    #[error("header `{header}` is not an integer")]
    NotAnInteger {
        /// The header's name.
        header: String,
    },
    /// A header that takes a number holds something else.
    #[error("header `{header}` is not a number")]
    NotANumber {
        /// The header's name.
        header: String,
    },
    /// A number that is not finite, where only finite ones make sense.
    #[error("header `{header}` is not a finite number")]
    NotFinite {
        /// The header's name.
        header: String,
    },
    /// An integer beyond 64 bits, where the protocol has no use for one.
    #[error("header `{header}` is out of range")]
    OutOfRange {
        /// The header's name.
        header: String,
    },
    /// The value is not text.
    #[error("header `{header}` is not text")]
    NotText {
        /// The header's name.
        header: String,
    },
    /// A protocol header came twice. Which one counts differs between implementations, so neither does.
    #[error("header `{header}` came more than once")]
    Duplicate {
        /// The header's name.
        header: String,
    },
}

impl HeaderError {
    fn misfit(misfit: Misfit, header: &[u8]) -> Self {
        let header = String::from_utf8_lossy(header).into_owned();
        match misfit {
            Misfit::NotAnInteger => Self::NotAnInteger { header },
            Misfit::NotAFloat => Self::NotANumber { header },
            Misfit::OutOfRange => Self::OutOfRange { header },
        }
    }

    /// The header that is wrong.
    pub fn header(&self) -> &str {
        match self {
            Self::NotAnInteger { header }
            | Self::NotANumber { header }
            | Self::NotFinite { header }
            | Self::OutOfRange { header }
            | Self::NotText { header }
            | Self::Duplicate { header } => header,
        }
    }
}

/// Reads headers as the SDK's `from_headers` does (specification §3.4): a terminal's attribute is recognised anywhere in
/// a name, the last of equal ones wins, and of the plain headers the first.
///
/// # Errors
/// Fails where the reference answers 500: at a number that is none. Status, port and version must fit 64 bits besides.
pub fn parse_like_reference<N, V>(
    headers: impl IntoIterator<Item = (N, V)>,
) -> Result<SynapseHeaders, HeaderError>
where
    N: AsRef<[u8]>,
    V: AsRef<[u8]>,
{
    let mut raw = Raw::default();
    let headers: Vec<(N, V)> = headers.into_iter().collect();
    for (name, value) in &headers {
        raw.take(name.as_ref(), value.as_ref());
    }
    let mut parsed = raw.terminals()?;
    for (name, value) in &headers {
        let (name, value) = (name.as_ref(), value.as_ref());
        // Of equal ones the first counts, so a later one is not even read.
        match Plain::of_name(name) {
            Some(Plain::Name) if parsed.name.is_none() => {
                parsed.name = Some(text_of(value).into_owned())
            }
            Some(Plain::Timeout) if parsed.timeout.is_none() => {
                parsed.timeout = Some(float_in(name, value)?)
            }
            Some(Plain::HeaderSize) if parsed.header_size.is_none() => {
                parsed.header_size = Some(int_in(name, value)?);
            }
            Some(Plain::TotalSize) if parsed.total_size.is_none() => {
                parsed.total_size = Some(int_in(name, value)?)
            }
            Some(Plain::BodyHash) if parsed.computed_body_hash.is_none() => {
                parsed.computed_body_hash = Some(text_of(value).into_owned());
            }
            _ => {}
        }
    }
    Ok(parsed)
}

/// Reads the two ends out of an answer's headers, as [`parse_like_reference`] does, and leaves every other header alone:
/// an axon that was told no timeout answers `timeout: None`, which `from_headers` itself refuses.
///
/// # Errors
/// Fails at a number that is none, where the SDK's dendrite says 422.
pub fn parse_answer<N, V>(
    headers: impl IntoIterator<Item = (N, V)>,
) -> Result<SynapseHeaders, HeaderError>
where
    N: AsRef<[u8]>,
    V: AsRef<[u8]>,
{
    let headers: Vec<(N, V)> = headers.into_iter().collect();
    let mut raw = Raw::default();
    for (name, value) in &headers {
        raw.take(name.as_ref(), value.as_ref());
    }
    raw.terminals()
}

/// Reads a request's headers as an axon should: exact names, each at most once, and nothing of the axon's own status
/// from outside (weaknesses W19 and W32).
///
/// # Errors
/// Names the header and what is wrong with it. The fault is the client's: a 400.
pub fn parse_strict<N, V>(
    headers: impl IntoIterator<Item = (N, V)>,
) -> Result<SynapseHeaders, HeaderError>
where
    N: AsRef<[u8]>,
    V: AsRef<[u8]>,
{
    let mut parsed = SynapseHeaders::default();
    let mut seen = 0_u32;
    for (name, value) in headers {
        let (name, value) = (name.as_ref(), value.as_ref());
        let Some(header) = Known::of_name(name) else { continue };
        let slot = match header {
            Known::Plain(plain) => plain as u32,
            Known::Axon(attribute) => 5 + attribute as u32,
            Known::Dendrite(attribute) => 15 + attribute as u32,
            // Placeholders are never used to build anything, so a second one does no harm.
            Known::Input(field) => {
                let text = strict_text(name, value)?;
                parsed.inputs.push((String::from_utf8_lossy(field).into_owned(), text.to_owned()));
                continue;
            }
        };
        if seen & 1 << slot != 0 {
            return Err(HeaderError::Duplicate {
                header: String::from_utf8_lossy(name).into_owned(),
            });
        }
        seen |= 1 << slot;
        let text = strict_text(name, value)?;
        match header {
            Known::Plain(Plain::Name) => parsed.name = Some(text.to_owned()),
            Known::Plain(Plain::Timeout) => {
                let timeout = float_in(name, value)?;
                if !timeout.is_finite() {
                    return Err(HeaderError::NotFinite {
                        header: String::from_utf8_lossy(name).into_owned(),
                    });
                }
                parsed.timeout = Some(timeout);
            }
            Known::Plain(Plain::HeaderSize) => parsed.header_size = Some(int_in(name, value)?),
            Known::Plain(Plain::TotalSize) => parsed.total_size = Some(int_in(name, value)?),
            Known::Plain(Plain::BodyHash) => parsed.computed_body_hash = Some(text.to_owned()),
            Known::Axon(
                Attribute::StatusCode | Attribute::StatusMessage | Attribute::ProcessTime,
            ) => {}
            Known::Axon(attribute) => {
                parsed
                    .axon
                    .set(attribute, text)
                    .map_err(|misfit| HeaderError::misfit(misfit, name))?;
            }
            Known::Dendrite(attribute) => {
                parsed
                    .dendrite
                    .set(attribute, text)
                    .map_err(|misfit| HeaderError::misfit(misfit, name))?;
            }
            Known::Input(_) => unreachable!("taken above"),
        }
    }
    Ok(parsed)
}

/// What [`write()`] writes, borrowed from wherever it is.
#[derive(Clone, Debug)]
pub struct HeaderParts<'a, I> {
    /// The class name.
    pub name: &'a str,
    /// Seconds; without one the header says `None`, as the reference's does.
    pub timeout: Option<f64>,
    /// The axon's end.
    pub axon: &'a TerminalInfo,
    /// The dendrite's end.
    pub dendrite: &'a TerminalInfo,
    /// Placeholders: field names and base64 texts.
    pub inputs: I,
    /// Left out if not given.
    pub header_size: Option<Int>,
    /// Left out if not given.
    pub total_size: Option<Int>,
    /// Left out if not given.
    pub computed_body_hash: Option<&'a str>,
}

/// Writes the headers of a request or an answer in the reference's order (specification §3.1, §9.1).
///
/// Values are made fit for HTTP with [`sanitise`]; a placeholder whose field has a name that no header can have is left
/// out, as no server could tell it from others.
pub fn write<'a>(
    parts: HeaderParts<'a, impl IntoIterator<Item = (&'a str, &'a str)>>,
    out: &mut impl FnMut(&str, &str),
) {
    let mut name = String::with_capacity(40);
    write_each(parts, &mut |header, text| match header {
        Known::Plain(plain) => out(plain.name(), text),
        Known::Axon(attribute) => {
            name.clear();
            name.push_str(PREFIX_AXON);
            name.push_str(attribute.name());
            out(&name, text);
        }
        Known::Dendrite(attribute) => {
            name.clear();
            name.push_str(PREFIX_DENDRITE);
            name.push_str(attribute.name());
            out(&name, text);
        }
        Known::Input(field) => {
            name.clear();
            name.push_str(PREFIX_INPUT);
            name.extend(field.iter().copied().map(char::from));
            out(&name, text);
        }
    });
}

/// As [`write`], without making names that whoever writes them has already.
pub(crate) fn write_each<'a>(
    parts: HeaderParts<'a, impl IntoIterator<Item = (&'a str, &'a str)>>,
    out: &mut impl FnMut(Known<'_>, &str),
) {
    out(Known::Plain(Plain::Name), &sanitise(parts.name));
    out(Known::Plain(Plain::Timeout), &parts.timeout.map_or_else(|| "None".into(), float_repr));
    parts.axon.texts(|attribute, text| out(Known::Axon(attribute), &sanitise(text)));
    parts.dendrite.texts(|attribute, text| out(Known::Dendrite(attribute), &sanitise(text)));
    for (field, text) in parts.inputs {
        if field.bytes().all(is_token) {
            out(Known::Input(field.as_bytes()), &sanitise(text));
        }
    }
    if let Some(size) = parts.header_size {
        out(Known::Plain(Plain::HeaderSize), &size.to_string());
    }
    if let Some(size) = parts.total_size {
        out(Known::Plain(Plain::TotalSize), &size.to_string());
    }
    if let Some(hash) = parts.computed_body_hash {
        out(Known::Plain(Plain::BodyHash), &sanitise(hash));
    }
}

/// A header value that every HTTP library carries: control characters become spaces, what is not ASCII becomes `?`. The
/// full text belongs into the JSON body (weakness W20).
pub fn sanitise(text: &str) -> Cow<'_, str> {
    // Not `all`, which looks at one byte at a time.
    if !text.bytes().fold(false, |odd, byte| odd | !(b' '..=b'~').contains(&byte)) {
        return Cow::Borrowed(text);
    }
    let safe = |c: char| match c {
        ' '..='~' => c,
        _ if c.is_control() => ' ',
        _ => '?',
    };
    Cow::Owned(text.chars().map(safe).collect())
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum Plain {
    Name,
    Timeout,
    HeaderSize,
    TotalSize,
    BodyHash,
}

impl Plain {
    fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Timeout => "timeout",
            Self::HeaderSize => "header_size",
            Self::TotalSize => "total_size",
            Self::BodyHash => "computed_body_hash",
        }
    }

    fn of_name(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"name" => Self::Name,
            b"timeout" => Self::Timeout,
            b"header_size" => Self::HeaderSize,
            b"total_size" => Self::TotalSize,
            b"computed_body_hash" => Self::BodyHash,
            _ => return None,
        })
    }
}

/// A header of the protocol.
pub(crate) enum Known<'a> {
    Plain(Plain),
    Axon(Attribute),
    Dendrite(Attribute),
    Input(&'a [u8]),
}

impl<'a> Known<'a> {
    fn of_name(name: &'a [u8]) -> Option<Self> {
        if let Some(rest) = name.strip_prefix(b"bt_header_") {
            return if let Some(rest) = rest.strip_prefix(b"axon_") {
                Attribute::of_name(rest).map(Self::Axon)
            } else if let Some(rest) = rest.strip_prefix(b"dendrite_") {
                Attribute::of_name(rest).map(Self::Dendrite)
            } else {
                rest.strip_prefix(b"input_obj_").map(Self::Input)
            };
        }
        Plain::of_name(name).map(Self::Plain)
    }
}

/// What the reference collects before it validates: the last text of each attribute.
#[derive(Default)]
struct Raw<'a> {
    axon: [Option<(&'a [u8], &'a [u8])>; 10],
    dendrite: [Option<(&'a [u8], &'a [u8])>; 10],
    inputs: Vec<(String, String)>,
}

impl<'a> Raw<'a> {
    fn take(&mut self, name: &'a [u8], value: &'a [u8]) {
        // All three begin alike, and few headers of other kinds hold this at all.
        let Some(at) = find(name, b"bt_header_") else { return };
        let name_from = &name[at..];
        if let Some(attribute) = between(name_from, PREFIX_AXON.as_bytes()) {
            if let Some(attribute) = Attribute::of_name(attribute) {
                self.axon[attribute as usize] = Some((name, value));
            }
        } else if let Some(attribute) = between(name_from, PREFIX_DENDRITE.as_bytes()) {
            if let Some(attribute) = Attribute::of_name(attribute) {
                self.dendrite[attribute as usize] = Some((name, value));
            }
        } else if find(name_from, PREFIX_INPUT_SHORT.as_bytes()).is_some()
            && let Some(field) = between(name_from, PREFIX_INPUT.as_bytes())
        {
            self.inputs
                .push((String::from_utf8_lossy(field).into_owned(), text_of(value).into_owned()));
        }
    }

    fn terminals(self) -> Result<SynapseHeaders, HeaderError> {
        let mut parsed = SynapseHeaders { inputs: self.inputs, ..SynapseHeaders::default() };
        for (terminal, texts) in
            [(&mut parsed.axon, &self.axon), (&mut parsed.dendrite, &self.dendrite)]
        {
            for (attribute, header) in Attribute::ALL.into_iter().zip(texts) {
                if let Some((name, value)) = header {
                    terminal
                        .set(attribute, &text_of(value))
                        .map_err(|misfit| HeaderError::misfit(misfit, name))?;
                }
            }
        }
        Ok(parsed)
    }
}

/// Python's `text.split(mark)[1]`: what follows the first mark, up to the next one.
fn between<'a>(text: &'a [u8], mark: &[u8]) -> Option<&'a [u8]> {
    let rest = &text[find(text, mark)? + mark.len()..];
    Some(&rest[..find(rest, mark).unwrap_or(rest.len())])
}

fn find(text: &[u8], mark: &[u8]) -> Option<usize> {
    text.windows(mark.len()).position(|window| window == mark)
}

/// UTF-8, as SDK clients send it, or else Latin-1, as SDK servers send it.
fn text_of(value: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(value) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(value.iter().copied().map(char::from).collect()),
    }
}

fn strict_text<'a>(name: &[u8], value: &'a [u8]) -> Result<&'a str, HeaderError> {
    std::str::from_utf8(value)
        .map_err(|_| HeaderError::NotText { header: String::from_utf8_lossy(name).into_owned() })
}

fn int_in(name: &[u8], value: &[u8]) -> Result<Int, HeaderError> {
    Int::parse_python(&text_of(value))
        .ok_or_else(|| HeaderError::misfit(Misfit::NotAnInteger, name))
}

fn float_in(name: &[u8], value: &[u8]) -> Result<f64, HeaderError> {
    parse_python_float(&text_of(value)).ok_or_else(|| HeaderError::misfit(Misfit::NotAFloat, name))
}
