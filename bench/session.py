"""A benchmark session: plans the grid, orders its rounds, keeps the records as they come, and ends the run.

A pytest plugin, made by ``start_session`` when ``--benchmark-only`` is given. torch is imported only then.

Rounds are interleaved: the whole grid is measured once in a random order, then again in another, so that a machine that
slows down slows all backends. Compiled backends are the exception: all rounds of such a case follow each other, since dynamo
must forget one pipeline before it compiles the next (see ``CompilerWatch``) and compiling anew each round would take minutes.
"""

import math
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from bench.display import Progress, summary_lines
from bench.jobs.grid import Grid, default_devices, plan
from bench.records import Case, Overhead, Plan, Record, Speed, gather, load_run, one_line
from bench.runner import Runner, load_plan, resume, start
from bench.statistics import FEWEST_PASSES
from training.terminal import printable

if TYPE_CHECKING:
    from bench.jobs.speed import Bench

SESSION: pytest.StashKey["BenchSession"] = pytest.StashKey()
ROUNDS = 3
CASE_SECONDS = 0.1
OVERHEAD_LENGTH = 30
"""Seconds of a round of the trainer's overhead, as a multiple of a case's: a training step is longer, its overhead small."""
PLAN_OPTIONS = (
    *("device", "backends", "ops", "recipes", "batch_sizes", "image_sizes", "dtype"),
    *("grid", "rounds", "case_seconds", "target", "budget", "suite"),
)  # fmt: skip
"""Options that make the plan of a run; a resumed run has its plan."""


def start_session(config: pytest.Config) -> None:
    """Plan the session that the options ask for; pytest.UsageError with one line for a mistake in them."""
    try:
        session = BenchSession(config, _stored_plan(config) if config.getoption("resume") else _new_plan(config))
    except (ValueError, OSError) as error:
        raise pytest.UsageError(one_line(error, limit=2000)) from None
    config.stash[SESSION] = session
    # A case that fails before its first sample has not used the fixture; its record says so.
    config.addinivalue_line("filterwarnings", "ignore:Benchmark fixture was not used")
    config.pluginmanager.register(session, "augmark-session")


def _new_plan(config: pytest.Config) -> Plan:
    option = config.getoption
    ops, recipes = option("ops"), option("recipes")
    if ops is None and recipes is not None:
        ops = ["none"]
    elif recipes is None and ops is not None and ops != ["none"]:
        recipes = []
    grid = Grid(
        devices=tuple(option("device") or default_devices()),
        backends=_names(option("backends")),
        ops=() if ops == ["none"] else _names(ops),
        recipes=_names(recipes),
        batch_sizes=_names(option("batch_sizes")),
        image_sizes=_names(option("image_sizes")),
        dtype=option("dtype") or "float32",
        extent=option("grid") or "default",
    )
    cases = plan(grid)
    # A choice of ops or recipes asks for nothing else.
    overhead = [plan_overhead(device) for device in grid.devices] if option("ops") is None and option("recipes") is None else []
    return Plan(
        suite=option("suite") or "grid", cases=(*cases, *overhead), seed=random.randrange(2**32),
        rounds=option("rounds") or ROUNDS, case_seconds=option("case_seconds") or CASE_SECONDS,
        target=option("target"), budget_s=option("budget"),
    )  # fmt: skip


def _names(names: list[Any] | None) -> tuple[Any, ...] | None:
    return None if names is None or names == ["all"] else tuple(dict.fromkeys(names))


def _stored_plan(config: pytest.Config) -> Plan:
    folder = config.getoption("results")
    if folder is None:
        raise ValueError("--resume needs --results DIR, the folder of the run to resume")
    for name in PLAN_OPTIONS:
        if config.getoption(name) is not None:
            raise ValueError(f"--resume takes the plan in {folder}: leave out --{name.replace('_', '-')}")
    return load_plan(folder)


def plan_overhead(device: str) -> Overhead:
    """Return the planned case of the trainer's overhead on a device; its data set is filled in once it is loaded."""
    from bench.jobs.overhead import overhead_config

    values = overhead_config(device).as_record() | {"status": "not_run"}
    del values["epochs"]  # the number of epochs, which a measurement of steps has not
    return msgspec.convert({name: values[name] for name in values if name in Overhead.__struct_fields__}, Overhead)


class BenchSession:
    """The pytest plugin: an item per round of each case of the plan."""

    def __init__(self, config: pytest.Config, stored: Plan) -> None:
        self.config = config
        self.plan = stored
        self.resumes: bool = config.getoption("resume")
        self.folder: Path | None = config.getoption("results") if self.resumes else None
        self.records: list[Record] = load_run(self.folder).records if self.folder else []
        self.trouble: str | None = None
        self._runner = Runner(self.folder) if self.folder else None
        self._bench: Bench | None = None
        self._pytest: pytest.Session | None = None
        self._progress = Progress(config)
        self._seen: Counter[tuple[Any, ...]] = Counter()
        self._begun = time.monotonic()
        self._deadline = time.monotonic() + (config.getoption("time_limit") or math.inf)
        self._budget_end = time.monotonic() + (stored.budget_s or math.inf)

    # ---- the items and their order

    def items(self, suite: str) -> Iterator[Record]:
        """Yield the rounds of a suite's cases that have no record yet; an unsupported case once, to be shown as skipped."""
        for case in self.plan.cases:
            if suite_of(case) == suite:
                for number in range(1 if case.status == "unsupported" else self.plan.rounds):
                    repetition = msgspec.structs.replace(case, round=number)
                    if self._runner is None or not self._runner.is_done(repetition):
                        yield repetition

    def marks(self, case: Record) -> pytest.MarkDecorator:
        """Return pytest-benchmark's settings for an item: a clock that waits for the device."""
        from bench.clock import Clock

        return pytest.mark.benchmark(timer=Clock("cpu" if case.status == "unsupported" else case.device), disable_gc=True)

    def place(self, case: Record) -> tuple[Any, ...]:
        """Return the sort key of a round: unsupported cases, then round by round, each in an order of its own."""
        from augment import BACKENDS

        number = 0 if isinstance(case, Speed) and BACKENDS[str(case.backend)].compiled else case.round
        shuffled = random.Random(f"{self.plan.seed} {number} {case.case_key}").random()
        # The trainer's overhead comes last: a step of a model would disturb the cases.
        return isinstance(case, Overhead), case.status != "unsupported", number, shuffled, case.round

    @pytest.hookimpl(trylast=True)  # after -k has taken its choice
    def pytest_collection_modifyitems(self, items: list[pytest.Function]) -> None:
        # pytest makes an item that skips itself for a suite without cases: it has no record.
        cases = {item: case for item in items if (case := case_of(item)) is not None}
        items[:] = sorted(cases, key=lambda item: self.place(cases[item]))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if self.config.getoption("collectonly") or not session.items:
            return
        self._pytest = session
        signal.signal(signal.SIGTERM, lambda *_: self._stop("ended by SIGTERM"))  # at a round's end, as `augmark run` does
        selected = [case for item in session.items if (case := case_of(item)) is not None]
        self._selected = {case.case_key for case in selected}
        try:
            self._open(self._selected)
        except (ValueError, OSError) as error:
            raise pytest.UsageError(one_line(error, limit=2000)) from None
        self._begun = time.monotonic()
        timed = [case for case in selected if case.status == "not_run"]
        self._progress.begin(timed, self.plan, self.folder, self._left_s)

    def _open(self, selected: set[tuple[Any, ...]]) -> None:
        """Load the images and make the run folder, or check the one to resume."""
        from bench.environment import environment
        from bench.jobs.inputs import Inputs
        from bench.jobs.speed import Bench

        option = self.config.getoption
        inputs = Inputs(option("data"), option("data_root"), download=option("download"))
        if inputs.dataset["fallback"]:
            self._progress.print_line(f"NOTE: images are {inputs.dataset['name']}: {inputs.dataset['fallback']}", yellow=True)
        self._bench = Bench(inputs, self.plan.case_seconds or CASE_SECONDS)
        if default_devices() == ("cpu",):  # a GPU's own ``host_s`` says more
            chosen = (case for case in self.plan.cases if isinstance(case, Speed) and case.case_key in selected)
            self._bench.time_host(chosen)
        if self.resumes:
            assert self.folder is not None
            self.plan = resume(self.folder, self.plan, environment(inputs.dataset))
        else:
            cases = tuple(self._with_data(case) for case in self.plan.cases if case.case_key in selected)
            self.plan = msgspec.structs.replace(self.plan, cases=cases)
            device = next((case.device for case in cases if case.device != "cpu"), "cpu")
            speeds = {name: self._bench.copy_bandwidth(name) for name in dict.fromkeys(case.device for case in cases)}
            self.folder = start(option("results"), self.plan, environment(inputs.dataset, copy_bytes_per_s=speeds), device)
        self._runner = Runner(self.folder)

    def _with_data(self, case: Record) -> Record:
        if not isinstance(case, Overhead):
            return case
        from bench.jobs.overhead import load_images

        dataset = load_images(self.config.getoption("data"), self.config.getoption("data_root"))
        facts = {"dataset": dataset.name, "fingerprint": dataset.fingerprint, "fallback": dataset.fallback}
        return msgspec.structs.replace(case, data=printable(Path(self.config.getoption("data")).name), **facts)

    # ---- measuring

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Function, nextitem: pytest.Item | None) -> bool | None:
        """Pass over a round with nothing left to do without pytest's setup and report, which cost more than many rounds."""
        case = case_of(item)
        if case is None or case.status == "unsupported" or self._runner is None or not self._runner.is_done(case):
            return None
        item.session._setupstate.teardown_exact(nextitem)
        return True

    def _left_s(self) -> float | None:
        """Return the seconds that rounds of unsettled cases would take, as long as rounds so far, within the budget."""
        assert self._runner is not None
        cases = [case for case in self.plan.cases if case.case_key in self._selected and case.status == "not_run"]
        counts = [self._seen[case.case_key] for case in cases if not self._runner.is_settled(case)]
        done, now, rounds = self._seen.total(), time.monotonic(), self.plan.rounds
        mean_s = (now - self._begun) / max(1, done)
        least_s, most_s = (
            mean_s * sum(max(0, limit - count) for count in counts) for limit in (min(FEWEST_PASSES, rounds), rounds)
        )
        return min(max(least_s, min(most_s, self._budget_end - now)), self._deadline - now) if done else None

    def measure(self, case: Record, benchmark: Any) -> None:
        """Measure a round of a case and keep its record; the item fails with one line if the case does."""
        if case.status == "unsupported":
            pytest.skip(case.reason or "unsupported")
        assert self._runner is not None, "measured before the run's folder was opened"
        assert self._bench is not None
        if time.monotonic() > (self._deadline if case.round < FEWEST_PASSES else min(self._deadline, self._budget_end)):
            pytest.skip("the time is up")
        case = self._with_data(case)
        record = None
        try:
            record = self._runner.attempt(case, lambda case: self._sample(case, benchmark))
        except OSError as error:
            self._stop(f"cannot write to {self.folder}: {error.strerror or error}; what was measured is printed below")
            pytest.skip("its record cannot be written")
        if record is None:
            pytest.skip("done by another process, or failed in an earlier round")
        self.records.append(record)
        self._seen[case.case_key] += 1
        self._progress.settled = self._runner.settled
        if record.status == "ok":
            quantity = record.quantities[0].name
            facts = {name: getattr(record, name) for name in (*record.identity, quantity, "lane", "implementation", "threads")}
            benchmark.extra_info.update({**facts, "round": record.round})
            return
        self._bench.free()
        from bench.jobs.speed import device_works

        if not device_works(case.device):
            self._stop(f"{case.device} is unusable after {case.name}; add --resume --results {self.folder}")
        pytest.fail(record.reason or "failed", pytrace=False)

    def _sample(self, case: Record, benchmark: Any) -> Record:
        """Measure with pytest-benchmark's fixture, and a repeat of a disturbed round without: the fixture times once."""
        from bench.clock import Clock, Function, idle, sample

        def sampler(function: Function, calls: int, before: Function = idle, after: Function = idle) -> list[float]:
            has_timed = benchmark.stats is not None
            if has_timed:
                return sample(function, calls, before, after, clock=Clock(case.device))
            benchmark.pedantic(function, setup=before, teardown=after, rounds=calls)
            return list(benchmark.stats.stats.data)

        assert self._bench is not None
        if isinstance(case, Speed):
            record: Record = self._bench.measure(case, sampler)
        else:
            from bench.jobs.overhead import load_images, measure_overhead, overhead_config

            assert isinstance(case, Overhead)
            dataset = load_images(self.config.getoption("data"), self.config.getoption("data_root"))
            seconds = OVERHEAD_LENGTH * (self.plan.case_seconds or CASE_SECONDS)
            record = measure_overhead(case, overhead_config(case.device), dataset, seconds=seconds, sampler=sampler)
        self.records.append(record)  # kept even if it cannot be written
        return record

    def _stop(self, reason: str) -> None:
        self.trouble = self.trouble or reason
        if self._pytest is not None:
            self._pytest.shouldstop = reason

    # ---- display, and the end

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._progress.start_item(nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> tuple[str, str, str] | None:
        return self._progress.end_item(report)

    def pytest_benchmark_update_machine_info(self, machine_info: dict[str, Any]) -> None:
        from bench.environment import environment

        facts = msgspec.to_builtins(environment())
        machine_info.update({name: facts.get(name) for name in ("gpus", "cuda", "packages")})

    def cases(self) -> list[Case]:
        """Return the cases of the grid with what was measured so far."""
        cases = gather(self.plan.cases, {record.key: record for record in self.records}.values())
        return [case for case in cases if case.kind == "speed"]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._bench is not None:
            self._bench.close()
        if self.trouble:
            session.exitstatus = pytest.ExitCode.INTERRUPTED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.folder is None or self._bench is None:
            return
        for line in summary_lines(self.cases(), width=terminalreporter._tw.fullwidth, plan=self.plan):
            terminalreporter.write_line(line)
        if self.trouble:
            terminalreporter.write_line(f"ERROR: {self.trouble}", red=True)
        elif not self.config.getoption("phase"):  # a phase is not the end
            terminalreporter.write_line(f"Results: {os.path.relpath(self.folder)}", bold=True)


def suite_of(case: Record) -> str | None:
    """Return the suite that a case of a plan belongs to; None for the cases of other jobs."""
    return case.suite if isinstance(case, Speed) else "training" if isinstance(case, Overhead) else None


def case_of(item: pytest.Item) -> Record | None:
    """Return the round of a case that an item measures; None for an item that pytest has made up."""
    assert isinstance(item, pytest.Function)
    case = item.callspec.params.get("case")
    return case if isinstance(case, Record) else None
