"""Values changed in place, from brightness to normalisation."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import kornia.augmentation as K
import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from augment.backends.albumentations import albumentations
from augment.backends.dali import clamp, contrast, dali, unit
from augment.backends.dali_torchvision import PIL_ONLY, dali_torchvision, draw_seed
from augment.backends.kornia import Clamp, kornia
from augment.backends.torchvision import torchvision
from augment.backends.triton_augment import triton_augment
from augment.distributions import Jitter, Normal, Uniform
from augment.fused import kinds
from augment.fused.kinds import JITTER
from augment.op import Builder, Cell, ChanceOp, Drawn, Op, Oracle, Range, op

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

PIL_HUE = "8-bit arithmetic, the hue on PIL's 8-bit wheel"
PIL_COLOUR = "8-bit arithmetic, the hue in PIL's 8-bit HSV"
YIQ_HUE = "the hue is turned in YIQ, not in HSV"
ADDITIVE = "additive brightness"
ABOUT_BLACK = "contrast about black, not about the mean"
ABOUT_GREY = "contrast about mid-grey, not about the mean"
OWN_COUNT = "a value's own count is part of what lies below it, unlike in PIL"
WHITE_UNCOUNTED = "255 is left out of the histogram, so that the value below it becomes white"
FLAT_IS_BLACK = "a channel of one value becomes black"


def add_factor(op: Op, image: Tensor, drawn: Drawn) -> Tensor:
    """Add the factor less 1, and clamp."""
    return (image + float(drawn["factor"]) - 1).clamp(0, 1)


def scale_about_black(op: Op, image: Tensor, drawn: Drawn) -> Tensor:
    """Multiply the distance from black, and clamp."""
    return (image * float(drawn["factor"])).clamp(0, 1)


def scale_about_grey(op: Op, image: Tensor, drawn: Drawn) -> Tensor:
    """Multiply the distance from mid-grey, and clamp."""
    return ((image - 0.5) * float(drawn["factor"]) + 0.5).clamp(0, 1)


def _on_pil(op: Op, image: Tensor, drawn: Drawn) -> Tensor:
    """Apply the oracle to a PIL image, whose hue goes through an HSV of 8 bits."""
    result: Any = op.oracle(F.to_pil_image(image), drawn)
    return F.to_dtype(F.pil_to_tensor(result), torch.float32, scale=True)


def turn_in_yiq(image: Tensor, hue: float, saturation: float = 1.0) -> Tensor:
    """Rotate the chroma plane of YIQ (NTSC 1953) by ``hue`` turns and scale it by ``saturation``; values are not clamped."""
    to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
    cos, sin = (saturation * f(2 * math.pi * hue) for f in (math.cos, math.sin))
    turn = torch.tensor([[1, 0, 0], [0, cos, sin], [0, -sin, cos]])
    return torch.einsum("ij,jhw->ihw", torch.linalg.inv(to_yiq) @ turn @ to_yiq, image)


def _hue_in_yiq(op: Op, image: Tensor, drawn: Drawn) -> Tensor:
    return turn_in_yiq(image, float(drawn["factor"])).clamp(0, 1)


def _build_jitter(library: Any, name: str) -> Builder:
    return lambda op: library.ColorJitter(**{name: (op.low, op.high)})


def _adjust(ndd: Any, name: str, images: Any, factor: Any) -> Any:
    """Apply one of ColorJitter's four with DALI: hue in turns, where DALI takes degrees."""
    adjust = {
        "brightness": lambda: ndd.brightness(images, brightness=factor),
        "contrast": lambda: contrast(images, factor),
        "saturation": lambda: ndd.saturation(images, saturation=factor),
        "hue": lambda: ndd.hue(images, hue=factor * 360.0),
    }
    return clamp(adjust[name]())


def _jitter_cells(name: str, place: int = 0) -> dict[str, Cell]:
    """Return the cells of a ``FactorOp`` that is one of ColorJitter's; ``place``: in triton-augment's kernel, or 0."""
    key, unchanged = f"{name}_factor", {field: (factor, factor) for field, factor in JITTER.items()}
    in_triton = triton_augment("TritonColorJitter", lambda op: {name: (op.low, op.high)}, (place, place), factor=key)
    return (
        torchvision(_build_jitter(v2, name), factor=key)
        # Kornia's RandomBrightness adds; its ColorJitter multiplies, as the definition does.
        | kornia(_build_jitter(K, name), factor=key)
        | (in_triton if place else {})
        | dali(lambda ndd, op, images, drawn: _adjust(ndd, name, images, drawn["factor"]))
        | PIL_ONLY
        | albumentations(
            lambda A, op, white: [A.ColorJitter(**{**unchanged, name: (op.low, op.high)}, p=1.0)], factor=name
        )
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorOp(Op):
    """Base of ops of a factor in [low, high]."""

    low: float = 0.5
    high: float = 1.5

    draws = (Uniform("factor", "low", "high", least=0.0),)


@op
class Brightness(FactorOp):
    """Multiply by a factor in [low, high] and clamp: multiplicative, as torchvision and PIL."""

    pins = {"low": 1.3, "high": 1.3}
    cells = _jitter_cells("brightness", 3)
    fused = kinds.point_op("brightness", strength="factor")
    alternatives = {
        ADDITIVE: add_factor,
        "brightness off by 3 %": lambda op, image, drawn: F.adjust_brightness(image, 1.03 * float(drawn["factor"])),
    }
    oracle = lambda op, image, drawn: F.adjust_brightness(image, float(drawn["factor"]))


@op
class Contrast(FactorOp):
    """Blend with the mean of the image's grey version by a factor in [low, high]: factor * x + (1 - factor) * mean."""

    pins = {"low": 0.6, "high": 0.6}
    cells = _jitter_cells("contrast", 4)
    fused = kinds.point_op("contrast", strength="factor")
    differs = {"triton_augment": ABOUT_GREY}
    alternatives = {ABOUT_BLACK: scale_about_black, ABOUT_GREY: scale_about_grey}
    oracle = lambda op, image, drawn: F.adjust_contrast(image, float(drawn["factor"]))


@op
class Saturation(FactorOp):
    """Blend with the image's grey version (ITU-R 601 luma) by a factor in [low, high]."""

    pins = {"low": 0.4, "high": 0.4}
    cells = _jitter_cells("saturation", 5)
    fused = kinds.point_op("saturation", strength="factor")
    oracle = lambda op, image, drawn: F.adjust_saturation(image, float(drawn["factor"]))


@op
class Hue(FactorOp):
    """Shift the hue in HSV by a number of turns in [low, high], each within [-0.5, 0.5]."""

    low: float = -0.1
    high: float = 0.1

    draws = (Uniform("factor", "low", "high", least=-0.5, most=0.5),)
    pins = {"low": 0.2, "high": 0.2}
    cells = _jitter_cells("hue")
    fused = kinds.point_op("hue", strength="factor")
    differs = {"pil": PIL_HUE, "dali": YIQ_HUE}
    alternatives = {PIL_COLOUR: _on_pil, YIQ_HUE: _hue_in_yiq}
    oracle = lambda op, image, drawn: F.adjust_hue(image, float(drawn["factor"]))


def _factor_read(name: str) -> Any:
    """Return the read of a factor of torchvision, which holds None for a range that changes nothing."""
    return lambda params: JITTER[name] if params[f"{name}_factor"] is None else params[f"{name}_factor"]


ADJUST = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
"""The four of a jitter, in the numbering of its order."""


def _jitter(op: Any, image: Any, drawn: Drawn, changed: Mapping[str, Oracle] | None = None) -> Any:
    """Apply the four in the drawn order; ``changed``: another way to do some of them."""
    for index in map(int, drawn["order"]):
        name = tuple(JITTER)[index]
        if changed and name in changed:
            image = changed[name](op, image, {"factor": drawn[name]})
        elif name in op.changing:
            image = ADJUST[index](image, float(drawn[name]))
    return image


def _jitter_on_pil(op: Any, image: Tensor, drawn: Drawn) -> Tensor:
    """Return NaN, which agrees with nothing, for a jitter without hue: it never sees PIL's HSV."""
    return _on_pil(op, image, drawn) if "hue" in op.changing else torch.full_like(image, math.nan)


def _jitter_with_dali(ndd: Any, op: Any, images: Any, drawn: Drawn) -> Any:
    for name in op.changing:
        images = _adjust(ndd, name, images, drawn[name])
    return images


@op
class ColorJitter(Op):
    """Brightness, Contrast, Saturation and Hue, each with its own factor, in a random order (all 24 equally likely)."""

    brightness: Range = (0.5, 1.5)
    contrast: Range = (0.5, 1.5)
    saturation: Range = (0.5, 1.5)
    hue: Range = (-0.5, 0.5)

    draws = (Jitter(dict.fromkeys(JITTER, (0.0, math.inf)) | {"hue": (-0.5, 0.5)}),)
    cells = (
        torchvision(lambda op: v2.ColorJitter(**asdict(op)), order="fn_idx", **{name: _factor_read(name) for name in JITTER})
        | kornia(
            lambda op: K.ColorJitter(**asdict(op)), order=lambda params: params["order"][None],
            **{name: f"{name}_factor" for name in JITTER},
        )
        | triton_augment(
            "TritonColorJitter",
            lambda op: {"brightness": op.brightness, "contrast": op.contrast, "saturation": op.saturation}, (3, 5),
            refuses=lambda op: None if op.hue == (0.0, 0.0) else "it has no hue, so hue must be (0, 0)",
            brightness="brightness_factor", contrast="contrast_factor", saturation="saturation_factor",
            hue=lambda args: torch.zeros_like(args["contrast_factor"]),
            order=lambda args: torch.arange(4).repeat(len(args["contrast_factor"]), 1),  # its order is fixed
        )
        | dali(_jitter_with_dali, order=lambda drawn: np.tile(np.arange(4.0), (len(drawn["hue"]), 1)))
        | PIL_ONLY
        | albumentations(lambda A, op, white: [A.ColorJitter(**asdict(op), p=1.0)])
    )  # fmt: skip
    fused = kinds.COLOR_JITTER
    differs = {
        "kornia": "one order of the four ops for the whole batch",
        "triton_augment": "brightness, contrast, saturation in this order; contrast about mid-grey, not about the mean",
        "pil": PIL_HUE,
        "dali": f"one fixed order of the four ops; {YIQ_HUE}",
    }
    oracle = _jitter
    alternatives = {
        PIL_COLOUR: _jitter_on_pil,
        ABOUT_GREY: partial(_jitter, changed={"contrast": scale_about_grey}),
        YIQ_HUE: partial(_jitter, changed={"hue": _hue_in_yiq}),
        "8-bit arithmetic, of PIL": _on_pil,
    }

    @property
    def changing(self) -> tuple[str, ...]:
        """Names of those of the four whose range is more than the factor that changes nothing.

        torchvision neither draws from such a range nor sends the image through HSV and back.
        """
        return tuple(name for name, factor in JITTER.items() if getattr(self, name) != (factor, factor))


@op
class Grayscale(ChanceOp):
    """With probability ``p`` replace all three channels by the grey version (0.2989 R + 0.587 G + 0.114 B)."""

    p: float = 0.2

    cells = (
        torchvision(lambda op: v2.RandomGrayscale(op.p))
        | kornia(lambda op: K.RandomGrayscale(p=op.p))
        | triton_augment(
            "TritonRandomGrayscale", lambda op: {"p": op.p}, (6, 6), renamed={"p": "grayscale_p"},
            applied=lambda args: args.get("grayscale_mask", args.get("grayscale")),
        )
        | dali(lambda ndd, op, images, drawn: ndd.saturation(images, saturation=1 - drawn["applied"]))
        | PIL_ONLY
        | albumentations(lambda A, op, white: [A.ToGray(p=op.p)])
    )  # fmt: skip
    fused = kinds.point_op("grayscale")
    oracle = lambda op, image, drawn: F.rgb_to_grayscale(image, num_output_channels=3)


def _solarize(image: Any, threshold: float) -> Any:
    """Solarize at a share of the scale. Bytes and PIL images have whole thresholds, so ``>=`` needs the ceiling."""
    is_float = isinstance(image, Tensor) and image.is_floating_point()
    return F.solarize(image, threshold if is_float else math.ceil(threshold * 255))


class _RandomSolarize(v2.RandomSolarize):
    """torchvision's threshold is on the scale of the dtype; ours is a share of it."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return _solarize(inpt, self.threshold)


@op
class Solarize(ChanceOp):
    """With probability ``p`` invert every value that is at least ``threshold`` (0 to 1)."""

    threshold: float = 0.5

    limits = {"threshold": (0.0, 1.0)}
    cells = (
        torchvision(lambda op: _RandomSolarize(op.threshold, op.p))
        | kornia(
            # A single threshold t would be drawn from 0.5 -/+ t, and something would be added first.
            lambda op: K.RandomSolarize((op.threshold, op.threshold), additions=(0.0, 0.0), p=op.p)
        )
        | albumentations(lambda A, op, white: [A.Solarize((op.threshold, op.threshold), p=op.p)])
    )
    fused = kinds.point_op("solarize", strength="threshold")
    has_thresholds = True
    oracle = lambda op, image, drawn: _solarize(image, op.threshold)


@op
class Posterize(ChanceOp):
    """With probability ``p`` keep only the ``bits`` highest of the 8 bits of each value."""

    bits: int = 4

    limits = {"bits": (0, 8)}
    cells = (
        torchvision(
            lambda op: v2.RandomPosterize(op.bits, op.p), lambda op: None if op.bits else "PIL keeps at least 1 bit, got 0"
        )
        | kornia(lambda op: K.RandomPosterize((op.bits, op.bits), p=op.p))
        | albumentations(
            lambda A, op, white: [A.Posterize(op.bits, p=op.p)],
            lambda op: None if op.bits else "it keeps at least 1 bit, got 0",
        )
    )
    fused = kinds.point_op("posterize", strength="bits")
    has_thresholds = True
    oracle = lambda op, image, drawn: F.posterize(image, op.bits)


def _map_by_table(make: Callable[[Tensor], Tensor]) -> Callable[[Op, Tensor, Drawn], Tensor]:
    """Return a way to map bytes by a table [256] that is made from the counts [256] of each channel's values."""

    def apply(op: Op, image: Tensor, drawn: Drawn) -> Tensor:
        channels = image.mul(255).round().long()
        return torch.stack([make(channel.flatten().bincount(minlength=256))[channel] for channel in channels]) / 255

    return apply


def _equalize_with_own_count(counts: Tensor) -> Tensor:
    step = (counts.sum() - counts[counts > 0][-1]) // 255
    return ((counts.cumsum(0) + step // 2) // step).clamp(max=255) if step else torch.arange(256)


def _stretch_without_white(counts: Tensor) -> Tensor:
    levels = counts[:255].nonzero()
    if len(levels) < 2:
        return torch.arange(256)
    return ((torch.arange(256) - levels[0]) * 255 / (levels[-1] - levels[0])).round().clamp(0, 255)


@op
class Equalize(ChanceOp):
    """With probability ``p`` equalise the histogram of each channel (256 bins, PIL's formula)."""

    cells = (
        torchvision(lambda op: v2.RandomEqualize(op.p))
        | kornia(lambda op: K.RandomEqualize(p=op.p))
        | albumentations(lambda A, op, white: [A.Equalize(mode="pil", p=op.p)])
    )
    fused = kinds.point_op("equalize")
    differs = {"albumentations": OWN_COUNT}
    alternatives = {OWN_COUNT: _map_by_table(_equalize_with_own_count)}
    has_thresholds = True
    oracle = lambda op, image, drawn: F.equalize(image)


@op
class AutoContrast(ChanceOp):
    """With probability ``p`` stretch each channel so that its darkest value becomes 0 and its brightest 1."""

    cells = (
        torchvision(lambda op: v2.RandomAutocontrast(op.p))
        | kornia(lambda op: K.RandomAutoContrast(p=op.p))
        | albumentations(lambda A, op, white: [A.AutoContrast(method="pil", p=op.p)])
    )
    fused = kinds.point_op("autocontrast")
    differs = {"kornia": FLAT_IS_BLACK, "albumentations": WHITE_UNCOUNTED}
    alternatives = {
        WHITE_UNCOUNTED: _map_by_table(_stretch_without_white),
        FLAT_IS_BLACK: lambda op, image, drawn: F.autocontrast(image) * (image.amax((1, 2), True) > image.amin((1, 2), True)),
    }
    oracle = lambda op, image, drawn: F.autocontrast(image)


@op
class Invert(ChanceOp):
    """With probability ``p`` replace every value by 1 minus it."""

    cells = (
        torchvision(lambda op: v2.RandomInvert(op.p))
        | kornia(lambda op: K.RandomInvert(p=op.p))
        | albumentations(lambda A, op, white: [A.InvertImg(p=op.p)])
    )
    fused = kinds.point_op("invert")
    oracle = lambda op, image, drawn: F.invert(image)


@op
class Sharpness(ChanceOp):
    """With probability ``p`` blend with a smoothed version by ``factor``: 0 is smoothed, 1 the image, above 1 sharper.

    The smoothing kernel is [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13; the outermost pixels stay as they are (PIL).
    """

    factor: float = 2.0

    limits = {"factor": (0.0, math.inf)}
    cells = torchvision(lambda op: v2.RandomAdjustSharpness(op.factor, op.p)) | kornia(
        lambda op: K.RandomSharpness((op.factor, op.factor), p=op.p)
    )
    fused = kinds.SHARPNESS
    oracle = lambda op, image, drawn: F.adjust_sharpness(image, op.factor)


def _sigma_of_kernel(params: Drawn) -> float:
    """Return the standard deviation from the two largest weights of a Gaussian's line."""
    below, middle = params["kernel"][len(params["kernel"]) // 2 - 1 : len(params["kernel"]) // 2 + 1]
    return math.sqrt(0.5 / math.log(middle / below))


def _sigma_of_dali(drawn: Drawn) -> Any:
    return drawn.get("0", math.nan)  # a range of one number is not drawn from


@op
class GaussianBlur(Op):
    """Convolve with a Gaussian of standard deviation in ``sigma`` pixels, cut to ``kernel_size``, borders reflected."""

    kernel_size: int = 5
    sigma: Range = (0.1, 2.0)

    draws = (Uniform("sigma", "sigma", least=1e-6),)
    pins = {"sigma": (1.0, 1.0)}
    cells = (
        torchvision(lambda op: v2.GaussianBlur(op.kernel_size, op.sigma), sigma=("sigma", 0))
        | kornia(lambda op: K.RandomGaussianBlur((op.kernel_size, op.kernel_size), op.sigma, p=1.0))
        | dali(lambda ndd, op, images, drawn: ndd.gaussian_blur(images, sigma=drawn["sigma"], window_size=op.kernel_size))
        # Without a seed of its own DALI's class draws the same numbers in every process: docs/upstream.md.
        | dali_torchvision("GaussianBlur", lambda op, white: {**asdict(op), "seed": draw_seed()}, sigma=_sigma_of_dali)
        | albumentations(
            lambda A, op, white: [A.GaussianBlur((op.kernel_size, op.kernel_size), op.sigma, p=1.0)], sigma=_sigma_of_kernel
        )
    )
    fused = kinds.BLUR
    oracle = lambda op, image, drawn: F.gaussian_blur(image, [op.kernel_size] * 2, [float(drawn["sigma"])] * 2)

    def check(self) -> None:
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {self.kernel_size}")

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        if self.kernel_size // 2 >= min(height, width):
            setting = f"GaussianBlur(kernel_size={self.kernel_size})"
            raise ValueError(f"{setting} reflects more than a {height}x{width} image: lower it")
        return height, width


@op
class GaussianNoise(Op):
    """Add normal noise of standard deviation ``sigma``, independent for every value, and clamp to [0, 1]. Needs float."""

    sigma: float = 0.1

    draws = (Normal(),)
    cells = (
        torchvision(lambda op: v2.GaussianNoise(sigma=op.sigma))
        | kornia(  # Kornia's noise is not clamped
            lambda op: nn.Sequential(K.RandomGaussianNoise(mean=0.0, std=op.sigma, p=1.0), Clamp()), noise="gaussian_noise"
        )
        | dali(
            lambda ndd, op, images, drawn: clamp(images + drawn["noise"].to_device(images.device)),
            lambda op, draws: {"noise": draws.normal(op.sigma)},
            noise=lambda drawn: drawn["noise"].transpose(0, 3, 1, 2),
        )
    )
    fused = kinds.NOISE
    needs_float = ("pil", "torchvision", "cvcuda", "dali")
    lanes = {"torchvision": "per_image", "cvcuda": "per_image"}  # drawn anew for every pixel of the batch
    differs = {"cvcuda": "the noise does not follow torch.manual_seed"}
    oracle = lambda op, image, drawn: (image + torch.as_tensor(drawn["noise"]).to(image)).clamp(0, 1)


def _normalize_with_dali(ndd: Any, op: Any, images: Any, drawn: Drawn) -> Any:
    scaled = {name: [unit(images) * value for value in getattr(op, name)] for name in ("mean", "std")}
    return ndd.crop_mirror_normalize(images, **scaled, output_layout="CHW", dtype=ndd.float32)


@op
class Normalize(Op):
    """Subtract ``mean`` and divide by ``std``, a number per channel on the 0 to 1 scale. Needs float."""

    mean: tuple[float, float, float] = CIFAR10_MEAN
    std: tuple[float, float, float] = CIFAR10_STD

    cells = (
        torchvision(lambda op: v2.Normalize(op.mean, op.std))
        | kornia(lambda op: K.Normalize(op.mean, op.std))
        | triton_augment("TritonNormalize", lambda op: {"mean": op.mean, "std": op.std}, (7, 7))
        | dali(_normalize_with_dali)
        | dali_torchvision("Normalize", lambda op, white: {k: [white * x for x in v] for k, v in asdict(op).items()})
        | albumentations(lambda A, op, white: [A.Normalize(op.mean, op.std, max_pixel_value=white)])
    )
    fused = kinds.NORMALIZE
    needs_float = ("pil", "torchvision", "cvcuda", "fused")
    oracle = lambda op, image, drawn: F.normalize(image, list(op.mean), list(op.std))

    def check(self) -> None:
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")
