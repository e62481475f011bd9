"""Each library's own defaults, where they differ: a library is given only what it must be given.

An op called ``Default...`` is defined by torchvision's default; ``differs`` says what the others then do. Parameters are
drawn as by the op of the same name without ``Default``.
"""

import math
from typing import Any, ClassVar, dataclass_transform

import kornia.augmentation as K
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from augment.backends.albumentations import albumentations
from augment.backends.dali import clamp, dali
from augment.backends.kornia import kornia
from augment.backends.torchvision import torchvision
from augment.op import Drawn, Op, Range, op
from augment.ops.colour import (
    ABOUT_BLACK,
    ABOUT_GREY,
    ADDITIVE,
    Brightness,
    ColorJitter,
    Contrast,
    GaussianBlur,
    Saturation,
    turn_in_yiq,
)
from augment.ops.geometry import (
    ALBUMENTATIONS_WINDOW,
    BESIDE,
    BILINEAR,
    DALI_WINDOW,
    RandomResizedCrop,
    Resize,
    Rotate,
    resize_corners_aligned,
    window,
)

ALIGNED = "align_corners=True, no antialias"
LINEAR = "bilinear, not the nearest pixel"
OUTSIDE = "bilinear, and the border pixels repeated outside, not black"
HSV_SATURATION = "the saturation of HSV is scaled, not a blend with grey"
WIDE = "a kernel of 3 sigma or more to either side, not of kernel_size"
TWIST = "a fixed order, contrast about mid-grey, hue and saturation in YIQ, clamped once"


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


def _rotate_repeated(op: Any, image: Tensor, drawn: Drawn) -> Tensor:
    height, width = image.shape[-2:]
    wide = F.pad(image, [width // 2, height // 2], padding_mode="edge")
    return F.center_crop(F.rotate(wide, float(drawn["angle"]), BILINEAR), [height, width])


@dataclass_transform(frozen_default=True, kw_only_default=True)
def default(cls: type[Op]) -> Any:
    """Register an op with a library's own defaults, which fused does not do."""
    cls.fused = None
    return op(cls)


@default
class DefaultRotate(Rotate):
    """Rotate by an angle in ``degrees``, the interpolation left as it is: the nearest pixel in torchvision."""

    # Not kept, as they would hide the interpolation: a p of 0.5, and DALI's canvas that grows with the angle.
    cells = (
        torchvision(lambda op: v2.RandomRotation(op.degrees))
        | kornia(lambda op: K.RandomRotation(op.degrees, p=1.0), angle="degrees")
        | dali(lambda ndd, op, images, drawn: ndd.rotate(images, angle=drawn["angle"], keep_size=True))
        | albumentations(lambda A, op, white: [A.Rotate(op.degrees, p=1.0)], **Rotate.cells["albumentations"].reads)
    )
    warps = False
    differs = {
        **dict.fromkeys(("kornia", "albumentations"), LINEAR),
        "dali": OUTSIDE,
        "pil": "points midway between two pixels may fall to the other one",
    }
    alternatives = {
        "the nearest pixel in 16-bit fixed point": _nearest_of_pil,
        LINEAR: lambda op, image, drawn: F.rotate(image, float(drawn["angle"]), BILINEAR),
        OUTSIDE: _rotate_repeated,
    }
    oracle = lambda op, image, drawn: F.rotate(image, float(drawn["angle"]))


@default
class DefaultResize(Resize):
    """Resize the shorter side to ``size`` pixels, nothing else given: bilinear and antialiased in torchvision."""

    antialias: ClassVar[bool] = True  # type: ignore[misc]  # not a field here

    cells = (
        torchvision(lambda op: v2.Resize(op.size))
        | kornia(lambda op: K.Resize(op.size))
        | dali(lambda ndd, op, images, drawn: ndd.resize(images, resize_shorter=op.size))
        | {"dali_torchvision": Resize.cells["dali_torchvision"]}
        | albumentations(lambda A, op, white: [A.SmallestMaxSize(op.size)])
    )
    differs = {**Resize.differs, "kornia": ALIGNED}
    alternatives = {ALIGNED: lambda op, image, drawn: resize_corners_aligned(image, op.size, op.size), **Resize.alternatives}
    oracle = lambda op, image, drawn: F.resize(image, [op.size])


def _random_resized_crop(ndd: Any, op: Any, images: Any, drawn: Drawn) -> Any:
    # What random_resized_crop does with the window that it draws and does not tell.
    start, shape = (ndd.cast(drawn[name], dtype=ndd.float32) for name in ("anchor", "shape"))
    return ndd.resize(images, size=[op.size] * 2, roi_start=start, roi_end=start + shape)


@default
class DefaultRandomResizedCrop(RandomResizedCrop):
    """RandomResizedCrop of which only ``size``, ``scale`` and ``ratio`` are given: antialiased in torchvision."""

    antialias: ClassVar[bool] = True  # type: ignore[misc]  # not a field here

    cells = (
        torchvision(lambda op: v2.RandomResizedCrop(op.size, scale=op.scale, ratio=op.ratio))
        | kornia(
            lambda op: K.RandomResizedCrop((op.size, op.size), scale=op.scale, ratio=op.ratio),
            **RandomResizedCrop.cells["kornia"].reads,
        )
        | dali(_random_resized_crop, lambda op, draws: draws.window(op.scale, op.ratio), **DALI_WINDOW)
        | {"dali_torchvision": RandomResizedCrop.cells["dali_torchvision"]}
        | albumentations(
            lambda A, op, white: [A.RandomResizedCrop((op.size, op.size), op.scale, op.ratio)], **ALBUMENTATIONS_WINDOW
        )
    )
    differs = {**RandomResizedCrop.differs, "kornia": f"{ALIGNED}; the fallback window is not centred", "dali": BESIDE}
    alternatives = {
        ALIGNED: lambda op, image, drawn: resize_corners_aligned(F.crop(image, *window(drawn)), op.size, op.size),
        **RandomResizedCrop.alternatives,
    }
    oracle = lambda op, image, drawn: F.resized_crop(image, *window(drawn), [op.size] * 2)


@default
class DefaultBrightness(Brightness):
    """A factor in [low, high] given to the library's class for brightness: torchvision multiplies by it."""

    cells = (
        Brightness.cells
        | kornia(lambda op: K.RandomBrightness((op.low, op.high)), factor="brightness_factor")
        | albumentations(
            lambda A, op, white: [A.RandomBrightnessContrast((op.low - 1, op.high - 1), (0, 0), p=1.0)],
            factor=lambda params: params["beta"] + 1,
        )
    )
    differs = dict.fromkeys(("kornia", "albumentations"), ADDITIVE)


@default
class DefaultContrast(Contrast):
    """A factor in [low, high] given to the library's class for contrast: torchvision blends with the grey mean by it."""

    cells = (
        Contrast.cells
        | kornia(lambda op: K.RandomContrast((op.low, op.high)), factor="contrast_factor")
        | dali(lambda ndd, op, images, drawn: clamp(ndd.contrast(images, contrast=drawn["factor"])))
        | albumentations(
            lambda A, op, white: [A.RandomBrightnessContrast((0, 0), (op.low - 1, op.high - 1), p=1.0)], factor="alpha"
        )
    )
    differs = {**Contrast.differs, **dict.fromkeys(("kornia", "albumentations"), ABOUT_BLACK), "dali": ABOUT_GREY}


def _saturation_of_hsv(op: Any, image: Tensor, drawn: Drawn) -> Tensor:
    # With hue and value kept, a channel's distance from the largest one is in proportion to the saturation.
    largest, smallest = image.amax(0), image.amin(0)
    possible = largest / (largest - smallest).clamp(min=1e-9)  # a saturation above 1 is cut off
    return largest - (largest - image) * possible.clamp(max=float(drawn["factor"]))


@default
class DefaultSaturation(Saturation):
    """A factor in [low, high] given to the library's class for saturation: torchvision blends with the grey version by it."""

    cells = Saturation.cells | kornia(lambda op: K.RandomSaturation((op.low, op.high)), factor="saturation_factor")
    differs = {"kornia": HSV_SATURATION}
    alternatives = {HSV_SATURATION: _saturation_of_hsv}


def _twist(op: Any, image: Tensor, drawn: Drawn) -> Tensor:
    brightness, contrast, saturation, hue = (float(drawn[name]) for name in ("brightness", "contrast", "saturation", "hue"))
    return (brightness * (contrast * (turn_in_yiq(image, hue, saturation) - 0.5) + 0.5)).clamp(0, 1)


def _twist_with_dali(ndd: Any, op: Any, images: Any, drawn: Drawn) -> Any:
    factors = {name: drawn[name] for name in ("brightness", "contrast", "saturation")}
    return clamp(ndd.color_twist(images, **factors, hue=drawn["hue"] * 360.0))


@default
class DefaultColorJitter(ColorJitter):
    """The factors given to the library's class for all four, nothing else."""

    cells = ColorJitter.cells | dali(_twist_with_dali, **ColorJitter.cells["dali"].reads)
    differs = {**ColorJitter.differs, "dali": TWIST}
    alternatives = {TWIST: _twist, **ColorJitter.alternatives}


def _blur_wide(op: Any, image: Tensor, drawn: Drawn) -> Tensor:
    return F.gaussian_blur(image, [2 * math.ceil(3 * drawn["sigma"]) + 1] * 2, [float(drawn["sigma"])] * 2)


@default
class DefaultGaussianBlur(GaussianBlur):
    """Sigma, and kernel_size where it must be given."""

    sigma: Range = (0.5, 2.0)

    cells = (
        GaussianBlur.cells
        | dali(lambda ndd, op, images, drawn: ndd.gaussian_blur(images, sigma=drawn["sigma"]))
        | albumentations(
            lambda A, op, white: [A.GaussianBlur(sigma_limit=op.sigma, p=1.0)], **GaussianBlur.cells["albumentations"].reads
        )
    )
    differs = dict.fromkeys(("dali", "albumentations"), WIDE)
    alternatives = {WIDE: _blur_wide}
