"""CPU threads for work that is made of many short kernels.

PyTorch splits every larger kernel over its threads and waits for all of them at its end. On 3 MiB that saves a quarter of the
time, and costs milliseconds each time a thread finds its core taken, kernel after kernel. So small batches stay on one thread,
and what takes long for each image is shared out in whole images, with one wait at the end.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import ContextVar

import torch

VALUES_A_THREAD = 8 * 2**20
"""Values of a batch for which splitting kernels over another thread pays."""

_idle: ContextVar[int] = ContextVar("idle threads", default=1)


@contextlib.contextmanager
def enough_for(device: torch.device, values: int) -> Iterator[None]:
    """Within: as many of PyTorch's threads as work on ``values`` values is worth; the others are left to ``share``.

    Does nothing on other devices than a CPU, and while ``torch.compile`` captures. The number is the calling thread's own, but
    a thread that first uses PyTorch meanwhile starts with it and keeps it.
    """
    if device.type != "cpu" or torch.compiler.is_compiling():
        yield
        return
    before = torch.get_num_threads()
    used = max(min(before, values // VALUES_A_THREAD), 1)
    token = _idle.set(before // used)
    torch.set_num_threads(used)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _idle.reset(token)


def at_hand() -> int:
    """All threads, those that PyTorch's kernels may use within ``enough_for`` and those that it has left idle."""
    return torch.get_num_threads() * _idle.get()


def share(work: Callable[[range], None], count: int, parts: int | None = None) -> None:
    """``work`` on the numbers 0 .. count - 1, in ``parts`` at once: by default the threads that ``enough_for`` left idle."""
    parts = max(min(_idle.get() if parts is None else parts, count), 1)
    ranges = [range(count * i // parts, count * (i + 1) // parts) for i in range(parts)]
    # Modes are a thread's own affair. Tensors made in inference mode may be written to only in it, others not with gradients.
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def elsewhere(part: range) -> None:
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            work(part)

    others = [_pool(os.getpid(), max(parts, at_hand())).submit(elsewhere, part) for part in ranges[1:]]
    try:
        work(ranges[0])
    finally:
        wait(others)  # also after an error: they write where the caller's memory is
    for other in others:
        other.result()


@functools.lru_cache(maxsize=4)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    # By process: a forked loader worker inherits the pool, but not its threads.
    return ThreadPoolExecutor(threads, thread_name_prefix="augment")
