"""Rectangles that are blotted out."""

from typing import Any

import kornia.augmentation as K
from torch import Tensor
from torchvision.transforms import v2

from augment.backends.albumentations import albumentations
from augment.backends.dali import dali, unit
from augment.backends.kornia import kornia
from augment.backends.torchvision import torchvision
from augment.distributions import Rectangle, Square
from augment.fused import kinds
from augment.op import Drawn, Op, Range, Read, box_reads, op
from augment.ops.geometry import DALI_WINDOW, window

TORCHVISION_READS: dict[str, Read] = {
    "top": "i",
    "left": "j",
    # Without a value, ten windows did not fit and nothing is erased.
    "height": lambda params: params["h"] if params["v"] is not None else 0,
    "width": lambda params: params["w"] if params["v"] is not None else 0,
}


ALBUMENTATIONS_READS = box_reads(lambda params: params["holes"][0] if len(params["holes"]) else (0, 0, 0, 0))
"""A hole without extent: none."""
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


def _draw_rectangle(op: Any, draws: Any) -> dict[str, Any]:
    ratio = [1 / side for side in reversed(op.ratio)]  # DALI's is width over height
    return {"applied": draws.chance(op.p), **draws.window(op.scale, ratio)}


def _draw_square(op: Any, draws: Any) -> dict[str, Any]:
    side = round(op.side * min(draws.shape))
    top, left = (draws.integer(length - side + 1) for length in draws.shape)
    return {"top": top, "left": left, "side": 0.0 * top + side}


def _erase_with_dali(ndd: Any, images: Any, anchor: Any, shape: Any, value: float) -> Any:
    anchor, shape = (ndd.cast(batch, dtype=ndd.float32) for batch in (anchor, shape))
    return ndd.erase(images, anchor=anchor, shape=shape, axis_names="HW", fill_value=value * unit(images))


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
    cells = (
        torchvision(lambda op: _RandomErasing(op.p, scale=op.scale, ratio=op.ratio, value=op.value), **TORCHVISION_READS)
        | kornia(lambda op: K.RandomErasing(scale=op.scale, ratio=op.ratio, value=op.value, p=op.p), **KORNIA_READS)
        | dali(
            lambda ndd, op, images, drawn: _erase_with_dali(
                ndd, images, drawn["anchor"], drawn["shape"] * drawn["applied"], op.value
            ),
            _draw_rectangle,
            **DALI_WINDOW,
        )
        | albumentations(
            lambda A, op, white: [A.Erasing(op.scale, op.ratio, fill=op.value * white, p=op.p)], **ALBUMENTATIONS_READS
        )
    )
    fused = kinds.erase(lambda op: op.value)
    needs_float = ("pil",)  # torchvision erases tensors only
    differs = {
        "kornia": "the ratio is uniform on either side of 1, not log-uniform",
        "albumentations": "the area is capped so that every ratio fits, and the ratio is uniform, not log-uniform",
        "dali": "its random_crop_generator draws other windows where few fit",
    }
    oracle = lambda op, image, drawn: _erase(image, drawn, op.value)


@op
class Cutout(Op):
    """Set a square whose side is ``side`` times the image's side to black, wholly inside the image.

    DeVries & Taylor 2017 let the square stick out of the image; the libraries only offer one that does not (their
    RandomErasing with a pinned size), and that is what is defined and compared here.
    """

    side: float = 0.5

    draws = (Square(),)
    cells = (
        torchvision(lambda op: v2.RandomErasing(1.0, scale=(op.side**2,) * 2, ratio=(1.0, 1.0)), **TORCHVISION_READS)
        | kornia(lambda op: K.RandomErasing(scale=(op.side**2,) * 2, ratio=(1.0, 1.0), p=1.0), **KORNIA_READS)
        | dali(
            lambda ndd, op, images, drawn: _erase_with_dali(
                ndd, images, ndd.stack(drawn["top"], drawn["left"]), ndd.stack(drawn["side"], drawn["side"]), 0.0
            ),
            _draw_square,
            height="side",
            width="side",
        )
        | albumentations(lambda A, op, white: [A.Erasing((op.side**2,) * 2, (1.0, 1.0), p=1.0)], **ALBUMENTATIONS_READS)
    )
    fused = kinds.erase()
    needs_float = ("pil",)
    oracle = lambda op, image, drawn: _erase(image, drawn, 0.0)
