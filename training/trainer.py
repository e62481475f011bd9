"""The trainer of this project's networks on small decoded images: over all devices and ranks, captured on one GPU."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from augment import build
from training import graph, models, optimise
from training.base_trainer import Trainer
from training.config import TrainConfig
from training.distributed import Ranks, parallelise, stream_seed, synchronise, visible_devices
from training.feed import Batch, Feed, MarkPhase, ignore_phase
from training.meters import Summary, flops_per_example
from training.sources.dataset import Dataset

INERT_SETTINGS = ("resident", "prefetch", "augment_stream", "target_accuracy")
"""Settings that may differ when a run is resumed: they move work to another place, or name a goal, and change no number."""
FEED_SETTINGS = ("recipe", "backend", "augment_on", "num_workers", "decode", "prefetch", "augment_stream", "seed")
"""Settings that may differ when a trainer is reused: those of the feed, and the seed."""


class ImageTrainer(Trainer):
    """The trainer of ``training.models``' networks on small decoded images.

    On one GPU a step of a full batch is two CUDA graphs: the feed's ``prepare`` (where it never waits for the device), and all
    from the forward pass to the optimizer. The second one serves all recipes with the same kind of target: see ``restart``.
    """

    config: TrainConfig
    feed: Feed

    def __init__(self, config: TrainConfig, dataset: Dataset, ranks: Ranks) -> None:
        super().__init__(config, dataset, ranks)
        self.precision, self.label_smoothing, self._original = config.precision, config.label_smoothing, dataset
        if config.resident:
            self.test = dataset.test.to(self.device)
            self.dataset = replace(dataset, train=dataset.train.to(self.device), test=self.test)
        self.feed = Feed(config, self.dataset, ranks)
        dtype = getattr(torch, config.precision)
        self.prepare = build(
            config.evaluation_recipe, "torchvision", device=self.device, dtype=dtype, image_size=config.image_size
        )
        model = self._new_model()
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
        self._may_capture = is_graph_wanted(config, self.device, ranks, len(self.own_devices))
        self.optimizer = optimise.make_optimizer(config, self.model, capturable=self._may_capture)
        self._phase, self._kind, self._is_warm = 1, 0, False  # kind: dimensions of captured steps' targets, 0 without
        self._steps = dict[tuple[int, int], graph.Captured]()  # by kind and phase
        self._captured_forward: graph.Captured | None = None
        self._reset_slow_weights()

    def _new_model(self) -> nn.Module:
        torch.manual_seed(stream_seed(self.config.seed, "weights"))
        return models.create(self.config.model, len(self.dataset.classes), self.config.width)

    def _reset_slow_weights(self) -> None:
        every = self.config.slow_weights_every
        self.slow = optimise.SlowWeights(self.model, every, self.config.epochs * len(self.feed)) if every else None

    # ---- another run in place ---------------------------------------------------------------------------------------------

    def can_restart(self, config: TrainConfig, dataset: Dataset) -> bool:
        """Return whether ``restart`` can take up a run: the same data and all but FEED_SETTINGS, in one process."""
        same = replace(self.config, **{name: getattr(config, name) for name in FEED_SETTINGS})
        recipes = (self.config.evaluation_recipe, config.evaluation_recipe)
        return self.ranks.world == 1 and dataset is self._original and same == config and recipes[0] == recipes[1]

    def restart(self, config: TrainConfig) -> None:
        """Start another run: weights, buffers and optimizer state are set in place, so that captured steps stay valid."""
        self.config = config
        self.start_clocks()
        self.feed = Feed(config, self.dataset, self.ranks)
        self._kind = 0
        state = self._new_model().state_dict()
        self.model.load_state_dict({**state, **{k: v for k, v in self.model.state_dict().items() if k in models.FROM_DATA}})
        for _, moment in optimise.moments(self.optimizer):
            moment.zero_()
        self.optimizer.zero_grad(set_to_none=True)
        self._reset_slow_weights()

    # ---- what the config means --------------------------------------------------------------------------------------------

    def start_epoch(self, epoch: int) -> None:
        """Put layers into training mode, and leave out of the backward pass what is trained no longer."""
        super().start_epoch(epoch)
        self._start_phase(epoch if self.ranks.world == 1 else 1)  # DDP waits for all gradients

    def _start_phase(self, epoch: int) -> None:
        self._phase = optimise.start_phase(self.optimizer, epoch)

    def set_step_size(self, step: int) -> None:
        """Scale the step sizes as the schedule says."""
        share, epoch = optimise.step_size(self.config, step, len(self.feed)), 1 + step // len(self.feed)
        optimise.set_step_size(self.optimizer, share, epoch)

    def identity(self) -> dict[str, Any]:
        """Return settings, data, kind of device and number of processes."""
        record = {name: value for name, value in self.config.as_record().items() if name not in INERT_SETTINGS}
        return record | {
            "device": self.device.type, "fingerprint": self.dataset.fingerprint, "processes": self.ranks.world,
            "graph": self._may_capture,  # a captured step has its step size in float32
        }  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """Return the fields of RunFacts, with the FLOPs of an example."""
        config = self.config
        flops = flops_per_example(config.model, len(self.dataset.classes), config.width, config.image_size)
        return super().facts() | {"flops_per_example": flops}

    # ---- a step as graphs -------------------------------------------------------------------------------------------------

    @property
    def mode(self) -> str:
        """Mode of the steps: graph, compiled or eager."""
        return "graph" if self._kind else "compiled" if self.config.compile else "eager"

    def warm_up(self) -> None:
        """Run one pass forward and back, to load libraries and compile, and capture; no state changes."""
        start = time.perf_counter()
        self.model.train()
        with graph.preserve_state(self.model, self.optimizer, self.device):
            batch = self.feed.prepare(*self.feed.example())
            for epoch in optimise.phases(self.optimizer, self.config.epochs if self.ranks.world == 1 else 1):
                self._start_phase(epoch)
                if not self._is_warm:
                    self.loss(batch)[0].backward()  # and nothing of this pass is kept: graph.record says why
                if self._may_capture:
                    self._capture(*batch)
            self._start_phase(1)
            self._is_warm = True
        synchronise(self.device)
        self.warm_up_s += time.perf_counter() - start

    def _capture(self, *batch: Tensor) -> None:
        """Capture the step, evaluation's forward pass and the feed's ``prepare``; what cannot be captured runs as without."""
        optimise.keep_step_size_on(self.device, self.optimizer)
        kind = batch[1].ndim
        first = self._steps.get((kind, 1))
        buffers = (self.feed.frozen or batch) if first is None else first.buffers
        step = self._steps.get((kind, self._phase)) or self._try_capture("the step", self._train_step, buffers)
        if step is None:  # nor is an earlier phase replayed: the record names one mode
            self._steps.clear()
            self._kind, self.feed.captured = 0, None
            return
        self._steps[kind, self._phase], self._kind = step, kind
        if self.feed.is_capturable and self.feed.captured is None:
            self.feed.captured = self._try_capture("augmentation", partial(self._prepare_into, step), self.feed.example())
        if self._captured_forward is None and len(self.test) >= self.evaluation_batch:
            self.model.eval()
            with torch.inference_mode():
                inputs = self.prepare(self.test.images[: self.evaluation_batch].to(self.device))
                self._captured_forward = self._try_capture("evaluation", super().predict, [inputs])
            self.model.train()  # a graph keeps the mode of the layers

    def _prepare_into(self, step: graph.Captured, *received: Tensor) -> tuple[Tensor, ...]:
        step.fill(self.feed.prepare(*received))
        return step.buffers

    def _try_capture(self, name: str, function: Callable[..., Any], buffers: Sequence[Tensor]) -> graph.Captured | None:
        """Return the captured function; None after a line with the reason if it cannot be captured."""
        try:
            return graph.Captured(function, buffers)
        except RuntimeError as error:  # also CUDA's and out of memory
            cause: BaseException = error
            while isinstance(cause.__context__, RuntimeError):  # a broken capture cannot be ended, which is an error of its own
                cause = cause.__context__
            reason = str(cause).partition("\n")[0]
        print(f"attention: {name} is no CUDA graph ({reason})", file=sys.stderr, flush=True)
        torch.cuda.empty_cache()  # after the error, whose frames hold tensors
        return None

    def _train_step(self, *batch: Tensor) -> Tensor:
        """Train on a placed batch; return its loss, number of hits and norms of gradients in one float32 tensor."""
        loss, right, norms = super().train_on((batch[0], batch[1]))
        return torch.stack([loss.float(), right.sum().float(), *norms])

    def train_on(self, batch: Batch, mark_phase: MarkPhase = ignore_phase) -> Summary:
        """Train on a placed batch, by replay where the step is captured and the batch is a full one."""
        captured = self._steps.get((self._kind, self._phase))
        if captured is None or not captured.fits(batch):
            return super().train_on(batch, mark_phase)
        summary = captured(*batch).clone()
        mark_phase("forward_backward")
        return summary[0], summary[1:2], summary[2:]

    def predict(self, inputs: Tensor) -> Tensor:
        """Return the logits for evaluation, by replay where it is captured and the batch is a full one."""
        captured = self._captured_forward
        return captured(inputs) if captured is not None and captured.fits([inputs]) else super().predict(inputs)


def is_graph_wanted(config: TrainConfig, device: torch.device, ranks: Ranks, devices: int) -> bool:
    """Return whether to capture the step: one GPU trains in one process, and the config does not say off."""
    return config.graph != "off" and device.type == "cuda" and ranks.world == devices == 1
