"""The passes of ``augment.passes`` as Triton kernels: a program does a tile of an image, or an image from first pass to last.

What passes do is compiled into a kernel (``Encoded``, with the images' size); what was drawn is read by each program for its
image, so that images of a batch branch apart at no cost to one another and nothing depends on the size of the batch.

``image_pass`` is a single pass, a program a tile. ``image_passes`` is any number of them in one launch: a program takes an
image through all, keeps what lies between passes in scratch memory of its own, and finds what is needed of the whole image (a
mean, a range, a histogram) by itself: at once if it holds the image (``WHOLE``), else by going over its tiles twice.
``augment.triton_passes`` chooses.

Why a program reads what it wrote: its threads are one block, and ``tl.debug_barrier`` is ``bar.sync`` (``__syncthreads``),
behind which all threads of a block see what any of them did to global memory before it. No other block touches a program's
scratch. Loads are plain ``ld.global``, to which that applies, not ``ld.global.nc``, to which it does not: a test looks at what
the compiler makes. All threads meet the same barriers, since what is decided around one is the same for the whole program.

Arguments with a type are constants that a kernel is compiled for; Triton takes no other types, and gives constants conditions
of their own. ``augment.kernels`` and ``augment.geometry`` are what these kernels are tested against. Values are float32
throughout.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
import triton
import triton.language as tl

from augment.passes import CHAIN, SAMPLERS
from augment.triton_places import sampled
from augment.triton_steps import measure, scaled, stepped
from augment.triton_values import unit

WHOLE = 4096
"""Pixels of an image that one program can hold: what is needed of the whole image is then known without reading it twice."""

TILE = 1024
"""Pixels of a tile of larger images."""


def tile(pixels: int, whole: bool) -> int:
    """Pixels that a program of one pass does: all if ``whole``, else so many that tiles stay below 2**16, as GPUs demand."""
    return triton.next_power_of_2(pixels if whole else min(pixels, max(TILE, pixels // 2**15)))


ROUND = tl.constexpr(1.5 * 2**23)
AUGMIX = tl.constexpr(SAMPLERS.index("augmix"))
OPS = tl.constexpr(CHAIN)


@triton.constexpr_function
def part(constants, place):
    """An item of a tuple as a constant; of one that is a tuple itself plain indexing makes none."""
    return constants[place]


@triton.jit
def planes(image, height: tl.constexpr, width: tl.constexpr):
    """Strides of scratch memory: of images, of which it holds one, channels, rows and columns."""
    zero = (image * 0).to(tl.int32)
    return zero, zero + height * width, zero + width, zero + 1


@triton.jit
def stored(target, strides, index, width: tl.constexpr, red, green, blue, mask, to_bytes: tl.constexpr):
    if to_bytes:
        # Adding 1.5 * 2**23 leaves no bits for a fraction: rounds half to even, as torch.round does.
        red = (unit(red) * 255 + ROUND) - ROUND
        green = (unit(green) * 255 + ROUND) - ROUND
        blue = (unit(blue) * 255 + ROUND) - ROUND
    place = target + index // width * strides[2] + index % width * strides[3]
    tl.store(place, red.to(target.dtype.element_ty), mask=mask)
    tl.store(place + strides[1], green.to(target.dtype.element_ty), mask=mask)
    tl.store(place + 2 * strides[1], blue.to(target.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["batch"])
def image_pass(
    images, out, draws, strides, out_strides, batch,
    sizes: tl.constexpr, moves: tl.constexpr, steps: tl.constexpr, white: tl.constexpr,
    is_exact: tl.constexpr, to_bytes: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """Program (image, tile): a tile of pixels of one image's result, all of them where the whole image is measured."""
    image = tl.program_id(0).to(tl.int64)
    index = tl.program_id(1) * tile + tl.arange(0, tile)
    mask = index < sizes[4] * sizes[5]
    red, green, blue = sampled(images, strides, draws, image, batch, 0, index, mask, moves, sizes, steps, white, False)
    red, green, blue = scaled(red, green, blue, white, is_exact)
    for n in tl.static_range(1, len(steps)):
        red, green, blue = stepped(draws, image, 0, index, red, green, blue, mask, draws[0], steps, n, sizes, True)
    stored(out + image * out_strides[0], out_strides, index, sizes[5], red, green, blue, mask, to_bytes)


# ---- an image from the first pass to the last -------------------------------------------------------------------------


@triton.jit(do_not_specialize=["batch"])
def image_passes(
    images, out, scratch, measured, draws, strides, out_strides, batch,
    chain: tl.constexpr, count: tl.constexpr, white: tl.constexpr, room: tl.constexpr, buffers: tl.constexpr,
    is_exact: tl.constexpr, to_bytes: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """Program: one image after the other, each through all of ``chain``.

    ``chain``: of each pass sizes, moves, steps, count and the record that needs them; then the same of an op of its chains.
    A program's ``scratch``: ``buffers`` of ``room`` numbers, into which passes write by turns; its ``measured``: ``count``.
    """
    program = tl.program_id(0).to(tl.int64)
    scratch += program * (buffers * room)
    measured += program * count
    for number in range(program, batch, tl.num_programs(0)):
        image = program * 0 + number  # the interpreter counts in plain numbers, without a type
        for p in tl.static_range(len(chain)):
            source, source_strides = source_of(images, strides, scratch, image, p, room, buffers, part(part(chain, p), 0))
            target, target_strides = target_of(
                out, out_strides, scratch, image, p, len(chain), room, buffers, part(part(chain, p), 0)
            )
            one_pass(
                source, source_strides, target, target_strides, scratch, measured, draws, image, batch, 0, p, part(chain, p),
                white if p == 0 else 1, room, buffers, is_exact, to_bytes and p == len(chain) - 1, tile,
            )  # fmt: skip


@triton.jit
def buffer_of(scratch, p: tl.constexpr, room: tl.constexpr, buffers: tl.constexpr):
    """Where pass p writes: its image is read from the other buffer, or from the same one where programs hold images whole."""
    return scratch + (p % 2 if buffers > 1 else 0) * room


@triton.jit
def source_of(images, strides, scratch, image, p: tl.constexpr, room: tl.constexpr, buffers: tl.constexpr, sizes: tl.constexpr):
    if p == 0:
        return images, strides
    else:
        return buffer_of(scratch, p - 1, room, buffers), planes(image, sizes[0], sizes[1])


@triton.jit
def target_of(
    out, strides, scratch, image,
    p: tl.constexpr, passes: tl.constexpr, room: tl.constexpr, buffers: tl.constexpr, sizes: tl.constexpr,
):  # fmt: skip
    if p == passes - 1:
        return out + image * strides[0], strides
    else:
        return buffer_of(scratch, p, room, buffers), planes(image, sizes[4], sizes[5])


@triton.jit
def one_pass(
    source, strides, target, target_strides, scratch, row, draws, image, batch, turn,
    p: tl.constexpr, one: tl.constexpr, white: tl.constexpr, room: tl.constexpr, buffers: tl.constexpr,
    is_exact: tl.constexpr, to_bytes: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """All of one pass over an image. Its last barrier makes the result, and the row, free to be read and written again."""
    if one[0][4] * one[0][5] <= tile:
        held_pass(
            source, strides, target, target_strides, buffer_of(scratch, p, room, buffers), row, draws, image, batch, turn,
            part(one, 0), part(one, 1), part(one, 2), part(one, 5), white, is_exact, to_bytes, tile,
        )  # fmt: skip
    elif part(part(part(one, 2), 0), 0) == AUGMIX:
        tiled_chains(
            source, strides, scratch, row, draws, image, batch,
            p, part(one, 0), part(one, 1), part(one, 2), part(one, 5), white, room, buffers, is_exact, tile,
        )  # fmt: skip
    else:
        tiled_pass(
            source, strides, target, target_strides, row, draws, image, batch, turn,
            part(one, 0), part(one, 1), part(one, 2), one[3], one[4], white, is_exact, to_bytes, tile,
        )  # fmt: skip
    tl.debug_barrier()


@triton.jit
def held_pass(
    source, strides, target, target_strides, scratch, row, draws, image, batch, turn,
    sizes: tl.constexpr, moves: tl.constexpr, steps: tl.constexpr, chained: tl.constexpr, white: tl.constexpr,
    is_exact: tl.constexpr, to_bytes: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """A pass of an image that is one tile."""
    index = tl.arange(0, tile)
    mask = index < sizes[4] * sizes[5]
    red, green, blue = sampled(source, strides, draws, image, batch, turn, index, mask, moves, sizes, steps, white, False)
    red, green, blue = scaled(red, green, blue, white, is_exact)
    tl.debug_barrier()  # all is read: it may be overwritten
    if steps[0][0] == AUGMIX:
        red, green, blue = held_chains(red, green, blue, scratch, row, draws, image, batch, index, mask, sizes, steps, chained)
    for n in tl.static_range(1, len(steps)):
        red, green, blue = stepped(draws, image, turn, index, red, green, blue, mask, row, steps, n, sizes, True)
    stored(target, target_strides, index, sizes[5], red, green, blue, mask, to_bytes)


@triton.jit
def tiled_pass(
    source, strides, target, target_strides, row, draws, image, batch, turn,
    sizes: tl.constexpr, moves: tl.constexpr, steps: tl.constexpr, count: tl.constexpr, at: tl.constexpr,
    white: tl.constexpr, is_exact: tl.constexpr, to_bytes: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """A pass of a larger image, for which ``source`` and ``target`` must be apart."""
    if at > 0:
        measure(source, strides, row, draws, image, batch, turn, sizes, moves, steps, count, at, white, is_exact, tile)
        tl.debug_barrier()
    for start in range(0, sizes[4] * sizes[5], tile):
        index = start + tl.arange(0, tile)
        mask = index < sizes[4] * sizes[5]
        red, green, blue = sampled(source, strides, draws, image, batch, turn, index, mask, moves, sizes, steps, white, False)
        red, green, blue = scaled(red, green, blue, white, is_exact)
        for n in tl.static_range(1, len(steps)):
            red, green, blue = stepped(draws, image, turn, index, red, green, blue, mask, row, steps, n, sizes, False)
        stored(target, target_strides, index, sizes[5], red, green, blue, mask, to_bytes)


# ---- AugMix -----------------------------------------------------------------------------------------------------------
# Chains of three ops of a policy, one op after the other, all in one loop: the code of one op is compiled, not of nine.


@triton.jit
def held_chains(
    red, green, blue, scratch, row, draws, image, batch, index, mask,
    sizes: tl.constexpr, steps: tl.constexpr, one: tl.constexpr,
):  # fmt: skip
    """The image and its chains, weighed, all in registers; ``scratch`` holds what the next op looks around in."""
    strides = planes(image, sizes[4], sizes[5])
    weights = draws[steps[0][1] + 2] + image * (steps[0][5] + 1)
    weight = tl.load(weights)
    total_r, total_g, total_b = red * weight, green * weight, blue * weight
    for chain in range(steps[0][5]):
        r, g, b = red, green, blue
        for place in range(OPS):
            turn = chain * OPS + place
            stored(scratch, strides, index, sizes[5], r, g, b, mask, False)
            tl.debug_barrier()
            r, g, b = sampled(
                scratch, strides, draws, image, batch, turn, index, mask, part(one, 1), sizes, part(one, 2), 1, False
            )
            tl.debug_barrier()
            r, g, b = stepped(draws, image, turn, index, r, g, b, mask, row, part(one, 2), 1, sizes, True)
        weight = tl.load(weights + chain + 1)
        total_r, total_g, total_b = total_r + r * weight, total_g + g * weight, total_b + b * weight
    return total_r, total_g, total_b


@triton.jit
def tiled_chains(
    source, strides, scratch, row, draws, image, batch,
    p: tl.constexpr, sizes: tl.constexpr, moves: tl.constexpr, steps: tl.constexpr, one: tl.constexpr, white: tl.constexpr,
    room: tl.constexpr, buffers: tl.constexpr, is_exact: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """The same in tiles, in four buffers: the sum, to which pass p's result goes, the image, and two for ops by turns.

    One of these is that which ``source`` may lie in, once the image has been moved out of it.
    """
    inside = planes(image, sizes[4], sizes[5])
    total, moved, last = scratch + p % 2 * room, scratch + 2 * room, scratch + 3 * room
    weights = draws[steps[0][1] + 2] + image * (steps[0][5] + 1)
    weight = tl.load(weights)
    for start in range(0, sizes[4] * sizes[5], tile):
        index = start + tl.arange(0, tile)
        mask = index < sizes[4] * sizes[5]
        red, green, blue = sampled(source, strides, draws, image, batch, 0, index, mask, moves, sizes, steps, white, False)
        red, green, blue = scaled(red, green, blue, white, is_exact)
        stored(moved, inside, index, sizes[5], red, green, blue, mask, False)
        stored(total, inside, index, sizes[5], red * weight, green * weight, blue * weight, mask, False)
    tl.debug_barrier()
    for chain in range(steps[0][5]):
        for place in range(OPS):  # from 2 to 3, to the source's, to 3
            here = tl.where(place == 0, 2, tl.where(place == 1, 3, (p + 1) % 2))
            there = tl.where(place == 1, (p + 1) % 2, 3)
            tiled_pass(
                scratch + here * room, inside, scratch + there * room, inside, row, draws, image, batch, chain * OPS + place,
                part(one, 0), part(one, 1), part(one, 2), one[3], one[4], 1, is_exact, False, tile,
            )  # fmt: skip
            tl.debug_barrier()
        weight = tl.load(weights + chain + 1)
        for start in range(0, 3 * sizes[4] * sizes[5], tile):
            index = start + tl.arange(0, tile)
            mask = index < 3 * sizes[4] * sizes[5]
            before = tl.load(total + index, mask=mask)
            tl.store(total + index, before + tl.load(last + index, mask=mask) * weight, mask=mask)
        tl.debug_barrier()
