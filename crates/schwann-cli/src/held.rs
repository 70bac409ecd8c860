//! What a program in a sandbox is held to, and what of the machine it is shown: the same for synapses and transforms.

use std::{
    io,
    path::{Path, PathBuf},
};

use schwann_process::{ByteSize, CommandSpec, Sandbox, Span};

/// As written; what is not keeps its default.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    pub(crate) max_cpu: Option<Span>,
    pub(crate) max_memory: Option<ByteSize>,
    pub(crate) max_processes: Option<u32>,
    pub(crate) max_open_files: Option<u32>,
    pub(crate) max_folder: Option<ByteSize>,
    pub(crate) read_only: Option<Vec<PathBuf>>,
}

/// Why a program cannot be held so.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeldError {
    #[error("`{0}` means nothing with `sandbox = \"none\"`, which holds a program to nothing")]
    NoSandbox(&'static str),
    #[error("`read_only`: {} cannot be shown: {source}", .path.display())]
    ReadOnly { path: PathBuf, source: io::Error },
}

impl HeldError {
    /// The setting that is wrong.
    pub(crate) fn setting(&self) -> &'static str {
        match self {
            Self::NoSandbox(setting) => setting,
            Self::ReadOnly { .. } => "read_only",
        }
    }
}

impl Held {
    /// Which of them are set.
    pub(crate) fn settings(&self) -> [(&'static str, bool); 6] {
        [
            ("max_cpu", self.max_cpu.is_some()),
            ("max_memory", self.max_memory.is_some()),
            ("max_processes", self.max_processes.is_some()),
            ("max_open_files", self.max_open_files.is_some()),
            ("max_folder", self.max_folder.is_some()),
            ("read_only", self.read_only.as_ref().is_some_and(|paths| !paths.is_empty())),
        ]
    }

    /// Puts them into `spec`; paths are relative to `folder`. Processor time is as long as the run if it is not set.
    pub(crate) fn apply(self, folder: &Path, spec: &mut CommandSpec) -> Result<(), HeldError> {
        if spec.sandbox == Sandbox::None {
            let set = self.settings().into_iter().find(|(_, set)| *set);
            return set.map_or(Ok(()), |(setting, _)| Err(HeldError::NoSandbox(setting)));
        }
        let limits = &mut spec.limits;
        limits.cpu = self.max_cpu.unwrap_or(spec.timeout);
        limits.memory = self.max_memory.unwrap_or(limits.memory);
        limits.processes = self.max_processes.unwrap_or(limits.processes);
        limits.open_files = self.max_open_files.unwrap_or(limits.open_files);
        limits.folder = self.max_folder.unwrap_or(limits.folder);
        limits.file = limits.folder;
        for path in self.read_only.unwrap_or_default() {
            let shown = folder.join(&path).canonicalize();
            spec.read_only.push(shown.map_err(|source| HeldError::ReadOnly { path, source })?);
        }
        Ok(())
    }
}
