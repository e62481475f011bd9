"""Distributions that ops draw their parameters from: range check, and records of formulas and their constants.

A distribution is a value in an op's ``draws``. It names the parameters that it draws, the fields of the op that bound them, and
how they follow from uniform numbers: ``records``, each a formula and its constants. ``augment.fused.formulas`` defines the
formulas by tensor operations; C and Triton have the same. All uniform numbers of a recipe come from one ``torch.rand``
[rows, B]; noise, numbers for each pixel, is drawn apart (``noises``). The audit states every distribution a second time,
independently: ``augment.audit.laws``.

Parameters are named as in torchvision, so that a row of them can be handed to its functionals.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from augment import policies

Range = tuple[float, float]
Limits = Mapping[str, Range]
"""Least and largest value by name of a field."""
Params = dict[str, Tensor]
"""Parameters drawn for one op; every tensor is [B, ...]. Empty if nothing is random."""

TRIES = 10
"""Windows that torchvision draws before it falls back (RandomResizedCrop) or gives up (RandomErasing)."""

CHAIN = 3
"""Largest number of ops in a chain of AugMix."""

GAMMA_TRIES = 6
"""Tries of a Gamma number; each is rejected at most once in 20, all of them less than once in 10**7, which gives the mode."""

SMALLEST = 2.0**-25
"""Stands for a uniform number 0 in a logarithm: half of the smallest step."""


class Output(NamedTuple):
    """Type and shape, without the batch, of a drawn parameter."""

    dtype: torch.dtype = torch.float32
    shape: tuple[int, ...] = ()


class NoiseField(NamedTuple):
    """Parameter ``name``, normal of standard deviation ``sigma`` and mean 0, for each value of images [3, height, width]."""

    name: str
    sigma: float
    height: int
    width: int


KINDS = (
    "chance", "below", "uniform", "order", "window", "rectangle", "beta", "cutmix", "weights", "policy", "pair",
)  # fmt: skip
"""Formulas of records."""


class DrawRecord(NamedTuple):
    """A formula and its constants. Every formula reads the fields that its distribution sets; the others are 0.

    ``row``, ``output`` and ``table`` are the first of each that the formula uses, counted from the op's own;
    ``encode`` makes them positions in the recipe. ``rows``: rows of uniform numbers that the formula reads. A parameter of
    ``size`` numbers an image gets the one at ``place``.
    """

    kind: int
    row: int = 0
    rows: int = 1
    output: int = 0
    table: int = 0
    p: float = 0.0
    count: float = 0.0  # type: ignore[assignment]  # tuple.count
    low: float = 0.0
    span: float = 0.0
    is_rounded: int = 0
    is_whole: int = 0
    size: int = 1
    place: int = 0
    behind: int = 0
    height: float = 0.0
    width: float = 0.0
    area_low: float = 0.0
    area_span: float = 0.0
    ratio_low: float = 0.0
    ratio_span: float = 0.0
    fallback_height: float = 0.0
    fallback_width: float = 0.0
    alpha: float = 1.0
    chains: int = 0
    places: int = 0
    chain: int = 0
    bins: int = 0
    first_bin: int = 0
    drawn_bins: float = 0.0
    identity: int = 0


def _record(kind: str, **constants: Any) -> DrawRecord:
    return DrawRecord(KINDS.index(kind), **constants)


# ---- random numbers ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Source:
    """Source of random numbers for a batch of ``batch`` images."""

    batch: int
    device: torch.device
    generator: torch.Generator | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Options of PyTorch's random functions. With symbolic sizes they take no generator, not even None."""
        generator = {} if self.generator is None else {"generator": self.generator}
        return {"device": self.device, "dtype": torch.float32, **generator}

    def draw(self, rows: int) -> Tensor:
        """Return uniform numbers in [0, 1), float32 [rows, B]; on a CPU whole multiples of 2**-24."""
        return torch.rand((rows, self.batch), **self.options)

    def noise(self, noise: NoiseField) -> Tensor:
        """Return normal noise drawn by PyTorch: float32 [B, 3, height, width]."""
        return torch.normal(0.0, noise.sigma, (self.batch, 3, noise.height, noise.width), **self.options)


def _gamma_record(kind: str, alpha: float, gammas: int = 0, **constants: Any) -> DrawRecord:
    """Return a record of a Beta(alpha, alpha) number and, ``behind`` its rows, of ``gammas`` Gamma numbers.

    ``count``: rows of a Gamma number. Gamma(1) is exponential, Beta(1, 1) uniform. ``low`` and ``span`` are constants of
    Marsaglia and Tsang's method, for alpha + 1 below alpha 1.
    """
    count = 1 if alpha == 1 else 2 * GAMMA_TRIES + (alpha < 1)
    behind = 1 if alpha == 1 else 2 * count
    shift = (alpha if alpha >= 1 else alpha + 1) - 1 / 3
    gamma = {"low": shift, "span": 1 / math.sqrt(9 * shift), "count": float(count), "behind": behind}
    return _record(kind, rows=behind + gammas * count, alpha=alpha, **gamma)._replace(**constants)


# ---- type and range checks --------------------------------------------------------------------------------------------

NUMBERS: Mapping[Any, tuple[Any, str]] = {float: (Real, "finite number"), int: (Integral, "whole number")}


def check_types(op: Any) -> None:
    """Raise ValueError for a field of ``op`` that is not the number, or the tuple of numbers, that its annotation says."""
    for name, hint in ((entry.name, entry.type) for entry in fields(op)):
        value, hints = getattr(op, name), get_args(hint)
        kind, words = NUMBERS.get(hints[0] if hints else hint, (object, ""))
        numbers: tuple[Any, ...] = value if hints and isinstance(value, tuple) else (value,)
        is_valid = all(isinstance(n, kind) and not isinstance(n, bool) and math.isfinite(n) for n in numbers) if words else True
        if words and (not is_valid or (hints and (not isinstance(value, tuple) or len(value) != len(hints)))):
            raise ValueError(f"{name} must be a {f'tuple of {len(hints)} {words}s' if hints else words}, got {value!r}")


def check_limits(op: Any, limits: Limits) -> None:
    """Raise ValueError for a field of ``op``, a number or a pair (low, high), that is out of its limits, or NaN."""
    for name, (least, most) in limits.items():
        check_number(name, getattr(op, name), least, most)


def check_number(name: str, value: float | Range, least: float, most: float) -> None:
    """Raise ValueError unless the number, or both of a pair and in this order, lies in [least, most]."""
    if isinstance(value, tuple) and not least <= value[0] <= value[1] <= most:
        raise ValueError(f"{name} must be a pair (low, high) with {least} <= low <= high <= {most}, got {value}")
    if not isinstance(value, tuple) and not least <= value <= most:
        bounds = f"be at least {least:g}" if most == math.inf else f"lie in [{least:g}, {most:g}]"
        raise ValueError(f"{name} must {bounds}, got {value}")


# ---- distributions ----------------------------------------------------------------------------------------------------


class Distribution:
    """Parameters of an op, drawn together. Subclasses are frozen values that name the op's fields they read."""

    policy: str = ""
    """Name of the policy whose tables the records read."""
    limits: Limits = {}
    parameters: Mapping[str, Output] = {}

    def check(self, op: Any) -> None:
        """Raise ValueError if the op's fields cannot bound this distribution."""
        check_limits(op, self.limits)

    def outputs(self, op: Any) -> Mapping[str, Output]:
        """Return the drawn parameters by name; records count them in this order."""
        return self.parameters

    def names(self, op: Any) -> tuple[str, ...]:
        """Return the names of the drawn parameters as libraries know them; empty for policies, which draw ops."""
        return () if self.policy else (*self.outputs(op), *(noise.name for noise in self.noises(op, 1, 1)))

    def noises(self, op: Any, height: int, width: int) -> list[NoiseField]:
        """Return the drawn parameters that have a number for each value of an image."""
        return []

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        """Return the formulas of the parameters, for images of that size."""
        return []


@dataclass(frozen=True)
class Chance(Distribution):
    """Event ``applied`` of probability ``op.p``, bool [B]."""

    limits = {"p": (0.0, 1.0)}
    parameters = {"applied": Output(torch.bool)}

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        return [_record("chance", p=op.p)]


@dataclass(frozen=True)
class Uniform(Distribution):
    """Number ``name`` [B], uniform between the op's fields ``low`` and ``high``, or in the pair ``low`` without a ``high``."""

    name: str
    low: str
    high: str = ""
    least: float = -math.inf
    most: float = math.inf

    def bounds(self, op: Any) -> Range:
        """Return (low, high)."""
        bounds: Range = (getattr(op, self.low), getattr(op, self.high)) if self.high else getattr(op, self.low)
        return bounds

    def check(self, op: Any) -> None:
        check_number(f"{self.low}, {self.high}" if self.high else self.low, self.bounds(op), self.least, self.most)

    def outputs(self, op: Any) -> Mapping[str, Output]:
        return {self.name: Output()}

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        low, high = self.bounds(op)
        return [_record("uniform", low=low, span=high - low)]


@dataclass(frozen=True)
class Shift(Distribution):
    """Whole pixels ``name`` [B], uniform within a share of the image's side: ``op.<share>[axis]``, 0 of width, 1 of height."""

    name: str
    share: str
    axis: int

    def check(self, op: Any) -> None:
        shares = getattr(op, self.share)
        if not all(0.0 <= share <= 1.0 for share in shares):
            raise ValueError(f"{self.share} must be two shares in [0, 1], got {shares}")

    def reach(self, op: Any, height: int, width: int) -> float:
        """Return the largest shift in pixels, before rounding."""
        return float(getattr(op, self.share)[self.axis] * (width, height)[self.axis])

    def outputs(self, op: Any) -> Mapping[str, Output]:
        return {self.name: Output()}

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        reach = self.reach(op, height, width)
        return [_record("uniform", low=-reach, span=reach + reach, is_rounded=1)]


@dataclass(frozen=True)
class Position(Distribution):
    """Corner ``top``, ``left`` int64 [B] of a window of ``op.size`` in an image padded by ``op.padding``."""

    limits = {"padding": (0, math.inf)}
    parameters = {"top": Output(torch.int64), "left": Output(torch.int64)}

    def counts(self, op: Any, height: int, width: int) -> tuple[int, int]:
        """Return the numbers of rows and columns a window can start at."""
        return height + 2 * op.padding - op.size + 1, width + 2 * op.padding - op.size + 1

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        counts = enumerate(self.counts(op, height, width))
        return [_record("below", row=i, output=i, is_whole=1, count=float(count), span=1.0) for i, count in counts]


_WINDOW = {name: Output() for name in ("top", "left", "height", "width")}


def _tries(op: Any, height: int, width: int) -> dict[str, float]:
    """Return the constants of windows with a share ``op.scale`` of the image's area and a ratio of sides ``op.ratio``."""
    low, high = math.log(op.ratio[0]), math.log(op.ratio[1])
    area = {"area_low": op.scale[0], "area_span": op.scale[1] - op.scale[0]}
    return {**area, "ratio_low": low, "ratio_span": high - low, "height": float(height), "width": float(width)}


@dataclass(frozen=True)
class Window(Distribution):
    """Window ``top, left, height, width`` float32 [B] of RandomResizedCrop; ``op.scale``, ``op.ratio`` (width over height).

    The first of ten that fits the image, else the largest centred one of an allowed ratio, as in torchvision.
    """

    limits = {"scale": (0.0, 1.0), "ratio": (1e-6, math.inf)}
    parameters = _WINDOW

    def fallback(self, op: Any, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the largest window of an allowed ratio."""
        if width / height < min(op.ratio):
            return round(width / min(op.ratio)), width
        if width / height > max(op.ratio):
            return height, round(height * max(op.ratio))
        return height, width

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        fallback_height, fallback_width = map(float, self.fallback(op, height, width))
        sizes = {"fallback_height": fallback_height, "fallback_width": fallback_width}
        return [_record("window", rows=2 * TRIES + 2, **_tries(op, height, width), **sizes)]


@dataclass(frozen=True)
class Rectangle(Distribution):
    """Rectangle ``top, left, height, width`` float32 [B] of RandomErasing; height 0 where nothing is erased.

    With probability ``op.p``; share of the area in ``op.scale``, height over width in ``op.ratio``; smaller than the image;
    none after ten that do not fit.
    """

    limits = {"p": (0.0, 1.0), **Window.limits}
    parameters = _WINDOW

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        return [_record("rectangle", rows=2 * TRIES + 3, p=op.p, **_tries(op, height, width))]


@dataclass(frozen=True)
class Square(Distribution):
    """Square ``top, left, height, width`` float32 [B] of Cutout; ``op.side`` is a share of the image's side; 0 if too large."""

    limits = {"side": (0.0, 0.999)}
    parameters = _WINDOW

    def side(self, op: Any, height: int, width: int) -> int:
        """Return the side in pixels."""
        side = round(op.side * math.sqrt(height * width))
        return side if side < min(height, width) else 0

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        side = self.side(op, height, width)
        counts = enumerate((height + 1 - side, width + 1 - side))
        starts = [_record("below", row=i, output=i, count=float(count), span=1.0) for i, count in counts]
        return [*starts, *(_record("uniform", output=output, low=float(side)) for output in (2, 3))]


@dataclass(frozen=True)
class Corners(Distribution):
    """Corner targets ``corners`` int64 [B, 4, 2], clockwise from top left, inwards by up to ``op.distortion`` half sides."""

    limits = {"distortion": (0.0, 1.0)}
    parameters = {"corners": Output(torch.int64, (4, 2))}

    def counts(self, op: Any, height: int, width: int) -> tuple[int, int]:
        """Return the numbers of integer offsets a corner is drawn from, in x and y."""
        return int(op.distortion * (width // 2)) + 1, int(op.distortion * (height // 2)) + 1

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        counts, ends = self.counts(op, height, width), (width - 1, height - 1)
        far = ((0, 0), (1, 0), (1, 1), (0, 1))  # whether a corner is at the end of x and of y, from where it moves backwards
        return [
            _record(
                "below", row=4 * axis + corner, size=8, place=2 * corner + axis, is_whole=1, count=float(counts[axis]),
                low=float(ends[axis] * far[corner][axis]), span=1.0 - 2.0 * far[corner][axis],
            )
            for corner, axis in itertools.product(range(4), range(2))
        ]  # fmt: skip


@dataclass(frozen=True)
class Jitter(Distribution):
    """Factors [B, n] of the pairs in ``limits``, fields of the op, and the ``order`` int64 [B, n] in which they are applied."""

    limits: Limits = field(default_factory=dict)

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the factors, in the numbering of ``order``."""
        return tuple(self.limits)

    def names(self, op: Any) -> tuple[str, ...]:
        return ("order", *self.fields)

    def outputs(self, op: Any) -> Mapping[str, Output]:
        return {"order": Output(torch.int64, (len(self.fields),)), "factors": Output(shape=(len(self.fields),))}

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        bounds = [getattr(op, name) for name in self.fields]
        factors = [
            _record("uniform", row=i, output=1, size=len(bounds), place=i, low=low, span=high - low)
            for i, (low, high) in enumerate(bounds)
        ]
        return [*factors, _record("order", row=len(bounds), rows=len(bounds), count=float(len(bounds)))]


@dataclass(frozen=True)
class Normal(Distribution):
    """Noise ``noise`` [B, 3, H, W], normal of standard deviation ``op.sigma``."""

    limits = {"sigma": (0.0, math.inf)}

    def noises(self, op: Any, height: int, width: int) -> list[NoiseField]:
        return [NoiseField("noise", op.sigma, height, width)]


# ---- mixtures of images -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Beta(Distribution):
    """Weight ``lam`` [B] of an image itself, Beta(alpha, alpha) of ``op.alpha``; its partner has 1 - lam."""

    limits = {"alpha": (1e-6, math.inf)}
    parameters = {"lam": Output()}

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        return [_gamma_record("beta", op.alpha)]


@dataclass(frozen=True)
class Box(Beta):
    """Rectangle ``top, left, height, width`` [B] of CutMix that shows the partner; ``lam`` [B] is the area that is left."""

    parameters = {**_WINDOW, "lam": Output()}

    def names(self, op: Any) -> tuple[str, ...]:
        return tuple(_WINDOW)

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        record = _gamma_record("cutmix", op.alpha, height=float(height), width=float(width))
        return [record._replace(rows=record.behind + 2)]


# ---- policies ---------------------------------------------------------------------------------------------------------


def _policy_outputs(*shape: int) -> dict[str, Output]:
    return {
        "op": Output(torch.int64, shape), "bin": Output(torch.int64, shape), "negative": Output(torch.bool, shape),
        "kernel": Output(torch.int64, shape), "arguments": Output(shape=(*shape, policies.ARGUMENTS)),
    }  # fmt: skip


@dataclass(frozen=True)
class Choice(Distribution):
    """Ops of a policy, each of its space's names equally likely: ``op, bin, negative, kernel, arguments`` [B, places].

    ``places`` and ``bin`` name fields of the op; "" draws one op, or a bin too.
    """

    policy: str
    places: str = ""
    bin: str = ""

    @property
    def space(self) -> policies.Space:
        """Ops and magnitudes to choose from."""
        return policies.SPACES[self.policy]

    def _places(self, op: Any) -> int:
        return int(getattr(op, self.places)) if self.places else 1

    def outputs(self, op: Any) -> Mapping[str, Output]:
        return _policy_outputs(self._places(op))

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        space, places = self.space, self._places(op)
        bins = {"first_bin": getattr(op, self.bin)} if self.bin else {"drawn_bins": float(space.bins)}
        rows, count = places * (2 if self.bin else 3), float(len(space.names))
        return [_record("policy", rows=rows, places=places, count=count, bins=space.bins, **bins)]


@dataclass(frozen=True)
class Pair(Distribution):
    """Sub-policy of AutoAugment: ``pair`` int64 [B] and its ops as Choice's, [B, 2]; one that is not applied is Identity."""

    policy: str = "AutoAugment"
    parameters = {**_policy_outputs(2), "pair": Output(torch.int64)}

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        space = policies.SPACES[self.policy]
        count = float(len(policies.CIFAR10_PAIRS))
        return [_record("pair", rows=1 + 2 + 2, count=count, identity=space.names.index("Identity"), bins=space.bins)]


@dataclass(frozen=True)
class Chains(Distribution):
    """Chains of AugMix: as Choice's, [B, op.width, CHAIN], bins below ``op.severity``; Identity behind a chain's end."""

    policy: str = "AugMix"

    def outputs(self, op: Any) -> Mapping[str, Output]:
        return _policy_outputs(op.width, CHAIN)

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        space, places = policies.SPACES[self.policy], CHAIN * op.width
        count = {"count": float(len(space.names) - 1), "drawn_bins": float(op.severity), "bins": space.bins}
        return [_record("policy", rows=op.width + 3 * places, places=places, chain=CHAIN, **count)]


@dataclass(frozen=True)
class MixtureWeights(Distribution):
    """Weights [B, 1 + op.width] of AugMix: of the image itself (Beta), then of the chains (Dirichlet), both of ``op.alpha``."""

    def outputs(self, op: Any) -> Mapping[str, Output]:
        return {"weights": Output(shape=(1 + op.width,))}

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        return [_gamma_record("weights", op.alpha, op.width, chains=op.width)]
