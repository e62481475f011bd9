"""The fused backend on a CPU in C: each image goes through all passes while it lies in the processor's cache.

A ``Stretch`` of passes is one call of ``images.c``; ``draw`` is the sampling kernel. The library is built once a machine
(``fused.build``); what it does not accept, tensor operations do.
"""

import ctypes
import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import torch
from torch import Tensor

from augment.distributions import Params
from augment.fused import build
from augment.fused.passes import MoveRecord, Pass, Sizes, StepRecord, StretchRecord, check_sizes, encode_stretch
from augment.fused.sample import Program, Sampler, draw_matrix, fill

VALUES_A_THREAD = 96 * 1024
"""Values of a batch for which another thread pays: with fewer, handing them over takes as long as the work (60 us measured)."""
LIGHT_VALUES_A_THREAD = 4 * VALUES_A_THREAD
"""Values for another thread where pixels are only moved, erased and normalised."""

TYPES = {getattr(torch, name): number for number, name in enumerate(build.TYPES)}
"""Types of drawn numbers that the library reads; others are converted."""

PIXELS = {getattr(torch, name): number for number, name in enumerate(build.PIXELS)}
"""Types of images that the library reads and writes."""


def accepts(images: Tensor, params: Sequence[Params]) -> bool:
    """Return whether the library can be used: plain images on a CPU, no gradients wanted, and a compiler was there."""
    if type(images) is not Tensor or images.device.type != "cpu" or images.dtype not in PIXELS:
        return False
    drawn = [value for values in params for value in values.values()]
    if any(value.device != images.device for value in drawn):
        return False  # addresses of another device
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (images, *drawn)):
        return False
    return build.library() is not None


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """Passes that one call does. Compared by identity."""

    passes: tuple[Pass, ...]
    keeps_uint8: bool
    is_light: bool

    def apply(self, images: Tensor, params: Sequence[Params], dtype: torch.dtype | None = None) -> Tensor:
        """Apply the passes to images that ``accepts`` took: contiguous ``dtype`` in memory of its own.

        ``params`` are the whole recipe's. Without a ``dtype`` float32, or uint8 if bytes stay bytes. Raises ValueError for
        parameters that do not fit the images.
        """
        batch, _, height, width = images.shape
        record, passes = _encode(self, height, width)
        drawn = [params[index][name] for index, name in record.parameters]
        check_sizes(images, drawn, record.numbers)
        drawn = [
            (value if value.dtype in TYPES and name != "noise" else value.to(torch.float32)).contiguous()
            for value, (_, name) in zip(drawn, record.parameters, strict=True)
        ]
        if not (images.is_contiguous() or images.is_contiguous(memory_format=torch.channels_last)):
            images = images.contiguous()
        if dtype not in PIXELS:
            dtype = torch.uint8 if self.keeps_uint8 and images.dtype == torch.uint8 else torch.float32
        result = images.new_empty((batch, 3, *record.passes[-1].sizes[4:]), dtype=dtype)
        values = max(images.numel(), result.numel())
        parts = values // (LIGHT_VALUES_A_THREAD if self.is_light else VALUES_A_THREAD)
        _call(passes, images, drawn, result, min(parts, torch.get_num_threads()))
        return result


def stretch(passes: tuple[Pass, ...]) -> Stretch:
    """Prepare passes for one call."""
    parts = [part for step in passes for part in step.parts]
    keeps_uint8 = all(part.kind.keeps_uint8(part.op) for part in parts)
    return Stretch(passes, keeps_uint8, all(part.kind.move or part.kind.change in ("erase", "normalize") for part in parts))


# ---- calls into the library -------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def _encode(stretch: Stretch, height: int, width: int) -> tuple[StretchRecord, "ctypes.Array[build.Pass]"]:
    """Return passes for images of one size, and the same as the library reads them."""
    record = encode_stretch(stretch.passes, height, width)
    passes = (build.Pass * len(record.passes))()
    for place, step in zip(passes, record.passes, strict=True):
        place.sizes = build.structure(Sizes)(*step.sizes)
        place.move_count, place.step_count = len(step.moves), len(step.steps)
        place.moves, place.steps = _array(MoveRecord, step.moves), _array(StepRecord, step.steps)
    return record, passes


def _array(record: type, records: Sequence[tuple[object, ...]]) -> "ctypes.Array[ctypes.Structure]":
    structure = build.structure(record)
    return (structure * max(len(records), 1))(*[structure(*values) for values in records])


def _call(passes: "ctypes.Array[build.Pass]", images: Tensor, drawn: Sequence[Tensor], result: Tensor, parts: int) -> None:
    library = build.library()
    assert library is not None
    numbers = (build.Drawn * max(len(drawn), 1))(*[build.Drawn(value.data_ptr(), TYPES[value.dtype]) for value in drawn])
    batch, count, pixels, target = len(images), len(passes), PIXELS[result.dtype], result.data_ptr()
    source = build.Batch(images.data_ptr(), PIXELS[images.dtype], not images.is_contiguous())

    def work(part: range) -> None:  # without Python's lock, as ctypes calls
        if library.augment_images(passes, count, numbers, ctypes.byref(source), batch, part.start, part.stop, pixels, target):
            raise MemoryError("no memory for the work on one image")

    share(work, batch, parts)


def share(work: Callable[[range], None], count: int, parts: int) -> None:
    """Call ``work`` on the numbers 0 .. count - 1, in ``parts`` at once by as many threads."""
    parts = max(min(parts, count), 1)
    ranges = [range(count * i // parts, count * (i + 1) // parts) for i in range(parts)]
    futures = [_pool(os.getpid(), torch.get_num_threads()).submit(work, part) for part in ranges[1:]]
    try:
        work(ranges[0])
    finally:
        wait(futures)  # also after an error: they write where the caller's memory is
    for future in futures:
        future.result()


@functools.lru_cache(maxsize=4)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    # By process: a forked loader worker inherits the pool, but not its threads.
    return ThreadPoolExecutor(threads, thread_name_prefix="augment")


# ---- draws ------------------------------------------------------------------------------------------------------------


def draw(program: Program, uniforms: Tensor, tables: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """Compute parameters from uniform numbers in one call; stand-ins without memory by tensor operations."""
    library = build.library()
    if library is None or type(uniforms) is not Tensor:
        fill(program, uniforms, tables, outputs)
        return
    pointers = [tensor.data_ptr() for tensors in (tables, outputs) for tensor in tensors]
    addresses = (ctypes.c_void_p * len(pointers))(*pointers)
    records = _records(program, len(tables))
    library.draw_parameters(records, len(records), uniforms.data_ptr(), addresses, uniforms.shape[1])


@functools.lru_cache(maxsize=256)
def _records(program: Program, tables: int) -> "ctypes.Array[ctypes.Structure]":
    """Return the records of a program; outputs are counted behind the tables, as addresses lie."""
    return _array(type(program.records[0]), [r._replace(output=r.output + tables) for r in program.records])


SAMPLER = Sampler(draw_matrix, draw)
"""The sampling kernel of the CPU."""
