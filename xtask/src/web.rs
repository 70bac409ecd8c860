//! The page of the cards: its packages, its build and its tests.
//!
//! What is up to date is not done again: the packages for one lock file, the
//! build for one state of the sources. Marks in `.cache/web` say which.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    peers::fnv1a,
    steps::{Steps, program, say},
    top,
};

/// Vite's own floor.
const NODE: (u32, u32) = (20, 19);
/// What is made here, or is not part of the build.
const NOT_SOURCES: [&str; 5] = ["node_modules", "dist", "e2e", "test-results", "schema.d.ts"];

/// Builds the page if its sources or packages changed.
///
/// # Errors
///
/// Fails if Node is missing or too old, or if npm or the build fails.
pub(crate) fn build() -> Result<()> {
    let node = check_node()?;
    let folder = folder();
    let marks = top().join(".cache/web");
    fs::create_dir_all(&marks).with_context(|| format!("cannot make {}", marks.display()))?;
    let lock = fs::File::create(marks.join("lock")).context("cannot make the lock file")?;
    lock.lock().context("cannot lock the page's build")?;

    let pins =
        fs::read(folder.join("package-lock.json")).context("cannot read package-lock.json")?;
    let packages = format!("{:016x} {node}", fnv1a(&pins));
    let installed = marks.join("installed");
    if !is_marked(&installed, &packages) || !folder.join("node_modules").exists() {
        say(format_args!("installing the page's packages (once)"));
        let mut install = npm(&["ci", "--no-audit", "--no-fund"]);
        done(
            install.env("PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD", "1"),
            "the packages cannot be installed",
        )?;
        fs::write(&installed, &packages)?;
    }
    let sources = format!("{:016x} {packages}", hash_of_sources(&folder)?);
    let built = marks.join("built");
    if !is_marked(&built, &sources) || !folder.join("dist/index.html").exists() {
        say(format_args!("building the page"));
        done(&mut npm(&["run", "--silent", "build"]), "the page does not build")?;
        fs::write(&built, &sources)?;
    }
    Ok(())
}

/// Checks and tests of the page: types, style, units, and a browser before the real program.
pub(crate) fn tests(steps: &mut Steps, mut binary: Command) {
    steps.run("page: types and style", &mut npm(&["run", "--silent", "check"]));
    steps.run("page: units", &mut npm(&["run", "--silent", "test"]));
    if steps.run("page: the program", &mut binary) {
        steps.run("page: in a browser", &mut npm(&["run", "--silent", "e2e"]));
    }
}

fn folder() -> PathBuf {
    top().join("crates/schwann-cards/web")
}

fn npm(args: &[&str]) -> Command {
    let mut command = program("npm");
    command.current_dir(folder()).args(args);
    command
}

fn done(command: &mut Command, failure: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{failure}; the messages are above");
    }
    Ok(())
}

fn is_marked(mark: &Path, text: &str) -> bool {
    fs::read_to_string(mark).is_ok_and(|found| found == text)
}

/// The version of Node, if it is new enough.
fn check_node() -> Result<String> {
    let hint = format!(
        "hint: the page needs Node {}.{} or later with npm: the packages nodejs and npm of Debian 13 or \
         Ubuntu 25.10, or https://nodejs.org",
        NODE.0, NODE.1
    );
    let Ok(out) = program("node").arg("--version").output() else {
        bail!("node is not installed\n{hint}");
    };
    let version = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    if !is_new_enough(&version) {
        bail!("node is {version}\n{hint}");
    }
    if program("npm").arg("--version").output().is_err() {
        bail!("npm is not installed\n{hint}");
    }
    Ok(version)
}

fn is_new_enough(version: &str) -> bool {
    let mut parts = version.trim_start_matches('v').split('.').map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else { return false };
    (major, minor) >= NODE
}

/// A hash of the names and contents of all that the build reads.
fn hash_of_sources(folder: &Path) -> Result<u64> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in
            fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?
        {
            let path = entry?.path();
            if NOT_SOURCES.iter().any(|name| path.file_name().is_some_and(|file| file == *name)) {
                continue;
            }
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    let mut all = Vec::new();
    for file in files {
        all.extend_from_slice(file.to_string_lossy().as_bytes());
        all.extend(fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?);
    }
    Ok(fnv1a(&all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_must_be_new_enough() {
        for (version, good) in [
            ("v20.19.0", true),
            ("v22.1.0", true),
            ("v20.18.9", false),
            ("v18.20.4", false),
            ("", false),
        ] {
            assert_eq!(is_new_enough(version), good, "{version}");
        }
    }

    #[test]
    fn what_is_made_here_does_not_change_the_hash_and_sources_do() {
        let folder = std::env::temp_dir().join(format!("schwann-web-{}", std::process::id()));
        fs::create_dir_all(folder.join("src")).unwrap();
        fs::create_dir_all(folder.join("dist")).unwrap();
        fs::write(folder.join("src/a.ts"), "a").unwrap();
        let before = hash_of_sources(&folder).unwrap();
        fs::write(folder.join("dist/index.html"), "x").unwrap();
        assert_eq!(hash_of_sources(&folder).unwrap(), before);
        fs::write(folder.join("src/a.ts"), "b").unwrap();
        assert_ne!(hash_of_sources(&folder).unwrap(), before);
        fs::remove_dir_all(folder).unwrap();
    }
}
