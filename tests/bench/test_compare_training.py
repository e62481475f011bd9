"""Comparing what two runs trained: speeds over rounds, accuracies seed by seed, and what is missing in one of them."""

import math
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from bench.comparison.compare import Comparison, compare_runs
from bench.comparison.scores import Score, score_row
from bench.comparison.verdicts import print_comparison, summary
from bench.records.measurements import Measurement
from bench.records.runs import Run
from tests.bench.stored import CASE, ENVIRONMENT, trained

BACKENDS = ("fused", "kornia", "torchvision", "pil")


def run(training: Sequence[dict[str, Any]], name: str = "A", measurements: Sequence[Measurement] = ()) -> Run:
    return Run(
        path=Path(name),
        name=name,
        environment=ENVIRONMENT,
        measurements=list(measurements),
        training=list(training),
        problems=[],
    )


def rounds(rng: np.random.Generator, *, slow: float = 1.0, noise: float = 0.01, count: int = 5) -> list[dict[str, Any]]:
    """Throughput of four placements; the first is ``slow`` times as fast as it should be."""
    return [
        trained("throughput", backend=backend, round=n, examples_per_s=rate * math.exp(noise * rng.standard_normal()))
        for n in range(count)
        for backend, rate in zip(BACKENDS, (1000.0 * slow, 800.0, 600.0, 200.0), strict=True)
    ]


def seeds(rng: np.random.Generator, *, count: int = 5, lost: float = 0.0, spread: float = 0.002) -> list[dict[str, Any]]:
    """Accuracies of which seeds differ by 2 points, and runs of a seed by ``spread``."""
    return [
        trained(
            "accuracy", recipe=recipe, seed=seed, num_epochs=3, test_images=10_000,
            test_accuracy=0.9 + 0.02 * math.sin(seed) - (lost if recipe == "flip" else 0.0) + spread * rng.standard_normal(),
        )
        for recipe in ("flip", "crop_flip")
        for seed in range(count)
    ]  # fmt: skip


def called(result: Comparison) -> dict[str, str]:
    verdicts = {row.name: row.verdict for row in result.rows} | {row.name: row.verdict for row in result.scores}
    return {name.split("-resnet8")[0]: verdict for name, verdict in verdicts.items() if verdict not in ("same", "unclear")}


def text_of(result: Comparison) -> str:
    out = StringIO()
    print_comparison(result, Console(file=out, width=80))
    return out.getvalue()


# ---- speeds -----------------------------------------------------------------------------------------------------------


def test_a_planted_ten_percent_slowdown_of_a_training_is_called_and_nothing_else() -> None:
    rng = np.random.default_rng(1)
    a, b, again = run(rounds(rng)), run(rounds(rng, slow=0.9), "B"), run(rounds(rng), "again")
    result = compare_runs(a, b)
    assert called(result) == {"throughput-flip-fused-device": "slower"}
    assert result.regressed
    assert "1 regression beyond 5.0 % or failed: throughput-flip-fused" in text_of(result)
    assert called(compare_runs(b, a)) == {"throughput-flip-fused-device": "faster"}
    for other in (a, again):
        assert called(compare_runs(a, other)) == {}
        assert not compare_runs(a, other).regressed


def test_nothing_is_called_where_no_training_changed_at_the_stated_level() -> None:
    """200 comparisons at a level of 5 %: more than 21 are called once in 1,000 times."""
    rng = np.random.default_rng(2)
    alarms = sum(
        bool(called(compare_runs(run(rounds(rng) + seeds(rng)), run(rounds(rng) + seeds(rng), "B")))) for _ in range(200)
    )
    assert alarms <= stats.binom.ppf(0.999, 200, 0.05) == 21


def test_the_ratio_is_that_of_geometric_means_over_rounds() -> None:
    a = run([trained("throughput", round=n, examples_per_s=rate) for n, rate in enumerate([100.0, 110.0, 120.0])])
    b = run([trained("throughput", round=n, examples_per_s=rate) for n, rate in enumerate([90.0, 100.0, 95.0])], "B")
    row = compare_runs(a, b).rows[0]
    assert row.ratio == pytest.approx(stats.gmean([90, 100, 95]) / stats.gmean([100, 110, 120]))
    assert row.passes == (3, 3)
    # Alone in its group, so Welch's t on the logarithms is the whole truth, where the bootstrap is no wider.
    welch = stats.ttest_ind(np.log([90, 100, 95]), np.log([100, 110, 120]), equal_var=False)
    assert row.p == pytest.approx(welch.pvalue)
    assert math.log(row.low) <= welch.confidence_interval(0.95).low + 1e-12


def test_of_what_should_be_small_more_is_worse() -> None:
    """The trainer's overhead, as a ratio to a bare loop."""
    a, b = (
        run([trained("overhead", round=n, step_over_bare=base + n / 1000) for n in range(5)], name)
        for name, base in (("A", 1.0), ("B", 1.2))
    )
    row = compare_runs(a, b).rows[0]
    assert row.ratio == pytest.approx(1 / 1.2, rel=0.01)
    assert row.verdict == "slower"


def test_trainings_of_one_name_with_other_settings_are_not_compared() -> None:
    """A name has no learning rate; settings that one record does not know yet say nothing."""
    a = run([trained("throughput", round=n, learning_rate=0.1) for n in range(3)] + rounds(np.random.default_rng(3)))
    b = run([trained("throughput", round=n, learning_rate=0.2) for n in range(3)] + rounds(np.random.default_rng(4)), "B")
    result = compare_runs(a, b)
    told = "with other settings (learning_rate 0.1 -> 0.2)"
    assert [name.split("-resnet8")[0] for name in result.left_out[told]] == ["throughput-flip-kornia-device"]
    older = run([trained("throughput", round=n) for n in range(3)])
    newer = run([trained("throughput", round=n, weight_decay=0.0) for n in range(3)], "B")
    assert len(compare_runs(older, newer).rows) == 1


# ---- accuracies -------------------------------------------------------------------------------------------------------


def test_a_planted_loss_of_a_point_is_called_as_seeds_are_paired() -> None:
    """Seeds differ by 2 points among themselves, so unpaired means of five could not tell one point."""
    rng = np.random.default_rng(5)
    a, b = run(seeds(rng)), run(seeds(rng, lost=0.01), "B")
    result = compare_runs(a, b)
    assert called(result) == {"accuracy-flip-kornia-device": "worse"}
    assert result.regressed
    assert "beyond 5.0 % or 0.5 points or failed: accuracy-flip" in text_of(result)
    assert not compare_runs(a, b, accuracy_threshold=0.02).regressed, "called, yet within what may be lost"
    assert called(compare_runs(b, a)) == {"accuracy-flip-kornia-device": "better"}
    accuracies = [[r["test_accuracy"] for r in one.training if r["recipe"] == "flip"] for one in (a, b)]
    assert stats.ttest_ind(*accuracies).pvalue > 0.05


def test_a_pair_is_the_paired_t_test_of_scipy() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.normal(0.9, 0.02, size=6), rng.normal(0.9, 0.02, size=6)
    scores = [Score(by_seed=dict(enumerate(one)), images=10_000) for one in (a, b)]
    row = score_row("x", scores[0], scores[1], 0.05)
    oracle = stats.ttest_rel(b, a)
    interval = oracle.confidence_interval(0.95)
    assert row.p == pytest.approx(oracle.pvalue)
    assert (row.low, row.high) == pytest.approx((interval.low, interval.high))
    assert (row.accuracy_a, row.accuracy_b) == pytest.approx((a.mean(), b.mean()))
    assert row.n == 6


def test_equal_accuracies_are_the_same_and_not_certain_to_differ() -> None:
    """Deterministic code repeats to the image; three seeds that each lose one image of 10,000 prove nothing."""
    a = Score(by_seed={0: 0.9, 1: 0.91, 2: 0.92}, images=10_000)
    same = score_row("x", a, a, 0.05)
    assert (same.difference, same.p) == (0.0, 1.0)
    one_less = replace(a, by_seed={seed: value - 1e-4 for seed, value in a.by_seed.items()})
    assert score_row("x", a, one_less, 0.05).p > 0.2
    result = compare_runs(
        run(seeds(np.random.default_rng(7), spread=0.0)), run(seeds(np.random.default_rng(8), spread=0.0), "B")
    )
    assert {row.verdict for row in result.scores} == {"same"}


def test_only_shared_seeds_count_and_two_are_too_few() -> None:
    rng = np.random.default_rng(9)
    a = [record for record in seeds(rng) if record["seed"] < 3]
    b = [record for record in seeds(rng, lost=0.2) if record["seed"] > 0]
    result = compare_runs(run(a), run(b, "B"))
    assert {(row.n, row.verdict) for row in result.scores} == {(2, "unclear")}
    assert "n < 3, none" in text_of(result)
    apart = compare_runs(run(a + rounds(rng)), run([r for r in b if r["seed"] > 2] + rounds(rng), "B"))
    assert len(apart.left_out["with no seed in common"]) == 2


# ---- what is missing --------------------------------------------------------------------------------------------------


def test_a_training_that_fails_in_b_only_is_a_regression() -> None:
    rng = np.random.default_rng(10)
    broken = [{**r, "status": "failed", "reason": "out of memory [red]"} if r["backend"] == "pil" else r for r in rounds(rng)]
    result = compare_runs(run(rounds(rng)), run(broken, "B"))
    assert [(name.split("-resnet8")[0], why) for name, why in result.newly_failed] == [
        ("throughput-flip-pil-device", "out of memory [red]")
    ]
    assert result.regressed
    assert "out of memory [red]" in text_of(result)


def test_what_did_not_run_is_counted_and_told() -> None:
    good = [Measurement(case=replace(CASE, subject=f"Op{n}"), status="ok", samples_s=[[0.1]] * 3) for n in range(4)]
    idle = [good[0], *(replace(one, status="not_run", samples_s=[]) for one in good[1:])]
    missing = [r for r in rounds(np.random.default_rng(11)) if r["backend"] != "pil"]
    result = compare_runs(run(rounds(np.random.default_rng(12)), measurements=good), run(missing, "B", measurements=idle))
    assert {why: len(names) for why, names in result.left_out.items()} == {
        "measured in A, not run in B": 3,
        "measured in A, not planned in B": 1,
    }
    assert result.lost == 4
    said = text_of(result)
    assert "not compared, 3 cases measured in A, not run in B: " in said
    assert "4 cases that A measured could not be compared" in " ".join(summary(result))
    both = compare_runs(run(missing, measurements=idle), run(missing, "B", measurements=idle))
    assert "not compared, 3 cases not run in both" in text_of(both)
    assert both.lost == 0


def test_nan_and_missing_values_are_no_observations() -> None:
    odd = [
        trained("throughput", round=n, examples_per_s=value) for n, value in enumerate([math.nan, None, 0.0, 90.0, 91.0, 92.0])
    ]
    odd += [trained("accuracy", seed=n, test_accuracy=value) for n, value in enumerate([math.nan, "0.9", 0.9])]
    result = compare_runs(run(odd), run(odd, "B"))
    assert [(row.passes, row.ratio) for row in result.rows] == [((3, 3), 1.0)]
    assert [row.n for row in result.scores] == [1]
    with pytest.raises(ValueError, match="--accuracy-threshold"):
        compare_runs(run(odd), run(odd, "B"), accuracy_threshold=math.nan)
