"""The fused backend's passes on a CPU in C: each image goes through all of a recipe while it lies in the processor's cache.

``runs`` cuts a recipe into stretches of ops that ``native.c`` can do, as ``augment.passes`` puts them; ``augment.fused`` sends
images through them and does everything else, and whatever a run refuses, by tensor kernels, which are the definition.
``augment.native_build`` makes the library, once a machine.
"""

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from augment import geometry, native_build, ops, passes, policies, stages, threads
from augment.compose import to_float
from augment.ops import Op
from augment.passes import Pass
from augment.sampling import Params

VALUES_A_THREAD = 96 * 1024
"""Values of a batch for which another thread pays: with fewer, handing them over takes as long as the work (60 us measured)."""
LIGHT_VALUES_A_THREAD = 4 * VALUES_A_THREAD
"""The same where pixels are only moved, erased and normalised."""

TYPES = {getattr(torch, name): number for number, name in enumerate(native_build.TYPES)}
"""Types of drawn numbers that the library reads; others are converted."""

SIZES = {"order": 4, "factors": 4, "arguments": policies.ARGUMENTS}
"""Numbers that are drawn for an image, or for each op of its policy, by parameter; 1 for all others."""

ERASING = (ops.RandomErasing, ops.Cutout)


class _Drawn(ctypes.Structure):
    _fields_ = (("values", ctypes.c_void_p), ("type", ctypes.c_int32))


class _Pass(ctypes.Structure):
    _fields_ = (
        ("sizes", ctypes.c_int32 * 6), ("first_drawn", ctypes.c_int32), ("move_count", ctypes.c_int32),
        ("step_count", ctypes.c_int32), ("moves", ctypes.c_void_p), ("steps", ctypes.c_void_p),
    )  # fmt: skip


def takes(images: Tensor, params: Sequence[Params]) -> bool:
    """Whether the library may be asked: plain images on a CPU, no gradients wanted, and a compiler was there."""
    if type(images) is not Tensor or images.device.type != "cpu":
        return False
    drawn = [value for each in params for value in each.values()]
    if any(each.device != images.device for each in drawn):
        return False  # addresses of another device
    if torch.is_grad_enabled() and any(each.requires_grad for each in (images, *drawn)):
        return False
    return native_build.library() is not None


@dataclass(frozen=True, slots=True)
class Run:
    """Ops ``start`` .. ``end`` - 1 of a recipe, which these passes do."""

    start: int
    end: int
    passes: tuple[Pass, ...]
    makes_float: bool
    is_light: bool

    def apply(self, images: Tensor, params: Sequence[Params]) -> Tensor | None:
        """uint8 or float32 contiguous images -> float32 in memory of its own; ``params`` are those of the whole recipe.

        None where tensor kernels are for it: bytes that stay bytes, and parameters that are not those of this batch.
        """
        batch, _, height, width = images.shape
        if images.dtype == torch.uint8 and not self.makes_float:
            return None
        program = _program(self.passes, height, width)
        drawn = [params[index][name] for index, name in program.needed]
        if any(value.numel() != batch * size for value, size in zip(drawn, program.drawn_sizes, strict=True)):
            return None
        drawn = [(value if value.dtype in TYPES else value.to(torch.float32)).contiguous() for value in drawn]
        result = images.new_empty((batch, 3, *program.result_size), dtype=torch.float32)
        values = max(images.numel(), result.numel())
        parts = values // (LIGHT_VALUES_A_THREAD if self.is_light else VALUES_A_THREAD)
        _call(program, images, drawn, result, min(parts, threads.at_hand()))
        return result


@dataclass(frozen=True, slots=True)
class Chains:
    """An AugMix, op ``start``: the library does its chains, one after the other, each as it does a policy's ops."""

    start: int
    end: int
    chain: Run

    def apply(self, images: Tensor, params: Sequence[Params]) -> Tensor | None:
        """As ``Run.apply``."""
        drawn = params[self.start]
        images = to_float(images)
        own, *weights = drawn["weights"][:, :, None, None, None].unbind(1)
        result = images * own
        for weight, kernel, arguments in zip(weights, drawn["kernel"].unbind(1), drawn["arguments"].unbind(1), strict=True):
            changed = self.chain.apply(images, [{"kernel": kernel, "arguments": arguments}])
            if changed is None:
                return None
            result.addcmul_(changed, weight)
            del changed  # else it stays beside the next one
        return result


def runs(recipe: Sequence[Op]) -> tuple[Run | Chains, ...]:
    """The stretches of a recipe that the library can do. A pass that mixes images starts one: it needs all of them at once."""
    found: list[list[Pass]] = [[]]
    chains: list[Run | Chains] = []
    for one in passes.passes(recipe):
        if not isinstance(one, Pass):
            found.append([])
            if isinstance(one.op, ops.AugMix):
                chains.append(Chains(one.index, one.index + 1, _chain()))
        elif one.sampler is not None and isinstance(one.sampler.op, stages.MIXING):
            found.append([one])
        else:
            found[-1].append(one)
    return tuple(sorted([_run_of(tuple(each), recipe) for each in found if each] + chains, key=lambda each: each.start))


def _chain() -> Run:
    """Three ops of a policy, drawn beforehand: what AugMix puts into each chain."""
    three = ops.RandAugment(num_ops=3)
    return _run_of(tuple(one for one in passes.passes([three]) if isinstance(one, Pass)), [three])


def _run_of(some: tuple[Pass, ...], recipe: Sequence[Op]) -> Run:
    parts = [part for one in some for part in (*one.moves, one.sampler, *one.mirrors, *one.colours) if part is not None]
    start, end = min(part.index for part in parts), max(part.index for part in parts) + 1
    is_light = all(isinstance(op, (*stages.EXACT, *ERASING, ops.Normalize)) for op in recipe[start:end])
    return Run(start, end, some, not all(_stays_bytes(op) for op in recipe[start:end]), is_light)


def _stays_bytes(op: Op) -> bool:
    """Whether tensor kernels leave bytes bytes; a resized crop does where it is large."""
    is_black = isinstance(op, ERASING) and getattr(op, "value", 0.0) == 0
    is_large = isinstance(op, ops.RandomResizedCrop) and op.size**2 >= geometry.LARGE
    return is_black or is_large or isinstance(op, (*stages.EXACT, ops.CutMix))


# ---- calls into the library -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Program:
    """Passes for images of one size as the library reads them, and what was drawn that it needs, in its order."""

    passes: ctypes.Array[_Pass]
    needed: tuple[tuple[int, str], ...]
    drawn_sizes: tuple[int, ...]
    result_size: tuple[int, int]
    alive: tuple[object, ...]
    """Memory that ``passes`` points to."""


@functools.lru_cache(maxsize=256)
def _program(some: tuple[Pass, ...], height: int, width: int) -> _Program:
    structures: list[_Pass] = []
    needed: list[tuple[int, str]] = []
    sizes: list[int] = []
    alive: list[object] = []
    for one in some:
        encoded = passes.encode(one, height, width)
        moves, steps = _table(encoded.moves, 4), _table(encoded.steps, 13)
        counts = (len(needed), len(encoded.moves), len(encoded.steps))
        structures.append(
            _Pass((ctypes.c_int32 * 6)(*encoded.sizes), *counts, ctypes.addressof(moves), ctypes.addressof(steps))
        )
        alive += [moves, steps]
        needed += one.parameters()
        sizes += _sizes(one)
        height, width = one.output_size(height, width)
    return _Program((_Pass * len(structures))(*structures), tuple(needed), tuple(sizes), (height, width), tuple(alive))


def _table(records: Sequence[passes.Record], width: int) -> ctypes.Array[ctypes.c_double]:
    """Records one after the other, filled up with zeros."""
    numbers = [float(each) for record in records for each in (*record, *[0] * (width - len(record)))]
    return (ctypes.c_double * max(len(numbers), 1))(*numbers)


def _sizes(one: Pass) -> list[int]:
    """Numbers for each image in each of the pass's parameters."""
    places = {part.index: passes.places(part.op) for part in (*one.moves, *one.colours, *one.mirrors)}
    return [places.get(index, 1) * SIZES.get(name, 1) for index, name in one.parameters()]


def _call(program: _Program, images: Tensor, drawn: Sequence[Tensor], result: Tensor, parts: int) -> None:
    library = native_build.library()
    assert library is not None
    given = (_Drawn * max(len(drawn), 1))(*[_Drawn(each.data_ptr(), TYPES[each.dtype]) for each in drawn])
    is_bytes, batch, count = images.dtype == torch.uint8, len(images), len(program.passes)
    source, target = images.data_ptr(), result.data_ptr()

    def work(part: range) -> None:  # without Python's lock, as ctypes calls
        if library.augment_images(program.passes, count, given, source, is_bytes, batch, part.start, part.stop, target):
            raise MemoryError("no memory for the work on one image")

    threads.share(work, batch, parts)
