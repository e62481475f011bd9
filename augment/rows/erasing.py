"""Rows of the catalog: rectangles that are blotted out."""

import kornia.augmentation as K
from torchvision.transforms import v2

from augment.ops import Cutout, RandomErasing
from augment.rows.row import Row, torchvision

ROWS: dict[str, Row] = {
    "RandomErasing": Row(
        at=lambda size: RandomErasing(),
        pinned_at=None,
        build=torchvision(lambda op: v2.RandomErasing(op.p, scale=op.scale, ratio=op.ratio, value=op.value))
        | {"kornia": lambda op: K.RandomErasing(scale=op.scale, ratio=op.ratio, value=op.value, p=op.p)},
        needs_float=("pil",),  # torchvision erases tensors only
        differs={"kornia": "the ratio is uniform on either side of 1, not log-uniform"},
    ),
    "Cutout": Row(
        at=lambda size: Cutout(),
        pinned_at=None,
        build=torchvision(lambda op: v2.RandomErasing(1.0, scale=(op.side**2,) * 2, ratio=(1.0, 1.0)))
        | {"kornia": lambda op: K.RandomErasing(scale=(op.side**2,) * 2, ratio=(1.0, 1.0), p=1.0)},
        needs_float=("pil",),
    ),
}
