//! Events of what others do: a process that ends, whoever started it, and a folder in which something changes. Both are
//! awaited, and for no longer than is said.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify::{self, CreateFlags, WatchFlags},
    process::{Pid, PidfdFlags, pidfd_open},
};

/// A process whose end is awaited. It has ended also while nobody has waited for it.
#[derive(Debug)]
pub struct Watched(OwnedFd);

impl Watched {
    /// Watches a process.
    ///
    /// # Panics
    ///
    /// If it is gone.
    #[track_caller]
    pub fn of(pid: Pid) -> Self {
        Self(pidfd_open(pid, PidfdFlags::empty()).expect("it runs"))
    }

    /// Watches the process that wrote its number.
    ///
    /// # Panics
    ///
    /// If that is no number, or the process is gone.
    #[track_caller]
    pub fn number(text: &str) -> Self {
        Self::of(Pid::from_raw(text.trim().parse().expect("a number")).expect("not 0"))
    }

    /// The processes of this machine whose command lines, with a NUL after each word, are looked for.
    ///
    /// # Panics
    ///
    /// If there is no `/proc`.
    pub fn all(mut looked_for: impl FnMut(&[u8]) -> bool) -> Vec<Self> {
        let entries = fs::read_dir("/proc").expect("Linux").flatten();
        let of = |entry: fs::DirEntry| {
            let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
            let line = || fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if !looked_for(&line()) {
                return None;
            }
            // It may have ended since, and its number may be another's: so it is looked at once more.
            let watched = Self(pidfd_open(pid, PidfdFlags::empty()).ok()?);
            looked_for(&line()).then_some(watched)
        };
        entries.filter_map(of).collect()
    }

    /// Waits, blocking, until it ends.
    ///
    /// # Panics
    ///
    /// If it takes longer.
    #[track_caller]
    pub fn ends_within(&self, at_most: Duration) {
        assert!(readable(&self.0, at_most), "still running after {at_most:?}");
    }
}

/// Waits, blocking, until no process has a command line that is looked for. One that comes meanwhile is waited for, too.
///
/// # Panics
///
/// If it takes longer.
#[track_caller]
pub fn none_is_left(at_most: Duration, mut looked_for: impl FnMut(&[u8]) -> bool) {
    let until = Instant::now() + at_most;
    loop {
        let all = Watched::all(&mut looked_for);
        if all.is_empty() {
            return;
        }
        all.iter()
            .for_each(|left| left.ends_within(until.saturating_duration_since(Instant::now())));
    }
}

/// Looks now, and whenever something in the folder is made, written to or removed, until something is found; waits, blocking. The
/// folders in it are not watched.
///
/// # Panics
///
/// If the folder cannot be watched, or nothing is found in this time.
#[track_caller]
pub fn folder<T>(path: &Path, at_most: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + at_most;
    let changes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).expect("inotify");
    let kinds = WatchFlags::CREATE
        | WatchFlags::MODIFY
        | WatchFlags::MOVE
        | WatchFlags::DELETE
        | WatchFlags::ONLYDIR;
    inotify::add_watch(&changes, path, kinds).expect("a folder that can be read");
    loop {
        if let Some(found) = look() {
            return found;
        }
        let left = until.saturating_duration_since(Instant::now());
        assert!(readable(&changes, left), "not within {at_most:?} in {}", path.display());
        // Which change it was does not matter, nor how many.
        rustix::io::read(&changes, &mut [0; 4096]).expect("there was something");
    }
}

/// Reads a file, whoever writes it, when what stands there is enough; waits, blocking.
///
/// # Panics
///
/// If that takes longer, or the folder of the file is not there.
#[track_caller]
pub fn written(path: &Path, at_most: Duration, mut enough: impl FnMut(&str) -> bool) -> String {
    let parent = path.parent().expect("a file in a folder");
    folder(parent, at_most, || {
        let text = String::from_utf8_lossy(&fs::read(path).ok()?).into_owned();
        enough(&text).then_some(text)
    })
}

fn readable(what: impl AsFd, at_most: Duration) -> bool {
    let at_most = Timespec::try_from(at_most).expect("not for ever");
    poll(&mut [PollFd::new(&what, PollFlags::IN)], Some(&at_most)).expect("it can be polled") == 1
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a program to watch")]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        process, thread,
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(50);

    #[test]
    fn a_file_is_read_when_enough_of_it_was_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("said");
        let writer = thread::spawn({
            let path = path.clone();
            move || {
                let mut file = fs::File::create(path).expect("made");
                for piece in ["4", "2", "\n"] {
                    file.write_all(piece.as_bytes()).expect("written");
                }
            }
        });
        assert_eq!(written(&path, LONG, |text| text.ends_with('\n')), "42\n");
        writer.join().expect("it does not panic");
    }

    #[test]
    #[should_panic(expected = "not within 50ms")]
    fn a_file_that_says_something_else_is_not_waited_for_without_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("said");
        fs::write(&path, "other").expect("written");
        written(&path, SHORT, |text| text == "this");
    }

    #[test]
    fn a_folder_is_looked_at_again_when_something_in_it_is_gone() {
        let parent = tempfile::tempdir().expect("a folder");
        let gone = parent.path().join("gone");
        fs::create_dir(&gone).expect("made");
        let remover = thread::spawn({
            let gone = gone.clone();
            move || fs::remove_dir(gone).expect("removed")
        });
        folder(parent.path(), LONG, || (!gone.exists()).then_some(()));
        remover.join().expect("it does not panic");
    }

    /// A program that runs and ends with its stdin, and a word by which it is found. It is known to run by what it says: when the
    /// child is there, its command line may still be empty.
    fn program(name: &str) -> (process::Child, String) {
        let word = format!("{name}-{}", process::id());
        let mut child = process::Command::new("sh")
            .args(["-c", "echo; read line; :", &word])
            .stdin(process::Stdio::piped())
            .stdout(process::Stdio::piped())
            .spawn()
            .expect("a shell starts");
        let said = child.stdout.as_mut().expect("it is piped").read_exact(&mut [0]);
        said.expect("it runs");
        (child, word)
    }

    fn has(line: &[u8], word: &str) -> bool {
        line.split(|byte| *byte == 0).any(|found| found == word.as_bytes())
    }

    #[test]
    fn programs_are_found_by_a_word_until_they_end() {
        let (mut child, word) = program("found");
        assert_eq!(Watched::all(|line| has(line, &word)).len(), 1);
        drop(child.stdin.take());
        none_is_left(LONG, |line| has(line, &word));
        Watched::of(Pid::from_child(&child)).ends_within(LONG);
        child.wait().expect("it was started here");
    }

    #[test]
    fn a_program_that_stays_is_not_waited_for_without_end() {
        let (mut child, word) = program("stays");
        let stays = || none_is_left(SHORT, |line| has(line, &word));
        assert!(std::panic::catch_unwind(stays).is_err());
        drop(child.stdin.take());
        child.wait().expect("it was started here");
    }
}
