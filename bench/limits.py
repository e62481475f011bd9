"""Distance of a call from the machine's limit, and its demands on the device: kernel launches and host waits.

The limit of an augmentation is a copy. Any augmentation reads its batch and writes its result: at the device's copy
bandwidth that takes (bytes in + bytes out) / bandwidth seconds, and no call can be much faster. The limit of a training step
is a matrix product: a network does little else, and rarely as well as one large product does.
"""

import functools
import math
import os
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch

from bench.clock import Clock, Function, measure, sample
from bench.processes import read_output

COPIED_BYTES = 256 * 2**20
"""Size far beyond any cache: what fits into a cache may move faster than this limit."""
MATMUL_SIDE = {"cuda": 8192, "cpu": 1024}
"""Sides of square matrices whose product takes about a millisecond on a data-centre GPU, and tens of them on a CPU."""
MATMUL_SECONDS = 0.3
"""Longer than the first moments in which a device may run faster than it can sustain."""
WAIT_WARNING = "called a synchronizing CUDA operation"


def copy_bandwidth(device: str | torch.device, *, copied_bytes: int = COPIED_BYTES, calls: int = 7) -> float:
    """Return the bytes/s, read and written together, of a copy within the device; the median of ``calls``."""
    # Written to: on a CPU, untouched pages of zeros are all one page, which is read from the cache.
    source = torch.ones(copied_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy: Function = lambda: target.copy_(source)  # noqa: E731
    copy()  # touches the pages, loads the kernel
    return 2 * copied_bytes / statistics.median(sample(copy, calls, clock=Clock(device)))


def roofline_share(bytes_moved: int, seconds: float, bandwidth: float) -> float:
    """Return the time of a copy of ``bytes_moved`` over ``seconds``."""
    return bytes_moved / bandwidth / seconds


def matmul_flops(device: str | torch.device, precision: str, *, side: int | None = None) -> float:
    """Return the FLOPs/s of a large matrix product (2 per multiply-add), by the median call of ``MATMUL_SECONDS``.

    ``precision`` is that of the operands, "float32" or "bfloat16". Where convolutions of float32 run as TF32 (cuDNN's default),
    so does the product: see ``matmul_precision``.
    """
    device = torch.device(device)
    side = side or MATMUL_SIDE.get(device.type, 1024)
    # Random, as in a network: multiplying zeros draws less power, and a GPU then clocks higher.
    generator = torch.Generator(device).manual_seed(0)
    dtype = getattr(torch, precision)
    left, right = (torch.randn(side, side, device=device, generator=generator).to(dtype) for _ in range(2))
    result = torch.empty_like(left)
    with _matmul_like_convolutions(device):
        timing = measure(lambda: torch.matmul(left, right, out=result), clock=Clock(device), seconds=MATMUL_SECONDS)
    return 2 * side**3 / timing.median_s


def matmul_precision(device: str | torch.device, precision: str) -> str:
    """Return how convolutions of ``precision`` are computed: "tf32" for float32 on CUDA where cuDNN may, else unchanged."""
    device = torch.device(device)
    if device.type != "cuda" or precision != "float32" or _convolution_precision() != "tf32":
        return precision
    return "tf32" if torch.cuda.get_device_capability(device) >= (8, 0) else precision


def _convolution_precision() -> str:
    precision: str = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]  # an object put in the module's place
    return precision


@contextmanager
def _matmul_like_convolutions(device: torch.device) -> Iterator[None]:
    """Compute float32 matrix products as precisely as convolutions, which are less precise by torch's defaults."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = _convolution_precision()
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def count_launches(function: Function, device: str | torch.device) -> int | None:
    """Return the number of kernels, copies and fills that a call runs on a CUDA device; None elsewhere."""
    if torch.device(device).type != "cuda":
        return None
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        function()
        torch.cuda.synchronize(device)
    return sum(event.device_type.name == "CUDA" for event in profiler.events())


def host_seconds(function: Function, device: str | torch.device, *, calls: int = 20) -> float | None:
    """Return the median seconds until a call returns while a CUDA device still works; None on other devices."""
    if torch.device(device).type != "cuda":
        return None
    synchronize = functools.partial(torch.cuda.synchronize, device)
    return statistics.median(sample(function, calls, synchronize, clock=Clock("cpu")))  # a clock that waits for nothing


HOST_RECIPES = ("crop_flip", "d2l", "randaugment")
HOST_LIMIT_S = 300


def absent_gpu_host_seconds() -> dict[str, float]:
    """Return for ``HOST_RECIPES`` the median seconds of the host in a CUDA call of fused, all but the driver's launch.

    Measured on this CPU by ``augment.fused.offline``; empty without Triton or a C compiler.
    """
    command = [sys.executable, "-m", "augment.fused.offline", "--host", "--arch", "90", "--recipes", *HOST_RECIPES]
    variables = {**os.environ, "TRITON_INTERPRET": "0"}
    status, output = read_output(command, HOST_LIMIT_S, env=variables, stderr=subprocess.DEVNULL)
    if status != 0:
        return {}
    rows = (line.split() for line in output.splitlines()[1:])
    return {recipe: float(host_us) / 1e6 for _, recipe, host_us in rows}


def busy_share(function: Function, device: str | torch.device, *, calls: int) -> float | None:
    """Return the share of the wall time of some calls in which a kernel or copy ran on a CUDA device; None elsewhere.

    By the profiler, whose own cost makes the host a little slower: the share is rather too small. (The driver's utilisation
    counts a sample period as busy however short the kernels in it.)
    """
    if torch.device(device).type != "cuda":
        return None
    from torch.profiler import ProfilerActivity, profile

    clock = Clock(device)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        start = clock()
        for _ in range(calls):
            function()
        wall_s = clock() - start
    events = [event.time_range for event in profiler.events() if event.device_type.name == "CUDA"]
    return min(1.0, covered((event.start, event.end) for event in events) / 1e6 / wall_s)


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of intervals."""
    length, reached = 0.0, -math.inf
    for start, end in sorted(intervals):
        length += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return length


def count_waits(function: Function, device: str | torch.device) -> int | None:
    """Return how often a call makes the host wait for a CUDA device, by ``set_sync_debug_mode``; None elsewhere."""
    if torch.device(device).type != "cuda":
        return None
    return count_wait_warnings(function, torch.cuda.get_sync_debug_mode, torch.cuda.set_sync_debug_mode)


def count_wait_warnings(function: Function, get_mode: Callable[[], int], set_mode: Callable[[int | str], object]) -> int:
    """Count the warnings about waits that ``function`` raises while the debug mode is "warn"; restore the mode."""
    before = get_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        set_mode("warn")
        caught.clear()  # the first call in a process warns that this mode is a prototype
        try:
            function()
        finally:
            set_mode(before)
    return sum(WAIT_WARNING in str(warning.message) for warning in caught)
