"""A list of built ops as one batched callable: checks, memory and layout of its own, and the ways to run a list.

This file knows no augmentation library; ``augment.backends`` builds the ops with one.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor

from augment.op import Lane, Op

Runner = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""(images, labels) -> (images, targets), any dtype; the part of a pipeline that a library does."""


class Step(NamedTuple):
    """An op as a library built it, and how it is called."""

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
    or not a class index per image. ``side``: of the images that a named recipe was made for by default; others are refused.

    A pipeline made by ``augment.build`` can be pickled: spawned loader workers build it again by ``rebuild``. A generator
    travels in its present state, so that every copy draws the same numbers: give each worker a seed of its own.
    """

    def __init__(
        self, *, ops: Sequence[Op], backend: str, lane: Lane, run: Runner, dtype: torch.dtype,
        memory_format: torch.memory_format = torch.contiguous_format, num_classes: int = 10, side: int | None = None,
        rebuild: "Callable[[], Pipeline] | None" = None,
    ) -> None:  # fmt: skip
        self.ops = tuple(ops)
        self.backend = backend
        self.lane = lane
        self.mixes = any(op.mixes_labels for op in ops)
        self.dtype = dtype
        self.memory_format = memory_format
        self._num_classes = num_classes
        self._side = side
        self._run = run
        self._rebuild = rebuild

    @property
    def implementation(self) -> str | None:
        """Code that computes the ops of ``fused`` ("c", "triton", "tensors" or "inductor"); None for other libraries."""
        return getattr(self._run, "implementation", None)

    def __reduce__(self) -> "tuple[Callable[[], Pipeline], tuple[()]]":
        if self._rebuild is None:
            raise TypeError("only a pipeline that augment.build made can be pickled")
        return self._rebuild, ()

    @overload
    def __call__(self, images: Tensor) -> Tensor: ...
    @overload
    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]: ...
    def __call__(self, images: Tensor, labels: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        _check_images(images, self._side)
        if self.mixes:
            _check_labels(labels, images, self._num_classes)
        result, targets = self._run(images, labels)
        result = _own_memory(result, images, self.dtype, self.memory_format)
        return result if targets is None else (result, targets)

    def __repr__(self) -> str:
        return f"Pipeline({self.backend}, {', '.join(map(repr, self.ops))})"


def _check_images(images: Tensor, side: int | None) -> None:
    if not isinstance(images, Tensor):
        raise ValueError(f"images must be a tensor [B, 3, H, W], got {type(images).__name__}")
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be [B, 3, H, W], got {list(images.shape)}")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"images must be uint8, or float in [0, 1], got {images.dtype}")
    if 0 in images.shape:
        raise ValueError(f"images must not be empty, got {list(images.shape)}")
    height, width = images.shape[2:]
    if side is not None and (height, width) != (side, side):
        sizes = f"the sizes of this pipeline are for {side}x{side} images, got {height}x{width}"
        raise ValueError(f"{sizes}: build it with image_size={min(height, width)}")


def _check_labels(labels: Any, images: Tensor, num_classes: int) -> None:
    if labels is None:
        raise ValueError("this pipeline mixes labels: call it as pipeline(images, labels)")
    if not isinstance(labels, Tensor):
        raise ValueError(f"labels must be a tensor int64 [{len(images)}], a class index an image, got {type(labels).__name__}")
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:  # texts are made here: they would fix symbolic sizes
        wrong = f"{labels.dtype} {list(labels.shape)}"
        raise ValueError(f"labels must be int64 [{len(images)}], a class index an image, got {wrong}")
    if labels.device != images.device:
        raise ValueError(f"the labels are on {labels.device}, the images on {images.device}: put both on one device")
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():  # other devices are not asked
        check_classes(labels, num_classes)


def check_classes(labels: Tensor, num_classes: int) -> None:
    """Raise ValueError unless all labels are class indices."""
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= num_classes:
        raise ValueError(f"labels must be 0 to {num_classes - 1} (num_classes={num_classes}), got {lowest} to {highest}")


def check_device(device: str | torch.device) -> torch.device:
    """Return the device. Raises ValueError for an unknown name, or a device that this machine lacks."""
    with contextlib.suppress(RuntimeError):  # of an unknown name
        checked = torch.device(device)
        if checked.type in ("cpu", "meta") and not checked.index:
            return checked  # no driver is asked: this may be a forked process
        if checked.type in (counts := _count_accelerators()) and (checked.index or 0) < counts[checked.type]:
            return checked
    usable = ", ".join(["cpu", *(f"{count} {kind}" for kind, count in _count_accelerators().items())])
    raise ValueError(f"device {str(device)!r} cannot be used; here: {usable}")


def _count_accelerators() -> dict[str, int]:
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return {accelerator.type: torch.accelerator.device_count()} if accelerator else {}


# ---- types, memory, random numbers ------------------------------------------------------------------------------------


def to_float(images: Tensor) -> Tensor:
    """Convert uint8 to float32 in [0, 1]; floats stay as they are."""
    return images if images.is_floating_point() else images.to(torch.float32).div_(255)


def to_dtype(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert between uint8 and float types, values kept on their scale (0..255 against 0..1)."""
    if dtype == images.dtype:
        return images
    if dtype == torch.uint8:
        return images.mul(255).round_().clamp_(0, 255).to(torch.uint8)
    return to_float(images).to(dtype)


def _shares_memory(result: Tensor, images: Tensor) -> bool:
    if torch.compiler.is_compiling():  # there are no addresses, but a new type means a copy
        return result.dtype == images.dtype
    return result.untyped_storage().data_ptr() == images.untyped_storage().data_ptr()


def _own_memory(result: Tensor, images: Tensor, dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
    if dtype != result.dtype and dtype.is_floating_point and result.is_floating_point():
        return result.to(dtype, memory_format=memory_format)  # one copy, not one for the type and one for the layout
    result = to_dtype(result, dtype)
    # Flips and crops may be lazy views, and an op that is skipped returns its input: every library pays for the copy here.
    if _shares_memory(result, images):
        return result.clone(memory_format=memory_format)
    return result.contiguous(memory_format=memory_format)


@contextlib.contextmanager
def library_rng(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, from which libraries draw, by ``generator``, and restore them afterwards."""
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device).item())
    devices, kind = ([], "cuda") if device.type == "cpu" else ([device], device.type)
    with torch.random.fork_rng(devices=devices, device_type=kind):
        torch.manual_seed(seed)
        yield


def with_generator(run: Runner, generator: torch.Generator | None) -> Runner:
    """Return the runner of a library that draws from torch's global generators, drawing from ``generator`` instead."""
    if generator is None:
        return run

    def run_seeded(images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        with library_rng(generator, images.device):
            return run(images, labels)

    return run_seeded


# ---- ways to run ------------------------------------------------------------------------------------------------------


def run_batched(steps: Sequence[Step]) -> Runner:
    """Return a runner that calls each op once, on the whole batch."""

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


def run_compiled(steps: Sequence[Step]) -> Runner:
    """Return ``run_batched`` through ``torch.compile`` (inductor, static shapes)."""
    compiled: Runner = torch.compile(run_batched(steps), dynamic=False)
    return compiled


def split_at_mixing(steps: Sequence[Step]) -> tuple[Sequence[Step], Sequence[Step]]:
    """Return the ops that take one image, and those from the first that mixes images on, which take a batch."""
    first = next((i for i, step in enumerate(steps) if step.mixes_labels), len(steps))
    return steps[:first], steps[first:]
