"""The clock: how long one call takes, measured so that two calls may be compared.

- A clock that synchronises: reading it first waits for the device, so queued kernels are inside the time (``Clock``).
- Warm-up and compilation end before the first sample; how many samples fit is decided by time, then all are taken.
- One sample is one call: its spread is kept, and calls that skip a p < 1 op stay visible as a second mode.
- The garbage collector is off during a call: in a test process, with its large heap, one collection is longer than many calls.
- Beside the wall time there is the device's own (``device_seconds``), and the memory of a call (``peak_bytes``).
"""

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Function = Callable[[], object]
Sampler = Callable[[Function, int], Sequence[float]]

MAX_CALLS = 1000
"""Samples a pass at most: calls of a few microseconds would fill the records and tell nothing more."""
MAX_WARMUP_S = 60.0
"""A function that has not settled by then (a compiler that recompiles with every draw) is measured as it is."""


class Clock:
    """Seconds on the wall, read after the device has finished all that it was given. Calling it reads it."""

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
    """A function that waits until the device has nothing left to do (at once, on a CPU)."""
    device = torch.device(device)
    if device.type == "cpu":
        return lambda: None
    module = torch.get_device_module(device)
    # MPS has one device and its synchronize takes no argument.
    return module.synchronize if device.type == "mps" else lambda: module.synchronize(device)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One pass over a function.

    ``samples_s`` are seconds of each call after the warm-up, ``warmup_calls`` and ``warmup_s`` what that took, ``threads``
    torch's intra-op threads as they were in the timed region.
    """

    samples_s: tuple[float, ...]
    warmup_calls: int
    warmup_s: float
    threads: int

    @property
    def median_s(self) -> float:
        """Median seconds of a call."""
        return statistics.median(self.samples_s)

    @property
    def compile_s(self) -> float:
        """Seconds that the warm-up took beyond as many steady calls: what a compiled function spends on compiling."""
        return max(0.0, self.warmup_s - self.warmup_calls * self.median_s)


def measure(
    function: Function,
    *,
    clock: Clock,
    seconds: float,
    min_calls: int = 3,
    warmup_calls: int = 2,
    warmup_s: float = 0.03,
    settled: Callable[[], bool] | None = None,
    sampler: Sampler | None = None,
) -> Timing:
    """Warm a function up, then time single calls for about ``seconds``.

    Args:
        clock: read before and after each call.
        min_calls: samples to take even if they need longer than ``seconds``.
        warmup_calls, warmup_s: warm up for at least so many calls and seconds.
        settled: asked after each warm-up call; False prolongs the warm-up (a compiler still at work), up to a minute.
        sampler: takes the samples, ``sampler(function, rounds)``; default is ``sample`` with this clock.
    """
    spent = _warm_up(function, clock, warmup_calls, warmup_s, settled)
    # The mean, not the median: of calls that do their work half of the time the median may be that of idle ones. The first
    # call is left out where there are others, as it may have built tables, loaded kernels or compiled.
    typical = statistics.fmean(spent[1:] or spent)
    rounds = min(MAX_CALLS, max(min_calls, math.ceil(seconds / max(typical, 1e-9))))
    samples = (sampler or (lambda f, n: sample(f, n, clock=clock)))(function, rounds)
    return Timing(
        samples_s=tuple(samples),
        warmup_calls=len(spent),
        warmup_s=sum(spent),
        threads=torch.get_num_threads(),  # read here, after the last call and in its thread: libraries change it
    )


def _warm_up(
    function: Function, clock: Clock, min_calls: int, min_seconds: float, settled: Callable[[], bool] | None
) -> list[float]:
    spent: list[float] = []
    total = 0.0
    while True:
        spent += sample(function, 1, clock=clock)
        total += spent[-1]
        enough = len(spent) >= MAX_CALLS or (len(spent) >= min_calls and total >= min_seconds)
        if total >= MAX_WARMUP_S or (enough and (settled is None or settled())):
            return spent


def sample(function: Function, rounds: int, *, clock: Clock) -> list[float]:
    """Seconds of each of ``rounds`` calls, the device's work included, the garbage collector off."""
    samples = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            start = clock()
            function()
            samples.append(clock() - start)
    finally:
        if collecting:
            gc.enable()
    return samples


# ---- the device's own clock -------------------------------------------------------------------------------------------


def device_seconds(function: Function, device: str | torch.device, *, calls: int = 10) -> float | None:
    """Median seconds that a call keeps the device busy, by its events; None on a CPU or where it has no timed events.

    On CUDA the device is first kept busy for as long as the host needs to queue the call, so that its waiting for the host
    is left out: the difference to the wall time is the host's share. A function that synchronises by itself cannot be queued
    ahead; then the host's time between its kernels is inside.
    """
    device = torch.device(device)
    if device.type == "cpu":
        return None
    module = torch.get_device_module(device)
    if not hasattr(module, "Event"):
        return None
    synchronize = synchronizer(device)
    host_s = statistics.median(sample(function, 3, clock=Clock(device)))
    measured = []
    for _ in range(calls):
        start, end = module.Event(enable_timing=True), module.Event(enable_timing=True)
        if device.type == "cuda":
            _keep_busy(device, 1.5 * host_s)
        start.record()
        function()
        end.record()
        synchronize()
        measured.append(start.elapsed_time(end) / 1e3)
    return statistics.median(measured)


def _keep_busy(device: torch.device, seconds: float) -> None:
    # In cycles of a clock taken as fast as they get: a slower one only waits longer. At most 50 ms, as the device dominates
    # longer calls anyway.
    with torch.cuda.device(device):
        torch.cuda._sleep(int(min(seconds, 0.05) * 2e9))


# ---- memory -----------------------------------------------------------------------------------------------------------


def peak_bytes(function: Function, device: str | torch.device, *, calls: int = 1) -> int | None:
    """Bytes that a call has allocated at most at one moment, beyond what there was before; the largest of ``calls``.

    From the caching allocator's statistics on CUDA, from the profiler's record of torch's allocations on a CPU (tensors and
    the kernels' scratch memory; what PIL or numpy allocate by themselves is not seen, nor the fused backend's room in C for the
    one image that a thread works on). None on other devices.
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

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        for _ in range(calls):
            function()
    results = getattr(recorded.profiler, "kineto_results", None)
    if results is None:
        return None
    changes = sorted((event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


# ---- the compiler -----------------------------------------------------------------------------------------------------


class CompilerWatch:
    """What ``torch.compile`` did since this was made: graph breaks, recompilations, and whether it is still at it.

    Making one forgets everything compiled before: dynamo keeps its cache for each piece of Python code, all pipelines of a
    kind share that code, and the ninth would silently run eagerly (``recompile_limit`` is 8).
    """

    def __init__(self) -> None:
        from torch._dynamo import utils

        torch._dynamo.reset()
        self._counters().clear()
        self._frames = 0
        if hasattr(utils, "clear_compilation_metrics"):
            utils.clear_compilation_metrics()

    @staticmethod
    def _counters() -> Any:
        from torch._dynamo.utils import counters

        return counters

    def settled(self) -> bool:
        """Whether nothing was compiled since this was asked last."""
        before, self._frames = self._frames, int(self._counters()["frames"]["total"])
        return before == self._frames

    @property
    def graph_breaks(self) -> int:
        """Places where compiling stopped and Python took over, those met again in a recompilation included."""
        # Releases differ in the counter to which they add a break; none adds it to both.
        return sum(sum(self._counters()[kind].values()) for kind in ("graph_break", "unimplemented"))

    @property
    def recompiles(self) -> int | None:
        """Frames compiled anew because a guard failed; None if this torch does not tell."""
        from torch._dynamo import utils

        if not hasattr(utils, "get_compilation_metrics"):
            return None
        return sum(bool(getattr(metrics, "recompile_reason", None)) for metrics in utils.get_compilation_metrics())
