//! The end of a process is an event, also for who did not start it.

use std::{os::fd::OwnedFd, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

/// A process whose end is waited for.
pub(crate) struct Watched(OwnedFd);

impl Watched {
    #[track_caller]
    pub(crate) fn of(pid: Pid) -> Self {
        Self(pidfd_open(pid, PidfdFlags::empty()).expect("it runs"))
    }

    /// The process that wrote its number.
    #[track_caller]
    pub(crate) fn number(text: &str) -> Self {
        Self::of(Pid::from_raw(text.trim().parse().expect("a number")).expect("not 0"))
    }

    #[track_caller]
    pub(crate) fn ends_within(&self, patience: Duration) {
        let patience = Timespec::try_from(patience).expect("not for ever");
        let mut end = [PollFd::new(&self.0, PollFlags::IN)];
        assert_eq!(poll(&mut end, Some(&patience)), Ok(1), "still running");
    }
}
