"""Accuracy by recipe and backend: seeds, paired differences, speed against accuracy, seconds to a target."""

from collections.abc import Mapping, Sequence

from bench.records import PEER, Case, Run, format_number, join, percent, plural, project_sweep
from bench.report.blocks import Answer, Block, Code, Paragraph, Section
from bench.report.facts.accuracy import (
    BackendPair,
    backend_pairs,
    baseline,
    best_by_recipe,
    curves,
    difference,
    is_undecided,
    mean_curve,
    num_epochs,
    pareto_front,
    score,
    soonest,
    undecided_with,
    with_target,
)
from bench.report.facts.cases import SHORT_LANES, place_order, settings
from bench.report.figures import Figure, Line, Look, Mark, Row, backend_look, bars, lines, series_look
from bench.report.sections.state import failed_section, no_answer
from bench.report.tables import Column, build_table, number_column, words_column
from bench.report.words import format_score, label, mean_score, name_of, points, setting, span, with_spread
from bench.statistics import FEWEST_SEEDS, SEEDS_SHOWN, Estimate, estimate, sd_range, seeds_needed

TITLE = "Accuracy by recipe"
RECIPE, BACKEND = "Which recipe trains best?", "Does the backend change what is reached?"
FEW = f"too few seeds for an interval, which takes {FEWEST_SEEDS}"
NOTE = """Accuracy: test accuracy after the last epoch, ± half the 95 % interval over seeds; differences are of the same seed.
The best of several is picked after the fact, which flatters it."""
MEANING = """Train accuracy and loss are over the last epoch's augmented images, while the weights move; a mixed image counts
for the larger of its labels. Intervals are Student's t over seeds. Each stands for itself: of twenty recipes that change
nothing, one excludes zero by chance. Seconds to a target end with the first epoch that reaches it, without evaluation and
warm-up, and are the mean of the seeds that reached it; resumed runs are left out."""
SEEDS = """Seeds to see: with so many, a paired t test at 5 % finds a difference of so many points with 80 % power, if the sd is
right."""
MODES = {"full": "all layers", "frozen": "the last layer", "scratch": "all layers, from random weights"}
SEEDS_TO_SEE = f"seeds to see {', '.join(map(str, SEEDS_SHOWN))}"
MOST_SEEDS = 10_000
CURVES = {
    "train_loss": ("train loss", 1),
    "train_accuracy": ("train accuracy, %", 100),
    "test_accuracy": ("test accuracy, %", 100),
}


def accuracy_section(run: Run) -> Section | None:
    """Return test accuracy by recipe and backend, with pairs of seeds compared with a baseline."""
    groups = settings(run, "accuracy")
    planned = run.cases("accuracy")
    if not groups and planned and not any(record.kind == "accuracy" for record in run.records):
        answer = no_answer(RECIPE, f"none of {plural(len(planned), 'planned training run')} has run.")
        return Section(title=TITLE, blocks=[Paragraph("No planned training run has ended.")], answers=[answer])
    if not groups:
        return failed_section(run, "accuracy", TITLE, RECIPE)
    blocks: list[Block] = [Paragraph(MEANING)]
    for index, cases in enumerate(groups, start=1):
        cases = sorted(cases, key=lambda case: (case.recipe != "none", place_order(case)))
        blocks.append(Paragraph(f"Setting: {setting(cases[0])}, {plural(num_epochs(cases[0]), 'epoch')}."))
        blocks += [*_figures(cases, index), *score_table(cases, baseline(cases, run))]
        blocks += _pairs_table(backend_pairs(cases, run.audit))
        words = project_sweep(record for case in cases for record in case.records)
        blocks += [Paragraph(f"Time {words}.")] if words else []
    cases, trained = groups[0], [case for group in groups for case in group]
    target = soonest(trained)
    answers = [*([_target_answer(target)] if target else []), *_peer_answer(trained)]
    answers += [*_recipe(best_by_recipe(cases), baseline(cases, run)), *_backend(backend_pairs(cases, run.audit))]
    return Section(title=TITLE, blocks=blocks, answers=answers, note=NOTE)


# ---- answers --------------------------------------------------------------------------------------------------------------


def _recipe(best: Sequence[Case], base: Case | None) -> list[Answer]:
    if len(best) == 1 and best[0].values("target_accuracy"):
        return []  # a target has its own answer
    first = best[0]
    evidence: list[str] = [Code(first.recipe), f", {label(first)}, reaches {format_score(first)}."]
    if len(best) == 1:
        return [Answer("What accuracy is reached?", mean_score(first), evidence)]
    equal = [first, *undecided_with(best)]
    names = ["no augmentation" if case.recipe == "none" else str(case.recipe) for case in equal]
    answer = names[0] if len(names) == 1 else f"Undecided: {join(names[:-1], 5)} or {names[-1]}"
    if base is not None and base.recipe != first.recipe:
        evidence += [" Minus the baseline ", Code(base.recipe), f": {_verdict(difference(first, base))}."]
    else:
        gap = difference(first, best[1])
        evidence += [" It is the baseline. Minus the next, ", Code(best[1].recipe), f": {_verdict(gap)}."]
    return [Answer(RECIPE, answer, evidence)]


def _verdict(gap: Estimate | None) -> str:
    if gap is None:
        return "no seed in common, so not known"
    sure = FEW if gap.half is None else "not distinguishable" if is_undecided(gap) else "better" if gap.mean > 0 else "worse"
    return f"{points(gap)} points, {plural(gap.n, 'pair')} of seeds: {sure}"


def _backend(pairs: Sequence[BackendPair]) -> list[Answer]:
    """Return whether the backend changes what is reached, for recipes trained with two backends that share a seed."""
    pairs = [pair for pair in pairs if pair.a.backend != pair.b.backend]
    if not pairs:
        return []
    sure = [pair for pair in pairs if pair.gap.half is not None]
    apart = [pair for pair in sure if pair.gap.excludes_zero]
    widest = max(apart or sure or pairs, key=lambda pair: abs(pair.gap.mean))
    recipes = join(dict.fromkeys(str(pair.a.recipe) for pair in apart), 4)
    answer = f"Yes, with {recipes}" if apart else "No measurable difference" if sure else f"Undecided: {FEW}"
    evidence = f"{len(apart)} of {plural(len(pairs), 'pair')} of backends with one recipe differ; at most {widest.a.recipe}, "
    evidence += (
        f"{label(widest.a)} minus {label(widest.b)}: {points(widest.gap)} points, {plural(widest.gap.n, 'pair')} of seeds."
    )
    return [Answer(BACKEND, answer, evidence)]


def _target_answer(case: Case) -> Answer:
    """Return the seconds to the accuracy that runs named."""
    answer = f"{_seconds(case)} s of training" if case.values("seconds_to_target") else "Not reached"
    evidence = [f"{case.model} on {case.dataset} with ", Code(case.recipe), f", {label(case)}: {_reach(case)}."]
    return Answer(f"How long to {percent(case.target_accuracy)} test accuracy?", answer, evidence)


def _peer_answer(cases: Sequence[Case]) -> list[Answer]:
    """Return seconds and accuracy of an case with a target, of airbench's recipe if there is one, beside cifar10-airbench's."""
    peer = next((case for case in cases if case.model == PEER), None)
    named = [target for case in cases if (target := with_target(case))]
    if peer is None or not named:
        return []
    own = max(named, key=lambda case: (case.recipe == peer.recipe, score(case)))
    answer, peers = (f"{_seconds(case, 'train_s')} s of training to {mean_score(case)}" for case in (own, peer))
    evidence = [f"{own.model} with ", Code(own.recipe), f". {PEER} on the same images: {peers}; neither has augmented tests."]
    return [Answer("How does that compare with cifar10-airbench?", answer, evidence)]


def _reach(case: Case | None) -> str:
    return f"{len(case.values('seconds_to_target'))} of {plural(len(case.records), 'seed')}" if case else ""


def _seconds(case: Case | None, name: str = "seconds_to_target") -> str:
    if case is None or not case.values(name):
        return ""
    mean = estimate(case.values(name))
    return format_number(mean.mean) + ("" if mean.half is None else f" ±{format_number(mean.half, 2)}")


# ---- figures --------------------------------------------------------------------------------------------------------------


def _figures(cases: Sequence[Case], index: int) -> list[Block]:
    recipes = [str(case.recipe) for case in cases]
    names = recipes if len(set(recipes)) == len(recipes) else [f"{case.recipe}, {label(case)}" for case in cases]
    means = join(f"{name} {percent(score(case))}" for name, case in zip(names, cases, strict=True))
    alternative = f"Test accuracy after the last epoch by recipe: a dot a seed, the mean with its interval. Means: {means}."
    rows = [Row(name, [_mark(case)]) for name, case in zip(names, cases, strict=True)]
    figure = bars(f"accuracy-{index}", alternative, rows, {}, "test accuracy, % (dot: a seed; line: 95 % interval)")
    timed = [case for case in cases if case.values("examples_per_s")]
    is_followed = any(curves(case, "test_accuracy") for case in cases)
    return [
        figure,
        *([_pareto(timed, index)] if len(timed) > 1 else []),
        *([learning_figure(f"curves-{index}", cases, names, CURVES)] if is_followed else []),
    ]


def _mark(case: Case) -> Mark:
    values = [100 * content for content in case.values("test_accuracy")]
    mean = estimate(values)
    return Mark(Look("ink", "diamond"), mean.mean, mean.mean - (mean.half or 0), mean.mean + (mean.half or 0), values)


def _pareto(cases: Sequence[Case], index: int) -> Figure:
    dots, reached = list[Line](), list[str]()
    for case, mark in zip(cases, map(_mark, cases), strict=True):
        speed = case.median("examples_per_s") or 0.0
        reached.append(f"{case.recipe} on {case.backend} {format_number(speed)} examples/s, {percent(score(case))}")
        ends = [(speed, mark.low, mark.high)]
        dots.append(Line(case.backend, backend_look(case.backend), [(speed, mark.value)], ends, note=str(case.recipe)))
    front = Line("", Look("quiet", dashes="2 3"), pareto_front([line.points[0] for line in dots]), faint=True)
    alternative = f"Test accuracy against training speed: a point a recipe and backend. {join(reached)}."
    axes = "training, examples/s (log scale)", "test accuracy, % (line: 95 % interval)"
    return lines(f"pareto-{index}", alternative, {"": [front, *dots]}, *axes, log="x")


def learning_figure(name: str, cases: Sequence[Case], names: Sequence[str], fields: Mapping[str, tuple[str, int]]) -> Figure:
    """Return curves by epoch, a panel a field: each seed thin, their mean thick."""
    panels: dict[str, list[Line]] = {}
    for field, (title, factor) in fields.items():
        for index, (case, words) in enumerate(zip(cases, names, strict=True)):
            seeds = [[(epoch, factor * content) for epoch, content in curve] for curve in curves(case, field)]
            series = [Line(words, series_look(index), seed, faint=True) for seed in seeds if len(seeds) > 1]
            panels.setdefault(title, []).extend([*series, Line(words, series_look(index), mean_curve(seeds))] if seeds else [])
    shown = {title: series for title, series in panels.items() if series}
    alternative = f"Curves by epoch of {join(names)}: {join(shown)}; a thin line a seed, a thick one the mean."
    return lines(name, alternative, shown, "epoch", "", shared_y=False)


# ---- tables ---------------------------------------------------------------------------------------------------------------


def mode(case: Case) -> str:
    """Return which layers fine-tuning trains; empty of other training."""
    return MODES.get(case.mode, str(case.mode or ""))


def score_columns(cases: Sequence[Case], base: Case | None) -> list[Column]:
    """Return columns of accuracies and what they cost; pairs of seeds are compared with a baseline."""
    gaps = {id(case): difference(case, base) for case in cases if base is not None and case is not base}
    return [
        words_column("layers", mode),
        words_column("starting from", lambda case: [Code(case.init)] if case.init else ""),
        words_column("recipe", lambda case: [Code(case.recipe)]),
        words_column("augmented by", name_of),
        words_column("drawn", lambda case: SHORT_LANES[case.lane]),
        Column("test accuracy, mean", mean_score),
        Column("each seed", _each_seed),
        Column("seeds", lambda case: str(len(case.values("test_accuracy")))),
        Column("minus baseline, points", lambda case: points(gaps[id(case)]) if id(case) in gaps else ""),
        Column("sd of differences", lambda case: _deviation(gaps.get(id(case)))),
        Column(SEEDS_TO_SEE, lambda case: _seeds_to_see(gaps.get(id(case)))),
        Column("best epoch, mean", lambda case: mean_score(case, "best_accuracy") if case.values("best_accuracy") else ""),
        Column("train accuracy", lambda case: percent(case.mean("train_accuracy"))),
        Column("train loss", lambda case: format_number(case.mean("loss"))),
        Column("examples/s", lambda case: with_spread(case, "examples_per_s")),
        number_column("seconds a run", "total_s"),
        number_column("of it features, s", "features_s"),
        number_column("peak memory, MiB", "peak_bytes", 2.0**-20),
        number_column("resident memory, MiB", "resident_bytes", 2.0**-20),
        Column("runs at once", lambda case: str(case.cells_at_once) if (case.cells_at_once or 1) > 1 else ""),
        Column("reached the target", lambda case: _reach(with_target(case))),
        Column("after seconds", lambda case: _seconds(with_target(case))),
        Column("warm-up, s, at most", lambda case: format_number(max(case.values("warm_up_s"))) if with_target(case) else ""),
    ]


def score_table(cases: Sequence[Case], base: Case | None) -> list[Block]:
    """Return the table of accuracies, and what they are compared with."""
    table = build_table(score_columns(cases, base), cases)
    if base is None or len(cases) == 1:
        return [table]
    names = ", ".join(filter(None, (mode(base), label(base))))
    seeds = f" {SEEDS}" if SEEDS_TO_SEE in table.header else ""
    return [Paragraph(["Against the baseline ", Code(base.recipe), f", {names}.{seeds}"]), table]


def _each_seed(case: Case) -> str:
    """Return the accuracy of each seed, or from the worst to the best of more than five."""
    values = case.values("test_accuracy")
    return ", ".join(map(percent, values)) if len(values) <= 5 else f"{percent(min(values))} to {percent(max(values))}"


def _deviation(gap: Estimate | None) -> str:
    return "" if gap is None or gap.sd is None else f"{gap.sd:.2f}" + span(sd_range(gap) or (), "{:.2f}".format)


def _seeds_to_see(gap: Estimate | None) -> str:
    if gap is None or not gap.sd or gap.half is None:
        return ""
    counts = [max(FEWEST_SEEDS, seeds_needed(gap.sd, to_see)) for to_see in SEEDS_SHOWN]
    return ", ".join(f"{n:,}" if n <= MOST_SEEDS else f">{MOST_SEEDS:,}" for n in counts)


def _pairs_table(pairs: Sequence[BackendPair]) -> list[Block]:
    columns = [
        words_column("recipe", lambda pair: [Code(pair.a.recipe)]),
        words_column("backends", lambda pair: f"{label(pair.a)} minus {label(pair.b)}"),
        Column("difference, points", lambda pair: points(pair.gap)),
        Column("pairs", lambda pair: str(pair.gap.n)),
        words_column("audit", lambda pair: pair.difference or "equal"),
    ]
    return [Paragraph("Backends that train with the same recipe:"), build_table(columns, pairs)] if pairs else []
