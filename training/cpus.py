"""CPUs that this process may use."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable_cpus() -> int:
    """Return the number of CPUs for threads and workers: by affinity, and by a container's quota (cgroup v2 or v1)."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return count if quota is None else max(1, min(count, math.ceil(quota)))


def _quota() -> float | None:
    """Return the CPUs' time a period that the container may use, None without a limit."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            limit, period = " ".join((CGROUP / name).read_text() for name in names).split()
            return None if limit in ("max", "-1") else float(limit) / float(period)
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return None
