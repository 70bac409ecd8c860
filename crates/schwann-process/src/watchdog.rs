//! What a tree of processes uses, seen from outside.
//!
//! Where the kernel counts for us (cgroups) this is not needed. It counts
//! memory that processes share by fork once for each, and what a process takes
//! between two looks is seen late.

use std::{fs, path::Path, time::Duration};

use rustix::{
    param::{clock_ticks_per_second, page_size},
    process::Pid,
};

/// What a process and its descendants use.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Bytes of memory that are not a file's.
    pub(crate) memory: u64,
    /// Time on processors, of those who ended as well.
    pub(crate) cpu: Duration,
    /// Threads.
    pub(crate) processes: u32,
}

/// Their memory that is not a file's, in bytes:
/// what they share counts once. Slower than [`usage`]; None if one of them may
/// not be looked into.
pub(crate) fn exact_memory(who: Who) -> Option<u64> {
    let mut total = 0;
    for pid in who.all() {
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else {
            // Gone in the meantime, or a secret.
            if Path::new("/proc").join(pid.to_string()).exists() {
                return None;
            }
            continue;
        };
        let line = text.lines().find_map(|line| line.strip_prefix("Pss_Anon:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        // A zombie has none.
        total += kib.unwrap_or(0) << 10;
    }
    Some(total)
}

/// Which processes are looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Who {
    /// A process and its descendants. Who has no parent among them any more
    /// is not found.
    Descendants(Pid),
    /// A process group, which nobody can leave.
    Group(Pid),
}

impl Who {
    pub(crate) fn all(self) -> Vec<i32> {
        match self {
            Self::Descendants(root) => tree(root),
            Self::Group(group) => members(group.as_raw_nonzero().get()),
        }
    }
}

/// Whether somebody of a process group still runs. Who has ended and was not
/// reaped does not count: that is for its parent to do, whoever this is.
pub(crate) fn runs(group: Pid) -> bool {
    let is_running = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(')').map_or("", |(_, fields)| fields).trim_start();
        !state.is_empty() && !state.starts_with(['Z', 'X'])
    };
    members(group.as_raw_nonzero().get()).into_iter().any(is_running)
}

fn members(group: i32) -> Vec<i32> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_in = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
        // After the name: state, parent, group.
        fields.split_ascii_whitespace().nth(2).and_then(|field| field.parse().ok()) == Some(group)
    };
    numbers.filter(is_in).take(MOST).collect()
}

/// A process and its descendants.
fn tree(root: Pid) -> Vec<i32> {
    let mut found = vec![root.as_raw_nonzero().get()];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied()
        && found.len() < MOST
    {
        next += 1;
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for thread in threads.flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            found.extend(children.split_ascii_whitespace().flat_map(str::parse::<i32>));
        }
    }
    found
}

/// Most processes that are looked at: a tree that has more is over any limit.
const MOST: usize = 10_000;

/// Sums up what they use.
pub(crate) fn usage(who: Who) -> Usage {
    let mut total = Usage::default();
    let mut ticks = 0;
    for pid in who.all() {
        // Gone in the meantime, at any of these.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The name, in parentheses, may hold anything.
        let Some((_, fields)) = stat.rsplit_once(')') else { continue };
        let fields: Vec<u64> =
            fields.split_ascii_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        // proc_pid_stat(5), where the state is field 3: utime to cstime.
        ticks += fields.get(11..15).map_or(0, |times| times.iter().sum());
        total.processes += fields.get(17).map_or(1, |threads| *threads as u32);
        if let Ok(statm) = fs::read_to_string(format!("/proc/{pid}/statm")) {
            let mut pages = statm.split_ascii_whitespace().skip(1).map(str::parse::<u64>);
            if let (Some(Ok(resident)), Some(Ok(shared))) = (pages.next(), pages.next()) {
                total.memory += resident.saturating_sub(shared) * page_size() as u64;
            }
        }
    }
    total.cpu = Duration::from_millis(ticks * 1000 / clock_ticks_per_second());
    total
}
