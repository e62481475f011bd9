"""Photographs: fine-tuning, where the time of training goes, and decoders."""

from collections.abc import Sequence

from bench.records import Run
from bench.report.facts.accuracy import difference, is_undecided, score, with_accuracy
from bench.report.facts.arms import Arm, arms_of, gather, split_ms, successes
from bench.report.facts.lanes import is_slower

TUNING_SETTING = (
    "model", "width", "image_size", "batch_size", "num_epochs", "learning_rate", "head_rate", "momentum", "decay_every",
    "keep_statistics", "dataset", "fingerprint", "train_images", "test_images", "device",
)  # fmt: skip
START = ("mode", "init", "init_digest", "recipe", "backend", "augment_on", "num_workers")
FETCHING = ("decode_s", "worker_augment_s")
"""Seconds spent where photographs are fetched: beside the training process, if there are workers."""


def finetune_settings(run: Run) -> list[list[Arm]]:
    """Return the arms with an accuracy by setting, the best first; the setting with the most runs first."""
    groups = sorted(gather(successes(run.records, "finetune"), TUNING_SETTING), key=len, reverse=True)
    arms = [sorted(with_accuracy(arms_of(group, START)), key=score, reverse=True) for group in groups]
    return [group for group in arms if group]


def undecided_with(arms: Sequence[Arm]) -> list[Arm]:
    """Return the arms that cannot be distinguished from the first."""
    return [arm for arm in arms[1:] if is_undecided(difference(arms[0], arm))]


def placements(run: Run) -> list[list[Arm]]:
    """Return the placements of training on photographs by setting: without augmentation first, then the fastest."""
    names = [name for name in TUNING_SETTING if name != "num_epochs"]
    groups = sorted(gather(successes(run.records, "photographs"), names), key=len, reverse=True)
    manner = ("mode", "recipe", "backend", "augment_on", "num_workers")
    return [sorted(arms_of(group, manner), key=lambda arm: (not arm.is_bare, -arm.speed)) for group in groups]


def image_ms(arm: Arm) -> tuple[dict[str, float], dict[str, float]]:
    """Return milliseconds a photograph by part of the training process, and of fetching."""
    parts = split_ms(arm, 1, FETCHING)
    return {k: v for k, v in parts.items() if k not in FETCHING}, {k: v for k, v in parts.items() if k in FETCHING}


Race = list[Arm]
"""Decoders at one size and number of processes, the fastest first."""


def races(run: Run) -> list[list[Race]]:
    """Return the races of each data set, quality and device, by size and processes; the set with the most records first."""
    groups = sorted(
        gather(successes(run.records, "decoding"), ("dataset", "fingerprint", "quality", "device")), key=len, reverse=True
    )
    tables = [[arms_of(records, ("decoder",)) for records in gather(group, ("image_size", "num_workers"))] for group in groups]
    ranked = [[sorted(race, key=lambda arm: -(arm.median("images_per_s") or 0)) for race in races] for races in tables]
    return [sorted(races, key=lambda race: (race[0].image_size, race[0].num_workers)) for races in ranked]


def winners(race: Race) -> list[str]:
    """Return the fastest decoder and those whose rounds overlap its own."""
    rates = {str(arm.decoder): arm.values("images_per_s") for arm in race}
    best, *rivals = rates
    return [best, *(decoder for decoder in rivals if is_slower(rates[best], rates[decoder]) is not True)]


def winners_by_size(group: Sequence[Race]) -> dict[int, str | None]:
    """Return the decoder that wins at every number of processes of a size; None if no decoder does. The largest size first."""
    names: dict[int, set[str]] = {}
    for race in reversed(group):
        names.setdefault(race[0].image_size, set()).update(winners(race))
    return {size: next(iter(decoders)) if len(decoders) == 1 else None for size, decoders in names.items()}
