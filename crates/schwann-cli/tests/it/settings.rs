//! `schwann config`, and what is asked for and not done.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{schwann, schwann_in};

#[test]
fn help_and_version_are_data() {
    assert!(schwann(&["--help"]).good().contains("Usage: schwann"));
    assert!(schwann(&["call", "--help"]).good().contains("--many"));
    assert!(schwann(&["--version"]).good().starts_with("schwann 0."));
}

#[test]
fn every_setting_is_shown_with_where_it_comes_from() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("schwann.toml"),
        "[axon]\nlisten = \"127.0.0.1:1\"\ntimeout = \"90s\"\nmax_running = 3\n\
         [[synapse]]\nname = \"Echo\"\nbuiltin = \"echo\"\n",
    )
    .unwrap();
    let variables = [
        ("SCHWANN_AXON_TIMEOUT", "2m"),
        ("SCHWANN_AXON_MAX_WAITING", "7"),
        ("SCHWANN_LOG", "info"),
    ];
    let out = schwann_in(folder.path(), &["config", "show", "--log", "debug"], &variables).good();
    let line = |start: &str| {
        let found = out.lines().find(|line| line.starts_with(start));
        found
            .unwrap_or_else(|| panic!("no {start} in {out}"))
            .split_whitespace()
            .collect::<Vec<_>>()
    };
    assert_eq!(line("listen"), ["listen", "=", "\"127.0.0.1:1\"", "#", "file"]);
    assert_eq!(line("max_running"), ["max_running", "=", "3", "#", "file"]);
    assert_eq!(line("max_waiting"), ["max_waiting", "=", "7", "#", "SCHWANN_AXON_MAX_WAITING"]);
    assert_eq!(line("log"), ["log", "=", "\"debug\"", "#", "--log"]);
    assert_eq!(line("stall_timeout"), ["stall_timeout", "=", "\"1m\""]);
    // What is shown can be used.
    fs::write(folder.path().join("again.toml"), &out).unwrap();
    let check = ["config", "check", "--config", "again.toml"];
    assert_eq!(schwann_in(folder.path(), &check, &[]).good(), "ok: again.toml: 1 synapse\n");
}

#[test]
fn settings_as_json() {
    let folder = tempfile::tempdir().unwrap();
    let out = schwann_in(
        folder.path(),
        &["config", "show", "--json"],
        &[("SCHWANN_AXON_LISTEN", "[::1]:9")],
    );
    let shown: Value = serde_json::from_str(&out.good()).unwrap();
    assert_eq!(shown["file"], Value::Null);
    let listen = &shown["settings"]["axon.listen"];
    assert_eq!(*listen, serde_json::json!({"value": "[::1]:9", "from": "SCHWANN_AXON_LISTEN"}));
}

#[test]
fn a_secret_is_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let words = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";
    for flags in [&["config", "show"][..], &["config", "show", "--json"]] {
        let said = schwann_in(folder.path(), flags, &[("SCHWANN_KEY_URI", words)]);
        let out = said.good();
        assert!(out.contains("(not shown)") && !out.contains("bottom"), "{out}");
    }
    let said = schwann_in(folder.path(), &["key", "show"], &[("SCHWANN_KEY_URI", "drive obey")]);
    assert!(said.code == 2 && !said.err.contains("obey"), "{said:?}");
}

#[test]
fn a_good_file_is_checked_with_its_programs() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("inside");
    fs::create_dir(&inside).unwrap();
    std::os::unix::fs::symlink("/bin/true", inside.join("program")).unwrap();
    // Programs are found from the file's folder, wherever it is read from.
    fs::write(
        inside.join("axon.toml"),
        "[key]\nuri = \"//Alice\"\n[[synapse]]\nname = \"A\"\ncommand = [\"./program\", \"-x\"]\n\
         sandbox = \"none\"\nhash = [\"text\"]\ntimeout = \"5s\"\n\
         [[synapse]]\nname = \"B\"\nupstream = \"http://127.0.0.1:9/b\"\nstream = true\n",
    )
    .unwrap();
    let check = ["config", "check", "--config", "inside/axon.toml", "--json"];
    let out = schwann_in(folder.path(), &check, &[]).good();
    let checked: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(checked["synapses"], serde_json::json!(["A", "B"]));
    assert_eq!(
        schwann(&["config", "check"]).good(),
        "ok: the defaults (there is no file): 0 synapses\n"
    );
}

#[test]
fn variables_of_other_tools_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    schwann_in(folder.path(), &["config", "check"], &[("SCHWANN_VECTORS", "x")]).good();
}

#[test]
fn every_example_of_the_documentation_is_good() {
    let text = include_str!("../../../../docs/configuration.md");
    let mut examples = 0;
    for block in text.split("```toml\n").skip(1) {
        let block = block.split("```").next().unwrap();
        let folder = tempfile::tempdir().unwrap();
        // Programs are looked for.
        std::os::unix::fs::symlink("/bin/true", folder.path().join("translate")).unwrap();
        fs::write(folder.path().join("schwann.toml"), block).unwrap();
        let home = [("HOME", folder.path().to_str().unwrap())];
        let wallet = schwann_in(Path::new("/"), &["key", "new", "--wallet", "default"], &home);
        assert_eq!(wallet.code, 0, "{wallet:?}");
        let said = schwann_in(folder.path(), &["config", "check"], &home);
        assert!(said.code == 0 && said.err.is_empty(), "{said:?} of\n{block}");
        examples += 1;
    }
    assert!(examples >= 3, "{examples}");
}

#[test]
fn a_list_in_a_variable_has_commas() {
    let folder = tempfile::tempdir().unwrap();
    let show = |text: &str| {
        let variables = [("SCHWANN_AXON_TRUSTED_PROXIES", text)];
        schwann_in(folder.path(), &["config", "show", "--json"], &variables)
    };
    let shown: Value = serde_json::from_str(&show("10.0.0.1, ::1").good()).unwrap();
    let proxies = &shown["settings"]["axon.trusted_proxies"];
    assert_eq!(proxies["from"], "SCHWANN_AXON_TRUSTED_PROXIES");
    show("10.0.0.1,gateway").bad(2, "`gateway` is not an address; write a list like");
}

#[test]
fn what_nobody_can_check_is_not_demanded() {
    let folder = tempfile::tempdir().unwrap();
    let synapse = "[[synapse]]\nname = \"Echo\"\nbuiltin = \"echo\"\n";
    for (text, expected) in [
        (format!("[axon]\nverify = \"nothing\"\nbound = \"required\"\n{synapse}"), "axon.bound: "),
        (format!("{synapse}verify = \"nothing\"\nbound = \"required\"\n"), ":1: synapse `Echo`: "),
        (
            format!("[axon]\nbound = \"body-covered\"\n{synapse}verify = \"nothing\"\n"),
            ":3: synapse",
        ),
        (format!("{synapse}bound = \"always\"\n"), "`bound = \"required\"`"),
    ] {
        fs::write(folder.path().join("schwann.toml"), text).unwrap();
        schwann_in(folder.path(), &["config", "check"], &[]).bad(2, expected);
    }
}

#[test]
fn a_sandboxed_program_is_held_to_what_the_file_says() {
    let folder = tempfile::tempdir().unwrap();
    let checked = |text: &str| {
        std::fs::write(folder.path().join("schwann.toml"), text).unwrap();
        schwann_in(folder.path(), &["config", "check"], &[])
    };
    std::fs::create_dir(folder.path().join("model")).unwrap();
    let limits = "max_cpu = \"2s\"\nmax_memory = \"64MiB\"\nmax_processes = 4\nmax_open_files = 32\n\
                  max_folder = \"1MiB\"\n";
    let synapse = "[[synapse]]\nname = \"A\"\ncommand = [\"true\"]\n";
    checked(&format!("{synapse}sandbox = \"strict\"\n{limits}read_only = [\"model\"]\n")).good();
    let absent = format!("{synapse}sandbox = \"strict\"\nread_only = [\"absent\"]\n");
    checked(&absent).bad(2, "`read_only`: absent cannot be shown: No such file");
    for setting in limits.lines().chain(["read_only = [\"model\"]"]) {
        let name = setting.split(' ').next().unwrap();
        let told = format!("`{name}` means nothing with `sandbox = \"none\"`");
        checked(&format!("{synapse}sandbox = \"none\"\n{setting}\n")).bad(2, &told);
        let misplaced = format!("`{name}` means nothing for a builtin");
        checked(&format!("[[synapse]]\nname = \"A\"\nbuiltin = \"echo\"\n{setting}\n"))
            .bad(2, &misplaced);
    }
    let zero = format!("{synapse}sandbox = \"strict\"\nmax_processes = 0\n");
    checked(&zero).bad(2, "`processes` must not be zero");
    let etl = "[etl]\ncommand = [\"true\"]\n";
    checked(&format!("{etl}sandbox = \"strict\"\n{limits}read_only = [\"/usr/share\"]\n")).good();
    checked(&format!("{etl}max_memory = \"1MiB\"\n"))
        .bad(2, "means nothing with `sandbox = \"none\"`");
    checked(&format!("{etl}sandbox = \"strict\"\nread_only = [\"/absent\"]\n"))
        .bad(2, "/absent cannot be shown");
    checked(&format!("{etl}sandbox = \"strict\"\nread_only = [\"model\"]\n"))
        .bad(2, "not an absolute path");
}
