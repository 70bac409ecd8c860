//! Python environments with the real SDKs, made once and kept under `.cache`.
//!
//! An environment's folder is named for its requirement file, a hash of that
//! file and of the Python that made it, so a changed pin makes a new one and
//! an unchanged one costs a look at the disk.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{
    steps::{program, say},
    top,
};

/// What is installed, from `interop/requirements-NAME.txt`, and the variables
/// by which tests find the interpreter.
const ENVIRONMENTS: &[(&str, &[&str])] = &[
    // 10.5.0 brings version 4.1 of the wallet.
    ("sdk-10.5.0", &["SCHWANN_PEER_SDK_10_5", "SCHWANN_PEER_WALLET_4_1"]),
    ("sdk-9.12.2", &["SCHWANN_PEER_SDK_9_12"]),
    ("sdk-8.5.2", &["SCHWANN_PEER_SDK_8_5"]),
    ("sdk-7.4.0", &["SCHWANN_PEER_SDK_7_4"]),
    ("sdk-11.3.0", &["SCHWANN_PEER_SDK_11"]),
    ("wallet-4.0.1", &["SCHWANN_PEER_WALLET_4_0"]),
    (ETL_SERVERS, &["SCHWANN_PEER_AISTORE"]),
    // No SDK: a validator of OpenAPI documents, and what makes up requests by them.
    ("openapi", &["SCHWANN_PEER_OPENAPI"]),
];

/// The web servers of AIStore's SDK. Our own conformance needs none of them.
pub(crate) const ETL_SERVERS: &str = "aistore-2.0.0";

/// Older Pythons cannot install the newest SDK, newer ones not the oldest.
const PYTHONS: [&str; 4] = ["python3.11", "python3.12", "python3", "python"];
const VERSIONS: [&str; 2] = ["3.11", "3.12"];

/// How often a download is tried. Packages that arrived are not fetched again.
const TRIES: u32 = 3;

/// The interpreters, by the variable that names each.
#[derive(Debug)]
pub(crate) struct Peers(Vec<(&'static str, PathBuf)>);

impl Peers {
    /// What tests find in their environment.
    pub(crate) fn environment(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        self.0.iter().map(|(name, path)| (*name, path.as_path()))
    }

    /// The interpreter that this variable names.
    pub(crate) fn interpreter(&self, variable: &str) -> Option<&Path> {
        self.environment().find(|(name, _)| *name == variable).map(|(_, path)| path)
    }
}

/// Prepares, and prints `export` lines for a shell.
pub(crate) fn print() -> Result<ExitCode> {
    let mut out = io::stdout().lock();
    for (name, path) in prepare()?.environment() {
        use io::Write as _;
        writeln!(out, "export {name}='{}'", path.display())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the environments that are missing, two at a time.
///
/// # Errors
///
/// Fails if there is no suitable Python, or if an environment cannot be made.
pub(crate) fn prepare() -> Result<Peers> {
    prepare_those(|_| true)
}

/// Makes those of the environments that are wanted, by their names.
///
/// # Errors
///
/// As [`prepare`].
pub(crate) fn prepare_those(are_wanted: impl Fn(&str) -> bool) -> Result<Peers> {
    let folder = top().join(".cache/peers");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // Two runs at once must not make the same environment.
    let lock = File::create(folder.join("lock")).context("cannot make the lock file")?;
    lock.lock().context("cannot lock the environments")?;

    let python = find_python()?;
    let mut wanted = Vec::new();
    for (name, variables) in ENVIRONMENTS.iter().filter(|(name, _)| are_wanted(name)) {
        let environment = Environment::of(name, &python, &folder)?;
        wanted.push((environment, *variables));
    }
    let missing: Vec<_> = wanted.iter().map(|(e, _)| e).filter(|e| !e.is_ready()).collect();
    if !missing.is_empty() {
        let names: Vec<_> = missing.iter().map(|e| e.name).collect();
        say(format_args!("making {} (once; a minute or two each)", names.join(", ")));
    }
    for pair in missing.chunks(2) {
        let made: Vec<Result<()>> = thread::scope(|scope| {
            let threads: Vec<_> = pair.iter().map(|e| scope.spawn(|| e.make(&python))).collect();
            threads.into_iter().map(|t| t.join().expect("does not panic")).collect()
        });
        made.into_iter().collect::<Result<Vec<()>>>()?;
    }

    let mut found = vec![("SCHWANN_PYTHON", python.path)];
    for (environment, variables) in wanted {
        found.extend(variables.iter().map(|v| (*v, environment.python())));
    }
    Ok(Peers(found))
}

/// A Python that can install the pinned packages.
struct Python {
    path: PathBuf,
    version: String,
}

fn find_python() -> Result<Python> {
    let mut seen = Vec::new();
    for name in PYTHONS {
        let ask = "import sys; print(sys.executable); print(sys.version.split()[0])";
        // A name that exists may still be a shim without an interpreter.
        let Ok(out) = program(name).args(["-c", ask]).output() else { continue };
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let mut lines = text.lines();
        let (Some(path), Some(version)) = (lines.next(), lines.next()) else { continue };
        let Some((minor, _)) = version.rsplit_once('.') else { continue };
        if !VERSIONS.contains(&minor) {
            seen.push(format!("{name} is {version}"));
            continue;
        }
        let able = program(path).args(["-c", "import venv, ensurepip"]).output();
        if !able.is_ok_and(|out| out.status.success()) {
            bail!(
                "{path} cannot make environments\n\
                 hint: apt-get install python3-venv python3-pip (or the package of your system \
                 that holds `venv` and `ensurepip`); `cargo xtask test --no-peers` does without"
            );
        }
        return Ok(Python { path: path.into(), version: version.to_owned() });
    }
    let found = if seen.is_empty() { "none was found".to_owned() } else { seen.join(", ") };
    bail!(
        "the real SDKs need Python {} ({found})\n\
         hint: apt-get install python3 python3-venv python3-pip; \
         `cargo xtask test --no-peers` does without",
        VERSIONS.join(" or ")
    )
}

/// One environment, made or not.
struct Environment {
    name: &'static str,
    requirements: PathBuf,
    folder: PathBuf,
    log: PathBuf,
}

impl Environment {
    fn of(name: &'static str, python: &Python, folder: &Path) -> Result<Self> {
        let requirements = top().join(format!("interop/requirements-{name}.txt"));
        let pins = fs::read_to_string(&requirements)
            .with_context(|| format!("cannot read {}", requirements.display()))?;
        let key = fnv1a(
            format!(
                "{}
{pins}",
                python.version
            )
            .as_bytes(),
        );
        let log = folder.join(format!("{name}.log"));
        Ok(Self { name, requirements, folder: folder.join(format!("{name}-{key:016x}")), log })
    }

    fn python(&self) -> PathBuf {
        self.folder.join("bin/python")
    }

    /// The mark is made last, so that an interrupted installation is redone.
    fn mark(&self) -> PathBuf {
        self.folder.join("ready")
    }

    fn is_ready(&self) -> bool {
        self.mark().exists() && self.python().exists()
    }

    fn make(&self, python: &Python) -> Result<()> {
        let started = Instant::now();
        if self.folder.exists() {
            fs::remove_dir_all(&self.folder)
                .with_context(|| format!("cannot remove {}", self.folder.display()))?;
        }
        File::create(&self.log).with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut venv = program(&python.path);
        self.logged(venv.args(["-m", "venv"]).arg(&self.folder))
            .with_context(|| format!("cannot make the Python environment of {}", self.name))?;

        let mut tried = 0;
        loop {
            tried += 1;
            // Each file is a full freeze. The resolver would refuse some of the
            // old pins, and with 9.12.2 choose one that cannot be imported.
            let mut pip = program(self.python());
            pip.args(["-m", "pip", "install", "--no-deps", "--disable-pip-version-check"])
                .args(["--no-input", "--progress-bar", "off", "--retries", "5"])
                .arg("--requirement")
                .arg(&self.requirements);
            match self.logged(&mut pip) {
                Ok(()) => break,
                Err(error) if tried < TRIES => {
                    say(format_args!("{}: {error:#}; trying again", self.name));
                }
                Err(error) => {
                    return Err(error.context(format!(
                        "cannot install {} after {TRIES} tries",
                        self.requirements.display()
                    )));
                }
            }
        }
        File::create(self.mark()).context("cannot mark the environment as ready")?;
        say(format_args!("{} is ready after {:.0} s", self.name, started.elapsed().as_secs_f64()));
        Ok(())
    }

    /// Runs a program with its output in the log.
    fn logged(&self, command: &mut Command) -> Result<()> {
        let log = || File::options().append(true).open(&self.log);
        let status = command.stdin(Stdio::null()).stdout(log()?).stderr(log()?).status()?;
        if status.success() {
            return Ok(());
        }
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let last: Vec<_> = text.lines().rev().take(12).collect();
        let last: Vec<_> = last.into_iter().rev().collect();
        Err(anyhow!("{status}; the end of {}:\n{}", self.log.display(), last.join("\n")))
    }
}

/// A hash that stays the same from one Rust to the next.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
