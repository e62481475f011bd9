"""Rectangles that are blotted out."""

from typing import Any

import kornia.augmentation as K
from torch import Tensor
from torchvision.transforms import v2

from augment.backends.kornia import kornia
from augment.backends.torchvision import torchvision
from augment.distributions import Rectangle, Square
from augment.fused import kinds
from augment.op import Drawn, Op, Range, Read, op
from augment.ops.geometry import window

TORCHVISION_READS: dict[str, Read] = {
    "top": "i",
    "left": "j",
    # Without a value, ten windows did not fit and nothing is erased.
    "height": lambda params: params["h"] if params["v"] is not None else 0,
    "width": lambda params: params["w"] if params["v"] is not None else 0,
}
KORNIA_READS: dict[str, Read] = {"top": "ys", "left": "xs", "height": "heights", "width": "widths"}


def _erase(image: Tensor, drawn: Drawn, value: float) -> Tensor:
    top, left, height, width = window(drawn)
    image = image.clone()
    image[:, top : top + height, left : left + width] = value if image.is_floating_point() else round(255 * value)
    return image


class _RandomErasing(v2.RandomErasing):
    """torchvision's value is on the scale of the dtype; ours is a share of it."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if params["v"] is not None and not inpt.is_floating_point():
            params = {**params, "v": (255 * params["v"]).round()}
        return super().transform(inpt, params)


@op
class RandomErasing(Op):
    """With probability ``p`` set a rectangle to ``value``.

    Its area is uniform in ``scale`` times the image's, its height over width log-uniform in ``ratio``; it lies wholly inside
    the image; after ten that do not fit nothing is erased. Source: Zhong et al. 2017, as in torchvision.
    """

    p: float = 0.5
    scale: Range = (0.02, 0.33)
    ratio: Range = (0.3, 3.3)
    value: float = 0.0

    limits = {"value": (0.0, 1.0)}
    draws = (Rectangle(),)
    cells = torchvision(
        lambda op: _RandomErasing(op.p, scale=op.scale, ratio=op.ratio, value=op.value), **TORCHVISION_READS
    ) | kornia(lambda op: K.RandomErasing(scale=op.scale, ratio=op.ratio, value=op.value, p=op.p), **KORNIA_READS)
    fused = kinds.Erase(value="value")
    needs_float = ("pil",)  # torchvision erases tensors only
    differs = {"kornia": "the ratio is uniform on either side of 1, not log-uniform"}
    oracle = lambda op, image, drawn: _erase(image, drawn, op.value)


@op
class Cutout(Op):
    """Set a square whose side is ``side`` times the image's side to black, wholly inside the image.

    DeVries & Taylor 2017 let the square stick out of the image; the libraries only offer one that does not (their
    RandomErasing with a pinned size), and that is what is defined and compared here.
    """

    side: float = 0.5

    draws = (Square(),)
    cells = torchvision(
        lambda op: v2.RandomErasing(1.0, scale=(op.side**2,) * 2, ratio=(1.0, 1.0)), **TORCHVISION_READS
    ) | kornia(lambda op: K.RandomErasing(scale=(op.side**2,) * 2, ratio=(1.0, 1.0), p=1.0), **KORNIA_READS)
    fused = kinds.Erase()
    needs_float = ("pil",)
    oracle = lambda op, image, drawn: _erase(image, drawn, 0.0)
