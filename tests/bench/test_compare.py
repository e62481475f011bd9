"""Comparing two runs: what is called a change, how often wrongly, what is refused, and what a CI job sees."""

import math
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from msgspec.structs import replace as change
from rich.console import Console
from scipy import stats

from bench.changes import Limits
from bench.compare import Comparison, compare, compare_runs, print_comparison, summary
from bench.records import Commit, DataSet, Disturbance, Gpu, Plan, Run, Speed, load_run
from tests.bench.stored import ENVIRONMENT, failed, speeds, store, trained

CASE = Speed(subject="Invert", backend="kornia", batch_size=100, image_size=32, lane="per_image", status="not_run")
HERE = change(ENVIRONMENT, gpus=(Gpu(name="H100", driver="570.1", temperature_c=40.0),))
BACKENDS = ("fused", "kornia", "torchvision", "pil")
Samples = npt.NDArray[np.float64]  # [cases, rounds, calls], seconds
GOOD = [[0.010, 0.011], [0.012, 0.010], [0.011, 0.011]]


def case(number: int) -> Speed:
    return change(CASE, subject=f"Op{number}")


def run(records: Sequence[Any], name: str = "A", *, plan: Sequence[Any] = (), **environment: Any) -> Run:
    planned = Plan(suite="quick", cases=tuple(plan), rounds=3) if plan else None
    return Run(path=Path(name), name=name, environment=change(HERE, **environment), plan=planned, records=list(records))


def sampled(samples: Samples, name: str = "A") -> Run:
    return run([r for number, calls in enumerate(samples) for r in speeds(case(number), calls.tolist())], name)


def noisy(
    rng: np.random.Generator, cases: int, rounds: int, *, between: float, within: float = 0.05, calls: int = 12
) -> Samples:
    """Draw calls of 10 ms with lognormal noise: of each call, and of each round, whose spread differs from case to case."""
    spread = between * np.exp(0.4 * np.random.default_rng(7).standard_normal((cases, 1, 1)))  # the same in both runs
    effect = spread * rng.standard_normal((cases, rounds, 1))
    return np.asarray(0.01 * np.exp(effect + within * rng.standard_normal((cases, rounds, calls))))


def stored(folder: Path, samples: Samples) -> Path:
    return store(folder, {case(number): calls.tolist() for number, calls in enumerate(samples)})


def throughput(rng: np.random.Generator, *, slow: float = 1.0, noise: float = 0.01, count: int = 5) -> list[Any]:
    """Throughput of four placements; the first is ``slow`` times as fast as it should be."""
    return [
        trained("throughput", backend=backend, round=n, examples_per_s=rate * math.exp(noise * rng.standard_normal()))
        for n in range(count)
        for backend, rate in zip(BACKENDS, (1000.0 * slow, 800.0, 600.0, 200.0), strict=True)
    ]


def seeds(rng: np.random.Generator, *, count: int = 5, lost: float = 0.0, spread: float = 0.002) -> list[Any]:
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
    """Verdicts of what is called a change, by op or by the start of a training's name; all cases together under "all"."""
    changes = [*result.speeds, *result.scores, *([result.overall] if result.overall else [])]
    names = [row.name.split("-")[1] if row.name.startswith("ops-") else row.name.split("-resnet8")[0] for row in changes]
    verdicts = dict(zip((name.split(" ")[0] for name in names), (row.verdict for row in changes), strict=True))
    return {name: verdict for name, verdict in verdicts.items() if verdict not in ("same", "unclear")}


def printed(a: Path, b: Path, **options: Any) -> tuple[int, str]:
    out = StringIO()
    code = compare(a, b, Console(file=out, width=80), Limits(**options), across_machines=False)
    return code, out.getvalue()


def text_of(result: Comparison) -> str:
    out = StringIO()
    print_comparison(result, Console(file=out, width=40))
    return out.getvalue()


# ---- stored samples, as a CI job compares them ------------------------------------------------------------------------


def test_a_run_against_itself_and_against_its_repetition_calls_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    a = stored(tmp_path / "a", noisy(rng, 20, 5, between=0.01))
    again = stored(tmp_path / "again", noisy(rng, 20, 5, between=0.01))
    for repetition in (a, again):
        code, text = printed(a, repetition)
        assert code == 0, text
        assert "0 slower, 0 faster" in text
        assert "no regression beyond 5.0 %" in text


def test_a_planted_ten_percent_slowdown_of_one_case_is_called_and_nothing_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    slow = noisy(rng, 20, 5, between=0.01)
    slow[3] *= 1.1
    a, b = stored(tmp_path / "a", noisy(rng, 20, 5, between=0.01)), stored(tmp_path / "b", slow)
    assert called(compare_runs(load_run(a), load_run(b))) == {"Op3": "slower"}
    code, text = printed(a, b)
    assert code == 1
    assert "1 regression beyond 5.0 % or failed: ops-Op3-kornia" in text
    assert printed(a, b, threshold=0.15)[0] == 0, "called, yet within what may be lost"
    assert called(compare_runs(load_run(b), load_run(a))) == {"Op3": "faster"}
    assert printed(b, a)[0] == 0


def test_a_slowdown_of_all_cases_shows_even_where_noise_hides_each() -> None:
    """Three rounds with 6 % noise: hardly a case can be told alone, their mean in each round can."""
    rng = np.random.default_rng(3)
    result = compare_runs(sampled(noisy(rng, 60, 3, between=0.06)), sampled(1.1 * noisy(rng, 60, 3, between=0.06), "B"))
    assert called(result)["all"] == "slower"
    assert len(called(result)) < 7, "one in ten of the cases; those are slower indeed"
    assert result.has_regression


# ---- how often it is wrong, and what it sees ---------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [3, 6])
def test_nothing_is_called_where_nothing_changed_at_the_stated_level(rounds: int) -> None:
    """60 comparisons of 30 cases with unequal noise. At a level of 5 % more than 9 are called once in 1,000 times."""
    rng = np.random.default_rng(rounds)
    pairs = ([sampled(noisy(rng, 30, rounds, between=0.03, calls=4), name) for name in "AB"] for _ in range(60))
    assert sum(bool(called(compare_runs(*pair))) for pair in pairs) <= stats.binom.ppf(0.999, 60, 0.05) == 9


def test_disturbed_rounds_make_no_verdict() -> None:
    """Every tenth round is 1.4 times as slow, as by a neighbour: the normal noise that the t test assumes is not needed."""
    rng = np.random.default_rng(5)
    alarms = 0
    for _ in range(60):
        samples = [noisy(rng, 30, 3, between=0.02, calls=4) * np.where(rng.random((30, 3, 1)) < 0.1, 1.4, 1.0) for _ in "AB"]
        alarms += bool(called(compare_runs(sampled(samples[0]), sampled(samples[1], "B"))))
    assert alarms <= stats.binom.ppf(0.999, 60, 0.05)


@pytest.mark.parametrize(("between", "rounds"), [(0.01, 3), (0.02, 6)])
def test_ten_percent_is_seen_where_rounds_are_quiet_or_many(between: float, rounds: int) -> None:
    """A planted slowdown of one among 30 cases, 40 times: at least 80 % seen, less 2.5 standard errors of such a share."""
    rng = np.random.default_rng(11)
    seen = 0
    for _ in range(40):
        slow = noisy(rng, 30, rounds, between=between)
        slow[0] *= 1.1
        result = compare_runs(sampled(noisy(rng, 30, rounds, between=between)), sampled(slow, "B"))
        seen += called(result).get("Op0") == "slower"
    assert seen / 40 > 0.8 - 2.5 * math.sqrt(0.8 * 0.2 / 40)


def test_intervals_of_three_rounds_cover_as_often_as_they_say() -> None:
    """95 % of 1,200 true ratios of 0.9, within 3 standard errors; a bare percentile bootstrap covers far fewer."""
    rng, covered = np.random.default_rng(13), 0
    for _ in range(20):
        a, b = noisy(rng, 60, 3, between=0.03), noisy(rng, 60, 3, between=0.03) / 0.9
        result = compare_runs(sampled(a), sampled(b, "B"))
        covered += sum(row.low <= math.log(0.9) <= row.high for row in result.speeds)
    assert covered / 1200 > 0.95 - 3 * math.sqrt(0.95 * 0.05 / 1200)


def test_too_few_or_too_noisy_rounds_are_said_to_be() -> None:
    rng = np.random.default_rng(17)
    slow = noisy(rng, 30, 3, between=0.09)
    slow[0] *= 1.1
    result = compare_runs(sampled(noisy(rng, 30, 3, between=0.09)), sampled(slow, "B"))
    assert {row.verdict for row in result.speeds} == {"unclear"}
    assert any("with 3 rounds, unclear is no all-clear" in line for line in summary(result))
    two = compare_runs(sampled(noisy(rng, 30, 2, between=0.0)), sampled(2 * noisy(rng, 30, 2, between=0.0), "B"))
    assert {(row.verdict, row.high) for row in two.speeds} == {("unclear", math.inf)}
    assert two.overall is None
    assert any("measure at least 3" in line for line in summary(two))
    assert "n < 3, none" in text_of(two)


# ---- training ---------------------------------------------------------------------------------------------------------


def test_of_what_should_be_small_more_is_worse() -> None:
    """The trainer's overhead, as a ratio to a bare loop."""
    a, b = (
        run([trained("overhead", round=n, step_over_bare=base + n / 1000) for n in range(5)], name)
        for name, base in (("A", 1.0), ("B", 1.2))
    )
    row = compare_runs(a, b).speeds[0]
    assert row.verdict == "slower"
    assert row.ratio == pytest.approx(1 / 1.2, rel=0.01)


def test_trainings_of_one_name_with_other_settings_are_not_compared() -> None:
    """A name has no learning rate."""
    fillers = [throughput(np.random.default_rng(seed))[:1] for seed in (3, 4)]
    a, b = (
        run([trained("throughput", round=n, learning_rate=rate) for n in range(3)] + more, name)
        for name, rate, more in zip("AB", (0.1, 0.2), fillers, strict=True)
    )
    left_out = compare_runs(a, b).left_out["with other settings (learning_rate 0.1 -> 0.2)"]
    assert [name.split("-resnet8")[0] for name in left_out] == ["throughput-flip-kornia-device"]


def test_a_planted_loss_of_a_point_is_called_as_seeds_are_paired() -> None:
    """Seeds differ by 2 points among themselves, so unpaired means of five could not tell one point."""
    rng = np.random.default_rng(5)
    a, b = run(seeds(rng)), run(seeds(rng, lost=0.01), "B")
    result = compare_runs(a, b)
    assert called(result) == {"accuracy-flip-kornia-device": "worse"}
    assert "beyond 5.0 % or 0.5 points or failed: accuracy-flip" in text_of(result)
    assert not compare_runs(a, b, limits=Limits(accuracy_threshold=0.02)).has_regression, "called, yet within what may be lost"
    assert called(compare_runs(b, a)) == {"accuracy-flip-kornia-device": "better"}
    calm = [run(seeds(np.random.default_rng(seed), spread=0.0), str(seed)) for seed in (7, 8)]
    assert {row.verdict for row in compare_runs(*calm).scores} == {"same"}


def test_only_shared_seeds_count_and_two_are_too_few() -> None:
    rng = np.random.default_rng(9)
    a = [record for record in seeds(rng) if record.seed < 3]
    b = [record for record in seeds(rng, lost=0.2) if record.seed > 0]
    assert {(row.n, row.verdict) for row in compare_runs(run(a), run(b, "B")).scores} == {((2, 2), "unclear")}
    apart = compare_runs(run(a + throughput(rng)), run([r for r in b if r.seed > 2] + throughput(rng), "B"))
    assert len(apart.left_out["with no seed in common"]) == 2


# ---- what is refused, and what is left out ------------------------------------------------------------------------------

OTHERS: dict[str, dict[str, Any]] = {
    "GPU 0 name": {"gpus": (change(HERE.gpus[0], name="H200"),)},
    "GPU 0 driver": {"gpus": (change(HERE.gpus[0], driver="580.2"),)},
    "GPU 1 name": {"gpus": HERE.gpus * 2},
    "CPU model": {"cpu": change(HERE.cpu, model="Xeon")},
    "CPU threads": {"cpu": change(HERE.cpu, threads=8)},
    "torch 2.11.0 -> 2.12.0": {"packages": HERE.packages | {"torch": "2.12.0"}},
    "python": {"python": "3.12.1"},
    "dataset fingerprint": {"dataset": DataSet(name="cifar10", fingerprint="other")},
    "variable OMP_NUM_THREADS none -> 1": {"variables": {"OMP_NUM_THREADS": "1"}},
    "dataset name": {"dataset": None},
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_machines_versions_and_data_are_refused_unless_asked_for(what: str) -> None:
    a, b = run(speeds(case(0), GOOD)), run(speeds(case(0), GOOD), "B", **OTHERS[what])
    with pytest.raises(ValueError, match="--across-machines") as error:
        compare_runs(a, b)
    assert what in str(error.value)
    result = compare_runs(a, b, across_machines=True)
    assert any(what in difference for difference in result.differences)
    assert what in text_of(result).partition("the runs differ")[2]


def test_what_one_compares_is_not_refused() -> None:
    """Another commit or version of augmark, temperature, what ran of fused: noted or passed over."""
    packages = HERE.packages | {"augmark": "0.3.0"}
    gpus, commit = (change(HERE.gpus[0], temperature_c=70.0),), Commit(id="b" * 40, dirty=True)
    fused = [speeds(change(case(0), backend="fused"), GOOD, implementation=name) for name in ("c", "tensors")]
    result = compare_runs(run(fused[0]), run(fused[1], "B", packages=packages, gpus=gpus, commit=commit))
    notes = ["augmark 0.2.0 -> 0.3.0", "commit aaaaaaaaaaaa -> bbbbbbbbbbbb with changes", "fused runs as c -> tensors"]
    assert result.notes == notes


def test_an_unknown_environment_is_refused() -> None:
    with pytest.raises(ValueError, match="B does not say on which machine it was measured"):
        compare_runs(run(speeds(case(0), GOOD)), replace(run(speeds(case(0), GOOD), "B"), environment=None))


def test_cases_that_failed_or_are_in_one_run_only() -> None:
    reason = "out of memory [red]"
    unsupported = change(case(6), status="unsupported", reason="no such op")
    good = {n: speeds(case(n), GOOD) for n in range(8)}
    a = run([*good[0], *good[1], failed(case(2), reason), failed(case(3), reason), *good[4], *good[6], *good[7]])
    b = run([*good[0], failed(case(1), reason), *good[2], failed(case(3), reason), *good[5]], "B", plan=[unsupported, case(7)])
    result = compare_runs(a, b)
    assert [row.name for row in result.speeds] == [case(0).name]
    assert result.newly_failed == [(case(1).name, reason)]
    assert result.has_regression, "a case that no longer runs is no slower one, but no CI job should pass over it"
    assert {cause: [name.split("-")[1] for name in names] for cause, names in result.left_out.items()} == {
        "failed in A, measured in B": ["Op2"],
        "failed in both": ["Op3"],
        "measured in A, not planned in B": ["Op4"],
        "measured in A, unsupported in B": ["Op6"],
        "measured in A, not run in B": ["Op7"],
        "not planned in A, measured in B": ["Op5"],
    }
    assert reason in text_of(result), "names and reasons are no markup"
    assert result.lost == 3
    assert "3 cases that A measured could not be compared" in " ".join(summary(result))


def test_disturbed_rounds_are_left_out_and_disturbed_cases_not_compared() -> None:
    """Three quiet rounds are enough; others that took half of the CPUs made the fourth three times as slow."""
    busy = Disturbance(others_cpu=0.5)
    slow = [change(record, round=3 + n, disturbance=busy) for n, record in enumerate(speeds(case(0), [[0.03]] * 2))]
    result = compare_runs(run(speeds(case(0), GOOD)), run([*speeds(case(0), GOOD), *slow], "B"))
    assert [(row.n, row.ratio) for row in result.speeds] == [((3, 3), 1.0)]
    apart = [*speeds(case(1), GOOD[:2]), *(change(record, subject="Op1") for record in slow)]
    result = compare_runs(run(speeds(case(0), GOOD) + speeds(case(1), GOOD)), run([*speeds(case(0), GOOD), *apart], "B"))
    cause = "as B was disturbed (others used 50% of the CPU)"
    assert result.left_out == {cause: [case(1).name]}
    assert f"not compared, 1 case {cause}: ops-Op1" in text_of(result)
    with pytest.raises(ValueError, match=r"not comparable: B was disturbed \(others used 50% of the CPU\): measure again"):
        compare_runs(
            run(speeds(case(0), GOOD)), run([change(record, disturbance=busy) for record in speeds(case(0), GOOD)], "B")
        )


def test_a_certificate_allows_for_what_differs_between_processes() -> None:
    """A difference of 3 % is called without, not with one of 2 % between processes; a certificate is no case of its own."""
    certificate = trained("calibration", between_sd=0.02, processes=12)
    steady = [[0.01 * (1 + 0.001 * n)] for n in range(6)]
    a, b = speeds(case(0), steady), speeds(case(0), [[1.03 * calls[0]] for calls in steady])
    assert called(compare_runs(run(a), run(b, "B"))) == {"Op0": "slower"}
    result = compare_runs(run([*a, certificate]), run(b, "B"))
    assert called(result) == {}
    assert (len(result.speeds), result.left_out) == (1, {})


def test_nothing_in_common_and_bad_options_are_one_line() -> None:
    a, b = run(speeds(case(0), GOOD)), run(speeds(case(1), GOOD), "B")
    with pytest.raises(ValueError, match="no measured case in common"):
        compare_runs(a, b)
    for threshold in (0.0, 1.0, 10.0, math.nan):
        with pytest.raises(ValueError, match="--threshold"):
            Limits(threshold=threshold).check()
    with pytest.raises(ValueError, match="--accuracy-threshold"):
        Limits(accuracy_threshold=math.nan).check()
    with pytest.raises(ValueError, match="--level"):
        Limits(level=0.0).check()


def test_worst_comes_first_on_one_line_a_case(tmp_path: Path) -> None:
    rng = np.random.default_rng(43)
    slower = noisy(rng, 3, 3, between=0.01) * np.array([1.0, 1.5, 1.2])[:, None, None]
    _, text = printed(stored(tmp_path / "a", noisy(rng, 3, 3, between=0.01)), stored(tmp_path / "b", slower))
    ops = [line.split("ops-")[1].split("-")[0] for line in text.splitlines() if "  ops-" in line]
    assert ops == ["Op1", "Op2", "Op0"]
