//! What is said of a mistake: where it is, which key it is in, and what would be right.

use std::path::Path;

use super::keys::{EXAMPLES, SECRET};
use crate::{
    problem::{Problem, one_line},
    routes,
};

/// Takes a secret out of a message about it.
pub(super) fn hide(key: &str, text: &str, message: &str) -> String {
    match SECRET.contains(&key) && !text.is_empty() {
        true => message.replace(text, "(not shown)"),
        false => message.to_owned(),
    }
}

/// A mistake, with a good value as a hint if the message has none.
pub(super) fn mistake(text: &str, key: &str, message: &str) -> Problem {
    let problem = Problem::usage(text);
    let leaf = key.rsplit('.').next().unwrap_or(key);
    let mut all = EXAMPLES.iter().chain(routes::EXAMPLES);
    match all.find(|(known, _)| *known == key || *known == leaf) {
        Some((_, example)) if !message.contains("write ") => {
            problem.hint(format!("write it like `{leaf} = {example}`"))
        }
        _ => problem,
    }
}

/// What is wrong in a file: where, which key, and what would be right.
pub(super) fn in_file(path: &Path, text: &str, error: &toml::de::Error) -> Problem {
    let span = error.span().unwrap_or(0..0);
    let key = key_at(text, span.start);
    let (file, line) = (path.display(), line_of(text, span.start));
    let message = one_line(error.message());
    if key == "synapse" && message.ends_with("invalid type: map, expected a sequence") {
        return Problem::usage(format!("{file}:{line}: `[synapse]` is one synapse, not a list"))
            .hint("write [[synapse]], with two brackets");
    }
    let Some(rest) = message.strip_prefix("unknown field `") else {
        return match key.is_empty() {
            true => Problem::usage(format!("{file}:{line}: {message}")),
            false => mistake(&format!("{file}:{line}: {key}: {message}"), &key, &message),
        };
    };
    let unknown = rest.split('`').next().unwrap_or_default();
    // serde lists what there is: "expected one of `a`, `b`".
    let known: Vec<String> = rest.split('`').skip(2).step_by(2).map(str::to_owned).collect();
    let problem = Problem::usage(format!("{file}:{line}: `{unknown}` is not a setting here"));
    match nearest(unknown, known.iter().cloned()) {
        Some(near) => problem.hint(format!("did you mean `{near}`?")),
        None => problem.hint(format!("there are: {}", known.join(", "))),
    }
}

pub(super) fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// The key that is set on the line, with its section.
fn key_at(text: &str, at: usize) -> String {
    let mut section = "";
    let mut begin = 0;
    for line in text.split_inclusive('\n') {
        let end = begin + line.len();
        let trimmed = line.trim();
        let here = at < end || end == text.len();
        if trimmed.starts_with('[') && !trimmed.contains('=') {
            section = trimmed.split('#').next().unwrap_or("").trim().trim_matches(['[', ']']);
        }
        if here {
            let key = match trimmed.split_once('=') {
                Some((key, _)) => key.trim(),
                None => "",
            };
            let both = !section.is_empty() && !key.is_empty();
            return format!("{section}{}{key}", if both { "." } else { "" });
        }
        begin = end;
    }
    String::new()
}

/// The known word that `word` was probably meant to be.
pub(super) fn nearest(word: &str, known: impl Iterator<Item = String>) -> Option<String> {
    let scored = known.map(|known| (distance(word, &known), known));
    let (distance, known) = scored.min()?;
    (distance <= 1 + word.len() / 3).then_some(known)
}

/// How many letters differ (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = before + usize::from(from != *to);
            before = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(before + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn near(word: &str, expected: Option<&str>) {
        let known = ["listen", "max_body", "timeout"].map(str::to_owned);
        assert_eq!(nearest(word, known.into_iter()).as_deref(), expected, "{word}");
    }

    #[test]
    fn a_slip_is_recognised_and_nonsense_is_not() {
        near("listn", Some("listen"));
        near("maxbody", Some("max_body"));
        near("time_out", Some("timeout"));
        near("colour", None);
    }

    #[test]
    fn a_key_is_found_by_its_place() {
        let text = "log = 1\n[axon] # here\nlisten = \"x\"\n\n[[synapse]]\nname = 3\n";
        for (needle, key) in [("1", "log"), ("\"x\"", "axon.listen"), ("3", "synapse.name")] {
            assert_eq!(key_at(text, text.find(needle).unwrap()), key);
        }
    }
}
