//! A program that is part of a measurement: it says JSON lines to whoever started it, hears theirs, and ends when they do.

use std::io::{self, Read as _, Write as _};

use serde_json::Value;

/// Says one line.
///
/// # Errors
///
/// Fails if nobody listens any more.
pub fn say(line: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// The next line; `None` when whoever started this is gone.
///
/// # Errors
///
/// Fails if it is no JSON.
pub fn hear() -> io::Result<Option<Value>> {
    let mut line = String::new();
    match io::stdin().read_line(&mut line)? {
        0 => Ok(None),
        _ => Ok(Some(serde_json::from_str(&line)?)),
    }
}

/// Completes when whoever started this is gone, or wants this gone. Nothing can be heard after it was called.
///
/// # Cancel safety
///
/// If the future is dropped, what is said meanwhile is lost.
pub async fn dismissed() {
    let (gone, wait) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        let _ = gone.send(());
    });
    let _ = wait.await;
}
