//! Our texts and hashes beside those of a running CPython: `python3`, or what `SCHWANN_PYTHON` names.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, BufWriter, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc,
    thread,
};

use schwann_synapse::{
    hash::{BodyHash, BodyHasher},
    python::{Int, UnicodeVersion, Value, float_repr, parse_python_float},
};
use sha3::{Digest as _, Sha3_256};

mod numbers;

use numbers::Numbers;

/// Answers each line of input: the hashes of a JSON value's texts, or what `int()` and `float()` make of a text.
const SCRIPT: &str = r#"
import hashlib, json, sys, unicodedata

def sha3(text):
    return hashlib.sha3_256(text.encode("utf-8")).hexdigest()

def attempt(function, text):
    try:
        return repr(function(text))
    except (ValueError, OverflowError):
        return "refused"

print(unicodedata.unidata_version, sys.version.split()[0], flush=True)
for line in sys.stdin.buffer:
    value = json.loads(line[1:])
    if line[:1] == b"n":
        print(attempt(int, value), attempt(float, value))
        continue
    try:
        compact = sha3(json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")))
    except ValueError:
        compact = "refused"
    print(sha3(sha3(str(value))), sha3(json.dumps(value)), compact)
"#;

struct Python {
    child: Child,
    input: BufWriter<ChildStdin>,
    output: BufReader<ChildStdout>,
    unicode: UnicodeVersion,
}

impl Python {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test has no configuration, and this program is its subject"
    )]
    fn start() -> Self {
        let program = std::env::var("SCHWANN_PYTHON").unwrap_or_else(|_| "python3".into());
        let mut child = Command::new(&program)
            .args(["-I", "-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("this test needs CPython, and `{program}` does not start: {error}")
            });
        let input = BufWriter::new(child.stdin.take().unwrap());
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        output.read_line(&mut said).unwrap();
        let version = said.split_whitespace().next().unwrap_or_default();
        let unicode = UnicodeVersion::of_unidata(version).unwrap_or_else(|| {
            panic!("`{program}` has Unicode {version:?}, of which we have no table: use CPython 3.9 to 3.13")
        });
        Self { child, input, output, unicode }
    }

    /// Sends every question and compares every answer, in step but without waiting for each.
    fn ask(self, questions: impl Iterator<Item = (String, String)> + Send) -> usize {
        let Self { mut child, mut input, mut output, .. } = self;
        let (sender, expected) = mpsc::sync_channel::<(String, String)>(1000);
        let answered = thread::scope(|scope| {
            scope.spawn(move || {
                for (question, answer) in questions {
                    writeln!(input, "{question}").unwrap();
                    if sender.send((question, answer)).is_err() {
                        return;
                    }
                }
            });
            let mut line = String::new();
            let mut answered = 0;
            for (question, answer) in expected {
                line.clear();
                output.read_line(&mut line).unwrap();
                assert_eq!(line.trim_end(), answer, "of {question}");
                answered += 1;
            }
            answered
        });
        assert!(child.wait().unwrap().success());
        answered
    }
}

#[test]
fn a_hundred_thousand_values_hash_as_in_python() {
    let python = Python::start();
    let unicode = python.unicode;
    let mut numbers = Numbers(10_005_000);
    let questions = (0..100_000).map(move |_| {
        let mut json = String::new();
        write_json(&mut numbers, 0, &mut json);
        let value =
            Value::parse_json(json.as_bytes()).unwrap_or_else(|error| panic!("{error}: {json}"));
        let mut hasher = BodyHasher::with_unicode(unicode);
        hasher.value(&value);
        let compact = value.to_json().map_or_else(|_| "refused".into(), |json| sha3(&json));
        let answer = format!("{} {} {compact}", hasher.finish(), sha3(&value.to_python_json()));
        // In turn as it came, as the dendrite writes it and as the axon does.
        let sent = match numbers.below(3) {
            0 => value.to_python_json(),
            1 => value.to_json().unwrap_or(json),
            _ => json,
        };
        (format!("v{sent}"), answer)
    });
    assert_eq!(python.ask(questions), 100_000);
}

#[test]
fn numbers_are_read_from_text_as_in_python() {
    let mut numbers = Numbers(7_002_000);
    let questions = (0..50_000).map(move |_| {
        let mut text = String::new();
        for _ in 0..numbers.below(9) {
            text.push_str(numbers.pick(&NUMBER_PARTS));
        }
        let int = Int::parse_python(&text).map_or_else(|| "refused".into(), |int| int.to_string());
        let float = parse_python_float(&text).map_or_else(|| "refused".into(), float_repr);
        (format!("n{}", Value::from(text).to_python_json()), format!("{int} {float}"))
    });
    assert_eq!(Python::start().ask(questions), 50_000);
}

const NUMBER_PARTS: [&str; 40] = [
    "0",
    "1",
    "5",
    "9",
    "12",
    "00",
    "37",
    "4503599627370497",
    "999999999999999999999",
    "_",
    "_",
    "+",
    "-",
    ".",
    ".",
    "e",
    "E",
    "e+",
    "e-3",
    "e400",
    " ",
    "\t",
    "\n",
    "\u{b}",
    "\u{1c}",
    "\u{85}",
    "\u{a0}",
    "\u{3000}",
    "\u{2028}",
    "\u{200b}",
    "٣",
    "۷",
    "９",
    "𝟘",
    "inf",
    "Infinity",
    "nan",
    "0x10",
    "None",
    "²",
];

fn sha3(text: &str) -> String {
    hex::encode(Sha3_256::digest(text.as_bytes()))
}

/// The body hash as a check that the test itself means something.
#[test]
fn the_hash_that_python_is_asked_for_is_the_body_hash() {
    let field = sha3("{'a': [1, 2.5, None, True, 'x']}");
    let value = Value::parse_json(br#"{"a": [1, 2.5, null, true, "x"]}"#).unwrap();
    assert_eq!(BodyHash::of(|hasher| hasher.value(&value)).to_string(), sha3(&field));
}

/// JSON as somebody might write it: any spaces, any escapes, any spelling of numbers, names twice.
fn write_json(numbers: &mut Numbers, depth: u32, out: &mut String) {
    spaces(numbers, out);
    match numbers.below(if depth < 5 { 14 } else { 10 }) {
        0 => out.push_str(numbers.pick(&["null", "true", "false", "NaN", "Infinity", "-Infinity"])),
        1 => out.push_str(numbers.pick(&[
            "-0",
            "0",
            "-0.0",
            "0e5",
            "1E5",
            "1e-7",
            "0.10",
            "1e22",
            "9007199254740993",
        ])),
        2 | 3 => write_int(numbers, out),
        4..=6 => write_float(numbers, out),
        7..=9 => write_text(numbers, out),
        10 | 11 => {
            out.push('[');
            for at in 0..numbers.below(6) {
                if at > 0 {
                    out.push(',');
                }
                write_json(numbers, depth + 1, out);
            }
            spaces(numbers, out);
            out.push(']');
        }
        _ => {
            out.push('{');
            // Now and then enough names that a dict looks them up by an index.
            let many = if numbers.below(50) == 0 { 60 } else { 6 };
            for at in 0..numbers.below(many) {
                if at > 0 {
                    out.push(',');
                }
                spaces(numbers, out);
                if numbers.below(2) == 0 {
                    write!(out, "\"{}\"", numbers.below(many)).unwrap();
                } else {
                    write_text(numbers, out);
                }
                spaces(numbers, out);
                out.push(':');
                write_json(numbers, depth + if many > 6 { 5 } else { 1 }, out);
            }
            spaces(numbers, out);
            out.push('}');
        }
    }
    spaces(numbers, out);
}

fn spaces(numbers: &mut Numbers, out: &mut String) {
    if numbers.below(5) == 0 {
        // Not a line feed: a line is a question.
        out.push_str(numbers.pick(&[" ", "  ", "\t", "\r"]));
    }
}

fn write_int(numbers: &mut Numbers, out: &mut String) {
    if numbers.below(2) == 0 {
        out.push('-');
    }
    let digits = if numbers.below(20) == 0 { numbers.below(600) } else { numbers.below(24) };
    out.push(char::from(b'1' + numbers.below(9) as u8));
    for _ in 0..digits {
        out.push(char::from(b'0' + numbers.below(10) as u8));
    }
}

fn write_float(numbers: &mut Numbers, out: &mut String) {
    match numbers.below(4) {
        // Any double at all.
        0 | 1 => {
            let float = f64::from_bits(numbers.next());
            if float.is_finite() {
                write!(out, "{float:e}").unwrap();
            } else {
                out.push_str("1e400");
            }
        }
        // Near where the layout changes.
        2 => {
            let bound = 10_u64.pow(numbers.below(18) as u32 + 1);
            let digits = numbers.below(bound);
            write!(out, "{digits}e{}", numbers.below(45) as i64 - 25).unwrap();
        }
        // Decimals as people write them.
        _ => write!(out, "{}.{}", numbers.below(1_000_000), numbers.below(1_000_000)).unwrap(),
    }
}

fn write_text(numbers: &mut Numbers, out: &mut String) {
    out.push('"');
    let range = numbers.below(8);
    for _ in 0..numbers.below(14) {
        let code = match range {
            0 | 1 => numbers.below(0x5f) + 0x20,
            2 => u64::from(numbers.pick(&[b'\'', b'"', b'\\', b'\n', b'a', b' ', 0x7f])),
            3 => numbers.below(0x180),
            4 => numbers.below(0x3000),
            5 => numbers.below(0x1_0000),
            6 => numbers.below(0x2_0000) + 0x1_0000,
            _ => numbers.below(0x11_0000),
        };
        let Some(c) = char::from_u32(code as u32) else { continue };
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            _ if c < ' ' || numbers.below(6) == 0 => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    if numbers.below(2) == 0 {
                        write!(out, "\\u{unit:04X}").unwrap();
                    } else {
                        write!(out, "\\u{unit:04x}").unwrap();
                    }
                }
            }
            _ => out.push(c),
        }
    }
    out.push('"');
}
