//! How far a program is isolated, and what this machine provides for it.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{sync::OnceCell, time::timeout};

use crate::{
    ProgramSpec, Session, StartError, bubblewrap::Bubblewrap, cgroup::Cgroups, environment,
    landlocked, program::start_plain, session::Started, terminal,
};

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

/// What this machine provides for sandboxes: found out once, by really
/// running programs in them.
///
/// Its `Display` is one line for a log.
#[derive(Debug)]
pub struct SandboxReport {
    pub(crate) bubblewrap: Result<Bubblewrap, String>,
    pub(crate) cgroups: Result<Cgroups, String>,
    pub(crate) landlock: Result<String, String>,
}

/// Where sandboxes are found.
#[derive(Debug)]
pub struct Sandboxes;

impl Sandboxes {
    /// What this machine provides. The first call runs a few programs, which
    /// takes some 20 ms; later calls answer at once.
    pub async fn probe() -> &'static SandboxReport {
        static REPORT: OnceCell<SandboxReport> = OnceCell::const_new();
        REPORT.get_or_init(SandboxReport::find).await
    }
}

/// How long a program that does nothing may take to do so.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the program of a probe exits with: nothing else does.
const WORKS: i32 = 42;

impl SandboxReport {
    async fn find() -> Self {
        let cgroups = Cgroups::find();
        let bubblewrap = match installed().await {
            Ok(found) => works(&found, cgroups.as_ref().ok()).await.map(|()| found),
            Err(missing) => Err(missing),
        };
        let landlock = landlocked::available();
        Self { bubblewrap, cgroups, landlock }
    }

    /// The sandbox that a program asking for this one would get.
    ///
    /// # Errors
    ///
    /// What is missing on this machine, and how to get it. There is nothing
    /// weaker to fall back to, unless it was asked for.
    pub fn resolve(&self, asked: Sandbox) -> Result<Sandbox, String> {
        let bubblewrap = || match &self.bubblewrap {
            Ok(_) => Ok(Sandbox::Bubblewrap),
            Err(missing) => Err(missing.clone()),
        };
        let landlock = || match &self.landlock {
            Ok(_) => Ok(Sandbox::Landlock),
            Err(missing) => Err(missing.clone()),
        };
        match asked {
            Sandbox::None => Ok(Sandbox::None),
            Sandbox::Bubblewrap => bubblewrap(),
            Sandbox::Landlock => landlock(),
            Sandbox::Auto => bubblewrap().or_else(|first| {
                landlock().map_err(|second| format!("{first}; and landlock: {second}"))
            }),
        }
    }

    /// Whether the memory and processes of a run are bounded by the kernel as
    /// a whole. If not they are watched, which is coarser.
    pub fn has_cgroups(&self) -> bool {
        self.cgroups.is_ok()
    }
}

impl fmt::Display for SandboxReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.bubblewrap {
            Ok(found) => write!(f, "bubblewrap {}", found.version)?,
            Err(missing) => write!(f, "no bubblewrap ({missing})")?,
        }
        match &self.cgroups {
            Ok(found) => write!(f, ", {}", found.name())?,
            Err(missing) => write!(f, ", memory watched and not held ({missing})")?,
        }
        match &self.landlock {
            Ok(found) => write!(f, ", {found}"),
            Err(missing) => write!(f, ", no landlock ({missing})"),
        }
    }
}

/// A program's whole output and code, started without any sandbox.
pub(crate) async fn ask(command: &[&str]) -> Result<(String, Option<i32>), StartError> {
    let folder = tempfile::tempdir()
        .map_err(|source| StartError::Folder { folder: std::env::temp_dir(), source })?;
    let spec = ProgramSpec::new(command.iter().copied(), folder.path(), Sandbox::None);
    Ok(said(&mut start_plain(&spec).await?).await)
}

async fn said(session: &mut Session) -> (String, Option<i32>) {
    let mut all = Vec::new();
    let follow = async {
        while let Some(piece) = session.output().await {
            all.extend_from_slice(&piece.bytes);
        }
        session.end().await.code
    };
    let code = timeout(PATIENCE, follow).await.unwrap_or(None);
    (String::from_utf8_lossy(&all).trim().to_owned(), code)
}

async fn installed() -> Result<Bubblewrap, String> {
    let get = "install it, on Debian and Ubuntu by `apt-get install bubblewrap`";
    let path = environment::find_program("bwrap");
    let path = path.map_err(|_| format!("`bwrap` is not installed: {get}"))?;
    let shown = path.display().to_string();
    let broken = |error: StartError| format!("`{shown}` does not run: {error}");
    let (text, _) = ask(&[&shown, "--version"]).await.map_err(broken)?;
    let version = text.rsplit(' ').next().unwrap_or_default().to_owned();
    let mut numbers = version.split('.').map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Err(format!("`{shown} --version` says no version but `{text}`"));
    };
    if (major, minor) < (0, 8) {
        return Err(format!("`{shown}` is version {version}, and 0.8 is needed"));
    }
    Ok(Bubblewrap { path, version })
}

/// Runs a program in it.
async fn works(found: &Bubblewrap, cgroups: Option<&Cgroups>) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
    let script = format!("exit {WORKS}");
    let spec = ProgramSpec::new(["/bin/sh", "-c", &script], folder.path(), Sandbox::Bubblewrap);
    let opened = terminal::open(None).map_err(|error| error.to_string())?;
    let (streams, ends) = opened;
    let tree = found.start(&spec, ends, cgroups).await.map_err(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        format!("{error}: {}", source.unwrap_or_default())
    })?;
    let mut session = Session::new(Started { tree, streams, limits: spec.limits });
    match said(&mut session).await {
        (_, Some(WORKS)) => Ok(()),
        (text, _) => Err(format!(
            "`bwrap` cannot make a sandbox here: {text} (docs/sandbox.md says what a container or \
             Ubuntu needs to allow)"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine on which neither works, or only landlock does.
    fn machine(landlock: bool) -> SandboxReport {
        SandboxReport {
            bubblewrap: Err("no bwrap".to_owned()),
            cgroups: Err("no cgroups".to_owned()),
            landlock: if landlock { Ok("landlock".to_owned()) } else { Err("old".to_owned()) },
        }
    }

    #[test]
    fn nothing_weaker_is_taken_than_what_was_asked_for() {
        let (bare, weak) = (machine(false), machine(true));
        for asked in [Sandbox::Bubblewrap, Sandbox::Landlock, Sandbox::Auto] {
            assert!(bare.resolve(asked).is_err(), "{asked}");
        }
        let missing = bare.resolve(Sandbox::Auto).unwrap_err();
        assert!(missing.contains("no bwrap") && missing.contains("old"), "{missing}");
        assert_eq!(weak.resolve(Sandbox::Bubblewrap), Err("no bwrap".to_owned()));
        assert_eq!(weak.resolve(Sandbox::Auto), Ok(Sandbox::Landlock));
        // Only whoever writes it gets it.
        assert_eq!(bare.resolve(Sandbox::None), Ok(Sandbox::None));
    }
}
