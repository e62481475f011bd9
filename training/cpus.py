"""CPUs and memory that this process may use, also in a container or service with less than the machine."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

CGROUP, GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
QUOTA = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))
"""Files of cgroup v2 and v1 with the time that a group may use, and the period."""
MEMORY = (("memory.max",), ("memory/memory.limit_in_bytes",))


def usable_cpus() -> int:
    """Return the number of CPUs for threads and workers: by affinity, and by quotas of the process's control groups."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [math.ceil(limit / period) for names in QUOTA for limit, period in _limits(names) if limit > 0]
    return max(1, min([count, *quotas]))


def usable_memory(total: int) -> int:
    """Return the bytes of a machine's ``total`` that the process's control groups allow."""
    return min([total, *(int(limit) for names in MEMORY for (limit,) in _limits(names))])


def _limits(names: tuple[str, ...]) -> Iterator[list[float]]:
    """Yield the numbers in files of the process's control group, and of those above it that have a limit."""
    group = CGROUP
    with contextlib.suppress(OSError, StopIteration):
        group /= next(line[4:] for line in GROUP.read_text().splitlines() if line.startswith("0::/"))
    for folder in (group, *group.parents):
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            yield [float(word) for name in names for word in (folder / name).read_text().split()]
        if folder == CGROUP:
            return
