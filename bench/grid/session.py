"""A benchmark session: plans the grid, orders its passes, keeps the records as they come, and ends the run.

A pytest plugin, made by ``start`` when ``--benchmark-only`` is given. torch is imported only then.

Passes are interleaved: the whole grid is measured once in a random order, then again in another, so that a machine that
slows down slows all backends. Compiled backends are the exception: all passes of such a case follow each other, since dynamo
must forget one pipeline before it compiles the next (see ``CompilerWatch``) and compiling anew each pass would take minutes.
"""

import os
import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.grid.cases import Case, Grid, PlannedCase, default_devices, one_line, plan
from bench.grid.items import CasePass, Item, OverheadPass, pass_of
from bench.grid.progress import Progress
from bench.grid.summary import summary_lines
from bench.records.measurements import Measurement, done, join, read_entry, running
from bench.records.runs import (
    SCHEMA,
    Journal,
    append_training,
    finalise,
    load_events,
    load_plan,
    load_run,
    plan_entry,
    run_folder,
    write_json,
)

if TYPE_CHECKING:
    from bench.grid.measuring import Bench

SESSION: pytest.StashKey["BenchSession"] = pytest.StashKey()
PASSES = 3
CASE_SECONDS = 0.1
# What the plan of a run is made of; with --resume it stands in the folder.
GRID_OPTIONS = ("device", "backends", "ops", "recipes", "batch_sizes", "image_sizes", "dtype", "grid", "passes", "case_seconds")


def start(config: pytest.Config) -> None:
    """Plan the session that the options ask for; pytest.UsageError with one line for what is wrong with them."""
    try:
        session = _resumed(config) if config.getoption("resume") else _planned(config)
    except (ValueError, OSError) as error:
        raise pytest.UsageError(one_line(error, limit=2000)) from None
    config.stash[SESSION] = session
    # A case that fails before its first sample has not used it; that is told in its record.
    config.addinivalue_line("filterwarnings", "ignore:Benchmark fixture was not used")
    config.pluginmanager.register(session, "augmark-session")


def _planned(config: pytest.Config) -> "BenchSession":
    ask = config.getoption
    ops, recipes = ask("ops"), ask("recipes")
    if ops is None and recipes is not None:
        ops = ["none"]
    elif recipes is None and ops is not None and ops != ["none"]:
        recipes = []
    grid = Grid(
        devices=tuple(ask("device") or default_devices()),
        backends=_chosen(ask("backends")),
        ops=() if ops == ["none"] else _chosen(ops),
        recipes=_chosen(recipes),
        batch_sizes=_chosen(ask("batch_sizes")),
        image_sizes=_chosen(ask("image_sizes")),
        dtype=ask("dtype") or "float32",
        full=ask("grid") == "full",
    )
    settings = {
        "seed": random.randrange(2**32),
        "passes": ask("passes") or PASSES,
        "case_seconds": ask("case_seconds") or CASE_SECONDS,
        # Of the whole only: who asks for some ops or recipes asks for nothing else.
        "training_on": list(grid.devices) if ask("ops") is None and ask("recipes") is None else [],
    }
    return BenchSession(config, plan(grid), settings)


def _chosen(names: list[Any] | None) -> tuple[Any, ...] | None:
    return None if names is None or names == ["all"] else tuple(dict.fromkeys(names))


def _resumed(config: pytest.Config) -> "BenchSession":
    folder = config.getoption("results")
    if folder is None:
        raise ValueError("--resume needs --results DIR, the folder of the run to go on with")
    given = [name for name in GRID_OPTIONS if config.getoption(name) is not None]
    if given:
        raise ValueError(f"--resume goes on with the plan in {folder}: leave out --{given[0].replace('_', '-')}")
    stored = load_plan(folder)
    return BenchSession(config, [read_entry(entry) for entry in stored["cases"]], stored, load_events(folder))


class BenchSession:
    """The plugin. ``settings`` are seed, passes, case_seconds and training_on, the devices on which the trainer's own step is
    measured; ``events`` is what a resumed run has already measured."""

    def __init__(
        self,
        config: pytest.Config,
        planned: list[PlannedCase],
        settings: dict[str, Any],
        events: list[dict[str, Any]] | None = None,
    ) -> None:
        self.config = config
        self.planned = planned
        self.settings = settings
        self.events = events or []
        self.resuming = events is not None
        self.folder: Path | None = None
        self.trouble: str | None = None
        self._journal: Journal | None = None
        self._bench: Bench | None = None
        self._pytest: pytest.Session | None = None
        self._failed = {e["id"] for e in self.events if e["event"] == "done" and e["status"] == "failed"}
        self._progress = Progress(config)

    # ---- the items and their order

    def passes(self, suite: str) -> Iterator[Item]:
        """The items of a suite: each pass of each case that has no record yet; what is unsupported once, to be seen."""
        if suite == "training":
            yield from self._overhead_passes()
        measured = {(event["id"], event["pass"]) for event in self.events if event["event"] == "done"}
        for planned in self.planned:
            case = planned.case
            if case.suite == suite and case.id not in self._failed:
                for number in range(1 if planned.status == "unsupported" else self.settings["passes"]):
                    if (case.id, number) not in measured:
                        yield CasePass(planned, number)

    def _overhead_passes(self) -> Iterator[OverheadPass]:
        known = load_run(self.config.getoption("results")).training if self.resuming else []
        measured = {(r.get("device"), r.get("round")) for r in known if r.get("kind") == "overhead"}
        for device in self.settings.get("training_on", ()):
            for number in range(self.settings["passes"]):
                if (device, number) not in measured:
                    yield OverheadPass(device, number)

    def marks(self, one: Item) -> pytest.MarkDecorator:
        """pytest-benchmark's clock for the item: one that waits for the device."""
        from bench.grid.timing import Clock

        if isinstance(one, OverheadPass):
            clock = Clock(one.device)
        else:
            clock = Clock("cpu" if one.planned.status == "unsupported" else one.planned.case.device)
        return pytest.mark.benchmark(timer=clock, disable_gc=True)

    def _ordered(self, selected: list[CasePass]) -> list[CasePass]:
        from augment import BACKENDS

        shuffled = random.Random(self.settings["seed"])
        cases = list(dict.fromkeys(one.planned for one in selected))
        chosen = set(selected)
        order = [one for one in selected if one.planned.status == "unsupported"]
        for number in range(self.settings["passes"]):
            for planned in shuffled.sample(cases, len(cases)):
                together = BACKENDS[planned.case.backend].compiled
                if together and number > 0:
                    continue
                numbers = range(self.settings["passes"]) if together else (number,)
                order += [one for i in numbers if (one := CasePass(planned, i)) in chosen and planned.status == "planned"]
        return order

    @pytest.hookimpl(trylast=True)  # after -k has taken its choice
    def pytest_collection_modifyitems(self, items: list[pytest.Function]) -> None:
        # Of a suite without cases pytest makes one item that skips itself.
        ours = {item: one for item in items if (one := pass_of(item)) is not None}
        order: list[Item] = [*self._ordered([one for one in ours.values() if isinstance(one, CasePass)])]
        order += [one for one in ours.values() if isinstance(one, OverheadPass)]  # a step of a model would disturb the cases
        place = {one: index for index, one in enumerate(order)}
        items[:] = sorted(ours, key=lambda item: place[ours[item]])

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if self.config.getoption("collectonly") or not session.items:
            return
        self._pytest = session
        every = [one for item in session.items if (one := pass_of(item)) is not None]
        order = [one for one in every if isinstance(one, CasePass)]
        if not self.resuming:
            selected = {one.planned for one in order}
            self.planned = [planned for planned in self.planned if planned in selected]
        try:
            self._open(order)
        except (ValueError, OSError) as error:
            raise pytest.UsageError(one_line(error, limit=2000)) from None
        timed = [one for one in every if isinstance(one, OverheadPass) or one.planned.status == "planned"]
        self._progress.begin(timed, self.settings, self.folder)

    def _open(self, order: list[CasePass]) -> None:
        from bench.environment import environment
        from bench.grid.inputs import Inputs
        from bench.grid.measuring import Bench

        inputs = Inputs(self.config.getoption("data"), self.config.getoption("data_root"))
        if inputs.dataset["fallback"]:
            self._progress.say(f"NOTE: images are {inputs.dataset['name']}: {inputs.dataset['fallback']}", yellow=True)
        self._bench = Bench(inputs, self.settings["case_seconds"])
        if self.resuming:
            self.folder = self.config.getoption("results")
        else:
            device = next((d for p in self.planned if (d := p.case.device) != "cpu"), "cpu")
            self.folder = run_folder(self.config.getoption("results"), device)
            place = {planned: index for index, planned in enumerate(self.planned)}
            stored = {
                **{"schema": SCHEMA, **self.settings},
                "cases": [plan_entry(planned) for planned in self.planned],
                "order": [[place[one.planned], one.number] for one in order],
            }
            write_json(self.folder / "plan.json", stored)
            speeds = {name: self._bench.copy_bandwidth(name) for name in dict.fromkeys(p.case.device for p in self.planned)}
            write_json(self.folder / "environment.json", {**environment(inputs.dataset), "copy_bytes_per_s": speeds})
        assert self.folder is not None
        self._journal = Journal(self.folder)
        for event in self.events if self.resuming else ():
            if event.get("died"):
                self._journal.append(event)

    # ---- measuring

    def measure(self, one: CasePass, benchmark: Any) -> None:
        """Measure an item and keep its record; the item fails with one line when the case does."""
        assert self._bench is not None, "measured before the run's folder was opened"
        planned, case = one.planned, one.planned.case
        if planned.status == "unsupported":
            pytest.skip(planned.reason or "unsupported")
        if case.id in self._failed:
            pytest.skip("failed in an earlier pass")

        def sampler(function: Any, rounds: int) -> list[float]:
            benchmark.pedantic(function, rounds=rounds)
            return list(benchmark.stats.stats.data)

        self._keep(running(case, one.number))
        try:
            result = self._bench.run(planned, sampler)
        except Exception as error:  # whatever a library raises is this case's result, and the next case's start
            self._fail(case, one.number, error)
        self._keep(done(case, one.number, "ok", **result))
        samples = result["samples_s"]
        rate = case.batch_size * len(samples) / sum(samples)
        benchmark.extra_info.update(
            {"images_per_s": rate, **asdict(case), "draws": planned.draws, "pass": one.number, "threads": result["threads"]}
        )

    def measure_overhead(self, one: OverheadPass, benchmark: Any) -> None:
        """Measure a pass of the trainer's overhead and keep its record; the item fails with one line when that fails."""
        from bench.grid.overhead import measure_pass

        assert self.folder is not None, "measured before the run's folder was opened"
        seconds = one.length * self.settings["case_seconds"]
        record = measure_pass(
            one.device, benchmark, self.config.getoption("data"), self.config.getoption("data_root"), seconds=seconds
        )
        try:
            append_training(self.folder, {**record, "round": one.number})
        except OSError as error:
            self._stop(f"cannot write to {self.folder}: {error.strerror or error}; what was measured is printed below")
        if record["status"] != "ok":
            pytest.fail(record["reason"], pytrace=False)

    def _fail(self, case: Case, number: int, error: Exception) -> None:
        from bench.grid.measuring import device_works

        assert self._bench is not None
        reason = f"{type(error).__name__}: {one_line(error)}"
        self._failed.add(case.id)
        self._keep(done(case, number, "failed", reason=reason))
        error.__traceback__ = None  # its frames hold the tensors that the next case needs the room of
        self._bench.forget()
        if not device_works(case.device):
            self._stop(f"{case.device} is unusable after {case.id}; go on with --results {self.folder} --resume")
        pytest.fail(reason, pytrace=False)

    def _keep(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        if self._journal is None:
            return
        try:
            self._journal.append(event)
        except OSError as error:
            self._journal = None
            self._stop(f"cannot write to {self.folder}: {error.strerror or error}; what was measured is printed below")

    def _stop(self, reason: str) -> None:
        self.trouble = self.trouble or reason
        if self._pytest is not None:
            self._pytest.shouldstop = reason

    # ---- what is said, and the end

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._progress.starting(nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> tuple[str, str, str] | None:
        return self._progress.status(report)

    def pytest_benchmark_update_machine_info(self, machine_info: dict[str, Any]) -> None:
        from bench.environment import environment

        here = environment()
        machine_info.update({"gpus": here["gpus"], "cuda": here["cuda"], "packages": here["packages"]})

    def measurements(self) -> list[Measurement]:
        """The plan joined with what was measured so far."""
        return join([plan_entry(planned) for planned in self.planned], self.events, died=False)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._bench is not None:
            self._bench.close()
        if self.folder is None:
            return
        try:
            finalise(self.folder, self.measurements())
        except OSError as error:
            self.trouble = f"cannot write to {self.folder}: {error.strerror or error}; what was measured is printed below"
        if self.trouble:
            session.exitstatus = pytest.ExitCode.INTERRUPTED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.folder is None:
            return
        for line in summary_lines(self.measurements(), width=terminalreporter._tw.fullwidth):
            terminalreporter.write_line(line)
        if self.trouble:
            terminalreporter.write_line(f"ERROR: {self.trouble}", red=True)
        else:
            terminalreporter.write_line(f"Results: {os.path.relpath(self.folder)}", bold=True)
