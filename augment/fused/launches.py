"""Launches of Triton's kernels that cost the host little: what Triton compiled is kept and launched as it is."""

from typing import Any

import torch
from torch import Tensor

MOST = 256
"""Launches kept for each purpose."""


class Prepared:
    """A kernel's launch for arguments of one signature: types, and which memory begins at a multiple of 16 bytes.

    The first time Triton compiles the kernel or finds it; in the interpreter each time.
    """

    def __init__(self, kernel: Any, grid: tuple[int, int, int], constants: dict[str, Any], **options: Any) -> None:
        self.kernel, self.grid, self.constants, self.options = kernel, grid, constants, options
        self.compiled: Any = None

    def __call__(self, device: torch.device, *arguments: Any) -> None:
        """Launch on a device, the current one for Triton: arguments, then the constants in the kernel's order."""
        if device.index in (None, torch.cuda.current_device() if device.type == "cuda" else None):
            self._launch(device, arguments)
        else:
            with torch.cuda.device(device):
                self._launch(device, arguments)

    def _launch(self, device: torch.device, arguments: tuple[Any, ...]) -> None:
        compiled = self.compiled
        if compiled is not None:
            compiled.run(
                *self.grid, stream_of(device), compiled.function, compiled.packed_metadata, None, None, None, *arguments,
                *self.constants.values(),
            )  # fmt: skip
            return
        compiled = self.kernel[self.grid](*arguments, **self.constants, **self.options)
        self.compiled = compiled if hasattr(compiled, "packed_metadata") else None


def stream_of(device: torch.device) -> int:
    """Return the handle of the current stream."""
    stream: int = torch._C._cuda_getCurrentRawStream(device.index)
    return stream


def keep(launches: dict[Any, Any], key: Any, launch: Any) -> Any:
    """Store a launch; all are forgotten when there are too many."""
    if len(launches) >= MOST:
        launches.clear()
    launches[key] = launch
    return launch


def signature(tensors: tuple[Tensor, ...]) -> tuple[Any, ...]:
    """Return what Triton compiles by itself for memory."""
    return tuple((tensor.dtype, tensor.data_ptr() % 16) for tensor in tensors)
