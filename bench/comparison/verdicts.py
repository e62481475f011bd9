"""What a comparison of two runs says on the terminal: a line a case, worst first, and what it comes to."""

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np
from rich.console import Console
from scipy.special import ndtri, stdtrit

from bench.comparison.compare import Comparison
from bench.comparison.contrast import FEWEST_PASSES, Row, Verdict
from bench.comparison.scores import ScoreRow, ScoreVerdict
from bench.comparison.seeds import FEWEST_SEEDS
from bench.report.quantities import counted, listed, percent, rounded

POWER = 0.8
COLOURS: Mapping[Verdict | ScoreVerdict, str] = {
    **{"slower": "red", "worse": "red", "faster": "green", "better": "green"},
    **{"same": "", "unclear": "yellow"},
}


def print_comparison(result: Comparison, console: Console) -> None:
    """One line a case, worst first, then what could not be compared and what it comes to."""

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    say(f"A: {result.names[0]}\nB: {result.names[1]}")
    if result.rows:
        say(
            "images/s of B over A (of training examples/s, of overhead the speed as a share of a bare loop's); "
            "n = passes or rounds in A, B; below 1: B is slower; intervals are of one case alone, verdicts allow for all"
        )
        say(f"{'ratio':>7}  {1 - result.level:.0%} interval  {'verdict':8} {'A per s':>11} {'B per s':>11}  n     case")
    for row in result.rows:
        say(_line(row), COLOURS[row.verdict])
    if result.scores:
        say("test accuracy after the last epoch, B minus A in points; n = seeds in both; below 0: B is worse")
        say(f"{'points':>7}  {1 - result.level:.0%} interval  {'verdict':8} {'A':>11} {'B':>11}  n     case")
    for score in result.scores:
        say(_score_line(score), COLOURS[score.verdict])
    for case, reason in result.newly_failed:
        say(f"failed in B only: {case}: {reason}", "red")
    for why, cases in result.left_out.items():
        say(f"not compared, {counted(len(cases), 'case')} {why}: {listed(cases, 6)}")
    for difference in result.differences:
        say(f"the runs differ, and the ratios show that too: {difference}", "yellow")
    for note in result.notes:
        say(f"note: {note}")
    for line in summary(result):
        say(line)


def _line(row: Row) -> str:
    known = math.isfinite(row.high)
    interval = f"[{row.low:.3f}, {row.high:.3f}]" if known else f"n < {FEWEST_PASSES}, none"
    rates = f"{rounded(row.rate_a):>11} {rounded(row.rate_b):>11}"
    return f"{row.ratio:7.3f}  {interval:14} {row.verdict:8} {rates}  {row.passes[0]}, {row.passes[1]}  {row.name}"


def _score_line(row: ScoreRow) -> str:
    interval = f"[{100 * row.low:+.2f}, {100 * row.high:+.2f}]" if row.n >= FEWEST_SEEDS else f"n < {FEWEST_SEEDS}, none"
    means = f"{percent(row.accuracy_a, 2):>11} {percent(row.accuracy_b, 2):>11}"
    return f"{100 * row.difference:+7.2f}  {interval:14} {row.verdict:8} {means}  {row.n:<4}  {row.name}"


def summary(result: Comparison) -> list[str]:
    """What the comparison comes to, a sentence a line; the last is the one that the exit code goes by."""
    lines = [*_counted(result), *_counted_scores(result)]
    if result.overall:
        row = result.overall
        lines.append(f"{row.name}: {row.ratio:.3f} [{row.low:.3f}, {row.high:.3f}], {row.verdict}")
        if row.verdict in ("slower", "faster"):
            lines[-1] += "; a shift of all is often the machine's: compare two runs of the same code before blaming it"
    lines += _resolution(result) if any(row.verdict == "unclear" for row in result.rows) else []
    if result.lost:
        words = f"{counted(result.lost, 'case')} that A measured"
        lines.append(f"{words} could not be compared, as said above: that is no all-clear for them")
    names_of = [row.name for row in result.regressions] + [case for case, _ in result.newly_failed]
    limits = percent(result.threshold) + (f" or {100 * result.accuracy_threshold:g} points" if result.scores else "")
    found = f"{counted(len(names_of), 'regression')} beyond {limits} or failed: {listed(names_of, 6)}"
    return [*lines, found if names_of else f"no regression beyond {limits} was found"]


def _counted(result: Comparison) -> list[str]:
    verdicts = Counter(row.verdict for row in result.rows)
    names: tuple[Verdict, ...] = ("slower", "faster", "same", "unclear")
    words = f"{counted(len(result.rows), 'case')}: " + ", ".join(f"{verdicts[name]} {name}" for name in names)
    told = f" (level {result.level:g} for all cases together, Holm; same: within {percent(result.threshold)})"
    return [words + told] if result.rows else []


def _counted_scores(result: Comparison) -> list[str]:
    verdicts = Counter(row.verdict for row in result.scores)
    names: tuple[ScoreVerdict, ...] = ("worse", "better", "same", "unclear")
    words = f"{counted(len(result.scores), 'accuracy', 'accuracies')}: " + ", ".join(
        f"{verdicts[name]} {name}" for name in names
    )
    return [f"{words} (same: within {100 * result.accuracy_threshold:g} points)"] if result.scores else []


def _resolution(result: Comparison) -> list[str]:
    """How small a change these passes could have shown, and how many would show one as small as the threshold."""
    rows = [row for row in result.rows if math.isfinite(row.high)]
    if not rows:
        return [f"nothing can be told from so few passes: measure at least {FEWEST_PASSES} in both runs"]
    level = result.level / (2 if result.overall else 1) / len(rows)
    passes = [min(row.passes) for row in rows]
    least = float(np.median([float(stdtrit(row.df, 1 - level / 2)) * row.standard_error for row in rows]))
    # For two equal runs the variance of one pass is n/2 of that of the log ratio.
    variance = float(np.median([row.standard_error**2 * n / 2 for row, n in zip(rows, passes, strict=True)]))
    reach = (float(ndtri(1 - level / 2)) + float(ndtri(POWER))) / math.log1p(-result.threshold)
    needed = max(FEWEST_PASSES, math.ceil(2 * variance * reach**2))
    return [
        f"with {listed(map(str, sorted(set(passes))))} passes, unclear is no all-clear: in a typical case only a loss above "
        f"{percent(-math.expm1(-least))} can be called; one of {percent(result.threshold)} takes about {needed} passes a run"
    ]
