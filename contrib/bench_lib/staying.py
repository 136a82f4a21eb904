"""The memory of what stays with a foreground container: `run` waits as long as the program runs."""

from __future__ import annotations

import os
import signal
import statistics
from pathlib import Path

from .base import Result
from .lab import Failed, has_ended, has_terminal, read_pid, runs_payload, status_of, wait_until
from .rows import Oci, Row

TIMES = 5
KINDS = {"run": "run", "terminal": "run -t"}


def measure_staying(rows: list[Row]) -> dict[str, Result]:
    """For each runtime and kind: the peak (VmHWM) and the present share (Pss) of its processes, in KiB, or a reason."""
    answer: dict[str, Result] = {}
    for row in rows:
        if isinstance(row, Oci) and "terminal" in row.tasks:
            answer[row.name] = {kind: measure(row, kind == "terminal") for kind in KINDS}
    return answer


def measure(row: Oci, terminal: bool) -> Result:
    try:
        figures = [once(row, terminal) for _ in range(TIMES)]
    except Failed as failure:
        return {"reason": str(failure)}
    shares = [share for _, share in figures if share is not None]
    return {
        "peak_kib": int(statistics.median(peak for peak, _ in figures)),
        "pss_kib": int(statistics.median(shares)) if shares else None,
        "times": TIMES,
    }


def once(row: Oci, terminal: bool) -> tuple[int, int | None]:
    lab, name = row.lab, row.new_container()
    pid_file = lab.home / "pid"
    pid_file.unlink(missing_ok=True)
    bundle = lab.terminal_sleeper if terminal else lab.sleeper
    argv = row.argv("run", "-b", bundle, "--pid-file", pid_file, name)
    with open(os.devnull, "w") as unread:
        started = lab.spawn_clocked(argv, unread.fileno(), terminal) if terminal else lab.spawn(argv)
    try:
        wait_until("pid file", lambda: pid_file.exists() and pid_file.stat().st_size > 0)
        payload = read_pid(pid_file)
        wait_until("the program", lambda: runs_payload(payload))
        if terminal and not has_terminal(payload):
            raise Failed("the program has no terminal")
        runtime = children(started)[0] if terminal else started
        return total(runtime)
    except Failed as failure:
        raise Failed(lab.last_error(str(failure))) from None
    finally:
        end(row, name, started)


def end(row: Oci, name: str, started: int) -> None:
    """Takes the container away, and whoever waited for it."""
    try:
        row.remove(name)
        wait_until("end of run", lambda: has_ended(started))
    except Failed:
        os.kill(started, signal.SIGKILL)
    finally:
        os.waitpid(started, 0)


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        raise Failed("the runtime has ended") from None


def total(runtime: int) -> tuple[int, int | None]:
    """Of the runtime and what it started, without the container (which has a pid namespace of its own): the peak of the
    largest process, and the sum of the shares."""
    status = status_of(runtime)
    if len(status["NSpid"].split()) > 1:
        return 0, 0
    peak, share = int(status["VmHWM"].split()[0]), pss(runtime)
    for child in children(runtime):
        if status_of(child)["State"].startswith("Z"):
            continue
        child_peak, child_share = total(child)
        peak = max(peak, child_peak)
        share = None if share is None or child_share is None else share + child_share
    return peak, share


def pss(pid: int) -> int | None:
    """The share in KiB; None where the process may not be looked into."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), None)
