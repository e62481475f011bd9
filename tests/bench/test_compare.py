"""Comparing two runs: what is called a change, how often wrongly, what is refused, and what a CI job sees."""

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from rich.console import Console
from scipy import stats

from bench.comparison.compare import compare, compare_runs
from bench.comparison.contrast import Noise, Passes, contrast, holm, noise_of, read_passes, typical_noise
from bench.comparison.verdicts import print_comparison, summary
from bench.grid.cases import Case, PlannedCase
from bench.records.measurements import Measurement
from bench.records.runs import SCHEMA, Run, finalise, load_run, plan_entry, write_json

CASE = Case(suite="ops", subject="Invert", backend="kornia", device="cpu", batch_size=100, image_size=32, dtype="float32")
ENVIRONMENT: dict[str, Any] = {
    "schema": SCHEMA,
    "machine": "here",
    "platform": "Linux-6.1",
    "cpu": {"model": "EPYC", "cores": 2, "threads": 2, "load_1min": 0.3},
    "gpus": [{"name": "H100", "driver": "570.1", "temperature_c": 40}],
    "cuda": "12.8",
    "python": "3.11.2",
    "packages": {"torch": "2.11.0", "augmark": "0.1.0"},
    "variables": {},
    "commit": {"id": "a" * 40, "dirty": False},
    "dataset": {"name": "cifar10", "fingerprint": "abc"},
}
Samples = npt.NDArray[np.float64]  # [cases, passes, calls], seconds


def measured(number: int, samples: list[list[float]]) -> Measurement:
    return Measurement(case=replace(CASE, subject=f"Op{number}"), status="ok", draws="per_image", samples_s=samples)


def run(measurements: list[Measurement], *, name: str = "A", **environment: Any) -> Run:
    return Run(
        path=Path(name),
        name=name,
        environment={**ENVIRONMENT, **environment},
        measurements=measurements,
        training=[],
        problems=[],
    )


def sampled(samples: Samples, name: str = "A") -> Run:
    return run([measured(number, case.tolist()) for number, case in enumerate(samples)], name=name)


def noisy(
    rng: np.random.Generator, cases: int, passes: int, *, between: float, within: float = 0.05, calls: int = 12
) -> Samples:
    """Calls of 10 ms with lognormal noise: of each call, and of each pass, whose spread differs from case to case."""
    spread = between * np.exp(0.4 * np.random.default_rng(7).standard_normal((cases, 1, 1)))  # the same in both runs
    pass_effect = spread * rng.standard_normal((cases, passes, 1))
    return np.asarray(0.01 * np.exp(pass_effect + within * rng.standard_normal((cases, passes, calls))))


def store(folder: Path, samples: Samples, environment: Mapping[str, Any] = ENVIRONMENT) -> Path:
    """A run folder as augmark writes it."""
    folder.mkdir()
    measurements = [measured(number, case.tolist()) for number, case in enumerate(samples)]
    entries = [plan_entry(PlannedCase(case=m.case, draws=m.draws, status="planned")) for m in measurements]
    write_json(folder / "plan.json", {"schema": SCHEMA, "seed": 1, "passes": 3, "case_seconds": 0.1, "cases": entries})
    write_json(folder / "environment.json", environment)
    finalise(folder, measurements)
    return folder


def called(*runs: Run, **options: Any) -> dict[str, str]:
    """Verdicts by op, of the cases that are called faster or slower; all cases together under "all"."""
    result = compare_runs(*runs, **options)
    rows = [*result.rows, *([result.overall] if result.overall else [])]
    return {
        row.name.split("-")[-6] if "-" in row.name else "all": row.verdict
        for row in rows
        if row.verdict in ("slower", "faster")
    }


def printed(a: Path, b: Path, **options: Any) -> tuple[int, str]:
    out = StringIO()
    limits = {"threshold": 0.05, "accuracy_threshold": 0.005, "level": 0.05, "across_machines": False}
    code = compare(a, b, Console(file=out, width=80), **{**limits, **options})
    return code, out.getvalue()


# ---- stored samples, as a CI job compares them ------------------------------------------------------------------------


def test_a_run_against_itself_and_against_its_repetition_calls_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    a = store(tmp_path / "a", noisy(rng, 20, 5, between=0.01))
    again = store(tmp_path / "again", noisy(rng, 20, 5, between=0.01))
    for other in (a, again):
        code, text = printed(a, other)
        assert code == 0, text
        assert "0 slower, 0 faster" in text
        assert "no regression beyond 5.0 %" in text


def test_a_planted_ten_percent_slowdown_of_one_case_is_called_and_nothing_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    slow = noisy(rng, 20, 5, between=0.01)
    slow[3] *= 1.1
    a, b = store(tmp_path / "a", noisy(rng, 20, 5, between=0.01)), store(tmp_path / "b", slow)
    assert called(load_run(a), load_run(b)) == {"Op3": "slower"}
    code, text = printed(a, b)
    assert code == 1
    assert "1 regression beyond 5.0 % or failed: ops-Op3-kornia" in text
    assert printed(a, b, threshold=0.15)[0] == 0, "called, yet within what may be lost"
    assert called(load_run(b), load_run(a)) == {"Op3": "faster"}
    assert printed(b, a)[0] == 0


def test_a_slowdown_of_all_cases_shows_even_where_noise_hides_each(tmp_path: Path) -> None:
    """Three passes with 6 % noise: hardly a case can be told alone, their mean in each pass can."""
    rng = np.random.default_rng(3)
    a, b = sampled(noisy(rng, 60, 3, between=0.06)), sampled(1.1 * noisy(rng, 60, 3, between=0.06), "B")
    verdicts = called(a, b)
    assert verdicts["all"] == "slower"
    assert len(verdicts) < 7, "one in ten of the cases; those are slower indeed"
    assert compare_runs(a, b).regressed


# ---- how often it is wrong, and what it sees ---------------------------------------------------------------------------


@pytest.mark.parametrize("passes", [3, 6])
def test_nothing_is_called_where_nothing_changed_at_the_stated_level(passes: int) -> None:
    """60 comparisons of 30 cases with unequal noise. At a level of 5 % more than 9 are called once in 1,000 times."""
    rng = np.random.default_rng(passes)
    alarms = 0
    for _ in range(60):
        a, b = (sampled(noisy(rng, 30, passes, between=0.03, calls=4), name) for name in "AB")
        alarms += bool(called(a, b))
    assert alarms <= stats.binom.ppf(0.999, 60, 0.05) == 9


def test_disturbed_passes_make_no_verdict() -> None:
    """Every tenth pass is 1.4 times as slow, as by a neighbour: the normal noise that the t test assumes is not needed."""
    rng = np.random.default_rng(5)
    alarms = 0
    for _ in range(60):
        pair = []
        for name in "AB":
            samples = noisy(rng, 30, 3, between=0.02, calls=4)
            pair.append(sampled(samples * np.where(rng.random((30, 3, 1)) < 0.1, 1.4, 1.0), name))
        alarms += bool(called(*pair))
    assert alarms <= stats.binom.ppf(0.999, 60, 0.05)


@pytest.mark.parametrize(("between", "passes"), [(0.01, 3), (0.02, 6)])
def test_ten_percent_is_seen_where_passes_are_quiet_or_many(between: float, passes: int) -> None:
    """A planted slowdown of one among 30 cases, 40 times: at least 80 % seen, less 2.5 standard errors of such a share."""
    rng = np.random.default_rng(11)
    seen = 0
    for _ in range(40):
        slow = noisy(rng, 30, passes, between=between)
        slow[0] *= 1.1
        seen += called(sampled(noisy(rng, 30, passes, between=between)), sampled(slow, "B")).get("Op0") == "slower"
    assert seen / 40 > 0.8 - 2.5 * math.sqrt(0.8 * 0.2 / 40)


def test_intervals_of_three_passes_cover_as_often_as_they_say() -> None:
    """95 % of 1,200 true ratios of 0.9, within 3 standard errors; a bare percentile bootstrap covers far fewer."""
    rng = np.random.default_rng(13)
    covered = 0
    for _ in range(20):
        a, b = noisy(rng, 60, 3, between=0.03), noisy(rng, 60, 3, between=0.03) / 0.9
        covered += sum(row.low <= 0.9 <= row.high for row in compare_runs(sampled(a), sampled(b, "B")).rows)
    assert covered / 1200 > 0.95 - 3 * math.sqrt(0.95 * 0.05 / 1200)


def test_too_few_or_too_noisy_passes_are_said_to_be() -> None:
    rng = np.random.default_rng(17)
    slow = noisy(rng, 30, 3, between=0.09)
    slow[0] *= 1.1
    result = compare_runs(sampled(noisy(rng, 30, 3, between=0.09)), sampled(slow, "B"))
    assert {row.verdict for row in result.rows} == {"unclear"}
    assert any("with 3 passes, unclear is no all-clear" in line for line in summary(result))
    two = compare_runs(sampled(noisy(rng, 30, 2, between=0.0)), sampled(2 * noisy(rng, 30, 2, between=0.0), "B"))
    assert {row.verdict for row in two.rows} == {"unclear"}
    assert two.overall is None
    assert any("measure at least 3" in line for line in summary(two))


def test_quiet_passes_make_the_verdict_same() -> None:
    rng = np.random.default_rng(19)
    result = compare_runs(*(sampled(noisy(rng, 30, 6, between=0.005), name) for name in "AB"))
    assert {row.verdict for row in result.rows} == {"same"}


# ---- the statistics against others' -------------------------------------------------------------------------------------


def test_a_case_alone_is_welchs_t_test() -> None:
    """Nothing to borrow from: p and interval are scipy's on log rates (to rounding), where the bootstrap is no wider."""
    rng = np.random.default_rng(23)
    a, b = (Passes(rng.normal(5, sd, size=4), 0.0) for sd in (0.02, 0.05))
    none = Noise(0.0, 0.0)
    row = contrast("x", a, b, noise_of(a, none), noise_of(b, none), 0.05)
    oracle = stats.ttest_ind(b.logs, a.logs, equal_var=False)
    assert row.p == pytest.approx(oracle.pvalue, rel=1e-9)
    interval = oracle.confidence_interval(0.95)
    assert (math.log(row.low), math.log(row.high)) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert row.ratio == pytest.approx(math.exp(b.logs.mean() - a.logs.mean()))


def test_holm_by_hand() -> None:
    # Smallest first: 0.01 * 4, 0.02 * 3, max(that, 0.03 * 2), 0.5 * 1.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([]) == []


def test_typical_noise_finds_the_prior_that_variances_were_drawn_from() -> None:
    """Scaled inverse chi-square, 8 degrees of freedom, sd 3 %; 20,000 cases leave both known to about 5 %."""
    rng = np.random.default_rng(29)
    sd = 0.03 * np.sqrt(8 / rng.chisquare(8, size=20_000))
    typical = typical_noise([Passes(logs, 0.0) for logs in sd[:, None] * rng.standard_normal((20_000, 3))])
    assert typical.df == pytest.approx(8, rel=0.15)
    assert math.sqrt(typical.variance) == pytest.approx(0.03, rel=0.05)


def test_noise_is_never_below_what_the_case_itself_shows() -> None:
    logs = np.log([100.0, 101.0, 60.0])
    assert noise_of(Passes(logs, 0.0), Noise(1e-6, 30.0)).variance == pytest.approx(logs.var(ddof=1))
    calm = np.log([100.0, 100.0, 100.0])
    assert noise_of(Passes(calm, 0.04), Noise(1e-6, 30.0)).variance == 0.04, "of the calls within the passes"


def test_a_comparison_repeats_to_the_last_digit() -> None:
    rng = np.random.default_rng(31)
    pair = [sampled(noisy(rng, 12, 3, between=0.02), name) for name in "AB"]
    assert compare_runs(pair[0], pair[1]) == compare_runs(pair[0], pair[1])


# ---- what is refused, and what is left out ------------------------------------------------------------------------------

OTHERS: dict[str, dict[str, Any]] = {
    "GPU 0 name": {"gpus": [{"name": "H200", "driver": "570.1"}]},
    "GPU 0 driver": {"gpus": [{"name": "H100", "driver": "580.2"}]},
    "GPU 1 name": {"gpus": [ENVIRONMENT["gpus"][0]] * 2},
    "CPU model": {"cpu": {**ENVIRONMENT["cpu"], "model": "Xeon"}},
    "CPU threads": {"cpu": {**ENVIRONMENT["cpu"], "threads": 8}},
    "torch 2.11.0 -> 2.12.0": {"packages": {"torch": "2.12.0"}},
    "python": {"python": "3.12.1"},
    "dataset fingerprint": {"dataset": {"name": "cifar10", "fingerprint": "other"}},
    "variable OMP_NUM_THREADS none -> 1": {"variables": {"OMP_NUM_THREADS": "1"}},
    "dataset name": {"dataset": None},
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_machines_versions_and_data_are_refused_unless_asked_for(what: str) -> None:
    cases = [measured(0, [[0.01, 0.011]] * 3)]
    a, b = run(cases), run(cases, name="B", **OTHERS[what])
    with pytest.raises(ValueError, match="--across-machines") as error:
        compare_runs(a, b)
    assert what in str(error.value)
    result = compare_runs(a, b, across_machines=True)
    assert any(what in difference for difference in result.differences)
    out = StringIO()
    print_comparison(result, Console(file=out))
    assert "the runs differ" in out.getvalue()
    assert what in out.getvalue()


def test_what_one_compares_is_not_refused() -> None:
    """Another commit or version of augmark, load and temperature: noted or passed over."""
    cases = [measured(0, [[0.01, 0.011]] * 3)]
    packages = {"torch": "2.11.0", "augmark": "0.2.0"}
    gpus = [{**ENVIRONMENT["gpus"][0], "temperature_c": 70}]
    b = run(cases, name="B", packages=packages, gpus=gpus, commit={"id": "b" * 40, "dirty": True})
    result = compare_runs(run(cases), b)
    assert result.notes == ["augmark 0.1.0 -> 0.2.0", "commit aaaaaaaaaaaa -> bbbbbbbbbbbb with changes"]


def test_an_unknown_environment_is_refused() -> None:
    cases = [measured(0, [[0.01]] * 3)]
    with pytest.raises(ValueError, match="environment of B is not known"):
        compare_runs(run(cases), replace(run(cases, name="B"), environment={}))


def test_cases_that_failed_or_are_in_one_run_only() -> None:
    good = [[0.010, 0.011], [0.012, 0.010], [0.011, 0.011]]
    failed = [replace(measured(n, []), status="failed", reason="out of memory [red]") for n in range(4)]
    a = run([measured(0, good), measured(1, good), failed[2], failed[3], measured(4, good), measured(6, good)])
    unsupported = replace(measured(6, []), status="unsupported", reason="no such op")
    b = run([measured(0, good), failed[1], measured(2, good), failed[3], measured(5, good), unsupported], name="B")
    result = compare_runs(a, b)
    assert [row.name for row in result.rows] == [measured(0, good).case.id]
    assert result.newly_failed == [(failed[1].case.id, "out of memory [red]")]
    assert result.regressed, "a case that no longer runs is no slower one, but no CI job should pass over it"
    ids = {why: [case.split("-")[1] for case in cases] for why, cases in result.left_out.items()}
    assert ids == {
        "failed in A, measured in B": ["Op2"],
        "failed in both": ["Op3"],
        "measured in A, not planned in B": ["Op4"],
        "measured in A, unsupported in B": ["Op6"],
        "not planned in A, measured in B": ["Op5"],
    }
    out = StringIO()
    print_comparison(result, Console(file=out, width=40))
    assert "out of memory [red]" in out.getvalue(), "names and reasons are no markup"


def test_nan_zero_and_missing_samples(tmp_path: Path) -> None:
    a = store(tmp_path / "a", noisy(np.random.default_rng(37), 4, 3, between=0.01))
    b = store(tmp_path / "b", noisy(np.random.default_rng(41), 4, 3, between=0.01))
    data = json.loads((b / "ops.json").read_text())
    stored = data["measurements"]
    stored[0]["samples_s"] = [[math.nan, math.inf]] * 3
    stored[0]["images_per_s_passes"] = [math.nan]
    stored[1]["samples_s"][1][0] = math.nan  # one call of many: the pass is still known
    stored[2]["samples_s"][0] = [0.0]  # a clock that stood still: the pass is not
    (b / "ops.json").write_text(json.dumps(data))
    result = compare_runs(load_run(a), load_run(b))
    passes = {row.name.split("-")[1]: row.passes for row in result.rows}
    assert passes == {"Op1": (3, 3), "Op2": (3, 2), "Op3": (3, 3)}
    assert result.left_out == {"measured in A, no usable pass in B": [stored[0]["id"]]}
    assert all(math.isfinite(row.ratio) for row in result.rows)


def test_rates_speak_where_samples_were_not_kept() -> None:
    bare = replace(measured(0, []), images_per_s_passes=[100.0, 110.0, 120.0])
    assert np.exp(read_passes(bare).logs) == pytest.approx([100.0, 110.0, 120.0])
    # Samples win, so that the two never disagree: 100 images in 10 ms a call.
    both = replace(measured(0, [[0.01, 0.01]] * 2), images_per_s_passes=[1.0, 1.0])
    assert np.exp(read_passes(both).logs) == pytest.approx([10_000.0] * 2)


def test_nothing_in_common_and_bad_options_are_one_line() -> None:
    a, b = run([measured(0, [[0.01]] * 3)]), run([measured(1, [[0.01]] * 3)], name="B")
    with pytest.raises(ValueError, match="no measured case in common"):
        compare_runs(a, b)
    for threshold in (0.0, 1.0, 10.0, math.nan):
        with pytest.raises(ValueError, match="--threshold"):
            compare_runs(a, a, threshold=threshold)
    with pytest.raises(ValueError, match="--level"):
        compare_runs(a, a, level=0.0)


def test_worst_comes_first_on_one_line_a_case(tmp_path: Path) -> None:
    rng = np.random.default_rng(43)
    slower = noisy(rng, 3, 3, between=0.01) * np.array([1.0, 1.5, 1.2])[:, None, None]
    _, text = printed(store(tmp_path / "a", noisy(rng, 3, 3, between=0.01)), store(tmp_path / "b", slower))
    ops = [line.split("ops-")[1].split("-")[0] for line in text.splitlines() if "  ops-" in line]
    assert ops == ["Op1", "Op2", "Op0"]


def test_it_compares_without_torch() -> None:
    code = "import sys, bench.comparison.compare; sys.exit(', '.join({'torch', 'augment', 'training'} & set(sys.modules)) or 0)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_rows_are_plain_data() -> None:
    """For whoever writes them elsewhere: an interval that is not known is infinite, never a wrong number."""
    row = compare_runs(run([measured(0, [[0.01]])]), run([measured(0, [[0.02]])], name="B")).rows[0]
    assert asdict(row)["ratio"] == pytest.approx(0.5)
    assert (row.low, row.high, row.verdict) == (0.0, math.inf, "unclear")
