"""Rows of the catalog: each library's own defaults, where they differ.

A library is given only what it must be given; ``differs`` says what it then does otherwise than torchvision.
"""

import kornia.augmentation as K
from torchvision.transforms import v2

from augment.ops import (
    DefaultBrightness,
    DefaultContrast,
    DefaultRandomResizedCrop,
    DefaultResize,
    DefaultRotate,
    DefaultSaturation,
)
from augment.rows.row import Row, torchvision

ROWS: dict[str, Row] = {
    # Kornia's own p of 0.5 is not kept in DefaultRotate: it would hide the interpolation behind a coin
    "DefaultRotate": Row(
        at=lambda size: DefaultRotate(),
        pinned_at=lambda size: DefaultRotate(degrees=(30.0, 30.0)),
        build=torchvision(lambda op: v2.RandomRotation(op.degrees))
        | {"kornia": lambda op: K.RandomRotation(op.degrees, p=1.0)},
        differs={
            "kornia": "bilinear, torchvision takes the nearest pixel",
            "pil": "points midway between two pixels may fall to the other one",
        },
    ),
    "DefaultResize": Row(
        at=lambda size: DefaultResize(size=size // 2),
        pinned_at=lambda size: DefaultResize(size=size // 2),
        build=torchvision(lambda op: v2.Resize(op.size)) | {"kornia": lambda op: K.Resize(op.size)},
        random=False,
        differs={"kornia": "no antialias; align_corners=True"},
    ),
    "DefaultRandomResizedCrop": Row(
        at=lambda size: DefaultRandomResizedCrop(size=size),
        pinned_at=lambda size: DefaultRandomResizedCrop(size=size, scale=(1.0, 1.0), ratio=(1.0, 1.0)),
        build=torchvision(lambda op: v2.RandomResizedCrop(op.size, scale=op.scale, ratio=op.ratio))
        | {"kornia": lambda op: K.RandomResizedCrop((op.size, op.size), scale=op.scale, ratio=op.ratio)},
        differs={"kornia": "align_corners=True; no antialias; the fallback window is not centred"},
    ),
    "DefaultBrightness": Row(
        at=lambda size: DefaultBrightness(),
        pinned_at=lambda size: DefaultBrightness(low=1.3, high=1.3),
        build=torchvision(lambda op: v2.ColorJitter(brightness=(op.low, op.high)))
        | {"kornia": lambda op: K.RandomBrightness((op.low, op.high))},
        differs={"kornia": "additive brightness: the factor less 1 is added"},
    ),
    "DefaultContrast": Row(
        at=lambda size: DefaultContrast(),
        pinned_at=lambda size: DefaultContrast(low=0.6, high=0.6),
        build=torchvision(lambda op: v2.ColorJitter(contrast=(op.low, op.high)))
        | {"kornia": lambda op: K.RandomContrast((op.low, op.high))},
        differs={"kornia": "contrast about black, not about the mean"},
    ),
    "DefaultSaturation": Row(
        at=lambda size: DefaultSaturation(),
        pinned_at=lambda size: DefaultSaturation(low=0.4, high=0.4),
        build=torchvision(lambda op: v2.ColorJitter(saturation=(op.low, op.high)))
        | {"kornia": lambda op: K.RandomSaturation((op.low, op.high))},
        differs={"kornia": "the saturation of HSV is scaled, torchvision blends with grey"},
    ),
}
