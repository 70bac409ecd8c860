# What a hostile program needs: `attempt` says what became of one deed, and
# `call` makes a system call by its name.
import ctypes, os, platform, sys

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

# x86_64, aarch64
NUMBERS = {
    "acct": (163, 89), "add_key": (248, 217), "bpf": (321, 280), "chroot": (161, 51),
    "clock_settime": (227, 112), "clone": (56, 220), "clone3": (435, 435), "fanotify_init": (300, 262),
    "fsopen": (430, 430), "init_module": (175, 105), "io_uring_setup": (425, 425),
    "ioprio_set": (251, 30), "kexec_load": (246, 104), "keyctl": (250, 219),
    "memfd_create": (319, 279), "mount": (165, 40), "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "open_tree": (428, 428),
    "perf_event_open": (298, 241), "pidfd_getfd": (438, 438), "pidfd_open": (434, 434),
    "pivot_root": (155, 41), "process_vm_readv": (310, 270), "ptrace": (101, 117),
    "reboot": (169, 142), "request_key": (249, 218), "sched_setattr": (314, 274),
    "sched_setscheduler": (144, 119), "setdomainname": (171, 162), "sethostname": (170, 161),
    "setns": (308, 268), "setuid": (105, 146), "shmget": (29, 194), "swapon": (167, 224),
    "syslog": (103, 116), "umount2": (166, 39), "unshare": (272, 97), "userfaultfd": (323, 282),
    "chmod": (90, None), "fchmodat": (268, 53), "fchmodat2": (452, 452), "file_setattr": (469, 469),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "getxattrat": (464, 464),
    "inotify_add_watch": (254, 27), "inotify_init1": (294, 26), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "kcmp": (312, 272), "listmount": (458, 458),
    "memfd_secret": (447, 447), "move_mount": (429, 429), "mq_open": (240, 180),
    "mq_unlink": (241, 181), "msgget": (68, 186), "msgrcv": (70, 188), "open_tree_attr": (467, 467),
    "personality": (135, 92), "pidfd_send_signal": (424, 424), "prlimit64": (302, 261),
    "process_madvise": (440, 440), "process_vm_writev": (311, 271), "quotactl_fd": (443, 443),
    "rt_sigqueueinfo": (129, 138), "sched_setaffinity": (203, 122), "semctl": (66, 191),
    "semget": (64, 190), "semop": (65, 193), "setpriority": (141, 140), "setxattrat": (463, 463),
    "shmat": (30, 196), "shmctl": (31, 195), "statmount": (457, 457), "timer_create": (222, 107),
}


def call(name, *arguments):
    number = NUMBERS[name][platform.machine() == "aarch64"]
    if number is None:
        raise OSError(38, "no such call here", name)
    done = libc.syscall(ctypes.c_long(number), *[
        ctypes.c_char_p(a) if isinstance(a, bytes) else ctypes.c_long(a) for a in arguments
    ])
    if done < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)
    return done


def attempt(what, deed):
    try:
        got = deed()
    except BaseException as error:
        print("held:", what, "|", type(error).__name__, error, flush=True)
    else:
        print("OUT:", what, "|", repr(got)[:300], flush=True)


def host(name):
    return os.environ["HOST_" + name]
