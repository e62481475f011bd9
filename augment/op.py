"""Base class of ops: one image transformation, its parameters, and everything that is known about it.

An op is a frozen dataclass in a theme file of ``augment.ops``. Its docstring *is* its definition; every backend is held to it.
Beside its fields, a class holds what it draws (``draws``), how each library builds it (``cells``), what it does to one image
(``oracle``), and how ``augment.fused`` does it (``fused``), if it does. An absent cell *is* "unsupported". Conventions:

- Intensities are on a scale where 0 is black and 1 is white, whatever the dtype of the images.
- Lengths are pixels, angles degrees (positive is counter-clockwise), ``p`` the probability that the op is applied, drawn for
  each image in a per-image backend and for the batch in a per-batch one.
- A pair ``(low, high)`` is drawn uniformly; ``low == high`` pins it.
- Resampling is bilinear; pixels outside the image are 0 (black).
- Definitions are torchvision's (``torchvision.transforms.v2``) applied to one image, unless an op says otherwise.
- Parameters are equal in every cell, and defaults in which the libraries differ are pinned. An op called ``Default...`` leaves
  each library its own.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, dataclass_transform

from augment.distributions import Chance, Distribution, Limits, Range, check_limits, check_types

if TYPE_CHECKING:
    from augment.fused.kinds import Kind

__all__ = ["OPS", "Builder", "Cell", "ChanceOp", "Drawn", "Lane", "Op", "Range", "UnsupportedOp", "op"]

Lane = Literal["per_image", "per_batch", "mixed", "fixed"]
"""Parameters are drawn for each image, once per batch, some ops this and some that way, or nothing is drawn."""

Builder = Callable[..., Any]
"""Build an op with a library: (op) -> callable on images; ops that mix labels also take the number of classes."""

Drawn = Mapping[str, Any]
"""Parameters drawn for one image, by name; ``applied`` says whether the op happens."""

Oracle = Callable[[Any, Any, Drawn], Any]
"""(op, image, drawn) -> image: apply an op to one float image [3, H, W] in [0, 1] with the drawn parameters."""

Read = str | tuple[str, int] | Callable[[Mapping[str, Any]], Any]
"""Place where a library keeps a drawn parameter: a key, an index into a key's value, or a function of all."""


@dataclass(frozen=True, slots=True)
class Cell:
    """An op in a library: how it is built and, where names differ from ours, how the library keeps what it drew.

    ``refuses`` returns the reason why the library lacks the op with these parameters, or None.
    """

    build: Builder
    reads: Mapping[str, Read] = field(default_factory=dict)
    refuses: Callable[[Any], str | None] = lambda op: None

    def read(self, names: Iterable[str], params: Mapping[str, Any]) -> dict[str, Any]:
        """Return parameters by name from what a library kept; KeyError if it keeps no such name."""
        return {name: _read(self.reads.get(name, name), params) for name in names}


def _read(read: Read, params: Mapping[str, Any]) -> Any:
    if callable(read):
        return read(params)
    if isinstance(read, str):
        return params[read]
    key, place = read
    return params[key][..., place] if hasattr(params[key], "ndim") else params[key][place]


class UnsupportedOp(ValueError):
    """The backend lacks an op, or cannot do it with these parameters or here; known before anything runs."""

    def __init__(self, op: str, backend: str, reason: str = "") -> None:
        super().__init__(f"{op} is not supported by backend {backend}" + (f": {reason}" if reason else ""))


class Op:
    """An augmentation and its parameters. Subclasses are plain values: equal parameters make equal ops."""

    limits: ClassVar[Limits] = {}
    """Limits of fields that bound no distribution."""
    draws: ClassVar[tuple[Distribution, ...]] = ()
    """Distributions of the drawn parameters; uniform numbers are used in this order."""
    cells: ClassVar[Mapping[str, Any]] = {}
    """Cells by library; a backend that plans recipes as a whole may have a kind of its own."""
    fused: ClassVar["Kind | None"] = None
    """Kind of ``augment.fused.kinds`` that does the op in ``augment.fused``; None: it does not."""
    mixes_labels: ClassVar[bool] = False
    needs_float: ClassVar[Collection[str]] = ()
    """Libraries that do this op on float images only."""
    lanes: ClassVar[Mapping[str, Lane]] = {}
    """Lane by library, where it is not the backend's."""
    differs: ClassVar[Mapping[str, str]] = {}
    """Known differences from the definition by library, in a few words."""
    setting: ClassVar[Callable[[int], Mapping[str, Any]]] = lambda size: {}
    """Fields of the benchmarked setting for square images of a side."""
    pins: ClassVar[Mapping[str, Any]] = {}
    """Fields that take the randomness out of the op."""
    warps: ClassVar[bool] = False
    """True if the op blends border pixels with the black outside, so that libraries may differ there."""
    has_thresholds: ClassVar[bool] = False
    """True if a rounding error can move a value across a threshold of the op."""
    oracle: ClassVar[Oracle]
    """The definition, by torchvision's functionals; bytes and, for a ColorJitter, PIL images are allowed too."""
    alternatives: ClassVar[Mapping[str, Oracle]] = {}
    """Known other ways to do the op, by name: (op, image, drawn) -> image. The audit names a difference by them."""

    def __post_init__(self) -> None:
        check_types(self)
        check_limits(self, self.limits)
        self.check()
        for distribution in self.draws:
            distribution.check(self)

    def check(self) -> None:
        """Raise ValueError for a field that neither ``limits`` nor a distribution can check."""

    @property
    def name(self) -> str:
        """Name in tables and on the command line."""
        return type(self).__name__

    @classmethod
    def at(cls, size: int) -> Self:
        """Return the benchmarked setting for square images of that side."""
        return cls(**cls.setting(size))

    @classmethod
    def pinned(cls, size: int) -> Self | None:
        """Return a setting without randomness on which all backends must agree; None if there is none."""
        return replace(cls.at(size), **cls.pins) if cls.pins or not cls.draws else None  # type: ignore[type-var]

    @property
    def drawn_names(self) -> tuple[str, ...]:
        """Names of the drawn parameters, without ``applied``."""
        return tuple(name for distribution in self.draws for name in distribution.names(self) if name != "applied")

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the result. Raises ValueError if the image is too small."""
        return height, width


@dataclass(frozen=True, slots=True, kw_only=True)
class ChanceOp(Op):
    """Base of ops that are applied with probability ``p`` and draw nothing else."""

    p: float = 0.5

    draws = (Chance(),)
    pins = {"p": 1.0}


OPS: dict[str, type[Op]] = {}
"""Ops by name, in the order of their definition; complete once ``augment.ops`` is imported."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
def op(cls: type) -> Any:
    """Make a class a frozen dataclass with keyword fields, and register it as an op."""
    registered: type[Op] = dataclass(frozen=True, slots=True, kw_only=True)(cls)
    OPS[registered.__name__] = registered
    return registered
