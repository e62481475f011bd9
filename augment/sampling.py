"""The draws of the fused backend: for each op what torchvision draws for one image, drawn for a whole batch at once.

``sample(ops, ...)`` gives one dict of tensors an op, the batch first in every tensor; ``augment.fused`` applies them. All draws
are made on the device without asking it for a value, from the generator if one is given. The names are torchvision's: an
auditor can hand a row of them to its functionals.

All uniform numbers come from one call; the tensor formulas here define what becomes of them. They run on any device, and under
``torch.compile``; ``augment.native_draws`` and ``augment.triton_draws`` do the same in one step, from the same numbers.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from augment import draws, ops, policies
from augment.draws import TRIES, Program
from augment.geometry import output_size
from augment.ops import Op, Range
from augment.source import Source

Params = dict[str, Tensor]
"""What was drawn for one op; every tensor is [B, ...]. Empty where nothing is random."""

Run = Callable[[Program, Tensor, Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]], None]
"""(program, uniforms, given, tables, outputs): fills the outputs with what the program makes of all the others."""


def sample(
    recipe: Sequence[Op], batch: int, height: int, width: int, generator: torch.Generator | None = None,
    device: torch.device | str = "cpu", run: Run | None = None,
) -> tuple[Params, ...]:  # fmt: skip
    """Draw the parameters of a sequence of ops for ``batch`` images of ``height`` x ``width``, a dict for each op.

    ``run`` does in one step what becomes of the uniform numbers; None: by tensor formulas. Without a generator the device's
    global one is used; with one it is never touched. Raises ValueError where an op cannot be done on images of that size.
    """
    source = Source(batch=batch, device=torch.device(device), generator=generator, height=height, width=width)
    if run is None:
        source.draw(draws.count(recipe))
        return _by_tensors(recipe, source)
    program = draws.encode(tuple(recipe), height, width)
    source.draw(program.rows)
    if type(source.uniforms) is not Tensor:  # nothing to do, or a stand-in without memory
        return _by_tensors(recipe, source)
    return _by_program(program, source.uniforms, len(recipe), source, run)


def _by_tensors(recipe: Sequence[Op], source: Source) -> tuple[Params, ...]:
    params = []
    for op in recipe:
        size = output_size(op, source.height, source.width)  # first: it says what is wrong with sizes that cannot be
        params.append(SAMPLERS[type(op)](op, source))
        source.height, source.width = size
    return tuple(params)


def _by_program(program: Program, uniforms: Tensor, length: int, source: Source, run: Run) -> tuple[Params, ...]:
    params: tuple[Params, ...] = tuple([{} for _ in range(length)])
    given = []
    for each in program.given:
        tensor = getattr(source, each.method)(*each.arguments)
        given.append(tensor)
        if each.name:
            params[each.index][each.name] = tensor
    outputs = []
    for output in program.outputs:
        tensor = torch.empty((source.batch, *output.shape), dtype=output.dtype, device=source.device)
        outputs.append(tensor)
        params[output.index][output.name] = tensor
    if source.batch:
        tables = [table for which in program.tables for table in policies.tables(*which, source.device)]
        run(program, uniforms, given, tables, outputs)
    return params


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
    area = source.uniform(scale, TRIES) * (source.height * source.width)
    aspect = source.uniform((math.log(ratio[0]), math.log(ratio[1])), TRIES).exp()
    return (area * aspect).sqrt().round(), (area / aspect).sqrt().round()


def _first(valid: Tensor, values: Tensor, otherwise: float) -> Tensor:
    """[B]: of each row the value at the first valid place, ``otherwise`` where there is none."""
    first = valid.to(torch.uint8).argmax(1, keepdim=True)
    return values.gather(1, first).squeeze(1).where(valid.any(1), otherwise)


def _resized_crop(op: ops.RandomResizedCrop, source: Source) -> Params:
    widths, heights = _windows(source, op.scale, op.ratio)
    fits = (widths > 0) & (widths <= source.width) & (heights > 0) & (heights <= source.height)
    fallback_height, fallback_width = draws.largest_window(source.height, source.width, op.ratio)
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
    reach_x, reach_y = draws.reaches(op, source.height, source.width)
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
    return {"order": source.unit(4).argsort(dim=1, stable=True), "factors": factors}


def _blur(op: ops.GaussianBlur, source: Source) -> Params:
    return {"sigma": source.uniform(op.sigma)}


def _noise(op: ops.GaussianNoise, source: Source) -> Params:
    return {"noise": source.noise(op.sigma, source.height, source.width)}


# ---- erasing and mixing -----------------------------------------------------------------------------------------------


def _erasing(op: ops.RandomErasing, source: Source) -> Params:
    """A rectangle for each image; one of height 0 where nothing is to be erased."""
    heights, widths = _windows(source, op.scale, op.ratio)
    fits = (heights < source.height) & (widths < source.width)
    height = _first(fits, heights, 0).where(source.chance(op.p), 0)
    return _placed(height, _first(fits, widths, 0), source)


def _cutout(op: ops.Cutout, source: Source) -> Params:
    side = draws.square(op, source.height, source.width)
    sides = torch.full((source.batch,), side, dtype=torch.float32, device=source.device)
    return _placed(sides, sides, source)


def _placed(height: Tensor, width: Tensor, source: Source) -> Params:
    """A rectangle of that size, whole float32 numbers [B], anywhere inside the image."""
    top, left = source.below_each(source.height + 1 - height), source.below_each(source.width + 1 - width)
    return {"top": top, "left": left, "height": height, "width": width}


def _mixup(op: ops.MixUp, source: Source) -> Params:
    """``lam`` [B]: the weight of the image itself, the partner's is 1 - lam."""
    return {"lam": source.weight(op.alpha)}


def _cutmix(op: ops.CutMix, source: Source) -> Params:
    """The visible rectangle, and ``lam`` [B]: the share of the image that it leaves."""
    half = (1 - source.weight(op.alpha)).sqrt() * 0.5
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
    own = source.weight(op.alpha)[:, None]
    weights = torch.cat([own, (1 - own) * source.dirichlet(op.alpha, op.width)], 1)
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
