"""Pixels of a pass's result before changes of values, in Triton: whole-pixel record, then at most one resampling.

Arguments with a type are constants that a kernel is compiled for: tuples of records (``fused.passes``). ``fused.geometry`` and
``fused.tensors`` define what is done here.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
import math

import triton
import triton.language as tl

from augment.fused.kinds import CHANGES, JITTER, MOVES, POINTS, SAMPLERS
from augment.fused.passes import MEASURES
from augment.fused.triton_points import FIELDS, can, first, get, pixels_of, size, step
from augment.policies import ARGUMENTS

FLIP, SHIFT = (tl.constexpr(MOVES.index(name)) for name in ("flip", "shift"))
REFLECT = MOVES.index("reflect")
ROTATE, AFFINE, PERSPECTIVE, BLUR, MIXUP, CUTMIX = (
    tl.constexpr(SAMPLERS.index(name)) for name in ("rotate", "affine", "perspective", "blur", "mixup", "cutmix")
)
NEIGHBOURS = SAMPLERS.index("neighbours")
MEASURING = sum(1 << POINTS.index(name) for name in MEASURES)
POLICY, JITTERED = (tl.constexpr(CHANGES.index(name)) for name in ("policy", "jitter"))
WARP, SHARPNESS = (tl.constexpr(POINTS.index(name)) for name in ("warp", "sharpness"))
ORDERED = tl.constexpr(len(JITTER))
OF_JITTER = tuple(POINTS.index(name) for name in JITTER)
NUMBERS = tl.constexpr(ARGUMENTS)
RADIANS = tl.constexpr(math.pi / 180)


# ---- whole pixels -----------------------------------------------------------------------------------------------------
# Along an axis, pixel p of a flipped and cropped image is pixel origin + direction * p of the image that it was made from.


@triton.jit
def move(draws, image, origin, direction, axis: tl.constexpr, record: tl.constexpr, n: tl.constexpr):
    if get(record, "moves", n, "axis") == axis:
        if get(record, "moves", n, "kind") == FLIP:
            mirrored = tl.load(draws[get(record, "moves", n, "start")] + image).to(tl.int32)
            origin += direction * mirrored * get(record, "moves", n, "offset")
            direction *= 1 - 2 * mirrored
        elif get(record, "moves", n, "kind") == SHIFT:
            origin += direction * get(record, "moves", n, "offset")
        else:
            start = tl.load(draws[get(record, "moves", n, "start")] + image).to(tl.int32)
            origin += direction * (start + get(record, "moves", n, "offset"))
    return origin, direction


@triton.jit
def along(draws, image, axis: tl.constexpr, record: tl.constexpr):
    origin = (image * 0).to(tl.int32)
    direction = origin + 1
    for n in tl.static_range(len(get(record, "moves"))):
        origin, direction = move(draws, image, origin, direction, axis, record, n)
    return origin, direction


@triton.jit
def frame_of(images, strides, draws, image, record: tl.constexpr):
    """Return where an image's moved pixels lie: what ``pixel`` needs."""
    origin_y, direction_y = along(draws, image, 0, record)
    origin_x, direction_x = along(draws, image, 1, record)
    return images + image * strides[0], strides[1], strides[2], strides[3], origin_y, direction_y, origin_x, direction_x


@triton.jit
def pixel(frame, y, x, mask, record: tl.constexpr):
    """Return red, green and blue of the moved image at whole places, on the scale of its dtype; black outside it."""
    mask = mask & (y >= 0) & (y < size(record, "moved_height")) & (x >= 0) & (x < size(record, "moved_width"))
    return inner_pixel(frame, y, x, mask, record)


@triton.constexpr_function
def are_flips(moves) -> bool:
    """Return whether moves are flips, kind 0, which leave all pixels inside the image."""
    return all(move[FIELDS["kind"]] == 0 for move in moves)


@triton.constexpr_function
def mirrors_border(moves) -> bool:
    """Return whether the image is mirrored beyond its border, not black."""
    return any(move[FIELDS["kind"]] == REFLECT for move in moves)


@triton.jit
def inner_pixel(frame, y, x, mask, record: tl.constexpr):
    """Return ``pixel`` at places inside the moved image; what was moved in from outside its source is black or mirrored."""
    start, stride_c, stride_y, stride_x, origin_y, direction_y, origin_x, direction_x = frame
    y, x = origin_y + direction_y * y, origin_x + direction_x * x
    if mirrors_border(get(record, "moves")):  # geometry.reflect
        y = size(record, "height") - 1 - tl.abs(tl.abs(y) - (size(record, "height") - 1))
        x = size(record, "width") - 1 - tl.abs(tl.abs(x) - (size(record, "width") - 1))
    place = start + y * stride_y + x * stride_x
    if mask is None and are_flips(get(record, "moves")):
        red, green, blue = tl.load(place), tl.load(place + stride_c), tl.load(place + 2 * stride_c)
    else:
        seen = (y >= 0) & (y < size(record, "height")) & (x >= 0) & (x < size(record, "width"))
        if mask is not None:
            seen = seen & mask
        red, green = tl.load(place, mask=seen, other=0), tl.load(place + stride_c, mask=seen, other=0)
        blue = tl.load(place + 2 * stride_c, mask=seen, other=0)
    return red.to(tl.float32), green.to(tl.float32), blue.to(tl.float32)


@triton.constexpr_function
def fills_tiles(record, tile: int) -> bool:
    """Return whether the last tile of a pass's result is full."""
    return pixels_of(record) % tile == 0


@triton.jit
def own_pixel(frame, y, x, mask, record: tl.constexpr):
    """Return ``pixel`` at the places of a tile of the moved image itself: all lie inside it if tiles fill it."""
    if fills_tiles(record, mask.shape[0]):
        return inner_pixel(frame, y, x, None, record)
    else:
        return inner_pixel(frame, y, x, mask, record)


@triton.jit
def bilinear(frame, a, b, c, d, e, f, y, x, mask, record: tl.constexpr):
    """Sample the moved image at [[a, b, c], [d, e, f]] times the place about its centre: ``geometry.warp``."""
    across, down = x - (size(record, "moved_width") - 1) / 2, y - (size(record, "moved_height") - 1) / 2
    source_x = a * across + b * down + c + (size(record, "moved_width") - 1) / 2
    source_y = d * across + e * down + f + (size(record, "moved_height") - 1) / 2
    return between(frame, source_y, source_x, mask, record)


@triton.jit
def between(frame, source_y, source_x, mask, record: tl.constexpr):
    """Sample the moved image at places between its pixels."""
    # Far outside all is black; a float beyond int32 has no whole place.
    source_x = tl.minimum(tl.maximum(source_x, -2.0), size(record, "moved_width") + 1.0)
    source_y = tl.minimum(tl.maximum(source_y, -2.0), size(record, "moved_height") + 1.0)
    left, top = tl.floor(source_x), tl.floor(source_y)
    red, green, blue = tl.zeros_like(left), tl.zeros_like(left), tl.zeros_like(left)
    for corner in tl.static_range(4):
        right, below = corner % 2, corner // 2
        weight_x = tl.where(right == 1, source_x - left, 1 - (source_x - left))
        weight_y = tl.where(below == 1, source_y - top, 1 - (source_y - top))
        r, g, b = pixel(frame, top.to(tl.int32) + below, left.to(tl.int32) + right, mask, record)
        weight = weight_x * weight_y
        red, green, blue = red + r * weight, green + g * weight, blue + b * weight
    return red, green, blue


@triton.jit
def quad_to_rectangle(corners, record: tl.constexpr):
    """Return ``geometry._quad_to_rectangle`` of eight whole numbers, in float64 as there."""
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
    exists = (det != 0) & (scale != 0)
    scale = tl.where(exists, scale, 1.0)
    wide, high, unscaled = (size(record, "moved_width") - 1) / scale, (size(record, "moved_height") - 1) / scale, 1 / scale
    return (
        tl.where(exists, (e - y0 * h) * wide, 1.0).to(tl.float32),
        tl.where(exists, (x0 * h - b) * wide, 0.0).to(tl.float32),
        tl.where(exists, (b * y0 - x0 * e) * wide, 0.0).to(tl.float32),
        tl.where(exists, (y0 * g - d) * high, 0.0).to(tl.float32),
        tl.where(exists, (a - x0 * g) * high, 1.0).to(tl.float32),
        tl.where(exists, (x0 * d - a * y0) * high, 0.0).to(tl.float32),
        tl.where(exists, (d * h - e * g) * unscaled, 0.0).to(tl.float32),
        tl.where(exists, (b * g - a * h) * unscaled, 0.0).to(tl.float32),
    )


@triton.jit
def perspective_if(is_applied, corners, frame, y, x, mask, record: tl.constexpr):
    """Sample through ``geometry.perspective``; at the pixels' centres, as there."""
    if is_applied:
        a, b, c, d, e, f, g, h = quad_to_rectangle(corners, record)
        across, down = x + 0.5, y + 0.5
        below = g * across + h * down + 1
        source_x, source_y = (a * across + b * down + c) / below - 0.5, (d * across + e * down + f) / below - 0.5
        red, green, blue = between(frame, source_y, source_x, mask, record)
    else:
        red, green, blue = pixel(frame, y, x, mask, record)
    return red, green, blue


@triton.jit
def reflected(place, side: tl.constexpr):
    return side - 1 - tl.abs(side - 1 - tl.abs(place))


@triton.jit
def blurred(frame, sigma, y, x, mask, record: tl.constexpr, axis: tl.constexpr, count: tl.constexpr):
    """Blur as ``tensors.gaussian_blur`` along one axis, by ``count`` pixels."""
    red, green, blue = tl.zeros_like(x).to(tl.float32), tl.zeros_like(x).to(tl.float32), tl.zeros_like(x).to(tl.float32)
    total = sigma * 0
    for k in range(count):
        away = k - count // 2
        weight = tl.exp(-(away / sigma) * (away / sigma) / 2)
        if axis == 0:
            r, g, b = pixel(frame, reflected(y + away, size(record, "moved_height")), x, mask, record)
        else:
            r, g, b = pixel(frame, y, reflected(x + away, size(record, "moved_width")), mask, record)
        red, green, blue, total = red + r * weight, green + g * weight, blue + b * weight, total + weight
    return red / total, green / total, blue / total


@triton.jit
def sharpened(frame, factor, y, x, mask, white, record: tl.constexpr):
    """Sharpen as ``tensors.sharpness``; ``white`` is 1 on the images' scale."""
    red, green, blue = pixel(frame, y, x, mask, record)
    inner = mask & (y > 0) & (y < size(record, "moved_height") - 1) & (x > 0) & (x < size(record, "moved_width") - 1)
    smooth_r, smooth_g, smooth_b = 4 * red, 4 * green, 4 * blue
    for row in range(3):  # not unrolled: the pixels of nine neighbours would not fit registers
        for column in tl.static_range(3):
            r, g, b = pixel(frame, y + row - 1, x + column - 1, inner, record)
            smooth_r, smooth_g, smooth_b = smooth_r + r, smooth_g + g, smooth_b + b
    share = tl.where(inner, 1 - factor, 0.0)
    red = tl.minimum(tl.maximum(red + (smooth_r / 13 - red) * share, 0.0), white)
    green = tl.minimum(tl.maximum(green + (smooth_g / 13 - green) * share, 0.0), white)
    blue = tl.minimum(tl.maximum(blue + (smooth_b / 13 - blue) * share, 0.0), white)
    return red, green, blue


# ---- numbers drawn for an image ---------------------------------------------------------------------------------------


@triton.constexpr_function
def of_jitter(turn: int) -> int:
    """Return the point op with that number in a jitter's order."""
    return OF_JITTER[turn]


@triton.jit
def drawn_point(draws, image, turn, record: tl.constexpr, n: tl.constexpr):
    """Return the point op of an image in step n, and its strength; ``turn`` counts the ops of a jitter and of chains."""
    if step(record, n, "change") == JITTERED:
        number = tl.load(draws[first(record, n)] + image * ORDERED + turn).to(tl.int32)
        strength = tl.load(draws[first(record, n, 1)] + image * ORDERED + number)
        point = number * 0
        for k in tl.static_range(ORDERED):
            point = tl.where(number == k, of_jitter(k), point)
        return point, strength
    elif step(record, n, "change") == POLICY:
        place = image * step(record, n, "places") + step(record, n, "place") + turn
        return tl.load(draws[first(record, n)] + place).to(tl.int64), tl.load(draws[first(record, n, 1)] + place * NUMBERS)
    else:
        return applied_point(draws, image, record, n), fixed_or_drawn(draws, image, record, n)


@triton.jit
def applied_point(draws, image, record: tl.constexpr, n: tl.constexpr):
    if step(record, n, "applied") >= 0:
        return tl.load(draws[step(record, n, "applied")] + image).to(tl.int64) * step(record, n, "point")
    else:
        return image * 0 + step(record, n, "point")


@triton.jit
def fixed_or_drawn(draws, image, record: tl.constexpr, n: tl.constexpr):
    if step(record, n, "strengths") >= 0:
        return tl.load(draws[step(record, n, "strengths")] + image).to(tl.float32)
    else:
        return (image * 0).to(tl.float32) + step(record, n, "strength")


@triton.jit
def number(draws, image, record: tl.constexpr, k: tl.constexpr):
    """Return the sampler's k-th drawn parameter as float."""
    return tl.load(draws[first(record, 0, k)] + image).to(tl.float32)


@triton.jit
def within(draws, image, y, x, record: tl.constexpr, n: tl.constexpr):
    """Return which places lie in the rectangle (top, left, height, width) of step n."""
    top, left = tl.load(draws[first(record, n)] + image), tl.load(draws[first(record, n, 1)] + image)
    height, width = tl.load(draws[first(record, n, 2)] + image), tl.load(draws[first(record, n, 3)] + image)
    return (y >= top) & (y < top + height) & (x >= left) & (x < left + width)


@triton.jit
def affine(draws, image, record: tl.constexpr):
    """Return the matrix of ``geometry.affine`` of an image."""
    angle, shear = number(draws, image, record, 0) * RADIANS, number(draws, image, record, 4) * RADIANS
    cos, sin, tan = tl.cos(angle), tl.sin(angle), tl.sin(shear) / tl.cos(shear)
    shift_x, shift_y, scale = number(draws, image, record, 1), number(draws, image, record, 2), number(draws, image, record, 3)
    a, b, c, d = (cos - sin * tan) / scale, (cos * tan + sin) / scale, -sin / scale, cos / scale
    return a, b, -(a * shift_x + b * shift_y), c, d, -(c * shift_x + d * shift_y)


# ---- sampling ---------------------------------------------------------------------------------------------------------


@triton.constexpr_function
def reads_neighbours(sampler: int, points: int, measuring: bool) -> bool:
    """Return whether an image may have drawn a neighbourhood op: of a policy not if it drew one that measures."""
    return sampler == NEIGHBOURS and not (measuring and points & MEASURING)


@triton.jit
def sample(
    images, strides, draws, image, partner, turn, index, mask,
    record: tl.constexpr, white: tl.constexpr, measuring: tl.constexpr,
):  # fmt: skip
    """Return pixels ``index`` of the result before any change of values, on the scale of the images' dtype; none is resized."""
    y, x = index // size(record, "out_width"), index % size(record, "out_width")
    origin_y, direction_y = along(draws, image, 2, record)
    origin_x, direction_x = along(draws, image, 3, record)
    y, x = origin_y + direction_y * y, origin_x + direction_x * x
    frame = frame_of(images, strides, draws, image, record)
    if step(record, 0, "sampler") == ROTATE:
        angle = number(draws, image, record, 0) * RADIANS
        cos, sin = tl.cos(angle), tl.sin(angle)
        return bilinear(frame, cos, -sin, cos * 0, sin, cos, cos * 0, y, x, mask, record)
    elif step(record, 0, "sampler") == AFFINE:
        a, b, c, d, e, f = affine(draws, image, record)
        return bilinear(frame, a, b, c, d, e, f, y, x, mask, record)
    elif step(record, 0, "sampler") == PERSPECTIVE:
        is_applied = tl.load(draws[step(record, 0, "applied")] + image) != 0
        return perspective_if(is_applied, draws[first(record, 0, 1)] + image * 8, frame, y, x, mask, record)
    elif step(record, 0, "sampler") == BLUR:
        sigma = number(draws, image, record, 0)
        return blurred(frame, sigma, y, x, mask, record, step(record, 0, "place"), step(record, 0, "kernel_size"))
    elif reads_neighbours(step(record, 0, "sampler"), step(record, 0, "points"), measuring):
        return drawn_neighbourhood(frame, draws, image, turn, y, x, mask, record, white)
    elif step(record, 0, "sampler") == MIXUP or step(record, 0, "sampler") == CUTMIX:
        red, green, blue = own_pixel(frame, y, x, mask, record)
        r, g, b = own_pixel(frame_of(images, strides, draws, partner, record), y, x, mask, record)
        if step(record, 0, "sampler") == MIXUP:
            share = number(draws, image, record, 0)
        else:
            share = 1.0 - within(draws, image, y, x, record, 0).to(tl.float32)
        return red * share + r * (1 - share), green * share + g * (1 - share), blue * share + b * (1 - share)
    else:
        return own_pixel(frame, y, x, mask, record)


@triton.jit
def drawn_neighbourhood(frame, draws, image, turn, y, x, mask, record: tl.constexpr, white: tl.constexpr):
    """Warp or sharpen an image if it drew that; else read its pixels."""
    point, strength = drawn_point(draws, image, turn, record, 0)
    if point == SHARPNESS:
        red, green, blue = sharpened(frame, strength, y, x, mask, white, record)
    else:
        red, green, blue = read_or_warp(point, frame, draws, image, turn, y, x, mask, record)
    return red, green, blue


@triton.jit
def read_or_warp(point, frame, draws, image, turn, y, x, mask, record: tl.constexpr):
    if can(step(record, 0, "points"), WARP):
        return warp_if(point == WARP, frame, draws, image, turn, y, x, mask, record)
    else:
        return pixel(frame, y, x, mask, record)


@triton.jit
def warp_if(is_warp, frame, draws, image, turn, y, x, mask, record: tl.constexpr):
    if is_warp:
        place = image * step(record, 0, "places") + step(record, 0, "place") + turn
        matrix = draws[first(record, 0, 1)] + place * NUMBERS
        a, b, c = tl.load(matrix), tl.load(matrix + 1), tl.load(matrix + 2)
        d, e, f = tl.load(matrix + 3), tl.load(matrix + 4), tl.load(matrix + 5)
        red, green, blue = bilinear(frame, a, b, c, d, e, f, y, x, mask, record)
    else:
        red, green, blue = pixel(frame, y, x, mask, record)
    return red, green, blue
