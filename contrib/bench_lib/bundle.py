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
