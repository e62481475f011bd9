"""Training: where augmentation should run, with which backend, and what it costs."""

import statistics
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from bench.records import UNKNOWN, Case, Run, format_number, group_by, join, percent, plural
from bench.report.blocks import Answer, Block, Code, Details, Heading, Paragraph, Section, Text
from bench.report.facts.cases import LANES, SHORT_LANES, find_ties, is_slower, place_order, ratios, settings, sound_cases
from bench.report.facts.placement import UTILISATION, Contest, LoaderWorker, ceiling, contest, cost, split_ms, workers
from bench.report.figures import Look, Row, bars
from bench.report.sections.state import failed_section, no_answer, require_quiet
from bench.report.tables import Column, build_table, number_column, words_column
from bench.report.words import (
    capitalise,
    format_rate,
    judge,
    label,
    lower_first,
    name_of,
    name_or_undecided,
    setting,
    span,
    with_spread,
)  # fmt: skip
from bench.statistics import SPREAD

TITLE = "Training: examples per second by placement"
WHERE, WITH, COST = "Where should augmentation run?", "With which backend?", "What does it cost?"
USE = "How much of the device's arithmetic does training use?"
RECIPE_WORDS = {"d2l": ": flip, colour jitter and resized crop of Dive into Deep Learning, 14.1"}
PLACES = {
    "device": "On the device ({}), a batch at a time",
    "workers": "In loader workers",
    "process": "In the training process, image by image",
}


class Part(NamedTuple):
    """Words and colour of a part of a step."""

    words: str
    look: Look


PARTS = {
    "forward_backward": Part("forward and backward", Look("work")),
    "optimizer": Part("optimizer", Look("quiet")),
    "augment": Part("augmentation on the device", Look("s6")),
    "copy": Part("to the device", Look("s4")),
    "wait": Part("waiting for data", Look("wait")),
    "other": Part("other", Look("grid")),
}
METHOD = """The ceiling trains on one prepared batch over and over; "no augmentation" normalises only. All placements take turns
within a round. Waiting: training stood without a batch, so augmentation in workers shows as waiting, on the device as a longer
step. Arithmetic: model FLOPs utilisation (Chowdhery et al. 2022), against a large matrix product on the same device. GPU busy:
time of kernels over wall time."""
WORKERS = """Workers that keep up: examples/s of the ceiling over those of one loader worker alone, by pairs of rounds; true at
most up to the number of cores"""


def training_section(run: Run) -> Section | None:
    """Return training speed by placement: a figure and a table for each setting and recipe."""
    groups = settings(run, "throughput")
    overhead = _overhead(run)
    if not groups:
        failed = failed_section(run, "throughput", TITLE, WHERE)
        return failed or (Section(title="The trainer's own step", blocks=overhead) if overhead else None)
    blocks: list[Block] = [Paragraph(METHOD)]
    for index, group in enumerate(groups, start=1):
        cases, number = sorted(group, key=place_order), f", setting {index}" if len(groups) > 1 else ""
        for recipe in dict.fromkeys(case.recipe for case in cases if not case.is_bare) or ["none"]:
            shown = [case for case in cases if case.is_bare or case.recipe == recipe]
            blocks += [
                Heading(["Recipe ", Code(recipe), f" on {shown[0].device}{number}", RECIPE_WORDS.get(recipe, "")]),
                Paragraph(f"Setting: {setting(shown[0])}."),
            ]
            drawn = _split(f"throughput-{index}-{recipe}", shown)
            blocks += [*drawn[:1], _table(shown), *drawn[1:], *_workers(run, shown, recipe)]
    current = contest(run)
    if current is None:
        answer = no_answer(WHERE, "training was not measured with and without augmentation in one setting.")
        return Section(title=TITLE, blocks=[*blocks, *overhead], answers=[answer])
    answers = [_where(current), _with(current), _costs(current), *_utilisation(current)]
    answers = [require_quiet(answer, current.decisive) for answer in answers]
    note = f"Training speed: medians of the rounds, {SPREAD}; recipe {current.recipe}, "
    note += f"{LANES[current.lane]}; {setting(current.best)}."
    return Section(title=TITLE, blocks=[*blocks, *overhead], answers=answers, note=note)


# ---- answers --------------------------------------------------------------------------------------------------------------


def _where(contest: Contest) -> Answer:
    best, *rivals = contest.places
    names = [PLACES[case.place].format(best.device) for case in find_ties(contest.places)]
    answer = names[0] if len(names) == 1 else f"Undecided: {', or '.join(map(lower_first, names))}"
    evidence = ["There training with ", Code(contest.recipe), f" reaches {format_rate(best)} by ", Code(best.backend)]
    for rival in rivals[:1]:
        place = lower_first(PLACES[rival.place].format(rival.device))
        evidence += [f"; {place}, at best {format_rate(rival)} by ", Code(rival.backend), f", {judge(best, rival)}"]
        if best.resident is True and rival.resident is False:
            answer += ", where the images already are" if len(names) == 1 else ""
            evidence += _with_transfer(contest.with_transfer, rival)
    return Answer(WHERE, answer, [*evidence, "." if rivals else "; no other place was measured."])


def _with_transfer(alike: Case | None, rival: Case) -> list[str]:
    """Return what the best place reaches if images have to be brought there, as they do for the rival."""
    if alike is None:
        return [". Images that have to be brought there first were not measured"]
    faster = is_slower(alike.rates, rival.rates)
    words = "faster than that beyond the spread between rounds" if faster else judge(rival, alike)
    return [f". If images have to be brought there first, training reaches {format_rate(alike)} by {label(alike)}: {words}"]


def _with(contest: Contest) -> Answer:
    equal, (best, *rivals) = contest.tied_backends, contest.backends
    text = "No other backend was measured there. "
    if len(equal) > 1:
        reached = " and ".join(f"{case.backend} {format_number(case.rate)}" for case in equal)
        text = f"In training {reached} examples/s, {judge(best, next(case for case in rivals if case in equal))}. "
    elif rivals:
        text = f"In training the next, {rivals[0].backend}, reaches {format_rate(rivals[0])}, {judge(best, rivals[0])}. "
    return Answer(WITH, name_or_undecided([case.backend for case in equal]), [text, *alone(contest.alone)])


def alone(ranked: Sequence[Case]) -> list[str]:
    """Return which backend augments most images per second without training, and how sure that is; nothing if disturbed."""
    if not ranked or any(case.is_disturbed for case in ranked[:2]):
        return []
    text = ["Without training ", Code(ranked[0].backend), f" is fastest, {format_rate(ranked[0])}"]
    for case in ranked[1:2]:
        doubt = f", {judge(ranked[0], case)}" if case in find_ties(ranked) else ""
        text += [", before ", Code(case.backend), f" with {format_number(case.rate)}{doubt}"]
    return [*text, "."]


def _costs(contest: Contest) -> Answer:
    """Return the cost of the backend that is named first: the fastest by chance alone would seem to cost less."""
    chosen, top = contest.tied_backends[0], contest.top
    loss = cost(chosen, top)
    how = "On one prepared batch" if top.augment_on == "frozen" else "Without augmentation"
    evidence = [f"{how} training reaches {format_rate(top)}."]
    if loss.low is not None and loss.high is not None:
        low, high = (f"{100 * share:.0f}".replace("-", "\N{MINUS SIGN}") for share in (loss.low, loss.high))
        evidence += [" With ", Code(chosen.backend), f" the loss by pairs of rounds lies between {low} and {high} %."]
    share = percent(loss.lost, 0) if round(100 * loss.lost) > 0 else "nothing"
    words = f"{'' if loss.is_sure else 'undecided: perhaps '}{share} of the training speed"
    return Answer(COST, capitalise(words) if share != "nothing" else "Nothing measurable", evidence)


def _utilisation(contest: Contest) -> list[Answer]:
    """Return how much of a matrix product's speed the contest's cases reach at most; nothing if that was not counted."""
    best, top = contest.busiest, contest.top
    if best is None:
        return []
    flops = best.median("matmul_flops_per_s")
    peak = f"{format_number(flops / 1e12 if flops else None)} TFLOP/s in {best.matmul_precision}"
    devices = f" on each of {len(best.devices)} devices" if len(best.devices or ()) > 1 else ""
    start = f"Of a matrix product's {peak}{devices}: {best.model} with "
    end = f", {label(best)}; the ceiling (one prepared batch over and over) {_utilisation_words(top) or UNKNOWN}."
    return [Answer(USE, _utilisation_words(best), [start, Code(best.recipe), end])]


def _utilisation_words(case: Case) -> str:
    values = case.values(UTILISATION)
    return percent(statistics.median(values)) + span(values, percent) if values else ""


# ---- figures and tables ---------------------------------------------------------------------------------------------------


def _split(name: str, cases: Sequence[Case]) -> list[Block]:
    """Return stacked bars of a step's parts, lane by lane, and a folded table of them; nothing if no step was taken apart."""
    splits = [(case, parts) for case in cases if (parts := split_ms(case))]
    used = [part for part in PARTS if any(parts.get(part) for _, parts in splits)]
    if not used:
        return []
    speeds = join((f"{label(case)} {format_number(case.rate)}" for case, _ in splits), 10)
    alternative = f"Milliseconds a step by part and placement: stacked bars. Examples per second: {speeds}."
    rows = list[Row]()
    for lane, group in group_by(splits, lambda split: split[0].lane).items():
        rows.append(Row(LANES[lane]))
        for case, parts in group:
            stack = {PARTS[part].words: parts[part] for part in used if parts.get(part)}
            rows.append(Row(label(case), (), stack, {}, f"{format_number(case.rate)} ex/s"))
    columns = [
        words_column("placement", lambda split: name_of(split[0])),
        *(Column(PARTS[part].words, partial(_milliseconds, part)) for part in used),
        Column("all", lambda split: format_number(sum(split[1].values()))),
    ]
    figure = bars(name, alternative, rows, dict(PARTS[part] for part in used), "milliseconds a step")
    return [figure, Details("Milliseconds a step by part", [build_table(columns, splits)])]


def _milliseconds(part: str, split: tuple[Case, dict[str, float]]) -> str:
    value = split[1].get(part, 0.0)
    return format_number(value) if value > 0.0005 * sum(split[1].values()) else "0"


def _table(cases: Sequence[Case]) -> Block:
    top = ceiling(cases)
    columns = [
        words_column("placement", name_of),
        words_column("drawn", lambda case: SHORT_LANES[case.lane]),
        Column("examples/s", lambda case: with_spread(case, "examples_per_s") + (", disturbed" if case.disturbance else "")),
        Column("share of the ceiling", lambda case: "the ceiling" if case is top else _share(case, top)),
        Column("waiting", lambda case: percent(case.median("wait_share"), 0)),
        Column("arithmetic", _utilisation_words),
        words_column("step", lambda case: case.step or ""),
        number_column("GPU busy, %", "gpu_busy", 100),
        number_column("driver's utilisation, %", "gpu_utilisation", 100),
        number_column("power, W", "power_w"),
        number_column("J per 1,000 examples", "energy_j_per_1000_examples"),
        number_column("peak memory, MiB", "peak_bytes", 2.0**-20),
        Column("rounds", lambda case: str(len(case.rates))),
    ]
    return build_table(columns, cases)


def _share(case: Case, top: Case | None) -> str:
    if top is None:
        return UNKNOWN
    if is_slower(case.rates, top.rates):
        return "contradiction: above it"
    share = case.rate / top.rate
    places = 1 if share >= 0.9 else 0  # near the ceiling a decimal matters
    return percent(share, places) + span(ratios(case, top), lambda value: percent(value, places))


def _workers(run: Run, cases: Sequence[Case], recipe: str) -> list[Block]:
    rows = workers(run, ceiling(cases), recipe)
    columns = [
        words_column("what a worker does", _work),
        Column("examples/s of one worker", lambda row: with_spread(row.case, "examples_per_s")),
        Column("workers that keep up", lambda row: _workers_needed(row.needed)),
        Column("rounds", lambda row: str(len(row.needed))),
    ]
    cores = f" ({run.environment.cpu.usable_cores} here)." if run.environment else "."
    return [Paragraph(WORKERS + cores), build_table(columns, rows)] if rows else []


def _workers_needed(ratios: Sequence[float]) -> str:
    return (
        format_number(statistics.median(ratios), 2) + span(ratios, lambda value: format_number(value, 2)) if ratios else UNKNOWN
    )


def _work(row: LoaderWorker) -> Text:
    case, decodes = row.case, row.case.decode == "workers"
    if case.augment_on != "workers":
        return "decode only" if decodes else "fetch only (decoded ahead)"
    return ["decode, and augment with " if decodes else "augment with ", Code(case.backend)]


def _overhead(run: Run) -> list[Block]:
    """Return what the trainer's own step costs over a bare loop."""
    blocks: list[Block] = []
    for case in sound_cases(run, "overhead"):
        values = case.values("step_over_bare")
        text = f"The trainer's step takes {statistics.median(values):.3f} times as long as that of a bare loop over the same"
        ends = f" batches ({min(values):.3f} to {max(values):.3f}, {plural(len(values), 'round')}; {setting(case)})."
        blocks.append(Paragraph(text + ends))
    return blocks
