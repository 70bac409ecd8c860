//! Who ends programs if this process dies before it can.
//!
//! The kernel's own signal for that (`PR_SET_PDEATHSIG`) reaches one process,
//! and only from when that one has asked for it: a bubblewrap that is killed
//! between making its sandbox and being heard in it would leave a process that
//! waits for it forever, and a program without namespaces leaves its children.
//!
//! One shell does it for all programs. It is told of process groups on its
//! input, whose end is our death: each program writes the number of its group
//! itself before it is executed, so that there is no moment at which it lives
//! unwatched, and we take the number back while it cannot be anybody else's.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, fcntl_setfl, open},
    pipe::{PipeFlags, pipe_with},
};
use tracing::{error, warn};

use crate::{
    launch::{self, Child, Confinement, Exposed, Launch, LaunchError, Step},
    program::text,
};

/// What the shell does. Its lines are `+` or `-` and a group's number.
const SCRIPT: &str = r#"trap '' TERM INT HUP
all=' '
while read -r what group; do
case $what$all in
+*) all="$all$group " ;;
-*" $group "*) all="${all%% $group *} ${all#* $group }" ;;
esac
done
for group in $all; do kill -s KILL -- "-$group"; done"#;

/// All groups that are watched, and who watches them.
static WATCH: Mutex<Watch> = Mutex::new(Watch { groups: BTreeSet::new(), survivor: None });

#[derive(Debug)]
struct Watch {
    groups: BTreeSet<i32>,
    survivor: Option<Survivor>,
}

/// A shell that kills process groups when this process has died.
#[derive(Debug)]
struct Survivor {
    shell: Child,
    /// Nobody else has this end of its input but children that are not yet executed.
    alive: OwnedFd,
}

fn watch() -> MutexGuard<'static, Watch> {
    WATCH.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a child that is about to be started writes its number. To be called, with [`add`] after it, by the one thread
/// that starts children.
pub(crate) fn ready() -> Result<i32, LaunchError> {
    let mut watch = watch();
    watch.survive()?;
    let survivor = watch.survivor.as_ref().expect("it was just looked for");
    // It is replaced by this thread alone, which is about to start a child.
    Ok(survivor.alive.as_raw_fd())
}

/// Notes that a child has written its number.
pub(crate) fn add(group: i32) {
    watch().groups.insert(group);
}

/// Ends the watch over a group whose members are all killed, while its number can be nobody else's.
pub(crate) fn remove(group: i32) {
    if let Err(error) = watch().remove(group) {
        warn!(%error, "the shell that watches programs does not listen, and is replaced");
        launch::look_after_survivor();
    }
}

/// Sees to it that somebody watches, if there is anything to watch. To be called by the one thread that starts children.
pub(crate) fn revive() {
    let mut watch = watch();
    if watch.groups.is_empty() {
        return;
    }
    if let Err(LaunchError { step, source }) = watch.survive() {
        error!(%step, error = %source, "nobody ends the programs that run if this process is killed");
    }
}

impl Watch {
    /// Starts a survivor if there is none.
    fn survive(&mut self) -> Result<(), LaunchError> {
        if self.survivor.as_ref().is_some_and(Survivor::lives) {
            return Ok(());
        }
        self.give_up();
        let survivor = Survivor::start()?;
        for group in &self.groups {
            survivor
                .tell('+', *group)
                .map_err(|source| LaunchError { step: Step::Lifeline, source })?;
        }
        self.survivor = Some(survivor);
        Ok(())
    }

    /// Fails if the survivor did not hear it, and is given up for that: it would kill whoever has the number by then.
    fn remove(&mut self, group: i32) -> io::Result<()> {
        self.groups.remove(&group);
        let Some(survivor) = &self.survivor else { return Ok(()) };
        survivor.tell('-', group).inspect_err(|_| self.give_up())
    }

    fn give_up(&mut self) {
        if let Some(Survivor { mut shell, alive }) = self.survivor.take() {
            shell.kill();
            shell.reap();
            // Not before: it would take it for our death.
            drop(alive);
        }
    }
}

impl Survivor {
    fn start() -> Result<Self, LaunchError> {
        let streams =
            |source: rustix::io::Errno| LaunchError { step: Step::Streams, source: source.into() };
        let (stdin, alive) = pipe_with(PipeFlags::CLOEXEC).map_err(streams)?;
        // If it does not read, nobody is to wait for that.
        fcntl_setfl(&alive, OFlags::WRONLY | OFlags::NONBLOCK).map_err(streams)?;
        let null = || open("/dev/null", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        let shell = launch::start(&Launch {
            program: c"/bin/sh".to_owned(),
            arguments: vec![c"sh".to_owned(), c"-c".to_owned(), text(SCRIPT.as_bytes())],
            environment: Vec::new(),
            folder: Some(c"/".to_owned()),
            stdin,
            stdout: null().map_err(streams)?,
            stderr: null().map_err(streams)?,
            keep: Vec::new(),
            gate: None,
            terminal: false,
            identity: None,
            limits: Vec::new(),
            join: Vec::new(),
            exposed: Exposed::default(),
            outlives: true,
            watched: false,
            confinement: Confinement::default(),
        })?;
        let survivor = Self { shell, alive };
        if let Err(error) = survivor.report_end() {
            warn!(%error, "if the shell that watches programs ends, it is replaced at the next start only");
        }
        Ok(survivor)
    }

    /// Has it replaced as soon as it ends.
    fn report_end(&self) -> io::Result<()> {
        /// A shell that cannot live is not started more often than this.
        const PAUSE: Duration = Duration::from_secs(1);
        let pidfd = self.shell.as_fd().try_clone_to_owned()?;
        let began = Instant::now();
        let report = move || {
            while poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).is_err() {}
            let pause = Timespec::try_from(PAUSE.saturating_sub(began.elapsed()));
            // Nothing but the time can end it.
            let _ = poll(&mut [], pause.as_ref().ok());
            launch::look_after_survivor();
        };
        thread::Builder::new().name("watches-watcher".into()).stack_size(64 << 10).spawn(report)?;
        Ok(())
    }

    fn lives(&self) -> bool {
        let mut ended = [PollFd::new(&self.shell, PollFlags::IN)];
        matches!(poll(&mut ended, Some(&Timespec::default())), Ok(0))
    }

    /// A short line, which is written whole or not at all.
    fn tell(&self, what: char, group: i32) -> io::Result<()> {
        rustix::io::write(&self.alive, format!("{what} {group}\n").as_bytes())?;
        Ok(())
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a shell and groups of its own, which nobody else knows of"
)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        os::unix::process::{CommandExt as _, ExitStatusExt as _},
        process::{Child, Command, Stdio},
    };

    use super::*;

    /// Leads a group, and ends when its input does.
    fn group() -> Child {
        Command::new("cat")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn survivor() -> Child {
        Command::new("/bin/sh")
            .args(["-c", SCRIPT])
            .env_clear()
            .stdin(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Whether it still answers.
    fn lives(child: &mut Child) -> bool {
        let _ = child.stdin.as_mut().unwrap().write_all(b"x");
        child.stdout.as_mut().unwrap().read(&mut [0]).unwrap() == 1
    }

    #[test]
    fn the_groups_that_are_left_are_killed_and_no_others() {
        let mut groups: Vec<_> = (0..8).map(|_| group()).collect();
        let mut shell = survivor();
        let mut input = shell.stdin.take().unwrap();
        for group in &groups {
            writeln!(input, "+ {}", group.id()).unwrap();
        }
        // The first, the last, one between, one that it does not know, and one that comes back.
        for gone in [0, 7, 3, 5] {
            writeln!(input, "- {}", groups[gone].id()).unwrap();
        }
        writeln!(input, "- 1").unwrap();
        writeln!(input, "- {}", groups[3].id()).unwrap();
        writeln!(input, "+ {}", groups[5].id()).unwrap();
        drop(input);
        assert!(shell.wait().unwrap().success());
        for (number, group) in groups.iter_mut().enumerate() {
            if [0, 3, 7].contains(&number) {
                assert!(lives(group), "{number} was killed");
                drop(group.stdin.take());
                assert!(group.wait().unwrap().success());
            } else {
                assert_eq!(group.wait().unwrap().signal(), Some(libc::SIGKILL), "{number}");
            }
        }
    }

    /// A watch of its own over some groups.
    fn watched(groups: &[Child]) -> Watch {
        let mut watch = Watch { groups: BTreeSet::new(), survivor: None };
        watch.survive().unwrap();
        for group in groups {
            let number = group.id() as i32;
            watch.survivor.as_ref().unwrap().tell('+', number).unwrap();
            watch.groups.insert(number);
        }
        watch
    }

    /// What our death does.
    fn die(mut watch: Watch) {
        let Survivor { mut shell, alive } = watch.survivor.take().unwrap();
        drop(alive);
        shell.reap();
    }

    #[track_caller]
    fn only_the_second_was_killed([first, second]: &mut [Child; 2]) {
        assert!(lives(first));
        assert_eq!(second.wait().unwrap().signal(), Some(libc::SIGKILL));
        drop(first.stdin.take());
        first.wait().unwrap();
    }

    #[test]
    fn a_group_that_was_taken_back_lives_on() {
        let mut groups = [group(), group()];
        let mut watch = watched(&groups);
        watch.remove(groups[0].id() as i32).unwrap();
        die(watch);
        only_the_second_was_killed(&mut groups);
    }

    #[test]
    fn a_shell_that_does_not_listen_is_replaced_and_kills_nobody() {
        let mut groups = [group(), group()];
        let mut watch = watched(&groups);
        let shell = watch.survivor.as_ref().unwrap().shell.pid();
        rustix::process::kill_process(shell, rustix::process::Signal::STOP).unwrap();
        let (taken, kept) = (groups[0].id() as i32, groups[1].id() as i32);
        // Some thousand lines fill the pipe.
        let failed = (0..1_000_000).find_map(|_| watch.remove(taken).err()).expect("it is full");
        assert_eq!(failed.kind(), io::ErrorKind::WouldBlock);
        assert!(watch.survivor.is_none());
        assert!(lives(&mut groups[0]) && lives(&mut groups[1]));
        watch.survive().unwrap();
        assert_eq!(watch.groups, BTreeSet::from([kept]));
        die(watch);
        only_the_second_was_killed(&mut groups);
    }

    #[test]
    fn a_thousand_groups_come_and_go_and_the_last_is_killed() {
        let (mut one, mut last) = (group(), group());
        let mut shell = survivor();
        let mut input = shell.stdin.take().unwrap();
        for _ in 0..1000 {
            writeln!(input, "+ {}\n- {}", one.id(), one.id()).unwrap();
        }
        writeln!(input, "+ {}", last.id()).unwrap();
        drop(input);
        shell.wait().unwrap();
        assert!(lives(&mut one));
        drop(one.stdin.take());
        one.wait().unwrap();
        assert_eq!(last.wait().unwrap().signal(), Some(libc::SIGKILL));
    }
}
