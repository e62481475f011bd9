"""Resizing in Triton: windows of images to results of one size, as ``geometry.resized_crop`` defines it.

A thread does a column of the result and walks down. It sums the neighbours of a source row once, and keeps sums of two rows:
where an image grows, a row of the result lies between two source rows; where it shrinks, a source row is shared by two rows
of the result. So each source row is read once, whatever the scale, and nothing waits for another thread.

Reckoned, not measured: ``imagenet``, 256 images of 256x320 to bfloat16, on an H200 (132 multiprocessors, 1.755 GHz, 4
instructions a cycle each), from the code for sm_90 by Triton 3.9. 40 % of a copy's speed are 83 microseconds.

    80 instructions a pixel where rows grow, 111 a source row and column where they shrink, 557 a thread before its 56 pixels
    a mean crop: 102 a pixel, at full rate 44 us (ALU alone 28, loads and stores 21, products and sums 17, memory 26)
    the whole image always: 141 a pixel, 61 us
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
import triton
import triton.language as tl

from augment.fused.kinds import SAMPLERS
from augment.fused.triton_geometry import along, frame_of, inner_pixel, number
from augment.fused.triton_points import get, size, step
from augment.fused.triton_steps import do_step, store_at

WINDOW = tl.constexpr(SAMPLERS.index("window"))
PIXELS = 8
"""Pixels of a tile for which a program has a thread."""


@triton.constexpr_function
def is_resized(record) -> bool:
    """Return whether a pass resizes images."""
    return SAMPLERS[get(record, "steps", 0, "sampler")] in {"window", "resize"}


@triton.constexpr_function
def can_shrink(record) -> bool:
    """Return whether windows may have more rows than the result."""
    return size(record, "moved_height") > size(record, "out_height")


@triton.constexpr_function
def kept_of(record) -> int:
    """Return the neighbours of a column whose weights a thread keeps: all down to a scale of two thirds."""
    return 3 if size(record, "moved_width") > size(record, "out_width") and step(record, 0, "antialias") else 2


@triton.constexpr_function
def lanes_of(record) -> int:
    """Return the columns that a program does at once: those of a warp."""
    return min(32, triton.next_power_of_2(size(record, "out_width")))


@triton.constexpr_function
def groups_of(record, tile: int) -> int:
    """Return the number of groups of rows that a program does at once."""
    return max(tile // PIXELS // lanes_of(record), 1)


@triton.constexpr_function
def programs_across(record) -> int:
    """Return the number of programs beside one another."""
    return -(-size(record, "out_width") // lanes_of(record))


@triton.jit
def strip_of(program, programs, record: tl.constexpr):
    """Return the first row and column, and the rows, of one of an image's ``programs``."""
    rows = tl.cdiv(size(record, "out_height"), programs // programs_across(record))
    return program // programs_across(record) * rows, program % programs_across(record) * lanes_of(record), rows


@triton.jit
def resize(
    images, strides, target, target_strides, draws, image, top, column, rows,
    record: tl.constexpr, white: tl.constexpr, to_bytes: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """Resize to ``rows`` rows and ``lanes_of`` columns from ``top`` and ``column`` on, change values and store them."""
    depth = tl.cdiv(rows, groups_of(record, tile))
    # Along one axis: of two, Triton 3.6 puts the wrong one first, and threads exchange columns through shared memory.
    thread = tl.arange(0, groups_of(record, tile) * lanes_of(record))
    y, x = top + thread // lanes_of(record) * depth, column + thread % lanes_of(record)
    end = tl.minimum(tl.minimum(y + depth, top + rows), size(record, "out_height"))
    source = frame_of(images, strides, draws, image, record)
    result = (target, target_strides[1], target_strides[2], target_strides[3], draws, image, x)
    window_top, window_left, height, width = window_of(draws, image, record)
    columns = columns_of(draws, image, window_left, width, x, record, white)
    if step(record, 0, "antialias") and can_shrink(record) and height > size(record, "out_height"):
        shrink(source, window_top, height, width, columns, result, y, end, depth, record, to_bytes)
    else:
        enlarge(source, window_top, height, width, columns, result, y, end, depth, record, to_bytes)


@triton.jit
def window_of(draws, image, record: tl.constexpr):
    """Return top, left, height and width of the window that is resized, as floats."""
    if step(record, 0, "sampler") == WINDOW:
        top, left = number(draws, image, record, 0), number(draws, image, record, 1)
        return top, left, number(draws, image, record, 2), number(draws, image, record, 3)
    else:
        zero = (image * 0).to(tl.float32)
        return zero, zero, zero + size(record, "moved_height"), zero + size(record, "moved_width")


@triton.jit
def weight_of(place, centre, slope, length):
    """Return the weight of the pixel at a place along an axis: a triangle about the centre, 0 outside the window."""
    weight = tl.maximum(1 - tl.abs(place + 0.5 - centre) * slope, 0.0)
    return tl.where((place >= 0) & (place < length), weight, 0.0)


@triton.jit
def columns_of(draws, image, left, width, x, record: tl.constexpr, white: tl.constexpr):
    """Return what ``across`` needs of columns: the first neighbours, their places in the window, and weights.

    Weights sum to 1 over ``white``.
    """
    origin, direction = along(draws, image, 3, record)
    scale = width / size(record, "out_width")
    reach = tl.maximum(scale, 1.0) if step(record, 0, "antialias") else scale * 0 + 1.0
    centre = (origin + direction * x + 0.5) * scale
    first = tl.floor(centre - reach + 0.5).to(tl.int32) + left.to(tl.int32)
    # Neighbours that are kept lie inside the image: pixels that have no weight take the places of those outside.
    first = tl.minimum(tl.maximum(first, 0), max(size(record, "moved_width") - kept_of(record), 0))
    place, count = first - left, tl.ceil(2 * reach).to(tl.int32)
    slope, total = 1 / reach, centre * 0
    for n in range(tl.maximum(count, kept_of(record))):
        total += weight_of(place + n, centre, slope, width)
    share = 1 / tl.maximum(total * white, 1e-9)  # columns outside the image have no neighbours
    kept = (weight_of(place, centre, slope, width) * share,)
    for n in tl.static_range(1, kept_of(record)):
        kept = kept + (weight_of(place + n, centre, slope, width) * share,)  # type: ignore[assignment]  # noqa: RUF005  # Triton's
    return first, place, centre, slope, count, share, kept


@triton.jit
def across(source, top, row, height, width, columns, record: tl.constexpr):
    """Return weighted sums of the neighbours of columns in a row of the window, or in its nearest one."""
    first, place, centre, slope, count, share, kept = columns
    y = (top + tl.minimum(tl.maximum(row, 0.0), height - 1)).to(tl.int32)
    red, green, blue = 0.0, 0.0, 0.0
    for n in tl.static_range(len(kept)):
        r, g, b = inner_pixel(source, y, tl.minimum(first + n, size(record, "moved_width") - 1), None, record)
        red, green, blue = red + r * kept[n], green + g * kept[n], blue + b * kept[n]
    if kept_of(record) > 2:
        for n in range(len(kept), count):
            weight = weight_of(place + n, centre, slope, width) * share
            r, g, b = inner_pixel(source, y, tl.minimum(first + n, size(record, "moved_width") - 1), None, record)
            red, green, blue = red + r * weight, green + g * weight, blue + b * weight
    return red, green, blue


@triton.jit
def enlarge(
    source, top, height, width, columns, result, y, end, rows, record: tl.constexpr, to_bytes: tl.constexpr
):  # fmt: skip
    """Do rows that lie between two rows of the source, of which the upper one often was a lower one before."""
    scale, line = height / size(record, "out_height"), y + 0.5  # not from y in the loop, which addresses make 64 bits wide
    last = tl.floor(line * scale - 0.5) - 1
    below_r, below_g, below_b = across(source, top, last + 1, height, width, columns, record)
    above_r, above_g, above_b = below_r, below_g, below_b
    for _ in range(rows):
        place = line * scale - 0.5
        row = tl.floor(place)
        if can_shrink(record) and not step(record, 0, "antialias"):  # rows are left out
            above_r, above_g, above_b = across(source, top, row, height, width, columns, record)
        else:
            above_r, above_g = tl.where(row > last, below_r, above_r), tl.where(row > last, below_g, above_g)
            above_b = tl.where(row > last, below_b, above_b)
        below_r, below_g, below_b = across(source, top, row + 1, height, width, columns, record)
        share, last = place - row, row
        red, green = above_r + (below_r - above_r) * share, above_g + (below_g - above_g) * share
        finish(result, y, end, red, green, above_b + (below_b - above_b) * share, record, to_bytes)
        y, line = y + 1, line + 1


@triton.jit
def shrink(
    source, top, height, width, columns, result, y, end, rows, record: tl.constexpr, to_bytes: tl.constexpr
):  # fmt: skip
    """Share rows of the source between the two rows of the result between whose centres they lie."""
    scale, line = height / size(record, "out_height"), y + 0.5
    slope, row = 1 / scale, tl.floor((line - 1) * scale + 0.5)
    zero, total, next_total = columns[0] * 0.0 + row * 0, row * 0, row * 0
    red, green, blue, next_r, next_g, next_b = zero, zero, zero, zero, zero, zero
    for _ in range(tl.ceil((rows + 1) * scale).to(tl.int32) + 1):
        weight, next_weight = weight_of(row, line * scale, slope, height), weight_of(row, (line + 1) * scale, slope, height)
        r, g, b = across(source, top, row, height, width, columns, record)
        red, green, blue, total = red + r * weight, green + g * weight, blue + b * weight, total + weight
        next_r, next_g, next_b = next_r + r * next_weight, next_g + g * next_weight, next_b + b * next_weight
        next_total += next_weight
        row += 1
        is_done = row + 0.5 >= (line + 1) * scale
        share = 1 / tl.maximum(total, 1e-9)  # rows outside the image have no neighbours
        finish(result, y, tl.where(is_done, end, 0), red * share, green * share, blue * share, record, to_bytes)
        red, green, blue = tl.where(is_done, next_r, red), tl.where(is_done, next_g, green), tl.where(is_done, next_b, blue)
        next_r, next_g, next_b = tl.where(is_done, 0.0, next_r), tl.where(is_done, 0.0, next_g), tl.where(is_done, 0.0, next_b)
        total, next_total = tl.where(is_done, next_total, total), tl.where(is_done, 0.0, next_total)
        y, line = y + is_done, line + is_done


@triton.jit
def finish(result, y, end, red, green, blue, record: tl.constexpr, to_bytes: tl.constexpr):
    """Change values and store them, of rows before ``end``."""
    target, stride_c, stride_y, stride_x, draws, image, x = result
    origin, direction = along(draws, image, 2, record)
    mask, y = (y < end) & (x < size(record, "out_width")), origin + direction * y
    index = y * size(record, "out_width") + x
    for n in tl.static_range(1, len(get(record, "steps"))):
        red, green, blue = do_step(draws, image, 0, index, red, green, blue, mask, None, record, n, False)
    store_at(target, (0, stride_c, stride_y, stride_x), y, x, red, green, blue, mask, to_bytes)
