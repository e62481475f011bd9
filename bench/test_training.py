"""Overhead of the trainer's step over a bare loop of the same model. Collected with ``--benchmark-only``."""

from collections.abc import Callable
from typing import Any

from bench.records import Record


def test_training(case: Record, benchmark: Any, measure: Callable[[], None]) -> None:
    """Measure one round: training steps without augmentation, each beside a step of the bare loop."""
    measure()
