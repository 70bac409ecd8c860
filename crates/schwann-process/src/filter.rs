//! Which system calls a program in a sandbox may not make.
//!
//! All are allowed but those that reach into the kernel, other processes or
//! the network. A list of what is allowed would be shorter and stronger, and
//! would break the next version of any language.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, sock_filter,
};

/// How much is left to other parts of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Strictness {
    /// The program is in namespaces of its own: it may have sockets between
    /// its processes, there is nobody else whom a number could name, and who
    /// leaves its process group is killed all the same.
    pub(crate) namespaces: bool,
    /// It is a user that nobody else is, so that no other file is its own.
    pub(crate) user: bool,
    /// A cgroup counts memory that belongs to no process.
    pub(crate) shared_memory: bool,
}

/// Answered with EPERM, whatever the arguments.
const REFUSED: &[c_long] = &[
    // Mounts and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    OPEN_TREE_ATTR,
    STATMOUNT,
    LISTMOUNT,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Parts of the kernel with a history.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_fanotify_init,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_lookup_dcookie,
    libc::SYS_vhangup,
    // The machine.
    libc::SYS_reboot,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_nfsservctl,
    // Memory that no process limit counts, and what others left open to all:
    // of the System V kind by number, of the POSIX kind by name.
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    // Who else uses the system's programs, and when.
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    // More than its share of the machine.
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setattr,
    libc::SYS_ioprio_set,
    libc::SYS_mbind,
    libc::SYS_set_mempolicy,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
];

#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[c_long] = &[
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS__sysctl,
    libc::SYS_inotify_init,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[c_long] = &[];

// Newer than the crate that has the others; the same everywhere.
const STATMOUNT: c_long = 457;
const LISTMOUNT: c_long = 458;
const SETXATTRAT: c_long = 463;
const GETXATTRAT: c_long = 464;
const LISTXATTRAT: c_long = 465;
const REMOVEXATTRAT: c_long = 466;
const OPEN_TREE_ATTR: c_long = 467;
const FILE_GETATTR: c_long = 468;
const FILE_SETATTR: c_long = 469;

/// The last system call that these lists were made with in mind. Those after
/// it do not exist here, so that a newer kernel allows no more than this one.
const LAST: c_long = FILE_SETATTR;

/// Landlock does not ask who changes what is known of a file (landlock(7)), and
/// extended attributes hold as much as anybody likes. Answered as by a file
/// system that has none.
const ATTRIBUTES: &[c_long] = &[
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_getxattr,
    libc::SYS_lgetxattr,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    SETXATTRAT,
    GETXATTRAT,
    LISTXATTRAT,
    REMOVEXATTRAT,
    FILE_GETATTR,
    FILE_SETATTR,
];

/// The same of modes, owners and times, which whoever owns a file may change:
/// that is the program, if it is of the server's user.
const OWNERSHIP: &[c_long] = &[
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
];
#[cfg(target_arch = "x86_64")]
const OWNERSHIP_HERE: &[c_long] = &[
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
];
#[cfg(not(target_arch = "x86_64"))]
const OWNERSHIP_HERE: &[c_long] = &[];

/// Flags of clone(2) that make a namespace. `CLONE_NEWTIME` is not among them:
/// to clone(2) its bit is part of the exit signal.
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
];

/// The filters, to be loaded in this order; all of them hold.
pub(crate) fn filters(strictness: Strictness) -> Result<Vec<BpfProgram>, BackendError> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    let mut refused = BTreeMap::new();
    for call in REFUSED.iter().chain(REFUSED_HERE) {
        refused.insert(*call, Vec::new());
    }
    // Pairs and sockets between its own processes, and no other family:
    // netlink, packets, vsock and all the rest.
    let mut pairs = vec![rule(0, Ne, libc::AF_UNIX as u64)?];
    if strictness.namespaces {
        refused.insert(libc::SYS_socket, vec![rule(0, Ne, libc::AF_UNIX as u64)?]);
    } else {
        // In the host's namespaces a socket could connect to a daemon's, and
        // so could one of a pair, if its kind can be connected twice.
        refused.insert(libc::SYS_socket, Vec::new());
        let kind = 0xf;
        pairs.push(rule(1, MaskedEq(kind), libc::SOCK_DGRAM as u64)?);
        pairs.push(rule(1, MaskedEq(kind), libc::SOCK_RAW as u64)?);
        // Numbers name the host's processes, of which some are the same user's.
        refused.insert(libc::SYS_prlimit64, vec![rule(0, Ne, 0)?]);
        refused.insert(libc::SYS_sched_setaffinity, vec![rule(0, Ne, 0)?]);
        let others = vec![rule(0, Ne, libc::PRIO_PROCESS as u64)?, rule(1, Ne, 0)?];
        refused.insert(libc::SYS_setpriority, others);
        if !strictness.user {
            for call in OWNERSHIP.iter().chain(OWNERSHIP_HERE) {
                refused.insert(*call, Vec::new());
            }
        }
    }
    refused.insert(libc::SYS_socketpair, pairs);
    if !strictness.shared_memory {
        refused.insert(libc::SYS_memfd_create, Vec::new());
        refused.insert(libc::SYS_memfd_secret, Vec::new());
    }
    // A child of its parent is one that nobody waits for: with landlock its
    // parent is this process.
    let mut clones = Vec::new();
    for flag in NAMESPACES.into_iter().chain([libc::CLONE_PARENT]) {
        clones.push(rule(0, MaskedEq(flag as u64), flag as u64)?);
    }
    refused.insert(libc::SYS_clone, clones);
    // Asking for it is harmless, and so is what everybody has.
    let usual = [0, 0xffff_ffff].map(|personality| condition(0, Ne, personality));
    let unusual = usual.into_iter().collect::<Result<_, _>>()?;
    refused.insert(libc::SYS_personality, vec![SeccompRule::new(unusual)?]);
    let mut commands = Vec::new();
    for command in [libc::F_NOTIFY, libc::F_SETLEASE] {
        commands.push(rule(1, Eq, command as u64)?);
    }
    refused.insert(libc::SYS_fcntl, commands);
    // The kernel looks at the lower half of the request only, and so do we.
    let ioctls = [libc::TIOCSTI, libc::TIOCLINUX, libc::TIOCCONS, libc::TIOCSETD];
    let mut typed = Vec::new();
    for request in ioctls {
        typed.push(rule(1, Eq, u64::from(request as u32))?);
    }
    refused.insert(libc::SYS_ioctl, typed);

    // Its flags are behind a pointer, where no filter can look. Whoever is
    // told that there is no such call uses clone(2).
    let absent = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let mut filters =
        vec![foreign_numbers(), compile(refused, libc::EPERM)?, compile(absent, libc::ENOSYS)?];
    if !strictness.namespaces {
        let none = ATTRIBUTES.iter().map(|call| (*call, Vec::new())).collect();
        filters.push(compile(none, libc::EOPNOTSUPP)?);
        // Told that it was done, and not done: whoever means well goes on, and
        // nobody leaves.
        let feigned = [libc::SYS_setsid, libc::SYS_setpgid].map(|call| (call, Vec::new()));
        filters.push(compile(BTreeMap::from(feigned), 0)?);
    }
    Ok(filters)
}

fn rule(argument: u8, compare: SeccompCmpOp, to: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![condition(argument, compare, to)?])
}

fn condition(
    argument: u8,
    compare: SeccompCmpOp,
    to: u64,
) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compare, to)
}

/// Kills whatever calls by another architecture's numbers, which the list is
/// not about.
///
/// The compiler makes one long list, and the kernel goes through it for every
/// number there is when the filter is loaded, which is at every start. So it
/// is cut into short ones, each for its own part of the numbers.
fn compile(
    mut rules: BTreeMap<c_long, Vec<SeccompRule>>,
    errno: i32,
) -> Result<BpfProgram, BackendError> {
    const LIST: usize = 8;
    let mut lists = Vec::new();
    while let Some(next) = rules.keys().nth(LIST).copied() {
        let rest = rules.split_off(&next);
        lists.push((std::mem::replace(&mut rules, rest), next));
    }
    let mut program = vec![line(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, NUMBER)];
    for (rules, next) in lists {
        let list = list(rules, errno)?;
        // A number from there on is not in this list, which ends by itself for every other.
        program.push(line(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, next as u32));
        program.push(line(libc::BPF_JMP | libc::BPF_JA, 0, 0, list.len() as u32));
        program.extend(list);
    }
    program.extend(list(rules, errno)?);
    Ok(program)
}

/// One rule after the other. Loads what it looks at by itself.
fn list(rules: BTreeMap<c_long, Vec<SeccompRule>>, errno: i32) -> Result<BpfProgram, BackendError> {
    let arch = std::env::consts::ARCH.try_into()?;
    let refuse = SeccompAction::Errno(errno as u32);
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?.try_into()
}

/// Where the number stands in `seccomp_data`.
const NUMBER: u32 = 0;

fn line(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

/// Refuses the x32 numbers of x86_64, which are the same architecture to a
/// filter, name the same calls, and start at bit 30; and all that were not
/// known when the lists were made.
fn foreign_numbers() -> BpfProgram {
    vec![
        line(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, NUMBER),
        line(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, 0, 1, LAST as u32),
        line(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
        line(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

/// A filter as the kernel's array, for who reads it from a file.
pub(crate) fn bytes(filter: &BpfProgram) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(filter.len() * 8);
    for line in filter {
        bytes.extend_from_slice(&line.code.to_ne_bytes());
        bytes.extend_from_slice(&[line.jt, line.jf]);
        bytes.extend_from_slice(&line.k.to_ne_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests;
