"""Images per second of whole recipes, by backend. Collected with ``--benchmark-only``."""

from collections.abc import Callable
from typing import Any

from bench.records import Record


def test_recipes(case: Record, benchmark: Any, measure: Callable[[], None]) -> None:
    """Measure one round: a uint8 batch on the device into a normalised batch of its own memory."""
    measure()
