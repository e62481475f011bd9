"""One trainer for small images and photographs: a readable step, and no host synchronisation inside an epoch."""

import functools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training import checkpoint, optimise
from training.config import FinetuneConfig, TrainConfig
from training.distributed import Ranks, initialise, synchronise
from training.feed import Batch, Feed, MarkPhase, ignore_phase
from training.meters import StepClock, Summary, Totals, Watch, hits, summarise
from training.photofeed import PhotoFeed, StoredFeed
from training.results import EpochStats
from training.sources.dataset import Dataset

OnEpoch = Callable[[EpochStats], None]
OnStep = Callable[[int, int], None]


class TrainingDiverged(ValueError):
    """The loss of a step is not a number or infinite."""


class Trainer:
    """A model on its devices with its optimizer and its feed; ``device`` is where batches go.

    A subclass builds ``model`` (the weights), ``net`` (what a step calls), ``feed``, ``optimizer`` and ``prepare`` (the
    pipeline of evaluation), and implements ``set_step_size`` and ``identity``.
    """

    model: nn.Module
    net: Callable[[Tensor], Tensor]
    feed: Feed | PhotoFeed | StoredFeed
    optimizer: torch.optim.Optimizer
    prepare: Callable[[Tensor], Tensor]
    precision = "float32"
    label_smoothing = 0.0
    slow: optimise.SlowWeights | None = None

    def __init__(self, config: TrainConfig | FinetuneConfig, dataset: Dataset, ranks: Ranks) -> None:
        self.config, self.dataset, self.ranks, self.device = config, dataset, ranks, ranks.device
        self.devices, self.test, self.evaluation_batch = [str(ranks.device)], dataset.test, config.batch_size
        self.start_clocks()

    def start_clocks(self) -> None:
        """Start the run's clock and memory statistics; nothing is trained, kept or spent yet."""
        self.warm_up_s = self.evaluation_s = self._spent_s = 0.0
        self.resumed_after, self.best = 0, dict[str, Tensor]()
        self._started = time.perf_counter()
        initialise(self.device)
        if self.device.type == "cuda":
            torch.accelerator.reset_peak_memory_stats(self.device)

    def set_step_size(self, step: int) -> None:
        """Set the optimizer's step sizes for a step, counted from 0 over all epochs."""
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        """Return what decides the result of a run, as plain values: a checkpoint fits runs with the same."""
        raise NotImplementedError

    def start_epoch(self, epoch: int) -> None:
        """Put the model's layers into training mode."""
        self.model.train()

    def end_epoch(self, epochs: Sequence[EpochStats]) -> None:
        """Do what is to be done when an epoch is over, before its checkpoint is written."""

    # ---- a step ---------------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return (mean loss, logits) of a placed batch."""
        inputs, targets = batch
        with self.autocast():
            logits = self.net(inputs)
            return optimise.loss(logits, targets, self.label_smoothing), logits

    def autocast(self) -> torch.autocast:
        """Return the block that runs the model in bfloat16 with that precision, but for its last layer (``models.Head``)."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def step(self, fetched: Any, totals: Totals, mark_phase: MarkPhase = ignore_phase) -> None:
        """Train on a batch of ``feed``; ``mark_phase`` is called when a phase of the step has been queued."""
        batch = self.feed.place(fetched, mark_phase)
        totals.add(*self.train_on(batch, mark_phase), len(batch[0]))

    def train_on(self, batch: Batch, mark_phase: MarkPhase = ignore_phase) -> Summary:
        """Train on a placed batch."""
        loss, logits = self.loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        mark_phase("forward_backward")
        self.optimizer.step()
        mark_phase("optimizer")
        return summarise(loss, logits, batch[1], [p.grad for p in self._parameters if p.grad is not None])

    @functools.cached_property
    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    @property
    def mode(self) -> str:
        """Mode of the steps: graph, compiled or eager."""
        return "eager"

    def warm_up(self) -> None:
        """Do what is to be done before the first clock starts."""

    # ---- epochs ---------------------------------------------------------------------------------------------------------

    def run(
        self, *, checkpoint: Path | None = None, resume: bool = False, on_epoch: OnEpoch | None = None,
        on_step: OnStep | None = None,
    ) -> tuple[EpochStats, ...]:  # fmt: skip
        """Train to the config's last epoch and return all epochs; arguments as in ``training.loop.train``."""
        epochs = self.resume(checkpoint) if resume and checkpoint is not None else []
        self.resumed_after = len(epochs)
        self.warm_up()
        for epoch in range(1, self.config.epochs + 1):
            if epoch > self.resumed_after:
                epochs.append(self.run_epoch(epoch, on_step if self.ranks.is_main else None))
                self.end_epoch(epochs)
                if checkpoint is not None:
                    self.save(checkpoint, epochs)
            if on_epoch is not None and self.ranks.is_main:
                on_epoch(epochs[epoch - 1])
        return tuple(epochs)

    def run_epoch(self, epoch: int, on_step: OnStep | None = None, *, evaluate: bool = True) -> EpochStats:
        """Train on every image once, then evaluate (without: NaN).

        Raises TrainingDiverged a few steps after one whose loss was not finite.
        """
        self.start_epoch(epoch)
        totals, clock = Totals(), StepClock(self.device)
        watch = Watch(totals, self.ranks)
        self.start_together()
        start = time.perf_counter()
        for step, fetched in enumerate(clock.time_waits(self.feed.epoch(epoch)), start=1):
            self.set_step_size(self.steps_before(epoch) + step - 1)
            self.step(fetched, totals)
            if self.slow is not None:
                self.slow.update(self.steps_before(epoch) + step)
            if on_step is not None:
                on_step(step, len(self.feed))
            if not watch.is_finite():
                break
        synchronise(self.device)
        wall_s, wait_s = self.ranks.largest(time.perf_counter() - start, clock.wait_s())
        loss, accuracy, examples = totals.read(self.ranks)
        if not math.isfinite(loss):
            raise self._diverged(epoch, totals)
        return EpochStats(
            epoch=epoch, train_loss=loss, train_accuracy=accuracy, test_accuracy=self.evaluate() if evaluate else math.nan,
            examples=examples, wall_s=wall_s, wait_s=wait_s,
        )  # fmt: skip

    def _diverged(self, epoch: int, totals: Totals) -> TrainingDiverged:
        before, step = self.steps_before(epoch), totals.first_not_finite(self.ranks)
        where = f"epoch {epoch}" if step is None else f"step {before + step} (number {step} of epoch {epoch})"
        bad, cause = totals.first_bad_gradient(), "all gradients are"
        if bad is not None:
            trained = [(name, p.grad) for name, p in self.model.named_parameters() if p.requires_grad]
            # A replayed graph leaves p.grad None.
            names = [name for name, grad in trained if grad is not None] or [name for name, _ in trained]
            cause = f"the first gradient that is not: {names[bad[1]]}, step {before + bad[0]}"
        return TrainingDiverged(
            f"the loss of {where} is not finite ({cause}): take a smaller learning_rate than {self.config.learning_rate}"
        )

    def steps_before(self, epoch: int) -> int:
        """Return the number of steps of the epochs before this one."""
        return (epoch - 1) * len(self.feed)

    def start_together(self) -> None:
        """Wait until the device is idle and every rank has come here."""
        synchronise(self.device)
        self.ranks.wait_for_all()

    # ---- evaluation -----------------------------------------------------------------------------------------------------

    def predict(self, inputs: Tensor) -> Tensor:
        """Return the logits of prepared images for evaluation, under autocast as in training."""
        with self.autocast():
            logits: Tensor = self.model(inputs)
            return logits

    @torch.inference_mode()
    def evaluate(self) -> float:
        """Return the accuracy over the test images, each counted once: the ranks share them without padding."""
        start = time.perf_counter()
        self.ranks.broadcast_buffers(self.model)
        self.model.eval()
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        own = torch.arange(self.ranks.rank, len(self.test), self.ranks.world, device=self.test.images.device)
        for indices in own.split(max(1, self.evaluation_batch // self.ranks.world)):
            logits = self.predict(self.prepare(self.test.images[indices].to(self.device)))
            right += hits(logits, self.test.labels[indices.to(self.test.labels.device)].to(self.device)).sum()
        hit, tested = self.ranks.total(int(right), len(own))
        assert tested == len(self.test), f"evaluated {tested} of {len(self.test)} test images"
        self.evaluation_s += time.perf_counter() - start
        return hit / tested

    # ---- its state ------------------------------------------------------------------------------------------------------

    def save(self, path: Path, epochs: Sequence[EpochStats]) -> None:
        """Write a checkpoint; rank 0 alone does. Raises OSError, on every rank, with the one before still whole."""
        self.ranks.run_on_main(
            lambda: checkpoint.Checkpoint(
                identity=self.identity(), model=self.model.state_dict(), optimizer=self.optimizer.state_dict(),
                steps=self.steps_before(len(epochs) + 1), epochs=tuple(epochs), spent_s=self.total_s(), best=self.best,
                slow=[] if self.slow is None else self.slow.state(),
            ).write(path)
        )  # fmt: skip

    def resume(self, path: Path) -> list[EpochStats]:
        """Load the checkpoint that rank 0 finds at ``path``, on every rank, and return the epochs that are done.

        None are if there is no such file. Raises what ``checkpoint.read`` raises.
        """
        saved = self.ranks.run_on_main(lambda: checkpoint.read(path, self.identity()) if path.exists() else None)
        if saved is None:
            return []
        if saved.steps != self.steps_before(len(saved.epochs) + 1):
            raise checkpoint.BadCheckpoint(f"{path} holds {len(saved.epochs)} epochs of {saved.steps} steps, which cannot be")
        settings = self._optimizer_settings()
        try:
            self.model.load_state_dict(saved.model)
            self.optimizer.load_state_dict(dict(saved.optimizer))
            if self.slow is not None:
                self.slow.load(saved.slow)
            moments = optimise.moments(self.optimizer)
            fits = settings == self._optimizer_settings() and all(m.shape in (p.shape, ()) for p, m in moments)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError):
            fits = False
        if not fits:
            raise checkpoint.BadCheckpoint(f"{path} holds the weights of another model")
        self._spent_s, self.best = saved.spent_s, dict(saved.best)
        return list(saved.epochs)

    def _optimizer_settings(self) -> list[dict[str, Any]]:
        """Return the settings of each group that stay the same from step to step."""
        return [{name: v for name, v in group.items() if name not in ("params", "lr")} for group in self.optimizer.param_groups]

    def total_s(self) -> float:
        """Return the seconds since the trainer was made, with those before an interruption."""
        return self._spent_s + time.perf_counter() - self._started

    def facts(self) -> dict[str, Any]:
        """Return the fields of ``training.results.RunFacts``."""
        several = "ddp" if self.ranks.world > 1 else "data_parallel"
        return {
            "config": self.config, "data": self.dataset.facts, "parameters": sum(p.numel() for p in self.model.parameters()),
            "trained_parameters": sum(p.numel() for group in self.optimizer.param_groups for p in group["params"]),
            "devices": tuple(self.devices), "parallel": several if len(self.devices) > 1 else "none",
            "batch_per_device": self.config.batch_size // len(self.devices), "lane": self.feed.lane,
            "implementation": self.feed.implementation, "step": self.mode, "drop_last": self.feed.drop_last,
            "flops_per_example": None,
            "peak_bytes": torch.accelerator.max_memory_allocated(self.device) if self.device.type == "cuda" else None,
        }  # fmt: skip

    def result_fields(self, epochs: Sequence[EpochStats]) -> dict[str, Any]:
        """Return the fields of ``training.results.TrainResult``."""
        return self.facts() | {
            "epochs": tuple(epochs), "resumed_after": self.resumed_after, "warm_up_s": self.warm_up_s,
            "evaluation_s": self.evaluation_s,
        }  # fmt: skip
