"""``augmark calibrate``: the differences that comparisons of runs call on this machine, and their false calls.

Pairs of fresh processes measure the same few cases in turns: as they are, and one of the two also with 2, 5 and 10 % more
images in the batch, which count for nothing. ``compare_runs`` compares them as it compares two runs of a user: in turns
(``augmark turns``), and apart, where the processes are of different pairs. Equal runs give the false calls, added work the
share of slowdowns that is called. No torch at import.
"""

import contextlib
import functools
import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console

from bench.changes import Change, Limits, reach
from bench.compare import compare_runs
from bench.jobs.job import ImageOptions, Job, JobOptions, Report, check_options, data_facts, folder_to_resume, run_job
from bench.jobs.turns import FEWEST_PAIRS, START_S, TURNS, Pair, Session, Side, Slot
from bench.noise import watch
from bench.records import Calibration, Disturbance, Method, Plan, Planted, Run, Speed
from bench.runner import load_plan
from bench.statistics import process_spreads

SUBJECTS = (
    *(("crop_flip", "fused", 2000), ("d2l", "fused", 1000), ("flip", "kornia", 1000), ("crop_flip", "kornia", 500)),
    *(("flip", "torchvision_loop", 100), ("crop_flip", "pil", 100)),
)
"""Recipe, backend and batch size: from tens of microseconds a call to ten milliseconds, all drawn per image."""
ADDED = (0.02, 0.05, 0.1)
SLOTS = (Slot(side=0), *(Slot(side=1, added=added) for added in (0.0, *ADDED)))
PAIR_S = 25.0
"""Seconds of a pair of processes, their start among them: noise comes in phases, so a pair's median takes many rounds."""
SURE = 0.95
"""Share of slowdowns of a size that must be called for the size to be within reach."""
METHODS: tuple[Method, ...] = ("turns", "apart")


def calibrate_job(images: ImageOptions, dataset: Any, device: str, minutes: float, console: Console, suite: str) -> Job:
    """Return the job of both certificates, which take about ``minutes``."""
    pairs = FEWEST_PAIRS * max(1, round(60 * minutes / PAIR_S / FEWEST_PAIRS))
    seconds = max(1.0, 60 * minutes / pairs - START_S)
    case = Calibration(status="not_run", device=device, processes=2 * pairs, level=Limits().level, seconds=seconds)

    @functools.cache
    def measure_pairs() -> tuple[list[Pair], Disturbance]:
        measured, disturbance, sides = list[Pair](), Disturbance(), (Side(), Side())
        session = Session(sides=sides, slots=SLOTS, cases=planned_cases(device), device=device, pairs=pairs, seconds=seconds)
        with watch() as machine:
            for pair in session.measure(images, console):
                measured.append(pair)
                disturbance = machine.disturbance()
                if disturbance.is_strong:
                    break
        return measured, disturbance

    def measure(case: Calibration) -> Calibration:
        measured, disturbance = measure_pairs()
        if disturbance.is_strong:
            return msgspec.structs.replace(case, status="failed", reason=f"not measurable here: {disturbance.words}")
        return summarise(case, measured)

    cases = tuple(msgspec.structs.replace(case, method=method) for method in METHODS)
    return Job(
        name="calibrate", suite=suite, device=device, cases=cases, dataset=dataset, shuffle=False, open=lambda folder: measure
    )


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


def summarise(case: Calibration, pairs: Sequence[Pair]) -> Calibration:
    """Return the certificate of the records of all pairs; it fails where no size is called in 95 %."""
    comparisons = list(_comparisons(case, pairs))
    equal, *slower = (
        [change for a, b, certificate in comparisons for change in compare_slots(_join(a, 0), _join(b, slot), certificate)]
        for slot in range(1, len(SLOTS))
    )
    planted = tuple(
        Planted(added=added, called=[change.verdict for change in column].count("slower"), comparisons=len(column))
        for added, column in zip(ADDED, slower, strict=True)
    )
    reaches = _reaches(equal, case.level or 0.0)
    called_from, reason = smallest_called(planted), "too few rounds were quiet"
    if called_from is None and reaches:
        # What was planted and not called is no size that is called, whatever the spread says.
        size = max(reaches.values())
        called_from, reason = (size, "") if size > ADDED[-1] else (None, f"too few of {ADDED[-1]:.0%} planted were called")
    cases = len({record.case_key for record in pairs[0].slots[0]})
    return msgspec.structs.replace(
        _with_spread(case, pairs), status="ok" if called_from else "failed", reason=None if called_from else reason,
        false_calls=sum(change.verdict in ("slower", "faster") for change in equal), comparisons=len(equal), planted=planted,
        rounds=int(statistics.median(len(pair.slots[0]) // cases for pair in pairs)), reaches=reaches, called_from=called_from,
    )  # fmt: skip


def _comparisons(case: Calibration, pairs: Sequence[Pair]) -> Iterator[tuple[Sequence[Pair], Sequence[Pair], Calibration]]:
    """Yield pairs for sides A and B, none of which serves twice, and the certificate that the comparison may know.

    At different times it is that of all other pairs: by their own spread, equal runs would never be called.
    """
    if case.method == "turns":
        for start in range(0, len(pairs) - FEWEST_PAIRS + 1, FEWEST_PAIRS):
            group = pairs[start : start + FEWEST_PAIRS]
            yield group, group, case
    else:
        for index in range(len(pairs)):
            judged = (index, (index + 1) % len(pairs))
            a, b = ([pairs[number]] for number in judged)
            yield a, b, _with_spread(case, [pair for number, pair in enumerate(pairs) if number not in judged])


def _with_spread(case: Calibration, pairs: Sequence[Pair]) -> Calibration:
    spreads = process_spreads([pair.slots[0] for pair in pairs])
    within, between = (statistics.median(w for w, _ in spreads), max(b for _, b in spreads)) if spreads else (None, None)
    return msgspec.structs.replace(case, processes=2 * len(pairs), within_sd=within, between_sd=between)


def _join(pairs: Sequence[Pair], slot: int) -> list[Speed]:
    return list(itertools.chain.from_iterable(pair.slots[slot] for pair in pairs))


def _reaches(equal: Sequence[Change], level: float) -> dict[str, float]:
    """Return the slowdown of each case that is called in ``SURE``, by the errors of comparisons of equal runs."""
    groups: dict[str, list[Change]] = {}
    for change in equal:
        if change.df:
            groups.setdefault(change.name, []).append(change)
    sizes = {}
    for name, changes in groups.items():
        error = math.sqrt(statistics.fmean(change.error**2 for change in changes))
        sizes[name] = math.expm1(reach(error, statistics.median(change.df for change in changes), level / len(groups), SURE))
    return sizes


def compare_slots(a: Sequence[Speed], b: Sequence[Speed], certificate: Calibration) -> list[Change]:
    """Return the changes by the comparison that is under test; none where others disturbed all."""
    plan = Plan(suite=TURNS, settings={TURNS: TURNS} if certificate.method == "turns" else {})
    runs = [Run(path=Path(name), name=name, plan=plan, records=[*side, certificate]) for name, side in (("A", a), ("B", b))]
    with contextlib.suppress(ValueError):
        return compare_runs(*runs, across_machines=True).speeds
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
    from training.distributed import resolve_device

    check_options(options)
    device = str(resolve_device(options.device))
    dataset = data_facts(options.load(image_size=32))
    folder = folder_to_resume(options)
    suite = "calibrate" if folder is None else load_plan(folder).suite  # a run of another command gets its certificate
    return run_job(calibrate_job(options, dataset, device, options.minutes, console, suite), options, console, report)
