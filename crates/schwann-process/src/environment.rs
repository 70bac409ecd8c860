//! What a program sees of this process's environment, and where it is found.
//!
//! Inheriting an environment is part of starting a program, so it is read
//! here, and only here; configuration is read elsewhere.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// What most programs need, and what tells nothing about this process.
const ALWAYS: [&str; 7] = ["PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR"];

/// Where programs are looked for when there is no `PATH`.
const USUAL_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The environment of a program: the usual names and those of `inherit`, then
/// `set` over them.
pub(crate) fn clean(
    inherit: &[String],
    set: &BTreeMap<String, String>,
) -> BTreeMap<OsString, OsString> {
    // A pipe is not a terminal, and Python would hold back 8 KiB of it.
    let mut clean = BTreeMap::from([("PYTHONUNBUFFERED".into(), "1".into())]);
    for name in ALWAYS.iter().copied().chain(inherit.iter().map(String::as_str)) {
        if let Some(value) = env::var_os(name) {
            clean.insert(name.into(), value);
        }
    }
    clean.entry("PATH".into()).or_insert_with(|| USUAL_PATH.into());
    clean.extend(set.iter().map(|(name, value)| (name.into(), value.into())));
    clean
}

/// What of this process's environment has these names, and is text.
pub(crate) fn named(names: &[String]) -> Vec<(String, String)> {
    names
        .iter()
        .filter_map(|name| Some((name.clone(), env::var_os(name)?.into_string().ok()?)))
        .collect()
}

/// The absolute path of `program`: as it stands (from `folder`) if it has a
/// slash, else from the first folder of `path` that has it.
pub(crate) fn find(program: &str, folder: &Path, path: &OsString) -> io::Result<PathBuf> {
    if program.contains('/') {
        let found = folder.join(program);
        return executable(&found).map(|()| found);
    }
    // As execvp does: a file that may not be executed is passed over, and is
    // the reason given if there is nothing better.
    let mut reason = io::Error::new(io::ErrorKind::NotFound, "not found in PATH");
    for candidate in env::split_paths(path).map(|entry| folder.join(entry).join(program)) {
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => reason = error,
        }
    }
    Err(reason)
}

/// The absolute path of a program of the system's.
pub(crate) fn find_program(name: &str) -> io::Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_else(|| USUAL_PATH.into());
    find(name, Path::new("/"), &path)
}

fn executable(path: &Path) -> io::Result<()> {
    let found = path.metadata()?;
    if !found.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
    }
    if found.permissions().mode() & 0o111 == 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "not executable"));
    }
    Ok(())
}
