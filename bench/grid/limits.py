"""How far from the machine's limit a call is, and what it asks of the device: kernel launches and waits of the host.

The limit of an augmentation is a copy. Whatever it does, it reads its batch and writes its result: at the speed at which the
device copies its own memory, that takes (bytes in + bytes out) / bandwidth seconds, and no call can be much faster. The limit
of a training step is a matrix product: a network does little else, and rarely as well as one large product does.
"""

import statistics
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from bench.grid.timing import Clock, Function, measure, sample

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


MATMUL_SIDE = {"cuda": 8192, "cpu": 1024}
"""Of square matrices: a product that takes about a millisecond on a data-centre GPU, and tens of them on a CPU."""
MATMUL_SECONDS = 0.3
"""Longer than the first moments in which a device may run faster than it can keep up."""


def matmul_flops(device: str | torch.device, precision: str, *, side: int | None = None) -> float:
    """Operations a second of a large matrix product, two a multiply-add, by the median call of ``MATMUL_SECONDS``.

    ``precision`` is that of the operands, "float32" or "bfloat16". Where convolutions of float32 run as TF32 (cuDNN's default),
    so does the product: ``matmul_precision`` tells.
    """
    device = torch.device(device)
    side = side or MATMUL_SIDE.get(device.type, 1024)
    # Random, as in a network: of zeros a GPU draws less power, and runs faster for it.
    generator = torch.Generator(device).manual_seed(0)
    dtype = getattr(torch, precision)
    one, other = (torch.randn(side, side, device=device, generator=generator).to(dtype) for _ in range(2))
    result = torch.empty_like(one)
    with _as_convolutions(device):
        product: Function = lambda: torch.matmul(one, other, out=result)  # noqa: E731
        timing = measure(product, clock=Clock(device), seconds=MATMUL_SECONDS)
    return 2 * side**3 / timing.median_s


def matmul_precision(device: str | torch.device, precision: str) -> str:
    """In what convolutions of this precision are computed there: "tf32" for float32 on CUDA where cuDNN may, else itself."""
    device = torch.device(device)
    if device.type != "cuda" or precision != "float32" or _of_convolutions() != "tf32":
        return precision
    return "tf32" if torch.cuda.get_device_capability(device) >= (8, 0) else precision


def _of_convolutions() -> str:
    precision: str = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]  # an object put in the module's place
    return precision


@contextmanager
def _as_convolutions(device: torch.device) -> Iterator[None]:
    """Matrix products of float32 as precise as convolutions, which by torch's defaults are less precise than they."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = _of_convolutions()
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


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
