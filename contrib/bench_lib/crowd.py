"""What a start costs when many containers are alive: the first ones of a hundred against the last."""

from __future__ import annotations

from .base import CROWD_TASKS, say
from .lab import Failed, Sample, read_pid, runs_payload, wait_until
from .rows import Oci, Row

ALIVE = 100
SHARE = 5  # so many first ones, and so many last ones, count
CROWDS = 3

Samples = dict[tuple[str, str], list[Sample]]


def measure_crowds(rows: list[Row]) -> tuple[Samples, dict[tuple[str, str], str]]:
    """The samples of all crowds, and for each row that failed its reason. One row has a crowd at a time."""
    samples: Samples = {}
    reasons: dict[tuple[str, str], str] = {}
    able = [row for row in rows if isinstance(row, Oci) and row.tasks >= CROWD_TASKS]
    for number in range(CROWDS):
        for row in able[::-1] if number % 2 else able:
            try:
                starts = crowd(row)
            except Failed as failure:
                reasons.update({(row.name, task): f"with many alive: {failure}" for task in CROWD_TASKS})
                continue
            samples.setdefault((row.name, "first"), []).extend(starts[:SHARE])
            samples.setdefault((row.name, "hundredth"), []).extend(starts[-SHARE:])
    return samples, reasons


def crowd(row: Oci) -> list[Sample]:
    """What each start took, of ALIVE containers that really run at the same time."""
    starts, pids = [], []
    names = []
    try:
        for _ in range(ALIVE):
            name = row.new_container()
            names.append(name)
            pid_file = row.lab.home / "pid"
            command = row.argv("run", "-d", "-b", row.lab.sleeper, "--pid-file", pid_file, name)
            starts.append(row.lab.timed(command))
            pids.append(read_pid(pid_file))
        wait_until(f"{ALIVE} programs at work", lambda: len(set(pids)) == ALIVE and all(map(runs_payload, pids)))
        return starts
    finally:
        for name in names:
            try:
                row.remove(name)
            except Failed as failure:
                say(f"{row.name}: could not delete {name}: {failure}")
