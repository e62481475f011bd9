"""Images per second of whole recipes, by backend. Collected with ``--benchmark-only``."""

from collections.abc import Callable
from typing import Any

from bench.grid.items import CasePass


def test_recipes(case_pass: CasePass, benchmark: Any, measure_pass: Callable[[], None]) -> None:
    """One pass of one recipe: a uint8 batch that lies on the device, into a normalised batch of its own memory."""
    measure_pass()
