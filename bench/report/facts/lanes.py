"""Measurements that may stand side by side: a table a suite, device, dtype and lane, and the rule for ratios.

A lane is what a backend does: draw parameters for each image, once a batch, a mixture, or not at all. Different lanes are
different work, and no ratio is made between them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from bench.records import AuditCell, Case, Run, Speed

LANES = {
    "per_image": "parameters drawn per image",
    "per_batch": "parameters drawn once per batch",
    "mixed": "some ops draw per image, some per batch",
    "fixed": "nothing is drawn",
}
# Ratios are taken against the first of these that was measured; mixtures differ, so "mixed" has no ratios.
BASELINES: Mapping[str, Sequence[str]] = {
    "per_image": ("torchvision_loop", "kornia"),
    "per_batch": ("torchvision",),
    "fixed": ("torchvision",),
    "mixed": (),
}
SHORT_LANES = {name: name.replace("_", " ") for name in LANES}
COMPARABLE = ("exact", "close")
"""Verdicts of the audit that allow a ratio."""
Group = tuple[str, str, str, str]
"""Suite, device, dtype, lane."""
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
    """Return the median images/s of a case that successes."""
    return case.median("images_per_s") if case is not None and case.status == "ok" else None


def round_rates(case: Case) -> list[float]:
    """Return the images/s of each round."""
    return case.values("images_per_s")


def lane_of(case: Case) -> str:
    """Return the lane; an unknown one is compared with nothing, as "mixed" is."""
    return case.lane if case.lane in LANES else "mixed"


def group_of(case: Case) -> Group:
    return case.first.suite, case.first.device, case.first.dtype, lane_of(case)


def usual_sizes(cases: Iterable[Case]) -> dict[tuple[Any, ...], tuple[int, int, int]]:
    """Return batch, height and width of each subject's tables: the plan names the usual size first."""
    sizes: dict[tuple[Any, ...], tuple[int, int, int]] = {}
    for case in cases:
        first = case.first
        sizes.setdefault(
            (first.suite, first.subject, first.device, first.dtype), (first.batch_size, first.image_size, first.width)
        )
    return sizes


def usual_cases(cases: Sequence[Case]) -> list[Case]:
    """Return the cases at each subject's usual size."""
    sizes = usual_sizes(cases)
    usual = ((case, case.first) for case in cases)
    return [case for case, f in usual if (f.batch_size, f.image_size, f.width) == sizes[f.suite, f.subject, f.device, f.dtype]]


@dataclass(frozen=True, kw_only=True)
class LaneTable:
    """Cases of a suite on a device in one lane, at each subject's usual size."""

    suite: str
    device: str
    dtype: str
    lane: str
    backends: Sequence[str]
    subjects: Sequence[str]
    cells: Mapping[tuple[str, str], Case] = field(repr=False)
    absent: Mapping[tuple[str, str], str] = field(repr=False)
    """Words for cells that lie elsewhere: "unsupported", or a dot for another lane."""
    differences: Differences | None = field(repr=False)

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
        return [case for case in self.ranked(subject) if (subject, case.first.backend) not in self.differences]

    def winner(self, subject: str) -> str | None:
        """Return the backend whose slowest round beats all rounds of the comparable others; None if there is none."""
        row = self.comparable(subject)
        if len(row) < 2 or not all(is_slower(round_rates(row[0]), round_rates(case)) for case in row[1:]):
            return None
        return row[0].first.backend

    def ratio(self, subject: str, backend: str) -> list[float]:
        """Return the ratio to the baseline, and of the worst and best pair of rounds; empty unless both do the op."""
        base = self.baseline
        case, base_case = self.cells.get((subject, backend)), self.cells.get((subject, base or ""))
        differs = {(subject, backend), (subject, base)} & set(self.differences or ())
        if case is None or base_case is None or backend == base or differs or not rate(case) or not rate(base_case):
            return []
        tops, bottoms = round_rates(case), round_rates(base_case)
        ends = [min(tops) / max(bottoms), max(tops) / min(bottoms)] if min(len(tops), len(bottoms)) > 1 else []
        return [(rate(case) or 0) / (rate(base_case) or 1), *ends]


def is_slower(faster: Sequence[float], rival: Sequence[float]) -> bool | None:
    """Return whether all of ``rival`` lie below all of ``faster``; None if one of them has a single value."""
    if len(faster) < 2 or len(rival) < 2:
        return None
    return min(faster) > max(rival)


def lane_tables(run: Run, suite: str) -> list[LaneTable]:
    """Return the tables of a suite, by device, then lane; a lane in which nothing was planned has none."""
    cases = [case for case in usual_cases(run.cases("speed")) if case.first.suite == suite]
    differences = named_differences(run)
    places: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        places.setdefault((case.first.device, case.first.dtype), []).append(case)
    tables = []
    for (device, dtype), local in places.items():
        for lane in LANES:
            inside = [case for case in local if case.lane is not None and lane_of(case) == lane]
            members = {(case.first.subject, case.first.backend) for case in inside}
            backends = {case.first.backend for case in inside}
            table = LaneTable(
                suite=suite,
                device=device,
                dtype=dtype,
                lane=lane,
                backends=[name for name in dict.fromkeys(case.first.backend for case in local) if name in backends],
                subjects=list(dict.fromkeys(case.first.subject for case in inside)),
                cells={(case.first.subject, case.first.backend): case for case in inside},
                absent={
                    key: "unsupported" if case.lane is None else "·"
                    for case in local
                    if (key := (case.first.subject, case.first.backend)) not in members
                },
                differences=differences,
            )
            tables += [table] if inside else []
    return tables


# ---- growth with batch and image size -------------------------------------------------------------------------------------

Series = Sequence[tuple[int, Case]]
"""A backend's cases along a size, rising."""
Growth = Mapping[str, Mapping[str, Series]]
"""subject -> backend -> series of two sizes or more."""


def growth(run: Run) -> dict[tuple[Group, str], Growth]:
    """Return series along "batch" and "side" (the other at its usual value), by group; empty if every case has one size."""
    cases = run.cases("speed")
    usual = usual_sizes(cases)
    points: dict[tuple[Group, str], dict[str, dict[str, dict[int, Case]]]] = {}
    for case in cases:
        if case.lane is None or not rate(case):
            continue
        first = case.first
        batch, side, _ = usual[first.suite, first.subject, first.device, first.dtype]
        sizes = {"batch": (first.batch_size, first.image_size == side), "side": (first.image_size, first.batch_size == batch)}
        for along, (size, is_usual) in sizes.items():
            if is_usual:
                subjects = points.setdefault((group_of(case), along), {})
                subjects.setdefault(first.subject, {}).setdefault(first.backend, {})[size] = case
    lines = {key: _lines(subjects) for key, subjects in points.items()}
    return {key: grown for key, grown in lines.items() if grown}


def _lines(subjects: Mapping[str, Mapping[str, Mapping[int, Case]]]) -> Growth:
    rows = {
        subject: {backend: sorted(by_size.items()) for backend, by_size in backends.items() if len(by_size) > 1}
        for subject, backends in subjects.items()
    }
    return {subject: backends for subject, backends in rows.items() if backends}
