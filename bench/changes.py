"""Changes between two runs: a ratio of rates or a difference of accuracies, how sure it is, and its verdict. No torch here.

**Noise of a speed.** Three rounds tell little of their own spread: a percentile bootstrap over them is far too narrow. So the
variance of a case's log rates is shrunk towards that of all cases on the same device in the same run, as strongly as the cases
agree about it (Smyth 2004, "moderated t"; from ten cases on). It is never taken to be smaller than the case's own rounds show,
so that one disturbed round makes no verdict, nor than the calls within its rounds allow.

**Interval of a ratio.** Welch's t interval with that variance. (A percentile bootstrap over rounds was wider at two of a
thousand ends, by less than 0.01: it is not taken.)
"""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import digamma, polygamma, stdtr, stdtrit

from bench.records import Calibration, Case, Speed, percent
from bench.statistics import FEWEST_PASSES, FEWEST_ROUNDS, FEWEST_SEEDS, LEVEL, rate_of

Floats = npt.NDArray[np.float64]
Verdict = Literal["slower", "worse", "faster", "better", "same", "unclear"]
MANY_CASES = 10
"""Fewest cases whose variances are shared: the spread of fewer is itself too uncertain."""
MOST_PRIOR_DF = 30.0
"""The agreement of cases is never believed beyond this: they share the rounds' disturbances."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One case in two runs, and how sure its change is.

    ``effect`` with its interval is the log ratio of rates (B over A), or, of a score, the mean difference of accuracies over
    shared seeds (B minus A): below 0, B is worse. ``n`` are rounds or pairs in A and B, or shared seeds. ``error`` is the
    standard error of the effect, NaN where too few rounds tell none.
    """

    name: str
    a: float
    b: float
    n: tuple[int, int]
    effect: float
    is_score: bool = False
    low: float = -math.inf
    high: float = math.inf
    p: float = 1.0
    error: float = math.nan
    df: float = 0.0
    verdict: Verdict = "unclear"

    @property
    def ratio(self) -> float:
        """Rate of B over that of A."""
        return math.exp(self.effect)

    def by_student(self, error: float, df: float, level: float) -> "Change":
        """Return the change with the interval and the uncorrected p of Student's t, given the standard error."""
        error = max(error, 1e-9)  # even where all rounds are alike to the last digit, the test has a denominator
        half = float(stdtrit(df, 1 - level / 2)) * error
        p = 2 * float(stdtr(df, -abs(self.effect) / error))
        return replace(self, low=self.effect - half, high=self.effect + half, p=p, error=error, df=df)

    def judge(self, p: float, limit: float, level: float) -> "Change":
        """Return the change with its verdict at the corrected ``p``; ``same``: its interval is within ``limit`` either way."""
        verdict: Verdict = "unclear"
        if p < level:
            worse, better = ("worse", "better") if self.is_score else ("slower", "faster")
            verdict = worse if self.effect < 0 else better  # type: ignore[assignment]
        elif -limit < self.low and self.high < limit:
            verdict = "same"
        return replace(self, p=min(1.0, p), verdict=verdict)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits beyond which a difference is a change."""

    threshold: float = 0.05
    """Share of images/s that may be lost: a regression is called slower and loses more; same is within it."""
    accuracy_threshold: float = 0.005
    """Share of test accuracy that may be lost, the same way; 0.005 is half a point."""
    level: float = 0.05
    """Chance that anything is called changed where nothing did, over all cases together."""

    def check(self) -> None:
        """Raise ValueError, in one line, for limits that are no shares."""
        if not 0 < self.threshold < 1:
            raise ValueError(f"--threshold is a share of images/s between 0 and 1, such as 0.05; got {self.threshold:g}")
        if not 0 < self.accuracy_threshold < 1:
            share = f"{self.accuracy_threshold:g}"
            raise ValueError(f"--accuracy-threshold is a share between 0 and 1, such as 0.005; got {share}")
        if not 0 < self.level < 0.5:
            raise ValueError(f"--level is a chance between 0 and 0.5, such as 0.05; got {self.level:g}")

    def margin(self, change: Change) -> float:
        """Return the effect within which a change is none: a log ratio of speeds, or a difference of accuracies."""
        return self.accuracy_threshold if change.is_score else -math.log1p(-self.threshold)

    def words(self, scores: bool) -> str:
        """Return the thresholds in words."""
        return percent(self.threshold) + (f" or {100 * self.accuracy_threshold:g} points" if scores else "")


class Noise(NamedTuple):
    """A variance of log rates from round to round and the degrees of freedom that it is known with."""

    variance: float
    df: float


CERTAIN = Noise(0.0, 1.0)
"""No noise at all."""


class Rates(NamedTuple):
    """A case in one run: its log rate in each round, and the least variance that its calls allow the mean of a round."""

    logs: Floats
    floor: float


Pairs = Mapping[str, tuple[Rates, Rates]]


def read_rates(case: Case) -> Rates | None:
    """Return what a case says of its main quantity, None without a positive value.

    Of a quantity that should be small the inverse is taken, so that less always means worse.
    """
    quantity = case.first.quantities[0]
    rates = [value for value in case.values(quantity.name) if value > 0]
    calls = [np.array(r.samples_us) for r in case.records if isinstance(r, Speed) and len(r.samples_us) > 1]
    floors = [times.var(ddof=1) / len(times) / times.mean() ** 2 for times in calls]
    logs = np.log(np.array(rates, dtype=float)) * (-1 if quantity.better == "less" else 1)
    return Rates(logs, float(np.mean(floors)) if floors else 0.0) if rates else None


def typical_noise(cases: Sequence[Rates]) -> Noise:
    """Return what all cases say of one case's noise (moments of the log variances, Smyth 2004); df 0 if they say nothing."""
    pairs = [(v, len(logs) - 1) for logs, _ in cases if len(logs) > 1 and (v := float(logs.var(ddof=1))) > 1e-18]
    if len(pairs) < MANY_CASES:
        return Noise(0.0, 0.0)
    variances, df = np.array(pairs).T
    logs = np.log(variances) - digamma(df / 2) + np.log(df / 2)
    excess = logs.var(ddof=1) - polygamma(1, df / 2).mean()
    grid = np.geomspace(0.01, MOST_PRIOR_DF, 4000)
    prior_df = float(np.interp(-excess, -polygamma(1, grid / 2), grid))  # inverse of the falling trigamma function
    return Noise(float(np.exp(logs.mean() + digamma(prior_df / 2) - np.log(prior_df / 2))), prior_df)


def moderate(rates: Rates, typical: Noise) -> Noise:
    """Return a case's own variance shrunk towards the typical one, never below its own nor below what its calls allow."""
    variance, df = float(rates.logs.var(ddof=1)), len(rates.logs) - 1
    shrunk = (typical.df * typical.variance + df * variance) / (typical.df + df)
    return Noise(max(variance, shrunk, rates.floor), typical.df + df)


def change_of_rate(
    name: str, a: Rates, b: Rates, noises: tuple[Noise, Noise] | None, level: float, processes: Noise = CERTAIN
) -> Change:
    """Return the ratio of two rates with its interval and uncorrected p; without noises, which take three rounds, the ratio.

    ``processes`` is the variance from process to process, of which each run is one.
    """
    mean_a, mean_b = float(a.logs.mean()), float(b.logs.mean())
    effect, n = mean_b - mean_a, (len(a.logs), len(b.logs))
    change = Change(name=name, a=math.exp(mean_a), b=math.exp(mean_b), n=n, effect=effect)
    if noises is None:
        return change
    parts = [Noise(noise.variance / count, noise.df) for noise, count in zip(noises, n, strict=True)]
    parts.append(Noise(2 * processes.variance, processes.df))
    variance, squares = sum(part.variance for part in parts), sum(part.variance**2 / part.df for part in parts)
    df = variance**2 / squares if squares > 0 else noises[0].df + noises[1].df
    return change.by_student(math.sqrt(variance), df, level)


def change_in_turns(name: str, a: Case, b: Case, level: float) -> Change:
    """Return the ratio of rates whose rounds were measured in turns, with its interval and uncorrected p.

    A pair of processes is one observation: the median over its rounds of the log ratio, which a few disturbed rounds do not
    move. Student's t over pairs.
    """
    records = [[record for record in case.quiet.records if isinstance(record, Speed)] for case in (a, b)]
    rates_a, rates_b = ({(record.pair or 0, record.round): rate_of(record) for record in side} for side in records)
    ratios: dict[int, list[float]] = {}
    for pair, number in sorted(rates_a.keys() & rates_b.keys()):
        ratios.setdefault(pair, []).append(math.log(rates_b[pair, number] / rates_a[pair, number]))
    middles = [statistics.median(rates.values()) for rates in (rates_a, rates_b)]
    effects = [statistics.median(group) for group in ratios.values()]
    return _change_of_pairs(name, middles, effects, level, fewest=FEWEST_PASSES)


def _change_of_pairs(
    name: str, middles: Sequence[float], effects: Sequence[float], level: float, *, fewest: int, least_sd: float = 0.0,
    is_score: bool = False,
) -> Change:  # fmt: skip
    """Return the mean of paired ``effects`` with Student's t of them; their spread is taken to be ``least_sd`` at least."""
    n, (a, b) = len(effects), middles
    change = Change(name=name, a=a, b=b, n=(n, n), effect=statistics.fmean(effects or [0.0]), is_score=is_score)
    if n < fewest:
        return change
    return change.by_student(max(statistics.stdev(effects), least_sd) / math.sqrt(n), n - 1, level)


def reach(error: float, df: float, level: float, sure: float) -> float:
    """Return the log ratio that a t test at ``level`` calls with the chance ``sure``, given its standard error."""
    return float(stdtrit(df, 1 - level / 2) + stdtrit(df, sure)) * error


def change_of_score(
    name: str, a: Mapping[int, float], b: Mapping[int, float], images: float = math.inf, level: float = LEVEL
) -> Change:
    """Return the paired difference of accuracies over at least one shared seed, with its interval and uncorrected p.

    A seed fixes weights, order and draws. The spread is never taken to be smaller than one of ``images`` test images, or seeds
    that agree to the image, as they often do, would make any difference certain.
    """
    seeds = sorted(set(a) & set(b))
    means = [statistics.fmean(by_seed[seed] for seed in seeds) for by_seed in (a, b)]
    differences = [b[seed] - a[seed] for seed in seeds]
    return _change_of_pairs(name, means, differences, level, fewest=FEWEST_SEEDS, least_sd=1 / images, is_score=True)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p-values, in the order given."""
    order, adjusted = np.argsort(p_values), np.empty(len(p_values))
    steps = np.arange(len(p_values), 0, -1) * np.take(p_values, order)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return list(map(float, adjusted))


def scores_of(case: Case) -> dict[int, float]:
    """Return test accuracies by seed; nothing for a case that is repeated by round."""
    return {r.seed: r.test_accuracy for r in case.records} if case.first.repetition == "seed" else {}


# ---- verdicts ---------------------------------------------------------------------------------------------------------


def process_noise(certificates: Sequence[Calibration], device: str) -> Noise:
    """Return the variance of a log rate from process to process, as certificates of the device know it; 0 without any.

    That of the case that varies most: a case that is not in the certificate may be like any of its cases. A certificate knows
    it from one process of each pair.
    """
    kind = device.partition(":")[0]
    apart = [record for record in certificates if record.method == "apart" and record.device.partition(":")[0] == kind]
    spreads = [(record.between_sd or 0.0, max(1, (record.processes or 2) // 2 - 1)) for record in apart]
    sd, df = max(spreads, default=(0.0, 1))
    return Noise(sd**2, df)


def judge(
    pairs: Mapping[str, tuple[Case, Case]], limits: Limits, certificates: Sequence[Calibration] | None
) -> tuple[list[Change], Change | None]:
    """Return the changes, worst first, and that of the grid as a whole, with one level for all verdicts.

    ``certificates`` know the noise from process to process; None for rounds in turns.
    """
    rates, changes, level = {}, [], limits.level
    for name, (a, b) in pairs.items():
        if scores_of(a):
            images = min((r.test_images for case in (a, b) for r in case.records if r.test_images), default=math.inf)
            changes.append(change_of_score(name, scores_of(a), scores_of(b), images, level))
        elif certificates is None:
            changes.append(change_in_turns(name, a, b, level))
        elif (rates_a := read_rates(a.quiet)) and (rates_b := read_rates(b.quiet)):
            rates[name] = rates_a, rates_b
    noises = _noises(rates, {name: f"{pairs[name][0].kind} on {pairs[name][0].first.device}" for name in rates})
    processes = {name: process_noise(certificates or (), pairs[name][0].first.device) for name in rates}
    changes += [change_of_rate(name, *rates[name], noises.get(name), level, processes[name]) for name in rates]
    overall = _overall({name: rates[name] for name in noises if pairs[name][0].kind == "speed"}, noises, level)
    share = 2 if overall else 1  # of the level, half for each question
    tested = [change for change in changes if math.isfinite(change.high)]
    p = {change.name: share * p for change, p in zip(tested, holm([change.p for change in tested]), strict=True)}
    changes = [change.judge(p.get(change.name, 1.0), limits.margin(change), level) for change in changes]
    overall = overall and overall.judge(share * overall.p, limits.margin(overall), level)
    return sorted(changes, key=lambda change: change.effect), overall


def _noises(rates: Pairs, groups: Mapping[str, str]) -> dict[str, tuple[Noise, Noise]]:
    """Return the noise of each case in both runs, where both have enough rounds, with what the cases of its group say of it."""
    noises = {}
    for group in dict.fromkeys(groups.values()):
        members = {name: pair for name, pair in rates.items() if groups[name] == group}
        typical_a, typical_b = (typical_noise(side) for side in zip(*members.values(), strict=True))
        for name, (a, b) in members.items():
            if min(len(a.logs), len(b.logs)) >= FEWEST_ROUNDS:
                noises[name] = moderate(a, typical_a), moderate(b, typical_b)
    return noises


def _overall(pairs: Pairs, noises: Mapping[str, tuple[Noise, Noise]], level: float) -> Change | None:
    """Compare all cases together: the mean over cases of each round is one observation, since disturbances are shared."""
    counts = [(len(a.logs), len(b.logs)) for a, b in pairs.values()]
    commonest = Counter(counts).most_common(1)[0][0] if counts else (0, 0)
    complete = [case for case, count in zip(pairs, counts, strict=True) if count == commonest]
    if len(complete) < MANY_CASES:
        return None
    sides = []
    for side in (0, 1):
        logs = np.mean([pairs[case][side].logs for case in complete], axis=0)
        # Even if cases disturbed each other not at all, their mean would vary so much; three rounds may look calmer by luck.
        floor = float(np.mean([noises[case][side].variance for case in complete])) / len(complete)
        sides.append(Rates(logs, floor))
    a, b = sides
    calm = Noise(0.0, 0.0)
    return change_of_rate(f"all {len(complete)} cases together", a, b, (moderate(a, calm), moderate(b, calm)), level)
