"""Certainty of numbers: accuracies over seeds, speeds over rounds, and many of them at once. No torch here.

**Interval of an accuracy.** Student's t over seeds, 95 %, of a mean or of the mean of paired differences (of one seed).

**Seeds needed.** The fewest seeds at which the two-sided paired t test at 5 % sees a true difference with 80 % power, where
differences of a seed are normal with the standard deviation that was measured: by the noncentral t distribution, as with few
seeds the normal approximation n = (1.960 + 0.842)^2 (sd / difference)^2 asks for too few. (With two unpaired arms of sd 0.2,
thus differences of sd 0.283, the approximation gives the often quoted 3, 16 and 63 seeds for 0.5, 0.2 and 0.1 points; this
gives 5, 18 and 65. Runs that are paired well differ less than that.)

**Noise of a speed.** Three rounds tell little of their own spread: a percentile bootstrap over them is far too narrow. So the
variance of a case's log rates is shrunk towards that of all cases on the same device in the same run, as strongly as the cases
agree about it (Smyth 2004, "moderated t"; from ten cases on). It is never taken to be smaller than the case's own rounds show,
so that one disturbed round makes no verdict, nor than the calls within its rounds allow.

**Interval of a ratio.** Welch's t interval with that variance. (A bootstrap over rounds, simulated beside it, was wider in one
of 300 comparisons, by 0.0004.)
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr, betaincinv, chdtri, digamma, nctdtr, ndtri, polygamma, stdtr, stdtrit

from bench.records import Case, Plan, Record, Speed, sound

Floats = npt.NDArray[np.float64]
Verdict = Literal["slower", "worse", "faster", "better", "same", "unclear"]

FEWEST_SEEDS = 3
"""Fewest seeds with an interval: of two, it would be 13 standard errors wide and pretend to know them."""
FEWEST_ROUNDS = 3
"""Fewest rounds with a verdict: two say nothing of an odd one out, and call a disturbed round a change (simulated)."""
FEWEST_PASSES = 6
"""Fewest values with an interval of the median by order statistics that covers it in 95 %."""
SPREAD = "± half the 95 % interval of the median (of fewer than six rounds: half their range)"
LEVEL = 0.05
POWER = 0.8
SEEDS_SHOWN = (0.5, 0.2, 0.1)
"""Differences in points whose cost in seeds is shown."""
MANY_CASES = 10
"""Fewest cases whose variances are shared: the spread of fewer is itself too uncertain."""
MOST_PRIOR_DF = 30.0
"""The agreement of cases is never believed beyond this: they share the rounds' disturbances."""


def median_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float] | None:
    """Return an interval of the median by order statistics, whatever the distribution; None for fewer than two values.

    Of fewer than ``FEWEST_PASSES`` values it is their range, which covers the median less often: of three, in 75 %.
    """
    ordered, rank = sorted(values), 1
    while 2 * bdtr(rank, len(ordered), 0.5) <= level:
        rank += 1
    return (ordered[rank - 1], ordered[-rank]) if len(ordered) > 1 else None


def half_interval(values: Sequence[float]) -> float | None:
    """Return half the interval of the median as a share of it; None for fewer than two values."""
    interval, middle = median_interval(values), statistics.median(values) if values else 0.0
    return None if interval is None or middle <= 0 else (interval[1] - interval[0]) / 2 / middle


def share_interval(count: int, total: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the interval of a binomial share (Clopper and Pearson 1934); 0 to 1 without observations."""
    low = float(betaincinv(count, total - count + 1, level / 2)) if count else 0.0
    return low, float(betaincinv(count + 1, total - count, 1 - level / 2)) if count < total else 1.0


def is_settled(values: Sequence[float], target: float) -> bool:
    """Return whether enough was measured: the interval of the median is no wider than this share of it.

    Asked after each value, the interval at which it stops still covers the median in 93 to 97 % of cases (simulated for
    lognormal values of 0.5 to 20 % and 6 to 40 rounds).
    """
    half = half_interval(values)
    return len(values) >= FEWEST_PASSES and half is not None and 2 * half <= target


def reached_target(cases: Sequence[Case], plan: Plan) -> str:
    """Return the share of measured cases whose interval is at the plan's target, and why those are not that miss it."""
    quantities = [case.quiet.values(case.first.quantities[0].name) for case in cases if case.status == "ok"]
    if plan.target is None or not quantities:
        return ""
    wide = [values for values in quantities if not is_settled(values, plan.target)]
    met = len(quantities) - len(wide)
    text = f"{met} of {len(quantities)} cases ({met / len(quantities):.0%}) have an interval no wider than {plan.target:.0%} "
    text += "of the median."
    sds = [statistics.stdev(np.log(values)) for values in wide if len(values) > 2]
    if not sds:
        return text
    sd, rounds = statistics.median(sds), statistics.median(map(len, wide))
    # In large samples the interval is 2 * 1.96 standard errors wide, each sqrt(pi / 2) of the mean's; by ranks a little more.
    needed = max(FEWEST_PASSES, math.floor((2 * ndtri(1 - LEVEL / 2) * math.sqrt(math.pi / 2) * sd / plan.target) ** 2))
    while -2 * sd * (median_interval(ndtri(np.arange(1, needed + 1) / (needed + 1))) or (0.0,))[0] > plan.target:
        needed = math.ceil(1.01 * needed)
    end = f"the budget of {plan.budget_s:.0f} s" if plan.budget_s else "the time"
    limit = f"of at most {plan.rounds}" if rounds >= plan.rounds else f"in {end}"
    text += f" Those that miss it had {rounds:.0f} quiet rounds {limit}; their rounds vary by {sd:.0%} (standard deviation, "
    return f"{text}middle case), at which the target takes about {needed:,}."


def process_spreads(processes: Sequence[Sequence[Record]]) -> list[tuple[float, float]]:
    """Return standard deviations of log rates, by case: between rounds of a process, and between processes.

    The variance between processes is that of their means less the share of it that their rounds explain; 0 at least. Cases
    without two rounds in two processes are left out.
    """
    spreads = []
    for key in dict.fromkeys(record.case_key for records in processes for record in records):
        groups = [np.log([rate_of(r) for r in sound([r for r in records if r.case_key == key])]) for records in processes]
        groups = [group for group in groups if len(group) > 1]
        if len(groups) < 2:
            continue
        within = float(np.mean([group.var(ddof=1) for group in groups]))
        between = float(np.var([group.mean() for group in groups], ddof=1)) - within / statistics.fmean(map(len, groups))
        spreads.append((math.sqrt(within), math.sqrt(max(0.0, between))))
    return spreads


def rate_of(record: Record) -> float:
    """Return the main quantity of a record."""
    return float(getattr(record, record.quantities[0].name))


# ---- one accuracy -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds, in the unit of the values.

    ``half`` is half its 95 % interval, None for fewer than three seeds; ``sd`` that of single values, None for one seed.
    """

    mean: float
    sd: float | None
    half: float | None
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Return whether the interval lies on one side of zero; False where there is none."""
        return self.half is not None and abs(self.mean) > self.half


def estimate(values: Sequence[float]) -> Estimate:
    """Return mean, standard deviation and interval of at least one value."""
    n = len(values)
    sd = statistics.stdev(values) if n > 1 else None
    half = float(stdtrit(n - 1, 1 - LEVEL / 2)) * sd / math.sqrt(n) if sd is not None and n >= FEWEST_SEEDS else None
    return Estimate(mean=statistics.fmean(values), sd=sd, half=half, n=n)


def sd_range(estimated: Estimate) -> tuple[float, float] | None:
    """Return the 95 % interval of the standard deviation (chi-squared); None for fewer than three seeds, or no deviation."""
    if not estimated.sd or estimated.half is None:
        return None
    df = estimated.n - 1
    low, high = (estimated.sd * math.sqrt(df / float(chdtri(df, tail))) for tail in (LEVEL / 2, 1 - LEVEL / 2))
    return low, high


def seeds_needed(sd: float, difference: float) -> int:
    """Return the fewest seeds that see a true difference, at least 2; ``sd`` is that of paired differences, in its unit."""
    n = max(2, math.floor(((ndtri(1 - LEVEL / 2) + ndtri(POWER)) * sd / difference) ** 2))
    while power(n, sd, difference) < POWER:
        n += 1
    return n


def power(n: int, sd: float, difference: float) -> float:
    """Return the chance that ``n`` paired seeds see a true difference: two-sided t test at 5 %."""
    if sd == 0:
        return 1.0
    shift, critical = difference / sd * math.sqrt(n), float(stdtrit(n - 1, 1 - LEVEL / 2))
    return float(1 - nctdtr(n - 1, shift, critical) + nctdtr(n - 1, shift, -critical))


# ---- two runs ---------------------------------------------------------------------------------------------------------


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
    own, df = float(rates.logs.var(ddof=1)), len(rates.logs) - 1
    shrunk = (typical.df * typical.variance + df * own) / (typical.df + df)
    return Noise(max(own, shrunk, rates.floor), typical.df + df)


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
