"""The one runner: plan, claim, measure, append, resume. Every job is a table of cases and a function that measures one.

A run's folder is all that its processes share. Claims are POSIX record locks, which network file systems know too: they go when
their process ends, however it ends, so that no claim outlives its owner and none has to be judged stale. No torch at import.
"""

import contextlib
import gc
import importlib.metadata
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bench.noise import Watch, isolate, measure_busy_threads, watch
from bench.records import (
    CLAIMS,
    ENVIRONMENT,
    PLAN,
    RUNNING,
    Environment,
    Plan,
    Record,
    append,
    as_stored,
    claim_path,
    code_facts,
    died,
    differences,
    finished_keys,
    is_held,
    load_run,
    lock,
    lock_run,
    machine_facts,
    one_line,
    read_records,
    run_folder,
    under_way,
    unresolved_failures,
    write,
)
from bench.statistics import is_settled

Measure = Callable[[Any], Record]
R = TypeVar("R", bound=Record)
REPEATS = 1
"""Times that a disturbed round is measured again."""
PLAN_WAIT_S = 1800.0
"""Seconds that torchrun's other processes wait for the first to load the data and write the plan."""


# ---- plan and resume --------------------------------------------------------------------------------------------------


def start(results: Path | None, plan: Plan, environment: Environment, device: str) -> Path:
    """Make the folder of a new run and write its environment and plan.

    Raises:
        ValueError: the folder holds a run already.
        OSError: the folder cannot be written.
    """
    folder = run_folder(results, plan.suite, importlib.metadata.version("augmark"), device)
    write(folder / ENVIRONMENT, environment)
    write(folder / PLAN, plan)
    return folder


def load_plan(folder: Path, suite: str | None = None) -> Plan:
    """Return the plan of the run that is to be resumed.

    Raises:
        ValueError: the folder holds no readable plan (of this suite).
    """
    run = load_run(folder)
    if run.plan is None or not run.plan.cases:
        cause = next((problem for problem in run.problems if problem.startswith(PLAN)), f"it holds no {PLAN}")
        raise ValueError(f"cannot resume {folder} ({cause}): choose another --results")
    if suite is not None and run.plan.suite != suite:
        raise ValueError(f"cannot resume {folder} (it holds a run of {run.plan.suite}, not {suite}): choose another --results")
    return run.plan


def resume(folder: Path, plan: Plan, environment: Environment, *, retry_failed: bool = False) -> Plan:
    """Check that a run can be resumed here, add the plan's new cases to it, and keep it.

    Args:
        folder: the run's folder.
        plan: what is to be measured; its settings must be those of the run.
        environment: this machine's; machine, versions, data and code must be those of the run.
        retry_failed: measure again what has failed so far.

    Returns:
        The plan as written.

    Raises:
        ValueError: the run is another suite's, or was measured elsewhere, on other data, or with other settings.
    """
    before, run = load_plan(folder, plan.suite), load_run(folder)
    plan, places = as_stored(plan), (run.environment, as_stored(environment))
    check_equal(folder, *({**machine_facts(place), **code_facts(place)} for place in places))
    check_settings(folder, before, plan)
    cases = {case.key: case for case in (*before.cases, *plan.cases)}
    merged = msgspec.structs.replace(
        plan,
        cases=tuple(cases.values()),
        seed=before.seed,
        rounds=max(plan.rounds, before.rounds),
        baseline=plan.baseline or before.baseline,
        retry_after=len(run.records) if retry_failed else before.retry_after,
    )
    write(folder / PLAN, merged)
    return merged


def check_settings(folder: Path, before: Plan, plan: Plan) -> None:
    """Raise ValueError unless two plans have the same settings."""
    check_equal(folder, *({k: str(v) for k, v in as_stored(p).settings.items()} for p in (before, plan)))


def check_equal(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the first difference, unless facts of a run are those of the one that would resume it."""
    if changed := differences(before, now):
        raise ValueError(f"cannot resume {folder} here ({changed[0]}): choose another --results")


def add_cases(folder: Path, cases: Sequence[Record]) -> None:
    """Add cases to a run's plan, so that what does not run is known to be missing."""
    plan = load_run(folder).plan or Plan(suite="")
    planned = {case.key for case in plan.cases}
    new = [as_stored(case) for case in cases if case.key not in planned]
    if new:
        write(folder / PLAN, msgspec.structs.replace(plan, cases=(*plan.cases, *new)))


def await_owners(folder: Path, cases: Sequence[Record]) -> None:
    """Wait while other processes, on this or other machines, measure what has no record yet."""
    while any(is_held(claim_path(folder, case)) for case in find_missing(folder, cases)):
        time.sleep(0.2)


def find_missing(folder: Path, cases: Sequence[R]) -> list[R]:
    """Return the repetitions that have neither a result nor a failure that counts."""
    run = load_run(folder)
    keys = finished_keys(run.records, run.plan.retry_after if run.plan else 0)
    return [case for case in cases if case.key not in keys]


def await_plan(folder: Path) -> Plan:
    """Wait until the first process of a job has written the plan, and so has loaded the data, which lie in a cache then.

    Raises:
        ValueError: no plan appears in time.
    """
    deadline = time.monotonic() + PLAN_WAIT_S
    while not (folder / PLAN).exists():
        if time.monotonic() > deadline:
            raise ValueError(f"no plan in {folder}: --results must be a folder that all processes share")
        time.sleep(0.2)
    return load_plan(folder)


# ---- measuring --------------------------------------------------------------------------------------------------------


class Runner:
    """Measurement of repetitions of cases, whose records it keeps.

    Args:
        folder: the run's folder, with its plan.
        shared: processes share the cases out among them; else this process is alone in the folder while the runner lives, and
            a repetition that takes it along is known from ``running.json``. Forked children do not inherit the locks; within a
            process a claim keeps nobody out.
    """

    def __init__(self, folder: Path, *, shared: bool = False) -> None:
        self.folder = folder
        self._is_shared = shared
        if not shared:  # a process before this one may have died in the middle
            self._lock = lock_run(folder)
            for record in died(folder, read_records(folder)):
                append(folder, record)
            (folder / RUNNING).unlink(missing_ok=True)
        self._finished: set[tuple[Any, ...]] = set()
        self._values: dict[tuple[Any, ...], list[float]] = {}
        self._settled: set[tuple[Any, ...]] = set()
        self._target = plan.target if (plan := load_run(folder).plan) else None
        self._look()

    def _look(self) -> None:
        """Read what has been done, by this process or another."""
        run = load_run(self.folder)
        self._finished |= finished_keys(run.records, run.plan.retry_after if run.plan else 0)
        self._finished |= {record.case_key for record in unresolved_failures(run.records) if record.needs_every_round}
        self._values.clear()
        self._settled.clear()
        for record in run.records:
            self._count(record)

    def _count(self, record: Record) -> None:
        if self._target is None or record.repetition != "round" or record.status != "ok" or record.is_disturbed:
            return
        values = self._values.setdefault(record.case_key, [])
        values.append(getattr(record, record.quantities[0].name))
        (self._settled.add if is_settled(values, self._target) else self._settled.discard)(record.case_key)

    def is_done(self, case: Record) -> bool:
        """Return whether nothing is left to do for a repetition: it has a record, its case is settled or fails in any case."""
        return case.key in self._finished or case.case_key in self._finished or self.is_settled(case)

    def is_settled(self, case: Record) -> bool:
        """Return whether the quiet rounds of a case know its median to the plan's target."""
        return case.case_key in self._settled

    @property
    def settled(self) -> int:
        """Number of cases whose median is known to the plan's target."""
        return len(self._settled)

    def pending(self, cases: Sequence[Record], rounds: int = 1, seed: int | None = None) -> list[Record]:
        """Return the repetitions that have no record yet, round after round.

        Args:
            cases: planned cases; those that are unsupported are left out.
            rounds: repetitions of the cases that are repeated by round; others stand for one seed each.
            seed: shuffle each round in an order of its own, against drift; None keeps the order.
        """
        todo: list[Record] = []
        for number in range(rounds):
            batch = [case if case.repetition == "seed" else msgspec.structs.replace(case, round=number) for case in cases]
            batch = [case for case in batch if number == 0 or case.repetition == "round"]
            todo += batch if seed is None else random.Random(f"{seed} {number}").sample(batch, len(batch))
        return [case for case in todo if case.status != "unsupported" and not self.is_done(case)]

    def attempt(self, case: Record, measure: Measure) -> Record | None:
        """Measure a repetition and append its record, also of a failure; None if another process has it or has done it.

        Raises:
            OSError: the record cannot be written.
            KeyboardInterrupt: nothing is kept of this repetition.
        """
        if self.is_done(case):
            return None
        if not self._is_shared:
            with under_way(self.folder, case):
                return self._keep(measure_undisturbed(case, measure))
        (self.folder / CLAIMS).mkdir(exist_ok=True)
        with lock(claim_path(self.folder, case)) or contextlib.nullcontext() as claim:
            self._look()  # its owner may have finished it between the last look and the claim
            return self._keep(measure_undisturbed(case, measure)) if claim and not self.is_done(case) else None

    def _keep(self, record: Record) -> Record:
        append(self.folder, record)
        self._count(record)
        self._finished.add(record.key if record.status == "ok" or not record.needs_every_round else record.case_key)
        return record


def measure_undisturbed(case: Record, measure: Measure) -> Record:
    """Measure a repetition, and a round again if other processes disturb it; return the record that was disturbed least."""
    records: list[Record] = []
    for _ in range(1 + (REPEATS if case.repetition == "round" else 0)):
        with watch() as machine, isolate(case):
            record = measure_case(case, measure)
        disturbance = machine.disturbance()
        if case.case_key not in Watch.looked_at or Watch.busy_threads:
            Watch.looked_at.add(case.case_key)
            Watch.busy_threads = measure_busy_threads()
            disturbance = msgspec.structs.replace(disturbance, busy_threads=Watch.busy_threads or None)
        records.append(msgspec.structs.replace(record, disturbance=disturbance))
        if record.status != "ok" or not disturbance.is_strong or disturbance.busy_threads:  # those do not go away
            break
    good = [record for record in records if record.status == "ok"] or records
    best = min(good, key=lambda record: (record.disturbance and record.disturbance.others_cpu) or 0.0)
    # Some facts are measured once a case: with its first measurement.
    facts = {name: value for record in good for name, value in msgspec.structs.asdict(record).items() if value is not None}
    return msgspec.structs.replace(best, **{n: v for n, v in facts.items() if getattr(best, n) is None})


def measure_case(case: Record, measure: Measure) -> Record:
    """Return the record of a repetition; whatever a library raises is its result, and the next case's start."""
    try:
        record = measure(case)
        if record.key != case.key:
            raise RuntimeError(f"measured {record.key}, planned {case.key}")
        return as_stored(record)
    except Exception as error:
        augment = sys.modules.get("augment")  # not loaded, nothing of it can have been raised
        unsupported = augment is not None and isinstance(error, augment.UnsupportedOp)
        reason = one_line(error) if unsupported else f"{type(error).__name__}: {one_line(error)}"
        error.__traceback__ = None  # its frames hold the tensors that the next case needs the room of
    free_memory()
    return msgspec.structs.replace(case, status="unsupported" if unsupported else "failed", reason=reason)


def free_memory() -> None:
    """Give the memory of what is no longer used back to the device."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def run_cases(
    folder: Path,
    cases: Sequence[Record],
    measure: Measure,
    *,
    rounds: int = 1,
    seed: int | None = None,
    shared: bool = False,
    keep_going: Callable[[], bool] = lambda: True,
    on_start: Callable[[Record], None] = lambda case: None,
    on_record: Callable[[Record, int, int], None] = lambda record, done, total: None,
) -> None:
    """Measure all repetitions that have no record yet.

    Args:
        folder: the run's folder, with its plan, to which new cases are added.
        cases: planned cases.
        measure: returns the record of one case, whose ``round`` or ``seed`` says which repetition it is.
        rounds: as in ``Runner.pending``.
        seed: as in ``Runner.pending``.
        shared: as in ``Runner``.
        keep_going: asked before each repetition, such as for a time budget.
        on_start: told of each repetition before it is measured.
        on_record: told of each record, how many repetitions are done and how many there are.
    """
    runner = Runner(folder, shared=shared)
    if not shared:
        add_cases(folder, cases)
    todo = runner.pending(cases, rounds, seed)
    for done, case in enumerate(todo, start=1):
        if not keep_going():
            return
        on_start(case)
        record = runner.attempt(case, measure)
        if record is not None:
            on_record(record, done, len(todo))


def exit_code(folder: Path, *kinds: str) -> int:
    """Return 1 if any measurement of these kinds failed and was not superseded, or none succeeded; else 0.

    A line on stderr says so.
    """
    records = [record for record in load_run(folder).records if record.kind in kinds]
    good = [record for record in records if record.status == "ok"]
    missing = unresolved_failures(records) or ([] if good else records)
    if missing:
        print(f"augmark: {len(missing)} of {len(missing) + len(good)} failed, the first: {missing[0].reason}", file=sys.stderr)
    return 1 if missing else 0
