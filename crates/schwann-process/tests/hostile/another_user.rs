//! The same again where the server is not root, which is how most people run it: then a program in the landlock sandbox is of the
//! server's own user, and there are no cgroups.

use std::{
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::PathBuf,
    process::Command,
};

use tempfile::TempDir;

use crate::held;

/// Somebody who owns nothing here.
pub(crate) const SOMEBODY: u32 = 62_001;

/// A copy of these tests in a folder that everybody may enter; it lasts as long as the folder is held.
fn where_all_may_run_it() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("hostile");
    // By another process: one that this one starts meanwhile would keep a file open that is being written, which cannot be executed.
    let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&program).status();
    assert!(copied.unwrap().success());
    (folder, program)
}

#[test]
fn a_server_that_is_not_root_holds_them_as_well() {
    if !rustix::process::geteuid().is_root() {
        // Then that is what all the other tests show.
        return;
    }
    let (_folder, program) = where_all_may_run_it();
    let output = Command::new(program)
        // One after the other: they share their user's limit of processes, which bombs use up for the rest.
        .args(["--test-threads", "1"])
        .current_dir("/")
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("CARGO_MANIFEST_DIR", "/")
        .env("CARGO_PKG_NAME", "hostile")
        .env("RUST_BACKTRACE", "0")
        .uid(SOMEBODY)
        .gid(SOMEBODY)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("is_a_fork_bomb ... ok"), "{text}");
}

/// What a service may have besides its user: further groups, and capabilities for a port below 1024. As root it can drop
/// its groups for the program; as somebody else it cannot, and keeps no capability all the same.
#[test]
fn a_server_hands_on_neither_its_groups_nor_its_capabilities() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (_folder, program) = where_all_may_run_it();
    let somebody = SOMEBODY.to_string();
    let with_groups = ["--groups", "4,24"];
    let with_capabilities = [
        "--reuid",
        &somebody,
        "--regid",
        &somebody,
        "--clear-groups",
        "--inh-caps",
        "+net_bind_service",
        "--ambient-caps",
        "+net_bind_service",
    ];
    for more in [&with_groups[..], &with_capabilities] {
        let output = Command::new("setpriv")
            .args(more)
            .arg(&program)
            .args(["--exact", "another_user::in_a_process_with_more_than_a_user", "--nocapture"])
            .current_dir("/")
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("EXPECT_MORE_THAN_A_USER", more.join(" "))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{more:?}: {text}{errors}");
    }
}

#[tokio::test]
async fn in_a_process_with_more_than_a_user() {
    if std::env::var_os("EXPECT_MORE_THAN_A_USER").is_none() {
        return;
    }
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = |name: &str| own.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    assert!(line("Groups:") == "4 24" || line("CapAmb:").ends_with("400"), "{own}");
    held(
        r#"
def groups():
    got = [group for group in os.getgroups() if group != os.getgid()]
    if not got:
        raise OSError("none")
    return got
attempt("groups", groups)
def capabilities():
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, data) < 0:
        raise OSError(ctypes.get_errno(), "capget")
    ambient = sum(libc.prctl(47, 1, n, 0, 0) == 1 for n in range(41))
    # Effective, permitted and inheritable, lower half and upper. What is only inheritable is of no use without new privileges.
    used = [data[0], data[1], data[3], data[4]]
    if not any(used) and not ambient:
        raise OSError("none")
    return used, ambient
attempt("capabilities", capabilities)
"#,
    )
    .await;
}
