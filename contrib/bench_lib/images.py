"""Unpacking images and starting from them: lodger against umoci, podman and GNU tar, and against its own `run` of a bundle.

A store, a bundle or a directory is fresh for each measurement and removed after it. What is read is in the page cache for all
of them, and the order changes from round to round; what was written is synced before the next one begins.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

from .base import Result, say, which
from .lab import Failed, Lab, Sample, wait_until
from .layouts import DECOMPRESS, TAG, layer_blobs
from .report import is_met, quotient, ratio_text, target_table

UNPACK = {
    "gzip": "unpacking one layer, gzip",
    "zstd": "unpacking one layer, zstd",
    "several": "unpacking five layers, gzip",
}
START = {"cold": "run /bin/true, cold", "warm": "run /bin/true, warm"}
STARTS = 8  # of each kind in a round
ALIVE = 50
AT_ONCE = 64
# As root of a user namespace with all ids of hers.
WITHIN = ["unshare", "--user", "--map-root-user", "--map-auto"]


@dataclass
class Bench:
    """What all measurements share: the ordinary user's lab, the layouts, and the samples so far."""

    lab: Lab
    lodger: Path
    layouts: dict[str, Path]
    samples: dict[tuple[str, str], list[Sample]] = field(default_factory=dict)
    reasons: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def place(self) -> Path:
        return self.lab.home / "unpacked"

    @property
    def store(self) -> Path:
        return self.lab.home / "store"

    def lodger_argv(self, *words: str | Path) -> list[str]:
        return [str(self.lodger), "--root", str(self.lab.runtime_dir / "lodger"), *map(str, words)]

    def take(self, row: str, task: str, measure: Callable[[], Sample], counted: bool) -> None:
        """One sample; a row that fails once is dropped from the task, with its reason."""
        if (row, task) in self.reasons:
            return
        try:
            sample = measure()
        except Failed as failure:
            self.reasons[row, task] = str(failure)
            return
        if counted:
            self.samples.setdefault((row, task), []).append(sample)

    def remove(self, *paths: Path) -> None:
        """What is in there belongs to subordinate ids."""
        subprocess.run([*WITHIN, "rm", "-rf", *paths], env=self.lab.env, stderr=subprocess.DEVNULL, check=False)

    def cell(self, row: str, task: str) -> Result:
        if (row, task) in self.reasons:
            return {"reason": self.reasons[row, task]}
        samples = self.samples.get((row, task), [])
        if not samples:
            return {"reason": "not measured"}
        times = sorted(sample.ms for sample in samples)
        return {
            "median_ms": statistics.median(times),
            "best_ms": times[0],
            "p90_ms": times[-(-9 * (len(times) - 1) // 10)],
            "peak_kib": int(statistics.median(sample.peak_kib for sample in samples)),
            "rounds": len(times),
        }


def by_lodger(bench: Bench, layout: Path) -> Sample:
    bench.lab.env["LODGER_STORE"] = str(bench.place)
    return bench.lab.timed(bench.lodger_argv("image", "import", f"oci:{layout}:{TAG}", TAG))


def by_umoci(bench: Bench, layout: Path) -> Sample:
    program = needed("umoci")
    return bench.lab.timed([program, "unpack", "--rootless", "--image", f"{layout}:{TAG}", str(bench.place)])


def by_podman(bench: Bench, layout: Path) -> Sample:
    program = needed("podman")
    options = ["--root", bench.place, "--runroot", bench.lab.runtime_dir / "podman", "--storage-driver", "overlay"]
    return bench.lab.timed([program, *map(str, options), "load", "--quiet", "--input", str(layout)])


def by_tar(bench: Bench, layout: Path) -> Sample:
    """Each layer by a pipe of two programs, one layer after the other; without devices, which nobody can make here."""
    compression = "zstd" if layout.name == "zstd" else "gzip"
    tar = "tar -x -p --same-owner --numeric-owner --xattrs --xattrs-include='*' --exclude='./dev/?*'"
    script = f'mkdir "$0"; cd "$0"; for layer; do {DECOMPRESS[compression]} "$layer" | {tar}; done'
    bash = needed("bash")
    words = [needed("unshare"), *WITHIN[1:], bash, "-euc", f"set -o pipefail; {script}", str(bench.place)]
    return bench.lab.timed([*words, *map(str, layer_blobs(layout))])


UNPACKERS = {"lodger": by_lodger, "umoci --rootless": by_umoci, "podman load": by_podman, "GNU tar": by_tar}


def needed(name: str) -> str:
    program = which(name)
    if not program:
        raise Failed("not installed")
    return program


def measure_unpacking(bench: Bench, rounds: int) -> None:
    names = list(UNPACKERS)
    for number in range(-1, rounds):
        shift = number % len(names)
        order = names[shift:] + names[:shift]
        for task in UNPACK:
            for name in order[::-1] if number % 2 else order:
                if task not in bench.layouts:
                    bench.reasons[name, task] = "zstd is not installed"
                    continue
                os.sync()
                bench.take(name, task, lambda: UNPACKERS[name](bench, bench.layouts[task]), number >= 0)
                bench.remove(bench.place)


class Starts:
    """`run --image`, and `run` of a bundle that `image bundle` made of the same image: the same config."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.lab = bench, bench.lab
        self.bundle = bench.lab.home / "bundle-of-image"
        bench.lab.env["LODGER_STORE"] = str(bench.store)
        self.lab.timed(bench.lodger_argv("image", "import", f"oci:{bench.layouts['gzip']}:{TAG}", TAG))
        self.lab.timed(bench.lodger_argv("image", "bundle", TAG, self.bundle))

    def from_image(self) -> Sample:
        return self.lab.timed(self.bench.lodger_argv("run", "--image", TAG, self.lab.new_id(), "/bin/true"))

    def from_bundle(self) -> Sample:
        return self.lab.timed(self.bench.lodger_argv("run", "-b", self.bundle, self.lab.new_id()))

    def measure(self, rounds: int) -> None:
        rows = {"run --image": self.from_image, "run of a bundle": self.from_bundle}
        for task in START:
            held = [self.start_sleeping()] if task == "warm" else []
            for number in range(-STARTS, rounds * STARTS):
                order = list(rows)[:: -1 if number % 2 else 1]
                for name in order:
                    self.bench.take(name, task, rows[name], number >= 0)
            self.remove(held)

    def sleeping_argv(self, name: str) -> list[str]:
        return self.bench.lodger_argv("run", "-d", "--image", TAG, name, "/bin/sleep", "3600")

    def start_sleeping(self) -> str:
        name = self.lab.new_id()
        self.lab.timed(self.sleeping_argv(name))
        return name

    def remove(self, names: list[str]) -> None:
        for name in names:
            try:
                self.lab.timed(self.bench.lodger_argv("delete", "--force", name))
            except Failed as failure:
                say(f"could not delete {name}: {failure}")

    def disk(self) -> Result:
        """What the second to the last of ALIVE containers add to the store, each."""
        names = [self.start_sleeping()]
        try:
            before = self.used()
            names += [self.start_sleeping() for _ in range(ALIVE - 1)]
            return {"kib": (self.used() - before) / (ALIVE - 1)}
        finally:
            self.remove(names)

    def used(self) -> int:
        words = [*WITHIN, "du", "-sk", str(self.bench.store)]
        answer = subprocess.run(words, env=self.lab.env, capture_output=True, text=True, check=False)
        if answer.returncode:
            raise Failed(answer.stderr.strip())
        return int(answer.stdout.split()[0])

    def at_once(self) -> Result:
        """How long AT_ONCE starts take together, and how many of them failed."""
        names = [self.lab.new_id() for _ in range(AT_ONCE)]
        begin = os.times().elapsed
        pids = [self.lab.spawn(self.sleeping_argv(name)) for name in names]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        took = os.times().elapsed - begin
        self.remove([name for name, code in zip(names, codes) if code == 0])
        return {"ms": took * 1000, "failed": sum(code != 0 for code in codes)}


def measure_starts(bench: Bench, rounds: int) -> Result:
    answer: Result = {}
    try:
        starts = Starts(bench)
        starts.measure(rounds)
        answer = {"disk": starts.disk(), "at_once": starts.at_once()}
    except Failed as failure:
        answer = {"reason": str(failure)}
    return answer


def end_podman(bench: Bench) -> None:
    """Ends the process that keeps podman's namespaces."""
    for file in bench.lab.runtime_dir.glob("**/pause.pid"):
        try:
            pid = int(file.read_text())
            os.kill(pid, signal.SIGTERM)
            wait_until("the end of podman's process", lambda: not Path(f"/proc/{pid}").exists())
        except (OSError, ValueError, Failed):
            pass


def measure(lab: Lab, lodger: Path, layouts: dict[str, Path], rounds: int) -> Result:
    """All rows, as the ordinary user."""
    policy = lab.home / "home/.config/containers"
    policy.mkdir(parents=True)
    (policy / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    lab.env["HOME"] = str(lab.home / "home")
    (lab.runtime_dir / "lodger").mkdir(mode=0o700, exist_ok=True)
    bench = Bench(lab, lodger, layouts)
    try:
        say("unpacking")
        measure_unpacking(bench, rounds)
        say("starting")
        starts = measure_starts(bench, rounds)
        cells = {task: {row: bench.cell(row, task) for row in UNPACKERS} for task in UNPACK}
        cells |= {task: {row: bench.cell(row, task) for row in ("run --image", "run of a bundle")} for task in START}
        return {"cells": cells, "starts": starts, "targets": targets(cells, starts)}
    finally:
        end_podman(bench)
        bench.remove(bench.place, bench.store, lab.home / "bundle-of-image")
        shutil.rmtree(lab.home / "home", ignore_errors=True)


def targets(cells: Result, starts: Result) -> list[Result]:
    def ratio(task: str, row: str, other: str) -> float | None:
        return quotient(cells[task][row].get("median_ms"), cells[task][other].get("median_ms"))

    def peak(task: str, row: str) -> float | None:
        kib = cells[task][row].get("peak_kib")
        return kib / 1024 if kib else None

    figures = [
        ("one layer, gzip, to umoci", ratio("gzip", "lodger", "umoci --rootless"), 0.5, ""),
        ("five layers, gzip, to umoci", ratio("several", "lodger", "umoci --rootless"), 0.5, ""),
        ("one layer, gzip, to GNU tar", ratio("gzip", "lodger", "GNU tar"), 1.0, ""),
        ("one layer, zstd, to GNU tar", ratio("zstd", "lodger", "GNU tar"), 1.0, ""),
        ("five layers, gzip, to GNU tar", ratio("several", "lodger", "GNU tar"), 1.0, ""),
        ("peak, one layer (limit: umoci's)", peak("gzip", "lodger"), peak("gzip", "umoci --rootless"), " MiB"),
        ("peak, five layers (limit: umoci's)", peak("several", "lodger"), peak("several", "umoci --rootless"), " MiB"),
        ("run --image cold, to run of a bundle", ratio("cold", "run --image", "run of a bundle"), 1.3, ""),
        ("run --image warm, to run of a bundle", ratio("warm", "run --image", "run of a bundle"), 1.3, ""),
        (f"disk, each of the 2nd to {ALIVE}th", starts.get("disk", {}).get("kib"), 50.0, " KiB"),
        (f"failed of {AT_ONCE} starts at once", starts.get("at_once", {}).get("failed"), 0, ""),
    ]
    return [
        {"name": name, "value": value, "limit": limit, "unit": unit, "met": is_met(value, limit)}
        for name, value, limit, unit in figures
    ]


def cell_table(title: str, cells: dict[str, Result], references: tuple[str, ...]) -> list[str]:
    heads = "".join(f"{'/ ' + name.split()[0]:>9}" for name in references)
    lines = [f"{title:<38}{'median':>11}{'best':>9}{'p90':>9}{heads}{'peak':>11}"]
    for name, cell in cells.items():
        if "reason" in cell:
            lines.append(f"  {name:<36}  {cell['reason'][:80]}")
            continue
        ratios = [ratio_text(quotient(cell["median_ms"], cells[other].get("median_ms"))) for other in references]
        figures = f"{cell['median_ms']:>8.1f} ms{cell['best_ms']:>9.1f}{cell['p90_ms']:>9.1f}"
        lines.append(f"  {name:<36}{figures}{''.join(f'{text:>9}' for text in ratios)}{cell['peak_kib'] / 1024:>7.1f} MiB")
    return lines


def report(result: Result) -> str:
    info, cells, starts = result["machine"], result["cells"], result["starts"]
    blocks = [
        [
            f"{info['date']}  Linux {info['kernel']} {info['machine']}, {info['cpus']} CPUs, "
            f"load {' '.join(map(str, info['load']))}, user {info['user']}, {info['rounds']} rounds"
        ]
        + [f"  note: {note}" for note in info["notes"]]
    ]
    blocks += [cell_table(UNPACK[task], cells[task], ("umoci --rootless", "GNU tar")) for task in UNPACK]
    blocks += [cell_table(START[task], cells[task], ("run of a bundle",)) for task in START]
    if "reason" in starts:
        blocks.append([f"containers of one image: {starts['reason']}"])
    else:
        blocks.append(
            [
                f"the 2nd to {ALIVE}th container of an image add {starts['disk']['kib']:.1f} KiB each; "
                f"{AT_ONCE} starts at once take {starts['at_once']['ms']:.0f} ms, {starts['at_once']['failed']} failed"
            ]
        )
    blocks.append(target_table(result["targets"]))
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"
