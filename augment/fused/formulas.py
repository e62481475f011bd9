"""Formulas of draws by tensor operations: the definition of the kernels, for any device.

Each kind of record is one function, ``draw_KIND``: (record, uniforms, tables) -> its parameters, [B, ...] in the order of the
record's outputs. ``uniforms``: float32 [rows, B] in [0, 1), from the record's first row on; ``tables``: ``policies.tables``.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from augment.distributions import GAMMA_TRIES, KINDS, SMALLEST, TRIES, DrawRecord

Tables = Sequence[Tensor]
Parameters = tuple[Tensor, ...]


def below(numbers: Tensor, count: float | Tensor) -> Tensor:
    """Return whole numbers uniform in 0 .. count - 1.

    Each is floor(u * count) of 2**24 equally likely u, so its probability differs from 1 / count by a share of at most
    count * 2**-24: 2e-5 for a side of 300 pixels.
    """
    return (numbers * count).floor_().clamp_(max=count - 1)


def draw_chance(record: DrawRecord, uniforms: Tensor, tables: Tables) -> Parameters:
    return (uniforms[0] < record.p,)


def draw_below(record: DrawRecord, uniforms: Tensor, tables: Tables) -> Parameters:
    return (below(uniforms[0], record.count) * record.span + record.low,)


def draw_uniform(record: DrawRecord, uniforms: Tensor, tables: Tables) -> Parameters:
    value = uniforms[0] * record.span + record.low
    return (value.round_() if record.is_rounded else value,)


def draw_order(record: DrawRecord, uniforms: Tensor, tables: Tables) -> Parameters:
    return (uniforms[: record.rows].t().argsort(dim=1, stable=True),)


# ---- windows ----------------------------------------------------------------------------------------------------------


def _find_window(record: DrawRecord, uniforms: Tensor, *, is_erased: bool) -> Parameters:
    """Return height and width of the first window that fits, else of the fallback, and whether one fits.

    One that is erased has a ratio of height over width, and leaves something of the image.
    """
    area = (uniforms[:TRIES] * record.area_span + record.area_low) * (record.height * record.width)
    aspect = (uniforms[TRIES : 2 * TRIES] * record.ratio_span + record.ratio_low).exp()
    first, second = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    if is_erased:
        height, width, fits = first, second, (first < record.height) & (second < record.width)
    else:
        height, width = second, first
        fits = (width > 0) & (width <= record.width) & (height > 0) & (height <= record.height)
    index, any_fits = fits.to(torch.uint8).argmax(0, keepdim=True), fits.any(0)
    height = height.gather(0, index)[0].where(any_fits, record.fallback_height)
    return height, width.gather(0, index)[0].where(any_fits, record.fallback_width), any_fits


def draw_window(record: DrawRecord, uniforms: Tensor, tables: Tables) -> Parameters:
    """Draw the first of the windows that fits the image, or else the largest centred one."""
    height, width, any_fits = _find_window(record, uniforms, is_erased=False)
    top = below(uniforms[2 * TRIES], record.height + 1 - height)
    left = below(uniforms[2 * TRIES + 1], record.width + 1 - width)
    top = top.where(any_fits, (record.height - record.fallback_height) // 2)
    return top, left.where(any_fits, (record.width - record.fallback_width) // 2), height, width


def draw_rectangle(record: DrawRecord, uniforms: Tensor, tables: Tables) -> Parameters:
    """Draw the first of the windows that leaves something of the image; without height if none does or none is wanted."""
    height, width, _ = _find_window(record, uniforms, is_erased=True)
    height = height.where(uniforms[2 * TRIES] < record.p, 0)
    top = below(uniforms[2 * TRIES + 1], record.height + 1 - height)
    return top, below(uniforms[2 * TRIES + 2], record.width + 1 - width), height, width


# ---- mixtures ---------------------------------------------------------------------------------------------------------


def _log(numbers: Tensor) -> Tensor:
    return numbers.clamp(min=SMALLEST).log_()


def log_gamma(record: DrawRecord, uniforms: Tensor) -> Tensor:
    """Return logarithms of Gamma(alpha) numbers, float32 [B], which weights of small ``alpha`` need.

    Marsaglia and Tsang (2000), "A simple method for generating gamma variables", the first of ``GAMMA_TRIES`` that is
    accepted; below alpha 1 their boost. Gamma(1) is exponential. Cosine and sine of an angle are two normal numbers.
    """
    if record.alpha == 1:
        return _log(uniforms[0]).neg_().log_()
    radius = _log(uniforms[: GAMMA_TRIES // 2]).mul_(-2).sqrt_()
    turns = uniforms[GAMMA_TRIES // 2 : GAMMA_TRIES]
    angles = torch.stack([turns, turns - 0.25], 1).flatten(0, 1) * (2 * math.pi)
    normal = radius.repeat_interleave(2, 0) * angles.cos_()
    root = record.span * normal + 1
    cube = root * root * root
    log_cube = cube.clamp(min=1e-30).log_()
    bound = 0.5 * normal * normal + record.low * (1 - cube + log_cube)
    accepted = (cube > 0) & (_log(uniforms[GAMMA_TRIES : 2 * GAMMA_TRIES]) < bound)
    first = accepted.to(torch.uint8).argmax(0, keepdim=True)
    value = log_cube.gather(0, first)[0].where(accepted.any(0), 0.0) + math.log(record.low)
    return value + _log(uniforms[2 * GAMMA_TRIES]) * (1 / record.alpha) if record.alpha < 1 else value


def dirichlet(record: DrawRecord, uniforms: Tensor, count: int) -> Tensor:
    """Return symmetric Dirichlet weights, float32 [B, count]."""
    rows = int(record.count)
    return torch.stack([log_gamma(record, uniforms[rows * n :]) for n in range(count)], 1).softmax(1)


def weight(record: DrawRecord, uniforms: Tensor) -> Tensor:
    """Return Beta(alpha, alpha), float32 [B]."""
    return uniforms[0] if record.alpha == 1 else dirichlet(record, uniforms, 2)[:, 0]


def draw_beta(record: DrawRecord, uniforms: Tensor, tables: Tables) -> Parameters:
    return (weight(record, uniforms),)


def draw_cutmix(record: DrawRecord, uniforms: Tensor, tables: Tables) -> Parameters:
    """Draw the pasted rectangle and the share of area that is left."""
    half = (1 - weight(record, uniforms)).sqrt() * 0.5
    edges = []
    for row, side in enumerate((record.height, record.width), record.behind):
        centre, reach = below(uniforms[row], side), (half * side).floor_()
        edges.append(((centre - reach).clamp_(min=0), (centre + reach).clamp_(max=side)))
    (top, bottom), (left, right) = edges
    height, width = bottom - top, right - left
    return top, left, height, width, 1 - height * width / (record.height * record.width)


def draw_weights(record: DrawRecord, uniforms: Tensor, tables: Tables) -> Parameters:
    """Draw the weight of the image itself in an AugMix, and of each chain."""
    own = weight(record, uniforms)[:, None]
    return (torch.cat([own, (1 - own) * dirichlet(record, uniforms[record.behind :], record.chains)], 1),)


# ---- policies ---------------------------------------------------------------------------------------------------------


def _look_up(record: DrawRecord, op: Tensor, bin: Tensor, negative: Tensor, tables: Tables) -> Parameters:
    """Return op and bin, int64, and sign, bool, of places [B, n], and the kernel and arguments that they stand for."""
    return op, bin, negative, tables[0][op], tables[1][(op * record.bins + bin) * 2 + negative]


def draw_policy(record: DrawRecord, uniforms: Tensor, tables: Tables) -> Parameters:
    """Draw an op, a bin and a sign for each place of a policy."""
    places, chain = record.places, record.chain
    parts = (places // chain if chain else 0, places, places if record.drawn_bins else 0, places)
    depth, chosen, bins, signs = (part.t() for part in uniforms[: sum(parts)].split(parts))
    op = below(chosen, record.count).long()
    if chain:  # behind a chain's end: the name after those that are drawn is Identity
        is_inside = torch.arange(places, device=op.device) % chain <= below(depth, chain).repeat_interleave(chain, 1)
        op = op.where(is_inside, int(record.count))
    bin = below(bins, record.drawn_bins).long() if record.drawn_bins else torch.full_like(op, record.first_bin)
    return _look_up(record, op, bin, signs < 0.5, tables)


def draw_pair(record: DrawRecord, uniforms: Tensor, tables: Tables) -> Parameters:
    """Draw a pair of ops of AutoAugment, each applied at its own rate."""
    pair = below(uniforms[0], record.count).long()
    ops, rates, bins = tables[2:5]
    op = ops[pair].where(uniforms[1:3].t() < rates[pair], record.identity)
    return *_look_up(record, op, bins[pair], uniforms[3:5].t() < 0.5, tables), pair


FORMULAS = tuple(globals()[f"draw_{kind}"] for kind in KINDS)
"""Formulas by number of their kind."""
