"""Several runs as one, for one report: nothing is mixed that was not measured by the same code on the same machine.

Runs whose machine, versions, variables, data and code agree are one group: their rounds of a case follow each other. What
differs in any of that stands apart, its devices named after where they are ("cuda of HOST", or the run's own name where hosts
share one), so that no table puts both in one row. Code with uncommitted changes, and an unknown environment, agree with
nothing. No torch here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from bench.records.folder import Run, Source, load_run, merged_folder
from bench.records.machines import code_facts, machine_facts
from bench.records.structs import Audit, AuditCell, DataSet, Environment, Kind, Plan, Record
from bench.records.words import join, plural

VERDICTS_WORST_FIRST = ("different", "unaudited", "close", "exact", "unsupported")


@dataclass(kw_only=True)
class _Group:
    """Runs of the same code on the same machine. ``place`` names its devices; ``notes`` say by run what was left out."""

    runs: list[Run]
    place: str | None = None
    notes: dict[str, list[str]] = field(default_factory=dict)

    def device(self, name: str) -> str:
        return name if self.place is None else f"{name} of {self.place}"

    def place_record(self, record: Record, **changes: Any) -> Record:
        devices = getattr(record, "devices", ())
        if self.place is not None and devices:
            changes["devices"] = (*devices[:-1], self.device(devices[-1]))
        return msgspec.structs.replace(record, device=self.device(record.device), **changes)


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
    """Return runs with names of their own as one whose files go to ``folder``.

    Args:
        runs: the runs; every record gets the name of its run in ``run``.
        folder: where the report of the merged run goes.
        problems: lines on what could not be read.
    """
    groups = _groups(runs)
    return Run(
        path=folder,
        name=folder.resolve().name,
        environment=_environment(groups),
        plan=_plan(groups),
        records=[record for group in groups for record in _records(group)],
        audit=_audit(runs),
        problems=[*problems, *(f"{run.name}: {problem}" for run in runs for problem in run.problems)],
        sources=[_source(run, index, group) for index, group in enumerate(groups) for run in group.runs],
    )


def _groups(runs: Sequence[Run]) -> list[_Group]:
    groups: dict[str, _Group] = {}
    for run in runs:
        environment = run.environment
        is_known = environment is not None and not (environment.commit and environment.commit.dirty)
        facts = {**machine_facts(environment), **code_facts(environment)} if is_known else {"run": run.name}
        groups.setdefault(repr(sorted(facts.items())), _Group(runs=[])).runs.append(run)
    firsts = [group.runs[0] for group in groups.values()]
    hosts = [run.environment.machine if run.environment else run.name for run in firsts]
    for group, host in zip(groups.values(), hosts, strict=True):
        if len(groups) > 1:
            group.place = host if hosts.count(host) == 1 else group.runs[0].name
    return list(groups.values())


def _source(run: Run, index: int, group: _Group) -> Source:
    cases = run.cases()
    return Source(
        name=run.name,
        path=run.path,
        group=index,
        place=group.place,
        environment=run.environment,
        planned=len(cases),
        measured=sum(case.status == "ok" for case in cases),
        records=len(run.records),
        audited=bool(run.audit and run.audit.verdicts),
        notes=group.notes.get(run.name, []),
    )


def _records(group: _Group) -> list[Record]:
    """Return the records of a group's runs.

    Rounds are counted on from run to run, a seed that two runs trained alike counts once, and failures of a case that another
    run measured whole are left out.
    """
    merged: list[Record] = []
    seen: dict[tuple[Any, ...], str] = {}
    again: dict[tuple[str, str], int] = {}
    failed: dict[str, list[str]] = {}
    whole = {case.case_key for run in group.runs for case in run.cases() if case.status == "ok"}
    rounds = 0
    for run in group.runs:
        broken = {case.case_key: case.name for case in run.cases() if case.status == "failed"}
        failed[run.name] = [name for key, name in broken.items() if key in whole]
        for record in run.records:
            if record.case_key in broken and record.case_key in whole:
                continue
            if record.repetition == "seed" and record.status == "ok" and seen.setdefault(record.key, run.name) != run.name:
                again[run.name, seen[record.key]] = again.get((run.name, seen[record.key]), 0) + 1
                continue
            changes = {"round": record.round + rounds} if record.repetition == "round" else {}
            merged.append(group.place_record(record, run=run.name, **changes))
        rounds += 1 + max((record.round for record in run.records if record.repetition == "round"), default=-1)
    for name, cases in failed.items():
        if cases:
            words = f"{plural(len(cases), 'case')} failed there that another run measured: {join(cases, 3)}"
            group.notes.setdefault(name, []).append(words)
    for (name, first), count in again.items():
        words = f"{plural(count, 'training')} with the seeds of {first} counted once: a seed trained twice is no second one"
        group.notes.setdefault(name, []).append(words)
    return merged


def _plan(groups: Sequence[_Group]) -> Plan | None:
    """Return the cases of all plans, once each, and what the plans agree in."""
    plans = [run.plan for group in groups for run in group.runs if run.plan]
    if not plans:
        return None
    placed = [group.place_record(case) for group in groups for run in group.runs if run.plan for case in run.plan.cases]
    cases: tuple[Kind, ...] = tuple({record.key: record for record in reversed(placed)}.values())[::-1]  # type: ignore[assignment]
    return Plan(
        suite="merged",
        cases=cases,
        rounds=max(plan.rounds for plan in plans),
        case_seconds=_agreed([plan.case_seconds for plan in plans]),
        baseline=_agreed([plan.baseline for plan in plans if plan.baseline]),
    )


def _agreed(values: Sequence[Any]) -> Any:
    """Return the value that all have, or None."""
    return values[0] if values and all(value == values[0] for value in values) else None


def _environment(groups: Sequence[_Group]) -> Environment | None:
    """Return the first environment, with what differs among runs told as a list or left out; the sources have the details."""
    environments = [run.environment for group in groups for run in group.runs if run.environment]
    if not environments:
        return None
    times = sorted({item.time for item in environments})
    changes: dict[str, Any] = {"time": times[0] if len(times) == 1 else f"{times[0]} to {times[-1]}"}
    named = [(run.name, run.environment.note) for group in groups for run in group.runs if run.environment]
    changes["note"] = "; ".join(f"{name}: {note}" for name, note in named if note) or None
    if len(groups) > 1:
        changes["machine"] = join(dict.fromkeys(item.machine for item in environments), 4)
        changes["dataset"] = _dataset([item.dataset for item in environments if item.dataset])
        changes["commit"] = _agreed([item.commit for item in environments])
        for name in ("copy_bytes_per_s", "matmul_flops_per_s"):
            changes[name] = {
                group.device(device): value
                for group in groups
                for run in group.runs[:1]
                for device, value in getattr(run.environment, name, {}).items()
            }
    return msgspec.structs.replace(environments[0], **changes)


def _dataset(sets: Sequence[DataSet]) -> DataSet | None:
    """Return all image sets in one entry, so that a substitute among them is still warned of."""
    if len(set(sets)) < 2:
        return sets[0] if sets else None
    names, fingerprints = (join(dict.fromkeys(getattr(images, key) for images in sets), 4) for key in ("name", "fingerprint"))
    return DataSet(
        name=names, fingerprint=fingerprints, fallback=next((images.fallback for images in sets if images.fallback), None)
    )


def _audit(runs: Sequence[Run]) -> Audit | None:
    """Return one verdict a cell, the worst that any run's audit gave; a cell that one audit doubts is compared in none."""
    audits = [(run.name, run.audit) for run in runs if run.audit and run.audit.verdicts]
    if not audits:
        failed = [f"{run.name}: {run.audit.failed}" for run in runs if run.audit and run.audit.failed]
        return Audit(failed=failed[0]) if failed else None
    cells: dict[tuple[str, ...], list[tuple[str, AuditCell]]] = {}
    for name, audit in audits:
        for cell in audit.verdicts:
            cells.setdefault((cell.kind, cell.subject, cell.backend), []).append((name, cell))
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
