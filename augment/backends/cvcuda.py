"""CV-CUDA's ``cvcuda.tv.Compose`` on the whole batch: a torchvision v2 pipeline as it stands, every image the same draw.

``Compose`` lets torchvision's own transforms draw, once per call, and hands their functionals to CV-CUDA's kernels. It takes
[B, 3, H, W] on CUDA and returns such a batch, both without a copy, so the cells are torchvision's. The package is an optional
extra, imported when a pipeline is built. Nothing of it is measured: it cannot be imported without a CUDA driver.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from augment.backends import OptionalPackage, StepBackend
from augment.backends.torchvision import TorchvisionRecorder
from augment.op import Op
from augment.pipeline import Runner, Step
from augment.replay import Columns, NoRoute

PACKAGE = OptionalPackage(name="CV-CUDA", prefix="cvcuda-cu", series="0.19", extra="cvcuda", refuses="older", devices=("cuda",))
"""The first releases with ``cvcuda.tv``."""


def run_composed(steps: Sequence[Step]) -> Runner:
    """Return a runner of all ops as one ``cvcuda.tv.Compose``; bytes become floats where the first op needs them."""
    transforms: list[Callable[..., Any]] = []
    for step in steps:
        if step.needs_float:
            transforms.append(v2.ToDtype(torch.float32, scale=True))
        transforms.append(step.apply)
    compose = importlib.import_module("cvcuda.tv").Compose(transforms) if transforms else lambda images: images

    def run(images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        images = images if images.dtype == torch.uint8 else images.to(torch.float32)
        return compose(images.contiguous()), labels

    return run


class CvcudaRecorder(TorchvisionRecorder):
    """Record of one transform in a ``Compose``, which calls ``check_inputs`` and not ``forward``, where hooks would run."""

    def __init__(self, op: Op, module: Any) -> None:
        if isinstance(module, v2.GaussianNoise):
            raise NoRoute("CV-CUDA draws noise on the device by a seed of its own")
        super().__init__(op, module)
        check = module.check_inputs

        def record(flat_inputs: list[Any]) -> Any:
            if self._has_pixels:  # ``sample`` calls ``forward``
                self.open_call(flat_inputs)
            return check(flat_inputs)

        module.check_inputs = record

    def columns(self, count: int) -> Columns:
        """Return the draws of the call; without one, the transform draws nothing and is always applied."""
        return super().columns(count) if self._calls else {"applied": np.ones(count, dtype=bool)}


BACKENDS = (
    StepBackend(
        name="cvcuda", library="cvcuda", lane="per_batch", order=58, recorder=CvcudaRecorder, run_steps=run_composed,
        why_not=PACKAGE.why_not, forks=False,
        about="CV-CUDA's tv.Compose of torchvision's transforms: every image gets the same draw",
    ),
)  # fmt: skip
