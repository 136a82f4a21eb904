"""The bundle that every runtime gets: a busybox root filesystem, and what `runc spec` writes."""

from __future__ import annotations

import pwd
import shutil
from pathlib import Path
from typing import Any

from .base import SEARCH, die, which
from .machine import id_ranges


def make_rootfs(rootfs: Path) -> None:
    busybox = which("busybox")
    if not busybox:
        die("no busybox: install busybox-static")
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (rootfs / name).mkdir(parents=True)
    shutil.copy(busybox, rootfs / "bin/busybox")
    for name in ("sh", "true", "sleep"):
        (rootfs / "bin" / name).symlink_to("busybox")


def make_mappings(path: str, user: pwd.struct_passwd, own: int) -> list[dict[str, int]]:
    """0 is the user, 1… are the subordinate ids in the order of the file."""
    mappings = [{"containerID": 0, "hostID": own, "size": 1}]
    inside = 1
    for start, count in id_ranges(path, user):
        mappings.append({"containerID": inside, "hostID": start, "size": count})
        inside += count
    return mappings


def make_mounts(gid_option: list[str]) -> list[dict[str, Any]]:
    no_exec = ["nosuid", "noexec", "nodev"]
    devpts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", *gid_option]
    table = [
        ("/proc", "proc", "proc", no_exec),
        ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", "devpts", devpts),
        ("/dev/shm", "tmpfs", "shm", [*no_exec, "mode=1777", "size=65536k"]),
        ("/dev/mqueue", "mqueue", "mqueue", no_exec),
        ("/sys", "sysfs", "sysfs", [*no_exec, "ro"]),
        ("/sys/fs/cgroup", "cgroup", "cgroup", [*no_exec, "relatime", "ro"]),
    ]
    return [{"destination": d, "type": t, "source": s, "options": o} for d, t, s, o in table]


def make_config(user: pwd.struct_passwd, rootfs: Path, args: list[str], terminal: bool) -> dict[str, Any]:
    """What `runc spec` writes, with a user namespace of the user's ranges; helpers/floor.c does the same by hand."""
    uids = make_mappings("/etc/subuid", user, user.pw_uid)
    gids = make_mappings("/etc/subgid", user, user.pw_gid)
    if len(uids) == 1 or len(gids) == 1:
        uids, gids = uids[:1], gids[:1]
    capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
    proc_masked = "acpi asound kcore keys latency_stats timer_list timer_stats sched_debug scsi".split()
    proc_readonly = "bus fs irq sys sysrq-trigger".split()
    kinds = ("user", "pid", "network", "ipc", "uts", "mount", "cgroup")
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": terminal,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": [f"PATH={SEARCH}", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {name: capabilities for name in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": str(rootfs), "readonly": True},
        "hostname": "bench",
        "mounts": make_mounts(["gid=5"] if len(gids) > 1 else []),
        "linux": {
            "uidMappings": uids,
            "gidMappings": gids,
            "namespaces": [{"type": kind} for kind in kinds],
            "maskedPaths": [f"/proc/{name}" for name in proc_masked] + ["/sys/firmware"],
            "readonlyPaths": [f"/proc/{name}" for name in proc_readonly],
        },
    }


# Calls that a profile such as an engine's allows, as far as it matters for the time that compiling it takes.
ALLOWED = """
accept accept4 access alarm bind brk capget capset chdir chmod chown clock_adjtime clock_getres clock_gettime
clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl
epoll_pwait epoll_wait eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fallocate
fanotify_mark fchdir fchmod fchmodat fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork fremovexattr
fsetxattr fstat fstatfs fsync ftruncate futex futimesat getcpu getcwd getdents getdents64 getegid geteuid getgid
getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit
getrusage getsid getsockname getsockopt get_robust_list get_thread_area gettid gettimeofday getuid getxattr
inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy io_getevents ioprio_get
ioprio_set io_setup io_submit kill lchown lgetxattr link linkat listen listxattr llistxattr lremovexattr lseek
lsetxattr lstat madvise memfd_create mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mprotect
mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap msgctl msgget msgrcv msgsnd msync
munlock munlockall munmap nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 poll
ppoll prctl pread64 preadv preadv2 prlimit64 pselect6 pwrite64 pwritev pwritev2 read readahead readlink readlinkat
readv recvfrom recvmmsg recvmsg remap_file_pages removexattr rename renameat renameat2 restart_syscall rmdir rseq
rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min
sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler
sched_yield select semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto setfsgid setfsuid setgid
setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit set_robust_list setsid
setsockopt set_thread_area set_tid_address setuid setxattr shmat shmctl shmdt shmget shutdown sigaltstack signalfd
signalfd4 socketpair splice stat statfs statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time
timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime
timerfd_settime times tkill truncate umask uname unlink unlinkat utime utimensat utimes vfork vmsplice wait4 waitid
write writev arch_prctl modify_ldt
"""


def make_profile() -> dict[str, Any]:
    """A seccomp profile of the kind that engines give: a list of what is allowed, some of it by its arguments."""
    allow = "SCMP_ACT_ALLOW"

    def where(name: str, index: int, value: int, operator: str, two: int = 0) -> dict[str, Any]:
        args = [{"index": index, "value": value, "valueTwo": two, "op": operator}]
        return {"names": [name], "action": allow, "args": args}

    personalities = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {"names": ALLOWED.split(), "action": allow},
            *(where("personality", 0, value, "SCMP_CMP_EQ") for value in personalities),
            where("socket", 0, 40, "SCMP_CMP_NE"),
            where("clone", 0, 2114060288, "SCMP_CMP_MASKED_EQ"),
        ],
    }
