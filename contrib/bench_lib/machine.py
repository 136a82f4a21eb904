"""The machine: packages, the ordinary user, the mount namespace, the programs to measure."""

from __future__ import annotations

import os
import platform
import pwd
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator

from .base import TOP, Result, die, say, which

USER = "lodger"
NS_MARK = "LODGER_BENCH_MOUNT_NAMESPACE"
PACKAGES = {  # command: packages
    "crun": ["crun"],
    "runc": ["runc"],
    "bwrap": ["bubblewrap"],
    "newuidmap": ["uidmap"],
    "busybox": ["busybox-static"],
    "cc": ["gcc", "libc6-dev"],
}
IMAGE_PACKAGES = {"umoci": ["umoci"], "podman": ["podman"], "zstd": ["zstd"]}


def install_missing(wanted: dict[str, list[str]]) -> None:
    """Installs the Debian packages of missing commands. A failure is a note: the row then says what is missing."""
    missing = [package for name, packages in wanted.items() if not which(name) for package in packages]
    if not missing:
        return
    if not which("apt-get"):
        say(f"no apt-get here; not installed: {' '.join(missing)}")
        return
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    subprocess.run(["apt-get", "update", "-q"], env=env, stdout=sys.stderr, check=False)
    for package in missing:
        command = ["apt-get", "install", "-qy", "--no-install-recommends", package]
        if subprocess.run(command, env=env, stdout=sys.stderr, check=False).returncode:
            say(f"could not install {package}")


def id_ranges(path: str, user: pwd.struct_passwd) -> list[tuple[int, int]]:
    """The user's (start, count) lines of /etc/subuid or /etc/subgid, by name and by number."""
    ranges = []
    for owner, start, count in subordinate_lines(path):
        if owner in (user.pw_name, str(user.pw_uid)):
            ranges.append((start, count))
    return ranges


def subordinate_lines(path: str) -> Iterator[tuple[str, int, int]]:
    try:
        text = Path(path).read_text()
    except FileNotFoundError:
        return
    for line in text.splitlines():
        owner, start, count = (line.split(":") + ["", ""])[:3]
        if start.isdigit() and count.isdigit():
            yield owner, int(start), int(count)


def ensure_user() -> pwd.struct_passwd:
    """The ordinary user, made if missing, with subordinate ids."""
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        subprocess.run(["useradd", "-m", "-s", "/bin/bash", USER], check=True)
        user = pwd.getpwnam(USER)
    if user.pw_uid == 0:
        die(f"the account {USER} has uid 0")
    for path, option in (("/etc/subuid", "--add-subuids"), ("/etc/subgid", "--add-subgids")):
        if not id_ranges(path, user):
            first = max([100000] + [start + count for _, start, count in subordinate_lines(path)])
            subprocess.run(["usermod", option, f"{first}-{first + 65535}", USER], check=True)
    return user


def enter_mount_namespace() -> None:
    """Starts this program again in its own mount namespace; there, /sys/fs/cgroup becomes pure cgroup v2."""
    if NS_MARK not in os.environ:
        os.environ[NS_MARK] = "1"
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv]
        os.execvp(command[0], command)
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        mounted = subprocess.run(["mount", "-t", "cgroup2", "none", "/sys/fs/cgroup"], check=False)
        if mounted.returncode:
            say("no pure cgroup v2 at /sys/fs/cgroup: crun and runc may refuse to work")


def mount_runtime_dir(directory: Path, user: pwd.struct_passwd) -> None:
    """A tmpfs for everybody's state, as $XDG_RUNTIME_DIR is on a host with systemd. It ends with our mount namespace."""
    directory.mkdir()
    options = f"mode=0700,uid={user.pw_uid},gid={user.pw_gid}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", directory], check=True)


def compile_helper(name: str, directory: Path) -> Path:
    if not which("cc"):
        die("no C compiler: install gcc and libc6-dev")
    program = directory / name
    sources = sorted((TOP / "helpers").glob(f"{name}*.c"))
    if subprocess.run(["cc", "-O2", "-static", "-o", program, *sources], check=False).returncode:
        die(f"could not compile helpers/{name}.c; a static libc is needed (libc6-dev)")
    program.chmod(0o755)
    return program


def find_lodger(given: str | None) -> Path:
    if given:
        path = Path(given).resolve()
        if not os.access(path, os.X_OK):
            die(f"{path} is not an executable file")
        return path
    say("building lodger")
    built = subprocess.run([TOP / "contrib" / "build-static"], stdout=subprocess.PIPE, text=True, check=False)
    if built.returncode:
        die("contrib/build-static failed; use --lodger PATH for a binary that exists")
    return Path(built.stdout.strip())


def describe_machine(user: pwd.struct_passwd, rounds: int) -> Result:
    """Asked before anything is built, so that the load is that of the others."""
    cpus = os.sched_getaffinity(0)
    load = os.getloadavg()
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpus": len(cpus),
        "load": [round(value, 2) for value in load],
        "user": user.pw_name,
        "rounds": rounds,
    }
