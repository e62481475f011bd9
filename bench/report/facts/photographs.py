"""Photographs: fine-tuning, where the time of training goes, and decoders."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.records import Record, Run
from bench.report.facts.accuracy import difference, is_undecided, score, scored
from bench.report.facts.arms import Arm, arms_of, gather, split_ms, succeeded
from bench.report.facts.lanes import slower

TUNING_SETTING = (
    *("model", "width", "image_size", "batch_size", "num_epochs", "learning_rate", "head_rate", "momentum", "decay_every"),
    *("keep_statistics", "dataset", "fingerprint", "train_images", "test_images", "device"),
)
START = ("mode", "init", "init_digest", "recipe", "backend", "augment_on", "num_workers")
FETCHING = ("decode_s", "worker_augment_s")
"""Seconds spent where photographs are fetched: beside the training process, if there are workers."""


def finetune_settings(run: Run) -> list[list[Arm]]:
    """Return the arms with an accuracy by setting, the best first; the setting with the most runs first."""
    groups = sorted(gather(succeeded(run.records, "finetune"), TUNING_SETTING), key=len, reverse=True)
    arms = [sorted(scored(arms_of(group, START)), key=score, reverse=True) for group in groups]
    return [group for group in arms if group]


def undecided_with(arms: Sequence[Arm]) -> list[Arm]:
    """Return the arms that cannot be distinguished from the first."""
    return [arm for arm in arms[1:] if is_undecided(difference(arms[0], arm))]


def placements(run: Run) -> list[list[Arm]]:
    """Return the placements of training on photographs by setting: without augmentation first, then the fastest."""
    names = [name for name in TUNING_SETTING if name != "num_epochs"]
    groups = sorted(gather(succeeded(run.records, "photographs"), names), key=len, reverse=True)
    manner = ("mode", "recipe", "backend", "augment_on", "num_workers")
    return [sorted(arms_of(group, manner), key=lambda arm: (not arm.is_bare, -arm.speed)) for group in groups]


def image_ms(arm: Arm) -> tuple[dict[str, float], dict[str, float]]:
    """Return milliseconds a photograph by part of the training process, and of fetching."""
    parts = split_ms(arm, 1, FETCHING)
    return {k: v for k, v in parts.items() if k not in FETCHING}, {k: v for k, v in parts.items() if k in FETCHING}


@dataclass(frozen=True, kw_only=True)
class Race:
    """Decoders at one size and number of processes, the fastest first."""

    ranked: Sequence[Arm]

    @property
    def image_size(self) -> int:
        return int(self.ranked[0].image_size)

    @property
    def num_workers(self) -> int:
        return int(self.ranked[0].num_workers)

    @property
    def winners(self) -> list[str]:
        """The fastest decoder and those whose rounds overlap its own."""
        best = self.ranked[0].values("images_per_s")
        return [
            arm.decoder for arm in self.ranked if arm is self.ranked[0] or slower(best, arm.values("images_per_s")) is not True
        ]


def races(run: Run) -> list[list[Race]]:
    """Return the races of each data set, quality and device, by size and processes; the set with the most records first."""
    groups = sorted(
        gather(succeeded(run.records, "decoding"), ("dataset", "fingerprint", "quality", "device")), key=len, reverse=True
    )
    return [
        sorted(map(_race, gather(group, ("image_size", "num_workers"))), key=lambda r: (r.image_size, r.num_workers))
        for group in groups
    ]


def _race(records: Sequence[Record]) -> Race:
    return Race(ranked=sorted(arms_of(records, ("decoder",)), key=lambda arm: -(arm.median("images_per_s") or 0)))


def winners_by_size(group: Sequence[Race]) -> dict[int, str | None]:
    """Return the decoder that wins at every number of processes of a size; None if no one does. The largest size first."""
    sizes = sorted({race.image_size for race in group}, reverse=True)
    names = {size: {name for race in group if race.image_size == size for name in race.winners} for size in sizes}
    return {size: next(iter(winners)) if len(winners) == 1 else None for size, winners in names.items()}
