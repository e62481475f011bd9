"""Certainty of numbers: accuracies over seeds, speeds over rounds. No torch here.

**Interval of an accuracy.** Student's t over seeds, 95 %, of a mean or of the mean of paired differences (of one seed).

**Seeds needed.** The fewest seeds at which the two-sided paired t test at 5 % sees a true difference with 80 % power, where
differences of a seed are normal with the standard deviation that was measured: by the noncentral t distribution, as with few
seeds the normal approximation n = (1.960 + 0.842)^2 (sd / difference)^2 asks for too few. (With two unpaired arms of sd 0.2,
thus differences of sd 0.283, the approximation gives the often quoted 3, 16 and 63 seeds for 0.5, 0.2 and 0.1 points; this
gives 5, 18 and 65. Runs that are paired well differ less than that.)
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr, betaincinv, chdtri, nctdtr, ndtri, stdtrit

from bench.records import Case, Plan, Record, sound

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
