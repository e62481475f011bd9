"""Laws of every distribution that ops draw from, stated a second time: closed forms, scipy, or a sample drawn with numpy.

Nothing here calls ``augment.distributions``: only the class of a distribution, the names it holds and the op's fields are read.
An op made of these distributions needs no line here. Definitions are torchvision's.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, singledispatch
from typing import Any

import numpy as np

from augment.audit import policies
from augment.audit.statistics import Discrete, Law, Pinned, Rate, Reference, beta, integers, normal, rounded_uniform, uniform
from augment.distributions import (
    Beta,
    Box,
    Chains,
    Chance,
    Choice,
    Corners,
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


def laws(op: Op, shape: Shape) -> dict[str, Law]:
    """Return the laws of what an op draws for images of ``shape``; ``applied`` is among them."""
    stated: dict[str, Law] = {"applied": Pinned(1.0)}
    for distribution in op.draws:
        stated |= state(distribution, op, shape)
    return stated


def observe(op: Op, columns: Columns, shape: Shape) -> Columns:
    """Return drawn columns in the quantities of ``laws``: ``applied``, and the others where the op was applied."""
    applied = columns["applied"]
    drawn = {name: values[applied] for name, values in columns.items()}
    seen = dict(drawn) if applied.any() else {}
    for distribution in op.draws if applied.any() else ():
        seen |= derive(distribution, op, drawn, shape)
    return seen | {"applied": applied.astype(float)}


def pinned_draw(op: Op, shape: Shape) -> dict[str, float] | None:
    """Return the draw of an op without randomness; None where it is random."""
    stated = laws(op, shape)
    return {name: law.value for name, law in stated.items() if isinstance(law, Pinned)} if not is_random(stated) else None


def is_random(stated: dict[str, Law]) -> bool:
    """Return whether any law leaves a choice."""
    return not all(isinstance(law, Pinned) for law in stated.values())


@singledispatch
def state(distribution: Any, op: Any, shape: Shape) -> dict[str, Law]:
    """Return the laws of one distribution by quantity."""
    raise NotImplementedError(f"augment.audit.laws states no law for {type(distribution).__name__}")


@singledispatch
def derive(distribution: Any, op: Any, drawn: Columns, shape: Shape) -> Columns:
    """Return quantities that the laws are about and that are no columns."""
    return {}


# ---- events and numbers ------------------------------------------------------------------------------------------------


@state.register
def _(distribution: Chance, op: Any, shape: Shape) -> dict[str, Law]:
    return {"applied": Rate(op.p) if 0 < op.p < 1 else Pinned(op.p)}


@state.register
def _(distribution: Uniform, op: Any, shape: Shape) -> dict[str, Law]:
    low = getattr(op, distribution.low)
    return {distribution.name: uniform(low, getattr(op, distribution.high)) if distribution.high else uniform(*low)}


@state.register
def _(distribution: Shift, op: Any, shape: Shape) -> dict[str, Law]:
    side = shape[1 - distribution.axis]
    return {distribution.name: rounded_uniform(getattr(op, distribution.share)[distribution.axis] * side)}


@state.register
def _(distribution: Position, op: Any, shape: Shape) -> dict[str, Law]:
    return {name: integers(0, side + 2 * op.padding - op.size) for name, side in zip(("top", "left"), shape, strict=True)}


@state.register
def _(distribution: Jitter, op: Any, shape: Shape) -> dict[str, Law]:
    orders = list(itertools.permutations(range(len(distribution.fields))))
    factors = {name: uniform(*getattr(op, name)) for name in distribution.fields}
    return {**factors, "order": Discrete(dict.fromkeys(orders, 1 / len(orders)))}


@derive.register
def _(distribution: Jitter, op: Any, drawn: Columns, shape: Shape) -> Columns:
    return {"order": _objects([tuple(int(i) for i in order) for order in drawn["order"]])}


@state.register
def _(distribution: Normal, op: Any, shape: Shape) -> dict[str, Law]:
    return {"noise": normal(op.sigma)}


@derive.register
def _(distribution: Normal, op: Any, drawn: Columns, shape: Shape) -> Columns:
    return {"noise": drawn["noise"].reshape(-1)}


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
    last_h, last_w = _largest_centred(shape, ratio)
    last = {"top": (height - last_h) // 2, "left": (width - last_w) // 2, "height": last_h, "width": last_w}
    return {name: np.where(any_fits, values, last[name]) for name, values in windows.items()}


def _largest_centred(shape: Shape, ratio: Range) -> tuple[int, int]:
    height, width = shape
    if width / height < ratio[0]:
        return round(width / ratio[0]), width
    if width / height > ratio[1]:
        return height, round(height * ratio[1])
    return height, width


def _windows(shape: Shape, scale: Range, ratio: Range, *, erase: bool) -> dict[str, Law]:
    sample = sample_windows(shape, scale, ratio, erase=erase)
    return {name: Pinned(float(values[0])) if np.ptp(values) == 0 else Reference(values) for name, values in sample.items()}


@state.register
def _(distribution: Window, op: Any, shape: Shape) -> dict[str, Law]:
    return _windows(shape, op.scale, op.ratio, erase=False)


@state.register
def _(distribution: Rectangle, op: Any, shape: Shape) -> dict[str, Law]:
    return {"applied": Rate(op.p) if 0 < op.p < 1 else Pinned(op.p)} | _windows(shape, op.scale, op.ratio, erase=True)


@state.register
def _(distribution: Square, op: Any, shape: Shape) -> dict[str, Law]:
    return _windows(shape, (op.side**2,) * 2, (1.0, 1.0), erase=True)


@derive.register(Rectangle)
@derive.register(Square)
def _(distribution: Any, op: Any, drawn: Columns, shape: Shape) -> Columns:
    return {name: drawn[name][drawn["height"] > 0] for name in ("top", "left", "height", "width")}  # 0: none of ten fits


@state.register
def _(distribution: Corners, op: Any, shape: Shape) -> dict[str, Law]:
    reach = {axis: int(op.distortion * (side // 2)) for axis, side in zip("yx", shape, strict=True)}
    return {f"corner {i} {axis}": integers(0, reach[axis]) for i in range(4) for axis in "xy"}


@derive.register
def _(distribution: Corners, op: Any, drawn: Columns, shape: Shape) -> Columns:
    right, bottom = shape[1] - 1, shape[0] - 1
    start = np.array([[0, 0], [right, 0], [right, bottom], [0, bottom]], dtype=float)
    inwards = (drawn["corners"] - start) * np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    return {f"corner {i} {axis}": inwards[:, i, j] for i in range(4) for j, axis in enumerate("xy")}


# ---- mixtures of images ------------------------------------------------------------------------------------------------


@state.register
def _(distribution: Beta, op: Any, shape: Shape) -> dict[str, Law]:
    return {"lam": beta(op.alpha, op.alpha)}


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


@state.register
def _(distribution: Box, op: Any, shape: Shape) -> dict[str, Law]:
    return {name: Reference(sample) for name, sample in sample_boxes(shape, op.alpha).items()}


@derive.register
def _(distribution: Box, op: Any, drawn: Columns, shape: Shape) -> Columns:
    sides = np.clip(drawn["height"], 0, None) * np.clip(drawn["width"], 0, None)
    return {"box area": sides / math.prod(shape)}


@state.register
def _(distribution: MixtureWeights, op: Any, shape: Shape) -> dict[str, Law]:
    chain = beta(op.alpha, op.alpha * (op.width - 1)) if op.width > 1 else Pinned(1.0)  # marginals of a Dirichlet
    return {"weight of the image": beta(op.alpha, op.alpha), **{f"share of chain {i + 1}": chain for i in range(op.width)}}


@derive.register
def _(distribution: MixtureWeights, op: Any, drawn: Columns, shape: Shape) -> Columns:
    weights = np.stack(list(drawn["weights"]))
    shares = weights[:, 1:] / weights[:, 1:].sum(axis=1, keepdims=True)
    return {"weight of the image": weights[:, 0], **{f"share of chain {i + 1}": share for i, share in enumerate(shares.T)}}


# ---- policies ----------------------------------------------------------------------------------------------------------


def _magnitude_laws(policy: str, bins: Mapping[str, Mapping[int, float]], shape: Shape) -> dict[str, Law]:
    """Return the laws of the magnitudes of each op, from the weights of its bins."""
    magnitudes = policies.magnitudes(policy, bins, shape)
    return {f"magnitude of {name}": Discrete(probabilities) for name, probabilities in magnitudes.items()}


def _magnitudes(entries: Iterable[tuple[str, float]]) -> Columns:
    by_name: dict[str, list[float]] = {}
    for name, magnitude in entries:
        by_name.setdefault(name, []).append(magnitude)
    return {f"magnitude of {name}": np.array(values) for name, values in by_name.items()}


@state.register
def _(distribution: Choice, op: Any, shape: Shape) -> dict[str, Law]:
    policy, names = distribution.policy, policies.OPERATIONS[distribution.policy]
    places = getattr(op, distribution.places) if distribution.places else 1
    stated: dict[str, Law] = {f"op {i + 1}": Discrete(dict.fromkeys(names, 1 / len(names))) for i in range(places)}
    if places == 2:
        stated["same op twice"] = Rate(1 / len(names))
    bins = [getattr(op, distribution.bin)] if distribution.bin else range(policies.BINS[policy])
    return stated | _magnitude_laws(policy, dict.fromkeys(names, dict.fromkeys(bins, 1.0)), shape)


@derive.register
def _(distribution: Choice, op: Any, drawn: Columns, shape: Shape) -> Columns:
    names = [[name for name, _ in ops] for ops in drawn["ops"]]
    places = getattr(op, distribution.places) if distribution.places else 1
    seen = {f"op {i + 1}": _objects([ops[i] if i < len(ops) else "none" for ops in names]) for i in range(places)}
    seen["same op twice"] = np.array([len(ops) == 2 and ops[0] == ops[1] for ops in names])
    return seen | _magnitudes(itertools.chain.from_iterable(drawn["ops"]))


@state.register
def _(distribution: Pair, op: Any, shape: Shape) -> dict[str, Law]:
    magnitudes = _magnitude_laws(distribution.policy, policies.auto_augment_bins(), shape)
    return {"ops": Discrete(policies.auto_augment_choices()), **magnitudes}


@derive.register
def _(distribution: Pair, op: Any, drawn: Columns, shape: Shape) -> Columns:
    choices = _objects([tuple(name for name, _ in ops) for ops in drawn["ops"]])
    return {"ops": choices, **_magnitudes(itertools.chain.from_iterable(drawn["ops"]))}


@state.register
def _(distribution: Chains, op: Any, shape: Shape) -> dict[str, Law]:
    names = policies.OPERATIONS[distribution.policy]
    even = Discrete(dict.fromkeys(names, 1 / len(names)))
    bins = dict.fromkeys(names, dict.fromkeys(range(op.severity), 1.0))
    return {"depth": integers(1, 3), "op": even, **_magnitude_laws(distribution.policy, bins, shape)}


@derive.register
def _(distribution: Chains, op: Any, drawn: Columns, shape: Shape) -> Columns:
    chains = list(itertools.chain.from_iterable(drawn["chains"]))
    entries = list(itertools.chain.from_iterable(chains))
    depths = np.array([len(chain) for chain in chains], dtype=float)
    return {"depth": depths, "op": _objects([name for name, _ in entries]), **_magnitudes(entries)}
