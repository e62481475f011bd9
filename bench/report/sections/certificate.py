"""Certificate: what a comparison of the machine with itself called."""

import math
from collections.abc import Mapping
from functools import partial

from bench.records import Calibration, Planted, Run, percent
from bench.report.blocks import Answer, Block, Paragraph, Section
from bench.report.tables import Column, build_table, words_column
from bench.report.words import capitalise
from bench.statistics import share_interval

TELLS, CERTIFIES = "Which differences can be told here?", "What a comparison can tell on this machine"
METHODS = {"turns": "measured in turns", "apart": "measured at different times"}
INTRODUCTION = """Pairs of fresh processes measured the same cases. Runs made of them were compared as two runs of a user are:
measured in turns (augmark turns), and at different times (augmark compare). Added work: more images in each batch, which count
for nothing. Intervals: binomial, 95 % (Clopper and Pearson)."""
REACH = """Slowdown from which on 95 % of comparisons of a case are called, by the standard errors of equal runs:"""


def certificate_section(run: Run) -> Section | None:
    """Return what comparisons of the machine with itself called; None without a certificate."""
    records: dict[str, Calibration] = {record.method: record for record in run.records if isinstance(record, Calibration)}
    if not records:
        return None
    rows = [
        (METHODS[method], row.added, row.called, row.comparisons)
        for method, record in records.items()
        for row in (Planted(added=0.0, called=record.false_calls, comparisons=record.comparisons or 0), *record.planted)
    ]
    columns = [
        words_column("runs", lambda row: row[0]),
        words_column("work added", lambda row: percent(row[1], 0) if row[1] else "none: false calls"),
        Column("called", lambda row: f"{row[2]} of {row[3]}"),
        Column("share", lambda row: percent(row[2] / row[3]) if row[3] else ""),
        Column("95 % interval", lambda row: " to ".join(percent(end) for end in share_interval(*row[2:]))),
    ]
    cases = dict.fromkeys(name for record in records.values() for name in record.reaches)
    words = _describe(next(iter(records.values())))
    blocks: list[Block] = [Paragraph(f"{INTRODUCTION} {words}"), build_table(columns, rows)]
    blocks += [Paragraph(REACH), build_table(_reach_columns(records), cases)] if cases else []
    return Section(title=CERTIFIES, blocks=blocks, answers=[_answer(records)])


def _describe(record: Calibration) -> str:
    """Return what was measured, and how much it varies."""
    words = (
        f"{record.processes} processes on {record.device}, {record.rounds} rounds of a case in {record.seconds:.0f} s each; "
    )
    words += f"at level {record.level:g} for the cases of a comparison together. Standard deviation of rounds "
    words += f"{percent(record.within_sd)} (the case in the middle), of processes at different times "
    return f"{words}{percent(record.between_sd)} beyond that (the case that varies most)."


def _reach_columns(records: Mapping[str, Calibration]) -> list[Column]:
    def write(record: Calibration, case: str) -> str:
        return percent(record.reaches.get(case))

    return [
        words_column("case", str),
        *(Column(METHODS[method], partial(write, record)) for method, record in records.items()),
    ]


def _range(record: Calibration) -> str:
    steadiest = min(record.reaches.values(), default=math.inf)
    all_cases = percent(record.called_from)
    return (
        f"{percent(steadiest)} (the steadiest case) or {all_cases} (all)"
        if steadiest < (record.called_from or 0)
        else all_cases
    )


def _answer(records: Mapping[str, Calibration]) -> Answer:
    limits = [f"{METHODS[name]}, from {_range(record)} on" for name, record in records.items() if record.called_from]
    evidence = ["Slowdowns of these sizes and larger are called in at least 95 % of comparisons"] if limits else []
    evidence += [f"{capitalise(METHODS[name])}: {record.reason}" for name, record in records.items() if record.reason]
    for name, record in records.items():
        largest = record.planted[-1] if record.planted else None
        if record.called_from and largest and record.called_from > largest.added:
            words = f"{capitalise(METHODS[name])} this is extrapolated from the spread: of slowdowns of "
            words += f"{percent(largest.added, 0)} {largest.called} of {largest.comparisons} were called"
            evidence.append(words)
    return Answer(TELLS, capitalise("; ".join(limits)) or "Not measurable here", f"{'. '.join(evidence)}.")
