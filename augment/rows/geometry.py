"""Rows of the catalog: flips, crops and resampling."""

from typing import Any

import kornia.augmentation as K
from torchvision.transforms import v2

from augment.ops import (
    Affine,
    CenterCrop,
    HorizontalFlip,
    Perspective,
    RandomCrop,
    RandomResizedCrop,
    Resize,
    Rotate,
    VerticalFlip,
)
from augment.rows.row import BILINEAR, PIL_BORDER, Row, torchvision


class _Perspective(K.RandomPerspective):
    """Kornia maps pixel centres, counted from 0; torchvision their corners, half a pixel before."""

    def compute_transformation(self, input: Any, params: dict[str, Any], flags: dict[str, Any]) -> Any:
        corners = {name: params[name] - 0.5 for name in ("start_points", "end_points")}
        return super().compute_transformation(input, params | corners, flags)


ROWS: dict[str, Row] = {
    "HorizontalFlip": Row(
        at=lambda size: HorizontalFlip(),
        pinned_at=lambda size: HorizontalFlip(p=1.0),
        build=torchvision(lambda op: v2.RandomHorizontalFlip(op.p)) | {"kornia": lambda op: K.RandomHorizontalFlip(p=op.p)},
    ),
    "VerticalFlip": Row(
        at=lambda size: VerticalFlip(),
        pinned_at=lambda size: VerticalFlip(p=1.0),
        build=torchvision(lambda op: v2.RandomVerticalFlip(op.p)) | {"kornia": lambda op: K.RandomVerticalFlip(p=op.p)},
    ),
    "RandomCrop": Row(
        at=lambda size: RandomCrop(size=size, padding=size // 8),
        pinned_at=lambda size: RandomCrop(size=size, padding=0),
        build=torchvision(lambda op: v2.RandomCrop(op.size, padding=op.padding))
        | {"kornia": lambda op: K.RandomCrop((op.size, op.size), padding=op.padding)},
    ),
    "RandomResizedCrop": Row(
        at=lambda size: RandomResizedCrop(size=size),
        pinned_at=lambda size: RandomResizedCrop(size=size, scale=(1.0, 1.0), ratio=(1.0, 1.0)),
        build=torchvision(lambda op: v2.RandomResizedCrop(op.size, scale=op.scale, ratio=op.ratio, antialias=op.antialias))
        | {  # torchvision samples at pixel centres, which is Kornia's align_corners=False
            "kornia": lambda op: K.RandomResizedCrop((op.size, op.size), scale=op.scale, ratio=op.ratio, align_corners=False)
        },
        differs={"kornia": "no antialias; the fallback window is not centred"},
    ),
    "Rotate": Row(
        at=lambda size: Rotate(),
        pinned_at=lambda size: Rotate(degrees=(30.0, 30.0)),
        build=torchvision(lambda op: v2.RandomRotation(op.degrees, interpolation=BILINEAR, fill=None))
        | {"kornia": lambda op: K.RandomRotation(op.degrees, p=1.0)},
        differs={"pil": PIL_BORDER},
    ),
    "Affine": Row(
        at=lambda size: Affine(),
        pinned_at=lambda size: Affine(degrees=(20.0, 20.0), translate=(0.0, 0.0), scale=(1.2, 1.2), shear=(8.0, 8.0)),
        build=torchvision(
            lambda op: v2.RandomAffine(
                op.degrees, translate=op.translate, scale=op.scale, shear=op.shear, interpolation=BILINEAR, fill=None
            )
        )
        | {
            "kornia": lambda op: K.RandomAffine(
                op.degrees, translate=op.translate, scale=op.scale, shear=op.shear, align_corners=True, p=1.0
            )
        },
        differs={
            "kornia": "shifts are not rounded to whole pixels",
            "triton_augment": "shifts are not rounded to whole pixels",
            "pil": PIL_BORDER,
        },
    ),
    "Perspective": Row(
        at=lambda size: Perspective(),
        pinned_at=None,
        build=torchvision(lambda op: v2.RandomPerspective(op.distortion, p=op.p, fill=None))
        | {"kornia": lambda op: _Perspective(op.distortion, p=op.p, align_corners=True)},
        differs={
            "kornia": "corner shifts are continuous, torchvision's are whole pixels",
            "pil": PIL_BORDER,
        },
    ),
    "Resize": Row(
        at=lambda size: Resize(size=size // 2),
        pinned_at=lambda size: Resize(size=size // 2),
        build=torchvision(lambda op: v2.Resize(op.size, antialias=op.antialias))
        | {"kornia": lambda op: K.Resize(op.size, align_corners=False, antialias=op.antialias)},
        random=False,
        differs={"kornia": "antialias blurs with a Gaussian, torchvision integrates a triangle"},
    ),
    "CenterCrop": Row(
        at=lambda size: CenterCrop(size=size * 7 // 8),
        pinned_at=lambda size: CenterCrop(size=size * 7 // 8),
        build=torchvision(lambda op: v2.CenterCrop(op.size)) | {"kornia": lambda op: K.CenterCrop(op.size)},
        random=False,
    ),
}
