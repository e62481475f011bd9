"""What the trainer's own step costs over a bare loop: the same model, optimizer and batches, and nothing around them."""

import functools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from augment import build
from bench.endtoend.outcomes import failure
from bench.grid.cases import one_line
from bench.grid.timing import Clock, Function, sample
from bench.presets import preset
from training import models, optimise
from training.clock import StepClock
from training.config import TrainConfig
from training.data import load
from training.dataset import Dataset
from training.loop import trainer
from training.totals import Totals, Watch
from training.trainer import Trainer

TRAIN_IMAGES = 2000
WARM_UP_STEPS = 3
FEWEST_TURNS, MOST_TURNS = 6, 200
TurnSampler = Callable[[Function, Function, Function, int], Sequence[float]]
"""(function, before, after, rounds) -> seconds of each call of ``function``; the others are called around it, off the clock."""


def measure_pass(device: str, benchmark: Any, data: str, root: Path, *, seconds: float) -> dict[str, Any]:
    """A pass with pytest-benchmark's fixture: the record, also of a failure. ``data`` and ``root`` as in training.data.load."""
    config = overhead_config(device)
    dataset = _images(data, root, config.image_size)

    def sampler(function: Function, before: Function, after: Function, rounds: int) -> list[float]:
        benchmark.pedantic(function, setup=before, teardown=after, rounds=rounds)
        return list(benchmark.stats.stats.data)

    try:
        record = measure_overhead(config, dataset, seconds=seconds, sampler=sampler)
    except Exception as error:  # whatever it is, the other passes and the cases go on
        return failure("overhead", config, dataset, f"{type(error).__name__}: {one_line(error)}")
    benchmark.extra_info.update({name: record[name] for name in ("step_over_bare", "model", "device", "batch_size")})
    return record


@functools.lru_cache(maxsize=1)
def _images(data: str, root: Path, image_size: int) -> Dataset:
    return load(data, root=root, image_size=image_size, max_train=TRAIN_IMAGES, max_test=TRAIN_IMAGES)


def overhead_config(device: str) -> TrainConfig:
    """The model of the quick preset, without augmentation, on images that lie on the device: all that is left is the step."""
    chosen = preset("quick", torch.device(device).type)
    return TrainConfig(
        model=chosen.model, width=chosen.width, device=device, augment_on="none", resident=True, precision="auto"
    )


def bare_steps(config: TrainConfig, dataset: Dataset, device: torch.device) -> Iterator[None]:
    """The loop that one writes by hand, a step at each ``next``: no metrics, clock, progress, ranks or choice of placement."""
    model = models.create(config.model, len(dataset.classes), config.width).to(device).train()
    optimizer = optimise.optimizer(config, model)
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


def trained_steps(current: Trainer) -> Iterator[None]:
    """The same steps as ``train`` takes them, with all that it does around them within an epoch."""
    totals, clock = Totals(), StepClock(current.device)
    watch = Watch(totals, current.ranks)
    for step, fetched in enumerate(clock.waiting_for(current.feed.endless())):
        optimise.set_step_size(current.optimizer, optimise.step_size(current.config, step, len(current.feed)))
        current.step(fetched, totals)
        watch.all_well()
        yield


class _Turns:
    """The other of two functions, timed before the one in even rounds and after it in odd ones: neither is always second."""

    def __init__(self, function: Function, clock: Clock) -> None:
        self._function, self._clock, self._round = function, clock, 0
        self.seconds: list[float] = []

    def before(self) -> None:
        if self._round % 2 == 0:
            self._take()

    def after(self) -> None:
        if self._round % 2 == 1:
            self._take()
        self._round += 1

    def _take(self) -> None:
        self.seconds += sample(self._function, 1, clock=self._clock)


def in_turns(function: Function, before: Function, after: Function, rounds: int, *, clock: Clock) -> list[float]:
    """The ``TurnSampler`` outside of pytest-benchmark."""
    seconds = []
    for _ in range(rounds):
        before()
        seconds += sample(function, 1, clock=clock)
        after()
    return seconds


def measure_overhead(
    config: TrainConfig, dataset: Dataset, *, seconds: float, sampler: TurnSampler | None = None
) -> dict[str, Any]:
    """Take steps of both loops in turns for about so many seconds; their batches have the same sizes at the same turn.

    Returns a record of kind ``overhead``: ``bare_s`` and ``step_s`` (seconds of each step, the device's work included) and
    ``step_over_bare``, the median over turns of the ratio of the trainer's step to the bare one.
    """
    with trainer(config, dataset) as current:
        current.warm_up()
        clock = Clock(current.device)
        bare, ours = bare_steps(current.config, dataset, current.device), trained_steps(current)
        take = sampler or functools.partial(in_turns, clock=clock)
        warm = _Turns(lambda: next(bare), clock)
        first = in_turns(lambda: next(ours), warm.before, warm.after, WARM_UP_STEPS, clock=clock)
        rounds = min(MOST_TURNS, max(FEWEST_TURNS, math.ceil(seconds / (first[-1] + warm.seconds[-1]))))
        turns = _Turns(lambda: next(bare), clock)
        step_s = list(take(lambda: next(ours), turns.before, turns.after, rounds))
        record = {
            "kind": "overhead", "status": "ok", **current.config.as_record(), "dataset": dataset.name,
            "fingerprint": dataset.fingerprint, "fallback": dataset.fallback, "draws": current.feed.draws,
            "devices": current.devices, "threads": torch.get_num_threads(),
        }  # fmt: skip
        del record["epochs"]  # a setting of training to the end
        ratio = statistics.median(one / other for one, other in zip(step_s, turns.seconds, strict=True))
        return record | {"bare_s": turns.seconds, "step_s": step_s, "step_over_bare": ratio}
