"""Laws of a drawn parameter, and tests of draws against them.

Kolmogorov-Smirnov for continuous laws, chi-squared for discrete ones and for those known by a sample only, exact binomial
for rates. ``holm`` keeps the false-alarm rate over all tests of an audit. Beside p, which shrinks with n, each test gives a
``distance`` that does not.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy import special, stats

PINNED_TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Result:
    """A test's outcome. ``distance`` is how far the draws lie from the law, 0 to 1 or more, whatever n (see each law)."""

    statistic: float
    p_value: float
    distance: float


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """Always the same number. Distance: mean absolute deviation, relative where the number is not 0."""

    value: float

    def test(self, values: np.ndarray) -> Result:
        off = np.abs(values.astype(float) - self.value) / (abs(self.value) or 1.0)
        return Result(statistic=float(off.max()), p_value=float(off.max() <= PINNED_TOLERANCE), distance=float(off.mean()))


@dataclass(frozen=True, kw_only=True)
class Rate:
    """An event of probability ``p``. Distance: difference of the rates."""

    p: float

    def test(self, values: np.ndarray) -> Result:
        hits, n = int(values.sum()), len(values)
        p_value = float(stats.binomtest(hits, n, self.p).pvalue)
        return Result(statistic=hits / n, p_value=p_value, distance=abs(hits / n - self.p))


@dataclass(frozen=True, kw_only=True)
class Continuous:
    """A law with a distribution function. Distance: mean displacement (Wasserstein) as a share of the range."""

    low: float
    high: float
    cdf: Callable[[np.ndarray], np.ndarray]

    def test(self, values: np.ndarray) -> Result:
        ordered = np.sort(values.astype(float))
        n = len(ordered)
        expected = self.cdf(ordered)
        steps = np.arange(n + 1) / n
        statistic = float(max((steps[1:] - expected).max(), (expected - steps[:-1]).max()))
        # Stephens' correction makes the asymptotic law good to 3 digits at the sizes used here
        scaled = statistic * (math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n))
        return Result(statistic=statistic, p_value=float(special.kolmogorov(scaled)), distance=self._displacement(ordered))

    def _displacement(self, ordered: np.ndarray) -> float:
        low, high = min(self.low, ordered[0]), max(self.high, ordered[-1])
        grid = np.linspace(low, high, 1025)
        observed = np.searchsorted(ordered, grid, side="right") / len(ordered)
        return float(np.abs(observed - self.cdf(grid)).mean() * (high - low) / (self.high - self.low))


def _chi_squared(counts: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """Cells expected fewer than five times are pooled; (statistic, p)."""
    small = expected < 5
    if small.any():
        counts = np.append(counts[~small], counts[small].sum())
        expected = np.append(expected[~small], expected[small].sum())
    # a pool that is expected (almost) never is a cell of its own only when something fell into it
    keep = expected > 0.5
    if (stray := float(counts[~keep].sum())) > 5:
        return stray, 0.0
    counts, expected = counts[keep], expected[keep]
    if len(counts) < 2:
        return 0.0, 1.0
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return statistic, float(stats.chi2.sf(statistic, len(counts) - 1))


def _key(value: Any) -> Hashable:
    return round(float(value), 3) + 0.0 if isinstance(value, (int, float, np.number)) else value


def _counts(values: np.ndarray) -> Counter[Hashable]:
    if values.dtype == object:
        return Counter(_key(value) for value in values)
    keys, counts = np.unique(np.round(values.astype(float), 3) + 0.0, return_counts=True)
    return Counter(dict(zip(keys.tolist(), counts.tolist(), strict=True)))


@dataclass(frozen=True, kw_only=True)
class Discrete:
    """Values and their probabilities. Distance: mean displacement over the range of numbers, else total variation."""

    probabilities: Mapping[Any, float]

    def test(self, values: np.ndarray) -> Result:
        expected: Counter[Hashable] = Counter()
        for value, probability in self.probabilities.items():
            expected[_key(value)] += probability  # type: ignore[assignment]
        counts = _counts(values)
        stray = sum(count for key, count in counts.items() if key not in expected)
        n = len(values)
        statistic, p_value = float(stray), 0.0  # a value that the law does not have settles it
        if stray == 0:
            cells = list(expected)
            statistic, p_value = _chi_squared(
                np.array([counts[key] for key in cells], dtype=float), n * np.array([expected[key] for key in cells])
            )
        return Result(statistic=statistic, p_value=p_value, distance=self._distance(counts, expected, n))

    def _distance(self, counts: Mapping[Any, int], expected: Mapping[Any, float], n: int) -> float:
        keys = {*counts, *expected}
        if all(isinstance(key, float) for key in keys):
            low, high = min(expected), max(expected)
            observed, weights = list(counts), [counts[key] for key in counts]
            moved = stats.wasserstein_distance(list(expected), observed, list(expected.values()), weights)
            return float(moved / ((high - low) or abs(high) or 1.0))
        return sum(abs(counts.get(key, 0) / n - expected.get(key, 0.0)) for key in keys) / 2


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A law known by a sample of the definition. Distance: mean displacement (Wasserstein) as a share of the range."""

    sample: np.ndarray = field(repr=False)

    def test(self, values: np.ndarray) -> Result:
        n, m = len(values), len(self.sample)
        ours, theirs = self._cells(values.astype(float)), self._expected
        total = ours + theirs
        keep = total > 0
        ours, theirs, total = ours[keep], theirs[keep], total[keep]
        statistic = float(((ours * math.sqrt(m / n) - theirs * math.sqrt(n / m)) ** 2 / total).sum())
        p_value = float(stats.chi2.sf(statistic, len(total) - 1)) if len(total) > 1 else 1.0
        spread = float(self.sample.max() - self.sample.min()) or 1.0
        moved = np.abs(np.quantile(values, self._shares) - self._quantiles).mean() / spread
        return Result(statistic=statistic, p_value=p_value, distance=float(moved))

    def _cells(self, values: np.ndarray) -> np.ndarray:
        """How many values lie between the sample's 25-quantiles."""
        return np.bincount(np.searchsorted(self._edges, values, side="left"), minlength=len(self._edges) + 1).astype(float)

    @cached_property
    def _edges(self) -> np.ndarray:
        return np.unique(np.quantile(self.sample, np.linspace(0, 1, 25)))

    @cached_property
    def _expected(self) -> np.ndarray:
        return self._cells(self.sample)

    @cached_property
    def _shares(self) -> np.ndarray:
        return (np.arange(512) + 0.5) / 512

    @cached_property
    def _quantiles(self) -> np.ndarray:
        return np.quantile(self.sample, self._shares)


Law = Pinned | Rate | Continuous | Discrete | Reference


def describe(law: Law) -> str:
    """A law in a few words."""
    match law:
        case Pinned():
            return f"always {law.value:g}"
        case Rate():
            return f"p = {law.p:.3g}"
        case Continuous():
            return f"continuous, {law.low:g} to {law.high:g}"
        case Discrete():
            keys = list(law.probabilities)
            span = f", {min(keys):g} to {max(keys):g}" if all(isinstance(key, (int, float)) for key in keys) else ""
            return f"{len(keys)} values{span}"
        case Reference():
            return f"the definition's sample, {law.sample.min():.3g} to {law.sample.max():.3g}"


def uniform(low: float, high: float) -> Law:
    """Uniform between two numbers; pinned where they are equal."""
    if low == high:
        return Pinned(value=low)
    return Continuous(low=low, high=high, cdf=lambda x: np.clip((x - low) / (high - low), 0, 1))


def beta(alpha: float) -> Law:
    """Beta(alpha, alpha)."""
    return Continuous(low=0.0, high=1.0, cdf=lambda x: special.betainc(alpha, alpha, np.clip(x, 0, 1)))


def integers(low: int, high: int) -> Law:
    """Equally likely whole numbers from ``low`` to ``high``, both included."""
    return Discrete(probabilities=dict.fromkeys(range(low, high + 1), 1 / (high - low + 1)))


def rounded_uniform(reach: float) -> Law:
    """Uniform in [-reach, reach], rounded to whole numbers."""
    if reach == 0:
        return Pinned(value=0.0)
    last = round(reach)
    span = {k: max(0.0, min(k + 0.5, reach) - max(k - 0.5, -reach)) for k in range(-last, last + 1)}
    return Discrete(probabilities={k: width / (2 * reach) for k, width in span.items() if width > 0})


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Which hypotheses Holm's procedure rejects, keeping the chance of any false rejection below ``alpha``."""
    order = np.argsort(p_values)
    rejected = [False] * len(p_values)
    for rank, index in enumerate(order):
        if p_values[index] > alpha / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected
