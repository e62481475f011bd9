"""Images per second of single ops, by backend. Collected with ``--benchmark-only``."""

from collections.abc import Callable
from typing import Any

from bench.records import Record


def test_ops(case: Record, benchmark: Any, measure: Callable[[], None]) -> None:
    """Measure one round: a float batch in [0, 1] (or uint8) on the device into a batch of its own memory."""
    measure()
