"""Fine-tuning on photographs."""

from collections.abc import Sequence

from bench.records import Run
from bench.report.facts.accuracy import difference, is_undecided, score, with_accuracy
from bench.report.facts.arms import Arm, arms_of, gather, successes

TUNING_SETTING = (
    "model", "width", "image_size", "batch_size", "num_epochs", "learning_rate", "head_rate", "momentum", "decay_every",
    "keep_statistics", "dataset", "fingerprint", "train_images", "test_images", "device",
)  # fmt: skip
START = ("mode", "init", "init_digest", "recipe", "backend", "augment_on", "num_workers")


def finetune_settings(run: Run) -> list[list[Arm]]:
    """Return the arms with an accuracy by setting, the best first; the setting with the most runs first."""
    groups = sorted(gather(successes(run.records, "finetune"), TUNING_SETTING), key=len, reverse=True)
    arms = [sorted(with_accuracy(arms_of(group, START)), key=score, reverse=True) for group in groups]
    return [group for group in arms if group]


def undecided_with(arms: Sequence[Arm]) -> list[Arm]:
    """Return the arms that cannot be distinguished from the first."""
    return [arm for arm in arms[1:] if is_undecided(difference(arms[0], arm))]
