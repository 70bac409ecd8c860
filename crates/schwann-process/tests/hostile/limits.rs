//! What a program is held to and where it is, as it sees that itself: each limit and each part of its sandbox alone, also where
//! something else would stop it as well.

use std::{
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Command,
};

use rustix::process::geteuid;
use schwann_process::{ByteSize, Program, ProgramSpec, Sandbox, Sandboxes};

use crate::{Done, MIB, Place, another_user::SOMEBODY, number, places, soon, start};

async fn bubblewraps() -> Vec<Place> {
    let all = places().await.into_iter();
    all.filter(|place| place.sandbox == Sandbox::Bubblewrap).collect()
}

/// A machine on which bubblewrap makes a sandbox and ours is none would test nothing here.
#[tokio::test]
async fn where_bubblewrap_works_it_is_not_said_to_be_missing() {
    // What ours cannot do without, as a user that is not root.
    let mut by_hand = Command::new("bwrap");
    by_hand.args(["--unshare-user", "--unshare-all", "--disable-userns", "--ro-bind", "/", "/"]);
    by_hand.args(["--proc", "/proc", "--dev", "/dev", "true"]).current_dir("/");
    if geteuid().is_root() {
        by_hand.uid(SOMEBODY).gid(SOMEBODY);
    }
    let by_hand = by_hand.output();
    if !by_hand.is_ok_and(|done| done.status.success()) {
        eprintln!("NOT TESTED: NO BUBBLEWRAP, OR NONE THAT WORKS");
        return;
    }
    let resolved = Sandboxes::probe().await.resolve(Sandbox::Bubblewrap);
    assert_eq!(resolved, Ok(Sandbox::Bubblewrap));
}

/// Threads of this user, most of which are not of these tests.
fn threads() -> u64 {
    use std::os::unix::fs::MetadataExt;
    let own = geteuid().as_raw();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let mine = all.filter(|entry| entry.metadata().is_ok_and(|of| of.uid() == own));
    mine.map(|entry| std::fs::read_dir(entry.path().join("task")).map_or(0, Iterator::count) as u64)
        .sum()
}

#[tokio::test]
async fn each_limit_of_the_kernel_is_set_for_good() {
    let script = "\
import resource
for name in ['CORE', 'CPU', 'DATA', 'FSIZE', 'MEMLOCK', 'MSGQUEUE', 'NOFILE', 'NPROC', 'SIGPENDING']:
    soft, hard = resource.getrlimit(getattr(resource, 'RLIMIT_' + name))
    print(name, soft if soft == hard else f'{soft}, and can be {hard}')";
    for place in places().await {
        for file in [4 * MIB, 16 * MIB] {
            let run = start(place, script, |spec| spec.limits.file = ByteSize::new(file)).await;
            let Done { output, ending } = run.finish().await;
            let is = |name: &str, expected: u64| {
                let line = format!("{name} {expected}");
                let is_it = output.lines().any(|said| said == line);
                assert!(is_it, "{place:?}: not `{line}` but {output} {ending:?}");
            };
            is("CORE", 0);
            // Two seconds more than it may have: who counts is first.
            is("CPU", 12);
            // Its folder has 8 MiB.
            is("FSIZE", file.min(8 * MIB));
            is("MEMLOCK", 64 << 10);
            is("MSGQUEUE", 0);
            is("NOFILE", 64);
            is("SIGPENDING", 1024);
            if !place.cgroups {
                is("DATA", 128 * MIB);
            }
            // 32 of its own, and those of the sandbox.
            match (geteuid().is_root(), place.cgroups, place.sandbox) {
                (true, true, _) => is("NPROC", 32 + 4),
                (true, false, _) => is("NPROC", 32 + 2),
                (false, false, Sandbox::Bubblewrap) => is("NPROC", 32 + 1),
                (false, false, _) => {
                    let most = number(&output, "NPROC ");
                    let others = threads() + 1000;
                    assert!((32..32 + 512 + others).contains(&most), "{place:?}: {output}");
                }
                // The cgroup counts, and nobody else.
                (false, true, _) => {}
            }
        }
    }
}

#[tokio::test]
async fn it_is_nobody_on_a_machine_of_another_name() {
    let script = "\
print(os.getresuid(), os.getresgid(), os.uname().nodename, open('/proc/sys/kernel/hostname').read())";
    for place in bubblewraps().await {
        let Done { output, ending } = start(place, script, |_| {}).await.finish().await;
        let nobody = "(65534, 65534, 65534)";
        assert_eq!(
            output.trim(),
            format!("{nobody} {nobody} sandbox sandbox"),
            "{place:?}: {ending:?}"
        );
    }
}

/// The path of a cgroup tells of the server's container or service, and of the run.
#[tokio::test]
async fn asks_for_its_place_among_the_cgroups() {
    let script = "\
lines = open('/proc/self/cgroup').read().splitlines()
print('lines', len(lines))
for line in lines:
    print('held:' if line.endswith(':/') else 'OUT:', line)";
    for place in bubblewraps().await {
        let Done { output, ending } = start(place, script, |_| {}).await.finish().await;
        assert!(output.contains("lines"), "{place:?}: {output} {ending:?}");
        assert!(!output.contains("OUT:"), "{place:?}: {output}");
    }
}

/// Though everybody may write there, and whoever owns it: a home's Python belongs to the user whom a server that is not root
/// shares with its programs.
#[tokio::test]
async fn writes_to_what_is_shown_to_it_for_reading() {
    let script = r#"
shown = os.environ["SHOWN"]
print("it says", open(shown + "/file").read())
attempt("write", lambda: open(shown + "/file", "a"))
attempt("make", lambda: open(shown + "/new", "w"))
attempt("remove", lambda: os.unlink(shown + "/file"))
attempt("rename", lambda: os.rename(shown + "/file", shown + "/other"))
if os.environ["HAS_MOUNTS"] == "yes":
    for path in [shown, "/", "/usr", "/dev", "/etc"]:
        attempt(path, lambda: 1 / (not os.statvfs(path).f_flag & os.ST_RDONLY))
"#;
    for place in places().await {
        let shown = tempfile::tempdir().unwrap();
        let file = shown.path().join("file");
        std::fs::write(&file, "read me").unwrap();
        for (path, mode) in [(shown.path(), 0o777), (&file, 0o666)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let run = start(place, script, |spec| {
            spec.read_only.push(shown.path().to_owned());
            let has_mounts = if place.sandbox == Sandbox::Bubblewrap { "yes" } else { "no" };
            spec.environment.insert("HAS_MOUNTS".into(), has_mounts.into());
            spec.environment.insert("SHOWN".into(), shown.path().to_str().unwrap().into());
        });
        let Done { output, ending } = run.await.finish().await;
        assert!(output.contains("it says read me"), "{place:?}: {output} {ending:?}");
        assert!(!output.contains("OUT:"), "{place:?}: {output}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "read me", "{place:?}");
        assert_eq!(std::fs::read_dir(shown.path()).unwrap().count(), 1, "{place:?}");
    }
}

/// Programs that are not hostile count on these.
#[tokio::test]
async fn the_places_for_temporary_files_are_there() {
    let script = "for folder in /tmp /var/tmp /dev/shm \"$TMPDIR\" \"$HOME\" .; do\n\
                  echo kept >$folder/kept && cat $folder/kept || echo \"not in $folder\"; done";
    for place in bubblewraps().await {
        let folder = tempfile::tempdir().unwrap();
        let mut spec = ProgramSpec::new(["sh", "-c", script], folder.path(), place.sandbox);
        spec.cgroups = place.cgroups;
        let mut session = soon(Program::start(spec)).await.unwrap();
        let mut output = String::new();
        while let Some(piece) = soon(session.output()).await {
            output.push_str(&String::from_utf8_lossy(&piece.bytes));
        }
        assert_eq!(output, "kept\n".repeat(6), "{place:?}: {:?}", soon(session.end()).await);
    }
}
