"""The fused backend on CUDA: a plan's passes through Triton's kernels, as an op that ``torch.compile`` takes whole.

Nothing waits for the device, and all memory comes from PyTorch's allocator: calls can be captured in CUDA graphs once a first
one has compiled the kernels.

Launches: one for each stretch of passes, at any size of image and batch, and a stretch ends only before an op that mixes
images; so one for every recipe and every op, beside two for its draws. A single pass that measures nothing of large images has
a program a tile, all else a program an image, so that a few large images leave processors idle; more launches would spare some
of that time and cost the host its own. Between passes there is one float copy of the batch at most: if a program needs several
buffers (three passes or more, or AugMix, of images larger than ``triton_images.WHOLE`` pixels), there are fewer programs than
images.
"""

import functools
import itertools
import math
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton import next_power_of_2
from triton.errors import TritonError

from augment import policies
from augment.distributions import Params
from augment.fused import triton_images as kernels
from augment.fused.kinds import SAMPLERS
from augment.fused.launches import Prepared, keep, signature
from augment.fused.passes import Pass, PassRecord, check_sizes, encode, passes, split_blur, split_chains, stretches
from augment.fused.plans import Plan
from augment.fused.sample import encode as encode_draws
from augment.fused.triton_draws import Key, no_keys, take_key


@functools.cache
def check(device: torch.device) -> None:
    """Run a kernel on one pixel. Raises RuntimeError or OSError if Triton cannot build or launch kernels for the device."""
    pixel = torch.zeros(1, 3, 1, 1, dtype=torch.float32, device=device)
    try:
        _stretch_apply((Pass(),))(pixel, [], torch.float32, torch.contiguous_format)
    except (subprocess.SubprocessError, TritonError) as error:  # of its C compiler, of its own
        raise RuntimeError(str(error)) from error


_NAMED: dict[str, tuple[Pass, ...]] = {}
"""Passes by name: an op's arguments are tensors and plain values."""


def apply_plan(
    plan: Plan, dtype: torch.dtype, memory_format: torch.memory_format = torch.contiguous_format
) -> Callable[[Tensor, Sequence[Params]], Tensor]:
    """Return ``Plan.apply`` by Triton's kernels; the result is ``dtype`` and ``memory_format``, in memory of its own.

    Images are [B, 3, H, W] uint8 or float in any memory layout; they are not changed.
    """
    applies = [_stretch_apply(stretch) for stretch in _cut(plan, dtype)]

    def apply(images: Tensor, params: Sequence[Params]) -> Tensor:
        plan.check(images, params)
        for run in applies[:-1]:
            images = run(images, params, torch.float32, torch.contiguous_format)
        for run in applies[-1:]:
            images = run(images, params, dtype, memory_format)
        return images

    return apply


def _cut(plan: Plan, dtype: torch.dtype) -> list[tuple[Pass, ...]]:
    """Return a plan's passes in stretches, one for each launch."""
    steps = [part for step in passes(plan.ops, is_rounded=dtype == torch.uint8) for part in split_blur(step)]
    return stretches(steps)


StretchApply = Callable[[Tensor, Sequence[Params], torch.dtype, torch.memory_format], Tensor]


def _stretch_apply(stretch: tuple[Pass, ...]) -> StretchApply:
    name = repr(stretch)
    _NAMED[name] = stretch
    parameters = [parameter for step in stretch for parameter in step.parameters()]

    def apply(images: Tensor, params: Sequence[Params], dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
        drawn = [params[index][key] for index, key in parameters]
        run = image_passes_op if torch.compiler.is_compiling() else image_passes
        result: Tensor = run(images, drawn, name, dtype, memory_format == torch.channels_last)
        return result

    return apply


def image_passes(images: Tensor, params: Sequence[Tensor], name: str, dtype: torch.dtype, channels_last: bool) -> Tensor:
    """Apply passes to [B, 3, H, W] images: a new tensor of ``dtype``. ``name`` is the ``repr`` of passes in ``_NAMED``."""
    out = _empty(images, name, dtype, channels_last)
    check_sizes(images, params, _sizes(name, *images.shape[2:]))
    if _is_wide(images):
        images = images.contiguous()
    if len(images):
        _launch(name, images, tuple(drawn.contiguous() for drawn in params), out)
    return out


image_passes_op = torch.library.custom_op("augment::image_passes", image_passes, mutates_args=())
"""Look the draws up within a graph of ``torch.compile``."""


def _is_wide(images: Tensor) -> bool:
    """Return whether places within an image need more than the 32 bits in which kernels count."""
    return sum((side - 1) * stride for side, stride in zip(images.shape[1:], images.stride()[1:], strict=True)) >= 2**31


@image_passes_op.register_fake
def _(images: Tensor, params: Sequence[Tensor], name: str, dtype: torch.dtype, channels_last: bool) -> Tensor:
    return _empty(images, name, dtype, channels_last)


@functools.lru_cache(maxsize=256)
def _sizes(name: str, height: int, width: int) -> tuple[int, ...]:
    sizes: list[int] = []
    for step in _NAMED[name]:
        sizes += step.parameter_sizes(height, width)
        height, width = step.output_size(height, width)
    return tuple(sizes)


def _empty(images: Tensor, name: str, dtype: torch.dtype, channels_last: bool) -> Tensor:
    batch, _, height, width = images.shape
    for step in _NAMED[name]:
        height, width = step.output_size(height, width)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((batch, 3, height, width), dtype=dtype, device=images.device, memory_format=layout)


# ---- launches ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Layout:
    """Passes for images of one size, and the memory of a program that takes an image through all of them.

    ``tile``: pixels that a program holds at once; ``buffers`` of ``room`` numbers for images between passes, ``count`` numbers
    for what is measured.
    """

    chain: tuple[PassRecord, ...]
    tile: int
    buffers: int
    room: int
    count: int

    @property
    def is_tiled(self) -> bool:
        """Return whether a program does a tile, not an image: one pass, or passes of large images without chains of ops."""
        is_large = _most_pixels(self.chain) > self.tile
        return len(self.chain) == 1 and not self.buffers or is_large and not any(record.chain_op for record in self.chain)


def _plain(value: Any) -> Any:
    """Return a record without names of fields, which Triton does not keep."""
    return tuple(map(_plain, value)) if isinstance(value, tuple) else value


def _most_pixels(chain: Sequence[PassRecord]) -> int:
    return max((record.pixels for record in chain), default=0)


@functools.lru_cache(maxsize=256)
def _layout(name: str, height: int, width: int, whole: int, tile: int) -> Layout:
    """Lay out the passes of that name. Programs hold images of up to ``whole`` pixels, ``tile`` pixels of larger ones."""
    stretch = _NAMED[name]
    chain = _encode_all(stretch, height, width)
    if _most_pixels(chain) <= whole:
        tile = kernels.tile(_most_pixels(chain), True)
    else:
        split = [split_chains(step) if record.pixels > tile else (step,) for step, record in zip(stretch, chain, strict=True)]
        chain = _encode_all([part for parts in split for part in parts], height, width)
    chain_ops = [record.chain_op for record in chain if record.chain_op]
    room = 3 * max(_most_pixels(chain[:-1]), _most_pixels(chain_ops))
    buffers = 4 if _most_pixels(chain_ops) > tile else 2 if len(chain) > 2 and _most_pixels(chain) > tile else int(room > 0)
    return Layout(tuple(chain), tile, buffers, room, max(r.measured for r in (*chain, *chain_ops)))


def _encode_all(stretch: Sequence[Pass], height: int, width: int) -> list[PassRecord]:
    chain: list[PassRecord] = []
    first = 0
    for step in stretch:
        chain.append(encode(step, height, width, first))
        height, width = step.output_size(height, width)
        first += len(step.parameters())
    return chain


class InlineDraws(NamedTuple):
    """Draws inside a launch: constants of kernels, floats that a program needs, numbers an image takes, and tables."""

    constants: tuple[Any, ...] = ()
    floats: int = 0
    count: int = 0
    tables: tuple[Tensor, ...] = ()


def _inline(plan: Plan, name: str, images: Tensor, classes: int) -> InlineDraws:
    program = encode_draws(plan.ops, *images.shape[2:])
    if not program.records and not program.noises:
        return InlineDraws()
    count = 2 if _NAMED[name][0].mixes else 1
    sizes = [count * math.prod(output.shape) for output in program.outputs]
    write = tuple(itertools.accumulate(sizes, initial=count * program.rows))  # behind the uniform numbers
    places = {(output.index, output.name): place for output, place in zip(program.outputs, write, strict=False)}
    for (index, noise), block in zip(program.noises, program.noise_blocks, strict=False):
        places[index, noise.name] = -1 - block
    read = tuple(places[parameter] for step in _NAMED[name] for parameter in step.parameters()) or (0,)
    lam = next((places[index, "lam"] for index, op in enumerate(plan.ops) if op.mixes_labels), 0)
    lanes = next_power_of_2(max(count * program.rows, 1))
    inline = kernels.Inline(program.records, write[:-1] or (0,), read, count, program.rows, lanes, lam, classes)
    tables = tuple(table for policy in program.tables for table in policies.tables(*policy, images.device))
    return InlineDraws(_plain(inline), write[-1], 4 * program.noise_blocks[-1], tables)


@dataclass(frozen=True, slots=True)
class PassLaunch:
    """A launch of a kernel: ``scratch`` numbers; ``shape`` of the result; strides of both, batch and chunks as ``arguments``.

    ``measure``: a launch before it, with the same arguments.
    """

    launch: Prepared
    scratch: int
    shape: tuple[int, ...]
    arguments: tuple[Any, ...]
    measure: Prepared | None = None


@dataclass(frozen=True, slots=True)
class Launch:
    """Launches for images of one shape and layout, ready but for their memory and the state of a generator."""

    steps: tuple[PassLaunch, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return self.steps[-1].shape

    def run(self, images: Tensor, out: Tensor, drawn: tuple[Tensor, ...], tables: tuple[Tensor, ...], key: Key) -> None:
        """Launch with those tensors."""
        device, last = images.device, self.steps[-1]
        for step in self.steps:
            target = out if step is last else torch.empty(step.shape, dtype=torch.float32, device=device)
            scratch = torch.empty(step.scratch, dtype=torch.float32, device=device)
            arguments = (images, target, scratch, drawn, key.keys, tables, *step.arguments, key.seed, key.block)
            if step.measure is not None:
                step.measure(device, *arguments)
            step.launch(device, *arguments)
            images = target


def _prepare(name: str, images: Tensor, out: Tensor, inline: InlineDraws) -> Launch:
    layout = _layout(name, *images.shape[2:], kernels.WHOLE, kernels.TILE)
    if not layout.is_tiled:
        return Launch((_prepare_whole(layout, images, out, inline),))
    steps: list[PassLaunch] = []
    for place, record in enumerate(layout.chain):
        target = out
        if place < len(layout.chain) - 1:
            target = torch.empty((len(out), 3, *record.sizes[4:]), dtype=torch.float32, device="meta")
        steps.append(_prepare_tiles(record, images, target, inline))
        images = target
    return Launch(tuple(steps))


def _prepare_whole(layout: Layout, images: Tensor, out: Tensor, inline: InlineDraws) -> PassLaunch:
    """Prepare a program an image, as many as fit one float copy of the batch."""
    batch, first = len(images), layout.chain[0]
    programs = max(batch // max(layout.buffers, 1), 1)
    constants = {
        "chain": _plain(layout.chain), "inline": inline.constants, "numbers": inline.floats, "count": layout.count,
        "white": _white(images), "room": layout.room, "buffers": layout.buffers, "to_bytes": out.dtype == torch.uint8,
        "tile": layout.tile,
    }  # fmt: skip
    launch = _kernel(kernels.image_passes, (programs, 1, 1), constants, layout.chain, layout.tile, first.is_exact)
    numbers = layout.buffers * layout.room + layout.count + inline.floats
    return PassLaunch(launch, programs * numbers, tuple(out.shape), (images.stride(), out.stride(), batch, 1))


PROGRAMS = 1024
"""Programs that keep the 132 multiprocessors of a large GPU busy."""


def _prepare_tiles(record: PassRecord, images: Tensor, out: Tensor, inline: InlineDraws) -> PassLaunch:
    """Prepare a program a tile, and a launch that measures first if an image is several."""
    batch = len(images)
    tile = kernels.tile(record.pixels, record.measured > 0 and record.pixels <= kernels.WHOLE)
    tiles = -(-record.pixels // tile)
    count = record.measured if tiles > 1 else 0
    chunks = min(max(PROGRAMS // max(batch, 1), 1), tiles, 16) if count else 1
    constants = {
        "record": _plain(record), "inline": inline.constants, "numbers": inline.floats, "count": count,
        "white": _white(images), "to_bytes": out.dtype == torch.uint8, "tile": tile,
    }  # fmt: skip
    launch = _kernel(kernels.image_pass, (batch, tiles, 1), constants, (record,), tile, record.is_exact)
    measure = None
    if count:
        measure = _kernel(kernels.measure_pass, (batch, chunks, 1), constants, (record,), tile, record.is_exact)
    scratch = batch * (chunks * count + tiles * (count + inline.floats))
    return PassLaunch(launch, scratch, tuple(out.shape), (images.stride(), out.stride(), batch, chunks), measure)


def _white(images: Tensor) -> int:
    return 255 if images.dtype == torch.uint8 else 1


def _kernel(
    kernel: Any, grid: tuple[int, int, int], constants: dict[str, Any], chain: Sequence[PassRecord], tile: int, is_exact: bool
) -> Prepared:  # fmt: skip
    # With 128 registers two programs of 256 threads share a multiprocessor; policies would take more.
    warps = min(max(tile // (32 * _pixels_a_thread(chain)), 1), 16)
    return Prepared(kernel, grid, constants, num_warps=warps, maxnreg=128, enable_fp_fusion=not is_exact)


def _pixels_a_thread(chain: Sequence[PassRecord]) -> int:
    """Return as many pixels as 128 registers hold: a thread computes draws and places once for all of its pixels.

    16 of moved pixels, which are stored as 16 bytes; fewer where other pixels are read or one of many ops may be drawn.
    """
    samplers = {SAMPLERS[record.steps[0].sampler] for record in chain}
    if len(chain) > 1:
        return 4 if samplers & {"neighbours", "augmix"} else 8
    if samplers == {"take"} and not chain[0].measured:
        return 16
    return 8 if samplers <= {"take", "mixup", "cutmix"} else 4


_LAUNCHES: dict[Any, Launch] = {}
"""Launches of passes whose parameters were drawn before."""


def _launch(name: str, images: Tensor, drawn: tuple[Tensor, ...], out: Tensor) -> None:
    keys = no_keys(images.device)
    key = (name, _signature(images), signature(drawn), out.dtype, out.stride(), kernels.WHOLE, kernels.TILE)
    launch = _LAUNCHES.get(key) or keep(_LAUNCHES, key, _prepare(name, images, out, InlineDraws()))
    launch.run(images, out, drawn or (images,), (keys,), Key(keys, 0, 0))


def _signature(images: Tensor) -> tuple[Any, ...]:
    """Return all that a launch depends on; Triton compiles memory at multiples of 16 bytes by itself."""
    return images.shape, images.stride(), images.dtype, images.device, images.data_ptr() % 16


# ---- draws and passes in one launch -----------------------------------------------------------------------------------


class OneLaunch:
    """A recipe's draws and passes in one launch: (images, labels, generator) -> (images, targets).

    For each shape and layout of images what a launch needs is made once, so that a call allocates memory and launches.
    """

    def __init__(self, plan: Plan, dtype: torch.dtype, memory_format: torch.memory_format, num_classes: int = 0) -> None:
        self._plan, self._dtype, self._memory_format = plan, dtype, memory_format
        (stretch,) = _cut(plan, dtype)
        self._name = repr(stretch)
        _NAMED[self._name] = stretch
        self._num_classes = num_classes if plan.mixes else 0
        self._launches: dict[Any, tuple[Launch, InlineDraws]] = {}

    @staticmethod
    def takes(plan: Plan, dtype: torch.dtype) -> bool:
        """Return whether all is one launch: images mix before anything else but moves changes them, or not at all."""
        return len(_cut(plan, dtype)) == 1

    def __call__(
        self, images: Tensor, labels: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        """Draw and apply; ``images`` are on CUDA, or on a CPU in Triton's interpreter.

        ``labels``: int64 [B]. Targets are float32 [B, classes] if images mix, else the labels.
        """
        classes = 0 if labels is None else self._num_classes
        key = (*_signature(images), classes)
        ready = self._launches.get(key)
        if ready is None:
            if _is_wide(images):
                return self(images.contiguous(), labels, generator)
            ready = keep(self._launches, key, self._prepare(images, classes))
        launch, inline = ready
        out = torch.empty(launch.shape, dtype=self._dtype, device=images.device, memory_format=self._memory_format)
        targets, extra = labels, (images,)
        if classes and labels is not None:
            targets = torch.empty((len(labels), classes), dtype=torch.float32, device=images.device)
            extra = (labels.to(torch.int64).contiguous(), targets)
        if launch.shape[0]:
            state = take_key(inline.count, generator, images.device) if inline.count else Key(no_keys(images.device), 0, 0)
            launch.run(images, out, extra, inline.tables or (state.keys,), state)
        return out, targets

    def _prepare(self, images: Tensor, classes: int) -> tuple[Launch, InlineDraws]:
        inline = _inline(self._plan, self._name, images, classes)
        out = _empty(images, self._name, self._dtype, self._memory_format == torch.channels_last)
        return _prepare(self._name, images, out, inline), inline
