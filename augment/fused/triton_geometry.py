"""Where a pixel of a pass's result comes from, in Triton: whole-pixel moves, then at most one resampling.

Arguments with a type are constants that a kernel is compiled for (see ``augment.passes.Encoded``); Triton takes no other types.
``augment.geometry`` is what this is tested against.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
import math

import triton
import triton.language as tl

from augment.passes import DRAWS, MEASURING, MOVES, SAMPLERS, WAYS
from augment.triton_values import can

FLIP = tl.constexpr(MOVES.index("flip"))
CROP = tl.constexpr(MOVES.index("crop"))
WINDOW = tl.constexpr(SAMPLERS.index("window"))
RESIZE = tl.constexpr(SAMPLERS.index("resize"))
ROTATE = tl.constexpr(SAMPLERS.index("rotate"))
AFFINE = tl.constexpr(SAMPLERS.index("affine"))
CHOSEN = SAMPLERS.index("chosen")
MEASURED = sum(1 << WAYS.index(way) for way in MEASURING)
MIXUP = tl.constexpr(SAMPLERS.index("mixup"))
CUTMIX = tl.constexpr(SAMPLERS.index("cutmix"))
PERSPECTIVE = tl.constexpr(SAMPLERS.index("perspective"))
BLUR = tl.constexpr(SAMPLERS.index("blur"))
FACTOR = tl.constexpr(DRAWS.index("factor"))
APPLIED = tl.constexpr(DRAWS.index("applied"))
JITTER = tl.constexpr(DRAWS.index("jitter"))
WARP = tl.constexpr(WAYS.index("warp"))
BRIGHTNESS = tl.constexpr(WAYS.index("brightness"))
SHARPNESS = tl.constexpr(WAYS.index("sharpness"))
HUE = tl.constexpr(WAYS.index("hue"))
RADIANS = tl.constexpr(math.pi / 180)


# ---- whole pixels -----------------------------------------------------------------------------------------------------
# Along an axis, pixel p of a flipped and cropped image is pixel origin + direction * p of the image that it was made from.


@triton.jit
def moved_by(draws, image, origin, direction, axis: tl.constexpr, moves: tl.constexpr, n: tl.constexpr):
    if moves[n][0] == axis:
        if moves[n][1] == FLIP:
            turned = tl.load(draws[moves[n][2]] + image).to(tl.int32)
            origin += direction * turned * moves[n][3]
            direction *= 1 - 2 * turned
        elif moves[n][1] == CROP:
            origin += direction * (tl.load(draws[moves[n][2]] + image).to(tl.int32) + moves[n][3])
        else:
            origin += direction * moves[n][3]
    return origin, direction


@triton.jit
def along(draws, image, axis: tl.constexpr, moves: tl.constexpr):
    origin = (image * 0).to(tl.int32)
    direction = origin + 1
    for n in tl.static_range(len(moves)):
        origin, direction = moved_by(draws, image, origin, direction, axis, moves, n)
    return origin, direction


@triton.jit
def frame_of(images, strides, draws, image, moves: tl.constexpr):
    """Where an image's moved pixels lie: what ``pixel`` needs."""
    origin_y, direction_y = along(draws, image, 0, moves)
    origin_x, direction_x = along(draws, image, 1, moves)
    return images + image * strides[0], strides[1], strides[2], strides[3], origin_y, direction_y, origin_x, direction_x


@triton.jit
def pixel(frame, y, x, mask, sizes: tl.constexpr):
    """Red, green and blue of the moved image at whole places, on the scale of its dtype; black outside it."""
    start, stride_c, stride_y, stride_x, origin_y, direction_y, origin_x, direction_x = frame
    mask = mask & (y >= 0) & (y < sizes[2]) & (x >= 0) & (x < sizes[3])
    y, x = origin_y + direction_y * y, origin_x + direction_x * x
    mask = mask & (y >= 0) & (y < sizes[0]) & (x >= 0) & (x < sizes[1])
    place = start + y * stride_y + x * stride_x
    red = tl.load(place, mask=mask, other=0).to(tl.float32)
    green = tl.load(place + stride_c, mask=mask, other=0).to(tl.float32)
    blue = tl.load(place + 2 * stride_c, mask=mask, other=0).to(tl.float32)
    return red, green, blue


@triton.jit
def bilinear(frame, a, b, c, d, e, f, y, x, mask, sizes: tl.constexpr):
    """The moved image at [[a, b, c], [d, e, f]] times the place about its centre: ``geometry.warp``."""
    across, down = x - (sizes[3] - 1) / 2, y - (sizes[2] - 1) / 2
    source_x = a * across + b * down + c + (sizes[3] - 1) / 2
    source_y = d * across + e * down + f + (sizes[2] - 1) / 2
    return between(frame, source_y, source_x, mask, sizes)


@triton.jit
def between(frame, source_y, source_x, mask, sizes: tl.constexpr):
    """The moved image at places between its pixels."""
    # Far outside all is black; a float beyond int32 has no whole place.
    source_x = tl.minimum(tl.maximum(source_x, -2.0), sizes[3] + 1.0)
    source_y = tl.minimum(tl.maximum(source_y, -2.0), sizes[2] + 1.0)
    left, top = tl.floor(source_x), tl.floor(source_y)
    red, green, blue = tl.zeros_like(left), tl.zeros_like(left), tl.zeros_like(left)
    for corner in tl.static_range(4):
        right, below = corner % 2, corner // 2
        weight_x = tl.where(right == 1, source_x - left, 1 - (source_x - left))
        weight_y = tl.where(below == 1, source_y - top, 1 - (source_y - top))
        r, g, b = pixel(frame, top.to(tl.int32) + below, left.to(tl.int32) + right, mask, sizes)
        red, green, blue = red + r * weight_x * weight_y, green + g * weight_x * weight_y, blue + b * weight_x * weight_y
    return red, green, blue


@triton.jit
def determined(corners, sizes: tl.constexpr):
    """``geometry._quad_to_rectangle`` of eight whole numbers, in float64 as there."""
    x0, y0 = tl.load(corners).to(tl.float64), tl.load(corners + 1).to(tl.float64)
    x1, y1 = tl.load(corners + 2).to(tl.float64), tl.load(corners + 3).to(tl.float64)
    x2, y2 = tl.load(corners + 4).to(tl.float64), tl.load(corners + 5).to(tl.float64)
    x3, y3 = tl.load(corners + 6).to(tl.float64), tl.load(corners + 7).to(tl.float64)
    sum_x, sum_y = x0 - x1 + x2 - x3, y0 - y1 + y2 - y3
    dx1, dx2, dy1, dy2 = x1 - x2, x3 - x2, y1 - y2, y3 - y2
    det = dx1 * dy2 - dx2 * dy1
    safe = tl.where(det == 0, 1.0, det)
    g, h = (sum_x * dy2 - dx2 * sum_y) / safe, (dx1 * sum_y - sum_x * dy1) / safe
    a, b, d, e = x1 - x0 + g * x1, x3 - x0 + h * x3, y1 - y0 + g * y1, y3 - y0 + h * y3
    scale = a * e - b * d
    moves = (det != 0) & (scale != 0)
    wide, high = (sizes[3] - 1) / tl.where(moves, scale, 1.0), (sizes[2] - 1) / tl.where(moves, scale, 1.0)
    one = 1 / tl.where(moves, scale, 1.0)
    return (
        tl.where(moves, (e - y0 * h) * wide, 1.0).to(tl.float32),
        tl.where(moves, (x0 * h - b) * wide, 0.0).to(tl.float32),
        tl.where(moves, (b * y0 - x0 * e) * wide, 0.0).to(tl.float32),
        tl.where(moves, (y0 * g - d) * high, 0.0).to(tl.float32),
        tl.where(moves, (a - x0 * g) * high, 1.0).to(tl.float32),
        tl.where(moves, (x0 * d - a * y0) * high, 0.0).to(tl.float32),
        tl.where(moves, (d * h - e * g) * one, 0.0).to(tl.float32),
        tl.where(moves, (b * g - a * h) * one, 0.0).to(tl.float32),
    )


@triton.jit
def perspective_if(is_applied, corners, frame, y, x, mask, sizes: tl.constexpr):
    """``geometry.perspective``; at the pixels' centres, as there."""
    if is_applied:
        a, b, c, d, e, f, g, h = determined(corners, sizes)
        across, down = x + 0.5, y + 0.5
        below = g * across + h * down + 1
        source_x, source_y = (a * across + b * down + c) / below - 0.5, (d * across + e * down + f) / below - 0.5
        red, green, blue = between(frame, source_y, source_x, mask, sizes)
    else:
        red, green, blue = pixel(frame, y, x, mask, sizes)
    return red, green, blue


@triton.jit
def reflected(place, side: tl.constexpr):
    return side - 1 - tl.abs(side - 1 - tl.abs(place))


@triton.jit
def blurred(frame, sigma, y, x, mask, sizes: tl.constexpr, axis: tl.constexpr, count: tl.constexpr):
    """``kernels.gaussian_blur`` along one axis, by ``count`` pixels."""
    red, green, blue = tl.zeros_like(x).to(tl.float32), tl.zeros_like(x).to(tl.float32), tl.zeros_like(x).to(tl.float32)
    total = sigma * 0
    for k in range(count):
        away = k - count // 2
        weight = tl.exp(-(away / sigma) * (away / sigma) / 2)
        if axis == 0:
            r, g, b = pixel(frame, reflected(y + away, sizes[2]), x, mask, sizes)
        else:
            r, g, b = pixel(frame, y, reflected(x + away, sizes[3]), mask, sizes)
        red, green, blue, total = red + r * weight, green + g * weight, blue + b * weight, total + weight
    return red / total, green / total, blue / total


@triton.jit
def taps(length, place, size: tl.constexpr, antialias: tl.constexpr):
    """Of ``length`` pixels resized to ``size``: first neighbour, centre and reach for each place, and how many there are."""
    step = length / size
    reach = tl.maximum(step, 1.0) if antialias else step * 0 + 1.0
    centre = (place + 0.5) * step
    return tl.floor(centre - reach + 0.5), centre, reach, tl.ceil(2 * reach).to(tl.int32)


@triton.jit
def resized(frame, top, left, height, width, y, x, mask, sizes: tl.constexpr, antialias: tl.constexpr):
    """A window of the moved image, resized: ``geometry.resized_crop``, with as many neighbours as each image's window needs."""
    first_y, centre_y, reach_y, count_y = taps(height, y, sizes[4], antialias)
    first_x, centre_x, reach_x, count_x = taps(width, x, sizes[5], antialias)
    red, green, blue, total = first_x * 0, first_x * 0, first_x * 0, first_x * 0
    for i in range(count_y):
        place_y = first_y + i
        weight_y = tl.maximum(1 - tl.abs((place_y + 0.5 - centre_y) / reach_y), 0.0)
        weight_y = tl.where((place_y >= 0) & (place_y < height), weight_y, 0.0)
        for j in range(count_x):
            place_x = first_x + j
            weight = tl.maximum(1 - tl.abs((place_x + 0.5 - centre_x) / reach_x), 0.0)
            weight = tl.where((place_x >= 0) & (place_x < width), weight, 0.0) * weight_y
            near_y, near_x = (place_y + top).to(tl.int32), (place_x + left).to(tl.int32)
            r, g, b = pixel(frame, near_y, near_x, mask & (weight > 0), sizes)
            red, green, blue, total = red + r * weight, green + g * weight, blue + b * weight, total + weight
    total = tl.where(mask, total, 1.0)
    return red / total, green / total, blue / total


@triton.jit
def sharpened(frame, factor, y, x, mask, white, sizes: tl.constexpr):
    """``kernels.sharpness``; ``white`` is 1 on the images' scale."""
    red, green, blue = pixel(frame, y, x, mask, sizes)
    inner = mask & (y > 0) & (y < sizes[2] - 1) & (x > 0) & (x < sizes[3] - 1)
    smooth_r, smooth_g, smooth_b = 4 * red, 4 * green, 4 * blue
    for near in tl.static_range(9):
        r, g, b = pixel(frame, y + near // 3 - 1, x + near % 3 - 1, inner, sizes)
        smooth_r, smooth_g, smooth_b = smooth_r + r, smooth_g + g, smooth_b + b
    share = tl.where(inner, 1 - factor, 0.0)
    red = tl.minimum(tl.maximum(red + (smooth_r / 13 - red) * share, 0.0), white)
    green = tl.minimum(tl.maximum(green + (smooth_g / 13 - green) * share, 0.0), white)
    blue = tl.minimum(tl.maximum(blue + (smooth_b / 13 - blue) * share, 0.0), white)
    return red, green, blue


# ---- what was drawn for an image --------------------------------------------------------------------------------------


@triton.jit
def drawn(draws, image, turn, kind: tl.constexpr, steps: tl.constexpr, n: tl.constexpr):
    """The way of an image in record n, and its strength; ``turn`` counts the four of a ColorJitter, the ops of chains."""
    if kind == FACTOR:
        return image * 0 + steps[n][5], tl.load(draws[steps[n][1]] + image)
    elif kind == APPLIED:
        applied = tl.load(draws[steps[n][1]] + image).to(tl.int64)
        return applied * steps[n][5], applied.to(tl.float32) * 0 + steps[n][6]
    elif kind == JITTER:
        way = tl.load(draws[steps[n][1]] + image * 4 + turn)
        strength = tl.load(draws[steps[n][1] + 1] + image * 4 + way)
        # Numbered brightness, contrast, saturation, hue; ways have the first three in this order.
        return tl.where(way == 3, HUE, way + BRIGHTNESS), strength
    else:
        place = image * steps[n][4] + steps[n][3] + turn
        return tl.load(draws[steps[n][1]] + place), tl.load(draws[steps[n][1] + 1] + place * 6)


@triton.constexpr_function
def looks_around(sampler: int, ways: int, measuring: bool) -> bool:
    """Whether an image may have drawn a neighbourhood op: of a policy not where it drew one that needs the whole image."""
    return sampler == CHOSEN and not (measuring and ways & MEASURED)


@triton.jit
def sampled(
    images, strides, draws, image, batch, turn, index, mask,
    moves: tl.constexpr, sizes: tl.constexpr, steps: tl.constexpr, white: tl.constexpr, measuring: tl.constexpr,
):  # fmt: skip
    """Pixels ``index`` of the result before any change of values, on the scale of the images' dtype."""
    origin_y, direction_y = along(draws, image, 2, moves)
    origin_x, direction_x = along(draws, image, 3, moves)
    y, x = origin_y + direction_y * (index // sizes[5]), origin_x + direction_x * (index % sizes[5])
    frame = frame_of(images, strides, draws, image, moves)
    if steps[0][0] == WINDOW:
        top, left = number(draws, image, steps, 0), number(draws, image, steps, 1)
        height, width = number(draws, image, steps, 2), number(draws, image, steps, 3)
        return resized(frame, top, left, height, width, y, x, mask, sizes, steps[0][5])
    elif steps[0][0] == RESIZE:
        zero = (image * 0).to(tl.float32)
        return resized(frame, zero, zero, zero + sizes[2], zero + sizes[3], y, x, mask, sizes, steps[0][5])
    elif steps[0][0] == ROTATE:
        angle = number(draws, image, steps, 0) * RADIANS
        cos, sin = tl.cos(angle), tl.sin(angle)
        return bilinear(frame, cos, -sin, cos * 0, sin, cos, cos * 0, y, x, mask, sizes)
    elif steps[0][0] == AFFINE:
        a, b, c, d, e, f = affine(draws, image, steps)
        return bilinear(frame, a, b, c, d, e, f, y, x, mask, sizes)
    elif steps[0][0] == PERSPECTIVE:
        is_applied = tl.load(draws[steps[0][1]] + image)
        return perspective_if(is_applied, draws[steps[0][1] + 1] + image * 8, frame, y, x, mask, sizes)
    elif steps[0][0] == BLUR:
        return blurred(frame, number(draws, image, steps, 0), y, x, mask, sizes, steps[0][3], steps[0][5])
    elif looks_around(steps[0][0], steps[0][2], measuring):
        return chosen(frame, draws, image, turn, y, x, mask, sizes, steps, white)
    elif steps[0][0] == MIXUP or steps[0][0] == CUTMIX:
        partner = tl.where(image == 0, batch.to(tl.int64), image) - 1
        red, green, blue = pixel(frame, y, x, mask, sizes)
        other = frame_of(images, strides, draws, partner, moves)
        r, g, b = pixel(other, y, x, mask, sizes)
        if steps[0][0] == MIXUP:
            share = number(draws, image, steps, 0)
        else:
            share = 1.0 - within(draws, image, y, x, steps, 0).to(tl.float32)
        return red * share + r * (1 - share), green * share + g * (1 - share), blue * share + b * (1 - share)
    else:
        return pixel(frame, y, x, mask, sizes)


@triton.jit
def number(draws, image, steps: tl.constexpr, k: tl.constexpr):
    """What was drawn as the sampler's k-th parameter, as float."""
    return tl.load(draws[steps[0][1] + k] + image).to(tl.float32)


@triton.jit
def within(draws, image, y, x, steps: tl.constexpr, n: tl.constexpr):
    """Which places lie in the rectangle (top, left, height, width) of record n."""
    top, left = tl.load(draws[steps[n][1]] + image), tl.load(draws[steps[n][1] + 1] + image)
    height, width = tl.load(draws[steps[n][1] + 2] + image), tl.load(draws[steps[n][1] + 3] + image)
    return (y >= top) & (y < top + height) & (x >= left) & (x < left + width)


@triton.jit
def affine(draws, image, steps: tl.constexpr):
    """``geometry.affine`` of an image."""
    angle, shear = number(draws, image, steps, 0) * RADIANS, number(draws, image, steps, 4) * RADIANS
    cos, sin, tan = tl.cos(angle), tl.sin(angle), tl.sin(shear) / tl.cos(shear)
    shift_x, shift_y, scale = number(draws, image, steps, 1), number(draws, image, steps, 2), number(draws, image, steps, 3)
    a, b, c, d = (cos - sin * tan) / scale, (cos * tan + sin) / scale, -sin / scale, cos / scale
    return a, b, -(a * shift_x + b * shift_y), c, d, -(c * shift_x + d * shift_y)


@triton.jit
def warped_if(is_warp, frame, draws, image, turn, y, x, mask, sizes: tl.constexpr, steps: tl.constexpr):
    if is_warp:
        matrix = draws[steps[0][1] + 1] + (image * steps[0][4] + steps[0][3] + turn) * 6
        a, b, c = tl.load(matrix), tl.load(matrix + 1), tl.load(matrix + 2)
        d, e, f = tl.load(matrix + 3), tl.load(matrix + 4), tl.load(matrix + 5)
        red, green, blue = bilinear(frame, a, b, c, d, e, f, y, x, mask, sizes)
    else:
        red, green, blue = pixel(frame, y, x, mask, sizes)
    return red, green, blue


@triton.jit
def taken_or_warped(way, frame, draws, image, turn, y, x, mask, sizes: tl.constexpr, steps: tl.constexpr):
    if can(steps[0][2], WARP):
        return warped_if(way == WARP, frame, draws, image, turn, y, x, mask, sizes, steps)
    else:
        return pixel(frame, y, x, mask, sizes)


@triton.jit
def chosen(frame, draws, image, turn, y, x, mask, sizes: tl.constexpr, steps: tl.constexpr, white: tl.constexpr):
    """The neighbourhood op that an image drew, if it did."""
    way, strength = drawn(draws, image, turn, steps[0][7], steps, 0)
    if way == SHARPNESS:
        red, green, blue = sharpened(frame, strength, y, x, mask, white, sizes)
    else:
        red, green, blue = taken_or_warped(way, frame, draws, image, turn, y, x, mask, sizes, steps)
    return red, green, blue
