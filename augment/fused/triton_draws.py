"""The draws of a recipe on CUDA in one launch: parameters from uniform numbers by the records of ``fused.sample``.

A program does a block of images. Records are constants that the kernel is compiled for, once a recipe and image size; nothing
depends on the size of the batch, nothing waits for the device, and all memory is PyTorch's: a launch can be captured in a graph
once a first one has compiled the kernel. ``augment.fused.formulas`` defines the formulas. Values are float32; nothing is
contracted to fused operations, square roots and quotients are rounded as IEEE says, so that only exp differs in its last bits.

Each kind of record is one function, ``draw_KIND``; all take the same arguments.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
import hashlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from augment import distributions, policies
from augment.distributions import KINDS, DrawRecord, Source
from augment.fused.launches import Prepared, keep, signature
from augment.fused.sample import Program, Sampler
from augment.fused.triton_random import TURN, UNIT, Key, draw_noise, key_of, log_unit, no_keys, philox_unit, take_key

BLOCK = 128
"""Images that a program does."""


def numbers(source: Source, program: Program) -> Key | None:
    """Return where the numbers of a batch come from; None if there are none."""
    return take_key(4 * program.noise_blocks[-1], source.generator, source.device) if program.noise_blocks[-1] else None


def draw(program: Program, uniforms: Key | Tensor, tables: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """Compute parameters in one launch, from a key or a matrix of uniform numbers."""
    batch, device, is_counted = len(outputs[0]), outputs[0].device, isinstance(uniforms, Key)
    key = uniforms if isinstance(uniforms, Key) else Key(no_keys(device), 0, 0)
    matrix = outputs[0] if isinstance(uniforms, Key) else uniforms
    name = (program, batch, device, is_counted, signature((matrix,)))
    launch = _LAUNCHES.get(name)
    if launch is None:
        constants = {"records": tuple(map(tuple, program.records)), "images": BLOCK, "is_counted": is_counted}
        grid = (triton.cdiv(batch, BLOCK), 1, 1)
        launch = keep(_LAUNCHES, name, Prepared(parameters, grid, constants, num_warps=BLOCK // 32, enable_fp_fusion=False))
    launch(device, matrix, key.keys, (*tables, matrix), tuple(outputs), batch, key.seed, key.block)  # no tuple is ever empty


_LAUNCHES: dict[Any, Prepared] = {}


SAMPLER = Sampler(numbers, draw, draw_noise)
"""The sampling kernel of CUDA."""


FIELDS = {name: place for place, name in enumerate(DrawRecord._fields)}
TRIES = tl.constexpr(distributions.TRIES)
GAMMA_TRIES = tl.constexpr(distributions.GAMMA_TRIES)
ARGUMENTS = tl.constexpr(policies.ARGUMENTS)
ROUND = tl.constexpr(1.5 * 2**23)
SCALE = tl.constexpr(2.0**24)
LANES = tl.constexpr(16)

# Triton's cache keys lack functions that are found by name: the kernel refers to this.
_FILES = (Path(__file__).with_name(f"triton_{name}.py") for name in ("draws", "random"))
SOURCE = tl.constexpr(hashlib.sha256(b"".join(path.read_bytes() for path in _FILES)).hexdigest())


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
def unit(source, mask, record: tl.constexpr, row):
    """Return row ``row`` of a record.

    ``source``: (matrix of uniform numbers, its width, images), (seed, block, images, 0) of a counter-based generator, or of a
    single image (its uniform numbers, 1, 0, 0, 0).
    """
    if len(source) == 4:
        return philox_unit(source[0], source[1], source[2], get(record, "row") + row)
    else:
        return tl.load(
            source[0] + (get(record, "row") + row) * source[1].to(tl.int64) + source[2], mask=mask, other=0.0
        )  # fmt: skip


@triton.jit
def scaled(number, span: tl.constexpr, low: tl.constexpr):
    """Return number * span + low, rounded twice whether or not a compiler fuses: the last product is exact."""
    return number * SCALE * span * UNIT + low


@triton.jit
def put(outputs, place, mask, value, record: tl.constexpr, k: tl.constexpr):
    """Store the k-th parameter of a record."""
    tl.store(outputs[get(record, "output") + k] + place, value, mask=mask)


@triton.jit
def below(number, count):
    """Return integers uniform in 0 .. count - 1."""
    return tl.minimum(tl.floor(number * count), count - 1.0)


@triton.jit
def rounded(number):
    """Round half to even: adding 1.5 * 2**23 leaves no bits for a fraction."""
    return (number + ROUND) - ROUND


@triton.jit
def draw_chance(source, tables, outputs, place, mask, record: tl.constexpr):
    put(outputs, place, mask, unit(source, mask, record, 0) < get(record, "p"), record, 0)


@triton.jit
def draw_below(source, tables, outputs, place, mask, record: tl.constexpr):
    number = below(unit(source, mask, record, 0), get(record, "count")) * get(record, "span") + get(record, "low")
    put(outputs, place * get(record, "size") + get(record, "place"), mask, number, record, 0)


@triton.jit
def draw_uniform(source, tables, outputs, place, mask, record: tl.constexpr):
    value = scaled(unit(source, mask, record, 0), get(record, "span"), get(record, "low"))
    if get(record, "is_rounded"):
        value = rounded(value)
    put(outputs, place * get(record, "size") + get(record, "place"), mask, value, record, 0)


@triton.jit
def draw_order(source, tables, outputs, place, mask, record: tl.constexpr):
    if len(source) == 5:  # a single image: a thread an op
        turn = tl.arange(0, triton.next_power_of_2(count_of(record, "count")))
        put_rank(source, outputs, place, mask, turn, turn < count_of(record, "count"), record)
    else:
        for turn in tl.static_range(count_of(record, "count")):
            put_rank(source, outputs, place, mask, turn, mask, record)


@triton.jit
def put_rank(source, outputs, place, mask, turn, is_op, record: tl.constexpr):
    """Store op ``turn``, or several side by side, at its rank in an image's order; equal numbers stay in place."""
    key, rank = unit(source, is_op, record, turn), place * 0 + turn * 0
    for before in tl.static_range(count_of(record, "count")):
        rival = unit(source, mask, record, before)
        rank += tl.where((rival < key) | ((rival == key) & (before < turn)), 1, 0)
    put(outputs, place * count_of(record, "count") + rank, is_op, turn, record, 0)


# ---- windows ----------------------------------------------------------------------------------------------------------


@triton.jit
def put_rectangle(outputs, place, mask, rectangle, record: tl.constexpr):
    for k in tl.static_range(4):
        put(outputs, place, mask, rectangle[k], record, k)


@triton.jit
def try_window(source, mask, record: tl.constexpr, turn, is_erased: tl.constexpr):
    """Return height and width of a window of a drawn share of the image's area and a drawn ratio, and whether it fits.

    ``turn`` counts the windows; it is a number, or all of them side by side.
    """
    share = scaled(unit(source, mask, record, turn), get(record, "area_span"), get(record, "area_low"))
    area = share * (get(record, "height") * get(record, "width"))
    number = unit(source, mask, record, TRIES + turn)
    aspect = tl.exp(scaled(number, get(record, "ratio_span"), get(record, "ratio_low")))
    first, second = rounded(tl.sqrt_rn(area * aspect)), rounded(tl.sqrt_rn(tl.div_rn(area, aspect)))
    if is_erased:  # the ratio is height over width, and something of the image is left
        return first, second, (first < get(record, "height")) & (second < get(record, "width"))
    else:
        fits = (first > 0) & (first <= get(record, "width")) & (second > 0) & (second <= get(record, "height"))
        return second, first, fits


@triton.jit
def find_window(source, place, mask, record: tl.constexpr, is_erased: tl.constexpr):
    """Return height and width of the first window that fits, else of the fallback, and whether one fits."""
    height = place.to(tl.float32) * 0 + get(record, "fallback_height")
    width = place.to(tl.float32) * 0 + get(record, "fallback_width")
    any_fits = place < 0
    if len(source) == 5:  # a single image: a thread a window
        turn = tl.arange(0, LANES)
        high, wide, fits = try_window(source, turn < TRIES, record, turn, is_erased)
        first = tl.min(tl.where(fits & (turn < TRIES), turn, LANES), 0)
        any_fits = first < LANES
        height = tl.where(any_fits, tl.sum(tl.where(turn == first, high, 0.0), 0), height)
        width = tl.where(any_fits, tl.sum(tl.where(turn == first, wide, 0.0), 0), width)
    else:
        for turn in tl.static_range(TRIES):
            high, wide, fits = try_window(source, mask, record, turn, is_erased)
            is_first = fits & (any_fits == 0)
            height, width = tl.where(is_first, high, height), tl.where(is_first, wide, width)
            any_fits = any_fits | fits
    return height, width, any_fits


@triton.jit
def draw_window(source, tables, outputs, place, mask, record: tl.constexpr):
    """Store the first of the windows that fits the image, or else the largest centred one."""
    height, width, any_fits = find_window(source, place, mask, record, False)
    down = below(unit(source, mask, record, 2 * TRIES), get(record, "height") + 1.0 - height)
    across = below(unit(source, mask, record, 2 * TRIES + 1), get(record, "width") + 1.0 - width)
    top = tl.where(any_fits, down, tl.floor((get(record, "height") - height) * 0.5))
    left = tl.where(any_fits, across, tl.floor((get(record, "width") - width) * 0.5))
    put_rectangle(outputs, place, mask, (top, left, height, width), record)


@triton.jit
def draw_rectangle(source, tables, outputs, place, mask, record: tl.constexpr):
    """Store the first of the windows that leaves something of the image; without height if none does or none is wanted."""
    height, width, _ = find_window(source, place, mask, record, True)
    height = tl.where(unit(source, mask, record, 2 * TRIES) < get(record, "p"), height, 0.0)
    top = below(unit(source, mask, record, 2 * TRIES + 1), get(record, "height") + 1.0 - height)
    left = below(unit(source, mask, record, 2 * TRIES + 2), get(record, "width") + 1.0 - width)
    put_rectangle(outputs, place, mask, (top, left, height, width), record)


# ---- mixtures ---------------------------------------------------------------------------------------------------------


@triton.constexpr_function
def log_shift(record) -> float:
    """Return the logarithm of the constant ``shift`` of a Gamma number."""
    return math.log(record[FIELDS["low"]])


@triton.jit
def try_gamma(source, mask, first, turn, record: tl.constexpr):
    """Return the logarithm of a Gamma number over ``shift``, and whether it is accepted: ``formulas.log_gamma``."""
    radius = tl.sqrt_rn(-2 * log_unit(unit(source, mask, record, first + turn // 2)))
    turns = unit(source, mask, record, first + GAMMA_TRIES // 2 + turn // 2) - turn % 2 * 0.25
    normal = radius * tl.cos(turns * TURN)
    root = normal * get(record, "span") + 1.0
    cube = root * root * root
    log_cube = tl.log(tl.maximum(cube, 1e-30))
    bound = 0.5 * normal * normal + (1 - cube + log_cube) * get(record, "low")
    return log_cube, (cube > 0) & (log_unit(unit(source, mask, record, first + GAMMA_TRIES + turn)) < bound)


@triton.jit
def log_gamma(source, place, mask, first, record: tl.constexpr):
    """Return the logarithm of a Gamma number from row ``first`` on."""
    if get(record, "alpha") == 1:
        return tl.log(-log_unit(unit(source, mask, record, first)))
    else:
        value = place.to(tl.float32) * 0
        if len(source) == 5:  # a single image: a thread a try
            turn = tl.arange(0, LANES)
            drawn, accepted = try_gamma(source, turn < GAMMA_TRIES, first, turn, record)
            chosen = tl.min(tl.where(accepted & (turn < GAMMA_TRIES), turn, LANES), 0)
            value += tl.sum(tl.where(turn == chosen, drawn, 0.0), 0)
        else:
            is_done = place < 0
            for turn in range(GAMMA_TRIES):
                drawn, accepted = try_gamma(source, mask, first, turn, record)
                value = tl.where(accepted & (is_done == 0), drawn, value)
                is_done = is_done | accepted
        value += log_shift(record)
        if get(record, "alpha") < 1:
            value += log_unit(unit(source, mask, record, first + 2 * GAMMA_TRIES)) * (1 / get(record, "alpha"))
        return value


@triton.jit
def weigh(source, place, mask, first: tl.constexpr, count: tl.constexpr, record: tl.constexpr):
    """Return logarithms' greatest and the sum of what they stand for, of ``count`` Gamma numbers from row ``first`` on."""
    greatest = log_gamma(source, place, mask, first, record)
    total = greatest * 0 + 1
    for n in tl.static_range(1, count):
        log = log_gamma(source, place, mask, first + n * count_of(record, "count"), record)
        above = tl.maximum(greatest, log)
        total = total * tl.exp(greatest - above) + tl.exp(log - above)
        greatest = above
    return greatest, total


@triton.jit
def share(source, place, mask, first, greatest, total, record: tl.constexpr):
    """Return the weight of the Gamma number from row ``first`` on."""
    return tl.div_rn(tl.exp(log_gamma(source, place, mask, first, record) - greatest), total)


@triton.jit
def weight(source, place, mask, record: tl.constexpr):
    if get(record, "alpha") == 1:
        return unit(source, mask, record, 0)
    else:
        greatest, total = weigh(source, place, mask, 0, 2, record)
        return share(source, place, mask, 0, greatest, total, record)


@triton.jit
def draw_beta(source, tables, outputs, place, mask, record: tl.constexpr):
    put(outputs, place, mask, weight(source, place, mask, record), record, 0)


@triton.jit
def pasted(source, mask, half, side, record: tl.constexpr, row: tl.constexpr):
    """Return start and length of the pasted rectangle along one axis."""
    centre, reach = below(unit(source, mask, record, row), side), tl.floor(half * side)
    start = tl.maximum(centre - reach, 0.0)
    return start, tl.minimum(centre + reach, side) - start


@triton.jit
def draw_cutmix(source, tables, outputs, place, mask, record: tl.constexpr):
    half = tl.sqrt_rn(1.0 - weight(source, place, mask, record)) * 0.5
    top, height = pasted(source, mask, half, get(record, "height"), record, count_of(record, "behind"))
    left, width = pasted(source, mask, half, get(record, "width"), record, count_of(record, "behind") + 1)
    put_rectangle(outputs, place, mask, (top, left, height, width), record)
    area = place.to(tl.float32) * 0 + get(record, "height") * get(record, "width")
    put(outputs, place, mask, 1.0 - tl.div_rn(height * width, area), record, 4)


@triton.jit
def draw_weights(source, tables, outputs, place, mask, record: tl.constexpr):
    """Store the weight of the image itself in an AugMix, and of each chain."""
    own = weight(source, place, mask, record)
    chains: tl.constexpr = count_of(record, "chains")
    put(outputs, place * (chains + 1), mask, own, record, 0)
    first: tl.constexpr = count_of(record, "behind")
    greatest, total = weigh(source, place, mask, first, chains, record)
    for chain in tl.static_range(chains):
        drawn = share(source, place, mask, first + chain * count_of(record, "count"), greatest, total, record)
        put(outputs, place * (chains + 1) + chain + 1, mask, (1.0 - own) * drawn, record, 0)


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


@triton.constexpr_function
def row_of(record, name: str) -> int:
    """Return the first row of a policy's numbers: ends of chains, then its ops, bins if they are drawn, and signs."""
    places, chain, bins = (record[FIELDS[field]] for field in ("places", "chain", "drawn_bins"))
    first = places // chain if chain else 0
    return first + places * {"op": 0, "bin": 1, "sign": 2 if bins else 1}[name]


@triton.jit
def draw_policy(source, tables, outputs, place, mask, record: tl.constexpr):
    """Store an op, a bin and a sign for each place of a policy."""
    for turn in tl.static_range(get(record, "places")):
        op = below(unit(source, mask, record, row_of(record, "op") + turn), get(record, "count"))
        if get(record, "chain") > 0:  # behind a chain's end: the name after those that are drawn is Identity
            number = unit(source, mask, record, turn // get(record, "chain"))
            op = tl.where(turn % get(record, "chain") > below(number, get(record, "chain")), get(record, "count"), op)
        bin = place * 0 + get(record, "first_bin")
        if get(record, "drawn_bins") > 0:
            number = unit(source, mask, record, row_of(record, "bin") + turn)
            bin += below(number, get(record, "drawn_bins")).to(tl.int64)
        negative = unit(source, mask, record, row_of(record, "sign") + turn) < 0.5
        put_op(tables, outputs, place * get(record, "places") + turn, mask, op.to(tl.int64), bin, negative, record)


@triton.jit
def draw_pair(source, tables, outputs, place, mask, record: tl.constexpr):
    """Store a pair of ops of AutoAugment, each applied at its own rate."""
    pair = below(unit(source, mask, record, 0), get(record, "count")).to(tl.int64)
    put(outputs, place, mask, pair, record, 5)
    for turn in tl.static_range(2):
        row = pair * 2 + turn
        rate = tl.load(tables[get(record, "table") + 3] + row, mask=mask, other=0.0)
        op = tl.load(tables[get(record, "table") + 2] + row, mask=mask, other=0)
        op = tl.where(unit(source, mask, record, 1 + turn) < rate, op, get(record, "identity"))
        bin = tl.load(tables[get(record, "table") + 4] + row, mask=mask, other=0)
        negative = unit(source, mask, record, 3 + turn) < 0.5
        put_op(tables, outputs, place * 2 + turn, mask, op, bin, negative, record)


# ---- all records ------------------------------------------------------------------------------------------------------


@triton.jit
def draw_all(source, tables, outputs, place, mask, records: tl.constexpr):
    """Draw all records, parameters of an image to its ``place`` in the outputs."""
    tl.static_assert(SOURCE != "")
    for n in tl.static_range(len(records)):
        function(at(records, n))(source, tables, outputs, place, mask, at(records, n))


@triton.jit(do_not_specialize=["batch", "seed", "block"])
def parameters(
    uniforms, keys, tables, outputs, batch, seed: "i64", block: "i64",  # type: ignore[name-defined]  # noqa: F821
    records: tl.constexpr, images: tl.constexpr, is_counted: tl.constexpr,
):  # fmt: skip
    """Draw for ``images`` images a program, from a counter-based generator or from a matrix of uniform numbers."""
    image = (tl.program_id(0) * images + tl.arange(0, images)).to(tl.int64)
    if is_counted:
        seed, block = key_of(keys, seed, block)
        draw_all((seed, block, image, 0), tables, outputs, image, image < batch, records)
    else:
        draw_all((uniforms, batch, image), tables, outputs, image, image < batch, records)
