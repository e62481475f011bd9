"""What every section of a report is made from."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.records import Run
from bench.report.blocks import Figure
from bench.report.lanes import Differences, named_differences

FIGURES = "figures"


@dataclass(frozen=True, kw_only=True)
class Context:
    """A run, and what the catalog said of each cell's difference from the definition (None: unknown)."""

    run: Run
    differences: Differences | None

    @classmethod
    def of(cls, run: Run) -> "Context":
        return cls(run=run, differences=named_differences(run))

    def figure(self, name: str, draw: Callable[[Path], object], alternative: str) -> Figure:
        """Draw a picture into the run's figures; ``name`` becomes the file's name."""
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:100]
        path = Path(FIGURES) / f"{slug}.png"
        draw(self.run.path / path)
        return Figure(path=path, alternative=alternative)
