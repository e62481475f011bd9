"""What a fine-tuning run found, as values and as a record."""

import dataclasses
import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.dataset import Dataset
from training.finetune_config import FinetuneConfig


@dataclass(frozen=True, kw_only=True)
class FinetuneEpoch:
    """One epoch, counted from 1; ``test_accuracy`` is over each validation photograph once.

    ``wall_s`` is the training part. ``split_s`` says where it went, in seconds that add up to it: ``wait`` for a batch, and the
    ``copy``, ``augment``, ``forward_backward`` and ``optimizer`` parts of steps as in ``training.results.Throughput``, and
    ``other``. ``decode_s`` and ``worker_augment_s`` are the seconds that whoever fetches (all loader workers together) spent on
    reading and decoding, and on augmenting or cutting: they pass while the training process works, or waits.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    test_accuracy: float
    examples: int
    wall_s: float
    split_s: dict[str, float]
    decode_s: float
    worker_augment_s: float


@dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """A finished fine-tuning run.

    ``best_epoch`` is the first with the highest accuracy on the validation photographs, whose weights were kept;
    ``best_accuracy`` was chosen on the photographs that it is measured on, so it flatters. ``test_accuracy`` is the last
    epoch's. ``examples_per_s`` is over the training parts of all epochs, ``total_s`` from the first step of preparation to the
    last evaluation, ``features_s`` what of that computing features once took. ``peak_bytes`` is the most memory that torch held
    on an accelerator, ``resident_bytes`` the largest resident size of the training process as seen after each batch.
    """

    config: FinetuneConfig
    dataset: Dataset
    parameters: int
    trained_parameters: int
    device: str
    draws: str
    epochs: tuple[FinetuneEpoch, ...]
    best_epoch: int
    best_accuracy: float
    total_s: float
    features_s: float
    peak_bytes: int | None
    resident_bytes: int
    resumed_after: int

    @property
    def test_accuracy(self) -> float:
        """After the last epoch."""
        return self.epochs[-1].test_accuracy

    @property
    def examples_per_s(self) -> float:
        """Photographs trained on a second of training."""
        return sum(stats.examples for stats in self.epochs) / sum(stats.wall_s for stats in self.epochs)

    def as_record(self) -> dict[str, Any]:
        """One flat, JSON-able dict, with the epochs as a list under ``epochs`` (their number is ``num_epochs``)."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del own["config"], own["dataset"]
        last = self.epochs[-1]
        return identity(self.config, self.dataset) | own | {
            "status": "ok",
            "num_epochs": len(self.epochs),
            "epochs": [dataclasses.asdict(stats) for stats in self.epochs],
            "loss": last.train_loss,
            "train_accuracy": last.train_accuracy,
            "test_accuracy": last.test_accuracy,
            "examples_per_s": self.examples_per_s,
        }  # fmt: skip


def identity(config: FinetuneConfig, dataset: Dataset) -> dict[str, Any]:
    """What was run, on what: the part of a record that is known before the run."""
    record = config.as_record()
    record["num_epochs"] = record.pop("epochs")
    weights = Path(config.effective_init).expanduser()
    if config.effective_init not in ("imagenet", "scratch") and weights.is_file():
        record["init_digest"] = _digest(weights)  # most are called best.pt or checkpoint.pt, which says little
    return {"kind": "finetune"} | record | {
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint,
        "train_images": len(dataset.train),
        "test_images": len(dataset.test),
        "skipped": len(dataset.skipped),
        "skipped_files": list(dataset.skipped),
    }  # fmt: skip


@functools.cache  # the checkpoint of every epoch asks for it
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
