"""A model on its devices with optimizer and feed: one readable step, and no host synchronisation inside an epoch."""

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training import checkpoint, models, optimise
from training.clock import Part, StepClock
from training.config import TrainConfig
from training.dataset import Dataset
from training.distributed import Ranks, parallel, stream_seed, synchronise, visible_devices
from training.feed import Batch, Feed, Fetched, Recipe
from training.flops import flops_per_example
from training.power import Power, PowerMeter
from training.results import EpochStats, setting
from training.totals import Totals, Watch, hits

WARM_UP_STEPS = 5
CHECK_EVERY = 10  # steps between two questions to rank 0 whether time is up; alone, a process looks at each step
NO_MATTER = ("resident", "prefetch", "augment_stream", "target_accuracy")
"""Settings with which a run may go on that began with others: they move work to another place, or name a goal, and change no
number."""


class TrainingDiverged(ValueError):
    """The loss of a step is not a number or infinite."""


class Trainer:
    """A model on its devices with its optimizer and its feed; ``device`` is where batches go.

    ``training.loop.trainer`` makes one. ``step`` on what ``feed.epoch`` gives is a training step as ``train`` takes it.
    """

    def __init__(self, config: TrainConfig, dataset: Dataset, ranks: Ranks) -> None:
        self.config, self.ranks, self.device = config, ranks, ranks.device
        self.dataset = dataclasses.replace(dataset, test=dataset.test.to(self.device)) if config.resident else dataset
        self.feed = Feed(config, dataset, ranks)
        torch.manual_seed(stream_seed(config.seed, "weights"))
        model = models.create(config.model, len(dataset.classes), config.width)
        models.look_at(model, dataset.train.images)
        self.model = model.to(self.device)
        if config.channels_last:
            self.model.to(memory_format=torch.channels_last)
        devices = visible_devices(config.device)
        if len(devices) > config.batch_size:
            raise ValueError(
                f"batch_size {config.batch_size} is less than one image for each of {len(devices)} GPUs: take more"
            )
        self.devices = [name for names in ranks.gather([str(device) for device in devices]) for name in names]
        self._own_devices = devices
        net = parallel(self.model, ranks, devices)
        self.net: Callable[[Tensor], Tensor] = torch.compile(net, dynamic=False) if config.compile else net
        self.optimizer = optimise.optimizer(config, self.model)
        self.evaluation = Recipe(
            name=config.evaluation_recipe, backend="torchvision", image_size=config.image_size,
            num_classes=len(dataset.classes), dtype=self.feed.recipe.dtype,
        )  # fmt: skip
        self.warm_up_s = self.evaluation_s = 0.0
        if self.device.type == "cuda":
            torch.accelerator.reset_peak_memory_stats(self.device)

    # ---- a step ---------------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(mean loss, logits)"""
        images, targets = batch
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            logits = self.net(images)
            return optimise.loss(logits, targets, self.config.label_smoothing), logits

    def step(self, fetched: Fetched, totals: Totals, passed: Callable[[Part], None] = lambda part: None) -> None:
        """Train on a batch of ``feed``; ``passed`` is told when a part of the step has been queued."""
        images, targets = self.feed.place(fetched, passed)
        loss, logits = self.loss((images, targets))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        passed("forward_backward")
        self.optimizer.step()
        passed("optimizer")
        totals.add(loss, logits, targets)

    def warm_up(self) -> None:
        """One pass forward and back on black images, so that libraries are loaded and compiled; the model stays as it is."""
        start = time.perf_counter()
        self.model.train()
        before = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        loss, _ = self.loss(self.feed.black())
        loss.backward()
        self.optimizer.zero_grad(set_to_none=True)
        for name, buffer in self.model.named_buffers():
            buffer.copy_(before[name])
        synchronise(self.device)
        self.warm_up_s += time.perf_counter() - start

    # ---- many -----------------------------------------------------------------------------------------------------------

    def run_epoch(self, epoch: int, on_step: Callable[[int, int], None] | None) -> EpochStats:
        """Train on every image once, evaluate. Raises TrainingDiverged a few steps after one whose loss was not finite."""
        self.model.train()
        totals, clock = Totals(), StepClock(self.device)
        watch = Watch(totals, self.ranks)
        self._start_together()
        start = time.perf_counter()
        before = self.steps_before(epoch)
        for step, fetched in enumerate(clock.waiting_for(self.feed.epoch(epoch)), start=1):
            optimise.set_step_size(self.optimizer, optimise.step_size(self.config, before + step - 1, len(self.feed)))
            self.step(fetched, totals)
            if on_step is not None:
                on_step(step, len(self.feed))
            if not watch.all_well():
                break
        synchronise(self.device)
        wall_s, wait_s = self.ranks.largest(time.perf_counter() - start, clock.wait_s())
        loss, accuracy, examples = totals.read(self.ranks)
        if not math.isfinite(loss):
            raise self._diverged(epoch, totals.first_not_finite(self.ranks))
        start = time.perf_counter()
        self.ranks.copy_buffers(self.model)
        test_accuracy, tested = evaluate(self.model, self.dataset, self.evaluation, self.ranks, self.config.batch_size)
        self.evaluation_s += time.perf_counter() - start
        assert tested == len(self.dataset.test), f"evaluated {tested} of {len(self.dataset.test)} test images"
        return EpochStats(
            epoch=epoch, train_loss=loss, train_accuracy=accuracy, test_accuracy=test_accuracy,
            examples=examples, wall_s=wall_s, wait_s=wait_s,
        )  # fmt: skip

    def _diverged(self, epoch: int, step: int | None) -> TrainingDiverged:
        where = f"epoch {epoch}" if step is None else f"step {self.steps_before(epoch) + step} (number {step} of epoch {epoch})"
        return TrainingDiverged(
            f"the loss of {where} is not finite: take a smaller learning_rate than {self.config.learning_rate}"
        )

    def steps_before(self, epoch: int) -> int:
        """Steps of the epochs before this one."""
        return (epoch - 1) * len(self.feed)

    def run_steps(self, seconds: float, steps: int | None) -> dict[str, Any]:
        """What a warmed-up run of steps says about speed: the fields of Throughput that are measured."""
        self.model.train()
        batches = self.feed.endless()
        totals = Totals()
        for _ in range(WARM_UP_STEPS + 2 * self.config.num_workers):
            self.step(next(batches), totals)
        totals, clock = Totals(), StepClock(self.device, split=True)
        self._start_together()
        done = 0
        with PowerMeter(self._own_devices) as meter:
            start = time.perf_counter()
            for fetched in clock.waiting_for(batches):
                self.step(fetched, totals, clock.passed)
                done += 1
                if done == steps or self._time_is_up(done, start + seconds):
                    break
            synchronise(self.device)
            seconds = time.perf_counter() - start
        wall_s, wait_s = self.ranks.largest(seconds, clock.wait_s())
        measured = {"steps": done, "examples": totals.read(self.ranks)[2], "wall_s": wall_s, "wait_s": wait_s}
        return measured | {"split_s": self._split(clock, wall_s)} | self._drawn(meter.power, wall_s)

    def _split(self, clock: StepClock, wall_s: float) -> dict[str, float]:
        spent = clock.split_s()
        means = dict(zip(spent, (total / self.ranks.world for total in self.ranks.total(*spent.values())), strict=True))
        return means | {"other": wall_s - sum(means.values())}

    def _drawn(self, power: Power, wall_s: float) -> dict[str, float | None]:
        """Over all ranks; None where the driver of one did not tell."""
        nan = math.nan
        told = [nan if value is None else value for value in (power.utilisation, power.energy_j)]
        utilisation, energy_j = (None if math.isnan(total) else total for total in self.ranks.total(*told))
        return {
            "gpu_utilisation": None if utilisation is None else utilisation / self.ranks.world,
            "power_w": None if energy_j is None else energy_j / wall_s,
            "energy_j": energy_j,
        }

    def _time_is_up(self, done: int, deadline: float) -> bool:
        if self.ranks.world == 1:
            return time.perf_counter() >= deadline
        # Ranks that stop at different steps would wait for each other for ever.
        return done % CHECK_EVERY == 0 and math.isfinite(deadline) and self.ranks.agree(time.perf_counter() >= deadline)

    def _start_together(self) -> None:
        synchronise(self.device)
        self.ranks.wait_for_all()

    # ---- its state --------------------------------------------------------------------------------------------------------

    def identity(self) -> dict[str, Any]:
        """What decides the result of a run, as plain values: a checkpoint is good for a run that has the same."""
        record = {name: value for name, value in self.config.as_record().items() if name not in NO_MATTER}
        return record | {
            "device": self.device.type, "fingerprint": self.dataset.fingerprint, "processes": self.ranks.world,
        }  # fmt: skip

    def keep(self, path: Path, epochs: list[EpochStats]) -> None:
        """Write a checkpoint; rank 0 alone does. Raises OSError, on every rank, with the one before still whole."""
        self.ranks.ask_main(
            lambda: checkpoint.Checkpoint(
                identity=self.identity(), model=self.model.state_dict(), optimizer=self.optimizer.state_dict(),
                steps=self.steps_before(len(epochs) + 1), epochs=tuple(epochs),
            ).write(path)
        )  # fmt: skip

    def go_on(self, path: Path) -> list[EpochStats]:
        """Take up the run from the checkpoint that rank 0 finds at ``path``, on every rank: the epochs that are done; none if
        there is no such file. Raises what ``checkpoint.read`` raises."""
        found = self.ranks.ask_main(lambda: checkpoint.read(path, self.identity()) if path.exists() else None)
        if found is None:
            return []
        if len(found.epochs) > self.config.epochs or found.steps != self.steps_before(len(found.epochs) + 1):
            raise checkpoint.BadCheckpoint(f"{path} holds {len(found.epochs)} epochs of {found.steps} steps, which cannot be")
        settings = self._optimizer_settings()
        try:
            self.model.load_state_dict(found.model)
            self.optimizer.load_state_dict(dict(found.optimizer))
            moments = [(p, m) for p, kept in self.optimizer.state.items() for m in kept.values() if isinstance(m, Tensor)]
            fits = settings == self._optimizer_settings() and all(m.shape in (p.shape, ()) for p, m in moments)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError):
            fits = False
        if not fits:
            raise checkpoint.BadCheckpoint(f"{path} holds the weights of another model")
        return list(found.epochs)

    def _optimizer_settings(self) -> list[dict[str, Any]]:
        """Of each group, without what changes from step to step."""
        return [{name: v for name, v in group.items() if name not in ("params", "lr")} for group in self.optimizer.param_groups]

    def peak_bytes(self) -> int | None:
        """The most memory that torch held on the device so far, None on a CPU."""
        return torch.accelerator.max_memory_allocated(self.device) if self.device.type == "cuda" else None

    def setting(self) -> dict[str, Any]:
        """The fields of ``training.results.Setting``."""
        several = "ddp" if self.ranks.world > 1 else "data_parallel"
        return setting(
            self.config, self.dataset, parameters=models.count_parameters(self.model), devices=self.devices,
            parallel=several if len(self.devices) > 1 else "none", draws=self.feed.draws, drop_last=self.feed.drop_last,
            flops_per_example=flops_per_example(
                self.config.model, len(self.dataset.classes), self.config.width, self.config.image_size
            ),
        )  # fmt: skip


@torch.inference_mode()
def evaluate(model: torch.nn.Module, dataset: Dataset, recipe: Recipe, ranks: Ranks, batch_size: int) -> tuple[float, int]:
    """(accuracy, images) over the test images, each counted once: the ranks share them without padding.

    With a bfloat16 recipe the model runs under autocast as in training; its last layer is in float32 (``training.head``), so
    that the largest of its logits is one.
    """
    model.eval()
    pipeline = recipe.build(ranks.device)
    right = torch.zeros((), dtype=torch.int64, device=ranks.device)
    mine = torch.arange(ranks.rank, len(dataset.test), ranks.world, device=dataset.test.labels.device)
    for indices in mine.split(max(1, batch_size // ranks.world)):
        images = pipeline(dataset.test.images[indices].to(ranks.device))
        labels = dataset.test.labels[indices].to(ranks.device)
        with torch.autocast(ranks.device.type, torch.bfloat16, enabled=recipe.dtype == torch.bfloat16):
            right += hits(model(images), labels).sum()
    hit, seen = ranks.total(int(right), len(mine))
    return hit / seen, round(seen)
