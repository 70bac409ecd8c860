//! Bad input: one clear line each, and exit code 2.

use crate::{ALICE, Said, schwann, schwann_in, schwann_with};

#[track_caller]
fn usage(args: &[&str], expected: &str) {
    schwann(args).bad(2, expected);
}

fn call(rest: &[&str]) -> Said {
    let mut args = vec!["call", "--hotkey", ALICE, "--key-uri", "//Bob"];
    args.extend(rest);
    schwann(&args)
}

const URL: &str = "http://127.0.0.1:9";

#[test]
fn a_command_line_that_is_none() {
    usage(&[], "say what to do");
    usage(&["fly"], "unrecognized subcommand 'fly'");
    usage(&["key"], "say what to do");
    usage(&["call"], "URL");
    usage(&["call", URL, "Echo"], "URL, NAME and JSON are needed");
    usage(&["call", URL, "Echo", "{}", "--json", "more"], "unexpected argument 'more'");
    usage(&["call", "--colour"], "'--colour'");
    usage(&["key", "show", "--key-uri"], "--key-uri");
    usage(&["config", "show", "--log"], "--log");
}

#[test]
fn bad_addresses() {
    for (url, expected) in [
        ("https://127.0.0.1:8091", "is https"),
        ("127.0.0.1:8091", "is not an axon's address"),
        ("http://127.0.0.1", "has no port"),
        ("http://127.0.0.1:0x50", "has no port from 1 to 65535"),
        ("http://127.0.0.1:65536", "has no port from 1 to 65535"),
        ("http://127.0.0.1:0", "has no port from 1 to 65535"),
        ("http://:8091", "is not a host"),
        ("http://a b:8091", "is not a host"),
        ("http://127.0.0.1:8091/Echo", "the synapse's name stands by itself"),
        ("http://user@127.0.0.1:8091", "more than host and port"),
    ] {
        call(&[url, "Echo", "{}"]).bad(2, expected);
    }
}

#[test]
fn bad_synapses() {
    for (name, json, expected) in [
        ("Echo", "{", "is not JSON"),
        ("Echo", "", "is not JSON"),
        ("Echo", "[1]", "must be a JSON object, and this is a list"),
        ("Echo", "\"text\"", "must be a JSON object, and this is a str"),
        ("", "{}", "cannot be a synapse's name"),
        ("a/b", "{}", "cannot be a synapse's name"),
        ("a\r\nx: y", "{}", "cannot be a synapse's name"),
    ] {
        call(&[URL, name, json]).bad(2, expected);
    }
    let deep = "[".repeat(100_000);
    call(&[URL, "Echo", &format!("{{\"a\":{deep}")]).bad(2, "is not JSON");
}

#[test]
fn too_much_on_stdin() {
    let args = ["call", URL, "Echo", "-", "--hotkey", ALICE, "--key-uri", "//Bob"];
    schwann_with(&args, "not json").bad(2, "is not JSON");
    // Said once the limit is passed, whatever follows.
    let folder = tempfile::tempdir().unwrap();
    let big = std::fs::File::create_new(folder.path().join("big")).unwrap();
    big.set_len((64 << 20) + 1).unwrap();
    let mut command = crate::command(folder.path(), &args, &[]);
    command.stdin(std::fs::File::open(folder.path().join("big")).unwrap());
    crate::said(command.output().unwrap()).bad(2, "holds more than 64MiB");
}

#[test]
fn bad_keys() {
    let with = |uri| schwann(&["key", "show", "--key-uri", uri]);
    for uri in ["", "some hidden words", "0x12", "//", "abandon abandon abandon//x"] {
        let said = with(uri);
        said.bad(2, "the key URI cannot be used");
        assert!(uri.is_empty() || uri == "//" || !said.err.contains(uri), "told: {}", said.err);
    }
    usage(&["key", "show"], "there is no key to sign with");
    usage(&["key", "show", "--key-uri", "//A", "--wallet", "w"], "cannot be used with");
    usage(&["key", "show", "--hotkey", "h"], "no wallet is set");
    usage(&["key", "show", "--wallet", "a/b"], "--wallet: a wallet's name is the name of one");
    usage(&["key", "show", "--wallet", "w", "--wallet-path", "."], "cannot use the keyfile ./w/");
    usage(&["axon", "--key-uri", "//A"], "there is no synapse to serve");
    usage(&["call", URL, "Echo", "{}", "--hotkey", ALICE], "there is no key to sign with");
    usage(&["call", URL, "Echo", "{}", "--key-uri", "//A"], "the axon's hotkey is needed");
    let not_one = ["call", URL, "Echo", "{}", "--key-uri", "//A", "--hotkey", "5abc"];
    usage(&not_one, "`5abc` is not a hotkey");
}

#[test]
fn bad_flags() {
    let echo = [URL, "Echo", "{}"];
    let flag = |flags: &[&str], expected: &str| {
        call(&[&echo, flags].concat()).bad(2, expected);
    };
    flag(&["--timeout", "20"], "--timeout: `20` is not a length of time; write one like `20s`");
    flag(&["--timeout", "0s"], "--timeout: must not be zero");
    flag(&["--timeout", "-5s"], "--timeout: `-5s` is not a length of time");
    flag(&["--hash", "a,,b"], "--hash: a field without a name");
    flag(&["--required", ""], "--required: a field without a name");
    flag(&["--protocol", "v11"], "invalid value 'v11' for '--protocol");
    flag(&["--log", "loud=quiet=no"], "--log: ");
    flag(&["--log", "loud"], "--log: `loud` is not one of error, warn, info, debug, trace");
    flag(&["--config", "no-such.toml"], "cannot read no-such.toml");
}

#[test]
fn bad_lists_of_axons() {
    let folder = tempfile::tempdir().unwrap();
    let many = |list: &str, expected: &str| {
        std::fs::write(folder.path().join("axons"), list).unwrap();
        let args = ["call", "Echo", "{}", "--key-uri", "//Bob", "--many", "axons"];
        schwann_in(folder.path(), &args, &[]).bad(2, expected);
    };
    many("", "not a list of axons");
    many("{}", "not a list of axons");
    many("[]", "the list is empty");
    many(r#"[{"ip":"10.0.0.1","port":8091}]"#, "missing field `hotkey`");
    let good = format!(r#"{{"ip":"10.0.0.1","port":8091,"hotkey":"{ALICE}"}}"#);
    many(&format!(r#"[{good},{{"ip":"10.0.0.1","port":8091,"hotkey":"5F"}}]"#), "axon 1: `5F`");
    many(&format!("[{}]", good.replace("8091", "80911")), "axon 0: 80911 is not a port");
    many(&format!("[{}]", good.replace("10.0.0.1", "a b")), "is not a host");
    let args = ["call", URL, "Echo", "{}", "--key-uri", "//Bob", "--many", "axons"];
    schwann_in(folder.path(), &args, &[]).bad(2, "there is no URL");
    let args = ["call", "Echo", "{}", "--key-uri", "//Bob", "--many", "nowhere"];
    schwann_in(folder.path(), &args, &[]).bad(2, "cannot read nowhere");
}

#[track_caller]
fn file(text: &str, expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("schwann.toml"), text).unwrap();
    schwann_in(folder.path(), &["config", "check"], &[]).bad(2, expected);
}

#[test]
fn bad_settings_in_a_file() {
    file("[axon]\nlisten = \"8091\"", "schwann.toml:2: axon.listen: `8091` is not an address");
    file("[axon]\nlisten = 8091", "write them like `127.0.0.1:8091`");
    file("[axon]\nlistn = \"x\"", "schwann.toml:2: `listn` is not a setting here");
    file("[axon]\nlistn = \"x\"", "hint: did you mean `listen`?");
    file("[axn]\nlisten = \"x\"", "hint: did you mean `axon`?");
    file("[axon]\n\ntimeout = 20", "schwann.toml:3: axon.timeout: `20` is not a length of time");
    file("[axon]\nmax_body = 1000", "write one like `1000B`");
    file("[axon]\nmax_body = \"5MB\"", "write one like `32MiB`");
    file("[axon]\nmax_running = 0", "axon.max_running: must not be zero");
    file("[axon]\nmax_running = \"8\"", "hint: write it like `max_running = 1024`");
    file("[axon]\nverify = \"lax\"", "hint: write it like `verify = \"hardened\"`");
    file("[axon\n", "schwann.toml:1: ");
    file("[key]\nuri = \"//A\"\nwallet = \"w\"", "both `key.uri` and `key.wallet` are set");
    file("[key]\nuri = \"hunter2 hunter2\"", "the key URI cannot be used");
    file("log = \"a=b=c\"", "schwann.toml: log: ");
}

#[test]
fn bad_synapses_in_a_file() {
    let synapse = |text: &str, expected: &str| {
        file(&format!("[axon]\n[[synapse]]\nname = \"A\"\n{text}"), expected);
    };
    synapse("", "schwann.toml:2: synapse `A`: needs exactly one of `command`, `upstream`");
    synapse("builtin = \"echo\"\nupstream = \"http://a\"", "and has several");
    synapse("builtin = \"ecko\"", "unknown variant `ecko`");
    synapse("command = [\"true\"]", "`sandbox = \"none\"` runs it with no isolation");
    synapse("command = [\"true\"]\nsandbox = \"stricter\"", "unknown variant `stricter`");
    synapse("command = [\"no-such-program\"]\nsandbox = \"none\"", "not found in PATH");
    synapse("command = []\nsandbox = \"none\"", "names no program");
    synapse("command = \"true\"\nsandbox = \"none\"", "schwann.toml:4: synapse.command: ");
    synapse("upstream = \"https://a/\"", "put a proxy that speaks TLS in front");
    synapse("upstream = \"a:80\"", "is not an address");
    synapse("upstream = \"http://a\"\nsandbox = \"none\"", "`sandbox` means nothing for an upstr");
    synapse("builtin = \"echo\"\nmax_output = \"1B\"", "`max_output` means nothing for a builtin");
    synapse("builtin = \"echo\"\nhash = [\"timeout\"]", "`timeout` is a field of every synapse");
    synapse("builtin = \"echo\"\nhash = [\"a\", \"a\"]", "`a` stands twice in `hash`");
    synapse("builtin = \"echo\"\ndeny = [\"5F\"]", "schwann.toml:5: synapse.deny: ");
    synapse("builtin = \"echo\"\nspeed = 1", "`speed` is not a setting here");
    let both = format!("builtin = \"echo\"\ndeny = [\"{ALICE}\"]\nallow = [\"{ALICE}\"]");
    synapse(&both, "is both in `allow` and in `deny`");
    synapse("builtin = \"echo\"\n[[synapse]]\nname = \"A\"", "two synapses named `A`");
    file("[synapse]\nname = \"A\"", "hint: write [[synapse]], with two brackets");
    file("[[synapse]]\nbuiltin = \"echo\"", "missing field `name`");
    file("[[synapse]]\nname = \"a b\"\nbuiltin = \"echo\"", "`a b` cannot be a synapse's name");
}

#[test]
fn bad_variables() {
    let variable = |name: &str, text: &str, expected: &str| {
        let folder = tempfile::tempdir().unwrap();
        schwann_in(folder.path(), &["config", "show"], &[(name, text)]).bad(2, expected);
    };
    variable("SCHWANN_AXON_LISTEN", "nine", "SCHWANN_AXON_LISTEN: `nine` is not an address");
    variable("SCHWANN_AXON_TIMEOUT", "20", "`20` is not a length of time; write one like `20s`");
    variable("SCHWANN_AXON_MAX_RUNNING", "many", "SCHWANN_AXON_MAX_RUNNING: ");
    variable("SCHWANN_AXON_LISTN", "x", "hint: did you mean SCHWANN_AXON_LISTEN?");
    variable("SCHWANN_LISTEN", "x", "_LISTEN?");
    variable("SCHWANN_CONFIG", "nowhere.toml", "cannot read nowhere.toml");
}
