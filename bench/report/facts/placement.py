"""Placement of augmentation in training: the best place and backend, its cost, and the loader workers that keep up."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from bench.records import Case, Run
from bench.report.facts.cases import LANES, find_ties, firsts, is_slower, ratios, settings, sound_cases, usual_recipe
from bench.report.facts.lanes import fastest_alone, lane_tables

UTILISATION = "model_flops_utilisation"
BUSY = 0.8
FROZEN = "frozen"
"""``augment_on`` of the ceiling: every step gets the same prepared batch."""


def ceiling(cases: Iterable[Case]) -> Case | None:
    """Return the case that trains on one prepared batch; without one, the fastest bare case."""
    bare = [case for case in cases if case.is_bare]
    frozen = [case for case in bare if case.augment_on == FROZEN]
    return max(frozen or bare, key=lambda case: case.rate, default=None)


def split_ms(case: Case) -> dict[str, float]:
    """Return milliseconds of a step by part, medians over records; they add up to the wall time."""
    splits = []
    for record in case.records:
        whole = sum((record.split_s or {}).values())
        if whole:
            scale = 1000 * case.batch_size / record.examples_per_s / whole
            splits.append({name: seconds * scale for name, seconds in record.split_s.items()})
    names = dict.fromkeys(name for split in splits for name in split)
    return {name: statistics.median(split.get(name, 0.0) for split in splits) for name in names}


class Cost(NamedTuple):
    """Share of the ceiling's training speed that is lost; low and high from the pairs of rounds; sure if none overlap."""

    lost: float
    low: float | None
    high: float | None
    is_sure: bool | None


def cost(case: Case, top: Case) -> Cost:
    """Return what augmenting as ``case`` does costs."""
    is_sure = is_slower(top.rates, case.rates)
    if is_sure is None:
        return Cost(1 - case.rate / top.rate, None, None, is_sure)
    low, high = (1 - max(case.rates) / min(top.rates), 1 - min(case.rates) / max(top.rates))
    return Cost(1 - case.rate / top.rate, low, high, is_sure)


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Placements of one recipe in one lane and setting, the fastest first, against the ceiling."""

    recipe: str
    lane: str
    top: Case
    ranked: Sequence[Case]
    alone: Sequence[Case]
    """Backends that do the recipe as it is defined in that lane, by images/s without training."""

    @property
    def best(self) -> Case:
        return self.ranked[0]

    @property
    def decisive(self) -> list[Case]:
        """The cases that answers rest on: the ceiling, and the fastest of each place and backend."""
        return [self.top, *self.places, *self.backends]

    @cached_property
    def places(self) -> list[Case]:
        """The fastest case of each place, the fastest first."""
        return firsts(self.ranked, "place")

    @cached_property
    def backends(self) -> list[Case]:
        """The fastest case of each backend in the best place, the fastest first."""
        return firsts([case for case in self.ranked if case.place == self.best.place], "backend")

    @cached_property
    def tied_backends(self) -> list[Case]:
        """Backends that training cannot distinguish from the fastest; the fastest without training comes first."""
        order = [case.backend for case in self.alone]
        return sorted(find_ties(self.backends), key=lambda c: order.index(c.backend) if c.backend in order else len(order))

    @property
    def with_transfer(self) -> Case | None:
        """Fastest case in the best place whose images are not already on the device."""
        return next((case for case in self.ranked if case.place == self.best.place and case.resident is False), None)

    @property
    def busiest(self) -> Case | None:
        """Case with the largest model FLOPs utilisation; None if no arithmetic was counted."""
        counted = [case for case in self.ranked if case.values(UTILISATION)]
        return max(counted, key=lambda case: case.median(UTILISATION) or 0.0, default=None)


def contest(run: Run) -> Contest | None:
    """Return the usual recipe's placements in the setting with the most cases, in the first lane that was measured."""
    for cases in settings(run, "throughput"):
        top, augmented = ceiling(cases), [case for case in cases if not case.is_bare]
        recipe = usual_recipe(case.recipe for case in augmented)
        rivals = [case for case in augmented if case.recipe == recipe]
        lane = next((name for name in LANES if any(case.lane == name for case in rivals)), None)
        if top is not None and recipe is not None and lane is not None:
            ranked = sorted((case for case in rivals if case.lane == lane), key=lambda case: -case.rate)
            place = (lane, ranked[0].device.replace(":0", ""))
            tables = [table for table in lane_tables(run, "recipes") if (table.lane, table.device) == place]
            return Contest(recipe=recipe, lane=lane, top=top, ranked=ranked, alone=fastest_alone(tables, recipe))
    return None


class LoaderWorker(NamedTuple):
    """A loader worker that was measured alone, and by round how many of it feed the ceiling."""

    case: Case
    needed: list[float]


def workers(run: Run, top: Case | None, recipe: str) -> list[LoaderWorker]:
    """Return the loader workers that were measured alone in the setting of the ceiling."""
    if top is None:
        return []
    alike = [case for case in sound_cases(run, "feed") if case.recipe in (recipe, "none") and case.setting == top.setting]
    return [LoaderWorker(case, ratios(top, case)) for case in alike]


def above_ceiling(run: Run) -> list[tuple[Case, Case]]:
    """Return cases that beat a ceiling in every round, each with its ceiling: a contradiction, as the ceiling does less."""
    groups = [(cases, ceiling(cases)) for cases in settings(run, "throughput")]
    return [(case, top) for cases, top in groups if top for case in cases if is_slower(case.rates, top.rates)]


def host_bound_ceilings(run: Run) -> list[Case]:
    """Return the ceilings whose kernels keep the GPU busy for less than ``BUSY`` of the time: the host sets their pace."""
    tops = filter(None, map(ceiling, settings(run, "throughput")))
    return [top for top in tops if (top.median("gpu_busy") or 1.0) < BUSY]
