"""Plans of recipes: ``sample`` draws parameters for a batch, ``apply`` does the work from them and nothing else.

Replaying parameters gives the same pixels. On a CPU with a compiler a plan runs in C (``fused.cpu``); tensor operations, an op
after the other, are the definition and do everything else. ``fused.runner`` chooses Triton's kernels on CUDA.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from augment.distributions import Params
from augment.fused import build, cpu, sample, tensors
from augment.fused.kinds import kind_of
from augment.fused.passes import passes, stretches
from augment.op import Op
from augment.pipeline import check_classes, to_dtype

Implementation = Literal["c", "triton", "tensors", "inductor"]
"""Executor of a plan."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe prepared. Images are [B, 3, H, W] uint8, or float in [0, 1]."""

    ops: tuple[Op, ...]
    parameters: tuple[tuple[str, ...], ...]
    """Drawn parameters that kernels read, of each op."""
    stretches: tuple[cpu.Stretch, ...] = ()
    """The recipe for the C library."""

    @property
    def mixes(self) -> bool:
        """Return whether labels become soft targets."""
        return any(op.mixes_labels for op in self.ops)

    def sample(
        self, batch: int, height: int, width: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> tuple[Params, ...]:
        """Draw for a batch of that size; see ``augment.fused.sample.sample``."""
        device = torch.device(device)
        return sample.sample(self.ops, batch, height, width, generator, device, sampling_kernel(device))

    def apply(self, images: Tensor, params: Sequence[Params], dtype: torch.dtype | None = None) -> Tensor:
        """Do what was drawn. The input is not changed; the result may share its memory only if no op touched it.

        Returns: contiguous images of ``dtype``; without one float32, or uint8 if the images are and all ops keep bytes.

        Raises: ValueError for parameters that this plan did not draw for as many images.
        """
        return self.run(images, params, dtype)[0]

    def run(self, images: Tensor, params: Sequence[Params], dtype: torch.dtype | None = None) -> tuple[Tensor, Implementation]:
        """Apply, and say what did the work."""
        self.check(images, params)
        if torch.compiler.is_compiling():
            return self._by_tensors(images, params, dtype), "inductor"
        if not cpu.accepts(images, params):
            return self._by_tensors(images, params, dtype), "tensors"
        for stretch in self.stretches:
            images = stretch.apply(images, params, dtype if stretch is self.stretches[-1] else None)
        return images, "c"

    def _by_tensors(self, images: Tensor, params: Sequence[Params], dtype: torch.dtype | None) -> Tensor:
        images = (images.to(torch.float32) if images.is_floating_point() else images).contiguous()
        for op, drawn in zip(self.ops, params, strict=True):
            images = kind_of(op).apply(op, images, drawn)
        return images if dtype is None else to_dtype(images, dtype)

    def check(self, images: Tensor, params: Sequence[Params]) -> None:
        """Raise ValueError for parameters of other ops or for another number of images; in a graph nothing is checked."""
        if torch.compiler.is_compiling():
            return
        if len(params) != len(self.ops):
            raise ValueError(
                f"there are {len(self.ops)} ops and parameters of {len(params)}: apply what this plan's sample drew"
            )
        for op, names, drawn in zip(self.ops, self.parameters, params, strict=True):
            for name in names:
                count = len(drawn[name]) if name in drawn else None
                if count != len(images):
                    reason = f"no {name!r}" if count is None else f"{name!r} for {count} images"
                    raise ValueError(
                        f"{op.name} got {reason}: apply what this plan's sample drew for these {len(images)} images"
                    )

    def targets(self, labels: Tensor, params: Sequence[Params], num_classes: int) -> Tensor:
        """Mix labels int64 [B] as the images: float32 [B, num_classes]; the labels themselves if nothing mixes.

        On a CPU ValueError for labels that are no class; other devices are not asked, and give those targets of zeros.
        """
        weights = [drawn["lam"] for op, drawn in zip(self.ops, params, strict=True) if op.mixes_labels]
        if not weights:
            return labels
        if labels.device.type == "cpu" and not torch.compiler.is_compiling():
            check_classes(labels, num_classes)
        targets = tensors.one_hot(labels, num_classes)
        for weight in weights:
            targets = tensors.mix_targets(targets, weight)
        return targets


def plan(recipe: Sequence[Op]) -> Plan:
    """Prepare a recipe. Every op must have a kind (``Op.fused``)."""
    parameters = tuple(kind_of(op).parameters(op) for op in recipe)
    return Plan(tuple(recipe), parameters, tuple(map(cpu.stretch, stretches(passes(recipe)))))


def sampling_kernel(device: torch.device) -> sample.Sampler:
    """Return what computes parameters on ``device``: a kernel, or tensor operations, as under ``torch.compile``."""
    if torch.compiler.is_compiling():
        return sample.TENSORS
    if device.type == "cpu":
        return cpu.SAMPLER if build.library() else sample.TENSORS
    return _triton_draw(device) if device.type == "cuda" else sample.TENSORS


@functools.cache
def _triton_draw(device: torch.device) -> sample.Sampler:
    if without_triton(device):
        return sample.TENSORS  # without a warning: ``runner.prepare_run`` gives it
    from augment.fused import triton_draws

    return triton_draws.SAMPLER


def without_triton(device: torch.device) -> str:
    """Return why Triton's kernels cannot run on the device; "" if they can."""
    try:
        from augment.fused import cuda  # here: not every PyTorch brings Triton

        cuda.check(device)
    except (ImportError, RuntimeError, OSError) as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return ""
