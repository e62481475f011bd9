"""The stages of the fused backend: for each op what is done to a batch with the parameters drawn for it.

``STAGES`` is the table for ops on their own; flips and crops in a row (``take``) and a resized crop with the flips behind it
(``resized_crop``) are done together. Nothing is drawn here.

Where images go different ways (policies, the order of a ColorJitter, ``p``), a CPU groups them and runs each kernel on its own
images only; elsewhere nothing may depend on values, so every kernel runs on all images and the right result is selected.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from augment import geometry, kernels, ops, parts, policies
from augment.compose import to_float
from augment.ops import Op
from augment.sampling import Params

Apply = Callable[[Any, Tensor, Params], Tensor]
"""(op, images, params) -> images. Images are uint8 or float32; float32 ones are the stage's to overwrite."""


# ---- going different ways ---------------------------------------------------------------------------------------------


Kernel = Callable[[Tensor, Tensor], Tensor]
"""(images [B, 3, H, W], arguments [B, ...]) -> images of the same shape."""


def branch(images: Tensor, choice: Tensor, ways: Sequence[Kernel | None], arguments: Tensor) -> Tensor:
    """Send each image through the kernel that ``choice`` int64 [B] names; None leaves it. May overwrite ``images``.

    ``arguments`` [B, ...] are what kernels get besides the images; each means its own by it.
    """
    if images.device.type == "cpu" and not torch.compiler.is_compiling():
        return _in_groups(images, choice, ways, arguments)
    result = images
    for index, way in enumerate(ways):
        if way is not None:
            result = torch.where((choice == index)[:, None, None, None], way(images, arguments), result)
    return result


def _in_groups(images: Tensor, choice: Tensor, ways: Sequence[Kernel | None], arguments: Tensor) -> Tensor:
    counts = choice.bincount(minlength=len(ways)).tolist()
    groups = choice.argsort().split(counts)
    for way, group in zip(ways, groups, strict=True):
        if way is not None and len(group):
            for some in group.split(min(kernels.at_once(images), parts.size_of_part(images))):
                images.index_copy_(0, some, way(images.index_select(0, some), arguments.index_select(0, some)))
    return images


def _where_applied(kernel: Callable[[Any, Tensor], Tensor]) -> Apply:
    """An op with a ``p``: its kernel (op, images) for the images that drew it."""

    def apply(op: Any, images: Tensor, params: Params) -> Tensor:
        applied = params["applied"]
        return branch(to_float(images), applied.long(), (None, lambda chosen, _: kernel(op, chosen)), applied)

    return apply


# ---- stages of geometry -----------------------------------------------------------------------------------------------


def take(stage_ops: Sequence[Op], images: Tensor, params: Sequence[Params]) -> Tensor:
    """Flips and at most one crop in a row: pixels only move, all at once and in the images' own dtype."""
    batch, _, height, width = images.shape
    rows, columns = geometry.Axis(height, height), geometry.Axis(width, width)
    for op, drawn in zip(stage_ops, params, strict=True):
        match op:
            case ops.HorizontalFlip():
                columns.flip(drawn["applied"])
            case ops.VerticalFlip():
                rows.flip(drawn["applied"])
            case ops.RandomCrop():
                rows.crop(drawn["top"], op.size, op.padding)
                columns.crop(drawn["left"], op.size, op.padding)
            case ops.CenterCrop():
                rows.center_crop(batch, op.size, images.device)
                columns.center_crop(batch, op.size, images.device)
    return geometry.take_window(images, rows, columns)


def resized_crop(stage_ops: Sequence[Op], images: Tensor, params: Sequence[Params]) -> Tensor:
    crop, *flips = stage_ops
    assert isinstance(crop, ops.RandomResizedCrop)
    mirror: dict[type[Op], Tensor] = {}
    for op, drawn in zip(flips, params[1:], strict=True):
        kind, applied = type(op), drawn["applied"]
        mirror[kind] = mirror[kind] ^ applied if kind in mirror else applied
    return geometry.resized_crop(
        images, params[0], crop.size, antialias=crop.antialias,
        mirror_x=mirror.get(ops.HorizontalFlip), mirror_y=mirror.get(ops.VerticalFlip),
    )  # fmt: skip


def _rotate(op: ops.Rotate, images: Tensor, params: Params) -> Tensor:
    return geometry.warp(to_float(images), geometry.rotation(params["angle"]))


def _affine(op: ops.Affine, images: Tensor, params: Params) -> Tensor:
    names = ("angle", "translate_x", "translate_y", "scale", "shear")
    return geometry.warp(to_float(images), geometry.affine(*(params[name] for name in names)))


def _perspective(op: ops.Perspective, images: Tensor, params: Params) -> Tensor:
    applied = params["applied"].long()
    return branch(to_float(images), applied, (None, geometry.perspective), params["corners"])


def _resize(op: ops.Resize, images: Tensor, params: Params) -> Tensor:
    height, width = geometry.output_size(op, *images.shape[2:])
    return geometry.resize(to_float(images), height, width, antialias=op.antialias)


# ---- stages of colour -------------------------------------------------------------------------------------------------


def _by_factor(kernel: Kernel) -> Apply:
    return lambda op, images, params: kernel(to_float(images), params["factor"])


JITTERS: dict[str, Kernel] = {
    "brightness": kernels.brightness, "contrast": kernels.contrast, "saturation": kernels.saturation, "hue": kernels.hue,
}  # fmt: skip
"""In the numbering of ColorJitter's drawn ``order``."""


def _color_jitter(op: ops.ColorJitter, images: Tensor, params: Params) -> Tensor:
    images = to_float(images)
    order, factors = params["order"], params["factors"]
    ways = [kernel if name in op.changing else None for name, kernel in JITTERS.items()]
    for choice, factor in zip(order.unbind(1), factors.gather(1, order).unbind(1), strict=True):
        images = branch(images, choice, ways, factor)
    return images


Mix = Callable[[Tensor, Tensor, slice], Tensor]
"""(images, their partners, which images of the batch these are) -> mixed images."""


def _mixed(mix: Mix, images: Tensor, params: Params) -> Tensor:
    """Each image with the one before it in the batch."""
    if parts.are_wanted(images, [params]):
        return parts.with_partners(mix, images)
    return mix(images, images.roll(1, 0), slice(None))


def _mixup(op: ops.MixUp, images: Tensor, params: Params) -> Tensor:
    lam = params["lam"]
    return _mixed(lambda own, partners, which: kernels.mixup(own, lam[which], partners), to_float(images), params)


def _cutmix(op: ops.CutMix, images: Tensor, params: Params) -> Tensor:
    def mix(own: Tensor, partners: Tensor, which: slice) -> Tensor:
        return kernels.cutmix(own, {key: value[which] for key, value in params.items()}, partners)

    return _mixed(mix, images if images.is_floating_point() else images.clone(), params)


def _erase(op: ops.RandomErasing, images: Tensor, params: Params) -> Tensor:
    # Black is the same in every dtype; other values may lie between two steps of uint8.
    return kernels.erase(images if op.value == 0 else to_float(images), params, op.value)


# ---- policies ---------------------------------------------------------------------------------------------------------


def _strength(kernel: Kernel) -> Kernel:
    return lambda images, arguments: kernel(images, arguments[:, 0])


def _plain(kernel: Callable[[Tensor], Tensor]) -> Kernel:
    return lambda images, arguments: kernel(images)


POLICY_KERNELS: dict[str, Kernel | None] = {
    "identity": None,
    "warp": geometry.warp,
    "brightness": _strength(kernels.brightness),
    "contrast": _strength(kernels.contrast),
    "saturation": _strength(kernels.saturation),
    "sharpness": _strength(kernels.sharpness),
    "posterize": _strength(kernels.posterize),
    "solarize": _strength(kernels.solarize),
    "autocontrast": _plain(kernels.autocontrast),
    "equalize": _plain(kernels.equalize),
    "invert": _plain(kernels.invert),
}
"""The kernels behind the names in ``policies.KERNELS``."""


def _chain(images: Tensor, chosen: Tensor, arguments: Tensor) -> Tensor:
    """Kernels int64 [B, n] one after the other, with arguments [B, n, ...]."""
    ways = [POLICY_KERNELS[name] for name in policies.KERNELS]
    for choice, argument in zip(chosen.unbind(1), arguments.unbind(1), strict=True):
        images = branch(images, choice, ways, argument)
    return images


def _policy(op: Op, images: Tensor, params: Params) -> Tensor:
    return _chain(to_float(images), params["kernel"], params["arguments"])


def _augmix(op: ops.AugMix, images: Tensor, params: Params) -> Tensor:
    images = to_float(images)
    weights = params["weights"][:, :, None, None, None].unbind(1)
    chains = zip(weights[1:], params["kernel"].unbind(1), params["arguments"].unbind(1), strict=True)
    result = images * weights[0]
    for weight, chosen, arguments in chains:
        result += _chain(images.clone(), chosen, arguments) * weight
    return result


# ---- tables -----------------------------------------------------------------------------------------------------------


FLIPS = (ops.HorizontalFlip, ops.VerticalFlip)
CROPS = (ops.RandomCrop, ops.CenterCrop)
EXACT = (*FLIPS, *CROPS)
"""Ops that only move whole pixels."""

MIXING = (ops.MixUp, ops.CutMix)

STAGES: dict[type[Op], Apply] = {
    ops.Rotate: _rotate,
    ops.Affine: _affine,
    ops.Perspective: _perspective,
    ops.Resize: _resize,
    ops.Brightness: _by_factor(kernels.brightness),
    ops.Contrast: _by_factor(kernels.contrast),
    ops.Saturation: _by_factor(kernels.saturation),
    ops.Hue: _by_factor(kernels.hue),
    ops.ColorJitter: _color_jitter,
    ops.Grayscale: _where_applied(lambda op, images: kernels.grayscale(images)),
    ops.Solarize: _where_applied(lambda op, images: kernels.solarize(images, images.new_full((len(images),), op.threshold))),
    ops.Posterize: _where_applied(lambda op, images: kernels.posterize(images, images.new_full((len(images),), op.bits))),
    ops.Equalize: _where_applied(lambda op, images: kernels.equalize(images)),
    ops.AutoContrast: _where_applied(lambda op, images: kernels.autocontrast(images)),
    ops.Invert: _where_applied(lambda op, images: kernels.invert(images)),
    ops.Sharpness: _where_applied(lambda op, images: kernels.sharpness(images, images.new_full((len(images),), op.factor))),
    ops.GaussianBlur: lambda op, images, params: kernels.gaussian_blur(to_float(images), params["sigma"], op.kernel_size),
    ops.GaussianNoise: lambda op, images, params: kernels.add_noise_(to_float(images), params["noise"]),
    ops.RandomErasing: _erase,
    ops.Cutout: lambda op, images, params: kernels.erase(images, params, 0.0),
    ops.Normalize: lambda op, images, params: kernels.normalize_(images, op.mean, op.std),
    ops.AutoAugment: _policy,
    ops.RandAugment: _policy,
    ops.TrivialAugmentWide: _policy,
    ops.AugMix: _augmix,
    ops.MixUp: _mixup,
    ops.CutMix: _cutmix,
}
"""Ops that make a stage of their own. With ``EXACT`` and RandomResizedCrop: all that this backend supports."""

APPLIED = (
    *(ops.Grayscale, ops.Solarize, ops.Posterize, ops.Equalize, ops.AutoContrast, ops.Invert, ops.Sharpness, ops.ColorJitter),
    *(ops.AutoAugment, ops.RandAugment, ops.TrivialAugmentWide, ops.Perspective),
)
"""Ops whose images go different ways."""


def is_thrifty(first: Op, dtype: torch.dtype) -> bool:
    """Whether a stage, which starts with that op, takes little memory beside its images and its result on images of a type."""
    if isinstance(first, APPLIED):
        return True  # by ``branch``, a few images at a time
    if isinstance(first, (*MIXING, ops.Normalize)):
        return True
    if isinstance(first, ops.RandomResizedCrop) and first.size**2 < geometry.LARGE:
        return False  # weights as matrices, for every image
    return dtype == torch.uint8 and isinstance(first, (*EXACT, ops.RandomResizedCrop, ops.RandomErasing, ops.Cutout))
