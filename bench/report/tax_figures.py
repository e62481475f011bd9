"""The picture of the tax: milliseconds a step by placement, stacked by what they are spent on."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.patches import Patch

from bench.report.arms import Arm, Record, ceiling
from bench.report.figures import WIDTH, save
from bench.report.lanes import LANES
from bench.report.quantities import number, rounded
from bench.report.style import GRID, INK, PAPER, QUIET, SERIES, WAIT, WORK, fitting


@dataclass(frozen=True)
class Part:
    """A part of a step, in words and in a colour."""

    words: str
    color: str


PARTS: Mapping[str, Part] = {
    "forward_backward": Part("forward and backward", WORK),
    "optimizer": Part("optimizer", QUIET),
    "step": Part("step (with augmentation on the device)", WORK),
    "augment": Part("augmentation on the device", SERIES[6]),
    "copy": Part("to the device", SERIES[4]),
    "wait": Part("waiting for data", WAIT),
    "other": Part("other", GRID),
}
"""In the order in which they are stacked; ``step`` stands for all but the wait in records that tell no more."""


def parts(arm: Arm) -> dict[str, float]:
    """Milliseconds a step by part, the medians over the arm's records; empty where its speed is not known."""
    splits = [split for record in arm.records if (split := _split(record))]
    names = [name for name in PARTS if any(name in split for split in splits)]
    return {name: statistics.median(split.get(name, 0.0) for split in splits) for name in names}


def _split(record: Record) -> dict[str, float]:
    rate, batch = number(record, "examples_per_s"), number(record, "batch_size")
    if not rate or not batch:
        return {}
    total = 1000 * batch / rate
    told = record.get("split_s")
    known = {name: value for name in PARTS if (value := number(told, name)) is not None} if isinstance(told, dict) else {}
    whole = sum(max(value, 0.0) for value in known.values())
    if "forward_backward" in known and whole > 0:
        return {name: total * max(value, 0.0) / whole for name, value in known.items()}
    share = min(max(number(record, "wait_share") or 0.0, 0.0), 1.0)
    return {"step": total * (1 - share), "wait": total * share}


def tax_figure(arms: Sequence[Arm], title: str, path: Path) -> Path:
    """A bar an arm, grouped by lane as the arms are; the ceiling as a dotted line. Arms of unknown speed are left out."""
    split = [(arm, parts(arm)) for arm in arms]
    split = [(arm, one) for arm, one in split if one]
    lanes = list(dict.fromkeys(arm.lane for arm, _ in split))
    rows = [index + 0.9 * lanes.index(arm.lane) for index, (arm, _) in enumerate(split)]  # arms come sorted by lane
    used = [name for name in PARTS if any(name in one for _, one in split)]
    legend_rows = -(-len(used) // 3)
    figure, axes = plt.subplots(figsize=(WIDTH, 1.5 + 0.2 * legend_rows + 0.34 * ((rows[-1] if rows else 0) + 1)))
    longest = max((sum(one.values()) for _, one in split), default=1.0)
    for row, (arm, one) in zip(rows, split, strict=True):
        _bar(axes, row, one)
        speed = f"{rounded(arm.median('examples_per_s') or 0)} examples/s"
        axes.text(sum(one.values()) + longest * 0.012, row, speed, va="center", fontsize=9, color=INK)
    _lane_words(axes, [arm for arm, _ in split], rows)
    top = ceiling(arms)
    if top:
        axes.axvline(sum(parts(top).values()), color=INK, linewidth=1, linestyle=":", zorder=2)
    axes.set_yticks(rows, [fitting(arm.label, 52) for arm, _ in split])
    axes.set_ylim((rows[-1] if rows else 0) + 0.6, -1.2)
    axes.set_xlim(0, longest * 1.6)  # room for the words behind the longest bar, however narrow long labels leave the axes
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.set_xlabel("milliseconds a step: shorter is faster" + (" (dotted: the ceiling)" if top else ""))
    axes.set_title(fitting(title, 70), pad=8 + 16 * legend_rows, loc="right")  # long labels leave no room to the right
    handles = [Patch(color=PARTS[name].color, label=PARTS[name].words) for name in used]
    axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.3, fontsize=9)
    return save(figure, path)


def _bar(axes: Any, row: float, split: Mapping[str, float]) -> None:
    left = 0.0
    for name, part in PARTS.items():
        axes.barh(row, split.get(name, 0.0), left=left, color=part.color, height=0.7)
        left += split.get(name, 0.0)


def _lane_words(axes: Any, arms: Sequence[Arm], rows: Sequence[float]) -> None:
    before = None
    paper = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.0}
    for row, arm in zip(rows, arms, strict=True):
        if arm.lane != before:
            axes.text(0, row - 0.62, LANES[arm.lane], fontsize=9, color=QUIET, style="italic", va="center", bbox=paper)
        before = arm.lane
