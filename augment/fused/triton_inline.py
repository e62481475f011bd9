"""Draws of an image, and of its partner if images mix, inside the program that augments it."""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
from typing import Any, NamedTuple

import triton
import triton.language as tl

from augment.fused.triton_draws import at, draw_all
from augment.fused.triton_random import key_of, philox_unit


class Inline(NamedTuple):
    """Draws inside a launch, of an image or, if images mix, of two.

    ``write`` and ``read``: offsets behind a program's drawn numbers, of what records and passes count, in ``read`` below 0 a
    noise's offset in a generator; ``lanes``: threads that draw ``rows`` uniform numbers an image; ``lam``: offset of the
    weight of an image itself, for targets of ``classes``.
    """

    records: tuple[Any, ...]
    write: tuple[int, ...]
    read: tuple[int, ...]
    images: int
    rows: int
    lanes: int
    lam: int
    classes: int


INLINE = {name: place for place, name in enumerate(Inline._fields)}


@triton.constexpr_function
def of_inline(inline, name: str):
    """Return a field of an ``Inline`` as a constant."""
    return inline[INLINE[name]]


@triton.jit
def parameters_at(start, key, offsets: tl.constexpr):
    """Return pointers to drawn parameters; in place of a noise the state of the generator that draws it."""
    made = (parameter_at(start, key, at(offsets, 0)),)
    for k in tl.static_range(1, len(offsets)):
        made = made + (parameter_at(start, key, at(offsets, k)),)  # type: ignore[assignment]  # noqa: RUF005  # Triton's
    return made


@triton.jit
def parameter_at(start, key, offset: tl.constexpr):
    if offset < 0:
        return key[0], key[1] - (offset + 1), key[2]
    else:
        return start + offset


@triton.jit
def own_draws(
    images, strides, scratch, draws, keys, tables, image, batch, seed, block, inline: tl.constexpr
):  # fmt: skip
    """Draw an image's parameters into scratch memory, as floats, if ``inline``, and those of its partner if it has one.

    A thread draws a row of uniform numbers; formulas, which all threads compute alike, begin behind a barrier.

    Returns the images' memory, its strides, the numbers of the image and its partner there, and the drawn tensors: of these
    two, whose numbers are 0 and 1, or those of the batch.
    """
    partner = tl.where(image == 0, batch.to(tl.int64), image) - 1
    if len(inline) == 0:
        return images, (strides[0], strides[1], strides[2], strides[3]), image, partner, draws  # constant tuples: not in 3.6
    else:
        seed, block = key_of(keys, seed, block)
        rows: tl.constexpr = of_inline(inline, "rows")
        row, zero = tl.arange(0, of_inline(inline, "lanes")), image * 0
        image_of_row = tl.where(row < rows, image, partner)
        units = philox_unit(seed, block, image_of_row, tl.where(row < rows, row, row - rows))
        tl.store(scratch + row, units, mask=row < rows * of_inline(inline, "images"))
        tl.debug_barrier()
        key = (seed, block, image)
        for turn in range(of_inline(inline, "images")):
            source, place = (scratch + turn * rows, zero + 1, zero, 0, 0), zero + turn
            outputs = parameters_at(scratch, key, of_inline(inline, "write"))
            draw_all(source, tables, outputs, place, place >= 0, of_inline(inline, "records"))
        tl.debug_barrier()
        drawn = parameters_at(scratch, key, of_inline(inline, "read"))
        if of_inline(inline, "classes") > 0 and tl.program_id(1) == 0:
            store_targets(draws, scratch + of_inline(inline, "lam"), image, partner, of_inline(inline, "classes"))
        between = (partner - image) * strides[0], strides[1], strides[2], strides[3]
        return images + image * strides[0], between, zero, zero + 1, drawn


@triton.jit
def store_targets(memory, lam, image, partner, classes: tl.constexpr):
    """Store an image's mixed target; ``memory``: labels, and targets [B, classes]."""
    number, weight = tl.arange(0, triton.next_power_of_2(classes)), tl.load(lam)
    own, partners = number == tl.load(memory[0] + image), number == tl.load(memory[0] + partner)
    value = own.to(tl.float32) * weight + partners.to(tl.float32) * (1 - weight)
    tl.store(memory[1] + image * classes + number, value, mask=number < classes)
