"""What every section of a report is made from."""

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.records.runs import Run
from bench.report.blocks import Figure, Paragraph, Quiet
from bench.report.lanes import Differences, named_differences

REPORT = "report"
FIGURES = "figures"
MOST_FIGURES, MOST_OF_A_KIND, ALWAYS_OF_A_KIND = 20, 8, 1
"""The report of a usual run stays below. Beyond them, as when runs of twenty machines are merged, tables and measurements.csv
have the values; each kind of figure gets some, however many others there are."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """A run, what the catalog said of each cell's difference from the definition (None: unknown), and the report's folder."""

    run: Run
    differences: Differences | None
    folder: Path
    drawn: Counter[str] = field(default_factory=Counter)
    """How many figures there are of each kind, and with each file's name."""

    @classmethod
    def of(cls, run: Run, folder: Path | None = None) -> "Context":
        """``folder`` is where the report goes: the run's own folder for it by default."""
        return cls(run=run, differences=named_differences(run), folder=folder or run.path / REPORT)

    def beside(self, path: Path) -> str:
        """A file as a link from the report."""
        return Path(os.path.relpath(path, self.folder)).as_posix()

    def figure(self, name: str, draw: Callable[[Path], object], alternative: str) -> Figure | Paragraph:
        """Draw a picture, once for the page and for its Markdown twin; a paragraph where the report has too many of them.

        ``name`` becomes the file's name, and says up to its first hyphen what kind of figure it is. ``draw`` gets the path that
        ``bench.report.figures.save`` writes to.
        """
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:100]
        kind = f"{slug.partition('-')[0]} figures"
        few = self.drawn[kind] < ALWAYS_OF_A_KIND
        if not few and (self.drawn[kind] >= MOST_OF_A_KIND or self.drawn["figures"] >= MOST_FIGURES):
            return Paragraph([Quiet(f"No figure: this report has {self.drawn[kind]} of its kind; the table has the values.")])
        self.drawn.update((kind, "figures", slug))
        number = self.drawn[slug]  # "box.1" and "box-1" are two machines
        path = Path(FIGURES) / (f"{slug}.svg" if number == 1 else f"{slug}-{number}.svg")
        draw(self.folder / path)
        return Figure(path=path, alternative=alternative)
