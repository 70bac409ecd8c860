//! The languages in which cards can be written: which there are on this
//! machine, and how a card's code is run.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use schwann_process::{Limits, Program, ProgramSpec, Sandbox, Span};
use serde::Serialize;
use tracing::info;
use utoipa::ToSchema;

use crate::settings::LanguageSettings;

/// A language and how it is run.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Language {
    /// What cards say.
    pub(crate) id: String,
    /// For people.
    pub(crate) name: String,
    /// As the interpreter says it.
    pub(crate) version: Option<String>,
    /// How a file with code is named at its end, without the dot.
    pub(crate) extension: String,
    /// Whether cards in it can be run.
    pub(crate) available: bool,
    /// Why not.
    pub(crate) reason: Option<String>,
    /// What is run; `{file}` stands for the file.
    #[serde(skip)]
    pub(crate) command: Vec<String>,
    #[serde(skip)]
    pub(crate) environment: BTreeMap<String, String>,
    /// What it needs to read beyond the system's folders.
    #[serde(skip)]
    pub(crate) read_only: Vec<PathBuf>,
}

/// All languages, by id.
#[derive(Clone, Debug)]
pub(crate) struct Languages(BTreeMap<String, Language>);

/// A language that is looked for.
struct Known {
    id: &'static str,
    name: &'static str,
    extension: &'static str,
    program: &'static str,
    /// What comes between program and file.
    arguments: &'static [&'static str],
    /// Prints the version, the interpreter's path and its folders, a line each; less if it does not know.
    probe: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
}

const KNOWN: &[Known] = &[
    Known {
        id: "python",
        name: "Python",
        extension: "py",
        program: "python3",
        // Otherwise output into a pipe waits until there are 8 KiB of it.
        arguments: &["-u"],
        probe: &[
            "-c",
            // A virtual environment has a folder of its own besides that of the Python it is for.
            "import sys; print(sys.version.split()[0], sys.executable, sys.prefix, sys.base_prefix, sep='\\n')",
        ],
        environment: &[
            ("PYTHONUNBUFFERED", "1"),
            ("PYTHONIOENCODING", "utf-8"),
            ("PYTHONDONTWRITEBYTECODE", "1"),
        ],
    },
    Known {
        id: "javascript",
        name: "JavaScript",
        extension: "js",
        program: "node",
        arguments: &[],
        probe: &[
            "-e",
            "console.log(process.versions.node); console.log(process.execPath); console.log(require('path').dirname(require('path').dirname(process.execPath)))",
        ],
        environment: &[],
    },
    Known {
        id: "sh",
        name: "Shell",
        extension: "sh",
        program: "sh",
        arguments: &[],
        probe: &["-c", "echo"],
        environment: &[],
    },
    Known {
        id: "bash",
        name: "Bash",
        extension: "bash",
        program: "bash",
        arguments: &[],
        probe: &["-c", "echo \"$BASH_VERSION\""],
        environment: &[],
    },
];

/// Folders that every sandbox shows.
const SYSTEM: &[&str] = &["/usr", "/bin", "/lib", "/lib64", "/sbin"];

impl Languages {
    /// Looks for the known languages and for those of the settings. Programs
    /// of the operator's are run in `folder` to learn their versions.
    pub(crate) async fn find(settings: &BTreeMap<String, LanguageSettings>, folder: &Path) -> Self {
        let mut found = BTreeMap::new();
        for known in KNOWN.iter().filter(|known| !settings.contains_key(known.id)) {
            found.insert(known.id.to_owned(), known.find(known.program, folder).await);
        }
        for (id, set) in settings {
            found.insert(id.clone(), configured(id, set, folder).await);
        }
        for language in found.values() {
            let Language { id, version, available, reason, .. } = language;
            info!(id, version, available, reason, "language");
        }
        Self(found)
    }

    /// The language with this id.
    pub(crate) fn get(&self, id: &str) -> Option<&Language> {
        self.0.get(id)
    }

    /// All of them, by id.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Language> {
        self.0.values()
    }
}

impl Known {
    /// Asks an interpreter about itself.
    async fn find(&self, program: &str, folder: &Path) -> Language {
        let mut command = vec![program.to_owned()];
        command.extend(self.probe.iter().map(|&word| word.to_owned()));
        let said = output(command, folder).await;
        let mut language = Language {
            id: self.id.to_owned(),
            name: self.name.to_owned(),
            version: None,
            extension: self.extension.to_owned(),
            available: said.is_ok(),
            reason: said.as_ref().err().cloned(),
            command: Vec::new(),
            environment: self.environment.iter().map(|&(k, v)| (k.into(), v.into())).collect(),
            read_only: Vec::new(),
        };
        let said = said.unwrap_or_default();
        let mut lines = said.lines().filter(|line| !line.is_empty());
        language.version = lines.next().map(str::to_owned);
        // By its path, because the `PATH` of a sandbox has the system's folders only.
        let program = lines.next().unwrap_or(program).to_owned();
        for own in lines.map(PathBuf::from) {
            let is_shown = SYSTEM.iter().any(|folder| own.starts_with(folder));
            if !is_shown && !language.read_only.contains(&own) {
                language.read_only.push(own);
            }
        }
        language.command.push(program);
        language.command.extend(self.arguments.iter().map(|&word| word.to_owned()));
        language.command.push("{file}".to_owned());
        language
    }
}

async fn configured(id: &str, set: &LanguageSettings, folder: &Path) -> Language {
    let probe = if set.version.is_empty() { None } else { Some(set.version.clone()) };
    let said = match probe {
        Some(command) => output(command, folder).await.map(Some),
        None => Ok(None),
    };
    Language {
        id: id.to_owned(),
        name: id.to_owned(),
        version: said.as_ref().ok().and_then(Option::as_deref).and_then(|said| {
            said.lines().find(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned())
        }),
        extension: set.extension.clone(),
        available: said.is_ok() && !set.command.is_empty(),
        reason: said
            .err()
            .or_else(|| set.command.is_empty().then(|| format!("languages.{id}.command is empty"))),
        command: set.command.clone(),
        environment: set.environment.clone(),
        read_only: set.read_only.clone(),
    }
}

/// What a program prints within a few seconds, or why there is nothing.
async fn output(command: Vec<String>, folder: &Path) -> Result<String, String> {
    let program = command.first().cloned().unwrap_or_default();
    let mut spec = ProgramSpec::new(command, folder, Sandbox::None);
    spec.limits = Limits { wall: Span::from_secs(10), ..Limits::default() };
    spec.cgroups = false;
    let mut session = Program::start(spec).await.map_err(|error| error.to_string())?;
    session.input().close().await;
    let mut text = Vec::new();
    while let Some(piece) = session.output().await {
        text.extend_from_slice(&piece.bytes);
    }
    let ending = session.end().await;
    match ending.code {
        Some(0) => Ok(String::from_utf8_lossy(&text).into_owned()),
        _ => Err(format!("`{program}` does not run: {}", String::from_utf8_lossy(&text).trim())),
    }
}

impl Language {
    /// The command for a file with this name.
    pub(crate) fn command_for(&self, file: &str, arguments: &[String]) -> Vec<String> {
        let words = self.command.iter().map(|word| word.replace("{file}", file));
        words.chain(arguments.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use schwann_process::Sandboxes;

    use super::*;

    /// What a program prints in a sandbox.
    async fn printed(language: &Language, code: &str, sandbox: Sandbox) -> String {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("main.py"), code).unwrap();
        let command = language.command_for("main.py", &[]);
        let mut spec = ProgramSpec::new(command, folder.path(), sandbox);
        spec.read_only.clone_from(&language.read_only);
        spec.environment.clone_from(&language.environment);
        let mut session = Program::start(spec).await.unwrap();
        let mut text = Vec::new();
        while let Some(piece) = session.output().await {
            text.extend_from_slice(&piece.bytes);
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    #[expect(clippy::print_stdout, reason = "what is not tested is said")]
    async fn a_python_of_a_virtual_environment_runs_with_what_is_installed_there() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("environment");
        let make = ["python3", "-m", "venv", "--without-pip", place.to_str().unwrap()];
        output(make.map(str::to_owned).to_vec(), folder.path()).await.unwrap();
        let packages = "import sysconfig; print(sysconfig.get_path('purelib'))";
        let program = place.join("bin/python3").to_str().unwrap().to_owned();
        let ask = [&program, "-c", packages].map(str::to_owned).to_vec();
        let packages = output(ask, folder.path()).await.unwrap();
        std::fs::write(Path::new(packages.trim()).join("installed.py"), "WORD = 'found'").unwrap();

        let python = KNOWN[0].find(&program, folder.path()).await;
        assert!(python.available, "{:?}", python.reason);
        assert!(python.read_only.contains(&place), "{:?}", python.read_only);
        let code = "import installed, sys; print(installed.WORD, sys.executable)";
        let expected = format!("found {program}\n");
        assert_eq!(printed(&python, code, Sandbox::None).await, expected);
        match Sandboxes::probe().await.resolve(Sandbox::Bubblewrap) {
            Ok(sandbox) => assert_eq!(printed(&python, code, sandbox).await, expected),
            Err(missing) => println!("NOT TESTED IN A SANDBOX, WHICH THERE IS NONE OF: {missing}"),
        }
    }
}
