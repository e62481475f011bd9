"""Pictures of images/s: a dot plot for each lane, and how speed changes with batch and image size."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.measurements import Measurement
from bench.report.lanes import LANES, LaneTable, passes, rate
from bench.report.style import BAND, INK, fitting, log_axis, look

WIDTH = 8.2
PANELS_ACROSS = 4
LEGEND_COLUMNS = 4


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG and forget it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
    return path


def _legend(backends: Sequence[str], *, line: bool = False) -> list[Line2D]:
    return [
        Line2D([], [], color=look(b)[0], marker=look(b)[1], linestyle="-" if line else "none", markersize=6, label=fitting(b))
        for b in backends
    ]


def rates_figure(table: LaneTable, path: Path) -> Path:
    """images/s of each subject (a row) by backend (colour and marker), log scale; whiskers from slowest to fastest pass."""
    subjects = [subject for subject in table.subjects if table.ok(subject)]
    measured = [b for b in table.backends if any(rate(table.cells.get((s, b))) for s in subjects)]
    legend_rows = math.ceil(len(measured) / LEGEND_COLUMNS)
    figure, axes = plt.subplots(figsize=(WIDTH, 1.15 + 0.2 * legend_rows + 0.27 * len(subjects)))
    values: list[float] = []
    for row, subject in enumerate(subjects):
        if row % 2 == 0:
            axes.axhspan(row - 0.5, row + 0.5, color=BAND, linewidth=0)
        for cell in table.ok(subject):
            values += _dot(axes, cell, row)
    axes.set_yticks(range(len(subjects)), [fitting(subject) for subject in subjects])
    axes.set_ylim(len(subjects) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    log_axis(axes, "x", values)
    axes.set_xlabel("images/s (log scale)")
    title = f"{table.suite} on {fitting(table.device)}: {LANES[table.lane]}"
    axes.set_title(title, pad=8 + 17 * legend_rows)
    place: Any = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.4, "columnspacing": 1.4}
    axes.legend(handles=_legend(measured), ncols=LEGEND_COLUMNS, handletextpad=0.2, fontsize=9, **place)
    return save(figure, path)


def _dot(axes: Axes, cell: Measurement, row: float) -> list[float]:
    color, marker = look(cell.case.backend)
    value = rate(cell)
    if value is None:
        return []
    ends = [*passes(cell), value]
    axes.plot([min(ends), max(ends)], [row, row], color=color, linewidth=1.6, zorder=2, solid_capstyle="butt")
    edge: Any = {"markeredgecolor": "white", "markeredgewidth": 0.6}
    axes.plot([value], [row], color=color, marker=marker, markersize=6.5, zorder=3, **edge)
    return ends


def growth_figure(lines: dict[str, dict[str, list[tuple[int, Measurement]]]], along: str, title: str, path: Path) -> Path:
    """images/s against batch or image size, both log: a panel a subject, a line a backend.

    ``lines`` maps subject -> backend -> [(size, measurement)]; ``along`` names the size.
    """
    across = min(PANELS_ACROSS, len(lines))
    down = math.ceil(len(lines) / across)
    backends = list(dict.fromkeys(b for by_backend in lines.values() for b in by_backend))
    head = 0.65 + 0.2 * math.ceil(len(backends) / LEGEND_COLUMNS)
    width, height = max(WIDTH, 2.35 * across), head + 0.5 + 1.95 * down
    # Laid out by hand: thirty panels keep matplotlib's layout engine busy for seconds.
    figure, grid = plt.subplots(down, across, figsize=(width, height), squeeze=False, sharex=True, sharey=True, layout="none")
    edges: Any = {"left": 0.75 / width, "right": 1 - 0.15 / width, "top": 1 - head / height, "bottom": 0.6 / height}
    figure.subplots_adjust(**edges, wspace=0.08, hspace=0.3)
    found = [pair for by_backend in lines.values() for pairs in by_backend.values() for pair in pairs]
    for axes, (subject, by_backend) in zip(grid.flat, lines.items(), strict=False):
        for backend, pairs in by_backend.items():
            color, marker = look(backend)
            sizes, rates = [x for x, _ in pairs], [rate(m) or math.nan for _, m in pairs]
            axes.plot(sizes, rates, color=color, marker=marker, markersize=4, linewidth=1.4)
            ends = [passes(one) or [math.nan] for _, one in pairs]
            axes.vlines(sizes, [min(e) for e in ends], [max(e) for e in ends], color=color, linewidth=1)
        axes.set_title(fitting(subject, 24), fontsize=10)
    log_axis(grid[0][0], "y", [value for _, one in found if (value := rate(one)) is not None])
    log_axis(grid[0][0], "x", [float(x) for x, _ in found])
    sizes = sorted({x for x, _ in found})
    shown = sizes if len(sizes) <= 5 else sizes[:: math.ceil(len(sizes) / 5)]
    grid[0][0].set_xticks(shown, [str(x) for x in shown])
    for index in range(len(lines), down * across):
        grid.flat[index].set_visible(False)
        grid.flat[index - across].tick_params(labelbottom=True)  # nothing stands below it
    figure.supxlabel(along, fontsize=10, color=INK, y=0.12 / height)
    figure.supylabel("images/s (log scale)", fontsize=10, color=INK, x=0.1 / width)
    figure.suptitle(fitting(title, 90), x=0.12 / width, y=1 - 0.08 / height, ha="left", va="top", fontsize=11)
    place: Any = {"loc": "upper left", "bbox_to_anchor": (0.05 / width, 1 - 0.28 / height), "columnspacing": 1.2}
    figure.legend(handles=_legend(backends, line=True), ncols=LEGEND_COLUMNS, fontsize=9, **place)
    return save(figure, path)
