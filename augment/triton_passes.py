"""The fused backend on CUDA: a plan's passes through Triton's kernels, as an op that ``torch.compile`` takes whole.

``fused.for_device`` asks for ``applied(plan, dtype)``. Ops that no pass can do run as stages of tensor kernels between the
passes. Nothing waits for the device, and all memory comes from PyTorch's allocator: calls can be captured in CUDA graphs once a
first one has compiled the kernels.
"""

import functools
import subprocess
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from triton.errors import TritonError

from augment import fused, ops, passes
from augment import triton_kernels as kernels
from augment.passes import Part, Pass
from augment.sampling import Params


@functools.cache
def check(device: torch.device) -> None:
    """Run a kernel on one pixel. Raises RuntimeError or OSError where Triton cannot build or launch kernels for the device."""
    nothing = fused.plan([ops.Normalize()])
    try:
        applied(nothing, torch.float32)(torch.zeros(1, 3, 1, 1, dtype=torch.float32, device=device), [{}])
    except (subprocess.SubprocessError, TritonError) as error:  # of its C compiler, of its own
        raise RuntimeError(str(error)) from error


_NAMED: dict[str, Pass] = {}
"""Passes by name: an op's arguments are tensors and plain values."""


def applied(plan: fused.Plan, dtype: torch.dtype) -> fused.Applied:
    """``Plan.apply`` by Triton's kernels; the result is ``dtype`` in memory of its own where the last op is a pass.

    Images are [B, 3, H, W] uint8 or float in any memory layout; they are not changed.
    """
    found = passes.passes(plan.ops, is_rounded=dtype == torch.uint8)
    steps = [_pass(each) if isinstance(each, Pass) else _stage(each) for each in found]

    def apply(images: Tensor, params: Sequence[Params]) -> Tensor:
        for step in steps[:-1]:
            images = step(images, params, torch.float32)
        for step in steps[-1:]:
            images = step(images, params, dtype)
        return images

    return apply


Step = Callable[[Tensor, Sequence[Params], torch.dtype], Tensor]


def _pass(one: Pass) -> Step:
    name = repr(one)
    _NAMED[name] = one
    needed = one.parameters()

    def step(images: Tensor, params: Sequence[Params], dtype: torch.dtype) -> Tensor:
        return image_pass(images, [params[index][key] for index, key in needed], name, dtype)

    return step


def _stage(part: Part) -> Step:
    alone = fused.plan([part.op])
    return lambda images, params, dtype: alone.apply(images, [params[part.index]])


@torch.library.custom_op("augment::image_pass", mutates_args=())
def image_pass(images: Tensor, params: Sequence[Tensor], name: str, dtype: torch.dtype) -> Tensor:
    """One pass over [B, 3, H, W] images: a new contiguous tensor of ``dtype``. ``name`` is the ``repr`` of a known ``Pass``."""
    one = _NAMED[name]
    batch, _, height, width = images.shape
    out = images.new_empty((batch, 3, *one.output_size(height, width)), dtype=dtype)
    if batch:
        with torch.cuda.device_of(images):  # Triton launches on the current device
            _launch(one, images, [each.contiguous() for each in params], out)
    return out


@image_pass.register_fake
def _(images: Tensor, params: Sequence[Tensor], name: str, dtype: torch.dtype) -> Tensor:
    batch, _, height, width = images.shape
    return images.new_empty((batch, 3, *_NAMED[name].output_size(height, width)), dtype=dtype)


def _launch(one: Pass, images: Tensor, params: Sequence[Tensor], out: Tensor) -> None:
    batch, _, height, width = images.shape
    encoded = passes.encode(one, height, width)
    pixels = encoded.sizes[4] * encoded.sizes[5]
    whole = pixels <= kernels.WHOLE and encoded.measured > 0
    tile = kernels.tile(pixels, whole)
    pointers = tuple(params) or (images,)
    white = 255 if images.dtype == torch.uint8 else 1
    common = {
        "sizes": encoded.sizes, "moves": encoded.moves, "steps": encoded.steps, "count": encoded.measured, "white": white,
        "is_exact": encoded.is_exact, "tile": tile, "num_warps": min(max(tile // 128, 1), 8),
        "enable_fp_fusion": not encoded.is_exact,
    }  # fmt: skip
    measured = out  # not looked at
    if encoded.measured and not whole:
        measured = images.new_empty((batch, encoded.measured), dtype=torch.float32)
        kernels.image_measures[(batch,)](images, measured, pointers, images.stride(), batch, **common)
    kernels.image_pass[(batch, -(-pixels // tile))](
        images, out, measured, pointers, images.stride(), out.stride(), batch,
        whole=whole, to_bytes=out.dtype == torch.uint8, **common,
    )  # fmt: skip
