"""From decoded images to batches on the device, wherever the augmentation runs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from augment.catalog import BACKENDS, build
from augment.compose import Pipeline
from training.config import TrainConfig
from training.dataset import Dataset, Split
from training.distributed import Ranks, stream_seed

Batch = tuple[Tensor, Tensor]
"""(images [B, 3, H, W], targets): uint8 and int64 labels before augmentation, float and labels or soft targets after."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to build and for what: it travels to loader workers, which build their own pipeline from it."""

    name: str
    backend: str
    image_size: int
    num_classes: int
    dtype: torch.dtype

    def build(self, device: torch.device) -> Pipeline:
        return build(
            self.name, self.backend, device=device, dtype=self.dtype, image_size=self.image_size, num_classes=self.num_classes
        )


@dataclass(frozen=True, kw_only=True)
class _Request:
    """A batch that a loader worker is asked for. It carries the epoch, since workers live longer than one."""

    epoch: int
    indices: Tensor


class _Order:
    """The batches of an epoch, for one rank.

    All ranks shuffle alike and take turns, each an equal number of images: where they do not divide evenly, the first images
    of the order are seen twice, as otherwise ranks would wait for each other.
    """

    def __init__(self, count: int, batch_size: int, seed: int, ranks: Ranks, *, drop_last: bool) -> None:
        self.count, self.batch_size, self.seed, self.ranks, self.drop_last = count, batch_size, seed, ranks, drop_last
        self.epoch = 0

    def __len__(self) -> int:
        mine = -(-self.count // self.ranks.world)
        return mine // self.batch_size if self.drop_last else -(-mine // self.batch_size)

    def __iter__(self) -> Iterator[_Request]:
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "order", epoch=self.epoch))
        order = torch.randperm(self.count, generator=generator)
        padding = -self.count % self.ranks.world
        mine = torch.cat([order, order.repeat(self.ranks.world)[:padding]])[self.ranks.rank :: self.ranks.world]
        for step in range(len(self)):
            yield _Request(epoch=self.epoch, indices=mine[step * self.batch_size : (step + 1) * self.batch_size])


class _Images(torch.utils.data.Dataset[Batch]):
    """Fetches a batch and, with a recipe, augments it where it is fetched, on the CPU."""

    def __init__(self, split: Split, recipe: Recipe | None, seed: int, rank: int) -> None:
        self.split, self.recipe, self.seed, self.rank = split, recipe, seed, rank
        self._pipeline: Pipeline | None = None
        self._epoch: int | None = None

    def __getitems__(self, request: _Request) -> Batch:
        images, labels = self.split.images[request.indices], self.split.labels[request.indices]
        if self.recipe is None:
            return images, labels
        if self._pipeline is None:
            self._pipeline = self.recipe.build(torch.device("cpu"))
        self._start_stream(request.epoch)
        return self._pipeline(images, labels)

    def _start_stream(self, epoch: int) -> None:
        worker = get_worker_info()
        if worker is not None and epoch != self._epoch:  # in the training process, Feed has done it
            torch.manual_seed(stream_seed(self.seed, "augment", epoch=epoch, rank=self.rank, worker=worker.id))
            self._epoch = epoch


def _as_it_is(batch: Any) -> Any:
    return batch


class Feed:
    """The training batches of one rank.

    - augment_on=workers: loader workers (one thread each; the training process when there are none) fetch and augment.
    - augment_on=device, none: the raw uint8 batch is fetched, by loader workers if there are any, and moved to the device,
      where the pipeline runs on it in one call.

    To a CUDA device batches travel through pinned memory without blocking. The last, smaller batch of an epoch is kept,
    except (``drop_last``) where something is compiled, which would be compiled again for its size.

    Raises UnsupportedOp for a recipe that the backend lacks, ValueError for a batch that the ranks cannot share or that is
    larger than what is dropped allows.
    """

    def __init__(self, config: TrainConfig, dataset: Dataset, ranks: Ranks) -> None:
        if config.batch_size % ranks.world:
            raise ValueError(f"batch_size {config.batch_size} cannot be shared by {ranks.world} processes: take a multiple")
        self.config, self.ranks, self.device = config, ranks, ranks.device
        self.recipe = Recipe(
            name=config.effective_recipe, backend=config.effective_backend, image_size=config.image_size,
            num_classes=len(dataset.classes), dtype=getattr(torch, config.precision),
        )  # fmt: skip
        in_workers = config.augment_on == "workers"
        # Built here for workers too: what cannot be built is told before processes start.
        pipeline = self.recipe.build(torch.device("cpu") if in_workers else self.device)
        self.draws, self._pipeline = pipeline.draws, None if in_workers else pipeline
        self.drop_last = config.compile or BACKENDS[config.effective_backend].compiled
        per_rank = config.batch_size // ranks.world
        self._order = _Order(len(dataset.train), per_rank, config.seed, ranks, drop_last=self.drop_last)
        if len(self._order) == 0:
            raise ValueError(f"batch_size {config.batch_size} is more than the {len(dataset.train)} training images: take less")
        self.batch_shape = (min(per_rank, len(dataset.train)), *dataset.train.images.shape[1:])
        self._loader = DataLoader(
            _Images(dataset.train, self.recipe if in_workers else None, config.seed, ranks.rank),
            batch_sampler=self._order,  # type: ignore[arg-type]  # of requests: torch's type knows lists of indices only
            collate_fn=_as_it_is, num_workers=config.num_workers, persistent_workers=config.num_workers > 0,
            pin_memory=self.device.type == "cuda",
        )  # fmt: skip

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self._order)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch on the host; starts the random streams of that epoch. ``place`` brings them to the device."""
        self._order.epoch = epoch
        torch.manual_seed(stream_seed(self.config.seed, "augment", epoch=epoch, rank=self.ranks.rank))
        yield from self._loader

    def place(self, batch: Batch) -> Batch:
        """Move a batch to the device, augment it there if that is the placement, and lay it out as the model wants it."""
        images, targets = (tensor.to(self.device, non_blocking=True) for tensor in batch)
        if self._pipeline is not None:
            images, targets = self._pipeline(images, targets)
        if self.config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, targets
