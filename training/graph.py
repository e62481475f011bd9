"""A function of tensors captured once as a CUDA graph, and replayed on copies of its arguments with one launch.

The host of a small step needs longer to launch its kernels than a fast GPU to run them; a replay costs it one launch.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from training import optimise

WARM_UP_CALLS = 3
"""Calls before the capture, on a stream of their own: libraries and the optimizer allocate in the first ones."""
_INVALID: list[torch.cuda.CUDAGraph] = []
"""Graphs of captures that could not be ended, which PyTorch 2.11 goes on reading."""


@functools.cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the one stream of a device that calls are captured on: libraries keep a workspace for each stream."""
    return torch.cuda.Stream(device)


def record(call: Callable[[], Any], device: torch.device) -> tuple[Callable[[], object], Any]:
    """Capture a call as a CUDA graph, after it has run a few times as PyTorch's notes on CUDA graphs demand.

    Nothing of an earlier forward pass may be alive: its gradients are accumulated on the stream of that pass, for which a
    capture must not wait. Returns (replay, the call's result, which each replay overwrites).
    """
    with torch.cuda.device(device):
        side = side_stream(device)
        side.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(side):  # around the capture too: PyTorch 2.11 stays on its stream where it cannot be ended
                for _ in range(WARM_UP_CALLS):
                    call()
                graph, result = _capture(call, side)
        except RuntimeError:
            # PyTorch 2.11 leaves the generator in capture mode, in which it refuses to draw; the next capture ends that.
            with contextlib.suppress(RuntimeError), torch.cuda.stream(side):
                _capture(lambda: torch.zeros(1, device=device), side)
            raise
        torch.cuda.current_stream().wait_stream(side)
        return graph.replay, result


def _capture(call: Callable[[], Any], stream: torch.cuda.Stream) -> tuple[torch.cuda.CUDAGraph, Any]:
    graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
    try:
        # Thread-local: a loader's thread that pins memory meanwhile must not spoil the capture.
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            result = call()
    except RuntimeError:
        _end_allocation(graph, pool)
        raise
    return graph, result


def _end_allocation(graph: torch.cuda.CUDAGraph, pool: Any) -> None:
    """End the allocation to the pool of a capture that could not be ended; no-op where PyTorch has ended it.

    While a capture seems to be underway, memory that a second stream has used is not freed. The allocator of pinned memory has
    no such call: it goes on asking a filter, which reads the graph if the stream captures, so that the graph must live.
    """
    with contextlib.suppress(RuntimeError):
        torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
        torch._C._cuda_releasePool(torch.cuda.current_device(), pool)
        _INVALID.append(graph)


class Captured:
    """A captured function: ``captured(*arguments)`` copies the arguments into its ``buffers`` and replays.

    The result holds tensors of the graph, overwritten by the next replay: clone what is to be kept. Random numbers are drawn
    from the device's generator as it stands at each replay.
    """

    def __init__(self, function: Callable[..., Any], buffers: Sequence[Tensor]) -> None:
        self.buffers = tuple(buffers)
        self._replay, self._result = record(lambda: function(*self.buffers), self.buffers[0].device)

    def fits(self, arguments: Sequence[Tensor]) -> bool:
        """Return whether arguments have the shapes, types and strides of the buffers."""
        return len(arguments) == len(self.buffers) and all(
            (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride())
            for a, b in zip(arguments, self.buffers, strict=True)
        )

    def fill(self, arguments: Sequence[Tensor]) -> None:
        """Copy arguments into the buffers, but for those that are buffers."""
        for buffer, argument in zip(self.buffers, arguments, strict=True):
            if argument is not buffer:
                buffer.copy_(argument, non_blocking=True)

    def __call__(self, *arguments: Tensor) -> Any:
        self.fill(arguments)
        self._replay()
        return self._result


@contextlib.contextmanager
def preserve_state(model: torch.nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> Iterator[None]:
    """Restore weights, buffers, optimizer state and random streams, in place, after the block.

    State that the optimizer did not have before becomes zero, with which its next step is the first one.
    """

    def state() -> list[Tensor]:
        return [*model.parameters(), *model.buffers(), *(moment for _, moment in optimise.moments(optimizer))]

    before = {tensor: tensor.detach().clone() for tensor in state()}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor in state():
                    if tensor in before:
                        tensor.copy_(before[tensor])
                    else:
                        tensor.zero_()
            optimizer.zero_grad(set_to_none=True)
