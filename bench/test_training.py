"""Overhead of the trainer's step over a bare loop of the same model. Collected with ``--benchmark-only``."""

from typing import Any

import pytest

from bench.records import Record
from bench.session import SESSION


def test_training(case: Record, benchmark: Any, pytestconfig: pytest.Config) -> None:
    """Measure one round: training steps without augmentation, each beside a step of the bare loop."""
    pytestconfig.stash[SESSION].measure(case, benchmark)
