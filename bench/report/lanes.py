"""Which measurements may stand side by side: a table a suite, device, dtype and lane, and the rule for ratios.

A lane is what a backend really does: draws parameters for each image, once a batch, some ops this and some that way, or not
at all. What lies in different lanes is different work, and no ratio is made of it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from bench.records.measurements import Measurement, finite
from bench.records.runs import Run

LANES = {
    "per_image": "a draw for each image",
    "per_batch": "one draw for the whole batch",
    "mixed": "some ops draw per image, some per batch",
    "fixed": "nothing is drawn",
}
# What ratios are taken against, the first that was measured. The mixtures of "mixed" differ, so it has none.
BASELINES: Mapping[str, Sequence[str]] = {
    "per_image": ("torchvision_loop", "kornia"),
    "per_batch": ("torchvision",),
    "fixed": ("torchvision",),
    "mixed": (),
}

ELSEWHERE = "·"

Differences = Mapping[tuple[str, str], str]
"""(subject, backend) -> the named difference from the op's definition."""


COMPARABLE = ("exact", "close")
"""The audit's verdicts that allow a ratio."""


def named_differences(run: Run) -> Differences | None:
    """Where a cell is not the op as it is defined, and how: as the audit measured it, else as the plan declares it.

    None where neither says anything at all: then equal work is not known, and no ratio is shown.
    """
    audited = run.audit.get("verdicts")
    if isinstance(audited, list):
        return _measured(one for one in audited if isinstance(one, dict))
    cases = run.plan.get("cases")
    return _declared(cases) if isinstance(cases, list) else None


def _measured(verdicts: Iterable[Mapping[str, Any]]) -> Differences:
    told: dict[tuple[str, str], str] = {}
    for one in verdicts:
        subject, backend, verdict = str(one.get("subject")), str(one.get("backend")), one.get("verdict")
        lane = one.get("lane")
        if verdict not in COMPARABLE:
            told[subject, backend] = f"{subject}: {verdict}, {one.get('cause') or 'cause not known'}"
        elif isinstance(lane, dict) and lane.get("declared") != lane.get("measured"):
            told[subject, backend] = f"{subject}: declared {lane.get('declared')}, measured {lane.get('measured')}"
    return told


def _declared(cases: Sequence[Any]) -> Differences | None:
    told: dict[tuple[str, str], str] = {}
    known = False
    for entry in cases:
        if isinstance(entry, dict) and "differs" in entry and isinstance(entry.get("case"), dict):
            known = True
            if entry["differs"]:
                told[str(entry["case"].get("subject")), str(entry["case"].get("backend"))] = str(entry["differs"])
    return told if known else None


@dataclass(frozen=True, kw_only=True)
class LaneTable:
    """The measurements of a suite on a device that lie in one lane, at each subject's usual size."""

    suite: str
    device: str
    dtype: str
    lane: str
    backends: Sequence[str]
    subjects: Sequence[str]
    cells: Mapping[tuple[str, str], Measurement] = field(repr=False)
    elsewhere: Mapping[tuple[str, str], str] = field(repr=False)
    """Why a cell of the table is empty: unsupported, or a dot for one that lies in another lane."""

    @cached_property  # every ratio of a table asks for it
    def baseline(self) -> str | None:
        """The backend that ratios are taken against; None where no ratio makes sense."""
        measured = {backend for (_, backend), cell in self.cells.items() if rate(cell) is not None}
        return next((name for name in BASELINES.get(self.lane, ()) if name in measured), None)

    def ok(self, subject: str) -> list[Measurement]:
        """The measured cells of a row, fastest first."""
        row = [self.cells[subject, b] for b in self.backends if (subject, b) in self.cells]
        return sorted((cell for cell in row if rate(cell) is not None), key=lambda cell: -(rate(cell) or 0.0))


def rate(cell: Measurement | None) -> float | None:
    """images/s of a measurement that succeeded."""
    if cell is None or cell.status != "ok" or not finite(cell.images_per_s) or not cell.images_per_s:
        return None
    return cell.images_per_s


def passes(cell: Measurement) -> list[float]:
    """images/s of each pass."""
    return [value for value in cell.images_per_s_passes if finite(value) and value > 0]


def lane_of(cell: Measurement) -> str:
    """The lane of a measurement; what is unknown is compared with nothing, as "mixed" is."""
    return cell.draws if cell.draws in LANES else "mixed"


def usual_size(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Of each subject on each device the cases of one size: the plan names the usual size first."""
    size: dict[tuple[Any, ...], tuple[int, int, int]] = {}
    chosen = []
    for one in measurements:
        case = one.case
        its = (case.batch_size, case.image_size, case.width)
        if its == size.setdefault((case.suite, case.subject, case.device, case.dtype), its):
            chosen.append(one)
    return chosen


def lane_tables(measurements: Sequence[Measurement], suite: str) -> list[LaneTable]:
    """The tables of a suite, by device, then lane; a lane in which nothing was planned has none."""
    mine = [one for one in usual_size(measurements) if one.case.suite == suite]
    places = dict.fromkeys((one.case.device, one.case.dtype) for one in mine)
    tables = []
    for device, dtype in places:
        here = [one for one in mine if (one.case.device, one.case.dtype) == (device, dtype)]
        tables += [table for lane in LANES if (table := _table(here, suite, device, dtype, lane)) is not None]
    return tables


def _table(here: Sequence[Measurement], suite: str, device: str, dtype: str, lane: str) -> LaneTable | None:
    inside = [one for one in here if one.draws is not None and lane_of(one) == lane]
    if not inside:
        return None
    members = {one.case.id for one in inside}
    subjects = list(dict.fromkeys(one.case.subject for one in inside))
    mine = {one.case.backend for one in inside}
    backends = [name for name in dict.fromkeys(one.case.backend for one in here) if name in mine]
    outside = [one for one in here if one.case.id not in members]
    words = {(one.case.subject, one.case.backend): "unsupported" if one.draws is None else ELSEWHERE for one in outside}
    return LaneTable(
        suite=suite,
        device=device,
        dtype=dtype,
        lane=lane,
        backends=backends,
        subjects=subjects,
        cells={(one.case.subject, one.case.backend): one for one in inside},
        elsewhere=words,
    )


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as the baseline; ``low`` and ``high`` from the least to the most favourable pair of passes."""

    value: float
    low: float | None
    high: float | None


def ratio(table: LaneTable, subject: str, backend: str, differences: Differences | None) -> Ratio | None:
    """Against the lane's baseline, and only where both are known to do the op as it is defined."""
    base = table.baseline
    if base is None or base == backend or differences is None:
        return None
    if (subject, backend) in differences or (subject, base) in differences:
        return None
    mine, theirs = table.cells.get((subject, backend)), table.cells.get((subject, base))
    top, bottom = rate(mine), rate(theirs)
    if mine is None or theirs is None or top is None or bottom is None:
        return None
    ups, downs = passes(mine), passes(theirs)
    if len(ups) < 2 or len(downs) < 2:
        return Ratio(top / bottom, None, None)
    return Ratio(top / bottom, min(ups) / max(downs), max(ups) / min(downs))
