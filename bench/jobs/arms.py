"""Arms of ``augmark pipeline``: ways from files to batches on the device, each a list of stages.

A stage runs where photographs are fetched (loader workers, or the training process when there are none) or in the training
process. An arm without one of its stages is the same list with that stage's recorded results in its place.
"""

import functools
import importlib
import io
import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from augment import BACKENDS, OPS, RECIPES, Op, build
from augment.backends import dali
from augment.ops import HorizontalFlip, Normalize, RandomResizedCrop
from bench.jobs.photoset import PhotoSet
from training.photofeed import NORMALIZE, Decode, Read, Stage, WindowPipeline, fetch_stages, prepared_size, training_ops
from training.sources.cache import load_cached
from training.sources.decode import decode as decode_square
from training.sources.decode import upright
from training.sources.decoders import DECODERS, decode_pil

Stages = Mapping[str, Stage]
GRAPH_AHEAD = 2
"""Batches in work in a graph of DALI: its own default, and PyTorch's for a loader worker."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Photographs, ops and the result that is asked for."""

    photographs: PhotoSet
    cache: Path
    ops: tuple[Op, ...] = ()
    image_size: int = 224
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class Chain:
    """Stages where photographs are fetched, and those in the training process, in order."""

    fetch: Stages
    own: Stages
    pipeline: Any = None
    """Pipeline of the backend, or one like it; ``implementation`` says what runs."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of all stages, in order."""
        return (*self.fetch, *self.own)

    def replace(self, name: str, stage: Stage) -> "Chain":
        """Return the chain with another stage of that name."""
        fetch, own = ({key: stage if key == name else old for key, old in part.items()} for part in (self.fetch, self.own))
        return Chain(fetch, own, self.pipeline)

    def record(self, name: str, batches: Sequence[Tensor]) -> "Recorded":
        """Return the results of a stage for batches of indices, to stand in its place."""
        stages = [*self.fetch.values(), *self.own.values()][: self.names.index(name) + 1]
        results: dict[int, Any] = {}
        with warnings.catch_warnings(action="ignore"):  # of pixels that nobody writes to
            for indices in batches:
                results[int(indices[0])] = functools.reduce(lambda items, stage: stage(items, indices), stages, indices)
        return Recorded(results)


@dataclass(frozen=True)
class Recorded:
    """Results of a stage by the first index of a batch."""

    results: Mapping[int, Any]

    def __call__(self, items: Any, indices: Tensor) -> Any:
        return self.results[int(indices[0])]


@dataclass(frozen=True)
class AugmentBatch:
    """Augment a batch where it is; its windows if it has some."""

    pipeline: Callable[..., Tensor]

    def __call__(self, items: tuple[Tensor, Tensor], indices: Tensor) -> tuple[Tensor, Tensor]:
        images, windows = items
        return as_batch(self.pipeline(images, windows) if len(windows) else self.pipeline(images), indices)


def copy_to(device: torch.device, items: tuple[Tensor, Tensor], indices: Tensor) -> tuple[Tensor, ...]:
    """Copy a batch and its windows to the device."""
    return tuple(tensor.to(device, non_blocking=True) for tensor in items)


def _copy(device: torch.device) -> Stages:
    """Return the stage that copies; a CPU has nothing to copy to."""
    return {} if device.type == "cpu" else {"copy": functools.partial(copy_to, device)}


# ---- arms -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A way from files to batches: decoder, backend and where it augments; without a backend photographs are decoded alone."""

    decoder: str = "pil"
    backend: str | None = None
    augment_on: Literal["workers", "device"] | None = None

    def chain(self, work: Work) -> Chain:
        """Return the stages. Raises ValueError, UnsupportedOp among them, for what the arm cannot do."""
        device, files, odd = work.device, work.photographs.files, frozenset(work.photographs.odd)
        encoded: Stages = {"read": Read(files), "collate": as_batch}
        on_device, is_on_cuda = functools.partial(decode_on_device, self.decoder, odd, device), DECODERS[self.decoder].on_cuda
        if self.backend is None:
            alone: Stages = {"read": Read(files), "decode": Decode(files, self.decoder, odd), "collate": collate_sizes}
            return Chain(encoded, {"decode": on_device}) if is_on_cuda else Chain(alone, {})
        common: dict[str, Any] = {"decoder": self.decoder, "odd": odd, "dtype": work.dtype}
        if self.augment_on == "workers":
            alike = build(work.ops, self.backend, dtype=work.dtype)  # what cannot be built is reported before workers start
            return Chain(fetch_stages(files, work.ops, self.backend, **common), _copy(device), alike)
        pipeline = WindowPipeline(work.ops, self.backend, device, work.dtype)
        windows = AugmentBatch(pipeline)
        stages = fetch_stages(files, work.ops, None, **common)
        if not is_on_cuda:
            return Chain(stages, {**_copy(device), "augment": windows}, pipeline)
        return Chain(encoded, {"decode": on_device, "cut": stages["collate"], "augment": windows}, pipeline)

    def missing(self) -> str | None:
        """Return why the arm cannot run here, or None."""
        reason = BACKENDS[self.backend].why_not(torch.device("cpu")) if self.backend else None
        return reason or (DECODERS[self.decoder].missing() if self.decoder in DECODERS else None)


@dataclass(frozen=True, kw_only=True)
class PackedArm(Arm):
    """Photographs decoded, resized and cut to squares once, in one file that is memory-mapped, as FFCV has them."""

    def chain(self, work: Work) -> Chain:
        assert self.backend is not None
        side = prepared_size(work.image_size)
        pipeline = build(work.ops, self.backend, device=work.device, dtype=work.dtype)
        own: Stages = {**_copy(work.device), "augment": AugmentBatch(pipeline)}
        return Chain({"read": functools.partial(read_packed, packed_file(work, side))}, own, pipeline)


@dataclass(frozen=True, kw_only=True)
class DaliArm(Arm):
    """DALI's dynamic mode: a window of each file is decoded and resized, then the backend does the recipe's other ops."""

    def chain(self, work: Work) -> Chain:
        crop, *later_ops = work.ops
        if not isinstance(crop, RandomResizedCrop):
            raise ValueError("a recipe must begin with RandomResizedCrop, which is part of DALI's decoding: choose imagenet")
        pipeline = build(later_ops, "dali", device=work.device, dtype=work.dtype)
        own: Stages = {"decode": functools.partial(decode_windows, crop, work.device), "augment": AugmentBatch(pipeline)}
        return Chain({"read": read_plain(work), "collate": as_batch}, own, pipeline)


@dataclass(frozen=True, kw_only=True)
class DaliGraphArm(Arm):
    """DALI's graph from files to batches, as for ImageNet, in as many threads as PyTorch, with batches in work ahead."""

    def chain(self, work: Work) -> Chain:
        if [type(op) for op in work.ops] != [RandomResizedCrop, HorizontalFlip, Normalize]:
            raise ValueError("its graph is RandomResizedCrop, HorizontalFlip and Normalize: choose the recipe imagenet")
        return Chain({}, {"graph": DaliGraph(work)})


@dataclass(frozen=True)
class ReadPlain(Read):
    """Read files; ``odd`` ones come as the pixels of Pillow in a plain format, so that DALI shows what all arms show."""

    odd: frozenset[int]

    def run(self, index: int, item: Any) -> bytes:
        content = super().run(index, item)
        if index in self.odd:
            upright(content).save(file := io.BytesIO(), "PPM")
            content = file.getvalue()
        return content


def read_plain(work: Work) -> Stage:
    """Return the stage that reads files for DALI's decoders."""
    return ReadPlain(work.photographs.files, frozenset(work.photographs.odd))


def decode_windows(
    crop: RandomResizedCrop, device: torch.device, items: tuple[Sequence[bytes], Tensor], indices: Tensor
) -> tuple[Tensor, Tensor]:
    """Decode a random window of each file and resize it by DALI's dynamic mode: uint8 [B, 3, S, S]."""
    ndd = dali.library()
    rng = ndd.random.RNG(int(torch.randint(2**31 - 1, ())))
    files, place = ndd.as_batch(as_arrays(items[0])), "cpu" if device.type == "cpu" else "gpu"
    images = decode_and_resize(ndd, files, crop, place, rng=rng)
    return as_batch(torch.utils.dlpack.from_dlpack(ndd.as_tensor(images)).permute(0, 3, 1, 2), indices)


def as_arrays(contents: Sequence[bytes]) -> list[np.ndarray]:
    """Return the bytes of files as arrays, uint8, without a copy."""
    return [np.frombuffer(content, np.uint8) for content in contents]


def decode_and_resize(library: Any, files: Any, crop: RandomResizedCrop, device: str, **random: Any) -> Any:
    """Decode random windows alone and resize them, by the operators of DALI's dynamic mode or of its graphs."""
    images = library.decoders.image_random_crop(
        files, device=device, random_area=list(crop.scale), random_aspect_ratio=list(crop.ratio), num_attempts=dali.TRIES,
        **random,
    )  # fmt: skip
    return library.resize(images, size=[crop.size] * 2, interp_type=dali.LINEAR, antialias=crop.antialias)


@dataclass
class DaliGraph:
    """One DALI pipeline over all photographs, in the order of the files; it is built at the first batch."""

    work: Work
    _pipe: Any = None

    def __call__(self, items: Any, indices: Tensor) -> tuple[Tensor, Tensor]:
        self._pipe = self._pipe or self._build(len(indices))
        (images,) = self._pipe.run()
        return as_batch(torch.utils.dlpack.from_dlpack(images.as_tensor()).to(self.work.dtype), indices)

    def _build(self, batch_size: int) -> Any:
        library, read = importlib.import_module("nvidia.dali"), read_plain(self.work)
        fn, device, (crop, flip, norm) = library.fn, self.work.device, cast(Any, self.work.ops)
        mean, std = ([255 * value for value in values] for values in (norm.mean, norm.std))
        count = len(self.work.photographs.files) // batch_size * batch_size
        batches = itertools.cycle(torch.arange(count).split(batch_size))
        pipe = library.Pipeline(
            batch_size, torch.get_num_threads(), None if device.type == "cpu" else device.index or 0,
            seed=int(torch.randint(2**31 - 1, ())), prefetch_queue_depth=GRAPH_AHEAD, exec_dynamic=True,
        )  # fmt: skip
        with pipe:
            files = fn.external_source((as_arrays(read(i, i)) for i in batches), dtype=library.types.UINT8, ndim=1)
            images = decode_and_resize(fn, files, crop, "cpu" if device.type == "cpu" else "mixed")
            mirror = fn.random.coin_flip(probability=flip.p)
            pipe.set_outputs(fn.crop_mirror_normalize(images, mirror=mirror, mean=mean, std=std, output_layout="CHW"))
        pipe.build()
        return pipe


def collate_sizes(items: Sequence[Tensor], indices: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sizes of decoded photographs, int64 [B, 2], in place of a batch."""
    return as_batch(torch.tensor([image.shape[1:] for image in items]), indices)


def as_batch(items: Any, indices: Tensor) -> tuple[Any, Tensor]:
    """Return items, such as images or the bytes of files, as a batch without windows."""
    return items, torch.empty(0, 4)


def decode_on_device(
    decoder: str, odd: frozenset[int], device: torch.device, items: tuple[Sequence[bytes], Tensor], indices: Tensor
) -> list[Tensor]:
    """Decode the files of a batch on a CUDA device; ``odd`` ones on the CPU."""
    contents = dict(zip(indices.tolist(), items[0], strict=True))
    plain = [index for index in contents if index not in odd]
    pixels = dict(zip(plain, DECODERS[decoder].run_all([contents[index] for index in plain]), strict=True))
    return [pixels[i] if i in pixels else decode_pil(contents[i]).to(device) for i in contents]


@functools.cache
def open_packed(path: Path) -> np.ndarray:
    """Return photographs, uint8 [N, 3, S, S], which every process maps into its memory for itself."""
    return cast(np.ndarray, np.load(path, mmap_mode="r"))


def read_packed(path: Path, items: Any, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Read the photographs of a batch from a file of squares."""
    return as_batch(torch.from_numpy(open_packed(path)[indices.numpy()]), indices)


def packed_file(work: Work, side: int) -> Path:
    """Return the file of all photographs as squares, uint8 [N, 3, side, side], which is made once."""

    def fill(append: Callable[[np.ndarray], None]) -> tuple[np.ndarray, dict[str, Any]]:
        with warnings.catch_warnings(action="ignore"):  # about damaged tags, which cost no image
            for file in work.photographs.files:
                append(decode_square(file.read_bytes(), side)[None])
        return np.zeros(len(work.photographs.files), np.int64), {}

    key = f"packed-{work.photographs.fingerprint}-{side}"
    images = load_cached(work.cache, key, image_size=side, fill=fill).images
    assert isinstance(images, np.memmap)
    return Path(str(images.filename))


IN_WORKERS = ("albumentations", "torchvision_loop", "pil", "fused")
HOST_DECODERS = tuple(name for name, decoder in DECODERS.items() if not decoder.on_cuda)
ARMS: Mapping[str, Arm] = {
    **{f"{backend}-workers": Arm(backend=backend, augment_on="workers") for backend in IN_WORKERS},
    **{
        f"{decoder}-{backend}-device": Arm(decoder=decoder, backend=backend, augment_on="device")
        for backend in ("fused", "kornia")
        for decoder in (DECODERS if backend == "fused" else HOST_DECODERS)
    },
    "dali-dali-device": DaliGraphArm(decoder="dali", backend="dali", augment_on="device"),
    "dali_dynamic-dali-device": DaliArm(decoder="dali_dynamic", backend="dali", augment_on="device"),
    "packed-fused-device": PackedArm(decoder="packed", backend="fused", augment_on="device"),
    **{f"{decoder}-alone": Arm(decoder=decoder) for decoder in DECODERS},
}
"""Arms by the names that ``--arms`` takes."""


def recipe_ops(recipe: str, image_size: int) -> tuple[Op, ...]:
    """Return the ops of a recipe, or of a single op behind RandomResizedCrop, normalised as ImageNet is.

    Raises ValueError for a recipe that keeps the sizes of photographs, and for ops that need a whole batch and its labels.
    """
    if recipe in RECIPES:
        ops = training_ops(recipe, image_size)
    else:
        ops = (RandomResizedCrop(size=image_size), OPS[recipe].at(image_size), NORMALIZE)
    if any(op.mixes_labels for op in ops):
        raise ValueError(f"{recipe} mixes the images and labels of a batch, which files have not")
    return ops


# ---- pixels -----------------------------------------------------------------------------------------------------------


def pixel_differences(photographs: PhotoSet, count: int = 32) -> dict[str, dict[str, tuple[float, float]]]:
    """Return the largest and the mean difference between the pixels of decoders, in levels of 255, by pairs of names.

    Images of different sizes (DCT scaling) are compared at the smaller one, to which the larger is resized with antialiasing.
    """
    contents = [file.read_bytes() for i, file in enumerate(photographs.files) if i not in photographs.odd][:count]
    names = [name for name in DECODERS if DECODERS[name].missing() is None]
    with warnings.catch_warnings(action="ignore"):
        decoded = {name: [pixels.cpu() for pixels in DECODERS[name].run_all(contents)] for name in names}
    return {a: {b: _compare(decoded[a], decoded[b]) for b in names if b != a} for a in names} if contents else {}


def _compare(images: Sequence[Tensor], peers: Sequence[Tensor]) -> tuple[float, float]:
    gaps = [(_at(a, b) - _at(b, a)).abs() for a, b in zip(images, peers, strict=True)]
    return max(float(gap.max()) for gap in gaps), sum(float(gap.mean()) for gap in gaps) / len(gaps)


def _at(image: Tensor, peer: Tensor) -> Tensor:
    """Return an image as float [3, H, W], at its peer's size if that is smaller."""
    if image.shape == peer.shape or image.shape[1] < peer.shape[1]:
        return image.float()
    size = list(peer.shape[1:])
    return torch.nn.functional.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)[0]
