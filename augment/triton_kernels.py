"""One pass of ``augment.passes`` as a Triton kernel: a program does a tile of one image, each image going its own way.

What a pass does is compiled into the kernel (``Encoded`` and the image's size); what was drawn is read by each program for its
image, so that images of a batch branch apart at no cost to one another and nothing depends on the size of the batch.

Launches: one a pass; one more, before it, where an image is larger than ``WHOLE`` pixels and an op needs its mean, range or
histogram, which otherwise stay in the program that holds the image. Of the recipes, without the draws: ``none``, ``flip``,
``crop_flip``, ``crop_flip_cutout``, ``mixup``, ``cutmix`` and ``imagenet`` 1; ``trivialaugment`` 1 (2 in larger images);
``d2l`` 2 (3); ``randaugment`` and ``autoaugment`` 2 (4); ``imagenet_eval`` 2; ``augmix`` 2, and its chains, which stay on
tensor kernels.

Arguments with a type are constants that a kernel is compiled for; Triton takes no other types, and gives constants conditions
of their own. ``augment.kernels`` and ``augment.geometry`` are what these kernels are tested against. Values are float32
throughout.
"""

# ruff: noqa: SIM102
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
import triton
import triton.language as tl

from augment.passes import DRAWS, MEASURING, WAYS
from augment.triton_places import drawn, sampled, within
from augment.triton_values import (
    AUTOCONTRAST,
    CONTRAST,
    EQUALIZE,
    FIRST_LEVEL,
    bins_of,
    changed,
    grey,
    levels_of,
    unit,
    widened,
)

WHOLE = 4096
"""Pixels of an image that one program can hold: what is needed of the whole image is then known without another launch."""

TILE = 1024
"""Pixels of a tile of larger images."""


def tile(pixels: int, whole: bool) -> int:
    """Pixels that a program does: all of them if ``whole``, else so many that tiles stay below 2**16, as GPUs demand."""
    return triton.next_power_of_2(pixels if whole else min(pixels, max(TILE, pixels // 2**15)))


ROUND = tl.constexpr(1.5 * 2**23)
PLAIN = sum(1 << index for index, way in enumerate(WAYS) if way not in MEASURING)
JITTER = tl.constexpr(DRAWS.index("jitter"))
ERASE = tl.constexpr(DRAWS.index("erase"))
NORMALIZE = tl.constexpr(DRAWS.index("normalize"))


@triton.constexpr_function
def simple(ways: int) -> int:
    """The bits of ways that need nothing of the whole image."""
    return ways & PLAIN


@triton.jit
def scaled(red, green, blue, white: tl.constexpr, is_exact: tl.constexpr):
    """To a scale where white is 1; by the division that PyTorch does, where the last bit matters."""
    if white == 1:
        return red, green, blue
    elif is_exact:
        return tl.div_rn(red, white * 1.0), tl.div_rn(green, white * 1.0), tl.div_rn(blue, white * 1.0)
    else:
        return red * (1 / white), green * (1 / white), blue * (1 / white)


@triton.jit
def stepped(
    draws,
    image,
    index,
    red,
    green,
    blue,
    mask,
    measured,
    steps: tl.constexpr,
    n: tl.constexpr,
    sizes: tl.constexpr,
    whole: tl.constexpr,
):
    """Values after record n."""
    if steps[n][0] == ERASE:
        hidden = within(draws, image, index // sizes[5], index % sizes[5], steps, n)
        red, green = tl.where(hidden, steps[n][6], red), tl.where(hidden, steps[n][6], green)
        blue = tl.where(hidden, steps[n][6], blue)
    elif steps[n][0] == NORMALIZE:
        red, green = red * steps[n][7] + steps[n][8], green * steps[n][9] + steps[n][10]
        blue = blue * steps[n][11] + steps[n][12]
    elif steps[n][0] == JITTER:
        for turn in range(4):
            way, strength = drawn(draws, image, turn, steps[n][0], steps, n)
            red, green, blue = changed(way, strength, red, green, blue, mask, measured, steps[n][2], sizes, whole)
    else:
        way, strength = drawn(draws, image, 0, steps[n][0], steps, n)
        red, green, blue = changed(way, strength, red, green, blue, mask, measured, steps[n][2], sizes, whole)
    return red, green, blue


@triton.jit(do_not_specialize=["batch"])
def image_pass(
    images, out, measured, draws, strides, out_strides, batch,
    sizes: tl.constexpr, moves: tl.constexpr, steps: tl.constexpr, count: tl.constexpr, white: tl.constexpr,
    is_exact: tl.constexpr, whole: tl.constexpr, to_bytes: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """Program (image, tile): a tile of pixels of one image's result."""
    image = tl.program_id(0).to(tl.int64)
    index = tl.program_id(1) * tile + tl.arange(0, tile)
    mask = index < sizes[4] * sizes[5]
    red, green, blue = sampled(images, strides, draws, image, batch, index, mask, moves, sizes, steps, white)
    red, green, blue = scaled(red, green, blue, white, is_exact)
    for n in tl.static_range(1, len(steps)):
        red, green, blue = stepped(
            draws, image, index, red, green, blue, mask, measured + image * count, steps, n, sizes, whole
        )
    if to_bytes:
        # Adding 1.5 * 2**23 leaves no bits for a fraction: rounds half to even, as torch.round does.
        red, green, blue = (
            (unit(red) * 255 + ROUND) - ROUND,
            (unit(green) * 255 + ROUND) - ROUND,
            (unit(blue) * 255 + ROUND) - ROUND,
        )
    place = out + image * out_strides[0] + index // sizes[5] * out_strides[2] + index % sizes[5] * out_strides[3]
    tl.store(place, red.to(out.dtype.element_ty), mask=mask)
    tl.store(place + out_strides[1], green.to(out.dtype.element_ty), mask=mask)
    tl.store(place + 2 * out_strides[1], blue.to(out.dtype.element_ty), mask=mask)


# ---- what is needed of a whole image ----------------------------------------------------------------------------------


@triton.jit
def measured_in(draws, image, steps: tl.constexpr, n: tl.constexpr):
    """The way in record n that needs the whole of this image, 0 if none does."""
    if steps[n][0] == ERASE or steps[n][0] == NORMALIZE:
        return image * 0
    elif steps[n][0] == JITTER:
        return image * 0 + CONTRAST
    else:
        way, _ = drawn(draws, image, 0, steps[n][0], steps, n)
        return tl.where((way == CONTRAST) | (way == AUTOCONTRAST) | (way == EQUALIZE), way, 0)


@triton.jit
def turn_until(
    found, before, draws, image, turn, red, green, blue, mask, steps: tl.constexpr, n: tl.constexpr, sizes: tl.constexpr
):
    """Values after one draw, as long as ``before`` says that the way to be measured is still to come."""
    way, strength = drawn(draws, image, turn, steps[n][0], steps, n)
    before = tl.where(way == found, 0, before)
    if before == 1:
        red, green, blue = changed(way, strength, red, green, blue, mask, draws[0], simple(steps[n][2]), sizes, False)
    return before, red, green, blue


@triton.jit
def stepped_until(
    found, before, draws, image, index, red, green, blue, mask, steps: tl.constexpr, n: tl.constexpr, sizes: tl.constexpr
):
    if steps[n][0] == ERASE or steps[n][0] == NORMALIZE:
        if before == 1:
            red, green, blue = stepped(draws, image, index, red, green, blue, mask, draws[0], steps, n, sizes, False)
    elif steps[n][0] == JITTER:
        for turn in range(4):
            before, red, green, blue = turn_until(found, before, draws, image, turn, red, green, blue, mask, steps, n, sizes)
    else:
        before, red, green, blue = turn_until(found, before, draws, image, 0, red, green, blue, mask, steps, n, sizes)
    return before, red, green, blue


@triton.jit(do_not_specialize=["batch"])
def image_measures(
    images, measured, draws, strides, batch,
    sizes: tl.constexpr, moves: tl.constexpr, steps: tl.constexpr, count: tl.constexpr, white: tl.constexpr,
    is_exact: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """Program (image): what is needed of one image, as far as it needs something, tile after tile.

    ``measured`` float32 [B, count]: mean of grey, least and greatest of each channel, and from ``FIRST_LEVEL`` on what levels
    become.
    """
    image = tl.program_id(0).to(tl.int64)
    found = image * 0
    for n in tl.static_range(1, len(steps)):
        found = tl.maximum(found, measured_in(draws, image, steps, n))
    total = 0.0
    low_r, low_g, low_b, high_r, high_g, high_b = 2.0, 2.0, 2.0, -1.0, -1.0, -1.0  # values are in [0, 1]
    counts_r = tl.zeros((256,), tl.int32)
    counts_g = tl.zeros((256,), tl.int32)
    counts_b = tl.zeros((256,), tl.int32)
    for start in range(0, tl.where(found > 0, sizes[4] * sizes[5], 0), tile):
        index = start + tl.arange(0, tile)
        mask = index < sizes[4] * sizes[5]
        red, green, blue = sampled(images, strides, draws, image, batch, index, mask, moves, sizes, steps, white)
        red, green, blue = scaled(red, green, blue, white, is_exact)
        before = tl.where(found > 0, 1, 0)
        for n in tl.static_range(1, len(steps)):
            before, red, green, blue = stepped_until(
                found, before, draws, image, index, red, green, blue, mask, steps, n, sizes
            )
        if found == CONTRAST:
            total += tl.sum(tl.where(mask, grey(red, green, blue), 0.0), 0)
        if found == AUTOCONTRAST:
            low_r, high_r = widened(low_r, high_r, red, mask)
            low_g, high_g = widened(low_g, high_g, green, mask)
            low_b, high_b = widened(low_b, high_b, blue, mask)
        if count > FIRST_LEVEL:
            if found == EQUALIZE:
                counts_r += tl.histogram(bins_of(red), 256, mask)
                counts_g += tl.histogram(bins_of(green), 256, mask)
                counts_b += tl.histogram(bins_of(blue), 256, mask)
    row = measured + image * count
    tl.store(row, total / (sizes[4] * sizes[5]))
    tl.store(row + 1, low_r)
    tl.store(row + 2, low_g)
    tl.store(row + 3, low_b)
    tl.store(row + 4, high_r)
    tl.store(row + 5, high_g)
    tl.store(row + 6, high_b)
    if count > FIRST_LEVEL:
        if found == EQUALIZE:
            levels = row + FIRST_LEVEL + tl.arange(0, 256)
            tl.store(levels, levels_of(counts_r))
            tl.store(levels + 256, levels_of(counts_g))
            tl.store(levels + 512, levels_of(counts_b))
