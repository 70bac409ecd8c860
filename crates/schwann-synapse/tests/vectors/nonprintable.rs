//! `python_nonprintable.json`: which code points `repr()` escapes.

use schwann_synapse::python::{Dict, UnicodeVersion, Value};

use crate::set::{self, Kind, get, holds, same, text};

pub(crate) const KIND: Kind = Kind {
    name: "python_nonprintable",
    sections: &[("tables", table), ("base", base), ("delta_vs_base", delta)],
};

#[test]
fn the_same_code_points_are_escaped() {
    set::check(&KIND);
}

/// Every code point, surrogates included, as Python has them.
const CODES: std::ops::Range<u32> = 0..0x11_0000;

fn version(entry: &Value) -> Result<UnicodeVersion, String> {
    let unicode = text(entry, "unicode")?;
    let version =
        UnicodeVersion::of_unidata(unicode).ok_or_else(|| format!("unknown Unicode {unicode}"))?;
    let python = text(entry, "python")?;
    let minor = python
        .split('.')
        .nth(1)
        .and_then(|minor| minor.parse().ok())
        .ok_or("no version of Python")?;
    same("the version of that Python", UnicodeVersion::of_python3(minor), Some(version))?;
    Ok(version)
}

fn is_printable(version: UnicodeVersion, code: u32) -> bool {
    char::from_u32(code).is_some_and(|c| version.is_printable(c))
}

fn table(entry: &Value, _: &Dict) -> Result<(), String> {
    let version = version(entry)?;
    let count = CODES.filter(|&code| !is_printable(version, code)).count();
    same("how many are not printable", &Value::from(count), get(entry, "nonprintable_count")?)
}

/// The code points in a list of inclusive ranges, as a table.
fn ranges(entry: &Value, key: &str) -> Result<Vec<bool>, String> {
    let mut table = vec![false; CODES.len()];
    for range in get(entry, key)?.as_list().ok_or("no list")? {
        let bound = |at: usize| match range.as_list().and_then(|range| range.get(at)) {
            Some(Value::Int(code)) => code.to_i64().and_then(|code| usize::try_from(code).ok()),
            _ => None,
        };
        let (from, to) = (bound(0).ok_or("no range")?, bound(1).ok_or("no range")?);
        table.get_mut(from..=to).ok_or("beyond Unicode")?.fill(true);
    }
    Ok(table)
}

fn base(entry: &Value, _: &Dict) -> Result<(), String> {
    let (version, hidden) = (version(entry)?, ranges(entry, "nonprintable_ranges_inclusive")?);
    let wrong: Vec<u32> =
        CODES.filter(|&code| is_printable(version, code) == hidden[code as usize]).collect();
    holds(wrong.is_empty(), || {
        format!("{} differ: {:x?}", wrong.len(), &wrong[..wrong.len().min(20)])
    })
}

fn delta(entry: &Value, file: &Dict) -> Result<(), String> {
    let version = version(entry)?;
    let hidden = ranges(file.get("base").ok_or("no base")?, "nonprintable_ranges_inclusive")?;
    let shown_here = ranges(entry, "printable_here_not_in_base")?;
    let hidden_here = ranges(entry, "nonprintable_here_printable_in_base")?;
    let wrong = CODES.filter(|&code| {
        let at = code as usize;
        let expected = (!hidden[at] || shown_here[at]) && !hidden_here[at];
        is_printable(version, code) != expected
    });
    let wrong: Vec<u32> = wrong.collect();
    holds(wrong.is_empty(), || {
        format!("{} differ: {:x?}", wrong.len(), &wrong[..wrong.len().min(20)])
    })
}
