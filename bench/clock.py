"""The clock: how long one call takes, measured so that two calls may be compared.

- The clock synchronises: reading it first waits for the device, so queued kernels are inside the time (``Clock``).
- Warm-up and compilation end before the first sample; the time budget decides how many samples are taken.
- One sample is one call: its spread is kept, and calls that skip an op with p < 1 stay visible as a second mode.
- The garbage collector is off during a call: in a test process, with its large heap, one collection outlasts many calls.
- Beside the wall time there is the device's own (``device_seconds``), and the memory of a call (``peak_bytes``).
"""

import functools
import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Function = Callable[[], object]
Sampler = Callable[..., Sequence[float]]
"""(function, calls, before, after) -> seconds of each call, as ``sample``."""

MAX_CALLS = 1000
"""Most samples per round: calls of a few microseconds would fill the records without adding information."""
MAX_WARMUP_S = 60.0
"""A function that has not settled by then (a compiler that recompiles with every draw) is measured as it is."""


class Clock:
    """Wall clock in seconds, read after the device has finished its queue. Calling the clock reads it."""

    def __init__(
        self,
        device: str | torch.device = "cpu",
        *,
        synchronize: Callable[[], object] | None = None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._synchronize = synchronize or synchronizer(device)
        self._now = now

    def __call__(self) -> float:
        self._synchronize()
        return self._now()


def synchronizer(device: str | torch.device) -> Callable[[], object]:
    """Return a function that waits until the device is idle (a no-op on a CPU)."""
    device = torch.device(device)
    if device.type == "cpu":
        return lambda: None
    module = torch.get_device_module(device)
    # MPS has one device and its synchronize takes no argument.
    return module.synchronize if device.type == "mps" else lambda: module.synchronize(device)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Samples of one function.

    ``samples_s`` are the seconds of each call after the warm-up, ``warmup_calls`` and ``warmup_s`` the cost of the warm-up,
    ``threads`` torch's intra-op threads in the timed region.
    """

    samples_s: tuple[float, ...]
    warmup_calls: int
    warmup_s: float
    threads: int

    @property
    def median_s(self) -> float:
        """Median seconds per call."""
        return statistics.median(self.samples_s)

    @property
    def compile_s(self) -> float:
        """Seconds of the warm-up beyond as many steady calls: the compile time of a compiled function."""
        return max(0.0, self.warmup_s - self.warmup_calls * self.median_s)


def measure(
    function: Function,
    *,
    clock: Clock,
    seconds: float,
    min_calls: int = 3,
    warmup_calls: int = 2,
    warmup_s: float = 0.03,
    is_warm: Callable[[], bool] | None = None,
    sampler: Sampler | None = None,
) -> Timing:
    """Warm a function up, then time single calls for about ``seconds``.

    Args:
        function: what is timed.
        clock: read before and after each call.
        seconds: approximate total of the samples.
        min_calls: fewest samples, even if they need longer than ``seconds``.
        warmup_calls: fewest calls of the warm-up.
        warmup_s: fewest seconds of the warm-up.
        is_warm: asked after each warm-up call; False (a busy compiler) prolongs the warm-up, up to ``MAX_WARMUP_S``.
        sampler: takes the samples, ``sampler(function, calls)``; default is ``sample`` with this clock.
    """
    warmup = _warm_up(function, clock, warmup_calls, warmup_s, is_warm)
    # The mean, not the median: of calls that do their work half of the time the median may be that of idle ones. The first
    # call is left out where there are others, as it may have built tables, loaded kernels or compiled.
    typical = statistics.fmean(warmup[1:] or warmup)
    calls = min(MAX_CALLS, max(min_calls, math.ceil(seconds / max(typical, 1e-9))))
    samples = (sampler or functools.partial(sample, clock=clock))(function, calls)
    return Timing(
        samples_s=tuple(samples),
        warmup_calls=len(warmup),
        warmup_s=sum(warmup),
        threads=torch.get_num_threads(),  # read here, after the last call and in its thread: libraries change it
    )


def _warm_up(
    function: Function, clock: Clock, min_calls: int, min_seconds: float, is_warm: Callable[[], bool] | None
) -> list[float]:
    samples: list[float] = []
    total = 0.0
    while True:
        samples += sample(function, 1, clock=clock)
        total += samples[-1]
        is_enough = len(samples) >= min_calls and total >= min_seconds
        if total >= MAX_WARMUP_S or (is_enough and (is_warm is None or is_warm())):
            return samples


def idle() -> None:
    """Do nothing around a call."""


def sample(function: Function, calls: int, before: Function = idle, after: Function = idle, *, clock: Clock) -> list[float]:
    """Return the seconds of each of ``calls`` calls, device work included, with the garbage collector off.

    ``before`` and ``after`` run around each call, off the clock.
    """
    samples = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(calls):
            before()
            start = clock()
            function()
            samples.append(clock() - start)
            after()
    finally:
        if collecting:
            gc.enable()
    return samples


def device_seconds(function: Function, device: str | torch.device, *, calls: int = 10) -> float | None:
    """Return the median seconds that a call keeps the device busy, by device events.

    On CUDA the device is first kept busy for as long as the host needs to queue the call, so that idle time spent waiting
    for the host is left out: the difference to the wall time is the host's share. A function that synchronises by itself
    cannot be queued ahead; the host's time between its kernels is then included.

    Returns:
        Seconds; None on a CPU and on devices without timed events.
    """
    device = torch.device(device)
    if device.type == "cpu":
        return None
    module = torch.get_device_module(device)
    if not hasattr(module, "Event"):
        return None
    synchronize = synchronizer(device)
    host_s = statistics.median(sample(function, 3, clock=Clock(device)))
    samples = []
    for _ in range(calls):
        start, end = module.Event(enable_timing=True), module.Event(enable_timing=True)
        if device.type == "cuda":
            _keep_busy(device, 1.5 * host_s)
        start.record()
        function()
        end.record()
        synchronize()
        samples.append(start.elapsed_time(end) / 1e3)
    return statistics.median(samples)


def _keep_busy(device: torch.device, seconds: float) -> None:
    # In cycles of the fastest clock: a slower one only waits longer. At most 50 ms: in longer calls the device dominates.
    with torch.cuda.device(device):
        torch.cuda._sleep(int(min(seconds, 0.05) * 2e9))


def peak_bytes(function: Function, device: str | torch.device, *, calls: int = 1) -> int | None:
    """Return the most bytes that a call holds at one moment beyond what was allocated before; the largest of ``calls``.

    Read from the caching allocator's statistics on CUDA and from the profiler's record of torch's allocations on a CPU
    (memory of PIL, numpy and the per-thread scratch of fused in C is not seen).

    Returns:
        Bytes; None on other devices.
    """
    device = torch.device(device)
    if device.type == "cuda":
        synchronizer(device)()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        for _ in range(calls):
            function()
        return torch.cuda.max_memory_allocated(device) - before
    return _cpu_peak_bytes(function, calls) if device.type == "cpu" else None


def _cpu_peak_bytes(function: Function, calls: int) -> int | None:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        for _ in range(calls):
            function()
    results = getattr(profiler.profiler, "kineto_results", None)
    if results is None:
        return None
    changes = sorted((event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]")
    return max(itertools.accumulate(change for _, change in changes), default=0)


class CompilerWatch:
    """Graph breaks, recompilations and activity of ``torch.compile`` since this object was made.

    Making a watch forgets everything compiled before: dynamo keeps its cache for each piece of Python code, all pipelines of a
    kind share that code, and the ninth would silently run eagerly (``recompile_limit`` is 8).
    """

    def __init__(self) -> None:
        from torch._dynamo import utils

        torch._dynamo.reset()
        utils.counters.clear()
        utils.clear_compilation_metrics()
        self._utils: Any = utils
        self._frames = 0

    def is_idle(self) -> bool:
        """Return True if nothing was compiled since the last call."""
        before, self._frames = self._frames, int(self._utils.counters["frames"]["total"])
        return before == self._frames

    @property
    def graph_breaks(self) -> int:
        """Number of graph breaks, those met again in a recompilation included."""
        # Releases differ in the counter to which they add a break; none adds it to both.
        return sum(sum(self._utils.counters[kind].values()) for kind in ("graph_break", "unimplemented"))

    @property
    def recompiles(self) -> int:
        """Number of frames compiled anew because a guard failed."""
        return sum(bool(metrics.recompile_reason) for metrics in self._utils.get_compilation_metrics())
