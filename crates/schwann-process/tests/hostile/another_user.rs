//! The same again where the server is not root, which is how most people run it: then a program in the landlock sandbox is of the
//! server's own user, and there are no cgroups.

use std::{
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Command,
};

/// Somebody who owns nothing here.
const SOMEBODY: u32 = 62_001;

#[test]
fn a_server_that_is_not_root_holds_them_as_well() {
    if !rustix::process::geteuid().is_root() {
        // Then that is what all the other tests show.
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("hostile");
    // By another process: one that this one starts meanwhile would keep a file open that is being written, which cannot be executed.
    let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&program).status();
    assert!(copied.unwrap().success());
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
