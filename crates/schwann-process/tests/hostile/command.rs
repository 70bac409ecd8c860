//! A [`Command`] in a sandbox: the same program behind any face.

use schwann_process::{ByteSize, Command, CommandSpec, Job, RunError, Sandbox, Span};

use crate::{MIB, PATIENCE, none_is_left, places, soon};

async fn sandboxes() -> Vec<Sandbox> {
    let mut all: Vec<_> = places().await.into_iter().map(|place| place.sandbox).collect();
    all.dedup();
    all
}

fn sh(sandbox: Sandbox, script: &str) -> CommandSpec {
    CommandSpec::new(["sh", "-c", script], sandbox)
}

#[tokio::test]
async fn input_goes_in_and_output_comes_out() {
    for sandbox in sandboxes().await {
        let command = Command::from_spec(sh(sandbox, "tr a-z A-Z; echo said >&2")).unwrap();
        soon(command.check_sandbox()).await.unwrap();
        let output = soon(command.run(Job::new(vec![b'x'; 1 << 20]))).await.unwrap();
        assert_eq!(output.stdout, vec![b'X'; 1 << 20]);
        assert_eq!(output.stderr, "said");
        let command = Command::from_spec(sh(sandbox, "echo why >&2; exit 3")).unwrap();
        let error = soon(command.run(Job::default()));
        let text = error.await.unwrap_err().to_string();
        assert!(text.contains("exited with code 3") && text.contains("why"), "{text}");
    }
}

#[tokio::test]
async fn it_reads_its_working_directory_and_nothing_beside_it() {
    let host = tempfile::tempdir().unwrap();
    std::fs::write(host.path().join("secret"), "secret").unwrap();
    let folder = host.path().join("scripts");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("greet.sh"), "echo hello; cat ../secret; echo x >new").unwrap();
    for sandbox in sandboxes().await {
        let mut spec = CommandSpec::new(["sh", "greet.sh"], sandbox);
        spec.working_directory = Some(folder.clone());
        let command = Command::from_spec(spec).unwrap();
        let error = soon(command.run(Job::default())).await.unwrap_err();
        let RunError::Failed { stderr, .. } = error else { panic!("{error}") };
        assert!(stderr.contains("secret") && stderr.contains("new"), "{sandbox}: {stderr}");
        assert!(!folder.join("new").exists());
    }
}

#[tokio::test]
async fn only_what_is_inherited_by_name_is_in_its_environment() {
    for sandbox in sandboxes().await {
        let mut spec = sh(sandbox, "env");
        spec.inherit.push("CARGO_MANIFEST_DIR".into());
        spec.environment.insert("SET".into(), "by configuration".into());
        let job = Job { environment: vec![("CALL".into(), "7".into())], ..Job::default() };
        let output = soon(Command::from_spec(spec).unwrap().run(job)).await.unwrap();
        let text = String::from_utf8(output.stdout.to_vec()).unwrap();
        for expected in ["CARGO_MANIFEST_DIR=", "SET=by configuration", "CALL=7"] {
            assert!(text.contains(expected), "{sandbox}: {text}");
        }
        assert!(!text.contains("CARGO_PKG_NAME"), "{sandbox}: {text}");
    }
}

#[tokio::test]
async fn limits_end_it_and_are_named() {
    for sandbox in sandboxes().await {
        let mut spec = CommandSpec::new(
            ["/usr/bin/python3", "-c", "x = []\nwhile True: x.append(bytearray(1 << 20))"],
            sandbox,
        );
        spec.limits.memory = ByteSize::new(64 * MIB);
        let error = soon(Command::from_spec(spec).unwrap().run(Job::default())).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("more memory than 64MiB") || text.contains("MemoryError"), "{text}");

        let mut spec = sh(sandbox, "while :; do :; done");
        spec.timeout = Span::from_millis(300);
        let error = soon(Command::from_spec(spec).unwrap().run(Job::default())).await.unwrap_err();
        assert!(matches!(error, RunError::TimedOut { .. }), "{error}");

        let mut spec = sh(sandbox, "exec yes");
        spec.max_output = ByteSize::new(1000);
        let error = soon(Command::from_spec(spec).unwrap().run(Job::default())).await.unwrap_err();
        assert!(matches!(error, RunError::TooMuchOutput { .. }), "{error}");
    }
}

#[tokio::test]
async fn dropping_it_leaves_nobody() {
    for sandbox in sandboxes().await {
        let word = format!("dropped-{}-{sandbox}", std::process::id());
        let script =
            format!("setsid sh -c 'while :; do sleep 0.1; done' {word} & echo ready; wait");
        let command = Command::from_spec(sh(sandbox, &script)).unwrap();
        let mut running = soon(command.stream(Job::default())).await.unwrap();
        soon(running.chunk()).await.unwrap().unwrap();
        drop(running);
        none_is_left(PATIENCE, format!("done\0{word}")).await;
    }
}
