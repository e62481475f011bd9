"""The statistics of the audit against scipy, its tables against torchvision's, and its rate of false alarms."""

import itertools
import math
from collections.abc import Iterator

import kornia.augmentation as K
import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2

from augment import catalog
from augment.audit.columns import Recorder
from augment.audit.definitions import CIFAR10_POLICY, magnitudes_of
from augment.audit.draws import laws, observe, sample_windows
from augment.audit.laws import Discrete, Law, Pinned, Rate, Reference, beta, holm, integers, rounded_uniform, uniform
from augment.audit.replay import trace
from augment.ops import Affine, AugMix, AutoAugment, Op, RandAugment, TrivialAugmentWide

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (32, 32)


@pytest.mark.parametrize("seed", range(5))
def test_kolmogorov_smirnov_agrees_with_scipy(seed: int) -> None:
    values = np.random.default_rng(seed).uniform(-2, 3.05, 3000)
    ours = uniform(-2, 3).test(values)
    theirs = stats.kstest(values, stats.uniform(-2, 5).cdf)
    assert ours.statistic == pytest.approx(theirs.statistic, abs=1e-12)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=0.05)  # asymptotic law against the exact one at n = 3000


def test_chi_squared_agrees_with_scipy() -> None:
    values = np.random.default_rng(1).integers(0, 8, 4000)
    theirs = stats.chisquare(np.bincount(values, minlength=8))
    ours = integers(0, 7).test(values)
    assert (ours.statistic, ours.p_value) == pytest.approx((theirs.statistic, theirs.pvalue))


def test_sample_law_agrees_with_scipys_contingency_test() -> None:
    rng = np.random.default_rng(2)
    reference, values = rng.integers(0, 5, 50_000), rng.integers(0, 5, 2000)
    table = np.array([np.bincount(values, minlength=5), np.bincount(reference, minlength=5)])
    theirs = stats.chi2_contingency(table, correction=False)
    assert Reference(sample=reference).test(values).p_value == pytest.approx(theirs.pvalue, rel=1e-6)


def test_rate_is_the_exact_binomial() -> None:
    values = np.array([1.0] * 430 + [0.0] * 570)
    assert Rate(p=0.45).test(values).p_value == pytest.approx(stats.binomtest(430, 1000, 0.45).pvalue)


def test_beta_law_agrees_with_scipy() -> None:
    values = np.random.default_rng(3).beta(0.4, 0.4, 2000)
    assert beta(0.4).test(values).statistic == pytest.approx(stats.kstest(values, stats.beta(0.4, 0.4).cdf).statistic)


def test_holm_by_hand() -> None:
    # sorted: 0.005 <= 0.05/4, 0.01 <= 0.05/3, 0.03 > 0.05/2 stops the rest
    assert holm([0.01, 0.04, 0.03, 0.005], 0.05) == [True, False, False, True]
    assert holm([], 0.05) == []


@pytest.mark.parametrize(
    ("law", "draws", "distance"),
    [
        (uniform(0.0, 1.0), lambda rng, n: rng.uniform(0.05, 1.05, n), 0.05),  # a shift by a twentieth of the range
        (Rate(p=0.5), lambda rng, n: (rng.uniform(size=n) < 0.45).astype(float), 0.05),
        (integers(0, 8), lambda rng, n: rng.integers(0, 8, n), 0.5 / 8),  # the last never drawn: half a step on average
        (Pinned(value=2.0), lambda rng, n: np.full(n, 2.06), 0.03),
        (Discrete(probabilities={"a": 0.5, "b": 0.5}), lambda rng, n: np.array(["a"] * n, dtype=object), 0.5),
        (Reference(sample=np.arange(100_000) / 100_000), lambda rng, n: rng.uniform(0, 0.9, n), 0.05),
    ],
)  # fmt: skip
def test_deviations_are_rejected_and_sized(law: Law, draws: object, distance: float) -> None:
    values = draws(np.random.default_rng(0), 10_000)  # type: ignore[operator]
    result = law.test(values)
    assert result.p_value < 1e-6
    assert result.distance == pytest.approx(distance, abs=0.01)


def test_continuous_draws_of_whole_numbers_are_rejected() -> None:
    values = np.random.default_rng(0).uniform(-3.2, 3.2, 10_000)
    assert rounded_uniform(3.2).test(values.round()).p_value > 1e-4
    assert rounded_uniform(3.2).test(values).p_value == 0.0


# ---- tables -----------------------------------------------------------------------------------------------------------


def test_the_cifar_policy_is_torchvisions() -> None:
    assert list(CIFAR10_POLICY) == v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)._policies


@pytest.mark.parametrize(
    ("op", "transform", "bins", "used"),
    [
        (RandAugment(magnitude=9), v2.RandAugment(), 31, [9]),
        (TrivialAugmentWide(), v2.TrivialAugmentWide(), 31, list(range(31))),
        (AugMix(severity=3), v2.AugMix(), 10, [0, 1, 2]),
    ],
)
def test_magnitudes_are_torchvisions(op: Op, transform: v2.Transform, bins: int, used: list[int]) -> None:
    ours = magnitudes_of(op, (48, 64))
    for name, (scale, signed) in transform._AUGMENTATION_SPACE.items():
        values = scale(bins, 48, 64)
        if values is None:
            assert name not in ours
            continue
        wanted = {round(sign * float(values[i]), 4) + 0.0 for i in used for sign in ((1, -1) if signed else (1,))}
        assert {round(value, 4) + 0.0 for value in ours[name]} == wanted
        assert sum(ours[name].values()) == pytest.approx(1.0)


def test_auto_augments_ops_have_probability_one_in_all() -> None:
    law = laws(AutoAugment(), SHAPE)["ops"]
    assert isinstance(law, Discrete)
    assert sum(law.probabilities.values()) == pytest.approx(1.0)


def test_affine_shifts_are_rounded_uniform() -> None:
    law = laws(Affine(translate=(0.1, 0.1)), SHAPE)["dx"]
    assert isinstance(law, Discrete)
    # uniform in +-3.2: the ends get 0.7 of a whole step, each of 6.4 steps in all
    assert dict(law.probabilities) == pytest.approx({k: (0.7 if abs(k) == 3 else 1.0) / 6.4 for k in range(-3, 4)})


def test_windows_that_cannot_fit_fall_back_to_the_centre() -> None:
    windows = sample_windows((10, 100), (1.0, 1.0), (0.75, 4 / 3), erase=False)
    assert {name: set(values) for name, values in windows.items()} == {
        "height": {10}, "width": {13}, "top": {0}, "left": {43},
    }  # fmt: skip


# ---- false alarms -----------------------------------------------------------------------------------------------------

REPEATS = 200
N = 1000
RATE = 0.05
CORRECT = (
    "HorizontalFlip",
    "RandomCrop",
    "RandomResizedCrop",
    "Rotate",
    "Brightness",
    "Hue",
    "GaussianBlur",
    "Cutout",
    "MixUp",
)


def _kornia_p_values(op: Op, recorder: Recorder, wanted: dict[str, Law]) -> Iterator[float]:
    seen = observe(op, recorder.sample(N, SHAPE, shared=False), SHAPE)
    for name, law in wanted.items():
        yield law.test(seen[name]).p_value


def _policy_p_values(wanted: dict[str, Law], rng: np.random.Generator) -> Iterator[float]:
    """Draws from the policy's own laws: what a correct policy would give."""
    for law in wanted.values():
        if isinstance(law, Discrete):
            keys, weights = list(law.probabilities), list(law.probabilities.values())
            numbers = isinstance(keys[0], float)
            values = np.array(keys) if numbers else np.empty(len(keys), dtype=object)
            values[:] = keys
            yield law.test(values[rng.choice(len(keys), N, p=weights)]).p_value


def test_false_alarms_stay_at_the_stated_rate() -> None:
    """200 families of some 60 tests on correct draws: families with a rejection are binomial with at most the rate."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    correct = []
    for op in (catalog.ROWS[name].at(32) for name in CORRECT):
        recorder = trace([op], "kornia").recorders[0]
        assert recorder is not None
        correct.append((op, recorder, laws(op, SHAPE)))
    policies = [laws(op, SHAPE) for op in (TrivialAugmentWide(), AutoAugment())]
    families = [
        [p for which in correct for p in _kornia_p_values(*which)] + [p for law in policies for p in _policy_p_values(law, rng)]
        for _ in range(REPEATS)
    ]
    alarms = sum(any(holm(family, RATE)) for family in families)
    assert alarms <= stats.binom.ppf(0.999, REPEATS, RATE)
    drawn = [p for family in families for p in family if p < 1]
    # and each test alone keeps its level: 8,000 or more p-values, so 0.05 is known to 0.003
    assert len(drawn) > 5000
    assert np.mean([p < 0.05 for p in drawn]) == pytest.approx(0.05, abs=0.01)


def test_order_of_jitter_counts_all_24() -> None:
    law = laws(catalog.ROWS["ColorJitter"].at(32), SHAPE)["order"]
    assert isinstance(law, Discrete)
    assert set(law.probabilities) == set(itertools.permutations(range(4)))
    assert math.isclose(sum(law.probabilities.values()), 1)


def test_kornias_draws_are_read_in_our_units() -> None:
    """A window that Kornia reports must be the one that it cuts: a ramp shows which columns it took."""
    op = catalog.ROWS["RandomCrop"].at(32)
    ramp = torch.arange(32.0).div(100).expand(8, 3, 32, 32).contiguous()
    torch.manual_seed(0)
    module = K.RandomCrop((32, 32), padding=4)
    cut = module(ramp)
    traced = trace([op], "kornia")
    torch.manual_seed(0)
    call = traced(ramp)
    assert torch.equal(call.outputs, cut)
    assert call.columns[0] is not None
    for image, left in zip(cut, call.columns[0]["left"], strict=True):
        first = image[0, 16, 15] * 100  # the middle column is never padding
        assert float(first) == pytest.approx(15 + left - 4, abs=1e-3)
