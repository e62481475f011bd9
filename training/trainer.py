"""One trainer for small images and photographs: a readable step, and no host synchronisation inside an epoch."""

import dataclasses
import functools
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from augment import build
from training import checkpoint, graph, models, optimise
from training.config import FinetuneConfig, TrainConfig
from training.distributed import Ranks, initialise, parallelise, stream_seed, synchronise, visible_devices
from training.feed import Batch, Feed, Fetched, MarkPhase, ignore_phase
from training.meters import StepClock, Totals, Watch, flops_per_example, hits, summarise
from training.photofeed import PhotoFeed, StoredFeed
from training.results import EpochStats
from training.sources.dataset import Dataset, Split

INERT_SETTINGS = ("resident", "prefetch", "augment_stream", "target_accuracy")
"""Settings that may differ when a run is resumed: they move work to another place, or name a goal, and change no number."""
OnData = Callable[[Dataset], None]
OnEpoch = Callable[[EpochStats], None]
OnStep = Callable[[int, int], None]
OnResume = Callable[[Sequence[EpochStats]], None]


class TrainingDiverged(ValueError):
    """The loss of a step is not a number or infinite."""


class Trainer:
    """A model on its devices with its optimizer and its feed; ``device`` is where batches go.

    A subclass builds ``model`` (the weights), ``net`` (what a step calls), ``feed``, ``optimizer`` and ``prepare`` (the
    pipeline of evaluation), and implements ``set_step_size`` and ``identity``.
    """

    times_phases: ClassVar[bool] = False
    """Whether epochs tell their phases."""
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
        self.devices, self.evaluation_batch = [str(ranks.device)], config.batch_size
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

    def set_training_mode(self) -> None:
        """Put the model's layers into training mode."""
        self.model.train()

    # ---- a step ---------------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return (mean loss, logits) of a placed batch."""
        inputs, targets = batch
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            logits = self.net(inputs)
            return optimise.loss(logits, targets, self.label_smoothing), logits

    def step(self, fetched: Any, totals: Totals, mark_phase: MarkPhase = ignore_phase) -> None:
        """Train on a batch of ``feed``; ``mark_phase`` is called when a phase of the step has been queued."""
        self._train_on(self.feed.place(fetched, mark_phase), totals, mark_phase)

    def _train_on(self, batch: Batch, totals: Totals, mark_phase: MarkPhase) -> None:
        loss, logits = self.loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        mark_phase("forward_backward")
        self.optimizer.step()
        mark_phase("optimizer")
        totals.add(loss, logits, batch[1], [p.grad for p in self._parameters if p.grad is not None])

    @functools.cached_property
    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    @property
    def mode(self) -> str:
        """How steps run: graph, compiled or eager."""
        return "eager"

    def warm_up(self) -> None:
        """Do what is to be done before the first clock starts."""

    # ---- epochs ---------------------------------------------------------------------------------------------------------

    def run(
        self, *, checkpoint: Path | None = None, resume: bool = False, on_epoch: OnEpoch | None = None,
        on_step: OnStep | None = None, on_resume: OnResume | None = None,
    ) -> tuple[EpochStats, ...]:  # fmt: skip
        """Train to the config's last epoch and return all epochs; arguments as in ``training.loop.train``."""
        main = self.ranks.is_main
        epochs = self.resume(checkpoint) if resume and checkpoint is not None else []
        self.resumed_after = len(epochs)
        self.warm_up()
        if resume and on_resume is not None and main:
            on_resume(epochs)
        for epoch in range(self.resumed_after + 1, self.config.epochs + 1):
            epochs.append(self.run_epoch(epoch, on_step if main else None))
            if checkpoint is not None:
                self.save(checkpoint, epochs)
            if on_epoch is not None and main:
                on_epoch(epochs[-1])
        return tuple(epochs)

    def run_epoch(self, epoch: int, on_step: OnStep | None = None, *, evaluate: bool = True) -> EpochStats:
        """Train on every image once, then evaluate (without: NaN).

        Raises TrainingDiverged a few steps after one whose loss was not finite.
        """
        self.set_training_mode()
        totals, clock = Totals(), StepClock(self.device, split=self.times_phases)
        watch = Watch(totals, self.ranks)
        self.start_together()
        start = time.perf_counter()
        for step, fetched in enumerate(clock.time_waits(self.feed.epoch(epoch)), start=1):
            self.set_step_size(self.steps_before(epoch) + step - 1)
            self.step(fetched, totals, clock.mark_phase)
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
        split_s = clock.split_s() if self.times_phases else None
        return EpochStats(
            epoch=epoch, train_loss=loss, train_accuracy=accuracy, test_accuracy=self.evaluate() if evaluate else math.nan,
            examples=examples, wall_s=wall_s, wait_s=wait_s,
            split_s=split_s and split_s | {"other": max(0.0, wall_s - sum(split_s.values()))},
        )  # fmt: skip

    def _diverged(self, epoch: int, totals: Totals) -> TrainingDiverged:
        before, step = self.steps_before(epoch), totals.first_not_finite(self.ranks)
        where = f"epoch {epoch}" if step is None else f"step {before + step} (number {step} of epoch {epoch})"
        bad, cause = totals.first_bad_gradient(), "all gradients are"
        if bad is not None:
            names = [name for name, p in self.model.named_parameters() if p.requires_grad and p.grad is not None]
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

    @property
    def test(self) -> Split:
        """The test images, or what is kept of them."""
        return self.dataset.test

    def predict(self, inputs: Tensor) -> Tensor:
        """Return the logits for evaluation."""
        logits: Tensor = self.model(inputs)
        return logits

    def evaluate(self) -> float:
        """Return the accuracy over the test images, over all ranks."""
        start = time.perf_counter()
        self.ranks.broadcast_buffers(self.model)
        self.model.eval()
        half, batch_size = self.precision == "bfloat16", max(1, self.evaluation_batch // self.ranks.world)
        accuracy, tested = evaluate(self.predict, self.test, self.prepare, self.ranks, batch_size=batch_size, half=half)
        self.evaluation_s += time.perf_counter() - start
        assert tested == len(self.test), f"evaluated {tested} of {len(self.test)} test images"
        return accuracy

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
            moments = [(p, m) for p, state in self.optimizer.state.items() for m in state.values() if isinstance(m, Tensor)]
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
            "trained_parameters": models.count_parameters(self.model), "devices": tuple(self.devices),
            "parallel": several if len(self.devices) > 1 else "none",
            "batch_per_device": self.config.batch_size // len(self.devices), "lane": self.feed.lane,
            "implementation": self.feed.implementation, "step": self.mode, "drop_last": self.feed.drop_last,
            "flops_per_example": None,
            "peak_bytes": torch.accelerator.max_memory_allocated(self.device) if self.device.type == "cuda" else None,
        }  # fmt: skip


class ImageTrainer(Trainer):
    """The trainer of ``training.models``' networks on small decoded images, over all devices and ranks."""

    config: TrainConfig
    feed: Feed

    def __init__(self, config: TrainConfig, dataset: Dataset, ranks: Ranks) -> None:
        super().__init__(config, dataset, ranks)
        self.precision, self.label_smoothing = config.precision, config.label_smoothing
        if config.resident:
            self.dataset = dataclasses.replace(dataset, test=dataset.test.to(self.device))
        self.feed = Feed(config, dataset, ranks)
        dtype = getattr(torch, config.precision)
        self.prepare = build(
            config.evaluation_recipe, "torchvision", device=self.device, dtype=dtype, image_size=config.image_size
        )
        torch.manual_seed(stream_seed(config.seed, "weights"))
        model = models.create(config.model, len(dataset.classes), config.width)
        models.init_from_data(model, dataset.train.images)
        self.model = model.to(self.device)
        if config.channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.own_devices = visible_devices(config.device)
        if len(self.own_devices) > config.batch_size:
            raise ValueError(
                f"batch_size {config.batch_size} is less than one image for each of {len(self.own_devices)} GPUs: take more"
            )
        self.devices = [name for names in ranks.gather([str(device) for device in self.own_devices]) for name in names]
        net = parallelise(self.model, ranks, self.own_devices)
        self.net = torch.compile(net, dynamic=False) if config.compile else net
        self._may_capture = graph_is_wanted(config, self.device, ranks, len(self.own_devices))
        self.optimizer = optimise.make_optimizer(config, self.model, capturable=self._may_capture)
        if config.slow_weights_every:
            self.slow = optimise.SlowWeights(self.model, config.slow_weights_every, config.epochs * len(self.feed))
        self._captured: graph.Captured | None = None
        self._captured_forward: graph.Captured | None = None

    def set_step_size(self, step: int) -> None:
        """Scale the step sizes as the schedule says."""
        share = optimise.step_size(self.config, step, len(self.feed))
        optimise.set_step_size(self.optimizer, share, epoch=1 + step // len(self.feed))

    def identity(self) -> dict[str, Any]:
        """Return settings, data, kind of device and number of processes."""
        record = {name: value for name, value in self.config.as_record().items() if name not in INERT_SETTINGS}
        return record | {
            "device": self.device.type, "fingerprint": self.dataset.fingerprint, "processes": self.ranks.world,
            "graph": self._may_capture,  # a captured step has its step size in float32
        }  # fmt: skip

    def warm_up(self) -> None:
        """Run one pass forward and back on black images, to load libraries and compile, and capture; no state changes."""
        start = time.perf_counter()
        self.model.train()
        with graph.preserve_state(self.model, self.optimizer, self.device):
            loss, _ = self.loss(self.feed.black())
            loss.backward()
            if self._may_capture:
                self._capture()
        synchronise(self.device)
        self.warm_up_s += time.perf_counter() - start

    # ---- a step as one graph ----------------------------------------------------------------------------------------------

    @property
    def mode(self) -> str:
        """How steps run: graph, compiled or eager."""
        return "graph" if self._captured is not None else "compiled" if self.config.compile else "eager"

    def _capture(self) -> None:
        """Capture the step, and evaluation's forward pass; where that fails, say so in one line, and both run as without."""
        optimise.keep_step_size_on(self.device, self.optimizer)
        batch_size = max(1, self.evaluation_batch // self.ranks.world)
        try:
            captured = graph.Captured(self._whole_step, self.feed.example())
            if len(self.test) >= batch_size:
                self.model.eval()
                with torch.inference_mode():
                    inputs = self.prepare(self.test.images[:batch_size].to(self.device))
                    self._captured_forward = graph.Captured(self._forward, [inputs])
            self._captured = captured
        except RuntimeError as error:  # also CUDA's and out of memory
            reason = " ".join(str(error).split())
            print(f"attention: the step is no CUDA graph, it runs {self.mode} ({reason})", file=sys.stderr, flush=True)
            torch.cuda.empty_cache()

    def _whole_step(self, *received: Tensor) -> Tensor:
        """Train on a received batch (a placed one, if the feed cannot be captured) and return ``meters.summarise``."""
        batch = self._prepare_received(received)
        loss, logits = self.loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return summarise(loss, logits, batch[1], [p.grad for p in self._parameters if p.grad is not None])

    def step(self, fetched: Fetched, totals: Totals, mark_phase: MarkPhase = ignore_phase) -> None:
        """Train on a batch of ``feed``, by replay where it is captured and the batch is a full one."""
        captured = self._captured
        if captured is None:
            return super().step(fetched, totals, mark_phase)
        if self.feed.is_capturable:
            received = self.feed.receive(fetched)
            mark_phase("copy")
        else:
            received = self.feed.place(fetched, mark_phase)
        if captured.fits(received):
            totals.add_summary(captured(*received).clone(), len(received[0]))
            mark_phase("forward_backward")
        else:
            self._train_on(self._prepare_received(received), totals, mark_phase)
        return None

    def _forward(self, inputs: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            logits: Tensor = self.model(inputs)
            return logits

    def predict(self, inputs: Tensor) -> Tensor:
        """Return the logits for evaluation, by replay where it is captured and the batch is a full one."""
        captured = self._captured_forward
        return captured(inputs) if captured is not None and captured.fits([inputs]) else self._forward(inputs)

    def _prepare_received(self, received: Sequence[Tensor]) -> Batch:
        return self.feed.prepare(*received) if self.feed.is_capturable else (received[0], received[1])

    def facts(self) -> dict[str, Any]:
        """Return the fields of RunFacts, with the FLOPs of an example."""
        config = self.config
        flops = flops_per_example(config.model, len(self.dataset.classes), config.width, config.image_size)
        return super().facts() | {"flops_per_example": flops}


def graph_is_wanted(config: TrainConfig, device: torch.device, ranks: Ranks, devices: int) -> bool:
    """Return whether to capture the step: one GPU trains in one process, and the config does not say off."""
    return config.graph != "off" and device.type == "cuda" and ranks.world == devices == 1


@torch.inference_mode()
def evaluate(
    predict: Callable[[Tensor], Tensor], test: Split, prepare: Callable[[Tensor], Tensor], ranks: Ranks, *,
    batch_size: int, half: bool = False,
) -> tuple[float, int]:  # fmt: skip
    """Return (accuracy, images) over the test images, each counted once: the ranks share them without padding.

    With ``half`` the model runs under bfloat16 autocast as in training, but for the last layer (``training.models.Head``), so
    that equal logits are rare.
    """
    right = torch.zeros((), dtype=torch.int64, device=ranks.device)
    own = torch.arange(ranks.rank, len(test), ranks.world, device=test.images.device)
    for indices in own.split(batch_size):
        inputs = prepare(test.images[indices].to(ranks.device))
        labels = test.labels[indices.to(test.labels.device)].to(ranks.device)
        with torch.autocast(ranks.device.type, torch.bfloat16, enabled=half):
            right += hits(predict(inputs), labels).sum()
    hit, seen = ranks.total(int(right), len(own))
    return hit / seen, round(seen)
