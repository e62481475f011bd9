"""What the trainer's own step costs over a bare loop of the same model. Collected with ``--benchmark-only``."""

from collections.abc import Callable
from typing import Any

from bench.grid.items import OverheadPass


def test_training(overhead_pass: OverheadPass, benchmark: Any, measure_overhead_pass: Callable[[], None]) -> None:
    """One pass of training steps without augmentation, each after a step of the bare loop, as a ratio within the pass."""
    measure_overhead_pass()
