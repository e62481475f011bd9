"""How images/s changes with batch or image size: a panel a subject, a line a backend.

Thirty panels as axes of their own keep matplotlib busy for seconds, and a run on several devices has many such figures. So all
panels lie in one coordinate system, in inches, and a backend's lines are one artist.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import LogLocator

from bench.records.measurements import Measurement
from bench.report.figures import LEGEND_COLUMNS, WIDTH, legend_of, save
from bench.report.lanes import passes, rate
from bench.report.style import GRID, INK, QUIET, fitting, look, marker_size, short

Lines = Mapping[str, Mapping[str, Sequence[tuple[int, Measurement]]]]
"""subject -> backend -> [(size, measurement)], sizes rising."""

ACROSS = 4
LEFT, RIGHT, GAP, BELOW = 0.72, 0.1, 0.14, 0.62
PANEL_HEIGHT, TITLE_HEIGHT = 1.1, 0.27
ROOM = 0.06
"""Of a panel's side, left free at each end of the data."""
Segment = list[tuple[float, float]]


@dataclass(frozen=True)
class Scale:
    """A logarithmic scale over a panel's side, from its least to its greatest value."""

    least: float
    greatest: float

    def __call__(self, value: float) -> float:
        """Where a value lies: 0 at one end of the panel, 1 at the other."""
        if self.greatest <= self.least:
            return 0.5
        share = math.log(value / self.least) / math.log(self.greatest / self.least)
        return ROOM + (1 - 2 * ROOM) * share


@dataclass(frozen=True, kw_only=True)
class Panels:
    """Where each panel lies in the figure, in inches from its lower left corner."""

    count: int
    head: float

    @property
    def across(self) -> int:
        return min(ACROSS, self.count)

    @property
    def down(self) -> int:
        return math.ceil(self.count / self.across)

    @property
    def height(self) -> float:
        return self.head + self.down * (PANEL_HEIGHT + TITLE_HEIGHT) + BELOW

    @property
    def width(self) -> float:
        return (WIDTH - LEFT - RIGHT - (ACROSS - 1) * GAP) / ACROSS

    def corner(self, index: int) -> tuple[float, float]:
        """The lower left corner of a panel."""
        row, column = divmod(index, self.across)
        return LEFT + column * (self.width + GAP), self.height - self.head - (row + 1) * (PANEL_HEIGHT + TITLE_HEIGHT)


def growth_figure(lines: Lines, along: str, title: str, path: Path) -> Path:
    """Both scales are logarithmic and the same in all panels; whiskers go from the slowest to the fastest pass.

    ``along`` names the size that grows.
    """
    backends = list(dict.fromkeys(b for by_backend in lines.values() for b in by_backend))
    head = 0.42 + 0.2 * math.ceil(len(backends) / LEGEND_COLUMNS)
    panels = Panels(count=len(lines), head=head)
    figure = plt.figure(figsize=(WIDTH, panels.height), layout="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, WIDTH), ylim=(0, panels.height))
    sizes = sorted({x for by_backend in lines.values() for pairs in by_backend.values() for x, _ in pairs})
    ends = [value for by_backend in lines.values() for pairs in by_backend.values() for _, one in pairs for value in _ends(one)]
    scale_x, scale_y = Scale(sizes[0], sizes[-1]), Scale(min(ends), max(ends))
    _frames(axes, lines, panels, scale_x, scale_y, sizes)
    for backend in backends:
        _draw(axes, backend, lines, panels, scale_x, scale_y)
    axes.text(0.1, panels.height - 0.08, fitting(title, 80), va="top", fontsize=11)
    axes.text(LEFT, 0.1, along, fontsize=10, color=INK)
    place: Any = {"loc": "upper left", "bbox_to_anchor": (0.05 / WIDTH, 1 - 0.26 / panels.height), "columnspacing": 1.2}
    figure.legend(handles=legend_of(backends, line=True), ncols=LEGEND_COLUMNS, fontsize=9, **place)
    return save(figure, path)


def _ends(one: Measurement) -> list[float]:
    return [*passes(one), *([value] if (value := rate(one)) is not None else [])]


def _frames(axes: Axes, lines: Lines, panels: Panels, scale_x: Scale, scale_y: Scale, sizes: Sequence[int]) -> None:
    """Names, grid lines and their words: words only at the left and where nothing stands below."""
    rates = _ticks(scale_y)
    shown = sizes if len(sizes) <= 5 else sizes[:: math.ceil(len(sizes) / 5)]
    grid: list[Segment] = []
    floor: list[Segment] = []
    for index, subject in enumerate(lines):
        x, y = panels.corner(index)
        axes.text(x, y + PANEL_HEIGHT + 0.04, fitting(subject, 19), fontsize=9, color=INK)
        floor.append([(x, y), (x + panels.width, y)])
        for value in rates:
            at = y + PANEL_HEIGHT * scale_y(value)
            grid.append([(x, at), (x + panels.width, at)])
            if index % panels.across == 0:
                axes.text(x - 0.06, at, short(value), fontsize=8, ha="right", va="center", color=QUIET)
        for size in shown if index + panels.across >= len(lines) else ():
            axes.text(x + panels.width * scale_x(size), y - 0.05, str(size), fontsize=8, ha="center", va="top", color=QUIET)
    axes.add_collection(LineCollection(grid, colors=GRID, linewidths=0.8, zorder=0))
    axes.add_collection(LineCollection(floor, colors=QUIET, linewidths=0.8, zorder=1))
    middle = panels.height - panels.head - panels.down * (PANEL_HEIGHT + TITLE_HEIGHT) / 2
    axes.text(0.1, middle, "images/s (log scale)", fontsize=10, color=INK, rotation=90, va="center")


def _ticks(scale: Scale) -> list[float]:
    if scale.greatest <= scale.least:
        return [scale.least]
    decades = math.log10(scale.greatest / scale.least)
    locator = LogLocator(subs=(1.0, 2.0, 5.0) if decades < 1.2 else (1.0,), numticks=6)
    return [float(v) for v in locator.tick_values(scale.least, scale.greatest) if scale.least <= v <= scale.greatest]


def _draw(axes: Axes, backend: str, lines: Lines, panels: Panels, scale_x: Scale, scale_y: Scale) -> None:
    """A backend's lines, whiskers and markers in all panels."""
    color, marker = look(backend)
    curves: list[Segment] = []
    whiskers: list[Segment] = []
    for index, by_backend in enumerate(lines.values()):
        left, bottom = panels.corner(index)
        curve: Segment = []
        for size, one in by_backend.get(backend, ()):
            x = left + panels.width * scale_x(size)
            low, high = (bottom + PANEL_HEIGHT * scale_y(end) for end in (min(_ends(one)), max(_ends(one))))
            curve.append((x, bottom + PANEL_HEIGHT * scale_y(rate(one) or 1.0)))
            whiskers.append([(x, low), (x, high)])
        curves.append(curve)
    axes.add_collection(LineCollection([curve for curve in curves if curve], colors=color, linewidths=1.3, zorder=2))
    axes.add_collection(LineCollection(whiskers, colors=color, linewidths=1, zorder=2))
    xs, ys = zip(*(point for curve in curves for point in curve), strict=True)
    axes.plot(xs, ys, linestyle="none", color=color, marker=marker, markersize=0.6 * marker_size(marker), zorder=3)
