"""Pictures of accuracy: every seed by recipe, and accuracy against speed."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.lines import Line2D

from bench.comparison.seeds import estimate
from bench.report.arms import Arm
from bench.report.figures import WIDTH, save
from bench.report.quantities import word
from bench.report.style import BAND, INK, QUIET, WORK, fitting, log_axis, look


def _percents(arm: Arm) -> list[float]:
    return [100 * value for value in arm.values("test_accuracy")]


def accuracy_figure(arms: Sequence[Arm], labels: Sequence[str], path: Path) -> Path:
    """Final test accuracy by recipe: a dot a seed, a bar at the mean, a line over its 95 % interval where seeds allow one.

    Each arm has at least one value.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 1.2 + 0.36 * len(arms)))
    ends: list[float] = []
    for row, arm in enumerate(arms):
        if row % 2 == 0:
            axes.axhspan(row - 0.5, row + 0.5, color=BAND, linewidth=0)
        values = _percents(arm)
        one = estimate(values)
        half = one.half or 0.0
        ends += [*values, one.mean - half, one.mean + half]
        axes.plot([one.mean - half, one.mean + half], [row, row], color=INK, linewidth=1.2, zorder=2)
        axes.plot(values, [row] * len(values), "o", color=WORK, markersize=6, alpha=0.75, markeredgecolor="white", zorder=3)
        axes.plot([one.mean, one.mean], [row - 0.32, row + 0.32], color=INK, linewidth=2, zorder=4)
    axes.set_yticks(range(len(arms)), [fitting(label) for label in labels])
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    margin = max(0.5, 0.08 * (max(ends) - min(ends)))
    axes.set_xlim(min(ends) - margin, max(ends) + margin)
    axes.set_xlabel("test accuracy, % (dot: a seed; bar: mean; line: 95 % interval)")
    return save(figure, path)


def pareto_figure(arms: Sequence[Arm], path: Path) -> Path:
    """Test accuracy against training examples/s, a point a recipe and backend; those that no other beats in both are joined.

    Bars: the 95 % interval of the mean accuracy from three seeds on; slowest to fastest run. Each arm has both values.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 4.6))
    points = [(statistics.median(arm.values("examples_per_s")), estimate(_percents(arm)), arm) for arm in arms]
    for speed, accuracy, arm in points:
        color, marker = look(word(arm.first, "backend"))
        runs = arm.values("examples_per_s")
        around = {"xerr": [[speed - min(runs)], [max(runs) - speed]], "yerr": accuracy.half or 0.0}
        bars: Any = {
            **around,
            "elinewidth": 1.2,
            "capsize": 3,
            "markersize": 9,
            "markeredgecolor": "white",
            "markeredgewidth": 0.6,
        }
        axes.errorbar(speed, accuracy.mean, fmt=marker, color=color, zorder=3, **bars)
        beside: Any = {"xytext": (6, 4), "textcoords": "offset points", "fontsize": 8}
        axes.annotate(fitting(word(arm.first, "recipe"), 24), (speed, accuracy.mean), **beside)
    front = unbeaten([(speed, accuracy.mean) for speed, accuracy, _ in points])
    axes.plot([x for x, _ in front], [y for _, y in front], color=QUIET, linewidth=0.9, linestyle=":", zorder=1)
    log_axis(axes, "x", [speed for arm in arms for speed in arm.values("examples_per_s")])
    axes.set_xlabel("training, examples/s (log scale; bar: slowest to fastest run)")
    axes.set_ylabel("test accuracy, % (bar: 95 % interval)")
    backends = list(dict.fromkeys(word(arm.first, "backend") for arm in arms))
    handles = [
        Line2D([], [], color=look(b)[0], marker=look(b)[1], linestyle="none", markersize=6, label=fitting(b)) for b in backends
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9)
    return save(figure, path)


def unbeaten(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other is as good as in both coordinates and better in one, from left to right."""

    def beaten(point: tuple[float, float]) -> bool:
        return any(other != point and other[0] >= point[0] and other[1] >= point[1] for other in points)

    return sorted({point for point in points if not beaten(point)})
