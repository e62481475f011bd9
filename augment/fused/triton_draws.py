"""The draws of a recipe on CUDA in one launch: what a Triton kernel makes of the records of ``augment.draws``.

A program does a block of images. The records are constants that the kernel is compiled for, once a recipe and image size;
nothing depends on the size of the batch, nothing waits for the device, and all memory is PyTorch's: a launch can be captured in
a graph once a first one has compiled the kernel. ``augment.sampling`` defines the formulas. Values are float32; nothing is
contracted to fused operations, square roots and quotients are rounded as IEEE says, so that only exp differs in its last bits.

What ``tl.static_range`` counts is an argument of its own: Triton 3.6 forgets that a number from a tuple is a constant.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from augment import draws, policies
from augment.draws import KINDS, Program

BLOCK = 128
"""Images that a program does."""


def run(
    program: Program, uniforms: Tensor, given: Sequence[Tensor], tables: Sequence[Tensor], outputs: Sequence[Tensor]
) -> None:
    """As ``sampling.Run``: all on one device and contiguous, but for given weights, which are every second number in memory."""
    batch = uniforms.shape[1]
    with torch.cuda.device_of(uniforms):  # Triton launches on the current device
        parameters[(triton.cdiv(batch, BLOCK),)](
            uniforms, (*given, uniforms), (*tables, uniforms), tuple(outputs), batch,  # no tuple is ever empty
            records=program.records, block=BLOCK, num_warps=BLOCK // 32, enable_fp_fusion=False,
        )  # fmt: skip


CHANCE, BELOW, UNIFORM, ORDER, WINDOW, RECTANGLE, SQUARE, CORNERS, CUTMIX, WEIGHTS, POLICY, PAIR = (
    tl.constexpr(number) for number in range(len(KINDS))
)
TRIES = tl.constexpr(draws.TRIES)
ARGUMENTS = tl.constexpr(policies.ARGUMENTS)
FIRST = tl.constexpr(draws.CONSTANTS)
ROUND = tl.constexpr(1.5 * 2**23)


@triton.jit
def unit(uniforms, batch, image, mask, records: tl.constexpr, n: tl.constexpr, row: tl.constexpr):
    """Row ``row`` of record n, for a block of images."""
    return tl.load(uniforms + (records[n][1] + row) * batch.to(tl.int64) + image, mask=mask, other=0.0)


@triton.jit
def below(number, count):
    """Uniform in 0 .. count - 1."""
    return tl.minimum(tl.floor(number * count), count - 1.0)


@triton.jit
def rounded(number):
    """Half to even, as adding 1.5 * 2**23 leaves no bits for a fraction."""
    return (number + ROUND) - ROUND


@triton.jit
def weight(uniforms, given, batch, image, mask, records: tl.constexpr, n: tl.constexpr, is_given: tl.constexpr):
    if is_given:
        return tl.load(given[records[n][3]] + image * 2, mask=mask, other=0.0)
    else:
        return unit(uniforms, batch, image, mask, records, n, 0)


@triton.jit
def put_order(uniforms, outputs, batch, image, mask, records: tl.constexpr, n: tl.constexpr):
    for a in tl.static_range(4):
        one = unit(uniforms, batch, image, mask, records, n, a)
        rank = image * 0
        for b in tl.static_range(4):
            other = unit(uniforms, batch, image, mask, records, n, b)
            if b < a:  # equal ones as they stand
                rank += tl.where(other <= one, 1, 0)
            else:
                rank += tl.where(other < one, 1, 0)
        tl.store(outputs[records[n][2]] + image * 4 + rank, a, mask=mask)


@triton.jit
def put_rectangle(outputs, image, mask, top, left, height, width, records: tl.constexpr, n: tl.constexpr):
    tl.store(outputs[records[n][2]] + image, top, mask=mask)
    tl.store(outputs[records[n][2] + 1] + image, left, mask=mask)
    tl.store(outputs[records[n][2] + 2] + image, height, mask=mask)
    tl.store(outputs[records[n][2] + 3] + image, width, mask=mask)


@triton.jit
def tried(uniforms, batch, image, mask, records: tl.constexpr, n: tl.constexpr, turn: tl.constexpr):
    """The sides of a window that is tried."""
    share = unit(uniforms, batch, image, mask, records, n, turn) * records[n][FIRST] + records[n][FIRST + 1]
    area = share * records[n][FIRST + 2]
    number = unit(uniforms, batch, image, mask, records, n, TRIES + turn)
    aspect = tl.exp(number * records[n][FIRST + 3] + records[n][FIRST + 4])
    return rounded(tl.sqrt_rn(area * aspect)), rounded(tl.sqrt_rn(tl.div_rn(area, aspect)))


@triton.jit
def put_window(uniforms, outputs, batch, image, mask, records: tl.constexpr, n: tl.constexpr):
    """The first of the windows that fits the image, or else the largest centred one."""
    found = image < 0
    height = image.to(tl.float32) * 0 + records[n][FIRST + 7]
    width = image.to(tl.float32) * 0 + records[n][FIRST + 8]
    top = tl.floor((records[n][FIRST + 5] - height) * 0.5)
    left = tl.floor((records[n][FIRST + 6] - width) * 0.5)
    for turn in tl.static_range(TRIES):
        wide, high = tried(uniforms, batch, image, mask, records, n, turn)
        fits = (wide > 0) & (wide <= records[n][FIRST + 6]) & (high > 0) & (high <= records[n][FIRST + 5])
        is_first = fits & (found == 0)
        height, width = tl.where(is_first, high, height), tl.where(is_first, wide, width)
        found = found | fits
    down = below(unit(uniforms, batch, image, mask, records, n, 2 * TRIES), records[n][FIRST + 5] + 1.0 - height)
    across = below(unit(uniforms, batch, image, mask, records, n, 2 * TRIES + 1), records[n][FIRST + 6] + 1.0 - width)
    top, left = tl.where(found, down, top), tl.where(found, across, left)
    put_rectangle(outputs, image, mask, top, left, height, width, records, n)


@triton.jit
def put_erased(uniforms, outputs, batch, image, mask, records: tl.constexpr, n: tl.constexpr):
    """The first of the windows that leaves something of the image; without height where none does or none is wanted."""
    found = image < 0
    height = image.to(tl.float32) * 0
    width = image.to(tl.float32) * 0
    for turn in tl.static_range(TRIES):
        high, wide = tried(uniforms, batch, image, mask, records, n, turn)
        fits = (high < records[n][FIRST + 5]) & (wide < records[n][FIRST + 6])
        is_first = fits & (found == 0)
        height, width = tl.where(is_first, high, height), tl.where(is_first, wide, width)
        found = found | fits
    height = tl.where(unit(uniforms, batch, image, mask, records, n, 2 * TRIES) < records[n][FIRST + 7], height, 0.0)
    top = below(unit(uniforms, batch, image, mask, records, n, 2 * TRIES + 1), records[n][FIRST + 5] + 1.0 - height)
    left = below(unit(uniforms, batch, image, mask, records, n, 2 * TRIES + 2), records[n][FIRST + 6] + 1.0 - width)
    put_rectangle(outputs, image, mask, top, left, height, width, records, n)


@triton.jit
def put_square(uniforms, outputs, batch, image, mask, records: tl.constexpr, n: tl.constexpr):
    side = image.to(tl.float32) * 0 + records[n][FIRST + 2]
    top = below(unit(uniforms, batch, image, mask, records, n, 0), records[n][FIRST] + 1.0 - side)
    left = below(unit(uniforms, batch, image, mask, records, n, 1), records[n][FIRST + 1] + 1.0 - side)
    put_rectangle(outputs, image, mask, top, left, side, side, records, n)


@triton.jit
def put_corners(uniforms, outputs, batch, image, mask, records: tl.constexpr, n: tl.constexpr):
    """Where the corners of a perspective go, from top left on clockwise: x and y of each."""
    for corner in tl.static_range(4):
        x = below(unit(uniforms, batch, image, mask, records, n, corner), records[n][FIRST])
        y = below(unit(uniforms, batch, image, mask, records, n, 4 + corner), records[n][FIRST + 1])
        if corner == 1 or corner == 2:
            x = records[n][FIRST + 2] - x
        if corner >= 2:
            y = records[n][FIRST + 3] - y
        place = outputs[records[n][2]] + image * 8 + corner * 2
        tl.store(place, x.to(tl.int64), mask=mask)
        tl.store(place + 1, y.to(tl.int64), mask=mask)


@triton.jit
def seen(uniforms, batch, image, mask, half, side, records: tl.constexpr, n: tl.constexpr, row: tl.constexpr):
    """Where what is seen of a partner starts and how long it is, along one axis."""
    centre, reach = below(unit(uniforms, batch, image, mask, records, n, row), side), tl.floor(half * side)
    start = tl.maximum(centre - reach, 0.0)
    return start, tl.minimum(centre + reach, side) - start


@triton.jit
def put_cutmix(uniforms, given, outputs, batch, image, mask, records: tl.constexpr, n: tl.constexpr):
    drawn = weight(uniforms, given, batch, image, mask, records, n, records[n][FIRST])
    half = tl.sqrt_rn(1.0 - drawn) * 0.5
    top, height = seen(uniforms, batch, image, mask, half, records[n][FIRST + 1], records, n, 1 - records[n][FIRST])
    left, width = seen(uniforms, batch, image, mask, half, records[n][FIRST + 2], records, n, 2 - records[n][FIRST])
    put_rectangle(outputs, image, mask, top, left, height, width, records, n)
    area = image.to(tl.float32) * 0 + records[n][FIRST + 1] * records[n][FIRST + 2]
    tl.store(outputs[records[n][2] + 4] + image, 1.0 - tl.div_rn(height * width, area), mask=mask)


@triton.jit
def put_weights(
    uniforms, given, outputs, batch, image, mask, records: tl.constexpr, n: tl.constexpr, chains: tl.constexpr
):  # fmt: skip
    """AugMix: the weight of the image itself, and of each chain."""
    own = weight(uniforms, given, batch, image, mask, records, n, records[n][FIRST])
    place = outputs[records[n][2]] + image * (chains + 1)
    tl.store(place, own, mask=mask)
    shares = given[records[n][3] + records[n][FIRST]] + image * chains
    for chain in tl.static_range(chains):
        tl.store(place + chain + 1, (1.0 - own) * tl.load(shares + chain, mask=mask, other=0.0), mask=mask)


@triton.jit
def put_op(tables, outputs, place, mask, op, bin, negative, records: tl.constexpr, n: tl.constexpr, bins: tl.constexpr):
    """An op of a policy's space at ``place``, and what that is: its kernel and the kernel's arguments."""
    tl.store(outputs[records[n][2]] + place, op, mask=mask)
    tl.store(outputs[records[n][2] + 1] + place, bin, mask=mask)
    tl.store(outputs[records[n][2] + 2] + place, negative, mask=mask)
    kernel = tl.load(tables[records[n][4]] + op, mask=mask, other=0)
    tl.store(outputs[records[n][2] + 3] + place, kernel, mask=mask)
    found = tables[records[n][4] + 1] + ((op * bins + bin) * 2 + tl.where(negative, 1, 0)) * ARGUMENTS
    for argument in tl.static_range(ARGUMENTS):
        value = tl.load(found + argument, mask=mask, other=0.0)
        tl.store(outputs[records[n][2] + 4] + place * ARGUMENTS + argument, value, mask=mask)


@triton.jit
def put_policy(
    uniforms, tables, outputs, batch, image, mask, records: tl.constexpr, n: tl.constexpr, places: tl.constexpr
):  # fmt: skip
    """A policy: for each of its places an op, a bin and a sign."""
    for place in tl.static_range(places):
        number = unit(uniforms, batch, image, mask, records, n, records[n][FIRST + 6] + place)
        op = below(number, records[n][FIRST + 1])
        if records[n][FIRST + 4] > 0:  # behind a chain's end: the name after those that are drawn is Identity
            depth = below(unit(uniforms, batch, image, mask, records, n, place // records[n][FIRST + 4]), records[n][FIRST + 4])
            op = tl.where(place % records[n][FIRST + 4] > depth, records[n][FIRST + 1], op)
        bin = image * 0 + records[n][FIRST + 3]
        if records[n][FIRST + 2] > 0:
            number = unit(uniforms, batch, image, mask, records, n, records[n][FIRST + 7] + place)
            bin += below(number, records[n][FIRST + 2]).to(tl.int64)
        negative = unit(uniforms, batch, image, mask, records, n, records[n][FIRST + 8] + place) < 0.5
        at = image * places + place
        put_op(tables, outputs, at, mask, op.to(tl.int64), bin, negative, records, n, records[n][FIRST + 5])


@triton.jit
def put_pair(uniforms, tables, outputs, batch, image, mask, records: tl.constexpr, n: tl.constexpr):
    """AutoAugment: a pair of ops, each applied at its own rate."""
    pair = below(unit(uniforms, batch, image, mask, records, n, 0), records[n][FIRST]).to(tl.int64)
    tl.store(outputs[records[n][2] + 5] + image, pair, mask=mask)
    for place in tl.static_range(2):
        which = pair * 2 + place
        rate = tl.load(tables[records[n][4] + 3] + which, mask=mask, other=0.0)
        op = tl.load(tables[records[n][4] + 2] + which, mask=mask, other=0)
        op = tl.where(unit(uniforms, batch, image, mask, records, n, 1 + place) < rate, op, records[n][FIRST + 1])
        bin = tl.load(tables[records[n][4] + 4] + which, mask=mask, other=0)
        negative = unit(uniforms, batch, image, mask, records, n, 3 + place) < 0.5
        put_op(tables, outputs, image * 2 + place, mask, op, bin, negative, records, n, records[n][FIRST + 2])


@triton.jit
def put(uniforms, given, tables, outputs, batch, image, mask, records: tl.constexpr, n: tl.constexpr):
    """Record n for a block of images."""
    if records[n][0] == CHANCE:
        number = unit(uniforms, batch, image, mask, records, n, 0)
        tl.store(outputs[records[n][2]] + image, number < records[n][FIRST], mask=mask)
    elif records[n][0] == BELOW:
        number = below(unit(uniforms, batch, image, mask, records, n, 0), records[n][FIRST])
        tl.store(outputs[records[n][2]] + image, number.to(tl.int64), mask=mask)
    elif records[n][0] == UNIFORM:
        value = unit(uniforms, batch, image, mask, records, n, 0) * records[n][FIRST + 2] + records[n][FIRST + 3]
        if records[n][FIRST + 4]:
            value = rounded(value)
        tl.store(outputs[records[n][2]] + image * records[n][FIRST] + records[n][FIRST + 1], value, mask=mask)
    elif records[n][0] == ORDER:
        put_order(uniforms, outputs, batch, image, mask, records, n)
    elif records[n][0] == WINDOW:
        put_window(uniforms, outputs, batch, image, mask, records, n)
    elif records[n][0] == RECTANGLE:
        put_erased(uniforms, outputs, batch, image, mask, records, n)
    elif records[n][0] == SQUARE:
        put_square(uniforms, outputs, batch, image, mask, records, n)
    elif records[n][0] == CORNERS:
        put_corners(uniforms, outputs, batch, image, mask, records, n)
    elif records[n][0] == CUTMIX:
        put_cutmix(uniforms, given, outputs, batch, image, mask, records, n)
    elif records[n][0] == WEIGHTS:
        put_weights(uniforms, given, outputs, batch, image, mask, records, n, records[n][FIRST + 1])
    elif records[n][0] == POLICY:
        put_policy(uniforms, tables, outputs, batch, image, mask, records, n, records[n][FIRST])
    else:
        put_pair(uniforms, tables, outputs, batch, image, mask, records, n)


@triton.jit(do_not_specialize=["batch"])
def parameters(uniforms, given, tables, outputs, batch, records: tl.constexpr, block: tl.constexpr):
    """All records for a block of images."""
    image = (tl.program_id(0) * block + tl.arange(0, block)).to(tl.int64)
    mask = image < batch
    for n in tl.static_range(len(records)):
        put(uniforms, given, tables, outputs, batch, image, mask, records, n)
