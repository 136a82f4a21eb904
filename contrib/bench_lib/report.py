"""The tables: figures, ratios and targets."""

from __future__ import annotations

from typing import Iterator

from .base import TASKS, Result


def median(rows: list[Result], name: str, task: str) -> float | None:
    for row in rows:
        if row["name"] == name:
            return row["tasks"].get(task, {}).get("median_ms")
    return None


def quotient(value: float | None, by: float | None) -> float | None:
    return value / by if value is not None and by else None


def ratio_text(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def shown_cells(rows: list[Result], task: str) -> Iterator[tuple[str, Result]]:
    """The cells of one table. Without a warm mode the cold figure stands in, and says so."""
    for row in rows:
        cell = row["tasks"].get(task)
        if cell is None and task == "warm":
            cell = row["tasks"].get("run")
            yield f"{row['name']}, cold", cell
        elif cell is not None:
            yield row["name"], cell


def reference(task: str) -> str:
    return "run" if task == "warm" else task


def task_table(rows: list[Result], task: str) -> list[str]:
    crun, runc = (median(rows, name, reference(task)) for name in ("crun", "runc"))
    lines = [f"{TASKS[task]:<38}{'median':>10}{'best':>9}{'p90':>9}{'/ crun':>9}{'/ runc':>9}"]
    for name, cell in shown_cells(rows, task):
        if "reason" in cell:
            lines.append(f"  {name:<36}  {cell['reason']}")
            continue
        value = cell["median_ms"]
        figures = f"{value:>7.2f} ms{cell['best_ms']:>9.2f}{cell['p90_ms']:>9.2f}"
        ratios = [ratio_text(quotient(value, other)) for other in (crun, runc)]
        lines.append(f"  {name:<36}{figures}{ratios[0]:>9}{ratios[1]:>9}")
    return lines


def size_table(rows: list[Result]) -> list[str]:
    lines = [f"{'memory and size':<38}{'peak of run':>13}{'binary':>11}"]
    for row in rows:
        if row["size"] is None:
            continue
        peak = row["tasks"].get("run", {}).get("peak_kib")
        peak_text = f"{peak / 1024:.1f} MiB" if peak else ""
        lines.append(f"  {row['name']:<36}{peak_text:>13}{row['size'] / 1e6:>8.2f} MB")
    return lines


def staying_table(rows: list[Result]) -> list[str]:
    lines = [f"{'memory of who stays with the container':<38}{'run peak':>11}{'share':>11}{'run -t peak':>13}{'share':>11}"]
    for row in rows:
        cells = row["staying"]
        if not cells:
            continue
        reasons = [cell["reason"] for cell in cells.values() if "reason" in cell]
        if reasons:
            lines.append(f"  {row['name']:<36}  {reasons[0]}")
            continue
        figures = [cells[kind][key] for kind in ("run", "terminal") for key in ("peak_kib", "pss_kib")]
        texts = ["unreadable" if figure is None else f"{figure / 1024:.2f} MiB" for figure in figures]
        lines.append(f"  {row['name']:<36}{texts[0]:>11}{texts[1]:>11}{texts[2]:>13}{texts[3]:>11}")
    return lines


def targets(rows: list[Result]) -> list[Result]:
    """What lodger is to reach. `met` is false too where a figure is missing."""

    def against_crun(task: str) -> float | None:
        return quotient(median(rows, "lodger", task), median(rows, "crun", reference(task)))

    def peak_mib(name: str) -> float | None:
        row = next(row for row in rows if row["name"] == name)
        peak = row["tasks"]["run"].get("peak_kib")
        return peak / 1024 if peak else None

    def staying_mib(name: str, kind: str) -> float | None:
        row = next(row for row in rows if row["name"] == name)
        peak = row["staying"].get(kind, {}).get("peak_kib")
        return peak / 1024 if peak else None

    crowd = quotient(median(rows, "lodger", "hundredth"), median(rows, "lodger", "first"))
    size = next(row["size"] for row in rows if row["name"] == "lodger")
    figures = [
        ("run cold, to crun", against_crun("run"), 0.6, ""),
        ("run warm, to crun's cold", against_crun("warm"), 0.35, ""),
        ("run -t cold, to crun", against_crun("terminal"), 0.6, ""),
        ("run with a seccomp profile, to crun", against_crun("filtered"), 0.6, ""),
        ("exec, to crun", against_crun("exec"), 0.6, ""),
        ("state, to crun", against_crun("state"), 0.25, ""),
        ("start of the last of 100, to the first", crowd, 1.2, ""),
        ("binary size", size / 1e6, 5.0, " MB"),
        ("peak memory of run (limit: crun's)", peak_mib("lodger"), peak_mib("crun"), " MiB"),
        ("who stays with run (limit: crun's)", staying_mib("lodger", "run"), staying_mib("crun", "run"), " MiB"),
        (
            "who stays with run -t (limit: crun's)",
            staying_mib("lodger", "terminal"),
            staying_mib("crun", "terminal"),
            " MiB",
        ),
    ]
    return [
        {"name": name, "value": value, "limit": limit, "unit": unit, "met": is_met(value, limit)}
        for name, value, limit, unit in figures
    ]


def is_met(value: float | None, limit: float | None) -> bool:
    return value is not None and limit is not None and value <= limit


def amount(value: float | None, unit: str) -> str:
    return "none" if value is None else f"{value:.2f}{unit}"


def target_table(goals: list[Result]) -> list[str]:
    lines = [f"{'targets':<40}{'measured':>11}{'at most':>11}"]
    for goal in goals:
        value, limit = (amount(goal[key], goal["unit"]) for key in ("value", "limit"))
        lines.append(f"  {goal['name']:<38}{value:>11}{limit:>11}  {'met' if goal['met'] else 'NOT MET'}")
    return lines



def header_lines(info: Result, rows: list[Result]) -> list[str]:
    lines = [
        f"{info['date']}  Linux {info['kernel']} {info['machine']}, {info['cpus']} CPUs, "
        f"load {' '.join(map(str, info['load']))}, user {info['user']}, {info['rounds']} rounds"
    ]
    for row in rows:
        if row["version"] and "owned by the caller" not in row["name"]:
            lines.append(f"  {row['name']:<8}{row['version']}  ({row['program']})")
    lines += [f"  note: {note}" for note in info["notes"]]
    return lines + [f"  WARNING: {text}" for text in warnings(info, rows)]


def warnings(info: Result, rows: list[Result]) -> list[str]:
    """Why the figures may not be worth much."""
    found = []
    if info["load"][0] > 1:
        found.append("the load was above 1 at the start: the machine was busy, measure again")
    uneven = []
    for row in rows:
        cell = row["tasks"].get("run", {})
        if "reason" not in cell and cell["p90_ms"] > 1.5 * cell["median_ms"]:
            uneven.append(row["name"])
    if uneven:
        found.append(f"uneven figures (p90 above 1.5 medians) of run for {', '.join(uneven)}: measure again when quiet")
    return found


def report(result: Result) -> str:
    rows = result["rows"]
    blocks = [header_lines(result["machine"], rows)]
    blocks += [task_table(rows, task) for task in TASKS]
    blocks += [size_table(rows), staying_table(rows), target_table(result["targets"])]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"
