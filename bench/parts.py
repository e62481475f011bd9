"""Parts of ``augmark run``: tests, audit, gallery, grid, throughput, accuracy, sweep, pipeline.

Each adds to one run folder. A part that is done is skipped when a run is resumed; one that runs out of time leaves the rest of
its cases planned.
"""

import contextlib
import importlib.util
import itertools
import math
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.table import Column, Table

from bench.jobs.airbench import airbench_jobs
from bench.jobs.job import (
    ImageOptions,
    Job,
    JobOptions,
    absolute,
    data_facts,
    measure_cases,
    once,
    outcome,
    plan_training,
    train_in_turn,
)
from bench.presets import ABOUT, PartName, Preset, PresetName
from bench.processes import wait_for
from bench.records import AUDIT, ENVIRONMENT, PLAN, Accuracy, Audit, load_run, one_line, read, write
from bench.runner import add_cases
from training.config import DATA_SETS
from training.cpus import usable_cpus

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.data import Dataset

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = (
    *(str(ROOT / "bench"), "--rootdir", str(ROOT / "bench"), "-c", os.devnull, "--import-mode=importlib"),
    *("-p", "bench.plugin", "-p", "no:cacheprovider"),
)
"""Arguments for pytest that collect the benchmarks wherever the package is installed, whatever settings lie around it."""
RESTARTS = 50
PYTEST_INTERRUPTED, PYTEST_USAGE_ERROR, PYTEST_NO_TESTS = 2, 4, 5
TESTS_LOG = "tests.log"
TEST_PROCESSES = 8
DURATIONS = "; ".join(f"{name}: {about}" for name, about in ABOUT.items())
PEER_JOBS = {"airbench": airbench_jobs}
"""Training by other packages, by the recipe that they train with."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(JobOptions, ImageOptions):
    """Options of ``augmark run``; None takes the default."""

    preset: Annotated[PresetName, tyro.conf.arg(help=f"Size of the run. {DURATIONS}.")] = "quick"
    device: str | None = None
    """cpu, cuda, cuda:1, mps ... (default: the accelerator if there is one; the grid then measures the CPU too)."""
    backends: tuple[str, ...] | None = None
    """Backends to measure, see augmark list backends (default: the preset's)."""
    recipes: tuple[str, ...] | None = None
    """Recipes to measure and train with, see augmark list recipes (default: the preset's)."""
    rounds: int | None = None
    """Rounds over the grid, each in its own order (default: the preset's)."""
    minutes: float | None = None
    """Time for all parts together (default: the preset's; without a limit all cases are measured)."""
    part: PartName | None = None
    """Run this part alone, into the folder --results, without a report."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Options and data that all parts of a run share. ``deadline``: when the part that runs must end, by ``time.monotonic``."""

    options: RunOptions
    preset: Preset
    device: str
    dataset: "Dataset"
    folder: Path
    console: Console
    deadline: float = math.inf
    phase: str = ""
    """Number of this part among all, for the display."""
    later_s: float = 0.0
    """Estimated seconds of the parts that follow."""

    @property
    def left_s(self) -> float | None:
        """Seconds until the deadline, one at least; None without a deadline."""
        return None if math.isinf(self.deadline) else max(1.0, self.deadline - time.monotonic())


def run_part(name: PartName, work: Work) -> None:
    """Run a part; print a table of its results if it has printed none."""
    from bench.environment import environment

    if name in PARTS:
        PARTS[name](work)
        return
    if not (work.folder / ENVIRONMENT).exists():  # that of the grid, unless it has failed
        write(work.folder / ENVIRONMENT, environment(data_facts(work.dataset)))
    jobs = JOBS[name](work)
    if not jobs:
        work.console.print(f"{name}: left out, it needs --data FOLDER of images")
        return
    for job in jobs:
        measure_cases(
            job, work.folder, work.console, phase=work.phase, later_s=work.later_s,
            keep_going=lambda: time.monotonic() < work.deadline,
        )  # fmt: skip
    print_results(work.folder, {case.case_key for job in jobs for case in job.cases}, work.console)


def plan_training_parts(work: Work) -> None:
    """Add the cases of all parts to the run's plan, so that what is missing is known."""
    if (work.folder / PLAN).exists():
        for name in work.preset.parts:
            for job in JOBS[name](work) if name in JOBS else ():
                add_cases(work.folder, job.cases)


def print_results(folder: Path, keys: set[tuple[Any, ...]], console: Console) -> None:
    """Print the median result of cases."""
    table = Table(Column("case", overflow="fold"), "n", "result", box=None)
    for case in load_run(folder).cases():
        if case.case_key in keys:
            table.add_row(case.name, str(len(case.records)), outcome(case))
    console.print(table)


# ---- tests, audit and gallery -----------------------------------------------------------------------------------------


def run_tests(work: Work) -> None:
    """Run the tests marked gpu and those of the kernels, in parallel where pytest-xdist is installed."""
    log, tests = work.folder / TESTS_LOG, ROOT / "tests"
    if log.exists():
        return
    if not (ROOT / "conftest.py").exists():
        work.console.print("tests: left out, they are in the repository and not in a wheel")
        return
    parallel = ["-n", str(min(TEST_PROCESSES, usable_cpus()))] if importlib.util.find_spec("xdist") else []
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *parallel]
    # On a CPU the kernels' tests run in Triton's interpreter, for minutes: they are part of the usual tests.
    kernels = [] if work.device == "cpu" else sorted(str(path) for path in tests.rglob("test_cuda*.py"))
    with (work.folder / f"{TESTS_LOG}.tmp").open("w") as file:
        for selection in filter(None, (["-m", "gpu", str(tests)], kernels)):
            wait_for([*command, *selection], work.left_s, cwd=ROOT, stdout=file, stderr=file)
    os.replace(file.name, log)
    lines = log.read_text(errors="replace").splitlines()
    results = [line.strip("= ") for line in lines if re.search(r"\d (passed|failed|skipped|errors?).* in \d", line)]
    work.console.print(f"tests: {'; '.join(results) or 'none ended in time'} (all in {log.name})")


def _subjects(work: Work) -> dict[str, Any]:
    """Return the subjects of audit and gallery by kind; None stands for all."""
    return {
        "backends": work.options.backends or work.preset.audited_backends,
        "ops": None if work.preset.audited_recipes is None else (),
        "recipes": work.options.recipes or work.preset.audited_recipes,
    }


def run_audit(work: Work) -> None:
    """Audit before speed is measured: which backends do the same thing."""
    from augment import BACKENDS
    from bench import audit as auditing

    before = read(work.folder / AUDIT, Audit)
    if work.preset.audit_draws is None or (before is not None and not before.failed):
        return
    subjects = _subjects(work)
    if subjects["backends"] is not None:
        subjects["backends"] = tuple(name for name in subjects["backends"] if not BACKENDS[name].compiled)
    device = work.device if work.preset.audits_device else "cpu"
    try:
        audit = auditing.run_audit(
            work.dataset, work.folder, work.console, **subjects, draws=work.preset.audit_draws, device=device
        )
    except Exception as error:  # must not cost the measurements; the report tells it
        reason = f"{type(error).__name__}: {one_line(error)}"
        work.console.print(f"the audit failed: {reason}", style="bold red")
        write(work.folder / AUDIT, Audit(failed=reason))
        return
    counts = Counter(cell.verdict for cell in audit.verdicts)
    work.console.print(f"audit: {', '.join(f'{number} {verdict}' for verdict, number in counts.most_common())}")


def draw_gallery(work: Work) -> None:
    """Draw what is measured, for the report. Where that fails, the measurements continue."""
    from bench.gallery import draw_strips, spread_out

    if (work.folder / "gallery" / "gallery.json").exists():
        return
    with work.console.status("gallery: every op and recipe on every backend"):
        try:
            images = spread_out(work.dataset.train.images)
            draw_strips(images, work.folder, dataset=work.dataset.name, **_subjects(work))
        except Exception as error:  # whatever a library raises; the report says that there are none
            work.console.print(f"the gallery failed: {type(error).__name__}: {one_line(error)}", style="bold red")


# ---- grid -------------------------------------------------------------------------------------------------------------


def run_grid(work: Work) -> None:
    """Run the benchmarks in a process of their own: a compiled case can take the CUDA context, or the process, with it."""
    folder = work.folder
    # With "=": a folder that stands by itself pytest takes for a place to look for tests in.
    command = [sys.executable, "-m", "pytest", *BENCHMARKS, "--benchmark-only", "-qq", "--tb=no", "-rN"]
    command += [f"--results={folder.resolve()}", f"--phase={work.phase}"]
    command += [f"--later={work.later_s}"] if work.later_s else []
    command += [f"--data={absolute(work.options.data)}", f"--data-root={work.options.data_root.resolve()}"]
    command += [] if work.left_s is None else [f"--time-limit={work.left_s:.0f}"]
    options = ["--resume"] if (folder / PLAN).exists() else _grid_options(work)
    for _ in range(RESTARTS):
        if not _unfinished(folder):
            return
        status = wait_for([*command, *options], cwd=ROOT)
        if status in (PYTEST_INTERRUPTED, PYTEST_USAGE_ERROR):
            raise ValueError("the benchmarks ended early; the reason stands above")
        if time.monotonic() >= work.deadline or status == PYTEST_NO_TESTS or (status in (0, 1) and not _unfinished(folder)):
            return
        options = ["--resume"]  # the plan stands in the folder
    raise OSError(f"the benchmarks died {RESTARTS} times; what they measured is in {folder}")


def _grid_options(work: Work) -> list[str]:
    options = [*work.preset.grid, "--suite", work.options.preset]
    if work.options.device is not None:
        options += ["--device", work.options.device]
    if work.options.backends is not None:
        options += ["--backends", ",".join(work.options.backends)]
    if work.options.recipes is not None:
        ops = "all" if work.preset.audited_recipes is None else "none"
        options += ["--ops", ops, "--recipes", ",".join(work.options.recipes)]
    return [*options, "--rounds", str(work.options.rounds)] if work.options.rounds is not None else options


def _unfinished(folder: Path) -> bool:
    """Return whether cases of the grid have not run, or none is planned yet."""
    if not (folder / PLAN).exists():
        return True
    cases = load_run(folder).cases("speed", "overhead")
    return not cases or any(case.status == "not_run" for case in cases)


# ---- training ---------------------------------------------------------------------------------------------------------


def throughput_jobs(work: Work) -> list[Job]:
    """Return the training throughput of every placement, a job per batch size.

    Where batch sizes share a limited time, jobs of what the others are held against come before: the ceiling and fused.
    """
    from bench.jobs.throughput import ThroughputOptions, plan_throughput

    preset, run = work.preset, work.options
    sizes = preset.throughput_batch_sizes or (preset.settings.batch_size,)
    options = ThroughputOptions(data=run.data, data_root=run.data_root, recipes=run.recipes, backends=run.backends)
    jobs = [plan_throughput(replace(options, batch_size=size), preset, work.dataset, work.device, run.preset) for size in sizes]
    first = [replace(job, cases=tuple(case for case in job.cases if _is_essential(case))) for job in jobs]
    return [*first, *jobs] if preset.throughput_batch_sizes else jobs


def _is_essential(case: Any) -> bool:
    on_device = case.augment_on == "device" and case.resident and not case.augment_stream
    return case.augment_on == "frozen" or (on_device and case.backend == "fused")


def accuracy_jobs(work: Work) -> list[Job]:
    """Return the training of the preset's recipes with every seed, and that of other trainers with their recipes."""
    recipes, seeds = work.options.recipes or work.preset.recipes, work.preset.seeds
    peers = [
        PEER_JOBS[recipe](work.dataset, work.device, seeds, work.options.preset) for recipe in recipes if recipe in PEER_JOBS
    ]
    return [_accuracy_job(work, recipes, seeds), *itertools.chain(*peers)]


def sweep_jobs(work: Work) -> list[Job]:
    """Return the training of every recipe of the sweep with more and more seeds."""
    return [_accuracy_job(work, work.options.recipes or work.preset.sweep_recipes, tuple(range(work.preset.sweep_seeds)))]


def _accuracy_job(work: Work, recipes: tuple[str, ...], seeds: tuple[int, ...]) -> Job:
    configs = [replace(_accuracy_config(work, recipe), seed=seed) for seed in seeds for recipe in recipes]
    cases = once(plan_training(Accuracy, config, work.dataset) for config in configs)
    return Job(
        name="accuracy", suite=work.options.preset, device=work.device, cases=cases, shuffle=False,
        dataset=data_facts(work.dataset), open=lambda folder: train_in_turn(configs[0], work.dataset),
    )  # fmt: skip


def _accuracy_config(work: Work, recipe: str) -> "TrainConfig":
    """Return the recipe on a backend that draws it per image, batched on the device where possible."""
    from augment import check_supported, lane, resolve
    from training.config import resolve_auto, validate

    preset = work.preset
    config = preset.timed or replace(preset.settings, model=preset.model, width=preset.width, epochs=preset.epochs)
    config = replace(config, device=work.device, max_train=preset.max_train, recipe=recipe)
    ops = resolve(recipe, config.image_size)
    placed = replace(config, backend="torchvision_loop", augment_on="workers", num_workers=usable_cpus(), resident=False)
    for backend in ("fused", "kornia"):
        with contextlib.suppress(ValueError):  # UnsupportedOp
            check_supported(ops, backend)
            if lane(ops, backend) not in ("per_batch", "mixed"):
                placed = replace(config, backend=backend, augment_on="device", num_workers=0)
                break
    return resolve_auto(placed, validate(placed))


def calibrate_jobs(work: Work) -> list[Job]:
    """Return the certificate of a minute."""
    from bench.jobs.calibrate import calibrate_job

    return [calibrate_job(work.options, data_facts(work.dataset), work.device, 1.0, work.console, work.options.preset)]


def pipeline_jobs(work: Work) -> list[Job]:
    """Return the arms from JPEG files to batches; none for a data set that has no files."""
    from bench.jobs.pipeline import PipelineOptions, load, pipeline_job

    if work.options.data in DATA_SETS:
        return []
    cache = work.options.data_root / ".cache"
    options = PipelineOptions(data=Path(work.options.data), cache=cache, device=work.device, **work.preset.pipeline)
    return [pipeline_job(options, load(options), work.options.preset)]


PARTS: Mapping[str, Callable[[Work], None]] = {
    "tests": run_tests, "audit": run_audit, "gallery": draw_gallery, "grid": run_grid,
}  # fmt: skip
JOBS: Mapping[str, Callable[[Work], list[Job]]] = {
    "throughput": throughput_jobs, "accuracy": accuracy_jobs, "sweep": sweep_jobs, "calibrate": calibrate_jobs,
    "pipeline": pipeline_jobs,
}  # fmt: skip
"""Parts that are jobs, in this process."""
