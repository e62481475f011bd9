"""Sections on training: examples/s by placement, and the accuracy of recipes."""

import statistics
from collections.abc import Sequence

from bench.report.arms import Arm, ceiling, history, paired, setting_words, settings, share_of
from bench.report.blocks import Block, Code, Heading, Paragraph, Table, Text
from bench.report.context import Context
from bench.report.lanes import LANES
from bench.report.quantities import UNKNOWN, counted, listed, percent, rounded, spread, word
from bench.report.training_figures import accuracy_figure, learning_figure, placement_figure

FEWEST_SEEDS = 3
"""Below this no confidence interval is given: with two, it would be 13 standard errors wide and pretend to know them."""


# ---- throughput -------------------------------------------------------------------------------------------------------


def throughput_section(context: Context) -> list[Block]:
    """Training speed by placement: for each setting and recipe a figure and a table."""
    blocks: list[Block] = [Heading(text="Training: examples per second by placement")]
    groups = settings(context.run.training, "throughput")
    if not groups:
        return [*blocks, Paragraph("Not measured.")]
    blocks.append(
        Paragraph(
            "examples/s over the whole wall time of the steps, and without the time in which the training loop waited for "
            "data. Median of the rounds, ± half the range between them. The ceiling is training without augmentation "
            "(normalise only)."
        )
    )
    for index, arms in enumerate(groups, start=1):
        blocks.append(Paragraph(f"Setting: {setting_words(arms)}."))
        for recipe in _recipes(arms):
            shown = [arm for arm in arms if arm.is_ceiling or word(arm.first, "recipe") == recipe]
            blocks += _placement(context, shown, recipe, index)
    return blocks


def _recipes(arms: Sequence[Arm]) -> list[str]:
    recipes = list(dict.fromkeys(word(arm.first, "recipe") for arm in arms if not arm.is_ceiling))
    return recipes or ["none"]


def _placement(context: Context, arms: Sequence[Arm], recipe: str, index: int) -> list[Block]:
    blocks: list[Block] = [Heading(text=["Recipe ", Code(recipe)], level=3)]
    drawn = [arm for arm in arms if arm.median("examples_per_s")]
    if drawn:
        speeds = [f"{arm.label} {rounded(arm.median('examples_per_s') or 0)}" for arm in drawn]
        alternative = (
            f"Stacked bars: milliseconds an example when training with {recipe}, split into the step and waiting for data, by "
            f"placement. Examples per second: {listed(speeds, 10)}."
        )
        title = f"Training with {recipe}: time an example"
        name = f"throughput-{index}-{recipe}"
        blocks.append(context.figure(name, lambda path: placement_figure(drawn, title, path), alternative))
    header = ["placement", "drawn", "examples/s", "share of the ceiling", "examples/s without the wait", "waiting", "n, rounds"]
    top = ceiling(arms)
    rows = [_throughput_row(arm, top) for arm in arms]
    blocks.append(Table(header=header, rows=rows, numeric=frozenset(range(2, 7))))
    return blocks


def _throughput_row(arm: Arm, top: Arm | None) -> list[Text]:
    share, wait = share_of(arm, top), arm.median("wait_share")
    backend = word(arm.first, "backend")
    return [
        arm.label if arm.is_ceiling else [Code(backend), arm.label.removeprefix(backend)],
        LANES[arm.lane],
        _with_spread(arm, "examples_per_s"),
        "not known" if share is None else "the ceiling" if arm is top else percent(share, 0),
        _with_spread(arm, "examples_per_s_without_wait"),
        UNKNOWN if wait is None else percent(wait, 0),
        str(len(arm.values("examples_per_s"))),
    ]


def _with_spread(arm: Arm, name: str) -> str:
    middle = arm.median(name)
    return UNKNOWN if middle is None else f"{rounded(middle)} {spread(arm.values(name))}".strip()


# ---- accuracy ---------------------------------------------------------------------------------------------------------


def accuracy_section(context: Context) -> list[Block]:
    """Test accuracy after the last epoch, by recipe, with every seed shown."""
    blocks: list[Block] = [Heading(text="Accuracy by recipe")]
    groups = settings(context.run.training, "accuracy")
    if not groups:
        return [*blocks, Paragraph("Not measured.")]
    for index, arms in enumerate(groups, start=1):
        arms = sorted(arms, key=lambda arm: word(arm.first, "recipe") != "none")
        epochs = counted(number_of_epochs(arms[0]), "epoch")
        blocks.append(
            Paragraph(f"Setting: {setting_words(arms)}, {epochs}. Accuracy is that after the last epoch, never the best.")
        )
        blocks.append(Paragraph(seeds_words(arms)))
        blocks += _accuracy_pictures(context, arms, index)
        blocks.append(_accuracy_table(arms))
    return blocks


def number_of_epochs(arm: Arm) -> int:
    """How many epochs an arm's runs lasted; 0 where it was not kept."""
    return max((len(history(record)) for record in arm.records), default=0)


def seeds_words(arms: Sequence[Arm]) -> str:
    """What the number of seeds allows one to say."""
    counts = {len(arm.values("test_accuracy")) for arm in arms}
    least, most = min(counts), max(counts)
    number = counted(least, "seed") if least == most else f"{least} to {most} seeds"
    if least >= FEWEST_SEEDS:
        return f"{number} a recipe: the mean with its 95 % interval (Student's t over seeds)."
    return f"{number} a recipe: too few for a confidence interval, so every seed is shown; small differences may be chance."


def _labels(arms: Sequence[Arm]) -> list[str]:
    recipes = [word(arm.first, "recipe") for arm in arms]
    if len(set(recipes)) == len(recipes):
        return recipes
    return [f"{recipe}, {arm.label}" for recipe, arm in zip(recipes, arms, strict=True)]


def _accuracy_pictures(context: Context, arms: Sequence[Arm], index: int) -> list[Block]:
    labels, blocks = _labels(arms), []
    scored = [(arm, label) for arm, label in zip(arms, labels, strict=True) if arm.values("test_accuracy")]
    if scored:
        means = [f"{label} {percent(statistics.fmean(arm.values('test_accuracy')))}" for arm, label in scored]
        alternative = f"Dots: test accuracy after the last epoch by recipe, one a seed, with the mean. Means: {listed(means)}."
        draw = lambda path: accuracy_figure([a for a, _ in scored], [label for _, label in scored], path)  # noqa: E731
        blocks.append(context.figure(f"accuracy-{index}", draw, alternative))
    if any(history(record) for arm in arms for record in arm.records):
        alternative = f"Curves by epoch: train loss, train accuracy and test accuracy of {listed(labels)}; a thin line a seed."
        draw_curves = lambda path: learning_figure(arms, labels, path)  # noqa: E731
        blocks.append(context.figure(f"curves-{index}", draw_curves, alternative))
    return list[Block](blocks)


def _accuracy_table(arms: Sequence[Arm]) -> Table:
    header = [
        *(
            "recipe",
            "augmented by",
            "test accuracy, mean",
            "each seed",
            "n, seeds",
            "minus no augmentation, points (same seeds)",
        ),
        *("train accuracy, mean", "train loss, mean", "examples/s"),
    ]
    bare = next((arm for arm in arms if word(arm.first, "recipe") == "none"), None)
    rows = [_accuracy_row(arm, bare) for arm in arms]
    return Table(header=header, rows=rows, numeric=frozenset(range(2, 9)))


def _accuracy_row(arm: Arm, bare: Arm | None) -> list[Text]:
    tests, train, loss = arm.values("test_accuracy"), arm.values("train_accuracy"), arm.values("loss")
    mean = UNKNOWN if not tests else percent(statistics.fmean(tests)) + interval(tests)
    points = [] if bare is None or bare is arm else [100 * difference for difference in paired(arm, bare, "test_accuracy")]
    against = "" if bare is arm else f"{statistics.fmean(points):+.1f} (n = {len(points)})" if points else UNKNOWN
    return [
        [Code(word(arm.first, "recipe"))],
        f"{arm.label}, {LANES[arm.lane]}",
        mean,
        ", ".join(percent(value) for value in tests) or UNKNOWN,
        str(len(tests)),
        against,
        percent(statistics.fmean(train)) if train else UNKNOWN,
        rounded(statistics.fmean(loss)) if loss else UNKNOWN,
        _with_spread(arm, "examples_per_s"),
    ]


def interval(values: Sequence[float]) -> str:
    """Such as " ±0.4 points": half the 95 % interval of the mean; empty for fewer than three values."""
    if len(values) < FEWEST_SEEDS:
        return ""
    from scipy import stats  # takes a second to import, and most runs have two seeds

    error = statistics.stdev(values) / len(values) ** 0.5
    return f" ±{100 * float(stats.t.ppf(0.975, len(values) - 1)) * error:.1f} points"
