"""Passes as Triton kernels: a program does a tile of an image, or an image from first pass to last.

Records of passes (``fused.passes``) are compiled into a kernel; drawn numbers are read by each program for its image, so that
images of a batch branch apart at no cost to one another and nothing depends on the size of the batch.

``image_pass`` is a single pass, a program a tile; of images that are several tiles ``measure_pass`` first measures what needs
the whole image (a mean, a range, a histogram). ``image_passes`` is any number of passes in one launch: a program takes an image
through all, keeps it between passes in scratch memory of its own, and measures it by itself: at once if it holds the image
(``WHOLE``), else by going over its tiles twice. ``fused.cuda`` chooses.

Why a program reads what it wrote: its threads are one block, and ``tl.debug_barrier`` is ``bar.sync`` (``__syncthreads``),
behind which all threads of a block see what any of them did to global memory before it. No other block touches a program's
scratch. Loads are plain ``ld.global``, to which that applies, not ``ld.global.nc``, to which it does not: a test looks at what
the compiler makes. All threads meet the same barriers, since conditions around one are the same for the whole program.

Arguments with a type are constants that a kernel is compiled for; Triton takes no other types, and gives constants conditions
of their own. Values are float32 throughout.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
import triton
import triton.language as tl

from augment.distributions import CHAIN
from augment.fused.kinds import SAMPLERS
from augment.fused.triton_geometry import SHARPNESS, WARP, drawn_point, sample
from augment.fused.triton_held import is_held, resized_held
from augment.fused.triton_inline import own_draws
from augment.fused.triton_points import first, get, pixels_of, size, step
from augment.fused.triton_resize import is_resized, lanes_of, place_of, resize, rows_of
from augment.fused.triton_steps import do_step, measure, merge, scaled, store

WHOLE = 4096
"""Pixels of an image that one program can hold: the whole image is then measured without reading it twice."""

TILE = 1024
"""Pixels of a tile of larger images."""


def tile(pixels: int, whole: bool) -> int:
    """Return how many pixels a program of one pass does: all if ``whole``, else such that tiles stay below 2**16."""
    return triton.next_power_of_2(pixels if whole else min(pixels, max(TILE, pixels // 2**15)))


AUGMIX = tl.constexpr(SAMPLERS.index("augmix"))
OPS = tl.constexpr(CHAIN)


@triton.constexpr_function
def is_moved(record) -> bool:
    """Return whether a pass only moves pixels and measures nothing."""
    return SAMPLERS[get(record, "steps", 0, "sampler")] in {"take", "mixup", "cutmix"} and not get(record, "measured")


@triton.jit
def indices(number, tile: tl.constexpr, record: tl.constexpr):
    """Return a tile's pixels. A thread's lie side by side only if a pass just moves pixels.

    Else neighbouring threads do neighbouring pixels, and read nearly the same places.
    """
    index = number * tile + tl.arange(0, tile)
    return index if is_moved(record) else tl.max_contiguous(index, 1)


@triton.jit
def planes(image, height: tl.constexpr, width: tl.constexpr):
    """Return strides of scratch memory: of images, of which it holds one, channels, rows and columns."""
    zero = (image * 0).to(tl.int32)
    return zero, zero + height * width, zero + width, zero + 1


@triton.jit(do_not_specialize=["batch", "chunks", "seed", "block"])
def measure_pass(
    images, out, scratch, draws, keys, tables, batch, chunks, seed: "i64", block: "i64",  # type: ignore[name-defined]  # noqa: F821
    strides: tl.constexpr, out_strides: tl.constexpr,
    record: tl.constexpr, inline: tl.constexpr, numbers: tl.constexpr, count: tl.constexpr, white: tl.constexpr,
    to_bytes: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """Program (image, chunk): what a pass measures, of every ``chunks``-th tile of an image; arguments as ``image_pass``."""
    image = tl.program_id(0).to(tl.int64)
    program = image * chunks + tl.program_id(1)
    own_scratch = scratch + batch.to(tl.int64) * chunks * count + program * (count + numbers)
    images, strides, own, partner, drawn = own_draws(
        images, strides, own_scratch + count, draws, keys, tables, image, batch, seed, block, inline
    )
    row = scratch + program * count
    measure(images, strides, row, drawn, own, partner, 0, tl.program_id(1), chunks, record, white, tile, True)


@triton.jit(do_not_specialize=["batch", "chunks", "seed", "block"])
def image_pass(
    images, out, scratch, draws, keys, tables, batch, chunks, seed: "i64", block: "i64",  # type: ignore[name-defined]  # noqa: F821
    strides: tl.constexpr, out_strides: tl.constexpr,
    record: tl.constexpr, inline: tl.constexpr, numbers: tl.constexpr, count: tl.constexpr, white: tl.constexpr,
    to_bytes: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """Program (image, tile): a tile of pixels of one image's result, or all of them.

    ``scratch``: what ``measure_pass`` measured, ``count`` numbers a chunk, 0 if nothing is or a tile is the whole image; then
    for each program ``count`` merged and ``numbers`` drawn numbers.
    """
    image = tl.program_id(0).to(tl.int64)
    program = image * tl.num_programs(1) + tl.program_id(1)
    row = scratch + batch.to(tl.int64) * chunks * count + program * (count + numbers)
    images, strides, own, partner, drawn = own_draws(
        images, strides, row + count, draws, keys, tables, image, batch, seed, block, inline
    )
    if count > 0:
        merge(scratch + image * chunks * count, row, drawn, own, chunks, record)
        tl.debug_barrier()
    if is_resized(record):
        target, rows = out + image * out_strides[0], rows_of(tl.num_programs(1), record)
        top, column = place_of(tl.program_id(1), rows, record)
        resize(images, strides, target, out_strides, drawn, own, top, column, rows, record, white, to_bytes, tile)
    else:
        index = indices(tl.program_id(1), tile, record)
        mask = index < pixels_of(record)
        red, green, blue = sample(images, strides, drawn, own, partner, 0, index, mask, record, white, False)
        red, green, blue = scaled(red, green, blue, record, white)
        for n in tl.static_range(1, len(get(record, "steps"))):
            red, green, blue = do_step(drawn, own, 0, index, red, green, blue, mask, row, record, n, count == 0)
        store(out + image * out_strides[0], out_strides, index, size(record, "out_width"), red, green, blue, mask, to_bytes)


# ---- an image from the first pass to the last -------------------------------------------------------------------------


@triton.jit(do_not_specialize=["batch", "chunks", "seed", "block"])
def image_passes(
    images, out, scratch, draws, keys, tables, batch, chunks, seed: "i64", block: "i64",  # type: ignore[name-defined]  # noqa: F821
    strides: tl.constexpr, out_strides: tl.constexpr,
    chain: tl.constexpr, inline: tl.constexpr, numbers: tl.constexpr, count: tl.constexpr, white: tl.constexpr,
    room: tl.constexpr, buffers: tl.constexpr, to_bytes: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """Program: one image after the other, each through all of ``chain``, records of passes.

    A program's ``scratch``: ``buffers`` of ``room`` numbers, into which passes write by turns, ``count`` numbers for what is
    measured, and ``numbers`` drawn numbers.
    """
    program = tl.program_id(0).to(tl.int64)
    scratch += program * (buffers * room + count + numbers)
    measured = scratch + buffers * room
    turns = tl.cdiv(batch - tl.program_id(0), tl.num_programs(0)) if buffers > 1 else 1
    for turn in range(turns):
        image = program + turn * tl.num_programs(0)
        first, first_strides, own, partner, drawn = own_draws(
            images, strides, measured + count, draws, keys, tables, image, batch, seed, block, inline
        )
        red, green, blue = 0, 0, 0
        for p in tl.static_range(len(chain)):
            source, source_strides = source_of(first, first_strides, scratch, own, get(chain, p), p, room, buffers)
            target, target_strides = target_of(out, out_strides, scratch, image, get(chain, p), p, len(chain), room, buffers)
            if pixels_of(get(chain, p)) <= tile and (is_held(chain, p, tile) or not is_resized(get(chain, p))):
                red, green, blue = held_pass(
                    red, green, blue, source, source_strides, target, target_strides, scratch, measured, drawn, own, partner,
                    chain, p, white if p == 0 else 1, room, buffers, to_bytes and p == len(chain) - 1, tile,
                )  # fmt: skip
            else:
                do_pass(
                    source, source_strides, target, target_strides, scratch, measured, drawn, own, partner, get(chain, p), p,
                    white if p == 0 else 1, room, buffers, to_bytes and p == len(chain) - 1, tile,
                )  # fmt: skip


@triton.jit
def buffer_of(scratch, p: tl.constexpr, room: tl.constexpr, buffers: tl.constexpr):
    """Return where pass p writes: not to the buffer that it reads, or to that one if programs hold images whole."""
    return scratch + (p % 2 if buffers > 1 else 0) * room


@triton.jit
def source_of(
    images, strides, scratch, image, record: tl.constexpr, p: tl.constexpr, room: tl.constexpr, buffers: tl.constexpr
):  # fmt: skip
    if p == 0:
        return images, strides
    else:
        return buffer_of(scratch, p - 1, room, buffers), planes(image, size(record, "height"), size(record, "width"))


@triton.jit
def target_of(
    out, strides, scratch, image,
    record: tl.constexpr, p: tl.constexpr, passes: tl.constexpr, room: tl.constexpr, buffers: tl.constexpr,
):  # fmt: skip
    if p == passes - 1:
        # Not the constant tuple itself, which Triton 3.6 cannot return.
        return out + image * strides[0], (strides[0], strides[1], strides[2], strides[3])
    else:
        return buffer_of(scratch, p, room, buffers), planes(image, size(record, "out_height"), size(record, "out_width"))


@triton.jit
def held_pass(
    red, green, blue, source, strides, target, target_strides, scratch, row, draws, image, partner,
    chain: tl.constexpr, p: tl.constexpr, white: tl.constexpr, room: tl.constexpr, buffers: tl.constexpr,
    to_bytes: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """Do one pass over an image that the program holds, and return its values; they are stored unless the next pass takes them.

    Barriers: between the reading and the writing of scratch memory, if the pass does both, and between its writing and the next
    pass or image.
    """
    record: tl.constexpr = get(chain, p)
    index = tl.max_contiguous(tl.arange(0, tile), 1)  # neighbouring threads read neighbouring places
    mask = index < pixels_of(record)
    if is_held(chain, p, tile) and is_resized(record):
        red, green, blue = resized_held(red, green, blue, draws, image, record)
    elif is_held(chain, p, tile):
        red, green, blue = read_neighbours(red, green, blue, source, strides, draws, image, partner, 0, index, mask, record)
    else:
        red, green, blue = sample(source, strides, draws, image, partner, 0, index, mask, record, white, False)
        red, green, blue = scaled(red, green, blue, record, white)
        if p > 0 and (p < len(chain) - 1 or step(record, 0, "sampler") == AUGMIX):
            tl.debug_barrier()  # all is read: it may be overwritten
    if step(record, 0, "sampler") == AUGMIX:
        buffer = buffer_of(scratch, p, room, buffers)
        red, green, blue = held_chains(red, green, blue, buffer, row, draws, image, partner, index, mask, record)
    for n in tl.static_range(1, len(get(record, "steps"))):
        red, green, blue = do_step(draws, image, 0, index, red, green, blue, mask, row, record, n, True)
    if not is_held(chain, p + 1, tile):
        store(target, target_strides, index, size(record, "out_width"), red, green, blue, mask, to_bytes)
        if p < len(chain) - 1 or buffers > 1:
            tl.debug_barrier()
    return red, green, blue


@triton.jit
def read_neighbours(
    red, green, blue, scratch, strides, draws, image, partner, turn, index, mask, record: tl.constexpr
):  # fmt: skip
    """Warp or sharpen a held image if it drew that: only then others read its pixels, through scratch memory."""
    point, _ = drawn_point(draws, image, turn, record, 0)
    if (point == WARP) | (point == SHARPNESS):
        store(scratch, strides, index, size(record, "out_width"), red, green, blue, mask, False)
        tl.debug_barrier()
        red, green, blue = sample(scratch, strides, draws, image, partner, turn, index, mask, record, 1, False)
        tl.debug_barrier()
    return red, green, blue


@triton.jit
def do_pass(
    source, strides, target, target_strides, scratch, row, draws, image, partner,
    record: tl.constexpr, p: tl.constexpr, white: tl.constexpr, room: tl.constexpr, buffers: tl.constexpr,
    to_bytes: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """Do all of one pass over an image that is resized through memory or is larger than a tile.

    Its last barrier makes the result, and the row, free to be read and written.
    """
    if is_resized(record):
        for column in range(0, size(record, "out_width"), lanes_of(record)):
            resize(
                source, strides, target, target_strides, draws, image, 0, column, size(record, "out_height"),
                record, white, to_bytes, tile,
            )  # fmt: skip
    elif step(record, 0, "sampler") == AUGMIX:
        tiled_chains(source, strides, scratch, row, draws, image, partner, record, p, white, room, buffers, tile)
    else:
        tiled_pass(source, strides, target, target_strides, row, draws, image, partner, 0, record, white, to_bytes, tile)
    tl.debug_barrier()


@triton.jit
def tiled_pass(
    source, strides, target, target_strides, row, draws, image, partner, turn,
    record: tl.constexpr, white: tl.constexpr, to_bytes: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """Do a pass of a larger image, for which ``source`` and ``target`` must be apart."""
    if get(record, "at") > 0:
        measure(source, strides, row, draws, image, partner, turn, 0, 1, record, white, tile, False)
        tl.debug_barrier()
    for start in range(0, pixels_of(record), tile):
        index = start + tl.arange(0, tile)
        mask = index < pixels_of(record)
        red, green, blue = sample(source, strides, draws, image, partner, turn, index, mask, record, white, False)
        red, green, blue = scaled(red, green, blue, record, white)
        for n in tl.static_range(1, len(get(record, "steps"))):
            red, green, blue = do_step(draws, image, turn, index, red, green, blue, mask, row, record, n, False)
        store(target, target_strides, index, size(record, "out_width"), red, green, blue, mask, to_bytes)


# ---- AugMix -----------------------------------------------------------------------------------------------------------
# Chains of three ops of a policy, one op after the other, all in one loop: the code of one op is compiled, not of nine.


@triton.jit
def held_chains(red, green, blue, scratch, row, draws, image, partner, index, mask, record: tl.constexpr):
    """Mix the image and its chains, all in registers; ``scratch`` holds the pixels whose neighbours the next op reads."""
    strides = planes(image, size(record, "out_height"), size(record, "out_width"))
    weights = draws[first(record, 0, 2)] + image * (step(record, 0, "chains") + 1)
    weight = tl.load(weights)
    total_r, total_g, total_b = red * weight, green * weight, blue * weight
    for chain in range(step(record, 0, "chains")):
        r, g, b = red, green, blue
        for place in range(OPS):
            turn = chain * OPS + place
            r, g, b = read_neighbours(
                r, g, b, scratch, strides, draws, image, partner, turn, index, mask, get(record, "chain_op")
            )  # fmt: skip
            r, g, b = do_step(draws, image, turn, index, r, g, b, mask, row, get(record, "chain_op"), 1, True)
        weight = tl.load(weights + chain + 1)
        total_r, total_g, total_b = total_r + r * weight, total_g + g * weight, total_b + b * weight
    return total_r, total_g, total_b


@triton.jit
def tiled_chains(
    source, strides, scratch, row, draws, image, partner,
    record: tl.constexpr, p: tl.constexpr, white: tl.constexpr,
    room: tl.constexpr, buffers: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """Mix the image and its chains in tiles, in four buffers: the sum (pass p's result), the image, and two for ops by turns.

    ``source`` may lie in one of these two, which is free once the image has been moved out of it.
    """
    inside = planes(image, size(record, "out_height"), size(record, "out_width"))
    total, moved, last = scratch + p % 2 * room, scratch + 2 * room, scratch + 3 * room
    weights = draws[first(record, 0, 2)] + image * (step(record, 0, "chains") + 1)
    weight = tl.load(weights)
    for start in range(0, pixels_of(record), tile):
        index = start + tl.arange(0, tile)
        mask = index < pixels_of(record)
        red, green, blue = sample(source, strides, draws, image, partner, 0, index, mask, record, white, False)
        red, green, blue = scaled(red, green, blue, record, white)
        store(moved, inside, index, size(record, "out_width"), red, green, blue, mask, False)
        store(total, inside, index, size(record, "out_width"), red * weight, green * weight, blue * weight, mask, False)
    tl.debug_barrier()
    for chain in range(step(record, 0, "chains")):
        for place in range(OPS):  # from 2 to 3, to the source's, to 3
            here = tl.where(place == 0, 2, tl.where(place == 1, 3, (p + 1) % 2))
            there = tl.where(place == 1, (p + 1) % 2, 3)
            tiled_pass(
                scratch + here * room, inside, scratch + there * room, inside, row, draws, image, partner, chain * OPS + place,
                get(record, "chain_op"), 1, False, tile,
            )  # fmt: skip
            tl.debug_barrier()
        weight = tl.load(weights + chain + 1)
        for start in range(0, 3 * pixels_of(record), tile):
            index = start + tl.arange(0, tile)
            mask = index < 3 * pixels_of(record)
            before = tl.load(total + index, mask=mask)
            tl.store(total + index, before + tl.load(last + index, mask=mask) * weight, mask=mask)
        tl.debug_barrier()
