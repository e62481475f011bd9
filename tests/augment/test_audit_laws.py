"""Statistics of the audit, its tables against torchvision's, and its rate of false alarms."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2

from augment import OPS, build, find_backend, ops
from augment.audit import policies
from augment.audit.images import synthetic_images
from augment.audit.laws import laws, pinned_draw, sample_windows
from augment.audit.measure import measure_draws
from augment.audit.statistics import (
    Discrete,
    Law,
    Pinned,
    Rate,
    Reference,
    beta,
    holm,
    integers,
    normal,
    rounded_uniform,
    uniform,
)
from augment.op import Op
from tests.conftest import present

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (32, 32)


# ---- statistics -------------------------------------------------------------------------------------------------------


def test_chi_squared_agrees_with_scipy() -> None:
    values = np.random.default_rng(1).integers(0, 8, 4000)
    scipy = stats.chisquare(np.bincount(values, minlength=8))
    result = integers(0, 7).test(values)
    assert (result.statistic, result.p_value) == pytest.approx((scipy.statistic, scipy.pvalue))


def test_sample_law_agrees_with_scipys_contingency_test() -> None:
    rng = np.random.default_rng(2)
    reference, values = rng.integers(0, 5, 50_000), rng.integers(0, 5, 2000)
    table = np.array([np.bincount(values, minlength=5), np.bincount(reference, minlength=5)])
    scipy = stats.chi2_contingency(table, correction=False)
    assert Reference(reference).test(values).p_value == pytest.approx(scipy.pvalue, rel=1e-6)


def test_holm_by_hand() -> None:
    # sorted: 0.005 <= 0.05/4, 0.01 <= 0.05/3, 0.03 > 0.05/2 stops the rest
    assert holm([0.01, 0.04, 0.03, 0.005], 0.05) == [True, False, False, True]
    assert holm([], 0.05) == []


@pytest.mark.parametrize(
    ("law", "draw", "distance"),
    [
        (uniform(0.0, 1.0), lambda rng, n: rng.uniform(0.05, 1.05, n), 0.05),  # a shift by a twentieth of the range
        (normal(1.0), lambda rng, n: rng.normal(0.3, 1.0, n), 0.05),  # the range is six sigma
        (beta(0.5, 1.0), lambda rng, n: rng.beta(1.0, 0.5, n), 1 / 3),  # means 1/3 and 2/3, one law left of the other
        (Rate(0.5), lambda rng, n: (rng.uniform(size=n) < 0.45).astype(float), 0.05),
        (integers(0, 8), lambda rng, n: rng.integers(0, 8, n), 0.5 / 8),  # the last never drawn: half a step on average
        (Pinned(2.0), lambda rng, n: np.full(n, 2.06), 0.03),
        (Discrete({"a": 0.5, "b": 0.5}), lambda rng, n: np.array(["a"] * n, dtype=object), 0.5),
        (Reference(np.arange(100_000) / 100_000), lambda rng, n: rng.uniform(0, 0.9, n), 0.05),
        (uniform(0.0, 1.0), lambda rng, n: np.empty(0), 1.0),  # never drawn
    ],
)  # fmt: skip
def test_deviations_are_rejected_and_sized(law: Law, draw: Callable[..., np.ndarray], distance: float) -> None:
    result = law.test(draw(np.random.default_rng(0), 10_000))
    assert result.p_value < 1e-6
    assert result.distance == pytest.approx(distance, abs=0.01)


def test_continuous_draws_of_whole_numbers_are_rejected() -> None:
    values = np.random.default_rng(0).uniform(-3.2, 3.2, 10_000)
    assert rounded_uniform(3.2).test(values.round()).p_value > 1e-4
    assert rounded_uniform(3.2).test(values).p_value == 0.0


# ---- tables -----------------------------------------------------------------------------------------------------------


def test_cifar_policy_is_torchvisions() -> None:
    assert list(policies.CIFAR10_POLICY) == v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)._policies


@pytest.mark.parametrize(
    ("op", "transform", "bins"),
    [
        (ops.RandAugment(magnitude=9), v2.RandAugment(), [9]),
        (ops.TrivialAugmentWide(), v2.TrivialAugmentWide(), list(range(31))),
        (ops.AugMix(severity=3), v2.AugMix(), [0, 1, 2]),
    ],
)
def test_magnitudes_are_torchvisions(op: Op, transform: Any, bins: list[int]) -> None:
    stated = laws(op, (48, 64))
    for name, (scale, is_signed) in transform._AUGMENTATION_SPACE.items():
        values = scale(policies.BINS[op.name], 48, 64)
        law = stated.get(f"magnitude of {name}")
        if values is None:
            assert law is None
            continue
        assert isinstance(law, Discrete)
        signs = (1, -1) if is_signed else (1,)
        expected = {round(sign * float(values[i]), 4) + 0.0 for i in bins for sign in signs}
        assert {round(value, 4) + 0.0 for value in law.probabilities} == expected
        assert sum(law.probabilities.values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("op", "quantity", "probabilities"),
    [
        # uniform in +-3.2: the ends get 0.7 of a whole step, each of 6.4 steps in all
        (ops.Affine(translate=(0.1, 0.1)), "translate_x", {k: (0.7 if abs(k) == 3 else 1.0) / 6.4 for k in range(-3, 4)}),
        (ops.ColorJitter(), "order", dict.fromkeys(itertools.permutations(range(4)), 1 / 24)),
        (ops.RandomCrop(size=32, padding=1), "left", dict.fromkeys(range(3), 1 / 3)),
    ],
)
def test_discrete_laws_by_hand(op: Op, quantity: str, probabilities: dict[Any, float]) -> None:
    law = laws(op, SHAPE)[quantity]
    assert isinstance(law, Discrete)
    assert dict(law.probabilities) == pytest.approx(probabilities)


def test_auto_augments_choices_have_probability_one_in_all() -> None:
    assert sum(policies.auto_augment_choices().values()) == pytest.approx(1.0)


def test_windows_that_cannot_fit_fall_back_to_the_centre() -> None:
    windows = sample_windows((10, 100), (1.0, 1.0), (0.75, 4 / 3), erase=False)
    assert {name: set(values) for name, values in windows.items()} == {
        "height": {10}, "width": {13}, "top": {0}, "left": {43},
    }  # fmt: skip


@pytest.mark.parametrize("name", list(OPS))
def test_pinned_settings_have_a_known_draw(name: str) -> None:
    """The draw of a pinned setting follows from the laws, and gives torchvision's pixels; no random setting has such a draw."""
    setting, op = OPS[name].pinned(32), OPS[name].at(32)
    assert (pinned_draw(op, SHAPE) is None) == bool(op.draws)
    if setting is not None:
        draw = present(pinned_draw(setting, SHAPE))
        image = synthetic_images(1, 32).float().div(255)
        result = build(setting, "torchvision")(image)[0]
        assert torch.allclose(setting.oracle(image[0], draw), result, atol=1e-5)  # float32 in another order


# ---- false alarms -----------------------------------------------------------------------------------------------------

REPEATS = 200
RATE = 0.05
CORRECT = (
    *("HorizontalFlip", "RandomCrop", "RandomResizedCrop", "Rotate", "Brightness", "Hue", "GaussianBlur", "Cutout", "MixUp"),
)


def _from_laws(stated: dict[str, Law], rng: np.random.Generator) -> Iterator[float]:
    """Yield p-values of draws from the laws themselves: what a correct policy would give."""
    for law in stated.values():
        if isinstance(law, Discrete):
            keys = np.empty(len(law.probabilities), dtype=object)
            keys[:] = list(law.probabilities)
            yield law.test(keys[rng.choice(len(keys), 1000, p=list(law.probabilities.values()))]).p_value


@pytest.mark.slow
def test_false_alarms_stay_at_the_stated_rate() -> None:
    """200 families of some 60 tests on correct draws: families with a rejection are binomial with at most the rate."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    stated_policies = [laws(op, SHAPE) for op in (ops.TrivialAugmentWide(), ops.AutoAugment())]
    correct = [OPS[name].at(32) for name in CORRECT]
    traced = [find_backend("fused").trace([op], device=torch.device("cpu"), num_classes=10) for op in correct]
    families = []
    for _ in range(REPEATS):
        p_values = [p for stated in stated_policies for p in _from_laws(stated, rng)]
        for op, pipeline in zip(correct, traced, strict=True):
            recorder = present(pipeline.recorders[0])
            p_values += [test.p_value for test in measure_draws(op, recorder, 1000, SHAPE)]
        families.append(p_values)
    alarms = sum(any(holm(family, RATE)) for family in families)
    assert alarms <= stats.binom.ppf(0.999, REPEATS, RATE)
    drawn = np.array([p for family in families for p in family if p < 1])
    # and each test alone keeps its level: 8,000 or more p-values, so 0.05 is known to 0.003
    assert len(drawn) > 5000
    assert np.mean(drawn < 0.05) == pytest.approx(0.05, abs=0.01)
