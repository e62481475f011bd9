"""What a pytest item of a benchmark session measures: a pass of a case, or of the trainer's own overhead."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from bench.grid.cases import PlannedCase


@dataclass(frozen=True, slots=True)
class CasePass:
    """A pytest item: pass ``number`` (from 0) of a planned case."""

    planned: PlannedCase
    number: int
    length: ClassVar[int] = 1
    """How long it takes, in samples of a case."""

    @property
    def id(self) -> str:
        return f"{self.planned.case.id}-pass{self.number + 1}"


@dataclass(frozen=True, slots=True)
class OverheadPass:
    """A pytest item: pass ``number`` (from 0) of what the trainer's step costs over a bare loop on a device."""

    device: str
    number: int
    length: ClassVar[int] = 30  # a training step is longer than an augmentation, and its overhead small

    @property
    def id(self) -> str:
        return f"overhead-{self.device}-pass{self.number + 1}"


Item = CasePass | OverheadPass


def pass_of(item: pytest.Item) -> Item | None:
    """What an item measures; None for one that pytest has made up for a suite without items."""
    assert isinstance(item, pytest.Function)
    one = item.callspec.params.get("case_pass") or item.callspec.params.get("overhead_pass")
    return one if isinstance(one, CasePass | OverheadPass) else None
