"""Draws of a recipe: for each op what torchvision draws for one image, drawn for a whole batch at once.

``sample(ops, ...)`` returns a dict of tensors for each op, the batch first in every tensor. All uniform numbers come from one
``torch.rand`` [rows, B]. Parameters follow from them by the tensor operations of ``augment.distributions``, which run on any
device and under ``torch.compile``, or by one kernel, C on a CPU and Triton on CUDA, from the records that ``encode`` makes. The
device is not asked for a value.
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
    noise: Callable[[Source, Any, NoiseField, int], Tensor] = lambda source, numbers, noise, block: source.noise(*noise[1:])


def draw_matrix(source: Source, program: Program) -> Tensor | None:
    """Draw all uniform numbers by PyTorch; None for stand-ins without memory."""
    source.draw(program.rows)
    return source.uniforms if type(source.uniforms) is Tensor else None


def count_rows(recipe: Sequence[Op]) -> int:
    """Return the rows of uniform numbers that a recipe needs, whatever the size of images."""
    return sum(d.rows(op) for op in recipe for d in op.draws)


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
            records += [
                record._replace(
                    row=row + record.row, output=len(outputs) + record.output, table=table + record.table
                )
                for record in distribution.records(op, height, width)
            ]  # fmt: skip
            outputs += [Drawn(index, name, *output) for name, output in distribution.outputs(op).items()]
            noises += [(index, noise) for noise in distribution.noises(op, height, width)]
            if distribution.policy:
                tables.append((distribution.policy, height, width))
                table += policies.TABLES[distribution.policy]
            row += distribution.rows(op)
        height, width = size
    return Program(row, tuple(records), tuple(outputs), tuple(noises), tuple(tables))


def sample(
    recipe: Sequence[Op], batch: int, height: int, width: int, generator: torch.Generator | None = None,
    device: torch.device | str = "cpu", kernel: Sampler | None = None,
) -> tuple[Params, ...]:  # fmt: skip
    """Draw the parameters of a sequence of ops for ``batch`` images of ``height`` x ``width``, a dict for each op.

    ``kernel`` computes them from the uniform numbers; None: tensor operations do. Without a generator the device's global one
    is used; with one it is never touched. Raises ValueError if an op cannot be done on images of that size.
    """
    source = Source(batch=batch, device=torch.device(device), generator=generator, height=height, width=width)
    if kernel is None:
        source.draw(count_rows(recipe))
        return _by_tensors(recipe, source)
    program = encode(tuple(recipe), height, width)
    numbers = kernel.numbers(source, program)
    if numbers is None:
        return _by_tensors(recipe, source)
    return _by_kernel(program, numbers, len(recipe), source, kernel)


def _by_tensors(recipe: Sequence[Op], source: Source) -> tuple[Params, ...]:
    params = []
    for op in recipe:
        size = op.output_size(source.height, source.width)  # first: it says what is wrong with sizes that cannot be
        drawn: Params = {}
        for distribution in op.draws:
            drawn |= distribution.sample(op, source)
        params.append(drawn)
        source.height, source.width = size
    return tuple(params)


def _by_kernel(program: Program, numbers: Any, length: int, source: Source, kernel: Sampler) -> tuple[Params, ...]:
    params: tuple[Params, ...] = tuple([{} for _ in range(length)])
    for (index, noise), block in zip(program.noises, program.noise_blocks, strict=False):
        params[index][noise.name] = kernel.noise(source, numbers, noise, block)
    outputs = []
    for output in program.outputs:
        tensor = torch.empty((source.batch, *output.shape), dtype=output.dtype, device=source.device)
        outputs.append(tensor)
        params[output.index][output.name] = tensor
    if source.batch and outputs:
        tables = [table for policy in program.tables for table in policies.tables(*policy, source.device)]
        kernel.fill(program, numbers, tables, outputs)
    return params
