"""The package ``triton-augment``: neighbouring ops that stand in its order are one call of its fused kernel.

Its order is rotate or affine, crop, flip, brightness, contrast, saturation, grey, normalise. An op by itself is done by the
package's own class for it. The package is an optional extra, imported when a pipeline is built, and runs on CUDA; where Triton
interprets its kernels (``TRITON_INTERPRET=1``) it takes tensors of the CPU, which shows what it computes and not how fast.
``docs/semantics.md`` lists where it differs from the definitions. Its functionals are given what it draws, so the recorder
watches them.
"""

import contextlib
import importlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from augment.backends import Backend, OptionalPackage, PlanRecorder, check_supported
from augment.distributions import Chance
from augment.op import Cell, Op, Read, UnsupportedOp
from augment.pipeline import Runner, to_float, with_generator
from augment.replay import Columns, Traced

NAME = "triton_augment"
PACKAGE = OptionalPackage(
    name="triton-augment", prefix="triton-augment", series="0.3", extra="triton-augment", refuses="other", devices=("cuda",)
)
"""Older releases lack the affine part and fused calls without a crop."""
MOST_VALUES = 2**31 - 1
"""Largest batch, in values: the package's kernels count in 32 bits, and beyond that would read and write somewhere else."""
WATCHED = ("fused_augment", "crop", "horizontal_flip", "rgb_to_grayscale", "affine")
"""Functionals that the package's classes hand their draws to."""


@dataclass(frozen=True, slots=True)
class Part(Cell):
    """An op in the package's terms: ``build`` returns the arguments of its class ``kind``.

    ``places`` are the first and the last place that the op takes in the fused kernel's order, None if that kernel lacks it;
    ``renamed`` are arguments that the fused class names otherwise.
    """

    kind: str = ""
    places: tuple[int, int] | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)


def triton_augment(
    kind: str, arguments: Callable[[Any], dict[str, Any]], places: tuple[int, int] | None = None, *,
    renamed: Mapping[str, str] | None = None, refuses: Callable[[Any], str | None] = lambda op: None, **reads: Read,
) -> dict[str, Cell]:  # fmt: skip
    """Return a cell; ``reads`` are arguments of the package's functionals."""
    return {NAME: Part(arguments, reads, refuses, kind, places, renamed or {})}


def part(op: Op) -> Part:
    """Return the op in the package's terms."""
    cell: Part = op.cells[NAME]
    return cell


def why_not(device: torch.device) -> str | None:
    """Return why the package cannot run on the device; None if it can, also on a CPU that interprets its kernels."""
    on_cpu = device.type == "cpu" and _is_interpreted()
    return (replace(PACKAGE, devices=()) if on_cpu else PACKAGE).why_not(device)


def _is_interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


# ---- a recipe as calls ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Call:
    """Neighbouring ops that one module of the package does."""

    ops: tuple[Op, ...]
    module: nn.Module

    def __call__(self, images: Tensor) -> Tensor:
        """Apply the ops to images float [B, 3, H, W] in [0, 1], contiguous."""
        _check_size(self.ops, images)
        result: Tensor = self.module(images)
        return result


def plan(recipe: Sequence[Op]) -> tuple[Call, ...]:
    """Return the recipe in as few calls as the kernel's order allows. Raises UnsupportedOp without the package."""
    groups: list[list[Op]] = []
    for op in recipe:
        if groups and _follows(op, groups[-1][-1]):
            groups[-1].append(op)
        else:
            groups.append([op])
    if not groups:
        return ()
    package = _import_package(recipe[0])
    return tuple(Call(tuple(group), _module(package, group)) for group in groups)


def _follows(op: Op, last: Op) -> bool:
    before, places = part(last).places, part(op).places
    return before is not None and places is not None and before[1] < places[0]


def _import_package(op: Op) -> Any:
    os.environ.setdefault("TRITON_AUGMENT_SUPPRESS_FIRST_RUN_MESSAGE", "1")  # else it searches Triton's cache, and prints
    try:
        return importlib.import_module(NAME)
    except ImportError as error:
        raise UnsupportedOp(op.name, NAME, f"its package cannot be imported ({error}): {PACKAGE.install}") from error


def _module(package: Any, group: Sequence[Op]) -> nn.Module:
    if len(group) == 1:
        single: nn.Module = getattr(package, part(group[0]).kind)(**part(group[0]).build(group[0]))
        return single
    arguments: dict[str, Any] = {}
    for op in group:
        arguments |= {part(op).renamed.get(name, name): value for name, value in part(op).build(op).items()}
    fused: nn.Module = package.TritonFusedAugment(**arguments)
    return fused


def _check_size(group: Sequence[Op], images: Tensor) -> None:
    height, width = images.shape[2:]
    size = max(part(op).build(op).get("size", 0) for op in group)  # only crops have one
    if size > min(height, width):
        raise ValueError(f"images must be at least {size} x {size} for a crop without padding, got {height} x {width}")


class OnCpu(Tensor):
    """A tensor of the CPU that passes for one on CUDA, which the package insists on, for Triton's interpreter."""

    is_cuda = True


def make_runner(calls: Sequence[Callable[[Tensor], Tensor]]) -> Runner:
    """Return a runner of calls on images made float and contiguous: the kernels read every layout as if it were that one.

    The runner raises ValueError for batches that the kernels cannot count, and for images smaller than a crop.
    """

    def run(images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if images.numel() > MOST_VALUES:
            raise ValueError(f"triton-augment takes at most {MOST_VALUES} values a batch, got {images.numel()}")
        return run_calls(calls, to_float(images).contiguous()), labels

    return run


def run_calls(calls: Sequence[Callable[[Tensor], Tensor]], images: Tensor) -> Tensor:
    """Run one call after the other."""
    current: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if images.is_cuda:
        current = torch.cuda.device_of(images)  # Triton launches on the current device
    elif _is_interpreted():
        images = images.as_subclass(OnCpu)
    with current:
        for call in calls:
            images = call(images)
    return images.as_subclass(Tensor)


# ---- what is drawn ----------------------------------------------------------------------------------------------------

Arguments = Mapping[str, Any]
"""The arguments of a functional by name."""


@contextlib.contextmanager
def watch_functionals(*, without_pixels: bool = False) -> Iterator[list[Arguments]]:
    """Record the arguments of the functionals while the block runs; ``without_pixels`` makes them return their images."""
    functional = importlib.import_module(f"{NAME}.functional")
    recorded: list[Arguments] = []

    def watch(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*args: Any, **kwargs: Any) -> Tensor:
            recorded.append(inspect.signature(original).bind(*args, **kwargs).arguments)
            image: Tensor = args[0]
            return image if without_pixels else original(*args, **kwargs)

        return call

    with contextlib.ExitStack() as stack:
        for name in WATCHED:
            stack.enter_context(mock.patch.object(functional, name, watch(getattr(functional, name))))
        yield recorded


def read(op: Op, recorded: Sequence[Arguments], count: int) -> Columns:
    """Return one op's draws from the arguments of its call's functional; without a call no image is changed."""
    names = (*op.drawn_names, *(("applied",) if Chance() in op.draws else ()))
    drawn = part(op).read(names, recorded[-1]) if recorded else {}
    columns = {name: values.double().cpu().numpy() for name, values in drawn.items() if values is not None}
    applied = columns.get("applied", np.full(count, Chance() not in op.draws))
    return {**columns, "applied": applied.astype(bool)}


def _recorder(op: Op, call: Call, device: torch.device) -> PlanRecorder:
    def draw(count: int, shape: tuple[int, int]) -> list[Arguments]:
        images = torch.empty(1, device=device).expand(count, 3, *shape)  # nothing reads a pixel
        with watch_functionals(without_pixels=True) as recorded:
            run_calls([call], images)
        return recorded

    return PlanRecorder(lambda recorded, count: read(op, recorded, count), draw, call=())


@dataclass(frozen=True, kw_only=True)
class TritonAugmentBackend(Backend):
    """The package as a backend. It mixes no labels, computes in the float type of its input and knows one layout."""

    def compose(self, ops: Sequence[Op], *, generator: torch.Generator | None, **options: Any) -> Runner:
        return with_generator(make_runner(plan(ops)), generator)

    def trace(self, ops: Sequence[Op], *, device: torch.device, num_classes: int) -> Traced:
        check_supported(ops, self.name, device=device)
        calls = plan(ops)
        recorders = [[_recorder(op, call, device) for op in call.ops] for call in calls]

        def watch(call: Call, recorders: Sequence[PlanRecorder]) -> Callable[[Tensor], Tensor]:
            def run(images: Tensor) -> Tensor:
                with watch_functionals() as recorded:
                    result = call(images)
                for recorder in recorders:
                    recorder.call = recorded
                return result

            return run

        run = make_runner([watch(*pair) for pair in zip(calls, recorders, strict=True)])
        return Traced(self.pipeline(ops, run), [recorder for group in recorders for recorder in group])


BACKENDS = (
    TritonAugmentBackend(
        name=NAME, library=NAME, lane="per_image", order=100, floats_only=True, why_not=why_not,
        about="the package triton-augment: ops in its order are one fused kernel, on CUDA",
    ),
)  # fmt: skip
