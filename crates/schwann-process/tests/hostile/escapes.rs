//! Files, mounts and devices of the host.

use crate::{held, held_in, places};

macro_rules! tries {
    ($($name:ident: $script:literal)*) => {
        $(#[tokio::test]
        async fn $name() {
            held($script).await;
        })*
    };
}

tries! {
    reads_the_password_file: r#"
attempt("shadow", lambda: open("/etc/shadow").read())
"#
    reads_the_database_of_the_server: r#"
attempt("database", lambda: open(host("DATABASE")).read())
"#
    writes_to_the_database_of_the_server: r#"
attempt("database", lambda: open(host("DATABASE"), "w").write("owned"))
attempt("append", lambda: open(host("DATABASE"), "a").write("owned"))
attempt("truncate", lambda: os.truncate(host("DATABASE"), 0))
attempt("unlink", lambda: os.unlink(host("DATABASE")))
"#
    lists_homes: r#"
attempt("root", lambda: os.listdir("/root"))
attempt("home", lambda: os.listdir("/home"))
attempt("folder", lambda: os.listdir(host("FOLDER")))
"#
    leaves_a_file_in_an_open_folder: r#"
attempt("open", lambda: open(host("OPEN") + "/here", "w"))
for folder in ["/var/lib", "/opt", "/srv", "/mnt", "/run", "/var/spool/cron"]:
    attempt(folder, lambda: open(folder + "/here", "w"))
"#
    follows_a_symlink_out_of_the_work_folder: r#"
os.symlink(host("DATABASE"), "link")
attempt("read", lambda: open("link").read())
attempt("write", lambda: open("link", "w"))
os.symlink("/", "root")
attempt("through", lambda: open("root" + host("DATABASE")).read())
"#
    hardlinks_out_of_the_work_folder: r#"
attempt("link", lambda: os.link(host("DATABASE"), "hard"))
attempt("shadow", lambda: os.link("/etc/shadow", "shadow"))
attempt("program", lambda: os.link("/usr/bin/env", "env"))
"#
    climbs_by_dots: r#"
attempt("dots", lambda: open("../" * 40 + host("DATABASE").lstrip("/")).read())
attempt("dots", lambda: open("../" * 40 + "etc/shadow").read())
"#
    climbs_by_proc: r#"
for pid in ["1", "self", "2", host("SERVER"), host("VICTIM")]:
    for way in ["root", "cwd"]:
        attempt(pid + way, lambda: open(f"/proc/{pid}/{way}" + host("DATABASE")).read())
"#
    looks_for_descriptors_that_were_left_open: r#"
for fd in range(3, 256):
    try:
        os.fstat(fd)
    except OSError:
        continue
    print("OUT: descriptor", fd, os.readlink(f"/proc/self/fd/{fd}"))
attempt("done", lambda: 1 / 0)
"#
    writes_to_the_runtime: r#"
for path in ["/usr/bin/python3", "/usr/lib/os-release", "/lib/x", "/bin/x", "/usr/x", "/etc/x", "/x"]:
    attempt(path, lambda: open(path, "a"))
attempt("chmod", lambda: os.chmod("/usr/bin/env", 0o4777))
attempt("rename", lambda: os.rename("/usr/bin/env", "/usr/bin/env2"))
"#
    overwrites_where_core_dumps_go: r#"
attempt("core_pattern", lambda: open("/proc/sys/kernel/core_pattern", "w").write("|/work/x"))
attempt("modprobe", lambda: open("/proc/sys/kernel/modprobe", "w").write("/work/x"))
attempt("uevent", lambda: open("/sys/kernel/uevent_helper", "w").write("/work/x"))
attempt("binfmt", lambda: open("/proc/sys/fs/binfmt_misc/register", "w").write(":x:M::x::/work/x:"))
"#
    turns_kernel_switches: r#"
attempt("sysrq", lambda: open("/proc/sysrq-trigger", "w").write("h"))
attempt("sysctl", lambda: open("/proc/sys/vm/drop_caches", "w").write("1"))
attempt("panic", lambda: open("/proc/sys/kernel/panic", "w").write("1"))
attempt("users", lambda: open("/proc/sys/user/max_user_namespaces", "w").write("1"))
"#
    reads_memory_of_the_machine: r#"
for path in ["/dev/mem", "/dev/kmem", "/dev/port", "/proc/kcore", "/dev/kmsg", "/proc/kmsg"]:
    attempt(path, lambda: os.read(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 16))
"#
    reads_disks: r#"
for path in ["/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/loop-control", "/dev/fuse", "/dev/kvm", "/dev/net/tun"]:
    attempt(path, lambda: os.open(path, os.O_RDWR))
"#
    makes_a_device: r#"
import stat
attempt("disk", lambda: os.mknod("disk", stat.S_IFBLK | 0o666, os.makedev(254, 0)))
attempt("mem", lambda: os.mknod("mem", stat.S_IFCHR | 0o666, os.makedev(1, 1)))
attempt("dev", lambda: os.mknod("/dev/mem", stat.S_IFCHR | 0o666, os.makedev(1, 1)))
"#
    looks_into_sys: r#"
attempt("sys", lambda: os.listdir("/sys/kernel"))
attempt("cgroup", lambda: os.listdir("/sys/fs/cgroup"))
attempt("firmware", lambda: open("/sys/firmware/acpi/tables/DSDT").read())
"#
    leaves_its_cgroup: r#"
import glob
for path in glob.glob("/sys/fs/cgroup/**/cgroup.procs", recursive=True) or ["/sys/fs/cgroup/cgroup.procs"]:
    attempt(path, lambda: open(path, "w").write("0"))
attempt("mount", lambda: call("mount", b"none", b"/work", b"cgroup2", 0, 0))
"#
    mounts: r#"
attempt("tmpfs", lambda: call("mount", b"none", b"/work", b"tmpfs", 0, 0))
attempt("proc", lambda: call("mount", b"proc", b"/proc", b"proc", 0, 0))
attempt("bind", lambda: call("mount", b"/usr", b"/work", b"", 4096, 0))
attempt("writable", lambda: call("mount", b"none", b"/usr", b"", 32 | 4096, 0))
attempt("fsopen", lambda: call("fsopen", b"tmpfs", 0))
attempt("open_tree", lambda: call("open_tree", -100, b"/", 1))
attempt("setattr", lambda: call("mount_setattr", -100, b"/usr", 0, 0, 0))
"#
    unmounts_what_hides_the_host: r#"
for path in [b"/work", b"/proc", b"/usr", b"/dev", b"/"]:
    attempt(path, lambda: call("umount2", path, 2))
attempt("pivot", lambda: call("pivot_root", b".", b"."))
"#
    changes_its_root: r#"
os.mkdir("jail")
attempt("chroot", lambda: os.chroot("jail"))
attempt("raw", lambda: call("chroot", b"jail"))
"#
    opens_by_handle: r#"
attempt("name", lambda: call("name_to_handle_at", -100, b"/usr", 0, 0, 0))
attempt("open", lambda: call("open_by_handle_at", -100, 0, 0))
"#
    runs_setuid_programs: r#"
import subprocess
for path in ["/usr/bin/su", "/bin/mount", "/usr/bin/passwd", "/usr/bin/sudo", "/usr/bin/newgrp"]:
    if os.path.exists(path):
        got = subprocess.run([path, "--version"], capture_output=True)
try:
    status = open("/proc/self/status").read()
    assert "NoNewPrivs:\t1" in status, status
    assert "CapEff:\t0000000000000000" in status, status
except PermissionError as error:
    print("held:", error)
attempt("setuid", lambda: os.setuid(0))
attempt("setgid", lambda: os.setgid(0))
attempt("groups", lambda: os.setgroups([0]))
"#
    makes_a_setuid_program: r#"
import shutil
shutil.copyfile("/usr/bin/env", "env")
try:
    os.chmod("env", 0o6755)
except PermissionError as error:
    print("held:", error)
    sys.exit()
attempt("chown", lambda: os.chown("env", 0, 0))
import subprocess
uid = subprocess.run(["./env", "id", "-u"], capture_output=True, text=True).stdout.strip()
attempt("root", lambda: 1 / (uid == "0"))
"#
    writes_to_its_kernel_maps: r#"
for name in ["uid_map", "gid_map", "setgroups", "oom_score_adj"]:
    value = "-1000" if name == "oom_score_adj" else "0 0 1"
    attempt(name, lambda: os.write(os.open(f"/proc/self/{name}", os.O_WRONLY), value.encode()))
"#
    sends_a_descriptor_of_the_root: r#"
try:
    root = os.open("/", os.O_RDONLY)
except PermissionError:
    root = os.open("/", os.O_PATH)
attempt("openat", lambda: os.open("../../.." + host("DATABASE"), os.O_RDONLY, dir_fd=root))
attempt("fchdir", lambda: (os.fchdir(root), open("../.." + host("DATABASE")).read()))
"#
}

/// In the host's namespaces the names are there to be seen, though not what
/// they name; see docs/sandbox.md.
#[tokio::test]
async fn asks_whether_a_file_of_the_host_exists() {
    let places: Vec<_> = places().await;
    let own: Vec<_> = places
        .into_iter()
        .filter(|place| place.sandbox == schwann_process::Sandbox::Bubblewrap)
        .collect();
    held_in(&own, r#"attempt("stat", lambda: os.stat(host("DATABASE")))"#).await;
}
