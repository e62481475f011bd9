"""The section on accuracy: test accuracy with its interval, paired differences, and what it would take to see smaller ones."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench.comparison.seeds import FEWEST_SEEDS, TO_BE_SEEN, Estimate, estimate, sd_range, seeds_needed
from bench.report.accuracy_figures import accuracy_figure, pareto_figure
from bench.report.arms import Arm, history, paired, setting_words, settings, with_spread
from bench.report.blocks import Block, Code, Heading, Paragraph, Table, Text
from bench.report.context import Context
from bench.report.failures import failed_section
from bench.report.lanes import LANES
from bench.report.quantities import UNKNOWN, counted, listed, percent, rounded, word
from bench.report.target import target_blocks
from bench.report.training_figures import learning_figure

TITLE = "Accuracy by recipe"
MEANING = (
    "Accuracy is that after the last epoch, never the best. Train accuracy and loss are over the last epoch as it was trained "
    "on: augmented images, while the weights move; a mixed image counts for the larger of its labels."
)
MOST_LISTED = 5  # seeds whose accuracies are written out
MOST_SEEDS = 10_000  # beyond, the number of seeds needed is only said to be more


def accuracy_section(context: Context) -> list[Block]:
    """Test accuracy after the last epoch, by recipe and backend, with pairs of seeds held against a baseline.

    Nothing where it was not to be measured.
    """
    groups, not_run = settings(context.run.training, "accuracy"), _not_run(context)
    if not groups:
        failed = failed_section(context, "accuracy", TITLE) or ([Heading(text=TITLE)] if not_run else [])
        return [*failed, *not_run]
    blocks: list[Block] = [Heading(text=TITLE), *not_run]
    for index, arms in enumerate(groups, start=1):
        arms = sorted(arms, key=lambda arm: word(arm.first, "recipe") != "none")
        base = baseline(arms, context.run.plan)
        epochs = counted(number_of_epochs(arms[0]), "epoch")
        blocks.append(Paragraph(f"Setting: {setting_words(arms)}, {epochs}. {MEANING}"))
        blocks.append(Paragraph(seeds_words(arms) + _at_once(arms)))
        blocks += _pictures(context, arms, index)
        blocks += [_table(arms), *target_blocks(arms), *_differences(arms, base), *_backends(arms, context.run.audit)]
    return blocks


def _not_run(context: Context) -> list[Block]:
    """What a sweep planned and has no record of."""
    cells = sweep_of(context.run.plan).get("cells")
    planned = [tuple(cell) for cell in cells if isinstance(cell, list)] if isinstance(cells, list) else []
    done = {(r.get("recipe"), r.get("backend"), r.get("seed")) for r in context.run.training if r.get("kind") == "accuracy"}
    missing = [f"{cell[0]}@{cell[1]}, seed {cell[2]}" for cell in planned if cell not in done and len(cell) == 3]
    if not missing:
        return []
    words = f"{len(missing)} of {counted(len(planned), 'planned training run')} have not run: {listed(missing, 6)}."
    return [Paragraph([words, " ", Code("augmark sweep --resume"), " goes on with them."])]


def sweep_of(plan: Mapping[str, Any]) -> Mapping[str, Any]:
    """What plan.json says of a sweep; empty for a run without one."""
    sweep = plan.get("sweep")
    return sweep if isinstance(sweep, dict) else {}


def baseline(arms: Sequence[Arm], plan: Mapping[str, Any]) -> Arm | None:
    """The arm that the others are held against: the sweep's, ``recipe@backend``, else training without augmentation."""
    named = sweep_of(plan).get("baseline")
    chosen = [arm for arm in arms if f"{word(arm.first, 'recipe')}@{word(arm.first, 'backend')}" == named]
    bare = [arm for arm in arms if word(arm.first, "recipe") == "none"]
    return next(iter([*chosen, *bare]), None)


def number_of_epochs(arm: Arm) -> int:
    """How many epochs an arm's runs lasted; 0 where it was not kept."""
    return max((len(history(record)) for record in arm.records), default=0)


def seeds_words(arms: Sequence[Arm]) -> str:
    """What the number of seeds allows one to say."""
    counts = {len(arm.values("test_accuracy")) for arm in arms}
    least, most = min(counts), max(counts)
    number = counted(least, "seed") if least == most else f"{least} to {most} seeds"
    if least >= FEWEST_SEEDS:
        return f"{number} a recipe and backend: the mean with its 95 % interval (Student's t over seeds, on these test images)."
    return f"{number} a recipe: too few for a confidence interval, so every seed is shown; small differences may be chance."


def _at_once(arms: Sequence[Arm]) -> str:
    most = max((int(value) for arm in arms for value in arm.values("cells_at_once")), default=1)
    return f" Up to {most} runs shared the machine, so that examples/s are lower than of a run alone." if most > 1 else ""


def labels(arms: Sequence[Arm]) -> list[str]:
    """A name for each arm: its recipe, with its backend and place where that would not tell them apart."""
    recipes = [word(arm.first, "recipe") for arm in arms]
    if len(set(recipes)) == len(recipes):
        return recipes
    return [f"{recipe}, {arm.label}" for recipe, arm in zip(recipes, arms, strict=True)]


# ---- pictures ---------------------------------------------------------------------------------------------------------


def _pictures(context: Context, arms: Sequence[Arm], index: int) -> list[Block]:
    names, blocks = labels(arms), list[Block]()
    scored = [(arm, name) for arm, name in zip(arms, names, strict=True) if arm.values("test_accuracy")]
    if scored:
        means = [f"{name} {percent(statistics.fmean(arm.values('test_accuracy')))}" for arm, name in scored]
        alternative = f"Dots: test accuracy after the last epoch by recipe, one a seed, with the mean. Means: {listed(means)}."
        draw = lambda path: accuracy_figure([a for a, _ in scored], [name for _, name in scored], path)  # noqa: E731
        blocks.append(context.figure(f"accuracy-{index}", draw, alternative))
    fast = [arm for arm, _ in scored if arm.median("examples_per_s")]
    if len(fast) > 1:
        blocks.append(_pareto(context, fast, index))
    if any(history(record) for arm in arms for record in arm.records):
        alternative = f"Curves by epoch: train loss, train accuracy and test accuracy of {listed(names)}; a thin line a seed."
        draw_curves = lambda path: learning_figure(arms, names, path)  # noqa: E731
        blocks.append(context.figure(f"curves-{index}", draw_curves, alternative))
    return blocks


def _pareto(context: Context, arms: Sequence[Arm], index: int) -> Block:
    points = [
        f"{word(arm.first, 'recipe')} on {word(arm.first, 'backend')} {rounded(arm.median('examples_per_s') or 0)} examples/s, "
        f"{percent(statistics.fmean(arm.values('test_accuracy')))}"
        for arm in arms
    ]
    alternative = f"Test accuracy against training speed, a point a recipe and backend: {listed(points)}."
    return context.figure(f"pareto-{index}", lambda path: pareto_figure(arms, path), alternative)


# ---- tables -----------------------------------------------------------------------------------------------------------


def _table(arms: Sequence[Arm]) -> Table:
    header = ["recipe", "augmented by", "test accuracy, mean", "each seed", "n, seeds"]
    header += ["train accuracy, mean", "train loss, mean", "examples/s"]
    return Table(header=header, rows=[_row(arm) for arm in arms], numeric=frozenset(range(2, 8)))


def _row(arm: Arm) -> list[Text]:
    tests, train, loss = arm.values("test_accuracy"), arm.values("train_accuracy"), arm.values("loss")
    several = f"{percent(min(tests))} to {percent(max(tests))}" if tests else UNKNOWN
    return [
        [Code(word(arm.first, "recipe"))],
        f"{arm.label}, {LANES[arm.lane]}",
        UNKNOWN if not tests else percent(statistics.fmean(tests)) + interval(tests),
        ", ".join(percent(value) for value in tests) if 0 < len(tests) <= MOST_LISTED else several,
        str(len(tests)),
        percent(statistics.fmean(train)) if train else UNKNOWN,
        rounded(statistics.fmean(loss)) if loss else UNKNOWN,
        with_spread(arm, "examples_per_s"),
    ]


def interval(values: Sequence[float]) -> str:
    """Such as " ±0.4 points": half the 95 % interval of the mean of shares; empty for fewer than three."""
    half = estimate(values).half
    return "" if half is None else f" ±{100 * half:.1f} points"


def difference(arm: Arm, other: Arm) -> Estimate | None:
    """Points of test accuracy that an arm is above another, over the seeds that both have; None where they share none."""
    points = [100 * value for value in paired(arm, other, "test_accuracy")]
    return estimate(points) if points else None


def points_words(one: Estimate | None) -> str:
    """Such as "+1.2 ±0.4"; without the interval where the seeds are too few for one."""
    if one is None:
        return UNKNOWN
    return f"{one.mean:+.2f}" if one.half is None else f"{one.mean:+.2f} ±{one.half:.2f}"


def seeds_to_see(one: Estimate | None) -> list[str]:
    """The number of seeds for each of ``TO_BE_SEEN``; unknown where fewer than three pairs, or none that differ, tell of it."""
    if one is None or not one.sd or one.half is None:
        return [UNKNOWN] * len(TO_BE_SEEN)
    needed = [max(FEWEST_SEEDS, seeds_needed(one.sd, points)) for points in TO_BE_SEEN]
    return [f"{n:,}" if n <= MOST_SEEDS else f">{MOST_SEEDS:,}" for n in needed]


def _differences(arms: Sequence[Arm], base: Arm | None) -> list[Block]:
    """Every arm against the baseline, and how many seeds smaller differences would take."""
    if base is None or len(arms) < 2:
        return []
    name = f"{word(base.first, 'recipe')}, {base.label}"
    header = ["recipe", "augmented by", "minus baseline, points", "n, pairs", "sd of differences, points"]
    header += [f"seeds to see {points}" for points in TO_BE_SEEN]
    rows: list[list[Text]] = []
    for arm in arms:
        if arm is not base:
            one = difference(arm, base)
            pairs = str(one.n) if one else "0"
            rows.append(
                [[Code(word(arm.first, "recipe"))], arm.label, points_words(one), pairs, _deviation(one), *seeds_to_see(one)]
            )
    words = (
        f"Paired differences of test accuracy from the baseline ({name}): runs of one seed share initial weights and order of "
        "the images. Seeds to see a difference of so many points: the paired t test at 5 % then finds it with 80 % power, if "
        "the standard deviation is what was measured; from few seeds that is itself uncertain, as its 95 % interval in "
        "brackets tells."
    )
    if any("±" in str(row[2]) for row in rows):
        words += " Each interval is for itself: of twenty recipes that change nothing, one leaves zero out by chance alone."
    return [Paragraph(words), Table(header=header, rows=rows, numeric=frozenset(range(2, 8)))]


def _deviation(one: Estimate | None) -> str:
    if one is None or one.sd is None:
        return UNKNOWN
    known = sd_range(one)
    return f"{one.sd:.2f}" + (f" ({known[0]:.2f} to {known[1]:.2f})" if known else "")


def _backends(arms: Sequence[Arm], audit: Mapping[str, Any]) -> list[Block]:
    """Two backends that train with one recipe: is what they reach the same, and does the audit call them the same?"""
    rows: list[list[Text]] = []
    for arm, other in itertools.combinations(arms, 2):
        recipe = word(arm.first, "recipe")
        one = difference(arm, other)
        if one is not None and recipe == word(other.first, "recipe"):
            pair = f"{arm.label} minus {other.label}"
            said = audit_words(audit, recipe, word(arm.first, "backend"), word(other.first, "backend"))
            rows.append([[Code(recipe)], pair, points_words(one), _around_zero(one), str(one.n), said])
    if not rows:
        return []
    words = "Backends with the same recipe, same seeds. "
    if any(row[3] in ("yes", "no") for row in rows):
        words += "Each interval is for itself: where nothing differs, one in twenty leaves zero out by chance alone."
    header = ["recipe", "backends", "difference, points", "interval around zero", "n, pairs", "the audit says"]
    return [Paragraph(words), Table(header=header, rows=rows, numeric=frozenset({2, 4}))]


def _around_zero(one: Estimate) -> str:
    if one.half is None:
        return "too few seeds"
    return "no" if one.excludes_zero else "yes"


def audit_words(audit: Mapping[str, Any], recipe: str, backend: str, other: str) -> str:
    """Whether the audit lets two backends stand side by side for a recipe, and else why not."""
    comparisons = audit.get("comparisons")
    pairs = comparisons.get(recipe) if isinstance(comparisons, dict) else None
    both = [pairs.get(f"{a}|{b}") for a, b in ((backend, other), (other, backend))] if isinstance(pairs, dict) else []
    found = next((one for one in both if isinstance(one, dict)), None)
    if found is None:
        return "not audited"
    return "equal" if found.get("comparable") is True else f"not equal: {word(found, 'reason')}"
