"""Tables of the policies: which ops, how likely, how strong. Written from the papers, not read out of a library.

AutoAugment: Cubuk et al. 2019, CIFAR-10; RandAugment: Cubuk et al. 2020; TrivialAugment (wide): Mueller & Hutter 2021;
AugMix: Hendrycks et al. 2020 with all ops. Magnitudes as torchvision hands them on: shears are slopes, shifts pixels,
rotations degrees, factors offsets from 1, posterize bits, solarize a threshold in 0..1.
"""

from collections import Counter

from augment.ops import Op

SIGNED = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness")
WITHOUT_MAGNITUDE = ("Identity", "AutoContrast", "Equalize", "Invert")
COMMON = ("Identity", *SIGNED, "Posterize", "Solarize", "AutoContrast", "Equalize")

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


def sub_policies(op: Op) -> tuple[SubPolicy, ...]:
    """AutoAugment's pairs of (op, probability, magnitude's bin of 10); empty for policies that draw ops evenly."""
    return CIFAR10_POLICY if op.name == "AutoAugment" else ()


def chain_operations(op: Op) -> tuple[str, ...]:
    """The ops of a policy that draws them evenly."""
    return COMMON[1:] if op.name == "AugMix" else COMMON


def _largest(policy: str, name: str, shape: tuple[int, int]) -> float:
    """The strongest magnitude of a signed op."""
    side = shape[1] if name == "TranslateX" else shape[0]
    if name.startswith("Translate"):
        return {"TrivialAugmentWide": 32.0, "AugMix": side / 3}.get(policy, 150 / 331 * side)
    wide = policy == "TrivialAugmentWide"
    if name == "Rotate":
        return 135.0 if wide else 30.0
    if name.startswith("Shear"):
        return 0.99 if wide else 0.3
    return 0.99 if wide else 0.9


def _scale(policy: str, name: str, bins: int, shape: tuple[int, int]) -> list[float]:
    """The magnitudes of all bins, weakest first, without sign."""
    share = [i / (bins - 1) for i in range(bins)]
    if name == "Posterize":
        first, lost = {"TrivialAugmentWide": (8, 6), "AugMix": (4, 4)}.get(policy, (8, 4))
        return [float(round(first - lost * x)) for x in share]
    if name == "Solarize":
        return [1 - x for x in share]
    return [x * _largest(policy, name, shape) for x in share]


def _with_sign(name: str, values: list[float], weights: list[float]) -> dict[float, float]:
    law: Counter[float] = Counter()
    for value, weight in zip(values, weights, strict=True):
        for sign in (1, -1) if name in SIGNED else (1,):
            law[sign * value + 0.0] += weight / (2 if name in SIGNED else 1)  # type: ignore[assignment]
    return dict(law)


def magnitudes_of(op: Op, shape: tuple[int, int]) -> dict[str, dict[float, float]]:
    """Each op's magnitudes and their probabilities, given that the op is drawn; only ops that have a magnitude."""
    if pairs := sub_policies(op):
        return _auto_augment_magnitudes(pairs, shape)
    bins, used = 31, range(31)
    if op.name == "RandAugment":
        used = range(getattr(op, "magnitude", 9), getattr(op, "magnitude", 9) + 1)
    if op.name == "AugMix":
        bins, used = 10, range(getattr(op, "severity", 3))
    laws = {}
    for name in chain_operations(op):
        if name not in WITHOUT_MAGNITUDE:
            scale = _scale(op.name, name, bins, shape)
            laws[name] = _with_sign(name, [scale[i] for i in used], [1 / len(used)] * len(used))
    return laws


def _auto_augment_magnitudes(pairs: tuple[SubPolicy, ...], shape: tuple[int, int]) -> dict[str, dict[float, float]]:
    weights: dict[str, Counter[int]] = {}
    for name, probability, index in (entry for pair in pairs for entry in pair):
        if index is not None and probability > 0:
            weights.setdefault(name, Counter())[index] += probability  # type: ignore[assignment]
    laws = {}
    for name, bins in weights.items():
        scale = _scale("AutoAugment", name, 10, shape)
        total = sum(bins.values())
        laws[name] = _with_sign(name, [scale[i] for i in bins], [weight / total for weight in bins.values()])
    return laws
