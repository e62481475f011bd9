"""Measurements that may stand side by side: a table a suite, device, dtype and lane, and the rule for ratios.

A lane is what a backend does: draw parameters for each image, once a batch, a mixture, or not at all. Different lanes are
different work, and no ratio is made between them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from bench.records import AuditCell, Case, Run, Speed
from bench.statistics import median_interval

LANES = {
    "per_image": "parameters drawn per image",
    "per_batch": "parameters drawn once per batch",
    "mixed": "some ops draw per image, some per batch",
    "fixed": "nothing is drawn",
}
# Ratios are taken against the first of these that was measured: the usual way of those who have no benchmark to read, which
# no order of backends tells. Mixtures differ, so "mixed" has no ratios.
BASELINES: Mapping[str, Sequence[str]] = {
    "per_image": ("torchvision_loop", "kornia"),
    "per_batch": ("torchvision",),
    "fixed": ("torchvision",),
    "mixed": (),
}
SHORT_LANES = {name: name.replace("_", " ") for name in LANES}
COMPARABLE = ("exact", "close")
"""Verdicts of the audit that allow a ratio."""
Differences = Mapping[tuple[str, str], str]
"""(subject, backend) -> named difference from the op's definition."""


def named_differences(run: Run) -> Differences | None:
    """Return how cells differ from the op's definition: as audited, else as declared in the plan; None if neither knows."""
    if run.audit and run.audit.verdicts:
        return {(cell.subject, cell.backend): cell.cause for cell in run.audit.verdicts if not _is_comparable(cell)}
    planned = run.plan.cases if run.plan else ()
    cases = [case for case in planned if isinstance(case, Speed)]
    return {(str(case.subject), str(case.backend)): case.differs for case in cases if case.differs} if cases else None


def _is_comparable(cell: AuditCell) -> bool:
    return cell.verdict in COMPARABLE and (cell.lane is None or cell.lane.ok)


def rate(case: Case | None) -> float | None:
    """Return the median images/s of a case that succeeded."""
    return case.sound.median("images_per_s") if case is not None and case.status == "ok" else None


def round_rates(case: Case) -> list[float]:
    """Return the images/s of each round that others did not disturb, of all rounds if too few are left."""
    return case.sound.values("images_per_s")


def lane_of(case: Case) -> str:
    """Return the lane; an unknown one is compared with nothing, as "mixed" is."""
    return case.lane or "mixed"


def usual_sizes(cases: Iterable[Case]) -> dict[tuple[Any, ...], tuple[int, int, int]]:
    """Return batch, height and width of each subject's tables: the plan names the usual size first."""
    sizes: dict[tuple[Any, ...], tuple[int, int, int]] = {}
    for case in cases:
        sizes.setdefault(_row_of(case), _size_of(case))
    return sizes


def usual_cases(cases: Sequence[Case]) -> list[Case]:
    """Return the cases at each subject's usual size."""
    sizes = usual_sizes(cases)
    return [case for case in cases if _size_of(case) == sizes[_row_of(case)]]


def _row_of(case: Case) -> tuple[Any, ...]:
    return case.suite, case.subject, case.device, case.dtype


def _size_of(case: Case) -> tuple[int, int, int]:
    return case.batch_size, case.image_size, case.width


@dataclass(frozen=True, kw_only=True)
class LaneTable:
    """Cases of a suite on a device in one lane, at each subject's usual size."""

    suite: str
    device: str
    dtype: str
    lane: str
    backends: Sequence[str]
    cells: Mapping[tuple[str, str], Case] = field(repr=False)
    absent: Mapping[tuple[str, str], str] = field(repr=False)
    """Words for cells that lie elsewhere: "unsupported", or a dot for another lane."""
    differences: Differences | None = field(repr=False)

    @cached_property
    def subjects(self) -> list[str]:
        return list(dict.fromkeys(subject for subject, _ in self.cells))

    @cached_property
    def baseline(self) -> str | None:
        """Backend that ratios are taken against; None if no ratio makes sense."""
        measured = {backend for (_, backend), case in self.cells.items() if rate(case)}
        names = BASELINES[self.lane] if self.differences is not None else ()
        return next((name for name in names if name in measured), None)

    def ranked(self, subject: str) -> list[Case]:
        """Return the measured cases of a row, fastest first."""
        row = [self.cells[subject, backend] for backend in self.backends if (subject, backend) in self.cells]
        return sorted((case for case in row if rate(case)), key=lambda case: -(rate(case) or 0))

    def comparable(self, subject: str) -> list[Case]:
        """Return the measured cases that do the subject as it is defined, fastest first; none among mixtures."""
        if self.lane == "mixed" or self.differences is None:
            return []
        return [case for case in self.ranked(subject) if (subject, case.backend) not in self.differences]

    def winner(self, subject: str) -> str | None:
        """Return the backend whose interval lies above those of all comparable others; None if there is none."""
        row = self.comparable(subject)
        if (
            len(row) < 2
            or any(case.is_disturbed for case in row)
            or not all(is_slower(round_rates(row[0]), round_rates(case)) for case in row[1:])
        ):
            return None
        return row[0].backend

    def ratio(self, subject: str, backend: str) -> list[float]:
        """Return the ratio to the baseline, and of the ends of both intervals; empty unless both do the op."""
        base = self.baseline
        case, base_case = self.cells.get((subject, backend)), self.cells.get((subject, base or ""))
        differs = {(subject, backend), (subject, base)} & set(self.differences or ())
        if case is None or base_case is None or backend == base or differs or not rate(case) or not rate(base_case):
            return []
        if case.is_disturbed or base_case.is_disturbed:
            return []
        tops, bottoms = median_interval(round_rates(case)), median_interval(round_rates(base_case))
        ends = [tops[0] / bottoms[1], tops[1] / bottoms[0]] if tops and bottoms else []
        return [(rate(case) or 0) / (rate(base_case) or 1), *ends]


def is_slower(faster: Sequence[float], rival: Sequence[float]) -> bool | None:
    """Return whether the interval of the median of ``rival`` lies below that of ``faster``; None if one has a single value."""
    upper, lower = median_interval(faster), median_interval(rival)
    return upper[0] > lower[1] if upper and lower else None


def lane_tables(run: Run, suite: str) -> list[LaneTable]:
    """Return the tables of a suite, by device, then lane; a lane in which nothing was planned has none."""
    cases = [case for case in usual_cases(run.cases("speed")) if case.suite == suite]
    differences = named_differences(run)
    places: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        places.setdefault((case.device, case.dtype), []).append(case)
    tables = []
    for (device, dtype), local in places.items():
        for lane in LANES:
            cells = {_cell_of(case): case for case in local if case.lane is not None and lane_of(case) == lane}
            absent = {_cell_of(c): "unsupported" if c.lane is None else "·" for c in local if _cell_of(c) not in cells}
            measured = {backend for _, backend in cells}
            backends = [name for name in dict.fromkeys(case.backend for case in local) if name in measured]
            place = {"suite": suite, "device": device, "dtype": dtype, "lane": lane}
            table = LaneTable(**place, backends=backends, cells=cells, absent=absent, differences=differences)
            tables += [table] if cells else []
    return tables


def _cell_of(case: Case) -> tuple[str, str]:
    return case.subject, case.backend


# ---- growth with batch and image size -------------------------------------------------------------------------------------


class Point(NamedTuple):
    """A case and its size."""

    size: int
    case: Case


Series = Sequence[Point]
"""A backend's cases along a size, rising."""
Growth = Mapping[str, Mapping[str, Series]]
"""subject -> backend -> series of two sizes or more."""


class Axis(NamedTuple):
    """Measurements that differ in one size: along "batch" or "side"."""

    suite: str
    device: str
    dtype: str
    lane: str
    along: str


def growth(run: Run) -> dict[Axis, Growth]:
    """Return series along a size, the other at its usual value, by axis; empty if every case has one size."""
    cases = run.cases("speed")
    usual = usual_sizes(cases)
    points: dict[Axis, dict[str, dict[str, dict[int, Case]]]] = {}
    for case in filter(rate, cases):
        if case.lane is None:
            continue
        batch, side, _ = usual[_row_of(case)]
        sizes = {"batch": (case.batch_size, case.image_size == side), "side": (case.image_size, case.batch_size == batch)}
        for along, (size, is_usual) in sizes.items():
            if is_usual:
                axis = Axis(case.suite, case.device, case.dtype, lane_of(case), along)
                points.setdefault(axis, {}).setdefault(case.subject, {}).setdefault(case.backend, {})[size] = case
    lines = {axis: _lines(subjects) for axis, subjects in points.items()}
    return {axis: grown for axis, grown in lines.items() if grown}


def _lines(subjects: Mapping[str, Mapping[str, Mapping[int, Case]]]) -> Growth:
    rows = {
        subject: {backend: _series(row) for backend, row in by_backend.items() if len(row) > 1}
        for subject, by_backend in subjects.items()
    }
    return {subject: backends for subject, backends in rows.items() if backends}


def _series(by_size: Mapping[int, Case]) -> Series:
    return [Point(size, by_size[size]) for size in sorted(by_size)]
