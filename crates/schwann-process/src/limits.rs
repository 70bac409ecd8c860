//! What one run of a program may use.

use serde::{Deserialize, Serialize};

use crate::{ByteSize, Span};

/// What one run may use. Each limit has a default, and none is unlimited.
///
/// Memory, processor time and processes are those of the whole tree of
/// processes where there are cgroups. Without them a tree is watched from
/// outside, which is coarser; see `docs/sandbox.md`.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest run, whatever it does. 60 s.
    pub wall: Span,
    /// Time on processors, of all its processes together. 60 s.
    pub cpu: Span,
    /// Memory of all its processes together, the files in its work folder
    /// included. 512 MiB. With `sandbox = "none"` it is watched, and not held
    /// by the kernel.
    pub memory: ByteSize,
    /// Processes and threads at once. 64. Not held with `sandbox = "none"`.
    pub processes: u32,
    /// Open files of each process. 256.
    pub open_files: u32,
    /// What it may write to stdout and stderr together. 8 MiB.
    pub output: ByteSize,
    /// What its work folder may hold. 64 MiB.
    pub folder: ByteSize,
    /// The largest file it may write. 64 MiB.
    pub file: ByteSize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            wall: Span::from_secs(60),
            cpu: Span::from_secs(60),
            memory: ByteSize::new(512 << 20),
            processes: 64,
            open_files: 256,
            output: ByteSize::new(8 << 20),
            folder: ByteSize::new(64 << 20),
            file: ByteSize::new(64 << 20),
        }
    }
}

impl Limits {
    /// The name of the first limit that lets nothing run.
    pub(crate) fn zero(&self) -> Option<&'static str> {
        let zero = Span::from_millis(0);
        let none = ByteSize::new(0);
        [
            ("wall", self.wall == zero),
            ("cpu", self.cpu == zero),
            ("memory", self.memory == none),
            ("processes", self.processes == 0),
            ("open_files", self.open_files == 0),
            ("output", self.output == none),
            ("folder", self.folder == none),
            ("file", self.file == none),
        ]
        .into_iter()
        .find_map(|(name, is_zero)| is_zero.then_some(name))
    }
}
