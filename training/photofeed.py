"""From photographs of all sizes in files to batches on the device, decoded by loader workers, wherever the augmentation runs.

**Bounded batches.** Photographs differ in size, and a batch that held all of them whole could be of any size. Where the device
augments, a worker therefore decodes a photograph, draws the window of the recipe's RandomResizedCrop from its true height and
width (``augment.sampling``, as the fused backend does) and sends that window alone, in the corner of a black frame as large as
the batch's largest window needs, at most ``MOST_SIDE`` pixels. The device resizes each image's own window by
``augment.geometry``, which is torchvision's ``resized_crop`` with antialiasing. A window with a longer side is resized by the
worker with the same function and rounded to 8 bits, which the device then only copies. That is what torchvision makes of 8-bit
images too; on a CPU its kernel for bytes rounds after each direction, so that it is about a level of 255 from the definition in
floats at most.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from augment import fused, geometry, sampling
from augment.catalog import BACKENDS, build, lane, resolve
from augment.compose import Pipeline, to_dtype
from augment.ops import IMAGENET_MEAN, IMAGENET_STD, CenterCrop, Normalize, Op, RandomResizedCrop
from augment.sampling import Params
from training.clock import StepClock
from training.data import load
from training.dataset import Dataset, Split
from training.distributed import stream_seed
from training.photos import DECODE_ERRORS, channels_first, upright

MOST_SIDE = 512
"""Longest side of a window that goes to the device as it was cut: 25 MB a batch of 32."""
FRAME_STEP = 64
"""Frames are multiples of this, so that few sizes of batches occur."""

NORMALIZE = Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD)
"""In training and evaluation alike, whatever the recipe says: that of the weights which people start from."""


def training_ops(recipe: str, image_size: int) -> tuple[Op, ...]:
    """A recipe for photographs: its RandomResizedCrop gives images of ``image_size``, and it normalises as ImageNet is.

    Raises ValueError for an unknown recipe, and for one that does not bring photographs of all sizes to one.
    """

    def adapted(op: Op) -> Op:
        if isinstance(op, Normalize):
            return NORMALIZE
        return replace(op, size=image_size) if isinstance(op, RandomResizedCrop) else op

    ops = tuple(adapted(op) for op in resolve(recipe, image_size))
    if not any(isinstance(op, RandomResizedCrop) for op in ops):
        raise ValueError(f"recipe {recipe} has no RandomResizedCrop, so photographs keep their sizes: take imagenet or d2l")
    return ops


def photo_folder(data: str) -> Path:
    """The folder that ``data`` names. Raises ValueError for data that are no files."""
    if data in ("auto", "cifar10", "synthetic"):
        raise ValueError(f"photographs in files are needed, not {data}: take --data FOLDER")
    return Path(data).expanduser()


def load_files(data: str, *, root: Path, image_size: int, max_train: int | None = None, max_test: int | None = None) -> Dataset:
    """``training.data.load`` for an image folder, whose splits have files.

    Raises ValueError, in one line, for other data, and for a folder that is not laid out so, whose classes differ between train
    and test, or that has fewer than two.
    """
    return load(str(photo_folder(data)), root=root, image_size=image_size, max_train=max_train, max_test=max_test)


def prepared_size(image_size: int) -> int:
    """Shorter side that photographs are resized to before the centre is cut out for evaluation: 256 for 224, as is usual."""
    return image_size + 2 * round(image_size / 14)  # even margins: the centre's rounding is that of a single cut


def evaluation_ops(image_size: int) -> tuple[Op, ...]:
    """What is left to do with photographs of ``prepared_size``, resized and cut to a square: to evaluate, or not to augment."""
    return CenterCrop(size=image_size), NORMALIZE


class PhotoBatch(NamedTuple):
    """``images`` as the placement sends them, ``labels`` int64 [B], and the seconds that fetching took.

    ``windows`` float32 [B, 4] (top, left, height, width) are what of each image is to be resized; empty, [0, 4], where that has
    been done. ``seconds`` float64 [2] are those of reading and decoding, and of augmenting (on the device: of cutting).
    """

    images: Tensor
    labels: Tensor
    windows: Tensor
    seconds: Tensor


@dataclass(frozen=True, kw_only=True)
class _Request:
    """A batch that a loader worker is asked for."""

    epoch: int
    indices: list[int]


class _Order:
    """The batches of an epoch, as requests."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed, self.epoch = count, batch_size, seed, 0

    def __len__(self) -> int:
        return len(shuffled(self.count, self.batch_size, self.seed, self.epoch))

    def __iter__(self) -> Iterator[_Request]:
        for indices in shuffled(self.count, self.batch_size, self.seed, self.epoch):
            yield _Request(epoch=self.epoch, indices=indices.tolist())


def shuffled(count: int, batch_size: int, seed: int, epoch: int) -> Sequence[Tensor]:
    """The indices of each batch of an epoch, in an order by (seed, epoch).

    The last, smaller batch is kept, but not one of a single image, which batch norm cannot learn from.
    """
    generator = torch.Generator().manual_seed(stream_seed(seed, "order", epoch=epoch))
    batches = torch.randperm(count, generator=generator).split(batch_size)
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches


class _Photographs(torch.utils.data.Dataset[Any]):
    """Reads and decodes a batch, and augments it image by image or cuts windows for the device.

    A photograph that can no longer be read gives a line instead of the batch: errors of workers come with their traceback.
    """

    def __init__(self, split: Split, ops: tuple[Op, ...], backend: str | None, seed: int) -> None:
        self.files, self.labels = split.files or (), split.labels
        self.ops, self.backend, self.seed = ops, backend, seed
        self._pipeline: Pipeline | None = None
        self._epoch: int | None = None

    def __getitems__(self, request: _Request) -> PhotoBatch | str:
        self._start_stream(request.epoch)
        start = time.perf_counter()
        photographs = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of damaged tags, without a word of which file
            for index in request.indices:
                try:
                    photographs.append(torch.from_numpy(channels_first(upright(self.files[index].read_bytes()))))
                except DECODE_ERRORS as error:
                    name = "/".join(self.files[index].parts[-3:])
                    return f"{name} could be read before training and no longer can: {' '.join(str(error).split())}"
        decoded = time.perf_counter()
        images, windows = self._augmented(photographs)
        seconds = torch.tensor([decoded - start, time.perf_counter() - decoded], dtype=torch.float64)
        return PhotoBatch(images, self.labels[request.indices], windows, seconds)

    def _augmented(self, photographs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        if self.backend is None:
            crop = self.ops[0]
            assert isinstance(crop, RandomResizedCrop)
            return bounded(photographs, crop)
        if self._pipeline is None:
            self._pipeline = build(self.ops, self.backend)
        return torch.cat([self._pipeline(image[None]) for image in photographs]), torch.empty(0, 4)

    def _start_stream(self, epoch: int) -> None:
        worker = get_worker_info()
        if worker is not None and epoch != self._epoch:  # in the training process, PhotoFeed has done it
            torch.manual_seed(stream_seed(self.seed, "augment", epoch=epoch, worker=worker.id))
            self._epoch = epoch


def bounded(photographs: Sequence[Tensor], crop: RandomResizedCrop, most_side: int = MOST_SIDE) -> tuple[Tensor, Tensor]:
    """Draw a window for each photograph, uint8 [3, H, W], and lay the windows into one batch (see the module's text).

    Returns images uint8 [B, 3, S, S] and their windows float32 [B, 4], whose top and left are 0.
    """
    cuts = []
    for photograph in photographs:
        (drawn,) = sampling.sample((crop,), 1, *photograph.shape[1:])
        top, left, height, width = (int(drawn[name].item()) for name in ("top", "left", "height", "width"))
        cut = photograph[:, top : top + height, left : left + width]
        cuts.append(cut if max(height, width) <= most_side else _resized(photograph, drawn, crop))
    sides = torch.tensor([cut.shape[1:] for cut in cuts])
    side = -(-int(sides.max()) // FRAME_STEP) * FRAME_STEP
    images = torch.zeros((len(cuts), 3, side, side), dtype=torch.uint8)
    for frame, cut in zip(images, cuts, strict=True):
        frame[:, : cut.shape[1], : cut.shape[2]] = cut
    return images, torch.cat([torch.zeros_like(sides), sides], 1).float()


def _resized(photograph: Tensor, window: Params, crop: RandomResizedCrop) -> Tensor:
    resized = geometry.resized_crop(photograph[None], window, crop.size, antialias=crop.antialias)
    return to_dtype(resized, torch.uint8)[0]


class OnDevice:
    """What the device does with a batch of windows: resize each, then the recipe's other ops by the backend."""

    def __init__(self, ops: tuple[Op, ...], backend: str, device: torch.device) -> None:
        fuses = BACKENDS[backend].plan is not None
        self._own, others = (ops, ()) if fuses else (ops[:1], ops[1:])  # the fused backend flips as it resizes
        self._plan, self._draws = fused.plan(self._own), fused.plan(self._own[1:])
        self._rest = build(others, backend, device=device) if others else None

    def __call__(self, images: Tensor, windows: Tensor) -> Tensor:
        """uint8 [B, 3, S, S] and windows [B, 4] on the device -> float32 [B, 3, size, size], normalised."""
        crop = self._own[0]
        assert isinstance(crop, RandomResizedCrop)
        window = dict(zip(("top", "left", "height", "width"), windows.unbind(1), strict=True))
        drawn = self._draws.sample(len(images), crop.size, crop.size, device=images.device)
        resized = self._plan.apply(images, (window, *drawn))
        return resized if self._rest is None else self._rest(resized)


class PhotoFeed:
    """Training batches from files, for one device.

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
        if on_device and not isinstance(ops[0], RandomResizedCrop):
            raise ValueError(
                "on the device a recipe must begin with RandomResizedCrop, which brings photographs to one size: "
                "take --recipe imagenet, or --augment-on workers"
            )
        self.device, self._seed = device, seed
        self._finish = OnDevice(ops, backend, device) if on_device else None
        build(ops, backend)  # what cannot be built is told before processes start
        self.draws = lane(ops[1:], backend) if on_device else "per_image"
        if on_device and self.draws == "per_batch":
            self.draws = "mixed"  # windows are drawn for each image whatever the backend
        self._order = _Order(len(split), batch_size, seed)
        self._loader = DataLoader(
            _Photographs(split, ops, None if on_device else backend, seed),
            batch_sampler=self._order,  # type: ignore[arg-type]  # of requests: torch's type knows lists of indices only
            collate_fn=_as_it_is, num_workers=num_workers, persistent_workers=num_workers > 0,
            pin_memory=device.type == "cuda",
        )  # fmt: skip

    def epoch(self, epoch: int) -> Iterator[PhotoBatch]:
        """The batches of an epoch on the host; starts its random streams. Raises ValueError for a file that has changed."""
        self._order.epoch = epoch
        torch.manual_seed(stream_seed(self._seed, "augment", epoch=epoch))
        for batch in self._loader:
            if isinstance(batch, str):
                raise ValueError(batch)
            yield batch

    def place(self, batch: PhotoBatch, clock: StepClock) -> tuple[Tensor, Tensor]:
        """(images float32 [B, 3, size, size], labels) on the device, augmented."""
        images, labels, windows = (each.to(self.device, non_blocking=True) for each in batch[:3])
        clock.passed("copy")
        if self._finish is not None:
            images = self._finish(images, windows)
        clock.passed("augment")
        return images, labels


class StoredFeed:
    """Training batches without augmentation: values [N, ...] that are in memory, and what the device does with a batch of them.

    Photographs prepared for evaluation, or the features that a frozen network gave for them.
    """

    draws = "fixed"

    def __init__(
        self, values: Tensor, labels: Tensor, finish: Callable[[Tensor], Tensor], *, batch_size: int, seed: int,
        device: torch.device,
    ) -> None:  # fmt: skip
        self._values, self._labels, self._finish, self._device = values, labels, finish, device
        self._batch_size, self._seed = batch_size, seed

    def epoch(self, epoch: int) -> Iterator[PhotoBatch]:
        """As that of PhotoFeed."""
        nothing, no_time = torch.empty(0, 4), torch.zeros(2, dtype=torch.float64)
        for indices in shuffled(len(self._labels), self._batch_size, self._seed, epoch):
            yield PhotoBatch(self._values[indices.to(self._values.device)], self._labels[indices], nothing, no_time)

    def place(self, batch: PhotoBatch, clock: StepClock) -> tuple[Tensor, Tensor]:
        """As that of PhotoFeed; features come as they are."""
        values, labels = batch.images.to(self._device, non_blocking=True), batch.labels.to(self._device, non_blocking=True)
        clock.passed("copy")
        values = self._finish(values)
        clock.passed("augment")
        return values, labels


def _as_it_is(batch: Any) -> Any:
    return batch
