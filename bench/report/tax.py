"""What augmentation costs a training run: examples/s by placement against the ceiling, where the time of a step goes, and how
many loader workers would keep up with the device."""

import math
import statistics
from collections.abc import Mapping, Sequence

from bench.report.arms import (
    MANNER,
    SETTING,
    Arm,
    Record,
    ceiling,
    gathered,
    setting_words,
    settings,
    share_of,
    succeeded,
    with_spread,
)
from bench.report.blocks import Block, Code, Heading, Paragraph, Table, Text
from bench.report.context import Context
from bench.report.failures import failed_section
from bench.report.lanes import LANES
from bench.report.quantities import UNKNOWN, counted, listed, number, percent, rounded, word
from bench.report.tax_figures import PARTS, parts, tax_figure
from bench.report.utilisation import utilisation_blocks

TITLE = "Training: examples per second by placement"
NEAR = 0.9
"""A share of the ceiling from which on a decimal is worth showing."""
MEASURED = (
    "examples/s over the whole wall time of the steps, and without the time in which the training loop waited for data. Median "
    "of the rounds, ± half the range between them; all placements take turns within a round. The ceiling is training on "
    "one prepared batch over and over: nothing is fetched, picked, normalised or augmented. (Runs from before it was measured "
    "are held against the fastest arm without augmentation.) No augmentation: normalise only, on images that already lie on "
    "the device where the table says nothing else. Shares of the ceiling are of the medians, with the smallest and the largest "
    "of the rounds."
)
SPLIT = (
    "Milliseconds a step, by the device's own clock where it has one: on an accelerator work in the background shows only as "
    "far as training had to wait for it. What workers augment, and what the training process fetches or augments by itself, "
    "is waiting; copying is the way to the device, or picking a batch from the images that lie there."
)
BREAK_EVEN = (
    "Workers that would keep up = examples/s of the ceiling ÷ examples/s of one loader worker that runs alone, with nobody "
    "training; by pairs from the same round, the median with the smallest and the largest. It supposes that workers do not "
    "hinder each other or the training: true at most up to the number of cores."
)


def tax_section(context: Context) -> list[Block]:
    """Training speed by placement: for each setting and recipe a figure, the shares of the ceiling and the parts of a step.

    Nothing where it was not to be measured.
    """
    groups = settings(context.run.training, "throughput")
    overhead = _overhead(context)
    if not groups:
        failed = failed_section(context, "throughput", TITLE)
        return [*failed, *overhead] if failed or not overhead else [Heading(text="The trainer's own step"), *overhead]
    blocks: list[Block] = [Heading(text=TITLE), Paragraph(MEASURED)]
    for index, arms in enumerate(groups, start=1):
        blocks.append(Paragraph(f"Setting: {setting_words(arms)}."))
        for recipe in _recipes(arms):
            shown = [arm for arm in arms if arm.is_bare or word(arm.first, "recipe") == recipe]
            blocks += _placements(context, shown, recipe, index)
            blocks += _break_even(context, shown, recipe)
    return [*blocks, *overhead]


def _recipes(arms: Sequence[Arm]) -> list[str]:
    recipes = list(dict.fromkeys(word(arm.first, "recipe") for arm in arms if not arm.is_bare))
    return recipes or ["none"]


# ---- placements -------------------------------------------------------------------------------------------------------


def _placements(context: Context, arms: Sequence[Arm], recipe: str, index: int) -> list[Block]:
    blocks: list[Block] = [Heading(text=["Recipe ", Code(recipe)], level=3)]
    drawn = [arm for arm in arms if arm.median("examples_per_s")]
    if drawn:
        speeds = [f"{arm.label} {rounded(arm.median('examples_per_s') or 0)}" for arm in drawn]
        alternative = (
            f"Stacked bars: milliseconds a step when training with {recipe}, split into its parts, by placement. Examples per "
            f"second: {listed(speeds, 10)}."
        )
        title = f"Training with {recipe}: where the time of a step goes"
        name = f"throughput-{index}-{recipe}"
        blocks.append(context.figure(name, lambda path: tax_figure(drawn, title, path), alternative))
    header = ["placement", "drawn", "examples/s", "share of the ceiling", "examples/s without the wait", "waiting", "n, rounds"]
    top = ceiling(arms)
    rows = [_speed_row(arm, top) for arm in arms]
    blocks.append(Table(header=header, rows=rows, numeric=frozenset(range(2, 7))))
    return [*blocks, *_split_table(drawn), *utilisation_blocks(arms), *_power_table(arms)]


def _name(arm: Arm) -> Text:
    backend = word(arm.first, "backend")
    return arm.label if arm.is_bare else [Code(backend), arm.label.removeprefix(backend)]


def _speed_row(arm: Arm, top: Arm | None) -> list[Text]:
    wait = arm.median("wait_share")
    return [
        _name(arm),
        LANES[arm.lane],
        with_spread(arm, "examples_per_s"),
        "the ceiling" if arm is top else _share_words(arm, top),
        with_spread(arm, "examples_per_s_without_wait"),
        UNKNOWN if wait is None else percent(wait, 0),
        str(len(arm.values("examples_per_s"))),
    ]


def _share_words(arm: Arm, top: Arm | None) -> str:
    share = share_of(arm, top)
    if share is None or top is None:
        return UNKNOWN
    digits = 1 if share >= NEAR else 0
    pairs = ratios(arm.records, top.records)
    span = f" ({100 * min(pairs):.{digits}f} to {percent(max(pairs), digits)})" if len(pairs) > 1 else ""
    return percent(share, digits) + span


def ratios(ours: Sequence[Record], theirs: Sequence[Record]) -> list[float]:
    """examples/s of the one over those of the other, for each round in which both were measured."""
    mine, others = _by_round(ours), _by_round(theirs)
    return [mine[key] / others[key] for key in mine if key in others]


def _by_round(records: Sequence[Record]) -> dict[float, float]:
    pairs = [(number(record, "round"), number(record, "examples_per_s")) for record in records]
    return {key: rate for key, rate in pairs if key is not None and rate}


def _split_table(arms: Sequence[Arm]) -> list[Block]:
    """Where the time of a step goes; nothing for records that do not tell."""
    told = [(arm, split) for arm in arms if (split := parts(arm)) and "forward_backward" in split]
    if not told:
        return []
    used = [name for name in PARTS if any(name in split for _, split in told)]
    header = ["placement", *(f"{PARTS[name].words}, ms" for name in used), "a step, ms"]
    rows: list[list[Text]] = []
    for arm, split in told:
        whole = sum(split.values())
        rows.append([_name(arm), *(_milliseconds(split.get(name), whole) for name in used), rounded(whole)])
    return [Paragraph(SPLIT), Table(header=header, rows=rows, numeric=frozenset(range(1, len(header))))]


def _milliseconds(value: float | None, whole: float) -> str:
    if value is None:
        return ""
    return "0" if value < 0.0005 * whole else rounded(value)


DRIVER = {
    "gpu_utilisation": ("GPU busy, % of the time", 100.0),
    "power_w": ("power, W", 1.0),
    "energy_j_per_1000_examples": ("energy a 1,000 examples, J", 1.0),
    "peak_bytes": ("peak memory, MiB", 2.0**-20),
}


def _power_table(arms: Sequence[Arm]) -> list[Block]:
    """What the driver and the allocator tell; nothing where they tell nothing."""
    used = [name for name in DRIVER if any(arm.values(name) for arm in arms)]
    if not used:
        return []
    rows: list[list[Text]] = []
    for arm in arms:
        middles = [(arm.median(name), DRIVER[name][1]) for name in used]
        rows.append([_name(arm), *(UNKNOWN if value is None else rounded(value * factor) for value, factor in middles)])
    header = ["placement", *(DRIVER[name][0] for name in used)]
    return [Table(header=header, rows=rows, numeric=frozenset(range(1, len(header))))]


# ---- break-even -------------------------------------------------------------------------------------------------------


def _break_even(context: Context, arms: Sequence[Arm], recipe: str) -> list[Block]:
    """How many workers would keep up with the ceiling, for each sort of worker that was measured alone."""
    top = ceiling(arms)
    alone = [
        Arm(records=records)
        for records in gathered(succeeded(context.run.training, "feed"), (*SETTING, *MANNER))
        if top is not None
        and all(repr(records[0].get(name)) == repr(top.first.get(name)) for name in SETTING)
        and word(records[0], "recipe") in (recipe, "none")
    ]
    rows = [_worker_row(arm, top) for arm in alone if top is not None and arm.median("examples_per_s")]
    if not rows:
        return []
    cores = _usable_cores(context.run.environment)
    here = f" This machine has {counted(cores, 'usable core')}." if cores else ""
    header = ["what a worker does", "examples/s of one worker", "workers that would keep up", "whole workers", "n, rounds"]
    return [Paragraph(BREAK_EVEN + here), Table(header=header, rows=rows, numeric=frozenset(range(1, 5)))]


def _worker_row(arm: Arm, top: Arm) -> list[Text]:
    needed = workers_needed(arm.records, top.records)
    words, whole = UNKNOWN, UNKNOWN
    if needed:
        middle = statistics.median(needed)
        span = f" ({rounded(min(needed), 2)} to {rounded(max(needed), 2)})" if len(needed) > 1 else ""
        words, whole = rounded(middle, 2) + span, str(math.ceil(middle))
    return [_work(arm.first), with_spread(arm, "examples_per_s"), words, whole, str(len(needed))]


def workers_needed(worker: Sequence[Record], top: Sequence[Record]) -> list[float]:
    """The ceiling's examples/s over one worker's, for each round in which both were measured."""
    return ratios(top, worker)


def _work(record: Record) -> Text:
    decodes = record.get("decode") == "workers"
    if record.get("augment_on") != "workers":
        return "decode only" if decodes else "fetch only (decoded ahead)"
    return ["decode, and augment with " if decodes else "augment with ", Code(word(record, "backend"))]


def _usable_cores(environment: Mapping[str, object]) -> int | None:
    cpu = environment.get("cpu")
    cores = number(cpu, "usable_cores") if isinstance(cpu, dict) else None
    return int(cores) if cores else None


# ---- the trainer itself -----------------------------------------------------------------------------------------------


def _overhead(context: Context) -> list[Block]:
    """What the trainer's own step costs over a bare loop, where ``pytest --benchmark-only`` has measured it."""
    blocks: list[Block] = []
    for records in gathered(succeeded(context.run.training, "overhead"), SETTING):
        ratios = [ratio for record in records if (ratio := number(record, "step_over_bare")) is not None]
        if not ratios:
            continue
        one = Arm(records=records)
        blocks.append(
            Paragraph(
                f"The trainer itself: its step takes {statistics.median(ratios):.3f} times as long as that of a bare loop over "
                f"the same batches with the same model, without metrics, clocks or progress ({min(ratios):.3f} to "
                f"{max(ratios):.3f} in {counted(len(ratios), 'pass', 'passes')}, their steps in turns; {setting_words([one])})."
            )
        )
    return blocks
