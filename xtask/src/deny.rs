//! The rules of `deny.toml` that need no network and no further tool: licences,
//! sources, banned packages, and packages present in several versions.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{steps::cargo, top};

fn rules() -> toml::Table {
    let text = std::fs::read_to_string(top().join("deny.toml")).expect("deny.toml");
    text.parse().expect("deny.toml is TOML")
}

/// Texts in a list, or the `crate` or `name` of each table in it.
fn list(value: &toml::Value) -> BTreeSet<String> {
    let name = |entry: &toml::Value| {
        let named = entry.get("crate").or_else(|| entry.get("name")).unwrap_or(entry);
        named.as_str().expect("a name").to_owned()
    };
    value.as_array().expect("a list").iter().map(name).collect()
}

/// Every package that Linux builds or tests.
fn packages() -> Vec<Value> {
    let platform = "--filter-platform=x86_64-unknown-linux-gnu";
    let out = cargo(&["metadata", "--locked", "--format-version=1", platform])
        .output()
        .expect("cargo runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let mut meta: Value = serde_json::from_slice(&out.stdout).expect("cargo says JSON");
    // With a platform, `packages` holds the others too; `resolve` does not.
    let built: BTreeSet<String> = meta["resolve"]["nodes"]
        .as_array()
        .expect("nodes")
        .iter()
        .map(|node| node["id"].as_str().expect("an id").to_owned())
        .collect();
    match meta["packages"].take() {
        Value::Array(all) => {
            all.into_iter().filter(|p| built.contains(p["id"].as_str().expect("an id"))).collect()
        }
        other => panic!("no packages: {other}"),
    }
}

fn text<'a>(package: &'a Value, key: &str) -> &'a str {
    package[key].as_str().unwrap_or_default()
}

/// Whether an SPDX expression can be met by the allowed licences alone.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    // Older crates write `/` for OR.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    either(&mut rest, allowed) && rest.is_empty()
}

fn either(words: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let mut met = both(words, allowed);
    while let Some(("OR", rest)) = words.split_first().map(|(first, rest)| (*first, rest)) {
        *words = rest;
        // Not `||`: the right side must be read in any case.
        met |= both(words, allowed);
    }
    met
}

fn both(words: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let mut met = one(words, allowed);
    while let Some(("AND", rest)) = words.split_first().map(|(first, rest)| (*first, rest)) {
        *words = rest;
        met &= one(words, allowed);
    }
    met
}

fn one(words: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let Some((first, rest)) = words.split_first() else { return false };
    *words = rest;
    if *first == "(" {
        let met = either(words, allowed);
        let Some((")", rest)) = words.split_first().map(|(first, rest)| (*first, rest)) else {
            return false;
        };
        *words = rest;
        return met;
    }
    if let [with, exception, rest @ ..] = *words
        && *with == "WITH"
    {
        *words = rest;
        return allowed.contains(&format!("{first} WITH {exception}"));
    }
    allowed.contains(*first)
}

#[test]
fn every_licence_is_allowed() {
    let allowed = list(&rules()["licenses"]["allow"]);
    let refused: Vec<_> = packages()
        .iter()
        .filter(|package| !is_allowed(text(package, "license"), &allowed))
        .map(|package| format!("{}: {:?}", text(package, "id"), text(package, "license")))
        .collect();
    assert!(refused.is_empty(), "not allowed by deny.toml:\n{}", refused.join("\n"));
}

#[test]
fn every_package_is_from_the_registry_and_none_is_banned() {
    let rules = rules();
    assert_eq!(rules["sources"]["unknown-registry"].as_str(), Some("deny"));
    assert_eq!(rules["sources"]["unknown-git"].as_str(), Some("deny"));
    let banned = list(&rules["bans"]["deny"]);
    for package in packages() {
        let (name, source) = (text(&package, "name"), text(&package, "source"));
        assert!(!banned.contains(name), "{name} is banned by deny.toml");
        let path = source.is_empty()
            && text(&package, "manifest_path").starts_with(&*top().to_string_lossy());
        assert!(path || source.starts_with("registry+"), "{name} comes from `{source}`");
    }
}

#[test]
fn no_package_is_there_in_versions_that_nobody_chose() {
    let rules = rules();
    assert_eq!(rules["bans"]["multiple-versions"].as_str(), Some("deny"));
    let skipped = list(&rules["bans"]["skip"]);
    let mut versions = BTreeMap::<String, BTreeSet<String>>::new();
    for package in packages() {
        let of = versions.entry(text(&package, "name").to_owned()).or_default();
        of.insert(text(&package, "version").to_owned());
    }
    versions.retain(|name, of| {
        // `rand@0.8` skips every 0.8.x.
        let skips = |rule: &String, version: &str| match rule.split_once('@') {
            Some((of, start)) => {
                of == name && format!("{version}.").starts_with(&format!("{start}."))
            }
            None => rule == name,
        };
        let counted = |version: &&String| !skipped.iter().any(|rule| skips(rule, version));
        of.iter().filter(counted).count() > 1
    });
    assert!(
        versions.is_empty(),
        "name the older one under `skip` in deny.toml, with the reason: {versions:#?}"
    );
}

/// Packages of the page that reach a browser: what its lock says of each, by path.
fn packages_of_the_page() -> BTreeMap<String, Value> {
    let path = top().join("crates/schwann-cards/web/package-lock.json");
    let text = std::fs::read_to_string(path).expect("package-lock.json");
    let mut lock: Value = serde_json::from_str(&text).expect("package-lock.json is JSON");
    let Value::Object(all) = lock["packages"].take() else { panic!("no packages") };
    let is_built_in = |path: &str, package: &Value| !path.is_empty() && package["dev"] != true;
    all.into_iter().filter(|(path, package)| is_built_in(path, package)).collect()
}

#[test]
fn every_licence_of_what_is_built_into_the_page_is_allowed() {
    let mut allowed = list(&rules()["licenses"]["allow"]);
    // It asks for nothing; no crate has it, so it does not stand in deny.toml.
    allowed.insert("0BSD".to_owned());
    let packages = packages_of_the_page();
    let has = |name: &str| packages.contains_key(&format!("node_modules/{name}"));
    assert!(has("react-dom") && has("@codemirror/view") && !has("vite"), "the lock is understood");
    let refused: Vec<_> = packages
        .iter()
        .filter(|(_, package)| !is_allowed(text(package, "license"), &allowed))
        .map(|(path, package)| format!("{path}: {:?}", text(package, "license")))
        .collect();
    assert!(refused.is_empty(), "not allowed by deny.toml:\n{}", refused.join("\n"));
}

#[test]
fn what_is_built_into_the_page_is_pinned_and_from_the_registry() {
    for (path, package) in packages_of_the_page() {
        // Without an address it is npm's registry, or what stands in for it; the sum holds either way.
        let from = text(&package, "resolved");
        let registry = from.is_empty() || from.starts_with("https://registry.npmjs.org/");
        assert!(registry, "{path} comes from `{from}`");
        assert!(text(&package, "integrity").starts_with("sha512-"), "{path} has no sum");
    }
    let path = top().join("crates/schwann-cards/web/package.json");
    let text = std::fs::read_to_string(path).expect("package.json");
    let package: Value = serde_json::from_str(&text).expect("package.json is JSON");
    for list in ["dependencies", "devDependencies"] {
        for (name, version) in package[list].as_object().expect("a list of packages") {
            let version = version.as_str().expect("a version");
            let exact = version.split('.').count() == 3
                && version.starts_with(|c: char| c.is_ascii_digit());
            assert!(exact, "{name} is not pinned: `{version}`");
        }
    }
}

#[test]
fn licence_expressions_are_read_as_spdx() {
    let allowed =
        BTreeSet::from(["MIT", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned));
    let allows = |expression| is_allowed(expression, &allowed);
    assert!(allows("MIT") && allows("MIT OR GPL-3.0") && allows("GPL-3.0/MIT"));
    assert!(allows("(GPL-3.0 OR MIT) AND Unicode-3.0"));
    assert!(allows("Apache-2.0 WITH LLVM-exception"));
    assert!(!allows("Apache-2.0") && !allows("") && !allows("MIT AND GPL-3.0") && !allows("(MIT"));
}
