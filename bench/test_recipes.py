"""Images per second of whole recipes, by backend. Collected with ``--benchmark-only``."""

from typing import Any

import pytest

from bench.records import Record
from bench.session import SESSION


def test_recipes(case: Record, benchmark: Any, pytestconfig: pytest.Config) -> None:
    """Measure one round: a uint8 batch on the device into a normalised batch of its own memory."""
    pytestconfig.stash[SESSION].measure(case, benchmark)
