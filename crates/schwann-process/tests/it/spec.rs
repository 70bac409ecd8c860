//! What is refused at start-up, and how.

use std::error::Error as _;

use schwann_process::{Command, CommandSpec, Job, RunError, Sandbox, Upstream, UpstreamSpec};

use crate::{command, sh, soon};

#[track_caller]
fn refused(spec: CommandSpec, expected: &str) {
    let error = Command::from_spec(spec).expect_err(expected);
    let mut text = error.to_string();
    if let Some(source) = error.source() {
        text.push_str(&format!(": {source}"));
    }
    assert!(text.contains(expected), "{text}");
}

#[track_caller]
fn unreadable(toml: &str, expected: &str) {
    let error = toml::from_str::<CommandSpec>(toml).expect_err(expected).to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_spec_is_read_with_its_defaults() {
    let spec: CommandSpec =
        toml::from_str("command = ['true']\nsandbox = 'none'\ntimeout = '2m'").unwrap();
    assert_eq!(spec.timeout.to_string(), "2m");
    assert_eq!(spec.max_output.to_string(), "64MiB");
    assert_eq!(spec.max_running, 32);
    let again: CommandSpec = toml::from_str(&toml::to_string(&spec).unwrap()).unwrap();
    assert_eq!(again.command, spec.command);
}

#[test]
fn mistakes_in_a_file_are_named() {
    unreadable("command = ['true']", "missing field `sandbox`");
    unreadable("command = ['true']\nsandbox = 'nome'", "unknown variant `nome`");
    unreadable("command = ['true']\nsandbox = 'none'\ntimeouts = '1s'", "timeouts");
    unreadable("command = ['true']\nsandbox = 'none'\ntimeout = 20", "write one like `20s`");
    unreadable(
        "command = ['true']\nsandbox = 'none'\nmax_output = '5MB'",
        "write one like `32MiB`",
    );
}

#[test]
fn a_program_that_cannot_run_is_found_at_start_up() {
    let none = |program: &str| CommandSpec::new([program], Sandbox::None);
    refused(CommandSpec::new([""; 0], Sandbox::None), "names no program");
    refused(none(""), "names no program");
    refused(none("no-such-program-anywhere"), "not found in PATH");
    refused(none("/no/such/program"), "No such file");
    refused(none("./no-such-program"), "No such file");
    refused(none("/etc"), "not a file");
    refused(none("/etc/passwd"), "not executable");
    let mut spec = none("true");
    spec.working_directory = Some("/no/such/folder".into());
    refused(spec, "`/no/such/folder` cannot be used: No such file");
    let mut spec = none("true");
    spec.max_running = 0;
    refused(spec, "`max_running` must not be zero");
    let mut spec = none("true");
    spec.environment.insert("A=B".into(), String::new());
    refused(spec, "`A=B` cannot be the name");
}

#[test]
fn a_program_with_a_slash_is_found_from_its_working_directory() {
    let mut spec = CommandSpec::new(["./true"], Sandbox::None);
    spec.working_directory = Some("/bin".into());
    command(spec);
}

#[tokio::test]
async fn a_program_that_went_away_is_an_error_of_the_call() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("program");
    std::os::unix::fs::symlink("/bin/true", &program).unwrap();
    let command = command(CommandSpec::new([program.to_str().unwrap()], Sandbox::None));
    std::fs::remove_file(&program).unwrap();
    let error = soon(command.run(Job::default())).await.unwrap_err();
    assert!(
        matches!(&error, RunError::Start { source, .. }
        if source.kind() == std::io::ErrorKind::NotFound),
        "{error}"
    );
    assert!(!error.after_output());
}

#[tokio::test]
async fn a_value_that_no_environment_can_hold_is_an_error_of_the_call() {
    let mut job = Job::default();
    job.environment.push(("NAME".into(), "a\0b".into()));
    let error = soon(command(sh("true")).run(job)).await.unwrap_err();
    assert!(matches!(error, RunError::Start { .. }), "{error}");
}

#[track_caller]
fn not_an_upstream(address: &str, expected: &str) {
    let error = Upstream::from_spec(UpstreamSpec::new(address)).expect_err(expected).to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn upstream_addresses_are_checked_at_start_up() {
    not_an_upstream("https://example.org/", "put a proxy that speaks TLS in front");
    not_an_upstream("127.0.0.1:9000", "write one like `http://127.0.0.1:9000/path`");
    not_an_upstream("/path", "is not an address");
    not_an_upstream("", "is not an address");
    not_an_upstream("ftp://example.org/", "is not an address");
    not_an_upstream("http://user:secret@example.org/", "user name or password");
    Upstream::from_spec(UpstreamSpec::new("http://127.0.0.1:9/x?y=z")).unwrap();
}
