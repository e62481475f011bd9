"""Images per second of single ops, by backend. Collected with ``--benchmark-only``."""

from typing import Any

import pytest

from bench.records import Record
from bench.session import SESSION


def test_ops(case: Record, benchmark: Any, pytestconfig: pytest.Config) -> None:
    """Measure one round: a float batch in [0, 1] (or uint8) on the device into a batch of its own memory."""
    pytestconfig.stash[SESSION].measure(case, benchmark)
