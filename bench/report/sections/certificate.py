"""Certificate: what a comparison of the machine with itself called."""

import math
from collections.abc import Mapping
from functools import partial

from bench.records import Calibration, Planted, Run, group_by, percent
from bench.report.blocks import Answer, Block, Paragraph, Section
from bench.report.tables import Column, build_table, words_column
from bench.report.words import capitalise
from bench.statistics import share_interval

TELLS, CERTIFIES = "Which differences can be told here?", "What a comparison can tell on this machine"
MEASURED = {"turns": "measured in turns", "apart": "measured at different times"}
INTRODUCTION = """Pairs of fresh processes measured the same cases. Runs made of them were compared as two runs of a user are:
measured in turns (augmark turns), and at different times (augmark compare). Added work: more images in each batch, which count
for nothing. Intervals: binomial, 95 % (Clopper and Pearson)."""
REACH = """Slowdown from which on 95 % of comparisons of a case are called, by the standard errors of equal runs:"""


def certificate_section(run: Run) -> Section | None:
    """Return what comparisons of the machine with itself called; None without a certificate."""
    certificates = [record for record in run.records if isinstance(record, Calibration)]
    if not certificates:
        return None
    by_device = group_by(certificates, lambda record: record.device)
    where = {device: f" on {device}" if len(by_device) > 1 else "" for device in by_device}
    records = {MEASURED[record.method] + where[record.device]: record for record in certificates}
    rows = [
        (name, row.added, row.called, row.comparisons)
        for name, record in records.items()
        for row in (Planted(added=0.0, called=record.false_calls, comparisons=record.comparisons or 0), *record.planted)
    ]
    columns = [
        words_column("runs", lambda row: row[0]),
        words_column("work added", lambda row: percent(row[1], 0) if row[1] else "none: false calls"),
        Column("called", lambda row: f"{row[2]} of {row[3]}"),
        Column("share", lambda row: percent(row[2] / row[3]) if row[3] else ""),
        Column("95 % interval", lambda row: " to ".join(percent(end) for end in share_interval(*row[2:]))),
    ]
    words = " ".join([INTRODUCTION, *(_describe(first) for first, *_ in by_device.values())])
    blocks: list[Block] = [Paragraph(words), build_table(columns, rows)]
    if cases := dict.fromkeys(case for record in records.values() for case in record.reaches):
        reaches = [Column(name, partial(_write_reach, record)) for name, record in records.items()]
        blocks += [Paragraph(REACH), build_table([words_column("case", str), *reaches], cases)]
    return Section(title=CERTIFIES, blocks=blocks, answers=[_answer(records)])


def _describe(record: Calibration) -> str:
    """Return what was measured, and how much it varies."""
    words = (
        f"{record.processes} processes on {record.device}, {record.rounds} rounds of a case in {record.seconds:.0f} s each; "
    )
    words += f"at level {record.level:g} for the cases of a comparison together. Standard deviation of rounds "
    words += f"{percent(record.within_sd)} (the case in the middle), of processes at different times "
    return f"{words}{percent(record.between_sd)} beyond that (the case that varies most)."


def _write_reach(record: Calibration, case: str) -> str:
    return percent(record.reaches.get(case))


def _range(record: Calibration) -> str:
    steadiest, all_cases = min(record.reaches.values(), default=math.inf), percent(record.called_from)
    is_wide = steadiest < (record.called_from or 0)
    return f"{percent(steadiest)} (the steadiest case) or {all_cases} (all)" if is_wide else all_cases


def _answer(records: Mapping[str, Calibration]) -> Answer:
    limits = [f"{name}, from {_range(record)} on" for name, record in records.items() if record.called_from]
    evidence = ["Slowdowns of these sizes and larger are called in at least 95 % of comparisons"] if limits else []
    evidence += [f"{capitalise(name)}: {record.reason}" for name, record in records.items() if record.reason]
    for name, record in records.items():
        largest = record.planted[-1] if record.planted else None
        if record.called_from and largest and record.called_from > largest.added:
            words = f"{capitalise(name)} this is extrapolated from the spread: of slowdowns of "
            evidence.append(f"{words}{percent(largest.added, 0)} {largest.called} of {largest.comparisons} were called")
    return Answer(TELLS, capitalise("; ".join(limits)) or "Not measurable here", f"{'. '.join(evidence)}.")
