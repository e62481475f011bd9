"""The draws of the fused backend: for each op what torchvision draws for one image, drawn for a whole batch at once.

``sample(ops, ...)`` gives one dict of tensors an op, the batch first in every tensor; ``augment.fused`` applies them. All draws
are made on the device by tensor operations without asking it for a value, from the generator if one is given. The names are
torchvision's: an auditor can hand a row of them to its functionals.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from augment import ops, policies
from augment.geometry import output_size
from augment.ops import Op, Range

Params = dict[str, Tensor]
"""What was drawn for one op; every tensor is [B, ...]. Empty where nothing is random."""

TRIES = 10
"""Windows that torchvision draws before it falls back (RandomResizedCrop) or gives up (RandomErasing)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Random numbers for a batch of ``batch`` images of ``height`` x ``width``."""

    batch: int
    height: int
    width: int
    device: torch.device
    generator: torch.Generator | None = None

    @property
    def options(self) -> dict[str, Any]:
        """For PyTorch's random functions. Where sizes are symbols, they take no generator, not even None."""
        given = {} if self.generator is None else {"generator": self.generator}
        return {"device": self.device, **given}

    def unit(self, *shape: int) -> Tensor:
        """Uniform in [0, 1), float32 [B, *shape]."""
        return torch.rand((self.batch, *shape), dtype=torch.float32, **self.options)

    def uniform(self, bounds: Range, *shape: int) -> Tensor:
        """Uniform between the bounds, float32 [B, *shape]."""
        low, high = bounds
        return self.unit(*shape).mul_(high - low).add_(low)

    def below(self, count: int, *shape: int) -> Tensor:
        """Uniform in 0 .. count - 1, int64 [B, *shape]."""
        return torch.randint(count, (self.batch, *shape), **self.options)

    def below_each(self, counts: Tensor) -> Tensor:
        """Uniform in 0 .. count - 1, a count for each image; float32 whole numbers [B], exact below 2**24."""
        return self.unit().mul_(counts).floor_()

    def chance(self, p: float, *shape: int) -> Tensor:
        """True with probability ``p``, bool [B, *shape]."""
        return self.unit(*shape) < p

    def dirichlet(self, alpha: float, count: int, *shape: int) -> Tensor:
        """Symmetric Dirichlet weights, float32 [B, *shape, count]; the first of two is Beta(alpha, alpha)."""
        concentration = torch.full((self.batch, *shape, count), alpha, dtype=torch.float32, device=self.device)
        if torch.compiler.is_compiling():
            return _dirichlet(concentration)
        return torch._sample_dirichlet(concentration, generator=self.generator)


@torch.library.custom_op("augment::dirichlet", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def _dirichlet(concentration: Tensor) -> Tensor:
    """PyTorch's own, which cannot be traced; a compiled draw has no generator."""
    return torch._sample_dirichlet(concentration)


@_dirichlet.register_fake
def _(concentration: Tensor) -> Tensor:
    return torch.empty_like(concentration)


def sample(
    recipe: Sequence[Op], batch: int, height: int, width: int, generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Params, ...]:  # fmt: skip
    """Draw the parameters of a sequence of ops for ``batch`` images of ``height`` x ``width``, a dict for each op.

    Without a generator the device's global one is used; with one it is never touched. Raises ValueError where an op cannot be
    done on images of that size.
    """
    params = []
    for op in recipe:
        source = Source(batch=batch, height=height, width=width, device=torch.device(device), generator=generator)
        height, width = output_size(op, height, width)  # first: it says what is wrong with sizes that cannot be
        params.append(SAMPLERS[type(op)](op, source))
    return tuple(params)


# ---- geometry ---------------------------------------------------------------------------------------------------------


def _nothing(op: Op, source: Source) -> Params:
    return {}


def _applied(op: Any, source: Source) -> Params:
    return {"applied": source.chance(op.p)}


def _random_crop(op: ops.RandomCrop, source: Source) -> Params:
    rows, columns = (side + 2 * op.padding - op.size + 1 for side in (source.height, source.width))
    return {"top": source.below(rows), "left": source.below(columns)}


def _windows(source: Source, scale: Range, ratio: Range) -> tuple[Tensor, Tensor]:
    """Sides [B, TRIES] of windows with the given share of the image's area and the given ratio of first to second side."""
    area = source.uniform(scale, TRIES).mul_(source.height * source.width)
    aspect = source.uniform((math.log(ratio[0]), math.log(ratio[1])), TRIES).exp_()
    return (area * aspect).sqrt_().round_(), (area / aspect).sqrt_().round_()


def _first(valid: Tensor, values: Tensor, otherwise: float) -> Tensor:
    """[B]: of each row the value at the first valid place, ``otherwise`` where there is none."""
    first = valid.to(torch.uint8).argmax(1, keepdim=True)
    return values.gather(1, first).squeeze(1).where(valid.any(1), otherwise)


def _largest_window(height: int, width: int, ratio: Range) -> tuple[int, int]:
    """Sides of the largest window of the image whose width over height is allowed: torchvision's fallback."""
    if width / height < min(ratio):
        return round(width / min(ratio)), width
    if width / height > max(ratio):
        return height, round(height * max(ratio))
    return height, width


def _resized_crop(op: ops.RandomResizedCrop, source: Source) -> Params:
    widths, heights = _windows(source, op.scale, op.ratio)
    fits = (widths > 0) & (widths <= source.width) & (heights > 0) & (heights <= source.height)
    fallback_height, fallback_width = _largest_window(source.height, source.width, op.ratio)
    height = _first(fits, heights, fallback_height)
    width = _first(fits, widths, fallback_width)
    found = fits.any(1)
    top = source.below_each(source.height + 1 - height).where(found, (source.height - fallback_height) // 2)
    left = source.below_each(source.width + 1 - width).where(found, (source.width - fallback_width) // 2)
    return {"top": top, "left": left, "height": height, "width": width}


def _rotate(op: ops.Rotate, source: Source) -> Params:
    return {"angle": source.uniform(op.degrees)}


def _affine(op: ops.Affine, source: Source) -> Params:
    farthest_x, farthest_y = op.translate[0] * source.width, op.translate[1] * source.height
    return {
        "angle": source.uniform(op.degrees),
        "translate_x": source.uniform((-farthest_x, farthest_x)).round_(),
        "translate_y": source.uniform((-farthest_y, farthest_y)).round_(),
        "scale": source.uniform(op.scale),
        "shear": source.uniform(op.shear),
    }


def _perspective(op: ops.Perspective, source: Source) -> Params:
    """``corners`` [B, 4, 2]: where (x, y) of top left, top right, bottom right and bottom left go, whole pixels."""
    reach_x = int(op.distortion * (source.width // 2)) + 1
    reach_y = int(op.distortion * (source.height // 2)) + 1
    inwards_x, inwards_y = source.below(reach_x, 4), source.below(reach_y, 4)
    right, bottom = source.width - 1, source.height - 1
    x = torch.stack([inwards_x[:, 0], right - inwards_x[:, 1], right - inwards_x[:, 2], inwards_x[:, 3]], 1)
    y = torch.stack([inwards_y[:, 0], inwards_y[:, 1], bottom - inwards_y[:, 2], bottom - inwards_y[:, 3]], 1)
    return {"applied": source.chance(op.p), "corners": torch.stack([x, y], 2)}


# ---- colour -----------------------------------------------------------------------------------------------------------


def _factor(op: Any, source: Source) -> Params:
    return {"factor": source.uniform((op.low, op.high))}


def _color_jitter(op: ops.ColorJitter, source: Source) -> Params:
    """``order`` [B, 4]: 0 brightness, 1 contrast, 2 saturation, 3 hue; ``factors`` [B, 4] in that numbering."""
    bounds = (op.brightness, op.contrast, op.saturation, op.hue)
    factors = torch.stack([source.uniform(each) for each in bounds], 1)
    return {"order": source.unit(4).argsort(1), "factors": factors}


def _blur(op: ops.GaussianBlur, source: Source) -> Params:
    return {"sigma": source.uniform(op.sigma)}


def _noise(op: ops.GaussianNoise, source: Source) -> Params:
    shape = (source.batch, 3, source.height, source.width)
    return {"noise": torch.randn(shape, dtype=torch.float32, **source.options).mul_(op.sigma)}


# ---- erasing and mixing -----------------------------------------------------------------------------------------------


def _rectangle(source: Source, scale: Range, ratio: Range, p: float) -> Params:
    """A rectangle for each image; one of height 0 where nothing is to be erased."""
    heights, widths = _windows(source, scale, ratio)
    fits = (heights < source.height) & (widths < source.width)
    height = _first(fits, heights, 0).where(source.chance(p), 0)
    width = _first(fits, widths, 0)
    return {
        "top": source.below_each(source.height + 1 - height), "left": source.below_each(source.width + 1 - width),
        "height": height, "width": width,
    }  # fmt: skip


def _erasing(op: ops.RandomErasing, source: Source) -> Params:
    return _rectangle(source, op.scale, op.ratio, op.p)


def _cutout(op: ops.Cutout, source: Source) -> Params:
    return _rectangle(source, (op.side**2, op.side**2), (1.0, 1.0), 1.0)


def _mixup(op: ops.MixUp, source: Source) -> Params:
    """``lam`` [B]: the weight of the image itself, the partner's is 1 - lam."""
    return {"lam": source.dirichlet(op.alpha, 2)[:, 0]}


def _cutmix(op: ops.CutMix, source: Source) -> Params:
    """The visible rectangle, and ``lam`` [B]: the share of the image that it leaves."""
    half = (1 - source.dirichlet(op.alpha, 2)[:, 0]).sqrt_().mul_(0.5)
    edges = []
    for side in (source.height, source.width):
        centre, reach = source.below(side), (half * side).floor_()
        edges.append(((centre - reach).clamp_(min=0), (centre + reach).clamp_(max=side)))
    (top, bottom), (left, right) = edges
    height, width = bottom - top, right - left
    lam = 1 - height * width / (source.height * source.width)
    return {"top": top, "left": left, "height": height, "width": width, "lam": lam}


# ---- policies ---------------------------------------------------------------------------------------------------------


def _looked_up(space: policies.Space, source: Source, drawn: Params) -> Params:
    """What was drawn as a policy puts it, ``op``, ``bin`` and ``negative``, and what that is: ``kernel`` and ``arguments``."""
    kernel, arguments = space.lookup(drawn["op"], drawn["bin"], drawn["negative"], source.height, source.width)
    return {**drawn, "kernel": kernel, "arguments": arguments}


def _randaugment(op: ops.RandAugment, source: Source) -> Params:
    """``op``, ``bin``, ``negative`` [B, num_ops]: indices into the space's names and magnitudes, and the sign."""
    space = policies.RANDAUGMENT
    chosen = source.below(len(space.names), op.num_ops)
    drawn = {"op": chosen, "bin": torch.full_like(chosen, op.magnitude), "negative": source.chance(0.5, op.num_ops)}
    return _looked_up(space, source, drawn)


def _trivialaugment(op: ops.TrivialAugmentWide, source: Source) -> Params:
    """As RandAugment's, [B, 1]."""
    space = policies.TRIVIALAUGMENT
    chosen, bin = source.below(len(space.names), 1), source.below(space.bins, 1)
    return _looked_up(space, source, {"op": chosen, "bin": bin, "negative": source.chance(0.5, 1)})


def _autoaugment(op: ops.AutoAugment, source: Source) -> Params:
    """As RandAugment's, [B, 2], and the ``pair`` [B]; an op of it that is not applied is drawn as Identity."""
    space = policies.AUTOAUGMENT
    pair = source.below(len(policies.CIFAR10_PAIRS))
    names, probability, magnitude = policies.pair_tables(source.device)
    chosen = names[pair].where(source.unit(2) < probability[pair], space.names.index("Identity"))
    drawn = {"op": chosen, "bin": magnitude[pair], "negative": source.chance(0.5, 2)}
    return {"pair": pair, **_looked_up(space, source, drawn)}


def _augmix(op: ops.AugMix, source: Source) -> Params:
    """As RandAugment's for chains beside one another, [B, width, 3]; places behind a chain's end hold Identity.

    ``weights`` [B, 1 + width]: of the image itself, then of the chains.
    """
    space, chains = policies.AUGMIX, (op.width, 3)
    real = len(space.names) - 1  # Identity is the last name and not drawn
    depth = source.below(3, op.width, 1) + 1
    inside = torch.arange(3, device=source.device) < depth
    drawn = {
        "op": source.below(real, *chains).where(inside, real),
        "bin": source.below(op.severity, *chains),
        "negative": source.chance(0.5, *chains),
    }
    share = source.dirichlet(op.alpha, 2)
    weights = torch.cat([share[:, :1], share[:, 1:] * source.dirichlet(op.alpha, op.width)], 1)
    return {**_looked_up(space, source, drawn), "weights": weights}


SAMPLERS: dict[type[Op], Callable[[Any, Source], Params]] = {
    ops.HorizontalFlip: _applied,
    ops.VerticalFlip: _applied,
    ops.RandomCrop: _random_crop,
    ops.RandomResizedCrop: _resized_crop,
    ops.Rotate: _rotate,
    ops.Affine: _affine,
    ops.Perspective: _perspective,
    ops.Resize: _nothing,
    ops.CenterCrop: _nothing,
    ops.Brightness: _factor,
    ops.Contrast: _factor,
    ops.Saturation: _factor,
    ops.Hue: _factor,
    ops.ColorJitter: _color_jitter,
    ops.Grayscale: _applied,
    ops.Solarize: _applied,
    ops.Posterize: _applied,
    ops.Equalize: _applied,
    ops.AutoContrast: _applied,
    ops.Invert: _applied,
    ops.Sharpness: _applied,
    ops.GaussianBlur: _blur,
    ops.GaussianNoise: _noise,
    ops.RandomErasing: _erasing,
    ops.Cutout: _cutout,
    ops.Normalize: _nothing,
    ops.AutoAugment: _autoaugment,
    ops.RandAugment: _randaugment,
    ops.TrivialAugmentWide: _trivialaugment,
    ops.AugMix: _augmix,
    ops.MixUp: _mixup,
    ops.CutMix: _cutmix,
}
"""How each op is drawn."""
