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
    /// The program has a network namespace of its own, so that it may have
    /// sockets of its own between its processes.
    pub(crate) sockets: bool,
    /// A cgroup counts memory that belongs to no process.
    pub(crate) shared_memory: bool,
    /// Who leaves its process group is killed all the same.
    pub(crate) sessions: bool,
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
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_nfsservctl,
    // Memory that no process limit counts, of the System V kind.
    libc::SYS_shmget,
    libc::SYS_msgget,
    libc::SYS_semget,
    // More than its share of the machine.
    libc::SYS_sched_setscheduler,
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
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[c_long] = &[];

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
    let mut refused = BTreeMap::new();
    for call in REFUSED.iter().chain(REFUSED_HERE) {
        refused.insert(*call, Vec::new());
    }
    if strictness.sockets {
        // Pairs and sockets between its own processes, and no other family:
        // netlink, packets, vsock and all the rest.
        refused.insert(libc::SYS_socket, vec![rule(0, SeccompCmpOp::Ne, libc::AF_UNIX as u64)?]);
    } else {
        // In the host's namespaces a socket could connect to a daemon's.
        refused.insert(libc::SYS_socket, Vec::new());
    }
    refused.insert(libc::SYS_socketpair, vec![rule(0, SeccompCmpOp::Ne, libc::AF_UNIX as u64)?]);
    if !strictness.shared_memory {
        refused.insert(libc::SYS_memfd_create, Vec::new());
        refused.insert(libc::SYS_memfd_secret, Vec::new());
    }
    let mut clones = Vec::new();
    for flag in NAMESPACES {
        clones.push(rule(0, SeccompCmpOp::MaskedEq(flag as u64), flag as u64)?);
    }
    refused.insert(libc::SYS_clone, clones);
    // The kernel looks at the lower half of the request only, and so do we.
    let ioctls = [libc::TIOCSTI as u32, libc::TIOCLINUX as u32, libc::TIOCCONS as u32];
    let mut typed = Vec::new();
    for request in ioctls {
        typed.push(rule(1, SeccompCmpOp::Eq, request.into())?);
    }
    refused.insert(libc::SYS_ioctl, typed);

    // Its flags are behind a pointer, where no filter can look. Whoever is
    // told that there is no such call uses clone(2).
    let absent = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let mut filters =
        vec![foreign_numbers(), compile(refused, libc::EPERM)?, compile(absent, libc::ENOSYS)?];
    if !strictness.sessions {
        // Told that it was done, and not done: whoever means well goes on, and
        // nobody leaves.
        let feigned = [libc::SYS_setsid, libc::SYS_setpgid].map(|call| (call, Vec::new()));
        filters.push(compile(BTreeMap::from(feigned), 0)?);
    }
    Ok(filters)
}

fn rule(argument: u8, compare: SeccompCmpOp, to: u64) -> Result<SeccompRule, BackendError> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compare, to)?;
    SeccompRule::new(vec![condition])
}

/// Kills whatever calls by another architecture's numbers, which the list is
/// not about.
fn compile(
    rules: BTreeMap<c_long, Vec<SeccompRule>>,
    errno: i32,
) -> Result<BpfProgram, BackendError> {
    let arch = std::env::consts::ARCH.try_into()?;
    let refuse = SeccompAction::Errno(errno as u32);
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?.try_into()
}

/// Refuses the x32 numbers of x86_64, which are the same architecture to a
/// filter, name the same calls, and start at bit 30.
fn foreign_numbers() -> BpfProgram {
    const NUMBER: u32 = 0;
    let line = |code: u32, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
    vec![
        line(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, NUMBER),
        line(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, 0x4000_0000),
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
mod tests {
    use super::*;

    #[test]
    fn filters_compile_in_every_strictness_and_fit_the_kernel() {
        for sockets in [false, true] {
            for shared_memory in [false, true] {
                let filters =
                    filters(Strictness { sockets, shared_memory, sessions: sockets }).unwrap();
                assert_eq!(filters.len(), if sockets { 3 } else { 4 });
                for filter in &filters {
                    // BPF_MAXINSNS
                    assert!(!filter.is_empty() && filter.len() <= 4096, "{}", filter.len());
                    assert_eq!(bytes(filter).len(), filter.len() * 8);
                }
            }
        }
    }
}
