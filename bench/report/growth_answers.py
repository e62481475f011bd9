"""What the first screen says of augmenting without training: who is fastest, and how speed grows with batch and image size."""

from collections import Counter
from collections.abc import Mapping, Sequence

from bench.records.measurements import Measurement
from bench.report.answer import WITH, alone_words, apart, contest_of, fastest_alone, usual_recipe
from bench.report.blocks import Answer, Code, Inline
from bench.report.context import Context
from bench.report.growth import lines_along, usual_sizes
from bench.report.growth_figure import Lines
from bench.report.lanes import LANES, LaneTable, lane_of, lane_tables, passes, rate
from bench.report.quantities import counted, listed, rounded

GROWTH = "How does speed change with size?"
MOST_BACKENDS = 5
Line = Sequence[tuple[int, Measurement]]
"""A backend along a size, rising."""
UNITS = {"batch": "batch {}", "side": "{} pixels a side"}


def speed_answers(context: Context) -> list[Answer]:
    """Who augments fastest, where training does not say it, and how speed changes; nothing for runs without benchmarks."""
    fastest = [] if contest_of(context) is not None else _fastest(context)
    return [*fastest, *_growth(context)]


def speed_note(context: Context) -> str:
    """What the answers rest on; empty where there are none."""
    if not any(rate(one) is not None for one in context.run.measurements):
        return ""
    return "Images per second: medians of the passes, ± half the range between them; augmentation by itself, nobody trains."


# ---- who is fastest ---------------------------------------------------------------------------------------------------


def _fastest(context: Context) -> list[Answer]:
    planned = [one for one in context.run.measurements if one.draws is not None]
    if not planned:
        return []
    ranked = fastest_alone(context, None)
    if ranked:
        return [_recipe(context, ranked)]
    ops = _ops(context)
    if ops:
        return ops
    ok = sum(rate(one) is not None for one in planned)
    reasons = listed(dict.fromkeys(one.reason for one in planned if one.reason), 2)
    if ok:
        told = f"{counted(ok, 'case')} measured, in none of which a backend does a recipe or op as it is defined."
        return [Answer(question=WITH, answer="Not known from this run", evidence=told)]
    told = f"none of {counted(len(planned), 'case')} was measured{f': {reasons}' if reasons else ''}."
    return [Answer(question=WITH, answer="Not known: no case succeeded", evidence=told)]


def _recipe(context: Context, ranked: Sequence[Measurement]) -> Answer:
    """The usual recipe's fastest backend, with those that cannot be told from it, and how it stands to the others."""
    best, *others = ranked
    equal = [one for one in others if apart(passes(best), passes(one)) is not True]
    names = [one.case.backend for one in (best, *equal)]
    text: list[Inline] = [Code(best.case.subject), f", {LANES[lane_of(best)]}, batch {best.case.batch_size} of "]
    text += [f"{best.case.pixels} pixels on {best.case.device}. ", *alone_words(ranked)]
    for one in others[1:MOST_BACKENDS]:
        text += [" ", Code(one.case.backend), f" reaches {rounded(rate(one) or 0)}."]
    return Answer(question=WITH, answer=" or ".join(names), evidence=[*text, *_elsewhere(context, best)])


def _elsewhere(context: Context, best: Measurement) -> list[Inline]:
    """The same backend in the other recipes and lanes, against what is next to it there."""
    told: list[str] = []
    for table in lane_tables(context.run.measurements, "recipes"):
        for subject in table.subjects:
            row = _alike(context, table, subject)
            mine = next((one for one in row if one.case.backend == best.case.backend), None)
            rival = next((one for one in row if one is not mine), None)
            if mine is not None and rival is not None and subject != best.case.subject and table.device == best.case.device:
                times = (rate(mine) or 0) / (rate(rival) or 1)
                told.append(f"{subject}, {LANES[table.lane]}: {rounded(times)} times {rival.case.backend}")
    return [f" In other recipes {best.case.backend} against the fastest beside it: {'; '.join(told[:4])}."] if told else []


def _alike(context: Context, table: LaneTable, subject: str) -> list[Measurement]:
    """The measured cells of a row that do the subject as it is defined, the fastest first.

    None in a lane of mixtures, or where nothing is known of how they differ.
    """
    if table.lane == "mixed" or context.differences is None:
        return []
    return [one for one in table.ok(subject) if (subject, one.case.backend) not in context.differences]


def _ops(context: Context) -> list[Answer]:
    """Runs of single ops alone: in how many of them each backend is ahead of all others."""
    rows = [
        row
        for table in lane_tables(context.run.measurements, "ops")
        for s in table.subjects
        if (row := _alike(context, table, s))
    ]
    races = [row for row in rows if len(row) > 1]
    if not races:
        return []
    wins = Counter(row[0].case.backend for row in races if apart(passes(row[0]), passes(row[1])))
    tied = len(races) - sum(wins.values())
    told = [f"{name} in {count}" for name, count in wins.most_common()]
    evidence = (
        f"Of {counted(len(races), 'op and lane', 'ops and lanes')} with several backends, fastest beyond the spread between "
    )
    evidence += f"passes: {listed(told) or 'nobody'}; undecided in {tied}."
    most = wins.most_common(2)
    sure = most and (len(most) == 1 or most[0][1] > most[1][1]) and most[0][1] > tied
    return [Answer(question=WITH, answer=f"{most[0][0]}, in most ops" if sure else "It depends on the op", evidence=evidence)]


# ---- sizes ------------------------------------------------------------------------------------------------------------


def _growth(context: Context) -> list[Answer]:
    """The usual recipe's lanes along batch and image size; nothing where every case has one size."""
    usual = usual_sizes(context.run.measurements)
    lanes: dict[tuple[str, str, str, str], list[Measurement]] = {}
    for one in context.run.measurements:
        if rate(one) is not None and one.draws is not None:
            lanes.setdefault((one.case.suite, one.case.device, one.case.dtype, lane_of(one)), []).append(one)
    order = sorted(lanes, key=lambda key: (key[0] != "recipes", list(LANES).index(key[3])))
    found: dict[str, tuple[str, str, bool, Mapping[str, Line]]] = {}
    for key in order:
        for along in UNITS:
            lines: Lines = lines_along(lanes[key], usual, along)
            subject = usual_recipe(lines)
            if subject is not None:
                found.setdefault(along, (subject, LANES[key[3]], key[3] != "mixed", _defined(context, subject, lines[subject])))
    if not found:
        return []
    answers, text, before = list[str](), list[Inline](), ""
    for along, (subject, lane, alike, by_backend) in found.items():
        leading = max(by_backend, key=lambda name: rate(by_backend[name][-1][1]) or 0)
        answers.append(("" if leading == before else f"{leading}: ") + _changed(by_backend[leading], along))
        before = leading
        text += [" " if text else "", Code(subject), f", {lane}, images/s from {_range(by_backend[leading], along)}: "]
        known = alike and context.differences is not None
        text.append(_lines(by_backend, leading if known else None) + ".")
    return [Answer(question=GROWTH, answer="; ".join(answers), evidence=text)]


def _defined(context: Context, subject: str, by_backend: Mapping[str, Line]) -> Mapping[str, Line]:
    """The backends that do the subject as it is defined; all, where none does."""
    differs = context.differences or {}
    return {name: line for name, line in by_backend.items() if (subject, name) not in differs} or by_backend


def _changed(line: Line, along: str) -> str:
    """Such as "4.2 times the images/s at batch 4,096 as at 32"; pixels where the images grow."""
    (small, first), (large, last) = line[0], line[-1]
    times = (rate(last) or 1) / (rate(first) or 1)
    sure = apart(*sorted((passes(last), passes(first)), key=lambda values: -max(values, default=0)))
    doubt = "" if sure else " (their passes overlap)" if sure is False else " (one pass)"
    ends = f"at {UNITS[along].format(f'{large:,}')} as at {small:,}"
    what = "images/s"
    if along == "side":  # a larger image is more work: what an image costs would fall anyhow
        times *= last.case.image_size * last.case.width / (first.case.image_size * first.case.width)
        what = "pixels/s"
    return f"{rounded(times)} times the {what} {ends}{doubt}"


def _range(line: Line, along: str) -> str:
    return UNITS[along].format(f"{line[0][0]:,} to {line[-1][0]:,}")


def _lines(by_backend: Mapping[str, Line], leading: str | None) -> str:
    """What each backend reaches at both ends, and how far the leading one is ahead there; None where that is not to be told."""
    ends = {name: (rate(line[0][1]) or 0.0, rate(line[-1][1]) or 0.0) for name, line in by_backend.items()}
    told = []
    for name in sorted(ends, key=lambda name: -ends[name][1])[:MOST_BACKENDS]:
        words = f"{name} {rounded(ends[name][0])} to {rounded(ends[name][1])}"
        line, first = by_backend[name], by_backend[leading or name]
        same = all(line[at][0] == first[at][0] for at in (0, -1))
        if leading not in (None, name) and same and all(ends[name]):
            ahead = [rounded(ends[leading or name][at] / ends[name][at]) for at in (0, 1)]
            words += f" ({leading} is {ahead[0]} and {ahead[1]} times as fast)"
        told.append(words)
    return ", ".join(told)
