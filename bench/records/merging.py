"""Several runs as one, for one report: nothing is mixed that was not measured by the same code on the same machine.

Runs whose machine, versions, variables, data and code agree are one group: the passes of a case and the rounds of a training
follow each other. What differs in any of that stands apart, its devices named after where they are ("cuda of HOST", or the
run's own name where hosts share one), so that no table puts both in one row. Code with uncommitted changes, and an environment
that is not known, agree with nothing. No torch here.
"""

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.grid.cases import Case
from bench.records.machines import Part, code_facts, machine_facts, part
from bench.records.measurements import Measurement, pooled, read_entry
from bench.records.runs import Run, load_run, merged_folder
from bench.records.training_cases import KINDS, identity
from bench.report.quantities import counted, listed

VERDICTS_WORST_FIRST = ("different", "unaudited", "close", "exact", "unsupported")


@dataclass(kw_only=True)
class _Group:
    """Runs of the same code on the same machine."""

    runs: list[Run]
    place: str | None = None
    """What its devices are named after; None where it is the only group."""
    notes: dict[str, list[str]] = field(default_factory=dict)
    """By run: what of it was left out because another one has it."""

    def device(self, name: str) -> str:
        return name if self.place is None else f"{name} of {self.place}"


def load_runs(paths: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """The runs that can be read, under names of their own, and a line for each that cannot or is given twice.

    Raises ValueError when none can be read.
    """
    runs: list[Run] = []
    problems: list[str] = []
    for path in paths:
        try:
            run = load_run(path)
        except (ValueError, OSError) as error:
            problems.append(str(error))
            continue
        twin = next((other for other in runs if _same_records(run, other)), None)
        if twin is not None:
            problems.append(f"{path} holds the same records as {twin.path}: counted once")
            continue
        name = _free_name(run.name, {other.name for other in runs})
        if name != run.name:
            problems.append(f"two runs are called {run.name}: {path} is called {name} here")
        runs.append(replace(run, name=name))
    if not runs:
        raise ValueError(problems[0] if problems else "no run was given: name at least one folder that augmark wrote")
    return runs, problems


def read_merged(paths: Sequence[Path], out: Path | None) -> Run:
    """The runs in these folders as one whose report goes to ``out`` (None: a new folder under results/).

    Raises ValueError when none can be read or ``out`` holds a run, OSError when the folder cannot be made.
    """
    with _without_collector():
        runs, problems = load_runs(paths)
        return merge(runs, merged_folder(out), problems)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Reading makes millions of lists and no cycles; to look for some among them again and again takes a third of the time.

    Later collections leave out what was read, too: it lives as long as the report is written.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.freeze()
            gc.enable()


def _same_records(a: Run, b: Run) -> bool:
    if a.path.resolve() == b.path.resolve():
        return True
    measured = any(one.status == "ok" for one in a.measurements) or bool(a.training)
    return measured and (a.environment, a.measurements, a.training) == (b.environment, b.measurements, b.training)


def _free_name(name: str, taken: set[str]) -> str:
    names = [name, *(f"{name}-{number}" for number in range(2, len(taken) + 3))]
    return next(free for free in names if free not in taken)


def merge(runs: Sequence[Run], folder: Path, problems: Sequence[str] = ()) -> Run:
    """Runs with names of their own, as one whose files go to ``folder``. ``problems``: what was already found in reading them.

    Every training record gets ``run``, the name of the run that it is from.
    """
    groups = _groups(runs)
    measurements = [one for group in groups for one in _measurements(group)]
    training = [record for group in groups for record in _training(group)]
    return Run(
        path=folder,
        name=folder.resolve().name,
        environment=_environment(groups),
        measurements=measurements,
        training=training,
        problems=[*problems, *(f"{run.name}: {problem}" for run in runs for problem in run.problems)],
        plan=_plan(groups),
        audit=_audit(runs),
        parts=[_part(run, index, group) for index, group in enumerate(groups) for run in group.runs],
    )


# ---- what belongs together --------------------------------------------------------------------------------------------


def _groups(runs: Sequence[Run]) -> list[_Group]:
    groups: dict[str, _Group] = {}
    for run in runs:
        known = bool(run.environment) and part(run.environment.get("commit")).get("dirty") is not True
        facts = {**machine_facts(run.environment), **code_facts(run.environment)} if known else {"run": run.name}
        groups.setdefault(repr(sorted(facts.items())), _Group(runs=[])).runs.append(run)
    every = list(groups.values())
    hosts = [str(group.runs[0].environment.get("machine") or group.runs[0].name) for group in every]
    for group, host in zip(every, hosts, strict=True):
        if len(every) > 1:
            group.place = host if hosts.count(host) == 1 else group.runs[0].name
    return every


def _part(run: Run, index: int, group: _Group) -> Part:
    return Part(
        name=run.name,
        path=run.path,
        group=index,
        place=group.place,
        environment=run.environment,
        planned=len(run.measurements),
        measured=sum(one.status == "ok" for one in run.measurements),
        training=len(run.training),
        audited=bool(run.audit.get("verdicts")),
        notes=group.notes.get(run.name, []),
    )


# ---- records ----------------------------------------------------------------------------------------------------------


def _measurements(group: _Group) -> list[Measurement]:
    cases: dict[Case, list[tuple[str, Measurement]]] = {}
    for run in group.runs:
        for one in run.measurements:
            cases.setdefault(one.case, []).append((run.name, one))
    failed: dict[str, list[str]] = {}
    merged = []
    for case, found in cases.items():
        joined = pooled([one for _, one in found])
        if joined.status == "ok":
            for name in (name for name, one in found if one.status == "failed"):
                failed.setdefault(name, []).append(case.id)
        merged.append(replace(joined, case=replace(case, device=group.device(case.device))))
    for name, ids in failed.items():
        words = f"{counted(len(ids), 'case')} failed there that another run measured: {listed(ids, 3)}"
        group.notes.setdefault(name, []).append(words)
    return merged


def _training(group: _Group) -> list[dict[str, Any]]:
    """All records; rounds are counted on from run to run, and a seed that two runs trained alike counts once."""
    merged: list[dict[str, Any]] = []
    seen: dict[tuple[str, ...], str] = {}
    again: dict[tuple[str, str], int] = {}
    rounds = 0
    for run in group.runs:
        for record in run.training:
            kind = KINDS.get(str(record.get("kind")))
            if kind is not None and kind.repeated == "seed" and record.get("status", "ok") == "ok":
                key = (*identity(record), repr(record.get("seed")))
                if seen.setdefault(key, run.name) != run.name:
                    again[run.name, seen[key]] = again.get((run.name, seen[key]), 0) + 1
                    continue
            merged.append(_moved(record, group, run.name, rounds))
        rounds += 1 + max((r["round"] for r in run.training if isinstance(r.get("round"), int)), default=-1)
    for (name, first), count in again.items():
        words = f"{counted(count, 'training')} with the seeds of {first} counted once: a seed trained twice is no second one"
        group.notes.setdefault(name, []).append(words)
    return merged


def _moved(record: Mapping[str, Any], group: _Group, name: str, rounds: int) -> dict[str, Any]:
    moved: dict[str, Any] = {**record, "run": name}
    if isinstance(record.get("round"), int):
        moved["round"] = record["round"] + rounds
    if group.place is not None:
        moved["device"] = group.device(str(record.get("device") or "a device"))
        if isinstance(record.get("devices"), list) and record["devices"]:
            moved["devices"] = [*record["devices"][:-1], group.device(str(record["devices"][-1]))]
    return moved


def _plan(groups: Sequence[_Group]) -> dict[str, Any]:
    """The entries of all plans, once each, and what the plans agree in."""
    entries: dict[str, dict[str, Any]] = {}
    plans = [run.plan for group in groups for run in group.runs]
    for group in groups:
        for run in group.runs:
            cases = run.plan.get("cases")
            for entry in cases if isinstance(cases, list) else []:
                try:
                    case = read_entry(entry).case
                except (KeyError, TypeError, AttributeError):
                    continue  # load_run has told it
                moved = replace(case, device=group.device(case.device))
                case_fields = {name: getattr(moved, name) for name in Case.__slots__}
                entries.setdefault(moved.id, {**entry, "id": moved.id, "case": case_fields})
    return {"cases": list(entries.values())} | _agreed(plans, ("case_seconds",)) | _sweep(plans)


def _sweep(plans: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The cells of all sweeps, once each, with the baseline where they agree on one."""
    sweeps = [part(plan.get("sweep")) for plan in plans if part(plan.get("sweep"))]
    if not sweeps:
        return {}
    cells = {repr(cell): cell for one in sweeps if isinstance(one.get("cells"), list) for cell in one["cells"]}
    return {"sweep": {**_agreed(sweeps, ("baseline", "settings")), "cells": list(cells.values())}}


def _agreed(records: Sequence[Mapping[str, Any]], names: Iterable[str]) -> dict[str, Any]:
    """The fields whose value is the same in all records."""
    first = records[0]
    return {name: first[name] for name in names if name in first and all(one.get(name) == first[name] for one in records)}


# ---- where and with what ----------------------------------------------------------------------------------------------


def _environment(groups: Sequence[_Group]) -> dict[str, Any]:
    """What all runs share; the parts tell the rest."""
    runs = [run for group in groups for run in group.runs]
    known = [run.environment for run in runs if run.environment]
    if not known:
        return {}
    shared = _agreed(known, dict.fromkeys(name for one in known for name in one))
    times = sorted(str(one["time"]) for one in known if one.get("time"))
    if times:
        shared["time"] = times[0] if len(set(times)) == 1 else f"{times[0]} to {times[-1]}"
    if len(groups) == 1:
        return {**known[0], **shared}
    machines = dict.fromkeys(str(one.get("machine")) for one in known)
    return {**shared, "machine": listed(machines, 4), "dataset": _dataset([part(one.get("dataset")) for one in known])}


def _dataset(sets: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """All image sets in one entry, so that a substitute among them is still warned of."""
    used = [one for one in sets if one]
    if not used or all(one == used[0] for one in used):
        return dict(used[0]) if used else None
    told = {key: listed(dict.fromkeys(str(one.get(key)) for one in used), 4) for key in ("name", "fingerprint")}
    return {**told, "fallback": next((one["fallback"] for one in used if one.get("fallback")), None)}


# ---- the audit --------------------------------------------------------------------------------------------------------


def _audit(runs: Sequence[Run]) -> dict[str, Any]:
    """One verdict a cell, the worst that any run's audit gave; a cell that one audit doubts is compared in none."""
    audits = [(run.name, run.audit) for run in runs if isinstance(run.audit.get("verdicts"), list)]
    failed = [(run.name, run.audit["failed"]) for run in runs if run.audit.get("failed")]
    if not audits:
        return {"failed": f"{failed[0][0]}: {failed[0][1]}"} if failed else {}
    cells: dict[tuple[str, ...], list[tuple[str, Mapping[str, Any]]]] = {}
    for name, audit in audits:
        for verdict in (one for one in audit["verdicts"] if isinstance(one, dict)):
            cells.setdefault(tuple(str(verdict.get(key)) for key in ("kind", "subject", "backend")), []).append((name, verdict))
    told = [audit.get("findings") for _, audit in audits]
    findings = [str(finding) for every in told if isinstance(every, list) for finding in every]
    several = {key: listed(dict.fromkeys(str(audit.get(key)) for _, audit in audits), 4) for key in _CONDITIONS}
    return {**several, "verdicts": [_worst(found) for found in cells.values()], "findings": list(dict.fromkeys(findings))}


_CONDITIONS = ("images", "device", "n", "alpha", "seed")


def _worst(found: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    def rank(verdict: Mapping[str, Any]) -> tuple[int, bool]:
        word, lane = verdict.get("verdict"), part(verdict.get("lane"))
        as_declared = lane.get("declared") == lane.get("measured")
        return VERDICTS_WORST_FIRST.index(word) if word in VERDICTS_WORST_FIRST else -1, as_declared

    name, worst = min(found, key=lambda one: rank(one[1]))
    if len({str(one.get("verdict")) for _, one in found}) == 1:
        return dict(worst)
    return {**worst, "cause": f"{worst.get('cause') or 'cause not known'} (in {name}; runs disagree)"}
