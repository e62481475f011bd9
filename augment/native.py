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

from augment import geometry, native_build, ops, passes, stages, threads
from augment.ops import Op
from augment.passes import Pass
from augment.sampling import Params

VALUES_A_THREAD = 96 * 1024
"""Values of a batch for which another thread pays: with fewer, handing them over takes as long as the work (60 us measured)."""
LIGHT_VALUES_A_THREAD = 4 * VALUES_A_THREAD
"""The same where pixels are only moved, erased and normalised."""

TYPES = {getattr(torch, name): number for number, name in enumerate(native_build.TYPES)}
"""Types of drawn numbers that the library reads; others are converted."""

PIXELS = {getattr(torch, name): number for number, name in enumerate(native_build.PIXELS)}
"""Types of images that the library reads and writes."""

ERASING = (ops.RandomErasing, ops.Cutout)


class _Drawn(ctypes.Structure):
    _fields_ = (("values", ctypes.c_void_p), ("type", ctypes.c_int32))


class _Batch(ctypes.Structure):
    _fields_ = (("values", ctypes.c_void_p), ("type", ctypes.c_int32), ("is_interleaved", ctypes.c_int32))


class _Pass(ctypes.Structure):
    _fields_ = (
        ("sizes", ctypes.c_int32 * 6), ("first_drawn", ctypes.c_int32), ("move_count", ctypes.c_int32),
        ("step_count", ctypes.c_int32), ("moves", ctypes.c_void_p), ("steps", ctypes.c_void_p),
    )  # fmt: skip


def takes(images: Tensor, params: Sequence[Params]) -> bool:
    """Whether the library may be asked: plain images on a CPU, no gradients wanted, and a compiler was there."""
    if type(images) is not Tensor or images.device.type != "cpu" or images.dtype not in PIXELS:
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

    def apply(self, images: Tensor, params: Sequence[Params], dtype: torch.dtype | None = None) -> Tensor | None:
        """Images contiguous or channels_last -> contiguous ``dtype`` in memory of its own; ``params`` are the whole recipe's.

        Without a ``dtype`` float32, but None where bytes can stay bytes: tensor kernels move those. None also for parameters
        that are not those of this batch.
        """
        batch, _, height, width = images.shape
        if images.dtype == torch.uint8 and not self.makes_float and dtype in (None, torch.uint8):
            return None
        program = _program(self.passes, height, width)
        drawn = [params[index][name] for index, name in program.needed]
        if any(value.numel() != batch * size for value, size in zip(drawn, program.drawn_sizes, strict=True)):
            return None
        drawn = [
            (value if value.dtype in TYPES and name != "noise" else value.to(torch.float32)).contiguous()
            for value, (_, name) in zip(drawn, program.needed, strict=True)
        ]
        if not (images.is_contiguous() or images.is_contiguous(memory_format=torch.channels_last)):
            images = images.contiguous()
        dtype = dtype if dtype in PIXELS else torch.float32
        result = images.new_empty((batch, 3, *program.result_size), dtype=dtype)
        values = max(images.numel(), result.numel())
        parts = values // (LIGHT_VALUES_A_THREAD if self.is_light else VALUES_A_THREAD)
        _call(program, images, drawn, result, min(parts, threads.at_hand()))
        return result


def runs(recipe: Sequence[Op]) -> tuple[Run, ...]:
    """The stretches of a recipe that the library can do. A pass that mixes images starts one: it needs all of them at once."""
    found: list[list[Pass]] = [[]]
    for one in passes.passes(recipe):
        if one.mixes:
            found.append([one])
        else:
            found[-1].append(one)
    return tuple(_run_of(tuple(each), recipe) for each in found if each)


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
        sizes += passes.sizes(one, height, width)
        height, width = one.output_size(height, width)
    return _Program((_Pass * len(structures))(*structures), tuple(needed), tuple(sizes), (height, width), tuple(alive))


def _table(records: Sequence[passes.Record], width: int) -> ctypes.Array[ctypes.c_double]:
    """Records one after the other, filled up with zeros."""
    numbers = [float(each) for record in records for each in (*record, *[0] * (width - len(record)))]
    return (ctypes.c_double * max(len(numbers), 1))(*numbers)


def _call(program: _Program, images: Tensor, drawn: Sequence[Tensor], result: Tensor, parts: int) -> None:
    library = native_build.library()
    assert library is not None
    given = (_Drawn * max(len(drawn), 1))(*[_Drawn(each.data_ptr(), TYPES[each.dtype]) for each in drawn])
    batch, count, type, target = len(images), len(program.passes), PIXELS[result.dtype], result.data_ptr()
    source = _Batch(images.data_ptr(), PIXELS[images.dtype], not images.is_contiguous())

    def work(part: range) -> None:  # without Python's lock, as ctypes calls
        if library.augment_images(
            program.passes, count, given, ctypes.byref(source), batch, part.start, part.stop, type, target
        ):
            raise MemoryError("no memory for the work on one image")

    threads.share(work, batch, parts)
