"""Resampling of images that a program holds: values change hands between threads, not through memory.

An image is a tile of as many rows and columns. Along rows a warp's threads hold a row, along columns a column, so that a
neighbour is read by a shuffle; between the two the tile is transposed. Weights are computed once a column and once a row.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
import triton
import triton.language as tl

from augment.fused.kinds import SAMPLERS
from augment.fused.triton_geometry import along, number
from augment.fused.triton_points import FIELDS, get, size

AXIS = FIELDS["axis"]


@triton.constexpr_function
def is_held(chain, p: int, tile: int) -> bool:
    """Return whether pass p takes the values of pass p - 1 from registers: that one resizes nothing, and an image is a tile.

    It reads neighbours of some images, which then go through memory, or resizes windows. These have no more pixels than the
    result, and a pixel two neighbours along an axis; the tile is as many rows and columns as the image.
    """
    if not 0 < p < len(chain) or SAMPLERS[get(chain[p - 1], "steps", 0, "sampler")] in {"window", "resize"}:
        return False
    sampler, moves = SAMPLERS[get(chain[p], "steps", 0, "sampler")], get(chain[p], "moves")
    height, width = get(chain[p], "sizes", "height"), get(chain[p], "sizes", "width")
    if height * width > tile or get(chain[p], "sizes") != (height, width) * 3:
        return False
    is_tile = height * width == tile and not width & (width - 1) and all(move[AXIS] >= 2 for move in moves)
    return (sampler == "window" and is_tile) or (sampler == "neighbours" and not moves)


@triton.jit
def resized_held(red, green, blue, draws, image, record: tl.constexpr):
    """Resize a window of a held image as ``geometry.resized_crop``."""
    rows, columns = two_neighbours(draws, image, 0, record), two_neighbours(draws, image, 1, record)
    return held_channel(red, rows, columns), held_channel(green, rows, columns), held_channel(blue, rows, columns)


@triton.jit
def two_neighbours(draws, image, axis: tl.constexpr, record: tl.constexpr):
    """Return each place's first and second neighbour along an axis, and the second one's weight."""
    side: tl.constexpr = size(record, "width") if axis == 1 else size(record, "height")
    origin, direction = along(draws, image, axis + 2, record)
    start, length = number(draws, image, record, axis), number(draws, image, record, axis + 2)
    centre = (origin + direction * tl.arange(0, side) + 0.5) * (length / side) - 0.5
    first = tl.floor(centre)
    second = tl.minimum(first + 1, length - 1) + start
    return (tl.maximum(first, 0.0) + start).to(tl.int32), second.to(tl.int32), centre - first


@triton.jit
def held_channel(channel, rows, columns):
    """Resize a channel along its rows, then along its columns."""
    value = tl.reshape(channel, (rows[0].shape[0], columns[0].shape[0]))
    value = between(value, across(columns[0], value), across(columns[1], value), columns[2][None, :], 1)
    value = between(value, down(rows[0], value), down(rows[1], value), rows[2][:, None], 0)
    return tl.reshape(value, channel.shape)


@triton.jit
def between(value, first, second, weight, axis: tl.constexpr):
    return tl.gather(value, first, axis) * (1 - weight) + tl.gather(value, second, axis) * weight


@triton.jit
def across(places, value):
    return tl.broadcast_to(places[None, :], value.shape)


@triton.jit
def down(places, value):
    return tl.broadcast_to(places[:, None], value.shape)
