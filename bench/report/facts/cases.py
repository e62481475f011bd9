"""Cases side by side: by setting, by rounds that they share, and which cannot be distinguished."""

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, TypeVar

from bench.records import Case, Run, group_by
from bench.statistics import median_interval

T = TypeVar("T")
LANES: Mapping[Any, str] = {
    "per_image": "parameters drawn per image",
    "per_batch": "parameters drawn once per batch",
    "mixed": "some ops draw per image, some per batch",
    "fixed": "nothing is drawn",
}
SHORT_LANES: Mapping[Any, str] = {name: name.replace("_", " ") for name in LANES}


def sound_cases(run: Run, kind: str) -> list[Case]:
    """Return the cases of a kind with a result, without the rounds that others disturbed where enough are left."""
    return [case.sound for case in run.cases(kind) if case.records]


def settings(run: Run, kind: str) -> list[list[Case]]:
    """Return cases by setting, the one with the most records first: within one, only the kind's manner differs."""
    groups = group_by(sound_cases(run, kind), attrgetter("setting")).values()
    return sorted(groups, key=lambda group: -sum(len(case.records) for case in group))


def place_order(case: Case) -> tuple[Any, ...]:
    """Return the key by which placements are sorted: bare ones, then by lane, the fastest first."""
    return not case.is_bare, list(LANES).index(case.lane), -(case.median("examples_per_s") or 0.0)


def firsts(items: Iterable[T], name: str) -> list[T]:
    """Return the first item of each value of a field."""
    return [first for first, *_ in group_by(items, attrgetter(name)).values()]


def ratios(case: Case, base: Case, name: str = "examples_per_s") -> list[float]:
    """Return a quantity of ``case`` over that of ``base`` for each round that both measured."""
    values, base_values = ({r.round: getattr(r, name) for r in side.records} for side in (case, base))
    return [values[key] / base_values[key] for key in values if key in base_values]


def is_slower(faster: Sequence[float], rival: Sequence[float]) -> bool | None:
    """Return whether the interval of the median of ``rival`` lies below that of ``faster``; None if one has a single value."""
    upper, lower = median_interval(faster), median_interval(rival)
    return upper[0] > lower[1] if upper and lower else None


def find_ties(ranked: Sequence[Case]) -> list[Case]:
    """Return the first case, and those that are not certainly slower."""
    return [case for case in ranked if case is ranked[0] or is_slower(ranked[0].rates, case.rates) is not True]


def usual_recipe(names: Iterable[Any]) -> str | None:
    """Return the recipe that answers are given for: a common one if it was measured, else the first."""
    measured = list(names)
    return next((name for name in ("crop_flip", "flip", "d2l", "imagenet", *measured) if name in measured), None)
