"""Rows of the catalog: ops that mix images and their labels."""

from collections.abc import Callable
from typing import Any

import kornia.augmentation as K
from torchvision.transforms import v2

from augment import compose
from augment.ops import CutMix, MixUp
from augment.rows.row import Row, UnsupportedOp, torchvision


def _kornia_mixup(op: MixUp, num_classes: int) -> Callable[..., Any]:
    if op.alpha != 1.0:  # Kornia draws lam uniformly, which is Beta(1, 1) and no other Beta
        raise UnsupportedOp("MixUp", "kornia", f"its lam is uniform, so alpha must be 1, got {op.alpha}")
    return compose.KorniaMix(
        K.RandomMixUpV2(lambda_val=(0.0, 1.0), data_keys=["input", "class"]), num_classes, weight_of_partner=True
    )


def _kornia_cutmix(op: CutMix, num_classes: int) -> Callable[..., Any]:
    mix = K.RandomCutMixV2(beta=op.alpha, use_correct_lambda=True, data_keys=["input", "class"])
    return compose.KorniaMix(mix, num_classes, weight_of_partner=False)


ROWS: dict[str, Row] = {
    "MixUp": Row(
        at=lambda size: MixUp(),
        build=torchvision(lambda op, classes: v2.MixUp(alpha=op.alpha, num_classes=classes)) | {"kornia": _kornia_mixup},
        mixes_labels=True,
        needs_float=("pil", "torchvision"),
        draws={"pil": "per_batch", "torchvision": "per_batch"},
    ),
    "CutMix": Row(
        at=lambda size: CutMix(),
        build=torchvision(lambda op, classes: v2.CutMix(alpha=op.alpha, num_classes=classes)) | {"kornia": _kornia_cutmix},
        mixes_labels=True,
        needs_float=("pil", "torchvision"),
        draws={"pil": "per_batch", "torchvision": "per_batch"},
        differs={"kornia": "the box lies wholly inside the image, not centred anywhere and cut off at the border"},
    ),
}
