//! Python literals, as the vectors show them: more kinds of values than JSON or our `Value` has.

use schwann_synapse::{
    hash::{Form, PyStr},
    python::{Dict, Int, Value, parse_python_float},
};

/// A Python value out of a literal.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    /// What is no container.
    Plain(Value),
    List(Vec<Literal>),
    Tuple(Vec<Literal>),
    Dict(Vec<(Literal, Literal)>),
    /// A set, bytes, an object: what a synapse cannot carry. Only recognised.
    Foreign,
}

impl Literal {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { text, at: 0 };
        let literal = parser.literal()?;
        parser.spaces();
        if parser.at < text.len() {
            Err(format!("{text:?} goes on after {}", parser.at))
        } else {
            Ok(literal)
        }
    }

    /// The same as a `Value`, if it is one: dicts need text keys.
    pub(crate) fn value(&self) -> Option<Value> {
        Some(match self {
            Self::Plain(value) => value.clone(),
            Self::List(items) => Value::List(items.iter().map(Self::value).collect::<Option<_>>()?),
            Self::Tuple(items) => {
                Value::Tuple(items.iter().map(Self::value).collect::<Option<_>>()?)
            }
            Self::Dict(entries) => {
                let mut dict = Dict::new();
                for (key, value) in entries {
                    let Self::Plain(Value::Str(key)) = key else { return None };
                    dict.insert(key.as_str(), value.value()?);
                }
                Value::Dict(dict)
            }
            Self::Foreign => return None,
        })
    }

    pub(crate) fn is_foreign(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::List(items) | Self::Tuple(items) => items.iter().any(Self::is_foreign),
            Self::Dict(entries) => {
                entries.iter().any(|(key, value)| key.is_foreign() || value.is_foreign())
            }
            Self::Foreign => true,
        }
    }
}

/// Made of the library's texts for what is no dict; a dict with other keys than text exists only in typed fields.
impl PyStr for Literal {
    fn write_python(&self, out: &mut String, form: Form) {
        match self {
            Self::Plain(value) => value.write_python(out, form),
            Self::List(items) => items.write_python(out, form),
            Self::Tuple(items) => match items.as_slice() {
                [] => out.push_str("()"),
                [one] => (one,).write_python(out, form),
                [one, two] => (one, two).write_python(out, form),
                [one, two, three] => (one, two, three).write_python(out, form),
                [one, two, three, four] => (one, two, three, four).write_python(out, form),
                many => {
                    for (at, item) in many.iter().enumerate() {
                        out.push_str(if at == 0 { "(" } else { ", " });
                        item.write_python(out, form.inside());
                    }
                    out.push(')');
                }
            },
            Self::Dict(entries) => {
                out.push('{');
                for (at, (key, value)) in entries.iter().enumerate() {
                    if at > 0 {
                        out.push_str(", ");
                    }
                    key.write_python(out, form.inside());
                    out.push_str(": ");
                    value.write_python(out, form.inside());
                }
                out.push('}');
            }
            Self::Foreign => panic!("a foreign value has no text here"),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn literal(&mut self) -> Result<Literal, String> {
        self.spaces();
        let rest = &self.text[self.at..];
        match rest.chars().next() {
            Some('[') => {
                self.at += 1;
                Ok(Literal::List(self.items(']')?.0))
            }
            Some('(') => {
                self.at += 1;
                let (mut items, comma) = self.items(')')?;
                Ok(if items.len() == 1 && !comma { items.remove(0) } else { Literal::Tuple(items) })
            }
            Some('{') => {
                self.at += 1;
                self.dict()
            }
            Some('\'' | '"') => self.string().map(|text| Literal::Plain(Value::Str(text))),
            Some('b') if rest[1..].starts_with(['\'', '"']) => {
                self.at += 1;
                self.string().map(|_| Literal::Foreign)
            }
            Some('<') => {
                self.at += rest.find('>').ok_or("an object without end")? + 1;
                Ok(Literal::Foreign)
            }
            Some(_) => self.word(),
            None => Err("nothing".into()),
        }
    }

    fn items(&mut self, end: char) -> Result<(Vec<Literal>, bool), String> {
        let (mut items, mut comma) = (Vec::new(), false);
        loop {
            self.spaces();
            if self.take(end) {
                return Ok((items, comma));
            }
            items.push(self.literal()?);
            self.spaces();
            comma = self.take(',');
            if !comma && !self.text[self.at..].starts_with(end) {
                return Err(format!("expected a comma at {} of {:?}", self.at, self.text));
            }
        }
    }

    fn dict(&mut self) -> Result<Literal, String> {
        let mut entries: Vec<(Literal, Literal)> = Vec::new();
        loop {
            self.spaces();
            if self.take('}') {
                return Ok(Literal::Dict(entries));
            }
            let key = self.literal()?;
            self.spaces();
            if !self.take(':') {
                // A set.
                self.take(',');
                self.items('}')?;
                return Ok(Literal::Foreign);
            }
            let value = self.literal()?;
            match entries.iter_mut().find(|(known, _)| *known == key) {
                Some((_, old)) => *old = value,
                None => entries.push((key, value)),
            }
            self.spaces();
            self.take(',');
        }
    }

    fn word(&mut self) -> Result<Literal, String> {
        let rest = &self.text[self.at..];
        let length = rest.find([',', ')', ']', '}', ':', ' ', '(']).unwrap_or(rest.len());
        let word = &rest[..length];
        self.at += length;
        let value = match word {
            "None" => Value::None,
            "True" => Value::Bool(true),
            "False" => Value::Bool(false),
            "set" | "frozenset" | "datetime.datetime" | "Decimal" | "bytearray" => {
                if self.take('(') {
                    self.items(')')?;
                }
                return Ok(Literal::Foreign);
            }
            _ => match (Int::parse_python(word), parse_python_float(word)) {
                (Some(int), _) => Value::Int(int),
                (None, Some(float)) => Value::Float(float),
                // A complex number or a member of an enum.
                _ if word.ends_with('j') || word.contains('.') => return Ok(Literal::Foreign),
                _ => return Err(format!("{word:?} is no literal")),
            },
        };
        Ok(Literal::Plain(value))
    }

    fn string(&mut self) -> Result<String, String> {
        let quote = self.text[self.at..].chars().next().unwrap();
        self.at += 1;
        let mut out = String::new();
        loop {
            let c = self.next()?;
            if c == quote {
                return Ok(out);
            }
            if c != '\\' {
                out.push(c);
                continue;
            }
            let digits = match self.next()? {
                'n' => {
                    out.push('\n');
                    continue;
                }
                'r' => {
                    out.push('\r');
                    continue;
                }
                't' => {
                    out.push('\t');
                    continue;
                }
                'x' => 2,
                'u' => 4,
                'U' => 8,
                itself @ ('\\' | '\'' | '"') => {
                    out.push(itself);
                    continue;
                }
                other => return Err(format!("unknown escape {other:?}")),
            };
            let code = self.text.get(self.at..self.at + digits).ok_or("a short escape")?;
            self.at += digits;
            let code = u32::from_str_radix(code, 16).map_err(|error| error.to_string())?;
            out.push(char::from_u32(code).ok_or("a lone surrogate")?);
        }
    }

    fn next(&mut self) -> Result<char, String> {
        let c = self.text[self.at..].chars().next().ok_or("a text without end")?;
        self.at += c.len_utf8();
        Ok(c)
    }

    fn spaces(&mut self) {
        while self.take(' ') {}
    }

    fn take(&mut self, c: char) -> bool {
        let there = self.text[self.at..].starts_with(c);
        if there {
            self.at += c.len_utf8();
        }
        there
    }
}
