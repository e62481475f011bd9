"""The fused backend on CUDA: a plan's passes through Triton's kernels, as an op that ``torch.compile`` takes whole.

Nothing waits for the device, and all memory comes from PyTorch's allocator: calls can be captured in CUDA graphs once a first
one has compiled the kernels.

A call of a plan is one launch a stretch of passes, which ends only before an op that mixes images whose values changed; of
images larger than a program holds one a pass, and one before it that measures (``layouts``). ``OneLaunch`` draws in the same
launches.
"""

import functools
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from triton.errors import TritonError

from augment.distributions import Params
from augment.fused import triton_images as kernels
from augment.fused.launches import keep, signature
from augment.fused.layouts import InlineDraws, Launch, inline_draws, prepare
from augment.fused.passes import Pass, check_sizes, encode_stretch, passes, split_sampling, stretches
from augment.fused.plans import Plan
from augment.fused.triton_random import Key, no_keys, take_key


@functools.cache
def check(device: torch.device) -> None:
    """Run a kernel on one pixel. Raises RuntimeError or OSError if Triton cannot build or launch kernels for the device."""
    pixel = torch.zeros(1, 3, 1, 1, dtype=torch.float32, device=device)
    try:
        _stretch_apply((Pass(),))(pixel, [], torch.float32, torch.contiguous_format)
    except (subprocess.SubprocessError, TritonError) as error:  # of its C compiler, of its own
        raise RuntimeError(str(error)) from error


_NAMED: dict[str, tuple[Pass, ...]] = {}
"""Passes by name: an op's arguments are tensors and plain values."""


def apply_plan(
    plan: Plan, dtype: torch.dtype, memory_format: torch.memory_format = torch.contiguous_format
) -> Callable[[Tensor, Sequence[Params]], Tensor]:
    """Return ``Plan.apply`` by Triton's kernels; the result is ``dtype`` and ``memory_format``, in memory of its own.

    Images are [B, 3, H, W] uint8 or float in any memory layout; they are not changed.
    """
    applies = [_stretch_apply(stretch) for stretch in _cut(plan, dtype)]

    def apply(images: Tensor, params: Sequence[Params]) -> Tensor:
        plan.check(images, params)
        for run in applies[:-1]:
            images = run(images, params, torch.float32, torch.contiguous_format)
        for run in applies[-1:]:
            images = run(images, params, dtype, memory_format)
        return images

    return apply


def _cut(plan: Plan, dtype: torch.dtype) -> list[tuple[Pass, ...]]:
    """Return a plan's passes in stretches, one for each launch."""
    steps = [part for step in passes(plan.ops, is_rounded=dtype == torch.uint8) for part in split_sampling(step)]
    return stretches(steps)


StretchApply = Callable[[Tensor, Sequence[Params], torch.dtype, torch.memory_format], Tensor]


def _stretch_apply(stretch: tuple[Pass, ...]) -> StretchApply:
    name = repr(stretch)
    _NAMED[name] = stretch
    parameters = [parameter for step in stretch for parameter in step.parameters()]

    def apply(images: Tensor, params: Sequence[Params], dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
        drawn = [params[index][key] for index, key in parameters]
        run = image_passes_op if torch.compiler.is_compiling() else image_passes
        result: Tensor = run(images, drawn, name, dtype, memory_format == torch.channels_last)
        return result

    return apply


def image_passes(images: Tensor, params: Sequence[Tensor], name: str, dtype: torch.dtype, channels_last: bool) -> Tensor:
    """Apply passes to [B, 3, H, W] images: a new tensor of ``dtype``. ``name`` is the ``repr`` of passes in ``_NAMED``."""
    out = _empty(images, name, dtype, channels_last)
    check_sizes(images, params, _numbers(name, *images.shape[2:]))
    if _is_wide(images):
        images = images.contiguous()
    if len(images):
        _launch(name, images, tuple(drawn.contiguous() for drawn in params), out)
    return out


image_passes_op = torch.library.custom_op("augment::image_passes", image_passes, mutates_args=())
"""Look the draws up within a graph of ``torch.compile``."""


def _is_wide(images: Tensor) -> bool:
    """Return whether places within an image need more than the 32 bits in which kernels count."""
    return sum((side - 1) * stride for side, stride in zip(images.shape[1:], images.stride()[1:], strict=True)) >= 2**31


@image_passes_op.register_fake
def _(images: Tensor, params: Sequence[Tensor], name: str, dtype: torch.dtype, channels_last: bool) -> Tensor:
    return _empty(images, name, dtype, channels_last)


@functools.lru_cache(maxsize=256)
def _numbers(name: str, height: int, width: int) -> tuple[int, ...]:
    return encode_stretch(_NAMED[name], height, width).numbers


def _empty(images: Tensor, name: str, dtype: torch.dtype, channels_last: bool) -> Tensor:
    batch, _, height, width = images.shape
    for step in _NAMED[name]:
        height, width = step.output_size(height, width)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((batch, 3, height, width), dtype=dtype, device=images.device, memory_format=layout)


# ---- launches ---------------------------------------------------------------------------------------------------------


_LAUNCHES: dict[Any, Launch] = {}
"""Launches of passes whose parameters were drawn before."""


def _launch(name: str, images: Tensor, drawn: tuple[Tensor, ...], out: Tensor) -> None:
    keys = no_keys(images.device)
    key = (name, _signature(images), signature(drawn), out.dtype, out.stride(), kernels.WHOLE, kernels.TILE)
    launch = _LAUNCHES.get(key) or keep(_LAUNCHES, key, prepare(_NAMED[name], images, out, InlineDraws()))
    launch.run(images, out, drawn or (images,), keys, Key(keys, 0, 0))


def _signature(images: Tensor) -> tuple[Any, ...]:
    """Return all that a launch depends on; Triton compiles memory at multiples of 16 bytes by itself."""
    return images.shape, images.stride(), images.dtype, images.device, images.data_ptr() % 16


# ---- draws and passes in one launch -----------------------------------------------------------------------------------


class OneLaunch:
    """A recipe's draws and passes in one launch: (images, labels, generator) -> (images, targets).

    For each shape and layout of images what a launch needs is made once, so that a call allocates memory and launches.
    """

    def __init__(self, plan: Plan, dtype: torch.dtype, memory_format: torch.memory_format, num_classes: int = 0) -> None:
        self._plan, self._dtype, self._memory_format = plan, dtype, memory_format
        (stretch,) = _cut(plan, dtype)
        self._name = repr(stretch)
        _NAMED[self._name] = stretch
        self._num_classes = num_classes if plan.mixes else 0
        self._launches: dict[Any, tuple[Launch, InlineDraws]] = {}

    @staticmethod
    def takes(plan: Plan, dtype: torch.dtype) -> bool:
        """Return whether all is one launch: images mix before anything else but moves changes them, or not at all."""
        return len(_cut(plan, dtype)) == 1

    def __call__(
        self, images: Tensor, labels: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        """Draw and apply; ``images`` are on CUDA, or on a CPU in Triton's interpreter.

        ``labels``: int64 [B]. Targets are float32 [B, classes] if images mix, else the labels.
        """
        classes = 0 if labels is None else self._num_classes
        key = (*_signature(images), classes)
        ready = self._launches.get(key)
        if ready is None:
            if _is_wide(images):
                return self(images.contiguous(), labels, generator)
            ready = keep(self._launches, key, self._prepare(images, classes))
        launch, inline = ready
        out = torch.empty(launch.shape, dtype=self._dtype, device=images.device, memory_format=self._memory_format)
        targets, memory = labels, (images, images)
        if classes and labels is not None:
            targets = torch.empty((len(labels), classes), dtype=torch.float32, device=images.device)
            memory = (labels.contiguous(), targets)
        if launch.shape[0]:
            state = take_key(inline.numbers, generator, images.device) if inline.numbers else Key(no_keys(images.device), 0, 0)
            launch.run(images, out, memory, inline.tables or state.keys, state)
        return out, targets

    def _prepare(self, images: Tensor, classes: int) -> tuple[Launch, InlineDraws]:
        inline = inline_draws(self._plan, _NAMED[self._name], images, classes)
        out = _empty(images, self._name, self._dtype, self._memory_format == torch.channels_last)
        return prepare(_NAMED[self._name], images, out, inline), inline
