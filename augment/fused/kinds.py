"""Kinds of op for ``fused``: values that an op's class holds, as ``fused = kinds.point_op("brightness", strength="factor")``.

A kind names the drawn parameters that kernels read, how kernels of C and Triton do the op (``move``, ``sampler``, ``change``
and the constants of its step), and does it itself by tensor operations on a whole batch (``apply``): the definition of the
kernels, for gradients, ``torch.compile`` and devices without them. ``augment.fused`` knows ops by their kinds only.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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

RECTANGLE = ("top", "left", "height", "width")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Kind of an op: how fused does it. All functions take the op.

    ``apply``: (op, images, params) -> images, by tensor operations on uint8 or float32 images [B, 3, H, W], which stay.
    ``reads``: drawn parameters that kernels read, in their order, where the op draws them; ``strength``: the one of a point op.
    ``move``: whole pixels along ``axes`` (0 rows, 1 columns) by ``offset``: (op, side) -> pixels.
    ``points``: point ops that an image may go through, in ``places`` in a row, with a pass each if they measure or resample.
    ``keeps_uint8``: bytes stay bytes. ``constants``: fields of the op's ``StepRecord``.
    """

    apply: Callable[[Any, Tensor, Params], Tensor]
    reads: tuple[str, ...] = ()
    strength: str = ""
    move: str = ""
    axes: tuple[int, ...] = (0, 1)
    offset: Callable[[Any, int], int] = lambda op, side: 0
    sampler: str = ""
    change: str = ""
    points: Callable[[Any], tuple[str, ...]] = lambda op: ()
    places: Callable[[Any], int] = lambda op: 1
    keeps_uint8: Callable[[Any], bool] = lambda op: False
    constants: Callable[[Any], dict[str, Any]] = lambda op: {}

    def parameters(self, op: Op) -> tuple[str, ...]:
        """Return the drawn parameters that kernels read, in their order."""
        drawn = drawn_sizes(op, 1, 1)
        return tuple(name for name in self.reads if name in drawn)


def _always(op: Any) -> bool:
    return True


# ---- whole pixels -----------------------------------------------------------------------------------------------------


def flip(axis: int) -> Kind:
    """Return the kind that mirrors along an axis where ``applied``: 0 top and bottom, 1 left and right."""
    return Kind(
        reads=("applied",), move="flip", axes=(axis,), offset=lambda op, side: side - 1, keeps_uint8=_always,
        apply=lambda op, images, drawn: tensors.select(drawn["applied"], images.flip(2 + axis), images),
    )  # fmt: skip


def crop(*, is_reflected: bool = False) -> Kind:
    """Return the kind that cuts ``op.size`` x ``op.size`` pixels at ``top``, ``left`` of the image padded by ``op.padding``."""
    return Kind(
        reads=("top", "left"), move="reflect" if is_reflected else "crop", offset=lambda op, side: -op.padding,
        keeps_uint8=_always,
        apply=lambda op, images, drawn: geometry.crop(
            images, drawn["top"], drawn["left"], op.size, op.padding, is_reflected=is_reflected
        ),
    )  # fmt: skip


CENTER_CROP = Kind(
    move="shift", offset=lambda op, side: geometry.center_offset(side, op.size), keeps_uint8=_always,
    apply=lambda op, images, drawn: geometry.center_crop(images, op.size),
)  # fmt: skip


# ---- resampling -------------------------------------------------------------------------------------------------------


def _antialias(op: Any) -> dict[str, Any]:
    return {"antialias": int(op.antialias)}


WINDOW = Kind(
    reads=RECTANGLE, sampler="window", constants=_antialias,
    apply=lambda op, images, drawn: geometry.resized_crop(images, drawn, op.size, antialias=op.antialias),
)  # fmt: skip
RESIZE = Kind(
    sampler="resize", constants=_antialias,
    apply=lambda op, images, drawn: geometry.resize(
        to_float(images), *op.output_size(*images.shape[2:]), antialias=op.antialias
    ),
)  # fmt: skip
ROTATE = Kind(
    reads=("angle",), sampler="rotate",
    apply=lambda op, images, drawn: geometry.warp(to_float(images), geometry.rotation(drawn["angle"])),
)  # fmt: skip
_AFFINE = ("angle", "translate_x", "translate_y", "scale", "shear")
AFFINE = Kind(
    reads=_AFFINE, sampler="affine",
    apply=lambda op, images, drawn: geometry.warp(to_float(images), geometry.affine(*(drawn[name] for name in _AFFINE))),
)  # fmt: skip


def _move_corners(op: Op, images: Tensor, drawn: Params) -> Tensor:
    images = to_float(images)
    return tensors.select(drawn["applied"], geometry.perspective(images, drawn["corners"]), images)


PERSPECTIVE = Kind(reads=("applied", "corners"), sampler="perspective", apply=_move_corners)
BLUR = Kind(
    reads=("sigma",), sampler="blur", constants=lambda op: {"kernel_size": op.kernel_size},
    apply=lambda op, images, drawn: tensors.gaussian_blur(to_float(images), drawn["sigma"], op.kernel_size),
)  # fmt: skip
MIXUP = Kind(reads=("lam",), sampler="mixup", apply=lambda op, images, drawn: tensors.mixup(to_float(images), drawn["lam"]))
CUTMIX = Kind(
    reads=RECTANGLE, sampler="cutmix", keeps_uint8=_always,
    apply=lambda op, images, drawn: tensors.cutmix(images, drawn),
)  # fmt: skip


# ---- changes of values ------------------------------------------------------------------------------------------------


def point_op(name: str, strength: str = "", sampler: str = "") -> Kind:
    """Return the kind of a point op of ``tensors.POINT_OPS``, where ``applied`` if that is drawn.

    ``strength`` names a drawn parameter or a field of the op; "" is none.
    """

    def constants(op: Any) -> dict[str, Any]:
        is_field = strength and strength not in drawn_sizes(op, 1, 1)
        return {"point": POINTS.index(name), "strength": float(getattr(op, strength)) if is_field else 0.0}

    def apply(op: Any, images: Tensor, drawn: Params) -> Tensor:
        images = to_float(images)
        numbers = drawn[strength] if strength in drawn else images.new_full((len(images),), constants(op)["strength"])
        result = POINT_OPS[name].function(images, numbers)
        return tensors.select(drawn["applied"], result, images) if "applied" in drawn else result

    return Kind(
        reads=("applied", strength), strength=strength, sampler=sampler, change="point", points=lambda op: (name,),
        constants=constants, apply=apply,
    )  # fmt: skip


SHARPNESS = point_op("sharpness", strength="factor", sampler="neighbours")
"""A point op by its parameters, a resampling by its pixels."""


def _policy_points(op: Op) -> tuple[str, ...]:
    space = policies.SPACES[next(d.policy for d in op.draws if d.policy)]
    return tuple(dict.fromkeys(policies.KERNEL_OF[name] for name in space.names))


POLICY = Kind(
    reads=("kernel", "arguments"), sampler="neighbours", change="policy", points=_policy_points,
    places=lambda op: drawn_sizes(op, 1, 1)["kernel"],
    apply=lambda op, images, drawn: _chain(to_float(images), drawn["kernel"], drawn["arguments"], _policy_points(op)),
)  # fmt: skip


def _mix_chains(op: Op, images: Tensor, drawn: Params) -> Tensor:
    images = to_float(images)
    own, *weights = drawn["weights"][:, :, None, None, None].unbind(1)
    result = images * own
    for weight, kernel, arguments in zip(weights, drawn["kernel"].unbind(1), drawn["arguments"].unbind(1), strict=True):
        result = result + _chain(images, kernel, arguments, _policy_points(op)) * weight
    return result


AUGMIX = Kind(
    reads=("kernel", "arguments", "weights"), sampler="augmix", points=_policy_points, apply=_mix_chains,
    constants=lambda op: {"chains": op.width},
)  # fmt: skip


def _jitter(op: Any, images: Tensor, drawn: Params) -> Tensor:
    images, names = to_float(images), tuple(JITTER)
    order, factors = drawn["order"], drawn["factors"]
    for choice, factor in zip(order.unbind(1), factors.gather(1, order).unbind(1), strict=True):
        images = _branch(images, choice, {names.index(n): POINT_OPS[n].function(images, factor) for n in op.changing})
    return images


COLOR_JITTER = Kind(reads=("order", "factors"), change="jitter", points=lambda op: op.changing, apply=_jitter)


def erase(value: Callable[[Any], float] = lambda op: 0.0) -> Kind:
    """Return the kind that sets the drawn rectangle to ``value`` of the op; only black keeps bytes, as it is one of theirs."""
    return Kind(
        reads=RECTANGLE, change="erase", keeps_uint8=lambda op: value(op) == 0, constants=lambda op: {"value": value(op)},
        apply=lambda op, images, drawn: tensors.erase(images if value(op) == 0 else to_float(images), drawn, value(op)),
    )  # fmt: skip


NORMALIZE = Kind(
    change="normalize", apply=lambda op, images, drawn: tensors.normalize(images, op.mean, op.std),
    constants=lambda op: {
        "gain": tuple(1 / std for std in op.std),
        "bias": tuple(-mean / std for mean, std in zip(op.mean, op.std, strict=True)),
    },
)  # fmt: skip
NOISE = Kind(
    reads=("noise",), change="noise", constants=lambda op: {"value": op.sigma},
    apply=lambda op, images, drawn: tensors.add_noise(to_float(images), drawn["noise"]),
)  # fmt: skip


# ---- tensor operations for images that drew different ops -------------------------------------------------------------


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
    return geometry.warp(images, arguments) if name == "warp" else POINT_OPS[name].function(images, arguments[:, 0])
