"""How a list of built ops becomes one batched callable: batch at once, image by image, on PIL images, or compiled.

This file knows tensors and PIL images but no augmentation library; ``augment.catalog`` builds the ops with one.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from augment.ops import Op

Runner = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""(images, labels) -> (images, targets), any dtype; the part of a pipeline that a library does."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One op as a library built it, and how it wants to be called."""

    apply: Callable[..., Any]
    mixes_labels: bool
    needs_float: bool


class Pipeline:
    """Ops on a backend, ready for batches.

    ``pipeline(images)`` takes [B, 3, H, W] uint8, or float in [0, 1], on any device and returns [B, 3, h, w] of ``dtype`` in
    memory of its own, laid out as ``memory_format`` says: the input is never changed and never shared.
    ``pipeline(images, labels)`` takes int64 class indices [B] too and returns ``(images, targets)``, where ``targets`` are the
    labels, or float [B, num_classes] when ``mixes``.

    Raises ValueError for images of another shape or type, for an empty batch and, when ``mixes``, for labels that are missing
    or not a class index an image.

    What ``augment.build`` made can be pickled: loader workers that are spawned build it ``again``. A generator travels in its
    present state, so that every copy draws what this one would: give each worker a seed of its own.
    """

    def __init__(
        self, *, ops: Sequence[Op], backend: str, draws: str, mixes: bool, run: Runner, dtype: torch.dtype,
        generator: torch.Generator | None = None, memory_format: torch.memory_format = torch.contiguous_format,
        again: "Callable[[], Pipeline] | None" = None,
    ) -> None:  # fmt: skip
        self.ops = tuple(ops)
        self.backend = backend
        self.draws = draws
        self.mixes = mixes
        self.dtype = dtype
        self.memory_format = memory_format
        self._run = run
        self._generator = generator
        self._again = again

    def __reduce__(self) -> "tuple[Callable[[], Pipeline], tuple[()]]":
        if self._again is None:
            raise TypeError("only a pipeline that augment.build made can be pickled")
        return self._again, ()

    @overload
    def __call__(self, images: Tensor) -> Tensor: ...
    @overload
    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]: ...
    def __call__(self, images: Tensor, labels: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        _check_images(images)
        if self.mixes:
            _check_labels(labels, len(images))
        with library_rng(self._generator, images.device):
            result, targets = self._run(images, labels)
        result = _own_memory(result, images, self.dtype, self.memory_format)
        return result if targets is None else (result, targets)

    def __repr__(self) -> str:
        return f"Pipeline({self.backend}, {', '.join(map(repr, self.ops))})"


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor):
        raise ValueError(f"images must be a tensor [B, 3, H, W], got {type(images).__name__}")
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be [B, 3, H, W], got {list(images.shape)}")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"images must be uint8, or float in [0, 1], got {images.dtype}")
    if 0 in images.shape:
        raise ValueError(f"images must not be empty, got {list(images.shape)}")


def _check_labels(labels: Tensor | None, batch: int) -> None:
    if labels is None:
        raise ValueError("this pipeline mixes labels: call it as pipeline(images, labels)")
    if labels.shape != (batch,) or labels.is_floating_point():
        raise ValueError(f"labels must be int64 [{batch}], a class index an image, got {labels.dtype} {list(labels.shape)}")


@contextlib.contextmanager
def library_rng(generator: torch.Generator | None, device: torch.device) -> Iterator[None]:
    """The libraries draw from torch's global generators: seed those from ``generator`` and restore them afterwards."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device).item())
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=_accelerator(device)):
        torch.manual_seed(seed)
        yield


def _accelerator(device: torch.device) -> str:
    return "cuda" if device.type == "cpu" else device.type


def to_float(images: Tensor) -> Tensor:
    """uint8 to float32 in [0, 1]; float stays as it is."""
    return images if images.is_floating_point() else images.to(torch.float32).div_(255)


def to_dtype(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Between uint8 and float types, values kept on their scale (0..255 against 0..1)."""
    if dtype == images.dtype:
        return images
    if dtype == torch.uint8:
        return images.mul(255).round_().clamp_(0, 255).to(torch.uint8)
    return to_float(images).to(dtype)


def _shares(result: Tensor, images: Tensor) -> bool:
    if torch.compiler.is_compiling():  # addresses are not known; what has changed its type was copied
        return result.dtype == images.dtype
    return result.untyped_storage().data_ptr() == images.untyped_storage().data_ptr()


def _own_memory(result: Tensor, images: Tensor, dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
    if dtype != result.dtype and dtype.is_floating_point and result.is_floating_point():
        return result.to(dtype, memory_format=memory_format)  # one copy, not one for the type and one for the layout
    result = to_dtype(result, dtype)
    # Flips and crops may be lazy views, and an op that is skipped returns its input: everyone pays for the copy here.
    if _shares(result, images):
        return result.clone(memory_format=memory_format)
    return result.contiguous(memory_format=memory_format)


# ---- ways to run ------------------------------------------------------------------------------------------------------


def batched(steps: Sequence[Step]) -> Runner:
    """Each op once, on the whole batch."""

    def run(images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        for step in steps:
            if step.needs_float:
                images = to_float(images)
            if step.mixes_labels:
                images, labels = step.apply(images, labels)
            else:
                images = step.apply(images)
        return images, labels

    return run


def _split_at_mixing(steps: Sequence[Step]) -> tuple[Sequence[Step], Sequence[Step]]:
    """Ops that go image by image, and those from the first that mixes images, which only a batch can do."""
    first = next((i for i, step in enumerate(steps) if step.mixes_labels), len(steps))
    return steps[:first], steps[first:]


def image_by_image(steps: Sequence[Step]) -> Runner:
    """The ops on one image after the other, as tensors; what mixes images runs on the batch afterwards."""
    single, rest = _split_at_mixing(steps)
    each, together = batched(single), batched(rest)

    def run(images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return together(torch.stack([each(image, None)[0] for image in images]), labels)

    return run


def on_pil_images(steps: Sequence[Step]) -> Runner:
    """The ops on one PIL image after the other, from the first that needs float on tensors: what loader workers do."""
    single, rest = _split_at_mixing(steps)
    first_float = next((i for i, step in enumerate(single) if step.needs_float), len(single))
    on_pil, on_tensor = single[:first_float], batched(single[first_float:])
    together = batched(rest)

    def one(array: np.ndarray) -> Tensor:
        image = Image.fromarray(array)
        for step in on_pil:
            image = step.apply(image)
        # np.array copies: PIL's buffer is read-only, torch's must not be.
        return on_tensor(torch.from_numpy(np.array(image)).permute(2, 0, 1), None)[0]

    def run(images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        arrays = to_dtype(images, torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return together(torch.stack([one(array) for array in arrays]).to(images.device), labels)

    return run


def compiled(steps: Sequence[Step]) -> Runner:
    """Each op once on the whole batch, through ``torch.compile`` (inductor, static shapes)."""
    compiled_run: Runner = torch.compile(batched(steps), dynamic=False)
    return compiled_run


def shared_draws(steps: Sequence[Step]) -> Runner:
    """Each op once on the whole batch, Kornia's modules told to draw one set of parameters for it."""
    for step in steps:
        modules = step.apply.modules() if isinstance(step.apply, nn.Module) else []
        for module in modules:
            if hasattr(module, "same_on_batch"):
                setattr(module, "same_on_batch", True)  # noqa: B010  nn.Module's type admits tensors only
    return batched(steps)


# ---- pieces that the catalog's cells need -----------------------------------------------------------------------------


class Clamp(nn.Module):
    """Clamp to [0, 1]."""

    def forward(self, images: Tensor) -> Tensor:
        return images.clamp(0.0, 1.0)


class KorniaMix(nn.Module):
    """A Kornia mix op with soft targets.

    Kornia returns rows (label, partner's label, weight); the weight belongs to the partner in its MixUp and to the
    image itself in its CutMix with ``use_correct_lambda``: ``weight_of_partner`` says which.
    """

    def __init__(self, mix: nn.Module, num_classes: int, *, weight_of_partner: bool) -> None:
        super().__init__()
        self.mix = mix
        self.num_classes = num_classes
        self.weight_of_partner = weight_of_partner

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        mixed, rows = self.mix(images, labels)
        rows = rows.reshape(-1, 3)
        own = 1 - rows[:, 2:] if self.weight_of_partner else rows[:, 2:]
        one_hot = [nn.functional.one_hot(rows[:, i].long(), self.num_classes).to(images.dtype) for i in (0, 1)]
        return mixed, own * one_hot[0] + (1 - own) * one_hot[1]
