"""Training records by arm: one way to train, measured in several rounds or with several seeds."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from bench.records import MANNER, SETTING, Case, Lane, Record, sound
from bench.report.facts.lanes import LANES

FROZEN = "frozen"
"""``augment_on`` of the ceiling: every step gets the same prepared batch."""
Place = Literal["device", "workers", "process"]


def value(record: Record, name: str) -> Any:
    """Return a field of a record, None if its kind has no such field."""
    return getattr(record, name, None)


class Arm(Case):
    """Successful records of one way to train, at least one."""

    @property
    def lane(self) -> Lane:
        """Lane of the draws; an unknown one is compared with nothing, as "mixed" is."""
        return super().lane or "mixed"

    @property
    def is_bare(self) -> bool:
        """Trained without augmentation."""
        return self.augment_on in ("none", FROZEN)

    @property
    def place(self) -> Place:
        """Place in which the arm augments."""
        return "device" if self.augment_on == "device" else "workers" if self.num_workers else "process"

    @property
    def speed(self) -> float:
        """Median examples/s; 0 if unknown."""
        return self.median("examples_per_s") or 0.0


def successes(records: Iterable[Record], kind: str) -> list[Record]:
    """Return the records of a kind that hold a result."""
    return [record for record in records if record.kind == kind and record.status == "ok"]


def gather(records: Iterable[Record], names: Sequence[str]) -> list[list[Record]]:
    """Group records that agree in all named fields, in order of first appearance."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(repr(value(record, name)) for name in names), []).append(record)
    return list(groups.values())


def arms_of(records: Iterable[Record], names: Sequence[str]) -> list[Arm]:
    """Return an arm for each combination of the named fields, of the rounds that others did not disturb where enough are."""
    return [Arm(records=sound(group)) for group in gather(records, names)]


def settings(records: Iterable[Record], kind: str) -> list[list[Arm]]:
    """Return arms by setting: within one, only recipe, backend and placement differ.

    Bare arms first, then by lane, the fastest first.
    """
    is_accuracy = kind == "accuracy"
    names = (*SETTING, "num_epochs", "max_train") if is_accuracy else SETTING  # a step's speed does not depend on these
    manner = (*MANNER, "lane") if is_accuracy else MANNER
    order = list(LANES)
    return [
        sorted(arms_of(group, manner), key=lambda arm: (not arm.is_bare, order.index(arm.lane), -arm.speed))
        for group in gather(successes(records, kind), names)
    ]


def firsts(arms: Iterable[Arm], name: str) -> list[Arm]:
    """Return the first arm of each value of a field."""
    first: dict[Any, Arm] = {}
    for arm in arms:
        first.setdefault(getattr(arm, name), arm)
    return list(first.values())


def ceiling(arms: Iterable[Arm]) -> Arm | None:
    """Return the arm that trains on one prepared batch; without one, the fastest bare arm."""
    bare = [arm for arm in arms if arm.is_bare and arm.speed]
    frozen = [arm for arm in bare if arm.augment_on == FROZEN]
    return max(frozen or bare, key=lambda arm: arm.speed, default=None)


def share_of(arm: Arm, top: Arm | None) -> float | None:
    """Return an arm's examples/s as a share of the ceiling's."""
    return arm.speed / top.speed if arm.speed and top and top.speed else None


def ratios(arm: Arm, base: Arm) -> list[float]:
    """Return examples/s of ``arm`` over those of ``base`` for each round that both measured."""
    speeds, base_speeds = ({r.round: value(r, "examples_per_s") for r in side.records} for side in (arm, base))
    return [speeds[key] / base_speeds[key] for key in speeds if key in base_speeds]


def usual_recipe(names: Iterable[str]) -> str | None:
    """Return the recipe that answers are given for: a common one if it was measured, else the first."""
    measured = list(names)
    return next((name for name in ("crop_flip", "flip", "d2l", "imagenet", *measured) if name in measured), None)


def split_ms(arm: Arm, images: float) -> dict[str, float]:
    """Return milliseconds by part for so many images, medians over records; they add up to the wall time."""
    splits = []
    for record in arm.records:
        seconds = value(record, "split_s") or {}
        whole, speed = sum(seconds.values()), value(record, "examples_per_s")
        if whole and speed:
            splits.append({name: 1000 * images * content / speed / whole for name, content in seconds.items()})
    names = dict.fromkeys(name for split in splits for name in split)
    return {name: statistics.median(split.get(name, 0.0) for split in splits) for name in names}
