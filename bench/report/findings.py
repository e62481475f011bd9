"""What a run found, in a sentence for each thing that was measured."""

import statistics
from collections.abc import Sequence

from bench.comparison.seeds import FEWEST_SEEDS
from bench.records.measurements import Measurement
from bench.report.accuracy import interval, labels, number_of_epochs
from bench.report.answer import trained, usual_recipe
from bench.report.arms import Arm, ceiling, settings, share_of
from bench.report.blocks import Block, Bullets, Code, Heading, Inline, Text
from bench.report.context import Context
from bench.report.finetune import finetune_findings
from bench.report.lanes import LANES, LaneTable, lane_tables, passes, rate
from bench.report.parity import summary
from bench.report.quantities import counted, percent, rounded, spread, word
from bench.report.scaling import scaling_findings
from bench.report.target import target_findings
from bench.report.utilisation import utilisation_findings


def findings(context: Context) -> list[Block]:
    """A sentence on each thing that was measured: how fast, what it costs in training, what it gives in accuracy."""
    items = [*_fastest(context), *_cost(context), *utilisation_findings(context), *_gain(context), *target_findings(context)]
    items += [*scaling_findings(context), *finetune_findings(context), *summary(context)]
    return [Heading(text="In short"), Bullets(items)] if items else []


def _fastest(context: Context) -> list[Text]:
    tables = [table for table in lane_tables(context.run.measurements, "recipes") if table.lane in ("per_image", "per_batch")]
    measured = dict.fromkeys(subject for table in tables for subject in table.subjects if table.ok(subject))
    recipe = usual_recipe(measured)
    if recipe is None:
        return []
    return [text for lane in ("per_image", "per_batch") if (text := _fastest_of_lane(context, tables, recipe, lane))]


def _fastest_of_lane(context: Context, tables: Sequence[LaneTable], recipe: str, lane: str) -> Text:
    """Empty where nobody does the recipe as it is defined in that lane."""
    cells = [cell for table in tables if table.lane == lane for cell in table.ok(recipe)]
    equal = [cell for cell in cells if (recipe, cell.case.backend) not in (context.differences or {})]
    ranked = sorted(equal, key=lambda cell: -(rate(cell) or 0))
    if not ranked:
        return []
    case = ranked[0].case
    shape = f"batch {case.batch_size}, {case.pixels} pixels"
    text: list[Inline] = [Code(recipe), f" with {LANES[lane]} ({shape}): fastest is ", *_speed(ranked[0])]
    for device in dict.fromkeys(cell.case.device for cell in ranked if cell.case.device != case.device):
        text += [f"; on {device} ", *_speed(next(cell for cell in ranked if cell.case.device == device))]
    return [*text, *(["; slowest ", *_speed(ranked[-1])] if len(ranked) > 1 else []), "."]


def _speed(cell: Measurement) -> list[Inline]:
    values = passes(cell)
    sure = ", ".join(filter(None, (spread(values), counted(len(values), "pass", "passes"))))
    return [Code(cell.case.backend), f" on {cell.case.device}, {rounded(rate(cell) or 0)} images/s ({sure})"]


def _cost(context: Context) -> list[Text]:
    groups = [arms for arms in settings(context.run.training, "throughput") if ceiling(arms)]
    if not groups:
        return []
    arms = max(groups, key=len)
    top = ceiling(arms)
    recipes = dict.fromkeys(word(arm.first, "recipe") for arm in arms if not arm.is_bare)
    recipe = usual_recipe(recipes)
    if top is None or recipe is None:
        return []
    ours = [arm for arm in arms if not arm.is_bare and word(arm.first, "recipe") == recipe and arm.median("examples_per_s")]
    items: list[Text] = [f"Training {word(top.first, 'model')} {top.bare_words} reaches {trained(top)}."]
    for lane in LANES:
        ranked = sorted((arm for arm in ours if arm.lane == lane), key=lambda arm: -(arm.median("examples_per_s") or 0))
        if not ranked:
            continue
        worst = f"; slowest {_placed(ranked[-1], top)}." if len(ranked) > 1 else "."
        items.append(["Training with ", Code(recipe), f", {LANES[lane]}: fastest is {_placed(ranked[0], top)}{worst}"])
    return items


def _placed(arm: Arm, top: Arm) -> str:
    return f"{arm.label} at {percent(share_of(arm, top) or 0, 0)} of that, {trained(arm)}"


def _gain(context: Context) -> list[Text]:
    groups = settings(context.run.training, "accuracy")
    scored: Sequence[Arm] = [arm for arm in max(groups, key=len, default=[]) if arm.values("test_accuracy")]
    if not scored:
        return []
    ranked = sorted(scored, key=lambda arm: -statistics.fmean(arm.values("test_accuracy")))
    bare = next((arm for arm in scored if word(arm.first, "recipe") == "none"), None)
    shown = [arm for arm in ranked if arm in (ranked[0], ranked[-1], bare)]
    first = ranked[0].first
    epochs = counted(number_of_epochs(ranked[0]), "epoch")
    text: list[Inline] = [f"Test accuracy of {word(first, 'model')} on {word(first, 'dataset')} after {epochs}: "]
    names = dict(zip(map(id, scored), labels(scored), strict=True))
    for index, arm in enumerate(shown):
        values = arm.values("test_accuracy")
        name = "best " if arm is ranked[0] else "worst " if arm is ranked[-1] else ""
        text += ["; " if index else "", name, Code(names[id(arm)]), " "]
        text.append(f"{percent(statistics.fmean(values))}{interval(values)} ({counted(len(values), 'seed')})")
    few = min(len(arm.values("test_accuracy")) for arm in shown) < FEWEST_SEEDS
    text.append("; too few seeds for a confidence interval, so treat differences as hints." if few else ".")
    return [text]
