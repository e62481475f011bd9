"""Pictures of training: where the time goes by placement, accuracy by recipe, and curves by epoch."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.patches import Patch

from bench.report.arms import Arm, Record, ceiling, history
from bench.report.figures import WIDTH, save
from bench.report.lanes import LANES
from bench.report.quantities import number, rounded
from bench.report.style import BAND, INK, QUIET, WAIT, WORK, epoch_axis, fitting, series_look

CURVES = (
    ("train_loss", "train loss", "-"),
    ("train_accuracy", "train accuracy", "--"),
    ("test_accuracy", "test accuracy", "-."),
)


def curves_figure(history: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Train loss, train accuracy and test accuracy by epoch on one axis, as the d2l book draws them.

    ``history`` has one mapping an epoch with ``epoch``, ``train_loss``, ``train_accuracy`` and ``test_accuracy``; what is
    missing or not finite leaves a gap. Raises OSError when the picture cannot be written.
    """
    figure, axes = plt.subplots(figsize=(5.6, 3.8))
    epochs = [number(row, "epoch") or index for index, row in enumerate(history, start=1)]
    marker = "o" if len(epochs) == 1 else ""
    for index, (name, label, dashes) in enumerate(CURVES):
        values = [math.nan if (value := number(row, name)) is None else value for row in history]
        axes.plot(epochs, values, dashes, color=series_look(index)[0], linewidth=1.8, marker=marker, label=label)
    epoch_axis(axes)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("loss; accuracy (share of one)")
    if epochs:
        axes.legend()
    return save(figure, path)


def placement_figure(arms: Sequence[Arm], title: str, path: Path) -> Path:
    """Milliseconds an example by arm, split into waiting for data and the rest, grouped by lane; the ceiling as a line."""
    arms = [arm for arm in arms if arm.median("examples_per_s")]
    lanes = list(dict.fromkeys(arm.lane for arm in arms))
    rows = [index + 0.9 * lanes.index(arm.lane) for index, arm in enumerate(arms)]  # arms come sorted by lane
    figure, axes = plt.subplots(figsize=(WIDTH, 1.7 + 0.34 * (rows[-1] + 1)))
    longest = max(1000 / (arm.median("examples_per_s") or 1) for arm in arms)
    for row, arm in zip(rows, arms, strict=True):
        total = 1000 / (arm.median("examples_per_s") or 1)
        share = min(max(arm.median("wait_share") or 0.0, 0.0), 1.0)
        axes.barh(row, total * (1 - share), color=WORK, height=0.7)
        axes.barh(row, total * share, left=total * (1 - share), color=WAIT, height=0.7)
        speed = f"{rounded(arm.median('examples_per_s') or 0)} examples/s"
        axes.text(total + longest * 0.012, row, f"{speed}, {share:.0%} waiting", va="center", fontsize=9, color=INK)
    _lane_words(axes, arms, rows)
    top = ceiling(arms)
    if top:
        axes.axvline(1000 / (top.median("examples_per_s") or 1), color=INK, linewidth=1, linestyle=":", zorder=2)
    axes.set_yticks(rows, [fitting(arm.label) for arm in arms])
    axes.set_ylim(rows[-1] + 0.6, -1.2)
    axes.set_xlim(0, longest * 1.65)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.set_xlabel("milliseconds an example: shorter is faster" + (" (dotted: no augmentation)" if top else ""))
    axes.set_title(fitting(title, 70), pad=24)
    handles = [Patch(color=c) for c in (WORK, WAIT)]
    words = ["step (with augmentation on the device)", "waiting for data"]
    axes.legend(handles, words, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.3, fontsize=9)
    return save(figure, path)


def _lane_words(axes: Any, arms: Sequence[Arm], rows: Sequence[float]) -> None:
    before = None
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
    for row, arm in zip(rows, arms, strict=True):
        if arm.lane != before:
            axes.text(0, row - 0.62, LANES[arm.lane], fontsize=9, color=QUIET, style="italic", va="center", bbox=paper)
        before = arm.lane


def accuracy_figure(arms: Sequence[Arm], labels: Sequence[str], path: Path) -> Path:
    """Final test accuracy by recipe: a dot a seed, a bar at the mean."""
    figure, axes = plt.subplots(figsize=(WIDTH, 1.2 + 0.36 * len(arms)))
    found: list[float] = []
    for row, arm in enumerate(arms):
        if row % 2 == 0:
            axes.axhspan(row - 0.5, row + 0.5, color=BAND, linewidth=0)
        values = [100 * value for value in arm.values("test_accuracy")]
        if not values:
            continue
        found += values
        axes.plot(values, [row] * len(values), "o", color=WORK, markersize=6, alpha=0.75, markeredgecolor="white")
        mean = statistics.fmean(values)
        axes.plot([mean, mean], [row - 0.32, row + 0.32], color=INK, linewidth=2)
    axes.set_yticks(range(len(arms)), [fitting(label) for label in labels])
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    margin = max(0.5, 0.08 * (max(found) - min(found)))
    axes.set_xlim(min(found) - margin, max(found) + margin)
    axes.set_xlabel("test accuracy after the last epoch, % (dot: a seed; bar: their mean)")
    return save(figure, path)


def learning_figure(arms: Sequence[Arm], labels: Sequence[str], path: Path) -> Path:
    """Train loss, train accuracy and test accuracy by epoch, a colour a recipe: each seed thin, their mean thick."""
    figure, grid = plt.subplots(1, 3, figsize=(WIDTH + 1.4, 3.3))
    for axes, (name, label, _) in zip(grid, CURVES, strict=True):
        factor = 1 if name == "train_loss" else 100
        for index, arm in enumerate(arms):
            color, dashes = series_look(index)
            runs = [_curve(record, name, factor) for record in arm.records]
            for run in runs if len(runs) > 1 else ():
                axes.plot(list(run), list(run.values()), dashes, color=color, linewidth=0.8, alpha=0.45)
            mean = _mean_curve(runs)
            marker = "o" if len(mean) == 1 else ""
            axes.plot(
                list(mean), list(mean.values()), dashes, color=color, linewidth=1.9, marker=marker, label=fitting(labels[index])
            )
        axes.set_title(label if factor == 1 else f"{label}, %")
        epoch_axis(axes)
    handles, words = grid[0].get_legend_handles_labels()
    figure.legend(handles, words, loc="outside lower center", ncols=min(4, len(arms)), fontsize=9)
    return save(figure, path)


def _curve(record: Record, name: str, factor: float) -> dict[float, float]:
    rows = enumerate(history(record), start=1)
    pairs = [(number(row, "epoch") or index, number(row, name)) for index, row in rows]
    return {epoch: factor * value for epoch, value in pairs if value is not None}


def _mean_curve(runs: Sequence[Mapping[float, float]]) -> dict[float, float]:
    epochs = sorted({epoch for run in runs for epoch in run})
    return {epoch: statistics.fmean(run[epoch] for run in runs if epoch in run) for epoch in epochs}
