"""The package ``triton-augment`` as a backend: neighbouring ops that stand in its order are one call of its fused kernel.

Its order is rotate or affine, crop, flip, brightness, contrast, saturation, grey, normalise. An op by itself is done by the
package's own class for it. The package is an optional extra, imported when a pipeline is built, and runs on CUDA; where Triton
interprets its kernels (``TRITON_INTERPRET=1``) it takes tensors of the CPU, which shows what it computes and not how fast.
What it does otherwise than the definitions stands in ``docs/semantics.md``.
"""

import contextlib
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

from augment import ops
from augment.compose import Runner, library_rng, to_float
from augment.ops import Op
from augment.rows.row import UnsupportedOp

NAME = "triton_augment"
SERIES = "0.3"
"""The releases whose classes and kernel these are. Older ones lack the affine part and fused calls without a crop."""
INSTALL = "pip install 'augmark[triton-augment]'"
MOST_VALUES = 2**31 - 1
"""Its kernels count in 32 bits; beyond that they would read and write somewhere else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """An op in the package's terms.

    ``places`` are the first and the last place that it takes in the fused kernel's order, None where that kernel lacks it.
    ``kind`` is the class for the op alone, ``arguments`` are what it is built with; ``renamed`` are those that the fused class
    calls otherwise. ``refuses`` says why not with an op's parameters, None where they can be had.
    """

    kind: str
    arguments: Callable[[Any], dict[str, Any]]
    places: tuple[int, int] | None
    renamed: Mapping[str, str] = field(default_factory=dict)
    refuses: Callable[[Any], str | None] = lambda op: None


def _affine(op: ops.Affine) -> dict[str, Any]:
    arguments = {"degrees": op.degrees, "translate": op.translate, "scale": op.scale, "shear": op.shear}
    return {**arguments, "interpolation": "bilinear"}


def _jitter(op: ops.ColorJitter) -> dict[str, Any]:
    return {"brightness": op.brightness, "contrast": op.contrast, "saturation": op.saturation}


PARTS: dict[str, Part] = {
    "Rotate": Part(  # positive degrees turn it clockwise, ours the other way round
        kind="TritonRandomRotation", places=(0, 0),
        arguments=lambda op: {"degrees": (-op.degrees[1], -op.degrees[0]), "interpolation": "bilinear"},
    ),
    "Affine": Part(kind="TritonRandomAffine", places=(0, 0), arguments=_affine),
    "RandomCrop": Part(
        kind="TritonRandomCrop", places=(1, 1), arguments=lambda op: {"size": op.size}, renamed={"size": "crop_size"},
        refuses=lambda op: "it crops without padding, so padding must be 0" if op.padding else None,
    ),
    "CenterCrop": Part(kind="TritonCenterCrop", places=None, arguments=lambda op: {"size": op.size}),
    "HorizontalFlip": Part(
        kind="TritonRandomHorizontalFlip", places=(2, 2), arguments=lambda op: {"p": op.p}, renamed={"p": "horizontal_flip_p"}
    ),
    "Brightness": Part(kind="TritonColorJitter", places=(3, 3), arguments=lambda op: {"brightness": (op.low, op.high)}),
    "Contrast": Part(kind="TritonColorJitter", places=(4, 4), arguments=lambda op: {"contrast": (op.low, op.high)}),
    "Saturation": Part(kind="TritonColorJitter", places=(5, 5), arguments=lambda op: {"saturation": (op.low, op.high)}),
    "ColorJitter": Part(
        kind="TritonColorJitter", places=(3, 5), arguments=_jitter,
        refuses=lambda op: None if op.hue == (0.0, 0.0) else "it has no hue, so hue must be (0, 0)",
    ),
    "Grayscale": Part(
        kind="TritonRandomGrayscale", places=(6, 6), arguments=lambda op: {"p": op.p}, renamed={"p": "grayscale_p"}
    ),
    "Normalize": Part(kind="TritonNormalize", places=(7, 7), arguments=lambda op: {"mean": op.mean, "std": op.std}),
}  # fmt: skip


def accepted(op: Op) -> Op:
    """The op, where the package can do it with these parameters; else UnsupportedOp."""
    reason = PARTS[op.name].refuses(op)
    if reason is not None:
        raise UnsupportedOp(op.name, NAME, reason)
    return op


def why_not(device: torch.device) -> str | None:
    """Why the package cannot run on the device: another kind of device, no package, another release. None where it can."""
    if device.type != "cuda" and not (device.type == "cpu" and _is_interpreted()):
        return "it runs on CUDA only"
    if device.type == "cuda" and not torch.cuda.is_available():
        return "there is no CUDA device"
    try:
        found = version("triton-augment")
    except PackageNotFoundError:
        return f"its package is missing: {INSTALL}"
    return None if f"{found}.".startswith(f"{SERIES}.") else f"it needs triton-augment {SERIES}, not {found}: {INSTALL}"


def _is_interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


# ---- a recipe as calls ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Call:
    """Neighbouring ops that one module of the package does."""

    ops: tuple[Op, ...]
    module: nn.Module

    def __call__(self, images: Tensor) -> Tensor:
        """Images float [B, 3, H, W] in [0, 1], contiguous."""
        _check_size(self.ops, images)
        result: Tensor = self.module(images)
        return result


def plan(recipe: Sequence[Op]) -> tuple[Call, ...]:
    """The recipe in calls, as few as the kernel's order allows. Raises UnsupportedOp where the package cannot be imported."""
    groups: list[list[Op]] = []
    for op in recipe:
        if groups and _follows(op, groups[-1][-1]):
            groups[-1].append(op)
        else:
            groups.append([op])
    if not groups:
        return ()
    package = _imported(groups[0][0])
    return tuple(Call(tuple(group), _module(package, group)) for group in groups)


def _follows(op: Op, last: Op) -> bool:
    before, here = PARTS[last.name].places, PARTS[op.name].places
    return before is not None and here is not None and before[1] < here[0]


def _imported(op: Op) -> Any:
    os.environ.setdefault("TRITON_AUGMENT_SUPPRESS_FIRST_RUN_MESSAGE", "1")  # else it searches Triton's cache, and prints
    try:
        return importlib.import_module(NAME)
    except ImportError as error:
        raise UnsupportedOp(op.name, NAME, f"its package cannot be imported ({error}): {INSTALL}") from error


def _module(package: Any, group: Sequence[Op]) -> nn.Module:
    if len(group) == 1:
        part = PARTS[group[0].name]
        alone: nn.Module = getattr(package, part.kind)(**part.arguments(group[0]))
        return alone
    arguments: dict[str, Any] = {}
    for op in group:
        part = PARTS[op.name]
        arguments |= {part.renamed.get(name, name): value for name, value in part.arguments(op).items()}
    fused: nn.Module = package.TritonFusedAugment(**arguments)
    return fused


def _check_size(group: Sequence[Op], images: Tensor) -> None:
    height, width = images.shape[2:]
    sides = [op.size for op in group if isinstance(op, ops.RandomCrop | ops.CenterCrop)]
    if sides and max(sides) > min(height, width):
        raise ValueError(
            f"images must be at least {max(sides)} x {max(sides)} for a crop without padding, got {height} x {width}"
        )


class OnCpu(Tensor):
    """A tensor of the CPU that passes for one on CUDA, which the package insists on, for Triton's interpreter."""

    is_cuda = True


def compose(recipe: Sequence[Op], *, generator: torch.Generator | None, **others: object) -> Runner:
    """The recipe as a runner for ``augment.compose.Pipeline``. The package draws from the device's global generator.

    ``others`` change nothing: it mixes no labels, computes in the float type of its input and knows one layout.
    """
    return runner(plan(recipe), generator)


def runner(calls: Sequence[Callable[[Tensor], Tensor]], generator: torch.Generator | None) -> Runner:
    """The calls on images made float and contiguous: the kernels read every layout as if it were that one.

    It raises ValueError for batches that the kernels cannot count, and for images smaller than a crop.
    """

    def run(images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if images.numel() > MOST_VALUES:
            raise ValueError(f"triton-augment takes at most {MOST_VALUES} values a batch, got {images.numel()}")
        with library_rng(generator, images.device):
            return run_all(calls, to_float(images).contiguous()), labels

    return run


def run_all(calls: Sequence[Callable[[Tensor], Tensor]], images: Tensor) -> Tensor:
    """The calls one after the other."""
    current: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if images.is_cuda:
        current = torch.cuda.device_of(images)  # Triton launches on the current device
    elif _is_interpreted():
        images = images.as_subclass(OnCpu)
    with current:
        for call in calls:
            images = call(images)
    return images.as_subclass(Tensor)
