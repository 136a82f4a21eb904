"""The rows: how each task is done with each runtime."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path

from .base import ALL_TASKS, CROWD_TASKS, say, which
from .lab import PROOF, TERMINAL_PROOF, Failed, Lab, Sample, add, has_ended, read_pid, wait_until


@dataclass
class Row:
    """One runtime: how each task is done with it. `hold` and `release` keep a container alive for HELD_TASKS."""

    name: str
    program: Path | None
    lab: Lab
    tasks: frozenset[str] = ALL_TASKS
    missing: str = "not installed"

    @property
    def path(self) -> str:
        return str(self.program)

    def measure(self, task: str) -> Sample:
        return getattr(self, task)()

    def prove_run(self) -> None:
        """Fails unless `run` runs the program: a runtime that does nothing is fast."""
        raise NotImplementedError

    def prove_terminal(self) -> None:
        """The same for `run` on a terminal, which the program must have too."""

    def prove_filtered(self) -> None:
        """The same for `run` with a seccomp profile, which must be in force."""

    def prove_held(self) -> None:
        """The same for `exec` and `state`, while a container is held."""

    def hold(self) -> None:
        """Nothing to hold."""

    def release(self) -> None:
        """Nothing was held."""

    def clean(self) -> None:
        """Removes whatever is left."""
        self.release()


@dataclass
class Oci(Row):
    """A runtime with runc's command line."""

    state_root: Path = Path()
    held: str | None = None
    alive: set[str] = field(default_factory=set)

    def argv(self, *words: str | Path) -> list[str]:
        return [self.path, "--root", str(self.state_root), *map(str, words)]

    def new_container(self) -> str:
        name = self.lab.new_id()
        self.alive.add(name)
        return name

    def run(self) -> Sample:
        name = self.new_container()
        sample = self.lab.timed(self.argv("run", "-b", self.lab.bundle, name))
        self.alive.discard(name)
        return sample

    warm = run

    def prove_run(self) -> None:
        name = self.new_container()
        self.lab.prove(self.argv("run", "-b", self.lab.proof, name))
        self.alive.discard(name)

    def terminal(self) -> Sample:
        name = self.new_container()
        sample = self.lab.timed(self.argv("run", "-b", self.lab.terminal_bundle, name), terminal=True)
        self.alive.discard(name)
        return sample

    def prove_terminal(self) -> None:
        name = self.new_container()
        self.lab.prove(self.argv("run", "-b", self.lab.terminal_proof, name), terminal=True)
        self.alive.discard(name)

    def filtered(self) -> Sample:
        name = self.new_container()
        sample = self.lab.timed(self.argv("run", "-b", self.lab.filtered_bundle, name))
        self.alive.discard(name)
        return sample

    def prove_filtered(self) -> None:
        name = self.new_container()
        self.lab.prove(self.argv("run", "-b", self.lab.filtered_proof, name))
        self.alive.discard(name)

    def prove_held(self) -> None:
        self.lab.prove(self.argv("exec", self.held_id(), *PROOF))
        self.lab.prove_running(self.argv("state", self.held_id()))

    def cycle(self) -> Sample:
        name = self.new_container()
        pid_file = self.lab.home / "pid"
        created = self.lab.timed(self.argv("create", "-b", self.lab.bundle, "--pid-file", pid_file, name))
        pid = read_pid(pid_file)
        started = self.lab.timed(self.argv("start", name))
        wait_until("end of the payload", lambda: has_ended(pid))
        deleted = self.lab.timed(self.argv("delete", name))
        self.alive.discard(name)
        return add([created, started, deleted])

    def exec(self) -> Sample:
        return self.lab.timed(self.argv("exec", self.held_id(), "/bin/true"))

    def state(self) -> Sample:
        return self.lab.timed(self.argv("state", self.held_id()))

    def held_id(self) -> str:
        if not self.held:
            raise Failed("no running container")
        return self.held

    def hold(self) -> None:
        name = self.new_container()
        self.lab.timed(self.argv("run", "-d", "-b", self.lab.sleeper, name))
        self.held = name

    def release(self) -> None:
        if self.held:
            self.remove(self.held)
            self.held = None

    def remove(self, name: str) -> None:
        self.lab.timed(self.argv("delete", "--force", name))
        self.alive.discard(name)

    def clean(self) -> None:
        for name in sorted(self.alive):
            try:
                self.remove(name)
            except Failed as failure:
                say(f"{self.name}: could not delete {name}: {failure}")


@dataclass
class Bwrap(Row):
    def argv(self, *command: str) -> list[str]:
        root = str(self.lab.rootfs)
        words = f"--unshare-user --unshare-all --uid 0 --gid 0 --hostname bench --ro-bind {root} / --proc /proc"
        words += " --dev /dev --mqueue /dev/mqueue --tmpfs /dev/shm --cap-drop ALL"
        return [self.path, *words.split(), *command]

    def run(self) -> Sample:
        return self.lab.timed(self.argv("/bin/true"))

    def prove_run(self) -> None:
        self.lab.prove(self.argv(*PROOF))


@dataclass
class Floor(Row):
    held: int = 0

    @property
    def held_dir(self) -> Path:
        return self.lab.runtime_dir / "floor-held"

    def argv(self, *words: str | Path) -> list[str]:
        return [self.path, *map(str, words)]

    def held_pid(self) -> str:
        return str(read_pid(self.held_dir / "pid"))

    def run(self) -> Sample:
        return self.lab.timed(self.argv("run", self.lab.rootfs, "/bin/true"))

    def prove_run(self) -> None:
        self.lab.prove(self.argv("run", self.lab.rootfs, *PROOF))

    def terminal(self) -> Sample:
        return self.lab.timed(self.argv("terminal", self.lab.rootfs, "/bin/true"), terminal=True)

    def prove_terminal(self) -> None:
        self.lab.prove(self.argv("terminal", self.lab.rootfs, *TERMINAL_PROOF), terminal=True)

    def prove_held(self) -> None:
        self.lab.prove(self.argv("warm", self.held_pid(), self.lab.rootfs, *PROOF))
        self.lab.prove(self.argv("exec", self.held_pid(), *PROOF))
        self.lab.prove_running(self.argv("state", self.held_dir))

    def warm(self) -> Sample:
        return self.lab.timed(self.argv("warm", self.held_pid(), self.lab.rootfs, "/bin/true"))

    def cycle(self) -> Sample:
        place = self.lab.runtime_dir / self.lab.new_id()
        created = self.lab.timed(self.argv("create", place, self.lab.rootfs, "/bin/true"))
        pid = read_pid(place / "pid")
        started = self.lab.timed(self.argv("start", place))
        wait_until("end of the payload", lambda: has_ended(pid))
        return add([created, started, self.lab.timed(self.argv("delete", place))])

    def exec(self) -> Sample:
        return self.lab.timed(self.argv("exec", self.held_pid(), "/bin/true"))

    def state(self) -> Sample:
        return self.lab.timed(self.argv("state", self.held_dir))

    def hold(self) -> None:
        self.held_dir.mkdir()
        self.held = self.lab.spawn(self.argv("hold", self.held_dir, self.lab.rootfs, "/bin/sleep", "3600"))
        pid_file = self.held_dir / "pid"
        try:
            wait_until("start", lambda: pid_file.exists() and pid_file.stat().st_size > 0)
        except Failed as failure:
            raise Failed(self.lab.last_error(str(failure))) from None

    def release(self) -> None:
        if self.held:
            os.kill(self.held, signal.SIGKILL)  # its init dies with it, by PDEATHSIG
            os.waitpid(self.held, 0)
            self.held = 0
        shutil.rmtree(self.held_dir, ignore_errors=True)


def make_rows(lab: Lab, lodger: Path, floor: Path) -> list[Row]:
    def oci(name: str, program: str | Path | None, tasks: frozenset[str] = ALL_TASKS, root: str = "") -> Oci:
        state_root = lab.runtime_dir / (root or name)
        state_root.mkdir(mode=0o700, exist_ok=True)
        return Oci(name, Path(program) if program else None, lab, tasks, state_root=state_root)

    own = lab.home / "lodger-own"
    shutil.copy(lodger, own)
    own.chmod(0o755)
    peer_tasks = ALL_TASKS - {"warm"}
    rows: list[Row] = [
        oci("lodger", lodger),
        oci("lodger (binary owned by the caller)", own, frozenset({"run", "warm"}), root="lodger"),
    ]
    rows += [oci(name, which(name), peer_tasks) for name in ("crun", "runc", "youki")]
    bwrap = which("bwrap")
    rows.append(Bwrap("bwrap", Path(bwrap) if bwrap else None, lab, frozenset({"run"})))
    rows.append(Floor("kernel alone", floor, lab, ALL_TASKS - CROWD_TASKS - {"filtered"}))
    return rows
