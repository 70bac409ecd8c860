//! How a process has ended that somebody else waits for.

#![expect(unsafe_code, reason = "a request of ioctl that no crate has yet")]

use std::os::fd::{AsFd, AsRawFd};

use crate::Exit;

/// `struct pidfd_info` of linux/pidfd.h, as it was in its first version.
#[derive(Default)]
#[repr(C)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    pid: u32,
    group: u32,
    parent: u32,
    users_and_groups: [u32; 8],
    exit_code: i32,
}

/// `PIDFD_INFO_EXIT`: since Linux 6.15.
const EXIT: u64 = 1 << 3;

/// `PIDFD_GET_INFO`: read and write, of type 0xff, number 11.
const GET_INFO: u64 = 3 << 30 | (size_of::<PidfdInfo>() as u64) << 16 | 0xff << 8 | 11;

/// How a process ended, once whoever waited for it was told; None before, and
/// where the kernel is older than Linux 6.15.
pub(crate) fn exit_status(pidfd: impl AsFd) -> Option<Exit> {
    let mut info = PidfdInfo { mask: EXIT, ..PidfdInfo::default() };
    // SAFETY: the kernel writes as many bytes as the request's number says,
    // which is the size of `info`, all of whose fields may hold any bits.
    let done = unsafe { libc::ioctl(pidfd.as_fd().as_raw_fd(), GET_INFO as _, &raw mut info) };
    let is_told = done == 0 && info.mask & EXIT != 0;
    is_told.then(|| Exit::from_status(info.exit_code))
}

impl Exit {
    /// From what wait(2) tells.
    pub(crate) const fn from_status(status: i32) -> Self {
        if libc::WIFEXITED(status) {
            Self::Code(libc::WEXITSTATUS(status))
        } else {
            Self::Signal(libc::WTERMSIG(status))
        }
    }
}
