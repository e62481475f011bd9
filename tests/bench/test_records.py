"""Run folders: nothing measured is lost, nothing planned vanishes, and what is broken is said and not raised."""

import csv
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.grid.cases import Case, PlannedCase
from bench.records.measurements import Measurement, done, join, running
from bench.records.runs import (
    CSV_COLUMNS,
    SCHEMA,
    Journal,
    finalise,
    load_events,
    load_plan,
    load_run,
    machine_name,
    plan_entry,
    run_folder,
    write_json,
)
from bench.report import write_report

CASE = Case(suite="ops", subject="Invert", backend="torchvision", device="cpu", batch_size=100, image_size=32, dtype="float32")
OTHER = replace(CASE, backend="kornia")
UNSUPPORTED = replace(CASE, backend="pil")
PLANNED = [
    PlannedCase(case=CASE, draws="per_batch", status="planned"),
    PlannedCase(case=OTHER, draws="per_image", status="planned"),
    PlannedCase(case=UNSUPPORTED, draws=None, status="unsupported", reason="no such op"),
]
ENTRIES = [plan_entry(planned) for planned in PLANNED]
SAMPLES = [[0.1, 0.3], [0.2, 0.2, 0.5], [0.25]]


def write_plan(folder: Path) -> None:
    write_json(folder / "plan.json", {"schema": SCHEMA, "seed": 1, "passes": 3, "case_seconds": 0.1, "cases": ENTRIES})


def events() -> list[dict[str, Any]]:
    known = {"threads": 2, "warmup_calls": 2, "warmup_s": 0.5, "peak_bytes": 1000}
    out = []
    for number, samples in enumerate(SAMPLES):
        out += [running(CASE, number), done(CASE, number, "ok", samples_s=samples, **(known if number == 0 else {}))]
    return out


def test_statistics_are_those_of_the_docstring() -> None:
    measurement = join(ENTRIES, events(), died=False)[0]
    # By hand: 200 images in 0.4 s, 300 in 0.9 s, 100 in 0.25 s; the median of 500, 333.3 and 400 is 400.
    assert measurement.images_per_s_passes == pytest.approx([500.0, 1000 / 3, 400.0])
    assert measurement.images_per_s == pytest.approx(400.0)
    calls = np.concatenate([np.array(samples) for samples in SAMPLES])
    assert measurement.wall_s_median == pytest.approx(np.median(calls))
    assert measurement.wall_s_mean == pytest.approx(calls.mean())
    assert measurement.wall_s_p10 == pytest.approx(np.quantile(calls, 0.1))
    assert measurement.wall_s_p90 == pytest.approx(np.quantile(calls, 0.9))
    assert (measurement.rounds, measurement.samples_s, measurement.threads) == (6, SAMPLES, 2)
    assert (measurement.status, measurement.draws, measurement.peak_bytes) == ("ok", "per_batch", 1000)


def test_the_whole_plan_is_there_whatever_became_of_it() -> None:
    failed = [running(CASE, 0), done(CASE, 0, "failed", reason="RuntimeError: no")]
    measurements = join(ENTRIES, failed, died=False)
    assert [(m.status, m.reason) for m in measurements] == [
        ("failed", "RuntimeError: no"),
        ("not_run", None),
        ("unsupported", "no such op"),
    ]


def test_a_case_that_fails_late_is_failed_and_keeps_what_it_had() -> None:
    late = [done(CASE, 0, "ok", samples_s=[0.1]), done(CASE, 1, "failed", reason="out of memory")]
    measurement = join(ENTRIES, late, died=False)[0]
    assert (measurement.status, measurement.reason, measurement.samples_s) == ("failed", "out of memory", [[0.1]])


def test_only_a_dead_process_makes_a_started_case_failed() -> None:
    assert join(ENTRIES, [running(CASE, 0)], died=False)[0].status == "not_run"
    dead = join(ENTRIES, [running(CASE, 0)], died=True)[0]
    assert (dead.status, dead.reason) == ("failed", "process died")


def test_a_finished_run_reads_back_as_it_was_joined(tmp_path: Path) -> None:
    write_plan(tmp_path)
    write_json(tmp_path / "environment.json", {"schema": SCHEMA, "machine": "here"})
    journal = Journal(tmp_path)
    journal.append(running(CASE, 0))
    measurements = join(ENTRIES, events(), died=False)
    finalise(tmp_path, measurements)
    assert not (tmp_path / "ops.jsonl").exists()
    run = load_run(tmp_path)
    assert run.measurements == measurements
    assert (run.problems, run.name, run.environment["machine"]) == ([], tmp_path.name, "here")


def test_a_killed_run_reads_back_from_its_journal(tmp_path: Path) -> None:
    write_plan(tmp_path)
    journal = Journal(tmp_path)
    for event in [*events(), running(OTHER, 0)]:
        journal.append(event)  # never closed, as in a process that was killed
    measured, dead, unsupported = load_run(tmp_path).measurements
    assert measured == join(ENTRIES, events(), died=False)[0]
    assert (dead.status, dead.reason) == ("failed", "process died")
    assert unsupported.status == "unsupported"


def test_a_cut_off_line_costs_only_itself(tmp_path: Path) -> None:
    write_plan(tmp_path)
    journal = Journal(tmp_path)
    journal.append(events()[1])
    with (tmp_path / "ops.jsonl").open("a") as file:
        file.write('{"event": "done", "id": "ops-Inv')
    Journal(tmp_path).append(done(CASE, 1, "ok", samples_s=[0.5]))  # what a resumed run adds stands on its own line
    run = load_run(tmp_path)
    assert run.measurements[0].samples_s == [SAMPLES[0], [0.5]]
    assert run.problems == ["ops.jsonl, line 2 is cut off or foreign and was left out"]


def test_a_resumed_run_joins_what_was_stored_with_what_is_new(tmp_path: Path) -> None:
    write_plan(tmp_path)
    finalise(tmp_path, join(ENTRIES, events()[:2], died=False))
    known = load_events(tmp_path)
    assert [(event["id"], event["pass"]) for event in known] == [(CASE.id, 0)]
    Journal(tmp_path).append(done(CASE, 1, "ok", samples_s=SAMPLES[1]))
    measurement = load_run(tmp_path).measurements[0]
    assert measurement.samples_s == SAMPLES[:2]
    assert measurement.threads == 2
    assert load_plan(tmp_path)["passes"] == 3


def test_the_case_on_which_a_process_died_is_not_tried_again(tmp_path: Path) -> None:
    Journal(tmp_path).append(running(CASE, 1))
    last = load_events(tmp_path)[-1]
    assert (last["event"], last["status"], last["reason"], last["pass"]) == ("done", "failed", "process died", 1)


@pytest.mark.parametrize(
    "content", ["", "{", "[1, 2]", '"text"', '{"cases": 3, "measurements": {}}', "\x00\xff", "[" * 100_000]
)
@pytest.mark.parametrize("name", ["plan.json", "ops.json", "environment.json"])
def test_foreign_files_become_problems(tmp_path: Path, name: str, content: str) -> None:
    write_plan(tmp_path)
    finalise(tmp_path, join(ENTRIES, events(), died=False))
    (tmp_path / name).write_text(content, encoding="latin-1")
    run = load_run(tmp_path)
    if not content.startswith('{"'):
        assert len(run.problems) == 1
        assert run.problems[0].startswith(name)
    if name != "ops.json":
        assert [m.status for m in run.measurements] == ["ok", "not_run", "unsupported"]


def test_nan_and_missing_fields_are_none_and_foreign_rows_are_left_out(tmp_path: Path) -> None:
    good = {"case": asdict(CASE), "status": "ok", "images_per_s": float("nan"), "samples_s": [[0.1, None]], "unknown": 1}
    rows = [good, {"case": {"suite": "ops"}, "status": "ok"}, 7, {**good, "status": "splendid"}]
    (tmp_path / "ops.json").write_text(json.dumps({"schema": SCHEMA, "measurements": rows}))
    run = load_run(tmp_path)
    assert len(run.measurements) == 1
    measurement = run.measurements[0]
    assert (measurement.images_per_s, measurement.rounds, measurement.samples_s) == (None, 0, [[0.1]])
    assert [p.split(" cannot")[0] for p in run.problems] == [f"ops.json, measurement {i}" for i in (1, 2, 3)]


def test_a_newer_schema_is_said_and_read_as_far_as_it_goes(tmp_path: Path) -> None:
    row = {"case": asdict(CASE), "status": "ok", "images_per_s": 5.0}
    (tmp_path / "ops.json").write_text(json.dumps({"schema": SCHEMA + 1, "measurements": [row]}))
    run = load_run(tmp_path)
    assert run.measurements[0].images_per_s == 5.0
    assert "newer" in run.problems[0]


def test_training_lines_are_read_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "training.jsonl").write_text('{"kind": "accuracy"}\n\nnot json\n{"kind": "throughput"}\n')
    run = load_run(tmp_path)
    assert [row["kind"] for row in run.training] == ["accuracy", "throughput"]
    assert len(run.problems) == 1


def test_a_training_record_with_a_list_for_a_word_is_left_out(tmp_path: Path) -> None:
    """Nothing can tell such records apart; the lists that belong there, such as devices, stay."""
    rows: list[dict[str, Any]] = [{"seed": [1]}, {"recipe": {"a": 1}}, {"seed": 1, "devices": ["cpu"]}]
    lines = [json.dumps({"kind": "accuracy", **row}) for row in rows]
    (tmp_path / "training.jsonl").write_text("\n".join([*lines, "[" * 100_000]))
    run = load_run(tmp_path)
    assert run.training == [{"kind": "accuracy", "seed": 1, "devices": ["cpu"]}]
    assert [problem[:45] for problem in run.problems[1:]] == [
        "training.jsonl, a record whose seed is [1] wa",
        "training.jsonl, a record whose recipe is {'a'",
    ]
    write_report(run)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no run"):
        load_run(tmp_path)
    with pytest.raises(ValueError, match="is no run folder"):
        load_run(tmp_path / "absent")
    with pytest.raises(ValueError, match="cannot be resumed"):
        load_plan(tmp_path)


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "ops.json"
    write_json(path, {"value": 1.0, "bad": float("inf")})
    with pytest.raises(TypeError):
        write_json(path, {"value": object()})
    assert json.loads(path.read_text()) == {"value": 1.0, "bad": None}


def test_the_csv_has_one_line_a_planned_case_and_fixed_columns(tmp_path: Path) -> None:
    finalise(tmp_path, join(ENTRIES, events(), died=False))
    with (tmp_path / "measurements.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [row["status"] for row in rows] == ["ok", "not_run", "unsupported"]
    assert float(rows[0]["images_per_s"]) == pytest.approx(400.0)
    assert float(rows[0]["images_per_s_max"]) == pytest.approx(500.0)
    assert rows[0]["passes"] == "3"
    assert rows[1]["images_per_s"] == ""


def test_folders_are_named_by_date_machine_and_device_and_never_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUGMARK_MACHINE", "My Box (2)")
    assert machine_name() == "my-box-2"
    first, second = (run_folder(None, "cuda:0", parent=tmp_path) for _ in range(2))
    assert first.name.endswith("-my-box-2-cuda0")
    assert second.name == first.name + "-2"
    write_plan(first)
    with pytest.raises(ValueError, match="already holds a run: add --resume"):
        run_folder(first, "cpu")
    assert run_folder(tmp_path / "new" / "one", "cpu").is_dir()


@pytest.mark.skipif(not Path("/dev/full").exists() or not hasattr(os, "symlink"), reason="needs Linux's full device")
def test_a_full_disk_is_noticed_at_once(tmp_path: Path) -> None:
    (tmp_path / "ops.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        Journal(tmp_path).append(running(CASE, 0))


def test_measurements_are_plain_json() -> None:
    assert json.loads(json.dumps(asdict(Measurement(case=CASE, status="ok"))))["case"]["subject"] == "Invert"
