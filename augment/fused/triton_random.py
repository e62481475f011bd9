"""Random numbers on CUDA by a counter: number n of image i follows from a generator's seed and offset, whoever computes it.

The state is that of the PyTorch generator that was given or is global, which advances as if PyTorch had drawn, so that seeds,
generators and checkpoints mean what users expect.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
import functools
import math
import threading
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from augment import distributions
from augment.distributions import NoiseField, Source
from augment.fused.launches import Prepared, keep

NOISE_BLOCK = 512
"""Pixels whose noise a program draws."""

UNIT = tl.constexpr(2.0**-24)
SMALLEST = tl.constexpr(distributions.SMALLEST)
TURN = tl.constexpr(2 * math.pi)


class Key(NamedTuple):
    """State of a counter-based generator: a seed, and a block, the offset in fours.

    A negative block is that of a captured graph: each replay finds the seed and an offset in ``keys``, int64 [1], and counts
    ``-1 - block`` from that offset.
    """

    keys: tuple[Tensor, Tensor]
    seed: int
    block: int


@functools.cache
def no_keys(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return memory that stands for the keys of a key without any, zeros."""
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    return zero, zero


def take_key(count: int, generator: torch.Generator | None, device: torch.device) -> Key:
    """Return the state of a generator, the device's own if None, and advance it by ``count`` numbers an image.

    On a CPU, whose generators have no offset, PyTorch draws a seed instead; so does a captured call of PyTorch 2.11, whose
    generators have no ``philox_state``.
    """
    if device.type != "cuda":
        return Key(no_keys(device), int(torch.randint(2**63 - 1, (), generator=generator).item()), 0)
    if generator is None:
        generator = torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
    if not torch.cuda.is_current_stream_capturing():
        return advance(count, generator, device)
    if hasattr(generator, "philox_state"):
        seed, offset, in_graph = generator.philox_state(count)
        return Key((seed, offset), 0, -1 - int(in_graph) // 4)
    return Key((torch.randint(2**63 - 1, (1,), device=device, generator=generator), no_keys(device)[1]), 0, -1)


_ADVANCING = threading.Lock()
"""Held while a generator moves: threads that share it draw numbers of their own."""


def advance(count: int, generator: torch.Generator, device: torch.device) -> Key:
    """Return the state of a CUDA generator and move it past ``count`` numbers, in fours as PyTorch counts."""
    with _ADVANCING:
        seed, offset = generator.initial_seed(), generator.get_offset()
        generator.set_offset(offset + -(-count // 4) * 4)
    return Key(no_keys(device), seed if seed < 2**63 else seed - 2**64, offset // 4)


def draw_noise(source: Source, key: Any, noise: NoiseField, block: int) -> Tensor:
    """Return the noise of a batch from a key, float32 [B, 3, height, width]."""
    pixels = noise.height * noise.width
    result = torch.empty((source.batch, 3, noise.height, noise.width), dtype=torch.float32, device=source.device)
    tile = triton.next_power_of_2(max(NOISE_BLOCK, pixels // 2**15))  # a grid has at most 2**16 tiles
    grid = (source.batch, triton.cdiv(pixels, tile), 1)
    if source.batch:
        constants = {"first": block, "sigma": noise.sigma, "pixels": pixels, "tile": tile}
        name = (grid, *constants.values(), source.device)
        launch = _LAUNCHES.get(name) or keep(_LAUNCHES, name, Prepared(noises, grid, constants, enable_fp_fusion=False))
        launch(source.device, key.keys, result, key.seed, key.block)
    return result


_LAUNCHES: dict[Any, Prepared] = {}


# ---- kernels ----------------------------------------------------------------------------------------------------------


@triton.jit
def key_of(keys, seed, block):
    """Return the seed and block of a ``Key``; only programs of a captured graph read memory."""
    captured = block < 0
    offset = tl.load(keys[1], mask=captured, other=0).to(tl.uint64, bitcast=True)
    return tl.load(keys[0], mask=captured, other=seed), tl.where(captured, -1 - block, block) + (offset >> 2).to(tl.int64)


@triton.jit
def philox(seed, image, counter):
    """Return four numbers by Philox4x32-10 as cuRAND counts: an image is a subsequence, ``counter`` an offset in fours."""
    return tl.philox(
        seed, counter.to(tl.uint32), (counter >> 32).to(tl.uint32), image.to(tl.uint32), (image >> 32).to(tl.uint32)
    )


@triton.jit
def philox_unit(seed, block, image, row):
    """Return number ``row`` of an image, a multiple of 2**-24 in [0, 1); ``block`` is a generator's offset in fours."""
    row = row + image * 0
    a, b, c, d = philox(seed, row * 0 + image, block + row // 4)
    bits = tl.where(row % 4 == 0, a, tl.where(row % 4 == 1, b, tl.where(row % 4 == 2, c, d)))
    return (bits >> 8).to(tl.float32) * UNIT


@triton.jit
def log_unit(number):
    return tl.log(tl.maximum(number, SMALLEST))


@triton.jit
def normals(seed, block, image, index, sigma: tl.constexpr):
    """Return three numbers of a pixel, normal of mean 0 and deviation ``sigma``, by Box and Muller's method."""
    a, b, c, d = philox(seed, index.to(tl.int64) * 0 + image, block + index)
    first, second = polar(a, sigma), polar(c, sigma)
    angle = (b >> 8).to(tl.float32) * (UNIT * TURN)
    return first * tl.cos(angle), first * tl.sin(angle), second * tl.cos((d >> 8).to(tl.float32) * (UNIT * TURN))


@triton.jit
def polar(bits, sigma: tl.constexpr):
    return tl.sqrt_rn(-2 * log_unit((bits >> 8).to(tl.float32) * UNIT)) * sigma


@triton.jit(do_not_specialize=["seed", "block"])
def noises(
    keys, out, seed: "i64", block: "i64",  # type: ignore[name-defined]  # noqa: F821
    first: tl.constexpr, sigma: tl.constexpr, pixels: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """Program (image, tile): noise of a tile of pixels."""
    seed, block = key_of(keys, seed, block)
    image, index = tl.program_id(0).to(tl.int64), tl.program_id(1) * tile + tl.arange(0, tile)
    red, green, blue = normals(seed, block + first, image, index, sigma)
    place = out + image * (3 * pixels) + index
    tl.store(place, red, mask=index < pixels)
    tl.store(place + pixels, green, mask=index < pixels)
    tl.store(place + 2 * pixels, blue, mask=index < pixels)
