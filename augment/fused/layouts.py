"""Layouts of passes in launches: a program an image, or a program a tile of one, with what each needs in memory.

Images of up to ``triton_images.WHOLE`` pixels, and chains of ops (AugMix), have a program an image, which takes it through all
passes in one launch. Other large images are cut into tiles, so that a few of them fill a GPU: a launch a pass, and before one
that measures the whole image a launch that does so. Between passes there is one float copy of the batch at most.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton import next_power_of_2

from augment import policies
from augment.fused import triton_images as kernels
from augment.fused import triton_resize
from augment.fused.kinds import SAMPLERS
from augment.fused.launches import Prepared
from augment.fused.passes import Pass, PassRecord, encode_stretch, split_chains
from augment.fused.plans import Plan
from augment.fused.sample import Program
from augment.fused.sample import encode as encode_draws
from augment.fused.triton_held import is_held
from augment.fused.triton_inline import Inline
from augment.fused.triton_random import Key


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
        return (len(self.chain) == 1 and not self.buffers) or (is_large and not any(record.chain_op for record in self.chain))


def _plain(value: Any) -> Any:
    """Return a record without names of fields, which Triton does not keep."""
    return tuple(map(_plain, value)) if isinstance(value, tuple) else value


def _most_pixels(chain: Sequence[PassRecord]) -> int:
    return max((record.pixels for record in chain), default=0)


@functools.lru_cache(maxsize=256)
def _layout(stretch: tuple[Pass, ...], height: int, width: int, whole: int, tile: int) -> Layout:
    """Lay out passes. Programs hold images of up to ``whole`` pixels, ``tile`` pixels of larger ones."""
    chain = encode_stretch(stretch, height, width).passes
    if _most_pixels(chain) <= whole:
        tile = kernels.tile(_most_pixels(chain), True)
    else:
        split = [split_chains(step) if record.pixels > tile else (step,) for step, record in zip(stretch, chain, strict=True)]
        chain = encode_stretch(tuple(part for parts in split for part in parts), height, width).passes
    chain_ops = [record.chain_op for record in chain if record.chain_op]
    room = 3 * max(_most_pixels(chain[:-1]), _most_pixels(chain_ops))
    is_apart = _most_pixels(chain) > tile or any(triton_resize.is_resized(record) for record in chain[1:-1])
    buffers = 4 if _most_pixels(chain_ops) > tile else 2 if len(chain) > 2 and is_apart else int(room > 0)
    return Layout(chain, tile, buffers, room, max(r.measured for r in (*chain, *chain_ops)))


class InlineDraws(NamedTuple):
    """Draws inside a launch: constants of kernels, floats that a program needs, numbers an image takes, and tables.

    ``passes``: constants of each pass, if it is a launch of its own, which draws only what it reads.
    """

    constants: tuple[Any, ...] = ()
    passes: tuple[tuple[Any, ...], ...] = ()
    floats: int = 0
    numbers: int = 0
    tables: tuple[Tensor, ...] = ()


def inline_draws(plan: Plan, stretch: tuple[Pass, ...], images: Tensor, classes: int) -> InlineDraws:
    """Return the draws of a plan that is one stretch, for images of that size; ``classes`` of mixed targets, 0 for none."""
    program = encode_draws(plan.ops, *images.shape[2:])
    if not program.records and not program.noises:
        return InlineDraws()
    count = 2 if stretch[0].mixes else 1
    sizes = [count * math.prod(output.shape) for output in program.outputs]
    write = tuple(itertools.accumulate(sizes, initial=count * program.rows))  # behind the uniform numbers
    places = {(output.index, output.name): place for output, place in zip(program.outputs, write, strict=False)}
    for (index, noise), block in zip(program.noises, program.noise_blocks, strict=False):
        places[index, noise.name] = -1 - block
    read = tuple(places[parameter] for step in stretch for parameter in step.parameters()) or (0,)
    lam = next((places[index, "lam"] for index, op in enumerate(plan.ops) if op.mixes_labels), 0)
    lanes = next_power_of_2(max(count * program.rows, 1))
    inline = Inline(program.records, write[:-1] or (0,), read, count, program.rows, lanes, lam, classes)
    tables = tuple(table for policy in program.tables for table in policies.tables(*policy, images.device))
    passes = tuple(_select(inline, program, step) for step in stretch)
    return InlineDraws(_plain(inline), passes, write[-1], 4 * program.noise_blocks[-1], tables)


def _select(inline: Inline, program: Program, step: Pass) -> tuple[Any, ...]:
    indices = {part.index for part in step.parts}
    records = tuple(record for record in inline.records if program.outputs[record.output].index in indices)
    is_random = records or any(index in indices for index, _ in program.noises)
    return _plain(inline._replace(records=records, classes=inline.classes * step.mixes)) if is_random else ()


@dataclass(frozen=True, slots=True)
class PassLaunch:
    """A launch of a kernel: ``scratch`` numbers; ``shape`` of the result; batch and chunks as ``arguments``.

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


def prepare(stretch: tuple[Pass, ...], images: Tensor, out: Tensor, inline: InlineDraws) -> Launch:
    """Prepare launches for images and a result of that shape, type and layout."""
    layout = _layout(stretch, *images.shape[2:], kernels.WHOLE, kernels.TILE)
    if not layout.is_tiled:
        return Launch((_prepare_whole(layout, images, out, inline),))
    steps: list[PassLaunch] = []
    for place, record in enumerate(layout.chain):
        target = out
        if place < len(layout.chain) - 1:
            target = torch.empty((len(out), 3, *record.sizes[4:]), dtype=torch.float32, device="meta")
        draws = inline.passes[place] if inline.passes else ()
        steps.append(_prepare_tiles(record, images, target, draws, inline.floats if draws else 0))
        images = target
    return Launch(tuple(steps))


def _prepare_whole(layout: Layout, images: Tensor, out: Tensor, inline: InlineDraws) -> PassLaunch:
    """Prepare a program an image, as many as fit one float copy of the batch."""
    batch, first = len(images), layout.chain[0]
    programs = max(batch // max(layout.buffers, 1), 1)
    constants = {
        "strides": images.stride(), "out_strides": out.stride(), "chain": _plain(layout.chain),
        "inline": inline.constants, "numbers": inline.floats, "count": layout.count,
        "white": _white(images), "room": layout.room, "buffers": layout.buffers, "to_bytes": out.dtype == torch.uint8,
        "tile": layout.tile,
    }  # fmt: skip
    launch = _kernel(kernels.image_passes, (programs, 1, 1), constants, layout.chain, layout.tile, first.is_exact)
    numbers = layout.buffers * layout.room + layout.count + inline.floats
    return PassLaunch(launch, programs * numbers, tuple(out.shape), (batch, 1))


PROGRAMS = 1024
"""Programs that keep the 132 multiprocessors of a large GPU busy."""
SHORTEST = 6
"""Rows of a thread that resizes: it reads a row or two more than those of the source that they need."""


def _prepare_tiles(record: PassRecord, images: Tensor, out: Tensor, draws: tuple[Any, ...], numbers: int) -> PassLaunch:
    """Prepare a program a tile, and a launch that measures first if an image is several."""
    batch = len(images)
    tile = kernels.tile(record.pixels, record.measured > 0 and record.pixels <= kernels.WHOLE)
    tiles = _count_strips(record, batch, tile) if triton_resize.is_resized(record) else -(-record.pixels // tile)
    count = record.measured if tiles > 1 else 0
    chunks = min(max(PROGRAMS // max(batch, 1), 1), tiles, 16) if count else 1
    constants = {
        "strides": images.stride(), "out_strides": out.stride(), "record": _plain(record), "inline": draws,
        "numbers": numbers, "count": count, "white": _white(images), "to_bytes": out.dtype == torch.uint8, "tile": tile,
    }  # fmt: skip
    launch = _kernel(kernels.image_pass, (batch, tiles, 1), constants, (record,), tile, record.is_exact)
    measure = None
    if count:
        measure = _kernel(kernels.measure_pass, (batch, chunks, 1), constants, (record,), tile, record.is_exact)
    scratch = batch * (chunks * count + tiles * (count + numbers))
    return PassLaunch(launch, scratch, tuple(out.shape), (batch, chunks), measure)


def _count_strips(record: PassRecord, batch: int, tile: int) -> int:
    """Return the programs of a resized image: columns, each in as few strips of at least ``SHORTEST`` rows as fill a GPU."""
    columns = triton_resize.programs_across(record)
    shortest = SHORTEST * triton_resize.groups_of(record, tile)
    return columns * max(min(-(-PROGRAMS // max(batch * columns, 1)), record.sizes.out_height // shortest), 1)


def _white(images: Tensor) -> int:
    return 255 if images.dtype == torch.uint8 else 1


def _kernel(
    kernel: Any, grid: tuple[int, int, int], constants: dict[str, Any], chain: Sequence[PassRecord], tile: int, is_exact: bool
) -> Prepared:
    warps = min(max(tile // (32 * _pixels_a_thread(chain)), 1), 16)
    return Prepared(kernel, grid, constants, num_warps=warps, maxnreg=_registers(chain, tile), enable_fp_fusion=not is_exact)


def _registers(chain: Sequence[PassRecord], tile: int) -> int:
    """Return the most registers of a thread; a multiprocessor has 65,536.

    With 64, all of 1,024 images of 32x32 that stay in registers are on 132 multiprocessors at once, 8 programs of 128 threads
    each. With 80, 3 programs of 256 threads of a policy share one.
    """
    if any(is_held(chain, p, tile) and triton_resize.is_resized(record) for p, record in enumerate(chain)):
        return 64
    is_policy = any(SAMPLERS[record.steps[0].sampler] == "neighbours" for record in chain)
    return 80 if is_policy and _most_pixels(chain) <= tile else 128


def _pixels_a_thread(chain: Sequence[PassRecord]) -> int:
    """Return as many pixels as 128 registers hold: a thread computes draws and places once for all of its pixels.

    16 of moved pixels, which are stored as 16 bytes; fewer where other pixels are read or one of many ops may be drawn.
    """
    samplers = {SAMPLERS[record.steps[0].sampler] for record in chain}
    if len(chain) > 1:
        return 4 if samplers & {"neighbours", "augmix"} else 8
    if samplers == {"take"} and not chain[0].measured:
        return 16
    return 8 if samplers <= {"take", "mixup", "cutmix", "window", "resize"} and not chain[0].measured else 4
