"""Training runs on small images: to the end, epoch by epoch, or for a measured number of steps."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.base_trainer import OnEpoch, OnStep
from training.config import TrainConfig, resolve_auto, validate
from training.data import load_for
from training.distributed import Ranks, join_ranks, synchronise
from training.meters import PowerMeter, StepClock, Totals
from training.results import Throughput, TrainResult
from training.sources.dataset import Dataset
from training.trainer import ImageTrainer

WARM_UP_STEPS = 5
CHECK_EVERY = 10  # steps between two questions to rank 0 whether time is up; alone, a process looks at each step


def train(
    config: TrainConfig, dataset: Dataset | None = None, *, checkpoint: Path | None = None, resume: bool = False,
    on_epoch: OnEpoch | None = None, on_step: OnStep | None = None, cache: "TrainerCache | None" = None,
) -> TrainResult:  # fmt: skip
    """Train a model and evaluate it after each epoch.

    Args:
        config: The run; what it compiles is compiled before the first clock starts.
        dataset: The data; None: loaded as the config says.
        checkpoint: File that the state is written to after each epoch, before ``on_epoch``.
        resume: Continue from the checkpoint, or start if there is none. On a CPU the weights and epochs at the end are bit for
            bit those of a run that never stopped.
        on_epoch: Called on rank 0 with each epoch of the checkpoint to resume, and after each new one.
        on_step: Called on rank 0 as ``on_step(step, steps)`` after each step was queued.
        cache: Keeps the trainer for the next run, and has it from the one before; not where a checkpoint is resumed, which is
            loaded into memory of its own.

    Raises:
        ValueError: for a config that cannot be run, or a checkpoint that is not this run's (``training.checkpoint``).
        TrainingDiverged: a ValueError, for a step whose loss was not finite, at most 20 steps (``training.meters.Watch``) and
            an epoch's end later; what was written before is kept.
        OSError: for a checkpoint that cannot be written.
    """
    if resume and checkpoint is None:
        raise ValueError("to resume, say from which checkpoint")
    if config.augment_on == "frozen":
        raise ValueError("a frozen batch is for measuring speed (augmark throughput): take another --augment-on to train")
    with open_trainer(config, dataset, None if resume else cache) as current:
        epochs = current.run(checkpoint=checkpoint, resume=resume, on_epoch=on_epoch, on_step=on_step)
        return TrainResult(**current.result_fields(epochs))


def measure_throughput(
    config: TrainConfig, dataset: Dataset | None = None, *, seconds: float | None = None, steps: int | None = None
) -> Throughput:
    """Measure training steps, epoch after epoch without evaluation, for about so many seconds or for so many steps.

    With augment_on=frozen every step trains on the one batch with the config's step size: its loss falls towards 0 and nothing
    useful is learned, while each step does the same operations. Their operands stay ordinary numbers: tests hold that hundreds
    of steps leave neither NaN nor denormals, which would slow a CPU.

    Before the clock starts, 5 steps warm up (more with loader workers, to use up the batches fetched while they started):
    compilation and the start of the workers are outside. The clock synchronises at both ends. Over whole epochs the numbers are
    those of ``train``; the differences are the start of the workers, and the marks within a step.

    Raises ValueError for a config that cannot be run, and unless one of ``seconds`` and ``steps`` is given and positive.
    """
    if (seconds is None) == (steps is None) or (seconds or steps or 0) <= 0:
        raise ValueError("measure_throughput takes either seconds or steps, a positive number")
    with open_trainer(config, dataset) as current:
        current.warm_up()
        measured = _measure_steps(current, seconds if seconds is not None else math.inf, steps)
        return Throughput(**current.facts(), **measured)


def _measure_steps(current: ImageTrainer, seconds: float, steps: int | None) -> dict[str, Any]:
    """Return the fields of Throughput that are measured."""
    ranks, batches, totals = current.ranks, current.feed.endless(), Totals()
    current.start_epoch(1)
    for _ in range(WARM_UP_STEPS + 2 * current.config.num_workers):
        current.step(next(batches), totals)
    totals, clock = Totals(), StepClock(current.device, split=True)
    current.start_together()
    done = 0
    with PowerMeter(current.own_devices) as meter:
        start = time.perf_counter()
        for fetched in clock.time_waits(batches):
            current.step(fetched, totals, clock.mark_phase)
            done += 1
            if done == steps or _is_time_up(ranks, done, start + seconds):
                break
        synchronise(current.device)
        spent_s = time.perf_counter() - start
    wall_s, wait_s = ranks.largest(spent_s, clock.wait_s())
    phases = clock.split_s()
    means = {name: total / ranks.world for name, total in zip(phases, ranks.total(*phases.values()), strict=True)}
    # A rank whose driver reports nothing makes the sum over ranks NaN.
    reported = [math.nan if value is None else value for value in (meter.utilisation, meter.energy_j)]
    utilisation, energy_j = (None if math.isnan(total) else total for total in ranks.total(*reported))
    return {
        "steps": done, "examples": totals.read(ranks)[2], "wall_s": wall_s, "wait_s": wait_s,
        "split_s": means | {"other": wall_s - sum(means.values())}, "energy_j": energy_j,
        "gpu_utilisation": None if utilisation is None else utilisation / ranks.world,
        "power_w": None if energy_j is None else energy_j / wall_s,
    }  # fmt: skip


def _is_time_up(ranks: Ranks, done: int, deadline: float) -> bool:
    if ranks.world == 1:
        return time.perf_counter() >= deadline
    # Ranks that stop at different steps would wait for each other for ever.
    return done % CHECK_EVERY == 0 and math.isfinite(deadline) and ranks.agree(time.perf_counter() >= deadline)


@dataclass
class TrainerCache:
    """The trainer of the last run: the next one reuses data, compiled model and CUDA graphs where only its feed differs."""

    trainer: ImageTrainer | None = None

    def take(self, config: TrainConfig, dataset: Dataset, ranks: Ranks) -> ImageTrainer:
        """Return the kept trainer, started anew, or a new one."""
        if self.trainer is None or not self.trainer.can_restart(config, dataset):
            self.trainer = None  # its memory first
            self.trainer = ImageTrainer(config, dataset, ranks)
        else:
            self.trainer.restart(config)
        return self.trainer


@contextmanager
def open_trainer(
    config: TrainConfig, dataset: Dataset | None = None, cache: TrainerCache | None = None
) -> Iterator[ImageTrainer]:
    """Build the trainer of one model, or take it from a cache, among all ranks of this run while the block lasts.

    Raises ValueError for a config that cannot be run, data of another size, or ranks that were started with different ones.
    """
    device = validate(config)
    config = resolve_auto(config, device)
    with join_ranks(device) as ranks:
        dataset = dataset if dataset is not None else load_once(config, ranks)
        side = dataset.train.images.shape[-1]
        if side != config.image_size:
            raise ValueError(
                f"the data set has images of {side} pixels, image_size is {config.image_size}: load it with that size"
            )
        ranks.check_equal("settings", config.as_record() | {"the data's fingerprint": dataset.fingerprint})
        yield (cache or TrainerCache()).take(config, dataset, ranks)


def load_once(config: TrainConfig, ranks: Ranks) -> Dataset:
    """Load the data set; on each machine one rank downloads and decodes, and the others then find the cache."""
    if ranks.local_rank != 0:
        ranks.wait_for_all()
    dataset = load_for(config)
    if ranks.local_rank == 0:
        ranks.wait_for_all()
    return dataset
