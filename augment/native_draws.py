"""The draws of a recipe on a CPU in one call of the C library: ``native_draws.h`` does the records of ``augment.draws``."""

import ctypes
import functools
from collections.abc import Sequence

from torch import Tensor

from augment import native_build
from augment.draws import Program


def run(
    program: Program, uniforms: Tensor, given: Sequence[Tensor], tables: Sequence[Tensor], outputs: Sequence[Tensor]
) -> None:
    """As ``sampling.Run``: all on a CPU and contiguous, but for given weights, which are every second number in memory."""
    library = native_build.library()
    assert library is not None
    batch = uniforms.shape[1]
    pointers = [each.data_ptr() for tensors in (given, tables, outputs) for each in tensors]
    addresses = (ctypes.c_void_p * len(pointers))(*pointers)
    library.draw_parameters(*_records(program, len(given), len(tables)), uniforms.data_ptr(), addresses, batch)


@functools.lru_cache(maxsize=256)
def _records(program: Program, given: int, tables: int) -> tuple[ctypes.Array[ctypes.c_double], int, int]:
    """A program's records one after the other, filled up with zeros to one width; how many; the width.

    Outputs, given tensors and tables are counted as their addresses lie: tables behind the given, outputs behind the tables.
    """
    width = max(map(len, program.records))
    numbers: list[float] = []
    for kind, row, output, its_given, table, *constants in program.records:
        record = (kind, row, output + given + tables, its_given, table + given, *constants)
        numbers += [*map(float, record), *[0.0] * (width - len(record))]
    return (ctypes.c_double * len(numbers))(*numbers), len(program.records), width
