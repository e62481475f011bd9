"""Images per second by lane, what a call costs beside them, and how speed changes with batch and image size."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from bench.records import Case, Run, format_number, join, percent, plural
from bench.report.blocks import BREAK, Answer, Block, Code, Heading, Paragraph, Quiet, Section, Strong, Text
from bench.report.facts.cases import LANES, find_ties, firsts, is_slower, usual_recipe
from bench.report.facts.lanes import (
    CELL,
    Axis,
    Growth,
    LaneTable,
    fastest_alone,
    growth,
    lane_tables,
    named_differences,
    usual_cases,
)  # fmt: skip
from bench.report.facts.placement import contest
from bench.report.figures import Figure, Line, Look, Mark, Row, backend_look, bars, lines
from bench.report.sections.state import no_answer, require_quiet
from bench.report.sections.training import WITH, alone
from bench.report.tables import Column, build_table, number_column, words_column
from bench.report.words import format_rate, name_or_undecided, span, spread
from bench.statistics import SPREAD

TITLES = {"recipes": "Recipes: images per second", "ops": "Single ops: images per second"}
VERDICTS = {"exact": "=", "close": "≈", "different": "≠"}
GROWTH, GROWTH_TITLE = "How does speed change with size?", "Speed by batch and image size"
NOTE = f"Images per second: medians of the rounds, {SPREAD}, n rounds; augmentation without training."
METHOD = f"""images/s: median of n rounds, {SPREAD}; x: ratio to the baseline of the table (from the ends of both intervals), if
both do the op as it is defined. Audit: = exact, ≈ close, ≠ different. ·: another lane (lane: how often parameters are drawn).
Bold: its interval lies above those of the others."""
COST_METHOD = """Share of a copy: the time in which the device copies the bytes of batch and result within its own memory, over
the mean time of a call (first round; above 100 % if the batch fits into caches). Device busy: by the device's own clock; the
rest is the host's work. Launches and waits: kernels, and waits of the host, in a call. Host: until a call returns while a
GPU still works; without a GPU: of a CUDA call of fused, but for the driver's launch. Compiling comes before measured calls."""


def suite_section(run: Run, suite: str) -> Section | None:
    """Return images per second of a suite at each subject's usual size: a figure and a table for each lane."""
    cases = run.cases("speed")
    if not any(case.suite == suite for case in cases):
        return None
    tables = lane_tables(run, suite)
    no_ratios = " Neither audit nor plan says which cells differ from the definition, so there are no ratios."
    is_first = suite == "recipes" or not any(case.suite == "recipes" for case in cases)
    method = METHOD if is_first else "Cells are written as in the tables of recipes."
    blocks: list[Block] = [Paragraph(method + (no_ratios if tables and tables[0].differences is None else ""))]
    for table in tables:
        blocks.append(Heading(f"{suite.capitalize()} on {table.device}, {table.dtype}: {LANES[table.lane]}"))
        blocks += [*([_rates_figure(table)] if any(map(table.ranked, table.subjects)) else []), _rates_table(run, table)]
    answers = _fastest(run) if is_first and contest(run) is None else []
    return Section(title=TITLES[suite], blocks=blocks, answers=answers, note=NOTE)


def _size(case: Case) -> str:
    return f"{case.batch_size} of {case.pixels}"


def _rates_figure(table: LaneTable) -> Figure:
    ranked = {subject: row for subject in table.subjects if (row := table.ranked(subject))}
    fastest = [
        f"{subject}: {row[0].backend} {format_number(row[0].rate)}"
        for subject in table.subjects
        if (row := table.comparable(subject))
    ]
    words = join(fastest, 8) or "not compared"
    alternative = f"Images per second on {table.device} by backend, {LANES[table.lane]}: log scale. Fastest: {words}."

    def look(case: Case) -> Look:
        return backend_look(case.backend)._replace(is_hollow=CELL(case) in (table.differences or {}))

    rows = [Row(subject, [Mark.of_rounds(look(case), case.rates) for case in row]) for subject, row in ranked.items()]
    measured = [case for row in ranked.values() for case in row]
    legend = {name: backend_look(name) for name in table.backends if name in {case.backend for case in measured}}
    if any(look(case).is_hollow for case in measured):
        legend["another augmentation"] = Look("quiet", is_hollow=True)
    name = f"{table.suite}-{table.device}-{table.dtype}-{table.lane}"
    return bars(name, alternative, rows, legend, "images/s (log scale)", log=True)


def _rates_table(run: Run, table: LaneTable) -> Block:
    sizes = {subject: _size(case) for (subject, _), case in table.cells.items()}
    verdicts = {(c.subject, c.backend): VERDICTS.get(c.verdict, c.verdict) for c in run.audit.verdicts} if run.audit else {}
    kind, is_alike = table.suite.removesuffix("s"), len(set(sizes.values())) == 1
    title = [kind, BREAK, f"batch {next(iter(sizes.values()))}"] if is_alike else kind
    columns = [words_column(title, lambda subject: [Code(subject)])]
    columns += [] if is_alike else [Column("batch, pixels", lambda subject: sizes[subject])]
    wins = Counter(table.winner(subject) for subject in table.subjects)
    for backend in sorted(table.backends, key=lambda name: -wins[name]):  # what is cut off on a narrow screen wins least
        header = [Code(backend), *([" (baseline)"] if backend == table.baseline else [])]
        columns.append(Column(header, partial(_rate_cell, table, verdicts, backend)))
    return build_table(columns, table.subjects)


def _rate_cell(table: LaneTable, verdicts: Mapping[tuple[str, str], str], backend: str, subject: str) -> Text:
    case, verdict, ratio = table.cells.get((subject, backend)), verdicts.get((subject, backend)), table.ratio(subject, backend)
    if case is None or not case.rate:
        return table.absent.get((subject, backend), "not planned") if case is None else case.status.replace("_", " ")
    number = format_number(case.rate)
    text: list[str] = [Strong(number) if table.winner(subject) == backend else number]
    mark = "disturbed" if case.is_disturbed else ""
    beside = " ".join(filter(None, (spread(case.rates), f"n {len(case.rates)}", verdict, mark)))
    text += [Quiet(f" {beside}")] if beside else []
    if ratio:
        text += [BREAK, f"{format_number(ratio[0])}x", Quiet(span(ratio[1:]))]
    return text


# ---- which backend is fastest ---------------------------------------------------------------------------------------------


def _fastest(run: Run) -> list[Answer]:
    """Return which backend augments fastest, for runs whose training does not answer it."""
    planned = [case for case in run.cases("speed") if case.lane is not None]
    ranked = fastest_alone(lane_tables(run, "recipes"))
    if ranked:
        first, names = ranked[0], [case.backend for case in find_ties(ranked)]
        where = f", {LANES[first.lane or 'mixed']}, batch {_size(first)} pixels on {first.device}. "
        answer = Answer(WITH, name_or_undecided(names), [Code(first.subject), where, *alone(ranked)])
        return [require_quiet(answer, ranked[:2])]
    rows = [table.comparable(subject) for table in lane_tables(run, "ops") for subject in table.subjects]
    races = [row for row in rows if len(row) > 1 and not any(case.is_disturbed for case in row)]
    if races:
        return [_fastest_ops(races)]
    reasons = join(dict.fromkeys(case.reason for case in planned if case.reason), 2)
    measured = sum(1 for case in planned if case.rate)
    evidence = f"{measured} of {plural(len(planned), 'case')} measured, none comparable{f': {reasons}' if reasons else ''}."
    return [require_quiet(no_answer(WITH, evidence), planned)] if planned else []


def _fastest_ops(races: Sequence[Sequence[Case]]) -> Answer:
    """Return in how many ops each backend is ahead of all others."""
    wins = Counter(row[0].backend for row in races if len(find_ties(row[:2])) == 1)
    undecided = len(races) - wins.total()
    counts = join(f"{name} in {n}" for name, n in wins.most_common()) or "none"
    evidence = f"Fastest beyond the spread between rounds in {plural(len(races), 'op and lane', 'ops and lanes')}: {counts}; "
    (leader, count), (_, second) = [*wins.most_common(2), ("", 0), ("", 0)][:2]
    answer = f"{leader}, in most ops" if count > max(second, undecided) else "It depends on the op"
    return Answer(WITH, answer, f"{evidence}undecided in {undecided}.")


# ---- what a call costs ----------------------------------------------------------------------------------------------------


def cost_section(run: Run) -> Section | None:
    """Return time, bytes, launches, waits and compiling of a recipe's call, by backend."""
    cases = [case for case in usual_cases(run.cases("speed")) if case.suite == "recipes" and case.rate]
    if not any(case.values(name) for case in cases for name in ("roofline_share", "device_s_median", "compile_s")):
        return None
    columns = [
        words_column("recipe", lambda case: [Code(case.subject)]),
        words_column("backend", lambda case: [Code(case.backend)]),
        words_column("device", lambda case: case.device),
        words_column("implementation", lambda case: case.implementation or ""),
        Column("ms a call", lambda case: format_number(1e3 * statistics.median(case.samples_s)) if case.samples_s else ""),
        number_column("MB in and out", "bytes_moved", 1e-6),
        number_column("share of a copy, %", "roofline_share", 100.0),
        Column("device busy", _busy),
        number_column("launches", "launches"),
        number_column("waits", "syncs"),
        number_column("host, µs", "host_s", 1e6),
        number_column("host without a GPU, µs", "absent_gpu_host_s", 1e6),
        number_column("peak memory, MiB", "peak_bytes", 2.0**-20),
        number_column("compiling, s", "compile_s"),
        number_column("graph breaks", "graph_breaks"),
        number_column("recompiled", "recompiles"),
        Column("calls", lambda case: f"{len(case.samples_s):,}"),
    ]
    copied = ", ".join(
        f"{format_number(speed / 1e9)} GB/s on {device}{f' of {place}' if place else ''}"
        for place, environment in run.environments.items()
        for device, speed in environment.copy_bytes_per_s.items()
        if speed
    )
    method = COST_METHOD + (f" A copy of 256 MiB, read and written: {copied}." if copied else "")
    return Section(title="What a call costs", blocks=[Paragraph(method), build_table(columns, cases)])


def _busy(case: Case) -> str:
    wall, device = case.samples_s, case.median("device_s_median")
    return percent(min(device / statistics.median(wall), 1), 0) if wall and device else ""


# ---- growth ---------------------------------------------------------------------------------------------------------------

AXES = {"batch_size": "batch size, images", "image_size": "side of the image, pixels"}
UNITS = {"batch_size": "batch {:,}", "image_size": "{:,} pixels a side"}


def growth_section(run: Run) -> Section | None:
    """Return a figure for each suite, device, lane and size that was varied."""
    grown = growth(run)
    blocks: list[Block] = []
    for axis, subjects in grown.items():
        title = f"{axis.suite} on {axis.device} by {axis.along.replace('_', ' ')}, {LANES[axis.lane]}"
        alternative = f"Images per second of {title}: {join(subjects)}; both axes logarithmic, a line a backend."
        blocks += [Heading(title.capitalize()), _growth_figure(f"growth-{'-'.join(axis)}", alternative, subjects, axis.along)]
    return Section(title=GROWTH_TITLE, blocks=blocks, answers=[_growth_answer(run, grown)], note=NOTE) if grown else None


def _growth_figure(name: str, alternative: str, subjects: Growth, along: str) -> Figure:
    panels: dict[str, list[Line]] = {}
    for subject, backends in subjects.items():
        for backend, cases in backends.items():
            rounds = [(getattr(case, along), case.rates) for case in cases]
            panels.setdefault(subject, []).append(Line.of_rounds(backend, backend_look(backend), rounds))
    ticks = sorted({x for group in panels.values() for line in group for x, _ in line.points})
    return lines(name, alternative, panels, AXES[along], "images/s (log scale)", log="xy", ticks=ticks)


def _growth_answer(run: Run, grown: Mapping[Axis, Growth]) -> Answer:
    """Return how the usual recipe's speed changes along batch and image size, on the backend that is fastest at the end."""
    differences, answers, evidence = named_differences(run) or {}, list[str](), list[str]()
    ends, rates = list[Case](), list[str]()
    order = sorted(grown, key=lambda axis: (axis.suite != "recipes", list(LANES).index(axis.lane)))
    for axis in firsts(order, "along"):
        subject = usual_recipe(grown[axis]) or ""
        series = grown[axis][subject].values()
        defined = [cases for cases in series if CELL(cases[0]) not in differences] or series
        fastest = max(defined, key=lambda cases: cases[-1].rate)
        answers.append(f"{fastest[0].backend}: {_change(fastest[0], fastest[-1], axis.along)}")
        ends += [fastest[0], fastest[-1]]
        rates.append(f"{format_rate(fastest[0])} to {format_rate(fastest[-1])}")
        evidence = [Code(subject), f", {LANES[axis.lane]}, from {'; '.join(rates)}. The fastest at the last size is named."]
    return require_quiet(Answer(GROWTH, "; ".join(answers), evidence), ends)


def _change(first: Case, last: Case, along: str) -> str:
    """Return "4.2 times the images/s at batch 4,096 as at 32"; pixels/s if the images grow, as a larger image is more work."""
    times, unit = last.rate / first.rate, "images/s"
    slower, faster = sorted((first, last), key=lambda case: case.rate)
    doubt = {True: "", False: " (their rounds overlap)", None: " (one round)"}[is_slower(faster.rates, slower.rates)]
    if along == "image_size":
        times, unit = times * last.image_size * last.width / (first.image_size * first.width), "pixels/s"
    small, large = getattr(first, along), UNITS[along].format(getattr(last, along))
    return f"{format_number(times)} times the {unit} at {large} as at {small:,}{doubt}"
