//! Input that is still arriving while the program runs.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use schwann::RequestBody;
use schwann_process::{Job, RunError};

use crate::{Lifeline, command, sh, soon};

/// So many chunks of 64 KiB, then its end or a failure. Counts what was taken.
struct Source {
    left: usize,
    cut: bool,
    taken: Arc<AtomicUsize>,
}

impl Body for Source {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        static ZEROS: [u8; 65536] = [0; 65536];
        if self.left > 0 {
            self.left -= 1;
            self.taken.fetch_add(1, Ordering::SeqCst);
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&ZEROS)))));
        }
        Poll::Ready(self.cut.then(|| Err(std::io::ErrorKind::ConnectionReset.into())))
    }
}

#[tokio::test]
async fn what_a_program_does_not_read_is_not_taken_from_the_source() {
    let taken = Arc::new(AtomicUsize::new(0));
    let source = Source { left: 1 << 20, cut: false, taken: Arc::clone(&taken) };
    let program = command(sh("echo ready; read stop < /dev/null; sleep 60"));
    let body = RequestBody::from_body(source);
    let mut running = soon(program.stream_from(Job::default(), body)).await.unwrap();
    assert_eq!(soon(running.chunk()).await.unwrap().unwrap(), "ready\n");
    // Nothing says that a pipe is full; it has had its chance.
    let more = tokio::time::timeout(std::time::Duration::from_millis(300), running.chunk()).await;
    assert!(more.is_err());
    assert!(taken.load(Ordering::SeqCst) < 4, "{taken:?} chunks of 64 KiB in a pipe of 64 KiB");
}

#[tokio::test]
async fn more_than_memory_should_hold_goes_through() {
    let taken = Arc::new(AtomicUsize::new(0));
    let source = Source { left: 1024, cut: false, taken };
    let body = RequestBody::from_body(source);
    let program = command(sh("wc -c"));
    let mut running = soon(program.stream_from(Job::new("first"), body)).await.unwrap();
    let said = soon(running.chunk()).await.unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&said).trim(), (1024 * 65536 + 5).to_string());
    assert!(soon(running.chunk()).await.unwrap().is_none());
}

#[tokio::test]
async fn an_input_that_is_cut_never_looks_whole_to_the_program() {
    for left in [0, 1, 40] {
        let mut line = Lifeline::new();
        let held = line.hold_too();
        let source = Source { left, cut: true, taken: Arc::default() };
        // It would say so if it ever saw the end of its input.
        let script = format!("{} cat > /dev/null; echo whole >&9; echo whole", line.hold());
        let body = RequestBody::from_body(source);
        let program = command(sh(&script));
        let mut running = soon(program.stream_from(Job::default(), body)).await.unwrap();
        let error = soon(running.chunk()).await.unwrap_err();
        assert!(matches!(error, RunError::Input { .. }), "{error}");
        assert!(!error.after_output());
        assert!(soon(running.chunk()).await.is_err(), "a failed run came to life");
        drop(running);
        drop(held);
        line.cut().await;
        assert_eq!(line.waiting(), "", "it took what it had for all");
    }
}

#[tokio::test]
async fn a_program_may_stop_reading_early_and_succeed() {
    let source = Source { left: 1 << 20, cut: false, taken: Arc::default() };
    let program = command(sh("head -c 3 | wc -c"));
    let body = RequestBody::from_body(source);
    let output = soon(program.stream_from(Job::default(), body)).await.unwrap().collect();
    assert_eq!(soon(output).await.unwrap().stdout.trim_ascii(), b"3");
}
