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

/// Memory of a process and its descendants that is not a file's, in bytes:
/// what they share counts once. Slower than [`usage`]; None if one of them may
/// not be looked into.
pub(crate) fn exact_memory(root: Pid) -> Option<u64> {
    let mut total = 0;
    for pid in tree(root) {
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

/// Sums up a process and its descendants. Who has no parent in it any more is
/// not found.
pub(crate) fn usage(root: Pid) -> Usage {
    let mut total = Usage::default();
    let mut ticks = 0;
    for pid in tree(root) {
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

/// Most entries of a folder that are looked at; one that has more is too large.
pub(crate) const MOST_ENTRIES: usize = 20_000;

/// Whether a folder holds more than so many bytes on disk. Links are not
/// followed.
pub(crate) fn is_larger(folder: &Path, most: u64) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (mut bytes, mut entries) = (0, 0);
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            entries += 1;
            if let Ok(metadata) = entry.metadata() {
                bytes += metadata.blocks() * 512;
                if metadata.is_dir() {
                    folders.push(entry.path());
                }
            }
            if bytes > most || entries > MOST_ENTRIES {
                return true;
            }
        }
    }
    false
}
