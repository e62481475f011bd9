"""Several runs as one: what was measured alike is joined, all else stands apart and under the name of its place."""

import re
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from bench.records import Commit, DataSet, Gpu, Run, load_run, load_runs, merge, merged_folder, read_merged
from bench.report.facts.state import image_sets
from tests.bench.stored import CASE, ENVIRONMENT, OTHER, SAMPLES, VERDICT, audited, store, trained
from tests.conftest import present

RATES = [500.0, 1000 / 3]  # by hand: 100 images a call; 2 in 0.4 s, 3 in 0.9 s


def merged(tmp_path: Path, *folders: Path) -> Run:
    return read_merged(folders, tmp_path / "merged")


# ---- the same machine and code ----------------------------------------------------------------------------------------


def test_rounds_of_equal_runs_follow_each_other(tmp_path: Path) -> None:
    more = [[0.25], [0.4, 0.1]]
    run = merged(tmp_path, store(tmp_path / "a"), store(tmp_path / "b", {CASE: more}, time="2026-11-25T10:00:00+00:00"))
    (case,) = run.cases()
    assert case.first.device == "cpu", "a single group keeps the names of its devices"
    assert case.values("images_per_s") == pytest.approx([*RATES, 400.0, 400.0], rel=1e-5)  # 6 digits are kept
    assert case.samples_s == pytest.approx([call for calls in [*SAMPLES, *more] for call in calls])
    assert [(record.round, record.run) for record in case.records] == [(0, "a"), (1, "a"), (2, "b"), (3, "b")]
    assert present(run.environment).time == "2026-11-24T10:00:00+00:00 to 2026-11-25T10:00:00+00:00"
    sources = [(source.run.name, source.group, source.place) for source in run.sources]
    assert (sources, run.problems) == ([("a", 0, None), ("b", 0, None)], [])


def test_a_failure_of_one_run_is_told_beside_the_others_number(tmp_path: Path) -> None:
    a = store(tmp_path / "a", {CASE: SAMPLES, OTHER: "out of memory"})
    b = store(tmp_path / "b", {CASE: "process died", OTHER: "out of memory"})
    run = merged(tmp_path, a, b)
    assert {case.first.backend: case.status for case in run.cases()} == {"kornia": "ok", "pil": "failed"}
    assert run.sources[1].notes == [f"1 record left out, as another run has the same: {CASE.name} (failed)"]


def test_rounds_are_counted_on_and_a_seed_trained_twice_counts_once(tmp_path: Path) -> None:
    rounds = [trained("throughput", round=n, examples_per_s=100.0 + n) for n in range(2)]
    seeds = [trained("accuracy", seed=seed, test_accuracy=0.5) for seed in (0, 1)]
    repeated = [trained("accuracy", seed=seed, test_accuracy=0.6) for seed in (1, 2)]
    a, b = store(tmp_path / "a", records=[*rounds, *seeds]), store(tmp_path / "b", records=[*rounds, *repeated])
    run = merged(tmp_path, a, b)
    assert [record.round for record in run.records if record.kind == "throughput"] == [0, 1, 2, 3]
    kept: list[Any] = [record for record in run.records if record.kind == "accuracy"]
    assert [(r.run, r.seed, r.test_accuracy) for r in kept] == [("a", 0, 0.5), ("a", 1, 0.5), ("b", 2, 0.6)]
    assert run.sources[1].notes == [f"1 record left out, as another run has the same: {repeated[0].name} (ok)"]


def test_one_run_alone_merges_to_its_own_numbers(tmp_path: Path) -> None:
    alone = load_run(store(tmp_path / "a", records=[trained("throughput")]))
    run = merge([alone], tmp_path)
    assert (run.records, run.path) == (alone.records, tmp_path)


# ---- other machines, versions and code --------------------------------------------------------------------------------

OTHERS: dict[str, dict[str, Any]] = {
    "host": {"machine": "there"},
    "processor": {"cpu": replace(ENVIRONMENT.cpu, model="Xeon")},
    "gpu": {"gpus": (Gpu(name="H100", driver="570.1"),)},
    "torch": {"packages": ENVIRONMENT.packages | {"torch": "2.12.0"}},
    "our version": {"packages": ENVIRONMENT.packages | {"augmark": "0.3.0"}},
    "commit": {"commit": Commit(id="b" * 40, dirty=False)},
    "uncommitted changes": {"commit": Commit(id="a" * 40, dirty=True)},
    "images": {"dataset": DataSet(name="cifar10", fingerprint="other")},
    "threads": {"variables": {"OMP_NUM_THREADS": "1"}},
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_differs_is_never_in_one_number(tmp_path: Path, what: str) -> None:
    records = [trained("throughput", devices=("cuda:0", "cuda:1"))]
    a, b = store(tmp_path / "a", records=records), store(tmp_path / "b", records=records, **OTHERS[what])
    run = merged(tmp_path, a, b)
    places = ("here", "there") if what == "host" else ("a", "b")
    speeds, trainings = run.cases("speed"), run.cases("throughput")
    assert [case.first.device for case in speeds] == [f"cpu of {place}" for place in places]
    assert [case.values("images_per_s") for case in speeds] == [pytest.approx(RATES, rel=1e-5)] * 2
    assert [case.planned is not None for case in (*speeds, *trainings)] == [True] * 4, "the plan names the same places"
    places_of = [(case.first.device, case.first.devices, case.first.run) for case in trainings]
    assert places_of == [(f"cpu of {x}", ("cuda:0", f"cuda:1 of {x}"), name) for x, name in zip(places, "ab", strict=True)]
    assert [source.place for source in run.sources] == list(places)


def test_runs_of_uncommitted_code_and_without_an_environment_stand_alone(tmp_path: Path) -> None:
    dirty = OTHERS["uncommitted changes"]
    a, b = store(tmp_path / "a", **dirty), store(tmp_path / "b", {CASE: [[0.7]]}, **dirty)
    assert [source.place for source in merged(tmp_path, a, b).sources] == ["a", "b"]
    (b / "environment.json").unlink()
    assert [source.place for source in merged(tmp_path, a, b).sources] == ["here", "b"]


def test_speeds_of_devices_keep_their_place_and_notes_their_run(tmp_path: Path) -> None:
    peaks: dict[str, Any] = {"copy_bytes_per_s": {"cpu": 2.0}, "matmul_flops_per_s": {"cpu": {"float32": 3.0}}, "note": "old"}
    run = merged(tmp_path, store(tmp_path / "a"), store(tmp_path / "b", machine="there", **peaks))
    there = run.environments["there"]
    assert (run.environment, there.note, there.copy_bytes_per_s) == (None, "old", {"cpu": 2.0})


# ---- audits and images ------------------------------------------------------------------------------------------------


def test_a_cell_that_one_audit_doubts_is_compared_in_none(tmp_path: Path) -> None:
    doubted = replace(VERDICT, verdict="different", cause="rounding")
    a = store(tmp_path / "a", audit=audited(VERDICT, findings=("one",)))
    b = store(tmp_path / "b", {CASE: [[0.7]]}, audit=audited(doubted, findings=("one", "two")))
    audit = present(merged(tmp_path, a, b).audit)
    assert [(cell.verdict, cell.cause) for cell in audit.verdicts] == [("different", "rounding (in b; runs disagree)")]
    assert (audit.findings, audit.n) == (("one", "two"), 5)


def test_a_group_without_an_audit_and_a_substitute_data_set_of_one_run_are_told(tmp_path: Path) -> None:
    shapes = DataSet(name="synthetic", fingerprint="s", fallback="no CIFAR-10 here")
    run = merged(tmp_path, store(tmp_path / "a", audit=audited(VERDICT)), store(tmp_path / "b", dataset=shapes))
    assert [part.audit is not None for part in run.parts] == [True, False]
    assert {images.name: images.fallback for images in image_sets(run)} == {"cifar10": None, "synthetic": "no CIFAR-10 here"}


# ---- bad input --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_a_line_and_the_rest_is_merged(tmp_path: Path) -> None:
    good, cut = store(tmp_path / "good"), store(tmp_path / "cut", {CASE: [[0.7], [0.9]]})
    (cut / "records.jsonl").write_text((cut / "records.jsonl").read_text()[:-20])
    (tmp_path / "empty").mkdir()
    run = merged(tmp_path, good, cut, tmp_path / "empty", tmp_path / "absent")
    assert run.cases()[0].samples_s == pytest.approx([call for calls in [*SAMPLES, [0.7]] for call in calls])
    words = ("empty holds no run", "absent is no run folder", "cut: records.jsonl, line 2 cannot be read")
    assert len(run.problems) == 3
    assert all(any(re.search(f"{text}[^\n]*$", line) for line in run.problems) for text in words), run.problems


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    a, b = store(tmp_path / "x" / "run"), store(tmp_path / "y" / "run", {CASE: [[0.7]]}, machine="there")
    run = merged(tmp_path, a, b)
    assert [part.name for part in run.parts] == ["run", "run-2"]
    assert run.problems == [f"two runs are called run: {b} is called run-2 here"]


def test_a_run_given_twice_or_copied_counts_once(tmp_path: Path) -> None:
    a, copy = store(tmp_path / "a"), store(tmp_path / "copy")
    runs, problems = load_runs([a, a, copy])
    assert [run.name for run in runs] == ["a"]
    assert problems == [f"{path} holds the same records as {a}: counted once" for path in (a, copy)]


def test_nothing_to_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run was given"):
        load_runs([])
    with pytest.raises(ValueError, match="is no run folder"):
        load_runs([tmp_path / "absent"])


def test_a_merged_report_never_overwrites_a_run(tmp_path: Path) -> None:
    a = store(tmp_path / "a")
    with pytest.raises(ValueError, match="holds a run of its own"):
        read_merged([a, store(tmp_path / "b")], a)
    first, second = (merged_folder(None, parent=tmp_path) for _ in range(2))
    assert second.name == f"{first.name}-2"
