//! What is said when a command cannot be done, and how it ends.

use std::{
    error::Error,
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
};

/// Why a command was not done: one line, and perhaps the next step.
#[derive(Debug)]
pub(crate) struct Problem {
    kind: Kind,
    message: String,
    hints: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The call failed.
    Failed,
    /// The command line, the configuration or other input is wrong.
    Usage,
    /// Nobody reads our output any more.
    Unread,
}

impl Problem {
    /// Something failed although it was asked for rightly. Exit code 1.
    pub(crate) fn failed(message: impl Display) -> Self {
        Self { kind: Kind::Failed, message: message.to_string(), hints: Vec::new() }
    }

    /// The command, the configuration or the input must be changed. Exit code 2.
    pub(crate) fn usage(message: impl Display) -> Self {
        Self { kind: Kind::Usage, message: message.to_string(), hints: Vec::new() }
    }

    /// Adds the next step.
    /// What went wrong, without hints.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn hint(mut self, hint: impl Display) -> Self {
        self.hints.push(hint.to_string());
        self
    }

    /// Says it on stderr; the exit code to end with.
    pub(crate) fn report(&self) -> ExitCode {
        let mut said = String::new();
        if self.kind != Kind::Unread {
            said = format!("error: {}\n", one_line(&self.message));
            for hint in &self.hints {
                said.push_str(&format!("hint: {}\n", one_line(hint)));
            }
        }
        // There is nowhere left to complain about stderr.
        let _ = io::stderr().lock().write_all(said.as_bytes());
        match self.kind {
            Kind::Failed | Kind::Unread => ExitCode::from(1),
            Kind::Usage => ExitCode::from(2),
        }
    }
}

/// The text of an error and of what is behind it.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        // Some errors show their source already.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

/// Text from elsewhere as one line that cannot move a terminal's cursor.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for word in text.split(char::is_control).filter(|word| !word.is_empty()) {
        if !line.is_empty() && !line.ends_with(' ') {
            line.push(' ');
        }
        line.push_str(word);
    }
    line
}

/// Writes data to stdout at once.
pub(crate) fn print(data: impl AsRef<[u8]>) -> Result<(), Problem> {
    let mut out = io::stdout().lock();
    out.write_all(data.as_ref()).and_then(|()| out.flush()).map_err(|error| {
        let kind = match error.kind() {
            io::ErrorKind::BrokenPipe => Kind::Unread,
            _ => Kind::Failed,
        };
        Problem { kind, message: format!("cannot write to stdout: {error}"), hints: Vec::new() }
    })
}

/// Writes a line of data to stdout.
pub(crate) fn print_line(line: impl Display) -> Result<(), Problem> {
    print(format!("{line}\n"))
}

/// Says something to a person, on stderr.
pub(crate) fn say(line: impl Display) {
    // A person who closed stderr does not want to be told.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_harmless_line() {
        assert_eq!(one_line("a\n  b\r\n\x1b[2Jc"), "a   b [2Jc");
        assert_eq!(one_line("\n\nplain"), "plain");
    }

    #[test]
    fn a_chain_does_not_repeat_itself() {
        let error = io::Error::new(io::ErrorKind::NotFound, "no such thing");
        assert_eq!(chain(&error), "no such thing");
    }
}
