"""Fine-tuning on photographs: all layers, the last one on frozen features, or a network from scratch for comparison."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from augment.catalog import build
from training import checkpoint, models, transfer
from training.clock import StepClock
from training.dataset import Dataset
from training.distributed import Ranks, stream_seed, synchronise
from training.finetune_config import FinetuneConfig, validate
from training.finetune_results import FinetuneEpoch, FinetuneResult, identity
from training.photofeed import PhotoFeed, StoredFeed, evaluation_ops, load_files, prepared_size, training_ops
from training.totals import Totals, Watch
from training.transfer import Network

BEST = "best.pt"
"""What the weights of the best epoch are called in a run's folder."""
EVALUATED_AT_ONCE = 64


def load_photographs(config: FinetuneConfig) -> Dataset:
    """The photographs as for evaluation (resized and cut to squares of ``prepared_size``, cached), with their files.

    What cannot be read is listed in ``skipped``. Raises what ``training.photofeed.load_files`` raises.
    """
    return load_files(
        config.data, root=config.data_root, image_size=prepared_size(config.image_size), max_train=config.max_train,
        max_test=config.max_test,
    )  # fmt: skip


def finetune(
    config: FinetuneConfig,
    dataset: Dataset | None = None,
    *,
    out: Path | None = None,
    resume: bool = False,
    on_data: Callable[[Dataset], None] | None = None,
    on_epoch: Callable[[FinetuneEpoch], None] | None = None,
) -> tuple[FinetuneResult, nn.Module]:
    """Train, evaluate after each epoch, and return what was found and the network with its best epoch's weights.

    With ``out`` those weights are in ``best.pt`` (``model``, a state dict, and ``classes``), and ``checkpoint.pt`` holds
    the run after each epoch, from which ``resume`` goes on; both are whole whenever the process dies. ``dataset`` is what
    ``load_photographs`` gives.

    Raises ValueError for a config, weights or photographs that cannot be used, and a few steps after one whose loss is not
    finite; OSError where ``out`` cannot be written.
    """
    device = validate(config)
    dataset = dataset if dataset is not None else load_photographs(config)
    if on_data is not None:
        on_data(dataset)
    tuner = Finetuner(config, dataset, device)
    progress = tuner.resumed(out / checkpoint.NAME) if resume and out is not None else _Progress()
    resumed_after = len(progress.epochs)
    for epoch in range(resumed_after + 1, config.epochs + 1):
        stats = tuner.run_epoch(epoch)
        progress.add(stats, tuner.network)
        if out is not None:
            tuner.keep(progress, out)
        if on_epoch is not None:
            on_epoch(stats)
    tuner.network.module.load_state_dict(progress.best)
    result = FinetuneResult(
        **tuner.facts(), epochs=tuple(progress.epochs), best_epoch=progress.best_epoch, resumed_after=resumed_after,
        best_accuracy=progress.epochs[progress.best_epoch - 1].test_accuracy,
    )  # fmt: skip
    return result, tuner.network.module


@dataclass(kw_only=True)
class _Progress:
    """The epochs that are done, and the weights of the best of them, on the CPU."""

    epochs: list[FinetuneEpoch]
    best_epoch: int
    best: dict[str, Tensor]

    def __init__(self) -> None:
        self.epochs, self.best_epoch, self.best = [], 0, {}

    def add(self, stats: FinetuneEpoch, network: Network) -> None:
        self.epochs.append(stats)
        if self.best_epoch == 0 or stats.test_accuracy > self.epochs[self.best_epoch - 1].test_accuracy:
            self.best_epoch = stats.epoch
            self.best = {name: value.detach().cpu().clone() for name, value in network.module.state_dict().items()}


class Finetuner:
    """A network on its device with its optimizer, its feed, and what it is evaluated on.

    For who measures epochs by themselves; ``finetune`` trains to the end. Raises what ``finetune`` raises.
    """

    def __init__(self, config: FinetuneConfig, dataset: Dataset, device: torch.device) -> None:
        self.config, self.dataset, self.device = config, dataset, device
        self._started, self._resident, self._features_s = time.perf_counter(), psutil.Process(), 0.0
        self._spent_s = 0.0  # before an interruption
        self.peak_resident = 0
        if device.type == "cuda":
            torch.accelerator.reset_peak_memory_stats(device)
        torch.manual_seed(stream_seed(config.seed, "weights"))
        self.network = transfer.create(
            config.model, width=config.width, init=config.effective_init, num_classes=len(dataset.classes)
        )
        if config.mode == "scratch":
            models.look_at(self.network.module, dataset.train.images)
        self.network.module.to(device)
        if config.mode == "frozen":
            self.network.module.requires_grad_(False)
            self.network.head.requires_grad_(True)
        self._prepare: Callable[[Tensor], Tensor] = build(evaluation_ops(config.image_size), "torchvision", device=device)
        self._call: Callable[[Tensor], Tensor] = self.network.logits
        self._test = dataset.test.images
        self.feed: PhotoFeed | StoredFeed = self._make_feed()
        self.optimizer = self._make_optimizer()
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, config.decay_every, gamma=0.1)

    # ---- making -------------------------------------------------------------------------------------------------------

    def _make_feed(self) -> PhotoFeed | StoredFeed:
        config, split = self.config, self.dataset.train
        common: Any = {"batch_size": config.batch_size, "seed": config.seed, "device": self.device}
        if config.augment_on != "none":
            return PhotoFeed(
                split, ops=training_ops(config.recipe, config.image_size), backend=config.backend,
                on_device=config.augment_on == "device", num_workers=config.num_workers, **common,
            )  # fmt: skip
        if config.mode != "frozen":
            return StoredFeed(split.images, split.labels, self._prepare, **common)
        start = time.perf_counter()
        train, self._test = self._features(split.images), self._features(self.dataset.test.images)
        synchronise(self.device)
        self._features_s = time.perf_counter() - start
        self._prepare, self._call = _as_it_is, self.network.head
        return StoredFeed(train, split.labels, _as_it_is, **common)

    @torch.no_grad()
    def _features(self, images: Tensor) -> Tensor:
        self.network.module.eval()
        parts = []
        for some in images.split(EVALUATED_AT_ONCE):
            parts.append(self.network.features(self._prepare(some.to(self.device))))
            self._see_memory()
        return torch.cat(parts)

    def _see_memory(self) -> None:
        self.peak_resident = max(self.peak_resident, self._resident.memory_info().rss)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        config, head = self.config, list(self.network.head.parameters())
        in_head = {id(parameter) for parameter in head}
        others = [p for p in self.network.module.parameters() if p.requires_grad and id(p) not in in_head]
        head_rate = config.learning_rate * config.head_rate
        groups = [{"params": head, "lr": head_rate}]
        if others:
            groups.append({"params": others, "lr": head_rate if config.mode == "scratch" else config.learning_rate})
        return torch.optim.SGD(groups, momentum=config.momentum)

    # ---- training -----------------------------------------------------------------------------------------------------

    def run_epoch(self, epoch: int, *, evaluate: bool = True) -> FinetuneEpoch:
        """Train for an epoch; without ``evaluate`` its test accuracy is NaN."""
        # A frozen network stays as evaluation sees it (its running statistics too), so that its features can be computed once.
        self.network.module.train(self.config.mode != "frozen")
        if self.config.keep_statistics and self.config.mode == "full":
            for layer in self.network.module.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.eval()
        clock, totals, ranks = StepClock(self.device, split=True), Totals(), Ranks(device=self.device)
        watch, fetched = Watch(totals, ranks), torch.zeros(2, dtype=torch.float64)
        synchronise(self.device)
        start = time.perf_counter()
        for batch in clock.waiting_for(self.feed.epoch(epoch)):
            inputs, labels = self.feed.place(batch, clock)
            self.optimizer.zero_grad(set_to_none=True)
            logits = self._call(inputs)
            mean = F.cross_entropy(logits, labels)
            mean.backward()
            clock.passed("forward_backward")
            self.optimizer.step()
            clock.passed("optimizer")
            totals.add(mean, logits, labels)
            fetched += batch.seconds
            self._see_memory()
            if not watch.all_well():
                break
        synchronise(self.device)
        wall_s = time.perf_counter() - start
        self.schedule.step()
        loss, accuracy, examples = totals.read(ranks)
        if not math.isfinite(loss):
            step = totals.first_not_finite(ranks)
            raise ValueError(f"the loss of step {step} of epoch {epoch} is not finite: take a smaller learning_rate")
        split_s = clock.split_s()
        return FinetuneEpoch(
            epoch=epoch, train_loss=loss, train_accuracy=accuracy,
            test_accuracy=self._evaluated() if evaluate else math.nan, examples=examples, wall_s=wall_s,
            split_s=split_s | {"other": max(0.0, wall_s - sum(split_s.values()))},
            decode_s=float(fetched[0]), worker_augment_s=float(fetched[1]),
        )  # fmt: skip

    @torch.no_grad()
    def _evaluated(self) -> float:
        self.network.module.eval()
        hits = torch.zeros((), dtype=torch.int64, device=self.device)
        labels = self.dataset.test.labels
        for values, some in zip(self._test.split(EVALUATED_AT_ONCE), labels.split(EVALUATED_AT_ONCE), strict=True):
            logits = self._call(self._prepare(values.to(self.device)))
            hits += (logits.argmax(1) == some.to(self.device)).sum()
            self._see_memory()
        return int(hits) / len(labels)

    # ---- keeping ------------------------------------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        own = identity(self.config, self.dataset)
        del own["num_epochs"], own["skipped_files"]  # a run may be prolonged
        return own

    def keep(self, progress: _Progress, out: Path) -> None:
        """Write the checkpoint, and the best weights if they are this epoch's."""
        if progress.best_epoch == len(progress.epochs):
            classes = list(self.dataset.classes)
            checkpoint.save(out / BEST, {"model": progress.best, "classes": classes, "identity": self._identity()})
        state = {
            "identity": self._identity(),
            "model": self.network.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "epochs": [asdict(stats) for stats in progress.epochs],
            "best": progress.best,
            "best_epoch": progress.best_epoch,
            "spent_s": self._total_s(),
        }
        checkpoint.save(out / checkpoint.NAME, state)

    def resumed(self, path: Path) -> _Progress:
        """Go on from a checkpoint. Raises FileNotFoundError where there is none, BadCheckpoint for another run's."""
        state = checkpoint.load(path)
        own = self._identity()
        there = state.get("identity")
        if not isinstance(there, dict) or any(there.get(name) != value for name, value in own.items()):
            differing = [name for name, value in own.items() if not isinstance(there, dict) or there.get(name) != value]
            raise checkpoint.BadCheckpoint(f"{path} is the checkpoint of another run: {', '.join(differing)} differ")
        progress = _Progress()
        try:
            progress.epochs = [FinetuneEpoch(**stats) for stats in state["epochs"]]
            progress.best, progress.best_epoch = state["best"], state["best_epoch"]
            self.network.module.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self._spent_s = float(state["spent_s"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError):
            raise checkpoint.BadCheckpoint(f"{path} is the checkpoint of another version: start anew") from None
        return progress

    def _total_s(self) -> float:
        return self._spent_s + time.perf_counter() - self._started

    def facts(self) -> dict[str, Any]:
        """The fields of FinetuneResult that are this run's, not an epoch's."""
        parameters = list(self.network.module.parameters())
        return {
            "config": self.config,
            "dataset": self.dataset,
            "parameters": sum(p.numel() for p in parameters),
            "trained_parameters": sum(p.numel() for p in parameters if p.requires_grad),
            "device": str(self.device),
            "draws": self.feed.draws,
            "total_s": self._total_s(),
            "features_s": self._features_s,
            "peak_bytes": torch.accelerator.max_memory_allocated(self.device) if self.device.type == "cuda" else None,
            "resident_bytes": self.peak_resident,
        }


def _as_it_is(values: Tensor) -> Tensor:
    return values
