"""Two installations in turns: real processes, what they store, and a comparison of the pairs by hand."""

import io
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from scipy.stats import ttest_1samp

from bench.compare import compare_runs
from bench.jobs.job import ImageOptions
from bench.jobs.turns import FEWEST_ROUNDS, ROOT, TURNS, Pair, Session, Side, Slot, TurnsOptions, find_side, turns
from bench.records import Disturbance, Plan, Record, Run, Speed, load_run
from tests.bench.stored import ENVIRONMENT

CASE = Speed(status="not_run", suite="recipes", subject="flip", backend="torchvision_loop", batch_size=20, image_size=32)


def in_turns(rates: list[list[float]], name: str, shared: str = "x") -> Run:
    """Return a run of one case with these rates by pair and round."""
    records: list[Record] = [
        msgspec.structs.replace(CASE, status="ok", pair=pair, round=10 * pair + number, images_per_s=rate, samples_us=(1.0,))
        for pair, group in enumerate(rates)
        for number, rate in enumerate(group)
    ]
    return Run(path=Path(name), name=name, plan=Plan(suite=TURNS, settings={TURNS: shared}), records=records)


def test_a_pair_of_processes_is_one_observation() -> None:
    """SciPy's t test of the six medians of log ratios; an outlier in each pair moves nothing, nor does what drifts."""
    ratios = [1.06, 1.04, 1.07, 1.05, 1.03, 1.08]
    drift = [100.0, 300.0, 80.0, 500.0, 20.0, 1000.0]
    a = in_turns([[hour, hour, hour] for hour in drift], "A")
    b = in_turns([[hour * ratio, hour * ratio, hour / 50] for hour, ratio in zip(drift, ratios, strict=True)], "B")
    (change,) = compare_runs(a, b, across_machines=True).speeds
    logs = [math.log(ratio) for ratio in ratios]
    assert change.effect == pytest.approx(statistics.fmean(logs))
    assert change.p == pytest.approx(ttest_1samp(logs, 0.0).pvalue)
    assert (change.low, change.high) == pytest.approx(ttest_1samp(logs, 0.0).confidence_interval(0.95))
    assert (change.verdict, change.n) == ("faster", (6, 6))


def test_fewer_than_six_pairs_or_runs_of_two_sessions_are_no_pairs() -> None:
    rates = [[100.0 + pair, 101.0] for pair in range(5)]
    (change,) = compare_runs(in_turns(rates, "A"), in_turns(rates, "B"), across_machines=True).speeds
    assert (change.verdict, change.high) == ("unclear", math.inf)
    (change,) = compare_runs(in_turns(rates, "A"), in_turns(rates, "B", shared="y"), across_machines=True).speeds
    assert change.n == (10, 10), "rounds"


def test_an_installation_is_a_folder_or_an_interpreter(tmp_path: Path) -> None:
    assert find_side(ROOT) == Side()
    assert find_side(Path(sys.executable)) == Side(python=Path(sys.executable).absolute())
    (tmp_path / "text").write_text("no interpreter")
    for path in (tmp_path, tmp_path / "text", tmp_path / "nothing"):
        with pytest.raises(ValueError, match="neither a folder with the project's code nor a Python interpreter"):
            find_side(path)


def measure_pair(root: Path, side: Side, slots: Sequence[Slot]) -> Pair:
    session = Session(sides=[side], slots=slots, cases=[CASE], device="cpu", pairs=1, seconds=0.1)
    return next(session.measure(ImageOptions(data="synthetic", data_root=root), Console(quiet=True)))


def test_a_side_that_cannot_measure_is_told_in_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__init__.py").touch()
    with pytest.raises(ChildProcessError, match=r"cannot measure: .*No module named"):
        measure_pair(tmp_path, Side(code=tmp_path), [Slot(side=0)])


@pytest.mark.slow
def test_both_sides_are_runs_that_can_be_compared_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pairs of real processes; at a threshold of 99 % noise is no regression."""
    monkeypatch.setattr(Disturbance, "is_strong", False)  # whatever else runs on the machine
    monkeypatch.setattr("bench.jobs.turns.FEWEST_PAIRS", 2)
    options = TurnsOptions(
        data="synthetic", data_root=tmp_path, minutes=0.01, batch_size=4, backends=("torchvision_loop",), recipes=("flip",),
        out=tmp_path, threshold=0.99,
    )  # fmt: skip
    assert turns(ROOT, Path(sys.executable), options, Console(quiet=True)) == 0
    a, b = (load_run(tmp_path / name) for name in "ab")
    assert (a.problems, b.problems) == ([], [])
    assert a.plan is not None
    assert a.plan == b.plan
    for run in (a, b):
        records = run.of(Speed)
        assert {record.pair for record in records} == {0, 1}
        assert len(records) == a.plan.rounds >= 2 * FEWEST_ROUNDS


def test_ctrl_c_compares_the_pairs_that_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (in_turns([[100.0, 110.0]], name).of(Speed) for name in "AB")

    def interrupt(session: Session, *_: object) -> Iterator[Pair]:
        yield Pair(environments=[ENVIRONMENT, ENVIRONMENT], slots=[a, b])
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "measure", interrupt)
    options = TurnsOptions(
        data="synthetic", data_root=tmp_path, backends=("torchvision_loop",), recipes=("flip",), out=tmp_path
    )
    console = Console(record=True, width=200, file=io.StringIO())
    with pytest.raises(KeyboardInterrupt):
        turns(ROOT, ROOT, options, console)
    assert "unclear" in console.export_text()
    assert [load_run(tmp_path / name).records for name in "ab"] == [a, b]


@pytest.mark.slow
def test_work_is_added_for_real_and_does_not_count(tmp_path: Path) -> None:
    """Images a call are those of the case whatever was added; ten times as many take longer."""
    slots = [Slot(side=0), Slot(side=0, added=9.0)]
    pair = measure_pair(tmp_path, Side(), slots)
    medians = []
    for records in pair.slots:
        assert {record.batch_size for record in records} == {20}
        for record in records:
            calls_per_s = len(record.samples_us) / (sum(record.samples_us) / 1e6)
            assert record.images_per_s == pytest.approx(20 * calls_per_s, rel=1e-3)  # stored to four digits
        medians.append(statistics.median(record.images_per_s or 0 for record in records))
    assert medians[1] < medians[0]
