"""Training records, gathered: an arm is one way to train, measured in several rounds or with several seeds."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.report.lanes import LANES
from bench.report.quantities import UNKNOWN, number, rounded, spread, word

Record = Mapping[str, Any]

# What must be equal for two runs to be told apart only by how they augment.
SETTING = (
    *("model", "width", "batch_size", "image_size", "precision", "channels_last", "compile", "optimizer", "learning_rate"),
    *("momentum", "weight_decay", "bias_rate", "label_smoothing", "schedule", "warm_up_epochs"),
    *("dataset", "fingerprint", "device"),
)
MANNER = ("recipe", "backend", "augment_on", "num_workers", "decode", "resident", "augment_stream")
FROZEN = "frozen"
"""Placement in which no step prepares a batch: all are given the same one."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """The records of one way to train that succeeded; at least one."""

    records: Sequence[Record] = field(repr=False)

    @property
    def first(self) -> Record:
        return self.records[0]

    @property
    def lane(self) -> str:
        draws = self.first.get("draws")
        return draws if draws in LANES else "mixed"

    @property
    def is_bare(self) -> bool:
        """Trained without augmentation."""
        return self.first.get("augment_on") in ("none", FROZEN)

    @property
    def bare_words(self) -> str:
        """How a bare arm trains, in a sentence."""
        return "on one prepared batch" if self.first.get("augment_on") == FROZEN else "without augmentation"

    @property
    def label(self) -> str:
        """Such as "kornia on the device", "pil in 2 workers, which decode too", "no augmentation", "one prepared batch"."""
        backend, place = word(self.first, "backend"), self.first.get("augment_on")
        if place == FROZEN:
            return "one prepared batch"
        if place == "workers":
            decoding = ", decoding too" if self.first.get("decode") == "workers" else ""
            return f"{backend} in {self._fetcher}{decoding}"
        told = self.first.get("kind") == "throughput" and self.first.get("resident") is False
        verb = "decoded" if self.first.get("decode") == "workers" else "fetched"
        fetched = f", {verb} in {self._fetcher}" if told else ""
        stream = " on a second stream" if self.first.get("augment_stream") is True else ""
        where = f"{backend} on the device{stream}" if place == "device" else backend
        return ("no augmentation" if self.is_bare else where) + fetched

    @property
    def _fetcher(self) -> str:
        workers = self.first.get("num_workers")
        return f"{workers} worker{'s' if workers != 1 else ''}" if workers else "the training process"

    def values(self, name: str) -> list[float]:
        """The finite values of a field, in the order of the records."""
        return [value for record in self.records if (value := number(record, name)) is not None]

    def median(self, name: str) -> float | None:
        """The median over records; None where none has a value."""
        values = self.values(name)
        return statistics.median(values) if values else None


def succeeded(training: Sequence[Record], kind: str) -> list[Record]:
    """The records of a kind that hold a result."""
    return [record for record in training if record.get("kind") == kind and record.get("status", "ok") == "ok"]


def _key(names: Sequence[str]) -> Callable[[Record], tuple[str, ...]]:
    return lambda record: tuple(repr(record.get(name)) for name in names)


def gathered(records: Sequence[Record], names: Sequence[str]) -> list[list[Record]]:
    """Records that agree in all those fields, in the order in which they first appear."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(_key(names)(record), []).append(record)
    return list(groups.values())


def settings(training: Sequence[Record], kind: str) -> list[list[Arm]]:
    """Arms by setting: within one, only recipe, backend and placement differ.

    Without augmentation first, then by lane, the fastest first.
    """
    order = list(LANES)
    # How long one trains decides what accuracy can be, but not how fast a step is.
    names = (*SETTING, "num_epochs", "max_train") if kind == "accuracy" else SETTING
    result = []
    for group in gathered(succeeded(training, kind), names):
        manner = MANNER if kind == "throughput" else (*MANNER, "draws")
        arms = [Arm(records=records) for records in gathered(group, manner)]
        result.append(
            sorted(arms, key=lambda arm: (not arm.is_bare, order.index(arm.lane), -(arm.median("examples_per_s") or 0)))
        )
    return result


def with_spread(arm: Arm, name: str) -> str:
    """The median of a field and how far its values lie apart, such as "300 ±5.0 %"."""
    middle = arm.median(name)
    return UNKNOWN if middle is None else f"{rounded(middle)} {spread(arm.values(name))}".strip()


def ceiling(arms: Sequence[Arm]) -> Arm | None:
    """The arm that is fed one prepared batch; in runs from before there was one, the fastest without augmentation."""
    bare = [arm for arm in arms if arm.is_bare and arm.median("examples_per_s")]
    frozen = [arm for arm in bare if arm.first.get("augment_on") == FROZEN]
    return max(frozen or bare, key=lambda arm: arm.median("examples_per_s") or 0.0, default=None)


def share_of(arm: Arm, top: Arm | None) -> float | None:
    """An arm's examples/s as a share of the ceiling's."""
    mine, most = arm.median("examples_per_s"), top.median("examples_per_s") if top else None
    return mine / most if mine and most else None


def history(record: Record) -> list[Record]:
    """The epochs of an accuracy record; none where they were not kept."""
    epochs = record.get("epochs")
    return [epoch for epoch in epochs if isinstance(epoch, dict)] if isinstance(epochs, list) else []


def setting_words(arms: Sequence[Arm]) -> str:
    """What all arms of a setting share, in words."""
    one = arms[0].first
    devices = one.get("devices")
    where = ", ".join(map(str, devices)) if isinstance(devices, list) and devices else word(one, "device")
    extras = [name.replace("_", " ") for name in ("channels_last", "compile") if one.get(name) is True]
    return ", ".join(
        [
            f"{word(one, 'model')} of width {word(one, 'width')}",
            f"batch {word(one, 'batch_size')}",
            " ".join([word(one, "optimizer"), word(one, "learning_rate"), *_regime(one)]),
            word(one, "precision"),
            *extras,
            f"on {where}",
            f"data {word(one, 'dataset', UNKNOWN)}",
        ]
    )


REGIME = {"weight_decay": "weight decay", "label_smoothing": "label smoothing", "warm_up_epochs": "warm-up epochs"}


def _regime(record: Record) -> list[str]:
    """What is beside the plain optimizer, such as "one_cycle (weight decay 0.0005)"; nothing where nothing is."""
    schedule = [word(record, "schedule")] if record.get("schedule") not in (None, "constant") else []
    extras = [f"{words} {word(record, name)}" for name, words in REGIME.items() if number(record, name)]
    return [*schedule, *([f"({', '.join(extras)})"] if extras else [])]


def paired(arm: Arm, other: Arm, name: str) -> list[float]:
    """Differences of a field between runs of the same seed."""
    theirs = {repr(record.get("seed")): number(record, name) for record in other.records}
    pairs = [(number(record, name), theirs.get(repr(record.get("seed")))) for record in arm.records]
    return [mine - other_value for mine, other_value in pairs if mine is not None and other_value is not None]
