//! Which crate may know which. An arrow is an architectural decision.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::steps::cargo;

/// Who may depend on whom. Adding an arrow here is an architectural change
/// and belongs in ARCHITECTURE.md too.
const ARROWS: &[(&str, &[&str])] = &[
    ("schwann", &[]),
    ("schwann-process", &["schwann"]),
    ("schwann-synapse", &["schwann", "schwann-synapse-derive"]),
    ("schwann-synapse-derive", &[]),
    ("schwann-testkit", &[]),
    (
        "schwann-cli",
        &["schwann", "schwann-cards", "schwann-etl", "schwann-process", "schwann-synapse"],
    ),
    ("schwann-cards", &["schwann", "schwann-process"]),
    ("schwann-etl", &["schwann"]),
    ("xtask", &[]),
    // To come.
    ("schwann-py", &["schwann-synapse"]),
];

/// Packages that the crate on the left must not name, directly, outside tests.
const UNKNOWN: &[(&str, &[&str])] = &[
    ("schwann", &["serde", "serde_json", "nix", "libc", "rustls", "native-tls", "toml", "clap"]),
    ("schwann-synapse", &["nix", "libc", "axum", "clap", "toml", "anyhow"]),
    ("schwann-etl", &["nix", "libc", "axum", "clap", "toml", "anyhow"]),
    ("schwann-process", &["clap", "toml", "anyhow", "schnorrkel"]),
    ("schwann-synapse-derive", &["serde", "tokio", "http", "hyper"]),
];

/// What `cargo metadata` says of the workspace's own packages.
pub(crate) fn packages() -> Vec<Value> {
    let out = cargo(&["metadata", "--no-deps", "--format-version=1"]).output().expect("cargo runs");
    let mut meta: Value = serde_json::from_slice(&out.stdout).expect("cargo says JSON");
    match meta["packages"].take() {
        Value::Array(packages) => packages,
        other => panic!("no packages: {other}"),
    }
}

fn name(package: &Value) -> &str {
    package["name"].as_str().expect("a name")
}

fn find<'a>(table: &[(&str, &'a [&'a str])], from: &str) -> &'a [&'a str] {
    table.iter().find(|(name, _)| *name == from).map_or(&[], |(_, to)| to)
}

/// The first arrow that is not allowed.
fn wrong_arrow(packages: &[Value]) -> Option<String> {
    let ours: BTreeSet<_> = packages.iter().map(name).collect();
    for package in packages {
        let from = name(package);
        if !ARROWS.iter().any(|(name, _)| *name == from) {
            return Some(format!("`{from}` is not in ARROWS"));
        }
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let to = name(dependency);
            let in_tests = dependency["kind"] == "dev";
            let allowed = if ours.contains(to) {
                find(ARROWS, from).contains(&to) || in_tests && to == "schwann-testkit"
            } else {
                in_tests || !find(UNKNOWN, from).contains(&to)
            };
            if !allowed {
                return Some(format!("`{from}` must not know `{to}`"));
            }
        }
    }
    None
}

#[test]
fn crates_depend_only_along_the_arrows() {
    assert_eq!(wrong_arrow(&packages()), None);
}

#[test]
fn a_wrong_arrow_is_found() {
    let package = |name: &str, to: &str, kind: Option<&str>| serde_json::json!({ "name": name, "dependencies": [{ "name": to, "kind": kind }] });
    let found = |from, to, kind| {
        wrong_arrow(&[package(from, to, kind), package("schwann-cli", "schwann", None)])
    };
    assert_eq!(found("schwann", "bytes", None), None);
    assert_eq!(
        found("schwann", "schwann-cli", None).as_deref(),
        Some("`schwann` must not know `schwann-cli`")
    );
    assert!(found("schwann", "schwann-cli", Some("dev")).is_some(), "tests have arrows too");
    assert!(found("schwann", "serde_json", None).is_some(), "the core knows no JSON");
    assert!(found("schwann-new", "bytes", None).is_some(), "a new crate needs its line");
}
