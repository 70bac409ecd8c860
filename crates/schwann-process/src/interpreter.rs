//! Where a language's interpreter is, and what it needs to be shown.

use std::{io, path::PathBuf};

use crate::{StartError, environment, sandbox::ask};

/// An interpreter of this machine, as a sandbox needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// Its own path, which is the first word of a command.
    pub program: PathBuf,
    /// What it needs besides the system's files, for
    /// [`ProgramSpec::read_only`](crate::ProgramSpec::read_only). Empty for
    /// one that came with the system.
    pub read_only: Vec<PathBuf>,
}

/// Asks a Python where it is. A shim of a version manager answers with the
/// Python behind it, and a virtual environment with its own and its base.
const WHERE: &str = "import sys; print(sys.executable, sys.prefix, sys.base_prefix, sep='\\n')";

impl Interpreter {
    /// Finds an interpreter by its name in `PATH`, or by its path.
    ///
    /// # Errors
    ///
    /// Fails if there is none, or if a Python does not say where it is.
    pub async fn locate(name: &str) -> Result<Self, StartError> {
        let fail = |source| StartError::Program { program: name.to_owned(), source };
        let found = environment::find_program(name).map_err(fail)?;
        let is_python =
            found.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python"));
        let (program, folders) = if is_python {
            let shown = found.display().to_string();
            let (text, code) = ask(&[&shown, "-I", "-c", WHERE]).await?;
            let mut lines = text.lines().map(PathBuf::from);
            match (lines.next(), code) {
                (Some(program), Some(0)) if program.is_absolute() => (program, lines.collect()),
                _ => {
                    let text = format!("it does not say where it is: {text}");
                    return Err(fail(io::Error::other(text)));
                }
            }
        } else {
            let real = found.canonicalize().map_err(fail)?;
            // Beside a folder of programs are its libraries.
            let folder = real.parent().map(|folder| match folder.parent() {
                Some(prefix) if folder.ends_with("bin") => prefix.to_owned(),
                _ => folder.to_owned(),
            });
            (real, Vec::from_iter(folder))
        };
        let mut read_only: Vec<PathBuf> = folders
            .into_iter()
            .filter(|folder| folder.parent().is_some() && !folder.starts_with("/usr"))
            .collect();
        read_only.sort();
        read_only.dedup();
        Ok(Self { program, read_only })
    }
}
