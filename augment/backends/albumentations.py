"""Albumentations on arrays of bytes, image by image, as in loader workers.

Its transforms are called one after the other, without ``Compose``'s checks, and draw from generators that PyTorch's seeds; no
global state is touched. The package (MIT) is an optional extra, imported when a pipeline is built. AlbumentationsX (AGPL)
serves the same import and is no dependency of ours.
"""

import functools
import importlib
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from augment.backends import OptionalPackage, StepBackend
from augment.op import Cell, Op, Read
from augment.pipeline import Runner, Step
from augment.replay import Columns, Recorder, stack_draws

PACKAGE = OptionalPackage(name="Albumentations", prefix="albumentations", series="2.0", extra="albumentations")
"""Albumentations or, under the same import, AlbumentationsX."""
LINEAR = 1
"""cv2.INTER_LINEAR, without importing it."""

Build = Callable[[Any, Any, float], Sequence[Any]]
"""(albumentations, op, value of white) -> transforms, the one that draws last."""


@functools.cache
def library() -> Any:
    """Return the package, which must not ask the network for its newest release."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    return importlib.import_module("albumentations")


@dataclass
class AlbumentationsStep:
    """Transforms of an op; ``calls`` keeps shape and parameters of each image, None if the op was not applied."""

    op: Op
    build: Build
    calls: list[tuple[tuple[int, int], dict[str, Any] | None]] = field(default_factory=list)
    keeps: bool = False
    _built: dict[float, Sequence[Any]] = field(default_factory=dict)

    def seed(self, generator: np.random.Generator, python: random.Random, white: float) -> None:
        """Build the transforms for images of that white once, and let them draw from these generators."""
        if white not in self._built:
            self._built[white] = self.build(library(), self.op, white)
        for transform in self._built[white]:
            transform.set_random_state(generator, python)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        self.op.output_size(height, width)  # a ValueError for images that are too small
        transforms = self._built[255.0 if image.dtype == np.uint8 else 1.0]
        for transform in transforms:
            image = transform(image=image)["image"]
        if self.keeps:
            self.calls.append(((height, width), transforms[-1].get_applied_params() or None))
        return image


def albumentations(build: Build, refuses: Callable[[Any], str | None] = lambda op: None, /, **reads: Read) -> dict[str, Cell]:
    """Return a cell; ``reads`` are keys of what ``get_applied_params`` returns."""
    return {"albumentations": Cell(lambda op: AlbumentationsStep(op, build), reads, refuses)}


def seed_steps(steps: Sequence[AlbumentationsStep]) -> None:
    """Let all steps draw from generators that PyTorch's global generator seeds."""
    seed = int(torch.randint(2**31 - 1, ()))
    generator, python = np.random.default_rng(seed), random.Random(seed)
    for step in steps:
        for white in (1.0, 255.0):
            step.seed(generator, python, white)


def run_image_by_image(steps: Sequence[Step]) -> Runner:
    """Return a runner of the ops on one array [H, W, 3] after the other."""

    def apply(image: np.ndarray) -> Tensor:
        for step in steps:
            if step.needs_float and image.dtype == np.uint8:
                image = image.astype(np.float32) / 255
            image = step.apply(image)
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))

    def run(images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        seed_steps([cast(AlbumentationsStep, step.apply) for step in steps])
        images = images if images.dtype == torch.uint8 else images.to(torch.float32)
        arrays = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return torch.stack([apply(array) for array in arrays]).to(images.device), labels

    return run


class AlbumentationsRecorder(Recorder):
    """Record of what an op drew for each image."""

    def __init__(self, op: Op, step: AlbumentationsStep) -> None:
        self._op, self._step = op, step
        step.keeps = True

    def clear(self) -> None:
        """Forget earlier calls."""
        self._step.calls.clear()

    def columns(self, count: int) -> Columns:
        cell: Cell = self._op.cells["albumentations"]
        draws: list[dict[str, Any]] = []
        for shape, params in self._step.calls:
            drawn = None if params is None else cell.read(self._op.drawn_names, {**params, "shape": shape})
            values = {} if drawn is None else {name: np.asarray(value, dtype=float) for name, value in drawn.items()}
            draws.append({"applied": drawn is not None, **values})
        return stack_draws(draws)

    def sample(self, count: int, shape: tuple[int, int]) -> Columns:
        self.clear()
        image = np.full((*shape, 3), 0.5, np.float32)
        seed_steps([self._step])
        for _ in range(count):
            self._step(image)
        columns = self.columns(count)
        self.clear()
        return columns


BACKENDS = (
    StepBackend(
        name="albumentations", library="albumentations", lane="per_image", order=15, on_device=False,
        recorder=AlbumentationsRecorder, run_steps=run_image_by_image, why_not=PACKAGE.why_not,
        about="Albumentations on arrays of bytes, one by one, as in loader workers",
    ),
)  # fmt: skip
