"""Placement of augmentation in training: the best place and backend, its cost, and the loader workers that keep up."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from bench.records import MANNER, SETTING, Case, Run
from bench.report.facts.arms import Arm, Place, arms_of, ceiling, firsts, ratios, settings, share_of, successes, usual_recipe
from bench.report.facts.lanes import LANES, LaneTable, is_slower, lane_tables

UTILISATION = "model_flops_utilisation"
BUSY = 0.8


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Placements of one recipe in one lane and setting, the fastest first, against the ceiling."""

    recipe: str
    lane: str
    top: Arm
    ranked: Sequence[Arm]
    alone: Sequence[Case]
    """Backends that do the recipe as it is defined in that lane, by images/s without training."""

    @property
    def best(self) -> Arm:
        return self.ranked[0]

    @property
    def decisive(self) -> list[Arm]:
        """The arms that answers rest on: the ceiling, and the fastest of each place and backend."""
        return [self.top, *self.places, *self.backends]

    @cached_property
    def places(self) -> list[Arm]:
        """The fastest arm of each place, the fastest first."""
        return firsts(self.ranked, "place")

    @cached_property
    def tied_places(self) -> list[Place]:
        """Places that cannot be distinguished from the fastest, that one first."""
        best, *rivals = self.places
        return [best.place, *(arm.place for arm in rivals if is_slower(speeds(best), speeds(arm)) is False)]

    @cached_property
    def backends(self) -> list[Arm]:
        """The fastest arm of each backend in the best place, the fastest first."""
        return firsts([arm for arm in self.ranked if arm.place == self.best.place], "backend")

    @cached_property
    def tied_backends(self) -> list[Arm]:
        """Backends that training cannot distinguish from the fastest; the fastest without training comes first."""
        order = [case.backend for case in self.alone]
        equal = [arm for arm in self.backends if is_slower(speeds(self.best), speeds(arm)) is not True]
        return sorted(equal, key=lambda arm: order.index(arm.backend) if arm.backend in order else len(order))

    @property
    def with_transfer(self) -> Arm | None:
        """Fastest arm in the best place whose images are not already on the device."""
        return next((arm for arm in self.ranked if arm.place == self.best.place and arm.resident is False), None)


def speeds(arm: Arm) -> list[float]:
    """Return the examples/s of each round."""
    return arm.values("examples_per_s")


def contest(run: Run) -> Contest | None:
    """Return the usual recipe's placements in the setting with the most arms, in the first lane that was measured."""
    groups = [arms for arms in settings(run.records, "throughput") if ceiling(arms)]
    for arms in sorted(groups, key=len, reverse=True):
        top = ceiling(arms)
        augmented = [arm for arm in arms if not arm.is_bare and arm.speed]
        recipe = usual_recipe(dict.fromkeys(arm.recipe for arm in augmented))
        candidates = [arm for arm in augmented if arm.recipe == recipe]
        lane = next((name for name in LANES if any(arm.lane == name for arm in candidates)), None)
        if top is not None and recipe is not None and lane is not None:
            ranked = sorted((arm for arm in candidates if arm.lane == lane), key=lambda arm: -arm.speed)
            tables = [
                t for t in lane_tables(run, "recipes") if (t.lane, t.device) == (lane, ranked[0].device.replace(":0", ""))
            ]
            return Contest(recipe=recipe, lane=lane, top=top, ranked=ranked, alone=fastest_alone(tables, recipe))
    return None


def fastest_alone(tables: Iterable[LaneTable], recipe: str | None = None) -> Sequence[Case]:
    """Return the cases that do the recipe as it is defined, most images/s first, from the first table that has some."""
    drawn = [table for table in tables if table.lane in ("per_image", "per_batch")]
    if recipe is None:
        recipe = usual_recipe(dict.fromkeys(name for table in drawn for name in table.subjects if table.ranked(name)))
    for table in drawn:
        defined = [case for case in table.ranked(recipe or "") if (recipe, case.backend) not in (table.differences or {})]
        if defined:
            return defined
    return []


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Share of the ceiling's training speed that an arm loses; low and high from the pairs of rounds; sure if none overlap."""

    lost: float
    low: float | None
    high: float | None
    is_sure: bool | None


def cost(arm: Arm, top: Arm) -> Cost:
    """Return what augmenting as ``arm`` does costs."""
    reached, ceilings = speeds(arm), speeds(top)
    is_sure = is_slower(ceilings, reached)
    ends = (None, None) if is_sure is None else (1 - max(reached) / min(ceilings), 1 - min(reached) / max(ceilings))
    return Cost(lost=1 - (share_of(arm, top) or 0), low=ends[0], high=ends[1], is_sure=is_sure)


class LoaderWorker(NamedTuple):
    """A loader worker that was measured alone, and by round how many of it feed the ceiling."""

    arm: Arm
    needed: list[float]


def workers(run: Run, top: Arm | None, recipe: str) -> list[LoaderWorker]:
    """Return the loader workers that were measured alone in the setting of the ceiling."""
    if top is None:
        return []
    alike = [
        arm
        for arm in arms_of(successes(run.records, "feed"), (*SETTING, *MANNER))
        if arm.recipe in (recipe, "none") and all(getattr(arm, name) == getattr(top, name) for name in SETTING) and arm.speed
    ]
    return [LoaderWorker(arm, ratios(top, arm)) for arm in alike]


def above_ceiling(run: Run) -> list[tuple[Arm, Arm]]:
    """Return arms that beat a ceiling in every round, each with its ceiling: a contradiction, as the ceiling does less."""
    groups = [(arms, ceiling(arms)) for arms in settings(run.records, "throughput")]
    return [(arm, top) for arms, top in groups if top for arm in arms if is_slower(speeds(arm), speeds(top))]


def host_bound_ceilings(run: Run) -> list[Arm]:
    """Return the ceilings whose kernels keep the GPU busy for less than ``BUSY`` of the time: the host sets their pace."""
    tops = filter(None, map(ceiling, settings(run.records, "throughput")))
    return [top for top in tops if (top.median("gpu_busy") or 1.0) < BUSY]


def utilisation(run: Run) -> tuple[Arm, Arm | None] | None:
    """Return the arm of the usual recipe with the largest model FLOPs utilisation, and the ceiling, in the largest setting."""
    for arms in sorted(settings(run.records, "throughput"), key=len, reverse=True):
        measured = [arm for arm in arms if arm.values(UTILISATION)]
        augmented = [arm for arm in measured if not arm.is_bare]
        recipe = usual_recipe(dict.fromkeys(arm.recipe for arm in augmented))
        best = max((a for a in augmented if a.recipe == recipe), key=lambda a: a.median(UTILISATION) or 0.0, default=None)
        if best is not None:
            return best, ceiling(measured)
    return None
