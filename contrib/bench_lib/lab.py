"""Where everything is measured, and how one command is."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from .base import RUNTIME_DIR, SEARCH
from .bundle import make_config, make_profile, make_rootfs

PROOF_CODE = 57
PROOF = ["/bin/sh", "-c", f"exit {PROOF_CODE}"]
TERMINAL_PROOF = ["/bin/sh", "-c", f"test -t 0 && test -t 1 && test -t 2 && exit {PROOF_CODE}"]
# The same, if a filter is in force (proc_pid_status(5)).
FILTERED_PROOF = ["/bin/sh", "-c", "while read -r name value; do [ \"$name$value\" = Seccomp:2 ] && exit 57; done </proc/self/status"]
PAYLOAD = ["/bin/sleep", "3600"]  # of a container that is kept alive
SETTLE = 0.01  # seconds before each measurement: the kernel takes namespaces apart in the background


class Failed(Exception):
    """A command did not do what it should. The text is the reason that the row shows."""


@dataclass(frozen=True)
class Sample:
    ms: float
    peak_kib: int


@dataclass
class Lab:
    """Where everything is measured: the ordinary user's directory, environment and bundles."""

    home: Path
    user: pwd.struct_passwd
    stopwatch: Path
    serial: int = 0
    env: dict[str, str] = field(default_factory=dict)
    runtime_dir: Path = Path()

    def __post_init__(self) -> None:
        self.runtime_dir = self.home / RUNTIME_DIR
        self.runtime_dir.mkdir(mode=0o700, exist_ok=True)
        self.env = {
            "PATH": SEARCH,
            "HOME": self.user.pw_dir,
            "USER": self.user.pw_name,
            "LOGNAME": self.user.pw_name,
            "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": str(self.runtime_dir),
        }
        self.rootfs = self.home / "rootfs"
        self.errors = self.home / "stderr"
        make_rootfs(self.rootfs)
        self.bundle = self.make_bundle("true", ["/bin/true"])
        self.proof = self.make_bundle("proof", PROOF)
        self.sleeper = self.make_bundle("sleep", PAYLOAD)
        self.filtered_bundle = self.make_bundle("filtered-true", ["/bin/true"], seccomp=True)
        self.filtered_proof = self.make_bundle("filtered-proof", FILTERED_PROOF, seccomp=True)
        self.terminal_bundle = self.make_bundle("terminal-true", ["/bin/true"], terminal=True)
        self.terminal_proof = self.make_bundle("terminal-proof", TERMINAL_PROOF, terminal=True)
        self.terminal_sleeper = self.make_bundle("terminal-sleep", PAYLOAD, terminal=True)

    def make_bundle(self, name: str, args: list[str], terminal: bool = False, seccomp: bool = False) -> Path:
        bundle = self.home / f"bundle-{name}"
        bundle.mkdir()
        config = make_config(self.user, self.rootfs, args, terminal)
        if seccomp:
            config["linux"]["seccomp"] = make_profile()
        (bundle / "config.json").write_text(json.dumps(config, indent=2))
        return bundle

    def new_id(self) -> str:
        self.serial += 1
        return f"bench-{os.getpid()}-{self.serial}"

    def spawn(self, argv: list[str], result: int | None = None, terminal: bool = False) -> int:
        """Starts a program with nothing on its standard streams, stderr in a file, and `result` as descriptor 3.

        With `terminal` it is one that makes a terminal and prints what comes out of it: that goes to the file too.
        """
        actions: list[tuple[Any, ...]] = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, str(self.errors), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        ]
        if terminal:
            actions.append((os.POSIX_SPAWN_DUP2, 2, 1))
        if result is not None:
            actions.append((os.POSIX_SPAWN_DUP2, result, 3))
        return os.posix_spawn(argv[0], argv, self.env, file_actions=actions)

    def timed(self, argv: list[str], terminal: bool = False) -> Sample:
        """The figures of a command that succeeds; `terminal`: it is started on a terminal of its own."""
        sample, code = self.outcome(argv, terminal)
        if code:
            raise Failed(self.last_error(f"exit code {code}"))
        return sample

    def prove(self, argv: list[str], terminal: bool = False) -> None:
        """Fails unless the command really ran PROOF (or TERMINAL_PROOF), whose exit code nothing else has."""
        _, code = self.outcome(argv, terminal)
        if code != PROOF_CODE:
            raise Failed(self.last_error(f"does not run the program: exit code {code}, not {PROOF_CODE}"))

    def prove_running(self, argv: list[str]) -> None:
        """Fails unless the command prints the state of a running container."""
        answer = subprocess.run(argv, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        try:
            status = json.loads(answer.stdout)["status"]
        except (ValueError, KeyError, TypeError):
            status = "unknown"
        if status != "running":
            raise Failed(f"state says {status}, not running")

    def outcome(self, argv: list[str], terminal: bool) -> tuple[Sample, int]:
        time.sleep(SETTLE)
        reader, writer = os.pipe()
        with os.fdopen(reader) as results:
            try:
                pid = self.spawn_clocked(argv, writer, terminal)
            finally:
                os.close(writer)
            os.waitpid(pid, 0)
            words = results.read().split()
        if len(words) != 3:
            raise Failed(self.last_error("no result"))
        return Sample(int(words[0]) / 1e6, int(words[1])), int(words[2])

    def spawn_clocked(self, argv: list[str], result: int, terminal: bool) -> int:
        option = ["-t"] if terminal else []  # helpers/stopwatch.c
        return self.spawn([str(self.stopwatch), *option, *argv], result, terminal)

    def last_error(self, otherwise: str) -> str:
        text = self.errors.read_text(errors="replace").strip() if self.errors.exists() else ""
        return text.splitlines()[-1][:160] if text else otherwise


def read_pid(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        raise Failed(f"no process id in {path.name}") from None


def wait_until(what: str, done: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {seconds:g} s")
        time.sleep(0.002)


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def status_of(pid: int) -> dict[str, str]:
    """The lines of /proc/PID/status, which everybody may read."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        raise Failed(f"process {pid} has ended") from None
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def runs_payload(pid: int) -> bool:
    """Whether the process runs PAYLOAD, and not the runtime on its way there."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() == "".join(f"{word}\0" for word in PAYLOAD).encode()
    except (FileNotFoundError, ProcessLookupError):
        return False


def has_terminal(pid: int) -> bool:
    """Whether the process has a controlling terminal (proc_pid_stat(5), field 7)."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[4] != "0"


def add(samples: list[Sample]) -> Sample:
    return Sample(sum(s.ms for s in samples), max(s.peak_kib for s in samples))
