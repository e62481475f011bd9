"""Tables of the policies: which ops, how likely, how strong. Written from the papers, independent of ``augment.policies``.

AutoAugment: Cubuk et al. 2019, CIFAR-10; RandAugment: Cubuk et al. 2020; TrivialAugment (wide): Mueller & Hutter 2021;
AugMix: Hendrycks et al. 2020 with all ops. Magnitudes as torchvision hands them on: shears are slopes, shifts pixels,
rotations degrees, factors offsets from 1, posterize bits, solarize a threshold in 0..1.
"""

import itertools
import math
from collections import Counter
from collections.abc import Mapping

SIGNED = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness")
WITHOUT_MAGNITUDE = ("Identity", "AutoContrast", "Equalize", "Invert")
COMMON = ("Identity", *SIGNED, "Posterize", "Solarize", "AutoContrast", "Equalize")
OPERATIONS = {"RandAugment": COMMON, "TrivialAugmentWide": COMMON, "AugMix": COMMON[1:]}
"""Ops of the policies that draw them evenly."""
BINS = {"RandAugment": 31, "TrivialAugmentWide": 31, "AugMix": 10, "AutoAugment": 10}

SubPolicy = tuple[tuple[str, float, int | None], ...]

CIFAR10_POLICY: tuple[SubPolicy, ...] = (
    (("Invert", 0.1, None), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, None), ("Equalize", 0.9, None)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, None), ("Equalize", 0.5, None)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, None), ("AutoContrast", 0.4, None)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, None)),
    (("Equalize", 0.2, None), ("AutoContrast", 0.6, None)),
    (("Equalize", 0.2, None), ("Equalize", 0.6, None)),
    (("Color", 0.9, 9), ("Equalize", 0.6, None)),
    (("AutoContrast", 0.8, None), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, None)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, None), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, None), ("Invert", 0.1, None)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, None)),
)
"""AutoAugment's pairs of (op, probability, bin of its magnitude)."""


def _largest(policy: str, name: str, shape: tuple[int, int]) -> float:
    """Return the strongest magnitude of a signed op."""
    side = shape[1] if name == "TranslateX" else shape[0]
    if name.startswith("Translate"):
        return {"TrivialAugmentWide": 32.0, "AugMix": side / 3}.get(policy, 150 / 331 * side)
    wide = policy == "TrivialAugmentWide"
    if name == "Rotate":
        return 135.0 if wide else 30.0
    if name.startswith("Shear"):
        return 0.99 if wide else 0.3
    return 0.99 if wide else 0.9


def _magnitude(policy: str, name: str, bin: int, shape: tuple[int, int]) -> float:
    """Return the magnitude of a bin, without sign."""
    share = bin / (BINS[policy] - 1)
    if name == "Posterize":
        first, lost = {"TrivialAugmentWide": (8, 6), "AugMix": (4, 4)}.get(policy, (8, 4))
        return float(round(first - lost * share))
    return 1 - share if name == "Solarize" else share * _largest(policy, name, shape)


def magnitudes(policy: str, bins: Mapping[str, Mapping[int, float]], shape: tuple[int, int]) -> dict[str, dict[float, float]]:
    """Return the probabilities of each op's magnitudes, given the weights of its bins; only ops that have a magnitude."""
    laws: dict[str, dict[float, float]] = {}
    for name, weights in bins.items():
        if name in WITHOUT_MAGNITUDE:
            continue
        law: Counter[float] = Counter()
        signs = (1, -1) if name in SIGNED else (1,)
        for bin, weight in weights.items():
            for sign in signs:
                law[sign * _magnitude(policy, name, bin, shape) + 0.0] += weight / sum(weights.values()) / len(signs)  # type: ignore[assignment]
        laws[name] = dict(law)
    return laws


def auto_augment_bins() -> dict[str, Counter[int]]:
    """Return how often AutoAugment draws each bin of each op."""
    bins: dict[str, Counter[int]] = {}
    for name, probability, bin in itertools.chain.from_iterable(CIFAR10_POLICY):
        if bin is not None and probability > 0:
            bins.setdefault(name, Counter())[bin] += probability  # type: ignore[assignment]
    return bins


def auto_augment_choices() -> Counter[tuple[str, ...]]:
    """Return the probability of each sequence of ops that AutoAugment applies."""
    choices: Counter[tuple[str, ...]] = Counter()
    for pair in CIFAR10_POLICY:
        for applied in itertools.product((True, False), repeat=len(pair)):
            chance = math.prod(p if yes else 1 - p for yes, (_, p, _) in zip(applied, pair, strict=True))
            names = tuple(name for yes, (name, _, _) in zip(applied, pair, strict=True) if yes)
            choices[names] += chance / len(CIFAR10_POLICY)  # type: ignore[assignment]
    return choices
