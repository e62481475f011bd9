"""Values of pixels by tensor operations: pure functions of a batch and a number for each image. No randomness.

``images`` are float [B, 3, H, W] in [0, 1], ``strength`` and the like [B]; results are new tensors of the same shape and dtype.
Each is torchvision's functional of the same name (``transforms.v2.functional``, float input) with its own parameter for each
image. ``POINT_OPS`` defines what the C function ``point_NAME`` and the Triton function of that name do to one image.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in a grey version: ITU-R 601, as rounded in torchvision."""

Function = Callable[[Tensor, Tensor], Tensor]
"""(images [B, 3, H, W], strength [B]) -> images of the same shape."""


@dataclass(frozen=True, slots=True)
class PointFunction:
    """A point op: its tensor definition, and what kernels need to know.

    ``measures``: what comes first of the whole image: its "mean", "range" or "histogram". ``is_step``: a difference in the last
    bit of a value may become a whole step. ``is_local``: it reads neighbours, as a resampling does in kernels.
    """

    function: Function
    measures: str = ""
    is_step: bool = False
    is_local: bool = False


POINT_OPS: dict[str, PointFunction] = {}
"""Point ops by name."""


def point_op(*, measures: str = "", is_step: bool = False, is_local: bool = False) -> Callable[[Function], Function]:
    """Register a function as the definition of the point op of its name."""

    def register(function: Function) -> Function:
        POINT_OPS[function.__name__] = PointFunction(function, measures, is_step, is_local)
        return function

    return register


def select(mask: Tensor, values: Tensor, images: Tensor) -> Tensor:
    """Return ``values`` for the images for which ``mask`` bool [B] is true, else ``images``."""
    return torch.where(mask[:, None, None, None], values, images)


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    return values.to(images.dtype).view(-1, 1, 1, 1)


def _grey(images: Tensor) -> Tensor:
    """Return the grey version, [B, 1, H, W]."""
    red, green, blue = images.split(1, 1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def _blend(images: Tensor, background: Tensor, factor: Tensor) -> Tensor:
    """Return factor * images + (1 - factor) * background, clamped."""
    weight = _per_image(factor, images)
    return (images * weight).add_(background * (1 - weight)).clamp_(0.0, 1.0)


# ---- colour -----------------------------------------------------------------------------------------------------------


@point_op()
def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply by ``factor`` and clamp."""
    return (images * _per_image(factor, images)).clamp_(0.0, 1.0)


@point_op(measures="mean")
def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean of the grey version."""
    # The mean of the grey version is the grey version of the channels' means: no need for its pixels.
    return _blend(images, _grey(images.mean((2, 3), keepdim=True)), factor)


@point_op()
def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey version."""
    return _blend(images, _grey(images), factor)


@point_op()
def hue(images: Tensor, factor: Tensor) -> Tensor:
    """Turn the hue by ``factor`` turns, keeping HSV's value and saturation.

    With chroma C = max - min, hue in sixths of a turn is (G - B) / C where red is the largest, 2 + (B - R) / C where green is,
    else 4 + (R - G) / C. Where two are the largest, both forms agree. Masks are numbers, which CPUs select by fastest.
    """
    red, green, blue = images.split(1, 1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    is_red, is_green = (red - value).sign_().add_(1), (green - value).sign_().add_(1)
    from_blue = (red - green).add_(chroma, alpha=4)
    from_green = (blue - red).add_(chroma, alpha=2)
    sixths = torch.lerp(torch.lerp(from_blue, from_green, is_green), green - blue, is_red)
    sixths.div_(chroma.clamp(min=1e-30))  # 0 / 1e-30 where the image is grey
    # Red, green and blue see the wheel 5, 3 and 1 sixths further; 12 sixths, two whole turns, keep the sum positive.
    offsets = 17 - 2 * torch.arange(3, device=images.device, dtype=images.dtype).view(1, 3, 1, 1)
    place = (sixths + (offsets + _per_image(factor, images) * 6)).mul_(1 / 6).frac_().mul_(6)
    share = place.sub_(2).abs_().neg_().add_(2).clamp_(0.0, 1.0)
    return share.mul_(chroma).neg_().add_(value)


@point_op()
def grayscale(images: Tensor, strength: Tensor) -> Tensor:
    """Repeat the grey version in all three channels."""
    return _grey(images).repeat(1, 3, 1, 1)


@point_op()
def invert(images: Tensor, strength: Tensor) -> Tensor:
    """Return 1 minus the image."""
    return 1 - images


@point_op(is_step=True)
def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the values from ``threshold`` on."""
    return torch.where(images >= _per_image(threshold, images), 1 - images, images)


@point_op()
def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep 2**bits levels; ``bits`` are whole numbers 0 to 8."""
    levels = _per_image(torch.exp2(bits.to(torch.float32)), images)
    return (images * levels).floor_().clamp_(min=0.0).minimum(levels - 1).mul_(1 / levels)


@point_op(measures="range")
def autocontrast(images: Tensor, strength: Tensor) -> Tensor:
    """Stretch each channel to [0, 1]; a channel of one value stays."""
    darkest = images.amin((2, 3), keepdim=True)
    span = images.amax((2, 3), keepdim=True) - darkest
    flat = span == 0
    return (images - darkest.masked_fill(flat, 0.0)).div_(span.masked_fill_(flat, 1.0)).clamp_(0.0, 1.0)


@point_op(measures="histogram")
def equalize(images: Tensor, strength: Tensor) -> Tensor:
    """Equalise each channel's histogram of 256 bins by PIL's formula; values come out as whole 255ths."""
    bins = (images * (256 - 1e-3)).to(torch.int64).flatten(2)  # torchvision's float to uint8
    # Whole numbers below 2**24: sums and floors of quotients are exact in float32.
    counts = torch.zeros((*bins.shape[:2], 256), dtype=torch.float32, device=images.device)
    counts.scatter_add_(2, bins, counts.new_ones(1).expand_as(bins))
    below = counts.cumsum(2).sub_(counts)
    # Pixels of the brightest value present do not count: what is below that bin.
    step = (below * counts.sign()).amax(2, keepdim=True).div_(255).floor_()
    levels = below.add_((step / 2).floor_()).div_(step.clamp(min=1)).floor_().clamp_(max=255)
    levels = torch.where(step == 0, torch.arange(256, device=images.device, dtype=levels.dtype), levels)
    return levels.div_(255).gather(2, bins).view(images.shape)


# ---- neighbourhoods ---------------------------------------------------------------------------------------------------


@point_op(is_local=True)
def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13 smoothing; the outermost pixels stay."""
    if min(images.shape[2:]) <= 2:
        return images.clone()
    inside = images[:, :, 1:-1, 1:-1]
    columns = images[:, :, :-2] + images[:, :, 1:-1] + images[:, :, 2:]
    smooth = (columns[..., :-2] + columns[..., 1:-1]).add_(columns[..., 2:]).add_(inside, alpha=4).mul_(1 / 13)
    result = images.clone()
    result[:, :, 1:-1, 1:-1] += smooth.sub_(inside).mul_(1 - _per_image(factor, images))
    return result.clamp_(0.0, 1.0)


def gaussian_blur(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Convolve with a Gaussian of ``sigma`` pixels [B], cut to ``kernel_size``; borders are reflected."""
    half = kernel_size // 2
    distance = torch.arange(-half, half + 1, device=images.device) / sigma.to(torch.float32)[:, None]
    weights = torch.softmax(-distance.square() / 2, 1).to(images.dtype)
    padded = pad(images, (half, half, half, half), mode="reflect")
    height, width = images.shape[2:]
    rows = torch.zeros_like(padded[:, :, :height])
    for k, weight in enumerate(weights.unbind(1)):
        rows.addcmul_(padded[:, :, k : k + height], _per_image(weight, images))
    result = torch.zeros_like(images)
    for k, weight in enumerate(weights.unbind(1)):
        result.addcmul_(rows[..., k : k + width], _per_image(weight, images))
    return result


# ---- noise, erasing, mixing, normalisation ----------------------------------------------------------------------------


def add_noise(images: Tensor, noise: Tensor) -> Tensor:
    """Add ``noise`` [B, 3, H, W] and clamp."""
    return (images + noise).clamp_(0.0, 1.0)


def inside(window: Mapping[str, Tensor], height: int, width: int) -> Tensor:
    """Return pixels of each image's rectangle (``top``, ``left``, ``height``, ``width``: [B]) as bool [B, 1, height, width]."""
    spans = []
    for start, length, side in (("top", "height", height), ("left", "width", width)):
        first = window[start][:, None]
        place = torch.arange(side, device=first.device)
        spans.append((place >= first) & (place < first + window[length][:, None]))
    return spans[0][:, None, :, None] & spans[1][:, None, None, :]


def erase(images: Tensor, window: Mapping[str, Tensor], value: float) -> Tensor:
    """Set each image's rectangle to ``value``, which is on the scale of the images; any dtype."""
    return images.masked_fill(inside(window, *images.shape[2:]), value)


def mixup(images: Tensor, lam: Tensor) -> Tensor:
    """Return lam * image + (1 - lam) * partner; the partner is the image before it in the batch."""
    weight = _per_image(lam, images)
    return (images * weight).add_(images.roll(1, 0) * (1 - weight))


def cutmix(images: Tensor, window: Mapping[str, Tensor]) -> Tensor:
    """Paste each image's rectangle from its partner, the image before it in the batch; any dtype."""
    return torch.where(inside(window, *images.shape[2:]), images.roll(1, 0), images)


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Convert int64 [B] to float32 [B, num_classes]."""
    return (labels[:, None] == torch.arange(num_classes, device=labels.device)).to(torch.float32)


def mix_targets(targets: Tensor, lam: Tensor) -> Tensor:
    """Return lam * own + (1 - lam) * partner's targets, float32 [B, classes]; partners as in ``mixup``."""
    weight = lam.to(torch.float32)[:, None]
    return targets * weight + targets.roll(1, 0) * (1 - weight)


def normalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return (image - mean) / std for each channel, float32; images are uint8 (0..255) or float32."""
    scale = 1.0 if images.is_floating_point() else 255.0
    # One multiplication and one addition, on the images as they are.
    gain = _per_channel([1 / (s * scale) for s in std], images)
    bias = _per_channel([-m / s for m, s in zip(mean, std, strict=True)], images)
    return (images.to(torch.float32) * gain).add_(bias)


def _per_channel(values: Sequence[float], images: Tensor) -> Tensor:
    """Return numbers [3, 1, 1] on the images' device; fills, unlike a copy to an accelerator, do not make the host wait."""
    return torch.cat([images.new_full((1, 1, 1), value, dtype=torch.float32) for value in values])
