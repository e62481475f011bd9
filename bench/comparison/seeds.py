"""How sure an accuracy is, from the seeds it was measured with. No torch here.

**Interval.** Student's t over seeds, 95 %, of a mean or of the mean of paired differences (two runs of one seed).

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

from scipy.special import chdtri, nctdtr, ndtri, stdtrit

FEWEST_SEEDS = 3
"""Below this no interval is given: with two, it would be 13 standard errors wide and pretend to know them."""
LEVEL = 0.05
POWER = 0.8
TO_BE_SEEN = (0.5, 0.2, 0.1)
"""Differences in points whose cost in seeds is told."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds. ``half`` is half its 95 % interval, None for fewer than three seeds; ``sd`` that of single values,
    None for one seed. In the unit of the values."""

    mean: float
    sd: float | None
    half: float | None
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero; False where there is none."""
        return self.half is not None and abs(self.mean) > self.half


def estimate(values: Sequence[float]) -> Estimate:
    """Mean, standard deviation and interval of at least one value."""
    n = len(values)
    sd = statistics.stdev(values) if n > 1 else None
    half = float(stdtrit(n - 1, 1 - LEVEL / 2)) * sd / math.sqrt(n) if sd is not None and n >= FEWEST_SEEDS else None
    return Estimate(mean=statistics.fmean(values), sd=sd, half=half, n=n)


def sd_range(one: Estimate) -> tuple[float, float] | None:
    """The 95 % interval of the standard deviation (chi-squared); None for fewer than three seeds, or no deviation."""
    if not one.sd or one.half is None:
        return None
    df = one.n - 1
    low, high = (one.sd * math.sqrt(df / float(chdtri(df, tail))) for tail in (LEVEL / 2, 1 - LEVEL / 2))
    return low, high


def seeds_needed(sd: float, difference: float) -> int:
    """See above; at least 2. ``sd`` is that of paired differences, in the unit of ``difference`` (positive)."""
    n = max(2, math.floor(((ndtri(1 - LEVEL / 2) + ndtri(POWER)) * sd / difference) ** 2))
    while power(n, sd, difference) < POWER:
        n += 1
    return n


def power(n: int, sd: float, difference: float) -> float:
    """The chance that ``n`` paired seeds see a true difference: two-sided t test at 5 %."""
    if sd == 0:
        return 1.0
    shift, critical = difference / sd * math.sqrt(n), float(stdtrit(n - 1, 1 - LEVEL / 2))
    return float(1 - nctdtr(n - 1, shift, critical) + nctdtr(n - 1, shift, -critical))
