"""The fused backend on CUDA: a plan's passes through Triton's kernels, as an op that ``torch.compile`` takes whole.

``fused.for_device`` asks for ``applied(plan, dtype)``. Nothing waits for the device, and all memory comes from PyTorch's
allocator: calls can be captured in CUDA graphs once a first one has compiled the kernels.

Launches: one for each stretch of passes, at any size of image and batch, and a stretch ends only before an op that mixes
images; so one for every recipe and every op, beside two for its draws. A single pass that measures nothing of large images has
a program a tile, all else a program an image, so that a few large images leave processors idle; more launches would spare some
of that time and cost the host its own. What lies between passes takes one float copy of the batch at most: where a program
needs several buffers (three passes or more, or AugMix, of images larger than ``kernels.WHOLE`` pixels), there are fewer
programs than images.
"""

import functools
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from triton.errors import TritonError

from augment import fused, ops, passes
from augment import triton_kernels as kernels
from augment.passes import Encoded, Pass
from augment.sampling import Params


@functools.cache
def check(device: torch.device) -> None:
    """Run a kernel on one pixel. Raises RuntimeError or OSError where Triton cannot build or launch kernels for the device."""
    nothing = fused.plan([ops.Normalize()])
    try:
        applied(nothing, torch.float32)(torch.zeros(1, 3, 1, 1, dtype=torch.float32, device=device), [{}])
    except (subprocess.SubprocessError, TritonError) as error:  # of its C compiler, of its own
        raise RuntimeError(str(error)) from error


_NAMED: dict[str, tuple[Pass, ...]] = {}
"""Passes by name: an op's arguments are tensors and plain values."""


def applied(
    plan: fused.Plan, dtype: torch.dtype, memory_format: torch.memory_format = torch.contiguous_format
) -> fused.Applied:
    """``Plan.apply`` by Triton's kernels; the result is ``dtype``, laid out as ``memory_format`` says, in memory of its own.

    Images are [B, 3, H, W] uint8 or float in any memory layout; they are not changed.
    """
    found = passes.passes(plan.ops, is_rounded=dtype == torch.uint8)
    steps = [_step(stretch) for stretch in _stretches([part for one in found for part in passes.by_axes(one)])]

    def apply(images: Tensor, params: Sequence[Params]) -> Tensor:
        plan.check(images, params)
        for step in steps[:-1]:
            images = step(images, params, torch.float32, torch.contiguous_format)
        for step in steps[-1:]:
            images = step(images, params, dtype, memory_format)
        return images

    return apply


def _stretches(found: Sequence[Pass]) -> list[tuple[Pass, ...]]:
    """Passes that follow one another in one launch. What mixes images starts one: it needs all of them at once."""
    stretches: list[tuple[Pass, ...]] = []
    for one in found:
        if stretches and not one.mixes:
            stretches[-1] += (one,)
        else:
            stretches.append((one,))
    return stretches


Step = Callable[[Tensor, Sequence[Params], torch.dtype, torch.memory_format], Tensor]


def _step(stretch: tuple[Pass, ...]) -> Step:
    name = repr(stretch)
    _NAMED[name] = stretch
    needed = [each for one in stretch for each in one.parameters()]

    def step(images: Tensor, params: Sequence[Params], dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
        drawn = [params[index][key] for index, key in needed]
        return image_passes(images, drawn, name, dtype, memory_format == torch.channels_last)

    return step


@torch.library.custom_op("augment::image_passes", mutates_args=())
def image_passes(images: Tensor, params: Sequence[Tensor], name: str, dtype: torch.dtype, channels_last: bool) -> Tensor:
    """Passes over [B, 3, H, W] images: a new tensor of ``dtype``. ``name`` is the ``repr`` of known passes."""
    out = _empty(images, name, dtype, channels_last)
    _check_sizes(images, params, name)
    if sum((side - 1) * stride for side, stride in zip(images.shape[1:], images.stride()[1:], strict=True)) >= 2**31:
        images = images.contiguous()  # kernels count within an image in 32 bits
    if len(images):
        with torch.cuda.device_of(images):  # Triton launches on the current device
            _launch(name, images, tuple(each.contiguous() for each in params), out)
    return out


@image_passes.register_fake
def _(images: Tensor, params: Sequence[Tensor], name: str, dtype: torch.dtype, channels_last: bool) -> Tensor:
    return _empty(images, name, dtype, channels_last)


def _check_sizes(images: Tensor, params: Sequence[Tensor], name: str) -> None:
    """Raises ValueError for parameters of another size than kernels read."""
    sizes = _sizes(name, *images.shape[2:])
    wrong = [each for each, size in zip(params, sizes, strict=True) if each.numel() != len(images) * size]
    if wrong:
        raise ValueError(
            f"parameters {list(wrong[0].shape)} do not fit images {list(images.shape)}: apply what was drawn for them"
        )


@functools.lru_cache(maxsize=256)
def _sizes(name: str, height: int, width: int) -> tuple[int, ...]:
    sizes: list[int] = []
    for one in _NAMED[name]:
        sizes += passes.sizes(one, height, width)
        height, width = one.output_size(height, width)
    return tuple(sizes)


def _empty(images: Tensor, name: str, dtype: torch.dtype, channels_last: bool) -> Tensor:
    batch, _, height, width = images.shape
    for one in _NAMED[name]:
        height, width = one.output_size(height, width)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((batch, 3, height, width), dtype=dtype, device=images.device, memory_format=layout)


# ---- launches ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Layout:
    """Passes for images of one size, and what a program needs that takes an image through all of them.

    ``constants``: the passes as ``kernels.image_passes`` has them. ``tile``: pixels that a program holds at once; ``buffers``
    of ``room`` numbers for what lies between passes, ``count`` numbers for what is measured.
    """

    chain: tuple[Encoded, ...]
    constants: tuple[tuple[Any, ...], ...]
    tile: int
    buffers: int
    room: int
    count: int


def _most(chain: Sequence[Encoded]) -> int:
    return max((one.pixels for one in chain), default=0)


@functools.lru_cache(maxsize=256)
def _layout(name: str, height: int, width: int, whole: int, tile: int) -> Layout:
    """Of the passes of that name. Programs hold images of up to ``whole`` pixels, and of larger ones ``tile`` at a time."""
    stretch = _NAMED[name]
    chain = _encoded(stretch, height, width)
    if _most(chain) <= whole:
        tile = kernels.tile(_most(chain), True)
    else:
        parted = [passes.chains_first(one) if done.pixels > tile else (one,) for one, done in zip(stretch, chain, strict=True)]
        chain = _encoded([part for parts in parted for part in parts], height, width)
    chains = [each for each in map(passes.op_of_chains, chain) if each]
    room = 3 * max(_most(chain[:-1]), _most(chains))
    buffers = 4 if _most(chains) > tile else 2 if len(chain) > 2 and _most(chain) > tile else int(room > 0)
    constants = tuple((*_constants(one), _constants(passes.op_of_chains(one))) for one in chain)
    return Layout(tuple(chain), constants, tile, buffers, room, max(one.measured for one in (*chain, *chains)))


def _constants(one: Encoded | None) -> tuple[Any, ...]:
    return () if one is None else (one.sizes, one.moves, one.steps, one.measured, one.at)


def _encoded(stretch: Sequence[Pass], height: int, width: int) -> list[Encoded]:
    chain: list[Encoded] = []
    first = 0
    for one in stretch:
        chain.append(passes.encode(one, height, width, first))
        height, width = one.output_size(height, width)
        first += len(one.parameters())
    return chain


def _launch(name: str, images: Tensor, drawn: tuple[Tensor, ...], out: Tensor) -> None:
    laid_out = _layout(name, *images.shape[2:], kernels.WHOLE, kernels.TILE)
    chain = laid_out.chain
    if laid_out.buffers or (chain[0].measured and chain[0].pixels > laid_out.tile):
        _launch_programs(laid_out, images, drawn, out)
    else:
        _launch_tiles(chain[0], images, drawn, out)


def _launch_programs(laid_out: Layout, images: Tensor, drawn: tuple[Tensor, ...], out: Tensor) -> None:
    """One launch: programs of which each takes images through all passes, as many as fit one float copy of the batch."""
    batch, chain = len(images), laid_out.chain
    programs = max(batch // max(laid_out.buffers, 1), 1)
    scratch, measured = (
        torch.empty(programs * each, dtype=torch.float32, device=images.device)
        for each in (laid_out.buffers * laid_out.room, laid_out.count)
    )
    kernels.image_passes[(programs,)](
        images, out, scratch, measured, drawn or (images,), images.stride(), out.stride(), batch,
        chain=laid_out.constants, count=laid_out.count, white=_white(images), room=laid_out.room,
        buffers=laid_out.buffers, is_exact=chain[0].is_exact,
        to_bytes=out.dtype == torch.uint8, tile=laid_out.tile, num_warps=_warps(laid_out.tile),
        enable_fp_fusion=not chain[0].is_exact,
    )  # fmt: skip


def _launch_tiles(one: Encoded, images: Tensor, drawn: tuple[Tensor, ...], out: Tensor) -> None:
    """A single pass by a program for each tile, which is the whole image where that is measured."""
    tile = kernels.tile(one.pixels, one.measured > 0)
    kernels.image_pass[(len(images), -(-one.pixels // tile))](
        images, out, drawn or (images,), images.stride(), out.stride(), len(images),
        sizes=one.sizes, moves=one.moves, steps=one.steps, white=_white(images), is_exact=one.is_exact,
        to_bytes=out.dtype == torch.uint8, tile=tile, num_warps=_warps(tile), enable_fp_fusion=not one.is_exact,
    )  # fmt: skip


def _white(images: Tensor) -> int:
    return 255 if images.dtype == torch.uint8 else 1


def _warps(tile: int) -> int:
    return min(max(tile // 128, 1), 16)
