"""Terminal display of a benchmark session: progress (one line, rewritten; in a log a line every few seconds) and a summary."""

import io
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

import pytest
from rich.console import Console
from rich.table import Column, Table

from bench.jobs.job import duration
from bench.records import Case, Plan, Record, Speed, worst_disturbance
from bench.statistics import SPREAD, half_interval, reached_target

LINE_EVERY_S = 10.0
REWRITE_EVERY_S = 0.2
LANES = {"per_image": "i", "per_batch": "b", "mixed": "m"}
LEGEND = (
    f"images/s, median of the rounds, {SPREAD}. Parameters drawn: i per image, b once a batch, m some ops each way; "
    "compare i with i and b with b. - unsupported"
)


class Progress:
    """Display of a session: items done, n/total and the time left. With ``-v`` pytest prints its own line per item instead."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        phase = config.getoption("phase")
        self._phase, self._later_s = f"{phase}: " if phase else "", config.getoption("later") or 0.0
        self._total = self._cases = self._done = self.settled = 0
        self._has_target = False
        self._printed = time.monotonic()

    @property
    def _reporter(self) -> Any:
        return self._config.pluginmanager.get_plugin("terminalreporter")

    def print_line(self, line: str, **markup: bool) -> None:
        """Print a line of its own, now."""
        if self._reporter is not None:
            self._reporter.ensure_newline()
            self._reporter.write_line(line, **markup)

    def begin(self, rounds: Sequence[Record], plan: Plan, folder: object, left_s: Callable[[], float | None]) -> None:
        """Print what will be measured; ``left_s`` estimates the seconds that are left, None before the first round."""
        self._total, self._cases = len(rounds), len({case.case_key for case in rounds})
        self._has_target, self._left_s = plan.target is not None, left_s
        self._printed = time.monotonic()
        words = f" at most, each until its median is known to {plan.target:.0%}" if plan.target else ""
        about = f", within about {duration(plan.budget_s)}" if plan.budget_s else ""
        self.print_line(
            f"{self._phase}Measuring {self._cases} cases in {plan.rounds} rounds{words}{about}; records go to {folder}"
        )
        if self._reporter is not None:
            self._reporter.showfspath = False  # items of several files alternate: their names would fill the screen

    def start_item(self, nodeid: str) -> None:
        """Display the count, the time left, and on a terminal the name of the item that starts."""
        if self._is_quiet():
            return
        now = time.monotonic()
        on_terminal = self._reporter.isatty
        if now - self._printed < (REWRITE_EVERY_S if on_terminal else LINE_EVERY_S):
            return
        self._printed = now
        line = f"{self._phase}{self._done}/{self._total} ({self._done * 100 // max(self._total, 1)}%)"
        if self._has_target:
            line = f"{self._phase}round {self._done // max(1, self._cases) + 1}, {self.settled}/{self._cases} cases settled"
        left_s = self._left_s()
        line += f", {duration(left_s + self._later_s)} left" if left_s is not None else ""
        if on_terminal:
            line = f"{line}  {_item_name(nodeid)}"[: self._reporter._tw.fullwidth - 1]
            self._reporter.rewrite(line, erase=True)
        else:
            self._reporter.write_line(line)

    def end_item(self, report: Any) -> tuple[str, str, str] | None:
        """Count the item. Without ``-v`` pytest prints no letter for it, and a line only if it failed."""
        if report.when != "call":
            return None
        self._done += not report.skipped
        if self._is_quiet():
            return None
        if report.failed:
            self.print_line(f"failed: {_item_name(report.nodeid)}: {report.longreprtext}", red=True)
        return (report.outcome, "", "")

    def _is_quiet(self) -> bool:
        return self._reporter is None or self._config.get_verbosity() > 0


def _item_name(nodeid: str) -> str:
    return nodeid.partition("[")[2].rstrip("]")


def summary_lines(cases: Iterable[Case], *, width: int, plan: Plan | None = None) -> list[str]:
    """Return tables of images/s as lines, a row per subject, a column per backend; without the spread where too wide."""
    cases = sorted(cases, key=lambda case: _shape(case.first))
    if not cases:
        return []
    lines = []
    for _, group in groupby(cases, key=lambda case: _shape(case.first)):
        rows = list(group)
        first: Speed = rows[0].first
        title = f"{first.suite} on {first.device}, batch {first.batch_size}, {first.pixels}, {first.dtype}"
        table = _render(rows, spread=True)
        lines += ["", title, *(table if max(map(len, table)) <= width else _render(rows, spread=False))]
    lines += ["", LEGEND, *_precision(cases), *([text] if plan and (text := reached_target(cases, plan)) else [])]
    if worst := worst_disturbance(record for case in cases for record in case.records):
        total, quiet = (sum(len(case.records) for case in group) for group in (cases, [case.quiet for case in cases]))
        lines.append(f"{total - quiet} of {total} rounds were disturbed, at worst: {worst.words}.")
    if unmeasured := sum(case.status == "not_run" for case in cases):
        lines.append(f"{unmeasured} of {len(cases)} planned cases were not measured.")
    return lines


def _precision(cases: Sequence[Case]) -> list[str]:
    """Return a line on the numbers of rounds and the spread, if it is known."""
    spread = sorted(half for case in cases if (half := half_interval(case.quiet.values("images_per_s"))) is not None)
    if not spread:
        return []
    counts = sorted(len(case.records) for case in cases if case.status == "ok")
    words = f"n = {counts[0]} to {counts[-1]} rounds, {counts[len(counts) // 2]} in the middle case"
    return [f"{words}; ±{spread[len(spread) // 2]:.1%} in half of the cases, ±{spread[-1]:.0%} at most."]


def _shape(case: Speed) -> tuple[Any, ...]:
    return case.suite, case.device, case.image_size, case.width, case.batch_size, case.dtype


def _render(cases: Sequence[Case], *, spread: bool) -> list[str]:
    """Return the lines of a table, as wide as it has to be: numbers are whole even in a narrow terminal."""
    backends = list(dict.fromkeys(case.backend for case in cases))
    cells = {(case.subject, case.backend): _cell(case, spread=spread) for case in cases}
    table = Table("images/s", *(Column(backend, justify="right") for backend in backends), box=None, pad_edge=False)
    for subject in sorted({case.subject for case in cases}):
        table.add_row(subject, *(cells.get((subject, backend), "") for backend in backends))
    console = Console(file=io.StringIO(), width=10_000, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]


def _cell(case: Case, *, spread: bool) -> str:
    rate = case.median("images_per_s")
    if case.status != "ok" or rate is None:
        return {"unsupported": "-", "failed": "failed"}.get(case.status, "")
    half = half_interval(case.values("images_per_s")) if spread else None
    return f"{rate:,.0f}{'' if half is None else f' ±{half:.0%}'} {LANES.get(case.lane or '', ' ')}"
