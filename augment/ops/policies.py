"""Policies, which choose their ops at random. Tables of what they choose from: ``augment.policies``."""

import math
from collections.abc import Callable, Sequence

import kornia.augmentation.auto as KA
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from augment.backends.kornia import kornia
from augment.backends.torchvision import CVCUDA_MIXES_NOTHING, torchvision
from augment.distributions import Chains, Choice, MixtureWeights, Pair
from augment.fused import kinds
from augment.op import Drawn, Op, op
from augment.ops.geometry import BILINEAR, PIL_BORDER

PIL_POLICY = f"{PIL_BORDER}; 8-bit arithmetic"


def _shift(image: Tensor, x: float, y: float) -> Tensor:
    return F.affine(image, 0.0, [int(x), int(y)], 1.0, [0.0, 0.0], BILINEAR)


def _shear(image: Tensor, x: float, y: float) -> Tensor:
    degrees = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
    return F.affine(image, 0.0, [0, 0], 1.0, degrees, BILINEAR, center=[0, 0])


ORACLES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "Identity": lambda image, m: image,
    "ShearX": lambda image, m: _shear(image, m, 0.0),
    "ShearY": lambda image, m: _shear(image, 0.0, m),
    "TranslateX": lambda image, m: _shift(image, m, 0),
    "TranslateY": lambda image, m: _shift(image, 0, m),
    "Rotate": lambda image, m: F.rotate(image, m, BILINEAR),
    "Brightness": lambda image, m: F.adjust_brightness(image, 1.0 + m),
    "Color": lambda image, m: F.adjust_saturation(image, 1.0 + m),
    "Contrast": lambda image, m: F.adjust_contrast(image, 1.0 + m),
    "Sharpness": lambda image, m: F.adjust_sharpness(image, 1.0 + m),
    "Posterize": lambda image, m: F.posterize(image, int(m)),
    "Solarize": lambda image, m: F.solarize(image, m if image.is_floating_point() else 255 * m),
    "AutoContrast": lambda image, m: F.autocontrast(image),
    "Equalize": lambda image, m: F.equalize(image),
    "Invert": lambda image, m: F.invert(image),
    # Kornia's RandAugment only; not in the definition, kept so that its pixels can be replayed.
    "SolarizeAdd": lambda image, m: F.solarize((image + m).clamp(0, 1), 0.5),
}
"""Definitions of a policy's entries, magnitudes as in torchvision's tables: shears are slopes, factors are 1 + m."""


def _apply_entries(image: Tensor, entries: Sequence[tuple[str, float]]) -> Tensor:
    for name, magnitude in entries:
        image = ORACLES[name](image, magnitude)
    return image


class PolicyOp(Op):
    """An op that applies drawn ``ops``, a list of (name, magnitude) for each image."""

    fused = kinds.POLICY
    lanes = {"kornia": "per_batch"}  # the sub-policy, though its magnitudes and signs are drawn per image
    oracle = lambda op, image, drawn: _apply_entries(image, drawn["ops"])


@op
class AutoAugment(PolicyOp):
    """One of 25 pairs of ops, learnt on CIFAR-10 (Cubuk et al. 2019), as tabulated in torchvision."""

    draws = (Pair(),)
    cells = torchvision(lambda op: v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, interpolation=BILINEAR)) | kornia(
        lambda op: KA.AutoAugment("cifar10")
    )
    differs = {"kornia": "one sub-policy for the whole batch; other magnitudes", "pil": PIL_POLICY}


@op
class RandAugment(PolicyOp):
    """``num_ops`` ops drawn with replacement from torchvision's 14, at ``magnitude`` of 31 bins (Cubuk et al. 2020)."""

    num_ops: int = 2
    magnitude: int = 9

    limits = {"num_ops": (1, math.inf), "magnitude": (0, 30)}
    draws = (Choice("RandAugment", places="num_ops", bin="magnitude"),)
    cells = torchvision(lambda op: v2.RandAugment(op.num_ops, op.magnitude, interpolation=BILINEAR)) | kornia(
        lambda op: KA.RandAugment(n=op.num_ops, m=op.magnitude)
    )
    differs = {"kornia": "ops drawn once a batch and without replacement; no identity; other ranges", "pil": PIL_POLICY}


@op
class TrivialAugmentWide(PolicyOp):
    """One op of 14 at one of 31 magnitudes, all equally likely (Mueller & Hutter 2021, the wide space)."""

    draws = (Choice("TrivialAugmentWide"),)
    cells = torchvision(lambda op: v2.TrivialAugmentWide(interpolation=BILINEAR)) | kornia(lambda op: KA.TrivialAugment())
    differs = {"kornia": "one op for the whole batch; no identity, no colour; narrower ranges", "pil": PIL_POLICY}


def _mix_chains(op: Op, image: Tensor, drawn: Drawn) -> Tensor:
    image_weight, *weights = (float(weight) for weight in drawn["weights"])
    chains = [_apply_entries(image, chain) for chain in drawn["chains"]]
    return sum((weight * chain for weight, chain in zip(weights, chains, strict=True)), start=image_weight * image)


@op
class AugMix(Op):
    """Mix ``width`` chains of 1 to 3 ops with Dirichlet weights, then with the image by a Beta weight (Hendrycks et al.)."""

    severity: int = 3
    width: int = 3
    alpha: float = 1.0

    limits = {"severity": (1, 10), "width": (1, math.inf), "alpha": (1e-6, math.inf)}
    draws = (Chains(), MixtureWeights())
    cells = torchvision(
        lambda op: v2.AugMix(severity=op.severity, mixture_width=op.width, alpha=op.alpha, interpolation=BILINEAR),
        *CVCUDA_MIXES_NOTHING,
    )
    fused = kinds.AUGMIX
    has_thresholds = True
    differs = {"pil": "8-bit arithmetic"}  # torchvision turns the image into a tensor first: the border is blended
    oracle = _mix_chains
