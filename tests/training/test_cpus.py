"""CPUs by affinity and by the quotas of a process in the group a/b, and its memory."""

import os
from pathlib import Path

import pytest

from training import cpus


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "10000 100000"}, 1),
        ({"cpu.max": "max 100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000", "c/cpu.max": "100000 100000"}, 2),
        ({"a/b/memory.max": "max", "a/memory.max": "5000", "memory.max": "7000"}, 4),
        ({}, 4),
    ],
)
def test_limits_of_control_groups(files: dict[str, str], limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "self").write_text("4:memory:/x\n0::/a/b\n")
    monkeypatch.setattr(cpus, "CGROUP", tmp_path)
    monkeypatch.setattr(cpus, "GROUP", tmp_path / "self")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    assert cpus.usable_cpus() == limit
    assert cpus.usable_memory(9000) == (5000 if "memory.max" in files else 9000)
