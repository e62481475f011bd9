"""Several runs as one, for one report: nothing is mixed that was not measured by the same code on the same machine.

Runs whose machine, versions, variables, data and code agree are one group: their rounds of a case follow each other. What
differs in any of that stands apart, its devices named after where they are ("cuda of HOST", or the run's own name where hosts
share one), so that no table puts both in one row. Code with uncommitted changes, and an unknown environment, agree with
nothing. No torch here.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from bench.records.audits import Audit, AuditCell
from bench.records.base import Record
from bench.records.cases import group_by
from bench.records.folder import Run, Source, load_run, merged_folder
from bench.records.machines import Environment, code_facts, machine_facts
from bench.records.structs import Plan
from bench.records.words import join, plural

VERDICTS_WORST_FIRST = ("different", "unaudited", "close", "exact", "unsupported")


def load_runs(paths: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Return the runs that can be read, under names of their own, and a line for each that cannot or is given twice.

    Raises:
        ValueError: none can be read.
    """
    runs: list[Run] = []
    problems: list[str] = []
    for path in paths:
        try:
            run = load_run(path)
        except (ValueError, OSError) as error:
            problems.append(str(error))
            continue
        twin = next((previous for previous in runs if _same_records(run, previous)), None)
        if twin is not None:
            problems.append(f"{path} holds the same records as {twin.path}: counted once")
            continue
        name = _free_name(run.name, {previous.name for previous in runs})
        if name != run.name:
            problems.append(f"two runs are called {run.name}: {path} is called {name} here")
        runs.append(replace(run, name=name))
    if not runs:
        raise ValueError(problems[0] if problems else "no run was given: name at least one folder that augmark wrote")
    return runs, problems


def read_merged(paths: Sequence[Path], out: Path | None) -> Run:
    """Return the runs in these folders as one whose report goes to ``out`` (None: a new folder under runs/).

    Raises:
        ValueError: none can be read, or ``out`` holds a run.
        OSError: the folder cannot be made.
    """
    runs, problems = load_runs(paths)
    return merge(runs, merged_folder(out), problems)


def _same_records(a: Run, b: Run) -> bool:
    same = bool(a.records) and (a.environment, a.records) == (b.environment, b.records)
    return same or a.path.resolve() == b.path.resolve()


def _free_name(name: str, taken: set[str]) -> str:
    names = [name, *(f"{name}-{number}" for number in range(2, len(taken) + 3))]
    return next(free for free in names if free not in taken)


def merge(runs: Sequence[Run], folder: Path, problems: Sequence[str] = ()) -> Run:
    """Return runs with names of their own as one whose files go to ``folder``; a run alone stays as it is.

    Args:
        runs: the runs; of several, every record gets the name of its run in ``run``.
        folder: where the report of the merged run goes.
        problems: lines on what could not be read.
    """
    problems = [*problems, *(f"{run.name}: {problem}" for run in runs for problem in run.problems)]
    if len(runs) == 1:
        return replace(runs[0], path=folder, problems=problems)
    records, cases, sources = list[Record](), list[Any](), list[Source]()
    groups = list(group_by(runs, _machine_and_code).values())
    for index, (group, place) in enumerate(zip(groups, _places(groups), strict=True)):
        notes: dict[str, list[str]] = {run.name: [] for run in group}
        records += [_place(record, place) for record in _join(group, notes)]
        cases += [_place(case, place) for run in group if run.plan for case in run.plan.cases]
        sources += [Source(run=run, group=index, place=place, notes=notes[run.name]) for run in group]
    baselines = {run.plan.baseline for run in runs if run.plan and run.plan.baseline}
    return Run(
        path=folder,
        name=folder.resolve().name,
        environment=_environment(runs) if len(groups) == 1 else None,
        plan=Plan(
            suite="merged",
            cases=tuple({case.key: case for case in cases}.values()),
            baseline=baselines.pop() if len(baselines) == 1 else None,
        ),
        records=records,
        audit=_audit(runs),
        problems=problems,
        sources=sources,
    )


def _machine_and_code(run: Run) -> str:
    """Return what must agree for the rounds of two runs to be joined."""
    environment = run.environment
    if environment is None or (environment.commit and environment.commit.dirty):
        return run.name
    return repr(sorted({**machine_facts(environment), **code_facts(environment)}.items()))


def _places(groups: Sequence[Sequence[Run]]) -> list[str | None]:
    """Return a name for the devices of each group: its host, or its first run where hosts share a name; None for one group."""
    if len(groups) == 1:
        return [None]
    hosts = [first.environment.machine if first.environment else first.name for first, *_ in groups]
    return [host if hosts.count(host) == 1 else group[0].name for group, host in zip(groups, hosts, strict=True)]


def _place(record: Record, place: str | None) -> Record:
    """Return a record or planned case with its device named after its place."""
    if place is None:
        return record
    *others, last = getattr(record, "devices", ()) or ("",)
    devices = {"devices": (*others, f"{last} of {place}")} if last else {}
    return msgspec.structs.replace(record, device=f"{record.device} of {place}", **devices)


def _join(group: Sequence[Run], notes: dict[str, list[str]]) -> list[Record]:
    """Return the records of runs of the same code on the same machine; ``notes`` get by run what was left out.

    Rounds are counted on from run to run. Left out are failures of a case that another run measured whole, and seeds that an
    earlier run trained: a seed trained twice is no second one.
    """
    joined, good, rounds = list[Record](), set[tuple[Any, ...]](), 0
    whole = {run.name: {case.case_key for case in run.cases() if case.status == "ok"} for run in group}
    for run in group:
        elsewhere = set().union(*whole.values()) - whole[run.name]
        left_out: list[str] = []
        for record in run.records:
            shift = rounds if record.repetition == "round" else 0
            placed = msgspec.structs.replace(record, run=run.name, round=record.round + shift)
            if placed.key in good or (record.status != "ok" and record.case_key in elsewhere):
                left_out.append(f"{record.name} ({record.status})")
                continue
            joined.append(placed)
            good |= {placed.key} if record.status == "ok" else set()
        if left_out:
            words = f"{plural(len(left_out), 'record')} left out, as another run has the same: "
            notes[run.name].append(words + join(dict.fromkeys(left_out), 3))
        rounds += 1 + max((record.round for record in run.records if record.repetition == "round"), default=-1)
    return joined


def _environment(runs: Sequence[Run]) -> Environment | None:
    """Return what runs on one machine share, from the first start to the last."""
    times = sorted({run.environment.time for run in runs if run.environment})
    if not times or runs[0].environment is None:
        return None
    return msgspec.structs.replace(runs[0].environment, time=" to ".join(dict.fromkeys((times[0], times[-1]))), note=None)


def _audit(runs: Sequence[Run]) -> Audit | None:
    """Return one verdict a cell, the worst that any run's audit gave; a cell that one audit doubts is compared in none."""
    audits = [(run.name, run.audit) for run in runs if run.audit and run.audit.verdicts]
    if not audits:
        failed = [f"{run.name}: {run.audit.failed}" for run in runs if run.audit and run.audit.failed]
        return Audit(failed=failed[0]) if failed else None
    named = [(name, cell) for name, audit in audits for cell in audit.verdicts]
    cells = group_by(named, lambda entry: (entry[1].kind, entry[1].subject, entry[1].backend))
    conditions: dict[str, Any] = {}
    for key in ("images", "device", "n", "alpha", "seed"):
        values = list(dict.fromkeys(getattr(audit, key) for _, audit in audits))
        conditions[key] = values[0] if len(values) == 1 else join(map(str, values), 4)
    findings = tuple(dict.fromkeys(finding for _, audit in audits for finding in audit.findings))
    return Audit(verdicts=tuple(map(_worst, cells.values())), findings=findings, **conditions)


def _worst(verdicts: Sequence[tuple[str, AuditCell]]) -> AuditCell:
    def rank(entry: tuple[str, AuditCell]) -> tuple[int, bool]:
        cell = entry[1]
        return VERDICTS_WORST_FIRST.index(cell.verdict), bool(cell.lane and cell.lane.ok)

    name, worst = min(verdicts, key=rank)
    if len({cell.verdict for _, cell in verdicts}) == 1:
        return worst
    return msgspec.structs.replace(worst, cause=f"{worst.cause or 'cause not known'} (in {name}; runs disagree)")
