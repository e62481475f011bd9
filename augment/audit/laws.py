"""Laws of every distribution that ops draw from, stated a second time: closed forms, scipy, or a sample drawn with numpy.

Nothing here calls ``augment.distributions``: only the class of a distribution, the names it holds and the op's fields are read.
An op made of these distributions needs no line here. Definitions are torchvision's.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from augment.audit import policies
from augment.audit.statistics import (
    Discrete,
    Law,
    Pinned,
    Rate,
    Reference,
    beta,
    integers,
    normal,
    rate,
    rounded_uniform,
    uniform,
)
from augment.distributions import (
    Beta,
    Box,
    Chains,
    Chance,
    Choice,
    Corners,
    Distribution,
    Jitter,
    MixtureWeights,
    Normal,
    Pair,
    Position,
    Range,
    Rectangle,
    Shift,
    Square,
    Uniform,
    Window,
)
from augment.op import Op
from augment.replay import Columns

REFERENCE_DRAWS = 200_000
Shape = tuple[int, int]
"""Height and width."""
Laws = dict[str, Law]


def laws(op: Op, shape: Shape) -> Laws:
    """Return the laws of what an op draws for images of ``shape``; ``applied`` is among them."""
    stated: Laws = {"applied": Pinned(1.0)}
    for distribution in op.draws:
        if type(distribution) not in LAWS:
            raise NotImplementedError(f"augment.audit.laws states no law for {type(distribution).__name__}")
        stated |= LAWS[type(distribution)](distribution, op, shape)
    return stated


def observe(op: Op, columns: Columns, shape: Shape) -> Columns:
    """Return drawn columns in the quantities of ``laws``: ``applied``, and the others where the op was applied."""
    applied = columns["applied"]
    if any(isinstance(distribution, (Rectangle, Square)) for distribution in op.draws):
        applied = applied & (columns["height"] > 0)  # 0: none of ten rectangles fits
    drawn = {name: values[applied] for name, values in columns.items() if applied.any()}
    quantities = dict(drawn)
    for distribution in op.draws:
        if drawn and type(distribution) in QUANTITIES:
            quantities |= QUANTITIES[type(distribution)](distribution, op, drawn, shape)
    return quantities | {"applied": applied.astype(float)}


def pinned_draw(op: Op, shape: Shape) -> dict[str, float] | None:
    """Return the draw of an op without randomness; None where it is random."""
    stated = laws(op, shape)
    values = {name: law.value for name, law in stated.items() if isinstance(law, Pinned)}
    return values if len(values) == len(stated) else None


def _uniform_between(op: Any, low: str, high: str) -> Law:
    return uniform(getattr(op, low), getattr(op, high)) if high else uniform(*getattr(op, low))


def _jitter(distribution: Jitter, op: Any, shape: Shape) -> Laws:
    orders = list(itertools.permutations(range(len(distribution.fields))))
    factors = {name: uniform(*getattr(op, name)) for name in distribution.fields}
    return {**factors, "order": Discrete(dict.fromkeys(orders, 1 / len(orders)))}


def _objects(values: Sequence[Any]) -> np.ndarray:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


# ---- windows -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def sample_windows(shape: Shape, scale: Range, ratio: Range, *, erase: bool, seed: int = 20_180) -> Columns:
    """Draw windows of RandomResizedCrop (ratio: width over height) or of RandomErasing (height over width)."""
    rng = np.random.default_rng(seed)
    height, width = shape
    n = REFERENCE_DRAWS
    area = height * width * rng.uniform(*scale, (n, 10))
    aspect = np.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1]), (n, 10)))
    first_side, second_side = np.round(np.sqrt(area * aspect)), np.round(np.sqrt(area / aspect))
    h, w = (first_side, second_side) if erase else (second_side, first_side)
    fits = (h < height) & (w < width) if erase else (h > 0) & (h <= height) & (w > 0) & (w <= width)
    any_fits, attempt = np.asarray(fits.any(axis=1)), fits.argmax(axis=1)  # of ten tries, the first that fits
    h, w = h[np.arange(n), attempt], w[np.arange(n), attempt]
    top = np.floor(rng.uniform(size=n) * (height - h + 1))
    left = np.floor(rng.uniform(size=n) * (width - w + 1))
    windows = {"top": top, "left": left, "height": h, "width": w}
    if erase:
        return {name: values[any_fits] for name, values in windows.items()}
    last_h, last_w = _largest_centre(shape, ratio)
    last = {"top": (height - last_h) // 2, "left": (width - last_w) // 2, "height": last_h, "width": last_w}
    return {name: np.where(any_fits, values, last[name]) for name, values in windows.items()}


def _largest_centre(shape: Shape, ratio: Range) -> tuple[int, int]:
    height, width = shape
    if width / height < ratio[0]:
        return round(width / ratio[0]), width
    if width / height > ratio[1]:
        return height, round(height * ratio[1])
    return height, width


def _windows(shape: Shape, scale: Range, ratio: Range, *, erase: bool) -> Laws:
    sample = sample_windows(shape, scale, ratio, erase=erase)
    return {name: Pinned(float(values[0])) if np.ptp(values) == 0 else Reference(values) for name, values in sample.items()}


def _rectangle(distribution: Any, op: Any, shape: Shape) -> Laws:
    share = len(sample_windows(shape, op.scale, op.ratio, erase=True)["top"]) / REFERENCE_DRAWS
    return {"applied": rate(op.p * share), **_windows(shape, op.scale, op.ratio, erase=True)}


def _corners(distribution: Any, op: Any, shape: Shape) -> Laws:
    reach = {axis: int(op.distortion * (side // 2)) for axis, side in zip("yx", shape, strict=True)}
    return {f"corner {i} {axis}": integers(0, reach[axis]) for i in range(4) for axis in "xy"}


def _corner_shifts(distribution: Any, op: Any, drawn: Columns, shape: Shape) -> Columns:
    right, bottom = shape[1] - 1, shape[0] - 1
    start = np.array([[0, 0], [right, 0], [right, bottom], [0, bottom]], dtype=float)
    inwards = (drawn["corners"] - start) * np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    return {f"corner {i} {axis}": inwards[:, i, j] for i in range(4) for j, axis in enumerate("xy")}


# ---- mixtures of images ------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def sample_boxes(shape: Shape, alpha: float, seed: int = 20_190) -> Columns:
    """Draw CutMix's visible boxes: a uniform centre, sides sqrt(1 - lam) of the image's, cut at the border."""
    rng = np.random.default_rng(seed)
    height, width = shape
    half = 0.5 * np.sqrt(1 - rng.beta(alpha, alpha, REFERENCE_DRAWS))
    x, y = rng.integers(width, size=REFERENCE_DRAWS), rng.integers(height, size=REFERENCE_DRAWS)
    half_w, half_h = (half * width).astype(int), (half * height).astype(int)
    left, right = np.clip(x - half_w, 0, None), np.clip(x + half_w, None, width)
    top, bottom = np.clip(y - half_h, 0, None), np.clip(y + half_h, None, height)
    return {"left": left, "top": top, "box area": (right - left) * (bottom - top) / (height * width)}


def _box_area(distribution: Any, op: Any, drawn: Columns, shape: Shape) -> Columns:
    return {"box area": np.clip(drawn["height"], 0, None) * np.clip(drawn["width"], 0, None) / math.prod(shape)}


def _weights(distribution: Any, op: Any, shape: Shape) -> Laws:
    chain = beta(op.alpha, op.alpha * (op.width - 1)) if op.width > 1 else Pinned(1.0)  # marginals of a Dirichlet
    return {"weight of the image": beta(op.alpha, op.alpha), **{f"share of chain {i + 1}": chain for i in range(op.width)}}


def _shares(distribution: Any, op: Any, drawn: Columns, shape: Shape) -> Columns:
    weights = np.stack(list(drawn["weights"]))
    shares = weights[:, 1:] / weights[:, 1:].sum(axis=1, keepdims=True)
    return {"weight of the image": weights[:, 0], **{f"share of chain {i + 1}": share for i, share in enumerate(shares.T)}}


# ---- policies ----------------------------------------------------------------------------------------------------------


def _magnitude_laws(policy: str, bins: Mapping[str, Mapping[int, float]], shape: Shape) -> Laws:
    """Return the laws of the magnitudes of each op, from the weights of its bins."""
    magnitudes = policies.magnitudes(policy, bins, shape)
    return {f"magnitude of {name}": Discrete(probabilities) for name, probabilities in magnitudes.items()}


def _magnitudes(entries: Iterable[tuple[str, float]]) -> Columns:
    by_name = defaultdict[str, list[float]](list)
    for name, magnitude in entries:
        by_name[name].append(magnitude)
    return {f"magnitude of {name}": np.array(values) for name, values in by_name.items()}


def _choice(distribution: Choice, op: Any, shape: Shape) -> Laws:
    policy, names = distribution.policy, policies.OPERATIONS[distribution.policy]
    places = getattr(op, distribution.places) if distribution.places else 1
    even = Discrete(dict.fromkeys(names, 1 / len(names)))
    bins = [getattr(op, distribution.bin)] if distribution.bin else range(policies.BINS[policy])
    return {
        **{f"op {i + 1}": even for i in range(places)},
        **({"same op twice": Rate(1 / len(names))} if places == 2 else {}),
        **_magnitude_laws(policy, dict.fromkeys(names, dict.fromkeys(bins, 1.0)), shape),
    }


def _choice_quantities(distribution: Choice, op: Any, drawn: Columns, shape: Shape) -> Columns:
    names = [[name for name, _ in ops] for ops in drawn["ops"]]
    places = getattr(op, distribution.places) if distribution.places else 1
    return {
        **{f"op {i + 1}": _objects([ops[i] if i < len(ops) else "none" for ops in names]) for i in range(places)},
        "same op twice": np.array([len(ops) == 2 and ops[0] == ops[1] for ops in names]),
        **_magnitudes(itertools.chain.from_iterable(drawn["ops"])),
    }


def _pair(distribution: Pair, op: Any, shape: Shape) -> Laws:
    magnitudes = _magnitude_laws(distribution.policy, policies.auto_augment_bins(), shape)
    return {"ops": Discrete(policies.auto_augment_choices()), **magnitudes}


def _applied_ops(distribution: Pair, op: Any, drawn: Columns, shape: Shape) -> Columns:
    choices = _objects([tuple(name for name, _ in ops) for ops in drawn["ops"]])
    return {"ops": choices, **_magnitudes(itertools.chain.from_iterable(drawn["ops"]))}


def _chains(distribution: Chains, op: Any, shape: Shape) -> Laws:
    names = policies.OPERATIONS[distribution.policy]
    even = Discrete(dict.fromkeys(names, 1 / len(names)))
    bins = dict.fromkeys(names, dict.fromkeys(range(op.severity), 1.0))
    return {"depth": integers(1, 3), "op": even, **_magnitude_laws(distribution.policy, bins, shape)}


def _depths(distribution: Chains, op: Any, drawn: Columns, shape: Shape) -> Columns:
    chains = list(itertools.chain.from_iterable(drawn["chains"]))
    entries = list(itertools.chain.from_iterable(chains))
    depths = np.array([len(chain) for chain in chains], dtype=float)
    return {"depth": depths, "op": _objects([name for name, _ in entries]), **_magnitudes(entries)}


LAWS: dict[type[Distribution], Callable[[Any, Any, Shape], Laws]] = {
    Chance: lambda _, op, shape: {"applied": rate(op.p)},
    Uniform: lambda drawn, op, shape: {drawn.name: _uniform_between(op, drawn.low, drawn.high)},
    Shift: lambda drawn, op, shape: {drawn.name: rounded_uniform(getattr(op, drawn.share)[drawn.axis] * shape[1 - drawn.axis])},
    Position: lambda _, op, shape: {
        name: integers(0, side + 2 * op.padding - op.size) for name, side in zip(("top", "left"), shape, strict=True)
    },
    Jitter: _jitter,
    Normal: lambda _, op, shape: {"noise": normal(op.sigma)},
    Window: lambda _, op, shape: _windows(shape, op.scale, op.ratio, erase=False),
    Rectangle: _rectangle,
    Square: lambda _, op, shape: _windows(shape, (op.side**2,) * 2, (1.0, 1.0), erase=True),
    Corners: _corners,
    Beta: lambda _, op, shape: {"lam": beta(op.alpha, op.alpha)},
    Box: lambda _, op, shape: {name: Reference(sample) for name, sample in sample_boxes(shape, op.alpha).items()},
    MixtureWeights: _weights,
    Choice: _choice,
    Pair: _pair,
    Chains: _chains,
}
"""Laws by quantity: (distribution, op, shape) -> laws."""

QUANTITIES: dict[type[Distribution], Callable[[Any, Any, Columns, Shape], Columns]] = {
    Jitter: lambda _, op, drawn, shape: {"order": _objects([tuple(int(i) for i in order) for order in drawn["order"]])},
    Normal: lambda _, op, drawn, shape: {"noise": drawn["noise"].reshape(-1)},
    Corners: _corner_shifts,
    Box: _box_area,
    MixtureWeights: _shares,
    Choice: _choice_quantities,
    Pair: _applied_ops,
    Chains: _depths,
}
"""Quantities that the laws are about and that are no columns: (distribution, op, drawn columns, shape) -> quantities."""
