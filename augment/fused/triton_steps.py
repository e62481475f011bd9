"""A pass's changes of values one after the other, in Triton, and what they need of the whole image before they can start.

Arguments with a type are constants that a kernel is compiled for (see ``augment.passes.Encoded``); Triton takes no other types.
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

PLAIN = sum(1 << index for index, way in enumerate(WAYS) if way not in MEASURING)
JITTER = tl.constexpr(DRAWS.index("jitter"))
ERASE = tl.constexpr(DRAWS.index("erase"))
NORMALIZE = tl.constexpr(DRAWS.index("normalize"))
NOISE = tl.constexpr(DRAWS.index("noise"))


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
    draws, image, turn, index, red, green, blue, mask, measured,
    steps: tl.constexpr, n: tl.constexpr, sizes: tl.constexpr, whole: tl.constexpr,
):  # fmt: skip
    """Values after record n."""
    if steps[n][0] == ERASE:
        hidden = within(draws, image, index // sizes[5], index % sizes[5], steps, n)
        red, green = tl.where(hidden, steps[n][6], red), tl.where(hidden, steps[n][6], green)
        blue = tl.where(hidden, steps[n][6], blue)
    elif steps[n][0] == NORMALIZE:
        red, green = red * steps[n][7] + steps[n][8], green * steps[n][9] + steps[n][10]
        blue = blue * steps[n][11] + steps[n][12]
    elif steps[n][0] == NOISE:
        noise = draws[steps[n][1]] + image * (3 * sizes[4] * sizes[5]) + index
        red = unit(red + tl.load(noise, mask=mask, other=0.0))
        green = unit(green + tl.load(noise + sizes[4] * sizes[5], mask=mask, other=0.0))
        blue = unit(blue + tl.load(noise + 2 * sizes[4] * sizes[5], mask=mask, other=0.0))
    elif steps[n][0] == JITTER:
        for each in range(4):
            way, strength = drawn(draws, image, each, steps[n][0], steps, n)
            red, green, blue = changed(way, strength, red, green, blue, mask, measured, steps[n][2], sizes, whole)
    else:
        way, strength = drawn(draws, image, turn, steps[n][0], steps, n)
        red, green, blue = changed(way, strength, red, green, blue, mask, measured, steps[n][2], sizes, whole)
    return red, green, blue


# ---- what is needed of a whole image ----------------------------------------------------------------------------------


@triton.jit
def needed(draws, image, turn, steps: tl.constexpr, n: tl.constexpr):
    """The way in record n for which the whole of this image is needed, 0 if it is not."""
    if steps[n][0] == JITTER:
        return image * 0 + CONTRAST
    else:
        way, _ = drawn(draws, image, turn, steps[n][0], steps, n)
        return tl.where((way == CONTRAST) | (way == AUTOCONTRAST) | (way == EQUALIZE), way, 0)


@triton.jit
def before_contrast(draws, image, red, green, blue, mask, steps: tl.constexpr, n: tl.constexpr, sizes: tl.constexpr):
    """Values after those turns of a ColorJitter, record n, that this image takes before its contrast."""
    before = 1
    for each in range(4):
        way, strength = drawn(draws, image, each, steps[n][0], steps, n)
        before = tl.where(way == CONTRAST, 0, before)
        if before == 1:
            red, green, blue = changed(way, strength, red, green, blue, mask, draws[0], simple(steps[n][2]), sizes, False)
    return red, green, blue


@triton.jit
def measure(
    source, strides, row, draws, image, batch, turn,
    sizes: tl.constexpr, moves: tl.constexpr, steps: tl.constexpr, count: tl.constexpr, at: tl.constexpr,
    white: tl.constexpr, is_exact: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """What record ``at`` needs of one image, as far as it needs something, tile after tile.

    ``row`` float32 [count]: mean of grey, least and greatest of each channel, and from ``FIRST_LEVEL`` on what levels become.
    """
    found = needed(draws, image, turn, steps, at)
    total = 0.0
    low_r, low_g, low_b, high_r, high_g, high_b = 2.0, 2.0, 2.0, -1.0, -1.0, -1.0  # values are in [0, 1]
    counts_r = tl.zeros((256,), tl.int32)
    counts_g = tl.zeros((256,), tl.int32)
    counts_b = tl.zeros((256,), tl.int32)
    for start in range(0, tl.where(found > 0, sizes[4] * sizes[5], 0), tile):
        index = start + tl.arange(0, tile)
        mask = index < sizes[4] * sizes[5]
        red, green, blue = sampled(source, strides, draws, image, batch, turn, index, mask, moves, sizes, steps, white, True)
        red, green, blue = scaled(red, green, blue, white, is_exact)
        for n in tl.static_range(1, at):
            red, green, blue = stepped(draws, image, turn, index, red, green, blue, mask, draws[0], steps, n, sizes, False)
        if steps[at][0] == JITTER:
            red, green, blue = before_contrast(draws, image, red, green, blue, mask, steps, at, sizes)
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
