"""From decoded images to batches on the device, wherever the augmentation runs."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from augment.catalog import BACKENDS, build
from augment.compose import Pipeline
from training.clock import Part
from training.config import TrainConfig
from training.dataset import Dataset, Split
from training.distributed import Ranks, stream_seed
from training.photos import decode

Batch = tuple[Tensor, Tensor]
"""(images [B, 3, H, W], targets): uint8 and int64 labels before augmentation, float and labels or soft targets after."""
Fetched = Batch | Tensor
"""A batch on the host (the frozen one on the device), or the indices [B] of a resident data set's images, on the device."""


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
    """Fetches a batch and, with a recipe, augments it where it is fetched, on the CPU.

    With ``decoding`` it is read from its files and decoded there too. Raises ValueError where the split has no files.
    """

    def __init__(self, split: Split, recipe: Recipe | None, seed: int, rank: int, *, decoding: bool = False) -> None:
        if decoding and split.files is None:
            raise ValueError("decode=workers needs images in files: take --data FOLDER, or --decode ahead")
        self.split, self.recipe, self.seed, self.rank, self.decoding = split, recipe, seed, rank, decoding
        self._pipeline: Pipeline | None = None
        self._epoch: int | None = None

    def __getitems__(self, request: _Request) -> Batch:
        images, labels = self._images(request.indices), self.split.labels[request.indices]
        if self.recipe is None:
            return images, labels
        if self._pipeline is None:
            self._pipeline = self.recipe.build(torch.device("cpu"))
        self._start_stream(request.epoch)
        return self._pipeline(images, labels)

    def _images(self, indices: Tensor) -> Tensor:
        files = self.split.files
        if not self.decoding or files is None:
            return self.split.images[indices]
        size = self.split.images.shape[-1]
        return torch.from_numpy(np.stack([decode(files[index].read_bytes(), size) for index in indices.tolist()]))

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
    - With ``resident`` all images are moved to the device once, and a batch is picked there.
    - augment_on=frozen: the first batch of the first epoch is moved, normalised and laid out once, and every step is given that
      one. It is for measuring: a net soon knows it by heart, though in no fewer operations.

    Batches and draws are the same in all cases where the same process draws. To a CUDA device batches travel through pinned
    memory without blocking, with ``prefetch`` on a stream beside the one that trains: the host queues a step and goes on to the
    next batch, whose copy then runs while the device is still at that step. The last, smaller batch of an epoch is kept,
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
        self._shape = (min(per_rank, len(dataset.train)), *dataset.train.images.shape[1:])
        fetches = not config.resident and config.augment_on != "frozen"
        beside = self.device.type == "cuda" and (config.augment_stream or (config.prefetch and fetches))
        self._beside = torch.cuda.Stream(self.device) if beside else None
        self._augment_beside = beside and config.augment_stream
        self._resident = dataset.train.to(self.device) if config.resident else None
        self._loader = DataLoader(
            _Images(
                dataset.train, self.recipe if in_workers else None, config.seed, ranks.rank,
                decoding=config.decode == "workers",
            ),
            batch_sampler=self._order,  # type: ignore[arg-type]  # of requests: torch's type knows lists of indices only
            collate_fn=_as_it_is, num_workers=config.num_workers, persistent_workers=config.num_workers > 0,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # its own: it draws from it, and would shift what augmentation draws
        )  # fmt: skip
        self._frozen = self._prepared(dataset.train) if config.augment_on == "frozen" else None

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self._order)

    def epoch(self, epoch: int) -> Iterator[Fetched]:
        """What ``place`` makes the batches of an epoch from; starts the random streams of that epoch."""
        self._order.epoch = epoch
        torch.manual_seed(stream_seed(self.config.seed, "augment", epoch=epoch, rank=self.ranks.rank))
        if self._frozen is not None:
            yield from itertools.repeat(self._frozen, len(self))
        else:
            yield from self._loader if self._resident is None else self._picks()

    def endless(self) -> Iterator[Fetched]:
        """The epochs one after another, from the first on."""
        for epoch in itertools.count(1):
            yield from self.epoch(epoch)

    def _picks(self) -> Iterator[Tensor]:
        """The indices of each batch of a resident data set, on the device; an epoch's travel there together."""
        requests = list(self._order)
        order = torch.cat([request.indices for request in requests])
        if self.device.type == "cuda":
            order = order.pin_memory()
        with self._stream():
            order = order.to(self.device, non_blocking=True)
        yield from order.split([len(request.indices) for request in requests])

    def _prepared(self, train: Split) -> Batch:
        self._order.epoch = 1
        indices = next(iter(self._order)).indices
        return self._finished(self._moved((train.images[indices], train.labels[indices])))

    def black(self) -> Batch:
        """A full batch of black images of the first class, prepared and placed as all are."""
        images, labels = torch.zeros(self._shape, dtype=torch.uint8), torch.zeros(self._shape[0], dtype=torch.int64)
        if self._pipeline is None:
            images, labels = self.recipe.build(torch.device("cpu"))(images, labels)
        return self._finished(self._moved((images, labels)))

    def place(self, fetched: Fetched, passed: Callable[[Part], None] = lambda part: None) -> Batch:
        """Bring a batch to the device, augment it there if that is the placement, and lay it out as the model wants it.

        ``passed`` is told when the copy, and when the augmentation, has been queued on the stream that trains.
        """
        if self._frozen is not None:
            passed("copy")
            passed("augment")
            return self._frozen
        with self._stream():
            batch = self._moved(fetched) if isinstance(fetched, tuple) else self._picked(fetched)
            if self._augment_beside:
                batch = self._finished(batch)
        self._catch_up(batch)
        passed("copy")
        if not self._augment_beside:
            batch = self._finished(batch)
        passed("augment")
        return batch

    def _stream(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._beside is None else torch.cuda.stream(self._beside)

    def _catch_up(self, batch: Batch) -> None:
        """Make training wait on the device, not on the host, for what the stream beside it has been given to do."""
        if self._beside is not None:
            training = torch.cuda.current_stream(self.device)
            training.wait_stream(self._beside)
            for tensor in batch:
                tensor.record_stream(training)  # its memory is not to be used again before training has done with it

    def _moved(self, batch: Batch) -> Batch:
        images, targets = (tensor.to(self.device, non_blocking=True) for tensor in batch)
        return images, targets

    def _picked(self, indices: Tensor) -> Batch:
        assert self._resident is not None
        return self._resident.images.index_select(0, indices), self._resident.labels.index_select(0, indices)

    def _finished(self, batch: Batch) -> Batch:
        images, targets = batch
        if self._pipeline is not None:
            images, targets = self._pipeline(images, targets)
        if self.config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, targets
