"""How sure a change of test accuracy is between two runs: by the seeds that both trained with. No torch here.

A seed fixes weights, order and draws, so the difference between the runs is taken seed by seed, and Student's t over those
differences gives interval and p (at least three seeds; two say nothing of an odd one out). The spread is never taken to be
smaller than one test image, or seeds that agree to the image, as they often do, would make any difference certain.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from scipy.special import stdtr, stdtrit

from bench.comparison.seeds import FEWEST_SEEDS

ScoreVerdict = Literal["better", "worse", "same", "unclear"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """Test accuracy after the last epoch by seed, of one way to train in one run; ``images`` is the number of test images."""

    by_seed: Mapping[int, float]
    images: int | None


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """One way to train in both runs: mean accuracies over the ``n`` shared seeds (shares of one), their difference B - A with
    its interval, and p corrected for the number of cases."""

    name: str
    accuracy_a: float
    accuracy_b: float
    n: int
    difference: float
    low: float
    high: float
    p: float
    verdict: ScoreVerdict


def shared_seeds(a: Score, b: Score) -> Sequence[int]:
    """The seeds that both runs trained with, in order."""
    return sorted(set(a.by_seed) & set(b.by_seed))


def score_row(name: str, a: Score, b: Score, level: float) -> ScoreRow:
    """Difference, interval and uncorrected p over at least one shared seed; the verdict is still ``unclear``."""
    seeds = shared_seeds(a, b)
    differences = [b.by_seed[seed] - a.by_seed[seed] for seed in seeds]
    row = ScoreRow(
        name=name,
        accuracy_a=statistics.fmean(a.by_seed[seed] for seed in seeds),
        accuracy_b=statistics.fmean(b.by_seed[seed] for seed in seeds),
        n=len(seeds),
        difference=statistics.fmean(differences),
        low=-math.inf,
        high=math.inf,
        p=1.0,
        verdict="unclear",
    )
    if row.n < FEWEST_SEEDS:
        return row
    image = 1 / min(a.images or math.inf, b.images or math.inf)
    error = max(statistics.stdev(differences), image, 1e-9) / math.sqrt(row.n)
    half = float(stdtrit(row.n - 1, 1 - level / 2)) * error
    p = 2 * float(stdtr(row.n - 1, -abs(row.difference) / error))
    return replace(row, low=row.difference - half, high=row.difference + half, p=p)


def judged_score(row: ScoreRow, p: float, threshold: float, level: float) -> ScoreRow:
    """With the verdict at the corrected ``p``: ``same`` is an interval within ``threshold`` on either side."""
    verdict: ScoreVerdict = "unclear"
    if p < level:
        verdict = "worse" if row.difference < 0 else "better"
    elif -threshold < row.low and row.high < threshold:
        verdict = "same"
    return replace(row, p=min(1.0, p), verdict=verdict)
