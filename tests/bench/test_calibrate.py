"""The certificate: shares and the smallest slowdown by hand, equal runs and slowdowns of drawn rounds, real processes."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console

from bench.jobs import calibrate
from bench.jobs.calibrate import ADDED, METHODS, SLOTS, CalibrateOptions, planned_cases, smallest_called, summarise
from bench.jobs.turns import Pair, Slot
from bench.records import Calibration, Disturbance, Method, Planted, load_run
from bench.statistics import process_spreads, share_interval
from tests.bench.stored import store, trained

CASE = Calibration(status="not_run", processes=24, seconds=15.0, level=0.05)


def drawn(seed: int, *, within: float, between: float, drift: float = 0.0, pairs: int = 12, rounds: int = 12) -> list[Pair]:
    """Draw records of pairs: lognormal rounds, an effect of each process on each case, and one of its hour on the pair's."""
    rng, cases = np.random.default_rng(seed), planned_cases("cpu")
    results = []
    for pair in range(pairs):
        hour = drift * rng.standard_normal(len(cases))
        effects = between * rng.standard_normal((2, len(cases)))
        slots = [
            [
                msgspec.structs.replace(
                    case, status="ok", round=pair * rounds + number, pair=pair,
                    images_per_s=float(1000 / (1 + slot.added) * np.exp(effect + within * rng.standard_normal())),
                )
                for case, effect in zip(cases, hour + effects[slot.side], strict=True)
                for number in range(rounds)
            ]
            for slot in calibrate.SLOTS
        ]  # fmt: skip
        results.append(Pair(environments=[], slots=slots))
    return results


def certify(method: Method, pairs: list[Pair]) -> Calibration:
    return summarise(msgspec.structs.replace(CASE, method=method), pairs)


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
    spreads = process_spreads([pair.slots[0] for pair in drawn(1, within=0.03, between=0.02, pairs=120)])
    within, between = np.median(spreads, axis=0)
    assert within == pytest.approx(0.03, rel=0.05)
    assert between == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("within", "between", "drift"), [(0.02, 0.0, 0.0), (0.01, 0.01, 0.1), (0.2, 0.02, 0.02)])
def test_equal_runs_of_unequal_processes_are_not_called(method: Method, within: float, between: float, drift: float) -> None:
    """At most at the level, 5 % for the six cases of a comparison together: 0.8 % of a case."""
    results = [certify(method, drawn(seed, within=within, between=between, drift=drift)) for seed in range(5)]
    comparisons = sum(record.comparisons or 0 for record in results)
    assert comparisons == 5 * 6 * (2 if method == "turns" else 12)
    assert share_interval(sum(record.false_calls for record in results), comparisons)[0] <= 0.05 / 6


def test_what_drifts_cancels_in_turns_alone() -> None:
    """Between pairs the cases differ by 10 %, within a pair by 1 %: slowdowns of 5 % show in turns."""
    pairs = drawn(2, within=0.01, between=0.005, drift=0.1)
    turns, apart = (certify(method, pairs) for method in METHODS)
    assert (turns.status, [p.called for p in turns.planted[1:]]) == ("ok", [12, 12])
    assert turns.called_from is not None
    assert turns.called_from <= 0.05
    assert sum(p.called for p in apart.planted) <= 4
    assert apart.between_sd == pytest.approx(0.1, rel=0.8)
    assert apart.within_sd == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("within", "between"), [(0.3, 0.1), (0.05, 0.1)])
def test_slowdowns_as_extrapolated_are_called(
    method: Method, within: float, between: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """95 % of them, within what the spread of 12 pairs tells of itself: 22 % of a standard deviation (2 df = 22)."""
    noisy = [certify(method, drawn(seed, within=within, between=between)) for seed in range(4)]
    assert all(record.status == "ok" and (record.called_from or 0) > ADDED[-1] for record in noisy)
    size = float(np.median([size for record in noisy for size in record.reaches.values()]))
    monkeypatch.setattr(calibrate, "ADDED", (size,))
    monkeypatch.setattr(calibrate, "SLOTS", (*SLOTS[:2], Slot(side=1, added=size)))
    called = [certify(method, drawn(seed, within=within, between=between)).planted[0] for seed in range(10, 15)]
    assert sum(row.called for row in called) / sum(row.comparisons for row in called) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("is_busy", [False, True])
def test_the_command_adds_both_certificates_to_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_busy: bool) -> None:
    """On a busy machine it ends with the first pair of processes; three pairs are too few to call anything."""
    monkeypatch.setattr(Disturbance, "is_strong", is_busy)
    monkeypatch.setattr(calibrate, "FEWEST_PAIRS", 3)
    monkeypatch.setattr(calibrate, "SUBJECTS", (("flip", "torchvision_loop", 20),))
    options = CalibrateOptions(data="synthetic", data_root=tmp_path, device="cpu", minutes=0.02, results=tmp_path / "run")
    folder = calibrate.calibrate(options, Console(quiet=True), lambda folder: None)
    records = load_run(folder).records
    assert [record.method for record in records if isinstance(record, Calibration)] == ["turns", "apart"]
    for record in records:
        assert isinstance(record, Calibration)
        assert record.status == "failed" if is_busy else record.status in ("ok", "failed")
        assert (record.processes, len(record.planted)) == (6, 0 if is_busy else 3)
        assert record.disturbance is not None


def test_the_report_says_what_is_called(tmp_path: Path) -> None:
    from bench.report import write_report

    certificate = msgspec.structs.replace(
        trained("calibration"),
        planted=tuple(planted(4, 19, 20)),
        within_sd=0.02,
        processes=12,
        seconds=18.0,
        level=0.05,
        reaches={"flip": 0.037},
    )
    page = write_report(load_run(store(tmp_path / "run", {}, records=[certificate])))
    text = (page.parent / "report.md").read_text()
    limits = "from 3.7 % (the steadiest case) or 4.0 % (all) on"
    assert f"Which differences can be told here? **Measured at different times, {limits}.**" in text
    assert "| measured at different times | 5 % | 19 of 20 | 95.0 % | 75.1 % to 99.9 % |" in text
    assert "| flip | 3.7 % |" in text
    assert "extrapolated" not in text
    both = [certificate, msgspec.structs.replace(certificate, device="cuda")]
    text = (write_report(load_run(store(tmp_path / "both", {}, records=both))).parent / "report.md").read_text()
    assert [f"measured at different times on {device} | 5 %" in text for device in ("cpu", "cuda")] == [True, True]
    beyond = msgspec.structs.replace(certificate, planted=tuple(planted(0, 0, 2)), called_from=0.4)
    text = (write_report(load_run(store(tmp_path / "far", {}, records=[beyond]))).parent / "report.md").read_text()
    assert "extrapolated from the spread: of slowdowns of 10 % 2 of 20 were called." in text
