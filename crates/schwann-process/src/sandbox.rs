//! How far a program is isolated, and what this machine provides for it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How far a program is isolated from the host.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Sandbox {
    /// Not at all. For programs as trusted as the server.
    None,
    /// Namespaces of its own: no network, no files of the host but the
    /// system's programs and libraries, no other processes, nobody's user.
    /// Needs `bwrap`. Also written `strict`.
    #[serde(alias = "strict")]
    Bubblewrap,
    /// The host's namespaces, and rules of the kernel about what may be
    /// touched there. Weaker; for one user on a machine of their own.
    Landlock,
    /// `bubblewrap` where it works, else `landlock`, else nothing runs.
    Auto,
}

impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Bubblewrap => "bubblewrap",
            Self::Landlock => "landlock",
            Self::Auto => "auto",
        })
    }
}
