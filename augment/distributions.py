"""Distributions that ops draw their parameters from: range check, formula, and record for kernels.

A distribution is a value in an op's ``draws``. It names the parameters that it draws, the fields of the op that bound them, and
how they follow from uniform numbers: once as tensor operations (``sample``, which runs anywhere, also compiled) and once as the
constants of a kernel (``records``), for C and Triton. All uniform numbers of a recipe come from one ``torch.rand``
[rows, B]; noise, numbers for each pixel, is drawn apart (``noises``). The audit states every distribution a second time,
independently: ``augment.audit.laws``.

Parameters are named as in torchvision, so that a row of them can be handed to its functionals.
"""

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
    "chance", "below", "uniform", "order", "window", "rectangle", "square", "corners", "beta", "cutmix", "weights", "policy",
    "pair",
)  # fmt: skip
"""Formulas that kernels know."""


class DrawRecord(NamedTuple):
    """A formula and its constants. Every formula reads the fields that its distribution sets; the others are 0.

    ``row``, ``output`` and ``table`` are the first of each that the formula uses, counted from the op's own;
    ``encode`` makes them positions in the recipe.
    """

    kind: int
    row: int = 0
    output: int = 0
    table: int = 0
    p: float = 0.0
    count: float = 0.0  # type: ignore[assignment]  # tuple.count
    low: float = 0.0
    span: float = 0.0
    is_rounded: int = 0
    size: int = 1
    place: int = 0
    height: float = 0.0
    width: float = 0.0
    area_low: float = 0.0
    area_span: float = 0.0
    ratio_low: float = 0.0
    ratio_span: float = 0.0
    fallback_height: float = 0.0
    fallback_width: float = 0.0
    side: float = 0.0
    reach_x: float = 0.0
    reach_y: float = 0.0
    alpha: float = 1.0
    chains: int = 0
    places: int = 0
    chain: int = 0
    bins: int = 0
    first_bin: int = 0
    drawn_bins: float = 0.0
    op_row: int = 0
    bin_row: int = 0
    sign_row: int = 0
    identity: int = 0


def _record(kind: str, **constants: Any) -> DrawRecord:
    return DrawRecord(KINDS.index(kind), **constants)


# ---- random numbers ---------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Source:
    """Random numbers for a batch of ``batch`` images: rows of ``uniforms`` in turn, and noise.

    ``height`` x ``width`` is the size of the images that reach the current op. ``uniforms``: float32 [rows, batch] in [0, 1),
    on a CPU whole multiples of 2**-24.
    """

    batch: int
    device: torch.device
    generator: torch.Generator | None = None
    uniforms: Tensor | None = None
    taken: int = 0
    height: int = 0
    width: int = 0

    @property
    def options(self) -> dict[str, Any]:
        """Options of PyTorch's random functions. With symbolic sizes they take no generator, not even None."""
        generator = {} if self.generator is None else {"generator": self.generator}
        return {"device": self.device, "dtype": torch.float32, **generator}

    def draw(self, rows: int) -> None:
        """Draw all uniform numbers in one call; none if ``rows`` is 0."""
        if rows:
            self.uniforms = torch.rand((rows, self.batch), **self.options)

    def unit(self, *shape: int) -> Tensor:
        """Return the next uniform numbers in [0, 1), float32 [B, *shape], one row per number of an image."""
        assert self.uniforms is not None
        rows = self.uniforms[self.taken : self.taken + math.prod(shape)]
        self.taken += math.prod(shape)
        return rows.t().reshape((self.batch, *shape)).contiguous()

    def uniform(self, bounds: Range, *shape: int) -> Tensor:
        """Return numbers uniform between the bounds, float32 [B, *shape]."""
        low, high = bounds
        return self.unit(*shape) * (high - low) + low

    def below(self, count: int, *shape: int) -> Tensor:
        """Return integers uniform in 0 .. count - 1, int64 [B, *shape].

        Each is floor(u * count) of 2**24 equally likely u, so its probability differs from 1 / count by a share of at most
        count * 2**-24: 2e-5 for a side of 300 pixels.
        """
        return (self.unit(*shape) * count).floor_().clamp_(max=count - 1).to(torch.int64)

    def below_each(self, counts: Tensor) -> Tensor:
        """Return integers uniform below a count for each image, as float32 [B]."""
        return torch.minimum((self.unit() * counts).floor_(), counts - 1)

    def chance(self, p: float, *shape: int) -> Tensor:
        """Return True with probability ``p``, bool [B, *shape]."""
        return self.unit(*shape) < p

    def log_gamma(self, alpha: float) -> Tensor:
        """Return logarithms of Gamma(alpha) numbers, float32 [B], which weights of small ``alpha`` need.

        Marsaglia and Tsang (2000), "A simple method for generating gamma variables", the first of ``GAMMA_TRIES`` that is
        accepted; below alpha 1 their boost. Gamma(1) is exponential. Cosine and sine of an angle are two normal numbers.
        """
        if is_exponential(alpha):
            return self.unit().clamp_(min=SMALLEST).log_().neg_().log_()
        shift, scale = gamma_constants(alpha)
        radius = self.unit(GAMMA_TRIES // 2).clamp_(min=SMALLEST).log_().mul_(-2).sqrt_()
        turns = self.unit(GAMMA_TRIES // 2)
        angles = torch.stack([turns, turns - 0.25], 2).flatten(1) * (2 * math.pi)
        normal = radius.repeat_interleave(2, 1) * angles.cos_()
        root = scale * normal + 1
        cube = root * root * root
        log_cube = cube.clamp(min=1e-30).log_()
        bound = 0.5 * normal * normal + shift * (1 - cube + log_cube)
        accepted = (cube > 0) & (self.unit(GAMMA_TRIES).clamp_(min=SMALLEST).log_() < bound)
        value = _first(accepted, log_cube, 0.0) + math.log(shift)
        return value + self.unit().clamp_(min=SMALLEST).log_() * (1 / alpha) if alpha < 1 else value

    def weight(self, alpha: float) -> Tensor:
        """Return Beta(alpha, alpha), float32 [B]."""
        return self.unit() if is_exponential(alpha) else self.dirichlet(alpha, 2)[:, 0].contiguous()

    def dirichlet(self, alpha: float, count: int) -> Tensor:
        """Return symmetric Dirichlet weights, float32 [B, count]."""
        return torch.stack([self.log_gamma(alpha) for _ in range(count)], 1).softmax(1)

    def noise(self, sigma: float, height: int, width: int) -> Tensor:
        """Return normal noise drawn by PyTorch: float32 [B, 3, height, width]."""
        return torch.normal(0.0, sigma, (self.batch, 3, height, width), **self.options)


def is_exponential(alpha: float) -> bool:
    """Return whether Gamma(alpha) is the exponential and Beta(alpha, alpha) the uniform distribution."""
    return alpha == 1.0


def gamma_constants(alpha: float) -> Range:
    """Return ``shift`` and ``scale`` of Marsaglia and Tsang's method, for alpha + 1 below alpha 1."""
    shift = (alpha if alpha >= 1 else alpha + 1) - 1 / 3
    return shift, 1 / math.sqrt(9 * shift)


def gamma_rows(alpha: float) -> int:
    """Return the rows of uniform numbers that a Gamma number takes."""
    return 1 if is_exponential(alpha) else 2 * GAMMA_TRIES + (alpha < 1)


def _weight_rows(alpha: float) -> int:
    return 1 if is_exponential(alpha) else 2 * gamma_rows(alpha)


def _gamma_record(kind: str, alpha: float, **constants: Any) -> DrawRecord:
    shift, scale = gamma_constants(alpha)
    return _record(kind, alpha=alpha, low=shift, span=scale, count=float(gamma_rows(alpha)), **constants)


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
    row_count: int = 1
    parameters: Mapping[str, Output] = {}

    def check(self, op: Any) -> None:
        """Raise ValueError if the op's fields cannot bound this distribution."""
        check_limits(op, self.limits)

    def rows(self, op: Any) -> int:
        """Return the rows of uniform numbers that ``sample`` takes, whatever the image size."""
        return self.row_count

    def outputs(self, op: Any) -> Mapping[str, Output]:
        """Return the drawn parameters by name; records count them in this order."""
        return self.parameters

    def names(self, op: Any) -> tuple[str, ...]:
        """Return the names of the drawn parameters as libraries know them; empty for policies, which draw ops."""
        return () if self.policy else (*self.outputs(op), *(noise.name for noise in self.noises(op, 1, 1)))

    def noises(self, op: Any, height: int, width: int) -> list[NoiseField]:
        """Return the drawn parameters that have a number for each value of an image."""
        return []

    def sample(self, op: Any, source: Source) -> Params:
        """Draw by tensor operations: the definition."""
        raise NotImplementedError

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        """Return the same formula for kernels, for images of that size."""
        return []


@dataclass(frozen=True)
class Chance(Distribution):
    """Event ``applied`` of probability ``op.p``, bool [B]."""

    limits = {"p": (0.0, 1.0)}
    parameters = {"applied": Output(torch.bool)}

    def sample(self, op: Any, source: Source) -> Params:
        return {"applied": source.chance(op.p)}

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

    def sample(self, op: Any, source: Source) -> Params:
        return {self.name: source.uniform(self.bounds(op))}

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

    def sample(self, op: Any, source: Source) -> Params:
        reach = self.reach(op, source.height, source.width)
        return {self.name: source.uniform((-reach, reach)).round_()}

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        reach = self.reach(op, height, width)
        return [_record("uniform", low=-reach, span=reach + reach, is_rounded=1)]


@dataclass(frozen=True)
class Position(Distribution):
    """Corner ``top``, ``left`` int64 [B] of a window of ``op.size`` in an image padded by ``op.padding``."""

    limits = {"padding": (0, math.inf)}
    row_count = 2
    parameters = {"top": Output(torch.int64), "left": Output(torch.int64)}

    def counts(self, op: Any, height: int, width: int) -> tuple[int, int]:
        """Return the numbers of rows and columns a window can start at."""
        return height + 2 * op.padding - op.size + 1, width + 2 * op.padding - op.size + 1

    def sample(self, op: Any, source: Source) -> Params:
        rows, columns = self.counts(op, source.height, source.width)
        return {"top": source.below(rows), "left": source.below(columns)}

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        return [_record("below", row=i, output=i, count=float(n)) for i, n in enumerate(self.counts(op, height, width))]


_WINDOW = {name: Output() for name in ("top", "left", "height", "width")}


def _sides(source: Source, scale: Range, ratio: Range) -> tuple[Tensor, Tensor]:
    """Return sides [B, TRIES] of windows with a share ``scale`` of the image's area; ``ratio`` is first side over second."""
    area = source.uniform(scale, TRIES) * (source.height * source.width)
    aspect = source.uniform((math.log(ratio[0]), math.log(ratio[1])), TRIES).exp()
    return (area * aspect).sqrt().round(), (area / aspect).sqrt().round()


def _tries(op: Any, height: int, width: int) -> dict[str, float]:
    """Return the constants of ``_sides``."""
    low, high = math.log(op.ratio[0]), math.log(op.ratio[1])
    area = {"area_low": op.scale[0], "area_span": op.scale[1] - op.scale[0]}
    return {**area, "ratio_low": low, "ratio_span": high - low, "height": float(height), "width": float(width)}


def _first(valid: Tensor, values: Tensor, fallback: float) -> Tensor:
    """Return of each row the value at the first valid place, or ``fallback``: [B]."""
    first = valid.to(torch.uint8).argmax(1, keepdim=True)
    return values.gather(1, first).squeeze(1).where(valid.any(1), fallback)


def _place(height: Tensor, width: Tensor, source: Source) -> Params:
    """Place rectangles of that size, whole float32 numbers [B], anywhere inside the image."""
    top, left = source.below_each(source.height + 1 - height), source.below_each(source.width + 1 - width)
    return {"top": top, "left": left, "height": height, "width": width}


@dataclass(frozen=True)
class Window(Distribution):
    """Window ``top, left, height, width`` float32 [B] of RandomResizedCrop; ``op.scale``, ``op.ratio`` (width over height).

    The first of ten that fits the image, else the largest centred one of an allowed ratio, as in torchvision.
    """

    limits = {"scale": (0.0, 1.0), "ratio": (1e-6, math.inf)}
    row_count = 2 * TRIES + 2
    parameters = _WINDOW

    def fallback(self, op: Any, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the largest window of an allowed ratio."""
        if width / height < min(op.ratio):
            return round(width / min(op.ratio)), width
        if width / height > max(op.ratio):
            return height, round(height * max(op.ratio))
        return height, width

    def sample(self, op: Any, source: Source) -> Params:
        widths, heights = _sides(source, op.scale, op.ratio)
        fits = (widths > 0) & (widths <= source.width) & (heights > 0) & (heights <= source.height)
        fallback_height, fallback_width = self.fallback(op, source.height, source.width)
        height, width = _first(fits, heights, fallback_height), _first(fits, widths, fallback_width)
        any_fits = fits.any(1)
        top = source.below_each(source.height + 1 - height).where(any_fits, (source.height - fallback_height) // 2)
        left = source.below_each(source.width + 1 - width).where(any_fits, (source.width - fallback_width) // 2)
        return {"top": top, "left": left, "height": height, "width": width}

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        fallback_height, fallback_width = map(float, self.fallback(op, height, width))
        sizes = {"fallback_height": fallback_height, "fallback_width": fallback_width}
        return [_record("window", **_tries(op, height, width), **sizes)]


@dataclass(frozen=True)
class Rectangle(Distribution):
    """Rectangle ``top, left, height, width`` float32 [B] of RandomErasing; height 0 where nothing is erased.

    With probability ``op.p``; share of the area in ``op.scale``, height over width in ``op.ratio``; smaller than the image;
    none after ten that do not fit.
    """

    limits = {"p": (0.0, 1.0), **Window.limits}
    row_count = 2 * TRIES + 3
    parameters = _WINDOW

    def sample(self, op: Any, source: Source) -> Params:
        heights, widths = _sides(source, op.scale, op.ratio)
        fits = (heights < source.height) & (widths < source.width)
        height = _first(fits, heights, 0).where(source.chance(op.p), 0)
        return _place(height, _first(fits, widths, 0), source)

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        return [_record("rectangle", p=op.p, **_tries(op, height, width))]


@dataclass(frozen=True)
class Square(Distribution):
    """Square ``top, left, height, width`` float32 [B] of Cutout; ``op.side`` is a share of the image's side; 0 if too large."""

    limits = {"side": (0.0, 0.999)}
    row_count = 2
    parameters = _WINDOW

    def side(self, op: Any, height: int, width: int) -> int:
        """Return the side in pixels."""
        side = round(op.side * math.sqrt(height * width))
        return side if side < min(height, width) else 0

    def sample(self, op: Any, source: Source) -> Params:
        side = self.side(op, source.height, source.width)
        sides = torch.full((source.batch,), side, dtype=torch.float32, device=source.device)
        return _place(sides, sides, source)

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        return [_record("square", height=float(height), width=float(width), side=float(self.side(op, height, width)))]


@dataclass(frozen=True)
class Corners(Distribution):
    """Corner targets ``corners`` int64 [B, 4, 2], clockwise from top left, inwards by up to ``op.distortion`` half sides."""

    limits = {"distortion": (0.0, 1.0)}
    row_count = 8
    parameters = {"corners": Output(torch.int64, (4, 2))}

    def counts(self, op: Any, height: int, width: int) -> tuple[int, int]:
        """Return the numbers of integer offsets a corner is drawn from, in x and y."""
        return int(op.distortion * (width // 2)) + 1, int(op.distortion * (height // 2)) + 1

    def sample(self, op: Any, source: Source) -> Params:
        count_x, count_y = self.counts(op, source.height, source.width)
        inwards_x, inwards_y = source.below(count_x, 4), source.below(count_y, 4)
        right, bottom = source.width - 1, source.height - 1
        x = torch.stack([inwards_x[:, 0], right - inwards_x[:, 1], right - inwards_x[:, 2], inwards_x[:, 3]], 1)
        y = torch.stack([inwards_y[:, 0], inwards_y[:, 1], bottom - inwards_y[:, 2], bottom - inwards_y[:, 3]], 1)
        return {"corners": torch.stack([x, y], 2)}

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        reach_x, reach_y = map(float, self.counts(op, height, width))
        return [_record("corners", reach_x=reach_x, reach_y=reach_y, width=float(width - 1), height=float(height - 1))]


@dataclass(frozen=True)
class Jitter(Distribution):
    """Factors [B, n] of the pairs in ``limits``, fields of the op, and the ``order`` int64 [B, n] in which they are applied."""

    limits: Limits = field(default_factory=dict)

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the factors, in the numbering of ``order``."""
        return tuple(self.limits)

    def rows(self, op: Any) -> int:
        return 2 * len(self.fields)

    def names(self, op: Any) -> tuple[str, ...]:
        return ("order", *self.fields)

    def outputs(self, op: Any) -> Mapping[str, Output]:
        return {"order": Output(torch.int64, (len(self.fields),)), "factors": Output(shape=(len(self.fields),))}

    def sample(self, op: Any, source: Source) -> Params:
        factors = torch.stack([source.uniform(getattr(op, name)) for name in self.fields], 1)
        return {"order": source.unit(len(self.fields)).argsort(dim=1, stable=True), "factors": factors}

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        bounds = [getattr(op, name) for name in self.fields]
        factors = [
            _record("uniform", row=i, output=1, size=len(bounds), place=i, low=low, span=high - low)
            for i, (low, high) in enumerate(bounds)
        ]
        return [*factors, _record("order", row=len(bounds), count=float(len(bounds)))]


@dataclass(frozen=True)
class Normal(Distribution):
    """Noise ``noise`` [B, 3, H, W], normal of standard deviation ``op.sigma``."""

    limits = {"sigma": (0.0, math.inf)}
    row_count = 0

    def noises(self, op: Any, height: int, width: int) -> list[NoiseField]:
        return [NoiseField("noise", op.sigma, height, width)]

    def sample(self, op: Any, source: Source) -> Params:
        return {"noise": source.noise(op.sigma, source.height, source.width)}


# ---- mixtures of images -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Beta(Distribution):
    """Weight ``lam`` [B] of an image itself, Beta(alpha, alpha) of ``op.alpha``; its partner has 1 - lam."""

    limits = {"alpha": (1e-6, math.inf)}
    parameters = {"lam": Output()}

    def rows(self, op: Any) -> int:
        return _weight_rows(op.alpha)

    def sample(self, op: Any, source: Source) -> Params:
        return {"lam": source.weight(op.alpha)}

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        return [_gamma_record("beta", op.alpha)]


@dataclass(frozen=True)
class Box(Beta):
    """Rectangle ``top, left, height, width`` [B] of CutMix that shows the partner; ``lam`` [B] is the area that is left."""

    parameters = {**_WINDOW, "lam": Output()}

    def rows(self, op: Any) -> int:
        return 2 + _weight_rows(op.alpha)

    def names(self, op: Any) -> tuple[str, ...]:
        return tuple(_WINDOW)

    def sample(self, op: Any, source: Source) -> Params:
        half = (1 - source.weight(op.alpha)).sqrt() * 0.5
        edges = []
        for side in (source.height, source.width):
            centre, reach = source.below(side), (half * side).floor_()
            edges.append(((centre - reach).clamp_(min=0), (centre + reach).clamp_(max=side)))
        (top, bottom), (left, right) = edges
        height, width = bottom - top, right - left
        lam = 1 - height * width / (source.height * source.width)
        return {"top": top, "left": left, "height": height, "width": width, "lam": lam}

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        rows = _weight_rows(op.alpha)
        return [_gamma_record("cutmix", op.alpha, height=float(height), width=float(width), place=rows)]


# ---- policies ---------------------------------------------------------------------------------------------------------


def _look_up(space: policies.Space, source: Source, params: Params) -> Params:
    """Add to ``op``, ``bin`` and ``negative`` the ``kernel`` and its ``arguments`` that they stand for."""
    kernel, arguments = space.lookup(params["op"], params["bin"], params["negative"], source.height, source.width)
    return {**params, "kernel": kernel, "arguments": arguments}


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

    def rows(self, op: Any) -> int:
        return self._places(op) * (2 if self.bin else 3)

    def outputs(self, op: Any) -> Mapping[str, Output]:
        return _policy_outputs(self._places(op))

    def sample(self, op: Any, source: Source) -> Params:
        space, places = self.space, self._places(op)
        chosen = source.below(len(space.names), places)
        bin = torch.full_like(chosen, getattr(op, self.bin)) if self.bin else source.below(space.bins, places)
        return _look_up(space, source, {"op": chosen, "bin": bin, "negative": source.chance(0.5, places)})

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        space, places = self.space, self._places(op)
        bins = {"first_bin": getattr(op, self.bin)} if self.bin else {"drawn_bins": float(space.bins)}
        rows = {"bin_row": places, "sign_row": places if self.bin else 2 * places}
        return [_record("policy", places=places, count=float(len(space.names)), bins=space.bins, **bins, **rows)]


@dataclass(frozen=True)
class Pair(Distribution):
    """Sub-policy of AutoAugment: ``pair`` int64 [B] and its ops as Choice's, [B, 2]; one that is not applied is Identity."""

    policy: str = "AutoAugment"
    row_count = 1 + 2 + 2
    parameters = {**_policy_outputs(2), "pair": Output(torch.int64)}

    def sample(self, op: Any, source: Source) -> Params:
        space = policies.SPACES[self.policy]
        pair = source.below(len(policies.CIFAR10_PAIRS))
        names, probability, magnitude = policies.pair_tables(source.device)
        chosen = names[pair].where(source.unit(2) < probability[pair], space.names.index("Identity"))
        params = {"op": chosen, "bin": magnitude[pair], "negative": source.chance(0.5, 2)}
        return {"pair": pair, **_look_up(space, source, params)}

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        space = policies.SPACES[self.policy]
        count = float(len(policies.CIFAR10_PAIRS))
        return [_record("pair", count=count, identity=space.names.index("Identity"), bins=space.bins)]


@dataclass(frozen=True)
class Chains(Distribution):
    """Chains of AugMix: as Choice's, [B, op.width, CHAIN], bins below ``op.severity``; Identity behind a chain's end."""

    policy: str = "AugMix"

    def rows(self, op: Any) -> int:
        return int(op.width * (1 + 3 * CHAIN))

    def outputs(self, op: Any) -> Mapping[str, Output]:
        return _policy_outputs(op.width, CHAIN)

    def sample(self, op: Any, source: Source) -> Params:
        space, shape = policies.SPACES[self.policy], (op.width, CHAIN)
        identity = len(space.names) - 1  # the last name, which is never drawn
        depth = source.below(CHAIN, op.width, 1) + 1
        inside = torch.arange(CHAIN, device=source.device) < depth
        params = {
            "op": source.below(identity, *shape).where(inside, identity),
            "bin": source.below(op.severity, *shape),
            "negative": source.chance(0.5, *shape),
        }
        return _look_up(space, source, params)

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        space, places = policies.SPACES[self.policy], CHAIN * op.width
        rows = {"op_row": op.width, "bin_row": op.width + places, "sign_row": op.width + 2 * places}
        count = {"count": float(len(space.names) - 1), "drawn_bins": float(op.severity), "bins": space.bins}
        return [_record("policy", places=places, chain=CHAIN, **count, **rows)]


@dataclass(frozen=True)
class MixtureWeights(Distribution):
    """Weights [B, 1 + op.width] of AugMix: of the image itself (Beta), then of the chains (Dirichlet), both of ``op.alpha``."""

    def rows(self, op: Any) -> int:
        return int(_weight_rows(op.alpha) + op.width * gamma_rows(op.alpha))

    def outputs(self, op: Any) -> Mapping[str, Output]:
        return {"weights": Output(shape=(1 + op.width,))}

    def sample(self, op: Any, source: Source) -> Params:
        image_weight = source.weight(op.alpha)[:, None]
        return {"weights": torch.cat([image_weight, (1 - image_weight) * source.dirichlet(op.alpha, op.width)], 1)}

    def records(self, op: Any, height: int, width: int) -> list[DrawRecord]:
        return [_gamma_record("weights", op.alpha, chains=op.width, place=_weight_rows(op.alpha))]
