"""Spaces that AutoAugment, RandAugment, TrivialAugmentWide and AugMix choose from, as tables for a whole batch.

A policy draws an op, a bin of its magnitudes and a sign. They stand for one of a dozen kernels with a few numbers, so a whole
batch is looked up at once in ``tables``: the kernel's index and its arguments.
Sources: torchvision/transforms/v2/_auto_augment.py.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

KERNELS = (
    "identity", "warp", "brightness", "contrast", "saturation", "sharpness", "posterize", "solarize", "autocontrast",
    "equalize", "invert",
)  # fmt: skip
"""Kernels that policies use; tables hold indices into this list."""

ARGUMENTS = 6
"""Numbers that a kernel takes for an image: a matrix for ``warp``, else the strength and zeros."""

KERNEL_OF = {
    "Identity": "identity", "ShearX": "warp", "ShearY": "warp", "TranslateX": "warp", "TranslateY": "warp", "Rotate": "warp",
    "Brightness": "brightness", "Color": "saturation", "Contrast": "contrast", "Sharpness": "sharpness",
    "Posterize": "posterize", "Solarize": "solarize", "AutoContrast": "autocontrast", "Equalize": "equalize",
    "Invert": "invert",
}  # fmt: skip

UNSIGNED = frozenset({"Identity", "Posterize", "Solarize", "AutoContrast", "Equalize", "Invert"})

Magnitudes = Callable[[int, int, int], Tensor]
"""(bins, height, width) -> magnitude of each bin, float32 [bins]."""


def _linear(first: float, last: float, side: str = "") -> Magnitudes:
    """Return evenly spaced magnitudes; ``last`` is a share of the ``side`` that is named."""
    return lambda bins, height, width: torch.linspace(
        first, last * {"height": height, "width": width}.get(side, 1), bins, dtype=torch.float32
    )


def _bits(highest: int, span: int) -> Magnitudes:
    return lambda bins, height, width: (highest - (torch.arange(bins, dtype=torch.float32) / ((bins - 1) / span))).round()


@dataclass(frozen=True, eq=False, kw_only=True)
class Space:
    """Ops to choose from, in torchvision's order, and their magnitudes in each of ``bins`` bins."""

    policy: str
    bins: int
    magnitudes: Mapping[str, Magnitudes]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the ops; a drawn ``op`` is an index into them."""
        return tuple(self.magnitudes)


def _arguments(name: str, magnitude: float, height: int, width: int) -> list[float]:
    """Return the kernel's arguments for an op; matrices map a pixel of the result to its source, about the image's centre."""
    angle = math.radians(magnitude)
    matrices = {  # torchvision shears about the top left corner and truncates shifts to whole pixels
        "ShearX": [1.0, magnitude, magnitude * height / 2, 0.0, 1.0, 0.0],
        "ShearY": [1.0, 0.0, 0.0, magnitude, 1.0, magnitude * width / 2],
        "TranslateX": [1.0, 0.0, -float(int(magnitude)), 0.0, 1.0, 0.0],
        "TranslateY": [1.0, 0.0, 0.0, 0.0, 1.0, -float(int(magnitude))],
        "Rotate": [math.cos(angle), -math.sin(angle), 0.0, math.sin(angle), math.cos(angle), 0.0],
    }
    if name in matrices:
        return matrices[name]
    is_blend = name in {"Brightness", "Color", "Contrast", "Sharpness"}
    return [1.0 + magnitude if is_blend else magnitude] + [0.0] * (ARGUMENTS - 1)


NONE = _linear(0.0, 0.0)


def _enhancements(largest: float) -> dict[str, Magnitudes]:
    return dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), _linear(0.0, largest))


def _wide(shear: float, x: Magnitudes, y: Magnitudes, degrees: float, factor: float, bits: Magnitudes) -> dict[str, Magnitudes]:
    """Return the 14 ops of RandAugment and TrivialAugmentWide with their magnitudes."""
    return {
        "Identity": NONE,
        **dict.fromkeys(("ShearX", "ShearY"), _linear(0.0, shear)),
        "TranslateX": x,
        "TranslateY": y,
        "Rotate": _linear(0.0, degrees),
        **_enhancements(factor),
        "Posterize": bits,
        "Solarize": _linear(1.0, 0.0),
        "AutoContrast": NONE,
        "Equalize": NONE,
    }


_SHARES = (_linear(0.0, 150.0 / 331.0, "width"), _linear(0.0, 150.0 / 331.0, "height"))
_RANDAUGMENT = _wide(0.3, *_SHARES, 30.0, 0.9, _bits(8, 4))
RANDAUGMENT = Space(policy="RandAugment", bins=31, magnitudes=_RANDAUGMENT)
AUTOAUGMENT = Space(policy="AutoAugment", bins=10, magnitudes={**_RANDAUGMENT, "Invert": NONE})
TRIVIALAUGMENT = Space(
    policy="TrivialAugmentWide",
    bins=31,
    magnitudes=_wide(0.99, _linear(0.0, 32.0), _linear(0.0, 32.0), 135.0, 0.99, _bits(8, 6)),
)
AUGMIX = Space(
    policy="AugMix",
    bins=10,
    magnitudes={
        **dict.fromkeys(("ShearX", "ShearY"), _linear(0.0, 0.3)),
        "TranslateX": _linear(0.0, 1 / 3, "width"),
        "TranslateY": _linear(0.0, 1 / 3, "height"),
        "Rotate": _linear(0.0, 30.0),
        "Posterize": _bits(4, 4),
        "Solarize": _linear(1.0, 0.0),
        "AutoContrast": NONE,
        "Equalize": NONE,
        **_enhancements(0.9),
        "Identity": NONE,  # never drawn: fills chains that are shorter than three ops
    },
)

SPACES = {space.policy: space for space in (RANDAUGMENT, AUTOAUGMENT, TRIVIALAUGMENT, AUGMIX)}
"""Spaces by the name of the op that draws from them."""

CIFAR10_PAIRS: tuple[tuple[tuple[str, float, int], tuple[str, float, int]], ...] = (
    (("Invert", 0.1, 0), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 0), ("Equalize", 0.9, 0)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 0), ("Equalize", 0.5, 0)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, 0), ("AutoContrast", 0.4, 0)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 0)),
    (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 0), ("Equalize", 0.6, 0)),
    (("Color", 0.9, 9), ("Equalize", 0.6, 0)),
    (("AutoContrast", 0.8, 0), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 0)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 0), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, 0), ("Invert", 0.1, 0)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 0)),
)
"""AutoAugment's sub-policies for CIFAR-10: (op, probability, bin) twice; the bin is 0 where the op has no magnitude."""


TABLES = {**dict.fromkeys(SPACES, 2), AUTOAUGMENT.policy: 5}
"""Number of ``tables`` of a policy."""
TYPES = (torch.int64, torch.float32, torch.int64, torch.float32, torch.int64)
"""Types of the tables."""


def tables(policy: str, height: int, width: int, device: torch.device) -> Sequence[Tensor]:
    """Return the tables in which a policy's draws are looked up, for images of that size: contiguous, on the device.

    Kernel of each op, int64 [ops]; arguments of each op, bin and sign, float32 [ops * bins * 2, ARGUMENTS]; for AutoAugment
    also ops (int64), probabilities (float32) and bins (int64) of ``CIFAR10_PAIRS``, each [25, 2]. They are made once and kept,
    so that a later batch asks the host for nothing.
    """
    return (_copy_tables if torch.compiler.is_compiling() else _tables)(policy, height, width, device)


@functools.lru_cache(maxsize=64)
def _tables(policy: str, height: int, width: int, device: torch.device) -> tuple[Tensor, ...]:
    space, rows = SPACES[policy], []
    with torch.device("cpu"):
        bins = {name: magnitudes(space.bins, height, width).tolist() for name, magnitudes in space.magnitudes.items()}
    for name, magnitude in ((name, magnitude) for name, magnitudes in bins.items() for magnitude in magnitudes):
        for sign in (1.0, 1.0 if name in UNSIGNED else -1.0):
            rows.append(_arguments(name, sign * magnitude, height, width))
    columns: list[list[Any]] = [[KERNELS.index(KERNEL_OF[name]) for name in space.names], rows]
    if policy == AUTOAUGMENT.policy:
        entries = [[(space.names.index(name), p, bin) for name, p, bin in pair] for pair in CIFAR10_PAIRS]
        columns += [[[entry[field] for entry in pair] for pair in entries] for field in range(3)]
    return tuple(torch.tensor(column, dtype=dtype, device=device) for column, dtype in zip(columns, TYPES, strict=False))


@torch.library.custom_op("augment::policy_tables", mutates_args=())
def _copy_tables(policy: str, height: int, width: int, device: torch.device) -> list[Tensor]:
    """Copy tables for ``torch.compile``, which cannot trace the arithmetic on numbers that makes them."""
    return [table.clone() for table in _tables(policy, height, width, device)]


@_copy_tables.register_fake
def _(policy: str, height: int, width: int, device: torch.device) -> list[Tensor]:
    space, pairs = SPACES[policy], (len(CIFAR10_PAIRS), 2)
    arguments = (len(space.names) * space.bins * 2, ARGUMENTS)
    shapes = ((len(space.names),), arguments, pairs, pairs, pairs)[: TABLES[policy]]
    return [torch.empty(shape, dtype=dtype, device=device) for shape, dtype in zip(shapes, TYPES, strict=False)]
