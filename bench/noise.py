"""Noise of the machine during a measurement: what other processes take of its CPUs and GPUs.

CPU time of others is the busy time of the CPUs that this process may use, by the system's counters, less that of this process
and its descendants. What cannot be read is None, never quiet. A library may disturb the cases after its own, too: ``isolate``
undoes that where it can, and ``measure_busy_threads`` is its measure where it cannot. Imports no torch.
"""

import contextlib
import ctypes
import os
import random
import sys
import time
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar

import psutil

from bench.records import Disturbance, Record

PROC = Path("/proc")
ROOT_VARIABLE = "AUGMARK_ROOT"
"""Process id of what leads several processes that measure side by side: none of them disturbs another."""
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SHORTEST_S = 0.2
"""Counters tick every hundredth of a second: shares of shorter times are not known."""
BUSY = ("user", "nice", "system", "irq", "softirq")
"""Columns of busy time; ``guest`` is part of ``user``, ``steal`` is counted apart."""
COLUMNS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
SPIN_S, IDLE_S, BUSY_THREADS = 0.02, 0.2, 0.3
"""Seconds for which OpenMP's threads may spin after their work, seconds that confirm a busy thread, and cores that count."""
ALLOCATOR = ((-3, 2**25), (-3, 2**30), (-1, 2**31 - 1))
"""M_MMAP_THRESHOLD, at the most that glibc before 2.35 takes and then more, and M_TRIM_THRESHOLD."""
THROTTLED = 0x0000_0000_0000_00E8
"""NVML's clock event reasons of heat and power: hardware 0x8, software thermal 0x20, hardware thermal 0x40, brake 0x80."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Counters at one moment, in seconds; None where the system has none."""

    wall_s: float
    cpus: int
    others_s: float | None
    """CPU seconds that were not this measurement's."""
    steal_s: float | None
    cpu_pressure_s: float | None
    memory_pressure_s: float | None


class Watch:
    """Counters at the start of a measurement; ``disturbance`` compares them with those of now.

    A measurement shorter than ``SHORTEST_S`` is judged by a window of that length that ends with it.
    """

    _before: ClassVar[deque[Sample]] = deque(maxlen=64)
    busy_threads: ClassVar[float] = 0.0
    """Cores that threads of libraries used when they were last looked for: once a case, and as long as there are any."""
    looked_at: ClassVar[set[tuple[Any, ...]]] = set()
    """Cases of this process after which they were looked for."""

    def __init__(self) -> None:
        self._start = take_sample()
        self._before.append(self._start)

    def disturbance(self) -> Disturbance:
        """Return what others took since the start."""
        end = take_sample()
        long_ago = [sample for sample in self._before if end.wall_s - sample.wall_s >= SHORTEST_S]
        return compare(min([self._start, *long_ago[-1:]], key=attrgetter("wall_s")), end, gpu_facts())


@contextlib.contextmanager
def isolate(case: Record) -> Iterator[None]:
    """Make a repetition independent of those before it: seed the global generators by its key, fix the allocator's thresholds.

    Restore PyTorch's thread count after it.
    """
    fix_allocator()
    seed = zlib.crc32(repr(case.key).encode())
    random.seed(seed)
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None:
        numpy.random.seed(seed)
    if torch is None:
        yield
        return
    torch.manual_seed(seed)
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def fix_allocator() -> None:
    """Let glibc keep freed memory for the next call (mallopt(3)), as PyTorch's allocator for GPUs does.

    Else what was measured before decides which calls pay for fresh pages: 6,143 of them or none for a block of 24 MB.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library
        for parameter, value in ALLOCATOR:
            ctypes.CDLL(None).mallopt(parameter, value)


def measure_busy_threads() -> float:
    """Return the cores that threads of this process use while the caller sleeps; 0.0 below ``BUSY_THREADS``."""
    cores = 0.0
    for wait_s in (SPIN_S, IDLE_S):
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        time.sleep(wait_s)
        cores = (time.process_time() - start_cpu_s) / (time.perf_counter() - start_s)
        if cores < BUSY_THREADS:
            return 0.0
    return cores


@contextlib.contextmanager
def watch() -> Iterator[Watch]:
    """Watch the machine during a block."""
    yield Watch()


def take_sample() -> Sample:
    """Read the counters of now."""
    cpus = usable_cpus()
    times, own_s = read_cpu_times(_read(PROC / "stat") or "", cpus), own_cpu_s()
    return Sample(
        wall_s=time.monotonic(),
        cpus=len(cpus),
        others_s=None if times is None or own_s is None else sum(times[name] for name in BUSY) - own_s,
        steal_s=times["steal"] if times else None,
        cpu_pressure_s=read_pressure(_read(PROC / "pressure" / "cpu")),
        memory_pressure_s=read_pressure(_read(PROC / "pressure" / "memory")),
    )


def compare(start: Sample, end: Sample, gpu: tuple[int | None, bool | None] = (None, None)) -> Disturbance:
    """Return shares of the time between two samples, and what GPUs report."""
    wall_s = end.wall_s - start.wall_s

    def share(name: str, cpus: int = 1) -> float | None:
        before, after = getattr(start, name), getattr(end, name)
        if before is None or after is None or wall_s < SHORTEST_S:
            return None
        return min(1.0, max(0.0, (after - before) / (wall_s * cpus)))

    processes, throttled = gpu
    return Disturbance(
        others_cpu=share("others_s", end.cpus), steal=share("steal_s", end.cpus), gpu_others=processes, throttled=throttled,
        cpu_pressure=share("cpu_pressure_s"), memory_pressure=share("memory_pressure_s"),
    )  # fmt: skip


def usable_cpus() -> frozenset[int]:
    """Return the CPUs that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    return frozenset(affinity(0)) if affinity else frozenset(range(os.cpu_count() or 1))


def read_cpu_times(stat: str, cpus: frozenset[int]) -> dict[str, float] | None:
    """Return the seconds of some CPUs by column of /proc/stat; None if a CPU is missing."""
    rows = {row[0]: row[1:] for line in stat.splitlines() if (row := line.split()) and row[0].startswith("cpu")}
    chosen = [rows.get(f"cpu{cpu}") for cpu in cpus]
    if not chosen or None in chosen:
        return None
    return {name: sum(float(row[i]) for row in chosen if row) / TICKS_PER_S for i, name in enumerate(COLUMNS)}


def read_pressure(text: str | None) -> float | None:
    """Return the seconds in which some task stood still for want of a resource, by pressure stall information."""
    totals = (float(line.rpartition("total=")[2]) / 1e6 for line in (text or "").splitlines() if line.startswith("some "))
    return next(totals, None)


def own_cpu_s() -> float | None:
    """Return the CPU seconds of the measurement's processes, those that have ended and were waited for among them."""
    total = 0.0
    try:
        for process in own_processes():
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                spent = process.cpu_times()
                total += spent.user + spent.system + spent.children_user + spent.children_system
    except (psutil.Error, OSError, AttributeError):
        return None
    return total


def own_processes() -> list[psutil.Process]:
    """Return the process that leads the measurement (``ROOT_VARIABLE``, else this one) and its descendants."""
    root = psutil.Process(int(os.environ.get(ROOT_VARIABLE, os.getpid())))
    return [root, *root.children(recursive=True)]


def gpu_facts() -> tuple[int | None, bool | None]:
    """Return the number of other processes that compute on this machine's GPUs, and whether a clock is throttled, by NVML."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        family = {process.pid for process in own_processes()}
        processes = {entry.pid for handle in handles for entry in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)}
        reasons = [pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle) for handle in handles]
    except Exception:  # no driver, no NVML, a virtual GPU: its errors are many, and each means unknown
        return None, None
    throttled = any(reason & THROTTLED for reason in reasons)
    # In a container NVML gives the host's process ids: if none is known here, one of them may be this process.
    return (len(processes - family) if processes & family or not processes else None), throttled


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
