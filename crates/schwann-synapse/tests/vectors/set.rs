//! Reads the vector files and takes care that none of their entries goes unchecked: an entry nobody looked at proves
//! nothing.
//!
//! A module either declares a [`Kind`], whose check is called for every entry, or reads one file as a [`Set`], which
//! fails when it is dropped before all of it was taken.

use std::{cell::RefCell, collections::BTreeSet, fs, path::PathBuf};

use schwann_synapse::python::{Dict, Value};

/// One kind of file, and how each of its sections is checked.
pub(crate) struct Kind {
    /// The file's name without `.json`; more may follow after `-`.
    pub(crate) name: &'static str,
    /// For each top-level name: called for every entry of a list, or once for what is no list. A file that is a list
    /// has one section without a name.
    pub(crate) sections: &'static [(&'static str, Check)],
}

/// Checks one entry; the second argument is the whole file.
pub(crate) type Check = fn(&Value, &Dict) -> Result<(), String>;

/// For sections that tell rather than test.
pub(crate) fn only_for_people(_: &Value, _: &Dict) -> Result<(), String> {
    Ok(())
}

/// Files beside the vectors that are no vectors.
const NO_VECTORS: &[&str] = &["README.md", "check_spec.py"];

struct File {
    name: String,
    content: Dict,
    kind: Result<&'static Kind, String>,
}

/// What a path from the environment says, or else the place in the workspace.
pub(crate) fn path(variable: &str, default: &str) -> PathBuf {
    given(variable).unwrap_or_else(|| own(default))
}

/// A place in the workspace.
pub(crate) fn own(place: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(place)
}

fn given(variable: &str) -> Option<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "a test has no configuration file")]
    let given = std::env::var(variable);
    given.ok().map(PathBuf::from)
}

/// Whether the folder is not the project's own, and so need not have a file of every kind.
pub(crate) fn elsewhere() -> bool {
    given("SCHWANN_VECTORS").is_some()
}

fn files() -> Vec<File> {
    let folder = path("SCHWANN_VECTORS", "vectors/synapse");
    let entries = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if NO_VECTORS.contains(&name.as_str()) {
            continue;
        }
        let stem =
            name.strip_suffix(".json").unwrap_or_else(|| panic!("{name} is no file of vectors"));
        let bytes = fs::read(&path).unwrap();
        let content =
            match Value::parse_json(&bytes).unwrap_or_else(|error| panic!("{name}: {error}")) {
                Value::Dict(content) => content,
                list => Dict::from_iter([("", list)]),
            };
        let kind = recognise(stem, &content);
        files.push(File { name, content, kind });
    }
    assert!(!files.is_empty(), "no vectors in {}", folder.display());
    files
}

/// By its name, or else by its sections.
fn recognise(stem: &str, content: &Dict) -> Result<&'static Kind, String> {
    let named = |name: &str| {
        stem == name || stem.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'))
    };
    if let Some(name) = crate::SETS.iter().find(|name| named(name)) {
        return Err((*name).to_owned());
    }
    let to_come = crate::TO_COME.iter().filter(|name| named(name)).max_by_key(|name| name.len());
    let kind =
        crate::KINDS.iter().filter(|kind| named(kind.name)).max_by_key(|kind| kind.name.len());
    match (kind, to_come) {
        (Some(kind), _) => return Ok(kind),
        (None, Some(name)) => return Err((*name).to_owned()),
        (None, None) => {}
    }
    let fits = |kind: &&&Kind| {
        content.keys().all(|key| kind.sections.iter().any(|(section, _)| *section == key))
    };
    let mut fitting = crate::KINDS.iter().filter(fits);
    match (fitting.next(), fitting.next()) {
        (Some(kind), None) => Ok(kind),
        _ => Err(String::new()),
    }
}

/// Checks every entry of every file of this kind, and that there is one.
#[track_caller]
pub(crate) fn check(kind: &'static Kind) {
    let (mut checked, mut failures) = (0, Vec::new());
    for file in files() {
        if !file.kind.is_ok_and(|found| found.name == kind.name) {
            continue;
        }
        for (section, entries) in file.content.iter() {
            let Some((_, check)) = kind.sections.iter().find(|(name, _)| *name == section) else {
                failures.push(format!("{}: nothing checks section `{section}`", file.name));
                continue;
            };
            let entries = match entries {
                Value::List(entries) => entries.as_slice(),
                whole => std::slice::from_ref(whole),
            };
            let mut used = 0;
            for (at, entry) in entries.iter().enumerate() {
                used += 1;
                if let Err(why) = check(entry, &file.content) {
                    let label = ["id", "label", "field", "name"]
                        .iter()
                        .find_map(|key| entry.as_dict()?.get(key));
                    let label = label.map(Value::py_str).unwrap_or_default();
                    failures.push(format!("{}: {section}[{at}] {label}: {why}", file.name));
                }
            }
            assert_eq!(
                used,
                entries.len(),
                "{}: {section}: not every entry was checked",
                file.name
            );
            checked += used;
        }
    }
    assert!(checked > 0 || elsewhere(), "no file of kind {}", kind.name);
    assert!(
        failures.is_empty(),
        "{} of {checked} failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

pub(crate) fn check_that_all_is_covered() {
    for file in files() {
        match file.kind {
            Ok(kind) => {
                for section in file.content.keys() {
                    let known = kind.sections.iter().any(|(name, _)| *name == section);
                    assert!(known, "{}: nothing checks section `{section}`", file.name);
                }
            }
            Err(to_come) => {
                assert!(!to_come.is_empty(), "{}: of no kind that any test knows", file.name)
            }
        }
    }
}

/// An entry's text under `key`.
pub(crate) fn text<'a>(entry: &'a Value, key: &str) -> Result<&'a str, String> {
    get(entry, key)?.as_str().ok_or_else(|| format!("`{key}` is no text"))
}

/// What an entry holds under `key`.
pub(crate) fn get<'a>(entry: &'a Value, key: &str) -> Result<&'a Value, String> {
    maybe(entry, key).ok_or_else(|| format!("there is no `{key}`"))
}

/// What an entry holds under `key`, if anything.
pub(crate) fn maybe<'a>(entry: &'a Value, key: &str) -> Option<&'a Value> {
    entry.as_dict()?.get(key)
}

/// Fails with both sides shown unless they are equal.
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    got: T,
    expected: T,
) -> Result<(), String> {
    if got == expected {
        Ok(())
    } else {
        Err(format!("{what}: got {got:?}, expected {expected:?}"))
    }
}

/// Fails with `why` unless it holds.
pub(crate) fn holds(condition: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(why()) }
}

/// One file of vectors. Every part of it must be taken before it is dropped.
pub(crate) struct Set {
    root: Entry,
}

impl Set {
    /// Every file of this kind: `name.json`, and `name-` with more after it.
    #[track_caller]
    pub(crate) fn all(name: &'static str) -> Vec<Set> {
        let sets: Vec<Set> = files()
            .into_iter()
            .filter(|file| file.kind.as_ref().is_err_and(|kind| kind == name))
            .map(|file| Set { root: Entry::new(file.name, Value::Dict(file.content)) })
            .collect();
        assert!(!sets.is_empty() || elsewhere(), "no file of {name}");
        sets
    }

    /// The entries of one list of the file; none if the file has no such list.
    #[track_caller]
    pub(crate) fn list(&self, name: &str) -> Vec<Entry> {
        let entries = match self.root.opt(name) {
            None => return Vec::new(),
            Some(Value::List(entries)) => entries,
            Some(_) => panic!("{name} is no list"),
        };
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
