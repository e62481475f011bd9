"""Training: where augmentation should run, with which backend, and what it costs."""

import math
import statistics
from collections.abc import Sequence
from functools import partial

from bench.records import SETTING, Case, Run
from bench.report.blocks import Answer, Block, Code, Details, Heading, Paragraph, Section, Text
from bench.report.facts.arms import Arm, arms_of, ceiling, ratios, settings, share_of, step_ms, succeeded
from bench.report.facts.lanes import LANES, SHORT_LANES, passes, rate, slower
from bench.report.facts.placement import UTILISATION, Contest, Cost, Worker, contest, cost, speeds, utilisation, workers
from bench.report.figures import Look, Row, bars
from bench.report.sections.state import failed_section, unanswered
from bench.report.tables import Column, build_table, words_column
from bench.report.words import (
    UNKNOWN,
    capitalised,
    counted,
    flop,
    label,
    listed,
    lowered,
    measured,
    percent,
    percent_span,
    rounded,
    setting,
    with_spread,
)

TITLE = "Training: examples per second by placement"
WHERE, WITH, COST = "Where should augmentation run?", "With which backend?", "What does it cost?"
USE = "How much of the device's arithmetic does training use?"
PLACES = {
    "device": "On the device ({}), a batch at a time",
    "workers": "In loader workers",
    "process": "In the training process, image by image",
}
OVERLAP = "not distinguishable: their rounds overlap"
VERDICTS = {True: "slower beyond the spread between rounds", False: OVERLAP, None: "of one round, so not certain"}
PARTS = {
    "forward_backward": ("forward and backward", Look("work")),
    "optimizer": ("optimizer", Look("quiet")),
    "augment": ("augmentation on the device", Look("s6")),
    "copy": ("to the device", Look("s4")),
    "wait": ("waiting for data", Look("wait")),
    "other": ("other", Look("grid")),
}
METHOD = (
    "Medians of the rounds, ± half the range between them; all placements take turns within a round. The ceiling trains on "
    'one prepared batch over and over. "No augmentation" normalises only. Waiting is the time in which training stood '
    "without a batch: augmentation in workers shows as waiting, augmentation on the device as a longer step. Arithmetic is "
    "model FLOPs utilisation (Chowdhery et al. 2022): the operations of the model's matrix products and convolutions, over "
    "what a large matrix product reaches on the same device."
)
WORKERS = (
    "Workers that keep up: examples/s of the ceiling over those of one loader worker alone, by pairs of rounds. The count "
    "supposes that workers do not hinder each other or training, so it holds at most up to the number of cores"
)


def training_section(run: Run) -> Section | None:
    """Return training speed by placement: a figure and a table for each setting and recipe."""
    groups = settings(run.records, "throughput")
    overhead = _overhead(run)
    if not groups:
        failed = failed_section(run, "throughput", TITLE, WHERE)
        return failed or (Section(title="The trainer's own step", blocks=overhead) if overhead else None)
    blocks: list[Block] = [Paragraph(METHOD)]
    for index, arms in enumerate(groups, start=1):
        for recipe in dict.fromkeys(arm.recipe for arm in arms if not arm.is_bare) or ["none"]:
            shown = [arm for arm in arms if arm.is_bare or arm.recipe == recipe]
            blocks += [Heading(["Recipe ", Code(recipe)]), Paragraph(f"Setting: {setting(shown[0])}.")]
            blocks += [*_placements(shown, f"throughput-{index}-{recipe}", recipe), *_workers(run, shown, recipe)]
    current = contest(run)
    if current is None:
        evidence = (
            f"{counted(len(succeeded(run.records, 'throughput')), 'record')} of training speed, but not with and without "
        )
        answers = [unanswered(WHERE, f"{evidence}augmentation in one setting.")]
        return Section(title=TITLE, blocks=[*blocks, *overhead], answers=[*answers, *_utilisation(run)])
    note = "Training speed: medians of the rounds, ± half the range between them; "
    note += f"recipe {current.recipe}, {LANES[current.lane]}; "
    answers = [_where(current), _with(current), _costs(current), *_utilisation(run)]
    return Section(title=TITLE, blocks=[*blocks, *overhead], answers=answers, note=f"{note}{setting(current.best)}.")


# ---- answers --------------------------------------------------------------------------------------------------------------


def _speed(arm: Arm) -> str:
    return measured(speeds(arm), "examples/s")


def _verdict(best: Arm, rival: Arm) -> str:
    return VERDICTS[slower(speeds(best), speeds(rival))]


def _where(contest: Contest) -> Answer:
    best = contest.best
    names = [PLACES[place].format(best.device) for place in contest.tied_places]
    answer = names[0] if len(names) == 1 else f"Undecided: {', or '.join(map(lowered, names))}"
    evidence: list[str] = ["There training with ", Code(contest.recipe), f" reaches {_speed(best)} by ", Code(best.backend)]
    rivals = [arm for place, arm in contest.places.items() if arm is not best]
    if not rivals:
        return Answer(question=WHERE, answer=answer, evidence=[*evidence, "; no other place was measured."])
    rival = rivals[0]
    evidence += [f"; {lowered(PLACES[rival.place].format(rival.device))}, at best {_speed(rival)} by ", Code(rival.backend)]
    evidence += [f", {_verdict(best, rival)}."]
    if best.resident is True and rival.resident is False:
        answer += ", where the images already are" if len(names) == 1 else ""
        evidence += [_with_transfer(contest, rival)]
    return Answer(question=WHERE, answer=answer, evidence=evidence)


def _with_transfer(contest: Contest, rival: Arm) -> str:
    """Return what the best place reaches if images have to be brought there, as they do for the rival."""
    alike = contest.with_transfer
    if alike is None:
        return " Images that have to be brought there first were not measured."
    is_faster = slower(speeds(alike), speeds(rival))
    verdict = "faster beyond the spread between rounds" if is_faster else VERDICTS[slower(speeds(rival), speeds(alike))]
    return f" If images have to be brought there first, {label(alike)} reaches {_speed(alike)}, {verdict}."


def _with(contest: Contest) -> Answer:
    tied, (best, *others) = contest.tied_backends, contest.backends
    if len(tied) > 1:
        reached = " and ".join(f"{arm.backend} {rounded(arm.speed)}" for arm in tied)
        text = f"In training {reached} examples/s, {_verdict(best, next(arm for arm in others if arm in tied))}. "
    elif others:
        text = f"In training the next, {others[0].backend}, reaches {_speed(others[0])}, {_verdict(best, others[0])}. "
    else:
        text = "No other backend was measured there. "
    names = " or ".join(arm.backend for arm in tied)
    return Answer(
        question=WITH, answer=f"Undecided: {names}" if len(tied) > 1 else names, evidence=[text, *alone(contest.alone)]
    )


def alone(ranked: Sequence[Case]) -> list[str]:
    """Return which backend augments most images per second without training, and how sure that is."""
    if not ranked:
        return []
    best, *others = ranked
    text = ["Without training ", Code(best.first.backend), f" is fastest, {measured(passes(best), 'images/s')}"]
    if not others:
        return [*text, "."]
    verdict = {True: "", False: f", {OVERLAP}", None: ", of one round, so not certain"}[slower(passes(best), passes(others[0]))]
    return [*text, ", before ", Code(others[0].first.backend), f" with {rounded(rate(others[0]))}{verdict}."]


def _costs(contest: Contest) -> Answer:
    """Return the cost of the backend that is named first: the fastest by chance alone would seem to cost less."""
    chosen, top, worst = contest.tied_backends[0], contest.top, contest.ranked[-1]
    loss = cost(chosen, top)
    how = "On one prepared batch" if top.augment_on == "frozen" else "Without augmentation"
    evidence = [f"{how} training reaches {_speed(top)}."]
    if loss.low is not None and loss.high is not None:
        low, high = (f"{100 * share:.0f}".replace("-", "\N{MINUS SIGN}") for share in (loss.low, loss.high))
        evidence += [" With ", Code(chosen.backend), f" the loss by pairs of rounds lies between {low} and {high} %."]
    if worst is not chosen:
        slowest = _lost(cost(worst, top))
        evidence += [f" The slowest of {counted(len(contest.ranked), 'placement')}, {label(worst)}, costs {slowest}."]
    share = _lost(loss)
    certain = f"{capitalised(share)} of the training speed"
    unsure = "Nothing measurable" if share == "nothing" else f"Undecided: perhaps {share} of the training speed"
    return Answer(question=COST, answer=certain if loss.is_sure else unsure, evidence=evidence)


def _lost(loss: Cost) -> str:
    return percent(loss.lost, 0) if round(100 * loss.lost) > 0 else "nothing"


def _utilisation(run: Run) -> list[Answer]:
    pair = utilisation(run)
    if pair is None:
        return []
    best, top = pair
    several = f" on each of {len(best.devices)} devices" if len(best.devices or ()) > 1 else ""
    peak = f"{flop(best.median('matmul_flops_per_s'), 'FLOP/s')} in {best.matmul_precision}{several}"
    evidence: list[str] = [
        f"{best.model} with ",
        Code(best.recipe),
        f", {label(best)}, of the device's own matrix product rate, {peak}",
    ]
    return [Answer(question=USE, answer=_used(best), evidence=[*evidence, f"; the ceiling {_used(top)}." if top else "."])]


def _used(arm: Arm) -> str:
    return percent(arm.median(UTILISATION)) + percent_span(arm.values(UTILISATION))


# ---- tables and figures ---------------------------------------------------------------------------------------------------


def name_of(arm: Arm) -> Text:
    """Return an arm's label with its backend as code."""
    return label(arm) if arm.is_bare else [Code(arm.backend), label(arm).removeprefix(str(arm.backend))]


def _placements(arms: Sequence[Arm], name: str, recipe: str) -> list[Block]:
    top, splits = ceiling(arms), [(arm, step_ms(arm)) for arm in arms if arm.speed]
    splits = [(arm, parts) for arm, parts in splits if parts]
    columns = [
        words_column("placement", name_of),
        words_column("drawn", lambda arm: SHORT_LANES[arm.lane]),
        Column("examples/s", lambda arm: with_spread(arm, "examples_per_s")),
        Column("share of the ceiling", lambda arm: "the ceiling" if arm is top else _share(arm, top)),
        Column("waiting", lambda arm: percent(arm.median("wait_share"), 0)),
        Column("arithmetic", lambda arm: _used(arm) if arm.values(UTILISATION) else ""),
        Column("GPU busy", lambda arm: _optional(arm, "gpu_utilisation", 100, " %")),
        Column("power, W", lambda arm: _optional(arm, "power_w")),
        Column("J per 1,000 examples", lambda arm: _optional(arm, "energy_j_per_1000_examples")),
        Column("peak memory, MiB", lambda arm: _optional(arm, "peak_bytes", 2.0**-20)),
        words_column("implementation", lambda arm: arm.implementation or ""),
        Column("rounds", lambda arm: str(len(speeds(arm)))),
    ]
    blocks: list[Block] = []
    if splits:
        fastest = listed((f"{label(arm)} {rounded(arm.speed)}" for arm, _ in splits), 10)
        alternative = f"Milliseconds a step when training with {recipe}, by placement: examples per second: {fastest}."
        used = {name: look for name, look in PARTS.items() if any(parts.get(name) for _, parts in splits)}
        rows = [
            Row(
                label=label(arm),
                parts={PARTS[name][0]: parts[name] for name in used if parts.get(name)},
                note=f"{rounded(arm.speed)} ex/s",
            )
            for arm, parts in splits
        ]
        blocks.append(bars(name, alternative, rows, dict(used.values()), "milliseconds a step"))
    blocks.append(build_table(columns, arms))
    return [*blocks, Details(summary="Milliseconds a step by part", blocks=[_split_table(splits)])] if splits else blocks


def _split_table(splits: Sequence[tuple[Arm, dict[str, float]]]) -> Block:
    parts = [Column(words, partial(_part, name)) for name, (words, _) in PARTS.items()]
    whole = Column("a step", lambda row: rounded(sum(row[1].values())))
    return build_table([words_column("placement", lambda row: name_of(row[0])), *parts, whole], splits)


def _part(name: str, row: tuple[Arm, dict[str, float]]) -> str:
    parts = row[1]
    return rounded(parts[name]) if parts.get(name, 0) > 0.0005 * sum(parts.values()) else "0"


def _optional(arm: Arm, name: str, factor: float = 1.0, unit: str = "") -> str:
    middle = arm.median(name)
    return "" if middle is None else f"{rounded(middle * factor)}{unit}"


def _share(arm: Arm, top: Arm | None) -> str:
    share = share_of(arm, top)
    if share is None or top is None:
        return UNKNOWN
    digits = 1 if share >= 0.9 else 0  # near the ceiling a decimal matters
    return percent(share, digits) + percent_span(ratios(arm, top), digits)


def _workers(run: Run, arms: Sequence[Arm], recipe: str) -> list[Block]:
    rows = workers(run, ceiling(arms), recipe)
    if not rows:
        return []
    columns = [
        words_column("what a worker does", _work),
        Column("examples/s of one worker", lambda row: with_spread(row.arm, "examples_per_s")),
        Column("workers that keep up", lambda row: _needed(row.needed)),
        Column("whole workers", lambda row: str(math.ceil(statistics.median(row.needed))) if row.needed else UNKNOWN),
        Column("rounds", lambda row: str(len(row.needed))),
    ]
    cores = run.environment.cpu.usable_cores if run.environment else None
    return [Paragraph(f"{WORKERS} ({cores} here)." if cores else f"{WORKERS}."), build_table(columns, rows)]


def _needed(needed: Sequence[float]) -> str:
    if not needed:
        return UNKNOWN
    ends = f" ({rounded(min(needed), 2)} to {rounded(max(needed), 2)})" if len(needed) > 1 else ""
    return rounded(statistics.median(needed), 2) + ends


def _work(row: Worker) -> Text:
    decodes = row.arm.decode == "workers"
    if row.arm.augment_on != "workers":
        return "decode only" if decodes else "fetch only (decoded ahead)"
    return ["decode, and augment with " if decodes else "augment with ", Code(row.arm.backend)]


def _overhead(run: Run) -> list[Block]:
    """Return what the trainer's own step costs over a bare loop."""
    blocks: list[Block] = []
    for arm in arms_of(succeeded(run.records, "overhead"), SETTING):
        values = arm.values("step_over_bare")
        text = f"The trainer's step takes {statistics.median(values):.3f} times as long as that of a bare loop over the same"
        ends = f" batches ({min(values):.3f} to {max(values):.3f}, {counted(len(values), 'round')}; {setting(arm)})."
        blocks.append(Paragraph(text + ends))
    return blocks
