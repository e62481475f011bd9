"""The training loop: one readable step, no host synchronisation inside an epoch, and honest clocks around it."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from training import models
from training.clock import WaitClock
from training.config import TrainConfig, validate
from training.data import load
from training.dataset import Dataset
from training.distributed import Ranks, joined, parallel, stream_seed, synchronise, visible_devices
from training.feed import Batch, Feed, Recipe
from training.results import EpochStats, Throughput, TrainResult, rates, setting

__all__ = ["EpochStats", "Throughput", "TrainResult", "TrainingDiverged", "evaluate", "measure_throughput", "train"]

WARM_UP_STEPS = 5
CHECK_EVERY = 10  # steps between two questions to rank 0 whether time is up; alone, a process looks at each step


class TrainingDiverged(ValueError):
    """The loss of an epoch is not a number or infinite."""


def train(
    config: TrainConfig,
    dataset: Dataset | None = None,
    *,
    on_epoch: Callable[[EpochStats], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    on_data: Callable[[Dataset], None] | None = None,
) -> TrainResult:
    """Train a model and evaluate it after each epoch.

    Without ``dataset`` it is loaded as the config says. On rank 0, ``on_data`` is called when the data is there,
    ``on_step(step, steps)`` after each step was queued and ``on_epoch`` after each epoch. What is compiled is compiled before
    the first clock starts.

    Raises ValueError for a config that cannot be run, TrainingDiverged (a ValueError) at the end of an epoch whose loss is not
    finite.
    """
    with _trainer(config, dataset) as trainer:
        if on_data is not None and trainer.ranks.is_main:
            on_data(trainer.dataset)
        trainer.warm_up()
        epochs = []
        for epoch in range(1, config.epochs + 1):
            stats = trainer.run_epoch(epoch, on_step if trainer.ranks.is_main else None)
            epochs.append(stats)
            if on_epoch is not None and trainer.ranks.is_main:
                on_epoch(stats)
        totals = [sum(getattr(stats, name) for stats in epochs) for name in ("examples", "wall_s", "wait_s")]
        return TrainResult(**trainer.setting(), epochs=tuple(epochs), **rates(*totals), peak_bytes=trainer.peak_bytes())


def measure_throughput(
    config: TrainConfig, dataset: Dataset | None = None, *, seconds: float | None = None, steps: int | None = None
) -> Throughput:
    """Measure training steps, epoch after epoch without evaluation, for about so many seconds or for so many steps.

    Before the clock starts, 5 steps warm up (more with loader workers, so that what they fetched ahead while they started is
    used up): compilation and the start of the workers are outside. The clock synchronises at both ends. Over whole epochs the
    numbers are those of ``train``; what differs is the start of the workers alone.

    Raises ValueError for a config that cannot be run, and unless one of ``seconds`` and ``steps`` is given and positive.
    """
    if (seconds is None) == (steps is None) or (seconds or steps or 0) <= 0:
        raise ValueError("measure_throughput takes either seconds or steps, a positive number")
    with _trainer(config, dataset) as trainer:
        trainer.warm_up()
        count, examples, wall_s, wait_s = trainer.run_steps(seconds if seconds is not None else math.inf, steps)
        return Throughput(
            **trainer.setting(), steps=count, examples=examples, wall_s=wall_s, wait_s=wait_s,
            **rates(examples, wall_s, wait_s), peak_bytes=trainer.peak_bytes(),
        )  # fmt: skip


@contextmanager
def _trainer(config: TrainConfig, dataset: Dataset | None) -> Iterator["_Trainer"]:
    device = validate(config)
    with joined(device) as ranks:
        dataset = dataset if dataset is not None else _load_once(config, ranks)
        side = dataset.train.images.shape[-1]
        if side != config.image_size:
            raise ValueError(
                f"the data set has images of {side} pixels, image_size is {config.image_size}: load it with that size"
            )
        yield _Trainer(config, dataset, ranks)


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


def _optimizer(config: TrainConfig, model: torch.nn.Module) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=config.learning_rate, momentum=0.9)
    return torch.optim.Adam(model.parameters(), lr=config.learning_rate)


class _Totals:
    """Loss and hits of an epoch, summed on the device."""

    def __init__(self, device: torch.device) -> None:
        self.loss = torch.zeros((), device=device)
        self.hits = torch.zeros((), dtype=torch.int64, device=device)
        self.examples = 0

    def add(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        labels = targets.argmax(1) if targets.ndim == 2 else targets
        self.loss += loss.detach() * len(targets)
        self.hits += (logits.argmax(1) == labels).sum()
        self.examples += len(targets)

    def read(self, ranks: Ranks) -> tuple[float, float, int]:
        """(mean loss, share of hits, examples) over all ranks; waits for the device."""
        examples = int(ranks.sum(torch.tensor(self.examples, device=self.loss.device)))
        return float(ranks.sum(self.loss)) / examples, int(ranks.sum(self.hits)) / examples, examples


class _Trainer:
    """A model on its devices with its optimizer and its feed; ``device`` is where batches go."""

    def __init__(self, config: TrainConfig, dataset: Dataset, ranks: Ranks) -> None:
        self.config, self.dataset, self.ranks, self.device = config, dataset, ranks, ranks.device
        self.feed = Feed(config, dataset, ranks)
        torch.manual_seed(stream_seed(config.seed, "weights"))
        model = models.create(config.model, len(dataset.classes), config.width)
        self.model = model.to(self.device)
        if config.channels_last:
            self.model.to(memory_format=torch.channels_last)
        devices = visible_devices(config.device)
        if len(devices) > config.batch_size:
            raise ValueError(
                f"batch_size {config.batch_size} is less than one image for each of {len(devices)} GPUs: take more"
            )
        self.devices = [name for names in ranks.gather([str(device) for device in devices]) for name in names]
        net = parallel(self.model, ranks, devices)
        self.net: Callable[[Tensor], Tensor] = torch.compile(net, dynamic=False) if config.compile else net
        self.optimizer = _optimizer(config, self.model)
        self.evaluation = Recipe(
            name=config.evaluation_recipe, backend="torchvision", image_size=config.image_size,
            num_classes=len(dataset.classes), dtype=self.feed.recipe.dtype,
        )  # fmt: skip
        if self.device.type == "cuda":
            torch.accelerator.reset_peak_memory_stats(self.device)

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(mean loss, logits)"""
        images, targets = batch
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            logits = self.net(images)
            return F.cross_entropy(logits, targets), logits

    def _step(self, batch: Batch, totals: _Totals) -> None:
        images, targets = self.feed.place(batch)
        loss, logits = self._loss((images, targets))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        totals.add(loss, logits, targets)

    def warm_up(self) -> None:
        """One pass forward and back on black images, so that libraries are loaded and compiled; the model stays as it is."""
        self.model.train()
        before = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        images = torch.zeros(self.feed.batch_shape, dtype=torch.uint8)
        labels = torch.zeros(len(images), dtype=torch.int64)
        if self.config.augment_on == "workers":
            images, labels = self.feed.recipe.build(torch.device("cpu"))(images, labels)
        loss, _ = self._loss(self.feed.place((images, labels)))
        loss.backward()
        self.optimizer.zero_grad(set_to_none=True)
        for name, buffer in self.model.named_buffers():
            buffer.copy_(before[name])
        synchronise(self.device)

    def run_epoch(self, epoch: int, on_step: Callable[[int, int], None] | None) -> EpochStats:
        self.model.train()
        totals, clock = _Totals(self.device), WaitClock(self.device)
        self._start_together()
        start = time.perf_counter()
        for step, batch in enumerate(clock.waiting_for(self.feed.epoch(epoch)), start=1):
            self._step(batch, totals)
            if on_step is not None:
                on_step(step, len(self.feed))
        synchronise(self.device)
        wall_s, wait_s = self.ranks.largest(time.perf_counter() - start, clock.total_s())
        loss, accuracy, examples = totals.read(self.ranks)
        if not math.isfinite(loss):
            raise TrainingDiverged(
                f"the loss of epoch {epoch} is {loss}: take a smaller learning_rate than {self.config.learning_rate}"
            )
        self.ranks.copy_buffers(self.model)
        test_accuracy, tested = evaluate(self.model, self.dataset, self.evaluation, self.ranks, self.config.batch_size)
        assert tested == len(self.dataset.test), f"evaluated {tested} of {len(self.dataset.test)} test images"
        return EpochStats(
            epoch=epoch, train_loss=loss, train_accuracy=accuracy, test_accuracy=test_accuracy,
            examples=examples, wall_s=wall_s, wait_s=wait_s,
        )  # fmt: skip

    def run_steps(self, seconds: float, steps: int | None) -> tuple[int, int, float, float]:
        """(steps, examples of all ranks, wall seconds, wait seconds), after a warm-up."""
        self.model.train()
        batches = self._endless()
        totals = _Totals(self.device)
        for _ in range(WARM_UP_STEPS + 2 * self.config.num_workers):
            self._step(next(batches), totals)
        totals, clock = _Totals(self.device), WaitClock(self.device)
        self._start_together()
        start = time.perf_counter()
        done = 0
        for batch in clock.waiting_for(batches):
            self._step(batch, totals)
            done += 1
            if done == steps or self._time_is_up(done, start + seconds):
                break
        synchronise(self.device)
        wall_s, wait_s = self.ranks.largest(time.perf_counter() - start, clock.total_s())
        return done, totals.read(self.ranks)[2], wall_s, wait_s

    def _endless(self) -> Iterator[Batch]:
        epoch = 0
        while True:
            epoch += 1
            yield from self.feed.epoch(epoch)

    def _time_is_up(self, done: int, deadline: float) -> bool:
        if self.ranks.world == 1:
            return time.perf_counter() >= deadline
        # Ranks that stop at different steps would wait for each other for ever.
        return done % CHECK_EVERY == 0 and math.isfinite(deadline) and self.ranks.agree(time.perf_counter() >= deadline)

    def _start_together(self) -> None:
        synchronise(self.device)
        self.ranks.wait_for_all()

    def peak_bytes(self) -> int | None:
        return torch.accelerator.max_memory_allocated(self.device) if self.device.type == "cuda" else None

    def setting(self) -> dict[str, Any]:
        return setting(
            self.config, self.dataset, parameters=models.count_parameters(self.model), devices=self.devices,
            draws=self.feed.draws, drop_last=self.feed.drop_last,
        )  # fmt: skip


@torch.inference_mode()
def evaluate(model: torch.nn.Module, dataset: Dataset, recipe: Recipe, ranks: Ranks, batch_size: int) -> tuple[float, int]:
    """(accuracy, images) over the test images, each counted once: the ranks share them without padding."""
    model.eval()
    pipeline = recipe.build(ranks.device)
    totals = _Totals(ranks.device)
    mine = torch.arange(ranks.rank, len(dataset.test), ranks.world)
    for indices in mine.split(max(1, batch_size // ranks.world)):
        images = pipeline(dataset.test.images[indices].to(ranks.device))
        labels = dataset.test.labels[indices].to(ranks.device)
        with torch.autocast(ranks.device.type, torch.bfloat16, enabled=recipe.dtype == torch.bfloat16):
            logits = model(images)
        totals.add(F.cross_entropy(logits.float(), labels), logits, labels)
    _, accuracy, images_seen = totals.read(ranks)
    return accuracy, images_seen
