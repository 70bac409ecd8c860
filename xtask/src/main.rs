//! The workspace's own chores. `cargo xtask help` lists them.

fn main() {}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, process::Command};

    /// Who may depend on whom. Adding an arrow here is an architectural change
    /// and belongs in ARCHITECTURE.md too.
    const ARROWS: &[(&str, &[&str])] = &[
        ("schwann", &[]),
        ("schwann-process", &["schwann"]),
        ("schwann-synapse", &["schwann", "schwann-synapse-derive"]),
        ("schwann-synapse-derive", &[]),
        ("schwann-etl", &["schwann"]),
        ("schwann-testkit", &[]),
        ("schwann-cards", &["schwann", "schwann-process"]),
        ("schwann-cli", &["schwann", "schwann-process", "schwann-synapse"]),
        ("xtask", &[]),
    ];

    #[test]
    fn crates_depend_only_along_the_arrows() {
        #[expect(clippy::disallowed_methods, reason = "asks cargo, not a handler")]
        let out = Command::new(env!("CARGO"))
            .args(["metadata", "--no-deps", "--format-version=1"])
            .output()
            .expect("cargo runs");
        let meta: serde_json::Value = serde_json::from_slice(&out.stdout).expect("cargo says JSON");
        let packages = meta["packages"].as_array().expect("packages");
        let ours: BTreeSet<_> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
        for package in packages {
            let name = package["name"].as_str().expect("a name");
            let allowed = ARROWS.iter().find(|(from, _)| *from == name);
            let (_, allowed) = allowed.unwrap_or_else(|| panic!("`{name}` is not in ARROWS"));
            for dep in package["dependencies"].as_array().expect("dependencies") {
                let (to, kind) = (dep["name"].as_str().expect("a name"), &dep["kind"]);
                if ours.contains(to) && kind.is_null() {
                    assert!(allowed.contains(&to), "`{name}` must not know `{to}`");
                }
            }
        }
    }
}
