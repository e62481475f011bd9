"""How far from the machine's limit a call is, and what it asks of the device: kernel launches and waits of the host.

The limit is a copy. Whatever an augmentation does, it reads its batch and writes its result: at the speed at which the device
copies its own memory, that takes (bytes in + bytes out) / bandwidth seconds, and no call can be much faster.
"""

import statistics
import warnings
from collections.abc import Callable

import torch

from bench.timing import Clock, Function, sample

COPIED_BYTES = 256 * 2**20
"""Far more than any cache holds. What fits into one may move faster than this limit."""


def copy_bandwidth(device: str | torch.device, *, copied_bytes: int = COPIED_BYTES, calls: int = 7) -> float:
    """Bytes a second, read and written ones together, that a copy from the device to itself moves; the median of ``calls``."""
    # Written to: on a CPU, pages of zeros that nobody wrote to are all one page, which is read from the cache.
    source = torch.ones(copied_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy: Function = lambda: target.copy_(source)  # noqa: E731
    copy()  # pages are touched, kernels are loaded
    return 2 * copied_bytes / statistics.median(sample(copy, calls, clock=Clock(device)))


def roofline_share(bytes_moved: int, seconds: float, bandwidth: float) -> float:
    """The time that a copy would take for the bytes that must be read and written, over the time that was taken."""
    return bytes_moved / bandwidth / seconds


def launches(function: Function, device: str | torch.device) -> int | None:
    """Kernels that a call runs on a CUDA device, copies and fills of memory among them; None elsewhere."""
    if torch.device(device).type != "cuda":
        return None
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        function()
        torch.cuda.synchronize(device)
    return sum(event.device_type.name == "CUDA" for event in recorded.events())


def synchronisations(function: Function, device: str | torch.device) -> int | None:
    """How often a call makes the host wait for a CUDA device, as ``torch.cuda.set_sync_debug_mode`` sees it; None elsewhere."""
    if torch.device(device).type != "cuda":
        return None
    return _counted_waits(function, torch.cuda.get_sync_debug_mode, torch.cuda.set_sync_debug_mode)


def _counted_waits(function: Function, get_mode: Callable[[], int], set_mode: Callable[[int | str], object]) -> int:
    before = get_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        set_mode("warn")
        try:
            function()
        finally:
            set_mode(before)
    return sum("synchronizing" in str(warning.message) for warning in caught)
