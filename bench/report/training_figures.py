"""Pictures of training: curves by epoch."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from bench.report.arms import Arm, Record, history
from bench.report.figures import WIDTH, save
from bench.report.quantities import number
from bench.report.style import epoch_axis, fitting, series_look

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


def learning_figure(arms: Sequence[Arm], labels: Sequence[str], path: Path) -> Path:
    """Train loss, train accuracy and test accuracy by epoch, a colour a recipe: each seed thin, their mean thick."""
    curves = [one for one in CURVES if any(curve(record, one[0], 1) for arm in arms for record in arm.records)] or CURVES
    figure, (grid,) = plt.subplots(1, len(curves), figsize=(WIDTH + 1.4, 3.3), squeeze=False)
    for axes, (name, label, _) in zip(grid, curves, strict=True):
        factor = 1 if name == "train_loss" else 100
        for index, arm in enumerate(arms):
            color, dashes = series_look(index)
            runs = [curve(record, name, factor) for record in arm.records]
            for run in runs if len(runs) > 1 else ():
                axes.plot(list(run), list(run.values()), dashes, color=color, linewidth=0.8, alpha=0.45)
            mean = mean_curve(runs)
            marker = "o" if len(mean) == 1 else ""
            axes.plot(
                list(mean), list(mean.values()), dashes, color=color, linewidth=1.9, marker=marker, label=fitting(labels[index])
            )
        axes.set_title(label if factor == 1 else f"{label}, %")
        epoch_axis(axes)
    handles, words = grid[0].get_legend_handles_labels()
    figure.legend(handles, words, loc="outside lower center", ncols=min(4, len(arms)), fontsize=9)
    return save(figure, path)


def curve(record: Record, name: str, factor: float) -> dict[float, float]:
    """A record's values of a field by epoch, times ``factor``."""
    rows = enumerate(history(record), start=1)
    pairs = [(number(row, "epoch") or index, number(row, name)) for index, row in rows]
    return {epoch: factor * value for epoch, value in pairs if value is not None}


def mean_curve(runs: Sequence[Mapping[float, float]]) -> dict[float, float]:
    """The mean by epoch over the runs that have it."""
    epochs = sorted({epoch for run in runs for epoch in run})
    return {epoch: statistics.fmean(run[epoch] for run in runs if epoch in run) for epoch in epochs}
