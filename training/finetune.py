"""Fine-tuning on photographs: all layers, the last one on frozen features, or a network from scratch for comparison."""

import errno
import functools
import hashlib
import operator
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from augment import build
from training import checkpoint, models, transfer
from training.base_trainer import OnEpoch, Trainer
from training.config import FinetuneConfig, validate
from training.data import load
from training.distributed import Ranks, stream_seed, synchronise
from training.feed import MarkPhase, ignore_phase, keep
from training.meters import Totals
from training.photofeed import PhotoBatch, PhotoFeed, StoredFeed, evaluation_ops, prepared_size, training_ops
from training.results import EpochStats, FinetuneResult
from training.sources.dataset import Dataset, Split
from training.sources.folders import photo_folder

BEST = "best.pt"
"""File name of the best epoch's weights in a run's folder."""
EVALUATION_BATCH = 64


def load_photographs(config: FinetuneConfig) -> Dataset:
    """Load the photographs as for evaluation (resized and cut to squares of ``prepared_size``, cached), with their files.

    Unreadable files are listed in ``skipped``. Raises ValueError, in one line, for data that are no files, and for a folder
    with a wrong layout, with classes that differ between train and test, or with fewer than two.
    """
    return load(
        str(photo_folder(config.data)), root=config.data_root, image_size=prepared_size(config.image_size),
        max_train=config.max_train, max_test=config.max_test,
    )  # fmt: skip


def finetune(
    config: FinetuneConfig, dataset: Dataset | None = None, *, out: Path | None = None, resume: bool = False,
    on_epoch: OnEpoch | None = None,
) -> tuple[FinetuneResult, nn.Module]:  # fmt: skip
    """Train, evaluate after each epoch, and return the result and the network with its best epoch's weights.

    Args:
        config: The run.
        dataset: The photographs, as ``load_photographs`` returns them; None: loaded.
        out: Folder for ``best.pt`` (``model``, a state dict, and ``classes``) and ``checkpoint.pt``, the run after each epoch;
            both are whole whenever the process dies.
        resume: Continue from that checkpoint.
        on_epoch: Called after each epoch.

    Raises:
        ValueError: for a config, weights or photographs that cannot be used.
        TrainingDiverged: a ValueError, a few steps after one whose loss is not finite.
        OSError: if ``out`` cannot be written, or there is no checkpoint to resume.
    """
    device = validate(config)
    dataset = dataset if dataset is not None else load_photographs(config)
    path = None if out is None else out / checkpoint.NAME
    if resume and path is not None and not path.exists():
        raise FileNotFoundError(errno.ENOENT, "no checkpoint to resume", str(path))
    tuner = FineTuner(config, dataset, device)
    epochs = tuner.run(checkpoint=path, resume=resume, on_epoch=on_epoch)
    tuner.model.load_state_dict(tuner.best)
    result = FinetuneResult(
        **tuner.result_fields(epochs), best_epoch=_best(epochs).epoch, total_s=tuner.total_s(), features_s=tuner.features_s,
        resident_bytes=tuner.resident_bytes,
    )  # fmt: skip
    return result, tuner.model


def identity(config: FinetuneConfig, dataset: Dataset) -> dict[str, Any]:
    """Return what is run on what, as plain values known before the run: settings, facts of the data, digest of the weights."""
    record = config.as_record() | asdict(dataset.facts)
    weights = Path(config.effective_init).expanduser()
    if config.effective_init not in (transfer.IMAGENET, transfer.SCRATCH) and weights.is_file():
        # Most are called best.pt or checkpoint.pt, which says little.
        record["init_digest"] = _digest(weights, weights.stat().st_mtime_ns)
    return record


@functools.cache  # the checkpoint of every epoch asks for it
def _digest(path: Path, mtime_ns: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _best(epochs: Sequence[EpochStats]) -> EpochStats:
    """Return the first epoch with the highest test accuracy."""
    return max(epochs, key=lambda stats: stats.test_accuracy)


class FineTuner(Trainer):
    """The trainer of a network with a new last layer on photographs, on one device. Raises as ``finetune``."""

    config: FinetuneConfig
    feed: PhotoFeed | StoredFeed

    def __init__(self, config: FinetuneConfig, dataset: Dataset, device: torch.device) -> None:
        super().__init__(config, dataset, Ranks(device=device))
        self._process, self.resident_bytes, self.features_s = psutil.Process(), 0, 0.0
        self.evaluation_batch = EVALUATION_BATCH
        torch.manual_seed(stream_seed(config.seed, "weights"))
        self.network = transfer.create(
            config.model, width=config.width, init=config.effective_init, num_classes=len(dataset.classes)
        )
        self.model = self.network.module
        if config.mode == "scratch":
            models.init_from_data(self.model, dataset.train.images)
        self.model.to(device)
        if config.mode == "frozen":
            self.model.requires_grad_(False)
            self.network.head.requires_grad_(True)
        self.prepare = build(evaluation_ops(config.image_size), "torchvision", device=device)
        self.net = self.network.logits
        self.feed = self._make_feed()
        self.optimizer = self._make_optimizer()

    def _make_feed(self) -> PhotoFeed | StoredFeed:
        config, split = self.config, self.dataset.train
        common: Any = {"batch_size": config.batch_size, "seed": config.seed, "device": self.device}
        if config.augment_on != "none":
            return PhotoFeed(
                split, ops=training_ops(config.recipe, config.image_size), backend=config.backend,
                on_device=config.augment_on == "device", num_workers=config.num_workers, **common,
            )  # fmt: skip
        if config.mode != "frozen":
            return StoredFeed(split.images, split.labels, self.prepare, **common)
        start = time.perf_counter()
        train, test = self._features(split.images), self._features(self.dataset.test.images)
        synchronise(self.device)
        self.features_s = time.perf_counter() - start
        self.prepare, self.net, self.test = keep, self.network.head, Split(images=test, labels=self.dataset.test.labels)
        return StoredFeed(train, split.labels, keep, **common)

    @torch.no_grad()
    def _features(self, images: Tensor) -> Tensor:
        self.model.eval()
        parts = []
        for batch in images.split(EVALUATION_BATCH):
            parts.append(self.network.features(self.prepare(batch.to(self.device))))
            self._note_memory()
        return torch.cat(parts)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        config, head = self.config, list(self.network.head.parameters())
        head_ids = {id(parameter) for parameter in head}
        body = [p for p in self.model.parameters() if p.requires_grad and id(p) not in head_ids]
        head_rate = config.learning_rate * config.head_rate
        body_rate = head_rate if config.mode == "scratch" else config.learning_rate
        groups = [{"params": p, "lr": rate, "rate": rate} for p, rate in ((head, head_rate), (body, body_rate)) if p]
        return torch.optim.SGD(groups, momentum=config.momentum)

    def set_step_size(self, step: int) -> None:
        """Divide the step sizes by 10 after each ``decay_every`` epochs."""
        decays = step // len(self.feed) // self.config.decay_every
        for group in self.optimizer.param_groups:
            group["lr"] = functools.reduce(operator.mul, [0.1] * decays, group["rate"])

    def start_epoch(self, epoch: int) -> None:
        """Put layers into training mode, but for batch norms that keep their statistics.

        A frozen network stays as evaluation sees it (its running statistics too), so that its features can be computed once.
        """
        self.model.train(self.config.mode != "frozen")
        if self.config.keep_statistics and self.config.mode == "full":
            for layer in self.model.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.eval()

    def step(self, fetched: PhotoBatch, totals: Totals, mark_phase: MarkPhase = ignore_phase) -> None:
        """Train on a batch, and note the process's memory."""
        super().step(fetched, totals, mark_phase)
        self._note_memory()

    def _note_memory(self) -> None:
        self.resident_bytes = max(self.resident_bytes, self._process.memory_info().rss)

    def end_epoch(self, epochs: Sequence[EpochStats]) -> None:
        """Keep the weights if the last epoch is the best so far."""
        if _best(epochs).epoch == len(epochs):
            self.best = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}

    def predict(self, inputs: Tensor) -> Tensor:
        """Return the logits of prepared photographs, or of features."""
        logits = self.net(inputs)
        self._note_memory()
        return logits

    def identity(self) -> dict[str, Any]:
        """Return settings and data; the number of epochs is free, so that a run may be prolonged."""
        own = identity(self.config, self.dataset)
        del own["epochs"], own["skipped"]
        return own

    def save(self, path: Path, epochs: Sequence[EpochStats]) -> None:
        """Write the checkpoint, after the best weights if they are this epoch's."""
        if _best(epochs).epoch == len(epochs):
            payload = {"model": self.best, "classes": list(self.dataset.classes), "identity": self.identity()}
            checkpoint.save(path.with_name(BEST), payload)
        super().save(path, epochs)
