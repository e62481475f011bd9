"""How sure a ratio of two runs is, from the few passes of each: noise, intervals, verdicts. No torch here.

**Noise.** Three passes tell little of their own spread: a percentile bootstrap over them is far too narrow. So the variance
of a case's log rates is shrunk towards that of all cases on the same device in the same run, as strongly as the cases agree
about it (Smyth 2004, "moderated t"; from ten cases on). It is never taken to be smaller than the case's own passes show, so
that one disturbed pass makes no verdict, nor than the calls within its passes allow.

**Interval.** At each end the wider of Welch's t interval with that variance and a percentile bootstrap over passes. It is
for one case alone; only verdicts are corrected for the number of cases.

**Verdicts.** ``faster`` or ``slower`` by Welch's t test with Holm's correction over cases, at one level for the whole
comparison: the chance that anything is called where nothing changed. ``same`` when the interval lies within the threshold on
either side (each such verdict is wrong at most half as often as the level). Else ``unclear``: too noisy, or too few passes
(always for fewer than three) to tell. From ten cases on half of the level goes to one more question, whether all cases
together have shifted, by their mean in each pass.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import digamma, polygamma, stdtr, stdtrit

from bench.records.measurements import Measurement

Verdict = Literal["faster", "slower", "same", "unclear"]
Floats = npt.NDArray[np.float64]

RESAMPLES = 2000
FEWEST_PASSES = 3  # two say nothing of an odd one out: simulated, they call a disturbed pass a change
MANY_CASES = 10  # below, the spread of variances over cases is itself too uncertain to borrow from
# The agreement of cases is never believed beyond this: they share the passes' disturbances.
MOST_PRIOR_DF = 30.0


@dataclass(frozen=True, kw_only=True)
class Row:
    """One case in both runs: ``ratio`` of rates (images/s, of training examples/s), B over A, its interval, and p corrected for
    the number of cases."""

    name: str
    rate_a: float
    rate_b: float
    passes: tuple[int, int]
    ratio: float
    low: float
    high: float
    p: float
    verdict: Verdict
    standard_error: float
    """Of the log ratio; NaN where a run has fewer than three passes."""
    df: float


class Noise(NamedTuple):
    """A variance of log rates from pass to pass and the degrees of freedom that it is known with."""

    variance: float
    df: float


class Passes(NamedTuple):
    """A case in one run: log images/s of each pass, and the least variance that its calls allow the mean of a pass."""

    logs: Floats
    floor: float


def read_passes(measurement: Measurement) -> Passes:
    """From the calls where they are kept, else from the rates. Passes without a positive finite number are left out."""
    batch = measurement.case.batch_size
    calls = [np.array(seconds) for seconds in measurement.samples_s if seconds and min(seconds) > 0]
    rates = [batch / one.mean() for one in calls] or [rate for rate in measurement.images_per_s_passes if rate > 0]
    floors = [one.var(ddof=1) / len(one) / one.mean() ** 2 for one in calls if len(one) > 1]
    return Passes(np.log(np.array(rates, dtype=float)), float(np.mean(floors)) if floors else 0.0)


def typical_noise(cases: Sequence[Passes]) -> Noise:
    """What all cases say of one case's noise (moments of the log variances, Smyth 2004); df 0 where they say nothing."""
    known = [(v, len(logs) - 1) for logs, _ in cases if len(logs) > 1 and (v := float(logs.var(ddof=1))) > 1e-18]
    if len(known) < MANY_CASES:
        return Noise(0.0, 0.0)
    variances, df = np.array(known).T
    logs = np.log(variances) - digamma(df / 2) + np.log(df / 2)
    excess = logs.var(ddof=1) - polygamma(1, df / 2).mean()
    grid = np.geomspace(0.01, MOST_PRIOR_DF, 4000)
    prior_df = float(np.interp(-excess, -polygamma(1, grid / 2), grid))  # inverse of the falling trigamma function
    return Noise(float(np.exp(logs.mean() + digamma(prior_df / 2) - np.log(prior_df / 2))), prior_df)


def noise_of(passes: Passes, typical: Noise) -> Noise:
    """The case's own variance shrunk towards the typical one, never below its own nor below what its calls allow."""
    own, df = float(passes.logs.var(ddof=1)), len(passes.logs) - 1
    shrunk = (typical.df * typical.variance + df * own) / (typical.df + df)
    return Noise(max(own, shrunk, passes.floor), typical.df + df)


def contrast(name: str, a: Passes, b: Passes, noise_a: Noise, noise_b: Noise, level: float) -> Row:
    """Ratio, interval and uncorrected p of one case; the verdict is still ``unclear``."""
    effect = float(b.logs.mean() - a.logs.mean())
    share_a, share_b = noise_a.variance / len(a.logs), noise_b.variance / len(b.logs)
    # Not zero even where all passes are alike to the last digit: the test then still has a denominator.
    error = max(math.sqrt(share_a + share_b), 1e-9)
    parts = share_a**2 / noise_a.df + share_b**2 / noise_b.df
    df = (share_a + share_b) ** 2 / parts if parts > 0 else noise_a.df + noise_b.df
    half = float(stdtrit(df, 1 - level / 2)) * error
    low, high = np.quantile(_resampled(b.logs) - _resampled(a.logs, 1), [level / 2, 1 - level / 2])
    return replace(
        single(name, a, b),
        low=math.exp(min(effect - half, low)),
        high=math.exp(max(effect + half, high)),
        p=2 * float(stdtr(df, -abs(effect) / error)),
        standard_error=error,
        df=df,
    )


def single(name: str, a: Passes, b: Passes) -> Row:
    """A ratio of which no more can be known, since a run has fewer than three passes of the case."""
    mean_a, mean_b = float(a.logs.mean()), float(b.logs.mean())
    return Row(
        name=name,
        rate_a=math.exp(mean_a),
        rate_b=math.exp(mean_b),
        passes=(len(a.logs), len(b.logs)),
        ratio=math.exp(mean_b - mean_a),
        low=0.0,
        high=math.inf,
        p=1.0,
        verdict="unclear",
        standard_error=math.nan,
        df=0.0,
    )


def _resampled(logs: Floats, stream: int = 0) -> Floats:
    """The mean of each of ``RESAMPLES`` draws of passes, with replacement."""
    means: Floats = _weights(len(logs), stream) @ logs
    return means


@lru_cache(maxsize=64)
def _weights(count: int, stream: int) -> Floats:
    """[RESAMPLES, count], rows sum to 1. The same draws each time, so that a comparison repeats to the last digit."""
    generator = np.random.default_rng([count, stream])
    return generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES) / count


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given."""
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = worst
    return adjusted


def judged(row: Row, p: float, threshold: float, level: float) -> Row:
    verdict: Verdict = "unclear"
    if p < level:
        verdict = "slower" if row.ratio < 1 else "faster"
    elif 1 - threshold < row.low and row.high < 1 / (1 - threshold):
        verdict = "same"
    return replace(row, p=min(1.0, p), verdict=verdict)
