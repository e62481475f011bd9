"""Measurements that may stand side by side: a table a suite, device, dtype and lane, and the rule for ratios.

A lane is what a backend does: draw parameters for each image, once a batch, a mixture, or not at all. Different lanes are
different work, and no ratio is made between them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from typing import Any, NamedTuple

from bench.records import COMPARABLE, AuditCell, Case, Run, Speed, group_by
from bench.report.facts.cases import LANES, find_ties, usual_recipe
from bench.statistics import median_interval

# Ratios are taken against the first of these that was measured: the usual way of those who have no benchmark to read, which
# no order of backends tells. Mixtures differ, so "mixed" has no ratios.
BASELINES: Mapping[str, Sequence[str]] = {
    "per_image": ("torchvision_loop", "kornia"),
    "per_batch": ("torchvision",),
    "fixed": ("torchvision",),
    "mixed": (),
}
Differences = Mapping[tuple[str, str], str]
"""(subject, backend) -> named difference from the op's definition."""
ROW, SIZE, CELL = (
    attrgetter("suite", "subject", "device", "dtype"),
    attrgetter("batch_size", "image_size", "width"),
    attrgetter("subject", "backend"),
)


def named_differences(run: Run) -> Differences | None:
    """Return how cells differ from the op's definition: as audited, else as declared in the plan; None if neither knows."""
    if run.audit and run.audit.verdicts:
        return {(cell.subject, cell.backend): cell.cause for cell in run.audit.verdicts if not _is_comparable(cell)}
    planned = run.plan.cases if run.plan else ()
    cases = [case for case in planned if isinstance(case, Speed)]
    return {(str(case.subject), str(case.backend)): case.differs for case in cases if case.differs} if cases else None


def _is_comparable(cell: AuditCell) -> bool:
    return cell.verdict in COMPARABLE and (cell.lane is None or cell.lane.ok)


def usual_cases(cases: Sequence[Case]) -> list[Case]:
    """Return the cases at each subject's usual size, which the plan names first."""
    usual = {row: SIZE(first) for row, (first, *_) in group_by(cases, ROW).items()}
    return [case for case in cases if SIZE(case) == usual[ROW(case)]]


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
        measured = {backend for (_, backend), case in self.cells.items() if case.rate}
        names = BASELINES[self.lane] if self.differences is not None else ()
        return next((name for name in names if name in measured), None)

    def ranked(self, subject: str) -> list[Case]:
        """Return the measured cases of a row, fastest first."""
        row = [case for backend in self.backends if (case := self.cells.get((subject, backend))) and case.rate]
        return sorted(row, key=lambda case: -case.rate)

    def comparable(self, subject: str) -> list[Case]:
        """Return the measured cases that do the subject as it is defined, fastest first; none among mixtures."""
        if self.lane == "mixed" or self.differences is None:
            return []
        return [case for case in self.ranked(subject) if CELL(case) not in self.differences]

    def winner(self, subject: str) -> str | None:
        """Return the backend whose interval lies above those of all comparable others; None if there is none."""
        row = self.comparable(subject)
        is_won = len(row) > 1 and len(find_ties(row)) == 1 and not any(case.is_disturbed for case in row)
        return row[0].backend if is_won else None

    def ratio(self, subject: str, backend: str) -> list[float]:
        """Return the ratio to the baseline, and of the ends of both intervals; empty unless both do the op."""
        quiet = {case.backend: case for case in self.comparable(subject) if not case.is_disturbed}
        case, base = quiet.get(backend), quiet.get(self.baseline or "")
        if case is None or base is None or case is base:
            return []
        tops, bottoms = median_interval(case.rates), median_interval(base.rates)
        ends = [tops[0] / bottoms[1], tops[1] / bottoms[0]] if tops and bottoms else []
        return [case.rate / base.rate, *ends]


def lane_tables(run: Run, suite: str) -> list[LaneTable]:
    """Return the tables of a suite, by device, then lane; a lane in which nothing was planned has none."""
    differences, tables = named_differences(run), list[LaneTable]()
    cases = [case for case in usual_cases(run.cases("speed")) if case.suite == suite]
    for (device, dtype), local in group_by(cases, attrgetter("device", "dtype")).items():
        by_lane = group_by(local, attrgetter("lane"))
        for lane in filter(by_lane.get, LANES):
            cells = {CELL(case): case for case in by_lane[lane]}
            absent = {CELL(c): "·" if c.lane else "unsupported" for c in local if CELL(c) not in cells}
            measured = {backend for _, backend in cells}
            backends = [name for name in dict.fromkeys(case.backend for case in local) if name in measured]
            place = {"suite": suite, "device": device, "dtype": dtype, "lane": lane}
            tables.append(LaneTable(**place, backends=backends, cells=cells, absent=absent, differences=differences))
    return tables


def fastest_alone(tables: Iterable[LaneTable], recipe: str | None = None) -> Sequence[Case]:
    """Return the cases that do the recipe as it is defined, most images/s first, from the first table that has some."""
    drawn = [table for table in tables if table.lane in ("per_image", "per_batch")]
    if recipe is None:
        recipe = usual_recipe(dict.fromkeys(name for table in drawn for name in table.subjects if table.ranked(name)))
    defined = ([c for c in table.ranked(recipe or "") if CELL(c) not in (table.differences or {})] for table in drawn)
    return next(filter(None, defined), [])


# ---- growth with batch and image size -------------------------------------------------------------------------------------


class Axis(NamedTuple):
    """Measurements that differ in one size: along "batch_size" or "image_size"."""

    suite: str
    device: str
    dtype: str
    lane: str
    along: str


Growth = Mapping[str, Mapping[str, Sequence[Case]]]
"""subject -> backend -> its cases of two sizes or more, rising."""


def growth(run: Run) -> dict[Axis, Growth]:
    """Return cases along a size, the other at its usual value, by axis; empty if every case has one size."""
    cases = run.cases("speed")
    usual = {row: first for row, (first, *_) in group_by(cases, ROW).items()}
    grown: dict[Axis, Any] = {}
    for axis, fixed in (("batch_size", "image_size"), ("image_size", "batch_size")):
        rows = [c for c in cases if c.rate and c.lane and getattr(c, fixed) == getattr(usual[ROW(c)], fixed)]
        for key, group in group_by(rows, attrgetter("suite", "device", "dtype", "lane", "subject", "backend")).items():
            if len(group) > 1:
                subjects = grown.setdefault(Axis._make((*key[:4], axis)), {})
                subjects.setdefault(key[4], {})[key[5]] = sorted(group, key=attrgetter(axis))
    return grown
