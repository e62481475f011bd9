"""Each library's own defaults, where they differ: a library is given only what it must be given.

An op called ``Default...`` is defined by torchvision's default; ``differs`` says what the others then do. Parameters are
drawn as by the op of the same name without ``Default``.
"""

import math
from typing import Any, ClassVar

import kornia.augmentation as K
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from augment.backends.kornia import kornia
from augment.backends.torchvision import torchvision
from augment.op import Drawn, op
from augment.ops.colour import (
    ABOUT_BLACK,
    Brightness,
    Contrast,
    Saturation,
    add_factor,
    scale_about_black,
    torchvision_jitter,
)
from augment.ops.geometry import BILINEAR, RandomResizedCrop, Resize, Rotate, resize_corners_aligned, window

ALIGNED = "align_corners=True, no antialias"


def _nearest_of_pil(op: Any, image: Tensor, drawn: Drawn) -> Tensor:
    # Pillow steps through the source in 1/65536 of a pixel, so points midway between two pixels fall to either.
    height, width = image.shape[-2:]
    cos, sin = math.cos(math.radians(-drawn["angle"])), math.sin(math.radians(-drawn["angle"]))
    left, top = (width - cos * width - sin * height) / 2, (height + sin * width - cos * height) / 2
    columns, rows = torch.arange(width)[None], torch.arange(height)[:, None]
    start_x, start_y, c, s = (math.floor(v * 65536 + 0.5) for v in (left + (cos + sin) / 2, top + (cos - sin) / 2, cos, sin))
    x, y = (start_x + c * columns + s * rows) >> 16, (start_y - s * columns + c * rows) >> 16
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return image[:, y.clamp(0, height - 1), x.clamp(0, width - 1)] * inside


@op
class DefaultRotate(Rotate):
    """Rotate by an angle in ``degrees``, the interpolation left as it is: the nearest pixel in torchvision."""

    # Kornia's own p of 0.5 is not kept: it would hide the interpolation behind a coin.
    cells = torchvision(lambda op: v2.RandomRotation(op.degrees)) | kornia(
        lambda op: K.RandomRotation(op.degrees, p=1.0), angle="degrees"
    )
    fused = None  # type: ignore[assignment]
    warps = False
    differs = {
        "kornia": "bilinear, torchvision takes the nearest pixel",
        "pil": "points midway between two pixels may fall to the other one",
    }
    alternatives = {
        "the nearest pixel in 16-bit fixed point": _nearest_of_pil,
        "bilinear, not the nearest pixel": lambda op, image, drawn: F.rotate(image, float(drawn["angle"]), BILINEAR),
    }
    oracle = lambda op, image, drawn: F.rotate(image, float(drawn["angle"]))


@op
class DefaultResize(Resize):
    """Resize the shorter side to ``size`` pixels, nothing else given: bilinear and antialiased in torchvision."""

    antialias: ClassVar[bool] = True  # type: ignore[misc]  # not a field here

    cells = torchvision(lambda op: v2.Resize(op.size)) | kornia(lambda op: K.Resize(op.size))
    fused = None  # type: ignore[assignment]
    differs = {"kornia": "no antialias; align_corners=True"}
    alternatives = {ALIGNED: lambda op, image, drawn: resize_corners_aligned(image, op.size, op.size)}
    oracle = lambda op, image, drawn: F.resize(image, [op.size])


@op
class DefaultRandomResizedCrop(RandomResizedCrop):
    """RandomResizedCrop of which only ``size``, ``scale`` and ``ratio`` are given: antialiased in torchvision."""

    antialias: ClassVar[bool] = True  # type: ignore[misc]  # not a field here

    cells = torchvision(lambda op: v2.RandomResizedCrop(op.size, scale=op.scale, ratio=op.ratio)) | kornia(
        lambda op: K.RandomResizedCrop((op.size, op.size), scale=op.scale, ratio=op.ratio),
        **RandomResizedCrop.cells["kornia"].reads,
    )
    fused = None  # type: ignore[assignment]
    differs = {"kornia": "align_corners=True; no antialias; the fallback window is not centred"}
    alternatives = {ALIGNED: lambda op, image, drawn: resize_corners_aligned(F.crop(image, *window(drawn)), op.size, op.size)}
    oracle = lambda op, image, drawn: F.resized_crop(image, *window(drawn), [op.size] * 2)


@op
class DefaultBrightness(Brightness):
    """A factor in [low, high] given to the library's class for brightness: torchvision multiplies by it."""

    cells = torchvision_jitter("brightness") | kornia(
        lambda op: K.RandomBrightness((op.low, op.high)), factor="brightness_factor"
    )
    fused = None  # type: ignore[assignment]
    differs = {"kornia": "additive brightness: the factor less 1 is added"}
    alternatives = {"additive brightness": add_factor}


@op
class DefaultContrast(Contrast):
    """A factor in [low, high] given to the library's class for contrast: torchvision blends with the grey mean by it."""

    cells = torchvision_jitter("contrast") | kornia(lambda op: K.RandomContrast((op.low, op.high)), factor="contrast_factor")
    fused = None  # type: ignore[assignment]
    differs = {"kornia": ABOUT_BLACK}
    alternatives = {ABOUT_BLACK: scale_about_black}


def _saturation_of_hsv(op: Any, image: Tensor, drawn: Drawn) -> Tensor:
    # With hue and value kept, a channel's distance from the largest one is in proportion to the saturation.
    largest, smallest = image.amax(0), image.amin(0)
    possible = largest / (largest - smallest).clamp(min=1e-9)  # a saturation above 1 is cut off
    return largest - (largest - image) * possible.clamp(max=float(drawn["factor"]))


@op
class DefaultSaturation(Saturation):
    """A factor in [low, high] given to the library's class for saturation: torchvision blends with the grey version by it."""

    cells = torchvision_jitter("saturation") | kornia(
        lambda op: K.RandomSaturation((op.low, op.high)), factor="saturation_factor"
    )
    fused = None  # type: ignore[assignment]
    differs = {"kornia": "the saturation of HSV is scaled, torchvision blends with grey"}
    alternatives = {"the saturation of HSV is scaled, not a blend with grey": _saturation_of_hsv}
