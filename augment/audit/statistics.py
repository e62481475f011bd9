"""Kinds of laws of a drawn parameter, and tests of draws against them.

Kolmogorov-Smirnov for continuous laws, chi-squared for discrete ones and for those known by a sample only, exact binomial
for rates. ``holm`` keeps the false-alarm rate over all tests of an audit. Beside p, which shrinks with n, each test gives a
``distance`` that does not.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from augment.audit.record import DrawTest

PINNED_TOLERANCE = 1e-4
QUANTILES = (np.arange(512) + 0.5) / 512


class Result(NamedTuple):
    """Outcome of a test. ``distance``: how far the draws lie from the law, 0 to 1 or more, whatever n (see each law)."""

    statistic: float
    p_value: float
    distance: float


class Law:
    """Distribution of a drawn quantity; ``str`` names it in a few words."""

    def test(self, values: np.ndarray, parameter: str = "") -> DrawTest:
        """Test draws of a parameter against the law; a quantity that is never drawn is rejected."""
        result = self._test(values) if len(values) else Result(0.0, 0.0, 1.0)
        return DrawTest(parameter, str(self), len(values), **result._asdict())

    def _test(self, values: np.ndarray) -> Result:
        raise NotImplementedError


@dataclass(frozen=True)
class Pinned(Law):
    """Always the same number. Distance: mean absolute deviation, relative where the number is not 0."""

    value: float

    def __str__(self) -> str:
        return f"always {self.value:g}"

    def _test(self, values: np.ndarray) -> Result:
        off = np.abs(values.astype(float) - self.value) / (abs(self.value) or 1.0)
        return Result(float(off.max()), float(off.max() <= PINNED_TOLERANCE), float(off.mean()))


@dataclass(frozen=True)
class Rate(Law):
    """Event of probability ``p``. Distance: difference of the rates."""

    p: float

    def __str__(self) -> str:
        return f"p = {self.p:.3g}"

    def _test(self, values: np.ndarray) -> Result:
        hits, n = int(values.sum()), len(values)
        return Result(hits / n, float(stats.binomtest(hits, n, self.p).pvalue), abs(hits / n - self.p))


@dataclass(frozen=True)
class Continuous(Law):
    """Distribution of scipy's, mostly between ``low`` and ``high``. Distance: mean displacement as a share of that range."""

    scipy: Any
    low: float
    high: float

    def __str__(self) -> str:
        return f"continuous, {self.low:g} to {self.high:g}"

    def _test(self, values: np.ndarray) -> Result:
        statistic, p_value = stats.kstest(values.astype(float), self.scipy.cdf)
        moved = stats.wasserstein_distance(values, self.scipy.ppf(QUANTILES))
        return Result(float(statistic), float(p_value), float(moved / (self.high - self.low)))


@dataclass(frozen=True)
class Discrete(Law):
    """Values and their probabilities. Distance: mean displacement over the range of numbers, else total variation."""

    probabilities: Mapping[Any, float]

    def __str__(self) -> str:
        keys = list(self.probabilities)
        span = f", {min(keys):g} to {max(keys):g}" if all(isinstance(key, (int, float)) for key in keys) else ""
        return f"{len(keys)} values{span}"

    def _test(self, values: np.ndarray) -> Result:
        expected: Counter[Hashable] = Counter()
        for value, probability in self.probabilities.items():
            expected[_key(value)] += probability  # type: ignore[assignment]
        counts = Counter(map(_key, values.tolist()))
        distance = self._distance(counts, expected, len(values))
        if stray := sum(count for key, count in counts.items() if key not in expected):  # a value that the law does not have
            return Result(float(stray), 0.0, distance)
        observed = np.array([counts[key] for key in expected], dtype=float)
        return Result(*_chi_squared(observed, len(values) * np.array(list(expected.values()))), distance)

    def _distance(self, counts: Mapping[Any, int], expected: Mapping[Any, float], n: int) -> float:
        keys = {*counts, *expected}
        if all(isinstance(key, float) for key in keys):
            low, high = min(expected), max(expected)
            moved = stats.wasserstein_distance(list(expected), list(counts), list(expected.values()), list(counts.values()))
            return float(moved / ((high - low) or abs(high) or 1.0))
        return sum(abs(counts.get(key, 0) / n - expected.get(key, 0.0)) for key in keys) / 2


def _key(value: Any) -> Hashable:
    return round(float(value), 3) + 0.0 if isinstance(value, (int, float)) else value


def _chi_squared(counts: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """Return (statistic, p); cells expected fewer than five times are pooled."""
    small = expected < 5
    if small.any():
        counts = np.append(counts[~small], counts[small].sum())
        expected = np.append(expected[~small], expected[small].sum())
    # a pool that is expected (almost) never is a cell of its own only when something fell into it
    likely = expected > 0.5
    if (stray := float(counts[~likely].sum())) > 5:
        return stray, 0.0
    counts, expected = counts[likely], expected[likely]
    if len(counts) < 2:
        return 0.0, 1.0
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return statistic, float(stats.chi2.sf(statistic, len(counts) - 1))


@dataclass(frozen=True)
class Reference(Law):
    """Law known by a sample of the definition. Distance: mean displacement (Wasserstein) as a share of the range."""

    sample: np.ndarray = field(repr=False)

    def __str__(self) -> str:
        return f"the definition's sample, {self.sample.min():.3g} to {self.sample.max():.3g}"

    @cached_property
    def _cells(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Edges between the sample's 25-quantiles, numbers between them, and the quantiles that measure displacement."""
        edges = np.unique(np.quantile(self.sample, np.linspace(0, 1, 25)))
        return edges, _count(self.sample, edges), np.quantile(self.sample, QUANTILES)

    def _test(self, values: np.ndarray) -> Result:
        edges, counts, quantiles = self._cells
        table = np.array([_count(values.astype(float), edges), counts])
        table = table[:, table.any(axis=0)]
        statistic, p_value = stats.chi2_contingency(table, correction=False)[:2] if table.shape[1] > 1 else (0.0, 1.0)
        moved = np.abs(np.quantile(values, QUANTILES) - quantiles).mean() / float(np.ptp(self.sample) or 1.0)
        return Result(float(statistic), float(p_value), float(moved))


def _count(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)


def uniform(low: float, high: float) -> Law:
    """Return the uniform law between two numbers; pinned where they are equal."""
    return Pinned(low) if low == high else Continuous(stats.uniform(low, high - low), low, high)


def rate(p: float) -> Law:
    """Return the law of an event; pinned where it is certain or impossible."""
    return Rate(p) if 0 < p < 1 else Pinned(p)


def beta(a: float, b: float) -> Law:
    """Return Beta(a, b)."""
    return Continuous(stats.beta(a, b), 0.0, 1.0)


def normal(sigma: float) -> Law:
    """Return the normal law of mean 0."""
    return Continuous(stats.norm(0.0, sigma), -3 * sigma, 3 * sigma)


def integers(low: int, high: int) -> Law:
    """Return the law of equally likely whole numbers from ``low`` to ``high``, both included."""
    return Pinned(low) if low == high else Discrete(dict.fromkeys(range(low, high + 1), 1 / (high - low + 1)))


def rounded_uniform(reach: float) -> Law:
    """Return the law of a number uniform in [-reach, reach], rounded to a whole one."""
    if reach == 0:
        return Pinned(0.0)
    last = round(reach)
    span = {k: max(0.0, min(k + 0.5, reach) - max(k - 0.5, -reach)) for k in range(-last, last + 1)}
    return Discrete({k: width / (2 * reach) for k, width in span.items() if width > 0})


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Return which hypotheses Holm's procedure rejects, keeping the chance of any false rejection below ``alpha``."""
    order, rejected = np.argsort(p_values), np.empty(len(p_values), dtype=bool)
    steps = np.take(p_values, order) <= alpha / np.arange(len(p_values), 0, -1)
    rejected[order] = np.logical_and.accumulate(steps)  # none after the first that is kept
    return list(map(bool, rejected))
