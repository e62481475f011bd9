"""Overhead of the trainer's step: against a bare loop of the same model, optimizer and batches with nothing around them."""

import functools
import itertools
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
    chosen = preset("quick", torch.device(device).type)
    return chosen.config(device, max_train=None, augment_on="none", resident=True)


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


def alternate(function: Function) -> Function:
    """Return a function to call before and after each call of another: ``function`` comes before one and after the next."""
    turns = itertools.cycle((True, False, False, True))
    return lambda: function() if next(turns) else None


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
        bare_s: list[float] = []
        time_bare = alternate(lambda: bare_s.extend(sample(lambda: next(bare), 1, clock=clock)))
        warm_s = sample(lambda: next(trained), WARM_UP_STEPS, time_bare, time_bare, clock=clock)
        calls = min(MOST_TURNS, max(FEWEST_TURNS, math.ceil(seconds / (warm_s[-1] + bare_s.pop()))))
        bare_s.clear()
        step_s = tuple(sampler(lambda: next(trained), calls, time_bare, time_bare))
        return msgspec.structs.replace(
            case, status="ok", dataset=dataset.name, fingerprint=dataset.fingerprint, fallback=dataset.fallback,
            lane=trainer.feed.lane, implementation=trainer.feed.implementation, devices=tuple(trainer.devices),
            threads=torch.get_num_threads(), bare_s=tuple(bare_s), step_s=step_s,
            step_over_bare=statistics.median(step / bare for step, bare in zip(step_s, bare_s, strict=True)),
        )  # fmt: skip
