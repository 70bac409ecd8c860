//! Reads vectors, and fails if one was not used: an entry nobody looked at proves nothing.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;

use schwann_synapse::python::{Dict, Value};

/// The folder of the vectors: `SCHWANN_VECTORS`, or the one in this repository.
#[expect(clippy::disallowed_methods, reason = "the one setting of these tests")]
pub(crate) fn folder() -> PathBuf {
    std::env::var_os("SCHWANN_VECTORS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors/synapse")),
        PathBuf::from,
    )
}

/// One file of vectors. Every part of it must be taken before it is dropped.
pub(crate) struct Set {
    root: Entry,
}

impl Set {
    #[track_caller]
    pub(crate) fn read(name: &str) -> Set {
        let path = folder().join(name);
        let bytes = std::fs::read(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        let value =
            Value::parse_json(&bytes).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        Set { root: Entry::new(name.to_owned(), value) }
    }

    /// The entries of one list of the file.
    #[track_caller]
    pub(crate) fn list(&self, name: &str) -> Vec<Entry> {
        let Value::List(entries) = self.root.get(name) else { panic!("{name} is no list") };
        assert!(!entries.is_empty(), "{name} is empty");
        let label = |at: usize| format!("{} {name}[{at}]", self.root.label);
        entries.into_iter().enumerate().map(|(at, entry)| Entry::new(label(at), entry)).collect()
    }

    /// A part that is no list of entries.
    #[track_caller]
    pub(crate) fn part(&self, name: &str) -> Value {
        self.root.get(name)
    }
}

/// One vector. Every field of it must be looked at before it is dropped.
pub(crate) struct Entry {
    pub(crate) label: String,
    fields: Dict,
    unused: RefCell<BTreeSet<String>>,
}

impl Entry {
    #[track_caller]
    fn new(label: String, value: Value) -> Entry {
        let Value::Dict(fields) = value else { panic!("{label} is no object") };
        let unused = RefCell::new(fields.keys().map(str::to_owned).collect());
        Entry { label, fields, unused }
    }

    /// A field that must be there.
    #[track_caller]
    pub(crate) fn get(&self, name: &str) -> Value {
        self.opt(name).unwrap_or_else(|| panic!("{} has no {name}", self.label))
    }

    /// A field that may be missing.
    pub(crate) fn opt(&self, name: &str) -> Option<Value> {
        self.unused.borrow_mut().remove(name);
        self.fields.get(name).cloned()
    }

    #[track_caller]
    pub(crate) fn text(&self, name: &str) -> String {
        match self.get(name) {
            Value::Str(text) => text,
            other => panic!("{}: {name} is {other:?}, no text", self.label),
        }
    }

    /// Text, or nothing for null and for a missing field.
    #[track_caller]
    pub(crate) fn opt_text(&self, name: &str) -> Option<String> {
        match self.opt(name) {
            None | Some(Value::None) => None,
            Some(Value::Str(text)) => Some(text),
            Some(other) => panic!("{}: {name} is {other:?}, no text", self.label),
        }
    }

    #[track_caller]
    pub(crate) fn flag(&self, name: &str) -> bool {
        match self.get(name) {
            Value::Bool(flag) => flag,
            other => panic!("{}: {name} is {other:?}, no flag", self.label),
        }
    }

    /// An integer, written as a number or as decimal text; nothing for null.
    #[track_caller]
    pub(crate) fn integer(&self, name: &str) -> Option<i128> {
        match self.get(name) {
            Value::None => None,
            Value::Int(number) => number.to_i128(),
            Value::Str(text) => {
                Some(text.parse().unwrap_or_else(|_| panic!("{}: {name} is {text:?}", self.label)))
            }
            other => panic!("{}: {name} is {other:?}, no integer", self.label),
        }
    }

    /// A double, written as Python writes it; nothing for null and for `None`.
    #[track_caller]
    pub(crate) fn float(&self, name: &str) -> Option<f64> {
        match self.get(name) {
            Value::None => None,
            Value::Float(number) => Some(number),
            Value::Int(number) => number.to_f64(),
            Value::Str(text) if text == "None" => None,
            Value::Str(text) => {
                Some(schwann_synapse::python::parse_python_float(&text).expect("a float"))
            }
            other => panic!("{}: {name} is {other:?}, no float", self.label),
        }
    }

    #[track_caller]
    pub(crate) fn hex(&self, name: &str) -> Vec<u8> {
        hex::decode(self.text(name)).unwrap_or_else(|why| panic!("{}: {name}: {why}", self.label))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let unused = self.unused.borrow();
        if !std::thread::panicking() {
            assert!(unused.is_empty(), "{}: nobody looked at {unused:?}", self.label);
        }
    }
}
