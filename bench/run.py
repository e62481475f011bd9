"""``augmark run``: audit, gallery, benchmarks, training throughput of every placement, a short accuracy comparison, report.

The benchmarks run in a process of their own, because a compiled case can take the CUDA context, or the process, with it; the
rest continues in a fresh one. Records are on disk at once, so an interrupted run still gets its report.
"""

import contextlib
import importlib.metadata
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from rich.console import Console

from bench.jobs.grid import check_names
from bench.jobs.job import Job, Report, data_facts, fill, measure_cases, plan_training, reporting
from bench.presets import Preset, PresetName, preset
from bench.records import AUDIT, Accuracy, Audit, load_run, one_line, run_folder, write
from bench.runner import Measure

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.data import Dataset

ROOT = Path(__file__).resolve().parent.parent
RESTARTS = 50
PYTEST_INTERRUPTED, PYTEST_USAGE_ERROR = 2, 4


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of ``augmark run``; None takes the default."""

    preset: PresetName = "quick"
    device: str | None = None
    data: str = "auto"
    data_root: Path = Path("data")
    download: bool = False
    results: Path | None = None
    backends: tuple[str, ...] | None = None
    recipes: tuple[str, ...] | None = None
    rounds: int | None = None


def run(options: RunOptions, console: Console, report: Report) -> Path:
    """Measure everything that the options ask for and write the report. Returns the run folder.

    Raises ValueError (nothing was measured: a name, device or data set that does not exist), OSError (results cannot be
    written), KeyboardInterrupt (after the report of what there is).
    """
    from bench.jobs.grid import check_device
    from training.data import load
    from training.distributed import resolve_device

    device = str(resolve_device(options.device or "auto"))
    check_device(device)
    _check(options)
    chosen = preset(options.preset, device)
    dataset = load(
        options.data, root=options.data_root, download=options.download, max_train=chosen.max_train, max_test=chosen.max_test
    )
    console.print(f"[bold]augmark[/] {options.preset} run on {device}, images: {dataset.name}")
    if dataset.fallback:
        console.print(f"[bold red]Not a real data set:[/] {dataset.fallback}")
    folder = run_folder(options.results, options.preset, importlib.metadata.version("augmark"), device)
    console.print(f"results go to {folder}")
    with reporting(folder, report):
        _audit(options, chosen, dataset, folder, console)
        _gallery(options, chosen, dataset, folder, console)
        _benchmarks(options, chosen, folder)
        measure_cases(_throughput_job(options, chosen, dataset, device), folder, console)
        measure_cases(_accuracy_job(options, chosen, dataset, device), folder, console)
    return folder


def _check(options: RunOptions) -> None:
    from augment import BACKENDS, RECIPES

    if options.rounds is not None and options.rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {options.rounds}")
    check_names("backend", options.backends, BACKENDS)
    check_names("recipe", options.recipes, RECIPES)


# ---- audit and gallery ------------------------------------------------------------------------------------------------


class _Subjects(TypedDict):
    """Subjects of audit and gallery; None stands for all."""

    backends: tuple[str, ...] | None
    ops: tuple[str, ...] | None
    recipes: tuple[str, ...] | None


def _subjects(options: RunOptions, chosen: Preset) -> _Subjects:
    return _Subjects(
        backends=options.backends or chosen.audited_backends,
        ops=None if chosen.audited_recipes is None else (),
        recipes=options.recipes or chosen.audited_recipes,
    )


def _audit(options: RunOptions, chosen: Preset, dataset: "Dataset", folder: Path, console: Console) -> None:
    """Audit before speed is measured: which backends do the same thing. On the CPU, where the oracle is."""
    from augment import BACKENDS
    from bench.audit import run_audit

    if chosen.audit_draws is None:
        return
    subjects = _subjects(options, chosen)
    if subjects["backends"] is not None:
        subjects["backends"] = tuple(name for name in subjects["backends"] if not BACKENDS[name].compiled)
    try:
        audit = run_audit(dataset, folder, console, **subjects, draws=chosen.audit_draws)
    except Exception as error:  # must not cost the measurements; the report tells it
        reason = f"{type(error).__name__}: {one_line(error)}"
        console.print(f"[bold red]the audit failed:[/] {reason}")
        write(folder / AUDIT, Audit(failed=reason))
        return
    counts = Counter(cell.verdict for cell in audit.verdicts)
    console.print(f"audit: {', '.join(f'{number} {verdict}' for verdict, number in counts.most_common())}")


def _gallery(options: RunOptions, chosen: Preset, dataset: "Dataset", folder: Path, console: Console) -> None:
    """Draw what is measured, for the report. Where that fails, the measurements continue."""
    from bench.gallery import draw_strips, spread_out

    with console.status("gallery: every op and recipe on every backend"):
        try:
            draw_strips(spread_out(dataset.train.images), folder, dataset=dataset.name, **_subjects(options, chosen))
        except Exception as error:  # whatever a library raises; the report says that there are none
            console.print(f"[bold red]the gallery failed:[/] {type(error).__name__}: {one_line(error)}")


# ---- benchmarks -------------------------------------------------------------------------------------------------------


def _benchmarks(options: RunOptions, chosen: Preset, folder: Path) -> None:
    # With "=": a folder that stands by itself pytest takes for a place to look for tests in.
    command = [sys.executable, "-m", "pytest", "--benchmark-only", "-q", f"--results={folder.resolve()}"]
    command += [f"--data={_absolute_data(options)}", f"--data-root={options.data_root.resolve()}"]
    chosen_options = [*chosen.grid, "--suite", options.preset]
    if options.device is not None:
        chosen_options += ["--device", options.device]
    if options.backends is not None:
        chosen_options += ["--backends", ",".join(options.backends)]
    if options.recipes is not None:
        ops = "all" if chosen.audited_recipes is None else "none"
        chosen_options += ["--ops", ops, "--recipes", ",".join(options.recipes)]
    if options.rounds is not None:
        chosen_options += ["--rounds", str(options.rounds)]
    for _ in range(RESTARTS):
        status = _wait_for([*command, *chosen_options])
        if status == PYTEST_INTERRUPTED:
            raise KeyboardInterrupt
        if status == PYTEST_USAGE_ERROR:
            raise ValueError("the benchmarks could not start; the reason stands above")
        if status in (0, 1) and all(case.status != "not_run" for case in load_run(folder).cases()):
            return
        chosen_options = ["--resume"]  # the plan stands in the folder
    raise OSError(f"the benchmarks died {RESTARTS} times; what they measured is in {folder}")


def _wait_for(command: list[str]) -> int:
    """Run a command; after Ctrl-C, which the child gets too, wait until it has stored what it measured."""
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


# ---- training ---------------------------------------------------------------------------------------------------------


def _throughput_job(options: RunOptions, chosen: Preset, dataset: "Dataset", device: str) -> Job:
    from bench.environment import usable_cores
    from bench.jobs.throughput import Axes, default_decode, throughput_job, worker_counts
    from training.config import resolve_auto, validate

    base = replace(
        chosen.settings, model=chosen.model, width=chosen.width, device=device, max_train=chosen.max_train, precision="auto",
        resident=False,
    )  # fmt: skip
    base = resolve_auto(base, validate(base))
    few = chosen.throughput_workers
    axes = Axes(
        recipes=options.recipes or chosen.throughput_recipes,
        backends=options.backends or chosen.throughput_backends,
        workers=worker_counts() if few is None else tuple(sorted({min(count, usable_cores()) for count in few})),
        decode=default_decode(dataset),
    )
    return throughput_job(
        base, axes, dataset, seconds=chosen.throughput_seconds, rounds=chosen.throughput_rounds, suite=options.preset
    )


def _accuracy_job(options: RunOptions, chosen: Preset, dataset: "Dataset", device: str) -> Job:
    from training.loop import train

    configs = [
        replace(_accuracy_config(recipe, chosen, device), seed=seed)
        for seed in chosen.seeds
        for recipe in options.recipes or chosen.recipes
    ]
    cases = {case.key: (case, config) for config in configs for case in [plan_training(Accuracy, config, dataset)]}

    @contextlib.contextmanager
    def opened(folder: Path) -> Iterator[Measure]:
        yield lambda case: fill(case, train(cases[case.key][1], dataset))

    return Job(
        name="accuracy", suite=options.preset, device=device, cases=tuple(case for case, _ in cases.values()),
        dataset=data_facts(dataset), open=opened, shuffle=False,
    )  # fmt: skip


def _accuracy_config(recipe: str, chosen: Preset, device: str) -> "TrainConfig":
    """Return the recipe on a backend that draws it per image, batched on the device where possible."""
    from augment import check_supported, lane, resolve
    from bench.environment import usable_cores
    from training.config import resolve_auto, validate

    config = chosen.timed or replace(chosen.settings, model=chosen.model, width=chosen.width, epochs=chosen.epochs)
    config = replace(config, device=device, max_train=chosen.max_train, recipe=recipe)
    ops = resolve(recipe, config.image_size)
    placed = replace(config, backend="torchvision_loop", augment_on="workers", num_workers=usable_cores(), resident=False)
    for backend in ("fused", "kornia"):
        with contextlib.suppress(ValueError):  # UnsupportedOp
            check_supported(ops, backend)
            if lane(ops, backend) not in ("per_batch", "mixed"):
                placed = replace(config, backend=backend, augment_on="device", num_workers=0)
                break
    return resolve_auto(placed, validate(placed))
