"""Accuracy by recipe and backend: seeds, paired differences, speed against accuracy, seconds to a target."""

from collections.abc import Sequence
from functools import partial

from bench.records import Run
from bench.report.blocks import Answer, Block, Code, Paragraph, Section
from bench.report.facts.accuracy import (
    BackendPair,
    Target,
    backend_pairs,
    baseline,
    best_by_recipe,
    curves,
    difference,
    is_undecided,
    main_setting,
    mean_curve,
    num_epochs,
    pareto_front,
    score,
    scored,
    targets,
)
from bench.report.facts.arms import Arm, settings
from bench.report.facts.lanes import SHORT_LANES
from bench.report.figures import Figure, Line, Look, Mark, Panel, Point, Row, backend_look, bars, lines, scatter, series_look
from bench.report.sections.state import failed_section, unanswered
from bench.report.tables import Column, build_table, words_column
from bench.report.words import (
    UNKNOWN,
    capitalised,
    counted,
    interval,
    label,
    listed,
    percent,
    points,
    rounded,
    setting,
    with_spread,
)
from bench.report.words import scored as score_words
from bench.statistics import FEWEST_SEEDS, SEEDS_SHOWN, Estimate, estimate, sd_range, seeds_needed

TITLE = "Accuracy by recipe"
RECIPE, BACKEND = "Which recipe trains best?", "Does the backend change what is reached?"
FEW = f"too few seeds for an interval, which takes {FEWEST_SEEDS}"
MEANING = (
    "Accuracy is that after the last epoch. Train accuracy and loss are over the last epoch's augmented images, while the "
    "weights move; a mixed image counts for the larger of its labels. Runs of one seed share initial weights and order of "
    "images, so differences are paired; ± is half the 95 % interval over seeds (Student's t). Each interval stands for "
    "itself: of twenty recipes that change nothing, one excludes zero by chance."
)
SEEDS = (
    "Seeds to see: with so many, a paired t test at 5 % finds a difference of so many points with 80 % power, if the sd is "
    "right."
)
TO_TARGET = (
    "Seconds of training count to the end of the first epoch that reaches the target, without evaluation and warm-up. The "
    "mean is over the seeds that reached it, which flatters if some did not; resumed runs are left out."
)
MOST_SEEDS = 10_000
CURVES = (
    ("train_loss", "train loss", 1),
    ("train_accuracy", "train accuracy, %", 100),
    ("test_accuracy", "test accuracy, %", 100),
)


def accuracy_section(run: Run) -> Section | None:
    """Return test accuracy by recipe and backend, with pairs of seeds compared with a baseline."""
    groups = settings(run.records, "accuracy")
    if not groups:
        return failed_section(run, "accuracy", TITLE, RECIPE) or _unstarted(run)
    blocks: list[Block] = [Paragraph(MEANING)]
    for index, arms in enumerate(groups, start=1):
        arms = sorted(arms, key=lambda arm: arm.recipe != "none")
        blocks.append(Paragraph(f"Setting: {setting(arms[0])}, {counted(num_epochs(arms[0]), 'epoch')}."))
        blocks += [*_figures(arms, index), _table(arms), *_targets(arms), *_differences(arms, baseline(arms, run))]
        blocks += _pairs_table(backend_pairs(scored(arms), run.audit))
    arms = main_setting(run)
    if not arms:
        return Section(title=TITLE, blocks=blocks, answers=[unanswered(RECIPE, "No record holds a test accuracy.")])
    best = best_by_recipe(arms)
    chosen = " The best of several is picked after the fact, which flatters it." if len(best) > 1 else ""
    note = "Accuracy: test accuracy after the last epoch, ± half the 95 % interval over seeds; differences are between runs of "
    note += f"the same seed.{chosen} Setting: {setting(arms[0])}, {counted(num_epochs(arms[0]), 'epoch')}."
    answers = [*_target_answer(targets([arm for group in groups for arm in group])), *_recipe(best, baseline(arms, run))]
    return Section(title=TITLE, blocks=blocks, answers=[*answers, *_backend(backend_pairs(arms, run.audit))], note=note)


def _unstarted(run: Run) -> Section | None:
    planned = run.cases("accuracy")
    if not planned:
        return None
    answer = unanswered(RECIPE, f"none of {counted(len(planned), 'planned training run')} has run.")
    return Section(title=TITLE, blocks=[Paragraph("No planned training run has ended.")], answers=[answer])


# ---- answers --------------------------------------------------------------------------------------------------------------


def _recipe(best: Sequence[Arm], base: Arm | None) -> list[Answer]:
    first, *others = best
    if not others:
        if first.values("target_accuracy"):
            return []  # the target has its own answer
        evidence: list[str] = ["With ", Code(first.recipe), f", {label(first)}: {score_words(first)}."]
        reached = percent(score(first)) + interval(first.values("test_accuracy"))
        return [Answer(question="What accuracy is reached?", answer=reached, evidence=evidence)]
    equal = [arm for arm in others if is_undecided(difference(first, arm))]
    names = [_recipe_name(arm) for arm in (first, *equal)]
    answer = names[0] if not equal else f"Undecided: {listed(names[:-1], 5)} or {names[-1]}"
    evidence = [Code(first.recipe), f", {label(first)}, reaches {score_words(first)}."]
    if base is not None and base.recipe == first.recipe:
        evidence.append(" It is the baseline.")
    elif base is not None:
        evidence += [" Minus the baseline ", Code(base.recipe), f", {label(base)}: {_verdict(difference(first, base))}."]
    rows = [arm for arm in others if base is None or arm.recipe != base.recipe]
    for index, arm in enumerate(rows):
        evidence += [", " if index else " Minus the best: ", Code(arm.recipe), f" {points(difference(arm, first))}"]
    evidence += [" points."] if rows else []
    gaps = [difference(first, arm) for arm in equal]
    evidence += [f" {capitalised(FEW)}."] if any(gap is None or gap.half is None for gap in gaps) else []
    return [Answer(question=RECIPE, answer=answer, evidence=evidence)]


def _recipe_name(arm: Arm) -> str:
    """Return the recipe so that "none" cannot be read as "no recipe"."""
    return "no augmentation" if arm.recipe == "none" else str(arm.recipe)


def _verdict(gap: Estimate | None) -> str:
    if gap is None:
        return "no seed in common, so not known"
    words = f"{points(gap)} points, {counted(gap.n, 'pair')} of seeds"
    if gap.half is None:
        return f"{words}, {FEW}"
    return f"{words}: {'not distinguishable' if is_undecided(gap) else 'better' if gap.mean > 0 else 'worse'}"


def _pair_words(pair: BackendPair) -> str:
    seeds = f"{counted(pair.gap.n, 'pair')} of seeds"
    return f"{pair.a.recipe}, {label(pair.a)} minus {label(pair.b)}: {points(pair.gap)} points, {seeds}"


def _backend(pairs: Sequence[BackendPair]) -> list[Answer]:
    """Return whether the backend changes what is reached, for recipes trained with two backends that share a seed."""
    pairs = [pair for pair in pairs if pair.a.backend != pair.b.backend]
    if not pairs:
        return []
    sure = [pair for pair in pairs if pair.gap.half is not None]
    apart = [pair for pair in sure if pair.gap.excludes_zero]
    most = max(sure or pairs, key=lambda pair: abs(pair.gap.mean))
    number = counted(len(pairs), "pair")
    if not sure:
        answer, evidence = "Undecided", f"{number} of backends with one recipe, {FEW}; {_pair_words(most)}."
    elif apart:
        answer = f"Yes, with {listed(dict.fromkeys(str(pair.a.recipe) for pair in apart), 4)}"
        evidence = f"{len(apart)} of {number} with one recipe differ: {'; '.join(map(_pair_words, apart[:3]))}."
    else:
        answer = "No measurable difference"
        widest = max(pair.gap.half or 0.0 for pair in sure)
        evidence = f"{len(sure)} of {number} of backends with one recipe have an interval; each includes zero. The largest "
        evidence += (
            f"difference: {_pair_words(most)}. Differences below the intervals, up to ±{widest:.2f} points, would not show."
        )
    audited = [pair for pair in pairs if pair.is_equal is not None]
    equal = sum(bool(pair.is_equal) for pair in audited)
    evidence += f" The audit calls the augmentation of {equal} of {number} equal." if audited else ""
    return [Answer(question=BACKEND, answer=answer, evidence=evidence)]


def _target_answer(rows: Sequence[Target]) -> list[Answer]:
    """Return the seconds to the accuracy that runs named, of the arm that most seeds brought there soonest."""
    if not rows:
        return []
    best, evidence = rows[0], list[str]()
    partly = "" if best.share == 1 else f", in {_reached(best)}"
    answer = f"{_seconds(best)} s of training{partly}" if best.seconds else "Not reached"
    for row in rows[:3]:
        evidence += [" " if evidence else "", f"{row.arm.model} on {row.arm.dataset} with ", Code(row.arm.recipe)]
        goal = f"{percent(row.accuracy)} test accuracy in"
        if row.seconds:
            warm_up = f"at most {_longest(row.arm, 'warm_up_s')} s of warm-up not counted"
            evidence.append(f" reaches {goal} {_seconds(row)} s of training ({_reached(row)}; {warm_up}).")
        else:
            evidence.append(f" does not reach {goal} {rounded(row.arm.mean('train_s'))} s of training ({_reached(row)}).")
    if len(rows) > 1:
        evidence.append(f" The answer is for the soonest of {len(rows)} arms, {label(best.arm)}; which that is may be chance.")
    return [Answer(question=f"How long to {percent(best.accuracy)} test accuracy?", answer=answer, evidence=evidence)]


def _reached(row: Target) -> str:
    return f"{len(row.seconds)} of {counted(len(row.arm.records), 'seed')}"


def _seconds(row: Target) -> str:
    mean = estimate(row.seconds)
    return rounded(mean.mean) + ("" if mean.half is None else f" ±{rounded(mean.half, 2)}")


def _longest(arm: Arm, name: str) -> str:
    values = arm.values(name)
    return rounded(max(values)) if values else UNKNOWN


# ---- figures --------------------------------------------------------------------------------------------------------------


def labels(arms: Sequence[Arm]) -> list[str]:
    """Return a name for each arm: its recipe, with backend and place if recipes repeat."""
    recipes = [str(arm.recipe) for arm in arms]
    return recipes if len(set(recipes)) == len(recipes) else [f"{arm.recipe}, {label(arm)}" for arm in arms]


def _figures(arms: Sequence[Arm], index: int) -> list[Block]:
    names = dict(zip(map(id, arms), labels(arms), strict=True))
    shown, figures = scored(arms), list[Block]()
    if shown:
        means = listed(f"{names[id(arm)]} {percent(score(arm))}" for arm in shown)
        rows = [Row(label=names[id(arm)], marks=[_mark(arm)]) for arm in shown]
        alternative = (
            f"Test accuracy after the last epoch by recipe: a dot a seed, and the mean with its interval. Means: {means}."
        )
        figures.append(bars(f"accuracy-{index}", alternative, rows, {}, "test accuracy, % (dot: a seed; line: 95 % interval)"))
    fast = [arm for arm in shown if arm.speed]
    if len(fast) > 1:
        figures.append(_pareto(fast, index))
    if any(curves(arm, "test_accuracy") for arm in arms):
        figures.append(learning_figure(f"curves-{index}", arms, [names[id(arm)] for arm in arms], CURVES))
    return figures


def _mark(arm: Arm) -> Mark:
    values = [100 * content for content in arm.values("test_accuracy")]
    mean = estimate(values)
    half = mean.half or 0.0
    return Mark(look=Look("ink", "diamond"), value=mean.mean, low=mean.mean - half, high=mean.mean + half, dots=values)


def _pareto(arms: Sequence[Arm], index: int) -> Figure:
    reached = [f"{arm.recipe} on {arm.backend} {rounded(arm.speed)} examples/s, {percent(score(arm))}" for arm in arms]
    marked = [(arm, _mark(arm)) for arm in arms]
    dots = [
        Point(
            label=str(arm.recipe),
            look=backend_look(arm.backend),
            x=arm.speed,
            y=mark.value,
            x_range=(min(arm.values("examples_per_s")), max(arm.values("examples_per_s"))),
            y_range=(mark.low, mark.high),
        )
        for arm, mark in marked
    ]
    legend = {arm.backend: backend_look(arm.backend) for arm in arms}
    return scatter(
        f"pareto-{index}",
        f"Test accuracy against training speed: a point a recipe and backend. {listed(reached)}.",
        dots,
        legend,
        "training, examples/s (log scale; line: slowest to fastest run)",
        "test accuracy, % (line: 95 % interval)",
        front=pareto_front,
    )


def learning_figure(name: str, arms: Sequence[Arm], names: Sequence[str], columns: Sequence[tuple[str, str, int]]) -> Figure:
    """Return curves by epoch, a panel a field: each seed thin, their mean thick."""
    panels = []
    for field, title, factor in columns:
        series = []
        for index, (arm, words) in enumerate(zip(arms, names, strict=True)):
            seeds = [[(epoch, factor * content) for epoch, content in curve] for curve in curves(arm, field)]
            if seeds:
                series.append(Line(label=words, look=series_look(index), points=mean_curve(seeds)))
                series += [Line(label=words, look=series_look(index), points=s, faint=True) for s in seeds if len(seeds) > 1]
        panels += [Panel(title=title, lines=series)] if series else []
    shown = listed(panel.title for panel in panels)
    alternative = f"Curves by epoch of {listed(names)}: {shown}; a thin line a seed, a thick one the mean."
    return lines(name, alternative, panels, "epoch", "", shared_y=False)


# ---- tables ---------------------------------------------------------------------------------------------------------------


def _table(arms: Sequence[Arm]) -> Block:
    columns = [
        words_column("recipe", lambda arm: [Code(arm.recipe)]),
        words_column("augmented by", lambda arm: f"{label(arm)}, {SHORT_LANES[arm.lane]}"),
        words_column("implementation", lambda arm: arm.implementation or ""),
        Column("test accuracy, mean", mean_score),
        Column("each seed", each_seed),
        Column("seeds", lambda arm: str(len(arm.values("test_accuracy")))),
        Column("train accuracy", lambda arm: percent(arm.mean("train_accuracy"))),
        Column("train loss", lambda arm: rounded(arm.mean("loss"))),
        Column("examples/s", lambda arm: with_spread(arm, "examples_per_s")),
        Column("runs at once", _at_once),
    ]
    return build_table(columns, arms)


def _at_once(arm: Arm) -> str:
    most = max(arm.values("cells_at_once"), default=1)
    return f"{most:.0f}" if most > 1 else ""  # examples/s are then lower than of a run alone


def mean_score(arm: Arm) -> str:
    """Return the mean test accuracy with its interval."""
    values = arm.values("test_accuracy")
    return percent(score(arm)) + interval(values) if values else UNKNOWN


def each_seed(arm: Arm) -> str:
    """Return the accuracy of each seed, or from the worst to the best of more than five."""
    values = arm.values("test_accuracy")
    if len(values) > 5:
        return f"{percent(min(values))} to {percent(max(values))}"
    return ", ".join(map(percent, values)) or UNKNOWN


def _differences(arms: Sequence[Arm], base: Arm | None) -> list[Block]:
    """Return every arm against the baseline, and how many seeds smaller differences would take."""
    rows = [(arm, difference(arm, base)) for arm in arms if base is not None and arm is not base]
    if base is None or not rows:
        return []
    columns = [
        words_column("recipe", lambda row: [Code(row[0].recipe)]),
        words_column("augmented by", lambda row: label(row[0])),
        Column("minus baseline, points", lambda row: points(row[1])),
        Column("pairs", lambda row: str(row[1].n if row[1] else 0)),
        Column("sd of differences", lambda row: _deviation(row[1])),
        *(Column(f"seeds to see {gap}", partial(_needed, gap)) for gap in SEEDS_SHOWN),
    ]
    return [Paragraph(["Against the baseline ", Code(base.recipe), f", {label(base)}. {SEEDS}"]), build_table(columns, rows)]


def _deviation(gap: Estimate | None) -> str:
    if gap is None or gap.sd is None:
        return UNKNOWN
    ends = sd_range(gap)
    return f"{gap.sd:.2f}" + (f" ({ends[0]:.2f} to {ends[1]:.2f})" if ends else "")


def _needed(to_see: float, row: tuple[Arm, Estimate | None]) -> str:
    gap = row[1]
    if gap is None or not gap.sd or gap.half is None:
        return UNKNOWN
    n = max(FEWEST_SEEDS, seeds_needed(gap.sd, to_see))
    return f"{n:,}" if n <= MOST_SEEDS else f">{MOST_SEEDS:,}"


def _pairs_table(pairs: Sequence[BackendPair]) -> list[Block]:
    columns = [
        words_column("recipe", lambda pair: [Code(pair.a.recipe)]),
        words_column("backends", lambda pair: f"{label(pair.a)} minus {label(pair.b)}"),
        Column("difference, points", lambda pair: points(pair.gap)),
        words_column("interval includes zero", _zero),
        Column("pairs", lambda pair: str(pair.gap.n)),
        words_column(
            "audit",
            lambda pair: "not audited" if pair.is_equal is None else "equal" if pair.is_equal else f"not equal: {pair.reason}",
        ),
    ]
    return [Paragraph("Backends that train with the same recipe:"), build_table(columns, pairs)] if pairs else []


def _zero(pair: BackendPair) -> str:
    return "too few seeds" if pair.gap.half is None else "no" if pair.gap.excludes_zero else "yes"


def _targets(arms: Sequence[Arm]) -> list[Block]:
    columns = [
        words_column("recipe", lambda row: [Code(row.arm.recipe)]),
        words_column("augmented by", lambda row: label(row.arm)),
        Column("target", lambda row: percent(row.accuracy)),
        Column("seeds that reached it", _reached),
        Column(
            "after epoch",
            lambda row: (
                " to ".join(map(str, sorted({min(row.first_epochs), max(row.first_epochs)}))) if row.first_epochs else ""
            ),
        ),
        Column("seconds to it", lambda row: _seconds(row) if row.seconds else "not reached"),
        Column("of all epochs", lambda row: rounded(row.arm.mean("train_s"))),
        Column("evaluation, s", lambda row: rounded(row.arm.mean("evaluation_s"))),
        Column("warm-up, s, at most", lambda row: _longest(row.arm, "warm_up_s")),
    ]
    rows = targets(arms)
    return [Paragraph(TO_TARGET), build_table(columns, rows)] if rows else []
