"""NVIDIA DALI's dynamic mode on the whole batch, a draw for each image.

Parameters come from DALI's own random operators and are handed to its image operators, an argument for each sample: so the
recorder reads them. DALI works on interleaved images; the conversions, without a copy where DLPack allows, are part of what is
timed. The package is an optional extra, imported when a pipeline is built. Its policies (``nvidia.dali.auto_aug``) exist for
graph-built pipelines only.
"""

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from augment.backends import OptionalPackage, StepBackend
from augment.distributions import Chance, Jitter, Uniform
from augment.op import Cell, Op
from augment.pipeline import Runner, Step
from augment.replay import Columns, Recorder

PACKAGE = OptionalPackage(name="DALI", prefix="nvidia-dali-cuda", series="2.4", extra="dali", devices=("cpu", "cuda"))
BYTES = 255.0
TRIES = 10
"""Windows that are tried before the fallback, as in torchvision."""

Drawn = dict[str, Any]
"""Drawn parameters by name: batches of DALI, a sample for each image."""


@functools.cache
def library() -> Any:
    """Return DALI's dynamic mode. Raises ImportError without it."""
    return importlib.import_module("nvidia.dali.experimental.dynamic")


class Draws:
    """Random numbers for the images of a batch by DALI's random operators."""

    def __init__(self, rng: Any, count: int, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._options: dict[str, Any] = {"rng": rng, "batch_size": count}
        self._count = count

    def chance(self, p: float) -> Any:
        """Return 1 with probability ``p``, else 0: int32."""
        return library().random.coin_flip(probability=p, **self._options)

    def uniform(self, low: float, high: float) -> Any:
        """Return float32 numbers in [low, high); ``low`` if they are equal, which DALI refuses as a range."""
        return library().random.uniform(**({"values": [low]} if low == high else {"range": [low, high]}), **self._options)

    def integer(self, count: int) -> Any:
        """Return whole numbers 0 .. count - 1, float32."""
        return library().random.uniform(values=[float(i) for i in range(count)], **self._options)

    def normal(self, sigma: float) -> Any:
        """Return noise for every value of an image, float32 [H, W, 3]."""
        return library().random.normal(stddev=sigma, shape=[*self.shape, 3], **self._options)

    def window(self, area: Sequence[float], ratio: Sequence[float]) -> Drawn:
        """Return windows of a random area and aspect ratio (width over height), inside the image."""
        sides = library().as_batch([np.array(self.shape, np.int64)] * self._count)
        anchor, shape = library().random_crop_generator(
            sides, random_area=list(area), random_aspect_ratio=list(ratio), num_attempts=TRIES, rng=self._options["rng"]
        )
        return {"anchor": anchor, "shape": shape}


Draw = Callable[[Any, Draws], Mapping[str, Any]]
Apply = Callable[[Any, Any, Any, Mapping[str, Any]], Any]
"""(DALI, op, images, drawn) -> images."""


@dataclass
class DaliStep:
    """An op as DALI does it; ``drawn`` are the parameters of the last batch."""

    op: Op
    draw: Draw
    apply: Apply
    drawn: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, images: Any, rng: Any) -> Any:
        height, width, _ = images.shape[0]
        self.drawn = self.draw(self.op, Draws(rng, images.batch_size, (height, width)))
        return self.apply(library(), self.op, images, self.drawn)


def draw_declared(op: Any, draws: Draws) -> Drawn:
    """Draw the chances, uniform numbers and factors of a jitter that an op declares."""
    names = [(d.name, d.bounds(op)) for d in op.draws if isinstance(d, Uniform)]
    names += [(name, getattr(op, name)) for d in op.draws if isinstance(d, Jitter) for name in d.fields]
    chance = {"applied": draws.chance(op.p)} if any(isinstance(d, Chance) for d in op.draws) else {}
    return chance | {name: draws.uniform(*bounds) for name, bounds in names}


def dali(
    apply: Apply, draw: Draw = draw_declared, refuses: Callable[[Any], str | None] = lambda op: None, /, **reads: Any
) -> dict[str, Cell]:
    """Return a cell; ``reads`` are names of what ``draw`` returns, where they are not the parameters'."""
    return {"dali": Cell(lambda op: DaliStep(op, draw, apply), reads, refuses)}


def clamp(images: Any) -> Any:
    """Clamp float images to [0, 1]; DALI does so with bytes itself."""
    return images if is_bytes(images) else library().math.clamp(images, 0.0, 1.0)


def is_bytes(images: Any) -> bool:
    """Return whether images are uint8."""
    return bool(images.dtype == library().uint8)


def unit(images: Any) -> float:
    """Return the value of white."""
    return BYTES if is_bytes(images) else 1.0


def contrast(images: Any, factor: Any) -> Any:
    """Blend with the mean of the grey version: DALI's own default centre is mid-grey. On CUDA the means visit the CPU."""
    ndd = library()
    luma = ndd.as_batch([np.array([0.2989, 0.587, 0.114], np.float32)] * images.batch_size, device=images.device)
    mean = ndd.reductions.sum(ndd.reductions.mean(images, axes=[0, 1]) * luma)
    return clamp(ndd.contrast(images, contrast=factor, contrast_center=mean))


def warp(images: Any, matrices: np.ndarray) -> Any:
    """Sample at places that a matrix [B, 2, 3] about the image's centre names, bilinear, black outside."""
    height, width, _ = images.shape[0]
    centre = np.array([width / 2, height / 2])  # the first pixel's centre is at one half
    shift = matrices[:, :, 2] + centre - matrices[:, :, :2] @ centre
    placed = np.concatenate([matrices[:, :, :2], shift[:, :, None]], axis=2).astype(np.float32)
    ndd = library()
    return ndd.warp_affine(images, matrix=ndd.as_batch(list(placed)), inverse_map=True, interp_type=LINEAR, fill_value=0.0)


LINEAR = 1
"""DALIInterpType.INTERP_LINEAR, without importing it."""


def numbers(values: Any) -> np.ndarray:
    """Return drawn numbers as float64, a row for each image."""
    return np.asarray(library().as_tensor(values.cpu())).astype(np.float64)


def run_on_batches(steps: Sequence[Step]) -> Runner:
    """Return a runner of DALI's operators, one after the other, with one generator seeded by PyTorch's."""

    def run(images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        ndd = library()
        rng = ndd.random.RNG(int(torch.randint(2**31 - 1, ())))
        images = images if images.dtype == torch.uint8 else images.to(torch.float32)
        batch = ndd.as_batch(images.permute(0, 2, 3, 1).contiguous(), layout="HWC")
        for step in steps:
            if step.needs_float and is_bytes(batch):
                batch = ndd.cast(batch, dtype=ndd.float32) * (1 / BYTES)
            batch = step.apply(batch, rng)
        result = torch.utils.dlpack.from_dlpack(ndd.as_tensor(batch))
        return (result if batch.layout == "CHW" else result.permute(0, 3, 1, 2)), labels

    return run


class DaliRecorder(Recorder):
    """Record of what an op drew."""

    def __init__(self, op: Op, step: DaliStep) -> None:
        self._op, self._step = op, step

    def columns(self, count: int) -> Columns:
        return self._read(self._step.drawn, count)

    def sample(self, count: int, shape: tuple[int, int]) -> Columns:
        rng = library().random.RNG(int(torch.randint(2**31 - 1, ())))
        return self._read(self._step.draw(self._op, Draws(rng, count, shape)), count)

    def _read(self, drawn: Mapping[str, Any], count: int) -> Columns:
        values = {name: numbers(batch) for name, batch in drawn.items()}
        cell: Cell = self._op.cells["dali"]
        applied = values.get("applied", np.ones(count)) > 0.5
        return {"applied": applied, **cell.read(self._op.drawn_names, values)}


BACKENDS = (
    StepBackend(
        name="dali", library="dali", lane="per_image", order=55, recorder=DaliRecorder, run_steps=run_on_batches,
        why_not=PACKAGE.why_not, forks=False, about="NVIDIA DALI's dynamic mode on the whole batch, a draw for each image",
    ),
)  # fmt: skip
