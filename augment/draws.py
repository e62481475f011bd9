"""What a recipe draws, in numbers: which rows of one matrix of uniform numbers become which parameters, and by which formula.

``augment.sampling`` defines the formulas by tensor operations and draws the matrix, float32 [rows, B], a row for each number
that an image needs. ``encode`` puts a recipe into records for what does all of them in one step: C on a CPU
(``augment.native_draws``) and a Triton kernel on CUDA (``augment.triton_draws``). What is not uniform PyTorch draws by itself:
``Given``.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from augment import ops, policies
from augment.geometry import output_size
from augment.ops import Op, Range

TRIES = 10
"""Windows that torchvision draws before it falls back (RandomResizedCrop) or gives up (RandomErasing)."""

KINDS = (
    "chance", "below", "uniform", "order", "window", "rectangle", "square", "corners", "cutmix", "weights", "policy", "pair",
)  # fmt: skip
"""The formulas. A record is (kind, first row, first output, first given tensor, first table, constants ...)."""

CONSTANTS = 5
"""Where a record's constants begin."""

Record = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Output:
    """A parameter of the op at ``index``: ``dtype`` [B, *shape]."""

    index: int
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Given:
    """What PyTorch draws by itself for the op at ``index``, by ``method`` of ``source.Source``; a parameter if named."""

    index: int
    method: str
    arguments: tuple[Any, ...]
    name: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """The draws of a recipe for images of one size. Compared by identity: ``encode`` makes each once.

    ``tables``: (policy, height, width) whose ``policies.tables`` the records read, one after the other.
    """

    rows: int
    records: tuple[Record, ...]
    outputs: tuple[Output, ...]
    given: tuple[Given, ...]
    tables: tuple[tuple[str, int, int], ...]


@functools.lru_cache(maxsize=256)
def encode(recipe: tuple[Op, ...], height: int, width: int) -> Program:
    """The recipe's draws for images of that size. Raises ValueError where an op cannot be done on them."""
    records: list[Record] = []
    outputs: list[Output] = []
    given: list[Given] = []
    tables: list[tuple[str, int, int]] = []
    row = table = 0
    for index, op in enumerate(recipe):
        result = output_size(op, height, width)  # first: it says what is wrong with sizes that cannot be
        drawn = ENCODERS[type(op)](op, height, width)
        for kind, its_row, its_output, *constants in drawn.records:
            at = (row + its_row, len(outputs) + its_output, len(given), table)
            records.append((KINDS.index(kind), *at, *constants))
        outputs += [Output(index, name, *kind) for name, kind in drawn.outputs.items()]
        given += [Given(index, *each) for each in drawn.given]
        if drawn.policy:
            tables.append((drawn.policy, height, width))
            table += policies.TABLES[drawn.policy]
        row += rows(op)
        height, width = result
    return Program(row, tuple(records), tuple(outputs), tuple(given), tuple(tables))


# ---- how many numbers an op needs -------------------------------------------------------------------------------------


def is_uniform(alpha: float) -> bool:
    """Whether Beta(alpha, alpha) is the uniform distribution."""
    return alpha == 1.0


def count(recipe: Sequence[Op]) -> int:
    """Rows of uniform numbers that a recipe needs, whatever the size of images."""
    return sum(rows(op) for op in recipe)


def rows(op: Op) -> int:
    """Rows of uniform numbers that an op needs."""
    return ROWS[type(op)](op)


def _fixed(number: int) -> Callable[[Any], int]:
    return lambda op: number


ROWS: dict[type[Op], Callable[[Any], int]] = {
    **dict.fromkeys((ops.Resize, ops.CenterCrop, ops.Normalize, ops.GaussianNoise), _fixed(0)),
    **dict.fromkeys((ops.HorizontalFlip, ops.VerticalFlip, ops.Grayscale, ops.Solarize, ops.Posterize), _fixed(1)),
    **dict.fromkeys((ops.Equalize, ops.AutoContrast, ops.Invert, ops.Sharpness), _fixed(1)),
    **dict.fromkeys((ops.Brightness, ops.Contrast, ops.Saturation, ops.Hue, ops.GaussianBlur, ops.Rotate), _fixed(1)),
    ops.RandomCrop: _fixed(2),
    ops.RandomResizedCrop: _fixed(2 * TRIES + 2),
    ops.Affine: _fixed(5),
    ops.Perspective: _fixed(4 + 4 + 1),
    ops.ColorJitter: _fixed(4 + 4),
    ops.RandomErasing: _fixed(2 * TRIES + 3),
    ops.Cutout: _fixed(2),
    ops.MixUp: lambda op: int(is_uniform(op.alpha)),
    ops.CutMix: lambda op: 2 + is_uniform(op.alpha),
    ops.RandAugment: lambda op: 2 * op.num_ops,
    ops.TrivialAugmentWide: _fixed(3),
    ops.AutoAugment: _fixed(1 + 2 + 2),
    ops.AugMix: lambda op: op.width * (1 + 3 * 3) + is_uniform(op.alpha),
}
"""By op; each row is used once, in the order in which ``sampling.SAMPLERS`` takes them."""


# ---- an op in records -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What an op draws. ``records``: (kind, row, output, constants ...), counted from the op's first ones."""

    outputs: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    records: Sequence[Record] = ()
    given: Sequence[tuple[Any, ...]] = ()
    policy: str = ""


_NUMBER, _WHOLE, _FLAG = (torch.float32,), (torch.int64,), (torch.bool,)
_WINDOW = dict.fromkeys(("top", "left", "height", "width"), _NUMBER)


def _uniform(bounds: Range, row: int, output: int, *, size: int = 1, place: int = 0, rounded: bool = False) -> Record:
    """Uniform in ``bounds``, written to ``place`` of the ``size`` numbers that the output has for an image."""
    return ("uniform", row, output, size, place, bounds[1] - bounds[0], bounds[0], int(rounded))


def _nothing(op: Op, height: int, width: int) -> _Drawn:
    return _Drawn()


def _applied(op: Any, height: int, width: int) -> _Drawn:
    return _Drawn({"applied": _FLAG}, [("chance", 0, 0, op.p)])


def _factor(op: Any, height: int, width: int) -> _Drawn:
    return _Drawn({"factor": _NUMBER}, [_uniform((op.low, op.high), 0, 0)])


def _random_crop(op: ops.RandomCrop, height: int, width: int) -> _Drawn:
    positions = [float(side + 2 * op.padding - op.size + 1) for side in (height, width)]
    return _Drawn({"top": _WHOLE, "left": _WHOLE}, [("below", axis, axis, number) for axis, number in enumerate(positions)])


def largest_window(height: int, width: int, ratio: Range) -> tuple[int, int]:
    """Height and width of the largest window of the image whose width over height is allowed: torchvision's fallback."""
    if width / height < min(ratio):
        return round(width / min(ratio)), width
    if width / height > max(ratio):
        return height, round(height * max(ratio))
    return height, width


def _tries(scale: Range, ratio: Range, height: int, width: int) -> Record:
    """Constants of windows that are drawn until one fits."""
    low, high = math.log(ratio[0]), math.log(ratio[1])
    return (scale[1] - scale[0], scale[0], float(height * width), high - low, low, float(height), float(width))


def _resized_crop(op: ops.RandomResizedCrop, height: int, width: int) -> _Drawn:
    fallback = largest_window(height, width, op.ratio)
    return _Drawn(_WINDOW, [("window", 0, 0, *_tries(op.scale, op.ratio, height, width), *map(float, fallback))])


def _rotate(op: ops.Rotate, height: int, width: int) -> _Drawn:
    return _Drawn({"angle": _NUMBER}, [_uniform(op.degrees, 0, 0)])


def _affine(op: ops.Affine, height: int, width: int) -> _Drawn:
    farthest_x, farthest_y = op.translate[0] * width, op.translate[1] * height
    bounds = (op.degrees, (-farthest_x, farthest_x), (-farthest_y, farthest_y), op.scale, op.shear)
    names = ("angle", "translate_x", "translate_y", "scale", "shear")
    records = [_uniform(each, i, i, rounded=names[i].startswith("translate")) for i, each in enumerate(bounds)]
    return _Drawn(dict.fromkeys(names, _NUMBER), records)


def reaches(op: ops.Perspective, height: int, width: int) -> tuple[int, int]:
    """Of how many places, along x and along y, a corner's is drawn."""
    return int(op.distortion * (width // 2)) + 1, int(op.distortion * (height // 2)) + 1


def _perspective(op: ops.Perspective, height: int, width: int) -> _Drawn:
    sides = (*reaches(op, height, width), width - 1, height - 1)
    outputs = {"applied": _FLAG, "corners": (torch.int64, (4, 2))}
    return _Drawn(outputs, [("corners", 0, 1, *map(float, sides)), ("chance", 8, 0, op.p)])


def _color_jitter(op: ops.ColorJitter, height: int, width: int) -> _Drawn:
    bounds = (op.brightness, op.contrast, op.saturation, op.hue)
    factors = [_uniform(each, i, 1, size=4, place=i) for i, each in enumerate(bounds)]
    return _Drawn({"order": (torch.int64, (4,)), "factors": (torch.float32, (4,))}, [*factors, ("order", 4, 0)])


def _blur(op: ops.GaussianBlur, height: int, width: int) -> _Drawn:
    return _Drawn({"sigma": _NUMBER}, [_uniform(op.sigma, 0, 0)])


def _noise(op: ops.GaussianNoise, height: int, width: int) -> _Drawn:
    return _Drawn(given=[("noise", (op.sigma, height, width), "noise")])


def _erasing(op: ops.RandomErasing, height: int, width: int) -> _Drawn:
    return _Drawn(_WINDOW, [("rectangle", 0, 0, *_tries(op.scale, op.ratio, height, width), op.p)])


def square(op: ops.Cutout, height: int, width: int) -> int:
    """Side of the square that is cut out; 0 where it does not lie wholly inside the image."""
    side = round(op.side * math.sqrt(height * width))
    return side if side < min(height, width) else 0


def _cutout(op: ops.Cutout, height: int, width: int) -> _Drawn:
    return _Drawn(_WINDOW, [("square", 0, 0, float(height), float(width), float(square(op, height, width)))])


def _mixup(op: ops.MixUp, height: int, width: int) -> _Drawn:
    if is_uniform(op.alpha):
        return _Drawn({"lam": _NUMBER}, [_uniform((0.0, 1.0), 0, 0)])
    return _Drawn(given=[("beta", (op.alpha,), "lam")])


def _cutmix(op: ops.CutMix, height: int, width: int) -> _Drawn:
    is_given = not is_uniform(op.alpha)
    record = ("cutmix", 0, 0, int(is_given), float(height), float(width))
    return _Drawn({**_WINDOW, "lam": _NUMBER}, [record], [("beta", (op.alpha,))] * is_given)


def _looked_up(*shape: int) -> dict[str, tuple[Any, ...]]:
    return {
        "op": (torch.int64, shape), "bin": (torch.int64, shape), "negative": (torch.bool, shape),
        "kernel": (torch.int64, shape), "arguments": (torch.float32, (*shape, policies.ARGUMENTS)),
    }  # fmt: skip


def _policy(space: policies.Space, places: int, choices: int, bins: int, first_bin: int, chain: int = 0) -> Record:
    """``places`` ops of the first ``choices``, and bins: one of ``bins`` from ``first_bin`` on, where 0 draws none.

    Places form chains of ``chain`` ops, of which 1 to all are drawn; 0: no chains. Rows: the depth of each chain, then
    of each place the op, the bin if one is drawn, and the sign; the last three constants say where those three begin.
    """
    ops_from = places // chain if chain else 0
    bins_from, signs_from = ops_from + places, ops_from + places + places * (bins > 0)
    rows_from = (ops_from, bins_from, signs_from)
    return ("policy", 0, 0, places, float(choices), float(bins), first_bin, chain, space.bins, *rows_from)


def _randaugment(op: ops.RandAugment, height: int, width: int) -> _Drawn:
    space = policies.RANDAUGMENT
    record = _policy(space, op.num_ops, len(space.names), 0, op.magnitude)
    return _Drawn(_looked_up(op.num_ops), [record], policy=space.policy)


def _trivialaugment(op: ops.TrivialAugmentWide, height: int, width: int) -> _Drawn:
    space = policies.TRIVIALAUGMENT
    return _Drawn(_looked_up(1), [_policy(space, 1, len(space.names), space.bins, 0)], policy=space.policy)


def _autoaugment(op: ops.AutoAugment, height: int, width: int) -> _Drawn:
    space = policies.AUTOAUGMENT
    record = ("pair", 0, 0, float(len(policies.CIFAR10_PAIRS)), space.names.index("Identity"), space.bins)
    return _Drawn({**_looked_up(2), "pair": _WHOLE}, [record], policy=space.policy)


def _augmix(op: ops.AugMix, height: int, width: int) -> _Drawn:
    space, is_given = policies.AUGMIX, not is_uniform(op.alpha)
    outputs = {**_looked_up(op.width, 3), "weights": (torch.float32, (1 + op.width,))}
    chains = _policy(space, 3 * op.width, len(space.names) - 1, op.severity, 0, 3)
    weights = ("weights", 10 * op.width, 5, int(is_given), op.width)
    given = [("beta", (op.alpha,))] * is_given + [("dirichlet", (op.alpha, op.width))]
    return _Drawn(outputs, [chains, weights], given, space.policy)


ENCODERS: dict[type[Op], Callable[[Any, int, int], _Drawn]] = {
    **dict.fromkeys((ops.Resize, ops.CenterCrop, ops.Normalize), _nothing),
    **dict.fromkeys((ops.HorizontalFlip, ops.VerticalFlip, ops.Grayscale, ops.Solarize, ops.Posterize), _applied),
    **dict.fromkeys((ops.Equalize, ops.AutoContrast, ops.Invert, ops.Sharpness), _applied),
    **dict.fromkeys((ops.Brightness, ops.Contrast, ops.Saturation, ops.Hue), _factor),
    ops.RandomCrop: _random_crop,
    ops.RandomResizedCrop: _resized_crop,
    ops.Rotate: _rotate,
    ops.Affine: _affine,
    ops.Perspective: _perspective,
    ops.ColorJitter: _color_jitter,
    ops.GaussianBlur: _blur,
    ops.GaussianNoise: _noise,
    ops.RandomErasing: _erasing,
    ops.Cutout: _cutout,
    ops.MixUp: _mixup,
    ops.CutMix: _cutmix,
    ops.RandAugment: _randaugment,
    ops.TrivialAugmentWide: _trivialaugment,
    ops.AutoAugment: _autoaugment,
    ops.AugMix: _augmix,
}
"""How each op is encoded."""
