"""Results of training, measuring and fine-tuning, as plain values."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from training.config import FinetuneConfig, TrainConfig
from training.sources.dataset import DataFacts


@dataclass(frozen=True, kw_only=True)
class EpochStats:
    """One epoch, counted from 1. Means and shares over the images of the epoch, as they were seen (augmented, weights moving).

    ``train_accuracy`` is against the largest target where targets are mixed. ``test_accuracy`` counts each test image once; NaN
    without evaluation. ``wall_s`` is the training part, from a synchronised start to a synchronised end on the slowest rank,
    with the start of loader workers in the first epoch, without evaluation; a stop of the process (Ctrl-Z) counts. ``wait_s``
    is ``training.meters.StepClock``'s, of the rank that waited longest. ``examples`` is the number of images trained on, by all
    ranks.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    test_accuracy: float
    examples: int
    wall_s: float
    wait_s: float


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """Settings and surroundings that all results share.

    ``batch_per_device`` is the number of images that one device gets a step. ``parallel`` is how several devices train one
    model: ddp (a process each), data_parallel (the book's: one process for all), or none. ``lane`` is how often parameters are
    drawn, ``implementation`` how the fused backend ran (c, triton, tensors, inductor; None for other backends), ``step`` how
    full batches were trained on (graph: as one CUDA graph; compiled: the model by torch.compile; eager). ``drop_last``
    tells that the last, smaller batch of each epoch was left out, as it is where something is compiled. ``flops_per_example``
    is ``training.meters.flops_per_example``, None if it cannot be counted. ``peak_bytes`` is the most memory that torch held on
    the first device, None on a CPU.
    """

    config: TrainConfig | FinetuneConfig
    data: DataFacts
    parameters: int
    trained_parameters: int
    devices: tuple[str, ...]
    parallel: str
    batch_per_device: int
    lane: str
    implementation: str | None
    step: str
    drop_last: bool
    flops_per_example: int | None
    peak_bytes: int | None

    def _totals(self) -> tuple[int, float, float]:
        """Return (examples, wall_s, wait_s)."""
        raise NotImplementedError

    @property
    def examples_per_s(self) -> float:
        """Examples over wall time."""
        examples, wall_s, _ = self._totals()
        return examples / wall_s

    @property
    def examples_per_s_without_wait(self) -> float:
        """Examples over wall time without the wait, which is capped at 99.9 % (it may be another rank's)."""
        examples, wall_s, wait_s = self._totals()
        return examples / (wall_s - min(wait_s, 0.999 * wall_s))

    @property
    def wait_share(self) -> float:
        """Share of the wall time that was waited, capped at 99.9 %."""
        _, wall_s, wait_s = self._totals()
        return min(wait_s, 0.999 * wall_s) / wall_s


@dataclass(frozen=True, kw_only=True)
class TrainResult(RunFacts):
    """A finished training run; its rates are over the training parts of all epochs.

    ``resumed_after`` is the epoch after which the run was resumed from a checkpoint, 0 if it never stopped: the times of epochs
    before it may be another machine's. Not in the epochs' wall time: ``warm_up_s``, the pass before the first epoch that loads
    libraries and compiles, and ``evaluation_s`` of all epochs since the run was started or resumed.
    """

    epochs: tuple[EpochStats, ...]
    warm_up_s: float
    evaluation_s: float
    resumed_after: int = 0

    def _totals(self) -> tuple[int, float, float]:
        examples = sum(stats.examples for stats in self.epochs)
        return examples, self.train_s, sum(stats.wait_s for stats in self.epochs)

    @property
    def train_s(self) -> float:
        """Wall time of all epochs."""
        return sum(stats.wall_s for stats in self.epochs)

    @property
    def last(self) -> EpochStats:
        """The last epoch."""
        return self.epochs[-1]

    @property
    def target_accuracy(self) -> float | None:
        """The config's target, None without one."""
        return None if isinstance(self.config, FinetuneConfig) else self.config.target_accuracy

    @property
    def seconds_to_target(self) -> float | None:
        """``seconds_to`` the target; None without one, and for a run that was resumed, maybe on another machine."""
        target = self.target_accuracy
        return None if target is None or self.resumed_after else seconds_to(self.epochs, target)


@dataclass(frozen=True, kw_only=True)
class FinetuneResult(TrainResult):
    """A finished fine-tuning run.

    ``best_epoch`` is the first with the highest accuracy on the validation photographs, whose weights were kept. ``total_s``
    goes from the first step of preparation to the last evaluation, with the time before an interruption; ``features_s`` is the
    part for computing features once. ``resident_bytes`` is the largest resident size of the training process, looked at after
    each batch.
    """

    best_epoch: int
    total_s: float
    features_s: float
    resident_bytes: int

    @property
    def best_accuracy(self) -> float:
        """Accuracy of the best epoch; chosen on the photographs that it is measured on, so it flatters."""
        return self.epochs[self.best_epoch - 1].test_accuracy


@dataclass(frozen=True, kw_only=True)
class Throughput(RunFacts):
    """The speed of a training run, without evaluation, over ``steps`` steps after a warm-up.

    ``split_s`` is the wall time by phase, in seconds over all steps, the mean over ranks; its values add up to ``wall_s``:

    - ``wait``: for a batch, as in ``training.meters.StepClock``.
    - ``copy``: from host to device; with a resident data set, picking the batch's images on the device.
    - ``augment``: augmentation (and the normalisation that every recipe ends with) where the model is; in loader workers, or in
      the training process on their behalf, it is part of ``wait``.
    - ``forward_backward``: the model forward, the loss, and the way back, with the exchange of gradients between ranks.
    - ``optimizer``: the optimizer's step.
    - ``other``: metrics, and the host's time between steps as far as the device stood idle for it.

    With step=graph ``forward_backward`` is all that the graph does. Phases are on the device's own clock for an accelerator,
    along the stream that trains: work of a second stream (``prefetch``, ``augment_stream``) shows as far as training had to
    wait for it, under ``copy``.

    ``gpu_utilisation`` (share of the time with a kernel, mean over GPUs), ``power_w`` and ``energy_j`` (sums over GPUs) are
    NVML's for the measured steps, None if it reports none.
    """

    steps: int
    examples: int
    wall_s: float
    wait_s: float
    split_s: dict[str, float]
    gpu_utilisation: float | None
    power_w: float | None
    energy_j: float | None

    def _totals(self) -> tuple[int, float, float]:
        return self.examples, self.wall_s, self.wait_s

    @property
    def energy_j_per_1000_examples(self) -> float | None:
        """Energy over examples, None if NVML reports none."""
        return None if self.energy_j is None else 1000 * self.energy_j / self.examples


def seconds_to(epochs: Sequence[EpochStats], accuracy: float) -> float | None:
    """Return the seconds of training, without evaluation, to the end of the first epoch with at least that test accuracy.

    None if no epoch reached it. Only ends of epochs are looked at, so the moment itself lies up to an epoch earlier.
    """
    ends = zip(itertools.accumulate(stats.wall_s for stats in epochs), epochs, strict=True)
    return next((end for end, stats in ends if stats.test_accuracy >= accuracy), None)
