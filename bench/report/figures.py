"""Pictures of images/s: a dot plot for each lane; and how every figure is written to a file."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.report.lanes import LANES, LaneTable, passes, rate
from bench.report.style import BAND, PAPER, fitting, log_axis, look, marker_size

WIDTH = 7.0
LEGEND_COLUMNS = 4
CHARACTER = 0.075
"""Inches that a character of a name takes, about."""


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as SVG or PNG, as the path's suffix says, and forget it. Raises OSError when it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)  # the same records, the same file
    plt.close(figure)
    return path


def legend_of(backends: Sequence[str], *, line: bool = False) -> list[Line2D]:
    """A legend's handles: the look of each backend."""
    dashes: Literal["-", "none"] = "-" if line else "none"
    looks = {backend: look(backend) for backend in backends}
    return [
        Line2D([], [], color=color, marker=marker, linestyle=dashes, markersize=marker_size(marker), label=fitting(backend))
        for backend, (color, marker) in looks.items()
    ]


def rates_figure(table: LaneTable, path: Path) -> Path:
    """images/s of each subject (a row) by backend (colour and marker), log scale; whiskers from slowest to fastest pass."""
    subjects = [subject for subject in table.subjects if table.ok(subject)]
    measured = [b for b in table.backends if any(rate(table.cells.get((s, b))) for s in subjects)]
    legend_rows = math.ceil(len(measured) / LEGEND_COLUMNS)
    names = [fitting(subject) for subject in subjects]
    head = 0.36 + 0.2 * legend_rows
    height = head + 0.27 * len(subjects) + 0.55
    # Laid out by hand, and an artist a backend: a run has dozens of these figures.
    figure = plt.figure(figsize=(WIDTH, height), layout="none")
    left = (0.25 + CHARACTER * max(map(len, names))) / WIDTH
    axes = figure.add_axes((left, 0.55 / height, 0.985 - left, 1 - (head + 0.55) / height))
    bands = [[(-1, row - 0.5), (2, row - 0.5), (2, row + 0.5), (-1, row + 0.5)] for row in range(0, len(subjects), 2)]
    across = axes.get_yaxis_transform()  # bands go from edge to edge, whatever the scale
    axes.add_collection(PolyCollection(bands, facecolors=BAND, transform=across, zorder=0), autolim=False)
    values = [end for backend in measured for end in _dots(axes, table, subjects, backend)]
    axes.set_yticks(range(len(subjects)), names)
    axes.set_ylim(len(subjects) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    log_axis(axes, "x", values)
    axes.set_xlabel("images/s (log scale)")
    figure.text(
        0.1 / WIDTH, 1 - 0.08 / height, f"{table.suite} on {fitting(table.device)}: {LANES[table.lane]}", va="top", size=11
    )
    place: Any = {"loc": "upper left", "bbox_to_anchor": (0.05 / WIDTH, 1 - 0.26 / height), "columnspacing": 1.4}
    figure.legend(handles=legend_of(measured), ncols=LEGEND_COLUMNS, handletextpad=0.2, fontsize=9, **place)
    return save(figure, path)


def _dots(axes: Axes, table: LaneTable, subjects: Sequence[str], backend: str) -> list[float]:
    """A backend's dots and whiskers in all rows; returns the values that must be seen."""
    color, marker = look(backend)
    points: list[tuple[float, float]] = []
    whiskers: list[list[tuple[float, float]]] = []
    for row, subject in enumerate(subjects):
        cell = table.cells.get((subject, backend))
        value = rate(cell)
        if cell is None or value is None:
            continue
        ends = [*passes(cell), value]
        points.append((value, row))
        whiskers.append([(min(ends), row), (max(ends), row)])
    axes.add_collection(LineCollection(whiskers, colors=color, linewidths=1.6, zorder=2), autolim=False)
    edge: Any = {"markeredgecolor": PAPER, "markeredgewidth": 0.6, "markersize": marker_size(marker)}
    axes.plot(*zip(*points, strict=True), linestyle="none", color=color, marker=marker, zorder=3, **edge)
    return [x for whisker in whiskers for x, _ in whisker]
