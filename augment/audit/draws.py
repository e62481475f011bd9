"""What each op draws: its definition as laws (``laws``), and a backend's draws in the same quantities (``observe``).

Laws without a closed form are samples of the definition, drawn here with numpy and not by a library.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import special

from augment.audit.columns import DRAWN_AS
from augment.audit.definitions import chain_operations, magnitudes_of, sub_policies
from augment.audit.laws import Continuous, Discrete, Law, Pinned, Rate, Reference, beta, integers, rounded_uniform, uniform
from augment.ops import Op

Columns = Mapping[str, np.ndarray]
REFERENCE_DRAWS = 200_000


@lru_cache(maxsize=64)
def sample_windows(
    shape: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], *, erase: bool, seed: int = 20_180
) -> dict[str, np.ndarray]:
    """Windows of RandomResizedCrop (ratio: width over height) or of RandomErasing (height over width), n of each."""
    rng = np.random.default_rng(seed)
    height, width = shape
    n = REFERENCE_DRAWS
    area = height * width * rng.uniform(*scale, (n, 10))
    aspect = np.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1]), (n, 10)))
    across, along = np.round(np.sqrt(area * aspect)), np.round(np.sqrt(area / aspect))
    h, w = (across, along) if erase else (along, across)
    fits = (h < height) & (w < width) if erase else (h > 0) & (h <= height) & (w > 0) & (w <= width)
    found, first = np.asarray(fits.any(axis=1)), fits.argmax(axis=1)  # of ten tries, the first that fits
    rows = np.arange(n)
    h, w = h[rows, first], w[rows, first]
    top = np.floor(rng.uniform(size=n) * (height - h + 1))
    left = np.floor(rng.uniform(size=n) * (width - w + 1))
    if erase:
        keep = found
        return {"top": top[keep], "left": left[keep], "height": h[keep], "width": w[keep], "none fits": ~found}
    last_h, last_w = _largest_centred(shape, ratio)
    h, w = np.where(found, h, last_h), np.where(found, w, last_w)
    top = np.where(found, top, (height - last_h) // 2)
    left = np.where(found, left, (width - last_w) // 2)
    return {"top": top, "left": left, "height": h, "width": w}


def _largest_centred(shape: tuple[int, int], ratio: tuple[float, float]) -> tuple[int, int]:
    height, width = shape
    if width / height < ratio[0]:
        return round(width / ratio[0]), width
    if width / height > ratio[1]:
        return height, round(height * ratio[1])
    return height, width


@lru_cache(maxsize=8)
def sample_boxes(shape: tuple[int, int], alpha: float, seed: int = 20_190) -> dict[str, np.ndarray]:
    """CutMix's visible boxes: a uniform centre, sides sqrt(1 - lam) of the image's, cut at the border."""
    rng = np.random.default_rng(seed)
    height, width = shape
    half = 0.5 * np.sqrt(1 - rng.beta(alpha, alpha, REFERENCE_DRAWS))
    x, y = rng.integers(width, size=REFERENCE_DRAWS), rng.integers(height, size=REFERENCE_DRAWS)
    half_w, half_h = (half * width).astype(int), (half * height).astype(int)
    x1, x2 = np.clip(x - half_w, 0, None), np.clip(x + half_w, None, width)
    y1, y2 = np.clip(y - half_h, 0, None), np.clip(y + half_h, None, height)
    return {"box x": x1, "box y": y1, "box area": (x2 - x1) * (y2 - y1) / (height * width)}


# ---- the laws of each op ----------------------------------------------------------------------------------------------


def _factor(op: Any, shape: tuple[int, int]) -> dict[str, Law]:
    return {"factor": uniform(op.low, op.high)}


def _windows(op: Any, shape: tuple[int, int]) -> dict[str, Law]:
    if op.scale[0] == op.scale[1] == 1.0 and op.ratio == (1.0, 1.0):
        return {}
    sample = sample_windows(shape, op.scale, op.ratio, erase=False)
    return {name: Reference(sample=values) for name, values in sample.items()}


def _erasing(op: Any, shape: tuple[int, int]) -> dict[str, Law]:
    square = getattr(op, "side", None)
    scale, ratio = (op.scale, op.ratio) if square is None else ((square**2,) * 2, (1.0, 1.0))
    sample = sample_windows(shape, scale, ratio, erase=True)
    laws: dict[str, Law] = {name: Reference(sample=sample[name]) for name in ("top", "left", "height", "width")}
    if square is not None:
        laws |= {name: Pinned(value=float(sample[name][0])) for name in ("height", "width")}
    return laws


def _jitter(op: Any, shape: tuple[int, int]) -> dict[str, Law]:
    factors = {name: uniform(*getattr(op, name)) for name in ("brightness", "contrast", "saturation", "hue")}
    orders = dict.fromkeys(itertools.permutations(range(4)), 1 / 24)
    return {**factors, "order": Discrete(probabilities=orders)}


def _perspective(op: Any, shape: tuple[int, int]) -> dict[str, Law]:
    height, width = shape
    reach = {"x": int(op.distortion * (width // 2)), "y": int(op.distortion * (height // 2))}
    return {f"corner {i} {axis}": integers(0, reach[axis]) for i in range(4) for axis in "xy"}


def _policy(op: Any, shape: tuple[int, int]) -> dict[str, Law]:
    pairs = sub_policies(op)
    laws: dict[str, Law] = {}
    if pairs:
        names: Counter[tuple[str, ...]] = Counter()
        for pair in pairs:
            for happens in itertools.product((True, False), repeat=len(pair)):
                chances = [p if yes else 1 - p for yes, (_, p, _) in zip(happens, pair, strict=True)]
                drawn = tuple(name for yes, (name, _, _) in zip(happens, pair, strict=True) if yes)
                names[drawn] += math.prod(chances) / len(pairs)  # type: ignore[assignment]
        laws["ops"] = Discrete(probabilities=names)
    else:
        operations = chain_operations(op)
        even = {name: 1 / len(operations) for name in operations}
        laws |= {f"op {slot + 1}": Discrete(probabilities=even) for slot in range(getattr(op, "num_ops", 1))}
        if getattr(op, "num_ops", 1) == 2:
            laws["same op twice"] = Rate(p=1 / len(operations))
    return laws | {f"magnitude of {name}": Discrete(probabilities=values) for name, values in magnitudes_of(op, shape).items()}


def _augmix(op: Any, shape: tuple[int, int]) -> dict[str, Law]:
    operations = chain_operations(op)
    return {
        "weight of the image": beta(op.alpha),
        "depth": integers(1, 3),
        "op": Discrete(probabilities={name: 1 / len(operations) for name in operations}),
        **{f"magnitude of {n}": Discrete(probabilities=v) for n, v in magnitudes_of(op, shape).items()},
    }


LAWS: dict[str, Callable[[Any, tuple[int, int]], dict[str, Law]]] = {
    "RandomCrop": lambda op, shape: {
        "top": integers(0, shape[0] + 2 * op.padding - op.size),
        "left": integers(0, shape[1] + 2 * op.padding - op.size),
    },
    "RandomResizedCrop": _windows,
    "Rotate": lambda op, shape: {"angle": uniform(*op.degrees)},
    "Affine": lambda op, shape: {
        "angle": uniform(*op.degrees),
        "dx": rounded_uniform(op.translate[0] * shape[1]),
        "dy": rounded_uniform(op.translate[1] * shape[0]),
        "scale": uniform(*op.scale),
        "shear": uniform(*op.shear),
    },
    "Perspective": _perspective,
    "Brightness": _factor,
    "Contrast": _factor,
    "Saturation": _factor,
    "Hue": _factor,
    "ColorJitter": _jitter,
    "GaussianBlur": lambda op, shape: {"sigma": uniform(*op.sigma)},
    "GaussianNoise": lambda op, shape: {
        "noise": Continuous(low=-3 * op.sigma, high=3 * op.sigma, cdf=lambda x: special.ndtr(x / op.sigma))
    },
    "RandomErasing": _erasing,
    "Cutout": _erasing,
    "AutoAugment": _policy,
    "RandAugment": _policy,
    "TrivialAugmentWide": _policy,
    "AugMix": _augmix,
    "MixUp": lambda op, shape: {"lam": beta(op.alpha)},
    "CutMix": lambda op, shape: {n: Reference(sample=v) for n, v in sample_boxes(shape, op.alpha).items()},
}
LAWS |= {name: LAWS[plain] for name, plain in DRAWN_AS.items()}


def laws(op: Op, shape: tuple[int, int]) -> dict[str, Law]:
    """The definition of an op's draws for images of ``shape`` (height, width); empty where it draws nothing."""
    rate: dict[str, Law] = {"applied": Rate(p=p)} if 0 < (p := getattr(op, "p", 1.0)) < 1 else {}
    if p == 1.0:
        rate = {"applied": Pinned(value=1.0)}
    return rate | LAWS.get(op.name, lambda op, shape: {})(op, shape)


# ---- what was drawn, in the same quantities ---------------------------------------------------------------------------


def _observe_policy(op: Op, drawn: np.ndarray) -> dict[str, np.ndarray]:
    seen: dict[str, np.ndarray] = {}
    names = [tuple(name for name, _ in ops) for ops in drawn]
    if sub_policies(op):
        seen["ops"] = _objects(names)
    else:
        slots = getattr(op, "num_ops", 1)
        for slot in range(slots):
            seen[f"op {slot + 1}"] = _objects([ops[slot] if slot < len(ops) else "none" for ops in names])
        if slots == 2:
            seen["same op twice"] = np.array([len(ops) == 2 and ops[0] == ops[1] for ops in names])
    return seen | _magnitudes(itertools.chain.from_iterable(drawn))


def _objects(values: Sequence[Any]) -> np.ndarray:
    result = np.empty(len(values), dtype=object)
    result[:] = values
    return result


def _magnitudes(pairs: Any) -> dict[str, np.ndarray]:
    by_name: dict[str, list[float]] = {}
    for name, magnitude in pairs:
        by_name.setdefault(name, []).append(magnitude)
    return {f"magnitude of {name}": np.array(values) for name, values in by_name.items()}


def _observe_augmix(columns: Columns) -> dict[str, np.ndarray]:
    chains = list(itertools.chain.from_iterable(columns["chains"]))
    flat = list(itertools.chain.from_iterable(chains))
    return {
        "weight of the image": np.array([weights[0] for weights in columns["weights"]]),
        "depth": np.array([len(chain) for chain in chains], dtype=float),
        "op": _objects([name for name, _ in flat]),
        **_magnitudes(flat),
    }


def _observe_corners(corners: np.ndarray, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    height, width = shape
    start = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], dtype=float)
    inwards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], dtype=float)
    shifts = (corners - start) * inwards
    return {f"corner {i} {axis}": shifts[:, i, j] for i in range(4) for j, axis in enumerate("xy")}


def _observe_boxes(box: np.ndarray, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    sides = np.clip(box[:, 2:] - box[:, :2], 0, None)
    return {"box x": box[:, 0], "box y": box[:, 1], "box area": sides.prod(axis=1) / (shape[0] * shape[1])}


def observe(op: Op, columns: Columns, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Drawn columns in the quantities of ``laws``: those of the images that the op was applied to, and ``applied``."""
    applied = columns["applied"]
    drawn = {name: values[applied] for name, values in columns.items() if name != "applied"}
    seen: dict[str, np.ndarray] = {"applied": applied.astype(float)}
    if not applied.any():
        return seen
    if "ops" in drawn:
        return seen | _observe_policy(op, drawn["ops"])
    if "chains" in drawn:
        return seen | _observe_augmix(drawn)
    if "corners" in drawn:
        return seen | _observe_corners(drawn["corners"], shape)
    if "box" in drawn:
        return seen | _observe_boxes(drawn["box"], shape)
    if "noise" in drawn:
        return seen | {"noise": drawn["noise"].reshape(-1)}
    if "order" in drawn:
        drawn["order"] = _objects([tuple(int(i) for i in order) for order in drawn["order"]])
    if op.name in {"RandomErasing", "Cutout"}:
        erased = drawn["height"] > 0
        drawn = {name: values[erased] for name, values in drawn.items()}
    return seen | drawn
