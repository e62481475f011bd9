"""Intervals, powers and tests against scipy.stats, the textbook's formulas and simulation."""

import math
import re

import numpy as np
import pytest
from msgspec.structs import replace
from scipy import stats

from bench.changes import Noise, Rates, change_of_rate, change_of_score, holm, moderate, read_rates, typical_noise
from bench.records import Plan, gather
from bench.statistics import (
    Estimate,
    estimate,
    half_interval,
    is_settled,
    median_interval,
    power,
    reached_target,
    sd_range,
    seeds_needed,
)
from tests.bench.stored import CASE, SAMPLES, speeds, trained
from tests.conftest import present

VALUES = [90.1, 92.4, 91.3, 95.0, 93.2]
NONE = Noise(0.0, 0.0)


# ---- one accuracy -----------------------------------------------------------------------------------------------------


def test_the_interval_is_students() -> None:
    estimated = estimate(VALUES)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(VALUES), scale=stats.sem(VALUES))
    assert estimated.half is not None
    assert (estimated.mean - estimated.half, estimated.mean + estimated.half) == pytest.approx((low, high))
    assert estimated.n == 5
    assert estimated.sd == pytest.approx(float(np.std(VALUES, ddof=1)))


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
    expected = [np.std(VALUES, ddof=1) * math.sqrt(4 / stats.chi2.ppf(tail, 4)) for tail in (0.975, 0.025)]
    assert sd_range(estimate(VALUES)) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "sd", "difference"), [(3, 0.2, 0.5), (5, 0.28, 0.5), (18, 0.3, 0.2), (65, 0.3, 0.1)])
def test_power_is_that_of_simulated_sweeps(n: int, sd: float, difference: float) -> None:
    draws = np.random.default_rng(1).normal(difference, sd, size=(40_000, n))
    simulated = np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05)
    assert power(n, sd, difference) == pytest.approx(simulated, abs=0.01)  # 4 standard errors of 40,000 sweeps


def normal_approximation(sd: float, difference: float) -> int:
    return math.ceil((stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) ** 2 * (sd / difference) ** 2)


@pytest.mark.parametrize("sd", [0.05, 0.2, 0.7, 3.0])
@pytest.mark.parametrize("points", [0.5, 0.2, 0.1])
def test_seeds_needed_are_the_fewest_with_the_power(sd: float, points: float) -> None:
    n = seeds_needed(sd, points)
    assert power(n, sd, points) >= 0.8
    assert n == 2 or power(n - 1, sd, points) < 0.8
    assert max(2, normal_approximation(sd, points)) <= n <= normal_approximation(sd, points) + 3


def test_without_deviation_two_seeds_do() -> None:
    assert seeds_needed(0.0, 0.1) == 2


@pytest.mark.parametrize("sd", [0.005, 0.02, 0.05, 0.2])
@pytest.mark.parametrize("most", [12, 30])
def test_the_median_is_covered_though_measuring_stops_when_its_interval_is_narrow(sd: float, most: int) -> None:
    """Cover the median in 1,000 cases that end at 5 % or at the last round: at least 93 %, less 3 standard errors."""
    rng, covered, rounds = np.random.default_rng(3), 0, []
    for _ in range(1000):
        values = np.exp(rng.normal(0, sd, most)).tolist()
        n = next((n for n in range(1, most) if is_settled(values[:n], 0.05)), most)
        low, high = median_interval(values[:n]) or (0.0, math.inf)
        covered += low <= 1 <= high
        rounds.append(n)
    assert covered / 1000 > 0.93 - 3 * math.sqrt(0.93 * 0.07 / 1000)
    assert min(rounds) >= 6
    assert (np.mean(rounds) < 7) == (sd == 0.005), "quiet cases stop early, noisy ones go on"


@pytest.mark.parametrize(("sd", "rounds"), [(0.1, 6), (0.1, 12)])
def test_cases_that_miss_the_target_say_how_many_rounds_it_takes(sd: float, rounds: int) -> None:
    """Half of the cases are settled between 0.6 and 1.6 times as many, by simulation: an sd of six rounds is that uncertain."""
    rng, target = np.random.default_rng(5), 0.1
    quiet = [replace(trained("throughput"), round=n, examples_per_s=100.0) for n in range(rounds)]
    noisy = [
        replace(trained("throughput", backend=f"b{i}"), round=n, examples_per_s=float(100 * np.exp(rng.normal(0, sd))))
        for i in range(40)
        for n in range(rounds)
    ]
    plan = Plan(suite="quick", target=target, rounds=rounds)
    words = reached_target(list(gather((), [*quiet, *noisy])), plan)
    met, total, _, needed = re.fullmatch(
        r"(\d+) of (\d+) cases .* vary by (\d+)% \(standard deviation, middle case\), at which the target takes about (\d+).",
        words,
    ).groups()  # type: ignore[union-attr]
    assert f" had {rounds} quiet rounds of at most {rounds};" in words
    assert (1 <= int(met) <= 8, total) == (True, "41")
    values = np.exp(rng.normal(0, sd, (500, 2 * int(needed))))
    shares = [np.mean([is_settled(row[: int(part * int(needed))].tolist(), target) for row in values]) for part in (0.6, 1.6)]
    assert shares[0] < 0.5 < shares[1]
    assert reached_target(list(gather((), quiet)), plan).startswith("1 of 1 cases (100%) have an interval no wider than 10%")


def test_the_interval_of_a_median_is_that_of_the_sign_test() -> None:
    """Values whose sign test does not reject at 5 % are those within; five values have none."""
    values = np.random.default_rng(4).normal(size=15).tolist()
    low, high = median_interval(values) or (0.0, 0.0)
    for candidate in np.linspace(-1.5, 1.5, 301):
        below = sum(value < candidate for value in values)
        assert (low < candidate < high) == (stats.binomtest(below, 15).pvalue > 0.05)
    assert median_interval(values[:5]) == (min(values[:5]), max(values[:5]))
    assert median_interval(values[:1]) is None


# ---- two runs ---------------------------------------------------------------------------------------------------------


def test_a_case_alone_is_welchs_t_test() -> None:
    """Without a spread to borrow, p and interval are scipy's on log rates (to rounding)."""
    rng = np.random.default_rng(23)
    a, b = (Rates(rng.normal(5, sd, size=4), 0.0) for sd in (0.02, 0.05))
    change = change_of_rate("x", a, b, (moderate(a, NONE), moderate(b, NONE)), 0.05)
    oracle = stats.ttest_ind(b.logs, a.logs, equal_var=False)
    interval = oracle.confidence_interval(0.95)
    assert change.p == pytest.approx(oracle.pvalue, rel=1e-9)
    assert (change.low, change.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert change.ratio == pytest.approx(math.exp(b.logs.mean() - a.logs.mean()))


def test_a_pair_is_the_paired_t_test_of_scipy() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.normal(0.9, 0.02, size=6), rng.normal(0.9, 0.02, size=6)
    change = change_of_score("x", dict(enumerate(a)), dict(enumerate(b)), 10_000)
    oracle = stats.ttest_rel(b, a)
    interval = oracle.confidence_interval(0.95)
    assert change.p == pytest.approx(oracle.pvalue)
    assert (change.low, change.high) == pytest.approx((interval.low, interval.high))
    assert change.n == (6, 6)
    assert (change.a, change.b) == pytest.approx((a.mean(), b.mean()))


def test_equal_accuracies_are_not_certain_to_differ() -> None:
    """Deterministic code repeats to the image; three seeds that each lose one image of 10,000 prove nothing."""
    a = {0: 0.9, 1: 0.91, 2: 0.92}
    same = change_of_score("x", a, a, 10_000)
    assert (same.effect, same.p) == (0.0, 1.0)
    assert change_of_score("x", a, {seed: value - 1e-4 for seed, value in a.items()}, 10_000).p > 0.2


def test_holm_by_hand() -> None:
    # Smallest first: 0.01 * 4, 0.02 * 3, max(that, 0.03 * 2), 0.5 * 1.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([]) == []


def test_typical_noise_finds_the_prior_that_variances_were_drawn_from() -> None:
    """Scaled inverse chi-square, 8 degrees of freedom, sd 3 %; 20,000 cases leave both known to about 5 %."""
    rng = np.random.default_rng(29)
    sd = 0.03 * np.sqrt(8 / rng.chisquare(8, size=20_000))
    typical = typical_noise([Rates(logs, 0.0) for logs in sd[:, None] * rng.standard_normal((20_000, 3))])
    assert typical.df == pytest.approx(8, rel=0.15)
    assert math.sqrt(typical.variance) == pytest.approx(0.03, rel=0.05)


def test_noise_is_never_below_what_the_case_itself_shows() -> None:
    logs = np.log([100.0, 101.0, 60.0])
    assert moderate(Rates(logs, 0.0), Noise(1e-6, 30.0)).variance == pytest.approx(logs.var(ddof=1))
    calm = np.log([100.0, 100.0, 100.0])
    assert moderate(Rates(calm, 0.04), Noise(1e-6, 30.0)).variance == 0.04, "of the calls within the rounds"


def test_rates_and_the_least_noise_of_a_case_by_hand() -> None:
    rates = present(read_rates(next(gather([], speeds(CASE, SAMPLES)))))
    assert np.exp(rates.logs) == pytest.approx([500.0, 1000 / 3])
    floors = [np.var(calls, ddof=1) / len(calls) / np.mean(calls) ** 2 for calls in SAMPLES]
    assert rates.floor == pytest.approx(np.mean(floors))
    assert read_rates(next(gather([CASE], []))) is None
    # Of what should be small the inverse is compared.
    overhead = present(read_rates(next(gather([], [trained("overhead", step_over_bare=1.25)]))))
    assert np.exp(overhead.logs) == pytest.approx([0.8])


def test_half_the_interval_of_the_median_by_hand() -> None:
    """Below six values the range; of nine values the second smallest to the second largest (coverage 96 %)."""
    assert half_interval([90.0, 100.0, 130.0]) == pytest.approx(0.2)
    assert half_interval([1.0]) is None
    assert half_interval([100.0, 90.0, 95.0, 50.0, 101.0, 99.0, 105.0, 110.0, 500.0]) == pytest.approx(0.1)
