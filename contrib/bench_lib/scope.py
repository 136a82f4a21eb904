"""`run` in a scope of the user's systemd, where that is: in the tests' session, or in the caller's own."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import statistics
import subprocess
from pathlib import Path

from .base import TOP, Result, die, say
from .bundle import make_config, make_rootfs

LIMIT = 0.8  # of crun's time


def make_bundles(place: Path, uid: int) -> None:
    make_rootfs(place / "rootfs")
    user = pwd.getpwuid(os.geteuid())
    for name, args in (("true", ["/bin/true"]), ("sleep", ["/bin/sleep", "3600"])):
        bundle = place / name
        bundle.mkdir()
        config = make_config(user, place / "rootfs", args, terminal=False)
        # The session's user has an id of her own; one is enough.
        for kind in ("uidMappings", "gidMappings"):
            config["linux"][kind] = [{"containerID": 0, "hostID": uid, "size": 1}]
        (bundle / "config.json").write_text(json.dumps(config))
    for path in [place, *place.rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | 0o555)


def measure(place: Path, lodger: Path, rounds: int) -> dict[str, Result]:
    """The medians of each runtime. As root, in the session that the tests use."""
    shutil.copyfile(lodger, place / "lodger")
    script = place / "scopes.sh"
    shutil.copyfile(TOP / "contrib/bench_lib/scopes.sh", script)
    for program in (place / "lodger", script):
        program.chmod(0o755)
    as_root = os.geteuid() == 0
    make_bundles(place, 1000 if as_root else os.geteuid())
    command = [str(script), str(place), str(rounds)]
    if as_root:
        command = [str(TOP / "tests/guest/session"), "--share", str(place), "--", *command]
    say("measuring in a session")
    answer = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
    if answer.returncode:
        die(f"the session ended with {answer.returncode}")
    samples: dict[str, list[tuple[float, int]]] = {}
    for line in answer.stdout.splitlines():
        name, nanoseconds, kib = line.split()
        samples.setdefault(name, []).append((int(nanoseconds) / 1e6, int(kib)))
    return {name: figures(found) for name, found in samples.items()}


def figures(samples: list[tuple[float, int]]) -> Result:
    times = sorted(ms for ms, _ in samples)
    return {
        "median_ms": statistics.median(times),
        "best_ms": times[0],
        "p90_ms": times[-(-9 * (len(times) - 1) // 10)],
        "peak_kib": int(statistics.median(kib for _, kib in samples)),
        "rounds": len(times),
    }


def report(rows: dict[str, Result]) -> str:
    crun = rows["crun"]["median_ms"]
    lines = [f"{'run /bin/true, cold, in a scope':<38}{'median':>10}{'best':>9}{'p90':>9}{'/ crun':>9}{'peak':>11}"]
    for name, row in rows.items():
        lines.append(
            f"  {name:<36}{row['median_ms']:>7.2f} ms{row['best_ms']:>9.2f}{row['p90_ms']:>9.2f}"
            f"{row['median_ms'] / crun:>9.2f}{row['peak_kib'] / 1024:>7.1f} MiB"
        )
    met = "met" if is_met(rows) else "NOT MET"
    lines.append(f"\n  run in a scope, to crun's: {ratio(rows):.2f}, at most {LIMIT:.2f}: {met}")
    return "\n".join(lines) + "\n"


def ratio(rows: dict[str, Result]) -> float:
    return rows["lodger"]["median_ms"] / rows["crun"]["median_ms"]


def is_met(rows: dict[str, Result]) -> bool:
    return ratio(rows) <= LIMIT
