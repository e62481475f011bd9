"""``augmark calibrate``: the differences that ``augmark compare`` calls on this machine, and its false calls.

Fresh processes measure the same few cases in turns: twice as they are, and with 2, 5 and 10 % more images in the batch, which
count for nothing. Each process and amount of work is a run, and ``compare_runs`` compares runs of different processes, as two
runs of a user are. Equal runs give the false calls, added work the share of slowdowns that is called. No torch at import.
"""

import contextlib
import functools
import itertools
import math
import multiprocessing
import random
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console

from bench.compare import Limits, compare_runs
from bench.jobs.job import ImageOptions, Job, JobOptions, Report, data_facts, folder_to_resume, run_job
from bench.noise import watch
from bench.records import Calibration, Planted, Run, Speed
from bench.runner import load_plan, measure_undisturbed
from bench.statistics import Noise, pooled_sds, reach

SUBJECTS = (
    *(("crop_flip", "fused", 2000), ("d2l", "fused", 1000), ("flip", "kornia", 1000), ("crop_flip", "kornia", 500)),
    *(("flip", "torchvision_loop", 100), ("crop_flip", "pil", 100)),
)
"""Recipe, backend and batch size: from tens of microseconds a call to ten milliseconds, all drawn per image."""
ADDED = (0.02, 0.05, 0.1)
SLOTS = (0.0, 0.0, *ADDED)
"""Shares of work added in a process, which measures the cases as they are twice."""
PASS_S = 0.02
START_S = 12.0
"""Seconds in which a process starts and builds its cases."""
FEWEST_PROCESSES, PROCESSES_A_MINUTE = 4, 2.0
SURE = 0.95
"""Share of slowdowns of a size that must be called for the size to be within reach."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Work of a process."""

    data: str
    data_root: Path
    device: str
    seconds: float
    seed: int


def calibrate_job(data: str, data_root: Path, dataset: Any, device: str, minutes: float, console: Console, suite: str) -> Job:
    """Return the job of one certificate, which takes about so many minutes."""
    processes = max(FEWEST_PROCESSES, 2 * round(minutes * PROCESSES_A_MINUTE / 2))
    seconds = max(1.0, 60 * minutes / processes - START_S)
    case = Calibration(status="not_run", device=device, processes=processes, level=Limits().level, seconds=seconds)

    def measure(case: Calibration) -> Calibration:
        tasks = [Task(data=data, data_root=data_root, device=device, seconds=seconds, seed=seed) for seed in range(processes)]
        with watch() as machine, fresh_processes() as pool:
            results = []
            for number, result in enumerate(pool.map(measure_process, tasks), start=1):
                results.append(result)
                left_s = (processes - number) * (seconds + START_S)
                console.print(f"calibrate: process {number} of {processes}, {left_s:.0f} s left")
        certificate = summarise(case, results)
        disturbance = machine.disturbance()
        if not disturbance.is_strong:
            return certificate
        reason = f"not measurable here: {disturbance.words}"
        return msgspec.structs.replace(certificate, status="failed", reason=reason, called_from=None)

    return Job(name="calibrate", suite=suite, device=device, cases=(case,), dataset=dataset, open=lambda folder: measure)


def fresh_processes() -> ProcessPoolExecutor:
    """Return a pool that starts a process for each task, one after the other."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1)


def measure_process(task: Task) -> list[list[Speed]]:
    """Measure all cases in turns, each with every share of added work, in this process; return records by slot."""
    from bench.clock import Clock, sample
    from bench.jobs.inputs import Inputs
    from bench.jobs.speed import Bench

    bench, sampler = Bench(Inputs(task.data, task.data_root), PASS_S), functools.partial(sample, clock=Clock(task.device))
    cells = list(itertools.product(range(len(SLOTS)), planned_cases(task.device)))
    order, deadline = random.Random(task.seed), time.monotonic() + task.seconds
    slots: list[list[Speed]] = [[] for _ in SLOTS]
    number = 0
    while number < 2 or time.monotonic() < deadline:
        for slot, case in order.sample(cells, len(cells)):
            size = case.batch_size or 1
            loaded = msgspec.structs.replace(case, batch_size=round(size * (1 + SLOTS[slot])), round=number + 1)
            record = measure_undisturbed(loaded, lambda case: bench.measure(case, sampler))
            if isinstance(record, Speed) and record.images_per_s:  # what was added does not count
                speed = record.images_per_s * size / (loaded.batch_size or 1)
                slots[slot].append(msgspec.structs.replace(record, batch_size=size, images_per_s=speed))
        number += 1
    bench.close()
    return slots


def planned_cases(device: str) -> list[Speed]:
    """Return the cases that run on the device."""
    from augment import BACKENDS

    return [
        Speed(
            status="not_run", suite="recipes", subject=subject, backend=backend, device=device, batch_size=size, image_size=32
        )
        for subject, backend, size in SUBJECTS
        if device == "cpu" or BACKENDS[backend].on_device
    ]  # fmt: skip


# ---- the certificate --------------------------------------------------------------------------------------------------


def summarise(case: Calibration, results: Sequence[Sequence[Sequence[Speed]]]) -> Calibration:
    """Return the certificate of the records by process and slot.

    Processes are compared in disjoint pairs, so that no record serves twice in one share.
    """
    pairs = [pair for a, b in zip(results[::2], results[1::2], strict=False) for pair in ((a, b), (b, a))]
    within, between = pooled_sds([process[0] for process in results])
    certificate = msgspec.structs.replace(case, between_sd=between)  # compare reads it from the runs, as it will from this one
    verdicts = [
        [verdict for a, b in pairs for verdict in compare_slots(a[0], b[slot], certificate)] for slot in range(1, len(SLOTS))
    ]
    false_calls = sum(verdict in ("slower", "faster") for verdict in verdicts[0])
    planted = tuple(
        Planted(added=added, called=column.count("slower"), comparisons=len(column))
        for added, column in zip(ADDED, verdicts[1:], strict=True)
    )
    cases = len({record.case_key for record in results[0][0]})
    rounds = int(statistics.median(len(process[0]) // cases for process in results))
    called_from, reason = smallest_called(planted), "too few rounds were quiet"
    if called_from is None and within is not None and between is not None and verdicts[0]:
        noises = Noise(within**2, rounds - 1), Noise(between**2, len(results) - 1)
        size = math.expm1(reach(*noises, rounds, (case.level or 0.0) / cases, SURE))
        # What was planted and not called is no size that is called, whatever the spread says.
        called_from, reason = (size, "") if size > ADDED[-1] else (None, f"too few of {ADDED[-1]:.0%} planted were called")
    return msgspec.structs.replace(
        case, status="ok" if called_from else "failed", reason=None if called_from else reason,
        false_calls=false_calls, comparisons=len(verdicts[0]), planted=planted, within_sd=within, between_sd=between,
        rounds=rounds, called_from=called_from,
    )  # fmt: skip


def compare_slots(a: Sequence[Speed], b: Sequence[Speed], certificate: Calibration) -> list[str]:
    """Return the verdict on each case by the comparison that is under test; none where others disturbed all."""
    runs = [Run(path=Path(name), name=name, records=[*side, certificate]) for name, side in (("A", a), ("B", b))]
    with contextlib.suppress(ValueError):
        return [change.verdict for change in compare_runs(*runs, across_machines=True).speeds]
    return []


def smallest_called(planted: Sequence[Planted]) -> float | None:
    """Return the slowdown from which on ``SURE`` are called, between planted ones by a straight line; None beyond all."""
    shares = [p.called / max(1, p.comparisons) for p in planted]
    sure = next((i for i in range(len(shares)) if min(shares[i:]) >= SURE), None)
    if sure is None:
        return None
    if sure == 0:
        return planted[0].added
    return float(np.interp(SURE, shares[sure - 1 : sure + 1], [p.added for p in planted[sure - 1 : sure + 1]]))


# ---- the command ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions(JobOptions, ImageOptions):
    """Options of ``augmark calibrate``."""

    device: str = "auto"
    """auto, cpu, cuda:0, ..."""
    minutes: float = 5.0
    """Time for all; one is enough for a first answer. With --resume the run in --results gets the certificate."""


def calibrate(options: CalibrateOptions, console: Console, report: Report) -> Path:
    """Compare this machine with itself and write the report. Returns the run folder.

    Raises ValueError (nothing was measured: a number, device or data set that does not exist) and OSError (results cannot be
    written).
    """
    from training.data import load
    from training.distributed import resolve_device

    if not 0 < options.minutes < 1440:
        raise ValueError(f"minutes must be above 0 and less than 1440, got {options.minutes:g}")
    device = str(resolve_device(options.device))
    dataset = data_facts(load(options.data, root=options.data_root, image_size=32, download=options.download))
    folder = folder_to_resume(options)
    suite = "calibrate" if folder is None else load_plan(folder).suite  # a run of another command gets its certificate
    job = calibrate_job(options.data, options.data_root, dataset, device, options.minutes, console, suite)
    return run_job(job, options, console, report)
