"""The oracle of the audit: what each op does to *one* image once its parameters are drawn.

It is written with torchvision's functionals on one float image [3, H, W] in [0, 1] at a time: no batching, no 8-bit
arithmetic, no randomness. A draw is a plain mapping in the units of ``augment.ops``; ``applied`` says whether the op happens.
``ALTERNATIVES`` holds the known other ways to do an op: when a backend disagrees with the oracle and agrees with one of
these, the audit can name the difference from the measurement.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from augment.ops import Op

Draw = Mapping[str, Any]
Oracle = Callable[[Any, Tensor, Draw], Tensor]

BILINEAR = InterpolationMode.BILINEAR
NEAREST = InterpolationMode.NEAREST
ORDER_OF_JITTER = ("brightness", "contrast", "saturation", "hue")
"""ColorJitter's draw holds ``order``: indices into this tuple."""
NEUTRAL = dict.fromkeys(ORDER_OF_JITTER[:3], (1.0, 1.0)) | {"hue": (0.0, 0.0)}
"""Ranges that change nothing: torchvision neither draws from them nor runs what would go through HSV and back for nothing."""


def _policy_op(image: Tensor, name: str, magnitude: float) -> Tensor:
    """One entry of a policy, magnitudes as in torchvision's tables: shears are slopes, factors are 1 + magnitude."""
    if name in GEOMETRY_OF_POLICIES:
        return GEOMETRY_OF_POLICIES[name](image, magnitude)
    return COLOUR_OF_POLICIES[name](image, magnitude)


def _shift(image: Tensor, x: float, y: float) -> Tensor:
    return F.affine(image, 0.0, [int(x), int(y)], 1.0, [0.0, 0.0], BILINEAR)


def _shear(image: Tensor, x: float, y: float) -> Tensor:
    degrees = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
    return F.affine(image, 0.0, [0, 0], 1.0, degrees, BILINEAR, center=[0, 0])


GEOMETRY_OF_POLICIES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "ShearX": lambda image, m: _shear(image, m, 0.0),
    "ShearY": lambda image, m: _shear(image, 0.0, m),
    "TranslateX": lambda image, m: _shift(image, m, 0),
    "TranslateY": lambda image, m: _shift(image, 0, m),
    "Rotate": lambda image, m: F.rotate(image, m, BILINEAR),
}
COLOUR_OF_POLICIES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "Identity": lambda image, m: image,
    "Brightness": lambda image, m: F.adjust_brightness(image, 1.0 + m),
    "Color": lambda image, m: F.adjust_saturation(image, 1.0 + m),
    "Contrast": lambda image, m: F.adjust_contrast(image, 1.0 + m),
    "Sharpness": lambda image, m: F.adjust_sharpness(image, 1.0 + m),
    "Posterize": lambda image, m: F.posterize(image, int(m)),
    "Solarize": lambda image, m: F.solarize(image, m if image.is_floating_point() else 255 * m),
    "AutoContrast": lambda image, m: F.autocontrast(image),
    "Equalize": lambda image, m: F.equalize(image),
    "Invert": lambda image, m: F.invert(image),
    # Kornia's RandAugment only; not in the definition, kept so that its pixels can be replayed
    "SolarizeAdd": lambda image, m: F.solarize((image + m).clamp(0, 1), 0.5),
}


def _policy(op: Op, image: Tensor, draw: Draw) -> Tensor:
    for name, magnitude in draw["ops"]:
        image = _policy_op(image, name, magnitude)
    return image


def _augmix(op: Op, image: Tensor, draw: Draw) -> Tensor:
    own, *weights = (float(weight) for weight in draw["weights"])
    mixed = own * image
    for weight, chain in zip(weights, draw["chains"], strict=True):
        mixed = mixed + weight * _policy(op, image, {"ops": chain})
    return mixed


def _color_jitter(op: Op, image: Tensor, draw: Draw) -> Tensor:
    adjust: tuple[Callable[..., Tensor], ...] = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    for index in draw["order"]:
        name = ORDER_OF_JITTER[int(index)]
        if getattr(op, name) != NEUTRAL[name]:
            image = adjust[int(index)](image, float(draw[name]))
    return image


def _erase(image: Tensor, draw: Draw, value: float) -> Tensor:
    image = image.clone()
    top, left = int(draw["top"]), int(draw["left"])
    image[:, top : top + int(draw["height"]), left : left + int(draw["width"])] = value
    return image


def _window(draw: Draw) -> tuple[int, int, int, int]:
    return int(draw["top"]), int(draw["left"]), int(draw["height"]), int(draw["width"])


def _affine(image: Tensor, draw: Draw, sign: float = 1.0, interpolation: InterpolationMode = BILINEAR) -> Tensor:
    shift = [float(draw["dx"]), float(draw["dy"])]
    shear = [float(draw["shear"]), 0.0]
    return F.affine(image, sign * float(draw["angle"]), shift, float(draw["scale"]), shear, interpolation)


def _perspective(image: Tensor, corners: Sequence[Sequence[float]]) -> Tensor:
    height, width = image.shape[-2:]
    start = [[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]]
    return F.perspective(image, start, [[float(x), float(y)] for x, y in corners], BILINEAR)


ORACLES: dict[str, Oracle] = {
    "HorizontalFlip": lambda op, image, draw: F.horizontal_flip(image),
    "VerticalFlip": lambda op, image, draw: F.vertical_flip(image),
    "RandomCrop": lambda op, image, draw: F.crop(
        F.pad(image, [op.padding] * 4), int(draw["top"]), int(draw["left"]), op.size, op.size
    ),
    "RandomResizedCrop": lambda op, image, draw: F.resized_crop(
        image, *_window(draw), [op.size, op.size], BILINEAR, op.antialias
    ),
    "Rotate": lambda op, image, draw: F.rotate(image, float(draw["angle"]), BILINEAR),
    "Affine": lambda op, image, draw: _affine(image, draw),
    "Perspective": lambda op, image, draw: _perspective(image, draw["corners"]),
    "Resize": lambda op, image, draw: F.resize(image, [op.size], BILINEAR, antialias=op.antialias),
    "CenterCrop": lambda op, image, draw: F.center_crop(image, [op.size, op.size]),
    "Brightness": lambda op, image, draw: F.adjust_brightness(image, float(draw["factor"])),
    "Contrast": lambda op, image, draw: F.adjust_contrast(image, float(draw["factor"])),
    "Saturation": lambda op, image, draw: F.adjust_saturation(image, float(draw["factor"])),
    "Hue": lambda op, image, draw: F.adjust_hue(image, float(draw["factor"])),
    "ColorJitter": _color_jitter,
    "Grayscale": lambda op, image, draw: F.rgb_to_grayscale(image, num_output_channels=3),
    "Solarize": lambda op, image, draw: F.solarize(image, op.threshold),
    "Posterize": lambda op, image, draw: F.posterize(image, op.bits),
    "Equalize": lambda op, image, draw: F.equalize(image),
    "AutoContrast": lambda op, image, draw: F.autocontrast(image),
    "Invert": lambda op, image, draw: F.invert(image),
    "Sharpness": lambda op, image, draw: F.adjust_sharpness(image, op.factor),
    "GaussianBlur": lambda op, image, draw: F.gaussian_blur(image, [op.kernel_size] * 2, [float(draw["sigma"])] * 2),
    "GaussianNoise": lambda op, image, draw: (image + torch.from_numpy(draw["noise"]).to(image)).clamp(0, 1),
    "RandomErasing": lambda op, image, draw: _erase(image, draw, op.value),
    "Cutout": lambda op, image, draw: _erase(image, draw, 0.0),
    "Normalize": lambda op, image, draw: F.normalize(image, list(op.mean), list(op.std)),
    "AutoAugment": _policy,
    "RandAugment": _policy,
    "TrivialAugmentWide": _policy,
    "AugMix": _augmix,
    # libraries' defaults: the functionals with theirs
    "DefaultRotate": lambda op, image, draw: F.rotate(image, float(draw["angle"])),
    "DefaultResize": lambda op, image, draw: F.resize(image, [op.size]),
    "DefaultRandomResizedCrop": lambda op, image, draw: F.resized_crop(image, *_window(draw), [op.size, op.size]),
    "DefaultBrightness": lambda op, image, draw: F.adjust_brightness(image, float(draw["factor"])),
    "DefaultContrast": lambda op, image, draw: F.adjust_contrast(image, float(draw["factor"])),
    "DefaultSaturation": lambda op, image, draw: F.adjust_saturation(image, float(draw["factor"])),
}


def oracle(op: Op, image: Tensor, draw: Draw) -> Tensor:
    """The definition of an op that does not mix images: [3, H, W] float in [0, 1] -> [3, h, w]."""
    return ORACLES[op.name](op, image, draw) if draw["applied"] else image


def mix_oracle(op: Op, images: Tensor, labels: Tensor, draws: Sequence[Draw], num_classes: int) -> tuple[Tensor, Tensor]:
    """MixUp and CutMix by their definition, one image at a time: (images [B, 3, H, W], targets [B, num_classes])."""
    one_hot = torch.nn.functional.one_hot(labels, num_classes).to(images.dtype)
    mixed, targets = images.clone(), one_hot.clone()
    for i, draw in enumerate(draws):
        partner = int(draw["partner"])
        if op.name == "MixUp":
            own = float(draw["lam"])
            mixed[i] = own * images[i] + (1 - own) * images[partner]
        else:
            x1, y1, x2, y2 = (int(v) for v in draw["box"])
            mixed[i, :, y1:y2, x1:x2] = images[partner, :, y1:y2, x1:x2]
            own = 1 - max(x2 - x1, 0) * max(y2 - y1, 0) / (images.shape[-1] * images.shape[-2])
        targets[i] = own * one_hot[i] + (1 - own) * one_hot[partner]
    return mixed, targets


# ---- known other ways -------------------------------------------------------------------------------------------------

EIGHT_BITS = "8-bit arithmetic"
PIL_COLOUR = "8-bit arithmetic, the hue in PIL's 8-bit HSV"


def _resize_corners(image: Tensor, height: int, width: int) -> Tensor:
    return torch.nn.functional.interpolate(image[None], (height, width), mode="bilinear", align_corners=True)[0]


def _saturation_of_hsv(op: Any, image: Tensor, draw: Draw) -> Tensor:
    # With hue and value kept, a channel's distance from the largest one is in proportion to the saturation.
    largest, smallest = image.amax(0), image.amin(0)
    possible = largest / (largest - smallest).clamp(min=1e-9)  # a saturation above 1 is cut off
    return largest - (largest - image) * possible.clamp(max=float(draw["factor"]))


def _nearest_of_pil(op: Any, image: Tensor, draw: Draw) -> Tensor:
    # Pillow steps through the source in 1/65536 of a pixel, so points midway between two pixels fall to either.
    height, width = image.shape[-2:]
    cos, sin = math.cos(math.radians(-draw["angle"])), math.sin(math.radians(-draw["angle"]))
    left, top = (width - cos * width - sin * height) / 2, (height + sin * width - cos * height) / 2
    columns, rows = torch.arange(width)[None], torch.arange(height)[:, None]
    start_x, start_y, c, s = (math.floor(v * 65536 + 0.5) for v in (left + (cos + sin) / 2, top + (cos - sin) / 2, cos, sin))
    x, y = (start_x + c * columns + s * rows) >> 16, (start_y - s * columns + c * rows) >> 16
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return image[:, y.clamp(0, height - 1), x.clamp(0, width - 1)] * inside


def _gaussian_then_resize(op: Any, image: Tensor, draw: Draw) -> Tensor:
    # Kornia's antialias: blur by sigma = (factor - 1) / 2 with a kernel of 4 sigma made odd, then sample.
    shorter = min(image.shape[-2:])
    sigma = max((shorter / op.size - 1) / 2, 0.001)
    kernel = int(max(4 * sigma, 3)) // 2 * 2 + 1
    blurred = F.gaussian_blur(image, [kernel] * 2, [sigma] * 2) if shorter > op.size else image
    return F.resize(blurred, [op.size], BILINEAR, antialias=False)


def _in_8_bits(op: Op, image: Tensor, draw: Draw) -> Tensor:
    """The oracle on a uint8 image: what torchvision computes when it is given bytes."""
    eight = image.mul(255).round_().to(torch.uint8)
    if op.name == "Solarize":
        draw, eight = {}, F.solarize(eight, math.ceil(getattr(op, "threshold", 0.5) * 255))
        return eight / 255
    return ORACLES[op.name](op, eight, draw) / 255


def _on_pil(op: Op, image: Tensor, draw: Draw) -> Tensor:
    """The oracle on a PIL image, whose hue goes through an HSV of 8 bits."""
    result: Any = ORACLES[op.name](op, F.to_pil_image(image), draw)
    return F.to_dtype(F.pil_to_tensor(result), torch.float32, scale=True)


def _perspective_on_centres(op: Op, image: Tensor, draw: Draw) -> Tensor:
    # torchvision applies the homography to coordinates in which a pixel's centre is at + 0.5; here it is at + 0.
    height, width = image.shape[-2:]
    start = [[0.5, 0.5], [width - 0.5, 0.5], [width - 0.5, height - 0.5], [0.5, height - 0.5]]
    return F.perspective(image, start, [[float(x) + 0.5, float(y) + 0.5] for x, y in draw["corners"]], BILINEAR)


def _additive(op: Any, image: Tensor, draw: Draw) -> Tensor:
    return (image + float(draw["factor"]) - 1).clamp(0, 1)


def _about_black(op: Any, image: Tensor, draw: Draw) -> Tensor:
    return (image * float(draw["factor"])).clamp(0, 1)


def _about_mid_grey(op: Any, image: Tensor, draw: Draw) -> Tensor:
    return ((image - 0.5) * float(draw["factor"]) + 0.5).clamp(0, 1)


def _jitter_about_mid_grey(op: Any, image: Tensor, draw: Draw) -> Tensor:
    for index in draw["order"]:
        name = ORDER_OF_JITTER[int(index)]
        if name == "contrast":
            image = _about_mid_grey(op, image, {"factor": draw[name]})
        else:
            image = _color_jitter(op, image, {"order": [index], name: draw[name]})
    return image


MID_GREY = "contrast about mid-grey, not about the mean"
ALIGNED = "align_corners=True, no antialias"
ALTERNATIVES: dict[str, dict[str, Oracle]] = {
    "Hue": {PIL_COLOUR: _on_pil},
    "ColorJitter": {PIL_COLOUR: _on_pil, MID_GREY: _jitter_about_mid_grey},
    "Perspective": {"the homography acts on pixel centres, not on pixel corners (half a pixel)": _perspective_on_centres},
    "RandomResizedCrop": {
        "no antialias": lambda op, image, draw: F.resized_crop(image, *_window(draw), [op.size] * 2, BILINEAR, False),
        "align_corners": lambda op, image, draw: _resize_corners(F.crop(image, *_window(draw)), op.size, op.size),
    },
    "Resize": {
        "no antialias": lambda op, image, draw: F.resize(image, [op.size], BILINEAR, antialias=False),
        "antialias blurs with a Gaussian": _gaussian_then_resize,
    },
    "Rotate": {
        "other sign": lambda op, image, draw: F.rotate(image, -float(draw["angle"]), BILINEAR),
        "nearest": lambda op, image, draw: F.rotate(image, float(draw["angle"]), NEAREST),
        "rotation centre": lambda op, image, draw: F.rotate(
            image, float(draw["angle"]), BILINEAR, center=[s / 2 + 0.5 for s in reversed(image.shape[-2:])]
        ),
    },
    "Affine": {
        "other sign": lambda op, image, draw: _affine(image, draw, sign=-1.0),
        "nearest": lambda op, image, draw: _affine(image, draw, interpolation=NEAREST),
    },
    "Brightness": {
        "additive brightness": _additive,
        "brightness off by 3 %": lambda op, image, draw: F.adjust_brightness(image, 1.03 * float(draw["factor"])),
    },
    "Contrast": {"contrast about black, not about the mean": _about_black, MID_GREY: _about_mid_grey},
    "DefaultRotate": {
        "the nearest pixel in 16-bit fixed point": _nearest_of_pil,
        "bilinear, not the nearest pixel": lambda op, image, draw: F.rotate(image, float(draw["angle"]), BILINEAR),
    },
    "DefaultResize": {ALIGNED: lambda op, image, draw: _resize_corners(image, op.size, op.size)},
    "DefaultRandomResizedCrop": {
        ALIGNED: lambda op, image, draw: _resize_corners(F.crop(image, *_window(draw)), op.size, op.size)
    },
    "DefaultBrightness": {"additive brightness": _additive},
    "DefaultContrast": {"contrast about black, not about the mean": _about_black},
    "DefaultSaturation": {"the saturation of HSV is scaled, not a blend with grey": _saturation_of_hsv},
}


def alternatives(op: Op) -> dict[str, Oracle]:
    """Named other ways to do an op, 8-bit arithmetic among them where torchvision has the op for bytes."""
    known = dict(ALTERNATIVES.get(op.name, {}))
    if getattr(op, "hue", None) == NEUTRAL["hue"]:  # a jitter without hue never sees PIL's HSV
        known[f"{EIGHT_BITS}, of PIL"] = known.pop(PIL_COLOUR)
    if op.name not in {"GaussianNoise", "Normalize", "MixUp", "CutMix"}:
        known[EIGHT_BITS] = _in_8_bits
    return known
