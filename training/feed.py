"""Batches on the device from decoded images, wherever the augmentation runs."""

import functools
import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from augment import BACKENDS, Pipeline, build, resolve
from augment.ops import AlternatingFlip
from training.config import TrainConfig
from training.distributed import Ranks, stream_seed
from training.graph import Captured
from training.interrupts import shielded
from training.meters import Phase
from training.sources.dataset import Dataset, Split
from training.sources.decode import decode

Batch = tuple[Tensor, Tensor]
"""(images [B, 3, H, W], targets): uint8 and int64 labels before augmentation, float and labels or soft targets after."""
Fetched = Batch | Tensor
"""A batch on the host (the frozen one on the device), or the indices [B] of a resident data set's images, on the device."""
Received = tuple[Tensor, Tensor] | tuple[Tensor]
"""A batch on the device that is not augmented yet: images and labels, or the indices of a resident data set's images."""
SHARED_MEMORY = Path("/dev/shm")
FETCHED_AHEAD = 3
"""Batches of a worker in shared memory: two that it fetches ahead by default, and the one that is used."""
LOADER_TIMEOUT_S = 600
"""Longest wait for a batch: beyond it a worker is lost."""
MarkPhase = Callable[[Phase], None]
Recipe = Callable[..., Pipeline]
"""``augment.build`` but for the device; loader workers build their own pipeline by it."""
T = TypeVar("T")


def ignore_phase(phase: Phase) -> None:
    """Do nothing at the end of a phase."""


def keep(batch: T, *ignored: object) -> T:
    """Return a batch unchanged: it needs no collation, or no finish."""
    return batch


@dataclass(frozen=True, kw_only=True)
class Request:
    """A batch to fetch. It carries the epoch, since loader workers live longer than one."""

    epoch: int
    indices: Tensor


class Order:
    """The batches of an epoch, for one rank.

    All ranks shuffle alike and take turns, each an equal number of images: where they do not divide evenly, the first images
    of the order are seen twice, as otherwise ranks would wait for each other. A last batch smaller than ``min_batch`` is left
    out. With ``alternates`` an image is mirrored in every other epoch, from the first or the second on: its index is then
    ``count`` more, for ``mirror``.
    """

    def __init__(
        self, count: int, batch_size: int, seed: int, ranks: Ranks, *, min_batch: int = 1, alternates: bool = False
    ) -> None:
        self.count, self.batch_size, self.seed, self.ranks, self.min_batch = count, batch_size, seed, ranks, min_batch
        self.alternates, self.epoch = alternates, 0

    def __len__(self) -> int:
        full, last = divmod(-(-self.count // self.ranks.world), self.batch_size)
        return full + (last >= self.min_batch)

    def __iter__(self) -> Iterator[Request]:
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "order", epoch=self.epoch))
        order = torch.randperm(self.count, generator=generator)
        if self.alternates:
            generator.manual_seed(stream_seed(self.seed, "order"))  # of no epoch: they count from 1
            order += self.count * ((torch.randint(2, (self.count,), generator=generator)[order] + self.epoch) % 2)
        padding = -self.count % self.ranks.world
        own = torch.cat([order, order.repeat(self.ranks.world)[:padding]])[self.ranks.rank :: self.ranks.world]
        for step in range(len(self)):
            yield Request(epoch=self.epoch, indices=own[step * self.batch_size : (step + 1) * self.batch_size])


def mirror(images: Tensor, indices: Tensor, count: int) -> Tensor:
    """Mirror the images whose index is ``count`` or more."""
    return torch.where((indices >= count).view(-1, 1, 1, 1), images.flip(3), images)


class Fetcher(torch.utils.data.Dataset[T]):
    """Fetches batches, in loader workers or in the training process; each worker has a random stream of its own an epoch."""

    def __init__(self, seed: int, rank: int = 0) -> None:
        self._seed, self._rank = seed, rank
        self._epoch: int | None = None

    def __getitems__(self, request: Request) -> T:
        worker = get_worker_info()
        if worker is not None and request.epoch != self._epoch:  # the training process starts its own stream
            torch.manual_seed(stream_seed(self._seed, "augment", epoch=request.epoch, rank=self._rank, worker=worker.id))
            self._epoch = request.epoch
        return self.fetch(request.indices)

    def fetch(self, indices: Tensor) -> T:
        """Return the batch of those images."""
        raise NotImplementedError


class _Images(Fetcher[Batch]):
    """Fetches a batch and, with a recipe, augments it on the CPU; with ``decoding`` it is read from its files first."""

    def __init__(self, split: Split, recipe: Recipe | None, seed: int, rank: int, *, decoding: bool) -> None:
        if decoding and split.files is None:
            raise ValueError("decode=workers needs images in files: take --data FOLDER, or --decode ahead")
        super().__init__(seed, rank)
        self.split, self.recipe, self.files = split, recipe, split.files if decoding else None
        self._pipeline: Pipeline | None = None

    def fetch(self, indices: Tensor) -> Batch:
        count = len(self.split)
        places = indices % count
        images, labels = self._images(places), self.split.labels[places]
        if int(indices.max()) >= count:
            images = mirror(images, indices, count)
        if self.recipe is None:
            return images, labels
        if self._pipeline is None:
            self._pipeline = self.recipe()
        return self._pipeline(images, labels)

    def _images(self, indices: Tensor) -> Tensor:
        files, size = self.files, self.split.images.shape[-1]
        if files is None:
            return self.split.images[indices]
        return torch.from_numpy(np.stack([decode(files[index].read_bytes(), size) for index in indices.tolist()]))


def open_loader(
    fetcher: Fetcher[T], requests: Iterable[Request], num_workers: int, device: torch.device, *, persistent: bool = True,
    generator: torch.Generator | None = None,
) -> DataLoader[T]:  # fmt: skip
    """Return a loader of batches, in pinned memory for a CUDA device; ``persistent`` workers serve all epochs."""
    return DataLoader(
        fetcher,
        batch_sampler=requests,  # type: ignore[arg-type]  # torch's type knows lists of indices only
        collate_fn=keep, num_workers=num_workers, persistent_workers=persistent and num_workers > 0, generator=generator,
        pin_memory=device.type == "cuda", timeout=LOADER_TIMEOUT_S if num_workers else 0,
    )  # fmt: skip


def iterate(loader: Iterable[T]) -> Iterator[T]:
    """Yield a loader's batches; RuntimeError for a worker that died as it sent one too, as for any that died."""
    try:
        with shielded():
            batches = iter(loader)
        yield from batches
    except (EOFError, ConnectionError) as error:
        raise RuntimeError("DataLoader worker exited unexpectedly as it sent a batch") from error


def check_shared_memory(num_workers: int, batch_bytes: int) -> None:
    """Raise ValueError if /dev/shm has no room for the batches that workers fetch ahead: they would wait for ever."""
    needed = num_workers * FETCHED_AHEAD * batch_bytes
    if num_workers and SHARED_MEMORY.is_dir() and (free := shutil.disk_usage(SHARED_MEMORY).free) < needed:
        raise ValueError(
            f"/dev/shm has {free >> 20} MiB free, {num_workers} loader workers need {-(-needed >> 20)}: start the container "
            "with --shm-size=2g or --ipc=host, or take --num-workers 0"
        )


class Feed:
    """The training batches of one rank.

    - augment_on=workers: loader workers (one thread each; the training process when there are none) fetch and augment.
    - augment_on=device, none: the raw uint8 batch is fetched, by loader workers if there are any, and moved to the device,
      where the pipeline runs on it in one call.
    - With ``resident`` all images are moved to the device once, and a batch is picked there.
    - augment_on=frozen: the first batch of the first epoch is moved, normalised and laid out once, and every step gets it.
      It is for measuring: a net soon fits it perfectly, though in no fewer operations.

    Batches and draws are the same in all cases where the same process draws. To a CUDA device batches travel through pinned
    memory without blocking, with ``prefetch`` on a stream beside the one that trains: the host queues a step and goes on to the
    next batch, whose copy then runs while the device is still at that step. The last, smaller batch of an epoch is kept unless
    it is a single image, except (``drop_last``) where something is compiled, which would be compiled again for its size.

    Raises UnsupportedOp for a recipe that the backend lacks, ValueError for a batch that the ranks cannot share or that is
    larger than the training set where the last batch is dropped.
    """

    def __init__(self, config: TrainConfig, dataset: Dataset, ranks: Ranks) -> None:
        if config.batch_size % ranks.world:
            raise ValueError(f"batch_size {config.batch_size} cannot be shared by {ranks.world} processes: take a multiple")
        self.config, self.ranks, self.device = config, ranks, ranks.device
        ops = resolve(config.effective_recipe, config.image_size)
        self._alternates = any(isinstance(op, AlternatingFlip) for op in ops)
        recipe: Recipe = functools.partial(
            build, [op for op in ops if not isinstance(op, AlternatingFlip)], config.effective_backend,
            image_size=config.image_size, num_classes=len(dataset.classes), dtype=getattr(torch, config.precision),
        )  # fmt: skip
        in_workers = config.augment_on == "workers"
        # Built here for workers too: what cannot be built is reported before processes start.
        self._built = recipe(device="cpu" if in_workers else self.device)
        self.lane, self._pipeline = self._built.lane, None if in_workers else self._built
        self.drop_last = config.compile or BACKENDS[config.effective_backend].compiled
        per_rank = config.batch_size // ranks.world
        min_batch = per_rank if self.drop_last else min(2, per_rank)  # batch norm cannot learn from a single image
        self._order = Order(len(dataset.train), per_rank, config.seed, ranks, min_batch=min_batch, alternates=self._alternates)
        if len(self._order) == 0:
            raise ValueError(f"batch_size {config.batch_size} is more than the {len(dataset.train)} training images: take less")
        self._shape = (min(per_rank, len(dataset.train)), *dataset.train.images.shape[1:])
        fetches = not config.resident and config.augment_on != "frozen"
        has_stream = self.device.type == "cuda" and (config.augment_stream or (config.prefetch and fetches))
        self._side_stream = torch.cuda.Stream(self.device) if has_stream else None
        self._augments_aside = has_stream and config.augment_stream
        self._resident = dataset.train.to(self.device) if config.resident else None
        images = _Images(
            dataset.train, recipe if in_workers else None, config.seed, ranks.rank, decoding=config.decode == "workers"
        )
        check_shared_memory(config.num_workers, per_rank * dataset.train.images[0].nbytes * (4 if in_workers else 1))
        generator = torch.Generator()  # the loader's own: it draws from it, and would shift the augmentation's draws
        self._loader = open_loader(images, self._order, config.num_workers, self.device, generator=generator)
        self.frozen = self._prepare_first(dataset.train) if config.augment_on == "frozen" else None  # the batch of all steps
        self.captured: Captured | None = None  # prepare as a CUDA graph, for full batches

    def __len__(self) -> int:
        """Return the number of batches an epoch."""
        return len(self._order)

    @property
    def implementation(self) -> str | None:
        """Implementation of the fused backend (c, triton, tensors, inductor), None for other backends."""
        return self._built.implementation

    def epoch(self, epoch: int) -> Iterator[Fetched]:
        """Yield the fetched batches of an epoch, for ``place``; starts the random streams of that epoch."""
        self._order.epoch = epoch
        torch.manual_seed(stream_seed(self.config.seed, "augment", epoch=epoch, rank=self.ranks.rank))
        if self.frozen is not None:
            yield from itertools.repeat(self.frozen, len(self))
        else:
            yield from iterate(self._loader) if self._resident is None else self._pick_indices()

    def endless(self) -> Iterator[Fetched]:
        """Yield the epochs one after another, from the first on."""
        for epoch in itertools.count(1):
            yield from self.epoch(epoch)

    def _pick_indices(self) -> Iterator[Tensor]:
        """Yield the indices of each batch of a resident data set, on the device; an epoch's travel there together."""
        requests = list(self._order)
        order = torch.cat([request.indices for request in requests])
        if self.device.type == "cuda":
            order = order.pin_memory()
        with self._on_side_stream():
            order = order.to(self.device, non_blocking=True)
        yield from order.split([len(request.indices) for request in requests])

    def _prepare_first(self, train: Split) -> Batch:
        self._order.epoch = 1
        indices = next(iter(self._order)).indices
        return self._finish(self._move((train.images[indices], train.labels[indices])))

    def place(self, fetched: Fetched, mark_phase: MarkPhase = ignore_phase) -> Batch:
        """Bring a batch to the device, augment it there if that is the placement, and lay it out as the model wants it.

        ``mark_phase`` is called when the copy, and when the augmentation, has been queued on the stream that trains.
        """
        received = self.receive(fetched)
        captured = self.captured if self.captured is not None and self.captured.fits(received) else None
        batch: Any = self._pick(received[0]) if len(received) == 1 and captured is None else received
        mark_phase("copy")
        if captured is not None:
            batch = captured(*received)
        elif self.frozen is None and not self._augments_aside:
            batch = self._finish(batch)
        mark_phase("augment")
        return batch[0], batch[1]

    def receive(self, fetched: Fetched) -> Received:
        """Bring a batch to the device: the arguments of ``prepare``, or with ``augment_stream`` its result."""
        if self.frozen is not None:
            return self.frozen
        with self._on_side_stream():
            batch: Received = self._move(fetched) if isinstance(fetched, tuple) else (fetched,)
            if self._augments_aside:
                batch = self.prepare(*batch)
        self._join_side_stream(batch)
        return batch

    def prepare(self, *received: Tensor) -> Batch:
        """Pick the images of a resident data set, augment a batch on the device, and lay it out."""
        return self._finish(self._pick(received[0]) if len(received) == 1 else (received[0], received[1]))

    @property
    def is_capturable(self) -> bool:
        """Return whether a CUDA graph may hold ``prepare``, which then never waits for the device."""
        is_fused = BACKENDS[self.config.effective_backend].library == "fused"
        return is_fused and self._pipeline is not None and not self._augments_aside

    def example(self) -> Received:
        """Return arguments of ``prepare`` for a full batch, of black images or the first ones."""
        count = self._shape[0]
        if self._resident is not None:
            return (torch.arange(count, device=self.device),)
        black = torch.zeros(self._shape, dtype=torch.uint8), torch.zeros(count, dtype=torch.int64)
        return self._move(black if self._pipeline is not None else self._built(*black))

    def _on_side_stream(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._side_stream is None else torch.cuda.stream(self._side_stream)

    def _join_side_stream(self, batch: Received) -> None:
        """Make the training stream wait, on the device and not on the host, for the side stream's queued work."""
        if self._side_stream is not None:
            training = torch.cuda.current_stream(self.device)
            training.wait_stream(self._side_stream)
            for tensor in batch:
                tensor.record_stream(training)  # its memory must not be reused before training is done with it

    def _move(self, batch: Batch) -> Batch:
        images, targets = (tensor.to(self.device, non_blocking=True) for tensor in batch)
        return images, targets

    def _pick(self, indices: Tensor) -> Batch:
        assert self._resident is not None
        count, places = len(self._resident), indices
        if self._alternates:
            places = indices % count
        images, labels = self._resident.images.index_select(0, places), self._resident.labels.index_select(0, places)
        return mirror(images, indices, count) if self._alternates else images, labels

    def _finish(self, batch: Batch) -> Batch:
        images, targets = batch
        if self._pipeline is not None:
            images, targets = self._pipeline(images, targets)
        if self.config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, targets
