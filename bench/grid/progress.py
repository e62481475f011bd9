"""How far a benchmark session is, on a terminal (one line, rewritten) or in a log (a line each few seconds)."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

LINE_EVERY_S = 10.0
REWRITE_EVERY_S = 0.2
# Warm-up, building, and slow cases whose least number of calls needs longer than their share; measured on the default grid.
OVERHEAD_S = 0.15


class Progress:
    """Counts items and says n/total and the time left. With ``-v`` pytest's own lines, one an item, stand instead."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._total = 0
        self._done = 0
        self._started = time.monotonic()
        self._said = self._started

    @property
    def _reporter(self) -> Any:
        return self._config.pluginmanager.get_plugin("terminalreporter")

    def say(self, line: str, **markup: bool) -> None:
        """A line of its own, now."""
        if self._reporter is not None:
            self._reporter.ensure_newline()
            self._reporter.write_line(line, **markup)

    def begin(self, items: Sequence[Any], settings: dict[str, Any], folder: Path | None) -> None:
        """Say what will be measured and about how long it takes."""
        self._total = len(items)
        self._started = self._said = time.monotonic()
        cases = len({item.id.rpartition("-pass")[0] for item in items})
        about = duration(sum(item.length * settings["case_seconds"] + OVERHEAD_S for item in items))
        self.say(f"Measuring {cases} cases in {settings['passes']} passes, about {about}; records go to {folder}")
        if self._reporter is not None:
            self._reporter.showfspath = False  # items of both files alternate: their names would fill the screen

    def starting(self, nodeid: str) -> None:
        """The item that runs now; on a terminal its name stands in the line while it runs."""
        if self._quiet():
            return
        now = time.monotonic()
        on_terminal = self._reporter.isatty
        if now - self._said < (REWRITE_EVERY_S if on_terminal else LINE_EVERY_S):
            return
        self._said = now
        line = f"{self._done}/{self._total} ({self._done * 100 // max(self._total, 1)}%)"
        if self._done:
            line += f", {duration((now - self._started) / self._done * (self._total - self._done))} left"
        if on_terminal:
            name = nodeid.partition("[")[2].rstrip("]")
            self._reporter.rewrite(f"{line}  {name}"[: self._reporter._tw.fullwidth - 1], erase=True)
        else:
            self._reporter.write_line(line)

    def status(self, report: Any) -> tuple[str, str, str] | None:
        """Counts the item. Without ``-v`` no letter is printed for it, except where one fails outside of its case."""
        if report.when != "call":
            return None
        self._done += not report.skipped
        if self._quiet():
            return None
        if report.failed:
            self.say(f"failed: {report.nodeid.partition('[')[2].rstrip(']')}: {report.longreprtext}", red=True)
        return (report.outcome, "", "")

    def _quiet(self) -> bool:
        return self._reporter is None or self._config.get_verbosity() > 0


def duration(seconds: float) -> str:
    """Such as 40 s, 3 min or 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
