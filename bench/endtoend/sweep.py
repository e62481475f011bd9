"""``augmark sweep``: accuracy with error bars. Cells (a recipe, backend and seed each) go to this process, to ``--workers``
local ones, or to torchrun's; each is on disk as it ends, and ``--resume`` goes on with what is left."""

import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.console import Console

from bench.endtoend.outcomes import outcome, recorded
from bench.endtoend.sweep_plan import await_plan, check_same, failures, finished, planned, shared_settings
from bench.grid.cases import check_names
from bench.presets import COMMON
from bench.records.runs import SCHEMA, append_training, load_run, run_folder, write_json
from training.config import TrainConfig
from training.presets import BOOK, PresetName

if TYPE_CHECKING:
    from training.dataset import Dataset
    from training.sweep import Cell

CLAIMS = "claims"


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """What ``augmark sweep`` was asked for."""

    config: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)
    """What all cells share; seed is the first of the seeds."""
    preset: PresetName = BOOK
    """The settings to start from; every option overrides one."""
    recipes: tuple[str, ...] = COMMON
    """Recipes to train with."""
    backends: tuple[str, ...] = ("fused",)
    """Backends to train each recipe with."""
    seeds: int = 3
    """How many seeds; runs of one seed share initial weights and order over recipes and backends."""
    baseline: str | None = None
    """What the others are held against, as recipe@backend (default: the first of each)."""
    workers: int | None = None
    """Processes that train cells at the same time on this machine (default: one a GPU, else one)."""
    resume: bool = False
    """Go on with the sweep in --results; more seeds, recipes and backends may be asked for than before."""
    retry_failed: bool = False
    """With --resume: train again the cells that failed. Without it they are left as they are."""
    results: Path | None = None
    """Folder of the run (default: results/<date>-<machine>-<device>)."""


@dataclass(frozen=True, kw_only=True)
class _Share:
    """What one process of a sweep has to know. ``parent`` is the process that started it for this, if one did."""

    base: TrainConfig
    todo: Sequence["Cell"]
    folder: Path
    index: int
    at_once: int
    parent: int | None


def sweep(options: SweepOptions, console: Console) -> Path | None:
    """Train all cells that have no record yet and write the report. Returns the run's folder.

    Under torchrun every process takes cells, and the one that finds all done writes the report; the others return None.

    Raises ValueError (nothing was trained: a wrong name, setting or folder), OSError (results cannot be written, or a process
    died and left cells undone), KeyboardInterrupt (after the report of what there is).
    """
    from augment import UnsupportedOp
    from training.config import settled, validate
    from training.sweep import cell_config, cells, on_its_own

    rank, index = os.environ.get("RANK"), int(os.environ.get("LOCAL_RANK", "0"))
    at_once = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if rank is not None else options.workers
    baseline = _check(options, launched=rank is not None)
    own = on_its_own(options.config, index)
    device = validate(replace(own, recipe="none", backend="torchvision", augment_on="device"))
    base = settled(options.config, device)
    todo = cells(options.recipes, options.backends, range(base.seed, base.seed + options.seeds))
    for cell in todo[: len(todo) // options.seeds]:
        with contextlib.suppress(UnsupportedOp):  # which is a record; what no cell can be is told at once
            validate(cell_config(replace(base, device=own.device), cell))
    folder = options.results or Path()
    if rank not in (None, "0"):
        await_plan(folder)
    dataset = _load(base)
    settings = shared_settings(base, dataset, device.type)
    if rank in (None, "0"):
        folder = _prepare(options, settings, todo, baseline, dataset, device.type, console)
    else:
        check_same(folder, planned(folder), settings)
    if rank is None:
        unfinished = len(set(todo) - finished(folder))
        at_once = max(1, min(at_once or _default_workers(own, base), unfinished))  # cores are shared among those that have work
    share = _Share(base=base, todo=todo, folder=folder, index=index, at_once=at_once or 1, parent=None)
    try:
        if rank is not None or share.at_once == 1:
            _work(replace(share, base=replace(base, device=own.device)), dataset)
        else:
            _in_processes(share)
    except BaseException:
        with contextlib.suppress(ValueError, OSError):  # the first error is the one to tell
            _report(folder, todo, console, alone=rank is None)
        raise
    left = _report(folder, todo, console, alone=rank is None)
    if left:
        raise OSError(
            f"{len(left)} of {len(todo)} cells have not run, the first {left[0]}: go on with --resume --results {folder}"
        )
    return None if left is None else folder


# ---- before -----------------------------------------------------------------------------------------------------------


def _check(options: SweepOptions, *, launched: bool) -> str:
    """Raises ValueError for what cannot be meant. Returns the baseline's name."""
    from augment import BACKENDS, RECIPES
    from training.presets import PRESETS

    preset = PRESETS[options.preset]
    if (options.config.recipe, options.config.backend) != (preset.recipe, preset.backend):
        raise ValueError("a sweep trains with many: take --recipes and --backends instead of --recipe and --backend")
    if not options.config.augments:
        raise ValueError("a sweep without augmentation compares nothing: take --recipes none ... and --augment-on device")
    if options.seeds < 1 or (options.workers is not None and options.workers < 1):
        raise ValueError("--seeds and --workers must be at least 1")
    check_names("recipe", options.recipes, RECIPES)
    check_names("backend", options.backends, BACKENDS)
    if options.retry_failed and not options.resume:
        raise ValueError("--retry-failed goes with --resume")
    if options.results is None and (launched or options.resume):
        raise ValueError("give --results: the folder that all processes share, or that is to be resumed")
    if launched and options.workers is not None:
        raise ValueError("torchrun says how many processes there are: leave --workers out")
    names = [f"{recipe}@{backend}" for recipe in options.recipes for backend in options.backends]
    if options.baseline is not None and options.baseline not in names:
        raise ValueError(f"unknown baseline {options.baseline!r}; this sweep has {', '.join(names)}")
    return options.baseline or names[0]


def _default_workers(own: TrainConfig, base: TrainConfig) -> int:
    import torch

    return 1 if own.device == base.device else torch.accelerator.device_count()


def _load(base: TrainConfig) -> "Dataset":
    from training.data import load

    return load(
        base.data, root=base.data_root, image_size=base.image_size, max_train=base.max_train, max_test=base.max_test,
        download=base.download,
    )  # fmt: skip


def _prepare(
    options: SweepOptions,
    settings: Mapping[str, Any],
    todo: Sequence["Cell"],
    baseline: str,
    dataset: "Dataset",
    device: str,
    console: Console,
) -> Path:
    """Make the run's folder, or find that of the sweep that is resumed, and write down what is planned."""
    from bench.environment import environment

    plan = {"baseline": baseline, "settings": settings, "cells": [[cell.recipe, cell.backend, cell.seed] for cell in todo]}
    if options.resume and options.results is not None:
        folder, before = options.results, planned(options.results)
        check_same(folder, before, settings)
        plan["cells"] = [*before["cells"], *(cell for cell in plan["cells"] if cell not in before["cells"])]
        plan["baseline"] = options.baseline or before.get("baseline", baseline)
        plan["retried"] = failures(folder) if options.retry_failed else before.get("retried", [])
    else:
        folder = run_folder(options.results, device)
        data = {"name": dataset.name, "fingerprint": dataset.fingerprint, "fallback": dataset.fallback}
        write_json(folder / "environment.json", environment(data))
    write_json(folder / "plan.json", {"schema": SCHEMA, "sweep": plan})
    console.print(f"[bold]augmark[/] sweep of {len(todo)} cells on {device}, images: {dataset.name}; results go to {folder}")
    if dataset.fallback:
        console.print(f"[bold red]Not a real data set:[/] {dataset.fallback}")
    return folder


# ---- the work ---------------------------------------------------------------------------------------------------------


def _in_processes(share: _Share) -> None:
    """Share the cells out among fresh processes, and wait for them."""
    context = multiprocessing.get_context("spawn")  # a forked process could not use CUDA
    shares = [replace(share, index=index, parent=os.getpid()) for index in range(share.at_once)]
    processes = [context.Process(target=_worker, args=(one,)) for one in shares]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join()
    except KeyboardInterrupt:  # they have had it too
        for process in processes:
            process.join(timeout=30)
            process.terminate()
        raise


def _worker(share: _Share) -> None:
    """A local process of a sweep, with its share of the cores and a GPU of its own where there are enough."""
    from training.sweep import on_its_own

    base = on_its_own(share.base, share.index)
    try:
        _work(replace(share, base=base), _load(base))
    except KeyboardInterrupt:
        pass
    except (ValueError, OSError) as error:  # a full disk, say; the parent tells what is left
        print(f"error in worker {share.index}: {error}", file=sys.stderr, flush=True)


def _work(share: _Share, dataset: "Dataset") -> None:
    """Train what is left, in this process."""
    import torch

    from bench.environment import usable_cores
    from training.distributed import resolve_device
    from training.sweep import Claims, run_cells

    device = resolve_device(share.base.device)
    if share.at_once > 1:
        torch.set_num_threads(max(1, usable_cores() // share.at_once))
    claims = Claims(share.folder / CLAIMS)
    progress = _Progress(share)

    def write(record: Mapping[str, Any]) -> None:
        with claims.turn():  # network file systems do not append as one
            append_training(share.folder, record)
        progress.tell(record)

    run_cells(
        share.todo, partial(_attempt, share, dataset), claims=claims, finished=partial(finished, share.folder), write=write,
        go_on=partial(_go_on, device, share.parent),
    )  # fmt: skip


def _attempt(share: _Share, dataset: "Dataset", cell: "Cell") -> dict[str, Any]:
    """Train one cell. Its record has the kind of device, not which one of several, and how many cells ran at once."""
    from training.distributed import resolve_device
    from training.loop import train
    from training.sweep import cell_config

    config, start = cell_config(share.base, cell), time.perf_counter()
    record = recorded("accuracy", config, dataset, partial(train, config, dataset))
    kind = resolve_device(config.device).type
    return {**record, "device": kind, "cells_at_once": share.at_once, "cell_s": time.perf_counter() - start}


def _go_on(device: Any, parent: int | None) -> bool:
    """False for a worker whose parent has gone, and once the device is at fault: what it then computes could not be trusted."""
    from training.distributed import synchronise

    if parent is not None and os.getppid() != parent:
        return False
    try:
        synchronise(device)
    except RuntimeError:
        return False
    return True


class _Progress:
    """A line for each cell that this process ends, with the time that is left for all."""

    def __init__(self, share: _Share) -> None:
        self._share, self._console, self._start = share, Console(), time.monotonic()
        self._before = len(self._done())

    def _done(self) -> set["Cell"]:
        return finished(self._share.folder) & set(self._share.todo)

    def tell(self, record: Mapping[str, Any]) -> None:
        from bench.grid.progress import duration  # brings pytest, which --help need not wait for
        from training.sweep import Cell

        done, total = len(self._done()), len(self._share.todo)
        each = (time.monotonic() - self._start) / max(1, done - self._before)
        left = f", {duration(each * (total - done))} left" if done < total else ""
        words = outcome(dict(record), "test_accuracy", "test accuracy {:.1%}")
        self._console.print(
            f"{done}/{total}  {Cell.of(record)}: {words} in {duration(record['cell_s'])}{left}", highlight=False
        )


# ---- after ------------------------------------------------------------------------------------------------------------


def _report(folder: Path, todo: Sequence["Cell"], console: Console, *, alone: bool) -> list["Cell"] | None:
    """The report and the table of what there is. Returns the cells that nobody has done or is doing; None where that is left
    to another process."""
    from bench.endtoend.sweep_table import print_table
    from bench.report import write_report
    from training.sweep import Claims

    left = [cell for cell in todo if cell not in finished(folder)]
    claims = Claims(folder / CLAIMS)
    if not alone and (left or not claims.exist):
        return None  # others are at it, or have done it
    with claims.turn():
        if not alone and not claims.exist:
            return None  # another has done it while this one waited
        run = load_run(folder)
        report = write_report(run) if run.training else None
        if not left:
            claims.remove()
    print_table(run, console)
    if report is not None:
        console.print(f"report: {report}")
    return left
