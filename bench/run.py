"""``augmark run``: the audit, benchmarks, training throughput of every placement, a short accuracy comparison, and the report.

The benchmarks run in a process of their own, because a compiled case can take the CUDA context, or the process, with it; the
rest goes on in a fresh one. What was measured is on disk at once, so an interrupted run still gets its report.
"""

import contextlib
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from rich.console import Console

from bench.endtoend.outcomes import outcome, recorded
from bench.grid.cases import check_names, one_line
from bench.presets import Preset, PresetName, preset
from bench.records.runs import AUDIT, SCHEMA, append_training, load_run, run_folder, write_json

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.data import Dataset

ROOT = Path(__file__).resolve().parent.parent
RESTARTS = 50
PYTEST_INTERRUPTED, PYTEST_INTERNAL_ERROR, PYTEST_USAGE_ERROR = 2, 3, 4


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What ``augmark run`` was asked for; None takes the default."""

    preset: PresetName = "quick"
    device: str | None = None
    data: str = "auto"
    data_root: Path = Path("data")
    download: bool = False
    results: Path | None = None
    backends: tuple[str, ...] | None = None
    recipes: tuple[str, ...] | None = None
    passes: int | None = None


def run(options: RunOptions, console: Console) -> Path:
    """Measure everything that the options ask for and write the report. Returns the run's folder.

    Raises ValueError (nothing was measured: a name, device or data set that does not exist), OSError (results cannot be
    written), KeyboardInterrupt (after the report of what there is).
    """
    from bench.grid.cases import check_device
    from bench.report import write_report
    from training.data import load
    from training.distributed import resolve_device

    device = str(resolve_device(options.device or "auto"))
    check_device(device)
    _check_options(options)
    chosen = preset(options.preset, device)
    dataset = load(
        options.data, root=options.data_root, download=options.download, max_train=chosen.max_train, max_test=chosen.max_test
    )
    console.print(f"[bold]augmark[/] {options.preset} run on {device}, images: {dataset.name}")
    if dataset.fallback:
        console.print(f"[bold red]Not a real data set:[/] {dataset.fallback}")
    folder = run_folder(options.results, device)
    console.print(f"results go to {folder}")
    try:
        _audit(options, chosen, dataset, folder, console)
        _gallery(options, chosen, dataset, folder, console)
        _benchmarks(options, chosen, folder)
        _throughput(options, chosen, dataset, device, folder, console)
        _accuracy(options, chosen, dataset, device, folder, console)
    except BaseException:
        with contextlib.suppress(
            ValueError, OSError
        ):  # nothing measured yet, or a full disk: the first error is the one to tell
            write_report(load_run(folder))
        raise
    console.print(f"report: {write_report(load_run(folder))}")
    return folder


def _check_options(options: RunOptions) -> None:
    from augment import BACKENDS, RECIPES

    if options.passes is not None and options.passes < 1:
        raise ValueError(f"passes must be at least 1, got {options.passes}")
    check_names("backend", options.backends, BACKENDS)
    check_names("recipe", options.recipes, RECIPES)


def _audit(options: RunOptions, chosen: Preset, dataset: "Dataset", folder: Path, console: Console) -> None:
    """Before speed: which backends do the same thing. On the CPU, where the oracle is."""
    from augment import BACKENDS
    from bench.audit import run_audit

    if chosen.audit_draws is None:
        return
    subjects = _looked_at(options, chosen)
    if subjects["backends"] is not None:
        subjects["backends"] = tuple(name for name in subjects["backends"] if not BACKENDS[name].compiled)
    try:
        record = run_audit(dataset, folder, console, **subjects, draws=chosen.audit_draws)
    except Exception as error:  # a fault there must not cost the measurements; the report tells it
        reason = f"{type(error).__name__}: {one_line(error)}"
        console.print(f"[bold red]the audit failed:[/] {reason}")
        write_json(folder / AUDIT, {"schema": SCHEMA, "failed": reason})
        return
    counts = Counter(one["verdict"] for one in record["verdicts"])
    console.print(f"audit: {', '.join(f'{number} {verdict}' for verdict, number in counts.most_common())}")


class _Subjects(TypedDict):
    """Of audit and gallery; None stands for all."""

    backends: tuple[str, ...] | None
    ops: tuple[str, ...] | None
    recipes: tuple[str, ...] | None


def _looked_at(options: RunOptions, chosen: Preset) -> _Subjects:
    return _Subjects(
        backends=options.backends or chosen.audited_backends,
        ops=None if chosen.audited_recipes is None else (),
        recipes=options.recipes or chosen.audited_recipes,
    )


def _gallery(options: RunOptions, chosen: Preset, dataset: "Dataset", folder: Path, console: Console) -> None:
    """Pictures of what is measured, for the report. Where they cannot be drawn, the measurements go on."""
    from bench.pictures.gallery import spread_out
    from bench.pictures.strips import draw_strips

    with console.status("gallery: every op and recipe on every backend"):
        try:
            images = spread_out(dataset.train.images)
            draw_strips(images, folder, dataset=dataset.name, **_looked_at(options, chosen))
        except Exception as error:  # whatever a library raises; the report says that there are none
            console.print(f"[bold red]the gallery failed:[/] {type(error).__name__}: {one_line(error)}")


# ---- benchmarks -------------------------------------------------------------------------------------------------------


def _benchmarks(options: RunOptions, chosen: Preset, folder: Path) -> None:
    # With "=": a folder that stands by itself pytest takes for a place to look for tests in.
    command = [sys.executable, "-m", "pytest", "--benchmark-only", "-q", f"--results={folder.resolve()}", *chosen.grid]
    command += [f"--data={_absolute_data(options)}", f"--data-root={options.data_root.resolve()}"]
    if options.device is not None:
        command += ["--device", options.device]
    if options.backends is not None:
        command += ["--backends", ",".join(options.backends)]
    if options.recipes is not None:
        ops = "all" if chosen.audited_recipes is None else "none"
        command += ["--ops", ops, "--recipes", ",".join(options.recipes)]
    if options.passes is not None:
        command += ["--passes", str(options.passes)]
    for _ in range(RESTARTS):
        status = _patiently(command)
        if status == PYTEST_INTERRUPTED:
            raise KeyboardInterrupt
        if status == PYTEST_USAGE_ERROR:
            raise ValueError("the benchmarks could not start; the reason stands above")
        if status in (0, 1) and not _unfinished(folder):
            return
        command = [*command, "--resume"] if "--resume" not in command else command
    raise OSError(f"the benchmarks died {RESTARTS} times; what they measured is in {folder}")


def _patiently(command: list[str]) -> int:
    """Run and wait; after Ctrl-C, which the child gets too, wait until it has put away what it measured."""
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
            process.terminate()
            raise


def _absolute_data(options: RunOptions) -> str:
    return str(Path(options.data).resolve()) if os.sep in options.data or Path(options.data).is_dir() else options.data


def _unfinished(folder: Path) -> bool:
    return any(measurement.status == "not_run" for measurement in load_run(folder).measurements)


# ---- training ---------------------------------------------------------------------------------------------------------


def _throughput(options: RunOptions, chosen: Preset, dataset: "Dataset", device: str, folder: Path, console: Console) -> None:
    from bench.endtoend.throughput import Axes, measure_arms, where_decoded, worker_counts
    from bench.environment import usable_cores
    from training.config import settled, validate

    base = replace(
        chosen.settings, model=chosen.model, width=chosen.width, device=device, max_train=chosen.max_train, precision="auto",
        resident=False,
    )  # fmt: skip
    base = settled(base, validate(base))
    few = chosen.throughput_workers
    axes = Axes(
        recipes=options.recipes or chosen.throughput_recipes,
        backends=options.backends or chosen.throughput_backends,
        workers=worker_counts() if few is None else tuple(sorted({min(count, usable_cores()) for count in few})),
        decode=where_decoded(dataset),
    )
    measure_arms(base, axes, dataset, folder, console, seconds=chosen.throughput_seconds, rounds=chosen.throughput_rounds)


def _accuracy(options: RunOptions, chosen: Preset, dataset: "Dataset", device: str, folder: Path, console: Console) -> None:
    from training.loop import train

    jobs = [
        replace(_accuracy_config(recipe, chosen, device), seed=seed)
        for seed in chosen.seeds
        for recipe in options.recipes or chosen.recipes
    ]
    for done, config in enumerate(jobs, start=1):
        with console.status(f"accuracy {done}/{len(jobs)}: {config.recipe}, seed {config.seed}"):
            record = recorded("accuracy", config, dataset, partial(train, config, dataset))
        append_training(folder, record)
        words = outcome(record, "test_accuracy", "test accuracy {:.1%}") + _timed(record)
        console.print(f"accuracy {done}/{len(jobs)}  {config.recipe}, seed {config.seed}: {words}")


def _timed(record: dict[str, Any]) -> str:
    seconds, target = record.get("seconds_to_target"), record.get("target_accuracy")
    return "" if seconds is None else f", {target:.1%} after {seconds:.1f} s of training"


def _accuracy_config(recipe: str, chosen: Preset, device: str) -> "TrainConfig":
    """The recipe as it is meant: on a backend that draws it per image, batched on the device where one can."""
    from augment import RECIPES, lane
    from augment.catalog import check_supported
    from bench.environment import usable_cores

    config = chosen.timed or replace(chosen.settings, model=chosen.model, width=chosen.width, epochs=chosen.epochs)
    config = replace(config, device=device, max_train=chosen.max_train, recipe=recipe)
    ops = RECIPES[recipe](config.image_size)
    for backend in ("fused", "kornia"):
        with contextlib.suppress(ValueError):  # UnsupportedOp
            check_supported(ops, backend)
            if lane(ops, backend) not in ("per_batch", "mixed"):
                return replace(config, backend=backend, augment_on="device", num_workers=0)
    return replace(config, backend="torchvision_loop", augment_on="workers", num_workers=usable_cores(), resident=False)
