"""What a run found, as values and as records."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from training.config import TrainConfig
from training.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class EpochStats:
    """One epoch, counted from 1. Means and shares over the images of the epoch, as they were seen (augmented, weights moving).

    ``train_accuracy`` is against the largest target where targets are mixed. ``test_accuracy`` is over each test image once.
    ``wall_s`` is the training part, from a synchronised start to a synchronised end on the slowest rank, with the start of
    loader workers in the first epoch, without evaluation. ``wait_s`` is what ``training.clock.StepClock`` says, on the rank
    that waited longest. ``examples`` is the number of images trained on, by all ranks.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    test_accuracy: float
    examples: int
    wall_s: float
    wait_s: float


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What was run, on what: the part that results of all kinds share.

    ``drop_last`` tells that the last, smaller batch of each epoch was left out, which is so where something is compiled.
    ``batch_per_device`` is the number of images that one device gets a step. ``parallel`` is how several devices train one
    model: ddp (a process each), data_parallel (the book's: one process for all), or none. ``flops_per_example`` is what
    ``training.flops`` counts for a step, an image; None where it cannot.
    """

    config: TrainConfig
    dataset_name: str
    dataset_fingerprint: str
    fallback: str | None
    skipped: int
    train_images: int
    test_images: int
    parameters: int
    devices: tuple[str, ...]
    parallel: str
    batch_per_device: int
    draws: str
    drop_last: bool
    flops_per_example: int | None

    def _identity(self, kind: str) -> dict[str, Any]:
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(Setting) if field.name != "config"}
        own["dataset"], own["fingerprint"] = own.pop("dataset_name"), own.pop("dataset_fingerprint")
        return {"kind": kind, "status": "ok"} | self.config.as_record() | own | {"devices": list(self.devices)}


@dataclass(frozen=True, kw_only=True)
class TrainResult(Setting):
    """A finished training run.

    ``examples_per_s`` is all epochs' examples over their wall time, ``examples_per_s_without_wait`` the same without the wait,
    ``wait_share`` the wait's share of the wall time. ``peak_bytes`` is the most memory that torch held on the first device,
    None on a CPU. ``resumed_after`` is the epoch after which the run went on from a checkpoint, 0 where it never stopped: the
    times of epochs before it may be those of another machine.

    Apart from the epochs' wall time stand ``warm_up_s``, the pass before the first epoch that loads libraries and compiles, and
    ``evaluation_s``, that of all epochs since the run was started or resumed. A record has ``train_s``, the wall time of all
    epochs, and ``seconds_to_target``.
    """

    epochs: tuple[EpochStats, ...]
    warm_up_s: float
    evaluation_s: float
    examples_per_s: float
    examples_per_s_without_wait: float
    wait_share: float
    peak_bytes: int | None
    resumed_after: int = 0

    def as_record(self) -> dict[str, Any]:
        """One flat, JSON-able dict, with the epochs as a list under ``epochs`` (their number is ``num_epochs``)."""
        last = self.epochs[-1]
        return self._identity("accuracy") | {
            "num_epochs": len(self.epochs),
            "epochs": [dataclasses.asdict(stats) for stats in self.epochs],
            "loss": last.train_loss,
            "train_accuracy": last.train_accuracy,
            "test_accuracy": last.test_accuracy,
            "examples_per_s": self.examples_per_s,
            "examples_per_s_without_wait": self.examples_per_s_without_wait,
            "wait_share": self.wait_share,
            "peak_bytes": self.peak_bytes,
            "resumed_after": self.resumed_after,
            "warm_up_s": self.warm_up_s,
            "evaluation_s": self.evaluation_s,
            "train_s": sum(stats.wall_s for stats in self.epochs),
            "seconds_to_target": self.seconds_to_target,
        }

    @property
    def seconds_to_target(self) -> float | None:
        """``seconds_to`` the config's target; None without one, and for a run that was resumed, maybe on another machine."""
        target = self.config.target_accuracy
        return None if target is None or self.resumed_after else seconds_to(self.epochs, target)


@dataclass(frozen=True, kw_only=True)
class Throughput(Setting):
    """The speed of a training run, without evaluation; rates as in TrainResult, over ``steps`` steps after a warm-up.

    ``split_s`` says where the wall time went, in seconds over all steps, the mean over ranks; its values add up to ``wall_s``:

    - ``wait``: for a batch, as in ``training.clock.StepClock``.
    - ``copy``: from host to device; with a resident data set, picking the batch's images on the device.
    - ``augment``: augmentation (and the normalisation that every recipe ends with) where the model is; in loader workers, or in
      the training process on their behalf, it is part of ``wait``.
    - ``forward_backward``: the model forward, the loss, and the way back, with the exchange of gradients between ranks.
    - ``optimizer``: the optimizer's step.
    - ``other``: what is left: metrics, and the host's time between steps as far as the device stood idle for it.

    Parts are on the device's own clock for an accelerator, along the stream that trains: what a second stream does meanwhile
    (``prefetch``, ``augment_stream``) shows as far as training had to wait for it, under ``copy``.

    ``gpu_utilisation`` (share of the time in which a kernel ran, mean over GPUs), ``power_w`` and ``energy_j`` (sums over GPUs)
    are what NVIDIA's driver tells of the measured steps, None where it tells nothing; a record has
    ``energy_j_per_1000_examples`` too.
    """

    steps: int
    examples: int
    wall_s: float
    wait_s: float
    examples_per_s: float
    examples_per_s_without_wait: float
    wait_share: float
    peak_bytes: int | None
    split_s: dict[str, float]
    gpu_utilisation: float | None
    power_w: float | None
    energy_j: float | None

    def as_record(self) -> dict[str, Any]:
        """One flat, JSON-able dict, but for ``split_s``, which is a dict of its own."""
        names = {field.name for field in dataclasses.fields(self)} - {field.name for field in dataclasses.fields(Setting)}
        record = self._identity("throughput") | {name: getattr(self, name) for name in names}
        del record["epochs"]  # a setting of training to the end
        energy_j = None if self.energy_j is None else 1000 * self.energy_j / self.examples
        return record | {"energy_j_per_1000_examples": energy_j}


def setting(
    config: TrainConfig,
    dataset: Dataset,
    *,
    parameters: int,
    devices: list[str],
    parallel: str,
    draws: str,
    drop_last: bool,
    flops_per_example: int | None,
) -> dict[str, Any]:
    """The fields of Setting, for the constructors of results."""
    return {
        "config": config,
        "dataset_name": dataset.name,
        "dataset_fingerprint": dataset.fingerprint,
        "fallback": dataset.fallback,
        "skipped": len(dataset.skipped),
        "train_images": len(dataset.train),
        "test_images": len(dataset.test),
        "parameters": parameters,
        "devices": tuple(devices),
        "parallel": parallel,
        "batch_per_device": config.batch_size // len(devices),
        "draws": draws,
        "drop_last": drop_last,
        "flops_per_example": flops_per_example,
    }


def seconds_to(epochs: Sequence[EpochStats], accuracy: float) -> float | None:
    """Seconds of training, without evaluation, up to the end of the first epoch with at least such a test accuracy.

    None where no epoch reached it. It is looked at after epochs only, so the moment itself lies up to an epoch earlier.
    """
    spent = 0.0
    for stats in epochs:
        spent += stats.wall_s
        if stats.test_accuracy >= accuracy:
            return spent
    return None


def rates(examples: int, wall_s: float, wait_s: float) -> dict[str, Any]:
    """The three numbers of speed. Waits beyond the wall time (another rank's) leave no time to divide by: capped at 99.9 %."""
    wait_s = min(wait_s, 0.999 * wall_s)
    return {
        "examples_per_s": examples / wall_s,
        "examples_per_s_without_wait": examples / (wall_s - wait_s),
        "wait_share": wait_s / wall_s,
    }
