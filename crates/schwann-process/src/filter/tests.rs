//! The filters as the kernel reads them: its answers to calls, worked out without making any.

use super::*;

#[test]
fn filters_compile_in_every_strictness_and_fit_the_kernel() {
    for namespaces in [false, true] {
        for (user, shared_memory) in [(false, false), (false, true), (true, true)] {
            let filters = filters(Strictness { namespaces, user, shared_memory }).unwrap();
            assert_eq!(filters.len(), if namespaces { 3 } else { 5 });
            for filter in &filters {
                // BPF_MAXINSNS
                assert!(!filter.is_empty() && filter.len() <= 4096, "{}", filter.len());
                assert_eq!(bytes(filter).len(), filter.len() * 8);
            }
        }
    }
}

/// What a filter looks at: `struct seccomp_data`.
struct Call {
    number: u32,
    arch: u32,
    arguments: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            16.. => {
                let argument = self.arguments[(offset as usize - 16) / 8];
                let is_upper = (offset % 8 == 4) == cfg!(target_endian = "little");
                (if is_upper { argument >> 32 } else { argument }) as u32
            }
            _ => panic!("looks at {offset}"),
        }
    }

    /// What the kernel would answer, and after how many instructions.
    fn answer(&self, program: &[sock_filter]) -> (u32, usize) {
        const K: u32 = libc::BPF_K;
        let (mut at, mut accumulator, mut steps) = (0, 0, 0);
        loop {
            let line = &program[at];
            at += 1;
            steps += 1;
            let code = u32::from(line.code);
            let jump = |holds| usize::from(if holds { line.jt } else { line.jf });
            if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS {
                accumulator = self.word(line.k);
            } else if code == libc::BPF_ALU | libc::BPF_AND | K {
                accumulator &= line.k;
            } else if code == libc::BPF_JMP | libc::BPF_JA {
                at += line.k as usize;
            } else if code == libc::BPF_JMP | libc::BPF_JEQ | K {
                at += jump(accumulator == line.k);
            } else if code == libc::BPF_JMP | libc::BPF_JGT | K {
                at += jump(accumulator > line.k);
            } else if code == libc::BPF_JMP | libc::BPF_JGE | K {
                at += jump(accumulator >= line.k);
            } else if code == libc::BPF_RET | K {
                return (line.k, steps);
            } else {
                panic!("instruction {code}");
            }
        }
    }
}

/// `AUDIT_ARCH_X86_64`, `AUDIT_ARCH_AARCH64` and `AUDIT_ARCH_RISCV64`.
const ARCH: u32 = if cfg!(target_arch = "x86_64") {
    0xc000_003e
} else if cfg!(target_arch = "aarch64") {
    0xc000_00b7
} else {
    0xc000_00f3
};

#[track_caller]
fn check(number: u32, expected: u32) {
    let call = Call { number, arch: ARCH, arguments: [0; 6] };
    assert_eq!(call.answer(&foreign_numbers()).0, expected, "{number}");
}

/// Some rules, with arguments and without, as one list and as what is loaded.
#[test]
fn short_lists_answer_as_one_long_list_does() {
    let masked = SeccompCmpOp::MaskedEq(0xf0);
    let rules: BTreeMap<c_long, Vec<SeccompRule>> = (0..LAST)
        .filter(|number| number % 3 != 1 && !(200..240).contains(number))
        .map(|number| match number % 5 {
            0 => (number, vec![rule(0, SeccompCmpOp::Eq, 1).unwrap()]),
            1 => (
                number,
                vec![rule(1, SeccompCmpOp::Ne, 1).unwrap(), rule(0, masked.clone(), 0x20).unwrap()],
            ),
            _ => (number, Vec::new()),
        })
        .collect();
    let long = list(rules.clone(), libc::EPERM).unwrap();
    let short = compile(rules, libc::EPERM).unwrap();
    let numbers = (0..LAST as u32 + 50).chain([0x4000_0000, 0x4000_0001, u32::MAX - 1, u32::MAX]);
    let (mut before, mut now, mut answers) = (0, 0, std::collections::BTreeSet::new());
    for number in numbers {
        for arch in [ARCH, 0x4000_0003] {
            for first in [0, 1, 0x20, 0x2f, 0x30, 1 << 40 | 1] {
                for second in [0, 1, 1 << 40 | 1] {
                    let call = Call { number, arch, arguments: [first, second, 0, 0, 0, 0] };
                    let (expected, long) = call.answer(&long);
                    let (answer, short) = call.answer(&short);
                    assert_eq!(answer, expected, "{number} {arch:x} {first:x} {second:x}");
                    answers.insert(answer);
                    (before, now) = (before + long, now + short);
                }
            }
        }
    }
    assert_eq!(answers.len(), 3, "allowed, refused and killed");
    assert!(now * 3 < before, "{now} instructions in place of {before}");
}

#[test]
fn what_is_refused_is_refused_whatever_its_place_in_the_lists() {
    let strictness = Strictness { namespaces: true, user: true, shared_memory: false };
    let filters = filters(strictness).unwrap();
    let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    for number in REFUSED.iter().chain(REFUSED_HERE).chain(&[libc::SYS_memfd_create]) {
        let call = Call { number: *number as u32, arch: ARCH, arguments: [0; 6] };
        assert_eq!(call.answer(&filters[1]).0, refused, "{number}");
    }
    for number in
        [libc::SYS_read, libc::SYS_write, libc::SYS_openat, libc::SYS_execve, libc::SYS_futex]
    {
        let call = Call { number: number as u32, arch: ARCH, arguments: [0; 6] };
        assert_eq!(call.answer(&filters[1]).0, libc::SECCOMP_RET_ALLOW, "{number}");
    }
}

const REFUSED_ANSWER: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;

/// The first answer of filters in their order that is not leave: all of them hold (seccomp(2)).
fn verdict(filters: &[BpfProgram], number: c_long, arguments: &[u64]) -> u32 {
    let mut call = Call { number: number as u32, arch: ARCH, arguments: [0; 6] };
    call.arguments[..arguments.len()].copy_from_slice(arguments);
    let answers = filters.iter().map(|filter| call.answer(filter).0);
    answers
        .into_iter()
        .find(|answer| *answer != libc::SECCOMP_RET_ALLOW)
        .unwrap_or(libc::SECCOMP_RET_ALLOW)
}

/// In bubblewrap with a cgroup, in landlock with both, and in landlock of a server that is neither root nor has cgroups.
const SANDBOXES: [Strictness; 3] = [
    Strictness { namespaces: true, user: true, shared_memory: true },
    Strictness { namespaces: false, user: true, shared_memory: true },
    Strictness { namespaces: false, user: false, shared_memory: false },
];

/// What docs/sandbox.md says is refused. Written down a second time, so that nothing leaves the lists unseen: what
/// else holds a program may keep it from the same deed for other reasons, and a program that is held shows no gap.
#[test]
fn every_call_that_is_to_be_refused_is_in_a_list() {
    #[rustfmt::skip]
        let mut refused = vec![
            libc::SYS_mount, libc::SYS_umount2, libc::SYS_pivot_root, libc::SYS_chroot, libc::SYS_unshare,
            libc::SYS_setns, libc::SYS_open_tree, libc::SYS_move_mount, libc::SYS_fsopen, libc::SYS_fsconfig,
            libc::SYS_fsmount, libc::SYS_fspick, libc::SYS_mount_setattr, 457, 458, 467,
            libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev,
            libc::SYS_process_madvise, libc::SYS_pidfd_getfd, libc::SYS_kcmp,
            libc::SYS_bpf, libc::SYS_perf_event_open, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter,
            libc::SYS_io_uring_register, libc::SYS_userfaultfd, libc::SYS_keyctl, libc::SYS_add_key,
            libc::SYS_request_key, libc::SYS_fanotify_init, libc::SYS_name_to_handle_at,
            libc::SYS_open_by_handle_at, libc::SYS_lookup_dcookie, libc::SYS_vhangup,
            libc::SYS_reboot, libc::SYS_kexec_load, libc::SYS_kexec_file_load, libc::SYS_init_module,
            libc::SYS_finit_module, libc::SYS_delete_module, libc::SYS_swapon, libc::SYS_swapoff,
            libc::SYS_acct, libc::SYS_quotactl, libc::SYS_quotactl_fd, libc::SYS_syslog,
            libc::SYS_settimeofday, libc::SYS_clock_settime, libc::SYS_clock_adjtime, libc::SYS_adjtimex,
            libc::SYS_sethostname, libc::SYS_setdomainname, libc::SYS_nfsservctl,
            libc::SYS_shmget, libc::SYS_shmat, libc::SYS_shmctl, libc::SYS_msgget, libc::SYS_msgsnd,
            libc::SYS_msgrcv, libc::SYS_msgctl, libc::SYS_semget, libc::SYS_semop, libc::SYS_semtimedop,
            libc::SYS_semctl, libc::SYS_mq_open, libc::SYS_mq_unlink,
            libc::SYS_inotify_init1, libc::SYS_inotify_add_watch,
            libc::SYS_sched_setscheduler, libc::SYS_sched_setparam, libc::SYS_sched_setattr,
            libc::SYS_ioprio_set, libc::SYS_mbind, libc::SYS_set_mempolicy, libc::SYS_migrate_pages,
            libc::SYS_move_pages,
        ];
    #[cfg(target_arch = "x86_64")]
        #[rustfmt::skip]
        refused.extend([
            libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt, libc::SYS_uselib, libc::SYS_ustat,
            libc::SYS_sysfs, libc::SYS__sysctl, libc::SYS_inotify_init,
        ]);
    let absent = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    let without = libc::SECCOMP_RET_ERRNO | libc::EOPNOTSUPP as u32;
    for strictness in SANDBOXES {
        let filters = filters(strictness).unwrap();
        let check = |number: c_long, arguments: &[u64], expected: u32| {
            let answer = verdict(&filters, number, arguments);
            assert_eq!(answer, expected, "{number} {arguments:x?} {strictness:?}");
        };
        for number in &refused {
            check(*number, &[], REFUSED_ANSWER);
        }
        // The first without a name here, and getpid as x32 has it.
        for number in [libc::SYS_clone3, 470, 0x4000_0027] {
            check(number, &[], absent);
        }
        let held = |is_held: bool, otherwise: u32| match is_held {
            true => otherwise,
            false => libc::SECCOMP_RET_ALLOW,
        };
        // Memory that no process has, where no cgroup counts it.
        for number in [libc::SYS_memfd_create, libc::SYS_memfd_secret] {
            check(number, &[], held(!strictness.shared_memory, REFUSED_ANSWER));
        }
        // In the host's namespaces: what is known of files, whoever owns them, and leaving the group.
        #[rustfmt::skip]
            let attributes = [
                libc::SYS_setxattr, libc::SYS_lsetxattr, libc::SYS_fsetxattr, libc::SYS_getxattr,
                libc::SYS_lgetxattr, libc::SYS_listxattr, libc::SYS_llistxattr, libc::SYS_removexattr,
                libc::SYS_lremovexattr, libc::SYS_fremovexattr, 463, 464, 465, 466, 468, 469,
            ];
        for number in attributes {
            check(number, &[], held(!strictness.namespaces, without));
        }
        #[rustfmt::skip]
            let mut ownership = vec![
                libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_fchmodat2, libc::SYS_fchown,
                libc::SYS_fchownat, libc::SYS_utimensat,
            ];
        #[cfg(target_arch = "x86_64")]
            #[rustfmt::skip]
            ownership.extend([
                libc::SYS_chmod, libc::SYS_chown, libc::SYS_lchown, libc::SYS_utime, libc::SYS_utimes,
                libc::SYS_futimesat,
            ]);
        for number in ownership {
            check(number, &[], held(!strictness.user, REFUSED_ANSWER));
        }
        for number in [libc::SYS_setsid, libc::SYS_setpgid] {
            // Refused with the number 0: told that it was done.
            check(number, &[], held(!strictness.namespaces, libc::SECCOMP_RET_ERRNO));
        }
    }
}

/// The upper half of an argument that the kernel cuts off changes nothing.
const MORE: u64 = 0xdead_beef << 32;

#[test]
fn calls_are_refused_for_what_they_ask_and_not_for_more() {
    for strictness in SANDBOXES {
        let filters = filters(strictness).unwrap();
        let check = |number: c_long, arguments: &[u64], is_refused: bool| {
            let expected = if is_refused { REFUSED_ANSWER } else { libc::SECCOMP_RET_ALLOW };
            let more: Vec<u64> = arguments.iter().map(|argument| argument | MORE).collect();
            for arguments in [arguments, &more] {
                let answer = verdict(&filters, number, arguments);
                assert_eq!(answer, expected, "{number} {arguments:x?} {strictness:?}");
            }
        };
        // A thread as glibc makes it, and a process; with any of these it is another.
        for usual in [0x003d_0f00, libc::SIGCHLD as u64, 0] {
            check(libc::SYS_clone, &[usual], false);
            // NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, PARENT
            for flag in [
                0x2_0000,
                0x200_0000,
                0x400_0000,
                0x800_0000,
                0x1000_0000,
                0x2000_0000,
                0x4000_0000,
                0x8000,
            ] {
                check(libc::SYS_clone, &[usual | flag], true);
            }
        }
        // TIOCSTI, TIOCLINUX, TIOCCONS, TIOCSETD; TCGETS, TIOCGWINSZ, FIONREAD
        for (request, is_refused) in [
            (0x5412, true),
            (0x541c, true),
            (0x541d, true),
            (0x5423, true),
            (0x5401, false),
            (0x5413, false),
            (0x541b, false),
        ] {
            check(libc::SYS_ioctl, &[1, request], is_refused);
        }
        // F_NOTIFY, F_SETLEASE; F_SETFL, F_SETLK
        for (command, is_refused) in [(1026, true), (1024, true), (4, false), (6, false)] {
            check(libc::SYS_fcntl, &[3, command], is_refused);
        }
        for (personality, is_refused) in
            [(0, false), (0xffff_ffff, false), (0x0040_0000, true), (8, true)]
        {
            check(libc::SYS_personality, &[personality], is_refused);
        }
        let (unix, stream, datagram, raw, packets) = (1, 1, 2, 3, 5);
        let flags = 0o2_004_000;
        for family in 0..64 {
            let of_unix = family == unix;
            let socket = !of_unix || !strictness.namespaces;
            check(libc::SYS_socket, &[family, stream], socket);
            check(libc::SYS_socketpair, &[family, stream | flags], !of_unix);
            check(libc::SYS_socketpair, &[family, packets | flags], !of_unix);
            // A pair of these can be connected to somebody else's.
            for kind in [datagram, raw] {
                check(libc::SYS_socketpair, &[family, kind | flags], socket);
            }
        }
        // Oneself, and another.
        let others = !strictness.namespaces;
        for (number, own, another) in [
            (libc::SYS_prlimit64, [0, 7], [1, 7]),
            (libc::SYS_sched_setaffinity, [0, 8], [1, 8]),
            (libc::SYS_setpriority, [0, 0], [0, 1]),
            (libc::SYS_setpriority, [0, 0], [1, 0]),
            (libc::SYS_setpriority, [0, 0], [2, 0]),
        ] {
            check(number, &own, false);
            check(number, &another, others);
        }
    }
}

#[test]
fn calls_that_nobody_has_thought_of_do_not_exist() {
    let absent = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    check(0, libc::SECCOMP_RET_ALLOW);
    check(LAST as u32, libc::SECCOMP_RET_ALLOW);
    check(LAST as u32 + 1, absent);
    check(0x4000_0000 | 39, absent);
    check(u32::MAX, absent);
}
