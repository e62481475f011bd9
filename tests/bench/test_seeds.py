"""Intervals and numbers of seeds against scipy.stats, the textbook's formula and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from bench.comparison.seeds import Estimate, estimate, power, sd_range, seeds_needed

VALUES = [90.1, 92.4, 91.3, 95.0, 93.2]


def test_the_interval_is_students() -> None:
    one = estimate(VALUES)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(VALUES), scale=stats.sem(VALUES))
    assert (one.mean - one.half, one.mean + one.half) == pytest.approx((low, high))  # type: ignore[operator]
    assert one.n == 5
    assert one.sd == pytest.approx(float(np.std(VALUES, ddof=1)))


def test_zero_is_left_out_where_the_paired_t_test_says_so() -> None:
    rng = np.random.default_rng(0)
    for shift in np.linspace(-2, 2, 21):
        differences = (rng.normal(size=6) + shift).tolist()
        assert estimate(differences).excludes_zero == (stats.ttest_1samp(differences, 0).pvalue < 0.05)


def test_two_seeds_give_no_interval_and_one_no_deviation() -> None:
    assert estimate([1.0, 2.0]) == Estimate(mean=1.5, sd=math.sqrt(0.5), half=None, n=2)
    assert estimate([1.0]) == Estimate(mean=1.0, sd=None, half=None, n=1)
    assert not estimate([1.0, 2.0]).excludes_zero
    assert sd_range(estimate([1.0, 2.0])) is None
    assert sd_range(estimate([1.0, 1.0, 1.0])) is None


def test_the_deviations_own_interval_is_chi_squareds() -> None:
    one = estimate(VALUES)
    assert sd_range(one) == pytest.approx(
        [np.std(VALUES, ddof=1) * math.sqrt(4 / stats.chi2.ppf(tail, 4)) for tail in (0.975, 0.025)]
    )


@pytest.mark.parametrize(("n", "sd", "difference"), [(3, 0.2, 0.5), (5, 0.28, 0.5), (18, 0.3, 0.2), (65, 0.3, 0.1)])
def test_power_is_that_of_simulated_sweeps(n: int, sd: float, difference: float) -> None:
    draws = np.random.default_rng(1).normal(difference, sd, size=(40_000, n))
    found = np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05)
    assert power(n, sd, difference) == pytest.approx(found, abs=0.01)  # 4 standard errors of 40,000 sweeps


def normal_approximation(sd: float, difference: float) -> int:
    return math.ceil((stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) ** 2 * (sd / difference) ** 2)


@pytest.mark.parametrize(("points", "quoted", "by_t"), [(0.5, 3, 5), (0.2, 16, 18), (0.1, 63, 65)])
def test_the_quoted_numbers_are_the_normal_approximations(points: float, quoted: int, by_t: int) -> None:
    """3, 16 and 63 seeds are quoted for sd 0.2: two unpaired arms, whose differences have sd 0.2 * sqrt(2), by the normal
    law. The t test, which has to learn the deviation from the same seeds, takes two more."""
    sd = 0.2 * math.sqrt(2)
    assert normal_approximation(sd, points) == quoted
    assert seeds_needed(sd, points) == by_t


@pytest.mark.parametrize("sd", [0.05, 0.2, 0.7, 3.0])
@pytest.mark.parametrize("points", [0.5, 0.2, 0.1])
def test_seeds_needed_are_the_fewest_with_the_power(sd: float, points: float) -> None:
    n = seeds_needed(sd, points)
    assert power(n, sd, points) >= 0.8
    assert n == 2 or power(n - 1, sd, points) < 0.8
    assert max(2, normal_approximation(sd, points)) <= n <= normal_approximation(sd, points) + 3


def test_without_deviation_two_seeds_do() -> None:
    assert seeds_needed(0.0, 0.1) == 2
