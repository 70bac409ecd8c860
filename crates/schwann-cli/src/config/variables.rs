//! The environment: the only place that reads it for settings.

use std::{
    env,
    path::{Path, PathBuf},
};

use super::{keys::EXAMPLES, mistakes::nearest};
use crate::problem::Problem;

/// The variables of ours that are set; `None` as the value of one that is not UTF-8.
pub(super) fn ours() -> impl Iterator<Item = (String, Option<String>)> {
    env::vars_os().filter_map(variable)
}

/// The text of a variable, if it is set and UTF-8.
pub(super) fn text_of(name: &str) -> Option<String> {
    env::var_os(name)?.into_string().ok()
}

/// A variable that AIStore sets in the pods of an ETL, or that its users do.
pub(crate) fn contract_variable(name: &str) -> Option<String> {
    text_of(name)
}

/// The setting that a variable is for. Not every `SCHWANN_` is one, but one
/// that is nearly one is a mistake.
pub(super) fn key_of(name: &str) -> Result<Option<&'static str>, Problem> {
    let known = || EXAMPLES.iter().map(|(key, _)| (*key, variable_of(key)));
    if let Some((key, _)) = known().find(|(_, variable)| variable == name) {
        return Ok(Some(key));
    }
    let sections =
        ["SCHWANN_KEY_", "SCHWANN_AXON_", "SCHWANN_ETL_", "SCHWANN_CARDS_", "SCHWANN_CALL_"];
    let rest = name.trim_start_matches("SCHWANN_").to_ascii_lowercase();
    let leaf = |key: &str| key.rsplit('.').next() == Some(rest.as_str());
    let of_section = sections.iter().any(|section| name.starts_with(section));
    if !of_section && !known().any(|(key, _)| leaf(key)) {
        return Ok(None);
    }
    let problem = Problem::usage(format!("{name}: there is no such setting"));
    Err(match nearest(name, known().map(|(_, variable)| variable)) {
        Some(variable) => problem.hint(format!("did you mean {variable}?")),
        None => problem.hint("`schwann config show` lists all settings"),
    })
}

/// A variable of ours; `None` as its value if that is not UTF-8.
fn variable(
    (name, text): (std::ffi::OsString, std::ffi::OsString),
) -> Option<(String, Option<String>)> {
    let name = name.into_string().ok()?;
    name.starts_with("SCHWANN_").then(|| (name, text.into_string().ok()))
}

fn variable_of(key: &str) -> String {
    format!("SCHWANN_{}", key.replace('.', "_").to_ascii_uppercase())
}

/// `~` is for shells, but everybody writes it.
pub(super) fn from_home(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}
