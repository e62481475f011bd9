"""``augmark sweep``: accuracy with error bars.

Cases (a recipe, backend and seed each) go to this process, to ``--workers`` local ones, or to torchrun's; each is on disk as it
ends, and ``--resume`` trains what is left.

Seeds are paired: runs of one seed start from the same weights and see the images in the same order, whatever their recipe
and backend, so that the difference of two such runs holds less chance than either of them. Imports no torch.
"""

import contextlib
import dataclasses
import functools
import multiprocessing
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.console import Console

from bench.jobs.grid import check_names
from bench.jobs.job import (
    Job,
    JobOptions,
    Report,
    check_batches,
    data_facts,
    folder_to_resume,
    measure_cases,
    once,
    open_folder,
    plan_training,
    reporting,
    train_in_turn,
)
from bench.noise import ROOT_VARIABLE
from bench.presets import COMMON
from bench.processes import end_with
from bench.records import CLAIMS, Accuracy, Plan, load_run
from bench.runner import await_owners, await_plan, check_settings, find_missing
from training.config import MOST_WORKERS, TrainConfig
from training.cpus import usable_cpus
from training.interrupts import shielded
from training.presets import BOOK, PresetName
from training.terminal import open_console

if TYPE_CHECKING:
    from training.data import Dataset

LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
"""Environment variables by which torchrun tells a process that it is one of many."""
UNSHARED = ("recipe", "backend", "seed", "num_workers", "target_accuracy", "device")
"""Settings that need not be equal to resume."""


@dataclass(frozen=True, kw_only=True)
class SweepOptions(JobOptions):
    """Options of ``augmark sweep``."""

    config: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)
    """Settings that all cases share; seed is the first of the seeds."""
    preset: PresetName = BOOK
    """The settings to start from; every option overrides one."""
    recipes: tuple[str, ...] = COMMON
    """Recipes to train with."""
    backends: tuple[str, ...] = ("fused",)
    """Backends to train each recipe with."""
    seeds: int = 3
    """Number of seeds; runs of one seed share initial weights and order over recipes and backends."""
    baseline: str | None = None
    """Recipe@backend that all are compared with (default: the first of each)."""
    workers: int | None = None
    """Processes that train cases at the same time on this machine (default: one per GPU, else one)."""
    retry_failed: bool = False
    """Train the cases that failed again, with --resume. Else they stay failed."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """Part of a sweep for one of ``at_once`` processes on this machine."""

    base: TrainConfig
    cases: Sequence[Accuracy]
    folder: Path
    index: int
    at_once: int


def sweep(options: SweepOptions, console: Console, report: Report) -> Path | None:
    """Train all cases that have no record yet and write the report.

    Under torchrun every process takes cases; the first one waits for the others and writes the report.

    Returns:
        The run folder; None for a process that leaves the report to another one.

    Raises:
        ValueError: nothing was trained: a wrong name, setting or folder.
        OSError: results cannot be written, or a process died and left cases undone.
        KeyboardInterrupt: after the report of what there is.
    """
    import torch

    from training.data import load_for

    rank, index = os.environ.get("RANK"), int(os.environ.get("LOCAL_RANK", "0"))
    baseline = _check(options, launched=rank is not None)
    local = give_device(options.config, index)
    base, device = _check_config(options, local)
    # The first process, which leads, has then loaded the data into a cache.
    plan = None if rank in (None, "0") else await_plan(options.results or Path())
    dataset = load_for(base)
    check_batches(dataclasses.replace(base, device=local.device), dataset)
    workers = options.workers or (1 if local.device == base.device else torch.accelerator.device_count())
    cases = plan_cases(options, base, dataset, device, at_once=workers)
    job = sweep_job(cases, base, dataset, device, baseline=baseline, at_once=1)
    local_base, at_once = dataclasses.replace(base, device=local.device), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if plan is not None:
        folder = options.results or Path()
        check_settings(folder, plan, Plan(suite=job.suite, settings=dict(job.settings)))
        train_share(Share(base=local_base, cases=cases, folder=folder, index=index, at_once=at_once), dataset, console)
        return None
    folder = open_folder(job, options, console, retry_failed=options.retry_failed)
    with reporting(folder, lambda folder: report(folder) if load_run(folder).records else None):
        if rank is None:  # cores are shared among those that have work
            at_once = max(1, min(workers, len(find_missing(folder, cases))))
        share = Share(base=base, cases=cases, folder=folder, index=index, at_once=at_once)
        if rank is not None or at_once == 1:
            train_share(dataclasses.replace(share, base=local_base), dataset, console)
            await_owners(folder, cases)
        else:
            train_in_processes(share)
    if missing := find_missing(folder, cases):
        first = f"{missing[0].recipe}@{missing[0].backend}, seed {missing[0].seed}"
        raise OSError(f"{len(missing)} of {len(cases)} cases have not run, the first {first}: add --resume --results {folder}")
    if rank is None:  # processes of torchrun may still look for work there
        shutil.rmtree(folder / CLAIMS, ignore_errors=True)
    return folder


# ---- the cases --------------------------------------------------------------------------------------------------------


def _check(options: SweepOptions, *, launched: bool) -> str:
    """Raise ValueError for contradictory options. Returns the baseline's name."""
    from augment import BACKENDS
    from training.presets import PRESETS

    preset = PRESETS[options.preset]
    if (options.config.recipe, options.config.backend) != (preset.recipe, preset.backend):
        raise ValueError("a sweep trains with many: take --recipes and --backends instead of --recipe and --backend")
    if not options.config.augments:
        raise ValueError("a sweep without augmentation compares nothing: take --recipes none ... and --augment-on device")
    if options.seeds < 1 or not 1 <= (1 if options.workers is None else options.workers) <= MOST_WORKERS:
        raise ValueError(f"--seeds and --workers must be at least 1, --workers at most {MOST_WORKERS:,}")
    check_names("backend", options.backends, BACKENDS)
    if options.retry_failed and not options.resume:
        raise ValueError("--retry-failed goes with --resume")
    if options.results is None and launched:
        raise ValueError("give --results: the folder that all processes share")
    folder_to_resume(options)
    if launched and options.workers is not None:
        raise ValueError("torchrun says how many processes there are: leave --workers out")
    names = [f"{recipe}@{backend}" for recipe in options.recipes for backend in options.backends]
    if options.baseline is not None and options.baseline not in names:
        raise ValueError(f"unknown baseline {options.baseline!r}; this sweep has {', '.join(names)}")
    return options.baseline or names[0]


def _check_config(options: SweepOptions, local: TrainConfig) -> tuple[TrainConfig, str]:
    """Return the settings that all cases share, and the type of device. ValueError for what no case can be."""
    from augment import UnsupportedOp
    from training.config import resolve_auto, validate
    from training.distributed import resolve_device

    device = resolve_device(local.device)
    base = resolve_auto(options.config, device)
    for recipe in options.recipes:
        for backend in options.backends:
            with contextlib.suppress(UnsupportedOp):  # a record of its own
                validate(case_config(dataclasses.replace(base, device=local.device), recipe, backend, base.seed))
    return base, device.type


def plan_cases(options: SweepOptions, base: TrainConfig, dataset: "Dataset", device: str, *, at_once: int) -> list[Accuracy]:
    """Return every combination once, seed after seed, so that a sweep that is cut short has whole pairs.

    A case has the type of device, not which one of several.
    """
    return [
        plan_training(Accuracy, case_config(base, recipe, backend, seed, at_once=at_once), dataset, device=device)
        for seed in range(base.seed, base.seed + options.seeds)
        for recipe in once(options.recipes)
        for backend in once(options.backends)
    ]


def case_config(base: TrainConfig, recipe: str, backend: str, seed: int, *, at_once: int = 1) -> TrainConfig:
    """Return the config of a case.

    Beside an accelerator, a backend that works image by image gets loader workers (a share of the cores, unless ``base`` gives
    a number); on a CPU all run where ``base`` says.
    """
    from augment import BACKENDS
    from training.distributed import resolve_device

    config = dataclasses.replace(base, recipe=recipe, backend=backend, seed=seed)
    if BACKENDS[backend].on_device or resolve_device(base.device).type == "cpu":
        return config
    workers = base.num_workers or max(1, usable_cpus() // at_once)
    return dataclasses.replace(config, augment_on="workers", num_workers=workers, resident=False)


def give_device(base: TrainConfig, index: int) -> TrainConfig:
    """Return the config of the ``index``-th local process, with a GPU of its own while there are enough; then they take turns.

    Under torchrun the process leaves its group, as each of its cases is a run of its local: DDP would make one run of all.
    Raises ValueError for a device that this machine lacks.
    """
    import torch

    from training.distributed import resolve_device

    if "RANK" in os.environ:
        os.environ.setdefault(ROOT_VARIABLE, str(os.getppid()))  # torchrun, whose processes measure side by side
    for name in LAUNCHER:
        os.environ.pop(name, None)
    device = resolve_device(base.device)
    if device.type != "cuda" or torch.device("cuda" if base.device == "auto" else base.device).index is not None:
        return base
    return dataclasses.replace(base, device=f"cuda:{index % torch.accelerator.device_count()}")


def sweep_job(
    cases: Sequence[Accuracy], base: TrainConfig, dataset: "Dataset", device: str, *, baseline: str | None, at_once: int
) -> Job:
    """Return the job that trains the cases in this process, one of ``at_once`` that do so side by side."""
    shared = {name: value for name, value in base.as_record().items() if name not in UNSHARED}
    return Job(
        name="sweep", suite="sweep", device=device, cases=tuple(cases), dataset=data_facts(dataset), shuffle=False,
        open=lambda folder: train_in_turn(base, dataset, cells_at_once=at_once), baseline=baseline,
        settings={**shared, "device": device},
    )  # fmt: skip


# ---- the processes ----------------------------------------------------------------------------------------------------


def train_in_processes(share: Share) -> None:
    """Share the cases out among fresh processes, and wait for them."""
    os.environ.setdefault(ROOT_VARIABLE, str(os.getpid()))
    context = multiprocessing.get_context("spawn")  # a forked process could not use CUDA
    shares = [dataclasses.replace(share, index=index) for index in range(share.at_once)]
    processes = [context.Process(target=run_worker, args=(part,)) for part in shares]
    with shielded():
        for process in processes:
            process.start()
    try:
        for process in processes:
            process.join()
    except KeyboardInterrupt:
        for process in processes:
            process.terminate()
        raise


def run_worker(share: Share) -> None:
    """Run as a local process of a sweep, with its share of the cores and a GPU of its own where there are enough."""
    from training.data import load_for

    if (parent := multiprocessing.parent_process()) is not None:
        end_with(parent.pid or 0)
    base = give_device(share.base, share.index)
    try:
        train_share(dataclasses.replace(share, base=base), load_for(base), open_console())
    except (ValueError, OSError) as error:  # a full disk, say; the parent tells what is left
        print(f"error in worker {share.index}: {error}", file=sys.stderr, flush=True)


def train_share(share: Share, dataset: "Dataset", console: Console) -> None:
    """Train what is left of the cases, in this process, while the results of its device can be trusted."""
    import torch

    from bench.jobs.speed import device_works
    from training.distributed import resolve_device

    device = resolve_device(share.base.device)
    if share.at_once > 1:
        torch.set_num_threads(max(1, usable_cpus() // share.at_once))
    job = sweep_job(share.cases, share.base, dataset, device.type, baseline=None, at_once=share.at_once)
    measure_cases(job, share.folder, console, shared=True, keep_going=functools.partial(device_works, str(device)))
