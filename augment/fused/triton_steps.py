"""A pass's changes of values in Triton, and the statistics of the whole image that they need first.

Arguments with a type are constants that a kernel is compiled for: tuples of records (``fused.passes``).
"""

# ruff: noqa: SIM102
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
import triton
import triton.language as tl

from augment.fused.kinds import CHANGES, POINTS
from augment.fused.passes import MEASURES
from augment.fused.triton_geometry import drawn_point, sample, within
from augment.fused.triton_points import (
    FIRST_LEVEL,
    bins_of,
    change,
    first,
    get,
    grey,
    levels_of,
    pixels_of,
    ranges,
    size,
    step,
    unit,
)
from augment.fused.triton_random import normals

PLAIN = sum(1 << index for index, name in enumerate(POINTS) if name not in MEASURES)
JITTER, ERASE, NORMALIZE, NOISE = (tl.constexpr(CHANGES.index(name)) for name in ("jitter", "erase", "normalize", "noise"))
CONTRAST, AUTOCONTRAST, EQUALIZE = (tl.constexpr(POINTS.index(name)) for name in ("contrast", "autocontrast", "equalize"))
ROUND = tl.constexpr(1.5 * 2**23)


@triton.constexpr_function
def plain(points: int) -> int:
    """Return the bits of point ops that measure nothing."""
    return points & PLAIN


@triton.jit
def scaled(red, green, blue, record: tl.constexpr, white: tl.constexpr):
    """Scale to white 1."""
    if white == 1:
        return red, green, blue
    else:
        return scaled_byte(red, record), scaled_byte(green, record), scaled_byte(blue, record)


@triton.jit
def scaled_byte(value, record: tl.constexpr):
    """Return value / 255, rounded as PyTorch's quotient of whole numbers if the last bit matters: 257 * value is exact."""
    if get(record, "is_exact"):
        return value * (257 / 65536) + value * (1 / (255 * 65536))
    else:
        return value * (1 / 255)


@triton.jit
def do_step(
    draws, image, turn, index, red, green, blue, mask, measured,
    record: tl.constexpr, n: tl.constexpr, whole: tl.constexpr,
):  # fmt: skip
    """Return values after step n."""
    if step(record, n, "change") == ERASE:
        y, x = index // size(record, "out_width"), index % size(record, "out_width")
        hidden = within(draws, image, y, x, record, n)
        value = step(record, n, "value")
        red, green, blue = tl.where(hidden, value, red), tl.where(hidden, value, green), tl.where(hidden, value, blue)
    elif step(record, n, "change") == NORMALIZE:
        red = red * step(record, n, "gain", 0) + step(record, n, "bias", 0)
        green = green * step(record, n, "gain", 1) + step(record, n, "bias", 1)
        blue = blue * step(record, n, "gain", 2) + step(record, n, "bias", 2)
    elif step(record, n, "change") == NOISE:
        noise_r, noise_g, noise_b = noise_of(draws[first(record, n)], image, index, mask, record, n)
        red, green, blue = unit(red + noise_r), unit(green + noise_g), unit(blue + noise_b)
    elif step(record, n, "change") == JITTER:
        for place in range(4):
            point, strength = drawn_point(draws, image, place, record, n)
            red, green, blue = change(
                point, strength, red, green, blue, mask, measured, step(record, n, "points"), record, whole
            )  # fmt: skip
    else:
        point, strength = drawn_point(draws, image, turn, record, n)
        red, green, blue = change(
            point, strength, red, green, blue, mask, measured, step(record, n, "points"), record, whole
        )  # fmt: skip
    return red, green, blue


@triton.jit
def noise_of(source, image, index, mask, record: tl.constexpr, n: tl.constexpr):
    """Return the noise of pixels, loaded, or drawn if ``source`` is the state of a generator."""
    if isinstance(source, tl.tensor):
        noise = source + image * (3 * pixels_of(record)) + index
        return (
            tl.load(noise, mask=mask, other=0.0),
            tl.load(noise + pixels_of(record), mask=mask, other=0.0),
            tl.load(noise + 2 * pixels_of(record), mask=mask, other=0.0),
        )
    else:
        return normals(source[0], source[1], source[2], index, step(record, n, "value"))


@triton.jit
def store(target, strides, index, width: tl.constexpr, red, green, blue, mask, to_bytes: tl.constexpr):
    store_at(target, strides, index // width, index % width, red, green, blue, mask, to_bytes)


@triton.jit
def store_at(target, strides, y, x, red, green, blue, mask, to_bytes: tl.constexpr):
    if to_bytes:
        # Adding 1.5 * 2**23 leaves no bits for a fraction: rounds half to even, as torch.round does.
        red = (unit(red) * 255 + ROUND) - ROUND
        green = (unit(green) * 255 + ROUND) - ROUND
        blue = (unit(blue) * 255 + ROUND) - ROUND
    place = target + y * strides[2] + x * strides[3]
    tl.store(place, red.to(target.dtype.element_ty), mask=mask)
    tl.store(place + strides[1], green.to(target.dtype.element_ty), mask=mask)
    tl.store(place + 2 * strides[1], blue.to(target.dtype.element_ty), mask=mask)


# ---- statistics of a whole image --------------------------------------------------------------------------------------


@triton.jit
def measuring_point(draws, image, turn, record: tl.constexpr, n: tl.constexpr):
    """Return the point op in step n for which this image is measured, 0 if it is not."""
    if step(record, n, "change") == JITTER:
        return image * 0 + CONTRAST
    else:
        point, _ = drawn_point(draws, image, turn, record, n)
        return tl.where((point == CONTRAST) | (point == AUTOCONTRAST) | (point == EQUALIZE), point, 0)


@triton.jit
def before_contrast(draws, image, red, green, blue, mask, row, record: tl.constexpr, n: tl.constexpr):
    """Return values after those ops of a jitter, step n, that this image goes through before its contrast."""
    before = 1
    for place in range(4):
        point, strength = drawn_point(draws, image, place, record, n)
        before = tl.where(point == CONTRAST, 0, before)
        if before == 1:
            red, green, blue = change(
                point, strength, red, green, blue, mask, row, plain(step(record, n, "points")), record, False
            )  # fmt: skip
    return red, green, blue


@triton.jit
def measure(
    source, strides, row, draws, image, partner, turn, chunk, chunks,
    record: tl.constexpr, white: tl.constexpr, tile: tl.constexpr, is_part: tl.constexpr,
):  # fmt: skip
    """Measure an image for step ``at`` if that needs it: tiles ``chunk``, ``chunk + chunks`` and so on.

    ``row`` float32 [count]: mean of grey, least and greatest of each channel, and from ``FIRST_LEVEL`` on the values of levels;
    if ``is_part`` shares of the mean and counts of levels, which ``merge`` adds.
    """
    point = measuring_point(draws, image, turn, record, get(record, "at"))
    total, low_r, low_g, low_b, high_r, high_g, high_b = nothing_measured()
    counts_r, counts_g, counts_b = no_counts()
    for start in range(chunk * tile, tl.where(point > 0, pixels_of(record), 0), chunks * tile):
        index = start + tl.arange(0, tile)
        mask = index < pixels_of(record)
        red, green, blue = sample(source, strides, draws, image, partner, turn, index, mask, record, white, True)
        red, green, blue = scaled(red, green, blue, record, white)
        for n in tl.static_range(1, get(record, "at")):
            red, green, blue = do_step(draws, image, turn, index, red, green, blue, mask, row, record, n, False)
        if step(record, get(record, "at"), "change") == JITTER:
            red, green, blue = before_contrast(draws, image, red, green, blue, mask, row, record, get(record, "at"))
        if point == CONTRAST:
            total += tl.sum(tl.where(mask, grey(red, green, blue), 0.0), 0)
        if point == AUTOCONTRAST:
            low, high = ranges(red, green, blue, mask)
            low_r, low_g, low_b = tl.minimum(low_r, low[0]), tl.minimum(low_g, low[1]), tl.minimum(low_b, low[2])
            high_r, high_g, high_b = tl.maximum(high_r, high[0]), tl.maximum(high_g, high[1]), tl.maximum(high_b, high[2])
        if get(record, "measured") > FIRST_LEVEL:
            if point == EQUALIZE:
                counts_r += tl.histogram(bins_of(red), 256, mask)
                counts_g += tl.histogram(bins_of(green), 256, mask)
                counts_b += tl.histogram(bins_of(blue), 256, mask)
    put_ranges(row, (total / pixels_of(record), low_r, low_g, low_b, high_r, high_g, high_b))
    if get(record, "measured") > FIRST_LEVEL:
        if point == EQUALIZE:
            put_levels(row, counts_r, counts_g, counts_b, is_part)


@triton.jit
def merge(parts, row, draws, image, chunks, record: tl.constexpr):
    """Merge what the programs of ``measure`` found of an image, ``parts`` [chunks, count], into ``row``."""
    point = measuring_point(draws, image, 0, record, get(record, "at"))
    total, low_r, low_g, low_b, high_r, high_g, high_b = nothing_measured()
    counts_r, counts_g, counts_b = no_counts()
    level = FIRST_LEVEL + tl.arange(0, 256)
    for chunk in range(0, tl.where(point > 0, chunks, 0)):
        part = parts + chunk * get(record, "measured")
        total += tl.load(part)
        low_r, high_r = tl.minimum(low_r, tl.load(part + 1)), tl.maximum(high_r, tl.load(part + 4))
        low_g, high_g = tl.minimum(low_g, tl.load(part + 2)), tl.maximum(high_g, tl.load(part + 5))
        low_b, high_b = tl.minimum(low_b, tl.load(part + 3)), tl.maximum(high_b, tl.load(part + 6))
        if get(record, "measured") > FIRST_LEVEL:
            if point == EQUALIZE:
                counts_r += tl.load(part + level).to(tl.int32, bitcast=True)
                counts_g += tl.load(part + level + 256).to(tl.int32, bitcast=True)
                counts_b += tl.load(part + level + 512).to(tl.int32, bitcast=True)
    put_ranges(row, (total, low_r, low_g, low_b, high_r, high_g, high_b))
    if get(record, "measured") > FIRST_LEVEL:
        if point == EQUALIZE:
            put_levels(row, counts_r, counts_g, counts_b, False)


@triton.jit
def nothing_measured():
    """Return a mean, and least and greatest values of channels, which lie in [0, 1], before anything is measured."""
    return 0.0, 2.0, 2.0, 2.0, -1.0, -1.0, -1.0


@triton.jit
def no_counts():
    return tl.zeros((256,), tl.int32), tl.zeros((256,), tl.int32), tl.zeros((256,), tl.int32)


@triton.jit
def put_ranges(row, numbers):
    for k in tl.static_range(len(numbers)):
        tl.store(row + k, numbers[k])


@triton.jit
def put_levels(row, counts_r, counts_g, counts_b, is_part: tl.constexpr):
    put_level(row + FIRST_LEVEL, counts_r, is_part)
    put_level(row + (FIRST_LEVEL + 256), counts_g, is_part)
    put_level(row + (FIRST_LEVEL + 512), counts_b, is_part)


@triton.jit
def put_level(place, counts, is_part: tl.constexpr):
    """Store a channel's counts, as bits of floats, or the values of its levels."""
    if is_part:
        tl.store(place + tl.arange(0, 256), counts.to(tl.float32, bitcast=True))
    else:
        tl.store(place + tl.arange(0, 256), levels_of(counts))
