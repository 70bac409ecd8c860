//! Sessions: a program followed piece by piece, without a sandbox.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use schwann_process::{
    ByteSize, Ending, OutputStream, Piece, Program, ProgramSpec, Reason, Sandbox, Session, Signal,
    Span, StartError, TerminalSize,
};
use tempfile::TempDir;

use crate::{Lifeline, Watched, reaped, soon};

struct Run {
    session: Session,
    /// Bytes of stdout and stderr that were read.
    read: [u64; 2],
    _folder: TempDir,
}

async fn start_with(command: &[&str], change: impl FnOnce(&mut ProgramSpec)) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = ProgramSpec::new(command.iter().copied(), folder.path(), Sandbox::None);
    change(&mut spec);
    let session = soon(Program::start(spec)).await.unwrap();
    Run { session, read: [0; 2], _folder: folder }
}

async fn start(script: &str) -> Run {
    start_with(&["sh", "-c", script], |_| {}).await
}

impl Run {
    async fn piece(&mut self) -> Option<Piece> {
        let piece = soon(self.session.output()).await?;
        self.read[usize::from(piece.stream == OutputStream::Stderr)] += piece.bytes.len() as u64;
        Some(piece)
    }

    /// What is left of both streams, and the end.
    async fn finish(&mut self) -> (String, String, Ending) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        while let Some(piece) = self.piece().await {
            match piece.stream {
                OutputStream::Stdout => out.extend_from_slice(&piece.bytes),
                OutputStream::Stderr => err.extend_from_slice(&piece.bytes),
            }
        }
        let ending = soon(self.session.end()).await;
        assert_eq!([ending.stdout_bytes, ending.stderr_bytes], self.read);
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap(), ending)
    }

    /// Reads until a line is whole.
    async fn line(&mut self) -> String {
        let mut seen = Vec::new();
        while !seen.ends_with(b"\n") {
            seen.extend_from_slice(&self.piece().await.unwrap().bytes);
        }
        String::from_utf8(seen).unwrap().trim_end().to_owned()
    }
}

#[tokio::test]
async fn both_streams_arrive_whole_and_the_exit_code_with_them() {
    let mut run = start("echo out; echo err >&2; printf '\\344\\275'; exit 3").await;
    let mut out = Vec::new();
    let mut err = Vec::new();
    while let Some(piece) = soon(run.session.output()).await {
        match piece.stream {
            OutputStream::Stdout => out.extend_from_slice(&piece.bytes),
            OutputStream::Stderr => err.extend_from_slice(&piece.bytes),
        }
    }
    assert_eq!(out, b"out\n\xe4\xbd");
    assert_eq!(err, b"err\n");
    let ending = soon(run.session.end()).await;
    assert_eq!((ending.reason, ending.code, ending.signal), (Reason::Exit, Some(3), None));
    assert_eq!((ending.stdout_bytes, ending.stderr_bytes), (6, 4));
}

#[tokio::test]
async fn a_piece_is_handed_out_while_the_program_runs_on() {
    let mut run = start("printf first; read line; echo \" $line\"").await;
    assert_eq!(run.piece().await.unwrap().bytes, "first");
    run.session.input().write("second\n").await.unwrap();
    let (out, _, ending) = run.finish().await;
    assert_eq!((out.as_str(), ending.stdout_bytes), (" second\n", 13));
}

#[tokio::test]
async fn what_is_written_while_nobody_listens_is_heard_afterwards() {
    let script = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo $i; [ $((i % 100)) = 0 ] && echo e$i >&2; done";
    for terminal in [None, Some(TerminalSize { rows: 24, columns: 80 })] {
        let mut run = start_with(&["sh", "-c", script], |spec| spec.terminal = terminal).await;
        let mut streams = [Vec::new(), Vec::new()];
        loop {
            // Given up at once, and lasting.
            drop(tokio::time::timeout(Duration::ZERO, run.session.rest(Instant::now())).await);
            soon(run.session.rest(Instant::now() + Duration::from_micros(200))).await;
            let Some(piece) = soon(run.session.output()).await else { break };
            let from = usize::from(piece.stream == OutputStream::Stderr);
            streams[from].extend_from_slice(&piece.bytes);
        }
        let numbers: Vec<_> = (1..=3000).map(|n| n.to_string()).collect();
        let text = String::from_utf8(streams.concat()).unwrap();
        let (errors, lines): (Vec<_>, Vec<_>) = text.lines().partition(|l| l.starts_with('e'));
        assert_eq!(lines, numbers);
        assert_eq!(errors.len(), 30);
        assert_eq!(soon(run.session.end()).await.code, Some(0));
    }
}

#[tokio::test]
async fn a_rest_is_over_when_the_program_is() {
    let mut run = start("echo last").await;
    soon(run.session.rest(Instant::now() + Duration::from_secs(3600))).await;
    assert_eq!(run.finish().await.0, "last\n");
}

#[tokio::test]
async fn a_closed_input_is_the_end_of_it() {
    let mut run = start("cat; echo end").await;
    let input = run.session.input();
    soon(input.write("one ")).await.unwrap();
    soon(input.clone().write("two ")).await.unwrap();
    soon(input.close()).await;
    let error = soon(input.write("three")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    assert_eq!(run.finish().await.0, "one two end\n");
}

#[tokio::test]
async fn writing_to_a_program_that_has_ended_is_a_broken_pipe() {
    let mut run = start("exit 0").await;
    let input = run.session.input();
    run.finish().await;
    let error = soon(input.write(vec![b'x'; 1 << 20])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_signal_reaches_the_program_and_is_told_of() {
    let mut run =
        start("trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 1; done").await;
    assert_eq!(run.line().await, "ready");
    assert!(run.session.control().signal(Signal::Interrupt));
    let (out, _, ending) = run.finish().await;
    assert_eq!((out.as_str(), ending.reason, ending.code), ("caught\n", Reason::Exit, Some(5)));

    let mut run = start("kill -SEGV $$").await;
    let (_, _, ending) = run.finish().await;
    assert_eq!((ending.reason, ending.code, ending.signal), (Reason::Signal, None, Some(11)));
}

#[tokio::test]
async fn cancelling_asks_first_and_kills_after_the_grace() {
    let mut run =
        start("trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 1; done").await;
    run.line().await;
    run.session.control().cancel(Span::from_secs(30));
    let (out, _, ending) = run.finish().await;
    assert_eq!((out.as_str(), ending.reason, ending.code), ("bye\n", Reason::Cancelled, Some(0)));

    let mut run = start("trap '' TERM INT HUP; echo ready; while :; do sleep 1; done").await;
    run.line().await;
    let control = run.session.control();
    let asked = Instant::now();
    control.cancel(Span::from_millis(100));
    control.cancel(Span::from_secs(30));
    let (_, _, ending) = run.finish().await;
    assert_eq!((ending.reason, ending.signal), (Reason::Cancelled, Some(9)));
    assert!(asked.elapsed() < Duration::from_secs(2), "took {:?}", asked.elapsed());
    control.cancel(Span::from_millis(0));
    assert!(!control.signal(Signal::Kill), "nobody is there any more");
    assert_eq!(soon(run.session.end()).await, ending, "and its end stays what it was");
}

#[tokio::test]
async fn whoever_it_started_is_gone_with_it() {
    let mut line = Lifeline::new();
    let mut run =
        start(&format!("{} sleep 60 & sleep 60 & echo ready >&9; exit 0", line.hold())).await;
    run.finish().await;
    line.cut().await;
}

#[tokio::test]
async fn dropping_the_session_kills_it() {
    let mut line = Lifeline::new();
    let mut run = start(&format!("{} sleep 60 & echo $$; wait", line.hold())).await;
    let pid = run.line().await;
    let watched = Watched::new(&pid);
    let control = run.session.control();
    drop(run);
    watched.gone().await;
    line.cut().await;
    reaped(&pid).await;
    assert!(!control.signal(Signal::Terminate));
}

#[tokio::test]
async fn a_program_that_is_not_read_waits_until_its_time_has_passed() {
    let mut run = start_with(&["sh", "-c", "echo $$; exec yes"], |spec| {
        spec.limits.wall = Span::from_millis(500);
    })
    .await;
    let first = run.piece().await.unwrap();
    let pid = std::str::from_utf8(&first.bytes).unwrap().lines().next().unwrap().to_owned();
    reaped(&pid).await;
    let (out, _, ending) = run.finish().await;
    assert_eq!((ending.reason, ending.signal), (Reason::Timeout, Some(9)), "{ending:?}");
    assert!(!out.is_empty() && out.len() < 200_000, "what the pipe held: {}", out.len());
}

#[tokio::test]
async fn output_ends_at_its_limit_to_the_byte() {
    let mut run = start_with(&["sh", "-c", "echo err >&2; sleep 0.2; exec yes"], |spec| {
        spec.limits.output = ByteSize::new(100_001);
    })
    .await;
    let (out, err, ending) = run.finish().await;
    assert_eq!(ending.reason, Reason::OutputLimit);
    assert_eq!(out.len() + err.len(), 100_001);
}

#[tokio::test]
async fn output_of_exactly_the_limit_is_no_breach() {
    let mut run = start_with(&["sh", "-c", "printf 12345"], |spec| {
        spec.limits.output = ByteSize::new(5);
    })
    .await;
    let (out, _, ending) = run.finish().await;
    assert_eq!((out.as_str(), ending.reason, ending.code), ("12345", Reason::Exit, Some(0)));
}

#[tokio::test]
async fn time_on_processors_memory_and_the_folder_are_watched() {
    let mut run = start_with(&["sh", "-c", "while :; do :; done"], |spec| {
        spec.limits.cpu = Span::from_millis(300);
    })
    .await;
    let (_, _, ending) = run.finish().await;
    assert_eq!(ending.reason, Reason::CpuLimit, "{ending:?}");
    assert!(ending.cpu >= Duration::from_millis(250), "{ending:?}");

    let grow = "x = []\nwhile True: x.append(bytearray(1 << 20))";
    let mut run = start_with(&["python3", "-c", grow], |spec| {
        spec.limits.memory = ByteSize::new(64 << 20);
    })
    .await;
    let (_, _, ending) = run.finish().await;
    assert_eq!(ending.reason, Reason::MemoryLimit, "{ending:?}");

    let fill = "while :; do head -c 65536 /dev/zero >>big; done";
    let mut run = start_with(&["sh", "-c", fill], |spec| {
        spec.limits.folder = ByteSize::new(1 << 20);
    })
    .await;
    let (_, _, ending) = run.finish().await;
    assert_eq!(ending.reason, Reason::FolderLimit, "{ending:?}");
}

#[tokio::test]
async fn a_terminal_makes_python_write_line_by_line_and_knows_its_size() {
    let script = "import os, sys\n\
                  print('ready')\n\
                  line = input()\n\
                  print(line, *os.get_terminal_size(), sys.stderr.isatty())\n\
                  sys.stdin.read()\n\
                  print('end')";
    let mut run = start_with(&["python3", "-c", script], |spec| {
        // As without the variable that makes Python unbuffered.
        spec.environment.insert("PYTHONUNBUFFERED".into(), String::new());
        spec.terminal = Some(TerminalSize { columns: 100, rows: 30 });
    })
    .await;
    assert_eq!(run.line().await, "ready");
    run.session.control().resize(TerminalSize { columns: 120, rows: 40 });
    let input = run.session.input();
    soon(input.write("hello\n")).await.unwrap();
    let mut seen = run.line().await;
    while !seen.contains("120 40 True") {
        seen.push_str(&run.line().await);
    }
    soon(input.close()).await;
    let (out, _, ending) = run.finish().await;
    assert!(out.ends_with("end\n"), "{out:?}");
    assert_eq!(ending.code, Some(0));
}

#[tokio::test]
async fn a_terminal_interrupts_by_its_character() {
    let script = "import time\nprint('ready')\ntime.sleep(60)";
    let mut run = start_with(&["python3", "-c", script], |spec| {
        spec.terminal = Some(TerminalSize::default());
    })
    .await;
    run.line().await;
    soon(run.session.input().write("\x03")).await.unwrap();
    let (out, _, ending) = run.finish().await;
    assert!(out.contains("KeyboardInterrupt"), "{out}");
    assert_eq!((ending.reason, ending.signal), (Reason::Signal, Some(2)), "{ending:?}");
}

#[tokio::test]
async fn it_has_only_its_own_descriptors_and_a_clean_environment() {
    let mut run = start("ls /proc/self/fd | tr '\\n' ' '; env | grep -c CARGO").await;
    let (out, _, _) = run.finish().await;
    // The fourth is the folder that is being listed.
    assert_eq!(out, "0 1 2 3 0\n");
}

#[tokio::test]
async fn files_are_put_into_its_folder() {
    let mut run = start_with(&["cat", "main", "new/deep/file"], |spec| {
        spec.files = vec![("main".into(), "one ".into()), ("new/deep/file".into(), "two".into())];
    })
    .await;
    let mut text = Vec::new();
    while let Some(piece) = soon(run.session.output()).await {
        text.extend_from_slice(&piece.bytes);
    }
    assert_eq!(text, b"one two");
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let refused = async |command: &[&str], change: fn(&mut ProgramSpec), expected: &str| {
        let mut spec = ProgramSpec::new(command.iter().copied(), folder.path(), Sandbox::None);
        change(&mut spec);
        let error = soon(Program::start(spec)).await.unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string);
        let text = format!("{error}: {}", source.unwrap_or_default());
        assert!(text.contains(expected), "{text}");
        error
    };
    refused(&[], |_| {}, "names no program").await;
    refused(&["no-such-program"], |_| {}, "not found in PATH").await;
    refused(&["/etc/passwd"], |_| {}, "not executable").await;
    refused(&["true", "a\0b"], |_| {}, "cannot hold").await;
    refused(&["true"], |spec| spec.limits.wall = Span::from_millis(0), "`wall`").await;
    refused(&["true"], |spec| spec.work_folder = "/no/such".into(), "/no/such").await;
    for path in ["/tmp/file", "../file", "below/../../file", "", ".", "a\0b"] {
        let mut spec = ProgramSpec::new(["true"], folder.path(), Sandbox::None);
        spec.files = vec![(path.into(), "text".into())];
        let error = soon(Program::start(spec)).await.unwrap_err();
        assert!(
            matches!(&error, StartError::File(file) if file == std::path::Path::new(path)),
            "{error:?}"
        );
    }
    let bad = folder.path().join("bad");
    std::fs::write(&bad, "no program").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&bad, mode).unwrap();
    let error = refused(&["./bad"], |_| {}, "it cannot be executed").await;
    assert!(matches!(error, StartError::System { .. }), "{error:?}");
}
