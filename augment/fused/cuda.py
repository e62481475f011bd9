"""The fused backend on CUDA: a plan's passes through Triton's kernels, as an op that ``torch.compile`` takes whole.

Nothing waits for the device, and all memory comes from PyTorch's allocator: calls can be captured in CUDA graphs once a first
one has compiled the kernels.

Launches: one for each stretch of passes, at any size of image and batch, and a stretch ends only before an op that mixes
images; so one for every recipe and every op, beside two for its draws. A single pass that measures nothing of large images has
a program a tile, all else a program an image, so that a few large images leave processors idle; more launches would spare some
of that time and cost the host its own. Between passes there is one float copy of the batch at most: if a program needs several
buffers (three passes or more, or AugMix, of images larger than ``triton_images.WHOLE`` pixels), there are fewer programs than
images.
"""

import functools
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from triton.errors import TritonError

from augment.distributions import Params
from augment.fused import triton_images as kernels
from augment.fused.passes import Pass, PassRecord, check_sizes, encode, passes, split_blur, split_chains, stretches
from augment.fused.plans import Plan


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
    steps = [part for step in passes(plan.ops, is_rounded=dtype == torch.uint8) for part in split_blur(step)]
    applies = [_stretch_apply(stretch) for stretch in stretches(steps)]

    def apply(images: Tensor, params: Sequence[Params]) -> Tensor:
        plan.check(images, params)
        for run in applies[:-1]:
            images = run(images, params, torch.float32, torch.contiguous_format)
        for run in applies[-1:]:
            images = run(images, params, dtype, memory_format)
        return images

    return apply


StretchApply = Callable[[Tensor, Sequence[Params], torch.dtype, torch.memory_format], Tensor]


def _stretch_apply(stretch: tuple[Pass, ...]) -> StretchApply:
    name = repr(stretch)
    _NAMED[name] = stretch
    parameters = [parameter for step in stretch for parameter in step.parameters()]

    def apply(images: Tensor, params: Sequence[Params], dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
        drawn = [params[index][key] for index, key in parameters]
        return image_passes(images, drawn, name, dtype, memory_format == torch.channels_last)

    return apply


@torch.library.custom_op("augment::image_passes", mutates_args=())
def image_passes(images: Tensor, params: Sequence[Tensor], name: str, dtype: torch.dtype, channels_last: bool) -> Tensor:
    """Apply passes to [B, 3, H, W] images: a new tensor of ``dtype``. ``name`` is the ``repr`` of passes in ``_NAMED``."""
    out = _empty(images, name, dtype, channels_last)
    check_sizes(images, params, _sizes(name, *images.shape[2:]))
    if sum((side - 1) * stride for side, stride in zip(images.shape[1:], images.stride()[1:], strict=True)) >= 2**31:
        images = images.contiguous()  # kernels count within an image in 32 bits
    if len(images):
        with torch.cuda.device_of(images):  # Triton launches on the current device
            _launch(name, images, tuple(drawn.contiguous() for drawn in params), out)
    return out


@image_passes.register_fake
def _(images: Tensor, params: Sequence[Tensor], name: str, dtype: torch.dtype, channels_last: bool) -> Tensor:
    return _empty(images, name, dtype, channels_last)


@functools.lru_cache(maxsize=256)
def _sizes(name: str, height: int, width: int) -> tuple[int, ...]:
    sizes: list[int] = []
    for step in _NAMED[name]:
        sizes += step.parameter_sizes(height, width)
        height, width = step.output_size(height, width)
    return tuple(sizes)


def _empty(images: Tensor, name: str, dtype: torch.dtype, channels_last: bool) -> Tensor:
    batch, _, height, width = images.shape
    for step in _NAMED[name]:
        height, width = step.output_size(height, width)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((batch, 3, height, width), dtype=dtype, device=images.device, memory_format=layout)


# ---- launches ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Layout:
    """Passes for images of one size, and the memory of a program that takes an image through all of them.

    ``constants``: the passes as plain tuples, as kernels take them. ``tile``: pixels that a program holds at once; ``buffers``
    of ``room`` numbers for images between passes, ``count`` numbers for what is measured.
    """

    chain: tuple[PassRecord, ...]
    constants: tuple[Any, ...]
    tile: int
    buffers: int
    room: int
    count: int


def _plain(value: Any) -> Any:
    """Return a record without names of fields, which Triton does not keep."""
    return tuple(map(_plain, value)) if isinstance(value, tuple) else value


def _most_pixels(chain: Sequence[PassRecord]) -> int:
    return max((record.pixels for record in chain), default=0)


@functools.lru_cache(maxsize=256)
def _layout(name: str, height: int, width: int, whole: int, tile: int) -> Layout:
    """Lay out the passes of that name. Programs hold images of up to ``whole`` pixels, ``tile`` pixels of larger ones."""
    stretch = _NAMED[name]
    chain = _encode_all(stretch, height, width)
    if _most_pixels(chain) <= whole:
        tile = kernels.tile(_most_pixels(chain), True)
    else:
        split = [split_chains(step) if record.pixels > tile else (step,) for step, record in zip(stretch, chain, strict=True)]
        chain = _encode_all([part for parts in split for part in parts], height, width)
    chain_ops = [record.chain_op for record in chain if record.chain_op]
    room = 3 * max(_most_pixels(chain[:-1]), _most_pixels(chain_ops))
    buffers = 4 if _most_pixels(chain_ops) > tile else 2 if len(chain) > 2 and _most_pixels(chain) > tile else int(room > 0)
    return Layout(tuple(chain), _plain(tuple(chain)), tile, buffers, room, max(r.measured for r in (*chain, *chain_ops)))


def _encode_all(stretch: Sequence[Pass], height: int, width: int) -> list[PassRecord]:
    chain: list[PassRecord] = []
    first = 0
    for step in stretch:
        chain.append(encode(step, height, width, first))
        height, width = step.output_size(height, width)
        first += len(step.parameters())
    return chain


def _launch(name: str, images: Tensor, drawn: tuple[Tensor, ...], out: Tensor) -> None:
    layout = _layout(name, *images.shape[2:], kernels.WHOLE, kernels.TILE)
    record = layout.chain[0]
    if layout.buffers or (record.measured and record.pixels > layout.tile):
        _launch_programs(layout, images, drawn, out)
    else:
        _launch_tiles(layout, images, drawn, out)


def _launch_programs(layout: Layout, images: Tensor, drawn: tuple[Tensor, ...], out: Tensor) -> None:
    """Launch once: programs of which each takes images through all passes, as many as fit one float copy of the batch."""
    programs = max(len(images) // max(layout.buffers, 1), 1)
    scratch, measured = (
        torch.empty(programs * numbers, dtype=torch.float32, device=images.device)
        for numbers in (layout.buffers * layout.room, layout.count)
    )
    kernels.image_passes[(programs,)](
        images, out, scratch, measured, drawn or (images,), images.stride(), out.stride(), len(images),
        chain=layout.constants, count=layout.count, room=layout.room, buffers=layout.buffers,
        tile=layout.tile, **_options(layout, images, out, layout.tile),
    )  # fmt: skip


def _launch_tiles(layout: Layout, images: Tensor, drawn: tuple[Tensor, ...], out: Tensor) -> None:
    """Launch a single pass: a program for each tile, which is the whole image if that is measured."""
    record = layout.chain[0]
    tile = kernels.tile(record.pixels, record.measured > 0)
    kernels.image_pass[(len(images), -(-record.pixels // tile))](
        images, out, drawn or (images,), images.stride(), out.stride(), len(images),
        record=layout.constants[0], tile=tile, **_options(layout, images, out, tile),
    )  # fmt: skip


def _options(layout: Layout, images: Tensor, out: Tensor, tile: int) -> dict[str, Any]:
    return {
        "white": 255 if images.dtype == torch.uint8 else 1, "to_bytes": out.dtype == torch.uint8,
        "num_warps": min(max(tile // 128, 1), 16), "enable_fp_fusion": not layout.chain[0].is_exact,
    }  # fmt: skip
