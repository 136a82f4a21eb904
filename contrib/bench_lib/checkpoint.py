"""`checkpoint` and `restore` of a container with much memory, against the time that CRIU took in that very run.

Each round makes a container, dumps it, restores it, and has it look whether its memory is what it was. Images are in the page cache;
what was written is synced before the next measurement. CRIU's own time is from the first to the last time stamp of its log, without
what it waited for lodger in between: the pauses after its notifications. What is left of the wall time is lodger's, and the starting
of CRIU. With the pauses ("/ log") a lodger that lets CRIU wait would look fast; it tells what there is beside CRIU's log.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator

from .base import TOP, Result, die, say, which
from .lab import Failed, Lab, runs_payload, wait_until
from .report import is_met, target_table

MIB = 200
CASES = {"large": f"{MIB} MiB of memory", "small": "/bin/sleep"}
VERBS = ("checkpoint", "restore")
LIMIT = 1.2  # of CRIU's own time
PATIENCE = 60  # seconds, for a payload on a busy machine
SUITE, LEAST = "sid", "4.2"  # as in tests/run
STAMP = re.compile(r"^\((\d+\.\d+)\)(.*)")
STATS_HEAD = 12  # bytes before the message in CRIU's statistics: two magic numbers and the length
# Numbers of the fields that are shown (CRIU's stats.proto), in microseconds.
STATS = {"checkpoint": {"freezing": 1, "frozen": 2, "memdump": 3, "memwrite": 4}, "restore": {"restoring": 4}}


@dataclass
class Took:
    """One command, in milliseconds."""

    ms: float
    peak_kib: int
    criu_ms: float
    waited_ms: float
    stats: dict[str, float]

    @property
    def ratio(self) -> float:
        return self.ms / self.criu_ms

    @property
    def log_ratio(self) -> float:
        return self.ms / (self.criu_ms + self.waited_ms)


def find_criu(given: str | None, directory: Path) -> Path:
    """What was given, else what is in PATH, else, as root, what the tests use: of a newer Debian, fetched and kept apart."""
    if given:
        path = Path(given).resolve()
        return path if os.access(path, os.X_OK) else die(f"{path} is not an executable file")
    found = which("criu")
    if found:
        return Path(found)
    if os.geteuid():
        die("no CRIU in PATH: name one of 4.0 or newer with --criu PATH")
    script = 'set -euo pipefail; source "$1/tests/lib/setup.bash"; setup_criu "$2" "$3" "$4"'
    words = ["bash", "-c", script, "bash", str(TOP), str(directory), SUITE, LEAST]
    if subprocess.run(words, stdin=subprocess.DEVNULL, check=False).returncode:
        die("CRIU could not be fetched; name one with --criu PATH")
    return directory / "criu"


def criu_version(criu: Path) -> str:
    answer = subprocess.run([criu, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return answer.stdout.strip().replace("\n", ", ")


def filesystem_of(path: Path) -> str:
    answer = subprocess.run(["df", "--output=fstype", path], capture_output=True, text=True, check=False)
    return answer.stdout.split()[-1] if answer.stdout.split() else "unknown"


@dataclass
class Bench:
    lab: Lab
    lodger: Path
    criu: Path
    bundles: dict[str, Path] = field(default_factory=dict)
    took: dict[tuple[str, str], list[Took]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    alive: set[str] = field(default_factory=set)

    @property
    def images(self) -> Path:
        return self.lab.home / "images"

    def argv(self, verb: str, *words: str | Path) -> list[str]:
        return [str(self.lodger), "--root", str(self.lab.runtime_dir / "lodger"), verb, *map(str, words)]

    def pid(self, name: str) -> int:
        answer = subprocess.run(self.argv("state", name), env=self.lab.env, capture_output=True, text=True, check=False)
        try:
            return int(json.loads(answer.stdout)["pid"])
        except (ValueError, KeyError, TypeError):
            raise Failed(f"state of {name}: {answer.stderr.strip()}") from None

    def command(self, case: str, verb: str, name: str) -> Took:
        """Does it and looks at what CRIU says of it."""
        os.sync()
        options = {"checkpoint": [], "restore": ["--detach", "--bundle", self.bundles[case]]}
        words = ["--criu", self.criu, "--image-path", self.images, *options[verb], name]
        sample = self.lab.timed(self.argv(verb, *words))
        short = "dump" if verb == "checkpoint" else "restore"
        log = (self.images / f"{short}.log").read_text(errors="replace")
        criu_ms, waited_ms = own_time(log)
        stats = read_stats(self.images / f"stats-{short}", STATS[verb])
        return Took(sample.ms, sample.peak_kib, criu_ms, waited_ms, stats)

    def round(self, case: str) -> dict[str, Took]:
        name = self.lab.new_id()
        self.alive.add(name)
        try:
            self.lab.timed(self.argv("run", "--detach", "--bundle", self.bundles[case], name))
            self.wait_for(case, self.pid(name))
            took = {verb: self.command(case, verb, name) for verb in VERBS}
            self.prove(case, name)
            return took
        finally:
            self.remove(name)
            shutil.rmtree(self.images, ignore_errors=True)

    @staticmethod
    def wait_for(case: str, pid: int) -> None:
        if case == "large":
            wait_until("filling the memory", lambda: name_of(pid) == "filled", PATIENCE)
        else:
            wait_until("the program", lambda: runs_payload(pid), PATIENCE)

    def prove(self, case: str, name: str) -> None:
        """Fails unless what was restored is what there was."""
        pid = self.pid(name)
        if case == "small":
            self.wait_for(case, pid)
            return
        self.lab.timed(self.argv("kill", name, "USR1"))
        wait_until("looking at the memory", lambda: name_of(pid) in ("right", "wrong"), PATIENCE)
        if name_of(pid) != "right":
            raise Failed("the memory is not what it was before")

    def remove(self, name: str) -> None:
        try:
            self.lab.timed(self.argv("delete", "--force", name))
            self.alive.discard(name)
        except Failed as failure:
            say(f"could not delete {name}: {failure}")

    def cell(self, case: str, verb: str) -> Result:
        if case in self.reasons:
            return {"reason": self.reasons[case]}
        took = self.took[case, verb]
        times = sorted(t.ms for t in took)
        return {
            "median_ms": statistics.median(times),
            "best_ms": times[0],
            "p90_ms": times[-(-9 * (len(times) - 1) // 10)],
            "criu_ms": statistics.median(t.criu_ms for t in took),
            "waited_ms": statistics.median(t.waited_ms for t in took),
            "ratio": statistics.median(t.ratio for t in took),
            "log_ratio": statistics.median(t.log_ratio for t in took),
            "peak_kib": int(statistics.median(t.peak_kib for t in took)),
            "stats_ms": {key: statistics.median(t.stats[key] for t in took) for key in STATS[verb]},
            "rounds": len(times),
        }


def name_of(pid: int) -> str:
    """What the program has called itself (helpers/pages.c)."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        raise Failed("the container's program has ended") from None


def own_time(log: str) -> tuple[float, float]:
    """What CRIU took and what it waited, in milliseconds, as the time stamps of its log have it.

    It says "Running … scripts" and "RPC" before it notifies whoever called it, and nothing until it was answered.
    """
    stamps = [(float(found[1]) * 1000, found[2]) for found in map(STAMP.match, log.splitlines()) if found]
    if len(stamps) < 2:
        raise Failed("CRIU's log has no time stamps")
    waited = sum(after - at for (at, text), (after, _) in zip(stamps, stamps[1:]) if text.strip() == "RPC")
    return stamps[-1][0] - stamps[0][0] - waited, waited


def read_stats(path: Path, wanted: dict[str, int]) -> dict[str, float]:
    """Milliseconds of CRIU's statistics: a message of protocol buffers in another one."""
    fields = dict(varints(path.read_bytes()[STATS_HEAD:]))
    return {name: fields.get(number, 0) / 1000 for name, number in wanted.items()}


def varints(message: bytes) -> Iterator[tuple[int, int]]:
    """The numbers of a message, and of those that are in it."""
    at = 0

    def number() -> int:
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = message[at]
            value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
            if byte < 0x80:
                return value

    while at < len(message):
        key = number()
        value = number()
        if key & 7 == 2:
            yield from varints(message[at : at + value])
            at += value
        elif key & 7 == 0:
            yield key >> 3, value
        else:
            raise Failed("CRIU's statistics cannot be read")


def measure(lab: Lab, lodger: Path, criu: Path, pages: Path, rounds: int) -> Result:
    shutil.copy(pages, lab.rootfs / "bin/pages")
    bench = Bench(lab, lodger, criu)
    bench.bundles = {"large": lab.make_bundle("pages", ["/bin/pages", str(MIB)]), "small": lab.sleeper}
    try:
        for number in range(-1, rounds):
            for case in [case for case in CASES if case not in bench.reasons]:
                try:
                    took = bench.round(case)
                except Failed as failure:
                    bench.reasons[case] = str(failure)
                    continue
                for verb in VERBS if number >= 0 else ():
                    bench.took.setdefault((case, verb), []).append(took[verb])
        cells = {case: {verb: bench.cell(case, verb) for verb in VERBS} for case in CASES}
        return {"cells": cells, "filesystem": filesystem_of(lab.home), "criu": criu_version(criu), "targets": targets(cells)}
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for name in set(bench.alive):
            bench.remove(name)


def targets(cells: dict[str, dict[str, Result]]) -> list[Result]:
    found = [(f"{verb} of {MIB} MiB, to CRIU's time", cells["large"][verb].get("ratio")) for verb in VERBS]
    return [{"name": name, "value": value, "limit": LIMIT, "unit": "", "met": is_met(value, LIMIT)} for name, value in found]


def table(case: str, cells: dict[str, Result]) -> list[str]:
    heads = f"{'median':>11}{'best':>9}{'p90':>9}{'CRIU':>9}{'waited':>9}{'/ CRIU':>9}{'/ log':>9}{'peak':>12}"
    lines = [f"{CASES[case]:<24}{heads}"]
    for verb, cell in cells.items():
        if "reason" in cell:
            lines.append(f"  {verb:<22}  {cell['reason'][:80]}")
            continue
        times = f"{cell['median_ms']:>8.1f} ms{cell['best_ms']:>9.1f}{cell['p90_ms']:>9.1f}{cell['criu_ms']:>9.1f}"
        lines.append(
            f"  {verb:<22}{times}{cell['waited_ms']:>9.1f}{cell['ratio']:>9.2f}{cell['log_ratio']:>9.2f}{cell['peak_kib'] / 1024:>8.1f} MiB"
        )
        said = ", ".join(f"{key} {value:.1f} ms" for key, value in cell["stats_ms"].items())
        lines.append(f"    CRIU's statistics: {said}")
    return lines


def report(result: Result) -> str:
    info = result["machine"]
    head = [
        f"{info['date']}  Linux {info['kernel']} {info['machine']}, {info['cpus']} CPUs, "
        f"load {' '.join(map(str, info['load']))}, user {info['user']}, {info['rounds']} rounds",
        f"  {result['criu']}; images on {result['filesystem']}",
    ]
    head += [f"  note: {note}" for note in info["notes"]]
    if info["load"][0] > 1:
        head.append("  WARNING: the load was above 1 at the start: the machine was busy, measure again")
    notes = [
        "CRIU: its own time, as its log has it; waited: for lodger, in between; / CRIU, / log: without and with that, median of the ratios",
        "peak: of the largest process, CRIU's included",
    ]
    blocks = [head, *(table(case, cells) for case, cells in result["cells"].items()), notes, target_table(result["targets"])]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"
