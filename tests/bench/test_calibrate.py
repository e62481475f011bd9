"""The certificate: shares and the smallest slowdown by hand, equal runs and slowdowns of drawn rounds, real processes."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console

from bench.jobs import calibrate
from bench.jobs.calibrate import ADDED, SLOTS, CalibrateOptions, planned_cases, smallest_called, summarise
from bench.records import Calibration, Planted, Speed, load_run
from bench.statistics import pooled_sds, share_interval
from tests.bench.stored import store, trained

CASE = Calibration(status="not_run", processes=12, seconds=18.0, level=0.05)


def drawn(seed: int, *, within: float, between: float, processes: int = 12, rounds: int = 12) -> list[list[list[Speed]]]:
    """Draw records by process and slot: lognormal rounds, and an effect of each process on each case."""
    rng, cases = np.random.default_rng(seed), planned_cases("cpu")
    results = []
    for _ in range(processes):
        effects = between * rng.standard_normal(len(cases))
        results.append([
            [
                msgspec.structs.replace(
                    case, status="ok", round=number,
                    images_per_s=float(1000 / (1 + added) * np.exp(effect + within * rng.standard_normal())),
                )
                for case, effect in zip(cases, effects, strict=True)
                for number in range(rounds)
            ]
            for added in SLOTS
        ])  # fmt: skip
    return results


def planted(*called: int) -> list[Planted]:
    return [Planted(added=added, called=count, comparisons=20) for added, count in zip(ADDED, called, strict=True)]


@pytest.mark.parametrize(
    ("called", "limit"),
    [((0, 0, 18), None), ((20, 20, 20), 0.02), ((0, 19, 20), 0.05), ((0, 18, 20), 0.075), ((20, 18, 20), 0.075)],
)
def test_the_smallest_slowdown_that_is_called_by_hand(called: tuple[int, ...], limit: float | None) -> None:
    """95 % of 20 are 19; between 18 and 20 of 20 they lie half way."""
    assert smallest_called(planted(*called)) == (None if limit is None else pytest.approx(limit))


def test_binomial_intervals_by_the_rule_of_their_tails() -> None:
    """The upper end of none in n is 1 - 0.025^(1/n)."""
    assert list(share_interval(0, 72)) == pytest.approx([0.0, 1 - 0.025 ** (1 / 72)])
    assert list(share_interval(72, 72)) == pytest.approx([0.025 ** (1 / 72), 1.0])
    assert share_interval(0, 0) == (0.0, 1.0)


def test_standard_deviations_are_those_that_were_drawn() -> None:
    within, between = pooled_sds([process[0] for process in drawn(1, within=0.03, between=0.02, processes=200)])
    assert within == pytest.approx(0.03, rel=0.05)
    assert between == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(("within", "between"), [(0.02, 0.0), (0.01, 0.01), (0.04, 0.02)])
def test_equal_runs_are_not_called_even_where_processes_differ(within: float, between: float) -> None:
    """At most at the level, 5 % for the six cases of a comparison together: 0.8 % of a case."""
    results = [summarise(CASE, drawn(seed, within=within, between=between)) for seed in range(4)]
    comparisons = sum(record.comparisons or 0 for record in results)
    assert comparisons == 4 * 72
    assert share_interval(sum(record.false_calls for record in results), comparisons)[0] <= 0.05 / 6


def test_a_steady_machine_is_certified_by_what_was_planted() -> None:
    steady = summarise(CASE, drawn(2, within=0.01, between=0.0))
    assert (steady.status, [p.called for p in steady.planted[1:]]) == ("ok", [72, 72])
    assert steady.called_from is not None
    assert steady.called_from <= 0.05


@pytest.mark.parametrize(("within", "between"), [(0.18, 0.1), (0.3, 0.0), (0.05, 0.1)])
def test_slowdowns_of_the_extrapolated_size_are_called(within: float, between: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """95 % of them, within what the spread of 12 processes tells of itself: 22 % of a standard deviation (2 df = 22)."""
    noisy = [summarise(CASE, drawn(seed, within=within, between=between)) for seed in range(4)]
    assert all(record.status == "ok" and (record.called_from or 0) > ADDED[-1] for record in noisy)
    size = float(np.median([record.called_from for record in noisy]))
    for name in ("ADDED", "SLOTS"):
        monkeypatch.setattr(calibrate, name, (*(0.0,) * (2 if name == "SLOTS" else 0), size))
    monkeypatch.setitem(drawn.__globals__, "SLOTS", (0.0, 0.0, size))
    called = [summarise(CASE, drawn(seed, within=within, between=between)).planted[0] for seed in range(10, 14)]
    share = sum(row.called for row in called) / sum(row.comparisons for row in called)
    assert share >= 0.9


def test_work_is_added_for_real_and_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes with small batches; images a call are those of the case whatever was added."""
    seen: list[tuple[int | None, int | None]] = []
    monkeypatch.setattr(calibrate, "SUBJECTS", (("flip", "torchvision_loop", 20),))
    task = calibrate.Task(data="synthetic", data_root=tmp_path, device="cpu", seconds=0.01, seed=0)
    from bench.jobs.speed import Bench

    measure = Bench.measure

    def spy(bench: Bench, case: Speed, sampler: object) -> Speed:
        seen.append((case.batch_size, case.round))
        return measure(bench, case, sampler)  # type: ignore[arg-type]

    monkeypatch.setattr(Bench, "measure", spy)
    slots = calibrate.measure_process(task)
    assert {size for size, _ in seen} == {20, 21, 22}
    for slot, records in enumerate(slots):
        assert {record.batch_size for record in records} == {20}
        added = round(20 * (1 + SLOTS[slot]))
        for record in records:
            calls_per_s = len(record.samples_us) / (sum(record.samples_us) / 1e6)
            assert record.images_per_s == pytest.approx(20 * calls_per_s, rel=1e-3), added  # stored to four digits


@pytest.mark.slow
def test_the_command_adds_a_certificate_to_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "START_S", 0.0)
    options = CalibrateOptions(data="synthetic", data_root=tmp_path, device="cpu", minutes=0.02, results=tmp_path / "run")
    folder = calibrate.calibrate(options, Console(quiet=True), lambda folder: None)
    (record,) = load_run(folder).records
    assert isinstance(record, Calibration)
    assert record.status in ("ok", "failed")
    assert (record.processes, len(record.planted)) == (4, 3)
    assert record.disturbance is not None


def test_the_report_says_what_is_called(tmp_path: Path) -> None:
    from bench.report import write_report

    certificate = msgspec.structs.replace(
        trained("calibration"), planted=tuple(planted(4, 19, 20)), within_sd=0.02, processes=12, seconds=18.0, level=0.05
    )
    page = write_report(load_run(store(tmp_path / "run", {}, records=[certificate])))
    text = (page.parent / "report.md").read_text()
    assert "Which differences can be told here? **From 4.0 % on.**" in text
    assert "| 5 % | 19 of 20 | 95.0 % | 75.1 % to 99.9 % |" in text
    assert "extrapolated" not in text
    beyond = msgspec.structs.replace(certificate, planted=tuple(planted(0, 0, 2)), called_from=0.4)
    text = (write_report(load_run(store(tmp_path / "far", {}, records=[beyond]))).parent / "report.md").read_text()
    assert "extrapolated from the spread of rounds and processes: of slowdowns of 10 % 2 of 20 were called." in text
