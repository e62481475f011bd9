"""Rows of the catalog: policies, which choose their ops at random."""

import kornia.augmentation.auto as KA
from torchvision.transforms import v2

from augment.ops import AugMix, AutoAugment, RandAugment, TrivialAugmentWide
from augment.rows.row import BILINEAR, PIL_POLICY, Row, torchvision

ROWS: dict[str, Row] = {
    "AutoAugment": Row(
        at=lambda size: AutoAugment(),
        build=torchvision(lambda op: v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, interpolation=BILINEAR))
        | {"kornia": lambda op: KA.AutoAugment("cifar10")},
        draws={"kornia": "per_batch"},  # the sub-policy, though its magnitudes and signs are drawn per image
        differs={"kornia": "one sub-policy for the whole batch; other magnitudes", "pil": PIL_POLICY},
    ),
    "RandAugment": Row(
        at=lambda size: RandAugment(),
        build=torchvision(lambda op: v2.RandAugment(op.num_ops, op.magnitude, interpolation=BILINEAR))
        | {"kornia": lambda op: KA.RandAugment(n=op.num_ops, m=op.magnitude)},
        draws={"kornia": "per_batch"},
        differs={"kornia": "ops drawn once a batch and without replacement; no identity; other ranges", "pil": PIL_POLICY},
    ),
    "TrivialAugmentWide": Row(
        at=lambda size: TrivialAugmentWide(),
        build=torchvision(lambda op: v2.TrivialAugmentWide(interpolation=BILINEAR))
        | {"kornia": lambda op: KA.TrivialAugment()},
        draws={"kornia": "per_batch"},
        differs={"kornia": "one op for the whole batch; no identity, no colour; narrower ranges", "pil": PIL_POLICY},
    ),
    "AugMix": Row(
        at=lambda size: AugMix(),
        build=torchvision(
            lambda op: v2.AugMix(severity=op.severity, mixture_width=op.width, alpha=op.alpha, interpolation=BILINEAR)
        ),
        differs={"pil": "8-bit arithmetic"},  # torchvision turns the image into a tensor first: the border is blended
    ),
}
