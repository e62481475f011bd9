"""Images per second of single ops, by backend. Collected with ``--benchmark-only``."""

from collections.abc import Callable
from typing import Any

from bench.grid.items import CasePass


def test_ops(case_pass: CasePass, benchmark: Any, measure_pass: Callable[[], None]) -> None:
    """One pass of one op: a batch that lies on the device, float in [0, 1] (or uint8), into a batch of its own memory."""
    measure_pass()
