"""Point ops in Triton, for a tile of pixels of one image: the functions of ``fused.tensors`` by the same names.

A point op is one function: (red, green, blue, strength) -> (red, green, blue), float32; one that measures the whole image also
takes (mask, measured, record, whole). If ``whole``, the tile holds all of its image; else statistics were ``measured`` before,
tile after tile. ``change`` calls the function of the point op that an image drew.

Arguments with a type are constants that a kernel is compiled for; Triton takes no other types, and gives constants conditions
of their own. Records (``fused.passes``) reach kernels as plain tuples: ``get`` reads their fields by name.
"""

# ruff: noqa: SIM102, SIM108
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
import hashlib
import sys
from pathlib import Path

import triton
import triton.language as tl

from augment.fused.kinds import POINTS
from augment.fused.passes import MEASURES, STATISTICS, MoveRecord, PassRecord, Sizes, StepRecord
from augment.fused.tensors import LUMA, POINT_OPS

FIELDS = {name: place for record in (PassRecord, Sizes, MoveRecord, StepRecord) for place, name in enumerate(record._fields)}
"""Place of each field; names of fields differ between these records."""

LUMA_RED, LUMA_GREEN, LUMA_BLUE = (tl.constexpr(weight) for weight in LUMA)
FIRST_LEVEL = tl.constexpr(STATISTICS)
COUNT = tl.constexpr(len(POINTS))
POINTWISE = tuple(name in POINT_OPS and not POINT_OPS[name].is_local for name in POINTS)
"""Point ops that have a function here."""

# Triton's cache keys lack functions that are found by name: ``change`` refers to this.
SOURCE = tl.constexpr(hashlib.sha256(Path(__file__).read_bytes()).hexdigest())


@triton.constexpr_function
def get(value, *path):
    """Return an item of nested records as a constant; ``path`` are names of fields and places in tuples."""
    for item in path:
        value = value[FIELDS[item] if isinstance(item, str) else item]
    return value


@triton.constexpr_function
def size(record, name: str) -> int:
    """Return a field of a pass's sizes."""
    return get(record, "sizes", name)


@triton.constexpr_function
def pixels_of(record) -> int:
    """Return the number of pixels of a pass's result."""
    return size(record, "out_height") * size(record, "out_width")


@triton.constexpr_function
def step(record, n: int, *path):
    """Return a field of step n of a pass."""
    return get(record, "steps", n, *path)


@triton.constexpr_function
def first(record, n: int, k: int = 0) -> int:
    """Return the number of the k-th drawn tensor of step n of a pass."""
    return step(record, n, "first") + k


@triton.constexpr_function
def can(points: int, point: int) -> bool:
    """Return whether a bit of ``points`` stands for the point op."""
    return bool((points >> point) & 1)


@triton.constexpr_function
def can_change(points: int, point: int) -> bool:
    """Return whether a bit of ``points`` stands for the point op, and it has a function here."""
    return bool((points >> point) & 1) and POINTWISE[point]


@triton.constexpr_function
def measures(point: int) -> bool:
    """Return whether the point op measures the whole image."""
    return POINTS[point] in MEASURES


@triton.constexpr_function
def function(point: int):
    """Return the function of the point op."""
    return getattr(sys.modules[__name__], POINTS[point])


@triton.jit
def change(point, strength, red, green, blue, mask, measured, points: tl.constexpr, record: tl.constexpr, whole: tl.constexpr):
    """Return values of one image after the point op that it drew; only the ``points`` that can be are compiled."""
    tl.static_assert(SOURCE != "")
    for n in tl.static_range(COUNT):
        if can_change(points, n):
            if point == n:
                if measures(n):
                    red, green, blue = function(n)(red, green, blue, strength, mask, measured, record, whole)
                else:
                    red, green, blue = function(n)(red, green, blue, strength)
    return red, green, blue


@triton.jit
def unit(value):
    return tl.minimum(tl.maximum(value, 0.0), 1.0)


@triton.jit
def grey(red, green, blue):
    return red * LUMA_RED + green * LUMA_GREEN + blue * LUMA_BLUE


@triton.jit
def blend(red, green, blue, background, factor):
    faded = background * (1 - factor)
    return unit(red * factor + faded), unit(green * factor + faded), unit(blue * factor + faded)


@triton.jit
def hue(red, green, blue, strength):
    """Turn the hue; ``place`` on the wheel lies between -3 and 3 sixths, 0 is red, and each channel is a clamped distance."""
    low, high = tl.minimum(tl.minimum(red, green), blue), tl.maximum(tl.maximum(red, green), blue)
    chroma = high - low
    from_green = green == high
    difference = tl.where(from_green, blue - red, red - green)
    turns = tl.where(from_green, strength + 5 / 6, strength + 7 / 6)  # half a turn more, which floor takes away
    difference, turns = tl.where(red == high, green - blue, difference), tl.where(red == high, strength + 0.5, turns)
    turns += difference / (6 * chroma + 1e-30)
    place = (turns - tl.floor(turns)) * 6 - 3
    return (
        unit(2 - tl.abs(place)) * chroma + low,
        unit(tl.abs(place + 1) - 1) * chroma + low,
        unit(tl.abs(place - 1) - 1) * chroma + low,
    )


@triton.jit
def ranges(red, green, blue, mask):
    """Return least and greatest values of a tile's channels: two reductions, each behind barriers, not six."""
    values, mask = tl.join(tl.join(red, green), tl.join(blue, blue)), mask[:, None, None]
    low, high = tl.min(tl.where(mask, values, 2.0), 0), tl.max(tl.where(mask, values, -1.0), 0)
    return split_channels(low), split_channels(high)


@triton.jit
def split_channels(numbers):
    """Return the numbers of ``ranges`` apart."""
    first, blues = tl.split(numbers)
    red, green = tl.split(first)
    blue, _ = tl.split(blues)
    return red, green, blue


@triton.jit
def stretch_channel(value, low, high):
    """Stretch a channel to [0, 1]; a flat one stays."""
    return tl.where(high > low, unit((value - low) / tl.where(high > low, high - low, 1.0)), value)


@triton.jit
def bins_of(value):
    return tl.minimum(tl.maximum((value * 255.999).to(tl.int32), 0), 255)


@triton.jit
def levels_of(counts):
    """Return the value that each of 256 levels gets when a histogram is equalised."""
    below = tl.cumsum(counts, 0) - counts
    step = tl.max(tl.where(counts > 0, below, 0), 0) // 255
    levels = tl.minimum((below + step // 2) // tl.maximum(step, 1), 255)
    return tl.div_rn(tl.where(step == 0, tl.arange(0, 256), levels).to(tl.float32), 255.0)


@triton.jit
def equalize_channel(value, mask, levels, whole: tl.constexpr):
    bins = bins_of(value)
    if whole:
        result = tl.gather(levels_of(tl.histogram(bins, 256, mask)), bins, 0)
    else:
        result = tl.load(levels + bins)
    return result


# ---- point ops --------------------------------------------------------------------------------------------------------


@triton.jit
def brightness(red, green, blue, strength):
    return unit(red * strength), unit(green * strength), unit(blue * strength)


@triton.jit
def contrast(red, green, blue, strength, mask, measured, record: tl.constexpr, whole: tl.constexpr):
    if whole:
        mean = tl.sum(tl.where(mask, grey(red, green, blue), 0.0), 0) / pixels_of(record)
    else:
        mean = tl.load(measured)
    return blend(red, green, blue, mean, strength)


@triton.jit
def saturation(red, green, blue, strength):
    return blend(red, green, blue, grey(red, green, blue), strength)


@triton.jit
def grayscale(red, green, blue, strength):
    return blend(red, green, blue, grey(red, green, blue), strength * 0)


@triton.jit
def posterize(red, green, blue, strength):
    levels = (1 << strength.to(tl.int32)).to(tl.float32)
    return posterize_channel(red, levels), posterize_channel(green, levels), posterize_channel(blue, levels)


@triton.jit
def posterize_channel(value, levels):
    return tl.minimum(tl.maximum(tl.floor(value * levels), 0.0), levels - 1) / levels


@triton.jit
def solarize(red, green, blue, strength):
    red, green = tl.where(red >= strength, 1 - red, red), tl.where(green >= strength, 1 - green, green)
    return red, green, tl.where(blue >= strength, 1 - blue, blue)


@triton.jit
def invert(red, green, blue, strength):
    return 1 - red, 1 - green, 1 - blue


@triton.jit
def autocontrast(red, green, blue, strength, mask, measured, record: tl.constexpr, whole: tl.constexpr):
    if whole:
        low, high = ranges(red, green, blue, mask)
    else:
        low = tl.load(measured + 1), tl.load(measured + 2), tl.load(measured + 3)
        high = tl.load(measured + 4), tl.load(measured + 5), tl.load(measured + 6)
    red, green = stretch_channel(red, low[0], high[0]), stretch_channel(green, low[1], high[1])
    return red, green, stretch_channel(blue, low[2], high[2])


@triton.jit
def equalize(red, green, blue, strength, mask, measured, record: tl.constexpr, whole: tl.constexpr):
    red = equalize_channel(red, mask, measured + FIRST_LEVEL, whole)
    green = equalize_channel(green, mask, measured + (FIRST_LEVEL + 256), whole)
    return red, green, equalize_channel(blue, mask, measured + (FIRST_LEVEL + 512), whole)
