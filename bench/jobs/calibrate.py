"""``augmark calibrate``: the differences that comparisons of runs call on this machine, and their false calls.

Pairs of fresh processes measure the same few cases in turns: as they are, and one of the two also with 2, 5 and 10 % more
images in the batch, which count for nothing. ``compare_runs`` compares them as it compares two runs of a user: in turns
(``augmark turns``), and apart, where the processes are of different pairs. Equal runs give the false calls, added work the
share of slowdowns that is called. No torch at import.
"""

import contextlib
import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console

from bench.compare import Limits, compare_runs
from bench.jobs.job import ImageOptions, Job, JobOptions, Report, data_facts, folder_to_resume, run_job
from bench.jobs.turns import FEWEST_PAIRS, START_S, TURNS, Pair, Side, Slot, Work, measure_in_turns
from bench.noise import watch
from bench.records import Calibration, Method, Plan, Planted, Run, Speed
from bench.runner import load_plan
from bench.statistics import Change, Noise, process_spreads, reach

SUBJECTS = (
    *(("crop_flip", "fused", 2000), ("d2l", "fused", 1000), ("flip", "kornia", 1000), ("crop_flip", "kornia", 500)),
    *(("flip", "torchvision_loop", 100), ("crop_flip", "pil", 100)),
)
"""Recipe, backend and batch size: from tens of microseconds a call to ten milliseconds, all drawn per image."""
ADDED = (0.02, 0.05, 0.1)
SLOTS = (Slot(side=0), *(Slot(side=1, added=added) for added in (0.0, *ADDED)))
PAIR_S = 16.5
"""Seconds of a pair of processes, their start among them."""
GROUP = 9
"""Pairs of a comparison in turns, where there are as many."""
SURE = 0.95
"""Share of slowdowns of a size that must be called for the size to be within reach."""
Verdicts = Sequence[Sequence[str]]
"""Verdicts of comparisons, for each slot of side B."""


def calibrate_job(data: str, data_root: Path, dataset: Any, device: str, minutes: float, console: Console, suite: str) -> Job:
    """Return the job of one certificate, which takes about so many minutes."""
    pairs = max(FEWEST_PAIRS, round(60 * minutes / PAIR_S))
    seconds = max(1.0, 60 * minutes / pairs - START_S)
    cases = [
        Calibration(status="not_run", method=method, device=device, processes=2 * pairs, level=Limits().level, seconds=seconds)
        for method in SUMMARIES
    ]
    work, measured = Work(data=data, data_root=data_root, device=device), list[Pair]()

    def measure(case: Calibration) -> Calibration:
        with watch() as machine:
            if not measured:  # both certificates are of the same processes
                turns = measure_in_turns([Side(), Side()], work, planned_cases(device), SLOTS, pairs=pairs, seconds=seconds)
                for number, pair in enumerate(turns, start=1):
                    measured.append(pair)
                    left_s = (pairs - number) * (seconds + START_S)
                    console.print(f"calibrate: pair {number} of {pairs} pairs of processes, {left_s:.0f} s left")
        certificate = SUMMARIES[case.method](case, measured)
        disturbance = machine.disturbance()
        if not disturbance.is_strong:
            return certificate
        reason = f"not measurable here: {disturbance.words}"
        return msgspec.structs.replace(certificate, status="failed", reason=reason, called_from=None)

    return Job(
        name="calibrate",
        suite=suite,
        device=device,
        cases=tuple(cases),
        dataset=dataset,
        open=lambda folder: measure,
        shuffle=False,
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


def summarise_turns(case: Calibration, pairs: Sequence[Pair]) -> Calibration:
    """Return the certificate of comparisons in turns: groups of pairs, each of which serves once for a share."""
    count = len(pairs) // max(1, len(pairs) // GROUP)
    groups = [pairs[start : start + count] for start in range(0, len(pairs) - count + 1, count)]
    verdicts = []
    for slot in range(1, len(SLOTS)):
        sides = [[join_slots(group, 0), join_slots(group, slot)] for group in groups]
        verdicts.append([change.verdict for a, b in sides for change in compare_slots(a, b, in_turns=True)])
    equal = compare_slots(join_slots(pairs, 0), join_slots(pairs, 1), in_turns=True)
    sds = {change.name: change.error * math.sqrt(min(change.n)) for change in equal if change.df}
    level = (case.level or 0.0) / max(1, len(equal))
    reaches = {name: math.expm1(reach(sd / math.sqrt(count), count - 1, level, SURE)) for name, sd in sds.items()}
    return conclude(
        case, verdicts, reaches, within=spread_in_turns(pairs), between=max(sds.values(), default=None), pairs=pairs
    )


def summarise_apart(case: Calibration, pairs: Sequence[Pair]) -> Calibration:
    """Return the certificate of comparisons of runs at different times: side A of a pair with side B of the next."""
    spreads = process_spreads([pair.slots[0] for pair in pairs])
    within, between = (statistics.median(w for w, _ in spreads), max(b for _, b in spreads)) if spreads else (None, None)
    certificate = msgspec.structs.replace(case, between_sd=between)  # compare reads it from the runs, as it will from this one
    verdicts = [
        [
            change.verdict
            for a, b in zip(pairs, (*pairs[1:], pairs[0]), strict=True)
            for change in compare_slots(a.slots[0], b.slots[slot], certificate)
        ]
        for slot in range(1, len(SLOTS))
    ]
    reaches, rounds = {}, count_rounds(pairs)
    for name, (own, _) in zip(dict.fromkeys(record.name for record in pairs[0].slots[0]), spreads, strict=False):
        noises = Noise(2 * own**2 / rounds, 2 * (rounds - 1)), Noise(2 * (between or 0.0) ** 2, len(pairs) - 1)
        variance = sum(noise.variance for noise in noises)
        df = variance**2 / sum(noise.variance**2 / noise.df for noise in noises) if variance else 1.0
        reaches[name] = math.expm1(reach(math.sqrt(variance), df, (case.level or 0.0) / len(spreads), SURE))
    return conclude(case, verdicts, reaches, within=within, between=between, pairs=pairs)


SUMMARIES: dict[Method, Callable[[Calibration, Sequence[Pair]], Calibration]] = {
    "turns": summarise_turns, "apart": summarise_apart,
}  # fmt: skip


def conclude(
    case: Calibration, verdicts: Verdicts, reaches: dict[str, float], *, within: float | None, between: float | None,
    pairs: Sequence[Pair],
) -> Calibration:  # fmt: skip
    """Return the certificate of all verdicts; it fails where no size is called in 95 %."""
    equal, *slower = verdicts
    planted = tuple(
        Planted(added=added, called=column.count("slower"), comparisons=len(column))
        for added, column in zip(ADDED, slower, strict=True)
    )
    called_from, reason = smallest_called(planted), "too few rounds were quiet"
    if called_from is None and reaches and equal:
        # What was planted and not called is no size that is called, whatever the spread says.
        size = max(reaches.values())
        called_from, reason = (size, "") if size > ADDED[-1] else (None, f"too few of {ADDED[-1]:.0%} planted were called")
    return msgspec.structs.replace(
        case, status="ok" if called_from else "failed", reason=None if called_from else reason,
        false_calls=sum(verdict in ("slower", "faster") for verdict in equal), comparisons=len(equal), planted=planted,
        within_sd=within, between_sd=between, rounds=count_rounds(pairs), reaches=reaches, called_from=called_from,
    )  # fmt: skip


def count_rounds(pairs: Sequence[Pair]) -> int:
    """Return the rounds of a case in a process; the median."""
    cases = len({record.case_key for record in pairs[0].slots[0]})
    return int(statistics.median(len(pair.slots[0]) // cases for pair in pairs))


def spread_in_turns(pairs: Sequence[Pair]) -> float | None:
    """Return the standard deviation of the log ratio of a round of equal slots within a pair, of the case in the middle."""
    logs: dict[tuple[Any, ...], list[float]] = {}
    for number, pair in enumerate(pairs):
        for a, b in zip(*(sorted(pair.slots[slot], key=lambda r: (r.name, r.round)) for slot in (0, 1)), strict=True):
            if a.images_per_s and b.images_per_s:
                logs.setdefault((a.case_key, number), []).append(math.log(b.images_per_s / a.images_per_s))
    spreads = [statistics.stdev(values) for values in logs.values() if len(values) > 1]
    return statistics.median(spreads) if spreads else None


def join_slots(pairs: Sequence[Pair], slot: int) -> list[Speed]:
    """Return the records of a slot in all pairs."""
    return list(itertools.chain.from_iterable(pair.slots[slot] for pair in pairs))


def compare_slots(a: Sequence[Speed], b: Sequence[Speed], *certificates: Calibration, in_turns: bool = False) -> list[Change]:
    """Return the changes by the comparison that is under test; none where others disturbed all."""
    plan = Plan(suite=TURNS, settings={TURNS: TURNS} if in_turns else {})
    runs = [Run(path=Path(name), name=name, plan=plan, records=[*side, *certificates]) for name, side in (("A", a), ("B", b))]
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
