"""Pictures of photographs: fine-tuning by epoch, where the time goes by placement, and decoders by number of processes."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullLocator

from bench.report.arms import Arm
from bench.report.figures import WIDTH, save
from bench.report.quantities import counted, number, rounded, word
from bench.report.style import GRID, INK, QUIET, SERIES, WAIT, WORK, epoch_axis, fitting, series_look, short
from bench.report.training_figures import curve, mean_curve

CURVES = (("train_loss", "train loss", 1), ("test_accuracy", "validation accuracy, %", 100))
PARTS: Mapping[str, tuple[str, str]] = {
    "forward_backward": ("forward and backward", WORK),
    "optimizer": ("optimizer", QUIET),
    "augment": ("augmenting on the device", SERIES[6]),
    "copy": ("copying", SERIES[4]),
    "wait": ("waiting", WAIT),
    "other": ("other", GRID),
    "decode_s": ("decoding where fetched", SERIES[0]),
    "worker_augment_s": ("augmenting where fetched", SERIES[1]),
}
"""The training process's time is all those before ``decode_s``; the last two pass meanwhile, in workers, if there are any."""
FETCHING = ("decode_s", "worker_augment_s")


def finetune_figure(arms: Sequence[Arm], labels: Sequence[str], path: Path) -> Path:
    """Train loss and validation accuracy by epoch, a colour an arm: each seed thin, their mean thick."""
    figure, grid = plt.subplots(1, 2, figsize=(WIDTH, 3.6 + 0.2 * len(arms)))
    for axes, (name, title, factor) in zip(grid, CURVES, strict=True):
        for index, arm in enumerate(arms):
            color, dashes = series_look(index)
            runs = [curve(record, name, factor) for record in arm.records]
            for run in runs if len(runs) > 1 else ():
                axes.plot(list(run), list(run.values()), dashes, color=color, linewidth=0.8, alpha=0.45)
            mean = mean_curve(runs)
            marker = "o" if len(mean) == 1 else ""
            axes.plot(list(mean), list(mean.values()), dashes, color=color, linewidth=1.9, marker=marker, label=labels[index])
        axes.set_title(title)
        epoch_axis(axes)
    handles, words = grid[0].get_legend_handles_labels()
    figure.legend(handles, [fitting(one, 90) for one in words], loc="outside lower center", ncols=1, fontsize=9)
    return save(figure, path)


def photographs_figure(arms: Sequence[Arm], path: Path) -> Path:
    """Two bars an arm: the training process's milliseconds a photograph by part, and below it, thinner, what fetching took."""
    split = [(arm, parts(arm)) for arm in arms]
    split = [(arm, one) for arm, one in split if one]
    used = [name for name in PARTS if any(one.get(name, 0.0) > 0 for _, one in split)]
    legend_rows = -(-len(used) // 3)
    figure, axes = plt.subplots(figsize=(WIDTH, 1.4 + 0.2 * legend_rows + 0.55 * len(split)))
    longest = max((sum(v for n, v in one.items() if n not in FETCHING) for _, one in split), default=1.0)
    for row, (arm, one) in enumerate(split):
        end = _bar(axes, row - 0.14, 0.42, {name: value for name, value in one.items() if name not in FETCHING})
        speed = f"{rounded(arm.median('examples_per_s') or 0)} examples/s"
        axes.text(end + longest * 0.012, row - 0.14, speed, va="center", fontsize=9, color=INK)
        _bar(axes, row + 0.24, 0.24, {name: one.get(name, 0.0) for name in FETCHING})
    axes.set_yticks(range(len(split)), [fitting(placement_words(arm), 60) for arm, _ in split])
    axes.set_ylim(len(split) - 0.4, -0.6)
    axes.set_xlim(0, longest * 1.3)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.set_xlabel("milliseconds a photograph (thin bars: fetching)")
    handles = [Patch(color=PARTS[name][1]) for name in used]
    place: Any = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.3, "ncols": 3, "fontsize": 9}
    axes.legend(handles, [PARTS[name][0] for name in used], **place)
    return save(figure, path)


def placement_words(arm: Arm) -> str:
    """Such as "kornia on the device, 2 workers decode", "pil in 2 workers", "no augmentation"."""
    if arm.first.get("augment_on") != "device":
        return arm.label
    workers = int(number(arm.first, "num_workers") or 0)
    decoding = f"{counted(workers, 'worker')} {'decodes' if workers == 1 else 'decode'}" if workers else "no workers"
    return f"{arm.label}, {decoding}"


def parts(arm: Arm) -> dict[str, float]:
    """Milliseconds a photograph by part, medians over the rounds; empty where nothing is known."""
    told: dict[str, list[float]] = {}
    for record in arm.records:
        split, examples = record.get("split_s"), number(record, "examples")
        both = (dict(split) if isinstance(split, dict) else {}) | {name: record.get(name) for name in FETCHING}
        for name in PARTS:
            value = number(both, name)
            if value is not None and examples:
                told.setdefault(name, []).append(1000 * max(value, 0.0) / examples)
    return {name: statistics.median(values) for name, values in told.items()}


def _bar(axes: Any, row: float, height: float, values: Mapping[str, float]) -> float:
    left = 0.0
    for name in PARTS:
        if values.get(name):
            axes.barh(row, values[name], left=left, color=PARTS[name][1], height=height)
            left += values[name]
    return left


def decoding_figure(arms: Sequence[Arm], path: Path) -> Path:
    """images/s against the number of processes, both log: a panel a shorter side, a line a decoder."""
    sizes = sorted({int(number(arm.first, "image_size") or 0) for arm in arms})
    decoders = list(dict.fromkeys(word(arm.first, "decoder") for arm in arms))
    figure, grid = plt.subplots(1, len(sizes), figsize=(max(WIDTH, 2.7 * len(sizes)), 3.6), sharey=True, squeeze=False)
    counts = sorted({int(number(arm.first, "num_workers") or 1) for arm in arms})
    for axes, size in zip(grid[0], sizes, strict=True):
        for index, decoder in enumerate(decoders):
            mine = [a for a in arms if word(a.first, "decoder") == decoder and number(a.first, "image_size") == size]
            points = sorted((number(a.first, "num_workers") or 1, a.median("images_per_s") or 0.0) for a in mine)
            color, dashes = series_look(index)
            axes.plot(
                [x for x, _ in points], [y for _, y in points], dashes, color=color, marker="o", markersize=5, label=decoder
            )
        axes.set_title(f"{size} pixels")
        axes.set_xscale("log")
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("processes")
    grid[0][0].set_yscale("log")
    grid[0][0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    grid[0][0].set_ylabel("images/s (log scale)")
    handles, words = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, words, loc="outside lower center", ncols=min(4, len(words)), fontsize=9)
    return save(figure, path)
