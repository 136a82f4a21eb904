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
from .bundle import make_config, make_rootfs

PROOF_CODE = 57
PROOF = ["/bin/sh", "-c", f"exit {PROOF_CODE}"]
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
        self.sleeper = self.make_bundle("sleep", ["/bin/sleep", "3600"])

    def make_bundle(self, name: str, args: list[str]) -> Path:
        bundle = self.home / f"bundle-{name}"
        bundle.mkdir()
        config = make_config(self.user, self.rootfs, args)
        (bundle / "config.json").write_text(json.dumps(config, indent=2))
        return bundle

    def new_id(self) -> str:
        self.serial += 1
        return f"bench-{os.getpid()}-{self.serial}"

    def spawn(self, argv: list[str], result: int | None = None) -> int:
        """Starts a program with nothing on its standard streams, stderr in a file, and `result` as descriptor 3."""
        actions: list[tuple[Any, ...]] = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, str(self.errors), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        ]
        if result is not None:
            actions.append((os.POSIX_SPAWN_DUP2, result, 3))
        return os.posix_spawn(argv[0], argv, self.env, file_actions=actions)

    def timed(self, argv: list[str]) -> Sample:
        """The figures of a command that succeeds."""
        sample, code = self.outcome(argv)
        if code:
            raise Failed(self.last_error(f"exit code {code}"))
        return sample

    def prove(self, argv: list[str]) -> None:
        """Fails unless the command really ran PROOF, whose exit code nothing else has."""
        _, code = self.outcome(argv)
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

    def outcome(self, argv: list[str]) -> tuple[Sample, int]:
        time.sleep(SETTLE)
        reader, writer = os.pipe()
        with os.fdopen(reader) as results:
            try:
                pid = self.spawn([str(self.stopwatch), *argv], writer)
            finally:
                os.close(writer)
            os.waitpid(pid, 0)
            words = results.read().split()
        if len(words) != 3:
            raise Failed(self.last_error("no result"))
        return Sample(int(words[0]) / 1e6, int(words[1])), int(words[2])

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


def add(samples: list[Sample]) -> Sample:
    return Sample(sum(s.ms for s in samples), max(s.peak_kib for s in samples))
