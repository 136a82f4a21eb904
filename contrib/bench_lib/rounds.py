"""The rounds, measured by a child process that is the ordinary user."""

from __future__ import annotations

import json
import os
import pwd
import signal
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, NoReturn

from .base import TASKS, Result, die, say
from .crowd import measure_crowds
from .lab import Failed, Lab, Sample
from .rows import Floor, Row, make_rows
from .staying import measure_staying

WARM_UP = 3
COLD_TASKS = ("run", "terminal", "filtered", "cycle")
HELD_TASKS = ("warm", "exec", "state")  # while a container of each runtime sleeps


class Rounds:
    """Runs the rounds and keeps the samples. A task that fails once is dropped, with its reason."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = [row for row in rows if row.program]
        self.samples: dict[tuple[str, str], list[Sample]] = {}
        self.reasons: dict[tuple[str, str], str] = {}
        self.unheld: set[str] = set()
        self.proven: set[str] = set()

    def run(self, count: int) -> None:
        for row in self.rows:
            self.prove_run(row)
        for number in range(-WARM_UP, count):
            self.progress(number, count)
            order = self.order(number + WARM_UP)
            for task in COLD_TASKS:
                self.measure_all(task, order, number >= 0)
            self.held_part(order, number >= 0)
        self.progress(count, count)

    def order(self, number: int) -> list[Row]:
        shift = number % len(self.rows)
        order = self.rows[shift:] + self.rows[:shift]
        return order[::-1] if number % 2 else order

    def held_part(self, order: list[Row], counted: bool) -> None:
        try:
            for row in order:
                self.hold(row)
            for task in HELD_TASKS:
                self.measure_all(task, order, counted)
        finally:
            for row in order:
                self.release(row)

    def prove_run(self, row: Row) -> None:
        try:
            row.prove_run()
        except Failed as failure:
            self.give_up(row, tuple(row.tasks), str(failure))
            return
        for task, prove in (("terminal", row.prove_terminal), ("filtered", row.prove_filtered)):
            try:
                if task in row.tasks:
                    prove()
            except Failed as failure:
                self.give_up(row, (task,), str(failure))

    def give_up(self, row: Row, tasks: tuple[str, ...], reason: str) -> None:
        """Measures these tasks no more, and holds no container if it was for them."""
        if "exec" in tasks:
            self.unheld.add(row.name)
        for task in tasks:
            self.reasons.setdefault((row.name, task), reason)

    def hold(self, row: Row) -> None:
        if row.name in self.unheld or not row.tasks & {"exec", "state"}:
            return
        try:
            row.hold()
            if row.name not in self.proven:
                row.prove_held()
                self.proven.add(row.name)
        except Failed as failure:
            self.give_up(row, HELD_TASKS, f"in a running container: {failure}")

    def release(self, row: Row) -> None:
        try:
            row.release()
        except Failed as failure:
            say(f"{row.name}: could not delete its container: {failure}")
            self.give_up(row, HELD_TASKS, f"delete --force: {failure}")

    def measure_all(self, task: str, order: list[Row], counted: bool) -> None:
        for row in order:
            key = (row.name, task)
            if task not in row.tasks or key in self.reasons:
                continue
            try:
                sample = row.measure(task)
            except Failed as failure:
                self.reasons[key] = str(failure)
                continue
            if counted:
                self.samples.setdefault(key, []).append(sample)

    def take(self, samples: dict[tuple[str, str], list[Sample]], reasons: dict[tuple[str, str], str]) -> None:
        """Samples that were taken apart from the rounds."""
        self.samples.update(samples)
        self.reasons.update({key: reason for key, reason in reasons.items() if key not in self.reasons})

    @staticmethod
    def progress(number: int, count: int) -> None:
        if sys.stderr.isatty():
            done = "warming up" if number < 0 else f"round {number}/{count}"
            print(f"\rbench: {done}   ", end="\n" if number == count else "", file=sys.stderr, flush=True)

    def cell(self, row: Row, task: str) -> Result:
        if not row.program:
            return {"reason": row.missing}
        if (row.name, task) in self.reasons:
            return {"reason": self.reasons[row.name, task]}
        samples = self.samples.get((row.name, task), [])
        times = sorted(s.ms for s in samples)
        return {
            "median_ms": statistics.median(times),
            "best_ms": times[0],
            "p90_ms": times[-(-9 * (len(times) - 1) // 10)],
            "peak_kib": int(statistics.median(s.peak_kib for s in samples)),
            "rounds": len(times),
        }


def version_of(program: Path | None, env: dict[str, str]) -> str:
    if not program:
        return ""
    answer = subprocess.run(
        [program, "--version"], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    lines = answer.stdout.splitlines()
    return lines[0] if lines and not answer.returncode else ""


def describe(row: Row, rounds: Rounds, staying: dict[str, Result]) -> Result:
    return {
        "name": row.name,
        "program": row.path if row.program else None,
        "version": "" if isinstance(row, Floor) else version_of(row.program, row.lab.env),
        "size": row.program.stat().st_size if row.program else None,
        "tasks": {task: rounds.cell(row, task) for task in TASKS if task in row.tasks},
        "staying": staying.get(row.name, {}),
    }


@dataclass(frozen=True)
class Setup:
    user: pwd.struct_passwd
    home: Path
    lodger: Path
    floor: Path
    stopwatch: Path
    rounds: int


def measure_everything(setup: Setup) -> list[Result]:
    lab = Lab(setup.home, setup.user, setup.stopwatch)
    rows = make_rows(lab, setup.lodger, setup.floor)
    rounds = Rounds(rows)
    try:
        rounds.run(setup.rounds)
        working = [row for row in rounds.rows if (row.name, "run") not in rounds.reasons]
        rounds.take(*measure_crowds(working))
        staying = measure_staying(working)
        return [describe(row, rounds, staying) for row in rows]
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for row in rows:
            row.clean()


def become(user: pwd.struct_passwd) -> None:
    if os.geteuid() == 0:
        os.initgroups(user.pw_name, user.pw_gid)
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    os.umask(0o022)
    os.chdir("/")


def worker(user: pwd.struct_passwd, work: Callable[[], Any], answer: int) -> NoReturn:
    """The child that measures. It never returns."""
    code = 1
    try:
        become(user)
        with os.fdopen(answer, "w") as file:
            json.dump(work(), file)
        code = 0
    except KeyboardInterrupt:
        pass
    except SystemExit as stopped:
        if isinstance(stopped.code, str):
            print(stopped.code, file=sys.stderr)
    except Exception as failure:  # the parent can only see that there is no answer
        say(f"{type(failure).__name__}: {failure}")
    finally:
        sys.stderr.flush()
        os._exit(code)


def measure_as_user(setup: Setup) -> list[Result]:
    return as_user(setup.user, lambda: measure_everything(setup))


def as_user(user: pwd.struct_passwd, work: Callable[[], Any]) -> Any:
    """What `work` gives, which can be written as JSON, done by a child that is the ordinary user."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        worker(user, work, writer)
    os.close(writer)
    try:
        with os.fdopen(reader) as file:
            text = file.read()
    except BaseException:
        os.kill(pid, signal.SIGTERM)
        raise
    finally:
        os.waitpid(pid, 0)
    if not text:
        die("the measuring process failed")
    return json.loads(text)
