"""Photographs: fine-tuning, where the time of training goes, and decoders."""

from collections.abc import Sequence

from bench.records import Run
from bench.report.facts.accuracy import difference, is_undecided, score, with_accuracy
from bench.report.facts.arms import Arm, arms_of, gather, split_ms, successes

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
