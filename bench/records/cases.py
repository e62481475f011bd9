"""Cases: the repetitions of one planned measurement, gathered from a run's records. No torch here."""

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

from bench.records.base import Disturbance, Lane, Record, Status
from bench.records.structs import KINDS, Accuracy, Speed

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


def group_by(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Return items by their key, in order of first appearance."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def finished_keys(records: Iterable[Record], retry_after: int = 0) -> set[tuple[Any, ...]]:
    """Return keys of the repetitions with nothing left to do; failures among the ``retry_after`` first records do not count."""
    return {record.key for index, record in enumerate(records) if record.status == "ok" or index >= retry_after}


def unresolved_failures(records: Iterable[Record]) -> list[Record]:
    """Return failures that no later success of the same repetition of the same case has superseded."""
    records = list(records)
    good = {record.key for record in records if record.status == "ok"}
    return [record for record in records if record.status == "failed" and record.key not in good]


PROJECTED = (12, 16)
"""Recipes and seeds of a whole sweep, whose time is projected."""


def project_sweep(records: Iterable[Record]) -> str:
    """Return the time between trainings of a process, and the time of a whole sweep; empty where none followed another."""
    followed = [record for record in records if isinstance(record, Accuracy) and record.between_s is not None]
    if not followed:
        return ""
    between = [record.between_s or 0.0 for record in followed]
    whole = [(record.between_s or 0) + (record.train_s or 0) + (record.evaluation_s or 0) for record in followed]
    minutes = math.prod(PROJECTED) * statistics.median(whole) / 60 / (followed[0].cells_at_once or 1)
    times = f"between two cases: median {statistics.median(between):.2g} s, at most {max(between):.2g} s (n = {len(between)})"
    return f"{times}; {PROJECTED[0]} recipes x {PROJECTED[1]} seeds would take about {minutes:,.0f} min here"


def are_disturbed(records: Sequence[Record]) -> bool:
    """Return whether others disturbed so many rounds that fewer than three, or none of fewer, are left."""
    return sum(not record.is_disturbed for record in records) < min(3, len(records))


def sound(records: Sequence[Record]) -> list[Record]:
    """Return the rounds that others did not disturb; all of them if too few are left."""
    return list(records) if are_disturbed(records) else [record for record in records if not record.is_disturbed]


ATTRIBUTES = frozenset(name for kind in KINDS.values() for name in dir(kind) if not name.startswith("__")) - {
    quantity.name for kind in KINDS.values() for quantity in kind.quantities
}
"""Fields and properties of any kind of record, but for what is measured: that differs from round to round."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """All repetitions of one case: ``records`` succeeded, ``failed`` are all others, ``planned`` is its entry in the plan."""

    name: str = ""
    planned: Record | None = None
    records: Sequence[Any] = field(repr=False)
    """Typed as the structs of the kind."""
    failed: Sequence[Record] = field(default=(), repr=False)

    @cached_property
    def first(self) -> Any:
        """A record that holds the identity of the case; typed as its kind's struct."""
        return next(record for record in (*self.records, *self.failed, self.planned) if record is not None)

    def __getattr__(self, name: str) -> Any:
        """Return a field that all repetitions share; None if the kind has no such field."""
        if name not in ATTRIBUTES:
            raise AttributeError(name)
        return getattr(self.first, name, None)

    @cached_property
    def unresolved_failures(self) -> list[Record]:
        """Failures that no success of the same repetition has superseded."""
        return unresolved_failures((*self.records, *self.failed))

    @property
    def status(self) -> Status:
        """Status of the case: ok if a repetition succeeded, and none failed for kinds that need every round."""
        if self.records and not (self.unresolved_failures and self.needs_every_round):
            return "ok"
        status: Status = self._cause.status
        return status

    @property
    def reason(self) -> str | None:
        """Cause of a status that is not ok."""
        return None if self.status == "ok" else self._cause.reason

    @property
    def _cause(self) -> Any:
        return (*self.unresolved_failures, *self.failed, self.planned)[0]

    @cached_property
    def quiet(self) -> "Case":
        """The case without the rounds that others disturbed."""
        return replace(self, records=[record for record in self.records if not record.is_disturbed])

    @property
    def sound(self) -> "Case":
        """The case without disturbed rounds, or with all if too few are left."""
        return self if self.is_disturbed else self.quiet

    @cached_property
    def rates(self) -> list[float]:
        """Main quantity, such as images/s, of each sound round; empty unless the case is ok."""
        return self.sound.values(self.first.quantities[0].name) if self.status == "ok" else []

    @cached_property
    def rate(self) -> float:
        """Median of ``rates``; 0 if there are none."""
        return statistics.median(self.rates) if self.rates else 0.0

    @property
    def is_disturbed(self) -> bool:
        """Return whether others disturbed too many rounds."""
        return are_disturbed(self.records)

    @property
    def disturbance(self) -> Disturbance | None:
        """Return the strongest disturbance if others disturbed too many rounds."""
        return worst_disturbance(self.records) if self.is_disturbed else None

    @property
    def lane(self) -> Lane | None:
        """Return the lane: how often parameters are drawn."""
        return next((record.lane for record in (*self.records, self.planned) if record and record.lane), None)

    @property
    def implementation(self) -> str | None:
        """Return the implementation of ``fused``; several, with commas, where repetitions differ."""
        return ", ".join(dict.fromkeys(r.implementation for r in self.records if r.implementation)) or None

    def values(self, quantity: str) -> list[float]:
        """Return the values of a field, one a repetition that knows it."""
        if quantity == "wall_s_median":
            return [statistics.median(r.samples_s) for r in self.records if isinstance(r, Speed) and r.samples_us]
        values = (getattr(record, quantity, None) for record in self.records)
        return [float(value) for value in values if value is not None]

    def median(self, quantity: str) -> float | None:
        """Return the median over repetitions, or None."""
        values = self.values(quantity)
        return statistics.median(values) if values else None

    def mean(self, quantity: str) -> float | None:
        """Return the mean over repetitions, or None."""
        values = self.values(quantity)
        return statistics.fmean(values) if values else None

    @cached_property
    def samples_s(self) -> list[float]:
        """Seconds of every call, all rounds together."""
        return list(itertools.chain.from_iterable(r.samples_s for r in self.records if isinstance(r, Speed)))


def worst_disturbance(records: Iterable[Record]) -> Disturbance | None:
    """Return the strongest disturbance; None if none was strong."""
    strong = [r.disturbance for r in records if r.disturbance and r.disturbance.is_strong]
    return max(strong, key=lambda disturbance: disturbance.others_cpu or 0.0, default=None)


def gather(planned: Iterable[Record], records: Iterable[Record]) -> Iterator[Case]:
    """Gather records to cases with names of their own: planned ones in the plan's order, then others as they appear."""
    plan = {key: first for key, (first, *_) in group_by(planned, lambda record: record.case_key).items()}
    measured = group_by(records, lambda record: record.case_key)
    names = Counter[str]()
    for key in {**plan, **measured}:
        group = measured.get(key, [])
        name = (group[0] if group else plan[key]).name
        names[name] += 1  # cases that differ in something rare share a name
        yield Case(
            name=name if names[name] == 1 else f"{name}-{names[name]}",
            planned=plan.get(key),
            records=[record for record in group if record.status == "ok"],
            failed=[record for record in group if record.status != "ok"],
        )
