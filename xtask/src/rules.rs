//! What no source file may do, and what every crate must inherit.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{arrows, top};

/// Calls that belong in one place, and the files that are this place. Clippy
/// refuses the same calls; this test also sees code that is not compiled.
const ROOMS: &[(&str, &[&str])] = &[
    ("Command::new", &["crates/schwann-process/", "crates/schwann-testkit/", "xtask/"]),
    (
        "env::var",
        &[
            "crates/schwann-cli/src/config/variables.rs",
            // What a program may inherit.
            "crates/schwann-process/src/environment.rs",
            "crates/schwann-testkit/src/peer.rs",
            // Programs of their own.
            "crates/schwann-etl/examples/conformance.rs",
            "crates/schwann-etl/examples/resize.rs",
            "crates/schwann-etl/examples/shards.rs",
        ],
    ),
    ("env::set_var", &[]),
    ("unbounded_channel", &[]),
    ("process::exit", &[]),
    ("thread::sleep", &[]),
];

/// Promises in place of work. In halves, so as not to be found here.
const STUBS: &[&str] = &[
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("FIX", "ME"),
    concat!("XX", "X:"),
    concat!("#[ig", "nore"),
];

/// Every file with this ending below a folder, by its path from the top.
fn sources(folder: &str, ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![top().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry"))
        {
            let path = entry.path();
            if path.is_dir() {
                // Others' packages are not ours to judge.
                if !path.ends_with("node_modules") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| e == ending) {
                found.push((from_top(&path), fs::read_to_string(&path).expect("text")));
            }
        }
    }
    assert!(!found.is_empty(), "nothing below {folder}");
    found.sort();
    found
}

fn from_top(path: &Path) -> String {
    path.strip_prefix(top()).expect("below the top").display().to_string()
}

fn rust() -> Vec<(String, String)> {
    let mut all = sources("crates", "rs");
    all.extend(sources("xtask/src", "rs"));
    all
}

#[track_caller]
fn nothing(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

#[test]
fn every_crate_inherits_the_lints_and_the_edition() {
    let workspace: toml::Table = fs::read_to_string(top().join("Cargo.toml"))
        .expect("a workspace")
        .parse()
        .expect("it is TOML");
    assert_eq!(workspace["workspace"]["lints"]["rust"]["unsafe_code"].as_str(), Some("deny"));
    for package in arrows::packages() {
        let path = PathBuf::from(package["manifest_path"].as_str().expect("a path"));
        let text = fs::read_to_string(&path).expect("a manifest");
        let manifest: toml::Table = text.parse().expect("it is TOML");
        let inherited = manifest.get("lints").and_then(|lints| lints.get("workspace"));
        assert_eq!(inherited.and_then(toml::Value::as_bool), Some(true), "{}", path.display());
        for key in ["edition", "license", "rust-version", "version"] {
            let inherited = manifest["package"].get(key).and_then(|value| value.get("workspace"));
            let inherited = inherited.and_then(toml::Value::as_bool);
            assert_eq!(inherited, Some(true), "{key} in {}", path.display());
        }
    }
}

#[test]
fn calls_stay_in_their_rooms() {
    let mut found = Vec::new();
    for (file, text) in rust() {
        let is_test = file.contains("/tests/") || file.contains("/benches/");
        if is_test || file == "xtask/src/rules.rs" {
            continue;
        }
        // Tests stand at the end of a file.
        let lines = text.lines().take_while(|line| *line != "#[cfg(test)]");
        for (number, line) in lines.enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for (call, rooms) in ROOMS {
                if code.contains(call) && !rooms.iter().any(|room| file.starts_with(room)) {
                    found.push(format!("{file}:{}: {}", number + 1, line.trim()));
                }
            }
        }
    }
    nothing("outside the files in ROOMS", &found);
}

#[test]
fn unsafe_code_says_why_and_stays_in_one_crate() {
    let mut found = Vec::new();
    for (file, text) in rust() {
        let lines: Vec<_> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if !code.contains(concat!("unsafe", " {")) {
                continue;
            }
            let above = lines[number.saturating_sub(4)..number].iter();
            let says_why = above.copied().any(|line| line.contains("// SAFETY:"));
            if !says_why || !file.starts_with("crates/schwann-process/") {
                found.push(format!("{file}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    nothing("unsafe code without a reason, or outside schwann-process", &found);
}

#[test]
fn nothing_is_left_for_later() {
    let mut all = rust();
    all.extend(sources("interop", "py"));
    let mut found = Vec::new();
    for (file, text) in all {
        for (number, line) in text.lines().enumerate() {
            if STUBS.iter().any(|stub| line.contains(stub)) {
                found.push(format!("{file}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    nothing("stubs, or tests that do not run", &found);
}
