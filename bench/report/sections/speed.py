"""Images per second by lane, what a call costs beside them, and how speed changes with batch and image size."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from bench.records import Case, Run
from bench.report.blocks import BREAK, Answer, Block, Code, Heading, Paragraph, Quiet, Section, Strong, Text
from bench.report.facts.arms import usual_recipe
from bench.report.facts.lanes import LANES, Growth, LaneTable, Series, growth, lane_tables, passes, rate, slower, usual_cases
from bench.report.facts.placement import contest, fastest_alone
from bench.report.figures import Figure, Line, Mark, Panel, Row, backend_look, bars, lines
from bench.report.sections.state import unanswered
from bench.report.sections.training import WITH, alone
from bench.report.tables import Column, build_table, words_column
from bench.report.words import counted, listed, percent, rounded, spread

TITLES = {"recipes": "Recipes: images per second", "ops": "Single ops: images per second"}
GROWTH = "How does speed change with size?"
GROWTH_TITLE = "Speed by batch and image size"
COST_TITLE = "What a call costs"
NOTE = "Images per second: medians of the rounds, ± half the range between them; augmentation without training."
COST_METHOD = (
    "A recipe at least reads its batch and writes its result. Share of a copy: the time in which the device copies as many "
    "bytes within its own memory, over the mean time of a call, in the first round; a batch that fits into the caches can "
    "exceed 100 %. Device busy: the call by the device's own clock; the rest is the host's work. Launches and waits are a "
    "whole call's kernels and the host's waits for the device. Compiling comes before the measured calls, once a process and "
    "shape. "
)
MOST_BACKENDS = 5


def suite_section(run: Run, suite: str) -> Section | None:
    """Return images per second of a suite at each subject's usual size: a figure and a table for each lane."""
    planned = [case for case in run.cases("speed") if case.first.suite == suite]
    if not planned:
        return None
    tables = lane_tables(run, suite)
    blocks: list[Block] = []
    if not tables:
        blocks.append(Paragraph(f"No {suite} could be measured; the reasons stand at the end of this report."))
    elif tables[0].differences is None:
        blocks.append(
            Paragraph("Neither audit nor plan says which cells differ from the op's definition, so there are no ratios.")
        )
    for table in tables:
        blocks += [Heading(f"{suite.capitalize()} on {table.device}: {LANES[table.lane]}"), Paragraph(_legend(table))]
        blocks += [_rates_figure(table)] if any(map(table.ranked, table.subjects)) else []
        blocks.append(_rates_table(run, table))
    is_first = suite == "recipes" or not any(case.first.suite == "recipes" for case in run.cases("speed"))
    answers = _fastest(run) if is_first and contest(run) is None else []
    return Section(title=TITLES[suite], blocks=blocks, answers=answers, note=NOTE if is_first else "")


def _legend(table: LaneTable) -> Text:
    counts = sorted({len(passes(case)) for case in table.cells.values() if rate(case)})
    rounds = (
        ""
        if not counts
        else f" of {counts[0]} to {counts[-1]} rounds"
        if len(counts) > 1
        else f" of {counted(counts[0], 'round')}"
    )
    text: list[str] = [f"images/s, median{rounds}, ± half the range"]
    if table.baseline:
        text += [
            "; x: ratio to ",
            Code(table.baseline),
            " (worst to best pair of rounds), only if both do the op as it is defined",
        ]
    elif table.lane == "mixed":
        text.append("; mixtures differ between backends, so there are no ratios")
    sizes = {_size(case) for case in table.cells.values()}
    text.append(f". Batch: {sizes.pop()} pixels" if len(sizes) == 1 else ". Batch: second column")
    winners = any(map(table.winner, table.subjects))
    return [*text, f", {table.dtype}. ·: other lane.{' Bold: its slowest round beats all others.' if winners else ''}"]


def _size(case: Case) -> str:
    return f"{case.first.batch_size} of {case.first.pixels}"


def _rates_figure(table: LaneTable) -> Figure:
    subjects = [subject for subject in table.subjects if table.ranked(subject)]
    fastest = [f"{s}: {table.ranked(s)[0].first.backend} {rounded(rate(table.ranked(s)[0]))}" for s in subjects]
    alternative = (
        f"Images per second on {table.device} by backend, {LANES[table.lane]}: log scale. Fastest: {listed(fastest, 8)}. All values "
        "stand in the table below."
    )
    rows = [
        Row(
            label=subject,
            marks=[
                Mark(
                    look=backend_look(case.first.backend), value=rate(case) or 0, low=min(passes(case)), high=max(passes(case))
                )
                for case in table.ranked(subject)
            ],
        )
        for subject in subjects
    ]
    names = dict.fromkeys(case.first.backend for subject in subjects for case in table.ranked(subject))
    legend = {name: backend_look(name) for name in table.backends if name in names}
    name = f"{table.suite}-{table.device}-{table.dtype}-{table.lane}"
    return bars(name, alternative, rows, legend, "images/s (log scale)", log=True)


def _rates_table(run: Run, table: LaneTable) -> Block:
    sizes = {subject: _size(case) for (subject, _), case in table.cells.items()}
    verdicts = {(cell.subject, cell.backend): cell.verdict for cell in run.audit.verdicts} if run.audit else {}
    with_size = len(set(sizes.values())) > 1
    columns = [
        words_column(table.suite.removesuffix("s"), lambda subject: [Code(subject)]),
        *([Column("batch", lambda subject: sizes[subject])] if with_size else []),
        *(
            Column(
                [Code(backend), " (baseline)"] if backend == table.baseline else [Code(backend)],
                partial(_rate_cell, table, verdicts, backend),
            )
            for backend in table.backends
        ),
    ]
    return build_table(columns, table.subjects)


def _rate_cell(table: LaneTable, verdicts: Mapping[tuple[str, str], str], backend: str, subject: str) -> Text:
    verdict = verdicts.get((subject, backend))
    case = table.cells.get((subject, backend))
    if case is None:
        absent = table.absent.get((subject, backend), "not planned")
        return "·" if absent == "other lane" else absent
    speed = rate(case)
    if not speed:
        return case.status.replace("_", " ")
    number = rounded(speed)
    text: list[str] = [Strong(number) if table.winner(subject) == backend else number]
    text += [Quiet(" " + ", ".join(filter(None, (spread(passes(case)), verdict))))] if verdict or len(passes(case)) > 1 else []
    ratio = table.ratio(subject, backend)
    if ratio is not None:
        text += [BREAK, f"{rounded(ratio.value)}x"]
        text += [Quiet(f" ({rounded(ratio.low)} to {rounded(ratio.high)})")] if ratio.low and ratio.high else []
    return text


# ---- which backend is fastest ---------------------------------------------------------------------------------------------


def _fastest(run: Run) -> list[Answer]:
    """Return which backend augments fastest, for runs whose training does not answer it."""
    planned = [case for case in run.cases("speed") if case.lane is not None]
    recipes, ops = lane_tables(run, "recipes"), lane_tables(run, "ops")
    ranked = fastest_alone(recipes)
    if ranked:
        return [_fastest_recipe(ranked, recipes)]
    races = [row for table in ops for subject in table.subjects if len(row := table.comparable(subject)) > 1]
    if races:
        return [_fastest_ops(races)]
    measured = sum(1 for case in planned if rate(case))
    if measured:
        evidence = f"{counted(measured, 'case')} measured; in none a backend does a recipe or op as it is defined."
        return [unanswered(WITH, evidence)]
    reasons = listed(dict.fromkeys(case.reason for case in planned if case.reason), 2)
    evidence = f"none of {counted(len(planned), 'case')} was measured{f': {reasons}' if reasons else ''}."
    return [Answer(question=WITH, answer="Not known: no case succeeded", evidence=evidence)] if planned else []


def _fastest_recipe(ranked: Sequence[Case], tables: Sequence[LaneTable]) -> Answer:
    best, *others = ranked
    equal = [case for case in others if slower(passes(best), passes(case)) is not True]
    names = [case.first.backend for case in (best, *equal)]
    lane = LANES[best.lane] if best.lane else ""
    evidence: list[str] = [
        Code(best.first.subject),
        f", {lane}, batch {best.first.batch_size} of {best.first.pixels} pixels on ",
    ]
    evidence += [f"{best.first.device}. ", *alone(ranked)]
    for case in others[1:MOST_BACKENDS]:
        evidence += [" ", Code(case.first.backend), f" reaches {rounded(rate(case))}."]
    leads = []
    for table in tables:
        for subject in table.subjects:
            row = table.comparable(subject)
            own = next((case for case in row if case.first.backend == best.first.backend), None)
            rival = next((case for case in row if case is not own), None)
            if own and rival and subject != best.first.subject and table.device == best.first.device:
                leads.append(f"{subject} {rounded((rate(own) or 0) / (rate(rival) or 1))} times {rival.first.backend}")
    if leads:
        evidence.append(f" In other recipes {best.first.backend} against the fastest rival: {'; '.join(leads[:4])}.")
    answer = names[0] if not equal else f"Undecided: {' or '.join(names)}"
    return Answer(question=WITH, answer=answer, evidence=evidence)


def _fastest_ops(races: Sequence[Sequence[Case]]) -> Answer:
    """Return in how many ops each backend is ahead of all others."""
    wins = Counter(row[0].first.backend for row in races if slower(passes(row[0]), passes(row[1])))
    tied = len(races) - wins.total()
    counts = listed(f"{name} in {count}" for name, count in wins.most_common()) or "none"
    evidence = f"Fastest beyond the spread between rounds in {counted(len(races), 'op and lane', 'ops and lanes')}: {counts}; "
    leaders = wins.most_common(2)
    is_sure = leaders and (len(leaders) == 1 or leaders[0][1] > leaders[1][1]) and leaders[0][1] > tied
    answer = f"{leaders[0][0]}, in most ops" if is_sure else "It depends on the op"
    return Answer(question=WITH, answer=answer, evidence=f"{evidence}undecided in {tied}.")


# ---- what a call costs ----------------------------------------------------------------------------------------------------


def cost_section(run: Run) -> Section | None:
    """Return time, bytes, launches, waits and compiling of a recipe's call, by backend."""
    cases = [case for case in usual_cases(run.cases("speed")) if case.first.suite == "recipes" and rate(case)]
    if not any(case.known(name) is not None for case in cases for name in ("roofline_share", "device_s_median", "compile_s")):
        return None
    columns = [
        words_column("recipe", lambda case: [Code(case.first.subject)]),
        words_column("backend", lambda case: [Code(case.first.backend)]),
        words_column("device", lambda case: case.first.device),
        words_column("implementation", lambda case: case.implementation or ""),
        Column("ms a call", lambda case: _thousandth(case.samples_s)),
        Column("MB in and out", lambda case: _number(case.known("bytes_moved"), 1e-6)),
        Column("share of a copy", lambda case: _share(case.known("roofline_share"))),
        Column("device busy", _busy),
        Column("launches", lambda case: _number(case.known("launches"))),
        Column("waits", lambda case: _number(case.known("syncs"))),
        Column("peak memory, MiB", lambda case: _number(case.known("peak_bytes"), 2.0**-20)),
        Column("compiling, s", lambda case: _number(case.median("compile_s"))),
        Column("graph breaks", lambda case: _number(case.known("graph_breaks"))),
        Column("recompiled", lambda case: _number(case.known("recompiles"))),
        Column("calls", lambda case: f"{len(case.samples_s):,}"),
    ]
    speeds = run.environment.copy_bytes_per_s if run.environment else {}
    copies = ", ".join(f"{rounded(speed / 1e9)} GB/s on {device}" for device, speed in speeds.items() if speed)
    method = COST_METHOD + (f"A copy of 256 MiB, read and written: {copies}." if copies else "")
    return Section(title=COST_TITLE, blocks=[Paragraph(method), build_table(columns, cases)])


def _number(content: float | None, factor: float = 1.0) -> str:
    return "" if content is None else rounded(content * factor)


def _share(share: float | None) -> str:
    return "" if share is None else percent(share)


def _thousandth(samples: Sequence[float]) -> str:
    return rounded(1e3 * statistics.median(samples)) if samples else ""


def _busy(case: Case) -> str:
    wall, device = case.samples_s, case.median("device_s_median")
    return percent(min(device / statistics.median(wall), 1), 0) if wall and device else ""


# ---- growth ---------------------------------------------------------------------------------------------------------------

AXES = {"batch": "batch size, images", "side": "side of the image, pixels"}
UNITS = {"batch": "batch {}", "side": "{} pixels a side"}


def growth_section(run: Run) -> Section | None:
    """Return a figure for each suite, device, lane and size that was varied."""
    grown = growth(run)
    if not grown:
        sizes: dict[tuple[str, ...], set[tuple[int, int]]] = {}
        for case in run.cases("speed"):
            key = (case.first.suite, case.first.subject, case.first.device, case.first.dtype)
            sizes.setdefault(key, set()).add((case.first.batch_size, case.first.image_size))
        words = "Not measured: several sizes were planned, and no case succeeded at two of them."
        return Section(title=GROWTH_TITLE, blocks=[Paragraph(words)]) if any(len(s) > 1 for s in sizes.values()) else None
    figures: list[Block] = []
    for ((suite, device, dtype, lane), along), lines_by_subject in grown.items():
        what = f"{suite} on {device} by {'batch' if along == 'batch' else 'image'} size, {LANES[lane]}"
        alternative = f"Images per second of {what}: {listed(lines_by_subject)}; both axes logarithmic, a line a backend."
        name = "-".join(("growth", suite, device, dtype, lane, along))
        figures += [Heading(what.capitalize()), _growth_figure(name, alternative, lines_by_subject, AXES[along])]
    return Section(title=GROWTH_TITLE, blocks=figures, answers=[_growth_answer(run, grown)])


def _growth_figure(name: str, alternative: str, subjects: Growth, axis: str) -> Figure:
    panels = [
        Panel(
            title=subject,
            lines=[
                Line(
                    label=backend,
                    look=backend_look(backend),
                    points=[(size, rate(case) or 0) for size, case in series],
                    whiskers=[(size, min(passes(case)), max(passes(case))) for size, case in series],
                )
                for backend, series in backends.items()
            ],
        )
        for subject, backends in subjects.items()
    ]
    ticks = sorted({size for backends in subjects.values() for series in backends.values() for size, _ in series})
    return lines(name, alternative, panels, axis, "images/s (log scale)", log=True, across=4, ticks=ticks)


def _growth_answer(run: Run, grown: Mapping[tuple[tuple[str, str, str, str], str], Growth]) -> Answer:
    """Return how the usual recipe's speed changes along batch and image size."""
    differences = next((t.differences for s in TITLES for t in lane_tables(run, s)), None) or {}
    order = sorted(grown, key=lambda key: (key[0][0] != "recipes", list(LANES).index(key[0][3])))
    answers, evidence, previous = list[str](), list[str](), ""
    for along in UNITS:
        key = next((key for key in order if key[1] == along), None)
        subject = usual_recipe(grown[key]) if key else None
        if key is None or subject is None:
            continue
        every = grown[key][subject]
        defined = {name: series for name, series in every.items() if (subject, name) not in differences} or every
        leader = max(defined, key=lambda name: rate(defined[name][-1][1]) or 0)
        answers.append(("" if leader == previous else f"{leader}: ") + _change(defined[leader], along))
        previous = leader
        sizes = UNITS[along].format(f"{defined[leader][0][0]:,} to {defined[leader][-1][0]:,}")
        evidence += [" " if evidence else "", Code(subject), f", {LANES[key[0][3]]}, images/s from {sizes}: "]
        evidence.append(_ends(defined, leader if key[0][3] != "mixed" else None) + ".")
    return Answer(question=GROWTH, answer="; ".join(answers), evidence=evidence)


def _change(series: Series, along: str) -> str:
    """Return "4.2 times the images/s at batch 4,096 as at 32"; pixels/s if the images grow, as a larger image is more work."""
    (small, first), (large, last) = series[0], series[-1]
    times = (rate(last) or 1) / (rate(first) or 1)
    is_sure = slower(*sorted((passes(last), passes(first)), key=lambda values: -max(values, default=0)))
    doubt = "" if is_sure else " (their rounds overlap)" if is_sure is False else " (one round)"
    unit = "images/s"
    if along == "side":
        unit = "pixels/s"
        times *= last.first.image_size * last.first.width / (first.first.image_size * first.first.width)
    return f"{rounded(times)} times the {unit} at {UNITS[along].format(f'{large:,}')} as at {small:,}{doubt}"


def _ends(backends: Mapping[str, Series], leader: str | None) -> str:
    """Return what each backend reaches at both ends, and how far the leader is ahead there."""
    ends = {name: (rate(series[0][1]) or 0.0, rate(series[-1][1]) or 0.0) for name, series in backends.items()}
    texts = []
    for name in sorted(ends, key=lambda name: -ends[name][1])[:MOST_BACKENDS]:
        text = f"{name} {rounded(ends[name][0])} to {rounded(ends[name][1])}"
        if leader is not None and name != leader:
            is_alike = all(backends[name][at][0] == backends[leader][at][0] for at in (0, -1))
            ahead = [rounded(ends[leader][at] / ends[name][at]) for at in (0, 1)]
            text += f" ({leader} is {ahead[0]} and {ahead[1]} times as fast)" if is_alike else ""
        texts.append(text)
    return ", ".join(texts)
