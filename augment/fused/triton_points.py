"""What happens to the values of an image in Triton, each image going its own way: ``augment.kernels`` for a tile of pixels.

Arguments with a type are constants that a kernel is compiled for (see ``augment.passes.Encoded``); Triton takes no other types,
and gives constants conditions of their own. Values are float32, a tensor for each of red, green and blue. Where ``whole``, a
tile holds all of its image; else what is needed of the whole image was ``measured`` before, tile after tile.
"""

# ruff: noqa: SIM102, SIM108
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
import triton
import triton.language as tl

from augment.kernels import LUMA
from augment.passes import STATISTICS, WAYS

BRIGHTNESS = tl.constexpr(WAYS.index("brightness"))
CONTRAST = tl.constexpr(WAYS.index("contrast"))
SATURATION = tl.constexpr(WAYS.index("saturation"))
POSTERIZE = tl.constexpr(WAYS.index("posterize"))
SOLARIZE = tl.constexpr(WAYS.index("solarize"))
AUTOCONTRAST = tl.constexpr(WAYS.index("autocontrast"))
EQUALIZE = tl.constexpr(WAYS.index("equalize"))
INVERT = tl.constexpr(WAYS.index("invert"))
HUE = tl.constexpr(WAYS.index("hue"))
GRAYSCALE = tl.constexpr(WAYS.index("grayscale"))
LUMA_RED, LUMA_GREEN, LUMA_BLUE = (tl.constexpr(each) for each in LUMA)
FIRST_LEVEL = tl.constexpr(STATISTICS)


@triton.constexpr_function
def can(ways: int, way: int) -> int:
    """Whether a bit of ``ways`` names the way."""
    return (ways >> way) & 1


@triton.jit
def unit(value):
    return tl.minimum(tl.maximum(value, 0.0), 1.0)


@triton.jit
def grey(red, green, blue):
    return red * LUMA_RED + green * LUMA_GREEN + blue * LUMA_BLUE


@triton.jit
def blend(red, green, blue, other, factor):
    rest = other * (1 - factor)
    return unit(red * factor + rest), unit(green * factor + rest), unit(blue * factor + rest)


@triton.jit
def hue_share(sixths, chroma, value, offset):
    turns = (sixths + offset) * (1 / 6)
    place = (turns - tl.floor(turns)) * 6
    return value - unit(2 - tl.abs(place - 2)) * chroma


@triton.jit
def turned_hue(red, green, blue, factor):
    """``kernels.hue``."""
    value = tl.maximum(tl.maximum(red, green), blue)
    chroma = value - tl.minimum(tl.minimum(red, green), blue)
    sixths = tl.where(green == value, blue - red + 2 * chroma, red - green + 4 * chroma)
    sixths = tl.where(red == value, green - blue, sixths) / tl.maximum(chroma, 1e-30) + factor * 6
    return (
        hue_share(sixths, chroma, value, 17.0),
        hue_share(sixths, chroma, value, 15.0),
        hue_share(sixths, chroma, value, 13.0),
    )


@triton.jit
def posterized(value, levels):
    return tl.minimum(tl.maximum(tl.floor(value * levels), 0.0), levels - 1) / levels


@triton.jit
def widened(low, high, value, mask):
    """A range that takes in a tile's values."""
    return tl.minimum(low, tl.min(tl.where(mask, value, 2.0), 0)), tl.maximum(high, tl.max(tl.where(mask, value, -1.0), 0))


@triton.jit
def stretched(value, low, high):
    """``kernels.autocontrast``; a flat channel stays."""
    return tl.where(high > low, unit((value - low) / tl.where(high > low, high - low, 1.0)), value)


@triton.jit
def bins_of(value):
    return tl.minimum(tl.maximum((value * 255.999).to(tl.int32), 0), 255)


@triton.jit
def levels_of(counts):
    """What each of 256 levels becomes when a histogram is equalised: ``kernels.equalize``."""
    below = tl.cumsum(counts, 0) - counts
    step = tl.max(tl.where(counts > 0, below, 0), 0) // 255
    levels = tl.minimum((below + step // 2) // tl.maximum(step, 1), 255)
    return tl.div_rn(tl.where(step == 0, tl.arange(0, 256), levels).to(tl.float32), 255.0)


@triton.jit
def equalized(value, mask, levels, whole: tl.constexpr):
    bins = bins_of(value)
    if whole:
        result = tl.gather(levels_of(tl.histogram(bins, 256, mask)), bins, 0)
    else:
        result = tl.load(levels + bins)
    return result


@triton.jit
def stretched_to_all(red, green, blue, mask, measured, whole: tl.constexpr):
    if whole:
        low_r, high_r = widened(2.0, -1.0, red, mask)
        low_g, high_g = widened(2.0, -1.0, green, mask)
        low_b, high_b = widened(2.0, -1.0, blue, mask)
    else:
        low_r, low_g, low_b = tl.load(measured + 1), tl.load(measured + 2), tl.load(measured + 3)
        high_r, high_g, high_b = tl.load(measured + 4), tl.load(measured + 5), tl.load(measured + 6)
    return stretched(red, low_r, high_r), stretched(green, low_g, high_g), stretched(blue, low_b, high_b)


@triton.jit
def changed(way, strength, red, green, blue, mask, measured, ways: tl.constexpr, sizes: tl.constexpr, whole: tl.constexpr):
    """Values of one image after the way that it drew; only the ``ways`` that can be are compiled."""
    if can(ways, BRIGHTNESS):
        if way == BRIGHTNESS:
            red, green, blue = unit(red * strength), unit(green * strength), unit(blue * strength)
    if can(ways, CONTRAST):
        if way == CONTRAST:
            if whole:
                mean = tl.sum(tl.where(mask, grey(red, green, blue), 0.0), 0) / (sizes[4] * sizes[5])
            else:
                mean = tl.load(measured)
            red, green, blue = blend(red, green, blue, mean, strength)
    if can(ways, SATURATION):
        if way == SATURATION:
            red, green, blue = blend(red, green, blue, grey(red, green, blue), strength)
    if can(ways, HUE):
        if way == HUE:
            red, green, blue = turned_hue(red, green, blue, strength)
    if can(ways, GRAYSCALE):
        if way == GRAYSCALE:
            red, green, blue = blend(red, green, blue, grey(red, green, blue), strength * 0)
    if can(ways, POSTERIZE):
        if way == POSTERIZE:
            levels = (1 << strength.to(tl.int32)).to(tl.float32)
            red, green, blue = posterized(red, levels), posterized(green, levels), posterized(blue, levels)
    if can(ways, SOLARIZE):
        if way == SOLARIZE:
            red, green = tl.where(red >= strength, 1 - red, red), tl.where(green >= strength, 1 - green, green)
            blue = tl.where(blue >= strength, 1 - blue, blue)
    if can(ways, AUTOCONTRAST):
        if way == AUTOCONTRAST:
            red, green, blue = stretched_to_all(red, green, blue, mask, measured, whole)
    if can(ways, EQUALIZE):
        if way == EQUALIZE:
            red = equalized(red, mask, measured + FIRST_LEVEL, whole)
            green = equalized(green, mask, measured + (FIRST_LEVEL + 256), whole)
            blue = equalized(blue, mask, measured + (FIRST_LEVEL + 512), whole)
    if can(ways, INVERT):
        if way == INVERT:
            red, green, blue = 1 - red, 1 - green, 1 - blue
    return red, green, blue
