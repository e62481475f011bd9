"""Overhead of the trainer's step: against a bare loop of the same model, optimizer and batches with nothing around them."""

import functools
import math
import statistics
from collections.abc import Iterator
from pathlib import Path

import msgspec
import torch
from torch.nn import functional as F

from augment import build
from bench.clock import Clock, Function, Sampler, sample
from bench.limits import busy_share
from bench.presets import preset
from bench.records import Overhead
from training import models, optimise
from training.config import TrainConfig
from training.data import Dataset, load
from training.loop import open_trainer
from training.meters import StepClock, Totals, Watch
from training.trainer import ImageTrainer

TRAIN_IMAGES = 2000
WARM_UP_STEPS = 3
BUSY_STEPS = 20
FEWEST_TURNS, MOST_TURNS = 6, 200


@functools.lru_cache(maxsize=1)
def load_images(data: str, root: Path) -> Dataset:
    """Return the images of all rounds. Arguments as in ``training.data.load``."""
    return load(data, root=root, max_train=TRAIN_IMAGES, max_test=TRAIN_IMAGES)


def overhead_config(device: str) -> TrainConfig:
    """Return the quick preset's model, without augmentation, on resident images: only the step is left."""
    from training.config import resolve_auto

    chosen = preset("quick", torch.device(device).type)
    config = TrainConfig(
        model=chosen.model, width=chosen.width, device=device, augment_on="none", resident=True, precision="auto"
    )
    return resolve_auto(config, torch.device(device))


def bare_steps(config: TrainConfig, dataset: Dataset, device: torch.device) -> Iterator[None]:
    """Yield after each step of a hand-written loop: no metrics, clock, progress, ranks or choice of placement."""
    model = models.create(config.model, len(dataset.classes), config.width).to(device).train()
    optimizer = optimise.make_optimizer(config, model)
    half = config.precision == "bfloat16"
    dtype = torch.bfloat16 if half else torch.float32
    normalise = build("none", "torchvision", device=device, dtype=dtype, image_size=config.image_size)
    images, labels = dataset.train.images.to(device), dataset.train.labels.to(device)
    while True:
        for indices in torch.randperm(len(images)).to(device).split(config.batch_size):
            batch = normalise(images[indices])
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                loss = F.cross_entropy(model(batch), labels[indices])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            yield


def trained_steps(trainer: ImageTrainer) -> Iterator[None]:
    """Yield after each step of the trainer, with all that it does around a step within an epoch."""
    totals, clock = Totals(), StepClock(trainer.device)
    watch = Watch(totals, trainer.ranks)
    for step, fetched in enumerate(clock.time_waits(trainer.feed.endless())):
        trainer.set_step_size(step)
        trainer.step(fetched, totals)
        watch.is_finite()
        yield


def trainer_busy(config: TrainConfig, dataset: Dataset) -> float | None:
    """Return the share of the wall time of training steps in which the GPU ran a kernel; None on other devices."""
    if not config.device.startswith("cuda"):
        return None
    with open_trainer(config, dataset) as trainer:
        trainer.warm_up()
        steps = trained_steps(trainer)
        for _ in range(WARM_UP_STEPS):
            next(steps)
        return busy_share(lambda: next(steps), trainer.device, calls=BUSY_STEPS)


class Turns:
    """Times a second function before the first one in even rounds and after it in odd ones: neither is always second."""

    def __init__(self, function: Function, clock: Clock) -> None:
        self._function, self._clock, self._round = function, clock, 0
        self.seconds: list[float] = []

    def before(self) -> None:
        """Run before each call of the first function."""
        if self._round % 2 == 0:
            self._time()

    def after(self) -> None:
        """Run after each call of the first function."""
        if self._round % 2 == 1:
            self._time()
        self._round += 1

    def _time(self) -> None:
        self.seconds += sample(self._function, 1, clock=self._clock)


def measure_overhead(case: Overhead, config: TrainConfig, dataset: Dataset, *, seconds: float, sampler: Sampler) -> Overhead:
    """Take steps of both loops in turns for about ``seconds``; batches of the same turn have the same size.

    Returns:
        The case with ``bare_s`` and ``step_s`` (seconds of each step, device work included) and ``step_over_bare``, the median
        over turns of the ratio of the trainer's step to the bare one.
    """
    with open_trainer(config, dataset) as trainer:
        trainer.warm_up()
        clock = Clock(trainer.device)
        bare, trained = bare_steps(trainer.config, dataset, trainer.device), trained_steps(trainer)
        warm = Turns(lambda: next(bare), clock)
        first = sample(lambda: next(trained), WARM_UP_STEPS, warm.before, warm.after, clock=clock)
        calls = min(MOST_TURNS, max(FEWEST_TURNS, math.ceil(seconds / (first[-1] + warm.seconds[-1]))))
        turns = Turns(lambda: next(bare), clock)
        step_s = tuple(sampler(lambda: next(trained), calls, turns.before, turns.after))
        return msgspec.structs.replace(
            case, status="ok", dataset=dataset.name, fingerprint=dataset.fingerprint, fallback=dataset.fallback,
            lane=trainer.feed.lane, implementation=trainer.feed.implementation, devices=tuple(trainer.devices),
            threads=torch.get_num_threads(), bare_s=tuple(turns.seconds), step_s=step_s,
            step_over_bare=statistics.median(step / bare for step, bare in zip(step_s, turns.seconds, strict=True)),
        )  # fmt: skip
