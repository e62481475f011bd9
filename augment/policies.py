"""Spaces that AutoAugment, RandAugment, TrivialAugmentWide and AugMix choose from, as tables for a whole batch.

A policy draws an op, a bin of its magnitudes and a sign. They stand for one of a dozen kernels with a few numbers, so a whole
batch is looked up at once: ``Space.lookup`` gives each image the kernel's index and its arguments. Ops, magnitudes and
sub-policies are torchvision's own tables; the audit states them a second time, from the papers (``augment.audit.policies``).
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import v2

KERNELS = (
    "identity", "warp", "brightness", "contrast", "saturation", "sharpness", "posterize", "solarize", "autocontrast",
    "equalize", "invert",
)  # fmt: skip
"""Kernels that policies use; ``Space.lookup`` gives indices into this list."""

ARGUMENTS = 6
"""Numbers that a kernel takes for an image: a matrix for ``warp``, else the strength and zeros."""

KERNEL_OF = {
    "Identity": "identity", "ShearX": "warp", "ShearY": "warp", "TranslateX": "warp", "TranslateY": "warp", "Rotate": "warp",
    "Brightness": "brightness", "Color": "saturation", "Contrast": "contrast", "Sharpness": "sharpness",
    "Posterize": "posterize", "Solarize": "solarize", "AutoContrast": "autocontrast", "Equalize": "equalize",
    "Invert": "invert",
}  # fmt: skip

Entry = tuple[Callable[[int, int, int], Tensor | None], bool]
"""((bins, height, width) -> magnitude of each bin, None for an op without; whether a drawn sign counts), as in torchvision."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Space:
    """Ops to choose from, in torchvision's order, and their magnitudes in each of ``bins`` bins."""

    policy: str
    bins: int
    entries: Mapping[str, Entry]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the ops; a drawn ``op`` is an index into them."""
        return tuple(self.entries)

    def magnitudes(self, height: int, width: int) -> dict[str, list[tuple[float, float]]]:
        """Return for each op and bin the magnitude of a positive and of a negative sign; 0 for an op without."""
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)  # torchvision's functions take the default
        try:
            with torch.device("cpu"):
                scales = {name: (scale(self.bins, height, width), signed) for name, (scale, signed) in self.entries.items()}
        finally:
            torch.set_default_dtype(default)
        pairs: dict[str, list[tuple[float, float]]] = {}
        for name, (scale, is_signed) in scales.items():
            numbers = [0.0] * self.bins if scale is None else scale.tolist()
            pairs[name] = [(number, -number if is_signed else number) for number in numbers]
        return pairs

    def lookup(self, op: Tensor, bin: Tensor, negative: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Look up op and bin (int64) and sign (bool), all [...]: kernels int64 [...], arguments float32 [..., ARGUMENTS]."""
        if torch.compiler.is_compiling():  # tables are made by Python's arithmetic on numbers, which cannot be traced
            return _lookup(op, bin, negative, self.policy, height, width)
        return self._lookup(op, bin, negative, height, width)

    def _lookup(self, op: Tensor, bin: Tensor, negative: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        kernels, arguments = _tables(self, height, width, op.device)
        row = (op * self.bins + bin) * 2 + negative
        return kernels[op], arguments[row]


@torch.library.custom_op("augment::policy_lookup", mutates_args=())
def _lookup(op: Tensor, bin: Tensor, negative: Tensor, policy: str, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Call ``Space.lookup`` of a policy, for ``torch.compile``."""
    return SPACES[policy]._lookup(op, bin, negative, height, width)


@_lookup.register_fake
def _(op: Tensor, bin: Tensor, negative: Tensor, policy: str, height: int, width: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(op), op.new_empty((*op.shape, ARGUMENTS), dtype=torch.float32)


@functools.lru_cache(maxsize=64)
def _tables(space: Space, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the kernel of each op, and arguments of each op, bin and sign (in this order, flattened): rows [..., ARGUMENTS].

    Made once per image size and kept on the device, so that a later batch asks the host for nothing.
    """
    rows = [
        _arguments(name, magnitude, height, width)
        for name, bins in space.magnitudes(height, width).items()
        for signs in bins
        for magnitude in signs
    ]
    kernels = [KERNELS.index(KERNEL_OF[name]) for name in space.names]
    return torch.tensor(kernels, device=device), torch.tensor(rows, dtype=torch.float32, device=device)


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


_IDENTITY: dict[str, Entry] = {"Identity": (lambda bins, height, width: None, False)}
"""In AutoAugment for an op that is not applied; in AugMix, where it is not drawn, for chains of less than three ops."""


RANDAUGMENT = Space(policy="RandAugment", bins=31, entries=v2.RandAugment._AUGMENTATION_SPACE)
AUTOAUGMENT = Space(policy="AutoAugment", bins=10, entries={**_IDENTITY, **v2.AutoAugment._AUGMENTATION_SPACE})
TRIVIALAUGMENT = Space(policy="TrivialAugmentWide", bins=31, entries=v2.TrivialAugmentWide._AUGMENTATION_SPACE)
AUGMIX = Space(policy="AugMix", bins=10, entries={**v2.AugMix._AUGMENTATION_SPACE, **_IDENTITY})

SPACES = {space.policy: space for space in (RANDAUGMENT, AUTOAUGMENT, TRIVIALAUGMENT, AUGMIX)}
"""Spaces by the name of the op that draws from them."""

CIFAR10_PAIRS = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)._policies
"""AutoAugment's sub-policies for CIFAR-10: (op, probability, bin) twice; the bin is None where the op has no magnitude."""


TABLES = {**dict.fromkeys(SPACES, 2), AUTOAUGMENT.policy: 5}
"""Number of ``tables`` of a policy."""


def tables(policy: str, height: int, width: int, device: torch.device) -> tuple[Tensor, ...]:
    """Return the tables in which a policy's draws are looked up, contiguous, on the device, for images of that size.

    Kernel of each op, int64 [ops]; arguments of each op, bin and sign, float32 [ops * bins * 2, ARGUMENTS]; and for
    AutoAugment its ``pair_tables``.
    """
    pairs = pair_tables(device) if policy == AUTOAUGMENT.policy else ()
    return (*_tables(SPACES[policy], height, width, device), *pairs)


def pair_tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return ops (int64), probabilities (float32) and bins (int64) of ``CIFAR10_PAIRS``, each [25, 2], on the device."""
    return _pair_tables.__wrapped__(device) if torch.compiler.is_compiling() else _pair_tables(device)


@functools.lru_cache(maxsize=8)
def _pair_tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    names, probabilities, bins = zip(*(entry for pair in CIFAR10_PAIRS for entry in pair), strict=True)
    return (
        torch.tensor([AUTOAUGMENT.names.index(name) for name in names], device=device).view(-1, 2),
        torch.tensor(probabilities, dtype=torch.float32, device=device).view(-1, 2),
        torch.tensor([bin or 0 for bin in bins], device=device).view(-1, 2),
    )
