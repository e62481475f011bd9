"""Rows of the catalog: what changes values in place, from brightness to normalisation."""

from typing import Any

import kornia.augmentation as K
import torch
from torch import nn
from torchvision.transforms import v2

from augment import compose
from augment.ops import (
    AutoContrast,
    Brightness,
    ColorJitter,
    Contrast,
    Equalize,
    GaussianBlur,
    GaussianNoise,
    Grayscale,
    Hue,
    Invert,
    Normalize,
    Posterize,
    Saturation,
    Sharpness,
    Solarize,
)
from augment.rows.row import PIL_HUE, Row, torchvision


class _Solarize(v2.RandomSolarize):
    """torchvision's threshold is on the scale of the dtype; ours is a share of it. ``>=`` on uint8 needs the ceiling."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        is_float = isinstance(inpt, torch.Tensor) and inpt.is_floating_point()
        threshold = self.threshold if is_float else -(-self.threshold * 255 // 1)
        return self._call_kernel(v2.functional.solarize, inpt, threshold)


def _kornia_noise(op: GaussianNoise) -> nn.Module:
    # Kornia's noise is not clamped; the definition is.
    return nn.Sequential(K.RandomGaussianNoise(mean=0.0, std=op.sigma, p=1.0), compose.Clamp())


ROWS: dict[str, Row] = {
    "Brightness": Row(
        at=lambda size: Brightness(),
        pinned_at=lambda size: Brightness(low=1.3, high=1.3),
        build=torchvision(lambda op: v2.ColorJitter(brightness=(op.low, op.high)))
        | {  # Kornia's RandomBrightness adds; its ColorJitter multiplies, as the definition does
            "kornia": lambda op: K.ColorJitter(brightness=(op.low, op.high))
        },
    ),
    "Contrast": Row(
        at=lambda size: Contrast(),
        pinned_at=lambda size: Contrast(low=0.6, high=0.6),
        build=torchvision(lambda op: v2.ColorJitter(contrast=(op.low, op.high)))
        | {"kornia": lambda op: K.ColorJitter(contrast=(op.low, op.high))},
        differs={"triton_augment": "contrast about mid-grey, not about the mean"},
    ),
    "Saturation": Row(
        at=lambda size: Saturation(),
        pinned_at=lambda size: Saturation(low=0.4, high=0.4),
        build=torchvision(lambda op: v2.ColorJitter(saturation=(op.low, op.high)))
        | {"kornia": lambda op: K.ColorJitter(saturation=(op.low, op.high))},
    ),
    "Hue": Row(
        at=lambda size: Hue(),
        pinned_at=lambda size: Hue(low=0.2, high=0.2),
        build=torchvision(lambda op: v2.ColorJitter(hue=(op.low, op.high)))
        | {"kornia": lambda op: K.ColorJitter(hue=(op.low, op.high))},
        differs={"pil": PIL_HUE},
    ),
    "ColorJitter": Row(
        at=lambda size: ColorJitter(),
        pinned_at=None,
        build=torchvision(
            lambda op: v2.ColorJitter(brightness=op.brightness, contrast=op.contrast, saturation=op.saturation, hue=op.hue)
        )
        | {
            "kornia": lambda op: K.ColorJitter(
                brightness=op.brightness, contrast=op.contrast, saturation=op.saturation, hue=op.hue
            )
        },
        differs={
            "kornia": "one order of the four ops for the whole batch",
            "triton_augment": "brightness, contrast, saturation in this order; contrast about mid-grey, not about the mean",
            "pil": PIL_HUE,
        },
    ),
    "Grayscale": Row(
        at=lambda size: Grayscale(),
        pinned_at=lambda size: Grayscale(p=1.0),
        build=torchvision(lambda op: v2.RandomGrayscale(op.p)) | {"kornia": lambda op: K.RandomGrayscale(p=op.p)},
    ),
    "Solarize": Row(
        at=lambda size: Solarize(),
        pinned_at=lambda size: Solarize(p=1.0),
        build=torchvision(lambda op: _Solarize(op.threshold, op.p))
        | {  # a single threshold t would be drawn from 0.5 -/+ t, and something would be added first
            "kornia": lambda op: K.RandomSolarize((op.threshold, op.threshold), additions=(0.0, 0.0), p=op.p)
        },
    ),
    "Posterize": Row(
        at=lambda size: Posterize(),
        pinned_at=lambda size: Posterize(p=1.0),
        build=torchvision(lambda op: v2.RandomPosterize(op.bits, op.p))
        | {"kornia": lambda op: K.RandomPosterize((op.bits, op.bits), p=op.p)},
    ),
    "Equalize": Row(
        at=lambda size: Equalize(),
        pinned_at=lambda size: Equalize(p=1.0),
        build=torchvision(lambda op: v2.RandomEqualize(op.p)) | {"kornia": lambda op: K.RandomEqualize(p=op.p)},
    ),
    "AutoContrast": Row(
        at=lambda size: AutoContrast(),
        pinned_at=lambda size: AutoContrast(p=1.0),
        build=torchvision(lambda op: v2.RandomAutocontrast(op.p)) | {"kornia": lambda op: K.RandomAutoContrast(p=op.p)},
    ),
    "Invert": Row(
        at=lambda size: Invert(),
        pinned_at=lambda size: Invert(p=1.0),
        build=torchvision(lambda op: v2.RandomInvert(op.p)) | {"kornia": lambda op: K.RandomInvert(p=op.p)},
    ),
    "Sharpness": Row(
        at=lambda size: Sharpness(),
        pinned_at=lambda size: Sharpness(p=1.0),
        build=torchvision(lambda op: v2.RandomAdjustSharpness(op.factor, op.p))
        | {"kornia": lambda op: K.RandomSharpness((op.factor, op.factor), p=op.p)},
    ),
    "GaussianBlur": Row(
        at=lambda size: GaussianBlur(),
        pinned_at=lambda size: GaussianBlur(sigma=(1.0, 1.0)),
        build=torchvision(lambda op: v2.GaussianBlur(op.kernel_size, op.sigma))
        | {"kornia": lambda op: K.RandomGaussianBlur((op.kernel_size, op.kernel_size), op.sigma, p=1.0)},
    ),
    "GaussianNoise": Row(
        at=lambda size: GaussianNoise(),
        pinned_at=None,
        build=torchvision(lambda op: v2.GaussianNoise(sigma=op.sigma)) | {"kornia": _kornia_noise},
        needs_float=("pil", "torchvision"),
        draws={"torchvision": "per_image"},  # drawn anew for every pixel of the batch
    ),
    "Normalize": Row(
        at=lambda size: Normalize(),
        pinned_at=lambda size: Normalize(),
        build=torchvision(lambda op: v2.Normalize(op.mean, op.std)) | {"kornia": lambda op: K.Normalize(op.mean, op.std)},
        random=False,
        needs_float=("pil", "torchvision", "fused"),
    ),
}
