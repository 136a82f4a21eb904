"""The plot: one group of bars for each task, as SVG."""

from __future__ import annotations

from html import escape

from .base import TASKS, Result
from .report import shown_cells


COLOURS = {"lodger": "#1f6f8b", "lodger (binary owned by the caller)": "#74a9bd", "kernel alone": "#444444"}
OTHER_COLOUR = "#c9b79c"
LABEL_WIDTH, BAR_WIDTH, PLOT_WIDTH = 260, 420, 780
LINE, GAP = 22, 46


def text_at(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" {style}>{escape(text)}</text>'


def bars(rows: list[Result], task: str, top: float) -> tuple[list[str], float]:
    """The group of one task, its bars scaled to the longest of them; also where the next group begins."""
    cells = [(name, cell["median_ms"]) for name, cell in shown_cells(rows, task) if "median_ms" in cell]
    if not cells:
        return [], top
    longest = max(value for _, value in cells)
    parts = [text_at(20, top, TASKS[task], 'font-weight="bold" font-size="15"')]
    y = top + 10
    for name, value in cells:
        width = BAR_WIDTH * value / longest
        colour = COLOURS.get(name, OTHER_COLOUR)
        parts.append(text_at(LABEL_WIDTH - 8, y + 14, name, 'text-anchor="end"'))
        parts.append(f'<rect x="{LABEL_WIDTH}" y="{y:g}" width="{width:.1f}" height="{LINE - 5}" fill="{colour}"/>')
        parts.append(text_at(LABEL_WIDTH + width + 6, y + 14, f"{value:.2f} ms"))
        y += LINE
    return parts, y + GAP - LINE / 2


def plot(result: Result) -> str:
    info = result["machine"]
    caption = f"Medians of {info['rounds']} rounds, ordinary user, Linux {info['kernel']}, {info['cpus']} CPUs, "
    caption += f"load {info['load'][0]}. Each group has its own scale."
    parts: list[str] = []
    y = 88.0
    for task in TASKS:
        group, y = bars(result["rows"], task, y)
        parts += group
    height = y - 10
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{PLOT_WIDTH}" height="{height:g}" '
        f'viewBox="0 0 {PLOT_WIDTH} {height:g}" font-family="sans-serif" font-size="13" fill="#222222">',
        f'<rect width="{PLOT_WIDTH}" height="{height:g}" fill="#ffffff"/>',
        text_at(20, 32, "Rootless containers: time per command", 'font-size="19" font-weight="bold"'),
        text_at(20, 53, caption, 'fill="#666666"'),
    ]
    return "\n".join([*head, *parts, "</svg>"]) + "\n"
