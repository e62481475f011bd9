"""Draws of a recipe: for each op what torchvision draws for one image, drawn for a whole batch at once.

``sample(ops, ...)`` returns a dict of tensors for each op, the batch first in every tensor. All uniform numbers come from one
``torch.rand`` [rows, B]. Parameters follow from them and from the records that ``encode`` makes: by one kernel, C on a CPU and
Triton on CUDA, or by the tensor operations of ``augment.fused.formulas`` on any device and under ``torch.compile``. The device
is not asked for a value.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from augment import policies
from augment.distributions import DrawRecord, NoiseField, Params, Source
from augment.fused.formulas import FORMULAS
from augment.op import Op

__all__ = ["Params", "Program", "Sampler", "encode", "sample"]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A parameter that a kernel writes, of the op at ``index``: ``dtype`` [B, *shape]."""

    index: int
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """The draws of a recipe for images of one size. Compared by identity: ``encode`` makes each once.

    ``noises``: numbers for each value, with the index of the op. ``tables``: (policy, height, width) whose
    ``policies.tables`` the records read, one after the other.
    """

    rows: int
    records: tuple[DrawRecord, ...]
    outputs: tuple[Drawn, ...]
    noises: tuple[tuple[int, NoiseField], ...]
    tables: tuple[tuple[str, int, int], ...]

    @property
    def noise_blocks(self) -> tuple[int, ...]:
        """Places of noises behind an image's uniform numbers in a counter-based generator, a block of four a pixel; the end."""
        pixels = (noise.height * noise.width for _, noise in self.noises)
        return tuple(itertools.accumulate(pixels, initial=-(-self.rows // 4)))


class Sampler(NamedTuple):
    """A sampling kernel.

    ``numbers``: (source, program) -> where numbers come from, a matrix [rows, B] or the state of a generator, or None.
    ``fill``: (program, numbers, tables, outputs) fills the outputs; all are contiguous and on one device.
    ``noise``: (source, numbers, noise, block) -> float32 [B, 3, H, W].
    """

    numbers: Callable[[Source, Program], Any]
    fill: Callable[[Program, Any, Sequence[Tensor], Sequence[Tensor]], None]
    noise: Callable[[Source, Any, NoiseField, int], Tensor] = lambda source, numbers, noise, block: source.noise(noise)


def draw_matrix(source: Source, program: Program) -> Tensor | None:
    """Draw all uniform numbers by PyTorch; None if there are none."""
    return source.draw(program.rows) if program.rows else None


def fill(program: Program, uniforms: Tensor, tables: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """Compute parameters from uniform numbers, float32 [rows, B], by tensor operations."""
    for record in program.records:
        values = FORMULAS[record.kind](record, uniforms[record.row :], tables[record.table :])
        for output, value in zip(outputs[record.output :], values, strict=False):
            output.view(len(output), record.size, -1)[:, record.place] = value.reshape(len(output), -1)


TENSORS = Sampler(draw_matrix, fill)
"""The formulas by tensor operations."""


@functools.lru_cache(maxsize=256)
def encode(recipe: tuple[Op, ...], height: int, width: int) -> Program:
    """Return the recipe's draws for images of that size. Raises ValueError if an op cannot be done on them."""
    records: list[DrawRecord] = []
    outputs: list[Drawn] = []
    noises: list[tuple[int, NoiseField]] = []
    tables: list[tuple[str, int, int]] = []
    row = table = 0
    for index, op in enumerate(recipe):
        size = op.output_size(height, width)  # first: it says what is wrong with sizes that cannot be
        for distribution in op.draws:
            drawn = distribution.records(op, height, width)
            records += [r._replace(row=row + r.row, output=len(outputs) + r.output, table=table + r.table) for r in drawn]
            outputs += [Drawn(index, name, *output) for name, output in distribution.outputs(op).items()]
            noises += [(index, noise) for noise in distribution.noises(op, height, width)]
            if distribution.policy:
                tables.append((distribution.policy, height, width))
                table += policies.TABLES[distribution.policy]
            row += max([0, *(record.row + record.rows for record in drawn)])  # torch.compile of 2.11 knows no default
        height, width = size
    return Program(row, tuple(records), tuple(outputs), tuple(noises), tuple(tables))


def sample(
    recipe: Sequence[Op], batch: int, height: int, width: int, generator: torch.Generator | None = None,
    device: torch.device | str = "cpu", kernel: Sampler = TENSORS,
) -> tuple[Params, ...]:  # fmt: skip
    """Draw the parameters of a sequence of ops for ``batch`` images of ``height`` x ``width``, a dict for each op.

    ``kernel`` computes them from the uniform numbers. Without a generator the device's global one is used; with one it is never
    touched. Raises ValueError if an op cannot be done on images of that size.
    """
    source = Source(batch, torch.device(device), generator)
    program = (encode.__wrapped__ if torch.compiler.is_compiling() else encode)(tuple(recipe), height, width)
    numbers = kernel.numbers(source, program)
    outputs = [torch.empty((batch, *o.shape), dtype=o.dtype, device=source.device) for o in program.outputs]
    if batch and outputs:
        tables = [table for policy in program.tables for table in policies.tables(*policy, source.device)]
        kernel.fill(program, numbers, tables, outputs)
    params: tuple[Params, ...] = tuple([{} for _ in recipe])
    for output, tensor in zip(program.outputs, outputs, strict=True):
        params[output.index][output.name] = tensor
    for (index, noise), block in zip(program.noises, program.noise_blocks, strict=False):
        params[index][noise.name] = kernel.noise(source, numbers, noise, block)
    return params
