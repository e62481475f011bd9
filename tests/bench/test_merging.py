"""Several runs in one report: what was measured alike is joined, all else stands apart and under the name of its place."""

import contextlib
import json
import random
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.comparison.compare import compare_runs
from bench.grid.cases import PlannedCase
from bench.records.export import export
from bench.records.machines import code_facts
from bench.records.measurements import Measurement, done, join, numbers, pooled
from bench.records.merging import load_runs, merge, read_merged
from bench.records.runs import SCHEMA, Run, load_run, merged_folder, plan_entry
from bench.report import write_report
from bench.report.context import Context
from bench.report.lanes import lane_tables, named_differences
from bench.report.merged import runs_section
from tests.bench.stored import CASE, ENVIRONMENT, OTHER, SAMPLES, VERDICT, audited, store, trained


def merged(tmp_path: Path, *folders: Path) -> Run:
    return read_merged(folders, tmp_path / "merged")


def markdown(run: Run) -> str:
    return (write_report(run).parent / "report.md").read_text(encoding="utf-8")


# ---- the same machine and code ----------------------------------------------------------------------------------------


def test_passes_of_equal_runs_follow_each_other(tmp_path: Path) -> None:
    more = [[0.25], [0.4, 0.1]]
    run = merged(tmp_path, store(tmp_path / "a"), store(tmp_path / "b", {CASE: more}, time="2026-11-25T10:00:00+00:00"))
    assert len(run.measurements) == 1
    one = run.measurements[0]
    assert one.case == CASE, "a single group keeps the names of its devices"
    # By hand: 100 images a call; 2 in 0.4 s, 3 in 0.9 s, 1 in 0.25 s, 2 in 0.5 s.
    rates = [500.0, 1000 / 3, 400.0, 400.0]
    assert one.images_per_s_passes == pytest.approx(rates)
    assert one.images_per_s == pytest.approx(statistics.median(rates))
    calls = np.concatenate([np.array(passes) for passes in [*SAMPLES, *more]])
    assert (one.wall_s_median, one.wall_s_p90) == pytest.approx((np.median(calls), np.quantile(calls, 0.9)))
    assert one.rounds == len(calls)
    assert run.environment["time"] == "2026-11-24T10:00:00+00:00 to 2026-11-25T10:00:00+00:00"
    assert [(part.name, part.group, part.place, part.measured) for part in run.parts] == [("a", 0, None, 1), ("b", 0, None, 1)]
    assert run.problems == []


def test_a_pooled_case_is_what_the_joined_journals_would_have_given() -> None:
    """The second way to the same: all passes as events of one run."""
    entry = plan_entry(PlannedCase(case=CASE, draws="per_image", status="planned"))
    known = {"threads": 2, "peak_bytes": 10, "device_s_median": 0.2}
    both = [[done(CASE, n, "ok", samples_s=calls, **known) for n, calls in enumerate(SAMPLES)] for _ in range(2)]
    parts = [join([entry], events, died=False)[0] for events in both]
    renumbered = [event | {"pass": event["pass"] + len(SAMPLES)} for event in both[1]]
    assert pooled(parts) == join([entry], both[0] + renumbered, died=False)[0]


def test_rates_are_pooled_where_samples_were_not_kept() -> None:
    bare = [Measurement(case=CASE, status="ok", images_per_s_passes=rates) for rates in ([100.0, 110.0], [150.0])]
    assert pooled(bare).images_per_s == 110.0


def test_a_failure_of_one_run_is_told_beside_the_others_number(tmp_path: Path) -> None:
    a = store(tmp_path / "a", {CASE: SAMPLES, OTHER: "out of memory"})
    b = store(tmp_path / "b", {CASE: "process died", OTHER: "out of memory"})
    run = merged(tmp_path, a, b)
    assert {m.case.backend: m.status for m in run.measurements} == {"kornia": "ok", "pil": "failed"}
    assert run.parts[1].notes == [f"1 case failed there that another run measured: {CASE.id}"]


def test_rounds_are_counted_on_and_a_seed_trained_twice_counts_once(tmp_path: Path) -> None:
    rounds = [trained("throughput", round=n, examples_per_s=100.0 + n) for n in range(2)]
    seeds = [trained("accuracy", seed=seed, test_accuracy=0.5, num_epochs=1) for seed in (0, 1)]
    other = [trained("accuracy", seed=seed, test_accuracy=0.6, num_epochs=1) for seed in (1, 2)]
    a, b = store(tmp_path / "a", training=[*rounds, *seeds]), store(tmp_path / "b", training=[*rounds, *other])
    run = merged(tmp_path, a, b)
    assert [r["round"] for r in run.training if r["kind"] == "throughput"] == [0, 1, 2, 3]
    kept = [(r["run"], r["seed"], r["test_accuracy"]) for r in run.training if r["kind"] == "accuracy"]
    assert kept == [("a", 0, 0.5), ("a", 1, 0.5), ("b", 2, 0.6)]
    assert run.parts[1].notes == ["1 training with the seeds of a counted once: a seed trained twice is no second one"]
    assert run.parts[1].notes[0] in markdown(run).replace("\\", "")


# ---- other machines, versions and code --------------------------------------------------------------------------------

OTHERS: dict[str, dict[str, Any]] = {
    "host": {"machine": "there"},
    "processor": {"cpu": {**ENVIRONMENT["cpu"], "model": "Xeon"}},
    "gpu": {"gpus": [{"name": "H100", "driver": "570.1"}]},
    "torch": {"packages": {**ENVIRONMENT["packages"], "torch": "2.12.0"}},
    "our version": {"packages": {**ENVIRONMENT["packages"], "augmark": "0.2.0"}},
    "commit": {"commit": {"id": "b" * 40, "dirty": False}},
    "uncommitted changes": {"commit": {"id": "a" * 40, "dirty": True}},
    "images": {"dataset": {"name": "cifar10", "fingerprint": "other", "fallback": None}},
    "threads": {"variables": {"OMP_NUM_THREADS": "1"}},
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_differs_is_never_in_one_number_or_one_table(tmp_path: Path, what: str) -> None:
    training = [trained("throughput", round=0)]
    a, b = store(tmp_path / "a", training=training), store(tmp_path / "b", training=training, **OTHERS[what])
    run = merged(tmp_path, a, b)
    places = ("here", "there") if what == "host" else ("a", "b")
    assert [one.case.device for one in run.measurements] == [f"cpu of {place}" for place in places]
    assert [one.images_per_s_passes for one in run.measurements] == [pytest.approx([500.0, 1000 / 3])] * 2
    assert [table.device for table in lane_tables(run.measurements, "recipes")] == [f"cpu of {place}" for place in places]
    assert [(r["device"], r["devices"], r["run"]) for r in run.training] == [
        (f"cpu of {place}", [f"cpu of {place}"], name) for place, name in zip(places, "ab", strict=True)
    ]
    assert [part.place for part in run.parts] == list(places)
    assert {entry["id"] for entry in run.plan["cases"]} == {one.case.id for one in run.measurements}


def test_two_runs_of_uncommitted_code_are_not_taken_for_the_same(tmp_path: Path) -> None:
    dirty: dict[str, Any] = {"commit": {"id": "a" * 40, "dirty": True}}
    run = merged(tmp_path, store(tmp_path / "a", **dirty), store(tmp_path / "b", {CASE: [[0.7]]}, **dirty))
    assert [part.place for part in run.parts] == ["a", "b"]


def test_the_report_tells_the_runs_and_what_sets_them_apart(tmp_path: Path) -> None:
    a, b = store(tmp_path / "a<b>"), store(tmp_path / "b", {CASE: [[0.7]]}, **OTHERS["torch"])
    text = markdown(merged(tmp_path, a, b))
    assert "The 2 runs in this report" in text
    assert "torch 2.11.0" in text
    assert "torch 2.12.0" in text
    assert "<b>" not in text.replace("`a<b>`", ""), "a name is no markup outside of code"
    assert "cpu of b" in text


# ---- audits -----------------------------------------------------------------------------------------------------------


def test_a_cell_that_one_audit_doubts_is_compared_in_none(tmp_path: Path) -> None:
    doubted = {**VERDICT, "verdict": "different", "cause": "rounding"}
    a = store(tmp_path / "a", audit=audited(VERDICT, findings=["one"]))
    b = store(tmp_path / "b", {CASE: [[0.7]]}, audit=audited(doubted, findings=["one", "two"]))
    run = merged(tmp_path, a, b)
    assert [(one["verdict"], one["cause"]) for one in run.audit["verdicts"]] == [
        ("different", "rounding (in b; runs disagree)")
    ]
    assert run.audit["findings"] == ["one", "two"]
    assert named_differences(run) == {("crop_flip", "kornia"): "crop_flip: different, rounding (in b; runs disagree)"}


def test_a_group_without_an_audit_is_told(tmp_path: Path) -> None:
    a, b = store(tmp_path / "a", audit=audited(VERDICT)), store(tmp_path / "b", **OTHERS["torch"])
    run = merged(tmp_path, a, b)
    assert [part.audited for part in run.parts] == [True, False]
    assert "not audited, so that the verdicts below are those of other code or machines: b" in markdown(run)


def test_a_substitute_data_set_of_one_run_is_still_warned_of(tmp_path: Path) -> None:
    shapes = {"name": "synthetic", "fingerprint": "s", "fallback": "no CIFAR-10 here"}
    run = merged(tmp_path, store(tmp_path / "a"), store(tmp_path / "b", dataset=shapes))
    assert run.environment["dataset"] == {"name": "cifar10, synthetic", "fingerprint": "abc, s", "fallback": "no CIFAR-10 here"}


# ---- bad input --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_a_line_and_the_rest_is_merged(tmp_path: Path) -> None:
    good = store(tmp_path / "good")
    cut = store(tmp_path / "cut", {CASE: [[0.7]]})
    (cut / "ops.json").write_text((cut / "ops.json").read_text()[:200])
    newer = store(tmp_path / "newer", {CASE: [[0.9]]})
    (newer / "ops.json").write_text(json.dumps({**json.loads((newer / "ops.json").read_text()), "schema": SCHEMA + 1}))
    (tmp_path / "empty").mkdir()
    run = merged(tmp_path, good, cut, newer, tmp_path / "empty", tmp_path / "absent")
    assert run.measurements[0].samples_s == [*SAMPLES, [0.9]]
    told = " | ".join(run.problems)
    assert len(run.problems) == 4, told
    for words in (
        "empty holds no run",
        "absent is no run folder",
        "cut: ops.json cannot be read",
        "newer: ops.json was written",
    ):
        assert words in told
    assert all("\n" not in problem for problem in run.problems)


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    a, b = store(tmp_path / "x" / "run"), store(tmp_path / "y" / "run", {CASE: [[0.7]]}, machine="there")
    run = merged(tmp_path, a, b)
    assert [part.name for part in run.parts] == ["run", "run-2"]
    assert run.problems == [f"two runs are called run: {b} is called run-2 here"]


def test_a_run_given_twice_or_copied_counts_once(tmp_path: Path) -> None:
    a, copy = store(tmp_path / "a"), store(tmp_path / "copy")
    runs, problems = load_runs([a, a, copy])
    assert [run.name for run in runs] == ["a"]
    assert problems == [
        f"{a} holds the same records as {a}: counted once",
        f"{copy} holds the same records as {a}: counted once",
    ]


def test_nothing_to_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run was given"):
        load_runs([])
    with pytest.raises(ValueError, match="is no run folder"):
        load_runs([tmp_path / "absent"])


def test_a_run_without_an_environment_stands_alone(tmp_path: Path) -> None:
    a, b = store(tmp_path / "a"), store(tmp_path / "b", {CASE: [[0.7]]})
    (b / "environment.json").unlink()
    run = merged(tmp_path, a, b)
    assert [part.place for part in run.parts] == ["here", "b"]
    assert code_facts({})["machine"] == "None"


def test_a_merged_report_never_overwrites_a_run(tmp_path: Path) -> None:
    a = store(tmp_path / "a")
    with pytest.raises(ValueError, match="holds a run of its own"):
        read_merged([a, store(tmp_path / "b")], a)
    first, second = (merged_folder(None, parent=tmp_path) for _ in range(2))
    assert second.name == f"{first.name}-2"


def test_one_run_alone_merges_to_its_own_numbers(tmp_path: Path) -> None:
    a = store(tmp_path / "a", training=[trained("throughput", round=0)])
    alone = load_run(a)
    run = merge([alone], tmp_path)
    assert run.measurements == alone.measurements
    assert run.training == [{**alone.training[0], "run": "a"}]


def test_numbers_are_read_alike_on_both_ways() -> None:
    """The quick way of long lists of plain numbers, and the careful one of all else."""
    assert numbers([1, 2.5]) == [1.0, 2.5]
    assert numbers([1, float("nan"), None, "3", True, float("inf"), 2.5]) == [1.0, 2.5]
    assert numbers([1e308, 1e308]) == [1e308, 1e308], "a sum that overflows says nothing of its parts"
    assert numbers([10**400, 1.0]) == [1.0]
    assert numbers("12") == []


ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    1.5,
    float("nan"),
    float("inf"),
    10**400,
    "",
    "<b>x</b>",
    [],
    [1],
    {},
    {"a": 1},
    [[None]],
)


def places(value: Any, keys: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The keys to everything within a JSON value."""
    inside = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    return [place for key, one in inside for place in [(*keys, key), *places(one, (*keys, key))]]


def damage(data: Any, rng: random.Random) -> Any:
    """Something odd, or nothing, in any place."""
    place = rng.choice(places(data))
    owner = data
    for key in place[:-1]:
        owner = owner[key]
    if isinstance(owner, dict) and rng.random() < 0.3:
        del owner[place[-1]]
    else:
        owner[place[-1]] = rng.choice(ODD)
    return data


@pytest.mark.parametrize("seed", range(25))
def test_whatever_stands_in_a_record_nothing_falls_over(tmp_path: Path, seed: int) -> None:
    """Merging, comparing and exporting: a ValueError of one line at most, and the good run is there all the same."""
    rng = random.Random(seed)
    records = [trained("throughput", round=0), trained("accuracy", seed=0, test_accuracy=0.5, test_images=10)]
    good = store(tmp_path / "good", {CASE: SAMPLES, OTHER: "no room"}, training=records, audit=audited(VERDICT))
    odd = store(tmp_path / "odd", {CASE: [[0.7]], OTHER: [[0.5]]}, training=records, audit=audited(VERDICT), machine="there")
    for name in ("plan.json", "ops.json", "environment.json", "audit.json"):
        (odd / name).write_text(json.dumps(damage(json.loads((odd / name).read_text()), rng)))
    lines = [json.dumps(damage(json.loads(line), rng)) for line in (odd / "training.jsonl").read_text().splitlines()]
    (odd / "training.jsonl").write_text("\n".join(lines))
    run = merged(tmp_path, good, odd)
    here = [one for one in run.measurements if one.case.device == "cpu of here"]
    assert here[0].images_per_s_passes == pytest.approx([500.0, 1000 / 3])
    assert all("\n" not in problem for problem in run.problems)
    for format in ("csv", "json", "bencher"):
        assert export(run, format, None)
    assert runs_section(Context.of(run))
    with contextlib.suppress(ValueError):  # nothing in common, perhaps
        compare_runs(load_run(good), load_run(odd), across_machines=True)
