"""The draws of a recipe on CUDA in one launch: parameters from uniform numbers by the records of ``fused.sample``.

A program does a block of images. Records are constants that the kernel is compiled for, once a recipe and image size; nothing
depends on the size of the batch, nothing waits for the device, and all memory is PyTorch's: a launch can be captured in a graph
once a first one has compiled the kernel. ``augment.distributions`` defines the formulas. Values are float32; nothing is
contracted to fused operations, square roots and quotients are rounded as IEEE says, so that only exp differs in its last bits.

Each kind of record is one function, ``draw_KIND``; all take the same arguments.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import triton
import triton.language as tl
from torch import Tensor

from augment import distributions, policies
from augment.distributions import KINDS, DrawRecord
from augment.fused.sample import Program

BLOCK = 128
"""Images that a program does."""


def draw(
    program: Program, uniforms: Tensor, inputs: Sequence[Tensor], tables: Sequence[Tensor], outputs: Sequence[Tensor]
) -> None:
    """Compute parameters from uniform numbers in one launch: a ``sample.SampleKernel``."""
    batch = uniforms.shape[1]
    with torch.cuda.device_of(uniforms):  # Triton launches on the current device
        parameters[(triton.cdiv(batch, BLOCK),)](
            uniforms, (*inputs, uniforms), (*tables, uniforms), tuple(outputs), batch,  # no tuple is ever empty
            records=tuple(map(tuple, program.records)), block=BLOCK, num_warps=BLOCK // 32, enable_fp_fusion=False,
        )  # fmt: skip


FIELDS = {name: place for place, name in enumerate(DrawRecord._fields)}
TRIES = tl.constexpr(distributions.TRIES)
ARGUMENTS = tl.constexpr(policies.ARGUMENTS)
ROUND = tl.constexpr(1.5 * 2**23)

# Triton's cache keys lack functions that are found by name: the kernel refers to this.
SOURCE = tl.constexpr(hashlib.sha256(Path(__file__).read_bytes()).hexdigest())


@triton.constexpr_function
def get(record, name: str):
    """Return a field of a record as a constant."""
    return record[FIELDS[name]]


@triton.constexpr_function
def count_of(record, name: str) -> int:
    """Return a field of a record as a constant whole number."""
    return int(record[FIELDS[name]])


@triton.constexpr_function
def at(records, n: int):
    """Return record n."""
    return records[n]


@triton.constexpr_function
def function(record):
    """Return the function of a record's kind."""
    return getattr(sys.modules[__name__], f"draw_{KINDS[record[0]]}")


@triton.jit
def unit(uniforms, batch, image, mask, record: tl.constexpr, row: tl.constexpr):
    """Load row ``row`` of a record for a block of images."""
    return tl.load(uniforms + (get(record, "row") + row) * batch.to(tl.int64) + image, mask=mask, other=0.0)


@triton.jit
def put(outputs, image, mask, value, record: tl.constexpr, k: tl.constexpr):
    """Store the k-th parameter of a record."""
    tl.store(outputs[get(record, "output") + k] + image, value, mask=mask)


@triton.jit
def below(number, count):
    """Return integers uniform in 0 .. count - 1."""
    return tl.minimum(tl.floor(number * count), count - 1.0)


@triton.jit
def rounded(number):
    """Round half to even: adding 1.5 * 2**23 leaves no bits for a fraction."""
    return (number + ROUND) - ROUND


@triton.jit
def draw_chance(uniforms, inputs, tables, outputs, batch, image, mask, record: tl.constexpr):
    put(outputs, image, mask, unit(uniforms, batch, image, mask, record, 0) < get(record, "p"), record, 0)


@triton.jit
def draw_below(uniforms, inputs, tables, outputs, batch, image, mask, record: tl.constexpr):
    number = below(unit(uniforms, batch, image, mask, record, 0), get(record, "count"))
    put(outputs, image, mask, number.to(tl.int64), record, 0)


@triton.jit
def draw_uniform(uniforms, inputs, tables, outputs, batch, image, mask, record: tl.constexpr):
    value = unit(uniforms, batch, image, mask, record, 0) * get(record, "span") + get(record, "low")
    if get(record, "is_rounded"):
        value = rounded(value)
    put(outputs, image * get(record, "size") + get(record, "place"), mask, value, record, 0)


@triton.jit
def draw_order(uniforms, inputs, tables, outputs, batch, image, mask, record: tl.constexpr):
    for a in tl.static_range(count_of(record, "count")):
        key = unit(uniforms, batch, image, mask, record, a)
        rank = image * 0
        for b in tl.static_range(count_of(record, "count")):
            rival = unit(uniforms, batch, image, mask, record, b)
            if b < a:  # equal ones stay in place
                rank += tl.where(rival <= key, 1, 0)
            else:
                rank += tl.where(rival < key, 1, 0)
        put(outputs, image * count_of(record, "count") + rank, mask, a, record, 0)


# ---- windows ----------------------------------------------------------------------------------------------------------


@triton.jit
def put_rectangle(outputs, image, mask, top, left, height, width, record: tl.constexpr):
    put(outputs, image, mask, top, record, 0)
    put(outputs, image, mask, left, record, 1)
    put(outputs, image, mask, height, record, 2)
    put(outputs, image, mask, width, record, 3)


@triton.jit
def try_sides(uniforms, batch, image, mask, record: tl.constexpr, turn: tl.constexpr):
    """Return the sides of a window of a drawn share of the image's area and a drawn ratio."""
    share = unit(uniforms, batch, image, mask, record, turn) * get(record, "area_span") + get(record, "area_low")
    area = share * (get(record, "height") * get(record, "width"))
    number = unit(uniforms, batch, image, mask, record, TRIES + turn)
    aspect = tl.exp(number * get(record, "ratio_span") + get(record, "ratio_low"))
    return rounded(tl.sqrt_rn(area * aspect)), rounded(tl.sqrt_rn(tl.div_rn(area, aspect)))


@triton.jit
def draw_window(uniforms, inputs, tables, outputs, batch, image, mask, record: tl.constexpr):
    """Store the first of the windows that fits the image, or else the largest centred one."""
    any_fits = image < 0
    height = image.to(tl.float32) * 0 + get(record, "fallback_height")
    width = image.to(tl.float32) * 0 + get(record, "fallback_width")
    top, left = tl.floor((get(record, "height") - height) * 0.5), tl.floor((get(record, "width") - width) * 0.5)
    for turn in tl.static_range(TRIES):
        wide, high = try_sides(uniforms, batch, image, mask, record, turn)
        fits = (wide > 0) & (wide <= get(record, "width")) & (high > 0) & (high <= get(record, "height"))
        is_first = fits & (any_fits == 0)
        height, width = tl.where(is_first, high, height), tl.where(is_first, wide, width)
        any_fits = any_fits | fits
    down = below(unit(uniforms, batch, image, mask, record, 2 * TRIES), get(record, "height") + 1.0 - height)
    across = below(unit(uniforms, batch, image, mask, record, 2 * TRIES + 1), get(record, "width") + 1.0 - width)
    top, left = tl.where(any_fits, down, top), tl.where(any_fits, across, left)
    put_rectangle(outputs, image, mask, top, left, height, width, record)


@triton.jit
def draw_rectangle(uniforms, inputs, tables, outputs, batch, image, mask, record: tl.constexpr):
    """Store the first of the windows that leaves something of the image; without height if none does or none is wanted."""
    any_fits = image < 0
    height, width = image.to(tl.float32) * 0, image.to(tl.float32) * 0
    for turn in tl.static_range(TRIES):
        high, wide = try_sides(uniforms, batch, image, mask, record, turn)
        fits = (high < get(record, "height")) & (wide < get(record, "width"))
        is_first = fits & (any_fits == 0)
        height, width = tl.where(is_first, high, height), tl.where(is_first, wide, width)
        any_fits = any_fits | fits
    height = tl.where(unit(uniforms, batch, image, mask, record, 2 * TRIES) < get(record, "p"), height, 0.0)
    top = below(unit(uniforms, batch, image, mask, record, 2 * TRIES + 1), get(record, "height") + 1.0 - height)
    left = below(unit(uniforms, batch, image, mask, record, 2 * TRIES + 2), get(record, "width") + 1.0 - width)
    put_rectangle(outputs, image, mask, top, left, height, width, record)


@triton.jit
def draw_square(uniforms, inputs, tables, outputs, batch, image, mask, record: tl.constexpr):
    side = image.to(tl.float32) * 0 + get(record, "side")
    top = below(unit(uniforms, batch, image, mask, record, 0), get(record, "height") + 1.0 - side)
    left = below(unit(uniforms, batch, image, mask, record, 1), get(record, "width") + 1.0 - side)
    put_rectangle(outputs, image, mask, top, left, side, side, record)


@triton.jit
def draw_corners(uniforms, inputs, tables, outputs, batch, image, mask, record: tl.constexpr):
    """Store the targets of corners, clockwise from top left: x and y of each."""
    for corner in tl.static_range(4):
        x = below(unit(uniforms, batch, image, mask, record, corner), get(record, "reach_x"))
        y = below(unit(uniforms, batch, image, mask, record, 4 + corner), get(record, "reach_y"))
        if corner == 1 or corner == 2:
            x = get(record, "width") - x
        if corner >= 2:
            y = get(record, "height") - y
        put(outputs, image * 8 + corner * 2, mask, x.to(tl.int64), record, 0)
        put(outputs, image * 8 + corner * 2 + 1, mask, y.to(tl.int64), record, 0)


# ---- mixtures ---------------------------------------------------------------------------------------------------------


@triton.jit
def weight(uniforms, inputs, batch, image, mask, record: tl.constexpr):
    """Load a weight: a row, or an input, of which every second number is a weight."""
    if get(record, "has_input"):
        return tl.load(inputs[get(record, "input")] + image * 2, mask=mask, other=0.0)
    else:
        return unit(uniforms, batch, image, mask, record, 0)


@triton.jit
def pasted(uniforms, batch, image, mask, half, side, record: tl.constexpr, row: tl.constexpr):
    """Return start and length of the pasted rectangle along one axis."""
    centre, reach = below(unit(uniforms, batch, image, mask, record, row), side), tl.floor(half * side)
    start = tl.maximum(centre - reach, 0.0)
    return start, tl.minimum(centre + reach, side) - start


@triton.jit
def draw_cutmix(uniforms, inputs, tables, outputs, batch, image, mask, record: tl.constexpr):
    half = tl.sqrt_rn(1.0 - weight(uniforms, inputs, batch, image, mask, record)) * 0.5
    top, height = pasted(uniforms, batch, image, mask, half, get(record, "height"), record, 1 - get(record, "has_input"))
    left, width = pasted(uniforms, batch, image, mask, half, get(record, "width"), record, 2 - get(record, "has_input"))
    put_rectangle(outputs, image, mask, top, left, height, width, record)
    area = image.to(tl.float32) * 0 + get(record, "height") * get(record, "width")
    put(outputs, image, mask, 1.0 - tl.div_rn(height * width, area), record, 4)


@triton.jit
def draw_weights(uniforms, inputs, tables, outputs, batch, image, mask, record: tl.constexpr):
    """Store the weight of the image itself in an AugMix, and of each chain."""
    own = weight(uniforms, inputs, batch, image, mask, record)
    place = image * (get(record, "chains") + 1)
    put(outputs, place, mask, own, record, 0)
    shares = inputs[get(record, "input") + get(record, "has_input")] + image * get(record, "chains")
    for chain in tl.static_range(get(record, "chains")):
        share = tl.load(shares + chain, mask=mask, other=0.0)
        put(outputs, place + chain + 1, mask, (1.0 - own) * share, record, 0)


# ---- policies ---------------------------------------------------------------------------------------------------------


@triton.jit
def put_op(tables, outputs, place, mask, op, bin, negative, record: tl.constexpr):
    """Store an op of a policy's space at ``place``, and its kernel and arguments."""
    put(outputs, place, mask, op, record, 0)
    put(outputs, place, mask, bin, record, 1)
    put(outputs, place, mask, negative, record, 2)
    put(outputs, place, mask, tl.load(tables[get(record, "table")] + op, mask=mask, other=0), record, 3)
    row = (op * get(record, "bins") + bin) * 2 + tl.where(negative, 1, 0)
    arguments = tables[get(record, "table") + 1] + row * ARGUMENTS
    for n in tl.static_range(ARGUMENTS):
        put(outputs, place * ARGUMENTS + n, mask, tl.load(arguments + n, mask=mask, other=0.0), record, 4)


@triton.jit
def draw_policy(uniforms, inputs, tables, outputs, batch, image, mask, record: tl.constexpr):
    """Store an op, a bin and a sign for each place of a policy."""
    for place in tl.static_range(get(record, "places")):
        op = below(unit(uniforms, batch, image, mask, record, get(record, "op_row") + place), get(record, "count"))
        if get(record, "chain") > 0:  # behind a chain's end: the name after those that are drawn is Identity
            number = unit(uniforms, batch, image, mask, record, place // get(record, "chain"))
            op = tl.where(place % get(record, "chain") > below(number, get(record, "chain")), get(record, "count"), op)
        bin = image * 0 + get(record, "first_bin")
        if get(record, "drawn_bins") > 0:
            number = unit(uniforms, batch, image, mask, record, get(record, "bin_row") + place)
            bin += below(number, get(record, "drawn_bins")).to(tl.int64)
        negative = unit(uniforms, batch, image, mask, record, get(record, "sign_row") + place) < 0.5
        put_op(tables, outputs, image * get(record, "places") + place, mask, op.to(tl.int64), bin, negative, record)


@triton.jit
def draw_pair(uniforms, inputs, tables, outputs, batch, image, mask, record: tl.constexpr):
    """Store a pair of ops of AutoAugment, each applied at its own rate."""
    pair = below(unit(uniforms, batch, image, mask, record, 0), get(record, "count")).to(tl.int64)
    put(outputs, image, mask, pair, record, 5)
    for place in tl.static_range(2):
        row = pair * 2 + place
        rate = tl.load(tables[get(record, "table") + 3] + row, mask=mask, other=0.0)
        op = tl.load(tables[get(record, "table") + 2] + row, mask=mask, other=0)
        op = tl.where(unit(uniforms, batch, image, mask, record, 1 + place) < rate, op, get(record, "identity"))
        bin = tl.load(tables[get(record, "table") + 4] + row, mask=mask, other=0)
        negative = unit(uniforms, batch, image, mask, record, 3 + place) < 0.5
        put_op(tables, outputs, image * 2 + place, mask, op, bin, negative, record)


@triton.jit(do_not_specialize=["batch"])
def parameters(uniforms, inputs, tables, outputs, batch, records: tl.constexpr, block: tl.constexpr):
    """Compute all records for a block of images."""
    tl.static_assert(SOURCE != "")
    image = (tl.program_id(0) * block + tl.arange(0, block)).to(tl.int64)
    mask = image < batch
    for n in tl.static_range(len(records)):
        function(at(records, n))(uniforms, inputs, tables, outputs, batch, image, mask, at(records, n))
