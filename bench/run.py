"""``augmark run``: the parts of a preset, most important first, into one run folder with a report.

Records are on disk at once, so an interrupted run still gets its report. Under ``--minutes`` every part has a share of the time
and a process of its own, so that a fault of the device, or a part that hangs, leaves the others.
"""

import importlib.metadata
import math
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import psutil
from rich.console import Console

from bench.jobs.job import (
    Report,
    absolute,
    announce,
    check_options,
    data_facts,
    duration,
    folder_to_resume,
    keep_options,
    reporting,
)
from bench.parts import ROOT, Work, plan_training_parts, run_part
from bench.parts import RunOptions as RunOptions
from bench.presets import preset
from bench.processes import wait_for
from bench.records import AUDIT, PLAN, holds_run, load_run, run_folder
from bench.runner import load_plan, resume

GRACE_S = 60.0
"""Seconds that a part may take beyond its share, to end the case that runs."""
PHASES = {"grid": "benchmarks"}
"""Words for parts whose names are ours."""


def run(options: RunOptions, console: Console, report: Report) -> Path:
    """Measure everything that the options ask for and write the report. Returns the run folder.

    Raises ValueError (nothing was measured: a name, device or data set that does not exist), OSError (results cannot be
    written), KeyboardInterrupt (after the report of what there is).
    """
    work = _prepare(options, console)
    if options.part is not None:
        age_s = time.time() - psutil.Process().create_time()  # starting and loading the data are part of the time
        run_part(options.part, replace(work, deadline=time.monotonic() + 60 * (options.minutes or math.inf) - age_s))
        return work.folder
    minutes = options.minutes or work.preset.minutes
    with reporting(work.folder, report):
        try:
            if minutes is None:
                _run_all(work)
            else:
                _run_in_time(options, work, 60 * minutes)
        finally:
            plan_training_parts(work)
        if not (holds_run(work.folder) or (work.folder / AUDIT).exists()):
            raise ValueError(f"nothing was measured in {minutes:g} minutes: take more --minutes")
    if minutes is not None:
        console.print(f"archive: {shutil.make_archive(str(work.folder), 'gztar', work.folder.parent, work.folder.name)}")
    return work.folder


def _prepare(options: RunOptions, console: Console) -> Work:
    """Check the options, load the data and make the run folder, or check the one to resume."""
    from training.distributed import resolve_device

    device = str(resolve_device(options.device or "auto"))
    check_options(options)
    folder_to_resume(options)
    chosen = preset(options.preset, device)
    dataset = options.load(max_train=chosen.max_train, max_test=chosen.max_test)
    if options.part is not None and options.results is not None:
        folder = options.results
        folder.mkdir(parents=True, exist_ok=True)
    elif (resumed := folder_to_resume(options)) is not None:
        folder = resumed
        if (folder / PLAN).exists():
            _check_resumable(folder)
    else:
        folder = run_folder(options.results, options.preset, importlib.metadata.version("augmark"), device)
    if options.part is None:
        keep_options(folder, options)
        announce(console, f"augmark {options.preset} run on {device}", data_facts(dataset), f"results go to {folder}")
    return Work(options=options, preset=chosen, device=device, dataset=dataset, folder=folder, console=console)


def _check_resumable(folder: Path) -> None:
    """Raise ValueError unless machine, versions and code are those of the run; the grid checks its data itself."""
    from bench.environment import environment

    stored = load_run(folder).environment
    here = environment()
    resume(folder, load_plan(folder), msgspec.structs.replace(here, dataset=stored.dataset if stored else None))


def _run_all(work: Work) -> None:
    """Run every part; the time of later ones is estimated from their shares and from what parts so far have taken."""
    begin, parts = time.monotonic(), work.preset.parts
    shares = work.preset.shares or (0.0,) * len(parts)
    for index, name in enumerate(parts):
        pace = (time.monotonic() - begin) / sum(shares[:index]) if sum(shares[:index]) else 1.0
        phase, later_s = f"{index + 1}/{len(parts)} {PHASES.get(name, name)}", pace * sum(shares[index + 1 :])
        ending = f", about {duration(later_s + pace * shares[index])} left" if shares[index] else ""
        work.console.print(f"{phase}{ending}", style="bold")
        run_part(name, replace(work, phase=phase, later_s=later_s))


def _run_in_time(options: RunOptions, work: Work, seconds: float) -> None:
    """Run every part in a process of its own; time that a part leaves goes to the later ones."""
    deadline, shares = time.monotonic() + seconds, work.preset.shares
    for index, name in enumerate(work.preset.parts):
        weight = shares[index] / sum(shares[index:]) if shares else 1 / (len(work.preset.parts) - index)
        budget = weight * max(0.0, deadline - time.monotonic())
        if budget < 1:
            work.console.print(f"{name}: left out, the time is up; add --resume --results {work.folder}")
            continue
        work.console.print(f"{name}: {duration(budget)}", style="bold")
        status = wait_for(_part_command(options, work, name, budget), budget + GRACE_S, cwd=ROOT)
        if status != 0:
            work.console.print(f"{name} ended early (exit code {status}); what it measured is kept", style="bold red")


def _part_command(options: RunOptions, work: Work, name: str, seconds: float) -> list[str]:
    command = [sys.executable, "-m", "bench", "run", "--part", name, "--minutes", f"{seconds / 60:.3f}"]
    command += ["--preset", options.preset, "--data", absolute(options.data), "--data-root", str(options.data_root.resolve())]
    command += ["--results", str(work.folder.resolve())]
    for option in ("device", "rounds", "backends", "recipes"):
        if (value := getattr(options, option)) is not None:
            command += [f"--{option}", *map(str, value if isinstance(value, tuple) else [value])]
    return command
