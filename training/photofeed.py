"""From photographs of all sizes in files to batches on the device, decoded by loader workers, wherever augmentation runs.

**Bounded batches.** Photographs differ in size, and a batch that held all of them whole could be of any size. Where the device
augments, a worker therefore decodes a photograph, draws the window of the recipe's RandomResizedCrop from its true height and
width (as the fused backend does) and sends that window alone, in the corner of a black frame as large as the batch's largest
window needs, at most ``MOST_SIDE`` pixels. The device resizes each image's own window, as torchvision's ``resized_crop`` with
antialiasing does. A window with a longer side is resized by the worker with the same function and rounded to 8 bits, and the
device only copies it. torchvision rounds 8-bit images too; on a CPU after each direction, so that its levels of 255 differ by
at most about one from those rounded once.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from augment import BACKENDS, Op, Pipeline, build, fused, lane, resolve
from augment.op import Lane
from augment.ops import IMAGENET_MEAN, IMAGENET_STD, CenterCrop, Normalize, RandomResizedCrop
from training.distributed import Ranks, stream_seed
from training.feed import Fetcher, MarkPhase, Order, check_shared_memory, ignore_phase, iterate, keep, open_loader
from training.sources.dataset import Split
from training.sources.decode import DECODE_ERRORS
from training.sources.decoders import DECODERS

MOST_SIDE = 512
"""Longest side of a window that goes to the device as it was cut: 25 MB a batch of 32."""
FRAME_STEP = 64
"""Frames are multiples of this, so that few sizes of batches occur."""

NORMALIZE = Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD)
"""Normalisation of the pretrained weights, in training and evaluation, whatever the recipe says."""


def training_ops(recipe: str, image_size: int) -> tuple[Op, ...]:
    """Return a recipe for photographs: its RandomResizedCrop gives images of ``image_size``, and it normalises as ImageNet is.

    Raises ValueError for an unknown recipe, and for one that does not bring photographs of all sizes to one.
    """

    def adapt(op: Op) -> Op:
        if isinstance(op, Normalize):
            return NORMALIZE
        return replace(op, size=image_size) if isinstance(op, RandomResizedCrop) else op

    ops = tuple(adapt(op) for op in resolve(recipe, image_size))
    if not any(isinstance(op, RandomResizedCrop) for op in ops):
        raise ValueError(f"recipe {recipe} has no RandomResizedCrop, so photographs keep their sizes: take imagenet or d2l")
    return ops


def prepared_size(image_size: int) -> int:
    """Return the shorter side that photographs are resized to before the centre is cut out for evaluation: 256 for 224."""
    return image_size + 2 * round(image_size / 14)  # even margins: the centre's rounding is that of a single cut


def evaluation_ops(image_size: int) -> tuple[Op, ...]:
    """Return the ops for squares of ``prepared_size``: for evaluation, and for training without augmentation."""
    return CenterCrop(size=image_size), NORMALIZE


class PhotoBatch(NamedTuple):
    """A fetched batch: ``images`` as the placement sends them, and ``labels`` int64 [B].

    ``windows`` float32 [B, 4] (top, left, height, width) is the part of each image to resize; empty, [0, 4], if that is done.
    """

    images: Any
    labels: Tensor
    windows: Tensor


# ---- stages -----------------------------------------------------------------------------------------------------------

Stage = Callable[[Any, Tensor], Any]
"""Turns the items of a batch into the next stage's, for the photographs ``indices`` int64 [B]. It can be pickled."""


class UnreadablePhotograph(ValueError):
    """A photograph could be read before and no longer can."""


@dataclass(frozen=True)
class _PerFile:
    """Work on each file of a batch."""

    files: tuple[Path, ...]

    def __call__(self, items: Any, indices: Tensor) -> list[Any]:
        return [self._try(index, item) for index, item in zip(indices.tolist(), items, strict=True)]

    def _try(self, index: int, item: Any) -> Any:
        try:
            return self.run(index, item)
        except DECODE_ERRORS as error:
            name, words = "/".join(self.files[index].parts[-3:]), " ".join(str(error).split())
            raise UnreadablePhotograph(f"{name} could be read before training and no longer can: {words}") from error

    def run(self, index: int, item: Any) -> Any:
        raise NotImplementedError


class Read(_PerFile):
    """Read the bytes of each file."""

    def run(self, index: int, item: Any) -> bytes:
        return self.files[index].read_bytes()


@dataclass(frozen=True)
class Decode(_PerFile):
    """Decode each file to uint8 [3, H, W], upright; ``odd`` are the indices of files that are left to Pillow."""

    decoder: str = "pil"
    odd: frozenset[int] = frozenset()

    def run(self, index: int, item: Any) -> Tensor:
        pixels: Tensor = DECODERS["pil" if index in self.odd else self.decoder].run(item)
        return pixels


class AugmentEach:
    """Augment photographs one by one, each as a batch of its own; every process builds its own pipeline."""

    def __init__(self, ops: tuple[Op, ...], backend: str, dtype: torch.dtype) -> None:
        self.ops, self.backend, self.dtype = ops, backend, dtype
        self._pipeline: Pipeline | None = None

    def __call__(self, items: Sequence[Tensor], indices: Tensor) -> list[Tensor]:
        if self._pipeline is None:
            self._pipeline = build(self.ops, self.backend, dtype=self.dtype)
        return [self._pipeline(image[None]) for image in items]


def collate(items: Sequence[Tensor], indices: Tensor) -> tuple[Tensor, Tensor]:
    """Join augmented images [1, 3, S, S] to (images [B, 3, S, S], no windows)."""
    return torch.cat(tuple(items)), torch.empty(0, 4)


@dataclass(frozen=True)
class CutWindows:
    """Draw a window of each photograph and lay it into a batch: see ``cut_windows``."""

    crop: RandomResizedCrop

    def __call__(self, items: Sequence[Tensor], indices: Tensor) -> tuple[Tensor, Tensor]:
        return cut_windows(items, self.crop)


def fetch_stages(
    files: tuple[Path, ...], ops: tuple[Op, ...], backend: str | None, *, dtype: torch.dtype = torch.float32,
    decoder: str = "pil", odd: frozenset[int] = frozenset(),
) -> dict[str, Stage]:  # fmt: skip
    """Return the stages from files to (images, windows); without a backend windows are cut for the device."""
    stages: dict[str, Stage] = {"read": Read(files), "decode": Decode(files, decoder, odd)}
    if backend is not None:
        return stages | {"augment": AugmentEach(ops, backend, dtype), "collate": collate}
    if not isinstance(ops[0], RandomResizedCrop):
        raise ValueError(
            "on the device a recipe must begin with RandomResizedCrop, which brings photographs to one size: "
            "take --recipe imagenet, or --augment-on workers"
        )
    return stages | {"collate": CutWindows(ops[0])}


def feed_lane(ops: tuple[Op, ...], backend: str, *, on_device: bool) -> Lane:
    """Return the lane of a feed: windows are drawn for each image whatever the backend, and workers augment image by image."""
    drawn = lane(ops[1:], backend) if on_device else "per_image"
    return "mixed" if drawn == "per_batch" else drawn


class Photographs(Fetcher[PhotoBatch | str]):
    """Fetches a batch through stages, the first of which gets the indices.

    A photograph that can no longer be read gives a message instead of the batch: errors of workers come with their traceback.
    """

    def __init__(self, stages: Mapping[str, Stage], labels: Tensor, seed: int) -> None:
        super().__init__(seed)
        self.stages, self.labels = stages, labels

    def fetch(self, indices: Tensor) -> PhotoBatch | str:
        items: Any = indices
        # Pillow's about damaged tags do not name the file, PyTorch's is about pixels that nobody writes to
        with warnings.catch_warnings(action="ignore"):
            try:
                for stage in self.stages.values():
                    items = stage(items, indices)
            except UnreadablePhotograph as error:
                return str(error)
        images, windows = items if self.stages else (indices, torch.empty(0, 4))
        return PhotoBatch(images, self.labels[indices], windows)


def cut_windows(photographs: Sequence[Tensor], crop: RandomResizedCrop, most_side: int = MOST_SIDE) -> tuple[Tensor, Tensor]:
    """Draw a window for each photograph, uint8 [3, H, W], and lay the windows into one batch (see the module's text).

    Returns images uint8 [B, 3, S, S] and their windows float32 [B, 4], whose top and left are 0.
    """
    plan, cuts = fused.plan((crop,)), []
    for photograph in photographs:
        (window,) = plan.sample(1, *photograph.shape[1:])
        top, left, height, width = (int(window[name].item()) for name in ("top", "left", "height", "width"))
        if max(height, width) <= most_side:
            cuts.append(photograph[:, top : top + height, left : left + width])
        else:
            cuts.append(plan.apply(photograph[None], (window,), dtype=torch.uint8)[0])
    sides = torch.tensor([cut.shape[1:] for cut in cuts])
    side = -(-int(sides.max()) // FRAME_STEP) * FRAME_STEP
    is_interleaved = cuts[0].stride(0) == 1  # as Pillow's pixels are: rows of windows are then copied whole
    shape = (len(cuts), side, side, 3) if is_interleaved else (len(cuts), 3, side, side)
    zeros = torch.zeros(shape, dtype=torch.uint8, device=cuts[0].device)
    images = zeros.permute(0, 3, 1, 2) if is_interleaved else zeros
    for frame, cut in zip(images, cuts, strict=True):
        target = frame[:, : cut.shape[1], : cut.shape[2]]
        # NumPy copies in this thread; PyTorch's would wait for another at every window, for milliseconds on busy cores
        if cut.is_cpu:
            np.copyto(target.numpy(), cut.numpy())
        else:
            target.copy_(cut)
    return images, torch.cat([torch.zeros_like(sides), sides], 1).float()


class WindowPipeline:
    """Ops on a batch of windows: each window is resized, then the backend does the recipe's other ops."""

    def __init__(self, ops: tuple[Op, ...], backend: str, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        is_fused = BACKENDS[backend].library == "fused"
        self._own, later = (ops, ()) if is_fused else (ops[:1], ops[1:])  # the fused backend flips as it resizes
        self._plan, self._draws = fused.plan(self._own), fused.plan(self._own[1:])
        self._later = build(later, backend, device=device, dtype=dtype) if later else None
        self._run, _ = fused.prepare_run(self._plan, device, torch.float32 if later else dtype)
        self.implementation: str | None = None  # of the fused backend, known once it has run

    def __call__(self, images: Tensor, windows: Tensor) -> Tensor:
        """uint8 [B, 3, S, S] and windows [B, 4] on the device -> ``dtype`` [B, 3, size, size], normalised."""
        crop = self._own[0]
        assert isinstance(crop, RandomResizedCrop)
        window = dict(zip(("top", "left", "height", "width"), windows.unbind(1), strict=True))
        drawn = self._draws.sample(len(images), crop.size, crop.size, device=images.device)
        resized, implementation = self._run(images, (window, *drawn))
        if self._later is not None:
            return self._later(resized)
        self.implementation = implementation
        return resized


class _PhotoSource:
    """Batches of photographs for one device, finished there; the last, smaller one is kept, unless it is a single image."""

    drop_last = False

    def __init__(
        self, count: int, batch_size: int, seed: int, device: torch.device, finish: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        self.device, self._seed, self._finish = device, seed, finish
        self._order = Order(count, batch_size, seed, Ranks(), min_batch=2)  # batch norm cannot learn from one image

    def __len__(self) -> int:
        """Return the number of batches an epoch."""
        return len(self._order)

    def place(self, batch: PhotoBatch, mark_phase: MarkPhase = ignore_phase) -> tuple[Tensor, Tensor]:
        """Return (float32 [B, ...] as the network takes them, labels) on the device."""
        images, labels, windows = (tensor.to(self.device, non_blocking=True) for tensor in batch)
        mark_phase("copy")
        images = self._finish(images, windows)
        mark_phase("augment")
        return images, labels


class PhotoFeed(_PhotoSource):
    """Training batches from files.

    - ``on_device=False``: loader workers (the training process when there are none) decode and augment image by image, each
      image a batch of its own, so that every backend draws for each image.
    - ``on_device=True``: workers decode and cut, the device does the rest (see the module's text).

    Raises ValueError for a split without files, UnsupportedOp for a recipe that the backend lacks.
    """

    def __init__(
        self, split: Split, *, ops: tuple[Op, ...], backend: str, on_device: bool, batch_size: int,
        num_workers: int, seed: int, device: torch.device,
    ) -> None:  # fmt: skip
        if split.files is None:
            raise ValueError("photographs in files are needed: take --data FOLDER")
        stages = fetch_stages(split.files, ops, None if on_device else backend)
        self._pipeline = build(ops, backend)  # for workers too: problems are reported before processes start
        self._windows = WindowPipeline(ops, backend, device) if on_device else None
        super().__init__(len(split), batch_size, seed, device, self._windows or keep)
        self.lane = feed_lane(ops, backend, on_device=on_device)
        side = MOST_SIDE if on_device else 2 * max(op.size for op in ops if isinstance(op, RandomResizedCrop))  # of floats
        check_shared_memory(num_workers, batch_size * 3 * side**2)
        self._loader = open_loader(Photographs(stages, split.labels, seed), self._order, num_workers, device)

    @property
    def implementation(self) -> str | None:
        """Implementation of the fused backend, None for other backends."""
        return self._pipeline.implementation if self._windows is None else self._windows.implementation

    def epoch(self, epoch: int) -> Iterator[PhotoBatch]:
        """Yield the batches of an epoch on the host; starts its random streams. Raises ValueError for a file that changed."""
        self._order.epoch = epoch
        torch.manual_seed(stream_seed(self._seed, "augment", epoch=epoch))
        for batch in iterate(self._loader):
            if isinstance(batch, str):
                raise ValueError(batch)
            yield batch


class StoredFeed(_PhotoSource):
    """Training batches of values [N, ...] in memory, finished by ``prepare``; no augmentation.

    For photographs prepared as for evaluation, or the features that a frozen network gave for them.
    """

    lane, implementation = "fixed", None

    def __init__(
        self, values: Tensor, labels: Tensor, prepare: Callable[[Tensor], Tensor], *, batch_size: int, seed: int,
        device: torch.device,
    ) -> None:  # fmt: skip
        super().__init__(len(labels), batch_size, seed, device, lambda images, windows: prepare(images))
        self._values, self._labels = values, labels

    def epoch(self, epoch: int) -> Iterator[PhotoBatch]:
        """Yield the batches of an epoch, in the order of PhotoFeed."""
        self._order.epoch = epoch
        for request in self._order:
            values = self._values[request.indices.to(self._values.device)]
            yield PhotoBatch(values, self._labels[request.indices], torch.empty(0, 4))
