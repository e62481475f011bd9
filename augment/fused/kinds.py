"""Kinds of op for ``fused``: small values that an op's class holds as ``fused = PointOp("brightness", strength="factor")``.

A kind names the drawn parameters that kernels read, how kernels of C and Triton do the op (``sampler``, ``change`` and the
constants of its step), and does it itself by tensor operations on a whole batch (``apply``): the definition of the kernels, for
gradients, ``torch.compile`` and devices without them. ``augment.fused`` knows ops by their kinds only.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from augment import policies
from augment.distributions import Params
from augment.fused import geometry, tensors
from augment.fused.tensors import POINT_OPS
from augment.op import Op, UnsupportedOp
from augment.pipeline import to_float

SAMPLERS = (
    "take", "window", "resize", "rotate", "affine", "perspective", "blur", "neighbours", "mixup", "cutmix", "augmix",
)  # fmt: skip
"""Sources of a pass's pixels. ``neighbours``: a warp or a sharpening, for the images that drew one."""

CHANGES = ("none", "point", "policy", "jitter", "erase", "normalize", "noise")
"""Changes of values. ``point``, ``policy`` and ``jitter`` are point ops: of the op, drawn, all four in a drawn order."""

MOVES = ("flip", "crop", "shift", "reflect")
"""Moves of whole pixels along an axis. ``reflect``: a crop that mirrors the image beyond its border."""

POINTS = (*policies.KERNELS, *(name for name in POINT_OPS if name not in policies.KERNELS))
"""Numbering of point ops; policies draw from the first of them."""

JITTER = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
"""Point ops of a jitter in the numbering of its drawn order, and the factor with which each changes nothing."""


@functools.lru_cache(maxsize=1024)
def drawn_sizes(op: Op, height: int, width: int) -> Mapping[str, int]:
    """Return how many numbers each drawn parameter of an op has for an image of that size."""
    outputs = {name: math.prod(output.shape) for d in op.draws for name, output in d.outputs(op).items()}
    return outputs | {noise.name: 3 * height * width for d in op.draws for noise in d.noises(op, height, width)}


def kind_of(op: Op) -> "Kind":
    """Return how an op is done. Raises UnsupportedOp if it is not."""
    if op.fused is None:
        raise UnsupportedOp(op.name, "fused")
    return op.fused


@dataclass(frozen=True)
class Kind:
    """Base of the kinds."""

    reads: ClassVar[tuple[str, ...]] = ()
    sampler: ClassVar[str] = ""
    change: ClassVar[str] = ""

    def parameters(self, op: Op) -> tuple[str, ...]:
        """Return the drawn parameters that kernels read, in their order."""
        return self.reads

    def points(self, op: Any) -> tuple[str, ...]:
        """Return the point ops that an image may go through."""
        return ()

    def places(self, op: Any) -> int:
        """Return the number of point ops in a row, each with a pass of its own if it measures or resamples."""
        return 1

    def keeps_uint8(self, op: Any) -> bool:
        """Return whether bytes stay bytes."""
        return False

    def constants(self, op: Any) -> dict[str, Any]:
        """Return fields of the op's ``StepRecord``."""
        return {}

    def apply(self, op: Any, images: Tensor, params: Params) -> Tensor:
        """Do the op by tensor operations: uint8 or float32 images [B, 3, H, W] are not changed."""
        raise NotImplementedError


# ---- whole pixels -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Move(Kind):
    """Base of moves of whole pixels."""

    def keeps_uint8(self, op: Any) -> bool:
        return True

    def moves(self, op: Any, height: int, width: int) -> list[tuple[int, str, int, int]]:
        """Return (axis, name in MOVES, index into ``reads``, offset) for each axis: 0 rows, 1 columns."""
        raise NotImplementedError


@dataclass(frozen=True)
class Flip(Move):
    """Mirror along an axis where ``applied`` is drawn. ``axis``: 0 top and bottom, 1 left and right."""

    axis: int
    reads = ("applied",)

    def moves(self, op: Any, height: int, width: int) -> list[tuple[int, str, int, int]]:
        return [(self.axis, "flip", 0, (height, width)[self.axis] - 1)]

    def apply(self, op: Any, images: Tensor, params: Params) -> Tensor:
        return tensors.select(params["applied"], images.flip(2 + self.axis), images)


@dataclass(frozen=True)
class Crop(Move):
    """Cut ``op.size`` x ``op.size`` pixels at the drawn ``top``, ``left`` of the image padded by ``op.padding``."""

    is_reflected: bool = False
    reads = ("top", "left")

    def moves(self, op: Any, height: int, width: int) -> list[tuple[int, str, int, int]]:
        return [(axis, "reflect" if self.is_reflected else "crop", axis, -op.padding) for axis in (0, 1)]

    def apply(self, op: Any, images: Tensor, params: Params) -> Tensor:
        return geometry.crop(images, params["top"], params["left"], op.size, op.padding, is_reflected=self.is_reflected)


@dataclass(frozen=True)
class CenterCrop(Move):
    """Cut the central ``op.size`` x ``op.size`` pixels."""

    def moves(self, op: Any, height: int, width: int) -> list[tuple[int, str, int, int]]:
        return [(axis, "shift", 0, geometry.center_offset(side, op.size)) for axis, side in enumerate((height, width))]

    def apply(self, op: Any, images: Tensor, params: Params) -> Tensor:
        return geometry.center_crop(images, op.size)


# ---- resampling -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window(Kind):
    """Resize the drawn window to ``op.size`` x ``op.size``."""

    reads = ("top", "left", "height", "width")
    sampler = "window"

    def constants(self, op: Any) -> dict[str, Any]:
        return {"antialias": int(op.antialias)}

    def apply(self, op: Any, images: Tensor, params: Params) -> Tensor:
        return geometry.resized_crop(images, params, op.size, antialias=op.antialias)


@dataclass(frozen=True)
class Resize(Kind):
    """Resize to ``op.output_size``."""

    sampler = "resize"

    def constants(self, op: Any) -> dict[str, Any]:
        return {"antialias": int(op.antialias)}

    def apply(self, op: Any, images: Tensor, params: Params) -> Tensor:
        height, width = op.output_size(*images.shape[2:])
        return geometry.resize(to_float(images), height, width, antialias=op.antialias)


@dataclass(frozen=True)
class Rotate(Kind):
    """Rotate by the drawn ``angle``."""

    reads = ("angle",)
    sampler = "rotate"

    def apply(self, op: Any, images: Tensor, params: Params) -> Tensor:
        return geometry.warp(to_float(images), geometry.rotation(params["angle"]))


@dataclass(frozen=True)
class Affine(Kind):
    """Warp by the matrix of five drawn numbers."""

    reads = ("angle", "translate_x", "translate_y", "scale", "shear")
    sampler = "affine"

    def apply(self, op: Any, images: Tensor, params: Params) -> Tensor:
        return geometry.warp(to_float(images), geometry.affine(*(params[name] for name in self.reads)))


@dataclass(frozen=True)
class Perspective(Kind):
    """Move corners to the drawn ``corners`` where ``applied``."""

    reads = ("applied", "corners")
    sampler = "perspective"

    def apply(self, op: Any, images: Tensor, params: Params) -> Tensor:
        images = to_float(images)
        return tensors.select(params["applied"], geometry.perspective(images, params["corners"]), images)


@dataclass(frozen=True)
class Blur(Kind):
    """Blur by a Gaussian of the drawn ``sigma``, cut to ``op.kernel_size``."""

    reads = ("sigma",)
    sampler = "blur"

    def constants(self, op: Any) -> dict[str, Any]:
        return {"kernel_size": op.kernel_size}

    def apply(self, op: Any, images: Tensor, params: Params) -> Tensor:
        return tensors.gaussian_blur(to_float(images), params["sigma"], op.kernel_size)


@dataclass(frozen=True)
class MixUp(Kind):
    """Blend with the image before it in the batch by the drawn weight ``lam``."""

    reads = ("lam",)
    sampler = "mixup"

    def apply(self, op: Any, images: Tensor, params: Params) -> Tensor:
        return tensors.mixup(to_float(images), params["lam"])


@dataclass(frozen=True)
class CutMix(Kind):
    """Paste the drawn rectangle from the image before it in the batch."""

    reads = ("top", "left", "height", "width")
    sampler = "cutmix"

    def keeps_uint8(self, op: Any) -> bool:
        return True

    def apply(self, op: Any, images: Tensor, params: Params) -> Tensor:
        return tensors.cutmix(images, params)


# ---- changes of values ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PointOp(Kind):
    """The point op ``name`` of ``tensors.POINT_OPS``, where ``applied`` if that is drawn.

    ``strength`` names a drawn parameter or a field of the op; "" is none.
    """

    name: str
    strength: str = ""
    change = "point"

    def parameters(self, op: Op) -> tuple[str, ...]:
        drawn = drawn_sizes(op, 1, 1)
        return tuple(name for name in ("applied", self.strength) if name in drawn)

    def points(self, op: Any) -> tuple[str, ...]:
        return (self.name,)

    def constants(self, op: Any) -> dict[str, Any]:
        strength = getattr(op, self.strength) if self.strength and self.strength not in drawn_sizes(op, 1, 1) else 0.0
        return {"point": POINTS.index(self.name), "strength": float(strength)}

    def apply(self, op: Any, images: Tensor, params: Params) -> Tensor:
        images = to_float(images)
        if self.strength in params:
            strength = params[self.strength]
        else:
            strength = images.new_full((len(images),), self.constants(op)["strength"])
        result = _function(self.name)(images, strength)
        return tensors.select(params["applied"], result, images) if "applied" in params else result


@dataclass(frozen=True)
class Sharpness(PointOp):
    """Sharpen, which looks at neighbours: a point op by its parameters, a resampling by its pixels."""

    name: str = "sharpness"
    sampler = "neighbours"


@dataclass(frozen=True)
class Policy(Kind):
    """Point ops and warps that are drawn: ``kernel`` and ``arguments`` for each place."""

    reads = ("kernel", "arguments")
    sampler = "neighbours"
    change = "policy"

    def points(self, op: Any) -> tuple[str, ...]:
        space = policies.SPACES[next(d.policy for d in op.draws if d.policy)]
        return tuple(dict.fromkeys(policies.KERNEL_OF[name] for name in space.names))

    def places(self, op: Any) -> int:
        return drawn_sizes(op, 1, 1)["kernel"]

    def apply(self, op: Any, images: Tensor, params: Params) -> Tensor:
        return _chain(to_float(images), params["kernel"], params["arguments"], self.points(op))


@dataclass(frozen=True)
class AugMix(Kind):
    """``op.width`` chains of drawn ops, mixed by the drawn ``weights``."""

    reads = ("kernel", "arguments", "weights")
    sampler = "augmix"

    def points(self, op: Any) -> tuple[str, ...]:
        return Policy().points(op)

    def constants(self, op: Any) -> dict[str, Any]:
        return {"chains": op.width}

    def apply(self, op: Any, images: Tensor, params: Params) -> Tensor:
        images = to_float(images)
        own, *weights = params["weights"][:, :, None, None, None].unbind(1)
        result = images * own
        for weight, kernel, arguments in zip(weights, params["kernel"].unbind(1), params["arguments"].unbind(1), strict=True):
            result = result + _chain(images, kernel, arguments, self.points(op)) * weight
        return result


@dataclass(frozen=True)
class Jitter(Kind):
    """The point ops of ``JITTER`` in the drawn ``order`` by the drawn ``factors``."""

    reads = ("order", "factors")
    change = "jitter"

    def points(self, op: Any) -> tuple[str, ...]:
        changing: tuple[str, ...] = op.changing
        return changing

    def apply(self, op: Any, images: Tensor, params: Params) -> Tensor:
        images, names = to_float(images), tuple(JITTER)
        order, factors = params["order"], params["factors"]
        for choice, factor in zip(order.unbind(1), factors.gather(1, order).unbind(1), strict=True):
            images = _branch(images, choice, {names.index(n): _function(n)(images, factor) for n in self.points(op)})
        return images


@dataclass(frozen=True)
class Erase(Kind):
    """Set the drawn rectangle to the field ``value`` of the op, "": to black."""

    value: str = ""
    reads = ("top", "left", "height", "width")
    change = "erase"

    def keeps_uint8(self, op: Any) -> bool:
        return self.constants(op)["value"] == 0  # other values may lie between two steps of uint8

    def constants(self, op: Any) -> dict[str, Any]:
        return {"value": float(getattr(op, self.value)) if self.value else 0.0}

    def apply(self, op: Any, images: Tensor, params: Params) -> Tensor:
        return tensors.erase(images if self.keeps_uint8(op) else to_float(images), params, self.constants(op)["value"])


@dataclass(frozen=True)
class Normalize(Kind):
    """Subtract ``op.mean`` and divide by ``op.std``."""

    change = "normalize"

    def constants(self, op: Any) -> dict[str, Any]:
        gain = tuple(1 / std for std in op.std)
        return {"gain": gain, "bias": tuple(-mean / std for mean, std in zip(op.mean, op.std, strict=True))}

    def apply(self, op: Any, images: Tensor, params: Params) -> Tensor:
        return tensors.normalize(images, op.mean, op.std)


@dataclass(frozen=True)
class Noise(Kind):
    """Add the drawn ``noise``."""

    reads = ("noise",)
    change = "noise"

    def constants(self, op: Any) -> dict[str, Any]:
        return {"value": op.sigma}

    def apply(self, op: Any, images: Tensor, params: Params) -> Tensor:
        return tensors.add_noise(to_float(images), params["noise"])


# ---- tensor operations for images that drew different ops -------------------------------------------------------------


def _function(name: str) -> tensors.Function:
    return POINT_OPS[name].function


def _branch(images: Tensor, choice: Tensor, results: Mapping[int, Tensor]) -> Tensor:
    """Return of each image the result that ``choice`` int64 [B] numbers, or the image itself.

    All results are computed for all images: on an accelerator nothing may depend on values.
    """
    selected = images
    for number, result in results.items():
        selected = tensors.select(choice == number, result, selected)
    return selected


def _chain(images: Tensor, kernels: Tensor, arguments: Tensor, names: Sequence[str]) -> Tensor:
    """Apply kernels int64 [B, n] of a policy in a row with arguments [B, n, ARGUMENTS]; ``names`` are those that may occur."""
    for kernel, argument in zip(kernels.unbind(1), arguments.unbind(1), strict=True):
        results = {POINTS.index(name): _policy_op(name, images, argument) for name in names if name != "identity"}
        images = _branch(images, kernel, results)
    return images


def _policy_op(name: str, images: Tensor, arguments: Tensor) -> Tensor:
    return geometry.warp(images, arguments) if name == "warp" else _function(name)(images, arguments[:, 0])
