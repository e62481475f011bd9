"""Training runs: to the end, epoch by epoch, or for a measured number of steps."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from training.config import TrainConfig, settled, validate
from training.data import load
from training.dataset import Dataset
from training.distributed import Ranks, joined
from training.results import EpochStats, Throughput, TrainResult, rates
from training.trainer import Trainer, TrainingDiverged, evaluate

__all__ = ["EpochStats", "Throughput", "TrainResult", "TrainingDiverged", "evaluate", "measure_throughput", "train", "trainer"]


def train(
    config: TrainConfig,
    dataset: Dataset | None = None,
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
    on_epoch: Callable[[EpochStats], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    on_data: Callable[[Dataset], None] | None = None,
    on_resume: Callable[[Sequence[EpochStats]], None] | None = None,
) -> TrainResult:
    """Train a model and evaluate it after each epoch.

    Without ``dataset`` it is loaded as the config says. On rank 0, ``on_data`` is called when the data is there,
    ``on_step(step, steps)`` after each step was queued and ``on_epoch`` after each epoch. What is compiled is compiled before
    the first clock starts.

    With ``checkpoint`` the state is written there after each epoch, before ``on_epoch``. ``resume`` goes on from what is there
    (from the start if there is nothing), after ``on_resume`` was told the epochs that are done; on a CPU the weights and
    epochs at the end are then bit for bit those of a run that never stopped.

    Raises ValueError for a config that cannot be run, or a checkpoint that is not this run's (``training.checkpoint``),
    TrainingDiverged (a ValueError) for a step whose loss was not finite, at most 20 steps (``training.totals.Watch``) and an
    epoch's end later, with all that was written before it kept, and OSError for a checkpoint that cannot be written.
    """
    if resume and checkpoint is None:
        raise ValueError("to resume, say from which checkpoint")
    if config.augment_on == "frozen":
        raise ValueError("a frozen batch is for measuring speed (augmark throughput): take another --augment-on to train")
    with trainer(config, dataset) as current:
        main = current.ranks.is_main
        if on_data is not None and main:
            on_data(current.dataset)
        current.warm_up()
        epochs = current.go_on(checkpoint) if resume and checkpoint is not None else []
        resumed_after = len(epochs)
        if resume and on_resume is not None and main:
            on_resume(epochs)
        for epoch in range(resumed_after + 1, config.epochs + 1):
            epochs.append(current.run_epoch(epoch, on_step if main else None))
            if checkpoint is not None:
                current.keep(checkpoint, epochs)
            if on_epoch is not None and main:
                on_epoch(epochs[-1])
        totals = [sum(getattr(stats, name) for stats in epochs) for name in ("examples", "wall_s", "wait_s")]
        return TrainResult(
            **current.setting(), epochs=tuple(epochs), **rates(*totals), peak_bytes=current.peak_bytes(),
            resumed_after=resumed_after, warm_up_s=current.warm_up_s, evaluation_s=current.evaluation_s,
        )  # fmt: skip


def measure_throughput(
    config: TrainConfig, dataset: Dataset | None = None, *, seconds: float | None = None, steps: int | None = None
) -> Throughput:
    """Measure training steps, epoch after epoch without evaluation, for about so many seconds or for so many steps.

    With augment_on=frozen the one batch is trained on again and again with the config's step size: its loss falls towards 0 and
    nothing is learned that is of use, while each step does the same operations. Their operands stay ordinary numbers: tests
    hold that hundreds of steps leave neither NaN nor denormals, which a CPU would be slower with.

    Before the clock starts, 5 steps warm up (more with loader workers, so that what they fetched ahead while they started is
    used up): compilation and the start of the workers are outside. The clock synchronises at both ends. Over whole epochs the
    numbers are those of ``train``; what differs is the start of the workers, and the moments that are noted within a step.

    Raises ValueError for a config that cannot be run, and unless one of ``seconds`` and ``steps`` is given and positive.
    """
    if (seconds is None) == (steps is None) or (seconds or steps or 0) <= 0:
        raise ValueError("measure_throughput takes either seconds or steps, a positive number")
    with trainer(config, dataset) as current:
        current.warm_up()
        measured = current.run_steps(seconds if seconds is not None else math.inf, steps)
        speeds = rates(measured["examples"], measured["wall_s"], measured["wait_s"])
        return Throughput(**current.setting(), **measured, **speeds, peak_bytes=current.peak_bytes())


@contextmanager
def trainer(config: TrainConfig, dataset: Dataset | None = None) -> Iterator[Trainer]:
    """What trains one model, among all ranks of this run while the block lasts.

    Raises ValueError for a config that cannot be run, data of another size, or ranks that were started with different ones.
    """
    device = validate(config)
    config = settled(config, device)
    with joined(device) as ranks:
        dataset = dataset if dataset is not None else _load_once(config, ranks)
        side = dataset.train.images.shape[-1]
        if side != config.image_size:
            raise ValueError(
                f"the data set has images of {side} pixels, image_size is {config.image_size}: load it with that size"
            )
        ranks.check_equal("settings", config.as_record() | {"the data's fingerprint": dataset.fingerprint})
        yield Trainer(config, dataset, ranks)


def _load_once(config: TrainConfig, ranks: Ranks) -> Dataset:
    """On each machine one rank downloads and decodes; the others then find the cache."""
    if ranks.local_rank != 0:
        ranks.wait_for_all()
    dataset = load(
        config.data, root=config.data_root, image_size=config.image_size,
        max_train=config.max_train, max_test=config.max_test, download=config.download,
    )  # fmt: skip
    if ranks.local_rank == 0:
        ranks.wait_for_all()
    return dataset
